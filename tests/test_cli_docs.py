"""What the documents show is what happens: their commands are run, their files read, their links followed."""

import json
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from cli_process import PROJECT, Pty, environment

from cld.cli.exits import MEANINGS
from cld.cli.hosts import HOSTS
from cld.config import OWN, Settings, load_settings
from cld.json_schema import compile_schema
from cld.resource import decode
from cld.server.branch_tools import BRANCHES
from cld.server.work_calls import read_steps
from cld.server.work_tools import WORK
from cld.uri import parse_uri

DOCUMENTS = [
    PROJECT / "README.md",
    *(
        PROJECT / "docs" / f"{name}.md"
        for name in (
            "files",
            "hosts",
            "glossary",
            "settings",
            "ingest",
            "search",
            "work",
            "tasks",
            "models",
            "offline",
            "assistants",
            "tools",
            "tool-servers",
        )
    ),
]
WITH_COMMANDS = [one for one in DOCUMENTS if "```console" in one.read_text(encoding="utf-8")]
FENCED = re.compile(r"(?:Add to `(?P<place>[\w.]+)`:\n\n)?```(?P<kind>\w*)\n(?P<body>.*?)```", re.DOTALL)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the rules beside the tree to be, and `cld` on the path."""
    shutil.copytree(PROJECT / "policies", tmp_path / "policies")
    command = tmp_path / "bin" / "cld"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cld.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.name)
def test_commands_print_what_the_document_says(here: Path, document: Path) -> None:
    blocks = list(FENCED.finditer(document.read_text(encoding="utf-8")))
    ran = 0
    for block in blocks:
        if block["kind"] == "console":
            for line, expected in commands(block["body"]):
                shown = run(line, here)
                assert matches(expected, shown), f"{line}\nsays\n{shown}\nnot\n{expected}"
                ran += 1
        elif block["kind"] == "json" and block["place"]:
            add(here / "policies/data.json", block["place"], json.loads("{" + block["body"] + "}"))
    assert ran > 0


def test_files_shown_are_resources() -> None:
    readme, files = (path.read_text(encoding="utf-8") for path in DOCUMENTS[:2])
    for text, uri in (
        (readme, "cld:common.Message.m2"),
        (files, "cld:common.Text.hello"),
    ):
        shown = [block["body"] for block in FENCED.finditer(text) if block["kind"] == "json" and not block["place"]]
        assert shown
        for body in shown:
            decode(body.encode(), parse_uri(uri))


def test_the_lines_to_connect_a_host_work(here: Path) -> None:
    readme = DOCUMENTS[0].read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("cld install")]
    assert len(lines) == 3
    for line in lines:
        assert "error" not in run(line.split("#")[0], here)
    assert (here / ".config/Claude/claude_desktop_config.json").is_file()


def test_the_exit_codes_are_those_of_the_program() -> None:
    readme = DOCUMENTS[0].read_text(encoding="utf-8")
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", readme, re.MULTILINE) for code in row.split(",")}
    assert told == set(MEANINGS)


def test_every_host_and_its_files_are_told() -> None:
    told = (PROJECT / "docs/hosts.md").read_text(encoding="utf-8")
    for host in HOSTS:
        row = next(line for line in told.splitlines() if line.startswith(f"| `{host.id}` |"))
        assert f"`{host.servers_key}`" in row
        for place in (host.user, host.project):
            assert place in row


def test_every_setting_and_its_default_are_told_and_the_example_holds(tmp_path: Path) -> None:
    told = (PROJECT / "docs/settings.md").read_text(encoding="utf-8")
    for name, default in settings_of(Settings()):
        row = next((line for line in told.splitlines() if line.startswith("|") and f"| `{name}` |" in line), None)
        if name == "root":
            row = next(line for line in told.splitlines() if line.startswith("| `--root`"))
        if name == "policy.opa":
            row = next(line for line in told.splitlines() if line.startswith("| | `CLD_OPA`"))
        if row is not None:
            assert ("| *own*: " in row) == (name in OWN or name.split(".")[0] in OWN), name
        assert row is not None, name
        assert shown(default) in [cell.strip() for cell in row.split("|")], name
    example = next(block["body"] for block in FENCED.finditer(told) if block["kind"] == "toml")
    (tmp_path / "cld.toml").write_text(example)
    assert load_settings({"root": str(tmp_path / "resources")}, {}).history.keep == 100


def test_what_hosts_send_for_work_and_get_fits_the_tools() -> None:
    """The examples of docs/work.md, each after a line that names its tool."""
    told = (PROJECT / "docs/work.md").read_text(encoding="utf-8")
    tools = {tool.name: tool for tool in (*WORK, *BRANCHES)}
    seen: set[str] = set()
    for name, verb, body in re.findall(r"^`(\w+)` (takes|gives)[^\n]*:\n\n```json\n(.*?)```", told, re.M | re.S):
        example, tool = json.loads(body), tools[name]
        if verb == "takes":
            arguments = tool.parse(example)
            if example.get("tasks"):
                assert read_steps(arguments.tasks)
        schema = tool.input_schema if verb == "takes" else tool.output_schema
        assert schema is not None
        assert compile_schema(dict(schema))(example) is None, f"{name}: {example}"
        seen.add(name)
    assert len(re.findall("```json", told)) == len(re.findall(r"^`\w+` (?:takes|gives)", told, re.M))
    assert seen >= {"plan", "task_get", "task_update", "task_cancel", "approve"}


def settings_of(settings: msgspec.Struct, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in ((field, getattr(settings, field)) for field in settings.__struct_fields__):
        if isinstance(value, msgspec.Struct):
            found += settings_of(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def shown(default: object) -> str:
    """A default as the tables show it."""
    if default is None:
        return ""
    if isinstance(default, tuple | bool):
        return f"`{json.dumps(default)}`"
    if isinstance(default, str):
        return f"`{default}`" if default else ""
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", document.read_text(encoding="utf-8")):
        assert link == "https" or (document.parent / link).exists(), link


def commands(block: str) -> list[tuple[str, str]]:
    """Each command line and what is expected of it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def matches(expected: str, shown: str) -> bool:
    """`…` stands for anything within a line, and for any lines where it is one."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in expected.splitlines()
    )
    return re.fullmatch(pattern, shown) is not None


def add(file: Path, place: str, entries: dict[str, object]) -> None:
    data = json.loads(file.read_bytes())
    at = data
    for name in place.split("."):
        at = at[name]
    at.update(entries)
    file.write_text(json.dumps(data))


def run(line: str, here: Path) -> str:
    """What a shell on a terminal shows of `line`."""
    env = {"NO_COLOR": "1", "PATH": f"{here}/bin:{environment(here)['PATH']}"}
    _, seen = Pty(["-c", line], here, env, program="/bin/sh").end()
    # A progress bar is gone when the work is done.
    return re.sub(r"\r[^\n]*\x1b\[K", "", seen.decode().replace("\r\n", "\n"))
