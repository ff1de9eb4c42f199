"""A process that keeps the indexes of a tree, or asks them, for tests that kill it.

`python knowledge_process.py keep ROOT` says "holds KIND" for each index that it comes to keep.
`python knowledge_process.py ask ROOT` asks all of them again and again until its input ends, and then prints how often
it did, and what went wrong, as JSON.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from graph_world import everything, no_schema
from table_policy import ListJournal, TablePolicy

from cld.config import Watch
from cld.events.choose import open_bus
from cld.guard import Guard, GuardedStore
from cld.guard.events import hear
from cld.index import Model
from cld.index.election import Candidate
from cld.index.election_history import with_history
from cld.index.election_table import ElectionTable
from cld.index.graph import Graph
from cld.index.search import Search
from cld.knowledge import KINDS, Kind, Knowledge
from cld.policy import Context
from cld.principal import parse_principal
from cld.schema import Schemas
from cld.store.local import LocalStore

ASSISTANT = "cld:common.Assistant.ada"


async def keep(root: Path) -> None:
    store = await LocalStore.open(root, durability="none")
    mine = GuardedStore(
        Guard(parse_principal("service:index"), TablePolicy(everything), ListJournal()),
        store,
        Schemas(no_schema),
        Context(),
    )
    async with open_bus(Watch(), root.resolve(), store) as bus:
        knowledge = Knowledge(root / ".cld" / "index", mine, lambda types: hear(mine, bus, types=types), Model())

        async def held(kind: Kind) -> None:
            await knowledge._keepings[kind].holds.wait()
            print("holds", kind, flush=True)

        async with asyncio.TaskGroup() as tasks:
            for kind in KINDS:
                tasks.create_task(knowledge._begin(kind))
                tasks.create_task(held(kind))
        await asyncio.Event().wait()


async def ask(root: Path) -> None:
    store = await LocalStore.open(root, durability="none")
    mine = GuardedStore(
        Guard(parse_principal("user:ada"), TablePolicy(everything), ListJournal()), store, Schemas(no_schema), Context()
    )
    folder = root / ".cld" / "index"
    search, graph = Search(folder / "search"), Graph(folder / "graph")
    table = ElectionTable(folder / "elections", writes=False)
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    asked, wrong = 0, list[str]()
    print("asks", flush=True)
    while not ended.done():
        for question in (
            search.query(mine, "which text tells of zebras?"),
            graph.query(mine, "SELECT ?s { ?s vocab:title ?t }"),
            with_history(mine, [Candidate(ASSISTANT)], table),
        ):
            try:
                await question
            except Exception as error:  # what a test must know
                wrong.append(f"{type(error).__name__}: {error}")
            asked += 1
    table.close()
    await graph.aclose()
    print(json.dumps({"asked": asked, "wrong": wrong}), flush=True)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run({"keep": keep, "ask": ask}[sys.argv[1]](Path(sys.argv[2])))
