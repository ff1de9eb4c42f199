"""Writing an index: batches become segments, segments are merged. For the one process that holds the lock."""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path

import msgspec

from cld.events.pace import to_thread
from cld.index import BrokenIndex, Embedder, EmbeddingFailed, Model
from cld.index.arrays import Floats, Hashes, Mask, Numbers, Shorts, np
from cld.index.passages import passages_of
from cld.index.segment import MAX_ROWS, Entry, Segment, merge_segments, quantise, words_in, write_segment
from cld.index.table import MANIFEST, Manifest, Table, View, write_manifest
from cld.resource import Resource, new_id
from cld.uri import URI

log = logging.getLogger(__name__)

EMBED_SECONDS = 10.0
"""How long a write waits for the model before it goes on without vectors, which are then made later."""

FAN_IN = 6
"""So many segments of like size are merged into one."""

PORTION_BYTES = 8 * 1024 * 1024
"""So much of resources, as JSON, is embedded and written at a time; a larger one by itself.

However many its caller gives."""

_SMALLEST = 64
_UNRELATED = (
    "The recipe needs two eggs, flour, butter and a pinch of salt.",
    "Glaciers in the valley have retreated since the last century.",
    "She tuned the violin before the orchestra began to play.",
    "Interest rates were raised by a quarter of a point.",
    "The goalkeeper saved the penalty in the final minute.",
    "A new bridge across the river opens to traffic in spring.",
    "Vaccination protects children against measles.",
    "The function returns an error when the file is missing.",
)


class Writer:
    """One index, written: `append` and `merge` may run beside each other, each only once at a time.

    Made by `open`; whoever makes one holds the lock of the tree's index.
    """

    def __init__(self, folder: Path, embedder: Embedder, manifest: Manifest, table: Table, view: View) -> None:
        self.folder = folder
        self.table = table
        self._embedder = embedder
        self._manifest = manifest
        self._view = view
        self._changing = asyncio.Lock()
        self.is_deferring = False
        """Whether the model could not be asked, and is not asked by `append` until `embed` succeeds."""

    @classmethod
    async def open(cls, folder: Path, embedder: Embedder) -> "Writer":
        """The index in `folder`, or an empty one where there is none or it cannot be read.

        Raises:
            EmbeddingFailed, OSError: a new one cannot be begun.
        """
        table = Table(folder)
        try:
            view = await to_thread(table.refresh)
        except BrokenIndex as error:
            log.warning("index: %s; it is made anew", error)
            table, view = Table(folder), None
        if view is None:
            vectors = await _within(embedder.embed(_UNRELATED), embedder.model)
            alike = np.asarray(vectors @ vectors.T, np.float64)
            count = len(_UNRELATED)
            background = float((alike.sum() - np.trace(alike)) / (count * (count - 1)))
            manifest = Manifest(embedder.model, int(vectors.shape[1]), round(background, 4))
            view = await to_thread(lambda: _begin(table, manifest))
        assert view is not None
        writer = cls(folder, embedder, view.manifest, table, view)
        writer._sweep()
        return writer

    @property
    def model(self) -> Model:
        return self._manifest.model

    @property
    def complete(self) -> bool:
        """Whether all of the tree has been indexed once."""
        return self._manifest.complete

    async def append(
        self, resources: Sequence[tuple[URI, str, Resource]], removed: Sequence[URI] = (), *, defer: bool = False
    ) -> None:
        """Index these resources as they are at the version given, in place of what was known of them.

        With `defer`, those whose vectors cannot be had soon are found by words until `embed` makes the vectors.

        Raises:
            EmbeddingFailed, OSError: only some of them were indexed.
        """
        gone = [uri for uri in removed if self.table.version_of(uri) is not None]
        for some in _portions(resources):
            await self._append(await self._entries(some, defer=defer), gone)
            gone = []

    async def embed(self, resources: Sequence[tuple[URI, str, Resource]]) -> Sequence[Entry]:
        """What is known of resources once they are embedded, for `replace`; may run beside all else.

        Raises:
            EmbeddingFailed: the model cannot be asked.
        """
        entries = await self._entries(resources)
        self.is_deferring = False
        return entries

    async def replace(self, entries: Sequence[Entry]) -> bool:
        """Put in those that are still of the version that is indexed; whether there were any."""
        fresh = [entry for entry in entries if self.table.version_of(entry.uri) == entry.version]
        await self._append(fresh, ())
        return bool(fresh)

    async def _append(self, entries: Sequence[Entry], gone: Sequence[URI]) -> None:
        if not entries and not gone:
            return
        name = new_id()
        await to_thread(lambda: write_segment(self.folder, name, entries, gone, self._manifest.dimensions))
        async with self._changing:
            await self._commit((*self._manifest.segments, name))

    async def finish(self) -> None:
        """Note that all of the tree is indexed.

        Raises:
            BrokenIndex: the files are not as they were written.
        """
        async with self._changing:
            # This process does not look at them again, and those that begin now could not read them.
            await to_thread(Table(self.folder).refresh)
            if not self._manifest.complete:
                self._manifest = msgspec.structs.replace(self._manifest, complete=True)
                await self._commit(self._manifest.segments)

    async def merge(self, *, idle: bool = False) -> bool:
        """Merge some segments, if there are enough that are alike; whether there were. When `idle`, two are enough."""
        view = self._view
        run = choose_run(view, 2 if idle else FAN_IN)
        if run is None:
            return False
        parts = view.parts[run[0] : run[1]]
        # Those that went are forgotten only where nothing older can still speak of them.
        removed = {uri for segment, _ in parts for uri in segment.removed} if run[0] else set[URI]()
        name = new_id()
        written = bool(removed) or any(alive.any() for _, alive in parts)
        if written:
            await to_thread(lambda: merge_segments(self.folder, name, parts, removed, self._manifest.dimensions))
        merged = [segment.name for segment, _ in parts]
        async with self._changing:
            names = self._manifest.segments
            at = names.index(merged[0])
            assert list(names[at : at + len(merged)]) == merged
            kept = (name,) if written else ()
            await self._commit((*names[:at], *kept, *names[at + len(merged) :]))
            for old in merged:
                # Readers that have it open keep it until they let it go.
                (self.folder / old).unlink(missing_ok=True)
        return True

    async def _commit(self, names: tuple[str, ...]) -> None:
        manifest = msgspec.structs.replace(self._manifest, segments=names)

        def write() -> View | None:
            write_manifest(self.folder, manifest)
            return self.table.refresh()

        view = await to_thread(write)
        assert view is not None
        self._manifest, self._view = manifest, view

    async def _entries(self, resources: Sequence[tuple[URI, str, Resource]], *, defer: bool = False) -> list[Entry]:
        prepared = await to_thread(lambda: [_read(resource) for _, _, resource in resources])
        texts = [text for titled, _ in prepared for text in titled]
        vectors = np.zeros((len(texts), self._manifest.dimensions), np.int16)
        if texts and not (defer and self.is_deferring):
            try:
                vectors = await self._vectors(texts, defer=defer)
            except EmbeddingFailed as error:
                if not defer:
                    raise
                log.warning("index: by words alone for now: %s", error)
                self.is_deferring = True
        embedded = not (defer and self.is_deferring)
        entries: list[Entry] = []
        at = 0
        for (uri, version, _), (titled, words) in zip(resources, prepared, strict=True):
            mine = vectors[at : at + len(titled)]
            at += len(titled)
            hashed, lengths = [(h, p) for h, p, _ in words], [n for _, _, n in words]
            entries.append(Entry(uri, version, mine, hashed, lengths, embedded or not titled))
        return entries

    async def _vectors(self, texts: Sequence[str], *, defer: bool) -> Shorts:
        asked = self._embedder.embed(texts)
        vectors = quantise(await (_within(asked, self.model) if defer else asked))
        if vectors.shape[1] != self._manifest.dimensions:
            raise EmbeddingFailed(f"{self.model.name} gives {vectors.shape[1]} dimensions, not as before")
        return vectors

    def _sweep(self) -> None:
        """Remove segments that no manifest names: left by a maintainer that died in between."""
        known = {MANIFEST, *self._manifest.segments}
        for path in self.folder.iterdir():
            # A folder is not ours.
            if path.name not in known and (path.is_symlink() or not path.is_dir()):
                path.unlink(missing_ok=True)


async def _within(asked: Awaitable[Floats], model: Model) -> Floats:
    try:
        async with asyncio.timeout(EMBED_SECONDS):
            return await asked
    except TimeoutError:
        raise EmbeddingFailed(f"{model.name} did not answer within {EMBED_SECONDS:g} s") from None


def choose_run(view: View, fan_in: int) -> tuple[int, int] | None:
    """Which segments, from and to, are worth merging: many small ones of like size, or one that is mostly dead."""
    sizes = [_living_rows(segment, alive) for segment, alive in view.parts]
    for level in range(12):
        bound = _SMALLEST * 4**level
        end = len(sizes)
        while end > 0:
            first = end
            total = 0
            while first > 0 and sizes[first - 1] <= bound and total + sizes[first - 1] <= MAX_ROWS:
                first -= 1
                total += sizes[first]
            # Not a big one again and again for the sake of a few small ones.
            if end - first >= fan_in and total >= 1.25 * max(sizes[first:end], default=0):
                return first, end
            end = min(first, end - 1)
    for at, (segment, _) in enumerate(view.parts):
        if segment.rows > 2 * sizes[at]:
            return at, at + 1
    return None


def _living_rows(segment: Segment, alive: Mask) -> int:
    return int(np.diff(segment.starts)[alive].sum())


def _portions(resources: Sequence[tuple[URI, str, Resource]]) -> Iterator[Sequence[tuple[URI, str, Resource]]]:
    """The resources, so many at a time that neither memory nor a segment's rows are exceeded; one portion of none."""
    some: list[tuple[URI, str, Resource]] = []
    size = 0
    for one in resources:
        before, size = size, size + len(msgspec.json.encode(one[2].content))
        if some and size > PORTION_BYTES:
            yield some
            some, size = [], size - before
        some.append(one)
    yield some


def _read(resource: Resource) -> "tuple[list[str], list[tuple[Hashes, Numbers, int]]]":
    """Of each of the resource's passages: the text to embed, and its words."""
    passages = passages_of(resource)
    return [passage.titled for passage in passages], [words_in(passage) for passage in passages]


def _begin(table: Table, manifest: Manifest) -> View | None:
    table.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_manifest(table.folder, manifest)
    return table.refresh()
