"""The event bus on real files, driven by a source that says exactly what the test tells it to."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest

from cld.events import UNTRUSTED, Change, Dirty, Listing, Look, Notice, Notify, Touched
from cld.events.bus import EventBus
from cld.events.files import Files
from cld.events.subscription import Subscription
from cld.resource import version_of
from cld.uri import ROOT, URI

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

A = URI("cld:a.B.a")
DEEP = URI("cld:a.B.a/c.D.d")
OTHER = URI("cld:a.B.other")


class FakeSource:
    """Notices nothing by itself: `say` is the test's hand."""

    name = "fake"

    def __init__(self) -> None:
        self.watched: list[URI] = []
        self.refreshed = 0
        self.closed = False

    def start(self, notify: Notify) -> None:
        self.say = notify

    async def watch(self, prefix: URI) -> None:
        self.watched.append(prefix)

    async def unwatch(self, prefix: URI) -> None:
        self.watched.remove(prefix)

    async def refresh(self) -> None:
        self.refreshed += 1

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
async def bus(source: FakeSource, tmp_path: Path) -> AsyncIterator[EventBus]:
    async with EventBus(source, Files(tmp_path)) as bus:
        yield bus


def put(root: Path, uri: URI, text: str) -> str:
    """Write as a store does; the version."""
    path = root / f"{uri}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = root / "temporary"
    temporary.write_text(text)
    temporary.rename(path)
    return version_of(text.encode())


async def heard(bus: EventBus, subscription: Subscription, *notices: Notice) -> list[tuple[Change, URI, str | None]]:
    """What is announced for these notices, once the bus has nothing left to do."""
    for notice in notices:
        bus._notice(notice)  # pyright: ignore[reportPrivateUsage]
    await bus.reconcile()
    return [(event.change, event.uri, event.version) for event in subscription.take()]


async def test_a_put_a_change_and_a_delete_are_announced_with_the_version_there(bus: EventBus, tmp_path: Path) -> None:
    async with bus.subscribe() as subscription:
        version = put(tmp_path, A, "{}")
        assert await heard(bus, subscription, Touched(A)) == [("put", A, version)]
        version = put(tmp_path, A, "{1}")
        assert await heard(bus, subscription, Touched(A)) == [("put", A, version)]
        (tmp_path / f"{A}.json").unlink()
        assert await heard(bus, subscription, Touched(A)) == [("delete", A, None)]


async def test_what_is_there_when_subscribing_is_not_announced(bus: EventBus, tmp_path: Path) -> None:
    put(tmp_path, A, "{}")
    put(tmp_path, DEEP, "{}")
    async with bus.subscribe() as subscription, bus.subscribe(DEEP) as narrow:
        assert await heard(bus, subscription, Dirty(ROOT), Touched(A), Touched(DEEP)) == []
        assert narrow.take() == []


async def test_the_same_version_is_announced_once_however_often_it_is_touched(bus: EventBus, tmp_path: Path) -> None:
    async with bus.subscribe() as subscription:
        version = put(tmp_path, A, "{}")
        assert await heard(bus, subscription, Touched(A)) == [("put", A, version)]
        assert put(tmp_path, A, "{}") == version
        assert await heard(bus, subscription, Touched(A), Touched(A), Dirty(A)) == []


async def test_the_stamp_of_a_file_just_written_is_not_trusted_until_the_clock_went_on(tmp_path: Path) -> None:
    async def stamp() -> bytes:
        (listing,) = [listing async for listing in Files(tmp_path).scan([ROOT])]
        return listing.files["a.B.a"]

    with anyio.fail_after(10):
        # Written anew until the look comes at once after it, however busy the machine is.
        while put(tmp_path, A, "{}") and await stamp() != UNTRUSTED:
            pass
        while await stamp() == UNTRUSTED:
            pass
    trusted = await stamp()
    assert trusted == await stamp()
    put(tmp_path, A, "{}")
    with anyio.fail_after(10):
        while (later := await stamp()) == UNTRUSTED:
            pass
    assert later != trusted


async def test_what_is_not_trusted_is_read_before_it_counts_as_the_same(tmp_path: Path) -> None:
    class Coarse(Files):
        """A file system on which no time ever changes."""

        async def scan(self, prefixes: Sequence[URI]) -> AsyncGenerator[Listing, None]:
            async for listing in super().scan(prefixes):
                yield Listing(listing.folder, dict.fromkeys(listing.files, UNTRUSTED), listing.folders)

        async def look(self, uri: URI) -> Look | None:
            look = await super().look(uri)
            return look and Look(UNTRUSTED, look.version)

    put(tmp_path, A, "{1}")
    async with EventBus(FakeSource(), Coarse(tmp_path)) as bus, bus.subscribe() as subscription:
        assert await heard(bus, subscription, Dirty(ROOT), Touched(A)) == []
        version = put(tmp_path, A, "{2}")
        assert await heard(bus, subscription) == [("put", A, version)]
        assert await heard(bus, subscription) == []


async def test_a_dirty_prefix_tells_every_difference_and_nothing_else(bus: EventBus, tmp_path: Path) -> None:
    kept, changed, gone, new = (URI(f"{A}/c.D.{name}") for name in ("kept", "changed", "gone", "new"))
    under_gone = URI(f"{gone}/e.F.g")
    for uri in (A, kept, changed, gone, under_gone):
        put(tmp_path, uri, "{}")
    async with bus.subscribe() as subscription:
        version = put(tmp_path, changed, "{1}")
        put(tmp_path, new, "{1}")
        (tmp_path / f"{gone}.json").unlink()
        (tmp_path / f"{under_gone}.json").unlink()
        (tmp_path / gone).rmdir()
        put(tmp_path, OTHER, "{}")
        subscription_to_other = bus.subscribe(OTHER)
        bus._notice(Dirty(A))  # pyright: ignore[reportPrivateUsage]
        found = {(event := await subscription.next(10)).uri: event for _ in range(4)}  # pyright: ignore
        assert {uri: (event.change, event.version) for uri, event in found.items()} == {
            changed: ("put", version),
            new: ("put", version),
            gone: ("delete", None),
            under_gone: ("delete", None),
        }
        assert not subscription_to_other.closed
        assert await heard(bus, subscription) == [("put", OTHER, version_of(b"{}"))]


async def test_prefixes_are_compared_by_element(bus: EventBus, tmp_path: Path) -> None:
    alice, alice2 = URI("cld:a.B.alice"), URI("cld:a.B.alice2")
    async with bus.subscribe(alice) as subscription, bus.subscribe() as all_of_it:
        for uri in (alice, alice2):
            put(tmp_path, uri, "{}")
            put(tmp_path, URI(f"{uri}/c.D.d"), "{}")
        found = await heard(bus, subscription)
        assert {uri for _, uri, _ in found} == {alice, URI(f"{alice}/c.D.d")}
        assert len(all_of_it.take()) == 4


async def test_types_and_changes_narrow_a_subscription(bus: EventBus, tmp_path: Path) -> None:
    async with (
        bus.subscribe(types=frozenset({"c.D"})) as by_type,
        bus.subscribe(changes=frozenset({"delete"})) as by_change,
    ):
        put(tmp_path, A, "{}")
        put(tmp_path, DEEP, "{}")
        assert [uri for _, uri, _ in await heard(bus, by_type)] == [DEEP]
        (tmp_path / f"{A}.json").unlink()
        assert await heard(bus, by_change) == [("delete", A, None)]
        assert by_type.take() == []


async def test_a_slow_subscriber_keeps_one_event_for_each_uri_and_the_last_state(bus: EventBus, tmp_path: Path) -> None:
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        for number in range(50):
            version = put(tmp_path, A, f"{{{number}}}")
            assert await heard(bus, quick, Touched(A)) == [("put", A, version)]
        put(tmp_path, DEEP, "{}")
        await bus.reconcile()
        (tmp_path / f"{DEEP}.json").unlink()
        await bus.reconcile()
        assert len(slow) == 2
        assert [(event.change, event.uri, event.version) for event in slow.take()] == [
            ("put", A, version),
            ("delete", DEEP, None),
        ]


async def test_a_raising_subscriber_does_not_keep_news_from_the_others(bus: EventBus, tmp_path: Path) -> None:
    raised = asyncio.Event()

    async def raising() -> None:
        try:
            async with bus.subscribe() as subscription:
                entered.set()
                async for _ in subscription:
                    raise RuntimeError("this one is broken")
        except RuntimeError:
            raised.set()

    entered = asyncio.Event()
    task = asyncio.create_task(raising())
    async with asyncio.timeout(10):
        await entered.wait()
        async with bus.subscribe() as subscription:
            put(tmp_path, A, "{}")
            assert [uri for _, uri, _ in await heard(bus, subscription, Touched(A))] == [A]
            await raised.wait()
            put(tmp_path, DEEP, "{}")
            assert [uri for _, uri, _ in await heard(bus, subscription, Touched(DEEP))] == [DEEP]
    await task


async def test_next_gives_none_after_its_time_and_the_event_when_it_comes(bus: EventBus, tmp_path: Path) -> None:
    async with bus.subscribe() as subscription:
        assert await subscription.next(0) is None
        assert await subscription.next(0.01) is None
        waiting = asyncio.create_task(subscription.next(10))
        put(tmp_path, A, "{}")
        bus._notice(Touched(A))  # pyright: ignore[reportPrivateUsage]
        event = await waiting
        assert event is not None
        assert (event.change, event.uri, event.source) == ("put", A, "fake")
        assert len(event.id) == 26
        assert event.time.endswith("Z")


async def test_an_event_that_waits_is_given_even_with_no_time_to_wait(bus: EventBus, tmp_path: Path) -> None:
    async with bus.subscribe() as subscription:
        put(tmp_path, A, "{}")
        await bus.reconcile()
        event = await subscription.next(0)
        assert event is not None and event.uri == A


async def test_closing_is_idempotent_and_ends_the_iteration_of_who_waits(bus: EventBus, source: FakeSource) -> None:
    subscription = bus.subscribe(A)
    async with subscription:
        waiting = asyncio.create_task(anext(subscription, None))
        await asyncio.sleep(0)
        await subscription.aclose()
        assert await asyncio.wait_for(waiting, 10) is None
    await subscription.aclose()
    assert source.watched == []
    assert await subscription.next(0) is None


async def test_closing_the_bus_ends_every_subscription_and_the_source(source: FakeSource, tmp_path: Path) -> None:
    bus = EventBus(source, Files(tmp_path))
    async with bus.subscribe() as subscription:
        waiting = asyncio.create_task(anext(subscription, None))
        await asyncio.sleep(0)
        await bus.aclose()
        assert await asyncio.wait_for(waiting, 10) is None
        await bus.aclose()
    assert source.closed
    with pytest.raises(RuntimeError, match="closed"):
        await bus.subscribe().__aenter__()


async def test_only_subscribed_prefixes_are_watched_and_what_nobody_needs_is_forgotten(
    bus: EventBus, source: FakeSource, tmp_path: Path
) -> None:
    put(tmp_path, A, "{}")
    put(tmp_path, DEEP, "{}")
    put(tmp_path, OTHER, "{}")
    async with bus.subscribe(DEEP) as narrow:
        async with bus.subscribe(A):
            assert source.watched == [DEEP, A]
        assert source.watched == [DEEP]
        snapshot = bus._snapshot  # pyright: ignore[reportPrivateUsage]
        assert [uri for uri in snapshot.below(ROOT) if uri] == [DEEP]
        assert await heard(bus, narrow, Dirty(ROOT), Touched(OTHER)) == []
        version = put(tmp_path, DEEP, "{1}")
        assert await heard(bus, narrow) == [("put", DEEP, version)]


async def test_a_broader_subscription_leaves_the_news_of_a_narrower_alone(bus: EventBus, tmp_path: Path) -> None:
    put(tmp_path, DEEP, "{}")
    async with bus.subscribe(DEEP) as narrow:
        version = put(tmp_path, DEEP, "{1}")
        async with bus.subscribe():
            assert await heard(bus, narrow, Dirty(ROOT)) == [("put", DEEP, version)]


async def test_what_goes_while_subscribing_leaves_no_trace(source: FakeSource, tmp_path: Path) -> None:
    class Gated(Files):
        """A tree whose scan is old by the time it is told."""

        async def scan(self, prefixes: Sequence[URI]) -> AsyncGenerator[Listing, None]:
            listings = [listing async for listing in super().scan(prefixes)]
            scanned.set()
            await gate.wait()
            for listing in listings:
                # As if written long ago: to be believed.
                yield Listing(listing.folder, dict.fromkeys(listing.files, b"trusted!"), listing.folders)

    scanned, gate = asyncio.Event(), asyncio.Event()
    put(tmp_path, A, "{}")
    async with EventBus(source, Gated(tmp_path)) as bus:
        entering = asyncio.create_task(bus.subscribe().__aenter__())
        await asyncio.wait_for(scanned.wait(), 10)
        (tmp_path / f"{A}.json").unlink()
        source.say(Touched(A))
        await asyncio.wait_for(bus._settled.wait(), 10)  # pyright: ignore[reportPrivateUsage]
        gate.set()
        subscription = await entering
        assert await heard(bus, subscription) == []
        await subscription.aclose()


async def test_a_cancelled_subscribe_leaves_nothing_behind(source: FakeSource, tmp_path: Path) -> None:
    async def never(prefix: URI) -> None:
        source.watched.append(prefix)
        started.set()
        await asyncio.Event().wait()

    started = asyncio.Event()
    async with EventBus(source, Files(tmp_path)) as bus:
        source.watch = never  # type: ignore[method-assign]
        entering = asyncio.create_task(bus.subscribe(A).__aenter__())
        await asyncio.wait_for(started.wait(), 10)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        assert source.watched == []
        del source.watch  # type: ignore[attr-defined]
        async with bus.subscribe(A) as subscription:
            version = put(tmp_path, A, "{}")
            assert await heard(bus, subscription, Touched(A)) == [("put", A, version)]


async def test_files_that_are_no_resources_make_no_events(bus: EventBus, tmp_path: Path) -> None:
    for name in ("notes.txt", "cld:a.B.json", ".cld:a.B.c.json.swp", "cld:a.B.c.json~", "x.Y.z.json", "4913"):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".cld/tmp").mkdir(parents=True)
    (tmp_path / ".cld/tmp/cld:a.B.c.json").write_text("{}")
    (tmp_path / "cld:a.B.folder.json").mkdir()
    os.mkfifo(tmp_path / "cld:a.B.fifo.json")
    (tmp_path / "cld:a.B.link.json").symlink_to("notes.txt")
    async with bus.subscribe() as subscription:
        touched = [Touched(URI(f"cld:a.B.{name}")) for name in ("folder", "fifo", "link")]
        assert await heard(bus, subscription, Dirty(ROOT), *touched) == []


async def test_a_folder_that_is_a_link_is_never_followed(bus: EventBus, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / A).mkdir(parents=True)
    put(outside, DEEP, "{}")
    (tmp_path / A).symlink_to(outside / A)
    async with bus.subscribe() as subscription, bus.subscribe(A) as narrow:
        assert await heard(bus, subscription, Dirty(ROOT), Touched(DEEP)) == []
        assert narrow.take() == []


async def test_an_invalid_file_has_a_version_and_one_too_large_has_none(source: FakeSource, tmp_path: Path) -> None:
    async with EventBus(source, Files(tmp_path, max_bytes=10)) as bus, bus.subscribe() as subscription:
        version = put(tmp_path, A, "no JSON")
        assert await heard(bus, subscription, Touched(A)) == [("put", A, version)]
        put(tmp_path, A, "x" * 11)
        assert await heard(bus, subscription, Touched(A)) == [("put", A, None)]


async def test_the_slow_reconcile_finds_what_no_source_told(source: FakeSource, tmp_path: Path) -> None:
    async with EventBus(source, Files(tmp_path), reconcile_seconds=0.01) as bus, bus.subscribe() as subscription:
        version = put(tmp_path, A, "{}")
        event = await subscription.next(10)
        assert event is not None and event.version == version
        assert source.refreshed > 0


async def test_a_tree_that_fails_is_asked_again_and_stops_nobody(
    source: FakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Files):
        failures = 2

        async def look(self, uri: URI) -> Look | None:
            if uri == A and self.failures:
                self.failures -= 1
                raise OSError(5, "Input/output error")
            return await super().look(uri)

    monkeypatch.setattr("cld.events.bus.RETRY_SECONDS", 0.01)
    async with EventBus(source, Failing(tmp_path)) as bus, bus.subscribe() as subscription:
        put(tmp_path, A, "{}")
        put(tmp_path, DEEP, "{}")
        source.say(Touched(A))
        source.say(Touched(DEEP))
        found = [await subscription.next(10), await subscription.next(10)]
        assert [event.uri for event in found if event] == [DEEP, A]
        assert "Input/output error" in caplog.text


async def test_a_big_scan_lets_others_in_between_any_two_steps(
    bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With no time at all for a slice, every step is one: what counts is that there are steps everywhere.
    monkeypatch.setattr("cld.events.pace.SLICE_SECONDS", 0)
    folder = tmp_path / "cld:a.B.a"
    folder.mkdir()
    for number in range(1000):
        (folder / f"c.D.n{number}.json").write_text("{}")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(count())
    async with bus.subscribe() as subscription:
        turns = 0
        for number in range(1000):
            path = folder / f"c.D.n{number}.json"
            path.write_text("{1}")
            bus._notice(Touched(URI(f"{A}/c.D.n{number}")))  # pyright: ignore[reportPrivateUsage]
        for _ in range(1000):
            assert await subscription.next(10) is not None
        assert turns >= 999
        for number in range(1000):
            (folder / f"c.D.n{number}.json").unlink()
        turns = 0
        assert len(await heard(bus, subscription)) == 1000
        assert turns >= 1000
    task.cancel()
