"""What tells whether a file is still the one that was seen: its times, size and number, quickly.

`os.stat` lets other threads run meanwhile, and in a process whose other threads are writing then waits for
its turn: thirty times as long as the look itself. It is asked before every decision, so on Linux the same
question is put without that. Owns nothing but the question.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable

Facts = tuple[int, ...]
"""Of a file that is there: changes with everything that happens to it."""

Look = Callable[[], Facts | None]
"""Of one path: when the file there was changed last, in nanoseconds, and what else would show a change; None when
it cannot be asked."""

# <linux/stat.h>, the same on every architecture: number and size, and when it was changed and written.
_AT_FDCWD, _BASIC, _SIZE = -100, 0x7FF, 256
_STATX = struct.Struct("=32x QQ 48x qI4x qI")


def look_by_stat(path: str) -> Look:
    def look() -> Facts | None:
        try:
            status = os.stat(path)  # noqa: PTH116 - Path.stat takes twice as long
        except OSError:
            return None
        # On Windows ctime is when the file was made.
        changed = status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns
        return changed, status.st_mtime_ns, status.st_size, status.st_ino

    return look


def _by_statx() -> Callable[[str], Look] | None:
    """The same through `statx`; None where there is none."""
    if sys.platform != "linux":
        return None
    # The functions of a PyDLL are called without letting go of the interpreter.
    statx = getattr(ctypes.PyDLL(None), "statx", None)
    if statx is None:
        return None

    def look_by_statx(path: str) -> Look:
        name = ctypes.c_char_p(os.fsencode(path))
        base, flags, mask = ctypes.c_int(_AT_FDCWD), ctypes.c_int(0), ctypes.c_uint(_BASIC)
        found = ctypes.create_string_buffer(_SIZE)
        unpack = _STATX.unpack_from

        def look() -> Facts | None:
            if statx(base, name, flags, mask, found) != 0:
                return None
            number, length, changed, changed_ns, written, written_ns = unpack(found)
            return changed * 1_000_000_000 + changed_ns, written * 1_000_000_000 + written_ns, length, number

        return look

    # Whatever sandbox there is may not know the call.
    return look_by_statx if look_by_statx(os.curdir)() == look_by_stat(os.curdir)() else None


look_at: Callable[[str], Look] = _by_statx() or look_by_stat
