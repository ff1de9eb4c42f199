"""The tools of one tool server: when it is started, started again and ended.

How it is spoken to is `cld.tools.server_connection`'s. A call is sent once: one that a server did not live to answer
has failed, and is nobody's here to repeat.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from cld.errors import ToolFailed
from cld.tools import Caller, OnProgress, Result, Source
from cld.tools.server_connection import Connection
from cld.tools.server_listing import EMPTY, Listing
from cld.types import Server, Tool

IDLE_SECONDS = 600.0
START_SECONDS = 30.0
RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 60.0
PATIENCE_SECONDS = 5.0
"""How long a call waits for a server that may not be started again yet."""


class ServerTools(Source):
    """The tools of one server, which is started when they are first asked for.

    What it offered last stays listed while it is not running; the next call starts it again. Starts that fail, and
    servers that end by themselves, are followed by a pause that doubles each time until a call succeeds.
    """

    def __init__(
        self,
        uri: str,
        server: Server,
        *,
        environment: Mapping[str, str] = os.environ,
        idle_seconds: float = IDLE_SECONDS,
        start_seconds: float = START_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        known: Sequence[Tool] = (),
    ) -> None:
        """`known` are tools it offered once, which are listed until it says what it offers now."""
        self.uri = uri
        self.server = server
        self._environment = environment
        self._idle_seconds = idle_seconds
        self._start_seconds = start_seconds
        self._retry_seconds = retry_seconds
        self._listing = Listing({tool.name: tool for tool in known}, {}, ()) if known else EMPTY
        self._loaded = False
        self._attempted = asyncio.Event()
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._failures = 0
        self._not_before = 0.0
        self._why = ""
        self._closed = False
        self._listeners: dict[object, Callable[[], None]] = {}

    def tools(self) -> Sequence[Tool]:
        """The tools it offered last, by name. The first time there are none yet: they come, and `on_change` tells."""
        self._begin()
        return tuple(self._listing.tools.values())

    @property
    def is_loaded(self) -> bool:
        """Whether it was asked what it offers, and said so."""
        return self._loaded

    async def load(self) -> None:
        """Start it, if it never was, and return once it is ready or has failed, which `problems` says."""
        self._begin()
        if not self._loaded and not self._closed:
            await self._attempted.wait()

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        """Run one of its tools; when cancelled, the server is told, and this returns within 2 seconds.

        Raises:
            ToolFailed: `unavailable` and `changed` (the tool is not what was listed), which both mean that nothing
                was done; `crashed`, after which it may have done all, some or nothing; `needs_input`; `failed`.
        """
        self._rest()
        try:
            connection = await self._connected()
            current = self._listing.tools.get(tool.name)
            if current is None or current.digest != tool.digest:
                # Policy, or a person, agreed to what was listed then.
                raise ToolFailed("the tool changed or went away; look at the tools again", kind="changed")
            result = await connection.call(self._listing.theirs[tool.name], arguments, progress)
            self._failures = 0
            return result
        except ToolFailed as error:
            raise ToolFailed(f"{tool.name} ({self.uri}): {error}", kind=error.kind) from None
        finally:
            self._rest()

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` when `tools` or `problems` changed; the function returned ends that."""
        return listen(self._listeners, tell)

    def problems(self) -> Sequence[str]:
        said = [self._why] if self._why and (self._connection is None or self._connection.ended) else []
        return tuple(f"tool server {self.uri}: {problem}" for problem in (*said, *self._listing.problems))

    async def aclose(self) -> None:
        self._closed = True
        self._attempted.set()
        if self._idle is not None:
            self._idle.cancel()
        tasks = [task for task in (self._loading, self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            if tasks:
                await asyncio.wait(tasks)
            self._leave()
            if self._leaving:
                await asyncio.wait(self._leaving)

    def _begin(self) -> None:
        if not self._loaded and not self._closed and self._loading is None:
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        """Try until it was there once; from then on calls start it."""
        while not self._loaded and not self._closed:
            try:
                await self._connected()
            except ToolFailed:
                self._attempted.set()
                await asyncio.sleep(max(0.0, self._not_before - asyncio.get_running_loop().time()))
        self._attempted.set()
        self._rest()

    async def _connected(self) -> Connection:
        """The connection there is, or a new one, which all who wait for it share."""
        if self._closed:
            raise ToolFailed("it is closed", kind="unavailable")
        if self._connection is not None and not self._connection.ended:
            return self._connection
        if self._connection is not None:
            self._ended(self._connection)
        pause = self._not_before - asyncio.get_running_loop().time()
        if self._opening is None and pause > PATIENCE_SECONDS:
            raise ToolFailed(f"{self._why}; it is tried again in {pause:.0f} seconds", kind="unavailable")
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(pause))
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                # Who waits was not cancelled: this was closed meanwhile.
                raise ToolFailed("it was closed", kind="unavailable") from None
            raise

    async def _open(self, pause: float) -> Connection:
        await asyncio.sleep(max(0.0, pause))
        try:
            connection = Connection(self.uri, self.server, self._environment, self._listed, self._ended)
            await connection.open(self._start_seconds)
        except ToolFailed as error:
            self._note_failure(str(error))
            raise
        except (OSError, RuntimeError) as error:
            # A home that cannot be found is a RuntimeError; an OSError's text would name paths only.
            self._note_failure(f"it cannot be started: {error}")
            raise ToolFailed(self._why, kind="unavailable") from None
        self._connection = connection
        if self._why:
            self._why = ""
            tell_all(self._listeners)
        return connection

    def _opened(self, opening: "asyncio.Task[Connection]") -> None:
        self._opening = None
        # Looked at also where all who waited have gone.
        if not opening.cancelled():
            opening.exception()

    def _listed(self, listing: Listing) -> None:
        changed = not self._loaded or listing != self._listing
        self._loaded, self._listing = True, listing
        if changed:
            tell_all(self._listeners)

    def _ended(self, connection: Connection) -> None:
        """Take away a connection that is over, and note why."""
        if connection is self._connection:
            self._note_failure(connection.why)
            self._leave()

    def _note_failure(self, why: str) -> None:
        self._why = why
        # A power of two that is not computed larger than it can count.
        pause = min(self._retry_seconds * 2 ** min(self._failures, 20), MAX_RETRY_SECONDS)
        self._failures += 1
        self._not_before = asyncio.get_running_loop().time() + pause
        tell_all(self._listeners)

    def _rest(self) -> None:
        """Have it ended once nothing was asked of it for a while."""
        if self._idle is not None:
            self._idle.cancel()
        if not self._closed:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_idle)

    def _end_idle(self) -> None:
        if self._connection is not None and self._connection.calls == 0:
            self._leave()

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            leaving = asyncio.create_task(connection.aclose())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


def listen(listeners: dict[object, Callable[[], None]], tell: Callable[[], None]) -> Callable[[], None]:
    """Add `tell` to `listeners`; the function returned takes it out again."""
    key = object()
    listeners[key] = tell

    def end() -> None:
        listeners.pop(key, None)

    return end


def tell_all(listeners: Mapping[object, Callable[[], None]]) -> None:
    """Call each of `listeners` as they are now."""
    for tell in list(listeners.values()):
        tell()
