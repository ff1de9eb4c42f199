"""What commands share when they touch resources: the store as this principal, approvals, versions.

A command names the MCP tool that does the same, with the same arguments, and is decided like a call of it
before anything else, so that rules about tools hold on the command line as they do for hosts.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anyio import Path

from cld.cli.terminal import Terminal
from cld.config import Settings
from cld.errors import ApprovalRequired, ConfigError, InvalidArgument, ResourceNotFound
from cld.guard import GuardedStore
from cld.policy import Context
from cld.runtime import Runtime
from cld.uri import ROOT, URI, make_uri

HOST = "cld"
"""The host's name in decisions and their log."""

DESTRUCTIVE = frozenset({"resource_put", "resource_delete", "resource_restore"})
"""The tools that commands stand for which say of themselves that they destroy, as their annotations do."""

T = TypeVar("T")

_FULL = 32
_SHORTEST = 4
_HEX = frozenset("0123456789abcdef")


@asynccontextmanager
async def existing(settings: Settings) -> AsyncGenerator[Runtime]:
    """The runtime over a tree that is there; looking at nothing must not make something.

    Raises:
        ConfigError: there is no tree.
    """
    if settings.is_local and not await Path(settings.root_path).is_dir():
        raise ConfigError(f"there is no tree at {settings.root_path}; give --root, or begin one with cld put")
    async with Runtime.open(settings) as runtime:
        yield runtime


def context(tool: str, arguments: Mapping[str, Any]) -> Context:
    """The circumstances of a command that does what `tool` does."""
    return Context(
        tool=tool,
        arguments={name: value for name, value in arguments.items() if value is not None},
        host=HOST,
        destructive=tool in DESTRUCTIVE,
    )


def store(runtime: Runtime, tool: str, **arguments: Any) -> GuardedStore:
    """The store as the principal of the settings may use it in a call of `tool`.

    Raises:
        AccessDenied: they may not call it.
        ApprovalRequired: only with a person's approval, which is not asked for just to look.
    """
    circumstances = context(tool, arguments)
    require_call(runtime, circumstances)
    return runtime.store(runtime.principal, circumstances)


def require_call(runtime: Runtime, circumstances: Context) -> None:
    """Return when the tool of the circumstances may be called.

    Raises:
        AccessDenied, ApprovalRequired: as `Guard.require`.
    """
    tool = make_uri(ROOT, "tool.Tool", circumstances.tool)
    runtime.guard(runtime.principal).require("call", tool, circumstances)


async def with_approval(
    runtime: Runtime,
    terminal: Terminal,
    circumstances: Context,
    change: Callable[[GuardedStore], Awaitable[T]],
) -> T:
    """Make the change; where policy wants a person's approval and one is at the terminal, ask.

    Raises:
        AccessDenied: the tool that does the same may not be called.
        ApprovalRequired: nobody is there to ask, or they said no.
    """
    try:
        require_call(runtime, circumstances)
    except ApprovalRequired as wanted:
        _confirm(wanted, terminal)
    try:
        return await change(runtime.store(runtime.principal, circumstances))
    except ApprovalRequired as wanted:
        _confirm(wanted, terminal)
    return await change(runtime.store(runtime.principal, circumstances, approved=True))


def _confirm(wanted: ApprovalRequired, terminal: Terminal) -> None:
    if not terminal.can_ask or not terminal.confirm(f"{wanted}. Do you approve?"):
        raise wanted


async def named_version(store: GuardedStore, uri: URI, text: str) -> str:
    """The version that `text` names: itself, its first characters (4 at least), or r3 for revision 3.

    Raises:
        InvalidArgument: it names none, or more than one.
        ResourceNotFound: there never was such a resource, or it may not be read.
    """
    if len(text) == _FULL and _HEX.issuperset(text):
        return text
    if text[:1] == "r" and text[1:].isascii() and text[1:].isdigit():
        number = int(text[1:10])
        fitting = [one.version for one in await store.history(uri) if one.revision == number]
    elif len(text) >= _SHORTEST and _HEX.issuperset(text):
        fitting = [one.version for one in await store.history(uri) if one.version.startswith(text)]
    else:
        raise InvalidArgument(
            f"{text!r} is no version: give the {_FULL} characters, the first {_SHORTEST} or more of them, "
            f"or r3 for revision 3; cld history {uri} lists them",
            field="version",
        )
    if not fitting:
        raise ResourceNotFound(uri, text)
    if len(set(fitting)) > 1:
        raise InvalidArgument(
            f"{text!r} names {len(set(fitting))} versions of {uri}: {', '.join(one[:12] for one in fitting)}",
            field="version",
        )
    return fitting[0]
