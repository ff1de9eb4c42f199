"""The two Linux system calls Python has no function for: `openat2` and `renameat2`.

Both raise OSError as the functions of `os` do; where the kernel or the C library lacks them the
errno is ENOSYS. Nothing here knows what is opened or renamed.
"""

import ctypes
import errno
import os
import sys

# <linux/openat2.h>: stay below the start, follow no symbolic and no magic link, enter no other mount.
_RESOLVE = 0x08 | 0x04 | 0x02 | 0x01
_SYS_OPENAT2 = 437  # the same number on every architecture that Python runs on
_LONGEST = 4000  # PATH_MAX is 4096 with the NUL
_PATIENCE = 100
_NOREPLACE = 1
_EXCHANGE = 2


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _missing(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


_syscall = _missing
_renameat2 = None
if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
    _syscall = _libc.syscall
    _syscall.restype = ctypes.c_long  # no argtypes: every read comes by here, and converting by them costs a third
    _renameat2 = getattr(_libc, "renameat2", None)
    if _renameat2 is not None:
        _renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

_NUMBER = ctypes.c_long(_SYS_OPENAT2)
_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_How))
_hows: dict[int, bytes] = {}  # the structure for each set of flags, which the kernel only reads


def openat2(base: int, path: str, flags: int) -> int:
    """Open `path` below the folder `base`, following no link and entering no other file system.

    Raises:
        OSError: ELOOP for a link, EXDEV for what lies beyond a mount, ENOSYS where there is no openat2.
    """
    how = _hows.get(flags) or _how(flags)
    if len(path) > _LONGEST:
        return _open_long(base, path, flags)
    fd = _syscall(_NUMBER, base, path.encode(), how, _HOW_SIZE)
    turns = 0
    while fd < 0:
        # EAGAIN: something was renamed meanwhile and the kernel could not be certain; EINTR: a signal.
        code, turns = ctypes.get_errno(), turns + 1
        if code not in (errno.EAGAIN, errno.EINTR) or turns == _PATIENCE:
            raise OSError(code, os.strerror(code), path)
        fd = _syscall(_NUMBER, base, path.encode(), how, _HOW_SIZE)
    return fd


def _how(flags: int) -> bytes:
    _hows[flags] = bytes(_How(flags | os.O_CLOEXEC, 0, _RESOLVE))
    return _hows[flags]


def _open_long(base: int, path: str, flags: int) -> int:
    """Open a path longer than the kernel takes at once, from a folder half way."""
    cut = path.rfind("/", 0, _LONGEST)
    half = openat2(base, path[:cut], os.O_RDONLY | os.O_DIRECTORY)
    try:
        return openat2(half, path[cut + 1 :], flags)
    finally:
        os.close(half)


def has_openat2(folder: int) -> bool:
    """Whether the kernel, and whatever sandbox there is, lets this process use `openat2`."""
    try:
        os.close(openat2(folder, ".", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def rename_to_free_name(source: int, old: str, target: int, new: str) -> None:
    """Rename without replacing.

    Raises:
        FileExistsError: there is something at `new`.
        OSError: ENOSYS or EINVAL where this cannot be done in one step.
    """
    _rename(source, old, target, new, _NOREPLACE)


def exchange(one: int, old: str, other: int, new: str) -> None:
    """Swap two names in one step; both must be there.

    Raises:
        OSError: ENOSYS or EINVAL where this cannot be done in one step.
    """
    _rename(one, old, other, new, _EXCHANGE)


def _rename(source: int, old: str, target: int, new: str, flags: int) -> None:
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(source, old.encode(), target, new.encode(), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old, None, new)
