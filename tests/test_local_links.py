"""Nothing outside the tree is ever read or written through it, and nothing in it can make a call hang."""

import os
import socket
import threading
from pathlib import Path

import anyio
import pytest
from store_model import A2, A_B, ADA, A, listed

from cld.errors import CldError, InvalidResource, InvalidURI, ResourceNotFound, StoreError
from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.store.local_paths import Features
from cld.uri import URI

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(40)]

SECRET = b'{"content": {"secret": true}}'


@pytest.fixture(params=["openat2", "walk"])
def features(request: pytest.FixtureRequest) -> Features | None:
    return None if request.param == "openat2" else Features(openat2=False, renameat2=True, ignores_case=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root that looks just like a part of the tree."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "common.Thing.b.json").write_bytes(SECRET)
    return folder


async def test_a_link_is_refused_listed_and_can_be_deleted(
    root: Path, outside: Path, features: Features | None
) -> None:
    store = await LocalStore.open(root, features=features)
    (root / f"{A}.json").symlink_to(outside / "common.Thing.b.json")
    with pytest.raises(InvalidResource, match="symbolic link"):
        await store.get(A)
    for if_version in (None, "0" * 32):
        with pytest.raises(InvalidResource, match="symbolic link"):
            await store.put(Draft(A, {}), by=ADA, if_version=if_version)
    assert await listed(store) == [A]
    assert await store.history(A) == []
    assert await store.delete(A) == 1
    assert (outside / "common.Thing.b.json").read_bytes() == SECRET
    assert await listed(store) == []
    await store.aclose()


async def test_writing_any_version_over_a_link_replaces_the_link_itself(
    root: Path, outside: Path, features: Features | None
) -> None:
    store = await LocalStore.open(root, features=features)
    (root / f"{A}.json").symlink_to(outside / "common.Thing.b.json")
    put = await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
    assert await store.get(A) == put
    assert (outside / "common.Thing.b.json").read_bytes() == SECRET
    await store.aclose()


async def test_behind_a_linked_folder_there_is_nothing_to_read_or_write(
    root: Path, outside: Path, features: Features | None
) -> None:
    store = await LocalStore.open(root, features=features)
    (root / A).symlink_to(outside)
    before = sorted(os.listdir(outside))
    with pytest.raises(InvalidResource, match="symbolic link"):
        await store.get(A_B)
    with pytest.raises(CldError):
        await store.put(Draft(A_B, {}), by=ADA, if_version=ANY_VERSION)
    with pytest.raises(CldError):
        await store.put(Draft(URI(f"{A}/common.Thing.new"), {}), by=ADA)
    for recursive in (False, True):
        with pytest.raises(CldError):
            await store.delete(A_B, recursive=recursive)
        with pytest.raises(ResourceNotFound):
            await store.delete(A, recursive=recursive)
    assert await listed(store, depth=64) == []
    assert await listed(store, A) == []
    assert sorted(os.listdir(outside)) == before
    await store.aclose()


async def test_fifos_sockets_and_folders_are_refused_and_nothing_hangs(root: Path, features: Features | None) -> None:
    store = await LocalStore.open(root, features=features)
    os.mkfifo(root / f"{A}.json")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # the path of a socket is short
        try:
            server.bind(f"{A2}.json")
        finally:
            os.chdir(here)
        (root / "cld:common.Thing.c.json").mkdir()
        with anyio.fail_after(10):
            for uri in (A, A2, URI("cld:common.Thing.c")):
                with pytest.raises(InvalidResource):
                    await store.get(uri)
                with pytest.raises(InvalidResource):
                    await store.put(Draft(uri, {}), by=ADA)
                assert await store.history(uri) == []
            assert len(await listed(store)) == 3
            problems = {finding.path: finding.problem async for finding in store.doctor()}
            assert "FIFO" in problems[f"{A}.json"]
            assert "socket" in problems[f"{A2}.json"]
            assert await store.delete(A) == 1
            put = await store.put(Draft(A2, {}), by=ADA, if_version=ANY_VERSION)
            assert await store.get(A2) == put
    await store.aclose()


async def test_a_hard_link_is_refused(root: Path, outside: Path, features: Features | None) -> None:
    store = await LocalStore.open(root, features=features)
    os.link(outside / "common.Thing.b.json", root / f"{A}.json")
    with pytest.raises(InvalidResource, match="2 hard links"):
        await store.get(A)
    await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
    assert (outside / "common.Thing.b.json").read_bytes() == SECRET
    assert await store.get(A)
    await store.aclose()


async def test_the_root_may_be_a_link_and_is_resolved_once(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    store = await LocalStore.open(link)
    await store.put(Draft(A, {}), by=ADA)
    assert (tmp_path / "real" / f"{A}.json").exists()
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(StoreError, match="replaced"):
        await store.put(Draft(A2, {}), by=ADA)
    assert os.listdir(outside) == ["common.Thing.b.json"]
    await store.aclose()


@pytest.mark.parametrize("name", ["tmp", "history", "locks", "trash"])
async def test_a_control_folder_that_is_a_link_is_refused_at_the_start(root: Path, outside: Path, name: str) -> None:
    (root / ".cld").mkdir(parents=True)
    (root / ".cld" / name).symlink_to(outside)
    with pytest.raises(StoreError, match="plain folder"):
        await LocalStore.open(root)
    assert os.listdir(outside) == ["common.Thing.b.json"]


async def test_a_root_that_was_replaced_is_reported_and_not_written(root: Path) -> None:
    store = await LocalStore.open(root)
    await store.put(Draft(A, {}), by=ADA)
    root.rename(root.with_name("moved"))
    root.mkdir()
    with pytest.raises(StoreError, match="replaced"):
        await store.put(Draft(A2, {}), by=ADA)
    with pytest.raises(StoreError, match="replaced"):
        await store.get(A2)
    assert [finding.severity async for finding in store.doctor()] == ["error"]
    assert os.listdir(root) == []
    await store.aclose()


async def test_no_swap_of_a_folder_for_a_link_leaks_or_writes_outside(
    root: Path, outside: Path, features: Features | None
) -> None:
    store = await LocalStore.open(root, durability="none", features=features)
    await store.put(Draft(A_B, {"inside": True}), by=ADA)
    (outside / "common.Thing.secret.json").write_bytes(SECRET)
    folder, aside, link = root / A, root / "aside", root / "link"
    link.symlink_to(outside)
    swaps = 0
    stop = threading.Event()

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            for one, other in ((folder, aside), (link, folder), (folder, link), (aside, folder)):
                try:
                    os.rename(one, other)
                except OSError:
                    # The store has made the folder anew meanwhile: begin again from what is there.
                    break
            swaps += 1
            if not link.is_symlink() and not folder.is_symlink():
                link.symlink_to(outside)

    swapper = threading.Thread(target=swap)
    swapper.start()
    got = refused = 0
    try:
        for n in range(1500):
            try:
                stored = await store.get(A_B)
                assert "secret" not in stored.resource.content
                got += 1
            except CldError:
                refused += 1
            try:
                assert URI(f"{A}/common.Thing.secret") not in await listed(store, A)
                if n % 5 == 0:
                    await store.put(Draft(URI(f"{A}/common.Thing.n{n}"), {}), by=ADA)
                if n % 7 == 0:
                    await store.put(Draft(A_B, {"inside": True}), by=ADA, if_version=ANY_VERSION)
                if n % 11 == 0:
                    await store.delete(URI(f"{A}/common.Thing.n{n - 1}"))
            except CldError:
                refused += 1
    finally:
        stop.set()
        swapper.join()
    assert swaps > 10
    assert refused > 0
    assert sorted(os.listdir(outside)) == ["common.Thing.b.json", "common.Thing.secret.json"]
    assert (outside / "common.Thing.b.json").read_bytes() == SECRET
    for file in root.rglob("*.json"):
        assert file.is_symlink() or not file.is_file() or b"secret" not in file.read_bytes()
    await store.aclose()


@pytest.mark.parametrize("again", [False, True], ids=["moved", "replaced"])
async def test_a_put_into_a_folder_that_was_moved_away_meanwhile_is_not_acknowledged(
    root: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    store = await LocalStore.open(root)
    await store.put(Draft(A_B, {}), by=ADA)
    real = os.fsync
    moved: list[bool] = []

    def fsync(fd: int) -> None:
        if not moved:
            moved.append(True)
            os.rename(root / A, root / "cld:common.Thing.elsewhere")
            if again:
                os.mkdir(root / A)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError, match="was replaced" if again else "was moved away"):
        await store.put(Draft(URI(f"{A}/common.Thing.c"), {}), by=ADA)
    await store.aclose()


async def test_a_name_that_differs_only_in_case_is_refused_where_case_is_ignored(root: Path) -> None:
    features = Features(openat2=True, renameat2=True, ignores_case=True)
    store = await LocalStore.open(root, features=features)
    await store.put(Draft(A_B, {}), by=ADA)
    upper = URI("cld:common.Thing.A")
    for uri in (URI(f"{upper}/common.Thing.b"), URI(f"{A}/common.Thing.B"), upper):
        with pytest.raises(InvalidResource, match="only in case"):
            await store.put(Draft(uri, {}), by=ADA)
    with pytest.raises(ResourceNotFound):
        await store.get(upper)
    await store.put(Draft(A, {}), by=ADA)
    await store.put(Draft(A_B, {}), by=ADA, if_version=ANY_VERSION)
    await store.aclose()


@pytest.mark.parametrize("text", [".cld/log/x", "cld:common.Thing.a/../.cld/log/x", "cld:", "/etc/passwd", "cld:x"])
async def test_what_is_no_uri_never_becomes_a_path(root: Path, text: str) -> None:
    store = await LocalStore.open(root)
    await store.put(Draft(A_B, {}), by=ADA)
    (root / ".cld/log/x.json").write_bytes(b'{"content": {}}')
    uri = URI(text)
    with pytest.raises(CldError):
        await store.get(uri)
    for call in (store.put(Draft(uri, {}), by=ADA), store.delete(uri, recursive=True), store.history(uri)):
        with pytest.raises(InvalidURI):
            await call
    await store.aclose()
    await store.aclose()


async def test_a_name_does_not_end_at_a_nul(root: Path, features: Features | None) -> None:
    store = await LocalStore.open(root, features=features)
    (root / f"{A}.json").write_text('{"content": {}}')
    with pytest.raises(InvalidURI):
        await store.get(URI(f"{A}.json\0"))
    await store.aclose()
