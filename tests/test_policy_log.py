"""The decision log, its replay, and explanations."""

import datetime
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from policy_folder import ADA, FOLDER, LOCAL, Folder

from cld.errors import PolicyError
from cld.guard import Guard
from cld.policy import Context
from cld.policy.explain import explain, replay
from cld.policy.log import EXAMPLES, DecisionLog, log_files
from cld.policy.rego import RegoPolicy
from cld.principal import Principal
from cld.uri import URI, parse_uri

NOTE = parse_uri("cld:common.Conversation.c1/common.Message.m1")
OTHER = parse_uri("cld:common.Conversation.c2/common.Message.m1")
WRITER = Principal("assistant:writer", "assistant", on_behalf_of=LOCAL)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Any:
    log = DecisionLog(tmp_path / "log")
    yield log
    log.close()


def lines(log: DecisionLog) -> list[Any]:
    return [msgspec.json.decode(line) for file in log_files(log.folder) for line in file.read_bytes().splitlines()]


def test_every_decision_is_a_line_with_revision_input_and_answer(folder: Folder, log: DecisionLog) -> None:
    policy = folder.open()
    guard = Guard(WRITER, policy, log)
    assert guard.decide("read", NOTE, Context(tool="resource_get")).allow
    assert not guard.decide("delete", NOTE, Context()).allow
    found = lines(log)
    assert [
        (line["input"]["principal"]["id"], line["input"]["action"], line["decision"]["allow"]) for line in found
    ] == [
        ("assistant:writer", "read", True),
        ("user:local", "read", True),
        ("assistant:writer", "delete", False),
    ]
    assert all(line["revision"] == policy.revision for line in found)
    assert found[0]["input"]["context"]["tool"] == "resource_get"
    assert "assistants do not delete" in " ".join(found[2]["decision"]["reasons"])


def test_a_filter_is_one_line_with_uris_and_answers(folder: Folder, log: DecisionLog) -> None:
    folder.write_data({"grants": {"user:ada": {"cld:common.Conversation.c1": {"allow": ["read"]}}}})
    policy = folder.open()
    assert Guard(ADA, policy, log).filter("read", [NOTE, OTHER], Context(tool="resource_list")) == [True, False]
    (line,) = lines(log)
    assert line["filter"]["uris"] == [NOTE, OTHER]
    assert line["allowed"] == [True, False]
    assert line["filter"]["context"]["tool"] == "resource_list"
    assert line["revision"] == policy.revision


def many(count: int) -> list[URI]:
    texts = [parse_uri(f"cld:common.Text.t{number:04}") for number in range(count)]
    return [*texts, parse_uri("cld:cld.Namespace.docs/plan.Task.last")]


def test_a_brief_filter_of_many_is_one_line_of_bounded_size_that_says_how_many_and_which_by_digest(
    folder: Folder, log: DecisionLog
) -> None:
    hidden = {f"cld:common.Text.t{number:04}": {"deny": ["read"]} for number in range(0, 900, 2)}
    folder.write_data(
        {
            "grants": {"user:ada": {"cld:": {"allow": ["read"], "namespaces": True}}},
            "denies": {"user:ada": hidden},
        }
    )
    guard = Guard(ADA, folder.open(), log, brief=True)
    uris = many(900)
    allowed = guard.filter("read", uris, Context(tool="index"))
    (line,) = lines(log)
    assert line["count"]["principal"]["id"] == ADA.id and line["count"]["action"] == "read"
    assert line["count"]["context"]["tool"] == "index"
    for group, answer in zip(line["groups"], (True, False), strict=True):
        mine = [uri for uri, may in zip(uris, allowed, strict=True) if may is answer]
        assert (group["allow"], group["count"]) == (answer, len(mine))
        assert group["sha256"] == hashlib.sha256("\n".join(mine).encode()).hexdigest()
        assert len(group["examples"]) == EXAMPLES and set(group["examples"]) <= set(mine)
    assert uris[-1] in line["groups"][0]["examples"], "each namespace and type has an example"
    assert len(msgspec.json.encode(line)) < 2000


def test_a_brief_filter_of_a_few_names_them_all(folder: Folder, log: DecisionLog) -> None:
    guard = Guard(LOCAL, folder.open(), log, brief=True)
    guard.filter("read", many(EXAMPLES - 1), Context())
    guard.filter("read", many(EXAMPLES), Context())
    few, more = lines(log)
    assert few["filter"]["uris"] == many(EXAMPLES - 1)
    assert more["groups"][0]["count"] == EXAMPLES + 1


def test_a_guard_that_is_not_brief_names_all_unless_asked_not_to(folder: Folder, log: DecisionLog) -> None:
    guard = Guard(LOCAL, folder.open(), log)
    guard.filter("read", many(50), Context())
    guard.filter("read", many(50), Context(), brief=True)
    named, counted = lines(log)
    assert named["filter"]["uris"] == many(50)
    assert counted["groups"][0]["count"] == 51


def test_replay_decides_on_the_examples_of_what_was_counted(folder: Folder, log: DecisionLog, tmp_path: Path) -> None:
    Guard(LOCAL, folder.open(), log, brief=True).filter("read", many(100), Context())
    other = Folder(tmp_path / "other")
    other.write_data(
        {
            "members": {"user:local": ["owner"]},
            "grants": {"role:owner": {"cld:": {"allow": ["*"], "types": ["*"], "namespaces": True}}},
            "denies": {"user:local": {"cld:cld.Namespace.docs": {"deny": ["read"]}}},
        }
    )
    assert list(replay(log.folder, folder.open())) == []
    assert [(one.uri, one.before, one.after) for one in replay(log.folder, other.open())] == [
        ("cld:cld.Namespace.docs/plan.Task.last", True, False)
    ]


def test_replay_gives_rules_the_metas_of_the_examples(log: DecisionLog) -> None:
    metas: list[Any] = [{"purpose": f"p{number}"} for number in range(20)]
    uris = many(19)
    log.counted(LOCAL, "read", uris, Context(), metas, [number > 3 for number in range(20)], "r")
    (line,) = lines(log)
    for group in line["groups"]:
        assert group["metas"] == [metas[uris.index(parse_uri(uri))] for uri in group["examples"]]


def test_the_log_as_a_whole_stays_below_its_bound_and_the_oldest_goes_first(folder: Folder, tmp_path: Path) -> None:
    place = tmp_path / "log"
    place.mkdir()
    today = datetime.datetime.now(datetime.UTC).date()
    days = [today - datetime.timedelta(days=back) for back in (3, 2, 1)]
    for day in days:
        (place / f"decisions-{day:%Y%m%d}.jsonl").write_text("{}\n" * 100_000)
    log = DecisionLog(place, total_bytes=1_000_000)
    guard = Guard(LOCAL, folder.open(), log)
    guard.decide("read", NOTE, Context())
    assert [file.name[10:18] for file in log_files(place)] == [f"{day:%Y%m%d}" for day in (*days[1:], today)]
    largest = 0
    for _ in range(150):
        guard.filter("read", many(200), Context())
        largest = max(largest, sum(file.stat().st_size for file in log_files(place)))
    log.close()
    assert largest < 1_000_000
    assert {file.name[10:18] for file in log_files(place)} == {f"{today:%Y%m%d}"}
    assert len(lines(log)) > 50, "most of the room is used"


def test_secrets_are_not_logged(folder: Folder, log: DecisionLog) -> None:
    context = Context(arguments={"password": "hunter2", "headers": {"Authorization": "Bearer hunter2"}})
    guard = Guard(LOCAL, folder.open(), log)
    guard.decide("call", NOTE, context)
    guard.filter("read", [NOTE], context)
    text = b"".join(file.read_bytes() for file in log_files(log.folder))
    assert b"hunter2" not in text
    assert text.count(b"[redacted]") == 4


def test_what_cannot_be_logged_is_not_done(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    guard = Guard(LOCAL, folder.open(), DecisionLog(tmp_path / "file" / "log"))
    with pytest.raises(PolicyError, match="cannot be written to the log"):
        guard.decide("read", NOTE, Context())
    with pytest.raises(PolicyError, match="cannot be written to the log"):
        guard.filter("read", [NOTE], Context())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_everything_until_there_is_room(folder: Folder, log: DecisionLog) -> None:
    guard = Guard(LOCAL, folder.open(), log)
    guard.decide("read", NOTE, Context())
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    with pytest.raises(PolicyError, match="No space left"):
        guard.decide("read", NOTE, Context())
    os.close(full)
    guard.decide("read", NOTE, Context())
    assert len(lines(log)) == 2


def test_after_a_torn_line_the_next_begins_a_new_one(
    folder: Folder, log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(LOCAL, folder.open(), log)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:20]))
    with pytest.raises(PolicyError, match="20 of"):
        guard.decide("read", NOTE, Context())
    monkeypatch.setattr(os, "write", real)
    guard.decide("read", NOTE, Context())
    torn, whole = log_files(log.folder)[0].read_bytes().splitlines()
    assert len(torn) == 20
    assert msgspec.json.decode(whole)["decision"]["allow"] is True
    assert list(replay(log.folder, folder.open())) == []


WRITE = """
import sys
from pathlib import Path
from cld.policy import Context, Decision
from cld.policy.log import DecisionLog
from cld.principal import parse_principal
from cld.uri import URI, parse_uri
log = DecisionLog(Path(sys.argv[1]), max_bytes=100_000)
for number in range(300):
    decision = Decision(allow=True, reasons=("x" * (number * 7 % 900),))
    log.decided(parse_principal("user:" + sys.argv[2]), "read", parse_uri("cld:a.B.c"), Context(), None, decision)
"""


def test_lines_of_several_processes_do_not_mix_and_large_files_are_followed_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    processes = [subprocess.Popen([sys.executable, "-c", WRITE, str(folder), name]) for name in ("ada", "bob", "eve")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    files = log_files(folder)
    found = [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]
    assert len(found) == 900
    assert len(files) > 2
    assert all(file.stat().st_size < 3 * 120_000 for file in files)
    assert (folder.stat().st_mode & 0o777, files[0].stat().st_mode & 0o777) == (0o700, 0o600)


def test_old_files_are_removed(tmp_path: Path, folder: Folder) -> None:
    place = tmp_path / "log"
    place.mkdir()
    for name in ("decisions-20200101.jsonl", "decisions-20200101-1.jsonl", "notes.txt"):
        (place / name).write_text("{}")
    log = DecisionLog(place)
    Guard(LOCAL, folder.open(), log).decide("read", NOTE, Context())
    log.close()
    assert len(log_files(place)) == 1
    assert (place / "notes.txt").exists()


def test_replay_shows_what_another_policy_would_change(folder: Folder, log: DecisionLog, tmp_path: Path) -> None:
    folder.write_data({"grants": {"user:ada": {"cld:": {"allow": ["read", "delete"]}}}})
    guard = Guard(ADA, folder.open(), log)
    guard.decide("read", NOTE, Context())
    guard.decide("write", NOTE, Context())
    guard.decide("delete", NOTE, Context())
    guard.filter("read", [NOTE, OTHER], Context())
    other = Folder(tmp_path / "other")
    other.write_data(
        {
            "grants": {"user:ada": {"cld:common.Conversation.c1": {"allow": ["read", "write", "delete"]}}},
            "approvals": {"targets": {"cld:": {"actions": ["delete"]}}},
        }
    )
    assert list(replay(log.folder, folder.open())) == []
    changed = list(replay(log.folder, other.open()))
    assert [(one.action, one.uri, one.before, one.after) for one in changed] == [
        ("write", NOTE, False, True),
        ("delete", NOTE, True, True),
        ("read", OTHER, True, False),
    ]
    assert "require_approval" in changed[1].obligations_after and not changed[1].obligations_before
    assert "no grant that reaches" in changed[2].reasons[0]
    assert changed == list(replay(log_files(log.folder)[0], other.open()))


def test_replay_wants_a_policy_and_a_log(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        list(replay(tmp_path / "nothing.jsonl", folder.open()))
    (folder.path / "data.json").unlink()
    with pytest.raises(PolicyError, match=r"data\.json"):
        list(replay(tmp_path, folder.open()))


def test_an_explanation_names_the_grants_of_everyone_in_the_chain() -> None:
    policy = RegoPolicy.open(FOLDER)
    assistant, person = explain(policy, WRITER, "write", NOTE)
    assert assistant.allow and person.allow
    assert [grant["subject"] for grant in assistant.grants] == ["delegate"]
    assert [grant["subject"] for grant in person.grants] == ["role:owner"]
    assert "kind:assistant" in assistant.subjects
    denied, _ = explain(policy, WRITER, "delete", NOTE)
    assert not denied.allow
    assert [deny["place"] for deny in denied.denies] == ["cld:"]
    assert "assistants do not delete" in " ".join(denied.reasons)


def test_without_a_policy_the_explanation_is_that_there_is_none(folder: Folder) -> None:
    (folder.path / "data.json").unlink()
    (found,) = explain(folder.open(), LOCAL, "read", NOTE)
    assert not found.allow
    assert "data.json cannot be read" in found.reasons[0]


def test_a_log_that_is_removed_is_begun_anew(folder: Folder, log: DecisionLog) -> None:
    guard = Guard(LOCAL, folder.open(), log)
    guard.decide("read", NOTE, Context())
    shutil.rmtree(log.folder)
    guard.decide("read", OTHER, Context())
    (line,) = lines(log)
    assert line["input"]["resource"]["uri"] == OTHER
    shutil.rmtree(log.folder)
    log.folder.write_text("no folder")
    with pytest.raises(PolicyError, match="what is not logged is not done"):
        guard.decide("read", NOTE, Context())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_log_that_is_mended_is_used_again(folder: Folder, log: DecisionLog) -> None:
    guard = Guard(LOCAL, folder.open(), log)
    guard.decide("read", NOTE, Context())
    log.close()
    (file,) = log_files(log.folder)
    file.unlink()
    file.symlink_to("/dev/full")
    with pytest.raises(PolicyError, match="what is not logged is not done"):
        guard.decide("read", NOTE, Context())
    file.unlink()
    guard.decide("read", OTHER, Context())
    assert [line["input"]["resource"]["uri"] for line in lines(log)] == [OTHER]
