"""What each tier was asked and what came of it, since the router was made, and how it stands.

Logs it when a tier begins to fail, in another way than before, or answers again.
"""

import logging
from typing import Literal

import msgspec

from cld.models.failures import NOT_USABLE

log = logging.getLogger("cld.models")

State = Literal["ready", "resting", "unusable"]

_OF_QUESTION = frozenset({"budget", "context", "resting"})
"""Kinds of failures for which a tier was not asked, and that say nothing of it."""

_QUOTING = frozenset({"refused", "schema"})
"""Kinds whose reasons have words of the answer, which may be nobody else's to read."""


class Counters(msgspec.Struct):
    """Of one tier: `failures` by kind, `seconds` of all tries together and of the `slowest`.

    Where a provider does not say what a try cost (a time-out, a lost connection), `tokens` and `money` are the most
    that it can have been. `failing` is the kind of the last failure, and `why` what was said of it, until it answers.
    """

    tier: str
    model: str
    tries: int = 0
    answers: int = 0
    cancelled: int = 0
    repaired: int = 0
    failures: dict[str, int] = {}
    tokens: int = 0
    money: float = 0.0
    seconds: float = 0.0
    slowest: float = 0.0
    failing: str = ""
    why: str = ""

    def fail(self, kind: str, why: str) -> None:
        """One more failure of a kind; without a `why` it may still be mended."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if kind in _OF_QUESTION or not why:
            return
        if kind != self.failing:
            said = "" if kind in _QUOTING else f": {why}"
            log.warning("model %s (%s) gives no answer: %s%s", self.tier, self.model, kind, said)
        self.failing, self.why = kind, why

    def answer(self, *, repaired: bool) -> None:
        """One more answer; `repaired` after being told what did not fit."""
        self.answers += 1
        self.repaired += repaired
        if self.failing:
            log.warning("model %s (%s) answers again", self.tier, self.model)
        self.failing = self.why = ""

    def spend(self, tokens: int, money: float, seconds: float) -> None:
        """What one try took."""
        self.tries += 1
        self.tokens += tokens
        self.money += money
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)

    def summary(self) -> str:
        """All of it in one line."""
        failed = ", ".join(f"{number} {kind}" for kind, number in sorted(self.failures.items())) or "none"
        return (
            f"model {self.tier} ({self.model}): {self.tries} requests, {self.answers} answers, failures: {failed}; "
            f"{self.tokens} tokens, ${self.money:.6f}"
        )


class Standing(msgspec.Struct, frozen=True):
    """How a tier stands: `why` says why it is `unusable`, or for how long it rests.

    Nothing that a question or an answer said is in it; anybody who may know of the models may see it.
    """

    tier: str
    model: str
    state: State
    why: str
    requests: int
    answers: int
    failures: dict[str, int]
    last_failure: str
    tokens: int
    money: float


class Status(msgspec.Struct, frozen=True):
    """How all models of a process stand; `offline` says that some questions are answered without any of them now."""

    models: tuple[Standing, ...]
    offline: bool
    offline_answers: int
    cache_hits: int


def standing(counters: Counters, missing: str, resting: float) -> Standing:
    """How a tier stands, where `missing` says what it lacks to be asked and it rests for so many seconds more."""
    state: State = "ready"
    why = ""
    if missing or counters.failing in NOT_USABLE:
        state, why = "unusable", f"it has {missing}" if missing else f"{counters.failing}: {counters.why}"
    elif resting:
        state, why = "resting", f"it asked to be left alone for {resting:.0f} s more"
    return Standing(
        tier=counters.tier,
        model=counters.model,
        state=state,
        why=why,
        requests=counters.tries,
        answers=counters.answers,
        failures=dict(counters.failures),
        last_failure=counters.failing,
        tokens=counters.tokens,
        money=counters.money,
    )
