"""Failures: the one place where cld's errors become MCP's.

A tool that fails on purpose answers with a result a model can act on (`isError`, a text and the same as
data); everything else answers with a JSON-RPC error. What was not meant to happen is logged and told
without its details.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from cld.errors import ApprovalRequired, CldError, ResourceNotFound

log = logging.getLogger("cld.server")

RESOURCE_NOT_FOUND = -32002
"""What protocols before 2026-07-28 answer for a resource that is not there; later ones say INVALID_PARAMS."""

APPROVAL_HINT = (
    "; nobody could be asked: call again from a host that can ask its user (MCP elicitation), "
    "or have an owner do it or change policies/data.json"
)


def told(error: CldError) -> dict[str, Any]:
    """The error as data: its stable code, its message, and what `details` adds."""
    hint = APPROVAL_HINT if isinstance(error, ApprovalRequired) else ""
    return {"code": error.code, "message": f"{error}{hint}", **error.details()}


def failed_result(error: Exception, tool: str) -> dict[str, Any]:
    """The result of a tool call that failed with `error`."""
    if isinstance(error, CldError):
        data = told(error)
    else:
        log.error("%s failed", tool, exc_info=error)
        data = {"code": "internal", "message": f"{tool} failed inside the server; its log says why"}
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": f"{data['code']}: {data['message']}"}],
        "structuredContent": {"error": data},
        "isError": True,
    }


def no_such_tool(name: str) -> MCPError:
    """What is said of a tool that is not there, and of one the caller may not call."""
    return MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name[:80]}; tools/list shows what you can call")


def no_such_prompt(name: str) -> MCPError:
    """What is said of a prompt that is not there, and of one the caller may not read."""
    return MCPError(code=INVALID_PARAMS, message=f"Unknown prompt: {name[:80]}; prompts/list shows what there is")


def protocol_error(error: CldError, version: str) -> MCPError:
    """`error` as the JSON-RPC error that `version` of the protocol has for it."""
    data = told(error)
    missing = isinstance(error, ResourceNotFound) and version not in MODERN_PROTOCOL_VERSIONS
    return MCPError(code=RESOURCE_NOT_FOUND if missing else INVALID_PARAMS, message=data["message"], data=data)


async def translate(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware that lets only protocol errors out.

    The SDK tells a client of an older protocol the text of any exception; ours may name files.
    """
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):
        raise
    except CldError as error:
        raise protocol_error(error, ctx.protocol_version) from error
    except Exception as error:  # the last fence before the wire
        log.exception("%s failed", ctx.method)
        raise MCPError(code=INTERNAL_ERROR, message="Internal error; the server's log says why") from error


def invalid_params(message: str, data: Mapping[str, Any] | None = None) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=message, data=data)
