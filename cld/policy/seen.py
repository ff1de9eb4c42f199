"""Files as they were last seen, and whether they are still so: cheap enough to ask before every decision.

A file that changed twice within one tick of the file system's clock can look the same to `stat`. So a
file that was young when it was read is read again until it is old enough for any further change to
show (the method of git's index, https://git-scm.com/docs/racy-git).
"""

import os
import sys
import time
from pathlib import Path

from cld.policy.lock import digest

RACY_NS = 2_000_000_000
"""Younger than this, a file's times prove nothing; FAT's clock ticks every two seconds."""


class Seen:
    """One file's bytes as read at one time; None for a file that could not be read, with `why`.

    While young, the file is read again each time it is asked about; with `lazily` only once it is old.
    """

    def __init__(self, file: Path, *, lazily: bool = False) -> None:
        self.file = file
        self._lazily = lazily
        self._path = os.fspath(file)
        # Before reading: a change in between then shows as a difference, not as the state seen.
        self._signature, self._changed_ns = self._look()
        self.why = ""
        try:
            self.data: bytes | None = file.read_bytes()
        except OSError as error:
            self.data = None
            self.why = f"{file.name} cannot be read: {error.strerror or error}"
        self.digest = "" if self.data is None else digest(self.data)
        self._settled = self._is_old()

    def is_current(self) -> bool:
        """Whether the file still is what was seen; about a microsecond."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - Path.stat takes twice as long
        except OSError:
            return self._signature is None
        if (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns) != self._signature:
            return False
        return self._settled or self._is_same()

    def _is_same(self) -> bool:
        old = self._is_old()
        if self._lazily and not old:
            return True
        try:
            same = digest(self.file.read_bytes()) == self.digest
        except OSError:
            same = False
        self._settled = same and old
        return same

    def _look(self) -> tuple[tuple[int, int, int, int] | None, int]:
        try:
            status = self.file.stat()
        except OSError:
            return None, 0
        # On Windows ctime is when the file was made.
        changed = status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns
        return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns), changed

    def _is_old(self) -> bool:
        # Times from the future prove nothing either.
        return time.time_ns() - self._changed_ns >= RACY_NS
