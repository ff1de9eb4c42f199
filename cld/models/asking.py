"""Asking until it fits: what a schema cannot say is checked here, and a model is told what was wrong.

Owns the tries and what they cost together. A model is asked for a value of a schema and gets the reason of each
misfit back; it never gets to see more of this program than that.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from cld.errors import BudgetExceeded, InvalidArgument, ModelFailed
from cld.models import Ask, Completion, Message, Model
from cld.tasks.budget import plus
from cld.types import Usage

MOST_TRIES = 3
"""How often a model may answer one question."""

_MOST_REASON = 600

T = TypeVar("T")


class NeverFits(ModelFailed):
    """A model answered, as often as it may, and never with what can be used; `usage` is what that cost."""

    def __init__(self, message: str, *, reasons: list[str], usage: Usage) -> None:
        super().__init__(message, reasons=reasons, tokens=usage.tokens, money=usage.money)
        self.usage = usage


async def ask_until(
    model: Model, ask: Ask, read: Callable[[Any], Awaitable[T]], left: Usage | None = None
) -> tuple[T, Usage, str]:
    """What `read` makes of the model's value, what all tries cost, and the model's name.

    `read` raises InvalidArgument for a value that does not do, in words for the model. With `left`, nothing is
    asked that could cost more than is left of it.

    Raises:
        NeverFits: none of `MOST_TRIES` answers did, or what is left was not enough for another try.
        ModelFailed: no model answered; what earlier tries cost is counted in it.
        BudgetExceeded: `left` is not enough for the first try.
    """
    spent, reasons, name = Usage(), list[str](), ""
    for number in range(MOST_TRIES):
        try:
            completion = await model.complete(ask, left=None if left is None else _rest(left, spent))
        except BudgetExceeded as over:
            if not number:
                raise
            reasons.append(str(over))
            break
        except ModelFailed as failed:
            failed.reasons = (*reasons, *failed.reasons)
            failed.tokens += spent.tokens
            failed.money += spent.money
            raise
        spent, name = plus(spent, completion.usage), completion.model
        try:
            return await read(_value(completion)), spent, name
        except InvalidArgument as misfit:
            reasons.append(f"{name}: {str(misfit)[:_MOST_REASON]}")
            told = f"That cannot be used: {str(misfit)[:_MOST_REASON]}. Answer again, all of it, in the same form."
            answered = completion.text or msgspec.json.encode(completion.value).decode()
            ask = replace(ask, messages=(*ask.messages, Message("assistant", answered), Message("user", told)))
    raise NeverFits(
        f"the model gave no answer that can be used, in {len(reasons)} tries: {reasons[-1]}",
        reasons=reasons,
        usage=spent,
    )


def _value(completion: Completion) -> Any:
    if completion.value is not None:
        return completion.value
    try:
        return msgspec.json.decode(completion.text)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"it is no JSON ({error})", field="") from None


def _rest(left: Usage, spent: Usage) -> Usage:
    return replace(left, tokens=max(0, left.tokens - spent.tokens), money=max(0.0, left.money - spent.money))
