"""The tool that lists tools, also those that the default list has no room for."""

import difflib
from typing import Annotated, Any

import msgspec

from cld.server.call import Call, Reply
from cld.server.registry import READS, Registry, Tool, tool_of
from cld.server.resources_tools import described
from cld.tools import Caller

MOST_CLOSE = 5


class ToolList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: Annotated[str, described("Words that name or description has")] = ""
    schemas: Annotated[bool, described("With the schemas of their arguments")] = False
    limit: Annotated[int, described("", ge=1, le=1000)] = 100


def tool_list(registry: Registry) -> Tool:
    """The tool; `registry` has the tools of hosts, and tasks have those of their own."""

    async def answer(call: Call, args: ToolList) -> Reply:
        calling = await call.runtime.workshop.calling()
        offered = calling.offered(Caller(call.principal, task=call.context.task, host=call.context.host))
        rows = {tool.name: _row(tool.name, tool.title, tool.description, tool.origin) for tool in offered}
        schemas: dict[str, Any] = {tool.name: tool.input_schema for tool in offered}
        if not call.context.task:
            for tool in registry.callable(call.runtime.guard(call.principal), call.context):
                rows.setdefault(tool.name, _row(tool.name, tool.title, tool.description, "cld"))
                schemas.setdefault(tool.name, tool.input_schema)
        found = _matching(rows, args.query)
        tools = found[: args.limit]
        if args.schemas:
            tools = [{**row, "input_schema": schemas[row["name"]]} for row in tools]
        text = (
            "\n".join(f"{row['name']}: {row['description'].partition(chr(10))[0]}" for row in tools) or "no such tool"
        )
        return Reply({"tools": tools, "more": len(found) - len(tools)}, text)

    return tool_of(
        ToolList,
        answer,
        name="tool_list",
        title="List tools",
        description="All tools that you may call, wherever they come from, also those that are not listed by default.",
        annotations=READS,
        returns={"tools": {"type": "array", "items": {"type": "object"}}, "more": {"type": "integer"}},
        required=["tools"],
    )


def _row(name: str, title: str, description: str, origin: str) -> dict[str, Any]:
    return {"name": name, "title": title, "description": description, "origin": origin}


def _matching(rows: dict[str, dict[str, Any]], query: str) -> list[dict[str, Any]]:
    """Those that have every word, by name; where none has, those with a name like it."""
    words = query.lower().split()
    found = [row for _, row in sorted(rows.items()) if all(word in _words(row) for word in words)]
    return found or [rows[name] for name in difflib.get_close_matches(query, rows, MOST_CLOSE)]


def _words(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['title']} {row['description']}".lower()
