"""Running `cld` as people do: a real subprocess, with or without a terminal."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).parent.parent
DEADLINE = 60.0


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment whose home is `home`."""
    return {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PROJECT),
        "PYTHONWARNINGS": "error",
        "TERM": "xterm",
        **(extra or {}),
    }


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "cld.cli", *args]


def cld(
    *args: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `cld` in `cwd`, which is its home too, into pipes."""
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(cwd, env), input=stdin, capture_output=True, timeout=DEADLINE
    )


class Pty:
    """`cld`, or another program, on a terminal of its own."""

    def __init__(
        self, args: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, program: str | None = None
    ) -> None:
        argv = command(*args) if program is None else [program, *args]
        self.seen = b""
        self._pid, self._master = os.forkpty()
        if self._pid == 0:
            try:
                os.chdir(cwd)
                os.execve(argv[0], argv, environment(cwd, env))
            finally:
                os._exit(127)

    def until(self, text: bytes) -> bytes:
        """Read until `text` was printed."""
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} was not printed; {self.seen!r} was"
            if not self._read(end):
                raise AssertionError(f"{text!r} was not printed; {self.seen!r} was")
        return self.seen

    def send(self, text: bytes) -> None:
        os.write(self._master, text)

    def interrupt(self) -> None:
        os.kill(self._pid, signal.SIGINT)

    def end(self) -> tuple[int, bytes]:
        """The exit code and everything printed."""
        end = time.monotonic() + DEADLINE
        while self._read(end):
            pass
        _, status = os.waitpid(self._pid, 0)
        os.close(self._master)
        return os.waitstatus_to_exitcode(status), self.seen

    def _read(self, end: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            os.kill(self._pid, signal.SIGKILL)
            raise AssertionError(f"nothing more came; {self.seen!r} did")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += data
        return bool(data)


def on_terminal(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Run `cld` on a terminal to its end."""
    return Pty(args, cwd, env).end()
