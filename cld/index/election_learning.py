"""What earlier requests teach an election: where each candidate's lie, their words, and how much to trust that.

The mean of a candidate's requests is a better picture of those to come than its description, once there
are some; until then the description stands in (shrinkage). What requests differ by even where the
candidate is the same (politeness, names, numbers) is measured and discounted, as in Fisher's linear
discriminant. How far the earlier requests are trusted is learnt from themselves: each of a sample
is elected anew without itself. Costs are bounded: see `MAX_REQUESTS` and `_SAMPLE`. Pure.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cld.index.arrays import Floats, Positions, Scores, np
from cld.index.wordllama import embed

MAX_REQUESTS = 32
"""Earlier requests that count for each candidate."""

_MOST = 100_000  # and for all together
_SAMPLE = (100, 1000, 400_000)  # requests elected anew: at least, at most, and times the candidates
_PARTS = 4  # of the sample; each is elected without the spread of its own
_DESCRIPTION = 2.0  # requests that a description stands for
_CENTRE = 10.0
_SMOOTHING = 20.0  # words of language at large mixed to those of a candidate
_PATIENCE = 0.5

PLACES, WORDS = 10.0, 0.25
"""How much a difference of 1 in each signal says, before anything is learnt; in logits."""

SHARE = 0.4
"""What is left of the weight of the description, once there are many earlier requests."""

_DOUBT = 0.8  # the deviation of a weight from where it starts, as a part of it
_STEPS = 10


@dataclass(frozen=True)
class Signals:
    """For each request (rows) and candidate (columns): nearness to its earlier requests, and their words."""

    places: Floats
    words: Floats


@dataclass(frozen=True)
class Rehearsal:
    """A sample of earlier requests, each elected as if it had not been there.

    `signals` lacks what the request itself added to its own candidate, `owners` are the right answers.
    """

    requests: Sequence[str]
    owners: Positions
    signals: Signals


class Experience:
    """The earlier requests of all candidates, ready for elections; there is at least one."""

    def __init__(
        self,
        described: Floats,
        described_words: Sequence[Sequence[str]],
        requests: Sequence[tuple[int, str, Sequence[str]]],
    ) -> None:
        """`requests` are candidate, text and words."""
        count = len(described)
        self._texts = [text for _, text, _ in requests]
        self._words = [words for _, _, words in requests]
        self._owners = np.array([owner for owner, _, _ in requests], np.intp)
        self._vectors = embed([text.lower() for text in self._texts])
        self._numbers = np.bincount(self._owners, minlength=count).astype(np.float32)
        self._place(described)
        self._count_words(described_words)

    def meet(self, vectors: Floats, words: Sequence[Sequence[str]]) -> Signals:
        """The signals of requests, given as vectors and as words."""
        places = self._whitened(vectors, self._whitener) @ self._places.T
        return Signals(np.asarray(places, np.float32), np.stack([self._said(one) for one in words]))

    def rehearsal(self) -> Rehearsal:
        least, most, budget = _SAMPLE
        size = min(len(self._texts), max(least, min(most, budget // len(self._numbers))))
        # Any fixed choice will do; this one makes the same election of the same candidates.
        order: Positions = np.random.default_rng(0).permutation(len(self._texts))
        chosen: Positions = np.sort(order[:size])
        places: list[int] = chosen.tolist()
        owners: Positions = self._owners[chosen]
        words = [self._words[index] for index in places]
        signals = Signals(
            np.zeros((size, len(self._numbers)), np.float32), np.stack([self._said(one) for one in words])
        )
        for first in range(_PARTS):
            rows = np.arange(first, size, _PARTS)
            signals.places[rows] = self._rehearsed(chosen[rows])
        for row, (owner, one) in enumerate(zip(owners.tolist(), words, strict=True)):
            signals.words[row, owner] = self._said_without(one, owner)
        return Rehearsal([self._texts[index] for index in places], owners, signals)

    def _rehearsed(self, chosen: Positions) -> Floats:
        """The places of requests as if they had not been there, neither in the means nor in the spread."""
        rest = len(self._texts) - len(chosen)
        whitener = _whitener(self._scatter - self._scattered(chosen), rest)
        owners, vectors = self._owners[chosen], self._vectors[chosen]
        weight = (_DESCRIPTION + self._numbers[owners])[:, None]
        without = (self._means[owners] * weight - vectors) / (weight - 1)
        there = self._whitened(vectors, whitener)
        found = there @ self._whitened(self._means, whitener).T
        found[np.arange(len(chosen)), owners] = np.sum(there * self._whitened(without, whitener), axis=1)
        return np.asarray(found, np.float32)

    @property
    def share(self) -> float:
        """What is left of the weight of the description with so many earlier requests, before anything is learnt."""
        mean = float(self._numbers.mean())
        return 1 - (1 - SHARE) * mean / (mean + _DESCRIPTION)

    def _place(self, described: Floats) -> None:
        total = len(self._texts)
        middle = described.mean(axis=0)
        self._centre = (_CENTRE * middle + self._vectors.sum(axis=0)) / np.float32(_CENTRE + total)
        sums = np.zeros_like(described)
        np.add.at(sums, self._owners, self._vectors)
        # A description speaks of the same in another manner: moved to where requests are.
        moved = described - middle + self._centre
        self._means = (_DESCRIPTION * moved + sums) / (_DESCRIPTION + self._numbers)[:, None]
        self._scatter = self._scattered(np.arange(total))
        self._whitener = _whitener(self._scatter, total)
        self._places = self._whitened(self._means, self._whitener)

    def _scattered(self, chosen: Positions) -> Floats:
        apart = self._vectors[chosen] - self._means[self._owners[chosen]]
        return np.asarray(apart.T @ apart, np.float32)

    def _whitened(self, vectors: Floats, whitener: Floats) -> Floats:
        found: Floats = (vectors - self._centre) @ whitener
        return np.asarray(found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-9), np.float32)

    def _count_words(self, described: Sequence[Sequence[str]]) -> None:
        counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        sizes = np.zeros(len(described), np.float32)
        for owner, words in (*enumerate(described), *zip(self._owners.tolist(), self._words, strict=True)):
            sizes[owner] += len(words)
            for word in words:
                counts[word][owner] += 1
        everything = float(sizes.sum()) + 5000.0
        self._sizes = sizes
        self._said_by: dict[str, tuple[Positions, Floats, float]] = {}
        for word, by in counts.items():
            expected = _SMOOTHING * (sum(by.values()) + 1) / everything
            candidates = np.array(sorted(by), np.intp)
            times = np.array([by[candidate] for candidate in candidates.tolist()], np.float32)
            self._said_by[word] = (candidates, np.log1p(times / np.float32(expected)), expected)
        self._lengths = np.log1p(sizes / np.float32(_SMOOTHING)) * np.float32(_PATIENCE)

    def _said(self, words: Sequence[str]) -> Floats:
        """How much likelier each candidate's requests have these words than others' have (naive Bayes)."""
        row = self._lengths * np.float32(-len(words))
        if found := [self._said_by[word] for word in words if word in self._said_by]:
            candidates = np.concatenate([candidates for candidates, _, _ in found])
            said = np.concatenate([values for _, values, _ in found])
            row += np.bincount(candidates, said, len(row)).astype(np.float32)
        return row / np.float32(math.sqrt(len(words) + 1))

    def _said_without(self, words: Sequence[str], owner: int) -> float:
        value = -len(words) * _PATIENCE * math.log1p(max(0.0, float(self._sizes[owner]) - len(words)) / _SMOOTHING)
        for word in words:
            candidates, said, expected = self._said_by[word]
            times = math.expm1(float(said[np.searchsorted(candidates, owner)])) * expected
            value += math.log1p(max(0.0, times - 1) / expected)
        return value / math.sqrt(len(words) + 1)


def _whitener(scatter: Floats, count: int) -> Floats:
    """What makes the spread of so many requests about their candidates' means the same in all directions."""
    size = len(scatter)
    spread = scatter / np.float32(max(1, count))
    level = float(np.trace(spread)) / size + 1e-6
    spread = spread + np.eye(size, dtype=np.float32) * np.float32(level * (0.5 + 0.5 * size / max(1, count)))
    inverse: Floats = np.asarray(np.linalg.inv(spread), np.float32)
    return np.asarray(np.linalg.cholesky(inverse), np.float32)


def bounded(requests: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """For each candidate the requests that count: the last ones, so that all stay within bounds."""
    each = max(1, min(MAX_REQUESTS, _MOST // max(1, len(requests))))
    return [one[-each:] for one in requests]


def learnt_trust(signals: Floats, owners: Positions, start: Sequence[float]) -> Floats:
    """Weights of the signals (last axis) by which the requests (rows) find their candidates (columns) best.

    Conditional logistic regression by Newton's method, held to `start` as far as there is little to learn from.
    """
    begin: Scores = np.array(start)
    doubt: Scores = 1 / np.square(_DOUBT * begin)
    weights = begin
    right = signals[np.arange(len(owners)), owners]
    for _ in range(_STEPS):
        logits = signals @ weights.astype(np.float32)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        mean = np.einsum("qn,qnp->qp", chances, signals)
        slope = (right - mean).sum(axis=0) - doubt * (weights - begin)
        bend = np.einsum("qnp,qnr->pr", chances[..., None] * signals, signals, optimize=True) - mean.T @ mean
        step: Scores = np.asarray(np.linalg.solve(bend + np.diag(doubt), slope), np.float64)
        # A signal that speaks against what it should speak for is chance: weights stay positive.
        weights = np.maximum(weights + np.clip(step, -0.5 * begin, 0.5 * begin), 0.01 * begin)
    return weights.astype(np.float32)
