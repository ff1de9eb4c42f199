"""The toolbox: all tools of one process, from their sources and as the tree has them, kept as both change.

Composes the sources of tools with their resources: Python files and tool servers are written into the tree as
`tool.Tool`, what people set there counts, and `tool.Server` resources say which servers there are. Calls nothing
itself.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Self

import msgspec

from cld.config import Settings
from cld.errors import CldError, InvalidResource
from cld.guard import Guard, GuardedStore, GuardedSubscription
from cld.principal import Principal
from cld.store import MAX_LIMIT
from cld.tools import Source
from cld.tools.calling import Calling
from cld.tools.library import places
from cld.tools.python import PythonTools
from cld.tools.resources import TOOL, AsSet, ToolResources, listed
from cld.tools.servers import Servers
from cld.types import Server, Tool
from cld.uri import ROOT, make_uri, parent_of, type_of

log = logging.getLogger("cld.tools")

SERVER = "tool.Server"

Hear = Callable[[GuardedStore, frozenset[str]], AbstractAsyncContextManager[GuardedSubscription]]
"""Changes of these types of resources, as far as the store's principal may hear them."""

RETRY_SECONDS = 2.0


class Toolbox:
    """Made by `open`; what runs by itself ends with `aclose`."""

    def __init__(
        self,
        settings: Settings,
        brought: Sequence[Source],
        store: GuardedStore,
        python: PythonTools,
        guard_of: Callable[[Principal], Guard],
    ) -> None:
        self._store = store
        self._brought = tuple(brought)
        self._python = python
        self._servers = Servers(settings.tooling.servers)
        self._kept = ToolResources(store)
        self._unreadable: tuple[str, ...] = ()
        self._there: frozenset[str] | None = None
        self._stale = asyncio.Event()
        self._told: frozenset[str] = frozenset()
        self._stack = AsyncExitStack()
        sources = [*self._brought, AsSet(python, self._kept), AsSet(self._servers, self._kept)]
        self.calling = Calling(sources, guard_of, settings.tooling)
        python.nest = self.calling.call

    @classmethod
    async def open(
        cls,
        settings: Settings,
        brought: Sequence[Source],
        store: GuardedStore,
        hear: Hear,
        guard_of: Callable[[Principal], Guard],
        *,
        publish: bool = True,
    ) -> Self:
        """All tools: of Python files at once, of tool servers as soon as they have started.

        `store` reads and writes their resources, as far as its principal may. Without `publish` it only reads them,
        and what changes later is not followed.
        """
        folders, options = places(settings.tooling)
        python = await PythonTools.open(folders, settings.tooling, options, listings=listings_of(settings))
        toolbox = cls(settings, brought, store, python, guard_of)
        toolbox._stack.push_async_callback(toolbox.calling.aclose)
        try:
            if publish:
                # Heard before it is read, so that nothing that changes meanwhile is missed.
                heard = await toolbox._stack.enter_async_context(hear(store, frozenset({TOOL, SERVER})))
                await toolbox._read()
                for source in (python, toolbox._servers):
                    toolbox._stack.callback(source.on_change(toolbox._stale.set))
                toolbox._stale.set()
                for running in (toolbox._follow(heard), toolbox._publish()):
                    toolbox._stack.push_async_callback(_ended, asyncio.create_task(running))
            else:
                await toolbox._read()
        except BaseException:
            await toolbox.aclose()
            raise
        return toolbox

    async def load(self) -> None:
        """Return once all servers have started or failed to."""
        await self._servers.load()

    async def look_at(self, name: str) -> None:
        """Take up what the tree says of one tool now; else it counts from when it is heard."""
        with contextlib.suppress(CldError):  # then it is as it was
            await self._kept.heard(make_uri(ROOT, TOOL, name))

    def problems(self) -> Sequence[str]:
        """What is wrong with the tools right now, in words."""
        return [*self.calling.problems(), *self._kept.problems(), *self._unreadable]

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def _follow(self, heard: GuardedSubscription) -> None:
        """Take up what changes in the tree."""
        while True:
            try:
                events = await heard.batch(MAX_LIMIT)
                if not events:
                    return
                for event in events:
                    if type_of(event.uri) == TOOL and parent_of(event.uri) == ROOT:
                        await self._kept.heard(event.uri)
                if any(type_of(event.uri) == SERVER for event in events):
                    await self._read_servers()
                self._stale.set()
            except CldError as error:
                log.warning("changes of tools in the tree cannot be followed for now: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        await self._kept.read()
        await self._read_servers(first=True)

    async def _read_servers(self, *, first: bool = False) -> None:
        """Have those servers that the tree names; at first with the tools that they offered once."""
        uris = await listed(self._store, SERVER)
        found: list[tuple[str, Server]] = []
        unreadable: list[str] = []
        for uri, one in zip(uris, await self._store.get_each(uris), strict=True):
            if isinstance(one, InvalidResource):
                unreadable.append(f"tool server {uri} is not used: {one}")
            elif one is not None:
                try:
                    found.append((uri, msgspec.convert(one.resource.content, Server)))
                except msgspec.ValidationError as error:
                    unreadable.append(f"tool server {uri} is not used: {error}")
        self._unreadable, self._there = tuple(unreadable), frozenset(uris)
        await self._servers.replace(found, {uri: self._kept.of_origin(uri) for uri, _ in found} if first else None)

    async def _publish(self) -> None:
        """Keep the resources as the tools are, and say in the log what is wrong with them."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            for problem in (found := frozenset(self.problems())) - self._told:
                log.warning("tools: %s", problem)
            self._told = found
            try:
                reserved = {tool.name for source in self._brought for tool in source.tools()}
                await self._kept.publish(
                    tool
                    for tool in (*self._python.tools(), *self._without_python(self._servers.tools()))
                    if tool.name not in reserved
                )
                await self._remove()
            except Exception:  # whatever one round met, the next is due
                log.exception("tools: their resources cannot be kept")

    def _without_python(self, tools: Iterable[Tool]) -> list[Tool]:
        """Of two tools with one name the earlier source's counts, in the tree as in calls."""
        names = {tool.name for tool in self._python.tools()}
        return [tool for tool in tools if tool.name not in names]

    async def _remove(self) -> None:
        """Take away the resources of tools that are gone here; those of other processes' folders are none of ours."""
        gone = list(self._python.missing())
        await self._kept.remove(gone)
        if gone:
            await self._python.forget(gone)
        offered = {tool.name for tool in self._servers.tools()}
        loaded, there = self._servers.loaded(), self._there or frozenset()
        for origin in self._kept.origins():
            if _type_of(origin) == SERVER and (origin in loaded or origin not in there):
                kept = self._kept.of_origin(origin)
                await self._kept.remove([tool for tool in kept if origin not in there or tool.name not in offered])


def _type_of(origin: str) -> str:
    """`tool.Server` for the URI of one, else nothing: files are relative paths."""
    return SERVER if origin.startswith(f"cld:{SERVER}.") else ""


def listings_of(settings: Settings) -> Path | None:
    """Where what the files of tools hold is kept: in the tree's reserved folder, by who names which folders."""
    if not settings.is_local:
        return None
    folders, _ = places(settings.tooling)
    named = hashlib.sha256(repr([str(place.folder) for place in folders]).encode()).hexdigest()[:16]
    return settings.root_path / ".cld" / "cache" / f"tools-{named}.json"


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
