"""How a file of the tree is created, replaced and removed: in one step each, and losing nothing.

A new version is written whole into `.cld/tmp`, flushed, and only then takes its name. To replace, the
two names are exchanged: what was there comes out, is compared with what the writer expected, and
becomes history. If an editor saved in between, the two are exchanged back, and whatever comes out
then is looked at again, so that the editor's newest version ends up in the tree and every other in
the history. Everything here is called with the lock of the URI held, and blocks.

What the names in `.cld/tmp` mean is `local_tmp`.

Without `renameat2` the old version is first copied to the history, durably, and then renamed over.
An editor that saves between the comparison and that rename, a few microseconds, is not noticed; that
is why Linux does it the other way.
"""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from cld import linux
from cld.errors import InvalidResource, StoreError
from cld.resource import Resource
from cld.store.local_history import Displaced, History, key_before, key_of_write
from cld.store.local_paths import ENTRY, FOLDER, Layout, place_of
from cld.store.local_tmp import forget, new_stem
from cld.uri import SUFFIX, URI

_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
# An editor would have to save this often within as many microseconds to be given up on.
_PATIENCE = 100


class Writer:
    """Changes single files of the tree of `layout`."""

    def __init__(self, layout: Layout, history: History) -> None:
        self._layout = layout
        self._history = history

    def create(self, resource: Resource, data: bytes, version: str) -> None:
        """Make the file, durably.

        Raises:
            FileExistsError: there is something already.
            OSError: the storage failed.
        """
        uri = URI(resource.uri)
        with self._folder(uri) as (folder, name), self._temporary(uri, version, data) as (stem, _):
            self.link(self._layout.tmp, f"{stem}.new", folder, name)
            self._acknowledge(uri, folder)

    def replace(
        self, resource: Resource, data: bytes, version: str, *, expected: str | None, mode: int, old: bytes | None
    ) -> None:
        """Put the new version where `expected` is (None: whatever is there), durably.

        `mode` are the permissions to keep, `old` the bytes there as far as the caller knows.

        Raises:
            Displaced: another version than `expected` was there.
            FileNotFoundError: nothing was there.
            OSError: the storage failed.
        """
        uri = URI(resource.uri)
        with self._folder(uri) as (folder, name), self._temporary(uri, version, data, mode) as (stem, ours):
            with self._copied(uri, stem, resource, data, version) as kept:
                self._swap(uri, stem, ours, folder, name, resource, expected, old, kept)
            self._acknowledge(uri, folder)

    def remove(self, uri: URI, *, expected: str | None) -> None:
        """Move the file to the history, durably, if it is `expected` (None: whatever it is).

        Raises:
            Displaced, FileNotFoundError, OSError: as `replace`.
        """
        stem = new_stem(self._layout, uri, "0" * 32)
        gone = f"{stem}.gone"
        with self._folder(uri) as (folder, name):
            try:
                os.rename(name, gone, src_dir_fd=folder, dst_dir_fd=self._layout.tmp)
                try:
                    self._history.take(gone, uri, expected=expected)
                except (Displaced, OSError):
                    self._give_back(gone, folder, name, uri)
                    raise
            finally:
                forget(self._layout, stem)
            # What is left below holds no resource; an empty folder goes, a person's files stay.
            with suppress(OSError):
                os.rmdir(name.removesuffix(SUFFIX), dir_fd=folder)
            self._acknowledge(uri, folder)

    def _give_back(self, gone: str, folder: int, name: str, uri: URI) -> None:
        try:
            self.link(self._layout.tmp, gone, folder, name)
        except FileExistsError:
            # Saved again meanwhile: that is the newer one, and this one history.
            self._history.take(gone, uri)

    def _swap(
        self,
        uri: URI,
        stem: str,
        ours: int,
        folder: int,
        name: str,
        resource: Resource,
        expected: str | None,
        old: bytes | None,
        kept: int,
    ) -> None:
        tmp, swap = self._layout.tmp, f"{stem}.swap"
        if not self._layout.features.renameat2:
            self._rename_over(uri, stem, folder, name, resource, expected, old, kept)
            return
        # From here on recovery must not throw the name away unseen.
        os.rename(f"{stem}.new", swap, src_dir_fd=tmp, dst_dir_fd=tmp)
        try:
            linux.exchange(tmp, swap, folder, name)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            os.rename(swap, f"{stem}.new", src_dir_fd=tmp, dst_dir_fd=tmp)
            self._rename_over(uri, stem, folder, name, resource, expected, old, kept)
            return
        try:
            self._history.take(swap, uri, key_before(resource), folder=kept, expected=expected)
        except BaseException:
            self._swap_back(uri, swap, ours, folder, name)
            raise

    def _swap_back(self, uri: URI, swap: str, ours: int, folder: int, name: str) -> None:
        """Undo an exchange, leaving the newest of what others saved meanwhile in the tree.

        `last` is what we put at `name` last. If that does not come out again, somebody saved over it,
        and what comes out is newer than what we just put back: exchange once more.
        """
        tmp = self._layout.tmp
        # Open handles keep the inode numbers from being used again while they are compared.
        held = [os.dup(ours)]
        try:
            for _ in range(_PATIENCE):
                held.append(os.open(swap, ENTRY, dir_fd=tmp))
                try:
                    linux.exchange(tmp, swap, folder, name)
                except FileNotFoundError:
                    break  # removed by hand, which is the last word; what we hold becomes history
                if os.path.samestat(os.stat(swap, dir_fd=tmp, follow_symlinks=False), os.fstat(held[-2])):
                    break
            if not os.path.samestat(os.stat(swap, dir_fd=tmp, follow_symlinks=False), os.fstat(ours)):
                self._history.take(swap, uri)
        finally:
            for fd in held:
                os.close(fd)

    def _rename_over(
        self,
        uri: URI,
        stem: str,
        folder: int,
        name: str,
        resource: Resource,
        expected: str | None,
        old: bytes | None,
        kept: int,
    ) -> None:
        tmp = self._layout.tmp
        if old is None:
            # What cannot be read cannot be copied: it is moved out of the way, which readers may see.
            self._move_away(uri, folder, name)
            self.link(self._layout.tmp, f"{stem}.new", folder, name)
            return
        # A copy, so that one that a crash cuts short is thrown away and not taken for a version.
        keep = f"{new_stem(self._layout, uri, '0' * 32)}.copy"
        os.close(self._write(keep, old))
        try:
            self._history.take(keep, uri, key_before(resource), folder=kept)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(keep, dir_fd=tmp)
            raise
        finally:
            forget(self._layout, keep)
        self._layout.sync_folder(kept)
        try:
            now = self._layout.read(self._layout.root, uri + SUFFIX, uri)
        except InvalidResource:
            raise Displaced from None
        if now != old:
            if expected is not None:
                raise Displaced
            self._rename_over(uri, stem, folder, name, resource, expected, now, kept)
            return
        os.rename(f"{stem}.new", name, src_dir_fd=tmp, dst_dir_fd=folder)

    def _move_away(self, uri: URI, folder: int, name: str) -> None:
        gone = f"{new_stem(self._layout, uri, '0' * 32)}.gone"
        os.rename(name, gone, src_dir_fd=folder, dst_dir_fd=self._layout.tmp)
        self._history.take(gone, uri)

    def link(self, source: int, name: str, folder: int, target: str) -> None:
        """Rename `name` in the folder `source` to the free name `target` in `folder`.

        Raises:
            FileExistsError: it is not free.
        """
        if self._layout.features.renameat2:
            try:
                linux.rename_to_free_name(source, name, folder, target)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
            else:
                return
        try:
            os.link(name, target, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            # No links either (FAT): the lock keeps other writers of cld away, nothing keeps an editor.
            try:
                os.stat(target, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, target, src_dir_fd=source, dst_dir_fd=folder)
                return
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.unlink(name, dir_fd=source)

    @contextmanager
    def _folder(self, uri: URI) -> Generator[tuple[int, str]]:
        """The open folder that the file of `uri` lies in, made where missing, and the file's name."""
        path, name = place_of(uri)
        folder = self._layout.make_folder(self._layout.root, path)
        try:
            yield folder, name
        finally:
            os.close(folder)

    @contextmanager
    def _history_folder(self, uri: URI) -> Generator[int]:
        folder = self._history.folder(uri)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _temporary(self, uri: URI, version: str, data: bytes, mode: int | None = None) -> Generator[tuple[str, int]]:
        """A complete, flushed file in `.cld/tmp`; whatever of it is left after a failure is removed."""
        stem = new_stem(self._layout, uri, version)
        ours = -1
        try:
            ours = self._write(f"{stem}.new", data, mode)
            yield stem, ours
        except BaseException:
            for stage in ("new", "swap"):
                # `swap` may by now be somebody else's version, if all attempts to place it failed.
                self._remove_own(f"{stem}.{stage}", ours)
            raise
        finally:
            if ours >= 0:
                os.close(ours)
            forget(self._layout, stem)

    def _remove_own(self, name: str, ours: int) -> None:
        try:
            facts = os.stat(name, dir_fd=self._layout.tmp, follow_symlinks=False)
        except FileNotFoundError:
            return
        if ours >= 0 and os.path.samestat(facts, os.fstat(ours)):
            os.unlink(name, dir_fd=self._layout.tmp)

    @contextmanager
    def _copied(self, uri: URI, stem: str, resource: Resource, data: bytes, version: str) -> Generator[int]:
        """Put a copy of the new version into the history once the block has put it into the tree.

        An editor that saves over it, in place or by renaming, would otherwise be the end of it. It is
        written before, so that a full disk is met while nothing has happened, and not flushed: it is
        needed only once the flushed one is gone, and is replaced by that one if cld does it. Creating
        makes none: that would cost a folder for every resource, most of which are never replaced.

        Yields the folder of the history.
        """
        tmp, name = self._layout.tmp, f"{stem}.copy"
        with self._history_folder(uri) as folder:
            os.close(self._write(name, data, flush=False))
            try:
                yield folder
                os.rename(name, f"{key_of_write(resource)}-{version}.json", src_dir_fd=tmp, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=tmp)
                raise

    def _write(self, name: str, data: bytes, mode: int | None = None, *, flush: bool = True) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o666, dir_fd=self._layout.tmp)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            if mode is not None:
                os.fchmod(fd, mode)
            if flush:
                self._layout.sync_file(fd)
        except BaseException:
            # Never a second fsync on this handle: after a failed one it may report what is not so.
            os.close(fd)
            os.unlink(name, dir_fd=self._layout.tmp)
            raise
        return fd

    def _acknowledge(self, uri: URI, folder: int) -> None:
        """Make the change in `folder` durable, and see that it is where the URI says."""
        path, _ = place_of(uri)
        if path:
            try:
                again = self._layout.open(self._layout.root, path, FOLDER)
            except OSError as error:
                raise StoreError(f"{path} was moved away while {uri} was written; try again") from error
            try:
                if not os.path.samestat(os.fstat(again), os.fstat(folder)):
                    raise StoreError(f"{path} was replaced while {uri} was written; try again")
            finally:
                os.close(again)
        self._layout.sync_folder(folder)
