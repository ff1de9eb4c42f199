"""How a Python function says that it is a tool: `@tool`, and what it is given while it runs.

For people who write tools, so it stays small and light; it must not know how tools are run. What a declaration
means for schemas is `cld.tools.schema_of`'s to say.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from cld.types import Annotations

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

MARK = "__cld_tool__"


class ToolError(Exception):
    """Raised by a tool to say in its own words why it cannot do what it was called for; shown to who called.

    Raised by `ToolContext.call` too. `code` is for programs.
    """

    def __init__(self, message: str, *, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class Channel(Protocol):
    """What a running tool talks to cld through."""

    def progress(self, text: str) -> None: ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any: ...

    def acall(self, name: str, arguments: Mapping[str, Any]) -> Awaitable[Any]: ...


class ToolContext:
    """What a tool is given for the parameter annotated with this type; no part of what callers see.

    `options` is what the settings say to the tools that come with cld.
    """

    def __init__(self, channel: Channel, options: Mapping[str, Any]) -> None:
        self._channel = channel
        self.options = options

    def progress(self, text: str) -> None:
        """Say how far the call is."""
        self._channel.progress(text)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call another tool as whoever called this one, and wait; gives its data, or its text where it has none.

        Policy decides it like any other call; that a person approved of this one says nothing about it.

        Raises:
            ToolError: it failed or was not allowed; `code` says which.
        """
        return self._channel.call(name, arguments)

    async def acall(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """As `call`, for tools that are `async def`. Calls made at once are run one after another."""
        return await self._channel.acall(name, arguments)


@dataclass(frozen=True)
class Declaration:
    """What `@tool` was told; empty texts and None leave it to the function."""

    name: str
    title: str
    annotations: Annotations
    seconds: float | None


@overload
def tool(function: FunctionT, /) -> FunctionT: ...


@overload
def tool(
    *,
    name: str = "",
    title: str = "",
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
    seconds: float | None = None,
) -> Callable[[FunctionT], FunctionT]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    title: str = "",
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
    seconds: float | None = None,
) -> Any:
    """Make a function with type hints and a docstring a tool; it stays the function it is.

    What is not said is assumed the worst of: that it changes things, destroys, may not be repeated, and reaches
    out. A tool that is `read_only` destroys nothing and may be repeated. `seconds` is how long a call may take.
    """
    reads = bool(read_only)
    declaration = Declaration(
        name=name,
        title=title,
        annotations=Annotations(
            read_only=reads,
            destructive=not reads if destructive is None else destructive,
            idempotent=reads if idempotent is None else idempotent,
            open_world=True if open_world is None else open_world,
        ),
        seconds=seconds,
    )

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, MARK, declaration)
        return function

    return mark if function is None else mark(function)
