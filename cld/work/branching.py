"""Branches: a task is done again from how it was asked at some revision, beside the first time; and both compared.

A branch is a tree of its own below the same message, so that nothing of the first time is touched, and what it
gave stays there to be compared with. Every revision of a task is in the history; any of them can be branched.
"""

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cld.errors import InvalidArgument, InvalidResource
from cld.guard import GuardedStore
from cld.resource import Draft, describe, new_id
from cld.store import Stored
from cld.tasks.budget import total
from cld.tasks.inputs import literal, resolve
from cld.tasks.order import dependencies
from cld.types import Budget, Source, Step, Task
from cld.uri import URI, make_uri, parent_of, type_of
from cld.work.engine import Engine
from cld.work.requests import bounded
from cld.work.tree import TASK, Node, contents, root_of

MOST_LINES = 400
"""Of the difference of two outputs so many lines are told."""


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """How two tasks, and those below them, came out: `fields` that differ, the outputs line by line, subtasks by id."""

    tasks: tuple[URI, URI]
    same: bool
    fields: Mapping[str, tuple[Any, Any]] = {}
    output: str = ""
    below: tuple["Difference", ...] = ()
    only: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


async def branch(
    engine: Engine, store: GuardedStore, uri: URI, version: str | None = None, *, assistant: str = ""
) -> URI:
    """Do a task again as it was asked, and planned, at `version`, or at first; the new task.

    Inputs that came from other tasks are what these gave. `assistant` works it in place of whoever is elected.

    Raises:
        ResourceNotFound: there is no such task or version, or the asker may not read it.
        InvalidArgument: what it takes from other tasks, or its plan, is not there (any more).
    """
    if type_of(uri) != TASK:
        raise InvalidArgument(f"{uri} is no task", field="uri")
    versions = [one.version for one in await store.history(uri)]
    version = versions[-1] if version is None else version
    stored, asked = await _asked(store, uri, version)
    node = await engine.forest.load(uri)
    elected = asked.assistant if asked.election is None or asked.election.by == "plan" else ""
    chosen = await engine.assistants.member(uri, assistant) if assistant else None
    if assistant and chosen is None:
        raise InvalidArgument(f"there is no assistant {assistant!r}", field="assistant")
    worker = elected if chosen is None else str(chosen.uri)
    budget = bounded(engine.world.settings, asked.budget or Budget())
    again = Task(
        status="assigned" if worker else "pending",
        assistant=worker,
        direct=asked.direct,
        plan=await _planned(store, node, asked, versions[versions.index(version) :] if version in versions else []),
        when=asked.when,
        for_each=asked.for_each,
        inputs=_inputs(node, asked),
        tools=asked.tools,
        client_tools=asked.client_tools,
        response_format=asked.response_format,
        budget=budget,
        time_limit=asked.time_limit,
        hands=await engine.forest.writers(node),  # it is what they wrote that is done again
        roles=engine.principal.roles,
        with_models=engine.world.model.generates,
        branch_of=Source(str(uri), version),
    )
    place = make_uri(parent_of(root_of(uri)), TASK, new_id())
    await engine.ledgers.create(engine.keeper, place, budget)
    await store.put(Draft(place, contents(again), stored.resource.meta))
    await engine.forest.load(place)
    return place


async def _asked(store: GuardedStore, uri: URI, version: str) -> tuple[Stored, Task]:
    stored = await store.get(uri, version)
    try:
        return stored, msgspec.convert(stored.resource.content, Task)
    except msgspec.ValidationError as error:
        raise InvalidResource(f"{uri} was no valid task in version {version[:12]}: {error}") from error


async def _planned(store: GuardedStore, node: Node, asked: Task, before: Sequence[str]) -> tuple[Step, ...] | None:
    """What the task had been planned as, though its steps had been made by then; None when it is to be planned.

    `before` are the versions up to that one, newest first.
    """
    if not asked.for_each and (asked.plan or asked.direct):
        return asked.plan or None
    # The oldest: later ones are the steps that a list has made, or that were to mend what was lacking.
    for version in reversed(before):
        with contextlib.suppress(InvalidResource):
            _, task = await _asked(store, node.uri, version)
            if task.plan or asked.for_each:
                return task.plan or None
    if node.children and asked.status not in ("pending", "assigned"):
        raise InvalidArgument(
            f"the history of {node.uri} does not go back to what it was planned as; branch its subtasks", field="uri"
        )
    return None


async def compare(engine: Engine, store: GuardedStore, first: URI, second: URI) -> Difference:
    """How two tasks came out, with those below them.

    Raises:
        ResourceNotFound: there is no such task, or the asker may not read it.
    """
    for uri in (first, second):
        await store.get(uri)
    return difference(await engine.forest.load(first), await engine.forest.load(second))


def _inputs(node: Node, asked: Task) -> dict[str, Any]:
    """What the task was given, with what other tasks gave written out: a branch has no siblings to ask."""
    siblings = {} if node.parent is None else node.parent.children
    needed = {id: siblings[id].task for id in dependencies(asked) if id in siblings}
    return {name: literal(value) for name, value in resolve(asked.inputs, needed).items()}


def difference(first: Node, second: Node) -> Difference:
    """How two tasks that were read, and those below them, came out."""
    told, other = _told(first), _told(second)
    fields = {name: (told[name], other[name]) for name in told if told[name] != other[name]}
    output = _lines(first.task.output, second.task.output)
    ones, others = _children(first), _children(second)
    below = tuple(difference(ones[key], others[key]) for key in ones if key in others)
    only = (
        tuple(child.id for key, child in ones.items() if key not in others),
        tuple(child.id for key, child in others.items() if key not in ones),
    )
    same = not fields and not output and all(one.same for one in below) and not any(only)
    return Difference((first.uri, second.uri), same, fields, output, tuple(one for one in below if not one.same), only)


def _children(node: Node) -> dict[str, Node]:
    """The subtasks by what they are called in the plan: those for each value are named after the task itself."""
    return {child.id.removeprefix(f"{node.id}-"): child for child in node.children.values()}


def _told(node: Node) -> dict[str, Any]:
    """What is compared of a task."""
    task = node.task
    return {
        "status": task.status,
        "description": describe(node.meta),
        "assistant": task.assistant,
        "inputs": task.inputs,
        "error": None if task.error is None else task.error.message,
        "skipped": task.skipped,
        # Its own subtasks have other names in each, and are compared themselves.
        "sources": sorted(source.uri for source in task.sources if not source.uri.startswith(f"{node.uri}/")),
        "usage": msgspec.to_builtins(total(one.task.usage for one in node.subtree())),
    }


def _lines(first: Any, second: Any) -> str:
    """The difference of two outputs as of two texts; empty when they are the same."""
    lines = list(difflib.unified_diff(_text(first), _text(second), "first", "second", lineterm="", n=2))
    more = [f"… {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *more])


def _text(output: Any) -> Sequence[str]:
    if isinstance(output, str):
        return output.splitlines()
    return [] if output is None else msgspec.json.format(msgspec.json.encode(output)).decode().splitlines()
