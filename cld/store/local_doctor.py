"""What is wrong with a tree: every file and folder of it looked at, named, and put right where that is safe.

Reads everything and changes only what cld itself left: files of dead writers, copies in the history,
what retention no longer keeps. A person's files are reported, never touched. Nothing found here stops
the examination: what cannot be read is one more finding.
"""

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import msgspec

from cld.errors import CldError, InvalidResource, InvalidURI
from cld.resource import decode, version_of
from cld.store.local_history import TRASHED, History, is_entry, is_trash
from cld.store.local_locks import Locks
from cld.store.local_paths import CONTROL, FOLDER, HardLinked, Layout, kind_of
from cld.store.local_recover import rescue
from cld.store.local_tmp import temporaries
from cld.store.local_trash import expire_trash
from cld.uri import ROOT, SUFFIX, URI, make_uri, parse_uri

Severity = Literal["error", "warning", "info"]
_STEP = 500  # files looked at in one go


class Finding(msgspec.Struct, frozen=True):
    """One thing found at `path` (relative to the root): what it is, how bad, and whether it is right now."""

    path: str
    problem: str
    severity: Severity
    fixed: bool = False


def rescue_all(layout: Layout, locks: Locks, history: History, *, fix: bool = True) -> list[Finding]:
    """Finish what writers that died left in `.cld/tmp`, or only name it; files of living writers are left alone."""
    found: list[Finding] = []
    for name, temporary in temporaries(layout):
        path = f"{CONTROL}/tmp/{name}"  # noqa: S108 - of the tree, not the system's
        if temporary is None:
            found.append(Finding(path, "a file that cld did not put there; remove it", "warning"))
            continue
        with locks.hold_if_free(temporary.uri) as held:
            if not held:
                continue  # its writer lives, or another of the same slot does; the next time
            if not fix:
                found.append(Finding(path, f"left by a writer of {temporary.uri} that died", "warning"))
                continue
            try:
                done = rescue(layout, history, name, temporary)
            except (CldError, OSError) as error:
                found.append(Finding(path, f"left by a writer that died, and not recovered: {error}", "error"))
                continue
            if done is not None:
                found.append(Finding(path, done, "info", fixed=True))
    return found


def examine(layout: Layout, locks: Locks | None, history: History, *, fix: bool = True) -> Iterator[list[Finding]]:
    """Every finding in the tree, in steps that each take little time; a step may find nothing.

    Nothing is changed without `fix`, nor where there are no `locks`.
    """
    try:
        layout.check_root()
    except CldError as error:
        yield [Finding(".", str(error), "error")]
    if locks is None:
        yield [Finding(CONTROL, f"the store only reads: {layout.why_not}", "warning")]
    else:
        yield rescue_all(layout, locks, history, fix=fix)
    if not fix:
        locks = None
    yield from _examine_folder(layout, layout.root, "", ROOT)
    if "history" in layout.folders:
        yield from _examine_history(layout, locks, history, "", ROOT)
        if locks is not None:
            yield [
                Finding(f"{CONTROL}/trash/{name}", "older than the history is kept; removed", "info", fixed=True)
                for name in expire_trash(layout, days=history.days)
            ]
        yield from _examine_trash(layout)


def _examine_folder(layout: Layout, base: int, path: str, prefix: URI, shown: str = "") -> Iterator[list[Finding]]:
    """The folder `path`, standing for `prefix`, and all below it; `shown` comes before the paths reported."""
    names, found = _names(layout, base, path, shown)
    collisions: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        collisions[name.casefold()].append(name)
    for same in collisions.values():
        if len(same) > 1:
            others = " and ".join(same)
            where = _join(shown, path, same[0])
            found.append(
                Finding(where, f"{others} differ only in case: they cannot be copied to every system", "warning")
            )
    below: list[tuple[str, URI]] = []
    for count, name in enumerate(names, 1):
        here = f"{path}/{name}" if path else name
        if not path and base == layout.root and name == CONTROL:
            continue
        uri = _uri_of(prefix, name)
        mode = _mode(layout, base, here)
        if mode is None:
            continue  # went meanwhile
        if isinstance(mode, str):
            found.append(Finding(_join(shown, here), mode, "error"))
        elif uri is not None and name.endswith(SUFFIX):
            if (finding := _examine_file(layout, base, here, uri, mode, shown)) is not None:
                found.append(finding)
        elif uri is not None and stat.S_ISDIR(mode):
            below.append((here, uri))
        elif stat.S_ISLNK(mode):
            found.append(Finding(_join(shown, here), "a symbolic link, which is never followed; remove it", "error"))
        else:
            found.append(
                Finding(
                    _join(shown, here),
                    f"{kind_of(mode)} whose name is no element <package>.<Name>.<id>; it is ignored",
                    "warning",
                )
            )
        if count % _STEP == 0:
            yield found
            found = []
    yield found
    for here, uri in below:
        yield from _examine_folder(layout, base, here, uri, shown)


def _examine_file(layout: Layout, base: int, path: str, uri: URI, mode: int, shown: str) -> Finding | None:
    where = _join(shown, path)
    if not stat.S_ISREG(mode):
        return Finding(where, f"{kind_of(mode)}, not a regular file; remove it", "error")
    try:
        decode(layout.read(base, path, uri), uri, max_bytes=layout.max_bytes)
    except FileNotFoundError:
        return None
    except HardLinked as error:
        return Finding(where, str(error), "error")
    except InvalidResource as error:
        return Finding(where, str(error), "error")
    except OSError as error:
        return Finding(where, f"cannot be read: {error.strerror}; check its permissions and the disk", "error")
    return None


def _examine_history(
    layout: Layout, locks: Locks | None, history: History, path: str, prefix: URI
) -> Iterator[list[Finding]]:
    base, shown = layout.history, f"{CONTROL}/history"
    names, found = _names(layout, base, path, shown)
    below: list[tuple[str, URI]] = []
    for name in names:
        here = f"{path}/{name}" if path else name
        if name.endswith(SUFFIX) and (uri := _uri_of(prefix, name)) is not None:
            yield _examine_versions(layout, locks, history, here, uri)
        elif name.endswith(TRASHED) and (uri := _uri_of(prefix, name.removesuffix(TRASHED))) is not None:
            found += _examine_notes(layout, locks, here, uri)
        elif (uri := _uri_of(prefix, name)) is not None:
            below.append((here, uri))
        else:
            found.append(Finding(_join(shown, here), "not put there by cld; it is ignored", "warning"))
    yield found
    for here, uri in below:
        yield from _examine_history(layout, locks, history, here, uri)


def _examine_versions(layout: Layout, locks: Locks | None, history: History, path: str, uri: URI) -> list[Finding]:
    """Every kept version of one resource: that it is what its name says, and that it is still to be kept."""
    shown = f"{CONTROL}/history"
    if locks is None:
        return _damaged(layout, history, path, uri, None)
    with locks.hold(uri):
        current: bytes | None = None
        with suppress(InvalidResource, OSError):  # reported where it lies
            current = layout.read(layout.root, uri + SUFFIX, uri)
        found = _damaged(layout, history, path, uri, current)
        try:
            gone = history.prune(uri, None if current is None else version_of(current))
        except (CldError, OSError) as error:
            return [*found, Finding(_join(shown, path), f"retention cannot be applied: {error}", "error")]
        if gone:
            found.append(
                Finding(_join(shown, path), f"{gone} versions older or more than is kept; removed", "info", fixed=True)
            )
        return found


def _damaged(layout: Layout, history: History, path: str, uri: URI, current: bytes | None) -> list[Finding]:
    shown = f"{CONTROL}/history"
    names, found = _names(layout, layout.history, path, shown)
    for name in names:
        where = _join(shown, path, name)
        if (version := is_entry(name)) is None:
            found.append(Finding(where, "not put there by cld; it is ignored", "warning"))
            continue
        try:
            fine = version_of(layout.read(layout.history, f"{path}/{name}", uri)) == version
            reason = "its bytes are not the ones its name says"
        except FileNotFoundError:
            continue
        except (InvalidResource, OSError) as error:
            fine, reason = False, str(error)
        if fine:
            continue
        if current is not None and version_of(current) == version:
            # A copy of what is there now, cut short by a power loss: it can be made again.
            try:
                history.mend(f"{path}/{name}", uri, current)
            except OSError as error:
                reason += f", and cannot be mended: {error.strerror}"
            else:
                found.append(Finding(where, f"a damaged copy, {reason}; made again", "info", fixed=True))
                continue
        found.append(Finding(where, f"a damaged version: {reason}; it is lost unless a backup has it", "error"))
    return found


def _examine_notes(layout: Layout, locks: Locks | None, path: str, uri: URI) -> list[Finding]:
    """The notes on which trash has something of `uri`; one whose trash is gone goes as well."""
    names, found = _names(layout, layout.history, path, f"{CONTROL}/history")
    for name in names:
        where = _join(f"{CONTROL}/history", path, name)
        if not is_trash(name):
            found.append(Finding(where, "not put there by cld; it is ignored", "warning"))
        elif locks is not None and _mode(layout, layout.trash, name) is None:
            # The note is written before its trash is made, under this lock.
            with locks.hold(uri):
                if _mode(layout, layout.trash, name) is None:
                    folder = layout.open(layout.history, path, FOLDER)
                    try:
                        os.unlink(name, dir_fd=folder)
                    except FileNotFoundError:
                        pass
                    finally:
                        os.close(folder)
    return found


def _examine_trash(layout: Layout) -> Iterator[list[Finding]]:
    """What lies in the trash and cannot be read; a resource that was invalid may be so there."""
    names, found = _names(layout, layout.trash, "", f"{CONTROL}/trash")
    for name in names:
        if not is_trash(name):
            found.append(Finding(f"{CONTROL}/trash/{name}", "not put there by cld; it is ignored", "warning"))
            continue
        for step in _examine_folder(layout, layout.trash, name, ROOT, f"{CONTROL}/trash"):
            found += [msgspec.structs.replace(finding, severity="warning") for finding in step]
    yield found


def _names(layout: Layout, base: int, path: str, shown: str) -> tuple[list[str], list[Finding]]:
    """The names in a folder, sorted; or why they cannot be had."""
    try:
        folder = layout.open_folder(base, path)
        try:
            return sorted(os.listdir(folder)), []
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return [], []
        problem = f"a folder that cannot be read: {error.strerror}; check its permissions"
        return [], [Finding(_join(shown, path) or ".", problem, "error")]


def _mode(layout: Layout, base: int, path: str) -> int | str | None:
    """The mode of what is at `path`, never opened, never followed; None for nothing, a text for why not."""
    parent, _, name = path.rpartition("/")
    try:
        folder = layout.open_folder(base, parent)
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        finally:
            os.close(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be looked at: {error.strerror}; check its permissions"


def _uri_of(prefix: URI, name: str) -> URI | None:
    """The URI that a file or folder of this name below `prefix` stands for."""
    bare = name.removesuffix(SUFFIX)
    try:
        if prefix == ROOT:
            return parse_uri(bare)
        type, _, id = bare.rpartition(".")
        return make_uri(prefix, type, id)
    except InvalidURI:
        return None


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
