"""What an assistant is given to work a task, and what it hands back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from cld.journal import Journal
from cld.models import Model, OnText
from cld.purse import Purse
from cld.resource import Meta
from cld.tools import Caller, OnProgress, Result
from cld.types import Assistant, Source, Task, Tool, Usage, Waiting
from cld.uri import URI


class CallsTools(Protocol):
    """The one way to call tools: `cld.tools.calling.Calling`."""

    @property
    def output_bytes(self) -> int: ...

    def offered(self, caller: Caller) -> Sequence[Tool]: ...

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result: ...

    async def admit(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller) -> Result | None: ...


@dataclass(frozen=True)
class Job:
    """A claimed task and all that working it needs; `context` is what the tree has to say about it.

    `model` spends from the purse by itself; `held` names what it set aside last.
    """

    uri: URI
    task: Task
    meta: Meta
    assistant: Assistant
    character: Meta
    caller: Caller
    journal: Journal
    model: Model
    calling: CallsTools
    purse: Purse
    context: str
    fence: int
    iterations: int
    approval_seconds: float
    on_text: OnText | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)
    held: Callable[[], str] = field(default=lambda: "")


class Done(msgspec.Struct, frozen=True):
    """What came of a task, what that rests on, and what all of it cost."""

    output: Any
    sources: tuple[Source, ...]
    usage: Usage


class Parked(Exception):
    """The task cannot go on before something has come: a person's word, or a client's results."""

    def __init__(self, waiting: Waiting, until: str, usage: Usage) -> None:
        super().__init__(f"waiting for {waiting}")
        self.waiting: Waiting = waiting
        self.until = until
        self.usage = usage


def delta(whole: Usage, before: Usage) -> Usage:
    """What came to `before` to make it `whole`; never negative."""
    return Usage(
        tokens=max(0, whole.tokens - before.tokens),
        money=max(0.0, whole.money - before.money),
        calls=max(0, whole.calls - before.calls),
        requests=max(0, whole.requests - before.requests),
    )
