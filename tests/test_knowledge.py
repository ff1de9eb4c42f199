"""Search and graph as hosts and people reach them: real servers, real indexes, the real rules."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from stdio_peer import Peer, Server, wait_until

from cld.config import Graph as GraphSettings
from cld.config import Index, Settings
from cld.index.election import Candidate
from cld.index.graph import MAKING
from cld.knowledge import KINDS
from cld.policy import Context
from cld.policy.log import log_files
from cld.principal import parse_principal
from cld.resource import Draft, Meta
from cld.runtime import Runtime, log_folder
from cld.uri import parse_uri

FERRY = "cld:common.Text.ferry"
BREAD = "cld:common.Text.bread"


def planted(peer: Peer) -> None:
    peer.result("resource_put", uri=FERRY, content={"text": "The ferry to the island leaves at noon."})
    peer.result("resource_put", uri=BREAD, content={"text": "Knead the dough and let it rise overnight."})


def hits(peer: Peer, query: str) -> list[str]:
    found = peer.result("search", query=query)["hits"]
    return [hit["uri"] for hit in found]


def cld(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cld.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_one_host_puts_another_finds_by_meaning_and_by_words(tmp_path: Path) -> None:
    with Server(tmp_path) as one, Server(tmp_path) as two:
        planted(one)
        wait_until(lambda: {FERRY, BREAD} <= {*hits(two, "ferry"), *hits(two, "dough")}, "the index to be made")
        assert hits(two, "when does the boat go")[0] == FERRY
        assert hits(one, "dough")[0] == BREAD
        quay = "cld:common.Text.quay"
        two.result("resource_put", uri=quay, content={"text": "Quay four is closed for repairs."})
        wait_until(lambda: quay in hits(one, "quay four"), "the new text to be found")
        two.result("resource_delete", uri=quay)
        wait_until(lambda: quay not in hits(one, "quay four"), "the deleted text to be gone")


def test_nobody_finds_what_they_may_not_read(tmp_path: Path) -> None:
    with Server(tmp_path) as owner, Server(tmp_path, "--principal", "user:stranger") as stranger:
        planted(owner)
        wait_until(lambda: FERRY in hits(owner, "ferry"), "the index to be made")
        assert hits(stranger, "ferry") == []
        count = {"sparql": "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }"}
        assert int(str(owner.result("graph_query", **count)["rows"][0][0])) > 0
        assert int(str(stranger.result("graph_query", **count)["rows"][0][0])) == 0


def test_the_command_line_searches_and_the_doctor_checks_the_index(tmp_path: Path) -> None:
    root = str(tmp_path / "tree")
    for uri, text in ((FERRY, "The ferry leaves at noon."), (BREAD, "Knead the dough.")):
        assert cld("put", uri, json.dumps({"text": text}), "--root", root).returncode == 0
    found = [json.loads(line) for line in cld("search", "a boat", "--root", root).stdout.splitlines()]
    assert found[0]["uri"] == FERRY and found[0]["quote"] and found[0]["why"]["field"] == "content.text"
    assert cld("doctor", "--index", "--root", root).returncode == 0
    assert cld("put", FERRY, '{"text": "Later."}', "--if-version", "*", "--root", root).returncode == 0
    stale = cld("doctor", "--index", "--no-fix", "--root", root)
    assert stale.returncode == 1 and "another version" in stale.stdout
    # Searching makes it true again.
    assert cld("search", "later", "--root", root).returncode == 0
    assert "for search" not in cld("doctor", "--index", "--no-fix", "--root", root).stdout


def findings(*arguments: str) -> tuple[int, list[tuple[str, str, str, bool]]]:
    """What the doctor says of the indexes: exit code, and path, problem, severity, and whether it is put right."""
    done = cld("doctor", "--index", *arguments)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, [(one["path"], one["problem"], one["severity"], one["fixed"]) for one in lines]


def test_the_doctor_makes_good_what_every_index_lacks(tmp_path: Path) -> None:
    root = str(tmp_path / "tree")
    task = {"status": "completed", "assistant": "cld:common.Assistant.ada"}
    for name in ("t1", "t2"):
        put = ("put", f"cld:plan.Task.{name}", json.dumps(task), "--meta", "purpose=draw", "--root", root)
        assert cld(*put).returncode == 0
    code, found = findings("--no-fix", "--root", root)
    absent = [(f".cld/index/{kind}", "info", False) for kind in ("search", "graph", "elections")]
    assert (code, [(path, severity, fixed) for path, _, severity, fixed in found]) == (0, absent)
    code, found = findings("--root", root)
    assert code == 0 and [fixed for *_, fixed in found] == [True] * 3
    assert findings("--root", root) == (0, [])

    assert cld("put", "cld:plan.Task.t1", "{}", "--if-version", "*", "--root", root).returncode == 0
    assert cld("rm", "cld:plan.Task.t2", "--yes", "--root", root).returncode == 0
    assert cld("put", "cld:plan.Task.t3", json.dumps(task), "--root", root).returncode == 0
    wanted = sorted(
        (f"cld:plan.Task.{name}.json", f"{problem} the index for {index}", "error")
        for name, problem in (
            ("t1", "is in another version in"),
            ("t2", "is not in the tree, but in"),
            ("t3", "is not in"),
        )
        for index in ("search", "the graph", "elections")
    )
    for arguments, code, fixed in ((("--no-fix",), 1, False), ((), 0, True)):
        got = findings(*arguments, "--root", root)
        assert (got[0], sorted(got[1])) == (code, [(*one, fixed) for one in wanted])
    assert findings("--root", root) == (0, [])


def test_the_doctor_makes_damaged_indexes_anew(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    assert cld("put", FERRY, '{"text": "The ferry leaves at noon."}', "--root", str(root)).returncode == 0
    assert findings("--root", str(root))[0] == 0
    index = root / ".cld" / "index"
    (index / "search" / "current").write_text("nonsense")
    (index / "graph" / "graph.sqlite3").write_bytes(b"nonsense" * 1000)
    (index / "elections" / "elections.sqlite3").write_bytes(b"")
    code, found = findings("--no-fix", "--root", str(root))
    assert code == 1 and ["damaged" in problem for _, problem, _, _ in found] == [True] * 3
    code, found = findings("--root", str(root))
    assert code == 0 and [fixed for *_, fixed in found] == [True] * 3
    assert findings("--root", str(root)) == (0, [])


def test_while_a_server_keeps_an_index_the_doctor_leaves_it_to_the_server(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        planted(server)
        wait_until(lambda: {FERRY, BREAD} <= {*hits(server, "ferry"), *hits(server, "dough")}, "the index to be made")
        server.result("graph_query", sparql="ASK {}")
        assert findings("--root", str(tmp_path))[0] == 0
        late = "cld:common.Text.late"
        server.result("resource_put", uri=late, content={"text": "A late walrus."})
        wait_until(lambda: late in hits(server, "walrus"), "the server to follow on")
        assert findings("--no-fix", "--root", str(tmp_path))[0] == 0


def test_the_doctor_and_the_log_say_so_when_policy_keeps_the_tree_from_the_indexes(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(Path(__file__).parent.parent / "policies", policies)
    root = str(tmp_path / "tree")
    assert cld("put", FERRY, '{"text": "The ferry leaves at noon."}', "--root", root).returncode == 0
    assert findings("--root", root)[0] == 0
    data = json.loads((policies / "data.json").read_bytes())
    granted = data["grants"].pop("service:index")
    for allow, said in (
        (
            [],
            "not let service:index read, list, subscribe in the tree, so search, graph and elections find nothing",
        ),
        (
            ["read", "list"],
            "not let service:index subscribe in the tree, so search, graph and elections learn of changes late",
        ),
    ):
        data["grants"]["service:index"] = {"cld:": {"allow": allow, "namespaces": True}}
        (policies / "data.json").write_text(json.dumps(data))
        code, found = findings("--root", root)
        assert code == 1 and said in found[0][1] and '"service:index": {"cld:": {"allow"' in found[0][1]
        assert said in cld("search", "ferry", "--root", root).stderr
    data["grants"]["service:index"] = granted
    (policies / "data.json").write_text(json.dumps(data))
    assert findings("--root", root)[0] == 0


def test_the_context_of_a_resource_is_what_is_around_it_and_like_it(tmp_path: Path) -> None:
    trip = "cld:common.Conversation.trip"
    with Server(tmp_path, "--tools", "all") as peer:
        planted(peer)
        peer.result("resource_put", uri=trip, content={"title": "Going to the island"})
        peer.result("resource_put", uri=f"{trip}/common.Message.m1", content={"text": "When does the ferry leave?"})
        wait_until(lambda: FERRY in hits(peer, "ferry"), "the index to be made")
        found = peer.result("context_get", uri=f"{trip}/common.Message.m1")
        roles = {part["uri"]: part["role"] for part in found["parts"]}
        assert roles[trip] == "ancestor"
        assert roles[f"{trip}/common.Message.m1"] == "self"
        assert roles[FERRY] == "similar"
        assert found["tokens"] <= found["budget"]


ADA, BOB = "cld:common.Assistant.ada", "cld:common.Assistant.bob"


async def task(runtime: Runtime, name: str, purpose: str, assistant: str, namespace: str = "") -> None:
    place = f"cld:cld.Namespace.{namespace}/" if namespace else "cld:"
    draft = Draft(
        parse_uri(f"{place}plan.Task.{name}"), {"status": "completed", "assistant": assistant}, Meta(purpose=purpose)
    )
    await runtime.store(runtime.principal, Context()).put(draft, if_version="*")


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    async with Runtime.open(Settings(root=str(tmp_path / "tree"), durability="none")) as runtime:
        yield runtime


async def becomes(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.01)


CANDIDATES = [Candidate(ADA, "Does what it is told."), Candidate(BOB, "Does what it is told.")]


@pytest.mark.anyio
async def test_an_election_learns_from_tasks_before_and_after_the_first_question(runtime: Runtime) -> None:
    mine = runtime.store(runtime.principal, Context(tool="elect"))
    knowledge = runtime.knowledge()
    for number in range(4):
        await task(runtime, f"a{number}", f"paint picture {number}", ADA)
        await task(runtime, f"b{number}", f"add up invoice {number}", BOB)
    assert (await knowledge.elect(mine, "paint my dog", CANDIDATES)).ranked[0].name == ADA
    assert (await knowledge.elect(mine, "an invoice of May", CANDIDATES)).ranked[0].name == BOB
    for number in range(8):
        await task(runtime, f"c{number}", f"repair bicycle {number}", BOB)

    async def learnt() -> bool:
        electorate = await knowledge.electorate(mine, CANDIDATES)
        return [len(one.requests) for one in electorate.candidates] == [4, 12]

    await becomes(learnt)
    assert (await knowledge.elect(mine, "repair my bicycle", CANDIDATES)).ranked[0].name == BOB


@pytest.mark.anyio
async def test_an_election_tells_one_who_may_not_read_tasks_nothing_of_them(runtime: Runtime) -> None:
    knowledge = runtime.knowledge()
    stranger = runtime.store(parse_principal("user:stranger"), Context(tool="elect"))
    before = await knowledge.elect(stranger, "paint my dog", CANDIDATES)
    for number in range(4):
        await task(runtime, f"a{number}", f"paint picture {number}", ADA)
    mine = runtime.store(runtime.principal, Context(tool="elect"))

    async def learnt() -> bool:
        return await knowledge.elect(mine, "paint my dog", CANDIDATES) != before

    await becomes(learnt)
    assert await knowledge.elect(stranger, "paint my dog", CANDIDATES) == before


@pytest.mark.anyio
async def test_answers_given_while_an_index_is_behind_say_so(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = runtime.store(runtime.principal, Context(tool="search"))
    await mine.put(Draft(parse_uri(FERRY), {"text": "The ferry leaves."}))
    query = "SELECT ?s { ?s vocab:type ?t }"
    knowledge = runtime.knowledge()
    for kind in ("search", "graph"):
        await knowledge.catch_up(kind)
    assert await knowledge.finds_all() and not (await knowledge.graph(mine, query)).incomplete

    # The next process finds indexes that were whole once, and does not yet know whether they still are.
    monkeypatch.setattr("cld.knowledge.BUILD_SECONDS", 0.01)
    async with Runtime.open(runtime.settings) as later:
        behind = later.knowledge()
        going_on = asyncio.Event()

        async def held_up(*_: object, **__: object) -> None:
            await going_on.wait()

        with monkeypatch.context() as patched:
            patched.setattr("cld.index.maintainer.reconcile", held_up)
            patched.setattr("cld.index.graph_keeper.reconcile", held_up)
            assert [hit.uri for hit in await behind.search(mine, "ferry")] == [FERRY]
            assert not await behind.finds_all()
            answer = await behind.graph(mine, query)
            assert answer.rows == ((FERRY,),) and answer.incomplete and answer.notes == (MAKING,)
        going_on.set()

        async def whole() -> bool:
            return await behind.finds_all() and not (await behind.graph(mine, query)).incomplete

        await becomes(whole)
        # A third one is told that another keeps them.
        async with Runtime.open(runtime.settings) as third:
            await third.knowledge().search(mine, "ferry")
            assert await third.knowledge().finds_all()
            assert not (await third.knowledge().graph(mine, query)).incomplete


@pytest.mark.anyio
async def test_making_and_following_indexes_takes_little_of_the_decision_log(runtime: Runtime) -> None:
    mine = runtime.store(runtime.principal, Context())
    for number in range(400):
        await mine.put(Draft(parse_uri(f"cld:common.Text.t{number}"), {"text": "x"}))
    knowledge = runtime.knowledge()
    for kind in KINDS:
        await knowledge.catch_up(kind)
    lines = [line for file in log_files(log_folder(runtime.settings)) for line in file.read_bytes().splitlines()]
    theirs = [msgspec.json.decode(line) for line in lines if b"service:index" in line]
    assert len(theirs) < 20 and sum(map(len, (line for line in lines if b"service:index" in line))) < 40_000
    read = [group["count"] for line in theirs if "count" in line for group in line["groups"] if group["allow"]]
    assert sum(read) >= 3 * 400, "each decision is counted"


@pytest.mark.anyio
async def test_settings_reach_the_indexes(tmp_path: Path) -> None:
    settings = Settings(
        root=str(tmp_path / "tree"), durability="none", graph=GraphSettings(rows=2), index=Index(reconcile_seconds=0.05)
    )
    async with Runtime.open(settings) as runtime:
        mine = runtime.store(runtime.principal, Context())
        for number in range(3):
            await mine.put(Draft(parse_uri(f"cld:common.Text.t{number}"), {"text": "x"}))
        knowledge = runtime.knowledge()
        answer = await knowledge.graph(mine, "SELECT ?s { ?s vocab:type ?t }")
        assert len(answer.rows) == 2 and answer.truncated
        await knowledge.search(mine, "x")
        await knowledge.elect(mine, "x", CANDIDATES)
        for keeping in knowledge._keepings.values():
            await asyncio.wait_for(keeping.ready.wait(), 20)
        # What events did not tell is found by comparing again.
        for name in ("search", "graph"):
            index = tmp_path / "tree" / ".cld" / "index" / name
            assert index.is_dir()
        await _forget(tmp_path / "tree" / ".cld" / "index" / "graph" / "graph.sqlite3")

        async def whole() -> bool:
            return (await knowledge.check("graph")).good

        await becomes(whole)


@pytest.mark.anyio
async def test_after_a_change_of_the_model_the_old_index_answers_at_once_and_in_full(tmp_path: Path) -> None:
    here = Settings(root=str(tmp_path / "tree"), durability="none")
    # Nobody listens there.
    away = msgspec.structs.replace(here, index=Index(model="openai/none", api_base="http://127.0.0.1:9"))
    async with Runtime.open(here) as runtime:
        mine = runtime.store(runtime.principal, Context())
        await mine.put(Draft(parse_uri(FERRY), {"text": "The ferry leaves at noon."}))
        await runtime.knowledge().catch_up("search")
    async with Runtime.open(away) as runtime:
        mine, knowledge = runtime.store(runtime.principal, Context()), runtime.knowledge()
        assert [hit.uri for hit in await knowledge.search(mine, "ferry")] == [FERRY]
        assert await knowledge.finds_all()
        assert (await knowledge.shortfall()).startswith("answered with wordllama; ")
    shutil.rmtree(tmp_path / "tree" / ".cld" / "index")
    async with Runtime.open(away) as runtime:
        mine, knowledge = runtime.store(runtime.principal, Context()), runtime.knowledge()
        await knowledge.catch_up("search")
        assert [hit.uri for hit in await knowledge.search(mine, "ferry")] == [FERRY]
        assert await knowledge.finds_all() and "words alone" in await knowledge.shortfall()


async def _forget(file: Path) -> None:
    """Take what is kept of one resource out of a graph, as nobody would."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM entry WHERE uri LIKE '%t1'")
