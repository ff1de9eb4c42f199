"""RDFa: what the attributes of an HTML document say, as https://www.w3.org/TR/rdfa-core/, without `inlist`.

Walks are loops, because a document can nest as deep as it is long; how long they may take is bounded by whoever
runs them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cld.index.linked_html import Html, children_of, language_of, time_type
from cld.index.linked_terms import PREFIXES, RDF, iri, is_iri, literal

_INITIAL = {**PREFIXES, "dc": PREFIXES["dcterms"], "og": "http://ogp.me/ns#"}
"""As RDFa's initial context has them."""

for _name in ("vocab", "cld"):
    del _INITIAL[_name]
_RDFA_TERMS = {"describedby", "license", "role"}
_XHV = "http://www.w3.org/1999/xhtml/vocab#"


class Rdfa:
    """What the attributes of one document say, as N-Triples statements."""

    def __init__(self, document: Html) -> None:
        self._document = document

    def statements(self) -> Iterator[str]:
        """All of them, in the order of the document."""
        root = self._document.root
        if root is None:
            return
        base = iri(self._document.base)
        stack = [(root, _Context(parent=base, object=base))]
        while stack:
            element, context = stack.pop()
            statements, inner = self._element(element, context)
            yield from statements
            stack += [(one, inner) for one in reversed(children_of(element))]

    def _element(self, element: Any, context: "_Context") -> tuple[list[str], "_Context"]:
        """RDFa's processing of one element: its statements, and the context of those within."""
        attributes: dict[str, str | None] = element.attributes
        if not attributes:
            return [], context
        context = context.within(attributes)
        said: list[str] = []
        has = attributes.__contains__
        rel = context.terms(attributes.get("rel"), plain="property" not in attributes)
        rev = context.terms(attributes.get("rev"), plain="property" not in attributes)
        properties = context.terms(attributes.get("property"))
        types = context.terms(attributes.get("typeof"))
        about = context.resource(attributes.get("about"), self._document) if has("about") else ""
        target = self._target(attributes, context)
        root = element.tag == "html"
        linked = typed = ""
        if rel or rev:
            subject = about or (iri(self._document.base) if root else context.object)
            linked = target or (self._document.node() if has("typeof") and not about else "")
            typed = about or linked if has("typeof") else ""
        elif properties and not has("content") and not has("datatype"):
            subject = about or (iri(self._document.base) if root else context.object)
            if has("typeof"):
                typed = about or (iri(self._document.base) if root else target or self._document.node())
                linked = typed if not about else ""
        else:
            made = self._document.node() if has("typeof") and not (about or target or root) else ""
            subject = about or target or (iri(self._document.base) if root else made or context.object)
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
            return said, replace(context, parent=subject, object=self._document.node(), open_rel=rel, open_rev=rev)
        inner = linked or subject
        if inner == context.object and context.open_rel + context.open_rev:
            return said, context
        return said, replace(context, parent=inner, object=inner)

    def _target(self, attributes: dict[str, str | None], context: "_Context") -> str:
        if "resource" in attributes and (found := context.resource(attributes["resource"], self._document)):
            return found
        for name in ("href", "src"):
            if name in attributes:
                absolute = self._document.absolute(attributes[name] or "")
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
            (datatype,) = context.terms(attributes["datatype"])[:1] or ("",)
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
            return literal(text, time_type(text))
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
            context = replace(context, language=language_of(attributes))
        return context

    def terms(self, text: str | None, *, plain: bool = True) -> tuple[str, ...]:
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
        absolute = document.absolute(word)
        return iri(absolute) if absolute else ""

    def _compact(self, word: str) -> str:
        prefix, _, rest = word.partition(":")
        space = self.prefixes.get(prefix.lower())
        return word if space is None or rest.startswith("//") else space + rest
