"""Working processes over one tree, to be killed: run as a program it forks one for each line it reads.

Everything is imported once, by the process that forks, so that one that was killed is replaced within
milliseconds. Each has an engine with a model that is a function and tools that write down what they do, in a
file that is only appended to; what they do follows from the purposes of tasks, so all processes agree.
"""

import asyncio
import gc
import json
import os
import random
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from tool_world import world
from work_world import Annotations, FunctionTools, answer, is_judging, is_planning, judged, working

from cld.config import Tooling
from cld.models import Ask, Completion
from cld.resource import timestamp
from cld.tools import Caller
from cld.types import Budget, Step, Usage, Wish
from cld.work.requests import begin


class Orders(msgspec.Struct, frozen=True):
    """What a working process is to do: work the tree in `folder`, and begin the trees of these seeds first."""

    folder: str
    seed: int
    lease_seconds: float = 0.5
    trees: tuple[int, ...] = ()
    slow: bool = False
    """With tools that really run, in processes that have families, and take ten minutes."""


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who is killed is nobody's zombie
    gc.freeze()
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            asyncio.run(_work(msgspec.json.decode(line, type=Orders)))
            os._exit(0)
        _say(forked=pid)


async def _work(orders: Orders) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    chance = random.Random(orders.seed)
    folder = Path(orders.folder)
    async with AsyncExitStack() as stack:
        tools: Any = _tools(folder / "executions", chance)
        if orders.slow:
            files = {"slow.py": SLOW.replace("PIDS", repr(str(folder / "pids")))}
            place_of_tools = folder / f"tools{os.getpid()}"
            place_of_tools.mkdir()
            tooling = Tooling(workers=4, memory_bytes=1 << 32)
            tools = (await stack.enter_async_context(world(place_of_tools, files, tooling))).calling
        settings = {"lease_seconds": orders.lease_seconds, "time_limit": 600.0, "attempts": 1000}
        work = working(folder, _model(chance), tools, bound=Usage(tokens=10), **settings)
        place = await stack.enter_async_context(work)
        for seed in orders.trees:
            shape = shape_of(seed)
            budget = Budget(tokens=5000, calls=400)
            begun = await begin(place.engine, place.store, shape[0], shape[1], budget=budget)
            _say(begun=begun.task, pid=os.getpid())
        await place.engine.resume()
        _say(works=os.getpid())
        await ended.wait()
    _say(ended=os.getpid())


def _say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def shape_of(seed: int) -> tuple[str, tuple[Step, ...]]:
    """A tree of tasks: three levels, with order, conditions, lists, budgets; or only words, to be planned."""
    chance = random.Random(seed)
    if chance.random() < 0.2:
        return f"Plan it, {seed}", ()

    def uses() -> str:
        return "Use " + " ".join(chance.choices(["look", "note", "pay"], k=chance.randint(1, 3)))

    def level(depth: int) -> tuple[Step, ...]:
        steps: list[Step] = []
        for number in range(chance.randint(2, 3)):
            id = f"s{number}"
            after = (steps[-1].id,) if steps and chance.random() < 0.5 else ()
            inputs = {"before": {"from": after[0]}} if after and chance.random() < 0.5 else {}
            if depth < 3 and chance.random() < 0.5:
                budget = Budget(tokens=2000, calls=100) if chance.random() < 0.3 else None
                steps.append(Step(id, "Have it done", after=after, steps=level(depth + 1), budget=budget))
            elif chance.random() < 0.15:
                each = {**inputs, "names": ["a", "b", "c"]}
                steps.append(Step(id, uses(), after=after, for_each="inputs.names", inputs=each))
            else:
                steps.append(Step(id, uses(), after=after, inputs=inputs, priority=chance.randint(0, 2)))
        if chance.random() < 0.3:
            steps.append(Step("no", "Use pay", when="inputs.x > 3", inputs={"x": 1}))
        return tuple(steps)

    return "", level(1)


def _model(chance: random.Random) -> Any:
    async def model(ask: Ask) -> Completion:
        await asyncio.sleep(chance.random() * 0.02)
        if is_planning(ask):
            steps = [_filled(ask, {"id": id, "purpose": f"Use {tool}"}) for id, tool in (("p", "pay"), ("q", "look"))]
            return answer("", value={"direct": False, "reason": "two", "steps": steps}, tokens=10)
        if is_judging(ask):
            assert ask.schema is not None
            there = [id for id in ask.schema["properties"]["cites"]["items"]["enum"] if id]
            if "p" in there and "fix" not in there and "steps" in ask.schema["properties"]:
                return judged(ask, enough=False, steps=[_filled(ask, {"id": "fix", "purpose": "Use note"})])
            return judged(ask, without=["no"])
        wanted = next(line for line in ask.messages[1].text.splitlines() if line.startswith("Task: "))
        if "Think slowly" in wanted:
            await asyncio.sleep(600)
        tools = wanted.removeprefix("Task: Use").split()
        done = sum(1 for message in ask.messages if message.role == "tool")
        if done < len(tools):
            return answer("", Wish(f"k{done}", tools[done], {"number": done}), tokens=10)
        return answer(f"did {len(tools)}", tokens=10)

    return model


def _filled(ask: Ask, step: dict[str, Any]) -> dict[str, Any]:
    """A step with every key that the schema requires."""
    assert ask.schema is not None
    for name, about in ask.schema["$defs"]["step"]["properties"].items():
        step.setdefault(name, "" if about.get("type") == "string" else [])
    return step


SLOW = """
@tool(read_only=True)
def slow(number: int) -> str:
    "Take long, with a child, and a grandchild that has left the family."
    def note(pid):
        file = os.open(PIDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{pid}\\n".encode())
        os.close(file)
    note(os.getpid())
    note(subprocess.Popen(["sleep", "600"]).pid)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(os.getpid())
            time.sleep(600)
        os._exit(0)
    time.sleep(600)
    return "never"
"""


def _tools(log: Path, chance: random.Random) -> FunctionTools:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(what: str, name: str, arguments: Mapping[str, Any], caller: Caller) -> None:
        line = {
            "what": what,
            "tool": name,
            "task": caller.task,
            "number": arguments["number"],
            "pid": os.getpid(),
            "approved": caller.approved,
            "at": timestamp(),
        }
        os.write(file, json.dumps(line).encode() + b"\n")

    async def run(name: str, arguments: Mapping[str, Any], caller: Caller) -> Any:
        write("began", name, arguments, caller)
        await asyncio.sleep(chance.random() * 0.2)
        write("ended", name, arguments, caller)
        return f"{name} was done"

    kinds = {
        "look": Annotations(read_only=True, idempotent=True),
        "note": Annotations(idempotent=True),
        "pay": Annotations(),
    }
    tools = {name: (lambda arguments, caller, name=name: run(name, arguments, caller)) for name in kinds}
    return FunctionTools(tools, kinds)


if __name__ == "__main__":
    main()
