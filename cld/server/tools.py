"""`tools/list` and `tools/call`: which tools the caller sees, and how one is called.

Each call asks policy "call" on the tool's URI, with the arguments as the tool will read them; a tool that
may not be called is answered for like one that does not exist.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, PaginatedRequestParams

from cld.errors import AccessDenied, ApprovalRequired, CldError
from cld.escape import safe_line
from cld.server.access import Access, RequestContext
from cld.server.call import DECLINED, About, Call, InputRequired, Questions, Reply, shown
from cld.server.failures import failed_result, invalid_params, no_such_tool
from cld.server.registry import Registry, Tool
from cld.uri import ROOT

MOST_NAME = 64
"""How much is shown of what a client calls itself."""


class Tools:
    """The handlers of `tools/*`."""

    def __init__(self, access: Access, registry: Registry) -> None:
        self.registry = registry
        self._access = access
        self._questions = Questions()

    async def list(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        """All the tools the caller may call, in one page."""
        if params is not None and params.cursor is not None:
            raise invalid_params("tools/list has one page only; leave cursor out")
        guard = self._access.runtime.guard(self._access.principal_of(ctx))
        shown = self.registry.shown(guard, self._access.context(ctx, "tools/list", {}))
        return {"resultType": "complete", "tools": [tool.wire for tool in shown]}

    async def call(self, ctx: RequestContext, params: CallToolRequestParams) -> dict[str, Any]:
        tool = self.registry.find(params.name)
        if tool is None:
            raise self._unknown(ctx, params.name)
        places = self._access.places
        given = params.arguments or {}
        read, misfit = _read(tool, given)
        principal = self._access.principal_of(ctx)
        # Arguments that do not fit never reach the rules.
        arguments: Mapping[str, Any] = _canonical(given, read) if misfit is None else {}
        context = self._access.context(ctx, tool.name, arguments, destructive=tool.annotations.destructive)
        try:
            guard = self._access.runtime.guard(principal)
            if tool.reads != ROOT and not guard.allows("read", tool.reads, context):
                raise self._hidden(ctx, params.name)
            call = Call(self._access.runtime, ctx, params, principal, context, self._questions)
            if tool.decides:
                if misfit is not None:
                    raise misfit
                return (await self._decided(ctx, call, tool, read, given)).wire()
            decision = guard.decide("call", tool.uri, context)
            if not decision.allow:
                raise self._hidden(ctx, params.name)
            if misfit is not None:
                raise misfit
            if obligation := decision.obligations.get("require_approval"):
                needed = ApprovalRequired("call", tool.uri, _as_mapping(obligation))
                await _approve(call, "call", needed, tool, given)
            return (await _handle(call, tool, read, given)).wire()
        except InputRequired as needed:
            return needed.wire()
        except MCPError:
            raise
        except Exception as error:  # every failure of a tool is the tool's answer
            return failed_result(error, tool.name, places)

    async def _decided(self, ctx: RequestContext, call: Call, tool: Tool, read: Any, given: Mapping[str, Any]) -> Reply:
        """The reply of a tool that decides for itself whether it may be called."""
        try:
            return await _handle(call, tool, read, given)
        except AccessDenied as denied:
            if denied.action == "call" and denied.uri == tool.uri and not call.was_declined:
                raise self._hidden(ctx, tool.name) from denied
            raise

    def _hidden(self, ctx: RequestContext, name: str) -> MCPError:
        """What is said of a tool that may not be called; where nothing can be decided, that."""
        self._access.require_policy()
        return self._unknown(ctx, name)

    def _unknown(self, ctx: RequestContext, name: str) -> MCPError:
        guard = self._access.runtime.guard(self._access.principal_of(ctx))
        # Only from what the caller may call: a name is knowledge too.
        callable = self.registry.callable(guard, self._access.context(ctx, "tools/list", {}))
        return no_such_tool(name, [tool.name for tool in callable])


async def _handle(call: Call, tool: Tool, read: Any, given: Mapping[str, Any]) -> Reply:
    """The tool's reply; what policy wants a person's approval for is tried again once they gave it."""
    try:
        return await tool.handle(call, read)
    except ApprovalRequired as needed:
        await _approve(call, "change", needed, tool, given)
        return await tool.handle(call, read)


async def _approve(call: Call, about: About, needed: ApprovalRequired, tool: Tool, given: Mapping[str, Any]) -> None:
    """Have a person agree to the call, or to what it changes.

    Raises:
        ApprovalRequired: nobody can be asked.
        AccessDenied: they did not agree.
    """
    # A client may call itself anything, also a sentence.
    who = f'"{safe_line(call.context.host[:MOST_NAME])}"' if call.context.host else "A client"
    lines = [f"{who} calls {safe_line(tool.title)}. {safe_line(str(needed))}", shown(given), "Allow it?"]
    agreed = await call.agreed("\n".join(lines), about)
    if agreed is None:
        raise needed
    if not agreed:
        raise AccessDenied(needed.action, needed.uri, [DECLINED])


def _read(tool: Tool, given: Mapping[str, Any]) -> tuple[Any, CldError | None]:
    """The arguments as the tool reads them, or why it cannot."""
    try:
        return tool.parse(given), None
    except CldError as misfit:
        return None, misfit


def _canonical(given: Mapping[str, Any], read: Any) -> Mapping[str, Any]:
    """The arguments for policy: as given, but texts as they were read, so that a URI has one form only."""
    if not isinstance(read, msgspec.Struct):
        return given
    return {name: getattr(read, name) if isinstance(value, str) else value for name, value in given.items()}


def _as_mapping(obligation: object) -> Mapping[str, Any]:
    return obligation if isinstance(obligation, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]
