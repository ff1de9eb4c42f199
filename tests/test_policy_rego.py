"""Loading, hot reload and failing closed: whatever is wrong with the folder or the rules, the answer is no."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from policy_folder import ADA, LOCAL, Folder, find_compiler, needs_opa

from cld.policy import Context
from cld.policy.lock import DECISION
from cld.policy.rego import RegoPolicy
from cld.principal import Principal
from cld.uri import URI, parse_uri

NOTE = parse_uri("cld:common.Conversation.c1/common.Message.m1")
LET_ADA = {"grants": {"user:ada": {"cld:": {"allow": ["read"]}}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder that no compiler is found for, whatever the machine has."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr("cld.policy.build.private_folder", lambda _name: None)
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def opa() -> str:
    found = find_compiler()
    assert found is not None, "CI needs opa; get it with `cld policy install-opa`"
    return str(found)


def reads(policy: RegoPolicy, who: Principal = LOCAL) -> bool:
    return policy.decide(who, "read", NOTE, Context()).allow


def instance_of(policy: RegoPolicy) -> Any:
    evaluator = policy._folder.in_force.evaluator
    assert evaluator is not None
    return evaluator._instance


def assert_nothing_is_allowed(policy: RegoPolicy, *words: str) -> None:
    decision = policy.decide(LOCAL, "read", NOTE, Context())
    assert not decision.allow
    assert policy.filter(LOCAL, "read", [NOTE, NOTE], Context()) == [False, False]
    text = " ".join(decision.reasons)
    for word in words:
        assert word in text, text
    assert policy.problems()


@pytest.mark.parametrize("name", ["policy.wasm", "policy.lock.json", "data.json"])
def test_without_one_of_its_files_nothing_is_allowed(folder: Folder, name: str) -> None:
    (folder.path / name).unlink()
    assert_nothing_is_allowed(folder.open(), name, "cannot be read")


def test_rules_that_are_not_those_of_the_lock_are_not_run(folder: Folder) -> None:
    wasm = folder.path / "policy.wasm"
    wasm.write_bytes(wasm.read_bytes() + b"\0")
    assert_nothing_is_allowed(folder.open(), "policy.wasm is not the one that policy.lock.json names")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"members": {"user:ada": "owner"}}', '{"grants": {"user:ada": {"cld:": {"alow": []}}}}']
)
def test_with_data_that_does_not_fit_at_start_nothing_is_allowed(folder: Folder, text: str) -> None:
    (folder.path / "data.json").write_text(text)
    assert_nothing_is_allowed(folder.open(), "data.json does not fit")


def test_files_that_are_mended_count_at_once(folder: Folder) -> None:
    good = folder.read_data()
    folder.write_data({"grants": 1})
    policy = folder.open()
    assert_nothing_is_allowed(policy)
    folder.write_data(good)
    assert reads(policy)
    assert policy.problems() == ()


def test_data_takes_effect_at_the_next_decision(folder: Folder) -> None:
    policy = folder.open()
    before = policy.revision
    assert not reads(policy, ADA)
    folder.write_data(LET_ADA)
    assert reads(policy, ADA)
    assert policy.revision != before
    folder.write_data({})
    assert not reads(policy, ADA)


def test_edits_that_look_the_same_to_stat_are_seen(folder: Folder) -> None:
    file = folder.path / "data.json"
    folder.write_data(LET_ADA)
    policy = folder.open()
    status = file.stat()
    for user, allowed in (("bob", False), ("ada", True)) * 3:
        descriptor = os.open(file, os.O_WRONLY)
        os.pwrite(descriptor, file.read_bytes().replace(b"user:ada", f"user:{user}".encode()), 0)
        if user == "ada":
            os.pwrite(descriptor, file.read_bytes().replace(b"user:bob", b"user:ada"), 0)
        os.close(descriptor)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert reads(policy, ADA) == allowed


def test_a_file_read_while_young_is_read_again_until_it_is_old(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose clock is so coarse that two edits have one time."""
    file = folder.path / "data.json"
    folder.write_data(LET_ADA)
    policy = folder.open()
    assert reads(policy, ADA)
    real, frozen = os.stat, file.stat()
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: frozen if str(path) == str(file) else real(path, *a, **k))
    file.write_bytes(file.read_bytes().replace(b"user:ada", b"user:bob"))
    assert not reads(policy, ADA)


def test_a_bad_edit_keeps_the_last_good_data_and_is_told(folder: Folder) -> None:
    folder.write_data(LET_ADA)
    policy = folder.open()
    (folder.path / "data.json").write_text("{ half an ed")
    assert reads(policy, ADA)
    assert "data.json does not fit" in policy.problems()[0]
    folder.write_data({})
    assert not reads(policy, ADA)
    assert policy.problems() == ()


def test_a_bad_edit_denies_all_where_that_is_set(folder: Folder) -> None:
    good = folder.read_data()
    policy = folder.open(on_error="deny_all")
    assert reads(policy)
    (folder.path / "data.json").write_text("{ half an ed")
    assert_nothing_is_allowed(policy, "data.json does not fit")
    folder.write_data(good)
    assert reads(policy)


def test_changed_rules_without_a_compiler_keep_what_the_lock_names_and_are_told(folder: Folder) -> None:
    (folder.path / "types.rego").write_text("package cld.types\n")
    policy = folder.open()
    assert reads(policy)
    assert "no opa" in policy.problems()[0] and "types.rego" in policy.problems()[0]


def test_changed_rules_without_a_compiler_deny_all_where_that_is_set(folder: Folder) -> None:
    (folder.path / "extra.rego").write_text("package cld.extra\n")
    assert_nothing_is_allowed(folder.open(on_error="deny_all"), "no opa", "extra.rego")


def test_rules_changed_back_are_in_force_again(folder: Folder) -> None:
    text = (folder.path / "types.rego").read_text()
    (folder.path / "types.rego").write_text("package cld.types\n")
    policy = folder.open(on_error="deny_all")
    assert not reads(policy)
    (folder.path / "types.rego").write_text(text)
    assert anyio.run(policy.refresh)
    assert reads(policy)
    assert not anyio.run(policy.refresh)


def test_a_compiler_that_is_set_but_not_there_is_told(folder: Folder) -> None:
    (folder.path / "extra.rego").write_text("package cld.extra\n")
    policy = folder.open(opa="/nowhere/opa")
    assert "/nowhere/opa" in policy.problems()[0]


@needs_opa
def test_changed_rules_are_compiled_tested_and_locked(folder: Folder, opa: str) -> None:
    policy = folder.open(opa=opa)
    before = policy.revision
    rules = (folder.path / "authz.rego").read_text()
    tightened = rules.replace(
        "\tgrants.allowed(resource)\n", '\tgrants.allowed(resource)\n\tresource.type != "common.Message"\n'
    )
    assert tightened != rules
    (folder.path / "authz.rego").write_text(tightened)
    for file in folder.path.glob("*_test.rego"):
        file.unlink()
    assert reads(policy)
    assert anyio.run(policy.refresh)
    assert not reads(policy)
    assert policy.revision != before
    assert policy.problems() == ()
    # Another process, without a compiler, takes them over from the files.
    assert not reads(folder.open())


RANDOM = """package cld.grants

allowed(resource) if {
	resource.uri == "cld:a.B.c"
	rand.intn("", 2) == 0
}
"""


@needs_opa
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("authz.rego", "package cld.authz\n\nallow if {", "rego_parse_error"),
        ("extra.rego", "package cld.extra\n\np if not y\n", "rego_unsafe_var_error"),
        ("extra_test.rego", "package cld.extra_test\n\ntest_no if false\n", "FAIL"),
        ("extra.rego", RANDOM, "rand.intn, which compiled rules do not have"),
    ],
)  # fmt: skip
def test_rules_that_do_not_hold_never_replace_those_that_do(
    folder: Folder, opa: str, name: str, text: str, words: str
) -> None:
    policy = folder.open(opa=opa)
    wasm = (folder.path / "policy.wasm").read_bytes()
    (folder.path / name).write_text(text)
    assert not anyio.run(policy.refresh)
    assert reads(policy)
    assert words in policy.problems()[0]
    assert (folder.path / "policy.wasm").read_bytes() == wasm
    assert not reads(folder.open(opa=opa, on_error="deny_all"))


OPEN = """
import sys
from pathlib import Path
from cld.policy.rego import RegoPolicy
policy = RegoPolicy.open(Path(sys.argv[1]), opa=sys.argv[2])
print(policy.revision, policy.problems())
"""


@needs_opa
def test_several_processes_that_start_after_an_edit_agree(folder: Folder, opa: str) -> None:
    (folder.path / "extra.rego").write_text("package cld.extra\n\np := 1\n")
    command = [sys.executable, "-c", OPEN, str(folder.path), opa]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert len(set(said)) == 1, said
    assert said[0].endswith("()\n")
    assert folder.open().problems() == ()


@needs_opa
def test_rules_half_written_by_a_process_that_died_are_made_again(folder: Folder, opa: str) -> None:
    wasm = folder.path / "policy.wasm"
    good = wasm.read_bytes()
    wasm.write_bytes(good[:1000])
    assert not reads(folder.open())
    assert reads(folder.open(opa=opa))
    assert wasm.read_bytes() == good


@needs_opa
def test_decisions_go_on_while_rules_are_compiled(folder: Folder, opa: str) -> None:
    policy = folder.open(opa=opa)
    (folder.path / "extra.rego").write_text("package cld.extra\n\np := 1\n")
    longest = 0.0

    async def ask() -> None:
        nonlocal longest
        done = False

        async def refresh() -> None:
            nonlocal done
            await policy.refresh()
            done = True

        async with anyio.create_task_group() as group:
            group.start_soon(refresh)
            while not done:
                began = time.perf_counter()
                assert reads(policy)
                longest = max(longest, time.perf_counter() - began)
                await anyio.sleep(0)

    anyio.run(ask)
    assert policy.problems() == ()
    assert longest < 0.2


SHAPES = {
    'decision := {"allow": "yes", "reasons": [], "obligations": {}}': "wrong shape",
    'decision := {"allow": 1, "reasons": [], "obligations": {}}': "wrong shape",
    'decision := {"allow": true}': "wrong shape",
    "decision := true": "wrong shape",
    'decision := {"allow": true, "reasons": "none", "obligations": {}}': "wrong shape",
    'decision := {"allow": true, "reasons": [], "obligations": {"require_approval": true}}': "require_approval",
    'decision := {"allow": true, "reasons": [], "obligations": {"max_tokens": -1}}': "max_tokens",
    "decision := input.nothing": "undefined",
}
REST = '\nallowed := ["x"]\n\nexplain := {}\n'


@needs_opa
@pytest.mark.parametrize("rule", SHAPES)
def test_an_answer_of_the_wrong_shape_is_a_no(folder: Folder, opa: str, rule: str) -> None:
    folder.write_rules(f"package cld.authz\n\n{rule}\n{REST}")
    policy = folder.open(opa=opa)
    assert policy.problems() == ()
    decision = policy.decide(LOCAL, "read", NOTE, Context())
    assert not decision.allow
    assert SHAPES[rule] in decision.reasons[0]
    assert policy.filter(LOCAL, "read", [NOTE], Context()) == [False]


@needs_opa
@pytest.mark.parametrize("answer", ["[7]", "[-1]", "[0.5]", "[true]", "{}", "true", "input.nothing"])
def test_a_filter_that_names_no_position_allows_nothing(folder: Folder, opa: str, answer: str) -> None:
    folder.write_rules(f"package cld.authz\n\ndecision := 1\n\nallowed := {answer}\n\nexplain := 1\n")
    policy = folder.open(opa=opa)
    assert policy.filter(LOCAL, "read", [NOTE, NOTE], Context()) == [False, False]


RUNAWAY = """package cld.authz

decision := {"allow": good, "reasons": [], "obligations": {}}

good if input.action == "read"

good if {
	input.action == "write"
	count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == -1]) == 0
}

good if {
	input.action == "delete"
	count({x | some a in numbers.range(1, 9000); some b in numbers.range(1, 400); x := a * 1000 + b}) > 1
}

good if {
	input.action == "call"
	contains(sprintf("%x", [1]), "1")
}

allowed := [0] if good

explain := 1
"""


@pytest.fixture(scope="module")
def runaway(tmp_path_factory: pytest.TempPathFactory, opa: str) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("runaway"))
    folder.write_rules(RUNAWAY)
    assert folder.open(opa=opa).problems() == ()
    return folder


@needs_opa
def test_rules_that_run_away_are_stopped_and_the_next_question_is_answered(runaway: Folder) -> None:
    policy = runaway.open(timeout_ms=100)
    assert reads(policy)
    before = instance_of(policy)
    began = time.perf_counter()
    decision = policy.decide(LOCAL, "write", NOTE, Context())
    took = time.perf_counter() - began
    assert not decision.allow
    assert "longer than 100 ms" in decision.reasons[0]
    assert 0.08 < took < 1.0
    assert policy.filter(LOCAL, "write", [NOTE], Context()) == [False]
    assert reads(policy)
    assert instance_of(policy) is not before, "its memory may be in any state"


@needs_opa
def test_rules_that_take_all_memory_are_stopped_and_the_next_question_is_answered(runaway: Folder) -> None:
    policy = runaway.open(timeout_ms=20_000, memory_bytes=16 << 20)
    decision = policy.decide(LOCAL, "delete", NOTE, Context())
    assert not decision.allow
    assert "policy error" in decision.reasons[0] and "ms" not in decision.reasons[0]
    assert reads(policy)


@needs_opa
def test_a_builtin_that_fails_is_a_no_and_not_undefined(runaway: Folder) -> None:
    policy = runaway.open()
    decision = policy.decide(LOCAL, "call", NOTE, Context())
    assert not decision.allow
    assert "sprintf" in decision.reasons[0]
    assert reads(policy)


@needs_opa
def test_rules_that_look_at_meta_say_so(folder: Folder, opa: str) -> None:
    folder.write_rules(
        'package cld.authz\n\ndecision := {"allow": ok(input.resource), "reasons": [], "obligations": {}}\n\n'
        'default ok(_) := false\n\nok(resource) if resource.meta.purpose == "public"\n\n'
        "allowed := [n | some n, r in input.resources; ok(r)]\n\nexplain := 1\n"
    )
    policy = folder.open(opa=opa)
    assert policy.problems() == ()
    assert policy.needs_meta
    for purpose, allowed in (("public", True), ("secret", False)):
        assert policy.decide(ADA, "read", NOTE, Context(), {"purpose": purpose}).allow == allowed
        metas = [{"purpose": purpose}, {}]
        assert policy.filter(ADA, "read", [NOTE, NOTE], Context(), metas) == [allowed, False]
    assert policy.filter(ADA, "read", [NOTE], Context(), []) == [False]


def test_what_rules_print_does_not_reach_stdout(
    folder: Folder, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """OPA leaves print out of what it compiles, so the import it would call is called here."""
    caplog.set_level("INFO")
    instance_of(folder.open())._printed("hello")
    assert capfd.readouterr().out == ""
    assert "rules print: hello" in caplog.text


BAD_QUESTIONS: list[tuple[Any, Any, Any, Any]] = [
    (LOCAL, "rea", NOTE, Context()),
    (LOCAL, "read", URI("cld:../etc"), Context()),
    (LOCAL, "read", URI("cld:common.Message.m1 "), Context()),
    (LOCAL, "read", None, Context()),
    (LOCAL, "read", NOTE, Context(tool=7)),  # pyright: ignore[reportArgumentType]
    (LOCAL, "read", NOTE, Context(arguments={1: 2})),  # pyright: ignore[reportArgumentType]
    (LOCAL, "read", NOTE, Context(arguments={"x": object()})),
    (LOCAL, "read", NOTE, Context(destructive=1)),  # pyright: ignore[reportArgumentType]
    (LOCAL, "read", NOTE, None),
    (None, "read", NOTE, Context()),
    (Principal("role:owner", "user"), "read", NOTE, Context()),
    (Principal("user:x", "root"), "read", NOTE, Context()),  # pyright: ignore[reportArgumentType]
    (Principal("user:local", "user", roles="owner"), "read", URI("x"), Context()),  # pyright: ignore[reportArgumentType]
    (Principal("user:local", "user", roles=(1,)), "read", NOTE, Context()),  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize("question", BAD_QUESTIONS)
def test_a_question_of_the_wrong_types_is_answered_no(folder: Folder, question: tuple[Any, Any, Any, Any]) -> None:
    policy = folder.open()
    who, action, uri, context = question
    decision = policy.decide(who, action, uri, context)
    assert not decision.allow
    assert decision.reasons
    assert policy.filter(who, action, [uri], context) == [False]


def test_one_bad_uri_does_not_take_the_others_with_it(folder: Folder) -> None:
    policy = folder.open()
    assert policy.filter(LOCAL, "read", [NOTE, URI("cld:.."), NOTE], Context()) == [True, False, True]
    assert policy.filter(LOCAL, "read", [], Context()) == []


def test_many_threads_get_their_own_answers(folder: Folder) -> None:
    folder.write_data(LET_ADA)
    policy = folder.open()
    wrong: list[str] = []

    def ask(who: Principal, expected: bool) -> None:
        answers = [(reads(policy, who), *policy.filter(who, "read", [NOTE] * 3, Context())) for _ in range(200)]
        if set(answers) != {(expected,) * 4}:
            wrong.append(who.id)

    bob = Principal("user:bob", "user")
    threads = [threading.Thread(target=ask, args=pair) for pair in ((ADA, True), (bob, False)) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert wrong == []


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to see memory")
def test_neither_decisions_nor_reloads_leak(folder: Folder) -> None:
    policy = folder.open()

    def work(rounds: int) -> None:
        for number in range(rounds):
            folder.write_data({**LET_ADA, "mine": number})
            assert reads(policy, ADA)
            policy.filter(ADA, "read", [NOTE] * 200, Context())

    work(20)
    gc.collect()
    before = resident()
    work(60)
    gc.collect()
    assert resident() - before < 20_000_000


def test_the_engine_clock_stands_still_when_nothing_is_asked(folder: Folder) -> None:
    from cld.policy.wasm import _engine  # noqa: PLC0415

    policy = folder.open()
    assert reads(policy)
    clock = _engine()[1]
    end = time.monotonic() + 10
    while not clock.parked and time.monotonic() < end:
        threading.Event().wait(0.05)
    assert clock.parked
    assert reads(policy)


def test_the_rules_have_the_entrypoint_that_hosts_of_opa_expect() -> None:
    assert DECISION == "cld/authz/decision"
