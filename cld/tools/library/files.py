"""Files of the one folder that the settings grant. Nothing outside it can be reached, links included.

Everything is opened relative to a handle on the folder and no link is followed (`cld.linux`). What is
written is written beside and renamed, so that a reader sees the old or the new and a link is replaced, not followed.
"""

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from cld.linux import has_openat2, openat2
from cld.store.local_paths import FOLDER, READ, kind_of, open_walking
from cld.tools.declare import ToolContext, ToolError, tool

MAX_BYTES = 4 * 1024 * 1024
MAX_ENTRIES = 1000


class Entry(msgspec.Struct, frozen=True):
    name: str
    kind: str
    bytes: int
    modified_at: str


class Listing(msgspec.Struct, frozen=True):
    path: str
    entries: tuple[Entry, ...]
    more: int
    """How many there are beyond those shown."""


class Written(msgspec.Struct, frozen=True):
    path: str
    bytes: int


@tool(title="List files", read_only=True, open_world=False)
def file_list(context: ToolContext, path: str = "") -> Listing:
    """List a folder within the folder that was granted.

    Args:
        path: the folder, relative to the granted one; empty for that itself
    """
    return Granted(context.options["granted_folder"]).list(path)


@tool(title="Read a file", read_only=True, open_world=False)
def file_read(path: str, context: ToolContext, offset: int = 0, limit: int = 100_000) -> str:
    """Read a text file within the folder that was granted.

    Args:
        path: the file, relative to the granted folder
        offset: how many characters to leave out at its beginning
        limit: how many to read at most
    """
    text = Granted(context.options["granted_folder"]).read(path)
    return text[max(offset, 0) :][: max(limit, 0)]


@tool(title="Write a new file", destructive=False, open_world=False)
def file_write(path: str, text: str, context: ToolContext) -> Written:
    """Write a new text file, with the folders it needs, within the folder that was granted. Replaces nothing.

    Args:
        path: the file, relative to the granted folder
        text: all of its text
    """
    return Granted(context.options["granted_folder"]).write(path, text, replace=False)


@tool(title="Replace a file", destructive=True, idempotent=True, open_world=False)
def file_replace(path: str, text: str, context: ToolContext) -> Written:
    """Replace the text of a file within the folder that was granted; what was in it is gone.

    Args:
        path: the file, relative to the granted folder
        text: all of its new text
    """
    return Granted(context.options["granted_folder"]).write(path, text, replace=True)


class Granted:
    """The granted folder at `root`; the root itself may be a link, nothing below it may."""

    def __init__(self, root: str) -> None:
        self._root = root

    def list(self, path: str) -> Listing:
        with self._opened(path, FOLDER) as folder:
            found = os.listdir(folder)  # noqa: PTH208 - of an open handle, which Path knows not
            names = sorted(name for name in found if not name.startswith(_PARTIAL))
            entries = tuple(entry for name in names[:MAX_ENTRIES] if (entry := _entry(folder, name)) is not None)
        return Listing(path, entries, max(0, len(names) - MAX_ENTRIES))

    def read(self, path: str) -> str:
        with self._opened(path, READ) as file:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise ToolError(f"{path} is {kind_of(facts.st_mode)}, not a file")
            if facts.st_nlink > 1:
                raise ToolError(f"{path} has {facts.st_nlink} hard links, so it may be a file from elsewhere; copy it")
            data = b""
            while len(data) <= MAX_BYTES and (more := os.read(file, MAX_BYTES + 1 - len(data))):
                data += more
        if len(data) > MAX_BYTES:
            raise ToolError(f"{path} has {facts.st_size} bytes; at most {MAX_BYTES} are read")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ToolError(f"{path} is no text in UTF-8") from None

    def write(self, path: str, text: str, *, replace: bool) -> Written:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise ToolError("the text is no Unicode (lone surrogates)", code="invalid_argument") from None
        if len(data) > MAX_BYTES:
            raise ToolError(f"the text has {len(data)} bytes; at most {MAX_BYTES} are written")
        folder, _, name = _checked(path).rpartition("/")
        if not name:
            raise ToolError("path is empty; name a file", code="invalid_argument")
        with self._folder(folder, make=not replace) as here:
            there = _entry(here, name)
            if there is None and replace:
                raise ToolError(f"{path} is not there; file_write writes new files", code="not_found")
            if there is not None and (not replace or there.kind != "file"):
                raise _taken(path, there.kind)
            partial = f"{_PARTIAL}{secrets.token_hex(8)}"
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=here)
            try:
                with os.fdopen(fd, "wb") as file:
                    if there is not None:
                        # Who may read and run it stays as it is.
                        os.fchmod(fd, stat.S_IMODE(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode) & 0o777)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if replace:
                    os.rename(partial, name, src_dir_fd=here, dst_dir_fd=here)
                else:
                    # A link, unlike a rename, never replaces what came there meanwhile.
                    os.link(partial, name, src_dir_fd=here, dst_dir_fd=here)
                    os.unlink(partial, dir_fd=here)
            except FileExistsError:
                os.unlink(partial, dir_fd=here)
                raise _taken(path, "file") from None
            except OSError as error:
                os.unlink(partial, dir_fd=here)
                raise _refusal(error, path) from None
            except BaseException:
                os.unlink(partial, dir_fd=here)
                raise
        return Written(path, len(data))

    @contextmanager
    def _opened(self, path: str, flags: int) -> Generator[int]:
        with self._rooted() as root:
            open_below = openat2 if has_openat2(root) else open_walking
            try:
                fd = open_below(root, _checked(path) or ".", flags)
            except OSError as error:
                raise _refusal(error, path) from None
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _folder(self, path: str, *, make: bool) -> Generator[int]:
        """The folder at `path`, made where it is missing."""
        if make and path:
            above = ""
            for name in path.split("/"):
                with self._opened(above, FOLDER) as here:
                    try:
                        os.mkdir(name, dir_fd=here)
                    except FileExistsError:
                        pass
                    except OSError as error:
                        raise _refusal(error, path) from None
                above = f"{above}/{name}" if above else name
        with self._opened(path, FOLDER) as here:
            yield here

    @contextmanager
    def _rooted(self) -> Generator[int]:
        try:
            root = os.open(self._root, FOLDER)
        except OSError as error:
            raise ToolError(f"the granted folder cannot be opened ({error.strerror}); tell who runs cld") from None
        try:
            yield root
        finally:
            os.close(root)


_PARTIAL = ".cld-partial-"


def _checked(path: str) -> str:
    """`path` when it is relative and goes down only."""
    path = path.removesuffix("/")
    if not path:
        return ""
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\0" in path or not path.isprintable():
        raise ToolError(
            f"{path[:200]!r} is no path within the granted folder; write one like notes/plan.md, without . or ..",
            code="invalid_argument",
        )
    return path


def _entry(folder: int, name: str) -> Entry | None:
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    kind = "file" if stat.S_ISREG(facts.st_mode) else kind_of(facts.st_mode).removeprefix("a ")
    modified = datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    # A name that is no Unicode cannot be told, nor asked for.
    return Entry(name.encode(errors="replace").decode(), kind, facts.st_size, modified)


def _taken(path: str, kind: str) -> ToolError:
    hint = "; file_replace replaces it" if kind == "file" else ""
    return ToolError(f"there is a {kind} at {path}{hint}", code="conflict")


def _refusal(error: OSError, path: str) -> ToolError:
    match error.errno:
        case errno.ENOENT:
            return ToolError(f"there is nothing at {path}; file_list shows what is there", code="not_found")
        case errno.ELOOP:
            return ToolError(f"{path} is, or lies behind, a symbolic link; links are not followed")
        case errno.EXDEV:
            return ToolError(f"{path} lies outside the granted folder, or on another file system")
        case _:
            return ToolError(f"{path} cannot be opened: {error.strerror}")
