"""The tool that gives the context for working on a resource."""

import importlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec

from cld.guard import GuardedStore
from cld.server.call import Call, Reply
from cld.server.registry import READS, Tool, tool_of
from cld.server.resources_tools import COUNT, TEXT, AnyUri, described
from cld.uri import URI

if TYPE_CHECKING:
    from cld.index.window import Window

Look = Callable[[GuardedStore, URI, int], Awaitable["Window"]]
"""`cld.index.window.window` with what finds similar resources: the window of a resource, within a budget of tokens."""

_MORE_TOKENS = 20
"""What the line takes that says how many notes there was no room for."""


class ContextGet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: AnyUri
    budget: Annotated[int, described("At most so many tokens", ge=100, le=1_000_000)] = 4000


def context_tools(look: Look) -> Sequence[Tool]:
    """The tool, with what answers it."""

    async def context_get(call: Call, args: ContextGet) -> Reply:
        async with call.progressing(f"gathering the context of {args.uri}"):
            found = await look(call.store, args.uri, args.budget)
        return Reply(msgspec.to_builtins(found), "\n\n".join(part for part in (found.text, _notes(found)) if part))

    return (
        tool_of(
            ContextGet,
            context_get,
            name="context_get",
            title="Context of a resource",
            description=(
                "What to read before working on a resource: what it is part of, what was done beside it, and what is "
                "like it, within a budget of tokens; each part with its URI and places to quote from, and what was "
                "left out and why."
            ),
            annotations=READS,
            returns={
                "uri": TEXT,
                "budget": COUNT,
                "tokens": COUNT,
                "parts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "uri": TEXT,
                            "role": {"type": "string", "enum": ["ancestor", "self", "sibling", "similar"]},
                            "version": TEXT,
                            "text": TEXT,
                            "slices": {"type": "array", "items": {"type": "object"}},
                            "tokens": COUNT,
                        },
                    },
                },
                "left_out": {"type": "array", "items": {"type": "object"}},
                "more_left_out": COUNT,
            },
            required=["uri", "tokens", "parts", "left_out"],
        ),
    )


def _notes(found: "Window") -> str:
    """What was left out and why, as far as the budget goes; the data has all of it."""
    lines = [f"left out: {one.uri} ({one.role}): {one.why}" for one in found.left_out]
    left = found.budget - found.tokens - _MORE_TOKENS
    if left < 0:
        return ""
    tokens_of: Callable[[list[str]], list[int]] = importlib.import_module("cld.index.window_texts").tokens_of
    taken: list[str] = []
    for line, tokens in zip(lines, tokens_of([f"{line}\n" for line in lines]), strict=True):
        left -= tokens
        if left < 0:
            break
        taken.append(line)
    if more := len(lines) - len(taken) + found.more_left_out:
        taken.append(f"left out besides: {more}")
    return "\n".join(taken)
