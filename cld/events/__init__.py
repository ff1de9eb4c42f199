"""Events: what changed in the tree. The files are the bus; watching them is the only publisher.

An event carries no payload: whoever hears it reads the resource through their own guard, so a
duplicate is harmless and a revoked right stops the news at once. Delivery is at least once and
level-triggered: after a burst one event may stand for several writes, but the last state is always
announced.

`Source` is what knows how to notice changes (inotify, watchdog, polling); `cld.events.bus` turns
sources into subscriptions.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from cld.uri import ROOT, URI

Change = Literal["put", "delete"]


class Event(msgspec.Struct, frozen=True):
    """Resource `uri` was put (appeared or changed; `version` is what it has now) or deleted."""

    change: Change
    uri: URI
    version: str | None
    source: str
    time: str
    id: str


class Dirty(msgspec.Struct, frozen=True):
    """A source's word that something below (or at) `prefix` may have changed unseen: scan it."""

    prefix: URI = ROOT


class Touched(msgspec.Struct, frozen=True):
    """A source's word that the file of `uri` appeared, changed or went."""

    uri: URI


Notice = Dirty | Touched
Notify = Callable[[Notice], None]


class Source(Protocol):
    """Notices changes in the subtrees it was told to watch, and calls `notify` on the event loop.

    A source may say too much, never too little: whatever it cannot follow (overflow, a limit of the
    system, a restart) it reports as `Dirty`.
    """

    name: str

    async def watch(self, prefix: URI) -> None:
        """Begin watching all below `prefix` (and the resource itself); returns once nothing is missed.

        The prefix need not exist yet.
        """
        ...

    async def unwatch(self, prefix: URI) -> None:
        """Stop watching what `watch(prefix)` began; other prefixes go on."""
        ...

    async def aclose(self) -> None: ...
