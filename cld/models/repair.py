"""JSON as models write it, in fences, with prose around it, with small faults: repaired where only one reading is left.

Nothing is invented: what was cut off, or can be read in two ways, is refused. Time is linear in the text.
"""

import re
from typing import Any

import msgspec

_FENCE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
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
    fenced = _FENCE.findall(text)
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
    try:
        return msgspec.json.decode(_mended(body, begin))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None


def _mended(text: str, at: int) -> str:
    """The object or list that begins at `at`, with its small faults undone."""
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
            return "".join(made)
    if at >= len(text):
        raise ValueError("it is cut off before its end")
    raise ValueError(f"it is no JSON: {text[at : at + 20]!r} at character {at + 1} does not belong there")
