"""What is asked of work: to begin it, to wait for it, to answer what it waits for, and to stop it.

The functions behind the tools `plan`, `task_update`, `task_cancel` and `approve`. Owns the checks of what is
asked; the engine does the rest. What they write they write as the one who asks.
"""

import asyncio
import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from anyio.to_thread import run_sync
from msgspec.structs import replace

from cld.config import Work
from cld.errors import (
    AccessDenied,
    BudgetExceeded,
    Conflict,
    InvalidArgument,
    InvalidResource,
    InvalidTransition,
    ModelFailed,
    ResourceNotFound,
)
from cld.escape import safe_line
from cld.guard import GuardedStore
from cld.journal import (
    APPROVAL,
    NOBODY,
    Journal,
    children,
    content_of,
    has_ended,
    is_due,
    is_waited_for,
    question_of,
    questions,
)
from cld.json_schema import compile_schema
from cld.purse import Metered
from cld.resource import Draft, Meta, new_id, timestamp
from cld.store import Stored
from cld.supervisor import fits_words
from cld.tasks.order import Blocked, PlanLimits, check_plan
from cld.tasks.states import Claim, Complete, Fail, Release, is_held
from cld.tools import Caller, Result
from cld.tools.output import MAX_ERROR, limited, too_large
from cld.types import Approval, Budget, Call, Failure, Step, Task, Usage
from cld.uri import MAX_DEPTH, ROOT, URI, id_of, make_uri, parent_of, type_of
from cld.work.claims import blocked
from cld.work.electing import CLIENT, GENERAL, Member
from cld.work.engine import Engine
from cld.work.tree import TASK, Node, contents

CONVERSATION, MESSAGE = "common.Conversation", "common.Message"

MOST_MESSAGE = 100_000
MOST_CLIENT_TOOLS = 50
MOST_NAMES = 5
"""Of what there is instead of a name that is wrong so many are told."""

MOST_TRIES = 8
"""How often an answer is tried again because others changed its question."""

CLIENT_LEASE_SECONDS = 30.0
"""How long the claim lasts under which what a client gives is written down."""

Decision = Literal["approve", "reject", "edit"]


class Begun(msgspec.Struct, frozen=True):
    """Where the work that was asked for is in the tree."""

    conversation: URI
    message: URI
    task: URI


class Stopping(msgspec.Struct, frozen=True):
    """What a cancel did: the tasks it stopped, and those of which something may still run; none, if all went well."""

    cancelled: tuple[URI, ...]
    left: tuple[URI, ...]


async def begin(
    engine: Engine,
    store: GuardedStore,
    message: str,
    steps: tuple[Step, ...] = (),
    *,
    conversation: URI | None = None,
    response_format: Mapping[str, Any] | str | None = None,
    tools: Sequence[str] | None = None,
    client_tools: Sequence[Mapping[str, Any]] = (),
    budget: Budget | None = None,
    assistant: str = "",
) -> Begun:
    """Write down what is asked for, so that it is worked from now on, by whichever process comes first.

    `store` is the asker's own. With `steps` it is not planned: they are the plan. `assistant` is who works it.

    Raises:
        InvalidArgument: naming what is wrong with the message or in the steps.
        AccessDenied, ApprovalRequired: the asker may not write it.
        ResourceNotFound: there is no such conversation, or the asker may not read it.
    """
    settings = engine.world.settings
    bound = bounded(settings, budget)
    if not message.strip() and not steps:
        raise InvalidArgument("message is empty; say what is to be done, or give tasks", field="message")
    if len(message) > MOST_MESSAGE:
        raise InvalidArgument(
            f"message has {len(message)} characters; at most {MOST_MESSAGE} are read: put the rest in a resource",
            field="message",
        )
    check_plan(steps, limits=PlanLimits(settings.depth, settings.width, settings.tasks), budget=bound, field="tasks")
    place = make_uri(conversation or ROOT, TASK, "new")
    await _check_schemas([("response_format", response_format), *_formats(steps)])
    if len(client_tools) > MOST_CLIENT_TOOLS:
        raise InvalidArgument(f"there are {len(client_tools)} tools; at most {MOST_CLIENT_TOOLS}", field="tools")
    for path, step in _each(steps):
        if step.assistant and step.assistant != CLIENT:
            await _member(engine, place, step.assistant, f"{path}.assistant")
    named = [("tools", tools), *((f"{path}.tools", step.tools) for path, step in _each(steps))]
    _check_tools(engine, store, named, [str(tool.get("name")) for tool in client_tools])
    member = await _member(engine, place, assistant, "assistant") if assistant else None
    task = Task(
        plan=steps or None,
        direct=bool(assistant),
        assistant="" if member is None else str(member.uri),
        status="assigned" if assistant else "pending",
        response_format=dict(response_format) if isinstance(response_format, Mapping) else response_format,
        tools=None if tools is None else tuple(tools),
        client_tools=tuple(dict(tool) for tool in client_tools),
        budget=bound,
        roles=engine.principal.roles,
        with_models=engine.world.model.generates,
    )
    conversation = await _conversation(store, conversation, message or steps[0].purpose)
    said = make_uri(conversation, MESSAGE, new_id())
    text = message or "\n".join(f"{step.id}: {step.purpose}" for step in steps)
    await store.put(Draft(said, {"role": "user", "text": text}))
    root = make_uri(said, TASK, new_id())
    # The ledger first: a task whose budget nobody keeps would be worked by nobody.
    await engine.ledgers.create(engine.keeper, root, bound)
    await store.put(Draft(root, contents(task), Meta(purpose=text)))
    await engine.forest.load(root)
    return Begun(conversation, said, root)


async def wait(engine: Engine, uri: URI, seconds: float) -> Task:
    """The task once it is over or waits for somebody, or as it is after `seconds`.

    Raises:
        ResourceNotFound: there is no such task.
    """
    node = await engine.forest.load(uri)
    changed = asyncio.Event()
    end = engine.on_change(lambda _node, _said: changed.set())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    changed.clear()
                    if node.is_over or (waiting_for(engine, node) and await _is_unanswered(engine, node)):
                        break
                    await changed.wait()
    finally:
        end()
    return node.task


def waiting_for(engine: Engine, node: Node) -> list[Node]:
    """The tasks at and below it that cannot go on by themselves, where nothing else of it can go on either."""
    if engine.is_running_below(node.uri):
        return []  # without a look at all of it, which is done after every change
    waiting: list[Node] = []
    now = timestamp()
    for one in node.subtree():
        match blocked(one, now):
            case None | Blocked(kind="lease" | "never" | "gone"):
                return []  # it goes on, or ends, without anybody's answer
            case Blocked(kind="client" | "approval" | "time"):
                waiting.append(one)
            case _:
                pass
    return waiting


async def _is_unanswered(engine: Engine, node: Node) -> bool:
    """Whether all that waits has no answer yet; one that was just given is acted on in a moment."""
    for one in waiting_for(engine, node):
        with contextlib.suppress(InvalidResource):  # until it is repaired, it waits
            if one.task.waiting == "approval" and await Journal(engine.keeper, one.uri).is_answered():
                return False
    return True


async def cancel(engine: Engine, uri: URI, reason: str, *, seconds: float | None = None) -> Stopping:
    """Stop a task and everything below it, and see that it has stopped.

    Returns once no process works any of it and no call of it is open, after `seconds` at the latest (else
    somewhat more than a lease lasts).

    Raises:
        ResourceNotFound: there is no such task.
        AccessDenied: the asker may not write it.
    """
    node = await engine.forest.load(uri)
    changed = asyncio.Event()
    end = engine.on_change(lambda _node, _said: changed.set())
    patience = engine.world.settings.lease_seconds + 2 if seconds is None else seconds
    open: dict[URI, Node] = {}
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    changed.clear()
                    open |= {one.uri: one for one in node.subtree() if not one.is_over}
                    await engine.stop(node, reason)
                    if not _is_stopped(engine, node):
                        await changed.wait()
                        continue
                    # Those who made something below it have stopped, so nothing is missed from here on.
                    await engine.forest.look_below(node, MAX_DEPTH)
                    if _is_stopped(engine, node):
                        break
    finally:
        end()
    left = [one.uri for one in node.subtree() if not one.is_at_rest or engine.is_running(one.uri)]
    if not left:
        for one in node.subtree():
            if one.task.status == "cancelled":
                await Journal(engine.keeper, one.uri).close("its task was cancelled")
    # Some of them may have come to their end by themselves.
    cancelled = [uri for uri, one in open.items() if one.task.status == "cancelled"]
    return Stopping(tuple(cancelled), tuple(left))


async def decide(
    store: GuardedStore,
    uri: URI,
    decision: Decision,
    arguments: dict[str, Any] | None = None,
    comment: str = "",
) -> tuple[URI, Approval]:
    """A person's answer to a question; `uri` is the approval's, or its task's or call's.

    Raises:
        InvalidArgument: it is no question, more than one, or `edit` has no arguments.
        Conflict: it was answered before, its deadline is over, or nobody waits for it any more.
        AccessDenied: the asker may not answer it; an assistant never may.
    """
    if assistants := [one.id for one in store.guard.principal.chain() if one.kind == "assistant"]:
        raise AccessDenied("write", uri, [f"{assistants[0]} is an assistant, and only a person can agree"])
    found = await _question(store, uri)
    for _ in range(MOST_TRIES):
        stored = await store.get(found)
        approval = _approval(stored)
        if approval.decision is not None:
            raise Conflict(_answered_before(found, approval), uri=found, current=stored.version)
        if is_due(approval):
            message = f"{found} had to be answered until {approval.deadline}; without an answer it counts as rejected"
            raise Conflict(message, uri=found, current=stored.version)
        if not await is_waited_for(store, found, approval.call, soon=True) or await has_ended(store, parent_of(found)):
            raise Conflict(f"{found} is not waited for any more", uri=found, current=stored.version)
        if (decision == "edit") != (arguments is not None):
            raise InvalidArgument("arguments belong to the decision edit, and only to it", field="arguments")
        answered = replace(
            approval,
            decision=decision,
            edited=arguments,
            comment=comment,
            decided_by=store.guard.principal.id,
            decided_at=timestamp(),
        )
        with contextlib.suppress(Conflict):  # somebody was faster; the next look says who
            await store.put(Draft(found, content_of(answered)), if_version=stored.version)
            return found, answered
    raise Conflict(f"{found} changes all the time; try again later", uri=found, current=None)


def _approval(stored: Stored) -> Approval:
    try:
        return msgspec.convert(stored.resource.content, Approval)
    except msgspec.ValidationError as error:
        raise InvalidResource(f"{stored.resource.uri} is no valid approval: {error}") from error


def _answered_before(uri: URI, approval: Approval) -> str:
    comment = safe_line(approval.comment)
    if approval.decided_by == NOBODY:
        return f"{uri} is not open any more: {comment}"
    who = safe_line(approval.decided_by) or "somebody"
    return f"{uri} was answered before: {approval.decision} by {who}{f': {comment}' if comment else ''}"


async def update(
    engine: Engine,
    uri: URI,
    *,
    output: Any = None,
    has_output: bool = False,
    call_results: Mapping[str, Any] | None = None,
    status: Literal["completed", "failed"] | None = None,
    error: str = "",
) -> Task:
    """What a client that works a task itself, or ran calls for one, has to say.

    `call_results` are by the calls' ids or keys; with all of them there, the task goes on.

    Raises:
        InvalidArgument: there is no such call, nothing to do, or the output is not of the form asked for.
        InvalidTransition: the task does not wait for its client.
    """
    node = await engine.forest.load(uri)
    if node.is_over:
        raise InvalidTransition(f"{uri} is {node.task.status}; nothing can be added to it")
    if has_output:
        output = _within(engine.world.calling.output_bytes, output)
    if call_results:
        await _take_results(engine, node, call_results)
    if not has_output and status is None:
        if not call_results:
            raise InvalidArgument("give output, call_results or status", field="output")
        return node.task
    if node.task.status not in ("waiting", "pending", "assigned") or is_held(node.task, timestamp()):
        raise InvalidTransition(f"{uri} is {node.task.status} and somebody works it; cancel it first")
    spent = Usage() if status == "failed" else await _check_format(engine, node, output)
    now, fence = timestamp(), node.task.fence + 1
    claim = Claim(engine.holder, CLIENT_LEASE_SECONDS, now, over=True)
    if status == "failed":
        failed = Failure("client_failed", error[:MAX_ERROR] or "the client could not do it")
        return await engine.forest.change(node, claim, Fail(failed, now, engine.holder, fence))
    return await engine.forest.change(node, claim, Complete(engine.holder, fence, now, output=output, usage=spent))


async def _take_results(engine: Engine, node: Node, results: Mapping[str, Any]) -> None:
    journal = Journal(engine.keeper, node.uri)
    waiting = {
        id: kept for id, kept in (await journal.calls()).items() if kept.call.client and kept.call.state == "waiting"
    }
    by_key = {kept.call.key: id for id, kept in waiting.items()}
    unknown = [name for name in results if name not in waiting and name not in by_key]
    if unknown:
        there = ", ".join(waiting) or "none"
        raise InvalidArgument(f"{unknown[0]!r} is no call that waits; there are: {there}", field="call_results")
    for name, result in results.items():
        kept = waiting.pop(name if name in waiting else by_key[name])
        text = result if isinstance(result, str) else ""
        took = limited(Result(None if text else result, text), engine.world.calling.output_bytes)
        await journal.finish(kept, result=took.data, text=took.text, error=took.error)
    if not waiting and node.task.status == "waiting":
        now, fence = timestamp(), node.task.fence + 1
        claim = Claim(engine.holder, CLIENT_LEASE_SECONDS, now, over=True)
        # Claimed and given back in one write: whoever comes first goes on with it.
        await engine.forest.change(node, claim, Release(engine.holder, fence))


def _within(most: int, output: Any) -> Any:
    """What a client gives as `limited` takes it, but that data which are too large are refused: it can give less."""
    if isinstance(output, str):
        return limited(Result(text=output), most).text
    if (fault := too_large(output, most)) is not None:
        raise InvalidArgument(f"output {fault}; give less, or put it into resources and name them", field="output")
    return output


async def _check_format(engine: Engine, node: Node, output: Any) -> Usage:
    """Refuse what is not of the form asked for; what it cost to find out.

    Where no model answers, or none can be paid, what is plain is told all the same: a client goes on without one.
    """
    format = node.task.response_format
    if isinstance(format, dict):
        check = await run_sync(compile_schema, format)
        if (misfit := await run_sync(check, output)) is not None:
            raise InvalidArgument(f"output does not fit: {misfit.field or 'it'}: {misfit.reason}", field="output")
    if not format or isinstance(format, dict):
        return Usage()
    if output is None:
        raise InvalidArgument(f"output is to be {format!r}, and there is none", field="output")
    text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    bounds = [one.uri for one in node.path() if one.task.budget is not None]
    purse = engine.ledgers.purse(engine.keeper, bounds, str(node.uri))
    model = Metered(engine.world.model, purse, str(node.task.fence + 1), node.root.uri)
    try:
        fits, why, spent = await fits_words(model, format, text)
    except (ModelFailed, BudgetExceeded):
        return Usage()
    finally:
        await purse.flush()
    if not fits:
        raise InvalidArgument(f"output is to be {format!r}, and {why}", field="output")
    return spent


async def _check_schemas(formats: Iterable[tuple[str, Mapping[str, Any] | str | None]]) -> None:
    """Refuse what is asked for as a schema and is none, naming where it stands."""
    schemas = {msgspec.json.encode(one): (one, where) for where, one in formats if isinstance(one, Mapping)}

    def check() -> None:
        for schema, where in schemas.values():
            try:
                compile_schema(schema, where=where)
            except InvalidResource as error:
                raise InvalidArgument(str(error), field=where) from error

    if schemas:
        await run_sync(check)


def _each(steps: Sequence[Step], field: str = "tasks") -> Iterator[tuple[str, Step]]:
    """Every step of a plan, those within others too, with its path."""
    for at, step in enumerate(steps):
        yield f"{field}[{at}]", step
        yield from _each(step.steps, f"{field}[{at}].steps")


def _formats(steps: Sequence[Step]) -> Iterator[tuple[str, Mapping[str, Any] | str | None]]:
    for path, step in _each(steps):
        yield f"{path}.response_format", step.response_format


def _check_tools(
    engine: Engine, store: GuardedStore, named: Iterable[tuple[str, Sequence[str] | None]], own: Sequence[str]
) -> None:
    """Refuse names that are neither of tools the asker may call nor of those the client brings."""
    wanted = [(field, name) for field, names in named for name in names or ()]
    if not wanted:
        return
    there = [*own, *(tool.name for tool in engine.world.calling.offered(Caller(store.guard.principal)))]
    known = frozenset(there)
    for field, name in wanted:
        if name not in known:
            near = _near(name, there)
            hint = f"; there are for example {near}" if near else ""
            raise InvalidArgument(f"{field} names {name[:80]!r}, which is no tool that you may call{hint}", field=field)


async def _member(engine: Engine, task: URI, assistant: str, field: str) -> Member:
    """The assistant that a task is to be given to."""
    for _ in range(2):
        if (member := await engine.assistants.member(task, assistant)) is not None:
            return member
        engine.assistants.changed()  # one that was written just now may not have been heard of yet
    there = dict.fromkeys(id_of(one.uri) for one in (*await engine.assistants.of(task), GENERAL))
    near = _near(assistant, [*there, CLIENT])
    message = f"{field}: there is no assistant {assistant[:120]!r}; there are for example {near}"
    raise InvalidArgument(message, field=field)


def _near(name: str, names: Sequence[str]) -> str:
    """The names most like one that is none of them."""
    return ", ".join(difflib.get_close_matches(name, names, MOST_NAMES) or names[:MOST_NAMES])


def bounded(settings: Work, budget: Budget | None) -> Budget:
    """What one message may cost: what was asked for, as far as the settings allow it."""
    most = settings.budget
    asked = budget or Budget()
    return Budget(
        tokens=most.tokens if asked.tokens is None else min(asked.tokens, most.tokens),
        money=most.money if asked.money is None else min(asked.money, most.money),
        calls=most.calls if asked.calls is None else min(asked.calls, most.calls),
        seconds=most.seconds if asked.seconds is None else min(asked.seconds, most.seconds),
    )


async def _conversation(store: GuardedStore, conversation: URI | None, message: str) -> URI:
    """The conversation, a new one where none is given or it is not there yet."""
    if conversation is None:
        conversation = make_uri(ROOT, CONVERSATION, new_id())
    elif type_of(conversation) != CONVERSATION:
        raise InvalidArgument(f"{conversation} is no {CONVERSATION}", field="conversation")
    else:
        with contextlib.suppress(ResourceNotFound):
            await store.get(conversation)
            return conversation
    title = " ".join(message.split())[:80]
    with contextlib.suppress(Conflict):  # two begin it at once
        await store.put(Draft(conversation, {"title": title}))
    return conversation


async def _question(store: GuardedStore, uri: URI) -> URI:
    """The approval that `uri` is, or is about."""
    if type_of(uri) == APPROVAL:
        return uri
    if type_of(uri) == "tool.Call":
        try:
            call = msgspec.convert((await store.get(uri)).resource.content, Call)
        except msgspec.ValidationError as error:
            raise InvalidResource(f"{uri} is no valid call: {error}") from error
        return make_uri(parent_of(uri), APPROVAL, question_of(id_of(uri), call))
    await store.get(uri)
    below = await children(store, uri, APPROVAL, MAX_DEPTH)
    tasks = dict.fromkeys(map(parent_of, below))
    asked = [question for task in tasks for question in await questions(store, task)]
    open = [question.uri for question in asked if question.approval is not None]
    if len(open) == 1:
        return open[0]
    if not open:
        if asked:
            raise InvalidResource(asked[0].error)
        if (last := await _last_answered(store, below)) is not None:
            raise last
    there = ", ".join(open) if open else "none"
    raise InvalidArgument(f"{uri} has {len(open)} open questions; name one: {there}", field="uri")


async def _last_answered(store: GuardedStore, below: Sequence[URI]) -> Conflict | None:
    """Of questions none of which is open, what became of that which was answered last."""
    found: list[tuple[str, Conflict]] = []
    for uri in below:
        with contextlib.suppress(ResourceNotFound, InvalidResource):
            stored = await store.get(uri)
            approval = _approval(stored)
            if approval.decision is not None:
                error = Conflict(_answered_before(uri, approval), uri=uri, current=stored.version)
                found.append((approval.decided_at, error))
    return max(found, key=lambda one: one[0], default=("", None))[1]


def _is_stopped(engine: Engine, node: Node) -> bool:
    return not node.restless and not engine.is_running_below(node.uri)
