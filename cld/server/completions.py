"""Completions: URIs the caller may read, for the resource template and for prompt arguments that hold one."""

from typing import Any

from mcp_types import CompleteRequestParams, PromptReference

from cld.errors import InvalidURI
from cld.guard import GuardedStore
from cld.server.access import Access, RequestContext
from cld.server.prompts import Prompts
from cld.server.resources import TEMPLATE
from cld.store import MAX_LIMIT
from cld.uri import ROOT, from_host

MOST = 100
"""How many values MCP lets one answer carry."""


class Completions:
    """The handler of `completion/complete`."""

    def __init__(self, access: Access, prompts: Prompts) -> None:
        self._access = access
        self._prompts = prompts

    async def complete(self, ctx: RequestContext, params: CompleteRequestParams) -> dict[str, Any]:
        """Up to 100 values, level by level: below the last `/` of what is typed."""
        store = self._access.store(ctx, "completion/complete")
        typed = params.argument.value
        match params.ref:
            case PromptReference(name=name):
                is_uri = await self._holds_uri(ctx, name, params.argument.name)
                values = await _matching(store, typed, ROOT) if is_uri else []
            case reference:
                is_path = reference.uri == TEMPLATE and params.argument.name == "path"
                values = await _matching(store, typed, "") if is_path else []
        shown = {"values": values[:MOST], "total": len(values), "hasMore": len(values) > MOST}
        return {"resultType": "complete", "completion": shown}

    async def _holds_uri(self, ctx: RequestContext, name: str, argument: str) -> bool:
        """Whether the prompt's argument holds a URI, which its name says: `uri`, or ending in `_uri`."""
        if argument != "uri" and not argument.endswith("_uri"):
            return False
        prompt = await self._prompts.find(ctx, name)
        return prompt is not None and any(one.name == argument for one in prompt.arguments)


async def _matching(store: GuardedStore, typed: str, scheme: str) -> list[str]:
    """The URIs directly below the complete elements of `typed` that begin with all of it, after `scheme`."""
    path = typed if typed.startswith(ROOT) else f"{ROOT}{typed}"
    try:
        prefix = from_host(path[: max(path.rfind("/"), len(ROOT))])
    except InvalidURI:
        return []
    begin = f"{prefix}{'' if prefix == ROOT else '/'}{path[max(path.rfind('/') + 1, len(ROOT)) :]}"
    found: list[str] = []
    cursor = None
    while True:
        page = await store.list(prefix, cursor=cursor, limit=MAX_LIMIT)
        found += [f"{scheme}{uri.removeprefix(ROOT)}" for uri in page.uris if uri.startswith(begin)]
        if page.cursor is None:
            return found
        cursor = page.cursor
