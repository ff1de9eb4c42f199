"""A bound on the memory of this process, which ends it: for workers that run what anyone wrote."""

import os
import resource
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

OUT_OF_MEMORY = 71
"""Exit code of a process that took more memory than it may."""

_TICK_SECONDS = 0.01


class Memory:
    """Ends this process when it has grown by more than `most` bytes since `watched` began.

    A thread looks, which works because the engine lets other threads run while it evaluates.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = 0
        # Opened now: later nothing can be.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else -1
        self._page = os.sysconf("SC_PAGE_SIZE")
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def watched(self) -> Generator[None]:
        self._limit = self._used() + self._most
        try:
            yield
        finally:
            self._limit = 0

    def _used(self) -> int:
        if self._statm >= 0:
            return int(os.pread(self._statm, 256, 0).split()[1]) * self._page
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            # Read once: it may be over by the time that the other is known.
            if (limit := self._limit) and self._used() > limit:
                os._exit(OUT_OF_MEMORY)
