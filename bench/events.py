"""Events, measured: latency, the race of new folders, overflow, and what subscribing costs.

    python bench/events.py            # some 30 s
    python bench/events.py --json

This process writes; the event bus watches in a second process, and a bare inotify reader of twenty
lines in a third: the same writes at the same time, so the ratio of the two holds on a noisy machine. Overflow is
made by stopping the watcher while 30,000 files are written; no limit of the system is touched.
"""

import argparse
import asyncio
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cld.config import Watch
from cld.events import Event, Look
from cld.events.choose import open_bus
from cld.events.kernel import Inotify
from cld.events.snapshot import Snapshot, record_of
from cld.resource import new_id, version_of
from cld.uri import URI

FOLDERS = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--source", default="auto", help="auto, inotify, watchdog or poll")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long 200 puts a second go on")
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        logging.getLogger("cld.events").addHandler(overflows)
        logging.getLogger("cld.events").setLevel(logging.INFO)
        asyncio.run(watch(Path(options.watch), options.source))
    elif options.bare:
        bare(Path(options.bare))
    else:
        figures = measure(options.source, options.seconds)
        print(json.dumps(figures) if options.json else "\n".join(f"{k:40} {v}" for k, v in figures.items()))
        return 0 if all(figures[name] == 0 for name in figures if name.endswith("lost")) else 1
    return 0


def measure(source: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cld-bench-") as place:
        root = Path(place, "resources")
        (root / ".cld/tmp").mkdir(parents=True)
        folders = [
            root / f"cld:b.Top.t{i:03}" / f"b.Mid.m{j:03}" for i in range(100) for j in range(FOLDERS // 100 - 1)
        ]
        for folder in folders:
            folder.mkdir(parents=True)
        watcher = Child("--watch", root, source)
        figures: dict[str, Any] = {"source": watcher.ready["source"], "folders": FOLDERS}
        figures["subscribe, ms"] = watcher.ready["subscribe_ms"]
        figures["subscribe, longest block of the loop, ms"] = watcher.ready["block_ms"]
        reader = Child("--bare", root, source)
        figures |= latency(root, folders, watcher, reader, seconds)
        reader.end()
        figures |= race(root, watcher)
        figures |= overflow(root, watcher)
        rest = watcher.ask("rest")
        figures["overflow, times the queue overflowed"] = rest["overflows"]
        figures["snapshot, bytes per file"] = rest["bytes_per_file"]
        watcher.end()
        return figures


def latency(root: Path, folders: list[Path], watcher: "Child", reader: "Child", seconds: float) -> dict[str, Any]:
    count = int(200 * seconds)
    begin = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, begin + i / 200 - time.monotonic()))
        put(root, folders[i * 7919 % len(folders)] / f"b.Timed.r{i}.json")
    ours, theirs = watcher.ask(f"timed {count}"), reader.ask(f"timed {count}")
    return {
        "put at 200/s, events": ours["count"],
        "put at 200/s, lost": count - ours["count"],
        "put at 200/s, events per put": round(ours["events"] / count, 3),
        "latency p50, ms": ours["p50"],
        "latency p99, ms": ours["p99"],
        "bare reader p50, ms": theirs["p50"],
        "bare reader p99, ms": theirs["p99"],
        "latency p50, ratio to bare reader": round(ours["p50"] / theirs["p50"], 1),
        "latency p99, ratio to bare reader": round(ours["p99"] / theirs["p99"], 1),
    }


def race(root: Path, watcher: "Child") -> dict[str, Any]:
    begin = time.perf_counter()
    for i in range(1000):
        folder = root
        for level in range(4):
            folder = folder / (f"cld:b.Race.x{i}" if level == 0 else f"b.Race.x{i}_{level}")
            folder.mkdir()
            put(root, folder / f"b.Found.f{i}_{level}.json")
    written = time.perf_counter() - begin
    found = watcher.ask("count b.Found 4000")["count"]
    return {
        "race of new folders, written in ms": round(written * 1000),
        "race of new folders, seen after ms": round((time.perf_counter() - begin - written) * 1000),
        "race of new folders, lost": 4000 - found,
    }


def overflow(root: Path, watcher: "Child") -> dict[str, Any]:
    folder = root / "cld:b.Top.t000"
    for i in range(5000):
        put(root, folder / f"b.Old.o{i}.json")
    watcher.ask("count b.Old 5000")
    watcher.process.send_signal(signal.SIGSTOP)
    for i in range(30_000):
        put(root, folder / f"b.New.n{i}.json")
    for i in range(5000):
        (folder / f"b.Old.o{i}.json").unlink()
    begin = time.perf_counter()
    watcher.process.send_signal(signal.SIGCONT)
    new, old = watcher.ask("count b.New 30000")["count"], watcher.ask("count b.Old 0")["count"]
    return {
        "overflow, seen after ms": round((time.perf_counter() - begin) * 1000),
        "overflow, 30000 put, lost": 30_000 - new,
        "overflow, 5000 deleted, lost": old,
    }


def put(root: Path, path: Path) -> None:
    """As a store does it: written where nobody watches, then renamed; the content is the time of the rename."""
    temporary = f"{root}/.cld/tmp/{os.getpid()}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, b'{"content":{"at":%d}}' % time.monotonic_ns())
    os.close(file)
    os.rename(temporary, path)


class Child:
    """Another process of this program, asked by lines."""

    def __init__(self, role: str, root: Path, source: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, role, str(root), "--source", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def percentiles(values: list[float]) -> dict[str, Any]:
    values = sorted(values) or [float("nan")]
    return {"p50": round(values[len(values) // 2], 3), "p99": round(values[int(len(values) * 0.99)], 3)}


class Overflows(logging.Handler):
    """Counts how often the source said that the queue of the system overflowed."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if "overflowed" in record.getMessage():
            self.count += 1
        else:
            print(record.getMessage(), file=sys.stderr)


overflows = Overflows()


async def watch(root: Path, source: str) -> None:
    """The second process: an event bus and what it told."""
    there: dict[str, set[str]] = {}
    times: dict[str, float] = {}
    events = 0
    changed = asyncio.Condition()

    def heard(event: Event) -> None:
        nonlocal events
        kind = event.uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        here = there.setdefault(kind, set())
        if event.change == "delete":
            here.discard(event.uri)
            return
        here.add(event.uri)
        if kind == "b.Timed":
            now = time.monotonic_ns()
            events += 1
            data = (root / f"{event.uri}.json").read_bytes()
            times.setdefault(event.uri, (now - json.loads(data)["content"]["at"]) / 1e6)

    async def listen(subscription: Any) -> None:
        async for event in subscription:
            heard(event)
            if not len(subscription):
                async with changed:
                    changed.notify_all()

    async with open_bus(Watch(source=source, poll_seconds=0.2), root) as bus:  # pyright: ignore[reportArgumentType]
        blocks: list[float] = []
        pulse = asyncio.create_task(measure_blocks(blocks))
        begin = time.perf_counter()
        async with bus.subscribe() as subscription:
            subscribed = time.perf_counter() - begin
            pulse.cancel()
            listener = asyncio.create_task(listen(subscription))
            answer(
                source=bus.source,
                subscribe_ms=round(subscribed * 1000),
                block_ms=round(max(blocks, default=0) * 1000, 1),
            )
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            while line := await lines.readline():
                match line.decode().split():
                    case ["timed", count]:
                        await reach(changed, lambda count=int(count): len(times) >= count)
                        answer(count=len(times), events=events, **percentiles(list(times.values())))
                    case ["count", kind, wanted]:
                        await reach(changed, lambda kind=kind, wanted=int(wanted): len(there.get(kind, ())) == wanted)
                        answer(count=len(there.get(kind, ())))
                    case _:
                        answer(bytes_per_file=bytes_per_file(), overflows=overflows.count)
            listener.cancel()


async def reach(changed: asyncio.Condition, reached: Any) -> None:
    try:
        async with asyncio.timeout(8), changed:
            await changed.wait_for(reached)
    except TimeoutError:
        pass


async def measure_blocks(blocks: list[float]) -> None:
    """How long others on the event loop had to wait beyond what they asked for."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        blocks.append(time.perf_counter() - begin - 0.001)


def bytes_per_file() -> int:
    """What a snapshot takes for each of 20,000 files with ids as new ones have, every one read and announced."""
    tracemalloc.start()
    snapshot = Snapshot()
    before = tracemalloc.get_traced_memory()[0]
    for folder in range(200):
        for _ in range(100):
            uri = URI(f"cld:common.Conversation.c{folder}/common.Message.{new_id()}")
            snapshot.set(uri, record_of(Look(os.urandom(8), version_of(uri.encode()))))
    size = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return round(size / 20_000)


def bare(root: Path) -> None:
    """The third process, the yardstick: as little as can be done to learn of a put."""
    queue = Inotify()
    folders: dict[int, str] = {}
    for path, names, _ in os.walk(root):
        if ".cld" in names:
            names.remove(".cld")
        handle = os.open(path, os.O_RDONLY)
        folders[queue.add(handle)] = path
        os.close(handle)
    times: dict[str, float] = {}
    answer()
    while True:
        ready = select.select([queue.fd, sys.stdin], [], [])[0]
        if queue.fd in ready:
            for raw in queue.read():
                if raw.name.startswith("b.Timed"):
                    now = time.monotonic_ns()
                    data = Path(folders[raw.wd], raw.name).read_bytes()
                    times.setdefault(raw.name, (now - json.loads(data)["content"]["at"]) / 1e6)
        elif sys.stdin in ready:
            if not sys.stdin.readline():
                return
            answer(count=len(times), **percentiles(list(times.values())))


if __name__ == "__main__":
    sys.exit(main())
