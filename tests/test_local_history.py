"""What is kept of versions that were: found by name, listed in order, let go by count and by age."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from store_model import A_B, ADA, A

from cld.errors import InvalidResource, ResourceNotFound
from cld.resource import Draft
from cld.store import ANY_VERSION, Stored
from cld.store import local as store_module
from cld.store import local_history as module
from cld.store.local import LocalStore
from cld.uri import URI

pytestmark = pytest.mark.anyio

DAY = 24 * 3600 * 1_000_000_000


async def put(store: LocalStore, uri: URI = A, **content: Any) -> Stored:
    return await store.put(Draft(uri, content), by=ADA, if_version=ANY_VERSION)


def folder_of(root: Path, uri: URI) -> Path:
    return root / ".cld/history" / f"{uri}.json"


async def test_a_kept_version_lies_where_a_person_finds_it(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    one = await put(store, A_B, n=1)
    two = await put(store, A_B, n=2)
    names = sorted(os.listdir(folder_of(tmp_path, A_B)))
    assert [name.split("-")[1] for name in names] == [f"{one.version}.json", f"{two.version}.json"]
    written = two.resource.updated_at.replace("-", "").replace(":", "").removesuffix("Z")
    assert names[1].startswith(written)
    assert b'"n": 1' in (folder_of(tmp_path, A_B) / names[0]).read_bytes()
    await store.aclose()


async def test_a_version_is_found_by_name_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    made = [await put(store, n=n) for n in range(20)]
    hashed: list[int] = []
    real = module.version_of
    monkeypatch.setattr(module, "version_of", lambda data: (hashed.append(1), real(data))[1])
    assert await store.get(A, made[7].version) == made[7]
    assert len(hashed) == 1
    await store.aclose()


@pytest.mark.parametrize("keep", [1, 3])
async def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    store = await LocalStore.open(tmp_path, keep=keep)
    made = [await put(store, n=n) for n in range(8)]
    found = [revision.version for revision in await store.history(A)]
    assert found == [stored.version for stored in reversed(made)][: keep + 1]
    with pytest.raises(ResourceNotFound):
        await store.get(A, made[0].version)
    await store.aclose()


async def test_many_are_kept_to_within_a_sixteenth(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path, keep=32, durability="none")
    for n in range(60):
        await put(store, n=n)
        assert len(os.listdir(folder_of(tmp_path, A))) <= 32 + 2 + 1 if n else True
    await store.aclose()


async def test_what_was_replaced_long_ago_goes_and_what_was_current_until_lately_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path, days=10, keep=1)
    made = [await put(store, n=n) for n in range(2)]
    # A version's age counts from when it was replaced, so made[1], written as long ago, is young.
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + 20 * DAY)
    findings = [finding async for finding in store.doctor()]
    assert [finding.problem for finding in findings] == ["1 versions older or more than is kept; removed"]
    assert [revision.version for revision in await store.history(A)] == [made[1].version]
    await store.aclose()


async def test_what_was_written_long_ago_but_replaced_lately_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path, days=10)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "timestamp", lambda: "2020-01-01T00:00:00.000000Z")
        old = [await put(store, n=n) for n in range(2)]
    new = await put(store, n=2)
    findings = [finding async for finding in store.doctor()]
    # The first was replaced in 2020 as well, the second only now.
    assert [finding.fixed for finding in findings] == [True]
    assert [revision.version for revision in await store.history(A)] == [new.version, old[1].version]
    await store.aclose()


async def test_trash_goes_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await LocalStore.open(tmp_path, days=10)
    made = await put(store, A_B)
    await store.delete(A, recursive=True)
    assert len(os.listdir(tmp_path / ".cld/trash")) == 1
    assert [finding async for finding in store.doctor()] == []
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + 20 * DAY)
    assert [finding.fixed async for finding in store.doctor()] == [True]
    assert os.listdir(tmp_path / ".cld/trash") == []
    with pytest.raises(ResourceNotFound):
        await store.get(A_B, made.version)
    assert [finding async for finding in store.doctor()] == []
    assert os.listdir(tmp_path / ".cld/history" / f"{A}.trash") == []
    await store.aclose()


async def test_a_recursive_delete_is_one_rename_and_lies_in_the_trash_as_it_lay(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    await put(store, A)
    await put(store, A_B)
    (tmp_path / A / "notes.txt").write_text("mine")
    inode = (tmp_path / A).stat().st_ino
    assert await store.delete(A, recursive=True) == 2
    (entry,) = (tmp_path / ".cld/trash").iterdir()
    assert (entry / A).stat().st_ino == inode
    assert sorted(path.relative_to(entry).as_posix() for path in entry.rglob("*.*")) == [
        A,
        f"{A}.json",
        f"{A}/common.Thing.b.json",
        f"{A}/notes.txt",
    ]
    await store.aclose()


async def test_a_deleted_descendant_is_found_among_much_other_trash(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path, durability="none")
    for n in range(50):
        other = URI(f"cld:common.Thing.o{n}")
        await put(store, URI(f"{other}/common.Thing.x"))
        await store.delete(other, recursive=True)
    deep = URI(f"{A_B}/common.Thing.c")
    (tmp_path / A_B).mkdir(parents=True)
    (tmp_path / f"{deep}.json").write_bytes(b'{"content": {"by": "hand"}}')
    await store.delete(A, recursive=True)
    (found,) = await store.history(deep)
    assert (await store.get(deep, found.version)).resource.content == {"by": "hand"}
    back = await store.restore(deep, found.version, by=ADA)
    assert [revision.version for revision in await store.history(deep)] == [back.version, found.version]
    await store.aclose()


async def test_damage_in_the_history_is_reported_and_harms_nothing_else(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    one, two, three = [await put(store, n=n) for n in range(3)]
    folder = folder_of(tmp_path, A)
    (damaged,) = (name for name in os.listdir(folder) if one.version in name)
    (folder / damaged).write_bytes(b"{")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InvalidResource, match="damaged"):
        await store.get(A, one.version)
    found = await store.history(A)
    assert [revision.version for revision in found] == [three.version, two.version, one.version]
    assert [revision.revision for revision in found] == [3, 2, None]
    problems = {finding.path: finding async for finding in store.doctor()}
    assert problems[f".cld/history/{A}.json/{damaged}"].severity == "error"
    assert problems[f".cld/history/{A}.json/notes.txt"].severity == "warning"
    await put(store, n=4)
    await store.aclose()


async def test_damage_in_the_trash_is_reported_and_harms_nothing_else(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    made = await put(store, A_B)
    await store.delete(A, recursive=True)
    (entry,) = (tmp_path / ".cld/trash").iterdir()
    (entry / f"{A_B}.json").unlink()
    (entry / f"{A_B}.json").symlink_to("/etc/passwd")
    assert await store.history(A_B) == []
    with pytest.raises(ResourceNotFound):
        await store.get(A_B, made.version)
    (finding,) = [finding async for finding in store.doctor()]
    assert finding.path.endswith(f"{A_B}.json")
    assert "symbolic link" in finding.problem
    await store.aclose()


async def test_a_copy_cut_short_by_a_power_loss_is_made_again(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    await put(store, n=1)
    two = await put(store, n=2)
    folder = folder_of(tmp_path, A)
    (copy,) = (name for name in os.listdir(folder) if two.version in name)
    (folder / copy).write_bytes(b"")
    assert await store.get(A, two.version) == two
    (finding,) = [finding async for finding in store.doctor()]
    assert (finding.severity, finding.fixed) == ("info", True)
    assert (folder / copy).read_bytes() == (tmp_path / f"{A}.json").read_bytes()
    await store.aclose()


async def test_the_flushed_file_takes_the_place_of_its_unflushed_copy(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    await put(store, n=1)
    two = await put(store, n=2)
    inode = (tmp_path / f"{A}.json").stat().st_ino
    await put(store, n=3)
    (kept,) = (name for name in os.listdir(folder_of(tmp_path, A)) if two.version in name)
    assert (folder_of(tmp_path, A) / kept).stat().st_ino == inode
    await store.aclose()


async def test_a_date_that_is_no_date_in_a_file_never_becomes_a_path(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    (tmp_path / f"{A}.json").write_bytes(b'{"updated_at": "../../../../x", "content": {}}')
    put_over = await put(store)
    assert len(await store.history(A)) == 2
    assert await store.get(A) == put_over
    assert len(os.listdir(folder_of(tmp_path, A))) == 2
    await store.aclose()
