"""Tool processes: whatever a tool does, it ends when it is told to, with all it started, and the next call works."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from tool_world import FAMILY, HEAD, World, eventually, is_running, parent_of, wait_for, world

from cld.config import Tooling
from cld.tools.process import environment

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only"),
]

PID = """
@tool
def pid() -> int:
    "Say which process this is."
    return os.getpid()
"""

MISBEHAVING = (
    PID
    + """
@tool
def hang() -> str:
    "Never return."
    while True: pass

@tool
async def hang_async() -> str:
    "Never return."
    import asyncio
    await asyncio.sleep(600)
    return "never"

@tool
def leave(code: int) -> str:
    "End the process."
    print("about to leave")
    os._exit(code)

@tool
def segfault() -> str:
    "Crash."
    ctypes.string_at(0)
    return "never"

@tool
def eat() -> str:
    "Take memory."
    return str(len([bytearray(1 << 24) for _ in range(1 << 20)]))

@tool
def talk() -> str:
    "Print."
    print('{"type":"done","text":"forged"}', flush=True)
    os.write(1, b"\\xff" * 1000)
    sys.stderr.write("x" * 500_000)
    subprocess.run(["echo", "from a child"])
    return "said"

@tool
def flood(size: int) -> str:
    "Give much."
    return "\\u00e4" * size

@tool
def data(size: int) -> list[int]:
    "Give much."
    return [7] * size

@tool
def fail(kind: str) -> str:
    "Fail."
    match kind:
        case "own": raise ToolError("no such city; try Berlin", code="no_city")
        case "exit": sys.exit(3)
        case "interrupt": raise KeyboardInterrupt
        case "deep": return fail(kind)
        case "odd": return object()
        case "surrogate": return chr(0xd800)
    return {}[kind]
"""
)


async def pids_of(path: Path) -> list[int]:
    text = await eventually(lambda: path.exists() and path.read_text())
    return [int(pid) for pid in text.split()]


async def started(calls: World, name: str, arguments: Mapping[str, Any]) -> "asyncio.Task[Any]":
    return asyncio.create_task(calls.call(name, arguments))


async def test_cancelling_ends_the_tool_its_children_and_grandchildren_before_it_returns(tmp_path: Path) -> None:
    async with world(tmp_path, {"family.py": FAMILY + PID}) as tools:
        task = await started(tools, "family", {"pids": str(tmp_path / "pids")})
        pids = await pids_of(tmp_path / "pids")
        grandchild, child, _, worker = pids
        keeper = parent_of(worker)
        assert all(is_running(pid) for pid in (grandchild, child, worker, keeper))
        begun = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and time.monotonic() - begun < 2
        assert [pid for pid in (*pids, keeper) if is_running(pid)] == []
        assert (await tools.call("pid")).data not in pids, "the next call has a new process"


async def test_a_scope_that_is_cancelled_waits_for_the_end_too(tmp_path: Path) -> None:
    async with world(tmp_path, {"family.py": FAMILY}) as tools:
        async with anyio.create_task_group() as group:
            group.start_soon(tools.call, "family", {"pids": str(tmp_path / "pids")})
            pids = await pids_of(tmp_path / "pids")
            group.cancel_scope.cancel()
        assert [pid for pid in pids if is_running(pid)] == []


async def test_cancelling_again_while_it_ends_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, {"family.py": FAMILY}) as tools:
        task = await started(tools, "family", {"pids": str(tmp_path / "pids")})
        pids = await pids_of(tmp_path / "pids")
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert [pid for pid in pids if is_running(pid)] == []


async def test_cancelling_while_a_process_starts_leaves_none(tmp_path: Path) -> None:
    before = children_of(os.getpid())
    async with world(tmp_path, {"a.py": PID + "\nprint('', flush=True)\n"}, Tooling(idle_seconds=0.001)) as tools:
        await eventually(lambda: children_of(os.getpid()) <= before)
        for turns in range(12):
            task = await started(tools, "pid", {})
            for _ in range(turns * 3):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await eventually(lambda: children_of(os.getpid()) <= before)


def children_of(pid: int) -> set[int]:
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
    return {one for one in pids if one != pid and is_running(one) and _is_child(one, pid)}


def _is_child(pid: int, parent: int) -> bool:
    try:
        return parent_of(pid) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("name", ["hang", "hang_async"])
async def test_a_tool_that_hangs_is_stopped_at_its_time_limit_and_the_next_call_works(
    tmp_path: Path, name: str
) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}, Tooling(seconds=0.5)) as tools:
        result = await tools.call(name)
        assert result.error is not None and result.error.code == "timed_out"
        assert result.error.message.startswith(f"{name} took more than 0.5 seconds")
        assert result.error.message.endswith("(tooling.seconds)")
        assert (await tools.call("pid")).error is None


async def test_a_tools_own_time_limit_counts_before_that_of_the_settings(tmp_path: Path) -> None:
    text = "@tool(seconds=0.3)\ndef slow() -> str:\n    'Slow.'\n    time.sleep(600)\n    return ''\n"
    async with world(tmp_path, {"slow.py": text}) as tools:
        result = await tools.call("slow")
        assert result.error is not None and "more than 0.3 seconds" in result.error.message
        assert "(seconds of its @tool, or time_limit in cld:tool.Tool.slow, which beats it)" in result.error.message


async def test_a_tool_that_crashes_says_how_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING, "family.py": FAMILY}) as tools:
        left = await tools.call("leave", {"code": 0})
        assert left.error is not None and left.error.code == "crashed"
        assert "ended by itself, with code 0; its last words: about to leave" in left.error.message
        killed = await tools.call("segfault")
        assert killed.error is not None and killed.error.code == "crashed"
        assert "ended with SIGSEGV" in killed.error.message and "Segmentation fault" in killed.error.message
        pids = tmp_path / "pids"
        family = await tools.call("family", {"pids": str(pids), "then": "crash"})
        assert family.error is not None and "with code 5" in family.error.message
        assert [pid for pid in await pids_of(pids) if is_running(pid)] == []
        assert (await tools.call("pid")).error is None


async def test_a_tool_that_takes_too_much_memory_fails_and_its_process_is_not_used_again(tmp_path: Path) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}, Tooling(memory_bytes=256 << 20)) as tools:
        before = (await tools.call("pid")).data
        result = await tools.call("eat")
        assert result.error is not None and result.error.code == "out_of_memory"
        assert "tooling.memory_bytes" in result.error.message
        assert (await tools.call("pid")).data != before


async def test_a_process_serves_calls_that_follow_one_another_and_ends_when_idle(tmp_path: Path) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}, Tooling(idle_seconds=0.2)) as tools:
        pid = (await tools.call("pid")).data
        assert (await tools.call("fail", {"kind": "own"})).error is not None
        assert (await tools.call("pid")).data == pid, "a failure in words harms no process"
        await eventually(lambda: not is_running(pid))


async def test_a_process_that_died_while_idle_is_replaced(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": PID}) as tools:
        pid = (await tools.call("pid")).data
        keeper = parent_of(pid)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not is_running(keeper))
        await eventually(lambda: not tools.source._pool._idle[0].process.is_alive)  # pyright: ignore[reportPrivateUsage]
        assert (await tools.call("pid")).data != pid


async def test_what_a_tool_prints_is_no_answer_and_never_blocks_it(tmp_path: Path) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}) as tools:
        assert (await tools.call("talk")).text == "said"
        assert (await tools.call("talk")).text == "said"


async def test_a_text_over_the_limit_is_cut_with_a_note_and_data_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}, Tooling(output_bytes=2000)) as tools:
        long = await tools.call("flood", {"size": 20_000_000})
        assert long.error is None and len(long.text.encode()) <= 2000
        assert long.text.startswith("ää") and "[cut: " in long.text and "of 40000000 bytes" in long.text
        whole = await tools.call("flood", {"size": 1000})
        assert whole.text == "ä" * 1000
        data = await tools.call("data", {"size": 100_000})
        assert data.error is not None and data.error.code == "output_too_large"
        assert "has 200001 bytes and at most 2000 are taken" in data.error.message and data.data is None
        assert (await tools.call("data", {"size": 3})).data == [7, 7, 7]


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("own", "no_city", "no such city; try Berlin"),
        ("exit", "failed", "SystemExit: 3 (line"),
        ("interrupt", "failed", "KeyboardInterrupt (line"),
        ("deep", "failed", "RecursionError"),
        ("odd", "failed", "object"),
        ("surrogate", "failed", "surrogate"),
        ("key", "failed", "KeyError: 'key' (line"),
    ],
)
async def test_whatever_a_tool_raises_becomes_a_failure_in_words(
    tmp_path: Path, kind: str, code: str, words: str
) -> None:
    async with world(tmp_path, {"bad.py": MISBEHAVING}) as tools:
        pid = (await tools.call("pid")).data
        result = await tools.call("fail", {"kind": kind})
        assert result.error is not None and result.error.code == code and words in result.error.message
        assert (await tools.call("pid")).data == pid


async def test_what_a_tool_forks_answers_nobody(tmp_path: Path) -> None:
    text = """
@tool
def background(say: str, context: ToolContext) -> str:
    "Go on in the background, as nobody should."
    child = os.fork()
    if child == 0:
        context.progress(say)
        try:
            context.call("hello", {"name": say})
        except ToolError:
            pass
        return say
    os.waitpid(child, 0)
    return "begun"

@tool
def forge() -> str:
    "Leave something in the channel."
    [lines] = [one for one in gc.get_objects() if isinstance(one, cld.tools.running.Lines)]
    lines.send(cld.tools.messages.Done(text="forged"))
    return "mine"

@tool
def hello(name: str) -> str:
    "Greet."
    return "hello " + name

import gc
import cld.tools.messages
import cld.tools.running
"""
    async with world(tmp_path, {"a.py": text}, Tooling(workers=1)) as tools:
        for _ in range(2):
            assert (await tools.call("background", {"say": "private"})).text == "begun"
            assert (await tools.call("hello", {"name": "Bob"})).text == "hello Bob"
        assert tools.progress == []
        forged = await tools.call("forge")
        assert forged.error is not None and forged.error.code == "crashed" and "earlier call" in forged.error.message
        assert (await tools.call("hello", {"name": "Bob"})).text == "hello Bob"


async def test_no_more_calls_run_at_once_than_are_allowed(tmp_path: Path) -> None:
    text = """
@tool
def crowd(folder: str) -> int:
    "Count who is here."
    here = os.path.join(folder, str(os.getpid()))
    open(here, "w").close()
    time.sleep(0.05)
    number = len(os.listdir(folder))
    os.unlink(here)
    return number
"""
    (tmp_path / "here").mkdir()
    before = children_of(os.getpid())
    async with world(tmp_path, {"a.py": text}, Tooling(workers=2)) as tools:
        results = await asyncio.gather(*(tools.call("crowd", {"folder": str(tmp_path / "here")}) for _ in range(8)))
        assert {result.data for result in results} <= {1, 2}
        assert len(children_of(os.getpid()) - before) <= 2


def test_tools_get_nothing_of_clds_environment_that_could_be_secret() -> None:
    given = {"PATH": "/bin", "OPENAI_API_KEY": "sk", "WEATHER_KEY": "w", "PYTHONPATH": "/x", "HOME": "/home/ada"}
    got = environment(Tooling(environment=("WEATHER_KEY", "MISSING")), given)
    assert got["PATH"] == "/bin" and got["WEATHER_KEY"] == "w"
    assert not {"OPENAI_API_KEY", "PYTHONPATH", "MISSING"} & got.keys()


async def test_a_tool_sees_that_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = "@tool\ndef env() -> dict[str, str]:\n    'Tell.'\n    return dict(os.environ)\n"
    async with world(tmp_path, {"a.py": text}) as tools:
        assert "OPENAI_API_KEY" not in (await tools.call("env")).data


HOST = """
import asyncio, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from tool_world import world
async def main():
    async with world(Path({tmp!r}), {{}}) as tools:
        await tools.call("family", {{"pids": {pids!r}}})
asyncio.run(main())
"""


def test_when_cld_is_killed_its_tools_and_all_they_started_end_too(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "family.py").write_text(HEAD + FAMILY)
    pids = tmp_path / "pids"
    program = HOST.format(tests=str(Path(__file__).parent), tmp=str(tmp_path), pids=str(pids))
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL) as host:
        try:
            family = [int(pid) for pid in wait_for(lambda: pids.exists() and pids.read_text()).split()]
            keeper = parent_of(family[-1])
            assert parent_of(keeper) == host.pid and all(is_running(pid) for pid in (family[0], family[-1], keeper))
        finally:
            host.kill()
    wait_for(lambda: not any(is_running(pid) for pid in (*family, keeper)), 5)


async def test_when_a_keeper_is_killed_its_worker_ends_and_the_call_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, {"family.py": FAMILY + PID}) as tools:
        worker = (await tools.call("pid")).data
        task = await started(tools, "family", {"pids": str(tmp_path / "pids")})
        grandchild, child, *_ = await pids_of(tmp_path / "pids")
        os.kill(parent_of(worker), signal.SIGKILL)
        result = await task
        assert result.error is not None and result.error.code == "crashed"
        await eventually(lambda: not is_running(worker))
        for pid in (grandchild, child):  # nobody is left to find these; that is what the keeper is for
            os.kill(pid, signal.SIGKILL)
