"""Knowledge: the indexes of one tree, kept by this process from their first use on, and what asks them.

Nothing is watched, kept or imported beyond the standard library before somebody asks. From then on
this process stands ready to keep the index that was asked, and does unless another one is at it already.
Answers are always for the caller's own guarded store.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from cld.config import Settings
from cld.errors import Unsupported
from cld.events.pace import to_thread
from cld.guard import GuardedStore, GuardedSubscription
from cld.index import BrokenIndex, Hit, IndexUnavailable, Model
from cld.index.check import GRACE_SECONDS, Checked, check_elections, check_graph, check_search
from cld.index.election import Candidate, Election, Electorate
from cld.index.election_history import TASK, with_history
from cld.index.election_keeper import ElectionKeeper
from cld.index.election_keeper import catch_up as catch_up_elections
from cld.index.election_table import ElectionTable
from cld.index.graph import Answer, Graph, GraphLimits
from cld.index.graph_keeper import GraphKeeper
from cld.index.graph_keeper import catch_up as catch_up_graph
from cld.index.graph_messages import Format
from cld.index.keeping import RECONCILE_SECONDS, Keeping
from cld.index.lock import held
from cld.index.maintainer import Maintainer
from cld.index.search import DEFAULT_LIMIT, Search
from cld.uri import ROOT, URI

log = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
"""How long the first question waits to see whether this process becomes the one that keeps the index."""

BUILD_SECONDS = 20.0
"""How long the first question waits for an index that is being made; later ones take what there is."""

Kind = Literal["search", "graph", "elections"]
KINDS: tuple[Kind, ...] = ("search", "graph", "elections")

Hear = Callable[[frozenset[str] | None], AbstractAsyncContextManager[GuardedSubscription]]
"""Subscribes to the changes of resources of these types, of all for None."""


class Knowledge:
    """The indexes below `folder`, kept as the principal that `store` reads as; `aclose` it."""

    def __init__(
        self,
        folder: Path,
        store: GuardedStore,
        hear: Hear,
        model: Model,
        *,
        limits: GraphLimits | None = None,
        reconcile_seconds: float = RECONCILE_SECONDS,
    ) -> None:
        self._store = store
        self._folders: dict[Kind, Path] = {kind: folder / kind for kind in KINDS}
        texts, triples, tasks = self._folders.values()
        self._maintainer = Maintainer(texts, store, lambda: hear(None), model, reconcile_seconds=reconcile_seconds)
        keeper = GraphKeeper(triples, store, lambda: hear(None), reconcile_seconds=reconcile_seconds)
        learner = ElectionKeeper(tasks, store, lambda: hear(frozenset({TASK})), reconcile_seconds=reconcile_seconds)
        self._keepings: dict[Kind, Keeping] = {
            "search": self._maintainer.keeping,
            "graph": keeper.keeping,
            "elections": learner.keeping,
        }
        self._search = Search(texts)
        self._model = model
        self._graph = Graph(triples, limits)
        self._elections = ElectionTable(tasks, writes=False)
        self._running: dict[Kind, asyncio.Task[None]] = {}
        self._caught_up: set[Kind] = set()
        self._electing = asyncio.Lock()

    async def search(
        self,
        store: GuardedStore,
        query: str,
        prefix: URI = ROOT,
        types: Sequence[str] = (),
        *,
        namespace: str = "",
        limit: int = DEFAULT_LIMIT,
    ) -> tuple[Hit, ...]:
        """As `cld.index.search.Search.query`; the first question starts the maintaining, and waits for it a while."""
        await self._begin("search")
        with self._doubting("search"):
            return await self._search.query(store, query, prefix, types, namespace=namespace, limit=limit)

    async def finds_all(self) -> bool:
        """Whether the search index has all of the tree, as far as can be known here."""
        return self._is_kept("search") and await self._search.complete()

    async def shortfall(self) -> str:
        """What of the last answer of search would be better with the model that is set, and why; empty for nothing."""
        if self._search.failure:
            return f"found by words alone: {self._search.failure}"
        model = await self._search.model()
        if model is None or model == self._model:
            return ""
        return f"answered with {model.name}; a server, or cld doctor --index, makes the index of {self._model.name}"

    async def graph(self, store: GuardedStore, sparql: str, prefix: URI = ROOT, limit: int | None = None) -> Answer:
        """As `cld.index.graph.Graph.query`; the first question starts the keeping, and waits for it a while."""
        await self._begin("graph")
        kept = self._is_kept("graph")
        with self._doubting("graph"):
            answer = await self._graph.query(store, sparql, prefix, limit)
        return answer if kept else answer.before_all()

    async def export(self, store: GuardedStore, format: Format, prefix: URI = ROOT) -> AsyncGenerator[bytes]:
        """As `cld.index.graph.Graph.export`."""
        await self._begin("graph")
        with self._doubting("graph"):
            async with contextlib.aclosing(self._graph.export(store, format, prefix)) as pieces:
                async for piece in pieces:
                    yield piece

    async def elect(self, store: GuardedStore, request: str, candidates: Sequence[Candidate], top: int = 5) -> Election:
        """Which of `candidates` the request is for, learning from what each has completed well.

        Only tasks that the store's principal may read teach anything, so that the election is that of a tree
        which never held the others. A candidate is known by its name: the URI that tasks give as `assistant`.

        Raises:
            InvalidArgument: two candidates have the same name.
        """
        taught = tuple(await self._taught(store, candidates))
        async with self._electing:  # an electorate remembers words, and is for one thread at a time
            return await to_thread(lambda: _electorate(taught).elect(request, top))

    async def electorate(self, store: GuardedStore, candidates: Sequence[Candidate]) -> Electorate:
        """The candidates with what the store's principal may know of their past, for many elections in one thread.

        The first time starts the keeping of what was completed, and waits for it a while.

        Raises:
            InvalidArgument: two candidates have the same name.
        """
        taught = await self._taught(store, candidates)
        return await to_thread(lambda: Electorate(taught))

    async def catch_up(self, kind: Kind, *, anew: bool = False) -> None:
        """Make an index true to the tree once, unless another process keeps it, and keep it no further.

        With `anew`, that of search also with the model that is set, where it is still of another.

        For the command line: questions are answered from what there is then.

        Raises:
            CldError, OSError: it cannot be made.
        """
        match kind:
            case "search":
                await self._maintainer.catch_up(anew=anew)
            case "graph":
                await catch_up_graph(self._folders[kind], self._store)
            case "elections":
                await catch_up_elections(self._folders[kind], self._store)
        self._caught_up.add(kind)

    async def check(self, kind: Kind) -> Checked:
        """What an index lacks, has in an old version, or has too much, compared with the tree; changes nothing."""
        checks = {"search": check_search, "graph": check_graph, "elections": check_elections}
        folder = self._folders[kind]
        if not folder.is_dir():
            return Checked(absent=True)
        with held(folder) as lock:
            # Where nobody keeps it, what differs will not become right by waiting.
            return await checks[kind](folder, self._store, grace_seconds=GRACE_SECONDS if lock is None else 0.0)

    async def aclose(self) -> None:
        for task in self._running.values():
            task.cancel()
        for task in self._running.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._graph.aclose()
        await to_thread(self._elections.close)

    async def _taught(self, store: GuardedStore, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates with their past; without one where it cannot be read now, for work must go on."""
        await self._begin("elections")
        try:
            with self._doubting("elections"):
                return await with_history(store, candidates, self._elections)
        except (BrokenIndex, IndexUnavailable) as error:
            log.warning("elections: by descriptions only, for %s", error)
            return candidates

    @contextlib.contextmanager
    def _doubting(self, kind: Kind) -> Generator[None]:
        """Have an index that turns out to be damaged made again now, if it is kept here."""
        try:
            yield
        except BrokenIndex:
            self._keepings[kind].doubt()
            raise

    async def _begin(self, kind: Kind) -> None:
        """Stand ready to keep an index; the first to ask waits until it has all of the tree, if it is kept here."""
        if kind in self._running or kind in self._caught_up:
            return
        keeping = self._keepings[kind]
        self._running[kind] = asyncio.create_task(keeping.run())
        await _set(keeping.tried, HOLD_SECONDS)
        if not keeping.is_elsewhere:
            await _set(keeping.ready, BUILD_SECONDS)

    def _is_kept(self, kind: Kind) -> bool:
        """Whether an index follows the tree: here, where it has all of it by now, or in another process."""
        keeping = self._keepings[kind]
        return keeping.ready.is_set() or keeping.is_elsewhere or kind in self._caught_up


def open_knowledge(settings: Settings, store: GuardedStore, hear: Hear) -> Knowledge:
    """The knowledge of the tree of these settings, read as the principal of `store`.

    Raises:
        Unsupported: the root is no local folder.
    """
    chosen = settings.index
    return Knowledge(
        index_folder(settings.root_path if settings.is_local else None),
        store,
        hear,
        Model(chosen.model, chosen.api_base, chosen.dimensions),
        limits=GraphLimits(**msgspec.structs.asdict(settings.graph)),
        reconcile_seconds=chosen.reconcile_seconds,
    )


def index_folder(root: Path | None) -> Path:
    """Where the indexes of the local tree `root` lie.

    Raises:
        Unsupported: the tree is not local.
    """
    if root is None:
        raise Unsupported("search, graph and elections are kept in a local folder; this root is none")
    return root / ".cld" / "index"


@lru_cache(maxsize=4)
def _electorate(candidates: tuple[Candidate, ...]) -> Electorate:
    """Made once for the same candidates with the same past: an electorate depends on nothing else."""
    return Electorate(candidates)


async def _set(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
