"""What tasks may spend: ledgers in a real tree, drawn on by tasks, by several processes, and after one has died."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from work_world import PROJECT, FunctionModel, answer

from cld.config import Settings
from cld.errors import BudgetExceeded, ModelFailed
from cld.models import Ask, Completion
from cld.policy import Context
from cld.purse import Ledgers, Metered, ledger_uri
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
        mine, theirs = (Ledgers().purse(place.store, [TASK], name) for name in ("mine", "theirs"))
        held: list[str] = []

        async def one(purse: Any, step: str) -> None:
            try:
                await purse.hold(step, Usage(tokens=7))
            except BudgetExceeded:
                return
            held.append(step)

        await asyncio.gather(*(one(purse, f"{number}") for number in range(10) for purse in (mine, theirs)))
        ledger = await place.ledger()
        assert len(held) == len(ledger.held) == 100 // 7
        await asyncio.gather(*(purse.settle(f"{n}", Usage(tokens=1)) for n in range(10) for purse in (mine, theirs)))
        await mine.flush()
        await theirs.flush()
        assert await place.ledger() == Ledger(Budget(tokens=100), Usage(tokens=14))


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
        assert (await place.ledger()).held == {"t 1.1": Usage(tokens=60)}
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
