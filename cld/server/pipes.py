"""Pipes: JSON-RPC messages, one a line, over this process's own stdin and stdout, on POSIX.

The SDK's transport hands every line to a thread and back, three times per call. Here the event loop waits
for the descriptors, which stay in blocking mode (the mode is shared with other processes, a shell's
terminal among them): it reads what is there once there is something, and writes no more at a time than a
pipe that is ready takes. Messages are read and written by msgspec, like all JSON of cld.

Descriptor 0 leads to nothing and 1 to stderr meanwhile, so that no stray print and no child process gets
between the messages.
"""

import asyncio
import contextlib
import logging
import os
import select
import stat
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import msgspec
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic import ValidationError

log = logging.getLogger("cld.server")

READ_BYTES = 256 * 1024
WRITE_BYTES = 4096
"""What a pipe takes at once when it is ready at all (PIPE_BUF on Linux; macOS's 512 is its promise, not its size)."""

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_WAITING = 64
"""How many messages may wait to be handled before no more are read."""

DRAIN_SECONDS = 1.0
"""How long after the end of stdin answers that are under way are waited for."""

_UNENDING = frozenset({"subscriptions/listen"})


class Frame(msgspec.Struct):
    """The members of a JSON-RPC message; which there are says what it is."""

    jsonrpc: Literal["2.0"]
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    result: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(Frame)
_encoder = msgspec.json.Encoder()


class Pipes:
    """Both directions of one connection: what the SDK calls a read and a write stream."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._partial = bytearray()
        self._lines: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._watching = False
        self._writing = asyncio.Lock()
        self._outgoing = bytearray()
        self._flushing: asyncio.Task[None] | None = None
        self._poll = select.poll()
        self._poll.register(write_fd, select.POLLOUT)
        self._always_ready = stat.S_ISREG(os.fstat(read_fd).st_mode)
        self._unanswered: set[int | str] = set()
        self._all_answered = asyncio.Event()

    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            EndOfStream: the other side is done, and has its answers.
        """
        while True:
            while not self._lines:
                if self._ended:
                    await self._drain()
                    raise anyio.EndOfStream
                self._arrived.clear()
                self._watch()
                await self._arrived.wait()
            line = self._lines.popleft()
            if not line.strip():
                continue
            match _message(line):
                case _Refused(answer):
                    await self.send(SessionMessage(answer))
                case JSONRPCRequest() as request:
                    if request.method not in _UNENDING:
                        self._unanswered.add(request.id)
                    return SessionMessage(request)
                case message:
                    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
                        self._settled((message.params or {}).get("requestId"))
                    return SessionMessage(message)

    async def send(self, item: SessionMessage) -> None:
        """Write one message; it is whole, and whole before the next, also when the caller is cancelled.

        Raises:
            BrokenResourceError: nobody reads any more.
        """
        message = item.message
        self._outgoing += _line(message)
        try:
            await self._flush()
        except OSError as error:
            self._end()
            raise anyio.BrokenResourceError from error
        except asyncio.CancelledError:
            # Half a message may be out: the rest follows without the one who gave up on it.
            if self._outgoing:
                self._flushing = asyncio.create_task(self._flush_on())
            raise
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._settled(message.id)

    async def aclose(self) -> None:
        self._end()
        if self._flushing is not None:
            self._flushing.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def _settled(self, id: object) -> None:
        """The request of that id has its answer, or will never get one."""
        if isinstance(id, int | str):
            self._unanswered.discard(id)
        if not self._unanswered:
            self._all_answered.set()

    def _watch(self) -> None:
        """Have `_read` called when there is something to read, unless enough waits already."""
        if self._watching or self._ended:
            return
        if not self._always_ready:
            try:
                asyncio.get_running_loop().add_reader(self._read_fd, self._read)
            except PermissionError:  # what epoll says of /dev/null and the like
                self._always_ready = True
            else:
                self._watching = True
                return
        # A file is always ready, and no selector takes it.
        asyncio.get_running_loop().call_soon(self._read)

    def _unwatch(self) -> None:
        if self._watching:
            asyncio.get_running_loop().remove_reader(self._read_fd)
            self._watching = False

    def _read(self) -> None:
        if self._ended:
            return
        try:
            data = os.read(self._read_fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if len(self._partial) + len(data) > MAX_LINE_BYTES:
            log.error("a message is longer than %d bytes; the connection ends here", MAX_LINE_BYTES)
            self._partial.clear()
            data = b""
        if not data:
            if self._partial:
                self._lines.append(bytes(self._partial))
            self._end()
            return
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial = bytearray(rest)
            self._lines.extend(lines)
            self._arrived.set()
            if len(self._lines) >= MAX_WAITING:
                self._unwatch()
        else:
            self._partial += rest
            if self._always_ready:
                self._watch()

    def _end(self) -> None:
        self._unwatch()
        self._ended = True
        self._arrived.set()

    async def _drain(self) -> None:
        """Wait until what was asked for is answered, or for as long as a host waits for us to go."""
        if self._unanswered:
            self._all_answered.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._all_answered.wait()

    async def _flush(self) -> None:
        async with self._writing:
            while self._outgoing:
                if not self._poll.poll(0):
                    await self._writable()
                chunk = self._outgoing if len(self._outgoing) <= WRITE_BYTES else self._outgoing[:WRITE_BYTES]
                del self._outgoing[: os.write(self._write_fd, chunk)]

    async def _flush_on(self) -> None:
        with contextlib.suppress(OSError):
            await self._flush()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._write_fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._write_fd)


class _Refused(msgspec.Struct):
    """A line that is no message, and what its sender is told."""

    answer: JSONRPCError


def _message(line: bytes) -> JSONRPCMessage | _Refused:
    id: int | str | None = None
    try:
        frame = _decoder.decode(line)
        id = None if frame.id is msgspec.UNSET else frame.id
        members = {name: value for name, value in msgspec.structs.asdict(frame).items() if value is not msgspec.UNSET}
        if frame.method is not msgspec.UNSET:
            if members.get("params", ...) is None:
                del members["params"]
            kind = JSONRPCNotification if frame.id is msgspec.UNSET else JSONRPCRequest
        else:
            kind = JSONRPCError if frame.error is not msgspec.UNSET else JSONRPCResponse
        return kind.model_validate(members, by_name=False)
    except msgspec.ValidationError as error:
        return _refused(INVALID_REQUEST, f"no JSON-RPC message: {error}", id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refused(PARSE_ERROR, f"no JSON: {error}", None)
    except ValidationError:
        return _refused(INVALID_REQUEST, "no JSON-RPC message: a request needs id and method", id)


def _refused(code: int, message: str, id: int | str | None) -> _Refused:
    error = {"code": code, "message": message}
    return _Refused(JSONRPCError.model_validate({"jsonrpc": "2.0", "id": id, "error": error}))


def _line(message: JSONRPCMessage) -> bytes:
    if isinstance(message, JSONRPCResponse):
        return _encoder.encode({"jsonrpc": "2.0", "id": message.id, "result": message.result}) + b"\n"
    return _encoder.encode(message.model_dump(mode="json", by_alias=True, exclude_unset=True)) + b"\n"


@asynccontextmanager
async def own_pipes() -> AsyncGenerator[Pipes]:
    """This process's stdin and stdout, claimed for messages until the block is left."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    pipes = Pipes(read_fd, write_fd)
    try:
        yield pipes
    finally:
        await pipes.aclose()
        os.dup2(read_fd, 0)
        os.dup2(write_fd, 1)
        os.close(read_fd)
        os.close(write_fd)
