"""The contract suite: every promise of `cld.store`, run by every backend.

A backend's test file subclasses `StoreContract` and provides one fixture, `new_place`, a callable
without arguments that makes an empty place for a store and hands back a `Place`:

    class TestLocalStore(StoreContract):
        @pytest.fixture
        def new_place(self, tmp_path):
            def make() -> Place:
                root = tmp_path / new_id()
                return Place(open=lambda: LocalStore.open(root), behind=FolderBehind(root))

            return make

`Place.open` opens another store over the same place each time it is called, `Place.behind` reads and
writes the files without any store, as a person with an editor does. What a backend does beyond the
contract (other processes, crashes, links, speed) it tests in its own file.

Not promised, hence not checked: the number a revision starts with when a resource is created where
one was deleted, and whether bytes that only an editor wrote over are kept.
"""

import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import pytest
from store_model import (
    A2,
    A_B,
    A_B_C,
    ADA,
    BOB,
    A,
    Behind,
    FolderBehind,
    NewPlace,
    Place,
    compare_with_a_dict,
    digest,
    listed,
    pages,
)

from cld.errors import CldError, Conflict, InvalidArgument, InvalidResource, ResourceNotFound
from cld.resource import MAX_BYTES, MAX_NESTING, Draft, Meta
from cld.store import ANY_VERSION, DEFAULT_LIMIT, MAX_LIMIT, Capabilities, Page, Store, Stored
from cld.uri import ROOT, URI, depth_below, is_within, parent_of, sort_key, type_of

__all__ = ["Behind", "FolderBehind", "NewPlace", "Place", "StoreContract"]

# The order of the tree is neither that of the URIs as strings ('-' < '/') nor that of the file
# names ('-' < '.json').
TREE = [
    URI("cld:common.Thing.a"),
    URI("cld:common.Thing.a/common.Thing.b"),
    URI("cld:common.Thing.a/common.Thing.b/plan.Task.c"),
    URI("cld:common.Thing.a/common.Thing.b-1"),
    URI("cld:common.Thing.a/plan.Task.z"),
    URI("cld:common.Thing.a-b"),
    URI("cld:common.Thing.a-b/plan.Task.t"),
    URI("cld:common.Thing.a2"),
    URI("cld:common.Thing_x.a"),
    URI("cld:plan.Task.A"),
    URI("cld:plan.Task._"),
    URI("cld:plan.Task.b"),
]

BROKEN = b'{\n  "content": {\n    "a": @\n  }\n}\n'  # wrong at line 3, column 10


def nested(levels: int) -> dict[str, Any]:
    """An object of `levels` objects within one another, itself counted."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


async def create(store: Store, uri: URI, **content: Any) -> Stored:
    return await store.put(Draft(uri, content), by=ADA)


async def fill(store: Store, uris: Iterable[URI]) -> None:
    for uri in uris:
        await create(store, uri)


async def versions(store: Store, uri: URI) -> list[str]:
    return [revision.version for revision in await store.history(uri)]


async def listed_from(store: Store, cursor: str | None) -> list[URI]:
    found: list[URI] = []
    while cursor is not None:
        page = await store.list(depth=64, cursor=cursor)
        found += page.uris
        cursor = page.cursor
    return found


class StoreContract:
    """What `cld.store.Store` promises; see this module's docstring for how to use it."""

    pytestmark = pytest.mark.anyio

    examples = 50
    """How many runs of the comparison with a dict; fewer where every call crosses a network."""

    @pytest.fixture
    def place(self, new_place: NewPlace) -> Place:
        return new_place()

    @pytest.fixture
    def behind(self, place: Place) -> Behind:
        return place.behind

    @pytest.fixture
    async def store(self, place: Place, anyio_backend: str) -> AsyncIterator[Store]:
        store = await place.open()
        yield store
        await store.aclose()

    # --- what a write makes -----------------------------------------------------------------

    async def test_a_store_says_what_it_can_do(self, store: Store) -> None:
        assert isinstance(store.capabilities, Capabilities)
        assert store.capabilities.writable

    async def test_what_was_put_is_what_is_got(self, store: Store) -> None:
        put = await store.put(Draft(A, {"text": "hello"}, Meta(purpose="greet")), by=ADA)
        assert await store.get(A) == put
        assert put.resource.content == {"text": "hello"}
        assert put.resource.meta == Meta(purpose="greet")

    async def test_the_file_lies_where_the_uri_says_and_nothing_lies_beside_it(
        self, store: Store, behind: Behind
    ) -> None:
        first = await create(store, A_B)
        await store.put(Draft(A_B, {}), by=ADA, if_version=first.version)
        assert behind.names() == {f"{A_B}.json"}
        await store.delete(A_B)
        assert behind.names() == set()

    async def test_the_file_is_indented_with_its_fields_in_order(self, store: Store, behind: Behind) -> None:
        await create(store, A, n=1)
        text = behind.read_bytes(A).decode()
        assert text.endswith("}\n")
        assert re.findall(r'^  "(\w+)"', text, re.MULTILINE) == [
            "uri", "type", "id", "revision", "meta", "created_at", "created_by", "updated_at", "updated_by", "nonce",
            "content",
        ]  # fmt: skip

    async def test_the_version_is_the_digest_of_the_files_bytes(self, store: Store, behind: Behind) -> None:
        put = await create(store, A)
        assert put.version == digest(behind.read_bytes(A))
        behind.write_bytes(A, b'{"content": {"by": "hand"}}')
        got = await store.get(A)
        assert got.version == digest(b'{"content": {"by": "hand"}}')
        assert got.resource.content == {"by": "hand"}

    async def test_a_new_resource_has_revision_one_and_its_maker(self, store: Store) -> None:
        made = (await create(store, A_B)).resource
        assert (made.uri, made.type, made.id, made.revision) == (A_B, "common.Thing", "b", 1)
        assert (made.created_by, made.updated_by) == (ADA, ADA)
        for at in (made.created_at, made.updated_at):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at)

    async def test_replacing_counts_on_and_keeps_who_made_it(self, store: Store) -> None:
        one = await create(store, A)
        two = await store.put(Draft(A, {}), by=BOB, if_version=one.version)
        three = await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
        assert [one.resource.revision, two.resource.revision, three.resource.revision] == [1, 2, 3]
        assert (two.resource.created_at, two.resource.created_by) == (one.resource.created_at, ADA)
        assert (two.resource.updated_by, three.resource.updated_by) == (BOB, ADA)

    async def test_replacing_counts_on_from_what_a_person_wrote(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A, b'{"revision": 7, "created_by": "user:eve", "content": {}}')
        put = await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
        assert (put.resource.revision, put.resource.created_by) == (8, "user:eve")

    async def test_writing_the_same_again_makes_another_version(self, store: Store) -> None:
        one = await create(store, A, n=1)
        two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
        three = await store.put(Draft(A, {"n": 1}), by=ADA, if_version=two.version)
        assert len({one.version, two.version, three.version}) == 3
        assert len({stored.resource.nonce for stored in (one, two, three)}) == 3
        assert all(stored.resource.nonce for stored in (one, two, three))

    async def test_meta_stays_unless_the_draft_has_one(self, store: Store) -> None:
        await store.put(Draft(A, {}, Meta(purpose="greet")), by=ADA)
        kept = await store.put(Draft(A, {"n": 1}), by=ADA, if_version=ANY_VERSION)
        assert kept.resource.meta == Meta(purpose="greet")
        cleared = await store.put(Draft(A, {}, Meta()), by=ADA, if_version=ANY_VERSION)
        assert cleared.resource.meta == Meta()

    async def test_content_is_replaced_and_not_merged(self, store: Store) -> None:
        await create(store, A, old=1)
        await store.put(Draft(A, {"new": 2}), by=ADA, if_version=ANY_VERSION)
        assert (await store.get(A)).resource.content == {"new": 2}

    async def test_a_resource_needs_no_parent(self, store: Store) -> None:
        await create(store, A_B_C)
        assert (await store.get(A_B_C)).resource.uri == A_B_C
        for uri in (A, A_B):
            with pytest.raises(ResourceNotFound):
                await store.get(uri)

    # --- create-only and compare-and-swap -----------------------------------------------------

    async def test_without_a_version_put_creates_and_nothing_else(self, store: Store) -> None:
        made = await create(store, A, n=1)
        with pytest.raises(Conflict) as caught:
            await create(store, A, n=2)
        assert (caught.value.uri, caught.value.current) == (A, made.version)
        assert await store.get(A) == made

    async def test_a_stale_version_is_refused_with_the_one_there(self, store: Store) -> None:
        one = await create(store, A)
        two = await store.put(Draft(A, {}), by=ADA, if_version=one.version)
        with pytest.raises(Conflict) as caught:
            await store.put(Draft(A, {"late": True}), by=BOB, if_version=one.version)
        assert caught.value.current == two.version
        assert await store.get(A) == two

    async def test_a_version_of_nothing_is_refused(self, store: Store, behind: Behind) -> None:
        with pytest.raises(Conflict) as caught:
            await store.put(Draft(A, {}), by=ADA, if_version="0" * 32)
        assert caught.value.current is None
        assert behind.names() == set()

    async def test_any_version_creates_and_replaces(self, store: Store) -> None:
        one = await store.put(Draft(A, {"n": 1}), by=ADA, if_version=ANY_VERSION)
        two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=ANY_VERSION)
        assert [one.resource.revision, two.resource.revision] == [1, 2]

    async def test_an_outside_edit_makes_the_version_read_before_stale(self, store: Store, behind: Behind) -> None:
        made = await create(store, A)
        behind.write_bytes(A, b'{"content": {"by": "hand"}}')
        with pytest.raises(Conflict) as caught:
            await store.put(Draft(A, {}), by=ADA, if_version=made.version)
        assert caught.value.current == digest(b'{"content": {"by": "hand"}}')
        assert behind.read_bytes(A) == b'{"content": {"by": "hand"}}'

    async def test_of_many_creators_one_wins(self, store: Store) -> None:
        won: list[int] = []
        lost: list[int] = []

        async def attempt(n: int) -> None:
            try:
                await create(store, A, n=n)
            except Conflict:
                lost.append(n)
            else:
                won.append(n)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for n in range(12):
                    group.start_soon(attempt, n)
        assert (len(won), len(lost)) == (1, 11)
        assert (await store.get(A)).resource.content == {"n": won[0]}

    async def test_of_parallel_increments_none_is_lost(self, store: Store, place: Place) -> None:
        # Where versions are checked among writers, a second store over the same place is one more.
        other = await place.open() if store.capabilities.cas == "version" else store
        await create(store, A, n=0)

        async def increment(through: Store) -> None:
            while True:
                got = await through.get(A)
                try:
                    await through.put(Draft(A, {"n": got.resource.content["n"] + 1}), by=ADA, if_version=got.version)
                except Conflict:
                    continue
                return

        try:
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    for n in range(12):
                        group.start_soon(increment, other if n % 2 else store)
            assert (await store.get(A)).resource.content == {"n": 12}
            assert [entry.revision for entry in await store.history(A)] == list(range(13, 0, -1))
        finally:
            if other is not store:
                await other.aclose()

    async def test_of_creators_through_two_stores_one_wins(self, store: Store, place: Place) -> None:
        if store.capabilities.cas == "none":
            pytest.skip("the store says it must have one writer")
        other = await place.open()
        won: list[str] = []

        async def attempt(through: Store, n: int) -> None:
            try:
                won.append((await create(through, A, n=n)).version)
            except Conflict:
                return

        try:
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    for n in range(12):
                        group.start_soon(attempt, other if n % 2 else store, n)
            assert [(await store.get(A)).version] == won
        finally:
            await other.aclose()

    async def test_a_reader_sees_the_old_or_the_new_and_never_a_mix(self, store: Store) -> None:
        pad = "x" * 50_000
        await create(store, A, first=0, pad=pad, last=0)
        writing = True

        async def write() -> None:
            nonlocal writing
            try:
                for n in range(1, 25):
                    await store.put(Draft(A, {"first": n, "pad": pad, "last": n}), by=ADA, if_version=ANY_VERSION)
            finally:
                writing = False

        async def read() -> None:
            while writing:
                content = (await store.get(A)).resource.content
                assert content["first"] == content["last"]
                await anyio.lowlevel.checkpoint()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                group.start_soon(read)
                group.start_soon(read)

    async def test_a_cancelled_put_leaves_old_or_new_and_a_store_that_works(self, store: Store) -> None:
        await create(store, A, n=0)
        for n in range(1, 6):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda n=n: store.put(Draft(A, {"n": n}), by=ADA, if_version=ANY_VERSION))
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        with anyio.fail_after(10):
            seen = (await store.get(A)).resource.content["n"]
            assert seen in range(6)
            put = await store.put(Draft(A, {"n": 9}), by=ADA, if_version=ANY_VERSION)
            assert put.resource.content == {"n": 9}
            # One that was cancelled may have had the lock to wait for, and come after it.
            assert (await store.get(A)).resource.content["n"] in (9, *range(1, 6))

    async def test_what_was_acknowledged_is_there_for_the_next_store(self, store: Store, place: Place) -> None:
        one = await create(store, A, n=1)
        two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
        await create(store, A2)
        await store.delete(A2)
        again = await place.open()
        try:
            assert await again.get(A) == two
            assert await again.get(A, one.version) == one
            assert await listed(again) == [A]
        finally:
            await again.aclose()

    # --- get ----------------------------------------------------------------------------------

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        with pytest.raises(ResourceNotFound) as caught:
            await store.get(A)
        assert caught.value.uri == A

    async def test_the_root_is_no_resource(self, store: Store) -> None:
        await create(store, A)
        with pytest.raises(CldError):
            await store.get(ROOT)
        with pytest.raises(CldError):
            await create(store, ROOT)
        with pytest.raises(CldError):
            await store.delete(ROOT, recursive=True)
        assert await listed(store) == [A]

    async def test_a_file_written_by_hand_is_a_resource(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A_B, b'{"content": {"n": 1}}')
        got = (await store.get(A_B)).resource
        assert (got.uri, got.type, got.id, got.revision, got.content) == (A_B, "common.Thing", "b", 0, {"n": 1})

    # --- content --------------------------------------------------------------------------------

    @pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**40])
    async def test_big_integers_stay_exact(self, store: Store, number: int) -> None:
        await create(store, A, number=number)
        assert (await store.get(A)).resource.content == {"number": number}

    @pytest.mark.parametrize(
        "text",
        [
            "naïve",
            "cafe\u0301",
            "日本語 العربية",
            "🧑‍🚀",
            "\x00\x1f\x7f",
            "\u2028\u2029\ufeff",
            "\U0010ffff",
            '"\\/\r\n\t',
        ],
        ids=["latin", "decomposed", "scripts", "emoji", "controls", "separators", "last", "escapes"],
    )
    async def test_text_stays_as_it_is(self, store: Store, behind: Behind, text: str) -> None:
        put = await store.put(Draft(A, {text: text}, Meta(purpose=text)), by=ADA)
        got = await store.get(A)
        assert got == put
        assert (got.resource.content, got.resource.meta.purpose) == ({text: text}, text)
        behind.read_bytes(A).decode("utf-8")

    async def test_numbers_null_and_empty_values_stay_as_they_are(self, store: Store) -> None:
        content: dict[str, Any] = {"": None, "t": True, "f": 0.1, "i": 0, "l": [], "o": {}, "s": "", "big": 1e308}
        await store.put(Draft(A, content), by=ADA)
        assert (await store.get(A)).resource.content == content

    @pytest.mark.parametrize(
        "value",
        ["\ud800", object(), {"in": [object()]}, float("nan"), float("inf"), {1: 2}],
        ids=["surrogate", "object", "inner", "nan", "infinity", "key"],
    )
    async def test_what_json_cannot_carry_is_refused(self, store: Store, behind: Behind, value: object) -> None:
        with pytest.raises(InvalidResource):
            await create(store, A, value=value)
        assert behind.names() == set()

    async def test_content_nests_as_deep_as_the_limit_and_no_deeper(self, store: Store, behind: Behind) -> None:
        deepest = nested(MAX_NESTING - 1)  # the file itself is the first level
        await store.put(Draft(A, deepest), by=ADA)
        assert (await store.get(A)).resource.content == deepest
        with pytest.raises(InvalidResource):
            await store.put(Draft(A2, nested(MAX_NESTING)), by=ADA)
        assert behind.names() == {f"{A}.json"}

    @pytest.mark.parametrize("levels", [MAX_NESTING, 100_000])
    async def test_a_file_that_nests_too_deep_is_invalid_and_not_fatal(
        self, store: Store, behind: Behind, levels: int
    ) -> None:
        behind.write_bytes(A, b'{"content": {"a": ' + b"[" * levels + b"]" * levels + b"}}")
        with pytest.raises(InvalidResource):
            await store.get(A)
        assert await listed(store) == [A]

    async def test_a_body_over_the_limit_is_refused(self, store: Store, behind: Behind) -> None:
        await create(store, A, text="x" * (MAX_BYTES - 1000))
        with pytest.raises(InvalidResource):
            await create(store, A2, text="x" * MAX_BYTES)
        with pytest.raises(InvalidResource):
            await store.put(Draft(A, {"text": "x" * MAX_BYTES}), by=ADA, if_version=ANY_VERSION)
        assert behind.names() == {f"{A}.json"}
        assert len((await store.get(A)).resource.content["text"]) == MAX_BYTES - 1000

    async def test_a_file_over_the_limit_is_invalid_and_can_be_replaced(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A, b'{"content": {}}' + b" " * MAX_BYTES)
        with pytest.raises(InvalidResource):
            await store.get(A)
        put = await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
        assert await store.get(A) == put

    # --- invalid files --------------------------------------------------------------------------

    async def test_an_invalid_file_is_listed_and_said_to_be_wrong_where_it_is(
        self, store: Store, behind: Behind
    ) -> None:
        behind.write_bytes(A, BROKEN)
        await create(store, A2)
        assert await listed(store) == [A, A2]
        with pytest.raises(InvalidResource) as caught:
            await store.get(A)
        assert (caught.value.line, caught.value.column) == (3, 10)
        assert A in str(caught.value)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"{}",
            b'{"content": []}',
            b'{"content": {}, "extra": 1}',
            b'{"content": {"n": NaN}}',
            b'{"content": {"n": "\xff"}}',
            b'{"content": {"n": "\\ud800"}}',
            b'\xef\xbb\xbf{"content": {}}',
            b'{"uri": "cld:common.Thing.b", "content": {}}',
            b'{"content": {}} {}',
        ],
    )
    async def test_what_is_no_resource_is_invalid(self, store: Store, behind: Behind, data: bytes) -> None:
        behind.write_bytes(A, data)
        with pytest.raises(InvalidResource):
            await store.get(A)
        assert await listed(store) == [A]

    async def test_an_invalid_file_is_not_created_over(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A, BROKEN)
        with pytest.raises(Conflict) as caught:
            await create(store, A)
        assert caught.value.current == digest(BROKEN)
        assert behind.read_bytes(A) == BROKEN

    async def test_an_invalid_file_can_be_replaced_and_stays_in_history(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A, BROKEN)
        put = await store.put(Draft(A, {"n": 1}), by=ADA, if_version=digest(BROKEN))
        assert await store.get(A) == put
        assert put.resource.revision >= 1
        now, broken = await store.history(A)
        assert (now.version, now.current) == (put.version, True)
        assert (broken.version, broken.size, broken.current) == (digest(BROKEN), len(BROKEN), False)
        assert (broken.revision, broken.at, broken.by) == (None, None, None)
        with pytest.raises(InvalidResource):
            await store.get(A, digest(BROKEN))
        with pytest.raises(InvalidResource):
            await store.restore(A, digest(BROKEN), by=ADA, if_version=ANY_VERSION)
        assert await store.get(A) == put

    async def test_an_invalid_file_can_be_deleted(self, store: Store, behind: Behind) -> None:
        behind.write_bytes(A, BROKEN)
        with pytest.raises(Conflict):
            await store.delete(A, if_version="0" * 32)
        assert await store.delete(A, if_version=digest(BROKEN)) == 1
        assert behind.names() == set()
        assert await versions(store, A) == [digest(BROKEN)]

    async def test_files_that_are_no_resources_are_left_alone(self, store: Store, behind: Behind) -> None:
        strays = ["README", "common.Thing.a", "cld:Thing.a", "cld:common.Thing.a b", "cld:common.Thing.é", f"{A}/notes"]
        for stray in strays:
            behind.write_bytes(stray, b"{}")
        await create(store, A2)
        assert await listed(store, depth=64) == [A2]
        assert behind.names() == {f"{name}.json" for name in [*strays, A2]}

    # --- delete ---------------------------------------------------------------------------------

    async def test_delete_takes_the_resource_away(self, store: Store) -> None:
        await fill(store, [A, A2])
        assert await store.delete(A) == 1
        with pytest.raises(ResourceNotFound):
            await store.get(A)
        assert await listed(store) == [A2]

    async def test_deleting_nothing_is_not_found(self, store: Store) -> None:
        for recursive in (False, True):
            with pytest.raises(ResourceNotFound):
                await store.delete(A, recursive=recursive)
        with pytest.raises(ResourceNotFound):
            await store.delete(A, if_version=ANY_VERSION)

    async def test_delete_checks_the_version(self, store: Store) -> None:
        one = await create(store, A)
        two = await store.put(Draft(A, {}), by=ADA, if_version=one.version)
        for recursive in (False, True):
            with pytest.raises(Conflict) as caught:
                await store.delete(A, if_version=one.version, recursive=recursive)
            assert caught.value.current == two.version
        assert await store.get(A) == two
        assert await store.delete(A, if_version=two.version) == 1

    async def test_any_version_deletes_whatever_is_there(self, store: Store) -> None:
        await create(store, A)
        assert await store.delete(A, if_version=ANY_VERSION) == 1

    async def test_a_resource_with_others_below_is_not_deleted_by_itself(self, store: Store) -> None:
        made = await create(store, A)
        await create(store, A_B_C)  # two down, with a hole between
        with pytest.raises(Conflict) as caught:
            await store.delete(A)
        assert caught.value.current == made.version
        with pytest.raises(Conflict):
            await store.delete(A, if_version=made.version)
        assert await listed(store, depth=64) == [A, A_B_C]

    async def test_an_invalid_file_below_counts_as_a_resource_below(self, store: Store, behind: Behind) -> None:
        await create(store, A)
        behind.write_bytes(A_B, BROKEN)
        with pytest.raises(Conflict):
            await store.delete(A)
        assert await store.delete(A, recursive=True) == 2

    async def test_a_resource_whose_children_went_can_be_deleted(self, store: Store) -> None:
        await fill(store, [A, A_B, A_B_C])
        for uri in (A_B_C, A_B, A):
            assert await store.delete(uri) == 1
        assert await listed(store, depth=64) == []

    async def test_recursive_delete_takes_all_below_and_nothing_beside(self, store: Store, behind: Behind) -> None:
        await fill(store, TREE)
        behind.write_bytes("cld:common.Thing.a/plan.Task.bad", BROKEN)
        assert await store.delete(A, recursive=True) == 6
        assert await listed(store, depth=64) == TREE[5:]
        assert behind.names() == {f"{uri}.json" for uri in TREE[5:]}

    async def test_recursive_delete_of_a_single_resource(self, store: Store) -> None:
        made = await create(store, A)
        assert await store.delete(A, if_version=made.version, recursive=True) == 1

    async def test_recursive_delete_of_a_hole_takes_what_is_below(self, store: Store) -> None:
        await fill(store, [A_B, A_B_C, A2])
        with pytest.raises(ResourceNotFound):
            await store.delete(A)
        assert await store.delete(A, recursive=True) == 2
        assert await listed(store, depth=64) == [A2]

    async def test_what_was_deleted_can_be_made_again(self, store: Store) -> None:
        for recursive in (False, True):
            await create(store, A, n=1)
            await store.delete(A, recursive=recursive)
        await create(store, A, n=2)
        assert (await store.get(A)).resource.content == {"n": 2}

    # --- list -----------------------------------------------------------------------------------

    async def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert await store.list() == Page((), None)
        assert await store.list(A) == Page((), None)

    async def test_a_listing_is_in_tree_order_whatever_its_pages(self, store: Store) -> None:
        assert sorted(TREE, key=sort_key) == TREE
        await fill(store, reversed(TREE))
        for limit in (1, 2, 3, len(TREE), MAX_LIMIT):
            found = await pages(store, depth=64, limit=limit)
            assert [uri for page in found for uri in page.uris] == TREE
            assert all(len(page.uris) <= limit for page in found)
            assert all(page.uris for page in found)

    async def test_a_listing_goes_as_deep_as_asked(self, store: Store) -> None:
        await fill(store, TREE)
        for prefix in (ROOT, A, A_B, A2):
            for depth in (1, 2, 3, 64):
                expected = [
                    uri
                    for uri in TREE
                    if is_within(uri, prefix) and uri != prefix and depth_below(uri, prefix) <= depth
                ]
                assert await listed(store, prefix, depth=depth, limit=2) == expected
        assert (await store.list()).uris == tuple(uri for uri in TREE if parent_of(uri) == ROOT)

    async def test_a_listing_leaves_out_the_prefix_and_its_namesakes(self, store: Store) -> None:
        await fill(store, TREE)
        assert await listed(store, A, depth=64) == TREE[1:5]
        assert await listed(store, A2, depth=64) == []

    async def test_a_listing_can_be_of_one_type(self, store: Store) -> None:
        await fill(store, TREE)
        for type in ("plan.Task", "common.Thing", "common.Thing_x", "common.Thin", "plan.task"):
            for limit in (1, MAX_LIMIT):
                expected = [uri for uri in TREE if type_of(uri) == type]
                assert await listed(store, type=type, depth=64, limit=limit) == expected

    async def test_below_a_hole_is_listed_and_the_hole_is_not(self, store: Store) -> None:
        await create(store, A_B_C)
        assert await listed(store) == []
        assert await listed(store, depth=2) == []
        assert await listed(store, depth=3) == [A_B_C]
        assert await listed(store, A_B) == [A_B_C]
        await store.delete(A_B_C)
        assert await listed(store, depth=64) == []

    async def test_pages_have_a_usual_and_a_largest_size(self, store: Store, behind: Behind) -> None:
        expected = [URI(f"cld:common.Thing.t{n:04}") for n in range(MAX_LIMIT + 1)]
        for uri in expected:
            behind.write_bytes(uri, b'{"content": {}}')
        usual = await store.list()
        assert usual.uris == tuple(expected[:DEFAULT_LIMIT])
        assert usual.cursor is not None
        largest = await store.list(limit=MAX_LIMIT)
        assert largest.uris == tuple(expected[:MAX_LIMIT])
        assert await store.list(limit=MAX_LIMIT, cursor=largest.cursor) == Page((expected[-1],), None)

    @pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
    async def test_a_limit_out_of_range_is_refused(self, store: Store, limit: int) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await store.list(limit=limit)
        assert caught.value.field == "limit"

    @pytest.mark.parametrize("depth", [0, -1])
    async def test_a_depth_out_of_range_is_refused(self, store: Store, depth: int) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await store.list(depth=depth)
        assert caught.value.field == "depth"

    @pytest.mark.parametrize("cursor", ["", "nonsense", "../..", "\x00", "🧑‍🚀"])
    async def test_a_cursor_that_no_listing_gave_is_refused(self, store: Store, cursor: str) -> None:
        await create(store, A)
        with pytest.raises(InvalidArgument) as caught:
            await store.list(cursor=cursor)
        assert caught.value.field == "cursor"

    @pytest.mark.parametrize("limit", [1, 2, 5])
    async def test_a_cursor_stays_good_while_the_tree_changes(self, store: Store, limit: int) -> None:
        await fill(store, TREE)
        stable = {uri for n, uri in enumerate(TREE) if n % 3 == 2}
        seen: list[URI] = []
        cursor = None
        turn = 0
        while True:
            page = await store.list(depth=64, limit=limit, cursor=cursor)
            seen += page.uris
            # What was just returned goes, the page's last included; others come before and after it.
            for uri in page.uris:
                if not any(is_within(kept, uri) for kept in stable):
                    await store.delete(uri, recursive=True)
            turn += 1
            if turn < 8:  # else new ones could come as fast as they are listed
                for parent in ("cld:common.Thing.a/", "cld:plan.Task.b/", "cld:"):
                    await create(store, URI(f"{parent}common.Thing.new{turn}"))
            cursor = page.cursor
            if cursor is None:
                break
            assert turn < 100
        assert seen == sorted(set(seen), key=sort_key)
        assert stable <= set(seen)

    async def test_a_listing_goes_on_after_its_last_was_deleted_with_all_below(self, store: Store) -> None:
        await fill(store, TREE)
        first = await store.list(depth=64, limit=2)
        assert first.uris == (A, A_B)
        await store.delete(A, recursive=True)
        assert await listed_from(store, first.cursor) == TREE[5:]

    # --- history and restore --------------------------------------------------------------------

    async def test_what_never_was_has_no_history(self, store: Store) -> None:
        await create(store, A_B)
        assert list(await store.history(A)) == []
        assert list(await store.history(A2)) == []

    async def test_history_is_every_version_newest_first(self, store: Store, behind: Behind) -> None:
        put = [await store.put(Draft(A, {"n": n}), by=f"user:u{n}", if_version=ANY_VERSION) for n in range(5)]
        size = len(behind.read_bytes(A))
        found = list(await store.history(A))
        assert [entry.version for entry in found] == [stored.version for stored in reversed(put)]
        assert [entry.revision for entry in found] == [5, 4, 3, 2, 1]
        assert [entry.current for entry in found] == [True, False, False, False, False]
        assert [entry.by for entry in found] == [f"user:u{n}" for n in (4, 3, 2, 1, 0)]
        assert [entry.at for entry in found] == [stored.resource.updated_at for stored in reversed(put)]
        assert found[0].size == size

    async def test_each_kept_version_can_be_read_exactly(self, store: Store) -> None:
        put = [await store.put(Draft(A, {"n": n}), by=ADA, if_version=ANY_VERSION) for n in range(4)]
        for stored in put:
            assert await store.get(A, stored.version) == stored

    async def test_histories_do_not_mix(self, store: Store) -> None:
        uris = [A, A2, A_B, A_B_C, URI("cld:common.Thing.a-b")]
        for uri in uris:
            await create(store, uri)
        for uri in uris:
            await store.put(Draft(uri, {}), by=ADA, if_version=ANY_VERSION)
            assert [entry.revision for entry in await store.history(uri)] == [2, 1]
        for uri in uris:
            assert [entry.revision for entry in await store.history(uri)] == [2, 1]

    @pytest.mark.parametrize("version", ["0" * 32, "", "*", "../../x", "\x00", "é", "x" * 5000, f"../{A}"])
    async def test_a_version_that_never_was_is_not_found(self, store: Store, behind: Behind, version: str) -> None:
        made = await create(store, A)
        await store.put(Draft(A, {}), by=ADA, if_version=made.version)
        with pytest.raises(ResourceNotFound):
            await store.get(A, version)
        with pytest.raises(ResourceNotFound):
            await store.restore(A, version, by=ADA, if_version=ANY_VERSION)
        with pytest.raises(ResourceNotFound):
            await store.get(A2, version)
        assert behind.names() == {f"{A}.json"}

    async def test_a_version_of_another_resource_is_not_found(self, store: Store) -> None:
        other = await create(store, A2)
        await store.delete(A2)
        await create(store, A)
        with pytest.raises(ResourceNotFound):
            await store.get(A, other.version)

    async def test_a_version_no_longer_there_is_stale_and_not_an_error_of_its_own(self, store: Store) -> None:
        made = await create(store, A)
        for version in ("../../x", "", "\x00"):
            with pytest.raises(Conflict) as caught:
                await store.put(Draft(A, {}), by=ADA, if_version=version)
            assert caught.value.current == made.version

    async def test_an_outside_edit_is_in_the_history(self, store: Store, behind: Behind) -> None:
        edit = b'{"revision": 4, "updated_by": "user:eve", "content": {"by": "hand"}}'
        behind.write_bytes(A, edit)
        (found,) = await store.history(A)
        assert (found.version, found.revision, found.at, found.by) == (digest(edit), 4, "", "user:eve")
        assert found.current
        put = await store.put(Draft(A, {}), by=ADA, if_version=ANY_VERSION)
        assert await versions(store, A) == [put.version, digest(edit)]
        assert (await store.get(A, digest(edit))).resource.content == {"by": "hand"}

    async def test_a_refused_write_leaves_no_history(self, store: Store) -> None:
        made = await create(store, A)
        with pytest.raises(Conflict):
            await create(store, A)
        with pytest.raises(Conflict):
            await store.put(Draft(A, {}), by=ADA, if_version="0" * 32)
        with pytest.raises(Conflict):
            await store.delete(A, if_version="0" * 32)
        assert await versions(store, A) == [made.version]

    async def test_what_was_deleted_stays_in_history(self, store: Store) -> None:
        one = await create(store, A, n=1)
        two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
        await store.delete(A)
        found = list(await store.history(A))
        assert [entry.version for entry in found] == [two.version, one.version]
        assert not any(entry.current for entry in found)
        assert await store.get(A, two.version) == two
        three = await create(store, A, n=3)
        assert await versions(store, A) == [three.version, two.version, one.version]

    async def test_what_was_deleted_with_its_parent_stays_in_history(self, store: Store, behind: Behind) -> None:
        before = {uri: await create(store, uri) for uri in (A, A_B, A_B_C)}
        changed = await store.put(Draft(A_B, {"n": 2}), by=ADA, if_version=ANY_VERSION)
        behind.write_bytes("cld:common.Thing.a/plan.Task.bad", BROKEN)
        await store.delete(A, recursive=True)
        assert await versions(store, A) == [before[A].version]
        assert await versions(store, A_B) == [changed.version, before[A_B].version]
        assert await versions(store, A_B_C) == [before[A_B_C].version]
        assert await versions(store, URI("cld:common.Thing.a/plan.Task.bad")) == [digest(BROKEN)]
        assert await store.get(A_B_C, before[A_B_C].version) == before[A_B_C]
        back = await store.restore(A_B, before[A_B].version, by=ADA)
        assert await versions(store, A_B) == [back.version, changed.version, before[A_B].version]

    async def test_what_was_deleted_twice_with_its_parent_is_in_history_twice(self, store: Store) -> None:
        made: list[str] = []
        for n in range(3):
            made.insert(0, (await create(store, A_B, n=n)).version)
            await store.delete(A if n != 1 else A_B, recursive=True)
        assert await versions(store, A_B) == made
        for version in made:
            assert (await store.get(A_B, version)).version == version

    async def test_restore_writes_the_old_content_and_meta_as_a_new_revision(self, store: Store) -> None:
        one = await store.put(Draft(A, {"n": 1}, Meta(purpose="first")), by=ADA)
        two = await store.put(Draft(A, {"n": 2}, Meta()), by=ADA, if_version=one.version)
        back = await store.restore(A, one.version, by=BOB, if_version=two.version)
        assert await store.get(A) == back
        assert (back.resource.content, back.resource.meta) == ({"n": 1}, Meta(purpose="first"))
        assert (back.resource.revision, back.resource.updated_by, back.resource.created_by) == (3, BOB, ADA)
        assert back.version not in (one.version, two.version)
        assert await versions(store, A) == [back.version, two.version, one.version]

    async def test_restoring_an_empty_meta_clears_the_one_there(self, store: Store) -> None:
        one = await create(store, A)
        await store.put(Draft(A, {}, Meta(purpose="later")), by=ADA, if_version=one.version)
        back = await store.restore(A, one.version, by=ADA, if_version=ANY_VERSION)
        assert back.resource.meta == Meta()

    async def test_restore_checks_the_version_as_put_does(self, store: Store) -> None:
        one = await create(store, A, n=1)
        two = await store.put(Draft(A, {"n": 2}), by=ADA, if_version=one.version)
        for if_version in (None, one.version, "0" * 32):
            with pytest.raises(Conflict) as caught:
                await store.restore(A, one.version, by=ADA, if_version=if_version)
            assert caught.value.current == two.version
        assert await store.get(A) == two
        await store.delete(A)
        with pytest.raises(Conflict) as caught:
            await store.restore(A, one.version, by=ADA, if_version=two.version)
        assert caught.value.current is None

    async def test_what_was_deleted_can_be_restored(self, store: Store) -> None:
        one = await store.put(Draft(A, {"n": 1}, Meta(purpose="first")), by=ADA)
        await store.delete(A)
        back = await store.restore(A, one.version, by=BOB)
        assert (back.resource.content, back.resource.meta) == ({"n": 1}, Meta(purpose="first"))
        assert await store.get(A) == back
        assert await versions(store, A) == [back.version, one.version]

    # --- against a plain dict -------------------------------------------------------------------

    @pytest.mark.timeout(90)
    def test_a_store_does_what_a_dict_does(self, new_place: NewPlace) -> None:
        compare_with_a_dict(new_place, self.examples)
