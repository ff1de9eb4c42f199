"""Tools as resources: every tool is a `tool.Tool` in the tree, and what people set there counts.

Writes and reads `cld:tool.Tool.<name>`, as the principal whose store it is given may. What a tool is, its source
says; what people have to say about it (its meta texts, `disabled`, `time_limit`) is theirs, and is never written
over. Runs no tools.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from cld.errors import AccessDenied, ApprovalRequired, CldError, Conflict, InvalidResource, ResourceNotFound, ToolFailed
from cld.guard import GuardedStore
from cld.resource import Draft, Meta
from cld.store import Stored
from cld.tools import Caller, OnProgress, Result, Source
from cld.types import Tool
from cld.uri import ROOT, URI, id_of, make_uri

log = logging.getLogger("cld.tools")

TOOL = "tool.Tool"


class Kept(msgspec.Struct, frozen=True):
    """A tool as it is in the tree; `settled` says that a person has set something there."""

    uri: URI
    version: str
    tool: Tool
    settled: bool


class ToolResources:
    """The `tool.Tool` resources at the top of a tree, as far as they were read; `read` or `heard` keeps them true."""

    def __init__(self, store: GuardedStore) -> None:
        self._store = store
        self._kept: dict[str, Kept] = {}
        self._invalid: dict[str, str] = {}
        self._refused = ""
        self._listeners: dict[object, Callable[[], None]] = {}

    async def read(self) -> None:
        """Read all that there are."""
        uris = await listed(self._store, TOOL)
        found = await self._store.get_each(uris)
        self._kept, self._invalid = {}, {}
        for uri, one in zip(uris, found, strict=True):
            self._take(uri, one)
        self._tell()

    async def heard(self, uri: URI) -> None:
        """Read the one at `uri` again, which came, changed or went."""
        before = self._kept.get(id_of(uri)), self._invalid.get(id_of(uri))
        try:
            found = await self._store.get(uri)
        except ResourceNotFound:
            found = None
        except InvalidResource as error:
            found = error
        self._take(uri, found)
        if before != (self._kept.get(id_of(uri)), self._invalid.get(id_of(uri))):
            self._tell()

    def of_origin(self, origin: str) -> list[Tool]:
        """Those in the tree that come from `origin`, as they came from it."""
        kept = (one.tool for one in self._kept.values() if one.tool.origin == origin)
        return [replace(tool, disabled=False, time_limit=None) for tool in kept]

    def origins(self) -> frozenset[str]:
        """Where those in the tree come from."""
        return frozenset(kept.tool.origin for kept in self._kept.values())

    def as_set(self, tool: Tool) -> Tool:
        """A tool as people have set it; one whose resource cannot be read is out of use, for it may say so."""
        if tool.name in self._invalid:
            return replace(tool, disabled=True)
        if (kept := self._kept.get(tool.name)) is None:
            return tool
        limit = tool.time_limit if kept.tool.time_limit is None else kept.tool.time_limit
        return replace(tool, disabled=kept.tool.disabled, time_limit=limit)

    def limits(self, name: str) -> bool:
        """Whether people have set a time limit of the tool `name`."""
        return (kept := self._kept.get(name)) is not None and kept.tool.time_limit is not None

    def problems(self) -> Sequence[str]:
        return [f"the tool {name} is out of use: {why}" for name, why in self._invalid.items()]

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` when what people set may have changed; the function returned ends that."""
        token = object()
        self._listeners[token] = tell

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    async def publish(self, tools: Iterable[Tool]) -> None:
        """Write those that are new or whose digest changed; what may not be written is left as it is."""
        for tool in tools:
            kept = self._kept.get(tool.name)
            if tool.name in self._invalid or (kept is not None and kept.tool.digest == tool.digest):
                continue
            # Its own time limit stays with the tool: one that is there was set by a person.
            disabled, limit = (False, None) if kept is None else (kept.tool.disabled, kept.tool.time_limit)
            content = msgspec.to_builtins(replace(tool, disabled=disabled, time_limit=limit))
            uri = make_uri(ROOT, TOOL, tool.name)
            try:
                stored = await self._store.put(Draft(uri, content), if_version=None if kept is None else kept.version)
                self._take(uri, stored)
            except (AccessDenied, ApprovalRequired) as error:
                return self._note_refusal(str(error))
            except Conflict:
                await self.heard(uri)  # another process was first, or a person just set something
            except CldError as error:
                log.warning("%s was not written: %s", uri, error)

    async def remove(self, tools: Iterable[Tool]) -> None:
        """Delete those whose tool is gone; one in which a person has set something stays, and counts if it returns."""
        for tool in tools:
            kept = self._kept.get(tool.name)
            if kept is None or kept.settled or kept.tool.origin != tool.origin:
                continue
            try:
                await self._store.delete(kept.uri, if_version=kept.version)
                self._take(kept.uri, None)
            except (AccessDenied, ApprovalRequired) as error:
                return self._note_refusal(str(error))
            except (Conflict, ResourceNotFound):
                await self.heard(kept.uri)
            except CldError as error:
                log.warning("%s was not deleted: %s", kept.uri, error)

    def _take(self, uri: URI, found: Stored | InvalidResource | None) -> None:
        name = id_of(uri)
        self._kept.pop(name, None)
        self._invalid.pop(name, None)
        if isinstance(found, InvalidResource):
            self._invalid[name] = str(found)
        elif found is not None:
            try:
                tool = msgspec.convert(found.resource.content, Tool)
            except msgspec.ValidationError as error:
                self._invalid[name] = f"{uri}: {error}"
                return
            settled = tool.disabled or tool.time_limit is not None or found.resource.meta != Meta()
            self._kept[name] = Kept(uri, found.version, replace(tool, name=name), settled)

    def _note_refusal(self, why: str) -> None:
        if why != self._refused:
            log.info("tools are not written into the tree as resources: %s", why)
        self._refused = why

    def _tell(self) -> None:
        for tell in list(self._listeners.values()):
            tell()


class AsSet(Source):
    """The tools of a source, as people have set them in the tree."""

    def __init__(self, source: Source, kept: ToolResources) -> None:
        self._source = source
        self._kept = kept

    def tools(self) -> Sequence[Tool]:
        return [self._kept.as_set(tool) for tool in self._source.tools()]

    def limits(self, tool: Tool) -> bool:
        """Whether its time limit is one that people have set."""
        return self._kept.limits(tool.name)

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        """As `Source.call`; the source gets its own tool back."""
        own = next((one for one in self._source.tools() if one.name == tool.name), None)
        if own is None or (own.digest, own.origin) != (tool.digest, tool.origin):
            raise ToolFailed(f"the tool {tool.name} was changed just now; look at it again", kind="changed")
        return await self._source.call(own, arguments, caller, progress)

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        ends = (self._source.on_change(tell), self._kept.on_change(tell))

        def end() -> None:
            for one in ends:
                one()

        return end

    def problems(self) -> Sequence[str]:
        return self._source.problems()

    async def aclose(self) -> None:
        await self._source.aclose()


async def listed(store: GuardedStore, type: str) -> list[URI]:
    """All resources of `type` at the top of the tree."""
    return [uri async for uri in store.every(type=type)]
