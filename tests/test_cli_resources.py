"""Commands on resources: what they do, print and end with, as a script sees it."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from cli_process import DEADLINE, cld, command, environment

NOTE = "cld:common.Text.note"


def ok(*args: str, cwd: Path, **more: Any) -> Any:
    done = cld(*args, cwd=cwd, **more)
    assert (done.returncode, done.stderr) == (0, b""), done
    return json.loads(done.stdout) if done.stdout else None


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def test_what_is_put_is_read_back_with_its_version(tmp_path: Path) -> None:
    written = ok("put", NOTE, '{"text": "hello"}', "--meta", "purpose=greet", cwd=tmp_path)
    read = ok("get", NOTE, cwd=tmp_path)
    assert read["version"] == written["version"]
    assert read["content"] == {"text": "hello"}
    assert read["meta"]["purpose"] == "greet"
    assert read["created_by"] == "user:local"
    assert json.loads((tmp_path / f"resources/{NOTE}.json").read_bytes())["content"] == {"text": "hello"}


def test_content_comes_from_standard_input_and_files_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "from a file"}')
    ok("put", "cld:common.Text.a", "--file", "a.json", cwd=tmp_path)
    ok("put", "cld:common.Text.b", cwd=tmp_path, stdin=b'{"text": "piped"}')
    ok("put", "cld:common.Text.c", "-", "--text", cwd=tmp_path, stdin="grüße\n".encode())
    for id, text in (("a", "from a file"), ("b", "piped"), ("c", "grüße\n")):
        assert ok("get", f"cld:common.Text.{id}", "--content", cwd=tmp_path) == {"text": text}
    assert cld("get", "cld:common.Text.c", "--text", cwd=tmp_path).stdout == "grüße\n".encode()


def test_creating_what_exists_is_a_conflict_and_replacing_takes_the_version(tmp_path: Path) -> None:
    first = ok("put", NOTE, '{"text": "1"}', cwd=tmp_path)["version"]
    again = cld("put", NOTE, '{"text": "2"}', cwd=tmp_path)
    assert again.returncode == 5
    second = ok("put", NOTE, '{"text": "2"}', "--if-version", first, cwd=tmp_path)
    assert second["revision"] == 2
    late = cld("--json", "put", NOTE, '{"text": "3"}', "--if-version", first, cwd=tmp_path)
    assert late.returncode == 5
    assert json.loads(late.stderr)["error"]["current_version"] == second["version"]
    ok("put", NOTE, '{"text": "3"}', "--if-version", "*", cwd=tmp_path)
    ok("put", NOTE, '{"text": "4"}', "--if-version", "r3", cwd=tmp_path)


def test_meta_that_is_not_named_stays(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "1"}', "--meta", "purpose=a", "--meta", "evaluation=b", cwd=tmp_path)
    ok("put", NOTE, '{"text": "2"}', "--meta", "purpose=c", "--if-version", "*", cwd=tmp_path)
    meta = ok("get", NOTE, cwd=tmp_path)["meta"]
    assert (meta["purpose"], meta["evaluation"]) == ("c", "b")


def test_each_way_to_fail_has_its_exit_code_and_one_line(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "1"}', cwd=tmp_path)
    (tmp_path / "resources/cld:common.Text.broken.json").write_text('{\n "content": }')
    for args, code in (
        (("get", "cld:common.Text.none"), 3),
        (("get", "common.Text.note"), 2),
        (("get", NOTE, "--at", "zzz"), 2),
        (("get", NOTE, "--at", "r7"), 3),
        (("get", "cld:common.Text.broken"), 7),
        (("put", NOTE, "no json"), 2),
        (("put", NOTE, "[1]"), 2),
        (("put", "cld:common.Text.n", '{"text": 5}'), 7),
        (("put", NOTE, "{}", "--meta", "nothing"), 2),
        (("rm", NOTE, "--recursive"), 2),
        (("rm", "cld:common.Text.none"), 3),
        (("ls", "--limit", "0"), 2),
        (("nothing",), 2),
        ((), 2),
        (("get", NOTE, "--principal", "ada"), 2),
    ):
        done = cld(*args, cwd=tmp_path)
        assert done.returncode == code, (args, done)
        assert done.stdout == b"", args
        assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1, (args, done.stderr)
        error = json.loads(cld("--json", *args, cwd=tmp_path).stderr)["error"]
        assert error["code"] and error["message"], args


def test_a_uri_without_its_scheme_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    for text in ("common.Text.note", "cld:common.Text.note.json", "cld:common.Text.note/"):
        assert f"did you mean {NOTE}?".encode() in cld("get", text, cwd=tmp_path).stderr


def test_lists_are_a_json_object_a_line_and_filters_hold(tmp_path: Path) -> None:
    for uri in ("cld:common.Conversation.c", "cld:common.Conversation.c/common.Message.m", "cld:common.Text.t"):
        content = {"common.Message": '{"role": "user", "text": ""}'}.get(uri[4:].split("/")[-1].rpartition(".")[0])
        ok("put", uri, content or '{"text": "", "title": ""}', cwd=tmp_path)
    (tmp_path / "resources/cld:common.Text.broken.json").write_text("{")

    def uris(*args: str) -> list[str]:
        return [row["uri"][4:] for row in lines(cld("ls", *args, cwd=tmp_path).stdout)]

    assert uris() == ["common.Conversation.c", "common.Text.broken", "common.Text.t"]
    assert uris("--depth", "2")[1] == "common.Conversation.c/common.Message.m"
    assert uris("--type", "common.Text") == ["common.Text.broken", "common.Text.t"]
    assert uris("cld:common.Conversation.c") == ["common.Conversation.c/common.Message.m"]
    assert uris("--limit", "1") == ["common.Conversation.c"]
    broken = lines(cld("ls", cwd=tmp_path).stdout)[1]
    assert "no valid resource" in broken["invalid"]


def test_a_tree_is_nested_and_shows_folders_that_have_no_file(tmp_path: Path) -> None:
    ok("put", "cld:common.Document.d/common.Text.t", '{"text": ""}', cwd=tmp_path)
    ok("put", "cld:common.Text.t", '{"text": ""}', cwd=tmp_path)
    drawn = cld("tree", "--human", cwd=tmp_path).stdout.decode()
    assert drawn.splitlines() == [
        "cld:",
        "├── common.Document.d",
        "│   └── common.Text.t",
        "└── common.Text.t",
        "2 resources",
    ]
    nested = ok("tree", cwd=tmp_path)
    assert "version" not in nested["below"][0]
    assert nested["below"][0]["below"][0]["uri"] == "cld:common.Document.d/common.Text.t"
    assert ok("tree", "--limit", "1", cwd=tmp_path)["more"] is True


def test_history_diff_and_restore_go_back(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "one"}', cwd=tmp_path)
    ok("put", NOTE, '{"text": "two"}', "--if-version", "*", cwd=tmp_path)
    kept = lines(cld("history", NOTE, cwd=tmp_path).stdout)
    assert [(one["revision"], one["current"]) for one in kept] == [(2, True), (1, False)]
    shown = cld("diff", NOTE, "--human", cwd=tmp_path).stdout.decode()
    assert '-    "text": "one"' in shown and '+    "text": "two"' in shown
    back = ok("diff", NOTE, "r2", kept[1]["version"][:8], cwd=tmp_path)
    assert '+    "text": "one"' in back["diff"]
    ok("restore", NOTE, "r1", cwd=tmp_path)
    now = ok("get", NOTE, cwd=tmp_path)
    assert (now["content"], now["revision"]) == ({"text": "one"}, 3)
    assert ok("get", NOTE, "--at", "r2", cwd=tmp_path)["content"] == {"text": "two"}


def test_a_name_of_several_versions_is_refused_with_all_of_them(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "zero"}', cwd=tmp_path)
    version = ok("put", NOTE, '{"text": "one"}', "--if-version", "*", cwd=tmp_path)["version"]
    file = tmp_path / f"resources/{NOTE}.json"
    file.write_text(file.read_text().replace("one", "two"))
    ok("put", NOTE, '{"text": "three"}', "--if-version", "*", cwd=tmp_path)
    both = cld("get", NOTE, "--at", "r2", cwd=tmp_path)
    assert both.returncode == 2
    assert version[:12].encode() in both.stderr
    assert ok("get", NOTE, "--at", version[:6], "--content", cwd=tmp_path) == {"text": "one"}


def test_a_deleted_resource_can_be_restored(tmp_path: Path) -> None:
    version = ok("put", NOTE, '{"text": "one"}', cwd=tmp_path)["version"]
    assert ok("rm", NOTE, cwd=tmp_path) == {"uri": NOTE, "deleted": 1}
    assert cld("get", NOTE, cwd=tmp_path).returncode == 3
    ok("restore", NOTE, version, cwd=tmp_path)
    assert ok("get", NOTE, "--content", cwd=tmp_path) == {"text": "one"}


def test_all_below_goes_only_when_said_so(tmp_path: Path) -> None:
    ok("put", "cld:common.Document.d", "{}", cwd=tmp_path)
    ok("put", "cld:common.Document.d/common.Text.t", '{"text": ""}', cwd=tmp_path)
    assert cld("rm", "cld:common.Document.d", cwd=tmp_path).returncode == 5
    assert ok("rm", "cld:common.Document.d", "-r", "-y", cwd=tmp_path)["deleted"] == 2


def test_somebody_without_rights_is_denied_and_sees_nothing(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "mine"}', cwd=tmp_path)
    stranger = {"CLD_PRINCIPAL": "user:stranger"}
    denied = cld("put", "cld:common.Text.theirs", '{"text": ""}', cwd=tmp_path, env=stranger)
    assert denied.returncode == 4
    assert b"user:stranger" in denied.stderr
    assert cld("get", NOTE, cwd=tmp_path, env=stranger).returncode == 3
    assert cld("history", NOTE, cwd=tmp_path, env=stranger).returncode == 3
    assert cld("ls", cwd=tmp_path, env=stranger).stdout == b""
    assert ok("tree", cwd=tmp_path, env=stranger)["below"] == []


def test_changes_stream_as_they_happen_whoever_makes_them(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "1"}', cwd=tmp_path)
    watching = subprocess.Popen(
        command("watch", "--type", "common.Text", "--count", "2", "--timeout", str(DEADLINE)),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout and watching.stderr
    with watching:
        assert b"watching cld:" in watching.stderr.readline()
        written = ok("put", "cld:common.Text.two", '{"text": "2"}', cwd=tmp_path)
        first = json.loads(watching.stdout.readline())
        (tmp_path / f"resources/{NOTE}.json").unlink()
        second = json.loads(watching.stdout.readline())
        assert watching.wait(DEADLINE) == 0
    assert (first["change"], first["uri"], first["version"]) == ("put", "cld:common.Text.two", written["version"])
    assert (second["change"], second["uri"]) == ("delete", NOTE)


def test_waiting_in_vain_and_an_interrupt_end_with_their_own_codes(tmp_path: Path) -> None:
    ok("put", NOTE, '{"text": "1"}', cwd=tmp_path)
    assert cld("watch", "--timeout", "0.1", cwd=tmp_path).returncode == 1
    watching = subprocess.Popen(
        command("watch"), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watching.stderr
    watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=DEADLINE)
    assert (watching.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    for number in range(3):
        ok("put", f"cld:common.Text.t{number}", '{"text": ""}', cwd=tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    for args in (("ls",), ("get", "cld:common.Text.t0"), ("--help",), ("--version",)):
        done = subprocess.run(
            command(*args), cwd=tmp_path, env=environment(tmp_path), stdout=writing, stderr=subprocess.PIPE
        )
        assert (done.returncode, done.stderr) == (141, b""), args
    os.close(writing)
