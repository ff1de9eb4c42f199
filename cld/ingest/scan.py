"""The scan: which files below a folder are to be taken in, and how many were left out for which reason.

Looks at names and sizes only and opens no file but `.gitignore`. Follows no link. Blocking; called in a thread.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from cld.config import IngestLimits
from cld.ingest.files import Seen, open_below, open_root, seen_of, too_large
from cld.ingest.ignore import Ignore, ignore_of, ignored
from cld.ingest.kinds import MAIL, Kind, by_name
from cld.ingest.report import Failure

_VCS = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", "CVS"})
_GENERATED = frozenset({"node_modules", "__pycache__", "__pypackages__", "bower_components"})
_MAILDIR = ("cur", "new", "tmp")
_FLAGS = re.compile(r":2,[A-Za-z]*$")
_IGNORE_BYTES = 64 * 1024


class Found(msgspec.Struct, frozen=True):
    """A file to take in: where it lies now, and `source`, the path under which it is known.

    The two differ for mail only, which moves from new/ to cur/ and changes its flags as it is read.
    `kind` None is told by the content.
    """

    path: str
    source: str
    kind: Kind | None
    seen: Seen


@dataclass
class Scan:
    found: list[Found] = field(default_factory=list[Found])
    skipped: Counter[str] = field(default_factory=Counter[str])
    failed: list[Failure] = field(default_factory=list[Failure])


@dataclass(frozen=True)
class Selection:
    """What of a folder to look at: `scope` within it ("" for all), less `exclude` and the folders in `avoid`.

    `avoid` holds (device, inode) pairs of the tree itself; `is_known` says of a folder's absolute path whether it
    is taken in as a folder of its own.
    """

    scope: str
    exclude: Sequence[str]
    avoid: frozenset[tuple[int, int]]
    limits: IngestLimits
    is_known: Callable[[str], bool]


def scan(root: str, selection: Selection) -> Scan:
    """The files of `selection` below the folder `root`, in order of their paths.

    Raises:
        OSError: there is no such folder or scope, or it cannot be looked at.
    """
    walk = _Walk(root, selection)
    with open_root(root) as top:
        at = open_below(top, selection.scope)
        try:
            if stat.S_ISDIR(os.fstat(at).st_mode):
                ignores = _above(top, selection)
                walk.folder(at, selection.scope, ignores, selection.scope.count("/"))
            else:
                walk.file(selection.scope.rpartition("/")[2], selection.scope, os.fstat(at), in_mail=False)
        finally:
            os.close(at)
    walk.scan.found.sort(key=lambda one: one.source)
    return walk.scan


def _above(top: int, selection: Selection) -> list[Ignore]:
    """The patterns of the folders from the top down to above the scope."""
    ignores: list[Ignore] = []
    parts = selection.scope.split("/") if selection.scope else []
    for depth in range(len(parts)):
        base = "/".join(parts[:depth])
        fd = open_below(top, base, folder=True)
        try:
            ignores += _ignores_in(fd, base)
        finally:
            os.close(fd)
    return ignores


def _ignores_in(folder: int, base: str) -> list[Ignore]:
    try:
        fd = open_below(folder, ".gitignore")
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        one = ignore_of(base, os.read(fd, _IGNORE_BYTES).decode("utf-8", "replace").splitlines())
    finally:
        os.close(fd)
    return [] if one is None else [one]


class _Walk:
    def __init__(self, root: str, selection: Selection) -> None:
        self.scan = Scan()
        self._root = root
        self._selection = selection
        self._exclude = ignore_of("", selection.exclude)

    def folder(self, fd: int, base: str, ignores: list[Ignore], depth: int) -> None:
        limits = self._selection.limits
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in self._selection.avoid:
            self.scan.skipped["the tree itself"] += 1
            return
        if base != self._selection.scope and self._selection.is_known(f"{self._root}/{base}"):
            self.scan.skipped["taken in as a folder of its own"] += 1
            return
        if depth > limits.depth:
            self.scan.failed.append(Failure(base, f"folders nest deeper than {limits.depth}"))
            return
        with os.scandir(fd) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        if "pyvenv.cfg" in names:
            self.scan.skipped["generated"] += 1
            return
        if ".gitignore" in names:
            ignores = [*ignores, *_ignores_in(fd, base)]
        is_maildir = names.issuperset(_MAILDIR) and all(
            entry.is_dir(follow_symlinks=False) for entry in entries if entry.name in _MAILDIR
        )
        for entry in entries:
            path = f"{base}/{entry.name}" if base else entry.name
            try:
                self._entry(fd, entry, path, ignores, depth, is_maildir)
            except OSError as error:
                self.scan.failed.append(Failure(path, f"it cannot be looked at: {error.strerror}"))

    def _entry(
        self, fd: int, entry: "os.DirEntry[str]", path: str, ignores: list[Ignore], depth: int, is_maildir: bool
    ) -> None:
        if not _is_text(path):
            name = path.encode("utf-8", "backslashreplace").decode()
            self.scan.failed.append(Failure(name, "its name is no UTF-8; rename it"))
        elif entry.is_symlink():
            self.scan.skipped["link"] += 1
        elif reason := self._left_out(entry, path, ignores, is_maildir):
            self.scan.skipped[reason] += 1
        elif entry.is_dir(follow_symlinks=False):
            below = open_below(fd, entry.name, folder=True)
            try:
                if is_maildir and entry.name in ("cur", "new"):
                    self._mail(below, path)
                elif not (is_maildir and entry.name == "tmp"):
                    self.folder(below, path, ignores, depth + 1)
            finally:
                os.close(below)
        else:
            self.file(entry.name, path, entry.stat(follow_symlinks=False), in_mail=False)

    def _left_out(self, entry: "os.DirEntry[str]", path: str, ignores: list[Ignore], is_maildir: bool) -> str:
        if entry.name in _VCS:
            return "version control"
        # Maildir++ keeps its folders under hidden names.
        if entry.name.startswith(".") and not (is_maildir and entry.is_dir(follow_symlinks=False)):
            return "hidden"
        if entry.name in _GENERATED:
            return "generated"
        # What is asked for with the call counts more than what any file says.
        asked = [self._exclude] if self._exclude is not None else []
        return "ignored" if ignored([*ignores, *asked], path, folder=entry.is_dir(follow_symlinks=False)) else ""

    def _mail(self, fd: int, base: str) -> None:
        with os.scandir(fd) as listing:
            for entry in listing:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    path = f"{base}/{entry.name}"
                    self.file(entry.name, path, entry.stat(follow_symlinks=False), in_mail=True)

    def file(self, name: str, path: str, status: os.stat_result, *, in_mail: bool) -> None:
        limits = self._selection.limits
        kind = MAIL if in_mail else by_name(name)
        if not stat.S_ISREG(status.st_mode):
            self.scan.skipped["no plain file"] += 1
        elif isinstance(kind, str):
            self.scan.skipped[kind] += 1
        elif status.st_size == 0:
            self.scan.skipped["empty"] += 1
        elif status.st_size > limits.file_bytes:
            self.scan.failed.append(Failure(path, too_large(status.st_size, limits.file_bytes)))
        elif len(self.scan.found) >= limits.files:
            self.scan.skipped[f"more than {limits.files} files"] += 1
        else:
            source = _mail_source(path) if in_mail else path
            self.scan.found.append(Found(path, source, kind, seen_of(status)))


def _mail_source(path: str) -> str:
    """The path of a message without what changes as it is read: `in/cur/1.host:2,S` is `in/1.host`."""
    folder, _, name = path.rpartition("/")
    above = folder.rpartition("/")[0]
    name = _FLAGS.sub("", name)
    return f"{above}/{name}" if above else name


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
