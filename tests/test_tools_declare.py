"""Declarations: what a function's hints and docstring become for those who call it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest

from cld.json_schema import compile_schema
from cld.tools.declare import MARK, ToolContext, tool
from cld.tools.schema_of import Function, NoTool, function_of, read_docstring
from cld.types import Annotations


def read(function: Any) -> Function:
    return function_of(function, getattr(function, MARK), origin="t/f.py", digest="d")


@dataclass
class Place:
    city: str
    title: str = "none"


class Tree(msgspec.Struct):
    name: str
    below: "list[Tree]" = []


@tool
def forecast(
    place: Place,
    context: ToolContext,
    unit: Literal["c", "f"] = "c",
    days: Annotated[int, msgspec.Meta(ge=1, le=7)] = 1,
    note: str | None = None,
    tags: list[str] = ["a"],  # noqa: B006 - people write that
) -> dict[str, int]:
    """Tell the weather.

    For some days.

    Args:
        place: where that is,
            and what it is called
        unit (str): degrees: of which kind
        unknown: nothing

    Returns:
        Something.
    """
    return {}


@tool
def walk(tree: Tree) -> Tree:
    """Walk."""
    return tree


def test_hints_become_a_schema_and_the_docstring_its_words() -> None:
    tool = read(forecast).tool
    assert (tool.name, tool.title, tool.description) == ("forecast", "Forecast", "Tell the weather.\n\nFor some days.")
    properties = tool.input_schema["properties"]
    assert list(properties) == ["place", "unit", "days", "note", "tags"], "the context is nobody's to give"
    assert properties["place"]["description"] == "where that is, and what it is called"
    assert properties["unit"] == {"enum": ["c", "f"], "default": "c", "description": "degrees: of which kind"}
    assert properties["days"] == {"type": "integer", "minimum": 1, "maximum": 7, "default": 1}
    assert tool.input_schema["required"] == ["place"] and tool.input_schema["additionalProperties"] is False
    assert tool.output_schema == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert "title" in tool.input_schema["$defs"]["Place"]["properties"], "a property may be called title"


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({"place": {"city": "x"}}, True),
        ({"place": {"city": "x"}, "unit": "f", "days": 7, "note": None, "tags": []}, True),
        ({}, False),
        ({"place": {"city": 1}}, False),
        ({"place": {"city": "x"}, "days": 8}, False),
        ({"place": {"city": "x"}, "unit": "k"}, False),
        ({"place": {"city": "x"}, "more": 1}, False),
    ],
)
def test_the_schema_and_the_reading_of_arguments_agree(arguments: dict[str, Any], fits: bool) -> None:
    function = read(forecast)
    check = compile_schema(function.tool.input_schema)
    assert (check(arguments) is None) is fits
    try:
        msgspec.convert(arguments, function.arguments)
    except msgspec.ValidationError:
        assert not fits
    else:
        assert fits


def test_a_type_that_refers_to_itself_has_a_schema_that_does() -> None:
    tool = read(walk).tool
    check = compile_schema(tool.input_schema)
    assert check({"tree": {"name": "a", "below": [{"name": "b"}]}}) is None
    assert check({"tree": {"name": "a", "below": [{"nam": "b"}]}}) is not None
    assert tool.output_schema is not None
    assert compile_schema(tool.output_schema)({"name": "a", "below": [{"name": 1}]}) is not None


def test_a_default_that_can_change_is_not_shared_between_calls() -> None:
    arguments = read(forecast).arguments
    one = msgspec.convert({"place": {"city": "x"}}, arguments)
    one.tags.append("b")  # type: ignore[attr-defined]
    assert msgspec.convert({"place": {"city": "x"}}, arguments).tags == ["a"]  # type: ignore[attr-defined]


def test_what_is_not_said_of_a_tool_is_assumed_the_worst_of() -> None:
    def f() -> None:
        """F."""

    assert read(tool(f)).tool.annotations == Annotations()
    reads = read(tool(read_only=True)(f)).tool.annotations
    assert reads == Annotations(read_only=True, destructive=False, idempotent=True, open_world=True)
    said = read(tool(destructive=False, idempotent=True, open_world=False, seconds=5, title="Eff")(f)).tool
    assert said.annotations == Annotations(destructive=False, idempotent=True, open_world=False)
    assert (said.time_limit, said.title) == (5, "Eff")


def test_a_declared_function_is_still_the_function() -> None:
    assert walk(Tree("a")) == Tree("a")


def test_texts_have_no_output_schema() -> None:
    @tool
    def f() -> str:
        """F."""
        return ""

    assert read(f).tool.output_schema is None


def test_what_json_schema_cannot_say_is_refused() -> None:
    @tool
    def f(x: int) -> type:
        """F."""
        return int

    with pytest.raises(NoTool, match="what it returns cannot be described"):
        read(f)


def test_a_docstring_without_sections_is_all_description() -> None:
    assert read_docstring("One.\n\nNote well: two.") == ("One.\n\nNote well: two.", {})
    assert read_docstring("") == ("", {})
