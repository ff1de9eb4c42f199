"""What the tools of work do: they begin it, look at it, answer what it waits for and stop it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, cast

import msgspec
from msgspec import UNSET

from cld.errors import Conflict, InvalidArgument
from cld.escape import safe_line
from cld.journal import questions
from cld.server.call import Call, Reply, Said
from cld.server.call import shown as shown_arguments
from cld.server.own_tools import NOT_FOR_TASKS
from cld.server.work_tools import Approve, Cancel, Get, Plan, Update
from cld.tools import Caller
from cld.tools.brought import check_brought
from cld.types import Approval, Step
from cld.uri import URI
from cld.work.engine import Engine
from cld.work.requests import Begun, begin, cancel, decide, update, wait, waiting_for
from cld.work.showing import drawn, shown
from cld.work.tree import Forest, Node

MOST_TAIL = 200
"""Of a text that is being written so many of its last characters are shown."""


async def plan(call: Call, args: Plan) -> Reply:
    if (args.tasks is UNSET) == (not args.message):
        raise InvalidArgument("give message, or tasks (a plan of your own); not both", field="message")
    wanted = read_plan(args)
    engine = await call.runtime.work(call.principal)
    if wanted["client_tools"] and args.tools is not UNSET:
        offered = engine.world.calling.offered(Caller(call.principal, host=call.context.host))
        await check_brought(args.tools, NOT_FOR_TASKS.union(tool.name for tool in offered))
    begun = await begin(engine, call.store, **wanted)
    return await answered(call, engine, begun, args.wait_seconds)


async def answered(call: Call, engine: Engine, begun: Begun, seconds: float) -> Reply:
    """The answer, or as far as it is after `seconds`; questions are put to a person where the host can."""
    node = await engine.forest.load(begun.task)
    async with told(call, engine, node):
        end = asyncio.get_running_loop().time() + seconds
        while True:
            left = end - asyncio.get_running_loop().time()
            task = await wait(engine, begun.task, max(0.0, left))
            if left <= 0 or not await _asked(call, engine, node, end, again=False):
                break
    data: dict[str, Any] = {"conversation": begun.conversation, "message": begun.message, "task": begun.task}
    data["status"] = task.status
    if task.status == "completed":
        data |= {"answer": task.output, "sources": msgspec.to_builtins(task.sources)}
    if task.error is not None:
        data["error_detail"] = msgspec.to_builtins(task.error)
    tree = await shown(call.store, node, 16)
    if waits := [one.uri for one in waiting_for(engine, node)]:
        data["waiting"] = waits
    return Reply(data, _text(data, tree))


async def task_get(call: Call, args: Get) -> Reply:
    await call.store.get(args.uri)
    if call.principal.on_behalf_of is not None:
        # An assistant sees of a tree what it may read by itself, and has no engine: it asks for no work.
        node = await Forest(call.store, _unheard, _unheard).load(args.uri)
        data = await shown(call.store, node, args.depth)
        return Reply(data, "\n".join(drawn(data)))
    engine = await call.runtime.work(call.principal)
    node = await engine.forest.load(args.uri)
    if args.wait_seconds:
        async with told(call, engine, node):
            end = asyncio.get_running_loop().time() + args.wait_seconds
            while True:
                await wait(engine, args.uri, max(0.0, end - asyncio.get_running_loop().time()))
                if not await _asked(call, engine, node, end, again=True):
                    break
    data = await shown(call.store, node, args.depth)
    lines = drawn(data)
    if not node.is_over and (why := engine.leaves(node)):
        data["left_to_others"] = why
        lines.append(why)
    return Reply(data, "\n".join(lines))


def _unheard(node: Node) -> None:
    """For who only looks."""


async def task_update(call: Call, args: Update) -> Reply:
    await call.store.get(args.uri)
    engine = await call.runtime.work(call.principal)
    task = await update(
        engine,
        args.uri,
        output=None if args.output is UNSET else args.output,
        has_output=args.output is not UNSET,
        call_results=None if args.call_results is UNSET else args.call_results,
        status=None if args.status is UNSET else args.status,
        error=args.error,
    )
    return Reply({"uri": args.uri, "status": task.status}, f"{args.uri} is {task.status}")


async def task_cancel(call: Call, args: Cancel) -> Reply:
    await call.store.get(args.uri)
    engine = await call.runtime.work(call.principal)
    async with call.progressing(f"stopping {args.uri}"):
        stopping = await cancel(engine, args.uri, args.reason or f"cancelled by {call.principal.id}")
    data = {"uri": args.uri, "cancelled": list(stopping.cancelled), "left": list(stopping.left)}
    left = f"; {len(stopping.left)} may still be running" if stopping.left else "; nothing of it runs any more"
    return Reply(data, f"cancelled {len(stopping.cancelled)} tasks{left}")


async def approve(call: Call, args: Approve) -> Reply:
    arguments = None if args.arguments is UNSET else args.arguments
    uri, approval = await decide(call.store, args.uri, args.decision, arguments, args.reason)
    data = {"uri": uri, **msgspec.to_builtins(approval)}
    return Reply(data, f"{args.decision}: {approval.tool}, by {approval.decided_by}")


def read_plan(args: Plan) -> dict[str, Any]:
    """What `begin` is to be called with; tools that are given are all there are, none too.

    Raises:
        InvalidArgument: naming the step or field that does not fit.
    """
    tools: list[str | dict[str, Any]] = [] if args.tools is UNSET else args.tools
    return {
        "message": args.message,
        "steps": () if args.tasks is UNSET else read_steps(args.tasks),
        "conversation": None if args.conversation is UNSET else args.conversation,
        "response_format": None if args.response_format is UNSET else args.response_format,
        "tools": None if args.tools is UNSET else [one for one in tools if isinstance(one, str)],
        "client_tools": [one for one in tools if isinstance(one, dict)],
        "budget": None if args.budget is UNSET else args.budget,
    }


def read_steps(tasks: list[dict[str, Any]], field: str = "tasks") -> tuple[Step, ...]:
    """The steps of a plan as a host gives it; what has no id is named by its place.

    Raises:
        InvalidArgument: naming the step and field that do not fit.
    """
    named = [_named(task, number) for number, task in enumerate(tasks, 1)]
    try:
        return msgspec.convert(named, tuple[Step, ...])
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise InvalidArgument(f"{field}{path.rstrip('`')}: {reason}", field=f"{field}{path.rstrip('`')}") from None


def _named(task: dict[str, Any], number: int) -> dict[str, Any]:
    named = {"id": f"t{number}", **task}
    if isinstance(steps := task.get("steps"), list):
        below = cast("list[object]", steps)
        named["steps"] = [
            _named(cast("dict[str, Any]", one), at) if isinstance(one, dict) else one for at, one in enumerate(below, 1)
        ]
    return named


@contextlib.asynccontextmanager
async def told(call: Call, engine: Engine, node: Node) -> AsyncGenerator[None]:
    """Report what is being done about a task and all below it as progress of the call, as it happens."""
    said = Said()

    def listen(changed: Node, what: str) -> None:
        if what and changed.root is node.root:
            said.say(f"{changed.meta.purpose[:60]}: {what}")

    written: dict[str, str] = {}

    def read(writing: Node, piece: str) -> None:
        if writing.root is node.root:
            text = written[writing.uri] = written.get(writing.uri, "") + piece if piece else ""
            # What comes faster than it is told is told together.
            said.say(f"{writing.meta.purpose[:60]}: …{text[-MOST_TAIL:]}" if text else "", writing.uri)

    ends = [engine.on_change(listen), *([engine.on_text(read)] if call.wants_progress else [])]
    try:
        async with call.telling(said, f"working on {node.meta.purpose[:60]}"):
            yield
    finally:
        for end in ends:
            end()


async def _asked(call: Call, engine: Engine, node: Node, end: float, *, again: bool) -> bool:
    """Put a question that waits to a person until `end`, where the host can; whether it was answered, by whomever.

    `again` says that the call may begin anew for that: one that began something may not.
    """
    if node.is_over or not call.can_ask:
        return False
    found = [(one, question) for one in waiting_for(engine, node) for question in await _open(call, one)]
    # First that to which the answer is there.
    for one, (uri, approval) in sorted(found, key=lambda each: each[1][0] != call.told_about):
        lines = [
            f"A task asks: {safe_line(one.meta.purpose[:200])}",
            f"May it call {safe_line(approval.tool)}? {safe_line(approval.reason)}",
            shown_arguments(approval.arguments),
        ]
        settled = partial(_settled, call, engine, one, uri)
        answer = await call.confirm("\n".join(lines), uri, again=again, end=end, settled=settled)
        if answer is None:
            return uri not in [other for other, _ in await _open(call, one)]
        edited = answer.agreed and answer.arguments not in (None, approval.arguments)
        decision = "edit" if edited else "approve" if answer.agreed else "reject"
        with contextlib.suppress(Conflict):  # it was answered meanwhile, or is not waited for any more
            await decide(call.store, uri, decision, answer.arguments if edited else None, answer.reason)
        return True
    return False


async def _open(call: Call, node: Node) -> list[tuple[URI, Approval]]:
    """The questions of a task that somebody can answer."""
    asked = [] if node.is_over else await questions(call.store, node.uri)
    return [(one.uri, one.approval) for one in asked if one.approval is not None]


async def _settled(call: Call, engine: Engine, node: Node, question: URI) -> None:
    """Return once a question of a task is not open any more."""
    changed = asyncio.Event()
    end = engine.on_change(lambda heard, _: changed.set() if heard.uri == node.uri else None)
    try:
        while question in [uri for uri, _ in await _open(call, node)]:
            await changed.wait()
            changed.clear()
    finally:
        end()


def _text(data: dict[str, Any], tree: dict[str, Any]) -> str:
    """The answer for those who see text only, or how far it is and what to do about it."""
    if data["status"] == "completed":
        answer = data["answer"]
        text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
        sources = [source["uri"] for source in data["sources"]]
        return "\n".join([text, *(["", "Sources:", *sources] if sources else [])])
    lines = [f"{data['status']}: {data['task']}", *drawn(tree)]
    if data.get("waiting"):
        lines.append("It waits for an answer: approve, or task_update with results; then task_get.")
    elif data["status"] not in ("failed", "cancelled"):
        lines.append("It goes on; task_get with wait_seconds waits for it.")
    return "\n".join(lines)
