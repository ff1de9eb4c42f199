"""Calling: the one way to call a tool, and every bound on it."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from policy_folder import Folder
from table_policy import ListJournal, Rule, TablePolicy
from tool_world import ADA, everything, world

from cld.config import Tooling
from cld.errors import AccessDenied, ApprovalRequired, BudgetExceeded, Conflict, PolicyError, ToolFailed
from cld.guard import Guard
from cld.policy import Policy
from cld.principal import parse_principal
from cld.tools import Begun, Caller, OnProgress, Result
from cld.tools.calling import MAX_DEPTH, Calling, tool_uri
from cld.tools.rates import Rates
from cld.types import Annotations, Failure, Grant, Made, Tool

pytestmark = pytest.mark.anyio

WRITER = Caller(parse_principal("assistant:writer", on_behalf_of=parse_principal("user:ada")))
NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@dataclass
class Table:
    """A source in memory; `does` is what a call does."""

    brings: list[Tool]
    does: Callable[[Mapping[str, Any]], Any] = lambda arguments: Result(arguments)
    called: list[str] = field(default_factory=list)

    def tools(self) -> Sequence[Tool]:
        return self.brings

    async def call(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        self.called.append(tool.name)
        result = self.does(arguments)
        return await result if asyncio.iscoroutine(result) else result

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def problems(self) -> Sequence[str]:
        return ()

    async def aclose(self) -> None:
        pass


def a_tool(name: str, **more: Any) -> Tool:
    return Tool(**{"name": name, "description": "D.", "input_schema": NUMBERS, **more})


def calling(
    *sources: Table, rule: Rule = everything, policy: Policy | None = None, journal: Any = None, **limits: Any
) -> Calling:
    asked, journal = policy or TablePolicy(rule), journal or ListJournal()
    return Calling(sources, lambda principal: Guard(principal, asked, journal), Tooling(**limits))


async def code_of(calls: Calling, name: str, arguments: Mapping[str, Any], caller: Caller = ADA) -> str:
    result = await calls.call(name, arguments, caller)
    return "" if result.error is None else result.error.code


async def test_what_fits_is_called_and_gives_its_data() -> None:
    table = Table([a_tool("add")])
    assert (await calling(table).call("add", {"n": 1}, ADA)).data == {"n": 1}


async def test_arguments_that_do_not_fit_are_told_with_their_place_and_reach_neither_tool_nor_rules() -> None:
    table, policy, journal = Table([a_tool("add")]), TablePolicy(everything), ListJournal()
    calls = calling(table, policy=policy, journal=journal)
    result = await calls.call("add", {"n": "one"}, ADA)
    assert result.error is not None and result.error.code == "invalid_argument"
    assert result.error.message == "add was not called: its argument n: 'one' is not of type 'integer'"
    assert table.called == [] and journal.lines[0][3].arguments == {}


async def test_an_unknown_tool_is_told_with_close_names_the_caller_may_call() -> None:
    table = Table([a_tool("weather_now"), a_tool("weather_secret"), a_tool("weather_old", disabled=True)])
    calls = calling(table, rule=lambda p, a, uri, m: "secret" not in uri)
    result = await calls.call("weather_nov", {}, ADA)
    assert result.error is not None and result.error.code == "unknown_tool"
    assert "weather_now" in result.error.message
    assert "secret" not in result.error.message and "old" not in result.error.message
    assert await code_of(calls, "weather_old", {"n": 1}) == "unknown_tool", "out of use is as if it were not there"


async def test_policy_decides_with_the_arguments_the_task_and_what_the_tool_says_of_itself() -> None:
    journal = ListJournal()
    tool = a_tool("add", annotations=Annotations(destructive=True))
    caller = Caller(ADA.principal, task="cld:common.Conversation.c/plan.Task.t", host="zed")
    await calling(Table([tool]), journal=journal).call("add", {"n": 1}, caller)
    (_, action, uri, context, *_) = journal.lines[0]
    assert (action, uri) == ("call", "cld:tool.Tool.add")
    assert (context.tool, context.arguments, context.task, context.host) == ("add", {"n": 1}, caller.task, "zed")
    assert context.destructive is True


async def test_what_policy_denies_is_raised_and_not_called_whether_or_not_the_arguments_fit() -> None:
    table = Table([a_tool("add")])
    calls = calling(table, rule=lambda *_: False)
    for arguments in ({"n": 1}, {"n": "one"}):
        with pytest.raises(AccessDenied, match=r"not allowed to call cld:tool\.Tool\.add"):
            await calls.call("add", arguments, ADA)
    assert table.called == []


async def test_everyone_an_assistant_acts_for_must_be_allowed() -> None:
    table = Table([a_tool("add")])
    for who in ("assistant:writer", "user:ada"):
        calls = calling(table, rule=lambda p, *_, who=who: p.id != who)
        assert calls.offered(WRITER) == []
        with pytest.raises(AccessDenied):
            await calls.call("add", {"n": 1}, WRITER)


async def test_a_call_that_needs_approval_is_not_made_without_and_made_with_it() -> None:
    policy = TablePolicy(everything, obligations={"call": {"require_approval": {"reason": "it deletes"}}})
    table = Table([a_tool("add")])
    calls = calling(table, policy=policy)
    with pytest.raises(ApprovalRequired, match="it deletes"):
        await calls.call("add", {"n": 1}, ADA)
    assert table.called == []
    assert await code_of(calls, "add", {"n": 1}, replace(ADA, approved=True)) == ""


async def test_the_shipped_rules_want_approval_for_tools_that_destroy(tmp_path: Path) -> None:
    policy = Folder(tmp_path).open()
    table = Table([a_tool("wipe", annotations=Annotations(destructive=True)), a_tool("add", annotations=SAFE)])
    calls = calling(table, policy=policy)
    local = Caller(parse_principal("user:local"))
    assert [tool.name for tool in calls.offered(local)] == ["wipe", "add"]
    assert calls.offered(Caller(parse_principal("user:stranger"))) == []
    with pytest.raises(ApprovalRequired, match="the tool wipe is destructive"):
        await calls.call("wipe", {"n": 1}, local)
    assert await code_of(calls, "add", {"n": 1}, local) == ""
    with pytest.raises(AccessDenied):
        await calls.call("add", {"n": 1}, Caller(parse_principal("user:stranger")))


SAFE = Annotations(destructive=False)


async def test_what_is_offered_is_one_question_and_in_the_order_of_sources() -> None:
    journal = ListJournal()
    calls = calling(Table([a_tool("b"), a_tool("a")]), Table([a_tool("a"), a_tool("c")]), journal=journal)
    assert [tool.name for tool in calls.offered(ADA)] == ["b", "a", "c"]
    assert len(journal.lines) == 1
    assert calls.problems() == ["the tool a is in one source and in an earlier source; the latter is used"]


async def test_of_two_tools_of_one_name_the_earlier_source_is_called() -> None:
    first, second = Table([a_tool("a")]), Table([a_tool("a")])
    await calling(first, second).call("a", {"n": 1}, ADA)
    assert (first.called, second.called) == (["a"], [])


async def test_rates_bound_each_tool_and_each_namespace_and_say_when_there_is_room_again() -> None:
    tables = Table([a_tool("a"), a_tool("b")])
    calls = calling(tables, tool_rates={"a": "2/hour"}, namespace_rates={"*": "4/hour", "free": "1000/hour"})
    north = replace(ADA, task="cld:cld.Namespace.north/plan.Task.t")
    assert [await code_of(calls, "a", {"n": 1}, north) for _ in range(3)] == ["", "", "rate_limited"]
    assert [await code_of(calls, "b", {"n": 1}, north) for _ in range(3)] == ["", "", "rate_limited"]
    assert tables.called == ["a", "a", "b", "b"]
    result = await calls.call("b", {"n": 1}, north)
    assert result.error is not None
    assert "too many calls: the namespace north may have 4/hour (tooling.namespace_rates)" in result.error.message
    assert "try again in" in result.error.message
    south, free = (replace(ADA, task=f"cld:cld.Namespace.{name}/plan.Task.t") for name in ("south", "free"))
    assert await code_of(calls, "b", {"n": 1}, south) == "", "each namespace has its own"
    assert [await code_of(calls, "b", {"n": 1}, free) for _ in range(6)] == [""] * 6


async def test_what_is_refused_or_does_not_fit_uses_up_no_rate() -> None:
    calls = calling(Table([a_tool("a")]), tool_rates={"*": "1/day"})
    assert await code_of(calls, "a", {}) == "invalid_argument"
    assert await code_of(calls, "a", {"n": 1}) == ""


async def test_a_tool_that_somebody_else_runs_is_bounded_up_to_there() -> None:
    journal, theirs = ListJournal(), a_tool("theirs", origin="client")
    policy = TablePolicy(everything, obligations={"call": {"require_approval": {"reason": "dear"}}})
    calls = calling(policy=policy, journal=journal, tool_rates={"theirs": "2/hour"})
    approved = replace(WRITER, approved=True)

    async def code(arguments: Mapping[str, Any], tool: Tool = theirs) -> str:
        refused = await calls.admit(tool, arguments, approved)
        return "" if refused is None or refused.error is None else refused.error.code

    assert await code({"n": "bad"}) == "invalid_argument"
    assert await code({}, a_tool("theirs", input_schema={"type": "nonsense"})) == "bad_schema"
    with pytest.raises(ApprovalRequired, match="dear"):
        await calls.admit(theirs, {"n": 1}, WRITER)
    assert [await code({"n": n}) for n in range(3)] == ["", "", "rate_limited"]
    with pytest.raises(AccessDenied):
        await calling(rule=lambda *_: False).admit(theirs, {"n": 1}, approved)
    assert calls.tools() == []


def test_a_bucket_fills_again_over_time() -> None:
    now = [0.0]
    rates = Rates({"a": "2/minute"}, {"*": "3/minute"}, lambda: now[0])
    rates.take("a", "")
    rates.take("a", "")
    with pytest.raises(ToolFailed, match=r"the tool a may have 2/minute .* try again in 30\.0 seconds"):
        rates.take("a", "")
    now[0] = 29.9
    with pytest.raises(ToolFailed, match=r"try again in 0\.1 seconds"):
        rates.take("a", "")
    now[0] = 30.0
    rates.take("a", "")
    rates.take("b", "")
    now[0] = 30.1
    with pytest.raises(ToolFailed, match="calls outside namespaces may have 3/minute"):
        for _ in range(3):
            rates.take("b", "")
    now[0] = 10_000.0
    for _ in range(2):
        rates.take("a", "")
    with pytest.raises(ToolFailed):
        rates.take("a", "")


async def test_a_call_that_takes_too_long_is_cancelled_and_told() -> None:
    ended = asyncio.Event()

    async def hang() -> Result:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        return Result()

    calls = calling(Table([a_tool("a", time_limit=0.05)], lambda _: hang()))
    result = await calls.call("a", {"n": 1}, ADA)
    assert result.error is not None and result.error.code == "timed_out" and ended.is_set()


async def test_cancelling_a_call_is_no_failure_of_the_tool() -> None:
    calls = calling(Table([a_tool("a")], lambda _: asyncio.sleep(600)))
    task = asyncio.create_task(calls.call("a", {"n": 1}, ADA))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_output_that_is_not_what_the_tool_says_it_gives_is_a_failure() -> None:
    tool = a_tool("a", output_schema={"type": "object", "required": ["m"]})
    result = await calling(Table([tool])).call("a", {"n": 1}, ADA)
    assert (
        result.error is not None and result.error.code == "bad_output" and "'m' is a required" in result.error.message
    )
    assert result.data is None


async def test_output_over_the_limit_is_cut_or_refused_whoever_brings_the_tool() -> None:
    text = calling(Table([a_tool("a")], lambda _: Result(None, "x" * 5000)), output_bytes=1024)
    result = await text.call("a", {"n": 1}, ADA)
    assert len(result.text) <= 1024 and result.text.endswith(
        "of 5000 bytes; at most 1024 are taken (tooling.output_bytes)]"
    )
    data = calling(Table([a_tool("a")], lambda _: Result({"x": "x" * 5000}, "short")), output_bytes=1024)
    assert await code_of(data, "a", {"n": 1}) == "output_too_large"
    both = calling(Table([a_tool("a")], lambda _: Result({"x": 1}, "x" * 5000)), output_bytes=1024)
    result = await both.call("a", {"n": 1}, ADA)
    assert result.data == {"x": 1} and "[cut: " in result.text


async def test_errors_of_a_source_are_results_but_for_those_that_are_the_engines() -> None:
    def raising(error: Exception) -> Calling:
        def fail(_: object) -> Result:
            raise error

        return calling(Table([a_tool("a")], fail))

    conflict = Conflict("changed meanwhile", uri="cld:a.B.c", current=None)
    assert await code_of(raising(conflict), "a", {"n": 1}) == "conflict"
    assert await code_of(raising(ToolFailed("no", kind="odd")), "a", {"n": 1}) == "odd"
    result = await raising(RuntimeError("/secret/path")).call("a", {"n": 1}, ADA)
    assert result.error is not None and result.error.code == "internal" and "secret" not in result.error.message
    for error in (
        AccessDenied("write", "cld:a.B.c", ["no"]),
        ApprovalRequired("write", "cld:a.B.c", {}),
        BudgetExceeded("gone", what="calls"),
        PolicyError("no policy"),
    ):
        with pytest.raises(type(error)):
            await raising(error).call("a", {"n": 1}, ADA)


async def test_a_tool_with_a_faulty_schema_is_told_and_not_called() -> None:
    table = Table([a_tool("a", input_schema={"type": "nonsense"})])
    assert await code_of(calling(table), "a", {"n": 1}) == "bad_schema" and table.called == []


async def test_a_schema_that_takes_too_long_is_bounded_by_the_time_limit() -> None:
    # Each part is checked twice by the one above it. It does end, because its thread is waited for in the end.
    doubling = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(14)}
    schema = {"$defs": {**doubling, "d14": {"type": "object"}}, "$ref": "#/$defs/d0"}
    table = Table([a_tool("a", input_schema=schema, time_limit=0.1)])
    assert await code_of(calling(table), "a", {"n": 1}) == "timed_out" and table.called == []


async def test_an_offer_of_real_tools_says_what_the_tree_needs_to_know(tmp_path: Path) -> None:
    text = '@tool(read_only=True)\ndef one() -> int:\n    "One."\n    return 1\n'
    async with world(tmp_path, {"one.py": text}) as tools:
        (tool,) = tools.calling.offered(ADA)
        assert tool.annotations.read_only and tool.origin == "tools/one.py" and tool_uri(tool.name).endswith("one")


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = {"jsonschema", "mcp", "watchdog", "fsspec", "wasmtime", "numpy", "http.client"}
    program = f"import sys, cld.tools.calling, cld.tools.python; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


async def test_what_a_call_sets_going_beside_it_is_not_within_it() -> None:
    gone_on = asyncio.get_running_loop().create_future()

    def on(arguments: Mapping[str, Any]) -> Result:
        async def later(n: int) -> None:
            code = await code_of(calls, "begin", {"n": n})
            if code or n == 20:
                gone_on.set_result(code)

        if arguments["n"] < 20:
            running.append(asyncio.create_task(later(arguments["n"] + 1)))
        return Result(arguments)

    running: list[asyncio.Task[None]] = []
    calls = calling(Table([a_tool("begin")], on))
    assert await code_of(calls, "begin", {"n": 0}) == ""
    assert await asyncio.wait_for(gone_on, 10) == "", "work that begins other work may go on for ever"
    await asyncio.gather(*running)


async def test_calls_within_calls_are_bounded_by_how_deep_they_are() -> None:
    calls = calling(Table([a_tool("one")]))
    assert await code_of(calls, "one", {"n": 1}, replace(ADA, depth=MAX_DEPTH - 1)) == ""
    assert await code_of(calls, "one", {"n": 1}, replace(ADA, depth=MAX_DEPTH)) == "too_deep"


async def test_failures_are_short_whoever_brings_the_tool() -> None:
    failing = calling(Table([a_tool("fail")], lambda _: Result(error=Failure("no code\n", "x" * 10**6))))
    failure = (await failing.call("fail", {"n": 1}, ADA)).error
    assert failure == Failure("failed", "x" * 4000)


def test_an_agreement_is_to_the_very_arguments_that_were_seen() -> None:
    granted = Grant("pay", {"sum": 1, "to": {"a": 1, "b": 2}})
    for other in ({"sum": True}, {"sum": 1.0}, {"sum": 1}, {"sum": 1, "to": {"a": 1, "b": True}}):
        assert Begun([granted]).grant("pay", other) is None
        assert Begun((), [Made("pay", granted.arguments, 1)]).before("pay", other, 1) is None
    begun = Begun([granted], [Made("pay", granted.arguments, 1)])
    again = {"to": {"b": 2, "a": 1}, "sum": 1}
    assert begun.before("pay", again, 2) is None and begun.before("pay", again, 1) is not None
    assert begun.grant("pay", again) is granted and begun.grant("pay", again) is None
