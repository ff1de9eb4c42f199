"""The maintainer: keeps the index true to the tree, in one process at a time.

Owns the lock, the order of work and the swap to another model; what is written and how is
`cld.index.writer`'s. Sees the tree through a guarded store, so what its principal may not read is
not indexed.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

from cld.errors import CldError, InvalidResource, ResourceNotFound
from cld.events.pace import Pace
from cld.guard import GuardedStore, GuardedSubscription
from cld.index import Embedder, EmbeddingFailed, Model
from cld.index.embedding import choose_embedder
from cld.index.lock import held, is_still_there
from cld.index.segment import BrokenIndex
from cld.index.table import MANIFEST, current_of, digest_of, is_digest, read_manifest, remove_index, set_current
from cld.index.writer import Writer
from cld.resource import Resource
from cld.uri import MAX_DEPTH, ROOT, URI

log = logging.getLogger(__name__)

BATCH = 256
"""Resources read, embedded and written at a time; what was put meanwhile waits no longer than that takes."""

TAKE_OVER_SECONDS = 0.5
IDLE_SECONDS = 5.0
RECONCILE_SECONDS = 900.0
_RETRY_SECONDS = (1.0, 60.0)

Hear = Callable[[], AbstractAsyncContextManager[GuardedSubscription]]


class LostIndex(CldError):
    """The folder of the index was removed, or its lock is another's: begin again."""


class Maintainer:
    """Waits until no other process maintains the index in `folder`, then does: `run` it as a task.

    `hear` subscribes to all changes as the same principal that `store` reads as. Nothing is done, and
    nothing heavy imported, before `run` holds the lock.
    """

    def __init__(
        self,
        folder: Path,
        store: GuardedStore,
        hear: Hear,
        model: Model | None = None,
        *,
        choose: Callable[[Model], Embedder] = choose_embedder,
        reconcile_seconds: float = RECONCILE_SECONDS,
    ) -> None:
        self._folder = folder
        self._store = store
        self._hear = hear
        self._model = model or Model()
        self._choose = choose
        self._reconcile_seconds = reconcile_seconds
        self._serving: Writer | None = None
        self._building: Writer | None = None
        self._turn = asyncio.Lock()
        self._to_merge = asyncio.Event()
        self.holds = asyncio.Event()
        """Set while this process is the one that maintains the index."""
        self.ready = asyncio.Event()
        """Set while this process maintains an index, of the model asked for, that has all of the tree."""

    async def run(self) -> None:
        """Maintain the index for ever; cancel it to stop. Whatever fails is tried again, later each time."""
        wait, longest = _RETRY_SECONDS
        while True:
            begun = time.monotonic()
            try:
                async with self._lock() as lock, self._hear() as subscription:
                    begun = time.monotonic()
                    await self._maintain(lock, subscription)
                    return  # the subscription was closed: the runtime ends
            except Exception as error:  # a task boundary: searching must not end with one bad batch
                if time.monotonic() - begun > longest:
                    wait = _RETRY_SECONDS[0]
                cause = _first(error)
                expected = isinstance(cause, (OSError, CldError, BrokenIndex))
                log.warning("index: %s; beginning again in %g s", cause, wait, exc_info=None if expected else error)
            finally:
                self._end()
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def catch_up(self) -> bool:
        """Make the index true to the tree once; False where another process maintains it, and nothing was done.

        For a tree that no server is running on.

        Raises:
            CldError, OSError: it cannot be made.
        """
        with held(self._folder) as descriptor:
            if descriptor is None:
                return False
            try:
                await self._open()
                await self._begin_building()
                await self._reconcile()
                while any([await writer.merge() for writer in self._writers()]):
                    pass
            finally:
                self._end()
        return True

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[int]:
        """The lock, once no other process holds it; goes with the process."""
        while True:
            with held(self._folder) as descriptor:
                if descriptor is not None:
                    yield descriptor
                    return
            await asyncio.sleep(TAKE_OVER_SECONDS)

    def _end(self) -> None:
        self.holds.clear()
        self.ready.clear()
        self._serving = self._building = None

    async def _open(self) -> None:
        """Open the index that answers; a new one where there is none."""
        wanted = digest_of(self._model)
        current = current_of(self._folder)
        old = None if current in {"", wanted} else await asyncio.to_thread(read_manifest, self._folder / current)
        if old is None:
            self._serving = await Writer.open(self._folder / wanted, self._choose(self._model))
            set_current(self._folder, wanted)
            self._tidy(wanted)
        else:
            self._serving = await Writer.open(self._folder / current, self._choose(old.model))
            self._tidy(wanted, current)

    async def _maintain(self, lock: int, subscription: GuardedSubscription) -> None:
        await self._open()
        self.holds.set()
        async with asyncio.TaskGroup() as tasks:
            others = [
                tasks.create_task(self._reconcile_on()),
                tasks.create_task(self._merge_on()),
                tasks.create_task(self._watch_lock(lock)),
            ]
            await self._follow(subscription)
            for task in others:
                task.cancel()

    async def _follow(self, subscription: GuardedSubscription) -> None:
        while (event := await subscription.next()) is not None:
            batch = {event.uri: event.version}
            while len(batch) < BATCH and (event := await subscription.next(0)) is not None:
                batch[event.uri] = event.version
            await self._index([uri for uri, version in batch.items() if self._is_stale(uri, version)])

    def _writers(self) -> list[Writer]:
        return [writer for writer in (self._serving, self._building) if writer is not None]

    def _is_stale(self, uri: URI, version: str | None) -> bool:
        return any(version is None or writer.table.version_of(uri) != version for writer in self._writers())

    async def _index(self, uris: Sequence[URI]) -> None:
        """Have the index say of each of `uris` what the tree says now."""
        if not uris:
            return
        # Reading belongs to the turn: else what was read first could be written last.
        async with self._turn:
            there: list[tuple[URI, str, Resource]] = []
            gone: list[URI] = []
            pace = Pace()
            for uri in uris:
                await pace.rest()
                try:
                    stored = await self._store.get(uri)
                    there.append((uri, stored.version, stored.resource))
                except (ResourceNotFound, InvalidResource):
                    gone.append(uri)
            for writer in self._writers():
                fresh = [each for each in there if writer.table.version_of(each[0]) != each[1]]
                try:
                    await writer.append(fresh, gone)
                except EmbeddingFailed as error:
                    if writer is not self._building:
                        raise
                    # The old index must go on; the new one is begun again with the next reconcile.
                    log.warning("index: not embedding with %s for now: %s", writer.model.name, error)
                    self._building = None
        self._to_merge.set()

    async def _reconcile_on(self) -> None:
        wait, longest = _RETRY_SECONDS
        while True:
            await self._begin_building()
            await self._reconcile()
            if self._serving is not None and self._serving.model == self._model:
                wait = _RETRY_SECONDS[0]
                await asyncio.sleep(self._reconcile_seconds)
            else:
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)

    async def _begin_building(self) -> None:
        if self._serving is None or self._serving.model == self._model or self._building is not None:
            return
        try:
            self._building = await Writer.open(self._folder / digest_of(self._model), self._choose(self._model))
        except CldError as error:
            log.warning("index: %s answers until %s can: %s", self._serving.model.name, self._model.name, error)

    async def _reconcile(self) -> None:
        """Compare all of the tree with the index, by version, and make good every difference."""
        seen: set[URI] = set()
        stale: list[URI] = []
        cursor = None
        while True:
            page = await self._store.entries(ROOT, depth=MAX_DEPTH, cursor=cursor, limit=50)
            for entry in page.entries:
                if not entry.invalid:
                    seen.add(entry.uri)
                    if self._is_stale(entry.uri, entry.version):
                        stale.append(entry.uri)
            while len(stale) >= BATCH or (page.cursor is None and stale):
                await self._index(stale[:BATCH])
                del stale[:BATCH]
            if page.cursor is None:
                break
            cursor = page.cursor
            await asyncio.sleep(0)
        extra = sorted({uri for writer in self._writers() for uri in writer.table.uris()} - seen)
        for first in range(0, len(extra), BATCH):
            await self._index(extra[first : first + BATCH])
        await self._swap()

    async def _swap(self) -> None:
        async with self._turn:
            for writer in self._writers():
                await writer.finish()
            if self._building is not None:
                self._serving, self._building = self._building, None
                set_current(self._folder, digest_of(self._model))
                self._tidy(digest_of(self._model))
                log.info("index: %s answers from now on", self._model.name)
        if self._serving is not None and self._serving.model == self._model:
            self.ready.set()

    async def _merge_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._to_merge.wait()
                idle = False
            except TimeoutError:
                idle = True
            self._to_merge.clear()
            for writer in self._writers():
                while await writer.merge(idle=idle):
                    if idle and self._to_merge.is_set():
                        break
            if idle:
                await self._to_merge.wait()

    async def _watch_lock(self, descriptor: int) -> None:
        while True:
            await asyncio.sleep(1)
            serving = self._serving
            if not is_still_there(self._folder, descriptor) or (
                serving is not None and not (serving.folder / MANIFEST).exists()
            ):
                raise LostIndex(f"{self._folder} was removed")

    def _tidy(self, *kept: str) -> None:
        """Remove indexes of models that are used no more; what else lies here is not ours."""
        for path in self._folder.iterdir():
            if is_digest(path.name) and path.name not in kept:
                remove_index(path)


def _first(error: Exception) -> Exception:
    """The error that began it: the first one of a group."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error
