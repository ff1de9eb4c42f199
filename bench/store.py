"""get and put of the local store against the bare system calls, in the same run on the same disk.

    python bench/store.py [--rounds N] [--dir FOLDER]

raw get is open, read, close, msgspec decode; raw put is write, fsync, rename, fsync of the folder. Each
figure is the median of the rounds, which alternate between raw and store. Targets: get ≥ 0.6 of the
raw rate, put ≥ 0.8. `one` puts one after the other from one task, and pays one hop to a thread for
each; `8 tasks` is what a server with several callers does, to as many resources at once, against raw
calls from as many threads.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import msgspec

from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.uri import URI

CONTENT = {"text": "x" * 600, "links": [{"rel": "child", "to": f"cld:common.Thing.t{n}"} for n in range(5)]}
FOLDER = "cld:common.Conversation.c1"
GETS = 3000
PUTS = 200
TASKS = 8
numbers = count()


def raw_get(path: str, decode: Callable[[bytes], object]) -> object:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    data = os.read(fd, 65536)
    os.close(fd)
    return decode(data)


def raw_put(root: Path, name: str, data: bytes) -> None:
    temporary = root / f"tmp/{next(numbers)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.rename(temporary, root / "raw" / name)
    folder = os.open(root / "raw", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


async def rate(times: int, work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    for _ in range(times):
        await work()
    return times / (time.perf_counter() - started)


async def measure(root: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Rounds of (raw, store) rates under each name."""
    store = await LocalStore.open(root / "store")
    (root / "tmp").mkdir()
    (root / "raw").mkdir()
    uris = [URI(f"{FOLDER}/common.Message.m{n}") for n in range(20)]
    data = b""
    for uri in uris:
        await store.put(Draft(uri, CONTENT), by="user:bench")
        data = (root / "store" / f"{uri}.json").read_bytes()
        (root / "raw" / f"{uri.rpartition('/')[2]}.json").write_bytes(data)
    threads = ThreadPoolExecutor(TASKS)
    loop = asyncio.get_running_loop()
    decode = msgspec.json.Decoder().decode
    paths = [str(root / "store" / f"{uri}.json") for uri in uris]
    turn = count()

    async def get_raw() -> object:
        return raw_get(paths[next(turn) % 20], decode)

    async def get() -> object:
        return await store.get(uris[next(turn) % 20])

    async def create_raw() -> None:
        raw_put(root, f"n{next(turn)}", data)

    async def create() -> object:
        return await store.put(Draft(URI(f"{FOLDER}/common.Message.n{next(turn)}"), CONTENT), by="user:bench")

    async def replace_raw() -> None:
        raw_put(root, f"common.Message.m{next(turn) % 20}.json", data)

    async def replace() -> object:
        uri = uris[next(turn) % 20]
        return await store.put(Draft(uri, CONTENT), by="user:bench", if_version=ANY_VERSION)

    async def threaded(work: Callable[[], None]) -> None:
        await asyncio.gather(*(loop.run_in_executor(threads, work) for _ in range(TASKS)))

    async def creates_raw() -> None:
        await threaded(lambda: raw_put(root, f"n{next(turn)}", data))

    async def creates() -> None:
        await asyncio.gather(*(create() for _ in range(TASKS)))

    async def replaces_raw() -> None:
        await threaded(lambda: raw_put(root, f"common.Message.m{next(turn) % 20}.json", data))

    async def replaces() -> None:
        await asyncio.gather(*(replace() for _ in range(TASKS)))

    pairs = {
        "get": (GETS, 1, get_raw, get),
        "put, create, one": (PUTS, 1, create_raw, create),
        "put, replace, one": (PUTS, 1, replace_raw, replace),
        f"put, create, {TASKS} tasks": (PUTS // TASKS, TASKS, creates_raw, creates),
        f"put, replace, {TASKS} tasks": (PUTS // TASKS, TASKS, replaces_raw, replaces),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for number in range(rounds + 1):
        for name, (times, each, raw, ours) in pairs.items():
            rates = (each * await rate(times, raw), each * await rate(times, ours))
            if number:  # the first warms up
                found[name].append(rates)
    threads.shutdown()
    await store.aclose()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--dir", default=".", help="a folder on the disk to measure")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix=".bench-") as root:
        found = asyncio.run(measure(Path(root), given.rounds))
    for name, rounds in found.items():
        raw = statistics.median(one for one, _ in rounds)
        ours = statistics.median(other for _, other in rounds)
        ratio = statistics.median(other / one for one, other in rounds)
        print(f"{name:24s} raw {raw:9,.0f}/s  store {ours:9,.0f}/s  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
