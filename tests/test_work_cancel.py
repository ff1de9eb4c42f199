"""Cancelling: at any time, whoever works it, with tools that really run; nothing of it is left anywhere."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from crash_world import OVER, Processes, processes
from tool_world import is_running
from work_world import FunctionTools, Place, answer, hanging, is_judging, judged, needs_approval, working

from cld.errors import CldError
from cld.models import Ask, Completion
from cld.types import Step, Wish
from cld.uri import URI, make_uri
from cld.work.requests import Stopping, begin, cancel, decide, update, wait

pytestmark = pytest.mark.anyio

SOON = 2.0
LONG = 30.0


def slow_tree(chance: random.Random) -> tuple[Step, ...]:
    """Three levels of tasks that take long, some after others that are done at once."""

    def leaf(id: str, **more: Any) -> Step:
        return Step(id, chance.choice(["Use slow", "Use look", "Think slowly"]), **more)

    deep = (leaf("x"), Step("y", "Have it done", steps=(Step("s", "Use slow"), leaf("t"))))
    return (Step("a", "Have it done", steps=deep), leaf("b"), leaf("c", after=("b",)), Step("d", "Use slow"))


@asynccontextmanager
async def canceller(folder: Path, lease_seconds: float) -> AsyncGenerator[Place]:
    """An engine that works nothing itself."""
    tools = FunctionTools()
    async with working(folder, lambda ask: answer(""), tools, lease_seconds=lease_seconds, tasks_at_once=0) as place:
        yield place


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


async def until(true: Any, seconds: float = LONG) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def check_stopped(place: Place, folder: Path, root: URI, stopping: Stopping) -> None:
    """Nothing is left of it, and nothing begins any more."""
    assert not stopping.left
    assert [pid for pid in pids(folder) if is_running(pid)] == []
    tasks = await place.all_of("plan.Task", root)
    assert all(content.get("status") in OVER and not content.get("lease") for content in tasks.values()), tasks
    calls = await place.all_of("tool.Call", root)
    assert {content["state"] for content in calls.values()} <= {"finished", "failed", "cancelled"}


async def two(made: Processes, lease_seconds: float) -> None:
    for seed in range(2):
        await made.fork(seed, lease_seconds=lease_seconds, slow=True)
    await made.until(lambda: len(made.works) == 2)


async def test_a_cancel_at_any_time_stops_all_of_it_in_both_processes_soon(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with processes(tmp_path) as made, canceller(tmp_path, 10.0) as place:
        await two(made, 10.0)
        roots: list[URI] = []
        for number in range(8):
            # Every other one while tools are running, the others at any time.
            before = len(pids(tmp_path))
            begun = await begin(place.engine, place.store, "", slow_tree(chance))
            roots.append(begun.task)
            if number % 2:
                await until(lambda before=before: len(pids(tmp_path)) >= before + 6)
            else:
                await asyncio.sleep(chance.random() * 0.5)
            began = time.monotonic()
            stopping = await cancel(place.engine, begun.task, "enough")
            assert time.monotonic() - began < SOON
            await check_stopped(place, tmp_path, begun.task, stopping)
        versions = await place.all_of("plan.Task")
        there = pids(tmp_path)
        # Whatever would begin something anew has had its chance when a tree begun now is done.
        begun = await begin(place.engine, place.store, "", (Step("p", "Have it done", steps=(Step("z", "Use look"),)),))
        await wait(place.engine, begun.task, 5)
        now = await place.all_of("plan.Task")
        assert {uri: now[uri] for uri in versions} == versions and pids(tmp_path) == there
        await made.end()


async def test_what_a_killed_process_had_is_stopped_when_its_lease_ends(tmp_path: Path) -> None:
    async with processes(tmp_path) as made, canceller(tmp_path, 1.0) as place:
        await two(made, 1.0)
        begun = await begin(place.engine, place.store, "", slow_tree(random.Random(2)))
        await until(lambda: len(pids(tmp_path)) >= 6)
        made.kill(min(made.alive))
        began = time.monotonic()
        stopping = await cancel(place.engine, begun.task, "enough")
        assert time.monotonic() - began < 1.0 + SOON
        await check_stopped(place, tmp_path, begun.task, stopping)


async def test_a_cancel_whose_process_dies_in_the_middle_is_gone_on_with(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        return judged(ask) if is_judging(ask) else answer("", Wish("k", "pay", {}))

    tools = FunctionTools({"pay": lambda arguments, caller: needs_approval("pay", caller)})
    steps = tuple(Step(f"s{number}", "Pay") for number in range(20))
    async with working(tmp_path, model, tools, lease_seconds=0.5) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await until(lambda: len(tools.called) == 20)
        assert (await wait(place.engine, begun.task, LONG)).status == "supervising"
        node = await place.engine.forest.load(begun.task)
        stopping = asyncio.create_task(place.engine.stop(node, "enough"))
        await until(lambda: node.is_over)
        place.engine._closing = True  # as if it were killed now
        stopping.cancel()
        assert node.open and node.task.lease is not None
    async with working(tmp_path, model, tools, lease_seconds=0.5) as place:
        assert await place.engine.resume() == 1
        node = await place.engine.forest.load(begun.task)
        await until(lambda: not node.restless)
        assert {content.get("status") for content in (await place.all_of("plan.Task")).values()} == {"cancelled"}


async def test_a_subtree_is_cancelled_and_the_rest_goes_on(tmp_path: Path) -> None:
    release = anyio.Event()

    async def slow() -> str:
        await release.wait()
        return "done"

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        return answer("ok") if ask.messages[-1].role == "tool" else answer("", Wish("k", "slow", {}))

    tools = FunctionTools({"slow": lambda arguments, caller: slow()})
    steps = (Step("a", "Do", steps=(Step("x", "Slow"), Step("y", "Slow"))), Step("b", "Slow"), Step("c", "Slow"))
    async with working(tmp_path, model, tools) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await until(lambda: len(tools.called) == 4)
        part = make_uri(begun.task, "plan.Task", "a")
        first, second = await asyncio.gather(*(cancel(place.engine, part, "enough") for _ in range(2)))
        assert not first.left and not second.left
        assert set(first.cancelled) | set(second.cancelled) == {part, f"{part}/plan.Task.x", f"{part}/plan.Task.y"}
        release.set()
        task = await wait(place.engine, begun.task, LONG)
        assert task.status == "completed", task.error


async def test_an_answer_or_a_result_that_comes_while_it_is_cancelled_changes_nothing(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        return judged(ask) if is_judging(ask) else answer("", Wish("k", "pay", {}))

    def pay(arguments: Any, caller: Any) -> str:
        needs_approval("pay", caller)
        paid.append(1)
        return "paid"

    paid: list[int] = []
    tools = FunctionTools({"pay": pay})
    steps = (Step("a", "Pay"), Step("mine", "Do it yourself", assistant="client"))
    for round in range(5):
        paid.clear()
        async with working(tmp_path / str(round), model, tools) as place:
            begun = await begin(place.engine, place.store, "", steps)
            assert (await wait(place.engine, begun.task, LONG)).status == "supervising"
            mine = make_uri(begun.task, "plan.Task", "mine")
            results = await asyncio.gather(
                cancel(place.engine, begun.task, "enough"),
                decide(place.store, begun.task, "approve"),
                update(place.engine, mine, output="by hand", has_output=True),
                return_exceptions=True,
            )
            stopping = results[0]
            assert isinstance(stopping, Stopping), stopping
            assert all(isinstance(one, CldError) or not isinstance(one, BaseException) for one in results)
            await check_stopped(place, tmp_path, begun.task, stopping)
            made = [one for one in (await place.all_of("tool.Call")).values() if one["state"] == "finished"]
            assert len(made) == len(paid)


async def test_what_is_being_planned_or_made_or_judged_is_stopped_too(tmp_path: Path) -> None:
    reached = anyio.Event()
    async with working(tmp_path, hanging(reached)) as place:
        begun = await begin(place.engine, place.store, "Plan this and judge it")
        with anyio.fail_after(LONG):
            await reached.wait()
        began = time.monotonic()
        stopping = await cancel(place.engine, begun.task, "enough")
        assert time.monotonic() - began < SOON
        await check_stopped(place, tmp_path, begun.task, stopping)
    # In the middle of making a hundred subtasks.
    many = tuple(Step(f"s{number}", "Do") for number in range(100))
    async with working(tmp_path, lambda ask: answer("done")) as place:
        begun = await begin(place.engine, place.store, "", many)
        node = await place.engine.forest.load(begun.task)
        await until(lambda: len(node.children) > 10)
        stopping = await cancel(place.engine, begun.task, "enough")
        await check_stopped(place, tmp_path, begun.task, stopping)
        assert 10 < len(await place.all_of("plan.Task", begun.task)) <= 100
    judging = anyio.Event()

    async def judge(ask: Ask) -> Completion:
        if is_judging(ask):
            judging.set()
            await anyio.sleep_forever()
        return answer("done")

    async with working(tmp_path, judge) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"), Step("b", "Do")))
        with anyio.fail_after(LONG):
            await judging.wait()
        stopping = await cancel(place.engine, begun.task, "enough")
        assert stopping.cancelled == (begun.task,)
        await check_stopped(place, tmp_path, begun.task, stopping)
