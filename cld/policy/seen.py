"""Files as they were last seen, and whether they are still so: cheap enough to ask before every decision.

A file that changed twice within one tick of the file system's clock can look the same to `stat`. So a
file that was young when it was read is read again until it is old enough for any further change to
show (the method of git's index, https://git-scm.com/docs/racy-git).
"""

import os
import time
from pathlib import Path

from cld.policy.facts import look_at
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
        self._look = look_at(os.fspath(file))
        # Before reading: a change in between then shows as a difference, not as the state seen.
        self._facts = self._look()
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
        if (now := self._look()) is None or now != self._facts:
            return now is self._facts
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

    def _is_old(self) -> bool:
        changed_ns = 0 if self._facts is None else self._facts[0]
        # Times from the future prove nothing either.
        return time.time_ns() - changed_ns >= RACY_NS
