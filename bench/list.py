"""Listing a folder of 100,000 resources against bare os.scandir of it, in the same run.

    python bench/list.py [--count N] [--rounds N] [--dir FOLDER]

`whole` is every page at the largest limit, cold: the names are read, checked, sorted and turned into
URIs once, with nothing remembered. `by 100` is paging through all of it 100 at a time, which must cost
per page what a page has. Target: whole ≤ 2 x scandir. What stands in the way is said below: scandir
leaves the names as they come and `whole` cannot, for pages and cursors need an order.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from cld.resource import new_id
from cld.store import MAX_LIMIT
from cld.store.local import LocalStore
from cld.uri import URI

TARGET = 2.0
PREFIX = URI("cld:common.Conversation.c1")


def scandir(folder: Path) -> float:
    started = time.perf_counter()
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    assert names
    return time.perf_counter() - started


def read_and_sort(folder: Path) -> tuple[float, float]:
    started = time.perf_counter()
    names = os.listdir(folder)
    read = time.perf_counter()
    names.sort()
    return read - started, time.perf_counter() - read


async def pages(store: LocalStore, limit: int, count: int) -> tuple[float, int]:
    """How long all pages of `limit` take, and how many there are."""
    started = time.perf_counter()
    total = turns = 0
    cursor = None
    while True:
        page = await store.list(PREFIX, cursor=cursor, limit=limit)
        total += len(page.uris)
        turns += 1
        cursor = page.cursor
        if cursor is None:
            break
    assert total == count
    return time.perf_counter() - started, turns


async def measure(root: Path, count: int, rounds: int) -> None:
    folder = root / PREFIX
    folder.mkdir()
    for _ in range(count):
        os.close(os.open(folder / f"common.Message.{new_id()}.json", os.O_CREAT | os.O_WRONLY))
    await asyncio.sleep(0.1)  # older than a tick of the file system's clock, as almost every folder is
    bare: list[float] = []
    whole: list[float] = []
    small: list[float] = []
    least: list[tuple[float, float]] = []
    turns = 1
    for number in range(rounds + 1):
        scan = scandir(folder)
        store = await LocalStore.open(root)
        cold, _ = await pages(store, MAX_LIMIT, count)
        paged, turns = await pages(store, 100, count)
        await store.aclose()
        if number:  # the first warms up
            bare.append(scan)
            whole.append(cold)
            small.append(paged)
            least.append(read_and_sort(folder))
    scan = statistics.median(bare)
    ratio = statistics.median(one / other for one, other in zip(whole, bare, strict=True))
    print(f"scandir of {count:,}         {scan * 1e3:8.1f} ms")
    verdict = "reached" if ratio <= TARGET else "missed"
    print(f"whole, cold              {statistics.median(whole) * 1e3:8.1f} ms  ratio {ratio:.2f}, {TARGET} {verdict}")
    read, ordered = (statistics.median(pair[part] for pair in least) * 1e3 for part in (0, 1))
    print(f"  of it reading the names {read:7.1f} ms, ordering them {ordered:.1f} ms")
    paged = statistics.median(small)
    print(f"by 100, {turns:,} pages      {paged * 1e3:8.1f} ms  {paged / turns * 1e6:.0f} us a page")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--dir", default=".", help="a folder on the disk to measure")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix=".bench-") as root:
        asyncio.run(measure(Path(root), given.count, given.rounds))


if __name__ == "__main__":
    main()
