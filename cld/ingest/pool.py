"""The pool of converting processes: each takes one file at a time and is ended when that takes too long or too much.

A process that ended, for whatever reason, is replaced when the next file comes; the file that ended it is
reported and not tried again.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from cld.config import IngestLimits
from cld.ingest.failed import ConversionFailed
from cld.ingest.messages import LENGTH_BYTES, Answer, Converted, Order, Refused

_ANSWER_BYTES_A_CHARACTER = 8
_ANSWER_BYTES_MORE = 1 << 20
END_SECONDS = 10.0
"""A process that was killed and is not gone by then is stuck in the kernel; nothing waits for it."""

_DRAINED_BYTES = 1 << 16
START_SECONDS = 30.0
"""More than a start takes on a busy machine; counts only towards a process's first file."""

_decoder: "msgspec.msgpack.Decoder[Answer]" = msgspec.msgpack.Decoder(Answer)


class Pool:
    """`size` processes at most, started as they are needed. Made by `open_pool`."""

    def __init__(self, size: int, limits: IngestLimits) -> None:
        self._limits = limits
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self.workers = [_Worker(limits) for _ in range(size)]
        for worker in self.workers:
            self._free.put_nowait(worker)

    async def convert(self, order: Order) -> Converted:
        """The file converted, once a process is free.

        Raises:
            ConversionFailed: it cannot be, or the process that tried had to be ended; says which.
        """
        worker = await self._free.get()
        try:
            answer = await worker.ask(order)
        finally:
            self._free.put_nowait(worker)
        if isinstance(answer, Refused):
            raise ConversionFailed(answer.reason)
        return answer

    async def aclose(self) -> None:
        for worker in self.workers:
            await worker.end()


@asynccontextmanager
async def open_pool(size: int, limits: IngestLimits) -> AsyncGenerator[Pool]:
    """A pool whose processes are gone when this is left."""
    pool = Pool(size, limits)
    try:
        yield pool
    finally:
        # Also when cancelled: what is ended is waited for, so that nothing is left behind.
        await asyncio.shield(pool.aclose())


class _Worker:
    def __init__(self, limits: IngestLimits) -> None:
        self._limits = limits
        self._process: Process | None = None

    async def ask(self, order: Order) -> Answer:
        seconds = order.seconds
        if self._process is None:
            self._process = await _start(self._limits.memory_bytes)
            seconds += START_SECONDS
        answered = False
        try:
            async with asyncio.timeout(seconds):
                answer = _decoder.decode(await self._exchange(self._process, msgspec.msgpack.encode(order)))
            answered = True
            return answer
        except TimeoutError:
            raise ConversionFailed(f"it took more than {order.seconds:g} seconds (ingest.seconds)") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ConversionFailed(_ended(await self._code())) from None
        except msgspec.DecodeError as error:
            raise ConversionFailed(f"converting it gave no answer that can be read: {error}") from None
        finally:
            if not answered:
                await asyncio.shield(self.end())

    async def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # asyncio stops reading a pipe once twice its limit waits there, so it does not see that pipe's end,
            # and Python 3.11 tells that a process ended only once it has seen the end of all its pipes.
            assert process.stdout is not None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    while await process.stdout.read(_DRAINED_BYTES):
                        pass
                    await process.wait()

    async def _exchange(self, process: Process, order: bytes) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(len(order).to_bytes(LENGTH_BYTES))
        process.stdin.write(order)
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
        most = self._limits.text_characters * _ANSWER_BYTES_A_CHARACTER + _ANSWER_BYTES_MORE
        if length > most:
            raise ConversionFailed(f"what became of it has {length} bytes; at most {most} are taken")
        return await process.stdout.readexactly(length)

    async def _code(self) -> int:
        """The exit code of the process, which has closed its output and so is about to end."""
        assert self._process is not None
        try:
            async with asyncio.timeout(1.0):
                return await self._process.wait()
        except TimeoutError:
            return 0


async def _start(memory: int) -> Process:
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "PATH": os.environ.get("PATH", ""),
        # Each thread's own heap would count against the memory allowed.
        "MALLOC_ARENA_MAX": "2",
        "RAYON_NUM_THREADS": "1",
        "TOKIO_WORKER_THREADS": "1",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "cld.ingest.worker", str(memory),
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd="/", env=environment, start_new_session=True,
    )  # fmt: skip


def _ended(code: int) -> str:
    match -code:
        case signal.SIGXCPU:
            return "it took too much processor time (ingest.seconds)"
        case signal.SIGABRT | signal.SIGKILL | signal.SIGSEGV | signal.SIGBUS:
            name = signal.Signals(-code).name
            return f"converting it ended with {name}, most likely for want of memory (ingest.memory_bytes)"
        case _:
            return f"converting it ended the process with code {code}"
