"""`cld ingest` as people run it: on a terminal with a bar, into a pipe as JSON."""

import json
from pathlib import Path

import pytest
from cli_process import Pty, cld

from cld.config import load_settings
from cld.errors import ConfigError


def put(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)


def test_files_become_documents_and_a_second_time_nothing_is_done(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="# A\n\nwords", b="# B\n\nother words")
    done = cld("ingest", "docs", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert (report["added"], report["failed"], len(report["roots"])) == (2, [], 1)
    listed = cld("ls", report["roots"][0], "--json", cwd=tmp_path)
    assert b"common.Document.a-md-" in listed.stdout and b"common.Document.b-md-" in listed.stdout
    again = json.loads(cld("ingest", "docs", "--json", cwd=tmp_path).stdout)
    assert (again["unchanged"], again["added"], again["passages_put"]) == (2, 0, 0)


def test_a_broken_file_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="words")
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"%PDF-1.4 no more")
    done = cld("ingest", "docs", "--human", cwd=tmp_path)
    assert done.returncode == 1
    out = done.stdout.decode()
    assert "broken.pdf: it cannot be read as application/pdf" in out and "1 added, 1 failed" in out


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = cld("ingest", "missing", cwd=tmp_path)
    assert done.returncode == 1 and b"it cannot be found" in done.stdout


def test_the_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="words", b="many more words")
    (tmp_path / "cld.toml").write_text("[ingest]\nfile_bytes = 10\n")
    report = json.loads(cld("ingest", "docs", "--json", cwd=tmp_path).stdout)
    assert report["added"] == 1
    assert [one["reason"] for one in report["failed"]] == ["it has 15 bytes; at most 10 are taken (ingest.file_bytes)"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("seconds = 0", "- at `$.ingest.seconds`"),
        ("seconds = inf", "- at `$.ingest.seconds`"),
        ("memory_bytes = 1000", "`int` >= 268435456 - at `$.ingest.memory_bytes`"),
        ("file_bytes = '64 MB'", "Expected `int`, got `str` - at `$.ingest.file_bytes`"),
        ("passages = -1", "- at `$.ingest.passages`"),
        ("depth = 100000", "- at `$.ingest.depth`"),
        ("file_byte = 1", "unknown field `file_byte` - at `$.ingest`"),
        ("roots = ['docs']", "sets ingest.roots to 'docs'; write whole paths"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_named(tmp_path: Path, written: str, said: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f"[ingest]\n{written}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({"root": str(tmp_path / "tree")}, {"CLD_CONFIG": str(own)})
    assert said in str(caught.value) and str(own) in str(caught.value)


def test_a_home_that_does_not_exist_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[ingest]\nroots = ['~no-such-person/docs']\n")
    with pytest.raises(ConfigError, match="~no-such-person/docs' is no path"):
        load_settings({"root": str(tmp_path / "tree")}, {"CLD_CONFIG": str(own)})


def test_patterns_given_leave_files_out(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="words", b="words")
    report = json.loads(cld("ingest", "docs", "--json", "--exclude", "b*", cwd=tmp_path).stdout)
    assert report["added"] == 1 and report["skipped"] == {"ignored": 1}


def test_the_tree_beside_the_files_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="words")
    for _ in range(2):
        report = json.loads(cld("ingest", ".", "--json", cwd=tmp_path).stdout)
    assert report["skipped"]["the tree itself"] == 1 and report["unchanged"] == 1


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_goes(tmp_path: Path) -> None:
    put(tmp_path / "docs", a="words", b="words", **{"\x1b]0;evil\x07": "words"})
    pty = Pty(("ingest", "docs"), tmp_path)
    code, seen = pty.end()
    assert code == 0
    assert b"] 3/3 " in seen and b"########################" in seen
    assert b"\r\x1b[K" in seen and seen.rindex(b"\r\x1b[K") < seen.index(b"3 added")
    assert b"\x1b]0;" not in seen, "a file's name does nothing to the terminal"
