"""Tools: what can be called, and the sources it comes from.

This module holds the words. A source brings tools and runs them: Python files (`cld.tools.python`), other MCP
servers (`cld.tools.servers`), and cld's own tools, which the server brings. `cld.tools.calling` is the one way
to call any of them: it checks arguments, asks policy, and bounds rate, time and size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from cld.principal import Principal
from cld.types import Failure, Tool


class Result(msgspec.Struct, frozen=True):
    """What a call gave: `data` for programs, `text` for models and people; or why it failed, for a model to act on."""

    data: Any = None
    text: str = ""
    error: Failure | None = None


@dataclass(frozen=True)
class Caller:
    """Who calls, for which task (its URI, empty for none), and whether a person has approved of this very call.

    `depth` is how many calls of tools this one is made within, which wait for it.
    """

    principal: Principal
    task: str = ""
    host: str = ""
    approved: bool = False
    depth: int = 0


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
