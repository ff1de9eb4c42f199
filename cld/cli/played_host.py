"""A host, played: a real server process and the SDK's client to it, as a host has them. What the tour acts with."""

import os
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TextIO, cast

import msgspec
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, Implementation, TextContent

from cld import __version__
from cld.cli.install import start_command
from cld.config import Settings
from cld.errors import CldError
from cld.uri import URI

SECONDS = 30.0
"""How long any one answer may take."""


class StepFailed(CldError):
    """A step did not do what it says."""

    code = "step_failed"


class PlayedHost:
    """One host with its server; `command` is what started it, `asked` what its person was asked.

    The person, where there is one, says no to everything.
    """

    def __init__(self, client: Client, command: str, asked: list[str]) -> None:
        self.client = client
        self.command = command
        self.asked = asked

    async def do(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a call.

        Raises:
            StepFailed: it failed.
        """
        data, error = await self.attempt(tool, **arguments)
        if data is None:
            raise StepFailed(f"{tool} failed: {error['message'] if error else 'no answer'}")
        return data

    async def attempt(self, tool: str, **arguments: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The result of a call, or its error with `code` and `message`."""
        try:
            result = await self.client.call_tool(tool, arguments)
        except MCPError as error:
            return None, {"code": "protocol", "message": error.message}
        data: dict[str, Any] | None = result.structured_content
        if data is not None and not result.is_error:
            return data, None
        told: dict[str, Any] = {} if data is None else data.get("error", {})
        return None, told or {"code": "unknown", "message": _text(result)}

    async def below(self, prefix: URI) -> list[dict[str, Any]]:
        """The rows of everything below `prefix`, in pages."""
        rows: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = await self.do("resource_list", prefix=prefix, depth=64, limit=500, **more)
            rows += page["resources"]
            if page["next_cursor"] is None:
                return rows
            more = {"cursor": page["next_cursor"]}


@asynccontextmanager
async def played_host(settings: Settings, log: TextIO, *, has_person: bool = False) -> AsyncGenerator[PlayedHost]:
    """A host whose server works with `settings` and logs to `log`.

    Raises:
        StepFailed: the server does not start.
    """
    asked: list[str] = []

    async def decline(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="decline")

    command, args = start_command(msgspec.structs.replace(settings, tools="all"))
    shown = shlex.join([command, *args])
    client = Client(
        # All of the environment: settings and the keys of models are in it.
        stdio_client(StdioServerParameters(command=command, args=args, env=dict(os.environ)), errlog=log),
        read_timeout_seconds=SECONDS,
        elicitation_callback=decline if has_person else None,
        client_info=Implementation(name="cld tour", version=__version__),
    )
    try:
        await client.__aenter__()
    except Exception as error:  # a server that ends while it is greeted is told in groups of what that led to
        raise StepFailed(f"the server did not start: {_first(error)}; try it by hand: {shown}") from error
    try:
        yield PlayedHost(client, shown, asked)
    finally:
        await client.__aexit__(None, None, None)


def _first(error: BaseException) -> BaseException:
    """What lies at the bottom of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _text(result: CallToolResult) -> str:
    """What a result says in words."""
    return " ".join(block.text for block in result.content if isinstance(block, TextContent))
