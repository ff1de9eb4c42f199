"""`cld ingest`: files become documents and passages, as far as they changed since the last time."""

import os
import sys
from argparse import Namespace

import msgspec

from cld.cli.bar import Bar
from cld.cli.exits import ERROR, OK
from cld.cli.session import context, with_approval
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.ingest import Report
from cld.ingest import ingest as take_in
from cld.runtime import Runtime


async def ingest(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Take in the files at the paths; exit code 1 when some could not be taken in."""
    asked = {"paths": arguments.paths, "prefix": arguments.below}
    with Bar(sys.stderr, shown=not arguments.json and os.environ.get("TERM", "") not in ("", "dumb")) as bar:
        async with Runtime.open(settings) as runtime:
            report = await with_approval(
                runtime,
                terminal,
                context("ingest", asked),
                lambda writer: take_in(
                    writer,
                    arguments.paths,
                    below=arguments.below,
                    on_progress=lambda progress: bar.draw(progress.done, progress.total, progress.path),
                    exclude=arguments.exclude,
                    avoid=[settings.root_path] if settings.is_local else [],
                    limits=settings.ingest,
                    check=arguments.check,
                    retry=arguments.retry,
                ),
            )
    if terminal.human:
        _show(report, terminal)
    else:
        terminal.document(msgspec.to_builtins(report))
    return ERROR if report.failed else OK


def _show(report: Report, terminal: Terminal) -> None:
    for one in report.failed:
        terminal.line(terminal.style(f"{safe_line(one.path)}: {safe_line(one.reason)}", "yellow"))
    counts = {
        "added": report.added - report.moved,
        "moved": report.moved,
        "changed": report.changed,
        "removed": max(0, report.removed - report.moved),
        "unchanged": report.unchanged,
        "failed": len(report.failed),
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no files"
    terminal.line(terminal.style(f"{said}; {report.passages_put} passages written", "green"))
    if report.skipped:
        left_out = ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())
        terminal.line(terminal.style(f"left out: {left_out}", "dim"))
    for uri in report.roots:
        terminal.line(terminal.style(uri, "cyan"))
