"""Schemas of types: whether the content of a resource fits its type.

Owns the check against the built-in types (`cld.types`), and the lookup and cache of `common.Schema`
resources. Must not read the tree (it is handed a lookup) and not change content: a check says yes, or what
does not fit and where. A type without a schema is free.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

import msgspec
from anyio.to_thread import run_sync

from cld.errors import InvalidResource, InvalidURI
from cld.json_schema import Check, Misfit, compile_schema, join
from cld.types import BUILT_IN, PLACEHOLDER, Prompt, Schema
from cld.uri import ROOT, URI, id_of, is_type, make_uri, parent_of, type_of

Lookup = Callable[[URI], Awaitable[tuple[str, Mapping[str, Any]] | None]]
"""Version and content of the resource, None where there is none."""


class Schemas:
    """The schemas in force: the built-in ones, and those that lie in the tree.

    A schema in the tree is looked up at every check, so a new one counts at once, and compiled
    once per version. It adds to a built-in schema and never takes away from it.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._compiled: dict[str, tuple[str, Check]] = {}

    async def check(self, type: str, content: Mapping[str, Any]) -> None:
        """Return when `content` fits all schemas of `type`.

        Raises:
            InvalidResource: naming the field and what was expected; also when the schema in the tree
                is itself unusable, for then nobody can tell what fits.
        """
        fitted = _fit(type, content)
        if isinstance(fitted, Schema):
            await _compiled(fitted)
        if (check := await self._custom(type)) is None:
            return
        # Beside the event loop, for a schema can be made to take any amount of time.
        if misfit := await run_sync(check, content, abandon_on_cancel=True):
            raise _invalid(type, misfit, f"see {schema_uri(type)}")

    async def _custom(self, type: str) -> Check | None:
        try:
            uri = schema_uri(type)
        except InvalidURI:
            return None  # so long a type that no schema of it can be stored
        if (found := await self._lookup(uri)) is None:
            self._compiled.pop(type, None)
            return None
        version, content = found
        known = self._compiled.get(type)
        if known is None or known[0] != version:
            try:
                schema = cast("Schema", _fit("common.Schema", content))
                known = version, await _compiled(schema)
            except InvalidResource as error:
                raise InvalidResource(
                    f"nothing of type {type} can be written, because {uri} is unusable: {error}; mend or delete it"
                ) from error
            self._compiled[type] = known
        return known[1]


def schema_uri(type: str) -> URI:
    """Where the schema of `type` lies: `cld:common.Schema.plan-Task` for `plan.Task`.

    Raises:
        InvalidURI: when `type` is no type, or too long to be an id.
    """
    if not is_type(type):  # before the dot is gone
        raise InvalidURI(f"{type[:200]!r} is no type; write <package>.<Name>")
    return make_uri(ROOT, "common.Schema", type.replace(".", "-"))


def schema_type(uri: URI) -> str | None:
    """The type that the resource at `uri` is the schema of; None when it is the schema of none."""
    type = id_of(uri).replace("-", ".")
    return type if type_of(uri) == "common.Schema" and parent_of(uri) == ROOT and is_type(type) else None


async def _compiled(schema: Schema) -> Check:
    return await run_sync(partial(compile_schema, schema.schema, where="content.schema"), abandon_on_cancel=True)


_AT = re.compile(r" - at `\$\.?([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")


def _fit(type: str, content: Mapping[str, Any]) -> msgspec.Struct | None:
    """`content` as the struct of its built-in type, None for other types; InvalidResource when it does not fit."""
    if (struct := BUILT_IN.get(type)) is None:
        return None
    try:
        fitted = msgspec.convert(content, struct)
    except msgspec.ValidationError as error:
        found = _AT.search(str(error))
        field, reason = (found[1] if found else ""), _AT.sub("", str(error))
        if lacking := _MISSING.match(reason):
            field, reason = join(field, lacking[1]), "is missing"
        elif extra := _UNKNOWN.match(reason):
            field, reason = join(field, extra[1]), "is no field of it"
        raise _invalid(type, Misfit(field, reason), f"{type} is {shape_of(struct)}") from None
    if isinstance(fitted, Prompt) and (misfit := _prompt_misfit(fitted)):
        raise _invalid(type, misfit, f"{type} is {shape_of(struct)}")
    return fitted


def _prompt_misfit(prompt: Prompt) -> Misfit | None:
    if bool(prompt.template) == bool(prompt.messages):
        return Misfit("messages", "exactly one of messages and template must be there")
    names = [argument.name for argument in prompt.arguments]
    for index, name in enumerate(names):
        if not PLACEHOLDER.fullmatch("{{" + name + "}}"):
            return Misfit(f"arguments[{index}].name", f"{name[:80]!r} is no name of letters, digits and _")
        if name in names[:index]:
            return Misfit(f"arguments[{index}].name", f"{name!r} is there twice")
    texts = [("template", prompt.template), *((f"messages[{i}].text", m.text) for i, m in enumerate(prompt.messages))]
    for field, text in texts:
        for found in PLACEHOLDER.finditer(text):
            if found[1] not in names:
                return Misfit(field, f"{found[0]} is not among arguments")
    return None


def shape_of(struct: type[msgspec.Struct]) -> str:
    """The shape of a built-in type in words, as in `{role: user|assistant, text: string, title?: string}`."""
    described = msgspec.json.schema(struct)
    definitions = described["$defs"]

    def words(part: Mapping[str, Any]) -> str:
        match part:
            case {"$ref": str(reference)}:
                return words(definitions[reference.rpartition("/")[2]])
            case {"enum": values}:
                return "|".join(values)
            case {"type": "array", "items": items}:
                return f"[{words(items)}]"
            case {"properties": properties}:
                required = part.get("required", ())
                fields = (f"{key}{'' if key in required else '?'}: {words(properties[key])}" for key in properties)
                return "{" + ", ".join(fields) + ("}" if "additionalProperties" in part else ", …}")
            case _:
                return str(part.get("type", "anything"))

    return words(described)


def _invalid(type: str, misfit: Misfit, hint: str) -> InvalidResource:
    return InvalidResource(f"{join('content', misfit.field)}: {misfit.reason}; {hint}")
