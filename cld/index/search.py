"""Search: the resources that answer a question, best first, as far as the caller may read them.

Reads the index in any process, without locks; never writes. Whatever the index says is only a hint:
a hit is decided on by the caller's guard, read through it, and quoted from what was read.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from cld.errors import CldError, InvalidArgument, InvalidResource, ResourceNotFound
from cld.events.pace import to_thread
from cld.guard import GuardedStore
from cld.index import WORDS, BrokenIndex, Embedder, EmbeddingFailed, Hit, Mode, Model, Signal, Why
from cld.index.arrays import Floats, Mask, Positions, Scores, np
from cld.index.embedding import choose_embedder
from cld.index.passages import Passage, passages_of
from cld.index.quotes import Quote, quote_of
from cld.index.scoring import Question, Scored, question_of, score
from cld.index.segment import Segment, quantise
from cld.index.table import Table, View, current_of
from cld.index.wordllama import require_package
from cld.store import Stored
from cld.uri import ROOT, URI, namespace_of, type_of

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
MAX_QUESTION = 8000
QUESTION_SECONDS = 10.0
"""How long an answer waits for the model before words alone decide."""

_STEP = 64


class _Candidate(msgspec.Struct, frozen=True):
    uri: URI
    version: str
    part: int
    score: float
    words: float
    meaning: float


class Search:
    """Answers questions from the index in `folder`, which some process maintains; holds it open between questions."""

    def __init__(self, folder: Path, choose: Callable[[Model], Embedder] = choose_embedder) -> None:
        self._folder = folder
        self._choose = choose
        self._table: Table | None = None
        self._embedder: Embedder | None = None
        self._opening = asyncio.Lock()
        self.failure = ""
        """Why words alone decided the last answer; empty where they did not."""

    async def query(
        self,
        store: GuardedStore,
        query: str,
        prefix: URI = ROOT,
        types: Sequence[str] = (),
        *,
        namespace: str = "",
        limit: int = DEFAULT_LIMIT,
        mode: Mode = "hybrid",
    ) -> tuple[Hit, ...]:
        """At most `limit` resources at or below `prefix`, of these types and this namespace if any are named.

        Where the model cannot be asked, words alone decide. No index yet: no hits.

        Raises:
            BrokenIndex: the index cannot be read; whoever maintains it makes it anew.
            InvalidArgument: `limit` is not 1 to `MAX_LIMIT`.
            EmbeddingFailed: `mode` is "meaning", and the model cannot be asked.
            Unsupported: what search needs is not installed.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidArgument(f"limit is {limit}; give 1 to {MAX_LIMIT}", field="limit")
        view = await self._view()
        if view is None:
            require_package()
        if view is None or not query.strip():
            return ()
        question = await self._question(view, query[:MAX_QUESTION], mode)

        def wanted(uri: URI) -> bool:
            return (not types or type_of(uri) in types) and (not namespace or namespace_of(uri) == namespace)

        filtered = bool(types or namespace)
        scored = await to_thread(lambda: _score(view, question, mode, prefix, wanted if filtered else None))
        found: list[Hit] = []
        seen: set[URI] = set()
        for step in _ordered(scored):
            best = {candidate.uri: candidate for candidate in reversed(step) if candidate.uri not in seen}
            seen |= best.keys()
            fresh = [candidate for candidate in step if best.get(candidate.uri) is candidate]
            size = max(16, 2 * limit)
            for first in range(0, len(fresh), size):
                batch = fresh[first : first + size]
                readable = set(await store.readable([candidate.uri for candidate in batch]))
                for candidate in batch:
                    if candidate.uri in readable and (hit := await _hit(store, candidate, question)) is not None:
                        found.append(hit)
                        if len(found) == limit:
                            return tuple(found)
        return tuple(found)

    async def complete(self) -> bool:
        """Whether all of the tree has been indexed once; before that, hits may be missing."""
        view = await self._view()
        return view is not None and view.manifest.complete

    async def model(self) -> Model | None:
        """The model of the index that answers; None where there is none."""
        view = await self._view()
        return None if view is None else view.manifest.model

    async def _view(self) -> View | None:
        async with self._opening:
            digest = current_of(self._folder)
            while digest:
                if self._table is None or self._table.folder.name != digest:
                    self._table = Table(self._folder / digest)
                try:
                    view, error = await to_thread(self._table.refresh), None
                except BrokenIndex as broken:
                    view, error = None, broken
                # Another may have taken its place between the two, and then this one is gone for good.
                if view is not None or (now := current_of(self._folder)) == digest:
                    break
                digest = now
            else:
                return None
            if error is not None:
                self._table = None
                advice = (
                    "the server that maintains it makes it anew when it finds that out; removing .cld/index does too"
                )
                raise BrokenIndex(f"the search index cannot be read: {error}; {advice}") from error
            return view

    async def _question(self, view: View, text: str, mode: Mode) -> Question:
        vector = None
        self.failure = ""
        if view.manifest.model == WORDS:
            self.failure = "the model could not be asked when the index was made"
        elif mode != "words":
            model = view.manifest.model
            if self._embedder is None or self._embedder.model != model:
                self._embedder = self._choose(model)
            try:
                vector = await self._vector(self._embedder, text, view.manifest.dimensions)
            except CldError as error:
                if mode == "meaning":
                    raise
                self.failure = str(error)
                log.warning("search: by words only, for %s", error)
        return await to_thread(lambda: question_of(text, vector, view.manifest.background, view.manifest.model))

    @staticmethod
    async def _vector(embedder: Embedder, text: str, dimensions: int) -> Floats:
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                vectors = await embedder.embed([text])
        except TimeoutError:
            raise EmbeddingFailed(f"{embedder.model.name} did not answer within {QUESTION_SECONDS:g} s") from None
        if vectors.shape != (1, dimensions):
            raise EmbeddingFailed(f"{embedder.model.name} gives vectors of {vectors.shape[1:]}, not of {dimensions}")
        return quantise(vectors)[0].astype(np.float32)


_Part = tuple[Segment, Scored]


def _score(
    view: View, question: Question, mode: Mode, prefix: URI, wanted: Callable[[URI], bool] | None
) -> list[_Part]:
    found: list[_Part] = []
    for segment, alive in view.parts:
        documents: Mask = alive
        if prefix != ROOT:
            documents = documents & _within(segment, prefix)
        if wanted is not None:
            documents = documents & np.fromiter(
                (bool(there) and wanted(uri) for uri, there in zip(segment.uris, documents, strict=True)),
                np.bool_,
                len(segment.uris),
            )
        if documents.any():
            rows = None if documents.all() else documents[segment.documents]
            found.append((segment, score(segment, question, mode, rows)))
    return found


def _within(segment: Segment, prefix: URI) -> Mask:
    mask = np.zeros(len(segment.uris), np.bool_)
    uris = segment.uris
    # Sorted: the prefix itself stands alone, all below it together, as '0' follows '/'.
    for low, high in ((prefix, f"{prefix}\0"), (f"{prefix}/", f"{prefix}0")):
        mask[_bisect(uris, low) : _bisect(uris, high)] = True
    return mask


def _bisect(uris: Sequence[str], text: str) -> int:
    low, high = 0, len(uris)
    while low < high:
        middle = (low + high) // 2
        if uris[middle] < text:
            low = middle + 1
        else:
            high = middle
    return low


def _ordered(parts: list[_Part]) -> Iterator[list[_Candidate]]:
    """All rows with a score, best first, in steps that grow; equal ones by uri and place, not by where they lie."""
    if not parts:
        return
    scores = np.concatenate([scored.score for _, scored in parts])
    firsts: Positions = np.cumsum(np.array([0, *(segment.rows for segment, _ in parts)], np.intp))
    left = np.flatnonzero(scores > 0)
    size = _STEP
    while len(left):
        mine: Scores = scores[left]
        bound = float(np.partition(mine, -size)[-size]) if len(left) > size else 0.0
        step: list[_Candidate] = []
        best: Positions = left[mine >= bound]
        for at in map(int, best):
            number = int(np.searchsorted(firsts, at, "right")) - 1
            segment, scored = parts[number]
            row = at - int(firsts[number])
            document = int(segment.documents[row])
            step.append(
                _Candidate(
                    segment.uris[document],
                    segment.version_of(document),
                    segment.part_of(row),
                    float(scored.score[row]),
                    float(scored.words[row]),
                    float(scored.meaning[row]),
                )
            )
        step.sort(key=lambda candidate: (-candidate.score, candidate.uri, candidate.part))
        yield step
        left = left[mine < bound]
        size *= 4


async def _hit(store: GuardedStore, candidate: _Candidate, question: Question) -> Hit | None:
    """The candidate as it is in the tree now; None where it is gone or has no text any more."""
    try:
        stored = await store.get(candidate.uri)
    except (ResourceNotFound, InvalidResource):
        return None
    if stored.version != candidate.version and store.guard.needs_meta:
        # The score is of a text that the caller perhaps could not read, as its meta was then.
        return None
    quote = _quote(stored, candidate, question)
    if quote is None:
        return None
    signals: list[Signal] = []
    if candidate.words > 0:
        signals.append("words")
    if question.vector is not None and candidate.meaning > question.background:
        signals.append("meaning")
    why = Why(quote.field, quote.start, quote.end, tuple(signals), quote.words, round(candidate.meaning, 6))
    return Hit(candidate.uri, round(candidate.score, 6), quote.text, why)


def _quote(stored: Stored, candidate: _Candidate, question: Question) -> Quote | None:
    passages: list[Passage] = passages_of(stored.resource)
    if stored.version == candidate.version and candidate.part < len(passages):
        return quote_of(passages[candidate.part], question.words)
    # Changed since, and not indexed yet: the score is of what was there, the quote of what is.
    quotes = [quote_of(passage, question.words) for passage in passages]
    return max(quotes, key=lambda quote: len(quote.words), default=None)
