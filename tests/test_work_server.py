"""Work through real hosts: server.py processes over stdio, the SDK's client, the real rules, a scripted model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters
from mcp_types import ElicitRequestParams, ElicitResult
from node_packages import INSPECTOR, NODE, environment, need_packages
from openai_server import Call, OpenAI, Reply, Request
from optional import needs_litellm
from rights_world import data_with
from server_world import MODES, call, fail

ROOT = Path(__file__).parent.parent
SERVER = str(ROOT / "server.py")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and signals"),
    pytest.mark.timeout(120),
    pytest.mark.slow,  # every test starts processes, and those with a model import litellm
]

MOST_LIST = 16 * 1024


@pytest.fixture
def model() -> Iterator[OpenAI]:
    needs_litellm()
    with OpenAI() as server:
        yield server
        server.release()


def settings_in(folder: Path, model: OpenAI | None = None) -> dict[str, str]:
    """The environment of a server whose only model is `model`, or the one that needs no network."""
    config = folder / "own.toml"
    chain = "" if model is None else f'[[models.chain]]\nname = "a"\nmodel = "openai/a"\napi_base = "{model.url}"\n'
    prices = "" if model is None else 'price_in = 1.0\nprice_out = 1.0\nschema = "request"\n'
    config.write_text(chain + prices)
    return {**os.environ, "CLD_CONFIG": str(config)}


@asynccontextmanager
async def hosted(
    folder: Path, model: OpenAI | None = None, mode: str = "legacy", data: Any = None, *more: str, **options: Any
) -> AsyncGenerator[Client]:
    """A client of a server process over the tree in `folder`."""
    policies = folder / "policies"
    if not policies.exists():
        shutil.copytree(ROOT / "policies", policies)
    if data is not None:
        (policies / "data.json").write_text(json.dumps(data))
    arguments = [SERVER, "--root", str(folder / "resources"), "--policies", str(policies), *more]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=settings_in(folder, model))
    with anyio.fail_after(100):
        async with Client(parameters, mode=mode, **options) as connected:
            yield connected


def scripted(calls: list[Call], final: str = "done") -> Any:
    """Asks for each call once in a dialogue, judges all to be enough, and answers what it was told last."""

    def reply(request: Request) -> Reply:
        schema = json.dumps(request.body.get("response_format") or {}) + " ".join(request.texts[:1])
        if '"enough"' in schema:
            schema_of: Any = request.body["response_format"]["json_schema"]["schema"]["properties"]
            value: dict[str, Any] = {
                "enough": True,
                "reason": "as asked",
                "cites": schema_of["cites"]["items"]["enum"],
                "not_needed": [],
                "answer": final,
            }
            return Reply(json.dumps({**value, **({"steps": []} if "steps" in schema_of else {})}))
        done = sum(1 for message in request.body["messages"] if message["role"] == "tool")
        return Reply(calls=(calls[done],)) if done < len(calls) else Reply(request.texts[-1])

    return reply


@pytest.mark.parametrize("mode", MODES)
async def test_a_message_is_worked_without_any_model_and_conversations_go_on(tmp_path: Path, mode: str) -> None:
    async with hosted(tmp_path, mode=mode) as host:
        uri = "cld:common.Text.tides"
        text = "Tides are caused by the moon, which pulls at the sea twice a day."
        await call(host, "resource_put", uri=uri, content={"text": text})
        first = await call(host, "plan", message="What are tides caused by?", wait_seconds=60)
        assert first["status"] == "completed" and "caused by the moon" in first["answer"], first
        assert [source["uri"] for source in first["sources"]] == [uri]
        shown = await call(host, "task_get", uri=first["task"])
        assert shown["election"]["reason"] and shown["usage"]["calls"] >= 1
        handle = await call(
            host, "plan", message="What is 12 times 7?", conversation=first["conversation"], wait_seconds=0
        )
        assert handle["conversation"] == first["conversation"] and handle["message"] > first["message"]
        then = await call(host, "task_get", uri=handle["task"], wait_seconds=60)
        assert then["status"] == "completed", then


async def test_the_second_message_of_a_conversation_sees_the_first(tmp_path: Path, model: OpenAI) -> None:
    model.otherwise = lambda request: Reply(
        '{"direct": true, "reason": "one step", "steps": []}' if "response_format" in request.body else "It is teal."
    )
    async with hosted(tmp_path, model) as host:
        first = await call(host, "plan", message="My favourite colour is teal, remember that", wait_seconds=60)
        assert first["status"] == "completed", first
        await call(host, "plan", message="Which colour is it?", conversation=first["conversation"], wait_seconds=60)
    [system, user, *_] = model.requests[-1].texts
    mark = system.partition("<material ")[2].partition(" ")[0]
    fenced = user.partition(f"<material {mark} what is known>")[2]
    assert "My favourite colour is teal" in fenced and "It is teal." in fenced


async def test_the_form_of_an_answer_is_kept(tmp_path: Path, model: OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model.otherwise = lambda request: Reply(
        '{"direct": true, "reason": "one", "steps": []}' if "direct" in json.dumps(request.body) else '{"n": 7}'
    )
    async with hosted(tmp_path, model) as host:
        done = await call(host, "plan", message="How many?", response_format=schema, wait_seconds=60)
        assert done["answer"] == {"n": 7}
        bad = await fail(host, "plan", message="How many?", response_format={"type": "nothing"})
        assert bad["code"] == "invalid_argument" and "response_format" in bad["message"]


async def test_a_plan_that_cannot_be_carried_out_is_refused_by_name(tmp_path: Path) -> None:
    circle = [{"id": "one", "purpose": "A", "after": ["two"]}, {"id": "two", "purpose": "B", "after": ["one"]}]
    cases: list[tuple[list[Any], tuple[str, ...]]] = [
        ([{"id": "a", "purpose": "A", "after": ["nobody"]}], ("tasks[0]", "nobody")),
        (circle, ("one", "two")),
        ([{"id": "a", "purpose": "A", "inputs": {"x": {"from": "zz"}}}], ("zz",)),
        ([{"id": "a"}], ("purpose", "tasks[0]")),
        ([{"id": "a", "purpose": "A", "whenn": "true"}], ("whenn", "tasks[0]")),
        ([{"id": "a", "purpose": "A", "when": "inputs.x >"}], ("when",)),
    ]
    async with hosted(tmp_path) as host:
        for tasks, words in cases:
            error = await fail(host, "plan", tasks=tasks)
            assert error["code"] == "invalid_argument"
            assert all(word in error["message"] for word in words), error
        faulty: list[tuple[Any, str]] = [
            ({"description": "?"}, ""),
            ({"name": "no spaces"}, ""),
            ({"name": ""}, ""),
            ({"name": "a", "inputSchema": "str"}, ".inputSchema"),
            ({"name": "a", "inputSchema": {"type": "nonsense"}}, ".inputSchema"),
            ({"name": "a", "inputSchema": {"properties": {"n": {"type": "nonsense"}}}}, ".inputSchema"),
            ({"name": "a", "annotations": {"destructiveHint": "yes"}}, ".annotations.destructiveHint"),
            ({"name": "mine"}, ".name"),
            ({"name": "search"}, ".name"),
            ({"name": "approve"}, ".name"),
            ({"name": "calculator"}, ".name"),
        ]
        for tool, place in faulty:
            error = await fail(host, "plan", message="Do it", tools=["search", {"name": "mine"}, tool])
            assert (error["code"], error["field"]) == ("invalid_argument", f"tools[2]{place}"), error
            assert error["message"].startswith(f"tools[2]{place}"), error
        for type in ("plan.Task", "common.Message", "common.Conversation"):
            assert not (await call(host, "resource_list", type=type, depth=64))["resources"]


async def test_a_client_works_its_own_tasks_runs_its_own_tools_and_cancels(tmp_path: Path, model: OpenAI) -> None:
    camera = {"name": "camera", "description": "Takes a picture.", "inputSchema": {"type": "object"}}
    model.otherwise = scripted([Call("camera", "{}", "shot")], "a tree")
    async with hosted(tmp_path, model) as host:
        tasks = [{"id": "mine", "purpose": "Look", "assistant": "client"}, {"id": "ours", "purpose": "Take it"}]
        begun = await call(host, "plan", tasks=tasks, tools=[camera], wait_seconds=60)
        mine, ours = sorted(begun["waiting"])
        assert mine.endswith(".mine") and ours.endswith(".ours")
        [asked] = (await call(host, "task_get", uri=ours))["calls"]
        assert (asked["tool"], asked["key"], asked["client"]) == ("camera", "shot", True)
        wrong = await fail(host, "task_update", uri=ours, call_results={"nothing": "x"})
        assert "nothing" in wrong["message"]
        await call(host, "task_update", uri=ours, call_results={"shot": {"seen": "a tree"}})
        await call(host, "task_update", uri=mine, output="I looked")
        done = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
        assert done["status"] == "completed" and done["output"] == "a tree", done
        again = await call(host, "plan", tasks=tasks, tools=[camera], wait_seconds=60)
        stopped = await call(host, "task_cancel", uri=again["task"])
        assert len(stopped["cancelled"]) == 3 and stopped["left"] == []
        over = await fail(host, "task_update", uri=sorted(again["waiting"])[0], output="too late")
        assert "cancelled" in over["message"]


async def test_tools_that_are_given_are_all_that_a_task_may_use(tmp_path: Path, model: OpenAI) -> None:
    camera = {"name": "camera", "description": "Takes a picture.", "inputSchema": {"type": "object"}}
    model.otherwise = lambda request: Reply(
        '{"direct": true, "reason": "one step", "steps": []}' if "response_format" in request.body else "done"
    )
    async with hosted(tmp_path, model) as host:
        offered: list[list[str]] = []
        for given in ({}, {"tools": []}, {"tools": [camera]}, {"tools": ["search", camera]}):
            done = await call(host, "plan", message="Look", wait_seconds=60, **given)
            assert done["status"] == "completed", done
            offered.append([tool["function"]["name"] for tool in model.requests[-1].body.get("tools", ())])
    assert {"search", "resource_get"} <= set(offered[0])
    assert offered[1:] == [[], ["camera"], ["search", "camera"]]


@pytest.mark.parametrize("answer", ["approve", "edit", "reject", "by hand"])
async def test_a_question_three_levels_down_is_answered_from_the_other_host(
    tmp_path: Path, model: OpenAI, answer: str
) -> None:
    target = "cld:common.Text.kept"
    put = {"uri": target, "content": {"text": "new"}, "if_version": "*"}
    model.otherwise = scripted([Call("resource_put", json.dumps(put), "k")])
    data = data_with(approvals={"targets": {target: {"actions": ["write"], "subjects": ["kind:assistant"]}}})
    async with hosted(tmp_path, model, data=data) as one, hosted(tmp_path, model) as other:
        await call(other, "resource_put", uri=target, content={"text": "old"})
        deep = [{"id": "a", "purpose": "A", "steps": [{"id": "b", "purpose": "B", "steps": [{"purpose": "Write"}]}]}]
        begun = await call(one, "plan", tasks=deep, wait_seconds=60)
        assert "waiting" in begun, await call(one, "task_get", uri=begun["task"], depth=5)
        [waiting] = begun["waiting"]
        [asked] = (await call(other, "task_get", uri=waiting))["approvals"]
        assert asked["tool"] == "resource_put" and target in asked["reason"] and asked["arguments"] == put
        if answer == "by hand":
            file = tmp_path / "resources" / f"{asked['uri']}.json"
            resource = msgspec.json.decode(file.read_bytes())
            resource["content"]["decision"] = "approve"
            file.write_text(json.dumps(resource))
        elif answer == "edit":
            edited = {**put, "content": {"text": "edited"}}
            await call(other, "approve", uri=begun["task"], decision="edit", arguments=edited)
        else:
            await call(other, "approve", uri=begun["task"], decision=answer, reason="as I like")
            twice = await fail(other, "approve", uri=asked["uri"], decision="approve")
            assert twice["code"] == "conflict" and "answered before" in twice["message"]
        done = await call(one, "task_get", uri=begun["task"], wait_seconds=60, depth=5)
        assert done["status"] == "completed", done
        text = (await call(one, "resource_get", uri=target))["content"]["text"]
        assert text == {"reject": "old", "edit": "edited"}.get(answer, "new")
        [made] = (await call(other, "task_get", uri=waiting))["calls"]
        assert made["state"] == ("failed" if answer == "reject" else "finished")
        if answer == "reject":
            assert "user:local did not agree: as I like" in made["error"]["message"]


KEPT = "cld:common.Text.kept"


def asking_to_write(model: OpenAI) -> dict[str, Any]:
    """Have the model write `KEPT`; data of a policy by which a person has to agree to that."""
    model.otherwise = scripted([Call("resource_put", json.dumps({"uri": KEPT, "content": {"text": "x"}}), "k")])
    return data_with(approvals={"targets": {KEPT: {"actions": ["write"], "reason": "it is kept"}}})


class Person:
    """Somebody who does the same with all that they are asked."""

    def __init__(self, action: Any) -> None:
        self.questions: list[str] = []
        self._action = action

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.questions.append(params.message)
        return ElicitResult(action=self._action, content={} if self._action == "accept" else None)


async def test_a_host_that_can_ask_its_user_is_asked_while_it_waits(tmp_path: Path, model: OpenAI) -> None:
    data, person = asking_to_write(model), Person("accept")
    async with hosted(tmp_path, model, data=data, elicitation_callback=person) as host:
        done = await call(host, "plan", tasks=[{"id": "a", "purpose": "Write it"}], wait_seconds=60)
        assert done["status"] == "completed", done
        [question] = person.questions
        assert "resource_put" in question and "it is kept" in question and KEPT in question
        assert (await call(host, "resource_get", uri=KEPT))["content"] == {"text": "x"}


@pytest.mark.parametrize(
    ("mode", "action"), [("legacy", "accept"), *(("2026-07-28", action) for action in ("accept", "decline", "cancel"))]
)
async def test_who_looks_at_a_task_and_waits_is_asked_in_either_era(
    tmp_path: Path, model: OpenAI, mode: str, action: Any
) -> None:
    data, person = asking_to_write(model), Person(action)
    async with hosted(tmp_path, model, data=data) as one:
        begun = await call(one, "plan", tasks=[{"id": "a", "purpose": "Write it"}], wait_seconds=60)
        assert begun["waiting"] == [f"{begun['task']}/plan.Task.a"]
        async with hosted(tmp_path, model, data=data, mode=mode, elicitation_callback=person) as host:
            assert (await call(host, "task_get", uri=begun["task"]))["status"] == "supervising" and not person.questions
            found = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
        [question] = person.questions
        assert "resource_put" in question and "it is kept" in question and KEPT in question
        assert found["status"] == ("supervising" if action == "cancel" else "completed"), found
        assert (tmp_path / "resources" / f"{KEPT}.json").exists() == (action == "accept")


@pytest.mark.parametrize("answer", ["approve", "task_cancel", "nobody"])
async def test_a_dialogue_that_is_open_is_closed_when_it_is_answered_elsewhere_or_time_is_up(
    tmp_path: Path, model: OpenAI, answer: str
) -> None:
    target = "cld:common.Text.kept"
    model.otherwise = scripted([Call("resource_put", json.dumps({"uri": target, "content": {"text": "x"}}), "k")])
    data = data_with(approvals={"targets": {target: {"actions": ["write"], "reason": "it is kept"}}})
    opened, closed = anyio.Event(), anyio.Event()
    found: dict[str, Any] = {}

    async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        opened.set()
        try:
            await anyio.sleep_forever()
        finally:
            closed.set()

    async with (
        hosted(tmp_path, model, data=data) as other,
        hosted(tmp_path, model, data=data, elicitation_callback=person) as host,
        anyio.create_task_group() as group,
    ):
        begun = await call(other, "plan", tasks=[{"id": "a", "purpose": "Write it"}], wait_seconds=60)

        async def look() -> None:
            seconds = 2 if answer == "nobody" else 60
            found.update(await call(host, "task_get", uri=begun["task"], wait_seconds=seconds))

        group.start_soon(look)
        await opened.wait()
        if answer == "approve":
            await call(other, "approve", uri=begun["task"], decision="approve")
        elif answer == "task_cancel":
            await call(other, "task_cancel", uri=begun["task"])
        await closed.wait()
    state = {"approve": "completed", "task_cancel": "cancelled", "nobody": "supervising"}[answer]
    assert found["status"] == state, found
    assert (tmp_path / "resources" / f"{target}.json").exists() == (answer == "approve")


async def test_an_answer_that_comes_too_late_with_the_call_gives_how_far_the_task_is(
    tmp_path: Path, model: OpenAI
) -> None:
    target = "cld:common.Text.kept"
    model.otherwise = scripted([Call("resource_put", json.dumps({"uri": target, "content": {"text": "x"}}), "k")])
    data = data_with(approvals={"targets": {target: {"actions": ["write"], "reason": "it is kept"}}})

    async with hosted(tmp_path, model, data=data) as other:
        begun = await call(other, "plan", tasks=[{"id": "a", "purpose": "Write it"}], wait_seconds=60)

        async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            await call(other, "approve", uri=begun["task"], decision="approve")
            return ElicitResult(action="decline")

        async with hosted(tmp_path, model, data=data, mode="2026-07-28", elicitation_callback=person) as host:
            found = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
        assert found["status"] == "completed", found


@pytest.mark.parametrize("mode", MODES)
async def test_a_person_may_give_other_arguments_and_a_reason_and_what_cannot_be_read_is_no_answer(
    tmp_path: Path, model: OpenAI, mode: str
) -> None:
    target = "cld:common.Text.kept"
    put = {"uri": target, "content": {"text": "x"}}
    model.otherwise = scripted([Call("resource_put", json.dumps(put), "k")])
    data = data_with(approvals={"targets": {target: {"actions": ["write"], "reason": "it is kept"}}})
    other = json.dumps({**put, "content": {"text": "y"}})
    given: list[Any] = [{"arguments": "{oops"}, {"arguments": "[1]"}, {"arguments": other, "reason": "as I like"}]
    questions: list[str] = []

    async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        assert set(params.requested_schema["properties"]) == {"arguments", "reason"}  # type: ignore[union-attr]
        return ElicitResult(action="accept", content=given.pop(0))

    async with hosted(tmp_path, model, data=data) as one:
        begun = await call(one, "plan", tasks=[{"id": "a", "purpose": "Write it"}], wait_seconds=60)
        async with hosted(tmp_path, model, data=data, mode=mode, elicitation_callback=person) as host:
            found = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
            assert found["status"] == "supervising" and len(questions) == 2, found
            assert "no JSON object" in questions[1] and "it is kept" in questions[1]
            assert "no JSON object" not in questions[0]
            [question] = found["tasks"][0]["approvals"]
            found = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
            assert found["status"] == "completed" and not questions[3:], found
            assert (await call(host, "resource_get", uri=target))["content"] == {"text": "y"}
            kept = (await call(host, "resource_get", uri=question["uri"]))["content"]
            assert (kept["decision"], kept["comment"], kept["decided_by"]) == ("edit", "as I like", "user:local")


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_cannot_be_read_keeps_nobody_from_the_next_question(
    tmp_path: Path, model: OpenAI, mode: str
) -> None:
    data, given, questions = asking_to_write(model), [{"arguments": "{oops"}], list[str]()

    async def person(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content=given.pop() if given else {})

    two = [{"id": "a", "purpose": "Write it"}, {"id": "b", "purpose": "Write it again"}]
    async with hosted(tmp_path, model, data=data) as one:
        begun = await call(one, "plan", tasks=two, wait_seconds=60)
        async with hosted(tmp_path, model, data=data, mode=mode, elicitation_callback=person) as host:
            found = await call(host, "task_get", uri=begun["task"], wait_seconds=60)
    assert found["status"] == "completed" and len(questions) == 3, found


async def test_two_hosts_work_in_one_conversation_at_once(tmp_path: Path) -> None:
    conversation = "cld:common.Conversation.shared"
    async with hosted(tmp_path) as one, hosted(tmp_path, mode="2026-07-28") as other:
        done: list[dict[str, Any]] = []

        async def ask(host: Client, number: int) -> None:
            message = f"What is {number} times 7?"
            done.append(await call(host, "plan", message=message, conversation=conversation, wait_seconds=80))

        async with anyio.create_task_group() as group:
            for number in range(2, 6):
                group.start_soon(ask, (one, other)[number % 2], number)
        assert {found["status"] for found in done} == {"completed"}
        assert len({found["message"] for found in done}) == 4
        assert all(found["conversation"] == conversation for found in done)
        for host in (one, other):
            listed = await call(host, "resource_list", prefix=conversation, type="common.Message")
            assert len(listed["resources"]) == 4


async def test_what_is_done_is_reported_as_progress(tmp_path: Path, model: OpenAI) -> None:
    model.otherwise = scripted([Call("resource_list", "{}", "k")])
    said: list[str] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        said.append(message or "")

    async with hosted(tmp_path, model) as host:
        arguments = {"tasks": [{"id": "a", "purpose": "List it"}], "wait_seconds": 60}
        result = await host.call_tool("plan", arguments, progress_callback=heard)
        assert result.structured_content["status"] == "completed"
    assert any("List it: calling resource_list" in one for one in said), said


@pytest.mark.parametrize("mode", MODES)
async def test_all_that_a_model_has_written_is_told_while_it_pauses(tmp_path: Path, model: OpenAI, mode: str) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    model.otherwise = lambda _: Reply(text, hold_after=9)
    told = anyio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        if (message or "").rstrip().endswith("…one two three four five six seven eight"):
            told.set()

    async with hosted(tmp_path, model, mode) as host, anyio.create_task_group() as group:
        arguments = {"message": "Count", "wait_seconds": 60}
        group.start_soon(lambda: host.call_tool("assistant_general", arguments, progress_callback=heard))
        await told.wait()
        model.release()


async def test_the_list_of_tools_stays_small(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        await call(host, "plan", message="What is 1 plus 1?", wait_seconds=60)  # now there are assistants
        listed = (await host.list_tools()).tools
        names = [tool.name for tool in listed]
        assert {"plan", "task_get", "task_update", "task_cancel", "approve"} <= set(names)
        size = len(msgspec.json.encode([tool.model_dump(by_alias=True, exclude_none=True) for tool in listed]))
        assert size <= MOST_LIST, size


@pytest.mark.timeout(280)
def test_the_inspectors_command_line_has_something_planned_and_done(tmp_path: Path) -> None:
    need_packages()
    done = subprocess.run(
        [
            *(str(NODE), str(INSPECTOR), "--cli", sys.executable, SERVER),
            *("--root", str(tmp_path / "resources"), "--policies", str(ROOT / "policies")),
            *("--method", "tools/call", "--tool-name", "plan", "--tool-arg", "message=What is 6 times 7?"),
        ],
        env={**environment(), "CLD_CONFIG": settings_in(tmp_path)["CLD_CONFIG"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)["structuredContent"]
    assert answer["status"] == "completed" and "42" in answer["answer"]
