"""The journal of a task: what its model answered and what became of every call, one resource each.

So a task that another process takes up goes on where it was: no model is asked again what it has answered,
and no call that was finished is made again. Entries are created once and then only changed by who knows their
version: who finds one there that it did not write has lost the task. Knows no models and runs no tools.
"""

import contextlib
from typing import Any

import msgspec
from msgspec.structs import replace

from cld.errors import CldError, Conflict, InvalidResource, LeaseLost, ResourceNotFound
from cld.guard import GuardedStore
from cld.resource import Draft, Meta, timestamp
from cld.tasks.instants import is_over
from cld.tasks.states import TERMINAL
from cld.tools.process import to_the_end
from cld.types import Approval, Call, CallState, Failure, Turn
from cld.uri import URI, id_of, make_uri, parent_of

TURN, CALL, APPROVAL = "plan.Turn", "tool.Call", "plan.Approval"

OPEN: frozenset[CallState] = frozenset({"started", "waiting"})
"""The states of a call that is not over."""

NOBODY = "service:work"
"""Who a question names that nobody answered, and that is not waited for any more."""


class KeptCall(msgspec.Struct, frozen=True):
    """A call as it is in the tree; `version` replaces it, `by` wrote it."""

    uri: URI
    version: str
    call: Call
    by: str = ""


class KeptApproval(msgspec.Struct, frozen=True):
    """An approval as it is in the tree; `version` replaces it, `by` wrote it."""

    uri: URI
    version: str
    approval: Approval
    by: str = ""


class Question(msgspec.Struct, frozen=True):
    """A question that waits for an answer; where its file is none, there is no `approval` but an `error`."""

    uri: URI
    approval: Approval | None
    error: str = ""


class Journal:
    """The entries below the task `uri`, through the store of whoever asked for the work."""

    def __init__(self, store: GuardedStore, uri: URI) -> None:
        self.uri = uri
        self._store = store

    async def turns(self) -> list[Turn]:
        """The turns so far, in order.

        Raises:
            InvalidResource: one was changed by hand and is none any more, or by somebody else.
        """
        found = [await self._turn(uri) for uri in await children(self._store, self.uri, TURN)]
        return sorted(found, key=lambda turn: turn.step)

    async def calls(self) -> dict[str, KeptCall]:
        """The calls so far, by id.

        Raises:
            InvalidResource: as `turns`.
        """
        kept = [await self._call(uri) for uri in await children(self._store, self.uri, CALL)]
        return {id_of(one.uri): one for one in kept}

    async def add_turn(self, turn: Turn) -> None:
        """Write down what a model answered, before anything is done about it.

        Raises:
            LeaseLost: another process has written this turn.
        """
        uri = make_uri(self.uri, TURN, turn_id(turn.step))
        await self._create(uri, turn)

    async def start(self, id: str, call: Call) -> KeptCall:
        """Write down that a call begins (or waits), before it does.

        Raises:
            LeaseLost: another process has written it.
        """
        return await self._create_call(make_uri(self.uri, CALL, id), call)

    async def change(self, kept: KeptCall, call: Call) -> KeptCall:
        """Write down what became of a call.

        Raises:
            LeaseLost: another process has changed it since.
        """
        try:
            stored = await self._store.put(Draft(kept.uri, content_of(call)), if_version=kept.version)
        except Conflict as conflict:
            raise LeaseLost(f"{kept.uri} was changed by somebody else; stop working its task") from conflict
        return KeptCall(kept.uri, stored.version, call)

    async def finish(self, kept: KeptCall, *, result: Any = None, text: str = "", error: Failure | None) -> KeptCall:
        """Write down how a call ended.

        Raises:
            LeaseLost: as `change`.
        """
        state: CallState = "finished" if error is None else "cancelled" if error.code == "cancelled" else "failed"
        call = replace(
            kept.call, state=state, result=result, text=text, error=error, progress="", finished_at=timestamp()
        )
        return await self.change(kept, call)

    async def close(self, why: str) -> None:
        """Write down of the calls that are not over that they will not be made, and are not waited for."""
        # First the questions: of a call that is closed nobody looks for them.
        await self.withdraw(None, why)
        for uri in await children(self._store, self.uri, CALL):
            # Whoever changed it meanwhile closes it; what is no call any more is none that could be made.
            with contextlib.suppress(LeaseLost, InvalidResource, ResourceNotFound):
                if (kept := await self._call(uri)).call.state in OPEN:
                    await self.finish(kept, error=Failure("cancelled", why))

    async def is_answered(self) -> bool:
        """Whether a question was answered or will not be, or none is open at all, so that the task can go on."""
        open = False
        for id, kept in (await self.calls()).items():
            if kept.call.state == "waiting" and not kept.call.client:
                open = True
                with contextlib.suppress(InvalidResource):  # until it is repaired, nobody has answered it
                    found = await self.approval(question_of(id, kept.call))
                    if found is None or found.approval.decision or is_due(found.approval):
                        return True
        return not open

    async def approval(self, id: str) -> KeptApproval | None:
        """The question with this id, and the answer to it."""
        uri = make_uri(self.uri, APPROVAL, id)
        try:
            stored = await self._store.get(uri)
        except ResourceNotFound:
            return None
        approval = _content(stored.resource.content, Approval, uri)
        return KeptApproval(uri, stored.version, approval, stored.resource.updated_by)

    def is_own(self, by: str) -> bool:
        """Whether an entry is by whoever this journal is kept for, through cld or by hand."""
        return by in ("", self._store.guard.principal.id)

    async def ask(self, id: str, approval: Approval) -> None:
        """Ask a person, once: a question is never put in the place of another, which somebody may be answering."""
        purpose = f"Somebody has to approve of {approval.tool}"
        with contextlib.suppress(Conflict):  # asked before, by a process that died then
            await self._store.put(Draft(make_uri(self.uri, APPROVAL, id), content_of(approval), Meta(purpose=purpose)))

    async def withdraw(self, call: str | None, why: str) -> None:
        """Answer what is open about a call, or about any, with no, for it is not waited for any more."""
        for uri in await children(self._store, self.uri, APPROVAL):
            with contextlib.suppress(InvalidResource):
                found = await self.approval(id_of(uri))
                if found is not None and found.approval.decision is None and call in (None, found.approval.call):
                    await self.answer(found, lapsed(found.approval, why))

    async def answer(self, found: KeptApproval, approval: Approval) -> None:
        """Write down what became of a question, unless somebody has just changed it."""
        with contextlib.suppress(Conflict, ResourceNotFound):
            await self._store.put(Draft(found.uri, content_of(approval)), if_version=found.version)

    async def _call(self, uri: URI) -> KeptCall:
        stored = await self._store.get(uri)
        return KeptCall(uri, stored.version, _content(stored.resource.content, Call, uri), stored.resource.updated_by)

    async def _turn(self, uri: URI) -> Turn:
        resource = (await self._store.get(uri)).resource
        if not self.is_own(resource.updated_by):
            # Its wishes would be called with the rights of who asked for the work.
            raise InvalidResource(f"{uri} was written by {resource.updated_by}, who did not ask for this; delete it")
        return _content(resource.content, Turn, uri)

    async def _create(self, uri: URI, entry: msgspec.Struct) -> str:
        try:
            # To the end, so that who closes the calls of a task that was stopped misses none.
            return (await to_the_end(self._store.put(Draft(uri, content_of(entry))))).version
        except Conflict as conflict:
            raise LeaseLost(f"{uri} was written by somebody else; stop working its task") from conflict

    async def _create_call(self, uri: URI, call: Call) -> KeptCall:
        return KeptCall(uri, await self._create(uri, call), call)


def question_of(id: str, call: Call) -> str:
    """The id of the question that a call waits for."""
    return call.question or id


def is_due(approval: Approval) -> bool:
    """Whether the time is over in which a question could be answered."""
    return bool(approval.deadline) and is_over(approval.deadline, timestamp())


def lapsed(approval: Approval, why: str) -> Approval:
    """The question with a no that is nobody's."""
    return replace(approval, decision="reject", edited=None, comment=why, decided_by=NOBODY, decided_at=timestamp())


async def questions(store: GuardedStore, task: URI) -> list[Question]:
    """The questions right below a task that somebody can answer, or has to repair.

    Not those of which the call does not wait any more, or whose time is over.
    """
    found: list[Question] = []
    for uri in await children(store, task, APPROVAL):
        try:
            approval: Approval = _content((await store.get(uri)).resource.content, Approval, uri)
        except InvalidResource as error:
            found.append(Question(uri, None, str(error)))
            continue
        except ResourceNotFound:
            continue
        if approval.decision is None and not is_due(approval) and await is_waited_for(store, uri, approval.call):
            found.append(Question(uri, approval))
    return found if found and not await has_ended(store, task) else []


async def is_waited_for(store: GuardedStore, question: URI, id: str, *, soon: bool = False) -> bool:
    """Whether the call `id` waits for the answer to a question; with `soon`, also whether it is about to."""
    if not id:
        return True  # written by hand, about no call
    uri = make_uri(parent_of(question), CALL, id)
    try:
        call: Call = _content((await store.get(uri)).resource.content, Call, uri)
    except CldError:  # there is none to look at: then the task says what comes of it
        return True
    if call.state == "started":
        return soon
    return call.state == "waiting" and question_of(id, call) == id_of(question)


async def has_ended(store: GuardedStore, task: URI) -> bool:
    """Whether a task is over, as far as it can be read."""
    try:
        return (await store.get(task)).resource.content.get("status") in TERMINAL
    except CldError:  # it may not be read, or is no task any more: then nothing of it is over
        return False


def turn_id(step: int) -> str:
    """The id of the turn at `step`; sorts by it."""
    return f"t{step:04}"


def call_id(step: int, number: int) -> str:
    """The id of the call that the turn at `step` asked for as its `number`-th."""
    return f"t{step:04}c{number:02}"


def content_of(entry: msgspec.Struct) -> dict[str, Any]:
    """An entry as the content of a resource."""
    return msgspec.to_builtins(entry)


async def children(store: GuardedStore, uri: URI, type: str, depth: int = 1) -> list[URI]:
    """All resources of `type` up to `depth` levels below `uri`, which is right below it."""
    return [one async for one in store.every(uri, type=type, depth=depth)]


def _content(content: dict[str, Any], kind: Any, uri: URI) -> Any:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InvalidResource(f"{uri} was changed by hand and cannot be used: {error}; restore or delete it") from error
