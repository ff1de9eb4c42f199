"""Branches: a task is done again from how it was asked at some revision, beside the first time; and both compared.

A branch is a tree of its own below the same message, so that nothing of the first time is touched, and what it
gave stays there to be compared with. Every revision of a task is in the history; any of them can be branched.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cld.errors import InvalidArgument, InvalidResource
from cld.guard import GuardedStore
from cld.resource import Draft, describe, new_id
from cld.tasks.budget import total
from cld.tasks.inputs import literal, resolve
from cld.tasks.order import dependencies
from cld.types import Budget, Source, Task
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
    """Do a task again as it was asked at `version`, or at first; the new task.

    Inputs that came from other tasks are what these gave. `assistant` works it in place of whoever is elected.

    Raises:
        ResourceNotFound: there is no such task or version, or the asker may not read it.
        InvalidArgument: what it takes from other tasks is not there (any more).
    """
    if type_of(uri) != TASK:
        raise InvalidArgument(f"{uri} is no task", field="uri")
    if version is None:
        version = (await store.history(uri))[-1].version
    stored = await store.get(uri, version)
    try:
        asked = msgspec.convert(stored.resource.content, Task)
    except msgspec.ValidationError as error:
        raise InvalidResource(f"{uri} was no valid task in version {version[:12]}: {error}") from error
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
        plan=asked.plan or None,
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
        branch_of=Source(str(uri), version),
    )
    place = make_uri(parent_of(root_of(uri)), TASK, new_id())
    await engine.ledgers.create(engine.keeper, place, budget)
    await store.put(Draft(place, contents(again), stored.resource.meta))
    await engine.forest.load(place)
    return place


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
    both = [id for id in first.children if id in second.children]
    below = tuple(difference(first.children[id], second.children[id]) for id in both)
    only = (
        tuple(id for id in first.children if id not in second.children),
        tuple(id for id in second.children if id not in first.children),
    )
    same = not fields and not output and all(one.same for one in below) and not any(only)
    return Difference((first.uri, second.uri), same, fields, output, tuple(one for one in below if not one.same), only)


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
        "sources": sorted(source.uri for source in task.sources),
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
