"""SPARQL as text: what a query may not ask for, and where in it a mistake is. Knows tokens, not grammar."""

import re
from typing import Any

from cld.errors import InvalidArgument
from cld.index.linked_terms import PREFIXES

MAX_SPARQL = 65_536

# Texts, comments, IRIs, variables and prefixed names are told from words, which keywords are. What is in a text is
# never given back (`*+`), or the time for one that is not closed would grow with the square of its length.
_TOKEN = re.compile(
    r'(?P<long>"""|\'\'\')(?:(?!(?P=long))(?:[^\\]|\\.))*+(?P<closed>(?P=long))?'
    r"|(?P<short>[\"'])(?:(?!(?P=short))(?:[^\\\n]|\\.))*+(?P=short)?"
    r"|(?P<comment>#[^\n\r]*)"
    r"|<[^<>\"{}|^`\\\x00-\x20]*>"
    r"|[?$]\w+"
    r"|(?P<word>[A-Za-z][\w.-]*)(?P<colon>:(?:[\w.:%/-]|\\.)*+)?"
    r"|_?:(?:[\w.:%-]|\\.)*+|@[\w-]+|\^\^|&&|\|\||[!<>]=|<<|>>|[\d.]+(?:[eE][+-]?\d+)?|\S",
    re.DOTALL,
)
_UPDATES = frozenset(("INSERT", "DELETE", "LOAD", "CLEAR", "CREATE", "DROP", "COPY", "MOVE", "ADD", "WITH"))
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")
_GAP = " " * 24
"""Longer than any keyword."""


class InvalidQuery(InvalidArgument):
    """SPARQL that cannot be run; `line` and `column` are 1-based where known."""

    code = "invalid_query"

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message, field="sparql")
        self.line = line
        self.column = column

    def details(self) -> dict[str, Any]:
        place = {} if self.line is None else {"line": self.line, "column": self.column}
        return {**super().details(), **place}


def check(sparql: str) -> None:
    """Refuse what the engine would do but a query may not, and say of an update that it is one.

    Raises:
        InvalidQuery: it is too long, an update, or calls another service.
    """
    if len(sparql) > MAX_SPARQL:
        raise InvalidQuery(f"sparql: it has {len(sparql)} characters; at most {MAX_SPARQL} are taken")
    # Characters may be written as escapes, keywords too; then as it is and as it is meant must both do.
    for text in dict.fromkeys((sparql, _ESCAPE.sub(_unescaped, sparql))):
        verb = ""
        for token in _TOKEN.finditer(text):
            word = "" if token["colon"] else (token["word"] or "").upper()
            if not verb and word not in ("", "PREFIX", "BASE"):
                verb = word
                if verb in _UPDATES:
                    advice = "the graph can only be read, change the resources instead"
                    raise _at(text, token.start(), f"{verb} is an update; {advice}")
            if token["long"] and not token["closed"]:
                raise _at(text, token.start(), f"a text is not closed; end it with {token['long']}")
            if word == "SERVICE":
                raise _at(text, token.start(), "SERVICE is not available; a query sees this tree only")


def undeclared(sparql: str) -> str:
    """What to add to an error where a prefix is used that stands for nothing: the usual cause, named by no parser."""
    declared = set(PREFIXES)
    used: dict[str, None] = {}
    declares = False
    for token in _TOKEN.finditer(sparql):
        if token["colon"]:
            if declares:
                declared.add(token["word"])
            used.setdefault(token["word"])
        declares = (token["word"] or "").upper() == "PREFIX" and not token["colon"]
    missing = [f"{name}:" for name in used if name not in declared]
    return f"; no PREFIX says what {', '.join(missing[:5])} stands for" if missing else ""


def spread(sparql: str) -> tuple[str, list[tuple[int, int]]]:
    """The query with wide gaps between its tokens, and where each token is in it and was in the query.

    The engine's parser names the furthest place that it looked at, and it looks as far as its longest keyword
    would reach. In a gap that is still the token it was trying.
    """
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    for token in _TOKEN.finditer(sparql):
        if token["comment"] is None:
            parts += [_GAP, token[0]]
            at += len(_GAP)
            places.append((at, token.start()))
            at += len(token[0])
    parts.append(_GAP)
    places.append((at + len(_GAP), len(sparql.rstrip())))
    return "".join(parts), places


def _at(text: str, at: int, message: str) -> InvalidQuery:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return InvalidQuery(f"sparql: line {line}, column {column}: {message}", line=line, column=column)


def _unescaped(found: re.Match[str]) -> str:
    code = int(found[1] or found[2], 16)
    return chr(code) if code < 0x110000 else found[0]
