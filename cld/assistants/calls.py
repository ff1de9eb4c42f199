"""The calls of one task: what becomes of each that its model asks for.

Every call is written down before it begins and when it is over. One that was finished is never made again; one that
had begun only where that is harmless, else a person decides. What others changed in the journal is not called.
"""

import asyncio
import contextlib
import fnmatch
import re
from collections.abc import Mapping
from dataclasses import replace as replaced
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from cld.assistants.job import Job, Parked
from cld.assistants.watched import Watched
from cld.errors import AccessDenied, ApprovalRequired, CldError, ConfigError, InvalidResource
from cld.escape import safe_line
from cld.journal import NOBODY, OPEN, KeptApproval, KeptCall, call_id, is_due, lapsed, question_of
from cld.models import ToolOffer
from cld.principal import Principal, parse_principal
from cld.resource import timestamp
from cld.tasks.budget import plus
from cld.tasks.instants import is_over, later
from cld.tools import Begun, Caller, NestedApprovalRequired, OnProgress, Result
from cld.tools.brought import brought
from cld.types import Approval, Call, Failure, Grant, Source, Tool, Turn, Usage, Wish
from cld.uri import URI, is_within, why_not

MOST_WISHES = 32
"""How many calls of one answer are made; the model is told of the others that they were not."""

MOST_SOURCES = 50

_OWN = re.compile(r"(?:^cld:|/)(?:common\.Assistant|plan\.\w+|tool\.\w+)\.[^/]+$")
"""What cld itself works with: an answer rests on it only where it says so."""

_PERSON = "a person"
_ONE_CALL = Usage(calls=1)


class Calls:
    """The calls of a task so far, and the tools it may use."""

    def __init__(self, job: Job, calls: dict[str, KeptCall]) -> None:
        self._job = job
        self._calls = calls
        self._client = brought(job.task.client_tools)
        self._tools = {
            tool.name: tool
            for tool in job.calling.offered(job.caller)
            if tool.name not in self._client and _may_use(job, tool.name)
        }

    def get(self, id: str) -> Call | None:
        """The call with this id, if it was begun."""
        kept = self._calls.get(id)
        return None if kept is None else kept.call

    def offers(self) -> tuple[ToolOffer, ...]:
        """The tools as a model is told of them."""
        tools = (*self._tools.values(), *self._client.values())
        return tuple(ToolOffer(tool.name, tool.description, tool.input_schema) for tool in tools)

    def made(self) -> Usage:
        """What all calls so far cost."""
        return Usage(calls=sum(kept.call.attempts for kept in self._calls.values()))

    async def settle(self, turn: Turn, said: Usage) -> None:
        """Make the calls that `turn` asks for and that are not over; `said` is what all turns so far cost.

        Raises:
            Parked: some of them wait.
        """
        wishes = [(call_id(turn.step, number), wish) for number, wish in enumerate(turn.wishes[:MOST_WISHES])]
        todo = [(id, wish) for id, wish in wishes if id not in self._calls or self._calls[id].call.state in OPEN]
        if all(self._is_harmless(wish) for _, wish in todo):
            ended = await asyncio.gather(
                *(self._settle(id, wish, turn.step) for id, wish in todo), return_exceptions=True
            )
            if failed := [error for error in ended if error is not None]:
                raise failed[0]
        else:
            for id, wish in todo:
                await self._settle(id, wish, turn.step)
        waiting = [kept.call for kept in self._calls.values() if kept.call.state == "waiting"]
        if not waiting:
            return
        spent = plus(said, self.made())
        if all(call.client for call in waiting):
            raise Parked("client", "", spent)
        asked = [question_of(id, kept.call) for id, kept in self._calls.items() if _waits(kept.call)]
        deadlines = [await self._deadline(question) for question in asked]
        raise Parked("approval", min(filter(None, deadlines), default=""), spent)

    def sources(self, output: Any, *, quotes: bool) -> tuple[Source, ...]:
        """What the answer rests on: the resources it names of those that calls brought.

        Where a model that writes names none, it is all of these but cld's own; an answer made of `quotes` that has no
        quote rests on nothing.
        """
        met: dict[str, Source] = {}
        for kept in self._calls.values():
            if kept.call.state == "finished":
                _sources_in(kept.call.result, met)
        told = output if isinstance(output, str) else msgspec.json.encode(output).decode()
        named = [source for source in met.values() if _is_named(source.uri, told)]
        if not named and not quotes:
            # Nor does an answer rest on the message that it answers.
            named = [
                source
                for source in met.values()
                if not _OWN.search(source.uri) and not is_within(self._job.uri, URI(source.uri))
            ]
        return tuple(named[:MOST_SOURCES])

    async def _deadline(self, question: str) -> str:
        """Until when a question waits; empty where that is not said."""
        with contextlib.suppress(InvalidResource):  # until it is repaired
            if (found := await self._job.journal.approval(question)) is not None:
                return found.approval.deadline
        return ""

    def _is_harmless(self, wish: Wish) -> bool:
        tool = self._tools.get(wish.tool)
        return tool is not None and tool.annotations.read_only

    async def _settle(self, id: str, wish: Wish, step: int) -> None:
        job, kept = self._job, self._calls.get(id)
        tool = self._tools.get(wish.tool)
        if kept is None:
            begun = self._begun(wish, tool, step)
            if begun.state != "failed":
                await job.purse.hold(id, _ONE_CALL)
            kept = self._calls[id] = await job.journal.start(id, begun)
            if begun.state != "started":
                return
        elif not job.journal.is_own(kept.by):
            # Its arguments may be theirs, and would be called with the rights of who asked for the work.
            self._calls[id] = await self._refused(kept, f"{kept.by} changed it, who did not ask for it")
            return
        elif kept.call.client:
            return
        elif kept.call.state == "waiting":
            if (resumed := await self._answered(id, kept)) is None:
                return
            kept = self._calls[id] = resumed
        elif wish.tool in self._client or (
            tool is not None and (tool.annotations.idempotent or tool.annotations.read_only)
        ):
            # Of its client nothing was wanted yet.
            again = replace(
                kept.call, attempts=kept.call.attempts + 1, granted=(), fence=job.fence, started_at=timestamp()
            )
            kept = self._calls[id] = await self._again(id, kept, again)
        else:
            reason = "it had begun when its process ended, and may have been done already; approve to do it again"
            await job.journal.withdraw(id, "its process ended; it is asked anew")
            await self._ask(id, kept, reason, "r")
            return
        if kept.call.state == "started":
            await self._call(id, kept)

    def _begun(self, wish: Wish, tool: Tool | None, step: int) -> Call:
        """The call that a wish becomes; one that cannot be made has failed already."""
        call = Call(
            tool=wish.tool,
            arguments=wish.arguments,
            step=step,
            key=wish.key,
            fence=self._job.fence,
            attempts=1,
            idempotent=tool is not None and (tool.annotations.idempotent or tool.annotations.read_only),
            started_at=timestamp(),
        )
        if tool is None and wish.tool not in self._client:
            names = ", ".join(sorted({*self._tools, *self._client})) or "none"
            error = Failure("unknown_tool", f"there is no tool {wish.tool[:80]!r} for this task; there are: {names}")
        elif wish.problem:
            error = Failure("invalid_argument", f"the arguments of the call cannot be read: {wish.problem}")
        else:
            return call
        return replace(call, state="failed", attempts=0, error=error, finished_at=timestamp())

    async def _answered(self, id: str, kept: KeptCall) -> KeptCall | None:
        """The call as a person's answer leaves it, ready to be made or failed; None while there is none."""
        job = self._job
        try:
            found = await self._decided(question_of(id, kept.call))
        except InvalidResource:  # until it is repaired
            return None
        if found is None:
            return await self._refused(kept, "the question was deleted")
        approval = found.approval
        if approval.decision is None:
            return None
        if _is_nobodys(approval):
            return await self._refused(kept, safe_line(approval.comment))
        who = self._who(found)
        if who.startswith("assistant:"):
            return await self._refused(kept, f"{who} is an assistant, and only a person can agree")
        if approval.decision == "reject":
            comment = f": {safe_line(approval.comment)}" if approval.comment else ""
            return await self._refused(kept, f"{who} did not agree{comment}")
        if approval.decision == "edit" and approval.edited is None:
            return await self._refused(kept, f"{who} said to edit its arguments, and gave none in `edited`")
        edited = approval.edited if approval.decision == "edit" else None
        call = replace(
            kept.call, state="started", attempts=kept.call.attempts + 1, fence=job.fence, started_at=timestamp()
        )
        if approval.within:
            granted = Grant(approval.tool, approval.arguments, edited, who)
            call = replace(call, granted=(*call.granted, granted))
        else:
            arguments = call.arguments if edited is None else edited
            call = replace(call, approved_by=who, arguments=arguments, granted=())
        return await self._again(id, kept, call)

    async def _decided(self, question: str) -> KeptApproval | None:
        """A question as it is, with who answered it and when; rejected once nobody did in time."""
        journal = self._job.journal
        while (found := await journal.approval(question)) is not None:
            approval, who = found.approval, self._who(found)
            if _is_nobodys(approval):
                return found
            if is_due(approval) and (approval.decision is None or is_over(approval.deadline, approval.decided_at)):
                late = f"; to {approval.decision} it came too late" if approval.decision else ""
                answer = lapsed(approval, f"nobody answered until {approval.deadline}{late}")
            elif approval.decision is None or (approval.decided_by == who and approval.decided_at):
                return found
            else:
                answer = replace(approval, decided_by=who, decided_at=approval.decided_at or timestamp())
            await journal.answer(found, answer)
        return None

    async def _again(self, id: str, kept: KeptCall, call: Call) -> KeptCall:
        """The call as it is to be made once more, which costs once more."""
        await self._job.purse.hold(id, Usage(calls=call.attempts), Usage(calls=kept.call.attempts))
        return await self._job.journal.change(kept, call)

    def _who(self, found: KeptApproval) -> str:
        """Who answered: who wrote the answer, whatever it says; of one edited by hand, who it says."""
        if not self._job.journal.is_own(found.by):
            return found.by
        return safe_line(found.approval.decided_by) or _PERSON

    async def _refused(self, kept: KeptCall, why: str) -> KeptCall:
        self._job.tell(f"not made: {kept.call.tool}: {why}")
        error = Failure("rejected", f"the call was not made: {why}")
        return await self._job.journal.finish(kept, error=error)

    async def _ask(
        self, id: str, kept: KeptCall, reason: str, kind: str = "", nested: NestedApprovalRequired | None = None
    ) -> None:
        """Leave the call, or the one that it made itself, to a person; `kind` tells questions about one call apart."""
        job, now = self._job, timestamp()
        asked = Approval(
            tool=kept.call.tool,
            arguments=kept.call.arguments,
            call=id,
            reason=reason,
            asked_at=now,
            deadline=later(now, job.approval_seconds),
        )
        if nested is not None:
            why = f"{reason}; {kept.call.tool} calls it, was stopped there, and begins again with the answer"
            asked = replace(asked, tool=nested.tool, arguments=nested.arguments, within=kept.call.tool, reason=why)
            begun = replace(kept.call, granted=tuple(nested.begun.granted), made=nested.begun.made)
            kept = await job.journal.change(kept, begun)
        question = f"{id}{kind}{kept.call.attempts:02}" if kind or kept.call.attempts > 1 else id
        # The question first: a call that waits for one that is not there would count as rejected.
        await job.journal.ask(question, asked)
        waiting = replace(kept.call, state="waiting", progress="", question=question)
        self._calls[id] = await job.journal.change(kept, waiting)
        job.tell(f"waiting for a person: {asked.tool}: {asked.reason}")

    async def _call(self, id: str, kept: KeptCall) -> None:
        job, call = self._job, kept.call
        watched = Watched(job.journal, kept)

        def heard(said: str) -> None:
            job.tell(f"{call.tool}: {said}")
            watched.say(said)

        job.tell(f"calling {call.tool}")
        try:
            async with watched:
                result = await self._made(call, heard)
        except ApprovalRequired as needed:
            kept = watched.kept
            nested = needed if isinstance(needed, NestedApprovalRequired) else None
            reason = str(needed.obligation.get("reason") or needed)
            await self._ask(id, kept, reason, "n" if nested else "", nested)
            return
        except CldError as failed:
            if isinstance(failed, AccessDenied):
                job.tell(f"denied: {call.tool}: {failed}")
            result = Result(error=Failure(failed.code, str(failed)))
        if result is None:
            self._calls[id] = await job.journal.change(watched.kept, replace(call, state="waiting", client=True))
            job.tell(f"waiting for the client: {call.tool}")
            return
        ended = await job.journal.finish(watched.kept, result=result.data, text=result.text, error=result.error)
        self._calls[id] = ended
        await job.purse.settle(id, Usage(calls=call.attempts))

    async def _made(self, call: Call, heard: OnProgress) -> Result | None:
        """What a call gave; None where it may be made, and its client is to make it."""
        calling, caller = self._job.calling, _calling(self._job.caller, call)
        if (tool := self._client.get(call.tool)) is not None:
            return await calling.admit(tool, call.arguments, caller)
        return await calling.call(call.tool, call.arguments, caller, heard)


def _calling(caller: Caller, call: Call) -> Caller:
    """Who makes a call; a person who agreed to it, or to what it calls, must be allowed too, and by themselves.

    So nobody gets done by agreeing what they may not do.
    """
    principal = caller.principal
    for name in (call.approved_by, *(grant.by for grant in call.granted)):
        if name:
            principal = _with(principal, name)
    begun = Begun(call.granted, call.made)
    return replaced(caller, principal=principal, approved=bool(call.approved_by), begun=begun)


def _with(principal: Principal, name: str) -> Principal:
    if name in {one.id for one in principal.chain()}:
        return principal
    try:
        other = parse_principal(name)
    except ConfigError:  # a person who edited the file, and wrote a name of their own; they may edit all of it
        return principal
    return replace(principal, also=(*principal.also, other))


def _is_nobodys(approval: Approval) -> bool:
    return approval.decision == "reject" and approval.decided_by == NOBODY


def _waits(call: Call) -> bool:
    return call.state == "waiting" and not call.client


def _may_use(job: Job, name: str) -> bool:
    if job.task.tools is not None and name not in job.task.tools:
        return False
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in job.assistant.tools)


def _is_named(uri: str, told: str) -> bool:
    """Whether a text names the resource itself, and not only one below it."""
    return re.search(rf"{re.escape(uri)}(?![A-Za-z0-9_-]|/[a-z])", told) is not None


def _sources_in(value: object, met: dict[str, Source]) -> None:
    """Take up every resource that a result names with its URI."""
    if isinstance(value, dict):
        entry = cast("Mapping[str, Any]", value)
        uri = entry.get("uri")
        if isinstance(uri, str) and why_not(uri) is None:
            quote = entry.get("quote")
            version = entry.get("version")
            met.setdefault(
                uri, Source(uri, version if isinstance(version, str) else "", quote if isinstance(quote, str) else "")
            )
        for part in entry.values():
            _sources_in(part, met)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            _sources_in(part, met)
