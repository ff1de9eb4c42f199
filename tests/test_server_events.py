"""Waiting for changes by calls alone: nothing is lost between them, and nothing is kept for ever."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp import Client
from server_world import ADA, BOB, MODES, World, call, client, fail, world

from cld.events import Event
from cld.policy import Action
from cld.principal import Principal
from cld.resource import Draft
from cld.server import call as call_module
from cld.server import inboxes
from cld.uri import ROOT, URI

pytestmark = pytest.mark.anyio


async def wait(host: Client, **arguments: Any) -> dict[str, Any]:
    return await call(host, "events_wait", **{"timeout_seconds": 20, **arguments})


async def write(made: World, uri: str) -> None:
    await made.store.put(Draft(URI(uri), {"text": ""}), by="user:eve", if_version="*")


def uris(answer: Mapping[str, Any]) -> list[str]:
    return [event["uri"] for event in answer["events"]]


async def until(made: World, host: Client, cursor: str, wanted: set[str]) -> str:
    """Wait until all of `wanted` has been told; the cursor after it."""
    while wanted:
        answer = await wait(host, cursor=cursor)
        assert "missed" not in answer
        wanted = wanted - set(uris(answer))
        cursor = answer["cursor"]
    return cursor


@pytest.mark.parametrize("mode", MODES)
async def test_a_change_by_anybody_ends_the_wait(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        first = await wait(host, timeout_seconds=0)
        assert first["events"] == []
        (tmp_path / "cld:common.Text.a.json").write_text('{"content": {"text": "by hand"}}')
        answer = await wait(host, cursor=first["cursor"])
        assert uris(answer) == ["cld:common.Text.a"]
        assert answer["events"][0]["change"] == "put" and answer["events"][0]["version"]
        (tmp_path / "cld:common.Text.a.json").unlink()
        answer = await wait(host, cursor=answer["cursor"])
        assert answer["events"][0]["change"] == "delete" and answer["events"][0]["version"] is None


@pytest.mark.parametrize("mode", MODES)
async def test_what_happens_between_two_calls_is_told(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        for turn in range(3):
            wanted = {f"cld:common.Text.t{turn}x{number}" for number in range(20)}
            for uri in wanted:
                await write(made, uri)
            cursor = await until(made, host, cursor, wanted)


async def test_an_answer_that_got_lost_is_given_again(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        first = (await wait(host, timeout_seconds=0))["cursor"]
        await write(made, "cld:common.Text.a")
        lost = await wait(host, cursor=first)
        again = await wait(host, cursor=first)
        assert again == lost
        await write(made, "cld:common.Text.b")
        assert uris(await wait(host, cursor=again["cursor"])) == ["cld:common.Text.b"]


async def test_an_event_in_hand_when_a_wait_ends_is_not_lost() -> None:
    event = Event("put", URI("cld:my.A.a"), "v", "test", "t", "e")
    decided = asyncio.Event()

    class Slow:
        """A subscription that has taken an event and is still deciding whether it may be told."""

        async def next(self) -> Event:
            await decided.wait()
            return event

    class Source:
        def hear(self, *wanted: Any) -> Any:
            return contextlib.nullcontext(Slow())

    inbox = inboxes.Inbox(ADA)
    await inbox.open(cast(Any, Source()), cast(Any, None), inboxes.Wanted(ROOT, None, None))
    first = await inbox.take("0", 0.01)
    assert first is not None and first.events == ()
    reading = inbox._reading
    with anyio.move_on_after(0.05):
        await inbox.take("0", 20)
    assert inbox._reading is reading and reading is not None and not reading.cancelled()
    decided.set()
    told = await inbox.take("0", 20)
    assert told is not None and told.events[0] is event
    await inbox.aclose()


async def test_a_cancelled_wait_loses_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        with anyio.move_on_after(0.2):
            await wait(host, cursor=cursor)
        await write(made, "cld:common.Text.a")
        assert uris(await wait(host, cursor=cursor)) == ["cld:common.Text.a"]

        assert len(made.application.inboxes) == 1
        with anyio.move_on_after(0.2):
            await wait(host)  # its cursor is never learnt
        with anyio.fail_after(5):
            while len(made.application.inboxes) > 1:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("mode", MODES)
async def test_prefix_types_and_changes_narrow_what_is_told(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        narrow: dict[str, Any] = {
            "prefix": "cld:common.Conversation.c",
            "types": ["common.Message"],
            "changes": ["put"],
        }
        cursor = (await wait(host, timeout_seconds=0, **narrow))["cursor"]
        await write(made, "cld:common.Text.a")
        await write(made, "cld:common.Conversation.c2/common.Message.m")
        await write(made, "cld:common.Conversation.c/common.Text.t")
        await write(made, "cld:common.Conversation.c/common.Message.gone")
        await made.store.delete(URI("cld:common.Conversation.c/common.Message.gone"))
        await write(made, "cld:common.Conversation.c/common.Message.m")
        told: list[tuple[str, str]] = []
        while not told or told[-1][0] != "cld:common.Conversation.c/common.Message.m":
            answer = await wait(host, cursor=cursor, **narrow)
            told += [(event["uri"], event["change"]) for event in answer["events"]]
            cursor = answer["cursor"]
        assert {uri for uri, _ in told} <= {
            "cld:common.Conversation.c/common.Message.m",
            "cld:common.Conversation.c/common.Message.gone",
        }
        assert {change for _, change in told} == {"put"}


async def test_an_unknown_cursor_is_answered_at_once_with_a_fresh_one(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        for made_up in ("nothing", "a.b", "AAAAAAAAAAAAAAAA.0", ""):
            with anyio.fail_after(5):
                answer = await wait(host, cursor=made_up, timeout_seconds=50)
            assert answer["missed"] is True and answer["events"] == []
        await write(made, "cld:common.Text.a")
        assert uris(await wait(host, cursor=answer["cursor"])) == ["cld:common.Text.a"]


async def test_a_cursor_is_good_for_its_principal_only(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        await write(made, "cld:common.Text.a")
        made.who = BOB
        answer = await wait(host, cursor=cursor)
        assert answer["missed"] is True and answer["events"] == []
        made.who = ADA
        assert uris(await wait(host, cursor=cursor)) == ["cld:common.Text.a"]


async def test_unused_cursors_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "IDLE_SECONDS", 0.05)
    async with world(tmp_path) as made, client(made, "legacy") as host:
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        with anyio.fail_after(5):
            while len(made.application.inboxes):
                await anyio.sleep(0.01)
        assert (await wait(host, cursor=cursor))["missed"] is True


async def test_a_principal_has_so_many_cursors_and_the_least_used_goes_first(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, "legacy") as host:
        cursors = [(await wait(host, timeout_seconds=0))["cursor"] for _ in range(inboxes.PER_PRINCIPAL)]
        await wait(host, timeout_seconds=0, cursor=cursors[0])
        made.who = BOB
        await wait(host, timeout_seconds=0)
        made.who = ADA
        await wait(host, timeout_seconds=0)
        assert len(made.application.inboxes) == inboxes.PER_PRINCIPAL + 1
        assert "missed" not in await wait(host, timeout_seconds=0, cursor=cursors[0])
        assert (await wait(host, timeout_seconds=0, cursor=cursors[1]))["missed"] is True


async def test_a_right_that_was_taken_away_stops_the_news(tmp_path: Path) -> None:
    allowed = {"cld:common.Text.a", "cld:common.Text.b"}

    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return action == "call" or uri in allowed

    async with world(tmp_path, rule) as made, client(made, "legacy") as host:
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        await write(made, "cld:common.Text.secret")
        await write(made, "cld:common.Text.a")
        answer = await wait(host, cursor=cursor)
        assert uris(answer) == ["cld:common.Text.a"]
        allowed.remove("cld:common.Text.a")
        await write(made, "cld:common.Text.a")
        await write(made, "cld:common.Text.b")
        assert uris(await wait(host, cursor=answer["cursor"])) == ["cld:common.Text.b"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_long_wait_reports_progress_when_asked(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "TICK_SECONDS", 0.01)
    ticks: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        assert message == "waiting for changes of cld:"
        ticks.append(done)

    async with world(tmp_path) as made, client(made, mode) as host:
        result = await host.call_tool("events_wait", {"timeout_seconds": 0.3}, progress_callback=progress)
        assert not result.is_error
        assert len(ticks) >= 2 and ticks == sorted(set(ticks))


@pytest.mark.parametrize("mode", MODES)
async def test_published_events_reach_who_waits(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as made, client(made, mode) as host:
        stream = "cld:event.Stream.builds"
        cursor = (await wait(host, prefix=stream, types=["event.Event"], timeout_seconds=0))["cursor"]
        for number in range(2):
            published = await call(host, "event_publish", stream="builds", name="done", data={"number": number})
            answer = await wait(host, cursor=cursor)
            assert uris(answer) == [published["uri"]]
            cursor = answer["cursor"]
            content = (await call(host, "resource_get", uri=published["uri"]))["content"]
            assert content == {"name": "done", "data": {"number": number}}
        assert (await fail(host, "event_publish", stream="a/b", name="x"))["field"] == "stream"


@pytest.mark.parametrize("mode", MODES)
async def test_a_cursor_does_not_keep_roles_that_are_gone(tmp_path: Path, mode: str) -> None:
    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return action == "call" or "reader" in principal.roles

    async with world(tmp_path, rule) as made, client(made, mode) as host:
        made.who = Principal(ADA.id, "user", roles=("reader",))
        cursor = (await wait(host, timeout_seconds=0))["cursor"]
        made.who = ADA
        await write(made, "cld:common.Text.a")
        answer = await wait(host, cursor=cursor, timeout_seconds=1)
        assert answer["missed"] and answer["events"] == []
        made.who = Principal(ADA.id, "user", roles=("reader",))
        assert uris(await wait(host, cursor=cursor)) == ["cld:common.Text.a"]
