"""A tree with its events and an index, for tests: real files, a policy that is a Python function."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from table_policy import ListJournal, Rule, TablePolicy

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard import Guard, GuardedStore
from cld.guard.events import hear
from cld.index import Model
from cld.index.check import Checked, check_search
from cld.index.maintainer import Maintainer
from cld.index.search import Search
from cld.policy import Context
from cld.principal import parse_principal
from cld.resource import Draft
from cld.schema import Schemas
from cld.store import Store
from cld.store.local import LocalStore
from cld.uri import URI, parse_uri

INDEXER = parse_principal("service:index")
ADA = parse_principal("user:ada")
SECONDS = 30.0


def everything(*_: object) -> bool:
    return True


async def no_schema(uri: URI) -> None:
    return None


class World:
    """One tree in `root`."""

    def __init__(self, root: Path, store: Store, rule: Rule = everything) -> None:
        self.root = root
        self.folder = root / ".cld" / "index"
        self.store = store
        self.rule = rule
        self.mine = self.guarded()
        self.search = Search(self.folder)

    def guarded(self, rule: Rule | None = None, **policy: Any) -> GuardedStore:
        """The store as somebody may use it."""
        guard = Guard(ADA, TablePolicy(rule or everything, **policy), ListJournal())
        return GuardedStore(guard, self.store, Schemas(no_schema), Context())

    async def put(self, uri: str, text: str = "", **content: Any) -> str:
        body = {"text": text, **content} if text else content
        return (await self.mine.put(Draft(parse_uri(uri), body), if_version="*")).version

    async def delete(self, uri: str) -> None:
        await self.mine.delete(parse_uri(uri))

    async def ask(self, query: str, rule: Rule | None = None, **more: Any) -> list[str]:
        """The uris that answer `query`."""
        return [hit.uri for hit in await self.search.query(self.guarded(rule), query, **more)]

    async def check(self, **more: Any) -> Checked:
        return await check_search(self.folder, self.mine, **more)

    def maintainer(self, model: Model | None = None, **options: Any) -> Maintainer:
        """A maintainer that hears of nothing."""
        return Maintainer(self.folder, self.mine, contextlib.nullcontext, model, **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def maintained(self, model: Model | None = None, **options: Any) -> AsyncIterator[Maintainer]:
        """The index kept true by a maintainer in this process; entered once all of the tree is indexed."""
        guard = Guard(INDEXER, TablePolicy(self.rule), ListJournal())
        store = GuardedStore(guard, self.store, Schemas(no_schema), Context())
        wait = options.pop("wait", True)
        async with open_bus(Watch(), self.root.resolve(), self.store) as bus:
            maintainer = Maintainer(self.folder, store, lambda: hear(store, bus), model, **options)
            task = asyncio.create_task(maintainer.keeping.run())
            try:
                if wait:
                    await asyncio.wait_for(maintainer.keeping.ready.wait(), SECONDS)
                yield maintainer
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


@asynccontextmanager
async def a_world(root: Path, rule: Rule = everything) -> AsyncIterator[World]:
    store = await LocalStore.open(root, durability="none")
    try:
        yield World(root, store, rule)
    finally:
        await store.aclose()


async def until(true: Callable[[], Awaitable[object]], seconds: float = SECONDS) -> float:
    """Return once `true` is, and how long that took; fail when it does not become so."""
    begun = time.monotonic()
    while not await true():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not so after {seconds} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - begun
