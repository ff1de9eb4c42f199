"""What tasks may spend: ledgers in a real tree, drawn on by tasks, by several processes, and after one has died."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from work_world import PROJECT, FunctionModel, answer

from cld.config import Settings
from cld.errors import BudgetExceeded, ModelFailed
from cld.models import Ask, Completion, More, OnText
from cld.policy import Context
from cld.purse import Ledgers, Metered, Purse, ledger_uri
from cld.resource import Draft, Meta
from cld.runtime import Runtime
from cld.types import Budget, Call, Ledger, Turn, Usage
from cld.uri import URI, make_uri, parse_uri

pytestmark = pytest.mark.anyio

TASK = parse_uri("cld:common.Conversation.c/common.Message.m/plan.Task.t")
CHILD = make_uri(TASK, "plan.Task", "child")
ASK = Ask(())


class Tree:
    """A store to keep ledgers in, and how often it was written to."""

    def __init__(self, store: Any) -> None:
        self.store = store

    async def ledger(self, task: URI = TASK) -> Ledger:
        return msgspec.convert((await self.store.get(ledger_uri(task))).resource.content, Ledger)

    async def revision(self) -> int:
        return (await self.store.get(ledger_uri(TASK))).resource.revision


@asynccontextmanager
async def tree(folder: Path, budget: Budget, child: Budget | None = None) -> AsyncGenerator[Tree]:
    settings = Settings(root=str(folder / "resources"), policies=str(PROJECT / "policies"))
    async with Runtime.open(settings) as runtime:
        store = runtime.store(runtime.principal, Context(tool="plan"), approved=True)
        await Ledgers().create(store, TASK, budget)
        if child is not None:
            await Ledgers().create(store, CHILD, child)
        with anyio.fail_after(30):
            yield Tree(store)


def process(patience: float = 600.0) -> Ledgers:
    """The ledgers of a process that looks often at what others have settled."""
    return Ledgers(patience, looks_again=0.01)


async def until(what: Callable[[], Any]) -> None:
    while not what():
        await anyio.lowlevel.checkpoint()


def waiting(ledgers: Ledgers, task: URI = TASK) -> int:
    """How many wait for others to give back what they hold."""
    return len(ledgers._books[ledger_uri(task)].line)


async def test_what_comes_together_is_written_together(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=1000)) as place:
        ledgers = Ledgers()
        purses = [ledgers.purse(place.store, [TASK], f"t{number}") for number in range(20)]
        await asyncio.gather(*(purse.hold("a", Usage(tokens=10)) for purse in purses))
        assert len((await place.ledger()).held) == 20
        assert await place.revision() <= 3, "the first by itself, and all others together"


async def test_what_was_settled_counts_at_once_and_is_written_with_what_is_held_next(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        purse = Ledgers().purse(place.store, [TASK], "t")
        await purse.hold("a", Usage(tokens=90))
        before = await place.revision()
        await purse.settle("a", Usage(tokens=5))
        assert (await purse.left()).tokens == 95
        await purse.hold("b", Usage(tokens=95))
        assert await place.revision() == before + 1
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=5), {"t b": Usage(tokens=95)})
        await purse.settle("b", Usage(tokens=1))
        await purse.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=6))


async def test_what_was_settled_is_written_soon_also_if_nothing_follows(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        purse = Ledgers().purse(place.store, [TASK], "t")
        await purse.hold("a", Usage(tokens=90))
        await purse.settle("a", Usage(tokens=5))
        while (await place.ledger()).held:
            await anyio.lowlevel.checkpoint()
        assert (await place.ledger()).spent == Usage(tokens=5)


async def test_two_processes_never_hold_more_than_there_is(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        mine, theirs = (process().purse(place.store, [TASK], name) for name in ("mine", "theirs"))
        held: list[str] = []
        ends = asyncio.Event()

        async def one(purse: Purse, step: str) -> None:
            await purse.hold(step, Usage(tokens=7))
            held.append(step)
            await ends.wait()
            await purse.settle(step, Usage(tokens=1))

        all = [asyncio.create_task(one(purse, f"{number}")) for number in range(10) for purse in (mine, theirs)]
        await until(lambda: len(held) == 100 // 7)
        assert len((await place.ledger()).held) == 100 // 7
        ends.set()
        await asyncio.gather(*all)
        await mine.flush()
        await theirs.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=20))


async def test_who_is_cancelled_while_asking_has_spent_all_that_was_held(tmp_path: Path) -> None:
    async def never(_: Ask) -> Completion:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with tree(tmp_path, Budget(tokens=100)) as place:
        asked = asyncio.Event()
        ledgers = Ledgers()
        purse = ledgers.purse(place.store, [TASK], "t")
        model = Metered(FunctionModel(never, bound=Usage(tokens=60)), purse, "1")
        asking = asyncio.create_task(model.complete(ASK))
        await asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await purse.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=60))
        assert (await purse.left()).tokens == 40


async def test_a_cancelled_hold_takes_no_others_along(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        ledgers = Ledgers()
        holding = [
            asyncio.create_task(ledgers.purse(place.store, [TASK], f"t{n}").hold("a", Usage(tokens=10)))
            for n in range(3)
        ]
        await anyio.lowlevel.checkpoint()
        holding[0].cancel()
        await asyncio.wait(holding)
        assert holding[0].cancelled()
        assert {"t1 a", "t2 a"} <= set((await place.ledger()).held)


async def test_a_budget_within_a_budget_is_held_in_both_or_in_none(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=50), Budget(tokens=100)) as place:
        purse = Ledgers().purse(place.store, [CHILD, TASK], "t")
        assert (await purse.left()).tokens == 50
        with pytest.raises(BudgetExceeded) as caught:
            await purse.hold("a", Usage(tokens=60))
        assert caught.value.uri == ledger_uri(TASK)
        assert not (await place.ledger(CHILD)).held and not (await place.ledger()).held
        await purse.hold("b", Usage(tokens=20))
        await purse.settle("b", Usage(tokens=9))
        await purse.flush()
        assert (await place.ledger(CHILD)).spent == (await place.ledger()).spent == Usage(tokens=9)


async def test_a_budget_of_calls_ends_with_its_last_call(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(calls=2)) as place:
        purse = Ledgers().purse(place.store, [TASK], "t")
        for step in "ab":
            await purse.hold(step, Usage(calls=1))
            await purse.settle(step, Usage(calls=1))
        with pytest.raises(BudgetExceeded, match="0 calls left"):
            await purse.hold("c", Usage(calls=1))


async def test_a_model_that_fails_costs_what_it_says(tmp_path: Path) -> None:
    async def fails(_: Ask) -> Completion:
        raise ModelFailed("none answered", tokens=3)

    async with tree(tmp_path, Budget(tokens=100)) as place:
        purse = Ledgers().purse(place.store, [TASK], "t")
        with pytest.raises(ModelFailed):
            await Metered(FunctionModel(fails, bound=Usage(tokens=60)), purse, "1").complete(ASK)
        await purse.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=3))


async def test_who_takes_over_settles_what_the_dead_had_set_aside(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=1000, calls=10)) as place:
        dead = Ledgers().purse(place.store, [TASK], str(TASK))
        for step in ("1.1", "1.2"):
            await dead.hold(step, Usage(tokens=100))
        for step in ("t0000c00", "t0000c01"):
            await dead.hold(step, Usage(calls=1))
        await Ledgers().purse(place.store, [TASK], f"{TASK}/plan.Task.below").hold("1.1", Usage(tokens=7))

        purse = Ledgers().purse(place.store, [TASK], str(TASK))
        assert await purse.left_behind(2)
        turns = [Turn(0, held="1.1", usage=Usage(tokens=12))]
        calls = {
            "t0000c00": Call("look", {}, state="finished", attempts=1),
            "t0000c01": Call("look", {}, state="started", attempts=1),
        }
        await purse.hold("2.1", Usage(tokens=5))
        await purse.take_over(2, turns, calls)
        await purse.flush()
        ledger = await place.ledger()
        assert ledger.spent == Usage(tokens=112, calls=1), "the answer that is there at its cost, the other in full"
        assert set(ledger.held) == {f"{TASK} 2.1", f"{TASK} t0000c01", f"{TASK}/plan.Task.below 1.1"}


async def test_without_a_ledger_nothing_may_be_spent(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        purse = Ledgers().purse(place.store, [CHILD], "t")
        with pytest.raises(BudgetExceeded, match="cannot be read"):
            await Metered(FunctionModel(lambda _: answer("x"), bound=Usage(tokens=1)), purse, "1").complete(ASK)


async def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        ledgers = Ledgers()
        await ledgers.purse(place.store, [TASK], "t").hold("a", Usage(tokens=10))
        assert len(ledgers) == 1
        ledgers.forget(TASK)
        assert len(ledgers) == 0
        assert (await ledgers.purse(place.store, [TASK], "t").left()).tokens == 90


# Waiting for what others hold


async def test_a_request_waits_for_what_others_only_hold_and_is_not_made_with_a_shorter_answer(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        ledgers, lefts = process(), list[Usage | None]()
        other = ledgers.purse(place.store, [TASK], "other")
        await other.hold("a", Usage(tokens=60))
        model = Tries([Try(tokens=60, costs=50)], lefts)
        asking = asyncio.create_task(Metered(model, ledgers.purse(place.store, [TASK], "t"), "1").complete(ASK))
        await until(lambda: waiting(ledgers))
        assert not lefts and set((await place.ledger()).held) == {"other a"}
        await other.settle("a", Usage(tokens=10))
        await asking
        assert lefts == [Usage(tokens=60)] and not waiting(ledgers)
        # Now so much is gone for good that there is only a shorter one, and then none.
        model.tries = [Try(tokens=60, costs=40)]
        await Metered(model, ledgers.purse(place.store, [TASK], "t"), "2").complete(ASK)
        assert lefts[1] == Usage(tokens=40)
        with pytest.raises(BudgetExceeded, match="no budget left for another turn: no tokens"):
            await Metered(model, ledgers.purse(place.store, [TASK], "t"), "3").complete(ASK)


async def test_who_waits_longest_is_first_however_much_it_asks_for(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        ledgers, came = process(), list[str]()

        async def one(name: str, tokens: int) -> None:
            await ledgers.purse(place.store, [TASK], name).hold("a", Usage(tokens=tokens))
            came.append(name)

        first = ledgers.purse(place.store, [TASK], "first")
        await first.hold("a", Usage(tokens=50))
        holding = list[asyncio.Task[None]]()
        for number, (name, tokens) in enumerate((("large", 90), ("small", 5), ("smaller", 1)), 1):
            holding.append(asyncio.create_task(one(name, tokens)))
            await until(lambda number=number: waiting(ledgers) == number)
        # There would be enough for the small ones, but the large one would wait for ever.
        assert not came
        await first.settle("a", Usage(tokens=2))
        await asyncio.gather(*holding)
        assert came == ["large", "small", "smaller"]


async def test_who_is_cancelled_while_it_waits_leaves_the_line_and_holds_nothing(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        ledgers = process()
        first = ledgers.purse(place.store, [TASK], "first")
        await first.hold("a", Usage(tokens=50))
        model = Metered(Tries([Try(90, 90)], []), ledgers.purse(place.store, [TASK], "large"), "1")
        large = asyncio.create_task(model.complete(ASK))
        await until(lambda: waiting(ledgers) == 1)
        small = asyncio.create_task(ledgers.purse(place.store, [TASK], "small").hold("a", Usage(tokens=5)))
        await until(lambda: waiting(ledgers) == 2)
        large.cancel()
        await small
        assert large.cancelled() and set((await place.ledger()).held) == {"first a", "small a"}


async def test_what_another_process_settles_is_seen_by_who_waits(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        mine, theirs = process(), process()
        other = theirs.purse(place.store, [TASK], "other")
        await other.hold("a", Usage(tokens=60))
        holding = asyncio.create_task(mine.purse(place.store, [TASK], "t").hold("a", Usage(tokens=60)))
        await until(lambda: waiting(mine))
        await other.settle("a", Usage(tokens=10))
        await other.flush()
        await holding
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=10), {"t a": Usage(tokens=60)})


async def test_what_a_task_holds_that_nobody_works_is_not_waited_for_without_end(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        await Ledgers().purse(place.store, [TASK], str(CHILD)).hold("1.1", Usage(tokens=60))
        lease = {"holder": "other", "fence": 1, "expires_at": "2999-01-01T00:00:00.000000Z"}
        task = {"status": "running", "attempts": 1, "fence": 1, "lease": lease}
        working = await place.store.put(Draft(CHILD, task, Meta(purpose="Do it")))
        ledgers = process(patience=0.0)
        holding = asyncio.create_task(ledgers.purse(place.store, [TASK], "t").hold("a", Usage(tokens=60)))
        # It is worked, if only by another process; that is looked at again and again.
        book = ledgers._books[ledger_uri(TASK)]
        await until(lambda: waiting(ledgers) and book.looked_at > 0)
        first = book.looked_at
        await until(lambda: book.looked_at > first)
        assert not holding.done()
        dead = {**task, "lease": {**lease, "expires_at": "2026-01-01T00:00:00.000000Z"}}
        await place.store.put(Draft(CHILD, dead, Meta(purpose="Do it")), if_version=working.version)
        with pytest.raises(BudgetExceeded, match=f"nobody works, until they are taken over: 60 tokens .* by {CHILD}"):
            await holding
        assert not waiting(ledgers)
        await ledgers.purse(place.store, [TASK], "t").hold("b", Usage(tokens=40))


async def test_who_waits_for_one_ledger_holds_nothing_in_the_other(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100), Budget(tokens=80)) as place:
        ledgers = process()
        above = ledgers.purse(place.store, [TASK], "above")
        await above.hold("a", Usage(tokens=60))
        purses = [ledgers.purse(place.store, [CHILD, TASK], name) for name in ("one", "two")]
        holding = [asyncio.create_task(purse.hold("a", Usage(tokens=70))) for purse in purses]
        await until(lambda: waiting(ledgers) == 2)
        assert not (await place.ledger(CHILD)).held
        await above.settle("a", Usage(tokens=1))
        await holding[0]
        assert set((await place.ledger(CHILD)).held) == {"one a"}
        await purses[0].settle("a", Usage(tokens=10))
        await holding[1]
        assert set((await place.ledger(CHILD)).held) == set((await place.ledger()).held) == {"two a"}


async def test_nobody_waits_for_calls_as_they_are_never_given_back(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(calls=2, tokens=10)) as place:
        ledgers = process()
        for name in "ab":
            await ledgers.purse(place.store, [TASK], name).hold("1", Usage(calls=1))
        with pytest.raises(BudgetExceeded, match="0 calls left"):
            await ledgers.purse(place.store, [TASK], "c").hold("1", Usage(calls=1))


# More tries than one


class Try(NamedTuple):
    tokens: int
    costs: int
    waits: asyncio.Event | None = None


class Tries:
    """A model that makes these tries, of which all but the last come to nothing."""

    generates = True

    def __init__(self, tries: list[Try], lefts: list[Usage | None]) -> None:
        self.tries = tries
        self.lefts = lefts

    async def bound(self, ask: Ask) -> Usage:
        return Usage(tokens=self.tries[0].tokens)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        assert left is not None and more is not None
        spent = Usage()
        for number, one in enumerate(self.tries):
            if number:
                try:
                    left = await more(spent, Usage(tokens=one.tokens))
                except BudgetExceeded as error:
                    raise ModelFailed(str(error), tokens=spent.tokens) from None
            self.lefts.append(left)
            if one.waits is not None:
                await one.waits.wait()
            spent = Usage(tokens=spent.tokens + one.costs)
        return Completion("done", usage=spent)


async def test_before_each_try_what_was_spent_and_what_it_may_cost_is_held_by_the_same_key(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=200), Budget(tokens=150)) as place:
        second, lefts = asyncio.Event(), list[Usage | None]()
        purse = Ledgers().purse(place.store, [CHILD, TASK], "t")
        model = Metered(Tries([Try(50, 45), Try(60, 20, second), Try(85, 30)], lefts), purse, "1")
        asking = asyncio.create_task(model.complete(ASK))
        await until(lambda: len(lefts) == 2)
        for task in (CHILD, TASK):
            ledger = await place.ledger(task)
            # If it died here, all that may have been spent would count, and nothing twice.
            assert (ledger.spent, ledger.held) == (Usage(), {"t 1.1": Usage(tokens=105)})
            assert ledger.sunk == {"t 1.1": Usage(tokens=45)}
        second.set()
        await asking
        await purse.flush()
        assert [left and left.tokens for left in lefts] == [50, 105, 150]
        assert await place.ledger() == Ledger(Budget(tokens=200), Usage(tokens=95))
        assert await place.ledger(CHILD) == Ledger(Budget(tokens=150), Usage(tokens=95))


async def test_a_further_try_is_made_with_what_is_truly_left_or_not_at_all(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=200), Budget(tokens=70)) as place:
        lefts, purse = list[Usage | None](), Ledgers().purse(place.store, [TASK, CHILD], "t")
        with pytest.raises(ModelFailed, match="no budget left for another turn: no tokens"):
            await Metered(Tries([Try(50, 45), Try(60, 25), Try(60, 1)], lefts), purse, "1").complete(ASK)
        await purse.flush()
        assert [left and left.tokens for left in lefts] == [50, 70]
        assert await place.ledger() == Ledger(Budget(tokens=200), Usage(tokens=70))


@pytest.mark.parametrize("processes", [1, 2])
async def test_those_who_wait_between_two_tries_do_not_wait_for_one_another(tmp_path: Path, processes: int) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        made, go, ends = [process() for _ in range(processes)], asyncio.Event(), asyncio.Event()
        lefts: list[list[Usage | None]] = [[], []]
        purses = [made[number % processes].purse(place.store, [TASK], f"t{number}") for number in range(2)]
        asking = [
            asyncio.create_task(Metered(Tries([Try(50, 40, go), Try(50, 5, ends)], mine), purse, "1").complete(ASK))
            for purse, mine in zip(purses, lefts, strict=True)
        ]
        await until(lambda: all(lefts))
        go.set()
        # Of 100 tokens 80 are spent, so the first of them has a try with 20; the other waits for what comes of that.
        await until(lambda: sum(map(len, lefts)) == 3)
        ledger = await place.ledger()
        assert sum(held.tokens for held in ledger.held.values()) == 100
        ends.set()
        await asyncio.gather(*asking)
        assert sorted(mine[1].tokens for mine in lefts if mine[1]) == [55, 60]
        for purse in purses:
            await purse.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=90))


async def test_who_takes_over_from_one_who_died_between_two_tries_counts_what_was_sunk_once(tmp_path: Path) -> None:
    async with tree(tmp_path, Budget(tokens=100)) as place:
        dead = process()
        purse = dead.purse(place.store, [TASK], str(TASK))
        await purse.hold("1.1", Usage(tokens=50))
        other = dead.purse(place.store, [TASK], "other")
        await other.hold("a", Usage(tokens=50))
        holding = asyncio.create_task(purse.hold("1.1", Usage(tokens=90), Usage(tokens=45)))
        await until(lambda: waiting(dead))
        while (await place.ledger()).held[f"{TASK} 1.1"] != Usage(tokens=45):
            await anyio.lowlevel.checkpoint()
        holding.cancel()
        after = Ledgers().purse(place.store, [TASK], str(TASK))
        await after.take_over(2, (), {})
        await after.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=45), {"other a": Usage(tokens=50)})
