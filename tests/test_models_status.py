"""How the models stand, as hosts and the log are told: all that happened, and no secret."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from openai_server import BROKEN, OpenAI, Reply
from optional import needs_litellm
from server_world import call

from cld.config import Models, Settings, Tier
from cld.errors import ModelFailed
from cld.models import Ask, Message
from cld.models.router import Router
from cld.runtime import Runtime
from cld.server.access import Identity
from cld.server.application import Application

needs_litellm()
pytestmark = pytest.mark.anyio

RULES = Path(__file__).parents[1] / "policies"
HI = Ask((Message("user", "hi"),))


@pytest.fixture
def server() -> Iterator[OpenAI]:
    with OpenAI() as server:
        yield server


def tier(name: str, url: str, key: str = "") -> Tier:
    return Tier(name, f"openai/{name}", api_base=url, api_key=key, price_in=1.0, price_out=1.0)


async def test_hosts_are_told_how_each_tier_stands_and_no_secret(
    server: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD", "sk-swordfish")
    wrong = server.url.replace("://", "://me:swordfish@").replace("/v1", "/v1?key=swordfish")
    server.say(Reply(status=401, error={"message": f"not at {wrong} with sk-swordfish"}), model="refused")
    server.say(BROKEN, model="broken")
    chain = (
        tier("unset", server.url, "CLD_TEST_NO_SUCH_KEY"),
        tier("refused", server.url, "GOOD"),
        tier("broken", server.url),
        tier("good", server.url),
    )
    settings = Settings(
        root=str(tmp_path / "tree"),
        policies=str(RULES),
        durability="none",
        tools="all",
        models=Models(chain=chain, cache=9),
    )
    async with Runtime.open(settings) as runtime:
        application = Application(runtime, lambda _: Identity(runtime.principal))
        async with Client(application.server()) as host:
            before = await call(host, "model_status")
            assert [one["state"] for one in before["models"]] == ["unusable", "ready", "ready", "ready"]
            for _ in range(2):
                await runtime.workshop.model.complete(HI)
            found = await call(host, "model_status")
            told = (await host.call_tool("model_status", {})).content[0].text
    unset, refused, broken, good = found["models"]
    assert (unset["state"], "CLD_TEST_NO_SUCH_KEY" in unset["why"], unset["requests"]) == ("unusable", True, 0)
    assert refused["state"] == "unusable" and refused["why"].startswith("settings: ")
    assert (broken["state"], broken["last_failure"], broken["failures"]) == ("ready", "error", {"error": 1})
    assert (good["requests"], good["answers"], good["failures"], good["why"]) == (1, 1, {}, "")
    assert good["tokens"] > 0 and good["money"] == pytest.approx(good["tokens"] / 1e6)
    assert (found["cache_hits"], found["offline"], found["offline_answers"]) == (1, False, 0)
    assert "swordfish" not in f"{found} {told}" and "good (openai/good): ready; 1 requests" in told


async def test_without_any_model_hosts_are_told_that_the_offline_one_works(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path / "tree"), policies=str(RULES), durability="none", tools="all")
    async with Runtime.open(settings) as runtime:
        application = Application(runtime, lambda _: Identity(runtime.principal))
        async with Client(application.server()) as host:
            assert await call(host, "model_status") == {
                "models": [],
                "offline": True,
                "offline_answers": 0,
                "cache_hits": 0,
            }


async def test_the_log_says_why_a_tier_failed_though_the_next_one_answers(
    server: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cld.models")
    server.say(BROKEN, BROKEN, Reply(refusal="I will not tell of Ada."), Reply("fine"), model="a")
    router = Router(Models(chain=(tier("a", server.url), tier("b", server.url))))
    for _ in range(4):
        await router.complete(HI)
    server.say(BROKEN, model="a")
    server.say(BROKEN, model="b")
    with pytest.raises(ModelFailed):
        await router.complete(HI)
    await router.aclose()
    said = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "cld.models"]
    warned = [text for level, text in said if level == "WARNING"]
    assert "model a (openai/a) gives no answer: error: " in warned[0] and "on fire" in warned[0]
    assert warned[1:3] == ["model a (openai/a) gives no answer: refused", "model a (openai/a) answers again"]
    assert [text.split(" gives")[0] for text in warned[3:]] == ["model a (openai/a)", "model b (openai/b)"]
    assert [text for _, text in said].count("model b answered after a: error") == 2
    assert said[-2][1].startswith("model a (openai/a): 5 requests, 1 answers, failures: 3 error, 1 refused; ")
    assert "Ada" not in caplog.text


async def test_a_misfit_that_is_mended_is_not_told_of(server: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server.say(Reply('{"n": "one"}'), Reply('{"n": 1}'))
    router = Router(Models(chain=(tier("a", server.url),)))
    assert (await router.complete(Ask(HI.messages, schema=schema))).value == {"n": 1}
    (standing,) = router.standings
    await router.aclose()
    assert (standing.failures, standing.last_failure) == ({"schema": 1}, "")
    assert not [one for one in caplog.records if one.name == "cld.models"]
