"""Keepers that are killed again and again: no reader notices, and in the end every index says what the tree says."""

import asyncio
import contextlib
import json
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from graph_world import everything
from index_world import World, a_world, until

from cld.index.check import check_elections, check_graph, check_search
from cld.knowledge import KINDS
from cld.resource import Draft, Meta
from cld.uri import URI

pytestmark = pytest.mark.anyio

KILLS = 30
SECONDS = 60.0
PROGRAM = str(Path(__file__).with_name("knowledge_process.py"))
ASSISTANT = "cld:common.Assistant.ada"


class Keepers:
    """Two processes that keep the indexes of a tree; who holds which is what they said last."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes: list[Process] = []
        self._listening: set[asyncio.Task[None]] = set()
        self.holds: dict[str, Process] = {}
        self.changed = asyncio.Event()

    async def start(self) -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, PROGRAM, "keep", str(self._root), stdout=PIPE)
        self._processes.append(process)
        self._listening.add(asyncio.create_task(self._listen(process)))

    async def kill(self, kind: str) -> None:
        """Kill the one that keeps an index, once there is one, and start another."""
        async with asyncio.timeout(SECONDS):
            while (process := self.holds.get(kind)) is None:
                self.changed.clear()
                await self.changed.wait()
        for held in [held for held, holder in self.holds.items() if holder is process]:
            del self.holds[held]
        # What it said last may be read only after this.
        self._processes.remove(process)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await self.start()

    async def aclose(self) -> None:
        for process in self._processes:
            process.kill()
            await process.wait()
        await asyncio.gather(*self._listening)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        # Whoever is killed leaves the last line unfinished.
        while (line := await process.stdout.readline()).endswith(b"\n"):
            _, kind = line.decode().split()
            if process in self._processes:
                self.holds[kind] = process
                self.changed.set()


@contextlib.asynccontextmanager
async def asking(root: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, "ask", str(root)), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def write(world: World, chance: random.Random, progress: asyncio.Condition) -> None:
    """Put, change and delete texts and tasks until cancelled."""
    there: list[URI] = []
    for number in range(1_000_000):
        uri = URI(f"cld:common.Text.t{number}" if number % 2 else f"cld:plan.Task.t{number}")
        if len(there) > 20 and chance.random() < 0.4:
            uri = chance.choice(there)
        if uri in there and chance.random() < 0.3:
            await world.store.delete(uri)
            there.remove(uri)
        else:
            content = {"text": f"Number {number} tells of zebras.", "title": f"Zebra {number}"}
            if uri.startswith("cld:plan"):
                content |= {"status": "completed", "assistant": ASSISTANT}
            draft = Draft(uri, content, Meta(purpose=f"draw zebra {number}"))
            await world.store.put(draft, by="user:ada", if_version="*")
            there += [] if uri in there else [uri]
        async with progress:
            progress.notify_all()
        await asyncio.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_keepers_killed_thirty_times_leave_no_reader_an_error_and_no_index_untrue(tmp_path: Path) -> None:
    chance = random.Random(4)
    root = tmp_path / "tree"
    async with a_world(root, everything) as world, asking(root) as asker:
        keepers = Keepers(root)
        progress = asyncio.Condition()
        writing = asyncio.create_task(write(world, chance, progress))
        try:
            await keepers.start()
            await keepers.start()
            for number in range(KILLS):
                # At a point that is random in what is written, not in time.
                for _ in range(chance.randrange(60)):
                    async with progress:
                        await progress.wait()
                await keepers.kill(KINDS[number % len(KINDS)])
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            folder = root / ".cld" / "index"

            async def whole() -> bool:
                checks = ((check_search, "search"), (check_graph, "graph"), (check_elections, "elections"))
                return all([(await check(folder / kind, world.mine, grace_seconds=0)).good for check, kind in checks])

            await until(whole, SECONDS)
            doctor = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cld.cli", "doctor", "--index", "--no-fix", "--root", str(root)),
                stdout=PIPE,
                stderr=STDOUT,
            )
            said, _ = await asyncio.wait_for(doctor.communicate(), SECONDS)
            assert (doctor.returncode, said) == (0, b""), said.decode()
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await keepers.aclose()
        said, _ = await asyncio.wait_for(asker.communicate(b""), SECONDS)
        told = json.loads(said.splitlines()[-1])
        assert told["wrong"] == []
        assert told["asked"] > KILLS
