"""`cld ask`, `plan`, `branch` and `task --wait`: have something done, and see how it is done until it is over.

The work is in the tree, not in this process: when the command ends before it is over, it stays as it is, and any
server on the tree, or `cld task URI --wait`, goes on with it.
"""

import asyncio
import contextlib
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from anyio import Path
from msgspec import UNSET

from cld.cli.arguments import WAIT_SECONDS
from cld.cli.exits import APPROVAL, ERROR, OK, OPEN, UsageError
from cld.cli.session import existing, named_version, store
from cld.cli.tasks import explained, show, text_of
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.errors import Conflict, InvalidArgument, InvalidURI
from cld.guard import GuardedStore
from cld.runtime import Runtime
from cld.server.application import bring_own_tools
from cld.server.arguments import parser
from cld.server.own_tools import NOT_FOR_TASKS
from cld.server.work_calls import read_plan
from cld.server.work_tools import Plan
from cld.tools.brought import check_brought
from cld.types import Task
from cld.uri import URI
from cld.work.branching import branch as do_again
from cld.work.engine import Engine
from cld.work.requests import Begun, begin, decide, wait, waiting_for
from cld.work.showing import shown
from cld.work.tree import Node

_DEPTH = 16
_read_arguments = parser(Plan)
_MOST_WRITTEN = 1000
"""Of a text that is being written so many of its last characters are kept: no terminal's line is longer."""


async def ask(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Have a message planned, worked and answered; prints the answer with its sources."""
    message = sys.stdin.read() if arguments.message == "-" else arguments.message
    format = await _format(arguments.format)
    async with _working(settings, begins=True) as (runtime, engine):
        asker = store(runtime, "plan", message=message)
        begun = await begin(
            engine,
            asker,
            message,
            conversation=arguments.conversation,
            response_format=format,
            assistant=arguments.assistant or "",
        )
        return await _followed(arguments, engine, asker, begun.task, begun, terminal)


async def plan(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Have a plan of one's own worked: a JSON array of tasks, or what the tool `plan` takes, from a file."""
    given = await _given(arguments.file)
    flags = {"message": arguments.message, "conversation": arguments.conversation}
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        args = _read_arguments(given)
        wanted = read_plan(args)
        if args.tools is not UNSET:
            await check_brought(args.tools, NOT_FOR_TASKS)
    except (InvalidArgument, InvalidURI) as error:
        raise UsageError(f"{arguments.file} is no plan: {error}; docs/tasks.md says what one is") from error
    if arguments.wait is None:
        arguments.wait = args.wait_seconds if "wait_seconds" in given else WAIT_SECONDS
    if wanted["conversation"] is not None:
        given["conversation"] = wanted["conversation"]
    async with _working(settings, begins=True) as (runtime, engine):
        asker = store(runtime, "plan", **given)
        begun = await begin(engine, asker, **wanted)
        return await _followed(arguments, engine, asker, begun.task, begun, terminal)


async def branch(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Do a task again as it was asked at a version, beside the first time."""
    async with _working(settings) as (runtime, engine):
        asker = store(runtime, "task_branch", uri=arguments.uri)
        version = None if arguments.at is None else await named_version(asker, arguments.uri, arguments.at)
        again = await do_again(engine, asker, arguments.uri, version, assistant=arguments.assistant or "")
        code = await _followed(arguments, engine, asker, again, None, terminal)
    if terminal.human:
        terminal.note(f"how it differs: cld compare {arguments.uri} {again}")
    return code


async def go_on(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Work a task that is there, with whoever else does, until it is over or waits for somebody."""
    async with _working(settings) as (runtime, engine):
        asker = store(runtime, "task_get", uri=arguments.uri)
        await asker.get(arguments.uri)
        return await _followed(arguments, engine, asker, arguments.uri, None, terminal)


@asynccontextmanager
async def _working(settings: Settings, *, begins: bool = False) -> AsyncGenerator[tuple[Runtime, Engine]]:
    """The runtime with an engine that works what the command asks for, and takes up nothing else of the tree."""
    settings = msgspec.structs.replace(settings, work=msgspec.structs.replace(settings.work, resume=False))
    async with Runtime.open(settings) if begins else existing(settings) as runtime:
        bring_own_tools(runtime)
        yield runtime, await runtime.work(runtime.principal)


async def _followed(
    arguments: Namespace, engine: Engine, asker: GuardedStore, uri: URI, begun: Begun | None, terminal: Terminal
) -> int:
    """Wait until the task is over or waits for somebody, saying what is done meanwhile."""
    node = await engine.forest.load(uri)
    if not node.is_over and (why := engine.leaves(node)):
        terminal.note(why)
    telling = _Telling(node, terminal)
    ends = [engine.on_change(telling.listen), *([engine.on_text(telling.read)] if terminal.shows_passing else [])]
    try:
        done = await _waited(engine, asker, node, arguments.wait, terminal)
    except asyncio.CancelledError:
        _left(uri, terminal, "interrupted")
        raise
    finally:
        for end in ends:
            end()
        terminal.passing("")
    tree = await shown(asker, node, _DEPTH)
    if not terminal.human:
        place: dict[str, Any] = {} if begun is None else msgspec.to_builtins(begun)
        terminal.document({**place, **tree})
        return _code(engine, node)
    if getattr(arguments, "explain", False):
        for line in explained(tree):
            terminal.line(terminal.style(line, "dim"))
        terminal.line()
    if done.status == "completed":
        _answer(done, terminal)
    else:
        show(tree, terminal)
    code = _code(engine, node)
    if code == APPROVAL:
        terminal.note("it waits for a person's answer: cld approve URI, or with --reject or --edit")
        _left(uri, terminal, "then it goes on")
    elif code == OPEN:
        _left(uri, terminal, "not over yet")
    return code


async def _waited(engine: Engine, asker: GuardedStore, node: Node, seconds: float, terminal: Terminal) -> Task:
    """The task when it is over, waits, or after `seconds`; questions are put to whoever is at the terminal."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        left = end - asyncio.get_running_loop().time()
        task = await wait(engine, node.uri, max(0.0, left))
        if left <= 0 or node.is_over or not (terminal.human and terminal.can_ask):
            return task
        if not await _answered(engine, asker, node, terminal):
            return task


async def _answered(engine: Engine, asker: GuardedStore, node: Node, terminal: Terminal) -> bool:
    """Put the first question that waits to the person; False when there is none, or no answer came."""
    for one in waiting_for(engine, node):
        for asked in (await shown(asker, one, 0)).get("approvals", ()):
            if "tool" not in asked:
                continue  # somebody is editing it
            arguments = msgspec.json.encode(asked["arguments"]).decode()
            terminal.note(f"{one.meta.purpose}")
            terminal.note(f"wants to call {asked['tool']} with {arguments}")
            terminal.question(f"{asked.get('reason') or 'policy asks for your approval'}. Do you approve?")
            # Not read at once: what else is being worked goes on meanwhile, and Ctrl-C ends the waiting.
            await anyio.wait_readable(sys.stdin)
            decision = "approve" if terminal.answer() else "reject"
            with contextlib.suppress(Conflict):  # somebody else has answered it meanwhile
                await decide(asker, URI(asked["uri"]), decision)
            return True
    return False


def _code(engine: Engine, node: Node) -> int:
    """The exit code that says how far a task is."""
    match node.task.status:
        case "completed":
            return OK
        case "failed" | "cancelled":
            return ERROR
        case _:
            waiting = waiting_for(engine, node)
            return APPROVAL if any(one.task.waiting == "approval" for one in waiting) else OPEN


def _left(uri: URI, terminal: Terminal, why: str) -> None:
    """Say what becomes of work that is not over when the command ends."""
    terminal.note(f"{why}: a server on this tree goes on with it, or: cld task {uri} --wait 3600")
    terminal.note(f"to stop it: cld cancel {uri}")


class _Telling:
    """Says on standard error what is being done about a task and all below it, for people."""

    def __init__(self, node: Node, terminal: Terminal) -> None:
        self._root = node
        self._terminal = terminal
        self._ended: set[URI] = set()
        self._written: dict[URI, str] = {}
        if terminal.human:
            terminal.note(f"this is {node.uri}")

    def listen(self, node: Node, said: str) -> None:
        if not self._terminal.human or self._root not in node.path():
            return
        where = f"{node.id}: " if node is not self._root else ""
        if said:
            self._terminal.note(f"{where}{said[:200]}")
        elif where and node.is_over and node.uri not in self._ended:
            self._ended.add(node.uri)
            self._terminal.note(f"{where}{node.task.status}")

    def read(self, node: Node, piece: str) -> None:
        """Show how far a model is with a text, in passing, for all of it comes with the answer."""
        if self._root in node.path():
            text = (self._written.get(node.uri, "") + piece)[-_MOST_WRITTEN:] if piece else ""
            self._written[node.uri] = text
            self._terminal.passing(text, f"{node.id}: " if node is not self._root else "")


def _answer(done: Task, terminal: Terminal) -> None:
    for line in text_of(done.output).splitlines():
        terminal.line(safe_line(line))
    if done.skipped:
        terminal.line(f"skipped: {safe_line(done.skipped)}")
    # Those that the answer does not name itself.
    for source in done.sources:
        if source.uri not in text_of(done.output):
            terminal.line(terminal.style(f"source: {safe_line(source.uri)}", "dim"))


async def _given(file: str) -> dict[str, Any]:
    """The arguments of the tool `plan`, from a file or standard input; an array is its tasks."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else await Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    try:
        value: list[Any] | dict[str, Any] = msgspec.json.decode(data, type=list[Any] | dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UsageError(f"{file} is no JSON array of tasks: {error}; docs/tasks.md says what one is") from error
    return value if isinstance(value, dict) else {"tasks": value}


async def _format(given: str | None) -> dict[str, Any] | str | None:
    """A response format: a JSON Schema in a file (`@schema.json`), or words."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return msgspec.json.decode(await Path(given[1:]).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{given[1:]} is no JSON Schema: {error}") from error
