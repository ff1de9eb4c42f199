"""`cld task`, `compare`, `cancel` and `approve`: look at tasks, answer what they wait for, and stop them.

None of these works a task: who only looks must not begin anything.
"""

import importlib
from argparse import Namespace
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from cld.cli.exits import ERROR, OK, UsageError
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import InvalidArgument, InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.resource import timestamp
from cld.types import Task
from cld.uri import MAX_DEPTH, URI, id_of, parent_of, type_of
from cld.work.branching import Difference, difference
from cld.work.claims import blocked, ready
from cld.work.requests import cancel as stop
from cld.work.requests import decide
from cld.work.showing import cost, drawn, shown
from cld.work.tree import TASK, Forest, Node
from cld.work.unfinished import outermost

_OVER = ("completed", "failed", "cancelled")
_NOT_HELD_UP = ("over", "lease", "subtasks")
"""Why a task cannot be claimed that is no reason to look after it."""
_LINE, _GIVEN = 160, 120
_BRIEF = 2
"""Of a tree that is one among others so many levels are shown."""


async def task(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print a task and those below it; without one, all that are not over."""
    if arguments.wait is not None:
        if arguments.ready or arguments.blocked:
            raise UsageError("--wait goes on with a task; --ready and --blocked only look")
        if arguments.uri is None:
            raise UsageError("--wait needs the URI of a task; cld task lists those that are not over")
        # Working needs much more than looking does, so it is loaded for it only.
        return await importlib.import_module("cld.cli.work").go_on(arguments, settings, terminal)
    async with existing(settings) as runtime:
        reader = store(runtime, "task_get", uri=arguments.uri)
        if arguments.ready or arguments.blocked:
            return await _list(reader, arguments, terminal)
        if arguments.uri is None:
            return await _show_open(reader, arguments.depth or _BRIEF, terminal)
        tree = await shown(reader, await _looked_at(reader, arguments.uri), arguments.depth or MAX_DEPTH)
    show(tree, terminal)
    return OK


async def compare(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print how two tasks, and those below them, came out; exit code 0 also when they differ."""
    async with existing(settings) as runtime:
        reader = store(runtime, "task_compare", first=arguments.first, second=arguments.second)
        first, second = [await _looked_at(reader, uri) for uri in (arguments.first, arguments.second)]
        found = difference(first, second)
    if not terminal.human:
        terminal.document(found)
    elif found.same:
        terminal.line("they came out the same")
    else:
        _differs(found, terminal)
    return OK


async def cancel(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Stop a task and everything below it, whoever works it."""
    # No task at once: an engine that stops and begins nothing.
    work = msgspec.structs.replace(settings.work, resume=False, tasks_at_once=0)
    async with existing(msgspec.structs.replace(settings, work=work)) as runtime:
        await store(runtime, "task_cancel", uri=arguments.uri).get(arguments.uri)
        engine = await runtime.work(runtime.principal)
        stopping = await stop(engine, arguments.uri, arguments.reason or f"cancelled by {engine.principal.id}")
    if not terminal.human:
        terminal.document(stopping)
    else:
        count = len(stopping.cancelled)
        told = {0: "nothing to cancel: it was over", 1: "cancelled 1 task"}.get(count, f"cancelled {count} tasks")
        terminal.line(told if stopping.left else f"{told}; nothing of it runs any more" if count else told)
        for uri in stopping.left:
            terminal.line(f"may still be running, in a process that does not answer: {uri}")
    return ERROR if stopping.left else OK


async def approve(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Answer a question that a task waits with."""
    decision = "edit" if arguments.edit is not None else "reject" if arguments.reject else "approve"
    try:
        edited = None if arguments.edit is None else msgspec.json.decode(arguments.edit, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"--edit is no JSON object: {error}", field="edit") from error
    async with existing(settings) as runtime:
        asker = store(runtime, "approve", uri=arguments.uri, decision=decision)
        uri, answered = await decide(asker, arguments.uri, decision, edited, arguments.reason or "")
    if terminal.human:
        done = {"approve": "approved", "reject": "rejected", "edit": "approved with other arguments"}[decision]
        terminal.line(f"{done}: {safe_line(answered.tool)}")
        terminal.note(f"its task goes on in a server on this tree, or with: cld task {_root(uri)} --wait 3600")
    else:
        terminal.document({"uri": uri, **msgspec.to_builtins(answered)})
    return OK


def show(tree: dict[str, Any], terminal: Terminal) -> None:
    """Print what `shown` gave."""
    if not terminal.human:
        terminal.document(tree)
        return
    for line in drawn(tree):
        terminal.line(terminal.style(line))
    if tree["status"] == "completed" and tree.get("output") is not None:
        terminal.line()
        for line in text_of(tree["output"]).splitlines():
            terminal.line(terminal.style(line))


def explained(tree: dict[str, Any], depth: int = 0) -> list[str]:
    """The plan, who was elected and why, the calls, and what they and the models cost."""
    indent = "  " * depth
    below = tree.get("tasks", ())
    lines = [f"{indent}{tree['status']}: {safe_line(' '.join(tree['purpose'].split()))[:100]}"]
    if below:
        lines.append(f"{indent}  planned as {len(below)} task{'' if len(below) == 1 else 's'}:")
        for one in below:
            lines += explained(one, depth + 1)
    elif election := tree.get("election"):
        ranked = ", ".join(f"{_name(one['assistant'])} {one['score']:.2f}" for one in election.get("ranked", ()))
        why = safe_line(election.get("reason", "")).replace("cld:common.Assistant.", "")
        who = "elected" if election.get("by", "similarity") == "similarity" else "worked by"
        lines.append(f"{indent}  {who} {_name(tree['assistant'])}: {why}" + (f" ({ranked})" if ranked else ""))
    for call in (one for one in tree.get("calls", ()) if "tool" in one):
        why = f": {safe_line(call['error']['message'])[:200]}" if call.get("error") else ""
        given = (
            f" {safe_line(msgspec.json.encode(call['arguments']).decode())[:_GIVEN]}" if call.get("arguments") else ""
        )
        lines.append(f"{indent}  called {safe_line(str(call['tool']))}{given}: {call['state']}{why}")
    for judged in tree.get("judgements", ()):
        told = "judged enough" if judged["enough"] else "judged not enough"
        lines.append(f"{indent}  {told}: {safe_line(judged.get('reason', ''))[:200]}")
    if tree.get("error"):
        lines.append(f"{indent}  {tree['error']['code']}: {safe_line(tree['error']['message'])}")
    if not depth and tree.get("usage"):
        lines.append(cost(tree["usage"]))
    return lines


def text_of(output: Any) -> str:
    """What came of a task as text."""
    if output is None:
        return ""
    return output if isinstance(output, str) else msgspec.json.format(msgspec.json.encode(output)).decode()


async def _looked_at(reader: GuardedStore, uri: URI) -> Node:
    """A task with all below it, as far as `reader` may read it; nothing of it begins."""
    if type_of(uri) != TASK:
        raise InvalidArgument(f"{uri} is no task; its type is {type_of(uri)}, not {TASK}", field="uri")
    await reader.get(uri)
    return await Forest(reader, lambda _: None, lambda _: None).load(uri)


async def _show_open(reader: GuardedStore, depth: int, terminal: Terminal) -> int:
    """Print every tree of tasks that is not over."""
    count = 0
    async for root in _open_roots(reader):
        count += 1
        tree = await shown(reader, await _looked_at(reader, root), depth)
        if terminal.human:
            show(tree, terminal)
        else:
            terminal.record(tree)
    if terminal.human and not count:
        terminal.note("no task is open: all are completed, failed or cancelled")
    return OK


async def _list(reader: GuardedStore, arguments: Namespace, terminal: Terminal) -> int:
    """Print the tasks that can be worked now, or that cannot, of one tree or of all that are open."""
    roots = [root async for root in _open_roots(reader)] if arguments.uri is None else [arguments.uri]
    now, count = timestamp(), 0
    for root in roots:
        tree = await _looked_at(reader, root)
        for node in ready(tree, now) if arguments.ready else tree.in_order_below():
            why = blocked(node, now)
            if arguments.blocked and (why is None or why.kind in _NOT_HELD_UP):
                continue
            count += 1
            if terminal.human:
                told = node.meta.purpose if why is None else why.reason
                terminal.line(f"{node.uri}  {terminal.style(safe_line(' '.join(told.split()))[:_LINE])}")
            else:
                because: dict[str, Any] = {} if why is None else msgspec.to_builtins(why)
                uri, purpose, priority = node.uri, node.meta.purpose, node.task.priority
                terminal.record({"uri": uri, "purpose": purpose, "priority": priority, **because})
    if terminal.human and not count:
        terminal.note("no task can be worked now" if arguments.ready else "no task is held up")
    return OK


async def _open_roots(reader: GuardedStore) -> AsyncGenerator[URI]:
    """The outermost tasks that are not over."""
    async for uri in outermost(reader):
        if not await _is_over(reader, uri):
            yield uri


async def _is_over(reader: GuardedStore, uri: URI) -> bool:
    try:
        return msgspec.convert((await reader.get(uri)).resource.content, Task).status in _OVER
    except (ResourceNotFound, InvalidResource, msgspec.ValidationError):
        return True  # cld doctor names it


def _differs(found: Difference, terminal: Terminal, depth: int = 0) -> None:
    indent = "  " * depth
    if depth:
        terminal.line(terminal.style(f"{indent}{id_of(found.tasks[0])}", "bold"))
    for name, (one, other) in found.fields.items():
        terminal.line(terminal.style(f"{indent}{name}: {_short(one)} → {_short(other)}"))
    for line in found.output.splitlines():
        colour = {"+": ("green",), "-": ("red",)}.get(line[:1], ())
        terminal.line(indent + terminal.style(line, *colour))
    for ids, where in zip(found.only, ("first", "second"), strict=True):
        if ids:
            terminal.line(terminal.style(f"{indent}only below the {where}: {', '.join(ids)}"))
    for below in found.below:
        _differs(below, terminal, depth + 1)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return safe_line(text or "nothing")[:200]


def _name(assistant: str) -> str:
    return id_of(URI(assistant)) if assistant.startswith("cld:") else assistant


def _root(uri: URI) -> URI:
    """The outermost task that an approval is about."""
    task = parent_of(uri)
    while type_of(parent_of(task)) == TASK:
        task = parent_of(task)
    return task
