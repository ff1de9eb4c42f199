"""Keeping: how one process at a time holds an index to what the tree says. What search, graph and elections share.

Owns the lock, beginning again after a failure, following changes in batches and comparing with all of the
tree. What is kept, and in which files, is for those who call: each gives the work that it does while it
holds the lock. The tree is seen through a guarded store, so what its principal may not read is in no index.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from cld.errors import CldError, InvalidResource
from cld.guard import Entry, GuardedStore, GuardedSubscription
from cld.index.lock import held, is_still_there
from cld.store import MAX_LIMIT, Stored
from cld.uri import MAX_DEPTH, ROOT, URI

log = logging.getLogger(__name__)

BATCH = 256
"""Resources read and written at a time; what was put meanwhile waits no longer than that takes."""

PORTION_BYTES = 8 * 1024 * 1024
"""So much of resources, as JSON, is held and written at a time, and one resource more."""

TAKE_OVER_SECONDS = 0.5
RECONCILE_SECONDS = 900.0

RETRY_SECONDS = (1.0, 60.0)
"""How long to wait before beginning again: at first, and at most."""

_PAGE = MAX_LIMIT - 1  # the guard asks for one more, to know whether there is a next page

Hear = Callable[[], AbstractAsyncContextManager[GuardedSubscription]]
"""Subscribes to changes, as the same principal that the index's store reads as."""

Apply = Callable[[Sequence[URI]], Awaitable[None]]
"""Has an index say of each of these resources what the tree says now."""


class LostIndex(CldError):
    """The files of an index were removed or cannot be read, or its lock is another's: begin again."""


class Keeping:
    """Does `work` while no other process keeps the index in `folder`: `run` it as a task.

    `work` gets a subscription and follows it until it is closed; it sets `ready` once the index has all of the
    tree. `intact` says whether the files are still there. Failures of the disk and those that cld reports on purpose
    are told in a line, others with their place in the program.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        hear: Hear,
        work: Callable[[GuardedSubscription], Awaitable[None]],
        *,
        intact: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._folder = folder
        self._hear = hear
        self._work = work
        self._intact = intact
        self._doubted = asyncio.Event()
        self.tried = asyncio.Event()
        """Set once it is known whether another process keeps the index."""
        self.is_elsewhere = False
        """Whether another process kept the index when last looked."""
        self.holds = asyncio.Event()
        """Set while this process is the one that keeps the index."""
        self.ready = asyncio.Event()
        """Set while it is, and the index has all of the tree."""

    async def run(self) -> None:
        """Keep the index for ever; cancel it to stop. Whatever fails is tried again, later each time.

        Returns when the subscription is closed: the runtime ends.
        """
        wait, longest = RETRY_SECONDS
        while True:
            begun = time.monotonic()
            try:
                async with self._lock() as lock, self._hear() as subscription:
                    begun = time.monotonic()
                    await beside(self._work(subscription), self._watch(lock))
                    return
            except Exception as error:  # a task boundary: asking must not end with one bad batch
                if time.monotonic() - begun > longest:
                    wait = RETRY_SECONDS[0]
                cause = _first(error)
                expected = isinstance(cause, (OSError, CldError))
                log.warning(
                    "%s: %s; beginning again in %g s", self._name, cause, wait, exc_info=None if expected else error
                )
            finally:
                self.holds.clear()
                self.ready.clear()
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    def doubt(self) -> None:
        """Begin again soon, if it is kept here: somebody could not read what is kept."""
        if self.holds.is_set():
            self._doubted.set()

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[int]:
        """The lock, once no other process holds it; goes with the process."""
        while True:
            with held(self._folder) as descriptor:
                self.is_elsewhere = descriptor is None
                if descriptor is not None:
                    self.holds.set()
                self.tried.set()
                if descriptor is not None:
                    yield descriptor
                    return
            await asyncio.sleep(TAKE_OVER_SECONDS)

    async def _watch(self, descriptor: int) -> None:
        self._doubted.clear()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._doubted.wait()
                raise LostIndex(f"what is in {self._folder} cannot be read")
            if not is_still_there(self._folder, descriptor) or not self._intact():
                raise LostIndex(f"{self._folder} was removed, or files in it")


async def beside(work: Awaitable[None], *endless: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and beside it what never ends by itself, until it is done; the failure of one ends all."""
    async with asyncio.TaskGroup() as tasks:
        others = [tasks.create_task(one) for one in endless]
        await work
        for other in others:
            other.cancel()


async def follow(
    subscription: GuardedSubscription, apply: Callable[[Mapping[URI, str | None]], Awaitable[None]]
) -> None:
    """Have `apply` told of what changed, with the version of each (None for what is gone), until it is closed."""
    while events := await subscription.batch(BATCH):
        await apply({event.uri: event.version for event in events})


async def read(
    store: GuardedStore, uris: Sequence[URI]
) -> AsyncGenerator[Sequence[tuple[URI, Stored | InvalidResource | None]]]:
    """What the tree has of `uris` now, in their order: as many at a time as fit into a portion."""
    portion: list[tuple[URI, Stored | InvalidResource | None]] = []
    size = 0
    async with aclosing(store.each(uris)) as each:
        for uri in uris:
            found = await anext(each)
            portion.append((uri, found))
            size += len(msgspec.json.encode(found.resource)) if isinstance(found, Stored) else 0
            if size > PORTION_BYTES:
                yield portion
                portion, size = [], 0
    if portion:
        yield portion


def valid_version(entry: Entry) -> str | None:
    """The version that an index keeps of a resource; None for one that is invalid, which it has nothing of."""
    return None if entry.invalid else entry.version


async def reconcile(
    store: GuardedStore,
    versions: Mapping[URI, str],
    apply: Apply,
    *,
    type: str | None = None,
    version: Callable[[Entry], str | None] = valid_version,
) -> None:
    """Compare all of the tree, or of one type, with the `versions` that are kept, and have the differences applied."""
    known = dict(versions)
    different: list[URI] = []
    async for entry in entries(store, type):
        if known.pop(entry.uri, None) != version(entry):
            different.append(entry.uri)
        if len(different) == BATCH:
            await apply(different)
            different = []
    # What is left is there no more, or may not be read any more.
    different += known
    for first in range(0, len(different), BATCH):
        await apply(different[first : first + BATCH])


async def entries(store: GuardedStore, type: str | None = None) -> AsyncGenerator[Entry]:
    """All of the tree, or all of one type, as far as the store's principal may read and list it."""
    cursor = None
    while True:
        page = await store.entries(ROOT, type=type, depth=MAX_DEPTH, cursor=cursor, limit=_PAGE)
        for entry in page.entries:
            yield entry
        if page.cursor is None:
            return
        cursor = page.cursor
        await asyncio.sleep(0)


def _first(error: Exception) -> Exception:
    """The error that began it: the first one of a group."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error
