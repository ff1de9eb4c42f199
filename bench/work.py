"""A tree of 1,000 tasks against DBOS, and what cld adds to a call of a model.

    python bench/work.py [--rounds N] [--others N] [--turns N] [--dir FOLDER]

The tree has three levels: a task, 27 below it, and 36 below each of these, the whole plan given. Its model answers
at once; everything else is as shipped: the runtime, its policy and decision log, events, durable writes, ledgers,
16 tasks at a time. A task asks the model once, and one with subtasks once more to judge them. Rate is tasks by the
time from the message to the answer; `claimable` is from when a task could be claimed to when it was completed, which
in a tree of which a thousand become claimable at once is mostly waiting, and `alone` is the same of tasks that have
the engine to themselves. `among N others` is the same tree in a store that holds so many resources besides. Each run
is in a process of its own, in a tree of its own; what is compared is run in turns, and each figure is the median of
the rounds. Reach: 300 tasks a second, the same among 100,000 others, and ahead of DBOS.

DBOS runs the same shape on SQLite, its default for development: a workflow that starts 27, each of which has 36 run
and waits for them; each task is a workflow with one step, and each with subtasks has one step more. Twice: with the
36 enqueued on a queue of 16 at a time, as its manual does it, and started directly, without any bound, which is
quicker; cld is compared with the quicker one. Its settings are its own defaults, and are printed, as is what SQLite
flushes: `synchronous` 2 is a flush at each commit, as cld does at each write.

`overhead` is a task whose model asks for one call in every turn, of a tool that reads and runs in this process: the
time from the model's answer to its next question without the time of the tool, so all of journal, policy, budget and
dialogue: five durable puts, one after the other; what one takes alone is printed with it. With `router` the
model is the shipped router with litellm over a server, in a process of its own, that speaks OpenAI's protocol: the time
of a turn without the server's own, and beside it what of that litellm takes. Reach: p50 under 10 ms, p99 under 25 ms.

DBOS is needed (`pip install "dbos>=3.4,<4"`); without it its lines are left out.
"""

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cld.config import Models, Settings, Tier
from cld.models.library import load
from cld.models.router import Router
from cld.policy import Context
from cld.resource import Draft
from cld.runtime import Runtime
from cld.store import ANY_VERSION
from cld.store.local import LocalStore
from cld.tools import Result
from cld.tools.calling import Calling
from cld.types import Annotations, Step, Tool, Usage, Wish
from cld.uri import parse_uri
from cld.work.engine import Engine
from cld.work.requests import begin, wait
from cld.work.world import World

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))
from openai_server import Call, OpenAI, Reply  # noqa: E402 - it lies beside the tests
from work_world import FunctionModel, FunctionTools, answer, is_judging, judged  # noqa: E402 - it lies beside the tests

GROUPS, LEAVES = 27, 36
TASKS = 1 + GROUPS + GROUPS * LEAVES
TURNS = 15
AT_ONCE = 16
ALONE = 50
RATE = 300
P50, P99 = 10.0, 25.0  # ms


Makes = Callable[[Any], Any]

# What runs in processes of its own; each prints one line of JSON.


@asynccontextmanager
async def engine_over(folder: str, model: Makes, tools: Makes) -> AsyncGenerator[tuple[Any, Any]]:
    """An engine over the tree in `folder` and a store to ask of it, both as shipped, but for model and tools."""

    settings = Settings(root=f"{folder}/resources", policies=str(PROJECT / "policies"))
    assert settings.work.tasks_at_once == AT_ONCE
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(Runtime.open(settings))
        world = World(
            settings=settings.work,
            store=runtime.store,
            hear=lambda store, types: runtime.hear(store, types=types),
            model=model(runtime),
            calling=tools(runtime),
        )
        engine = await stack.enter_async_context(Engine.open(world, runtime.principal))
        yield engine, runtime.store(runtime.principal, Context(tool="plan"))


def instant_model() -> Any:

    def answers(ask: Any) -> Any:
        if is_judging(ask):
            return replace(judged(ask, "all of it"), usage=Usage(tokens=20))
        return answer("done", tokens=20)

    return FunctionModel(answers, bound=Usage(tokens=1000))


def steps_of(groups: int, leaves: int) -> tuple[Any, ...]:

    return tuple(
        Step(f"g{g}", f"Group {g}", steps=tuple(Step(f"l{n}", f"Leaf {n} of group {g}") for n in range(leaves)))
        for g in range(groups)
    )


class Claimables:
    """Listens to an engine for how long leaves take from when they can be claimed to when they are completed."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self.took: list[float] = []

    def heard(self, node: Any, _said: str) -> None:
        if node.task.status == "supervising" and node.task.fence == 1:
            for child in node.children.values():
                self._since.setdefault(child.uri, time.perf_counter())
        elif node.is_over and not node.children and (since := self._since.pop(node.uri, None)) is not None:
            self.took.append(time.perf_counter() - since)


async def run_tree(folder: str, others: int) -> dict[str, Any]:

    if others:
        await fill(folder, others)
    async with engine_over(folder, lambda _: instant_model(), lambda _: FunctionTools()) as (engine, store):

        async def worked(steps: tuple[Any, ...]) -> tuple[float, list[float]]:
            claimables = Claimables()
            end = engine.on_change(claimables.heard)
            started = time.perf_counter()
            begun = await begin(engine, store, "", steps)
            task = await wait(engine, begun.task, 600)
            whole = time.perf_counter() - started
            end()
            assert task.status == "completed", task.error
            return whole, claimables.took

        await worked(steps_of(2, 2))  # warms up
        whole, took = await worked(steps_of(GROUPS, LEAVES))
        assert len(took) == GROUPS * LEAVES, len(took)
        alone = [(await worked((Step("only", f"Task {n}"),)))[1][0] for n in range(ALONE)]
    return {"whole": whole, "claimable": took, "alone": alone}


async def fill(folder: str, others: int) -> None:
    """So many messages in conversations of a hundred: one as the store writes it, and the rest like it."""

    store = await LocalStore.open(Path(folder, "resources"))
    uri = "cld:common.Conversation.c0/common.Message.m0"
    await store.put(Draft(parse_uri("cld:common.Conversation.c0"), {"title": "One of many"}), by="user:local")
    await store.put(Draft(parse_uri(uri), {"role": "user", "text": "Said before. " * 20}), by="user:local")
    await store.aclose()
    root = Path(folder, "resources")
    text, talk = (root / f"{uri}.json").read_text(), (root / "cld:common.Conversation.c0.json").read_text()
    for number in range(1, others):
        conversation, message = f"c{number // 100}", f"m{number % 100}"
        place = root / f"cld:common.Conversation.{conversation}"
        if number % 100 == 0:
            place.mkdir()
            place.with_name(f"{place.name}.json").write_text(talk.replace("c0", conversation))
        own = text.replace("Conversation.c0/", f"Conversation.{conversation}/").replace(
            "Message.m0", f"Message.{message}"
        )
        (place / f"common.Message.{message}.json").write_text(own.replace('"id": "m0"', f'"id": "{message}"'))


def run_dbos(folder: str, *, queued: bool) -> dict[str, Any]:
    from dbos import DBOS  # noqa: PLC0415 - it need not be installed
    from sqlalchemy import text  # noqa: PLC0415 - likewise

    dbos = DBOS(
        config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "log_level": "ERROR"}
    )
    since: dict[str, float] = {}
    took: list[float] = []

    @DBOS.step()
    def ask(name: str) -> str:
        return f"done: {name}"

    @DBOS.workflow()
    def leaf(name: str) -> str:
        answer = ask(name)
        took.append(time.perf_counter() - since[name])
        return answer

    @DBOS.workflow()
    def group(name: str, leaves: int) -> str:
        handles = []
        for number in range(leaves):
            child = f"{name}.{number}"
            since[child] = time.perf_counter()
            handles.append(DBOS.enqueue_workflow("leaves", leaf, child) if queued else DBOS.start_workflow(leaf, child))
        return ask(" ".join(handle.get_result() for handle in handles))

    @DBOS.workflow()
    def tree(groups: int, leaves: int) -> str:
        handles = [DBOS.start_workflow(group, f"{groups}.{number}", leaves) for number in range(groups)]
        return ask(" ".join(handle.get_result() for handle in handles))

    DBOS.launch()
    DBOS.register_queue("leaves", worker_concurrency=AT_ONCE)
    tree(2, 2)
    del took[:]
    started = time.perf_counter()
    tree(GROUPS, LEAVES)
    whole = time.perf_counter() - started
    assert len(took) == GROUPS * LEAVES
    with dbos._sys_db.engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        }
    DBOS.destroy()
    return {"whole": whole, "claimable": list(took), "pragmas": pragmas}


class Looks:
    """A source with one tool that reads and runs in this process."""

    def __init__(self) -> None:
        self.spent = 0.0

    def tools(self) -> Sequence[Any]:
        schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
        return [Tool("look", "Looks at a number", schema, annotations=Annotations(read_only=True, destructive=False))]

    async def call(self, tool: Any, arguments: Any, caller: Any, progress: Any) -> Any:
        started = time.perf_counter()
        result = Result(data={"number": arguments["number"], "text": "as it is"})
        self.spent += time.perf_counter() - started
        return result

    def on_change(self, tell: Any) -> Callable[[], None]:
        return lambda: None

    def problems(self) -> Sequence[str]:
        return ()

    async def aclose(self) -> None:
        pass


async def run_overhead(folder: str, turns: int, *, routed: bool) -> dict[str, Any]:
    looks, turn = Looks(), Turns()

    def answers(ask: Any) -> Any:
        if not ask.tools:  # that which judges
            return answer("done", tokens=20)
        number = turn.begins(looks.spent)
        given = answer("", Wish("k", "look", {"number": number}), tokens=20) if number else answer("done", tokens=20)
        turn.ends(looks.spent)
        return given

    async with AsyncExitStack() as stack:
        model: Any = FunctionModel(answers, bound=Usage(tokens=1000))
        waits, library = 0.0, list[float]()
        if routed:
            server = stack.enter_context(Served())
            waits = await bare_turn(server.url)
            library = timed_library()
            tier = Tier("a", "openai/a", api_base=server.url, price_in=0.0, price_out=0.0)
            model = Router(Models(chain=(tier,)))
            stack.push_async_callback(model.aclose)

        def make(runtime: Any) -> Any:
            return Calling([looks], runtime.guard, runtime.settings.tooling)

        engine, store = await stack.enter_async_context(engine_over(folder, lambda _: model, make))
        puts = await puts_alone(store)
        for _ in range(turns // TURNS + 1):
            begun = await begin(engine, store, "", (Step("only", "Look at all numbers", assistant="general"),))
            await wait(engine, begun.task, 60)
        took = server.took() if routed else turn.took
    less = [max(0.0, one - waits) for one in library[TURNS:]]
    return {"took": [max(0.0, one - waits) for one in took[TURNS:]], "waits": waits, "puts": puts, "library": less}


class Turns:
    """How long it takes from an answer to the next question of the same task, by the model's own clock."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self._asked, self._answered, self._tool = 0, 0.0, 0.0

    def begins(self, tool: float = 0.0) -> int:
        """A question has come; its number, 0 for the last of a task. `tool` are the seconds that tools took so far."""
        if self._asked:
            self.took.append(time.perf_counter() - self._answered - (tool - self._tool))
        self._asked = (self._asked + 1) % (TURNS + 1)
        return self._asked

    def ends(self, tool: float = 0.0) -> None:
        """It is answered."""
        self._answered, self._tool = time.perf_counter(), tool


def run_model() -> dict[str, Any]:
    """The model of `router`, in a process of its own, until its input ends; how long the turns took."""
    turn = Turns()

    def reply(request: Any) -> Any:
        if not request.body.get("tools"):  # that which judges, and the bare client
            return Reply("done")
        number = turn.begins()
        given = Reply(calls=(Call("look", json.dumps({"number": number})),)) if number else Reply("done")
        turn.ends()
        return given

    with OpenAI(otherwise=reply) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    return {"took": turn.took}


class Served:
    """`run_model` as a child: a model shares no interpreter with who asks it."""

    def __enter__(self) -> "Served":
        command = [sys.executable, __file__, "--run", "model"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def took(self) -> list[float]:
        """How long the turns took; it answers no more."""
        said, _ = self._process.communicate()
        return json.loads(said)["took"]

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def timed_library() -> list[float]:
    """The seconds that litellm takes for each question from now on, the server's included."""
    litellm, took = load(), list[float]()
    inner = litellm.acompletion

    async def timed(**asked: Any) -> Any:
        started = time.perf_counter()
        answered = await inner(**asked)
        took.append(time.perf_counter() - started)
        return answered

    litellm.acompletion = timed
    return took


async def puts_alone(store: Any) -> list[float]:
    """The seconds that one durable, guarded put takes here and now, one after the other."""
    uri, took = parse_uri("cld:common.Text.bench"), []
    for number in range(100):
        started = time.perf_counter()
        await store.put(Draft(uri, {"text": f"The text number {number}"}), if_version=ANY_VERSION)
        took.append(time.perf_counter() - started)
    return took[1:]


async def bare_turn(url: str) -> float:
    """The seconds from when the server has a question to when it has the next, of a client that does nothing else."""
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "x" * 4000}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    port = int(url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    for _ in range(50):
        started = time.perf_counter()
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.decode().lower().split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(int(length.split(":")[1]))
        took.append(time.perf_counter() - started)
    writer.close()
    return statistics.median(took)


RUNS: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "cld": lambda folder, _: asyncio.run(run_tree(folder, 0)),
    "among": lambda folder, options: asyncio.run(run_tree(folder, options.others)),
    "dbos queue": lambda folder, _: run_dbos(folder, queued=True),
    "dbos direct": lambda folder, _: run_dbos(folder, queued=False),
    "overhead": lambda folder, options: asyncio.run(run_overhead(folder, options.turns, routed=False)),
    "router": lambda folder, options: asyncio.run(run_overhead(folder, options.turns, routed=True)),
    "model": lambda _folder, _options: run_model(),
}


def run_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process and a folder of its own."""
    given = ["--run", name, "--others", str(options.others), "--turns", str(options.turns)]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        command = [sys.executable, __file__, *given, "--dir", folder]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=1200)
    return json.loads(found.stdout.splitlines()[-1])


def at(share: float, numbers: Sequence[float]) -> float:
    """The quantile of `numbers`, in milliseconds."""
    return sorted(numbers)[min(len(numbers) - 1, int(share * len(numbers)))] * 1000


def shown(name: str, runs: Sequence[dict[str, Any]]) -> float:
    """Prints what a tree took; the rate."""
    rate = TASKS / statistics.median(run["whole"] for run in runs)
    claimable = [one for run in runs for one in run["claimable"]]
    told = (
        f"{name:24} {rate:6.0f} tasks/s   claimable p50 {at(0.5, claimable):6.0f} ms  p99 {at(0.99, claimable):6.0f} ms"
    )
    if alone := [one for run in runs for one in run.get("alone", ())]:
        told += f"   alone p50 {at(0.5, alone):.1f} ms  p99 {at(0.99, alone):.1f} ms"
    print(told)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--dir", default=None, help="a folder on the disk to be measured")
    measured = [name for name in RUNS if name != "model"]
    parser.add_argument("--only", nargs="*", choices=measured, default=measured)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(RUNS[options.run](options.dir, options)))
        return
    has_dbos = importlib.util.find_spec("dbos") is not None
    names = [name for name in options.only if has_dbos or not name.startswith("dbos")]
    versions = f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{TASKS} tasks, {AT_ONCE} at a time, medians of {options.rounds} rounds; {versions}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(run_apart(name, options))
    rates: dict[str, float] = {}
    for name in ("cld", "among", "dbos queue", "dbos direct"):
        if name in found:
            label = f"cld among {options.others} others" if name == "among" else name
            rates[name] = shown(label, found[name])
    if "cld" in rates:
        print(f"reach {RATE} tasks/s: {rates['cld'] / RATE:.2f} of it")
    if {"cld", "among"} <= set(rates):
        print(f"among {options.others} others against none: {rates['among'] / rates['cld']:.2f} of the rate")
    if dbos := {name: rate for name, rate in rates.items() if name.startswith("dbos")}:
        best = max(dbos, key=dbos.__getitem__)
        version = importlib.metadata.version("dbos")
        print(
            f"DBOS {version}, SQLite {found[best][0]['pragmas']}: "
            f"cld {rates.get('cld', 0) / dbos[best]:.2f} times {best}"
        )
    for name, label in (("overhead", "overhead of a turn"), ("router", "the same with router")):
        if name in found:
            took = [one for run in found[name] for one in run["took"]]
            p50, p99 = at(0.5, took), at(0.99, took)
            waits = statistics.median(run["waits"] for run in found[name]) * 1000
            less = f", less {waits:.1f} ms that a bare client waits" if waits else ""
            reach = f"{p50 / P50:.2f} and {p99 / P99:.2f} of what is allowed"
            puts = at(0.5, [one for run in found[name] for one in run["puts"]])
            if library := [one for run in found[name] for one in run.get("library", ())]:
                less += f", litellm itself {at(0.5, library):.1f} and {at(0.99, library):.1f} ms of it"
            less += f"; one durable put takes {puts:.1f} ms"
            print(f"{label:24} p50 {p50:.1f} ms  p99 {p99:.1f} ms: {reach}{less}")


if __name__ == "__main__":
    main()
