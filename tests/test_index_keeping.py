"""Keeping: one process at a time, begun again after whatever failed, and nothing missed in between."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from index_world import World, a_world

from cld.config import Watch
from cld.errors import CldError
from cld.events.choose import open_bus
from cld.guard import GuardedSubscription
from cld.guard.events import hear
from cld.index import BrokenIndex, keeping
from cld.index.keeping import BATCH, PORTION_BYTES, Keeping, beside, follow, read, reconcile
from cld.index.lock import held
from cld.uri import URI

pytestmark = pytest.mark.anyio

SECONDS = 20.0


@asynccontextmanager
async def nothing_to_hear() -> AsyncIterator[Any]:
    yield None


@asynccontextmanager
async def running(one: Keeping) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def kept(folder: Path, work: Callable[[], Awaitable[None]], **options: Any) -> Keeping:
    async def with_subscription(_: GuardedSubscription) -> None:
        await work()

    return Keeping("test", folder, nothing_to_hear, with_subscription, **options)


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "resources") as world:
        yield world


async def test_one_keeps_and_the_next_takes_over_when_it_ends(tmp_path: Path) -> None:
    first, second = kept(tmp_path, forever), kept(tmp_path, forever)
    async with asyncio.timeout(SECONDS), contextlib.AsyncExitStack() as stack:
        async with running(first):
            await first.holds.wait()
            await stack.enter_async_context(running(second))
            await second.tried.wait()
            assert second.is_elsewhere and not second.holds.is_set() and not first.is_elsewhere
        assert not first.holds.is_set()
        await second.holds.wait()
        assert not second.is_elsewhere


async def test_whatever_fails_is_begun_again_later_each_time_and_the_cause_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "RETRY_SECONDS", (0.1, 0.4))
    enough = asyncio.Event()
    tries = 0

    async def fails() -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            enough.set()
            await forever()
        one.ready.set()
        raise [OSError("the disk is full"), CldError("not now"), KeyError("a bug"), BrokenIndex("of no use")][tries - 1]

    one = kept(tmp_path, fails)
    async with asyncio.timeout(SECONDS), running(one):
        await enough.wait()
        assert one.holds.is_set() and not one.ready.is_set(), "what was ready before the failure is not now"
    told = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert told == [
        ("test: the disk is full; beginning again in 0.1 s", False),
        ("test: not now; beginning again in 0.2 s", False),
        ("test: 'a bug'; beginning again in 0.4 s", True),
        ("test: of no use; beginning again in 0.4 s", False),
    ]


async def test_what_went_well_for_long_is_begun_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "RETRY_SECONDS", (0.01, 0.04))
    enough = asyncio.Event()
    tries = 0

    async def fails() -> None:
        nonlocal tries
        tries += 1
        if tries == 4:
            await asyncio.sleep(0.05)  # longer than the longest wait: it went well
        if tries == 5:
            enough.set()
            await forever()
        raise OSError(f"number {tries}")

    async with asyncio.timeout(SECONDS), running(kept(tmp_path, fails)):
        await enough.wait()
    assert caplog.messages[-1] == "test: number 4; beginning again in 0.01 s"


@pytest.mark.parametrize("removed", ["folder", "lock", "files", "none, but somebody cannot read it"])
async def test_an_index_that_was_removed_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    monkeypatch.setattr(keeping, "RETRY_SECONDS", (0.01, 0.04))
    begun = asyncio.Queue[int]()
    intact = True

    async def work() -> None:
        begun.put_nowait(1)
        await forever()

    folder = tmp_path / "index"
    one = kept(folder, work, intact=lambda: intact)
    async with asyncio.timeout(SECONDS), running(one):
        await begun.get()
        match removed:
            case "folder":
                shutil.rmtree(folder)
            case "lock":
                (folder / "lock").unlink()
            case "files":
                intact = False
            case _:
                one.doubt()
        await begun.get()
        intact = True
        with held(folder) as descriptor:
            assert descriptor is None, "the lock that others would take is held again"


async def test_it_ends_when_there_is_nothing_to_follow_any_more(tmp_path: Path) -> None:
    async def closed() -> None:
        return

    await asyncio.wait_for(kept(tmp_path, closed).run(), SECONDS)


async def test_what_runs_beside_ends_with_the_work_and_its_failure_ends_the_work() -> None:
    async def fails() -> None:
        raise OSError("beside")

    async def nothing() -> None:
        return

    await asyncio.wait_for(beside(nothing(), forever(), forever()), SECONDS)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(beside(forever(), fails()), SECONDS)
    assert [str(one) for one in caught.value.exceptions] == ["beside"]


async def test_changes_are_told_in_batches_with_versions(world: World) -> None:
    told: list[dict[URI, str | None]] = []
    done = asyncio.Event()

    async def apply(versions: Any) -> None:
        told.append(dict(versions))
        if None in versions.values():
            done.set()

    async with open_bus(Watch(), world.root.resolve(), world.store) as bus, hear(world.mine, bus) as subscription:
        versions = {
            f"cld:common.Text.t{number}": await world.put(f"cld:common.Text.t{number}", "x") for number in range(600)
        }
        task = asyncio.create_task(follow(subscription, apply))
        await asyncio.sleep(0)
        await world.delete("cld:common.Text.t7")
        await asyncio.wait_for(done.wait(), SECONDS)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert max(map(len, told)) <= BATCH and len(told) < 100, "not one by one"
    last = {uri: version for some in told for uri, version in some.items()}
    assert last == {**versions, "cld:common.Text.t7": None}


async def test_large_resources_are_read_a_few_at_a_time_and_small_ones_together(world: World) -> None:
    large = [URI(f"cld:common.Text.large{number:02}") for number in range(40)]
    small = [URI(f"cld:common.Text.small{number:03}") for number in range(200)]
    for uri in large:
        await world.put(uri, "x" * 1_000_000)
    for uri in small:
        await world.put(uri, "x")
    gone = URI("cld:common.Text.gone")
    asked = [*small, gone, *large]
    portions = [portion async for portion in read(world.mine, asked)]
    assert [uri for portion in portions for uri, _ in portion] == asked
    assert [found.resource.uri for found in (one for portion in portions for _, one in portion) if found] == [
        *small,
        *large,
    ]
    sizes = [sum(uri in large for uri, _ in portion) for portion in portions]
    assert max(sizes) <= PORTION_BYTES // 1_000_000 + 1, "what is held at a time is bounded by bytes"
    assert len(portions[0]) >= len(small), "one by one would cost a file each"


async def test_a_comparison_applies_every_difference_and_nothing_else(world: World) -> None:
    versions: dict[URI, str] = {}
    for number in range(1200):
        uri = URI(f"cld:common.Text.t{number:04}")
        versions[uri] = await world.put(uri, f"text {number}")
    (world.root / "cld:common.Text.t0005.json").write_text("{")
    (world.root / "cld:common.Text.t0006.json").write_text("{")
    del versions[URI("cld:common.Text.t0006")], versions[URI("cld:common.Text.t0300")]
    versions[URI("cld:common.Text.t0700")] = "another"
    versions |= {URI(f"cld:common.Text.t{number:04}"): "old" for number in range(800, 800 + BATCH)}
    versions |= {URI(f"cld:common.Text.gone{number}"): "gone" for number in range(BATCH)}
    applied: list[Sequence[URI]] = []

    async def apply(uris: Sequence[URI]) -> None:
        applied.append(list(uris))

    await reconcile(world.mine, versions, apply)
    different = [
        *(f"cld:common.Text.t{number}" for number in ("0005", "0300", "0700")),
        *(f"cld:common.Text.t{number:04}" for number in range(800, 800 + BATCH)),
        *(f"cld:common.Text.gone{number}" for number in range(BATCH)),
    ]
    assert [len(some) for some in applied] == [BATCH, BATCH, 3]
    assert sorted(uri for some in applied for uri in some) == sorted(different)
    applied.clear()
    await reconcile(world.mine, {}, apply, type="common.Message")
    assert applied == [], "of one type only"
    await reconcile(world.mine, {}, apply, version=lambda entry: entry.invalid[:3] or None)
    assert applied == [["cld:common.Text.t0005", "cld:common.Text.t0006"]]
