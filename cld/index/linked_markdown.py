"""Markdown: its front matter, its fenced blocks of data, its links and wiki links.

Owns what counts as a link and what the keys of a front matter mean. PyYAML is imported here and nowhere
else. Every pattern is linear in the text; YAML is bounded in size, depth and nodes, and has no aliases,
with which a few lines can stand for billions.
"""

import functools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from cld.index.linked_terms import DCTERMS, PREFIXES, SOURCE, VOCABULARY, XSD, iri, is_iri, literal, vocabulary

MAX_FRONT_MATTER = 65_536
MAX_YAML_NODES = 10_000
MAX_YAML_DEPTH = 32

Node = Callable[[], str]
"""A new blank node."""

_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
_TOML_FRONT = re.compile(r"\ufeff?\+\+\+[ \t]*\r?\n(.*?)^\+\+\+[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)
_INLINE_CODE = re.compile(r"(`+)(?!`)[^`\n]{1,1000}(?<!`)\1(?!`)")
_DESTINATION = re.compile(
    r"\]\([ \t]{0,8}(?:<([^<>\n]{0,2048})>|([^\s<>()]{0,2048}(?:\([^\s<>()]{0,512}\)[^\s<>()]{0,2048})?))"
)
_REFERENCE = re.compile(r"^ {0,3}\[[^\]\n]{1,200}\]:[ \t]{0,8}<?([^\s<>]{1,2048})>?", re.MULTILINE)
_AUTOLINK = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]{1,31}:[^\s<>]{1,2048})>")
_WIKI = re.compile(r"\[\[([^\[\]|#\n]{1,300})(?:#[^\[\]|\n]{0,300})?(?:\|[^\[\]\n]{0,300})?\]\]")

_NO_PLACES = ("javascript:", "vbscript:", "data:", VOCABULARY)
"""Schemes, which have no case, of what is run or carried by a link instead of being where it leads."""

_KNOWN_KEYS = {
    "title": "title",
    "description": "description",
    "summary": "description",
    "abstract": "abstract",
    "author": "creator",
    "authors": "creator",
    "creator": "creator",
    "date": "date",
    "created": "created",
    "updated": "modified",
    "modified": "modified",
    "tags": "subject",
    "keywords": "subject",
    "categories": "subject",
    "category": "subject",
    "lang": "language",
    "language": "language",
    "license": "license",
    "publisher": "publisher",
    "identifier": "identifier",
}


@dataclass(frozen=True)
class Markdown:
    """A text in its parts: `blocks` are the fenced ones as (language, text), `prose` the rest without code."""

    front_matter: str
    is_toml: bool
    blocks: tuple[tuple[str, str], ...]
    prose: str


def taken_apart(text: str) -> Markdown:
    """The text in its parts, in one pass."""
    front = ""
    is_toml = text.startswith(("+++", "\ufeff+++"))
    fenced = _TOML_FRONT if is_toml else _FRONT_MATTER
    if found := fenced.match(text, 0, MAX_FRONT_MATTER + 16):
        front, text = found[1], text[found.end() :]
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    opened: re.Match[str] | None = None
    at = 0
    for fence in _FENCE.finditer(text):
        if opened is None:
            prose.append(text[at : fence.start()])
            opened, at = fence, fence.end() + 1  # the line after it
        elif fence[1].startswith(opened[1]) and not fence[2]:
            blocks.append((opened[2].strip("{.}").lower(), text[at : fence.start()]))
            opened, at = None, fence.end()
    if opened is None:
        prose.append(text[at:])
    else:  # a fence that is never closed goes to the end
        blocks.append((opened[2].strip("{.}").lower(), text[at:]))
    return Markdown(front, is_toml, tuple(blocks), _INLINE_CODE.sub(" ", "\n".join(prose)))


def link_statements(prose: str, me: str, source: str) -> Iterator[str]:
    """Links as `linksTo`, wiki links as `linksToTitle`; relative ones are resolved against the `source` IRI.

    A relative link in a text that was read from nowhere leads nowhere, and is left out.
    """
    found = (
        match[1] or (match[2] if match.lastindex == 2 else "")
        for pattern in (_DESTINATION, _REFERENCE, _AUTOLINK)
        for match in pattern.finditer(prose)
    )
    for target in found:
        if absolute := resolved(target, source):
            yield f"{iri(me)} {vocabulary('linksTo')} {iri(absolute)}"
    for match in _WIKI.finditer(prose):
        if title := match[1].strip():
            if title.startswith("cld:"):
                continue  # a URI, and as such among the tree's own facts
            yield f"{iri(me)} {vocabulary('linksToTitle')} {literal(title)}"


def resolved(target: str, source: str) -> str:
    """The absolute IRI that a link's target means in a text from `source`; empty where there is none."""
    target = target.strip()
    if not target or target.startswith("#"):
        return ""
    if is_iri(target):
        return "" if target.lower().startswith(_NO_PLACES) else target
    if source.startswith(SOURCE):
        # urljoin resolves only against schemes that it knows.
        path = urlsplit(urljoin("http://source/" + source.removeprefix(SOURCE).lstrip("/"), target))
        if path.netloc != "source":
            return ""
        lead = "/" if source.startswith(SOURCE + "/") else ""
        target = SOURCE + lead + quote(unquote(path.path.lstrip("/")), safe="/~")
    elif source.startswith(("http://", "https://")):
        try:
            target = urljoin(source, target)
        except ValueError:
            return ""
    return target if is_iri(target) else ""


def front_matter(text: str) -> Mapping[str, Any]:
    """The mapping a front matter is; empty for an empty one.

    Raises:
        ValueError: it is no YAML, no mapping, or larger, deeper or more than is taken.
    """
    yaml = _yaml()
    if len(text) > MAX_FRONT_MATTER:
        raise ValueError(f"a front matter of more than {MAX_FRONT_MATTER} characters")
    nodes = depth = 0
    try:
        # Looked through before anything is built of it.
        for event in yaml.parse(text, Loader=_loader()):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("a front matter with an alias (*name), which is not taken; write it out")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
            nodes += isinstance(event, yaml.NodeEvent)
            if depth > MAX_YAML_DEPTH or nodes > MAX_YAML_NODES:
                raise ValueError(f"a front matter of more than {MAX_YAML_DEPTH} levels or {MAX_YAML_NODES} values")
        value = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 2}, column {mark.column + 1}" if mark is not None else ""
        raise ValueError(f"a front matter that is no YAML{where}: {getattr(error, 'problem', error)}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("a front matter that is no mapping of keys to values")
    return cast("Mapping[str, Any]", value)


def toml_front_matter(text: str) -> Mapping[str, Any]:
    """The same of one in TOML.

    Raises:
        ValueError: it is no TOML, or larger, deeper or more than is taken.
    """
    if len(text) > MAX_FRONT_MATTER:
        raise ValueError(f"a front matter of more than {MAX_FRONT_MATTER} characters")
    if any(line.count(".") + line.count("[") + line.count("{") > MAX_YAML_NODES for line in text.splitlines()):
        raise ValueError(f"a front matter of more than {MAX_YAML_NODES} values")
    try:
        found = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"a front matter that is no TOML: {error}") from None
    rest: list[tuple[object, int]] = [(found, 1)]
    nodes = 0
    while rest:
        value, depth = rest.pop()
        nodes += 1
        if depth > MAX_YAML_DEPTH or nodes > MAX_YAML_NODES:
            raise ValueError(f"a front matter of more than {MAX_YAML_DEPTH} levels or {MAX_YAML_NODES} values")
        if isinstance(value, dict):
            rest += [(child, depth + 1) for child in cast("dict[str, object]", value).values()]
        elif isinstance(value, list):
            rest += [(child, depth + 1) for child in cast("list[object]", value)]
    return found


def front_matter_statements(values: Mapping[Any, Any], me: str, node: Node) -> Iterator[str]:
    """The keys of a front matter as properties of the resource; mappings within are blank nodes."""
    yield from _mapping(values, iri(me), node)


def _mapping(values: Mapping[Any, Any], subject: str, node: Node) -> Iterator[str]:
    for key, value in values.items():
        yield from _value(value, subject, iri(_property(str(key))), node)


def _value(value: object, subject: str, predicate: str, node: Node) -> Iterator[str]:
    match value:
        case dict():
            inner = node()
            yield f"{subject} {predicate} {inner}"
            yield from _mapping(cast("dict[Any, Any]", value), inner, node)
        case list() | tuple() | set():
            for child in cast("list[object]", value):
                yield from _value(child, subject, predicate, node)
        case None | bytes():
            return
        case _:
            yield f"{subject} {predicate} {_scalar(value)}"


def _scalar(value: object) -> str:
    match value:
        case bool():
            return literal("true" if value else "false", XSD + "boolean")
        case int():
            return literal(str(value), XSD + "integer") if abs(value) < 10**100 else literal("a very large number")
        case float():
            return literal(repr(value).replace("inf", "INF").replace("nan", "NaN"), XSD + "double")
        case datetime():
            return literal(value.isoformat(), XSD + "dateTime")
        case date():
            return literal(value.isoformat(), XSD + "date")
        case _:
            text = str(value)
            if text.startswith(("http://", "https://", "urn:", "mailto:", "cld:", "doi:")) and is_iri(text):
                return iri(text)
            return literal(text)


def _property(key: str) -> str:
    prefix, colon, rest = key.partition(":")
    if colon and prefix in PREFIXES and prefix not in ("cld", "vocab") and is_iri(PREFIXES[prefix] + rest):
        return PREFIXES[prefix] + rest
    if known := _KNOWN_KEYS.get(key.lower()):
        return DCTERMS + known
    return f"{VOCABULARY}key/{quote(key[:256], safe='')}"


@functools.cache
def _yaml() -> Any:
    import yaml  # noqa: PLC0415 - only for texts that have a front matter

    return yaml


@functools.cache
def _loader() -> Any:
    # Both build plain values only; the one in C is ten times as fast and not always there.
    return getattr(_yaml(), "CSafeLoader", _yaml().SafeLoader)
