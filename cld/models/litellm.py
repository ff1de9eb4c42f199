"""litellm: what one tier is asked, through whatever provider litellm knows.

Must not try twice, choose who is asked, or let a key out: not in errors, not in logs.
"""

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from cld.config import Tier
from cld.errors import Unsupported
from cld.models import Ask, Message, OnText
from cld.models import prices as price_of
from cld.models.failures import Failed, clean, told_by_kind
from cld.models.library import hush, load
from cld.models.prices import Price
from cld.models.tokens import FOR_TOOLS, FOR_TOOLS_OF_CLAUDE, Count, counter, of_bytes, prompt_tokens

_LOCAL = frozenset({"ollama", "ollama_chat", "lm_studio", "llamafile"})
_NO_KEY = "none"
_SPARE_SECONDS = 30.0


class Call(msgspec.Struct):
    """A tool call as it came; `arguments` is text."""

    key: str = ""
    name: str = ""
    arguments: str = ""


class Answer(NamedTuple):
    """What came; the tokens are None where the provider did not say them."""

    text: str
    calls: Sequence[Call]
    refusal: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None


class Request(NamedTuple):
    """A request in the words of the OpenAI protocol; `prompt` is the most tokens it can be."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    response_format: dict[str, Any] | None
    prompt: int


class Facts(NamedTuple):
    """What litellm knows of a tier's model; `price` is None where nobody knows it, the bounds are 0 then."""

    price: Price | None
    in_request: bool
    exact: Count | None
    for_tools: int
    answer: int
    context: int
    provider: str
    answer_word: str


class Provider:
    """One tier's model; `open` before the first question, `close` after the last. Belongs to one event loop."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """What is known of the model.

        Raises:
            Failed: litellm knows no such provider, or is not installed.
        """
        if self._facts is None:
            self._facts = self._learn()
        return self._facts

    def request(self, ask: Ask) -> Request:
        """What the model is to be sent for `ask`, and how much that is.

        Raises:
            Failed: as `facts`, or its key is not there.
        """
        facts = self.facts
        self._access()
        messages = [_message(message) for message in ask.messages]
        response_format: dict[str, Any] | None = None
        if ask.schema is not None:
            if facts.in_request and ask.schema.get("type") == "object":
                described = {"name": "answer", "schema": dict(ask.schema), "strict": False}
                response_format = {"type": "json_schema", "json_schema": described}
            else:
                _tell(messages, ask.schema)
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in ask.tools
        ]
        prompt = prompt_tokens(
            messages, tools, response_format, count=facts.exact or of_bytes, for_tools=facts.for_tools
        )
        return Request(messages, tools, response_format, prompt)

    async def ask(self, request: Request, most: int, on_text: OnText | None) -> Answer:
        """The answer, of at most `most` tokens, in one try.

        Raises:
            Failed: for whatever reason. Cancelling closes the connection.
        """
        litellm, facts = load(), self.facts
        hush()
        more: dict[str, Any] = {facts.answer_word: most}
        if request.tools:
            more["tools"] = request.tools
        if request.response_format:
            more["response_format"] = request.response_format
        if self.tier.temperature is not None:
            more["temperature"] = self.tier.temperature
        if self.tier.reasoning_effort:
            more["reasoning_effort"] = self.tier.reasoning_effort
        if self.tier.context and facts.provider in _LOCAL:
            # Ollama cuts prompts off silently at its own default.
            more["num_ctx"] = self.tier.context
        if on_text is not None:
            more |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with asyncio.timeout(self.tier.timeout):
                with told_by_kind(self._key()):
                    answer = await litellm.acompletion(
                        model=self.tier.model,
                        messages=request.messages,
                        # The bound is ours; the libraries only have to let us.
                        timeout=self.tier.timeout + _SPARE_SECONDS,
                        max_retries=0,
                        num_retries=0,
                        **{"no-log": True},
                        **self._access(),
                        **more,
                    )
                return _whole(answer) if on_text is None else await _streamed(answer, on_text, self._key())
        except TimeoutError:
            raise Failed("timed_out", f"no answer within {self.tier.timeout:g} s", spent=True) from None

    def _access(self) -> dict[str, Any]:
        """Where the model is, and the key."""
        access: dict[str, Any] = {}
        if self.tier.api_base:
            # A key that lies in the environment for its provider is nobody else's business.
            access |= {"api_base": self.tier.api_base, "api_key": _NO_KEY}
        if self.tier.api_key:
            if not (key := self._key()):
                raise Failed("settings", f"the environment variable {self.tier.api_key}, its key, is not set")
            access["api_key"] = key
        return access

    def _key(self) -> str:
        return os.environ.get(self.tier.api_key, "") if self.tier.api_key else ""

    def _learn(self) -> Facts:
        try:
            litellm = load()
        except Unsupported as error:
            raise Failed("settings", str(error)) from None
        tier = self.tier
        try:
            name, provider, _key, _base = litellm.get_llm_provider(tier.model, api_base=tier.api_base or None)
        except Exception:  # a boundary: it raises what it likes
            raise Failed("settings", f"litellm knows no provider of {tier.model!r}; write provider/model") from None
        known: Mapping[str, Mapping[str, Any]] = litellm.model_cost
        entry = known.get(tier.model) or known.get(name) or {}
        if tier.model not in known and entry.get("litellm_provider") != provider:
            entry = {}
        if tier.price_in is not None and tier.price_out is not None:
            price = price_of.flat(tier.price_in, tier.price_out)
        else:
            local = provider in _LOCAL or _is_here(tier.api_base)
            price = price_of.listed(entry) or (price_of.FREE if local else None)
        words: Sequence[str] = ()
        if provider not in _LOCAL:
            words = litellm.get_supported_openai_params(name, custom_llm_provider=provider) or ()
        knows = provider in _LOCAL or bool(entry.get("supports_response_schema"))
        return Facts(
            price=price,
            in_request=tier.schema == "request" or (tier.schema == "auto" and knows),
            exact=counter(name) if provider in {"openai", "azure"} else None,
            for_tools=FOR_TOOLS_OF_CLAUDE if "claude" in tier.model.lower() else FOR_TOOLS,
            answer=tier.max_tokens or int(entry.get("max_output_tokens") or 0),
            context=tier.context or int(entry.get("max_input_tokens") or 0),
            provider=provider,
            answer_word="max_tokens" if "max_tokens" in words or not words else "max_completion_tokens",
        )


def _whole(answer: Any) -> Answer:
    try:
        choice = answer.choices[0]
        message = choice.message
        calls = [
            Call(call.id or "", call.function.name or "", call.function.arguments or "")
            for call in message.tool_calls or ()
        ]
        special: Mapping[str, Any] = message.provider_specific_fields or {}
        refusal = str(special.get("refusal") or "")
    except (AttributeError, IndexError, TypeError) as error:
        raise Failed("error", clean(f"the answer has another form than an answer: {error}"), spent=True) from None
    counted = _counted(getattr(answer, "usage", None), wrote=bool(message.content or calls))
    return Answer(message.content or "", calls, refusal, choice.finish_reason or "", *counted)


async def _streamed(stream: Any, on_text: OnText, key: str) -> Answer:
    text: list[str] = []
    calls: dict[int, Call] = {}
    refusal: list[str] = []
    finish = ""
    async with contextlib.aclosing(stream):
        pieces = aiter(stream)
        while (chunk := await _next(pieces, key)) is not None:
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            delta = choice.delta
            finish = choice.finish_reason or finish
            if said := getattr(delta, "refusal", None):
                refusal.append(said)
            if delta.content:
                text.append(delta.content)
                on_text(delta.content)
            for part in delta.tool_calls or ():
                _add(calls, part)
        # The usage that it hands on is its own guess where the provider said none.
        usage = next((c.usage for c in reversed(stream.chunks) if getattr(c, "usage", None)), None)
        counted = _counted(usage, wrote=bool(text or calls))
    return Answer("".join(text), list(calls.values()), "".join(refusal), finish, *counted)


async def _next(pieces: AsyncIterator[Any], key: str) -> Any:
    """The next chunk, None at the end; what the caller then does with it is no fault of the provider's."""
    with told_by_kind(key):
        try:
            return await anext(pieces)
        except StopAsyncIteration:
            return None


def _add(calls: dict[int, Call], part: Any) -> None:
    """Some providers number all calls of a stream alike; a new id with a name begins a new one."""
    at = part.index or 0
    while at in calls and part.id and part.function.name and calls[at].key not in ("", part.id):
        at += 1000
    if not part.id and at not in calls and calls:
        at = max(calls)
    call = calls.setdefault(at, Call())
    call.key = call.key or part.id or ""
    call.name = call.name or part.function.name or ""
    call.arguments += part.function.arguments or ""


def _counted(usage: Any, *, wrote: bool) -> tuple[int | None, int | None]:
    said_in, said_out, said_all = (
        max(0, int(getattr(usage, name, 0) or 0)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    # What is in the sum only was thought, and is paid for as said.
    said_out = max(said_out, said_all - said_in)
    # No question is of no tokens, nor is an answer that says something.
    return said_in or None, said_out or (None if wrote or not said_in else 0)


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.wishes:
        made["content"] = message.text or None
        made["tool_calls"] = [
            {
                "id": wish.key,
                "type": "function",
                "function": {"name": wish.tool, "arguments": msgspec.json.encode(wish.arguments).decode()},
            }
            for wish in message.wishes
        ]
    if message.role == "tool":
        made["tool_call_id"] = message.answers
    return made


def _tell(messages: list[dict[str, Any]], schema: Mapping[str, Any]) -> None:
    """Tell the schema in words, in the first message."""
    words = (
        "Answer with one JSON value and nothing else: no prose, no fence. It must fit this JSON Schema:\n"
        + msgspec.json.encode(schema).decode()
    )
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{words}"
    else:
        messages.insert(0, {"role": "system", "content": words})


def _is_here(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
