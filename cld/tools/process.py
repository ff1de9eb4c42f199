"""One tool process from outside: started, spoken to, and ended with all it started.

Owns its life and its lines; what is called, and how long that may take, is not its business.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import msgspec

from cld.config import Tooling
from cld.errors import ToolFailed
from cld.escape import safe_line
from cld.tools.messages import Message, Order, Run

log = logging.getLogger("cld.tools")

T = TypeVar("T")

END_SECONDS = 1.2
"""How long a keeper may take to end everything before it is killed itself."""

_CERTAIN_SECONDS = 0.5
_LAST_SECONDS = 0.1
_LAST_WORDS = 4000
_LAST_LINES = 5
_LONGEST_LINE = 400
_BYTES_A_CHARACTER = 6  # the longest that JSON makes of one byte
_BYTES_MORE = 1 << 20

_KEPT = ("PATH", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""Of cld's environment, what tools get unasked; secrets have other names."""

# The worker's cld is this one, also where another is installed; what lies beside it comes last and shadows nothing.
_PROGRAM = (
    "import sys; home = sys.argv.pop(1); sys.path.insert(0, home); import cld; sys.path.append(sys.path.pop(0)); "
    "from cld.tools.worker import main; main()"
)
_HOME = str(Path(__file__).parents[2])
_decoder: "msgspec.json.Decoder[Message]" = msgspec.json.Decoder(Message)


class ToolProcess:
    """One worker and its keeper; used by one call at a time. After a failure it is ended and of no use."""

    def __init__(self, process: Process, life: int) -> None:
        self._process = process
        self._life = life
        """The end of a pipe: the keeper lives as long as it is open, and it closes when cld ends, however it does."""
        self._words = b""
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, tooling: Tooling) -> Self:
        """A process with nothing loaded; when this is cancelled there is none."""
        starting = asyncio.create_task(cls._start(tooling))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await to_the_end((await to_the_end(starting)).end())
            raise

    @classmethod
    async def _start(cls, tooling: Tooling) -> Self:
        with contextlib.ExitStack() as unused:
            ours, theirs = (unused.enter_context(one) for one in socket.socketpair())
            # Pipes of our own, not asyncio's: that waits for the end of all pipes before it tells the end of a process,
            # and a process that was left behind could hold them open.
            lives, life = (unused.enter_context(os.fdopen(fd, "rb", 0)) for fd in os.pipe())
            words, prints = (unused.enter_context(os.fdopen(fd, "rb", 0)) for fd in os.pipe())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _PROGRAM, _HOME, str(theirs.fileno()), str(tooling.memory_bytes)),
                stdin=lives,
                stdout=DEVNULL,
                stderr=prints,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env=environment(tooling),
                # A Ctrl-C at the terminal is for cld, which then ends this in order.
                start_new_session=True,
            )
            made = cls(process, os.dup(life.fileno()))
            await made._connect(ours.dup(), os.dup(words.fileno()), tooling.output_bytes)
            return made

    async def _connect(self, channel: socket.socket, words: int, output_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        channel.setblocking(False)
        most = output_bytes * (1 + _BYTES_A_CHARACTER) + _BYTES_MORE
        self._reader, self._writer = await asyncio.open_connection(sock=channel, limit=most)
        printed = asyncio.StreamReader()
        self._printed, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(printed), os.fdopen(words, "rb", 0)
        )
        self._listening = asyncio.create_task(self._listen(printed))
        self._gone = asyncio.create_task(self._process.wait())
        # What the worker forked may hold the channel open when worker and keeper are gone; what was sent is read first.
        self._gone.add_done_callback(lambda _: loop.call_later(_LAST_SECONDS, self._writer.close))

    @property
    def is_alive(self) -> bool:
        return self._ending is None and not self._gone.done() and not self._reader.at_eof()

    async def send(self, order: Order) -> None:
        if isinstance(order, Run):
            self._words = b""
        with contextlib.suppress(ConnectionError):  # what went wrong is told where the answer is read
            self._writer.write(msgspec.json.encode(order) + b"\n")
            await self._writer.drain()

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ToolFailed: `crashed`; there will be none, and why.
        """
        try:
            return _decoder.decode(await self._reader.readuntil(b"\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._crashed() from None
        except asyncio.LimitOverrunError:
            raise ToolFailed("it wrote more into its channel to cld than any answer has", kind="crashed") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ToolFailed(f"it wrote into its channel to cld what is no message: {error}", kind="crashed") from None

    async def end(self) -> None:
        """End it and everything it started; returns when they are gone. Idempotent, not to be cancelled."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await to_the_end(self._ending)

    async def _end(self) -> None:
        os.close(self._life)
        if not await self._ends_within(END_SECONDS):
            log.error("the keeper of tool process %d did not end what it started; killing it", self._process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._ends_within(_CERTAIN_SECONDS)
        self._listening.cancel()
        self._printed.close()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _ends_within(self, seconds: float) -> bool:
        await asyncio.wait([self._gone], timeout=seconds)
        return self._gone.done()

    async def _crashed(self) -> ToolFailed:
        # Its keeper ends what it left, and then says how it ended.
        await self._ends_within(END_SECONDS)
        code = self._process.returncode or 0
        name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else ""
        how = f"with {name}" if name else f"by itself, with code {code}"
        lines = [safe_line(line) for line in self._words.decode(errors="replace").splitlines() if line.strip()]
        fatal = [at for at, line in enumerate(lines) if line.startswith("Fatal Python error")]
        # What follows that is the innermost frame first; otherwise what matters comes last.
        lines = lines[fatal[-1] :][:_LAST_LINES] if fatal else lines[-_LAST_LINES:]
        words = " | ".join(line[:_LONGEST_LINE] for line in lines)
        return ToolFailed(f"its process ended {how}" + (f"; its last words: {words}" if words else ""), kind="crashed")

    async def _listen(self, printed: asyncio.StreamReader) -> None:
        """Take what it prints, so that it never waits for a reader; the last of it is kept."""
        while data := await printed.read(1 << 16):
            self._words = (self._words + data)[-_LAST_WORDS:]
            if log.isEnabledFor(logging.DEBUG):
                log.debug("tool process %d: %s", self._process.pid, safe_line(data.decode(errors="replace")))


def environment(tooling: Tooling, all: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of cld's environment a tool process gets: nothing that could be a secret, unless the settings name it."""
    kept = {name: all[name] for name in (*_KEPT, *tooling.environment) if name in all}
    python = {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    # Each thread's own heap would count against the memory allowed.
    return {**kept, **python, "MALLOC_ARENA_MAX": "2"}


async def to_the_end(work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """Wait for `work` to be done, however often this is cancelled meanwhile; a cancellation then goes on."""
    task = work if isinstance(work, asyncio.Task) else asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    # A scope of anyio cancels again and again, one of asyncio once; both have to wait.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # who was cancelled does not want to know
        raise cancelled
    return task.result()
