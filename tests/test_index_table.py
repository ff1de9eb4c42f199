"""The table: the last word on each resource counts, in whatever order segments come, go and are merged."""

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cld.index import BrokenIndex
from cld.index import writer as writing
from cld.index.segment import merge_segments
from cld.index.table import Table, View, read_manifest
from cld.index.wordllama import WordLlama
from cld.index.words import hash_of
from cld.index.writer import Writer, choose_run
from cld.resource import Resource
from cld.uri import URI

pytestmark = pytest.mark.anyio


def text(name: str, version: str) -> tuple[URI, str, Resource]:
    uri = URI(f"cld:common.Text.{name}")
    return uri, version, Resource(uri=uri, type="common.Text", id=name, content={"text": f"zebra {name} {version}"})


def said(table: Table) -> dict[str, str | None]:
    return {uri.rpartition(".")[2]: table.version_of(uri) for uri in table.uris()}


def counted(view: View | None) -> dict[str, str]:
    """What a search would see: documents whose mask says that they count, each once."""
    assert view is not None
    found: dict[str, str] = {}
    for segment, alive in view.parts:
        for number, uri in enumerate(segment.uris):
            if alive[number]:
                assert uri not in found, "two segments speak of it"
                found[uri] = segment.version_of(number)
    return {uri.rpartition(".")[2]: version for uri, version in found.items()}


async def test_any_order_of_writes_removals_and_merges_leaves_the_last_word(tmp_path: Path) -> None:
    for seed in range(12):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        writer = await Writer.open(folder, WordLlama())
        reader, late = Table(folder), Table(folder)
        truth: dict[str, str] = {}
        for step in range(40):
            names = rng.sample("abcdefghij", rng.randint(1, 4))
            if rng.random() < 0.3:
                await writer.append([], [URI(f"cld:common.Text.{name}") for name in names])
                truth = {name: version for name, version in truth.items() if name not in names}
            else:
                await writer.append([text(name, f"v{step}") for name in names])
                truth |= dict.fromkeys(names, f"v{step}")
            if rng.random() < 0.4:
                await writer.merge(idle=rng.random() < 0.5)
            assert said(writer.table) == truth
            if rng.random() < 0.4:
                assert counted(reader.refresh()) == truth == said(reader)
        assert counted(late.refresh()) == truth == said(late)
        assert counted(reader.refresh()) == truth
        again = await Writer.open(folder, WordLlama())
        assert said(again.table) == truth


async def test_what_is_written_while_segments_are_merged_is_not_undone_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    reader = Table(tmp_path / "i")
    names = [f"t{number:03d}" for number in range(200)]
    for first in range(0, 200, 20):
        await writer.append([text(name, "old") for name in names[first : first + 20]])
    reader.refresh()
    begun, released = threading.Event(), threading.Event()

    def held_up(*arguments: Any) -> int:
        begun.set()
        assert released.wait(20)
        return merge_segments(*arguments)

    monkeypatch.setattr("cld.index.writer.merge_segments", held_up)
    merging = asyncio.create_task(writer.merge())
    await asyncio.to_thread(begun.wait, 20)
    gone = [URI(f"cld:common.Text.{name}") for name in names[50:100]]
    await writer.append([text(name, "new") for name in names[:50]], gone)
    released.set()
    assert await merging
    truth = {name: "new" if at < 50 else "old" for at, name in enumerate(names) if not 50 <= at < 100}
    for table in (writer.table, reader, Table(tmp_path / "i")):
        assert counted(table.refresh()) == truth == said(table)


async def test_a_removal_is_remembered_while_something_older_speaks_of_the_resource(tmp_path: Path) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    names = [f"t{number:03d}" for number in range(400)]
    await writer.append([text(name, "1") for name in names])
    for name in names[:4]:
        await writer.append([text(f"x{name}", "1")], [URI(f"cld:common.Text.{name}")])
    assert await writer.merge(idle=True)
    table = Table(tmp_path / "i")
    view = table.refresh()
    assert view is not None and len(view.parts) == 2, "the big one is not among those that were merged"
    assert sorted(counted(view)) == sorted([*names[4:], *(f"x{name}" for name in names[:4])]) == sorted(said(table))


async def test_a_view_that_was_given_out_stays_as_it_is(tmp_path: Path) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text("a", "1"), text("b", "1")])
    table = Table(tmp_path / "i")
    kept = table.refresh()
    await writer.append([text("a", "2")], [URI("cld:common.Text.b")])
    assert counted(table.refresh()) == {"a": "2"}
    assert counted(kept) == {"a": "1", "b": "1"}
    while await writer.merge(idle=True):
        pass
    assert counted(table.refresh()) == {"a": "2"}
    # Its file can be read, though it is removed.
    assert kept is not None and len(kept.parts[0][0].keys_of(hash_of("zebra"))) == 2


async def test_a_big_segment_is_not_written_anew_for_each_small_one(tmp_path: Path) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text(f"t{number:03d}", "1") for number in range(400)])
    view = Table(tmp_path / "i").refresh()
    await writer.append([text("one", "1")])
    assert not await writer.merge(idle=True)
    await writer.append([text("two", "1")])
    assert await writer.merge(idle=True) and not await writer.merge(idle=True)
    now = Table(tmp_path / "i").refresh()
    assert view is not None and now is not None
    assert now.manifest.segments[0] == view.manifest.segments[0] and len(now.manifest.segments) == 2
    assert choose_run(now, 2) is None


async def test_files_of_a_maintainer_that_died_are_swept_and_others_wait_for_nobody(tmp_path: Path) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text("a", "1")])
    (tmp_path / "i" / "01abandoned").write_bytes(b"half")
    (tmp_path / "i" / "manifest.new").write_bytes(b"{")
    again = await Writer.open(tmp_path / "i", WordLlama())
    assert said(again.table) == {"a": "1"}
    assert {path.name for path in (tmp_path / "i").iterdir()} == {"manifest", *counted_files(again)}


async def test_many_large_resources_are_written_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PORTION_BYTES", 300)
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text("gone", "0")])
    sizes = [10, 200, 100, 500, 50, 50, 50, 50, 290]
    many = [
        (uri, version, msgspec.structs.replace(one, content={"text": "x" * size}))
        for size, (uri, version, one) in ((size, text(f"t{at}", "1")) for at, size in enumerate(sizes))
    ]
    await writer.append(many, [URI("cld:common.Text.gone")])
    view = writer.table.refresh()
    assert counted(view) == {f"t{at}": "1" for at in range(len(sizes))}
    assert view is not None
    assert [[uri[-2:] for uri in segment.uris] for segment, _ in view.parts[1:]] == [
        ["t0", "t1"],
        ["t2"],
        ["t3"],
        ["t4", "t5", "t6", "t7"],
        ["t8"],
    ]


async def test_the_last_step_of_comparing_finds_files_that_were_damaged_since(tmp_path: Path) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text("a", "1")])
    await writer.finish()
    (segment,) = counted_files(writer)
    path = tmp_path / "i" / segment
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.with_name("other").write_bytes(data)
    path.with_name("other").replace(path)
    with pytest.raises(BrokenIndex, match="not as it was written"):
        await writer.finish()
    again = await Writer.open(tmp_path / "i", WordLlama())
    assert said(again.table) == {} and not again.complete


@pytest.mark.parametrize("change", [(b'"format":3', b'"format":4'), (b'"background":0.', b'"background":1.')])
async def test_a_manifest_of_another_format_or_that_was_changed_is_not_read(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    writer = await Writer.open(tmp_path / "i", WordLlama())
    await writer.append([text("a", "1")])
    path = tmp_path / "i" / "manifest"
    assert change[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*change))
    assert read_manifest(tmp_path / "i") is None
    with pytest.raises(BrokenIndex, match="manifest cannot be read"):
        Table(tmp_path / "i").refresh()


def counted_files(writer: Writer) -> set[str]:
    view = writer.table.refresh()
    assert view is not None
    return set(view.manifest.segments)
