"""Several processes on one tree: nothing acknowledged is lost, and compare-and-swap is linearizable.

Run as a program this file is one of those processes.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cld.errors import Conflict, ResourceNotFound
from cld.resource import Draft
from cld.store.local import LocalStore
from cld.uri import URI

A = URI("cld:common.Thing.a")


# --- the processes -------------------------------------------------------------------------------


async def replace_many(root: str, name: str, times: int) -> None:
    """`times` tasks at once, each replacing `A` once and repeating that on Conflict, as servers do."""
    store = await LocalStore.open(root)

    async def replace(n: int) -> None:
        while True:
            try:
                got = await store.get(A)
                content = {"n": got.resource.content.get("n", 0) + 1, "from": f"{name}-{n}"}
                put = await store.put(Draft(A, content), by=f"user:{name}", if_version=got.version)
            except Conflict:
                continue
            print(json.dumps([f"{name}-{n}", put.version]), flush=True)
            return

    await asyncio.gather(*(replace(n) for n in range(times)))
    await store.aclose()


def edit_until_told(root: str) -> None:
    """Read, change, write beside, rename over: what a person's editor does, without asking anybody."""
    file = Path(root) / f"{A}.json"
    beside = file.with_name("editor~")
    os.set_blocking(sys.stdin.fileno(), False)
    times = 0
    while not sys.stdin.buffer.read(1):
        resource = json.loads(file.read_bytes())
        resource["content"]["edits"] = times = times + 1
        beside.write_text(json.dumps(resource))
        os.replace(beside, file)
        if times == 1:
            print("begun", flush=True)
        time.sleep(0.0005)  # a fast typist; the test does not depend on it
    print(times, flush=True)


async def compare_and_swap(root: str, seed: int, seconds: float) -> None:
    """get and put at random on keys that all processes move on along, with times and results."""
    store = await LocalStore.open(root, durability="none")
    chance = random.Random(seed)
    done: list[Any] = []
    start = time.monotonic()
    while (now := time.monotonic()) - start < seconds:
        # Short histories per key keep the check fast; the clock is the same in all processes.
        uri = URI(f"cld:common.Thing.k{int(now * 25) % 100_000}")
        began = time.monotonic_ns()
        try:
            seen = (await store.get(uri)).version
        except ResourceNotFound:
            seen = None
        done.append([uri, began, time.monotonic_ns(), "get", None, seen])
        if chance.random() < 0.2:
            await asyncio.sleep(0)
        began = time.monotonic_ns()
        try:
            result = ["put", (await store.put(Draft(uri, {"by": seed}), by="user:x", if_version=seen)).version]
        except Conflict as conflict:
            result = ["conflict", conflict.current]
        done.append([uri, began, time.monotonic_ns(), "swap", seen, result])
    print(json.dumps(done), flush=True)
    await store.aclose()


# --- the tests -----------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str], told: str | None = None) -> list[Any]:
    out, err = process.communicate(told, timeout=60)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


async def state_of(root: Path) -> tuple[Any, list[Any], set[str]]:
    store = await LocalStore.open(root)
    try:
        history = await store.history(A)
        kept = {(await store.get(A, revision.version)).resource.content.get("from", "") for revision in history}
        return await store.get(A), [revision.version for revision in history], kept
    finally:
        await store.aclose()


async def create(root: Path) -> str:
    store = await LocalStore.open(root)
    put = await store.put(Draft(A, {"n": 0}), by="user:test")
    await store.aclose()
    return put.version


@pytest.mark.timeout(90)
def test_two_processes_with_twenty_parallel_replaces_each_lose_none(tmp_path: Path) -> None:
    first = asyncio.run(create(tmp_path))
    writers = [start("replace", tmp_path, name, 20) for name in ("ada", "bob")]
    acknowledged = dict(pair for writer in writers for pair in output_of(writer))
    now, versions, kept = asyncio.run(state_of(tmp_path))
    assert len(acknowledged) == 40
    assert now.resource.content["n"] == 40
    assert {first, *acknowledged.values()} == set(versions)
    assert set(acknowledged) <= kept
    assert os.listdir(tmp_path / ".cld/tmp") == []


@pytest.mark.timeout(90)
def test_with_a_hand_editing_in_between_every_acknowledged_write_is_still_in_the_history(tmp_path: Path) -> None:
    first = asyncio.run(create(tmp_path))
    editor = start("edit", tmp_path)
    assert editor.stdout is not None
    assert editor.stdout.readline() == "begun\n"
    writers = [start("replace", tmp_path, name, 20) for name in ("ada", "bob")]
    acknowledged = dict(pair for writer in writers for pair in output_of(writer))
    (edits,) = output_of(editor, "stop")
    _, versions, kept = asyncio.run(state_of(tmp_path))
    assert len(acknowledged) == 40
    assert edits > 1
    assert set(acknowledged.values()) <= set(versions)
    assert set(acknowledged) <= kept
    assert first not in acknowledged.values()
    assert os.listdir(tmp_path / ".cld/tmp") == []


@pytest.mark.timeout(90)
def test_compare_and_swap_is_linearizable_among_processes(tmp_path: Path) -> None:
    processes = [start("swap", tmp_path, seed, 1.5) for seed in range(3)]
    by_uri: defaultdict[str, list[Any]] = defaultdict(list)
    conflicts = 0
    for process in processes:
        (done,) = output_of(process)
        for uri, *operation in done:
            by_uri[uri].append(operation)
            conflicts += operation[2] == "swap" and operation[4][0] == "conflict"
    assert len(by_uri) > 10
    assert conflicts > 5, "nothing was contended, so nothing was tested"
    assert [uri for uri, operations in by_uri.items() if not is_linearizable(operations)] == []


def is_linearizable(operations: list[Any]) -> bool:
    """Whether one order explains all results (Wing & Gong 1993, with Lowe's memo of visited states).

    An operation is [began, ended, kind, expected, result] on a register that holds a version.
    """
    operations = sorted(operations)
    whole = (1 << len(operations)) - 1
    seen: set[tuple[int, str | None]] = set()
    todo: list[tuple[int, str | None]] = [(0, None)]
    while todo:
        done, state = todo.pop()
        if done == whole:
            return True
        first_end = min(operation[1] for n, operation in enumerate(operations) if not done >> n & 1)
        for n, (began, _, kind, expected, result) in enumerate(operations):
            if done >> n & 1:
                continue
            if began > first_end:
                break
            if kind == "get":
                fits, after = result == state, state
            elif result[0] == "put":
                fits, after = expected == state, result[1]
            else:
                fits, after = expected != state and result[1] == state, state
            step = (done | 1 << n, after)
            if fits and step not in seen:
                seen.add(step)
                todo.append(step)
    return False


def test_the_check_of_linearizability_finds_a_lost_update() -> None:
    both = [[0, 10, "swap", None, ["put", "x"]], [1, 9, "swap", None, ["put", "y"]]]
    assert not is_linearizable(both)
    stale = [[0, 1, "swap", None, ["put", "x"]], [2, 3, "get", None, None]]
    assert not is_linearizable(stale)
    fine = [[0, 10, "swap", None, ["put", "x"]], [1, 9, "swap", None, ["conflict", "x"]], [2, 8, "get", None, None]]
    assert is_linearizable(fine)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["replace", root, name, times]:
            asyncio.run(replace_many(root, name, int(times)))
        case ["edit", root]:
            edit_until_told(root)
        case ["swap", root, seed, seconds]:
            asyncio.run(compare_and_swap(root, int(seed), float(seconds)))
        case other:
            raise SystemExit(f"unknown: {other}")
