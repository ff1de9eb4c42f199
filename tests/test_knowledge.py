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
    stale = cld("doctor", "--index", "--root", root)
    assert stale.returncode == 1 and "another version" in stale.stdout
    # Searching makes it true again.
    assert cld("search", "later", "--root", root).returncode == 0
    assert cld("doctor", "--index", "--root", root).returncode == 0


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
