"""Resources into graphs: has their linked data read by a worker, and writes what it found.

A consumer of changes: told what was put and deleted, and asked which versions it has. Where a resource makes the worker
hang or crash, its graph holds what the tree itself says, and why there is no more.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cld.errors import InvalidResource
from cld.events.pace import to_thread
from cld.index.graph_messages import Extract, Extracts
from cld.index.graph_process import GraphProcess, WorkerEnded
from cld.index.graph_table import GraphTable, Row
from cld.index.linked_facts import Extracted, placed, plain
from cld.resource import Resource
from cld.store import Stored
from cld.uri import URI

BATCH_SECONDS = 4.0
ONE_SECONDS = 4.0
"""How long reading the linked data of many resources, and of a single one, may take."""

IDLE_SECONDS = 30.0
_BATCH_BYTES = 4 * 1024 * 1024


def version_of_invalid(reason: str) -> str:
    """What stands for the version of a file that is no valid resource, because of `reason`."""
    return f"invalid: {reason}"[:500]


class Broken(msgspec.Struct, frozen=True):
    """A file that is no valid resource, and why."""

    uri: URI
    error: InvalidResource

    @property
    def version(self) -> str:
        """Stands for the version, which it has none of; differs when what is wrong does."""
        return version_of_invalid(str(self.error))


Put = Stored | Broken


class GraphWriter:
    """Writes the graphs in `folder`; one at a time among all processes. `aclose` it."""

    def __init__(self, folder: Path) -> None:
        self._table = GraphTable(folder, writes=True)
        self._process: GraphProcess | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def versions(self) -> Mapping[URI, str]:
        """The version that each graph was made of."""
        return await to_thread(self._table.versions)

    async def version_of(self, uri: URI) -> str | None:
        return await to_thread(lambda: self._table.version_of(uri))

    async def apply(self, puts: Sequence[Put], deletes: Sequence[URI]) -> None:
        """Have the graphs say what `puts` say, and nothing of `deletes`; readers see all of it or nothing."""
        async with self._turn:
            self._rest(None)
            graphs = await self._extract(puts)
            rows = [_row(put, graph) for put, graph in zip(puts, graphs, strict=True)]
            await to_thread(lambda: self._table.apply(rows, deletes))
            self._rest(IDLE_SECONDS)

    async def mend(self) -> str:
        """Take out what is not as it was written, so that it is made again; what that was, if anything."""
        return await to_thread(self._table.mend)

    def is_there(self) -> bool:
        """Whether what is written is still what others would read."""
        return self._table.is_there()

    async def finish(self) -> None:
        """Say that all of the tree has been applied once."""
        await to_thread(self._table.finish)

    async def aclose(self) -> None:
        async with self._turn:
            self._rest(None)
            await self._end_process()
        await to_thread(self._table.close)

    async def _extract(self, puts: Sequence[Put]) -> list[Extracted]:
        """One graph for each put."""
        graphs: list[Extracted | None] = [placed(p.uri, str(p.error)) if isinstance(p, Broken) else None for p in puts]
        pending: list[tuple[int, bytes]] = []
        size = 0
        for index, put in enumerate(puts):
            if isinstance(put, Broken):
                continue
            data = msgspec.json.encode(put.resource)
            if pending and size + len(data) > _BATCH_BYTES:
                await self._extract_some(pending, puts, graphs)
                pending, size = [], 0
            pending.append((index, data))
            size += len(data)
        await self._extract_some(pending, puts, graphs)
        return [graph for graph in graphs if graph is not None]

    async def _extract_some(
        self, pending: Sequence[tuple[int, bytes]], puts: Sequence[Put], graphs: list[Extracted | None]
    ) -> None:
        if not pending:
            return
        seconds = BATCH_SECONDS if len(pending) > 1 else ONE_SECONDS
        try:
            found = await self._ask(Extract(tuple(data for _, data in pending)), seconds)
        except WorkerEnded as ended:
            if len(pending) > 1:
                # One of them is to blame; each by itself tells which, and costs no other its graph.
                for one in pending:
                    await self._extract_some([one], puts, graphs)
                return
            index = pending[0][0]
            graphs[index] = plain(_resource(puts[index]), f"its linked data cannot be read: {ended}")
            return
        for (index, _), graph in zip(pending, found, strict=True):
            graphs[index] = graph

    async def _ask(self, order: Extract, seconds: float) -> Sequence[Extracted]:
        if self._process is None or not self._process.is_alive:
            await self._end_process()
            self._process = await GraphProcess.start()
            # How long the machine takes to start it is no resource's fault.
            await self._process.ask(Extract(()))
        answer = await self._process.ask(order, seconds)
        assert isinstance(answer, Extracts)
        return answer.graphs

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.aclose()

    def _rest(self, seconds: float | None) -> None:
        """Let the worker go when nothing comes for so long; with None, not now."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if seconds is not None and self._process is not None:
            self._idle = asyncio.get_running_loop().call_later(seconds, self._begin_closing)

    def _begin_closing(self) -> None:
        self._closing = asyncio.create_task(self._close_if_idle())

    async def _close_if_idle(self) -> None:
        if not self._turn.locked():
            async with self._turn:
                await self._end_process()


def _row(put: Put, graph: Extracted) -> Row:
    if isinstance(put, Broken):
        return Row(put.uri, put.version, b"", graph.triples)
    return Row(URI(put.resource.uri), put.version, msgspec.json.encode(put.resource.meta), graph.triples)


def _resource(put: Put) -> Resource:
    assert isinstance(put, Stored)
    return put.resource
