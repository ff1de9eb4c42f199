"""Files below a folder: opened one path element at a time, so that no link leads out of it, and read with bounds.

Plain `os` calls relative to a directory handle, on purpose; blocking, so called in threads.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from cld.errors import CldError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# On the way a folder need not be readable, where the kernel can go through one without reading it.
_THROUGH = _FOLDER | getattr(os, "O_PATH", 0)
# A pipe put where a file was must not hold up the open.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_TRIES = 3


class Unreadable(CldError):
    """A file that cannot be taken as it is; the message is the reason told to the person."""

    code = "unreadable"


class Seen(msgspec.Struct, frozen=True):
    """By what a file that did not change is known without reading it: times in nanoseconds."""

    size: int
    modified_ns: int
    changed_ns: int


class Read(msgspec.Struct, frozen=True):
    data: bytes
    digest: str
    seen: Seen


def seen_of(status: os.stat_result) -> Seen:
    return Seen(size=status.st_size, modified_ns=status.st_mtime_ns, changed_ns=status.st_ctime_ns)


@contextmanager
def open_root(root: str) -> Generator[int]:
    """A handle of the folder at the absolute path `root`, in which there must be no link either.

    It was resolved when it was checked; what has become a link since is not followed.
    """
    top = os.open("/", _THROUGH)
    try:
        fd = open_below(top, root.strip("/"), folder=True)
    finally:
        os.close(top)
    try:
        yield fd
    finally:
        os.close(fd)


def open_below(root: int, path: str, *, folder: bool = False) -> int:
    """A handle of what lies at `path` below the folder `root`, following no link on the way nor at the end.

    Raises:
        OSError: there is none, or a link is in the way.
    """
    if not path:
        return os.open(".", _FOLDER, dir_fd=root)
    at = os.dup(root)
    try:
        *through, last = path.split("/")
        if {"", ".", ".."}.intersection((*through, last)):
            raise OSError(errno.EINVAL, "no plain path", path)
        for part, flags in (*((part, _THROUGH) for part in through), (last, _FOLDER if folder else _FILE)):
            below = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = below
        return at
    except OSError:
        os.close(at)
        raise


def read(root: str, path: str, most: int) -> Read:
    """The file's bytes, all of one moment.

    Raises:
        Unreadable: it is gone, no plain file, too large, or never stands still; says which.
    """
    try:
        with open_root(root) as folder:
            fd = open_below(folder, path)
    except OSError as error:
        raise Unreadable(_why(error)) from None
    try:
        for _ in range(_TRIES):
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise Unreadable("it is no plain file")
            if before.st_size > most:
                raise Unreadable(too_large(before.st_size, most))
            data = _read(fd, most)
            if seen_of(before) == seen_of(os.fstat(fd)) and len(data) == before.st_size:
                return Read(data, hashlib.sha256(data).hexdigest(), seen_of(before))
        raise Unreadable("it is being written to; ingest again when it is complete")
    except OSError as error:
        raise Unreadable(_why(error)) from None
    finally:
        os.close(fd)


def too_large(size: int, most: int) -> str:
    return f"it has {size} bytes; at most {most} are taken (ingest.file_bytes)"


def _read(fd: int, most: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    parts: list[bytes] = []
    left = most + 1
    while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _why(error: OSError) -> str:
    match error.errno:
        case errno.ELOOP | errno.ENOTDIR:
            return "a link is in its way, and links are not followed"
        case errno.ENOENT:
            return "it is gone"
        case _:
            return f"it cannot be read: {error.strerror}"
