"""Versions that were: kept as plain files under `.cld/history`, and with whole subtrees in `.cld/trash`.

`.cld/history/<uri>.json/<time>-<version>.json` is one version; the newest may be a copy of what is
in the tree now, made when it was written over another, because an editor that saves over it asks nobody.
`.cld/trash/<time>-<random>/<path>` is what one recursive delete took, just as it lay, and the empty
file `.cld/history/<uri>.trash/<time>-<random>` says so, so that finding a version costs what its
resource and its ancestors have and not what all the trash has. Names sort by time.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cld.errors import InvalidResource
from cld.resource import Resource, decode, version_of
from cld.store import Revision
from cld.store.local_paths import FOLDER, Layout, place_of
from cld.store.local_tmp import forget, new_stem
from cld.uri import ROOT, SUFFIX, URI, parents_of

TRASHED = ".trash"
_ENTRY = re.compile(r"(\d{8}T\d{6}\.\d{9}Z)-([0-9a-f]{32})\.json")
_TRASH = re.compile(r"(\d{8}T\d{6}\.\d{9}Z)-[0-9a-f]{8}")
_WRITTEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d\.\d{6})Z")
_DAY_NS = 24 * 3600 * 1_000_000_000


class Displaced(Exception):
    """Not what was expected was in the tree; it is back there, or in the history if the editor went on."""


@dataclass(frozen=True)
class Entry:
    """One kept version: where it lies, below which of the layout's folders, and its time key."""

    base: int
    path: str
    key: str
    version: str


def key_of_time(ns: int) -> str:
    """A file name's part that sorts as time does, to the nanosecond, and that a person can read."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest:09d}Z"


def key_of_write(resource: Resource) -> str | None:
    """The key of a version that cld wrote; None when `updated_at` is nothing cld writes."""
    if (found := _WRITTEN.fullmatch(resource.updated_at)) is None:
        return None
    year, month, day, hour, minute, second = found.groups()
    return f"{year}{month}{day}T{hour}{minute}{second}500Z"


def key_before(resource: Resource) -> str | None:
    """The key of what `resource` displaced and cld had not written: just before its own."""
    key = key_of_write(resource)
    return None if key is None else key.removesuffix("500Z") + "000Z"


def is_entry(name: str) -> str | None:
    """The version that a file of this name in a history folder has, None when it is none of cld's."""
    found = _ENTRY.fullmatch(name)
    return None if found is None else found[2]


def is_trash(name: str) -> bool:
    """Whether an entry of the trash, or a note on it, has this name."""
    return _TRASH.fullmatch(name) is not None


class History:
    """The kept versions of one tree. Whoever changes them holds the lock of their URI."""

    def __init__(self, layout: Layout, *, keep: int, days: int) -> None:
        self._layout = layout
        self._keep = keep
        self.days = days

    def folder(self, uri: URI) -> int:
        """The open folder of the versions of `uri`, made where missing."""
        return self._layout.make_folder(self._layout.history, uri + SUFFIX)

    def take(
        self, name: str, uri: URI, key: str | None = None, *, folder: int | None = None, expected: str | None = None
    ) -> None:
        """Move `name` from `.cld/tmp`, where a version of `uri` was displaced to, to its place.

        `key` is its time where no copy of it is there yet (now, when not given), `folder` what
        `folder(uri)` gives, where it is open already.

        Raises:
            Displaced: it is not `expected` (None: whatever it is), and stays where it is.
        """
        try:
            data = self._layout.read(self._layout.tmp, name, uri)
        except InvalidResource:
            if expected is not None:
                raise Displaced from None
            # A link, a device, something huge: not read, hence without a version, but kept.
            self.trash_file(name, uri)
            return
        version = version_of(data)
        if expected not in (None, version):
            raise Displaced
        into = self.folder(uri) if folder is None else folder
        try:
            place = self._place(into, data, uri, version) or f"{key or key_of_time(time.time_ns())}-{version}.json"
            os.rename(name, place, src_dir_fd=self._layout.tmp, dst_dir_fd=into)
        finally:
            if folder is None:
                os.close(into)

    def key_displaced_by(self, version: str, uri: URI) -> str | None:
        """The key of what the writing of `version` displaced; None when that version is nowhere any more."""
        with suppress(FileNotFoundError, InvalidResource):
            data = self._layout.read(self._layout.root, uri + SUFFIX, uri)
            if version_of(data) == version:
                return key_before(decode(data, uri, max_bytes=self._layout.max_bytes))
        for entry in self.find(uri, version):
            with suppress(FileNotFoundError, InvalidResource):
                return key_before(decode(self.read(entry, uri), uri, max_bytes=self._layout.max_bytes))
        return None

    def _place(self, folder: int, data: bytes, uri: URI, version: str) -> str | None:
        """The name of the copy made when this version was written, if it was cld that wrote it."""
        try:
            key = key_of_write(decode(data, uri, max_bytes=self._layout.max_bytes))
        except InvalidResource:
            return None
        name = f"{key}-{version}.json"
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return name

    def trash_file(self, name: str, uri: URI) -> None:
        """Move `name` from `.cld/tmp` into the trash as the file of `uri`."""
        folder, _ = self.open_trash(uri)
        try:
            os.rename(name, place_of(uri)[1], src_dir_fd=self._layout.tmp, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def open_trash(self, uri: URI) -> tuple[int, str]:
        """A new folder in the trash that stands for the one `uri` lies in, noted so that it is found.

        Open, and with the path that stands for the root, which ends in a slash.
        """
        name = f"{key_of_time(time.time_ns())}-{os.urandom(4).hex()}"
        # The note comes first: a note without trash does no harm, trash without a note would be lost.
        notes = self._layout.make_folder(self._layout.history, uri + TRASHED)
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=notes))
            self._layout.sync_folder(notes)
        finally:
            os.close(notes)
        folder = self._layout.make_folder(self._layout.trash, f"{name}/{place_of(uri)[0]}".rstrip("/"))
        return folder, f"{name}/"

    def entries(self, uri: URI) -> list[Entry]:
        """Every kept version of `uri`, the newest first, found by name; trash is read for its versions."""
        found: dict[str, Entry] = {}
        for entry in sorted((*self._trashed(uri), *self._kept(uri)), key=lambda entry: entry.key):
            # A version may be kept twice, as a copy and in the trash; the copy's time is its own.
            if entry.version not in found or entry.base == self._layout.history:
                found.pop(entry.version, None)
                found[entry.version] = entry
        return list(reversed(found.values()))

    def find(self, uri: URI, version: str) -> Iterator[Entry]:
        """Where `version` of `uri` is kept, if anywhere."""
        yield from (entry for entry in self._kept(uri) if entry.version == version)
        yield from (entry for entry in self._trashed(uri) if entry.version == version)

    def _kept(self, uri: URI) -> Iterator[Entry]:
        path = uri + SUFFIX
        for name in self._names(path):
            if found := _ENTRY.fullmatch(name):
                yield Entry(self._layout.history, f"{path}/{name}", found[1], found[2])

    def _trashed(self, uri: URI) -> Iterator[Entry]:
        for ancestor in (*parents_of(uri), uri):
            if ancestor == ROOT:
                continue
            for name in self._names(ancestor + TRASHED):
                if found := _TRASH.fullmatch(name):
                    path = f"{name}/{uri}{SUFFIX}"
                    # What is damaged or no regular file is doctor's to report.
                    with suppress(FileNotFoundError, InvalidResource):
                        data = self._layout.read(self._layout.trash, path, uri)
                        yield Entry(self._layout.trash, path, found[1], version_of(data))

    def _names(self, path: str) -> list[str]:
        try:
            folder = self._layout.open(self._layout.history, path, FOLDER)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return []
            raise
        try:
            return os.listdir(folder)
        finally:
            os.close(folder)

    def read(self, entry: Entry, uri: URI) -> bytes:
        """The bytes of a kept version.

        Raises:
            FileNotFoundError: retention took it meanwhile.
            InvalidResource: it is damaged: no longer the bytes that its name says.
        """
        data = self._layout.read(entry.base, entry.path, uri)
        if version_of(data) != entry.version:
            raise InvalidResource(
                f"version {entry.version} of {uri} is damaged in the history; cld doctor names the file"
            )
        return data

    def revision(self, entry: Entry, uri: URI) -> Revision:
        """What `entry` says of itself; nothing but its version where it is damaged."""
        try:
            data = self._layout.read(entry.base, entry.path, uri)
        except InvalidResource:
            return Revision(version=entry.version, revision=None, at=None, by=None, size=0)
        return revision_of(data, uri, entry.version, max_bytes=self._layout.max_bytes)

    def prune(self, uri: URI, current: str | None) -> int:
        """Remove what retention no longer keeps of `uri`; how many versions went.

        A version's age counts from when it was replaced, which is when the next was written.
        """
        entries = sorted(self._kept(uri), key=lambda entry: entry.key, reverse=True)
        if not entries:
            return 0
        oldest = key_of_time(time.time_ns() - self.days * _DAY_NS)
        replaced: str | None = None
        gone = kept = 0
        folder = self.folder(uri)
        try:
            for entry in entries:
                name = f"{entry.key}-{entry.version}.json"
                if entry.version != current:
                    if kept < self._keep and (replaced or _moved(folder, name) or entry.key) >= oldest:
                        kept += 1
                    else:
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=folder)
                        gone += 1
                replaced = entry.key
        finally:
            os.close(folder)
        return gone

    def mend(self, path: str, uri: URI, data: bytes) -> None:
        """Write the copy at `path`, below the history, once more, with the bytes it should have."""
        stem = new_stem(self._layout, uri, "0" * 32)
        temporary = f"{stem}.copy"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._layout.tmp)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                self._layout.sync_file(fd)
            folder = self.folder(uri)
            try:
                os.rename(temporary, path.rpartition("/")[2], src_dir_fd=self._layout.tmp, dst_dir_fd=folder)
            finally:
                os.close(folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._layout.tmp)
            raise
        finally:
            forget(self._layout, stem)

    def is_due(self, revision: int) -> bool:
        """Whether a write of this revision should prune: often enough to stay close to `keep`, no oftener."""
        return revision % max(1, self._keep // 16) == 0


def revision_of(data: bytes, uri: URI, version: str, *, max_bytes: int, current: bool = False) -> Revision:
    """What the bytes of one version say; `revision`, `at` and `by` None when they are no valid resource."""
    try:
        resource = decode(data, uri, max_bytes=max_bytes)
    except InvalidResource:
        return Revision(version=version, revision=None, at=None, by=None, size=len(data), current=current)
    return Revision(
        version=version,
        revision=resource.revision,
        at=resource.updated_at,
        by=resource.updated_by,
        size=len(data),
        current=current,
    )


def _moved(folder: int, name: str) -> str | None:
    """When the newest version stopped being current: when it was moved to where it is."""
    try:
        return key_of_time(os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime_ns)
    except FileNotFoundError:
        return None
