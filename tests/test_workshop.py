"""The workshop over a real tree: tools and tool servers as resources, by whom they are written, and what is told."""

import json
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from tool_world import eventually, write

from cld.cli import main
from cld.config import Models, Permit, Settings, Tier, Tooling, Work
from cld.errors import ResourceNotFound
from cld.policy import Context
from cld.principal import parse_principal
from cld.runtime import Runtime
from cld.tools import Caller
from cld.tools.calling import Calling
from cld.tools.toolbox import Toolbox
from cld.uri import parse_uri
from cld.work.requests import begin, cancel

LONG = 20.0
PROJECT = Path(__file__).parents[1]
PROGRAM = str(Path(__file__).parent / "tool_server.py")
ADA = Caller(parse_principal("user:local"))
GREET = """
@tool(read_only=True, seconds=7)
def greet(name: str) -> str:
    "Greet somebody."
    return f"hello {name}"
"""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="tools run in POSIX processes"),
]


@asynccontextmanager
async def opened(
    folder: Path, principal: str = "user:local", **tooling: Any
) -> AsyncGenerator[tuple[Runtime, Calling]]:
    (folder / "tools").mkdir(exist_ok=True)
    (folder / "resources").mkdir(exist_ok=True)
    settings = Settings(
        root=str(folder / "resources"),
        policies=str(PROJECT / "policies"),
        principal=principal,
        tooling=Tooling(folders=(str(folder / "tools"),), library=False, **tooling),
    )
    async with Runtime.open(settings) as runtime:
        yield runtime, await runtime.workshop.calling()


def file_of(folder: Path, name: str) -> Path:
    return folder / "resources" / f"cld:tool.Tool.{name}.json"


def put(folder: Path, uri: str, content: dict[str, Any]) -> None:
    (folder / "resources").mkdir(exist_ok=True)
    new = folder / "resources" / f"{uri}.new"
    new.write_text(json.dumps({"content": content}))
    new.replace(folder / "resources" / f"{uri}.json")


def pids() -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == os.getpid()
    ]


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


async def test_a_start_that_changes_nothing_writes_nothing_and_starts_no_process(tmp_path: Path) -> None:
    write(tmp_path / "tools", "greet.py", GREET)
    async with opened(tmp_path):
        await eventually(file_of(tmp_path, "greet").exists)
    before, known = file_of(tmp_path, "greet").read_bytes(), set(pids())
    async with opened(tmp_path) as (_, calling):
        assert [tool.name for tool in calling.tools()] == ["greet"]
        assert set(pids()) <= known, "what is in the files was known"
        write(tmp_path / "tools", "other.py", GREET.replace("greet", "other"))
        await eventually(file_of(tmp_path, "other").exists)
        result = await calling.call("greet", {"name": "ada"}, ADA)
        assert result.text == "hello ada"
    assert file_of(tmp_path, "greet").read_bytes() == before


async def test_the_resource_of_a_tool_whose_file_went_meanwhile_is_deleted_unless_somebody_set_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("greet", "other"):
        write(tmp_path / "tools", f"{name}.py", GREET.replace("greet", name))
    async with opened(tmp_path):
        await eventually(lambda: file_of(tmp_path, "greet").exists() and file_of(tmp_path, "other").exists())
    content = json.loads(file_of(tmp_path, "other").read_text())["content"]
    assert "time_limit" not in content, "what is there was set by a person"
    put(tmp_path, "cld:tool.Tool.other", {**content, "time_limit": 3})
    # Of somebody else's folder, whose process keeps it.
    put(tmp_path, "cld:tool.Tool.theirs", {**content, "name": "theirs", "origin": "tools/theirs.py"})
    for name in ("greet", "other"):
        (tmp_path / "tools" / f"{name}.py").unlink()
    async with opened(tmp_path):
        await eventually(lambda: not file_of(tmp_path, "greet").exists())
    assert file_of(tmp_path, "other").exists() and file_of(tmp_path, "theirs").exists()
    write(tmp_path / "tools", "other.py", GREET.replace("greet", "other"))
    async with opened(tmp_path) as (_, calling):
        assert [tool.time_limit for tool in calling.tools()] == [3]


async def test_a_call_that_takes_too_long_says_that_its_resource_bounds_it(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    write(
        tmp_path / "tools",
        "slow.py",
        "@tool(read_only=True, seconds=600)\ndef slow() -> str:\n    'Slow.'\n    time.sleep(600)\n    return ''\n",
    )
    async with opened(tmp_path):
        await eventually(file_of(tmp_path, "slow").exists)
    content = json.loads(file_of(tmp_path, "slow").read_text())["content"]
    put(tmp_path, "cld:tool.Tool.slow", {**content, "time_limit": 0.3})
    async with opened(tmp_path) as (_, calling):
        result = await calling.call("slow", {}, ADA)
    assert result.error is not None and result.error.code == "timed_out"
    assert result.error.message.endswith("raised (time_limit in cld:tool.Tool.slow)")


async def test_tools_work_where_their_resources_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    write(tmp_path / "tools", "greet.py", GREET)
    policies = tmp_path / "policies"
    policies.mkdir()
    for file in (PROJECT / "policies").iterdir():
        (policies / file.name).write_bytes(file.read_bytes())
    data = json.loads((policies / "data.json").read_text())
    data["members"]["user:ed"] = ["editor"]
    (policies / "data.json").write_text(json.dumps(data))
    settings = Settings(
        root=str(tmp_path / "resources"),
        policies=str(policies),
        principal="user:ed",
        tooling=Tooling(folders=(str(tmp_path / "tools"),), library=False),
    )
    async with Runtime.open(settings) as runtime:
        calling = await runtime.workshop.calling()
        result = await calling.call("greet", {"name": "ed"}, Caller(parse_principal("user:ed")))
        assert result.text == "hello ed"
        log = tmp_path / "resources" / ".cld" / "log"
        await eventually(lambda: any('"write"' in file.read_text() for file in log.iterdir()))
        assert not file_of(tmp_path, "greet").exists() and runtime.workshop.problems() == []


async def test_a_tool_whose_resource_cannot_be_read_is_out_of_use(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    write(tmp_path / "tools", "greet.py", GREET)
    async with opened(tmp_path) as (runtime, calling):
        await eventually(file_of(tmp_path, "greet").exists)
        good = file_of(tmp_path, "greet").read_text()
        file_of(tmp_path, "greet").write_text("{")
        await eventually(lambda: calling.tools()[0].disabled)
        result = await calling.call("greet", {"name": "ada"}, ADA)
        assert result.error is not None and result.error.code == "unknown_tool"
        assert any("greet is out of use" in problem for problem in runtime.workshop.problems())
        file_of(tmp_path, "greet").write_text(good)
        await eventually(lambda: not calling.tools()[0].disabled)


async def test_tool_servers_come_from_the_tree_as_far_as_the_user_permits_them(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    command = (sys.executable, PROGRAM, str(notes))
    put(tmp_path, "cld:tool.Server.own", {"prefix": "own", "command": command[0], "args": list(command[1:])})
    put(tmp_path, "cld:tool.Server.theirs", {"prefix": "theirs", "command": "/bin/false", "args": ["run"]})
    async with opened(tmp_path, servers=(Permit(command=command),)) as (runtime, calling):
        await eventually(file_of(tmp_path, "own_echo").exists)
        result = await calling.call("own_echo", {"text": "hi"}, ADA)
        assert result.error is None and "hi" in result.text
        said = [problem for problem in runtime.workshop.problems() if "cld:tool.Server.theirs" in problem]
        assert len(said) == 1 and 'command = ["/bin/false","run"]' in said[0]
        (tmp_path / "resources" / "cld:tool.Server.own.json").unlink()
        await eventually(lambda: not file_of(tmp_path, "own_echo").exists())
        assert [tool.name for tool in calling.tools()] == []
    assert len((notes / "starts").read_text().splitlines()) == 1


def test_doctor_tells_of_refused_servers_and_broken_tools_and_writes_no_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    write(tmp_path / "tools", "greet.py", GREET)
    (tmp_path / "tools" / "bad.py").write_text("def (")
    put(tmp_path, "cld:tool.Server.theirs", {"prefix": "theirs", "command": "/bin/false"})
    (tmp_path / "own.toml").write_text(f"[tooling]\nfolders = [{json.dumps(str(tmp_path / 'tools'))}]\n")
    monkeypatch.setenv("CLD_CONFIG", str(tmp_path / "own.toml"))
    root, policies = str(tmp_path / "resources"), str(PROJECT / "policies")
    assert main(["doctor", "--root", root, "--policies", policies]) == 1
    told = capsys.readouterr().out
    assert "cld:tool.Server.theirs is not used" in told and "bad.py, line 1" in told
    assert not file_of(tmp_path, "greet").exists()


def test_doctor_tells_of_assistants_that_name_a_tier_or_tools_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "cld:common.Assistant.good", {"model": "small", "tools": ["nothing_*", "resource_get"]})
    put(tmp_path, "cld:common.Assistant.thinks", {"model": "thinker", "tools": []})
    put(tmp_path, "cld:common.Assistant.lost", {"model": "smal", "tools": ["*"]})
    put(tmp_path, "cld:common.Assistant.off", {"model": "smal", "disabled": True})
    home = "cld:cld.Namespace.home"
    put(tmp_path, home, {})
    (tmp_path / "resources" / home).mkdir()
    (tmp_path / "resources" / home / "common.Assistant.idle.json").write_text('{"content": {"tools": ["weather_*"]}}')
    tiers = '[[models.chain]]\nname = "small"\nmodel = "o/x"\n[models.reasoning]\nname = "thinker"\nmodel = "o/y"\n'
    monkeypatch.setenv("CLD_CONFIG", str(tmp_path / "own.toml"))
    arguments = ["doctor", "--root", str(tmp_path / "resources"), "--policies", str(PROJECT / "policies")]
    idle = f"{home}/common.Assistant.idle: there is no tool that its tools (weather_*) name"
    for written, lost in ((tiers, 1), ("", 0)):
        (tmp_path / "own.toml").write_text(written)
        assert main(arguments) == 1
        told = capsys.readouterr().out
        assert told.count("common.Assistant.lost: its model 'smal' is no tier") == told.count("Assistant.lost:") == lost
        assert told.count(idle) == 1 and not any(f"Assistant.{name}" in told for name in ("good:", "thinks:", "off:"))


async def test_a_person_reads_the_tools_as_resources(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    write(tmp_path / "tools", "greet.py", GREET)
    async with opened(tmp_path) as (runtime, _):
        await eventually(file_of(tmp_path, "greet").exists)
        store = runtime.store(runtime.principal, Context(tool="resource_get"))
        resource = (await store.get(parse_uri("cld:tool.Tool.greet"))).resource
    assert resource.created_by == "user:local"
    assert resource.content["description"] == "Greet somebody." and resource.content["origin"] == "tools/greet.py"
    assert resource.content["annotations"]["read_only"] is True
    assert resource.content["input_schema"]["properties"]["name"] == {"type": "string"}


async def test_what_the_tree_says_of_a_tool_counts_at_once_for_who_asks_for_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hears_nothing(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Toolbox, "_follow", hears_nothing)
    write(tmp_path / "tools", "greet.py", GREET)
    async with opened(tmp_path) as (runtime, _):
        await eventually(file_of(tmp_path, "greet").exists)
        content = json.loads(file_of(tmp_path, "greet").read_text())["content"]
        for disabled in (True, False):
            put(tmp_path, "cld:tool.Tool.greet", {**content, "disabled": disabled})
            calling = await runtime.workshop.calling("greet")
            result = await calling.call("greet", {"name": "ada"}, ADA)
            assert (result.error is not None) == disabled


async def test_what_a_token_may_do_ends_with_it_and_is_not_kept_for_the_next_of_the_same_user(tmp_path: Path) -> None:
    put(tmp_path, "cld:common.Text.a", {"text": "hi"})
    async with opened(tmp_path) as (runtime, _):
        owner = await runtime.work(parse_principal("user:ada", roles=("owner",)))
        nobody = await runtime.work(parse_principal("user:ada"))
        assert await owner.keeper.get(parse_uri("cld:common.Text.a"))
        with pytest.raises(ResourceNotFound):
            await nobody.keeper.get(parse_uri("cld:common.Text.a"))
        assert await runtime.work(parse_principal("user:ada", roles=("owner",))) is owner


async def test_loading_what_asks_models_holds_up_no_work_and_is_left_where_none_is_worked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def loads_long() -> None:
        begun.set()
        assert go.wait(LONG)

    monkeypatch.setattr("cld.models.router.load", loads_long)
    models = Models(chain=(Tier("a", "openai/a", "http://127.0.0.1:9", price_in=0.0, price_out=0.0),))
    settings = Settings(root=str(tmp_path / "resources"), policies=str(PROJECT / "policies"), models=models)
    only_looks = replace(settings, work=Work(tasks_at_once=0))
    try:
        async with Runtime.open(only_looks) as runtime:
            engine = await runtime.work(ADA.principal)
            task = (await begin(engine, engine.keeper, "Do", assistant="general")).task
            assert not begun.is_set()
        async with Runtime.open(settings) as runtime:
            with anyio.fail_after(LONG / 2):
                engine = await runtime.work(ADA.principal)
                assert (await cancel(engine, task, "enough")).left == ()
            assert begun.is_set() and not go.is_set()
            go.set()
    finally:
        go.set()
