"""Work at the command line: asked, planned, approved, interrupted, gone on with and stopped, by real processes.

There is no model here, so assistants pick tools by rule and answer with quotes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_process import Pty, cld, on_terminal
from openai_server import OpenAI, Reply
from optional import needs_litellm

from cld.cli import main

CRANE = "cld:common.Text.crane"
TOOLS = '''
import time
from pathlib import Path

from cld.tools.declare import ToolContext, tool

HERE = Path("{here}")


@tool(read_only=True, open_world=False)
def long_look(where: str, context: ToolContext) -> str:
    """Look for a long time."""
    context.progress("looking")
    while not (HERE / "go").exists():
        time.sleep(0.02)
    return f"seen {where} at last"


@tool(destructive=True, open_world=False)
def tear_down(what: str) -> str:
    """Tear something down."""
    (HERE / f"{what} is down").touch()
    return f"{what} is down"
'''
LOOK = ("ask", "long_look where: quay", "--assistant", "general")
TEAR = ("ask", "tear_down what: crane", "--assistant", "general")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a tree that knows one thing."""
    (tmp_path / "resources").mkdir()
    text = "The crane was replaced in March 2024. The new crane lifts 40 tonnes."
    (tmp_path / "resources" / f"{CRANE}.json").write_text(json.dumps({"content": {"text": text}}))
    return tmp_path


def told(*args: str, cwd: Path, code: int = 0, **more: Any) -> dict[str, Any]:
    done = cld(*args, cwd=cwd, **more)
    assert done.returncode == code, done
    return json.loads(done.stdout)


def left_alone(here: Path, message: str = "How much does the new crane lift?") -> str:
    """The URI of a task that was asked for and not begun."""
    return told("ask", message, "--wait", "0", cwd=here, code=8)["task"]


def files(here: Path, type: str) -> list[Path]:
    return list((here / "resources").rglob(f"{type}.*.json"))


def test_asking_begins_a_tree_where_there_is_none(tmp_path: Path) -> None:
    done = told("ask", "Who leads the project?", cwd=tmp_path)
    assert done["status"] == "completed"
    assert "Nothing was found" in done["output"]
    assert "sources" not in done
    assert (tmp_path / "resources/cld:common.Assistant.researcher.json").is_file()


def test_an_answer_names_its_sources_and_is_in_the_tree_and_its_conversation_goes_on(here: Path) -> None:
    done = told("ask", "How much does the new crane lift?", cwd=here)
    assert "40 tonnes" in done["output"]
    assert [source["uri"] for source in done["sources"]] == [CRANE]
    assert done["conversation"] in done["message"] and done["message"] in done["task"] == done["uri"]
    answer = told("get", f"{done['task']}/common.Message.answer", "--content", cwd=here)
    assert answer["text"] == done["output"]
    second = told("ask", "When was the crane replaced?", "--conversation", done["conversation"], cwd=here)
    assert second["conversation"] == done["conversation"]
    assert second["message"] > done["message"]


def test_people_see_what_is_done_then_the_plan_and_the_answer(here: Path) -> None:
    code, seen = on_terminal(
        "ask", "When was the crane replaced? How much does the new crane lift?", "--explain", cwd=here
    )
    text = seen.decode().replace("\r\n", "\n")
    assert code == 0, text
    for part in (
        "this is cld:common.Conversation.",
        "planned 2 subtasks",
        "s1: calling search",
        "s2: completed",
        "planned as 2 tasks:",
        'called search {"limit":20,"query":"When was the crane replaced?"}: finished',
        "judged enough: ",
        "cost: ",
        "## How much does the new crane lift?",
        f"— {CRANE}",
    ):
        assert part in text, f"{part!r} is not in\n{text}"
    assert text.index("planned 2 subtasks") < text.index("planned as 2 tasks") < text.index("## When")


def test_people_see_what_a_model_writes_while_it_does_and_then_only_the_answer(here: Path) -> None:
    needs_litellm()
    text = "one two three four five six seven eight nine ten eleven twelve"
    asked = ("ask", "Count", "--assistant", "general")
    with OpenAI(otherwise=lambda _: Reply(text, hold_after=9)) as model:
        chain = f'[[models.chain]]\nname = "a"\nmodel = "openai/a"\napi_base = "{model.url}"\n'
        (here / "own.toml").write_text(f'{chain}price_in = 1.0\nprice_out = 1.0\nschema = "request"\n')
        settings = {"CLD_CONFIG": str(here / "own.toml"), "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
        asking = Pty(asked, here, settings)
        asking.until(b"\rone two three four five six seven eight\x1b[K")
        model.release()
        code, seen = asking.end()
        assert code == 0, seen
        shown, _, left = seen.decode().rpartition("\x1b[K")
        assert shown.endswith("\r") and text in shown, "it is taken away"
        assert left.count(text) == 1


def test_a_form_that_quotes_cannot_fill_fails_and_says_so(here: Path) -> None:
    (here / "form.json").write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    shown = cld("ask", "How much does the new crane lift?", "--format", "@form.json", "--human", cwd=here)
    assert shown.returncode == 1
    assert b"failed" in shown.stdout and b"model" in shown.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["ask", "hello", "--format", "@none.json"], 2, "none.json is no JSON Schema"),
        (["ask", "hello", "--assistant", "nobody"], 2, "there is no assistant 'nobody'"),
        (["ask", "  "], 2, "message is empty"),
        (["ask", "hello", "--conversation", CRANE], 2, "is no common.Conversation"),
        (["plan", "none.json"], 2, "none.json cannot be read"),
        (["plan", "bad.json"], 2, "bad.json is no plan: tasks[1]: expected `object`"),
        (["plan", "words.json"], 2, "words.json is no JSON array of tasks"),
        (["plan", "unknown.json"], 2, "unknown.json is no plan: wat: no such argument; there are message, tasks"),
        (["plan", "budget.json"], 2, "budget.json is no plan: budget.coins"),
        (["plan", "tools.json"], 2, "tools.json is no plan: tools[0] has to have a name"),
        (["plan", "empty.json"], 2, "message is empty"),
        (["plan", "cycle.json"], 2, "a → b → a"),
        (["task", "cld:plan.Task.none"], 3, "no such resource: cld:plan.Task.none"),
        (["task", CRANE], 2, "is no task"),
        (["task", "--wait", "1"], 2, "needs the URI"),
        (["cancel", "cld:plan.Task.none"], 3, "no such resource"),
        (["approve", "cld:plan.Task.none/plan.Approval.a"], 3, "no such resource"),
        (["approve", "cld:plan.Task.none", "--edit", "{"], 2, "--edit is no JSON object"),
        (["branch", CRANE], 2, "is no task"),
        (["compare", CRANE, CRANE], 2, "is no task"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    said: str,
) -> None:
    (here / "bad.json").write_text('[{"purpose": "x"}, 1]')
    (here / "cycle.json").write_text(
        '[{"id": "a", "purpose": "x", "after": ["b"]}, {"id": "b", "purpose": "y", "after": ["a"]}]'
    )
    (here / "words.json").write_text('"words"')
    (here / "unknown.json").write_text('{"tasks": [{"purpose": "x"}], "wat": 1}')
    (here / "budget.json").write_text('{"tasks": [{"purpose": "x"}], "budget": {"coins": 1}}')
    (here / "tools.json").write_text('{"tasks": [{"purpose": "x"}], "tools": [{"name": "no spaces"}]}')
    (here / "empty.json").write_text('{"tools": []}')
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here))
    # In this process, for they are many.
    assert main(args) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert not files(here, "plan.Task")


def test_a_plan_of_ones_own_is_worked_and_waits_for_its_client(here: Path) -> None:
    plan = [
        {"id": "look", "purpose": "Look at the quay", "assistant": "client"},
        {"id": "tell", "purpose": "How much does the new crane lift?", "after": ["look"]},
    ]
    for given in (plan, {"tasks": plan}):
        done = told("plan", "-", cwd=here, code=8, stdin=json.dumps(given).encode())
        states = {one["purpose"]: one["status"] for one in done["tasks"]}
        assert states == {"Look at the quay": "waiting", "How much does the new crane lift?": "pending"}
    shown = cld("task", "--human", cwd=here)
    assert shown.stdout.decode().count("look: waiting for its client") == 2


def test_all_that_the_tool_takes_is_taken_from_a_file_and_flags_beat_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here))
    camera = {"name": "camera", "description": "Takes a picture."}
    plan = {
        "tasks": [{"id": "look", "purpose": "Look", "assistant": "client"}],
        "conversation": "cld:/common.Conversation.file",
        "response_format": "in Japanese",
        "tools": ["search", camera],
        "budget": {"calls": 7},
        "wait_seconds": 0,
    }
    (here / "plan.json").write_text(json.dumps(plan))
    for flags, place in (
        ((), "cld:common.Conversation.file"),
        (("--conversation", "cld:common.Conversation.flag"), "cld:common.Conversation.flag"),
    ):
        assert main(["plan", "plan.json", *flags]) == 8
        done = json.loads(capsys.readouterr().out)
        assert done["conversation"] == place
        task = json.loads((here / "resources" / f"{done['task']}.json").read_text())["content"]
        assert (task["tools"], task["client_tools"]) == (["search"], [camera])
        assert (task["response_format"], task["budget"]["calls"]) == ("in Japanese", 7)
    (here / "plan.json").write_text(json.dumps({"message": "What is 3 plus 4?", "wait_seconds": 0}))
    assert main(["plan", "plan.json", "--message", "What is 5 plus 6?"]) == 8
    assert json.loads(capsys.readouterr().out)["purpose"] == "What is 5 plus 6?"


def test_what_can_be_worked_now_is_listed_and_why_the_rest_cannot(here: Path) -> None:
    def listed(*args: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in cld("task", *args, cwd=here).stdout.splitlines()]

    def ids(found: list[dict[str, Any]]) -> list[str]:
        return [one["uri"].rpartition(".")[2] for one in found]

    alone = left_alone(here)
    assert [one["uri"] for one in listed("--ready")] == [alone] and listed("--blocked") == []
    plan = [
        {"id": "look", "purpose": "Look at the quay", "assistant": "client"},
        {"id": "tell", "purpose": "Tell", "inputs": {"seen": {"from": "look"}}},
        {"id": "end", "purpose": "End", "after": ["tell"], "steps": [{"id": "deep", "purpose": "Dig"}]},
    ]
    done = told("plan", "-", cwd=here, code=8, stdin=json.dumps(plan).encode())
    assert "ready" not in done
    assert {one["purpose"]: one.get("blocked") for one in done["tasks"]} == {
        "Look at the quay": None,
        "Tell": "it comes after look (waiting)",
        "End": "it comes after tell (pending)",
    }
    held_up = listed(done["task"], "--blocked")
    assert ids(held_up) == ["look", "tell", "end"]
    assert [one["kind"] for one in held_up] == ["client", "dependency", "dependency"]
    assert listed(done["task"], "--ready") == [] and ids(listed("--blocked")) == ids(held_up)
    file = here / "resources" / f"{done['task']}/plan.Task.look.json"
    resource = json.loads(file.read_text())
    resource["content"] |= {"status": "completed", "output": "a crane"}
    file.write_text(json.dumps(resource))
    [tell] = listed(done["task"], "--ready")
    assert ids([tell]) == ["tell"] and tell["purpose"] == "Tell"
    assert told("task", done["task"], cwd=here)["ready"] == [tell["uri"]]
    text = cld("task", "--blocked", "--human", cwd=here).stdout.decode()
    assert text == f"{done['task']}/plan.Task.end  it comes after tell (pending)\n"
    resource["content"] |= {"status": "failed", "error": {"code": "lost", "message": "no quay"}}
    file.write_text(json.dumps(resource))
    assert listed(done["task"], "--blocked")[0]["reason"] == "it can never run: look failed (no quay)"
    assert cld("task", alone, "--ready", "--wait", "1", cwd=here).returncode == 2


def test_what_needs_approval_waits_and_is_done_once_it_is_given(here: Path) -> None:
    settings = tools(here)
    asked = told(*TEAR, cwd=here, env=settings, code=6)
    assert asked["status"] == "waiting"
    [question] = asked["approvals"]
    assert (question["tool"], question["arguments"]) == ("tear_down", {"what": "crane"})
    assert not (here / "crane is down").exists()
    answered = told("approve", asked["task"], "--edit", '{"what": "shed"}', "--reason", "rather", cwd=here)
    assert (answered["decision"], answered["decided_by"]) == ("edit", "user:local")
    assert cld("approve", question["uri"], cwd=here).returncode == 5
    assert told("task", asked["task"], "--wait", "30", cwd=here, env=settings)["calls"][0]["state"] == "finished"
    assert (here / "shed is down").exists() and not (here / "crane is down").exists()


def test_what_is_rejected_is_not_done(here: Path) -> None:
    settings = tools(here)
    asked = told(*TEAR, cwd=here, env=settings, code=6)
    shown = cld("approve", asked["approvals"][0]["uri"], "--reject", "--human", cwd=here)
    assert shown.stdout == b"rejected: tear_down\n"
    assert f"cld task {asked['task']} --wait".encode() in shown.stderr
    cld("task", asked["task"], "--wait", "30", cwd=here, env=settings)
    assert not (here / "crane is down").exists()


def test_at_a_terminal_the_person_is_asked(here: Path) -> None:
    settings = tools(here)
    asking = Pty(TEAR, here, settings)
    seen = asking.until(b"Do you approve? [y/N]")
    assert b'wants to call tear_down with {"what":"crane"}' in seen
    assert not (here / "crane is down").exists()
    asking.send(b"y\n")
    asking.end()
    assert (here / "crane is down").exists()


def test_interrupted_work_is_left_as_it_is_and_goes_on_later(here: Path) -> None:
    settings = tools(here)
    asking = Pty(LOOK, here, settings)
    asking.until(b"long_look: looking")
    asking.interrupt()
    code, seen = asking.end()
    assert code == 130, seen
    assert b"interrupted: a server on this tree goes on with it, or: cld task cld:" in seen
    assert b"Traceback" not in seen
    [open_one] = [json.loads(line) for line in cld("task", cwd=here).stdout.splitlines()]
    assert open_one["status"] in ("assigned", "running", "pending")
    (here / "go").touch()
    done = told("task", open_one["uri"], "--wait", "30", cwd=here, env=settings)
    assert done["status"] == "completed"
    assert "seen quay at last" in done["output"]
    assert cld("task", cwd=here).stdout == b""


def test_cancelling_stops_and_begins_nothing(here: Path) -> None:
    uri = left_alone(here)
    assert told("cancel", uri, "--reason", "not needed", cwd=here)["cancelled"] == [uri]
    task = told("task", uri, cwd=here)
    assert task["status"] == "cancelled"
    assert not files(here, "tool.Call")
    again = cld("cancel", uri, "--human", cwd=here)
    assert (again.returncode, again.stdout) == (0, b"nothing to cancel: it was over\n")


def test_what_runs_in_another_process_is_stopped_from_here(here: Path) -> None:
    settings = tools(here)
    asking = Pty(LOOK, here, settings)
    seen = asking.until(b"long_look: looking").decode()
    uri = seen.split("this is ")[1].split()[0]
    shown = cld("cancel", uri, "--human", cwd=here)
    assert shown.stdout == b"cancelled 1 task; nothing of it runs any more\n"
    code, _ = asking.end()
    assert code == 1


def test_looking_begins_nothing_and_lists_what_is_open(here: Path) -> None:
    assert b"no task is open" in cld("task", "--human", cwd=here).stderr
    told("ask", "How much does the new crane lift?", cwd=here)
    before = len(files(here, "tool.Call"))
    uri = left_alone(here)
    [line] = cld("task", cwd=here).stdout.splitlines()
    assert json.loads(line)["uri"] == uri
    shown = cld("task", uri, "--human", cwd=here).stdout.decode().splitlines()
    assert shown[0].endswith("  How much does the new crane lift?") and shown[1] == f"  {uri}"
    assert len(files(here, "tool.Call")) == before


def test_a_task_is_done_again_beside_the_first_time_and_both_compared(here: Path) -> None:
    first = told("ask", "How much does the new crane lift?", cwd=here)["task"]
    (here / "resources" / f"{CRANE}.json").write_text('{"content": {"text": "The new crane lifts 60 tonnes."}}')
    again = told("branch", first, "--assistant", "critic", cwd=here)
    assert again["uri"] != first and again["assistant"] == "cld:common.Assistant.critic"
    found = told("compare", first, again["uri"], cwd=here)
    assert found["same"] is False
    assert "60 tonnes" in found["output"]
    shown = cld("compare", first, again["uri"], "--human", cwd=here).stdout.decode()
    assert "assistant: cld:common.Assistant." in shown
    assert cld("compare", first, first, "--human", cwd=here).stdout == b"they came out the same\n"


def tools(here: Path) -> dict[str, str]:
    """An environment whose own settings have a tool that waits for the file `go`, and one that needs approval."""
    (here / "tools").mkdir()
    (here / "tools/made.py").write_text(TOOLS.replace("{here}", str(here)))
    (here / "own.toml").write_text(f'[tooling]\nfolders = ["{here}/tools"]\n')
    return {"CLD_CONFIG": str(here / "own.toml"), "NO_COLOR": "1"}
