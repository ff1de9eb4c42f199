"""The doctor names everything that is wrong with a tree, mends what is cld's own, and never stops."""

import os
from pathlib import Path

import pytest
from store_model import A2, A_B, ADA, A

from cld.resource import Draft, new_id, version_of
from cld.store import ANY_VERSION
from cld.store.local import Finding, LocalStore
from cld.store.local_locks import slot_of
from cld.uri import URI

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def problems(store: LocalStore) -> dict[str, Finding]:
    return {finding.path: finding async for finding in store.doctor()}


async def test_a_sound_tree_has_no_findings(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {}), by=ADA)
    await store.put(Draft(A, {}), by=ADA, if_version=one.version)
    await store.put(Draft(A_B, {}), by=ADA)
    await store.delete(A, recursive=True)
    await store.put(Draft(A_B, {}), by=ADA)
    assert await problems(store) == {}
    await store.aclose()


async def test_every_kind_of_problem_is_named(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    await store.put(Draft(A, {}), by=ADA)
    await store.put(Draft(A_B, {}), by=ADA)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "cld:common.Thing.bad.json").write_text('{\n  "content": nope\n}')
    (tmp_path / "cld:common.Thing.other.json").write_bytes((tmp_path / f"{A}.json").read_bytes())
    (tmp_path / "cld:common.Thing.A.json").write_text('{"content": {}}')
    (tmp_path / "cld:common.Thing.link.json").symlink_to(f"{A}.json")
    (tmp_path / "cld:common.Thing.lane").symlink_to(A)
    os.link(tmp_path / f"{A_B}.json", tmp_path / A / "common.Thing.twin.json")
    os.mkfifo(tmp_path / A / "common.Thing.pipe.json")
    (tmp_path / A / "no element").mkdir()
    (tmp_path / ".cld/tmp/mine").write_text("")
    found = await problems(store)
    expected = {
        "README.md": ("warning", "no element"),
        "cld:common.Thing.bad.json": ("error", "line 2, column 1"),
        "cld:common.Thing.other.json": ("error", f"says uri '{A}'"),
        "cld:common.Thing.A.json": ("warning", "only in case"),
        "cld:common.Thing.link.json": ("error", "symbolic link"),
        "cld:common.Thing.lane": ("error", "symbolic link"),
        f"{A_B}.json": ("error", "hard links"),
        f"{A}/common.Thing.twin.json": ("error", "hard links"),
        f"{A}/common.Thing.pipe.json": ("error", "FIFO"),
        f"{A}/no element": ("warning", "no element"),
        ".cld/tmp/mine": ("warning", "did not put there"),
    }
    assert set(found) == set(expected)
    for path, (severity, text) in expected.items():
        assert (found[path].severity, found[path].fixed) == (severity, False)
        assert text in found[path].problem
    # A person's files are left as they are.
    assert await problems(store) == found
    await store.aclose()


def leave(root: Path, uri: URI, version: str, stage: str, data: bytes) -> str:
    name = f"{new_id()}.{version}.{uri.replace('/', '+')}.{stage}"
    (root / ".cld/tmp" / name).write_bytes(data)
    return name


async def test_what_dead_writers_left_is_put_in_order_and_told(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    displaced = b'{"content": {"was": "displaced"}}'
    never = b'{"content": {"was": "never there"}}'
    leave(tmp_path, A, "0" * 32, "new", b"{ half")
    leave(tmp_path, A, "0" * 32, "copy", b"{ half")
    leave(tmp_path, A_B, version_of(never), "swap", never)
    leave(tmp_path, A_B, "0" * 32, "swap", displaced)
    leave(tmp_path, A2, "0" * 32, "gone", displaced)
    found = await store.recover()
    assert [(finding.severity, finding.fixed) for finding in found] == [("info", True)] * 5
    assert os.listdir(tmp_path / ".cld/tmp") == []
    assert [one.version for one in await store.history(A)] == []
    assert [one.version for one in await store.history(A_B)] == [version_of(displaced)]
    assert [one.version for one in await store.history(A2)] == [version_of(displaced)]
    await store.aclose()


@pytest.mark.parametrize("later", [0, 1, 2])
async def test_what_a_dead_writer_displaced_is_older_than_what_others_wrote_since(tmp_path: Path, later: int) -> None:
    store = await LocalStore.open(tmp_path)
    versions = [(await store.put(Draft(A, {"n": n}), by=ADA, if_version=ANY_VERSION)).version for n in range(3)]
    kept = {path.name[-37:-5]: path for path in (tmp_path / f".cld/history/{A}.json").iterdir()}
    # The writer of the second version died right after it had put it in the place of the first.
    kept[versions[0]].rename(tmp_path / ".cld/tmp" / f"{new_id()}.{versions[1]}.{A}.swap")
    if later == 0:
        await store.delete(A)
    if later == 2:
        versions.append((await store.put(Draft(A, {"n": 3}), by=ADA, if_version=versions[2])).version)
    assert len(await store.recover()) == 1
    assert [one.version for one in await store.history(A)] == versions[::-1]
    await store.aclose()


async def test_without_fix_it_names_and_changes_nothing(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    leave(tmp_path, A, "0" * 32, "new", b"{ half")

    def files() -> dict[Path, bytes]:
        return {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.parent.name != "locks"}

    before = files()
    found = [finding async for finding in store.doctor(fix=False)]
    assert [(finding.severity, finding.fixed) for finding in found] == [("warning", False)]
    assert files() == before
    await store.aclose()


async def test_what_a_living_writer_has_in_hand_is_left_alone(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    name = leave(tmp_path, A, "0" * 32, "new", b"{ half")
    assert store._locks is not None
    with store._locks.hold(A):
        assert await store.recover() == []
        other = await LocalStore.open(tmp_path)
        await other.aclose()
        assert os.listdir(tmp_path / ".cld/tmp") == [name]
    assert len(await store.recover()) == 1
    await store.aclose()


async def test_opening_recovers(tmp_path: Path) -> None:
    await (await LocalStore.open(tmp_path)).aclose()
    leave(tmp_path, A, "0" * 32, "gone", b'{"content": {}}')
    store = await LocalStore.open(tmp_path)
    assert os.listdir(tmp_path / ".cld/tmp") == []
    assert len(await store.history(A)) == 1
    await store.aclose()


async def test_stale_and_removed_lock_files_do_no_harm(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    lock = tmp_path / ".cld/locks" / f"{slot_of(A):02x}"
    lock.write_text("left by somebody")
    one = await store.put(Draft(A, {}), by=ADA)
    lock.unlink()
    await store.put(Draft(A, {}), by=ADA, if_version=one.version)
    assert await problems(store) == {}
    await store.aclose()


async def test_a_folder_of_many_files_is_examined_in_steps(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    for n in range(1200):
        (tmp_path / f"cld:common.Thing.t{n:04}.json").write_text("{}" if n % 100 == 0 else '{"content": {}}')
    found = await problems(store)
    assert sorted(found) == [f"cld:common.Thing.t{n:04}.json" for n in range(0, 1200, 100)]
    await store.aclose()
