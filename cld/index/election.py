"""Election: which of some candidates (assistants, tools, any resources) a request is for, or none.

Weighs what a request and a candidate's description have in common by meaning (their vectors), by words and
their like, and by the name, and what the candidate has done well before. Owns the weighing
and the decision to abstain; `election_words` and `election_learning` find the evidence. It knows no
store: who asks gives candidates it may read, and statistics are taken over those alone. Pure.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from cld.errors import InvalidArgument
from cld.index.arrays import Floats, Positions, Scores, np
from cld.index.election_doubt import CAUTION, EVEN, confidence, facts_of, learnt_caution, rivals_of
from cld.index.election_learning import PLACES, Experience, bounded, learnt_trust
from cld.index.election_learning import WORDS as EARLIER_WORDS
from cld.index.election_words import Vocabulary, emphasis, request_words
from cld.index.wordllama import embed

MAX_TEXT = 4000
"""Of a description or request so many characters count."""

# How much a difference of 1 in each signal says, in logits. Round figures, from development sets of eight kinds
# (bench/election.py); judged on one kind, weights fitted to the others do no better than these.
_WEIGHTS = {"meaning": 10.0, "words": 1.6, "name": 2.0}
_EARLIER = {"earlier": PLACES, "earlier_words": EARLIER_WORDS}

_TELLING = 1.4
"""The emphasis from which a word is worth telling: `what`, `when` and `of` are below."""

_BLOCK = 256
_BLOCK_SCORES = 2_000_000
_JOINED = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_MARKS = {ord(mark): " " for mark in "_.-/:"}


class Candidate(msgspec.Struct, frozen=True):
    """Who may be elected; `name` tells it from the others. `requests` are earlier ones that it completed well.

    `spoken` is how it is called, where that is not its name (a URI says little).
    """

    name: str
    description: str = ""
    parameters: str = ""
    requests: tuple[str, ...] = ()
    spoken: str = ""


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """What spoke for a candidate, and the words it shares with the request, the rarest first.

    `meaning` is the cosine of both texts, `words` how much more its words explain the request than others' do (0
    to about 5), `name` the part of its name that the request holds, `earlier` how near the request lies to those
    it completed, -1 to 1.
    """

    meaning: float = 0.0
    words: float = 0.0
    name: float = 0.0
    earlier: float = 0.0
    shared: tuple[str, ...] = ()


class Ranked(msgspec.Struct, frozen=True):
    """A candidate's place; `score` is the chance, as far as it can be told, that the request is for it."""

    name: str
    score: float
    why: Why


class Election(msgspec.Struct, frozen=True):
    """The best candidates, best first, and whether the first is to be taken.

    `confidence` is the chance that one of the candidates fits at all; under one half the election
    abstains. `reason` says it in words.
    """

    ranked: tuple[Ranked, ...]
    runner_up: str | None
    abstained: bool
    confidence: float
    reason: str


@dataclass(frozen=True)
class _Block:
    """A block of requests: for each (rows) and each candidate (columns) what each signal says, and their words.

    Signals come in the order of `_WEIGHTS`, then of `_EARLIER`.
    """

    signals: Floats
    words: Sequence[Sequence[str]]


class Electorate:
    """Candidates ready for elections.

    Making it costs about as much as embedding their descriptions and earlier requests; of these so many
    count as `election_learning` says. The same candidates and requests always give the same elections.

    Raises:
        InvalidArgument: two candidates have the same name.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        if len({one.name for one in candidates}) < len(candidates):
            raise InvalidArgument("two candidates have the same name; each needs one of its own", field="candidates")
        if not candidates:
            return
        spoken = [name_words(one.spoken or one.name) for one in candidates]
        texts = [
            f"{name}: {one.description} {name_words(one.parameters)}"[:MAX_TEXT]
            for name, one in zip(spoken, candidates, strict=True)
        ]
        self._vectors = embed([text.lower() for text in texts])
        self._rivals = rivals_of(self._vectors)
        self._vocabulary = Vocabulary(texts, spoken)
        self._experience: Experience | None = None
        self._weights: Floats = np.array([*_WEIGHTS.values()], np.float32)
        self._caution: Scores = np.array(CAUTION)
        earlier = [
            (number, request[:MAX_TEXT], request_words(request[:MAX_TEXT]))
            for number, requests in enumerate(bounded([one.requests for one in candidates]))
            for request in requests
        ]
        if earlier:
            described = [
                request_words(f"{name} {one.description}"[:MAX_TEXT])
                for name, one in zip(spoken, candidates, strict=True)
            ]
            self._learn(Experience(self._vectors, described, earlier))

    def elect(self, request: str, top: int = 5) -> Election:
        """The best `top` candidates for one request."""
        return next(self.elect_each([request], top))

    def elect_each(self, requests: Iterable[str], top: int = 5) -> Iterator[Election]:
        """An election for each request, in order; taken in blocks, which is quicker."""
        for block in _blocks(requests, max(1, min(_BLOCK, _BLOCK_SCORES // max(1, len(self.candidates))))):
            if not self.candidates:
                yield from (NOBODY for _ in block)
                continue
            found = self._met(block)
            logits = found.signals @ self._weights
            confidences = confidence(facts_of(logits, self._rivals), self._caution)
            for row in range(len(block)):
                yield self._election(found, row, logits[row], float(confidences[row]), top)

    def logits(self, requests: Sequence[str]) -> Floats:
        """The scores by which candidates (columns) are ranked for requests (rows); for measuring."""
        return self._met(requests).signals @ self._weights

    def _learn(self, experience: Experience) -> None:
        self._experience = experience
        rehearsal = experience.rehearsal()
        described, _, _ = self._described(rehearsal.requests)
        signals = np.stack([*described, rehearsal.signals.places, rehearsal.signals.words], axis=-1)
        start = [*(weight * experience.share for weight in _WEIGHTS.values()), *_EARLIER.values()]
        self._weights = learnt_trust(signals, rehearsal.owners, start)
        self._rivals = rivals_of(self._vectors, float(self._weights[len(_WEIGHTS)]))
        self._caution = learnt_caution(signals @ self._weights, rehearsal.owners, self._rivals)

    def _described(self, requests: Sequence[str]) -> "tuple[list[Floats], Floats, list[list[str]]]":
        """What the descriptions say, in the order of `_WEIGHTS`, and the requests' vectors and words."""
        cut = [request[:MAX_TEXT] for request in requests]
        words = [request_words(request) for request in cut]
        # The embedding takes a word in capitals for another one.
        vectors = embed([request.lower() for request in cut])
        found = self._vocabulary.meet(words)
        return [np.asarray(vectors @ self._vectors.T, np.float32), found.words, found.names], vectors, words

    def _met(self, requests: Sequence[str]) -> _Block:
        signals, vectors, words = self._described(requests)
        if self._experience is not None:
            earlier = self._experience.meet(vectors, words)
            signals += [earlier.places, earlier.words]
        return _Block(np.stack(signals, axis=-1), words)

    def _election(self, block: _Block, row: int, scores: Floats, confident: float, top: int) -> Election:
        words = block.words[row]
        if not words:
            return Election((), None, abstained=True, confidence=0.0, reason="the request has no words")
        best = _best(scores, max(top, 2))
        chances = np.exp((scores - scores[best[0]]).astype(np.float64))
        chances *= confident / float(chances.sum())
        telling = sorted(words, key=emphasis, reverse=True)
        numbers: list[int] = best.tolist()
        said: list[list[float]] = block.signals[row, best].tolist()
        ranked = tuple(
            [
                Ranked(self.candidates[number].name, round(chance, 6), self._why(one, telling, number))
                for number, one, chance in zip(numbers, said, chances[best].tolist(), strict=True)
            ]
        )
        abstained = confident < EVEN
        return Election(
            ranked=ranked[:top],
            runner_up=ranked[1].name if len(ranked) > 1 else None,
            abstained=abstained,
            confidence=round(confident, 6),
            reason=_reason(next(iter(ranked)), abstained, confident),
        )

    def _why(self, said: Sequence[float], telling: Sequence[str], number: int) -> Why:
        meaning, words, name, *earlier = [round(value, 4) or 0.0 for value in said]
        shared = self._vocabulary.shared(telling, number)
        return Why(meaning, words, name, earlier[0] if earlier else 0.0, shared)


def elect(request: str, candidates: Sequence[Candidate], top: int = 5) -> Election:
    """The best `top` of `candidates` for `request`; for many requests make an `Electorate` once.

    Raises:
        InvalidArgument: two candidates have the same name.
    """
    return Electorate(candidates).elect(request, top)


def name_words(name: str) -> str:
    """A name as words: `get_weather`, `getWeather` and `os.path.join` are read as two, two and three."""
    return _JOINED.sub(" ", name).translate(_MARKS)


def _best(scores: Floats, count: int) -> Positions:
    """The places of the highest scores, best first; ties by the order given, so that the answer is always the same."""
    if count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        among: Positions = np.flatnonzero(scores >= least)
    else:
        among = np.arange(len(scores))
    return among[np.argsort(-scores[among], kind="stable")[:count]]


def _reason(first: Ranked, abstained: bool, confident: float) -> str:
    if abstained:
        return f"nothing fits well enough: {confident:.0%} that any does; the nearest is {first.name}"
    words = [word for word in first.why.shared if emphasis(word) >= _TELLING]
    shared = f", sharing {', '.join(words[:5])}" if words else ""
    return f"{first.name} fits best{shared}; {confident:.0%} that any does"


def _blocks(requests: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(requests)
    while block := list(itertools.islice(rest, size)):
        yield block


NOBODY = Election(
    ranked=(), runner_up=None, abstained=True, confidence=0.0, reason="there are no candidates that may be read"
)
