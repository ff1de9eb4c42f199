"""The scan: which files are taken, what is left out, and that no link leads out of the folder."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from cld.config import IngestLimits
from cld.ingest import files
from cld.ingest.files import Unreadable, read
from cld.ingest.ignore import ignore_of, ignored
from cld.ingest.scan import Scan, Selection, scan


def selection(**given: object) -> Selection:
    options = {"scope": "", "exclude": (), "avoid": frozenset(), "limits": IngestLimits(), "is_known": lambda _: False}
    return Selection(**{**options, **given})  # type: ignore[arg-type]


def put(folder: Path, *names: str, content: str = "words") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def sources(found: Scan) -> list[str]:
    return [one.source for one in found.found]


def test_what_is_not_for_reading_is_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.md", "b/c.txt", ".env", ".git/config", "CVS/Root", "x.png", "y.min.js", "node_modules/m/readme.md")
    put(tmp_path, "venv/pyvenv.cfg", "venv/lib/x.py", "b/__pycache__/c.pyc", ".cache/d/e.md")
    put(tmp_path, "empty.txt", content="")
    os.mkfifo(tmp_path / "pipe.txt")
    found = scan(str(tmp_path), selection())
    assert sources(found) == ["a.md", "b/c.txt"]
    assert found.skipped == {
        "hidden": 2,
        "version control": 2,
        "binary": 1,
        "generated": 4,
        "empty": 1,
        "no plain file": 1,
    }
    assert found.failed == []


def test_gitignore_is_read_as_git_reads_it(tmp_path: Path) -> None:
    put(tmp_path, "a.md", "build/b.md", "logs/c.txt", "logs/keep.txt", "sub/d.md", "sub/e.md", "sub/deep/f.md")
    (tmp_path / ".gitignore").write_text("# note\nbuild/\nlogs/*\n!logs/keep.txt\n/d.md\n")
    (tmp_path / "sub" / ".gitignore").write_text("e.md\ndeep\n")
    found = scan(str(tmp_path), selection())
    assert sources(found) == ["a.md", "logs/keep.txt", "sub/d.md"]
    assert found.skipped["ignored"] == 4
    # The patterns above a part count for the part.
    assert sources(scan(str(tmp_path), selection(scope="logs"))) == ["logs/keep.txt"]
    assert sources(scan(str(tmp_path), selection(exclude=["*.txt", "sub"]))) == ["a.md"]


@pytest.mark.timeout(20)
def test_a_pattern_made_to_take_for_ever_is_not_used(tmp_path: Path) -> None:
    put(tmp_path, "a" * 200 + ".md", "b.md")
    (tmp_path / ".gitignore").write_text("*a" * 60 + "b\nb.md\n[\n" + "x" * 10_000 + "\n")
    assert sources(scan(str(tmp_path), selection())) == ["a" * 200 + ".md"]


def test_of_many_patterns_the_first_thousand_count() -> None:
    one = ignore_of("", [f"f{n}" for n in range(2000)])
    assert one is not None and ignored([one], "f999", folder=False) and not ignored([one], "f1000", folder=False)


def test_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    put(outside, "secret.md", "more/secret.md")
    put(inside, "a.md")
    (inside / "file.md").symlink_to(outside / "secret.md")
    (inside / "folder").symlink_to(outside)
    (inside / ".gitignore").symlink_to(outside / "secret.md")
    found = scan(str(inside), selection())
    assert sources(found) == ["a.md"] and found.skipped == {"link": 3}
    with pytest.raises(OSError, match=r".*"):
        scan(str(inside), selection(scope="folder"))
    with pytest.raises(OSError, match=r".*"):
        scan(str(inside / "folder"), selection())


def test_a_file_that_became_a_link_since_the_scan_is_not_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    put(outside, "sub/a.md")
    put(inside, "sub/a.md", content="mine")
    assert read(str(inside), "sub/a.md", 100).data == b"mine"
    (inside / "sub" / "a.md").unlink()
    (inside / "sub" / "a.md").symlink_to(outside / "sub" / "a.md")
    with pytest.raises(Unreadable, match="links are not followed"):
        read(str(inside), "sub/a.md", 100)
    (inside / "sub" / "a.md").unlink()
    (inside / "sub").rmdir()
    (inside / "sub").symlink_to(outside / "sub")
    with pytest.raises(Unreadable, match="links are not followed"):
        read(str(inside), "sub/a.md", 100)
    inside.rename(tmp_path / "was")
    inside.symlink_to(outside)
    with pytest.raises(Unreadable, match="links are not followed"):
        read(str(inside), "sub/a.md", 100)


@pytest.mark.parametrize("path", ["../out/a.md", "sub/../../out/a.md", "/etc/hostname", "sub//a.md", "./a.md"])
def test_only_plain_paths_are_opened(tmp_path: Path, path: str) -> None:
    put(tmp_path, "out/a.md", "in/sub/a.md", "in/a.md")
    with pytest.raises(Unreadable, match="cannot be read"):
        read(str(tmp_path / "in"), path, 100)


@pytest.mark.timeout(20)
def test_a_pipe_put_where_a_file_was_does_not_hold_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.md")
    with pytest.raises(Unreadable, match="no plain file"):
        read(str(tmp_path), "a.md", 100)


def test_a_file_that_grew_since_the_scan_is_not_read_past_the_bound(tmp_path: Path) -> None:
    put(tmp_path, "a.md", content="x" * 101)
    with pytest.raises(Unreadable, match="has 101 bytes; at most 100"):
        read(str(tmp_path), "a.md", 100)


def test_sockets_and_devices_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.md")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "b.md"))
        expected = 1
        with contextlib.suppress(PermissionError):  # only root makes devices
            os.mknod(tmp_path / "c.md", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            expected = 2
        found = scan(str(tmp_path), selection())
        assert sources(found) == ["a.md"] and found.skipped == {"no plain file": expected}
        for name in ("b.md", "c.md")[:expected]:
            with pytest.raises(Unreadable, match=r"no plain file|cannot be read"):
                read(str(tmp_path), name, 100)


def test_a_file_that_is_written_to_all_the_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.md", content="x")
    whole = files._read
    writes = 0

    def while_written(fd: int, most: int) -> bytes:
        nonlocal writes
        data = whole(fd, most)
        if writes < stop:
            writes += 1
            with (tmp_path / "a.md").open("a") as file:
                file.write("x")
        return data

    monkeypatch.setattr(files, "_read", while_written)
    stop = 1000
    with pytest.raises(Unreadable, match="being written to"):
        read(str(tmp_path), "a.md", 100)
    assert writes < 10
    stop = writes + 1
    assert read(str(tmp_path), "a.md", 100).data == b"x" * (stop + 1), "what stands still again is read whole"


def test_a_name_that_is_no_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("words")
    put(tmp_path, "b.md")
    found = scan(str(tmp_path), selection())
    assert sources(found) == ["b.md"]
    assert [(one.path, one.reason) for one in found.failed] == [("caf\\udce9.md", "its name is no UTF-8; rename it")]


def test_folders_nested_too_deep_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "1/2/3/4/a.md", "1/b.md")
    found = scan(str(tmp_path), selection(limits=IngestLimits(depth=2)))
    assert sources(found) == ["1/b.md"] and "nest deeper than 2" in found.failed[0].reason


def test_no_more_files_than_allowed_are_taken(tmp_path: Path) -> None:
    put(tmp_path, "a.md", "b.md", "c.md")
    found = scan(str(tmp_path), selection(limits=IngestLimits(files=2)))
    assert sources(found) == ["a.md", "b.md"] and found.skipped == {"more than 2 files": 1}
