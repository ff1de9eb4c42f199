"""get and put of the local store against the bare system calls, in the same run on the same disk.

    python bench/store.py [--rounds N] [--dir FOLDER]

raw get is open, read, close, msgspec decode; raw put is write, fsync, rename, fsync of the folder. Each
figure is the median of the rounds, which alternate between raw and store in short turns, after a
warm-up. Both write in the same folders, because ext4 takes longer to find room for a file where others
were deleted in the last minutes. Targets: get ≥ 0.6 of the raw rate, put ≥ 0.8. `one` puts one after the
other from one task, and pays one hop to a thread for each; `8 tasks` is what a server with several
callers does, to as many resources at once, against raw calls from as many threads.

What stands in the way of a target stands below the figures: what is paid for one call of each kind, in
microseconds, with the hop measured as an empty call, and flushing as what a raw put takes less without.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.uri import ROOT, URI

CONTENT = {"text": "x" * 600, "links": [{"rel": "child", "to": f"cld:common.Thing.t{n}"} for n in range(5)]}
FOLDER = "cld:common.Conversation.c1"
GETS = 500
PUTS = 16
TASKS = 8
TARGETS = {"get": 0.6, "put": 0.8}
numbers = count()

Work = Callable[[], Awaitable[object]]


def raw_get(path: str, decode: Callable[[bytes], object]) -> object:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    data = os.read(fd, 65536)
    os.close(fd)
    return decode(data)


def raw_put(root: Path, name: str, data: bytes, *, flush: bool = True) -> None:
    temporary = root / f".cld/tmp/raw{next(numbers)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(fd, data)
    if flush:
        os.fsync(fd)
    os.close(fd)
    os.rename(temporary, root / FOLDER / f"raw-{name}")
    folder = os.open(root / FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    if flush:
        os.fsync(folder)
    os.close(folder)


async def seconds(times: int, work: Work) -> float:
    """How long one of so many calls takes."""
    started = time.perf_counter()
    for _ in range(times):
        await work()
    return (time.perf_counter() - started) / times


async def measure(root: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Rounds of the seconds that one call takes, (raw, store), under each name."""
    store = await LocalStore.open(root)
    unflushed = await LocalStore.open(root, durability="none")
    uris = [URI(f"{FOLDER}/common.Message.m{n}") for n in range(20)]
    for uri in uris:
        await store.put(Draft(uri, CONTENT), by="user:bench")
    data = (root / f"{uris[0]}.json").read_bytes()
    threads = ThreadPoolExecutor(TASKS)
    loop = asyncio.get_running_loop()
    decode = msgspec.json.Decoder().decode
    paths = [str(root / f"{uri}.json") for uri in uris]
    turn = count()

    async def get_raw() -> object:
        return raw_get(paths[next(turn) % 20], decode)

    async def get() -> object:
        return await store.get(uris[next(turn) % 20])

    def raw_create(*, flush: bool = True) -> None:
        raw_put(root, f"n{next(turn)}", data, flush=flush)

    def raw_replace(*, flush: bool = True) -> None:
        raw_put(root, f"m{next(turn) % 20}", data, flush=flush)

    async def create(store: LocalStore) -> object:
        return await store.put(Draft(URI(f"{FOLDER}/common.Message.n{next(turn)}"), CONTENT), by="user:bench")

    async def replace(store: LocalStore) -> object:
        uri = uris[next(turn) % 20]
        return await store.put(Draft(uri, CONTENT), by="user:bench", if_version=ANY_VERSION)

    async def inline(work: Callable[[], None]) -> None:
        work()

    async def threaded(work: Callable[[], None]) -> None:
        await asyncio.gather(*(loop.run_in_executor(threads, work) for _ in range(TASKS)))

    async def together(work: Callable[[LocalStore], Awaitable[object]]) -> None:
        await asyncio.gather(*(work(store) for _ in range(TASKS)))

    async def hop() -> None:
        await store._in_thread(lambda: None, "hop for", ROOT)

    puts = {"create": (raw_create, create), "replace": (raw_replace, replace)}
    works: dict[str, tuple[int, int, Work, Work]] = {"get": (GETS, 1, get_raw, get)}
    for verb, (raw, ours) in puts.items():
        works[f"put, {verb}, one"] = (PUTS, 1, partial(inline, raw), partial(ours, store))
    for verb, (raw, ours) in puts.items():
        works[f"put, {verb}, {TASKS} tasks"] = (PUTS // TASKS, TASKS, partial(threaded, raw), partial(together, ours))
    for verb, (raw, ours) in puts.items():
        works[f"{verb}, unflushed"] = (PUTS, 1, partial(inline, partial(raw, flush=False)), partial(ours, unflushed))
    works["hop"] = (PUTS, 1, partial(inline, lambda: None), hop)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, (times, each, raw_work, work) in works.items():
            pair = (await seconds(times, raw_work) / each, await seconds(times, work) / each)
            if number:  # the first warms up
                found[name].append(pair)
    threads.shutdown()
    await unflushed.aclose()
    await store.aclose()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--dir", default=".", help="a folder on the disk to measure")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix=".bench-") as root:
        found = asyncio.run(measure(Path(root), given.rounds))
    took: dict[str, tuple[float, float]] = {}
    for name, rounds in found.items():
        raw, ours = (statistics.median(pair[side] for pair in rounds) for side in (0, 1))
        took[name] = (raw * 1e6, ours * 1e6)
        if (target := TARGETS.get(name.partition(",")[0])) is None:
            continue
        ratio = statistics.median(one / other for one, other in rounds)
        verdict = "reached" if ratio >= target else "missed"
        print(f"{name:24s} raw {1 / raw:9,.0f}/s  store {1 / ours:9,.0f}/s  ratio {ratio:.2f}, {target} {verdict}")
    print("\nWhat a call takes, in us")
    print(f"get      raw {took['get'][0]:6.1f}  store {took['get'][1]:6.1f}")
    print(f"hop to a thread and back  {took['hop'][1]:6.0f}")
    for verb in ("create", "replace"):
        flushed, bare = took[f"put, {verb}, one"], took[f"{verb}, unflushed"]
        print(
            f"{verb:8s} raw {flushed[0]:6.0f}, {flushed[0] - bare[0]:4.0f} of it flushing;  "
            f"store {flushed[1]:6.0f}, {flushed[1] - bare[1]:4.0f} of it flushing"
        )


if __name__ == "__main__":
    main()
