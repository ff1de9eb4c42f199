"""Candidates: read from files as people and programs have them, and from the tree. Owns the formats, docs/elect.md.

Takes a tool as cld, MCP or a model's API describes it; what says nothing about the choice is left out.
"""

import codecs
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from cld.errors import InvalidArgument, InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.index.election import Candidate
from cld.resource import Meta, Resource, describe
from cld.store import MAX_LIMIT
from cld.uri import MAX_DEPTH, URI, id_of

_NAMES = ("uri", "name", "id")
_PARAMETERS = ("parameters", "inputSchema", "input_schema", "arguments")
_LISTS = ("candidates", "tools", "assistants", "functions")
_DEPTH = 4


class _Request(msgspec.Struct):
    request: str


def read_candidates(data: bytes, origin: str) -> list[Candidate]:
    """The candidates in a JSON array, an object with one (`candidates`, `tools` …), or JSON Lines.

    Raises:
        InvalidArgument: naming `origin`, the line or number, and what does not fit.
    """
    found = list(_objects(data.removeprefix(codecs.BOM_UTF8), origin))
    candidates = [candidate_of(value, f"{origin}, {place}") for place, value in found]
    names = set[str]()
    for (place, _), one in zip(found, candidates, strict=True):
        if one.name in names:
            raise InvalidArgument(f"{origin}, {place}: there is a {one.name!r} before; rename one", field="among")
        names.add(one.name)
    return candidates


def candidate_of(value: object, place: str) -> Candidate:
    """The candidate that a JSON object describes.

    Raises:
        InvalidArgument: naming `place` and what does not fit.
    """
    if not isinstance(value, dict):
        raise InvalidArgument(f"{place}: expected an object with name and description", field="among")
    given = cast("Mapping[str, Any]", value)
    if isinstance(function := given.get("function"), dict):
        given = cast("Mapping[str, Any]", function)
    name = next((text for key in _NAMES if isinstance(text := given.get(key), str) and text), None)
    if name is None:
        raise InvalidArgument(f"{place}: it has no name; give name or uri", field="among")
    spoken = [text for key in ("title", "name") if isinstance(text := given.get(key), str)]
    requests = given.get("requests", [])
    if not isinstance(requests, list):
        raise InvalidArgument(f"{place}: requests is no array of texts", field="among")
    return Candidate(
        name=name,
        description=_description(given),
        parameters=_parameters(given),
        requests=tuple(request_of(one, f"{place}, requests") for one in cast("list[object]", requests)),
        spoken=" ".join(dict.fromkeys(spoken)),
    )


def candidate_of_resource(resource: Resource) -> Candidate:
    """The candidate that a resource is: its meta texts, and what its content says like a tool's description."""
    content = resource.content
    spoken = [
        id_of(URI(resource.uri)),
        *(text for key in ("title", "name") if isinstance(text := content.get(key), str)),
    ]
    requests = content.get("requests")
    texts = cast("list[object]", requests) if isinstance(requests, list) else []
    return Candidate(
        name=resource.uri,
        description="\n".join(filter(None, (describe(resource.meta), _text(content.get("description"))))),
        parameters=_parameters(content),
        requests=tuple(text for text in texts if isinstance(text, str)),
        spoken=" ".join(dict.fromkeys(spoken)),
    )


async def candidates_below(store: GuardedStore, prefix: URI, type: str | None = None) -> AsyncIterator[Candidate]:
    """Every resource below `prefix` that the store's principal may read, and that says what it is for."""
    cursor: str | None = None
    while True:
        page = await store.list(prefix, type=type, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            try:
                one = candidate_of_resource((await store.get(uri)).resource)
            except (ResourceNotFound, InvalidResource):
                continue  # gone since it was listed, or nothing to read
            if one.description:
                yield one
        if page.cursor is None:
            return
        cursor = page.cursor


def request_of(value: object, place: str) -> str:
    """The text of a request: a text, or an object with `request`.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(value, str):
        return value
    try:
        return msgspec.convert(value, _Request).request
    except msgspec.ValidationError:
        message = f'{place}: expected a text, or an object as {{"id": 1, "request": "…"}}'
        raise InvalidArgument(message, field="request") from None


def _objects(data: bytes, origin: str) -> Iterator[tuple[str, object]]:
    try:
        whole: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield from _lines(data, origin)
        return
    if isinstance(whole, dict):
        given = cast("dict[str, object]", whole)
        is_named = any(key in given for key in _NAMES)
        whole = next((given[key] for key in _LISTS if _is_list(given.get(key), of_objects=is_named)), [given])
    if not isinstance(whole, list):
        raise InvalidArgument(f"{origin}: expected an array of candidates, or one in each line", field="among")
    for number, value in enumerate(cast("list[object]", whole), 1):
        yield f"candidate {number}", value


def _is_list(value: object, *, of_objects: bool) -> bool:
    """Whether these are the candidates: a candidate by itself may name, as texts, the tools that it has."""
    if not isinstance(value, list):
        return False
    return not of_objects or any(isinstance(one, dict) for one in cast("list[object]", value))


def _lines(data: bytes, origin: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{origin}, line {number}: no JSON: {error}", field="among") from None


def _description(given: Mapping[str, Any]) -> str:
    texts = [_text(given.get("description"))]
    if isinstance(meta := given.get("meta"), dict):
        texts.insert(
            0, describe(Meta(**{key: _text(cast("dict[str, Any]", meta).get(key)) for key in Meta.__struct_fields__}))
        )
    return "\n".join(filter(None, texts))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parameters(given: Mapping[str, Any]) -> str:
    return " ".join(_said(next((given[key] for key in _PARAMETERS if key in given), None), 0))


def _said(value: object, depth: int) -> Iterator[str]:
    """Names and descriptions of parameters: from a text, a list of them, a JSON Schema, or names with descriptions."""
    match value:
        case str():
            yield value
        case list() if depth < _DEPTH:
            for one in cast("Sequence[object]", value):
                yield from _said(one, depth + 1)
        case dict() if depth < _DEPTH:
            given = cast("Mapping[str, object]", value)
            if isinstance(properties := given.get("properties"), dict):
                yield from _said(cast("object", properties), depth + 1)
                return
            described = [given[key] for key in ("name", "description") if isinstance(given.get(key), str)]
            if described:
                yield from cast("list[str]", described)
                return
            for name, one in given.items():
                yield name
                yield from _said(one, depth + 1) if not isinstance(one, str) or " " in one else ()
        case _:
            pass
