"""Files: what lies in a local tree now, for the bus to compare. Reads only, and never follows a link.

A file is opened in one step that follows no link, or, where the system has none, every folder on the way is opened
relative to the one before with O_NOFOLLOW; so whatever is swapped in between, nothing outside the root is ever read.
The root itself is opened by its path each time: a root that was moved away and replaced is seen as what it is now.
"""

import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from pathlib import Path

from cld import linux
from cld.errors import InvalidURI
from cld.events import UNTRUSTED, Listing, Look
from cld.events.pace import in_thread
from cld.resource import MAX_BYTES, version_of
from cld.uri import ROOT, SUFFIX, URI, parse_uri

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening gives where there is nothing, or a link, which is nothing to us."""

SECRET = frozenset({errno.EACCES, errno.EPERM})

# A file that is written twice within one tick of the file system's clock keeps its times. The tick
# is 10 ms at most on today's Linux file systems and 2 s on those that keep whole (even) seconds.
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_100_000_000
_SECOND_NS = 1_000_000_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a fifo must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files:
    """The `Tree` of a local folder; `max_bytes` is up to which size a file is read for its version."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def look(self, uri: URI) -> Look | None:
        """As `Tree.look`; small enough (some 20 µs) to be done on the event loop."""
        try:
            if (file := self._open(uri)) is not None:
                return _look_in(file, self._max_bytes)
            with open_folder(self._root, segments_of(uri)[:-1]) as folder:
                return _look_at(folder, segments_of(uri)[-1] + SUFFIX, self._max_bytes)
        except OSError as error:
            if error.errno in GONE:
                return None
            if error.errno in SECRET:
                return Look(_stamp(0, 0, 0, 0), None)
            raise

    def _open(self, uri: URI) -> int | None:
        """The file in one step; None where only going there folder by folder tells more.

        Raises:
            OSError: it is not there (`GONE`).
        """
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.openat2(root, uri + SUFFIX, _FILE)
        except OSError as error:
            if error.errno in GONE:
                raise
            return None
        finally:
            os.close(root)

    async def scan(self, prefixes: Sequence[URI]) -> AsyncGenerator[Listing, None]:
        """As `Tree.scan`, with the disk read in a thread."""
        with closing(self._listings(prefixes)) as steps:
            async with aclosing(in_thread(steps)) as batches:
                async for batch in batches:
                    for listing in batch:
                        yield listing

    def _listings(self, prefixes: Sequence[URI]) -> Generator[Listing, None, None]:
        for prefix in prefixes:
            try:
                with open_folder(self._root, segments_of(prefix)) as folder:
                    yield from _listings_below(prefix, folder)
            except OSError as error:
                if error.errno in GONE:
                    yield Listing(prefix, {}, frozenset())
                elif error.errno not in SECRET:
                    raise


def segments_of(uri: URI) -> list[str]:
    """The folders that lead from the root to what is below `uri`; the last, with `.json`, is its file."""
    return [] if uri == ROOT else uri.split("/")


def child_of(folder: URI, name: str) -> URI | None:
    """The URI whose folder is `name` in `folder`; None for a name that is none, such as `.cld`."""
    try:
        return parse_uri(name if folder == ROOT else f"{folder}/{name}")
    except InvalidURI:
        return None


@contextmanager
def open_folder(root: Path, segments: Sequence[str]) -> Generator[int, None, None]:
    """A descriptor of the folder that `segments` lead to, closed after.

    Raises:
        OSError: it is not there (`GONE`), or cannot be opened.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for segment in segments:
            below = open_below(folder, segment)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def open_below(folder: int, name: str) -> int:
    """A descriptor of the folder `name` in `folder`, which is no link."""
    return os.open(name, _FOLDER, dir_fd=folder)


def _look_at(folder: int, name: str, max_bytes: int) -> Look | None:
    """Raises OSError as the system gives it."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno not in SECRET:
            raise
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return Look(_stamp_of(found), None) if stat.S_ISREG(found.st_mode) else None
    return _look_in(file, max_bytes)


def _look_in(file: int, max_bytes: int) -> Look | None:
    """Of an open file, which is closed after."""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return None
        data = _read(file, found.st_size, max_bytes)
        return Look(_stamp_of(found), None if data is None else version_of(data))
    finally:
        os.close(file)


def _read(file: int, size: int, max_bytes: int) -> bytes | None:
    """All of the file, None when it is too large."""
    data = bytearray()
    # One byte more than there should be: a full read, with no second call, is how the end is known.
    while part := os.read(file, max(size + 1 - len(data), 4096)):
        data += part
        if len(data) > max_bytes:
            return None
        if len(data) == size:
            break
    return bytes(data)


def _listings_below(uri: URI, folder: int) -> Iterator[Listing]:
    """The listing of `folder`, and of all below it."""
    files: dict[str, bytes] = {}
    folders: list[tuple[str, URI]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                name = entry.name[: -len(SUFFIX)]
                if child_of(uri, name) is not None and (stamp := _stamp_in(entry)) is not None:
                    files[_element(uri, name)] = stamp
            elif (below := child_of(uri, entry.name)) is not None and entry.is_dir(follow_symlinks=False):
                folders.append((entry.name, below))
    yield Listing(uri, files, frozenset(_element(uri, name) for name, _ in folders))
    for name, below in folders:
        try:
            inner = open_below(folder, name)
        except OSError as error:
            if error.errno in GONE:
                yield Listing(below, {}, frozenset())
            elif error.errno not in SECRET:
                raise
            continue
        try:
            yield from _listings_below(below, inner)
        finally:
            os.close(inner)


def _element(folder: URI, name: str) -> str:
    """The element that a name is: names in the root carry the scheme."""
    return name[len(ROOT) :] if folder == ROOT else name


def _stamp_in(entry: os.DirEntry[str]) -> bytes | None:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _stamp_of(found) if stat.S_ISREG(found.st_mode) else None


def _stamp_of(found: os.stat_result) -> bytes:
    times = found.st_mtime_ns, found.st_ctime_ns
    tick = _TICK_NS if found.st_ctime_ns % _SECOND_NS else _COARSE_TICK_NS
    if time.time_ns() - max(times) < tick:
        return UNTRUSTED
    return _stamp(found.st_ino, found.st_size, *times)


def _stamp(*identity: int) -> bytes:
    # 64 bits of the tuple's hash instead of 32 bytes: a snapshot keeps one for every file.
    return (hash(identity) & 0xFFFF_FFFF_FFFF_FFFF or 1).to_bytes(8, "little")
