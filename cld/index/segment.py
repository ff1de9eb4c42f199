"""Segments: the index's files. Each is written once, whole, and then only read, mapped into memory.

A segment says of some resources what is to be found by (vectors and words of their passages), and of
others that they went. What it says counts over every segment before it.

File: the magic, the length and checksum of a header in JSON, the header, and the arrays it lists,
each at a multiple of 64 bytes.
"""

import mmap
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from cld.index import BrokenIndex
from cld.index.arrays import Floats, Hashes, Mask, Numbers, Shorts, np
from cld.index.passages import Passage
from cld.index.words import BODY, NAME, TITLE, hash_of, words_of
from cld.uri import URI

MAX_ROWS = 16_384
"""A segment of more passages is not made by merging: it bounds what merging costs in memory."""

SCALE = 4000.0
"""Vectors are kept as whole numbers, this long. All products and sums over two of them then stay below
2^24, so that float32 computes them exactly, in whatever order: no score depends on its neighbours."""

POSITION_BITS = 12
PLACE = (1 << POSITION_BITS) - 1
_MAGIC = b"cldindex"
_ALIGN = 64


class Entry(msgspec.Struct, frozen=True):
    """What the index knows of one resource: one row of `vectors` (whole numbers) and of `words` for each passage."""

    uri: URI
    version: str
    vectors: Shorts
    words: Sequence["tuple[Hashes, Numbers]"]
    lengths: Sequence[int]
    embedded: bool = True
    """False where the model could not be asked: the vectors are zeros, and to be made later."""


class _Array(msgspec.Struct, frozen=True):
    offset: int
    kind: str
    shape: tuple[int, ...]


class _Header(msgspec.Struct, frozen=True):
    size: int
    checksum: int
    arrays: dict[str, _Array]


class Segment:
    """A segment as it was written, open until it is forgotten; reading it takes no lock.

    Of each resource (a *document*): `uris`, sorted, `versions`, the `starts` of its rows, and whether its vectors are
    still to be made (`unembedded`). Of each row:
    `vectors`, `lengths` (words of the text), `documents`. Of each word, by its hash in `terms`: the keys from
    `postings[i]` to `postings[i + 1]`, row and position in one number. `removed` are those that went.
    """

    def __init__(self, name: str, arrays: Mapping[str, Any], uris: Sequence[URI], removed: Sequence[URI]) -> None:
        self.name = name
        self.uris = uris
        self.removed = removed
        self.versions = arrays["versions"]
        self.starts: Numbers = arrays["starts"]
        self.unembedded: Mask = arrays["unembedded"]
        self.vectors: Shorts = arrays["vectors"]
        self.lengths: Numbers = arrays["lengths"]
        self.terms: Hashes = arrays["terms"]
        self.postings: Numbers = arrays["postings"]
        self.keys: Numbers = arrays["keys"]
        self.documents: Numbers = np.repeat(np.arange(len(uris), dtype=np.uint32), np.diff(self.starts))
        self._types: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def version_of(self, document: int) -> str:
        return cast("bytes", self.versions[document]).decode()

    def part_of(self, row: int) -> int:
        """Which passage of its resource the row is."""
        return row - int(self.starts[self.documents[row]])

    def keys_of(self, term: int) -> Numbers:
        """Where the word stands: row and position, ascending."""
        wanted = np.uint64(term)
        at = int(np.searchsorted(self.terms, wanted))
        if at == len(self.terms) or self.terms[at] != wanted:
            return self.keys[:0]
        return self.keys[int(self.postings[at]) : int(self.postings[at + 1])]


def quantise(vectors: Floats) -> Shorts:
    """Vectors of length one as the whole numbers that are kept and compared."""
    return np.rint(vectors * np.float32(SCALE)).astype(np.int16)


def words_in(passage: Passage) -> "tuple[Hashes, Numbers, int]":
    """Hashes and positions of the passage's words, and how many words its text has."""
    hashes: list[int] = []
    positions: list[int] = []
    last = -1
    for first, end, text in (
        (BODY, TITLE, passage.text),
        (TITLE, NAME, passage.title),
        (NAME, 1 << POSITION_BITS, passage.name),
    ):
        for position, word in words_of(text):
            if first + position >= end:
                break
            hashes.append(hash_of(word))
            positions.append(first + position)
            if first == BODY:
                last = position
    return np.array(hashes, np.uint64), np.array(positions, np.uint32), last + 1


def write_segment(folder: Path, name: str, entries: Sequence[Entry], removed: Iterable[URI], dimensions: int) -> int:
    """Write what was read of some resources; the file's size. It counts once the manifest names it."""
    entries = sorted(entries, key=lambda entry: entry.uri)
    row = 0
    terms: list[Hashes] = []
    keys: list[Numbers] = []
    for entry in entries:
        for hashes, positions in entry.words:
            terms.append(hashes)
            keys.append((np.uint32(row) << np.uint32(POSITION_BITS)) | positions)
            row += 1
    all_terms = np.concatenate(terms) if terms else np.zeros(0, np.uint64)
    all_keys = np.concatenate(keys) if keys else np.zeros(0, np.uint32)
    unique, numbers = np.unique(all_terms, return_inverse=True)
    arrays = _posted(unique, numbers, all_keys)
    arrays["vectors"] = (
        np.concatenate([entry.vectors for entry in entries]) if entries else np.zeros((0, dimensions), np.int16)
    )
    arrays["lengths"] = np.array([length for entry in entries for length in entry.lengths], np.uint32)
    counts = [len(entry.words) for entry in entries]
    arrays["unembedded"] = np.array([not entry.embedded for entry in entries], np.bool_)
    return _write(folder, name, arrays, [e.uri for e in entries], [e.version for e in entries], counts, removed)


def merge_segments(
    folder: Path, name: str, parts: "Sequence[tuple[Segment, Mask]]", removed: Iterable[URI], dimensions: int
) -> int:
    """Write one segment from what still counts of several: each with a mask of its documents; the file's size."""
    order = sorted(
        (segment.uris[number], index, number)
        for index, (segment, alive) in enumerate(parts)
        for number in np.flatnonzero(alive).tolist()
    )
    counts = [0] * len(order)
    places = [np.zeros(segment.rows, np.int64) - 1 for segment, _ in parts]
    row = 0
    for at, (_, index, number) in enumerate(order):
        starts = parts[index][0].starts
        first, end = int(starts[number]), int(starts[number + 1])
        counts[at] = end - first
        places[index][first:end] = np.arange(row, row + end - first)
        row += end - first
    vectors = np.empty((row, dimensions), np.int16)
    lengths = np.empty(row, np.uint32)
    unique = np.unique(np.concatenate([segment.terms for segment, _ in parts]))
    keys: list[Numbers] = []
    numbers: list[Numbers] = []
    for (segment, _), place in zip(parts, places, strict=True):
        kept = place >= 0
        vectors[place[kept]] = segment.vectors[kept]
        lengths[place[kept]] = segment.lengths[kept]
        old = segment.keys
        rows = place[old >> np.uint32(POSITION_BITS)]
        some = rows >= 0
        keys.append((rows[some].astype(np.uint32) << np.uint32(POSITION_BITS)) | (old[some] & np.uint32(PLACE)))
        number = np.searchsorted(unique, segment.terms).astype(np.uint32)
        numbers.append(np.repeat(number, np.diff(segment.postings))[some])
    arrays = _posted(unique, np.concatenate(numbers), np.concatenate(keys))
    arrays["vectors"], arrays["lengths"] = vectors, lengths
    arrays["unembedded"] = np.array([parts[index][0].unembedded[number] for _, index, number in order], np.bool_)
    uris = [uri for uri, _, _ in order]
    versions = [parts[index][0].version_of(number) for _, index, number in order]
    return _write(folder, name, arrays, uris, versions, counts, removed)


def _posted(unique: Hashes, numbers: Any, keys: Numbers) -> dict[str, Any]:
    """Words and their places in order; `numbers` says which of `unique` each key is of."""
    # One array of whole numbers, sorted in place, takes half the memory of sorting one by another.
    both = numbers.astype(np.uint64)
    both <<= np.uint64(32)
    both |= keys
    both.sort()
    counts = np.bincount((both >> np.uint64(32)).astype(np.intp), minlength=len(unique))
    used = counts > 0
    postings = np.zeros(int(used.sum()) + 1, np.uint32)
    postings[1:] = np.cumsum(counts[used])
    return {"terms": unique[used], "postings": postings, "keys": both.astype(np.uint32)}


def _write(
    folder: Path,
    name: str,
    arrays: dict[str, Any],
    uris: Sequence[URI],
    versions: Sequence[str],
    counts: Sequence[int],
    removed: Iterable[URI],
) -> int:
    starts = np.zeros(len(counts) + 1, np.uint32)
    starts[1:] = np.cumsum(counts)
    arrays["starts"] = starts
    arrays["versions"] = np.array([version.encode() for version in versions], "S")
    arrays["uris"] = np.frombuffer("\n".join(uris).encode(), np.uint8)
    arrays["removed"] = np.frombuffer("\n".join(sorted(removed)).encode(), np.uint8)
    listed: dict[str, _Array] = {}
    offset = checksum = 0
    for key, array in arrays.items():
        listed[key] = _Array(offset, array.dtype.str, array.shape)
        arrays[key] = array = np.ascontiguousarray(array)
        checksum = zlib.crc32(_bytes_of(array), checksum)
        offset += _padded(array.nbytes)
    header = msgspec.json.encode(_Header(offset, checksum, listed))
    with (folder / name).open("xb") as file:
        file.write(_MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little") + header)
        file.write(bytes(_padded(file.tell()) - file.tell()))
        for array in arrays.values():
            array.tofile(file)
            file.write(bytes(_padded(array.nbytes) - array.nbytes))
        file.flush()
        # Before the manifest names it, or a power cut could leave the name of an empty file.
        os.fsync(file.fileno())
        return file.tell()


def open_segment(folder: Path, name: str) -> Segment:
    """The segment, once all its bytes were compared with their checksum, which takes 50 ms for 100 MB.

    Raises:
        BrokenIndex: it is not there, or not as it was written.
    """
    try:
        with (folder / name).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length, checksum = int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")
        written = data[16 : 16 + length]
        if data[:8] != _MAGIC or zlib.crc32(written) != checksum:
            raise BrokenIndex(f"{name} is no segment of the index")
        header = msgspec.json.decode(written, type=_Header)
        first = _padded(16 + length)
        if len(data) != first + header.size:
            raise BrokenIndex(f"{name} has {len(data)} bytes, not {first + header.size}")
        arrays = {
            key: np.ndarray(each.shape, np.dtype(each.kind), data, first + each.offset)
            for key, each in header.arrays.items()
        }
        checksum = 0
        for array in arrays.values():
            checksum = zlib.crc32(_bytes_of(array), checksum)
        if checksum != header.checksum:
            raise BrokenIndex(f"{name} is not as it was written")
        return Segment(name, arrays, _lines(arrays["uris"]), _lines(arrays["removed"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenIndex(f"{name} cannot be read: {error}") from error


def _lines(array: Any) -> list[URI]:
    text = array.tobytes().decode()
    return cast("list[URI]", text.split("\n")) if text else []


def _bytes_of(array: Any) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
