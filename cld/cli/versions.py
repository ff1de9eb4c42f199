"""`cld history`, `cld diff` and `cld restore`: resources as they were."""

import difflib
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from cld.cli.exits import OK
from cld.cli.reading import minute
from cld.cli.session import context, existing, named_version, store, with_approval
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import InvalidArgument
from cld.store import ANY_VERSION, Revision, Stored
from cld.uri import URI


async def history(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print every kept version, newest first."""
    async with existing(settings) as runtime:
        found = await store(runtime, "resource_history", uri=arguments.uri).history(arguments.uri)
    for one in found:
        if terminal.human:
            _row(one, terminal)
        else:
            terminal.record(one)
    return OK


async def diff(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print a unified diff of meta and content between two versions."""
    uri: URI = arguments.uri
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_history", uri=uri)
        if arguments.old is None:
            kept = await reader.history(uri)
            if len(kept) < 2:
                raise InvalidArgument(f"{uri} has only one version, so there is nothing to compare", field="old")
            new, old = await reader.get(uri, kept[0].version), await reader.get(uri, kept[1].version)
        else:
            old = await reader.get(uri, await named_version(reader, uri, arguments.old))
            version = None if arguments.new is None else await named_version(reader, uri, arguments.new)
            new = await reader.get(uri, version)
    lines = list(difflib.unified_diff(_lines(old), _lines(new), _name(old), _name(new), lineterm=""))
    if not terminal.human:
        terminal.document({"uri": uri, "old": old.version, "new": new.version, "diff": "\n".join(lines)})
        return OK
    for line in lines:
        terminal.line(terminal.style(line, *_styles(line)))
    return OK


async def restore(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Write an old version's content and meta again.

    Without --if-version the version that is there when the command starts must still be there.
    """
    uri: URI = arguments.uri
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_history", uri=uri)
        version = await named_version(reader, uri, arguments.version)
        expected: str | None = arguments.if_version
        if expected is None:
            expected = next((one.version for one in await reader.history(uri) if one.current), None)
        elif expected != ANY_VERSION:
            expected = await named_version(reader, uri, expected)
        given = {"uri": uri, "version": version, "if_version": expected}
        stored = await with_approval(
            runtime,
            terminal,
            context("resource_restore", given),
            lambda writer: writer.restore(uri, version, if_version=expected),
        )
    if terminal.human:
        done = f"restored {uri} as it was at {version[:12]}"
        terminal.line(terminal.style(done, "green") + terminal.style(f"  {summary(stored)}", "dim"))
    else:
        terminal.document({"uri": uri, "version": stored.version, "revision": stored.resource.revision})
    return OK


def summary(stored: Stored) -> str:
    """Revision and version, for people."""
    return f"revision {stored.resource.revision}, version {stored.version[:12]}"


def _row(one: Revision, terminal: Terminal) -> None:
    revision = "invalid" if one.revision is None else f"r{one.revision}"
    facts = f"  {revision:>7}  {minute(one.at or ''):16}  {safe_line(one.by or ''):<20} {one.size:>8} bytes"
    mark = terminal.style("  now", "green") if one.current else ""
    terminal.line(terminal.style(one.version, "cyan") + terminal.style(facts) + mark)


def _lines(stored: Stored) -> list[str]:
    shown = {"meta": stored.resource.meta, "content": stored.resource.content}
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode().split("\n")


def _name(stored: Stored) -> str:
    one = stored.resource
    return safe_line(f"{one.uri}  {summary(stored)}, {minute(one.updated_at)} by {one.updated_by}")


def _styles(line: str) -> Sequence[str]:
    match line[:2], line[:1]:
        case (("--" | "++"), _):
            return ("bold",)
        case _, "+":
            return ("green",)
        case _, "-":
            return ("red",)
        case _, "@":
            return ("cyan",)
        case _:
            return ()
