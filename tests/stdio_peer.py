"""A host in a few lines: JSON-RPC over a server's pipes, handshake era, many calls under way at once."""

import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parent.parent / "server.py"
DEADLINE_SECONDS = 60.0


class Died(Exception):
    """The server's output ended."""


class Peer:
    """The other end of `to_server` and `from_server`; closes them on leaving."""

    def __init__(self, to_server: int, from_server: int) -> None:
        self._to = to_server
        self._from = from_server
        self._ids = itertools.count(1)
        self._partial = b""
        self._answers: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in (self._to, self._from):
            if fd >= 0:
                os.close(fd)
        self._to = self._from = -1

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        client = {"name": "peer", "version": "0"}
        asked = self.ask("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": client})
        answer = self.answer(asked)
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    def ask(self, method: str, params: Mapping[str, Any]) -> int:
        number = next(self._ids)
        self._write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number

    def call(self, tool: str, **arguments: Any) -> int:
        """Begin a tool call; `answer` takes what is returned here."""
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def answer(self, number: int) -> dict[str, Any]:
        """The result of request `number`, its structured content where it is a tool's.

        Raises:
            Died: the server went first.
        """
        while number not in self._answers:
            self._read()
        return self._unpacked(self._answers.pop(number))

    def next_answer(self) -> tuple[int, dict[str, Any]]:
        """The next answer to come, to whichever request."""
        while not self._answers:
            self._read()
        number = next(iter(self._answers))
        return number, self._unpacked(self._answers.pop(number))

    def result(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.answer(self.call(tool, **arguments))

    def _unpacked(self, message: dict[str, Any]) -> dict[str, Any]:
        assert "error" not in message, message
        result = message["result"]
        return result.get("structuredContent", result)

    def _write(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except BrokenPipeError:
            raise Died from None

    def _read(self) -> None:
        ready, _, _ = select.select([self._from], [], [], DEADLINE_SECONDS)
        assert ready, "the server is silent"
        chunk = os.read(self._from, 1 << 16)
        if not chunk:
            raise Died
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "id" in message and "method" not in message:
                self._answers[message["id"]] = message


class Server:
    """A `server.py` of its own process over `root`, and the peer that talks to it."""

    def __init__(self, root: Path, *flags: str) -> None:
        command = [sys.executable, str(SERVER), "--root", str(root), *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        # Their own descriptors: the peer closes them when it is done, Popen its objects.
        self.peer = Peer(os.dup(self.process.stdin.fileno()), os.dup(self.process.stdout.fileno()))
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> Peer:
        self.peer.initialize()
        return self.peer

    def __exit__(self, *_: object) -> None:
        self.peer.close()
        try:
            self.process.wait(DEADLINE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()


def wait_until(holds: Any, what: str) -> None:
    """Return once `holds()` is true; fails, naming `what`, when that takes longer than the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
