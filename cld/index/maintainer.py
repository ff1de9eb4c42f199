"""The maintainer: keeps the search index true to the tree, in one process at a time.

Owns the order of work and the swap to another model; how one process keeps an index is
`cld.index.keeping`'s, what is written and how `cld.index.writer`'s. Sees the tree through a guarded
store, so what its principal may not read is not indexed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cld.errors import CldError
from cld.events.pace import to_thread
from cld.guard import GuardedStore, GuardedSubscription
from cld.index import WORDS, Embedder, EmbeddingFailed, Model, keeping
from cld.index.embedding import choose_embedder
from cld.index.keeping import RECONCILE_SECONDS, Hear, Keeping, beside, follow, read, reconcile
from cld.index.lock import held
from cld.index.segment import Entry
from cld.index.table import MANIFEST, current_of, digest_of, is_digest, read_manifest, remove_index, set_current
from cld.index.writer import Writer
from cld.resource import Resource
from cld.store import Stored
from cld.uri import URI

log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
EMBEDDED_AT_ONCE = 64


class Maintainer:
    """Maintains the index in `folder` as the principal that `store` reads as, and `hear` hears as.

    Nothing heavy is imported before `keeping` runs and holds the lock. It is `ready` once the index that answers has
    all of the tree, also while that is still one of the model before.
    """

    def __init__(
        self,
        folder: Path,
        store: GuardedStore,
        hear: Hear,
        model: Model | None = None,
        *,
        choose: Callable[[Model], Embedder] = choose_embedder,
        reconcile_seconds: float = RECONCILE_SECONDS,
    ) -> None:
        self._folder = folder
        self._store = store
        self._model = model or Model()
        self._choose = choose
        self._reconcile_seconds = reconcile_seconds
        self._serving: Writer | None = None
        self._building: Writer | None = None
        self._turn = asyncio.Lock()
        self._to_merge = asyncio.Event()
        self._to_embed = asyncio.Event()
        self.keeping = Keeping("index", folder, hear, self._maintain, intact=self._is_there)
        """To be run as a task."""

    async def catch_up(self, *, anew: bool = False) -> bool:
        """Make the index true to the tree once; False where another process maintains it, and nothing was done.

        For a tree that no server is running on. An index of the model before is made anew with the one asked for only
        where that is wanted (`anew`); where the model cannot be asked, words alone are indexed.

        Raises:
            CldError, OSError: it cannot be made.
        """
        with held(self._folder) as descriptor:
            if descriptor is None:
                return False
            try:
                has_failed = not await self._open()
                await self._reconcile()
                assert self._serving is not None
                if anew or (self._serving.model == WORDS and not has_failed):
                    await self._begin_building()
                    if self._building is not None:
                        await self._reconcile()
                with contextlib.suppress(EmbeddingFailed):  # told when it was put off
                    await self._embed()
                while any([await writer.merge() for writer in self._writers()]):
                    pass
            finally:
                self._serving = self._building = None
        return True

    async def _open(self) -> bool:
        """Open the index that answers; a new one where there is none, by words alone where this returns False."""
        wanted = digest_of(self._model)
        current = current_of(self._folder)
        old = None if current in {"", wanted} else await asyncio.to_thread(read_manifest, self._folder / current)
        if old is None:
            model = self._model
            try:
                self._serving = await Writer.open(self._folder / wanted, self._choose(model))
            except EmbeddingFailed as error:
                log.warning("index: by words alone until %s can be asked: %s", model.name, error)
                model = WORDS
                self._serving = await Writer.open(self._folder / digest_of(model), self._choose(model))
            set_current(self._folder, digest_of(model))
            self._tidy(wanted, digest_of(model))
            return model == self._model
        else:
            self._serving = await Writer.open(self._folder / current, self._choose(old.model))
            self._tidy(wanted, current)
        return True

    async def _maintain(self, subscription: GuardedSubscription) -> None:
        try:
            await self._open()
            self._to_embed.set()
            await beside(follow(subscription, self._take), self._reconcile_on(), self._merge_on(), self._embed_on())
        finally:
            self._serving = self._building = None

    def _is_there(self) -> bool:
        serving = self._serving
        return serving is None or (serving.folder / MANIFEST).exists()

    async def _take(self, versions: Mapping[URI, str | None]) -> None:
        await self._index([uri for uri, version in versions.items() if self._is_stale(uri, version)])

    def _writers(self) -> list[Writer]:
        return [writer for writer in (self._serving, self._building) if writer is not None]

    def _is_stale(self, uri: URI, version: str | None) -> bool:
        return any(version is None or writer.table.version_of(uri) != version for writer in self._writers())

    async def _index(self, uris: Sequence[URI]) -> None:
        """Have the index say of each of `uris` what the tree says now."""
        if not uris:
            return
        # Reading belongs to the turn: else what was read first could be written last.
        async with self._turn:
            async for portion in read(self._store, uris):
                there = [(uri, found.version, found.resource) for uri, found in portion if isinstance(found, Stored)]
                gone = [uri for uri, found in portion if not isinstance(found, Stored)]
                await self._write(there, gone)
        self._to_merge.set()

    async def _write(self, there: Sequence[tuple[URI, str, Resource]], gone: Sequence[URI]) -> None:
        for writer in self._writers():
            fresh = [each for each in there if writer.table.version_of(each[0]) != each[1]]
            try:
                await writer.append(fresh, gone, defer=writer is self._serving)
            except EmbeddingFailed as error:
                # The old index must go on; the new one is begun again with the next reconcile.
                log.warning("index: not embedding with %s for now: %s", writer.model.name, error)
                self._building = None
            if writer.is_deferring:
                self._to_embed.set()

    async def _embed(self) -> None:
        """Embed what was indexed by words alone.

        Raises:
            EmbeddingFailed: the model cannot be asked.
        """
        while (writer := self._serving) is not None:
            waiting = await to_thread(writer.table.unembedded)
            entries: list[Entry] = []
            async for portion in read(self._store, waiting[:EMBEDDED_AT_ONCE]):
                there = [(uri, found.version, found.resource) for uri, found in portion if isinstance(found, Stored)]
                # Not in the turn, for it may take long, and what is put meanwhile is to be found by words.
                entries += await writer.embed(there)
            async with self._turn:
                if writer is self._serving and not await writer.replace(entries):
                    return  # nothing, or it changed meanwhile and is written by who saw that
            self._to_merge.set()

    async def _embed_on(self) -> None:
        wait, longest = keeping.RETRY_SECONDS
        while True:
            await self._to_embed.wait()
            self._to_embed.clear()
            try:
                await self._embed()
                wait = keeping.RETRY_SECONDS[0]
            except CldError as error:
                log.debug("index: still by words alone: %s", error)
                self._to_embed.set()
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)

    async def _reconcile_on(self) -> None:
        wait, longest = keeping.RETRY_SECONDS
        while True:
            if self._building is None:
                await self._reconcile()  # what answers has all of the tree before another is begun
            await self._begin_building()
            if self._building is not None:
                await self._reconcile()
            if self._serving is not None and self._serving.model == self._model:
                wait = keeping.RETRY_SECONDS[0]
                await asyncio.sleep(self._reconcile_seconds)
            else:
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)

    async def _begin_building(self) -> None:
        if self._serving is None or self._serving.model == self._model or self._building is not None:
            return
        try:
            self._building = await Writer.open(self._folder / digest_of(self._model), self._choose(self._model))
        except CldError as error:
            log.warning("index: %s answers until %s can: %s", self._serving.model.name, self._model.name, error)

    async def _reconcile(self) -> None:
        """Compare all of the tree with the index, by version, and make good every difference."""
        writers = self._writers()
        await reconcile(self._store, await to_thread(lambda: _versions(writers)), self._index)
        await self._swap()

    async def _swap(self) -> None:
        async with self._turn:
            for writer in self._writers():
                await writer.finish()
            if self._building is not None:
                self._serving, self._building = self._building, None
                set_current(self._folder, digest_of(self._model))
                self._tidy(digest_of(self._model))
                log.info("index: %s answers from now on", self._model.name)
        self.keeping.ready.set()

    async def _merge_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._to_merge.wait()
                idle = False
            except TimeoutError:
                idle = True
            self._to_merge.clear()
            for writer in self._writers():
                while await writer.merge(idle=idle):
                    if idle and self._to_merge.is_set():
                        break
            if idle:
                await self._to_merge.wait()

    def _tidy(self, *kept: str) -> None:
        """Remove indexes of models that are used no more; what else lies here is not ours."""
        for path in self._folder.iterdir():
            if is_digest(path.name) and path.name not in kept:
                remove_index(path)


def _versions(writers: Sequence[Writer]) -> Mapping[URI, str]:
    """The version of each resource that is indexed; none that any resource has, where the writers differ."""
    found: dict[URI, str] = {}
    for uri in {uri for writer in writers for uri in writer.table.uris()}:
        versions = {writer.table.version_of(uri) for writer in writers}
        found[uri] = versions.pop() or "" if len(versions) == 1 else ""
    return found
