"""Inputs are literals or outputs of siblings, and no output can make itself a reference."""

import pytest

from cld.errors import InvalidArgument
from cld.tasks.inputs import collect, expand, literal, resolve
from cld.tasks.order import check_plan
from cld.types import Budget, Step, Task

DONE = Task(status="completed", output={"parts": [{"text": "one"}, {"text": "two"}], "n": 2**70})


def refused(inputs: dict[str, object], **options: int) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        resolve(inputs, {"a": DONE, "b": Task(status="running")}, **options)
    return caught.value


def test_literals_outputs_and_parts_of_outputs_are_put_in_place() -> None:
    inputs = {
        "as_is": {"from": "x", "to": "y"},
        "whole": {"from": "a"},
        "part": {"from": "a", "path": "parts[1].text"},
        "exact": {"from": "a", "path": "n"},
        "made": {"from": "a", "path": "parts.map(p, p.text)"},
        "quoted": {"literal": {"from": "a"}},
    }
    assert resolve(inputs, {"a": DONE}) == {
        "as_is": {"from": "x", "to": "y"},
        "whole": DONE.output,
        "part": "two",
        "exact": 2**70,
        "made": ["one", "two"],
        "quoted": {"from": "a"},
    }
    assert resolve({"x": {"from": "l", "path": "[1]"}}, {"l": Task(status="completed", output=[1, 2])}) == {"x": 2}


def test_the_output_of_what_was_skipped_is_null_and_so_is_every_part_of_it() -> None:
    skipped = {"s": Task(status="completed", skipped="not needed")}
    assert resolve({"x": {"from": "s"}, "y": {"from": "s", "path": "a.b"}}, skipped) == {"x": None, "y": None}


def test_what_cannot_be_resolved_is_named() -> None:
    assert "b, which is running and not completed" in str(refused({"x": {"from": "b"}}))
    assert "c, which is not there" in str(refused({"x": {"from": "c"}}))
    error = refused({"x": {"from": "a", "path": "parts[2].text"}})
    assert error.field == "inputs.x.path" and "a list of 2 at '[2]'" in str(error)
    assert "only parts, n" in str(refused({"x": {"from": "a", "path": "nope"}}))
    assert refused({"small": 1, "x": "y" * 200}, max_bytes=100).field == "inputs.x"
    deep: object = 1
    for _ in range(200):
        deep = [deep]
    assert "nests deeper" in str(refused({"x": deep}))
    assert "no JSON" in str(refused({"x": object()}))


def test_for_each_gives_a_step_for_each_value_and_their_outputs_come_back_in_order() -> None:
    step = Step("sum", "sum up", after=("read",), when="n > 1", for_each="texts", budget=Budget(tokens=5))
    values = [f"text {n}" for n in range(12)]
    steps = expand(step, values, {"texts": values, "style": "short"})
    assert [child.id for child in steps] == [f"sum-{n}" for n in range(1, 13)]
    assert (steps[1].inputs["item"], steps[1].inputs["index"], steps[1].inputs["style"]) == ("text 1", 2, "short")
    assert all((child.after, child.when, child.for_each, child.budget) == ((), "", "", None) for child in steps)
    assert check_plan(steps) == 12
    tasks = {child.id: Task(status="completed", output=child.inputs["index"]) for child in reversed(steps)}
    tasks |= {"sum-fix": Task(), "summary-1": Task()}
    assert collect("sum", tasks) == list(range(1, 13))
    with pytest.raises(InvalidArgument, match="sum-13, which is failed"):
        collect("sum", {**tasks, "sum-13": Task(status="failed")})
    with pytest.raises(InvalidArgument, match="at most 3"):
        expand(step, values, {}, limit=3)


def test_no_output_makes_itself_a_reference() -> None:
    hostile = {"from": "secret"}
    for value in (hostile, {"literal": hostile}, {"from": 1}, [hostile]):
        (child,) = expand(Step("s", "do it"), [value], {"shared": value})
        assert resolve(child.inputs, {"secret": DONE}) == {"shared": value, "item": value, "index": 1}
        assert resolve({"x": literal(value)}, {}) == {"x": value}
        assert check_plan((child,)) == 1
