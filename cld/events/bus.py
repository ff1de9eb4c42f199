"""The event bus: hints of a source → looks at the tree → the difference to the snapshot → subscribers.

Owns the snapshot of every watched subtree and the three tasks that keep it true: one looks at what was
touched, one scans what is dirty, one declares everything dirty now and then. It trusts no source
to be complete and announces nothing it has not seen; it never writes, and knows no principals.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, assert_never

import anyio

from cld.errors import CldError
from cld.events import Change, Dirty, Event, Notice, Source, Touched, Tree
from cld.events.pace import Pace
from cld.events.prefixes import Prefixes, outermost
from cld.events.snapshot import Snapshot, is_same, record_of
from cld.events.subscription import Subscription
from cld.resource import new_id, timestamp
from cld.uri import ROOT, URI, parents_of

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 300.0
RETRY_SECONDS = 2.0


class EventBus:
    """Subscriptions to changes of a tree, as noticed by `source`; use as a context manager, or `aclose` it.

    Promises every subscriber the last state of every resource below its prefix, in the order in which
    the changes were seen, and no event twice in a row for one version. A change of another process
    is announced within milliseconds where the source can watch; whatever it missed, at the latest
    after `reconcile_seconds`.
    """

    def __init__(self, source: Source, tree: Tree, reconcile_seconds: float = RECONCILE_SECONDS) -> None:
        self._source = source
        self._tree = tree
        self._reconcile_seconds = reconcile_seconds
        self._prefixes = Prefixes()
        self._snapshot = Snapshot()
        self._subscriptions: dict[URI, dict[Subscription, None]] = {}
        self._touched: dict[URI, None] = {}
        self._dirty: dict[URI, None] = {}
        self._some_touched = asyncio.Event()
        self._some_dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._looked_at: set[URI] | None = None
        self._changing = anyio.Lock()
        self._scanning = anyio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def source(self) -> str:
        """The name of the source in use."""
        return self._source.name

    def subscribe(
        self, prefix: URI = ROOT, types: frozenset[str] | None = None, changes: frozenset[Change] | None = None
    ) -> Subscription:
        """Changes of `prefix` and all below it, of these types and changes only where they are given.

        Only that subtree is watched; it need not exist. Nothing happens until the subscription is entered.
        """
        return Subscription(prefix, types, changes, self._begin, self._end)

    async def reconcile(self) -> None:
        """Compare all that is watched with what is there; returns once every difference is announced."""
        await self._source.refresh()
        await self._compare(outermost(self._prefixes))
        await self._settled.wait()

    async def aclose(self) -> None:
        """Stop everything and end every subscription; idempotent."""
        if self._closed:
            return
        self._closed = True
        for subscription in [each for group in self._subscriptions.values() for each in group]:
            subscription.close()
        self._subscriptions.clear()
        with anyio.CancelScope(shield=True):
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._source.aclose()

    async def _begin(self, subscription: Subscription) -> None:
        prefix = subscription.prefix
        async with self._changing:
            if self._closed:
                raise RuntimeError("the event bus is closed")
            if not self._tasks:
                self._start()
            known = self._prefixes.cover(prefix)
            self._prefixes.add(prefix)
            try:
                await self._source.watch(prefix)
                if not known:
                    await self._absorb(prefix)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._release(prefix)
                raise
            # Only now: what changed before is in the snapshot, what changes from here on is announced.
            self._subscriptions.setdefault(prefix, {})[subscription] = None

    async def _end(self, subscription: Subscription) -> None:
        group = self._subscriptions.get(subscription.prefix, {})
        if subscription not in group:
            return
        del group[subscription]
        if not group:
            del self._subscriptions[subscription.prefix]
        with anyio.CancelScope(shield=True):
            async with self._changing:
                if not self._closed:
                    await self._release(subscription.prefix)

    async def _release(self, prefix: URI) -> None:
        self._prefixes.remove(prefix)
        await self._source.unwatch(prefix)
        if not self._prefixes.cover(prefix):
            async with self._scanning:
                self._snapshot.forget(prefix, self._prefixes.parts_of(prefix))

    def _start(self) -> None:
        self._source.start(self._notice)
        work: list[Coroutine[Any, Any, None]] = [self._look_on(), self._scan_on(), self._reconcile_on()]
        self._tasks = [asyncio.create_task(each) for each in work]

    def _notice(self, notice: Notice) -> None:
        match notice:
            case Touched(uri):
                if self._prefixes.cover(uri):
                    self._touch(uri)
            case Dirty(prefix):
                self._dirty[prefix] = None
                self._some_dirty.set()
            case _:
                assert_never(notice)

    def _touch(self, uri: URI) -> None:
        self._touched[uri] = None
        self._settled.clear()
        self._some_touched.set()

    async def _look_on(self) -> None:
        while True:
            await self._some_touched.wait()
            self._some_touched.clear()
            batch, self._touched = self._touched, {}
            pace = Pace()
            for uri in batch:
                try:
                    await self._look(uri)
                except (OSError, CldError) as error:
                    self._retry(uri, error)
                except Exception:  # a task boundary: one bad resource must not end events for all others
                    log.exception("events: looking at %s failed; it is looked at again when it changes", uri)
                await pace.rest()
            if not self._touched:
                self._settled.set()

    async def _look(self, uri: URI) -> None:
        look = await self._tree.look(uri)
        if not self._prefixes.cover(uri):
            return
        if self._looked_at is not None:
            self._looked_at.add(uri)
        record = self._snapshot.get(uri)
        if look is None:
            if record is not None:
                self._snapshot.drop(uri)
                self._publish("delete", uri, None)
            return
        self._snapshot.set(uri, record_of(look))
        if record is None or not is_same(record, look):
            self._publish("put", uri, look.version)

    def _publish(self, change: Change, uri: URI, version: str | None) -> None:
        event = Event(change, uri, version, self._source.name, timestamp(), new_id())
        for prefix in (*parents_of(uri), uri):
            for subscription in self._subscriptions.get(prefix, ()):
                subscription.offer(event)

    async def _scan_on(self) -> None:
        while True:
            await self._some_dirty.wait()
            self._some_dirty.clear()
            batch, self._dirty = self._dirty, {}
            parts = outermost(part for prefix in outermost(batch) for part in self._prefixes.parts_of(prefix))
            try:
                await self._compare(parts)
            except (OSError, CldError) as error:
                for part in parts:
                    self._retry(part, error)
            except Exception:  # a task boundary, as above
                log.exception("events: scanning failed; all is scanned again with the next reconcile")

    async def _compare(self, prefixes: list[URI]) -> None:
        """Touch what is not as the snapshot has it; the looks that follow decide."""
        async with self._scanning:
            pace = Pace()
            for prefix in prefixes:
                if prefix != ROOT:
                    self._touch(prefix)
            async with aclosing(self._tree.scan(prefixes)) as listings:
                async for listing in listings:
                    for uri in self._snapshot.differences(listing):
                        if uri is not None:
                            self._touch(uri)
                        await pace.rest()

    async def _absorb(self, prefix: URI) -> None:
        """Take what is there into the snapshot, unannounced; what is looked at meanwhile is newer."""
        async with self._scanning:
            self._looked_at = set()
            try:
                pace = Pace()
                if prefix != ROOT:
                    await self._note(prefix)
                async with aclosing(self._tree.scan([prefix])) as listings:
                    async for listing in listings:
                        for uri in self._snapshot.absorb(listing, self._looked_at):
                            if uri is not None:
                                await self._note(uri)
                            await pace.rest()
            finally:
                self._looked_at = None

    async def _note(self, uri: URI) -> None:
        look = await self._tree.look(uri)
        if look is not None and self._snapshot.get(uri) is None:
            self._snapshot.set(uri, record_of(look))

    def _retry(self, prefix: URI, error: Exception) -> None:
        """Scan again soon what could not be told now."""
        log.warning("events: %s cannot be checked, trying again in %g s: %s", prefix, RETRY_SECONDS, error)
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._notice, Dirty(prefix))

    async def _reconcile_on(self) -> None:
        while True:
            await asyncio.sleep(self._reconcile_seconds)
            try:
                await self.reconcile()
            except Exception:  # a task boundary: the next round must come
                log.exception("events: a reconcile failed; the next is in %g s", self._reconcile_seconds)
