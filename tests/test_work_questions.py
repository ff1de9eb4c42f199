"""Questions to people: until when they wait, who answered them, and what becomes of those that are over."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from work_world import FunctionTools, Place, answer, brought, is_judging, judged, pay, working

from cld.errors import Conflict, InvalidArgument
from cld.journal import NOBODY, Journal, questions
from cld.models import Ask, Completion
from cld.resource import Draft
from cld.tasks.instants import written
from cld.types import Approval, Budget, Failure, Step, Wish
from cld.uri import URI, id_of, make_uri
from cld.work.requests import begin, cancel, decide, update, wait, waiting_for
from cld.work.showing import drawn, shown
from cld.work.working import Working

pytestmark = pytest.mark.anyio

TWO = (Step("a", "Pay one"), Step("b", "Pay two"))


def model(ask: Ask) -> Completion:
    """Asks for two payments at once where the task is to pay both, else for one."""
    if is_judging(ask):
        return judged(ask)
    if ask.messages[-1].role == "tool":
        return answer(brought(ask))
    wishes = [Wish("k1", "pay", {"sum": 1}), Wish("k2", "pay", {"sum": 2})]
    return answer("", *wishes[: 2 if "both" in ask.messages[1].text else 1])


@asynccontextmanager
async def asked(folder: Path, *steps: Step, **more: Any) -> AsyncGenerator[tuple[Place, URI]]:
    """A tree that waits for a person."""
    async with working(folder, model, FunctionTools({"pay": pay})) as place:
        begun = await begin(place.engine, place.store, "", steps, **more)
        await wait(place.engine, begun.task, 20)
        yield place, begun.task


async def change(place: Place, uri: URI, **values: Any) -> None:
    """As a person does by hand."""
    await place.store.put(Draft(uri, {**(await place.content(uri)), **values}), if_version="*")


async def came(place: Place, uri: URI, true: Any) -> dict[str, Any]:
    """The content of a resource once it is so."""
    with anyio.fail_after(20):
        while not true(content := await place.content(uri)):
            await anyio.sleep(0.01)
    return content


def ago(**time: float) -> str:
    return written(datetime.now(UTC) - timedelta(**time))


def questions_in(tree: dict[str, Any]) -> list[str]:
    found = [one["uri"] for one in tree.get("approvals", ())]
    return found + [uri for child in tree.get("tasks", ()) for uri in questions_in(child)]


async def test_an_answer_by_hand_after_the_deadline_is_none_whenever_it_is_read(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        await change(place, question, decision="approve", deadline=ago(seconds=1))
        assert (await wait(place.engine, task, 20)).status == "completed"
        [call] = (await place.all_of("tool.Call")).values()
        assert call["error"]["code"] == "rejected" and "nobody answered until" in call["error"]["message"]
        kept = await place.content(question)
        assert (kept["decision"], kept["decided_by"]) == ("reject", NOBODY)
        assert kept["comment"].endswith("to approve it came too late") and kept["decided_at"] > kept["deadline"]


async def test_an_answer_that_was_given_in_time_counts_however_late_it_is_read(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        in_time = {"decided_by": "user:local", "decided_at": ago(seconds=2)}
        await change(place, question, decision="approve", deadline=ago(seconds=1), **in_time)
        assert (await wait(place.engine, task, 20)).status == "completed"
        [call] = (await place.all_of("tool.Call")).values()
        assert call["state"] == "finished"


@pytest.mark.parametrize(("says", "who"), [("", "a person"), ("ada", "ada")])
async def test_who_answered_in_the_file_and_when_is_kept_there(tmp_path: Path, says: str, who: str) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        await change(place, question, decision="approve", **({"decided_by": says} if says else {}))
        assert (await wait(place.engine, task, 20)).status == "completed"
        kept = await place.content(question)
        assert kept["decision"] == "approve" and kept["decided_by"] == who
        assert kept["asked_at"] < kept["decided_at"] < kept["deadline"]


async def test_a_question_whose_time_is_over_says_so_and_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay both")) as (place, task):
        first, second = await place.all_of("plan.Approval")
        await change(place, first, deadline=ago(seconds=1))
        kept = await came(place, first, lambda content: content.get("decision"))
        assert (kept["decision"], kept["decided_by"]) == ("reject", NOBODY) and "nobody answered" in kept["comment"]
        await wait(place.engine, task, 20)
        assert questions_in(await shown(place.store, await place.engine.forest.load(task), 4)) == [second]
        with pytest.raises(Conflict, match="nobody answered until"):
            await decide(place.store, first, "approve")
        assert (await decide(place.store, task, "approve"))[0] == second
        assert (await wait(place.engine, task, 20)).status == "completed"


async def test_a_question_that_has_expired_is_not_asked_though_no_engine_has_seen_it_yet(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        above = make_uri(task, "plan.Task", "a")
        late = Draft(URI(question.replace("t0000c00", "t0000c09")), {**(await place.content(question)), "call": ""})
        late.content["deadline"] = ago(seconds=1)
        await place.store.put(late)
        assert [one.uri for one in await questions(place.store, above)] == [question]


@pytest.mark.parametrize("how", ["cancel", "by hand", "above"])
async def test_what_was_asked_for_a_cancelled_task_says_so_and_is_asked_no_more(tmp_path: Path, how: str) -> None:
    async with asked(tmp_path, *TWO) as (place, task):
        a, b = (make_uri(task, "plan.Task", id) for id in "ab")
        first, second = (make_uri(uri, "plan.Approval", "t0000c00") for uri in (a, b))
        if how == "cancel":
            await cancel(place.engine, a, "not needed")
        elif how == "by hand":
            await change(place, a, status="cancelled", waiting=None)
        else:
            await change(place, task, status="cancelled")
        kept = await came(place, first, lambda content: content.get("decision"))
        assert (kept["decision"], kept["decided_by"]) == ("reject", NOBODY)
        assert kept["comment"] == "its task was cancelled"
        node = await place.engine.forest.load(task)
        if how == "above":
            await came(place, second, lambda content: content.get("decision"))
            assert not questions_in(await shown(place.store, node, 4))
            with pytest.raises(Conflict, match="its task was cancelled"):
                await decide(place.store, task, "approve")
        else:
            assert questions_in(await shown(place.store, node, 4)) == [second]
            assert (await decide(place.store, task, "approve"))[0] == second


async def test_a_question_of_a_task_that_is_over_is_not_shown_even_where_nobody_closed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(journal: Journal, why: str) -> None:
        pass

    monkeypatch.setattr(Journal, "close", nothing)
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        await cancel(place.engine, task, "not needed")
        [question] = (await place.all_of("plan.Approval")).values()
        assert question.get("decision") is None
        assert not questions_in(await shown(place.store, await place.engine.forest.load(task), 4))
        with pytest.raises(InvalidArgument, match="0 open questions"):
            await decide(place.store, task, "approve")


async def test_who_is_slower_to_answer_is_told_who_was_faster_and_what_they_said(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        await decide(place.store, task, "reject", comment="too dear")
        for uri in (task, question):
            with pytest.raises(Conflict, match="answered before: reject by user:local: too dear"):
                await decide(place.store, uri, "approve")


async def test_of_two_that_answer_at_the_same_moment_one_is_told_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        [question] = await place.all_of("plan.Approval")
        store = place.store
        put = store.put

        async def slower(draft: Draft, **options: Any) -> Any:
            monkeypatch.setattr(store, "put", put)
            await decide(place.store, question, "approve")
            return await put(draft, **options)

        monkeypatch.setattr(store, "put", slower)
        with pytest.raises(Conflict, match="answered before: approve by user:local"):
            await decide(store, task, "reject")


@pytest.mark.parametrize("broken", ["half", "misspelt"])
async def test_a_question_that_somebody_is_editing_hides_nothing_and_goes_on_when_it_is_one_again(
    tmp_path: Path, broken: str
) -> None:
    async with asked(tmp_path, *TWO) as (place, task):
        first = make_uri(make_uri(task, "plan.Task", "a"), "plan.Approval", "t0000c00")
        second = make_uri(make_uri(task, "plan.Task", "b"), "plan.Approval", "t0000c00")
        file = tmp_path / "resources" / f"{first}.json"
        whole = json.loads(file.read_text())
        looked = anyio.Event()
        seen = place.engine._look_at_approvals

        async def looks(node: Any) -> None:
            await seen(node)
            looked.set()

        place.engine._look_at_approvals = looks  # type: ignore[method-assign]
        file.write_text(
            json.dumps(whole)[:-30]
            if broken == "half"
            else json.dumps({**whole, "content": {**whole["content"], "decision": "aprove"}})
        )
        with anyio.fail_after(20):
            await looked.wait()
        node = await place.engine.forest.load(task)
        tree = await shown(place.store, node, 4)
        [one, other] = [child["approvals"][0] for child in tree["tasks"]]
        assert set(one) == {"uri", "error"} and one["uri"] == first and other["uri"] == second
        assert one["error"]["code"] == "invalid_resource"
        assert any("cannot be used" in line for line in drawn(tree))
        assert (await wait(place.engine, task, 0)).status == "supervising"
        assert (await decide(place.store, task, "approve"))[0] == second
        whole["content"]["decision"] = "approve"
        file.write_text(json.dumps(whole))
        assert not place.engine._put_off
        assert (await wait(place.engine, task, 20)).status == "completed"


async def test_a_call_that_somebody_is_editing_hides_nothing_of_its_tree(tmp_path: Path) -> None:
    async with asked(tmp_path, *TWO) as (place, task):
        first, _ = await place.all_of("tool.Call")
        await anyio.Path(tmp_path / "resources" / f"{first}.json").write_text('{"content": {"tool"')
        node = await place.engine.forest.load(task)
        tree = await shown(place.store, node, 4)
        [one, other] = [child["calls"][0] for child in tree["tasks"]]
        assert set(one) == {"uri", "error"} and one["uri"] == first and other["tool"] == "pay"
        assert any("cannot be used" in line for line in drawn(tree))
        assert len(waiting_for(place.engine, node)) == 2
        assert (await wait(place.engine, task, 20)).status == "supervising"
        assert not (await cancel(place.engine, task, "enough")).left


async def test_the_time_in_which_a_person_is_waited_for_is_no_time_of_any_budget(tmp_path: Path) -> None:
    async with asked(tmp_path, Step("a", "Pay one"), budget=Budget(seconds=3600)) as (place, task):
        a = make_uri(task, "plan.Task", "a")
        [pause] = (await place.content(a))["pauses"]
        assert not pause.get("until")
        # As if it had been asked yesterday.
        await change(place, a, started_at=ago(hours=25), pauses=[{"since": ago(hours=24.5)}])
        await change(place, task, started_at=ago(hours=25))
        node = await place.engine.forest.load(task)
        await came(place, task, lambda content: node.task.started_at == content["started_at"])
        assert node.task.status == "supervising"
        await decide(place.store, task, "approve")
        assert (await wait(place.engine, task, 20)).status == "completed"
        [pause] = (await place.content(a))["pauses"]
        assert pause["until"] > pause["since"]
        [question] = (await place.all_of("plan.Approval")).values()
        assert Approval(**question).decided_by == "user:local"


async def test_a_client_and_what_runs_beside_a_question_have_the_time_too_in_which_a_person_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (Step("a", "Pay one"), Step("b", "By the client", assistant="client"))
    async with asked(tmp_path, *steps, budget=Budget(seconds=3600)) as (place, task):
        a, b = (make_uri(task, "plan.Task", id) for id in "ab")
        await came(place, b, lambda content: content["status"] == "waiting")
        await change(place, a, started_at=ago(hours=25), pauses=[{"since": ago(hours=24.5)}])
        await change(place, task, started_at=ago(hours=25))
        node = await place.engine.forest.load(task)
        await came(place, task, lambda content: node.task.started_at == content["started_at"])
        told = {id_of(one["uri"]): one for one in (await shown(place.store, node, 2))["tasks"]}
        assert told["b"]["until"] > written(datetime.now(UTC)) and not (await place.content(b)).get("until")
        await update(place.engine, b, output="done", has_output=True)
        await decide(place.store, task, "approve")
        assert (await wait(place.engine, task, 20)).status == "completed"

    looks = iter([(0.01, Failure("x", "")), (0.01, Failure("x", "")), (60.0, Failure("x", ""))])
    looked = anyio.Event()

    def time_left(*_: object) -> tuple[float, Failure]:
        found = next(looks, (0.0, Failure("timed_out", "it is over")))
        if found[0] == 60.0:
            looked.set()
        return found

    async def slow(ask: Ask) -> Completion:
        await looked.wait()
        return answer("done")

    monkeypatch.setattr(Working, "_time_left", time_left)
    async with working(tmp_path / "other", slow) as place:
        begun = await begin(place.engine, place.store, "Do", assistant="general")
        assert (await wait(place.engine, begun.task, 20)).status == "completed"
        begun = await begin(place.engine, place.store, "Do", assistant="general")
        done = await wait(place.engine, begun.task, 20)
        assert done.error == Failure("timed_out", "it is over")


@pytest.mark.parametrize("status", ["cancelled", "failed", "completed"])
async def test_a_question_of_a_task_that_is_over_cannot_be_answered(tmp_path: Path, status: str) -> None:
    async with asked(tmp_path, Step("a", "Pay one")) as (place, task):
        a = make_uri(task, "plan.Task", "a")
    # While nobody works, so that nobody closes what it asks.
    async with working(tmp_path, model, FunctionTools({"pay": pay})) as place:
        await change(place, a, status=status, waiting=None)
        [question] = await place.all_of("plan.Approval")
        for uri in (question, next(iter(await place.all_of("tool.Call")))):
            with pytest.raises(Conflict, match="not waited for"):
                await decide(place.store, URI(uri), "approve")


async def test_what_has_no_time_left_says_that_it_is_a_budget_that_is_over(tmp_path: Path) -> None:
    async with working(tmp_path, model, FunctionTools({"pay": pay})) as place:
        begun = await begin(place.engine, place.store, "Pay one", assistant="general", budget=Budget(seconds=60))
        await wait(place.engine, begun.task, 20)
        await change(place, begun.task, started_at=ago(hours=2))
        await decide(place.store, begun.task, "approve")
        done = await wait(place.engine, begun.task, 20)
        assert done.error is not None and done.error.code == "budget_exceeded" and begun.task in done.error.message
