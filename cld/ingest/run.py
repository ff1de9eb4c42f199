"""A run: the files below the folders given, looked at one after the other, several at a time."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import msgspec
from anyio import create_task_group
from anyio.to_thread import run_sync

from cld.errors import AccessDenied, Conflict, InvalidArgument, InvalidResource, Unsupported
from cld.guard import GuardedStore
from cld.ingest import documents
from cld.ingest.documents import DOCUMENT, FORMAT, Record, document_uri, find, folder_uri, record_of
from cld.ingest.failed import ConversionFailed
from cld.ingest.files import Read, Unreadable, read
from cld.ingest.kinds import SNIFFED_BYTES, Kind, by_content
from cld.ingest.limits import Limits
from cld.ingest.messages import Order
from cld.ingest.pool import Pool, open_pool
from cld.ingest.report import Failure, Progress, Report
from cld.ingest.scan import Found, Scan, Selection, scan
from cld.resource import Meta
from cld.store import MAX_LIMIT, Stored
from cld.uri import URI

NO_LIMITS = Limits()
RACY_NS = 2_000_000_000
"""A file changed so shortly before it was read may change again without its times showing it (FAT keeps
two seconds); its times are then not kept, and the next run looks at its bytes."""

LIBRARIES = ("charset_normalizer", "kreuzberg", "mammoth", "pathspec", "semantic_text_splitter")

_TRIES = 5
_SNIFFED = frozenset({"markdown", "rst", "text", "python", "code"})


async def ingest(
    store: GuardedStore,
    paths: Sequence[str | Path],
    *,
    below: URI,
    on_progress: Callable[[Progress], None] = lambda _: None,
    exclude: Sequence[str] = (),
    avoid: Sequence[Path] = (),
    within: Sequence[Path] | None = None,
    limits: Limits = NO_LIMITS,
    workers: int | None = None,
    check: bool = False,
    retry: bool = False,
    until: float | None = None,
) -> Report:
    """Bring the documents below `below` in step with the files at `paths`, folders or single files.

    A folder's files become documents below the folder's document; a path within a folder that is known
    already belongs to that one, any other single file to the folder it lies in. What is in the tree
    and no longer in the part of the folder that `paths` names is deleted.

    `exclude` are patterns as in `.gitignore`; `avoid` are folders never to be looked into, such as the tree itself.
    With `within`, each path must lie in one of those folders. `check` also looks whether all passages of files
    that did not change are still there; `retry` tries again what could not be converted before. No file is
    begun after `until` (of `time.monotonic`): the report says how many remain.

    A bad file is in the report's `failed`; what policy forbids, too. Nothing is undone when it is cancelled:
    a document is complete or will be done again.

    Raises:
        InvalidArgument: a path does not exist or may not be taken.
        AccessDenied: the folder's document may not be written.
        ApprovalRequired: something may be written or deleted only once a person agrees; then run again.
        StoreError: the storage failed.
        Unsupported: a library that converts is not installed.
    """
    _require_libraries()
    run = _Run(store, below, on_progress, limits, check, retry, until)
    identities = frozenset(one for path in avoid if (one := _identity(path)) is not None)
    places = [await run_sync(_place, path, within, f"paths[{n}]") for n, path in enumerate(paths)]
    async with open_pool(workers or max(1, min(4, os.cpu_count() or 1)), limits) as pool:
        for place in places:
            await run.folder(place, exclude, identities, pool)
    return run.report()


@dataclass(frozen=True)
class _Place:
    """A path with all its links followed, once, and whether it is a folder."""

    path: PurePosixPath
    is_folder: bool


@dataclass
class _Run:
    store: GuardedStore
    below: URI
    on_progress: Callable[[Progress], None]
    limits: Limits
    check: bool
    retry: bool
    until: float | None
    counts: Counter[str] = field(default_factory=Counter[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    failed: list[Failure] = field(default_factory=list[Failure])
    roots: list[URI] = field(default_factory=list[URI])
    done: int = 0
    total: int = 0

    def report(self) -> Report:
        return Report(
            roots=tuple(dict.fromkeys(self.roots)),
            skipped=dict(sorted(self.skipped.items())),
            failed=tuple(sorted(self.failed, key=lambda one: one.path)),
            **self.counts,
        )

    async def folder(
        self, place: _Place, exclude: Sequence[str], avoid: frozenset[tuple[int, int]], pool: Pool
    ) -> None:
        root, scope = await self._root_of(place)
        uri = folder_uri(self.below, root)
        known_folders = {one async for one in _documents(self.store, self.below)} - {uri}
        selection = Selection(
            scope, exclude, avoid, self.limits, lambda path: folder_uri(self.below, path) in known_folders
        )
        try:
            found = await run_sync(scan, root, selection)
        except OSError as error:
            raise InvalidArgument(f"{place.path} cannot be looked at: {error.strerror}", field="paths") from None
        await documents.ensure_folder(self.store, uri, root)
        self.roots.append(uri)
        self.skipped += found.skipped
        self.failed += [msgspec.structs.replace(one, path=f"{root}/{one.path}") for one in found.failed]
        self.total += len(found.found)
        there = {one async for one in _documents(self.store, uri)}
        gone = await self._gone(there - {document_uri(uri, one.source) for one in found.found}, scope, found)
        await self._files(root, uri, found.found, there, gone, pool)
        if self.counts["remaining"] == 0:
            for stored, _ in gone:
                await self._remove(URI(stored.resource.uri), root)

    async def _root_of(self, place: _Place) -> tuple[str, str]:
        """The folder to which this path belongs, and the path within it."""
        for folder in [*([place.path] if place.is_folder else []), *place.path.parents]:
            if await find(self.store, folder_uri(self.below, str(folder))) is not None:
                break
        else:
            folder = place.path if place.is_folder else place.path.parent
        within = place.path.relative_to(folder)
        return str(folder), "" if within == PurePosixPath(".") else str(within)

    async def _gone(self, uris: Iterable[URI], scope: str, found: Scan) -> list[tuple[Stored, Record]]:
        """The documents among `uris` whose file was in `scope` and is there no more."""
        unseen = [one.path for one in found.failed]
        gone: list[tuple[Stored, Record]] = []
        for uri in sorted(uris):
            try:
                stored = await find(self.store, uri)
            except InvalidResource as error:
                self.failed.append(Failure(uri, str(error), uri))
                continue
            record = None if stored is None else record_of(stored)
            # What somebody else put there stays, and what could not be looked at is not gone.
            if stored is None or record is None or not _is_below(record.source, scope):
                continue
            if not any(_is_below(record.source, path) for path in unseen):
                gone.append((stored, record))
        return gone

    async def _files(
        self,
        root: str,
        uri: URI,
        found: Sequence[Found],
        there: set[URI],
        gone: Sequence[tuple[Stored, Record]],
        pool: Pool,
    ) -> None:
        moved = {record.digest: stored.resource.meta for stored, record in gone if record.digest and not record.error}
        waiting = iter(found)

        async def work() -> None:
            for one in waiting:
                if self.until is not None and time.monotonic() >= self.until:
                    self.counts["remaining"] += 1
                    continue
                document = document_uri(uri, one.source)
                file = _File(self, root, one, document, moved, pool)
                await file.bring(document in there)
                self.done += 1
                self.on_progress(Progress(self.done, self.total, f"{root}/{one.path}"))

        try:
            async with create_task_group() as tasks:
                # One more than there are processes, so that none waits for a store.
                for _ in range(len(pool.workers) + 1):
                    tasks.start_soon(work)
        except ExceptionGroup as group:
            raise documents.first(group) from None

    async def _remove(self, uri: URI, root: str) -> None:
        try:
            await documents.delete_if_there(self.store, uri, recursive=True)
        except (AccessDenied, Conflict) as error:
            self.failed.append(Failure(root, f"its document cannot be deleted: {error}", uri))
        else:
            self.counts["removed"] += 1


@dataclass
class _File:
    """One file of a run."""

    run: _Run
    root: str
    found: Found
    uri: URI
    moved: dict[str, Meta]
    pool: Pool

    @property
    def path(self) -> str:
        return f"{self.root}/{self.found.path}"

    async def bring(self, is_there: bool) -> None:
        """Bring the file's document up to date, or say in the report why not."""
        try:
            for attempt in range(_TRIES):
                try:
                    # After a conflict, what was begun here may lie beside what another process made.
                    await self._once(is_there or attempt > 0, check=self.run.check or attempt > 0)
                    return
                except Conflict:
                    # Another process is at the same file: let it finish, then look what is left to do.
                    await asyncio.sleep(0.05 * 4**attempt)
            reason = "its document changes all the time; ingest again when nobody else does"
        except (Unreadable, AccessDenied, InvalidResource) as error:
            reason = str(error)
        self._fail(reason)

    async def _once(self, is_there: bool, *, check: bool) -> None:
        run = self.run
        there = await find(run.store, self.uri) if is_there else None
        record = None if there is None else record_of(there)
        if record is not None and record.seen == self.found.seen and await self._is_current(record, check):
            return self._unchanged(record)
        now = time.time_ns()
        file = await run_sync(read, self.root, self.found.path, run.limits.file_bytes)
        run.counts["bytes_read"] += len(file.data)
        if record is not None and record.digest == file.digest and await self._is_current(record, check):
            return self._unchanged(record)
        kind = self.found.kind or by_content(file.data[:SNIFFED_BYTES])
        if kind is None or (kind.form in _SNIFFED and by_content(file.data[:SNIFFED_BYTES]) is None):
            run.skipped["binary"] += 1
            if there is not None and record is not None:
                await documents.delete_if_there(run.store, self.uri, recursive=True)
                run.counts["removed"] += 1
            return None
        await self._write(there, file, kind, now)
        return None

    async def _is_current(self, record: Record, check: bool) -> bool:
        """Whether the document is what this version of cld would make of the file that it knows."""
        if record.format != FORMAT or not record.digest or (record.error and self.run.retry):
            return False
        return not check or await documents.is_complete(self.run.store, self.uri, record)

    def _unchanged(self, record: Record) -> None:
        if record.error:
            self._fail(record.error)
        else:
            self.run.counts["unchanged"] += 1

    async def _write(self, there: Stored | None, file: Read, kind: Kind, now: int) -> None:
        run = self.run
        is_settled = now - max(file.seen.modified_ns, file.seen.changed_ns) > RACY_NS
        name = self.found.source.rpartition("/")[2]
        record = Record(
            title=name,
            source=self.found.source,
            media_type=kind.media_type,
            digest=file.digest,
            seen=file.seen if is_settled else None,
        )
        limits = run.limits
        order = Order(name, kind.form, file.data, limits.text_characters, limits.passages, limits.seconds)
        try:
            converted = await self.pool.convert(order)
        except ConversionFailed as error:
            record = msgspec.structs.replace(record, error=str(error))
            await documents.write(run.store, self.uri, there, record, (), None)
            return self._fail(record.error)
        record = documents.made_from(converted, record)
        meta = None if there is not None else self.moved.pop(file.digest, None)
        written = await documents.write(run.store, self.uri, there, record, converted.passages, meta)
        run.counts["passages_put"] += written.passages_put
        run.counts["passages_deleted"] += written.passages_deleted
        run.counts["added" if there is None else "changed"] += 1
        run.counts["moved"] += meta is not None
        return None

    def _fail(self, reason: str) -> None:
        self.run.failed.append(Failure(self.path, reason, self.uri))


async def _documents(store: GuardedStore, below: URI) -> AsyncIterator[URI]:
    cursor = None
    while True:
        page = await store.list(below, type=DOCUMENT, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            yield uri
        if page.cursor is None:
            return
        cursor = page.cursor


def _require_libraries() -> None:
    """A file that cannot be converted here is no bad file, so this is said before one is looked at."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise Unsupported(f"ingest needs {', '.join(missing)}; install them with pip install 'cld[knowledge]'")


def _place(path: str | Path, within: Sequence[Path] | None, field: str) -> _Place:
    """The path as it is now, with no links in it.

    Raises:
        InvalidArgument: there is none, or it lies outside `within`.
    """
    outside = f"{path} is not in a folder that may be taken in"
    try:
        real = Path(path).expanduser().resolve(strict=True)
        if within is not None and not any(real.is_relative_to(folder.resolve()) for folder in within):
            raise InvalidArgument(outside, field=field)
        text = str(real)
        text.encode()
        return _Place(PurePosixPath(text), real.is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        # Whether it exists is not told of what lies outside.
        said = outside if within is not None else f"{path} cannot be found: {getattr(error, 'strerror', None) or error}"
        raise InvalidArgument(said, field=field) from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_below(source: str, scope: str) -> bool:
    return not scope or source == scope or source.startswith(f"{scope}/")
