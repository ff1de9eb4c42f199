"""Feeds: what one client is to be told, collected from many sources and sent one by one.

What waits is kept once: a notification says "look again", and nothing else, so a repeat adds nothing.
Knows no guard and no protocol era; sources are coroutines that know what they may tell.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ServerEvent
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST

log = logging.getLogger("cld.server")

COALESCE_SECONDS = 0.2
"""How long a changed list waits for further changes before it is told."""

MOST_SUBSCRIPTIONS = 1024
"""How many sources a feed may have; each costs a watch."""

Ready = Callable[[], None]
Source = Callable[[Ready], Awaitable[None]]
"""Runs until it is cancelled or at its end; calls its argument once it will miss nothing more."""


@dataclass(frozen=True)
class _Running:
    task: asyncio.Task[None]
    right: object


class Feed:
    """What one client is to be told: the subscriptions that fill it, and what waits to be sent."""

    def __init__(self) -> None:
        self._sources: dict[str, _Running] = {}
        self._waiting: dict[ServerEvent, None] = {}
        self._arrived = asyncio.Event()

    def tell(self, event: ServerEvent) -> None:
        self._waiting[event] = None
        self._arrived.set()

    async def follow(self, key: str, source: Source, right: object = None) -> None:
        """Run `source` in the background under `key`; returns once it called its argument: it misses nothing more.

        `right` is by what it may hear. One that runs by an equal right stays; one by another right, such as
        a token that ends earlier, gives way, with nothing missed between the two.

        Raises:
            MCPError: there are too many, or it ended before it got that far.
        """
        before = self._sources.get(key)
        if before is not None and not before.task.done():
            if before.right == right:
                return
        elif len(self._sources) >= MOST_SUBSCRIPTIONS:
            raise MCPError(
                code=INVALID_REQUEST, message=f"more than {MOST_SUBSCRIPTIONS} subscriptions; end some first"
            )
        ready = asyncio.Event()
        task = asyncio.create_task(logged(source(ready.set), key))
        self._sources[key] = running = _Running(task, right)
        # One that ended may be begun again.
        task.add_done_callback(lambda _: self._forget(key, running))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if before is not None:
                await stopped(before.task)
        if not ready.is_set():
            raise MCPError(code=INTERNAL_ERROR, message=f"{key} cannot be watched; the server's log says why")

    def _forget(self, key: str, running: _Running) -> None:
        if self._sources.get(key) is running:
            del self._sources[key]

    async def leave(self, key: str) -> None:
        """Stop the source under `key`, if there is one."""
        if (running := self._sources.pop(key, None)) is not None:
            await stopped(running.task)

    async def send(self, send: Callable[[ServerEvent], Awaitable[None]]) -> None:
        """Send what there is to tell, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                event = next(iter(self._waiting))
                del self._waiting[event]
                await send(event)

    async def aclose(self) -> None:
        ending = list(self._sources.values())
        self._sources.clear()
        for running in ending:
            await stopped(running.task)


class Coalesced:
    """Calls `tell` once for all calls within a moment."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._due: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._now)

    def _now(self) -> None:
        self._due = None
        self._tell()


async def logged(work: Awaitable[None], name: str) -> None:
    try:
        await work
    except Exception:  # a task of its own: nobody else would hear of it
        log.exception("telling of changes of %s ended", name)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
