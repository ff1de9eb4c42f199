"""Several writers on one tree, each in its own process: every acknowledged write is kept."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stdio_peer import Peer, Server

from cld.resource import version_of

URI = "cld:common.Text.shared"
REPLACES = 20

# Saves as editors do: reads, changes, writes beside, renames; prints the version of what it saved.
EDITOR = """
import json, os, sys
from cld.resource import version_of
file, times = sys.argv[1], int(sys.argv[2])
for n in range(times):
    data = json.loads(open(file, "rb").read())
    data["content"]["edited"] = n
    saved = json.dumps(data).encode()
    beside = file + ".swp"
    with open(beside, "wb") as out:
        out.write(saved)
    os.rename(beside, file)
    print(version_of(saved), flush=True)
"""


def replace_in_parallel(peer: Peer, name: str) -> list[str]:
    """Replace the resource `REPLACES` times, all begun at once, each again until it is not in conflict."""
    acknowledged: list[str] = []
    version = peer.result("resource_get", uri=URI)["version"]
    under_way = {
        peer.call("resource_put", uri=URI, content={"text": f"{name} {n}"}, if_version=version): n
        for n in range(REPLACES)
    }
    while under_way:
        number, result = peer.next_answer()
        n = under_way.pop(number)
        if "error" not in result:
            acknowledged.append(result["version"])
            continue
        assert result["error"]["code"] == "conflict", result
        version = peer.result("resource_get", uri=URI)["version"]
        under_way[peer.call("resource_put", uri=URI, content={"text": f"{name} {n}"}, if_version=version)] = n
    return acknowledged


def kept_versions(peer: Peer) -> set[str]:
    return {entry["version"] for entry in peer.result("resource_history", uri=URI)["versions"]}


def test_twenty_parallel_replaces_through_each_of_two_servers_lose_none(tmp_path: Path) -> None:
    with Server(tmp_path / "tree", "--tools", "all") as one, Server(tmp_path / "tree", "--tools", "all") as two:
        one.result("resource_put", uri=URI, content={"text": "first"})
        acknowledged = _both(one, two)
        assert len(set(acknowledged)) == 2 * REPLACES
        assert set(acknowledged) <= kept_versions(one)
        assert one.result("resource_get", uri=URI)["revision"] == 2 * REPLACES + 1, "each was counted once"


def test_an_editor_saving_the_same_file_costs_no_acknowledged_write(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    with Server(tree, "--tools", "all") as one, Server(tree, "--tools", "all") as two:
        one.result("resource_put", uri=URI, content={"text": "first"})
        editor = subprocess.Popen(
            [sys.executable, "-c", EDITOR, str(tree / f"{URI}.json"), "40"], stdout=subprocess.PIPE, text=True
        )
        acknowledged = _both(one, two)
        saved, _ = editor.communicate(timeout=60)
        assert editor.returncode == 0
        kept = kept_versions(one)
        assert set(acknowledged) <= kept
        # The editor's last save is either still there or was replaced by somebody who knew of it.
        assert saved.split()[-1] in kept
        current = (tree / f"{URI}.json").read_bytes()
        assert json.loads(current) and version_of(current) in kept


def _both(one: Peer, two: Peer) -> list[str]:
    """Both servers' replaces under way at once, from two threads of this process."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(replace_in_parallel, (one, two), ("one", "two"))
    return first + second
