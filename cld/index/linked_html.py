"""HTML: JSON-LD in scripts, microdata and plain links, found in one tree of the document.

Microdata as https://www.w3.org/TR/microdata-rdf/ says. RDFa is `cld.index.linked_rdfa`'s. selectolax is imported here
and nowhere else. Walks are loops, because a document can nest as deep as it is long; how long they may take is
bounded by whoever runs them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from cld.index.linked_markdown import resolved
from cld.index.linked_terms import RDF, XSD, iri, is_iri, literal, vocabulary

LINKED_DATA = "application/ld+json"

_SOURCES = frozenset({"audio", "embed", "iframe", "img", "source", "track", "video"})
_LINKS = frozenset({"a", "area", "link"})
Node = Callable[[], str]
"""A new blank node."""


class Html:
    """One parsed document; what it says comes as N-Triples statements."""

    def __init__(self, text: str, base: str, source: str, node: Node) -> None:
        self._tree = _parser()(text)
        self._source = source
        self.base = base
        self.node = node

    @property
    def root(self) -> Any:
        """Its outermost element; None for none."""
        return self._tree.root

    def scripts(self) -> Iterator[str]:
        """The JSON-LD in its script tags."""
        for script in self._tree.css("script"):
            if (script.attributes.get("type") or "").partition(";")[0].strip().lower() == LINKED_DATA:
                yield script.text()

    def links(self, me: str) -> Iterator[str]:
        """`linksTo` for each link that leads somewhere."""
        for anchor in self._tree.css("a[href]"):
            if target := resolved(anchor.attributes.get("href") or "", self._source):
                yield f"{iri(me)} {vocabulary('linksTo')} {iri(target)}"

    def microdata(self) -> Iterator[str]:
        """The items and their properties."""
        subjects: dict[int, str] = {}
        items = [*self._tree.css("[itemscope]")]
        for item in items:
            id = (item.attributes.get("itemid") or "").strip()
            absolute = self.absolute(id) if id else ""
            subjects[item.mem_id] = iri(absolute) if absolute else self.node()
        for item in items:
            subject = subjects[item.mem_id]
            types = [one for one in (item.attributes.get("itemtype") or "").split() if is_iri(one)]
            for one in types:
                yield f"{subject} {iri(RDF + 'type')} {iri(one)}"
            space = _space(types[0]) if types else f"{self.base}#"
            for element in self._properties(item):
                value = subjects.get(element.mem_id) or self._microdata_value(element)
                for name in (element.attributes.get("itemprop") or "").split():
                    predicate = name if is_iri(name) else space + name
                    if value and is_iri(predicate):
                        yield f"{subject} {iri(predicate)} {value}"

    def _properties(self, item: Any) -> Iterator[Any]:
        """The elements that are properties of the item: below it, or in those it refers to, but not in items within."""
        rest = children_of(item)
        for id in (item.attributes.get("itemref") or "").split()[:100]:
            rest += [found for found in self._tree.css("[id]") if found.attributes.get("id") == id][:1]
        seen = {item.mem_id}
        rest.reverse()
        while rest:
            element = rest.pop()
            if element.mem_id in seen:
                continue
            seen.add(element.mem_id)
            if element.attributes.get("itemprop"):
                yield element
            if "itemscope" not in element.attributes:
                rest += reversed(children_of(element))

    def _microdata_value(self, element: Any) -> str:
        attributes, tag = element.attributes, element.tag
        if tag == "meta":
            return literal(attributes.get("content") or "")
        if tag in _SOURCES or tag in _LINKS or tag == "object":
            name = "src" if tag in _SOURCES else "href" if tag in _LINKS else "data"
            absolute = self.absolute(attributes.get(name) or "")
            return iri(absolute) if absolute else ""
        if tag in ("data", "meter"):
            return literal(attributes.get("value") or "")
        if tag == "time":
            text = attributes.get("datetime") or element.text().strip()
            return literal(text, time_type(text))
        return literal(element.text().strip(), language=language_of(attributes))

    def absolute(self, target: str) -> str:
        """An address in the document as an IRI; one that is relative is relative to where it was read from."""
        target = target.strip()
        if is_iri(target):
            return target
        if target.startswith("#"):
            return self.base + target if is_iri(self.base + target) else ""
        if target == "":
            return self.base
        return resolved(target, self._source)


def children_of(element: Any) -> list[Any]:
    """The elements directly in it."""
    found: list[Any] = []
    child = element.first_child
    while child is not None:
        if child.is_element_node:
            found.append(child)
        child = child.next
    return found


def _space(type: str) -> str:
    """The vocabulary of a type: all but its last part."""
    cut = max(type.rfind("#"), type.rfind("/"))
    return type[: cut + 1] if cut >= 0 else type


def language_of(attributes: dict[str, str | None]) -> str:
    """The language that an element names, where it can be one."""
    text = attributes.get("xml:lang") or attributes.get("lang") or ""
    parts = text.split("-")
    fits = len(text) <= 35 and all(1 <= len(part) <= 8 and part.isascii() and part.isalnum() for part in parts)
    return text if fits and parts[0].isalpha() else ""


def time_type(text: str) -> str:
    """The type of a time as HTML writes it; empty for none."""
    from_shape = {10: "date", 7: "gYearMonth", 4: "gYear"}
    if "T" in text and text[:1].isdigit():
        return XSD + "dateTime"
    if text.startswith("P"):
        return XSD + "duration"
    if text.replace("-", "").isdigit() and len(text) in from_shape:
        return XSD + from_shape[len(text)]
    return XSD + "time" if ":" in text and text.replace(":", "").isdigit() else ""


@functools.cache
def _parser() -> Any:
    from selectolax.lexbor import LexborHTMLParser  # noqa: PLC0415 - only where there is HTML

    return LexborHTMLParser
