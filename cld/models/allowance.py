"""What one question may spend, and what its tries spent so far. A try fits whole or is not made."""

from cld.errors import BudgetExceeded
from cld.models import More
from cld.models.failures import Failed
from cld.models.prices import Price
from cld.tasks.budget import plus
from cld.types import Usage

LEAST_ANSWER = 64
"""Tokens; with less left for an answer, no try is worth its prompt."""


class Allowance:
    """Holds `left`, None is without end; `more` adds to it."""

    def __init__(self, left: Usage | None, more: More | None = None) -> None:
        self._left = left
        self._more = more
        self.tokens = 0
        self.money = 0.0
        self.requests = 0

    @property
    def spent(self) -> Usage:
        """All tries together."""
        return Usage(tokens=self.tokens, money=self.money, requests=self.requests)

    async def extend(self, prompt: int, wanted: int, price: Price) -> None:
        """Have more set aside where a try with an answer of `wanted` tokens does not fit.

        Raises:
            Failed: there is nothing more, as `affords` says it.
        """
        if self._left is None or self._more is None or self._fits(prompt, wanted, price, self._left):
            return
        try:
            self._left = await self._more(self.spent, _cost(prompt, wanted, price))
        except BudgetExceeded as error:
            self._left = self.spent
            raise Failed("budget", f"{error.what}: {error}") from None

    def affords(self, prompt: int, wanted: int, price: Price) -> int:
        """How long an answer may be, `wanted` at most, so that the try fits whole.

        Raises:
            Failed: not even a short one fits; the kind is `budget`, the reason begins with what is lacking.
        """
        if self._left is None or self._fits(prompt, wanted, price, self._left):
            return wanted
        least = min(LEAST_ANSWER, wanted)
        tokens = self._left.tokens - self.tokens
        if tokens - prompt < least:
            raise Failed("budget", f"tokens: {tokens} are left, the question alone may be {prompt}")
        money = self._left.money - self.money
        rate = price.rate(prompt)
        most = min(wanted, tokens - prompt)
        if (rest := money - prompt * rate.tokens_in) < least * rate.tokens_out or rest < 0:
            raise Failed("budget", f"money: ${money:.6f} are left, a try costs at least ${price.of(prompt, least):.6f}")
        if rate.tokens_out:
            most = min(most, int(rest / rate.tokens_out))
            # Division rounds; what is promised is the product.
            while price.of(prompt, most) > money:
                most -= 1
        return most

    def _fits(self, prompt: int, wanted: int, price: Price, left: Usage) -> bool:
        # Added as what was set aside was added: a difference of floats could be a little less than what was added.
        whole = plus(self.spent, _cost(prompt, wanted, price))
        return whole.tokens <= left.tokens and whole.money <= left.money

    def spend(self, tokens: int, money: float) -> None:
        """One more try that was made."""
        self.tokens += tokens
        self.money += money
        self.requests += 1


def _cost(prompt: int, answer: int, price: Price) -> Usage:
    """What a try may cost."""
    return Usage(tokens=prompt + answer, money=price.of(prompt, answer), requests=1)
