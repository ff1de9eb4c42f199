"""The graph: SPARQL over what the linked data in resources says, as far as the caller may read them.

The dataset of a query is made of the graphs of readable resources and holds nothing else, in a worker process that can
open neither files nor sockets and is killed when a query takes too long. So there is nothing in a query that
could find, count or guess what its caller may not read. Reads in any process; never writes.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from cld.events.pace import to_thread
from cld.guard import GuardedStore
from cld.index.graph_messages import Drop, Dump, Format, Load, Query, Refused, Rows, Value
from cld.index.graph_process import MEMORY_BYTES, GraphProcess, WorkerEnded
from cld.index.graph_sparql import InvalidQuery, check, undeclared
from cld.index.graph_table import Entry, GraphTable
from cld.index.linked_terms import in_graph
from cld.principal import Principal
from cld.uri import ROOT, URI

_DECISIONS = 1000
_LOAD_BYTES = 4 * 1024 * 1024
_DROPS = 2000


class QueryStopped(WorkerEnded):
    """A query that took longer, or more memory, than it may; make it smaller."""


class GraphLimits(msgspec.Struct, frozen=True):
    """Bounds of one query; `idle_seconds` is how long a dataset is kept for the next one."""

    seconds: float = 10.0
    rows: int = 1000
    result_bytes: int = 1024 * 1024
    memory_bytes: int = MEMORY_BYTES
    workers: int = 2
    idle_seconds: float = 30.0


MAKING = "the graph is being made; not all resources are in it yet"


class Answer(msgspec.Struct, frozen=True):
    """A table: a row has one plain value for each column. `notes` say what the caller should know of it.

    `incomplete`: not all resources were in the graph yet, or their last changes not.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    truncated: bool = False
    incomplete: bool = False
    notes: tuple[str, ...] = ()

    def before_all(self) -> "Answer":
        """The same, told as one given before all of the tree was in the graph."""
        return self if self.incomplete else msgspec.structs.replace(self, incomplete=True, notes=(*self.notes, MAKING))


class Graph:
    """Answers queries from the graph in `folder`, which some process keeps; `aclose` it."""

    def __init__(self, folder: Path, limits: GraphLimits | None = None) -> None:
        self._limits = limits or GraphLimits()
        self._table = GraphTable(folder, writes=False)
        self._workers = _Workers(self._limits)

    async def query(self, store: GuardedStore, sparql: str, prefix: URI = ROOT, limit: int | None = None) -> Answer:
        """The answer of a SPARQL 1.1 query over the graphs, below `prefix`, of what the store's principal may read.

        The default graph is the union of these graphs, each of which has its resource's URI as its name. `limit` is
        the most rows, never more than the limits allow.

        Raises:
            InvalidQuery: it is no query, an update, or asks another service; says where.
            QueryStopped: it took too long or too much memory.
        """
        check(sparql)
        limits = self._limits
        rows = limits.rows if limit is None else min(limit, limits.rows)
        order = Query(sparql, rows, limits.result_bytes, limits.seconds)
        whole = await to_thread(self._table.is_complete)
        async with self._dataset(store, prefix) as worker:
            try:
                found = await worker.ask(order, limits.seconds)
            except WorkerEnded as ended:
                advice = "ask for less at a time, or give a prefix"
                raise QueryStopped(f"the query was {ended}; {advice}", crashed=ended.crashed) from None
        if isinstance(found, Refused):
            place = "" if found.line is None else f"line {found.line}, column {found.column}: "
            message = f"sparql: {place}{found.reason}{undeclared(sparql)}"
            raise InvalidQuery(message, line=found.line, column=found.column)
        assert isinstance(found, Rows)
        answer = Answer(found.columns, found.rows, bool(found.cut), notes=self._notes(found, rows))
        return answer if whole else answer.before_all()

    async def export(self, store: GuardedStore, format: Format, prefix: URI = ROOT) -> AsyncGenerator[bytes]:
        """All graphs of what the principal may read, in pieces; Turtle has their union, the others each by name."""
        async with self._dataset(store, prefix) as worker, contextlib.aclosing(worker.pieces(Dump(format))) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        await self._workers.aclose()
        await to_thread(self._table.close)

    def _notes(self, found: Rows, rows: int) -> tuple[str, ...]:
        notes: list[str] = []
        if found.cut == "rows":
            notes.append(f"only the first {rows} rows; use LIMIT and OFFSET with ORDER BY, or ask more closely")
        if found.cut == "bytes":
            notes.append(f"only the first {len(found.rows)} rows, which have {self._limits.result_bytes} bytes")
        return tuple(notes)

    @asynccontextmanager
    async def _dataset(self, store: GuardedStore, prefix: URI) -> AsyncGenerator[GraphProcess]:
        """A worker whose dataset is exactly the graphs that the principal may read now."""
        allowed = await self._allowed(store, prefix)
        async with self._workers.one((store.guard.principal, prefix)) as worker:
            worker = await self._bring(worker, allowed, with_meta=store.guard.needs_meta)
            yield worker

    async def _allowed(self, store: GuardedStore, prefix: URI) -> dict[str, int]:
        """The state of each graph of a resource that may be read, decided anew for every query."""
        entries = await to_thread(lambda: self._table.entries(prefix))
        allowed: dict[str, int] = {}
        for first in range(0, len(entries), _DECISIONS):
            some = entries[first : first + _DECISIONS]
            if store.guard.needs_meta:
                some = _readable_as_made(store, some)
            readable = set(await store.readable([entry.uri for entry in some], brief=True))
            allowed.update((entry.uri, entry.state) for entry in some if entry.uri in readable)
            await asyncio.sleep(0)
        return allowed

    async def _bring(self, worker: "_Slot", allowed: dict[str, int], *, with_meta: bool) -> GraphProcess:
        """The slot's process, holding exactly the graphs `allowed`."""
        process = await worker.process()
        held = process.held
        stale = [uri for uri, state in held.items() if allowed.get(uri) != state]
        if len(stale) > _DROPS and 2 * len(stale) > len(held):
            process = await worker.process(fresh=True)
            held, stale = process.held, []
        if stale:
            await process.ask(Drop(tuple(stale)))
            for uri in stale:
                del held[uri]
        await self._load(process, [uri for uri in allowed if uri not in held], allowed, with_meta=with_meta)
        return process

    async def _load(
        self, process: GraphProcess, missing: Sequence[str], allowed: dict[str, int], *, with_meta: bool
    ) -> None:
        quads = bytearray()
        rows = self._table.triples([URI(uri) for uri in missing])
        while some := await to_thread(lambda: list(_some(rows))):
            for uri, state, triples in some:
                if with_meta and state != allowed[uri]:
                    continue  # written since it was decided on, perhaps with a meta that decides otherwise
                quads += b"".join(in_graph(triples, uri))
                process.held[uri] = state
                if len(quads) > _LOAD_BYTES:
                    await process.ask(Load(bytes(quads)))
                    quads.clear()
        if quads:
            await process.ask(Load(bytes(quads)))


class _Slot:
    """A place for one worker; which caller's dataset it holds is its key."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: GraphProcess | None = None
        self.key: object = None
        self.idle: asyncio.TimerHandle | None = None

    async def process(self, *, fresh: bool = False) -> GraphProcess:
        if fresh or self._process is None or not self._process.is_alive:
            await self.aclose()
            self._process = await GraphProcess.start(self._memory_bytes)
        return self._process

    async def aclose(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.aclose()


class _Workers:
    """The workers of one process: a caller gets the one that has their dataset, and never one with another's."""

    def __init__(self, limits: GraphLimits) -> None:
        self._limits = limits
        # The one used last is at the end.
        self._free = deque(_Slot(limits.memory_bytes) for _ in range(limits.workers))
        self._places = asyncio.Semaphore(limits.workers)
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def one(self, key: tuple[Principal, URI]) -> AsyncGenerator[_Slot]:
        async with self._places:
            slot = next((slot for slot in reversed(self._free) if slot.key == key), self._free[0])
            self._free.remove(slot)
            if slot.idle is not None:
                slot.idle.cancel()
                slot.idle = None
            try:
                if slot.key != key:
                    await slot.aclose()
                    slot.key = key
                yield slot
            except BaseException:
                # What it holds may not be what is noted that it holds.
                await slot.aclose()
                raise
            finally:
                self._free.append(slot)
                loop = asyncio.get_running_loop()
                slot.idle = loop.call_later(self._limits.idle_seconds, self._rest, slot)

    async def aclose(self) -> None:
        for slot in list(self._free):
            if slot.idle is not None:
                slot.idle.cancel()
            await slot.aclose()
        await asyncio.gather(*self._closing)

    def _rest(self, slot: _Slot) -> None:
        slot.idle = None
        task = asyncio.create_task(self._close_if_free(slot))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_if_free(self, slot: _Slot) -> None:
        # Between the timer and this task somebody may have taken it, or have been and gone.
        if slot in self._free and slot.idle is None:
            await slot.aclose()


def _readable_as_made(store: GuardedStore, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Those whose graphs were made of a version that may be read; the one there now is decided on besides."""
    metas = [cast("dict[str, str]", msgspec.json.decode(entry.meta)) if entry.meta else {} for entry in entries]
    allowed = store.guard.filter("read", [entry.uri for entry in entries], store.context, metas, brief=True)
    return [entry for entry, may_read in zip(entries, allowed, strict=True) if may_read]


def _some(rows: Any) -> Any:
    for _, row in zip(range(500), rows, strict=False):
        yield row
