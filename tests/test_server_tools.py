"""Tools: what they answer, how they fail, and who sees which, in both protocol eras."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from server_world import ADA, BOB, MODES, call, client, fail, world

from cld.config import Settings
from cld.errors import ConfigError, PolicyError
from cld.policy import Action
from cld.principal import Principal
from cld.runtime import Runtime
from cld.server.access import Identity
from cld.server.application import Application
from cld.server.call import Reply
from cld.server.registry import READS, Annotations, Registry, Tool, select
from cld.server.resources_tools import CORE, MORE
from cld.uri import URI

pytestmark = pytest.mark.anyio

RULES = Path(__file__).parent.parent / "policies"
TEXT = "cld:common.Text.a"
ALL = [
    "resource_get", "resource_put", "resource_list", "resource_delete", "search", "graph_query",
    "plan", "task_get", "task_update", "task_cancel", "approve",
    "resource_history", "resource_restore", "task_branch", "task_compare", "events_wait", "event_publish",
    "policy_explain", "tool_list", "model_status", "context_get", "ingest",
]  # fmt: skip


def no_deletes(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    return not (action == "call" and uri == "cld:tool.Tool.resource_delete")


@pytest.mark.parametrize("mode", MODES)
async def test_resources_are_written_read_listed_restored_and_deleted(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        created = await call(host, "resource_put", uri=TEXT, content={"text": "one"}, meta={"purpose": "to test"})
        assert created["uri"] == TEXT and created["revision"] == 1

        read = await host.call_tool("resource_get", {"uri": "cld:///common.Text.a"})
        assert read.structured_content["content"] == {"text": "one"}
        assert read.structured_content["version"] == created["version"]
        assert read.structured_content["meta"]["purpose"] == "to test"
        assert read.structured_content["created_by"] == ADA.id
        assert json.loads(read.content[0].text) == {"text": "one"}

        replaced = await call(host, "resource_put", uri=TEXT, content={"text": "two"}, if_version=created["version"])
        assert replaced["revision"] == 2
        assert (await call(host, "resource_get", uri=TEXT, version=created["version"]))["content"] == {"text": "one"}

        versions = (await call(host, "resource_history", uri=TEXT))["versions"]
        assert [one["version"] for one in versions] == [replaced["version"], created["version"]]
        assert [one["current"] for one in versions] == [True, False]

        restored = await call(
            host, "resource_restore", uri=TEXT, version=created["version"], if_version=replaced["version"]
        )
        assert restored["revision"] == 3

        listed = await call(host, "resource_list")
        assert [one["uri"] for one in listed["resources"]] == [TEXT]
        assert listed["resources"][0]["version"] == restored["version"]
        assert listed["next_cursor"] is None

        assert await call(host, "resource_delete", uri=TEXT) == {"uri": TEXT, "deleted": 1}
        assert (await fail(host, "resource_get", uri=TEXT))["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_without_a_version_put_creates_and_nothing_else(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        first = await call(host, "resource_put", uri=TEXT, content={"text": "1"})
        error = await fail(host, "resource_put", uri=TEXT, content={"text": "2"})
        assert error["code"] == "conflict" and error["current_version"] == first["version"]
        error = await fail(host, "resource_put", uri=TEXT, content={"text": "2"}, if_version="0" * 32)
        assert error["code"] == "conflict" and error["current_version"] == first["version"]
        assert (await call(host, "resource_put", uri=TEXT, content={"text": "2"}, if_version="*"))["revision"] == 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_long_list_is_paged_without_gaps_or_repeats(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        for number in range(7):
            await call(host, "resource_put", uri=f"cld:common.Text.n{number}", content={"text": ""})
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await call(host, "resource_list", limit=3, **cursor)
            found += [one["uri"] for one in page["resources"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == [f"cld:common.Text.n{number}" for number in range(7)]
        assert (await fail(host, "resource_list", cursor="made up"))["field"] == "cursor"


@pytest.mark.parametrize("mode", MODES)
async def test_exact_numbers_and_nulls_come_back_as_they_went(tmp_path: Path, mode: str) -> None:
    content = {"big": 2**70, "none": None, "list": [None, 1.5, {"deep": None}], "text": "\u2028 ü 🎈"}
    async with world(tmp_path) as made, client(made, mode) as host:
        await call(host, "resource_put", uri="cld:my.Thing.a", content=content)
        assert (await call(host, "resource_get", uri="cld:my.Thing.a"))["content"] == content


@pytest.mark.parametrize("mode", MODES)
async def test_every_tool_is_fully_described_and_what_it_answers_fits_its_schema(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        tools = {tool.name: tool for tool in (await host.list_tools()).tools}
        assert list(tools) == ALL
        for tool in tools.values():
            assert tool.title and tool.description and len(tool.name) <= 48
            assert tool.annotations is not None
            hints = tool.annotations.model_dump(exclude={"title"})
            assert len(hints) == 4 and all(isinstance(hint, bool) for hint in hints.values())
            jsonschema.Draft202012Validator.check_schema(tool.input_schema)
            assert tool.output_schema is not None
            jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        await call(host, "resource_put", uri=TEXT, content={"text": "one"})
        calls: list[tuple[str, dict[str, Any]]] = [
            ("resource_get", {"uri": TEXT}),
            ("resource_list", {}),
            ("resource_history", {"uri": TEXT}),
            ("events_wait", {"timeout_seconds": 0}),
            ("event_publish", {"stream": "s", "name": "n"}),
            ("resource_delete", {"uri": TEXT}),
        ]
        for name, arguments in calls:
            good = await host.call_tool(name, arguments)
            assert not good.is_error
            jsonschema.validate(good.structured_content, tools[name].output_schema)
            bad = await host.call_tool(name, {"nonsense": 1})
            assert bad.is_error
            jsonschema.validate(bad.structured_content, tools[name].output_schema)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({}, tools[name].output_schema)


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_argument_is_told_with_its_field(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        error = await fail(host, "resource_list", limit=0)
        assert error == {"code": "invalid_argument", "message": "limit: expected `int` >= 1", "field": "limit"}
        error = await fail(host, "resource_get", uri="cld:../../etc/passwd")
        assert error["code"] == "invalid_uri" and error["field"] == "uri"


async def test_a_file_that_is_no_resource_is_told_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "cld:common.Text.bad.json").write_text('{\n  "content": }')
    async with world(tmp_path) as made, client(made, "legacy") as host:
        error = await fail(host, "resource_get", uri="cld:common.Text.bad")
        assert (error["code"], error["line"], error["column"]) == ("invalid_resource", 2, 14)
        rows = (await call(host, "resource_list"))["resources"]
        assert rows[0]["uri"] == "cld:common.Text.bad" and "line 2" in rows[0]["invalid"]


@pytest.mark.parametrize("mode", MODES)
async def test_only_tools_that_may_be_called_are_listed(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path, no_deletes) as made, client(made, mode) as host:
        names = [tool.name for tool in (await host.list_tools()).tools]
        assert names == [name for name in ALL if name != "resource_delete"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_denied_tool_looks_like_an_unknown_one(tmp_path: Path, mode: str) -> None:
    said: list[str] = []

    async def delete(host: Client) -> None:
        for arguments in ({"uri": TEXT}, {"nonsense": 1}):
            with pytest.raises(MCPError) as caught:
                await host.call_tool("resource_delete", arguments)
            said.append(f"{caught.value.error.code} {caught.value.error.message} {caught.value.error.data}")

    async with world(tmp_path, no_deletes) as made, client(made, mode) as host:
        await call(host, "resource_put", uri=TEXT, content={"text": "stays"})
        await delete(host)
        await call(host, "resource_get", uri=TEXT)
    others = ",".join(name for name in ALL if name != "resource_delete")
    async with world(tmp_path, tools=others) as made, client(made, mode) as host:
        await delete(host)
    assert len(said) == 4 and len(set(said)) == 1


async def test_policy_is_asked_with_the_arguments_as_the_tool_reads_them(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        await call(host, "resource_put", uri="cld://dylo78gypcommon.Text.a", content={"text": "x"})
        asked = [line for line in made.journal.lines if line[1] == "call" and len(line) == 6]
        assert asked[-1][2] == "cld:tool.Tool.resource_put"
        context = asked[-1][3]
        assert context.tool == "resource_put"
        assert context.arguments == {"uri": TEXT, "content": {"text": "x"}}
        assert context.host == "mcp"


@pytest.mark.parametrize("mode", MODES)
async def test_who_is_asking_is_never_what_they_say(tmp_path: Path, mode: str) -> None:
    meta: Any = {"principal": BOB.id, "user": BOB.id}
    async with world(tmp_path) as made, client(made, mode) as host:
        await host.call_tool("resource_put", {"uri": TEXT, "content": {"text": "x", "created_by": BOB.id}}, meta=meta)
        assert (await call(host, "resource_get", uri=TEXT))["created_by"] == ADA.id
        assert (await fail(host, "resource_get", uri=TEXT, principal=BOB.id))["field"] == "principal"
        assert {line[0].id for line in made.journal.lines} == {ADA.id}


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_not_meant_to_happen_is_told_without_details(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def burst(call: Any, args: Any) -> Reply:
        raise RuntimeError("/secret/path")

    async with world(tmp_path) as made:
        broken = Tool("broken", "Broken", "Fails", {"type": "object"}, dict, burst, READS)
        made.application.registry.replace("test", [broken])
        async with client(made, mode) as host:
            error = await fail(host, "broken")
    assert error["code"] == "internal" and "/secret" not in error["message"]
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_is_allowed_when_decisions_cannot_be_written_down(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        await call(host, "resource_put", uri=TEXT, content={"text": "x"})
        made.journal.broken = True
        assert (await fail(host, "resource_get", uri=TEXT))["code"] == PolicyError.code
        with pytest.raises(MCPError, match="decision log"):
            await host.list_tools()
        with pytest.raises(MCPError, match="decision log"):
            await host.read_resource(TEXT)


async def test_the_default_list_of_tools_is_small(tmp_path: Path) -> None:
    async with world(tmp_path, tools="core") as made, client(made, "2026-07-28") as host:
        listed = await host.list_tools()
        assert [tool.name for tool in listed.tools] == ALL[:11]
        assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) < 12_000


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("core", ["resource_get", "resource_put", "resource_list", "resource_delete"]),
        (
            "all",
            [
                "resource_get",
                "resource_put",
                "resource_list",
                "resource_delete",
                "resource_history",
                "resource_restore",
            ],
        ),
        ("resource_restore, resource_get", ["resource_get", "resource_restore"]),
        (
            "core,resource_history",
            ["resource_get", "resource_put", "resource_list", "resource_delete", "resource_history"],
        ),
    ],
)
def test_tools_are_chosen_by_group_and_name_and_keep_their_order(setting: str, names: list[str]) -> None:
    assert [tool.name for tool in select(setting, CORE, MORE)] == names


@pytest.mark.parametrize("setting", ["", ",", "cores", "core,delete_everything"])
def test_choosing_what_is_no_tool_says_what_there_is(setting: str) -> None:
    with pytest.raises(ConfigError, match="resource_get"):
        select(setting, CORE, MORE)


def tool(name: str) -> Tool:
    async def handle(call: Any, args: Any) -> Reply:
        return Reply({}, name)

    return Tool(name, name, name, {"type": "object"}, dict, handle, Annotations(False, False, False))


def test_a_registry_keeps_its_order_and_tells_of_changes_only() -> None:
    registry = Registry()
    told: list[int] = []
    end = registry.on_change(lambda: told.append(1))
    first, second, third = tool("a"), tool("b"), tool("c")
    registry.replace("one", [first])
    registry.replace("two", [second])
    registry.replace("one", [first, third])
    assert [each.name for each in registry.tools()] == ["a", "c", "b"]
    assert len(told) == 2
    registry.replace("one", [first, third])
    assert len(told) == 2
    end()
    registry.replace("two", [])
    assert len(told) == 2
    assert registry.find("b") is None


def test_the_first_group_to_take_a_name_keeps_it() -> None:
    registry = Registry()
    mine, theirs = tool("same"), tool("same")
    registry.replace("cld", [mine])
    registry.replace("tree", [theirs])
    assert registry.find("same") is mine
    assert list(registry.tools()) == [mine]


def test_a_tool_is_decided_on_by_its_own_uri() -> None:
    assert tool("a").uri == "cld:tool.Tool.a"
    placed = Tool("b", "b", "b", {}, dict, tool("b").handle, READS, uri=URI("cld:cld.Namespace.n/tool.Tool.b"))
    assert placed.uri == "cld:cld.Namespace.n/tool.Tool.b"


@pytest.mark.parametrize("mode", MODES)
async def test_a_name_that_is_none_is_told_with_those_like_it_that_the_caller_may_call(
    tmp_path: Path, mode: str
) -> None:
    async with world(tmp_path, no_deletes) as made, client(made, mode) as host:
        for name, hint in (
            ("resource_git", "names like it: resource_get, resource_"),
            ("resource_delete", "names like it: resource_"),
            ("zzz", "tools/list shows"),
        ):
            with pytest.raises(MCPError) as caught:
                await host.call_tool(name, {})
            told = caught.value.error.message
            assert told.startswith(f"Unknown tool: {name}; {hint}"), told
            assert "resource_delete" not in told.partition(";")[2]


@pytest.mark.parametrize("mode", MODES)
async def test_without_valid_rules_every_answer_says_why_and_none_says_where(tmp_path: Path, mode: str) -> None:
    policies = tmp_path / "the rules"
    policies.mkdir()
    (policies / "data.json").write_text("{")
    settings = Settings(root=str(tmp_path / "my tree"), policies=str(policies), durability="none")
    async with Runtime.open(settings) as runtime:
        application = Application(runtime, lambda _: Identity(runtime.principal))
        async with Client(application.server(), mode=mode) as host:  # type: ignore[arg-type]
            assert (await host.list_tools()).tools == []
            said = [host.instructions or ""] if mode == "legacy" else []  # else they come with discover
            error = await fail(host, "resource_get", uri="cld:my.A.a")
            assert error["code"] == "policy_error"
            said.append(error["message"])
            for asked in (host.read_resource("cld:my.A.a"), host.get_prompt("p")):
                with pytest.raises(MCPError) as caught:
                    await asked
                assert caught.value.error.code == -32603 and caught.value.error.data["code"] == "policy_error"
                said.append(json.dumps(caught.value.error.data))
            for text in said:
                assert "no valid policy" in text and "policy.wasm" in text, text
                assert str(tmp_path) not in text and "the rules" not in text.replace("…/the rules", ""), text
            with pytest.raises(MCPError, match="Unknown tool"):
                await host.call_tool("none", {})


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_wrong_with_the_server_is_told_without_paths(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*line: Any) -> None:
        raise PolicyError(f"the log in {tmp_path}/x/.cld/log ([Errno 28]: '/var/a/b.jsonl') is full; free space")

    async with world(tmp_path) as made, client(made, mode) as host:
        made.journal._write = broken  # type: ignore[method-assign]
        error = await fail(host, "resource_get", uri="cld:my.A.a")
        assert error["message"] == "the log in …/log ([Errno 28]: '…/b.jsonl') is full; free space"
        with pytest.raises(MCPError) as caught:
            await host.read_resource("cld:my.A.a")
        assert caught.value.error.code == -32603 and "/" not in caught.value.error.message.replace("…/", "")
        assert f"{tmp_path}/x/.cld/log" in caplog.text


async def test_an_explanation_of_a_call_knows_that_the_tool_destroys(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path / "tree"), policies=str(RULES), durability="none", tools="all")
    async with Runtime.open(settings) as runtime:
        application = Application(runtime, lambda _: Identity(runtime.principal))
        hints = Annotations(read_only=False, destructive=True, idempotent=False)
        application.registry.replace("test", [dataclasses.replace(tool("wipe"), annotations=hints), tool("look")])
        async with Client(application.server()) as host:
            for name, asked in (("wipe", True), ("look", False)):
                found = await call(host, "policy_explain", action="call", uri=f"cld:tool.Tool.{name}")
                assert ("require_approval" in found["decisions"][0]["obligations"]) is asked
