"""How much a call may give: one rule for every tool, applied where the output is made and again where it is taken."""

import msgspec

from cld.tools import Result
from cld.types import Failure

_NOTE = "\n… [cut: {kept} of {all} bytes; at most {most} are taken (tooling.output_bytes)]"


def limited(result: Result, most: int) -> Result:
    """`result` within `most` bytes: a text that is longer is cut with a note that says so, data never are.

    Half of a JSON document is none, and a program would take it for the whole; so data that are too large are a
    failure that tells how large they were. Where there are data, the text only repeats them, and gives way.
    """
    size = 0 if result.data is None else len(msgspec.json.encode(result.data))
    if size > most:
        return Result(
            error=Failure(
                "output_too_large",
                f"the tool finished, but what it gave has {size} bytes and at most {most} are taken "
                "(tooling.output_bytes); ask it for less",
            )
        )
    text = result.text.encode(errors="replace")
    if len(text) <= most:
        return result
    room = most - len(_NOTE.format(kept=len(text), all=len(text), most=most).encode())
    kept = text[:room].decode(errors="ignore")
    note = _NOTE.format(kept=len(kept.encode()), all=len(text), most=most)
    return Result(result.data, kept + note, result.error)
