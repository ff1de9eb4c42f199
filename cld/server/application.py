"""The application: the handlers put together to an MCP server, the same for stdio and HTTP.

Its parts may be replaced before `server` is called; the conformance fixture does.
"""

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

from mcp.server.caching import CacheHint
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types import (
    CallToolRequestParams,
    PaginatedRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.methods import CacheableMethod

from cld import __version__
from cld.runtime import Runtime
from cld.server.access import Access, IdentityOf, RequestContext
from cld.server.branch_tools import BRANCHES
from cld.server.completions import Completions
from cld.server.events_tools import events_tools
from cld.server.failures import Translate, without_paths
from cld.server.inboxes import Inboxes
from cld.server.knowledge_tools import knowledge_tools
from cld.server.model_tools import MODEL_STATUS
from cld.server.policy_tools import policy_tools
from cld.server.prompts import Prompts
from cld.server.registry import Registry, Tool, select
from cld.server.resources import Resources
from cld.server.resources_tools import CORE, MORE
from cld.server.resuming import resume
from cld.server.subscriptions import Subscriptions
from cld.server.tool_list import tool_list
from cld.server.tools import Tools
from cld.server.work_registry import TreeTools
from cld.server.work_tools import WORK
from cld.tools import Source

_CACHEABLE: tuple[CacheableMethod, ...] = get_args(CacheableMethod)

INSTRUCTIONS = """\
A shared workspace of resources, each a JSON file with a URI such as cld:common.Conversation.c1/common.Message.m2 \
(<package>.<Name>.<id> per level). resource_list shows what is below a URI, resource_get reads, resource_put creates \
or, given the version read, replaces. Others write too: on a conflict read again. New ids: a ULID, or a short word."""


class McpServer(Server[None]):
    """The SDK's server, which says by itself in the handshake that its lists may change; they do."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        told = notification_options or NotificationOptions(True, True, True)
        return super().create_initialization_options(told, experimental_capabilities, extensions)


class Application:
    """All handlers over one runtime; `identity_of` is the transport's word on who a request is from."""

    def __init__(self, runtime: Runtime, identity_of: IdentityOf) -> None:
        access = Access(runtime, identity_of)
        self.access = access
        self.inboxes = Inboxes(runtime)
        self.registry = Registry()
        core, more = _tables(runtime, self.inboxes, self.registry)
        self.registry.replace("cld", select(runtime.settings.tools, core, more))
        self.tree_tools = TreeTools(runtime, self.registry)
        runtime.bring(lambda: self._woken([*core, *more]))
        self.tools = Tools(access, self.registry)
        self.resources = Resources(access)
        self.prompts = Prompts(access)
        self.completions = Completions(access, self.prompts)
        self.subscriptions = Subscriptions(access, self.registry)

    def server(self, name: str = "cld") -> McpServer:
        """An MCP server that answers with these handlers; serve it once."""

        @asynccontextmanager
        async def lifespan(_: Server[None]) -> AsyncGenerator[None]:
            resuming = asyncio.create_task(resume(self.access.runtime))
            try:
                yield None
            finally:
                resuming.cancel()
                await asyncio.gather(resuming, return_exceptions=True)
                await self.tree_tools.aclose()
                await self.inboxes.aclose()

        # Plain dicts are what these return, and the SDK takes them; its annotations name its models only.
        handlers: dict[str, Any] = {
            "on_list_tools": self._list_tools,
            "on_call_tool": self._call_tool,
            "on_list_resources": self._list_resources,
            "on_list_resource_templates": self.resources.templates,
            "on_read_resource": self.resources.read,
            "on_subscribe_resource": self.subscriptions.subscribe,
            "on_unsubscribe_resource": self.subscriptions.unsubscribe,
            "on_subscriptions_listen": self._listen,
            "on_list_prompts": self._list_prompts,
            "on_get_prompt": self.prompts.get,
            "on_completion": self.completions.complete,
        }
        # Whether something may be kept is for policy to say at the time, and lists differ by caller.
        hints: dict[CacheableMethod, CacheHint] = {method: CacheHint(0, "private") for method in _CACHEABLE}
        server = McpServer(
            name,
            version=__version__,
            title="cld",
            instructions=self._instructions(),
            cache_hints=hints,
            lifespan=lifespan,
            **handlers,
        )
        # A question's state is bound to the caller, and to this process: it ends with the questions it names.
        state = RequestStateSecurity(keys=[os.urandom(32)], bind_principal=lambda ctx: self.access.principal_of(ctx).id)
        # In place of the SDK's spans for OpenTelemetry, which cost every call though nothing here exports them.
        server.middleware[:] = [Translate(self.access.places), RequestStateBoundary(state, default_audience=name)]
        return server

    def _instructions(self) -> str:
        """What models are told of this server; an empty list of tools would else be a riddle."""
        if not (refusal := self.access.runtime.refusal()):
            return INSTRUCTIONS
        why = without_paths(refusal, self.access.places)
        return f"{INSTRUCTIONS}\nAt present everything is denied, for there is no valid policy: {why}"

    async def _list_tools(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        await self.tree_tools.look()
        await self.subscriptions.list_told(ctx, "tools")
        self.tree_tools.follow()
        return await self.tools.list(ctx, params)

    async def _listen(self, ctx: RequestContext, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        if params.notifications.tools_list_changed:
            await self.tree_tools.look()
            self.tree_tools.follow()
        return await self.subscriptions.listen(ctx, params)

    async def _call_tool(self, ctx: RequestContext, params: CallToolRequestParams) -> dict[str, Any]:
        if self.registry.find(params.name) is None:
            await self.tree_tools.look()  # called without a look at the list, or before it was heard of
        return await self.tools.call(ctx, params)

    def _woken(self, tools: Sequence[Tool]) -> Source:
        """cld's own tools for tasks; made when this process begins to work."""
        self.tree_tools.woken()
        return _own_tools(self.access.runtime, tools)

    async def _list_resources(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        await self.subscriptions.list_told(ctx, "resources")
        return await self.resources.list(ctx, params)

    async def _list_prompts(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        await self.subscriptions.list_told(ctx, "prompts")
        return await self.prompts.list(ctx, params)


def bring_own_tools(runtime: Runtime) -> None:
    """Let the tasks of a runtime that serves no host use the tools that hosts have."""
    registry = Registry()
    core, more = _tables(runtime, Inboxes(runtime), registry)
    runtime.bring(lambda: _own_tools(runtime, [*core, *more]))


def _tables(runtime: Runtime, inboxes: Inboxes, registry: Registry) -> tuple[Sequence[Tool], Sequence[Tool]]:
    """The tools offered by default, and the others."""
    core, more = knowledge_tools(runtime)
    return [*CORE, *core, *WORK], [
        *MORE,
        *BRANCHES,
        *events_tools(inboxes),
        *policy_tools(registry),
        tool_list(registry),
        MODEL_STATUS,
        *more,
    ]


def _own_tools(runtime: Runtime, tools: Sequence[Tool]) -> Source:
    return importlib.import_module("cld.server.own_tools").OwnTools(runtime, tools)
