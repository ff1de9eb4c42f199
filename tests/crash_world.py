"""Two working processes on one tree, killed at random and replaced, and what has to be true of the tree afterwards."""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from work_process import Orders

from cld.config import History, Settings
from cld.errors import Conflict
from cld.policy import Context
from cld.runtime import Runtime
from cld.tasks.budget import overspent, plus, total
from cld.types import Call, Ledger, Task
from cld.uri import ROOT, URI, id_of, parent_of, type_of
from cld.work.requests import decide

PROJECT = Path(__file__).parents[1]
OVER = ("completed", "failed", "cancelled")
TREES_AT_ONCE = 6


@dataclass
class Processes:
    """The program that forks, and the working processes that are alive."""

    program: asyncio.subprocess.Process
    folder: Path
    alive: set[int] = field(default_factory=set)
    trees: list[URI] = field(default_factory=list)
    said: asyncio.Event = field(default_factory=asyncio.Event)
    ended: set[int] = field(default_factory=set)
    works: set[int] = field(default_factory=set)

    async def fork(self, seed: int, *trees: int, lease_seconds: float = 0.5, slow: bool = False) -> int:
        before = set(self.alive)
        orders = Orders(str(self.folder), seed, lease_seconds, trees, slow)
        assert self.program.stdin is not None
        self.program.stdin.write(msgspec.json.encode(orders) + b"\n")
        await self.until(lambda: bool(self.alive - before))
        [pid] = self.alive - before
        return pid

    def kill(self, pid: int) -> None:
        self.alive.discard(pid)
        os.kill(pid, signal.SIGKILL)

    async def until(self, true: Any, seconds: float = 30.0) -> None:
        """Until what processes have said makes it so."""
        async with asyncio.timeout(seconds):
            while not true():
                self.said.clear()
                await self.said.wait()

    async def listen(self) -> None:
        assert self.program.stdout is not None
        async for line in self.program.stdout:
            match json.loads(line):
                case {"forked": pid}:
                    self.alive.add(pid)
                case {"begun": uri}:
                    self.trees.append(uri)
                case {"works": pid}:
                    self.works.add(pid)
                case {"ended": pid}:
                    self.ended.add(pid)
                    self.alive.discard(pid)
            self.said.set()

    async def end(self) -> None:
        """All as by a service's stop, which leaves nothing held."""
        for pid in list(self.alive):
            os.kill(pid, signal.SIGTERM)
        await self.until(lambda: not self.alive)


@asynccontextmanager
async def processes(folder: Path) -> AsyncGenerator[Processes]:
    folder.mkdir(parents=True, exist_ok=True)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "work_process.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    made = Processes(program, folder)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        for pid in list(made.alive):
            made.kill(pid)
        program.kill()
        await program.wait()
        await listening


@asynccontextmanager
async def tree(folder: Path) -> AsyncGenerator[Any]:
    """The tree as a third writer has it."""
    settings = Settings(
        root=str(folder / "resources"), policies=str(PROJECT / "policies"), history=History(keep=100_000)
    )
    async with Runtime.open(settings) as runtime:
        yield runtime, runtime.store(runtime.principal, Context(tool="approve"))


@dataclass
class Report:
    """What happened, in numbers."""

    kills: int
    seconds: float = 0.0
    trees: int = 0
    tasks: int = 0
    versions: int = 0
    takeovers: int = 0
    calls: int = 0
    repeated: int = 0
    approvals: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


async def crash(folder: Path, kills: int, seed: int) -> Report:
    """Kill one of two working processes `kills` times, then let the others come to an end, and look at everything."""
    chance, began = random.Random(seed), time.monotonic()
    report = Report(kills)
    async with processes(folder) as made, tree(folder) as (runtime, store):
        async with runtime.hear(store, types=frozenset({"plan.Approval"})) as heard:
            approving = asyncio.create_task(_approve(store, heard))
            seeds = iter(range(seed * 100_000, (seed + 1) * 100_000))
            for _ in range(2):
                await made.fork(next(seeds), next(seeds), next(seeds))
            for _ in range(kills):
                await asyncio.sleep(chance.expovariate(4.0))
                made.kill(chance.choice(sorted(made.alive)))
                missing = TREES_AT_ONCE - len(await _open(store, made.trees))
                await made.fork(next(seeds), *(next(seeds) for _ in range(missing)))
            last = time.monotonic()
            await made.until(lambda: made.alive <= made.works)  # so they have made their trees
            # Also those whose maker died before it told of them.
            trees = [uri for uri in await _all(store, "plan.Task") if type_of(parent_of(uri)) != "plan.Task"]
            while waiting := await _open(store, trees):
                if time.monotonic() - last > 30:
                    report.faults += [f"{uri} is stuck" for uri in waiting]
                    break
                await asyncio.sleep(0.05)
            report.slowest = time.monotonic() - last
            await made.end()
            if approving.done():
                report.faults.append(f"nobody answers: {approving.exception()!r}")
            approving.cancel()
        await inspect(store, folder / "executions", report)
    report.trees, report.seconds = len(trees), time.monotonic() - began
    return report


async def _open(store: Any, trees: list[URI]) -> list[URI]:
    return [uri for uri in trees if (await store.get(uri)).resource.content.get("status") not in OVER]


async def _approve(store: Any, heard: Any) -> None:
    """Approve of every call that had begun when its process died."""
    async for event in heard:
        content = (await store.get(event.uri)).resource.content
        if content.get("decision") is None:
            assert "had begun when its process ended" in content["reason"]
            with suppress(Conflict):
                await decide(store, event.uri, "approve")


async def inspect(store: Any, log: Path, report: Report) -> None:
    """Look at every version of every task, call and ledger there is or was, and at what the tools wrote down."""
    executions: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        execution = json.loads(line)
        executions[execution["task"], execution["number"]].append(execution)
    for uri in await _all(store, "plan.Task"):
        versions = await _versions(store, uri, Task)
        report.tasks, report.versions = report.tasks + 1, report.versions + len(versions)
        report.faults += [f"{uri}: {fault}" for fault in task_faults(versions)]
        report.takeovers += sum(1 for (_, a), (_, b) in itertools.pairwise(versions) if a.lease and b.fence > a.fence)
        at_the_end = versions[-1][1]
        if at_the_end.status != "completed":
            report.faults.append(f"{uri}: is {at_the_end.status}: {at_the_end.error}")
    seen: Counter[str] = Counter()
    for uri in await _all(store, "tool.Call"):
        versions = await _versions(store, uri, Call)
        task = parent_of(uri)
        number = versions[0][1].arguments["number"]
        seen[f"{task} {number}"] += 1
        approvals = await _approvals(store, uri)
        report.calls, report.approvals = report.calls + 1, report.approvals + approvals
        found = executions.pop((task, number), [])
        began = [one for one in found if one["what"] == "began"]
        report.repeated += len(began) > 1
        report.faults += [f"{uri}: {fault}" for fault in call_faults(versions, found, approvals)]
    report.faults += [f"{key} is in the journal {count} times" for key, count in seen.items() if count > 1]
    report.faults += [f"{key} was executed and is not in the journal" for key in executions]
    for uri in await _all(store, "plan.Ledger"):
        for at, ledger in await _versions(store, uri, Ledger):
            gone = msgspec.structs.replace(ledger, spent=plus(ledger.spent, total(ledger.held.values())))
            if what := overspent(gone):
                report.faults.append(f"{uri}: at {at} more {what} were spent and held than there are")


def task_faults(versions: list[tuple[str, Task]]) -> list[str]:
    """What is wrong in the history of a task: two owners, a step back, an end by who had lost it, a lease left."""
    faults: list[str] = []
    for (_, before), (at, after) in itertools.pairwise(versions):
        if before.status in OVER and (after.status != before.status or after.fence != before.fence):
            faults.append(f"{before.status} became {after.status} at {at}")
        if after.fence not in (before.fence, before.fence + 1):
            faults.append(f"fence {before.fence} became {after.fence} at {at}")
        if after.fence > before.fence:
            if before.lease is not None and before.lease.expires_at > at:
                faults.append(f"at {at} taken from {before.lease.holder}, who had it until {before.lease.expires_at}")
            if after.lease is not None and after.lease.fence != after.fence:
                faults.append(f"lease {after.lease} with fence {after.fence}")
        elif after.lease is not None and (
            before.lease is None or (before.lease.holder, before.lease.fence) != (after.lease.holder, after.lease.fence)
        ):
            faults.append(f"at {at} {before.lease} became {after.lease} without a claim")
        if after.status == "completed" and before.status != "completed" and before.lease is None and not after.skipped:
            faults.append(f"completed at {at} by nobody who held it")
    if versions[-1][1].lease is not None:
        faults.append(f"left with {versions[-1][1].lease}")
    return faults


def call_faults(versions: list[tuple[str, Call]], executions: list[Mapping[str, Any]], approvals: int) -> list[str]:
    """What is wrong with a call: made again when it was finished, or without asking when it may not be."""
    faults: list[str] = []
    states = [call.state for _, call in versions]
    at, last = versions[-1]
    if last.state != "finished":
        faults.append(f"left {last.state}: {last.error}")
    if any(state == "finished" for state in states[:-1]):
        faults.append(f"went on after it was finished: {states}")
    began = [one for one in executions if one["what"] == "began"]
    if late := [one for one in began if one["at"] > at]:
        faults.append(f"was finished at {at} and began again at {late[0]['at']}")
    if len(began) > last.attempts:
        faults.append(f"began {len(began)} times in {last.attempts} attempts")
    ended = sum(1 for one in executions if one["what"] == "ended")
    if ended == 0:
        faults.append("was finished and never executed")
    if last.tool == "pay" and len(began) > 1 + approvals:
        faults.append(f"began {len(began)} times with {approvals} approvals")
    return faults


async def _approvals(store: Any, call: URI) -> int:
    """How often a person agreed to a call."""
    page = await store.list(parent_of(call), type="plan.Approval", limit=1000)
    approvals = [(await store.get(uri)).resource.content for uri in page.uris]
    return sum(1 for one in approvals if one["call"] == id_of(call) and one.get("decision") == "approve")


async def _versions(store: Any, uri: URI, kind: Any) -> list[tuple[str, Any]]:
    """All versions of a resource, oldest first, with the times they are from."""
    found: list[tuple[str, Any]] = []
    for revision in reversed(await store.history(uri)):
        resource = (await store.get(uri, revision.version)).resource
        assert resource.revision == len(found) + 1, f"{uri}: revision {len(found) + 1} is missing"
        found.append((resource.updated_at, msgspec.convert(resource.content, kind)))
    return found


async def _all(store: Any, type: str) -> list[URI]:
    found: list[URI] = []
    cursor = None
    while True:
        page = await store.list(ROOT, type=type, depth=64, limit=1000, cursor=cursor)
        found += page.uris
        if (cursor := page.cursor) is None:
            return found
