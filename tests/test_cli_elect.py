"""`cld elect` as a script sees it: formats in and out, order, streaming, the tree through the policy."""

import json
import subprocess
from pathlib import Path
from typing import Any

from cli_process import DEADLINE, cld, command, environment

TOOLS: list[dict[str, Any]] = [
    {"name": "get_weather", "description": "Current conditions and forecast for a place.", "parameters": "city days"},
    {
        "type": "function",
        "function": {
            "name": "send_email",
            "description": "Sends a message to a recipient's mailbox.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string", "description": "The recipient"}}},
        },
    },
    {"uri": "cld:tool.Tool.convert_currency", "description": "Converts money between currencies.", "requests": []},
    {
        "name": "book_table",
        "description": "Reserves seats.",
        "inputSchema": {"properties": {"restaurant": {}}},
        "requests": ["somewhere to eat tonight", {"id": 7, "request": "dinner for two at eight"}],
    },
]


def among(folder: Path, text: str | None = None) -> str:
    (folder / "tools.json").write_text(json.dumps(TOOLS) if text is None else text)
    return "tools.json"


def test_one_request_gives_a_ranking_with_scores_and_reasons(tmp_path: Path) -> None:
    done = cld("elect", "will it rain in Oslo?", "--among", among(tmp_path), "--top", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    election = json.loads(done.stdout)
    assert [len(election["ranked"]), election["ranked"][0]["name"]] == [2, "get_weather"]
    assert election["runner_up"] == election["ranked"][1]["name"]
    assert {"abstained", "confidence", "reason"} < election.keys()
    assert 0 <= election["ranked"][1]["score"] <= election["ranked"][0]["score"] <= 1


def test_a_person_gets_lines(tmp_path: Path) -> None:
    done = cld("elect", "will it rain?", "--among", among(tmp_path), "--human", cwd=tmp_path)
    assert b"get_weather" in done.stdout.splitlines()[1]


def test_a_stream_is_answered_in_order_a_line_each_and_a_bad_line_does_not_end_it(tmp_path: Path) -> None:
    given = [
        *('"mail Bob that I am late"', '{"id": "x1", "request": "a dinner reservation"}', "{broken", "[1]", ""),
        *('{"id": 4, "request": "how many dollars is a euro"}', '{"id": 5}', '"forecast for tomorrow"'),
    ]
    done = cld("elect", "--among", among(tmp_path), cwd=tmp_path, stdin="\n".join(given).encode())
    assert done.returncode == 7
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.get("id") for answer in answers] == [None, "x1", None, None, 4, 5, None]
    assert ["error" in answer for answer in answers] == [False, False, True, True, False, True, False]
    assert [answers[at]["ranked"][0]["name"] for at in (0, 1, 4, 6)] == [
        *("send_email", "book_table", "cld:tool.Tool.convert_currency", "get_weather")
    ]
    assert answers[2]["line"] == 3 and answers[3]["line"] == 4


def test_an_answer_comes_before_the_next_request_is_sent(tmp_path: Path) -> None:
    arguments = command("elect", "--among", among(tmp_path))
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(3):
            process.stdin.write(json.dumps({"id": number, "request": "will it rain"}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


def test_candidates_may_be_lines_or_in_an_object(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(tool) for tool in TOOLS)
    for text in (lines, json.dumps({"tools": TOOLS}), json.dumps({"candidates": TOOLS}, indent=1)):
        done = cld("elect", "weather", "--among", among(tmp_path, text), cwd=tmp_path)
        assert json.loads(done.stdout)["ranked"][0]["name"] == "get_weather"


def test_a_file_that_does_not_fit_is_refused_with_its_place(tmp_path: Path) -> None:
    for text, said in (
        ('{"name": "a"}\n{"name": "a"}', "line 2"),
        ('[{"description": "x"}]', "candidate 1"),
        ('{"name": "a"}\n{', "line 2"),
        ('[{"name": "a", "requests": "b"}]', "requests"),
        ("17", "array"),
    ):
        done = cld("elect", "x", "--among", among(tmp_path, text), cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr.decode(), done
    assert cld("elect", "x", "--among", "missing.json", cwd=tmp_path).returncode == 2


def test_candidates_below_a_prefix_are_those_one_may_read_that_say_what_they_are_for(tmp_path: Path) -> None:
    for name, purpose in (("rain", "Tells the weather"), ("money", "Converts currencies"), ("blank", "")):
        meta = ["--meta", f"purpose={purpose}"] if purpose else []
        assert cld("put", f"cld:plan.Assistant.{name}", "{}", *meta, cwd=tmp_path).returncode == 0
    done = cld("elect", "what will the weather be", "--among", "cld:", cwd=tmp_path)
    ranked = json.loads(done.stdout)["ranked"]
    assert [one["name"] for one in ranked] == ["cld:plan.Assistant.rain", "cld:plan.Assistant.money"]
    nobody = cld("--principal", "user:stranger", "elect", "what will the weather be", "--among", "cld:", cwd=tmp_path)
    assert json.loads(nobody.stdout)["ranked"] == [] and json.loads(nobody.stdout)["abstained"] is True

    requests = ["how much did the harbour dues come to", "sum up the harbour dues"]
    for number, text in enumerate([*requests, "tidy my desk"]):
        status = "completed" if text in requests else "failed"
        content = {"status": status, "assistant": "cld:plan.Assistant.money"}
        task = ["put", f"cld:plan.Task.t{number}", json.dumps(content), "--meta", f"purpose={text}"]
        assert cld(*task, cwd=tmp_path).returncode == 0
    taught = cld("elect", "the harbour dues of May", "--among", "cld:", "--type", "plan.Assistant", cwd=tmp_path)
    first = json.loads(taught.stdout)["ranked"][0]
    assert first["name"] == "cld:plan.Assistant.money" and first["why"]["earlier"] > 0.2


def test_a_line_that_is_too_long_costs_itself_and_errors_name_the_line_they_are_in(tmp_path: Path) -> None:
    given = b'"forecast"\n\n\n{broken\n"' + b"x" * (5 << 20) + b'"\n"mail Bob"'
    done = cld("elect", "--among", among(tmp_path), cwd=tmp_path, stdin=given)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 7 and [one.get("line") for one in answers] == [None, 4, 5, None]
    assert "more than 4194304 bytes" in answers[2]["error"]["message"]


def test_one_candidate_in_a_line_may_name_its_tools_and_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    text = '\ufeff{"name": "guide", "description": "Finds the way.", "tools": ["maps"]}\n'
    done = cld("elect", "which way?", "--among", among(tmp_path, text), cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["ranked"][0]["name"] == "guide"
