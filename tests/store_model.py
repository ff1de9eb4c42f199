"""Any store beside a plain dict, as a Hypothesis state machine; and the place both work in.

The other half of the contract suite: see `store_contract` for how a backend uses it.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cld.errors import Conflict, InvalidResource, ResourceNotFound
from cld.resource import NO_META, Draft, Meta
from cld.store import ANY_VERSION, Page, Store, Stored
from cld.uri import ROOT, URI, depth_below, is_within, sort_key, type_of

ADA = "user:ada"
BOB = "user:bob"


class Behind(Protocol):
    """The place's files, past the store. A `uri` may be any name: its file is `uri + ".json"`."""

    def read_bytes(self, uri: str) -> bytes: ...

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write the file in place of what is there, making its directories."""
        ...

    def remove(self, uri: str) -> None: ...

    def names(self) -> set[str]:
        """Every file's path below the root, with its suffix, `.cld` left out."""
        ...


class FolderBehind:
    """`Behind` for stores over a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read_bytes(self, uri: str) -> bytes:
        return (self._root / f"{uri}.json").read_bytes()

    def write_bytes(self, uri: str, data: bytes) -> None:
        file = self._root / f"{uri}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def remove(self, uri: str) -> None:
        (self._root / f"{uri}.json").unlink()

    def names(self) -> set[str]:
        paths = (path.relative_to(self._root) for path in self._root.rglob("*") if not path.is_dir())
        return {path.as_posix() for path in paths if path.parts[0] != ".cld"}


@dataclass(frozen=True)
class Place:
    """Where stores of one backend can be opened, and a way to its files past them."""

    open: Callable[[], Awaitable[Store]]
    behind: Behind


NewPlace = Callable[[], Place]

A = URI("cld:common.Thing.a")
A2 = URI("cld:common.Thing.a2")
A_B = URI("cld:common.Thing.a/common.Thing.b")
A_B_C = URI("cld:common.Thing.a/common.Thing.b/plan.Task.c")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


async def pages(store: Store, prefix: URI = ROOT, **arguments: Any) -> list[Page]:
    """Every page of a listing, at most so many as no honest listing here needs."""
    found: list[Page] = []
    cursor = None
    for _ in range(100):
        page = await store.list(prefix, cursor=cursor, **arguments)
        found.append(page)
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError("the listing does not end")


async def listed(store: Store, prefix: URI = ROOT, **arguments: Any) -> list[URI]:
    return [uri for page in await pages(store, prefix, **arguments) for uri in page.uris]


@dataclass
class Entry:
    """What the model knows of one version: its bytes' digest, and the resource's facts unless invalid."""

    version: str
    content: dict[str, Any] | None = None
    meta: Meta = NO_META
    revision: int = 0
    created_by: str = ""
    updated_by: str = ""

    @property
    def valid(self) -> bool:
        return self.content is not None


@dataclass
class Walk:
    """A listing under way: what was there from its start on must be seen once."""

    prefix: URI
    type: str | None
    depth: int
    stable: set[URI]
    cursor: str | None = None
    seen: list[URI] = field(default_factory=list[URI])

    def covers(self, uri: URI) -> bool:
        return (
            uri != self.prefix
            and is_within(uri, self.prefix)
            and depth_below(uri, self.prefix) <= self.depth
            and self.type in (None, type_of(uri))
        )


POOL = [
    URI(f"cld:{path}")
    for path in (
        "common.Thing.a",
        "common.Thing.a/common.Thing.b",
        "common.Thing.a/common.Thing.b/plan.Task.c",
        "common.Thing.a/common.Thing.b-1",
        "common.Thing.a-b",
        "common.Thing.a2/plan.Task.t",
        "plan.Task.t",
    )
]
METAS = st.sampled_from([None, Meta(), Meta(purpose="p"), Meta(evaluation="é\n🧑‍🚀")])
URIS = st.sampled_from(POOL)
CONTENTS = st.dictionaries(
    st.text(max_size=3),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    max_size=3,
)


class AgainstDict(RuleBasedStateMachine):
    """Any store beside a plain dict: after every step both say the same."""

    make_place: NewPlace

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.place = self.make_place()
        self.store = self.run(self.place.open())
        self.now: dict[URI, Entry] = {}
        self.kept: dict[URI, list[Entry]] = {uri: [] for uri in POOL}  # newest first, the current one left out
        self.ever: dict[URI, dict[str, Entry]] = {uri: {} for uri in POOL}
        self.walk: Walk | None = None
        self.edits = 0

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(30):
                return await awaitable

        return self.runner.run(bounded())

    def teardown(self) -> None:
        try:
            for uri in POOL:
                self.check(uri)
            assert self.run(listed(self.store, depth=64, limit=3)) == sorted(self.now, key=sort_key)
            assert self.place.behind.names() == {f"{uri}.json" for uri in self.now}
        finally:
            self.run(self.store.aclose())
            self.runner.close()

    def check(self, uri: URI) -> None:
        """The store's word on `uri` is the model's."""
        entry = self.now.get(uri)
        if entry is None:
            with pytest.raises(ResourceNotFound):
                self.run(self.store.get(uri))
        elif not entry.valid:
            with pytest.raises(InvalidResource):
                self.run(self.store.get(uri))
        else:
            self.same(self.run(self.store.get(uri)), entry)
        found = self.run(self.store.history(uri))
        assert [one.version for one in found if one.current] == ([entry.version] if entry else [])
        assert entry is None or found[0].current
        expected = ([entry.version] if entry else []) + [old.version for old in self.kept[uri]]
        # A store may also have kept what an editor wrote over; it may not make versions up.
        assert [one.version for one in found if one.version in expected] == expected
        assert {one.version for one in found} <= set(self.ever[uri])
        for one in found:
            known = self.ever[uri][one.version]
            assert one.revision == (known.revision if known.valid else None)
            assert one.by == (known.updated_by if known.valid else None)

    def same(self, stored: Stored, entry: Entry) -> None:
        assert stored.version == entry.version
        resource = stored.resource
        assert (resource.content, resource.meta, resource.revision, resource.created_by, resource.updated_by) == (
            entry.content,
            entry.meta,
            entry.revision,
            entry.created_by,
            entry.updated_by,
        )

    def wrote(self, stored: Stored, draft: Draft, by: str) -> None:
        """Take over into the model what `put` or `restore` must have made."""
        uri = draft.uri
        old = self.now.get(uri)
        known = old if old is not None and old.valid else None
        entry = Entry(
            version=digest(self.place.behind.read_bytes(uri)),
            content=draft.content,
            meta=draft.meta if draft.meta is not None else known.meta if known else Meta(),
            # Where nothing valid was, a store may count on from the history or begin again.
            revision=known.revision + 1 if known else stored.resource.revision,
            created_by=known.created_by if known else stored.resource.created_by,
            updated_by=by,
        )
        assert entry.revision >= 1
        assert entry.created_by in ("", by) or known or self.ever[uri]
        self.same(stored, entry)
        assert entry.version not in self.ever[uri]
        if old is not None:
            self.kept[uri].insert(0, old)
        self.now[uri] = self.ever[uri][entry.version] = entry

    def went(self, uri: URI) -> None:
        self.kept[uri].insert(0, self.now.pop(uri))
        if self.walk:
            self.walk.stable.discard(uri)

    def an_if_version(self, uri: URI, choice: str) -> str | None:
        match choice:
            case "create":
                return None
            case "any":
                return ANY_VERSION
            case "current":
                return self.now[uri].version if uri in self.now else "0" * 32
            case _:
                return self.kept[uri][-1].version if self.kept[uri] else "f" * 32

    def fits(self, uri: URI, if_version: str | None) -> bool:
        current = self.now[uri].version if uri in self.now else None
        return if_version in (ANY_VERSION, current)

    @rule(
        uri=URIS,
        content=CONTENTS,
        meta=METAS,
        by=st.sampled_from([ADA, BOB]),
        choice=st.sampled_from(["create", "create", "any", "current", "current", "stale"]),
    )
    def put(self, uri: URI, content: dict[str, Any], meta: Meta | None, by: str, choice: str) -> None:
        if_version = self.an_if_version(uri, choice)
        draft = Draft(uri, content, meta)
        if self.fits(uri, if_version):
            self.wrote(self.run(self.store.put(draft, by=by, if_version=if_version)), draft, by)
        else:
            with pytest.raises(Conflict) as caught:
                self.run(self.store.put(draft, by=by, if_version=if_version))
            assert caught.value.current == (self.now[uri].version if uri in self.now else None)
        self.check(uri)

    @rule(
        uri=URIS, recursive=st.booleans(), choice=st.sampled_from(["none", "none", "none", "any", "current", "stale"])
    )
    def delete(self, uri: URI, recursive: bool, choice: str) -> None:
        below = [other for other in self.now if other != uri and is_within(other, uri)]
        there = uri in self.now
        if_version = None if choice == "none" or not there else self.an_if_version(uri, choice)
        arguments = {"if_version": if_version, "recursive": recursive}
        if not there and not (recursive and below):
            with pytest.raises(ResourceNotFound):
                self.run(self.store.delete(uri, **arguments))
        elif (below and not recursive) or (if_version is not None and not self.fits(uri, if_version)):
            with pytest.raises(Conflict) as caught:
                self.run(self.store.delete(uri, **arguments))
            assert caught.value.current == self.now[uri].version
        else:
            assert self.run(self.store.delete(uri, **arguments)) == len(below) + there
            for gone in [uri] * there + below:
                self.went(gone)
                self.check(gone)
        self.check(uri)

    @precondition(lambda self: any(self.kept.values()))
    @rule(data=st.data(), by=st.sampled_from([ADA, BOB]), choice=st.sampled_from(["any", "current", "create", "stale"]))
    def restore(self, data: st.DataObject, by: str, choice: str) -> None:
        uri = data.draw(st.sampled_from([uri for uri in POOL if self.kept[uri]]))
        old = data.draw(st.sampled_from(self.kept[uri] + ([self.now[uri]] if uri in self.now else [])))
        if_version = self.an_if_version(uri, choice)
        restoring = self.store.restore(uri, old.version, by=by, if_version=if_version)
        if old.valid and self.fits(uri, if_version):
            assert old.content is not None
            self.wrote(self.run(restoring), Draft(uri, old.content, old.meta), by)
        else:
            # Which of two faults is named first is the store's to choose.
            faults = (() if old.valid else (InvalidResource,)) + (() if self.fits(uri, if_version) else (Conflict,))
            with pytest.raises(faults):
                self.run(restoring)
        self.check(uri)

    @precondition(lambda self: any(self.kept.values()))
    @rule(data=st.data())
    def read_an_old_version(self, data: st.DataObject) -> None:
        uri = data.draw(st.sampled_from([uri for uri in POOL if self.kept[uri]]))
        old = data.draw(st.sampled_from(self.kept[uri]))
        if old.valid:
            self.same(self.run(self.store.get(uri, old.version)), old)
        else:
            with pytest.raises(InvalidResource):
                self.run(self.store.get(uri, old.version))

    @rule(uri=URIS, valid=st.booleans())
    def edit_outside(self, uri: URI, valid: bool) -> None:
        # A comment that differs each time keeps versions apart, as a person's edits are.
        self.edits += 1
        content = {"edit": self.edits}
        body = {"revision": self.edits * 10, "created_by": "user:eve", "content": content}
        data = msgspec.json.encode(body) if valid else b"{broken %d" % self.edits
        self.place.behind.write_bytes(uri, data)
        entry = Entry(digest(data))
        if valid:
            entry = Entry(digest(data), content, Meta(), self.edits * 10, "user:eve", "")
        self.now[uri] = self.ever[uri][entry.version] = entry
        self.check(uri)

    @precondition(lambda self: self.now)
    @rule(data=st.data())
    def delete_outside(self, data: st.DataObject) -> None:
        uri = data.draw(st.sampled_from(sorted(self.now)))
        self.place.behind.remove(uri)
        del self.now[uri]
        if self.walk:
            self.walk.stable.discard(uri)
        self.check(uri)

    @rule(
        prefix=st.sampled_from([ROOT, ROOT, A, A_B, A2]),
        type=st.sampled_from([None, None, "common.Thing", "plan.Task"]),
        depth=st.sampled_from([1, 2, 64]),
        limit=st.integers(1, 4),
    )
    def list_all(self, prefix: URI, type: str | None, depth: int, limit: int) -> None:
        walk = Walk(prefix, type, depth, set())
        expected = sorted(filter(walk.covers, self.now), key=sort_key)
        assert self.run(listed(self.store, prefix, type=type, depth=depth, limit=limit)) == expected

    @precondition(lambda self: self.walk is None)
    @rule(prefix=st.sampled_from([ROOT, ROOT, A]), depth=st.sampled_from([1, 64]))
    def begin_to_walk(self, prefix: URI, depth: int) -> None:
        self.walk = Walk(prefix, None, depth, set())
        self.walk.stable = set(filter(self.walk.covers, self.now))
        self.walk_on(1)

    @precondition(lambda self: self.walk is not None)
    @rule(limit=st.integers(1, 3))
    def walk_on(self, limit: int) -> None:
        walk = self.walk
        assert walk is not None
        page: Page = self.run(
            self.store.list(walk.prefix, depth=walk.depth, cursor=walk.cursor, limit=limit),
        )
        assert len(page.uris) <= limit
        assert all(uri in self.now and walk.covers(uri) for uri in page.uris)
        walk.seen += page.uris
        walk.cursor = page.cursor
        assert is_ascending(walk.seen)
        if page.cursor is None:
            assert walk.stable <= set(walk.seen)
            self.walk = None

    @rule()
    def open_again(self) -> None:
        self.run(self.store.aclose())
        self.store = self.run(self.place.open())


def is_ascending(uris: Sequence[URI]) -> bool:
    return all(sort_key(one) < sort_key(other) for one, other in itertools.pairwise(uris))


def compare_with_a_dict(new_place: NewPlace, examples: int) -> None:
    """Run the machine so many times, each in a place of its own."""

    class Against(AgainstDict):
        make_place = staticmethod(new_place)

    run_state_machine_as_test(
        Against,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            # The same examples everywhere and always, and no matter how slow the machine is.
            derandomize=True,
            database=None,
            deadline=None,
            # Shrinking a failure can take minutes: add Phase.shrink while hunting one.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
