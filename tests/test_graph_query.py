"""Queries: over what the caller may read and nothing else, never for longer than they may."""

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from graph_world import World, a_world
from table_policy import Rule

from cld.index.graph import Graph, GraphLimits, InvalidQuery, QueryStopped
from cld.index.graph_messages import Extract
from cld.index.graph_process import GraphProcess, WorkerEnded
from cld.index.graph_sparql import MAX_SPARQL, check, undeclared
from cld.resource import Meta, Resource
from cld.uri import URI, is_within

pytestmark = pytest.mark.anyio

OPEN = URI("cld:common.Conversation.open")
SHUT = URI("cld:common.Conversation.shut")
LIMITS = GraphLimits(seconds=2.0, rows=50, result_bytes=10_000, memory_bytes=64 * 1024 * 1024, idle_seconds=30.0)

EXPLODING = "SELECT (count(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l . ?m ?n1 ?o }"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "resources", LIMITS) as world:
        yield world


def only_open(principal: object, action: object, uri: URI, meta: object) -> bool:
    return not is_within(uri, SHUT)


async def fill(world: World, *parents: URI) -> None:
    """Resources that name each other, in each of `parents`; the same statement stands in many."""
    for parent in parents:
        for n in range(6):
            links = " ".join(f"{other}/common.Text.t{(n + 1) % 6}" for other in (OPEN, SHUT))
            shared = "```turtle\n<x:all> <x:says> 1 . [] <x:by> <> .\n```"
            await world.put(f"{parent}/common.Text.t{n}", f"{links}\n{shared}", title=f"T{n} of {parent[-4:]}")
        await world.put(parent, title=parent)


GUARDED_QUERIES = (
    "SELECT (count(*) AS ?n) { ?s ?p ?o }",
    "SELECT ?s ?p ?o { ?s ?p ?o FILTER(!isBlank(?s)) FILTER(?p NOT IN (vocab:createdAt, vocab:updatedAt)) }",
    "SELECT (count(?b) AS ?n) { ?b <x:by> ?s }",
    "SELECT ?g (count(*) AS ?n) { GRAPH ?g { ?s ?p ?o } } GROUP BY ?g",
    "SELECT (count(DISTINCT ?g) AS ?n) { GRAPH ?g { <x:all> <x:says> 1 } }",
    "SELECT ?a ?b { ?a vocab:linksTo+ ?b }",
    "SELECT ?a ?n { ?a vocab:linksTo/vocab:linksTo/vocab:title ?n }",
    "SELECT ?s { ?s vocab:type ?t FILTER EXISTS { ?x vocab:linksTo ?s . ?x vocab:parent ?p } }",
    "SELECT ?s { ?s vocab:type ?t FILTER NOT EXISTS { ?s vocab:linksTo/vocab:title ?x } }",
    f"SELECT (count(*) AS ?n) FROM <{SHUT}> FROM <{SHUT}/common.Text.t1> {{ ?s ?p ?o }}",
    f"SELECT ?s FROM NAMED <{SHUT}> FROM NAMED <{OPEN}> {{ GRAPH ?g {{ ?s ?p ?o }} }}",
    f"SELECT ?p {{ GRAPH <{SHUT}/common.Text.t1> {{ ?s ?p ?o }} }}",
    f"ASK {{ <{SHUT}/common.Text.t1> vocab:title ?t }}",
    f"DESCRIBE <{SHUT}/common.Text.t1>",
    "SELECT (sum(?v) AS ?n) (max(?t) AS ?m) { ?s vocab:title ?t . <x:all> <x:says> ?v }",
    "SELECT ?s { { SELECT ?s (count(?o) AS ?n) { ?s ?p ?o } GROUP BY ?s } FILTER(?n > 5) }",
)


async def test_the_answer_is_that_over_a_tree_that_never_held_what_is_denied(world: World, tmp_path: Path) -> None:
    await fill(world, OPEN, SHUT)
    await world.catch_up()
    async with a_world(tmp_path / "bare", LIMITS) as bare:
        await fill(bare, OPEN)
        await bare.catch_up()
        for query in GUARDED_QUERIES:
            assert await world.rows(query, only_open) == await bare.rows(query), query
        assert await world.rows(GUARDED_QUERIES[0]) != await bare.rows(GUARDED_QUERIES[0])
        # Also after somebody who may read all has asked, and the same one could a moment ago.
        for query in GUARDED_QUERIES:
            assert await world.rows(query, only_open) == await bare.rows(query), query


async def test_what_is_denied_is_in_no_export(world: World) -> None:
    await fill(world, OPEN, SHUT)
    await world.catch_up()
    for format in ("turtle", "trig", "nquads"):
        assert "of shut" in await world.export(format)
        shown = await world.export(format, only_open)
        assert "of shut" not in shown and "of open" in shown


async def test_a_revoked_right_counts_at_the_next_query(world: World) -> None:
    await fill(world, OPEN)
    await world.catch_up()
    allowed = True
    rule: Rule = lambda *_: allowed  # noqa: E731
    assert (await world.rows("SELECT (count(*) AS ?n) { ?s ?p ?o }", rule))[0][0] > 0
    allowed = False
    assert await world.rows("SELECT (count(*) AS ?n) { ?s ?p ?o }", rule) == [(0,)]


async def test_rules_that_look_at_meta_decide_on_what_the_graph_was_made_of_and_on_what_is_there_now(
    world: World,
) -> None:
    secret, shown = Meta(purpose="secret"), Meta(purpose="shown")
    await world.put("cld:common.Text.was", "one", secret)
    await world.put("cld:common.Text.is", "one", shown)
    await world.put("cld:common.Text.stays", "one", shown)
    await world.catch_up()
    # The graph is not told: it is made of the old ones.
    await world.put("cld:common.Text.was", "two", shown)
    await world.put("cld:common.Text.is", "two", secret)

    def by_meta(principal: object, action: object, uri: URI, meta: object) -> bool:
        return not isinstance(meta, dict) or meta.get("purpose") != "secret"

    assert await world.rows("SELECT ?s { ?s vocab:type ?t }", by_meta, needs_meta=True) == [("cld:common.Text.stays",)]


async def test_a_prefix_leaves_only_what_is_at_or_below_it(world: World) -> None:
    await fill(world, OPEN, SHUT)
    await world.put(f"{OPEN}er", title="no child of open")
    await world.catch_up()
    graphs = await world.rows("SELECT DISTINCT ?g { GRAPH ?g { ?s ?p ?o } }", prefix=OPEN)
    assert len(graphs) == 7 and all(is_within(URI(row[0]), OPEN) for row in graphs)


async def test_one_statement_in_many_graphs_counts_once_until_the_last_is_gone(world: World) -> None:
    await fill(world, OPEN)
    await world.catch_up()
    query = "SELECT (count(*) AS ?n) { <x:all> <x:says> ?v }"
    nodes = "SELECT (count(*) AS ?n) { ?b <x:by> ?s . GRAPH ?s { ?b <x:by> ?s } }"
    assert await world.rows(query) == [(1,)]
    for n in range(6):
        assert await world.rows(query) == [(1,)]
        assert await world.rows(nodes) == [(6 - n,)]
        await world.put(f"{OPEN}/common.Text.t{n}", "nothing")
        await world.catch_up()
    assert await world.rows(query) == [(0,)]


async def test_values_are_plain_and_resources_are_told_by_their_uris(world: World) -> None:
    turtle = '<> <x:v> 1, 1.5, true, "text", "tagged"@en, 12345678901234567890, "2020-01-02"^^xsd:date, [] .'
    prefix = "@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n"
    await world.put("cld:common.Text.t", prefix + turtle, media_type="text/turtle")
    await world.catch_up()
    answer = await world.answer("SELECT ?s ?v ?none { ?s <x:v> ?v }")
    assert answer.columns == ("s", "v", "none")
    assert {row[0] for row in answer.rows} == {"cld:common.Text.t"}
    assert {row[2] for row in answer.rows} == {None}
    values = sorted((row[1] for row in answer.rows), key=repr)
    wanted = [1, 1.5, True, "text", "tagged", "12345678901234567890", "2020-01-02", "_:b0"]
    assert values == sorted(wanted, key=repr)
    assert (await world.answer("ASK { ?s ?p ?o }")).rows == ((True,),)
    built = await world.answer("CONSTRUCT { ?s <x:w> ?v } { ?s <x:v> ?v FILTER(?v = 'text') }")
    assert (built.columns, built.rows) == (
        ("subject", "predicate", "object"),
        (("cld:common.Text.t", "x:w", "text"),),
    )


async def test_an_exploding_query_is_stopped_in_time_and_the_next_one_is_answered(world: World) -> None:
    await fill(world, OPEN, SHUT)
    await world.catch_up()
    begun = time.monotonic()
    with pytest.raises(QueryStopped, match="after 2 s"):
        await world.answer(EXPLODING)
    assert time.monotonic() - begun < 10
    assert (await world.answer("ASK { ?s ?p ?o }")).rows == ((True,),)


async def test_a_query_that_takes_all_memory_is_stopped(world: World) -> None:
    doubled = " ".join(f"BIND(CONCAT(?a{n}, ?a{n}) AS ?a{n + 1})" for n in range(30))
    with pytest.raises(QueryStopped, match="memory"):
        await world.answer(f'SELECT (STRLEN(?a30) AS ?n) {{ BIND("xxxxxxxxxxxxxxxx" AS ?a0) {doubled} }}')


async def test_a_query_that_sorts_or_groups_is_stopped_when_it_takes_all_memory(world: World) -> None:
    await fill(world, OPEN)
    await world.catch_up()
    every = "?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l"
    for query in (
        f"SELECT * {{ {every} }} ORDER BY ?l",
        f"SELECT (count(*) AS ?n) {{ {every} }} GROUP BY ?a ?c ?d ?f ?g ?i ?l",
    ):
        with pytest.raises(QueryStopped, match="memory"):
            await world.answer(query)


async def test_a_text_whose_linked_data_takes_all_memory_ends_only_its_worker() -> None:
    page = f"<div vocab='x:' rel='{' '.join(f'a{n}' for n in range(5000))}'>" + "<i about=x:y></i>" * 5000
    content = {"media_type": "text/html", "text": page}
    hostile = Resource(uri="cld:common.Text.t", type="common.Text", id="t", content=content)
    process = await GraphProcess.start(64 * 1024 * 1024)
    with pytest.raises(WorkerEnded, match="memory"):
        await process.ask(Extract((msgspec.json.encode(hostile),)))


@pytest.mark.parametrize("piece", ['\\"', "\\'", '"\\', "'\\", '\\"""', "(", "<", "a\n", "'\"", ":\\'"])
def test_looking_through_a_query_takes_time_in_proportion_to_its_length(piece: str) -> None:
    for lead in ("", '"', "'"):
        text = (lead + piece * MAX_SPARQL)[:MAX_SPARQL]
        begun = time.monotonic()
        with contextlib.suppress(InvalidQuery):
            check(text)
        undeclared(text)
        # Some 50 ms; where each unclosed text is looked for to the end, many seconds.
        assert time.monotonic() - begun < 2


async def test_a_query_that_crashes_the_engine_ends_only_its_worker(world: World) -> None:
    with pytest.raises(QueryStopped, match="nests too deep"):
        await world.answer("SELECT * " + "{" * 30_000 + "}" * 30_000)
    assert (await world.answer("ASK {}")).rows == ((True,),)


async def test_a_cancelled_query_is_not_worked_on_any_more(world: World) -> None:
    await fill(world, OPEN, SHUT)
    await world.catch_up()
    await world.answer("ASK {}")
    slots = list(world.graph._workers._free)
    asking = asyncio.create_task(world.answer(EXPLODING))
    # Without a free place it is being worked on.
    end = time.monotonic() + 20
    while len(world.graph._workers._free) == LIMITS.workers:
        assert time.monotonic() < end
        await asyncio.sleep(0)
    (slot,) = [slot for slot in slots if slot not in world.graph._workers._free]
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert slot._process is None
    assert (await world.answer("ASK {}")).rows == ((True,),)


async def test_rows_and_bytes_are_bounded_and_the_cut_is_told(world: World) -> None:
    turtle = "".join(f"<x:a> <x:b> {n} .\n" for n in range(200))
    await world.put("cld:common.Text.many", turtle, media_type="text/turtle")
    await world.put("cld:common.Text.long", f'<x:a> <x:c> "{"x" * 9000}", "{"y" * 9000}" .', media_type="text/turtle")
    await world.catch_up()
    answer = await world.answer("SELECT ?v { <x:a> <x:b> ?v }")
    assert (len(answer.rows), answer.truncated) == (50, True)
    assert "first 50 rows" in answer.notes[0]
    answer = await world.answer("SELECT ?v { <x:a> <x:c> ?v }")
    assert (len(answer.rows), answer.truncated) == (1, True)
    assert "10000 bytes" in answer.notes[0]
    assert not (await world.answer("SELECT ?v { <x:a> <x:b> ?v } LIMIT 50")).truncated


@pytest.mark.parametrize(
    "update",
    [
        "INSERT DATA { <x:a> <x:b> <x:c> }",
        "DELETE WHERE { ?s ?p ?o }",
        "PREFIX x: <x:> CLEAR ALL",
        "LOAD <http://127.0.0.1/>",
        "DROP ALL",
        "ASK {} ; DELETE WHERE { ?s ?p ?o }",
    ],
)
async def test_updates_are_refused(world: World, update: str) -> None:
    await world.put("cld:common.Text.t", "text")
    await world.catch_up()
    before = await world.rows("SELECT ?s ?p ?o { ?s ?p ?o }")
    with pytest.raises(InvalidQuery):
        await world.answer(update)
    assert await world.rows("SELECT ?s ?p ?o { ?s ?p ?o }") == before


async def test_a_mistake_is_told_with_its_line_and_column(world: World) -> None:
    with pytest.raises(InvalidQuery, match="line 2, column 12") as error:
        await world.answer("SELECT * {\n  ?s ?p ?o ) }")
    assert error.value.details() == {"field": "sparql", "line": 2, "column": 12}
    for query, place in (
        ("SELECT ?s WHERE { ?s a ; }\nLIMIT 5", "line 1, column 24: not understood from '; }'"),
        ("SELECT ?s {\n ?s ?p 'text'@en, 1^^xsd:x }", "line 2, column 20"),
        ("SELECT ?s { ?s ?p ?o # a comment\n}\nLIMIT x", "line 3, column 7"),
        ("SELECT ?s { ?s ?p ?o", "column 21: it ends too early"),
    ):
        with pytest.raises(InvalidQuery, match=re.escape(place)):
            await world.answer(query)
    with pytest.raises(InvalidQuery, match="line 2, column 1: DELETE is an update"):
        await world.answer("# now\nDELETE WHERE { ?s ?p ?o }")
    with pytest.raises(InvalidQuery, match="no PREFIX says what geo: stands for"):
        await world.answer("PREFIX x: <x:> SELECT * { ?s geo:lat ?o ; x:y schema:z }")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * { SERVICE <http://127.0.0.1:PORT/> { ?s ?p ?o } }",
        "SELECT * { ?s vocab:a\\' ?o SERVICE <http://127.0.0.1:PORT/> { ?s ?p ?o } FILTER(?s = \"'\") }",
        "SELECT * { service silent <http://127.0.0.1:PORT/> { ?s ?p ?o } }",
        "SELECT * { \\u0053ERVICE <http://127.0.0.1:PORT/> { ?s ?p ?o } }",
        'SELECT * { VALUES ?x { """a" } SERVICE <http://127.0.0.1:PORT/> { ?s ?p ?o } } # \'\'\'',
        "SELECT * { # it's a comment\n SERVICE ?x { ?s ?p ?o } VALUES ?x { <http://127.0.0.1:PORT/> } }",
    ],
)
async def test_no_other_service_is_asked(world: World, query: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        with pytest.raises(InvalidQuery):
            await world.answer(query.replace("PORT", str(server.getsockname()[1])))
        with pytest.raises(TimeoutError):
            server.accept()


async def test_the_worker_itself_can_open_no_connection(world: World) -> None:
    from cld.index.graph_messages import Query, Refused  # noqa: PLC0415
    from cld.index.graph_process import GraphProcess  # noqa: PLC0415

    process = await GraphProcess.start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        query = f"SELECT * {{ SERVICE <http://127.0.0.1:{server.getsockname()[1]}/> {{ ?s ?p ?o }} }}"
        answer = await process.ask(Query(query, 10, 1000, 5.0))
        assert isinstance(answer, Refused) and "open files" in answer.reason
        with pytest.raises(TimeoutError):
            server.accept()
    await process.aclose()


async def test_words_that_only_look_like_a_service_are_fine(world: World) -> None:
    query = """PREFIX service: <x:> # SERVICE
    SELECT ?service { VALUES ?service { service:a "SERVICE" 'a "SERVICE' <x:SERVICE> } }"""
    assert len((await world.answer(query)).rows) == 4


async def test_without_a_graph_the_answer_is_empty_and_says_why(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources") as world:
        answer = await world.answer("SELECT ?s { ?s ?p ?o }")
        assert answer.rows == () and "being made" in answer.notes[0]


async def test_several_callers_at_once_each_get_their_own_answer(world: World) -> None:
    await fill(world, OPEN, SHUT)
    await world.catch_up()
    query = "SELECT (count(DISTINCT ?g) AS ?n) { GRAPH ?g { ?s ?p ?o } }"

    async def count(who: str, rule: Rule) -> object:
        return (await world.graph.query(world.guarded(rule, who), query)).rows[0][0]

    asked = [count(f"user:u{n}", only_open if n % 2 else lambda *_: True) for n in range(8)]
    assert await asyncio.gather(*asked) == [14, 7] * 4


async def test_idle_workers_go_and_come_back(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources", GraphLimits(idle_seconds=0.0)) as world:
        await fill(world, OPEN)
        await world.catch_up()
        graph: Graph = world.graph
        for _ in range(2):
            assert (await world.rows("SELECT (count(DISTINCT ?g) AS ?n) { GRAPH ?g { ?s ?p ?o } }")) == [(7,)]
            end = time.monotonic() + 20
            while any(slot._process is not None for slot in graph._workers._free):
                assert time.monotonic() < end
                await asyncio.sleep(0.001)


async def test_a_worker_that_was_taken_just_as_it_should_go_stays(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources", LIMITS) as world:
        await fill(world, OPEN)
        await world.catch_up()
        await world.answer("ASK {}")
        workers = world.graph._workers
        slot = next(slot for slot in workers._free if slot.idle is not None)
        assert slot.idle is not None and slot.key is not None
        slot.idle.cancel()
        # Its time is up; before it is closed, it is asked again.
        workers._rest(slot)
        async with workers.one(slot.key) as taken:  # type: ignore[arg-type]
            assert taken is slot
            await asyncio.gather(*workers._closing)
            assert slot._process is not None and slot._process.is_alive


def test_a_watch_of_memory_that_ends_while_it_is_looked_at_ends_nothing() -> None:
    program = """
import threading
from cld.index.graph_memory import Memory

class Ending(Memory):
    def _used(self):
        found = super()._used()
        if threading.current_thread() is not threading.main_thread():
            self._limit = 0
            looked.release()
        return found

looked = threading.Semaphore(0)
memory = Ending(1 << 50)
for _ in range(3):
    with memory.watched():
        assert looked.acquire(timeout=20)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")
