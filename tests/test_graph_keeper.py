"""The keeper: the graph follows the tree, survives being killed and deleted, and no resource stops it."""

import asyncio
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from graph_world import World, a_world

from cld.index import BrokenIndex, IndexUnavailable
from cld.index.check import check_graph
from cld.index.graph_table import FILE, Entry, GraphTable
from cld.uri import parse_uri

pytestmark = pytest.mark.anyio

SECONDS = 30.0
TITLES = "SELECT ?s ?t { ?s vocab:title ?t }"
PROBLEMS = "SELECT ?s ?p { ?s vocab:problem ?p }"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "resources") as world:
        yield world


async def until(true: Callable[[], Awaitable[object]], seconds: float = SECONDS) -> float:
    """Return once `true` is, and how long that took."""
    begun = time.monotonic()
    while not await true():
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


def kept(world: World) -> dict[str, bytes]:
    """What is kept of each resource."""
    table = GraphTable(world.folder, writes=False)
    try:
        return {uri: triples for uri, _, triples in table.triples(list(table.versions()))}
    finally:
        table.close()


def listed(world: World) -> Sequence[Entry]:
    table = GraphTable(world.folder, writes=False)
    try:
        return table.entries()
    finally:
        table.close()


async def test_puts_changes_and_deletes_are_in_the_graph_within_a_second(world: World) -> None:
    async with world.kept():
        await world.rows(TITLES)  # the first query starts a worker
        steps: list[tuple[Callable[[], Awaitable[object]], list[tuple[str, str]]]] = [
            (lambda: world.put("cld:common.Text.a", title="one"), [("cld:common.Text.a", "one")]),
            (lambda: world.put("cld:common.Text.a", title="two"), [("cld:common.Text.a", "two")]),
            (lambda: world.store.delete(parse_uri("cld:common.Text.a")), []),
        ]
        for change, wanted in steps:
            await change()

            async def is_so(wanted: list[tuple[str, str]] = wanted) -> bool:
                return await world.rows(TITLES) == wanted

            assert await until(is_so) < 5  # one second, on a machine that has nothing else to do


async def test_what_changed_while_nobody_looked_is_made_good(world: World) -> None:
    for n in range(5):
        await world.put(f"cld:common.Text.t{n}", title=f"old {n}")
    await world.catch_up()
    await world.put("cld:common.Text.t0", title="new 0")
    await world.store.delete(parse_uri("cld:common.Text.t1"))
    await world.put("cld:common.Text.t5", title="new 5")
    async with world.kept():
        titles = [row[1] for row in await world.rows(TITLES)]
    assert titles == ["new 0", "old 2", "old 3", "old 4", "new 5"]


async def test_a_deleted_graph_comes_back_the_same(world: World) -> None:
    for n in range(5):
        await world.put(
            f"cld:common.Text.t{n}", f"[[Page]] ```\n```turtle\n[] <x:a> [ <x:b> {n} ] .\n```", title=f"{n}"
        )
    await world.catch_up()
    before = kept(world)
    assert len(before) == 5 and all(before.values())
    for file in list(world.folder.iterdir()):
        file.unlink()
    assert kept(world) == {}
    await world.catch_up()
    assert kept(world) == before


async def test_a_folder_removed_while_it_is_kept_is_made_anew(world: World) -> None:
    await world.put("cld:common.Text.a", title="one")
    async with world.kept() as keeper:
        for file in list(world.folder.iterdir()):
            file.unlink()
        world.folder.rmdir()

        async def is_back() -> bool:
            return keeper.keeping.ready.is_set() and await world.rows(TITLES) == [("cld:common.Text.a", "one")]

        await until(is_back)


@pytest.mark.parametrize("damage", [b"", b"no database at all, but long enough to look like one" * 100])
async def test_a_damaged_file_is_made_anew(world: World, damage: bytes) -> None:
    await world.put("cld:common.Text.a", title="one")
    await world.catch_up()
    await world.graph.aclose()
    (world.folder / FILE).write_bytes(damage)
    if damage:
        with pytest.raises(BrokenIndex, match=FILE):
            await world.answer(TITLES)
    else:
        assert (await world.answer(TITLES)).incomplete
    await world.catch_up()
    assert await world.rows(TITLES) == [("cld:common.Text.a", "one")]


@pytest.mark.parametrize("seed", range(4))
async def test_bits_that_flipped_are_an_error_and_never_a_wrong_answer_and_are_made_again(
    world: World, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    for n in range(40):
        await world.put(f"cld:common.Text.t{n:02}", f"[[Page]] cld:common.Text.t{n + 1:02}", title=f"title {n}")
    await world.catch_up()
    rows, before = await world.rows(TITLES), kept(world)
    await world.graph.aclose()
    path = world.folder / FILE
    right = path.read_bytes()
    told = 0
    for _ in range(25):
        wrong = bytearray(right)
        for _ in range(chance.choice([1, 1, 20])):
            wrong[chance.randrange(100, len(wrong))] ^= 1 << chance.randrange(8)
        path.write_bytes(wrong)
        table = GraphTable(world.folder, writes=False)
        try:
            listed = [entry.uri for entry in table.entries()]
            found = {uri: triples for uri, _, triples in table.triples(listed)}
            assert found.items() <= before.items(), "what is told is as it was written"
        except (BrokenIndex, IndexUnavailable):
            told += 1
        table.close()
        mending = GraphTable(world.folder, writes=True)
        mending.mend()
        assert kept(world).items() <= before.items()
        mending.close()
    assert told > 5
    path.write_bytes(wrong)
    await world.catch_up()
    assert await world.rows(TITLES) == rows and kept(world) == before
    assert (await check_graph(world.folder, world.guarded(who="service:index"))).good


async def test_a_graph_that_is_damaged_costs_the_others_nothing(world: World) -> None:
    for n in range(20):
        await world.put(f"cld:common.Text.t{n:02}", title=f"title {n}")
    await world.catch_up()
    rows, before = await world.rows(TITLES), kept(world)
    states = {entry.uri: entry.state for entry in listed(world)}
    with contextlib.closing(sqlite3.connect(world.folder / FILE)) as connection, connection:
        connection.execute("UPDATE triples SET data = CAST(x'00' || data AS BLOB) WHERE uri LIKE '%t03'")
        connection.execute("UPDATE entry SET meta = '{}' WHERE uri LIKE '%t07'")
        connection.execute("DELETE FROM triples WHERE uri LIKE '%t11'")
    await world.graph.aclose()  # what was loaded before was right
    with pytest.raises(BrokenIndex, match="not as it was written"):
        await world.rows(TITLES)
    async with world.kept():
        assert await world.rows(TITLES) == rows and kept(world) == before
    now = {entry.uri: entry.state for entry in listed(world)}
    assert {uri[-2:] for uri in now if now[uri] != states[uri]} == {"03", "07", "11"}


async def test_only_the_file_removed_under_its_keeper_is_made_anew(world: World) -> None:
    for n in range(3):
        await world.put(f"cld:common.Text.t{n}", title=f"title {n}")
    async with world.kept() as keeper:
        rows = await world.rows(TITLES)
        (world.folder / FILE).unlink()
        await world.put("cld:common.Text.t3", title="title 3")

        async def is_back() -> bool:
            return keeper.keeping.ready.is_set() and len(await world.rows(TITLES)) == 4

        await until(is_back)
        assert (await world.rows(TITLES))[:3] == rows
        (world.folder / FILE).unlink()
        await until(is_back)  # without any event


async def test_a_file_of_another_format_is_made_anew(world: World) -> None:
    await world.put("cld:common.Text.a", title="one")
    await world.catch_up()
    connection = sqlite3.connect(world.folder / FILE)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    await world.graph.aclose()
    assert (await world.answer(TITLES)).rows == ()
    await world.catch_up()
    assert await world.rows(TITLES) == [("cld:common.Text.a", "one")]


async def test_one_process_keeps_the_graph_and_another_takes_over_when_it_is_killed(world: World) -> None:
    for n in range(300):
        await world.put(f"cld:common.Text.t{n}", f"[[Page {n}]] cld:common.Text.t{n + 1}", title=f"T{n}")
    other = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("graph_process.py"), str(world.root)],
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == b"kept\n"
        assert await world.catch_up() is False
        async with world.kept(wait=False) as keeper:
            await world.put("cld:common.Text.new", title="from another process")

            async def is_there() -> bool:
                return ("cld:common.Text.new", "from another process") in await world.rows(TITLES)

            await until(is_there)
            assert not keeper.keeping.ready.is_set()
            for n in range(300, 500):
                await world.put(f"cld:common.Text.t{n}", title=f"T{n}")
            other.send_signal(signal.SIGKILL)
            await asyncio.wait_for(keeper.keeping.ready.wait(), SECONDS)
            assert (await world.answer("SELECT (count(?t) AS ?n) { ?s vocab:title ?t }")).rows == ((501,),)
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()


async def test_a_resource_that_hangs_or_crashes_its_reader_costs_no_other_its_graph(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cld.index.graph_writer.BATCH_SECONDS", 1.0)
    monkeypatch.setattr("cld.index.graph_writer.ONE_SECONDS", 1.0)
    await world.put("cld:common.Text.before", title="before")
    await world.put("cld:common.Text.hangs", "<p itemscope>" + "<div>" * 300_000, media_type="text/html", title="hangs")
    await world.put("cld:common.Text.later", title="later")
    await world.catch_up()
    assert [row[1] for row in await world.rows(TITLES)] == ["before", "hangs", "later"]
    ((uri, problem),) = await world.rows(PROBLEMS)
    assert uri == "cld:common.Text.hangs" and "stopped after" in problem


async def test_a_file_that_is_no_resource_has_its_place_and_its_problem_in_the_graph(world: World) -> None:
    await world.put("cld:common.Text.a")
    (world.root / "cld:common.Text.a").mkdir()
    (world.root / "cld:common.Text.a" / "common.Text.b.json").write_text('{"content": }')
    await world.catch_up()
    ((uri, problem),) = await world.rows(PROBLEMS)
    assert uri == "cld:common.Text.a/common.Text.b" and "line 1, column 13" in problem
    parents = await world.rows("SELECT ?s ?p { ?s vocab:parent ?p }")
    assert parents == [("cld:common.Text.a/common.Text.b", "cld:common.Text.a")]


async def test_what_the_keeper_may_not_read_is_in_no_graph(world: World) -> None:
    from cld.index.graph_keeper import catch_up  # noqa: PLC0415

    await world.put("cld:common.Text.shown", title="shown")
    await world.put("cld:common.Text.hidden", title="hidden")
    await world.catch_up()
    await catch_up(world.folder, world.guarded(lambda p, a, uri, m: not uri.endswith("hidden"), "service:index"))
    assert await world.rows(TITLES) == [("cld:common.Text.shown", "shown")]
    table = GraphTable(world.folder, writes=False)
    assert set(table.versions()) == {"cld:common.Text.shown"}
    table.close()
