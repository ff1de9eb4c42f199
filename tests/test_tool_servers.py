"""Tool servers: real servers, over stdio and HTTP, in both protocol eras, behaving well and badly."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import CallToolResult, ResourceLink
from mcp_types import Tool as McpTool

from cld.config import Permit
from cld.errors import ToolFailed
from cld.principal import Principal
from cld.tools import Caller, Result, server_connection, server_http, server_stdio
from cld.tools.names import MAX_NAME, here
from cld.tools.server_listing import MAX_DESCRIPTION, listing_of
from cld.tools.server_permits import allowed
from cld.tools.server_results import result_of
from cld.tools.server_secrets import Secrets
from cld.tools.servers import Servers, ServerTools
from cld.types import Annotations, Failure, Server, Tool

PROGRAM = str(Path(__file__).parent / "tool_server.py")
URI = "cld:tool.Server.t"
ADA = Caller(Principal("user:ada", "user"))
SECRET = 's3cret-"quoted"-value'
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "MY_KEY": SECRET, "OTHER_SECRET": "not for you"}
SECONDS = 20.0

pytestmark = pytest.mark.anyio


def local(folder: Path, *flags: str, **more: Any) -> Server:
    return Server(prefix="t", command=sys.executable, args=(PROGRAM, str(folder), *flags), **more)


@asynccontextmanager
async def opened(server: Server, **options: Any) -> AsyncGenerator[ServerTools]:
    options.setdefault("retry_seconds", 0.01)
    source = ServerTools(URI, server, environment=options.pop("environment", ENVIRONMENT), **options)
    try:
        async with asyncio.timeout(SECONDS):
            await source.load()
        yield source
    finally:
        await source.aclose()


@contextmanager
def http_server(folder: Path, *flags: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, PROGRAM, str(folder), "--http", *flags])
    try:
        deadline = time.monotonic() + SECONDS
        while not (folder / "port").exists() or not (folder / "port").read_text().endswith("\n"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        yield f"http://127.0.0.1:{(folder / 'port').read_text().strip()}/mcp"
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(kind: str, folder: Path) -> Iterator[Server]:
    if kind.startswith("http"):
        with http_server(folder, *(["--legacy"] if kind == "http-legacy" else [])) as url:
            yield Server(prefix="t", url=url)
    else:
        yield local(folder, *(["--legacy"] if kind == "legacy" else []))


KINDS = pytest.mark.parametrize("kind", ["modern", "legacy", "http", "http-legacy"])


async def call(
    source: ServerTools | Servers, name: str, progress: Callable[[str], None] = print, /, **given: Any
) -> Result:
    tool = next(tool for tool in source.tools() if tool.name == name)
    async with asyncio.timeout(SECONDS):
        return await source.call(tool, given, ADA, progress)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


def lines(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().split() if file.exists() else []


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def any_alive(folder: Path) -> list[str]:
    return [pid for pid in lines(folder, "pids") + lines(folder, "starts") if alive(pid)]


@KINDS
async def test_the_tools_of_all_pages_come_under_names_that_hosts_take(kind: str, tmp_path: Path) -> None:
    with served(kind, tmp_path) as server:
        async with opened(server) as source:
            tools = {tool.name: tool for tool in source.tools()}
            problems = source.problems()
    assert len(tools) == 21 and list(tools) == sorted(tools)
    assert all(re.fullmatch(r"t_[A-Za-z0-9_-]+", name) and len(name) <= MAX_NAME for name in tools)
    assert len({name for name in tools if name.startswith("t_a_name_that_is")}) == 2
    assert tools["t_echo"].annotations == Annotations(True, False, True, False)
    assert tools["t_error"].annotations == Annotations()
    assert tools["t_echo"].title == "Echo"
    assert tools["t_echo"].description == "Says what it is told.\\u202e\\udb40\\udc41"
    assert len(tools["t_long_description"].description) == MAX_DESCRIPTION
    assert tools["t_draft"].input_schema["properties"]["pair"] == {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
    }
    assert tools["t_structured"].output_schema is not None
    assert {tool.origin for tool in tools.values()} == {URI}
    assert [problem for problem in problems if "its tool broken is left out" in problem]
    assert [problem for problem in problems if "a.b and a_b would both be t_a_b" in problem]
    assert len(problems) == 2


async def test_only_the_tools_its_resource_names_come(tmp_path: Path) -> None:
    async with opened(local(tmp_path, tools=("echo", "nothing"))) as source:
        assert [tool.name for tool in source.tools()] == ["t_echo"]
        assert source.problems() == (f"tool server {URI}: it has no tool nothing, which its resource names",)


@KINDS
async def test_results_progress_failures_and_refusals_come_back(kind: str, tmp_path: Path) -> None:
    heard: list[str] = []
    with served(kind, tmp_path) as server:
        async with opened(server) as source:
            assert await call(source, "t_echo", text="hello") == Result(text="hello")
            assert await call(source, "t_structured", a=1, b=2) == Result(data={"sum": 3}, text='{"sum":3}')
            media = await call(source, "t_media")
            assert (await call(source, "t_progress", heard.append)).text == "done"
            failed = await call(source, "t_error")
            with pytest.raises(ToolFailed) as wrong:
                await call(source, "t_draft")
            # The name that needed no change keeps it.
            assert (await call(source, "t_a_b")).text == "a_b"
            assert (await call(source, "t_polled")).text == "polled"
            with pytest.raises(ToolFailed) as refused:
                await call(source, "t_input")
            assert (await call(source, "t_echo", text="still there")).text == "still there"
    assert media.text.split("\n") == [
        "Look:",
        "[image image/png, 5 bytes]",
        "[audio audio/wav, 3 bytes]",
        "[resource file:///notes.txt, text/plain, 6 bytes]",
    ]
    assert heard == ["step 1", "step 2", "3/3"]
    assert failed.error == Failure("failed", "no such place:") or failed.error == Failure("failed", "no such place: ")
    assert wrong.value.kind == "failed" and "unknown tool draft" in str(wrong.value)
    # In the older way the server gets the refusal, and its own failure comes back.
    assert "licitation" in str(refused.value) and (
        kind in {"legacy", "http-legacy"} or refused.value.kind == "needs_input"
    )
    assert len(lines(tmp_path, "starts")) == 1


async def test_a_call_that_crashes_its_server_fails_once_and_the_next_one_starts_it_again(tmp_path: Path) -> None:
    async with opened(local(tmp_path)) as source:
        with pytest.raises(ToolFailed) as crashed:
            await call(source, "t_crash")
        assert crashed.value.kind == "crashed"
        assert "about to crash" in str(crashed.value)
        assert [problem for problem in source.problems() if "it ended" in problem]
        assert (await call(source, "t_echo", text="again")).text == "again"
        assert len(source.problems()) == 2
    assert len(lines(tmp_path, "crashes")) == 1
    assert len(lines(tmp_path, "starts")) == 2


async def test_calls_share_one_process_and_one_crash_fails_them_all(tmp_path: Path) -> None:
    async with opened(local(tmp_path)) as source:
        slow = [asyncio.create_task(call(source, "t_slow")) for _ in range(3)]
        await until(lambda: lines(tmp_path, "slow").count("started") == 3)
        assert (await call(source, "t_echo", text="meanwhile")).text == "meanwhile"
        with pytest.raises(ToolFailed):
            await call(source, "t_crash")
        for outcome in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(outcome, ToolFailed) and outcome.kind == "crashed"
    assert len(lines(tmp_path, "starts")) == 1


@KINDS
async def test_a_cancelled_call_is_cancelled_at_the_server_too(kind: str, tmp_path: Path) -> None:
    with served(kind, tmp_path) as server:
        async with opened(server) as source:
            slow = asyncio.create_task(call(source, "t_slow"))
            await until(lambda: "started" in lines(tmp_path, "slow"))
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            await until(lambda: "cancelled" in lines(tmp_path, "slow"))
            assert (await call(source, "t_echo", text="next")).text == "next"
    assert len(lines(tmp_path, "starts")) == 1


async def test_a_server_that_hangs_holds_nobody_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_connection, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(server_stdio, "AFTER_CLOSING_SECONDS", 0.3)
    async with opened(local(tmp_path)) as source:
        stuck = asyncio.create_task(call(source, "t_stuck"))
        await until(lambda: "stuck" in lines(tmp_path, "slow"))
        before = time.monotonic()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert time.monotonic() - before < 2
        await until(lambda: not any_alive(tmp_path))
        await until(lambda: [problem for problem in source.problems() if "answered nothing" in problem])
        assert (await call(source, "t_echo", text="anew")).text == "anew"


async def test_closing_ends_all_that_a_server_started(tmp_path: Path) -> None:
    async with opened(local(tmp_path)) as source:
        await call(source, "t_spawn")
        assert len(any_alive(tmp_path)) == 4
    assert any_alive(tmp_path) == []


async def test_what_a_server_started_ends_when_the_server_does(tmp_path: Path) -> None:
    async with opened(local(tmp_path)) as source:
        with pytest.raises(ToolFailed):
            await call(source, "t_leave")
        await until(lambda: not any_alive(tmp_path))


async def test_a_server_that_does_not_want_to_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stdio, "AFTER_CLOSING_SECONDS", 0.3)
    async with opened(local(tmp_path, "--hangs")) as source:
        before = time.monotonic()
        await source.aclose()
        assert time.monotonic() - before < 5
    assert len(lines(tmp_path, "starts")) == 1 and any_alive(tmp_path) == []


KILLED = """
import anyio, sys
from test_tool_servers import call, local, opened
from pathlib import Path
async def main():
    async with opened(local(Path(sys.argv[1]), "--hangs")) as source:
        await call(source, "t_spawn")
        print("ready", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def test_nothing_is_left_when_cld_itself_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        while "ready" not in (line := process.stdout.readline()):
            assert line, "it ended early"
        assert len(any_alive(tmp_path)) == 4
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + SECONDS
    while any_alive(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_junk_on_stdout_and_floods_on_stderr_are_logged_bounded_and_marked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cld.tools")
    async with opened(local(tmp_path, "--junk", env={"API_KEY": "$MY_KEY"})) as source:
        for _ in range(30):
            assert (await call(source, "t_junk")).text == "and on it goes"
    said = [record.getMessage() for record in caplog.records if record.name == "cld.tools"]
    assert f"tool server {URI} says on stdout: Downloading..." in said
    assert f"tool server {URI} says on stderr: to stderr: \\u001b[31mred\\u001b[0m [hidden]" in said
    assert len(said) == 101 and max(map(len, said)) < 600


async def test_a_server_gets_the_safe_environment_and_what_its_resource_names(tmp_path: Path) -> None:
    server = local(tmp_path, env={"API_KEY": "$MY_KEY", "LEVEL": "costs $$5"}, cwd=str(tmp_path))
    async with opened(server) as source:
        *environment, cwd = (await call(source, "t_environment")).text.split("\n")
        failed = await call(source, "t_error")
    names = {line.partition("=")[0] for line in environment}
    assert names <= {"HOME", "PATH", "API_KEY", "LEVEL", "LC_CTYPE"}
    assert "LEVEL=costs $5" in environment and cwd == str(tmp_path)
    assert "API_KEY=[hidden]" in environment
    assert failed.error == Failure("failed", "no such place: [hidden]")


async def test_a_variable_that_is_not_set_is_a_problem_that_names_it(tmp_path: Path) -> None:
    async with opened(local(tmp_path, env={"API_KEY": "$NOT_SET"})) as source:
        assert source.tools() == ()
        (problem,) = source.problems()
    assert "env API_KEY names $NOT_SET, which is not set" in problem
    assert lines(tmp_path, "starts") == []


async def test_a_header_holds_the_secret_and_nothing_else_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with http_server(tmp_path) as url:
        server = Server(prefix="t", url=url, headers={"Authorization": "Bearer $MY_KEY"})
        async with opened(server) as source:
            assert (await call(source, "t_echo", text=f"it is {SECRET}")).text == "it is [hidden]"
            told = [*source.problems(), repr(source.tools())]
        unusable = Server(prefix="t", url=url, headers={"Authorization": "$BROKEN"})
        async with opened(unusable, environment={"BROKEN": f"{SECRET}\nX: y"}) as source:
            told += source.problems()
    assert set((tmp_path / "headers").read_text().splitlines()) == {f"Bearer {SECRET}"}
    assert "header 'Authorization' cannot be sent" in told[-1]
    # What the SDK logs of a message's content, when asked for every detail, is what the caller sent.
    ours = [record.getMessage() for record in caplog.records if "it is" not in record.getMessage()]
    assert SECRET not in "\n".join((*told, *ours))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/", "http://", "http://a:b@x/", "http://x/ y", "x"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    async with opened(Server(prefix="t", url=url)) as source:
        assert len(source.problems()) == 1 and "its url" in source.problems()[0]


async def test_a_server_that_cannot_be_reached_is_a_problem_and_is_found_once_it_is_there(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp"
        async with opened(Server(prefix="t", url=url)) as source:
            assert "attempts failed" in source.problems()[0]
    with http_server(tmp_path) as url:
        source = ServerTools(URI, Server(prefix="t", url=url), retry_seconds=0.01)
        await source.load()
        tool = next(tool for tool in source.tools() if tool.name == "t_echo")
    try:
        with pytest.raises(ToolFailed) as failed:
            await source.call(tool, {"text": "x"}, ADA, print)
        assert failed.value.kind == "unavailable"
    finally:
        await source.aclose()


@KINDS
async def test_a_change_of_its_tools_is_told_and_a_tool_that_changed_is_not_called(kind: str, tmp_path: Path) -> None:
    with served(kind, tmp_path) as server:
        async with opened(server) as source:
            told: list[int] = []
            forget = source.on_change(lambda: told.append(len(source.tools())))
            # Until it listens, in the newer way; what changed before is noticed then.
            await call(source, "t_change", name="new")
            await until(lambda: "t_new" in {tool.name for tool in source.tools()})
            assert told == [22]
            assert (await call(source, "t_new")).text == "new"
            forget()
            await call(source, "t_change", name="newer")
            await until(lambda: "t_newer" in {tool.name for tool in source.tools()})
            assert told == [22]
            echo = next(tool for tool in source.tools() if tool.name == "t_echo")
            with pytest.raises(ToolFailed) as changed:
                await source.call(Tool(echo.name, "Another.", echo.input_schema), {"text": "x"}, ADA, print)
            assert changed.value.kind == "changed"


async def test_an_idle_server_is_ended_and_started_again_by_the_next_call(tmp_path: Path) -> None:
    async with opened(local(tmp_path), idle_seconds=0.05) as source:
        await until(lambda: lines(tmp_path, "starts") and not any_alive(tmp_path))
        assert len(source.tools()) == 21 and len(source.problems()) == 2
        assert (await call(source, "t_echo", text="back")).text == "back"
        await until(lambda: not any_alive(tmp_path))
    assert len(lines(tmp_path, "starts")) == 2


@pytest.mark.parametrize("kind", ["modern", "http"])
async def test_an_answer_that_is_too_large_fails_its_own_call_only(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_stdio, "MAX_LINE_BYTES", 100_000)
    monkeypatch.setattr(server_http, "MAX_ANSWER_BYTES", 100_000)
    with served(kind, tmp_path) as server:
        async with opened(server) as source:
            assert len((await call(source, "t_big", size=90_000)).text) == 90_000
            with pytest.raises(ToolFailed):
                await call(source, "t_big", size=2_000_000)
            assert (await call(source, "t_echo", text="fine")).text == "fine"
    assert len(lines(tmp_path, "starts")) == 1


async def test_a_server_that_does_not_start_says_why_and_is_tried_less_and_less_often(tmp_path: Path) -> None:
    server = local(tmp_path, "--fails", f"no key like {SECRET}", env={"API_KEY": "$MY_KEY"})
    async with opened(server, retry_seconds=30.0) as source:
        (problem,) = source.problems()
        with pytest.raises(ToolFailed) as failed:
            await source._connected()
    assert "no key like [hidden]" in problem
    assert failed.value.kind == "unavailable" and "it is tried again in 30 seconds" in str(failed.value)


async def test_a_program_that_is_not_there_is_a_problem() -> None:
    async with opened(Server(prefix="t", command="no-such-program-anywhere")) as source:
        assert "there is no program 'no-such-program-anywhere' to run" in source.problems()[0]


async def test_an_older_server_that_ends_at_the_newer_question_is_asked_the_older_one(tmp_path: Path) -> None:
    async with opened(local(tmp_path, "--old")) as source:
        assert (await call(source, "t_echo", text="hello")).text == "hello"


def test_what_the_users_own_settings_do_not_name_is_not_allowed() -> None:
    npx = Permit(command=("npx", "-y", "files@1.2", "*"), environment=("API_KEY", "MY_KEY"), cwd="/srv")
    web = Permit(url="https://example.com/mcp", environment=("TOKEN",))
    permits = (npx, web)
    files = Server(prefix="f", command="npx", args=("-y", "files@1.2", "/home/ada"))
    assert allowed(files, permits) is None
    assert allowed(Server(prefix="f", command="npx", args=("-y", "files@1.2"), cwd="/srv"), permits) is None
    assert allowed(Server(prefix="f", url="https://example.com/mcp", headers={"A": "Bearer $TOKEN"}), permits) is None
    given = {"API_KEY": "$MY_KEY"}
    assert allowed(Server(prefix="f", command="npx", args=("-y", "files@1.2"), env=given), permits) is None
    for refused, why in (
        (Server(prefix="f", command="npx", args=("-y", "evil")), 'command = ["npx","-y","evil"]'),
        (Server(prefix="f", command="npx"), 'command = ["npx"]'),
        (Server(prefix="f", url="https://example.com/mcp/"), 'url = "https://example.com/mcp/"'),
        (Server(prefix="f", command="npx", args=("-y", "files@1.2"), cwd="/tmp"), "started in /tmp"),
        (Server(prefix="f", command="npx", args=("-y", "files@1.2"), env={"LD_PRELOAD": "x"}), "given LD_PRELOAD"),
        (Server(prefix="f", command="npx", args=("-y", "files@1.2"), env={"API_KEY": "$PASSWORD"}), "given PASSWORD"),
        (Server(prefix="f", url="https://example.com/mcp", headers={"A": "$PASSWORD"}), "given PASSWORD"),
        (Server(prefix="f", command="npx", url="https://example.com/mcp"), "both"),
        (Server(prefix="f"), 'url = ""'),
    ):
        reason = allowed(refused, permits)
        assert reason is not None and why in reason
    for prefix in ("bad prefix!", "", "a" * 25):
        faults = [allowed(Server(prefix=prefix, url=url), permits) or "" for url in ("https://example.com/mcp", "x:")]
        assert all("its prefix has to be 1 to 24 of A-Z" in fault for fault in faults)
        assert ["tooling.servers" in fault for fault in faults] == [False, True]
    assert allowed(files, ()) is not None
    assert allowed(files, (Permit(command=("*",)),)) is not None


async def test_servers_come_change_and_go_with_their_resources(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    permits = (Permit(command=(sys.executable, PROGRAM, "*")),)
    told: list[int] = []
    servers = Servers(permits, environment=ENVIRONMENT, retry_seconds=0.01)
    servers.on_change(lambda: told.append(len(servers.tools())))
    one, two = local(tmp_path / "a", tools=("echo",)), local(tmp_path / "b", tools=("echo", "structured"))
    evil = Server(prefix="e", command="/bin/sh", args=("-c", f"touch {tmp_path}/evil"))
    try:
        await servers.replace([("cld:tool.Server.b", two), ("cld:tool.Server.a", one), ("cld:tool.Server.e", evil)])
        await servers.load()
        assert [(tool.name, tool.origin[-1]) for tool in servers.tools()] == [("t_echo", "a"), ("t_structured", "b")]
        refused, twice = servers.problems()
        assert "do not permit it" in refused and not (tmp_path / "evil").exists()
        assert "t_echo is left out; cld:tool.Server.a has one of that name" in twice
        assert (await call(servers, "t_echo", text="a")).text == "a"
        old = servers.tools()[0]
        # One goes, one stays as it is, and one comes.
        three = local(tmp_path / "c", tools=("media",))
        await servers.replace([("cld:tool.Server.b", two), ("cld:tool.Server.c", three)])
        assert any_alive(tmp_path / "a") == []
        await servers.load()
        assert [tool.name for tool in servers.tools()] == ["t_echo", "t_media", "t_structured"]
        with pytest.raises(ToolFailed) as gone:
            await servers.call(old, {"text": "x"}, ADA, print)
        assert gone.value.kind == "unavailable"
        assert len(lines(tmp_path / "b", "starts")) == 1
        await servers.replace([("cld:tool.Server.b", Server(prefix="t", command="x", disabled=True))])
        assert servers.tools() == () and servers.problems() == ()
        assert told[-1] == 0 and 3 in told
    finally:
        await servers.aclose()
    assert [pid for name in "abc" for pid in any_alive(tmp_path / name)] == []


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_fit_and_different_long_names_stay_different(one: str, two: str) -> None:
    names = [here("p", text * 60) for text in (one, two)]
    assert all(re.fullmatch(r"p_[A-Za-z0-9_-]+", name) and len(name) <= MAX_NAME for name in names)
    assert (names[0] == names[1]) == (one * 60 == two * 60)


TOKEN = "ey" + "".join(f"{n:04}" for n in range(300))


def knowing_a_token() -> Secrets:
    return Secrets(Server(prefix="t", url="http://x", headers={"Authorization": "Bearer $TOKEN"}), {"TOKEN": TOKEN})


@pytest.mark.parametrize("before", [1990, 1900, 1200, 900, 850, 800])
def test_no_part_of_a_secret_is_logged_where_a_line_is_cut(before: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cld.tools")
    noise = server_stdio.Noise(URI, knowing_a_token())
    # What is hidden is shorter, so that the place of the cut comes into sight.
    noise.heard("stderr", f"{TOKEN}{'-' * (before - 1202 - 300 if before > 1600 else 1)}{TOKEN}{TOKEN}".encode())
    noise.heard("stderr", f"{'-' * before}{TOKEN}".encode())
    for said in (caplog.text, *noise.last):
        assert "0000" not in said and "ey0" not in said


def test_no_part_of_a_secret_is_in_a_result_that_is_cut() -> None:
    link = ResourceLink(type="resource_link", name="n", uri=f"https://example.org/{'a' * 100}?token={TOKEN}")
    result = result_of(CallToolResult(content=[link]), knowing_a_token())
    assert "ey0" not in result.text and "[hidden]" in result.text


def test_no_part_of_a_secret_is_in_a_problem_that_is_cut() -> None:
    bad = McpTool(name="x" * 190 + TOKEN, input_schema={"type": "nothing"})
    (problem,) = listing_of([bad], URI, Server(prefix="t", url="http://x"), knowing_a_token()).problems
    assert "ey0" not in problem
