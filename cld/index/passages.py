"""Passages: which texts of a resource are searched, and in what pieces. Pure.

A passage is what is embedded and scored as one: the description, or as much of the content as one
thought takes. It consists of parts, each an exact slice of one field, so that what matched can be
quoted with its place. The title goes with every passage of its resource, because a passage
from the middle of a text seldom says what it is about.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec

from cld.resource import Meta, Resource
from cld.uri import URI, id_of, type_of

MAX_CHARACTERS = 1000
"""A passage has at most this many: some 200 words, about what one vector can stand for."""

MAX_TITLE = 300

TITLE_FIELDS = ("title_path", "title", "name", "subject")
"""Keys of content whose text says what all of it is about; of a list, all in its order."""

FOR_MACHINES = frozenset({"media_type", "encoding", "converter", "digest", "linked_data"})
"""Keys of content of which nobody asks by their words."""

PIECE = "title_path"
"""A content with this is a piece of a text: what it was read from is told of the whole."""

_DATA_LENGTH = 200
_DATA = re.compile(r"[\x21-\x7e]*")
_MACHINE = re.compile(r"cld:\S*|[0-9a-f-]{16,}|[0-9T:.,Z+\s-]*")
_RANDOM_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}|[0-9a-f-]{16,}|[a-z]{0,2}[0-9]+")
# Where a text may be cut, best first: between paragraphs, lines, sentences, clauses, words.
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[ \t\r]*\n\s*",
        r"\n\s*",
        r"(?<=[.!?\u2026])[\"')\]\u00bb\u201d]*\s+|(?<=[\u3002\uff01\uff1f\u0964])",
        r"(?<=[,;:\u2014\u3001\uff0c])\s*",
        r"\s+",
    )
)


class Part(msgspec.Struct, frozen=True):
    """`text` is the field's text from `start` on."""

    field: str
    start: int
    text: str


class Passage(msgspec.Struct, frozen=True):
    """A piece of a resource; `title` and `name` (from its type and id) are about all of it."""

    title: str
    name: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts)

    @property
    def titled(self) -> str:
        """The text to embed: what it says, and before it what it is about."""
        text = self.text
        return text if not self.title or text.startswith(self.title) else f"{self.title}\n{text}"


def passages_of(resource: Resource) -> list[Passage]:
    """The passages of a resource: of its description, then of its content; none where it has no text."""
    title = _title(resource.content)
    name = _name(URI(resource.uri))
    found = [Passage(title, name, parts) for parts in _packed(_described(resource.meta))]
    found += [Passage(title, name, parts) for parts in _packed(_texts(_for_people(resource.content), "content"))]
    return found


def _for_people(content: Mapping[str, Any]) -> dict[str, Any]:
    left_out = FOR_MACHINES | {"source"} if PIECE in content else FOR_MACHINES
    return {key: value for key, value in content.items() if key not in left_out}


def _title(content: Mapping[str, Any]) -> str:
    said: list[str] = []
    for key in TITLE_FIELDS:
        match content.get(key):
            case str(text) if text.strip():
                said.append(text.strip())
            case [*items]:
                said += [item.strip() for item in cast("list[object]", items) if isinstance(item, str) and item.strip()]
            case _:
                pass
    # A title path ends with the title.
    return " \u203a ".join(dict.fromkeys(said))[:MAX_TITLE]


def _name(uri: URI) -> str:
    """The words in type and id: `plan.Task` and `write-notes`, but not a random id."""
    id = id_of(uri)
    kind = type_of(uri).partition(".")[2]
    return kind if _RANDOM_ID.fullmatch(id) else f"{kind} {id}"


def _described(meta: Meta) -> Iterator[tuple[str, str]]:
    for name in meta.__struct_fields__:
        if text := getattr(meta, name):
            yield f"meta.{name}", text


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Every text in `value` that a person might look for, with its path, in order."""
    match value:
        case str() if _is_prose(value):
            yield path, value
        case dict():
            for key, child in cast("dict[str, object]", value).items():
                yield from _texts(child, f"{path}.{key}")
        case list():
            for index, child in enumerate(cast("list[object]", value)):
                yield from _texts(child, f"{path}[{index}]")
        case _:
            pass


def _is_prose(text: str) -> bool:
    """Not so: addresses in the tree, digests, times and numbers, and data written as text."""
    if not text or _MACHINE.fullmatch(text):
        return False
    return len(text) <= _DATA_LENGTH or not _DATA.fullmatch(text)


def _packed(fields: Iterator[tuple[str, str]]) -> Iterator[tuple[Part, ...]]:
    """Short fields together, long ones in pieces."""
    waiting: list[Part] = []
    size = 0
    for field, text in fields:
        for start, end in pieces_of(text):
            if waiting and size + end - start > MAX_CHARACTERS:
                yield tuple(waiting)
                waiting, size = [], 0
            waiting.append(Part(field, start, text[start:end]))
            size += end - start + 1
    if waiting:
        yield tuple(waiting)


def pieces_of(text: str, size: int = MAX_CHARACTERS) -> Iterator[tuple[int, int]]:
    """Starts and ends of pieces of at most `size`, without blanks around, cut at the best place near their ends."""
    start, length = 0, len(text)
    while start < length:
        end = length if length - start <= size else _cut(text, start + size // 2, start + size)
        left, right = start, end
        while left < right and text[left].isspace():
            left += 1
        while left < right and text[right - 1].isspace():
            right -= 1
        if left < right:
            yield left, right
        start = end


def _cut(text: str, low: int, high: int) -> int:
    for pattern in _CUTS:
        last = None
        for found in pattern.finditer(text, low, high):
            last = found.end()
        if last is not None and last > low:
            return last
    return high


def sentences_of(text: str) -> Sequence[tuple[int, int]]:
    """The ends of its sentences; a line is one too."""
    cuts = sorted({0, len(text), *(found.end() for pattern in _CUTS[1:3] for found in pattern.finditer(text))})
    return list(pairwise(cuts))
