"""Tools: what can be called, and the sources it comes from.

This module holds the words. A source brings tools and runs them: Python files (`cld.tools.python`), other MCP
servers (`cld.tools.servers`), and cld's own tools, which the server brings. `cld.tools.calling` is the one way
to call any of them: it checks arguments, asks policy, and bounds rate, time and size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from cld.errors import ApprovalRequired
from cld.principal import Principal
from cld.types import Failure, Grant, Made, Tool


class Result(msgspec.Struct, frozen=True):
    """What a call gave: `data` for programs, `text` for models and people; or why it failed, for a model to act on."""

    data: Any = None
    text: str = ""
    error: Failure | None = None


MOST_MADE = 200_000
"""How many bytes of what was made are kept for a call to begin again with."""

NOT_MADE = frozenset({"invalid_argument", "unknown_tool", "rate_limited", "too_deep"})
"""The codes of calls that were refused before anything ran."""


class Begun:
    """What was agreed to and done already of the calls that a call makes itself, when it is begun once more.

    They are made one after another, so what is made within one of them ends before it does.
    """

    def __init__(self, granted: Sequence[Grant] = (), made: Sequence[Made] = ()) -> None:
        self.granted = list(granted)
        """What was not made use of yet."""
        self._before = list(made)
        self._made: list[Made] = []

    @property
    def made(self) -> tuple[Made, ...]:
        """What is over by now, and is not to be made again; of what was made within one of these nothing."""
        return (*self._made, *self._before)

    def grant(self, tool: str, arguments: Mapping[str, Any]) -> Grant | None:
        """A person's agreement to this very call; each is for one."""
        for place, grant in enumerate(self.granted):
            if grant.tool == tool and _is_same(grant.arguments, arguments):
                del self.granted[place]
                return grant
        return None

    def before(self, tool: str, arguments: Mapping[str, Any], depth: int) -> Made | None:
        """What came of this very call before."""
        for place, made in enumerate(self._before):
            if (made.tool, made.depth) == (tool, depth) and _is_same(made.arguments, arguments):
                del self._before[place]
                self._made.append(made)
                return made
        return None

    @property
    def is_small(self) -> bool:
        """Whether what was made can be kept, so that the call can begin again."""
        return len(msgspec.json.encode(self.made)) <= MOST_MADE

    def over(self, made: Made) -> None:
        """Keep what came of a call that ran, in place of what was made within it."""
        if made.error is not None and made.error.code in NOT_MADE:
            return
        while self._made and self._made[-1].depth > made.depth:
            self._made.pop()
        self._made.append(made)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # As JSON: for Python 1, 1.0 and True are the same.
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


class NestedApprovalRequired(ApprovalRequired):
    """A call that a tool made needs a person's approval; what was running around it has ended, as far as `begun`."""

    def __init__(self, needed: ApprovalRequired, tool: str, arguments: Mapping[str, Any], begun: Begun) -> None:
        super().__init__(needed.action, needed.uri, needed.obligation)
        self.tool = tool
        self.arguments = dict(arguments)
        self.begun = begun


@dataclass(frozen=True)
class Caller:
    """Who calls, for which task (its URI, empty for none), and whether a person has approved of this very call.

    `depth` is how many calls of tools this one is made within, which wait for it. `begun` is for callers that can
    begin a call again with a person's answer to what it calls; a tool of any other is told of the refusal.
    """

    principal: Principal
    task: str = ""
    host: str = ""
    approved: bool = False
    depth: int = 0
    begun: Begun | None = None


OnProgress = Callable[[str], None]
"""Told what a call says of how far it is."""


class Source(Protocol):
    """Brings tools and runs them."""

    def tools(self) -> Sequence[Tool]:
        """The tools there are now, in a stable order; each name once."""
        ...

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        """Run one of its tools. Policy has allowed it and the arguments fit.

        When it is cancelled, what was started has ended before it returns, processes included.

        Raises:
            ApprovalRequired: what the tool does needs a person's approval; nothing was done yet.
            NestedApprovalRequired: a call that it makes does, and it was ended before that.
            CldError: whatever else failed.
        """
        ...

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` when `tools` changed; the function returned ends that."""
        ...

    def problems(self) -> Sequence[str]:
        """What is wrong with it right now, in words: a file that cannot be loaded, a server that does not start."""
        ...

    async def aclose(self) -> None:
        """End everything it runs."""
        ...
