"""A person at the files of tasks while they are worked: what is edited, deleted or broken ends in a clear state."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from work_world import FunctionTools, Place, answer, is_judging, judged, working

from cld.models import Ask, Completion
from cld.resource import Draft, Meta
from cld.types import Budget, Step, Wish
from cld.uri import URI, make_uri, parse_uri
from cld.work.requests import Begun, begin, cancel, wait

pytestmark = pytest.mark.anyio

LONG = 30.0


class Held:
    """Tools and a model for tasks that take until they are let go: `Do` calls a tool that waits."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.stopped = 0
        self.tools = FunctionTools({"hold": lambda arguments, caller: self._hold()})
        self.told: list[str] = []

    async def _hold(self) -> str:
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return "held"

    def model(self, ask: Ask) -> Completion:
        if is_judging(ask):
            self.told.append("judge")
            return judged(ask)
        task = ask.messages[1].text.partition("\n")[0]
        if ask.messages[-1].role == "tool":
            return answer("done")
        self.told.append(task)
        return answer("", Wish("k", "hold", {})) if task == "Task: Do" else answer("done")


def file_of(folder: Path, uri: URI) -> Path:
    return folder / "resources" / f"{uri}.json"


def edit(folder: Path, uri: URI, **content: Any) -> None:
    """As a person does with an editor: the file is replaced."""
    file = file_of(folder, uri)
    there = json.loads(file.read_text())
    meta = content.pop("meta", {})
    there["content"] |= content
    there["meta"] |= meta
    save(file, json.dumps(there))


def save(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def until(true: Any) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0.01)


async def begun_with(place: Place, held: Held, *steps: Step, **more: Any) -> Begun:
    begun = await begin(place.engine, place.store, "", steps, **more)
    await until(lambda: held.tools.called)
    return begun


def quiet(place: Place) -> bool:
    """Whether nothing is tried over and over."""
    return not place.engine._running and not place.engine._turns


async def test_a_task_cancelled_or_reworded_in_its_file_is_that(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools) as place:
        steps = (Step("a", "Do"), Step("b", "Say", after=("a",)), Step("c", "Say", after=("a",)))
        begun = await begun_with(place, held, *steps)
        b, c = (make_uri(begun.task, "plan.Task", id) for id in "bc")
        edit(tmp_path, b, status="cancelled")
        edit(tmp_path, c, meta={"purpose": "Say it otherwise"})
        held.goes_on.set()
        task = await wait(place.engine, begun.task, LONG)
        assert task.status == "completed", task.error
        assert "Task: Say it otherwise" in held.told and "Task: Say" not in held.told
        assert (await place.content(b))["status"] == "cancelled"


async def test_a_running_task_cancelled_in_its_file_is_stopped_with_all_below_it(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools) as place:
        begun = await begun_with(place, held, Step("a", "Have it done", steps=(Step("x", "Do"), Step("y", "Do"))))
        await until(lambda: len(held.tools.called) == 2)
        edit(tmp_path, begun.task, status="cancelled")
        await until(lambda: held.stopped == 2 and place.engine.forest.find(begun.task) is None)
        tasks = (await place.all_of("plan.Task")).values()
        assert all(content["status"] == "cancelled" and not content.get("lease") for content in tasks)


async def test_a_deleted_task_is_gone_and_what_waits_for_it_knows(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools) as place:
        steps = (Step("a", "Do"), Step("b", "Say", after=("a",)), Step("c", "Say"))
        begun = await begun_with(place, held, *steps)
        file_of(tmp_path, make_uri(begun.task, "plan.Task", "a")).unlink()
        task = await wait(place.engine, begun.task, LONG)
        assert held.stopped == 1 and task.status == "completed"
        b = await place.content(make_uri(begun.task, "plan.Task", "b"))
        assert (b["status"], b["error"]["code"]) == ("failed", "dependency_failed")


async def test_a_deleted_subtree_and_a_deleted_tree_are_stopped(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools) as place:
        below = (Step("x", "Do"), Step("y", "Do"))
        begun = await begun_with(place, held, Step("a", "Have it done", steps=below), Step("b", "Do"))
        await until(lambda: len(held.tools.called) == 3)
        a = make_uri(begun.task, "plan.Task", "a")
        shutil.rmtree(file_of(tmp_path, a).with_suffix(""))
        file_of(tmp_path, a).unlink()
        await until(lambda: held.stopped == 2)
        assert (await wait(place.engine, begun.task, 0)).status == "supervising"
        shutil.rmtree(file_of(tmp_path, begun.task).with_suffix(""))
        file_of(tmp_path, begun.task).unlink()
        await until(lambda: held.stopped == 3 and quiet(place))
        assert not place.engine.forest._nodes


async def test_what_is_no_task_any_more_is_waited_for_until_it_is_one_again(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools, lease_seconds=0.5) as place:
        begun = await begun_with(place, held, Step("a", "Do"), Step("b", "Say", after=("a",)))
        b = make_uri(begun.task, "plan.Task", "b")
        good = file_of(tmp_path, b).read_text()
        node = await place.engine.forest.load(b)
        for garbage in ("{", '{"content": {"status": "dancing"}}', '{"content": {"lease": 3}}'):
            save(file_of(tmp_path, b), garbage)
            await until(lambda: node.broken)
            save(file_of(tmp_path, b), good)
            await until(lambda: not node.broken)
        save(file_of(tmp_path, b), "garbage")
        await until(lambda: node.broken)
        held.goes_on.set()
        a = await wait(place.engine, make_uri(begun.task, "plan.Task", "a"), LONG)
        assert a.status == "completed" and "judge" not in held.told
        await until(lambda: quiet(place))
        save(file_of(tmp_path, b), good)
        task = await wait(place.engine, begun.task, LONG)
        assert task.status == "completed", task.error
        assert "Task: Say" in held.told


async def test_a_running_task_whose_file_is_broken_is_stopped_and_can_still_be_cancelled(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools, lease_seconds=0.5) as place:
        begun = await begun_with(place, held, Step("a", "Do"), Step("b", "Do"))
        await until(lambda: len(held.tools.called) == 2)
        save(file_of(tmp_path, make_uri(begun.task, "plan.Task", "a")), "garbage")
        await until(lambda: held.stopped == 1)
        stopping = await cancel(place.engine, begun.task, "enough")
        assert not stopping.left and held.stopped == 2


async def test_a_tree_with_a_broken_task_ends_with_its_time(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools, lease_seconds=0.5) as place:
        begun = await begun_with(place, held, Step("a", "Do"), Step("b", "Say"), budget=Budget(seconds=2))
        save(file_of(tmp_path, make_uri(begun.task, "plan.Task", "b")), "garbage")
        held.goes_on.set()
        task = await wait(place.engine, begun.task, LONG)
        assert task.status in ("failed", "completed")  # the latter where b was done before
        assert task.status == "completed" or (task.error is not None and task.error.code == "budget_exceeded")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"status": "assigned"},
        {"status": "running"},
        {"status": "running", "lease": {"holder": "nobody", "fence": 7, "expires_at": "soon"}, "fence": 7},
        {"status": "waiting"},
        {"status": "waiting", "waiting": "time", "until": "tomorrow or so"},
        {"status": "waiting", "waiting": "approval"},
        {"status": "assigned", "assistant": "cld:common.Assistant.nobody"},
        {"started_at": "yesterday", "budget": {"seconds": 5}},
        {"status": "supervising", "started_at": "yesterday", "budget": {"seconds": 5}},
    ],
)
async def test_a_task_written_by_hand_is_worked_or_says_why_not(tmp_path: Path, content: dict[str, Any]) -> None:
    held = Held()
    uri = parse_uri("cld:common.Conversation.c/plan.Task.t")
    async with working(tmp_path, held.model, held.tools, lease_seconds=0.5) as place:
        await place.store.put(Draft(uri, {"direct": True, **content}, Meta(purpose="Say")))
        await until(lambda: place.engine.forest.find(uri) is not None or not quiet(place) or held.told)
        task = await wait(place.engine, uri, LONG)
        assert task.status in ("completed", "failed")
        assert task.status == "completed" or task.error is not None
        await until(lambda: quiet(place))
        assert task.attempts <= 2 and len(held.told) <= 2


async def test_what_waits_for_itself_ends_with_the_time_of_what_it_is_part_of(tmp_path: Path) -> None:
    held = Held()
    async with working(tmp_path, held.model, held.tools, lease_seconds=0.5) as place:
        begun = await begun_with(place, held, Step("a", "Do"), Step("b", "Say", after=("a",)), budget=Budget(seconds=2))
        edit(tmp_path, make_uri(begun.task, "plan.Task", "b"), after=["b"])
        held.goes_on.set()
        task = await wait(place.engine, begun.task, LONG)
        assert task.status == "failed" and task.error is not None and task.error.code == "budget_exceeded"
        b = await place.content(make_uri(begun.task, "plan.Task", "b"))
        assert b["status"] == "cancelled"
