"""The fixture that the public conformance suite is run against: our server, with the suite's tools in it.

What the suite needs and cld does not have (sampling, images, logging, `test://` resources) is here; the
application, the registry, the handlers it wraps and the HTTP side are cld's own. Started as a program it
prints its URL and serves until it is ended.
"""

import json
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageResult,
    ElicitResult,
    EmptyResult,
    GetPromptRequestParams,
    JSONRPCMessage,
    ListRootsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    UnsubscribeRequestParams,
)
from server_world import world
from starlette.types import ASGIApp, Receive, Scope, Send

from cld.config import Http
from cld.errors import ResourceNotFound
from cld.policy import Context
from cld.resource import Draft
from cld.server.access import Identity, RequestContext
from cld.server.application import Application
from cld.server.call import Call, InputRequired, Reply
from cld.server.completions import Completions
from cld.server.http import http_app, identity_of, one_token, security
from cld.server.prompts import Prompts
from cld.server.registry import READS, Registry, Tool
from cld.server.resources import Resources
from cld.server.subscriptions import Subscriptions
from cld.uri import URI

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
TOKEN = "a token for the suite, which cannot bring one"

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def said(value: str) -> Reply:
    return Reply(None, value)


async def simple_text(call: Call, args: Mapping[str, Any]) -> Reply:
    return said("This is a simple text response for testing.")


async def image(call: Call, args: Mapping[str, Any]) -> Reply:
    return Reply(None, content=[IMAGE])


async def audio(call: Call, args: Mapping[str, Any]) -> Reply:
    return Reply(None, content=[{"type": "audio", "data": WAV, "mimeType": "audio/wav"}])


async def embedded(call: Call, args: Mapping[str, Any]) -> Reply:
    resource = {
        "uri": "test://embedded-resource",
        "mimeType": "text/plain",
        "text": "This is an embedded resource content.",
    }
    return Reply(None, content=[{"type": "resource", "resource": resource}])


async def mixed(call: Call, args: Mapping[str, Any]) -> Reply:
    data = {
        "uri": "test://mixed-content-resource",
        "mimeType": "application/json",
        "text": json.dumps({"test": "data", "value": 123}),
    }
    return Reply(None, content=[text("Multiple content types test:"), IMAGE, {"type": "resource", "resource": data}])


async def fails(call: Call, args: Mapping[str, Any]) -> Reply:
    raise RuntimeError("This tool intentionally returns an error for testing")


async def logs(call: Call, args: Mapping[str, Any]) -> Reply:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log_line(call, line)
        await anyio.sleep(0.05)
    return said("Tool with logging executed successfully")


async def log_line(call: Call, line: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await call.ctx.session.send_log_message("info", line, related_request_id=call.ctx.request_id)


async def progresses(call: Call, args: Mapping[str, Any]) -> Reply:
    for done in (0, 50, 100):
        await call.ctx.session.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(0.05)
    return said("Tool with progress executed successfully")


async def reconnects(call: Call, args: Mapping[str, Any]) -> Reply:
    await log_line(call, "Before disconnect")
    if call.ctx.close_sse_stream is not None:
        await call.ctx.close_sse_stream()
    await anyio.sleep(0.2)
    await log_line(call, "After reconnect")
    return said("Reconnection test completed")


async def samples(call: Call, args: Mapping[str, Any]) -> Reply:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=args["prompt"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        result = await call.ctx.session.create_message(
            messages=[message], max_tokens=100, related_request_id=call.ctx.request_id
        )
    return said(f"LLM response: {getattr(result.content, 'text', '')}")


USER = {
    "type": "object",
    "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "required": ["username", "email"],
}
DEFAULTS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "required": [],
}
THREE = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second", "Third"), 1)]
ENUMS = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": THREE},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": THREE}},
    },
    "required": [],
}


async def elicited(call: Call, message: str, schema: dict[str, Any], word: str) -> Reply:
    result = await call.ctx.session.elicit_form(message, schema, call.ctx.request_id)
    return said(f"{word}: action={result.action}, content={json.dumps(result.content or {})}")


async def elicits(call: Call, args: Mapping[str, Any]) -> Reply:
    return await elicited(call, args["message"], USER, "User response")


async def elicits_defaults(call: Call, args: Mapping[str, Any]) -> Reply:
    return await elicited(call, "Please check what is filled in", DEFAULTS, "Elicitation completed")


async def elicits_enums(call: Call, args: Mapping[str, Any]) -> Reply:
    return await elicited(call, "Please choose", ENUMS, "Elicitation completed")


def form(message: str, field: str, kind: str = "string") -> dict[str, Any]:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(prompt: str, most: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text(prompt)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": most}}


ROOTS = {"method": "roots/list", "params": {}}
NAME = {"user_name": form("What is your name?", "name")}
CAPITAL = {"capital_question": sampling("What is the capital of France?", 100)}


def answer(params: Any, key: str) -> Any:
    return (params.input_responses or {}).get(key)


def accepted(params: Any, key: str) -> Mapping[str, Any] | None:
    given = answer(params, key)
    return given.content or {} if isinstance(given, ElicitResult) and given.action == "accept" else None


async def needs_name(call: Call, args: Mapping[str, Any]) -> Reply:
    given = accepted(call.params, "user_name")
    if given is None or not isinstance(given.get("name"), str):
        raise InputRequired(NAME, "asked")
    return said(f"Hello, {given['name']}!")


async def needs_sampling(call: Call, args: Mapping[str, Any]) -> Reply:
    given = answer(call.params, "capital_question")
    if not isinstance(given, CreateMessageResult):
        raise InputRequired(CAPITAL, "asked")
    return said(f"The model said: {getattr(given.content, 'text', '')}")


async def needs_roots(call: Call, args: Mapping[str, Any]) -> Reply:
    given = answer(call.params, "client_roots")
    if not isinstance(given, ListRootsResult):
        raise InputRequired({"client_roots": ROOTS}, "asked")
    return said(f"Roots: {', '.join(str(root.uri) for root in given.roots)}")


async def needs_state(call: Call, args: Mapping[str, Any]) -> Reply:
    if call.params.request_state != "state" or accepted(call.params, "confirm") is None:
        raise InputRequired({"confirm": form("Please confirm", "ok", "boolean")}, "state")
    return said("state-ok")


async def needs_three(call: Call, args: Mapping[str, Any]) -> Reply:
    requests = {**NAME, "greeting": sampling("Generate a greeting", 50), "client_roots": ROOTS}
    if not requests.keys() <= (call.params.input_responses or {}).keys():
        raise InputRequired(requests, "three")
    return said("All three are there")


async def needs_two_rounds(call: Call, args: Mapping[str, Any]) -> Reply:
    match call.params.request_state:
        case "round-2" if (color := accepted(call.params, "step2")) is not None:
            return said(f"Your favorite color is {color.get('color')}")
        case "round-1" if accepted(call.params, "step1") is not None:
            raise InputRequired({"step2": form("Step 2: What is your favorite color?", "color")}, "round-2")
        case _:
            raise InputRequired({"step1": form("Step 1: What is your name?", "name")}, "round-1")


async def needs_what_there_is(call: Call, args: Mapping[str, Any]) -> Reply:
    capabilities = call.ctx.session.client_capabilities
    requests: dict[str, Any] = {}
    if capabilities is not None and capabilities.elicitation is not None:
        requests |= NAME
    if capabilities is not None and capabilities.sampling is not None:
        requests |= CAPITAL
    if requests and not call.params.input_responses:
        raise InputRequired(requests, "asked")
    return said("That will do")


async def needs_capability(call: Call, args: Mapping[str, Any]) -> Reply:
    capabilities = call.ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        data = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", data)
    return said("The client has sampling")


async def streams_and_asks(call: Call, args: Mapping[str, Any]) -> Reply:
    await call.ctx.session.report_progress(0, 1, "About to ask")
    return said(f"Agreed: {await call.agreed('Shall we go on?')}")


async def says_arguments(call: Call, args: Mapping[str, Any]) -> Reply:
    return said(json.dumps(dict(args)))


SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def one_text(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string", **more}}, "required": [name]}


def fixture_tools(registry: Registry) -> list[Tool]:
    """The suite's tools; the trigger adds and takes away one more."""

    def tool(name: str, handle: Any, schema: dict[str, Any] = NO_ARGUMENTS) -> Tool:
        return Tool(name, name, f"The suite's {name}", schema, dict, handle, READS)

    async def change_tools(call: Call, args: Mapping[str, Any]) -> Reply:
        more = [] if registry.find("test_added") else [tool("test_added", simple_text)]
        registry.replace("added", more)
        return said("The tools changed")

    async def change_prompts(call: Call, args: Mapping[str, Any]) -> Reply:
        prompt = Draft(URI("cld:common.Prompt.test_changing"), {"template": "Changed"})
        await call.store.put(prompt, if_version="*")
        return said("The prompts changed")

    handles: dict[str, Any] = {
        "simple_text": simple_text,
        "image_content": image,
        "audio_content": audio,
        "embedded_resource": embedded,
        "multiple_content_types": mixed,
        "error_handling": fails,
        "tool_with_logging": logs,
        "tool_with_progress": progresses,
        "reconnection": reconnects,
        "elicitation_sep1034_defaults": elicits_defaults,
        "elicitation_sep1330_enums": elicits_enums,
        "missing_capability": needs_capability,
        "logging_tool": logs,
        "streaming_elicitation": streams_and_asks,
        "trigger_tool_change": change_tools,
        "trigger_prompt_change": change_prompts,
        "input_required_result_elicitation": needs_name,
        "input_required_result_sampling": needs_sampling,
        "input_required_result_list_roots": needs_roots,
        "input_required_result_request_state": needs_state,
        "input_required_result_multiple_inputs": needs_three,
        "input_required_result_multi_round": needs_two_rounds,
        "input_required_result_tampered_state": needs_state,
        "input_required_result_capabilities": needs_what_there_is,
    }
    return [
        *(tool(f"test_{name}", handle) for name, handle in handles.items()),
        tool("test_sampling", samples, one_text("prompt")),
        tool("test_elicitation", elicits, one_text("message")),
        tool("test_x_mcp_header", says_arguments, one_text("region", **{"x-mcp-header": "Region"})),
        tool("json_schema_2020_12_tool", says_arguments, SCHEMA_2020_12),
    ]


TEST_RESOURCES: dict[str, dict[str, Any]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content"},
}
TEMPLATE = re.compile(r"test://template/([^/]+)/data")


class FixtureResources(Resources):
    """cld's, and the suite's."""

    async def list(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        result = await super().list(ctx, params)
        fixtures = [
            {"uri": uri, "name": uri.removeprefix("test://"), "mimeType": content["mimeType"]}
            for uri, content in TEST_RESOURCES.items()
        ]
        return {**result, "resources": [*fixtures, *result["resources"]]}

    async def templates(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        result = await super().templates(ctx, params)
        fixture = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
        return {**result, "resourceTemplates": [fixture, *result["resourceTemplates"]]}

    async def read(self, ctx: RequestContext, params: ReadResourceRequestParams) -> dict[str, Any]:
        if not params.uri.startswith("test://"):
            return await super().read(ctx, params)
        content = TEST_RESOURCES.get(params.uri)
        if found := TEMPLATE.fullmatch(params.uri):
            data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
            content = {"mimeType": "application/json", "text": json.dumps(data)}
        if content is None:
            raise ResourceNotFound(params.uri)
        return {"resultType": "complete", "contents": [{"uri": params.uri, **content}]}


class FixtureSubscriptions(Subscriptions):
    """cld's; the suite's resources never change."""

    async def subscribe(self, ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        return EmptyResult() if params.uri in TEST_RESOURCES else await super().subscribe(ctx, params)

    async def unsubscribe(self, ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        return EmptyResult() if params.uri in TEST_RESOURCES else await super().unsubscribe(ctx, params)


class FixturePrompts(Prompts):
    """cld's, among which the suite's plain ones are resources of the tree, and those no resource can be."""

    async def list(self, ctx: RequestContext, params: PaginatedRequestParams | None) -> dict[str, Any]:
        result = await super().list(ctx, params)
        argument = {"name": "resourceUri", "description": "URI of the resource to embed", "required": True}
        fixtures: list[dict[str, Any]] = [
            {"name": "test_prompt_with_embedded_resource", "description": "Embeds", "arguments": [argument]},
            {"name": "test_prompt_with_image", "description": "Shows an image"},
            {"name": "test_input_required_result_prompt", "description": "Asks first"},
        ]
        return {**result, "prompts": [*fixtures, *result["prompts"]]}

    async def get(self, ctx: RequestContext, params: GetPromptRequestParams) -> dict[str, Any]:
        match params.name:
            case "test_prompt_with_embedded_resource":
                resource = {
                    "uri": (params.arguments or {})["resourceUri"],
                    "mimeType": "text/plain",
                    "text": "Embedded resource content for testing.",
                }
                content = [{"type": "resource", "resource": resource}]
                return messages(*content, text("Please process the embedded resource above."))
            case "test_prompt_with_image":
                return messages(IMAGE, text("Please analyze the image above."))
            case "test_input_required_result_prompt":
                given = accepted(params, "user_context")
                if given is None:
                    asked = {"user_context": form("What context should the prompt use?", "context")}
                    return InputRequired(asked, "asked").wire()
                return messages(text(f"Use this context: {given.get('context')}"))
            case _:
                return await super().get(ctx, params)


def messages(*contents: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", "messages": [{"role": "user", "content": content} for content in contents]}


class Events(EventStore):
    """What was sent, so that a client can come back for it; the suite closes streams on purpose."""

    def __init__(self) -> None:
        self.sent: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self.sent.append((stream_id, message))
        return str(len(self.sent))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        last = int(last_event_id)
        stream = self.sent[last - 1][0]
        for number, (sent_on, message) in enumerate(self.sent[last:], last + 1):
            if sent_on == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class WithToken:
    """Gives each request the token that the suite cannot bring."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {TOKEN}".encode())]}
        await self.app(scope, receive, send)


async def set_level(ctx: RequestContext, params: SetLevelRequestParams) -> EmptyResult:
    return EmptyResult()


class FixtureApplication(Application):
    """The application with the suite's parts in place of its own, which they wrap."""

    def server(self, name: str = "cld") -> Any:
        self.registry.replace("suite", fixture_tools(self.registry))
        self.resources = FixtureResources(self.access)
        self.prompts = FixturePrompts(self.access)
        self.completions = Completions(self.access, self.prompts)
        self.subscriptions = FixtureSubscriptions(self.access, self.registry)
        server = super().server(name)
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
        return server


PROMPTS: dict[str, dict[str, Any]] = {
    "test_simple_prompt": {"description": "Simple", "template": "This is a simple prompt for testing."},
    "test_prompt_with_arguments": {
        "description": "With arguments",
        "arguments": [{"name": "arg1", "required": True}, {"name": "arg2", "required": True}],
        "messages": [{"role": "user", "text": "Prompt with arguments: arg1='{{arg1}}', arg2='{{arg2}}'"}],
    },
}


async def main(folder: Path) -> None:
    async with world(folder) as made:
        store = made.runtime.store(made.runtime.principal, Context())
        for name, content in PROMPTS.items():
            await store.put(Draft(URI(f"cld:common.Prompt.{name}"), content))
        application = FixtureApplication(made.runtime, identity_of)
        app = http_app(
            application,
            one_token(TOKEN, Identity(made.runtime.principal)),
            security("127.0.0.1", Http()),
            4 * 1024 * 1024,
            name="cld-conformance",
            event_store=Events(),
            retry_interval=100,
        )
        config = uvicorn.Config(WithToken(app), port=0, log_level="warning", timeout_graceful_shutdown=1)
        serving = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serving.serve)
            while not serving.started:
                await anyio.sleep(0.01)
            port = serving.servers[0].sockets[0].getsockname()[1]
            print(f"http://127.0.0.1:{port}/mcp", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        anyio.run(main, Path(there))
    sys.exit(0)
