"""The keeper of the graph: follows the tree's changes and has them written, in one process at a time.

Owns what is read for it and in which order; how one process keeps an index is `cld.index.keeping`'s, what is
written `cld.index.graph_writer`'s. A folder and lock of its own, beside those of search: neither waits
for the other, and either is made anew without the other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cld.errors import InvalidResource
from cld.guard import Entry, GuardedStore, GuardedSubscription
from cld.index.graph_writer import Broken, GraphWriter, Put, version_of_invalid
from cld.index.keeping import RECONCILE_SECONDS, Apply, Hear, Keeping, beside, follow, read, reconcile
from cld.index.lock import held
from cld.uri import URI

log = logging.getLogger(__name__)


class GraphKeeper:
    """Keeps the graph in `folder` as the principal that `store` reads as, and `hear` hears as.

    No process is started before `keeping` runs and holds the lock.
    """

    def __init__(
        self, folder: Path, store: GuardedStore, hear: Hear, *, reconcile_seconds: float = RECONCILE_SECONDS
    ) -> None:
        self._folder = folder
        self._store = store
        self._reconcile_seconds = reconcile_seconds
        self._turn = asyncio.Lock()
        self._writer: GraphWriter | None = None
        self.keeping = Keeping("graph", folder, hear, self._keep, intact=self._is_there)
        """To be run as a task."""

    async def _keep(self, subscription: GuardedSubscription) -> None:
        async with contextlib.aclosing(GraphWriter(self._folder)) as writer:

            async def changed(versions: Mapping[URI, str | None]) -> None:
                await self._apply(writer, list(versions))

            self._writer = writer
            try:
                await beside(follow(subscription, changed), self._reconcile_on(writer))
            finally:
                self._writer = None

    def _is_there(self) -> bool:
        return self._writer is None or self._writer.is_there()

    async def _reconcile_on(self, writer: GraphWriter) -> None:
        while True:
            await _make_true(writer, self._store, partial(self._apply, writer))
            self.keeping.ready.set()
            await asyncio.sleep(self._reconcile_seconds)

    async def _apply(self, writer: GraphWriter, uris: Sequence[URI]) -> None:
        # Reading belongs to the turn: else what was read first could be written last.
        async with self._turn:
            await _apply(writer, self._store, uris)


def graph_version(entry: Entry) -> str:
    """The version that the graph keeps of a resource; one that is invalid has its place and its problem there."""
    return version_of_invalid(entry.invalid) if entry.invalid else entry.version


async def catch_up(folder: Path, store: GuardedStore) -> bool:
    """Make the graph in `folder` true to the tree once; False where another process keeps it, and nothing was done."""
    with held(folder) as descriptor:
        if descriptor is None:
            return False
        async with contextlib.aclosing(GraphWriter(folder)) as writer:
            await _make_true(writer, store, partial(_apply, writer, store))
    return True


async def _make_true(writer: GraphWriter, store: GuardedStore, apply: Apply) -> None:
    if damage := await writer.mend():
        log.warning("graph: %s; it is made again", damage)
    await reconcile(store, await writer.versions(), apply, version=graph_version)
    await writer.finish()


async def _apply(writer: GraphWriter, store: GuardedStore, uris: Sequence[URI]) -> None:
    """Have the graphs of `uris` say what the tree says now."""
    async for portion in read(store, uris):
        puts: list[Put] = []
        gone: list[URI] = []
        for uri, found in portion:
            if isinstance(found, InvalidResource):
                puts.append(Broken(uri, found))
            elif found is None:
                gone.append(uri)
            elif await writer.version_of(uri) != found.version:
                puts.append(found)
        if puts or gone:
            await writer.apply(puts, gone)
