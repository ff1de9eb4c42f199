"""Stdio: an MCP server as a process, and JSON-RPC messages, one a line, over its pipes.

The SDK's own transport starts the process bare, takes a line of any length, ends at a byte that is no UTF-8 and
logs what it cannot read as it is. Here a keeper (`server_keeper.py`) ends the process with all it started, a line is
bounded, and what is no message is noise: logged, bounded and marked, and the connection goes on.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from cld.errors import ToolFailed
from cld.escape import safe_line
from cld.tools.server_results import shortened
from cld.tools.server_secrets import Secrets
from cld.types import Server

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

    Streams = tuple[
        MemoryObjectReceiveStream[SessionMessage | Exception],
        MemoryObjectSendStream[SessionMessage],
    ]

log = logging.getLogger("cld.tools")

MAX_LINE_BYTES = 16 * 1024 * 1024
AFTER_CLOSING_SECONDS = 1.0
"""How long a server has to end by itself once its stdin is closed, and then once it was told to."""
AFTER_TERM_SECONDS = 0.5
END_SECONDS = 3.0
"""How much longer than that ending may take before the keeper itself is killed."""

INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""What a server gets of cld's environment: what the SDK, too, holds to be safe."""

_READ_BYTES = 256 * 1024
_MAX_WAITING = 256
_LOGGED_LINES = 100
_LOGGED_CHARACTERS = 500
_HEARD_BYTES = 4 * _LOGGED_CHARACTERS
_KEPT_LINES = 5
_TOO_LONG = -32603
_KEEPER = Path(__file__).parent / "server_keeper.py"
_ANSWER = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*,')


class TooLong(ValueError):
    """A line that is too long to be read, of which nothing says what it answers."""


class Noise:
    """What a server says beside the protocol: logged as its words, a bounded number of them; the last are kept."""

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name = name
        self._secrets = secrets
        self._logged = 0
        self.last: deque[str] = deque(maxlen=_KEPT_LINES)

    def heard(self, where: str, line: bytes) -> None:
        text = line[:_HEARD_BYTES].decode(errors="replace").strip()
        cut = len(line) >= _HEARD_BYTES
        text = self._secrets.hide_cut(text.rstrip("\ufffd")) if cut else self._secrets.hide(text)
        text = shortened(safe_line(text), _LOGGED_CHARACTERS)
        if not text:
            return
        self.last.append(text)
        self._logged += 1
        if self._logged <= _LOGGED_LINES:
            log.info("tool server %s says on %s: %s", self._name, where, text)
        if self._logged == _LOGGED_LINES:
            log.info("tool server %s has said %d lines; no more are logged", self._name, _LOGGED_LINES)


@dataclass(frozen=True)
class Program:
    """What is run: found, and with all the environment it gets."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


def program_of(server: Server, secrets: Secrets, environment: Mapping[str, str]) -> Program:
    """The program of `server`, started in the home folder where it names none.

    Raises:
        ToolFailed: there is no such program or folder.
    """
    inherited = {
        key: environment[key]
        for key in INHERITED
        # A shell's exported function would be run by the next shell.
        if key in environment and not environment[key].startswith("()")
    }
    env = {**inherited, **secrets.env}
    # Not where cld happens to run: that may be a folder that came with a tree, and many programs read settings there.
    cwd = Path(server.cwd).expanduser() if server.cwd else Path.home()
    if not cwd.is_absolute() or not cwd.is_dir():
        raise ToolFailed(f"its cwd {server.cwd!r} is no folder, as a whole path; correct it", kind="misconfigured")
    command = server.command
    if any("\0" in word for word in (command, *server.args)):
        raise ToolFailed("its command holds a NUL character; correct it", kind="misconfigured")
    found = shutil.which(str(cwd / command) if os.sep in command else command, path=env.get("PATH", os.defpath))
    if found is None:
        raise ToolFailed(
            f"there is no program {command!r} to run; install it, or correct command", kind="misconfigured"
        )
    return Program((found, *server.args), env, str(cwd))


@asynccontextmanager
async def stdio(program: Program, noise: Noise, on_end: Callable[[], None]) -> AsyncGenerator["Streams"]:
    """The streams of a server that runs `program`; `on_end` is called when it says no more. It is gone on leaving.

    Raises:
        OSError: no process can be started.
    """
    # On first use, as all of the SDK: a server without tool servers need not spend it.
    from mcp.shared.message import SessionMessage  # noqa: PLC0415

    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(_KEEPER), str(AFTER_CLOSING_SECONDS), str(AFTER_TERM_SECONDS), *program.command,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=program.cwd, env=program.env, start_new_session=True,
    )  # fmt: skip
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    # So deep that a server which does not read its stdin blocks nobody soon.
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](_MAX_WAITING)
    tasks = [
        asyncio.create_task(_receive(keeper, incoming, noise, on_end)),
        asyncio.create_task(_send(keeper, outgoing)),
        asyncio.create_task(_listen(keeper, noise)),
    ]
    try:
        yield read, write
    finally:
        with anyio.CancelScope(shield=True):
            read.close()
            write.close()
            await _end(keeper, tasks)
            incoming.close()
            outgoing.close()


async def _end(keeper: Process, tasks: "list[asyncio.Task[None]]") -> None:
    """Close stdin, upon which the keeper ends everything; kill it, and with it the server, should it not."""
    receiving, sending, listening = tasks
    # What was sent last, a cancellation perhaps, may still be on its way.
    await asyncio.wait({sending}, timeout=0.2)
    sending.cancel()
    assert keeper.stdin is not None
    keeper.stdin.close()
    transport: Any = getattr(keeper, "_transport", None)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AFTER_CLOSING_SECONDS + AFTER_TERM_SECONDS + END_SECONDS):
            # Both are read to their end, or the process is not seen to have ended.
            await asyncio.wait({receiving, listening})
            await keeper.wait()
    if keeper.returncode is None:
        log.warning("the keeper of a tool server (process %d) did not end and is killed", keeper.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(keeper.pid, signal.SIGKILL)
        # A pipe's end that something unkillable holds would keep it open.
        if transport is not None:
            transport.close()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _receive(
    keeper: Process,
    incoming: "MemoryObjectSendStream[SessionMessage | Exception]",
    noise: Noise,
    on_end: Callable[[], None],
) -> None:
    assert keeper.stdout is not None
    partial = bytearray()
    skipping = False
    wanted = True
    try:
        while data := await keeper.stdout.read(_READ_BYTES):
            *lines, rest = data.split(b"\n")
            for line in lines:
                whole = bytes(partial) + line
                partial.clear()
                if skipping or not wanted:
                    skipping = False
                    continue
                if (message := _message(whole, noise)) is not None:
                    wanted = await _deliver(message, incoming)
            if skipping or not wanted:
                continue
            partial += rest
            if len(partial) > MAX_LINE_BYTES:
                skipping = True
                wanted = await _deliver(_too_long(bytes(partial)), incoming)
                partial.clear()
        if partial:
            noise.heard("stdout", bytes(partial))
    except ConnectionError:
        pass
    finally:
        on_end()
        incoming.close()


async def _deliver(message: Any, incoming: "MemoryObjectSendStream[SessionMessage | Exception]") -> bool:
    """Whether anybody still wants messages."""
    try:
        await incoming.send(message)
    except (anyio.ClosedResourceError, anyio.BrokenResourceError):
        return False
    return True


def _message(line: bytes, noise: Noise) -> "SessionMessage | None":
    """The message that a line is, or None for noise."""
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - see `stdio`
    from mcp_types import jsonrpc_message_adapter  # noqa: PLC0415

    try:
        return SessionMessage(jsonrpc_message_adapter.validate_python(msgspec.json.decode(line), by_name=False))
    except (ValueError, msgspec.DecodeError, RecursionError):
        noise.heard("stdout", line)
        return None


def _too_long(start: bytes) -> Any:
    """In place of a line that is too long: the failure of the request it answers, as far as that can be seen."""
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - see `stdio`
    from mcp_types import ErrorData, JSONRPCError  # noqa: PLC0415

    text = f"the answer has more than {MAX_LINE_BYTES} bytes; ask for less"
    found = _ANSWER.match(start)
    if found is None:
        return TooLong(text)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=ErrorData(code=_TOO_LONG, message=text)))


async def _send(keeper: Process, outgoing: "MemoryObjectReceiveStream[SessionMessage]") -> None:
    assert keeper.stdin is not None
    with contextlib.suppress(ConnectionError, anyio.ClosedResourceError):
        async for item in outgoing:
            keeper.stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await keeper.stdin.drain()


async def _listen(keeper: Process, noise: Noise) -> None:
    """Have the lines of stderr heard, each no longer than is logged of it."""
    assert keeper.stderr is not None
    partial = b""
    with contextlib.suppress(ConnectionError):
        while data := await keeper.stderr.read(_READ_BYTES):
            *lines, rest = (partial + data).split(b"\n")
            for line in lines:
                noise.heard("stderr", line)
            partial = rest[:_HEARD_BYTES]
    noise.heard("stderr", partial)
