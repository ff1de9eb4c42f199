"""Plans are checked before any of it is made, and siblings say which of them can be worked."""

import pytest
from msgspec.structs import replace

from cld.errors import InvalidArgument
from cld.tasks.order import PlanLimits, blocked, check_plan, dependencies
from cld.types import Budget, Failure, Lease, Step, Task

NOW = "2026-11-21T11:00:00Z"
LATER = "2026-11-21T12:00:00Z"


def step(id: str, **fields: object) -> Step:
    return replace(Step(id, "do it"), **fields)


def refused(*steps: Step, **options: object) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check_plan(steps, **options)  # type: ignore[arg-type]
    return caught.value


def test_a_plan_that_can_be_carried_out_is_counted() -> None:
    plan = (
        step("read"),
        step("sum", after=("read",), inputs={"texts": {"from": "read"}}, when="texts.size() > 0", steps=(step("x"),)),
        step("say", inputs={"sum": {"from": "sum", "path": "parts[0].text"}}, when="? is it worth saying"),
    )
    assert check_plan(plan) == 4


def test_what_is_wrong_is_named_with_its_path() -> None:
    below = step("a", steps=(step("b"), step("c", after=("nope",))))
    assert refused(step("z"), below).field == "tasks[1].steps[1].after"
    assert refused(step("a", inputs={"t": {"from": "b"}})).field == "tasks[0].inputs.t.from"
    assert refused(step("a/b")).field == "tasks[0].id"
    assert refused(step("a"), step("A")).field == "tasks[1].id"
    assert refused(step("a", when="n >", inputs={"n": 1})).field == "tasks[0].when"
    assert refused(step("a", for_each="m", inputs={"n": []})).field == "tasks[0].for_each"
    assert refused(step("a", for_each="n", inputs={"n": [], "item": 1})).field == "tasks[0].inputs.item"
    assert refused(step("a", tools=("rm -rf",))).field == "tasks[0].tools"
    assert refused(step("a", purpose=" ")).field == "tasks[0].purpose"
    assert refused(step("a", time_limit=0.0)).field == "tasks[0].time_limit"
    assert refused(step("b"), step("a", inputs={"t": {"from": "b", "path": "x["}})).field == "tasks[1].inputs.t.path"
    assert refused(step("a"), siblings={"a": Task()}).field == "tasks[0].id"
    assert check_plan((step("b", after=("a",)),), siblings={"a": Task()}) == 1


def test_what_was_meant_as_a_reference_and_is_none_is_refused() -> None:
    error = refused(step("b"), step("a", inputs={"t": {"from": "b", "pth": "x"}}))
    assert error.field == "tasks[1].inputs.t" and "'pth'" in str(error) and "literal" in str(error)
    nested = step("a", steps=(step("b"), step("c", inputs={"t": {"from": "b", "path": "x", "or": 1}})))
    assert refused(nested).field == "tasks[0].steps[1].inputs.t"
    meant = {"letter": {"literal": {"from": "Ada", "to": "Bob"}}, "range": {"from": 1, "to": 3, "path": 2}}
    assert check_plan((step("a", inputs=meant),)) == 1


def test_no_subtask_is_called_as_what_its_list_makes() -> None:
    below = (step("other"), step("sum-x"))
    assert refused(step("sum", for_each="[1, 2]", steps=below)).field == "tasks[0].steps[1].id"
    assert check_plan((step("sum", steps=below),)) == 3


def test_a_cycle_is_named_through_after_and_inputs_alike() -> None:
    error = refused(step("a", after=("b",)), step("b", inputs={"x": {"from": "c"}}), step("c", after=("a",)))
    assert "a → b → c → a" in str(error)
    assert "a → a" in str(refused(step("a", after=("a",))))


def test_a_plan_too_deep_too_wide_or_too_long_is_refused_however_deep_it_is() -> None:
    deep = step("leaf")
    for _ in range(5_000):
        deep = step("n", steps=(deep,))
    assert "level 9" in str(refused(deep))
    assert "beside one another" in str(refused(*(step(f"s{n}") for n in range(4)), limits=PlanLimits(width=3)))
    wide = [step(f"s{n}", steps=(step("x"), step("y"))) for n in range(3)]
    assert "more than 8" in str(refused(*wide, limits=PlanLimits(total=8)))


def test_no_budget_is_above_those_over_it() -> None:
    nested = step("a", steps=(step("b", budget=Budget(tokens=11)),))
    assert refused(nested, budget=Budget(tokens=10)).field == "tasks[0].steps[0].budget.tokens"
    assert refused(step("a", budget=Budget(seconds=9)), budget=Budget(seconds=5)).field == "tasks[0].budget.seconds"
    assert refused(step("a", budget=Budget(money=float("nan")))).field == "tasks[0].budget.money"
    assert check_plan((nested,), budget=Budget(tokens=11)) == 2


def test_dependencies_are_those_it_comes_after_and_those_whose_outputs_it_needs() -> None:
    task = Task(after=("a",), inputs={"x": {"from": "b"}, "y": {"from": "a"}, "z": {"to": "c"}})
    assert dependencies(task) == ("a", "b")


def test_each_blocked_task_says_why() -> None:
    lease = Lease("host", 1, LATER)
    tasks = {
        "runs": Task(status="running", lease=lease, fence=1),
        "late": Task(status="running", lease=replace(lease, expires_at=NOW), fence=1),
        "after": Task(after=("runs",)),
        "asks": Task(status="waiting", waiting="approval"),
        "sleeps": Task(status="waiting", waiting="time", until=LATER),
        "slept": Task(status="waiting", waiting="time", until=NOW),
        "failed": Task(status="failed", error=Failure("x", "no network")),
        "never": Task(after=("failed",)),
        "lost": Task(after=("elsewhere",)),
        "unanswered": Task(status="waiting", waiting="approval", until=NOW),
        "done": Task(status="completed"),
        "next": Task(after=("done",), inputs={"x": {"from": "done"}}),
        "needs": Task(inputs={"x": {"from": "asks"}}),
        "supervises": Task(status="supervising"),
    }
    why = {id: found for id, task in tasks.items() if (found := blocked(task, tasks, NOW)) is not None}
    kinds = {id: reason.kind for id, reason in why.items()}
    assert kinds == {
        "runs": "lease",
        "after": "dependency",
        "asks": "approval",
        "sleeps": "time",
        "failed": "over",
        "never": "never",
        "lost": "gone",
        "done": "over",
        "needs": "dependency",
    }
    assert why["runs"].until == LATER and "host" in why["runs"].reason
    assert why["after"].by == ("runs",)
    assert "no network" in why["never"].reason
