"""Choosing how a tree is watched: the one place that knows the settings and every source."""

import logging
from pathlib import Path

from cld.config import Watch
from cld.errors import ConfigError
from cld.events import Source
from cld.events.bus import EventBus
from cld.events.files import Files
from cld.events.inotify import InotifySource
from cld.events.poll import Listable, PollSource, StoreTree
from cld.events.watchdog import WatchdogSource
from cld.resource import MAX_BYTES

log = logging.getLogger(__name__)


def open_bus(watch: Watch, root: Path | None, store: Listable | None = None, max_bytes: int = MAX_BYTES) -> EventBus:
    """The event bus of the local folder `root`, or, where that is None, of `store`, which is polled.

    "auto" takes inotify if there is any, else watchdog, else polling. The bus holds system resources
    from here on: `aclose` it.

    Raises:
        ConfigError: the source that `watch` names cannot be used here.
    """
    if root is not None:
        return EventBus(choose_source(watch, root), Files(root, max_bytes), watch.reconcile_seconds)
    if watch.source not in {"auto", "poll"}:
        raise ConfigError(f'watch.source = "{watch.source}" needs a local root; use "auto" or "poll"')
    if store is None:
        raise ValueError("a tree is either a local root or a store")
    return EventBus(PollSource(watch.poll_seconds), StoreTree(store), watch.reconcile_seconds)


def choose_source(watch: Watch, root: Path) -> Source:
    """The source for a local folder, as `open_bus` says.

    Raises:
        ConfigError: as `open_bus`.
    """
    if watch.source == "poll":
        return PollSource(watch.poll_seconds)
    if watch.source in {"auto", "inotify"}:
        try:
            return InotifySource(root, watch.poll_seconds)
        except OSError as error:
            if watch.source == "inotify":
                raise ConfigError(f'watch.source = "inotify" cannot be used here: {error}; use "auto"') from error
            log.info("events: no inotify (%s), trying watchdog", error)
    try:
        return WatchdogSource(root, watch.poll_seconds)
    except ImportError as error:
        if watch.source == "watchdog":
            raise ConfigError(f'watch.source = "watchdog" cannot be used here: {error}; use "auto"') from error
        log.warning("events: neither inotify nor watchdog (%s): polling every %g s", error, watch.poll_seconds)
        return PollSource(watch.poll_seconds)
