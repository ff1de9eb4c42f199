"""server.py as hosts start it: a real process, real pipes, the real policies, and every way to end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from node_packages import INSPECTOR, NODE, environment, need_packages
from server_world import ASSISTANTS, MODES, call, fail

ROOT = Path(__file__).parent.parent
SERVER = str(ROOT / "server.py")
POLICIES = str(ROOT / "policies")
CORE = [
    *("resource_get", "resource_put", "resource_list", "resource_delete", "search", "graph_query"),
    *("plan", "task_get", "task_update", "task_cancel", "approve"),
    *ASSISTANTS,
]
SECONDS = 20.0

VERSION = "io.modelcontextprotocol/protocolVersion"
ENVELOPE = {
    VERSION: "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and signals")


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, SERVER, "--root", str(folder / "resources"), "--policies", POLICIES, *more]


class Host:
    """A host that speaks JSON-RPC by hand to a server process it started."""

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **options
        )
        self._rest = b""
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait(SECONDS)

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)

    def send(self, **message: Any) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def line(self) -> bytes:
        """The next line of stdout; empty at its end."""
        assert self.process.stdout is not None
        end = time.monotonic() + SECONDS
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, "nothing came"
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def next(self) -> dict[str, Any]:
        return json.loads(self.line())

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The whole answer to one request; every line of stdout must be a message."""
        self._number += 1
        self.send(id=self._number, method=method, params=params)
        while True:
            answer = self.next()
            if answer.get("id") == self._number and "method" not in answer:
                return answer

    def shake_hands(self, version: str = "2025-11-25") -> dict[str, Any]:
        client = {"name": "test", "version": "0"}
        answer = self.ask("initialize", protocolVersion=version, capabilities={}, clientInfo=client)
        self.send(method="notifications/initialized")
        return answer["result"]

    def ended(self) -> int:
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def host(folder: Path, *more: str, **options: Any) -> Generator[Host]:
    with Host(command(folder, *more), **options) as started:
        yield started


@pytest.mark.anyio
@pytest.mark.parametrize("mode", [*MODES, "auto"])
async def test_the_sdks_client_drives_the_server_in_every_mode(tmp_path: Path, mode: str) -> None:
    python, *arguments = command(tmp_path)
    async with Client(StdioServerParameters(command=python, args=arguments), mode=mode) as connected:
        assert [tool.name for tool in (await connected.list_tools()).tools] == CORE
        written = await call(connected, "resource_put", uri="cld:common.Text.a", content={"text": "hi"})
        assert (await call(connected, "resource_get", uri="cld:common.Text.a"))["version"] == written["version"]
        assert (await fail(connected, "resource_get", uri="cld:common.Text.b"))["code"] == "not_found"
        assert [resource.uri for resource in (await connected.list_resources()).resources] == ["cld:common.Text.a"]
    assert (tmp_path / "resources" / "cld:common.Text.a.json").exists()


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_older_handshakes_are_served_in_their_version(tmp_path: Path, version: str) -> None:
    with host(tmp_path) as started:
        result = started.shake_hands(version)
        assert result["protocolVersion"] == version and result["serverInfo"]["name"] == "cld"
        assert [tool["name"] for tool in started.ask("tools/list")["result"]["tools"]] == CORE
        put = {"uri": "cld:common.Text.a", "content": {"text": "hi"}}
        assert not started.ask("tools/call", name="resource_put", arguments=put)["result"].get("isError")
        read = started.ask("resources/read", uri="cld:common.Text.a")["result"]["contents"][0]
        assert json.loads(read["text"])["content"] == {"text": "hi"}
        assert started.ask("ping")["result"] == {}


def test_an_unknown_handshake_version_is_answered_with_one_that_is_served(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        assert started.shake_hands("1999-01-01")["protocolVersion"] == "2025-11-25"


def test_a_host_may_look_before_it_shakes_hands(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        found = started.ask("server/discover", _meta=ENVELOPE)["result"]
        assert "2026-07-28" in found["supportedVersions"]
        assert found["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
        assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "cld"
        assert found["resultType"] == "complete"
        assert started.shake_hands()["protocolVersion"] == "2025-11-25"
        assert len(started.ask("tools/list")["result"]["tools"]) == len(CORE)


def test_a_host_may_look_and_go_on_without_a_handshake(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        first = started.ask("server/discover", _meta=ENVELOPE)["result"]
        assert len(started.ask("tools/list", _meta=ENVELOPE)["result"]["tools"]) == len(CORE)
        # Now the SDK answers, and must not say anything else than we did before.
        assert started.ask("server/discover", _meta=ENVELOPE)["result"] == first
        refused = started.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
        assert refused["error"]["code"] == -32022


def test_looking_with_an_unknown_version_says_which_there_are_and_still_lets_shake_hands(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        refused = started.ask("server/discover", _meta={**ENVELOPE, VERSION: "2099-01-01"})
        assert refused["error"]["code"] == -32022
        assert refused["error"]["data"]["supported"] == ["2026-07-28"]
        assert started.ask("server/discover")["error"]["code"] == -32602
        assert started.shake_hands()["protocolVersion"] == "2025-11-25"


def test_lines_that_are_no_messages_are_answered_and_harm_nothing(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        started.shake_hands()
        for line, code, id in (
            (b"{nonsense\n", -32700, None),
            (b"[]\n", -32600, None),
            (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}\n', -32600, None),
            (b'{"jsonrpc": "2.0", "id": 7}\n', -32600, 7),
            (b'{"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {"x": NaN}}\n', -32700, None),
            (b'{"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {"x": "\\ud800"}}\n', -32700, None),
            (b"\xff\xfe\n", -32700, None),
        ):
            started.write(line)
            answer = started.next()
            assert (answer["error"]["code"], answer["id"]) == (code, id), line
        started.write(b"\n  \n")
        assert started.ask("ping")["result"] == {}


ODD: list[Any] = [None, -1, 2**70, 1.5, True, "", [], {}, {"requestId": []}, {"requestId": {}}, {"_meta": 7}]
ODD += [{"_meta": {"progressToken": []}}, {"name": 7}, {"name": "resource_get", "arguments": []}, {"cursor": {}}]
METHODS = ["", "nope", "ping", "tools/list", "tools/call", "resources/list", "resources/read", "resources/subscribe"]
METHODS += ["prompts/get", "completion/complete", "subscriptions/listen", "server/discover", "tasks/get"]
METHODS += ["notifications/cancelled", "notifications/initialized", "notifications/progress", "logging/setLevel"]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2])},
            optional={
                "method": st.sampled_from(METHODS),
                "id": st.sampled_from([*ODD, 7, "seven"]),
                "params": st.sampled_from(ODD),
                "result": st.sampled_from(ODD),
                "error": st.sampled_from(ODD),
            },
        ),
        min_size=100,
        max_size=300,
    )
)
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
def test_no_messages_however_odd_end_the_server(messages: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, host(Path(folder)) as started:
        started.shake_hands()
        for message in messages:
            started.write(json.dumps(message).encode() + b"\n")
        started.write(b"[" * 100_000 + b"\n")
        started.send(id="the end", method="ping")
        while started.next().get("id") != "the end":
            pass


def test_large_messages_go_both_ways_also_when_nobody_reads_for_a_while(tmp_path: Path) -> None:
    text = "x" * 1_000_000
    with host(tmp_path) as started:
        started.shake_hands()
        put = {"uri": "cld:common.Text.a", "content": {"text": text}}
        assert not started.ask("tools/call", name="resource_put", arguments=put)["result"].get("isError")
        # More answers than the pipe holds, while the requests still are taken in: neither side waits for ever.
        for number in range(5):
            started.send(
                id=f"g{number}",
                method="tools/call",
                params={"name": "resource_get", "arguments": {"uri": "cld:common.Text.a"}},
            )
        started.send(
            id="big", method="tools/call", params={"name": "resource_put", "arguments": {**put, "if_version": "*"}}
        )
        answers = {(answer := started.next())["id"]: answer for _ in range(6)}
        assert all(
            answers[f"g{number}"]["result"]["structuredContent"]["content"]["text"] == text for number in range(5)
        )
        assert answers["big"]["result"]["structuredContent"]["revision"] == 2


def test_exact_numbers_survive_the_wire(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        started.shake_hands()
        content = {"big": 2**70 + 1, "none": None}
        started.ask("tools/call", name="resource_put", arguments={"uri": "cld:my.A.a", "content": content})
        answer = started.ask("tools/call", name="resource_get", arguments={"uri": "cld:my.A.a"})
        assert answer["result"]["structuredContent"]["content"] == content


def test_stray_prints_and_children_do_not_get_between_the_messages(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import os, subprocess, sys, runpy\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from cld.server.tools import Tools\n"
        "listed = Tools.list\n"
        "async def noisy(self, ctx, params):\n"
        "    print('stray print')\n"
        "    sys.stdout.flush()\n"
        "    os.write(1, b'stray write\\n')\n"
        "    child = subprocess.run(['cat'], stdout=None, timeout=10)\n"
        "    subprocess.run(['echo', 'stray child'])\n"
        "    return await listed(self, ctx, params)\n"
        "Tools.list = noisy\n"
        f"sys.argv = [{SERVER!r}, '--root', {str(tmp_path / 'r')!r}, '--policies', {POLICIES!r}]\n"
        f"runpy.run_path({SERVER!r}, run_name='__main__')\n"
    )
    with Host([sys.executable, str(noisy)]) as started:
        started.shake_hands()
        assert len(started.ask("tools/list")["result"]["tools"]) == len(CORE)
        assert started.process.stdin is not None and started.process.stderr is not None
        started.process.stdin.close()
        assert started.line() == b""
        said = started.process.stderr.read()
        for stray in (b"stray print", b"stray write", b"stray child"):
            assert stray in said


@pytest.mark.parametrize("started", [[SERVER], ["-m", "cld.cli", "serve"]])
@pytest.mark.parametrize(("level", "said"), [("warning", b""), ("info", b"INFO cld.server: serving user:local")])
def test_a_setting_has_it_say_more_on_standard_error(
    tmp_path: Path, started: list[str], level: str, said: bytes
) -> None:
    done = subprocess.run(
        [sys.executable, *started, "--root", str(tmp_path)],
        input=b"",
        capture_output=True,
        env={**os.environ, "CLD_LOG": level},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"") and said in done.stderr
    assert bool(done.stderr) == bool(said)


def test_it_ends_with_stdin_once_what_was_asked_is_answered(tmp_path: Path) -> None:
    with host(tmp_path) as started:
        started.shake_hands()
        put = {"uri": "cld:common.Text.a", "content": {"text": "hi"}}
        started.send(id="last", method="tools/call", params={"name": "resource_put", "arguments": put})
        assert started.process.stdin is not None
        started.process.stdin.close()
        answer = started.next()
        assert answer["id"] == "last" and answer["result"]["structuredContent"]["revision"] == 1
        assert started.line() == b""
        assert started.ended() == 0


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_that_cannot_be_waited_for_ends_it_quietly(tmp_path: Path, device: str) -> None:
    with open(device, "rb") as stdin:
        done = subprocess.run(command(tmp_path), stdin=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout == b"" and b"Traceback" not in done.stderr


def test_requests_from_a_file_are_answered(tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    client = {"name": "test", "version": "0"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    requests.write_text("".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages))
    with open(requests) as opened, open(tmp_path / "answers", "w") as answers:
        done = subprocess.run(command(tmp_path), stdin=opened, stdout=answers, timeout=SECONDS, check=True)
    assert done.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "answers").read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_signals_also_while_a_call_waits(tmp_path: Path, number: signal.Signals) -> None:
    with host(tmp_path, "--tools", "all") as started:
        started.shake_hands()
        started.send(id="w", method="tools/call", params={"name": "events_wait", "arguments": {"timeout_seconds": 55}})
        started.ask("ping")
        started.process.send_signal(number)
        assert started.ended() == 0
        assert started.process.stderr is not None
        assert b"Traceback" not in started.process.stderr.read()


def test_a_cancelled_wait_is_over_and_not_answered(tmp_path: Path) -> None:
    with host(tmp_path, "--tools", "all") as started:
        started.shake_hands()
        started.send(id="w", method="tools/call", params={"name": "events_wait", "arguments": {"timeout_seconds": 55}})
        started.ask("ping")
        started.send(method="notifications/cancelled", params={"requestId": "w"})
        assert started.ask("ping")["result"] == {}
        assert started.process.stdin is not None
        started.process.stdin.close()
        begin = time.monotonic()
        assert started.ended() == 0
        assert time.monotonic() - begin < 10
        assert started.line() == b""


@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$@"; true', "sh"]], ids=["child", "grandchild of a shell"])
def test_it_ends_when_its_host_dies_although_stdin_stays_open(tmp_path: Path, shell: list[str]) -> None:
    # The host passes on pipes that this test keeps open, tells the server's answers, and then is killed.
    stand_in = tmp_path / "host.py"
    stand_in.write_text("import subprocess, sys, time\nsubprocess.Popen(sys.argv[1:])\ntime.sleep(600)\n")
    with Host([sys.executable, str(stand_in), *shell, *command(tmp_path)]) as started:
        started.shake_hands()
        assert len(started.ask("tools/list")["result"]["tools"]) == len(CORE)
        started.process.kill()
        # stdout ends when the last process that has it is gone: the server, and the shell above it.
        assert started.line() == b""


def test_settings_that_cannot_be_used_are_told_in_words(tmp_path: Path) -> None:
    for more, said in (
        (["--tools", "nonsense"], "resource_get"),
        (["--principal", "ada"], "user:"),
        (["--http", "everywhere"], "HOST:PORT"),
    ):
        done = subprocess.run(
            command(tmp_path, *more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 1 and done.stdout == ""
        assert said in done.stderr and "Traceback" not in done.stderr


def test_nothing_slow_is_imported_that_stdio_does_not_need(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cld.server\n"
        "slow = ['jwt', 'watchdog', 'fsspec', 'jsonschema', 'paramiko', 'wasmtime']\n"
        "print([name for name in slow if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.timeout(280)
def test_the_inspectors_command_line_drives_the_server(tmp_path: Path) -> None:
    need_packages()

    def inspect(*more: str) -> Any:
        done = subprocess.run(
            [str(NODE), str(INSPECTOR), "--cli", *command(tmp_path), *more],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert [tool["name"] for tool in inspect("--method", "tools/list")["tools"]] == CORE
    arguments = ("--tool-arg", "uri=cld:common.Text.a", "--tool-arg", 'content={"text":"hi"}')
    written = inspect("--method", "tools/call", "--tool-name", "resource_put", *arguments)
    assert written["structuredContent"]["revision"] == 1
    assert inspect("--method", "resources/list")["resources"][0]["uri"] == "cld:common.Text.a"
    read = inspect("--method", "resources/read", "--uri", "cld:common.Text.a")
    assert json.loads(read["contents"][0]["text"])["content"] == {"text": "hi"}
