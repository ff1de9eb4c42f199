"""The tool: hosts may have files taken in only from folders that the server's owner named."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ingest_files import docx
from mcp import Client
from server_world import MODES, World, call, client, fail, world

from cld.config import Ingest, IngestLimits
from cld.server import ingest_tools as module
from cld.server.ingest_tools import ingest_tools
from cld.server.knowledge_tools import knowledge_tools

pytestmark = pytest.mark.anyio

LIMITS = IngestLimits()


@asynccontextmanager
async def host(
    folder: Path,
    *roots: Path,
    mode: str = "legacy",
    limits: IngestLimits = LIMITS,
    **options: Any,
) -> AsyncGenerator[tuple[World, Client]]:
    tools = ingest_tools([str(root) for root in roots], folder / "tree", limits)
    async with world(folder / "tree") as made:
        made.application.registry.replace("cld", ())
        made.application.registry.replace("knowledge", ())
        made.application.registry.replace("ingest", tools)
        async with client(made, mode, **options) as connected:
            yield made, connected


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)
    return folder


@pytest.mark.parametrize("mode", MODES)
async def test_the_folders_named_are_taken_in(tmp_path: Path, mode: str) -> None:
    docs = put(tmp_path / "docs", a="# A\n\nwords", b="words")
    async with host(tmp_path, docs, mode=mode) as (made, connected):
        answer = await call(connected, "ingest")
        assert (answer["added"], answer["remaining"], answer["failed"]) == (2, 0, [])
        page = await made.store.list(answer["roots"][0])
        assert len(page.uris) == 2
        put(docs, a="# A\n\nnew words")
        assert (await call(connected, "ingest", paths=["a.md"]))["changed"] == 1
        assert (await call(connected, "ingest", paths=[str(docs / "b.md")]))["unchanged"] == 1


async def test_without_folders_named_the_tool_says_what_to_set(tmp_path: Path) -> None:
    docs = put(tmp_path / "docs", a="words")
    async with host(tmp_path) as (_, connected):
        for arguments in ({}, {"paths": [str(docs)]}):
            error = await fail(connected, "ingest", **arguments)
            assert error["code"] == "config_error" and "[ingest] roots" in error["message"]


async def test_nothing_outside_can_be_read_nor_its_being_there_be_told(tmp_path: Path) -> None:
    docs, secret = put(tmp_path / "docs", a="words"), put(tmp_path / "secret", s="secret words")
    (docs / "link").symlink_to(secret)
    async with host(tmp_path, docs) as (made, connected):
        paths = [
            *(str(secret), str(secret / "s.md"), str(tmp_path / "missing"), str(docs / "link"), "link/s.md"),
            *("../secret", "../missing", "link/missing.md", "/", "/etc/passwd", "a\x00b", "/proc/self/environ"),
        ]
        messages = set[str]()
        for path in paths:
            error = await fail(connected, "ingest", paths=[path])
            assert error["code"] == "invalid_argument", path
            messages.add(error["message"].replace(path, "PATH").replace(f"{docs}/PATH", "PATH"))
        assert messages <= {"PATH is not in a folder that may be taken in"}, messages
        assert (await made.store.list(depth=9)).uris == ()
        # What is not there within is reported, and stops no other.
        answer = await call(connected, "ingest", paths=["~", str(docs)])
        assert [one["path"] for one in answer["failed"]] == [str(docs / "~")]
        assert answer["added"] == 1 and answer["skipped"] == {"link": 1}


async def test_folders_and_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    docs = put(tmp_path / "docs", a="words", b="many more words")
    async with world(tmp_path / "tree") as made:
        given = Ingest(roots=(str(docs),), file_bytes=10)
        made.runtime.settings = msgspec.structs.replace(made.runtime.settings, ingest=given)
        made.application.registry.replace("cld", ())
        made.application.registry.replace("knowledge", knowledge_tools(made.runtime)[1])
        async with client(made, "legacy") as connected:
            answer = await call(connected, "ingest")
    assert answer["added"] == 1 and "at most 10 are taken" in answer["failed"][0]["reason"]


async def test_a_bad_file_is_in_the_answer(tmp_path: Path) -> None:
    docs = put(tmp_path / "docs", a="words")
    (docs / "x.pdf").write_bytes(b"%PDF-1.4 no")
    async with host(tmp_path, docs) as (_, connected):
        answer = await call(connected, "ingest")
        assert (answer["added"], answer["failures"]) == (1, 1)
        assert answer["failed"][0]["path"] == str(docs / "x.pdf") and answer["failed"][0]["reason"]


@pytest.mark.timeout(60)
async def test_a_folder_of_traps_costs_each_trap_and_nothing_else(tmp_path: Path) -> None:
    docs = put(tmp_path / "docs", a="words", **{"deep": "> " * 100_000, "laughs": "---\na: &a [*a, *a]\n---\nwords"})
    (docs / "bomb.docx").write_bytes(docx([(0, "x")], bomb_bytes=300 << 20))
    (docs / "slow.html").write_bytes(b"<script a=b " * 300_000)
    (docs / "nested.eml").write_text("From: a@b.c\n" + "Content-Type: message/rfc822\n\nFrom: x@y\n" * 5000)
    (docs / "line.txt").touch()
    os.truncate(docs / "line.txt", 1 << 30)
    (docs / os.fsdecode(b"caf\xe9.md")).write_text("words")
    (docs / "link.md").symlink_to("/etc/passwd")
    os.mkfifo(docs / "pipe.md")
    async with host(tmp_path, docs, limits=IngestLimits(seconds=1.0)) as (_, connected):
        answer = await call(connected, "ingest")
        assert {Path(one["path"]).name: one["reason"].split(";")[0] for one in answer["failed"]} == {
            "bomb.docx": answer["failed"][0]["reason"].split(";")[0],
            "slow.html": "it took more than 1 seconds (ingest.seconds)",
            "nested.eml": "it nests too deep",
            "line.txt": "it has 1073741824 bytes",
            "caf\\udce9.md": "its name is no UTF-8",
        }
        assert "unpacks to" in answer["failed"][0]["reason"]
        assert (answer["added"], answer["skipped"]) == (3, {"link": 1, "no plain file": 1})
        (docs / "a.md").write_text("other words")
        assert (await call(connected, "ingest", paths=["a.md"]))["changed"] == 1, "the server goes on"


async def test_what_takes_longer_is_done_over_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = put(tmp_path / "docs", a="words", b="words")
    async with host(tmp_path, docs) as (_, connected):
        with monkeypatch.context() as patch:
            patch.setattr(module, "BEGIN_SECONDS", -1.0)
            assert (await call(connected, "ingest"))["remaining"] == 2
        assert (await call(connected, "ingest"))["added"] == 2


async def test_progress_is_told_to_a_host_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = put(tmp_path / "docs", **{f"f{n}": f"words {n}" for n in range(30)})
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async with host(tmp_path, docs) as (_, connected):
        await connected.call_tool("ingest", {}, progress_callback=progress)
    assert told and all(total == 30 and str(docs) in (message or "") for _, total, message in told)
    assert [done for done, *_ in told] == sorted({done for done, *_ in told})


async def test_over_a_remote_root_only_what_needs_no_index_is_offered_and_no_folder_is_taken_for_the_tree(
    tmp_path: Path,
) -> None:
    async with world(tmp_path / "tree") as made:
        default, more = knowledge_tools(made.runtime)
        assert {"search", "graph_query"} <= {tool.name for tool in default}
        assert {"ingest", "context_get"} <= {tool.name for tool in more}
        made.runtime.settings = msgspec.structs.replace(made.runtime.settings, root="memory://tree")
        default, more = knowledge_tools(made.runtime)
        assert (default, [tool.name for tool in more]) == ((), ["ingest"])
