"""What the tree itself says of a resource: type, parent, who and when, titles, and the cld: URIs it names.

Pure: a decoded resource in, N-Triples out. Must not look into markup; `cld.index.linked` does.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec

from cld.errors import InvalidURI
from cld.index.linked_terms import MAX_LITERAL, XSD, iri, literal, source_iri, vocabulary
from cld.resource import Resource
from cld.uri import ROOT, URI, parent_of, parse_uri, type_of

MAX_LINKS = 10_000
"""Different resources that one resource may link to."""

MAX_PROBLEMS = 20
MAX_PROBLEM = 500
"""How many problems of a resource are noted, and how long each may be."""

_ELEMENT = r"[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_-]{1,128}"
_NAMED = re.compile(rf"(?<![A-Za-z0-9+.-])cld:{_ELEMENT}(?:/{_ELEMENT}){{0,63}}")


class Extracted(msgspec.Struct, frozen=True):
    """The graph of a resource as N-Triples, one statement a line, and what could not be read."""

    triples: bytes
    problems: tuple[str, ...] = ()


def placed(uri: URI, problem: str) -> Extracted:
    """The graph of a resource of which nothing but its place can be told."""
    return written(uri, list(place_facts(uri)), [problem])


def plain(resource: Resource, problem: str) -> Extracted:
    """The graph of a resource with only what the tree itself says."""
    return written(URI(resource.uri), list(dict.fromkeys(own_facts(resource))), [problem])


def written(uri: URI, statements: list[str], problems: list[str]) -> Extracted:
    """A graph of these statements, and of what could not be read."""
    notes = tuple(dict.fromkeys(problem[:MAX_PROBLEM] for problem in problems))[:MAX_PROBLEMS]
    statements += [f"{iri(uri)} {vocabulary('problem')} {literal(note)}" for note in notes]
    return Extracted("".join(f"{one} .\n" for one in statements).encode(), notes)


def place_facts(uri: URI) -> Iterator[str]:
    """What the URI alone says: also true of a file that is no valid resource."""
    me = iri(uri)
    yield f"{me} {vocabulary('type')} {literal(type_of(uri))}"
    if (parent := parent_of(uri)) != ROOT:
        yield f"{me} {vocabulary('parent')} {iri(parent)}"


def own_facts(resource: Resource) -> Iterator[str]:
    """All that the tree says of a resource, one N-Triples statement (without its full stop) each."""
    uri = URI(resource.uri)
    me = iri(uri)
    yield from place_facts(uri)
    for name, who in (("createdBy", resource.created_by), ("updatedBy", resource.updated_by)):
        if 0 < len(who) <= MAX_LITERAL:
            yield f"{me} {vocabulary(name)} {literal(who)}"
    for name, when in (("createdAt", resource.created_at), ("updatedAt", resource.updated_at)):
        if _is_time(when):
            yield f"{me} {vocabulary(name)} {literal(when, XSD + 'dateTime')}"
    for name, text in msgspec.structs.asdict(resource.meta).items():
        if 0 < len(text) <= MAX_LITERAL:
            yield f"{me} {vocabulary(name)} {literal(text)}"
    title, source = resource.content.get("title"), resource.content.get("source")
    if isinstance(title, str) and 0 < len(title) <= MAX_LITERAL:
        yield f"{me} {vocabulary('title')} {literal(title)}"
    if isinstance(source, str) and source:
        yield f"{me} {vocabulary('source')} {iri(source_iri(source))}"
    for linked in links(resource.content, uri):
        yield f"{me} {vocabulary('linksTo')} {iri(linked)}"


def links(content: Mapping[str, Any], uri: URI) -> Iterator[URI]:
    """The resources whose URIs stand anywhere in the content, but `uri`, each once, in order."""
    seen = {str(uri)}
    for text, _ in texts(content):
        if "cld:" not in text:
            continue
        for found in _NAMED.finditer(text):
            if found[0] in seen:
                continue
            if len(seen) > MAX_LINKS:
                return
            seen.add(found[0])
            try:
                yield parse_uri(found[0])
            except InvalidURI:
                continue  # too long or deep: no resource can have it


def texts(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every text in the content and the object it is a value in, depth first."""
    rest: list[tuple[object, Mapping[str, Any]]] = [(content, content)]
    while rest:
        value, holder = rest.pop()
        match value:
            case str():
                yield value, holder
            case dict():
                inner = cast("dict[str, Any]", value)
                rest += [(child, inner) for child in reversed(inner.values())]
            case list():
                rest += [(child, holder) for child in reversed(cast("list[object]", value))]
            case _:
                pass


def _is_time(text: str) -> bool:
    try:
        return "T" in text and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
