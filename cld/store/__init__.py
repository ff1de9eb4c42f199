"""Stores: where resources are kept. This module is the contract; each backend is one module.

What every store promises, and `tests/store_contract.py` checks:

- *Atomic*: a reader gets the old or the new resource, never a mix.
- *Acknowledged means kept*: when `put` or `delete` returns, the change survives SIGKILL, and
  survives power loss where `capabilities.durable`. An error means "not acknowledged", which is
  not the same as "undone".
- *Compare-and-swap*: where `capabilities.cas` is "version", `if_version` is checked and the
  change made in one step, linearizable per URI among all processes. "create" promises this only for
  creating, "none" not at all: such a store must have one writer.
- *Nothing replaced is lost*: every replaced or deleted version stays in `history` until retention
  removes it.
- *Nothing is hidden*: a file that is no valid resource is listed, and `get` says what is wrong.

A store knows no principals and decides nothing; only `cld.runtime` holds one, everybody else
gets a `cld.guard.GuardedStore`. It publishes nothing either: watchers see what changes.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from cld.resource import Draft, Resource
from cld.uri import ROOT, URI

ANY_VERSION = "*"
"""As `if_version`: write over whatever is there, or create."""

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class Capabilities(msgspec.Struct, frozen=True):
    """What a store promises beyond the common contract."""

    cas: Literal["none", "create", "version"]
    durable: bool
    watch: bool
    history: bool
    writable: bool = True


class Stored(msgspec.Struct, frozen=True):
    """A resource as it was read or written, with the version that names exactly these bytes."""

    resource: Resource
    version: str


class Page(msgspec.Struct, frozen=True):
    """A part of a listing in tree order; `cursor` continues after it, None at the end."""

    uris: tuple[URI, ...]
    cursor: str | None


class Revision(msgspec.Struct, frozen=True):
    """One entry of a resource's history; `current` for the one that is there now.

    `revision`, `at` and `by` come from the file and are None where it is no valid resource.
    """

    version: str
    revision: int | None
    at: str | None
    by: str | None
    size: int
    current: bool = False


class Store(Protocol):
    """The contract of the module's docstring, in six verbs."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def get(self, uri: URI, version: str | None = None) -> Stored:
        """The resource now, or as it was at `version` (also when deleted since).

        Raises:
            ResourceNotFound: nothing there, or no such version in its history.
            InvalidResource: the file is no valid resource; names line and column.
        """
        ...

    async def put(self, draft: Draft, *, by: str, if_version: str | None = None) -> Stored:
        """Create (`if_version` None) or replace the resource, and return it as written.

        Revision counts on, `created_*` stay, meta stays when the draft has none. With a version,
        only that version is replaced; with `ANY_VERSION`, whatever is there is.

        Raises:
            Conflict: there already is one, or another version than `if_version`, or none.
            InvalidResource: the draft is too large, too deep or cannot be written as JSON.
            StoreError: the storage failed: not acknowledged.
            Unsupported: the store cannot be written or not check versions.
        """
        ...

    async def delete(self, uri: URI, *, if_version: str | None = None, recursive: bool = False) -> int:
        """Delete the resource (with `recursive`, all below it too); how many resources went.

        Deleting an invalid file is allowed: that is how one gets rid of it.

        Raises:
            ResourceNotFound: nothing there (nor, with `recursive`, below it).
            Conflict: another version than `if_version`, or resources below it and not `recursive`.
            StoreError, Unsupported: as `put`.
        """
        ...

    async def list(
        self,
        prefix: URI = ROOT,
        *,
        type: str | None = None,
        depth: int = 1,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page:
        """Resources below `prefix`, at most `depth` elements down, in tree order (`cld.uri.sort_key`).

        `prefix` itself is not among them. Costs what it returns, not the size of the tree. A cursor
        stays good while the tree changes: what is there throughout is returned exactly once.
        Names only; files that are no valid resource are among them.

        Raises:
            InvalidArgument: `limit` not 1 to `MAX_LIMIT`, `depth` under 1, or a cursor no such listing gave.
        """
        ...

    async def history(self, uri: URI) -> Sequence[Revision]:
        """Every kept version, newest first, the current one included; empty when there never was one."""
        ...

    async def restore(self, uri: URI, version: str, *, by: str, if_version: str | None = None) -> Stored:
        """Write the content and meta of `version` as a new revision; `if_version` as for `put`.

        Raises:
            ResourceNotFound: no such version in its history.
            Conflict, InvalidResource, StoreError, Unsupported: as `put`.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything held; the store is not used after."""
        ...
