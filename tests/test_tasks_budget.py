"""Budgets hold to the token, in whatever order things are held, settled and dropped."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.errors import BudgetExceeded, InvalidArgument
from cld.tasks.budget import (
    beyond,
    drop,
    hold,
    in_reach,
    left,
    overspent,
    plus,
    settle,
    sink,
    tightest,
    time_left,
    total,
)
from cld.types import Budget, Ledger, Pause, Usage

amounts = st.builds(
    Usage,
    tokens=st.integers(0, 40),
    money=st.integers(0, 40).map(lambda cents: cents / 100),
    calls=st.integers(0, 4),
)
operations = st.lists(st.tuples(st.sampled_from("hsdk"), st.sampled_from("abcde"), amounts), max_size=40)


@given(operations)
def test_spent_and_held_never_exceed_the_budget_when_what_is_settled_was_held(
    ops: list[tuple[str, str, Usage]],
) -> None:
    ledger = Ledger(Budget(tokens=100, money=1.0, calls=6))
    for verb, key, amount in ops:
        if verb == "h":
            try:
                ledger = hold(ledger, key, amount)
            except BudgetExceeded as error:
                assert error.what in ("tokens", "money", "calls")
        elif verb == "s" and key in ledger.held:
            held = ledger.held[key]
            spent = Usage(*(min(getattr(held, f), getattr(amount, f)) for f in ("tokens", "money", "calls")))
            ledger = settle(ledger, key, spent)
            assert settle(ledger, key, spent) == ledger
        elif verb == "k" and key in ledger.held:
            held = ledger.held[key]
            spent = Usage(*(min(getattr(held, f), getattr(amount, f)) for f in ("tokens", "money", "calls")))
            ledger = sink(ledger, key, spent)
            assert sink(ledger, key, spent) == ledger
        else:
            ledger = drop(ledger, key)
            assert drop(ledger, key) == ledger
        gone = reduce(plus, ledger.held.values(), ledger.spent)
        assert beyond(ledger.budget, gone) is None
        assert overspent(ledger) is None
        assert set(ledger.sunk) <= set(ledger.held)
        assert beyond(in_reach(ledger, "none"), left(ledger)) is None


def test_a_budget_can_be_spent_to_the_last_token_and_cent_and_no_further() -> None:
    ledger = Ledger(Budget(tokens=10, money=1.0))
    for n in range(10):
        ledger = settle(hold(ledger, f"s{n}", Usage(tokens=1, money=0.1)), f"s{n}", Usage(tokens=1, money=0.1))
    assert left(ledger) == Budget(tokens=0, money=0.0)
    with pytest.raises(BudgetExceeded, match=r"0 tokens left of 10 tokens, and 1 tokens were asked for by more"):
        hold(ledger, "more", Usage(tokens=1))
    hold(ledger, "free", Usage())


def test_doing_it_again_after_a_crash_counts_nothing_twice() -> None:
    once = hold(Ledger(Budget(tokens=10)), "t1/1", Usage(tokens=8))
    assert hold(once, "t1/1", Usage(tokens=8)) == once
    settled = settle(once, "t1/1", Usage(tokens=5))
    assert settle(settled, "t1/1", Usage(tokens=5)) == settled
    assert (settled.spent.tokens, settled.held) == (5, {})


def test_more_than_was_held_is_counted_in_full_and_nothing_more_may_be_held() -> None:
    ledger = settle(hold(Ledger(Budget(tokens=10)), "a", Usage(tokens=4)), "a", Usage(tokens=15))
    assert (ledger.spent.tokens, overspent(ledger), left(ledger).tokens) == (15, "tokens", 0)
    with pytest.raises(BudgetExceeded):
        hold(ledger, "b", Usage(tokens=1))


def test_the_tightest_bound_on_the_way_up_counts() -> None:
    bounds = tightest([Budget(tokens=5, seconds=60), None, Budget(tokens=9, money=0.5)])
    assert bounds == Budget(tokens=5, money=0.5, seconds=60)
    assert tightest([]) == Budget()


def test_time_passes_from_the_start_on() -> None:
    budget = Budget(seconds=60)
    assert time_left(budget, "", "2026-11-21T11:00:00Z") == 60
    assert time_left(budget, "2026-11-21T11:00:00Z", "2026-11-21T11:00:45Z") == 15
    assert time_left(budget, "2026-11-21T11:00:00Z", "2026-11-21T12:00:00Z") == 0
    assert time_left(Budget(), "2026-11-21T11:00:00Z", "2026-11-21T12:00:00Z") is None


def test_time_in_which_a_person_was_waited_for_is_not_counted_and_that_of_two_at_once_only_once() -> None:
    budget = Budget(seconds=60)
    pauses = [
        Pause("2026-11-21T11:01:00Z", "2026-11-21T11:31:00Z"),
        Pause("2026-11-21T11:02:00Z", "2026-11-21T11:03:00Z"),
        Pause("2026-11-21T11:21:00Z", "2026-11-21T11:51:00Z"),
        Pause("2026-11-21T10:00:00Z", "2026-11-21T10:30:00Z"),
        Pause("yesterday"),
    ]
    start = "2026-11-21T11:00:30Z"
    assert time_left(budget, start, "2026-11-21T11:30:30Z", pauses) == 30
    assert time_left(budget, start, "2026-11-21T11:51:20Z", pauses) == 10
    lasting = [*pauses, Pause("2026-11-21T11:51:20Z")]
    assert time_left(budget, start, "2026-11-21T23:00:00Z", lasting) == 10
    assert time_left(budget, start, "2026-11-21T23:00:00Z", pauses) == 0


def test_sums_are_the_same_in_any_order_and_odd_amounts_are_refused() -> None:
    parts = [Usage(money=0.1), Usage(money=0.2), Usage(money=0.3, tokens=1)]
    assert total(parts) == total(reversed(parts)) == Usage(money=0.6, tokens=1)
    for odd in (float("nan"), -1.0, float("inf")):
        with pytest.raises(InvalidArgument):
            hold(Ledger(Budget(money=1.0)), "a", Usage(money=odd))
        with pytest.raises(InvalidArgument):
            settle(Ledger(Budget(money=1.0)), "a", Usage(money=odd))


def test_what_others_hold_is_in_reach_but_for_what_they_have_sunk_their_calls_and_what_is_lost() -> None:
    ledger = hold(Ledger(Budget(tokens=100, calls=9), Usage(tokens=5)), "a", Usage(tokens=50), Usage(tokens=20))
    ledger = hold(ledger, "b", Usage(tokens=30, calls=2))
    assert left(ledger) == Budget(tokens=15, calls=7)
    assert in_reach(ledger, "c") == Budget(tokens=75, calls=7)
    assert in_reach(ledger, "c", {"b"}) == Budget(tokens=45, calls=7)
    assert in_reach(ledger, "a") == Budget(tokens=95, calls=7)
    assert left(sink(ledger, "a", Usage(tokens=21))) == Budget(tokens=44, calls=7)
    assert settle(ledger, "a", Usage(tokens=22)).sunk == drop(ledger, "a").sunk == {}
