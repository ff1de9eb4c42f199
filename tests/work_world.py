"""A tree with an engine over it: a model that is a function, tools that are functions, everything else real."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec

from cld.config import Settings, Work
from cld.errors import ApprovalRequired, BudgetExceeded
from cld.models import Ask, Completion, More, OnText
from cld.policy import Context
from cld.runtime import Runtime
from cld.tools import Caller, OnProgress, Result
from cld.types import Annotations, Tool, Usage, Wish
from cld.uri import ROOT, URI
from cld.work.engine import Engine
from cld.work.world import World

PROJECT = Path(__file__).parents[1]

Answers = Callable[[Ask], Completion | Awaitable[Completion]]

UNBOUNDED = Usage()
"""The bound of a model that says nothing of what a question may cost."""


class FunctionModel:
    """A model that is a function."""

    generates = True

    def __init__(self, answers: Answers, *, bound: Usage = UNBOUNDED) -> None:
        self._answers = answers
        self._bound = bound
        self.asked: list[Ask] = []

    async def bound(self, ask: Ask) -> Usage:
        return self._bound

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        if left is not None and left.tokens < self._bound.tokens:
            raise BudgetExceeded(f"{left.tokens} tokens are left", what="tokens")
        self.asked.append(ask)
        answer = self._answers(ask)
        return answer if isinstance(answer, Completion) else await answer


Does = Callable[[Mapping[str, Any], Caller], Any]


@dataclass
class FunctionTools:
    """Tools that are functions; each may be async, return a Result or a value, or raise."""

    does: dict[str, Does] = field(default_factory=dict)
    annotations: dict[str, Annotations] = field(default_factory=dict)
    called: list[tuple[str, Mapping[str, Any], Caller]] = field(default_factory=list)
    output_bytes: int = 100_000

    def offered(self, caller: Caller) -> Sequence[Tool]:
        return [
            Tool(name, f"does {name}", {"type": "object"}, annotations=self.annotations.get(name, Annotations()))
            for name in self.does
        ]

    async def admit(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller) -> Result | None:
        return None

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, progress: OnProgress) -> Result:
        self.called.append((name, arguments, caller))
        given = self.does[name](arguments, caller)
        if asyncio.iscoroutine(given):
            given = await given
        return given if isinstance(given, Result) else Result(data=given)


def needs_approval(name: str, caller: Caller, reason: str = "it is dear") -> None:
    if not caller.approved:
        raise ApprovalRequired("call", f"cld:tool.Tool.{name}", {"reason": reason})


def answer(text: str, *wishes: Wish, value: Any = None, **usage: int) -> Completion:
    return Completion(text, wishes, value, Usage(**usage), "function")


def is_judging(ask: Ask) -> bool:
    return ask.schema is not None and "enough" in ask.schema.get("properties", {})


def is_planning(ask: Ask) -> bool:
    return ask.schema is not None and "direct" in ask.schema.get("properties", {})


def judged(
    ask: Ask,
    answer: Any = "done",
    *,
    enough: bool = True,
    reason: str = "as asked",
    steps: Any = (),
    without: Sequence[str] = (),
) -> Completion:
    """A judgement that rests on all subtasks that did not fail, but for those `without`."""
    assert ask.schema is not None
    properties = ask.schema["properties"]
    failed = [id for id in properties["not_needed"]["items"]["enum"] if id]
    value = {
        "enough": enough,
        "reason": reason,
        "cites": [id for id in properties["cites"]["items"]["enum"] if id not in (*failed, *without)] if enough else [],
        "not_needed": failed if enough else [],
        "answer": answer if enough else None,
    }
    if "steps" in properties:
        value["steps"] = list(steps)
    return Completion("", value=value, model="function")


def pay(arguments: Mapping[str, Any], caller: Caller) -> str:
    """A tool that a person has to agree to."""
    needs_approval("pay", caller)
    return f"paid {arguments['sum']}"


def hanging(asked: anyio.Event) -> Answers:
    """A model that says when it was asked, and never answers."""

    async def model(_: Ask) -> Completion:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    return model


def text_of(ask: Ask) -> str:
    """All that the model is told, as one text."""
    return "\n".join(message.text for message in ask.messages)


def said_of(ask: Ask) -> str:
    """The purpose of the task that the model is to work."""
    return ask.messages[1].text.removeprefix("Task: ").partition("\n")[0]


def brought(ask: Ask) -> str:
    """What the last call gave, without the fence around it."""
    _, _, inside = ask.messages[-1].text.partition(">\n")
    return inside.rpartition("\n</material")[0]


@dataclass
class Place:
    """A running engine, and what to ask of it."""

    runtime: Runtime
    engine: Engine
    model: FunctionModel
    tools: FunctionTools

    @property
    def store(self) -> Any:
        return self.runtime.store(self.engine.principal, Context(tool="plan"))

    async def content(self, uri: URI) -> dict[str, Any]:
        return (await self.store.get(uri)).resource.content

    async def all_of(self, type: str, prefix: URI = ROOT) -> dict[URI, dict[str, Any]]:
        page = await self.store.list(prefix, type=type, depth=64, limit=1000)
        return {uri: await self.content(uri) for uri in page.uris}


@asynccontextmanager
async def working(
    folder: Path, answers: Answers, tools: FunctionTools | None = None, *, bound: Usage = UNBOUNDED, **work: Any
) -> AsyncGenerator[Place]:
    """An engine over the tree in `folder`; `work` are settings of it."""
    settings = Settings(
        root=str(folder / "resources"),
        policies=str(PROJECT / "policies"),
        work=msgspec.structs.replace(Work(lease_seconds=2.0), **work),
    )
    model, tools = FunctionModel(answers, bound=bound), tools or FunctionTools()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(Runtime.open(settings))
        world = World(
            settings=settings.work,
            store=runtime.store,
            hear=lambda store, types: runtime.hear(store, types=types),
            model=model,
            calling=tools,
        )
        engine = await stack.enter_async_context(Engine.open(world, runtime.principal))
        yield Place(runtime, engine, model, tools)
