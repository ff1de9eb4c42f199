"""What single words of a request say about each candidate: by themselves, by their like, by the candidate's name.

Two signals, each a number for each candidate. Both are sums (or maxima) over the request's words, so
what one word gives is computed once and kept, and a request costs a few additions. Owns no opinion on
how much each signal counts: `cld.index.election` weighs them. Pure.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from cld.index.arrays import Floats, Positions, np
from cld.index.wordllama import embed, rarity_of
from cld.index.words import words_of

MAX_WORDS = 64
"""A request is judged by so many of its words, the rarest."""

_KEPT_BYTES = 64 * 1024 * 1024
_SHARPNESS = 0.12  # words less like by this are meant e times less often
_UNLIKE = 0.3  # less like than that is not like at all
_SURE = 0.1  # that a word of a request is meant to name what it is for, and not said in passing
_OTHERS = 30  # candidates there could be that have nothing like a word; without them it could say little among few
_NOISE = 0.8  # chance makes up so much evidence
_BATCH = 512
_MOST_RARITIES = 200_000


class Signals:
    """For each request of a block (rows) and each candidate (columns).

    `words` is by how much more (a logarithm) the candidate's words explain those of the request than the mean
    candidate's do; `names` says how much of the candidate's name has a like in the request.
    """

    def __init__(self, words: Floats, names: Floats) -> None:
        self.words = words
        self.names = names


class Vocabulary:
    """The words of all candidates, ready to be met by those of requests.

    A word of a request speaks for a candidate by the word there that is most like it, the same one at
    best, against what the mean candidate has to offer: what all have says nothing (Berger & Lafferty
    1999 see a request as a translation of what it asks for; Zuccon et al. 2015 take likeness of vectors for its
    probabilities). It counts by its rarity in language at large.
    """

    def __init__(self, texts: Sequence[str], names: Sequence[str]) -> None:
        self._said = [frozenset(word_list(text)) for text in texts]
        self._count = len(texts)
        # One word at least, so that nothing below is empty.
        self._words = {word: number for number, word in enumerate(sorted({""}.union(*self._said)))}
        self._vectors = embed(list(self._words))
        self._post()
        self._name(names)
        self._cache: OrderedDict[str, tuple[Floats, Floats]] = OrderedDict()
        self._most_cached = max(64, _KEPT_BYTES // (4 * self._count + 4 * len(self._in_names) + 512))

    def meet(self, requests: Sequence[Sequence[str]]) -> Signals:
        """The signals of requests, given as their words."""
        said = np.zeros((len(requests), self._count), np.float32)
        likes = np.zeros((len(requests), len(self._in_names)), np.float32)
        first = 0
        while first < len(requests):
            last = self._learn(requests, first)
            for row in range(first, last):
                if words := requests[row]:
                    known = [self._cache[word] for word in words]
                    length = math.sqrt(sum(emphasis(word) ** 2 for word in words))
                    said[row] = np.sum([one for one, _ in known], axis=0) / np.float32(length)
                    likes[row] = np.max([one for _, one in known], axis=0)
            while len(self._cache) > self._most_cached:
                self._cache.popitem(last=False)
            first = last
        names = np.add.reduceat(likes[:, self._name_words] * self._name_weights, self._name_starts, axis=1)
        return Signals(np.maximum(said - np.float32(_NOISE), 0), np.asarray(names / self._name_sums, np.float32))

    def shared(self, words: Iterable[str], candidate: int) -> tuple[str, ...]:
        """Those of `words` that the candidate has too."""
        there = self._said[candidate]
        return tuple([word for word in words if word in there])

    def _learn(self, requests: Sequence[Sequence[str]], first: int) -> int:
        """Finds out what the words of requests give, from `first` on as far as there is room; says where it ended."""
        wanted = dict.fromkeys(requests[first])
        last = first + 1
        while last < len(requests) and len(wanted) + len(requests[last]) <= self._most_cached:
            wanted |= dict.fromkeys(requests[last])
            last += 1
        fresh: list[str] = []
        for word in wanted:
            if word in self._cache:
                self._cache.move_to_end(word)
            else:
                fresh.append(word)
        for at in range(0, len(fresh), _BATCH):
            batch = fresh[at : at + _BATCH]
            likes = embed(batch) @ self._vectors.T
            for word, like in zip(batch, likes, strict=True):
                if (number := self._words.get(word)) is not None:
                    like[number] = 1.0
                self._cache[word] = self._met(word, like)
        return last

    def _met(self, word: str, like: Floats) -> tuple[Floats, Floats]:
        """What a word gives each candidate, and its likeness to each word of the names."""
        near: Positions = np.flatnonzero(like > _UNLIKE)
        near = near[np.argsort(like[near], kind="stable")]
        unlike = np.float32(math.exp((_UNLIKE - 1) / _SHARPNESS))
        meant = np.full(self._count, unlike, np.float32)
        firsts, ends = self._starts[near], self._starts[near + 1]
        sizes = ends - firsts
        places = np.arange(int(sizes.sum())) + np.repeat(firsts - np.cumsum(sizes) + sizes, sizes)
        # Of a candidate's words the likest comes last, and stays.
        meant[self._owners[places]] = np.repeat(np.exp((like[near] - 1) / np.float32(_SHARPNESS)), sizes)
        usual = (meant.sum() + _OTHERS * unlike) / (len(meant) + _OTHERS)
        said = np.log((1 - _SURE) + _SURE * meant / usual) * np.float32(emphasis(word))
        named = np.clip(like[self._in_names], 0, 1) ** 4
        return np.asarray(said, np.float32), np.asarray(named, np.float32)

    def _post(self) -> None:
        """By word: where the candidates that have it begin, and which they are."""
        pairs = np.array(
            [(self._words[word], owner) for owner, words in enumerate(self._said) for word in words], np.intp
        ).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self._starts: Positions = np.searchsorted(pairs[:, 0], np.arange(len(self._words) + 1)).astype(np.intp)
        self._owners: Positions = pairs[:, 1].copy()

    def _name(self, names: Sequence[str]) -> None:
        """Each candidate's words of its name, one candidate after the other, as places among all those of names.

        A name without words has the empty one, which nothing is like.
        """
        lists = [[word for word in dict.fromkeys(word_list(name)) if word in self._words] for name in names]
        filled = [words or [""] for words in lists]
        known = {word: at for at, word in enumerate(sorted(set[str]().union(*filled)))}
        self._in_names: Positions = np.array([self._words[word] for word in known], np.intp)
        self._name_words: Positions = np.array([known[word] for words in filled for word in words], np.intp)
        self._name_starts: Positions = np.cumsum([0, *map(len, filled)])[:-1].astype(np.intp)
        self._name_weights: Floats = np.array([emphasis(word) ** 2 for words in filled for word in words], np.float32)
        self._name_sums = np.add.reduceat(self._name_weights, self._name_starts)


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


_rarities: dict[str, float] = {}


def emphasis(word: str) -> float:
    """How much a word counts: its rarity in language at large, about 0 to 3."""
    if (known := _rarities.get(word)) is None:
        if len(_rarities) >= _MOST_RARITIES:
            _rarities.clear()
        known = _rarities[word] = max(rarity_of(word), 0.1) / 3
    return known
