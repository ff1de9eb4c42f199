"""JSON-LD made safe to parse: bounded in depth, and with no context that would have to be fetched.

Knows the few contexts that are bundled; every other context by address is left out and told of.
"""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from cld.index.linked_terms import SCHEMA

MAX_DEPTH = 64
"""Deeper ones have crashed parsers."""

KEYWORDS = frozenset({"@context", "@graph", "@id", "@type"})

Note = Callable[[str], None]

_SCHEMA_CONTEXT: dict[str, Any] = {
    "@vocab": SCHEMA,
    "schema": SCHEMA,
    # Those that the published context reads as addresses, as far as they are common.
    **{
        name: {"@id": SCHEMA + name, "@type": "@id"}
        for name in ("url", "sameAs", "image", "logo", "license", "mainEntityOfPage", "contentUrl", "codeRepository")
    },
}
_BUNDLED: dict[str, dict[str, Any]] = {
    "schema.org": _SCHEMA_CONTEXT,
    "www.schema.org": _SCHEMA_CONTEXT,
    "schema.org/docs/jsonldcontext.json": _SCHEMA_CONTEXT,
    "schema.org/docs/jsonldcontext.jsonld": _SCHEMA_CONTEXT,
}


def documents_within(content: object) -> list[dict[str, Any]]:
    """The outermost objects of a JSON value that are JSON-LD by their keys."""
    found: list[dict[str, Any]] = []
    rest = [content]
    while rest:
        value = rest.pop()
        match value:
            case dict():
                inner = cast("dict[str, Any]", value)
                if KEYWORDS.isdisjoint(inner):
                    rest += reversed(inner.values())
                else:
                    found.append(inner)
            case list():
                rest += reversed(cast("list[object]", value))
            case _:
                pass
    return found


def decoded(text: str | bytes) -> object:
    """The JSON of a text.

    Raises:
        ValueError: it is none, or nests too deep.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"JSON-LD that is no JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"JSON-LD that nests deeper than {MAX_DEPTH}") from None


def made_safe(value: object, note: Note) -> bytes:
    """The JSON-LD with bundled contexts put in and all other remote ones left out.

    Raises:
        ValueError: it nests too deep.
    """
    return msgspec.json.encode(_safe(value, note, 1))


def _safe(value: object, note: Note, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise ValueError(f"JSON-LD that nests deeper than {MAX_DEPTH}")
    match value:
        case dict():
            inner = cast("dict[str, object]", value)
            return {
                key: _context(child, note, depth + 1) if key == "@context" else _safe(child, note, depth + 1)
                for key, child in inner.items()
                if key != "@import" or _refused(child, note)
            }
        case list():
            return [_safe(child, note, depth + 1) for child in cast("list[object]", value)]
        case _:
            return value


def _context(value: object, note: Note, depth: int) -> object:
    match value:
        case str():
            address = value.partition("://")[2].rstrip("/#").lower()
            if address in _BUNDLED:
                return _BUNDLED[address]
            _refused(value, note)
            return {}
        case list():
            return [_context(child, note, depth + 1) for child in cast("list[object]", value)]
        case _:
            return _safe(value, note, depth)


def _refused(address: object, note: Note) -> bool:
    note(f"the context {str(address)[:200]} is not bundled and never fetched; write its terms into @context")
    return False
