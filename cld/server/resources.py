"""MCP resources: the tree for hosts that read resources rather than call tools.

Every resource the caller may read is listed, page by page, because some hosts know no templates; reading
gives the resource's JSON.
"""

import base64
import binascii
from typing import Any

from mcp_types import PaginatedRequestParams, ReadResourceRequestParams

from cld.errors import InvalidURI, ResourceNotFound
from cld.resource import encode
from cld.server.access import Access, RequestContext
from cld.server.call import progressing
from cld.server.failures import invalid_params
from cld.uri import MAX_DEPTH, ROOT, from_host, parse_uri

MIME_TYPE = "application/json"
TEMPLATE = "cld:{+path}"
PAGE = 100

_TEMPLATES = [
    {
        "uriTemplate": TEMPLATE,
        "name": "resource",
        "title": "A resource",
        "description": "Any resource: <package>.<Name>.<id>/…; subscribe to <uri>/** for all below one",
        "mimeType": MIME_TYPE,
    }
]


class Resources:
    """The handlers of `resources/list`, `resources/templates/list` and `resources/read`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def list(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        cursor = None if params is None or params.cursor is None else position_of(params.cursor)
        store = self._access.store(ctx, "resources/list")
        async with progressing(ctx, "listing resources"):
            page = await store.list(ROOT, depth=MAX_DEPTH, cursor=cursor, limit=PAGE)
        shown = [
            {"uri": uri, "name": uri[uri.rfind("/") + 1 :].removeprefix(ROOT), "mimeType": MIME_TYPE}
            for uri in page.uris
        ]
        result: dict[str, Any] = {"resultType": "complete", "resources": shown}
        return result if page.cursor is None else {**result, "nextCursor": cursor_of(page.cursor)}

    async def templates(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        if params is not None and params.cursor is not None:
            raise invalid_params("resources/templates/list has one page only; leave cursor out")
        return {"resultType": "complete", "resourceTemplates": _TEMPLATES}

    async def read(self, ctx: RequestContext, params: ReadResourceRequestParams) -> dict[str, Any]:
        try:
            stored = await self._access.store(ctx, "resources/read").get(parse_uri(from_host(params.uri)))
        except ResourceNotFound:
            self._access.require_policy()
            raise
        content = {
            # As the host wrote it, so that it knows it again.
            "uri": params.uri,
            "mimeType": MIME_TYPE,
            "text": encode(stored.resource).decode(),
            "_meta": {"cld/version": stored.version},
        }
        return {"resultType": "complete", "contents": [content]}


def cursor_of(position: str) -> str:
    """An opaque cursor that goes on after the resource at `position`."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def position_of(cursor: str) -> str:
    """The position that `cursor` stands for; raises MCPError (invalid params) when it is none of ours."""
    try:
        return parse_uri(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode())
    except (binascii.Error, UnicodeDecodeError, ValueError, InvalidURI):
        raise invalid_params("this cursor is none of this server's; leave it out to begin anew") from None
