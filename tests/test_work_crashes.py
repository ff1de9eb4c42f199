"""Processes that work and die: killed, or stopped in order; the others go on, and nothing is done twice."""

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from crash_world import crash, processes
from test_work_cancel import canceller, pids, until
from tool_world import is_running
from work_world import FunctionTools, answer, is_judging, judged, working

from cld.errors import StoreError
from cld.models import Ask, Completion
from cld.resource import Draft, Meta
from cld.types import Annotations, Budget, Step, Wish
from cld.uri import make_uri, parse_uri
from cld.work.requests import begin, decide, wait

pytestmark = pytest.mark.anyio

LONG = 30.0


@pytest.mark.timeout(300)
async def test_processes_are_killed_at_random_and_every_tree_is_done_with_nothing_done_twice(tmp_path: Path) -> None:
    report = await crash(tmp_path, int(os.environ.get("CLD_KILLS", "30")), 1)
    assert report.faults == []
    assert report.takeovers > 0 and report.repeated > 0, report


async def test_a_process_that_is_stopped_leaves_no_lease_and_no_tool_and_another_goes_on_at_once(
    tmp_path: Path,
) -> None:
    # With leases so long that nothing can be taken over because one has ended.
    async with processes(tmp_path) as made, canceller(tmp_path, 600.0) as place:
        first = await made.fork(1, lease_seconds=600.0, slow=True)
        await made.until(lambda: len(made.works) == 1)
        begun = await begin(place.engine, place.store, "", (Step("a", "Use slow"), Step("b", "Use slow")))
        await until(lambda: len(pids(tmp_path)) >= 6)
        mine = pids(tmp_path)
        second = await made.fork(2, lease_seconds=600.0, slow=True)
        await made.until(lambda: len(made.works) == 2)
        os.kill(first, signal.SIGTERM)
        await until(lambda: len(pids(tmp_path)) >= 12)
        await made.until(lambda: first in made.ended)
        assert [pid for pid in mine if is_running(pid)] == []
        for uri, content in (await place.all_of("plan.Task", begun.task)).items():
            assert content["lease"]["holder"].startswith(f"{second}-"), uri
            assert (content["attempts"], content["fence"]) == (1, 2)  # given back, and not taken from a dead one
        await made.end()
        assert not any(content.get("lease") for content in (await place.all_of("plan.Task")).values())
        assert [pid for pid in pids(tmp_path) if is_running(pid)] == []


async def test_a_task_that_ends_every_process_that_works_it_is_given_up(tmp_path: Path) -> None:
    at = "2026-01-01T00:00:00.000000Z"
    lease = {"holder": "dead", "fence": 10, "expires_at": at}
    task = {"status": "running", "assistant": "general", "attempts": 10, "fence": 10, "lease": lease, "started_at": at}
    async with working(tmp_path, lambda _: answer("done")) as place:
        uri = parse_uri("cld:plan.Task.t")
        await place.store.put(Draft(uri, task, Meta(purpose="Do it")))
        done = await wait(place.engine, uri, LONG)
        assert done.status == "failed" and done.error is not None and done.error.code == "abandoned"
        assert "10 processes" in done.error.message and done.lease is None


def calling(tool: str) -> Any:
    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        return answer(ask.messages[-1].text) if ask.messages[-1].role == "tool" else answer("", Wish("k", tool, {}))

    return model


class Hanging:
    """A tool that hangs until it is let go."""

    def __init__(self, **annotations: bool) -> None:
        self.hangs = True
        self.tools = FunctionTools({"do": lambda arguments, caller: self._do()}, {"do": Annotations(**annotations)})

    async def _do(self) -> str:
        if self.hangs:
            await anyio.sleep_forever()
        return "done"


async def test_a_call_that_may_be_repeated_is_made_again_where_its_process_was_stopped(tmp_path: Path) -> None:
    hanging = Hanging(idempotent=True)
    async with working(tmp_path, calling("do"), hanging.tools) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"),))
        await until(lambda: hanging.tools.called)
    hanging.hangs = False
    async with working(tmp_path, calling("do"), hanging.tools) as place:
        await place.engine.resume()
        task = await wait(place.engine, begun.task, LONG)
        assert task.status == "completed", task.error
        [call] = (await place.all_of("tool.Call")).values()
        assert (call["state"], call["attempts"], len(hanging.tools.called)) == ("finished", 2, 2)


async def test_a_call_is_made_again_only_within_the_budget(tmp_path: Path) -> None:
    hanging = Hanging(idempotent=True)
    async with working(tmp_path, calling("do"), hanging.tools) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"),), budget=Budget(calls=1))
        await until(lambda: hanging.tools.called)
    async with working(tmp_path, calling("do"), hanging.tools) as place:
        await place.engine.resume()
        uri = make_uri(begun.task, "plan.Task", "a")
        task = await wait(place.engine, uri, LONG)
        assert task.error is not None and task.error.code == "budget_exceeded" and len(hanging.tools.called) == 1
        assert {call["state"] for call in (await place.all_of("tool.Call")).values()} == {"cancelled"}


async def test_an_answer_is_for_one_time_that_a_call_is_made(tmp_path: Path) -> None:
    hanging = Hanging()
    async with working(tmp_path, calling("do"), hanging.tools) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"),))
        await until(lambda: hanging.tools.called)
    for made in (1, 2):
        async with working(tmp_path, calling("do"), hanging.tools) as place:
            await place.engine.resume()
            assert (await wait(place.engine, begun.task, LONG)).status == "supervising"
            assert len(hanging.tools.called) == made
            hanging.hangs = made < 2
            await decide(place.store, begun.task, "approve")
            await until(lambda made=made: len(hanging.tools.called) == made + 1)
            if made == 2:
                assert (await wait(place.engine, begun.task, LONG)).status == "completed"


async def test_thousands_of_finished_trees_cost_a_start_little_and_no_memory(tmp_path: Path) -> None:
    async with working(tmp_path, lambda ask: answer("done")) as place:
        over = {"status": "completed", "output": "done", "direct": True}

        async def tree(number: int) -> None:
            root = parse_uri(f"cld:common.Conversation.c/common.Message.m{number}/plan.Task.t")
            await place.store.put(Draft(root, over))
            await place.store.put(Draft(make_uri(root, "plan.Task", "a"), over))

        async with anyio.create_task_group() as group:
            for number in range(2000):
                group.start_soon(tree, number)
        last = parse_uri("cld:common.Conversation.c/common.Message.last/plan.Task.t")
        began = time.process_time()
        assert await place.engine.resume() == 0
        spent = time.process_time() - began
        assert len(place.engine.forest._nodes) == 0
        # Against what it takes to look at as many files at all.
        began = time.process_time()
        for number in range(2000):
            await place.store.get(parse_uri(f"cld:common.Conversation.c/common.Message.m{number}/plan.Task.t"))
        assert spent < 5 * (time.process_time() - began)
        await place.store.put(Draft(last, {"direct": True}))
        assert (await wait(place.engine, last, LONG)).status == "completed"


async def test_what_cannot_be_claimed_is_not_tried_over_and_over_and_is_worked_once_it_can(tmp_path: Path) -> None:
    tried: list[float] = []

    async with working(tmp_path, lambda ask: answer("done"), lease_seconds=0.5) as place:
        elect = place.engine.assistants.elect

        async def failing(store: Any, node: Any) -> Any:
            tried.append(time.monotonic())
            if len(tried) < 4:
                raise StoreError("the disk is full")
            return await elect(store, node)

        place.engine.assistants.elect = failing  # type: ignore[method-assign]
        uri = parse_uri("cld:common.Conversation.c/plan.Task.t")
        await place.store.put(Draft(uri, {"direct": True}))
        assert (await wait(place.engine, uri, LONG)).status == "completed"
        assert all(after - before >= 0.4 for before, after in pairwise(tried))
