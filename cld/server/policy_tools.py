"""The tool that says why something is allowed or not, to the one it is asked for."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from cld.policy import Action, Context
from cld.server.arguments import HostPrefix
from cld.server.call import Call, Reply
from cld.server.registry import READS, Registry, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.uri import id_of, type_of


class Explain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: Annotated[HostPrefix, described("For call: cld:tool.Tool.<name>")]
    action: Action
    arguments: Annotated[dict[str, Any], described("Of the call")] | UnsetType = UNSET


def policy_tools(registry: Registry) -> Sequence[Tool]:
    """The tool; `registry` knows what a tool says of itself, which the rules are told of a call."""

    async def explain(call: Call, args: Explain) -> Reply:
        called = args.action == "call" and type_of(args.uri) == "tool.Tool"
        tool = registry.find(id_of(args.uri)) if called else None
        context = Context(
            tool=id_of(args.uri) if called else "",
            arguments={} if args.arguments is UNSET else args.arguments,
            host=call.context.host,
            destructive=tool is not None and tool.uri == args.uri and tool.annotations.destructive,
        )
        found = call.runtime.explain(call.principal, args.action, args.uri, context)
        return Reply(dict(found), msgspec.json.encode(found).decode())

    return (
        tool_of(
            Explain,
            explain,
            name="policy_explain",
            title="Explain a decision",
            description="Whether you may do something to a URI, and which rules say so.",
            annotations=READS,
            returns={"allow": {"type": "boolean"}, "reasons": {"type": "array", "items": TEXT}},
            required=["allow"],
        ),
    )
