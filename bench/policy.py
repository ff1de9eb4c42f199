"""What a policy decision costs, beside OPA's own REST server with the same rules and data, in one run.

    python bench/policy.py [--rounds N]

Prints p50 of one decision with 200 grants (reach: 75 µs), of filtering 1,000 resources in one call (reach: 6 ms),
of logging a decision, and of loading the policy in a fresh process with the native code cached (reach: 60 ms,
the import of wasmtime included). Exits with 1 when a reach is missed. Without an `opa` to compare with it says so.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cld.policy import Context
from cld.policy.build import find_opa
from cld.policy.input import build_input
from cld.policy.log import DecisionLog
from cld.policy.rego import RegoPolicy
from cld.principal import Principal
from cld.uri import parse_uri

FOLDER = Path(__file__).parent.parent / "policies"
WHO = Principal("user:ada", "user", roles=("editor",))
ONE = parse_uri("cld:common.Conversation.c7/common.Message.m3/plan.Task.t1")
MANY = [parse_uri(f"cld:common.Conversation.c{n // 20}/common.Message.m{n}") for n in range(1000)]
CONTEXT = Context(tool="resource_get", arguments={"uri": ONE})

LOAD = """
import sys, time
from cld.policy import rego
began = time.perf_counter()
policy = rego.RegoPolicy.open(rego.Path(sys.argv[1]))
print(time.perf_counter() - began)
assert not policy.problems(), policy.problems()
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3000)
    rounds = arguments.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = prepared(Path(name))
        policy = RegoPolicy.open(folder)
        assert not policy.problems(), policy.problems()
        settle(policy)
        one = p50(lambda: policy.decide(WHO, "read", ONE, CONTEXT), rounds)
        many = p50(lambda: policy.filter(WHO, "read", MANY, CONTEXT), max(20, rounds // 50))
        decision = policy.decide(WHO, "read", ONE, CONTEXT)
        assert decision.allow and all(policy.filter(WHO, "read", MANY, CONTEXT))
        log = DecisionLog(folder / "log")
        logged = p50(lambda: log.decided(WHO, "read", ONE, CONTEXT, None, decision), rounds)
        load = statistics.median(loaded(folder) for _ in range(7))
        rest = beside_opa(folder, rounds)
    missed = [
        show("one decision, 200 grants", one, 75e-6, rest[0]),
        show("1,000 resources filtered in one call", many, 6e-3, rest[1]),
        show("load, native code cached, fresh process", load, 60e-3, None),
        show("one decision written to the log", logged, None, None),
    ]
    if rest == (None, None):
        print("no opa found, so nothing to compare with; get one with `cld policy install-opa`")
    return 1 if any(missed) else 0


def prepared(place: Path) -> Path:
    """A copy of the shipped policies with 200 grants to other people in other places."""
    folder = place / "policies"
    shutil.copytree(FOLDER, folder)
    data = json.loads((folder / "data.json").read_text())
    for number in range(200):
        space = f"cld:cld.Namespace.n{number % 10}/common.Conversation.c{number}"
        data["grants"][f"user:u{number}"] = {space: {"allow": ["read", "list"], "types": ["common.*"]}}
    (folder / "data.json").write_text(json.dumps(data))
    return folder


def settle(policy: RegoPolicy) -> None:
    """Wait until the files are older than the time within which they are read again for safety."""
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        policy.decide(WHO, "read", ONE, CONTEXT)


def p50(call: Callable[[], object], rounds: int) -> float:
    for _ in range(rounds // 10):
        call()
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def loaded(folder: Path) -> float:
    command = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=FOLDER.parent)
    return float(done.stdout)


def show(what: str, taken: float, reach: float | None, other: float | None) -> bool:
    """Print a line; whether its reach was missed."""
    line = f"{what:42} {taken * 1e6:10.1f} µs"
    if reach is not None:
        line += f"   reach {reach * 1e6:8.0f} µs   {'ok' if taken <= reach else 'MISSED'}"
    if other is not None:
        line += f"   opa over REST {other * 1e6:10.1f} µs, ratio {taken / other:.2f}"
    print(line)
    return reach is not None and taken > reach


def beside_opa(folder: Path, rounds: int) -> tuple[float | None, float | None]:
    """The same two questions to `opa run --server`, over one kept connection."""
    opa = find_opa(os.environ.get("CLD_OPA", ""), FOLDER)
    if opa is None:
        return None, None
    with served(opa, folder) as connection:
        one = rest_call(connection, "decision", build_input(WHO, "read", ONE, CONTEXT))
        many = rest_call(connection, "allowed", build_input(WHO, "read", MANY, CONTEXT))
        assert one()["allow"] is True
        assert len(many()) == len(MANY)
        return p50(one, rounds // 3), p50(many, max(10, rounds // 100))


def rest_call(connection: http.client.HTTPConnection, rule: str, question: bytes) -> Callable[[], object]:
    body = b'{"input":' + question + b"}"

    def call() -> object:
        connection.request("POST", f"/v1/data/cld/authz/{rule}", body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())["result"]

    return call


@contextlib.contextmanager
def served(opa: Path, folder: Path) -> Iterator[http.client.HTTPConnection]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sources = [str(file) for file in folder.glob("*.rego") if not file.name.endswith("_test.rego")]
    server = subprocess.Popen(
        [opa, "run", "--server", "--disable-telemetry", "--log-level=error", f"--addr=127.0.0.1:{port}",
         *sources, str(folder / "data.json")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                connection.connect()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.05)
        yield connection
    finally:
        connection.close()
        server.terminate()
        server.wait(timeout=10)


if __name__ == "__main__":
    sys.exit(main())
