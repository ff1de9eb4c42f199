"""The keeper: a program that runs an MCP server and sees to it that everything it started ends with it.

It passes its own pipes on and reads nothing of them. When the other end of stdin is closed, by cld or because
cld was killed, the server has a moment to end by itself; then it and all that it started are told to
(SIGTERM), and then made to (SIGKILL), also what left its process group. Run by path with `python -I -S`, so it
imports nothing of cld.

    server_keeper.py SECONDS-AFTER-CLOSING SECONDS-AFTER-TERM COMMAND [ARGUMENT …]
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

CANNOT_RUN = 127
KILL_SECONDS = 2.0
"""A process that is not gone by then after SIGKILL is stuck in the kernel; nothing waits for it."""


def main(arguments: list[str]) -> int:
    """Run the command until it ends or stdin is closed; its exit code, 128 and more for a signal."""
    after_closing, after_term, *command = arguments
    prctl = _prctl()
    # What loses its parent becomes our child, and is found and waited for.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    told: list[int] = []
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def note(number: int, _: object) -> None:
        # A child's end only has to wake us.
        if number != signal.SIGCHLD:
            told.append(number)

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    keeper = os.getpid()

    def die_with_the_keeper() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)

    try:
        # One thread only, so running Python between fork and exec is safe.
        server = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_the_keeper)  # noqa: S603
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"cannot be run: {error}\n")
        return CANNOT_RUN
    # The end of the server's output has to be seen while we still wait for what it left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    poll = select.poll()
    poll.register(0, 0)
    poll.register(woken, select.POLLIN)
    code: int | None = None
    closed_at: float | None = None
    while code is None and not told:
        left = None if closed_at is None else closed_at + float(after_closing) - time.monotonic()
        if left is not None and left <= 0:
            break
        for descriptor, _ in poll.poll(None if left is None else left * 1000):
            if descriptor == 0:
                poll.unregister(0)
                closed_at = time.monotonic()
        _drain(woken)
        code = _reap(server.pid)
    for number, seconds in ((signal.SIGTERM, float(after_term)), (signal.SIGKILL, KILL_SECONDS)):
        code = _end_all(server.pid, number, seconds, woken, code)
    server.returncode = code = CANNOT_RUN if code is None else code
    return code if code >= 0 else 128 - code


def _end_all(group: int, number: int, seconds: float, woken: int, code: int | None) -> int | None:
    """Signal all below us until nothing is left or the time is over; the server's exit code as far as it is known."""
    deadline = time.monotonic() + seconds
    signalled: set[int] = set()
    while (left := deadline - time.monotonic()) > 0:
        if not signalled:
            with contextlib.suppress(OSError):
                os.killpg(group, number)
        # Found anew each time: who loses its parent, or was started meanwhile, is signalled as well.
        for pid in _descendants(os.getpid()) - signalled:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
            signalled.add(pid)
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == group:
                    code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return code
        # Each end of a child wakes us; what only became a child since is looked for now and then.
        select.select([woken], [], [], min(left, 0.05))
        _drain(woken)
    return code


def _reap(server: int) -> int | None:
    """The server's exit code once it has ended; whatever else ended is waited for too."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == server:
                code = os.waitstatus_to_exitcode(found[1])
    return code


def _descendants(above: int) -> set[int]:
    """All processes below `above`, where the system lists them."""
    parents: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    # "pid (name) state ppid …"; a name may hold anything, parentheses too.
                    state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                    if state not in "ZX":
                        parents[int(entry.name)] = int(parent)
    found = {above}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {above}


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _prctl() -> Callable[[int, int], object]:
    """Linux's `prctl`; elsewhere nothing, and closing stdin has to do."""
    if sys.platform != "linux":
        return lambda _option, _value: None
    return ctypes.CDLL(None, use_errno=True).prctl


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
