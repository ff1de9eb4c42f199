"""A server that starts goes on with what was left undone, without being asked; and one that must not does not."""

import json
import os
import sys
import time
from pathlib import Path

from cli_process import cld
from test_server_stdio import POLICIES, SERVER, Host

TASK = "cld:common.Conversation.c/common.Message.m/plan.Task.t"
SECONDS = 30.0


def left_undone(folder: Path) -> Path:
    """A task that was asked for and nobody works; its file."""
    assert (
        cld("put", "cld:common.Text.crane", '{"text": "The crane at the harbour is new."}', cwd=folder).returncode == 0
    )
    made = cld("put", TASK, '{"direct": true}', "--meta", "purpose=What is said about the crane?", cwd=folder)
    assert made.returncode == 0, made
    return folder / "resources" / f"{TASK}.json"


def serve(folder: Path, **environment: str) -> Host:
    arguments = [sys.executable, SERVER, "--root", str(folder / "resources"), "--policies", POLICIES]
    return Host(arguments, env={**os.environ, **environment})


def test_a_server_goes_on_with_what_was_left_undone(tmp_path: Path) -> None:
    file = left_undone(tmp_path)
    with serve(tmp_path) as host:
        host.shake_hands()
        end = time.monotonic() + SECONDS
        while (status := json.loads(file.read_bytes())["content"].get("status")) not in ("completed", "failed"):
            assert time.monotonic() < end, f"it is {status}"
            time.sleep(0.05)
    content = json.loads(file.read_bytes())["content"]
    assert content["status"] == "completed", content
    assert "The crane at the harbour is new." in content["output"]
    assert [source["uri"] for source in content["sources"]] == ["cld:common.Text.crane"]


def test_a_server_that_is_told_so_takes_up_nothing(tmp_path: Path) -> None:
    file = left_undone(tmp_path)
    before = file.read_bytes()
    own = tmp_path / "own.toml"
    own.write_text("[work]\nresume = false\n")
    with serve(tmp_path, CLD_CONFIG=str(own)) as host:
        host.shake_hands()
        answer = host.ask("tools/call", name="task_get", arguments={"uri": TASK})
        assert answer["result"]["structuredContent"]["status"] == "pending"
    assert file.read_bytes() == before
