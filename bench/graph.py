"""The graph: making it, asking it, and how fresh it is; rdflib's own store as yardstick.

    python bench/graph.py [--count N] [--rounds N] [--dir FOLDER]

`count` resources, each with a parent, a title, two links and a front matter. `engine` is the query alone, in the
worker's engine, and `rdflib` the same query on the same statements in rdflib's store; `whole` is a call of
`Graph.query`, with a decision on every resource and both ways through the worker's pipes.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pyoxigraph

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from graph_world import World, a_world

from cld.index.graph_table import FILE, GraphTable
from cld.index.linked_terms import PREFIXES

TEXT = """---
title: Note {n}
tags: [one, two{m}]
---
See [the next](http://example.org/{m}) and cld:common.Conversation.c{p}/common.Text.t{k}.
"""

QUERIES = {
    "what links to what is tagged two3": (
        "SELECT ?a ?b { ?a vocab:linksTo ?b . ?b dcterms:subject 'two3' } ORDER BY ?a LIMIT 100"
    ),
    "two steps of links from one": (
        "SELECT DISTINCT ?c { <cld:common.Conversation.c3/common.Text.t3> vocab:linksTo/vocab:linksTo ?c } LIMIT 100"
    ),
    "how many of each tag": "SELECT ?tag (count(?s) AS ?n) { ?s dcterms:subject ?tag } GROUP BY ?tag ORDER BY ?tag",
}


async def fill(world: World, count: int) -> int:
    size = 0
    for n in range(count):
        linked = (n * 7) % count
        text = TEXT.format(n=n, m=n % 10, k=linked, p=linked % 10)
        size += len(text)
        await world.put(f"cld:common.Conversation.c{n % 10}/common.Text.t{n}", text, title=f"Note {n}")
    return size


def timed(rounds: int, run) -> float:
    """The median of `rounds` runs, in milliseconds."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return statistics.median(found) * 1e3


async def measure(root: Path, count: int, rounds: int) -> None:
    async with a_world(root) as world:
        size = await fill(world, count)
        begun = time.perf_counter()
        await world.catch_up()
        took = time.perf_counter() - begun
        kept = sum(file.stat().st_size for file in world.folder.iterdir() if file.name.startswith(FILE))
        print(f"made from {count:,} resources   {took:8.2f} s     {count / took:,.0f} a second")
        print(f"kept in                      {kept / 1e6:8.2f} MB    {kept / size:.1f} x their text")
        begun = time.perf_counter()
        await world.catch_up()
        print(f"nothing changed              {time.perf_counter() - begun:8.2f} s")
        begun = time.perf_counter()
        await world.answer("ASK {}")
        print(f"first query, worker filled   {time.perf_counter() - begun:8.2f} s")
        table = GraphTable(world.folder, writes=False)
        triples = b"".join(data for _, _, data in table.triples(list(table.versions())))
        table.close()
        engine = pyoxigraph.Store()
        engine.load(triples, format=pyoxigraph.RdfFormat.N_TRIPLES)
        import rdflib  # noqa: PLC0415 - the yardstick only

        yardstick = rdflib.Graph()
        yardstick.parse(data=triples, format="nt")
        print(f"{len(yardstick):,} statements")
        for name, query in QUERIES.items():
            whole = []
            for _ in range(rounds):
                begun = time.perf_counter()
                answer = await world.answer(query)
                whole.append(time.perf_counter() - begun)
            mine = statistics.median(whole) * 1e3
            bare = timed(rounds, lambda query=query: list(engine.query(query, prefixes=PREFIXES)))
            other = timed(max(1, rounds // 10), lambda query=query: list(yardstick.query(query, initNs=PREFIXES)))
            print(
                f"{name:36} whole {mine:8.2f} ms  engine {bare:8.2f} ms  rdflib {other:8.2f} ms"
                f"  {other / bare:.0f} x  ({len(answer.rows)} rows)"
            )
        await freshness(world, rounds)


async def freshness(world: World, rounds: int) -> None:
    """From a put until a query finds it."""
    waits = []
    async with world.kept():
        for n in range(rounds):
            uri = f"cld:common.Text.fresh{n}"
            begun = time.perf_counter()
            await world.put(uri, title="fresh")
            query = f"ASK {{ <{uri}> vocab:title 'fresh' }}"
            while not (await world.answer(query)).rows[0][0]:  # noqa: ASYNC110 - nobody tells a reader
                await asyncio.sleep(0.001)
            waits.append((time.perf_counter() - begun) * 1e3)
    waits.sort()
    median, worst = statistics.median(waits), waits[int(len(waits) * 0.99)]
    print(f"found after a put            p50 {median:.0f} ms  p99 {worst:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dir", help="where to make the tree")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # rdflib's own
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        asyncio.run(measure(Path(folder) / "resources", arguments.count, arguments.rounds))


if __name__ == "__main__":
    main()
