"""A tree with its graph, for tests: real files, real worker processes, a policy that is a Python function."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from table_policy import ListJournal, Rule, TablePolicy

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard import Guard, GuardedStore
from cld.guard.events import hear
from cld.index.graph import Answer, Graph, GraphLimits
from cld.index.graph_keeper import GraphKeeper, catch_up
from cld.policy import Context
from cld.principal import parse_principal
from cld.resource import Draft, Meta
from cld.schema import Schemas
from cld.store import Store
from cld.store.local import LocalStore
from cld.uri import ROOT, URI, parse_uri

INDEXER = parse_principal("service:index")
SECONDS = 30.0


def everything(*_: object) -> bool:
    return True


async def no_schema(uri: URI) -> None:
    return None


class World:
    """One tree in `root`."""

    def __init__(self, root: Path, store: Store, limits: GraphLimits | None) -> None:
        self.root = root
        self.folder = root / ".cld" / "index" / "graph"
        self.store = store
        self.graph = Graph(self.folder, limits)

    def guarded(self, rule: Rule = everything, who: str = "user:ada", **policy: Any) -> GuardedStore:
        guard = Guard(parse_principal(who), TablePolicy(rule, **policy), ListJournal())
        return GuardedStore(guard, self.store, Schemas(no_schema), Context())

    async def put(self, uri: str, text: str = "", meta: Meta | None = None, **content: Any) -> None:
        body = {"text": text, **content} if text else content
        await self.store.put(Draft(parse_uri(uri), body, meta), by="user:ada", if_version="*")

    async def catch_up(self) -> bool:
        return await catch_up(self.folder, self.guarded(who="service:index"))

    async def answer(self, sparql: str, rule: Rule = everything, prefix: URI = ROOT, **policy: Any) -> Answer:
        return await self.graph.query(self.guarded(rule, **policy), sparql, prefix)

    async def rows(self, sparql: str, rule: Rule = everything, **more: Any) -> list[tuple[Any, ...]]:
        """The rows that answer `sparql`, in an order that does not depend on the engine."""
        return sorted((await self.answer(sparql, rule, **more)).rows, key=repr)

    async def export(self, format: Any, rule: Rule = everything) -> str:
        return b"".join([piece async for piece in self.graph.export(self.guarded(rule), format)]).decode()

    @asynccontextmanager
    async def kept(self, *, wait: bool = True) -> AsyncIterator[GraphKeeper]:
        """The graph kept true by a keeper in this process; entered once all of the tree is in it."""
        store = self.guarded(who="service:index")
        async with open_bus(Watch(), self.root.resolve(), self.store) as bus:
            keeper = GraphKeeper(self.folder, store, lambda: hear(store, bus))
            task = asyncio.create_task(keeper.keeping.run())
            try:
                if wait:
                    await asyncio.wait_for(keeper.keeping.ready.wait(), SECONDS)
                yield keeper
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


@asynccontextmanager
async def a_world(root: Path, limits: GraphLimits | None = None) -> AsyncIterator[World]:
    store = await LocalStore.open(root, durability="none")
    world = World(root, store, limits)
    try:
        yield world
    finally:
        await world.graph.aclose()
        await store.aclose()
