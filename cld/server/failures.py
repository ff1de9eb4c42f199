"""Failures: the one place where cld's errors become MCP's.

A tool that fails on purpose answers with a result a model can act on (`isError`, a text and the same as
data); everything else answers with a JSON-RPC error. What was not meant to happen is logged and told
without its details; where on this machine something lies is for the log alone.
"""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from cld.errors import ApprovalRequired, CldError, ConfigError, PolicyError, ResourceNotFound, StoreError, Unsupported

log = logging.getLogger("cld.server")

RESOURCE_NOT_FOUND = -32002
"""What protocols before 2026-07-28 answer for a resource that is not there; later ones say INVALID_PARAMS."""

MOST_CLOSE = 3
"""How many names are told that are like one that is none."""

APPROVAL_HINT = (
    "; nobody could be asked: call again from a host that can ask its user (MCP elicitation), "
    "or have an owner do it or change policies/data.json"
)


_OURS = (PolicyError, StoreError, ConfigError, Unsupported)
"""What is wrong with the server and not with the request; such errors name files."""

_PART = r"""[^\s/'":;,()<>]+"""
_PATH = re.compile(rf"(?<![\w:/.…])(?:/{_PART})+/({_PART})")


def told(error: CldError, places: Sequence[str] = ()) -> dict[str, Any]:
    """The error as data: its stable code, its message, and what `details` adds.

    Of `places` (folders of the server) only the last names are told, and of an error of the server's own also
    of every other path; the log has them whole.
    """
    hint = APPROVAL_HINT if isinstance(error, ApprovalRequired) else ""
    data = {"code": error.code, "message": f"{error}{hint}", **error.details()}
    shorten = _shortener(places, every=isinstance(error, _OURS))
    if isinstance(error, _OURS):
        log.error("%s", error)
    return {name: _each_text(value, shorten) for name, value in data.items()}


def without_paths(text: str, places: Sequence[str] = ()) -> str:
    """`text` with the last name only of every path in it."""
    return _shortener(places, every=True)(text)


def _shortener(places: Sequence[str], *, every: bool) -> Callable[[str], str]:
    # The longest first, for some lie in others. Known ones by themselves, for they may have spaces in them.
    known = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    within = re.compile(rf"(?:{known})(?:/{_PART})*") if known else None

    def shorten(text: str) -> str:
        if within is not None:
            text = within.sub(lambda found: f"…/{PurePath(found[0]).name}", text)
        return _PATH.sub(r"…/\1", text) if every else text

    return shorten


def _each_text(value: Any, shorten: Callable[[str], str]) -> Any:
    match value:
        case str():
            return shorten(value)
        case list():
            return [_each_text(one, shorten) for one in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def failed_result(error: Exception, tool: str, places: Sequence[str] = ()) -> dict[str, Any]:
    """The result of a tool call that failed with `error`.

    The text begins with what is most telling: of a tool that failed the `kind`, which stands beside the `code`.
    """
    if isinstance(error, CldError):
        data = told(error, places)
    else:
        log.error("%s failed", tool, exc_info=error)
        data = {"code": "internal", "message": f"{tool} failed inside the server; its log says why"}
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": f"{data.get('kind', data['code'])}: {data['message']}"}],
        "structuredContent": {"error": data},
        "isError": True,
    }


def no_such_tool(name: str, callable: Iterable[str]) -> MCPError:
    """What is said of a tool that is not there, and of one the caller may not call; `callable` are those they may."""
    name = name[:80]
    close = difflib.get_close_matches(name, [one for one in callable if one != name], MOST_CLOSE)
    hint = f"names like it: {', '.join(close)}; " if close else ""
    return MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name}; {hint}tools/list shows what you can call")


def no_such_prompt(name: str) -> MCPError:
    """What is said of a prompt that is not there, and of one the caller may not read."""
    return MCPError(code=INVALID_PARAMS, message=f"Unknown prompt: {name[:80]}; prompts/list shows what there is")


def protocol_error(error: CldError, version: str, places: Sequence[str] = ()) -> MCPError:
    """`error` as the JSON-RPC error that `version` of the protocol has for it."""
    data = told(error, places)
    match error:
        case PolicyError() | StoreError() | ConfigError() | Unsupported():
            code = INTERNAL_ERROR
        case ResourceNotFound() if version not in MODERN_PROTOCOL_VERSIONS:
            code = RESOURCE_NOT_FOUND
        case _:
            code = INVALID_PARAMS
    return MCPError(code=code, message=data["message"], data=data)


class Translate:
    """Middleware that lets only protocol errors out.

    The SDK tells a client of an older protocol the text of any exception; ours may name files.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = places

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        try:
            return await call_next(ctx)
        except (MCPError, ValidationError):
            raise
        except CldError as error:
            raise protocol_error(error, ctx.protocol_version, self._places) from error
        except Exception as error:  # the last fence before the wire
            log.exception("%s failed", ctx.method)
            raise MCPError(code=INTERNAL_ERROR, message="Internal error; the server's log says why") from error


def invalid_params(message: str, data: Mapping[str, Any] | None = None) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=message, data=data)
