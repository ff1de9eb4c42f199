"""The keeper of what was completed: follows what tasks become, in one process at a time.

Owns what is read for it; how one process keeps an index is `cld.index.keeping`'s. Sees the tree through a
guarded store: what its principal may not read teaches nobody anything.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cld.events.pace import to_thread
from cld.guard import GuardedStore, GuardedSubscription
from cld.index.election_history import TASK, completed
from cld.index.election_table import ElectionTable, Row
from cld.index.keeping import RECONCILE_SECONDS, Apply, Hear, Keeping, beside, follow, read, reconcile
from cld.index.lock import held
from cld.store import Stored
from cld.uri import URI, type_of

log = logging.getLogger(__name__)


class ElectionKeeper:
    """Keeps the table in `folder` as the principal that `store` reads as, and `hear` hears as."""

    def __init__(
        self, folder: Path, store: GuardedStore, hear: Hear, *, reconcile_seconds: float = RECONCILE_SECONDS
    ) -> None:
        self._folder = folder
        self._store = store
        self._reconcile_seconds = reconcile_seconds
        self._turn = asyncio.Lock()
        self._table: ElectionTable | None = None
        self.keeping = Keeping("elections", folder, hear, self._keep, intact=self._is_there)
        """To be run as a task."""

    async def _keep(self, subscription: GuardedSubscription) -> None:
        with contextlib.closing(ElectionTable(self._folder, writes=True)) as table:

            async def changed(versions: Mapping[URI, str | None]) -> None:
                await self._apply(table, [uri for uri in versions if type_of(uri) == TASK])

            self._table = table
            try:
                await beside(follow(subscription, changed), self._reconcile_on(table))
            finally:
                self._table = None

    def _is_there(self) -> bool:
        return self._table is None or self._table.is_there()

    async def _reconcile_on(self, table: ElectionTable) -> None:
        while True:
            await _make_true(table, self._store, partial(self._apply, table))
            self.keeping.ready.set()
            await asyncio.sleep(self._reconcile_seconds)

    async def _apply(self, table: ElectionTable, uris: Sequence[URI]) -> None:
        # Reading belongs to the turn: else what was read first could be written last.
        async with self._turn:
            await _apply(table, self._store, uris)


async def catch_up(folder: Path, store: GuardedStore) -> bool:
    """Make the table in `folder` true to the tree once; False where another process keeps it, and nothing was done."""
    with held(folder) as descriptor:
        if descriptor is None:
            return False
        with contextlib.closing(ElectionTable(folder, writes=True)) as table:
            await _make_true(table, store, partial(_apply, table, store))
    return True


async def _make_true(table: ElectionTable, store: GuardedStore, apply: Apply) -> None:
    if damage := await to_thread(table.mend):
        log.warning("elections: %s; it is made again", damage)
    await reconcile(store, await to_thread(table.versions), apply, type=TASK)
    await to_thread(table.finish)


async def _apply(table: ElectionTable, store: GuardedStore, uris: Sequence[URI]) -> None:
    """Have the table say of the tasks `uris` what the tree says now."""
    puts: list[Row] = []
    gone: list[URI] = []
    async for portion in read(store, uris):
        for uri, found in portion:
            if isinstance(found, Stored):
                done = completed(found.resource)
                puts.append(Row(uri, found.version, None if done is None else done[0]))
            else:
                gone.append(uri)
    if puts or gone:
        await to_thread(lambda: table.apply(puts, gone))
