"""The store over any fsspec URL: `memory://`, `file://`, `sftp://`, archives to read, object storage.

Owns the meaning: versions, history, deletion, listing. `cld.store.fsspec_files` owns the drivers.
The layout is the local store's: a resource's file is its URI with `.json`, what was replaced lies in
`.cld/history/<uri>/`, oldest first by name. fsspec has no compare-and-swap, so versions are checked
under a lock of this process and the place must have one writer; `capabilities.cas` and `warning` say
so. Drivers block: every call crosses to a thread in `_hop`, and nowhere else.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, to_thread

from cld.config import History
from cld.errors import Conflict, InvalidArgument, InvalidResource, InvalidURI, ResourceNotFound, StoreError
from cld.resource import MAX_BYTES, NO_META, Draft, Resource, decode, encode, new_id, nonce, timestamp, version_of
from cld.store import ANY_VERSION, DEFAULT_LIMIT, MAX_LIMIT, Capabilities, Page, Revision, Stored
from cld.store.fsspec_files import Files, open_files
from cld.uri import MAX_DEPTH, ROOT, SUFFIX, URI, id_of, is_within, parse_uri, sort_key, type_of, why_not

T = TypeVar("T")

HISTORY = ".cld/history"
TRASH = ".cld/trash"
READERS = 8

# One lock a place and process, so that two stores over one place are one writer.
_locks: WeakValueDictionary[str, "_Lock"] = WeakValueDictionary()
_locks_guard = threading.Lock()


class _Lock:
    def __init__(self) -> None:
        self.held = threading.Lock()


class FsspecStore:
    """A `cld.store.Store` over fsspec; see the module's docstring for what it cannot promise."""

    def __init__(self, files: Files, *, max_bytes: int, history: History) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self._retention = history
        self._readers = CapacityLimiter(READERS if files.is_parallel else 1)
        self._writers = CapacityLimiter(1)
        with _locks_guard:
            self._lock = _locks.setdefault(files.name, _Lock())
        self.capabilities = Capabilities(
            cas="create" if files.can_create and files.is_writable else "none",
            durable=False,
            watch=False,
            history=True,
            writable=files.is_writable,
        )

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        max_bytes: int = MAX_BYTES,
        history: History = History(),  # noqa: B008  frozen
        options: Mapping[str, Any] | None = None,
    ) -> "FsspecStore":
        """The store below `url`; `options` go to fsspec's driver and are never shown.

        Finishes recursive deletes that a crash interrupted.

        Raises:
            ConfigError: the protocol is unknown, its driver is not installed, or the URL does not fit it.
            StoreError: the place cannot be reached.
        """
        files = await to_thread.run_sync(open_files, url, options or {})
        store = cls(files, max_bytes=max_bytes, history=history)
        try:
            await store._hop(store._writers, store._file_leftovers)
        except BaseException:
            files.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"FsspecStore({self._files.name!r})"

    @property
    def warning(self) -> str:
        """What the owner of the place must know before trusting it, for the start of the program."""
        if not self._files.is_writable:
            said = ["it can only be read"]
        elif self._files.can_create:
            said = ["versions are checked within this process only: let no other process replace or delete here"]
        else:
            said = ["versions are checked within this process only: let no other process write here"]
        if self._files.is_writable:
            said.append("writes are not synced to disk")
        said += [*self._files.notes, "changes are noticed by polling"]
        return f"{self._files.name}: {'; '.join(said)}"

    async def get(self, uri: URI, version: str | None = None) -> Stored:
        # History is read alone: a deletion under way has taken the file away and not yet filed it.
        return await self._hop(self._readers if version is None else self._writers, self._get, uri, version)

    async def put(self, draft: Draft, *, by: str, if_version: str | None = None) -> Stored:
        return await self._hop(self._writers, self._put, draft, by, if_version)

    async def delete(self, uri: URI, *, if_version: str | None = None, recursive: bool = False) -> int:
        return await self._hop(self._writers, self._delete, uri, if_version, recursive)

    async def list(
        self,
        prefix: URI = ROOT,
        *,
        type: str | None = None,
        depth: int = 1,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page:
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidArgument(f"limit is {limit}; it must be 1 to {MAX_LIMIT}", field="limit")
        if depth < 1:
            raise InvalidArgument(f"depth is {depth}; it must be 1 or more", field="depth")
        after = () if cursor is None else _after(cursor, prefix)
        return await self._hop(self._readers, self._list, prefix, type, depth, after, limit)

    async def history(self, uri: URI) -> Sequence[Revision]:
        return await self._hop(self._writers, self._history, uri)

    async def restore(self, uri: URI, version: str, *, by: str, if_version: str | None = None) -> Stored:
        return await self._hop(self._writers, self._restore, uri, version, by, if_version)

    async def aclose(self) -> None:
        await self._hop(self._writers, self._files.close)

    async def _hop(self, limiter: CapacityLimiter, function: Callable[..., T], *args: Any) -> T:
        """Run it in a thread; once begun it is finished, even when the caller is cancelled."""

        def run() -> T:
            alone = limiter is self._writers or not self._files.is_parallel
            with self._lock.held if alone else nullcontext():
                return function(*args)

        return await to_thread.run_sync(run, limiter=limiter)

    # Below: in the thread. Writers hold the place's lock.

    def _get(self, uri: URI, version: str | None) -> Stored:
        data = self._bytes(uri, version)
        return Stored(decode(data, uri, max_bytes=self._max_bytes), version_of(data))

    def _bytes(self, uri: URI, version: str | None) -> bytes:
        """The bytes of the file now, or of that version of it."""
        data = self._files.read(_path(uri))
        if data is not None and version in (None, version_of(data)):
            return data
        if version is not None:
            for name in self._kept(uri):
                # The version is compared and never made part of a path: it comes from outside.
                if _version_in(name) == version and (old := self._files.read(f"{HISTORY}/{uri}/{name}")) is not None:
                    return old
        raise ResourceNotFound(uri, version)

    def _put(self, draft: Draft, by: str, if_version: str | None) -> Stored:
        uri = draft.uri
        path = _path(uri)
        old = self._files.read(path)
        current = None if old is None else version_of(old)
        _check(uri, current, if_version)
        resource = self._next(draft, by, old)
        data = encode(resource, max_bytes=self._max_bytes)
        if old is not None and current is not None:
            self._keep(uri, old, current)
        try:
            self._files.write(path, data, create=old is None)
        except FileExistsError as error:
            there = self._files.read(path)
            if there is None:  # it is not the file that is in the way, but one where a directory should be
                raise StoreError(f"{uri} cannot be written: {error}; move away what is there") from error
            raise _exists(uri, version_of(there)) from None
        return Stored(resource, version_of(data))

    def _next(self, draft: Draft, by: str, old: bytes | None) -> Resource:
        """The resource that the draft makes of what is there; of an invalid file nothing is taken over."""
        before = None
        if old is not None:
            try:
                before = decode(old, draft.uri, max_bytes=self._max_bytes)
            except InvalidResource:
                before = None
        now = timestamp()
        return Resource(
            uri=draft.uri,
            type=type_of(draft.uri),
            id=id_of(draft.uri),
            revision=before.revision + 1 if before else 1,
            meta=draft.meta if draft.meta is not None else before.meta if before else NO_META,
            created_at=before.created_at if before else now,
            created_by=before.created_by if before else by,
            updated_at=now,
            updated_by=by,
            nonce=nonce(),
            content=draft.content,
        )

    def _restore(self, uri: URI, version: str, by: str, if_version: str | None) -> Stored:
        old = self._get(uri, version).resource
        return self._put(Draft(uri, old.content, old.meta), by, if_version)

    def _delete(self, uri: URI, if_version: str | None, recursive: bool) -> int:
        path = _path(uri)
        try:
            old = self._files.read(path)
        except InvalidResource:
            old = b""  # a link: it goes as it is, and what it points at is none of ours
        below = [*self._walk("", uri, MAX_DEPTH)] if recursive else [*islice(self._walk("", uri, MAX_DEPTH), 1)]
        if old is None and not (recursive and below):
            raise ResourceNotFound(uri)
        current = None if old is None else version_of(old)
        if if_version not in (None, ANY_VERSION, current):
            raise _stale(uri, current, if_version)
        if below and not recursive:
            raise Conflict(
                f"{uri} has resources below it, such as {below[0]}; delete those first, or with recursive",
                uri=uri,
                current=current,
            )
        there = [] if old is None else [uri]
        if below and self._files.can_rename:
            self._trash(uri, with_file=bool(there))
        else:
            for one in reversed(there + below):
                self._keep_and_remove("", one)
        return len(there) + len(below)

    def _trash(self, uri: URI, *, with_file: bool) -> None:
        """Move it away with all below, so that a crash leaves no half of it in the tree; then file it."""
        trash = f"{TRASH}/{new_id()}"
        if with_file:
            self._files.move(_path(uri), f"{trash}/{_path(uri)}")
        self._files.move(uri, f"{trash}/{uri}")
        self._file(trash)

    def _file_leftovers(self) -> None:
        if self._files.is_writable:
            for entry in self._files.entries(TRASH):
                self._file(f"{TRASH}/{entry.name}")

    def _file(self, trash: str) -> None:
        """Make history of what lies in the trash; strays that are no resources stay there."""
        for uri in [*self._walk(trash, ROOT, MAX_DEPTH)]:
            self._keep_and_remove(trash, uri)
        self._files.remove_empty(trash)

    def _keep_and_remove(self, base: str, uri: URI) -> None:
        path = f"{base}/{_path(uri)}" if base else _path(uri)
        try:
            data = self._files.read(path)
        except InvalidResource:
            data = None
        if data is not None:
            self._keep(uri, data, version_of(data))
        self._files.remove(path)

    def _keep(self, uri: URI, data: bytes, version: str) -> None:
        """Add the bytes to the history, and drop what retention no longer keeps."""
        self._files.write(f"{HISTORY}/{uri}/{new_id()}.{version}{SUFFIX}", data)
        oldest = _oldest_id(datetime.now(UTC) - timedelta(days=self._retention.days))
        for place, name in enumerate(self._kept(uri)):
            if place >= self._retention.keep or name < oldest:
                self._files.remove(f"{HISTORY}/{uri}/{name}")

    def _kept(self, uri: URI) -> Sequence[str]:
        """The names of the history's files, newest first."""
        found = self._files.entries(f"{HISTORY}/{uri}")
        return sorted((one.name for one in found if _version_in(one.name)), reverse=True)

    def _history(self, uri: URI) -> Sequence[Revision]:
        found: dict[str, Revision] = {}
        data = self._files.read(_path(uri))
        if data is not None:
            found[version_of(data)] = self._revision(uri, data, current=True)
        for name in self._kept(uri):
            # A write that failed half-way leaves a copy of what is still there: count it once.
            if _version_in(name) not in found and (old := self._files.read(f"{HISTORY}/{uri}/{name}")) is not None:
                found[_version_in(name)] = self._revision(uri, old)
        return [*found.values()]

    def _revision(self, uri: URI, data: bytes, *, current: bool = False) -> Revision:
        try:
            resource = decode(data, uri, max_bytes=self._max_bytes)
        except InvalidResource:
            return Revision(version_of(data), None, None, None, len(data), current)
        return Revision(
            version_of(data), resource.revision, resource.updated_at, resource.updated_by, len(data), current
        )

    def _list(self, prefix: URI, type: str | None, depth: int, after: tuple[str, ...], limit: int) -> Page:
        found = (uri for uri in self._walk("", prefix, depth, after) if type is None or type_of(uri) == type)
        uris = tuple(islice(found, limit + 1))
        return Page(uris[:limit], uris[limit - 1] if len(uris) > limit else None)

    def _walk(self, base: str, prefix: URI, depth: int, after: tuple[str, ...] = ()) -> Iterator[URI]:
        """The URIs below `prefix` of the tree at `base`, in tree order, those after the key `after`."""
        files: set[str] = set()
        directories: set[str] = set()
        directory = "" if prefix == ROOT else str(prefix)
        for entry in self._files.entries("/".join(filter(None, (base, directory)))):
            if entry.is_directory:
                directories.add(entry.name)
            elif entry.name.endswith(SUFFIX):
                files.add(entry.name.removesuffix(SUFFIX))
        step = "" if prefix == ROOT else f"{prefix}/"
        for name in sorted(files | directories):
            if why_not(step + name) is not None:
                continue  # a file or directory that no URI names
            uri = URI(step + name)
            key = sort_key(uri)
            if name in files and key > after:
                yield uri
            # Whole subtrees that end before the cursor are not even listed.
            if name in directories and depth > 1 and key >= after[: len(key)]:
                yield from self._walk(base, uri, depth - 1, after)


def _path(uri: URI) -> str:
    """The file's path below the root. Checked again here: nothing but a URI may become a path."""
    return parse_uri(uri) + SUFFIX


def _version_in(name: str) -> str:
    """The version in the name of a history file, empty for other files."""
    parts = name.split(".")
    return parts[1] if len(parts) == 3 and parts[2] == SUFFIX[1:] else ""


def _oldest_id(time: datetime) -> str:
    """What ids made since `time` are not smaller than: an id begins with its 48 bits of milliseconds."""
    number = int(time.timestamp() * 1000) << 80
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    return "".join(alphabet[number >> shift & 31] for shift in range(125, -1, -5))


def _after(cursor: str, prefix: URI) -> tuple[str, ...]:
    """The key that a listing goes on after; the cursor is the last URI that was returned."""
    try:
        uri = parse_uri(cursor)
    except InvalidURI:
        uri = None
    if uri is None or uri == prefix or not is_within(uri, prefix):
        raise InvalidArgument("cursor is none that this listing gave; begin again without one", field="cursor")
    return sort_key(uri)


def _check(uri: URI, current: str | None, if_version: str | None) -> None:
    """Raises Conflict unless a put with `if_version` may go over `current`."""
    if if_version in (ANY_VERSION, current):
        return
    raise _exists(uri, current) if if_version is None else _stale(uri, current, if_version)


def _exists(uri: URI, current: str | None) -> Conflict:
    return Conflict(
        f"there already is a resource {uri}; to replace it, read it and give its version as if_version",
        uri=uri,
        current=current,
    )


def _stale(uri: URI, current: str | None, if_version: str | None) -> Conflict:
    there = "there is none" if current is None else f"it has version {current} now"
    return Conflict(
        f"{uri} has not the version {if_version!r:.80} that was asked for: {there}; read it and try again",
        uri=uri,
        current=current,
    )
