"""What each tier was asked and what came of it, since the router was made."""

import msgspec


class Counters(msgspec.Struct):
    """Of one tier: `failures` by kind, `seconds` of all tries together and of the `slowest`.

    Where a provider does not say what a try cost (a time-out, a lost connection), `tokens` and `money` are the most
    that it can have been.
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

    def fail(self, kind: str) -> None:
        """One more failure of a kind."""
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def spend(self, tokens: int, money: float, seconds: float) -> None:
        """What one try took."""
        self.tries += 1
        self.tokens += tokens
        self.money += money
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
