"""Scores: how well each passage answers a question, from the question and that passage alone. Pure.

No statistics of other texts enter, so nothing the caller may not read can move a score. What another
search engine counts in its documents (how rare a word is) comes here from a table that does not depend
on the tree, and lengths are compared with a fixed one. The arithmetic gives the same bits for a passage
wherever it stands: dot products are of whole numbers below 2^24, all else is done element by element.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import msgspec

from cld.index import DEFAULT_MODEL, Mode, Model
from cld.index.arrays import Floats, Mask, Numbers, Scores, np
from cld.index.segment import PLACE, POSITION_BITS, SCALE, Segment
from cld.index.wordllama import rarity_of
from cld.index.words import NAME, TITLE, hash_of, words_of


def share_of(model: Model) -> float:
    """The share of meaning in a hybrid score; the rest is of words.

    A sum of two scores on fixed scales serves better than one of ranks (Bruch et al., An Analysis of Fusion
    Functions for Hybrid Retrieval, 2023), and is of one passage alone. A mean of word vectors
    knows neither order nor context, so it says less than the words themselves; a contextual model as much.
    """
    return 1 / 3 if model.name == DEFAULT_MODEL else 1 / 2


# BM25's saturation and length normalisation at their usual values (Robertson and Zaragoza, The Probabilistic
# Relevance Framework, 2009), with the lengths compared to a passage's usual one.
_K1 = 1.2
_B = 0.75
_USUAL_WORDS = 120.0
_TITLE_WEIGHT = 3.0
_NAME_WEIGHT = 0.5
_PAIR = 0.5
_COMMON = 2.0
"""Words less rare than this (the, of, and) are left out of a question that has others."""
_FAR = 4
"""Words of the question further apart than this make no pair."""

_MOST_WORDS = 64
"""Of a question longer than this the first words count, its meaning as a whole."""

_BLOCK = 512
"""Rows at a time: small enough to stay in the processor's cache, and below where libraries begin to use threads."""


class Word(msgspec.Struct, frozen=True):
    """A word of the question: its hash, how much it weighs, and where it first stands there."""

    word: str
    term: int
    weight: float
    position: int


class Question(msgspec.Struct, frozen=True):
    """What is asked, ready to be compared; `vector` None where meaning is not, or cannot be, compared."""

    text: str
    words: tuple[Word, ...]
    vector: "Floats | None"
    background: float = 0.0
    share: float = 0.5


class Scored(msgspec.Struct, frozen=True):
    """For each row: the score that counts, and the two it is made of (`meaning` is the cosine)."""

    score: Scores
    words: Scores
    meaning: Scores


def question_of(text: str, vector: "Floats | None", background: float, model: Model) -> Question:
    """The question in `text`; `vector` is its embedding by `model`, as `quantise` makes it."""
    words: dict[str, Word] = {}
    for position, word in words_of(text):
        if word not in words:
            words[word] = Word(word, hash_of(word), rarity_of(word), position)
    said = list(words.values())
    if any(word.weight > _COMMON for word in said):
        said = [word for word in said if word.weight > _COMMON]
    return Question(text, tuple(said[:_MOST_WORDS]), vector, background, share_of(model))


def score(segment: Segment, question: Question, mode: Mode, wanted: "Mask | None" = None) -> Scored:
    """The scores of the segment's rows, or of those where `wanted` (one flag a row), zero elsewhere."""
    words = _score_words(segment, question) if mode != "meaning" else np.zeros(segment.rows)
    meaning = np.zeros(segment.rows)
    if mode != "words" and question.vector is not None:
        meaning = _cosines(segment, question.vector, wanted)
    clear = np.maximum(0.0, (meaning - question.background) / (1.0 - question.background))
    if mode == "words" or question.vector is None:
        total = words
    elif mode == "meaning":
        total = clear
    else:
        total = (1.0 - question.share) * words + question.share * clear
    return Scored(total if wanted is None else np.where(wanted, total, 0.0), words, meaning)


def _cosines(segment: Segment, vector: Floats, wanted: "Mask | None") -> Scores:
    found = np.zeros(segment.rows)
    vectors = segment.vectors
    query = vector.astype(np.float32)
    buffer = np.empty((_BLOCK, vectors.shape[1]), np.float32)
    for first in range(0, segment.rows, _BLOCK):
        end = min(first + _BLOCK, segment.rows)
        if wanted is not None and not wanted[first:end].any():
            continue
        block = buffer[: end - first]
        np.copyto(block, vectors[first:end], casting="unsafe")
        found[first:end] = block @ query
    return found / (SCALE * SCALE)


def _score_words(segment: Segment, question: Question) -> Scores:
    total = np.zeros(segment.rows)
    if not question.words:
        return total
    best = 0.0
    zones = _zones()
    places = [segment.keys_of(word.term) for word in question.words]
    for word, keys in zip(question.words, places, strict=True):
        best += word.weight
        if len(keys):
            # Keys ascend, so those of one row lie together.
            rows = keys >> np.uint32(POSITION_BITS)
            firsts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
            count = np.add.reduceat(zones[keys & np.uint32(PLACE)], firsts)
            rows = rows[firsts]
            spread = _K1 * (1.0 - _B + _B * segment.lengths[rows] / _USUAL_WORDS)
            total[rows] += word.weight * (count / (count + spread))
    for (one, there), (other, here) in _pairs(question.words, places):
        weight = _PAIR * min(one.weight, other.weight)
        best += weight
        if not (len(there) and len(here)):
            continue
        distance = other.position - one.position
        few, many, shift = (there, here, distance) if len(there) <= len(here) else (here, there, -distance)
        sought = few + np.uint32(shift % (1 << 32))
        at = np.searchsorted(many, sought)
        together = few[many[np.minimum(at, len(many) - 1)] == sought]
        total[np.unique(together >> np.uint32(POSITION_BITS))] += weight
    return total / best


@cache
def _zones() -> Scores:
    """What an occurrence counts, by its position."""
    weights = np.ones(1 << POSITION_BITS)
    weights[TITLE:NAME] = _TITLE_WEIGHT
    weights[NAME:] = _NAME_WEIGHT
    return weights


def _pairs(
    words: Sequence[Word], places: "Sequence[Numbers]"
) -> "list[tuple[tuple[Word, Numbers], tuple[Word, Numbers]]]":
    """Words that say something and follow one another in the question, perhaps with common ones in between."""
    both = list(zip(words, places, strict=True))
    return [(one, other) for one, other in pairwise(both) if other[0].position - one[0].position <= _FAR]
