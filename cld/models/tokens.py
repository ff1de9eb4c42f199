"""How many tokens a request is at most, before it is sent.

Exact counting needs the tokenizer and its ranks on this machine: those of OpenAI's models come with litellm. For
all others a byte counts as a token, which no tokenizer in use exceeds: too many, never too few. Nothing is fetched.
"""

import hashlib
import importlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

PER_REQUEST = 16
PER_MESSAGE = 16
"""For what a provider's template puts around texts; those known put less."""

FOR_TOOLS = 256
FOR_TOOLS_OF_CLAUDE = 1024
"""For the words by which a provider tells its model of tools; Anthropic adds some hundred tokens of its own."""

_RANKS = {"cl100k_base": "cl100k_base", "o200k_base": "o200k_base", "o200k_harmony": "o200k_base"}
"""Encodings, and the list of ranks that each is made of."""

_RANKS_AT = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_LONGEST_BYTES = 100_000
"""Longer texts are not worth tokenizing: with 4 MB a second they would hold up the loop."""

_KEPT = 4096

Count = Callable[[str], int]


def of_bytes(text: str) -> int:
    """A token a byte."""
    return len(text.encode(errors="surrogatepass"))


def counter(model: str) -> Count | None:
    """Exact counting for a model of OpenAI whose tokenizer is here; else None. Takes a moment, and `load` before it."""
    # On first use, as litellm, with which it comes.
    tiktoken: Any = importlib.import_module("tiktoken")
    name = tiktoken.model.MODEL_TO_ENCODING.get(model) or next(
        (found for prefix, found in tiktoken.model.MODEL_PREFIX_TO_ENCODING.items() if model.startswith(prefix)), ""
    )
    if name not in _RANKS or not _is_here(_RANKS[name]):
        return None
    encoding: Any = tiktoken.get_encoding(name)
    # A dialogue is counted anew with each of its steps.
    known: OrderedDict[bytes, int] = OrderedDict()

    def count(text: str) -> int:
        data = text.encode(errors="surrogatepass")
        if len(data) > _LONGEST_BYTES:
            return len(data)
        key = hashlib.blake2b(data, digest_size=16).digest()
        if (found := known.get(key)) is None:
            found = known[key] = len(encoding.encode_ordinary(text))
            if len(known) > _KEPT:
                known.popitem(last=False)
        return found

    return count


def _is_here(ranks: str) -> bool:
    """Whether tiktoken finds a list of ranks on this machine: it would fetch one that it does not find."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", "")
    # So it names what it keeps.
    name = hashlib.sha1(_RANKS_AT.format(ranks).encode(), usedforsecurity=False).hexdigest()
    return bool(folder) and (Path(folder) / name).is_file()


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
