"""The lock that says which process maintains an index. It goes with its holder, however that ends."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"


@contextmanager
def held(folder: Path) -> Generator[int | None]:
    """The descriptor of the lock in `folder` while it is held; None where another holds it. Makes the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            # Removed while it was being opened, it is not what others would lock.
            yield descriptor if is_still_there(folder, descriptor) else None
    finally:
        os.close(descriptor)


def is_still_there(folder: Path, descriptor: int) -> bool:
    """Whether the file that was locked is still the one that others would lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
    except FileNotFoundError:
        return False
