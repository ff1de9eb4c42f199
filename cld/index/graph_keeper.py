"""The keeper of the graph: in one process at a time, follows the tree's changes and has them written.

Owns the lock and the order of work; what is written is `cld.index.graph_writer`'s. Sees the tree through a guarded
store, so what its principal may not read is in no graph. A folder and lock of its own, beside those of
search: neither waits for the other, and either is made anew without the other.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

from cld.errors import CldError, InvalidResource, ResourceNotFound
from cld.guard import GuardedStore, GuardedSubscription
from cld.index.graph_table import table_errors
from cld.index.graph_writer import Broken, GraphWriter, Put
from cld.index.lock import held, is_still_there
from cld.uri import MAX_DEPTH, ROOT, URI

log = logging.getLogger(__name__)

BATCH = 256
TAKE_OVER_SECONDS = 0.5
RECONCILE_SECONDS = 900.0
_RETRY_SECONDS = (1.0, 60.0)

Hear = Callable[[], AbstractAsyncContextManager[GuardedSubscription]]


class GraphKeeper:
    """Waits until no other process keeps the graph in `folder`, then does: `run` it as a task.

    `hear` subscribes to all changes as the same principal that `store` reads as. Nothing is done, and no process
    started, before `run` holds the lock.
    """

    def __init__(
        self, folder: Path, store: GuardedStore, hear: Hear, *, reconcile_seconds: float = RECONCILE_SECONDS
    ) -> None:
        self._folder = folder
        self._store = store
        self._hear = hear
        self._reconcile_seconds = reconcile_seconds
        self._turn = asyncio.Lock()
        self._written = asyncio.Condition()
        self.ready = asyncio.Event()
        """Set while this process keeps the graph, and it has all of the tree."""

    async def run(self) -> None:
        """Keep the graph for ever; cancel it to stop. Whatever fails is tried again, later each time."""
        wait, longest = _RETRY_SECONDS
        while True:
            try:
                async with (
                    self._lock() as lock,
                    self._hear() as subscription,
                    contextlib.aclosing(GraphWriter(self._folder)) as writer,
                ):
                    await self._keep(writer, lock, subscription)
                    return  # the subscription was closed: the runtime ends
            except Exception as error:  # a task boundary: asking must not end with one bad batch
                cause = _first(error)
                expected = isinstance(cause, (OSError, CldError, *table_errors()))
                log.warning("graph: %s; beginning again in %g s", cause, wait, exc_info=None if expected else error)
            finally:
                self.ready.clear()
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def written(self) -> None:
        """Return once a further batch has been written."""
        async with self._written:
            await self._written.wait()

    async def _keep(self, writer: GraphWriter, lock: int, subscription: GuardedSubscription) -> None:
        async with asyncio.TaskGroup() as tasks:
            others = [
                tasks.create_task(self._reconcile_on(writer)),
                tasks.create_task(self._watch_folder(lock)),
            ]
            await self._follow(writer, subscription)
            for task in others:
                task.cancel()

    async def _follow(self, writer: GraphWriter, subscription: GuardedSubscription) -> None:
        while (event := await subscription.next()) is not None:
            batch = {event.uri: event.version}
            while len(batch) < BATCH and (event := await subscription.next(0)) is not None:
                batch[event.uri] = event.version
            await self._apply(writer, list(batch))

    async def _reconcile_on(self, writer: GraphWriter) -> None:
        while True:
            async for _ in reconcile(writer, self._store, self._apply):
                pass
            self.ready.set()
            await self._tell()
            await asyncio.sleep(self._reconcile_seconds)

    async def _apply(self, writer: GraphWriter, uris: Sequence[URI]) -> None:
        # Reading belongs to the turn: else what was read first could be written last.
        async with self._turn:
            await apply(writer, self._store, uris)
        await self._tell()

    async def _tell(self) -> None:
        async with self._written:
            self._written.notify_all()

    async def _watch_folder(self, descriptor: int) -> None:
        """Raises OSError once the folder was removed: then it is made anew."""
        while True:
            await asyncio.sleep(1)
            if not is_still_there(self._folder, descriptor):
                raise FileNotFoundError(f"{self._folder} was removed")

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[int]:
        """The lock, once no other process holds it; goes with the process."""
        while True:
            with held(self._folder) as descriptor:
                if descriptor is not None:
                    yield descriptor
                    return
            await asyncio.sleep(TAKE_OVER_SECONDS)


async def catch_up(folder: Path, store: GuardedStore) -> bool:
    """Make the graph in `folder` true to the tree once; False where another process keeps it, and nothing was done."""
    with held(folder) as descriptor:
        if descriptor is None:
            return False
        async with contextlib.aclosing(GraphWriter(folder)) as writer:

            async def apply_some(writer: GraphWriter, uris: Sequence[URI]) -> None:
                await apply(writer, store, uris)

            async for _ in reconcile(writer, store, apply_some):
                pass
    return True


async def reconcile(
    writer: GraphWriter, store: GuardedStore, apply: Callable[[GraphWriter, Sequence[URI]], Awaitable[None]]
) -> AsyncGenerator[int]:
    """Compare all of the tree with the graphs, by version, and make good every difference; yields after each step."""
    known = dict(await writer.versions())
    stale: list[URI] = []
    cursor = None
    while True:
        page = await store.entries(ROOT, depth=MAX_DEPTH, cursor=cursor, limit=100)
        for entry in page.entries:
            version = known.pop(entry.uri, None)
            if version is None or version != (f"invalid: {entry.invalid}"[:500] if entry.invalid else entry.version):
                stale.append(entry.uri)
        while len(stale) >= BATCH or (page.cursor is None and stale):
            await apply(writer, stale[:BATCH])
            del stale[:BATCH]
            yield len(stale)
        if page.cursor is None:
            break
        cursor = page.cursor
        await asyncio.sleep(0)
    # What is left is there no more, or may not be read any more.
    gone = list(known)
    for first in range(0, len(gone), BATCH):
        await apply(writer, gone[first : first + BATCH])
        yield len(gone) - first
    await writer.finish()


async def apply(writer: GraphWriter, store: GuardedStore, uris: Sequence[URI]) -> None:
    """Have the graphs of `uris` say what the tree says now."""
    puts: list[Put] = []
    gone: list[URI] = []
    for uri in uris:
        try:
            stored = await store.get(uri)
        except InvalidResource as error:
            puts.append(Broken(uri, error))
        except ResourceNotFound:
            gone.append(uri)
        else:
            if await writer.version_of(uri) != stored.version:
                puts.append(stored)
    if puts or gone:
        await writer.apply(puts, gone)


def _first(error: Exception) -> Exception:
    """The error that began it: the first one of a group."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error
