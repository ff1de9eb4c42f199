"""Quotes: the few sentences of a passage that say why it was found. Pure."""

from collections.abc import Sequence

import msgspec

from cld.index.passages import Passage, sentences_of
from cld.index.scoring import Word
from cld.index.words import words_of

MAX_QUOTE = 320


class Quote(msgspec.Struct, frozen=True):
    """`text` is `field[start:end]`; `words` are those of the question that stand in the passage or its title."""

    field: str
    start: int
    end: int
    text: str
    words: tuple[str, ...]


def quote_of(passage: Passage, words: Sequence[Word]) -> Quote:
    """The sentences with most of the question's words, up to `MAX_QUOTE` characters of a field; else its beginning."""
    weights = {word.word: word.weight for word in words}
    there = {word for text in (passage.title, passage.name) for _, word in words_of(text)}
    best = (0.0, 0, 0, 0)
    for number, part in enumerate(passage.parts):
        cuts = sentences_of(part.text)
        said = [{word for _, word in words_of(part.text[start:end]) if word in weights} for start, end in cuts]
        there.update(*said)
        for first in range(len(cuts)):
            heard: set[str] = set()
            gained = 0.0
            # A quote begins and ends with a sentence that has something of the question; of equals the earlier.
            for last in range(first, len(cuts)) if said[first] else ():
                if last > first and cuts[last][1] - cuts[first][0] > MAX_QUOTE:
                    break
                if fresh := said[last] - heard:
                    heard |= fresh
                    gained += sum(weights[word] for word in sorted(fresh))
                    if gained > best[0]:
                        best = (gained, number, cuts[first][0], cuts[last][1])
    _, number, start, end = best
    part = passage.parts[number]
    if end == 0:
        end = _whole_words(part.text, MAX_QUOTE)
    elif end - start > MAX_QUOTE:
        end = start + _whole_words(part.text[start:end], MAX_QUOTE)
    text = part.text[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    found = tuple(word.word for word in words if word.word in there)
    return Quote(part.field, part.start + start, part.start + start + len(text), text, found)


def _whole_words(text: str, most: int) -> int:
    if len(text) <= most:
        return len(text)
    cut = max((at for at in range(most // 2, most) if text[at].isspace()), default=most)
    return cut
