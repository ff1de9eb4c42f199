"""Calling: the one way any tool is called, whoever brings it.

A call goes name → arguments → policy → rate → the source, within time and size, and back. What a model can act on
comes back as `Result.error`; what is for whoever runs the call (a denial, an approval that is needed, a budget,
a lease) is raised. It must not know what a tool does, nor keep a journal: the engine does, with what it gets here.
"""

import asyncio
import difflib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cld.config import Tooling
from cld.errors import (
    AccessDenied,
    ApprovalRequired,
    BudgetExceeded,
    CldError,
    InvalidResource,
    LeaseLost,
    PolicyError,
    ToolFailed,
)
from cld.guard import Guard
from cld.policy import Context
from cld.principal import Principal
from cld.tools import Caller, OnProgress, Result, Source
from cld.tools.arguments import Checks
from cld.tools.output import MAX_LEVELS, limited, nests_deeper
from cld.tools.rates import Rates
from cld.tools.resources import AsSet
from cld.types import Failure, Tool
from cld.uri import ROOT, URI, make_uri, namespace_of, parse_prefix

log = logging.getLogger("cld.tools")

MAX_DEPTH = 5
"""How many tools may call one another in a row."""

MOST_NAMES = 3

AnsweredT = TypeVar("AnsweredT", bound=Result | None)

_RAISED = (AccessDenied, ApprovalRequired, BudgetExceeded, LeaseLost, PolicyError)
"""What is not the tool's failure and no model's to act on."""


def tool_uri(name: str) -> URI:
    """What policy is asked about when the tool `name` is called."""
    return make_uri(ROOT, "tool.Tool", name)


def _unheard(text: str) -> None:
    pass


class Calling:
    """All tools of all `sources`, of two with one name that of the earlier source."""

    def __init__(self, sources: Sequence[Source], guard_of: Callable[[Principal], Guard], tooling: Tooling) -> None:
        self._sources = tuple(sources)
        self._guard_of = guard_of
        self._tooling = tooling
        self._checks = Checks()
        self._rates = Rates(tooling.tool_rates, tooling.namespace_rates)

    @property
    def output_bytes(self) -> int:
        """How much a call may give."""
        return self._tooling.output_bytes

    def tools(self) -> list[Tool]:
        """All there are now, by source and in its order, those out of use included."""
        return [tool for tool, _ in self._found().values()]

    def offered(self, caller: Caller) -> list[Tool]:
        """Those the caller may call, in the same order, by one question to policy."""
        tools = [tool for tool in self.tools() if not tool.disabled]
        context = Context(tool="", task=caller.task, host=caller.host)
        allowed = self._guard_of(caller.principal).filter("call", [tool_uri(tool.name) for tool in tools], context)
        return [tool for tool, may_call in zip(tools, allowed, strict=True) if may_call]

    def problems(self) -> list[str]:
        """What is wrong with the sources right now."""
        problems = [problem for source in self._sources for problem in source.problems()]
        seen: dict[str, Tool] = {}
        for source in self._sources:
            for tool in source.tools():
                if (first := seen.setdefault(tool.name, tool)) is not tool:
                    places = f"{tool.origin or 'one source'} and in {first.origin or 'an earlier source'}"
                    problems.append(f"the tool {tool.name} is in {places}; the latter is used")
        return problems

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` when `tools` or `problems` changed; the function returned ends that."""
        ends = [source.on_change(tell) for source in self._sources]

        def end() -> None:
            for one in ends:
                one()

        return end

    async def aclose(self) -> None:
        """End all that the sources run."""
        for source in self._sources:
            await source.aclose()

    async def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress = _unheard
    ) -> Result:
        """Call the tool `name` for `caller`.

        `Result.error` says what a model can act on; its codes are `unknown_tool`, `invalid_argument`,
        `rate_limited`, `timed_out`, `crashed`, `output_too_large`, `bad_output`, `too_deep`, and those of tools
        themselves. When this is cancelled, what the call runs has ended before it returns.

        Raises:
            AccessDenied: policy says no.
            ApprovalRequired: it says yes once a person agrees; nothing was done yet.
            PolicyError, BudgetExceeded, LeaseLost: the same as for anything done here.
        """
        found = self._found().get(name)
        if found is None or found[0].disabled:
            return _failed("unknown_tool", self._unknown(name, caller))
        tool, source = found
        if caller.depth >= MAX_DEPTH:
            return _failed("too_deep", f"{name} was not called: tools called one another {MAX_DEPTH} times in a row")
        return await self._told(tool, self._call(tool, source, arguments, caller, progress), source)

    async def admit(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller) -> Result | None:
        """Whether `caller` may call a tool that somebody else runs: None, and it counts as called, or why not.

        As `call` up to where the tool would run, with the same errors; `tool` is none of the sources'.
        """
        return await self._told(tool, self._admitted(tool, arguments, caller))

    async def _told(
        self, tool: Tool, doing: Coroutine[Any, Any, AnsweredT], source: Source | None = None
    ) -> AnsweredT | Result:
        """What comes of it within the tool's time, or what a model can act on of how it failed."""
        try:
            return await self._timed(tool, doing, source)
        except ToolFailed as failed:
            return _failed(failed.kind, str(failed))
        except _RAISED:
            raise
        except CldError as error:
            return _failed(error.code, str(error))
        except Exception:  # a source is somebody else's code; what it raises ends the call and nothing more
            log.exception("the tool %s failed", tool.name)
            return _failed("internal", f"{tool.name} failed inside cld; its log says why")

    async def _call(
        self, tool: Tool, source: Source, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress
    ) -> Result:
        if (refused := await self._admitted(tool, arguments, caller)) is not None:
            return refused
        result = limited(await source.call(tool, arguments, caller, progress), self._tooling.output_bytes)
        return await self._checked(tool, result)

    async def _admitted(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller) -> Result | None:
        misfit = await self._misfit(tool, arguments)
        # Policy is asked first, so that who may not call learns nothing; what does not fit never reaches rules.
        self._allow(tool, arguments if misfit is None else None, caller)
        if misfit is None:
            self._rates.take(tool.name, namespace_of(_task_uri(caller)))
        return misfit

    async def _timed(self, tool: Tool, doing: Coroutine[Any, Any, AnsweredT], source: Source | None) -> AnsweredT:
        seconds = tool.time_limit or self._tooling.seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await doing
        except TimeoutError:
            if not limit.expired():  # one from within, which says nothing about this limit
                raise
            raise ToolFailed(
                f"{tool.name} took more than {seconds:g} seconds and was stopped; "
                f"ask for less, or have its time limit raised ({_limit_of(tool, source)})",
                kind="timed_out",
            ) from None

    def _allow(self, tool: Tool, arguments: Mapping[str, Any] | None, caller: Caller) -> None:
        """Have policy decide the call; arguments that do not fit are None."""
        context = Context(
            tool=tool.name,
            arguments=arguments or {},
            task=caller.task,
            host=caller.host,
            destructive=tool.annotations.destructive,
        )
        guard = self._guard_of(caller.principal)
        # Nobody is asked about a call that will not be made.
        guard.require("call", tool_uri(tool.name), context, approved=caller.approved or arguments is None)

    async def _misfit(self, tool: Tool, arguments: Mapping[str, Any]) -> Result | None:
        if (unusable := _unusable(arguments)) is not None:
            return _failed("invalid_argument", f"{tool.name} was not called: its arguments {unusable}")
        try:
            misfit = await self._checks.misfit(tool.input_schema, arguments)
        except InvalidResource as error:
            raise ToolFailed(f"{tool.name} cannot be called: its input {error}", kind="bad_schema") from error
        if misfit is None:
            return None
        where = f"its argument {misfit.field}: " if misfit.field else ""
        return _failed("invalid_argument", f"{tool.name} was not called: {where}{misfit.reason}")

    async def _checked(self, tool: Tool, result: Result) -> Result:
        """The result, when what it gave is what the tool says it gives."""
        if tool.output_schema is None or result.error is not None:
            return result
        try:
            misfit = await self._checks.misfit(tool.output_schema, result.data)
        except InvalidResource as error:
            raise ToolFailed(f"{tool.name} finished, but its output {error}", kind="bad_schema") from error
        if misfit is None:
            return result
        where = f"{misfit.field}: " if misfit.field else ""
        words = f"{tool.name} finished, but what it gave is not what it says it gives: {where}{misfit.reason}"
        return _failed("bad_output", words)

    def _unknown(self, name: str, caller: Caller) -> str:
        # Only from what the caller may call: a name is knowledge too.
        names = [tool.name for tool in self.offered(caller)]
        close = difflib.get_close_matches(name, names, MOST_NAMES) or names[:MOST_NAMES]
        hint = f"; there are for example {', '.join(close)}" if close else "; there is none that you may call"
        return f"there is no tool {name[:80]!r}{hint}"

    def _found(self) -> dict[str, tuple[Tool, Source]]:
        found: dict[str, tuple[Tool, Source]] = {}
        for source in self._sources:
            for tool in source.tools():
                found.setdefault(tool.name, (tool, source))
        return found


def _limit_of(tool: Tool, source: Source | None) -> str:
    """Where the time limit is set that bounds a call."""
    if tool.time_limit is None:
        return "tooling.seconds"
    if isinstance(source, AsSet) and source.limits(tool):
        return f"time_limit in {tool_uri(tool.name)}"
    return f"seconds of its @tool, or time_limit in {tool_uri(tool.name)}, which beats it"


def _task_uri(caller: Caller) -> URI:
    return parse_prefix(caller.task) if caller.task else ROOT


def _unusable(arguments: Mapping[str, Any]) -> str | None:
    """Why they cannot be given to anybody, whatever a schema says."""
    if nests_deeper(arguments, MAX_LEVELS):
        return f"nest deeper than {MAX_LEVELS} levels"
    try:
        msgspec.json.encode(arguments)
    except UnicodeEncodeError:
        return "have text in them that is no Unicode (lone surrogates)"
    return None


def _failed(code: str, message: str) -> Result:
    return Result(error=Failure(code, message))
