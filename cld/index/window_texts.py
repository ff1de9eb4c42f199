"""The texts of a window: what a resource says, how many tokens that takes, and whether it was said before. Pure."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

import msgspec

from cld.errors import Unsupported
from cld.index.passages import passages_of
from cld.index.wordllama import count_tokens
from cld.index.words import hash_of, words_of
from cld.resource import Resource
from cld.types import Task
from cld.uri import URI

MAX_CHARACTERS = 200_000
"""Of one resource no more is looked at."""

SAME = 0.85
"""Two texts are near the same when so much of the shorter one's shingles are in the other."""

_STATE = {
    "plan.Task": frozenset({*Task.__struct_fields__} - {"inputs", "output", "sources"}),
    "common.Message": frozenset({"role"}),
}
"""By type the keys of content that say how far something is, who has it or whose it is: nothing to work with."""

_SHINGLE = 4
_MAX_WORDS = 4000
_FIELD = re.compile(r"[.\[]")


class Slice(msgspec.Struct, frozen=True):
    """`field[start:end]`, counted in characters, where `field` is a path such as `content.text`."""

    field: str
    start: int
    end: int


class Text(msgspec.Struct, frozen=True):
    """Slices of a resource, in order, and their texts, a line each; `cut` where `MAX_CHARACTERS` left some out."""

    slices: tuple[Slice, ...]
    lines: tuple[str, ...]
    cut: bool = False

    @property
    def joined(self) -> str:
        return "\n".join(self.lines)


def text_of(resource: Resource, fields: Sequence[str] = ()) -> Text:
    """What a resource says: its description, then its content; with `fields`, only those and what is below them.

    Of tasks and messages it is what is to be done, what with, and what came of it or was said: no state, no lease.
    """
    state = _STATE.get(resource.type, frozenset())
    slices: list[Slice] = []
    lines: list[str] = []
    left = MAX_CHARACTERS
    for passage in passages_of(resource):
        for part in passage.parts:
            inside = not fields or any(
                part.field == field or part.field.startswith((f"{field}.", f"{field}[")) for field in fields
            )
            if inside and not (part.field.startswith("content.") and _FIELD.split(part.field)[1] in state):
                if len(part.text) > left:
                    return Text(tuple(slices), tuple(lines), cut=True)
                left -= len(part.text)
                slices.append(Slice(part.field, part.start, part.start + len(part.text)))
                lines.append(part.text)
    return Text(tuple(slices), tuple(lines))


def fitting(uri: URI, text: Text, room: int) -> tuple[Text, int]:
    """As many of the first lines as fit into `room` tokens, with their URI, and what they take."""
    total, taken = tokens_of_name(uri), 0
    # More at a time with every step, so that what there is no room for is hardly looked at.
    while taken < len(text.lines):
        for count in tokens_of([f"{line}\n" for line in text.lines[taken : 2 * taken + 1]]):
            if total + count > room:
                return Text(text.slices[:taken], text.lines[:taken]), total if taken else 0
            total += count
            taken += 1
    return text, total if taken else 0


def tokens_of_name(uri: URI) -> int:
    """What a resource takes in a window before it says anything."""
    return tokens_of([f"{uri}\n\n"])[0]


def tokens_of(texts: Sequence[str]) -> list[int]:
    """Tokens of each text; without the tokenizer, its bytes, of which no tokenizer makes more tokens."""
    try:
        return [_tokens(text) for text in texts]
    except Unsupported:
        return [len(text.encode()) for text in texts]


@lru_cache(maxsize=4096)
def _tokens(text: str) -> int:
    # Kept, for all that is worked at one place of the tree is told the same of what is above it.
    return count_tokens((text,))[0]


class Said:
    """What a window says already, to find what would only say it again."""

    def __init__(self) -> None:
        self._by: dict[URI, tuple[str, frozenset[int]]] = {}

    def before(self, text: str) -> URI | None:
        """The resource that said this already, or nearly this."""
        plain, shingles = _plain(text), _shingles(text)
        for uri, (other, others) in self._by.items():
            if plain == other or (shingles and len(shingles & others) >= SAME * len(shingles)):
                return uri
        return None

    def add(self, uri: URI, text: str) -> None:
        self._by[uri] = (_plain(text), _shingles(text))


def _plain(text: str) -> str:
    return " ".join(text.split())


@lru_cache(maxsize=64)
def _shingles(text: str) -> frozenset[int]:
    """Runs of words; of a text shorter than one there are none, and it is compared whole."""
    words = [word for _, word in islice(words_of(text), _MAX_WORDS)]
    return frozenset(hash_of(" ".join(words[at : at + _SHINGLE])) for at in range(len(words) - _SHINGLE + 1))
