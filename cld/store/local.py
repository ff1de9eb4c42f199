"""The local store: a folder of plain JSON files that cld, other processes and people with editors share.

Owns what put, delete, get and the rest mean in terms of files, and where the calls run: reads of
single files inline, because a hop to a thread costs ten times the read, everything that writes or may
take long in threads, one hop a call. How files are opened is `local_paths`, how they are changed
`local_write`, what is kept of them `local_history`, how they are listed `local_list`, what can be
wrong with a tree `local_doctor`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from cld.errors import CldError, Conflict, InvalidResource, InvalidURI, ResourceNotFound, StoreError, Unsupported
from cld.resource import MAX_BYTES, NO_META, Draft, Resource, decode, encode, nonce, timestamp, version_of
from cld.store import ANY_VERSION, DEFAULT_LIMIT, Capabilities, Page, Revision, Stored
from cld.store.local_doctor import Finding, examine, rescue_all
from cld.store.local_history import Displaced, Entry, History, revision_of
from cld.store.local_list import Listing
from cld.store.local_locks import Locks
from cld.store.local_paths import (
    READ,
    Durability,
    Features,
    HardLinked,
    Layout,
    open_layout,
    read_regular,
    refusal,
)
from cld.store.local_recover import rescue_one
from cld.store.local_threads import Threads
from cld.store.local_trash import trash_tree
from cld.store.local_write import Writer
from cld.uri import ROOT, SUFFIX, URI, id_of, parse_uri, type_of

T = TypeVar("T")

# Writers that wait for one another hold a thread each; more than this wait in the queue instead.
_THREADS = 16
# How often an editor may be faster than a write with "*" before the write gives up.
_ATTEMPTS = 20


@dataclass(frozen=True)
class _Current:
    """What is at a URI now: nothing, bytes and perhaps a resource, or something that is not read."""

    data: bytes | None = None
    version: str | None = None
    resource: Resource | None = None
    irregular: InvalidResource | None = None
    mode: int = 0o644

    @property
    def is_there(self) -> bool:
        return self.data is not None or self.irregular is not None


class LocalStore:
    """`cld.store.Store` over a folder of this machine; open it with `LocalStore.open`.

    A put that is cancelled goes on in its thread to its end: it is never left half done, and its
    lock is never left taken.
    """

    def __init__(self, layout: Layout, *, keep: int, days: int) -> None:
        self._layout = layout
        self._locks = None if layout.why_not else Locks(layout.locks)
        self._history = History(layout, keep=keep, days=days)
        self._writer = Writer(layout, self._history)
        self._listing = Listing(layout)
        self._threads = Threads(_THREADS, "cld-store")
        self._closed = False
        self._root = layout.root
        self._open_file = layout.open
        self._max_bytes = layout.max_bytes
        self._ignores_case = layout.features.ignores_case

    @classmethod
    async def open(
        cls,
        root: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        max_body_bytes: int = MAX_BYTES,
        keep: int = 1000,
        days: int = 365,
        features: Features | None = None,
    ) -> "LocalStore":
        """The store over the folder `root`, which is made if need be, with its `.cld` (mode 0700).

        What writers that died left in `.cld/tmp` is put in order. Where `.cld` cannot be written, the
        store only reads. `features` is for tests; normally they are found out.

        Raises:
            StoreError: the root cannot be opened.
        """
        path = os.path.join(os.getcwd(), os.fspath(root))
        layout = await asyncio.to_thread(
            open_layout, path, durability=durability, max_bytes=max_body_bytes, features=features
        )
        store = cls(layout, keep=keep, days=days)
        if store._locks is not None:
            await store._in_thread(store._recover, "open", ROOT)
        return store

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            cas="version",
            durable=self._layout.durability == "full",
            watch=True,
            history=True,
            writable=self._locks is not None,
        )

    @property
    def root(self) -> Path:
        """The folder the tree lies in."""
        return Path(self._layout.path)

    async def get(self, uri: URI, version: str | None = None) -> Stored:
        if version is not None:
            return await self._in_thread(partial(self._get_version, uri, version), "get", uri)
        try:
            return self._get(uri)
        except HardLinked:
            if self._layout.features.renameat2 or self._locks is None:
                raise
            return await self._in_thread(partial(self._get_settled, uri), "get", uri)

    async def put(self, draft: Draft, *, by: str, if_version: str | None = None) -> Stored:
        return await self._in_thread(partial(self._put, draft, by, if_version), "put", draft.uri)

    async def delete(self, uri: URI, *, if_version: str | None = None, recursive: bool = False) -> int:
        return await self._in_thread(partial(self._delete, uri, if_version, recursive), "delete", uri)

    async def list(
        self,
        prefix: URI = ROOT,
        *,
        type: str | None = None,
        depth: int = 1,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page:
        page = partial(self._list, prefix, type, depth, cursor, limit)
        if _translated(partial(self._is_quick, prefix, depth), "list", prefix):
            return _translated(page, "list", prefix)
        return await self._in_thread(page, "list", prefix)

    async def history(self, uri: URI) -> Sequence[Revision]:
        return await self._in_thread(partial(self._revisions, uri), "read the history of", uri)

    async def restore(self, uri: URI, version: str, *, by: str, if_version: str | None = None) -> Stored:
        old = (await self.get(uri, version)).resource
        return await self.put(Draft(uri, old.content, old.meta), by=by, if_version=if_version)

    async def recover(self) -> Sequence[Finding]:
        """Put in order what writers that died left in `.cld/tmp`; what was done to which file.

        Files of living writers are left alone.
        """
        return await self._in_thread(self._recover, "recover", ROOT)

    async def doctor(self, *, fix: bool = True) -> AsyncIterator[Finding]:
        """Everything that is wrong with the tree, found by looking at all of it; it never stops at what it finds.

        With `fix`, also recovers what writers that died left and applies retention to everything.
        """
        steps = examine(self._layout, self._locks, self._history, fix=fix)
        while (found := await self._in_thread(partial(next, steps, None), "examine", ROOT)) is not None:
            for finding in found:
                yield finding

    async def aclose(self) -> None:
        """Wait for what still runs in threads, then let go of the folder; again does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._threads.close)
        self._layout.close()

    async def _in_thread(self, work: Callable[[], T], verb: str, uri: URI) -> T:
        """The one hop. Cancelling leaves the work to finish in its thread."""
        return await self._threads.run(partial(_translated, work, verb, uri))

    # Everything below blocks.

    def _get(self, uri: URI) -> Stored:
        if not uri.startswith("cld:") or "/." in uri or "\0" in uri:
            # No URI at all: parsing says so. Without these no path leads anywhere but to resources; at a
            # NUL the kernel would take the path to end.
            _checked(uri)
        if self._ignores_case and self._listing.other_spelling(uri) is not None:
            raise ResourceNotFound(uri)
        try:
            fd = self._open_file(self._root, uri + SUFFIX, READ)
            try:
                data = read_regular(fd, uri, self._max_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._explained(error, uri) from error
        return Stored(decode(data, uri, max_bytes=self._max_bytes), version_of(data))

    def _explained(self, error: OSError, uri: URI) -> Exception:
        """What an error on reading a file of the tree means to the caller of `get`."""
        meant = refusal(error, uri)
        if isinstance(meant, CldError):
            return meant
        if isinstance(meant, FileNotFoundError):
            self._layout.check_root()
            return ResourceNotFound(uri)
        return _failed("get", uri, error)

    def _get_settled(self, uri: URI) -> Stored:
        """`_get` while nobody writes: where files are made by linking, they have two names for an instant."""
        assert self._locks is not None
        with self._locks.hold(uri):
            return self._get(uri)

    def _get_version(self, uri: URI, version: str) -> Stored:
        found = self._find_version(uri, version)
        if found is None and self._locks is not None:
            # It may this instant be on its way to the history, or a writer died on the way.
            with self._locks.hold(uri):
                rescue_one(self._layout, self._history, uri)
                found = self._find_version(uri, version)
        if found is None:
            raise ResourceNotFound(uri, version[:80])
        return Stored(decode(found, uri, max_bytes=self._max_bytes), version)

    def _find_version(self, uri: URI, version: str) -> bytes | None:
        current = self._current(uri)
        if current.version == version:
            return current.data
        if "history" not in self._layout.folders:
            return None
        damaged: InvalidResource | None = None
        for entry in self._history.find(uri, version):
            try:
                return self._history.read(entry, uri)
            except FileNotFoundError:
                continue
            except InvalidResource as error:
                damaged = error
        if damaged is not None:
            raise damaged
        return None

    def _current(self, uri: URI) -> _Current:
        if self._ignores_case and self._listing.other_spelling(_checked(uri)) is not None:
            return _Current()
        try:
            fd = self._open_file(self._root, _checked(uri) + SUFFIX, READ)
        except OSError as error:
            match refusal(error, uri):
                case FileNotFoundError():
                    return _Current()
                case InvalidResource() as irregular:
                    return _Current(irregular=irregular)
                case other:
                    raise other from error
        try:
            data = read_regular(fd, uri, self._max_bytes)
            mode = os.fstat(fd).st_mode & 0o777
        except InvalidResource as irregular:
            return _Current(irregular=irregular)
        finally:
            os.close(fd)
        resource = None
        with suppress(InvalidResource):
            resource = decode(data, uri, max_bytes=self._max_bytes)
        return _Current(data=data, version=version_of(data), resource=resource, mode=mode)

    def _put(self, draft: Draft, by: str, if_version: str | None) -> Stored:
        uri = draft.uri
        with self._writable().hold(_checked(uri)):
            if self._ignores_case and (other := self._listing.other_spelling(uri)) is not None:
                raise InvalidResource(
                    f"{uri} differs only in case from {other}, which is there, and this file system ignores case; "
                    "choose another id"
                )
            for _ in range(_ATTEMPTS):
                current = self._current(uri)
                _check_version(uri, current, if_version)
                resource = _succeeding(draft, by, current.resource)
                data = encode(resource, max_bytes=self._max_bytes)
                version = version_of(data)
                try:
                    if current.is_there:
                        expected = None if if_version == ANY_VERSION else if_version
                        self._writer.replace(
                            resource, data, version, expected=expected, mode=current.mode, old=current.data
                        )
                    else:
                        self._writer.create(resource, data, version)
                except (FileExistsError, FileNotFoundError, Displaced) as error:
                    # Somebody who takes no lock was faster.
                    if if_version == ANY_VERSION and not isinstance(error, CldError):
                        continue
                    if if_version is None and isinstance(error, FileNotFoundError):
                        continue  # the folder was removed as it became empty
                    raise _conflict(uri, if_version, self._current(uri)) from error
                if self._history.is_due(resource.revision):
                    self._history.prune(uri, version)
                return Stored(decode(data, uri, max_bytes=self._max_bytes), version)
        raise StoreError(f"{uri} was not written: it was changed by others {_ATTEMPTS} times in a row; try again")

    def _delete(self, uri: URI, if_version: str | None, recursive: bool) -> int:
        locks = self._writable()
        expected = None if if_version == ANY_VERSION else if_version
        whole = recursive and self._listing.has_folder(_checked(uri))
        with locks.hold_all() if whole else locks.hold(uri):
            current = self._current(uri)
            below = self._listing.has_below(uri)
            if not current.is_there and not (recursive and below):
                raise ResourceNotFound(uri)
            if expected is not None and current.irregular is not None:
                raise current.irregular
            if expected is not None and current.version != expected:
                raise _conflict(uri, if_version, current)
            if below and not whole:
                raise Conflict(
                    f"{uri} has resources below it; delete those first, or delete with recursive",
                    uri=uri,
                    current=current.version,
                )
            try:
                if whole:
                    path = trash_tree(self._layout, self._history, self._writer, uri, expected=expected)
                    return current.is_there + self._listing.count(self._layout.trash, path, uri)
                self._writer.remove(uri, expected=expected)
            except Displaced:
                raise _conflict(uri, if_version, self._current(uri)) from None
            except FileNotFoundError as error:
                if isinstance(error, CldError):
                    raise
                raise ResourceNotFound(uri) from error
            return 1

    def _is_quick(self, prefix: URI, depth: int) -> bool:
        return self._listing.is_quick(prefix if prefix == ROOT else parse_uri(prefix), depth)

    def _list(self, prefix: URI, type: str | None, depth: int, cursor: str | None, limit: int) -> Page:
        page = self._listing.page(prefix, type, depth, cursor, limit)
        if not page.uris:
            self._layout.check_root()
        return page

    def _revisions(self, uri: URI) -> Sequence[Revision]:
        if self._locks is None:
            current, entries = self._current(uri), self._entries(uri)
        else:
            with self._locks.hold(_checked(uri)):
                rescue_one(self._layout, self._history, uri)
                current, entries = self._current(uri), self._entries(uri)
        found: list[Revision] = []
        if current.data is not None and current.version is not None:
            found.append(revision_of(current.data, uri, current.version, max_bytes=self._max_bytes, current=True))
        # Read without the lock: versions do not change, and what retention takes meanwhile is left out.
        for entry in entries:
            if entry.version != current.version:
                with suppress(FileNotFoundError):
                    found.append(self._history.revision(entry, uri))
        return found

    def _entries(self, uri: URI) -> Sequence[Entry]:
        return self._history.entries(uri) if "history" in self._layout.folders else ()

    def _writable(self) -> Locks:
        if self._locks is None:
            raise Unsupported(f"this store only reads: {self._layout.why_not}")
        self._layout.check_root()
        return self._locks

    def _recover(self) -> Sequence[Finding]:
        return rescue_all(self._layout, self._writable(), self._history)


def _checked(uri: URI) -> URI:
    """`uri` again, so that nothing that is no URI ever becomes a path that is written."""
    if uri == ROOT:
        raise InvalidURI(f"{ROOT} is the prefix of everything, not a resource; name one below it")
    return parse_uri(uri)


def _succeeding(draft: Draft, by: str, old: Resource | None) -> Resource:
    """What the draft becomes after `old`."""
    now = timestamp()
    resource = Resource(
        uri=draft.uri,
        type=type_of(draft.uri),
        id=id_of(draft.uri),
        revision=1,
        meta=draft.meta or NO_META,
        created_at=now,
        created_by=by,
        updated_at=now,
        updated_by=by,
        nonce=nonce(),
        content=draft.content,
    )
    if old is None:
        return resource
    return msgspec.structs.replace(
        resource,
        revision=old.revision + 1,
        meta=old.meta if draft.meta is None else draft.meta,
        created_at=old.created_at,
        created_by=old.created_by,
    )


def _check_version(uri: URI, current: _Current, if_version: str | None) -> None:
    """Raises Conflict where `if_version` does not fit what is there."""
    if if_version == ANY_VERSION:
        return
    if current.irregular is not None:
        raise current.irregular
    if current.version != if_version:
        raise _conflict(uri, if_version, current)


def _conflict(uri: URI, if_version: str | None, current: _Current) -> Conflict:
    if current.irregular is not None:
        text = f"{uri} is there, but not as a regular file: {current.irregular}"
    elif current.version is None:
        text = f"{uri} is not there, so it has no version {(if_version or '')[:80]}; put it without if_version"
    elif if_version is None:
        text = f"{uri} is there already, with version {current.version}; give that as if_version to replace it"
    else:
        text = f"{uri} has version {current.version}, not {if_version[:80]}; get it again and repeat the change"
    return Conflict(text, uri=uri, current=current.version)


def _translated(work: Callable[[], T], verb: str, uri: URI) -> T:
    """The result of `work`, its failures as cld's own."""
    try:
        return work()
    except CldError:
        raise
    except OSError as error:
        raise _failed(verb, uri, error) from error


def _failed(verb: str, uri: URI, error: OSError) -> StoreError:
    return StoreError(
        f"cannot {verb} {uri}: {error.strerror or error}; it is not acknowledged, put that right and try again"
    )
