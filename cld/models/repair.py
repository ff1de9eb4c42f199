"""JSON as models write it, in fences, with prose around it, with small faults: repaired where only one reading is left.

Nothing is invented: what was cut off, or can be read in two ways, is refused. Time is linear in the text.
"""

import re
from typing import Any

import msgspec

_FENCE = re.compile(r"^[ \t]*```([\w+-]*)[ \t]*$", re.MULTILINE)
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
_CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PIECE = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<space>\s+)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[-+.0-9][-+.0-9eE]*)
    |(?P<mark>[\[\]{}:,])""",
    re.DOTALL | re.VERBOSE,
)


class _Fault(ValueError):
    """What begins as an object or list is none; `at` is as far as it was read."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


def read_json(text: str) -> Any:
    """The one JSON value in `text`.

    Repaired are: a fence around it; prose before or behind an object or list; commas before a closing bracket;
    comments; Python's `True`, `False` and `None`; line breaks and tabs inside strings. Bare values need to stand
    alone.

    Raises:
        ValueError: saying where it stops being JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        fault = str(error)
    if thought := _THOUGHT.match(text):
        text = text[thought.end() :]
    fenced = _fenced(text)
    # Of several blocks none is known to be the one that was meant.
    if len(fenced) > 1:
        raise ValueError(f"it has {len(fenced)} fenced blocks where one JSON value was to be")
    body = (fenced[0] if fenced else text).strip()
    if body in _WORDS:
        return msgspec.json.decode(_WORDS[body])
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        begin = min((at for mark in "{[" if (at := body.find(mark)) >= 0), default=-1)
    if begin < 0:
        raise ValueError(f"it is no JSON: {fault}")
    value, end = _value(body, begin)
    while (begin := body.find(body[begin], end)) >= 0:
        try:
            other, end = _value(body, begin)
        except _Fault as none:
            end = max(none.at, begin + 1)
            continue
        if other != value:
            raise ValueError("it has more than one JSON value, and nothing says which one is meant")
    return value


def _fenced(text: str) -> list[str]:
    """What stands in fences."""
    blocks: list[str] = []
    begin: int | None = None
    for line in _FENCE.finditer(text):
        if begin is None:
            begin = line.end() + 1
        elif not line[1]:
            blocks.append(text[begin : line.start()])
            begin = None
    return blocks


def _value(text: str, at: int) -> tuple[Any, int]:
    """The object or list that begins at `at`, and where it ends.

    Raises:
        _Fault: it is none.
    """
    mended, end = _mended(text, at)
    try:
        return msgspec.json.decode(mended), end
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Fault(f"it is no JSON: {error}", end) from None


def _mended(text: str, at: int) -> tuple[str, int]:
    """The object or list that begins at `at`, with its small faults undone, and where it ends."""
    made: list[str] = []
    depth = 0
    while piece := _PIECE.match(text, at):
        at = piece.end()
        kind, part = piece.lastgroup, piece.group()
        if kind in ("comment", "space"):
            continue
        if kind == "word":
            part = _WORDS.get(part, part)
        elif kind == "string":
            for control, escaped in _CONTROLS.items():
                part = part.replace(control, escaped)
        elif part in "{[":
            depth += 1
        elif part in "}]":
            depth -= 1
            if made and made[-1] == ",":
                made.pop()
        made.append(part)
        if not depth:
            return "".join(made), at
    if at >= len(text):
        raise _Fault("it is cut off before its end", at)
    raise _Fault(f"it is no JSON: {text[at : at + 20]!r} at character {at + 1} does not belong there", at)
