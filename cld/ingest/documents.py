"""Documents: one file's place in the tree, and how its passages are brought up to date.

A change is bracketed by two compare-and-swap writes of the document: the claim takes the digest out, the commit
puts the new one in, and in between the passages are put and deleted. A document without a digest is therefore
not complete, whoever left it so, and is done again; of two processes at one document one meets a conflict,
and as ids come from path and content, both would have written the same.
"""

import contextlib
from collections.abc import Sequence

import msgspec
from anyio import CapacityLimiter, create_task_group

from cld.errors import Conflict, InvalidResource, ResourceNotFound, Unsupported
from cld.guard import GuardedStore
from cld.ingest.linked import MEDIA_TYPES
from cld.ingest.messages import Passage
from cld.ingest.records import FOLDER, FORMAT, TEXT, Part, Record, content_of, description, record_of
from cld.ingest.sequence import ID, arrange, digest_of
from cld.resource import NO_META, Draft, Meta
from cld.store import MAX_LIMIT, Stored
from cld.uri import URI, id_of, make_uri

PUTS_AT_ONCE = 8
PLAIN = "text/plain"


class Written(msgspec.Struct, frozen=True):
    passages_put: int = 0
    passages_deleted: int = 0


async def find(store: GuardedStore, uri: URI) -> Stored | None:
    try:
        return await store.get(uri)
    except ResourceNotFound:
        return None


async def ensure_folder(store: GuardedStore, uri: URI, path: str) -> None:
    """The folder's document, made when it is not there."""
    if await find(store, uri) is not None:
        return
    name = path.rpartition("/")[2] or path
    meta = Meta(purpose=f"The documents of the folder {name}.")
    content = {"title": name, "source": path, "media_type": FOLDER}
    try:
        await store.put(Draft(uri, content, meta))
    except Conflict:
        await store.get(uri)  # another process was first


async def write(
    store: GuardedStore, uri: URI, there: Stored | None, record: Record, passages: Sequence[Passage], meta: Meta | None
) -> Written:
    """Make `record` and its `passages` what the document at `uri` holds; `there` is what was read of it.

    A person's own meta stays; `meta` is for a document that has none yet.

    Raises:
        Conflict: another process has changed it since; look at it again.
        AccessDenied, ApprovalRequired, InvalidResource, StoreError: as `GuardedStore.put`.
    """
    before = None if there is None else record_of(there)
    is_old = before is not None and before.format != FORMAT
    claim = msgspec.structs.replace(before or record, digest="", parts=before.parts if before else {})
    if before is None:
        claim = msgspec.structs.replace(claim, format=FORMAT)
    claimed = await store.put(
        Draft(uri, content_of(claim), _meta(record, before, there, meta)),
        if_version=None if there is None else there.version,
    )
    present = [] if there is None else await _passages_below(store, uri)
    ids = arrange(present, [digest_of(one.titles, one.text) for one in passages])
    known, wanted = set(present), set(ids)
    # Passages of another format keep their ids, and are written as they are now.
    fresh = [(id, one) for id, one in zip(ids, passages, strict=True) if is_old or id not in known]
    stale = [id for id in present if id not in wanted]
    limiter = CapacityLimiter(PUTS_AT_ONCE)

    async def put(id: str, one: Passage) -> None:
        async with limiter:
            content = {
                "text": one.text,
                "title": one.titles[-1],
                "title_path": list(one.titles),
                "source": record.source,
            }
            if record.media_type in MEDIA_TYPES.values():
                content["media_type"] = PLAIN  # what it says for the graph is in the document, and whole
            await _put_passage(store, Draft(make_uri(uri, TEXT, id), content), if_version="*" if id in known else None)

    async def delete(id: str) -> None:
        async with limiter:
            await delete_if_there(store, make_uri(uri, TEXT, id))

    try:
        async with create_task_group() as tasks:
            for id, one in fresh:
                tasks.start_soon(put, id, one)
            for id in stale:
                tasks.start_soon(delete, id)
    except ExceptionGroup as group:
        raise first(group) from None
    parts = {id: Part(one.start, one.end, one.line, one.page) for id, one in zip(ids, passages, strict=True)}
    done = msgspec.structs.replace(record, format=FORMAT, parts=parts)
    await store.put(Draft(uri, content_of(done)), if_version=claimed.version)
    return Written(len(fresh), len(stale))


async def delete_if_there(store: GuardedStore, uri: URI, *, recursive: bool = False) -> None:
    with contextlib.suppress(ResourceNotFound):  # another process was first
        await store.delete(uri, recursive=recursive)


async def last_words(store: GuardedStore, uri: URI) -> Meta | None:
    """The meta that a person wrote of a document that went, as of its last version; None where nobody did."""
    try:
        newest = max(await store.history(uri), key=lambda one: one.revision or 0)
        last = await store.get(uri, newest.version)
    except (ResourceNotFound, InvalidResource, Unsupported):
        return None
    record = record_of(last)
    purpose = last.resource.meta.purpose
    return None if record is None or purpose in ("", description(record)) else last.resource.meta


async def is_complete(store: GuardedStore, uri: URI, record: Record) -> bool:
    """Whether below the document are exactly the passages it names."""
    return set(await _passages_below(store, uri)) == record.parts.keys()


async def _put_passage(store: GuardedStore, draft: Draft, if_version: str | None) -> None:
    # Another process at the same file wrote the same passage: the id says what is in it.
    with contextlib.suppress(Conflict):
        await store.put(draft, if_version=if_version)


async def _passages_below(store: GuardedStore, uri: URI) -> list[str]:
    """The ids of the passages that ingest made, in order."""
    found: list[str] = []
    cursor = None
    while True:
        page = await store.list(uri, type=TEXT, cursor=cursor, limit=MAX_LIMIT)
        found += [id for id in map(id_of, page.uris) if ID.fullmatch(id)]
        if page.cursor is None:
            return found
        cursor = page.cursor


def _meta(record: Record, before: Record | None, there: Stored | None, given: Meta | None) -> Meta | None:
    """The meta to write: the description of this version, unless a person wrote another."""
    if given is not None:
        return given
    current = NO_META if there is None else there.resource.meta
    if current.purpose and (before is None or current.purpose != description(before)):
        return None
    return msgspec.structs.replace(current, purpose=description(record))


def first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return first(error) if isinstance(error, ExceptionGroup) else error  # pyright: ignore
