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
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

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
TICK_SECONDS = 1.0

_YES_OR_NO: dict[str, Any] = {"type": "object", "properties": {}}
"""Accepting says yes; there is nothing to fill in."""


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


@dataclass
class Questions:
    """The questions that wait for an answer; each is answered once, in time, or not at all."""

    _until: OrderedDict[str, float] = field(default_factory=OrderedDict[str, float])

    def ask(self) -> str:
        """A new question's name."""
        while len(self._until) >= MAX_QUESTIONS:
            self._until.popitem(last=False)
        name = secrets.token_urlsafe(16)
        self._until[name] = time.monotonic() + ANSWER_SECONDS
        return name

    def answered(self, name: str | None) -> bool:
        """Whether `name` was waiting; from now on it is not."""
        return name is not None and self._until.pop(name, 0.0) > time.monotonic()


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
        self._agreed = self._answer_brought()

    @property
    def store(self) -> GuardedStore:
        """The store as the caller may use it; once a person agreed to the call, approval is not asked for again."""
        return self.runtime.store(self.principal, self.context, approved=self._agreed is True)

    @property
    def can_ask(self) -> bool:
        """Whether the host can put a question to its user."""
        capabilities = self.ctx.session.client_capabilities
        if capabilities is None or (elicitation := capabilities.elicitation) is None:
            return False
        in_a_form = elicitation.form is not None or elicitation.url is None
        return in_a_form and (self._is_modern or self.ctx.session.can_send_request)

    async def agreed(self, question: str) -> bool | None:
        """Whether a person agrees to this call, asking once at most; None where nobody can be asked.

        Raises:
            InputRequired: in the 2026-07-28 era, to end the call and have it come again with the answer.
        """
        if self._agreed is None and self.can_ask:
            self._agreed = await self._ask(question)
        return self._agreed

    @asynccontextmanager
    async def progressing(self, doing: str) -> AsyncGenerator[None]:
        """Report progress every second while the block runs, if the client asked for it."""
        async with progressing(self.ctx, doing):
            yield

    @property
    def _is_modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    def _answer_brought(self) -> bool | None:
        """The answer that came with the call, when it is one to a question that waits."""
        answer = (self.params.input_responses or {}).get(QUESTION)
        if not isinstance(answer, ElicitResult) or not self._questions.answered(self.params.request_state):
            return None
        return answer.action == "accept"

    async def _ask(self, question: str) -> bool:
        if self._is_modern:
            asked = {"mode": "form", "message": question, "requestedSchema": _YES_OR_NO}
            raise InputRequired({QUESTION: {"method": "elicitation/create", "params": asked}}, self._questions.ask())
        try:
            result = await self.ctx.session.elicit_form(question, _YES_OR_NO, self.ctx.request_id)
        except MCPError as error:
            log.warning("the host could not ask its user, which counts as no: %s", error)
            return False
        return result.action == "accept"


@asynccontextmanager
async def progressing(ctx: RequestContext, doing: str) -> AsyncGenerator[None]:
    """Report progress on the request every second while the block runs, if its client asked for it."""
    ticks = asyncio.create_task(_tick(ctx, doing))
    try:
        yield
    finally:
        ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticks


async def _tick(ctx: RequestContext, doing: str) -> None:
    seconds = 0.0
    while True:
        await ctx.session.report_progress(seconds, None, doing)
        await asyncio.sleep(TICK_SECONDS)
        seconds += TICK_SECONDS


def shortened(arguments: Mapping[str, Any], most: int = 300) -> str:
    """The arguments as JSON for a person to look at, cut to `most` characters."""
    text = msgspec.json.encode(arguments).decode()
    return text if len(text) <= most else f"{text[:most]}…"
