"""What bounds a tree of tasks while it is worked: the time of clients, how much may be planned, what comes first."""

from datetime import datetime
from pathlib import Path

import anyio
import pytest
from work_world import Place, answer, is_judging, judged, said_of, working

from cld.errors import InvalidTransition
from cld.journal import Journal
from cld.models import Ask, Completion
from cld.resource import Draft, Meta
from cld.store import ANY_VERSION
from cld.tasks.instants import later
from cld.types import Budget, Call, Step, Task, Wish
from cld.uri import URI, id_of, make_uri, parse_uri
from cld.work.requests import begin, update, wait
from cld.work.showing import shown

pytestmark = pytest.mark.anyio

LONG = 20.0
PAST = "2026-01-01T00:00:00.000000Z"


def done(ask: Ask) -> Completion:
    return judged(ask) if is_judging(ask) else answer("done")


async def over(place: Place, uri: URI) -> Task:
    """The task once it is over; unlike `wait` it waits while a client is waited for."""
    node, changed = await place.engine.forest.load(uri), anyio.Event()

    def look(*_: object) -> None:
        if node.is_over:
            changed.set()

    end = place.engine.on_change(look)
    look()
    with anyio.fail_after(LONG):
        await changed.wait()
    end()
    return node.task


async def task_of(place: Place, root: URI, *path: str) -> Task:
    uri = root
    for id in path:
        uri = make_uri(uri, "plan.Task", id)
    return (await place.engine.forest.load(uri)).task


async def test_a_client_has_the_time_that_is_given_and_not_that_of_assistants(tmp_path: Path) -> None:
    steps = (
        Step("free", "Do", assistant="client"),
        Step("limited", "Do", assistant="client", time_limit=100),
        Step("bounded", "Do", assistant="client", time_limit=100, budget=Budget(seconds=50)),
        Step("group", "Do", budget=Budget(seconds=40), steps=(Step("x", "Do", assistant="client"),)),
    )
    async with working(tmp_path, done, time_limit=1.0) as place:
        begun = await begin(place.engine, place.store, "", steps, budget=Budget(seconds=1000))
        root = await wait(place.engine, begun.task, LONG)
        free, limited, bounded = [await task_of(place, begun.task, step.id) for step in steps[:3]]
        assert free.until == ""
        assert limited.until == later(limited.started_at, 100)
        assert bounded.until == later(bounded.started_at, 50)
        group, x = await task_of(place, begun.task, "group"), await task_of(place, begun.task, "group", "x")
        assert x.until == ""
        told = await shown(place.store, await place.engine.forest.load(begun.task), 2)
        below = {id_of(one["uri"]): one for each in told["tasks"] for one in (each, *each.get("tasks", ()))}
        for id, since, seconds in (("free", root, 1000), ("limited", limited, 100), ("x", group, 40)):
            away = datetime.fromisoformat(below[id]["until"]) - datetime.fromisoformat(since.started_at)
            assert abs(away.total_seconds() - seconds) < 0.01


@pytest.mark.parametrize(
    "step, code",
    [
        (Step("a", "Do", assistant="client", time_limit=0.01), "timed_out"),
        (Step("a", "Do", assistant="client", budget=Budget(seconds=0.01)), "budget_exceeded"),
    ],
)
async def test_what_a_client_does_not_do_in_time_fails_and_what_it_says_late_is_refused(
    tmp_path: Path, step: Step, code: str
) -> None:
    async with working(tmp_path, done, lease_seconds=0.5) as place:
        begun = await begin(place.engine, place.store, "", (step,))
        assert (await over(place, begun.task)).status == "failed"
        task = await task_of(place, begun.task, "a")
        assert task.status == "failed" and task.error is not None and task.error.code == code
        with pytest.raises(InvalidTransition, match="is failed"):
            await update(place.engine, make_uri(begun.task, "plan.Task", "a"), output="late", has_output=True)


async def test_any_process_ends_a_wait_for_a_client_that_did_not_run_its_calls_in_time(tmp_path: Path) -> None:
    waiting = {"status": "waiting", "waiting": "client", "until": PAST, "assistant": "general", "direct": True}
    uri = parse_uri("cld:plan.Task.t")
    async with working(tmp_path, done) as place:
        await Journal(place.store, uri).start("t0000c00", Call("camera", {}, state="waiting", client=True))
        await place.store.put(Draft(uri, {**waiting, "time_limit": 5.0, "started_at": PAST}, Meta(purpose="Do it")))
        await place.engine.resume()
        task = await wait(place.engine, uri, LONG)
        assert task.status == "failed" and task.error is not None and task.error.code == "timed_out"
        [call] = (await place.all_of("tool.Call")).values()
        assert call["state"] == "cancelled"


async def test_a_wait_for_a_clients_calls_has_an_end_too(tmp_path: Path) -> None:
    camera = {"name": "camera", "description": "takes a picture", "inputSchema": {"type": "object"}}
    async with working(tmp_path, lambda _: answer("", Wish("k", "camera", {}))) as place:
        begun = await begin(
            place.engine,
            place.store,
            "Look",
            assistant="general",
            client_tools=[camera],
            budget=Budget(seconds=1000),
        )
        task = await wait(place.engine, begun.task, LONG)
        assert (task.waiting, task.until) == ("client", later(task.started_at, 1000))


async def test_what_was_set_aside_for_calls_that_a_client_did_not_run_is_counted(tmp_path: Path) -> None:
    camera = {"name": "camera", "description": "takes a picture", "inputSchema": {"type": "object"}}
    async with working(tmp_path, lambda _: answer("", Wish("k", "camera", {}))) as place:
        begun = await begin(place.engine, place.store, "Look", assistant="general", client_tools=[camera])
        assert (await wait(place.engine, begun.task, LONG)).waiting == "client"
        late = Draft(begun.task, {**await place.content(begun.task), "until": PAST})
        await place.store.put(late, if_version=ANY_VERSION)
        assert (await over(place, begun.task)).status == "failed"
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert not ledger.get("held") and ledger["spent"]["calls"] == 1


async def test_how_many_tasks_there_may_be_is_said_of_the_whole_tree(tmp_path: Path) -> None:
    inner = Step("i", "Do", for_each="[1, 2, 3, 4, 5]")
    steps = (Step("o", "Do", for_each="[1, 2, 3, 4, 5]", steps=(inner,)),)
    async with working(tmp_path, done, tasks=20) as place:
        begun = await begin(place.engine, place.store, "", steps)
        assert (await wait(place.engine, begun.task, LONG)).status == "failed"
        tasks = await place.all_of("plan.Task", begun.task)
        assert len(tasks) <= 1 + 20
        told = [content["error"] for content in tasks.values() if content["status"] == "failed"]
        assert any(one["code"] == "invalid_argument" and "20 in all (work.tasks)" in one["message"] for one in told)


async def test_what_is_planned_and_not_made_yet_counts_too(tmp_path: Path) -> None:
    steps = (
        Step("each", "Do", for_each="[1, 2, 3, 4]"),
        Step("later", "Do", after=("each",), steps=tuple(Step(f"s{n}", "Do") for n in range(5))),
    )
    async with working(tmp_path, done, tasks=10) as place:
        begun = await begin(place.engine, place.store, "", steps)
        await wait(place.engine, begun.task, LONG)
        each = await task_of(place, begun.task, "each")
        assert each.error is not None and "7 tasks" in each.error.message and "10 in all" in each.error.message


def step(id: str) -> dict[str, object]:
    empty = {"instructions": "", "evaluation": "", "assistant": "", "after": [], "when": "", "for_each": ""}
    return {"id": id, "purpose": f"Do {id}", **empty, "inputs": [], "steps": []}


async def test_corrections_end_where_the_tree_has_all_the_tasks_it_may_have(tmp_path: Path) -> None:
    asked: list[bool] = []

    def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            return answer("done")
        assert ask.schema is not None
        asked.append("steps" in ask.schema["properties"])
        return judged(ask, enough=False, reason="more", steps=[step(f"fix{len(asked)}")])

    async with working(tmp_path, model, tasks=3, corrections=9) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"), Step("b", "Do")))
        task = await wait(place.engine, begun.task, LONG)
        assert task.error is not None and task.error.code == "not_enough" and len(task.judgements) == 2
        assert asked == [True, False] and len(await place.all_of("plan.Task")) == 4


async def test_what_can_begin_together_begins_by_priority_and_then_by_id(tmp_path: Path) -> None:
    begun_with: list[str] = []

    def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            begun_with.append(said_of(ask))
        return done(ask)

    ranked = tuple(Step(f"s{number}", f"s{number}", priority=number) for number in range(8))
    same = tuple(Step(id, id) for id in ("z", "b10", "b2", "a", "y"))
    async with working(tmp_path, model, tasks_at_once=1) as place:
        for steps, order in ((ranked, [f"s{n}" for n in range(7, -1, -1)]), (same, ["a", "b2", "b10", "y", "z"])):
            begun_with.clear()
            begun = await begin(place.engine, place.store, "", steps)
            assert (await wait(place.engine, begun.task, LONG)).status == "completed"
            assert begun_with == order


async def test_the_first_to_begin_are_those_of_the_highest_priority(tmp_path: Path) -> None:
    first, together = list[str](), anyio.Event()

    async def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            first.append(said_of(ask))
            if len(first) == 4:
                together.set()
            with anyio.fail_after(LONG):
                await together.wait()
        return done(ask)

    steps = tuple(Step(f"s{number}", f"s{number}", priority=number) for number in range(8))
    async with working(tmp_path, model, tasks_at_once=4) as place:
        begun = await begin(place.engine, place.store, "", steps)
        assert (await wait(place.engine, begun.task, LONG)).status == "completed"
        assert set(first[:4]) == {"s7", "s6", "s5", "s4"}


async def test_trees_of_one_priority_take_turns_and_say_to_models_whose_work_it_is(tmp_path: Path) -> None:
    asked, small_is_there = list[Ask](), anyio.Event()

    async def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            asked.append(ask)
            with anyio.fail_after(LONG):
                await small_is_there.wait()
        return done(ask)

    def steps(name: str, count: int) -> tuple[Step, ...]:
        return tuple(Step(f"{name}{number}", f"{name}{number}") for number in range(count))

    async with working(tmp_path, model, tasks_at_once=1) as place:
        large = await begin(place.engine, place.store, "", steps("a", 8))
        with anyio.fail_after(LONG):
            while not asked:
                await anyio.sleep(0.01)
        small = await begin(place.engine, place.store, "", steps("b", 3))
        small_is_there.set()
        for one in (small, large):
            assert (await wait(place.engine, one.task, LONG)).status == "completed"
        order = [said_of(ask) for ask in asked]
        assert order.index("b2") < order.index("a5") and order[-1] == "a7", order
        whose = {said_of(ask)[0]: ask.fair for ask in asked}
        assert whose == {"a": large.task, "b": small.task} and len({ask.fair for ask in asked}) == 2


async def test_a_task_in_a_namespace_is_worked_by_the_assistant_that_it_names(tmp_path: Path) -> None:
    told: list[str] = []

    def model(ask: Ask) -> Completion:
        if not is_judging(ask):
            told.append(ask.messages[0].text)
        return done(ask)

    home = parse_uri("cld:cld.Namespace.home")
    conversation = make_uri(home, "common.Conversation", "c")
    mine, root = make_uri(home, "common.Assistant", "writer"), parse_uri("cld:common.Assistant.writer")
    async with working(tmp_path, model) as place:
        await place.store.put(Draft(home, {}))
        for uri, instructions in ((mine, "HOME"), (root, "ROOT")):
            await place.store.put(Draft(uri, {}, Meta("Write", instructions)))
        for named, who in ((mine, "HOME"), ("writer", "HOME"), (root, "ROOT")):
            told.clear()
            steps = (Step("a", "Write", assistant=named),)
            begun = await begin(place.engine, place.store, "", steps, conversation=conversation)
            assert (await wait(place.engine, begun.task, LONG)).status == "completed"
            a = await task_of(place, begun.task, "a")
            assert a.assistant == (root if who == "ROOT" else mine)
            assert len(told) == 1 and who in told[0]
            node = await place.engine.forest.load(make_uri(begun.task, "plan.Task", "a"))
            acting = (await place.engine._working.acting(node)).id
            assert acting == ("assistant:writer" if who == "ROOT" else "assistant:writer@home")
