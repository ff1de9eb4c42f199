"""`cld install`: connects a host to this tree, by showing the entry or by writing it into the host's file.

Writing keeps everything that is in the file, replaces it in one step, and leaves a copy of what was
there beside it. Where that cannot be promised nothing is written and the entry is shown instead.
"""

import contextlib
import json
import os
import shlex
import stat
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import cld
from cld.cli.exits import ERROR, OK, USAGE
from cld.cli.hosts import HOSTS, Host, Machine, Scope, hosts_here, this_machine
from cld.cli.jsonc import CannotEdit, merge
from cld.cli.terminal import Terminal
from cld.config import Settings
from cld.errors import CldError


class NotWritten(CldError):
    """The host's file was left as it is."""

    code = "not_written"


def install(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Show or write the entry of a host; without a host, say which there are."""
    machine = this_machine()
    if arguments.host is None:
        return _overview(machine, terminal)
    host = next(host for host in HOSTS if host.id == arguments.host)
    scope: Scope = arguments.scope or host.default_scope
    command, args = start_command(settings)
    entry = host.entry(command, args)
    file = host.file(scope, machine)
    if not arguments.write:
        _show(host, arguments.name, entry, file, scope, terminal)
        return OK
    if file is None:
        terminal.error(
            f"nothing is written for {host.title}, scope {scope}: {_by_hand(host, arguments.name, entry)}",
            NotWritten.code,
            {"host": host.id, "entry": entry},
        )
        return USAGE
    try:
        backup, changed = write_entry(file, host, arguments.name, entry)
    except NotWritten as error:
        # stdout stays the snippet, so that it can be pasted by hand.
        terminal.error(f"{error}; add this by hand:", error.code, {"host": host.id, "file": str(file), "entry": entry})
        terminal.line(terminal.style(snippet(host, arguments.name, entry)))
        return ERROR
    _report(host, arguments.name, file, backup, changed, terminal)
    return OK


def start_command(settings: Settings) -> tuple[str, list[str]]:
    """Program and arguments that start this tree's server from any folder, all paths absolute.

    What was set by flag or environment for this command is written into the arguments: a host
    starts the server without either.
    """
    root = str(settings.root_path) if settings.is_local else settings.root
    server = Path(cld.__file__).absolute().parent.parent / "server.py"
    args = [str(server)] if server.is_file() else ["-m", "cld.cli", "serve"]
    args += ["--root", root]
    if settings.policies:
        args += ["--policies", str(settings.policies_path)]
    plain = Settings()
    if settings.principal != plain.principal:
        args += ["--principal", settings.principal]
    if settings.tools != plain.tools:
        args += ["--tools", settings.tools]
    # Not resolved: in a virtual environment the link is what makes its packages visible.
    return str(Path(sys.executable).absolute()), args


def snippet(host: Host, name: str, entry: dict[str, Any]) -> str:
    """The entry as it stands in the host's file."""
    return json.dumps({host.servers_key: {name: entry}}, indent=2, ensure_ascii=False)


def write_entry(file: Path, host: Host, name: str, entry: dict[str, Any]) -> tuple[Path | None, bool]:
    """Merge the entry into the host's file; the copy made of the old file, and whether anything changed.

    A link is followed, so that settings kept elsewhere stay linked. Members of an entry that cld does
    not write (`env`, `disabled`, …) stay.

    Raises:
        NotWritten: when the file cannot be kept safely as it is; it is then untouched.
    """
    try:
        real = file.resolve()
        if real.exists() and not real.is_file():
            raise NotWritten(f"{file} is no regular file")
        old = real.read_bytes() if real.exists() else None
        if old is not None and not real.stat().st_mode & 0o222:
            raise NotWritten(f"{file} is read-only")
        text, bom = _decode(old or b"", file)
        new = merge(text, (host.servers_key, name), entry, comments=host.comments)
        if old is not None and new == text:
            return None, False
        data = (b"\xef\xbb\xbf" if bom else b"") + new.encode()
        return replace(real, old, data), True
    except CannotEdit as error:
        raise NotWritten(f"{file} is left as it is: {error}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise NotWritten(f"{file} cannot be written: {error}") from error


def _decode(data: bytes, file: Path) -> tuple[str, bool]:
    bom = data.startswith(b"\xef\xbb\xbf")
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), bom
    except UnicodeDecodeError as error:
        raise NotWritten(
            f"{file} is left as it is: it is no UTF-8 text ({error.reason} at byte {error.start})"
        ) from None


def replace(file: Path, old: bytes | None, data: bytes) -> Path | None:
    """Put `data` in the place of `old` in one step; the copy of what was there, if there was something.

    Raises:
        NotWritten: something else than `old` is there by now.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.cld")
    mode = 0o600 if old is None else stat.S_IMODE(file.stat().st_mode)
    try:
        _write(fresh, data, mode)
        backup = None
        if old is not None:
            backup = _free_name(file)
            _write(backup, old, mode)
            # The host may have saved in the meantime; its word counts, not ours.
            if file.read_bytes() != old:
                backup.unlink()
                raise NotWritten(f"{file} was changed by somebody else just now; try again")
        fresh.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
    return backup


def _write(file: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    file.chmod(mode)


def _free_name(file: Path) -> Path:
    number = 1
    while True:
        name = f"{file.name}.before-cld" + (f"-{number}" if number > 1 else "")
        if not (found := file.with_name(name)).exists():
            return found
        number += 1


def _by_hand(host: Host, name: str, entry: dict[str, Any]) -> str:
    if not host.by_hand:
        scopes = "project" if host.project else "user"
        return f"it has no such scope; use --scope {scopes}"
    return host.by_hand.format(name=shlex.quote(name), entry=shlex.quote(json.dumps(entry, ensure_ascii=False)))


def _show(host: Host, name: str, entry: dict[str, Any], file: Path | None, scope: Scope, terminal: Terminal) -> None:
    if not terminal.human:
        terminal.document({host.servers_key: {name: entry}})
        return
    if file is None:
        terminal.line(terminal.style(f"{host.title}, scope {scope}: {_by_hand(host, name, entry)}", "bold"))
    else:
        terminal.line(terminal.style(f"{host.title} reads {file}; it should hold", "bold"))
    terminal.line(terminal.style(snippet(host, name, entry)))
    if file is not None:
        terminal.line(terminal.style(f"Write it there with: cld install {host.id} --scope {scope} --write", "dim"))
    terminal.line(terminal.style(host.next_step, "dim"))


def _report(host: Host, name: str, file: Path, backup: Path | None, changed: bool, terminal: Terminal) -> None:
    if not terminal.human:
        terminal.document(
            {
                "host": host.id,
                "name": name,
                "file": str(file),
                "changed": changed,
                "backup": None if backup is None else str(backup),
            }
        )
        return
    if not changed:
        terminal.line(terminal.style(f"{file} has {name} already; nothing changed"))
        return
    terminal.line(terminal.style(f"wrote {name} into {file}", "green"))
    if backup is not None:
        terminal.line(terminal.style(f"what was there before is in {backup}", "dim"))
    terminal.line(terminal.style(host.next_step))


def _overview(machine: Machine, terminal: Terminal) -> int:
    here = {host.id for host in hosts_here(machine)}
    rows = [
        {
            "host": host.id,
            "title": host.title,
            "found": host.id in here,
            "files": [str(file) for scope in ("user", "project") if (file := host.file(scope, machine)) is not None],
        }
        for host in HOSTS
    ]
    if not terminal.human:
        terminal.document({"hosts": rows})
        return OK
    for host, row in zip(HOSTS, rows, strict=True):
        mark = terminal.style("found", "green") if row["found"] else "     "
        scopes = " or ".join(scope for scope in ("user", "project") if host.file(scope, machine)) or "by hand"
        terminal.line(f"{mark}  {host.id:<15} {host.title} ({scopes})")
    terminal.line(terminal.style("Show what to add with: cld install <host>; let cld add it: --write", "dim"))
    return OK
