"""Parents: noticing that the host is gone, also when nobody closed our stdin.

A host may be killed while another process still holds the other end of the pipe. What is watched is the
process that started this one, and beyond it for as long as that is only a shell or a launcher: `sh -c`
lives on when the host that ran it dies. On Windows the pipe breaks with the host, and that is enough.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 1.0

LAUNCHERS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox", "env", "uv", "uvx", "timeout"})
"""Programs that start the server for somebody else."""

MOST = 8


@dataclass(frozen=True)
class Ancestor:
    """A process above this one, and the process that was above it when we looked."""

    pid: int
    parent: int
    name: str


def ancestors() -> list[Ancestor]:
    """The parent, and above it as long as each is a launcher; empty where there is none to watch."""
    found: list[Ancestor] = []
    pid = os.getppid()
    while pid > 1 and len(found) < MOST:
        ancestor = _look(pid)
        if ancestor is None:
            break
        found.append(ancestor)
        if ancestor.name not in LAUNCHERS:
            break
        pid = ancestor.parent
    return found


async def gone(watched: list[Ancestor]) -> None:
    """Return once one of `watched` is gone; never, if there is none."""
    if not watched:
        await asyncio.Event().wait()
    ended = asyncio.Event()
    with contextlib.ExitStack() as stack:
        descriptors = [_descriptor(ancestor.pid) for ancestor in watched]
        for descriptor in descriptors:
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                asyncio.get_running_loop().add_reader(descriptor, ended.set)
                stack.callback(asyncio.get_running_loop().remove_reader, descriptor)
        # Looked at once the descriptors are there: who went before is not missed, nor is a number used again.
        while not ended.is_set() and not _changed(watched):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if None not in descriptors else POLL_SECONDS):
                    await ended.wait()


def _changed(watched: list[Ancestor]) -> bool:
    if os.getppid() != watched[0].pid:
        return True
    return any(_has_another_parent(lower) for lower in watched[:-1])


def _has_another_parent(ancestor: Ancestor) -> bool:
    now = _look(ancestor.pid)
    return now is None or now.parent != ancestor.parent


def _descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, where the system has them."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _look(pid: int) -> Ancestor | None:
    """The process as it is now, None when there is none."""
    if sys.platform == "linux":
        return _look_in_proc(pid)
    return _look_with_ps(pid)


def _look_in_proc(pid: int) -> Ancestor | None:
    try:
        # "pid (name) state ppid …"; a name may hold anything, parentheses too.
        before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    state, parent = after.split()[:2]
    return None if state in "ZX" else Ancestor(pid, int(parent), before.partition("(")[2])


def _look_with_ps(pid: int) -> Ancestor | None:
    command = ["/bin/ps", "-o", "ppid=,comm=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603 - fixed words
    parent, _, name = found.stdout.strip().partition(" ")
    return Ancestor(pid, int(parent), Path(name.strip()).name.removeprefix("-")) if parent.isdigit() else None
