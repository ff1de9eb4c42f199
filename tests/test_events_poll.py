"""Polling a store that cannot be watched: the real one over fsspec, in memory."""

from collections.abc import AsyncIterator

import anyio
import fsspec
import pytest

from cld.config import Watch
from cld.errors import ConfigError, StoreError
from cld.events import Listing, Look
from cld.events.bus import EventBus
from cld.events.choose import open_bus
from cld.events.poll import PollSource, StoreTree
from cld.events.subscription import Subscription
from cld.resource import Draft, new_id
from cld.store import ANY_VERSION
from cld.store.fsspec import FsspecStore
from cld.uri import ROOT, URI

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

A = URI("cld:a.B.a")
DEEP = URI("cld:a.B.a/c.D.d/e.F.f")


@pytest.fixture
def place() -> str:
    return f"memory://events-{new_id()}"


@pytest.fixture
async def store(place: str) -> AsyncIterator[FsspecStore]:
    store = await FsspecStore.open(place)
    yield store
    await store.aclose()


@pytest.fixture
async def bus(store: FsspecStore) -> AsyncIterator[EventBus]:
    async with open_bus(Watch(poll_seconds=0.01, reconcile_seconds=3600), None, store) as bus:
        yield bus


async def put(store: FsspecStore, uri: URI) -> str:
    return (await store.put(Draft(uri, {}), by="user:test", if_version=ANY_VERSION)).version


async def next_of(subscription: Subscription) -> tuple[str, URI, str | None]:
    event = await subscription.next(20)
    assert event is not None
    assert event.source == "poll"
    return event.change, event.uri, event.version


async def test_puts_and_deletes_are_told_with_the_version_of_the_store(bus: EventBus, store: FsspecStore) -> None:
    await put(store, A)
    async with bus.subscribe() as subscription:
        version = await put(store, DEEP)
        assert await next_of(subscription) == ("put", DEEP, version)
        version = await put(store, A)
        assert await next_of(subscription) == ("put", A, version)
        await store.delete(DEEP)
        assert await next_of(subscription) == ("delete", DEEP, None)
        await bus.reconcile()
        assert subscription.take() == []


async def test_a_prefix_is_told_of_itself_and_what_is_below_only(bus: EventBus, store: FsspecStore) -> None:
    async with bus.subscribe(A) as subscription:
        for uri in ("cld:a.B.a2", "cld:a.B.a2/c.D.d", A, DEEP):
            await put(store, URI(uri))
        assert {(await next_of(subscription))[1] for _ in range(2)} == {A, DEEP}
        await bus.reconcile()
        assert subscription.take() == []


async def test_an_invalid_resource_is_told_once_and_without_a_version(
    bus: EventBus, store: FsspecStore, place: str
) -> None:
    async with bus.subscribe() as subscription:
        with fsspec.open(f"{place}/{A}.json", "wb") as file:
            file.write(b"no JSON")
        assert await next_of(subscription) == ("put", A, None)
        await bus.reconcile()
        assert subscription.take() == []
        await store.delete(A)
        assert await next_of(subscription) == ("delete", A, None)


async def test_listings_are_those_of_folders_however_many_pages_it_takes(store: FsspecStore) -> None:
    uris = {URI(f"{A}/c.D.n{i}/e.F.f{j}") for i in range(3) for j in range(400)}
    async with anyio.create_task_group() as group:
        for uri in uris:
            group.start_soon(put, store, uri)
    listings: dict[URI, Listing] = {listing.folder: listing async for listing in StoreTree(store).scan([ROOT])}
    assert set(listings) == {ROOT, A, *(f"{A}/c.D.n{i}" for i in range(3))}
    assert listings[ROOT].folders == {"a.B.a"}
    assert listings[A].folders == {"c.D.n0", "c.D.n1", "c.D.n2"}
    assert {f"{folder}/{name}" for folder, listing in listings.items() for name in listing.files} == uris


async def test_a_store_that_fails_is_asked_again(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(StoreTree):
        failures = 3

        async def look(self, uri: URI) -> Look | None:
            if self.failures:
                self.failures -= 1
                raise StoreError("the network is away")
            return await super().look(uri)

    monkeypatch.setattr("cld.events.bus.RETRY_SECONDS", 0.01)
    async with EventBus(PollSource(0.01), Failing(store)) as bus, bus.subscribe() as subscription:
        version = await put(store, A)
        assert await next_of(subscription) == ("put", A, version)
        assert "the network is away" in caplog.text


async def test_a_store_cannot_be_watched_by_what_watches_folders(store: FsspecStore) -> None:
    with pytest.raises(ConfigError, match="local root"):
        open_bus(Watch(source="inotify"), None, store)
