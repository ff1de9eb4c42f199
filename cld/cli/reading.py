"""`cld get` and `cld ls`: resources as they are."""

from argparse import Namespace
from collections.abc import AsyncIterator

import msgspec

from cld.cli.exits import OK
from cld.cli.session import existing, named_version, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import InvalidArgument
from cld.guard import Entry, GuardedStore
from cld.store import MAX_LIMIT, Stored
from cld.uri import URI


async def get(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print a resource, its content, or its text."""
    uri: URI = arguments.uri
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_get", uri=uri, version=arguments.at)
        version = None if arguments.at is None else await named_version(reader, uri, arguments.at)
        stored = await reader.get(uri, version)
    if arguments.text:
        text = stored.resource.content.get("text")
        if not isinstance(text, str):
            raise InvalidArgument(f"{uri} has no text in content.text; read it without --text", field="text")
        terminal.raw(text if text.endswith("\n") or not text else text + "\n")
    elif arguments.content:
        terminal.document(stored.resource.content)
    elif terminal.human:
        _show(stored, terminal)
    else:
        terminal.document({**msgspec.structs.asdict(stored.resource), "version": stored.version})
    return OK


async def ls(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print resources below a prefix, one a line."""
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_list", prefix=arguments.prefix, type=arguments.type, depth=arguments.depth)
        async for entry in entries(reader, arguments.prefix, arguments.type, arguments.depth, arguments.limit):
            if terminal.human:
                _row(entry, terminal)
            else:
                terminal.record(entry)
    return OK


async def entries(
    reader: GuardedStore, prefix: URI, type: str | None, depth: int, limit: int | None
) -> AsyncIterator[Entry]:
    """The rows of a listing, all of them or the first `limit`, in pages."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        size = MAX_LIMIT if left is None else min(left, MAX_LIMIT)
        page = await reader.entries(prefix, type=type, depth=depth, cursor=cursor, limit=size)
        for entry in page.entries:
            yield entry
        if page.cursor is None:
            return
        cursor = page.cursor
        left = None if left is None else left - len(page.entries)


def minute(timestamp: str) -> str:
    """A timestamp to the minute, for people; empty stays empty."""
    return safe_line(timestamp)[:16].replace("T", " ")


def _show(stored: Stored, terminal: Terminal) -> None:
    one = stored.resource
    terminal.line(terminal.style(one.uri, "bold"))
    facts = [f"revision {one.revision}", f"version {stored.version[:12]}"]
    if one.updated_at:
        facts.append(f"{minute(one.updated_at)} by {safe_line(one.updated_by)}")
    terminal.line(terminal.style(" · ".join(facts), "dim"))
    for name, text in msgspec.structs.asdict(one.meta).items():
        if text:
            terminal.line(terminal.style(f"{name}: ", "cyan") + terminal.style(text))
    terminal.document(one.content)


def _row(entry: Entry, terminal: Terminal) -> None:
    when = terminal.style(f"{minute(entry.updated_at):16}", "dim")
    if entry.invalid:
        terminal.line(f"{when}  {terminal.style(entry.uri, 'red')}  {terminal.style(safe_line(entry.invalid), 'dim')}")
    else:
        terminal.line(f"{when}  {terminal.style(entry.uri)}")
