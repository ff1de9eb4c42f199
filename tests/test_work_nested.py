"""Calls that tools make themselves, and that a person has to agree to: asked about, made once, and never repeated."""

import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from table_policy import TablePolicy
from tool_world import everything, world
from work_world import Place, answer, brought, is_judging, judged, working

from cld.errors import Conflict, LeaseLost
from cld.journal import Journal, KeptCall
from cld.models import Ask, Completion
from cld.policy import Action, Context, Decision
from cld.principal import Principal
from cld.types import Call, Step, Wish
from cld.uri import URI
from cld.work.requests import begin, decide, wait

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="tools run in POSIX processes"),
]

TOOLS = """
def note(what: str) -> None:
    with open(LOG, "a") as file:
        file.write(what + " ")

@tool
def look(at: str) -> str:
    "Look."
    note("look")
    return "saw " + at

@tool
def pay(sum: int) -> str:
    "Pay."
    note(f"pay{sum}")
    return f"paid {sum}"

@tool
def settle(sums: list[int], context: ToolContext) -> list[str]:
    "Pay each, after a look."
    note("settle")
    return [context.call("look", {"at": "bill"}), *(context.call("pay", {"sum": sum}) for sum in sums)]

@tool
def flood(times: int, context: ToolContext) -> str:
    "Have much said, then pay."
    for _ in range(times):
        context.call("say", {})
    try:
        return context.call("pay", {"sum": 1})
    except ToolError as error:
        return f"{error.code}: {error}"

@tool
def say() -> str:
    "Say much."
    return "much" * 10_000

@tool
def month(context: ToolContext) -> list[str]:
    "Settle twice."
    note("month")
    first = context.call("settle", {"sums": [1]})
    return [*first, *context.call("settle", {"sums": [1, 2]}), context.call("pay", {"sum": 1})]
"""


class Dear(TablePolicy):
    """Calling `pay` needs a person."""

    def decide(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Decision:
        decision = super().decide(principal, action, uri, context, meta)
        return replace(decision, obligations={"require_approval": {"reason": "dear"}}) if "pay" in uri else decision


@asynccontextmanager
async def asked_to(
    folder: Path, tool: str, arguments: dict[str, Any], **work: Any
) -> AsyncGenerator[tuple[Place, URI]]:
    """A task that calls the tool and answers with what came of it, as it is at rest."""

    def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask)
        return answer(brought(ask)) if ask.messages[-1].role == "tool" else answer("", Wish("k", tool, arguments))

    files = {"tools.py": TOOLS.replace("LOG", repr(str(folder / "log")))}
    async with (
        world(folder, files, policy=Dear(everything)) as tools,
        working(folder, model, tools.calling, **work) as place,
    ):
        begun = await begin(place.engine, place.store, "", (Step("a", "Do it"),))
        await wait(place.engine, begun.task, 20)
        yield place, begun.task


async def open_question(place: Place) -> dict[str, Any] | None:
    approvals = (await place.all_of("plan.Approval")).values()
    return next((one for one in approvals if one.get("decision") is None), None)


async def test_a_call_within_a_call_waits_for_a_person_and_what_was_over_is_not_made_again(tmp_path: Path) -> None:
    async with asked_to(tmp_path, "settle", {"sums": [1, 1]}) as (place, task):
        for _ in range(2):  # the same once more is a question of its own
            asked = await open_question(place)
            assert asked is not None and (asked["tool"], asked["within"], asked["arguments"]) == (
                "pay",
                "settle",
                {"sum": 1},
            )
            assert asked["reason"].startswith("dear; settle calls it")
            await decide(place.store, task, "approve")
            await wait(place.engine, task, 20)
        [call] = (await place.all_of("tool.Call")).values()
        assert (call["state"], call["result"]) == ("finished", ["saw bill", "paid 1", "paid 1"])
        assert [made.get("approved_by") for made in call["made"]] == [None, "user:local"]
        assert [grant["by"] for grant in call["granted"]] == ["user:local"]
        assert (tmp_path / "log").read_text().split() == ["settle", "look", "settle", "pay1", "settle", "pay1"]


async def test_calls_within_calls_within_calls_are_asked_about_one_by_one(tmp_path: Path) -> None:
    async with asked_to(tmp_path, "month", {}) as (place, task):
        questions = 0
        while (asked := await open_question(place)) is not None:
            assert (asked["tool"], asked["within"]) == ("pay", "month")
            questions += 1
            await decide(place.store, task, "approve")
            await wait(place.engine, task, 20)
        [call] = (await place.all_of("tool.Call")).values()
        assert call["state"] == "finished" and call["result"] == [
            *("saw bill", "paid 1"),
            *("saw bill", "paid 1", "paid 2"),
            "paid 1",
        ]
        log = (tmp_path / "log").read_text().split()
        assert questions == 4 and [what for what in log if what.startswith("pay")] == ["pay1", "pay1", "pay2", "pay1"]
        assert log.count("look") == 2


@pytest.mark.parametrize(("decision", "edited"), [("edit", {"sum": 7}), ("reject", None)])
async def test_an_answer_may_change_the_arguments_or_be_no(tmp_path: Path, decision: Any, edited: Any) -> None:
    async with asked_to(tmp_path, "settle", {"sums": [1]}) as (place, task):
        await decide(place.store, task, decision, edited)
        done = await wait(place.engine, task, 20)
        assert done.status == "completed"
        [call] = (await place.all_of("tool.Call")).values()
        log = (tmp_path / "log").read_text().split()
        if decision == "edit":
            assert json.dumps(call["result"]) == '["saw bill", "paid 7"]' and log[-1] == "pay7"
        else:
            assert (call["state"], call["error"]["code"]) == ("failed", "rejected") and log == ["settle", "look"]


async def test_the_arguments_that_a_person_gave_instead_are_kept_with_what_came_of_them(tmp_path: Path) -> None:
    async with asked_to(tmp_path, "settle", {"sums": [1, 2]}) as (place, task):
        await decide(place.store, task, "edit", {"sum": 7})
        await wait(place.engine, task, 20)
        [call] = (await place.all_of("tool.Call")).values()
        paid = {
            "tool": "pay",
            "arguments": {"sum": 1},
            "edited": {"sum": 7},
            "text": "paid 7",
            "approved_by": "user:local",
        }
        assert call["state"] == "waiting" and call["made"][1].items() >= paid.items()
        await decide(place.store, task, "approve")
        assert (await wait(place.engine, task, 20)).status == "completed"
        assert (tmp_path / "log").read_text().split() == ["settle", "look", "settle", "pay7", "settle", "pay2"]


async def test_each_question_has_its_own_name_and_an_answer_is_to_the_one_that_was_seen(tmp_path: Path) -> None:
    async with asked_to(tmp_path, "settle", {"sums": [1, 1000]}) as (place, task):
        [first] = await place.all_of("plan.Approval")
        await decide(place.store, first, "approve")
        await wait(place.engine, task, 20)
        with pytest.raises(Conflict, match="answered before"):
            await decide(place.store, first, "approve")  # by whoever saw it too, and was slower
        assert "pay1000" not in (tmp_path / "log").read_text()
        [second] = set(await place.all_of("plan.Approval")) - {first}
        assert (await place.content(second))["arguments"] == {"sum": 1000}
        [call] = await place.all_of("tool.Call")
        assert (await decide(place.store, call, "reject"))[0] == second


async def test_what_was_over_stays_so_when_the_process_dies_while_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Journal.change

    async def dies(journal: Journal, kept: KeptCall, call: Call) -> KeptCall:
        if call.state == "waiting":
            monkeypatch.setattr(Journal, "change", change)
            raise LeaseLost("as if the process had died here")
        return await change(journal, kept, call)

    monkeypatch.setattr(Journal, "change", dies)
    async with asked_to(tmp_path, "settle", {"sums": [1]}, lease_seconds=0.5) as (place, task):
        with anyio.fail_after(20):
            while (asked := await open_question(place)) is None or asked["tool"] != "settle":
                await anyio.sleep(0.05)
        assert "had begun when its process ended" in asked["reason"]
        await wait(place.engine, task, 20)
        await decide(place.store, task, "approve")  # there is one question, for the other is withdrawn
        await wait(place.engine, task, 20)
        await decide(place.store, task, "approve")
        assert (await wait(place.engine, task, 20)).status == "completed"
        assert (tmp_path / "log").read_text().split() == ["settle", "look", "settle", "settle", "pay1"]


async def test_a_tool_that_has_called_too_much_to_begin_again_is_told_so(tmp_path: Path) -> None:
    async with asked_to(tmp_path, "flood", {"times": 6}) as (place, task):
        assert await open_question(place) is None
        assert (await wait(place.engine, task, 20)).status == "completed"
        [call] = (await place.all_of("tool.Call")).values()
        assert call["text"].startswith("approval_required: ") and "make this call before them" in call["text"]
