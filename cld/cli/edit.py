"""Editing content in the person's own editor; what they wrote is never lost."""

import os
import shlex
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
    kept = False
    try:
        while True:
            _run_editor(file)
            data = file.read_bytes()
            if data == before:
                return None
            try:
                return await save(_to_content(data, content, as_text, file))
            except CldError as error:
                if terminal.can_ask:
                    terminal.error(str(error), error.code, error.details())
                    if terminal.confirm("edit again?"):
                        continue
                kept = True
                terminal.note(f"what you wrote is kept in {file}")
                raise
    finally:
        if not kept:
            file.unlink(missing_ok=True)
            _remove(folder)


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
    try:
        # Blocks on purpose: nothing else runs while the person writes.
        done = subprocess.run([*shlex.split(editor), str(file)], check=False)  # noqa: S603 - the person's own editor
    except (OSError, ValueError) as error:
        raise ConfigError(f"the editor {editor!r} cannot be started: {error}; set VISUAL or EDITOR") from error
    if done.returncode != 0:
        raise ConfigError(f"the editor {editor!r} ended with {done.returncode}; nothing was changed")


def _remove(folder: Path) -> None:
    for left in folder.iterdir():  # editors leave backups
        left.unlink()
    folder.rmdir()
