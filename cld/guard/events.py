"""The guarded subscription: each event is decided when it happens, so that a revoked right stops the news."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from cld.events import Change, Event
from cld.events.bus import EventBus
from cld.events.subscription import Subscription
from cld.guard.store import GuardedStore
from cld.uri import ROOT, URI

IsKnown = Callable[[Event], Awaitable[bool]]


class GuardedSubscription:
    """Events of one subtree that the store's principal may hear; iterate it, or wait with `next` or `batch`.

    An event that could not be decided on (the decision log is full) is raised about and kept: who asks
    again is asked about it again.

    Raises:
        PolicyError: (from each) a decision could not be written down.
    """

    def __init__(self, store: GuardedStore, subscription: Subscription) -> None:
        self._store = store
        self._subscription = subscription
        self._undecided: deque[Event] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if (event := await self.next()) is None:
            raise StopAsyncIteration
        return event

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event that may be heard; None when none came in `seconds`, or it is closed."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._undecided and not await self._wait(left):
                return None
            event = self._undecided[0]
            may_hear = await self._store.may_hear(event)
            self._undecided.popleft()
            if may_hear:
                return event

    async def batch(self, most: int, is_known: IsKnown | None = None) -> Sequence[Event]:
        """What came, as soon as there is one that may be heard, `most` at most; none once it is closed.

        They are decided on together, which is quicker and takes less of the log than one by one. Of what came,
        that which the reader says `is_known` to it, as its own writes are, is dropped before.
        """
        while True:
            if not self._undecided and not await self._wait(None):
                return ()
            while len(self._undecided) < most and await self._wait(0.0):
                pass
            if is_known is not None:
                self._undecided = deque([event for event in self._undecided if not await is_known(event)])
            heard = await self._store.may_hear_each(self._undecided)
            self._undecided.clear()
            if heard:
                return heard

    async def _wait(self, seconds: float | None) -> bool:
        """Whether another event came."""
        if (event := await self._subscription.next(seconds)) is None:
            return False
        self._undecided.append(event)
        return True


@asynccontextmanager
async def hear(
    store: GuardedStore,
    bus: EventBus,
    prefix: URI = ROOT,
    types: frozenset[str] | None = None,
    changes: frozenset[Change] | None = None,
) -> AsyncGenerator[GuardedSubscription]:
    """The changes of `prefix` and all below it, from now on, as far as the store's principal may hear them."""
    async with bus.subscribe(prefix, types, changes) as subscription:
        yield GuardedSubscription(store, subscription)
