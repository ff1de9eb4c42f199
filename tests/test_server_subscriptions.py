"""Subscriptions: both eras are told of the same changes, each decided by the guard when it happens."""

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp_types import (
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ToolListChangedNotification,
)
from policy_folder import Folder
from server_world import MODES, World, client, world
from test_server_tools import tool

from cld import runtime as runtime_module
from cld.config import Settings, Watch
from cld.policy import Action, Context
from cld.principal import Principal
from cld.resource import Draft
from cld.runtime import Runtime
from cld.server import subscriptions
from cld.server.access import Identity
from cld.server.application import Application
from cld.server.subscriptions import pattern_of
from cld.uri import URI

pytestmark = [
    pytest.mark.anyio,
    # What the handshake protocols have is deprecated in the SDK's client, and served all the same.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

TOP = "cld:my.A.a"


class Ear:
    """What a client was told, whichever way; `heard` waits for one thing, and forgets what came before."""

    def __init__(self) -> None:
        send, self._receive = anyio.create_memory_object_stream[Any](1000)
        self.tell = send.send_nowait
        self._send = send

    async def heard(self, wanted: Any) -> list[Any]:
        before: list[Any] = []
        with anyio.fail_after(20):
            while (told := await self._receive.receive()) != wanted:
                before.append(told)
        return before

    def close(self) -> None:
        self._send.close()
        self._receive.close()


@asynccontextmanager
async def listening(
    made: World, mode: str, *uris: str, tools: bool = False, prompts: bool = False, resources: bool = False
) -> AsyncGenerator[tuple[Client, Ear]]:
    """A client that is told of changes of `uris`, and of the lists asked for, in its era's way."""
    ear = Ear()

    async def handle(message: Any) -> None:
        match message:
            case ResourceUpdatedNotification(params=params):
                ear.tell(ResourceUpdated(params.uri))
            case ToolListChangedNotification():
                ear.tell(ToolsListChanged())
            case PromptListChangedNotification():
                ear.tell(PromptsListChanged())
            case ResourceListChangedNotification():
                ear.tell(ResourcesListChanged())
            case _:
                pass

    try:
        if mode == "legacy":
            async with client(made, mode, message_handler=handle) as host:
                if tools:
                    await host.list_tools()
                if prompts:
                    await host.list_prompts()
                if resources:
                    await host.list_resources()
                for uri in uris:
                    await host.subscribe_resource(uri)
                yield host, ear
            return
        async with (
            client(made, mode) as host,
            host.listen(
                tools_list_changed=tools,
                prompts_list_changed=prompts,
                resources_list_changed=resources,
                resource_subscriptions=uris,
            ) as stream,
            anyio.create_task_group() as tasks,
        ):

            async def listen() -> None:
                async for event in stream:
                    ear.tell(event)

            tasks.start_soon(listen)
            yield host, ear
            tasks.cancel_scope.cancel()
    finally:
        ear.close()


async def write(made: World, uri: str, **content: Any) -> None:
    await made.store.put(Draft(URI(uri), content), by="user:eve", if_version="*")


@pytest.mark.parametrize("mode", MODES)
async def test_who_subscribed_to_a_uri_is_told_of_its_changes_only(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made:
        await write(made, TOP)
        async with listening(made, mode, TOP, "cld:my.A.later") as (_, ear):
            await write(made, f"{TOP}/my.B.b")
            await write(made, "cld:my.A.ab")
            await write(made, "cld:my.A.later")
            assert await ear.heard(ResourceUpdated("cld:my.A.later")) == []
            await write(made, TOP, changed=True)
            assert set(await ear.heard(ResourceUpdated(TOP))) <= {ResourceUpdated("cld:my.A.later")}
            await made.store.delete(URI("cld:my.A.later"))
            await ear.heard(ResourceUpdated("cld:my.A.later"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pattern", [f"{TOP}/**", "cld:/my.A.a/**"])
async def test_two_stars_mean_everything_below_and_the_resource_itself_is_not(
    tmp_path: Path, mode: str, pattern: str
) -> None:
    async with world(tmp_path) as made, listening(made, mode, pattern) as (_, ear):
        await write(made, TOP)
        await write(made, "cld:my.A.ab/my.B.b")
        await write(made, f"{TOP}/my.B.b")
        assert await ear.heard(ResourceUpdated(f"{TOP}/my.B.b")) == []
        await write(made, f"{TOP}/my.B.b/my.C.c")
        assert set(await ear.heard(ResourceUpdated(f"{TOP}/my.B.b/my.C.c"))) <= {ResourceUpdated(f"{TOP}/my.B.b")}


@pytest.mark.parametrize("mode", MODES)
async def test_a_uri_is_told_as_the_host_wrote_it(tmp_path: Path, mode: str) -> None:
    mangled = "cld://dylo78gypmy.A.a"
    async with world(tmp_path) as made, listening(made, mode, mangled) as (_, ear):
        await write(made, TOP)
        await ear.heard(ResourceUpdated(mangled))


@pytest.mark.parametrize("mode", MODES)
async def test_each_change_is_decided_on_when_it_happens(tmp_path: Path, mode: str) -> None:
    hidden = {"cld:my.A.secret"}

    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return uri not in hidden

    async with (
        world(tmp_path, rule) as made,
        listening(made, mode, "cld:**", "cld:my.A.secret", resources=True) as (_, ear),
    ):
        await write(made, "cld:my.A.secret")
        await write(made, "cld:my.A.one")
        assert ResourceUpdated("cld:my.A.secret") not in await ear.heard(ResourceUpdated("cld:my.A.one"))
        hidden.add("cld:my.A.one")
        hidden.remove("cld:my.A.secret")
        await write(made, "cld:my.A.one", changed=True)
        await write(made, "cld:my.A.secret", changed=True)
        told = await ear.heard(ResourceUpdated("cld:my.A.secret"))
        assert ResourceUpdated("cld:my.A.one") not in told


async def test_who_unsubscribed_is_told_no_more(tmp_path: Path) -> None:
    async with world(tmp_path) as made, listening(made, "legacy", TOP, "cld:my.A.b") as (host, ear):
        await host.unsubscribe_resource("cld:///my.A.a")
        await host.unsubscribe_resource("cld:my.A.never")
        await write(made, TOP)
        await write(made, "cld:my.A.b")
        assert await ear.heard(ResourceUpdated("cld:my.A.b")) == []


@pytest.mark.parametrize("mode", MODES)
async def test_lists_that_change_are_told_and_those_that_do_not_are_not(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made:
        await write(made, TOP)
        async with listening(made, mode, TOP, tools=True, prompts=True, resources=True) as (_, ear):
            made.application.registry.replace("more", [tool("one_more")])
            assert await ear.heard(ToolsListChanged()) == []
            for turn in range(2):
                await write(made, TOP, changed=turn)  # the list stays as it is
                assert await ear.heard(ResourceUpdated(TOP)) == []
                await anyio.sleep(0.5)  # longer than changes of lists are held back
            await write(made, "cld:common.Prompt.p", template="x")
            first = await ear.heard(PromptsListChanged())
            if first != [ResourcesListChanged()]:
                assert await ear.heard(ResourcesListChanged()) == []
            await made.store.delete(URI("cld:common.Prompt.p"))
            await ear.heard(PromptsListChanged())


@pytest.mark.parametrize("mode", MODES)
async def test_many_changes_of_a_list_are_told_together(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, listening(made, mode, "cld:my.A.last", resources=True) as (_, ear):
        for number in range(30):
            await write(made, f"cld:my.A.n{number}")
            await anyio.sleep(0.01)
        await write(made, "cld:my.A.last")
        told = await ear.heard(ResourceUpdated("cld:my.A.last"))
        # A moment is 0.2 seconds: a slow machine may need several for all of them.
        assert 1 <= told.count(ResourcesListChanged()) <= 10


@pytest.mark.parametrize("mode", MODES)
async def test_a_list_is_told_changed_only_to_who_may_see_the_change(tmp_path: Path, mode: str) -> None:
    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return "secret" not in uri

    async with world(tmp_path, rule) as made, listening(made, mode, "cld:my.A.last", resources=True) as (_, ear):
        await write(made, "cld:my.A.secret")
        await made.store.delete(URI("cld:my.A.secret"))
        await anyio.sleep(0.5)  # longer than changes are held back
        await write(made, "cld:my.A.last")
        assert await ear.heard(ResourceUpdated("cld:my.A.last")) == []


@pytest.mark.parametrize("wrong", ["cld:", "file:///etc/passwd", "cld:my.A.a/*", "cld:my.A.a**", "cld:../**"])
async def test_what_is_neither_uri_nor_pattern_is_refused(tmp_path: Path, wrong: str) -> None:
    async with world(tmp_path) as made:
        async with client(made, "legacy") as host:
            with pytest.raises(MCPError, match="no cld: URI"):
                await host.subscribe_resource(wrong)
        async with client(made, "2026-07-28") as host:
            with pytest.raises(MCPError, match="no cld: URI"):
                async with host.listen(resource_subscriptions=[wrong]):
                    pass


@pytest.mark.parametrize("mode", MODES)
async def test_what_cannot_be_watched_is_refused_and_not_promised(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*wanted: Any) -> Any:
        raise OSError("no more watches")

    async with world(tmp_path) as made:
        monkeypatch.setattr(made.runtime, "hear", broken)
        with pytest.raises((MCPError, ExceptionGroup)) as caught:
            async with listening(made, mode, TOP):
                pass
        assert "cannot be watched" in "".join(traceback.format_exception(caught.value))


def test_patterns_are_read_as_hosts_write_them() -> None:
    assert pattern_of("cld:**").prefix == pattern_of("cld:/**").prefix == pattern_of("cld:///**").prefix == "cld:"
    assert pattern_of("cld:my.A.a/**").told_as(URI("cld:my.A.ab/my.B.b")) is None
    assert pattern_of("cld:**").told_as(URI(TOP)) == TOP


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_left_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made:
        before = _tasks()
        async with listening(made, mode, TOP, "cld:**", tools=True, prompts=True, resources=True) as (_, ear):
            await write(made, TOP)
            await ear.heard(ResourceUpdated(TOP))
        with anyio.fail_after(5):
            while any("cld/server" in name for name in {str(task) for task in _tasks() - before}):
                await anyio.sleep(0.01)
        assert not made.application.subscriptions._feeds
        assert not made.application.registry._listeners


def _tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks()


async def test_what_a_token_allowed_ends_with_it(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        who = made.runtime.principal
        made.application = Application(made.runtime, lambda _: Identity(who, time.time() + 0.3))
        async with client(made, "2026-07-28") as host, host.listen(resource_subscriptions=[TOP]) as stream:
            with anyio.fail_after(10):
                async for _ in stream:
                    pass


async def test_who_subscribes_again_after_the_token_ended_is_told_again(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await write(made, TOP)
        who, ends = made.runtime.principal, time.time() + 0.3
        made.application = Application(made.runtime, lambda _: Identity(who, ends))
        async with listening(made, "legacy", TOP, resources=True) as (host, ear):
            await write(made, TOP, turn=1)
            await ear.heard(ResourceUpdated(TOP))
            await anyio.sleep(max(0.0, ends - time.time()) + 0.1)
            await write(made, TOP, turn=2)
            ends = time.time() + 60
            await host.subscribe_resource(TOP)
            await host.list_resources()
            await write(made, TOP, turn=3)
            await write(made, "cld:my.A.new")
            told = await ear.heard(ResourceUpdated(TOP))
            assert ResourcesListChanged() in told or await ear.heard(ResourcesListChanged()) == []


async def test_a_renewed_token_prolongs_what_is_subscribed_to(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        who, ends = made.runtime.principal, time.time() + 0.5
        made.application = Application(made.runtime, lambda _: Identity(who, ends))
        async with listening(made, "legacy", TOP) as (host, ear):
            first, ends = ends, time.time() + 60
            await host.subscribe_resource(TOP)
            await anyio.sleep(max(0.0, first - time.time()) + 0.1)
            await write(made, TOP)
            await ear.heard(ResourceUpdated(TOP))


@pytest.mark.parametrize("mode", MODES)
async def test_a_change_whose_decision_could_not_be_logged_is_told_once_it_can(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_SECONDS", 0.01)
    async with world(tmp_path) as made, listening(made, mode, TOP) as (_, ear):
        made.journal.broken = True
        asked = len(made.policy.questions)
        await write(made, TOP)
        with anyio.fail_after(20):
            while len(made.policy.questions) < asked + 3:
                await anyio.sleep(0.01)
        made.journal.broken = False
        await ear.heard(ResourceUpdated(TOP))


@pytest.mark.parametrize("mode", MODES)
async def test_one_principal_does_not_take_all_the_room_for_being_told(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "FEEDS_PER_PRINCIPAL", 1)
    async with world(tmp_path) as made, listening(made, mode, TOP):
        with pytest.raises((MCPError, ExceptionGroup)) as caught:
            async with listening(made, mode, TOP):
                pass
        assert "end some first" in "".join(traceback.format_exception(caught.value))
        made.who = Principal("user:bob", "user")
        async with listening(made, mode, TOP):
            pass


async def test_who_is_not_told_of_changed_lists_gets_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "FEEDS_PER_PRINCIPAL", 0)
    async with world(tmp_path) as made, client(made, "legacy") as host:
        assert (await host.list_tools()).tools


@pytest.mark.parametrize("mode", MODES)
async def test_an_edit_of_the_rules_that_takes_a_tool_away_changes_the_list_and_another_does_not(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "REFRESH_SECONDS", 0.05)
    folder = Folder(tmp_path)
    settings = Settings(
        root=str(tmp_path / "tree"), policies=str(folder.path), durability="none", watch=Watch(poll_seconds=0.05)
    )
    async with Runtime.open(settings) as runtime:
        made = Opened(runtime)
        async with listening(made, mode, TOP, tools=True) as (_, ear):  # type: ignore[arg-type]
            data = folder.read_data()
            folder.write_data({**data, "limits": {}})
            await anyio.sleep(0.5)  # longer than edits go unseen, and changes of lists are held back
            await runtime.store(runtime.principal, Context()).put(Draft(URI(TOP), {}))
            assert await ear.heard(ResourceUpdated(TOP)) == []
            no_put = {"anyone": {"cld:tool.Tool.resource_put": {"deny": ["call"]}}}
            folder.write_data({**data, "denies": no_put})
            assert await ear.heard(ToolsListChanged()) == []


class Opened:
    """What `listening` needs of a world, over a runtime with real rules."""

    def __init__(self, runtime: Runtime) -> None:
        self.application = Application(runtime, lambda _: Identity(runtime.principal))
