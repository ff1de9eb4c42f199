"""A model whose answers are a function of what it is asked, for tests of what is asked and what becomes of answers."""

from collections.abc import Callable
from typing import Any

from cld.errors import BudgetExceeded
from cld.models import Ask, Completion, More, OnText
from cld.types import Usage

Reply = Callable[[Ask, int], Any]


class ScriptedModel:
    """Gives the value that `reply` makes of a request and its number, at ten tokens each."""

    def __init__(self, reply: Reply) -> None:
        self.asks: list[Ask] = []
        self._reply = reply

    @property
    def generates(self) -> bool:
        return True

    async def bound(self, ask: Ask) -> Usage:
        return Usage(tokens=10, money=0.5, requests=1)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        if left is not None and (left.tokens < 10 or left.money < 0.5):
            raise BudgetExceeded("there are not enough tokens left", what="tokens")
        self.asks.append(ask)
        value = self._reply(ask, len(self.asks))
        if isinstance(value, Exception):
            raise value
        return Completion("", value=value, usage=Usage(tokens=10, money=0.5, requests=1), model="scripted")


def answering(*values: Any) -> ScriptedModel:
    """A model that gives these values one after another, the last one ever after."""
    return ScriptedModel(lambda _, number: values[min(number, len(values)) - 1])


def told(ask: Ask) -> str:
    return "\n".join(message.text for message in ask.messages)
