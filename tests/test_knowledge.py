"""Search and graph as hosts and people reach them: real servers, real indexes, the real rules."""

import json
import subprocess
import sys
from pathlib import Path

from stdio_peer import Peer, Server, wait_until

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
