"""Models: what is asked of a language model, what comes back, and who answers.

This module holds the words; `cld.models.router` tries a chain of models one after another, `cld.models.litellm`
speaks to their providers, `cld.models.offline` answers without any, and `cld.models.fallback` is the one where the
other cannot. Nothing here knows resources or tools: tools are descriptions, and a wish to call one is handed back.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from cld.errors import ModelFailed
from cld.types import Usage, Wish

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "calls"]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a dialogue: `wishes` are the calls a model asks for, `answers` the key of the one answered."""

    role: Role
    text: str
    wishes: tuple[Wish, ...] = ()
    answers: str = ""


class ToolOffer(msgspec.Struct, frozen=True):
    """A tool as a model is told of it."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Ask(msgspec.Struct, frozen=True):
    """One request to a model.

    `tier` names one of the settings' tiers to begin with, empty is the first; `reasoning` asks the model for
    planning and judging instead. `schema` is what the answer must be JSON of. `max_tokens` bounds the answer.
    `fair` is whose work it is: those who wait for the same model take turns by it.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolOffer, ...] = ()
    schema: Mapping[str, Any] | None = None
    tier: str = ""
    reasoning: bool = False
    max_tokens: int = 4096
    fair: str = ""


class Completion(msgspec.Struct, frozen=True):
    """A model's answer: text, wishes, or both. `model` is who gave it; `usage` includes what failed tries cost.

    Where a schema was asked for, `value` is the answer, which fits it.
    """

    text: str
    wishes: tuple[Wish, ...] = ()
    value: Any = None
    usage: Usage = Usage()
    model: str = ""
    finish: Finish = "stop"


class NoModel(ModelFailed):
    """What was asked needs a model that writes, and there is none that can be used: rules have to do."""


OnText = Callable[[str], None]
"""Told each piece of text as it comes; an empty piece says that what came so far is void, for another try begins."""


More = Callable[[Usage, Usage], Awaitable[Usage]]
"""Sets more aside: told what the tries so far spent and what the next may cost, it says what all may cost together.

That may be less, where there is no more. Raises BudgetExceeded where there is nothing for another try; then no more
is set aside than the tries so far spent.
"""


class Model(Protocol):
    """Answers one request; may be asked many at once."""

    @property
    def generates(self) -> bool:
        """Whether it writes texts of its own, so that it can plan and judge."""
        ...

    async def bound(self, ask: Ask) -> Usage:
        """The most that one try of `ask` can cost: its own tokens and those of the longest answer, and their price."""
        ...

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        """The answer. With `left`, no try is made that could cost more than is left of it; `more` adds to it.

        Raises:
            ModelFailed: nobody in the chain gave an answer that can be used; it says why of each, and what was spent.
            NoModel: likewise, for there is none at all that writes.
            BudgetExceeded: `left` is not enough for a try.
        """
        ...
