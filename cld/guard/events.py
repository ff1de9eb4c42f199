"""The guarded subscription: each event is decided when it happens, so that a revoked right stops the news."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

from cld.events import Change, Event
from cld.events.bus import EventBus
from cld.events.subscription import Subscription
from cld.guard.store import GuardedStore
from cld.uri import ROOT, URI


class GuardedSubscription:
    """Events of one subtree that the store's principal may hear; iterate it, or wait with `next`."""

    def __init__(self, store: GuardedStore, subscription: Subscription) -> None:
        self._store = store
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        async for event in self._subscription:
            if await self._store.may_hear(event):
                return event
        raise StopAsyncIteration

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event that may be heard; None when none came in `seconds`, or it is closed."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            event = await self._subscription.next(left)
            if event is None or await self._store.may_hear(event):
                return event


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
