"""The check: whether an index says what the tree says. For the doctor; changes nothing.

Compares what the store given may read with what is kept, so give it one that may read what the keeper's may.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import msgspec

from cld.errors import InvalidResource
from cld.events.pace import to_thread
from cld.guard import Entry, GuardedStore
from cld.index import BrokenIndex, IndexUnavailable
from cld.index.election_history import TASK
from cld.index.election_table import ElectionTable
from cld.index.graph_keeper import graph_version
from cld.index.graph_table import GraphTable
from cld.index.graph_writer import version_of_invalid
from cld.index.keeping import entries, valid_version
from cld.index.table import CURRENT, MANIFEST, Table, current_of, read_manifest
from cld.uri import URI

GRACE_SECONDS = 2.0


class Checked(msgspec.Struct, frozen=True):
    """What is in the tree and not in an index, in it at another version, and in it but not in the tree.

    `broken` says what is wrong with its files; `absent`, that there is none that ever had all of the tree;
    `resources` is how many it has.
    """

    resources: int = 0
    missing: tuple[URI, ...] = ()
    stale: tuple[URI, ...] = ()
    extra: tuple[URI, ...] = ()
    broken: str = ""
    absent: bool = False

    @property
    def good(self) -> bool:
        return not (self.missing or self.stale or self.extra or self.broken or self.absent)


class _Kept(msgspec.Struct, frozen=True):
    """An index as the check sees it; `versions` and `version_of` block, and look at what is there now."""

    versions: Callable[[], Mapping[URI, str]]
    version_of: Callable[[URI], str | None]
    type: str | None = None
    version: Callable[[Entry], str | None] = valid_version
    version_of_invalid: Callable[[str], str | None] = lambda _: None


async def check_search(folder: Path, store: GuardedStore, *, grace_seconds: float = GRACE_SECONDS) -> Checked:
    """Compare the search index in `folder` with the tree, and every byte of it with its checksum.

    A difference counts once it has lasted for `grace_seconds`: before, a maintainer may be at it.
    """
    digest = current_of(folder)
    manifest = await to_thread(lambda: read_manifest(folder / digest)) if digest else None
    if manifest is None:
        if (folder / digest / MANIFEST).exists() if digest else (folder / CURRENT).exists():
            return Checked(broken="it cannot be read")
        return Checked(absent=True)
    table = Table(folder / digest)
    try:
        await to_thread(table.refresh)
    except BrokenIndex as error:
        return Checked(broken=str(error))

    def versions() -> Mapping[URI, str]:
        table.refresh()
        return {uri: version for uri in table.uris() if (version := table.version_of(uri)) is not None}

    def version_of(uri: URI) -> str | None:
        table.refresh()
        return table.version_of(uri)

    return await _compare(_Kept(versions, version_of), store, grace_seconds)


async def check_graph(folder: Path, store: GuardedStore, *, grace_seconds: float = GRACE_SECONDS) -> Checked:
    """The same for the graph."""
    with contextlib.closing(GraphTable(folder, writes=False)) as table:
        kept = _Kept(table.versions, table.version_of, None, graph_version, version_of_invalid)
        return await _check_table(table, kept, store, grace_seconds)


async def check_elections(folder: Path, store: GuardedStore, *, grace_seconds: float = GRACE_SECONDS) -> Checked:
    """The same for what tasks have taught elections."""
    with contextlib.closing(ElectionTable(folder, writes=False)) as table:
        kept = _Kept(table.versions, table.version_of, TASK)
        return await _check_table(table, kept, store, grace_seconds)


async def _check_table(
    table: GraphTable | ElectionTable, kept: _Kept, store: GuardedStore, grace_seconds: float
) -> Checked:
    try:
        if damage := await to_thread(table.damage):
            return Checked(broken=damage)
        if not await to_thread(table.is_complete):
            return Checked(absent=True)
        return await _compare(kept, store, grace_seconds)
    except (BrokenIndex, IndexUnavailable) as error:
        return Checked(broken=str(error))


async def _compare(kept: _Kept, store: GuardedStore, grace_seconds: float) -> Checked:
    known = dict(await to_thread(kept.versions))
    count = len(known)
    suspects = {
        entry.uri async for entry in entries(store, kept.type) if known.pop(entry.uri, None) != kept.version(entry)
    }
    suspects |= known.keys()
    with anyio.move_on_after(grace_seconds):
        while suspects:
            suspects = {uri for uri in suspects if not await _agree(kept, store, uri)}
            await anyio.sleep(0.05)
    missing: list[URI] = []
    stale: list[URI] = []
    extra: list[URI] = []
    for uri in sorted(suspects):
        there, indexed = await _version(kept, store, uri), await to_thread(lambda uri=uri: kept.version_of(uri))
        if there != indexed:
            (missing if indexed is None else extra if there is None else stale).append(uri)
    return Checked(count, tuple(missing), tuple(stale), tuple(extra))


async def _agree(kept: _Kept, store: GuardedStore, uri: URI) -> bool:
    return await _version(kept, store, uri) == await to_thread(lambda: kept.version_of(uri))


async def _version(kept: _Kept, store: GuardedStore, uri: URI) -> str | None:
    (found,) = await store.get_each([uri])
    if isinstance(found, InvalidResource):
        return kept.version_of_invalid(str(found))
    return None if found is None else found.version
