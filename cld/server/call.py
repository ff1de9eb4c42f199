"""One tool call: what a handler gets besides its arguments, and what it hands back.

Owns asking a person in both protocol eras: until 2025-11-25 the server asks and waits; from 2026-07-28
the call ends with the question (`InputRequired`) and comes again with the answer, so that everything
a handler does before it asks must be harmless to repeat.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from cld.escape import safe_line
from cld.guard import GuardedStore
from cld.policy import Context
from cld.principal import Principal
from cld.runtime import Runtime
from cld.server.access import RequestContext

log = logging.getLogger("cld.server")

QUESTION = "confirm"
"""The key of our question in `inputRequests`."""

ANSWER_SECONDS = 600.0
MAX_QUESTIONS = 1024
QUESTIONS_PER_PRINCIPAL = 64
"""How many of them may be one principal's, so that nobody's questions push out those of others."""

TICK_SECONDS = 1.0
MOST_SAID = 100

DECLINED = "the person who was asked did not agree"

_YES_OR_NO: dict[str, Any] = {"type": "object", "properties": {}}
"""Accepting says yes; there is nothing to fill in."""

_OTHERWISE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "arguments": {"type": "string", "title": "Other arguments", "description": "As JSON; empty: as asked"},
        "reason": {"type": "string", "title": "Reason", "description": "Why, for who asked; may be empty"},
    },
}
"""Accepting says yes, with other arguments if there are any."""

_UNREADABLE = "What was given as other arguments is no JSON object, so nothing was decided."


@dataclass(frozen=True)
class Reply:
    """What a tool answers: `data` for programs, and for those who see text only, `text`.

    `content` are MCP content blocks in place of `text`.
    """

    data: Mapping[str, Any] | None
    text: str = ""
    content: Sequence[Mapping[str, Any]] | None = None

    def wire(self) -> dict[str, Any]:
        content = [{"type": "text", "text": self.text}] if self.content is None else list(self.content)
        result: dict[str, Any] = {"resultType": "complete", "content": content}
        if self.data is not None:
            result["structuredContent"] = self.data
        return result


class InputRequired(Exception):
    """Ends a call of a 2026-07-28 client with questions; `state` comes back with the answers, sealed."""

    def __init__(self, requests: Mapping[str, Any], state: str) -> None:
        super().__init__("the call goes on once the client has answered")
        self.requests = requests
        self.state = state

    def wire(self) -> dict[str, Any]:
        return {"resultType": "input_required", "inputRequests": dict(self.requests), "requestState": self.state}


About = Literal["call", "change"]
"""What a person agrees to: that the tool is called, or what it then does to resources."""


@dataclass(frozen=True)
class Answer:
    """What a person said to a call: yes, with other arguments where there are any, or no; and why."""

    agreed: bool
    arguments: dict[str, Any] | None = None
    reason: str = ""


Unreadable = Literal["unreadable"]


@dataclass(frozen=True)
class Question:
    """A yes is a yes to all of `about`; with a `subject` they were agreed to before, and it is what is asked.

    `kept` is for the call that brings the yes.
    """

    whose: str
    about: frozenset[About]
    until: float
    subject: str = ""
    kept: object = None


@dataclass
class Questions:
    """The questions that wait for an answer; each is answered once, in time, or not at all."""

    _waiting: OrderedDict[str, Question] = field(default_factory=OrderedDict[str, Question])

    def ask(self, whose: str, about: frozenset[About], subject: str = "", kept: object = None) -> str:
        """A new question's name."""
        mine = [name for name, question in self._waiting.items() if question.whose == whose]
        if len(mine) >= QUESTIONS_PER_PRINCIPAL:
            del self._waiting[mine[0]]
        while len(self._waiting) >= MAX_QUESTIONS:
            self._waiting.popitem(last=False)
        name = secrets.token_urlsafe(16)
        self._waiting[name] = Question(whose, about, time.monotonic() + ANSWER_SECONDS, subject, kept)
        return name

    def answered(self, name: str | None) -> Question | None:
        """The question of this name, None when it was not waiting; from now on it is not."""
        question = None if name is None else self._waiting.pop(name, None)
        return None if question is None or question.until <= time.monotonic() else question


class Said:
    """What is said of something that goes on, in its order, until it is told; of too much, what came first."""

    def __init__(self) -> None:
        self._waiting: dict[object, str] = {}
        self._any = asyncio.Event()

    def say(self, text: str, about: object = None) -> None:
        """Say it in place of what was said `about` the same and is not told yet; an empty text only takes that back."""
        self._waiting.pop(about, None)
        if text and (about is not None or len(self._waiting) < MOST_SAID):
            self._waiting[object() if about is None else about] = text
            self._any.set()

    async def next(self) -> str:
        """What is to be told now."""
        while not self._waiting:
            self._any.clear()
            await self._any.wait()
        return self._waiting.pop(next(iter(self._waiting)))


class Call:
    """One call of one tool by one principal."""

    def __init__(
        self,
        runtime: Runtime,
        ctx: RequestContext,
        params: CallToolRequestParams,
        principal: Principal,
        context: Context,
        questions: Questions,
    ) -> None:
        self.runtime = runtime
        self.ctx = ctx
        self.params = params
        self.principal = principal
        self.context = context
        self._questions = questions
        self._declined = False
        self.kept: object = None
        """What was kept with the question that this call brings a yes to."""
        self.told_about: str = ""
        """The subject of the question that this call brings the answer to."""
        self._told: Answer | Unreadable | None = None
        self._asked_twice = False
        self._agreed: frozenset[About] = self._answer_brought()

    @property
    def store(self) -> GuardedStore:
        """The store as the caller may use it; once a person agreed to the change, it is not asked about again."""
        return self.runtime.store(self.principal, self.context, approved="change" in self._agreed)

    @property
    def is_approved(self) -> bool:
        """Whether a person agreed to what the call changes."""
        return "change" in self._agreed

    @property
    def was_declined(self) -> bool:
        """Whether a person was asked and did not agree."""
        return self._declined

    @property
    def can_ask(self) -> bool:
        """Whether the host can put a question to its user."""
        capabilities = self.ctx.session.client_capabilities
        if capabilities is None or (elicitation := capabilities.elicitation) is None:
            return False
        in_a_form = elicitation.form is not None or elicitation.url is None
        return in_a_form and (self._is_modern or self.ctx.session.can_send_request)

    async def agreed(self, question: str, about: About = "change") -> bool | None:
        """Whether a person agrees, asking about each once at most; None where nobody can be asked.

        A yes to the call is none to what it changes, whose reasons the person has not seen yet. Lines of
        `question` that hold what others wrote are made with `safe_line`.

        Raises:
            InputRequired: in the 2026-07-28 era, to end the call and have it come again with the answer.
        """
        if self._declined or about in self._agreed:
            return not self._declined
        if not self.can_ask:
            return None
        if await self._ask(question, about):
            self._agreed = frozenset((*self._agreed, about))
        else:
            self._declined = True
        return not self._declined

    async def agreed_within(self, question: str, keep: object) -> bool | None:
        """Whether a person agrees to what came up in the middle of the call; each time is a question of its own.

        Raises:
            InputRequired: in the 2026-07-28 era, to end the call and have it begin anew with `keep` as its `kept`.
        """
        if not self.can_ask:
            return None
        if self._is_modern:
            raise self._input_required(question, self._agreed, keep=keep)
        return (await self._elicited(question)).action == "accept"

    async def confirm(
        self, question: str, subject: str, *, again: bool, end: float, settled: Callable[[], Coroutine[Any, Any, None]]
    ) -> Answer | None:
        """A person's answer to a question that comes up in the middle of the call, about `subject`.

        None where nobody can be asked then, or they did not answer; once at most they are asked again because of what
        they gave. A dialogue of the host is closed at `end`, by the loop's clock, and once `settled` returns. `again`
        says that the call may begin anew.

        Raises:
            InputRequired: in the 2026-07-28 era, to end the call and have it begin anew with the answer.
        """
        if not self.can_ask:
            return None
        anew = f"{_UNREADABLE}\n{question}"
        if self._is_modern:
            told = self._told if self.told_about == subject else "unreadable"
            if told != "unreadable":
                return told
            if not again or (self.told_about == subject and self._asked_twice):
                return None
            if self.told_about == subject:
                raise self._input_required(anew, self._agreed, subject, keep=True, form=_OTHERWISE)
            raise self._input_required(question, self._agreed, subject, form=_OTHERWISE)
        for asked in (question, anew):
            if asyncio.get_running_loop().time() >= end:
                break
            answer = _answer(await self._elicited_before(end, settled(), asked))
            if answer != "unreadable":
                return answer
        return None

    @property
    def wants_progress(self) -> bool:
        """Whether the client asked to be told of progress."""
        meta = self.ctx.meta
        return meta is not None and meta.get("progressToken", meta.get("progress_token")) is not None

    @asynccontextmanager
    async def progressing(self, doing: str) -> AsyncGenerator[None]:
        """Report progress every second while the block runs, if the client asked for it."""
        async with progressing(self.ctx, doing):
            yield

    async def report(self, done: float, total: float | None, message: str) -> None:
        """Report progress now, if the client asked for it; `done` has to grow."""
        await self.ctx.session.report_progress(done, total, message)

    @asynccontextmanager
    async def telling(self, said: Said, doing: str) -> AsyncGenerator[None]:
        """The same, with what is `said` meanwhile as soon as it is."""
        async with _running(_tell(self.ctx, said, doing)):
            yield

    @property
    def _is_modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    def _answer_brought(self) -> frozenset[About]:
        """What the answer that came with the call agrees to, when it is one to a question that waits."""
        answer = (self.params.input_responses or {}).get(QUESTION)
        if not isinstance(answer, ElicitResult) or not (asked := self._questions.answered(self.params.request_state)):
            return frozenset()
        if asked.subject:
            self.told_about, self._told, self._asked_twice = asked.subject, _answer(answer), bool(asked.kept)
            return asked.about
        self._declined = answer.action != "accept"
        if self._declined:
            return frozenset()
        self.kept = asked.kept
        return asked.about

    async def _ask(self, question: str, about: About) -> bool:
        if self._is_modern:
            # The answer comes with a new call: it has to say again what was agreed to before.
            raise self._input_required(question, frozenset((*self._agreed, about)))
        return (await self._elicited(question)).action == "accept"

    def _input_required(
        self,
        question: str,
        about: frozenset[About],
        subject: str = "",
        keep: object = None,
        form: Mapping[str, Any] = _YES_OR_NO,
    ) -> InputRequired:
        asked = {"mode": "form", "message": question, "requestedSchema": form}
        name = self._questions.ask(self.principal.id, about, subject, keep)
        return InputRequired({QUESTION: {"method": "elicitation/create", "params": asked}}, name)

    async def _elicited(self, question: str, form: dict[str, Any] = _YES_OR_NO) -> ElicitResult:
        try:
            return await self.ctx.session.elicit_form(question, form, self.ctx.request_id)
        except MCPError as error:
            log.warning("the host could not ask its user: %s", error)
            return ElicitResult(action="cancel")

    async def _elicited_before(
        self, end: float, settled: Coroutine[Any, Any, None], question: str
    ) -> ElicitResult | None:
        """What a person said, unless they have not by `end`, or before it is settled."""
        asking, settling = asyncio.create_task(self._elicited(question, _OTHERWISE)), asyncio.create_task(settled)
        try:
            left = end - asyncio.get_running_loop().time()
            await asyncio.wait((asking, settling), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            settling.cancel()
            await asyncio.gather(asking, settling, return_exceptions=True)


def _answer(result: ElicitResult | None) -> Answer | Unreadable | None:
    """What a person said; None where they said nothing."""
    if result is None or result.action == "cancel":
        return None
    given = result.content or {}
    reason, arguments = (str(given.get(name) or "").strip() for name in ("reason", "arguments"))
    if result.action != "accept" or not arguments:
        return Answer(result.action == "accept", reason=reason)
    try:
        return Answer(True, msgspec.json.decode(arguments, type=dict[str, Any]), reason)
    except (msgspec.MsgspecError, RecursionError):
        return "unreadable"


@asynccontextmanager
async def progressing(ctx: RequestContext, doing: str) -> AsyncGenerator[None]:
    """Report progress on the request every second while the block runs, if its client asked for it."""
    async with _running(_tick(ctx, doing)):
        yield


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run `work` beside the block, and no longer."""
    beside = asyncio.create_task(work)
    try:
        yield
    finally:
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside


async def _tick(ctx: RequestContext, doing: str) -> None:
    seconds = 0.0
    while True:
        await ctx.session.report_progress(seconds, None, doing)
        await asyncio.sleep(TICK_SECONDS)
        seconds += TICK_SECONDS


async def _tell(ctx: RequestContext, said: Said, doing: str) -> None:
    number = 0
    while True:
        try:
            async with asyncio.timeout(TICK_SECONDS):
                message = await said.next()
        except TimeoutError:
            message = doing
        number += 1  # it has to grow
        await ctx.session.report_progress(float(number), None, message)


MOST_VALUE = 200
MOST_ARGUMENTS = 30


def shown(arguments: Mapping[str, Any]) -> str:
    """The arguments for a person to look at, one a line: single values first, and each shortened by itself.

    So neither the length of one nor the order of all, which are the caller's, hide another.
    """
    ordered = sorted(arguments.items(), key=lambda one: isinstance(one[1], (Mapping, list, tuple)))
    lines = [f"{_cut(name)}: {_cut(msgspec.json.encode(value).decode())}" for name, value in ordered[:MOST_ARGUMENTS]]
    if len(ordered) > MOST_ARGUMENTS:
        lines.append(f"… and {len(ordered) - MOST_ARGUMENTS} more arguments, not shown")
    return "\n".join(lines)


def _cut(text: str) -> str:
    told = text if len(text) <= MOST_VALUE else f"{text[:MOST_VALUE]}… ({len(text)} characters)"
    return safe_line(told)
