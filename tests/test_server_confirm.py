"""Asking a person: for what cannot be taken back and for what policy wants approved, in both eras."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    Implementation,
    InputRequiredResult,
)
from server_world import ADA, BOB, MODES, World, call, client, fail, world

from cld.config import Settings
from cld.runtime import Runtime
from cld.server import call as call_module
from cld.server.access import Identity
from cld.server.application import Application
from cld.server.call import Reply
from cld.server.registry import Annotations, Tool

pytestmark = pytest.mark.anyio

RULES = Path(__file__).parent.parent / "policies"
TOP = "cld:common.Conversation.c"
BELOW = f"{TOP}/common.Message.m"
APPROVAL: Any = {"delete": {"require_approval": {"reason": "deletes are checked"}}}


class Person:
    """Answers what hosts ask, and remembers it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action=self.answer, content={} if self.answer == "accept" else None)  # type: ignore[arg-type]


async def planted(host: Client) -> None:
    await call(host, "resource_put", uri=TOP, content={})
    await call(host, "resource_put", uri=BELOW, content={"role": "user", "text": "hi"})


async def exists(made: World) -> bool:
    return bool((await made.store.list()).uris)


@pytest.mark.parametrize("mode", MODES)
async def test_a_recursive_delete_is_confirmed_where_the_host_can_ask(tmp_path: Path, mode: str) -> None:
    person = Person("accept")
    async with world(tmp_path) as made, client(made, mode, elicitation_callback=person) as host:
        await planted(host)
        assert (await call(host, "resource_delete", uri=TOP, recursive=True))["deleted"] == 2
        assert person.asked == [f"Delete {TOP} and all below it, 2 resources that you can see?"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", ["decline", "cancel"])
async def test_declining_leaves_everything(tmp_path: Path, mode: str, answer: str) -> None:
    async with world(tmp_path) as made, client(made, mode, elicitation_callback=Person(answer)) as host:
        await planted(host)
        error = await fail(host, "resource_delete", uri=TOP, recursive=True)
        assert error["code"] == "access_denied" and "did not agree" in error["message"]
        assert (await call(host, "resource_get", uri=BELOW))["revision"] == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_recursive_delete_goes_on_where_nobody_can_be_asked(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        await planted(host)
        assert (await call(host, "resource_delete", uri=TOP, recursive=True))["deleted"] == 2


@pytest.mark.parametrize("mode", MODES)
async def test_nobody_is_asked_about_what_is_not_there(tmp_path: Path, mode: str) -> None:
    person = Person("accept")
    async with world(tmp_path) as made, client(made, mode, elicitation_callback=person) as host:
        assert (await fail(host, "resource_delete", uri=TOP, recursive=True))["code"] == "not_found"
        assert person.asked == []


@pytest.mark.parametrize("mode", MODES)
async def test_what_policy_wants_approved_is_asked_for_once(tmp_path: Path, mode: str) -> None:
    person = Person("accept")
    async with (
        world(tmp_path, obligations=APPROVAL) as made,
        client(made, mode, elicitation_callback=person) as host,
    ):
        await planted(host)
        assert (await call(host, "resource_delete", uri=BELOW))["deleted"] == 1
        assert len(person.asked) == 1 and "deletes are checked" in person.asked[0] and BELOW in person.asked[0]
        assert (await call(host, "resource_delete", uri=TOP, recursive=True))["deleted"] == 1
        assert len(person.asked) == 2


@pytest.mark.parametrize("mode", MODES)
async def test_what_policy_wants_approved_is_not_done_when_declined(tmp_path: Path, mode: str) -> None:
    async with (
        world(tmp_path, obligations=APPROVAL) as made,
        client(made, mode, elicitation_callback=Person("decline")) as host,
    ):
        await planted(host)
        assert (await fail(host, "resource_delete", uri=BELOW))["code"] == "access_denied"
        assert await exists(made)


@pytest.mark.parametrize("mode", MODES)
async def test_what_policy_wants_approved_says_what_to_do_where_nobody_can_be_asked(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path, obligations=APPROVAL) as made, client(made, mode) as host:
        await planted(host)
        error = await fail(host, "resource_delete", uri=BELOW)
        assert error["code"] == "approval_required"
        assert error["require_approval"] == {"reason": "deletes are checked"}
        assert "elicitation" in error["message"]
        assert await exists(made)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", ["accept", "decline"])
async def test_a_call_itself_can_be_what_needs_approval(tmp_path: Path, mode: str, answer: str) -> None:
    person = Person(answer)
    obligations: Any = {"call": {"require_approval": True}}
    async with (
        world(tmp_path, obligations=obligations) as made,
        client(made, mode, elicitation_callback=person) as host,
    ):
        result = await host.call_tool("resource_put", {"uri": TOP, "content": {}})
        assert result.is_error is (answer == "decline")
        assert await exists(made) is (answer == "accept")
        assert len(person.asked) == 1 and "Write a resource" in person.asked[0]


@pytest.mark.parametrize("destructive", [True, False])
async def test_the_rules_ask_for_approval_of_a_tool_that_says_it_destroys(tmp_path: Path, destructive: bool) -> None:
    async def done(call: Any, args: Any) -> Reply:
        return Reply({"done": True})

    settings = Settings(root=str(tmp_path / "tree"), policies=str(RULES), durability="none")
    async with Runtime.open(settings) as runtime:
        application = Application(runtime, lambda _: Identity(runtime.principal))
        hints = Annotations(read_only=False, destructive=destructive, idempotent=False)
        application.registry.replace("test", [Tool("wipe", "Wipe", "Wipes", {"type": "object"}, dict, done, hints)])
        async with Client(application.server()) as host:
            if destructive:
                assert "destructive" in (await fail(host, "wipe"))["message"]
            else:
                assert (await call(host, "wipe"))["done"]


async def raw(host: Client, arguments: dict[str, Any], **more: Any) -> InputRequiredResult | CallToolResult:
    """One call of resource_delete as it is on the wire, without the client's answering by itself."""
    return await host.session.call_tool("resource_delete", arguments, allow_input_required=True, **more)


ACCEPT: Any = {"confirm": ElicitResult(action="accept", content={})}
ARGUMENTS: dict[str, Any] = {"uri": TOP, "recursive": True}


async def test_an_answer_counts_once(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "2026-07-28", elicitation_callback=Person("accept")) as host:
        await planted(host)
        asked = await raw(host, ARGUMENTS)
        assert isinstance(asked, InputRequiredResult)
        done = await raw(host, ARGUMENTS, input_responses=ACCEPT, request_state=asked.request_state)
        assert isinstance(done, CallToolResult) and done.structured_content == {"uri": TOP, "deleted": 2}
        await planted(host)
        again = await raw(host, ARGUMENTS, input_responses=ACCEPT, request_state=asked.request_state)
        assert isinstance(again, InputRequiredResult)
        assert await exists(made)


async def test_an_answer_without_a_question_is_none(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "2026-07-28", elicitation_callback=Person("accept")) as host:
        await planted(host)
        assert isinstance(await raw(host, ARGUMENTS, input_responses=ACCEPT), InputRequiredResult)
        assert await exists(made)


async def test_an_answer_counts_for_the_call_it_was_asked_for_only(tmp_path: Path) -> None:
    other = "cld:common.Conversation.d"
    async with world(tmp_path) as made, client(made, "2026-07-28", elicitation_callback=Person("accept")) as host:
        await planted(host)
        await call(host, "resource_put", uri=other, content={})
        asked = await raw(host, ARGUMENTS)
        assert isinstance(asked, InputRequiredResult)
        with pytest.raises(MCPError, match="requestState"):
            await raw(
                host, {"uri": other, "recursive": True}, input_responses=ACCEPT, request_state=asked.request_state
            )
        tampered = (asked.request_state or "")[:-2] + "AA"
        with pytest.raises(MCPError, match="requestState"):
            await raw(host, ARGUMENTS, input_responses=ACCEPT, request_state=tampered)
        made.who = BOB
        with pytest.raises(MCPError, match="requestState"):
            await raw(host, ARGUMENTS, input_responses=ACCEPT, request_state=asked.request_state)
        made.who = ADA
        assert (await call(host, "resource_get", uri=TOP))["uri"] == TOP


async def test_an_answer_that_comes_too_late_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "ANSWER_SECONDS", -1.0)
    async with world(tmp_path) as made, client(made, "2026-07-28", elicitation_callback=Person("accept")) as host:
        await planted(host)
        asked = await raw(host, ARGUMENTS)
        assert isinstance(asked, InputRequiredResult)
        late = await raw(host, ARGUMENTS, input_responses=ACCEPT, request_state=asked.request_state)
        assert isinstance(late, InputRequiredResult)
        assert await exists(made)


@pytest.mark.parametrize("mode", MODES)
async def test_a_recursive_delete_reports_progress_while_the_person_thinks(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "TICK_SECONDS", 0.01)
    ticks: list[float] = []

    async def slowly(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        if mode == "legacy":  # later the call has ended meanwhile
            while len(ticks) < 3:
                await anyio.sleep(0.01)
        return ElicitResult(action="accept", content={})

    async def progress(done: float, total: float | None, message: str | None) -> None:
        ticks.append(done)

    async with world(tmp_path) as made, client(made, mode, elicitation_callback=slowly) as host:
        await planted(host)
        with anyio.fail_after(10):
            result = await host.call_tool("resource_delete", ARGUMENTS, progress_callback=progress)
        assert not result.is_error and len(ticks) >= 1


def test_questions_are_bounded() -> None:
    questions = call_module.Questions()
    about = frozenset[call_module.About]({"change"})
    hers = questions.ask("user:ada", about)
    names = [questions.ask("user:bob", about) for _ in range(call_module.QUESTIONS_PER_PRINCIPAL + 1)]
    assert not questions.answered(names[0])
    assert (asked := questions.answered(names[-1])) and asked.about == about
    assert not questions.answered(names[-1])
    assert questions.answered(hers), "what others are asked costs nobody a question"
    names = [questions.ask(f"user:u{number}", about) for number in range(call_module.MAX_QUESTIONS + 1)]
    assert not questions.answered(names[0]) and questions.answered(names[-1])


async def test_a_host_that_fails_to_ask_counts_as_no(tmp_path: Path) -> None:
    async def broken(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        raise RuntimeError("no window")

    async with world(tmp_path) as made, client(made, "legacy", elicitation_callback=broken) as host:
        await planted(host)
        assert (await fail(host, "resource_delete", uri=TOP, recursive=True))["code"] == "access_denied"
        assert await exists(made)


def test_no_argument_hides_another_from_the_person_who_is_asked() -> None:
    long = {"content": {"text": "x" * 10_000}, "uri": TOP, "note": "y" * 10_000, "if_version": "*"}
    shown = call_module.shown(long)
    assert [line.partition(":")[0] for line in shown.split("\n")] == ["uri", "note", "if_version", "content"]
    assert len(shown) < 1000 and f'uri: "{TOP}"' in shown and 'if_version: "*"' in shown
    assert "(10002 characters)" in shown
    many = call_module.shown({f"a{number}": 1 for number in range(1000)})
    assert many.count("\n") == call_module.MOST_ARGUMENTS and "970 more" in many
    assert "\u202e" not in call_module.shown({"\u202eiru": "\u202egnp.exe\nAllow it?"})
    assert call_module.shown({"a": "x\ny"}).count("\n") == 0


@pytest.mark.parametrize("mode", MODES)
async def test_the_question_cannot_be_forged_by_the_clients_name_or_the_arguments(tmp_path: Path, mode: str) -> None:
    person = Person("decline")
    name = "Ada.\nAllow it?\u202e\x1b[2J" + "x" * 200
    async with (
        world(tmp_path, obligations=APPROVAL) as made,
        client(made, mode, elicitation_callback=person, client_info=Implementation(name=name, version="1")) as host,
    ):
        await planted(host)
        await fail(host, "resource_delete", uri=BELOW)
        first, *arguments, last = person.asked[0].split("\n")
        assert first.startswith('"Ada.\\nAllow it?\\u202e\\u001b[2Jx') and len(first) < 250
        assert arguments == [f'uri: "{BELOW}"'] and last == "Allow it?"


@pytest.mark.parametrize("mode", MODES)
async def test_who_agrees_to_a_recursive_delete_has_seen_why_what_is_inside_needs_it(tmp_path: Path, mode: str) -> None:
    person = Person("accept")
    async with world(tmp_path) as made, client(made, mode, elicitation_callback=person) as host:
        await planted(host)
        keep(made, BELOW)
        assert (await call(host, "resource_delete", uri=TOP, recursive=True))["deleted"] == 2
        assert len(person.asked) == 1 and "is kept" in person.asked[0]


@pytest.mark.parametrize("mode", MODES)
async def test_a_yes_to_the_call_is_none_to_what_it_changes(tmp_path: Path, mode: str) -> None:
    person = Person("accept")
    obligations: Any = {"call": {"require_approval": {"reason": "calls are checked"}}}
    async with (
        world(tmp_path, obligations=obligations) as made,
        client(made, mode, elicitation_callback=person) as host,
    ):
        await planted(host)
        keep(made, BELOW)
        person.asked.clear()
        assert (await call(host, "resource_delete", uri=TOP, recursive=True))["deleted"] == 2
        assert ["calls are checked" in asked for asked in person.asked] == [True, False]
        assert ["is kept" in asked for asked in person.asked] == [False, True]


def keep(made: World, kept: str) -> None:
    """Have policy ask a person before `kept` is deleted."""
    decide = made.policy.decide

    def keeping(principal: Any, action: Any, uri: Any, *more: Any) -> Any:
        found = decide(principal, action, uri, *more)
        demand = {"require_approval": {"reason": f"{kept} is kept"}}
        return msgspec.structs.replace(found, obligations=demand) if (action, uri) == ("delete", kept) else found

    made.policy.decide = keeping  # type: ignore[method-assign]
