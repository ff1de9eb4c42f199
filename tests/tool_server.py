"""A real MCP server for the tests of `cld.tools.servers`: well-behaved, unless it is told otherwise.

    tool_server.py FOLDER [--http] [--legacy] [--hangs] [--junk] [--fails TEXT] [--old]

In FOLDER it notes what happened: `starts` has a process id a line, `crashes` a line for each call that crashed it,
`pids` the ids of what it started; `slow` says how far the slow tool is, `port` where it listens.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.shared.subscriptions import ToolsListChanged

FOLDER = Path(sys.argv[1])
FLAGS = sys.argv[2:]
ANY: dict[str, Any] = {"type": "object"}
TEXT: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
DRAFT_07: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"pair": {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}},
}
SUM: dict[str, Any] = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
LONG = "a_name_that_is_far_too_long_for_any_host_and_goes_on_and_on"
HIDDEN_WORDS = "Says what it is told.\u202e\U000e0041"

STDOUT = os.dup(1)
"""The SDK leads descriptor 1 elsewhere; a program that is not so careful would write here."""

bus = InMemorySubscriptionBus()
extra: list[str] = []


def note(name: str, text: object) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(f"{text}\n")


def tool(name: str, schema: dict[str, Any] = ANY, **more: Any) -> types.Tool:
    return types.Tool(name=name, description=more.pop("description", f"The tool {name}."), input_schema=schema, **more)


def tools() -> list[types.Tool]:
    says = types.ToolAnnotations(title="Echo", read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    return [
        tool("echo", TEXT, annotations=says, description=HIDDEN_WORDS),
        tool("long_description", description="x" * 10_000),
        tool("draft", DRAFT_07),
        tool("environment"),
        *(tool(name) for name in ("slow", "stuck", "progress", "crash", "error", "big", "input", "polled")),
        *(tool(name) for name in ("change", "spawn", "junk", "media", "leave", LONG, LONG + "_b", "a.b", "a_b")),
        tool("structured", output_schema=SUM),
        tool("broken", {"type": "object", "properties": {"a": {"type": "nonsense"}}}),
        *(tool(name) for name in extra),
    ]


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    start = int(params.cursor) if params and params.cursor else 0
    every = tools()
    cursor = str(start + 10) if start + 10 < len(every) else None
    return types.ListToolsResult(tools=every[start : start + 10], next_cursor=cursor)


def said(text: str, **more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], **more)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> Any:
    given = params.arguments or {}
    match params.name:
        case "echo":
            return said(given["text"])
        case "environment":
            return said("\n".join(f"{key}={value}" for key, value in os.environ.items()) + f"\n{Path.cwd()}")
        case "slow":
            note("slow", "started")
            try:
                await anyio.sleep(60)
            except BaseException:
                note("slow", "cancelled")
                raise
        case "stuck":
            note("slow", "stuck")
            time.sleep(60)
        case "progress":
            for step in range(1, 4):
                await ctx.session.report_progress(step, 3, f"step {step}" if step < 3 else None)
            return said("done")
        case "crash":
            note("crashes", os.getpid())
            print("about to crash", file=sys.stderr, flush=True)
            os._exit(3)
        case "leave":
            # What it started goes on without it.
            note("pids", subprocess.Popen(["sleep", "300"]).pid)
            os._exit(0)
        case "error":
            return said(f"no such place: {os.environ.get('API_KEY', '')}", is_error=True)
        case "big":
            return said("x" * given["size"])
        case "structured":
            return types.CallToolResult(content=[], structured_content={"sum": given["a"] + given["b"]})
        case "media":
            resource = types.TextResourceContents(uri="file:///notes.txt", text="äöü", mime_type="text/plain")
            return types.CallToolResult(
                content=[
                    types.TextContent(text="Look:"),
                    types.ImageContent(data="aGFsbG8=", mime_type="image/png"),
                    types.AudioContent(data="aGFs", mime_type="audio/wav"),
                    types.EmbeddedResource(resource=resource),
                ]
            )
        case "input":
            asked = types.ElicitRequestFormParams(message="Who?", requested_schema={"type": "object", "properties": {}})
            if ctx.protocol_version >= "2026":
                return types.InputRequiredResult(input_requests={"who": types.ElicitRequest(params=asked)})
            answer = await ctx.session.elicit_form("Who?", {"type": "object", "properties": {}})
            return said(answer.action)
        case "polled":
            if ctx.protocol_version < "2026" or params.request_state == "ready":
                return said("polled")
            return types.InputRequiredResult(request_state="ready")
        case "change":
            extra.append(given["name"])
            await bus.publish(ToolsListChanged())
            if ctx.protocol_version < "2026":
                await ctx.session.send_tool_list_changed()
            return said("changed")
        case "spawn":
            for command in (["sleep", "300"], ["setsid", "sleep", "300"], ["sh", "-c", "trap '' TERM; sleep 300"]):
                note("pids", subprocess.Popen(command).pid)
            return said("spawned")
        case "junk":
            junk()
            return said("and on it goes")
        case name if name in (*extra, "a_b", LONG):
            return said(name)
        case "draft":
            # The code that the SDK has for a connection that is closed.
            raise MCPError(-32000, "unknown tool draft")
        case name:
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {name}")


def junk() -> None:
    os.write(STDOUT, b'Downloading...\n\xff\xfe\x00 not utf-8\n{"jsonrpc": "2.0"}\n[1, 2]\n42\n\n{broken\n')
    os.write(2, b"to stderr: \x1b[31mred\x1b[0m " + os.environ.get("API_KEY", "").encode() + b"\n")
    os.write(2, b"y" * 100_000 + b"\n")


async def stdio(server: Any) -> None:
    async with stdio_server() as (read, write):
        passed, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def pass_on() -> None:
            async with passed:
                async for item in read:
                    message = item.message if isinstance(item, SessionMessage) else None
                    if isinstance(message, types.JSONRPCRequest) and message.method == "server/discover":
                        if "--old" in FLAGS:
                            os._exit(4)
                        if "--legacy" in FLAGS:
                            error = types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found")
                            refusal = types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)
                            await write.send(SessionMessage(refusal))
                            continue
                    await passed.send(item)

        async with anyio.create_task_group() as group:
            group.start_soon(pass_on)
            options = server.create_initialization_options()
            options.capabilities.tools = types.ToolsCapability(list_changed=True)
            await server.run(incoming, write, options)
            group.cancel_scope.cancel()


async def http(server: Any) -> None:
    import uvicorn  # noqa: PLC0415 - the others start sooner without it

    config = uvicorn.Config(server.streamable_http_app(), port=0, log_level="warning")
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve())
    while not serving.started:
        await asyncio.sleep(0.01)
    note("port", serving.servers[0].sockets[0].getsockname()[1])
    await task


class Recording:
    """Notes a header of each request; in the older way, knows nothing of the newer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            note("headers", headers.get(b"authorization", b"").decode())
            if "--legacy" in FLAGS and headers.get(b"mcp-protocol-version", b"").startswith(b"2026"):
                await send({"type": "http.response.start", "status": 400, "headers": []})
                await send({"type": "http.response.body", "body": b"what is that"})
                return
        await self.app(scope, receive, send)


def main() -> None:
    note("starts", os.getpid())
    if "--fails" in FLAGS:
        sys.exit(FLAGS[FLAGS.index("--fails") + 1])
    if "--junk" in FLAGS:
        junk()
    server = Server(
        "tests", on_list_tools=list_tools, on_call_tool=call_tool, on_subscriptions_listen=ListenHandler(bus)
    )
    if "--http" in FLAGS:
        make = server.streamable_http_app
        server.streamable_http_app = lambda: Recording(make())  # type: ignore[method-assign, assignment, misc]
        anyio.run(http, server)
        return
    if "--hangs" in FLAGS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        anyio.run(stdio, server)
    finally:
        while "--hangs" in FLAGS:
            time.sleep(1)


if __name__ == "__main__":
    main()
