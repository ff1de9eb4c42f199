"""Statements as N-Triples: the vocabulary, and how texts and IRIs are written.

Pure, and without any RDF library, so that what the tree itself says can be written where none is loaded.
`docs/graph.md` documents the vocabulary.
"""

import re
from collections.abc import Iterator
from urllib.parse import quote

VOCABULARY = "cld-vocab:"
"""The namespace of what cld itself says of resources; what texts say with it is not taken from them."""

SOURCE = "cld-source:"
"""The scheme of paths that documents were read from, so that a relative link between them leads somewhere."""

XSD = "http://www.w3.org/2001/XMLSchema#"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SCHEMA = "https://schema.org/"
DCTERMS = "http://purl.org/dc/terms/"

PREFIXES = {
    "vocab": VOCABULARY,
    "cld": "cld:",
    "rdf": RDF,
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": XSD,
    "owl": "http://www.w3.org/2002/07/owl#",
    "schema": SCHEMA,
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": DCTERMS,
    "foaf": "http://xmlns.com/foaf/0.1/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "prov": "http://www.w3.org/ns/prov#",
}
"""Prefixes that a query and a front matter may use without saying what they stand for."""

MAX_LITERAL = 65_536
"""Characters of one text in the graph; a longer one is left out and told of."""

MAX_IRI = 2_048

_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,63}:[^\x00-\x20<>\"{}|^`\\\x7f\ud800-\udfff]*")
_ESCAPED = re.compile(r'[\x00-\x1f\x7f"\\\ud800-\udfff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def is_iri(text: str) -> bool:
    """Whether `text` can stand as an absolute IRI."""
    return len(text) <= MAX_IRI and _IRI.fullmatch(text) is not None


def iri(text: str) -> str:
    """The IRI as N-Triples; only for what `is_iri`."""
    return f"<{text}>"


def literal(text: str, datatype: str = "", language: str = "") -> str:
    """A text as N-Triples, of a datatype or in a language where one is given."""
    written = f'"{_ESCAPED.sub(_escape, text)}"'
    if language:
        return f"{written}@{language}"
    return f"{written}^^<{datatype}>" if datatype else written


def vocabulary(name: str) -> str:
    """The term `name` of cld's own vocabulary, as N-Triples."""
    return f"<{VOCABULARY}{name}>"


def source_iri(path: str) -> str:
    """The IRI that stands for the path or address a document was read from."""
    if is_iri(path) and not re.match(r"[A-Za-z]:", path):  # C:\… is a path
        return path
    return SOURCE + quote(path.replace("\\", "/"), safe="/~")[: MAX_IRI - len(SOURCE)]


def in_graph(triples: bytes, graph: str) -> Iterator[bytes]:
    """The statements as N-Quads: once in the graph of that name, once in the default graph.

    The default graph of a query is the union of all graphs. Oxigraph's own union counts a statement once
    for each graph it is in; with a copy in the default graph it is one statement.
    """
    if triples:
        # A line feed within a text is written as \n, so that this is the end of a statement and nothing else.
        yield triples.replace(b" .\n", b" <" + graph.encode() + b"> .\n")
        yield triples


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if "\ud800" <= char <= "\udfff":
        return "\ufffd"
    return _SHORT.get(char) or f"\\u{ord(char):04X}"
