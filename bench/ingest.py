"""How fast files become documents and passages, and what a run over unchanged files costs.

    python bench/ingest.py [FOLDER…] [--dir FOLDER] [--durability full|file|none]

Without folders: the installed documentation of the packages in this environment (Markdown, reStructuredText,
HTML, text, licences) and the sources of the project itself. Each figure is of one run; `again` is the second
run over the same files, `one` a run after one file changed. As yardsticks, in the same run on the same files:
reading them and taking their digests; converting them without writing anything; and one bare write, fsync and
rename for each resource that the run wrote, one after the other. Memory is the peak of the server's process and
of the largest converting process.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import resource
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import get_args

from cld.config import Durability, IngestLimits, Settings
from cld.ingest import Report, ingest
from cld.ingest.failed import ConversionFailed
from cld.ingest.kinds import SNIFFED_BYTES, by_content
from cld.ingest.messages import Order
from cld.ingest.pool import open_pool
from cld.ingest.scan import Selection, scan
from cld.policy import Context
from cld.runtime import Runtime
from cld.uri import ROOT

PROJECT = Path(__file__).parent.parent
LIMITS = IngestLimits()
SUFFIXES = {".md", ".rst", ".txt", ".html", ".pdf", ".docx"}


def gather(into: Path) -> None:
    """Copy the documentation of what is installed, and this project's, into one folder."""
    packages = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(packages.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and "RECORD" not in path.name:
            _copy(path, into / "packages" / path.relative_to(packages))
    for name in ("cld", "docs", "tests", "README.md", "CHANGELOG.md"):
        for path in [PROJECT / name, *(PROJECT / name).rglob("*")]:
            if path.is_file() and path.suffix in {*SUFFIXES, ".py"}:
                _copy(path, into / "project" / path.relative_to(PROJECT))


def _copy(path: Path, to: Path) -> None:
    # What is hidden or generated would be passed over.
    if not any(part.startswith(".") or part == "node_modules" for part in to.parts[-12:]):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)


def read_all(folders: list[Path]) -> tuple[int, int, float]:
    started = time.perf_counter()
    count = size = 0
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                hashlib.sha256(data).digest()
                count, size = count + 1, size + len(data)
    return count, size, time.perf_counter() - started


def write_bare(folder: Path, count: int, size: int) -> float:
    """Seconds that `count` bare durable writes of `size` bytes take."""
    folder.mkdir()
    data = b"x" * size
    handle = os.open(folder, os.O_RDONLY)
    started = time.perf_counter()
    for number in range(count):
        fd = os.open(folder / "tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(folder / "tmp", folder / str(number))
        os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - started


async def convert_all(folders: list[Path]) -> float:
    """Seconds that converting all files takes, the processes being there."""
    orders: list[Order] = []
    for folder in folders:
        for one in scan(str(folder), Selection("", (), frozenset(), LIMITS, lambda _: False)).found:
            data = (folder / one.path).read_bytes()
            if (kind := one.kind or by_content(data[:SNIFFED_BYTES])) is not None:
                bounds = (LIMITS.text_characters, LIMITS.passages, LIMITS.seconds)
                orders.append(Order(Path(one.path).name, kind.form, data, *bounds))
    async with open_pool(max(1, min(4, os.cpu_count() or 1)), LIMITS) as pool:
        warm = Order("warm.html", "html", b"<p>words", 1000, 10, 60.0)
        await asyncio.gather(*(pool.convert(warm) for _ in pool.workers))
        started = time.perf_counter()
        waiting = iter(orders)

        async def work() -> None:
            for order in waiting:
                with contextlib.suppress(ConversionFailed):
                    await pool.convert(order)

        await asyncio.gather(*(work() for _ in range(len(pool.workers) + 1)))
        return time.perf_counter() - started


async def timed(runtime: Runtime, folders: list[Path]) -> tuple[Report, float]:
    store = runtime.store(runtime.principal, Context(tool="ingest", host="bench"))
    started = time.perf_counter()
    report = await ingest(store, folders, below=ROOT)
    return report, time.perf_counter() - started


async def measure(folders: list[Path], scratch: Path, durability: Durability) -> None:
    count, size, reading = read_all(folders)
    print(f"{count} files, {size / 1e6:.1f} MB; read and digested at {size / 1e6 / reading:.0f} MB/s")
    converting = await convert_all(folders)
    settings = Settings(root=str(scratch / "tree"), policies=str(PROJECT / "policies"), durability=durability)
    async with Runtime.open(settings) as runtime:
        report, seconds = await timed(runtime, folders)
        megabytes = report.bytes_read / 1e6
        puts = report.passages_put + 2 * (report.added + len(report.failed))
        print(
            f"first: {report.added} documents, {report.passages_put} passages, {len(report.failed)} failed, "
            f"{megabytes:.1f} MB in {seconds:.1f} s: {megabytes / seconds:.2f} MB/s, {puts / seconds:.0f} writes/s"
        )
        for one in report.failed[:5]:
            print(f"  {Path(one.path).name}: {one.reason[:120]}")
        print(f"  converting alone: {converting:.2f} s, ratio {converting / seconds:.2f}")
        bare = write_bare(scratch / "bare", min(puts, 3000), 800) * puts / min(puts, 3000)
        print(f"  bare durable writes of as many files: {bare:.1f} s, ratio {bare / seconds:.2f}")
        await asyncio.sleep(2.1)  # until the files' times can be relied on
        again, seconds = await timed(runtime, folders)
        print(
            f"again: {again.unchanged} unchanged, {again.bytes_read / 1e6:.1f} MB read, {again.passages_put} written, "
            f"{seconds:.2f} s: {1e6 * seconds / max(1, count):.0f} µs a file"
        )
        changed = next(path for path in folders[0].rglob("*.md") if path.stat().st_size > 2000)
        text = changed.read_text()
        changed.write_text("# New\n\nA paragraph put in front.\n\n" + text)
        one, seconds = await timed(runtime, folders)
        changed.write_text(text)
        print(
            f"one: {one.changed} changed, {one.passages_put} passages put, {one.passages_deleted} deleted, "
            f"{seconds:.2f} s"
        )
    unit = 1024 if sys.platform == "linux" else 1024 * 1024
    own, children = (
        resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"memory: server {own:.0f} MB, largest converting process {children:.0f} MB")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", metavar="FOLDER", nargs="*", type=Path)
    arguments.add_argument("--dir", default=Path(), type=Path, help="a folder on the disk to measure")
    arguments.add_argument("--durability", choices=get_args(Durability), default="full")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir.resolve(), prefix="bench-") as scratch:
        folders: list[Path] = given.folders
        if not folders:
            folders = [Path(scratch) / "documentation"]
            gather(folders[0])
        asyncio.run(measure(folders, Path(scratch), given.durability))


if __name__ == "__main__":
    main()
