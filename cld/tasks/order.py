"""The order of tasks: whether a plan can be carried out at all, and which of its tasks can be worked now.

Owns the checks of a plan before any of it is made, and the queries over a set of siblings. Pure: a plan is a tuple
of steps, siblings are a mapping from id to task; who reads and writes them is another's concern.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from msgspec import Struct

from cld.errors import InvalidArgument
from cld.tasks.budget import COUNTED, beyond, tightest
from cld.tasks.conditions import EACH, check_expression, is_question, path_expression
from cld.tasks.instants import Instant, is_over
from cld.tasks.states import TERMINAL, is_held
from cld.types import Budget, Step, Task

_ID = re.compile(r"[A-Za-z0-9_-]{1,96}")
"""Ids of steps; shorter than URIs allow, for `for_each` appends a number."""

_TOOL = re.compile(r"[A-Za-z0-9_-]{1,48}")


class PlanLimits(Struct, frozen=True):
    """How large a plan may be: levels, steps beside one another, steps in all."""

    depth: int = 8
    width: int = 200
    total: int = 1000


class Blocked(Struct, frozen=True):
    """Why a task cannot be claimed now: `kind` for programs, `reason` for people; `by` are the ids to blame.

    `never` and `gone` are of tasks that cannot run any more and are to be failed; `until` is when a lease or a wait
    ends. `above` and `broken` are of tasks in their place (`cld.work.claims`).
    """

    kind: Literal[
        "dependency", "never", "gone", "lease", "subtasks", "approval", "client", "time", "over", "above", "broken"
    ]
    reason: str
    by: tuple[str, ...] = ()
    until: str = ""


def check_plan(
    steps: Sequence[Step],
    *,
    limits: PlanLimits | None = None,
    budget: Budget | None = None,
    siblings: Mapping[str, Task] | None = None,
    field: str = "tasks",
) -> int:
    """The number of steps of a plan that can be carried out, counting those within others.

    `budget` is what the task they are for may spend, `siblings` are tasks already there that they may refer to and
    whose ids they may not take (for corrective subtasks), `field` is what the plan is called in messages.

    Raises:
        InvalidArgument: for the first thing that is wrong; its `field` is a path as `tasks[2].steps[0].after`.
    """
    limits = limits or PlanLimits()
    number = 0
    # Not recursive: how deep it may go is only known to be bounded by checking it here.
    level: list[tuple[Sequence[Step], str, Budget, Mapping[str, Task]]]
    level = [(steps, field, tightest([budget]), siblings or {})]
    depth = 0
    while any(group for group, *_ in level):
        depth += 1
        if depth > limits.depth:
            where = next(path for group, path, *_ in level if group)
            raise InvalidArgument(f"{where} is level {depth}; a plan has {limits.depth} at most", field=where)
        below: list[tuple[Sequence[Step], str, Budget, Mapping[str, Task]]] = []
        for group, path, bound, known in level:
            number += len(group)
            _check_size(group, path, number, limits)
            _check_group(group, path, bound, known)
            below += [
                (step.steps, f"{path}[{at}].steps", tightest([bound, step.budget]), {}) for at, step in enumerate(group)
            ]
        level = below
    return number


def dependencies(step: Step | Task) -> tuple[str, ...]:
    """The ids of the siblings a step needs the outputs of, or has to come after; each once, in order."""
    return tuple(dict.fromkeys([*step.after, *(name for _, name in references(step.inputs))]))


def references(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each input that is another's output: the name of the input and the id of the sibling."""
    for name, value in inputs.items():
        if (reference := reference_of(value)) is not None:
            yield name, reference


def reference_of(value: object) -> str | None:
    """The id that an input's value refers to: an object of `from`, and perhaps `path`, and nothing else; else None."""
    if not isinstance(value, dict):
        return None
    given = cast("dict[object, object]", value)
    source = given.get("from")
    return source if isinstance(source, str) and given.keys() <= {"from", "path"} else None


def blocked(task: Task, siblings: Mapping[str, Task], now: Instant) -> Blocked | None:
    """Why a task cannot be claimed now, as far as it and those it depends on say; None when it can."""
    if task.status in TERMINAL:
        return Blocked("over", f"it is {task.status}")
    if task.lease is not None and is_held(task, now):
        ends = task.lease.expires_at
        return Blocked("lease", f"{task.lease.holder} works it, until {ends} at least", (), ends)
    if task.status in ("pending", "assigned"):
        return _dependencies_missing(task, siblings)
    if task.status == "waiting" and not _has_waited(task, now):
        kind = task.waiting or "time"
        what = {"approval": "a person to approve a call", "client": "its client", "time": task.until}[kind]
        return Blocked(kind, f"it waits for {what}", (), task.until)
    return None


def _has_waited(task: Task, now: Instant) -> bool:
    match task.waiting:
        case "client":
            return False
        case "approval":  # a question that nobody has answered in time counts as answered with no
            return bool(task.until) and is_over(task.until, now)
        case _:  # nothing is what a person has edited
            return is_over(task.until, now)


def _dependencies_missing(task: Task, siblings: Mapping[str, Task]) -> Blocked | None:
    waits: list[str] = []
    for id in dependencies(task):
        other = siblings.get(id)
        if other is None:
            return Blocked("gone", f"it can never run: {id}, which it needs, is gone", (id,))
        if other.status in ("failed", "cancelled"):
            ended = "failed" if other.status == "failed" else "was cancelled"
            return Blocked("never", f"it can never run: {id} {ended}{_because(other)}", (id,))
        if other.status != "completed":
            waits.append(id)
    if not waits:
        return None
    states = ", ".join(f"{id} ({siblings[id].status})" for id in waits)
    return Blocked("dependency", f"it comes after {states}", tuple(waits))


def _because(task: Task) -> str:
    return f" ({task.error.message})" if task.error is not None else ""


def _check_size(group: Sequence[Step], path: str, number: int, limits: PlanLimits) -> None:
    if len(group) > limits.width:
        raise InvalidArgument(
            f"{path} has {len(group)} steps; at most {limits.width} may stand beside one another: group them",
            field=path,
        )
    if number > limits.total:
        raise InvalidArgument(f"the plan has more than {limits.total} steps in all", field=path)


def _check_group(group: Sequence[Step], path: str, bound: Budget, known: Mapping[str, Task]) -> None:
    places: dict[str, int] = {}
    for at, step in enumerate(group):
        where = f"{path}[{at}]"
        if not _ID.fullmatch(step.id):
            raise InvalidArgument(
                f"{where}.id is {step.id[:120]!r}; use 1 to 96 letters, digits, - and _", field=f"{where}.id"
            )
        # A file system may ignore case, and ids are names of files.
        if step.id.lower() in {id.lower() for id in known}:
            raise InvalidArgument(f"{where}.id {step.id!r} is the id of a task already there", field=f"{where}.id")
        if (first := places.setdefault(step.id.lower(), at)) != at:
            raise InvalidArgument(
                f"{where}.id {step.id!r} is also the id of {path}[{first}] (capitals do not count); give it another",
                field=f"{where}.id",
            )
    ids = {step.id for step in group} | known.keys()
    for at, step in enumerate(group):
        _check_step(step, f"{path}[{at}]", ids, bound)
    if (circle := _circle(group)) is not None:
        at = places[circle[0].lower()]
        raise InvalidArgument(
            f"{path} has a cycle: {' → '.join(circle)}; each waits for the next", field=f"{path}[{at}].after"
        )


def _check_step(step: Step, where: str, ids: set[str], bound: Budget) -> None:
    if not step.purpose.strip():
        raise InvalidArgument(f"{where}.purpose is empty; say what the step is to do", field=f"{where}.purpose")
    for id in step.after:
        _check_reference(id, f"{where}.after", ids)
    for name, id in references(step.inputs):
        _check_reference(id, f"{where}.inputs.{name}.from", ids, '; write {"literal": …} around what is meant as it is')
    for name, value in step.inputs.items():
        _check_path(value, f"{where}.inputs.{name}")
    names = step.inputs.keys()
    if step.when and not is_question(step.when):
        check_expression(step.when, f"{where}.when", names=names)
    if step.for_each:
        check_expression(step.for_each, f"{where}.for_each", names=names)
        for name in EACH:
            if name in step.inputs:
                field = f"{where}.inputs.{name}"
                raise InvalidArgument(f"{field} is taken by for_each; call the input something else", field=field)
        for at, below in enumerate(step.steps):
            # Those that the list makes are called so, and it would be taken as gone through already.
            if below.id.startswith(f"{step.id}-"):
                field = f"{where}.steps[{at}].id"
                raise InvalidArgument(f"{field} {below.id!r} begins as what for_each makes; use another", field=field)
    for tool in step.tools or ():
        if not _TOOL.fullmatch(tool):
            raise InvalidArgument(f"{where}.tools has {tool[:80]!r}, which is no tool's name", field=f"{where}.tools")
    if step.time_limit is not None and step.time_limit <= 0:
        raise InvalidArgument(f"{where}.time_limit is {step.time_limit:g}; give seconds", field=f"{where}.time_limit")
    _check_budget(step.budget, f"{where}.budget", bound)


def _check_reference(id: str, field: str, ids: set[str], hint: str = "") -> None:
    if id not in ids:
        there = ", ".join(sorted(ids)[:10])
        raise InvalidArgument(f"{field} names {id[:120]!r}; the steps beside it are {there}{hint}", field=field)


def _check_path(value: object, field: str) -> None:
    """Refuses what was plainly meant as a reference and is none: a key misspelt would be a literal, silently."""
    if not isinstance(value, dict):
        return
    given = cast("dict[object, object]", value)
    if "from" not in given:
        return
    if reference_of(given) is None:
        if isinstance(given["from"], str):
            others = ", ".join(repr(key)[:80] for key in given if key not in ("from", "path"))
            raise InvalidArgument(
                f'{field} has beside from {others}; a reference has from, and perhaps path: write {{"literal": …}} '
                "around what is meant as it is",
                field=field,
            )
        return
    path = given.get("path", "")
    if not isinstance(path, str):
        raise InvalidArgument(f"{field}.path has to be a text", field=f"{field}.path")
    if path:
        check_expression(path_expression(path), f"{field}.path", names=("output",))


def _check_budget(budget: Budget | None, field: str, bound: Budget) -> None:
    if budget is None:
        return
    for what in (*COUNTED, "seconds"):
        given: float | None = getattr(budget, what)
        if given is not None and not 0 <= given < float("inf"):
            raise InvalidArgument(f"{field}.{what} is {given}; give a number, 0 or more", field=f"{field}.{what}")
    if (what := beyond(bound, budget)) is not None:
        raise InvalidArgument(
            f"{field}.{what} is {getattr(budget, what):g}; the task above it has {getattr(bound, what):g}",
            field=f"{field}.{what}",
        )


def _circle(group: Sequence[Step]) -> list[str] | None:
    """Ids where each waits for the next, and the last is the first again; None if the steps can be put in order."""
    needs = {step.id: dependencies(step) for step in group}
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        stack = [(start, iter(needs[start]))]
        if start in done:
            continue
        path.append(start)
        while stack:
            id, rest = stack[-1]
            for other in rest:
                if other in path:
                    return [*path[path.index(other) :], other]
                if other in needs and other not in done:
                    path.append(other)
                    stack.append((other, iter(needs[other])))
                    break
            else:
                done.add(id)
                path.pop()
                stack.pop()
    return None
