"""What cld and its tool processes say to one another: one JSON object a line, over a socket of their own.

Words only. cld sends `Load` once, then `Run` for each call, and answers each `Nested` with `Answered`; a worker
answers `Load` with `Loaded` or `Broken`, and `Run` with any number of `Progress` and `Nested`, then `Done` or `Failed`.
All that is said of a call has its `call`, which cld makes anew for each, so that nothing left of one is taken for what
came of another.
"""

from typing import Any

import msgspec

from cld.types import Tool

OUT_OF_MEMORY = "out_of_memory"
"""The code of a failure after which the worker has none left for the next call."""


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load the file at `path`; `origin` is what its tools say they come from."""

    path: str
    origin: str
    options: dict[str, Any] = {}


class Run(msgspec.Struct, frozen=True, tag="run"):
    tool: str
    arguments: dict[str, Any]
    output_bytes: int
    call: str


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """What a nested call gave; `code` is empty when it succeeded."""

    data: Any = None
    text: str = ""
    code: str = ""
    call: str = ""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    tools: tuple[Tool, ...]
    digest: str


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The file gives no tools; `line` is 0 where none is known."""

    reason: str
    line: int = 0


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    text: str
    call: str


class Nested(msgspec.Struct, frozen=True, tag="nested"):
    tool: str
    arguments: dict[str, Any]
    call: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    data: Any = None
    text: str = ""
    call: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    code: str
    message: str
    call: str = ""


Order = Load | Run | Answered
Message = Loaded | Broken | Progress | Nested | Done | Failed
