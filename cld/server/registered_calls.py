"""What hosts do with the tools that the tree brings: they have an assistant work, or call a tool as their principal."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET

from cld.errors import ToolFailed
from cld.server.call import Call, Reply
from cld.server.work_calls import answered
from cld.server.work_registry import Ask
from cld.tools import Caller
from cld.uri import id_of, parse_uri
from cld.work.requests import begin


async def ask_assistant(call: Call, args: Ask, assistant: str) -> Reply:
    """Have the assistant with this URI work a message; the answer, or as far as it is."""
    engine = await call.runtime.work(call.principal)
    begun = await begin(
        engine,
        call.store,
        args.message,
        conversation=None if args.conversation is UNSET else args.conversation,
        assistant=id_of(parse_uri(assistant)),
    )
    return await answered(call, engine, begun, args.wait_seconds)


async def call_registered(call: Call, args: Mapping[str, Any], name: str) -> Reply:
    """Call a tool; policy decides it with the arguments, once they are known to fit.

    Raises:
        ToolFailed: it could not be called, or failed.
        AccessDenied, ApprovalRequired: as `cld.tools.calling.Calling.call`.
    """
    calling = await call.runtime.workshop.calling()
    caller = Caller(call.principal, host=call.context.host, approved=call.is_approved)
    said: asyncio.Queue[str] = asyncio.Queue(maxsize=100)

    def progress(text: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            said.put_nowait(text)

    async with call.telling(said, f"calling {name}"):
        result = await calling.call(name, args, caller, progress)
    if result.error is not None:
        raise ToolFailed(result.error.message, kind=result.error.code)
    data, text = result.data, result.text
    if data is None:
        return Reply(None, text)
    text = text or msgspec.json.encode(data).decode()
    # The protocol's structured results are objects.
    return Reply(cast("dict[str, Any]", data) if isinstance(data, dict) else {"result": data}, text)
