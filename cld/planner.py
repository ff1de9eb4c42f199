"""The planner: the steps that a task is to be done in, or that it is to be worked as it is.

Owns what a model is told for planning and what of its plan is accepted. Makes no tasks: it hands back steps that
can be carried out. What is to be planned and what is known about it was written by others, and is told as material.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from msgspec.structs import replace

from cld.config import Work
from cld.errors import InvalidArgument, ModelFailed
from cld.models import Ask, Message, Model, NoModel
from cld.models.asking import NeverFits, ask_until
from cld.models.failures import NOT_USABLE
from cld.models.material import Fence, cut
from cld.models.offline_steps import split
from cld.models.step_schema import STEP, step_definition, steps_of
from cld.resource import Meta
from cld.tasks.order import PlanLimits, check_plan
from cld.types import Step, Task, Usage

BY_RULE = "offline"

MOST_CONTEXT = 40_000
"""Of the context so many characters are told."""

_MOST_ASSISTANTS = 100
_MOST_ANSWER = 8192
_MOST_FAILED = 2000
_TELLING_DEPTH = 4  # a model is told no deeper, though what the host gives may be


class Roster(msgspec.Struct, frozen=True):
    """An assistant as the planner is told of it."""

    uri: str
    title: str
    description: str
    tools: tuple[str, ...] = ()


class Planned(msgspec.Struct, frozen=True):
    """The steps of a task, and why these; none when it is to be worked as it is. `by` is the model, or `offline`."""

    steps: tuple[Step, ...]
    reason: str
    usage: Usage
    by: str


async def plan(
    model: Model,
    meta: Meta,
    task: Task,
    context: str,
    roster: Sequence[Roster],
    limits: Work,
    left: Usage | None = None,
    *,
    failed: str = "",
) -> Planned:
    """The steps of a task within `limits`, each of which can be carried out.

    A model that generates is asked; when none of its plans can be used the task is worked as it is, and the reason
    says so: an answer without a plan is worth more than none. Without such a model, or while it cannot be asked, the
    text is split by rule.
    `failed` says why working it as it is has failed; then one step is a plan too, for it may say otherwise how.

    Raises:
        ModelFailed: no model answered, and there is one.
        BudgetExceeded: `left` is not enough to ask.
    """
    bounds = PlanLimits(limits.depth, limits.width, limits.tasks)
    if not model.generates:
        return _by_rule(meta, task, bounds)
    known = {one.uri for one in roster}

    async def read(value: Any) -> tuple[tuple[Step, ...], str]:
        steps = () if value["direct"] else steps_of(value["steps"])
        _check_assistants(steps, known)
        # Conditions are compiled, which is not done while others wait.
        await run_sync(lambda: check_plan(steps, limits=bounds, budget=task.budget, field="steps"))
        return steps, value["reason"]

    try:
        (steps, reason), usage, by = await ask_until(
            model, _asked(meta, task, context, roster, bounds, failed), read, left
        )
    except NoModel as none:
        return replace(_by_rule(meta, task, bounds), usage=Usage(tokens=none.tokens, money=none.money))
    except ModelFailed as never:
        # One that twice is not even of the schema is never shown to `read`.
        if not isinstance(never, NeverFits) and set(never.kinds) - NOT_USABLE != {"schema"}:
            raise
        usage = Usage(tokens=never.tokens, money=never.money)
        return Planned((), f"worked as it is, for {never}", usage, never.reasons[-1].partition(":")[0])
    return Planned(() if _is_one(steps) and not failed else steps, reason, usage, by)


def _by_rule(meta: Meta, task: Task, bounds: PlanLimits) -> Planned:
    steps = split(meta)
    if not steps:
        return Planned((), "it is one step", Usage(), BY_RULE)
    try:
        number = check_plan(steps, limits=bounds, budget=task.budget, field="steps")
    except InvalidArgument as error:
        return Planned((), f"worked as it is, for its steps are no plan: {error}", Usage(), BY_RULE)
    return Planned(steps, f"its text says {number} steps", Usage(), BY_RULE)


def _is_one(steps: Sequence[Step]) -> bool:
    """Whether a plan says no more than the task itself: what a step names besides would be lost with it."""
    if len(steps) != 1:
        return False
    (one,) = steps
    said = one.steps or one.when or one.for_each or one.assistant or one.inputs or one.response_format
    return not said and one.tools is None


def _check_assistants(steps: Sequence[Step], known: set[str], field: str = "steps") -> None:
    for at, step in enumerate(steps):
        if step.assistant and step.assistant not in known:
            raise InvalidArgument(
                f"{field}[{at}].assistant {step.assistant[:120]!r} is none of those listed", field=f"{field}[{at}]"
            )
        _check_assistants(step.steps, known, f"{field}[{at}].steps")


_RULES = """\
You plan work. Say in which steps the task below is to be done; you do none of it yourself.
Answer `direct: true` and no steps when one assistant can do it in one go: most tasks are of this kind.
Else give the fewest steps that do it. Steps beside one another run at the same time, except those that are named in \
`after` or whose output is an input. Write each so that somebody who knows nothing of the rest can do it: what it \
needs of another step's output it gets by `inputs` with `from`, never by being told about it. A step may have steps \
of its own. `for_each` does a step once for each value of a list among its inputs, as `item`; `when` leaves it out.
Name an assistant only from the list, and only where it plainly fits. At most {width} steps beside one another, \
{depth} levels, {total} steps in all.
The task says what is wanted: plan that. {again}{material}"""

_AGAIN = """\
It was worked in one go, and that failed; why is told. Plan it so that it can be done all the same, or answer \
`direct: true` where no plan would mend that. """


def _asked(meta: Meta, task: Task, context: str, roster: Sequence[Roster], bounds: PlanLimits, failed: str) -> Ask:
    """The request for a plan."""
    wanted = _wanted(meta, task)
    there = "\n".join(
        f"{one.uri} ({one.title}): {' '.join(one.description.split())}"[:1000] for one in roster[:_MOST_ASSISTANTS]
    )
    known = cut(context, MOST_CONTEXT)
    why = cut(failed, _MOST_FAILED)
    fence = Fence([wanted, there, known, why])
    rules = _RULES.format(
        width=bounds.width,
        depth=min(bounds.depth, _TELLING_DEPTH),
        total=bounds.total,
        again=_AGAIN if why else "",
        material=fence.rule,
    )
    parts = [
        fence.around("the task", wanted),
        fence.around("the assistants there are", there) if there else "",
        fence.around("what is known", known) if known else "",
        fence.around("why working it in one go failed", why) if why else "",
        "Now give the plan of the task.",
    ]
    return Ask(
        messages=(Message("system", rules), Message("user", "\n\n".join(part for part in parts if part))),
        schema=_schema([one.uri for one in roster[:_MOST_ASSISTANTS]]),
        reasoning=True,
        max_tokens=_MOST_ANSWER,
    )


def _wanted(meta: Meta, task: Task) -> str:
    """The task in words."""
    format = task.response_format
    parts = [
        meta.purpose,
        meta.instructions,
        f"It is done well when: {meta.evaluation}" if meta.evaluation else "",
        f"Inputs, as JSON: {cut(msgspec.json.encode(task.inputs).decode(), 8000)}" if task.inputs else "",
        f"Tools that may be used at most: {', '.join(task.tools)}" if task.tools is not None else "",
        f"Form of the answer: {format if isinstance(format, str) else msgspec.json.encode(format).decode()}"
        if format
        else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _schema(assistants: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "direct": {"type": "boolean", "description": "whether it is done in one go"},
            "reason": {"type": "string", "description": "why so, in a sentence"},
            "steps": {"type": "array", "items": {"$ref": STEP}},
        },
        "required": ["direct", "reason", "steps"],
        "additionalProperties": False,
        "$defs": {"step": step_definition(assistants)},
    }
