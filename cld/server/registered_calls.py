"""What hosts do with the tools that the tree brings: they have an assistant work, or call a tool as their principal."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET

from cld.errors import AccessDenied, InvalidArgument, ToolFailed
from cld.escape import safe_line
from cld.resource import new_id
from cld.server.call import DECLINED, Call, Reply, Said, shown
from cld.server.work_calls import answered
from cld.server.work_registry import Ask
from cld.tools import Begun, Caller, NestedApprovalRequired
from cld.tools.calling import tool_uri
from cld.types import Grant
from cld.uri import ROOT, is_within, make_uri, parent_of, parse_uri
from cld.work.requests import CONVERSATION, begin


async def ask_seed(call: Call, args: Ask, assistant: str) -> Reply:
    """As `ask_assistant`, of one that cld brings and that the tree has not yet."""
    await call.runtime.workshop.seed(await call.runtime.work(call.principal))
    return await ask_assistant(call, args, assistant)


async def ask_assistant(call: Call, args: Ask, assistant: str) -> Reply:
    """Have the assistant with this URI work a message where it is; the answer, or as far as it is.

    Raises:
        InvalidArgument: the conversation is not in the namespace of the assistant.
    """
    engine = await call.runtime.work(call.principal)
    place = parent_of(parse_uri(assistant))
    conversation = None if args.conversation is UNSET else args.conversation
    if conversation is not None and not is_within(conversation, place):
        raise InvalidArgument(f"{conversation} is not in {place}, where this assistant works", field="conversation")
    if conversation is None and place != ROOT:
        conversation = make_uri(place, CONVERSATION, new_id())
    begun = await begin(engine, call.store, args.message, conversation=conversation, assistant=assistant)
    return await answered(call, engine, begun, args.wait_seconds)


async def call_registered(call: Call, args: Mapping[str, Any], name: str) -> Reply:
    """Call a tool; policy decides it with the arguments, once they are known to fit.

    Raises:
        ToolFailed: it could not be called, or failed.
        AccessDenied, ApprovalRequired: as `cld.tools.calling.Calling.call`.
    """
    if call.was_declined:
        raise AccessDenied("call", tool_uri(name), [DECLINED])
    # The list that the host knows was made of the tree, of which the tools may not have heard yet.
    calling = await call.runtime.workshop.calling(name)
    begun = call.kept if isinstance(call.kept, Begun) else Begun() if call.can_ask else None
    said = Said()
    async with call.telling(said, f"calling {name}"):
        while True:
            caller = Caller(call.principal, host=call.context.host, approved=call.is_approved, begun=begun)
            try:
                result = await calling.call(name, args, caller, said.say)
                break
            except NestedApprovalRequired as needed:
                begun = await _granted(call, name, needed)
    if result.error is not None:
        raise ToolFailed(result.error.message, kind=result.error.code)
    data, text = result.data, result.text
    if data is None:
        return Reply(None, text)
    text = text or msgspec.json.encode(data).decode()
    # The protocol's structured results are objects.
    return Reply(cast("dict[str, Any]", data) if isinstance(data, dict) else {"result": data}, text)


async def _granted(call: Call, name: str, needed: NestedApprovalRequired) -> Begun:
    """Have a person agree to what the tool `name` wants to call, which it then begins again with.

    Raises:
        AccessDenied: they did not agree.
        ApprovalRequired: nobody can be asked.
    """
    grant = Grant(needed.tool, needed.arguments, by=call.principal.id)
    begun = Begun((*needed.begun.granted, grant), needed.begun.made)
    lines = [f"{name} calls {safe_line(needed.tool)}. {safe_line(str(needed))}", shown(needed.arguments), "Allow it?"]
    agreed = await call.agreed_within("\n".join(lines), begun)
    if agreed is None:
        raise needed
    if not agreed:
        raise AccessDenied(needed.action, needed.uri, [DECLINED])
    return begun
