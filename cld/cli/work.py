"""`cld ask`, `plan`, `task`, `cancel` and `approve`: have something done, and see how it is done."""

import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from anyio import Path

from cld.cli.exits import ERROR, OK, UsageError
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import InvalidArgument
from cld.guard import GuardedStore
from cld.runtime import Runtime
from cld.server.application import bring_own_tools
from cld.server.work_calls import read_steps
from cld.types import Task
from cld.uri import URI, id_of
from cld.work.engine import Engine
from cld.work.requests import Begun, begin, decide, wait
from cld.work.requests import cancel as stop
from cld.work.showing import drawn, shown
from cld.work.tree import Node


async def ask(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Have a message planned, worked and answered; prints the answer with its sources."""
    message = sys.stdin.read() if arguments.message == "-" else arguments.message
    async with _working(settings) as (runtime, engine):
        asker = store(runtime, "plan", message=message)
        begun = await begin(
            engine,
            asker,
            message,
            conversation=arguments.conversation,
            response_format=await _format(arguments.format),
            assistant=arguments.assistant or "",
        )
        return await _followed(arguments, engine, asker, begun, terminal)


async def plan(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Have a plan of one's own worked: a JSON array of tasks in a file, or on standard input."""
    data = sys.stdin.read() if arguments.file == "-" else await Path(arguments.file).read_text(encoding="utf-8")
    try:
        tasks = msgspec.json.decode(data, type=list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise UsageError(f"{arguments.file} is no JSON array of tasks: {error}") from error
    steps = read_steps(tasks)
    async with _working(settings) as (runtime, engine):
        asker = store(runtime, "plan", tasks=tasks)
        begun = await begin(engine, asker, arguments.message or "", steps, conversation=arguments.conversation)
        return await _followed(arguments, engine, asker, begun, terminal)


async def task(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print a task and those below it."""
    async with _working(settings, work=False) as (runtime, engine):
        reader = store(runtime, "task_get", uri=arguments.uri)
        await reader.get(arguments.uri)
        node = await engine.forest.load(arguments.uri)
        _show(await shown(reader, node, arguments.depth), terminal)
    return OK


async def cancel(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Stop a task and everything below it, whoever works it."""
    async with _working(settings, work=False) as (runtime, engine):
        await store(runtime, "task_cancel", uri=arguments.uri).get(arguments.uri)
        stopping = await stop(engine, arguments.uri, arguments.reason or f"cancelled by {engine.principal.id}")
    if terminal.human:
        terminal.line(f"cancelled {len(stopping.cancelled)} tasks")
        for uri in stopping.left:
            terminal.line(f"may still be running: {uri}")
    else:
        terminal.document(stopping)
    return ERROR if stopping.left else OK


async def approve(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Answer a question that a task waits with."""
    decision = "edit" if arguments.edit else "reject" if arguments.reject else "approve"
    try:
        edited = msgspec.json.decode(arguments.edit, type=dict[str, Any]) if arguments.edit else None
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"--edit is no JSON object: {error}", field="edit") from error
    async with existing(settings) as runtime:
        asker = store(runtime, "approve", uri=arguments.uri, decision=decision)
        uri, answered = await decide(asker, arguments.uri, decision, edited, arguments.reason or "")
    if terminal.human:
        terminal.line(f"{decision}: {safe_line(answered.tool)} ({uri})")
    else:
        terminal.document({"uri": uri, **msgspec.to_builtins(answered)})
    return OK


@asynccontextmanager
async def _working(settings: Settings, *, work: bool = True) -> AsyncGenerator[tuple[Runtime, Engine]]:
    """The runtime with an engine; without `work` it looks and stops, and takes up nothing."""
    work_settings = settings.work if work else msgspec.structs.replace(settings.work, resume=False)
    async with existing(msgspec.structs.replace(settings, work=work_settings)) as runtime:
        bring_own_tools(runtime)
        yield runtime, await runtime.work(runtime.principal)


async def _followed(arguments: Namespace, engine: Engine, asker: GuardedStore, begun: Begun, terminal: Terminal) -> int:
    """Wait for the answer, saying what is done meanwhile; 0 when there is one."""
    node = await engine.forest.load(begun.task)

    def listen(changed: Node, said: str) -> None:
        if said and changed.root is node.root and terminal.human:
            terminal.note(f"{changed.id}: {safe_line(said)[:200]}")

    end = engine.on_change(listen)
    try:
        done = await wait(engine, begun.task, arguments.wait)
    finally:
        end()
    tree = await shown(asker, node, 16)
    if not terminal.human:
        terminal.document({**msgspec.to_builtins(begun), "status": done.status, "tree": tree})
    else:
        if arguments.explain:
            _explain(tree, terminal)
        _answer(done, tree, terminal)
    return OK if done.status == "completed" else ERROR


def _answer(done: Task, tree: dict[str, Any], terminal: Terminal) -> None:
    if done.status == "completed":
        output = done.output
        text = output if isinstance(output, str) else msgspec.json.format(msgspec.json.encode(output)).decode()
        for line in text.splitlines():
            terminal.line(safe_line(line))
        for number, source in enumerate(done.sources, 1):
            terminal.line(terminal.style(f"[{number}] {safe_line(source.uri)}", "dim"))
        return
    _show(tree, terminal)


def _explain(tree: dict[str, Any], terminal: Terminal, depth: int = 0) -> None:
    """The plan, who was elected and why, and the calls."""
    indent = "  " * depth
    terminal.line(f"{indent}{terminal.style(tree['status'], 'bold')}  {safe_line(tree['purpose'])[:100]}")
    if election := tree.get("election"):
        who = _name(tree["assistant"])
        ranked = ", ".join(f"{_name(one['assistant'])} {one['score']:.2f}" for one in election.get("ranked", ()))
        why = safe_line(election.get("reason", ""))
        terminal.line(f"{indent}  elected {who}: {why}" + (f" ({ranked})" if ranked else ""))
    for call in tree.get("calls", ()):
        terminal.line(f"{indent}  called {call['tool']}: {call['state']}")
    for below in tree.get("tasks", ()):
        _explain(below, terminal, depth + 1)


def _name(assistant: str) -> str:
    return id_of(URI(assistant)) if assistant.startswith("cld:") else assistant


def _show(tree: dict[str, Any], terminal: Terminal) -> None:
    if terminal.human:
        for line in drawn(tree):
            terminal.line(line)
    else:
        terminal.document(tree)


async def _format(given: str | None) -> dict[str, Any] | str | None:
    """A response format: a JSON Schema in a file (`@schema.json`), or words."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return msgspec.json.decode(await Path(given[1:]).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{given[1:]} is no JSON Schema: {error}") from error
