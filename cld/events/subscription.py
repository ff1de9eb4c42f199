"""Subscription: one reader of the bus, and what waits for it.

Events wait one per URI, the newest standing for those before it, so that a reader who is slow or
never comes costs memory for each URI that changed and nothing more, and still sees every last state.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from cld.events import Change, Event
from cld.uri import URI, type_of


class Subscription:
    """Events of one subtree: `async with bus.subscribe(…) as subscription: async for event in subscription`.

    Entering returns once no later change can be missed. Iterating ends when it is closed, from either
    side, after what was waiting. One task reads at a time.
    """

    def __init__(
        self,
        prefix: URI,
        types: frozenset[str] | None,
        changes: frozenset[Change] | None,
        begin: "Callable[[Subscription], Awaitable[None]]",
        end: "Callable[[Subscription], Awaitable[None]]",
    ) -> None:
        self.prefix = prefix
        self._types = types
        self._changes = changes
        self._begin = begin
        self._end = end
        self._waiting: OrderedDict[URI, Event] = OrderedDict()
        self._arrived = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popitem(last=False)[1]

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event; None when none came in `seconds`, or none will because it is closed."""
        try:
            async with asyncio.timeout(seconds):
                return await anext(self, None)
        except TimeoutError:
            return None

    def take(self) -> list[Event]:
        """All that waits now, oldest first, without waiting."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        return taken

    def offer(self, event: Event) -> None:
        """Add an event if it is one asked for; never blocks, never raises. For the bus."""
        if (
            not self._closed
            and (self._types is None or type_of(event.uri) in self._types)
            and (self._changes is None or event.change in self._changes)
        ):
            # An event that replaces one keeps its place, so that no URI waits the longer for changing often.
            self._waiting[event.uri] = event
            self._arrived.set()

    def close(self) -> None:
        """Take no more; who waits is woken. For the bus."""
        self._closed = True
        self._arrived.set()

    async def aclose(self) -> None:
        """Stop: idempotent, from any task; what nobody else watches is watched no longer."""
        if not self._closed:
            self.close()
            await self._end(self)
