"""An editor that saves at the worst moment: nothing it saved and nothing acknowledged is ever lost."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import pytest
from store_model import A_B, ADA, A, digest

from cld import linux as calls
from cld.errors import Conflict, StoreError
from cld.resource import Draft
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.store.local_paths import Features
from cld.uri import URI

pytestmark = pytest.mark.anyio

Edit = Callable[[], None]


class Editor:
    """Saves as editors do: write beside, rename over."""

    def __init__(self, root: Path) -> None:
        self.file = root / f"{A}.json"
        self.saved: list[bytes] = []

    def save(self) -> None:
        data = b'{"content": {"edit": %d}}' % len(self.saved)
        beside = self.file.with_name("editor~")
        beside.write_bytes(data)
        os.replace(beside, self.file)
        self.saved.append(data)

    def remove(self) -> None:
        self.file.unlink()

    def save_in_place(self) -> None:
        data = b'{"content": {"edit": %d}}' % len(self.saved)
        self.file.write_bytes(data)
        self.saved.append(data)


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Edit]], None]:
    """Makes edits happen just before the n-th exchange, which is as late as they can."""

    def plan(edits: dict[int, Edit]) -> None:
        real, turn = calls.exchange, 0

        def exchange(*arguments: Any) -> None:
            nonlocal turn
            turn += 1
            if turn in edits:
                edits[turn]()
            real(*arguments)

        monkeypatch.setattr(calls, "exchange", exchange)

    return plan


async def kept(store: LocalStore) -> set[str]:
    return {revision.version for revision in await store.history(A)}


def nothing_left(root: Path) -> bool:
    return os.listdir(root / ".cld/tmp") == []


@pytest.mark.parametrize("how", ["save", "save_in_place"])
async def test_a_save_just_before_the_exchange_is_put_back_and_the_put_refused(
    tmp_path: Path, meddle: Any, how: str
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    editor = Editor(tmp_path)
    meddle({1: getattr(editor, how)})
    with pytest.raises(Conflict) as caught:
        await store.put(Draft(A, {"n": 3}), by=ADA, if_version=two.version)
    assert caught.value.current == digest(editor.saved[0])
    assert editor.file.read_bytes() == editor.saved[0]
    assert await kept(store) == {one.version, two.version, digest(editor.saved[0])}
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_a_write_of_any_version_stands_and_the_save_before_it_is_history(tmp_path: Path, meddle: Any) -> None:
    store = await LocalStore.open(tmp_path)
    await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    meddle({1: editor.save})
    put = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=ANY_VERSION)
    assert await store.get(A) == put
    assert digest(editor.saved[0]) in await kept(store)
    assert nothing_left(tmp_path)
    await store.aclose()


@pytest.mark.parametrize("saves", [2, 3, 4, 5])
async def test_an_editor_that_saves_again_while_its_save_is_put_back_has_the_last_word(
    tmp_path: Path, meddle: Any, saves: int
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    editor = Editor(tmp_path)
    meddle(dict.fromkeys(range(1, saves + 1), editor.save))
    with pytest.raises(Conflict) as caught:
        await store.put(Draft(A, {"n": 3}), by=ADA, if_version=two.version)
    assert editor.file.read_bytes() == editor.saved[-1]
    assert caught.value.current == digest(editor.saved[-1])
    # What the editor did not itself write over is kept; it wrote over what had been put back to it.
    assert {one.version, two.version, digest(editor.saved[-1])} <= await kept(store)
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_of_two_saves_the_one_displaced_while_putting_back_becomes_history(tmp_path: Path, meddle: Any) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    # The first is displaced by the put, the second saved over the put's version.
    meddle({1: editor.save, 2: editor.save})
    with pytest.raises(Conflict):
        await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert {digest(data) for data in editor.saved} <= await kept(store)
    await store.aclose()


async def test_a_file_removed_while_a_save_is_put_back_stays_removed(tmp_path: Path, meddle: Any) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    meddle({1: editor.save, 2: editor.remove})
    with pytest.raises(Conflict) as caught:
        await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert caught.value.current is None
    assert digest(editor.saved[0]) in await kept(store)
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_a_file_removed_just_before_the_exchange_is_a_conflict(tmp_path: Path, meddle: Any) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    meddle({1: editor.remove})
    with pytest.raises(Conflict) as caught:
        await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert caught.value.current is None
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_a_file_removed_before_a_write_of_any_version_is_made_again(tmp_path: Path, meddle: Any) -> None:
    store = await LocalStore.open(tmp_path)
    await store.put(Draft(A, {"n": 1}), by=ADA)
    meddle({1: Editor(tmp_path).remove})
    put = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=ANY_VERSION)
    assert await store.get(A) == put
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_what_an_editor_saves_over_was_kept_when_it_was_written(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    editor = Editor(tmp_path)
    editor.save()
    assert await store.get(A, two.version) == two
    editor.save_in_place()
    assert await store.get(A, two.version) == two
    three = await store.put(Draft(A, {"n": 3}), by=ADA, if_version=ANY_VERSION)
    found = [revision.version for revision in await store.history(A)]
    assert found == [three.version, digest(editor.saved[1]), two.version, one.version]
    await store.aclose()


async def test_a_link_put_in_place_just_before_the_exchange_is_put_back_and_never_followed(
    tmp_path: Path, meddle: Any
) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes(b'{"content": {"secret": 1}}')
    store = await LocalStore.open(tmp_path / "root")
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    file = tmp_path / "root" / f"{A}.json"

    def link() -> None:
        file.unlink()
        file.symlink_to(outside)

    meddle({1: link})
    with pytest.raises(Conflict):
        await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert file.is_symlink()
    assert outside.read_bytes() == b'{"content": {"secret": 1}}'
    await store.aclose()


async def test_a_failure_between_exchange_and_history_puts_the_old_version_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    real = os.rename

    def rename(old: str, new: str, **folders: Any) -> None:
        if old.endswith(".swap"):
            raise OSError(28, "No space left on device")
        real(old, new, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(StoreError, match="No space"):
            await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert await store.get(A) == one
    assert nothing_left(tmp_path)
    await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    await store.aclose()


async def test_without_exchange_a_save_before_the_comparison_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Features(openat2=False, renameat2=False, ignores_case=False)
    store = await LocalStore.open(tmp_path, features=features)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    real = os.rename

    def rename(old: str, new: str, **folders: Any) -> None:
        # The moment the old version has become history, before it is compared again.
        real(old, new, **folders)
        if old.endswith(".copy") and not editor.saved:
            editor.save()

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(Conflict):
            await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
    assert editor.file.read_bytes() == editor.saved[0]
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_a_delete_of_a_version_puts_back_what_an_editor_saved_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    editor = Editor(tmp_path)
    real, saves = os.rename, [1]

    def rename(old: str, new: str, **folders: Any) -> None:
        if new.endswith(".gone") and saves:
            saves.pop()
            editor.save()
        real(old, new, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(Conflict) as caught:
            await store.delete(A, if_version=one.version)
    assert caught.value.current == digest(editor.saved[0])
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_permissions_a_person_set_stay_when_a_resource_is_replaced(tmp_path: Path) -> None:
    store = await LocalStore.open(tmp_path)
    await store.put(Draft(A, {}), by=ADA)
    (tmp_path / f"{A}.json").chmod(0o600)
    await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
    assert (tmp_path / f"{A}.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".cld").stat().st_mode & 0o777 == 0o700
    await store.aclose()


async def test_a_cancelled_put_ends_in_its_thread_and_frees_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    one = await store.put(Draft(A, {"n": 1}), by=ADA)
    # The put cannot go on before the scope around it was cancelled.

    reached, go = Event(), Event()
    real = calls.exchange

    def exchange(*arguments: Any) -> None:
        reached.set()
        assert go.wait(10)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(calls, "exchange", exchange)
        async with anyio.create_task_group() as group:

            async def put() -> None:
                await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)

            group.start_soon(put)
            assert await anyio.to_thread.run_sync(reached.wait, 10)
            group.cancel_scope.cancel()
        go.set()
        with anyio.fail_after(10):
            found = await store.history(A)
    assert [revision.revision for revision in found] == [2, 1]
    three = await store.put(Draft(A, {"n": 3}), by=ADA, if_version=found[0].version)
    assert three.resource.revision == 3
    assert nothing_left(tmp_path)
    await store.aclose()


async def test_a_recursive_delete_waits_for_a_put_below_and_takes_it_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.open(tmp_path)
    other = await LocalStore.open(tmp_path)
    await store.put(Draft(A_B, {}), by=ADA)
    below = URI(f"{A}/common.Thing.below")
    reached, go = Event(), Event()
    real = calls.rename_to_free_name

    def rename(*arguments: Any) -> None:
        reached.set()
        assert go.wait(10)
        real(*arguments)

    done: list[Any] = []

    async def put() -> None:
        done.append(await store.put(Draft(below, {}), by=ADA))

    async def delete() -> None:
        done.append(await other.delete(A, recursive=True))

    monkeypatch.setattr(calls, "rename_to_free_name", rename)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(put)
            assert await anyio.to_thread.run_sync(reached.wait, 10)
            group.start_soon(delete)
            with anyio.move_on_after(0.2):  # time enough for a delete that does not wait
                while not done:
                    await anyio.sleep(0.01)
            assert done == []
            go.set()
    assert done[1] == 2
    assert [revision.version for revision in await store.history(below)] == [done[0].version]
    await store.aclose()
    await other.aclose()
