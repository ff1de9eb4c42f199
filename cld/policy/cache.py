"""The private cache of rules compiled to native code. Only ever a folder of this user's that nobody else can write.

What lies here is executed as it is, so it is never in the tree or beside the rules, and a folder
that another user owns or may write to is not used at all.
"""

import contextlib
import hashlib
import os
import platform
import stat
import sys
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path | None:
    """The folder `name` of this user's cache for cld, made with mode 0700; None where none can be trusted."""
    if sys.platform == "win32" or not hasattr(os, "geteuid"):
        return None  # no owner and mode to check; compiling again is the safe way
    try:
        folder = _user_cache() / "cld" / name
        for one in (folder.parent, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = one.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return None
    except (OSError, RuntimeError):
        return None
    return folder


def _user_cache() -> Path:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def compiled_file(folder: Path, digest: str, library: Path) -> Path | None:
    """Where native code for the wasm with this digest lies, or would; None when what lies there is not ours.

    Its name depends on the wasm, on the wasmtime that made it and on the CPU it was made for.
    """
    key = hashlib.sha256("\0".join((digest, _version(library), _cpu())).encode()).hexdigest()
    file = folder / f"{key}.cwasm"
    try:
        status = file.lstat()
    except FileNotFoundError:
        return file
    except OSError:
        return None
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return file if ours else None


def keep(file: Path, code: bytes | bytearray) -> None:
    """Write `code` whole or not at all; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(code)
                out.flush()
                # Without it a power cut can leave a file of zeros under the right name.
                os.fsync(out.fileno())
            Path(name).replace(file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _version(library: Path) -> str:
    """The installed wasmtime: the name of its metadata folder, which costs less than reading it."""
    package = library.parent
    found = sorted(one.name for one in package.parent.glob("wasmtime-*.dist-info"))
    binaries = sorted(
        f"{one.name}:{one.stat().st_size}:{one.stat().st_mtime_ns}" for one in package.glob("*/*wasmtime.*")
    )
    return ",".join((*found, *binaries))


def _cpu() -> str:
    """The machine and, where it can be asked cheaply, the features of its processor."""
    features = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
        features = "".join(line for line in info.read(8192).splitlines() if line.startswith(("flags", "Features")))
    return f"{platform.machine()} {features}"
