"""What elections learn from tasks: a sample of bounded size, which shows and tells nobody what they may not read."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from index_world import World, a_world, everything, until
from table_policy import Rule

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard.events import hear
from cld.index import BrokenIndex
from cld.index.check import check_elections
from cld.index.election import Candidate, elect
from cld.index.election_history import KEPT, completed, with_history
from cld.index.election_keeper import ElectionKeeper, catch_up
from cld.index.election_table import FILE, Done, ElectionTable, Row, digest_of
from cld.resource import Draft, Meta, Resource
from cld.uri import URI, parse_uri

pytestmark = pytest.mark.anyio

ADA = "cld:plan.Assistant.ada"
BOB = "cld:plan.Assistant.bob"


class Tasks:
    """A tree with tasks, and what elections know of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.folder = world.folder / "elections"

    async def put(self, uri: str, purpose: str = "draw a cat", assistant: str = ADA, status: str = "completed") -> None:
        content = {"status": status, "assistant": assistant}
        await self.world.store.put(Draft(parse_uri(uri), content, Meta(purpose=purpose)), by="user:ada", if_version="*")

    async def catch_up(self) -> bool:
        return await catch_up(self.folder, self.world.mine)

    async def earlier(self, rule: Rule = everything, names: Sequence[str] = (ADA,), **policy: bool) -> list[list[str]]:
        """The earlier requests of each candidate, as one who may read what `rule` says gets them."""
        with contextlib.closing(ElectionTable(self.folder, writes=False)) as table:
            store = self.world.guarded(rule, **policy)
            taught = await with_history(store, [Candidate(name) for name in names], table)
        return [list(one.requests) for one in taught]

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[ElectionKeeper]:
        mine = self.world.mine
        async with open_bus(Watch(), self.world.root.resolve(), self.world.store) as bus:
            keeper = ElectionKeeper(self.folder, mine, lambda: hear(mine, bus))
            task = asyncio.create_task(keeper.keeping.run())
            try:
                yield keeper
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
async def tasks(tmp_path: Path) -> AsyncIterator[Tasks]:
    async with a_world(tmp_path / "resources") as world:
        yield Tasks(world)


def by_digest(uris: Sequence[str]) -> list[URI]:
    return sorted(map(parse_uri, uris), key=digest_of)


def test_only_tasks_that_were_completed_well_count() -> None:
    def task(purpose: str = "draw a cat", **content: object) -> Resource:
        return Resource(
            uri="cld:plan.Task.t",
            type="plan.Task",
            meta=Meta(purpose=purpose, instructions="small"),
            content=dict(content),
        )

    assert completed(task(status="completed", assistant=ADA, error=None)) == (ADA, "draw a cat\nsmall")
    assert completed(task(status="running", assistant=ADA)) is None
    assert completed(task(status="completed", assistant=ADA, error={"code": "no_ink"})) is None
    assert completed(task(status="completed", assistant=ADA, skipped="there is nothing to draw")) is None
    assert completed(task(status="completed", assistant="")) is None
    assert completed(task(status="completed", assistant=None)) is None
    long = completed(task("x" * 10_000, status="completed", assistant=ADA))
    assert long is not None and len(long[1]) == 500


async def test_the_sample_is_drawn_by_the_digests_of_all_that_may_be_read(tasks: Tasks) -> None:
    uris = [f"cld:plan.Task.t{number}" for number in range(80)]
    for number, uri in enumerate(uris):
        await tasks.put(uri, f"request {number}", ADA if number % 2 else BOB)
    assert await tasks.catch_up()
    wanted = [[uri for uri in by_digest(uris) if int(uri.rpartition("t")[2]) % 2 == odd] for odd in (1, 0)]
    got = await tasks.earlier(names=(ADA, BOB, "cld:plan.Assistant.nobody"))
    assert got == [[f"request {uri.rpartition('t')[2]}" for uri in mine[:KEPT]] for mine in wanted] + [[]]


async def test_what_may_not_be_read_neither_teaches_nor_takes_anothers_place(tasks: Tasks) -> None:
    shown = [f"cld:plan.Task.shown{number}" for number in range(10)]
    hidden = [
        *(f"cld:plan.Task.hidden{number}" for number in range(150)),
        *(f"cld:cld.Namespace.secret/plan.Task.hidden{number}" for number in range(150)),
    ]
    for number, uri in enumerate(shown):
        await tasks.put(uri, f"shown {number}", ADA if number % 2 else BOB)
    await tasks.catch_up()
    alone = await tasks.earlier(names=(ADA, BOB))
    assert [len(one) for one in alone] == [5, 5]
    for uri in hidden:
        await tasks.put(uri, f"hidden {uri}", ADA)
    await tasks.catch_up()
    for denied in ("read", "list"):
        rule: Rule = lambda p, action, uri, meta, denied=denied: "hidden" not in uri or action != denied  # noqa: E731
        assert await tasks.earlier(rule, (ADA, BOB)) == alone
    assert await tasks.earlier(names=(ADA, BOB)) != alone


async def test_rules_on_meta_hide_what_they_hide(tasks: Tasks) -> None:
    for number in range(100):
        await tasks.put(f"cld:plan.Task.t{number}", "open" if number < 5 else "secret")
    await tasks.catch_up()
    rule: Rule = lambda p, action, uri, meta: (meta or {}).get("purpose") != "secret"  # noqa: E731
    assert await tasks.earlier(rule, needs_meta=True) == [["open"] * 5]


async def test_a_namespace_counts_for_who_may_read_a_task_at_its_top(tasks: Tasks) -> None:
    below = "cld:cld.Namespace.docs/common.Conversation.c/plan.Task.t"
    await tasks.put(below, "in docs")
    await tasks.put("cld:plan.Task.t", "outside")
    await tasks.catch_up()
    everywhere = await tasks.earlier()
    assert sorted(everywhere[0]) == ["in docs", "outside"]
    one_conversation: Rule = lambda p, action, uri, meta: "Namespace" not in uri or "/common.Conversation.c" in uri  # noqa: E731
    assert await tasks.earlier(one_conversation) == [["outside"]]


async def test_others_namespaces_are_not_walked_through(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    await tasks.put("cld:plan.Task.mine", "mine")
    with contextlib.closing(ElectionTable(tasks.folder, writes=True)) as table:
        theirs = [parse_uri(f"cld:cld.Namespace.theirs/plan.Task.t{number}") for number in range(20_000)]
        table.apply([Row(uri, "v", ADA) for uri in [*theirs, parse_uri("cld:plan.Task.mine")]], [])
    asked: list[str] = []

    def rule(_p: object, _a: object, uri: str, _m: object) -> bool:
        asked.append(uri)
        return "theirs" not in uri

    steps: list[int] = []
    real = ElectionTable.completed

    def counted(table: ElectionTable, *arguments: Any) -> Sequence[Done]:
        found = real(table, *arguments)
        steps.append(len(found))
        return found

    monkeypatch.setattr(ElectionTable, "completed", counted)
    assert await tasks.earlier(rule) == [["mine"]]
    assert len(asked) < 10 and steps in ([KEPT, 1], [KEPT, 0])


async def test_many_thousand_requests_cost_what_a_hundred_cost(tasks: Tasks) -> None:
    few = by_digest([f"cld:plan.Task.t{number}" for number in range(100)])
    many = by_digest([f"cld:plan.Task.t{number}" for number in range(30_000)])
    for uri in {*few[:KEPT], *many[:KEPT]}:
        await tasks.put(uri)
    asked: list[str] = []

    def rule(_p: object, _a: object, uri: str, _m: object) -> bool:
        asked.append(uri)
        return True

    counts: list[int] = []
    for uris in (few, many):
        with contextlib.closing(ElectionTable(tasks.folder, writes=True)) as table:
            table.apply([Row(uri, "v", ADA) for uri in uris], [])
        asked.clear()
        assert [len(one) for one in await tasks.earlier(rule)] == [KEPT]
        counts.append(len(asked))
    assert counts[0] == counts[1]
    # And what is looked up is found by an index, so that time grows with its depth alone.
    connection = sqlite3.connect(tasks.folder / FILE)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT digest, uri FROM task WHERE candidate = ? AND (digest, uri) > (?, ?) "
        "AND namespace NOT IN (?) ORDER BY digest, uri LIMIT ?",
        (ADA, 0, "", "", 32),
    ).fetchall()
    connection.close()
    assert ["USING COVERING INDEX completed" in step[3] for step in plan] == [True], plan


async def test_what_a_task_says_now_counts_also_before_the_keeper_has_seen_it(tasks: Tasks) -> None:
    for name in ("kept", "changed", "failed", "given", "gone"):
        await tasks.put(f"cld:plan.Task.{name}", name)
    await tasks.catch_up()
    await tasks.put("cld:plan.Task.changed", "another request")
    await tasks.put("cld:plan.Task.failed", status="running")
    await tasks.put("cld:plan.Task.given", assistant=BOB)
    await tasks.world.delete("cld:plan.Task.gone")
    assert sorted((await tasks.earlier())[0]) == ["another request", "kept"]


async def test_the_keeper_follows_the_tree_and_begins_with_what_is_there(tasks: Tasks) -> None:
    async def becomes(*names: str) -> None:
        async def so() -> bool:
            return sorted((await tasks.earlier())[0]) == list(names)

        await until(so)

    await tasks.put("cld:plan.Task.t1", "one")
    await tasks.world.put("cld:common.Text.t", "no task")
    async with tasks.kept() as keeper:
        await becomes("one")
        await asyncio.wait_for(keeper.keeping.ready.wait(), 30)
        await tasks.put("cld:plan.Task.t2", "two", status="running")
        await tasks.put("cld:plan.Task.t3", "three")
        await becomes("one", "three")
        await tasks.put("cld:plan.Task.t2", "two")
        await becomes("one", "three", "two")
        await tasks.put("cld:plan.Task.t1", "one", status="failed")
        await tasks.world.delete("cld:plan.Task.t3")
        await becomes("two")

        async def checked() -> bool:
            return (await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)).good

        await until(checked)
        found = await check_elections(tasks.folder, tasks.world.mine)
        assert found.resources == 2, "tasks, whoever completed them, and nothing else"


async def test_the_check_names_what_is_missing_stale_and_too_much(tasks: Tasks) -> None:
    assert (await check_elections(tasks.folder, tasks.world.mine)).absent
    for name in ("same", "changed", "gone"):
        await tasks.put(f"cld:plan.Task.{name}")
    await tasks.catch_up()
    await tasks.put("cld:plan.Task.changed", "another")
    await tasks.put("cld:plan.Task.new")
    await tasks.world.delete("cld:plan.Task.gone")
    found = await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)
    assert (found.missing, found.stale, found.extra) == (
        ("cld:plan.Task.new",),
        ("cld:plan.Task.changed",),
        ("cld:plan.Task.gone",),
    )
    assert await tasks.catch_up()
    assert (await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)).good


@pytest.mark.parametrize("damage", [None, b"", b"no database, but long enough to look like one" * 100])
async def test_it_comes_back_the_same_from_the_tree_whatever_became_of_its_file(
    tasks: Tasks, damage: bytes | None
) -> None:
    for number in range(50):
        await tasks.put(f"cld:plan.Task.t{number}", f"request {number}")
    await tasks.catch_up()
    before = await tasks.earlier()
    for file in tasks.folder.iterdir():
        file.unlink()
    if damage is not None:
        (tasks.folder / FILE).write_bytes(damage)
    with pytest.raises(BrokenIndex) if damage else contextlib.nullcontext():
        assert await tasks.earlier() == [[]]
    found = await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)
    assert found.broken if damage is not None else found.absent
    await tasks.catch_up()
    assert await tasks.earlier() == before and len(before[0]) == KEPT


async def test_rows_that_are_not_as_they_were_written_are_made_again(tasks: Tasks) -> None:
    for number in range(20):
        await tasks.put(f"cld:plan.Task.t{number}", f"request {number}")
    await tasks.catch_up()
    before = await tasks.earlier()
    with contextlib.closing(sqlite3.connect(tasks.folder / FILE)) as connection, connection:
        connection.execute("UPDATE task SET candidate = candidate || 'x' WHERE uri LIKE '%t3'")
    assert await tasks.earlier() != before
    assert (await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)).broken
    await tasks.catch_up()
    assert await tasks.earlier() == before
    assert (await check_elections(tasks.folder, tasks.world.mine, grace_seconds=0)).good


async def test_only_the_file_removed_under_its_keeper_is_made_anew(tasks: Tasks) -> None:
    for number in range(20):
        await tasks.put(f"cld:plan.Task.t{number}", f"request {number}")
    async with tasks.kept() as keeper:
        await asyncio.wait_for(keeper.keeping.ready.wait(), 20)
        before = await tasks.earlier()
        (tasks.folder / FILE).unlink()

        async def is_back() -> bool:
            return keeper.keeping.ready.is_set() and await tasks.earlier() == before

        await until(is_back)


async def test_earlier_requests_decide_where_descriptions_say_nothing(tasks: Tasks) -> None:
    for number in range(6):
        assistant = ADA if number % 2 else BOB
        await tasks.put(
            f"cld:plan.Task.t{number}", f"{'paint picture' if number % 2 else 'add up invoice'} {number}", assistant
        )
    await tasks.catch_up()
    with contextlib.closing(ElectionTable(tasks.folder, writes=False)) as table:
        taught = await with_history(tasks.world.mine, [Candidate(ADA), Candidate(BOB)], table)
    assert elect("paint my dog", taught).ranked[0].name == ADA
    assert elect("the invoice of May", taught).ranked[0].name == BOB
