"""`kill -9` of a writing server at random moments: nothing acknowledged is lost, nothing torn, no litter."""

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import anyio
import pytest
from stdio_peer import Died, Peer

from cld.config import Settings
from cld.resource import decode, version_of
from cld.server import serve
from cld.store.local import LocalStore
from cld.uri import parse_uri

KILLS = 200
Acknowledged = dict[str, list[tuple[int, str]]]
"""By key, the count and the version of every write that was acknowledged, in order."""

KEYS = [f"cld:common.Text.k{n}" for n in range(8)]

# Starts servers in milliseconds: each is forked from a process that has imported everything already.
_warm = multiprocessing.get_context("forkserver")
_warm.set_forkserver_preload(["cld.server"])


def _serve(stdin: Any, stdout: Any, settings: Settings) -> None:
    os.dup2(stdin.detach(), 0)
    os.dup2(stdout.detach(), 1)
    anyio.run(serve, settings)


def _start(settings: Settings) -> tuple[Any, Peer]:
    from_peer, to_server = os.pipe()
    from_server, to_peer = os.pipe()
    process = _warm.Process(target=_serve, args=(DupFd(from_peer), DupFd(to_peer), settings))
    process.start()
    os.close(from_peer)
    os.close(to_peer)
    return process, Peer(to_server, from_server)


def _write_until_killed(
    settings: Settings, chance: random.Random, acknowledged: dict[str, list[tuple[int, str]]]
) -> None:
    """A write to each key always under way; what comes back is noted, then the server is killed."""
    process, peer = _start(settings)
    with peer:
        try:
            peer.initialize()
            end = time.monotonic() + chance.uniform(0, 0.05)
            under_way: dict[int, tuple[str, int]] = {}

            def write(key: str) -> None:
                count = acknowledged[key][-1][0] + 1 if acknowledged[key] else 1
                # Text long enough that a torn file would show.
                content = {"text": "x" * chance.choice([10, 5000, 50000]), "count": count}
                under_way[peer.call("resource_put", uri=key, content=content, if_version="*")] = key, count

            for key in KEYS:
                write(key)
            while time.monotonic() < end:
                number, result = peer.next_answer()
                key, count = under_way.pop(number)
                assert "error" not in result, result
                acknowledged[key].append((count, result["version"]))
                write(key)
        except Died:
            pytest.fail("the server died by itself")
        os.kill(process.pid, signal.SIGKILL)
        # What was acknowledged before the kill may still be in the pipe.
        try:
            while under_way:
                number, result = peer.next_answer()
                key, count = under_way.pop(number)
                acknowledged[key].append((count, result["version"]))
        except Died:
            pass
    process.join()
    process.close()


@pytest.mark.slow
def test_a_server_killed_200_times_while_writing_keeps_all_it_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    settings = Settings(root=str(root), durability="none")
    chance = random.Random(200)
    acknowledged: Acknowledged = {key: [] for key in KEYS}
    for _ in range(KILLS):
        _write_until_killed(settings, chance, acknowledged)
        for key, written in acknowledged.items():
            if written:
                data = (root / f"{key}.json").read_bytes()
                there = decode(data, parse_uri(key)).content["count"]
                assert there >= written[-1][0], f"{key}: {written[-1]} was acknowledged, {there} is there"
    assert sum(map(len, acknowledged.values())) > KILLS // 2, "too little was written to show anything"
    anyio.run(_check_whole_tree, root, acknowledged)


async def _check_whole_tree(root: Path, acknowledged: Acknowledged) -> None:
    store = await LocalStore.open(root, durability="none")
    try:
        for key, written in acknowledged.items():
            kept = {revision.version for revision in await store.history(parse_uri(key))}
            assert {version for _, version in written} <= kept
        async for finding in store.doctor():
            assert finding.severity == "info" or finding.fixed, finding
        assert list((root / ".cld" / "tmp").iterdir()) == []
        for file in (root / ".cld" / "history").rglob("*.json"):
            if file.is_file():
                data = file.read_bytes()
                assert json.loads(data)
                assert version_of(data) in file.name
    finally:
        await store.aclose()
