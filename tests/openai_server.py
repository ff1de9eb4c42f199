"""A local server that speaks the OpenAI chat protocol with scripted replies, faults and delays; no model behind it.

As a library: `with OpenAI() as server:` serves on a free port of loopback from a thread of its own, so that
synchronous tests and child processes can use it; `server.say(...)` scripts the next replies. As a program,
`python tests/openai_server.py --port 8080 --replies replies.json` does the same with a list of replies in a file.

Its count of tokens is one a byte: the most that any tokenizer of bytes can come to, so a budget that holds here
holds elsewhere.
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

DEADLINE = 20.0
"""Seconds that `until` waits for what should come at once."""


class Call(msgspec.Struct, frozen=True):
    """A tool call as a model writes it: `arguments` is text, and need not be JSON."""

    name: str
    arguments: str = "{}"
    id: str = ""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer, or one way to fail.

    `hold` waits until `release()`, or until the client leaves; `hold_after` does so after so many pieces of a stream.
    `drop_after` closes the connection after so many pieces, or, where nothing is streamed, before anything is sent.
    `raw` replaces the body. `finish` "" is what fits the rest. `usage` None counts bytes; an empty dict sends none.
    `pieces` is how many characters a piece of a stream has.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    hold: bool = False
    hold_after: int | None = None
    drop_after: int | None = None
    raw: str | None = None
    refusal: str = ""
    finish: str = ""
    usage: dict[str, Any] | None = None
    pieces: int = 5
    reasoning: str = ""


class Request(msgspec.Struct):
    """One request as it came; `left` says that the client closed before it had all of its answer."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    left: bool = False
    answered: bool = False

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def texts(self) -> list[str]:
        return [message.get("content") or "" for message in self.body.get("messages", ())]


Script = Callable[[Request], Reply]

RATE_LIMITED = Reply(status=429, headers={"retry-after": "0.05"}, error={"message": "too many", "code": "rate_limit"})
BROKEN = Reply(status=500, error={"message": "the machine is on fire", "type": "server_error"})
TOO_LONG = Reply(
    status=400,
    error={
        "message": "This model's maximum context length is 128 tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
    },
)


def echo(request: Request) -> Reply:
    """Says what was said to it last."""
    return Reply(f"You said: {request.texts[-1] if request.texts else ''}")


class OpenAI:
    """The server; `requests` are those that came, `peak` how many were being answered at once at most.

    Replies are taken from those scripted for the request's model, else from those for any, else from `otherwise`.
    """

    def __init__(self, *replies: Reply, otherwise: Script = echo, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.otherwise = otherwise
        self.peak = 0
        self._busy = 0
        self._port = port
        self._scripted: dict[str, list[Reply]] = {"": list(replies)}
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def say(self, *replies: Reply, model: str = "") -> None:
        """Script the next replies, to any model or to one."""
        with self._changed:
            self._scripted.setdefault(model, []).extend(replies)

    def release(self) -> None:
        """Let the replies go that are on hold, and those that will be."""
        self._loop.call_soon_threadsafe(self._released.set)

    def until(self, what: Callable[[], bool]) -> None:
        """Wait until `what` holds of this server."""
        with self._changed:
            assert self._changed.wait_for(what, DEADLINE), f"it did not come to that; requests: {self.requests}"

    async def came_to(self, what: Callable[[], bool]) -> None:
        """As `until`, without holding up the loop."""
        await asyncio.to_thread(self.until, what)

    @property
    def url(self) -> str:
        """The `api_base` to give a client."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._released, self._stop = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self._port)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                _method, path, _version = head[0].split(" ")
                request = Request(path, headers, msgspec.json.decode(body) if body else {})
                if not await self._answer(request, reader, writer):
                    break
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False closes the connection."""
        if not request.path.endswith("/chat/completions"):
            known = request.path.endswith("/models")
            await _whole(writer, 200 if known else 404, {"object": "list", "data": []})
            return True
        with self._changed:
            self.requests.append(request)
            self._busy += 1
            self.peak = max(self.peak, self._busy)
            scripted = self._scripted.get(request.model) or self._scripted[""]
            reply = scripted.pop(0) if scripted else None
            self._changed.notify_all()
        if reply is None:
            reply = self.otherwise(request)
        # What a client sends before it has its answer is its farewell.
        gone = asyncio.ensure_future(reader.read(1))
        work = asyncio.ensure_future(self._send(reply, request, writer))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            whole = not work.cancelled() and not work.exception() and work.result()
        finally:
            gone.cancel()
            await asyncio.wait({gone})
            with self._changed:
                self._busy -= 1
                request.answered = work.done() and not work.cancelled() and not work.exception()
                request.left = not request.answered
                self._changed.notify_all()
        return whole

    async def _send(self, reply: Reply, request: Request, writer: asyncio.StreamWriter) -> bool:
        if reply.hold:
            await self._released.wait()
        if reply.status != 200:
            await _whole(writer, reply.status, {"error": reply.error or {"message": "no"}}, reply.headers)
            return True
        if reply.raw is not None:
            await _whole(writer, 200, reply.raw, reply.headers)
            return True
        answer = _completion(reply, request.body)
        if request.body.get("stream"):
            return await self._stream(reply, request.body, answer, writer)
        if reply.drop_after is not None:
            return False
        await _whole(writer, 200, answer, reply.headers)
        return True

    async def _stream(
        self, reply: Reply, asked: dict[str, Any], answer: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        choice = answer["choices"][0]
        frame = {"id": answer["id"], "object": "chat.completion.chunk", "created": 0, "model": answer["model"]}
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

        async def piece(value: Any) -> None:
            data = b"data: " + (value if isinstance(value, bytes) else msgspec.json.encode(value)) + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()

        for number, delta in enumerate(_deltas(choice["message"], reply.pieces)):
            if number == reply.drop_after:
                return False
            if number == reply.hold_after:
                await self._released.wait()
            await piece(frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await piece(frame | {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
        if (asked.get("stream_options") or {}).get("include_usage") and answer["usage"]:
            await piece(frame | {"choices": [], "usage": answer["usage"]})
        await piece(b"[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def tokens(value: Any) -> int:
    """The bytes of all texts in `value`, which is what this server takes for tokens."""
    match value:
        case str():
            return len(value.encode())
        case dict():
            return sum(len(str(key).encode()) + tokens(inner) for key, inner in value.items())  # pyright: ignore
        case list() | tuple():
            return sum(tokens(inner) for inner in value)  # pyright: ignore
        case _:
            return 0 if value is None else len(str(value))


def _completion(reply: Reply, asked: dict[str, Any]) -> dict[str, Any]:
    most = asked.get("max_completion_tokens") or asked.get("max_tokens") or sys.maxsize
    text = reply.text.encode()[:most].decode(errors="ignore")
    finish = reply.finish or ("tool_calls" if reply.calls else "stop" if text == reply.text else "length")
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if reply.refusal:
        message["refusal"] = reply.refusal
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(reply.calls)
        ]
    usage = reply.usage
    if usage is None:
        prompt = 3 * len(asked["messages"]) + sum(
            tokens(asked.get(part)) for part in ("messages", "tools", "response_format")
        )
        written = tokens(text) + tokens([[call.name, call.arguments] for call in reply.calls])
        usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model", ""),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    return answer | {"usage": usage or None}


def _deltas(message: dict[str, Any], size: int) -> Sequence[dict[str, Any]]:
    text: str = message["content"] or ""
    made: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    made += [{"content": text[first : first + size]} for first in range(0, len(text), size)]
    if "refusal" in message:
        made.append({"refusal": message["refusal"]})
    for number, call in enumerate(message.get("tool_calls", ())):
        begun = {"index": number, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
        made.append({"tool_calls": [begun]})
        arguments: str = call["function"]["arguments"]
        made += [
            {"tool_calls": [{"index": number, "function": {"arguments": arguments[first : first + size]}}]}
            for first in range(0, len(arguments), size)
        ]
    return made


async def _whole(
    writer: asyncio.StreamWriter, status: int, body: object, headers: dict[str, str] | None = None
) -> None:
    data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data)
    await writer.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-like server without a model.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--replies", type=Path, help="a JSON list of replies; without, or after them, it echoes")
    given = parser.parse_args()
    replies = msgspec.json.decode(given.replies.read_bytes(), type=list[Reply]) if given.replies else []
    with OpenAI(*replies, port=given.port) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
