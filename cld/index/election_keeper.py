"""The keeper of the history of elections: in one process at a time, follows what tasks become.

Begins with all tasks of the tree, so that whatever was missed is made good, and then adds from events. Sees
the tree through a guarded store: what its principal may not read teaches nothing.
"""

import asyncio
import logging
from pathlib import Path

from cld.errors import CldError, InvalidResource, ResourceNotFound
from cld.guard import GuardedStore, GuardedSubscription
from cld.index.election_history import FILE, TASK, History, history_of_tree
from cld.index.graph_keeper import TAKE_OVER_SECONDS, Hear
from cld.index.lock import held
from cld.uri import URI, type_of

log = logging.getLogger(__name__)

_RETRY_SECONDS = (1.0, 60.0)


class ElectionKeeper:
    """Waits until no other process keeps the history below `folder`, then does: `run` it as a task.

    `hear` subscribes to all changes as the same principal that `store` reads as.
    """

    def __init__(self, folder: Path, store: GuardedStore, hear: Hear) -> None:
        self._file = folder / FILE
        self._store = store
        self._hear = hear
        self.ready = asyncio.Event()
        """Set while this process keeps the history, and it has all of the tree."""

    async def run(self) -> None:
        """Keep the history for ever; cancel it to stop. Whatever fails is tried again, later each time."""
        wait, longest = _RETRY_SECONDS
        while True:
            try:
                with held(self._file.parent) as lock:
                    if lock is not None:
                        async with self._hear() as subscription:
                            await self._keep(subscription)
                            return  # the subscription was closed: the runtime ends
                await asyncio.sleep(TAKE_OVER_SECONDS)
            except Exception as error:  # a task boundary: one bad event must not end the learning
                expected = isinstance(error, (OSError, CldError))
                log.warning("elections: %s; beginning again in %g s", error, wait, exc_info=None if expected else error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)
            finally:
                self.ready.clear()

    async def _keep(self, subscription: GuardedSubscription) -> None:
        history = await history_of_tree(self._store)
        history.save(self._file)
        self.ready.set()
        while (event := await subscription.next()) is not None:
            if type_of(event.uri) == TASK:
                await self._follow(history, event.uri)

    async def _follow(self, history: History, uri: URI) -> None:
        try:
            history.learn((await self._store.get(uri)).resource)
        except (ResourceNotFound, InvalidResource):
            history.remove(uri)
