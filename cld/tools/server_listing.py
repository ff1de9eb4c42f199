"""Listing: the tools a server offers, as cld's. What it says is somebody else's text: bounded, checked, made visible.

Pure; checking schemas takes milliseconds a tool, so whoever must not wait calls it in a thread.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from cld.errors import InvalidResource
from cld.escape import safe, safe_line
from cld.json_schema import DIALECT, compile_schema
from cld.tools.names import here, plain
from cld.tools.server_results import shortened
from cld.tools.server_secrets import Secrets
from cld.types import Annotations, Server, Tool

if TYPE_CHECKING:
    import mcp_types

MAX_DESCRIPTION = 4000
MAX_TITLE = 200
MAX_TOOLS = 1000

_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,24}")

_OLDER = re.compile(r"https?://json-schema\.org/(draft-0[4-7]|draft/2019-09)/schema#?")
"""Dialects that most servers still name; what they use of them means the same in 2020-12, or is refused there."""

_VALUES = frozenset({"const", "enum", "default", "examples", "example"})
_TEXTS = frozenset({"title", "description", "$comment"})


@dataclass(frozen=True)
class Listing:
    """The tools, by their names here, with the server's own names, and what had to be left out."""

    tools: Mapping[str, Tool]
    theirs: Mapping[str, str]
    problems: tuple[str, ...]


EMPTY = Listing({}, {}, ())


def misnamed(prefix: str) -> str | None:
    """Why no names of tools can begin so, None if they can."""
    return None if _PREFIX.fullmatch(prefix) else "its prefix has to be 1 to 24 of A-Z a-z 0-9 _ -; correct it"


def listing_of(offered: "Sequence[mcp_types.Tool]", origin: str, server: Server, secrets: Secrets) -> Listing:
    """What of `offered` can be used, in the order of names."""
    problems: list[str] = []
    tools: dict[str, Tool] = {}
    theirs: dict[str, str] = {}
    wanted = None if server.tools is None else frozenset(server.tools)
    if wanted is not None and (missing := wanted - {tool.name for tool in offered}):
        problems.append(f"it has no tool {', '.join(sorted(missing))}, which its resource names")
    # Those whose names need no change come first: they keep them, in whatever order they are listed.
    for tool in sorted(offered, key=lambda tool: (tool.name != plain(tool.name), tool.name)):
        if wanted is not None and tool.name not in wanted:
            continue
        label = shortened(safe_line(secrets.hide(tool.name)), MAX_TITLE)
        name = here(server.prefix, tool.name)
        if name in tools:
            problems.append(f"its tools {label} and {theirs[name]} would both be {name}; the first is left out")
            continue
        try:
            tools[name] = _tool(tool, name, origin, secrets)
            theirs[name] = tool.name
        except InvalidResource as error:
            problems.append(f"its tool {label} is left out: {shortened(secrets.hide(safe_line(str(error))), 500)}")
    return Listing({name: tools[name] for name in sorted(tools)}, theirs, tuple(problems))


def _tool(tool: "mcp_types.Tool", name: str, origin: str, secrets: Secrets) -> Tool:
    said = tool.annotations
    title = tool.title or (said.title if said else None) or ""
    title = shortened(safe_line(secrets.hide(title)), MAX_TITLE)
    description = shortened(safe(secrets.hide(tool.description or "")).strip(), MAX_DESCRIPTION)
    made = Tool(
        name=name,
        title=title,
        description=description or title or safe_line(secrets.hide(tool.name))[:MAX_TITLE],
        input_schema=_schema(tool.input_schema, "its input schema", secrets),
        output_schema=None if tool.output_schema is None else _schema(tool.output_schema, "its output schema", secrets),
        annotations=_annotations(said),
        origin=origin,
    )
    digest = hashlib.sha256(tool.name.encode() + b"\0" + msgspec.json.encode(made, order="sorted")).hexdigest()
    return msgspec.structs.replace(made, digest=digest)


def _annotations(said: "mcp_types.ToolAnnotations | None") -> Annotations:
    if said is None:
        return Annotations()
    read_only = said.read_only_hint is True
    return Annotations(
        read_only=read_only,
        # The protocol asks only those that change something whether they destroy.
        destructive=said.destructive_hint if said.destructive_hint is not None else not read_only,
        idempotent=said.idempotent_hint is True,
        open_world=said.open_world_hint is not False,
    )


def _schema(schema: dict[str, Any], where: str, secrets: Secrets) -> dict[str, Any]:
    """The schema as one of 2020-12.

    Raises:
        InvalidResource: it is none, or too large.
    """
    try:
        schema = secrets.hide_in(as_2020(schema))
    except RecursionError:
        raise InvalidResource(f"{where} nests too deep") from None
    compile_schema(schema, where=where)
    return schema


def as_2020(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of that dialect or an older one in words of 2020-12, with the texts in it made visible.

    Raises:
        RecursionError: it nests too deep.
    """
    dialect = schema.get("$schema")
    older = isinstance(dialect, str) and _OLDER.fullmatch(dialect) is not None
    if older or dialect == f"{DIALECT}#":
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    return _visible(dict(schema), older=older)


def _visible(value: Any, *, older: bool) -> Any:
    """A schema with the texts in it made visible, and a tuple's items where 2020-12 has them."""
    if isinstance(value, list):
        return [_visible(inner, older=older) for inner in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        if key in _TEXTS and isinstance(inner, str):
            made[key] = safe(inner)
        elif key in _VALUES and not (isinstance(inner, dict) and "type" in inner):
            made[key] = inner
        else:
            made[key] = _visible(inner, older=older)
    if older and isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
    return made
