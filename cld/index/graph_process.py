"""The worker process from outside: started, asked, and killed when it takes too long.

Owns its life and the frames on its pipes; what is asked is not its business.
"""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Self

import msgspec

from cld.errors import CldError
from cld.index.graph_memory import OUT_OF_MEMORY
from cld.index.graph_messages import LENGTH_BYTES, Answer, Order, Piece

MEMORY_BYTES = 512 * 1024 * 1024
"""By how much a query may make its worker grow."""

_STARTING_SECONDS = 60.0

# By name and not by path, so that the worker's package is this one; appended, so that nothing is shadowed by it.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from cld.index.graph_worker import main; main()"
_HOME = str(Path(__file__).parents[2])


class WorkerEnded(CldError):
    """The worker was stopped, or ended by itself; `crashed` when neither time nor memory was the cause."""

    code = "query_stopped"

    def __init__(self, reason: str, *, crashed: bool = False) -> None:
        super().__init__(reason)
        self.crashed = crashed


class GraphProcess:
    """One worker; used by one caller at a time. After a failure it is closed and of no use."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
        self.held: dict[str, int] = {}
        """The graphs it was given, by name, and which state of each."""

    @classmethod
    async def start(cls, memory_bytes: int = MEMORY_BYTES) -> Self:
        """A worker that has nothing yet."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _PROGRAM, _HOME, str(memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            # A Ctrl-C at the terminal is for the one who asked.
            start_new_session=True,
        )
        return cls(process)

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, order: Order, seconds: float = _STARTING_SECONDS) -> Answer:
        """The answer to `order`; a worker that has not answered in time, or is asked no longer, is killed.

        Raises:
            WorkerEnded: there is no answer, and why.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._send(order)
                return await self._receive()
        except TimeoutError:
            await self.aclose()
            raise WorkerEnded(f"stopped after {seconds:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._ended() from None
        except BaseException:
            await self.aclose()
            raise

    async def pieces(self, order: Order) -> AsyncGenerator[bytes]:
        """The pieces that answer `order`, as they come.

        Raises:
            WorkerEnded: it ended before the last.
        """
        whole = False
        try:
            await self._send(order)
            while isinstance(answer := await self._receive(), Piece) and answer.data:
                yield answer.data
            whole = True
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._ended() from None
        finally:
            if not whole:
                await self.aclose()

    async def aclose(self) -> None:
        """End the worker, whatever it is doing; idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        waiting = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.shield(waiting)
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()

    async def _send(self, order: Order) -> None:
        assert self._process.stdin is not None
        data = msgspec.msgpack.encode(order)
        self._process.stdin.write(len(data).to_bytes(LENGTH_BYTES) + data)
        await self._process.stdin.drain()

    async def _receive(self) -> Answer:
        assert self._process.stdout is not None
        length = int.from_bytes(await self._process.stdout.readexactly(LENGTH_BYTES))
        return self._decoder.decode(await self._process.stdout.readexactly(length))

    async def _ended(self) -> WorkerEnded:
        code = await self._process.wait()
        await self.aclose()
        if code == OUT_OF_MEMORY:
            return WorkerEnded("stopped because it took more memory than it may")
        if code == -signal.SIGALRM:
            return WorkerEnded("stopped because it took too long")
        return WorkerEnded("ended by a crash of the engine: probably it nests too deep", crashed=True)
