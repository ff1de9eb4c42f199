"""`cld graph`: SPARQL over the linked data in resources, and its export."""

import contextlib
import sys
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import BinaryIO

import msgspec

from cld.cli.exits import OK, UsageError
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.index.graph import Answer
from cld.index.graph_messages import Format

_FORMATS: dict[str, Format] = {".ttl": "turtle", ".trig": "trig", ".nq": "nquads"}
_WIDEST = 60


async def graph(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print the table that answers a query, or write the graph to a file."""
    if (arguments.sparql is None) == (arguments.export is None):
        raise UsageError("give either a query or --export FILE; cld graph --help says what it takes")
    export: str | None = arguments.export
    format = None if export is None else _format(export)
    async with existing(settings) as runtime:
        knowledge = runtime.knowledge()
        reader = store(runtime, "graph_query", sparql=arguments.sparql, prefix=arguments.below)
        await knowledge.catch_up("graph")
        if export is not None and format is not None:
            await _export(knowledge.export(reader, format, arguments.below), export)
            return OK
        sparql = sys.stdin.read() if arguments.sparql == "-" else arguments.sparql
        answer = await knowledge.graph(reader, sparql, arguments.below, arguments.limit)
    if terminal.human:
        _show(answer, terminal)
    else:
        terminal.document(msgspec.to_builtins(answer))
    return OK


def _format(file: str) -> Format:
    if file == "-":
        return "trig"
    found = _FORMATS.get(Path(file).suffix.lower())
    if found is None:
        raise UsageError(f"--export {file}: name it .ttl (Turtle), .trig (TriG) or .nq (N-Quads); '-' prints TriG")
    return found


async def _export(pieces: AsyncIterator[bytes], target: str) -> None:
    """Write all of the graph, to a file as a whole or not at all."""
    if target == "-":
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    # The command line has the event loop to itself: writing may block it.
    with _replacing(Path(target)) as file:
        async for piece in pieces:
            file.write(piece)


@contextlib.contextmanager
def _replacing(target: Path) -> Generator[BinaryIO]:
    """A new file, which takes the place of `target` once it is written."""
    descriptor, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name[:100]}.")
    try:
        with open(descriptor, "wb") as file:
            yield file
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise


def _show(answer: Answer, terminal: Terminal) -> None:
    rows = [[_cell(value) for value in row] for row in answer.rows]
    widths = [
        min(_WIDEST, max([len(column), *(len(row[index]) for row in rows)]))
        for index, column in enumerate(answer.columns)
    ]
    terminal.line(_line(list(answer.columns), widths, terminal, "bold"))
    for row in rows:
        terminal.line(_line(row, widths, terminal))
    for note in answer.notes:
        terminal.note(note)


def _line(cells: list[str], widths: list[int], terminal: Terminal, *styles: str) -> str:
    return terminal.style(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), *styles
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return safe_line(str(value).lower() if isinstance(value, bool) else str(value))
