"""What tasks may spend: arithmetic on ledgers.

A ledger keeps one budget. Before something is spent it is held, by a key that names the one step it is for; when the
cost is known it is settled by the same key. Every operation is idempotent by its key, so that repeating it after a
crash counts nothing twice. Pure: whoever keeps a ledger writes it with compare-and-swap. Time is not spent but
passes, so `seconds` of a budget are no concern of this module but for `time_left` and `paused`.
"""

import contextlib
import math
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from cld.errors import BudgetExceeded, InvalidArgument
from cld.tasks.instants import Instant, instant
from cld.types import Budget, Ledger, Pause, Usage

COUNTED = ("tokens", "money", "calls")
"""What a budget bounds and a usage counts."""

NOTHING = Usage()

_N = TypeVar("_N", int, float)

_DECIMALS = 12  # of a dollar: sums of floats are the same in whatever order they are made


def plus(a: Usage, b: Usage) -> Usage:
    """The sum of both."""
    return Usage(
        tokens=a.tokens + b.tokens,
        money=round(a.money + b.money, _DECIMALS),
        calls=a.calls + b.calls,
        requests=a.requests + b.requests,
    )


def less(whole: Usage, gone: Usage) -> Usage:
    """What is left of `whole` without `gone`; never negative."""
    return Usage(
        tokens=max(0, whole.tokens - gone.tokens),
        money=max(0.0, whole.money - gone.money),
        calls=max(0, whole.calls - gone.calls),
        requests=max(0, whole.requests - gone.requests),
    )


def total(parts: Iterable[Usage]) -> Usage:
    """The sum of all `parts`."""
    whole = Usage()
    for part in parts:
        whole = plus(whole, part)
    return whole


def hold(ledger: Ledger, key: str, amount: Usage, sunk: Usage = NOTHING) -> Ledger:
    """The ledger with `amount` set aside for `key`; what `key` held before is replaced, not added to.

    `sunk` is what of it is spent already.

    Raises:
        BudgetExceeded: when that is more than is left, saying of what, how much is left and how much was asked.
        InvalidArgument: when the amount is negative or no number.
    """
    _check(amount, "amount")
    others = drop(ledger, key)
    free = left(others)
    if (what := beyond(free, amount)) is not None:
        raise BudgetExceeded(
            f"the budget has {_amount(what, getattr(free, what))} left of "
            f"{_amount(what, getattr(ledger.budget, what))}, and {_amount(what, getattr(amount, what))} were asked for "
            f"by {key}; give it more, or ask for less",
            what=what,
        )
    return _held(others, key, amount, sunk)


def sink(ledger: Ledger, key: str, spent: Usage) -> Ledger:
    """The ledger in which `key` holds what it has spent already, and nothing for what it has still to do.

    Raises:
        InvalidArgument: when `spent` is negative or no number.
    """
    _check(spent, "spent")
    return _held(drop(ledger, key), key, spent, spent) if costs(spent) else drop(ledger, key)


def settle(ledger: Ledger, key: str, spent: Usage) -> Ledger:
    """The ledger with `spent` counted instead of what `key` held; unchanged when `key` holds nothing (any more).

    More than was held is counted in full all the same: it is gone. Of a step whose cost nobody knows, because its
    process died, settle what it held.

    Raises:
        InvalidArgument: when `spent` is negative or no number.
    """
    _check(spent, "spent")
    if key not in ledger.held:
        return ledger
    return replace(drop(ledger, key), spent=plus(ledger.spent, spent))


def drop(ledger: Ledger, key: str) -> Ledger:
    """The ledger without what `key` held, as it did not come to spending."""
    if key not in ledger.held:
        return ledger
    return replace(
        ledger,
        held={other: held for other, held in ledger.held.items() if other != key},
        sunk={other: sunk for other, sunk in ledger.sunk.items() if other != key},
    )


def left(ledger: Ledger) -> Budget:
    """What can still be held, never below nothing; None is without bound. `seconds` are those of the budget."""
    return _without(ledger.budget, plus(ledger.spent, total(ledger.held.values())))


def in_reach(ledger: Ledger, key: str, lost: Collection[str] = ()) -> Budget:
    """What `key` can hold once all others have given back what they can, if they all come to cost nothing more.

    That is nothing of what those in `lost` hold. Calls are never given back: one that began costs what it holds.
    """
    others = [
        held if other in lost else replace(ledger.sunk.get(other, NOTHING), calls=held.calls)
        for other, held in ledger.held.items()
        if other != key
    ]
    return _without(ledger.budget, plus(ledger.spent, total(others)))


def costs(amount: Usage) -> bool:
    """Whether any of it counts against a budget."""
    return any(getattr(amount, what) for what in COUNTED)


def tightest(budgets: Iterable[Budget | None]) -> Budget:
    """The bounds that hold where all `budgets` do: a task's own and those of all above it, or what is left of them."""
    tokens, money, calls, seconds = None, None, None, None
    for budget in budgets:
        if budget is not None:
            tokens = _smaller(tokens, budget.tokens)
            money = _smaller(money, budget.money)
            calls = _smaller(calls, budget.calls)
            seconds = _smaller(seconds, budget.seconds)
    return Budget(tokens, money, calls, seconds)


def beyond(budget: Budget, amount: Usage | Budget) -> str | None:
    """The first of tokens, money and calls (and seconds, of a budget) of which `amount` has more; None if none."""
    for what in (*COUNTED, "seconds"):
        bound: float | None = getattr(budget, what)
        wanted: float | None = getattr(amount, what, None)
        if bound is not None and wanted is not None and wanted > bound:
            return what
    return None


def overspent(ledger: Ledger) -> str | None:
    """The first of which more was spent than the budget allows, None if none: then nothing more may be done."""
    return beyond(ledger.budget, ledger.spent)


def time_left(budget: Budget | None, started_at: str, now: Instant, pauses: Iterable[Pause] = ()) -> float | None:
    """The seconds left of the budget of what started then; None without bound, all of them before it has started.

    The time of `pauses` is not counted, that of several at once only once.
    """
    if budget is None or budget.seconds is None:
        return None
    if not started_at:
        return budget.seconds
    gone = (instant(now) - instant(started_at)).total_seconds() - paused(pauses, started_at, now)
    return max(0.0, budget.seconds - gone)


def paused(pauses: Iterable[Pause], since: Instant, until: Instant) -> float:
    """In how many of the seconds from `since` to `until` at least one of `pauses` was; one that lasts ends at `until`.

    Those whose times are none (a person has edited them) count as none.
    """
    begin, end = instant(since), instant(until)
    spans: list[tuple[datetime, datetime]] = []
    for pause in pauses:
        with contextlib.suppress(ValueError):
            spans.append((instant(pause.since), min(end, instant(pause.until or end))))
    seconds = 0.0
    for first, last in sorted(spans):
        first = max(first, begin)
        if last > first:
            seconds += (last - first).total_seconds()
            begin = last
    return seconds


def _held(ledger: Ledger, key: str, amount: Usage, sunk: Usage) -> Ledger:
    more = {key: sunk} if costs(sunk) else {}
    return replace(ledger, held={**ledger.held, key: amount}, sunk={**ledger.sunk, **more})


def _without(budget: Budget, gone: Usage) -> Budget:
    return replace(
        budget,
        tokens=_rest(budget.tokens, gone.tokens),
        money=_rest(budget.money, gone.money),
        calls=_rest(budget.calls, gone.calls),
    )


def _rest(bound: _N | None, gone: _N) -> _N | None:
    if bound is None or bound <= gone:
        return bound and type(bound)(0)
    return round(bound - gone, _DECIMALS)  # pyright: ignore[reportReturnType] - int of int and float of float


def _smaller(a: _N | None, b: _N | None) -> _N | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def _check(amount: Usage, field: str) -> None:
    for what in (*COUNTED, "requests"):
        value: float = getattr(amount, what)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidArgument(
                f"{field} has {value} {what}; it cannot be negative and has to be a number", field=field
            )


def _amount(what: str, number: float) -> str:
    return f"${number:g}" if what == "money" else f"{number:g} {what}"
