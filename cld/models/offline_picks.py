"""Picks: which of the tools on offer a task is for, and with which arguments, told by rule and by similarity.

Owns the caution in it: what changes, sends or starts something is only called when the task itself names the tool
and every argument it needs; an argument is filled from the task's words or not at all, and a tool that lacks one it
needs is not called. Looks at the task's own words only, never at what resources or tools say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from cld.errors import Unsupported
from cld.index.election import Candidate, elect, name_words
from cld.models import ToolOffer
from cld.models.offline_sums import sum_in
from cld.types import Wish

MOST_PICKS = 3
_MOST_READS = 3
_MOST_QUERY = 500
_MOST_HITS = 20

URI = re.compile(r"cld:[A-Za-z0-9_.:/-]*[A-Za-z0-9_-]")
_LINK = re.compile(r"https?://[^\s<>\"')\]]+[^\s<>\"')\].,;:!?]")
_SPARQL = re.compile(r"(?is)\b(?:prefix\s+\S+\s+<[^>]*>\s*)*(?:select|ask|construct|describe)\b[^{]*\{.*\}[^.?!`\n]*")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")

_CHANGES = """
add append approve cancel change commit copy create delete deploy destroy drop edit execute ingest insert install
kill make merge modify move patch pay plan post publish purge push put rebase reject remove rename replace reset
restart restore revoke run schedule send set start stop store submit sync transfer update upload write draft
assistant purchase buy order book invite share reply forward grant deny
"""
_WRITING = frozenset(_CHANGES.split())
_HARMLESS = frozenset({"run", "make", "set", "plan", "order", "book"})
"""Words that begin a description of something harmless just as well."""

_QUERIES = ("query", "question", "q", "search", "keywords", "keyword", "term", "terms", "topic", "text", "prompt")
_SEARCHES = frozenset({"search", "find", "lookup", "retrieve", "query"})
_SUMS = frozenset({"calculator", "calculate", "calc", "arithmetic", "compute", "math"})
EXPRESSIONS = ("expression", "formula", "expr", "calculation")
"""Names of arguments that are a calculation."""


def picks(task: str, offers: Sequence[ToolOffer]) -> tuple[Wish, ...]:
    """The calls that a task is for, the most telling first; each can be made as it is."""
    asked = list(_explicit(task, offers))
    if not asked:
        asked = list(_sums(task, offers))
    if not asked:
        asked = list(_reads(task, offers))
    if not asked:
        asked = list(_found(task, offers))
    seen: dict[tuple[str, str], Wish] = {}
    for name, arguments in asked:
        seen.setdefault((name, repr(arguments)), Wish(f"offline_{len(seen)}", name, arguments))
    return tuple(seen.values())[:MOST_PICKS]


def is_reading(offer: ToolOffer) -> bool:
    """Whether a tool, by its name and what it says first of itself, only looks."""
    named = set(name_words(offer.name).lower().split())
    first = re.match(r"\W*([A-Za-z]+)", offer.description)
    says = first[1].lower() if first else ""
    return not (named & _WRITING) and not ({says, says.removesuffix("s")} & _WRITING - _HARMLESS)


def reader(offers: Sequence[ToolOffer]) -> ToolOffer | None:
    """The tool that reads one resource by its URI."""
    return next((offer for offer in offers if offer.name == "resource_get" and "uri" in _properties(offer)), None)


def _explicit(task: str, offers: Sequence[ToolOffer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tools that the task names, with arguments that it names."""
    for offer in offers:
        if not re.search(rf"(?<![\w-]){re.escape(offer.name)}(?![\w-])", task):
            continue
        given: dict[str, Any] = {}
        for name, schema in _properties(offer).items():
            if (value := _named(task, name, schema)) is not None:
                given[name] = value
        if given and _required(offer) <= given.keys():
            yield offer.name, given


def _sums(task: str, offers: Sequence[ToolOffer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A calculation in the task, for a tool that calculates."""
    if (expression := sum_in(task)) is None:
        return
    for offer in offers:
        named = set(name_words(offer.name).lower().split())
        if not (named & _SUMS) and not re.search(r"(?i)\b(?:calculat|arithmetic)", offer.description):
            continue
        texts = [name for name, schema in _properties(offer).items() if _type(schema) == "string"]
        for name in (*EXPRESSIONS, *texts):
            if name in texts and _required(offer) <= {name}:
                yield offer.name, {name: expression}
                return


def _reads(task: str, offers: Sequence[ToolOffer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the task names by URI or SPARQL."""
    if (get := reader(offers)) is not None:
        for uri in list(dict.fromkeys(URI.findall(task)))[:_MOST_READS]:
            yield get.name, {"uri": uri}
    if query := _SPARQL.search(task):
        for offer in offers:
            if "sparql" in _properties(offer) and _required(offer) <= {"sparql"} and is_reading(offer):
                yield offer.name, {"sparql": query[0].strip()}


def _found(task: str, offers: Sequence[ToolOffer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is like the task, and what searches."""
    fillable = {
        offer.name: (offer, arguments)
        for offer in offers
        if is_reading(offer) and (arguments := filled(task, offer)) is not None
    }
    searching = [name for name in fillable if _is_search(fillable[name][0])]
    others = [name for name in fillable if name not in searching]
    # Among all there are: where the task is for one that may not be called, or that lacks an argument, no other
    # takes its place.
    if others and (first := _elected(task, offers)) in others:
        yield first, fillable[first][1]
    # The tree's own search before those of other places.
    for name in sorted(searching, key=lambda name: (name != "search", name))[:1]:
        offer, arguments = fillable[name]
        limit = _properties(offer).get("limit", {})
        # Among the hits are the question itself and what was made of it before.
        many = {"limit": min(_MOST_HITS, int(limit.get("maximum", _MOST_HITS)))} if _type(limit) == "integer" else {}
        yield name, {**many, **arguments}


def _elected(task: str, offers: Sequence[ToolOffer]) -> str:
    """The tool that is most like the task; empty when none is like it."""
    candidates = [Candidate(offer.name, offer.description, " ".join(_properties(offer))) for offer in offers]
    try:
        election = elect(task, candidates, top=1)
    except Unsupported:
        return ""
    return "" if election.abstained or not election.ranked else election.ranked[0].name


def _is_search(offer: ToolOffer) -> bool:
    named = set(name_words(offer.name).lower().split())
    return bool(named & _SEARCHES) and any(name in _QUERIES for name in _properties(offer))


def filled(task: str, offer: ToolOffer) -> dict[str, Any] | None:
    """The arguments for a tool from the task's words; None when one that it needs is not there."""
    required = _required(offer)
    given: dict[str, Any] = {}
    for name, schema in _properties(offer).items():
        value = _named(task, name, schema)
        if value is None and name in required:
            value = _guessed(task, name, schema)
        if value is not None:
            given[name] = value
        elif name in required:
            return None
    return given


def _named(task: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value that the task gives by name, as in `limit: 5`, `limit=5` or `city "Oslo"`."""
    spoken = r"[ _-]".join(map(re.escape, re.split(r"[_-]", name)))
    found = re.search(
        rf"(?i)(?<![\w:/]){spoken}\s*(?:(?:=|:(?!/))\s*(?:\"([^\"]*)\"|'([^']*)'|`([^`]*)`|([^\s,;]+))"
        rf"|\s(?:\"([^\"]+)\"|'([^']+)'|`([^`]+)`))",
        task,
    )
    if found is None:
        return None
    text = next(group for group in found.groups() if group is not None)
    bare = found[4] is not None
    return _of_type(text.rstrip(".?!") if bare else text, schema)


def _guessed(task: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value of an argument that the task does not name, where there is but one it can mean."""
    if options := schema.get("enum"):
        said = [one for one in options if isinstance(one, str) and re.search(rf"(?i)\b{re.escape(one)}\b", task)]
        return said[0] if len(said) == 1 else None
    match _type(schema):
        case "string" if name in _QUERIES:
            most = min(_MOST_QUERY, int(schema.get("maxLength", _MOST_QUERY)))
            return query_of(task, most)
        case "string" if name in ("url", "link", "href"):
            return _only(_LINK.findall(task))
        case "string" if name == "uri":
            return _only(URI.findall(task))
        case "string" if name in ("date", "day") or schema.get("format") == "date":
            return _only(_DATE.findall(task))
        case "integer" | "number":
            number = _only(_NUMBER.findall(task))
            return None if number is None else _of_type(number, schema)
        case _:
            return None


def query_of(task: str, most: int = _MOST_QUERY) -> str | None:
    """A task as what is searched for."""
    text = " ".join(task.split())
    text = text if len(text) <= most else text[:most].rsplit(" ", 1)[0]
    return text or None


def _of_type(text: str, schema: Mapping[str, Any]) -> Any:
    options = schema.get("enum")
    value: Any = None
    match _type(schema):
        case "string":
            value = text
        case "integer" if re.fullmatch(r"-?\d{1,18}", text):
            value = int(text)
        case "number" if re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", text):
            value = float(text) if "." in text else int(text)
        case "boolean" if text.lower() in ("true", "false", "yes", "no"):
            value = text.lower() in ("true", "yes")
        case _:
            return None
    if options is not None and value not in options:
        return None
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(value, (int, float)) and ((low is not None and value < low) or (high is not None and value > high)):
        return None
    return value


def _only(found: Sequence[str]) -> str | None:
    different = list(dict.fromkeys(found))
    return different[0] if len(different) == 1 else None


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in cast("list[Any]", kind) if one != "null"]
        kind = kinds[0] if len(kinds) == 1 else ""
    return kind if isinstance(kind, str) else ""


def _properties(offer: ToolOffer) -> dict[str, Mapping[str, Any]]:
    found = offer.parameters.get("properties")
    if not isinstance(found, Mapping):
        return {}
    entries = cast("Mapping[str, Any]", found)
    return {name: cast("Mapping[str, Any]", one) if isinstance(one, Mapping) else {} for name, one in entries.items()}


def _required(offer: ToolOffer) -> set[str]:
    found = offer.parameters.get("required")
    return {str(one) for one in cast("Sequence[Any]", found)} if isinstance(found, Sequence) else set()
