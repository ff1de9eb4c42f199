"""The graph's worker: an own process in which texts by anyone are parsed and queries by anyone are run.

Started by `cld.index.graph_process` only. It holds a dataset in memory that is given to it piece by piece:
what one caller may read and nothing else, so that no query can find more. Before the first order it
gives up opening files and sockets, so that no `SERVICE` and no context leads anywhere; it ends itself when a
query takes more memory than it may, or when it goes on long after anybody waits.
"""

import functools
import os
import re
import resource
import signal
import sys
from typing import Any, BinaryIO

import msgspec

from cld.errors import CldError
from cld.index.graph_memory import Memory
from cld.index.graph_messages import (
    LENGTH_BYTES,
    Answer,
    Done,
    Drop,
    Dump,
    Extract,
    Extracts,
    Load,
    Order,
    Piece,
    Query,
    Refused,
    Rows,
    Value,
)
from cld.index.graph_sparql import spread
from cld.index.linked import extract
from cld.index.linked_facts import Extracted, plain
from cld.index.linked_terms import PREFIXES, XSD
from cld.resource import Resource

_GRACE_SECONDS = 2.0
_INTEGERS = frozenset(
    XSD + name
    for name in ("integer", "int", "long", "short", "byte", "nonNegativeInteger", "positiveInteger", "unsignedInt")
)
_NUMBERS = frozenset((XSD + "double", XSD + "float", XSD + "decimal"))
_EXACT = 2**53
_PLACE = re.compile(r"error at (\d+):(\d+): (.*)", re.DOTALL)


@functools.cache
def _rdf() -> Any:
    import pyoxigraph  # noqa: PLC0415 - where it is imported, texts and queries by anyone are run

    return pyoxigraph


class Worker:
    """Answers orders one after the other."""

    def __init__(self, out: BinaryIO, memory: Memory) -> None:
        self._out = out
        self._memory = memory
        self._store = _rdf().Store()

    def answer(self, order: Order) -> Answer:
        match order:
            case Extract(resources=resources):
                with self._memory.watched():
                    return Extracts(tuple(_extracted(data) for data in resources))
            case Load(quads=quads):
                self._store.load(quads, format=_rdf().RdfFormat.N_QUADS, lenient=True)
                return Done()
            case Drop(graphs=graphs):
                for graph in graphs:
                    self._drop(graph)
                return Done()
            case Query():
                return self._query(order)
            case Dump(format=format):
                self._dump(format)
                return Piece(b"")

    def _drop(self, graph: str) -> None:
        """Take a graph out, and out of the default graph what no other graph says."""
        name, store = _rdf().NamedNode(graph), self._store
        quads = list(store.quads_for_pattern(None, None, None, name))
        store.remove_graph(name)
        for quad in quads:
            # The one in the default graph is always there; a second one is another graph's.
            others = store.quads_for_pattern(quad.subject, quad.predicate, quad.object, None)
            if sum(1 for _ in zip(others, range(2), strict=False)) < 2:
                store.remove(_rdf().Quad(quad.subject, quad.predicate, quad.object))

    def _query(self, order: Query) -> Answer:
        try:
            # What sorts or groups is evaluated when it is asked, the rest as its rows are taken.
            with self._memory.watched():
                return _Table(order).of(self._store.query(order.sparql, prefixes=PREFIXES))
        except SyntaxError as error:
            return _misspelt(str(error), order.sparql, self._store)
        except (ValueError, OSError, RuntimeError) as error:
            return Refused(f"the query cannot be answered: {error}")

    def _dump(self, format: str) -> None:
        rdf = _rdf()
        if format == "turtle":
            default = (rdf.Triple(q.subject, q.predicate, q.object) for q in self._named(rdf.DefaultGraph()))
            rdf.serialize(default, _Pieces(self._out), rdf.RdfFormat.TURTLE, prefixes=PREFIXES)
            return
        kind = rdf.RdfFormat.TRIG if format == "trig" else rdf.RdfFormat.N_QUADS
        graphs = sorted(self._store.named_graphs(), key=str)
        quads = (quad for graph in graphs for quad in self._named(graph))
        rdf.serialize(quads, _Pieces(self._out), kind, prefixes=PREFIXES if format == "trig" else None)

    def _named(self, graph: Any) -> Any:
        return self._store.quads_for_pattern(None, None, None, graph)


class _Table:
    """Turns the results of a query into rows of plain values, up to its limits."""

    def __init__(self, order: Query) -> None:
        self._order = order
        self._nodes: dict[str, str] = {}
        self._rows: list[tuple[Value, ...]] = []

    def of(self, found: Any) -> Rows:
        rdf = _rdf()
        if isinstance(found, rdf.QueryBoolean):
            return Rows(("answer",), ((bool(found),),))
        if isinstance(found, rdf.QueryTriples):
            columns = ("subject", "predicate", "object")
            cut = self._take((t.subject, t.predicate, t.object) for t in found)
        else:
            columns = tuple(variable.value for variable in found.variables)
            cut = self._take(tuple(solution) for solution in found)
        return Rows(columns, tuple(self._rows), cut)

    def _take(self, rows: Any) -> Any:
        size = 0
        for row in rows:
            if len(self._rows) >= self._order.rows:
                return "rows"
            values = tuple(self._value(term) for term in row)
            size += sum(len(value.encode(errors="replace")) if isinstance(value, str) else 8 for value in values)
            if size > self._order.bytes:
                return "bytes"
            self._rows.append(values)
        return ""

    def _value(self, term: Any) -> Value:
        rdf = _rdf()
        match term:
            case None:
                return None
            case rdf.NamedNode():
                return term.value
            case rdf.BlankNode():
                # By order of appearance: their own names say nothing and change.
                return self._nodes.setdefault(term.value, f"_:b{len(self._nodes)}")
            case rdf.Literal():
                return _plain_literal(term.value, term.datatype.value)
            case _:
                return str(term)


class _Pieces:
    """A file that sends what is written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def write(self, data: bytes) -> int:
        if data:
            _send(self._out, Piece(bytes(data)))
        return len(data)

    def flush(self) -> None:
        self._out.flush()


def main() -> None:
    memory = Memory(int(sys.argv[1]))
    out = os.fdopen(os.dup(1), "wb")
    # What a library prints must not get among the answers.
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _warm_up()
    _close_the_door()
    worker = Worker(out, memory)
    decoder = msgspec.msgpack.Decoder(Order)
    while (data := _next(sys.stdin.buffer)) is not None:
        order = decoder.decode(data)
        seconds = order.seconds + _GRACE_SECONDS if isinstance(order, Query) else 600.0
        # Ends this process whatever it is doing, also when the one that would stop it is dead.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = worker.answer(order)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(out, answer)


def _warm_up() -> None:
    """Have everything imported that is imported at first use, while files can still be opened."""
    text = "---\na: 1\n---\n<p itemscope itemprop=a></p>\n```ttl\n<> <a:b> 1 .\n```"
    extract(Resource(uri="cld:common.Text.t", type="common.Text", id="t", content={"text": text, "@id": "x:y"}), _rdf())


def _close_the_door() -> None:
    """No file and no socket can be opened any more: the lowest number that is free is the limit."""
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))


def _extracted(data: bytes) -> Extracted:
    one = msgspec.json.decode(data, type=Resource)
    try:
        return extract(one, _rdf())
    except (CldError, ValueError, RecursionError, MemoryError) as error:
        return plain(one, f"its linked data cannot be read: {error}")


def _plain_literal(text: str, datatype: str) -> Value:
    if datatype in _INTEGERS:
        number = int(text) if len(text) < 20 else _EXACT + 1
        return number if abs(number) <= _EXACT else text
    if datatype in _NUMBERS:
        number = float(text.replace("INF", "inf"))
        return number if number - number == 0 else text  # infinities and NaN are no JSON
    if datatype == XSD + "boolean":
        return text in ("true", "1")
    return text


def _misspelt(message: str, sparql: str, store: Any) -> Refused:
    """The mistake, at the token that the parser could not go on with."""
    if not _PLACE.match(message):
        return Refused(message)
    spaced, places = spread(sparql.replace("\r", "\n"))
    try:
        store.query(spaced.replace("\n", " "), prefixes=PREFIXES)
    except SyntaxError as error:
        if found := _PLACE.match(str(error)):
            reached = int(found[2]) - 1
            at = max((was for now, was in places if now <= reached), default=0)
            there = sparql[at : at + 30].split("\n")[0].strip()
            reason = f"not understood from {there!r} on" if there else "it ends too early"
            if not found[3].startswith("expected "):
                reason = found[3]
            return Refused(reason, sparql.count("\n", 0, at) + 1, at - sparql.rfind("\n", 0, at))
    found = _PLACE.match(message)
    assert found is not None
    return Refused("not understood near here", int(found[1]), int(found[2]))


def _send(out: BinaryIO, answer: Answer) -> None:
    data = msgspec.msgpack.encode(answer)
    out.write(len(data).to_bytes(LENGTH_BYTES))
    out.write(data)
    out.flush()


def _next(source: BinaryIO) -> bytes | None:
    length = source.read(LENGTH_BYTES)
    return source.read(int.from_bytes(length)) if len(length) == LENGTH_BYTES else None


if __name__ == "__main__":
    main()
