"""The tool `graph_query`: what a host sees of it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from cli_process import PROJECT
from graph_world import World, a_world

from cld.errors import InvalidArgument
from cld.guard import GuardedStore
from cld.index.graph import MAKING, Answer
from cld.server.graph_tools import graph_tools
from cld.uri import URI

pytestmark = pytest.mark.anyio


async def called(world: World, **arguments: Any) -> Any:
    """The wire result of a call, checked against the tool's own schemas."""

    async def ask(store: GuardedStore, sparql: str, prefix: URI) -> Answer:
        return await world.graph.query(store, sparql, prefix)

    (tool,) = graph_tools(ask)
    jsonschema.validate(arguments, dict(tool.input_schema))
    call: Any = SimpleNamespace(store=world.guarded(), progressing=Nothing)
    result = (await tool.handle(call, tool.parse(arguments))).wire()
    assert tool.output_schema is not None
    jsonschema.validate(result["structuredContent"], dict(tool.output_schema))
    return result


class Nothing:
    """Reports no progress."""

    def __init__(self, doing: str) -> None: ...

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


async def test_a_call_answers_with_columns_and_rows_and_a_table_as_text(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources") as world:
        await world.put("cld:common.Text.a", title="One\ntwo")
        await world.catch_up()
        result = await called(world, sparql="SELECT ?s ?t ?n { ?s vocab:title ?t }", prefix="cld:///common.Text.a")
        assert result["structuredContent"] == {
            "columns": ["s", "t", "n"],
            "rows": [["cld:common.Text.a", "One\ntwo", None]],
        }
        assert result["content"][0]["text"] == "s\tt\tn\ncld:common.Text.a\tOne two\t"
        nothing = await called(world, sparql="SELECT ?s { ?s <x:y> ?t }")
        assert nothing["structuredContent"]["rows"] == [] and nothing["content"][0]["text"] == "no rows"


async def test_an_answer_before_all_of_the_tree_is_in_the_graph_says_so(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources") as world:
        await world.put("cld:common.Text.a", title="One")
        early = await called(world, sparql="SELECT ?t { ?s vocab:title ?t }")
        assert early["structuredContent"] == {"columns": ["t"], "rows": [], "incomplete": True, "notes": [MAKING]}
        assert MAKING in early["content"][0]["text"]
        await world.catch_up()
        later = await called(world, sparql="SELECT ?t { ?s vocab:title ?t }")
        assert later["structuredContent"] == {"columns": ["t"], "rows": [["One"]]}


async def test_a_mistake_names_its_field_and_place(tmp_path: Path) -> None:
    async with a_world(tmp_path / "resources") as world:
        with pytest.raises(InvalidArgument) as error:
            await called(world, sparql="SELECT")
        assert error.value.details() == {"field": "sparql", "line": 1, "column": 7}


def test_a_server_loads_no_engine_and_no_parser() -> None:
    program = (
        "import sys, cld.index.graph, cld.index.graph_keeper, cld.server.graph_tools\n"
        "heavy = ('pyoxigraph', 'rdflib', 'yaml', 'selectolax', 'sqlite3', 'numpy', 'cld.index.linked_h')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done
