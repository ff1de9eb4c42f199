"""Knowledge: the indexes of one tree, kept by this process from their first use on, and what asks them.

Nothing is watched, kept or imported beyond the standard library before somebody asks. From then on
this process stands ready to maintain the indexes, and does unless another one is at it already.
Answers are always for the caller's own guarded store.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from cld.errors import Unsupported
from cld.guard import GuardedStore
from cld.index import Hit, Model
from cld.index.check import Checked, check
from cld.index.graph import Answer, Graph
from cld.index.graph_keeper import GraphKeeper
from cld.index.graph_keeper import catch_up as graph_catch_up
from cld.index.maintainer import Hear, Maintainer
from cld.index.search import DEFAULT_LIMIT, Search
from cld.index.table import current_of
from cld.uri import ROOT, URI

HOLD_SECONDS = 1.0
"""How long the first question waits to see whether this process becomes the maintainer."""

BUILD_SECONDS = 20.0
"""How long the first question waits for an index that is being made; later ones take what there is."""


class Knowledge:
    """The indexes below `folder`, maintained as the principal that `store` reads as; `aclose` it."""

    def __init__(self, folder: Path, store: GuardedStore, hear: Hear, model: Model) -> None:
        self._store = store
        self._texts = folder / "search"
        self._triples = folder / "graph"
        self._maintainer = Maintainer(self._texts, store, hear, model)
        self._keeper = GraphKeeper(self._triples, store, hear)
        self._search = Search(self._texts)
        self._graph: Graph | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the search index had all of the tree when last looked at; not known while others maintain it."""
        return self._maintainer.ready.is_set() or not self._maintainer.holds.is_set()

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
        if "texts" not in self._tasks:
            self._tasks["texts"] = asyncio.create_task(self._maintainer.run())
            await _set(self._maintainer.holds, HOLD_SECONDS)
            # Not the maintainer, and there is an index: another process keeps it.
            if self._maintainer.holds.is_set() or not current_of(self._texts):
                await _set(self._maintainer.ready, BUILD_SECONDS)
        return await self._search.query(store, query, prefix, types, namespace=namespace, limit=limit)

    async def graph(self, store: GuardedStore, sparql: str, prefix: URI = ROOT) -> Answer:
        """As `cld.index.graph.Graph.query`; the first question starts the keeping, and waits for it a while."""
        if "triples" not in self._tasks:
            self._tasks["triples"] = asyncio.create_task(self._keeper.run())
            # Another process may keep it: then this is all the waiting there is.
            await _set(self._keeper.ready, HOLD_SECONDS if self._triples.exists() else BUILD_SECONDS)
        if self._graph is None:
            self._graph = Graph(self._triples)
        return await self._graph.query(store, sparql, prefix)

    async def catch_up(self) -> None:
        """Make the search index true to the tree once, unless another process maintains it; for the command line."""
        await self._maintainer.catch_up()

    async def graph_catch_up(self) -> None:
        """The same for the graph."""
        await graph_catch_up(self._triples, self._store)

    async def check(self) -> Checked:
        """What the search index lacks, has in an old version, or has too much, compared with the tree."""
        return await check(self._texts, self._store)

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        for task in self._tasks.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._graph is not None:
            await self._graph.aclose()


def index_folder(root: Path | None) -> Path:
    """Where the indexes of the local tree `root` lie.

    Raises:
        Unsupported: the tree is not local.
    """
    if root is None:
        raise Unsupported("search and graph are kept in a local folder; this root is none")
    return root / ".cld" / "index"


async def _set(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
