"""The history of elections: a sample that stays small, comes back the same, and shows nobody what they may not read."""

import asyncio
import contextlib
import random
import time
from pathlib import Path

import anyio
from index_world import World, until

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard.events import hear
from cld.index.election import Candidate, elect
from cld.index.election_history import FILE, KEPT, History, completed, history_of_tree, with_history
from cld.index.election_keeper import ElectionKeeper
from cld.resource import Meta, Resource
from cld.store.local import LocalStore
from cld.uri import parse_uri


def sample(history: History, *names: str) -> dict[str, list[tuple[str, str]]]:
    return {name: [(one.key, one.text) for one in history.of(name)] for name in names}


def test_the_sample_is_the_same_whatever_the_order_and_however_often_they_came() -> None:
    requests = [(f"a{number % 3}", f"cld:plan.Task.t{number}", f"request {number}") for number in range(500)]
    forward, shuffled = History(), History()
    for one in requests:
        forward.add(*one)
    for one in random.Random(1).sample(requests, len(requests)) + requests[:100]:
        shuffled.add(*one)
    assert sample(forward, "a0", "a1", "a2") == sample(shuffled, "a0", "a1", "a2")
    assert len(forward) == 3 * KEPT


def test_a_million_requests_take_no_more_room_than_a_hundred_and_adding_one_stays_as_quick(tmp_path: Path) -> None:
    file = tmp_path / "history"
    history = History()
    history.save(file)
    text = "x" * 10_000

    def seconds(first: int, count: int) -> float:
        began = time.process_time()
        for number in range(first, first + count):
            history.add("a", f"t{number}", text)
        return time.process_time() - began

    early = seconds(0, 10_000)
    kept, size = len(history), file.stat().st_size
    late = seconds(10_000, 990_000) / 99
    assert len(history) == kept == KEPT
    assert file.stat().st_size < 10 * size and file.stat().st_size < 2_000_000
    assert late < early  # hardly any gets into the sample any more
    assert History.open(file).of("a") == history.of("a")


def test_a_request_that_changed_is_kept_as_it_is_now_and_one_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    history = History()
    history.save(tmp_path / "history")
    assert history.add("a", "t1", "old")
    assert not history.add("a", "t1", "old")
    assert history.add("a", "t1", "new")
    assert history.add("a", "t2", "other")
    assert history.remove("t2") and not history.remove("t2")
    for one in (history, History.open(tmp_path / "history")):
        assert sample(one, "a") == {"a": [("t1", "new")]}


def test_a_file_that_is_missing_broken_or_of_another_version_is_an_empty_history(tmp_path: Path) -> None:
    file = tmp_path / "history"
    assert len(History.open(file)) == 0
    history = History()
    history.add("a", "t1", "text")
    history.save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert len(History.open(file)) == 0
    file.write_bytes(whole.replace(b'"version":1', b'"version":99'))
    assert len(History.open(file)) == 0
    file.write_bytes(b"\x00\xff")
    assert len(History.open(file)) == 0


def test_what_happens_in_a_namespace_one_may_not_read_moves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, await LocalStore.open(tmp_path, durability="none"))
        mine, both = History(), History()
        for number in range(50):
            mine.add("a", f"cld:cld.Namespace.mine/plan.Task.t{number}", f"mine {number}")
            both.add("a", f"cld:cld.Namespace.theirs/plan.Task.t{number}", f"theirs {number}")
            both.add("a", f"cld:cld.Namespace.mine/plan.Task.t{number}", f"mine {number}")
        bob = world.guarded(lambda _p, _a, uri, _m: "theirs" not in uri)
        candidates = [Candidate("a")]
        assert await with_history(bob, candidates, both) == await with_history(bob, candidates, mine)
        assert await with_history(world.mine, candidates, both) != await with_history(bob, candidates, both)
        await world.store.aclose()

    anyio.run(main)


def test_only_tasks_that_were_completed_well_count() -> None:
    def task(**content: object) -> Resource:
        return Resource(uri="cld:plan.Task.t", type="plan.Task", meta=Meta(purpose="draw a cat"), content=dict(content))

    assert completed(task(status="completed", assistant="ada")) == ("ada", "draw a cat")
    assert completed(task(status="running", assistant="ada")) is None
    assert completed(task(status="completed", assistant="ada", error="no ink")) is None
    assert completed(task(status="completed")) is None


def test_the_keeper_follows_the_tree_and_begins_with_what_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, await LocalStore.open(tmp_path, durability="none"))
        file = world.folder / FILE

        async def keys() -> list[str]:
            return [one.key for one in History.open(file).of("ada")]

        async def put(name: str, **more: str) -> None:
            await world.put(
                f"cld:plan.Task.{name}", "draw a cat", **{"status": "completed", "assistant": "ada", **more}
            )

        async def becomes(*names: str) -> None:
            async def so() -> bool:
                return sorted(await keys()) == [f"cld:plan.Task.{name}" for name in names]

            await until(so)

        await put("t1")
        async with open_bus(Watch(), tmp_path.resolve(), world.store) as bus:
            keeper = ElectionKeeper(world.folder, world.mine, lambda: hear(world.mine, bus))
            task = asyncio.create_task(keeper.run())
            await becomes("t1")
            await put("t2")
            await becomes("t1", "t2")
            await put("t1", status="running")
            await becomes("t2")
            await world.delete("cld:plan.Task.t2")
            await becomes()
            await put("t3")
            await becomes("t3")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await world.store.aclose()

    anyio.run(main)


def test_it_comes_back_the_same_from_the_tree_and_gives_nobody_what_they_may_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, await LocalStore.open(tmp_path, durability="none"))
        for number in range(6):
            name = "cld:plan.Assistant.painter" if number % 2 else "cld:plan.Assistant.clerk"
            text = f"paint picture {number}" if number % 2 else f"add up invoice {number}"
            await world.put(f"cld:plan.Task.t{number}", text, status="completed", assistant=name)
        history = await history_of_tree(world.mine)
        assert len(history) == 6
        history.save(tmp_path / ".cld" / "index" / "elections")
        assert len(History.open(tmp_path / ".cld" / "index" / "elections")) == 6
        candidates = [Candidate("cld:plan.Assistant.painter"), Candidate("cld:plan.Assistant.clerk")]
        taught = await with_history(world.mine, candidates, history)
        assert [len(one.requests) for one in taught] == [3, 3]
        assert elect("paint my dog", taught).ranked[0].name == "cld:plan.Assistant.painter"

        hidden = parse_uri("cld:plan.Task.t1")
        bob = world.guarded(lambda _p, _a, uri, _m: uri != hidden)
        seen = await with_history(bob, candidates, history)
        await world.delete(hidden)
        never = await with_history(world.mine, candidates, await history_of_tree(world.mine))
        assert seen == never and [len(one.requests) for one in seen] == [2, 3]
        await world.store.aclose()

    anyio.run(main)
