"""Access: who is asking, and the guarded store they get. No handler finds either out in another way.

The principal comes from how the transport was started (stdio) or from the token it verified (HTTP),
never from arguments, `_meta` or what a client calls itself; that name is passed on to policy as
information only.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mcp.server.context import ServerRequestContext

from cld.errors import PolicyError
from cld.guard import GuardedStore
from cld.policy import Context
from cld.principal import Principal
from cld.runtime import Runtime, log_folder

RequestContext = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class Identity:
    """Who a request is from, and until when (seconds since the epoch) that is vouched for."""

    principal: Principal
    expires: float | None = None


IdentityOf = Callable[[RequestContext], Identity]


@dataclass(frozen=True)
class Access:
    """The runtime as the principal of one request sees it."""

    runtime: Runtime
    identity_of: IdentityOf

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The folders of this server, which are nobody's business but its log's."""
        settings = self.runtime.settings
        found = [str(settings.policies_path), str(log_folder(settings))]
        if settings.is_local:
            root = settings.root_path
            found += [str(root), str(root.resolve())]
        else:
            found.append(settings.root)
        return tuple(found)

    def require_policy(self) -> None:
        """Return when something can be decided; called where the answer would else be that there is nothing.

        Raises:
            PolicyError: nothing can be, and why.
        """
        if refusal := self.runtime.refusal():
            raise PolicyError(f"there is no valid policy, so nothing is allowed: {refusal}")

    def principal_of(self, ctx: RequestContext) -> Principal:
        return self.identity_of(ctx).principal

    def seconds_left(self, ctx: RequestContext) -> float | None:
        """How long what the request starts may go on, None for as long as it likes."""
        expires = self.identity_of(ctx).expires
        return None if expires is None else max(0.0, expires - time.time())

    def context(
        self, ctx: RequestContext, tool: str, arguments: Mapping[str, Any], *, destructive: bool = False
    ) -> Context:
        """The circumstances that policy is told; `tool` is the MCP method where no tool is called."""
        return Context(tool=tool, arguments=arguments, host=host_of(ctx), destructive=destructive)

    def store(self, ctx: RequestContext, method: str) -> GuardedStore:
        """The store as the caller may use it in a request that is no tool call."""
        return self.runtime.store(self.principal_of(ctx), self.context(ctx, method, {}))


def host_of(ctx: RequestContext) -> str:
    """What the client calls itself; anyone can call themselves anything."""
    params = ctx.session.client_params
    return params.client_info.name[:128] if params is not None else ""
