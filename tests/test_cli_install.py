"""`cld install` writes a host's file so that everything in it stays, or says why it did not."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_process import cld, on_terminal

from cld.cli.hosts import HOSTS, Machine
from cld.cli.install import NotWritten, replace, write_entry

CURSOR = Path(".cursor/mcp.json")
ENTRY = {"command": "/usr/bin/python", "args": ["server.py"]}


def host(id: str) -> Any:
    return next(host for host in HOSTS if host.id == id)


def write(file: Path, host_id: str = "cursor") -> tuple[Path | None, bool]:
    return write_entry(file, host(host_id), "cld", ENTRY)


def test_without_write_it_shows_the_entry_and_touches_nothing(tmp_path: Path) -> None:
    done = cld("install", "cursor", "--root", "notes", cwd=tmp_path)
    entry = json.loads(done.stdout)["mcpServers"]["cld"]
    assert (done.returncode, done.stderr) == (0, b"")
    assert entry["command"] == sys.executable
    assert entry["args"][-2:] == ["--root", str(tmp_path / "notes")]
    assert all(Path(arg).is_absolute() for arg in entry["args"] if "/" in arg)
    assert list(tmp_path.iterdir()) == []


def test_flags_and_environment_that_a_host_would_not_set_are_written_into_the_entry(tmp_path: Path) -> None:
    done = cld(
        "install", "zed", "--policies", "rules", "--tools", "all", cwd=tmp_path, env={"CLD_PRINCIPAL": "user:ada"}
    )
    args = json.loads(done.stdout)["context_servers"]["cld"]["args"]
    assert args[args.index("--policies") + 1] == str(tmp_path / "rules")
    assert args[args.index("--tools") + 1] == "all"
    assert args[args.index("--principal") + 1] == "user:ada"


def test_the_command_shown_starts(tmp_path: Path) -> None:
    entry = json.loads(cld("install", "cursor", cwd=tmp_path).stdout)["mcpServers"]["cld"]
    program = Path(entry["args"][0])
    assert entry["args"][0] == "-m" or program.is_file()
    assert Path(entry["command"]).is_file()


def test_write_makes_the_file_and_the_second_time_changes_nothing(tmp_path: Path) -> None:
    first = json.loads(cld("install", "cursor", "--write", cwd=tmp_path).stdout)
    file = tmp_path / CURSOR
    data = file.read_bytes()
    second = json.loads(cld("install", "cursor", "--write", cwd=tmp_path).stdout)
    assert first == {"host": "cursor", "name": "cld", "file": str(file), "changed": True, "backup": None}
    assert second == {**first, "changed": False}
    assert file.read_bytes() == data
    assert [path.name for path in file.parent.iterdir()] == ["mcp.json"]


def test_the_scope_says_which_file_and_the_name_which_entry(tmp_path: Path) -> None:
    done = cld("install", "vscode", "--write", "--scope", "project", "--name", "notes", cwd=tmp_path)
    written = json.loads((tmp_path / ".vscode/mcp.json").read_text())
    assert done.returncode == 0
    assert written["servers"]["notes"]["type"] == "stdio"


def test_claude_code_keeps_its_user_settings_itself_so_the_command_is_shown(tmp_path: Path) -> None:
    done = cld("install", "claude-code", "--write", "--scope", "user", cwd=tmp_path)
    assert done.returncode == 2
    assert b"claude mcp add-json --scope user cld '{" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_jetbrains_lists_are_inside_the_ide_so_the_place_to_paste_is_shown(tmp_path: Path) -> None:
    code, seen = on_terminal("install", "jetbrains", cwd=tmp_path)
    assert code == 0
    assert b"Settings | Tools | AI Assistant" in seen
    assert b'"mcpServers"' in seen


def test_an_unknown_host_is_a_usage_error(tmp_path: Path) -> None:
    done = cld("install", "emacs", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_other_servers_stay_and_the_old_file_is_kept_beside(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    old = b'{"mcpServers": {"git": {"command": "g"}}, "x": 1}'
    file.write_bytes(old)
    file.chmod(0o640)
    backup, changed = write(file)
    assert changed and backup is not None
    assert backup.read_bytes() == old
    assert json.loads(file.read_bytes()) == {"mcpServers": {"git": {"command": "g"}, "cld": ENTRY}, "x": 1}
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_second_change_does_not_overwrite_the_first_backup(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text("{}")
    first, _ = write(file)
    file.write_text('{"a": 1}')
    second, _ = write(file)
    assert first is not None and first.read_text() == "{}"
    assert second is not None and second.read_text() == '{"a": 1}'


def test_what_the_host_saved_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"saved": "meanwhile"}')
    with pytest.raises(NotWritten, match="somebody else"):
        replace(file, b"{}", b"ours")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mcp.json", '{"saved": "meanwhile"}')]


def test_an_empty_file_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(b"")
    write(file)
    assert json.loads(file.read_bytes()) == {"mcpServers": {"cld": ENTRY}}
    file.write_bytes(b"\xef\xbb\xbf{}")
    write(file)
    assert file.read_bytes().startswith(b"\xef\xbb\xbf{")


def test_comments_stay_where_the_host_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{\n  // my theme\n  "theme": "One Dark", /* really */\n}\n')
    write(file, "zed")
    text = file.read_text()
    assert "// my theme" in text
    assert "/* really */" in text
    assert '"context_servers"' in text


@pytest.mark.parametrize(
    ("host_id", "old"),
    [
        ("cursor", b'{"mcpServers": {'),
        ("cursor", b"[]"),
        ("cursor", b"\xff\xfe{\x00}\x00"),
        ("claude-desktop", b'{"a": 1,}'),
        ("claude-desktop", b"{} // mine"),
    ],
)
def test_a_file_that_cannot_be_kept_is_left_as_it_is(tmp_path: Path, host_id: str, old: bytes) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(old)
    with pytest.raises(NotWritten, match="is left as it is"):
        write(file, host_id)
    assert file.read_bytes() == old
    assert list(tmp_path.iterdir()) == [file]


def test_a_broken_file_ends_in_an_error_and_the_entry_to_add_by_hand(tmp_path: Path) -> None:
    file = tmp_path / CURSOR
    file.parent.mkdir()
    file.write_text('{"mcpServers": }')
    done = cld("install", "cursor", "--write", cwd=tmp_path)
    assert done.returncode == 1
    assert b"line 1, column 16" in done.stderr
    assert "cld" in json.loads(done.stdout)["mcpServers"]


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "mcp.json").write_text("{}")
    file = tmp_path / "mcp.json"
    file.symlink_to(dotfiles / "mcp.json")
    write(file)
    assert file.is_symlink()
    assert "cld" in json.loads((dotfiles / "mcp.json").read_text())["mcpServers"]


def test_a_read_only_file_and_a_folder_in_its_place_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text("{}")
    file.chmod(0o444)
    with pytest.raises(NotWritten, match="read-only"):
        write(file)
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotWritten, match="no regular file"):
        write(tmp_path / "folder")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(NotWritten, match="cannot be written"):
        write(loop)
    assert file.read_text() == "{}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(NotWritten, match="cannot be written"):
        write(tmp_path / "mcp.json")


@pytest.mark.parametrize(
    ("platform", "host_id", "place"),
    [
        ("linux", "claude-desktop", "h/.config/Claude/claude_desktop_config.json"),
        ("macos", "claude-desktop", "h/Library/Application Support/Claude/claude_desktop_config.json"),
        ("windows", "claude-desktop", "h/AppData/Roaming/Claude/claude_desktop_config.json"),
        ("linux", "vscode", "h/.config/Code/User/mcp.json"),
        ("macos", "vscode", "h/Library/Application Support/Code/User/mcp.json"),
        ("windows", "vscode", "h/AppData/Roaming/Code/User/mcp.json"),
        ("linux", "zed", "h/.config/zed/settings.json"),
        ("macos", "zed", "h/.config/zed/settings.json"),
        ("windows", "zed", "h/AppData/Roaming/zed/settings.json"),
        ("macos", "windsurf", "h/.codeium/windsurf/mcp_config.json"),
        ("windows", "cursor", "h/.cursor/mcp.json"),
    ],
)
def test_each_platform_has_its_place(platform: Any, host_id: str, place: str) -> None:
    machine = Machine(platform=platform, home=Path("h"), project=Path("p"), environment={})
    assert host(host_id).file("user", machine) == Path(place)


def test_hosts_that_left_their_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / ".config/Claude").mkdir(parents=True)
    (tmp_path / ".cursor").mkdir()
    rows = json.loads(cld("install", cwd=tmp_path).stdout)["hosts"]
    assert {row["host"] for row in rows if row["found"]} == {"claude-desktop", "cursor"}
