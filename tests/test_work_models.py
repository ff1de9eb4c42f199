"""Models that fail, wander or disobey: each task ends in a clear state with a reason, within what it may cost."""

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from openai_server import Call, OpenAI, Reply, Request
from optional import needs_litellm
from rights_world import Governed, governed
from work_world import FunctionTools, answer, brought, is_judging, judged, working

from cld.config import Models, Tier
from cld.models import Ask, Completion
from cld.models.router import Router
from cld.types import Annotations, Budget, Step, Task, Usage, Wish
from cld.work.requests import begin, wait

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
LOOKS = Annotations(read_only=True, destructive=False)


@pytest.fixture
def server() -> Iterator[OpenAI]:
    needs_litellm()
    with OpenAI() as server:
        yield server
        server.release()


@contextlib.asynccontextmanager
async def routed(folder: Path, server: OpenAI, *names: str, cache: int = 0, **more: Any) -> AsyncGenerator[Governed]:
    """An engine whose model is the real router, and whose tiers, one or those named, are the scripted server."""
    work = {name: more.pop(name) for name in ("time_limit", "iterations") if name in more}
    settings: dict[str, Any] = {"api_base": server.url, "price_in": 1.0, "price_out": 1.0, **more}
    chain = tuple(Tier(name, f"openai/{name}", **settings) for name in names or "a")
    router = Router(Models(chain=chain, cache=cache))
    try:
        async with governed(folder, router, **work) as place:
            yield place
    finally:
        await router.aclose()


async def worked(place: Governed, message: str = "What is it?", **asked: Any) -> Task:
    begun = await begin(place.engine, place.store, message, assistant="general", **asked)
    with anyio.fail_after(40):
        return await wait(place.engine, begun.task, 30)


def failed(task: Task, code: str, *words: str) -> None:
    assert task.status == "failed" and task.error is not None, task
    assert task.error.code == code, task.error
    for word in words:
        assert word in task.error.message, task.error
    assert task.lease is None


async def test_a_model_that_does_not_answer_in_time_ends_its_task_with_the_reason(
    server: OpenAI, tmp_path: Path
) -> None:
    server.otherwise = lambda _: Reply(hold=True)
    async with routed(tmp_path, server, timeout=0.2) as place:
        failed(await worked(place), "model_failed", "time")


async def test_a_task_ends_at_its_time_limit_and_leaves_no_request_open(server: OpenAI, tmp_path: Path) -> None:
    server.otherwise = lambda _: Reply(hold=True)
    async with routed(tmp_path, server, timeout=60.0, time_limit=0.5) as place:
        failed(await worked(place), "timed_out", "0.5 seconds", "time_limit")
    await server.came_to(lambda: all(request.left for request in server.requests))


async def test_a_model_that_refuses_ends_its_task_with_the_reason(server: OpenAI, tmp_path: Path) -> None:
    server.otherwise = lambda _: Reply(refusal="I will not.")
    async with routed(tmp_path, server) as place:
        failed(await worked(place), "model_failed", "refus")


async def test_json_that_is_broken_or_does_not_fit_is_asked_for_again_and_then_given_up(
    server: OpenAI, tmp_path: Path
) -> None:
    async with routed(tmp_path, server) as place:
        server.say(Reply('{"n": '), Reply('{"n": 1}'))
        task = await worked(place, response_format=SCHEMA)
        assert (task.status, task.output) == ("completed", {"n": 1})
        server.otherwise = lambda _: Reply('{"n": "one"}')
        failed(await worked(place, response_format=SCHEMA), "model_failed")
        before = len(server.requests)
        assert before < 20


async def test_a_message_whose_plan_is_never_of_the_schema_is_worked_as_it_is(server: OpenAI, tmp_path: Path) -> None:
    server.otherwise = lambda request: Reply('{"plan": "none"}' if '"direct"' in json.dumps(request.body) else "done")
    async with routed(tmp_path, server, price_in=0.0, price_out=0.0) as place:
        begun = await begin(place.engine, place.store, "What is it?", budget=Budget(tokens=1_000_000))
        task = await wait(place.engine, begun.task, 30)
    assert (task.status, task.output) == ("completed", "done"), task.error


async def test_the_same_question_in_another_conversation_is_asked_once(server: OpenAI, tmp_path: Path) -> None:
    server.otherwise = lambda _: Reply("done")
    async with routed(tmp_path, server, cache=9) as place:
        for _ in range(3):
            assert (await worked(place)).output == "done"
            assert len(server.requests) == 1


async def test_calls_that_cannot_be_made_are_told_to_the_model_and_written_down(server: OpenAI, tmp_path: Path) -> None:
    server.say(
        Reply(calls=(Call("wipe_disk", "{}", "a"), Call("resource_get", '{"uri": ', "b"))),
        Reply(calls=(Call("resource_get", '{"url": "x"}', "c"), Call("resource_get", '{"uri": "cld:nothing"}', "d"))),
        Reply("I could not"),
    )
    async with routed(tmp_path, server) as place:
        task = await worked(place)
        assert (task.status, task.output) == ("completed", "I could not")
        calls = {call["key"]: call["error"] for call in (await place.all_of("tool.Call")).values()}
        assert set(calls) == {"a", "b", "c", "d"}
        # A tool that was not offered is caught by the router, before there is a call.
        assert "wipe_disk" in calls["a"]["message"] and "cannot be read" in calls["b"]["message"]
        assert calls["c"]["code"] == "invalid_argument" and calls["d"]["code"] == "invalid_uri"
        told = [
            text for text in server.requests[-1].texts if "\nerror invalid_" in text or "\nerror unknown_tool" in text
        ]
        assert len(told) == 4


async def test_a_model_that_calls_for_ever_ends_at_the_bound_of_turns(server: OpenAI, tmp_path: Path) -> None:
    server.otherwise = lambda request: Reply(calls=(Call("resource_list", "{}", f"k{len(request.body['messages'])}"),))
    async with routed(tmp_path, server, iterations=4) as place:
        failed(await worked(place), "budget_exceeded", "4 turns", "work.iterations")
        assert len(server.requests) == 4
        assert len(await place.all_of("tool.Call")) == 4


async def test_a_budget_holds_to_the_token_over_a_whole_task(server: OpenAI, tmp_path: Path) -> None:
    """The server counts bytes, and what it counts is what was spent."""
    spent: list[int] = []

    def reply(request: Request) -> Reply:
        used = {"prompt_tokens": 400, "completion_tokens": 100, "total_tokens": 500}
        spent.append(500)
        return Reply(calls=(Call("resource_list", "{}", f"k{len(spent)}"),), usage=used)

    server.otherwise = reply
    async with routed(tmp_path, server, max_tokens=200) as place:
        task = await worked(place, budget=Budget(tokens=60_000))
        failed(task, "budget_exceeded")
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert ledger["spent"]["tokens"] == sum(spent) <= 60_000
        assert not ledger.get("held")
        assert task.usage.tokens == sum(spent)


async def test_what_is_set_aside_never_exceeds_the_budget_however_many_ask_at_once(tmp_path: Path) -> None:
    most = 0

    async def model(ask: Ask) -> Completion:
        nonlocal most
        for ledger in (await place.all_of("plan.Ledger")).values():
            parts = [ledger.get("spent", {}), *ledger.get("held", {}).values()]
            most = max(most, sum(part.get("tokens", 0) for part in parts))
        if is_judging(ask):
            return judged(ask)
        return answer("done", tokens=40)

    async with working(tmp_path, model, bound=Usage(tokens=50)) as place:
        steps = tuple(Step(f"s{number}", "Do") for number in range(8))
        begun = await begin(place.engine, place.store, "", steps, budget=Budget(tokens=220))
        task = await wait(place.engine, begun.task, 20)
        assert task.status in ("completed", "failed"), task
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert most <= 220 and ledger["spent"]["tokens"] <= 220 and not ledger.get("held")
        states = [content["status"] for content in (await place.all_of("plan.Task", begun.task)).values()]
        assert "failed" in states and "completed" in states


@pytest.mark.parametrize("reply", [Reply(hold=True), Reply(refusal="I will not."), Reply("x", drop_after=0)])
async def test_the_second_tier_answers_where_the_first_does_not_within_a_budget(
    server: OpenAI, tmp_path: Path, reply: Reply
) -> None:
    server.otherwise = lambda request: reply if request.model == "a" else Reply("from b")
    async with routed(tmp_path, server, "a", "b", timeout=0.3, max_tokens=300) as place:
        task = await worked(place, budget=Budget(tokens=50_000, money=0.5))
        assert (task.status, task.output) == ("completed", "from b"), task.error
        assert [request.model for request in server.requests] == ["a", "b"]
        assert {request.body["max_tokens"] for request in server.requests} == {300}
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert 0 < ledger["spent"]["tokens"] == task.usage.tokens <= 50_000
        assert not ledger.get("held") and not ledger.get("sunk")


async def test_json_that_does_not_fit_is_mended_within_a_budget(server: OpenAI, tmp_path: Path) -> None:
    server.say(Reply('{"n": "one"}'), Reply('{"n": 1}'))
    async with routed(tmp_path, server, max_tokens=300) as place:
        task = await worked(place, response_format=SCHEMA, budget=Budget(tokens=60_000))
        assert (task.status, task.output) == ("completed", {"n": 1}), task.error
        assert len(server.requests) == 2
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert ledger["spent"]["tokens"] == task.usage.tokens and not ledger.get("held")


async def test_steps_beside_one_another_wait_for_what_the_others_only_hold(tmp_path: Path) -> None:
    asked = 0
    full = anyio.Event()

    async def model(ask: Ask) -> Completion:
        nonlocal asked
        if is_judging(ask):
            return judged(ask)
        asked += 1
        if asked == 3:
            full.set()  # so much is held that there is not enough for a fourth
        await full.wait()
        return answer("done", tokens=5)

    async with working(tmp_path, model, bound=Usage(tokens=50)) as place:
        steps = tuple(Step(f"s{number}", "Do") for number in range(12))
        begun = await begin(place.engine, place.store, "", steps, budget=Budget(tokens=190))
        task = await wait(place.engine, begun.task, 20)
        assert task.status == "completed", task.error
        states = [content["status"] for content in (await place.all_of("plan.Task", begun.task)).values()]
        assert set(states) == {"completed"} and asked == 12
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert ledger["spent"]["tokens"] == 60 and not ledger.get("held")


async def test_a_task_that_waits_for_what_others_hold_ends_at_its_time_limit(tmp_path: Path) -> None:
    async def model(ask: Ask) -> Completion:
        if is_judging(ask):
            return judged(ask, enough=False)
        await anyio.sleep_forever()
        raise AssertionError

    async with working(tmp_path, model, bound=Usage(tokens=50), time_limit=0.5) as place:
        begun = await begin(place.engine, place.store, "", (Step("a", "Do"), Step("b", "Do")), budget=Budget(tokens=90))
        assert (await wait(place.engine, begun.task, 20)).status == "failed"
        errors = [content.get("error") for content in (await place.all_of("plan.Task", begun.task)).values()]
        assert [error["code"] for error in errors if error].count("timed_out") >= 1
        [ledger] = (await place.all_of("plan.Ledger")).values()
        assert not ledger.get("held"), "what a request was stopped in the middle of is counted as spent"


async def test_what_policy_forbids_is_denied_told_and_written_down(server: OpenAI, tmp_path: Path) -> None:
    arguments = json.dumps({"uri": "cld:common.Text.keep"})
    server.say(Reply(calls=(Call("resource_delete", arguments, "k"),)), Reply("I may not delete it"))
    async with routed(tmp_path, server) as place:
        await place.write("cld:common.Text.keep", {"text": "keep"}, "user:local")
        task = await worked(place, "Delete cld:common.Text.keep")
        assert (task.status, task.output) == ("completed", "I may not delete it")
        [call] = (await place.all_of("tool.Call")).values()
        assert (call["state"], call["error"]["code"]) == ("failed", "access_denied")
        assert "assistants do not delete; ask the person to do it" in server.requests[-1].texts[-1]


# The form of the answer


async def test_a_form_in_words_is_checked_and_asked_for_again(tmp_path: Path) -> None:
    told: list[str] = []

    def model(ask: Ask) -> Completion:
        if ask.schema is not None and "fits" in ask.schema["properties"]:
            fits = "海" in ask.messages[-1].text
            return Completion("", value={"fits": fits, "reason": "it is English"}, usage=Usage(tokens=3))
        told.append(ask.messages[-1].text)
        return answer("海は青い。空も青い。" if len(told) > 1 else "The sea is blue", tokens=10)

    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "Say it", assistant="general", response_format="in Japanese")
        task = await wait(place.engine, begun.task, 10)
        assert (task.status, task.output) == ("completed", "海は青い。空も青い。")
        assert "Your answer does not fit" in told[1] and "in Japanese" in told[1]
        assert task.usage.tokens >= 20


async def test_an_answer_that_never_has_the_form_fails_with_what_is_wrong(tmp_path: Path) -> None:
    async with working(tmp_path, lambda ask: answer("The sea is blue")) as place:
        begun = await begin(place.engine, place.store, "Say it", assistant="general", response_format="in Japanese")
        task = await wait(place.engine, begun.task, 10)
        failed(task, "model_failed", "in Japanese")
        assert len(place.model.asked) == 4


@pytest.mark.parametrize(("text", "why"), [("", "it is empty"), ("   ", "it is empty")])
async def test_an_answer_that_is_empty_is_none(tmp_path: Path, text: str, why: str) -> None:
    async with working(tmp_path, lambda ask: answer(text)) as place:
        begun = await begin(place.engine, place.store, "Say it", assistant="general")
        failed(await wait(place.engine, begun.task, 10), "model_failed", why)


async def test_an_answer_that_was_cut_off_is_none(tmp_path: Path) -> None:
    answers = iter((Completion("It begins with", finish="length"), answer("Short")))
    async with working(tmp_path, lambda ask: next(answers)) as place:
        begun = await begin(place.engine, place.store, "Say it", assistant="general")
        task = await wait(place.engine, begun.task, 10)
        assert (task.status, task.output) == ("completed", "Short")


async def test_a_model_that_fails_in_an_unexpected_way_ends_its_task_only(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        raise RuntimeError("the model is on fire")

    async with working(tmp_path, model) as place:
        begun = await begin(place.engine, place.store, "Say it", assistant="general")
        failed(await wait(place.engine, begun.task, 10), "internal", "on fire")


async def test_of_very_many_calls_at_once_so_many_are_made_and_the_model_is_told(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if ask.messages[-1].role == "tool":
            return answer(brought(ask))
        return answer("", *(Wish(f"k{number}", "look", {}) for number in range(100)))

    tools = FunctionTools({"look": lambda arguments, caller: "seen"}, {"look": LOOKS})
    async with working(tmp_path, model, tools) as place:
        begun = await begin(place.engine, place.store, "Look", assistant="general")
        task = await wait(place.engine, begun.task, 20)
        assert task.status == "completed" and "too many calls" in task.output
        assert len(tools.called) == 32 and task.usage.calls == 32
