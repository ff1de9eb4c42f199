"""The guarded store: the six verbs of a store, each decided before anything is opened."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import msgspec
from anyio.lowlevel import checkpoint

from cld.errors import AccessDenied, ApprovalRequired, Conflict, InvalidResource, ResourceNotFound
from cld.events import Event
from cld.events.pace import Pace
from cld.guard.gate import Guard, Metas
from cld.policy import Action, Context, Decision
from cld.resource import Draft, Meta
from cld.schema import Schemas
from cld.store import DEFAULT_LIMIT, MAX_LIMIT, Capabilities, Page, Revision, Store, Stored
from cld.uri import MAX_DEPTH, ROOT, URI, type_of

MOST_REASONS = 5
"""How many reasons a person is told at most; more would not be read."""

_AT_ONCE = 16
"""Resources that are read before it is decided on them, where rules look at what is in them."""

SOMETHING_BELOW = "something below it does"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row of a listing; `invalid` says why the file is no valid resource."""

    uri: URI
    type: str
    version: str = ""
    updated_at: str = ""
    invalid: str = ""


class Entries(msgspec.Struct, frozen=True):
    entries: tuple[Entry, ...]
    cursor: str | None


class GuardedStore:
    """A store that does what its guard allows, in one call's context; content must fit its type's schema.

    `approved` is set by whoever asked a person about this very call, and lifts the demand for approval
    from writes and deletes.
    """

    def __init__(
        self, guard: Guard, store: Store, schemas: Schemas, context: Context, *, approved: bool = False
    ) -> None:
        self.guard = guard
        self.context = context
        self._store = store
        self._schemas = schemas
        self._approved = approved

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def may_read(self, uri: URI, meta: Metas = None) -> bool:
        return self.guard.allows("read", uri, self.context, meta)

    async def get(self, uri: URI, version: str | None = None) -> Stored:
        """As `Store.get`; a resource that may not be read is not found, nor is any older version of it.

        Raises:
            ResourceNotFound, InvalidResource: as `Store.get`.
        """
        if not self.guard.needs_meta:
            if not self.may_read(uri):
                raise ResourceNotFound(uri, version)
            return await self._store.get(uri, version)
        try:
            stored = await self._store.get(uri, version)
        except InvalidResource:
            if self.may_read(uri, (await self._metas_of_change(uri, None))[0]):
                raise
            raise ResourceNotFound(uri, version) from None
        metas: list[Metas] = [_plain(stored.resource.meta)]
        if version is not None:
            metas += await self._metas_of_change(uri, None)
        if not all(self.may_read(uri, meta) for meta in metas):
            raise ResourceNotFound(uri, version)
        return stored

    async def get_each(self, uris: Sequence[URI], *, brief: bool = False) -> Sequence[Stored | InvalidResource | None]:
        """What `get` gives for each of `uris`, decided together: None for not found, the error for what is invalid.

        With `brief` the decision log counts them, as in `readable`.
        """
        pace = Pace()
        if not self.guard.needs_meta:
            allowed = self.guard.filter("read", uris, self.context, brief=brief)
            return [await self._there(uri, pace) if may else None for uri, may in zip(uris, allowed, strict=True)]
        found = [await self._there(uri, pace) for uri in uris]
        at = [place for place, one in enumerate(found) if one is not None]
        metas = [
            _plain(one.resource.meta)
            if isinstance(one := found[place], Stored)
            else await self._known_meta(uris[place])
            for place in at
        ]
        allowed = self.guard.filter("read", [uris[place] for place in at], self.context, metas, brief=brief)
        readable = {place for place, may in zip(at, allowed, strict=True) if may}
        return [one if place in readable else None for place, one in enumerate(found)]

    async def each(self, uris: Sequence[URI]) -> AsyncGenerator[Stored | InvalidResource | None]:
        """What `get_each` gives, each read when it is taken, so that few are held; decided together if possible."""
        if self.guard.needs_meta:
            for first in range(0, len(uris), _AT_ONCE):
                for one in await self.get_each(uris[first : first + _AT_ONCE]):
                    yield one
            return
        pace = Pace()
        allowed = self.guard.filter("read", uris, self.context)
        for uri, may in zip(uris, allowed, strict=True):
            yield await self._there(uri, pace) if may else None

    async def put(self, draft: Draft, *, if_version: str | None = None) -> Stored:
        """As `Store.put`, written by the guard's principal, once the content fits its schema.

        Raises:
            AccessDenied, ApprovalRequired: as `Guard.require`.
            Conflict, InvalidResource, StoreError, Unsupported: as `Store.put`.
        """
        metas = await self._metas_of_change(draft.uri, draft.meta)
        for meta in metas:
            self.guard.require("write", draft.uri, self.context, meta, approved=self._approved)
        await self._schemas.check(type_of(draft.uri), draft.content)
        try:
            return await self._store.put(draft, by=self.guard.principal.id, if_version=if_version)
        except Conflict as conflict:
            raise self._told(conflict, draft.uri, metas[0]) from None

    async def delete(self, uri: URI, *, if_version: str | None = None, recursive: bool = False) -> int:
        """As `Store.delete`; with `recursive`, all that is below must be allowed to go too.

        Raises:
            AccessDenied, ApprovalRequired: as `Guard.require`.
            ResourceNotFound, Conflict, StoreError, Unsupported: as `Store.delete`.
        """
        meta = (await self._metas_of_change(uri, None))[0]
        if not self.may_read(uri, meta):
            raise ResourceNotFound(uri)
        if recursive and not self._approved:
            if reasons := await self.approvals_to_delete(uri):
                raise ApprovalRequired("delete", uri, {"reason": "; ".join(reasons)})
        else:
            self.guard.require("delete", uri, self.context, meta, approved=self._approved)
            if recursive:
                async for _ in self._below(uri):
                    pass
        try:
            return await self._store.delete(uri, if_version=if_version, recursive=recursive)
        except Conflict as conflict:
            raise self._told(conflict, uri, meta) from None

    async def approvals_to_delete(self, uri: URI) -> Sequence[str]:
        """Why a person must agree before `uri` and all below it go; none where nobody must.

        Each reason is there once, and a few of them only. What may not be read is not named.

        Raises:
            AccessDenied: not all of it may go.
        """
        meta = (await self._metas_of_change(uri, None))[0]
        found = dict.fromkeys(_reasons(self.guard.require("delete", uri, self.context, meta, approved=True)))
        # A filter says nothing of obligations, so each is decided by itself.
        async for below, meta in self._below(uri):
            decision = self.guard.decide("delete", below, self.context, meta)
            if not decision.allow:
                raise _not_all_below(uri)
            reasons = _reasons(decision)
            if reasons and not self.may_read(below, meta):
                reasons = [SOMETHING_BELOW]
            found.update(dict.fromkeys(reasons))
            await checkpoint()
        if len(found) > MOST_REASONS:
            return [*islice(found, MOST_REASONS), f"and {len(found) - MOST_REASONS} more reasons"]
        return list(found)

    async def list(
        self,
        prefix: URI = ROOT,
        *,
        type: str | None = None,
        depth: int = 1,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page:
        """As `Store.list`, as if what may not be read were not there: also in the cursor.

        A cursor comes only with a further resource that may be read, and names the last one returned.
        """
        found: list[URI] = []
        while True:
            # One more than asked for tells whether there is a next page.
            batch = min(MAX_LIMIT, max(limit + 1 - len(found), DEFAULT_LIMIT))
            page = await self._store.list(prefix, type=type, depth=depth, cursor=cursor, limit=batch)
            found += await self.readable(page.uris)
            if len(found) > limit:
                return Page(uris=tuple(found[:limit]), cursor=found[limit - 1])
            if page.cursor is None:
                return Page(uris=tuple(found), cursor=None)
            cursor = page.cursor

    async def every(self, prefix: URI = ROOT, *, type: str | None = None, depth: int = 1) -> AsyncGenerator[URI]:
        """All that `list` gives, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list(prefix, type=type, depth=depth, cursor=cursor, limit=MAX_LIMIT)
            for uri in page.uris:
                yield uri
            if (cursor := page.cursor) is None:
                return

    async def entries(
        self,
        prefix: URI = ROOT,
        *,
        type: str | None = None,
        depth: int = 1,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Entries:
        """`list` with each resource's version and time; reads only the files of the page."""
        page = await self.list(prefix, type=type, depth=depth, cursor=cursor, limit=limit)
        pace = Pace()
        rows = [row for uri in page.uris if (row := await self._entry(uri, pace)) is not None]
        return Entries(entries=tuple(rows), cursor=page.cursor)

    async def history(self, uri: URI) -> Sequence[Revision]:
        """As `Store.history`.

        Raises:
            ResourceNotFound: there never was one, or it may not be read.
        """
        meta = (await self._metas_of_change(uri, None))[0]
        revisions = await self._store.history(uri) if self.may_read(uri, meta) else ()
        if not revisions:
            raise ResourceNotFound(uri)
        return revisions

    async def restore(self, uri: URI, version: str, *, if_version: str | None = None) -> Stored:
        """As `Store.restore`: both reading the old and writing the new must be allowed.

        Raises:
            AccessDenied, ApprovalRequired: as `Guard.require`.
            ResourceNotFound, Conflict, InvalidResource, StoreError, Unsupported: as `Store.restore`.
        """
        old = await self.get(uri, version)
        metas = await self._metas_of_change(uri, old.resource.meta)
        for meta in metas:
            self.guard.require("write", uri, self.context, meta, approved=self._approved)
        await self._schemas.check(type_of(uri), old.resource.content)
        try:
            return await self._store.restore(uri, version, by=self.guard.principal.id, if_version=if_version)
        except Conflict as conflict:
            raise self._told(conflict, uri, metas[0]) from None

    async def may_hear(self, event: Event) -> bool:
        """Whether this principal may be told of `event` now, so that a revoked right stops the news."""
        meta = await self._known_meta(event.uri)
        return self.guard.allows("subscribe", event.uri, self.context, meta) and self.may_read(event.uri, meta)

    async def may_hear_each(self, events: Iterable[Event]) -> Sequence[Event]:
        """Those of `events` that `may_hear`, decided together."""
        asked = list(events)
        return [asked[place] for place in await self._allowed(("subscribe", "read"), [one.uri for one in asked])]

    async def readable(self, uris: Sequence[URI], *, brief: bool = False) -> Sequence[URI]:
        """Those of `uris` that may be both read and listed, in their order, whether or not they are there.

        With `brief` the decision log counts them: for who asks about the whole tree again and again.
        """
        return [uris[place] for place in await self._allowed(("read", "list"), uris, brief=brief)]

    async def _allowed(self, actions: Sequence[Action], uris: Sequence[URI], *, brief: bool = False) -> Sequence[int]:
        """The places of those of `uris` for which all of `actions` are allowed."""
        metas = [await self._known_meta(uri) for uri in uris] if self.guard.needs_meta else None
        kept = list(range(len(uris)))
        for action in actions:
            some = None if metas is None else [metas[place] for place in kept]
            may = self.guard.filter(action, [uris[place] for place in kept], self.context, some, brief=brief)
            kept = [place for place, allowed in zip(kept, may, strict=True) if allowed]
        return kept

    async def _known_meta(self, uri: URI) -> Metas:
        return (await self._metas_of_change(uri, None))[0]

    async def _there(self, uri: URI, pace: Pace) -> Stored | InvalidResource | None:
        await pace.rest()
        try:
            return await self._store.get(uri)
        except ResourceNotFound:
            return None
        except InvalidResource as error:
            return error

    async def _entry(self, uri: URI, pace: Pace) -> Entry | None:
        match await self._there(uri, pace):
            case None:
                return None
            case InvalidResource() as error:
                return Entry(uri=uri, type=type_of(uri), invalid=str(error))
            case Stored(resource=resource, version=version):
                return Entry(uri=uri, type=resource.type, version=version, updated_at=resource.updated_at)

    async def _metas_of_change(self, uri: URI, new: Meta | None) -> Sequence[Metas]:
        """What rules that look at meta are asked about: the one there (or last there), and the new one.

        Without such rules nothing is read, and the one answer is None.
        """
        if not self.guard.needs_meta:
            return [None]
        there = await self._meta_there(uri)
        return [_plain(meta) for meta in (there, new) if meta is not None] or [{}]

    async def _meta_there(self, uri: URI) -> Meta | None:
        """The resource's meta, or its last valid one where it is gone or broken; None where there never was one."""
        with suppress(InvalidResource, ResourceNotFound):
            return (await self._store.get(uri)).resource.meta
        for revision in await self._store.history(uri):
            if revision.revision is not None:
                with suppress(InvalidResource, ResourceNotFound):
                    return (await self._store.get(uri, revision.version)).resource.meta
        return None

    async def _below(self, uri: URI) -> AsyncGenerator[tuple[URI, Metas]]:
        """All that is below `uri`, and what rules that look at meta are asked with about it.

        Raises:
            AccessDenied: not all of it may be deleted; which is not said, for it may not be known of.
        """
        cursor = None
        while True:
            page = await self._store.list(uri, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
            metas = [(await self._metas_of_change(below, None))[0] for below in page.uris]
            if not all(self.guard.filter("delete", page.uris, self.context, metas)):
                raise _not_all_below(uri)
            for pair in zip(page.uris, metas, strict=True):
                yield pair
            if page.cursor is None:
                return
            cursor = page.cursor

    def _told(self, conflict: Conflict, uri: URI, meta: Metas) -> Conflict:
        """The conflict, without the version there for one who may write but not read."""
        if self.may_read(uri, meta):
            return conflict
        return Conflict(f"{uri} is not as the call expects it; read it first", uri=uri, current=None)


def _not_all_below(uri: URI) -> AccessDenied:
    return AccessDenied("delete", uri, ["not all that is below it may be deleted"])


def _reasons(decision: Decision) -> Sequence[str]:
    """Why a person must agree to what was decided; none where nobody must."""
    if not (obligation := decision.obligations.get("require_approval")):
        return []
    reason = cast("Mapping[str, Any]", obligation).get("reason") if isinstance(obligation, Mapping) else None
    return [str(reason or "policy asks for approval")]


def _plain(meta: Meta) -> dict[str, str]:
    return {
        "purpose": meta.purpose,
        "instructions": meta.instructions,
        "applicability": meta.applicability,
        "evaluation": meta.evaluation,
    }
