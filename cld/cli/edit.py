"""Editing content in the person's own editor; what they wrote is never lost."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from cld.cli.content import parse_content
from cld.cli.terminal import Terminal
from cld.errors import CldError, ConfigError
from cld.store import Stored


async def edit(
    content: dict[str, Any],
    *,
    as_text: bool,
    terminal: Terminal,
    save: Callable[[dict[str, Any]], Awaitable[Stored]],
) -> Stored | None:
    """Open `content` (or its text) in the editor and save what comes back; None when nothing was changed.

    When saving fails and the person does not want to edit on, what they wrote stays in its file,
    which is named on standard error.

    Raises:
        CldError: whatever `save` raised, or content that is no JSON object.
        ConfigError: there is no editor, or it failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="cld-edit-"))
    file = folder / ("content.md" if as_text else "content.json")
    before = _to_bytes(content, as_text)
    file.write_bytes(before)
    try:
        while True:
            _run_editor(file)
            data = file.read_bytes()
            if data == before:
                stored = None
                break
            try:
                stored = await save(_to_content(data, content, as_text, file))
                break
            except CldError as error:
                if not terminal.can_ask:
                    raise
                terminal.error(str(error), error.code, error.details())
                if not terminal.confirm("edit again?"):
                    raise
    except BaseException:  # an interrupt too must not cost what was written
        if file.exists() and file.read_bytes() != before:
            terminal.note(f"what you wrote is kept in {file}")
        else:
            _remove(folder)
        raise
    _remove(folder)
    return stored


def _to_bytes(content: dict[str, Any], as_text: bool) -> bytes:
    if as_text:
        text = content.get("text", "")
        if not isinstance(text, str):
            raise ConfigError("content.text is no text; edit it without --text")
        return text.encode()
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _to_content(data: bytes, content: dict[str, Any], as_text: bool, file: Path) -> dict[str, Any]:
    if as_text:
        return {**content, "text": data.decode("utf-8", "replace")}
    return parse_content(data, str(file))


def _run_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    # Ctrl-C in the editor is the editor's: it must not end this process, which holds the way back.
    # A handler and not SIG_IGN, because the editor would inherit that.
    interrupted = signal.signal(signal.SIGINT, _ignore)
    try:
        # Blocks on purpose: nothing else runs while the person writes.
        done = subprocess.run([*shlex.split(editor), str(file)], check=False)  # noqa: S603 - the person's own editor
    except (OSError, ValueError) as error:
        raise ConfigError(f"the editor {editor!r} cannot be started: {error}; set VISUAL or EDITOR") from error
    finally:
        signal.signal(signal.SIGINT, interrupted)
    if done.returncode != 0:
        raise ConfigError(f"the editor {editor!r} ended with {done.returncode}; nothing was changed")


def _ignore(number: int, frame: object) -> None:
    """A signal that somebody else answers."""


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # editors leave backups beside the file
