"""Parents: who is watched, and how their end is noticed where the system has no descriptors for processes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from cld.server import parents
from cld.server.parents import Ancestor, gone

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")]


def test_the_parent_is_watched_and_above_it_only_what_launched_it() -> None:
    # Of a process of ours: what started the tests may be gone by now.
    told = "import msgspec; from cld.server.parents import ancestors; print(msgspec.json.encode(ancestors()).decode())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, check=True, timeout=30)
    found = msgspec.json.decode(done.stdout, type=list[Ancestor])
    assert found[0].pid == os.getpid()
    assert all(one.name in parents.LAUNCHERS for one in found[:-1])
    assert all(lower.parent == upper.pid for lower, upper in itertools.pairwise(found))


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="no ps here")
def test_ps_says_the_same_as_proc() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        looked = parents._look_with_ps(child.pid)
        assert looked is not None and looked.parent == os.getpid()
        if sys.platform == "linux":
            assert looked == parents._look_in_proc(child.pid)
        child.communicate(b"\n")
    assert parents._look_with_ps(child.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert parents._look(child.pid) is None


@pytest.mark.parametrize("with_descriptors", [True, False])
async def test_a_parent_that_got_another_parent_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, with_descriptors: bool
) -> None:
    monkeypatch.setattr(parents, "POLL_SECONDS", 0.02)
    if not with_descriptors:
        monkeypatch.setattr(parents, "_descriptor", lambda pid: None)
    me = parents._look(os.getppid())
    assert me is not None
    with anyio.move_on_after(0.2) as waited:
        await gone([me, Ancestor(me.parent, 0, "")])
    assert waited.cancelled_caught  # all is as it was
    with anyio.fail_after(5):
        await gone([Ancestor(me.pid, me.parent + 1_000_000, "sh"), Ancestor(os.getpid(), 0, "")])
        await gone([Ancestor(me.pid + 1_000_000, 1, "host")])


async def test_the_end_of_one_above_is_noticed_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    me = parents._look(os.getppid())
    assert me is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as host:
        if parents._descriptor(host.pid) is None:
            pytest.skip("no descriptors for processes here")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gone, [me, Ancestor(host.pid, 0, "host")])
            await anyio.sleep(0.05)
            with anyio.fail_after(5):
                host.kill()
                host.wait()


async def test_where_there_is_nobody_to_watch_nothing_ends() -> None:
    with anyio.move_on_after(0.05) as waited:
        await gone([])
    assert waited.cancelled_caught
