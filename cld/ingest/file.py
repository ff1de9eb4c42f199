"""One file of a run: read if it may have changed, converted if it did, written down or said to have failed."""

import asyncio
import time
from dataclasses import dataclass

import msgspec
from anyio.to_thread import run_sync

from cld.errors import AccessDenied, Conflict, InvalidResource
from cld.ingest import documents
from cld.ingest.documents import find
from cld.ingest.failed import ConversionFailed
from cld.ingest.files import Read, Seen, Unreadable, read
from cld.ingest.job import Job
from cld.ingest.kinds import SNIFFED_BYTES, Kind, by_content
from cld.ingest.messages import Order
from cld.ingest.records import FORMAT, Record, content_of, made_from, record_of
from cld.ingest.report import Failure
from cld.ingest.scan import Found
from cld.resource import Draft, Meta
from cld.store import Stored
from cld.uri import URI

RACY_NS = 2_000_000_000
"""A file changed so shortly before it was read may change again without its times showing it (FAT keeps
two seconds); its times are then not kept, and the next run looks at its bytes."""

LARGE_BYTES = 8 * 1024 * 1024
"""A file from here on is in memory three times on its way to its process, so only one is at a time."""

_TRIES = 5
_SNIFFED = frozenset({"markdown", "rst", "text", "python", "code", "turtle", "n-triples", "json-ld"})


async def bring_file(job: Job, root: str, found: Found, uri: URI, moved: dict[str, Meta], *, is_there: bool) -> None:
    """Bring the file's document at `uri` up to date, or say in the tally why not.

    `is_there` says whether the document was there when the run began. `moved` are what people said of files
    that are gone, by digest; what is taken over from it is taken out.

    Raises:
        ApprovalRequired, StoreError: as `cld.ingest.ingest`.
    """
    file = _File(job, root, found, uri, moved)
    try:
        for attempt in range(_TRIES):
            try:
                # After a conflict, what was begun here may lie beside what another process made.
                await file.bring(is_there or attempt > 0, check=job.check or attempt > 0)
                return
            except Conflict:
                # Another process is at the same file: let it finish, then look what is left to do.
                await asyncio.sleep(0.05 * 4**attempt)
        reason = "its document changes all the time; ingest again when nobody else does"
    except (Unreadable, AccessDenied, InvalidResource) as error:
        reason = str(error)
    file.fail(reason)


@dataclass
class _File:
    job: Job
    root: str
    found: Found
    uri: URI
    moved: dict[str, Meta]

    async def bring(self, is_there: bool, *, check: bool) -> None:
        there = await find(self.job.store, self.uri) if is_there else None
        record = None if there is None else record_of(there)
        if record is not None and record.seen == self.found.seen and await self._is_current(record, check):
            await self._unchanged(there, record, record.seen)
        elif self.found.seen.size < LARGE_BYTES:
            await self._take(there, record, check)
        else:
            async with self.job.large:
                await self._take(there, record, check)

    async def _take(self, there: Stored | None, record: Record | None, check: bool) -> None:
        tally = self.job.tally
        now = time.time_ns()
        file = await run_sync(read, self.root, self.found.path, self.job.limits.file_bytes)
        tally.counts["bytes_read"] += len(file.data)
        is_settled = now - max(file.seen.modified_ns, file.seen.changed_ns) > RACY_NS
        seen = file.seen if is_settled else None
        if record is not None and record.digest == file.digest and await self._is_current(record, check):
            await self._unchanged(there, record, seen)
        elif (kind := self._kind(file.data[:SNIFFED_BYTES])) is not None:
            await self._write(there, file, kind, seen)
        else:
            tally.skipped["binary"] += 1
            if record is not None:
                await documents.delete_if_there(self.job.store, self.uri, recursive=True)
                tally.counts["removed"] += 1

    def _kind(self, start: bytes) -> Kind | None:
        """What the file is; None for a binary one, whatever its name says."""
        kind = self.found.kind or by_content(start)
        return None if kind is not None and kind.form in _SNIFFED and by_content(start) is None else kind

    async def _is_current(self, record: Record, check: bool) -> bool:
        """Whether the document is what this version of cld would make of the file that it knows."""
        if record.format != FORMAT or not record.digest or (record.error and self.job.retry):
            return False
        return not check or await documents.is_complete(self.job.store, self.uri, record)

    async def _write(self, there: Stored | None, file: Read, kind: Kind, seen: Seen | None) -> None:
        job, counts = self.job, self.job.tally.counts
        name = self.found.source.rpartition("/")[2]
        record = Record(
            title=name,
            source=self.found.source,
            path=self._path,
            media_type=kind.media_type,
            digest=file.digest,
            seen=seen,
        )
        limits = job.limits
        order = Order(name, kind.form, file.data, limits.text_characters, limits.passages, limits.seconds)
        try:
            converted = await job.pool.convert(order)
        except ConversionFailed as error:
            record = msgspec.structs.replace(record, error=str(error))
            await documents.write(job.store, self.uri, there, record, (), None)
            self.fail(record.error)
            return
        meta = moved = None if there is not None else self.moved.pop(file.digest, None)
        if there is None and meta is None:
            # It may have been left out for a while.
            meta = await documents.last_words(job.store, self.uri)
        made = made_from(converted, record)
        written = await documents.write(job.store, self.uri, there, made, converted.passages, meta)
        counts["passages_put"] += written.passages_put
        counts["passages_deleted"] += written.passages_deleted
        counts["added" if there is None else "changed"] += 1
        counts["moved"] += moved is not None

    @property
    def _path(self) -> str:
        return "" if self.found.path == self.found.source else self.found.path

    async def _unchanged(self, there: Stored | None, record: Record, seen: Seen | None) -> None:
        if there is not None and record.path != self._path:  # mail that was read
            now = msgspec.structs.replace(record, path=self._path, seen=seen)
            await self.job.store.put(Draft(self.uri, content_of(now)), if_version=there.version)
        if record.error:
            self.fail(record.error)
        else:
            self.job.tally.counts["unchanged"] += 1

    def fail(self, reason: str) -> None:
        self.job.tally.failed.append(Failure(f"{self.root}/{self.found.path}", reason, self.uri))
