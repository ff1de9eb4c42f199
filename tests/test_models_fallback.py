"""Models that cannot be asked are an ordinary state: through the real litellm, with nobody at the address or no key."""

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai_server import BROKEN, OpenAI, Reply
from optional import needs_litellm
from rights_world import Governed, governed

from cld.config import Models, Settings, Tier
from cld.errors import BudgetExceeded, ModelFailed
from cld.models import Ask, Completion, Message, NoModel
from cld.models.fallback import Fallback
from cld.models.router import Router
from cld.runtime import Runtime
from cld.types import Step, Usage, Wish
from cld.uri import make_uri
from cld.work.requests import begin, update, wait

needs_litellm()
pytestmark = pytest.mark.anyio

HI = Ask((Message("user", "hi"),))
PLAN = Ask((Message("user", "hi"),), reasoning=True)


@pytest.fixture
def server() -> Iterator[OpenAI]:
    with OpenAI() as server:
        yield server
        server.release()


def nobody() -> str:
    """An address at which somebody answered, and nobody does any more."""
    with OpenAI() as server:
        return server.url


def tier(url: str, name: str = "a", **more: Any) -> Tier:
    return Tier(name, f"openai/{name}", **{"api_base": url, "price_in": 1.0, "price_out": 1.0, **more})


@asynccontextmanager
async def going_on(*tiers: Tier, **more: Any) -> AsyncGenerator[Fallback]:
    router = Router(Models(chain=tiers, **more))
    try:
        yield Fallback(router)
    finally:
        await router.aclose()


@asynccontextmanager
async def unreachable(folder: Path) -> AsyncGenerator[Governed]:
    """An engine whose models are configured, and not there."""
    async with going_on(tier(nobody())) as model, governed(folder, model) as place:
        yield place


@pytest.mark.parametrize(
    "lacks",
    [
        {},
        {"api_key": "CLD_TEST_NO_SUCH_KEY"},
        {"api_base": "http://example.invalid/v1", "price_in": None, "price_out": None},
    ],
    ids=["unreachable", "no key", "no price"],
)
async def test_while_no_tier_can_be_asked_the_offline_model_answers(lacks: dict[str, Any]) -> None:
    said: list[str] = []
    async with going_on(tier(nobody(), "a"), tier(nobody(), "b", **lacks)) as model:
        answer = await model.complete(HI, said.append, left=Usage(tokens=100_000, money=1.0))
        assert (answer.model, answer.usage) == ("offline", Usage())
        assert said == [answer.text] and "No model" in answer.text
        with pytest.raises(NoModel) as failed:
            await model.complete(PLAN)
    assert [reason.partition(" ")[0] for reason in failed.value.reasons] == ["a", "b", "offline:"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(refusal="I will not."), "refused"),
        (Reply(hold=True), "timed_out"),
        (Reply("half", drop_after=0), "dropped"),
        (Reply(""), "empty"),
        (BROKEN, "error"),
    ],
)
async def test_a_model_that_answers_badly_is_not_replaced(server: OpenAI, reply: Reply, kind: str) -> None:
    server.otherwise = lambda _: reply
    async with going_on(tier(nobody(), "a"), tier(server.url, "b", timeout=1.0 if reply.hold else 60.0)) as model:
        with pytest.raises(ModelFailed, match=f"b .*{kind}") as failed:
            await model.complete(HI)
        assert failed.value.kinds == ("unreachable", kind) and not model.is_offline


async def test_nor_one_that_may_not_be_paid_for() -> None:
    async with going_on(tier(nobody())) as model:
        assert (await model.bound(HI)).tokens > 4096 and (await model.bound(HI)).money > 0
        with pytest.raises(BudgetExceeded):
            await model.complete(HI, left=Usage(tokens=10))


async def test_it_is_told_once_that_models_cannot_be_asked_and_once_that_they_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with OpenAI() as gone:
        port = int(gone.url.rpartition(":")[2].partition("/")[0])
    async with going_on(tier(gone.url)) as model:
        answers = [(await model.complete(HI)).model for _ in range(3)]
        assert model.is_offline and model.answers == 3
        with OpenAI(port=port):
            answers += [(await model.complete(HI)).model for _ in range(2)]
    assert answers == ["offline"] * 3 + ["openai/a"] * 2 and not model.is_offline
    told = [one.getMessage() for one in caplog.records if one.name == "cld.models" and one.levelno >= logging.WARNING]
    assert [text for text in told if "offline" in text] == [
        "no model can be asked (unreachable); the model is offline until one can"
    ]
    assert told[-1] == "models can be asked again" and len(told) == 4, "the other two are of the tier"


async def test_a_message_is_split_worked_and_judged_by_rule(tmp_path: Path) -> None:
    async with unreachable(tmp_path) as place:
        await place.write("cld:common.Text.rye", {"text": "Rye bread is baked with sourdough."}, "user:local")
        begun = await begin(place.engine, place.store, "1. How is rye bread baked?\n2. What is sourdough good for?")
        task = await wait(place.engine, begun.task, 30)
    assert task.status == "completed", task.error
    assert [judgement.by for judgement in task.judgements] == ["offline"] and task.usage == Usage()


async def test_what_the_client_worked_itself_is_judged_by_rule(tmp_path: Path) -> None:
    steps = (Step("x", "add", assistant="client"), Step("y", "tell", assistant="client", after=("x",)))
    async with unreachable(tmp_path) as place:
        begun = await begin(place.engine, place.store, "sum", steps)
        for name in "xy":
            await wait(place.engine, begun.task, 10)
            await update(place.engine, make_uri(begun.task, "plan.Task", name), output="5", has_output=True)
        task = await wait(place.engine, begun.task, 30)
    assert task.status == "completed" and task.output == "## add\n\n5\n\n## tell\n\n5", task.error


async def test_a_form_in_words_is_not_checked(tmp_path: Path) -> None:
    async with unreachable(tmp_path) as place:
        begun = await begin(place.engine, place.store, "What is it?", assistant="general", response_format="short")
        assert (await wait(place.engine, begun.task, 30)).status == "completed"


async def test_an_answer_without_a_quote_rests_on_nothing_whoever_made_the_calls_before_it(tmp_path: Path) -> None:
    def model(ask: Ask) -> Completion:
        if ask.messages[-1].role == "tool":
            return Completion("Nothing was found.", model="offline")
        return Completion("", (Wish("k", "resource_get", {"uri": "cld:common.Text.rye"}),), model="function")

    async with governed(tmp_path, model) as place:
        await place.write("cld:common.Text.rye", {"text": "Rye bread is baked with sourdough."}, "user:local")
        begun = await begin(place.engine, place.store, "What is wheat?", assistant="general")
        task = await wait(place.engine, begun.task, 30)
    assert (task.output, task.sources) == ("Nothing was found.", ())


@pytest.mark.parametrize("fallback", [True, False])
async def test_a_setting_turns_it_off(tmp_path: Path, fallback: bool) -> None:
    settings = Settings(
        root=str(tmp_path / "resources"),
        policies=str(Path(__file__).parents[1] / "policies"),
        models=Models(chain=(tier(nobody()),), fallback=fallback),
    )
    async with Runtime.open(settings) as runtime:
        model = runtime.workshop.model
        if fallback:
            assert (await model.complete(HI)).model == "offline"
        else:
            with pytest.raises(ModelFailed, match="unreachable"):
                await model.complete(HI)


async def test_who_can_ask_none_generates_nothing_whoever_answers_then(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain(key: str) -> Models:
        return Models(chain=(tier(nobody(), api_key=key),))

    monkeypatch.setenv("CLD_TEST_KEY", "k")
    for models, generates in ((chain("CLD_TEST_KEY"), True), (chain("CLD_TEST_NO_SUCH_KEY"), False)):
        router = Router(models)
        assert router.generates == Fallback(router).generates == generates
    monkeypatch.setattr("cld.models.router._is_installed", lambda: False)
    assert not Router(chain("CLD_TEST_KEY")).generates
