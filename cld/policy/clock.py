"""The clock that deadlines of evaluations are counted in; runs only while there are evaluations."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

TICK = 0.005
"""Seconds between two ticks."""

_QUIET_TICKS = 40


class Clock:
    """Advances the engine's epoch while rules are being evaluated, and costs nothing when they are not.

    Its thread starts with the first evaluation and parks itself a while after the last one ended, so
    that evaluations in quick succession do not wake it each time.
    """

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._running = 0
        self._begun = 0
        self.parked = True

    @contextmanager
    def running(self) -> Generator[None]:
        """For as long as this is entered the clock runs."""
        with self._lock:
            self._running += 1
            self._begun += 1
            if self.parked:
                self._unpark()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _unpark(self) -> None:
        self.parked = False
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, name="policy clock", daemon=True)
            self._thread.start()

    def _tick(self) -> None:
        seen = quiet = 0
        while True:
            time.sleep(TICK)
            self._advance()
            with self._lock:
                quiet = 0 if self._running or self._begun != seen else quiet + 1
                seen = self._begun
                if quiet > _QUIET_TICKS:
                    self.parked = True
                    self._wake.clear()
                    quiet = 0
            self._wake.wait()
