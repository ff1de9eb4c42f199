"""The tool that says why something is allowed or not, to the one it is asked for."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from cld.policy import Action, Context
from cld.server.arguments import HostPrefix
from cld.server.call import Call, Reply
from cld.server.registry import READS, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.uri import id_of, type_of


class Explain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: Annotated[HostPrefix, described("For call: cld:tool.Tool.<name>")]
    action: Action
    arguments: Annotated[dict[str, Any], described("Of the call")] | UnsetType = UNSET


async def explain(call: Call, args: Explain) -> Reply:
    tool = id_of(args.uri) if args.action == "call" and type_of(args.uri) == "tool.Tool" else ""
    arguments: Mapping[str, Any] = {} if args.arguments is UNSET else args.arguments
    context = Context(tool=tool, arguments=arguments, host=call.context.host)
    found = call.runtime.explain(call.principal, args.action, args.uri, context)
    return Reply(dict(found), msgspec.json.encode(found).decode())


EXPLAIN: Tool = tool_of(
    Explain,
    explain,
    name="policy_explain",
    title="Explain a decision",
    description="Whether you may do something to a URI, and which rules say so.",
    annotations=READS,
    returns={"allow": {"type": "boolean"}, "reasons": {"type": "array", "items": TEXT}},
    required=["allow"],
)
