"""The supervisor: whether what came of a task's subtasks is what was asked for, and the answer that it makes.

Owns what a model is told for judging and what of its judgement is accepted: an answer rests on parts it names, and
a part that failed is needed unless it says why not. Changes no task: it hands back a verdict. What parts say was
written by others, and is told as material. In one module, because what is told and what is accepted change together.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from anyio.to_thread import run_sync

from cld.config import Work
from cld.errors import InvalidArgument, ModelFailed
from cld.json_schema import Check, compile_schema
from cld.models import Ask, Completion, Message, Model, More, NoModel, OnText
from cld.models.asking import NeverFits, ask_until
from cld.models.material import Fence, cut
from cld.models.offline_joining import Piece, joined_text, joined_value
from cld.models.offline_rules import can_be_checked, misfit
from cld.models.step_schema import STEP, step_definition, steps_of
from cld.resource import Meta
from cld.tasks.budget import less, plus
from cld.tasks.order import PlanLimits, check_plan, dependencies
from cld.types import Judgement, Source, Step, Task, Usage

BY_RULE = "offline"

MOST_SOURCES = 200
MOST_MATERIAL = 80_000
"""Of all parts together so many characters are told, of each its share."""

_LEAST_SHARE = 80
_MOST_ANSWER = 8192
_URI = re.compile(r"\bcld:[A-Za-z0-9_.:/-]*[A-Za-z0-9_-]")
_HOW_TO_CONFIGURE = "configure a model (docs/models.md)"


class Part(msgspec.Struct, frozen=True):
    """A subtask as it ended: `skipped` says why it was not worked, `error` why it failed."""

    id: str
    uri: str
    purpose: str
    status: str
    output: Any = None
    sources: tuple[Source, ...] = ()
    error: str = ""
    skipped: str = ""

    @property
    def counts(self) -> bool:
        """Whether there is something that an answer can rest on."""
        return self.status == "completed" and not self.skipped and self.output not in (None, "")


class Verdict(msgspec.Struct, frozen=True):
    """A judgement; with `enough` the answer and what it rests on, else perhaps the steps that are to mend it."""

    judgement: Judgement
    steps: tuple[Step, ...] = ()
    output: Any = None
    sources: tuple[Source, ...] = ()
    usage: Usage = Usage()


async def judge(
    model: Model,
    meta: Meta,
    task: Task,
    parts: Sequence[Part],
    limits: Work,
    *,
    may_correct: bool,
    left: Usage | None = None,
) -> Verdict:
    """The verdict on a task all of whose subtasks, `parts`, are over.

    What was done once for each value of a list gives the list of outputs. Where every part was left out, the answer
    says so. Otherwise a model that generates is asked; an answer that rests on no part is never enough, so that
    where none gave anything, only what would mend it is asked for. Without such a model, or while it cannot be
    asked, it is enough when every part that was worked has an output and nothing plainly contradicts what is demanded;
    the answer is what the parts gave, side by side. Corrective steps have new ids and can be carried out beside the
    parts; there are none unless `may_correct`.

    Raises:
        ModelFailed: no model answered; or there is none, and the parts do not fit the form asked for as they are.
        BudgetExceeded: `left` is not enough to ask.
    """
    if task.for_each:
        return _for_each(parts)
    if parts and all(part.skipped for part in parts):
        return await _left_out(task, parts)
    if not model.generates:
        return await _by_rule(meta, task, parts)
    lacking = "" if any(part.counts for part in parts) else _told_lacking(parts)
    if lacking and not may_correct:
        return Verdict(Judgement(False, lacking, BY_RULE))
    asked = _Within(model, left)
    judging = _Judging(asked, meta, task, parts, limits, may_correct=may_correct, lacking=lacking)
    try:
        verdict, _, by = await ask_until(asked, judging.ask(), judging.read)
    except NoModel:
        return msgspec.structs.replace(await _by_rule(meta, task, parts), usage=asked.spent)
    except NeverFits as failed:
        by, _, reason = failed.reasons[-1].partition(": ")
        told = "; ".join(part for part in (lacking, f"no judgement can be used: {reason or by}") if part)
        return Verdict(Judgement(False, told, by), usage=asked.spent)
    except ModelFailed as failed:
        if not lacking:
            raise
        # Nobody has to be asked to know that it is not enough, and why.
        spent = plus(asked.spent, Usage(tokens=failed.tokens, money=failed.money))
        return Verdict(Judgement(False, f"{lacking}; what would mend it was not told: {failed}", BY_RULE), usage=spent)
    judgement = msgspec.structs.replace(verdict.judgement, by=by)
    return msgspec.structs.replace(verdict, judgement=judgement, usage=asked.spent)


async def fits_words(
    model: Model, format: str, text: str, left: Usage | None = None, *, sources: int | None = None
) -> tuple[bool, str, Usage]:
    """Whether `text` is of a form given in words, as "in Japanese"; why, and what asking cost.

    It rests on so many `sources`; where that is not known, on those it names.

    What is plainly not so (the script of another language, a length) is told without a model. Without one, what is
    not plain is let pass, and the reason says that it was not checked.

    Raises:
        ModelFailed: no model answered.
        BudgetExceeded: `left` is not enough to ask.
    """
    if found := misfit(format, text, len(set(_URI.findall(text))) if sources is None else sources):
        return False, found, Usage()
    if not model.generates:
        return *_unchecked(format), Usage()
    shown = cut(text, MOST_MATERIAL)
    fence = Fence([format, shown])
    told = "\n\n".join([fence.around("the form asked for", format), fence.around("the text", shown)])
    rules = f"Judge whether a text has the form that was asked for, and nothing else about it. {fence.rule}"
    schema = _closed({"fits": {"type": "boolean"}, "reason": {"type": "string"}})
    ask = Ask((Message("system", rules), Message("user", told)), schema=schema, reasoning=True, max_tokens=512)

    async def read(value: Any) -> tuple[bool, str]:
        return value["fits"], value["reason"]

    try:
        (fits, reason), usage, _ = await ask_until(model, ask, read, left)
    except NoModel as none:
        return *_unchecked(format), Usage(tokens=none.tokens, money=none.money)
    return fits, reason, usage


def _unchecked(format: str) -> tuple[bool, str]:
    """What is said of a form in words without a model."""
    how = "as far as can be told without a model" if can_be_checked(format) else "not checked: there is no model"
    return True, how


def _for_each(parts: Sequence[Part]) -> Verdict:
    failed = [part for part in parts if part.status != "completed"]
    if failed:
        return Verdict(Judgement(False, _told_parts(failed), BY_RULE))
    judgement = Judgement(True, f"each of {len(parts)} was done", BY_RULE)
    return Verdict(judgement, output=[part.output for part in parts], sources=_evidence(parts))


async def _left_out(task: Task, parts: Sequence[Part]) -> Verdict:
    """The verdict where nothing was to be done, as far as that can be said in the form asked for."""
    told = f"nothing was to be done: {_told_parts(parts)}"
    said = told[0].upper() + told[1:]
    form = task.response_format
    if isinstance(form, dict):
        check = await run_sync(compile_schema, form)
        outputs: tuple[Any, ...] = (said, [], {}, None)
        for output in outputs:
            if await run_sync(check, output) is None:
                return Verdict(Judgement(True, told, BY_RULE), output=output, sources=_evidence(parts))
        return Verdict(Judgement(False, f"{told}; that cannot be said in the form asked for", BY_RULE))
    if form and (found := misfit(form, said, len(parts))):
        return Verdict(Judgement(False, f"{told}; that cannot be said in the form asked for: {found}", BY_RULE))
    return Verdict(Judgement(True, told, BY_RULE), output=said, sources=_evidence(parts))


async def _by_rule(meta: Meta, task: Task, parts: Sequence[Part]) -> Verdict:
    """The verdict without a model."""
    worked = [part for part in parts if not part.skipped]
    if not worked or not all(part.counts for part in worked):
        return Verdict(Judgement(False, _told_lacking(parts), BY_RULE))
    pieces = [Piece(part.id, part.purpose, part.output) for part in worked]
    evidence = _evidence(worked)
    text = joined_text(pieces)
    output: Any = text
    if isinstance(task.response_format, dict):
        fits, output = await run_sync(joined_value, pieces, task.response_format, abandon_on_cancel=True)
        if not fits:
            raise ModelFailed(
                "the answer has to fit a JSON schema, and what the subtasks gave does not fit it side by side; there "
                f"is no model that could write it anew: {_HOW_TO_CONFIGURE}"
            )
    form = task.response_format if isinstance(task.response_format, str) else ""
    for demand in (meta.evaluation, form):
        if demand and (found := misfit(demand, text, len(evidence))):
            return Verdict(Judgement(False, f"{found}; to have it written anew, {_HOW_TO_CONFIGURE}", BY_RULE))
    reason = "every subtask gave an output; whether they are good was not judged, for there is no model"
    return Verdict(Judgement(True, reason, BY_RULE), output=output, sources=evidence)


_RULES = """\
You supervise a task whose subtasks are over. Judge whether what came of them is what the task asks for, by what it \
says it is judged by. You do nothing of it yourself, and know nothing but what the subtasks gave.
{enough}
If it is not enough, say in `reason` what is lacking, and give no answer. {correcting}
{material}"""

_ENOUGH = """\
If it is enough, say so and give the whole answer to the task, made of what the subtasks gave and nothing else, and \
in `cites` the ids of the subtasks that it rests on. Keep the cld: URIs that say where something is from. An answer \
that rests on no subtask is not enough.
A subtask that failed was needed, unless you put its id in `not_needed` and say in `reason` why the answer is whole \
without it."""

_LACKING = "No subtask gave anything that an answer could rest on, so it is not enough."

_CORRECT = """\
Give in `steps` the fewest new subtasks that would mend it, with ids of their own; they may take what others gave by \
`inputs` with `from`, but never from one that failed. Give none when nothing would mend it."""


class _Judging:
    """One judgement by a model: what it is asked, and what of its answer is accepted."""

    def __init__(
        self,
        model: Model,
        meta: Meta,
        task: Task,
        parts: Sequence[Part],
        limits: Work,
        *,
        may_correct: bool,
        lacking: str,
    ) -> None:
        self._model = model
        self._task = task
        self._lacking = lacking  # why it cannot be enough
        self._parts = {part.id: part for part in parts}
        self._failed = [part.id for part in parts if part.status != "completed"]
        self._bounds = PlanLimits(limits.depth, max(0, limits.width - len(parts)), limits.tasks)
        self._may_correct = may_correct
        self._meta = meta
        form = task.response_format
        self._form = form if isinstance(form, str) else ""
        self._schema = form if isinstance(form, dict) else None
        self._inline = None if self._schema is None else _moved(self._schema, "#/properties/answer/anyOf/0")
        self._check: Check | None = None

    def ask(self) -> Ask:
        """The request for a judgement."""
        wanted = self._wanted()
        share = max(_LEAST_SHARE, MOST_MATERIAL // max(1, len(self._parts)))
        shown = {id: _shown(part, share) for id, part in self._parts.items()}
        fence = Fence([wanted, *shown.values()])
        rules = _RULES.format(
            enough=_LACKING if self._lacking else _ENOUGH,
            correcting=_CORRECT if self._may_correct else "",
            material=fence.rule,
        )
        blocks = [fence.around("the task", wanted)]
        blocks += [fence.around(f"subtask {id}, which {_ended(self._parts[id])}", text) for id, text in shown.items()]
        blocks.append("Now judge.")
        return Ask(
            messages=(Message("system", rules), Message("user", "\n\n".join(blocks))),
            schema=self._asked_for(),
            reasoning=True,
            max_tokens=_MOST_ANSWER,
        )

    async def read(self, value: Any) -> Verdict:
        """What a model's judgement comes to.

        Raises:
            InvalidArgument: in words for the model.
        """
        if value["enough"] and not self._lacking:
            return await self._enough(value)
        steps = steps_of(value["steps"]) if self._may_correct else ()
        if steps:
            await run_sync(self._check_steps, steps)
        reason = "" if value["enough"] else value["reason"]
        return Verdict(Judgement(False, reason or self._lacking or "it is not enough"), steps)

    async def _enough(self, value: Any) -> Verdict:
        cited = [self._parts[id] for id in dict.fromkeys(value["cites"]) if id in self._parts]
        if not cited:
            raise InvalidArgument("an answer has to name in cites the subtasks that it rests on", field="cites")
        if void := [part.id for part in cited if not part.counts]:
            raise InvalidArgument(f"{', '.join(void)} gave nothing that an answer could rest on", field="cites")
        if needed := [id for id in self._failed if id not in value["not_needed"]]:
            raise InvalidArgument(
                f"{', '.join(needed)} failed; say that it is not enough, or in not_needed that the answer is whole "
                "without, and why",
                field="not_needed",
            )
        if value["not_needed"] and not value["reason"].strip():
            raise InvalidArgument("reason has to say why what failed is not needed", field="reason")
        output = await self._answer(value["answer"])
        evidence = _evidence(cited)
        if self._form:
            fits, why, _ = await fits_words(self._model, self._form, output, sources=len(evidence))
            if not fits:
                raise InvalidArgument(f"the answer is to be {self._form!r}, and {why}", field="answer")
        return Verdict(Judgement(True, value["reason"]), output=output, sources=evidence)

    async def _answer(self, answer: Any) -> Any:
        """The answer in the form asked for."""
        if self._schema is None:
            if not (answer or "").strip():
                raise InvalidArgument("the answer is empty", field="answer")
            return answer.strip()
        if self._inline is None:
            try:
                answer = msgspec.json.decode(answer or "")
            except msgspec.DecodeError as error:
                raise InvalidArgument(
                    f"the answer is to be JSON as a text, and is none: {error}", field="answer"
                ) from None
        if self._check is None:
            self._check = await run_sync(compile_schema, self._schema)
        if (found := await run_sync(self._check, answer, abandon_on_cancel=True)) is not None:
            raise InvalidArgument(f"answer {found.field}: {found.reason}", field="answer")
        return answer

    def _check_steps(self, steps: tuple[Step, ...]) -> None:
        siblings = {id: Task(status=cast("Any", part.status)) for id, part in self._parts.items()}
        check_plan(steps, limits=self._bounds, budget=self._task.budget, siblings=siblings, field="steps")
        for at, step in enumerate(steps):
            if dead := [id for id in dependencies(step) if id in self._failed]:
                raise InvalidArgument(f"steps[{at}] waits for {dead[0]}, which failed", field=f"steps[{at}]")

    def _wanted(self) -> str:
        meta, task = self._meta, self._task
        parts = [
            meta.purpose,
            meta.instructions,
            f"It is judged by this: {meta.evaluation}" if meta.evaluation else "",
            f"Inputs, as JSON: {cut(msgspec.json.encode(task.inputs).decode(), 8000)}" if task.inputs else "",
            f"Form of the answer: {self._form}" if self._form else "",
            f"The answer is JSON of this schema: {msgspec.json.encode(self._schema).decode()}" if self._schema else "",
        ]
        return "\n\n".join(part for part in parts if part)

    def _asked_for(self) -> dict[str, Any]:
        """The schema of a judgement."""
        answer: Any = {"type": "string"} if self._inline is None else self._inline
        properties: dict[str, Any] = {
            "enough": {"type": "boolean", "enum": [False]} if self._lacking else {"type": "boolean"},
            "reason": {"type": "string"},
            "cites": {"type": "array", "items": {"type": "string", "enum": list(self._parts) or [""]}},
            "not_needed": {"type": "array", "items": {"type": "string", "enum": self._failed or [""]}},
            "answer": {"anyOf": [answer, {"type": "null"}]},
        }
        if not self._may_correct:
            return _closed(properties)
        properties["steps"] = {"type": "array", "items": {"$ref": STEP}}
        return {**_closed(properties), "$defs": {"step": step_definition(())}}


class _Within:
    """A model for one judgement: what all that it is asked for that costs, within what is left."""

    def __init__(self, model: Model, left: Usage | None) -> None:
        self._model = model
        self._left = left
        self.spent = Usage()

    @property
    def generates(self) -> bool:
        return self._model.generates

    async def bound(self, ask: Ask) -> Usage:
        return await self._model.bound(ask)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        if self._left is not None:
            left = less(self._left, self.spent)
        completion = await self._model.complete(ask, on_text, left=left, more=more)
        self.spent = plus(self.spent, completion.usage)
        return completion


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _moved(schema: Mapping[str, Any], place: str) -> dict[str, Any] | None:
    """The schema as it has to be written at `place` of another; None when it cannot be moved."""

    def moved(part: Any) -> Any:
        match part:
            case dict():
                entries = cast("dict[str, Any]", part)
                if entries.keys() & {"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$schema"}:
                    raise ValueError
                return {
                    key: place + value[1:] if key == "$ref" and isinstance(value, str) else moved(value)
                    for key, value in entries.items()
                }
            case list():
                return [moved(one) for one in cast("list[Any]", part)]
            case _:
                return part

    try:
        return moved(schema)
    except ValueError:
        return None


def _evidence(parts: Sequence[Part]) -> tuple[Source, ...]:
    """What these rest on, and they themselves; each once."""
    found: dict[str, Source] = {}
    for part in parts:
        found.setdefault(part.uri, Source(part.uri))
        for source in part.sources:
            if source.uri not in found or (source.quote and not found[source.uri].quote):
                found[source.uri] = source
    return tuple(found.values())[:MOST_SOURCES]


def _shown(part: Part, most: int) -> str:
    """A part as a model is told it."""
    output = part.output if isinstance(part.output, str) else msgspec.json.encode(part.output).decode()
    lines = [f"It was to do: {cut(part.purpose, max(_LEAST_SHARE, min(500, most // 4)))}"]
    if part.skipped:
        lines.append(f"It was left out: {cut(part.skipped, 300)}")
    elif part.status != "completed":
        lines.append(f"Why: {cut(part.error, 500)}")
    else:
        lines += [f"It gave:\n{cut(output, most)}"]
        if part.sources:
            lines.append("It rests on: " + ", ".join(source.uri for source in part.sources[:20]))
    return "\n".join(lines)


def _ended(part: Part) -> str:
    if part.skipped:
        return "was left out"
    return {"completed": "was done", "failed": "failed", "cancelled": "was cancelled"}.get(part.status, part.status)


def _told_lacking(parts: Sequence[Part]) -> str:
    """Why nothing rests on these: those that failed, else those of which nothing came."""
    if failed := [part for part in parts if part.status != "completed"]:
        return _told_parts(failed)
    empty = [part.id for part in parts if not (part.skipped or part.counts)]
    return f"nothing came of {', '.join(empty)}" if empty else "there are no subtasks that anything could come of"


def _told_parts(parts: Sequence[Part]) -> str:
    """How some parts ended, and why."""
    told = [
        f"{part.id} {_ended(part)}" + (f" ({why})" if (why := part.error or part.skipped) else "") for part in parts
    ]
    more = f" and {len(parts) - 10} more" if len(parts) > 10 else ""
    return "; ".join(told[:10]) + more
