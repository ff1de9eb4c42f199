"""The tour really does what it tells, on a tree that keeps everything else, and says so when it cannot."""

import json
import sys
from pathlib import Path

import pytest
from cli_process import PROJECT, Pty, cld
from openai_server import Call, OpenAI, Reply, Request

from cld.cli.played_host import StepFailed, played_host
from cld.config import Settings

TOUR = "cld:cld.Namespace.tour"
ASSISTANTS = {path.name for path in (PROJECT / "resources").glob("cld:common.Assistant.*.json")}


def test_the_tour_runs_again_and_again_and_keeps_to_its_namespace(tmp_path: Path) -> None:
    assert cld("put", "cld:common.Text.mine", '{"text": "mine"}', cwd=tmp_path).returncode == 0
    root = tmp_path / "resources"
    mine = (root / "cld:common.Text.mine.json").read_bytes()
    told: list[dict[str, str]] = []
    for _ in range(2):
        done = cld("tour", "--json", cwd=tmp_path)
        assert done.returncode == 0, done
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["step"] for line in told if "title" in line] == list(range(1, 13))
        there = {path.name for path in root.iterdir() if not path.name.startswith("cld:tool.Tool.")}
        assert there == {
            ".cld",
            "cld:common.Text.mine.json",
            f"{TOUR}.json",
            TOUR,
            *ASSISTANTS,
        }
        assert (root / "cld:common.Text.mine.json").read_bytes() == mine
    said = " ".join(line["said"] for line in told if "said" in line)
    for fact in (
        "get it again and repeat the change",
        "may not write",
        "answered no: it is still there",
        "planned as 2 tasks:",
        "elected researcher:",
        'called search {"',
        "sources was read again, and says so",
        "To have answers written, name a model",
    ):
        assert fact in said
    assert {path.name for path in tmp_path.iterdir()} == {".cache", "resources"}


def test_the_tour_has_the_model_of_ones_own_settings_write_the_answer(tmp_path: Path) -> None:
    searches = Call("search", json.dumps({"query": "what does an acknowledged write survive?"}))

    def reply(request: Request) -> Reply:
        if '"direct"' in json.dumps(request.body.get("response_format") or {}):
            return Reply(json.dumps({"direct": True, "reason": "It is one question.", "steps": []}))
        asked = request.body["messages"][-1]["role"] != "tool"
        return Reply(calls=(searches,)) if asked else Reply("It survives a crash.")

    with OpenAI(otherwise=reply) as server:
        tier = {"name": "writer", "model": "openai/w", "api_base": server.url, "price_in": 0, "price_out": 0}
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**tier, "schema": "request"}.items()]
        own = tmp_path / "own.toml"
        own.write_text("\n".join(["[[models.chain]]", *lines]))
        done = cld("tour", "--json", cwd=tmp_path, env={"CLD_CONFIG": str(own)})
    assert done.returncode == 0, done
    said = " ".join(line["said"] for line in map(json.loads, done.stdout.splitlines()) if "said" in line)
    assert "It survives a crash." in said and "written with writer, as your settings say" in said


def test_the_tour_reads_well_on_a_terminal_and_shows_the_readers_host(tmp_path: Path) -> None:
    (tmp_path / ".config/zed").mkdir(parents=True)
    code, seen = Pty(("tour", "tree"), tmp_path).end()
    text = seen.decode()
    assert code == 0, text
    assert "\x1b[1m1. Start the server, as a host does" in text
    assert "Connect your host (Zed)" in text
    assert '"context_servers"' in text
    assert f"--root {tmp_path / 'tree'}" in text
    told = text[: text.index("10. ")].splitlines()
    assert all(len(line) < 130 for line in told if len(line.split()) > 2 and "$" not in line and "cld " not in line)


@pytest.mark.anyio
@pytest.mark.parametrize("command", [(sys.executable, ["-c", "raise SystemExit(3)"]), ("/nowhere/cld", [])])
async def test_a_server_that_ends_while_it_starts_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, list[str]]
) -> None:
    monkeypatch.setattr("cld.cli.played_host.start_command", lambda settings: command)
    with (tmp_path / "log").open("w") as log, pytest.raises(StepFailed, match=r"the server did not start: .*by hand"):
        async with played_host(Settings(root=str(tmp_path)), log):
            pass


def test_a_step_that_fails_ends_the_tour_with_its_number(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    done = cld("tour", cwd=tmp_path)
    assert done.returncode == 1
    assert b"error: step 1" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_tour_without_a_folder_is_refused(tmp_path: Path) -> None:
    done = cld("tour", "memory://tree", cwd=tmp_path)
    assert done.returncode == 2
    assert b"needs a folder" in done.stderr


def test_without_what_searching_needs_the_tour_says_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["wordllama"] = None\n')
    done = cld("tour", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{PROJECT}"})
    assert done.returncode == 0, done
    assert b"left out: searching needs the extra knowledge" in done.stdout
    assert b"12. Connect your host" in done.stdout
