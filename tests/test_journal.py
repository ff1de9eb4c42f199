"""The journal of a task: entries are made once, and who finds one that it did not write has lost the task."""

from pathlib import Path

import pytest
from work_world import FunctionTools, answer, working

from cld.errors import LeaseLost
from cld.journal import Journal, call_id
from cld.models import Ask, Completion
from cld.resource import Draft
from cld.types import Annotations, Call, Turn, Wish
from cld.uri import parse_uri
from cld.work.requests import wait

pytestmark = pytest.mark.anyio

TASK = parse_uri("cld:common.Conversation.c/common.Message.m/plan.Task.t")


async def test_what_another_process_has_written_ends_ones_work(tmp_path: Path) -> None:
    async with working(tmp_path, lambda _: answer("x")) as place:
        mine, theirs = Journal(place.engine.keeper, TASK), Journal(place.engine.keeper, TASK)
        call = Call("look", {}, state="started", attempts=1)
        await theirs.add_turn(Turn(0, wishes=(Wish("k", "look"),)))
        kept = await theirs.start(call_id(0, 0), call)
        with pytest.raises(LeaseLost):
            await mine.add_turn(Turn(0))
        with pytest.raises(LeaseLost):
            await mine.start(call_id(0, 0), call)
        await theirs.finish(kept, text="seen", error=None)
        with pytest.raises(LeaseLost):
            await mine.finish(kept, text="seen otherwise", error=None)
        assert [turn.wishes[0].tool for turn in await mine.turns()] == ["look"]
        assert (await mine.calls())[call_id(0, 0)].call.text == "seen"


async def test_turns_are_in_their_order_however_many(tmp_path: Path) -> None:
    async with working(tmp_path, lambda _: answer("x")) as place:
        journal = Journal(place.engine.keeper, TASK)
        for step in (11, 2, 0):
            await journal.add_turn(Turn(step))
        assert [turn.step for turn in await journal.turns()] == [0, 2, 11]


async def test_what_lies_in_the_journal_of_a_new_task_is_found_before_anything_is_called(tmp_path: Path) -> None:
    """A task that nobody worked has no journal, so none is read; should there be one, its entries cannot be made."""
    tools = FunctionTools({"look": lambda *_: "seen"}, {"look": Annotations(read_only=True)})

    def model(ask: Ask) -> Completion:
        told = [message for message in ask.messages if message.role == "tool"]
        return answer(f"it was {told[0].text}") if told else answer("", Wish("k", "look"))

    async with working(tmp_path, model, tools, lease_seconds=0.5) as place:
        keeper, task = place.engine.keeper, TASK
        journal = Journal(keeper, task)
        await journal.add_turn(Turn(0, wishes=(Wish("k", "look"),)))
        kept = await journal.start(call_id(0, 0), Call("look", {}, step=0, key="k", state="started", attempts=1))
        await journal.finish(kept, text="seen before", error=None)
        await keeper.put(Draft(task, {"status": "pending", "direct": True}))
        await place.engine.forest.load(task)
        done = await wait(place.engine, task, 20)
        assert (done.status, done.fence) == ("completed", 2)
        assert "seen before" in done.output
        assert not tools.called, "what was finished is not called again"
