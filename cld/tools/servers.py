"""Tool servers: the tools of other MCP servers, as `tool.Server` resources describe them.

Owns which servers there are and that the user permits them; each by itself is `cld.tools.server_tools`'s.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from cld.config import Permit
from cld.errors import ToolFailed
from cld.tools import Caller, OnProgress, Result, Source
from cld.tools.server_permits import allowed
from cld.tools.server_tools import IDLE_SECONDS, RETRY_SECONDS, START_SECONDS, ServerTools, listen, tell_all
from cld.types import Server, Tool

__all__ = ["ServerTools", "Servers", "allowed"]


class Servers(Source):
    """The tools of all tool servers there are; which there are is said by `replace`.

    One that the user's own settings do not permit is a problem, and is never started. Of tools with the same name
    that of the server first in the order of URIs counts; the others are problems.
    """

    def __init__(
        self,
        permits: Sequence[Permit],
        *,
        environment: Mapping[str, str] = os.environ,
        idle_seconds: float = IDLE_SECONDS,
        start_seconds: float = START_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._permits = tuple(permits)
        self._environment = environment
        self._idle_seconds = idle_seconds
        self._start_seconds = start_seconds
        self._retry_seconds = retry_seconds
        self._sources: dict[str, ServerTools] = {}
        self._refused: tuple[str, ...] = ()
        self._closing: set[asyncio.Task[None]] = set()
        self._replacing = asyncio.Lock()
        self._closed = False
        self._listeners: dict[object, Callable[[], None]] = {}

    async def replace(
        self, servers: Iterable[tuple[str, Server]], known: Mapping[str, Sequence[Tool]] | None = None
    ) -> None:
        """Make these, by their URIs, the servers there are; those that stay as they were go on undisturbed.

        `known` are tools that servers offered once, listed until they say what they offer now. Returns when those
        that went or changed have ended.
        """
        async with self._replacing:
            if self._closed:
                return
            wanted: dict[str, Server] = {}
            refused: list[str] = []
            for uri, server in sorted(servers, key=lambda pair: pair[0]):
                if server.disabled:
                    continue
                if (reason := allowed(server, self._permits)) is not None:
                    refused.append(f"tool server {uri} is not used: {reason}")
                else:
                    wanted[uri] = server
            kept = {uri: source for uri, source in self._sources.items() if wanted.get(uri) == source.server}
            gone = [source for uri, source in self._sources.items() if uri not in kept]
            made = {
                uri: self._make(uri, server, (known or {}).get(uri, ()))
                for uri, server in wanted.items()
                if uri not in kept
            }
            self._refused = tuple(refused)
            self._sources = dict(sorted((kept | made).items()))
            if gone or made:
                self._changed()
            await self._close(gone)

    async def load(self) -> None:
        """Start all that never were, and return once each is ready or has failed."""
        await asyncio.gather(*(source.load() for source in self._sources.values()))

    def tools(self) -> Sequence[Tool]:
        return tuple(tool for _, tool in sorted(self._joined().items()))

    def loaded(self) -> frozenset[str]:
        """Those that have said what they offer."""
        return frozenset(uri for uri, source in self._sources.items() if source.is_loaded)

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        """As `ServerTools.call`, by the server that the tool is of."""
        source = self._sources.get(tool.origin)
        if source is None:
            raise ToolFailed(f"{tool.name}: its server {tool.origin} is not there any more", kind="unavailable")
        return await source.call(tool, arguments, caller, progress)

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` when `tools` or `problems` changed; the function returned ends that."""
        return listen(self._listeners, tell)

    def problems(self) -> Sequence[str]:
        joined = self._joined()
        twice = [
            f"tool server {uri}: its tool {tool.name} is left out; {joined[tool.name].origin} has one of that name"
            for uri, source in self._sources.items()
            for tool in source.tools()
            if joined[tool.name].origin != uri
        ]
        of_each = [problem for source in self._sources.values() for problem in source.problems()]
        return (*self._refused, *of_each, *twice)

    async def aclose(self) -> None:
        self._closed = True
        async with self._replacing:
            sources, self._sources = self._sources, {}
            await self._close(sources.values())

    def _joined(self) -> dict[str, Tool]:
        joined: dict[str, Tool] = {}
        for source in self._sources.values():
            for tool in source.tools():
                joined.setdefault(tool.name, tool)
        return joined

    def _make(self, uri: str, server: Server, known: Sequence[Tool]) -> ServerTools:
        made = ServerTools(
            uri,
            server,
            environment=self._environment,
            idle_seconds=self._idle_seconds,
            start_seconds=self._start_seconds,
            retry_seconds=self._retry_seconds,
            known=known,
        )
        made.on_change(self._changed)
        return made

    async def _close(self, sources: Iterable[ServerTools]) -> None:
        """End these, and those whose end somebody was cancelled waiting for."""
        for source in sources:
            closing = asyncio.create_task(source.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        with anyio.CancelScope(shield=True):
            while self._closing:
                await asyncio.wait(self._closing)

    def _changed(self) -> None:
        tell_all(self._listeners)
