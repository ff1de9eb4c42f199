"""Feeds: what one client is to be told, collected from many sources and sent one by one.

What waits is kept once: a notification says "look again", and nothing else, so a repeat adds nothing.
Knows no guard and no protocol era; sources are coroutines that know what they may tell.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

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
"""Runs until it is cancelled; calls its argument once it will miss nothing more."""


class Feed:
    """What one client is to be told: the subscriptions that fill it, and what waits to be sent."""

    def __init__(self) -> None:
        self._sources: dict[str, asyncio.Task[None]] = {}
        self._undo: list[Callable[[], None]] = []
        self._waiting: dict[ServerEvent, None] = {}
        self._arrived = asyncio.Event()

    def tell(self, event: ServerEvent) -> None:
        self._waiting[event] = None
        self._arrived.set()

    def has(self, key: str) -> bool:
        return key in self._sources

    async def follow(self, key: str, source: Source) -> None:
        """Run `source` in the background under `key`; returns once it called its argument: it misses nothing more.

        Raises:
            MCPError: there are too many, or it ended before it got that far.
        """
        if key in self._sources:
            return
        if len(self._sources) >= MOST_SUBSCRIPTIONS:
            raise MCPError(
                code=INVALID_REQUEST, message=f"more than {MOST_SUBSCRIPTIONS} subscriptions; end some first"
            )
        ready = asyncio.Event()
        task = asyncio.create_task(logged(source(ready.set), key))
        self._sources[key] = task
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not ready.is_set():
            self._sources.pop(key, None)
            raise MCPError(code=INTERNAL_ERROR, message=f"{key} cannot be watched; the server's log says why")

    def also_undo(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    async def leave(self, key: str) -> None:
        """Stop the source under `key`, if there is one."""
        if (task := self._sources.pop(key, None)) is not None:
            await stopped(task)

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
        for undo in self._undo:
            undo()
        tasks = list(self._sources.values())
        self._sources.clear()
        for task in tasks:
            await stopped(task)


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
