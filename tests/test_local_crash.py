"""Writers that die: nothing acknowledged is lost, nothing is torn, what they left is put in order.

Run as a program this file is the process that forks the writers and kills them: it has no threads
while it forks, and needs to import everything only once.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cld import linux
from cld.errors import CldError, Conflict, InvalidResource, ResourceNotFound
from cld.resource import Draft
from cld.store.local import LocalStore
from cld.store.local_paths import Features
from cld.uri import URI

FALLBACK = Features(openat2=False, renameat2=False, ignores_case=False)
LONG = "cld:" + "/".join(["common.Thing." + "x" * 100] * 4)


# --- killed at random ----------------------------------------------------------------------------


async def write_until_killed(root: str, acknowledge: int, seed: int) -> None:
    """Put and delete a few resources for ever, saying what is acknowledged."""
    chance = random.Random(seed)
    store = await LocalStore.open(root, keep=100_000)
    while True:
        uri = URI(f"cld:common.Thing.{chance.choice('abc')}")
        try:
            seen = (await store.get(uri)).version
        except ResourceNotFound:
            seen = None
        if seen is not None and chance.random() < 0.1:
            await store.delete(uri, if_version=seen, recursive=chance.random() < 0.5)
            said = [uri, None]
        else:
            put = await store.put(Draft(uri, {"pad": "x" * chance.randrange(3000)}), by="user:x", if_version=seen)
            said = [uri, put.version]
        os.write(acknowledge, (json.dumps(said) + "\n").encode())


def killed_writer(root: str, seed: int) -> list[Any]:
    """What a writer acknowledged until it was killed, a random few milliseconds after its first."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        with suppress(BaseException):
            asyncio.run(write_until_killed(root, writer, seed))
        os._exit(1)
    os.close(writer)
    said = os.read(reader, 65536)  # it is at work now
    time.sleep(random.Random(seed).uniform(0, 0.012))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    while more := os.read(reader, 65536):
        said += more
    os.close(reader)
    return [json.loads(line) for line in said.splitlines()]


def kill_at_random(root: str, times: int) -> dict[str, Any]:
    acknowledged: defaultdict[str, set[str]] = defaultdict(set)
    faults: list[str] = []
    recovered = 0

    async def check(said: list[Any], last: bool) -> int:
        store = await LocalStore.open(root, durability="none", keep=100_000)
        left = os.listdir(f"{root}/.cld/tmp")
        faults.extend(f"left {name}" for name in left)
        for uri in acknowledged:
            try:
                await store.get(URI(uri))
            except ResourceNotFound:
                pass
            except InvalidResource as error:
                faults.append(f"torn {uri}: {error}")
        for uri, version in said:
            if version is not None:
                try:
                    await store.get(URI(uri), version)
                except CldError as error:
                    faults.append(f"lost {uri} {version}: {error}")
        if last:
            for uri, versions in acknowledged.items():
                found = await store.history(URI(uri))
                faults.extend(f"lost {uri} {version}" for version in versions - {one.version for one in found})
                faults.extend(f"torn version {one.version} of {uri}" for one in found if one.revision is None)
        await store.aclose()
        return 0

    for seed in range(times):
        said = killed_writer(root, seed)
        recovered += len(os.listdir(f"{root}/.cld/tmp"))
        for uri, version in said:
            acknowledged[uri].update([version] if version else [])
        asyncio.run(check(said, last=seed == times - 1))
    return {
        "faults": faults,
        "recovered": recovered,
        "acknowledged": sum(map(len, acknowledged.values())),
    }


# --- killed at every call to the system ------------------------------------------------------------

# Those that change something: to die before any other is to die before the next of these.
CALLS = ["open", "write", "fsync", "rename", "unlink", "mkdir", "link", "symlink", "fchmod", "rmdir"]


def die_at(number: int) -> Callable[[], int]:
    """Make this process kill itself before its `number`-th change of a file from when the result is called.

    The result, called again, says how many calls there were.
    """
    count = -1
    open_file = os.open

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            only_reads = real is open_file and (not arguments[1] & os.O_CREAT or len(arguments[0]) == 2)
            if count >= 0 and not only_reads:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    linux._rename = dying(linux._rename)

    def reckon() -> int:
        nonlocal count
        count, before = 0, count
        return before

    return reckon


async def create(store: LocalStore, uri: URI, version: str | None) -> None:
    await store.put(Draft(uri, {"new": True}), by="user:x")


async def replace(store: LocalStore, uri: URI, version: str | None) -> None:
    await store.put(Draft(uri, {"new": True}), by="user:x", if_version=version)


async def delete(store: LocalStore, uri: URI, version: str | None) -> None:
    await store.delete(uri, if_version=version)


async def delete_all(store: LocalStore, uri: URI, version: str | None) -> None:
    await store.delete(uri, if_version=version, recursive=True)


Work = Callable[[LocalStore, URI, str | None], Coroutine[Any, Any, None]]
WORKS: dict[str, Work] = {"create": create, "replace": replace, "delete": delete, "delete_all": delete_all}


def crashed(root: str, features: Features | None, work: Work, uri: URI, version: str | None, number: int) -> int | None:
    """How many calls the work makes, done to its end; None when killed before its `number`-th."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        reckon = die_at(number)

        async def main() -> None:
            store = await LocalStore.open(root, features=features)
            reckon()
            await work(store, uri, version)
            os.write(writer, str(reckon()).encode())

        asyncio.run(main())
        os._exit(0)
    os.close(writer)
    done = os.read(reader, 100)
    os.close(reader)
    os.waitpid(child, 0)
    return int(done) if done else None


def kill_everywhere(root: str, name: str, mode: str) -> dict[str, Any]:
    features = FALLBACK if mode == "fallback" else None
    work = WORKS[name]
    faults: list[str] = []
    seen: set[str] = set()

    async def prepare(uri: URI) -> list[str]:
        if name == "create":
            return []
        store = await LocalStore.open(root, durability="none")
        one = await store.put(Draft(uri, {"n": 1}), by="user:x")
        two = await store.put(Draft(uri, {"n": 2}), by="user:x", if_version=one.version)
        if name == "delete_all":
            await store.put(Draft(URI(f"{uri}/common.Thing.below"), {}), by="user:x")
        await store.aclose()
        return [one.version, two.version]

    async def check(other: LocalStore, uri: URI, before: list[str], done: bool) -> None:
        # Another process that was there all the time finds the old versions at once.
        for version in before:
            try:
                await other.get(uri, version)
            except CldError as error:
                faults.append(f"another process cannot find {version}: {error}")
        store = await LocalStore.open(root, durability="none")
        history = await store.history(uri)
        versions = [one.version for one in history]
        now = next((one for one in history if one.current), None)
        if any(one.revision is None for one in history):
            faults.append("torn")
        if not set(before) <= set(versions):
            faults.append("lost")
        state = "gone" if now is None else "old" if now.version in before else "new"
        seen.add(state)
        if set(versions) - set(before) - ({now.version} if now else set()):
            faults.append("the history has a version that never was in the tree")
        if done and state != ("gone" if name.startswith("delete") else "new"):
            faults.append(f"acknowledged, but {state}")
        if left := os.listdir(f"{root}/.cld/tmp"):
            faults.append(f"left {left}")
        if name == "delete_all":
            below = URI(f"{uri}/common.Thing.below")
            if not await store.history(below):
                faults.append("the one below is lost")
        # And the resource can be written again.
        await store.put(Draft(uri, {"after": 1}), by="user:x", if_version="*")
        await store.aclose()

    points = 0
    for number in range(1, 500):
        uri = URI(f"{LONG if mode == 'long' else 'cld:common.Thing.a'}/common.Thing.k{number}")
        before = asyncio.run(prepare(uri))
        os.makedirs(f"{root}/.cld/tmp", exist_ok=True)
        done = crashed(root, features, work, uri, before[-1] if before else None, number)

        async def examine(uri: URI = uri, before: list[str] = before, done: int | None = done) -> None:
            aside = f"{root}/.cld/aside"
            # What is in tmp is hidden from this one's own recovery on opening, as if it had been open before.
            os.rename(f"{root}/.cld/tmp", aside)
            other = await LocalStore.open(root, durability="none")
            for leftover in os.listdir(aside):
                os.rename(f"{aside}/{leftover}", f"{root}/.cld/tmp/{leftover}")
            os.rmdir(aside)
            await check(other, uri, before, done is not None)
            await other.aclose()

        asyncio.run(examine())
        points = number
        if done is not None:
            break
    return {"faults": faults, "points": points, "seen": sorted(seen)}


# --- the tests -----------------------------------------------------------------------------------


def result_of(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
def test_two_hundred_killed_writers_lose_nothing_and_tear_nothing(tmp_path: Path) -> None:
    result = result_of("random", tmp_path, 200)
    assert result["faults"] == []
    # How much gets done before a kill depends on the machine; that something does shows it was writing.
    assert result["acknowledged"] > 100
    assert result["recovered"] > 5, "no writer died half way, so nothing was tested"


@pytest.mark.parametrize("mode", ["usual", "fallback", "long"])
@pytest.mark.parametrize("work", list(WORKS))
def test_killed_at_any_call_the_old_and_the_new_are_whole(tmp_path: Path, work: str, mode: str) -> None:
    result = result_of("everywhere", tmp_path, work, mode)
    assert result["faults"] == []
    assert result["points"] > 4
    before = "gone" if work == "create" else "old"
    after = "gone" if work.startswith("delete") else "new"
    assert {before, after} <= set(result["seen"])


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("work", ["create", "replace"])
def test_what_is_written_is_flushed_before_it_is_named_and_named_before_it_is_acknowledged(
    tmp_path: Path, work: str
) -> None:
    trace = tmp_path / "trace"
    root = tmp_path / "root"
    options = ["-f", "-y", "-qq", "-s", "200", "-e", "trace=write,fsync,renameat,renameat2,mkdirat"]
    done = subprocess.run(
        ["strace", *options, "-o", trace, sys.executable, __file__, "once", root, work],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    assert "ACK" in done.stdout, done.stderr
    lines = trace.read_text().splitlines()
    text = "\n".join(lines[next(n for n, line in enumerate(lines) if "BEGIN" in line) :])

    def place(pattern: str) -> int:
        found = re.search(pattern, text)
        assert found, f"no {pattern} in\n{text}"
        return found.start()

    tmp, folder = re.escape(f"{root}/.cld/tmp"), re.escape(f"{root}/cld:common.Thing.a")
    written = place(rf"write\(\d+<{tmp}/[^>]*\.new>")
    flushed = place(rf"fsync\(\d+<{tmp}/[^>]*\.new>")
    named = place(rf"renameat2\(\d+<{tmp}>.*<{folder}>")
    acknowledged = place(r"write\(1<.*ACK")
    durable = place(rf"fsync\(\d+<{folder}>")
    assert written < flushed < named < durable < acknowledged
    if work == "replace":
        kept = place(rf"renameat\(\d+<{tmp}>, \"[^\"]*\.swap\".*history")
        assert named < kept < durable
    else:
        # A new folder is only there once the folder it lies in says so on disk.
        made = place(r"mkdirat\(\d+<[^>]*>, \"cld:common.Thing.a\"")
        assert made < place(rf"fsync\(\d+<{re.escape(str(root))}>") < acknowledged


async def once(root: str, name: str) -> None:
    store = await LocalStore.open(root)
    uri = URI("cld:common.Thing.a/common.Thing.b")
    version = None
    if name == "replace":
        version = (await store.put(Draft(uri, {}), by="user:x")).version
    os.write(2, b"BEGIN\n")
    with suppress(Conflict):
        await WORKS[name](store, uri, version)
        os.write(1, b"ACK\n")
    await store.aclose()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["random", root, times]:
            print(json.dumps(kill_at_random(root, int(times))))
        case ["everywhere", root, work, mode]:
            print(json.dumps(kill_everywhere(root, work, mode)))
        case ["once", root, work]:
            asyncio.run(once(root, work))
        case other:
            raise SystemExit(f"unknown: {other}")
