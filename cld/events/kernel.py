"""The system calls of inotify, through ctypes: a queue that folders are added to and events are read from.

Knows descriptors and numbers, no paths and no URIs. Flags and layout are those of inotify(7).
"""

import ctypes
import os
import struct
from typing import NamedTuple

MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
CLOSE_WRITE = 0x8
SELF = 0x400 | 0x800  # DELETE_SELF, MOVE_SELF
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
ISDIR = 0x40000000
_ONLYDIR = 0x01000000
_EXCL_UNLINK = 0x04000000

# Nothing that reading causes, so that no scan makes events; CLOSE_WRITE because many editors save in
# place. A store's write costs nothing for it: its temporary files lie where nobody watches.
MASK = CREATE | MOVED_TO | MOVED_FROM | DELETE | CLOSE_WRITE | SELF | _ONLYDIR | _EXCL_UNLINK

_HEAD = struct.Struct("iIII")
# Some 500 events, a few milliseconds of work; what is more is read in the next round of the loop.
_READ_BYTES = 32 * 1024


class Raw(NamedTuple):
    """One event: of which watch, what, and the name in that folder (empty for the folder itself)."""

    wd: int
    mask: int
    name: str


class Inotify:
    """One queue of the kernel; `fd` is readable when events wait.

    Raises (on making one):
        OSError: the system has no inotify, or this user has no more queues.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            init = self._libc.inotify_init1
        except AttributeError:
            raise OSError("this system has no inotify") from None
        self.fd: int = init(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error()

    def add(self, folder: int) -> int:
        """Watch the folder that is open as `folder`; the number its events will carry, one per folder.

        Raises:
            OSError: ENOSPC at the limit of watches.
        """
        # By descriptor: a path could lead elsewhere by now, through a link or a folder moved in.
        wd: int = self._libc.inotify_add_watch(self.fd, b"/proc/self/fd/%d" % folder, MASK)
        if wd < 0:
            raise _error()
        return wd

    def remove(self, wd: int) -> None:
        """Watch no longer; nothing for a folder that is gone, which the kernel has removed itself."""
        self._libc.inotify_rm_watch(self.fd, wd)

    def read(self) -> list[Raw]:
        """What waits, at most one buffer of it; empty when nothing does."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return []
        found: list[Raw] = []
        at = 0
        while at < len(data):
            wd, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            found.append(Raw(wd, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
            at += length
        return found

    def close(self) -> None:
        """Give the queue back; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
