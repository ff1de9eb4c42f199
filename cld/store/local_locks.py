"""Locks among threads and processes: one of 256 files per URI, held by `flock`.

A lock goes with its holder, however that ends, so none is ever stale. Each taking opens the file
anew: `flock` belongs to the open file, and a handle kept open would be shared with whoever forks.
"""

import fcntl
import os
import zlib
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from cld.uri import URI

SLOTS = 256


class Locks:
    """The lock files in one folder."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, uri: URI) -> Generator[None]:
        """Hold the lock of `uri`; blocks the thread until it is free."""
        fd = self._take(slot_of(uri), fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(fd)

    @contextmanager
    def hold_all(self) -> Generator[None]:
        """Hold every lock: nobody writes anything meanwhile. Always taken in the same order."""
        with ExitStack() as held:
            for slot in range(SLOTS):
                held.callback(os.close, self._take(slot, fcntl.LOCK_EX))
            yield

    @contextmanager
    def hold_if_free(self, uri: URI) -> Generator[bool]:
        """Hold the lock of `uri` where nobody does; whether it is held now."""
        try:
            fd = self._take(slot_of(uri), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            os.close(fd)

    def _take(self, slot: int, how: int) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(f"{slot:02x}", flags, 0o600, dir_fd=self._folder)
            try:
                fcntl.flock(fd, how)
                # Whoever tidies up may have removed the file while we waited; others then lock another.
                if os.fstat(fd).st_nlink:
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def slot_of(uri: URI) -> int:
    """Which lock file stands for `uri`; the same in every process."""
    return zlib.crc32(uri.encode()) % SLOTS
