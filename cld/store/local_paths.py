"""Where the files of a local store lie, and the only ways they are opened.

Owns the root's directory handle and those of `.cld`: everything is opened relative to them, no link
is ever followed, no other file system entered, and nothing but a regular file is read. It must not
know what the files mean.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cld import linux
from cld.errors import InvalidResource, StoreError
from cld.uri import SUFFIX, URI, parent_of

CONTROL = ".cld"
CONTROL_FOLDERS = ("tmp", "locks", "history", "trash", "index", "cache", "log")

Durability = Literal["none", "file", "full"]
Open = Callable[[int, str, int], int]

# O_NONBLOCK keeps a FIFO or a device from blocking the open; on regular files it means nothing.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_TYPE = 0o170000
ENTRY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW


def open_walking(base: int, path: str, flags: int) -> int:
    """What `linux.openat2` does, where there is none: one component at a time.

    Each folder is held open while the next is opened in it, so that no swap of a name between two
    steps can lead elsewhere.
    """
    *folders, name = path.split("/")
    device = os.fstat(base).st_dev
    here = base
    try:
        for folder in folders:
            below = _open_one(here, folder, FOLDER, device)
            if here != base:
                os.close(here)
            here = below
        return _open_one(here, name, flags, device)
    finally:
        if here != base:
            os.close(here)


def _open_one(folder: int, name: str, flags: int, device: int) -> int:
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except NotADirectoryError:
        # With O_DIRECTORY a link says ENOTDIR; callers tell links from files by ELOOP.
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return fd


@dataclass(frozen=True)
class Features:
    """What this kernel and file system can do; tests switch things off here."""

    openat2: bool
    renameat2: bool
    ignores_case: bool


@dataclass(frozen=True)
class Layout:
    """The open handles of one tree; `why_not` says why `.cld` cannot be written, where it cannot."""

    path: str
    root: int
    device: int
    inode: int
    open: Open
    features: Features
    durability: Durability
    max_bytes: int
    folders: dict[str, int]
    why_not: str = ""

    @property
    def tmp(self) -> int:
        return self.folders["tmp"]

    @property
    def history(self) -> int:
        return self.folders["history"]

    @property
    def trash(self) -> int:
        return self.folders["trash"]

    @property
    def locks(self) -> int:
        return self.folders["locks"]

    def close(self) -> None:
        for fd in (*self.folders.values(), self.root):
            os.close(fd)

    def check_root(self) -> None:
        """Refuse to go on in a folder that is no longer the one at the root's path.

        Raises:
            StoreError: it was moved, removed or replaced while open.
        """
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise StoreError(f"the root {self.path} is gone ({error.strerror}); put it back and restart") from error
        if now.st_ino != self.inode or now.st_dev != self.device:
            raise StoreError(f"the root {self.path} was replaced by another folder while in use; restart to use it")

    def sync_file(self, fd: int) -> None:
        if self.durability != "none":
            _flush(fd)

    def sync_folder(self, fd: int) -> None:
        if self.durability == "full":
            _flush(fd)

    def open_folder(self, base: int, path: str) -> int:
        """Open a folder that is there; `base` itself, anew, for the empty path."""
        return self.open(base, path or ".", FOLDER)

    def make_folder(self, base: int, path: str) -> int:
        """Open the folder `path` below `base`, making what is missing of it, durably under `full`."""
        if not path:
            return os.dup(base)
        try:
            return self.open(base, path, FOLDER)
        except FileNotFoundError:
            pass
        here = os.dup(base)
        try:
            for name in path.split("/"):
                try:
                    os.mkdir(name, 0o777 if base == self.root else 0o700, dir_fd=here)
                except FileExistsError:
                    pass
                else:
                    self.sync_folder(here)
                below = self.open(here, name, FOLDER)
                os.close(here)
                here = below
            return here
        except BaseException:
            os.close(here)
            raise

    def read(self, base: int, path: str, uri: URI) -> bytes:
        """All bytes of a regular file.

        Raises:
            FileNotFoundError: nothing there.
            InvalidResource: a link, a hard link, anything but a regular file, or too large; unread.
            OSError: the storage failed.
        """
        try:
            fd = self.open(base, path, READ)
        except OSError as error:
            raise refusal(error, uri) from error
        try:
            return read_regular(fd, uri, self.max_bytes)
        finally:
            os.close(fd)


def read_regular(fd: int, uri: URI, max_bytes: int) -> bytes:
    """All bytes of an open file, refused as in `Layout.read`."""
    facts = os.fstat(fd)
    size = facts.st_size
    # The usual case in as few steps as can be: every read of the store goes through here.
    if facts.st_mode & _TYPE == stat.S_IFREG and facts.st_nlink < 2 and size <= max_bytes:
        # One byte more than it should have tells a file that is growing.
        data = os.read(fd, size + 1)
        if len(data) == size:
            return data
        return _read_on(fd, data, uri, max_bytes)
    if not stat.S_ISREG(facts.st_mode):
        raise InvalidResource(f"the file of {uri} is {kind_of(facts.st_mode)}, not a regular file; remove it")
    if facts.st_nlink > 1:
        raise HardLinked(
            f"the file of {uri} has {facts.st_nlink} hard links, so it may be a file from outside the tree; "
            "replace it by a copy"
        )
    raise _too_large(uri, size, max_bytes)


def _read_on(fd: int, data: bytes, uri: URI, max_bytes: int) -> bytes:
    """The whole of a file that is being written in place, or was cut, as far as it is there now."""
    while len(data) <= max_bytes and (more := os.read(fd, max_bytes + 1 - len(data))):
        data += more
    if len(data) > max_bytes:
        raise _too_large(uri, len(data), max_bytes)
    return data


def _too_large(uri: URI, size: int, max_bytes: int) -> InvalidResource:
    return InvalidResource(f"{uri} has {size} bytes; at most {max_bytes} are allowed (limits.body_bytes)")


class HardLinked(InvalidResource):
    """A file with a second name: from outside, or, without `renameat2`, being created this instant."""


def refusal(error: OSError, uri: URI) -> Exception:
    """What `error`, met on opening the file of `uri`, means to whoever asked for it."""
    match error.errno:
        case errno.ELOOP:
            return InvalidResource(f"{uri} is, or lies behind, a symbolic link; links are never followed, remove it")
        case errno.EXDEV:
            return InvalidResource(f"{uri} lies on another file system, mounted inside the tree; unmount it")
        case errno.ENXIO | errno.EOPNOTSUPP | errno.ENODEV:
            return InvalidResource(f"the file of {uri} is a socket or device, not a regular file; remove it")
        case errno.ENOTDIR:
            # A file where a folder would be: below it there is nothing.
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(uri))
        case _:
            return error


def kind_of(mode: int) -> str:
    """What a thing of this mode is, in words."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a regular file")


def place_of(uri: URI) -> tuple[str, str]:
    """The folder, relative to the root, and the name in it of the resource's file."""
    parent = parent_of(uri)
    if len(parent) == len("cld:"):
        return "", uri + SUFFIX
    return parent, uri[len(parent) + 1 :] + SUFFIX


def _flush(fd: int) -> None:
    # macOS's fsync leaves the data in the drive's cache.
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def open_layout(path: str, *, durability: Durability, max_bytes: int, features: Features | None = None) -> Layout:
    """Open the tree at `path`, making it and its `.cld` where they are missing and may be made.

    The root itself may be a symbolic link, resolved here once; nothing below it may.

    Raises:
        StoreError: there is no such folder and none can be made, or `.cld` is no plain folder of it.
    """
    try:
        os.makedirs(path, exist_ok=True)
        root = os.open(path, FOLDER)
    except OSError as error:
        raise StoreError(f"the root {path} cannot be opened: {error.strerror}; name another folder") from error
    folders: dict[str, int] = {}
    try:
        why_not = _open_control(root, path, folders)
        if features is None:
            features = Features(
                openat2=linux.has_openat2(root),
                renameat2=sys.platform == "linux",
                ignores_case=_ignores_case(root),
            )
        facts = os.fstat(root)
        return Layout(
            path=path,
            root=root,
            device=facts.st_dev,
            inode=facts.st_ino,
            open=linux.openat2 if features.openat2 else open_walking,
            features=features,
            durability=durability,
            max_bytes=max_bytes,
            folders=folders,
            why_not=why_not,
        )
    except BaseException:
        for fd in (*folders.values(), root):
            os.close(fd)
        raise


def _open_control(root: int, path: str, folders: dict[str, int]) -> str:
    """Fill `folders`; the reason where the tree cannot be written."""
    why_not = ""
    for name in (CONTROL, *(f"{CONTROL}/{folder}" for folder in CONTROL_FOLDERS)):
        try:
            os.mkdir(name, 0o700, dir_fd=root)
        except FileExistsError:
            pass
        except OSError as error:
            why_not = f"{path}/{name} cannot be made: {error.strerror}"
            break
        try:
            fd = open_walking(root, name, FOLDER)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                why_not = f"{path}/{name} cannot be opened: {error.strerror}"
                break
            raise StoreError(
                f"{path}/{name} must be a plain folder on the root's own file system ({error.strerror}); remove it"
            ) from error
        if name == CONTROL:
            os.close(fd)
        else:
            folders[name.rpartition("/")[2]] = fd
    tmp = f"{CONTROL}/tmp"  # noqa: S108 - of the tree, not the system's
    if not why_not and not os.access(tmp, os.W_OK, dir_fd=root, effective_ids=_EFFECTIVE):
        why_not = f"{path}/{CONTROL} cannot be written"
    return why_not


_EFFECTIVE = os.access in os.supports_effective_ids


def _ignores_case(root: int) -> bool:
    """Whether `.CLD` is the `.cld` that is known to be there."""
    try:
        found = os.stat(CONTROL.upper(), dir_fd=root, follow_symlinks=False)
    except OSError:
        return False
    return found.st_ino == os.stat(CONTROL, dir_fd=root, follow_symlinks=False).st_ino
