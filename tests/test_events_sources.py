"""Every source on the real disk, with writers in other processes: what any of them must tell."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from cld.config import Watch
from cld.errors import ConfigError
from cld.events import Change
from cld.events.bus import EventBus
from cld.events.choose import choose_source, open_bus
from cld.events.files import Files
from cld.events.inotify import InotifySource
from cld.events.pace import to_thread
from cld.events.poll import PollSource
from cld.events.subscription import Subscription
from cld.events.watchdog import WatchdogSource
from cld.resource import version_of
from cld.uri import ROOT, URI

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    # The watchdog library warns, in its reading thread, when a folder made while it walks is met twice; as
    # an error that would end the thread.
    pytest.mark.filterwarnings("ignore:Callback with id .* already exists:RuntimeWarning"),
]

ALICE = URI("cld:a.B.alice")
ALICE2 = URI("cld:a.B.alice2")
NOTE = URI(f"{ALICE}/c.D.note")
LAST = URI("cld:z.Z.last")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")
SOURCES = [pytest.param("inotify", marks=LINUX), "watchdog", "poll"]

# What the writers have: `put` as a store does it, `exchange` with what was there kept in .cld.
PRELUDE = """
import ctypes, os, shutil, sys
os.chdir(sys.argv[1])
def temporary(text):
    with open(".cld/tmp/x", "w") as file:
        file.write(text)
    return ".cld/tmp/x"
def put(uri, text):
    os.makedirs(os.path.dirname(uri) or ".", exist_ok=True)
    os.rename(temporary(text), uri + ".json")
def exchange(uri, text):
    call = ctypes.CDLL(None, use_errno=True).renameat2
    if call(-100, temporary(text).encode(), -100, (uri + ".json").encode(), 2):
        raise OSError(ctypes.get_errno(), "renameat2")
alice, alice2, note = "cld:a.B.alice", "cld:a.B.alice2", "cld:a.B.alice/c.D.note"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "resources"
    (root / ".cld/tmp").mkdir(parents=True)
    return root


@pytest.fixture(params=SOURCES)
async def bus(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[EventBus]:
    # Polling often, but reconciling never: what is heard, the source has told.
    watch = Watch(source=request.param, poll_seconds=0.05, reconcile_seconds=3600)
    async with open_bus(watch, root) as bus:
        assert bus.source == request.param
        yield bus


async def write(root: Path, program: str) -> None:
    """Run a program in another process."""
    await anyio.run_process([sys.executable, "-I", "-S", "-c", PRELUDE + program, str(root)], stderr=sys.stderr)


State = dict[URI, tuple[Change, str | None]]


async def hear(root: Path, subscription: Subscription, program: str, wanted: set[tuple[Change, URI]]) -> State:
    """The last state of everything announced for the program; fails unless it becomes what is wanted, and no more."""
    state: State = {}
    await write(root, program)
    with anyio.move_on_after(20):
        while {(change, uri) for uri, (change, _) in state.items()} != wanted:
            event = await anext(subscription)
            state[event.uri] = (event.change, event.version)
    assert {(change, uri) for uri, (change, _) in state.items()} == wanted
    return state


def version(text: str) -> str:
    return version_of(text.encode())


async def test_create_replace_exchange_and_delete_are_told(bus: EventBus, root: Path) -> None:
    async with bus.subscribe() as subscription:
        state = await hear(root, subscription, "put(alice, '{1}')", {("put", ALICE)})
        assert state[ALICE] == ("put", version("{1}"))
        state = await hear(root, subscription, "put(alice, '{2}')", {("put", ALICE)})
        assert state[ALICE] == ("put", version("{2}"))
        if sys.platform == "linux":
            state = await hear(root, subscription, "exchange(alice, '{3}')", {("put", ALICE)})
            assert state[ALICE] == ("put", version("{3}"))
        await hear(root, subscription, "os.remove(alice + '.json')", {("delete", ALICE)})


async def test_an_editor_that_saves_in_place_is_told_with_what_it_saved_last(bus: EventBus, root: Path) -> None:
    await write(root, "put(note, '{}')")
    program = """
with open(note + ".json", "w") as file:
    file.write("{1")
    file.flush()
    file.write("23}")
"""
    async with bus.subscribe(NOTE) as subscription:
        await write(root, program)
        with anyio.fail_after(20):
            while (await anext(subscription)).version != version("{123}"):
                pass


async def test_an_editor_that_saves_by_temporary_file_and_backup_is_told(bus: EventBus, root: Path) -> None:
    await write(root, "put(note, '{}')")
    program = """
open(note + ".json~", "w").write("{}")
open(alice + "/.c.D.note.json.swp", "w").write("{}")
open(alice + "/4913", "w").write("")
os.rename(note + ".json", note + ".json~")
open(note + ".json", "w").write("{1}")
os.remove(note + ".json~"); os.remove(alice + "/.c.D.note.json.swp"); os.remove(alice + "/4913")
"""
    async with bus.subscribe() as subscription:
        await write(root, program)
        heard: set[URI] = set()
        with anyio.fail_after(20):
            while (event := await anext(subscription)).version != version("{1}"):
                heard.add(event.uri)
        assert heard <= {NOTE}


async def test_a_tree_made_and_removed_at_once_is_told_whole(bus: EventBus, root: Path) -> None:
    uris = {URI(f"{ALICE}/c.D.x{i}/e.F.y{j}") for i in range(10) for j in range(10)} | {ALICE}
    program = """
put(alice, "{}")
for i in range(10):
    for j in range(10):
        put(f"{alice}/c.D.x{i}/e.F.y{j}", "{}")
"""
    async with bus.subscribe() as subscription:
        await hear(root, subscription, program, {("put", uri) for uri in uris})
        remove = "shutil.rmtree(alice); os.remove(alice + '.json')"
        await hear(root, subscription, remove, {("delete", uri) for uri in uris})


async def test_a_folder_moved_in_about_and_out_again_is_told_with_all_below(bus: EventBus, root: Path) -> None:
    below, moved = URI(f"{NOTE}/e.F.deep"), URI(f"{ALICE2}/c.D.note/e.F.deep")
    await write(root, "put('../out/c.D.note/e.F.deep', '{}'); put('../out/c.D.note', '{}')")
    async with bus.subscribe() as subscription:
        await hear(root, subscription, "os.rename('../out', alice)", {("put", NOTE), ("put", below)})
        await hear(
            root,
            subscription,
            "os.rename(alice, alice2)",
            {("delete", NOTE), ("delete", below), ("put", URI(f"{ALICE2}/c.D.note")), ("put", moved)},
        )
        await hear(root, subscription, "put(alice2 + '/c.D.note/e.F.deep', '{1}')", {("put", moved)})
        out = {("delete", URI(f"{ALICE2}/c.D.note")), ("delete", moved)}
        await hear(root, subscription, "os.rename(alice2, '.cld/trash')", out)
        await hear(root, subscription, "put('.cld/trash/c.D.note', '{2}'); put(alice, '{}')", {("put", ALICE)})


async def test_a_prefix_is_told_of_itself_and_what_is_below_and_of_nothing_else(bus: EventBus, root: Path) -> None:
    program = """
put(alice2, "{}"); put(alice2 + "/c.D.note", "{}"); put("cld:a.B.ali", "{}"); put("cld:z.Z.z", "{}")
put(alice, "{}"); put(note, "{}")
"""
    async with bus.subscribe(ALICE) as subscription:
        await hear(root, subscription, program, {("put", ALICE), ("put", NOTE)})


async def test_a_prefix_that_does_not_exist_yet_is_told_when_it_does(bus: EventBus, root: Path) -> None:
    deep = URI(f"{NOTE}/e.F.f")
    async with bus.subscribe(deep) as subscription:
        await hear(root, subscription, "put(note + '/e.F.f', '{}')", {("put", deep)})
        await hear(root, subscription, "put(note + '/e.F.f/g.H.h', '{}')", {("put", URI(f"{deep}/g.H.h"))})
        await hear(root, subscription, "shutil.rmtree(alice)", {("delete", deep), ("delete", URI(f"{deep}/g.H.h"))})
        await hear(root, subscription, "put(note + '/e.F.f', '{2}')", {("put", deep)})


async def test_many_subscribers_all_hear_all_of_theirs(bus: EventBus, root: Path) -> None:
    async with anyio.create_task_group() as group:
        ready = anyio.Semaphore(0)
        go = anyio.Event()

        async def listen(number: int) -> None:
            uri = URI(f"cld:a.B.n{number % 10}")
            async with bus.subscribe(uri if number < 100 else ROOT) as subscription:
                ready.release()
                await go.wait()
                heard: set[URI] = set()
                with anyio.fail_after(20):
                    while len(heard) < (1 if number < 100 else 10):
                        heard.add((await anext(subscription)).uri)
                assert number >= 100 or heard == {uri}

        for number in range(110):
            group.start_soon(listen, number)
        for _ in range(110):
            await ready.acquire()
        await write(root, "for i in range(10): put(f'cld:a.B.n{i}', '{}')")
        go.set()


async def test_a_root_that_is_moved_away_and_replaced_is_told(bus: EventBus, root: Path) -> None:
    await write(root, "put(alice, '{}'); put(note, '{}')")
    async with bus.subscribe() as subscription:
        gone = {("delete", ALICE), ("delete", NOTE)}
        await hear(root, subscription, "os.rename('../resources', '../old')", gone)
        root.mkdir()
        (root / ".cld/tmp").mkdir(parents=True)
        await hear(root, subscription, "put(note, '{1}')", {("put", NOTE)})
        await hear(root, subscription, "put(note, '{2}')", {("put", NOTE)})


@LINUX
async def test_a_root_that_is_replaced_in_one_step_is_told(bus: EventBus, root: Path) -> None:
    await write(root, "put(alice, '{}'); put(note, '{}'); put('../new/' + alice2, '{}'); os.mkdir('../new/.cld')")
    replace = "ctypes.CDLL(None).renameat2(-100, b'../resources', -100, b'../new', 2)"
    async with bus.subscribe() as subscription:
        await hear(root, subscription, replace, {("delete", ALICE), ("delete", NOTE), ("put", ALICE2)})
        (root / ".cld/tmp").mkdir()
        await hear(root, subscription, "put(note, '{2}')", {("put", NOTE)})


async def test_a_root_that_appears_after_subscribing_is_told(bus: EventBus, root: Path) -> None:
    (root / ".cld/tmp").rmdir()
    (root / ".cld").rmdir()
    root.rmdir()
    async with bus.subscribe(ALICE) as subscription:
        (root / ".cld/tmp").mkdir(parents=True)
        await hear(root, subscription, "put(note, '{1}')", {("put", NOTE)})


async def test_subscribing_again_and_again_hears_every_time(bus: EventBus, root: Path) -> None:
    for number in range(5):
        async with bus.subscribe(ALICE) as subscription:
            await hear(root, subscription, f"put(note, '{{{number}}}')", {("put", NOTE)})


async def test_an_overflow_that_watchdog_only_logs_has_everything_scanned(root: Path) -> None:
    class Deaf(WatchdogSource):
        def dispatch(self, event: "FileSystemEvent") -> None:
            """As after an overflow: what happened is told to nobody."""

    source = Deaf(root)
    async with EventBus(source, Files(root), reconcile_seconds=3600) as bus, bus.subscribe() as subscription:
        await write(root, "put(alice, '{1}')")
        # Word for word what the library logs; a real overflow takes 30,000 files: bench/events.py --source watchdog.
        lost = "Inotify queue overflowed; filesystem events were lost"
        await to_thread(lambda: logging.getLogger("watchdog.observers.inotify_c").warning(lost))
        event = await subscription.next(20)
        assert event is not None
        assert event.uri == ALICE


async def test_watchdog_is_told_nothing_of_reading(root: Path) -> None:
    class Counting(WatchdogSource):
        told = 0

        def dispatch(self, event: "FileSystemEvent") -> None:
            self.told += 1
            super().dispatch(event)

    await write(root, "for i in range(20): put(f'{alice}/c.D.x{i}/e.F.f', '{}')")
    source = Counting(root)
    async with EventBus(source, Files(root), reconcile_seconds=3600) as bus, bus.subscribe() as subscription:
        for _ in range(3):
            await bus.reconcile()
        assert await Files(root).look(URI(f"{ALICE}/c.D.x1/e.F.f")) is not None
        await hear(root, subscription, "put(note, '{1}')", {("put", NOTE)})
        assert source.told <= 2


@LINUX
def test_auto_takes_inotify(root: Path) -> None:
    source = choose_source(Watch(), root)
    assert isinstance(source, InotifySource)
    anyio.run(source.aclose)


def test_auto_takes_watchdog_where_there_is_no_inotify_and_polls_where_there_is_neither(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("cld.events.choose.InotifySource", none_left)
    assert isinstance(choose_source(Watch(), root), WatchdogSource)
    with pytest.raises(ConfigError, match="inotify"):
        choose_source(Watch(source="inotify"), root)
    monkeypatch.setitem(sys.modules, "watchdog", None)
    assert isinstance(choose_source(Watch(), root), PollSource)
    assert "polling" in caplog.text
    with pytest.raises(ConfigError, match="watchdog"):
        choose_source(Watch(source="watchdog"), root)


def test_watchdog_is_not_loaded_before_it_is_used() -> None:
    program = "import sys, cld.events.choose; sys.exit('watchdog' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent, timeout=30)
