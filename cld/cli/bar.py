"""The progress bar: one line on standard error, on a terminal only, and gone when the work is done."""

import shutil
import time
from typing import TextIO

from cld.cli.terminal import safe_line

_DRAW_SECONDS = 0.1
_WIDTH = 24


class Bar:
    """Draws `done` of `total` and what is being done, ten times a second at most; clears itself on leaving."""

    def __init__(self, out: TextIO, *, shown: bool) -> None:
        self._out = out
        self._shown = shown and out.isatty()
        self._drawn_at = 0.0
        self._is_drawn = False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def draw(self, done: int, total: int, doing: str) -> None:
        now = time.monotonic()
        if not self._shown or (now - self._drawn_at < _DRAW_SECONDS and done < total):
            return
        full = _WIDTH * done // max(total, 1)
        head = f"[{'#' * full}{'.' * (_WIDTH - full)}] {done}/{total} "
        # One column stays free: in the last one terminals wrap.
        room = shutil.get_terminal_size().columns - len(head) - 1
        doing = safe_line(doing)
        tail = doing if len(doing) <= room else f"…{doing[len(doing) - room + 1 :]}" if room > 1 else ""
        self._out.write(f"\r{head}{tail}\x1b[K")
        self._out.flush()
        self._drawn_at = now
        self._is_drawn = True
