"""On a terminal: colour, questions, editing, and nothing from a resource that a terminal would obey."""

import io
import json
import os
from pathlib import Path

import pytest
from cli_process import Pty, cld, on_terminal

from cld.cli.terminal import Terminal, safe

NOTE = "cld:common.Text.note"
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\u200bexe\r\x08\x7f"


def put(tmp_path: Path, text: str = "hello", uri: str = NOTE) -> None:
    done = cld("put", uri, json.dumps({"text": text}), "--meta", f"purpose={text.replace(chr(0), '')}", cwd=tmp_path)
    assert done.returncode == 0, done


def test_people_get_colour_and_programs_get_json(tmp_path: Path) -> None:
    put(tmp_path)
    _, seen = on_terminal("get", NOTE, cwd=tmp_path)
    assert b"\x1b[1m" in seen and b'"text": "hello"' in seen
    piped = cld("get", NOTE, cwd=tmp_path).stdout
    assert b"\x1b" not in piped
    assert json.loads(piped)["content"] == {"text": "hello"}
    _, asked = on_terminal("get", NOTE, "--json", cwd=tmp_path)
    assert json.loads(asked)["content"] == {"text": "hello"}
    assert cld("get", NOTE, "--human", cwd=tmp_path).stdout.startswith(NOTE.encode())


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("json", "out", "err", "term", "shown"),
    [
        (False, Screen, Screen, "xterm", True),
        (True, Screen, Screen, "xterm", False),
        (False, io.StringIO, Screen, "xterm", False),
        (False, Screen, io.StringIO, "xterm", False),
        (False, Screen, Screen, "dumb", False),
    ],
)
def test_what_passes_is_for_people_at_terminals(
    json: bool, out: type[io.StringIO], err: type[io.StringIO], term: str, shown: bool
) -> None:
    told = err()
    made = Terminal(
        json=json, human=False, color=False, environment={"TERM": term}, out=out(), err=told, stdin=io.StringIO()
    )
    assert made.shows_passing == shown


def test_what_passes_has_one_line_and_gives_way_to_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "8")
    told = Screen()
    made = Terminal(
        json=False, human=True, color=False, environment={"TERM": "xterm"}, out=Screen(), err=told, stdin=Screen()
    )
    made.note("one")
    for text in ("long\ntext", "日本語です", "\x1b[2J"):
        made.passing(text, "a: ")
    made.note("two")
    made.question("?")
    assert told.getvalue() == "one\n\ra: text\x1b[K\ra: です\x1b[K\ra: b[2J\x1b[K\r\x1b[Ktwo\n? [y/N] "


@pytest.mark.parametrize(
    ("flags", "env"),
    [((), {"NO_COLOR": "1"}), (("--no-color",), {}), ((), {"TERM": "dumb"}), ((), {"TERM": ""})],
)
def test_colour_goes_when_it_is_not_wanted(tmp_path: Path, flags: tuple[str, ...], env: dict[str, str]) -> None:
    put(tmp_path)
    for args in (("get", NOTE), ("ls",), ("tree",), ("history", NOTE), ("get", "cld:common.Text.none"), ("install",)):
        _, seen = on_terminal(*args, *flags, cwd=tmp_path, env=env)
        assert b"\x1b" not in seen, args


def test_nothing_stored_reaches_a_terminal_as_a_command(tmp_path: Path) -> None:
    put(tmp_path, EVIL)
    (tmp_path / "resources/cld:common.Text.odd.json").write_bytes(b'{"content": {"a": "' + EVIL.encode() + b'"')
    done = cld("put", NOTE, json.dumps({"text": "two"}), "--if-version", "*", cwd=tmp_path)
    assert done.returncode == 0
    plain = {"NO_COLOR": "1"}
    for args in (
        ("get", NOTE, "--at", "r1"),
        ("get", NOTE, "--at", "r1", "--json"),
        ("get", NOTE, "--at", "r1", "--text"),
        ("get", NOTE, "--at", "r1", "--content"),
        ("get", "cld:common.Text.odd"),
        ("get", "cld:common.Text.\x1b[2J"),
        ("get", "cld:common.Text.\x9b2J", "--json"),
        ("ls",),
        ("tree",),
        ("history", NOTE),
        ("diff", NOTE),
    ):
        _, seen = on_terminal(*args, cwd=tmp_path, env=plain)
        text = seen.decode().replace("\r\n", "\n")
        assert safe(text) == text, args
    assert cld("get", NOTE, "--at", "r1", "--text", cwd=tmp_path).stdout.decode().rstrip("\n") == EVIL


def test_every_control_and_invisible_character_is_written_as_its_escape() -> None:
    assert safe("a\tb\nc") == "a\tb\nc"
    assert safe("\x1b\x00\x7f\x9b\u202e\u200b\ufeff\U000e0041\ud800") == (
        "\\u001b\\u0000\\u007f\\u009b\\u202e\\u200b\\ufeff\\udb40\\udc41\\ud800"
    )
    assert safe("grüße 日本 🎉 e\u0301") == "grüße 日本 🎉 e\u0301"


def test_deleting_a_tree_asks_first(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, uri=f"{NOTE}/common.Text.below")
    no = Pty(("rm", "-r", NOTE), tmp_path)
    no.until(b"[y/N]")
    no.send(b"n\n")
    assert no.end()[0] == 1
    assert cld("get", NOTE, cwd=tmp_path).returncode == 0
    yes = Pty(("rm", "-r", NOTE), tmp_path)
    yes.until(b"[y/N]")
    yes.send(b"y\n")
    code, seen = yes.end()
    assert code == 0 and b"2 resources" in seen
    assert cld("get", NOTE, cwd=tmp_path).returncode == 3


def test_an_edit_opens_the_content_and_saves_over_what_was_opened(tmp_path: Path) -> None:
    put(tmp_path)
    editor = script(tmp_path, 'sed -i s/hello/goodbye/ "$1"')
    code, seen = on_terminal("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor})
    assert code == 0 and b"revision 2" in seen
    code, seen = on_terminal("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor})
    assert code == 0 and b"nothing was changed" in seen
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "goodbye"}
    as_text = script(tmp_path, 'printf "only\\ntext\\n" > "$1"')
    on_terminal("put", NOTE, "--edit", "--text", cwd=tmp_path, env={"EDITOR": as_text})
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "only\ntext\n"}


def test_an_edit_creates_what_is_not_there(tmp_path: Path) -> None:
    editor = script(tmp_path, """printf '{"text": "new"}' > "$1" """)
    assert cld("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor}).returncode == 0
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "new"}


def test_an_edit_that_somebody_overtook_is_a_conflict_and_what_was_written_is_kept(tmp_path: Path) -> None:
    put(tmp_path)
    file = tmp_path / f"resources/{NOTE}.json"
    editor = script(tmp_path, f"sed -i s/hello/theirs/ '{file}'; sed -i s/hello/mine/ \"$1\"")
    done = cld("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor, "TMPDIR": str(tmp_path)})
    assert done.returncode == 5
    kept = Path(done.stderr.split(b"is kept in ")[1].splitlines()[0].decode())
    assert json.loads(kept.read_bytes()) == {"text": "mine"}
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "theirs"}


def test_an_edit_that_is_no_json_can_be_edited_again(tmp_path: Path) -> None:
    put(tmp_path)
    editor = script(
        tmp_path,
        'if [ -e tried ]; then printf \'{"text": "right"}\' > "$1"\n'
        'else touch tried; printf \'{\\n "a": }\' > "$1"; fi',
    )
    terminal = Pty(("put", NOTE, "--edit"), tmp_path, {"EDITOR": editor, "TMPDIR": str(tmp_path)})
    terminal.until(b"edit again? [y/N]")
    terminal.send(b"y\n")
    code, seen = terminal.end()
    assert code == 0 and b"line 2" in seen
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "right"}
    assert [path.name for path in tmp_path.glob("cld-edit-*")] == []


def test_an_interrupt_within_the_editor_is_the_editors(tmp_path: Path) -> None:
    put(tmp_path)
    editor = script(tmp_path, 'kill -INT $PPID; sed -i s/hello/goodbye/ "$1"')
    assert cld("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor}).returncode == 0
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "goodbye"}


def test_an_editor_that_fails_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path)
    for editor in (script(tmp_path, "exit 3"), "/nowhere/editor", "'unclosed"):
        done = cld("put", NOTE, "--edit", cwd=tmp_path, env={"EDITOR": editor})
        assert done.returncode == 2 and b"editor" in done.stderr
    assert json.loads(cld("get", NOTE, "--content", cwd=tmp_path).stdout) == {"text": "hello"}


def test_an_interrupt_at_a_question_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path)
    terminal = Pty(("rm", "-r", NOTE), tmp_path)
    terminal.until(b"[y/N]")
    terminal.send(b"\x03")
    assert terminal.end()[0] == 130
    assert cld("get", NOTE, cwd=tmp_path).returncode == 0


def test_a_server_started_by_hand_says_what_it_waits_for_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    terminal = Pty(("serve",), tmp_path)
    terminal.until(b"waiting for an MCP host")
    terminal.send(b"\x03")
    assert terminal.end()[0] in (0, 130)


def test_an_error_is_one_safe_line_with_indented_ones_below_or_one_object() -> None:
    for json_errors in (False, True):
        err = io.StringIO()
        terminal = Terminal(
            json=json_errors,
            human=False,
            color=True,
            environment=os.environ,
            out=io.StringIO(),
            err=err,
            stdin=io.StringIO(),
        )
        terminal.error("bad\n\x1b[2J", "code", {"uri": NOTE})
        assert all(line.startswith("  ") for line in err.getvalue().splitlines()[1:])
        assert "\x1b" not in err.getvalue()
    assert json.loads(err.getvalue()) == {"error": {"code": "code", "message": "bad\n\x1b[2J", "uri": NOTE}}


def script(tmp_path: Path, body: str) -> str:
    file = tmp_path / "editor.sh"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)
