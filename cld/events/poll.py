"""Polling: the source for what cannot be watched, and the tree of a store that is no local folder.

Polling costs a listing of all that is watched every time; it is the last resort.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from cld.errors import InvalidResource, ResourceNotFound
from cld.events import Dirty, Listing, Look, Notify
from cld.events.prefixes import Prefixes
from cld.resource import version_of
from cld.uri import MAX_DEPTH, URI, elements_of, is_within, parent_of

POLL_SECONDS = 2.0

_PAGE = 1000
_AT_ONCE = 16


class PollSource:
    """Says every `poll_seconds` that all it watches may have changed."""

    name = "poll"

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self._prefixes = Prefixes()
        self._task: asyncio.Task[None] | None = None

    def start(self, notify: Notify) -> None:
        self._task = asyncio.create_task(self._poll(notify))

    async def watch(self, prefix: URI) -> None:
        self._prefixes.add(prefix)

    async def unwatch(self, prefix: URI) -> None:
        self._prefixes.remove(prefix)

    async def refresh(self) -> None:
        """Nothing can have gone wrong unseen."""

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self, notify: Notify) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            for prefix in self._prefixes:
                notify(Dirty(prefix))


class Listed(Protocol):
    """A page of a store's listing."""

    @property
    def uris(self) -> Sequence[URI]: ...
    @property
    def cursor(self) -> str | None: ...


class Versioned(Protocol):
    """A resource as a store gives it."""

    @property
    def version(self) -> str: ...


class Listable(Protocol):
    """What is needed of a store: that it lists and gets, as `cld.store.Store` says."""

    async def list(
        self, prefix: URI = ..., *, depth: int = ..., cursor: str | None = ..., limit: int = ...
    ) -> Listed: ...

    async def get(self, uri: URI) -> Versioned: ...


class StoreTree:
    """The `Tree` of a store, where the version is the stamp: a scan reads every resource there is.

    After a scan the store is left in peace for as long as the scan took, however often it is polled.
    """

    def __init__(self, store: Listable) -> None:
        self._store = store
        self._rest_until = 0.0

    async def look(self, uri: URI) -> Look | None:
        try:
            version = (await self._store.get(uri)).version
        except ResourceNotFound:
            return None
        except InvalidResource as error:
            # There, but no version to be had: what is wrong with it stands for what it is.
            return Look(_stamp(str(error)), None)
        return Look(_stamp(version), version)

    async def scan(self, prefixes: Sequence[URI]) -> AsyncGenerator[Listing, None]:
        await asyncio.sleep(self._rest_until - time.monotonic())
        begin = time.monotonic()
        for prefix in prefixes:
            files: dict[URI, dict[str, bytes]] = {prefix: {}}
            folders: dict[URI, set[str]] = {prefix: set()}
            cursor: str | None = None
            while True:
                page = await self._store.list(prefix, depth=MAX_DEPTH, cursor=cursor, limit=_PAGE)
                for start in range(0, len(page.uris), _AT_ONCE):
                    group = page.uris[start : start + _AT_ONCE]
                    for uri, look in zip(group, await asyncio.gather(*map(self.look, group)), strict=True):
                        if look is not None:
                            _place(uri, look.stamp, prefix, files, folders)
                if (cursor := page.cursor) is None:
                    break
            for folder in files:
                yield Listing(folder, files[folder], folders[folder])
        end = time.monotonic()
        self._rest_until = end + (end - begin)


def _place(
    uri: URI, stamp: bytes, prefix: URI, files: dict[URI, dict[str, bytes]], folders: dict[URI, set[str]]
) -> None:
    """Enter a resource in the listing of its folder, and that folder in those above up to the prefix."""
    folder = parent_of(uri)
    missing = folder
    while missing not in files and is_within(missing, prefix):
        files[missing] = {}
        folders.setdefault(missing, set())
        folders.setdefault(parent_of(missing), set()).add(elements_of(missing)[-1])
        missing = parent_of(missing)
    files[folder][elements_of(uri)[-1]] = stamp


def _stamp(version: str) -> bytes:
    return bytes.fromhex(version_of(version.encode()))[:8]
