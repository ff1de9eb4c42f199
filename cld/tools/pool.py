"""The pool of tool processes: each has one file loaded, runs one call at a time, and is kept for the next.

At most `tooling.workers` calls run at once, and beside them as many files are loaded. A call made by a tool takes
no place, because the one that makes it has one and waits; otherwise calls could wait for one another for ever.
They are run one after another, so there is at most one more process for each level.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld.config import Tooling
from cld.errors import ToolFailed
from cld.tools.messages import Broken, Load, Loaded
from cld.tools.process import ToolProcess, to_the_end

LOAD_SECONDS = 30.0
"""How long a file may take to be loaded."""


class NotLoaded(Exception):
    """The file gives no tools; `line` is 0 where none is known."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(eq=False)
class Worker:
    """A process with a file loaded. `stamp` is the state of the file for which it was started."""

    process: ToolProcess
    path: Path
    stamp: object
    loaded: Loaded
    expiry: asyncio.TimerHandle | None = None


class Pool:
    """Processes by file. `aclose` it."""

    def __init__(self, tooling: Tooling, options: Mapping[str, Any]) -> None:
        self._tooling = tooling
        self._options = dict(options)
        self._slots = asyncio.Semaphore(tooling.workers)
        self._loads = asyncio.Semaphore(tooling.workers)
        self._idle: list[Worker] = []  # the longest idle first
        self._busy = 0
        self._stamps: dict[Path, object] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False

    async def load(self, path: Path, origin: str, stamp: object) -> Loaded:
        """What is in the file now; from here on only processes started for `stamp` are used for it.

        Raises:
            NotLoaded: nothing, and why.
        """
        self.expect(path, stamp)
        # Not among the calls: files that never come to an end must not take their places.
        async with self._loads, self.borrow(path, origin, nested=True) as worker:
            return worker.loaded

    def expect(self, path: Path, stamp: object) -> None:
        """From here on only processes started for `stamp` are used for the file."""
        self._stamps[path] = stamp
        for worker in [worker for worker in self._idle if worker.path == path and worker.stamp != stamp]:
            self._drop(worker)

    def forget(self, path: Path) -> None:
        """The file is gone."""
        self._stamps.pop(path, None)
        for worker in [worker for worker in self._idle if worker.path == path]:
            self._drop(worker)

    @asynccontextmanager
    async def borrow(self, path: Path, origin: str, *, nested: bool = False) -> AsyncGenerator[Worker]:
        """A process with the file loaded, for this block alone; when the block fails the process is ended.

        Raises:
            NotLoaded: the file gives no tools.
        """
        async with nullcontext() if nested else self._slots:
            self._busy += 1
            try:
                worker = await self._take(path, origin)
                try:
                    yield worker
                except BaseException:
                    await worker.process.end()
                    raise
                self._give_back(worker)
            finally:
                self._busy -= 1

    async def aclose(self) -> None:
        """End all that are idle; those that are borrowed end when they are given back."""
        self._closed = True
        for worker in list(self._idle):
            self._drop(worker)
        while self._ends:
            # Taken out here: one that is done already gives the loop no turn to do it.
            await to_the_end(self._ends.pop())

    async def _take(self, path: Path, origin: str) -> Worker:
        stamp = self._stamps.get(path)
        for worker in reversed([worker for worker in self._idle if worker.path == path]):
            self._idle.remove(worker)
            if worker.expiry is not None:
                worker.expiry.cancel()
            if worker.process.is_alive and worker.stamp == stamp:
                return worker
            self._end(worker)
        if self._idle and len(self._idle) + self._busy > self._tooling.workers:
            self._drop(self._idle[0])
        return await self._start(path, origin, stamp)

    async def _start(self, path: Path, origin: str, stamp: object) -> Worker:
        process = await ToolProcess.start(self._tooling)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await process.send(Load(str(path), origin, self._options))
                answer = await process.receive()
            if isinstance(answer, Broken):
                raise NotLoaded(answer.reason, answer.line)
            if not isinstance(answer, Loaded):
                raise NotLoaded("loading it wrote into its channel to cld")
            return Worker(process, path, stamp, answer)
        except TimeoutError:
            await process.end()
            raise NotLoaded(f"loading it took more than {LOAD_SECONDS:g} seconds") from None
        except ToolFailed as failed:
            await process.end()
            raise NotLoaded(f"when it was loaded {failed}") from None
        except BaseException:
            await process.end()
            raise

    def _give_back(self, worker: Worker) -> None:
        if self._closed or worker.stamp != self._stamps.get(worker.path) or not worker.process.is_alive:
            self._end(worker)
            return
        self._idle.append(worker)
        loop = asyncio.get_running_loop()
        worker.expiry = loop.call_later(self._tooling.idle_seconds, self._drop, worker)

    def _drop(self, worker: Worker) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
            if worker.expiry is not None:
                worker.expiry.cancel()
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        task = asyncio.create_task(worker.process.end())
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
