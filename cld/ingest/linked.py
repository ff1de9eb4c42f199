"""Linked data that a file carries: what the graph is to read, whole, beside the passages that people read. Pure.

Of a page that is the JSON-LD in its scripts, and its elements with microdata or RDFa with the little markup that
these need. Walks are loops, because a page can nest as deep as it is long. Nothing is evaluated here.
"""

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

MOST_CHARACTERS = 512 * 1024
"""Of one file, so that its document still fits into `limits.body_bytes`."""

MEDIA_TYPES = {"turtle": "text/turtle", "n-triples": "application/n-triples", "json-ld": "application/ld+json"}
"""Of the files that are nothing but linked data, by form."""

FENCE_CHARACTERS = 64 * 1024
"""A fenced block of data in a text is one passage up to this length."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.M)
_DATA = frozenset(
    {"turtle", "ttl", "n-triples", "ntriples", "nt", "json-ld", "jsonld", "ld+json", "application/ld+json"}
)
_SCRIPT = re.compile(r"<script\b([^<>]{0,1000})>", re.I)
_SCRIPT_END = re.compile(r"</script[\s/>]", re.I)
_JSON_LD = "application/ld+json"
_SIGNS = re.compile(r"\b(?:itemscope|property\s*=|typeof\s*=)", re.I)

_SAYING = frozenset(
    "itemscope itemprop property typeof about resource vocab prefix rel rev lang xml:lang".split()  # noqa: SIM905
)
_SAID = _SAYING | frozenset("itemtype itemid itemref content datatype href src data datetime value".split())  # noqa: SIM905
_ADDRESSES = frozenset({"href", "src", "data"})
_MOST_ADDRESS = 2048
_VOID = frozenset({"area", "embed", "img", "link", "meta", "source", "track"})
# What these are decides what their value is; any other element may as well be a div.
_VALUED = _VOID | {"a", "audio", "data", "iframe", "meter", "object", "time", "video"}
_UNSEEN = frozenset({"script", "style", "template", "svg", "math"})


class Linked(msgspec.Struct, frozen=True):
    """A text of linked data, in the form that the graph reads by its `media_type`."""

    media_type: str
    text: str


def bounded(found: Sequence[tuple[str, Linked]]) -> tuple[tuple[Linked, ...], tuple[str, ...]]:
    """What is kept of it, named by what it is, and notes of what is too long."""
    kept: list[Linked] = []
    notes: list[str] = []
    left = MOST_CHARACTERS
    for name, one in found:
        if len(one.text) <= left:
            kept.append(one)
            left -= len(one.text)
        else:
            notes.append(
                f"{name} of {len(one.text)} characters is not in the graph; {left} of {MOST_CHARACTERS} are left"
            )
    return tuple(kept), tuple(notes[:10])


def linked_of_page(source: str) -> list[tuple[str, Linked]]:
    """The linked data in a page, each named by what it is."""
    found = [("JSON-LD", Linked(_JSON_LD, script)) for script in _scripts(source)]
    if _SIGNS.search(source) and (said := "".join(_said(source))):
        found.append(("microdata or RDFa", Linked("text/html", said)))
    return found


def data_fences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the fenced blocks of data between `start` and `end` lie, with their fences."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text, start, end):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            if opened[2].strip("{.}").lower() in _DATA and fence.end() - opened.start() <= FENCE_CHARACTERS:
                yield opened.start(), fence.end()
            opened = None


def _scripts(source: str) -> Iterator[str]:
    at = 0
    while found := _SCRIPT.search(source, at):
        end = _SCRIPT_END.search(source, found.end())
        if end is None:
            return
        at = end.end()
        if _JSON_LD in found[1].lower():
            yield source[found.end() : end.start()].strip()


def _said(source: str) -> Iterator[str]:
    """The page's elements that say something for machines, and the texts that are values of a property."""
    from selectolax.lexbor import LexborHTMLParser  # noqa: PLC0415 - only where a page has such

    page: Any = LexborHTMLParser(source)
    named = {id for one in page.css("[itemref]") for id in (one.attributes.get("itemref") or "").split()}
    # Each node, and whether its text is a value; or an end to be written.
    rest: list[tuple[Any, bool] | str] = [(page.root, False)] if page.root is not None else []
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            yield one
            continue
        node, is_value = one
        if node.is_text_node:
            if is_value:
                yield html.escape(node.text_content or "", quote=False)
            continue
        if not node.is_element_node or node.tag in _UNSEEN:
            continue
        attributes: dict[str, str | None] = node.attributes
        if not _SAYING.isdisjoint(attributes) or attributes.get("id") in named:
            tag = node.tag if node.tag in _VALUED else "div"
            yield f"<{tag}{_written(node.tag, attributes, named)}>"
            if tag not in _VOID:
                rest.append(f"</{tag}>")
            names = "itemprop" in attributes or "property" in attributes
            is_value |= names and attributes.keys().isdisjoint(("itemscope", "typeof", "content"))
        if node.tag != "iframe":
            rest += reversed([(child, is_value) for child in _children(node)])


def _written(tag: str, attributes: dict[str, str | None], named: set[str]) -> str:
    kept = {
        name: value or ""
        for name, value in attributes.items()
        if name in _SAID and not (name in _ADDRESSES and len(value or "") > _MOST_ADDRESS)
    }
    if (id := attributes.get("id")) and id in named:
        kept["id"] = id
    if tag == "html":
        kept.setdefault("about", "")  # what the outermost element says is of the page
    return "".join(f' {name}="{html.escape(value)}"' for name, value in kept.items())


def _children(node: Any) -> Iterator[Any]:
    child = node.first_child
    while child is not None:
        yield child
        child = child.next
