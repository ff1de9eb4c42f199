"""watchdog: the source where there is no inotify of ours to use (macOS, BSD). The library is loaded at first use.

The root is watched without what is below, and each folder in it that leads to a prefix is watched with
all below: the reserved folder is left out, and no two watches overlap, which FSEvents does not bear.
What the library does not tell is found otherwise: an overflow is a line in its log, which is listened to;
a lost root is nothing, so the root is checked every `poll_seconds`; the rest is for the slow reconcile.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from cld.events import Dirty, Notice, Notify, Touched
from cld.events.files import child_of
from cld.events.pace import to_thread
from cld.events.poll import POLL_SECONDS
from cld.events.prefixes import Prefixes
from cld.uri import ROOT, SUFFIX, URI

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger(__name__)


class _Overflows(logging.Handler):
    """Hears in the library's log, in one of its threads, that events were lost: it says so nowhere else."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._tell()


class WatchdogSource:
    """The `Source` of a local folder through the watchdog library.

    Raises (on making one):
        ImportError: the library is not installed.
    """

    name = "watchdog"

    def __init__(self, root: Path, poll_seconds: float = POLL_SECONDS) -> None:
        # At first use: inotify is what most have, and a host starts the server often.
        from watchdog import events  # noqa: PLC0415
        from watchdog.observers import Observer  # noqa: PLC0415

        self._observe = Observer
        # Never the default: opening and closing are events too, so every scan would cause the next. Writing
        # in place is told by the close on Linux and by a modification elsewhere.
        self._filter: list[type[FileSystemEvent]] = [
            events.FileCreatedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.FileClosedEvent if sys.platform == "linux" else events.FileModifiedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
            events.DirDeletedEvent,
        ]
        # FSEvents reports real paths.
        self._root = os.path.realpath(root)
        self._poll_seconds = poll_seconds
        self._prefixes = Prefixes()
        self._observer: BaseObserver | None = None
        self._watches: dict[str, ObservedWatch] = {}
        self._identity: tuple[int, int] | None = None
        self._renewed: set[str] = set()
        self._changing = anyio.Lock()
        self._look_again = asyncio.Event()
        self._overflows = _Overflows(self._lost_some)
        self._lost = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._notify: Notify | None = None

    def start(self, notify: Notify) -> None:
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._observer = self._observe()
        logging.getLogger("watchdog").addHandler(self._overflows)
        self._task = asyncio.create_task(self._keep_on())

    async def watch(self, prefix: URI) -> None:
        self._prefixes.add(prefix)
        await self._arrange()

    async def unwatch(self, prefix: URI) -> None:
        self._prefixes.remove(prefix)
        await self._arrange()

    async def refresh(self) -> None:
        await self._arrange()

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        async with self._changing:
            if (observer := self._observer) is not None:
                self._observer = None
                logging.getLogger("watchdog").removeHandler(self._overflows)
                await to_thread(lambda: _stop(observer))

    def dispatch(self, event: "FileSystemEvent") -> None:
        """Take one event of the library, in one of its threads."""
        assert self._loop is not None
        for path in (event.src_path, event.dest_path):
            if path:
                self._loop.call_soon_threadsafe(self._happened, os.fsdecode(path), event.is_directory)

    def _lost_some(self) -> None:
        """Take the news of an overflow, in one of the library's threads; it comes once for each watch."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._overflowed)

    def _overflowed(self) -> None:
        self._lost = True
        self._look_again.set()

    def _happened(self, path: str, is_folder: bool) -> None:
        assert self._notify is not None
        names = list(Path(os.path.relpath(path, self._root)).parts)
        if is_folder and len(names) == 1:
            # A folder in the root came or went: what watched it watches nothing now, or something else.
            self._renewed.add(names[0])
            self._look_again.set()
        elif (notice := self._notice(names, is_folder)) is not None:
            self._notify(notice)

    def _notice(self, names: list[str], is_folder: bool) -> Notice | None:
        if not is_folder:
            if not names[-1].endswith(SUFFIX):
                return None
            names = [*names[:-1], names[-1][: -len(SUFFIX)]]
        uri = child_of(ROOT, "/".join(names))
        if uri is None or not self._prefixes.concern(uri):
            return None
        return Dirty(uri) if is_folder else Touched(uri)

    async def _keep_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._look_again.wait()
            except TimeoutError:
                pass
            self._look_again.clear()
            again, self._lost = self._lost, False
            if again and self._notify is not None:
                self._notify(Dirty(ROOT))
                # And once the library has come to watch what it missed.
                asyncio.get_running_loop().call_later(self._poll_seconds, self._notify, Dirty(ROOT))
            try:
                await self._arrange()
            except Exception:  # a task boundary: the next check must come
                log.exception("events: watching %s failed; trying again in %g s", self._root, self._poll_seconds)

    async def _arrange(self) -> None:
        """Make the watches what they should be, and have scanned what was not watched as it should have been."""
        async with self._changing:
            if self._observer is None or self._notify is None:
                return
            renewed, self._renewed = self._renewed, set()
            for dirty in await to_thread(lambda: self._arrange_now(renewed)):
                self._notify(Dirty(dirty))

    def _arrange_now(self, renewed: set[str]) -> list[URI]:
        identity = _identity(self._root)
        if identity != self._identity:
            if self._identity is not None:
                log.warning("events: %s went away or was replaced; all is scanned", self._root)
            for name in list(self._watches):
                self._unschedule(name)
            self._identity = identity
        wanted = self._wanted() if identity is not None else set[str]()
        for name in (self._watches.keys() - wanted) | (self._watches.keys() & renewed):
            self._unschedule(name)
        began = [name for name in sorted(wanted - self._watches.keys()) if self._schedule(name)]
        if "" in began or (identity is None and self._prefixes):
            return [ROOT]
        return [uri for name in {*began, *renewed} if (uri := child_of(ROOT, name)) is not None]

    def _wanted(self) -> set[str]:
        """Names of the folders to watch; the empty name is the root's."""
        if not self._prefixes:
            return set()
        try:
            with os.scandir(self._root) as entries:
                return {
                    "",
                    *(
                        entry.name
                        for entry in entries
                        if (uri := child_of(ROOT, entry.name)) is not None
                        and entry.is_dir(follow_symlinks=False)
                        and self._prefixes.concern(uri)
                    ),
                }
        except OSError:
            return set()

    def _schedule(self, name: str) -> bool:
        assert self._observer is not None
        path = str(Path(self._root, name))
        try:
            # The library wants a handler of its class, and calls nothing of it but `dispatch`.
            self._watches[name] = self._observer.schedule(self, path, recursive=name != "", event_filter=self._filter)  # pyright: ignore[reportArgumentType]
            if not self._observer.is_alive():
                self._observer.start()
        except OSError as error:
            log.warning("events: %s cannot be watched (%s): trying again, and reconciling", path, error)
            self._watches.pop(name, None)
            return False
        return True

    def _unschedule(self, name: str) -> None:
        assert self._observer is not None
        try:
            self._observer.unschedule(self._watches.pop(name))
        except (OSError, KeyError) as error:
            log.debug("events: a watch on %r ended badly: %s", name, error)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stop(observer: "BaseObserver") -> None:
    if observer.is_alive():
        observer.stop()
        observer.join()
