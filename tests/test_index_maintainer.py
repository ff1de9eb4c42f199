"""The index follows the tree: at once, whoever is killed, whatever is removed, whichever model."""

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from index_world import SECONDS, World, a_world, until

from cld.index import BrokenIndex, Embedder, EmbeddingFailed, Model
from cld.index.arrays import Floats
from cld.index.embedding import choose_embedder
from cld.index.table import current_of, digest_of, read_manifest

pytestmark = pytest.mark.anyio

PROCESS = Path(__file__).parent / "index_process.py"
OTHER = Model("test/other")


class Marked:
    """An embedder of another model: a direction for each word, and a gate to hold it up or make it fail."""

    def __init__(self) -> None:
        self.model = OTHER
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails_for: str | None = None

    async def embed(self, texts: Sequence[str]) -> Floats:
        await self.gate.wait()
        if self.fails_for is not None and any(self.fails_for in text for text in texts):
            raise EmbeddingFailed("the model is not there")
        found = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                found[row, hashlib.sha256(word.strip(".,").encode()).digest()[0] % 64] += 1
        return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    def choose(self, model: Model) -> Embedder:
        return self if model == OTHER else choose_embedder(model)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path / "resources") as world:
        yield world


async def fill(world: World, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await world.put(f"cld:common.Text.t{number:05d}", f"Text {number} tells of zebra number{number}.")


@contextmanager
def process(root: Path) -> Iterator["subprocess.Popen[str]"]:
    started = subprocess.Popen([sys.executable, str(PROCESS), str(root)], stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        assert started.stdout is not None
        started.stdout.close()
        started.wait(10)


async def says(started: "subprocess.Popen[str]", word: str) -> None:
    assert started.stdout is not None
    async with asyncio.timeout(60):
        assert (await asyncio.to_thread(started.stdout.readline)).strip() == word


async def test_a_put_a_change_and_a_delete_are_found_within_a_second(world: World) -> None:
    await fill(world, 50)
    async with world.maintained():
        took: list[float] = []
        for number in range(10):
            uri = f"cld:common.Text.n{number}"
            await world.put(uri, f"A walrus{number} swims.")
            took.append(await until(lambda n=number: world.ask(f"walrus{n}", mode="words"), 5))
            await world.put(uri, f"A heron{number} flies.")
            took.append(await until(lambda n=number: world.ask(f"heron{n}", mode="words"), 5))
            assert await world.ask(f"walrus{number}", mode="words") == []
            await world.delete(uri)
            await until(lambda n=number: _none(world, f"heron{n}"), 5)
        assert sorted(took)[len(took) // 2] < 1.0
        assert (await world.check()).good


async def _none(world: World, asked: str) -> bool:
    return not await world.ask(asked, mode="words")


async def test_a_burst_is_taken_in_batches_and_small_segments_are_merged(world: World) -> None:
    async with world.maintained():
        await asyncio.gather(*(world.put(f"cld:common.Text.b{n}", f"Burst zebra{n}.") for n in range(300)))
        await until(lambda: world.ask("zebra299", mode="words"))
        await until(lambda: _indexed(world, 300))
        for number in range(40):
            await world.put(f"cld:common.Text.s{number}", f"Single heron{number}.")
            await until(lambda n=number: world.ask(f"heron{n}", mode="words"))
        await until(lambda: _segments_at_most(world, 20))
        checked = await world.check()
        assert checked.good and checked.resources == 340


async def _indexed(world: World, count: int) -> bool:
    return (await world.check(grace_seconds=0)).resources == count


async def _segments_at_most(world: World, count: int) -> bool:
    files = list((world.folder / current_of(world.folder)).iterdir())
    return len(files) <= count


async def test_what_changed_while_nobody_looked_is_made_good_at_the_next_start(world: World) -> None:
    await fill(world, 30)
    async with world.maintained():
        pass
    await world.delete("cld:common.Text.t00003")
    await world.put("cld:common.Text.t00004", "Something else: a walrus.")
    await world.put("cld:common.Text.new", "A heron.")
    checked = await world.check(grace_seconds=0)
    assert checked.missing == ("cld:common.Text.new",)
    assert checked.stale == ("cld:common.Text.t00004",)
    assert checked.extra == ("cld:common.Text.t00003",)
    async with world.maintained():
        assert (await world.check()).good
        assert await world.ask("heron", mode="words") == ["cld:common.Text.new"]


async def test_when_the_maintainer_is_killed_another_process_takes_over(world: World) -> None:
    await fill(world, 1500)
    with process(world.root) as first:
        await says(first, "holds")
        with process(world.root) as second:
            await until(lambda: _has_begun(world))
            first.kill()
            assert not (await world.check(grace_seconds=0)).good, "it was killed too late to show anything"
            await says(second, "holds")
            await says(second, "ready")
            checked = await world.check()
            assert checked.good, checked
            assert checked.resources == 1500


async def _has_begun(world: World) -> bool:
    manifest = read_manifest(world.folder / current_of(world.folder))
    return manifest is not None and len(manifest.segments) > 0


async def test_killed_again_and_again_it_still_becomes_whole(world: World) -> None:
    await fill(world, 1200)
    for round in range(5):
        with process(world.root) as started:
            await says(started, "holds")
            for number in range(20):
                await world.put(f"cld:common.Text.t{number:05d}", f"Round {round}, heron{round}.")
            await asyncio.sleep(0.03 * round)  # not to wait for anything: to be killed at different moments
    async with world.maintained():
        checked = await world.check()
        assert checked.good and checked.resources == 1200, checked
        assert len(await world.ask("heron4", mode="words", limit=100)) == 20
        assert await world.ask("heron1", mode="words") == []


async def test_only_one_maintains_and_the_next_begins_when_it_ends(world: World) -> None:
    await fill(world, 20)
    async with contextlib.AsyncExitStack() as stack:
        async with world.maintained():
            second = await stack.enter_async_context(world.maintained(wait=False))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(second.keeping.holds.wait(), 0.2)
        await asyncio.wait_for(second.keeping.ready.wait(), SECONDS)
        await world.put("cld:common.Text.n", "A walrus.")
        await until(lambda: world.ask("walrus", mode="words"))


async def test_a_reader_in_another_process_than_the_maintainer_sees_what_it_writes(world: World) -> None:
    await fill(world, 20)
    with process(world.root) as other:
        await says(other, "holds")
        await says(other, "ready")
        for number in range(5):
            await world.put(f"cld:common.Text.n{number}", f"A walrus{number}.")
            await until(lambda n=number: world.ask(f"walrus{n}", mode="words"), 5)


async def test_a_removed_index_folder_comes_back_the_same(world: World) -> None:
    await fill(world, 200)
    async with world.maintained():
        before = await world.search.query(world.mine, "tells of zebra number17", limit=50)
        shutil.rmtree(world.folder)
        await until(lambda: _same(world, before))
        assert (await world.check()).good
    assert len(before) == 50


async def _same(world: World, before: object) -> bool:
    return await world.search.query(world.mine, "tells of zebra number17", limit=50) == before


@pytest.mark.parametrize("harm", ["cut", "empty", "gone", "manifest", "current", "bytes"])
async def test_an_index_that_was_damaged_is_made_anew(world: World, harm: str) -> None:
    await fill(world, 100)
    async with world.maintained():
        before = await world.search.query(world.mine, "tells of zebra number17", limit=50)
    folder = world.folder / current_of(world.folder)
    segment = max((path for path in folder.iterdir() if path.name != "manifest"), key=lambda path: path.stat().st_size)
    match harm:
        case "cut":
            segment.write_bytes(segment.read_bytes()[:-64])
        case "empty":
            segment.write_bytes(b"")
        case "gone":
            segment.unlink()
        case "manifest":
            (folder / "manifest").write_bytes(b"{")
        case "current":
            (world.folder / "current").write_bytes(b"../../../../x")
        case _:
            data = bytearray(segment.read_bytes())
            data[20] ^= 1
            segment.write_bytes(data)
    async with a_world(world.root) as again:
        assert (await again.check(grace_seconds=0)).broken
        # Without the note of which index answers there is none; one that is damaged is no empty one.
        with contextlib.nullcontext() if harm == "current" else pytest.raises(BrokenIndex):
            assert await again.ask("zebra") == []
        async with again.maintained():
            assert await again.search.query(again.mine, "tells of zebra number17", limit=50) == before
            assert (await again.check()).good


async def test_what_is_not_of_an_index_does_not_keep_it_from_being_opened(world: World) -> None:
    await fill(world, 5)
    async with world.maintained():
        pass
    folder = world.folder / current_of(world.folder)
    (folder / "a folder").mkdir()
    (folder / "a folder" / "a file").write_text("not of the index")
    (folder / "left").write_text("by a maintainer that died")
    async with world.maintained():
        assert (await world.check()).good
    assert (folder / "a folder" / "a file").exists() and not (folder / "left").exists()


async def test_the_check_sees_a_single_changed_byte(world: World) -> None:
    await fill(world, 50)
    async with world.maintained():
        pass
    folder = world.folder / current_of(world.folder)
    segment = next(path for path in folder.iterdir() if path.name != "manifest")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    async with a_world(world.root) as again:
        assert "as it was written" in (await again.check(grace_seconds=0)).broken


async def test_a_change_of_the_model_embeds_beside_while_the_old_index_serves(world: World) -> None:
    await fill(world, 150)
    async with world.maintained():
        pass
    marked = Marked()
    world.search._choose = marked.choose
    marked.gate.clear()
    async with world.maintained(OTHER, choose=marked.choose, wait=False) as maintainer:
        await maintainer.keeping.holds.wait()
        # The new model cannot be asked yet, and the old one answers, with news too.
        await world.put("cld:common.Text.news", "A walrus swims.")
        await until(lambda: world.ask("walrus swimming", mode="meaning"))
        await asyncio.wait_for(maintainer.keeping.ready.wait(), SECONDS)
        assert current_of(world.folder) == digest_of(Model())
        marked.gate.set()
        await until(lambda: _answers(world, OTHER))
        assert (await world.ask("walrus"))[0] == "cld:common.Text.news"
        checked = await world.check()
        assert checked.good and checked.resources == 151
        assert sorted(path.name for path in world.folder.iterdir()) == sorted(["current", "lock", digest_of(OTHER)])


async def test_a_question_asked_while_the_model_changes_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, 20)
    await world.maintainer().catch_up()
    other = Marked()
    world.search._choose = other.choose
    assert await world.ask("zebra")
    read: list[str] = []

    def swapped_after(root: Path) -> str:
        """What is current; the first time another is swapped in, and the old one removed, before it is opened."""
        read.append(current_of(root))
        if len(read) == 1:
            asyncio.run(world.maintainer(OTHER, choose=other.choose).catch_up(anew=True))
        return read[-1]

    def in_thread(root: Path) -> str:
        thread = threading.Thread(target=lambda: swapped_after(root))
        thread.start()
        thread.join()
        return read[-1]

    monkeypatch.setattr("cld.index.search.current_of", in_thread)
    assert await world.ask("zebra") and read == [digest_of(Model()), digest_of(OTHER)]


async def _answers(world: World, model: Model) -> bool:
    return current_of(world.folder) == digest_of(model)


async def _by_meaning(world: World, query: str) -> list[str]:
    with contextlib.suppress(EmbeddingFailed):
        return await world.ask(query, mode="meaning")
    return []


async def _logged(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


@pytest.mark.parametrize("fails_for", ["", "zebra"], ids=["at once", "in the middle"])
async def test_a_model_that_fails_leaves_the_old_index_serving_and_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails_for: str
) -> None:
    monkeypatch.setattr("cld.index.keeping.RETRY_SECONDS", (0.05, 0.1))
    await fill(world, 20)
    async with world.maintained():
        pass
    marked = Marked()
    marked.fails_for = fails_for
    async with world.maintained(OTHER, choose=marked.choose, wait=False) as maintainer:
        await maintainer.keeping.holds.wait()
        await world.put("cld:common.Text.news", "A walrus swims.")
        await until(lambda: world.ask("walrus", mode="words"))
        await until(lambda: _logged(caplog, "the model is not there"))
        assert current_of(world.folder) == digest_of(Model())
        assert "beginning again" not in caplog.text, "the old index goes on without a break"
        marked.fails_for = None
        await until(lambda: _answers(world, OTHER))


async def test_what_is_put_while_the_model_is_down_is_found_by_words_and_by_meaning_once_it_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cld.index.keeping.RETRY_SECONDS", (0.05, 0.1))
    marked = Marked()
    world.search._choose = marked.choose
    await fill(world, 20)
    async with world.maintained(OTHER, choose=marked.choose):
        marked.fails_for = ""
        await world.put("cld:common.Text.news", "A walrus swims.")
        await until(lambda: world.ask("walrus"))
        assert (await world.check()).good
        marked.fails_for = None
        await until(lambda: _by_meaning(world, "walrus"))
    marked.fails_for = ""
    await world.put("cld:common.Text.more", "A heron flies.")
    assert await world.maintainer(OTHER, choose=marked.choose).catch_up()
    assert (await world.ask("heron"))[0] == "cld:common.Text.more" and world.search.failure
    marked.fails_for = None
    assert "cld:common.Text.more" not in await world.ask("heron", mode="meaning")
    assert await world.maintainer(OTHER, choose=marked.choose).catch_up()
    assert (await world.ask("heron", mode="meaning"))[0] == "cld:common.Text.more"


async def test_without_any_index_and_with_the_model_down_words_answer_until_it_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cld.index.keeping.RETRY_SECONDS", (0.05, 0.1))
    marked = Marked()
    marked.fails_for = ""
    world.search._choose = marked.choose
    await fill(world, 20)
    assert await world.maintainer(OTHER, choose=marked.choose).catch_up()
    assert (await world.ask("number7"))[0] == "cld:common.Text.t00007" and world.search.failure
    async with world.maintained(OTHER, choose=marked.choose):
        await world.put("cld:common.Text.news", "A walrus swims.")
        await until(lambda: world.ask("walrus"))
        marked.fails_for = None
        await until(lambda: _answers(world, OTHER))
        assert await world.ask("walrus", mode="meaning") and (await world.check()).good


async def test_catching_up_leaves_an_index_of_the_model_before_as_it_answers_unless_asked(world: World) -> None:
    await fill(world, 20)
    await world.maintainer().catch_up()
    marked = Marked()
    marked.gate.clear()  # whoever asks it waits for ever
    await world.put("cld:common.Text.news", "A walrus swims.")
    await world.maintainer(OTHER, choose=marked.choose).catch_up()
    assert await _answers(world, Model()) and await world.ask("walrus", mode="words")
    marked.gate.set()
    await world.maintainer(OTHER, choose=marked.choose).catch_up(anew=True)
    assert await _answers(world, OTHER)


async def test_where_the_model_cannot_be_asked_words_alone_decide(world: World) -> None:
    marked = Marked()
    world.search._choose = marked.choose
    await fill(world, 20)
    async with world.maintained(OTHER, choose=marked.choose):
        marked.fails_for = ""
        (hit, *_) = await world.search.query(world.mine, "number7")
        assert hit.uri == "cld:common.Text.t00007" and hit.why.signals == ("words",)
        with pytest.raises(EmbeddingFailed):
            await world.search.query(world.mine, "number7", mode="meaning")


async def test_queries_during_writes_and_merges_always_answer(world: World) -> None:
    await fill(world, 300)
    async with world.maintained():

        async def write() -> None:
            for number in range(60):
                await world.put(f"cld:common.Text.t{number:05d}", f"Rewritten heron{number} beside zebra.")
                await until(lambda n=number: world.ask(f"heron{n}", mode="words"))

        writing = asyncio.create_task(write())
        other = World(world.root, world.store)  # another reader, with a table of its own
        while not writing.done():
            assert await other.ask("zebra number250", mode="words", limit=1) == ["cld:common.Text.t00250"]
        await writing
        assert (await world.check()).good


async def test_a_tree_without_a_server_is_caught_up_with_once(world: World) -> None:
    await fill(world, 100)
    (world.folder / "graph").mkdir(parents=True)
    alone = world.maintainer()
    assert await alone.catch_up()
    assert (await world.check(grace_seconds=0)).good
    assert await world.ask("number42", mode="words") == ["cld:common.Text.t00042"]
    await world.delete("cld:common.Text.t00042")
    async with world.maintained():
        assert not await alone.catch_up()
    assert await alone.catch_up() and await world.ask("number42", mode="words") == []
    assert (world.folder / "graph").is_dir(), "what others keep there is theirs"


async def test_many_deletes_leave_no_trace(world: World) -> None:
    await fill(world, 300)
    async with world.maintained():
        for number in range(290):
            await world.delete(f"cld:common.Text.t{number:05d}")
        await until(lambda: _indexed(world, 10))
        assert len(await world.ask("zebra", mode="words", limit=100)) == 10
        assert (await world.check()).good
