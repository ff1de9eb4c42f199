"""One folder of a run: its files brought in step one after the other, and what is gone from it removed."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import msgspec
from anyio import create_task_group
from anyio.to_thread import run_sync

from cld.errors import AccessDenied, Conflict, InvalidResource
from cld.guard import GuardedStore
from cld.ingest import documents
from cld.ingest.documents import find
from cld.ingest.file import bring_file
from cld.ingest.job import Job
from cld.ingest.places import Place
from cld.ingest.records import DOCUMENT, Record, document_uri, folder_uri, record_of
from cld.ingest.report import Failure
from cld.ingest.scan import Found, Scan, Selection, scan
from cld.resource import Meta
from cld.store import MAX_LIMIT, Stored
from cld.uri import URI


async def bring_folder(job: Job, place: Place) -> None:
    """Bring the documents of the files at `place` in step with them; what cannot be is in the tally.

    Raises:
        AccessDenied, ApprovalRequired, StoreError: as `cld.ingest.ingest`.
    """
    tally = job.tally
    root, scope = await _root_of(job, place) or _itself(place)
    uri = folder_uri(job.below, root)
    others = {one async for one in _documents(job.store, job.below)} - {uri}
    selection = Selection(
        scope, job.exclude, job.avoid, job.limits, is_known=lambda path: folder_uri(job.below, path) in others
    )
    try:
        found = await run_sync(scan, root, selection)
    except OSError as error:
        tally.failed.append(Failure(str(place.path), f"it cannot be looked at: {error.strerror}"))
        return
    await documents.ensure_folder(job.store, uri, root)
    tally.roots.append(uri)
    tally.skipped += found.skipped
    tally.failed += [msgspec.structs.replace(one, path=f"{root}/{one.path}") for one in found.failed]
    tally.total += len(found.found)
    there = {one async for one in _documents(job.store, uri)}
    gone = await _gone(job, there - {document_uri(uri, one.source) for one in found.found}, scope, found)
    moved = {record.digest: stored.resource.meta for stored, record in gone if record.digest and not record.error}
    await _bring_files(job, root, uri, found.found, there, moved)
    # Only once all is looked at: what is gone here may have been moved to a file that is still to come.
    if tally.counts["remaining"] == 0:
        for stored, _ in gone:
            await _remove(job, URI(stored.resource.uri), root)


async def bring_gone(job: Job, place: Place) -> None:
    """Delete the documents of what was at `place`, where nothing is any more; that there are none is in the tally.

    Raises:
        ApprovalRequired, StoreError: as `cld.ingest.ingest`.
    """
    gone: list[tuple[Stored, Record]] = []
    if (known := await _root_of(job, place)) is not None:
        root, scope = known
        uri = folder_uri(job.below, root)
        gone = await _gone(job, [one async for one in _documents(job.store, uri)], scope, Scan())
        for stored, _ in gone:
            await _remove(job, URI(stored.resource.uri), root)
        if not scope and not (await job.store.list(uri, limit=1)).uris:
            await documents.delete_if_there(job.store, uri)
            return
    if not gone:
        job.tally.failed.append(Failure(str(place.path), "it cannot be found, and nothing of it was taken in"))


async def _root_of(job: Job, place: Place) -> tuple[str, str] | None:
    """The known folder to which this path belongs, and the path within it."""
    for folder in [*([place.path] if place.is_folder or place.is_gone else []), *place.path.parents]:
        if await find(job.store, folder_uri(job.below, str(folder))) is not None:
            within = place.path.relative_to(folder)
            return str(folder), "" if within == PurePosixPath(".") else str(within)
    return None


def _itself(place: Place) -> tuple[str, str]:
    return (str(place.path), "") if place.is_folder else (str(place.path.parent), place.path.name)


async def _gone(job: Job, uris: Iterable[URI], scope: str, found: Scan) -> list[tuple[Stored, Record]]:
    """The documents among `uris` whose file was in `scope` and is there no more."""
    unseen = [one.path for one in found.failed]
    gone: list[tuple[Stored, Record]] = []
    for uri in sorted(uris):
        try:
            stored = await find(job.store, uri)
        except InvalidResource as error:
            job.tally.failed.append(Failure(uri, str(error), uri))
            continue
        record = None if stored is None else record_of(stored)
        # What somebody else put there stays, and what could not be looked at is not gone.
        if stored is None or record is None or not _is_below(record.source, scope):
            continue
        if not any(_is_below(record.source, path) for path in unseen):
            gone.append((stored, record))
    return gone


async def _bring_files(
    job: Job, root: str, uri: URI, found: Sequence[Found], there: set[URI], moved: Mapping[str, Meta]
) -> None:
    waiting = iter(found)
    left = dict(moved)

    async def work() -> None:
        for one in waiting:
            if job.until is not None and time.monotonic() >= job.until:
                job.tally.counts["remaining"] += 1
                continue
            document = document_uri(uri, one.source)
            await bring_file(job, root, one, document, left, is_there=document in there)
            job.tally.step(f"{root}/{one.path}")

    try:
        async with create_task_group() as tasks:
            # One more than there are processes, so that none waits for a store.
            for _ in range(len(job.pool.workers) + 1):
                tasks.start_soon(work)
    except ExceptionGroup as group:
        raise documents.first(group) from None


async def _remove(job: Job, uri: URI, root: str) -> None:
    try:
        await documents.delete_if_there(job.store, uri, recursive=True)
    except (AccessDenied, Conflict) as error:
        job.tally.failed.append(Failure(root, f"its document cannot be deleted: {error}", uri))
    else:
        job.tally.counts["removed"] += 1


async def _documents(store: GuardedStore, below: URI) -> AsyncIterator[URI]:
    cursor = None
    while True:
        page = await store.list(below, type=DOCUMENT, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            yield uri
        if page.cursor is None:
            return
        cursor = page.cursor


def _is_below(source: str, scope: str) -> bool:
    return not scope or source == scope or source.startswith(f"{scope}/")
