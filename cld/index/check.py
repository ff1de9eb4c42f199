"""The check: whether the index says what the tree says. For the doctor; changes nothing.

Compares what the store given may read with what is indexed, so give it one that may read what the
maintainer's may.
"""

from pathlib import Path

import anyio
import msgspec

from cld.errors import InvalidResource, ResourceNotFound
from cld.events.pace import to_thread
from cld.guard import GuardedStore
from cld.index import Model
from cld.index.segment import BrokenIndex, open_segment
from cld.index.table import Table, current_of, read_manifest
from cld.uri import MAX_DEPTH, ROOT, URI

_GRACE_SECONDS = 2.0
_PAGE = 200


class Checked(msgspec.Struct, frozen=True):
    """What is in the tree and not in the index, in it at another version, and in it but not in the tree.

    `broken` says what is wrong with its files, or that there are none; `resources` is how many are indexed.
    """

    model: Model | None
    resources: int
    missing: tuple[URI, ...] = ()
    stale: tuple[URI, ...] = ()
    extra: tuple[URI, ...] = ()
    broken: str = ""

    @property
    def good(self) -> bool:
        return not (self.missing or self.stale or self.extra or self.broken)


async def check(folder: Path, store: GuardedStore, *, grace_seconds: float = _GRACE_SECONDS) -> Checked:
    """Compare the index in `folder` with the tree, every byte of it with its checksum.

    A difference counts once it has lasted for `grace_seconds`: before, a maintainer may be at it.
    """
    digest = current_of(folder)
    manifest = await to_thread(lambda: read_manifest(folder / digest)) if digest else None
    if manifest is None:
        return Checked(None, 0, broken="there is no index; a server that runs for a while makes it")
    table = Table(folder / digest)
    try:
        await to_thread(table.refresh)
        for name in manifest.segments:
            await to_thread(lambda name=name: open_segment(folder / digest, name, thorough=True))
    except BrokenIndex as error:
        # Merged away meanwhile is not broken.
        now = await to_thread(lambda: read_manifest(folder / digest))
        if now is None or now.segments == manifest.segments:
            return Checked(manifest.model, 0, broken=str(error))
    seen: dict[URI, str] = {}
    cursor = None
    while True:
        page = await store.entries(ROOT, depth=MAX_DEPTH, cursor=cursor, limit=_PAGE)
        seen.update((entry.uri, entry.version) for entry in page.entries if not entry.invalid)
        if page.cursor is None:
            break
        cursor = page.cursor
    suspects = {uri for uri, version in seen.items() if table.version_of(uri) != version} | (
        set(table.uris()) - seen.keys()
    )
    with anyio.move_on_after(grace_seconds):
        while suspects:
            suspects = {uri for uri in suspects if await _version(store, uri) != table.version_of(uri)}
            await anyio.sleep(0.05)
            await to_thread(table.refresh)
    missing: list[URI] = []
    stale: list[URI] = []
    extra: list[URI] = []
    for uri in sorted(suspects):
        there, indexed = await _version(store, uri), table.version_of(uri)
        if there != indexed:
            (missing if indexed is None else extra if there is None else stale).append(uri)
    return Checked(manifest.model, len(table), tuple(missing), tuple(stale), tuple(extra))


async def _version(store: GuardedStore, uri: URI) -> str | None:
    try:
        return (await store.get(uri)).version
    except (ResourceNotFound, InvalidResource):
        return None
