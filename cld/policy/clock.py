"""The clock that deadlines of evaluations are counted in; runs only while there are evaluations."""

import itertools
import threading
import time
from collections.abc import Callable

TICK = 0.005
"""Seconds between two ticks."""

_QUIET_TICKS = 40


class Clock:
    """Advances the engine's epoch while rules are being evaluated, and costs nothing when they are not.

    The thread parks itself after longer than any evaluation may take without a new one. `_last` and
    `_parked` are each written by one side and read by the other after writing its own, so that no
    evaluation is missed.
    """

    def __init__(self, advance: Callable[[], None]) -> None:
        self._advance = advance
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._started = False
        self._parked = True
        self._numbers = itertools.count()
        self._last = -1
        self._quiet_ticks = _QUIET_TICKS

    def run_for(self, ticks: int) -> None:
        """See to it that the clock runs from now on for as many ticks at least."""
        self._quiet_ticks = max(self._quiet_ticks, 2 * ticks)
        self._last = next(self._numbers)
        if self._parked:
            with self._starting:
                if not self._started:
                    self._started = True
                    threading.Thread(target=self._tick, name="policy clock", daemon=True).start()
            self._wake.set()

    def _tick(self) -> None:
        seen, quiet = -1, 0
        while True:
            if quiet > self._quiet_ticks:
                self._wake.clear()
                self._parked = True
                if self._last == seen:
                    self._wake.wait()
                quiet = 0
            self._parked = False
            time.sleep(TICK)
            self._advance()
            quiet = 0 if self._last != seen else quiet + 1
            seen = self._last
