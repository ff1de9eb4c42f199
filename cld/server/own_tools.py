"""cld's own tools as assistants call them: the same handlers as for hosts, for whoever a task acts for.

What needs a person's approval is asked by the task that waits, and not here. Tools that begin or steer work,
and that say how it is done, are for those who asked for it, and are not among them.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from cld.guard import GuardedStore
from cld.policy import Context
from cld.principal import Principal
from cld.runtime import Runtime
from cld.server.call import About, Call
from cld.server.registry import Tool as Served
from cld.tools import Caller, OnProgress, Result
from cld.types import Annotations, Tool

NOT_FOR_TASKS = frozenset(
    {"events_wait", "plan", "task_update", "task_cancel", "approve", "task_branch", "task_compare", "model_status"}
)


class TaskCall(Call):
    """A call within a task: there is no client to report to and nobody to ask."""

    def __init__(self, runtime: Runtime, principal: Principal, context: Context, *, approved: bool) -> None:
        # Not of the base, which reads the request of a client; there is none.
        self.runtime = runtime
        self.principal = principal
        self.context = context
        self._approved = approved

    @property
    def store(self) -> GuardedStore:
        return self.runtime.store(self.principal, self.context, approved=self._approved)

    @property
    def can_ask(self) -> bool:
        return False

    async def agreed(self, question: str, about: About = "change") -> bool | None:
        return True if self._approved else None

    async def report(self, done: float, total: float | None, message: str) -> None:
        """Nobody to report to."""

    @asynccontextmanager
    async def progressing(self, doing: str) -> AsyncGenerator[None]:
        yield


class OwnTools:
    """Implements `cld.tools.Source` over the tools that the server has for hosts."""

    def __init__(self, runtime: Runtime, tools: Sequence[Served]) -> None:
        self._runtime = runtime
        self._served = {tool.name: tool for tool in tools if tool.name not in NOT_FOR_TASKS}
        self._tools = tuple(map(_described, self._served.values()))

    def tools(self) -> Sequence[Tool]:
        return self._tools

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        """As `Source.call`; each access to a resource is decided again, for the caller and all it acts for."""
        served = self._served[tool.name]
        context = Context(
            tool=tool.name,
            arguments=arguments,
            task=caller.task,
            host=caller.host,
            destructive=tool.annotations.destructive,
        )
        call = TaskCall(self._runtime, caller.principal, context, approved=caller.approved)
        reply = await served.handle(call, served.parse(arguments))
        return Result(data=None if reply.data is None else dict(reply.data), text=reply.text)

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def problems(self) -> Sequence[str]:
        return ()

    async def aclose(self) -> None:
        """Nothing of it runs by itself."""


def _described(tool: Served) -> Tool:
    hints = tool.annotations
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=cast("dict[str, Any]", tool.input_schema),
        annotations=Annotations(hints.read_only, hints.destructive, hints.idempotent, hints.open_world),
        origin="cld",
    )
