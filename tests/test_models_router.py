"""The router, through the real litellm, against a server with scripted replies and faults."""

import asyncio
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from openai_server import BROKEN, RATE_LIMITED, TOO_LONG, Call, OpenAI, Reply
from optional import needs_litellm

from cld.config import Models, Tier
from cld.errors import BudgetExceeded, ConfigError, InvalidResource, ModelFailed
from cld.models import Ask, Message, ToolOffer, Wish, litellm, tokens
from cld.models.library import load
from cld.models.router import Router
from cld.types import Usage

needs_litellm()
pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SEARCH = ToolOffer("search", "Looks for texts.", {"type": "object", "properties": {"query": {"type": "string"}}})
HI = Ask((Message("user", "hi"),))
REFUSED = "I'm sorry, but I can't help with that."


@pytest.fixture
def server() -> Iterator[OpenAI]:
    with OpenAI() as server:
        yield server
        server.release()


def tier(server: OpenAI, name: str = "a", **more: Any) -> Tier:
    return Tier(name, f"openai/{name}", **{"api_base": server.url, **more})


@asynccontextmanager
async def routing(*tiers: Tier, **more: Any) -> Any:
    router = Router(Models(chain=tiers, **more))
    try:
        with anyio.fail_after(60):
            yield router
    finally:
        await router.aclose()


async def test_an_answer_comes_with_what_it_cost_and_who_gave_it(server: OpenAI) -> None:
    server.say(Reply("hello"))
    async with routing(tier(server, price_in=1.0, price_out=10.0)) as router:
        answer = await router.complete(HI)
    usage = {"prompt_tokens": 3 + len("rolecontentuserhi"), "completion_tokens": 5}
    assert (answer.text, answer.model, answer.finish, answer.value) == ("hello", "openai/a", "stop", None)
    assert answer.usage.tokens == sum(usage.values()) and answer.usage.requests == 1
    assert answer.usage.money == pytest.approx((usage["prompt_tokens"] + 10 * 5) / 1e6)
    (counters,) = router.counters
    assert (counters.tries, counters.answers, counters.failures) == (1, 1, {})
    assert (counters.tokens, counters.money) == (answer.usage.tokens, answer.usage.money)
    assert 0 < counters.slowest == counters.seconds


async def test_a_whole_dialogue_with_calls_is_sent_as_it_was(server: OpenAI) -> None:
    messages = (
        Message("system", "be brief"),
        Message("user", "find it"),
        Message("assistant", "", (Wish("k1", "search", {"query": "it"}),)),
        Message("tool", "found: it", answers="k1"),
    )
    async with routing(tier(server)) as router:
        await router.complete(Ask(messages, tools=(SEARCH,), max_tokens=77))
    sent = server.requests[0].body
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool"]
    (call,) = sent["messages"][2]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("k1", "search")
    assert msgspec.json.decode(call["function"]["arguments"]) == {"query": "it"}
    assert sent["messages"][3]["tool_call_id"] == "k1" and sent["max_tokens"] == 77
    assert sent["tools"][0]["function"] == {
        "name": "search",
        "description": SEARCH.description,
        "parameters": dict(SEARCH.parameters),
    }


FAULTS = [
    (BROKEN, "error"),
    (RATE_LIMITED, "rate_limited"),
    (TOO_LONG, "context"),
    (Reply(status=401, error={"message": "who are you"}), "settings"),
    (Reply(status=404, error={"message": "no such model"}), "settings"),
    (Reply("half of it is", drop_after=2), "dropped"),
    (Reply("", finish="stop"), "empty"),
    (Reply("", finish="length"), "cut_off"),
    (Reply(refusal="I will not."), "refused"),
    (Reply("half", finish="content_filter"), "refused"),
    (Reply(REFUSED), "refused"),
]
NO_ANSWERS = [(Reply(raw="{nope"), "error"), (Reply(raw="{}"), "error")]


@pytest.mark.parametrize(
    ("fault", "kind", "streams"),
    [
        *((*fault, False) for fault in [*FAULTS, *NO_ANSWERS]),
        # litellm does not hand on a refusal that is streamed: an answer without a word is left.
        *((fault, "empty" if fault.refusal else kind, True) for fault, kind in FAULTS),
    ],
)
async def test_every_fault_has_a_name_and_the_next_tier_answers(
    server: OpenAI, fault: Reply, kind: str, streams: bool
) -> None:
    server.say(fault, model="a")
    said: list[str] = []
    async with routing(tier(server, "a"), tier(server, "b")) as router:
        answer = await router.complete(HI, said.append if streams else None)
        bound = await router.bound(HI)
    first, second = router.counters
    assert (answer.model, answer.text) == ("openai/b", "You said: hi")
    assert first.failures == {kind: 1} and second.answers == 1
    assert answer.usage.requests == 2 and answer.usage.tokens == first.tokens + second.tokens
    if kind == "dropped" or fault.raw is not None:
        assert first.tokens == bound.tokens, "what it cost is not known: the most it can be"
    elif fault.status != 200:
        assert first.tokens == 0
    else:
        assert 0 < first.tokens < bound.tokens
    if streams:
        kept = said[len(said) - said[::-1].index("") :] if "" in said else said
        assert "".join(kept) == answer.text


async def test_when_nobody_answers_each_reason_is_said_and_what_was_spent(server: OpenAI) -> None:
    server.say(BROKEN, model="a")
    server.say(Reply(REFUSED), model="b")
    async with routing(tier(server, "a"), tier(server, "b"), Tier("c", "openai/c", "http://127.0.0.1:9/v1")) as router:
        with pytest.raises(ModelFailed) as failed:
            await router.complete(HI)
    reasons = failed.value.reasons
    assert [reason.split(":")[0] for reason in reasons] == ["a (openai/a)", "b (openai/b)", "c (openai/c)"]
    assert "on fire" in reasons[0] and "can't help" in reasons[1] and "unreachable" in reasons[2]
    assert failed.value.tokens == sum(counters.tokens for counters in router.counters) > 0


async def test_a_tier_that_does_not_answer_in_time_is_left_and_its_connection_closed(server: OpenAI) -> None:
    server.say(Reply(hold=True), model="a")
    async with routing(tier(server, "a", timeout=0.3), tier(server, "b")) as router:
        answer = await router.complete(HI)
        bound = await router.bound(HI)
        await server.came_to(lambda: server.requests[0].left)
    assert answer.model == "openai/b" and router.counters[0].failures == {"timed_out": 1}
    assert router.counters[0].tokens == bound.tokens


async def test_a_stream_that_stops_in_the_middle_is_void_and_said_to_be(server: OpenAI) -> None:
    server.say(Reply("one two three", hold_after=2), model="a")
    said: list[str] = []
    async with routing(tier(server, "a", timeout=1), tier(server, "b")) as router:
        answer = await router.complete(HI, said.append)
        await server.came_to(lambda: server.requests[0].left)
    assert "" in said and "".join(said[said.index("") :]) == answer.text == "You said: hi"


async def test_the_last_tier_is_waited_for_when_it_says_how_long(server: OpenAI) -> None:
    server.say(RATE_LIMITED)
    async with routing(tier(server)) as router:
        assert (await router.complete(HI)).text == "You said: hi"
        server.say(RATE_LIMITED, RATE_LIMITED)
        with pytest.raises(ModelFailed, match=r"rate_limited: .*too many"):
            await router.complete(HI)
    assert len(server.requests) == 4


async def test_a_tier_that_asked_to_be_left_alone_is_passed_over(server: OpenAI) -> None:
    server.say(msgspec.structs.replace(RATE_LIMITED, headers={"retry-after": "600"}), model="a")
    async with routing(tier(server, "a"), tier(server, "b")) as router:
        for _ in range(2):
            assert (await router.complete(HI)).model == "openai/b"
    assert [request.model for request in server.requests] == ["a", "b", "b"]
    assert router.counters[0].failures == {"rate_limited": 1, "resting": 1}


async def test_a_schema_is_told_and_checked_and_one_fault_forgiven(server: OpenAI) -> None:
    server.say(Reply('{"n": "one"}'), Reply('```json\n{"n": 1,}\n```'))
    async with routing(tier(server)) as router:
        answer = await router.complete(msgspec.structs.replace(HI, schema=SCHEMA))
    assert answer.value == {"n": 1} and answer.usage.requests == 2
    told, again = server.requests
    assert '"required":["n"]' in told.texts[0] and "response_format" not in told.body
    assert again.texts[-2] == '{"n": "one"}' and "n: 'one' is not of type 'integer'" in again.texts[-1]
    assert router.counters[0].repaired == 1
    assert answer.usage.tokens == router.counters[0].tokens


async def test_twice_a_misfit_is_a_failure_and_the_next_tier_begins_afresh(server: OpenAI) -> None:
    server.say(Reply("one"), Reply("two"), model="a")
    server.say(Reply('{"n": 2}'), model="b")
    async with routing(tier(server, "a"), tier(server, "b", schema="request")) as router:
        answer = await router.complete(msgspec.structs.replace(HI, schema=SCHEMA))
    assert answer.value == {"n": 2} and answer.model == "openai/b"
    assert router.counters[0].failures == {"schema": 2}
    last = server.requests[-1]
    assert last.texts == ["hi"], "what another model got wrong is not its business"
    assert last.body["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_json_that_is_cut_off_is_no_answer(server: OpenAI) -> None:
    server.say(Reply('{"n": 1234567890}'))
    async with routing(tier(server)) as router:
        with pytest.raises(ModelFailed, match="cut_off"):
            await router.complete(msgspec.structs.replace(HI, schema=SCHEMA, max_tokens=8))
        server.say(Reply("a long story"))
        assert (await router.complete(msgspec.structs.replace(HI, max_tokens=6))).finish == "length"
        with pytest.raises(InvalidResource):
            await router.complete(msgspec.structs.replace(HI, schema={"type": "nonsense"}))


@pytest.mark.parametrize("streams", [False, True])
async def test_wishes_come_with_arguments_or_with_what_is_wrong_with_them(server: OpenAI, streams: bool) -> None:
    calls = (
        Call("search", '{"query": "tides",}', "k1"),
        Call("search", "", "k2"),
        Call("search", '{"query": ', "k3"),
        Call("search", "[1]", "k3"),
        Call("delete_all", "{}", "k4"),
    )
    server.say(Reply("Let me look.", calls=calls))
    async with routing(tier(server)) as router:
        answer = await router.complete(
            msgspec.structs.replace(HI, tools=(SEARCH,)), (lambda piece: None) if streams else None
        )
    one, two, three, four, five = answer.wishes
    assert (answer.text, answer.finish) == ("Let me look.", "calls")
    assert one == Wish("k1", "search", {"query": "tides"}) and two == Wish("k2", "search")
    assert (three.key, three.arguments) == ("k3", {}) and "cut off" in three.problem
    assert four.key not in ("", "k3") and "no JSON object" in four.problem
    assert "no tool 'delete_all' on offer; those are: search" in five.problem


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("seen", ["said", "silent"])
async def test_a_budget_holds_to_the_token(server: OpenAI, streams: bool, seen: str) -> None:
    """The server counts bytes, the most any tokenizer can, writes as much as it may, and may not say how much."""
    server.otherwise = lambda request: Reply("x" * 5000, usage=None if seen == "said" else {}, pieces=1000)
    ask = msgspec.structs.replace(HI, tools=(SEARCH,), schema=SCHEMA, max_tokens=1000)
    plain = msgspec.structs.replace(ask, schema=None)
    async with routing(tier(server, price_in=2.0, price_out=8.0)) as router:
        bound = await router.bound(plain)
        for short in (0, 1, 500, 900, bound.tokens - 1):
            left = Usage(tokens=bound.tokens - short, money=bound.money)
            tell = (lambda piece: None) if streams else None
            try:
                usage = (await router.complete(plain, tell, left=left)).usage
            except BudgetExceeded as error:
                assert error.what == "tokens" and short > 900
                continue
            assert usage.tokens <= left.tokens and usage.money <= left.money
            if seen == "silent":
                assert usage.tokens == left.tokens, "what it cost is not known: the most it can be"
            assert server.requests[-1].body["max_tokens"] == 1000 - short
        left = Usage(tokens=bound.tokens, money=bound.money / 2)
        usage = (await router.complete(plain, left=left)).usage
        assert 0 < usage.money <= left.money
        with pytest.raises(BudgetExceeded) as nothing:
            await router.complete(plain, left=Usage(tokens=10**6, money=0.0))
        assert nothing.value.what == "money"
        asked = len(server.requests)
        with pytest.raises(BudgetExceeded):
            await router.complete(plain, left=Usage())
        assert len(server.requests) == asked, "nobody was asked"


async def test_failed_tries_and_repairs_share_one_budget(server: OpenAI) -> None:
    server.otherwise = lambda request: Reply("x" * 5000)
    ask = msgspec.structs.replace(HI, schema=SCHEMA, max_tokens=400)
    async with routing(tier(server, "a"), tier(server, "b"), tier(server, "c")) as router:
        left = Usage(tokens=int((await router.bound(ask)).tokens * 1.5), money=1.0)
        with pytest.raises(ModelFailed) as failed:
            await router.complete(ask, left=left)
    assert 0 < failed.value.tokens <= left.tokens
    assert any("budget: tokens" in reason for reason in failed.value.reasons)


class Purse:
    """Gives more up to `most`, and writes down what was asked for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[tuple[Usage, Usage]] = []

    async def more(self, spent: Usage, next: Usage) -> Usage:
        self.asked.append((spent, next))
        if spent.tokens >= self.most:
            raise BudgetExceeded("there is no more", what="tokens")
        return Usage(tokens=min(self.most, spent.tokens + next.tokens), money=spent.money + next.money)


@pytest.mark.parametrize(
    ("fault", "schema"),
    [
        (Reply(hold=True), None),
        (Reply("x", drop_after=0), None),
        (Reply(refusal="I will not."), None),
        (Reply(""), None),
        (Reply('{"n": '), SCHEMA),
        (Reply('{"n": "one"}'), SCHEMA),
    ],
)
async def test_before_a_further_try_more_is_set_aside(
    server: OpenAI, fault: Reply, schema: dict[str, Any] | None
) -> None:
    ask = msgspec.structs.replace(HI, schema=schema, max_tokens=400)
    server.say(fault, fault, model="a")
    server.say(Reply('{"n": 2}'), model="b")
    prices = {"price_in": 3.0, "price_out": 7.0}
    async with routing(tier(server, "a", timeout=0.3, **prices), tier(server, "b", **prices)) as router:
        bound, purse = await router.bound(ask), Purse(10**6)
        answer = await router.complete(ask, left=bound, more=purse.more)
    assert answer.model == "openai/b" and answer.text == '{"n": 2}'
    assert [request.body["max_tokens"] for request in server.requests] == [400] * len(server.requests)
    assert len(purse.asked) == len(server.requests) - 1, "the first is held already"
    spent = [spent.tokens for spent, _ in purse.asked]
    assert spent[0] > 0 and spent == sorted(spent) and spent[-1] == router.counters[0].tokens
    assert all(next.tokens >= bound.tokens and next.money >= bound.money for _, next in purse.asked)
    assert answer.usage.tokens == sum(counters.tokens for counters in router.counters)


async def test_where_no_more_can_be_set_aside_nothing_that_was_is_spent_on_another_tier(server: OpenAI) -> None:
    server.otherwise = lambda request: Reply("")
    tiers = [tier(server, name, max_tokens=tokens) for name, tokens in (("a", 400), ("b", 400), ("c", 100))]
    async with routing(*tiers) as router:
        bound = await router.bound(HI)
        purse = Purse(1)
        with pytest.raises(ModelFailed) as failed:
            await router.complete(HI, left=bound, more=purse.more)
    assert [request.model for request in server.requests] == ["a"]
    assert len(purse.asked) == 2, "the one that is asked for less is asked about as well"
    assert ["budget: tokens" in reason for reason in failed.value.reasons] == [False, True, True]


async def test_a_model_without_a_price_is_not_asked_unless_it_runs_here(server: OpenAI) -> None:
    far = Tier("far", "openai/unheard-of", "http://models.invalid/v1")
    async with routing(far) as router:
        with pytest.raises(ModelFailed, match="set price_in and price_out"):
            await router.complete(HI)
        assert (await router.bound(HI)).tokens == 0
    async with routing(Tier("known", "openai/gpt-4o", server.url)) as router:
        assert (await router.complete(HI)).usage.money > 0


async def test_the_bound_of_a_known_tokenizer_is_near_and_of_others_is_bytes(server: OpenAI) -> None:
    ask = Ask((Message("user", "The tide comes in twice a day. " * 100),), max_tokens=100)
    async with routing(Tier("known", "openai/gpt-4o", server.url)) as near, routing(tier(server)) as far:
        assert 700 < (await near.bound(ask)).tokens < 1200
        assert (await far.bound(ask)).tokens > 3100
        with_tools = msgspec.structs.replace(ask, tools=(SEARCH,))
        assert (await near.bound(with_tools)).tokens > (await near.bound(ask)).tokens + 256


async def test_a_question_too_long_for_a_tier_is_not_sent_there(server: OpenAI) -> None:
    ask = Ask((Message("user", "long " * 1000),))
    async with routing(tier(server, "small", context=500), tier(server, "large", max_tokens=50)) as router:
        assert (await router.complete(ask)).model == "openai/large"
    assert [request.model for request in server.requests] == ["large"]
    assert server.requests[0].body["max_tokens"] == 50 and router.counters[0].failures == {"context": 1}


async def test_questions_begin_at_the_tier_they_name_and_reasoning_apart(server: OpenAI) -> None:
    more = {"reasoning": tier(server, "thinker")}
    async with routing(tier(server, "a"), tier(server, "b"), **more) as router:
        for asked, model in (
            (HI, "a"),
            (msgspec.structs.replace(HI, tier="b"), "b"),
            (msgspec.structs.replace(HI, reasoning=True), "thinker"),
            (msgspec.structs.replace(HI, tier="thinker"), "thinker"),
        ):
            assert (await router.complete(asked)).model == f"openai/{model}"
        with pytest.raises(ConfigError, match="no tier 'x' of models; those in the settings are: thinker, a, b"):
            await router.complete(msgspec.structs.replace(HI, tier="x"))


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "deepseek"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_whose_connection_broke_is_not_sent_again(
    server: OpenAI, provider: str, streamed: bool
) -> None:
    server.say(Reply("x", drop_after=0))
    async with routing(Tier("a", f"{provider}/a", server.url, price_in=1.0, price_out=1.0)) as router:
        with pytest.raises(ModelFailed, match="dropped"):
            await router.complete(HI, (lambda _: None) if streamed else None)
        assert len(server.requests) == 1
        assert (await router.complete(HI)).text == "You said: hi"


async def test_no_logger_is_told_what_was_asked(server: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    async def tell(*given: object, **more: object) -> None:
        told.append(more)

    load()
    logging_of = importlib.import_module("litellm.litellm_core_utils.litellm_logging").Logging
    monkeypatch.setattr(logging_of, "async_success_handler", tell)
    async with routing(tier(server)) as router:
        await router.complete(HI)
        await asyncio.sleep(0.1)
    assert told == []


async def test_nothing_configured_is_said_so() -> None:
    router = Router(Models())
    assert not router.available and router.problems == [] and await router.bound(HI) == Usage(requests=1)
    with pytest.raises(ModelFailed, match="no model is configured"):
        await router.complete(HI)
    await router.aclose()


@pytest.mark.parametrize("streams", [False, True])
async def test_cancelling_closes_the_connection_and_frees_the_place(server: OpenAI, streams: bool) -> None:
    server.say(Reply("some words", hold=not streams, hold_after=1 if streams else None))
    async with routing(tier(server, at_once=1)) as router:
        running = asyncio.create_task(router.complete(HI, (lambda piece: None) if streams else None))
        await server.came_to(lambda: len(server.requests) == 1)
        waiting = asyncio.create_task(router.complete(HI))
        await asyncio.sleep(0)
        waiting.cancel()
        running.cancel()
        await asyncio.wait({running, waiting})
        assert running.cancelled() and waiting.cancelled()
        await server.came_to(lambda: server.requests[0].left)
        assert (await router.complete(HI)).text == "You said: hi"
    (counters,) = router.counters
    assert (counters.cancelled, counters.answers) == (1, 1)


async def test_who_fails_on_a_piece_gets_its_own_error_and_the_stream_is_closed(server: OpenAI) -> None:
    server.say(Reply("some words", hold_after=2))

    def fail(piece: str) -> None:
        raise LookupError(piece)

    async with routing(tier(server, at_once=1)) as router:
        with pytest.raises(LookupError, match="some"):
            await router.complete(HI, fail)
        await server.came_to(lambda: server.requests[0].left)
        assert (await router.complete(HI)).text == "You said: hi"


async def test_no_more_are_asked_at_once_than_the_tier_allows_and_in_turn(server: OpenAI) -> None:
    server.otherwise = lambda request: Reply("ok", hold=True)
    async with routing(tier(server, at_once=2)) as router:
        await router.prepare()
        tasks = [
            asyncio.create_task(router.complete(Ask((Message("user", f"{fair}{n}"),), fair=fair)))
            for fair in ("greedy", "small")
            for n in range(4)
        ]
        await server.came_to(lambda: len(server.requests) == 2)
        server.release()
        await asyncio.gather(*tasks)
    assert server.peak <= 2 and len(server.requests) == 8
    assert {request.texts[0] for request in server.requests[2:4]} == {"greedy2", "small0"} or {
        request.texts[0] for request in server.requests[2:5]
    } >= {"small0", "small1"}


async def test_the_same_question_costs_nothing_twice(server: OpenAI) -> None:
    async with routing(tier(server), cache=1) as router:
        server.say(Reply(REFUSED))
        with pytest.raises(ModelFailed):
            await router.complete(HI)
        first = await router.complete(HI)
        said: list[str] = []
        again = await router.complete(msgspec.structs.replace(HI, fair="other"), said.append)
        assert again == msgspec.structs.replace(first, usage=Usage()) and said == [first.text]
        assert (router.remembered, len(server.requests)) == (1, 2)
        await router.complete(msgspec.structs.replace(HI, max_tokens=5))
        assert len(server.requests) == 3, "another question"
        server.say(Reply(calls=(Call("nothing"),)))
        for _ in range(2):
            await router.complete(Ask((Message("user", "call"),), tools=(SEARCH,)))
        assert len(server.requests) == 5, "wishes that cannot be met are not kept"


async def test_keys_are_sent_to_their_own_tier_and_told_to_nobody(
    server: OpenAI, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai-only")
    server.say(Reply(status=401, error={"message": "bad key sk-very-secret"}), model="a")
    caplog.set_level(logging.DEBUG)
    async with routing(tier(server, "a", api_key="MY_KEY"), tier(server, "b"), cache=5) as router:
        await router.complete(HI)
        monkeypatch.delenv("MY_KEY")
        assert router.problems == ["models: tier a has its key in MY_KEY, which is not set"]
        server.say(BROKEN, model="b")
        with pytest.raises(ModelFailed, match="MY_KEY, its key, is not set") as failed:
            await router.complete(Ask((Message("user", "other"),)))
    assert [request.key for request in server.requests] == ["sk-very-secret", "none", "none"]
    told = str(failed.value) + caplog.text + "".join(capfd.readouterr())
    assert "secret" not in told and "openai-only" not in told


def test_the_errors_of_a_provider_are_told_without_the_key(server: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server.say(Reply(status=401, error={"message": "bad key sk-very-secret given"}))

    async def main() -> None:
        async with routing(tier(server, api_key="MY_KEY")) as router:
            with pytest.raises(ModelFailed, match="bad key … given") as failed:
                await router.complete(HI)
            assert failed.value.__context__ is None or "secret" not in str(failed.value.__context__)

    anyio.run(main)


PROGRAM = """
import asyncio, sys
from cld.config import Models, Tier
from cld.models import Ask, Message
from cld.models.router import Router

async def main():
    router = Router(Models(chain=(Tier("a", "openai/a", sys.argv[1]),)))
    assert "litellm" not in sys.modules
    for on_text in (None, lambda piece: None):
        await router.complete(Ask((Message("user", "hi"),)), on_text)
    await router.aclose()
    await router.aclose()

asyncio.run(main())
"""


def test_a_process_ends_cleanly_and_says_nothing(server: OpenAI) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_server_runs_by_itself_too() -> None:
    with subprocess.Popen([sys.executable, "tests/openai_server.py"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()

            async def main() -> None:
                async with routing(Tier("a", "openai/a", url)) as router:
                    assert (await router.complete(HI)).text == "You said: hi"

            anyio.run(main)
        finally:
            process.terminate()


FRESH = """
import asyncio, socket, sys
def refused(*_):
    raise AssertionError("the network was asked")
socket.getaddrinfo = socket.socket.connect = refused
import dotenv
dotenv.load_dotenv = lambda *_, **__: print("read .env")
from cld.config import Models, Tier
from cld.models import Ask, Message
from cld.models.router import Router
router = Router(Models(chain=(Tier("gpt", "openai/gpt-4o", price_in=1, price_out=1),)))
print(asyncio.run(router.bound(Ask((Message("user", "word " * 1000),), max_tokens=0))).tokens < 2000)
"""


def test_counting_is_exact_without_the_network_and_no_dot_env_is_read() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_a_tokenizer_that_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    empty = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FRESH], env=empty, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr[-2000:]


async def test_what_the_first_question_loads_is_loaded_beside_the_loop(server: OpenAI) -> None:
    async with routing(Tier("gpt", "openai/gpt-4o", server.url)) as router:
        await router.prepare()
        before = threading.get_ident()
        asked: list[int] = []
        real = tokens.counter
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(litellm, "counter", lambda model: (asked.append(threading.get_ident()), real(model))[1])
            async with routing(Tier("gpt", "openai/gpt-4o", server.url)) as another:
                await another.prepare()
                await another.bound(HI)
                await router.bound(HI)
    assert len(asked) == 1 and asked[0] != before


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_key_is_hidden_whatever_the_variable_is_called(
    server: OpenAI, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setenv("MY_CREDENTIAL_2", "sk-very-secret")
    server.say(Reply(status=401, error={"message": "bad key sk-very-secret given"}))
    async with routing(tier(server, api_key="MY_CREDENTIAL_2")) as router:
        with pytest.raises(ModelFailed, match="bad key … given") as failed:
            await router.complete(HI, (lambda _: None) if streamed else None)
    assert "sk-very-secret" not in f"{failed.value} {failed.value.reasons}"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1000, "completion_tokens": -1000, "total_tokens": -2000},
        {"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 20},
        {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2},
    ],
    ids=["less than nothing", "an answer of nothing", "a question of nothing"],
)
async def test_usage_that_cannot_be_is_taken_to_be_the_most(
    server: OpenAI, usage: dict[str, int], streamed: bool
) -> None:
    server.say(Reply("hello", usage=usage))
    async with routing(tier(server, price_in=1.0, price_out=1.0)) as router:
        bound = (await router.bound(HI)).tokens
        answer = await router.complete(HI, (lambda _: None) if streamed else None)
    known = max(0, usage["prompt_tokens"]) or max(0, usage["completion_tokens"])
    least = bound if not known else bound - HI.max_tokens if usage["prompt_tokens"] == 0 else HI.max_tokens
    assert answer.usage.tokens == (least + known if known else bound)
    assert answer.usage.money == pytest.approx(answer.usage.tokens / 1e6)
