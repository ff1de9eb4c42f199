"""What tasks get to work with: literals, outputs of their siblings, and the values `for_each` goes through.

A value of `inputs` is a literal, or `{"from": "<id>"}` for the output of a sibling, or with `path` a part of it. What
would be taken for a reference and is none is written `{"literal": …}`; whatever comes out of other tasks is written
so, for no output may make itself a reference. Pure, and bounded in size.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from cld.errors import InvalidArgument
from cld.tasks.conditions import EACH, MAX_LIST, evaluate, path_expression
from cld.tasks.order import reference_of
from cld.types import Step, Task

MAX_BYTES = 1024 * 1024
"""Bound on the resolved inputs of a task, as JSON; a resource's file takes four times as much."""

MAX_DEPTH = 32
"""Bound on how deep they nest; a resource's file takes twice as much."""

_PLAIN_PATH = re.compile(r"(?:\.?[A-Za-z_]\w*|\[\d{1,9}\])(?:\.[A-Za-z_]\w*|\[\d{1,9}\])*")
_PART = re.compile(r"([A-Za-z_]\w*)|\[(\d+)\]")


def resolve(inputs: Mapping[str, Any], tasks: Mapping[str, Task], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The inputs with outputs in place of references to them; `tasks` are the siblings by id.

    The output of a task that was skipped is null, and so is every path into it.

    Raises:
        InvalidArgument: naming the input, when what it refers to is not there or not completed, when its path leads
            nowhere, or when all are too large.
    """
    resolved = {name: _resolved(value, f"inputs.{name}", tasks) for name, value in inputs.items()}
    _check_size(resolved, max_bytes)
    return resolved


def literal(value: Any) -> Any:
    """`value` so that `resolve` gives it back, whatever it looks like."""
    match value:
        case {"from": _} | {"literal": _}:
            return {"literal": value}
        case _:
            return value


def expand(step: Step, values: Sequence[Any], inputs: Mapping[str, Any], *, limit: int = MAX_LIST) -> tuple[Step, ...]:
    """The subtasks of a step with `for_each`: `<id>-1`, `<id>-2`, …, one for each value.

    `inputs` are those of the step, resolved; each gets them all, its value as `item` and its number, from 1, as
    `index`. Order, condition and budget stay with the step itself, which waits for all of them.

    Raises:
        InvalidArgument: when there are more than `limit` values.
    """
    if len(values) > limit:
        raise InvalidArgument(
            f"for_each of {step.id} gives {len(values)} values; at most {limit} are allowed", field="for_each"
        )
    shared = {name: literal(value) for name, value in inputs.items() if name not in EACH}
    return tuple(
        replace(
            step,
            id=f"{step.id}-{index}",
            after=(),
            when="",
            for_each="",
            inputs={**shared, "item": literal(value), "index": index},
            budget=None,
        )
        for index, value in enumerate(values, 1)
    )


def collect(id: str, tasks: Mapping[str, Task]) -> list[Any]:
    """The outputs of what `expand` made of the step `id`, in order; null where one was skipped.

    Raises:
        InvalidArgument: when one of them is not completed, naming it.
    """
    numbered: list[tuple[int, str]] = []
    for name in tasks:
        number = name.removeprefix(f"{id}-")
        if number != name and number.isascii() and number.isdecimal():
            numbered.append((int(number), name))
    return [_output(name, f"outputs of {id}", tasks) for _, name in sorted(numbered)]


def _resolved(value: Any, field: str, tasks: Mapping[str, Task]) -> Any:
    if (source := reference_of(value)) is not None:
        output = _output(source, field, tasks)
        path = value.get("path", "")
        return _part(output, path, field) if path and not tasks[source].skipped else output
    match value:
        case {"literal": meant, **rest} if not rest:
            return meant
        case _:
            return value


def _output(id: str, field: str, tasks: Mapping[str, Task]) -> Any:
    task = tasks.get(id)
    if task is None:
        raise InvalidArgument(f"{field} is the output of {id}, which is not there", field=field)
    if task.status != "completed":
        raise InvalidArgument(f"{field} is the output of {id}, which is {task.status} and not completed", field=field)
    return task.output


def _part(output: Any, path: str, field: str) -> Any:
    if _PLAIN_PATH.fullmatch(path) is None or re.match(r"output\b", path):
        return evaluate(path_expression(path), {"output": output}, field=f"{field}.path")
    part = output
    for found in _PART.finditer(path):
        match part:
            case dict() if found[1] in part:
                part = cast("dict[str, Any]", part)[found[1]]
            case list() if found[2] and int(found[2]) < len(cast("list[Any]", part)):
                part = cast("list[Any]", part)[int(found[2])]
            case _:
                raise InvalidArgument(
                    f"{field}.path {path!r} leads nowhere: {_has(part)} at {found[0]!r}", field=f"{field}.path"
                )
    return part


def _has(value: Any) -> str:
    match value:
        case dict():
            keys = list(cast("dict[str, Any]", value))
            return f"there is only {', '.join(keys[:10])}" if keys else "there is an empty object"
        case list():
            return f"there is a list of {len(cast('list[Any]', value))}"
        case _:
            return f"there is {'null' if value is None else 'a ' + type(value).__name__}"


def _check_size(resolved: Mapping[str, Any], max_bytes: int) -> None:
    sizes: dict[str, int] = {}
    for name, value in resolved.items():
        field = f"inputs.{name}"
        try:
            data = msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidArgument(f"{field} is no JSON: {error}", field=field) from None
        sizes[name] = len(data)
        if _deeper(value, MAX_DEPTH):
            raise InvalidArgument(f"{field} nests deeper than {MAX_DEPTH}; flatten it", field=field)
    if sum(sizes.values()) > max_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InvalidArgument(
            f"the inputs have {sum(sizes.values())} bytes; at most {max_bytes} are allowed, and {largest} alone has "
            f"{sizes[largest]}: take a part of it by `path`",
            field=f"inputs.{largest}",
        )


def _deeper(value: Any, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(cast("dict[str, Any]", value).values())
        case list() | tuple():
            return list(cast("list[Any]", value))
        case _:
            return []
