"""Linked data within a resource: from its bytes to the triples of its graph, and what could not be read.

Runs in the graph's worker process only, because what it reads was written by anyone, and parsers of such texts
hang and crash. A resource never fails as a whole: what cannot be read is noted in its graph as
`cld-vocab:problem`, and the rest goes on. pyoxigraph, which parses Turtle and JSON-LD, is handed in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cld.index.linked_facts import Extracted, own_facts, texts, written
from cld.index.linked_html import LINKED_DATA, Html
from cld.index.linked_jsonld import decoded, documents_within, made_safe
from cld.index.linked_markdown import (
    front_matter,
    front_matter_statements,
    link_statements,
    taken_apart,
    toml_front_matter,
)
from cld.index.linked_rdfa import Rdfa
from cld.index.linked_terms import MAX_LITERAL, SCHEMA, VOCABULARY, source_iri
from cld.resource import Resource
from cld.uri import URI

MAX_TRIPLES = 50_000
MAX_BYTES = 8 * 1024 * 1024

_TURTLE = {"turtle": "TURTLE", "ttl": "TURTLE", "n-triples": "N_TRIPLES", "ntriples": "N_TRIPLES", "nt": "N_TRIPLES"}
_TURTLE_TYPES = {"text/turtle": "TURTLE", "application/n-triples": "N_TRIPLES"}
_JSON_LD = frozenset({"json-ld", "jsonld", "ld+json", LINKED_DATA})
_PLAIN = "text/plain"
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_HTML_SIGNS = ("itemscope", "property=", "typeof=", LINKED_DATA)
_DATA_IN_HTML = "http://schema.org/"


def extract(resource: Resource, rdf: Any) -> Extracted:
    """The graph of a resource; `rdf` is pyoxigraph."""
    reader = _Reader(resource, rdf)
    reader.read()
    return written(URI(resource.uri), list(reader.statements), reader.problems)


class _Full(Exception):
    """The graph holds as much as it may."""


class _Reader:
    def __init__(self, resource: Resource, rdf: Any) -> None:
        self._resource = resource
        self._uri = URI(resource.uri)
        self._rdf = rdf
        # A statement is there once; a dict keeps their order, so that a graph made anew is the same.
        self.statements: dict[str, None] = {}
        self.problems: list[str] = []
        self._bytes = 0
        self._nodes = 0
        # Blank nodes of two resources must never be taken for one.
        self._mark = hashlib.sha256(self._uri.encode()).hexdigest()[:16]

    def read(self) -> None:
        try:
            self._add(own_facts(self._resource))
            self._read_content()
        except _Full:
            self.problems.append(
                f"it says more than {MAX_TRIPLES} statements or {MAX_BYTES} bytes; the rest is left out"
            )

    def _read_content(self) -> None:
        for document in documents_within(self._resource.content):
            self._attempt(self._json_ld, document)
        for text, holder in texts(self._resource.content):
            if len(text) > 2:
                self._read_text(text, holder)

    def _read_text(self, text: str, holder: Mapping[str, Any]) -> None:
        media = holder.get("media_type")
        media = media.partition(";")[0].strip().lower() if isinstance(media, str) else ""
        if media in _TURTLE_TYPES:
            if text is holder.get("text"):
                self._attempt(self._turtle, text, _TURTLE_TYPES[media])
            return
        if media == LINKED_DATA:
            if text is holder.get("text"):
                self._attempt(self._json_ld_text, text)
            return
        if media == _PLAIN and text is holder.get("text"):
            return
        source = self._source(holder)
        if media in _HTML_TYPES:
            self._attempt(self._html, text, source, True)
            return
        if (
            "`" in text
            or "](" in text
            or "[[" in text
            or "<" in text
            or "]:" in text
            or text.startswith(("---", "+++"))
        ):
            self._attempt(self._markdown, text, source)

    def _markdown(self, text: str, source: str) -> None:
        parts = taken_apart(text)
        if parts.front_matter:
            self._attempt(self._front_matter, parts.front_matter, parts.is_toml)
        self._add(link_statements(parts.prose, self._uri, source))
        for language, block in parts.blocks:
            if language in _TURTLE:
                self._attempt(self._turtle, block, _TURTLE[language])
            elif language in _JSON_LD:
                self._attempt(self._json_ld_text, block)
        if "<" in parts.prose and any(sign in parts.prose for sign in _HTML_SIGNS):
            self._attempt(self._html, parts.prose, source, False)

    def _front_matter(self, text: str, is_toml: bool) -> None:
        values = toml_front_matter(text) if is_toml else front_matter(text)
        self._add(front_matter_statements(values, self._uri, self._node))

    def _html(self, text: str, source: str, links: bool) -> None:
        document = Html(text, self._uri, source, self._node)
        for script in document.scripts():
            self._attempt(self._json_ld_text, script)
        if "itemscope" in text:
            self._take(document.microdata())
        if any(sign in text for sign in ("property=", "typeof=", "rel=", "rev=")):
            self._take(Rdfa(document).statements())
        if links:
            self._add(document.links(self._uri))

    def _json_ld_text(self, text: str) -> None:
        self._json_ld(decoded(text))

    def _json_ld(self, document: object) -> None:
        self._parse(made_safe(document, self.problems.append), "JSON_LD")

    def _turtle(self, text: str, format: str) -> None:
        self._parse(text.encode(errors="replace"), format)

    def _take(self, statements: Iterable[str]) -> None:
        """Add what was found in a page: checked by the parser like everything else."""
        self._parse("".join(f"{one} .\n" for one in statements).encode(errors="replace"), "N_TRIPLES")

    def _parse(self, data: bytes, format: str) -> None:
        names: dict[str, str] = {}
        rdf = self._rdf
        self._add(
            statement
            for quad in rdf.parse(data, format=getattr(rdf.RdfFormat, format), base_iri=self._uri)
            if (statement := self._statement(quad, names)) is not None
        )

    def _statement(self, quad: Any, names: dict[str, str]) -> str | None:
        """The quad's triple; a graph that it names does not count, everything is in the resource's own."""
        predicate = str(quad.predicate)
        if predicate.startswith("<" + VOCABULARY):
            self.problems.append(f"{predicate} is for what cld itself says, and not taken from a text")
            return None
        parts = [self._term(quad.subject, names), _same_schema(predicate), self._term(quad.object, names)]
        return None if None in parts else " ".join(part for part in parts if part is not None)

    def _term(self, term: Any, names: dict[str, str]) -> str | None:
        rdf = self._rdf
        if isinstance(term, rdf.BlankNode):
            if term.value not in names:
                names[term.value] = self._node()
            return names[term.value]
        if isinstance(term, rdf.NamedNode):
            return _same_schema(str(term))
        if not isinstance(term, rdf.Literal):
            self.problems.append("statements about statements are not taken")
            return None
        if len(term.value) > MAX_LITERAL:
            self.problems.append(f"a text of {len(term.value)} characters is left out; at most {MAX_LITERAL} are taken")
            return None
        return str(term)

    def _node(self) -> str:
        self._nodes += 1
        return f"_:b{self._mark}n{self._nodes}"

    def _source(self, holder: Mapping[str, Any]) -> str:
        written = holder.get("source") or self._resource.content.get("source")
        return source_iri(written) if isinstance(written, str) and written else ""

    def _add(self, statements: Iterable[str] | Iterator[str]) -> None:
        for statement in statements:
            if len(statement) > 2 * MAX_LITERAL:
                self.problems.append(f"a statement of {len(statement)} characters is left out")
                continue
            if statement in self.statements:
                continue
            self._bytes += len(statement)
            if len(self.statements) >= MAX_TRIPLES or self._bytes > MAX_BYTES:
                raise _Full
            self.statements[statement] = None

    def _attempt(self, read: Any, *arguments: Any) -> None:
        """Read one part; what is wrong with it is noted, and the next one read."""
        try:
            read(*arguments)
        except _Full:
            raise
        except (ValueError, SyntaxError, OSError) as error:
            self.problems.append(" ".join(str(error).split()))
        except RecursionError:
            self.problems.append("it nests too deep")
        except Exception as error:  # a task boundary: one bad text must not cost the others
            self.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _same_schema(term: str) -> str:
    """schema.org under its two names is one vocabulary, as it says itself; the one with https is kept."""
    return f"<{SCHEMA}{term[19:]}" if term.startswith("<" + _DATA_IN_HTML) else term
