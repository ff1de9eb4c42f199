"""Listings of large folders: the next page costs what it has, and what is remembered is never stale."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from store_model import A, listed

from cld.errors import InvalidArgument
from cld.store import MAX_LIMIT, Page
from cld.store import local_list as module
from cld.store.local import LocalStore
from cld.uri import ROOT, URI, sort_key

pytestmark = pytest.mark.anyio

OLD = 1_700_000_000_000_000_000


def fill(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(folder / f"{name}.json", os.O_CREAT | os.O_WRONLY))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time a folder's names were read from the disk."""
    found: list[int] = []
    real = os.listdir

    def listdir(folder: Any) -> list[str]:
        found.append(folder)
        return real(folder)

    monkeypatch.setattr(module.os, "listdir", listdir)
    return found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the file system is taken to tick at once, as if the folder had not changed for long."""
    monkeypatch.setattr(module, "_TICK_NS", -(10**15))
    monkeypatch.setattr(module, "_COARSE_TICK_NS", -(10**15))


async def test_pages_of_a_large_folder_read_it_once(tmp_path: Path, reads: list[int], patient: None) -> None:
    names = [f"common.Thing.t{n:05}" for n in range(5000)]
    fill(tmp_path / A, random.Random(1).sample(names, len(names)))
    store = await LocalStore.open(tmp_path)
    reads.clear()
    assert await listed(store, A, limit=50) == [f"{A}/{name}" for name in names]
    assert len(reads) == 1
    await store.aclose()


async def test_a_change_is_seen_at_once_in_a_remembered_folder(tmp_path: Path, reads: list[int], patient: None) -> None:
    fill(tmp_path / A, [f"common.Thing.t{n:04}" for n in range(1000)])
    store = await LocalStore.open(tmp_path)
    assert len((await store.list(A, limit=MAX_LIMIT)).uris) == 1000
    (tmp_path / A / "common.Thing.t0500.json").unlink()
    fill(tmp_path / A, ["common.Thing.a"])
    page = await store.list(A, limit=MAX_LIMIT)
    assert len(page.uris) == 1000
    assert f"{A}/common.Thing.t0500" not in page.uris
    assert page.uris[0] == f"{A}/common.Thing.a"
    await store.aclose()


async def test_a_folder_changed_a_moment_ago_is_not_trusted(tmp_path: Path, reads: list[int]) -> None:
    # Within one tick of the clock a second change leaves the same time stamp.
    fill(tmp_path / A, [f"common.Thing.t{n:04}" for n in range(1000)])
    store = await LocalStore.open(tmp_path)
    fill(tmp_path / A, ["common.Thing.new"])
    reads.clear()
    await store.list(A)
    await store.list(A)
    assert len(reads) == 2
    await store.aclose()


async def test_whole_seconds_in_time_stamps_are_trusted_later(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / A, [f"common.Thing.t{n:04}" for n in range(1000)])
    store = await LocalStore.open(tmp_path)
    now = os.stat(tmp_path / A).st_ctime_ns
    for later, expected in ((2_000_000_000, 2), (3_000_000_000, 1)):
        monkeypatch.setattr(module.time, "time_ns", lambda later=later: now + later)
        monkeypatch.setattr(module, "_TICK_NS", 10**15)  # only the coarse one can let it be remembered
        os.utime(tmp_path / A, ns=(OLD, now // 10**9 * 10**9))
        monkeypatch.setattr(module, "_stamp_is_coarse", lambda changed: True)
        reads.clear()
        await store.list(A)
        await store.list(A)
        assert len(reads) == expected
    await store.aclose()


async def test_what_is_remembered_is_bounded(tmp_path: Path, patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_NAMES", 2500)
    store = await LocalStore.open(tmp_path)
    for n in range(4):
        prefix = URI(f"cld:common.Thing.p{n}")
        fill(tmp_path / prefix, [f"common.Thing.t{n:04}" for n in range(1000)])
        await store.list(prefix)
    listing = store._listing
    assert listing._count == 2000
    assert len(listing._remembered) == 2
    await store.aclose()


async def test_order_is_by_elements_in_large_folders_too(tmp_path: Path, patient: None) -> None:
    chance = random.Random(7)
    ids = {"".join(chance.choices("ab-_Z0", k=chance.randint(1, 5))) for _ in range(3000)}
    names = [f"common.{name}.{id}" for name in ("Thing", "Thing_x", "T") for id in ids]
    fill(tmp_path, [f"cld:{name}" for name in names])
    for name in chance.sample(names, 50):
        fill(tmp_path / f"cld:{name}", ["plan.Task.a", "plan.Task.a-b"])
    fill(tmp_path, ["nonsense", "cld:nonsense", "cld:common.Thing.a b"])
    store = await LocalStore.open(tmp_path)
    everything = {URI(str(path.relative_to(tmp_path))[:-5]) for path in tmp_path.rglob("common.*.json")}
    everything |= {URI(f"cld:{name}") for name in names}
    everything |= {URI(str(path.relative_to(tmp_path))[:-5]) for path in tmp_path.rglob("plan.*.json")}
    expected = sorted(everything, key=sort_key)
    assert await listed(store, depth=64, limit=997) == expected
    assert await listed(store, limit=MAX_LIMIT) == [uri for uri in expected if "/" not in uri]
    things = [uri for uri in expected if uri.startswith("cld:common.Thing.") and "/" not in uri]
    assert await listed(store, type="common.Thing", limit=501) == things
    await store.aclose()


@pytest.mark.parametrize("cursor", [A, "cld:common.Thing.b", "cld:common.Thing.a2/common.Thing.b", "cld:"])
async def test_a_cursor_from_elsewhere_is_refused(tmp_path: Path, cursor: str) -> None:
    store = await LocalStore.open(tmp_path)
    with pytest.raises(InvalidArgument) as caught:
        await store.list(A, cursor=cursor)
    assert caught.value.field == "cursor"
    await store.aclose()


async def test_a_cursor_is_the_last_uri_in_plain_text(tmp_path: Path) -> None:
    fill(tmp_path, ["cld:common.Thing.a", "cld:common.Thing.b"])
    store = await LocalStore.open(tmp_path)
    page = await store.list(limit=1)
    assert page == Page((A,), A)
    await store.aclose()


async def test_no_file_is_opened_to_list(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    os.mkfifo(tmp_path / f"{A}.json")
    (tmp_path / "cld:common.Thing.b.json").symlink_to("/nowhere")
    assert await listed(store, ROOT, depth=64) == [A, URI("cld:common.Thing.b")]
    await store.aclose()


async def test_names_too_long_or_too_deep_for_a_uri_are_not_listed(tmp_path: Path) -> None:
    fill(tmp_path, ["cld:" + "a" * 236 + ".B.c", "cld:" + "a" * 241 + ".B.c"])
    deep = tmp_path
    for n in range(66):
        deep = deep / ("cld:a.B.c" if n == 0 else "a.B.c")
    fill(deep, ["a.B.c"])
    store = await LocalStore.open(tmp_path)
    assert await listed(store, depth=100) == [URI("cld:" + "a" * 236 + ".B.c")]
    await store.aclose()


@pytest.mark.parametrize("is_root", [False, True])
@pytest.mark.parametrize(
    "stray",
    [
        "common.Thing.a b.json",
        "common.Thing.a\nb.json",
        "common.Thing.é.json",
        "common.Thing.\udcff.json",
        "common.Thing.a.b.json",
        "common.Thing.json",
        "common.Thing..json",
        "common..a.json",
        ".Thing.a.json",
        "common.1Thing.a.json",
        "common.Th-ing.a.json",
        "common.Thing." + "x" * 129 + ".json",
        "common.Thing.a",
        "common.Thing.a.jso",
        "cld:common.Thing.a.json",
        "Xcld:common.Thing.a.json",
        ".json",
        "x",
        "common.Thing_y.ok.json",
        "Common.thing.ok-1.json",
    ],
)
def test_the_fast_way_to_check_names_agrees_with_the_pattern(stray: str, is_root: bool) -> None:
    prefix = "cld:" if is_root else ""
    names = [f"{prefix}common.Thing.t{n:04}.json" for n in range(600)] + [f"{prefix}a.b.{n}.json" for n in range(5)]
    for more in (stray, prefix + stray):
        fast = module._sorted_names([*names, more], is_root=is_root)
        slow: list[str] = []
        for start in range(0, 606, 100):
            slow += module._sorted_names([*names, more][start : start + 100], is_root=is_root).files
        assert fast.files == sorted(slow)
    assert module._all_files(names, is_root=is_root) is not None
