"""A run over a real folder into a real tree: what changed is done, nothing else is touched, nothing is lost."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyoxigraph
import pytest
from ingest_files import Tree, docx, mail, pdf, tree

from cld.config import IngestLimits
from cld.errors import AccessDenied, Conflict, InvalidArgument, StoreError, Unsupported
from cld.index.linked import extract
from cld.ingest import Progress, Report, file, ingest, run
from cld.ingest.records import document_uri
from cld.policy import Action
from cld.principal import Principal
from cld.resource import Draft, Meta
from cld.store import Stored
from cld.store.local import LocalStore
from cld.uri import ROOT, URI, is_within

pytestmark = pytest.mark.anyio


async def statements(to: Tree) -> set[str]:
    """What the graphs of all resources say but the tree's own facts."""
    graphs = [extract((await to.made.store.get(uri)).resource, pyoxigraph) for uri in await to.uris()]
    assert not any(graph.problems for graph in graphs)
    return {line for graph in graphs for line in graph.triples.decode().splitlines()}


async def test_what_files_say_as_linked_data_and_where_they_link_to_comes_into_the_graph(
    tmp_path: Path, files: Path
) -> None:
    facts = "".join(f"<#s{n}> <urn:p> {n} .\n" for n in range(200))
    page = '<title>P</title><div itemscope itemtype="https://schema.org/Person"><b itemprop="name">Ada</b></div>'
    put(
        files,
        {
            "docs/a.md": "+++\ntitle = 'A'\ntags = ['x']\n+++\nSee [b](b.md) and [up](../c.md).\n",
            "facts.ttl": facts,
            "page.html": page,
            "more.md": f"# More\n\n```ttl\n{facts.replace('urn:p', 'urn:q')}```\n",
        },
    )
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        said = await statements(to)
        for target in ("docs/b.md", "c.md"):
            assert any(f"<cld-vocab:linksTo> <cld-source:{target}>" in one for one in said)
        for predicate in ("p", "q"):
            assert sum(f'> <urn:{predicate}> "' in one for one in said) == 200
        assert not any("linksTo> <urn:p" in one for one in said), "Turtle is no Markdown"
        assert any('<https://schema.org/name> "Ada"' in one for one in said)
        assert any('<http://purl.org/dc/terms/subject> "x"' in one for one in said)


async def test_documents_of_an_older_format_are_brought_up_to_date_and_keep_their_ids(
    tmp_path: Path, files: Path
) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        before = {uri: await to.content(uri) for uri in await to.uris()}
        (document, content) = (await to.records())["a.md"]
        for uri in before:
            if uri.startswith(f"{document}/"):
                old = {key: value for key, value in before[uri].items() if key != "source"}
                await to.store.put(Draft(uri, old, Meta(purpose="Mine.")), if_version="*")
        await to.store.put(Draft(document, {**content, "format": 1}), if_version="*")
        assert (await take(to, files)).changed == 1
        assert {uri: await to.content(uri) for uri in await to.uris()} == before
        passage = next(uri for uri in before if uri.startswith(f"{document}/"))
        assert (await to.made.store.get(passage)).resource.meta.purpose == "Mine."


GUIDE = "# Guide\n\nIntro words.\n\n## One\n\nFirst part.\n\n## Two\n\nSecond part.\n\n## Three\n\nThird part.\n"
OLD = time.time() - 3600


def put(folder: Path, files: Mapping[str, str | bytes], *, old: bool = True) -> None:
    """Write the files, last changed an hour ago, so that their times can be relied on."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if old:
            os.utime(path, (OLD, OLD))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


async def take(to: Tree, *paths: Path, **options: Any) -> Report:
    return await ingest(to.store, paths, below=ROOT, workers=1, **options)


def said(report: Report) -> dict[str, int]:
    names = ("added", "changed", "unchanged", "removed", "moved", "passages_put", "passages_deleted")
    return {name: count for name in names if (count := getattr(report, name))}


async def test_every_format_becomes_a_document_with_its_passages(tmp_path: Path, files: Path) -> None:
    put(
        files,
        {
            "guide.md": GUIDE,
            "sub/plain.txt": "Plain words.",
            "page.html": "<title>Page</title><h1>H</h1><p>Html words.</p>",
            "paper.pdf": pdf([[(20, "Paper"), (11, "Pdf words in a sentence.")]]),
            "letter.docx": docx([(1, "Letter"), (0, "Docx words.")]),
            "note.eml": mail("Note", "Mail words.\n"),
            "code.py": "def f():\n    return 'python words'\n",
            "code.js": "function g() { return 'script words' }\n",
            "LICENSE": "License words.",
        },
    )
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files)
        assert (report.added, report.failed) == (9, ())
        records = await to.records()
        assert {source: content["media_type"] for source, (_, content) in records.items()} == {
            "guide.md": "text/markdown",
            "sub/plain.txt": "text/plain",
            "page.html": "text/html",
            "paper.pdf": "application/pdf",
            "letter.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "note.eml": "message/rfc822",
            "code.py": "text/x-python",
            "code.js": "text/javascript",
            "LICENSE": "text/plain",
        }
        for source, words in {"paper.pdf": "Pdf words", "letter.docx": "Docx words", "note.eml": "Mail words"}.items():
            assert any(words in one["text"] for one in await to.passages(source)), source
        guide = await to.passages("guide.md")
        assert [(one["title"], one["title_path"], one["text"]) for one in guide] == [
            ("Guide", ["Guide"], "Intro words."),
            ("One", ["Guide", "One"], "First part."),
            ("Two", ["Guide", "Two"], "Second part."),
            ("Three", ["Guide", "Three"], "Third part."),
        ]
        assert [GUIDE[one["start"] : one["end"]] for one in guide] == [one["text"] for one in guide]
        uri, _ = records["guide.md"]
        stored = await to.made.store.get(uri)
        assert stored.resource.meta.purpose == "Guide. Intro words."
        (root,) = report.roots
        assert await to.content(root) == {"title": "docs", "source": str(files), "media_type": "inode/directory"}


async def test_a_second_run_writes_nothing_and_reads_no_file(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(files, {"a.md": GUIDE, "b/c.txt": "words", "broken.pdf": b"%PDF-1.4 nonsense"})
    monkeypatch.setattr(file, "RACY_NS", 0)  # the change time of an inode cannot be set back
    async with tree(tmp_path / "tree") as to:
        first = await take(to, files)
        assert (first.added, len(first.failed)) == (2, 1)
        before = await to.versions()
        report = await take(to, files)
        assert said(report) == {"unchanged": 2} and report.bytes_read == 0
        assert report.failed == first.failed
        assert await to.versions() == before


async def test_a_file_that_changed_a_moment_ago_is_looked_at_again(tmp_path: Path, files: Path) -> None:
    put(files, {"a.txt": "one"}, old=False)
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        times = (files / "a.txt").stat()
        put(files, {"a.txt": "two"})
        os.utime(files / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert said(await take(to, files)) == {"changed": 1, "passages_put": 1, "passages_deleted": 1}
        before = await to.versions()
        report = await take(to, files)
        assert said(report) == {"unchanged": 1} and report.bytes_read == 3
        assert await to.versions() == before


async def test_a_changed_passage_replaces_only_itself(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "b.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        before = await to.versions()
        put(files, {"a.md": GUIDE.replace("Second part.", "Second part, longer now.")})
        report = await take(to, files)
        assert said(report) == {"changed": 1, "unchanged": 1, "passages_put": 1, "passages_deleted": 1}
        after = await to.versions()
        document, _ = (await to.records())["a.md"]
        changed = {uri for uri in before.keys() | after.keys() if before.get(uri) != after.get(uri)}
        assert len(changed) == 3 and document in changed and all(is_within(uri, document) for uri in changed)
        passages = await to.passages("a.md")
        assert [one["text"] for one in passages] == [
            "Intro words.",
            "First part.",
            "Second part, longer now.",
            "Third part.",
        ]
        text = (files / "a.md").read_text()
        assert all(text[one["start"] : one["end"]] == one["text"] for one in passages)


async def test_text_put_in_front_leaves_all_other_passages_untouched(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        before = await to.versions()
        put(files, {"a.md": "# News\n\nNew words.\n\n" + GUIDE})
        assert said(await take(to, files)) == {"changed": 1, "passages_put": 1}
        after = await to.versions()
        assert sum(after.get(uri) != version for uri, version in before.items()) == 1
        assert (await to.passages("a.md"))[0]["text"] == "New words."


async def test_a_removed_file_goes_and_nothing_else(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "b.md": GUIDE})
    other = tmp_path / "other"
    put(other, {"c.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files, other)
        by_hand = URI(f"{report.roots[0]}/common.Document.mine")
        await to.store.put(Draft(by_hand, {"title": "Mine"}))
        (files / "a.md").unlink()
        (other / "c.md").unlink()
        assert said(await take(to, files)) == {"unchanged": 1, "removed": 1}
        assert set(await to.records()) == {"b.md", "c.md"}
        assert (await to.content(by_hand))["title"] == "Mine"


async def test_a_moved_file_keeps_what_a_person_said_of_it(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        uri, content = (await to.records())["a.md"]
        stored = await to.made.store.get(uri)
        await to.store.put(Draft(uri, content, Meta(purpose="The one to read first")), if_version=stored.version)
        (files / "sub").mkdir()
        (files / "a.md").rename(files / "sub" / "b.md")
        report = await take(to, files)
        assert (report.added, report.moved, report.removed) == (1, 1, 1)
        ((source, (moved, _)),) = (await to.records()).items()
        assert source == "sub/b.md"
        assert (await to.made.store.get(moved)).resource.meta.purpose == "The one to read first"


async def test_a_persons_description_survives_a_change_and_ours_follows_the_text(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "b.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        uri, content = (await to.records())["a.md"]
        stored = await to.made.store.get(uri)
        await to.store.put(Draft(uri, content, Meta(purpose="By hand")), if_version=stored.version)
        put(files, {name: GUIDE.replace("Intro", "Other") for name in ("a.md", "b.md")})
        await take(to, files)
        purposes = {s: (await to.made.store.get(u)).resource.meta.purpose for s, (u, _) in (await to.records()).items()}
        assert purposes == {"a.md": "By hand", "b.md": "Guide. Other words."}


async def test_a_part_of_a_known_folder_belongs_to_it(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "sub/b.md": GUIDE, "sub/c.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        first = await take(to, files)
        (files / "a.md").unlink()
        (files / "sub/b.md").unlink()
        put(files, {"sub/c.md": "New."})
        report = await take(to, files / "sub")
        assert report.roots == first.roots and (report.changed, report.removed) == (1, 1)
        assert set(await to.records()) == {"a.md", "sub/c.md"}
        put(files, {"sub/c.md": "Newer."})
        report = await take(to, files / "sub/c.md")
        assert report.roots == first.roots and said(report)["changed"] == 1
        assert set(await to.records()) == {"a.md", "sub/c.md"}


async def test_a_folder_within_that_was_taken_in_by_itself_stays_so(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "sub/b.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files / "sub")
        report = await take(to, files)
        assert report.skipped == {"taken in as a folder of its own": 1} and report.added == 1


async def test_mail_that_is_read_and_flagged_stays_the_same_document(tmp_path: Path, files: Path) -> None:
    put(files, {"box/new/1.host": mail("Hi", "Words.\n"), "box/.Sent/cur/2.host:2,S": mail("Out", "Other words.\n")})
    for name in ("cur", "tmp", ".Sent/new", ".Sent/tmp"):
        (files / "box" / name).mkdir()
    put(files, {"box/tmp/3.host": "half a mess"})
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files)
        assert (report.added, report.failed) == (2, ())
        before = await to.versions()
        (files / "box/new/1.host").rename(files / "box/cur/1.host:2,RS")
        assert said(await take(to, files)) == {"unchanged": 2}
        assert (await to.versions()).keys() == before.keys()
        _, content = (await to.records())["box/1.host"]
        assert (files / content["path"]).is_file(), "it says where the file lies now"
        before = await to.versions()
        assert said(await take(to, files)) == {"unchanged": 2}
        assert await to.versions() == before
        assert set(await to.records()) == {"box/1.host", "box/.Sent/2.host"}


async def test_a_broken_file_is_reported_once_converted_and_the_rest_goes_on(tmp_path: Path, files: Path) -> None:
    put(
        files,
        {
            "good.md": GUIDE,
            "junk.pdf": b"%PDF-1.7\n" + b"\xff\x00" * 400,
            "bomb.docx": docx([(0, "x")], bomb_bytes=300 << 20),
            "deep.html": b"<ul><li>" * 50_000,
            "lines.md": "#" * 100_000 + "[" * 100_000,
            "mail.eml": b"\x01\x02 nothing like mail",
        },
    )
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files)
        assert {Path(one.path).name for one in report.failed} == {"junk.pdf", "bomb.docx", "mail.eml"} | (
            {Path(one.path).name for one in report.failed} & {"deep.html"}
        )
        records = await to.records()
        assert records["junk.pdf"][1]["error"].startswith("it cannot be read as application/pdf")
        assert all(one.uri == records[Path(one.path).name][0] and one.reason for one in report.failed)
        assert await to.passages("good.md")
        again = await take(to, files)
        assert again.failed == report.failed and said(again).keys() == {"unchanged"}
        put(files, {"junk.pdf": pdf([[(11, "Whole again, with words.")]])})
        mended = await take(to, files)
        assert mended.changed == 1 and "error" not in (await to.records())["junk.pdf"][1]


async def test_what_failed_is_tried_again_when_asked(tmp_path: Path, files: Path) -> None:
    put(files, {"a.txt": "a" * 1000})
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files, limits=IngestLimits(text_characters=100))
        assert "at most 100" in report.failed[0].reason
        assert (await take(to, files)).failed == report.failed
        assert (await take(to, files, retry=True)).failed == ()


async def test_a_file_that_got_broken_has_no_passages_any_more(tmp_path: Path, files: Path) -> None:
    put(files, {"a.pdf": pdf([[(11, "Words of a page.")]])})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        put(files, {"a.pdf": b"%PDF-1.4 gone"})
        assert len((await take(to, files)).failed) == 1
        uri, content = (await to.records())["a.pdf"]
        assert content["error"] and await to.uris(uri) == []
        assert (await to.made.store.get(uri)).resource.meta.purpose == ""


async def test_a_large_file_is_not_even_read(tmp_path: Path, files: Path) -> None:
    with (files / "line.txt").open("wb") as file:
        file.truncate(1 << 30)
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files)
        assert report.bytes_read == 0 and "has 1073741824 bytes" in report.failed[0].reason


async def test_a_run_that_was_killed_in_the_middle_is_completed_by_the_next(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        puts = 0

        async def dying(store: LocalStore, draft: Draft, **options: Any) -> Stored:
            nonlocal puts
            puts += 1
            if puts == at:
                raise StoreError("killed here")
            return await whole(store, draft, **options)

        whole = LocalStore.put
        for at in range(1, 6):
            puts = 0
            put(files, {"a.md": GUIDE.replace("part.", f"part of version {at}.")})
            with monkeypatch.context() as patch:
                patch.setattr(LocalStore, "put", dying)
                with pytest.raises(StoreError, match="killed here"):
                    await take(to, files)
            records = await to.records()
            assert at == 1 or "digest" not in records["a.md"][1], "what is not complete does not say it is"
        report = await take(to, files)
        assert report.changed == 1
        assert [one["text"] for one in await to.passages("a.md")] == [
            "Intro words.",
            "First part of version 5.",
            "Second part of version 5.",
            "Third part of version 5.",
        ]


async def test_passages_deleted_by_hand_come_back_when_checked(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        uri, _ = (await to.records())["a.md"]
        before = await to.uris(uri)
        await to.store.delete(before[1])
        mine = URI(f"{uri}/common.Text.mine")
        await to.store.put(Draft(mine, {"text": "A remark by hand."}))
        assert said(await take(to, files)) == {"unchanged": 1}
        assert said(await take(to, files, check=True)) == {"changed": 1, "passages_put": 1}
        assert await to.uris(uri) == sorted([*before, mine])
        assert said(await take(to, files, check=True)) == {"unchanged": 1}


async def test_a_document_broken_by_hand_is_reported_and_never_fatal(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "b.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        uri, _ = (await to.records())["a.md"]
        (tmp_path / "tree" / f"{uri}.json").write_text("{ not json")
        put(files, {"b.md": "New words."})
        report = await take(to, files)
        assert report.changed == 1 and "no valid resource" in report.failed[0].reason


SCRIPT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from ingest_files import tree
from cld.ingest import ingest
from cld.uri import ROOT

async def main():
    async with tree(Path({tree!r})) as to:
        report = await ingest(to.store, [{files!r}], below=ROOT, workers=2)
        assert report.failed == (), report.failed
        print(report.added + report.changed + report.unchanged)

asyncio.run(main())
"""


@pytest.mark.parametrize("change", ["new", "changed"])
async def test_two_processes_at_one_folder_make_no_duplicates(tmp_path: Path, files: Path, change: str) -> None:
    texts = {f"f{n}.md": f"# File {n}\n\n" + GUIDE for n in range(25)}
    put(files, texts)
    if change == "changed":
        async with tree(tmp_path / "tree") as to:
            await take(to, files)
        texts = {name: text.replace("part", f"piece of {name}") for name, text in texts.items()}
        put(files, texts)
    script = SCRIPT.format(tests=str(Path(__file__).parent), tree=str(tmp_path / "tree"), files=str(files))
    racing = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        for _ in range(2)
    ]
    for one in racing:
        out, _ = await one.communicate()
        assert (one.returncode, out) == (0, b"25\n")
    async with tree(tmp_path / "tree") as to:
        assert set(await to.records()) == set(texts)
        for name, text in texts.items():
            passages = await to.passages(name)
            assert [text[one["start"] : one["end"]] for one in passages] == [one["text"] for one in passages]
            assert len(passages) == 5 and (await to.records())[name][1]["digest"]
        before = await to.versions()
        assert said(await take(to, files, check=True)) == {"unchanged": 25}
        assert await to.versions() == before


async def test_a_conflict_at_the_commit_is_looked_at_again(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        whole = LocalStore.put
        conflicts = iter([True])

        async def contended(store: LocalStore, draft: Draft, **options: Any) -> Stored:
            if draft.content.get("digest") and next(conflicts, False):
                raise Conflict("another was first", uri=draft.uri, current=None)
            return await whole(store, draft, **options)

        monkeypatch.setattr(LocalStore, "put", contended)
        report = await take(to, files)
        assert report.failed == () and len(await to.passages("a.md")) == 4


@pytest.mark.parametrize("moment", ["claim", "passage", "commit"])
@pytest.mark.parametrize("known", [False, True])
async def test_of_two_runs_that_read_different_versions_the_newer_stays_and_nothing_of_the_other(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, moment: str, known: bool
) -> None:
    newest = GUIDE.replace("Second part.", "Second part, the newest.") + "\n## Four\n\nFourth part.\n"
    async with tree(tmp_path / "tree") as to:
        if known:
            put(files, {"a.md": GUIDE})
            await take(to, files)
        put(files, {"a.md": GUIDE.replace("First part.", "First part, soon old.")})
        whole = LocalStore.put
        once = iter([True])

        async def interrupted(store: LocalStore, draft: Draft, **options: Any) -> Stored:
            is_passage = "/common.Text." in draft.uri
            here = "passage" if is_passage else "commit" if draft.content.get("digest") else "claim"
            if draft.uri.count("/") and here == moment and next(once, False):
                put(files, {"a.md": newest})
                assert (await take(to, files)).failed == ()
            return await whole(store, draft, **options)

        monkeypatch.setattr(LocalStore, "put", interrupted)
        assert (await take(to, files)).failed == ()
        passages = await to.passages("a.md")
        assert [newest[one["start"] : one["end"]] for one in passages] == [one["text"] for one in passages]
        assert len(passages) == 5
        assert said(await take(to, files, check=True)) == {"unchanged": 1}


async def test_progress_counts_up_to_the_end(tmp_path: Path, files: Path) -> None:
    put(files, {f"{n}.txt": f"words {n}" for n in range(5)})
    told: list[Progress] = []
    async with tree(tmp_path / "tree") as to:
        await take(to, files, on_progress=told.append)
    assert [(one.done, one.total) for one in told] == [(n, 5) for n in range(1, 6)]
    assert {Path(one.path).name for one in told} == {f"{n}.txt" for n in range(5)}


async def test_a_run_out_of_time_says_what_remains_and_removes_nothing(tmp_path: Path, files: Path) -> None:
    put(files, {"a.txt": "words", "b.txt": "words"})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        (files / "a.txt").unlink()
        report = await take(to, files, until=time.monotonic() - 1)
        assert (report.remaining, report.removed) == (1, 0)
        assert (await take(to, files)).removed == 1


async def test_policy_decides_every_write(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE, "b.md": GUIDE})

    def rule(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return not (action == "write" and "a-md" in uri)

    async with tree(tmp_path / "tree", rule=rule) as to:
        report = await take(to, files)
        assert report.added == 1 and "not allowed to write" in report.failed[0].reason
        assert not any("a-md" in uri for uri in await to.uris())

    def nothing(principal: Principal, action: Action, uri: str, meta: Mapping[str, str] | None) -> bool:
        return action != "write"

    async with tree(tmp_path / "denied", rule=nothing) as to:
        with pytest.raises(AccessDenied):
            await take(to, files)
        assert await to.uris() == []


async def test_paths_that_are_not_there_or_not_within_are_refused_alike(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE})
    (tmp_path / "outside").mkdir()
    (files / "out").symlink_to(tmp_path / "outside")
    async with tree(tmp_path / "tree") as to:
        refused = set[str]()
        for path in (tmp_path / "outside", tmp_path / "missing", files / "out", files / "../outside", files / "a\x00"):
            with pytest.raises(InvalidArgument) as error:
                await take(to, path, within=[files])
            refused.add(str(error.value).replace(str(path), "PATH"))
        assert refused == {"PATH is not in a folder that may be taken in"}
        assert (await take(to, files / "a.md", within=[files])).added == 1


async def test_a_missing_library_is_said_before_any_file_is_looked_at(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LIBRARIES", (*run.LIBRARIES, "no_such_library"))
    async with tree(tmp_path / "tree") as to:
        with pytest.raises(Unsupported, match=r"no_such_library.*cld\[knowledge\]"):
            await take(to, files)


async def test_the_tree_is_never_taken_into_itself(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": GUIDE})
    async with tree(files / "tree") as to:
        for _ in range(2):
            report = await take(to, files, avoid=[files / "tree"])
            assert report.skipped == {"the tree itself": 1} and report.failed == ()
        assert set(await to.records()) == {"a.md"}


async def test_what_cannot_be_looked_at_is_not_taken_for_removed(tmp_path: Path, files: Path) -> None:
    put(files, {"sub/a.md": GUIDE})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        deep = files / "sub"
        shutil.move(deep, tmp_path / "kept")
        put(files, {"sub/x": ""})
        shutil.rmtree(files / "sub")
        shutil.move(tmp_path / "kept", deep)
        report = await take(to, files, limits=msgspec.structs.replace(IngestLimits(), file_bytes=10))
        assert report.removed == 0 and "at most 10" in report.failed[0].reason
        assert len(await to.passages("sub/a.md")) == 4


def test_ids_are_readable_and_differ_where_names_only_look_alike() -> None:
    uris = {document_uri(ROOT, source) for source in ("a/b.md", "a-b.md", "A/b.md", "ä/b.md", "日本.md")}
    assert len(uris) == 5
    assert all(uri.startswith("cld:common.Document.") for uri in uris)
    long = document_uri(ROOT, "x/" * 500 + "name.md")
    assert len(long) < 120 and "name-md" in long


async def test_the_documents_of_a_path_that_is_gone_go_and_one_that_never_was_stops_no_other(
    tmp_path: Path, files: Path
) -> None:
    put(files, {"sub/a.md": "# A\n\nWords.\n", "sub/b.md": "# B\n\nWords.\n", "c.md": "# C\n\nWords.\n"})
    other = tmp_path / "other"
    put(other, {"d.md": "# D\n\nWords.\n"})
    async with tree(tmp_path / "tree") as to:
        report = await take(to, files, tmp_path / "never", other)
        assert report.added == 4 and [one.path for one in report.failed] == [str(tmp_path / "never")]
        shutil.rmtree(files / "sub")
        report = await take(to, files / "sub")
        assert report.removed == 2 and report.failed == () and set(await to.records()) == {"c.md", "d.md"}
        assert "nothing of it" in (await take(to, files / "sub")).failed[0].reason
        shutil.rmtree(files)
        shutil.rmtree(other)
        assert (await take(to, files, other)).removed == 2
        assert await to.uris() == []


async def test_what_others_put_below_a_folder_that_is_gone_stays(tmp_path: Path, files: Path) -> None:
    put(files, {"a.md": "# A\n\nWords.\n"})
    async with tree(tmp_path / "tree") as to:
        (root,) = (await take(to, files)).roots
        mine = URI(f"{root}/common.Text.mine")
        await to.store.put(Draft(mine, {"text": "Mine."}))
        shutil.rmtree(files)
        assert (await take(to, files)).removed == 1
        assert set(await to.uris()) == {root, mine}


async def test_a_file_that_was_left_out_for_a_while_comes_back_with_what_a_person_said_of_it(
    tmp_path: Path, files: Path
) -> None:
    put(files, {"a.md": "# A\n\nWords.\n", "b.md": "# B\n\nWords.\n"})
    async with tree(tmp_path / "tree") as to:
        await take(to, files)
        uri, content = (await to.records())["a.md"]
        await to.store.put(Draft(uri, content, Meta(purpose="What I say.", evaluation="Good.")), if_version="*")
        assert (await take(to, files, exclude=["*.md"])).removed == 2
        assert said(await take(to, files)) == {"added": 2, "passages_put": 2}
        records = await to.records()
        metas = {name: (await to.made.store.get(uri)).resource.meta for name, (uri, _) in records.items()}
        assert metas == {"a.md": Meta(purpose="What I say.", evaluation="Good."), "b.md": Meta(purpose="B. Words.")}
