"""How much a call may give: one rule for every tool, applied where the output is made and again where it is taken."""

import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from cld.tools import Result
from cld.types import Failure

MAX_LEVELS = 200
"""How deep data may nest; what nests near Python's own bound cannot be written where it has to go."""

MAX_ERROR = 4000
"""How much of what a failure says is taken, in characters."""

_CANCELLED = "cancelled"
"""What the journal says of a call that was stopped; a tool cannot say it of itself."""

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_NOTE = "\n… [cut: {kept} of {all} bytes; at most {most} are taken (tooling.output_bytes)]"


def limited(result: Result, most: int) -> Result:
    """`result` within `most` bytes: a text that is longer is cut with a note that says so, data never are.

    Half of a JSON document is none, and a program would take it for the whole; so data that are too large are a
    failure that tells how large they were. Where there are data, the text only repeats them, and gives way.
    What a failure says is short, and its code is a word.
    """
    if (error := result.error) is not None:
        code = error.code if _CODE.fullmatch(error.code) and error.code != _CANCELLED else "failed"
        result = Result(result.data, result.text, Failure(code, error.message[:MAX_ERROR]))
    if (fault := too_large(result.data, most)) is not None:
        said = f"the tool finished, but what it gave {fault}; ask it for less"
        return Result(error=Failure("output_too_large", said))
    text = result.text.encode(errors="replace")
    if len(text) <= most:
        return result
    room = most - len(_NOTE.format(kept=len(text), all=len(text), most=most).encode())
    kept = text[:room].decode(errors="ignore")
    note = _NOTE.format(kept=len(kept.encode()), all=len(text), most=most)
    return Result(result.data, kept + note, result.error)


def too_large(data: Any, most: int) -> str | None:
    """Why data cannot be taken, None if they can."""
    if nests_deeper(data, MAX_LEVELS):
        return f"nests deeper than {MAX_LEVELS} levels"
    size = 0 if data is None else len(msgspec.json.encode(data))
    return f"has {size} bytes and at most {most} are taken (tooling.output_bytes)" if size > most else None


def nests_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in one another deeper than that."""
    level: list[Any] = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += _within(cast("dict[Any, Any]", one).values())
            elif isinstance(one, list | tuple):
                inner += _within(cast("list[Any]", one))
        if not (level := inner):
            return False
    return True


def _within(values: Iterable[Any]) -> list[Any]:
    return [one for one in values if isinstance(one, dict | list | tuple)]
