"""The tool that asks the graph."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from cld.guard import GuardedStore
from cld.server.arguments import HostPrefix
from cld.server.call import Call, Reply
from cld.server.registry import READS, Tool, tool_of
from cld.server.resources_tools import TEXT, described
from cld.uri import ROOT, URI

if TYPE_CHECKING:
    from cld.index.graph import Answer

Ask = Callable[[GuardedStore, str, URI], Awaitable["Answer"]]
"""`Graph.query`: the answer to SPARQL below a prefix, as far as the store's principal may read."""

_TEXT_ROWS = 100
_CELL = 200


class GraphQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sparql: Annotated[str, described("A SELECT, ASK, CONSTRUCT or DESCRIBE query; resources are <cld:…>")]
    prefix: Annotated[HostPrefix, described("Only what is at or below this URI")] = HostPrefix(ROOT)


def graph_tools(ask: Ask) -> Sequence[Tool]:
    """The tool, with what answers it."""

    async def graph_query(call: Call, args: GraphQuery) -> Reply:
        async with call.progressing("asking the graph"):
            answer = await ask(call.store, args.sparql, args.prefix)
        data: dict[str, Any] = {"columns": list(answer.columns), "rows": [list(row) for row in answer.rows]}
        if answer.truncated:
            data["truncated"] = True
        if answer.incomplete:
            data["incomplete"] = True
        if answer.notes:
            data["notes"] = list(answer.notes)
        return Reply(data, _text(answer))

    return (
        tool_of(
            GraphQuery,
            graph_query,
            name="graph_query",
            title="Query the graph",
            description=(
                "Run a read-only SPARQL 1.1 query over linked data in resources (JSON-LD, Turtle, HTML, front matter, "
                "links), one named graph each, and vocab:type, parent, linksTo, title, createdBy of each resource."
            ),
            annotations=READS,
            returns={
                "columns": {"type": "array", "items": TEXT},
                "rows": {"type": "array", "items": {"type": "array"}},
                "truncated": {"type": "boolean"},
                "incomplete": {"type": "boolean"},
                "notes": {"type": "array", "items": TEXT},
            },
            required=["columns", "rows"],
        ),
    )


def _text(answer: "Answer") -> str:
    """The table for those who see text only: tab-separated, long values and tables cut."""
    lines = ["\t".join(answer.columns)]
    lines += ["\t".join(_cell(value) for value in row) for row in answer.rows[:_TEXT_ROWS]]
    if len(answer.rows) > _TEXT_ROWS:
        lines.append(f"… {len(answer.rows) - _TEXT_ROWS} more rows")
    return "\n".join([*lines, *answer.notes]) if answer.rows else "\n".join(["no rows", *answer.notes])


def _cell(value: object) -> str:
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL else text[:_CELL] + "…"
