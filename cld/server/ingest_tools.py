"""The tool that takes in files of this machine: only from folders that the server's owner named.

Nothing that a client says widens that: a path outside is answered for like one that does not exist.
"""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, UnsetType

from cld.config import IngestLimits
from cld.errors import ConfigError
from cld.server.arguments import HostPrefix
from cld.server.call import TICK_SECONDS, Call, Reply
from cld.server.registry import Annotations, Tool, tool_of
from cld.server.resources_tools import COUNT, TEXT, described
from cld.uri import ROOT

if TYPE_CHECKING:
    from cld.ingest import Progress, Report

BEGIN_SECONDS = 30.0
FILE_SECONDS = 20.0
"""With the time in which files are begun less than the minute after which some hosts drop a call."""

MOST_PATHS = 100
MOST_FAILURES = 50


class Ingest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    paths: (
        Annotated[
            list[Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]],
            described("Folders or files; left out, all folders of ingest.roots", max_length=MOST_PATHS, min_length=1),
        ]
        | UnsetType
    ) = UNSET
    prefix: Annotated[HostPrefix, described("Put the documents below this URI")] = HostPrefix(ROOT)
    exclude: Annotated[list[str], described("Patterns as in .gitignore", max_length=MOST_PATHS)] = []
    retry: Annotated[bool, described("Try again what failed before")] = False


def ingest_tools(roots: Sequence[str], tree: Path | None, limits: IngestLimits) -> Sequence[Tool]:
    """The tool, with the folders it may read (the setting `ingest.roots`); `tree` itself is never taken in."""
    folders = [Path(root).expanduser().absolute() for root in roots]

    async def handle(call: Call, args: Ingest) -> Reply:
        if not folders:
            raise ConfigError(
                "no folder may be taken in by tools; name those that may in your own settings (docs/settings.md), as in"
                ' [ingest] roots = ["/home/ada/documents"], or use cld ingest'
            )
        paths = folders if args.paths is UNSET else [_among(folders, path) for path in args.paths]
        async with _progressing(call) as told:
            ingest = importlib.import_module("cld.ingest").ingest
            report = await ingest(
                call.store,
                paths,
                below=args.prefix,
                on_progress=told.append,
                exclude=args.exclude,
                avoid=[] if tree is None else [tree],
                within=folders,
                limits=msgspec.structs.replace(limits, seconds=min(limits.seconds, FILE_SECONDS)),
                retry=args.retry,
                until=time.monotonic() + BEGIN_SECONDS,
            )
        return _reply(report)

    return (
        tool_of(
            Ingest,
            handle,
            name="ingest",
            title="Take in files",
            description=(
                "Turn files (Markdown, text, HTML, PDF, DOCX, e-mail, source) into documents with passages, or bring "
                "them up to date; only what changed is done. While remaining is not 0, call again to go on."
            ),
            annotations=Annotations(read_only=False, destructive=True, idempotent=True),
            returns={
                "roots": {"type": "array", "items": TEXT},
                **dict.fromkeys(("added", "changed", "unchanged", "removed", "moved", "remaining"), COUNT),
                "passages_put": COUNT,
                "passages_deleted": COUNT,
                "skipped": {"type": "object"},
                "failed": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"path": TEXT, "reason": TEXT, "uri": {}}},
                },
                "failures": COUNT,
            },
            required=["roots", "remaining", "failed"],
        ),
    )


def _among(folders: Sequence[Path], path: str) -> Path:
    """The path meant: as it is, or within the first of the folders where there is one."""
    given = Path(path)
    if given.is_absolute():
        return given
    # Whether it may be read is decided where it is resolved; this only looks where it could be meant.
    return next((folder / given for folder in folders if (folder / given).exists()), folders[0] / given)


def _reply(report: "Report") -> Reply:
    data = msgspec.to_builtins(report)
    data["failures"] = len(report.failed)
    data["failed"] = data["failed"][:MOST_FAILURES]
    counts = [f"{data[name]} {name}" for name in ("added", "changed", "removed", "unchanged", "failures") if data[name]]
    lines = [", ".join(counts) or "no files", *(f"{one.path}: {one.reason}" for one in report.failed[:MOST_FAILURES])]
    if report.remaining:
        lines.append(f"{report.remaining} files remain: call again to go on")
    return Reply(data, "\n".join([*lines, *report.roots]))


@asynccontextmanager
async def _progressing(call: Call) -> AsyncGenerator["list[Progress]"]:
    """A list whose last entry is reported every second, if the client asked for it and it is a new one."""
    told: list[Progress] = []

    async def tell() -> None:
        done = -1
        while True:
            if told and told[-1].done > done:
                done = told[-1].done
                await call.report(done, told[-1].total, told[-1].path)
                del told[:-1]
            await asyncio.sleep(TICK_SECONDS)

    ticks = asyncio.create_task(tell())
    try:
        yield told
    finally:
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks
