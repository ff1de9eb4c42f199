"""The default rules and data as they ship, through the real engine."""

import hashlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_folder import ADA, FOLDER, LOCAL, Folder, find_compiler, needs_opa

from cld.policy import ACTIONS, Context
from cld.policy.build import compile_rules
from cld.policy.lock import decode_lock, read_sources
from cld.policy.rego import RegoPolicy
from cld.principal import Principal, parse_principal
from cld.uri import ROOT, parse_prefix, parse_uri

NOTE = parse_uri("cld:common.Conversation.c1/common.Message.m1")
DOCS = parse_uri("cld:cld.Namespace.docs/common.Message.m1")
SALES = parse_uri("cld:cld.Namespace.sales/common.Message.m1")
TOOL = parse_uri("cld:tool.Tool.shell")
GET = parse_uri("cld:tool.Tool.resource_get")

EDITOR = Principal("user:ed", "user", roles=("editor",))
READER = Principal("user:ray", "user", roles=("reader",))
WRITER = Principal("assistant:writer", "assistant", on_behalf_of=LOCAL)
EVE = parse_principal("user:eve")


@pytest.fixture(scope="module")
def shipped() -> RegoPolicy:
    policy = RegoPolicy.open(FOLDER)
    assert policy.problems() == ()
    return policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("rules"))


@pytest.fixture
def opa() -> Path:
    found = find_compiler()
    assert found is not None, "CI needs opa; get it with `cld policy install-opa`"
    return found


def may(policy: RegoPolicy, who: Principal, action: Any, uri: Any, **context: Any) -> bool:
    return policy.decide(who, action, uri, Context(**context)).allow


def test_the_local_user_owns_everything(shipped: RegoPolicy) -> None:
    for uri in (ROOT, NOTE, DOCS, SALES, TOOL, parse_uri("cld:cld.Namespace.docs"), parse_uri("cld:plan.Approval.a")):
        for action in ACTIONS:
            assert may(shipped, LOCAL, action, uri), (action, uri)


def test_an_editor_changes_all_but_what_the_system_is_made_of(shipped: RegoPolicy) -> None:
    assert all(may(shipped, EDITOR, action, NOTE) for action in ACTIONS)
    for name in ("tool.Tool.x", "assistant.Profile.x", "common.Assistant.x", "common.Schema.x", "cld.Namespace.x"):
        uri = parse_uri(f"cld:{name}")
        assert not may(shipped, EDITOR, "write", uri), uri
        assert not may(shipped, EDITOR, "delete", uri), uri


def test_a_reader_only_reads(shipped: RegoPolicy) -> None:
    assert [action for action in ACTIONS if may(shipped, READER, action, NOTE)] == ["read", "list", "subscribe"]


def test_roles_do_not_reach_into_namespaces_unless_held_there(shipped: RegoPolicy) -> None:
    assert not may(shipped, EDITOR, "read", DOCS)
    scoped = Principal("user:bob", "user", roles=("editor@docs",))
    assert may(shipped, scoped, "write", DOCS)
    assert not may(shipped, scoped, "read", SALES)
    assert not may(shipped, scoped, "read", NOTE)


def test_a_stranger_may_nothing_but_call_the_tools_that_decide_again(shipped: RegoPolicy) -> None:
    assert not any(may(shipped, EVE, action, uri) for action in ACTIONS for uri in (ROOT, NOTE, DOCS, TOOL))
    assert may(shipped, EVE, "call", GET)


def test_an_assistant_is_narrower_than_the_person_it_acts_for(shipped: RegoPolicy) -> None:
    assert all(may(shipped, WRITER, action, NOTE) for action in ("read", "list", "subscribe", "write", "call"))
    assert may(shipped, WRITER, "write", parse_uri("cld:plan.Proposal.p"), arguments={"content": {"confidence": 0.9}})
    assert not may(shipped, WRITER, "delete", NOTE)
    for name in ("tool.Tool.x", "common.Assistant.x", "common.Schema.x", "cld.Namespace.x", "plan.Approval.x"):
        assert not may(shipped, WRITER, "write", parse_uri(f"cld:{name}")), name
    assert not may(shipped, WRITER, "call", parse_uri("cld:tool.Tool.approve"))


def test_an_assistant_does_not_write_what_work_writes_down_of_itself(shipped: RegoPolicy) -> None:
    for below in ("plan.Task.t", "plan.Turn.t0000", "plan.Ledger.budget", "plan.Approval.a", "tool.Call.c"):
        for place in ("cld:plan.Task.r", "cld:cld.Namespace.docs/plan.Task.r"):
            uri = parse_uri(f"{place}/{below}")
            for action in ("write", "delete"):
                assert not may(shipped, WRITER, action, uri), (action, uri)
                assert may(shipped, LOCAL, action, uri), (action, uri)
            assert may(shipped, WRITER, "read", uri)


def test_an_assistant_on_its_own_may_nothing(shipped: RegoPolicy) -> None:
    assert not any(may(shipped, parse_principal("assistant:writer"), action, NOTE) for action in ACTIONS)


def test_a_destructive_tool_needs_approval_and_cld_own_do_not(shipped: RegoPolicy) -> None:
    decision = shipped.decide(LOCAL, "call", TOOL, Context(tool="shell", destructive=True))
    assert decision.obligations["require_approval"] == {"reason": "the tool shell is destructive"}
    delete = parse_uri("cld:tool.Tool.resource_delete")
    own = shipped.decide(LOCAL, "call", delete, Context(tool="resource_delete", destructive=True))
    assert own.allow and "require_approval" not in own.obligations


def test_an_unsure_proposal_needs_approval(shipped: RegoPolicy) -> None:
    proposal = parse_uri("cld:plan.Proposal.p")
    for confidence, needed in ((0.69, True), (0.7, False), ("high", True), (None, True)):
        found = shipped.decide(LOCAL, "write", proposal, Context(arguments={"content": {"confidence": confidence}}))
        assert ("require_approval" in found.obligations) == needed, confidence
    assert "require_approval" in shipped.decide(LOCAL, "call", TOOL, Context(arguments={"confidence": 0.1})).obligations


def test_a_large_body_does_not_hide_that_a_proposal_is_unsure(shipped: RegoPolicy) -> None:
    proposal = parse_uri("cld:plan.Proposal.p")
    padded = {**{f"k{n}": "x" * 1000 for n in range(500)}, "confidence": 0.9}
    assert "require_approval" in shipped.decide(LOCAL, "write", proposal, Context(arguments=padded)).obligations


def test_an_assistant_is_bounded_in_tokens(shipped: RegoPolicy) -> None:
    assert shipped.decide(WRITER, "call", TOOL, Context()).obligations == {"max_tokens": 200000}


def test_every_denial_says_why_in_words(shipped: RegoPolicy) -> None:
    for who in (EDITOR, READER, WRITER, EVE):
        for action in ACTIONS:
            for uri in (NOTE, DOCS, TOOL, parse_uri("cld:cld.Namespace.docs")):
                decision = shipped.decide(who, action, uri, Context())
                if not decision.allow:
                    assert decision.reasons and all(len(reason) > 20 for reason in decision.reasons), (who.id, action)


def test_the_words_name_what_there_is_instead(shipped: RegoPolicy) -> None:
    scoped = Principal("user:bob", "user", roles=("reader@docs",))
    assert shipped.decide(scoped, "write", DOCS, Context()).reasons == (
        f"user:bob (reader@docs) may not write {DOCS}; "
        "role:reader has read, list, subscribe for * in cld:cld.Namespace.docs".replace(" for *", ""),
    )


@needs_opa
def test_the_committed_rules_are_what_their_sources_compile_to(opa: Path) -> None:
    lock = decode_lock((FOLDER / "policy.lock.json").read_bytes())
    wasm = (FOLDER / "policy.wasm").read_bytes()
    assert lock.wasm == hashlib.sha256(wasm).hexdigest()
    compiled = compile_rules(FOLDER, opa)
    assert compiled.lock.sources == lock.sources, "run `cld policy build` and commit the result"
    assert compiled.lock.needs_meta is lock.needs_meta is False
    # Another version of OPA may compile the same rules to other bytes.
    if compiled.lock.opa == lock.opa:
        assert compiled.wasm == wasm


def test_every_concern_has_tests_beside_it() -> None:
    names = set(read_sources(FOLDER))
    rules = {name for name in names if not name.endswith("_test.rego")}
    assert {f"{name.removesuffix('.rego')}_test.rego" for name in rules} == names - rules


elements = st.sampled_from(
    ["cld.Namespace.docs", "cld.Namespace.docs2", "cld.Namespace.sales", "common.Conversation.c1", "common.Message.m1",
     "plan.Task.t1", "plan.Proposal.p", "plan.Approval.a", "tool.Tool.shell", "tool.Call.x", "common.Schema.s"]
)  # fmt: skip
uris = st.lists(elements, max_size=4).map(lambda parts: parse_prefix("cld:" + "/".join(parts)))
roles = st.lists(
    st.sampled_from(["owner", "editor", "reader", "owner@docs", "reader@docs", "editor@sales", "x"]), max_size=3
)
people = st.builds(lambda n, r: Principal(f"user:u{n}", "user", roles=tuple(r)), st.integers(0, 3), roles)
principals = people | st.builds(
    lambda n, r, other: Principal(f"assistant:u{n}", "assistant", roles=tuple(r), on_behalf_of=other),
    st.integers(0, 3), roles, st.none() | people,
)  # fmt: skip
contexts = st.builds(
    Context,
    tool=st.sampled_from(["", "resource_get", "shell"]),
    task=st.just("") | uris.filter(lambda uri: uri != ROOT),
    destructive=st.booleans(),
)
actions = st.lists(st.sampled_from(["*", *ACTIONS]), max_size=3)
types = st.lists(st.sampled_from(["*", "common.*", "plan.Task", "tool.*"]), max_size=2)
subjects = st.sampled_from(
    [
        "anyone",
        "delegate",
        "kind:user",
        "kind:assistant",
        "role:owner",
        "role:reader",
        "role:x",
        "user:u1",
        "assistant:u1",
    ]
)
grant = st.fixed_dictionaries({"allow": actions}, optional={"types": types, "namespaces": st.booleans()})
grants = st.dictionaries(subjects, st.dictionaries(uris, grant, max_size=3), max_size=4)
some_actions = st.lists(st.sampled_from(["*", *ACTIONS]), min_size=1, max_size=3)
some_types = st.lists(st.sampled_from(["*", "common.*", "plan.Task", "tool.*"]), min_size=1, max_size=2)
denial = st.fixed_dictionaries({"deny": some_actions}, optional={"types": some_types})
denies = st.dictionaries(subjects, st.dictionaries(uris, denial, max_size=2), max_size=2)
datas = st.fixed_dictionaries(
    {
        "members": st.dictionaries(st.sampled_from(["user:u0", "user:u1", "assistant:u2"]), roles, max_size=3),
        "grants": grants,
        "denies": denies,
        "owners_only": st.just({"tool.*": True, "tool.Call": False, "cld.Namespace": True}),
        "persons_only": st.just({"plan.*": True, "plan.Proposal": False}),
        "namespaces": st.dictionaries(
            st.sampled_from(["docs", "sales"]), st.fixed_dictionaries({"tools": st.just(["resource_get"])}), max_size=2
        ),
    }
)


@settings(max_examples=150)
@given(st.data())
def test_filtering_and_deciding_always_agree(folder: Folder, data: st.DataObject) -> None:
    folder.write_data(data.draw(datas))
    policy = folder.open()
    assert policy.problems() == ()
    asked = data.draw(st.lists(uris, min_size=1, max_size=8))
    for _ in range(3):
        who, action, context = data.draw(principals), data.draw(st.sampled_from(ACTIONS)), data.draw(contexts)
        one_by_one = [policy.decide(who, action, uri, context) for uri in asked]
        assert policy.filter(who, action, asked, context) == [decision.allow for decision in one_by_one]
        assert all(decision.reasons for decision in one_by_one if not decision.allow)


def test_a_grant_gives_nothing_beside_its_place(folder: Folder) -> None:
    """Against a model in Python, over random places: reach is by elements, and ends at namespaces."""
    chance = random.Random(7)
    parts = ["common.Conversation.c", "common.Conversation.c1", "plan.Task.t", "cld.Namespace.a", "cld.Namespace.ab"]
    places = [parse_prefix("cld:" + "/".join(chance.choices(parts, k=chance.randint(0, 3)))) for _ in range(40)]
    for place in places[:12]:
        folder.write_data({"grants": {"user:ada": {place: {"allow": ["read"]}}}})
        policy = folder.open()
        for uri in places:
            inside = f"{uri}/".startswith(f"{place}/") or place == ROOT
            expected = inside and not (place == ROOT and uri.startswith("cld:cld.Namespace."))
            assert policy.decide(ADA, "read", uri, Context()).allow == expected, (place, uri)


def test_shipped_data_is_readable_as_documented() -> None:
    data = msgspec.json.decode((FOLDER / "data.json").read_bytes())
    assert data["members"] == {"user:local": ["owner"]}
