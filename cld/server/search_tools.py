"""The tool that searches. Imports nothing heavy, so that a server that is never asked never loads it."""

from typing import Annotated, Any

import msgspec

from cld.index import Hit
from cld.server.arguments import HostPrefix
from cld.server.call import Call, Reply
from cld.server.registry import READS, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.uri import ROOT

MAX_HITS = 50


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: Annotated[str, msgspec.Meta(min_length=1, max_length=2000), described("A question or some words")]
    prefix: Annotated[HostPrefix, described("Only what is at or below this URI")] = HostPrefix(ROOT)
    types: Annotated[list[str], described("Only these types, as common.Text")] = []
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HITS)] = 10


async def search(call: Call, args: Query) -> Reply:
    knowledge = call.runtime.knowledge()
    async with call.progressing("searching"):
        hits = await knowledge.search(call.store, args.query, args.prefix, args.types, limit=args.limit)
    data: dict[str, Any] = {"hits": [msgspec.to_builtins(hit) for hit in hits]}
    complete = await knowledge.finds_all()
    if not complete:
        data["incomplete"] = True
    return Reply(data, _text(hits, complete))


SEARCH: Tool = tool_of(
    Query,
    search,
    name="search",
    title="Search",
    description="Find resources by meaning and by words; each hit has a quote and says why it matched.",
    annotations=READS,
    returns={
        "hits": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"uri": TEXT, "score": {"type": "number"}, "quote": TEXT, "why": {"type": "object"}},
            },
        },
        "incomplete": {"type": "boolean"},
    },
    required=["hits"],
)


def _text(hits: tuple[Hit, ...], complete: bool) -> str:
    lines = [f"{hit.uri}  {hit.score:.2f}\n  {hit.quote}" for hit in hits] or ["nothing found"]
    return "\n".join(lines if complete else [*lines, "(the index is still being made; ask again later for more)"])
