"""`cld doctor`, `cld policy`, approvals and `cld serve` at the command line."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_process import DEADLINE, PROJECT, Pty, cld, command, environment

from cld.cli.session import DESTRUCTIVE
from cld.policy.build import find_opa
from cld.server.resources_tools import CORE, MORE

NOTE = "cld:common.Text.note"
OPA = find_opa("", PROJECT / "policies")

needs_opa = pytest.mark.skipif(OPA is None, reason="there is no opa to compile rules with")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Rules of its own beside the tree to be, which is where they are looked for."""
    folder = tmp_path / "policies"
    shutil.copytree(PROJECT / "policies", folder)
    return folder


def change(policies: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((policies / "data.json").read_bytes())
    edit(data)
    (policies / "data.json").write_text(json.dumps(data))


def with_opa() -> dict[str, str]:
    assert OPA is not None
    return {"PATH": f"{OPA.parent}:/usr/bin:/bin"}


def test_a_sound_tree_passes_and_a_broken_file_is_named(tmp_path: Path) -> None:
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    sound = cld("doctor", cwd=tmp_path)
    assert sound.returncode == 0, sound
    (tmp_path / "resources/cld:common.Text.broken.json").write_text("{")
    (tmp_path / "resources/stray.txt").write_text("?")
    broken = cld("doctor", cwd=tmp_path)
    found = [json.loads(line) for line in broken.stdout.splitlines()]
    assert broken.returncode == 1
    assert {"cld:common.Text.broken.json", "stray.txt"} <= {finding["path"] for finding in found}
    shown = cld("doctor", "--human", "--no-fix", cwd=tmp_path)
    assert shown.returncode == 1
    assert b"cld:common.Text.broken.json" in shown.stdout


def test_rules_that_cannot_be_loaded_deny_everything_and_doctor_says_why(tmp_path: Path) -> None:
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    (tmp_path / "policies").mkdir()
    denied = cld("put", "cld:common.Text.two", '{"text": ""}', cwd=tmp_path)
    assert denied.returncode == 4
    looked = cld("doctor", cwd=tmp_path)
    assert looked.returncode == 1
    assert json.loads(looked.stdout.splitlines()[0])["problem"]


def test_looking_where_there_is_no_tree_makes_none(tmp_path: Path) -> None:
    for args in (
        ("get", NOTE),
        ("ls",),
        ("tree",),
        ("history", NOTE),
        ("diff", NOTE),
        ("restore", NOTE, "r1"),
        ("watch",),
        ("rm", NOTE),
        ("doctor",),
        ("policy", "explain", "read", NOTE),
    ):
        done = cld(*args, cwd=tmp_path)
        assert done.returncode == 2, args
        assert b"there is no tree at" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_needs_approval_is_not_done_unless_a_person_at_the_terminal_agrees(tmp_path: Path, policies: Path) -> None:
    change(policies, lambda data: data["approvals"]["targets"].update({"cld:": {"actions": ["delete"]}}))
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    alone = cld("rm", NOTE, "--yes", cwd=tmp_path)
    assert alone.returncode == 6
    assert b"--yes does not stand for an approval" in alone.stderr
    assert json.loads(cld("--json", "rm", NOTE, cwd=tmp_path).stderr)["error"]["code"] == "approval_required"
    for answer, code in ((b"n\n", 6), (b"y\n", 0)):
        terminal = Pty(("rm", NOTE), tmp_path)
        terminal.until(b"Do you approve? [y/N]")
        terminal.send(answer)
        assert terminal.end()[0] == code
    assert cld("get", NOTE, cwd=tmp_path).returncode == 3


def test_rules_about_tools_hold_for_the_commands_that_do_the_same(tmp_path: Path, policies: Path) -> None:
    change(policies, lambda data: data["approvals"]["tools"].update({"resource_put": "writing is special here"}))
    done = cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    assert done.returncode == 6
    assert b"writing is special here" in done.stderr


def test_who_may_not_call_a_tool_may_not_run_the_commands_that_do_the_same(tmp_path: Path, policies: Path) -> None:
    cld("put", NOTE, '{"text": "a"}', cwd=tmp_path)
    cld("put", NOTE, '{"text": "b"}', "--if-version", "*", cwd=tmp_path)
    commands = {
        "resource_get": [("get", NOTE), ("put", NOTE, "{}", "--if-version", "r2")],
        "resource_put": [("put", NOTE, '{"text": ""}', "--if-version", "*")],
        "resource_list": [("ls",), ("tree",)],
        "resource_delete": [("rm", NOTE)],
        "resource_history": [("history", NOTE), ("diff", NOTE)],
        "resource_restore": [("restore", NOTE, "r1")],
        "events_wait": [("watch", "--timeout", "0.1")],
    }
    for tool, denied in commands.items():
        place = f"cld:tool.Tool.{tool}"
        rule = {place: {"deny": ["call"], "types": ["*"], "reason": f"{tool} is not for you"}}
        change(policies, lambda data, rule=rule: data["denies"].update({"user:local": rule}))
        for args in denied:
            done = cld(*args, cwd=tmp_path)
            assert done.returncode == 4 and f"not allowed to call {place}".encode() in done.stderr, (args, done)
    change(policies, lambda data: data["denies"].pop("user:local"))
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "b"}


def test_a_yes_to_a_call_is_none_to_the_change(tmp_path: Path, policies: Path) -> None:
    change(policies, lambda data: data["approvals"]["tools"].update({"resource_delete": "deletes are special"}))
    change(
        policies, lambda data: data["approvals"]["targets"].update({NOTE: {"actions": ["delete"], "reason": "kept"}})
    )
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    terminal = Pty(("rm", NOTE), tmp_path)
    terminal.until(b"deletes are special. Do you approve? [y/N]")
    terminal.send(b"y\n")
    terminal.until(b"kept")
    terminal.send(b"n\n")
    assert terminal.end()[0] == 6
    assert cld("get", NOTE, cwd=tmp_path).returncode == 0


def test_the_command_line_says_of_tools_what_they_say_of_themselves() -> None:
    known = {tool.name: tool.annotations.destructive for tool in (*CORE, *MORE)}
    assert {name for name, destructive in known.items() if destructive} == DESTRUCTIVE


def test_a_decision_is_explained_for_anybody(tmp_path: Path) -> None:
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    mine = json.loads(cld("policy", "explain", "write", NOTE, cwd=tmp_path).stdout)
    assert mine["allow"] is True
    theirs = cld("policy", "explain", "write", NOTE, "--as", "user:stranger", "--human", cwd=tmp_path)
    assert theirs.returncode == 0
    assert theirs.stdout.startswith(b"denied: ")


def test_a_replay_shows_what_another_policy_would_change(tmp_path: Path, policies: Path) -> None:
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    same = cld("policy", "replay", cwd=tmp_path)
    assert (same.returncode, same.stdout) == (0, b"")
    stricter = tmp_path / "stricter"
    shutil.copytree(policies, stricter)
    change(stricter, lambda data: data.update(members={}))
    other = cld("policy", "replay", "--policies", "stricter", cwd=tmp_path)
    assert other.returncode == 1
    changed = [json.loads(line) for line in other.stdout.splitlines()]
    assert any(one["action"] == "write" and one["before"] and not one["after"] for one in changed)


@needs_opa
def test_rules_are_checked_tested_and_built(tmp_path: Path, policies: Path) -> None:
    env = with_opa()
    for verb in ("check", "test", "build"):
        done = cld("policy", verb, cwd=tmp_path, env=env)
        assert done.returncode == 0, done
    (policies / "authz.rego").write_text((policies / "authz.rego").read_text() + "\nbroken if {\n")
    broken = cld("policy", "check", cwd=tmp_path, env=env)
    assert broken.returncode == 1
    assert b"authz.rego" in broken.stderr


def test_without_the_compiler_it_is_said_how_to_get_it(tmp_path: Path, policies: Path) -> None:
    done = cld("policy", "check", cwd=tmp_path, env={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert b"cld policy install-opa" in done.stderr


@needs_opa
def test_the_compiler_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    assert OPA is not None
    target = tmp_path / "bin" / "opa"
    target.parent.mkdir()
    os.link(OPA, target) if os.stat(OPA).st_dev == os.stat(tmp_path).st_dev else shutil.copy2(OPA, target)
    for to in ("bin", "bin/opa"):
        done = cld("policy", "install-opa", "--to", to, cwd=tmp_path)
        assert done.returncode == 0, done
        assert json.loads(done.stdout) == {"opa": str(target)}


def test_serve_speaks_the_protocol_and_ends_with_its_input(tmp_path: Path) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    with subprocess.Popen(
        command("serve"), cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(asked).encode() + b"\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        server.stdin.close()
        assert server.wait(DEADLINE) == 0
    assert answer["result"]["serverInfo"]["name"] == "cld"


def test_an_address_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    assert cld("serve", "--http", "nowhere", cwd=tmp_path).returncode == 2


def test_plain_commands_do_not_import_what_is_slow_to_import(tmp_path: Path) -> None:
    cld("put", NOTE, '{"text": ""}', cwd=tmp_path)
    probe = (
        "import sys; from cld.cli import main; main(sys.argv[1:]); "
        "slow = {'mcp', 'pydantic', 'starlette', 'fsspec', 'watchdog', 'jsonschema', 'wasmtime'} & sys.modules.keys(); "
        "print(*sorted(slow), file=sys.stderr)"
    )
    for args, expected in (
        (("--version",), ""),
        (("install", "zed"), ""),
        (("get", NOTE), "wasmtime"),
        (("ls",), "wasmtime"),
    ):
        done = subprocess.run(
            [command()[0], "-c", probe, *args], cwd=tmp_path, env=environment(tmp_path), capture_output=True
        )
        assert done.stderr.decode().strip() == expected, args
