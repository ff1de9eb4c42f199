"""inotify: what it watches and what not, and that nothing is lost where the kernel loses it."""

import asyncio
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from cld.events import Event
from cld.events.bus import EventBus
from cld.events.files import Files
from cld.events.inotify import InotifySource
from cld.events.kernel import MOVED_FROM, MOVED_TO, OVERFLOW, Inotify
from cld.events.subscription import Subscription
from cld.resource import Draft, version_of
from cld.store.local import LocalStore
from cld.uri import ROOT, URI, is_within

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux"),
]

A = URI("cld:a.B.a")


class Limited(Inotify):
    """A kernel that lets `room` folders be watched, for the real limit is the whole machine's."""

    room = 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()

    def add(self, folder: int) -> int:
        wd = super().add(folder)
        if wd not in self.used and len(self.used) >= self.room:
            super().remove(wd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used.add(wd)
        return wd

    def remove(self, wd: int) -> None:
        self.used.discard(wd)
        super().remove(wd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "resources"
    (root / ".cld/tmp").mkdir(parents=True)
    return root


@asynccontextmanager
async def watching(root: Path, kernel: Inotify | None = None) -> AsyncIterator[tuple[EventBus, InotifySource]]:
    """A bus that never reconciles by itself: what is heard, inotify has told."""
    source = InotifySource(root, poll_seconds=0.02, kernel=kernel)
    async with EventBus(source, Files(root), reconcile_seconds=3600) as bus:
        yield bus, source


def put(root: Path, uri: str, text: str = "{}") -> str:
    """Write as a store does; the version."""
    temporary = root / ".cld/tmp/x"
    temporary.write_text(text)
    (root / uri).parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(root / f"{uri}.json")
    return version_of(text.encode())


def exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


async def all_heard(
    bus: EventBus, root: Path, subscription: Subscription, reconcile: bool = True
) -> list[tuple[str, URI, str | None]]:
    """What inotify led to, up to a marker written now; fails when it left anything to be found by a reconcile."""
    marker = URI("cld:z.Z.marker")
    put(root, marker, str(os.urandom(8)))
    heard: list[Event] = []
    with anyio.fail_after(20):
        while not heard or heard[-1].uri != marker:
            heard.append(await anext(subscription))
    if reconcile:
        await bus.reconcile()
    assert subscription.take() == []
    return [(event.change, event.uri, event.version) for event in heard[:-1]]


async def until(subscription: Subscription, reached: Callable[[dict[URI, str]], bool]) -> dict[URI, str]:
    """The last change of each URI, once that is as it should be; fails when it is not in time."""
    state: dict[URI, str] = {}
    with anyio.move_on_after(20):
        while not reached(state):
            event = await anext(subscription)
            state[event.uri] = event.change
    assert reached(state)
    return state


async def test_one_put_by_a_store_is_one_event(root: Path) -> None:
    async with watching(root) as (bus, _), bus.subscribe() as subscription:
        created = put(root, A, "{1}")
        assert await all_heard(bus, root, subscription) == [("put", A, created)]
        replaced = put(root, A, "{2}")
        assert await all_heard(bus, root, subscription) == [("put", A, replaced)]
        (root / ".cld/tmp/new").write_text("{3}")
        exchange(root / ".cld/tmp/new", root / f"{A}.json")
        assert await all_heard(bus, root, subscription) == [("put", A, version_of(b"{3}"))]
        (root / ".cld/tmp/linked").write_text("{}")
        os.link(root / ".cld/tmp/linked", root / "cld:a.B.linked.json")
        assert await all_heard(bus, root, subscription) == [("put", "cld:a.B.linked", version_of(b"{}"))]


async def test_saving_in_place_is_one_event_when_the_file_is_closed(root: Path) -> None:
    path = root / f"{A}.json"
    async with watching(root) as (bus, _), bus.subscribe() as subscription:
        with path.open("w") as file:
            # Made, and empty for as long as its writer likes: no resource yet.
            assert await all_heard(bus, root, subscription, reconcile=False) == []
            file.write("{1}")
        assert await all_heard(bus, root, subscription) == [("put", A, version_of(b"{1}"))]
        with path.open("w") as file:
            assert await all_heard(bus, root, subscription, reconcile=False) == []
            file.write("{2}")
        assert await all_heard(bus, root, subscription) == [("put", A, version_of(b"{2}"))]


async def test_reading_and_scanning_make_no_events(root: Path) -> None:
    put(root, A)
    put(root, f"{A}/c.D.d")
    async with watching(root) as (bus, source), bus.subscribe() as subscription:
        await source.refresh()
        shutil.copytree(root, root.parent / "copy")
        assert await all_heard(bus, root, subscription) == []


def test_an_exchange_is_two_moves_of_one_name_and_the_last_is_away(root: Path) -> None:
    # Why the bus looks at what is there instead of believing the last thing it was told.
    put(root, A)
    (root / ".cld/tmp/new").write_text("{}")
    queue = Inotify()
    folder = os.open(root, os.O_RDONLY)
    queue.add(folder)
    exchange(root / ".cld/tmp/new", root / f"{A}.json")
    assert [(raw.mask, raw.name) for raw in queue.read()] == [(MOVED_TO, f"{A}.json"), (MOVED_FROM, f"{A}.json")]
    os.close(folder)
    queue.close()


async def test_a_prefix_costs_watches_for_its_folders_and_those_above_only(root: Path) -> None:
    for number in range(20):
        (root / f"cld:a.B.n{number}/c.D.d/e.F.f").mkdir(parents=True)
        (root / f"cld:a.B.a/c.D.c{number}/e.F.f").mkdir(parents=True)
    async with watching(root) as (bus, source):
        async with bus.subscribe(URI(f"{A}/c.D.c1")):
            assert source.watches == 4  # the root, a, c1, f
            async with bus.subscribe(A):
                assert source.watches == 1 + 1 + 40
                async with bus.subscribe(URI(f"{A}/c.D.c2")), bus.subscribe(A):
                    assert source.watches == 1 + 1 + 40
                async with bus.subscribe():
                    assert source.watches == 1 + 1 + 40 + 60
                assert source.watches == 1 + 1 + 40
            assert source.watches == 4
            async with bus.subscribe(URI("cld:a.B.none/c.D.none")):
                assert source.watches == 4
        assert source.watches == 0


async def test_neither_the_reserved_folder_nor_foreign_ones_nor_links_are_watched(root: Path) -> None:
    (root / ".git/objects").mkdir(parents=True)
    (root / "node_modules").mkdir()
    (root / "cld:a.B.a").mkdir()
    (root / "cld:a.B.link").symlink_to("cld:a.B.a")
    async with watching(root) as (bus, source), bus.subscribe() as subscription:
        assert source.watches == 2
        (root / ".cld/later").mkdir()
        (root / "cld:a.B.later").symlink_to(".git")
        (root / "cld:a.B.a").rmdir()
        (root / "cld:a.B.a").symlink_to(".git")
        assert await all_heard(bus, root, subscription) == []
        assert source.watches == 1


async def test_no_file_is_missed_in_folders_made_while_watching(root: Path) -> None:
    program = """
import os, sys
for i in range(100):
    folder = sys.argv[1]
    for level in range(4):
        folder += f"/cld:a.B.x{i}" if level == 0 else f"/a.B.x{level}"
        os.mkdir(folder)
        with open(sys.argv[1] + "/.cld/tmp/w", "w") as file:
            file.write("{}")
        os.rename(sys.argv[1] + "/.cld/tmp/w", folder + f"/c.D.f{i}.json" if level else folder + ".json")
"""
    async with watching(root) as (bus, source), bus.subscribe() as subscription:
        await anyio.run_process([sys.executable, "-I", "-S", "-c", program, str(root)], stderr=None)
        await until(subscription, lambda state: len(state) == 400)
        assert source.watches == 401


async def test_nothing_is_missed_after_entering_while_others_write(root: Path) -> None:
    program = """
import os, sys
for i in range(1500):
    folder = f"{sys.argv[1]}/cld:a.B.x{i % 40}/c.D.y{i % 7}"
    os.makedirs(folder, exist_ok=True)
    with open(sys.argv[1] + "/.cld/tmp/w", "w") as file:
        file.write("{}")
    os.rename(sys.argv[1] + "/.cld/tmp/w", f"{folder}/e.F.f{i}.json")
    if i == 100:
        print("go", flush=True)
"""
    async with (
        watching(root) as (bus, _),
        await anyio.open_process([sys.executable, "-I", "-S", "-c", program, str(root)], stderr=None) as writer,
    ):
        assert writer.stdout is not None
        await writer.stdout.receive()
        async with bus.subscribe() as subscription:
            there = {path.name for path in root.rglob("*.json")}
            await writer.wait()
            missing = {f"e.F.f{i}.json" for i in range(1500)} - there
            await until(
                subscription,
                lambda state: missing <= {f"{uri.rsplit('/', 1)[-1]}.json" for uri in state},
            )


def overflow(root: Path) -> None:
    """Fill the kernel's queue for real: called without letting the event loop read it."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 200_000:
        pytest.skip("the queue of this system is too long to be filled in a test")
    here, there = root / "cld:a.B.a.json", root / "cld:a.B.b.json"
    here.write_text("{}")
    for _ in range(most // 4 + 1):
        here.rename(there)
        there.rename(here)
    here.unlink()


async def test_after_an_overflow_every_put_and_delete_is_told(root: Path) -> None:
    for number in range(300):
        put(root, f"{A}/c.D.old{number}")
        put(root, f"cld:a.B.away/c.D.old{number}")
    async with watching(root) as (bus, source), bus.subscribe() as subscription:
        overflow(root)
        for number in range(300):
            put(root, f"{A}/c.D.new{number}")
            put(root, f"cld:a.B.fresh/c.D.new{number}")
            (root / f"{A}/c.D.old{number}.json").unlink()
        shutil.rmtree(root / "cld:a.B.away")
        wanted = {URI(f"{parent}/c.D.new{n}"): "put" for parent in (A, "cld:a.B.fresh") for n in range(300)}
        wanted |= {URI(f"{parent}/c.D.old{n}"): "delete" for parent in (A, "cld:a.B.away") for n in range(300)}
        await until(subscription, lambda state: wanted.items() <= state.items())
        # And it goes on by itself: the folders that came meanwhile are watched, those that went are not.
        assert source.watches == 3
        put(root, "cld:a.B.fresh/c.D.after")
        await until(subscription, lambda state: URI("cld:a.B.fresh/c.D.after") in state)


def test_the_overflow_of_these_tests_is_one(root: Path) -> None:
    queue = Inotify()
    folder = os.open(root, os.O_RDONLY)
    queue.add(folder)
    overflow(root)
    masks: set[int] = set()
    while raws := queue.read():
        masks |= {raw.mask for raw in raws}
    assert OVERFLOW in masks
    os.close(folder)
    queue.close()


async def test_at_the_limit_of_watches_the_rest_is_polled_with_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        put(root, f"cld:a.B.n{number}/c.D.d/e.F.f")
    kernel = Limited()
    kernel.room = 5
    async with watching(root, kernel) as (bus, source), bus.subscribe() as subscription:
        assert source.watches == 5
        assert "No space left on device" in caplog.text
        assert "polling" in caplog.text
        wanted = {URI(f"cld:a.B.n{number}/c.D.d/e.F.new"): "put" for number in range(10)}
        for uri in wanted:
            put(root, uri)
        await until(subscription, lambda state: state == wanted)
        (root / "cld:a.B.n7/c.D.d/e.F.f.json").unlink()
        (root / "cld:a.B.n2/c.D.d/e.F.f.json").unlink()
        await until(subscription, lambda state: sorted(state.values()) == ["delete", "delete"])
        kernel.room = 1000
        with anyio.fail_after(20):
            while source.watches < 21:
                put(root, "cld:a.B.n9/c.D.d/e.F.f", str(os.urandom(8)))
                await anext(subscription)
        with anyio.fail_after(20):
            while "can be watched again" not in caplog.text:
                await anyio.lowlevel.checkpoint()


async def test_a_part_that_was_polled_is_forgotten_when_the_folder_above_it_goes(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(root, f"{A}/c.D.d/e.F.f")
    kernel = Limited()
    kernel.room = 2
    async with watching(root, kernel) as (bus, _), bus.subscribe() as subscription:
        assert "c.D.d and perhaps more cannot be watched" in caplog.text
        (root / A).rename(root / ".cld/away")
        await until(subscription, lambda state: list(state.values()) == ["delete"])
        with anyio.fail_after(20):
            while "can be watched again" not in caplog.text:
                await anyio.lowlevel.checkpoint()


async def test_a_prefix_whose_own_folders_cannot_be_watched_is_polled(root: Path) -> None:
    kernel = Limited()
    kernel.room = 0
    async with watching(root, kernel) as (bus, source), bus.subscribe(A) as subscription:
        assert source.watches == 0
        put(root, f"{A}/c.D.d")
        put(root, "cld:a.B.other")
        assert await until(subscription, lambda state: len(state) == 1) == {URI(f"{A}/c.D.d"): "put"}


async def test_folders_that_change_places_are_told(root: Path) -> None:
    put(root, "cld:a.B.one/c.D.in_one")
    put(root, "cld:a.B.two/c.D.in_two")
    async with watching(root) as (bus, source), bus.subscribe() as subscription:
        exchange(root / "cld:a.B.one", root / "cld:a.B.two")
        wanted = {
            URI("cld:a.B.one/c.D.in_one"): "delete",
            URI("cld:a.B.one/c.D.in_two"): "put",
            URI("cld:a.B.two/c.D.in_two"): "delete",
            URI("cld:a.B.two/c.D.in_one"): "put",
        }
        await until(subscription, lambda state: state == wanted)
        put(root, "cld:a.B.one/c.D.after")
        put(root, "cld:a.B.two/c.D.after")
        await until(subscription, lambda state: len(state) == 2)
        assert source.watches == 3
        put(root, ".cld/aside/c.D.aside")
        exchange(root / "cld:a.B.one", root / ".cld/aside")
        await until(subscription, lambda state: state.get(URI("cld:a.B.one/c.D.aside")) == "put" and len(state) == 3)
        assert source.watches == 3


async def test_a_folder_above_the_prefix_that_is_moved_away_takes_the_prefix_with_it(root: Path) -> None:
    prefix = URI("cld:a.B.a/c.D.b/e.F.c")
    put(root, prefix)
    put(root, f"{prefix}/g.H.d")
    async with watching(root) as (bus, _), bus.subscribe(prefix) as subscription:
        (root / "cld:a.B.a").rename(root / ".cld/away")
        await until(subscription, lambda state: list(state.values()) == ["delete", "delete"])
        (root / ".cld/away").rename(root / "cld:a.B.a")
        await until(subscription, lambda state: list(state.values()) == ["put", "put"])


async def test_nothing_stays_open_after_closing(root: Path) -> None:
    (root / "cld:a.B.a/c.D.d").mkdir(parents=True)
    async with watching(root) as (bus, _), bus.subscribe():
        pass
    before = sorted(os.listdir("/proc/self/fd"))
    async with watching(root) as (bus, _):
        async with bus.subscribe(), bus.subscribe(A):
            pass
        for _ in range(20):
            with anyio.move_on_after(0.001):
                async with bus.subscribe():
                    pass
    unused = EventBus(InotifySource(root), Files(root))
    await unused.aclose()
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_subscribing_cancelled_at_any_moment_leaves_the_bus_as_it_was(root: Path) -> None:
    for number in range(200):
        (root / f"cld:a.B.n{number}/c.D.d").mkdir(parents=True)
    async with watching(root) as (bus, source):
        for turns in range(30):
            entering = asyncio.ensure_future(bus.subscribe().__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            outcome = (await asyncio.gather(entering, return_exceptions=True))[0]
            if isinstance(outcome, Subscription):
                await outcome.aclose()
            assert source.watches == 0
        async with bus.subscribe(ROOT) as subscription:
            assert source.watches == 401
            put(root, f"{A}/c.D.d")
            await until(subscription, lambda state: len(state) == 1)


async def test_the_local_store_makes_one_event_for_each_change(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = await LocalStore.open(root, durability="none")
    deep = URI(f"{A}/c.D.d")
    async with watching(root) as (bus, _), bus.subscribe() as subscription:
        first = (await store.put(Draft(A, {"n": 1}), by="user:a")).version
        assert await all_heard(bus, root, subscription) == [("put", A, first)]
        second = (await store.put(Draft(A, {"n": 2}), by="user:a", if_version=first)).version
        assert await all_heard(bus, root, subscription) == [("put", A, second)]
        below = (await store.put(Draft(deep, {}), by="user:a")).version
        with anyio.fail_after(20):
            assert (await anext(subscription)).version == below
        await store.delete(A, recursive=True)
        assert await until(subscription, lambda state: len(state) == 2) == {A: "delete", deep: "delete"}
        third = (await store.restore(A, first, by="user:a")).version
        assert await all_heard(bus, root, subscription) == [("put", A, third)]
    await store.aclose()


async def test_whatever_writers_do_the_last_state_is_told_without_any_reconcile(root: Path) -> None:
    program = """
import ctypes, os, random, shutil, sys
os.chdir(sys.argv[1])
chance = random.Random(int(sys.argv[2]))
libc = ctypes.CDLL(None)
def folder(depth):
    names = [f"{'cld:' if level == 0 else ''}a.B.n{chance.randrange(4)}" for level in range(depth)]
    return "/".join(names) or "."
def put(path):
    with open(".cld/tmp/x" + sys.argv[2], "w") as file:
        file.write(str(chance.random()))
    return ".cld/tmp/x" + sys.argv[2], path
for step in range(1500):
    depth = chance.randrange(1, 5)
    here, there = folder(depth), folder(depth)
    try:
        match chance.randrange(10):
            case 0 | 1 | 2: os.makedirs(os.path.dirname(here) or ".", exist_ok=True); os.rename(*put(here + ".json"))
            case 3: os.makedirs(here, exist_ok=True); open(here + ".json", "w").write(str(step))
            case 4: os.remove(here + ".json")
            case 5: os.rename(here, there)
            case 6: os.rename(here + ".json", there + ".json")
            case 7: libc.renameat2(-100, here.encode(), -100, there.encode(), 2)
            case 8: libc.renameat2(-100, put("")[0].encode(), -100, (here + ".json").encode(), 2)
            case 9 if depth > 1: shutil.rmtree(here)
    except OSError:
        pass
"""
    narrow_prefix = URI("cld:a.B.n1/a.B.n2")
    async with watching(root) as (bus, source), bus.subscribe() as broad, bus.subscribe(narrow_prefix) as narrow:
        async with anyio.create_task_group() as group:
            for seed in ("1", "2"):
                command = [sys.executable, "-I", "-S", "-c", program, str(root), seed]
                group.start_soon(partial(anyio.run_process, command, stderr=None))
        there = {
            URI(path.removesuffix(".json")): version_of((root / path).read_bytes())
            for path in (str(path.relative_to(root)) for path in root.rglob("*.json"))
        }
        for subscription, prefix in ((broad, ROOT), (narrow, narrow_prefix)):
            wanted = {uri: version for uri, version in there.items() if is_within(uri, prefix)}
            state: dict[URI, str | None] = {}
            with anyio.move_on_after(20):
                while {uri: version for uri, version in state.items() if version} != wanted:
                    event = await anext(subscription)
                    state[event.uri] = event.version
            assert {uri: version for uri, version in state.items() if version} == wanted
        # And the watches are those of the folders there are.
        folders = [path for path in root.rglob("*") if path.is_dir() and ".cld" not in path.parts]
        with anyio.fail_after(20):
            while source.watches != 1 + len(folders):
                await anyio.lowlevel.checkpoint()
