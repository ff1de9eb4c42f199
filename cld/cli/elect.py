"""`cld elect`: which of some candidates a request is for; one request, or a stream of them on standard input.

The formats are in docs/elect.md. A stream is answered as it comes: what has arrived together is worked on
together, and answered before more is waited for.
"""

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

import msgspec
from anyio import Path, to_thread

from cld.cli.exits import INVALID, OK, UsageError
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import ConfigError, InvalidArgument
from cld.index.election import Election, Electorate
from cld.index.election_candidates import candidates_below, read_candidates, request_of
from cld.uri import parse_prefix

_READ_BYTES = 1 << 18
_MAX_LINE = 1 << 22


async def elect(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print the ranking for a request, or for each line of standard input."""
    if arguments.text is None and sys.stdin.isatty():
        raise UsageError("give the request, or a JSON text or object a line on standard input; docs/elect.md")
    electorate = await _electorate(arguments, settings)
    if arguments.text is not None:
        election = electorate.elect(arguments.text, arguments.top)
        if terminal.human:
            _show(election, terminal)
        else:
            terminal.document(election)
        return OK
    code = OK
    async for lines in _arriving():
        given = [_given(line, number) for number, line in lines]
        elections = electorate.elect_each([one for _, one in given if isinstance(one, str)], arguments.top)
        for id, one in given:
            if isinstance(one, InvalidArgument):
                code = INVALID
                _write({**id, "error": {"code": one.code, "message": str(one)}}, terminal)
            else:
                _write({**id, **msgspec.to_builtins(next(elections))}, terminal)
        terminal.flush()
    return code


async def _electorate(arguments: Namespace, settings: Settings) -> Electorate:
    among: str = arguments.among
    if not among.startswith("cld:"):
        try:
            data = await Path(among).read_bytes()
        except OSError as error:
            raise ConfigError(f"{among} cannot be read: {error.strerror}; give a file, or a prefix as cld:…") from error
        return await to_thread.run_sync(Electorate, read_candidates(data, among))
    prefix = parse_prefix(among)
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_list", prefix=prefix, type=arguments.type)
        candidates = [one async for one in candidates_below(reader, prefix, arguments.type)]
        if not settings.is_local:
            return await to_thread.run_sync(Electorate, candidates)
        knowledge = runtime.knowledge()
        await knowledge.catch_up("elections")
        return await knowledge.electorate(reader, candidates)


async def _arriving() -> AsyncIterator[list[tuple[int, bytes]]]:
    """The lines of standard input that came together, with their numbers; the last one may lack its end.

    Of one that is too long only so much as tells that it is.
    """
    rest = b""
    number = 1
    while data := await to_thread.run_sync(os.read, sys.stdin.fileno(), _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[: _MAX_LINE + 1]
        if lines:
            yield list(_filled(lines, number))
            number += len(lines)
    yield list(_filled([rest], number))


def _filled(lines: Sequence[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(lines, first) if line.strip())


def _given(line: bytes, number: int) -> tuple[dict[str, Any], str | InvalidArgument]:
    """What to write before the answer (the request's id), and the request or what is wrong with it."""
    if len(line) > _MAX_LINE:
        error = InvalidArgument(f"request {number}: it has more than {_MAX_LINE} bytes", field="request")
        return {"line": number}, error
    try:
        value: object = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return {"line": number}, InvalidArgument(f"request {number}: no JSON: {error}", field="request")
    id = {"id": cast("dict[str, Any]", value)["id"]} if isinstance(value, dict) and "id" in value else {}
    try:
        return id, request_of(cast("object", value), f"request {number}")
    except InvalidArgument as error:
        return id or {"line": number}, error


def _write(value: object, terminal: Terminal) -> None:
    terminal.raw(msgspec.json.encode(value).decode() + "\n")


def _show(election: Election, terminal: Terminal) -> None:
    terminal.line(terminal.style(safe_line(election.reason), "bold" if not election.abstained else "yellow"))
    for place, one in enumerate(election.ranked, 1):
        shared = terminal.style(safe_line(", ".join(one.why.shared[:8])), "dim")
        terminal.line(f"{place:3}  {one.score:6.1%}  {terminal.style(safe_line(one.name))}  {shared}".rstrip())
