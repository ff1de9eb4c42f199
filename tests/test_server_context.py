"""`context_get` over MCP: the window as data and as text, for the caller's own rights."""

from pathlib import Path

import anyio
import pytest
from server_world import MODES, call, client, fail, world

from cld.guard import GuardedStore
from cld.index.window import Window, window
from cld.resource import Draft
from cld.server.context_tools import context_tools
from cld.uri import URI, parse_uri

TALK = "cld:common.Conversation.c1"
MESSAGE = f"{TALK}/common.Message.m1"


async def look(store: GuardedStore, uri: URI, budget: int) -> Window:
    return await window(store, None, uri, budget)


@pytest.mark.parametrize("mode", MODES)
def test_the_context_of_a_resource_comes_with_what_it_is_part_of(tmp_path: Path, mode: str) -> None:
    hidden = f"{TALK}/common.Message.m0"

    async def main() -> None:
        async with world(tmp_path, lambda _p, _a, uri, _m: uri != hidden) as made:
            for uri, text in ((TALK, "About ships."), (hidden, "A secret."), (MESSAGE, "Which came in?")):
                await made.store.put(Draft(parse_uri(uri), {"text": text}), by="user:ada")
            made.application.registry.replace("context", context_tools(look))
            async with client(made, mode) as connected:
                found = await call(connected, "context_get", uri=MESSAGE, budget=200)
                assert [(part["role"], part["uri"], part["text"]) for part in found["parts"]] == [
                    ("ancestor", TALK, "About ships."),
                    ("self", MESSAGE, "Which came in?"),
                ]
                assert found["tokens"] <= 200 and found["left_out"] == []
                assert (await fail(connected, "context_get", uri=hidden))["code"] == "not_found"
                assert (await fail(connected, "context_get", uri=MESSAGE, budget=1))["code"] == "invalid_argument"

    anyio.run(main)
