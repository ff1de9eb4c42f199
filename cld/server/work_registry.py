"""The tools that the tree brings: each assistant and each registered tool as an MCP tool, listed without a process.

Until this server works, both are known from their resources, read when a client first asks for the list; from then
on changes are heard. Once it works, the tools themselves say what they are.
What calling one does is `cld.server.registered_calls`, which is loaded with the first call.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import logging
from collections.abc import Container, Coroutine, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from cld.errors import CldError, InvalidResource
from cld.escape import safe_line
from cld.guard import GuardedStore
from cld.policy import Context
from cld.resource import Meta
from cld.runtime import Runtime
from cld.seeds import seeds
from cld.server.arguments import HostURI, Parse, check_json, parser, schema_of
from cld.server.call import Call, Reply
from cld.server.registry import (
    ASSISTANTS,
    REGISTERED,
    Annotations,
    Handle,
    Registry,
    Tool,
    result_schema,
    words_of,
)
from cld.server.resources_tools import TEXT, described
from cld.server.work_tools import DEFAULT_WAIT, MOST_WAIT
from cld.store import MAX_LIMIT
from cld.tools.names import here
from cld.types import Assistant, Server
from cld.types import Tool as Registered
from cld.uri import ROOT, URI, id_of, namespace_of

log = logging.getLogger("cld.server")

ASSISTANT, TOOL, SERVER, NAMESPACE = "common.Assistant", "tool.Tool", "tool.Server", "cld.Namespace"

LIST_BYTES = 15_900
"""How large the list of tools may be by default, all in all; who wants more says so, or asks `tool_list`."""

MOST_DESCRIPTION = 240
MOST_NAMESPACES = 100
"""So many namespaces are looked into for assistants."""

RETRY_SECONDS = 2.0

FOLLOW_SECONDS = 0.3
"""How long following waits: a host that starts a server waits for its first answers, not for this."""

KindT = TypeVar("KindT", bound=msgspec.Struct)

_WORKS = Annotations(read_only=False, destructive=False, idempotent=False, open_world=True)
_ANSWERED = {"type": "object", "properties": {"task": TEXT, "status": TEXT, "answer": {}}}


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Annotated[str, described("What is to be done", min_length=1)]
    conversation: HostURI | UnsetType = UNSET
    wait_seconds: Annotated[float, described("", ge=0, le=MOST_WAIT)] = DEFAULT_WAIT


class TreeTools:
    """Keeps two groups of `registry`: the assistants, and the registered tools."""

    def __init__(self, runtime: Runtime, registry: Registry) -> None:
        self._runtime = runtime
        self._registry = registry
        words = words_of(runtime.settings.tools)
        self._is_bounded = not words & {"all", REGISTERED}
        self._assistants = bool(words & {"core", "all", ASSISTANTS})
        self._registered = bool(words & {"core", "all", REGISTERED})
        self._of_tree: list[Tool] = []
        self._looking = asyncio.Lock()
        self._current = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._following = False

    async def look(self) -> None:
        """Make the groups what the tree has, unless that is known already."""
        if (self._assistants or self._registered) and not self._current:
            await self._look()

    def follow(self) -> None:
        """From now on, in the background, keep the groups as the tree and the files are."""
        if not self._following and (self._assistants or self._registered):
            self._following = True
            self._start(self._follow())

    def woken(self) -> None:
        """This process begins to work: its tools are about to be opened."""
        if self._registered:
            self._start(self._attach())

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        await asyncio.sleep(FOLLOW_SECONDS)
        store = self._store()
        tooling = self._runtime.settings.tooling
        async with self._runtime.hear(store, types=frozenset({ASSISTANT, NAMESPACE, TOOL, SERVER})) as heard:
            await self._look()
            self._current = True
            # Somebody's own files or servers were named: they are looked at, though nobody asked for work yet.
            if self._registered and (tooling.folders or (tooling.servers and await self._has_unknown_server(store))):
                self._start(self._open())
            while True:
                try:
                    if not await heard.batch(MAX_LIMIT):
                        return
                    await self._look()
                except CldError as error:
                    log.warning("changed tools cannot be listed for now: %s", error)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _open(self) -> None:
        try:
            await self._runtime.workshop.calling()
        except CldError as error:
            log.warning("the tools cannot be opened: %s", error)

    async def _attach(self) -> None:
        """List the tools that were opened, and again whenever they change."""
        calling = await self._runtime.workshop.calling()
        changed = asyncio.Event()
        end = calling.on_change(changed.set)
        try:
            while True:
                with contextlib.suppress(CldError):
                    await self._look()
                await changed.wait()
                changed.clear()
        finally:
            end()

    async def _look(self) -> None:
        async with self._looking:
            store = self._store()
            asked = await self._asked(store) if self._assistants else []
            found = await self._tools(store) if self._registered else []
            tools = [_registered(tool) for tool in found if not tool.disabled]
            if self._is_bounded:
                asked, tools = self._bounded(asked, tools)
            self._registry.replace(ASSISTANTS, asked)
            self._registry.replace(REGISTERED, tools)

    async def _asked(self, store: GuardedStore) -> list[Tool]:
        """The assistants at the top, or those that it is given with the first work, and then those of namespaces."""
        tools: dict[str, Tool] = {}
        for place in (ROOT, *(await store.list(ROOT, type=NAMESPACE, limit=MOST_NAMESPACES)).uris):
            uris = [uri async for uri in store.every(place, type=ASSISTANT)]
            for uri, assistant, meta in await _valid(store, uris, Assistant):
                if not assistant.disabled:
                    tool = _assistant(uri, assistant, meta, among=tools)
                    tools[tool.name] = tool
            if place == ROOT and not uris:
                for uri, seed in seeds(self._runtime.settings.seeds_path, ASSISTANT):
                    tool = _assistant(uri, msgspec.convert(seed.content, Assistant), seed.meta, is_seed=True)
                    tools[tool.name] = tool
        return list(tools.values())

    async def _tools(self, store: GuardedStore) -> list[Registered]:
        if self._runtime.is_working and (calling := self._runtime.workshop.opened) is not None:
            return [tool for tool in calling.tools() if tool.origin != "cld"]
        servers = await _read(store, SERVER, Server)
        there = {uri for uri, server, _ in servers if not server.disabled}
        found = [replace(tool, name=id_of(uri)) for uri, tool, _ in await _read(store, TOOL, Registered)]
        return [tool for tool in found if tool.origin in there or self._is_file(tool.origin)]

    def _is_file(self, origin: str) -> bool:
        """Whether a tool comes from a file that this process would load."""
        folder, _, file = origin.partition("/")
        tooling = self._runtime.settings.tooling
        folders = [Path(folder).expanduser() for folder in tooling.folders]
        if tooling.library:
            folders.append(Path(__file__).parent.parent / "tools" / "library")
        return "/" not in file and any(one.name == folder and (one / file).is_file() for one in folders)

    def _bounded(self, *groups: Sequence[Tool]) -> list[list[Tool]]:
        """The same, with those not listed that the list has no room for: the first group's come first."""
        others = {tool.name for tool in self._of_tree}
        left = LIST_BYTES - sum(_size(tool) for tool in self._registry.tools() if tool.name not in others)
        self._of_tree = [tool for group in groups for tool in group]
        bounded: list[list[Tool]] = []
        for group in groups:
            bounded.append([])
            for tool in group:
                fits = (size := _size(tool)) <= left
                left -= size if fits else 0
                bounded[-1].append(tool if fits else dataclasses.replace(tool, listed=False))
        return bounded

    async def _has_unknown_server(self, store: GuardedStore) -> bool:
        """Whether there is a tool server of which no tools are known yet."""
        known = {tool.origin for _, tool, _ in await _read(store, TOOL, Registered)}
        return any(uri not in known and not server.disabled for uri, server, _ in await _read(store, SERVER, Server))

    def _store(self) -> GuardedStore:
        runtime = self._runtime
        return runtime.store(runtime.principal, Context(tool="tools/list"))


async def _read(store: GuardedStore, type: str, kind: type[KindT]) -> list[tuple[URI, KindT, Meta]]:
    """All resources of `type` at the top of the tree that are valid, with their texts."""
    return await _valid(store, [uri async for uri in store.every(type=type)], kind)


async def _valid(store: GuardedStore, uris: Sequence[URI], kind: type[KindT]) -> list[tuple[URI, KindT, Meta]]:
    found: list[tuple[URI, KindT, Meta]] = []
    for uri, one in zip(uris, await store.get_each(uris) if uris else (), strict=True):
        if one is not None and not isinstance(one, InvalidResource):
            with contextlib.suppress(msgspec.ValidationError):
                found.append((uri, msgspec.convert(one.resource.content, kind), one.resource.meta))
    return found


def _assistant(
    uri: URI, assistant: Assistant, meta: Meta, *, among: Container[str] = (), is_seed: bool = False
) -> Tool:
    """An assistant as a tool, with a name that is not `among` those of others; a seed is put into the tree first."""
    schema, parse = _asking()
    space = namespace_of(uri)
    known = f"{space}_{id_of(uri)}" if space else id_of(uri)
    if (name := here("assistant", known)) in among:
        name = here("assistant", f"{known}_{hashlib.sha256(uri.encode()).hexdigest()[:8]}")
    purpose = " ".join(meta.purpose.split()) or "It has no description."
    return Tool(
        name=name,
        title=safe_line(assistant.title) or id_of(uri),
        description=_shortened(f"Assistant{space and f' of {space}'}: {safe_line(purpose)}"),
        input_schema=schema,
        parse=parse,
        handle=_on_first_call("ask_seed" if is_seed else "ask_assistant", str(uri)),
        annotations=_WORKS,
        output_schema=_ANSWERED,
        needs=uri,
        access="write" if is_seed else "read",
    )


@cache
def _asking() -> tuple[dict[str, Any], Parse]:
    return schema_of(Ask), parser(Ask)


def _registered(tool: Registered) -> Tool:
    """A registered tool as one for hosts."""
    hints = tool.annotations
    return Tool(
        name=tool.name,
        title=tool.title or tool.name,
        description=tool.description or tool.title or tool.name,
        input_schema=tool.input_schema,
        parse=_as_given,
        handle=_on_first_call("call_registered", tool.name),
        annotations=Annotations(hints.read_only, hints.destructive, hints.idempotent, hints.open_world),
        output_schema=_output(tool.output_schema),
        decides=True,
    )


def _as_given(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    check_json(dict(arguments))
    return arguments


def _output(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """The schema of the structured result, which is an object always; what no object is comes as its `result`."""
    if schema is None or b"$ref" in msgspec.json.encode(schema):
        return None  # references would point elsewhere once it is part of another
    if schema.get("type") == "object":
        return {"type": "object", "anyOf": [schema, {"required": ["error"]}]}
    return result_schema({"result": schema}, ["result"])


def _on_first_call(name: str, *given: str) -> Handle:
    """The handler of that name, whose module is loaded when it is called."""

    async def handle(call: Call, args: Any) -> Reply:
        return await getattr(importlib.import_module("cld.server.registered_calls"), name)(call, args, *given)

    return handle


def _size(tool: Tool) -> int:
    return len(msgspec.json.encode(tool.wire)) + 1


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_DESCRIPTION else f"{text[: MOST_DESCRIPTION - 1]}…"
