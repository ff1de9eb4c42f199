"""What is decided of a task is decided once: whether it is worked, and how; and what that cost is in its usage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from work_world import (
    FunctionTools,
    Place,
    answer,
    brought,
    hanging,
    is_judging,
    is_planning,
    judged,
    needs_approval,
    working,
)

from cld.errors import ModelFailed
from cld.models import Ask, Completion
from cld.resource import Draft, Meta
from cld.tools import Caller
from cld.types import Annotations, Budget, Step, Task, Usage, Wish
from cld.uri import URI, make_uri, parse_uri
from cld.work.requests import begin as begin_work
from cld.work.requests import cancel, decide, update, wait

pytestmark = pytest.mark.anyio

CAMERA = {"name": "camera", "description": "takes a picture", "inputSchema": {"type": "object"}}
LONG = 20.0


def is_asked_when(ask: Ask) -> bool:
    return ask.schema is not None and "holds" in ask.schema.get("properties", {})


def planned(*steps: str, **usage: int) -> Completion:
    """A plan of steps that say no more than their ids; without any, it is to be worked as it is."""
    empty = {"instructions": "", "evaluation": "", "assistant": "", "after": [], "when": "", "for_each": ""}
    given = [{"id": id, "purpose": f"Do {id}", **empty, "inputs": [], "steps": []} for id in steps]
    value = {"direct": not steps, "reason": "so", "steps": given}
    return Completion("", value=value, usage=Usage(**usage), model="function")


def holds(yes: bool, **usage: int) -> Completion:
    return Completion("", value={"holds": yes}, usage=Usage(**usage), model="function")


class Wavering:
    """A model that decides otherwise each time it is asked: as it is, then in steps; it holds, then it does not."""

    def __init__(self, tool: str = "camera", cost: int = 0) -> None:
        self._tool = tool
        self._cost = cost
        self.asked: list[str] = []

    def __call__(self, ask: Ask) -> Completion:
        if is_planning(ask):
            self.asked.append("plan")
            return planned(*(["one", "two"] if self.asked.count("plan") > 1 else []), tokens=100 * self._cost)
        if is_asked_when(ask):
            self.asked.append("when")
            return holds(self.asked.count("when") == 1, tokens=10 * self._cost)
        if is_judging(ask):
            return judged(ask)
        if ask.messages[-1].role == "tool":
            return answer("seen " + brought(ask).strip('"'), tokens=self._cost)
        return answer("", Wish("k", self._tool, {}), tokens=self._cost)


async def task_of(place: Place, uri: URI) -> Task:
    return (await place.engine.forest.load(uri)).task


async def begin(place: Place, message: str = "", steps: Sequence[Step] = (), **asked: Any) -> URI:
    return (await begin_work(place.engine, place.store, message, tuple(steps), **asked)).task


async def test_what_was_planned_as_one_piece_is_not_planned_again_when_its_client_has_come(tmp_path: Path) -> None:
    model = Wavering(cost=1)
    async with working(tmp_path, model) as place:
        root = await begin(place, "Which files are open?", client_tools=[CAMERA])
        assert (await wait(place.engine, root, LONG)).waiting == "client"
        await update(place.engine, root, call_results={"k": "a.md"})
        task = await wait(place.engine, root, LONG)
        assert (task.status, task.output) == ("completed", "seen a.md")
        assert model.asked == ["plan"] and len(await place.all_of("plan.Task")) == 1
        # What was decided, and what that cost, is in the task from then on.
        kept = [await place.store.get(root, one.version) for one in await place.store.history(root)]
        told = [one.resource.content["decided"]["tokens"] for one in kept if "decided" in one.resource.content]
        assert set(told) == {100} and len(told) < len(kept)
        assert task.usage == Usage(tokens=102, calls=1)


async def test_a_condition_that_held_is_not_asked_about_again(tmp_path: Path) -> None:
    def pay(arguments: Any, caller: Caller) -> str:
        needs_approval("pay", caller)
        return "paid"

    model = Wavering("pay", cost=1)
    steps = (Step("a", "Pay", when="? is it small", inputs={"n": 3}),)
    async with working(tmp_path, model, FunctionTools({"pay": pay})) as place:
        root = await begin(place, steps=steps)
        assert (await wait(place.engine, root, LONG)).status == "supervising"
        await decide(place.store, root, "approve")
        assert (await wait(place.engine, root, LONG)).status == "completed"
        task = await task_of(place, make_uri(root, "plan.Task", "a"))
        assert (task.output, task.skipped, task.usage) == (
            "seen paid",
            "",
            Usage(tokens=12, calls=2),
        )  # it was begun twice
        assert model.asked == ["when"]


async def test_what_was_decided_holds_for_who_goes_on_after_a_stop(tmp_path: Path) -> None:
    model, hangs = Wavering("do"), anyio.Event()

    async def do() -> str:
        hangs.set()
        await anyio.sleep_forever()
        return ""

    again = {"do": Annotations(idempotent=True)}
    steps = (Step("a", "Do", when="? is it small"),)
    async with working(tmp_path, model, FunctionTools({"do": lambda *_: do()}, again)) as place:
        with anyio.fail_after(LONG):
            first, second = await begin(place, "Do"), await begin(place, steps=steps)
            await hangs.wait()
            while len(place.tools.called) < 2:
                await anyio.sleep(0.01)
    async with working(tmp_path, model, FunctionTools({"do": lambda *_: "done"}, again)) as place:
        await place.engine.resume()
        assert (await wait(place.engine, first, LONG)).output == "seen done"
        assert (await wait(place.engine, second, LONG)).status == "completed"
        assert sorted(model.asked) == ["plan", "when"]


async def test_a_dead_process_leaves_what_it_had_decided(tmp_path: Path) -> None:
    at = "2026-01-01T00:00:00.000000Z"
    lease = {"holder": "dead", "fence": 1, "expires_at": at}
    task = {"status": "running", "assistant": "general", "when": "? is it small", "decided": {"tokens": 7}}
    task |= {"usage": {"tokens": 7}, "attempts": 1, "fence": 1, "lease": lease, "started_at": at}
    model = Wavering("do", cost=1)
    async with working(tmp_path, model, FunctionTools({"do": lambda *_: "done"})) as place:
        uri = parse_uri("cld:plan.Task.t")
        await place.store.put(Draft(uri, task, Meta(purpose="Do it")))
        done = await wait(place.engine, uri, LONG)
        assert (done.output, done.usage) == ("seen done", Usage(tokens=9, calls=1)) and not model.asked


async def test_a_step_with_steps_of_its_own_has_its_condition_asked(tmp_path: Path) -> None:
    steps = (
        Step("no", "A group", when="n > 3", inputs={"n": 1}, steps=(Step("x", "Do"),)),
        Step("yes", "A group", when="n < 3", inputs={"n": 1}, steps=(Step("x", "Do"),)),
    )
    async with working(tmp_path, lambda ask: judged(ask, without=["no"]) if is_judging(ask) else answer("x")) as place:
        root = await begin(place, steps=steps)
        assert (await wait(place.engine, root, LONG)).status == "completed"
        no, yes = [await task_of(place, make_uri(root, "plan.Task", id)) for id in ("no", "yes")]
        assert no.skipped and yes.output == "done" and len(await place.all_of("plan.Task")) == 4


async def test_conditions_and_lists_are_for_what_the_client_works_too(tmp_path: Path) -> None:
    steps = (
        Step("no", "Never", assistant="client", when="false"),
        Step("yes", "Do", assistant="client", when="true"),
        Step("each", "Each", assistant="client", for_each="[1, 2]"),
    )
    async with working(tmp_path, lambda ask: judged(ask, without=["no"])) as place:
        root = await begin(place, steps=steps)
        assert (await wait(place.engine, root, LONG)).status == "supervising"
        assert (await task_of(place, make_uri(root, "plan.Task", "no"))).skipped
        each = make_uri(root, "plan.Task", "each")
        for uri in (make_uri(root, "plan.Task", "yes"), *(make_uri(each, "plan.Task", f"each-{n}") for n in (1, 2))):
            assert (await task_of(place, uri)).waiting == "client"
            await update(place.engine, uri, output=uri, has_output=True)
        assert (await wait(place.engine, root, LONG)).status == "completed"
        assert len((await task_of(place, each)).output) == 2


@pytest.mark.parametrize("id", ["sum-x", "sum-1"])
async def test_steps_that_are_called_like_values_of_a_list_are_done_for_each_of_them(tmp_path: Path, id: str) -> None:
    steps = (Step("sum", "Add", for_each="[1, 2]", steps=(Step(id, "Add"),)),)
    async with working(tmp_path, lambda ask: judged(ask) if is_judging(ask) else answer("3")) as place:
        root = await begin(place, steps=steps)
        assert (await wait(place.engine, root, LONG)).status == "completed"
        assert (await task_of(place, make_uri(root, "plan.Task", "sum"))).output == ["done", "done"]
        assert len(await place.all_of("plan.Task")) == 6


def failing(which: Callable[[Ask], bool], model: Callable[[Ask], Completion]) -> Callable[[Ask], Completion]:
    def answers(ask: Ask) -> Completion:
        if which(ask):
            raise ModelFailed("it is down", tokens=5)
        return model(ask)

    return answers


async def test_what_a_task_spent_is_in_its_usage_however_it_ended(tmp_path: Path) -> None:
    def no(ask: Ask) -> Completion:
        return holds(False, tokens=3) if is_asked_when(ask) else judged(ask)

    async with working(tmp_path / "skipped", no) as place:
        root = await begin(place, steps=(Step("a", "Do", when="? is it so"),))
        await wait(place.engine, root, LONG)
        task = await task_of(place, make_uri(root, "plan.Task", "a"))
        assert task.skipped and task.usage == Usage(tokens=3)
    tools = FunctionTools({"do": lambda *_: "done"})
    async with working(tmp_path / "no plan", failing(is_planning, Wavering())) as place:
        task = await wait(place.engine, await begin(place, "Do"), LONG)
        assert (task.status, task.usage) == ("failed", Usage(tokens=5))
    model = failing(lambda ask: ask.messages[-1].role == "tool", Wavering("do", cost=1))
    async with working(tmp_path / "failed", model, tools) as place:
        task = await wait(place.engine, await begin(place, "Do"), LONG)
        assert (task.status, task.usage) == ("failed", Usage(tokens=106, calls=1))


async def test_what_a_cancelled_task_spent_is_in_its_usage(tmp_path: Path) -> None:
    begun = anyio.Event()

    async def do() -> None:
        begun.set()
        await anyio.sleep_forever()

    async with working(tmp_path, Wavering("do", cost=1), FunctionTools({"do": lambda *_: do()})) as place:
        root = await begin(place, "Do")
        with anyio.fail_after(LONG):
            await begun.wait()
        await cancel(place.engine, root, "enough")
        task = await task_of(place, root)
        assert (task.status, task.lease, task.usage) == ("cancelled", None, Usage(tokens=101, calls=1))


async def test_what_an_answer_may_have_cost_that_was_cut_off_is_in_usage_as_in_the_ledger(tmp_path: Path) -> None:
    asked = anyio.Event()
    async with working(tmp_path, hanging(asked), bound=Usage(tokens=40)) as place:
        root = await begin(place, "Do", assistant="general", budget=Budget(tokens=100))
        with anyio.fail_after(LONG):
            await asked.wait()
        await cancel(place.engine, root, "enough")
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert ledger["spent"]["tokens"] == (await task_of(place, root)).usage.tokens == 40
