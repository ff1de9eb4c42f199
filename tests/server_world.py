"""A whole server over a real folder and a policy written as a function, for the tests of `cld.server`."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client
from table_policy import ListJournal, Rule, TablePolicy

from cld.config import Settings, Watch
from cld.policy import Action
from cld.principal import Principal
from cld.runtime import Runtime
from cld.server.access import Identity
from cld.server.application import Application
from cld.store import Store
from cld.store.local import LocalStore

ADA = Principal("user:ada", "user")
BOB = Principal("user:bob", "user")


def everything(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    return True


def nothing(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
    return False


class World:
    """A runtime with its parts in reach, and an application in which whoever is in `who` is asking."""

    def __init__(self, runtime: Runtime, store: Store, policy: TablePolicy, journal: ListJournal) -> None:
        self.runtime = runtime
        self.store = store
        self.policy = policy
        self.journal = journal
        self.who = runtime.principal
        self.application = Application(runtime, lambda _: Identity(self.who))


@asynccontextmanager
async def world(
    folder: Path,
    rule: Rule = everything,
    *,
    principal: str = ADA.id,
    tools: str = "all",
    needs_meta: bool = False,
    obligations: Mapping[Action, Mapping[str, Any]] | None = None,
    store: Store | None = None,
) -> AsyncGenerator[World]:
    """A world over `folder`, closed on leaving; `store` in place of the folder's own, to see what it is asked."""
    settings = Settings(
        root=str(folder), principal=principal, tools=tools, durability="none", watch=Watch(poll_seconds=0.05)
    )
    policy = TablePolicy(rule, needs_meta=needs_meta, obligations=obligations)
    journal = ListJournal()
    kept = store or await LocalStore.open(folder, durability="none")
    runtime = Runtime(settings, kept, policy, journal)  # type: ignore[arg-type]
    try:
        yield World(runtime, kept, policy, journal)
    finally:
        await runtime._stop_watching()
        await kept.aclose()


MODES = ("legacy", "2026-07-28")


@asynccontextmanager
async def client(made: World, mode: str, **options: Any) -> AsyncGenerator[Client]:
    """A client of the world's application, in one protocol era or the other."""
    async with Client(made.application.server(), mode=mode, **options) as connected:
        yield connected


async def call(connected: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers as data; fails when it answers with an error."""
    result = await connected.call_tool(tool, arguments)
    assert not result.is_error, result.structured_content
    return result.structured_content


async def fail(connected: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The error a tool answers with; fails when it answers well, or its text says something else.

    The text begins with the kind where there is one: what made a tool fail.
    """
    result = await connected.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    error = result.structured_content["error"]
    assert result.content[0].text == f"{error.get('kind', error['code'])}: {error['message']}"
    return error
