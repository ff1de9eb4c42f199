"""Which tasks of a tree can be worked now, and why the others cannot: one answer for engines and for who looks."""

import contextlib

from cld.tasks.budget import time_left
from cld.tasks.instants import Instant, later
from cld.tasks.order import Blocked, dependencies
from cld.tasks.order import blocked as blocked_beside
from cld.tasks.states import is_late
from cld.types import Failure
from cld.work.tree import Node


def blocked(node: Node, now: Instant) -> Blocked | None:
    """Why the task cannot be claimed now; None when it can."""
    task, parent = node.task, node.parent
    if node.broken:
        return Blocked("broken", f"it is no valid task: {node.broken}")
    needed = {} if parent is None else parent.children
    beside = {id: needed[id].task for id in dependencies(task) if id in needed} if needed else {}
    if (why := blocked_beside(task, beside, now)) is not None and why.kind not in ("never", "gone"):
        return why
    if task.status in ("pending", "assigned") and parent is not None and (above := _held_up(parent)) is not None:
        return above
    # With a plan still to make it can go on: who made it has died in the middle.
    if task.status == "supervising" and node.open and not task.plan:
        return Blocked("subtasks", "its subtasks are not over", tuple(sorted(node.open)))
    return why


def ready(node: Node, now: Instant) -> list[Node]:
    """What can be claimed now of a task and all below it, first what is to be taken up first."""
    found = [one for one in node.in_order_below() if blocked(one, now) is None]
    return sorted(found, key=lambda one: (-one.task.priority, one.counted))


def client_until(node: Node, now: Instant) -> str:
    """Until when the client of a task that waits for it from `now` may take; empty where nothing of its own says so.

    What is above it ends with its own budget, which may stand still meanwhile: see `ends`.
    """
    times = [] if node.task.time_limit is None else [later(now, node.task.time_limit)]
    with contextlib.suppress(ValueError):  # of a time that a person has edited
        if (left := time_of(node, now)) is not None:
            times.append(later(now, left))
    return min(times, default="")


def ends(node: Node, now: Instant) -> str:
    """When a wait is over as things are, with the budgets above; empty where nothing bounds it."""
    if node.task.waiting != "client":
        return node.task.until
    times = [node.task.until] if node.task.until else []
    for one in node.path():
        with contextlib.suppress(ValueError):
            if (left := time_of(one, now)) is not None:
                times.append(later(now, left))
    return min(times, default="")


def too_late(node: Node, now: Instant) -> Failure | None:
    """Why a task is to be given up because its client has not come in time; None when it is not."""
    task = node.task
    if not is_late(task, now):
        return None
    for one in node.path():
        with contextlib.suppress(ValueError):
            if time_of(one, now) == 0:
                return Failure("budget_exceeded", f"its client did not come while there was time for {one.id}")
    limit = "" if task.time_limit is None else f", within {task.time_limit:g} seconds; give it a longer time_limit"
    return Failure("timed_out", f"its client did not come until {task.until}{limit}")


def time_of(node: Node, now: Instant, enough: float = 0.0) -> float | None:
    """The seconds left of the budget of a task, without the time in which it or one below it waited for a person.

    None without bound. Where more than `enough` is left anyway, that time is not looked for.
    """
    budget, started_at = node.task.budget, node.task.started_at
    left = time_left(budget, started_at, now)
    if left is None or left > enough:
        return left
    pauses = [
        pause for one in node.subtree() for pause in one.task.pauses if pause.until or one.task.status == "waiting"
    ]
    return time_left(budget, started_at, now, pauses)


def _held_up(parent: Node) -> Blocked | None:
    """Why nothing that is part of `parent` can begin."""
    for one in parent.path():
        if one.broken:
            return Blocked("above", f"{one.id} above it is no valid task", (one.id,))
        if one.is_over:
            return Blocked("above", f"{one.id} above it is {one.task.status}", (one.id,))
    if parent.task.status != "supervising":
        return Blocked("above", f"{parent.id}, which it is part of, is {parent.task.status}", (parent.id,))
    return None
