"""How many tokens a request is at most, before it is sent.

Exact counting needs the tokenizer and its ranks on this machine: those of OpenAI's models come with litellm. For
all others a byte counts as a token, which no tokenizer in use exceeds: too many, never too few. Nothing is fetched.
"""

import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

PER_REQUEST = 16
PER_MESSAGE = 16
"""For what a provider's template puts around texts; those known put less."""

FOR_TOOLS = 256
FOR_TOOLS_OF_CLAUDE = 1024
"""For the words by which a provider tells its model of tools; Anthropic adds some hundred tokens of its own."""

_ENCODINGS = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})
_LONGEST_BYTES = 100_000
"""Longer texts are not worth tokenizing: with 4 MB a second they would hold up the loop."""

_KEPT = 4096

Count = Callable[[str], int]


def of_bytes(text: str) -> int:
    """A token a byte."""
    return len(text.encode(errors="surrogatepass"))


def counter(model: str) -> Count | None:
    """Exact counting for a model of OpenAI whose tokenizer is here; else None. litellm has to be loaded."""
    # On first use, and after litellm, which says where the ranks lie.
    tiktoken: Any = importlib.import_module("tiktoken")
    name = tiktoken.model.MODEL_TO_ENCODING.get(model) or next(
        (found for prefix, found in tiktoken.model.MODEL_PREFIX_TO_ENCODING.items() if model.startswith(prefix)), ""
    )
    if name not in _ENCODINGS:
        return None
    encoding: Any = None
    # A dialogue is counted anew with each of its steps.
    known: OrderedDict[bytes, int] = OrderedDict()

    def count(text: str) -> int:
        nonlocal encoding
        data = text.encode(errors="surrogatepass")
        if len(data) > _LONGEST_BYTES:
            return len(data)
        key = hashlib.blake2b(data, digest_size=16).digest()
        if (found := known.get(key)) is None:
            if encoding is None:
                encoding = tiktoken.get_encoding(name)
            found = known[key] = len(encoding.encode_ordinary(text))
            if len(known) > _KEPT:
                known.popitem(last=False)
        return found

    return count


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    response_format: Mapping[str, Any] | None,
    *,
    count: Count,
    for_tools: int = FOR_TOOLS,
) -> int:
    """The most that these parts of a request can be to the model; `messages` are of the OpenAI protocol."""
    most = PER_REQUEST
    for message in messages:
        most += PER_MESSAGE + count(message["content"] or "")
        for call in message.get("tool_calls", ()):
            function = call["function"]
            most += PER_MESSAGE + sum(map(count, (call["id"], function["name"], function["arguments"])))
        most += count(message.get("tool_call_id", ""))
    for part in (tools, response_format):
        if part:
            most += for_tools + count(_ascii(part))
    return most


def _ascii(part: object) -> str:
    """As JSON with escapes, which is how the longest of the templates has it."""
    text = msgspec.json.encode(part).decode()
    return text if text.isascii() else "".join(c if c.isascii() else f"\\u{ord(c):06x}" for c in text)
