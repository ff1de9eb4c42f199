"""The converting processes: what a hostile file can do is end one, in time, with a reason."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from ingest_files import docx

from cld.config import IngestLimits
from cld.ingest.failed import ConversionFailed
from cld.ingest.kinds import Form
from cld.ingest.messages import Order
from cld.ingest.pool import END_SECONDS, Pool, open_pool

pytestmark = pytest.mark.anyio

LIMITS = IngestLimits(seconds=5.0)

# In place of the converter: does what a file that got the better of a parser might do.
HOSTILE = """
import os, sys, time
import cld.ingest.worker as worker
from cld.ingest.messages import Converted

def convert(order):
    match order.name:
        case "spin":
            while True: pass
        case "sleep":
            time.sleep(600)
        case "eat":
            return [bytearray(1 << 24) for _ in range(1 << 20)]
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "write":
            os.write(os.open(order.data.decode(), os.O_CREAT | os.O_WRONLY), b"x")
        case "print":
            print("not an answer", flush=True)
            os.write(1, b"\\xff" * 64)
        case "deep":
            return convert(order)
        case "raise":
            raise ValueError("a" * 10_000)
        case "flood":
            return Converted("t" * (100 << 20), "", "", "", "", ())
        case "lie":
            return {"type": "converted", "title": 1}
        case "children":
            return Converted(str(os.getpid()), "", "", "", "", ())
    return Converted(order.name, "", "", "", "", ())

worker.convert = convert
worker.main()
"""


@asynccontextmanager
async def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: IngestLimits) -> AsyncGenerator[Pool]:
    script = tmp_path / "hostile.py"
    script.write_text(HOSTILE)
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" -P "{script}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    async with open_pool(1, limits) as pool:
        yield pool


def order(name: str, data: bytes = b"", form: Form = "text", seconds: float = 5.0) -> Order:
    return Order(name, form, data, 1 << 20, 1000, seconds)


async def refused(pool: Pool, wanted: Order) -> str:
    with pytest.raises(ConversionFailed) as failed:
        await pool.convert(wanted)
    return str(failed.value)


async def test_a_real_process_converts_one_file_after_another() -> None:
    async with open_pool(2, LIMITS) as pool:
        made = await asyncio.gather(
            *(pool.convert(order(f"n{n}", f"words {n}".encode())) for n in range(10)),
        )
        assert [one.passages[0].text for one in made] == [f"words {n}" for n in range(10)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("abort", "ended with SIGABRT"),
        ("exit", "ended the process with code 0"),
        ("eat", "more memory than is allowed"),
        ("deep", "nests too deep"),
        ("raise", "ValueError: aaaa"),
        ("flood", "what became of it has"),
    ],
)
async def test_whatever_a_file_does_it_is_told_and_the_next_one_is_converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, reason: str
) -> None:
    limits = msgspec.structs.replace(LIMITS, memory_bytes=400 << 20, text_characters=1 << 20)
    async with hostile(monkeypatch, tmp_path, limits) as pool:
        assert reason in (said := await refused(pool, order(name))) and len(said) < 600
        assert (await pool.convert(order("next"))).title == "next"


@pytest.mark.parametrize("name", ["spin", "sleep"])
async def test_a_file_that_takes_too_long_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        await pool.convert(order("warm"))
        started = time.monotonic()
        assert "more than 0.3 seconds" in await refused(pool, order(name, seconds=0.3))
        assert time.monotonic() - started < 5
        assert (await pool.convert(order("next"))).title == "next"


async def test_a_converting_process_can_write_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        target = tmp_path / "written"
        assert "cannot be converted: OSError" in await refused(pool, order("write", str(target).encode()))
        assert not target.exists() or target.stat().st_size == 0


async def test_what_a_library_prints_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        assert (await pool.convert(order("print"))).title == "print"


async def test_a_cancelled_conversion_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        child = int((await pool.convert(order("children"))).title)
        waiting = asyncio.create_task(pool.convert(order("sleep", seconds=600)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert (await pool.convert(order("next"))).title == "next"


async def test_a_process_is_ended_at_once_though_more_of_its_answer_came_than_anybody_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """asyncio stops reading a pipe of which nobody takes, so it never saw that one's end, and waited for it."""
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        child = int((await pool.convert(order("children"))).title)
        (worker,) = pool.workers
        process = worker._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        data = msgspec.msgpack.encode(order("flood"))
        process.stdin.write(len(data).to_bytes(8) + data)
        async with asyncio.timeout(20):
            while not process.stdout._paused:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        async with asyncio.timeout(END_SECONDS / 2):
            await worker.end()
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert (await pool.convert(order("next"))).title == "next"


async def test_an_answer_that_is_none_costs_its_file_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        assert "no answer" in await refused(pool, order("lie"))
        assert (await pool.convert(order("next"))).title == "next"


async def test_leaving_the_pool_ends_its_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(monkeypatch, tmp_path, LIMITS) as pool:
        child = int((await pool.convert(order("children"))).title)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_a_process_whose_server_is_gone_ends_by_itself(tmp_path: Path) -> None:
    """Between files at once, as its input ends; within one when its processor time is up."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cld.ingest.worker", str(LIMITS.memory_bytes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdin is not None
    worker.stdin.close()
    async with asyncio.timeout(20):
        assert await worker.wait() == 0


async def test_processor_time_ends_a_process_that_nobody_stops(tmp_path: Path) -> None:
    script = tmp_path / "hostile.py"
    # The bound is set as for a real file, then the time it leaves is taken away.
    script.write_text(HOSTILE.replace('case "spin":', 'case "spin":\n            tighten()').replace(
        "def convert(order):",
        "def tighten():\n    import resource\n    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)\n"
        "    assert 0 < soft < 60, soft\n    resource.setrlimit(resource.RLIMIT_CPU, (1, hard))\n\ndef convert(order):",
    ))  # fmt: skip
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(script), str(LIMITS.memory_bytes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert worker.stdin is not None
    data = msgspec.msgpack.encode(order("spin"))
    worker.stdin.write(len(data).to_bytes(8) + data)
    await worker.stdin.drain()
    async with asyncio.timeout(30):
        assert await worker.wait() == -signal.SIGXCPU


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("html", b"<script a=b " * 300_000),
        ("docx", docx([(0, "words")] * 100_000)),
        (
            "mail",
            b"From: a@b.c\nContent-Type: text/plain" + b"".join(b"; a*%d=x" % n for n in range(30_000)) + b"\n\nx",
        ),
    ],
    ids=["unclosed tags", "a DOCX of 100,000 paragraphs", "a header of 30,000 parameters"],
)
async def test_what_a_parser_takes_the_square_of_its_length_for_is_given_up_in_time(form: Form, data: bytes) -> None:
    async with open_pool(1, LIMITS) as pool:
        await pool.convert(order("warm", b"<p>words", form="html"))
        assert "more than 0.5 seconds" in await refused(pool, order("slow", data, form, seconds=0.5))
        assert (await pool.convert(order("next", b"words"))).title == "next"


# In a process of its own: what the system tells is the most that any child ever had.
BOMB = """
import asyncio, resource
from cld.config import IngestLimits
from cld.ingest.failed import ConversionFailed
from cld.ingest.messages import Order
from cld.ingest.pool import open_pool

async def main():
    limits = IngestLimits(memory_bytes=700 << 20, seconds=20.0)
    page = b"<p>" + b"a" * (48 << 20)
    async with open_pool(1, limits) as pool:
        try:
            await pool.convert(Order("x.html", "html", page, 16 << 20, 1000, 20.0))
        except ConversionFailed as failed:
            print(failed)
        print((await pool.convert(Order("next.txt", "text", b"words", 1 << 20, 1000, 20.0))).title)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_a_real_bomb_stays_within_its_memory() -> None:
    """A page of which much more is made than it is, under a bound that it breaks."""
    told = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=True).stdout
    reason, after, peak = told.splitlines()
    assert "memory" in reason or "characters" in reason
    assert after == "next.txt" and int(peak) < 800 << 10
