"""`cld put` and `cld rm`: changes, each one compare-and-swap."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cld.cli.content import parse_content
from cld.cli.edit import edit
from cld.cli.exits import ERROR, OK
from cld.cli.session import context, existing, named_version, store, with_approval
from cld.cli.terminal import Terminal
from cld.cli.versions import summary
from cld.config import Settings
from cld.errors import Conflict, InvalidArgument, ResourceNotFound
from cld.guard import GuardedStore
from cld.resource import NO_META, Draft, Meta
from cld.runtime import Runtime
from cld.store import ANY_VERSION, Stored
from cld.uri import URI

Reader = Callable[[], GuardedStore]
"""The store to look with, made when something has to be looked at: who only writes need not be able to read."""


async def put(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Create a resource, or replace the version given; with --edit, the version that was opened."""
    uri: URI = arguments.uri
    given = None if arguments.edit else _given_content(arguments)
    async with Runtime.open(settings) as runtime:

        def reader() -> GuardedStore:
            return store(runtime, "resource_get", uri=uri)

        expected: str | None = arguments.if_version
        if expected not in (None, ANY_VERSION):
            expected = await named_version(reader(), uri, expected)
        if given is None:
            return await _put_edited(arguments, runtime, terminal, reader, expected)
        draft = Draft(uri, given, await _meta(arguments, reader))
        stored = await _put(runtime, terminal, draft, expected)
    _report(stored, terminal)
    return OK


async def rm(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Delete a resource, and with --recursive all below it, once the person agrees or said --yes."""
    uri: URI = arguments.uri
    async with existing(settings) as runtime:
        expected: str | None = arguments.if_version
        if expected is not None:
            expected = await named_version(store(runtime, "resource_get", uri=uri), uri, expected)
        if arguments.recursive and not arguments.yes:
            if not terminal.can_ask:
                raise InvalidArgument("deleting everything below needs --yes where nobody can be asked", field="yes")
            if not terminal.confirm(f"delete {uri} and everything below it?"):
                terminal.note("nothing was deleted")
                return ERROR
        recursive: bool = arguments.recursive
        asked = {"uri": uri, "if_version": expected, "recursive": recursive or None}
        deleted = await with_approval(
            runtime,
            terminal,
            context("resource_delete", asked),
            lambda writer: writer.delete(uri, if_version=expected, recursive=recursive),
        )
    if terminal.human:
        what = "1 resource" if deleted == 1 else f"{deleted} resources"
        terminal.line(terminal.style(f"deleted {uri}: {what}", "green"))
    else:
        terminal.document({"uri": uri, "deleted": deleted})
    return OK


async def _put(runtime: Runtime, terminal: Terminal, draft: Draft, expected: str | None) -> Stored:
    meta = None if draft.meta is None else msgspec.structs.asdict(draft.meta)
    asked = {"uri": draft.uri, "content": draft.content, "meta": meta, "if_version": expected}
    return await with_approval(
        runtime, terminal, context("resource_put", asked), lambda writer: writer.put(draft, if_version=expected)
    )


async def _put_edited(
    arguments: Namespace, runtime: Runtime, terminal: Terminal, reader: Reader, expected: str | None
) -> int:
    uri: URI = arguments.uri
    opened = await _get(reader(), uri)
    version = None if opened is None else opened.version
    if expected not in (None, ANY_VERSION, version):
        raise Conflict(f"{uri} has another version than {expected} now; look at it first", uri=uri, current=version)
    content = {} if opened is None else opened.resource.content

    async def save(changed: dict[str, Any]) -> Stored:
        return await _put(runtime, terminal, Draft(uri, changed, await _meta(arguments, reader)), version)

    stored = await edit(content, as_text=arguments.text, terminal=terminal, save=save)
    if stored is None:
        terminal.note("nothing was changed")
    else:
        _report(stored, terminal)
    return OK


async def _get(reader: GuardedStore, uri: URI) -> Stored | None:
    try:
        return await reader.get(uri)
    except ResourceNotFound:
        return None


async def _meta(arguments: Namespace, reader: Reader) -> Meta | None:
    """The meta there is with what was given set in it, None to keep it as it is."""
    if not arguments.meta:
        return None
    there = await _get(reader(), arguments.uri)
    return msgspec.structs.replace(NO_META if there is None else there.resource.meta, **dict(arguments.meta))


def _given_content(arguments: Namespace) -> dict[str, Any]:
    data, name = _given_bytes(arguments)
    if arguments.text:
        try:
            return {"text": data.decode("utf-8")}
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{name} is no UTF-8 text: byte {error.start}", field="content") from None
    return parse_content(data, name)


def _given_bytes(arguments: Namespace) -> tuple[bytes, str]:
    """What to store, and what to call it in an error."""
    try:
        if arguments.file is not None:
            return Path(arguments.file).read_bytes(), arguments.file
        if arguments.content not in (None, "-"):
            return arguments.content.encode("utf-8", "surrogateescape"), "the content"
        if sys.stdin.isatty() and arguments.content is None:
            raise InvalidArgument(
                "there is no content: give it as an argument, --file, --edit or standard input", field="content"
            )
        return sys.stdin.buffer.read(), "standard input"
    except OSError as error:
        raise InvalidArgument(f"{arguments.file} cannot be read: {error.strerror}", field="file") from error


def _report(stored: Stored, terminal: Terminal) -> None:
    one = stored.resource
    if terminal.human:
        terminal.line(terminal.style(f"put {one.uri}", "green") + terminal.style(f"  {summary(stored)}", "dim"))
    else:
        terminal.document({"uri": one.uri, "version": stored.version, "revision": one.revision})
