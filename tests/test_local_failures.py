"""Storage that fails: the error says so, nothing is torn or left over, and afterwards it works again."""

import concurrent.futures.thread  # noqa: F401 - asyncio does so late, when rights to read it may be gone
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from store_model import A_B, ADA, A, listed

from cld import linux as calls
from cld.errors import Conflict, InvalidResource, ResourceNotFound, StoreError, Unsupported
from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.store.local_paths import Features
from cld.uri import URI

pytestmark = pytest.mark.anyio

CHANGES = ["open", "write", "fsync", "rename", "unlink", "mkdir", "link", "rmdir"]
FALLBACK = Features(openat2=False, renameat2=False, ignores_case=False)


def fail_at(patch: pytest.MonkeyPatch, number: int, code: int) -> Callable[[], bool]:
    """Make the `number`-th change of a file, and every one after that would need room too, fail; whether it came."""
    count = 0

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            reads = name == "open" and (not arguments[1] & os.O_CREAT or len(arguments[0]) == 2)
            if not reads:
                count += 1
                if count == number:
                    raise OSError(code, os.strerror(code))
            return real(*arguments, **named)

        return call

    for name in CHANGES:
        patch.setattr(os, name, failing(name, getattr(os, name)))
    patch.setattr(calls, "_rename", failing("rename", calls._rename))
    return lambda: count >= number


async def create(store: LocalStore, uri: URI, version: str) -> None:
    await store.put(Draft(URI(f"{uri}/common.Thing.new"), {}), by=ADA)


async def replace(store: LocalStore, uri: URI, version: str) -> None:
    await store.put(Draft(uri, {"n": 3}), by=ADA, if_version=version)


async def delete(store: LocalStore, uri: URI, version: str) -> None:
    await store.delete(uri, if_version=version)


async def delete_all(store: LocalStore, uri: URI, version: str) -> None:
    await store.delete(uri, if_version=version, recursive=True)


@pytest.mark.parametrize("features", [None, FALLBACK], ids=["usual", "fallback"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("work", [create, replace, delete, delete_all])
async def test_whatever_change_fails_nothing_is_lost_and_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, code: int, features: Features | None
) -> None:
    store = await LocalStore.open(tmp_path, features=features)
    failures = 0
    for number in range(1, 100):
        uri = URI(f"cld:common.Thing.k{number}")
        one = await store.put(Draft(uri, {"n": 1}), by=ADA)
        two = await store.put(Draft(uri, {"n": 2}), by=ADA, if_version=one.version)
        error: StoreError | None = None
        with monkeypatch.context() as patch:
            came = fail_at(patch, number, code)
            try:
                await work(store, uri, two.version)
            except StoreError as caught:
                error = caught
        if error is not None:
            failures += 1
            assert os.strerror(code) in str(error)
        # What was acknowledged is found, by this store and at once.
        for version in (one.version, two.version):
            assert (await store.get(uri, version)).version == version
        assert all(found.revision is not None for found in await store.history(uri))
        # Nothing but a version that could not be moved on may be left, and recovery moves it on.
        left = os.listdir(tmp_path / ".cld/tmp")
        assert [name for name in left if name.endswith(".copy")] == [] or code == errno.EIO
        await store.recover()
        assert os.listdir(tmp_path / ".cld/tmp") == []
        again = await store.put(Draft(uri, {"again": True}), by=ADA, if_version=ANY_VERSION)
        assert await store.get(uri) == again
        if not came():
            break
    assert failures >= 3
    await store.aclose()


async def test_a_full_disk_while_writing_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    real = os.write

    def write(fd: int, data: Any) -> int:
        if len(data) > 100:
            return real(fd, data[:100])  # a full disk takes a part first
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        for uri, version in ((A, one.version), (A_B, None)):
            with pytest.raises(StoreError, match="No space"):
                await store.put(Draft(uri, {"text": "x" * 1000}), by=ADA, if_version=version)
    assert os.listdir(tmp_path / ".cld/tmp") == []
    assert await store.get(A) == one
    assert len(await store.history(A)) == 1
    assert await listed(store, depth=2) == [A]
    await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    await store.aclose()


async def test_after_a_failed_flush_the_handle_is_never_flushed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    flushed: list[int] = []

    def fsync(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="Input/output"):
            await store.put(Draft(A, {}), by=ADA)
    assert len(flushed) == 1
    with pytest.raises(ResourceNotFound):
        await store.get(A)
    await store.aclose()


async def test_without_file_handles_left_it_fails_and_works_again(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {}), by=ADA)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        with pytest.raises(StoreError, match="Too many open files"):
            await store.get(A)
        with pytest.raises(StoreError, match="Too many open files"):
            await store.put(Draft(A, {}), by=ADA, if_version=one.version)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await store.get(A) == one
    await store.put(Draft(A, {}), by=ADA, if_version=one.version)
    assert os.listdir(tmp_path / ".cld/tmp") == []
    await store.aclose()


@pytest.mark.parametrize(("durability", "folders", "files"), [("full", 2, 1), ("file", 0, 1), ("none", 0, 0)])
async def test_what_is_flushed_is_what_the_durability_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Any, folders: int, files: int
) -> None:
    store = await LocalStore.open(tmp_path, durability=durability)
    assert store.capabilities.durable == (durability == "full")
    flushed: list[bool] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.path.isdir(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await store.put(Draft(A_B, {}), by=ADA)  # in a folder that has to be made
    assert (flushed.count(True), flushed.count(False)) == (folders, files)
    await store.aclose()


async def test_a_file_over_the_limit_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path, max_body_bytes=2000)
    with open(tmp_path / f"{A}.json", "wb") as file:
        file.truncate(1 << 40)  # sparse; reading it would end the test
    with pytest.raises(InvalidResource, match="at most 2000"):
        await store.get(A)
    with pytest.raises(InvalidResource, match="at most 2000"):
        await store.put(Draft(A_B, {"text": "x" * 2000}), by=ADA)
    assert await listed(store) == [A]
    assert await store.delete(A) == 1
    await store.aclose()


def as_nobody(work: Callable[[], None]) -> None:
    """Run `work` without the rights of root, which no permission stops; in a child, to come back."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_tree_that_may_not_be_written_is_read_and_a_write_says_why_not(tmp_path: Path) -> None:

    done = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


async def read_only(root: Path) -> None:
    store = await LocalStore.open(root)
    assert not store.capabilities.writable
    assert (await store.get(A)).resource.content == {"n": 1}
    assert await listed(store, depth=3) == [A, A_B]
    assert [found.current for found in await store.history(A)] == [True]
    for write in (
        store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION),
        store.delete(A),
        store.restore(A, (await store.get(A)).version, by=ADA, if_version=ANY_VERSION),
    ):
        with pytest.raises(Unsupported, match=r"Permission denied|cannot be written"):
            await write
    assert any("only reads" in finding.problem for finding in [finding async for finding in store.doctor()])
    await store.aclose()


async def partly(root: Path) -> None:
    store = await LocalStore.open(root)
    assert store.capabilities.writable
    with pytest.raises(StoreError, match="Permission denied"):
        await store.put(Draft(A_B, {}), by=ADA, if_version=ANY_VERSION)
    with pytest.raises(StoreError, match="Permission denied"):
        await store.get(URI(f"{A}/common.Thing.closed"))
    problems = {finding.path: finding async for finding in store.doctor()}
    assert "cannot be read" in problems[f"{A}/common.Thing.closed.json"].problem
    assert "cannot be read" in problems["cld:common.Thing.closed"].problem
    assert os.listdir(root / ".cld/tmp") == []
    with pytest.raises(Conflict):
        await store.put(Draft(A, {}), by=ADA)
    await store.aclose()


def main(place: Path) -> None:

    anyio.run(anyio.sleep, 0)  # imports its backend, which nobody may not be able to read
    for folder in (place, *place.parents):
        if os.geteuid() == 0 and "pytest-" in str(folder):
            folder.chmod(0o755)
    for name, work in (("without", read_only), ("with", read_only), ("partly", partly)):
        root = place / name
        (root / A).mkdir(parents=True)
        (root / f"{A}.json").write_text('{"content": {"n": 1}}')
        (root / f"{A_B}.json").write_text('{"content": {}}')
        if name != "without":
            for folder in (
                ".cld",
                *(f".cld/{one}" for one in ["tmp", "locks", "history", "trash", "index", "cache", "log"]),
            ):
                (root / folder).mkdir(mode=0o755)
        if name == "partly":
            (root / f"{A}/common.Thing.closed.json").write_text("{}")
            (root / "cld:common.Thing.closed").mkdir()
            if os.geteuid() == 0:
                for path in (root, *root.rglob("*")):
                    os.chown(path, 65534, 65534)
            (root / f"{A}/common.Thing.closed.json").chmod(0)
            (root / "cld:common.Thing.closed").chmod(0)
            (root / A).chmod(0o555)
        else:
            for path in (root, *root.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
        as_nobody(lambda root=root, work=work: anyio.run(work, root))
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)  # so that pytest can remove it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
