"""What single words of a request say about each candidate: by themselves, by their like, by their spelling.

Four signals, each a number for each candidate. Every one is a sum (or a maximum) over the request's
words, so what one word gives is computed once and kept, and a request costs a few additions.
Owns no opinion on how much each signal counts: `cld.index.election` weighs them. Pure.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from cld.index.arrays import Floats, Positions, np
from cld.index.wordllama import embed, rarity_of
from cld.index.words import words_of

MAX_WORDS = 64
"""A request is judged by so many of its words, the rarest."""

_KEPT_BYTES = 64 * 1024 * 1024
_SATURATION, _LENGTH = 1.2, 0.75  # BM25's usual k1 and b (Robertson & Zaragoza 2009)
_LIKE = 0.35**2  # less like than that is not like at all; squared
_GRAMS = (3, 4)
_MOST_RARITIES = 200_000

_Postings: TypeAlias = "tuple[Positions, Positions, Floats]"


class Signals:
    """For each request of a block (rows) and each candidate (columns).

    `words` is BM25, in units of the request's own weight; `likes` says how much of the request has a
    like in the candidate; `gist` is the cosine of both texts' vectors, each the sum of its words' by how much they
    count; `names` says how much of the candidate's name has a like in the request; `spelling`
    is the cosine of their letter sequences, which still meets where a word is misspelt or inflected.
    """

    def __init__(self, requests: int, candidates: int) -> None:
        self.words: Floats = np.zeros((requests, candidates), np.float32)
        self.likes: Floats = np.zeros((requests, candidates), np.float32)
        self.gist: Floats = np.zeros((requests, candidates), np.float32)
        self.names: Floats = np.zeros((requests, candidates), np.float32)
        self.spelling: Floats = np.zeros((requests, candidates), np.float32)


class _Word:
    """What one word gives: to each candidate by itself, its likes and its spelling, to each word of the names."""

    def __init__(self, vector: Floats, rows: Floats, names: Floats, weight: float, length: float) -> None:
        self.vector = vector
        self.rows = rows
        self.names = names
        self.weight = weight
        self.length = length


class Vocabulary:
    """The words of all candidates, ready to be met by those of requests.

    A word counts by how rare it is among the candidates and, because requests are made of other
    words than descriptions ("tell", "me", "tomorrow" are rare in those), in language at large; the
    geometric mean of both.
    """

    def __init__(self, texts: Sequence[str], names: Sequence[str]) -> None:
        said = [Counter(word_list(text)) for text in texts]
        self._count = len(texts)
        self._words = {word: number for number, word in enumerate(sorted(set[str]().union(*said)))}
        self._vectors = embed(list(self._words))
        there = Counter(word for words in said for word in words)
        self._weights = {word: math.sqrt(emphasis(word) * self._surprise(number)) for word, number in there.items()}
        self._unknown = self._surprise(0)
        self._cache: OrderedDict[str, _Word] = OrderedDict()
        self._most_cached = max(64, _KEPT_BYTES // (12 * self._count + 16 * len(names) + 1024))
        self._post_words(said)
        self._post_grams(said)
        self._flat, self._starts = self._flattened(said)
        weighed = self._vectors * np.sqrt(np.array([[emphasis(word)] for word in self._words], np.float32))
        self._gists = _unit(np.add.reduceat(weighed[self._flat], self._starts, axis=0))
        in_names = [Counter(word_list(name)) for name in names]
        self._flat_names, self._name_starts = self._flattened(in_names)
        weights = np.array([emphasis(word) for word in self._words], np.float32)
        self._name_weights = weights[self._flat_names]
        self._name_sums = np.add.reduceat(self._name_weights, self._name_starts) + np.float32(1e-9)

    def meet(self, requests: Sequence[Sequence[str]]) -> Signals:
        """The signals of requests, given as their words."""
        self._learn(word for words in requests for word in words)
        found = Signals(len(requests), self._count)
        gists = np.zeros((len(requests), self._gists.shape[1]), np.float32)
        for row, words in enumerate(requests):
            known = [self._cache[word] for word in words]
            if not known:
                continue
            rarities = np.array([emphasis(word) for word in words], np.float32)
            rows = np.sum([one.rows for one in known], axis=0)
            found.words[row] = rows[0] / ((_SATURATION + 1) * math.sqrt(sum(one.weight for one in known)))
            found.likes[row] = rows[1] / float(np.square(rarities).sum())
            found.spelling[row] = rows[2] / math.sqrt(sum(one.length for one in known))
            gists[row] = np.sum([one.vector for one in known], axis=0)
            best = np.max([one.names for one in known], axis=0)
            found.names[row] = np.add.reduceat(best * self._name_weights, self._name_starts) / self._name_sums
        self._forget()
        found.gist = _unit(gists) @ self._gists.T
        return found

    def shared(self, words: Iterable[str], candidate: int) -> tuple[str, ...]:
        """Those of `words` that the candidate has too, the rarest first."""
        end = self._starts[candidate + 1] if candidate + 1 < self._count else len(self._flat)
        there = set(self._flat[self._starts[candidate] : end].tolist())
        return tuple(sorted((word for word in words if self._words.get(word, -1) in there), key=emphasis, reverse=True))

    def _surprise(self, there: int) -> float:
        return math.log(1 + (self._count - there + 0.5) / (there + 0.5))

    def _learn(self, words: Iterable[str]) -> None:
        fresh = [word for word in dict.fromkeys(words) if self._touched(word)]
        if not fresh:
            return
        vectors = embed(fresh)
        likes = np.clip(vectors @ self._vectors.T, 0, 1)
        for word, vector, like in zip(fresh, vectors, likes, strict=True):
            if (number := self._words.get(word)) is not None:
                like[number] = 1.0
            self._cache[word] = self._word(word, vector, np.square(like))

    def _touched(self, word: str) -> bool:
        """Whether the word is new; one that is not counts as just used."""
        if word not in self._cache:
            return True
        self._cache.move_to_end(word)
        return False

    def _forget(self) -> None:
        while len(self._cache) > self._most_cached:
            self._cache.popitem(last=False)

    def _word(self, word: str, vector: Floats, squares: Floats) -> _Word:
        rows = np.zeros((3, self._count), np.float32)
        weight = self._weights.get(word) or math.sqrt(emphasis(word) * self._unknown)
        if (number := self._words.get(word)) is not None:
            _add(rows[0], self._by_word, number, weight)
        self._add_likes(rows[1], squares)
        rows[1] *= np.float32(emphasis(word) ** 2)
        length = 1e-9
        for gram in grams(word):
            known = self._grams.get(gram)
            value = math.sqrt(emphasis(word) * (self._gram_unknown if known is None else self._gram_surprise[known]))
            length += value * value
            if known is not None:
                _add(rows[2], self._by_gram, known, value)
        return _Word(vector * np.float32(math.sqrt(emphasis(word))), rows, squares[self._flat_names], weight, length)

    def _add_likes(self, row: Floats, squares: Floats) -> None:
        """For each candidate the likest of its words, of those that are like this one at all."""
        starts, candidates, _ = self._by_word
        near: Positions = np.flatnonzero(squares > _LIKE)
        firsts, ends = starts[near], starts[near + 1]
        sizes = ends - firsts
        places = np.arange(int(sizes.sum())) + np.repeat(firsts - np.cumsum(sizes) + sizes, sizes)
        np.maximum.at(cast(Any, row), candidates[places], np.repeat(np.square(squares[near]), sizes))

    def _post_words(self, said: Sequence[Mapping[str, int]]) -> None:
        mean = max(1.0, sum(sum(words.values()) for words in said) / max(1, len(said)))
        found: list[tuple[int, int, float]] = []
        for candidate, words in enumerate(said):
            size = _SATURATION * (1 - _LENGTH + _LENGTH * sum(words.values()) / mean)
            found += [
                (self._words[word], candidate, times * (_SATURATION + 1) / (times + size))
                for word, times in words.items()
            ]
        self._by_word = _posted(found, len(self._words))

    def _post_grams(self, said: Sequence[Mapping[str, int]]) -> None:
        held: list[dict[str, float]] = []
        for words in said:
            mine: dict[str, float] = {}
            for word in words:
                rare = emphasis(word)
                for gram in grams(word):
                    mine[gram] = max(rare, mine.get(gram, 0.0))
            held.append(mine)
        there = Counter(gram for mine in held for gram in mine)
        self._grams = {gram: number for number, gram in enumerate(there)}
        self._gram_surprise = [math.log((self._count + 1) / (number + 0.5)) for number in there.values()]
        self._gram_unknown = math.log((self._count + 1) / 0.5)
        found: list[tuple[int, int, float]] = []
        for candidate, mine in enumerate(held):
            values = [
                (self._grams[gram], math.sqrt(rare * self._gram_surprise[self._grams[gram]]))
                for gram, rare in mine.items()
            ]
            length = math.sqrt(sum(value * value for _, value in values)) or 1.0
            found += [(gram, candidate, value / length) for gram, value in values]
        self._by_gram = _posted(found, len(self._grams))

    def _flattened(self, said: Sequence[Mapping[str, int]]) -> "tuple[Positions, Positions]":
        """The numbers of each candidate's words, one candidate after the other, and where each begins.

        One without words has the first word there is, so that none is empty.
        """
        lists = [[self._words[word] for word in words if word in self._words] or [0] for words in said]
        starts = np.cumsum([0, *(len(one) for one in lists)])[:-1]
        return np.array([number for one in lists for number in one], np.intp), starts.astype(np.intp)


def word_list(text: str) -> list[str]:
    """The words of a text, in order."""
    return [word for _, word in words_of(text)]


def request_words(text: str) -> list[str]:
    """The words a request is judged by, each once, in order."""
    words = list(dict.fromkeys(word_list(text)))
    if len(words) > MAX_WORDS:
        kept = set(sorted(words, key=emphasis, reverse=True)[:MAX_WORDS])
        words = [word for word in words if word in kept]
    return words


def grams(word: str) -> Iterator[str]:
    """Its sequences of three and four letters, ends marked."""
    marked = f"^{word}$"
    return (marked[at : at + size] for size in _GRAMS for at in range(len(marked) - size + 1))


_rarities: dict[str, float] = {}


def emphasis(word: str) -> float:
    """How much a word counts: its rarity in language at large, squared, or many common words outweigh a telling one."""
    if (known := _rarities.get(word)) is None:
        if len(_rarities) >= _MOST_RARITIES:
            _rarities.clear()
        known = _rarities[word] = max(rarity_of(word), 0.1) ** 2 / 9
    return known


def _posted(found: list[tuple[int, int, float]], terms: int) -> _Postings:
    """By term: where its candidates begin, which they are, and the value for each."""
    table = np.array(found, np.float64).reshape(-1, 3)
    table = table[np.argsort(table[:, 0], kind="stable")]
    starts = np.searchsorted(table[:, 0], np.arange(terms + 1))
    return starts.astype(np.intp), table[:, 1].astype(np.intp), table[:, 2].astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9), np.float32)


def _add(row: Floats, postings: _Postings, term: int, weight: float) -> None:
    starts, candidates, values = postings
    part = slice(int(starts[term]), int(starts[term + 1]))
    cast(Any, row)[candidates[part]] += values[part] * np.float32(weight)
