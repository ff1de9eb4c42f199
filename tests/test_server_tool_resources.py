"""Tools and assistants of the tree as MCP tools: a real server over stdio, and files that change under it."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from rights_world import data_with
from server_world import ASSISTANTS, call, fail
from tool_world import eventually, is_running, write

ROOT = Path(__file__).parent.parent
SERVER = str(ROOT / "server.py")
SECONDS = 60.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and processes")

GREET = """
@tool(read_only=True, open_world=False)
def greet(name: str) -> str:
    "Greet somebody."
    return f"hello {name} from {os.getpid()}"
"""
RISKY = """
@tool
def erase(what: str) -> dict[str, str]:
    "Erase something."
    with open(LOG, "a") as file:
        file.write(what + " ")
    return {"erased": what}

@tool(read_only=True)
def through(context: ToolContext, what: list[str]) -> str:
    "Erase by way of another tool."
    try:
        return " ".join(context.call("erase", {"what": one})["erased"] for one in what)
    except ToolError as error:
        return f"{error.code}: {error}"
"""


def risky(folder: Path) -> str:
    """The file of tools, which note what they erase in `folder`."""
    return RISKY.replace("LOG", repr(str(folder / "log")))


class Ear:
    """Counts what a server tells of changed lists."""

    def __init__(self) -> None:
        self.told = 0

    async def __call__(self, message: Any) -> None:
        if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
            self.told += 1


class Host:
    """A client of a server of its own, which hears of changed lists."""

    def __init__(self, client: Client, ear: Ear) -> None:
        self.client = client
        self.ear = ear

    async def names(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def until_there(self, name: str) -> None:
        async with asyncio.timeout(SECONDS):
            while name not in await self.names():
                await asyncio.sleep(0.02)

    async def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The list of tools once it is as expected; looked at again only when the server said that it changed."""
        async with asyncio.timeout(SECONDS):
            known, names = self.ear.told, await self.names()
            while not holds(names):
                while self.ear.told == known:
                    await asyncio.sleep(0.005)
                known, names = self.ear.told, await self.names()
            return names


def own(folder: Path, tooling: str = "") -> dict[str, str]:
    """The environment of a server whose user has one folder of tools."""
    (folder / "tools").mkdir(exist_ok=True)
    (folder / "own.toml").write_text(f"[tooling]\nfolders = [{json.dumps(str(folder / 'tools'))}]\n{tooling}")
    return {**os.environ, "CLD_CONFIG": str(folder / "own.toml")}


@asynccontextmanager
async def hosted(
    folder: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    mode: Literal["legacy", "2026-07-28"] = "legacy",
    **options: Any,
) -> AsyncGenerator[Host]:
    arguments = [SERVER, "--root", str(folder / "resources"), "--policies", str(ROOT / "policies"), *flags]
    parameters = StdioServerParameters(
        command=sys.executable, args=arguments, env=dict(os.environ if environment is None else environment)
    )
    ear = Ear()
    async with Client(parameters, mode=mode, message_handler=ear, **options) as client:
        yield Host(client, ear)


def put(folder: Path, uri: str, content: Mapping[str, Any], **meta: str) -> None:
    """A resource as a person with an editor writes it."""
    file = folder / "resources" / f"{uri}.json"
    file.parent.mkdir(exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps({"meta": meta, "content": content} if meta else {"content": content}))
    new.replace(file)


def kept(folder: Path, name: str) -> dict[str, Any] | None:
    """The resource of a tool, as its file has it."""
    try:
        return json.loads((folder / "resources" / f"cld:tool.Tool.{name}.json").read_text())
    except FileNotFoundError:
        return None


def with_seeds(folder: Path) -> None:
    (folder / "resources").mkdir(exist_ok=True)
    for seed in (ROOT / "resources").glob("cld:common.Assistant.*.json"):
        (folder / "resources" / seed.name).write_bytes(seed.read_bytes())


def processes_below(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in "ZX":
                parents[int(entry.name)] = int(parent)
    found = {pid}
    while more := {one for one, above in parents.items() if above in found} - found:
        found |= more
    return found - {pid}


def server_of(folder: Path) -> int:
    """The process that serves the tree in `folder`."""
    asked = str(folder / "resources").encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if SERVER.encode() in words and asked in words:
                return int(entry.name)
    raise AssertionError("there is no server")


async def text_of(host: Host, tool: str, **arguments: Any) -> str:
    result = await host.client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.content[0].text


@pytest.mark.anyio
async def test_assistants_are_tools_and_the_default_list_is_small_and_starts_no_process(tmp_path: Path) -> None:
    with_seeds(tmp_path)
    async with hosted(tmp_path) as host:
        listed = await host.client.list_tools()
        assert [tool.name for tool in listed.tools if tool.name.startswith("assistant_")] == ASSISTANTS
        assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) <= 16_000
        for number in range(9):
            put(tmp_path, f"cld:common.Assistant.more{number}", {"title": "One more"}, purpose="Be too many.")
        for gone in ("writer", "analyst"):
            (tmp_path / "resources" / f"cld:common.Assistant.{gone}.json").unlink()
        await host.until(lambda names: "assistant_writer" not in names)
        size = len((await host.client.list_tools()).model_dump_json(by_alias=True, exclude_none=True))
        assert size <= 16_000, "what there is no room for is left out"
        for number in range(9):
            (tmp_path / "resources" / f"cld:common.Assistant.more{number}.json").unlink()
        put(tmp_path, f"cld:common.Assistant.{'x' * 60}", {"title": "Long"}, purpose="Have a long name.")
        names = await host.until(lambda names: any("xxx" in name for name in names))
        assert all(len(name) <= 48 for name in names)
        (tmp_path / "resources" / "cld:common.Assistant.critic.json").unlink()
        put(tmp_path, "cld:common.Assistant.coder", {"title": "Coder", "disabled": True})
        await host.until(lambda names: not {"assistant_critic", "assistant_coder"} & set(names))
        assert not processes_below(server_of(tmp_path)), "nobody asked for work"


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_tree_without_assistants_lists_those_it_is_given_with_the_first_work(
    tmp_path: Path, mode: Literal["legacy", "2026-07-28"]
) -> None:
    async with hosted(tmp_path, mode=mode) as host:
        assert [name for name in await host.names() if name.startswith("assistant_")] == ASSISTANTS
        assert not list(tmp_path.rglob("cld:*")), "a tree that was only looked at stays as it is"
        done = await call(host.client, "assistant_writer", message="Write a letter", wait_seconds=50)
        task = await call(host.client, "task_get", uri=done["task"])
        assert task["assistant"] == "cld:common.Assistant.writer"
        assert len(list(tmp_path.rglob("cld:common.Assistant.*"))) == len(ASSISTANTS)
        # They are taken away again, and the process that works is asked once more.
        for file in tmp_path.rglob("cld:common.Assistant.*.json"):
            file.unlink()
        put(tmp_path, "cld:common.Assistant.own", {"title": "Own"}, purpose="Be the only one.")
        await host.until_there("assistant_own")
        assert "assistant_writer" not in await host.names()
        (tmp_path / "resources" / "cld:common.Assistant.own.json").unlink()
        await host.until_there("assistant_writer")
        assert (await call(host.client, "assistant_writer", message="Write", wait_seconds=0))["task"]


@pytest.mark.anyio
async def test_assistants_of_namespaces_work_there_under_names_of_their_own(tmp_path: Path) -> None:
    with_seeds(tmp_path)
    home = "cld:cld.Namespace.home"
    put(tmp_path, home, {})
    (tmp_path / "resources" / home).mkdir()
    for name in ("writer", "x" * 60):
        put(tmp_path, f"{home}/common.Assistant.{name}", {"title": "Ours"}, purpose="Write at home.")
    put(tmp_path, "cld:common.Assistant.home_writer", {"title": "Theirs"}, purpose="Have the same name.")
    async with hosted(tmp_path, "--tools", "all") as host:
        tools = {tool.name: tool for tool in (await host.client.list_tools()).tools}
        ours = {name: tool for name, tool in tools.items() if (tool.description or "").startswith("Assistant of home:")}
        assert len(ours) == 2 and all(len(name) <= 64 for name in ours)
        [writer] = [name for name in ours if name.startswith("assistant_home_writer_")]
        assert tools["assistant_home_writer"].title == "Theirs"
        done = await call(host.client, writer, message="Write a letter", wait_seconds=50)
        assert done["task"].startswith(f"{home}/common.Conversation.")
        task = await call(host.client, "task_get", uri=done["task"])
        assert task["assistant"] == f"{home}/common.Assistant.writer"
        elsewhere = await fail(host.client, writer, message="Write", conversation="cld:common.Conversation.a")
        assert elsewhere["field"] == "conversation" and home in elsewhere["message"]
        (tmp_path / "resources" / f"{home}/common.Assistant.writer.json").unlink()
        await host.until(lambda names: writer not in names)


@pytest.mark.anyio
async def test_assistants_that_may_not_be_put_into_the_tree_are_not_listed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    data = data_with(members={"user:ed": ["editor"]})
    (tmp_path / "policies" / "data.json").write_text(json.dumps(data))
    flags = ("--policies", str(tmp_path / "policies"), "--principal", "user:ed")
    async with hosted(tmp_path, *flags) as host:
        assert "plan" in await host.names()
        assert not [name for name in await host.names() if name.startswith("assistant_")]
        with pytest.raises(MCPError, match="Unknown tool"):
            await host.client.call_tool("assistant_writer", {"message": "Write"})
    with_seeds(tmp_path)
    async with hosted(tmp_path, *flags) as host:
        assert [name for name in await host.names() if name.startswith("assistant_")] == ASSISTANTS


@pytest.mark.anyio
async def test_a_file_of_tools_is_added_changed_broken_mended_and_removed_in_a_running_server(tmp_path: Path) -> None:
    async with hosted(tmp_path, "--tools", "core,registered", environment=own(tmp_path)) as host:
        assert "greet" not in await host.names()
        write(tmp_path / "tools", "greet.py", GREET)
        write(tmp_path / "tools", "risky.py", risky(tmp_path))
        await host.until(lambda names: "greet" in names)
        assert (await text_of(host, "greet", name="ada")).startswith("hello ada")
        await eventually(lambda: kept(tmp_path, "greet"))
        first = kept(tmp_path, "greet")
        assert (
            first is not None and first["content"]["origin"] == "tools/greet.py" and first["created_by"] == "user:local"
        )

        write(tmp_path / "tools", "greet.py", GREET.replace("name: str", "name: str, loud: bool = False"))
        async with asyncio.timeout(SECONDS):
            while True:
                found = {tool.name: tool for tool in (await host.client.list_tools()).tools}
                if "loud" in found["greet"].input_schema["properties"]:
                    break
                known = host.ear.told
                while host.ear.told == known:
                    await asyncio.sleep(0.005)

        write(tmp_path / "tools", "greet.py", "def (")
        names = await host.until(lambda names: "greet" not in names)
        assert "through" in names, "a broken file leaves the others"
        with pytest.raises(MCPError, match="Unknown tool"):
            await host.client.call_tool("greet", {"name": "ada"})
        assert kept(tmp_path, "greet") is not None, "its file is there, and may be mended"

        write(tmp_path / "tools", "greet.py", GREET)
        await host.until(lambda names: "greet" in names)
        (tmp_path / "tools" / "greet.py").unlink()
        await host.until(lambda names: "greet" not in names)
        await eventually(lambda: kept(tmp_path, "greet") is None)


@pytest.mark.anyio
async def test_what_a_host_calls_is_checked_decided_with_its_arguments_and_approved(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(_: Any, params: Any) -> Any:
        asked.append(params.message)
        return ElicitResult(action="accept" if "this" in params.message else "decline", content={})

    write(tmp_path / "tools", "risky.py", risky(tmp_path))
    async with hosted(tmp_path, environment=own(tmp_path), elicitation_callback=answer) as host:
        await host.until(lambda names: "erase" in names)
        error = await fail(host.client, "erase", what=3)
        assert (error["code"], error["kind"]) == ("tool_failed", "invalid_argument") and not asked
        assert await call(host.client, "erase", what="this") == {"erased": "this"}
        assert len(asked) == 1 and "destructive" in asked[0]
        assert (await fail(host.client, "erase", what="that"))["code"] == "access_denied"
    decided = "".join(file.read_text() for file in (tmp_path / "resources" / ".cld" / "log").iterdir())
    assert '"what":"this"' in decided.replace(" ", "")


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_person_is_asked_about_each_call_that_a_tool_makes_itself(
    tmp_path: Path, mode: Literal["legacy", "2026-07-28"]
) -> None:
    asked: list[str] = []

    async def answer(_: Any, params: Any) -> Any:
        asked.append(params.message)
        return ElicitResult(action="decline" if "that" in params.message else "accept", content={})

    write(tmp_path / "tools", "risky.py", risky(tmp_path))

    def erased() -> list[str]:
        return (tmp_path / "log").read_text().split()

    async with hosted(
        tmp_path, "--tools", "all", environment=own(tmp_path), mode=mode, elicitation_callback=answer
    ) as host:
        await host.until_there("through")
        assert await text_of(host, "through", what=["one", "two", "one"]) == "one two one"
        assert erased() == ["one", "two", "one"], "what was over is not made again"
        assert len(asked) == 3
        assert all(told.startswith("through calls erase.") for told in asked)
        assert ['what: "one"' in told for told in asked] == [True, False, True]
        assert (await fail(host.client, "through", what=["one", "that", "two"]))["code"] == "access_denied"
        assert erased() == ["one", "two", "one", "one"] and len(asked) == 5
    async with hosted(tmp_path, "--tools", "all", environment=own(tmp_path), mode=mode) as host:
        await host.until_there("through")
        assert "approval_required" in await text_of(host, "through", what=["one"]), "nobody can be asked"
    assert len(erased()) == 4
    files = (tmp_path / "resources" / ".cld" / "log").iterdir()
    inputs = [json.loads(line).get("input", {}) for file in files for line in file.read_text().splitlines()]
    called = [
        (one["principal"]["id"], one["context"]["tool"], one["context"]["arguments"])
        for one in inputs
        if one.get("action") == "call"
    ]
    assert ("user:local", "through", {"what": ["one", "that", "two"]}) in called
    assert ("user:local", "erase", {"what": "that"}) in called, "also what was called within it, and not made"


@pytest.mark.anyio
async def test_a_person_takes_a_tool_out_of_use_and_back(tmp_path: Path) -> None:
    write(tmp_path / "tools", "greet.py", GREET)
    async with hosted(tmp_path, environment=own(tmp_path)) as host:
        await host.until(lambda names: "greet" in names)
        await eventually(lambda: kept(tmp_path, "greet"))
        resource = kept(tmp_path, "greet")
        assert resource is not None
        put(tmp_path, "cld:tool.Tool.greet", {**resource["content"], "disabled": True}, purpose="Not now.")
        await host.until(lambda names: "greet" not in names)
        with pytest.raises(MCPError, match="Unknown tool"):
            await host.client.call_tool("greet", {"name": "ada"})
    # Also for the next server, whatever its file says by then.
    write(tmp_path / "tools", "greet.py", GREET.replace("hello", "hi"))
    async with hosted(tmp_path, "--tools", "all", environment=own(tmp_path)) as host:
        found = await call(host.client, "tool_list", query="greet")
        assert [tool["name"] for tool in found["tools"]] == []
        await eventually(lambda: kept(tmp_path, "greet")["content"]["digest"] != resource["content"]["digest"])
        changed = kept(tmp_path, "greet")
        assert changed is not None and changed["content"]["disabled"] and changed["meta"]["purpose"] == "Not now."
        content = {key: value for key, value in changed["content"].items() if key != "disabled"}
        put(tmp_path, "cld:tool.Tool.greet", content)
        await host.until(lambda names: "greet" in names)
        assert (await text_of(host, "greet", name="ada")).startswith("hi ada")


@pytest.mark.anyio
async def test_no_worker_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    write(tmp_path / "tools", "greet.py", GREET)
    async with hosted(tmp_path, environment=own(tmp_path)) as host:
        await host.until(lambda names: "greet" in names)
        worker = int((await text_of(host, "greet", name="ada")).rpartition(" ")[2])
        server = server_of(tmp_path)
        below = processes_below(server)
        assert worker in below
        os.kill(server, signal.SIGKILL)
        await eventually(lambda: not any(map(is_running, below)))


@pytest.mark.anyio
async def test_an_assistant_works_what_a_host_asks_it(tmp_path: Path) -> None:
    with_seeds(tmp_path)
    async with hosted(tmp_path, "--tools", "core,registered") as host:
        assert "assistant_general" in await host.names()
        done = await call(host.client, "assistant_general", message="What is 6 times 7?", wait_seconds=50)
        assert done["status"] == "completed" and "42" in str(done["answer"]), done
        task = await call(host.client, "task_get", uri=done["task"])
        assert task["assistant"] == "cld:common.Assistant.general"
        # The tools that came with work are resources now, and listed.
        await host.until(lambda names: "calculator" in names)
        assert (await fail(host.client, "assistant_general", message=""))["code"] == "invalid_argument"
