"""The process in which the tools of one file run, and the keeper that ends it with everything it started.

Started by `cld.tools.process` only, as `python … cld.tools.worker`: the process that was started is the keeper,
its one child runs the tools. The keeper does nothing but wait: when its standard input ends, because cld asks or
because cld is gone, however it went, or when its child ends, it kills all that descends from it. On Linux it is
the one to whom orphans fall (PR_SET_CHILD_SUBREAPER), so a grandchild that made itself a session of its own is
found too. Elsewhere only the child's process group is.
"""

import contextlib
import ctypes
import faulthandler
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

from cld.tools.running import Lines, run_file

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_STOPPED_BY_SIGNAL = 128


def main() -> None:
    """`argv`: the socket's number and the bytes of memory that each process may have."""
    channel, memory = int(sys.argv[1]), int(sys.argv[2])
    keeper = os.getpid()
    _prctl(_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake)
    # Python writes to the pipe only for signals that have a handler.
    for one in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(one, _noted)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = os.fork()
    if worker == 0:
        _become_worker(keeper, channel, memory, (woken, wake))
    os.close(channel)
    sys.exit(_keep(worker, woken))


def _noted(number: int, frame: object) -> None:
    """The pipe tells it."""


def _keep(worker: int, woken: int) -> int:
    """Wait for the end of the worker or of standard input, then end everything; the worker's exit code."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(woken, select.POLLIN)
    code = None
    while code is None:
        ready = {fd for fd, _ in poll.poll()}
        signals = os.read(woken, 4096) if woken in ready else b""
        code = _reap(worker)
        if 0 in ready or signal.SIGTERM in signals:
            break
    _end_all(worker)
    return 0 if code is None else code


def _reap(worker: int) -> int | None:
    """Take in what has ended; the worker's code when it is among that."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == worker:
            exit_code = os.waitstatus_to_exitcode(status)
            code = exit_code if exit_code >= 0 else _STOPPED_BY_SIGNAL - exit_code


def _end_all(worker: int) -> None:
    """Kill all that descends from this process, until there is nothing."""
    while True:
        stopped = set[int]()
        # Stopped first, all of them, so that none starts another while the others are being killed.
        while new := _descendants() - stopped:
            for pid in new:
                _send(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            _send(pid, signal.SIGKILL)
        if sys.platform != "linux":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker, signal.SIGKILL)
        _reap(worker)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.002)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants() -> set[int]:
    """All that descend from this process and have not ended; of all processes, for not every kernel lists children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            # The name may hold anything, so what is read begins after its last bracket.
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in (b"Z", b"X"):
            children.setdefault(int(parent), []).append(int(entry.name))
    found, todo = set[int](), [os.getpid()]
    while todo:
        below = [pid for pid in children.get(todo.pop(), []) if pid not in found]
        found.update(below)
        todo += below
    return found


def _become_worker(keeper: int, channel: int, memory: int, pipes: tuple[int, int]) -> None:
    """Everything from the fork on in the child; does not return."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for one in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in pipes:
            os.close(fd)
        # A group of its own: a tool that signals its group must not end the keeper.
        os.setsid()
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before that could count
            os._exit(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)  # what tools print is no message
        faulthandler.enable()
        _bound(resource.RLIMIT_CORE, 0)
        if sys.platform == "linux":  # elsewhere it counts what is shared with everybody too, or is not kept
            _bound(resource.RLIMIT_AS, memory)
        os.set_inheritable(channel, False)
        connection = socket.socket(fileno=channel)
        run_file(Lines(connection.makefile("rb"), connection.makefile("wb")))
        code = 0
    except (BrokenPipeError, ConnectionError):  # cld is gone
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of tools, and what they registered for the end, have no say in when that is.
        os._exit(code)


def _bound(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


if __name__ == "__main__":
    main()
