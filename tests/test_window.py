"""The window: what is in it, in which order, what is left out, and that nothing is told that may not be read."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import msgspec
import pytest
from index_world import World

from cld.errors import InvalidArgument, ResourceNotFound
from cld.index import window_texts
from cld.index.window import MAX_BUDGET, MAX_SIBLINGS, Window, window
from cld.index.window_texts import MAX_CHARACTERS
from cld.index.wordllama import count_tokens
from cld.resource import Draft, Meta
from cld.server.context_tools import _notes
from cld.store.local import LocalStore
from cld.uri import URI, parse_uri, type_of

TALK = "cld:common.Conversation.c1"
MESSAGE = f"{TALK}/common.Message.m2"
TASK = f"{MESSAGE}/plan.Task.t3"


def in_a_tree(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World(tmp_path, await LocalStore.open(tmp_path, durability="none"))
        try:
            await plant(world)
            await test(world)
        finally:
            await world.store.aclose()

    anyio.run(main)


async def put(world: World, uri: str, text: str, **content: str) -> None:
    said = {"inputs": {"request": text}} if type_of(parse_uri(uri)) == "plan.Task" else {"text": text}
    await world.put(uri, **said, **content)


async def plant(world: World) -> None:
    await put(world, TALK, "A conversation about the harbour of Bergen.")
    await put(world, f"{TALK}/common.Message.m1", "Which ships came in last week?")
    await put(world, MESSAGE, "Please write a report on the ships that came in, with their cargo.")
    await put(
        world, f"{MESSAGE}/plan.Task.t1", "List the ships of last week.", output="Aurora, Fram and Viking came in."
    )
    await put(world, f"{MESSAGE}/plan.Task.t2", "Find the cargo of each ship.")
    await put(world, f"{MESSAGE}/plan.Task.t2/common.Message.out", "Aurora brought salt, Fram timber, Viking wool.")
    await put(world, TASK, "Write the report from the lists of ships and cargo.")
    await put(world, f"{MESSAGE}/plan.Task.t4", "Send the report to the harbour master.")


def parts(found: Window) -> list[tuple[str, str]]:
    return [(part.role, part.uri.rpartition(".")[2]) for part in found.parts]


def test_it_leads_from_the_top_down_to_the_resource_and_then_to_what_was_done_beside_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        found = await window(world.mine, None, parse_uri(TASK))
        assert parts(found) == [
            *[("ancestor", "c1"), ("ancestor", "m2"), ("self", "t3")],
            *[("sibling", "t1"), ("sibling", "out"), ("sibling", "t4")],
        ]
        texts = [part.text for part in found.parts]
        assert texts[3] == "Aurora, Fram and Viking came in."  # the output, not the task
        assert texts[4] == "Aurora brought salt, Fram timber, Viking wool."
        assert found.left_out == ()

    in_a_tree(tmp_path, test)


def test_of_tasks_and_messages_there_is_what_they_say_and_no_state(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        lease = {"holder": "by 7", "fence": 1, "expires_at": "2030-01-01T00:00:00Z"}
        task = {"status": "running", "lease": lease, "inputs": {"of": "salt"}, "output": "Forty barrels"}
        draft = Draft(parse_uri(f"{MESSAGE}/plan.Task.t9"), task, Meta(purpose="Count"))
        await world.mine.put(draft)
        said = {"role": "assistant", "text": "Forty."}
        await world.mine.put(Draft(parse_uri(f"{draft.uri}/common.Message.m"), said))
        found = await window(world.mine, None, parse_uri(f"{draft.uri}/common.Message.m"))
        texts = {part.uri.rpartition(".")[2]: part.text for part in found.parts}
        assert texts["t9"] == "Count\nsalt\nForty barrels" and texts["m"] == "Forty."

    in_a_tree(tmp_path, test)


def test_every_part_can_be_quoted_from_its_resource(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await put(
            world, f"{MESSAGE}/plan.Task.t0", "First line.\n\n   Second, after blanks.  \n" + "More words. " * 300
        )
        found = await window(world.mine, None, parse_uri(TASK), 100_000)
        for part in found.parts:
            stored = await world.mine.get(part.uri)
            assert stored.version == part.version
            quoted: list[str] = []
            for one in part.slices:
                value: object = stored.resource
                for key in one.field.split("."):
                    value = value[key] if isinstance(value, dict) else getattr(value, key)
                assert isinstance(value, str)
                quoted.append(value[one.start : one.end])
            assert "\n".join(quoted) == part.text

    in_a_tree(tmp_path, test)


@pytest.mark.parametrize("budget", [100, 150, 233, 400, 1000])
def test_it_never_takes_more_than_the_budget_and_says_what_that_left_out(tmp_path: Path, budget: int) -> None:
    async def test(world: World) -> None:
        for number in range(20):
            facts = " ".join(f"ship{number}x{word} sailed at {word}:{number}." for word in range(15))
            await put(world, f"{MESSAGE}/plan.Task.s{number:02}", facts)
        await put(world, TASK, " ".join(f"Line {line} of a long task." for line in range(400)))
        found = await window(world.mine, None, parse_uri(TASK), budget)
        assert found.tokens == sum(part.tokens for part in found.parts) <= budget
        assert count_tokens([found.text])[0] <= found.tokens
        shown = "\n\n".join((found.text, _notes(found)))
        assert count_tokens([shown])[0] <= budget
        told = {part.uri for part in found.parts} | {one.uri for one in found.left_out}
        every = (await world.mine.list(parse_uri(MESSAGE), limit=100)).uris
        assert {uri for uri in every if not uri.endswith("t2")} <= told
        assert any(one.uri == TASK and one.why.startswith("budget") for one in found.left_out)

    in_a_tree(tmp_path, test)


def test_what_was_said_already_is_left_out_with_where_it_was_said(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        said = (
            "Aurora brought four hundred barrels of salt from Setúbal, and left on the ninth with dried cod for "
            "Lisbon; her master paid the harbour dues in full, hired two new hands at the inn by the old crane, "
            "and had the torn foresail mended before she sailed."
        )
        await put(world, f"{MESSAGE}/plan.Task.t4", said)
        await put(world, f"{MESSAGE}/plan.Task.t5", f"  {said}\n")
        await put(world, f"{MESSAGE}/plan.Task.t6", said.replace("ninth", "tenth"))
        await put(world, f"{MESSAGE}/plan.Task.t7", "Fram brought four hundred barrels of tar from Arkhangelsk in May.")
        found = await window(world.mine, None, parse_uri(TASK))
        assert {one.uri.rpartition(".")[2]: one.why for one in found.left_out} == {
            "t5": f"duplicate of {MESSAGE}/plan.Task.t4",
            "t6": f"duplicate of {MESSAGE}/plan.Task.t4",
        }
        assert ("sibling", "t7") in parts(found)

    in_a_tree(tmp_path, test)


def test_similar_resources_come_last_and_none_of_them_twice(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await put(world, "cld:common.Text.style", "A report on ships and cargo begins with the list of ships.")
        below = f"{TASK}/common.Message.draft"
        await put(world, below, "Draft of the report on ships and cargo, from the list of ships.")
        await put(world, "cld:common.Text.soup", "Boil the leeks until they are soft.")
        async with world.maintained():
            found = await window(world.mine, world.search.query, parse_uri(TASK))
            again = await window(world.mine, world.search.query, parse_uri(TASK))
        assert msgspec.json.encode(found) == msgspec.json.encode(again)
        uris = [part.uri for part in found.parts]
        assert below not in uris  # its own work is no context from elsewhere
        assert len(uris) == len(set(uris))
        similar = [part.uri for part in found.parts if part.role == "similar"]
        assert similar[0] == "cld:common.Text.style" and uris[-len(similar) :] == similar

    in_a_tree(tmp_path, test)


def test_it_is_as_if_what_may_not_be_read_had_never_been(tmp_path: Path) -> None:
    hidden = {TALK, f"{MESSAGE}/plan.Task.t1", f"{MESSAGE}/plan.Task.t2/common.Message.out", "cld:common.Text.secret"}

    async def test(world: World) -> None:
        secret = URI("cld:common.Text.secret")
        await put(world, secret, "A secret report on ships and cargo.")
        bob = world.guarded(lambda _p, _a, uri, _m: uri not in hidden)
        async with world.maintained():
            seen = await window(bob, world.search.query, parse_uri(TASK))
        for uri in hidden:
            assert uri not in {part.uri for part in seen.parts} | {one.uri for one in seen.left_out}
        for uri in sorted(hidden - {TALK}, reverse=True):
            await world.delete(uri)
        (world.root / f"resources/{TALK}.json").unlink(missing_ok=True)
        (world.root / f"{TALK}.json").unlink(missing_ok=True)
        async with world.maintained():
            never = await window(world.mine, world.search.query, parse_uri(TASK))
        assert msgspec.json.encode(seen) == msgspec.json.encode(never)
        with pytest.raises(ResourceNotFound):
            await window(bob, None, parse_uri(f"{MESSAGE}/plan.Task.t1"))

    in_a_tree(tmp_path, test)


def test_a_broken_file_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        (tmp_path / f"{MESSAGE}/plan.Task.t1.json").write_text("{")
        found = await window(world.mine, None, parse_uri(TASK))
        assert [(one.uri.rpartition(".")[2], one.why) for one in found.left_out] == [
            ("t1", "its file is no valid resource")
        ]
        assert ("sibling", "t4") in parts(found)

    in_a_tree(tmp_path, test)


def test_of_many_siblings_the_nearest_earlier_ones_are_there(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for number in range(120):
            await put(
                world, f"{MESSAGE}/plan.Task.a{number:03}", f"Ship number {number * 7919} left for port {number}."
            )
        found = await window(world.mine, None, parse_uri(TASK), 600)
        siblings = [name for role, name in parts(found) if role == "sibling"]
        assert "t1" in siblings and "a119" in siblings and "a000" not in siblings
        assert [part.uri for part in found.parts if part.role == "sibling"] == sorted(
            part.uri for part in found.parts if part.role == "sibling"
        )

    in_a_tree(tmp_path, test)


def test_a_budget_that_holds_nothing_or_is_no_budget_is_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for budget in (0, -1, 99, 1_000_001):
            with pytest.raises(InvalidArgument, match="budget"):
                await window(world.mine, None, parse_uri(TASK), budget)

    in_a_tree(tmp_path, test)


def test_what_is_too_far_away_or_too_long_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for number in range(2 * MAX_SIBLINGS + 5):
            await put(world, f"{MESSAGE}/common.Text.t{number:03}", f"Ship {number}.")
        for number in range(MAX_SIBLINGS + 2):
            await put(world, f"{MESSAGE}/plan.Task.t2/common.Message.n{number:03}", f"Cargo of ship {number}.")
        await put(world, TASK, "A word and another. " * (MAX_CHARACTERS // 10))
        found = await window(world.mine, None, parse_uri(TASK), MAX_BUDGET)
        told = {one.uri: one.why for one in found.left_out}
        assert told == {
            TASK: f"too long: its first {MAX_CHARACTERS} characters at most",
            f"{MESSAGE}/plan.Task.t2": f"messages below it beyond the first {MAX_SIBLINGS}",
        }
        last = f"{MESSAGE}/common.Text.t{2 * MAX_SIBLINGS + 4}"
        beyond = f"{MESSAGE}/common.Text.t{MAX_SIBLINGS + 4 - 1:03}"
        found = await window(world.mine, None, parse_uri(last), MAX_BUDGET)
        assert [(one.uri, one.why) for one in found.left_out] == [
            (beyond, f"it and those beyond it: {MAX_SIBLINGS} are nearer")
        ]
        # What may be listed and not read is not named.
        mine = world.guarded(lambda p, action, uri, meta: action == "list" or uri != beyond)
        (left,) = (await window(mine, None, parse_uri(last), MAX_BUDGET)).left_out
        assert left.uri == f"{MESSAGE}/common.Text.t{MAX_SIBLINGS + 2:03}"

    in_a_tree(tmp_path, test)


def test_what_there_is_no_room_for_is_hardly_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        for number in range(20):
            await put(world, f"{MESSAGE}/plan.Task.s{number:02}", f"Ship number {number} sailed. " * 5000)
        counted: list[int] = []

        def counting(texts: Sequence[str]) -> list[int]:
            counted.append(sum(map(len, texts)))
            return count_tokens(texts)

        monkeypatch.setattr(window_texts, "count_tokens", counting)
        await window(world.mine, None, parse_uri(TASK), 400)
        # Of 2.5 million characters: a few steps, and a name for each.
        assert sum(counted) < 60_000

    in_a_tree(tmp_path, test)
