"""The dialogue of one task with its model: what it is told, and when its answer is one.

Only the task and the assistant's own texts are told as what to do. What others wrote, the context, inputs, and
what calls brought, is fenced as material.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from msgspec.structs import replace

from cld.assistants.calls import Calls
from cld.assistants.job import Done, Job
from cld.errors import BudgetExceeded, InvalidResource, ModelFailed
from cld.journal import call_id
from cld.json_schema import compile_schema
from cld.models import Ask, Completion, Message
from cld.models.material import Fence, cut
from cld.models.offline import NAME as OFFLINE
from cld.supervisor import fits_words
from cld.tasks.budget import plus, total
from cld.types import Call, Turn, Usage

MOST_MISFITS = 3
"""How often a model may answer in a form that was not asked for."""

MOST_RESULT = 16_000
"""Of a call's result so many characters are shown to the model."""

MOST_INPUTS = 32_000
_MOST_MISFIT = 600


async def work(job: Job) -> Done:
    """Work a task to its answer.

    Raises:
        Parked: something has to be waited for; everything so far is in the journal.
        BudgetExceeded: it may cost or turn no more.
        ModelFailed: there is no model that answers, or none that answers in the form asked for.
        LeaseLost: another process works the task.
        InvalidResource: what is in the journal is not the engine's own.
    """
    # What nobody has worked before has no journal. Should there be one all the same, writing to it fails.
    is_new = job.fence == 1
    turns, calls = ([], {}) if is_new else (await job.journal.turns(), await job.journal.calls())
    dialogue = _Dialogue(job, turns, Calls(job, calls))
    while True:
        await dialogue.settle()
        completion = await dialogue.think()
        if completion.wishes:
            await dialogue.keep(completion, "")
            continue
        output, misfit, checked = await read_answer(job, completion)
        completion = replace(completion, usage=plus(completion.usage, checked))
        if misfit:
            await dialogue.keep(completion, misfit)
            continue
        return dialogue.done(output, completion)


class _Dialogue:
    """The turns of one task, as far as they are."""

    def __init__(self, job: Job, turns: list[Turn], calls: Calls) -> None:
        self._job = job
        self._turns = turns
        self._calls = calls

    async def settle(self) -> None:
        """Make the calls that the last turn asks for and that are not over.

        Raises:
            Parked: some of them wait.
        """
        if self._turns:
            await self._calls.settle(self._turns[-1], self._said())

    async def think(self) -> Completion:
        """The model's next answer, within what is left."""
        job, step = self._job, len(self._turns)
        if step >= job.iterations:
            raise BudgetExceeded(
                f"after {step} turns there is no answer; ask for less at once, or raise work.iterations",
                what="iterations",
                uri=job.uri,
            )
        ask = Ask(
            messages=messages(job, self._turns, self._calls),
            tools=self._calls.offers(),
            schema=job.task.response_format if isinstance(job.task.response_format, dict) else None,
            tier=job.assistant.model,
        )
        return await job.model.complete(ask, job.on_text)

    async def keep(self, completion: Completion, misfit: str) -> None:
        """Write down an answer that is not the last."""
        if misfit and sum(1 for turn in self._turns if turn.asked) >= MOST_MISFITS:
            raise ModelFailed(
                f"the model's answer does not fit what was asked for: {misfit}",
                reasons=[f"{completion.model}: {misfit}"],
            )
        turn = Turn(
            step=len(self._turns),
            text=completion.text,
            wishes=completion.wishes,
            asked=f"Your answer does not fit: {misfit}. Answer again, in the form asked for." if misfit else "",
            model=completion.model,
            usage=completion.usage,
            held=self._job.held(),
        )
        await self._job.journal.add_turn(turn)
        self._turns.append(turn)

    def done(self, output: Any, completion: Completion) -> Done:
        """The end of the dialogue with `output`, which `completion` gave."""
        sources = self._calls.sources(output, quotes=completion.model == OFFLINE)
        return Done(output, sources, total([self._said(), self._calls.made(), completion.usage]))

    def _said(self) -> Usage:
        return total(turn.usage for turn in self._turns)


_RULES = """\
You work on one task of a larger plan. Do only what the task says. Use the tools you are offered for what you do not \
know; never make up what a tool should tell. When you have the answer, give it without calling a tool, and name the \
cld: URIs of the resources it rests on. {material}"""


def messages(job: Job, turns: Sequence[Turn], calls: Calls) -> tuple[Message, ...]:
    """The dialogue so far as a model is told it."""
    inputs = cut(msgspec.json.encode(job.task.inputs).decode(), MOST_INPUTS) if job.task.inputs else ""
    results = dict(_results(turns, calls))
    fence = Fence(
        [inputs, job.context, *(told for _, told in results.values())],
        # What is known from the beginning, so that the beginning of the dialogue stays the same; and nothing but what
        # is told, so that the same question is the same request. That no text has the mark does not rest on the seed.
        seed=(job.meta.purpose, job.meta.instructions, inputs, job.context),
    )
    character, format = job.character, job.task.response_format
    rules = _RULES.format(material=fence.rule)
    system = "\n\n".join(part for part in (rules, character.purpose, character.instructions) if part)
    parts = [
        f"Task: {job.meta.purpose}",
        job.meta.instructions,
        f"It is done well when: {job.meta.evaluation}" if job.meta.evaluation else "",
        f"Form of the answer: {format}" if isinstance(format, str) else "",
        fence.around("inputs", inputs) if inputs else "",
        fence.around("what is known", job.context) if job.context else "",
    ]
    told = [Message("system", system), Message("user", "\n\n".join(part for part in parts if part))]
    for turn in turns:
        told.append(Message("assistant", turn.text, wishes=turn.wishes))
        for number, wish in enumerate(turn.wishes):
            name, text = results[call_id(turn.step, number)]
            told.append(Message("tool", fence.around(name, text), answers=wish.key))
        if turn.asked:
            told.append(Message("user", turn.asked))
    return tuple(told)


def _results(turns: Sequence[Turn], calls: Calls) -> Iterator[tuple[str, tuple[str, str]]]:
    """What is told of every call that was asked for, with a name for it, by the call's id."""
    for turn in turns:
        for number, wish in enumerate(turn.wishes):
            id = call_id(turn.step, number)
            yield id, (f"what {wish.tool} gave", _told(calls.get(id)))


def _told(call: Call | None) -> str:
    """What a model is told of a call."""
    if call is None:
        return "error not_made: it was not made, for too many calls were asked for at once"
    if call.error is not None:
        return f"error {call.error.code}: {call.error.message}"
    return cut(call.text if call.result is None else msgspec.json.encode(call.result).decode(), MOST_RESULT)


async def read_answer(job: Job, completion: Completion) -> tuple[Any, str, Usage]:
    """The answer in the form asked for, why it is not of it (empty when it is), and what it cost to find out.

    Raises:
        InvalidResource: the form asked for is itself no valid schema.
        ModelFailed, BudgetExceeded: whether it is of a form in words was asked, and not answered.
    """
    format, text = job.task.response_format, completion.text.strip()
    if completion.finish == "length":
        return None, f"it was cut off after {completion.usage.tokens} tokens; give a shorter one", Usage()
    if not isinstance(format, dict):
        if not text:
            return None, "it is empty", Usage()
        if not format:
            return text, "", Usage()
        fits, why, spent = await fits_words(job.model, format, text)
        return text, "" if fits else f"it is to be {format!r}, and {why}"[:_MOST_MISFIT], spent
    value = completion.value
    if value is None:
        try:
            value = msgspec.json.decode(completion.text)
        except msgspec.DecodeError as error:
            return None, f"it is no JSON ({error})", Usage()
    try:
        check = await run_sync(compile_schema, format)
    except InvalidResource as error:
        raise InvalidResource(f"the form asked for cannot be used: {error}") from error
    found = await run_sync(check, value, abandon_on_cancel=True)
    return value, "" if found is None else f"{found.field or 'it'}: {found.reason}"[:_MOST_MISFIT], Usage()
