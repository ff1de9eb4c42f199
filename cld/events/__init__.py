"""Events: what changed in the tree. The files are the bus; watching them is the only publisher.

An event carries no payload: whoever hears it reads the resource through their own guard, so a
duplicate is harmless and a revoked right stops the news at once. Delivery is at least once and
level-triggered: after a burst one event may stand for several writes, but the last state is always
announced.

This module is the contract. A `Source` notices that something changed (inotify, watchdog, polling),
a `Tree` says what is there now (files, or a store that cannot watch), and `cld.events.bus` compares
that with its snapshot and turns the difference into events. Sources only hint: nothing is announced
that a look at the tree did not confirm. Made by `cld.events.choose.open_bus`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from typing import Literal, Protocol

import msgspec

from cld.uri import ROOT, URI

Change = Literal["put", "delete"]


# gc=False, here and below: they hold texts only, and a burst makes so many that a collection would be felt.
class Event(msgspec.Struct, frozen=True, gc=False):
    """Resource `uri` was put (appeared or changed; `version` is what it has now) or deleted.

    `version` is None for a delete, and for a put whose file cannot be read or is too large.
    `source` names the `Source` in use, `time` and `id` (a ULID) are of the announcement.
    """

    change: Change
    uri: URI
    version: str | None
    source: str
    time: str
    id: str


class Dirty(msgspec.Struct, frozen=True, gc=False):
    """A source's word that something below (or at) `prefix` may have changed unseen: scan it."""

    prefix: URI = ROOT


class Touched(msgspec.Struct, frozen=True, gc=False):
    """A source's word that the file of `uri` appeared, changed or went."""

    uri: URI


Notice = Dirty | Touched
Notify = Callable[[Notice], None]


class Source(Protocol):
    """Notices changes in the subtrees it was told to watch, and calls `notify` on the event loop.

    A source may say too much, never too little: whatever it cannot follow (overflow, a limit of the
    system, a root that went away) it reports as `Dirty`, after it has begun watching again.
    """

    @property
    def name(self) -> str: ...

    def start(self, notify: Notify) -> None:
        """Say where notices go. Called once, on the event loop, before the first `watch`."""
        ...

    async def watch(self, prefix: URI) -> None:
        """Begin watching all below `prefix` (and the resource itself); returns once nothing is missed.

        The prefix need not exist yet. Calls count, cancelled ones too: as many `unwatch` end it.
        """
        ...

    async def unwatch(self, prefix: URI) -> None:
        """Stop watching what `watch(prefix)` began; other prefixes go on."""
        ...

    async def refresh(self) -> None:
        """Make good what may have gone wrong unseen; called before every slow reconcile."""
        ...

    async def aclose(self) -> None:
        """Let go of everything held; idempotent, also where `start` was never called."""
        ...


UNTRUSTED = bytes(8)
"""The stamp of what may have changed again without its stamp showing it: always look."""


class Look(msgspec.Struct, frozen=True, gc=False):
    """What is there: `stamp` (8 bytes) changes when the file does, `version` None if it cannot be read."""

    stamp: bytes
    version: str | None


class Listing(msgspec.Struct, frozen=True):
    """What one folder holds: stamps of the resources by element, and the elements that have a folder."""

    folder: URI
    files: Mapping[str, bytes]
    folders: Set[str]


class Tree(Protocol):
    """Says what is there now. Looks and scans change nothing and follow no links."""

    async def look(self, uri: URI) -> Look | None:
        """The resource's file now, None where there is none.

        Raises:
            OSError, CldError: it cannot be told; the bus asks again.
        """
        ...

    def scan(self, prefixes: Sequence[URI]) -> AsyncGenerator[Listing, None]:
        """The folder of every prefix and every folder below, parents first.

        A folder that is missing is given as empty; one that cannot be read is left out. The resources
        of the prefixes themselves lie in other folders: look at them. Does not block the event loop.

        Raises:
            OSError, CldError: it cannot be told; the bus asks again.
        """
        ...
