"""What is made of a model's answer: a completion, or why it is none. Pure, but for the check of a schema."""

import asyncio
import re
import secrets
from collections.abc import Collection

from cld.json_schema import Check, Misfit
from cld.models import Completion, Finish, Message, Wish
from cld.models.failures import Failed, clean
from cld.models.litellm import Answer, Call
from cld.models.repair import read_json

_REFUSED = re.compile(
    r"(?:(?:I'm|I am)(?: very| so)? sorry|Sorry|I apologi[sz]e|Unfortunately|As an AI[^.,]{0,40})?[\s,.]*(?:but )?"
    r"I(?: can(?:'t|not| not)|'m (?:unable|not able) to| am (?:unable|not able) to| won't| will not)"
    r"(?: be able to)? "
    r"(?:(?:help|assist)(?: you)? with (?:that|this|your request)|comply with|fulfil+ (?:that|this|your) request"
    r"|engage in|do that\b|assist you\b)",
    re.IGNORECASE,
)
_LONGEST_REFUSAL = 400
_CURLY = "\N{RIGHT SINGLE QUOTATION MARK}"


class Misfits(Exception):
    """An answer that does not fit the schema; the model can be told why."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(reason)
        self.text = text
        self.reason = reason


async def judged(answer: Answer, offered: Collection[str], check: Check | None, model: str) -> Completion:
    """The completion that `answer` is; its usage is still to be filled in.

    Raises:
        Failed: it is refused, empty or cut off.
        Misfits: it is not what `check` demands.
    """
    if answer.refusal or answer.finish == "content_filter":
        raise Failed("refused", clean(answer.refusal) or "the provider's filter stopped it")
    cut = answer.finish == "length"
    wishes = _wishes(answer, offered, cut=cut)
    if not answer.text.strip() and not wishes:
        if cut:
            raise Failed("cut_off", "it came to no answer within its tokens")
        raise Failed("empty", "the answer is empty")
    finish: Finish = "calls" if wishes else "length" if cut else "stop"
    if wishes:
        return Completion(answer.text, wishes, model=model, finish=finish)
    if len(answer.text) <= _LONGEST_REFUSAL and _REFUSED.match(answer.text.strip().replace(_CURLY, "'")):
        raise Failed("refused", clean(answer.text))
    if check is None:
        return Completion(answer.text, model=model, finish=finish)
    if cut:
        raise Failed("cut_off", "the JSON is cut off: it needs more tokens than the answer may have")
    try:
        value = read_json(answer.text)
    except ValueError as error:
        raise Misfits(answer.text, str(error)) from None
    # A schema can be made to take any amount of time.
    misfit: Misfit | None = await asyncio.to_thread(check, value)
    if misfit is not None:
        raise Misfits(answer.text, f"{misfit.field or 'the whole'}: {misfit.reason}")
    return Completion(answer.text, value=value, model=model, finish=finish)


def correction(misfits: Misfits) -> tuple[Message, Message]:
    """What the model is told of its answer."""
    return (
        Message("assistant", misfits.text),
        Message(
            "user",
            f"That does not fit the schema: {misfits.reason}. Answer again, all of it, with the JSON value alone.",
        ),
    )


def _wishes(answer: Answer, offered: Collection[str], *, cut: bool) -> tuple[Wish, ...]:
    made: list[Wish] = []
    keys: set[str] = set()
    for call in answer.calls:
        # Some providers give none, or the same twice; the answers to them must find their way.
        key = call.key if call.key and call.key not in keys else f"call_{secrets.token_hex(8)}"
        keys.add(key)
        made.append(_wish(key, call, offered, cut=cut and call is answer.calls[-1]))
    return tuple(made)


def _wish(key: str, call: Call, offered: Collection[str], *, cut: bool) -> Wish:
    if call.name not in offered:
        there = ", ".join(offered) or "none"
        return Wish(key, call.name, problem=f"there is no tool {call.name!r} on offer; those are: {there}")
    if not call.arguments.strip():
        return Wish(key, call.name)
    try:
        arguments = read_json(call.arguments)
    except ValueError as error:
        why = "they were cut off, for the answer has no more tokens" if cut else str(error)
        return Wish(key, call.name, problem=f"the arguments of {call.name} are no JSON object: {why}")
    if not isinstance(arguments, dict):
        return Wish(
            key, call.name, problem=f"the arguments of {call.name} are no JSON object, but {call.arguments:.60}"
        )
    return Wish(key, call.name, arguments)  # pyright: ignore[reportUnknownArgumentType]
