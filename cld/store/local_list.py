"""Listings: the names of the tree in tree order, page by page, without opening a file.

Owns the order (by elements: neither that of the file names, where `a-b.json` comes before `a.json`,
nor that of the URIs, where `a-b` comes before `a/c`) and a bounded memory of the sorted names of
large folders, so that the next page of one costs what the page has. A cursor is the last URI returned: where it
was is found again whatever happened to it meanwhile.
"""

import errno
import os
import re
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import cast

from cld.errors import InvalidArgument, InvalidURI
from cld.store import MAX_LIMIT, Page
from cld.store.local_paths import FOLDER, Layout
from cld.uri import ROOT, SUFFIX, URI, elements_of, is_type, is_within, parse_uri, why_not

_ELEMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_-]{1,128}")

_NUL = "\0"  # what no name has

# No text this short can break a limit on length or depth, so only longer ones are looked at again.
_SHORT = 240

_REMEMBERED_FROM = 500  # names; smaller folders are read again as fast
_REMEMBERED_NAMES = 300_000  # about 30 MB, all folders together
# A change within one tick of the file system's clock leaves no new time stamp, so a folder changed so
# recently cannot be told from one that changes right after. A tick is at most 10 ms on Linux, and
# 2 s where stamps have whole seconds.
_TICK_NS = 50_000_000
_COARSE_TICK_NS = 2_500_000_000


@dataclass(frozen=True)
class Names:
    """The elements in one folder that have a file, and those that are folders (or seem to be), sorted.

    `longest` is the length of the longest that has a file.
    """

    files: list[str]
    folders: list[str]
    longest: int


class Listing:
    """Lists the tree of `layout`; may be called from several threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._remembered: OrderedDict[tuple[int, int], tuple[tuple[int, int], Names]] = OrderedDict()
        self._count = 0
        self._lock = Lock()

    def page(self, prefix: URI, type: str | None, depth: int, cursor: str | None, limit: int) -> Page:
        """See `cld.store.Store.list`.

        Raises:
            InvalidArgument: naming the argument that does not fit.
        """
        after = _checked(prefix, type, depth, cursor, limit)
        found: list[URI] = []
        folder = self._open(self._layout.root, "." if prefix == ROOT else prefix)
        if folder is not None:
            self._collect(folder, prefix, type, depth, after, found, limit + 1)
        if len(found) <= limit:
            return Page(tuple(found), None)
        return Page(tuple(found[:limit]), found[limit - 1])

    def is_quick(self, prefix: URI, depth: int) -> bool:
        """Whether a page is got so fast that no thread is needed: one folder, small or remembered."""
        if depth != 1 or (folder := self._open(self._layout.root, "." if prefix == ROOT else prefix)) is None:
            return depth == 1
        try:
            facts = os.fstat(folder)
            return facts.st_size <= 32_768 or self._recall(facts) is not None
        finally:
            os.close(folder)

    def other_spelling(self, uri: URI) -> str | None:
        """An element that is there and differs from the one in `uri` only in case, where there is one.

        A file system that ignores case would open it in its stead: under a name policy did not decide on.
        """
        folder, prefix = self._open(self._layout.root, "."), ROOT
        for element in elements_of(uri):
            if folder is None:
                return None
            try:
                names = self._names(folder, is_root=prefix == ROOT)
                is_folder = _is_there(names.folders, element)
                if not is_folder and not _is_there(names.files, element):
                    folded = element.casefold()
                    return next((one for one in (*names.files, *names.folders) if one.casefold() == folded), None)
                below = self._open(folder, _named(prefix, element)) if is_folder else None
            finally:
                os.close(folder)
            folder, prefix = below, uri
        if folder is not None:
            os.close(folder)
        return None

    def has_folder(self, uri: URI) -> bool:
        """Whether there is a folder for what is below `uri`."""
        if (folder := self._open(self._layout.root, uri)) is None:
            return False
        os.close(folder)
        return True

    def has_below(self, prefix: URI) -> bool:
        """Whether there is any resource below `prefix`, at whatever depth."""
        return bool(self.page(prefix, None, 64, None, 1).uris)

    def count(self, base: int, path: str, prefix: URI) -> int:
        """How many resources lie below the folder `path`, which may be in the trash."""
        folder = self._open(base, path)
        if folder is None:
            return 0
        total = 0
        after: tuple[str, ...] = ()
        while True:
            found: list[URI] = []
            self._collect(os.dup(folder), prefix, None, 64, after, found, MAX_LIMIT)
            total += len(found)
            if len(found) < MAX_LIMIT:
                os.close(folder)
                return total
            after = elements_of(found[-1])[len(elements_of(prefix)) :]

    def _collect(
        self,
        folder: int,
        prefix: URI,
        type: str | None,
        depth: int,
        after: tuple[str, ...],
        found: list[URI],
        limit: int,
    ) -> None:
        """Append to `found` what comes after `after` (elements below `prefix`); closes `folder`."""
        try:
            names = self._names(folder, is_root=prefix == ROOT)
            first, rest = (after[0], after[1:]) if after else ("", ())
            start = f"{prefix}/" if prefix != ROOT else prefix
            if depth == 1 or not names.folders:
                _take(names, first, start, type, found, limit)
                return
            for element in _merged(names, first):
                if element != first and _is_there(names.files, element) and (not type or _has_type(element, type)):
                    _append(found, start + element)
                if len(found) >= limit:
                    return
                if (
                    _is_there(names.folders, element)
                    and (below := self._open(folder, _named(prefix, element))) is not None
                ):
                    self._collect(
                        below, URI(start + element), type, depth - 1, rest if element == first else (), found, limit
                    )
                if len(found) >= limit:
                    return
        finally:
            os.close(folder)

    def _open(self, base: int, path: str) -> int | None:
        """The folder, or None where there is none: also for a link, a file, or what went meanwhile."""
        try:
            return self._layout.open(base, path, FOLDER)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EACCES):
                return None
            raise

    def _names(self, folder: int, *, is_root: bool) -> Names:
        before = os.fstat(folder)
        if (names := self._recall(before)) is not None:
            return names
        started = time.time_ns()
        names = _sorted_names(os.listdir(folder), is_root=is_root)
        if len(names.files) + len(names.folders) >= _REMEMBERED_FROM:
            after = os.fstat(folder)
            changed = max(after.st_mtime_ns, after.st_ctime_ns)
            tick = _COARSE_TICK_NS if _stamp_is_coarse(changed) else _TICK_NS
            if _stamp(before) == _stamp(after) and changed < started - tick:
                self._remember(after, names)
        return names

    def _recall(self, facts: os.stat_result) -> Names | None:
        with self._lock:
            entry = self._remembered.get((facts.st_dev, facts.st_ino))
            if entry is None or entry[0] != _stamp(facts):
                return None
            self._remembered.move_to_end((facts.st_dev, facts.st_ino))
            return entry[1]

    def _remember(self, facts: os.stat_result, names: Names) -> None:
        size = len(names.files) + len(names.folders)
        if size > _REMEMBERED_NAMES:
            return
        with self._lock:
            self._drop((facts.st_dev, facts.st_ino))
            while self._remembered and self._count + size > _REMEMBERED_NAMES:
                self._drop(next(iter(self._remembered)))
            self._remembered[facts.st_dev, facts.st_ino] = (_stamp(facts), names)
            self._count += size

    def _drop(self, key: tuple[int, int]) -> None:
        if (entry := self._remembered.pop(key, None)) is not None:
            self._count -= len(entry[1].files) + len(entry[1].folders)


def _checked(prefix: URI, type: str | None, depth: int, cursor: str | None, limit: int) -> tuple[str, ...]:
    """The elements of the cursor below the prefix, once all arguments fit."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(
            f"limit {limit} is not from 1 to {MAX_LIMIT}; ask for the rest with the cursor", field="limit"
        )
    if depth < 1:
        raise InvalidArgument(f"depth {depth} is less than 1, the resources directly below the prefix", field="depth")
    if type is not None and not is_type(type):
        raise InvalidArgument(f"{type[:80]!r} is no type; write package.Name, as in common.Message", field="type")
    if cursor is None:
        return ()
    try:
        last = parse_uri(cursor)
    except InvalidURI as error:
        raise InvalidArgument(f"the cursor is none that a listing gave: {error}", field="cursor") from None
    if last == prefix or not is_within(last, prefix):
        raise InvalidArgument(f"the cursor {last} is not below {prefix}; it belongs to another listing", field="cursor")
    return elements_of(last)[len(elements_of(prefix)) :]


def _sorted_names(names: list[str], *, is_root: bool) -> Names:
    """The valid elements among the names in a folder."""
    if len(names) >= _REMEMBERED_FROM and (quick := _all_files(names, is_root=is_root)) is not None:
        return quick
    if is_root:
        names = [name[4:] for name in names if name.startswith("cld:")]
    match = _ELEMENT.fullmatch
    files = [name[:-5] for name in names if name.endswith(SUFFIX) and match(name, 0, len(name) - 5)]
    # No element has the form of a file's name, so what is left can only be folders; whether they
    # are is found out on opening them.
    folders = [name for name in names if not name.endswith(SUFFIX) and match(name)]
    files.sort()
    folders.sort()
    return Names(files, folders, max(map(len, files), default=0))


def _all_files(names: list[str], *, is_root: bool) -> Names | None:
    """What `_sorted_names` finds, but faster, where every name is the file of an element; else None.

    Matching a pattern costs as much as reading the name from the disk. In one text of all names, taken
    apart again once sorted by type, the same is found in a few passes that run in C.
    """
    text = _NUL.join(names) + _NUL
    if is_root:
        size = len(text)
        text = (_NUL + text).replace("\0cld:", _NUL)[1:]
        if size - len(text) != 4 * len(names):
            return None
    # Names come from the file system: whatever is in them, also what is no text, has to be looked for.
    # Without the letters of types and ids, two dots are left of each, and that of its ".json".
    if not text.isascii() or text.encode().translate(None, _LETTERS) != b"...\0" * len(names):
        return None
    files = text.split(".json\0")
    # Names hold no NUL, so this is cut once in each that ends as it must, and after the last there is nothing.
    if len(files) != len(names) + 1:
        return None
    files.pop()
    files.sort()
    at = longest = 0
    while at < len(files):
        type = files[at].rpartition(".")[0]
        end = bisect_left(files, f"{type}/", at)  # '/' follows '.'
        # All in between begin with the type and a dot, hence have no dot more; what is left is the id.
        longest_here = max(map(len, files[at:end]))
        if not is_type(type) or len(files[at]) < len(type) + 2 or longest_here > len(type) + 129:
            return None
        longest = max(longest, longest_here)
        at = end
    return Names(files, [], longest)


_LETTERS = b"-_" + b"".join(bytes(range(*ends)) for ends in ((48, 58), (65, 91), (97, 123)))


def _take(names: Names, first: str, start: str, type: str | None, found: list[URI], limit: int) -> None:
    files = names.files
    low = bisect_right(files, first) if first else 0
    high = len(files)
    if type is not None:
        # All of one type lie together: between "type." and "type/", which follows '.'.
        low = max(low, bisect_left(files, f"{type}."))
        high = bisect_left(files, f"{type}/")
    while low < high and len(found) < limit:
        end = min(high, low + limit - len(found))
        texts = [start + element for element in files[low:end]]
        if len(start) + names.longest > _SHORT:
            texts = [text for text in texts if why_not(text) is None]
        found += cast("list[URI]", texts)
        low = end


def _append(found: list[URI], text: str) -> None:
    if len(text) <= _SHORT or why_not(text) is None:
        found.append(URI(text))


def _merged(names: Names, first: str) -> list[str]:
    """The elements of either kind from `first` on, each once."""
    files = names.files[bisect_left(names.files, first) :]
    folders = names.folders[bisect_left(names.folders, first) :]
    return sorted({*files, *folders})


def _is_there(names: list[str], element: str) -> bool:
    at = bisect_left(names, element)
    return at < len(names) and names[at] == element


def _has_type(element: str, type: str) -> bool:
    return element.rpartition(".")[0] == type


def _named(prefix: URI, element: str) -> str:
    return f"cld:{element}" if prefix == ROOT else element


def _stamp(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_mtime_ns, facts.st_ctime_ns


def _stamp_is_coarse(changed: int) -> bool:
    return changed % 1_000_000_000 == 0
