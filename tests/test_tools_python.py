"""Python files as tools: what is written in a folder is what there is, and what is wrong is said with file and line."""

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from table_policy import TablePolicy
from tool_world import ADA, World, eventually, everything, world, write

from cld.config import Tooling
from cld.tools.output import MAX_LEVELS
from cld.tools.python import Place, PythonTools

pytestmark = pytest.mark.anyio

GREET = '@tool\ndef greet(name: str) -> str:\n    "Greet."\n    return "hello " + name\n'


def names(tools: World) -> list[str]:
    return [tool.name for tool in tools.source.tools()]


async def test_a_function_in_a_file_is_a_tool_that_says_where_it_comes_from(tmp_path: Path) -> None:
    async with world(tmp_path, {"greet.py": GREET, "_shared.py": "x = 1\n", "notes.txt": "no tool"}) as tools:
        (tool,) = tools.source.tools()
        assert (tool.name, tool.title, tool.origin, len(tool.digest)) == ("greet", "Greet", "tools/greet.py", 32)
        assert (await tools.call("greet", {"name": "Ada"})).text == "hello Ada"
        assert tools.source.problems() == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@tool\ndef f(x: int) -> int\n    return x\n", r"bad\.py, line 5: SyntaxError: "),
        ("x = 1\ny = 1 / 0\n", r"bad\.py, line 5: ZeroDivisionError: division by zero"),
        ("import not_there\n", r"bad\.py, line 4: ModuleNotFoundError: No module named 'not_there'"),
        ("sys.exit(2)\n", r"bad\.py, line 4: SystemExit: 2"),
        ("os._exit(7)\n", r"bad\.py: when it was loaded its process ended by itself, with code 7"),
        ("x = 1\n", r"bad\.py: it has no function marked @tool"),
        ("@tool\ndef f(x) -> int:\n    'F.'\n", r"bad\.py, line 4: f: its parameter x has no type hint"),
        ("@tool\ndef f(x: int) -> int:\n    return x\n", r"bad\.py, line 4: f has no docstring"),
        ("@tool\ndef f(*x: int) -> int:\n    'F.'\n", r"line 4: f: its parameter \*x: int cannot be given by name"),
        ("@tool\ndef f(x: 'Missing') -> int:\n    'F.'\n", r"f: its type hints cannot be read: NameError"),
        ("@tool\ndef f(x: type) -> int:\n    'F.'\n", r"f: its parameters cannot be described in JSON Schema"),
        ("@tool(name='a b')\ndef f() -> int:\n    'F.'\n", r"'a b' is no name for a tool"),
        (
            "@tool(name='a')\ndef f() -> int:\n    'F.'\n\n@tool\ndef a() -> int:\n    'A.'\n",
            r"line 8: .*two tools named a",
        ),
        ("@tool(seconds=0)\ndef f() -> int:\n    'F.'\n", r"f: seconds is 0; it is more than 0"),
    ],
)
async def test_a_broken_file_is_told_with_its_line_and_leaves_the_rest(tmp_path: Path, text: str, words: str) -> None:
    async with world(tmp_path, {"bad.py": text, "greet.py": GREET}) as tools:
        (problem,) = tools.source.problems()
        assert re.search(words, problem), problem
        assert names(tools) == ["greet"] and (await tools.call("greet", {"name": "Ada"})).error is None


async def test_a_change_of_the_file_changes_the_tool_and_a_broken_one_is_not_kept_running(tmp_path: Path) -> None:
    async with world(tmp_path, {"greet.py": GREET}) as tools:
        told: list[int] = []
        end = tools.source.on_change(lambda: told.append(1))
        before = tools.source.tools()[0].digest
        assert (await tools.call("greet", {"name": "Ada"})).text == "hello Ada"
        await tools.source.look()
        assert told == [], "nothing changed"
        await tools.rewrite("greet.py", GREET.replace("hello", "good day"))
        assert (await tools.call("greet", {"name": "Ada"})).text == "good day Ada"
        assert tools.source.tools()[0].digest != before and len(told) == 1
        await tools.rewrite("greet.py", GREET.replace("return", "retrun"))
        assert names(tools) == [] and "SyntaxError" in tools.source.problems()[0] and len(told) == 2
        gone = await tools.call("greet", {"name": "Ada"})
        assert gone.error is not None and gone.error.code == "unknown_tool"
        await tools.rewrite("greet.py", GREET.replace("hello", "back"))
        assert (await tools.call("greet", {"name": "Ada"})).text == "back Ada" and tools.source.problems() == ()
        end()
        (tools.folder / "greet.py").unlink()
        await tools.source.look()
        assert names(tools) == [] and len(told) == 3


async def test_changes_are_noticed_without_being_asked(tmp_path: Path) -> None:
    async with world(tmp_path, {"greet.py": GREET}, poll_seconds=0.01) as tools:
        changed = asyncio.Event()
        tools.source.on_change(changed.set)
        write(tools.folder, "more.py", GREET.replace("greet", "wave"))
        async with asyncio.timeout(20):
            await changed.wait()
        assert names(tools) == ["greet", "wave"]


async def test_a_file_that_is_slow_to_load_holds_up_neither_the_other_tools_nor_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cld.tools.python.PATIENCE_SECONDS", 0.01)
    gate = tmp_path / "gate"
    os.mkfifo(gate)  # opening it waits for the other end
    waits = f"open({str(gate)!r}).close()\n" + GREET.replace("greet", "late")
    async with world(tmp_path, {"greet.py": GREET, "late.py": waits}, Tooling(workers=2), poll_seconds=0.01) as tools:
        async with asyncio.timeout(20):
            while names(tools) != ["greet"]:
                await asyncio.sleep(0.01)
        (problem,) = tools.source.problems()
        assert "late.py: it has not been loaded yet" in problem
        assert (await tools.call("greet", {"name": "Ada"})).error is None
        await asyncio.to_thread(lambda: gate.open("w").close())
        async with asyncio.timeout(20):
            while names(tools) != ["greet", "late"]:
                await asyncio.sleep(0.01)
        assert tools.source.problems() == ()


async def test_a_file_that_others_import_is_loaded_anew_with_them(tmp_path: Path) -> None:
    text = "from _words import word\n" + GREET.replace('"hello "', "word")
    async with world(tmp_path, {"_words.py": "word = 'hi '\n", "greet.py": text}) as tools:
        assert (await tools.call("greet", {"name": "Ada"})).text == "hi Ada"
        await tools.rewrite("_words.py", "word = 'ho '\n")
        assert (await tools.call("greet", {"name": "Ada"})).text == "ho Ada"


SLOW = """
@tool
def slow(folder: str) -> str:
    "Slow."
    open(folder + "/begun", "w").close()
    while not os.path.exists(folder + "/flag"): time.sleep(0.01)
    return "old"
"""


async def test_a_call_that_runs_while_its_file_changes_is_finished_as_it_began(tmp_path: Path) -> None:
    async with world(tmp_path, {"slow.py": SLOW}) as tools:
        task = asyncio.create_task(tools.call("slow", {"folder": str(tmp_path)}))
        await eventually((tmp_path / "begun").exists)
        await tools.rewrite("slow.py", SLOW.replace('"old"', '"new"'))
        (tmp_path / "flag").touch()
        assert (await task).text == "old"
        assert (await tools.call("slow", {"folder": str(tmp_path)})).text == "new"


async def test_a_tool_that_was_changed_between_being_looked_at_and_called_is_not_called(tmp_path: Path) -> None:
    async with world(tmp_path, {"greet.py": GREET}, Tooling(idle_seconds=0.001)) as tools:
        # Not looked at: what is known of the tool is what was there before.
        while tools.source._pool._idle:  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.01)
        write(tools.folder, "greet.py", GREET.replace("hello", "bye"))
        result = await tools.call("greet", {"name": "Ada"})
        assert result.error is not None and result.error.code == "changed"


async def test_a_name_in_two_files_belongs_to_neither_and_both_are_told(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": GREET, "b.py": GREET, "c.py": GREET.replace("greet", "wave")}) as tools:
        assert names(tools) == ["wave"]
        (problem,) = tools.source.problems()
        assert f"greet is in {tools.folder}/a.py and {tools.folder}/b.py; neither is used" in problem
        (tools.folder / "b.py").unlink()
        await tools.source.look()
        assert names(tools) == ["greet", "wave"] and tools.source.problems() == ()


async def test_a_folder_that_is_missing_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    source = await PythonTools.open([Place(tmp_path / "none")], Tooling())
    try:
        assert source.tools() == () and "none cannot be read: No such file" in source.problems()[0]
        write(tmp_path / "none", "greet.py", GREET)
        await source.look()
        assert [tool.name for tool in source.tools()] == ["greet"]
    finally:
        await source.aclose()


async def test_only_named_files_of_a_place_count(tmp_path: Path) -> None:
    write(tmp_path / "t", "a.py", GREET)
    write(tmp_path / "t", "b.py", GREET.replace("greet", "wave"))
    source = await PythonTools.open([Place(tmp_path / "t", frozenset({"b.py"}))], Tooling())
    assert [tool.name for tool in source.tools()] == ["wave"]
    await source.aclose()


CALLING = (
    GREET
    + """
@tool
def twice(name: str, context: ToolContext) -> list[str]:
    "Greet twice."
    context.progress("first")
    one = context.call("greet", {"name": name})
    context.progress("second")
    return [one, context.call("greet", {"name": one})]

@tool
async def many(context: ToolContext) -> list[str]:
    "Greet at once."
    import asyncio
    return list(await asyncio.gather(*(context.acall("greet", {"name": str(n)}) for n in range(5))))

@tool
def attempt(name: str, arguments: dict[str, str], context: ToolContext) -> str:
    "Try."
    try:
        return str(context.call(name, arguments))
    except ToolError as error:
        return f"{error.code}: {error}"

@tool
def deeper(level: int, context: ToolContext) -> int:
    "Call itself."
    try:
        return context.call("deeper", {"level": level + 1})
    except ToolError as error:
        assert error.code == "too_deep", error
        return level

@tool
def straggler(context: ToolContext) -> str:
    "Call when the call is over."
    import threading
    def late():
        while not over: time.sleep(0.001)
        try:
            context.call("greet", {"name": "late"})
        except ToolError as error:
            said.append(error.code)
    threading.Thread(target=late).start()
    return "done"

over, said = [], []

@tool
def look_back() -> list[str]:
    "Tell what was said."
    over.append(1)
    while not said: time.sleep(0.001)
    return said
"""
)


async def test_a_tool_calls_another_as_the_same_caller_and_tells_how_far_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": CALLING}, Tooling(workers=1)) as tools:
        result = await tools.call("twice", {"name": "Ada"})
        assert result.data == ["hello Ada", "hello hello Ada"] and tools.progress == ["first", "second"]
        asked = [(line[0].id, line[2]) for line in tools.journal.lines]
        assert asked == [("user:ada", f"cld:tool.Tool.{name}") for name in ("twice", "greet", "greet")]
        assert (await tools.call("many")).data == [f"hello {n}" for n in range(5)]


async def test_what_policy_denies_the_caller_a_tool_cannot_do_for_them(tmp_path: Path) -> None:
    def rule(principal: Any, action: Any, uri: str, meta: Any) -> bool:
        return not uri.endswith("greet")

    async with world(tmp_path, {"a.py": CALLING}, rule=rule) as tools:
        told = await tools.call("attempt", {"name": "greet", "arguments": {"name": "Ada"}})
        assert told.text.startswith("access_denied: not allowed to call cld:tool.Tool.greet")


async def test_a_nested_call_is_checked_like_any_other(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": CALLING}) as tools:
        told = await tools.call("attempt", {"name": "greet", "arguments": {"nam": "Ada"}})
        assert told.text.startswith("invalid_argument: greet was not called")
        told = await tools.call("attempt", {"name": "great", "arguments": {}})
        assert told.text.startswith("unknown_tool: there is no tool 'great'; there are for example greet")


async def test_an_approval_of_a_call_is_none_of_the_calls_it_makes(tmp_path: Path) -> None:
    policy = TablePolicy(everything, obligations={"call": {"require_approval": {"reason": "it is so"}}})
    async with world(tmp_path, {"a.py": CALLING}, policy=policy) as tools:
        caller = replace(ADA, approved=True)
        told = await tools.call("attempt", {"name": "greet", "arguments": {"name": "Ada"}}, caller)
        assert told.text.startswith("approval_required: ")


async def test_tools_call_one_another_so_deep_and_no_deeper_even_with_one_worker(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": CALLING}, Tooling(workers=1)) as tools:
        assert (await tools.call("deeper", {"level": 1})).data == 5
        assert (await tools.call("deeper", {"level": 1})).data == 5, "the depth is of one call, not of all"


async def test_a_thread_that_outlives_its_call_reaches_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, {"a.py": CALLING}) as tools:
        assert (await tools.call("straggler")).text == "done"
        assert (await tools.call("look_back")).data == ["over"]


async def test_the_example_of_the_manual_works(tmp_path: Path) -> None:
    manual = (Path(__file__).parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", manual, re.DOTALL)
    assert example is not None
    async with world(tmp_path, {"shop.py": example[1]}) as tools:
        assert tools.source.problems() == ()
        assert (await tools.call("price", {"fruit": "pear", "count": 3})).data == {"EUR": 1.5}
        assert (await tools.call("order", {"fruits": ["pear", "apple"]})).text == "ordered"
        assert tools.progress == ["0 of 2", "1 of 2"]
        failed = await tools.call("price", {"fruit": "plum"})
        assert failed.error is not None and failed.error.message == "there is no plum; there are apple, pear"


AWKWARD = """
from typing import Any

@tool
def deep(levels: int, given: list[Any] | None = None) -> Any:
    "Nest."
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value

@tool
def fail(code: Any, times: int = 1) -> str:
    "Fail."
    raise ToolError("why " * times, code=code * times)
"""


async def test_what_nests_too_deep_is_refused_either_way_and_long_before_anything_breaks(tmp_path: Path) -> None:
    async with world(tmp_path, {"awkward.py": AWKWARD}) as tools:
        assert (await tools.call("deep", {"levels": MAX_LEVELS})).error is None
        for levels in (MAX_LEVELS + 1, 900, 985, 5000):
            failure = (await tools.call("deep", {"levels": levels})).error
            assert failure is not None, levels
            assert failure.code == ("failed" if levels == 5000 else "output_too_large"), failure
            given: list[Any] = []
            for _ in range(levels):
                given = [given]
            failure = (await tools.call("deep", {"levels": 1, "given": given})).error
            assert failure is not None and failure.code == "invalid_argument" and "nest" in failure.message


async def test_arguments_that_are_no_unicode_are_told_and_not_given(tmp_path: Path) -> None:
    async with world(tmp_path, {"awkward.py": AWKWARD}) as tools:
        failure = (await tools.call("deep", {"levels": 1, "given": ["\ud800"]})).error
        assert failure is not None and failure.code == "invalid_argument" and "surrogates" in failure.message


@pytest.mark.parametrize(
    ("code", "times", "told"),
    [("no_fruit", 1, "no_fruit"), ("cancelled", 1, "failed"), ("x", 99999, "failed"), (7, 1, "7")],
)
async def test_what_a_failure_says_is_bounded(tmp_path: Path, code: Any, times: int, told: str) -> None:
    async with world(tmp_path, {"awkward.py": AWKWARD}) as tools:
        failure = (await tools.call("fail", {"code": code, "times": times})).error
        assert failure is not None and failure.code == told and len(failure.message) <= 2000
