"""The table: which segments there are, and what of each still counts. For any number of reading processes.

The manifest names the segments, oldest first, and is replaced in one step; comparing its stamp tells
whether anything changed. Views are never changed once given out: whoever holds one goes on with what it
says, also when files it stands on have been removed since.
"""

import hashlib
import os
import shutil
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cld.index import BrokenIndex, Model
from cld.index.arrays import Mask, np
from cld.index.segment import Segment, open_segment
from cld.uri import URI

FORMAT = 3
"""Counts up whenever another program would read the files, or compute the vectors or words, otherwise."""

MANIFEST = "manifest"
CURRENT = "current"

_DOCUMENT_BITS = 24
_DOCUMENT = (1 << _DOCUMENT_BITS) - 1


class Manifest(msgspec.Struct, frozen=True):
    """What one index is made of. `background` is how similar texts are that have nothing to do with each other."""

    model: Model
    dimensions: int
    background: float
    segments: tuple[str, ...] = ()
    complete: bool = False


class _Written(msgspec.Struct, frozen=True):
    format: int
    checksum: int
    manifest: msgspec.Raw


class View(msgspec.Struct, frozen=True):
    """The index at one moment: each segment with the mask of its documents that still count."""

    manifest: Manifest
    parts: "tuple[tuple[Segment, Mask], ...]" = ()


class Table:
    """One index in one folder, read; `refresh` takes over what was written since. Safe among threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp = (0, 0, 0)
        self._manifest: Manifest | None = None
        self._serial = 0
        self._segments: dict[str, tuple[int, Segment]] = {}
        self._alive: dict[str, Mask] = {}
        self._places: dict[URI, int] = {}
        self._numbered: dict[int, str] = {}
        self._lock = threading.Lock()

    def refresh(self) -> View | None:
        """What there is now; None where there is no index.

        Raises:
            BrokenIndex: it cannot be read.
        """
        with self._lock:
            return self._refresh()

    def _refresh(self) -> View | None:
        for _ in range(5):
            try:
                with (self.folder / MANIFEST).open("rb") as file:
                    facts = os.fstat(file.fileno())
                    stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
                    if stamp == self._stamp:
                        break
                    manifest = _decoded(file.read())
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                raise BrokenIndex(f"{self.folder / MANIFEST} cannot be read: {error}") from error
            try:
                self._take(manifest)
            except BrokenIndex:
                # Merged away between the two: then the manifest is another by now.
                if self._is_at(stamp):
                    raise
                continue
            self._stamp = stamp
            break
        return self._view()

    def version_of(self, uri: URI) -> str | None:
        """The version that is indexed, None for none."""
        with self._lock:
            if (place := self._places.get(uri)) is None:
                return None
            _, segment = self._segments[self._numbered[place >> _DOCUMENT_BITS]]
            return segment.version_of(place & _DOCUMENT)

    def uris(self) -> Sequence[URI]:
        """All that is indexed."""
        with self._lock:
            return list(self._places)

    def unembedded(self) -> Sequence[URI]:
        """What is indexed without vectors, which are to be made later."""
        with self._lock:
            return [
                segment.uris[number]
                for name, (_, segment) in self._segments.items()
                for number in np.flatnonzero(segment.unembedded & self._alive[name]).tolist()
            ]

    def __len__(self) -> int:
        return len(self._places)

    def _view(self) -> View | None:
        if self._manifest is None:
            return None
        names = self._manifest.segments
        return View(self._manifest, tuple((self._segments[name][1], self._alive[name]) for name in names))

    def _is_at(self, stamp: tuple[int, int, int]) -> bool:
        with suppress(FileNotFoundError):
            facts = (self.folder / MANIFEST).stat()
            return (facts.st_ino, facts.st_mtime_ns, facts.st_size) == stamp
        return False

    def _take(self, manifest: Manifest) -> None:
        """Make what is known what `manifest` says; costs what came and went."""
        opened = {name: open_segment(self.folder, name) for name in manifest.segments if name not in self._segments}
        order = {name: at for at, name in enumerate(manifest.segments)}
        changed: set[str] = set()
        for name, segment in opened.items():
            self._serial += 1
            self._segments[name] = self._serial, segment
            self._numbered[self._serial] = name
            self._alive[name] = np.ones(len(segment.uris), np.bool_)
        for name, segment in opened.items():
            self._apply(name, segment, order, changed)
        for name in [name for name in self._segments if name not in order]:
            serial, segment = self._segments.pop(name)
            del self._alive[name]
            for uri in segment.uris:
                place = self._places.get(uri)
                if place is not None and place >> _DOCUMENT_BITS == serial:
                    del self._places[uri]
            del self._numbered[serial]
        self._manifest = manifest

    def _apply(self, name: str, segment: Segment, order: dict[str, int], changed: set[str]) -> None:
        mine = order[name]
        serial = self._segments[name][0]
        later = {uri for other, at in order.items() if at > mine for uri in self._segments[other][1].removed}
        for number, uri in enumerate(segment.uris):
            if uri in later:
                # Merged while it was removed. (What was put after that is in a segment later still.)
                self._bury(name, number, changed)
                continue
            place = self._places.get(uri)
            if place is not None and (there := order.get(self._numbered[place >> _DOCUMENT_BITS])) is not None:
                if there > mine:
                    self._bury(name, number, changed)
                    continue
                self._bury(self._numbered[place >> _DOCUMENT_BITS], place & _DOCUMENT, changed)
            self._places[uri] = serial << _DOCUMENT_BITS | number
        for uri in segment.removed:
            place = self._places.get(uri)
            if place is None:
                continue
            other = self._numbered[place >> _DOCUMENT_BITS]
            if order.get(other, -1) < mine:
                if other in order:
                    self._bury(other, place & _DOCUMENT, changed)
                del self._places[uri]

    def _bury(self, name: str, number: int, changed: set[str]) -> None:
        if name not in changed:
            # Views given out keep the mask they have.
            self._alive[name] = self._alive[name].copy()
            changed.add(name)
        self._alive[name][number] = False


def digest_of(model: Model) -> str:
    """The folder's name of the index made with `model`."""
    return hashlib.sha256(msgspec.json.encode([FORMAT, model])).hexdigest()[:16]


def current_of(root: Path) -> str:
    """Which index answers, empty for none yet."""
    with suppress(OSError, ValueError):
        text = (root / CURRENT).read_text("ascii").strip()
        if is_digest(text):
            return text
    return ""


def is_digest(name: str) -> bool:
    """Whether an index's folder may have this name."""
    return len(name) == 16 and not set(name) - set("0123456789abcdef")


def set_current(root: Path, digest: str) -> None:
    """Have this index answer from now on, in one step."""
    replace_file(root / CURRENT, digest.encode())


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, flushed before."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_manifest(folder: Path) -> Manifest | None:
    """What the index in `folder` is made of, None where there is none that can be read."""
    try:
        return _decoded((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Have the index in `folder` be made of this, in one step."""
    data = msgspec.json.encode(manifest)
    replace_file(folder / MANIFEST, msgspec.json.encode(_Written(FORMAT, zlib.crc32(data), msgspec.Raw(data))))


def _decoded(data: bytes) -> Manifest:
    """Raises ValueError where it is not as it was written, or was by a program that writes another format."""
    written = msgspec.json.decode(data, type=_Written)
    if written.format != FORMAT:
        raise ValueError(f"it has format {written.format}, not {FORMAT}")
    if zlib.crc32(written.manifest) != written.checksum:
        raise ValueError("it is not as it was written")
    return msgspec.json.decode(written.manifest, type=Manifest)


def remove_index(folder: Path) -> None:
    """Remove an index that nobody is to use any more; its manifest first, so that none opens half of it."""
    with suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)
