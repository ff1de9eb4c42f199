"""Inboxes: subscriptions kept between the calls of hosts that can only poll.

An inbox goes on hearing while nobody asks. What it handed out it keeps until the next call shows, by its
cursor, that the answer arrived; so neither a lost answer nor a cancelled call loses an event. Inboxes
belong to one principal with the roles it had then, and are closed when unused for ten minutes or when that
principal has too many.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from cld.events import Change, Event
from cld.guard import GuardedStore, GuardedSubscription
from cld.principal import Principal
from cld.runtime import Runtime
from cld.uri import URI

IDLE_SECONDS = 600.0
PER_PRINCIPAL = 16
MOST_EVENTS = 200
"""How many events one answer carries."""


class Wanted(msgspec.Struct, frozen=True):
    """What an inbox hears of."""

    prefix: URI
    types: frozenset[str] | None
    changes: frozenset[Change] | None


class Batch(msgspec.Struct, frozen=True):
    """Events, and the cursor that acknowledges them; `missed` says that earlier ones may be lost."""

    events: Sequence[Event]
    cursor: str
    missed: bool = False


class Inbox:
    """One subscription, what it handed out last, and the read that is under way."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.name = secrets.token_urlsafe(12)
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._heard: GuardedSubscription | None = None
        self._reading: asyncio.Task[Event | None] | None = None
        self._handed_out: list[Event] = []
        self._number = 0
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def cursor(self) -> str:
        return f"{self.name}.{self._number}"

    async def open(self, runtime: Runtime, store: GuardedStore, wanted: Wanted) -> None:
        """Begin to hear; nothing that happens after is missed."""
        heard = runtime.hear(store, wanted.prefix, wanted.types, wanted.changes)
        self._heard = await self._stack.enter_async_context(heard)

    async def take(self, number: str, seconds: float) -> Batch | None:
        """What comes after the answer `number`, waiting `seconds` for the first event; None if it cannot be told."""
        async with self._lock:
            if number == str(self._number - 1) and self._handed_out:
                # The answer after that one was given but did not arrive.
                return Batch(tuple(self._handed_out), self.cursor)
            if number != str(self._number):
                return None
            events: list[Event] = []
            while len(events) < MOST_EVENTS and (event := await self._next(0.0 if events else seconds)) is not None:
                events.append(event)
            if events:
                self._handed_out = events
                self._number += 1
            return Batch(tuple(events), self.cursor)

    async def _next(self, seconds: float) -> Event | None:
        """The next event, None when none comes in `seconds`.

        The read outlives the wait, and so a cancelled call: an event it had in hand is not lost.
        """
        if self._heard is None:
            return None
        if self._reading is None:
            self._reading = asyncio.create_task(self._heard.next())
        # Without a turn of the loop a read that has something at once would not be done.
        done, _ = await asyncio.wait({self._reading}, timeout=max(seconds, 0.001))
        if not done:
            return None
        (finished,), self._reading = done, None
        return None if finished.cancelled() else finished.result()

    async def aclose(self) -> None:
        """Stop hearing; idempotent."""
        self._heard = None
        if self.expiry is not None:
            self.expiry.cancel()
        if (reading := self._reading) is not None:
            self._reading = None
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        await self._stack.aclose()


class Inboxes:
    """All inboxes of a server, by name, the least lately used first."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._inboxes: OrderedDict[str, Inbox] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._inboxes)

    async def wait(self, store: GuardedStore, wanted: Wanted, cursor: str | None, seconds: float) -> Batch:
        """Events after `cursor`, or from now on in a new inbox, waiting at most `seconds` for the first.

        A cursor that is unknown, too old, another principal's, or from when this one had other roles, is
        answered at once with `missed` and the cursor of a new inbox.
        """
        if cursor is None:
            return await self._begin(store, wanted, seconds)
        name, _, number = cursor.rpartition(".")
        inbox = self._inboxes.get(name)
        if inbox is not None and inbox.principal == store.guard.principal:
            self._use(inbox)
            try:
                batch = await inbox.take(number, seconds)
            finally:
                self._use(inbox)
            if batch is not None:
                return batch
        fresh = await self._open(store, wanted)
        return Batch((), fresh.cursor, missed=True)

    async def aclose(self) -> None:
        for inbox in list(self._inboxes.values()):
            self._close(inbox)
        await asyncio.gather(*self._closing)

    async def _begin(self, store: GuardedStore, wanted: Wanted, seconds: float) -> Batch:
        inbox = await self._open(store, wanted)
        try:
            batch = await inbox.take("0", seconds)
            assert batch is not None  # nobody else knows its name
            self._use(inbox)
            return batch
        except BaseException:
            # Nobody ever learns this inbox's name.
            self._close(inbox)
            raise

    async def _open(self, store: GuardedStore, wanted: Wanted) -> Inbox:
        inbox = Inbox(store.guard.principal)
        await inbox.open(self._runtime, store, wanted)
        mine = [other for other in self._inboxes.values() if other.principal.id == inbox.principal.id]
        if len(mine) >= PER_PRINCIPAL:
            self._close(mine[0])
        self._use(inbox)
        return inbox

    def _use(self, inbox: Inbox) -> None:
        """Put off the inbox's end, and make it the one lately used."""
        if inbox.expiry is not None:
            inbox.expiry.cancel()
            if inbox.name not in self._inboxes:
                return  # closed meanwhile
        self._inboxes[inbox.name] = inbox
        self._inboxes.move_to_end(inbox.name)
        inbox.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close, inbox)

    def _close(self, inbox: Inbox) -> None:
        if self._inboxes.pop(inbox.name, None) is not None:
            task = asyncio.create_task(inbox.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
