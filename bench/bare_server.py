"""The yardstick of `bench/serve.py`: the least that the SDK's low-level server can be, with one tool that echoes."""

from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool

SCHEMA = {"type": "object", "properties": {"uri": {"type": "string"}}, "required": ["uri"]}


async def list_tools(ctx: Any, params: Any) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name="echo", description="Echo", input_schema=SCHEMA)])


async def call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
    uri = (params.arguments or {})["uri"]
    return CallToolResult(content=[TextContent(type="text", text=uri)], structured_content={"uri": uri})


async def main() -> None:
    server = Server("bare", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
