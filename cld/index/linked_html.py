"""HTML: JSON-LD in scripts, microdata, RDFa and plain links, found in one tree of the document.

Microdata as https://www.w3.org/TR/microdata-rdf/ says, RDFa as https://www.w3.org/TR/rdfa-core/, without
`inlist`. selectolax is imported here and nowhere else. Walks are loops, because a document can nest as deep as it
is long; how long they may take is bounded by whoever runs them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cld.index.linked_markdown import resolved
from cld.index.linked_terms import PREFIXES, RDF, XSD, iri, is_iri, literal, vocabulary

LINKED_DATA = "application/ld+json"

_SOURCES = frozenset({"audio", "embed", "iframe", "img", "source", "track", "video"})
_LINKS = frozenset({"a", "area", "link"})
_INITIAL = {**PREFIXES, "dc": PREFIXES["dcterms"], "og": "http://ogp.me/ns#"}
"""As RDFa's initial context has them."""

for _name in ("vocab", "cld"):
    del _INITIAL[_name]
_RDFA_TERMS = {"describedby", "license", "role"}
_XHV = "http://www.w3.org/1999/xhtml/vocab#"

Node = Callable[[], str]
"""A new blank node."""


class Html:
    """One parsed document; what it says comes as N-Triples statements."""

    def __init__(self, text: str, base: str, source: str, node: Node) -> None:
        self._tree = _parser()(text)
        self._base = base
        self._source = source
        self._node = node

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
            absolute = self._absolute(id) if id else ""
            subjects[item.mem_id] = iri(absolute) if absolute else self._node()
        for item in items:
            subject = subjects[item.mem_id]
            types = [one for one in (item.attributes.get("itemtype") or "").split() if is_iri(one)]
            for one in types:
                yield f"{subject} {iri(RDF + 'type')} {iri(one)}"
            space = _space(types[0]) if types else f"{self._base}#"
            for element in self._properties(item):
                value = subjects.get(element.mem_id) or self._microdata_value(element)
                for name in (element.attributes.get("itemprop") or "").split():
                    predicate = name if is_iri(name) else space + name
                    if value and is_iri(predicate):
                        yield f"{subject} {iri(predicate)} {value}"

    def rdfa(self) -> Iterator[str]:
        """What its RDFa attributes say."""
        root = self._tree.root
        if root is None:
            return
        base = iri(self._base)
        stack = [(root, _Context(parent=base, object=base))]
        while stack:
            element, context = stack.pop()
            statements, inner = self._element(element, context)
            yield from statements
            children: list[Any] = []
            child = element.first_child
            while child is not None:
                if child.is_element_node:
                    children.append(child)
                child = child.next
            stack += [(one, inner) for one in reversed(children)]

    def _properties(self, item: Any) -> Iterator[Any]:
        """The elements that are properties of the item: below it, or in those it refers to, but not in items within."""
        rest = _children(item)
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
                rest += reversed(_children(element))

    def _microdata_value(self, element: Any) -> str:
        attributes, tag = element.attributes, element.tag
        if tag == "meta":
            return literal(attributes.get("content") or "")
        if tag in _SOURCES or tag in _LINKS or tag == "object":
            name = "src" if tag in _SOURCES else "href" if tag in _LINKS else "data"
            absolute = self._absolute(attributes.get(name) or "")
            return iri(absolute) if absolute else ""
        if tag in ("data", "meter"):
            return literal(attributes.get("value") or "")
        if tag == "time":
            text = attributes.get("datetime") or element.text().strip()
            return literal(text, _time_type(text))
        return literal(element.text().strip(), language=_language(attributes))

    def _absolute(self, target: str) -> str:
        """An address in the document as an IRI; one that is relative is relative to where it was read from."""
        target = target.strip()
        if is_iri(target):
            return target
        if target.startswith("#"):
            return self._base + target if is_iri(self._base + target) else ""
        if target == "":
            return self._base
        return resolved(target, self._source)

    def _element(self, element: Any, context: "_Context") -> tuple[list[str], "_Context"]:
        """RDFa's processing of one element: its statements, and the context of those within."""
        attributes: dict[str, str | None] = element.attributes
        if not attributes:
            return [], context
        context = context.within(attributes)
        said: list[str] = []
        has = attributes.__contains__
        rel = context.terms(attributes.get("rel"), self, plain="property" not in attributes)
        rev = context.terms(attributes.get("rev"), self, plain="property" not in attributes)
        properties = context.terms(attributes.get("property"), self)
        types = context.terms(attributes.get("typeof"), self)
        about = context.resource(attributes.get("about"), self) if has("about") else ""
        target = self._target(attributes, context)
        root = element.tag == "html"
        linked = typed = ""
        if rel or rev:
            subject = about or (iri(self._base) if root else context.object)
            linked = target or (self._node() if has("typeof") and not about else "")
            typed = about or linked if has("typeof") else ""
        elif properties and not has("content") and not has("datatype"):
            subject = about or (iri(self._base) if root else context.object)
            if has("typeof"):
                typed = about or (iri(self._base) if root else target or self._node())
                linked = typed if not about else ""
        else:
            made = self._node() if has("typeof") and not (about or target or root) else ""
            subject = about or target or (iri(self._base) if root else made or context.object)
            typed = subject if has("typeof") else ""
        said += [f"{typed} {iri(RDF + 'type')} {iri(one)}" for one in types if typed]
        if linked and (rel or rev):
            said += [f"{subject} {iri(one)} {linked}" for one in rel]
            said += [f"{linked} {iri(one)} {subject}" for one in rev if not linked.startswith('"')]
        # What the element itself hangs on, where it or a parent left the object open.
        if subject != context.object or linked or properties or has("typeof"):
            said += [f"{context.parent} {iri(one)} {subject}" for one in context.open_rel]
            said += [f"{subject} {iri(one)} {context.parent}" for one in context.open_rev]
            context = replace(context, open_rel=(), open_rev=())
        if properties:
            value = self._rdfa_value(element, attributes, context, target, typed, bool(rel or rev))
            said += [f"{subject} {iri(one)} {value}" for one in properties if value]
        if (rel or rev) and not linked:
            return said, replace(context, parent=subject, object=self._node(), open_rel=rel, open_rev=rev)
        inner = linked or subject
        if inner == context.object and context.open_rel + context.open_rev:
            return said, context
        return said, replace(context, parent=inner, object=inner)

    def _target(self, attributes: dict[str, str | None], context: "_Context") -> str:
        if "resource" in attributes and (found := context.resource(attributes["resource"], self)):
            return found
        for name in ("href", "src"):
            if name in attributes:
                absolute = self._absolute(attributes[name] or "")
                return iri(absolute) if absolute else ""
        return ""

    def _rdfa_value(
        self,
        element: Any,
        attributes: dict[str, str | None],
        context: "_Context",
        target: str,
        typed: str,
        linking: bool,
    ) -> str:
        content = attributes.get("content")
        if attributes.get("datatype"):
            (datatype,) = context.terms(attributes["datatype"], self)[:1] or ("",)
            return literal(element.text() if content is None else content, datatype)
        if content is not None:
            return literal(content, language=context.language)
        if "datatype" in attributes:
            return literal(element.text(), language=context.language)
        if not linking and target and "typeof" not in attributes:
            return target
        if "typeof" in attributes and "about" not in attributes and typed:
            return typed
        if element.tag == "time":
            text = attributes.get("datetime") or element.text().strip()
            return literal(text, _time_type(text))
        return literal(element.text(), language=context.language)


@dataclass(frozen=True)
class _Context:
    """RDFa's evaluation context: what an element inherits."""

    parent: str
    object: str
    vocab: str = ""
    language: str = ""
    prefixes: dict[str, str] = field(default_factory=lambda: dict(_INITIAL))
    open_rel: tuple[str, ...] = ()
    open_rev: tuple[str, ...] = ()

    def within(self, attributes: dict[str, str | None]) -> "_Context":
        """With what the element itself sets: vocab, prefixes, language."""
        context = self
        if "vocab" in attributes:
            vocab = (attributes["vocab"] or "").strip()
            context = replace(context, vocab=vocab if is_iri(vocab) else "")
        if words := (attributes.get("prefix") or "").split():
            added = {
                name[:-1].lower(): space
                for name, space in zip(words[::2], words[1::2], strict=False)
                if name.endswith(":") and is_iri(space)
            }
            context = replace(context, prefixes={**context.prefixes, **added})
        if "lang" in attributes or "xml:lang" in attributes:
            context = replace(context, language=_language(attributes))
        return context

    def terms(self, text: str | None, document: Html, *, plain: bool = True) -> tuple[str, ...]:
        """The IRIs that a list of terms, compact and full IRIs names; those that mean nothing are left out."""
        found: list[str] = []
        for word in (text or "").split():
            if ":" in word:
                name = self._compact(word)
            elif self.vocab:
                name = self.vocab + word if plain else ""
            else:
                name = _XHV + word.lower() if plain and word.lower() in _RDFA_TERMS else ""
            if is_iri(name):
                found.append(name)
        return tuple(found)

    def resource(self, text: str | None, document: Html) -> str:
        """The resource that `about` or `resource` names, as N-Triples."""
        word = (text or "").strip()
        if word.startswith("[") and word.endswith("]"):
            word = self._compact(word[1:-1])
            return iri(word) if is_iri(word) else ""
        if word.startswith("_:"):
            return f"_:named{word[2:].encode().hex()[:200]}"
        if ":" in word and (name := self._compact(word)) != word:
            return iri(name) if is_iri(name) else ""
        absolute = document._absolute(word)  # pyright: ignore[reportPrivateUsage] - two halves of one reader
        return iri(absolute) if absolute else ""

    def _compact(self, word: str) -> str:
        prefix, _, rest = word.partition(":")
        space = self.prefixes.get(prefix.lower())
        return word if space is None or rest.startswith("//") else space + rest


def _children(element: Any) -> list[Any]:
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


def _language(attributes: dict[str, str | None]) -> str:
    text = attributes.get("xml:lang") or attributes.get("lang") or ""
    parts = text.split("-")
    fits = len(text) <= 35 and all(1 <= len(part) <= 8 and part.isascii() and part.isalnum() for part in parts)
    return text if fits and parts[0].isalpha() else ""


def _time_type(text: str) -> str:
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
