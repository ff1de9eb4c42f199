"""JSON Schema 2020-12: the one place where one is compiled to a check of values.

Must not fetch anything and knows no resources. A schema is trusted like a rule: it can be made to
take any amount of time (a regular expression, a doubling `allOf`), so only owners may write one, and
who must not wait runs the check in a thread.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple, cast

import msgspec

from cld.errors import InvalidResource

MAX_SCHEMA_BYTES = 64 * 1024
"""Bound on one schema, as compact JSON."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIALECTS_OWN = DIALECT.removesuffix("schema")


class Misfit(NamedTuple):
    """What does not fit: `field` as in `messages[2].role`, empty for the whole, and why."""

    field: str
    reason: str


Check = Callable[[Any], Misfit | None]
"""Whether a value fits a compiled schema: None, or the most telling misfit. Safe in any thread."""


def compile_schema(schema: Mapping[str, Any], *, where: str = "schema") -> Check:
    """The check that `schema`, which stands at `where`, describes.

    References stay within the schema (or its dialect's own): nothing is ever fetched. `format` is
    an annotation, as the standard has it.

    Raises:
        InvalidResource: when it is too large or no such schema, naming the place in it.
    """
    # On first use: some 60 ms that a server which meets no schema need not spend.
    from jsonschema import Draft202012Validator  # noqa: PLC0415
    from jsonschema.exceptions import best_match  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]
    from jsonschema_specifications import REGISTRY  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012, UnknownDialect  # noqa: PLC0415

    if (size := len(msgspec.json.encode(schema))) > MAX_SCHEMA_BYTES:
        raise InvalidResource(f"{where} has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")

    def first_of(errors: Iterable[Any]) -> Any:
        # One is told, so a few are enough to choose from.
        return cast("Any", best_match(islice(errors, 20)))

    dialect: Any = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER
    )

    def refuse_faults(part: object) -> None:
        if (error := first_of(dialect.iter_errors(part))) is not None:
            misfit = _misfit(error)
            raise InvalidResource(f"{join(where, misfit.field)}: {misfit.reason}")

    def refuse_what_the_dialect_does_not_see() -> None:
        """Other dialects; references that lead nowhere; faults in parts that only a reference reaches."""
        root: Any = DRAFT202012.create_resource(schema)
        todo: list[tuple[Any, Any]] = [(root, REGISTRY.resolver_with_root(root))]
        references: list[tuple[str, Any]] = []
        seen: set[int] = set()
        while todo or references:
            if todo:
                resource, resolver = todo.pop()
                part: Any = resource.contents
                if id(part) in seen or isinstance(part, bool):
                    continue
                seen.add(id(part))
                if (named := part.get("$schema", DIALECT)).rstrip("#") != DIALECT:
                    raise InvalidResource(f"{where}: $schema is {named!r}; only {DIALECT} is known")
                references += [(part[key], resolver) for key in ("$ref", "$dynamicRef") if key in part]
                todo += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
            else:
                reference, resolver = references.pop()
                try:
                    found = resolver.lookup(reference)
                except Unresolvable:
                    raise InvalidResource(
                        f"{where}: the reference {reference!r} leads nowhere within it, and nothing is fetched"
                    ) from None
                if id(found.contents) not in seen and not reference.startswith(_DIALECTS_OWN):
                    refuse_faults(found.contents)
                    todo.append((DRAFT202012.create_resource(found.contents), found.resolver))

    try:
        refuse_faults(schema)
        refuse_what_the_dialect_does_not_see()
    except (CannotDetermineSpecification, UnknownDialect, ValueError) as error:
        if isinstance(error, InvalidResource):
            raise
        raise InvalidResource(f"{where}: an $id, $schema or reference in it is unusable: {error!r}") from None
    except RecursionError:
        raise InvalidResource(f"{where} nests too deep; move parts to $defs") from None

    validator: Any = Draft202012Validator(schema, registry=REGISTRY)

    def check(value: Any) -> Misfit | None:
        try:
            error = first_of(validator.iter_errors(value))
        except RecursionError:
            return Misfit("", "nests too deep for its schema, or the schema refers to itself without end")
        except OverflowError:
            return Misfit("", "holds a number too large to be compared with the schema's")
        return None if error is None else _misfit(error)

    return check


def join(path: str, field: str) -> str:
    """`field` below `path`, as in `tasks[2].after`."""
    return path + field if not path or not field or field.startswith("[") else f"{path}.{field}"


_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_MAX_REASON = 300


def _misfit(error: Any) -> Misfit:
    """A jsonschema error as a misfit; its message quotes the value, which may be of any size."""
    field = ""
    for step in error.absolute_path:
        plain = isinstance(step, str) and _PLAIN_KEY.fullmatch(step)
        field = join(field, step if plain else f"[{step!r}]")
    reason = error.message
    if error.validator in {"anyOf", "oneOf"} and error.context:
        # Of equally near alternatives none is the one that was meant: tell them all.
        reason += ": " + ", or ".join(dict.fromkeys(inner.message for inner in error.context))
    if len(reason) > _MAX_REASON:
        reason = f"does not satisfy {error.validator}: {str(error.validator_value)[:_MAX_REASON]}"
    return Misfit(field, reason)
