"""What the fsspec store does with drivers beyond the contract: archives, links, failures, credentials, processes."""

import errno
import resource
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from cld.config import History
from cld.errors import (
    ConfigError,
    Conflict,
    InvalidArgument,
    InvalidResource,
    ResourceNotFound,
    StoreError,
    Unsupported,
)
from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.fsspec import FsspecStore
from cld.store.fsspec_files import Address
from cld.uri import ROOT, URI

A = URI("cld:common.Thing.a")
A_B = URI("cld:common.Thing.a/common.Thing.b")
ADA = "user:ada"


@asynccontextmanager
async def opened(url: str, **arguments: Any) -> AsyncIterator[FsspecStore]:
    store = await FsspecStore.open(url, **arguments)
    try:
        yield store
    finally:
        await store.aclose()


# --- archives -----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tree as a zip: what `zip -r` of a root makes."""
    file = tmp_path / "tree.zip"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(f"{A}.json", '{"content": {"n": 1}}')
        made.writestr(f"{A_B}.json", '{"content": {"n": 2}}')
        made.writestr("cld:common.Thing.bad.json", "{")
        made.writestr("README.md", "hello")
    return file


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["zip://::{}", "zip://::file://{}"])
async def test_an_archive_can_be_read(archive: Path, form: str) -> None:
    async with opened(form.format(archive)) as store:
        assert (await store.get(A_B)).resource.content == {"n": 2}
        bad = URI("cld:common.Thing.bad")
        assert (await store.list()).uris == (A, bad)
        assert (await store.list(depth=2)).uris == (A, A_B, bad)
        assert (await store.list(A)).uris == (A_B,)
        assert [entry.current for entry in await store.history(A)] == [True]
        with pytest.raises(ResourceNotFound):
            await store.get(URI("cld:common.Thing.none"))
        with pytest.raises(InvalidResource):
            await store.get(bad)


@pytest.mark.anyio
async def test_an_archive_refuses_to_be_written_and_says_so(archive: Path) -> None:
    before = archive.read_bytes()
    async with opened(f"zip://::{archive}") as store:
        assert not store.capabilities.writable
        assert store.capabilities.cas == "none"
        assert "can only be read" in store.warning
        current = (await store.get(A_B)).version
        for write in (
            store.put(Draft(URI("cld:common.Thing.new"), {}), by=ADA),
            store.put(Draft(A_B, {}), by=ADA, if_version=current),
            store.delete(A_B),
            store.delete(A, recursive=True),
            store.restore(A_B, current, by=ADA, if_version=current),
        ):
            with pytest.raises(Unsupported, match="can only be read"):
                await write
    assert archive.read_bytes() == before


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_each_driver_says_what_it_promises(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}/tree") as files, opened("memory://said") as memory:
        assert (files.capabilities.cas, memory.capabilities.cas) == ("create", "create")
        assert not files.capabilities.durable
        assert not memory.capabilities.durable
        assert "let no other process replace or delete here" in files.warning
        assert "gone when the process ends" in memory.warning
        assert files.warning.startswith(f"file://{tmp_path}/tree: ")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense://x/y", "nonsense"),
        ("s3://bucket/tree", "s3fs"),
        ("zip:///tmp/none.zip", "zip://::/path/of/archive"),
    ],
)
def test_a_root_that_cannot_be_used_is_a_setting_to_change(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        anyio.run(FsspecStore.open, url)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://ada:hunter2@host/tree",
        "s3://ada:hunter2@bucket/tree",
        "sftp://ada:hunter2@127.0.0.1:1/tree",
        "sftp://ada:hunter2/with-slash@127.0.0.1/tree",
        "sftp://ada:hunter2:more@127.0.0.1:x/tree",
        "zip://::sftp://ada:hunter2@127.0.0.1:1/tree.zip",
        "nonsense://host/tree?token=hunter2",
    ],
)
def test_credentials_in_a_url_are_never_told(url: str) -> None:
    with pytest.raises((ConfigError, StoreError)) as caught:
        anyio.run(FsspecStore.open, url)
    report = str(caught.getrepr(style="native", chain=True, showlocals=False))
    told = [line for line in report.splitlines() if "hunter2" in line]
    assert told == []
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_an_error_that_repeats_a_secret_is_neither_quoted_nor_chained() -> None:
    address = Address("sftp://ada:p%40ss@host/tree", {"passphrase": "open sesame"})
    assert address.name == "sftp://…@host/tree"
    for text in ("login with p@ss failed", "login with p%40ss failed", "open sesame?"):
        error = OSError(text)
        assert address.scrub(error) in ("login with … failed", "…?")
        assert address.cause(error) is None
    plain = OSError("no route")
    assert (address.scrub(plain), address.cause(plain)) == ("no route", plain)


def test_options_that_are_secret_are_never_told() -> None:
    with pytest.raises(StoreError) as caught:
        anyio.run(lambda: FsspecStore.open("sftp://127.0.0.1:1/tree", options={"password": "hunter2", "timeout": 2}))
    assert "hunter2" not in str(caught.value) + repr(caught.value)


# --- links --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('{"content": {"secret": true}}')
    (outside / "common.Thing.b.json").write_text('{"content": {"secret": true}}')
    root = tmp_path / "tree"
    root.mkdir()
    linked, under = URI("cld:common.Thing.linked"), URI("cld:common.Thing.d/common.Thing.b")
    (root / f"{linked}.json").symlink_to(outside / "secret.json")
    (root / "cld:common.Thing.d").symlink_to(outside)
    async with opened(f"file://{root}") as store:
        for uri in (linked, under):
            with pytest.raises(InvalidResource, match="symbolic link"):
                await store.get(uri)
            with pytest.raises(InvalidResource):
                await store.put(Draft(uri, {}), by=ADA, if_version=ANY_VERSION)
            assert "secret" not in str([*await history_or_nothing(store, uri)])
        assert (await store.list(depth=64)).uris == (linked,)
        assert (await store.list(URI("cld:common.Thing.d"))).uris == ()
        assert await store.delete(linked) == 1
        with pytest.raises(ResourceNotFound):
            await store.get(linked)
    assert sorted(file.name for file in outside.iterdir()) == ["common.Thing.b.json", "secret.json"]
    assert (outside / "secret.json").read_text() == '{"content": {"secret": true}}'


async def history_or_nothing(store: FsspecStore, uri: URI) -> Any:
    try:
        return await store.history(uri)
    except InvalidResource:
        return ()


@pytest.mark.anyio
async def test_a_delete_through_a_linked_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    kept = tmp_path / "outside" / "common.Thing.b.json"
    kept.write_text('{"content": {}}')
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / str(A)).symlink_to(tmp_path / "outside")
    async with opened(f"file://{tmp_path}/tree") as store:
        for recursive in (False, True):
            with pytest.raises(InvalidResource):
                await store.delete(A_B, recursive=recursive)
    assert kept.exists()


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_write_that_fails_half_way_leaves_the_old_and_no_rubbish(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}/tree") as store:
        made = await store.put(Draft(A, {"n": 1}), by=ADA)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StoreError, match="cannot write") as caught:
                await store.put(Draft(A, {"text": "x" * 200_000}), by=ADA, if_version=made.version)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EFBIG
        assert await store.get(A) == made
        # The copy for the history was made before the write failed, and is not shown beside what is there.
        assert [(entry.version, entry.current) for entry in await store.history(A)] == [(made.version, True)]
    assert list((tmp_path / "tree/.cld/tmp").iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("if_version", [None, ANY_VERSION])
async def test_a_file_where_a_directory_should_be_is_a_store_error(tmp_path: Path, if_version: str | None) -> None:
    (tmp_path / str(A)).write_text("in the way")
    async with opened(f"file://{tmp_path}") as store:
        with pytest.raises(StoreError):
            await store.put(Draft(A_B, {}), by=ADA, if_version=if_version)
    assert (tmp_path / str(A)).read_text() == "in the way"


@pytest.mark.anyio
async def test_a_directory_where_a_file_should_be_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / f"{A}.json").mkdir()
    async with opened(f"file://{tmp_path}") as store:
        with pytest.raises(StoreError):
            await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
    assert list((tmp_path / f"{A}.json").iterdir()) == []


@pytest.mark.anyio
async def test_a_recursive_delete_that_was_interrupted_is_finished_at_the_next_start(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}") as store:
        made = {uri: await store.put(Draft(uri, {}), by=ADA) for uri in (A, A_B)}
    # What is on disk when the process dies between moving the tree away and filing it.
    trash = tmp_path / ".cld/trash/01k00000000000000000000000"
    trash.mkdir(parents=True)
    (tmp_path / f"{A}.json").rename(trash / f"{A}.json")
    (tmp_path / str(A)).rename(trash / str(A))
    async with opened(f"file://{tmp_path}") as store:
        assert (await store.list(depth=64)).uris == ()
        for uri, stored in made.items():
            assert [entry.version for entry in await store.history(uri)] == [stored.version]
            assert await store.get(uri, stored.version) == stored
    assert not trash.exists()


@pytest.mark.anyio
async def test_strays_below_what_is_deleted_are_kept_in_the_trash(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}") as store:
        await store.put(Draft(A_B, {}), by=ADA)
        (tmp_path / str(A) / "notes.txt").write_text("mine")
        assert await store.delete(A, recursive=True) == 1
    (kept,) = (tmp_path / ".cld/trash").rglob("*.txt")
    assert kept.read_text() == "mine"


@pytest.mark.anyio
async def test_a_root_with_the_characters_of_patterns_is_only_itself(tmp_path: Path) -> None:
    for name in ("tree[1]*", "tree1x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{A}.json").write_text('{"content": {}}')
    async with opened(f"file://{tmp_path}/tree[1]*") as store:
        await store.put(Draft(A_B, {}), by=ADA)
        assert await store.delete(A, recursive=True) == 2
    assert (tmp_path / "tree1x" / f"{A}.json").exists()


# --- retention and caches -----------------------------------------------------------------------


@pytest.mark.anyio
async def test_history_keeps_as_many_as_are_asked_for(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}", history=History(keep=3)) as store:
        for n in range(8):
            await store.put(Draft(A, {"n": n}), by=ADA, if_version=ANY_VERSION)
        assert [entry.revision for entry in await store.history(A)] == [8, 7, 6, 5]


@pytest.mark.anyio
async def test_history_keeps_as_long_as_is_asked_for(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}", history=History(days=30)) as store:
        made = await store.put(Draft(A, {}), by=ADA)
        made = await store.put(Draft(A, {}), by=ADA, if_version=made.version)
        folder = tmp_path / ".cld/history" / str(A)
        (kept,) = folder.iterdir()
        kept.rename(folder / f"01bx5zzkbk{'0' * 16}.{'a' * 32}.json")  # an id of 2017
        made = await store.put(Draft(A, {}), by=ADA, if_version=made.version)
        assert [entry.revision for entry in await store.history(A)] == [3, 2]


@pytest.mark.anyio
async def test_what_another_writes_is_seen_at_once(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}") as one, opened(f"file://{tmp_path}") as other:
        assert (await one.list()).uris == ()
        made = await other.put(Draft(A, {}), by=ADA)
        assert (await one.list(ROOT)).uris == (A,)
        assert await one.get(A) == made


@pytest.mark.anyio
async def test_a_cursor_of_another_listing_is_refused(tmp_path: Path) -> None:
    async with opened(f"file://{tmp_path}") as store:
        for cursor in (A, URI("cld:common.Thing.a2")):
            with pytest.raises(InvalidArgument):
                await store.list(A, cursor=cursor)


# --- threads and processes ----------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["file", "memory"])
async def test_two_stores_over_one_place_in_a_process_are_one_writer(tmp_path: Path, driver: str) -> None:
    url = f"{driver}://{tmp_path}/tree"
    async with opened(url) as one, opened(url) as other:
        await one.put(Draft(A, {"n": 0}), by=ADA)

        async def count(store: FsspecStore) -> None:
            for _ in range(25):
                while True:
                    got = await store.get(A)
                    draft = Draft(A, {"n": got.resource.content["n"] + 1})
                    try:
                        await store.put(draft, by=ADA, if_version=got.version)
                    except Conflict:
                        continue
                    break

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(count, one)
                group.start_soon(count, other)
        assert (await one.get(A)).resource.content == {"n": 50}


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["file", "memory"])
async def test_listing_goes_on_beside_deletions(tmp_path: Path, driver: str) -> None:
    async with opened(f"{driver}://{tmp_path}/tree") as store:
        kept = [URI(f"cld:common.Thing.k{n:03}") for n in range(100)]
        for uri in kept:
            await store.put(Draft(uri, {}), by=ADA)
        writing = True

        async def write() -> None:
            nonlocal writing
            try:
                for _ in range(150):
                    await store.put(Draft(A, {}), by=ADA)
                    await store.delete(A)
            finally:
                writing = False

        async def read() -> None:
            while writing:
                assert set(kept) <= set((await store.list(limit=1000)).uris)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # so that threads meet inside the driver
        try:
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(write)
                    for _ in range(6):
                        group.start_soon(read)
        finally:
            sys.setswitchinterval(interval)
        for uri in kept:
            await store.delete(uri)


CREATOR = """
import anyio, sys
from cld.errors import Conflict
from cld.resource import Draft
from cld.store.fsspec import FsspecStore
from cld.uri import URI

async def main():
    store = await FsspecStore.open(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(60):
        try:
            await store.put(Draft(URI(f"cld:common.Thing.t{n}"), {"by": sys.argv[2]}), by="user:" + sys.argv[2])
        except Conflict:
            continue
        print(n, flush=True)
    await store.aclose()

anyio.run(main)
"""


def test_of_processes_that_create_the_same_one_wins(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", CREATOR, f"file://{tmp_path}/tree", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for name in ("ada", "bob", "eve")
    ]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    won = [creator.communicate(timeout=60)[0].split() for creator in creators]
    assert [creator.returncode for creator in creators] == [0, 0, 0]
    assert sorted(int(n) for numbers in won for n in numbers) == list(range(60))
    assert not any((tmp_path / "tree/.cld/tmp").iterdir())


def test_fsspec_is_not_imported_before_a_store_is_opened() -> None:
    code = "import sys, cld.store.fsspec; sys.exit(any(name in sys.modules for name in ('fsspec', 'paramiko')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, timeout=60).returncode == 0
