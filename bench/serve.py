"""How dear cld's server is, as ratios against the SDK's bare low-level server in the same run, interleaved.

    python bench/serve.py [starts] [calls]

Start until `tools/list` is answered (target 1.25), p50 of a gated `resource_get` over stdio against a bare
echo (1.25), resident memory when idle after that (1.5), and the size of the default `tools/list` answer.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
TARGETS = {"start": 1.25, "call": 1.25, "memory": 1.5}
MAX_LIST_BYTES = 16_000
BATCH = 50


class Host:
    """A host that has started one server and shaken hands with it; `took` says how long until `tools/list`."""

    def __init__(self, command: list[str]) -> None:
        begin = time.perf_counter()
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self._server.stdin is not None and self._server.stdout is not None
        self._write = self._server.stdin
        self._read = os.fdopen(os.dup(self._server.stdout.fileno()), "rb")
        self._number = 0
        client = {"name": "bench", "version": "0"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.tools_bytes = len(self.ask("tools/list", {}))
        self.took = time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write.close()
        self._read.close()
        if self._server.stdout is not None:
            self._server.stdout.close()
        self._server.wait(10)

    def ask(self, method: str, params: dict[str, Any]) -> bytes:
        self._number += 1
        self._send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        while True:
            line = self._read.readline()
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "result" in answer and not answer["result"].get("isError"), answer
                return line

    def call(self, tool: str, arguments: dict[str, Any]) -> float:
        begin = time.perf_counter()
        self.ask("tools/call", {"name": tool, "arguments": arguments})
        return time.perf_counter() - begin

    def memory(self) -> int:
        """Resident memory in kB."""
        status = Path(f"/proc/{self._server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def _send(self, message: dict[str, Any]) -> None:
        self._write.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def main(starts: int, calls: int) -> int:
    bare = [sys.executable, str(ROOT / "bench" / "bare_server.py")]
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, str(ROOT / "server.py"), "--root", folder, "--policies", str(ROOT / "policies")]
        took: dict[str, list[float]] = {"bare": [], "cld": []}
        for turn in range(starts + 1):
            for name, command in (("bare", bare), ("cld", ours)):
                with Host(command) as host:
                    if turn:  # the first fills caches
                        took[name].append(host.took)
        with Host(bare) as yardstick, Host(ours) as host:
            uri = "cld:common.Text.bench"
            host.ask("tools/call", {"name": "resource_put", "arguments": {"uri": uri, "content": {"text": "x" * 200}}})
            lasted: dict[str, list[float]] = {"bare": [], "cld": []}
            for turn in range(calls // BATCH + 1):
                echoes = [yardstick.call("echo", {"uri": uri}) for _ in range(BATCH)]
                reads = [host.call("resource_get", {"uri": uri}) for _ in range(BATCH)]
                if turn:
                    lasted["bare"] += echoes
                    lasted["cld"] += reads
            memory = {"bare": yardstick.memory(), "cld": host.memory()}
            tools_bytes = host.tools_bytes
    start = {name: statistics.median(values) for name, values in took.items()}
    call = {name: statistics.median(values) for name, values in lasted.items()}
    ratios = {
        "start": start["cld"] / start["bare"],
        "call": call["cld"] / call["bare"],
        "memory": memory["cld"] / memory["bare"],
    }
    print(f"start to tools/list  bare {start['bare'] * 1e3:.0f} ms  cld {start['cld'] * 1e3:.0f} ms")
    print(f"call, p50            echo {call['bare'] * 1e6:.0f} µs  resource_get {call['cld'] * 1e6:.0f} µs")
    print(f"memory, idle         bare {memory['bare'] // 1024} MB  cld {memory['cld'] // 1024} MB")
    for name, ratio in ratios.items():
        print(f"{name:8s} {ratio:.2f}x  (target <= {TARGETS[name]}x)  {'ok' if ratio <= TARGETS[name] else 'MISSED'}")
    print(f"tools/list, default  {tools_bytes} bytes  (target <= {MAX_LIST_BYTES})")
    return 0 if all(ratios[name] <= target for name, target in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main(*(int(one) for one in (*sys.argv[1:], *("9", "2000")[len(sys.argv) - 1 :])[:2])))
