"""inotify: the source on Linux. Watches every folder of the watched subtrees and no other.

Owns the tree of watches and nothing else: it reads no file and keeps no record of any. Names of files
become `Touched` at once; whatever happens to a folder makes that folder *stale*, and one task makes
stale folders good: watch first what is there now, then say `Dirty`, so that what was created in
between is scanned. Overflow makes everything stale. Folders that cannot be watched (the system's
limit) are polled, with a warning, and tried again.

The folders above a prefix are watched too, by name of the next one: that is how the prefix is seen to
appear, to go, and to be moved away with a folder above it.
"""

import asyncio
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import aclosing, closing
from pathlib import Path

import anyio

from cld.events import Dirty, Notify, Touched
from cld.events.files import GONE, child_of, open_below, segments_of
from cld.events.kernel import CREATE, IGNORED, ISDIR, OVERFLOW, SELF, UNMOUNT, Inotify, Raw
from cld.events.pace import in_thread
from cld.events.poll import POLL_SECONDS
from cld.events.prefixes import Prefixes, outermost
from cld.uri import ROOT, SUFFIX, URI

log = logging.getLogger(__name__)


class Node:
    """A watched folder."""

    __slots__ = ("below", "uri", "wd")

    def __init__(self, uri: URI) -> None:
        self.uri = uri
        self.wd = -1
        self.below: dict[str, Node] = {}


class InotifySource:
    """The `Source` of a local folder on Linux.

    Raises (on making one):
        OSError: there is no inotify here, or no more of it for this user.
    """

    name = "inotify"

    def __init__(self, root: Path, poll_seconds: float = POLL_SECONDS, kernel: Inotify | None = None) -> None:
        self._root = root
        self._poll_seconds = poll_seconds
        self._kernel = Inotify() if kernel is None else kernel
        self._prefixes = Prefixes()
        self._top = Node(ROOT)
        self._nodes: dict[int, Node] = {}
        self._changing = anyio.Lock()
        self._stale: dict[URI, None] = {}
        self._some_stale = asyncio.Event()
        self._blind: dict[URI, str] = {}
        self._some_blind = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._notify: Notify = _nowhere

    @property
    def watches(self) -> int:
        """How many folders are watched now."""
        return len(self._nodes)

    def start(self, notify: Notify) -> None:
        self._notify = notify
        asyncio.get_running_loop().add_reader(self._kernel.fd, self._read)
        self._tasks = [asyncio.create_task(self._mend_on()), asyncio.create_task(self._poll_on())]

    async def watch(self, prefix: URI) -> None:
        known = self._prefixes.cover(prefix)
        self._prefixes.add(prefix)
        async with self._changing:
            if not known:
                await self._run(self._establish([prefix]))

    async def unwatch(self, prefix: URI) -> None:
        self._prefixes.remove(prefix)
        async with self._changing:
            self._blind = {uri: why for uri, why in self._blind.items() if self._prefixes.concern(uri)}
            await self._run(self._prune())

    async def refresh(self) -> None:
        await self._mend([ROOT])

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            asyncio.get_running_loop().remove_reader(self._kernel.fd)
            self._tasks = []
        self._kernel.close()

    def _read(self) -> None:
        for raw in self._kernel.read():
            if raw.mask & OVERFLOW:
                log.info("events: the system's queue overflowed; everything watched is scanned")
                self._make_stale(ROOT)
                continue
            # Unknown is a folder watched no longer, or added this instant: that one is listed only after.
            if (node := self._nodes.get(raw.wd)) is not None:
                self._happened(node, raw)

    def _happened(self, node: Node, raw: Raw) -> None:
        if raw.mask & (IGNORED | UNMOUNT):
            self._nodes.pop(raw.wd, None)
            self._make_stale(node.uri)
        elif raw.mask & SELF:
            # Of every other folder, the one above tells the same, and by name.
            if node is self._top:
                self._make_stale(ROOT)
        elif raw.mask & ISDIR:
            if (uri := child_of(node.uri, raw.name)) is not None and self._prefixes.concern(uri):
                self._make_stale(uri)
        elif raw.name.endswith(SUFFIX):
            uri = child_of(node.uri, raw.name[: -len(SUFFIX)])
            if uri is not None and self._prefixes.cover(uri) and not (raw.mask & CREATE and self._is_empty(uri)):
                self._notify(Touched(uri))

    def _is_empty(self, uri: URI) -> bool:
        """Whether a file just created has nothing in it yet: then its writer's close will be heard too."""
        try:
            return os.lstat(f"{self._root}/{uri}{SUFFIX}").st_size == 0
        except OSError:
            return False

    def _make_stale(self, uri: URI) -> None:
        self._stale[uri] = None
        self._some_stale.set()

    async def _mend_on(self) -> None:
        while True:
            await self._some_stale.wait()
            self._some_stale.clear()
            batch, self._stale = self._stale, {}
            try:
                await self._mend(list(batch))
            except Exception:  # a task boundary: whatever it was, say that all may have changed
                log.exception("events: watching failed for %s; scanning all", ", ".join(list(batch)[:5]))
                self._notify(Dirty(ROOT))

    async def _mend(self, stale: list[URI]) -> None:
        """Watch what is there now at and below the folders `stale`, then have them scanned."""
        for target in await self._watch_again(stale):
            self._notify(Dirty(target))

    async def _watch_again(self, stale: list[URI]) -> list[URI]:
        """Watch what is there now at and below the folders `stale`, as far as a prefix wants it."""
        async with self._changing:
            targets = outermost(part for uri in outermost(stale) for part in self._prefixes.parts_of(uri))
            await self._run(self._establish(targets))
        return targets

    async def _run(self, steps: Generator[None, None, None]) -> None:
        before = len(self._blind)
        with closing(steps):
            async with aclosing(in_thread(steps)) as batches:
                async for _ in batches:
                    pass
        if self._blind and not before:
            uri, why = next(iter(self._blind.items()))
            log.warning("events: %s and perhaps more cannot be watched (%s): polling that part", uri, why)
        elif before and not self._blind:
            log.warning("events: everything can be watched again")
        if self._blind:
            self._some_blind.set()

    async def _poll_on(self) -> None:
        while True:
            await self._some_blind.wait()
            self._some_blind.clear()
            await asyncio.sleep(self._poll_seconds)
            blind = list(self._blind)
            # One is tried first: at the limit, trying thousands each time would be work for nothing.
            try:
                await self._watch_again(blind[:1])
                if blind and blind[0] not in self._blind:
                    await self._watch_again(blind[1:])
            except Exception:  # a task boundary, as above
                log.exception("events: watching failed for %s; it is polled", ", ".join(blind[:5]))
            for uri in blind:
                self._notify(Dirty(uri))
            if self._blind:
                self._some_blind.set()

    # The generators below run in a thread, one at a time (`_changing`).

    def _establish(self, targets: list[URI]) -> Generator[None, None, None]:
        """Watch the folders that lead to each target, and all below it; unwatch what went."""
        for target in targets:
            node = self._top
            self._blind.pop(target, None)
            try:
                folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                self._lose(node, error)
                continue
            try:
                reached = self._claim(node, folder)
                for name in segments_of(target):
                    if not reached:
                        break
                    below = self._open(node, name, folder)
                    if below is None:
                        reached = False
                        break
                    os.close(folder)
                    folder = below
                    node = _child(node, name)
                    reached = self._claim(node, folder)
                if reached:
                    yield from self._descend(node, folder)
            finally:
                os.close(folder)

    def _descend(self, node: Node, folder: int) -> Iterator[None]:
        yield
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.endswith(SUFFIX)
                and child_of(node.uri, entry.name) is not None
                and entry.is_dir(follow_symlinks=False)
            ]
        for name in node.below.keys() - names:
            self._forget(node, name)
        for name in names:
            below = self._open(node, name, folder)
            if below is None:
                continue
            try:
                child = _child(node, name)
                if self._claim(child, below):
                    yield from self._descend(child, below)
            finally:
                os.close(below)

    def _open(self, node: Node, name: str, folder: int) -> int | None:
        try:
            return open_below(folder, name)
        except OSError as error:
            if error.errno in GONE:
                self._blind.pop(_child(node, name).uri, None)
                self._forget(node, name)
            else:
                self._lose(_child(node, name), error)
            return None

    def _claim(self, node: Node, folder: int) -> bool:
        """Watch the folder as `node`; whether that could be done."""
        try:
            wd = self._kernel.add(folder)
            self._nodes[wd] = node
        except OSError as error:
            self._lose(node, error)
            return False
        if node.wd != wd:
            # Another folder than before; what is watched below it is claimed anew by whoever goes on from here.
            self._drop(node)
            node.wd = wd
        self._blind.pop(node.uri, None)
        return True

    def _lose(self, node: Node, error: OSError) -> None:
        """Watch the folder and all below it no longer, and poll it."""
        for name in list(node.below):
            self._forget(node, name)
        self._drop(node)
        self._blind[node.uri] = os.strerror(error.errno or 0)

    def _forget(self, node: Node, name: str) -> None:
        if (child := node.below.pop(name, None)) is not None:
            for below in list(child.below):
                self._forget(child, below)
            self._drop(child)

    def _drop(self, node: Node) -> None:
        # A folder that was moved within the tree keeps its number, which then is another node's.
        if self._nodes.get(node.wd) is node:
            self._nodes.pop(node.wd, None)
            self._kernel.remove(node.wd)
        node.wd = -1

    def _prune(self) -> Generator[None, None, None]:
        """Unwatch what no prefix needs any more."""
        if not self._prefixes:
            for name in list(self._top.below):
                self._forget(self._top, name)
                yield
            self._drop(self._top)
            return
        todo = [self._top]
        while todo:
            node = todo.pop()
            if self._prefixes.cover(node.uri):
                continue
            for name, child in list(node.below.items()):
                if self._prefixes.concern(child.uri):
                    todo.append(child)
                else:
                    self._forget(node, name)
                    yield


def _child(node: Node, name: str) -> Node:
    if (child := node.below.get(name)) is None:
        uri = child_of(node.uri, name)
        assert uri is not None, name
        child = node.below[name] = Node(uri)
    return child


def _nowhere(notice: object) -> None:
    """Before `start` there is nobody to tell."""
