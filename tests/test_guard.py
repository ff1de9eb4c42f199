"""The gate: what policy denies is not touched, not told, and looks like what is not there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from table_policy import ListJournal, Rule, TablePolicy

from cld.errors import AccessDenied, ApprovalRequired, Conflict, InvalidResource, PolicyError, ResourceNotFound
from cld.events import Event
from cld.events.subscription import Subscription
from cld.guard import Guard, GuardedStore, GuardedSubscription
from cld.policy import Action, Context, Decision
from cld.principal import Principal, parse_principal
from cld.resource import Draft, Meta
from cld.schema import Schemas
from cld.store import Store
from cld.store.local import LocalStore
from cld.uri import MAX_DEPTH, ROOT, URI, is_within, parse_uri

pytestmark = pytest.mark.anyio

ADA = parse_principal("user:ada")
A = parse_uri("cld:common.Conversation.a")
A1 = parse_uri("cld:common.Conversation.a/common.Text.one")
A2 = parse_uri("cld:common.Conversation.a/common.Text.two")
B = parse_uri("cld:common.Conversation.b")
B1 = parse_uri("cld:common.Conversation.b/common.Text.one")


class Touches:
    """A store that writes down which of its methods were called."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"get", "put", "delete", "list", "history", "restore"}:
            self.calls.append(name)
        return getattr(self._store, name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await LocalStore.open(tmp_path / "resources", durability="none")
    yield store
    await store.aclose()


def guarded(
    store: Store, rule: Rule, principal: Principal = ADA, *, approved: bool = False, **policy: Any
) -> GuardedStore:
    guard = Guard(principal, TablePolicy(rule, **policy), ListJournal())
    return GuardedStore(guard, store, Schemas(_no_schema), Context(tool="test"), approved=approved)


async def _no_schema(uri: URI) -> None:
    return None


def everything(*_: object) -> bool:
    return True


def nothing(*_: object) -> bool:
    return False


async def fill(store: Store, *uris: URI) -> None:
    for uri in uris:
        await store.put(Draft(uri, {"text": uri}), by="user:setup")


async def test_under_a_policy_that_denies_everything_the_store_is_never_called(store: Store) -> None:
    await fill(store, A, A1)
    version = (await store.get(A)).version
    watched = Touches(store)
    mine = guarded(watched, nothing)  # type: ignore[arg-type]
    with pytest.raises(ResourceNotFound):
        await mine.get(A)
    with pytest.raises(ResourceNotFound):
        await mine.get(A, version)
    with pytest.raises(AccessDenied):
        await mine.put(Draft(A, {}), if_version="*")
    with pytest.raises(ResourceNotFound):
        await mine.delete(A, recursive=True)
    with pytest.raises(ResourceNotFound):
        await mine.history(A)
    with pytest.raises(ResourceNotFound):
        await mine.restore(A, version)
    assert watched.calls == []


async def test_a_denied_and_a_missing_resource_answer_alike(store: Store) -> None:
    await fill(store, A)
    version = (await store.get(A)).version
    mine = guarded(store, lambda p, action, uri, meta: uri != A)

    async def answers(uri: URI) -> list[str]:
        told = []
        for call in (mine.get(uri), mine.get(uri, version), mine.delete(uri), mine.history(uri)):
            with pytest.raises(ResourceNotFound) as error:
                await call
            told.append(str(error.value).replace(uri, "URI") + repr(error.value.details()).replace(uri, "URI"))
        return told

    assert await answers(A) == await answers(B)


async def test_readable_keeps_those_that_may_be_both_read_and_listed_in_their_order(store: Store) -> None:
    watched = Touches(store)
    mine = guarded(
        watched,  # type: ignore[arg-type]
        lambda p, action, uri, meta: uri != A2 and not (action == "list" and uri == B),
    )
    assert list(await mine.readable([B1, A2, B, A1])) == [B1, A1]
    assert list(await mine.readable([])) == [] and watched.calls == [], "names are decided on, nothing is opened"


async def test_listing_is_as_if_what_may_not_be_read_were_not_there(store: Store, tmp_path: Path) -> None:
    shown = [parse_uri(f"cld:common.Conversation.a/common.Text.t{n:03d}") for n in range(0, 300, 7)]
    hidden = [parse_uri(f"cld:common.Conversation.a/common.Text.t{n:03d}") for n in range(300) if n % 7]
    await fill(store, *shown, *hidden)
    bare = await LocalStore.open(tmp_path / "bare", durability="none")
    await fill(bare, *shown)
    mine = guarded(store, lambda p, action, uri, meta: uri not in hidden)
    cursor = None
    for _ in range(100):
        page = await mine.list(A, cursor=cursor, limit=5)
        assert page == await bare.list(A, cursor=cursor, limit=5)
        cursor = page.cursor
        if cursor is None:
            break
    await bare.aclose()


async def test_a_page_that_ends_before_hidden_resources_only_has_no_cursor(store: Store) -> None:
    await fill(store, A, B)
    mine = guarded(store, lambda p, action, uri, meta: uri == A)
    page = await mine.list(ROOT, limit=1)
    assert page.uris == (A,)
    assert page.cursor is None


async def test_what_may_be_read_but_not_listed_is_found_by_name_only(store: Store) -> None:
    await fill(store, A)
    mine = guarded(store, lambda p, action, uri, meta: action == "read")
    assert (await mine.get(A)).resource.uri == A
    assert (await mine.list()).uris == ()


async def test_entries_show_versions_and_what_is_invalid(store: Store, tmp_path: Path) -> None:
    await fill(store, A)
    (tmp_path / "resources" / f"{B}.json").write_text("{")
    entries = (await guarded(store, everything).entries()).entries
    assert [(entry.uri, bool(entry.version), bool(entry.invalid)) for entry in entries] == [
        (A, True, False),
        (B, False, True),
    ]


async def test_an_assistant_may_do_only_what_its_principal_may_too(store: Store) -> None:
    await fill(store, A, B)
    assistant = parse_principal("assistant:writer", on_behalf_of=ADA)

    def rule(principal: Principal, action: str, uri: URI, meta: object) -> bool:
        # Ada may read a, her assistant a and b: together a.
        return is_within(uri, A) if principal == ADA else True

    mine = guarded(store, rule, assistant)
    assert (await mine.list()).uris == (A,)
    with pytest.raises(ResourceNotFound):
        await mine.get(B)
    reverse = guarded(store, lambda p, action, uri, meta: p == ADA, assistant)
    assert (await reverse.list()).uris == ()


async def test_writes_carry_the_guards_principal(store: Store) -> None:
    put = await guarded(store, everything).put(Draft(A, {}))
    assert put.resource.created_by == put.resource.updated_by == "user:ada"


async def test_a_recursive_delete_needs_everything_below_to_be_deletable(store: Store) -> None:
    await fill(store, A, A1, A2)
    mine = guarded(store, lambda p, action, uri, meta: not (action == "delete" and uri == A2))
    with pytest.raises(AccessDenied) as error:
        await mine.delete(A, recursive=True)
    assert A2 not in str(error.value), "which one it is may be a secret"
    assert len((await store.list(depth=MAX_DEPTH)).uris) == 3
    assert await guarded(store, everything).delete(A, recursive=True) == 3


async def test_a_recursive_delete_needs_the_approval_that_something_below_needs(store: Store) -> None:
    await fill(store, A, A1, A2)

    class KeepsA2(TablePolicy):
        def decide(self, principal: Principal, action: Action, uri: URI, *more: Any) -> Decision:
            found = super().decide(principal, action, uri, *more)
            demand = {"require_approval": {"reason": f"{A2} is kept"}}
            return msgspec.structs.replace(found, obligations=demand) if (action, uri) == ("delete", A2) else found

    def mine(rule: Rule, *, approved: bool = False) -> GuardedStore:
        guard = Guard(ADA, KeepsA2(rule), ListJournal())
        return GuardedStore(guard, store, Schemas(_no_schema), Context(), approved=approved)

    with pytest.raises(ApprovalRequired, match="is kept"):
        await mine(everything).delete(A, recursive=True)
    with pytest.raises(ApprovalRequired) as error:
        await mine(lambda p, action, uri, meta: uri != A2 or action == "delete").delete(A, recursive=True)
    assert A2 not in str(error.value), "it may not be known of"
    assert len((await store.list(depth=MAX_DEPTH)).uris) == 3
    assert await mine(everything, approved=True).delete(A, recursive=True) == 3


async def test_an_event_that_could_not_be_decided_on_is_not_lost(store: Store) -> None:
    journal = ListJournal()
    mine = GuardedStore(Guard(ADA, TablePolicy(everything), journal), store, Schemas(_no_schema), Context())

    async def nobody(_: Subscription) -> None:
        pass

    subscription = Subscription(ROOT, None, None, nobody, nobody)
    heard = GuardedSubscription(mine, subscription)
    subscription.offer(Event("put", A, "v", "test", "t", "e"))
    journal.broken = True
    for _ in range(2):
        with pytest.raises(PolicyError):
            await heard.next(0)
    journal.broken = False
    event = await heard.next(0)
    assert event is not None
    assert event.uri == A
    assert await heard.next(0) is None


async def test_events_that_could_not_be_decided_on_together_are_not_lost(store: Store) -> None:
    journal = ListJournal()
    rule: Rule = lambda p, action, uri, meta: uri != B  # noqa: E731
    mine = GuardedStore(Guard(ADA, TablePolicy(rule), journal), store, Schemas(_no_schema), Context())

    async def nobody(_: Subscription) -> None:
        pass

    subscription = Subscription(ROOT, None, None, nobody, nobody)
    heard = GuardedSubscription(mine, subscription)
    for uri in (A, B, A1, A2):
        subscription.offer(Event("put", uri, "v", "test", "t", "e"))
    journal.broken = True
    for _ in range(2):
        with pytest.raises(PolicyError):
            await heard.batch(3)
    journal.broken = False
    assert [event.uri for event in await heard.batch(3)] == [A, A1]
    assert [line[1] for line in journal.lines] == ["subscribe", "read"], "one line for all"
    assert [event.uri for event in await heard.batch(3)] == [A2]
    for uri in (A, A1):
        subscription.offer(Event("put", uri, "v", "test", "t", "e"))
    del journal.lines[:]

    async def is_known(event: Event) -> bool:
        return event.uri == A

    assert [event.uri for event in await heard.batch(3, is_known)] == [A1]
    assert not any(A in line for line in journal.lines), "nobody is asked about what the reader knows"
    subscription.offer(Event("put", B, "v", "test", "t", "e"))
    await subscription.aclose()
    assert await heard.batch(3) == (), "what may not be heard ends nobody's waiting"


@pytest.mark.parametrize("needs_meta", [False, True])
async def test_getting_many_gives_what_getting_each_gives_and_opens_nothing_denied(
    store: Store, tmp_path: Path, needs_meta: bool
) -> None:
    await fill(store, A, A1, A2, B)
    (tmp_path / "resources" / f"{A1}.json").write_text("{")
    watched = Touches(store)
    rule: Rule = lambda p, action, uri, meta: uri != B and (meta is None or meta.get("purpose") != "secret")  # noqa: E731
    mine = guarded(watched, rule, needs_meta=needs_meta)  # type: ignore[arg-type]
    if needs_meta:
        await store.put(Draft(A2, {}, Meta(purpose="secret")), by="user:setup", if_version="*")
    found = await mine.get_each([A, A1, A2, B, B1])
    calls = list(watched.calls)
    for uri, one in zip((A, A1, A2, B, B1), found, strict=True):
        try:
            assert one == await mine.get(uri)
        except InvalidResource as error:
            assert isinstance(one, InvalidResource) and str(one) == str(error)
        except ResourceNotFound:
            assert one is None
    assert found[3] is None and (found[2] is None) == needs_meta
    assert needs_meta or len(calls) == 4, "B is denied and not opened"
    watched.calls.clear()
    taken = [one async for one in mine.each([A, A1, A2, B, B1])]
    assert list(map(str, taken)) == list(map(str, found)) and list(watched.calls) == calls


async def test_one_who_may_write_but_not_read_is_not_told_the_version(store: Store) -> None:
    await fill(store, A)
    mine = guarded(store, lambda p, action, uri, meta: action == "write")
    with pytest.raises(Conflict) as error:
        await mine.put(Draft(A, {}))
    assert error.value.current is None
    assert (await store.get(A)).version not in str(error.value)


async def test_approval_is_asked_for_and_lifted_by_approval(store: Store) -> None:
    await fill(store, A)
    demand = {"delete": {"require_approval": {"reason": "deletes are for good"}}}
    with pytest.raises(ApprovalRequired, match="deletes are for good"):
        await guarded(store, everything, obligations=demand).delete(A)
    assert await guarded(store, everything, obligations=demand, approved=True).delete(A) == 1


async def test_rules_on_meta_see_the_meta_there_and_the_one_to_come(store: Store) -> None:
    await store.put(Draft(A, {}, Meta(purpose="secret")), by="user:setup")
    await store.put(Draft(B, {}, Meta(purpose="open")), by="user:setup")

    def rule(principal: Principal, action: str, uri: URI, meta: Any) -> bool:
        return meta is not None and meta.get("purpose") != "secret"

    mine = guarded(store, rule, needs_meta=True)
    with pytest.raises(ResourceNotFound):
        await mine.get(A)
    assert (await mine.get(B)).resource.meta.purpose == "open"
    assert (await mine.list()).uris == (B,)
    with pytest.raises(AccessDenied):  # neither make a secret public
        await mine.put(Draft(A, {}, Meta(purpose="open")), if_version="*")
    with pytest.raises(AccessDenied):  # nor a public resource secret
        await mine.put(Draft(B, {}, Meta(purpose="secret")), if_version="*")
    await store.delete(A)
    with pytest.raises(ResourceNotFound):  # its history is as secret as it was
        await mine.history(A)


async def test_under_rules_on_meta_what_became_secret_is_secret_in_all_versions_and_when_it_is_broken(
    store: Store, tmp_path: Path
) -> None:
    old = (await store.put(Draft(A, {}, Meta(purpose="open")), by="user:setup")).version
    await store.put(Draft(A, {}, Meta(purpose="secret")), by="user:setup", if_version="*")
    mine = guarded(store, lambda p, action, uri, meta: (meta or {}).get("purpose") != "secret", needs_meta=True)

    async def nothing_is_told() -> None:
        for call in (mine.get(A), mine.get(A, old), mine.history(A), mine.delete(A)):
            with pytest.raises(ResourceNotFound):
                await call
        assert (await mine.list()).uris == ()

    await nothing_is_told()
    (tmp_path / "resources" / f"{A}.json").write_text('{"content": {"password": "1234", }')
    await nothing_is_told()
    await store.put(Draft(A, {}, Meta(purpose="open")), by="user:setup", if_version="*")
    assert (await mine.get(A, old)).resource.meta.purpose == "open"


async def test_content_must_fit_the_schema_of_its_type(store: Store) -> None:
    with pytest.raises(InvalidResource, match="role"):
        await guarded(store, everything).put(Draft(parse_uri("cld:common.Message.m"), {"role": 3, "text": "hi"}))


async def test_an_access_that_cannot_be_written_down_does_not_happen(store: Store) -> None:
    await fill(store, A)
    journal = ListJournal()
    journal.broken = True
    watched = Touches(store)
    mine = GuardedStore(
        Guard(ADA, TablePolicy(everything), journal),
        watched,  # type: ignore[arg-type]
        Schemas(_no_schema),
        Context(),
    )
    for call in (mine.get(A), mine.put(Draft(B, {})), mine.delete(A), mine.history(A)):
        with pytest.raises(PolicyError):
            await call
    assert watched.calls == []


async def test_every_decision_of_a_chain_is_written_down(store: Store) -> None:
    await fill(store, A)
    journal = ListJournal()
    assistant = parse_principal("assistant:writer", on_behalf_of=ADA)
    mine = GuardedStore(Guard(assistant, TablePolicy(everything), journal), store, Schemas(_no_schema), Context())
    await mine.get(A)
    assert [line[0].id for line in journal.lines] == ["assistant:writer", "user:ada"]
