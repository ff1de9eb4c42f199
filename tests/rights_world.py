"""A tree under the shipped rules with data of the test's own, an engine over it, and cld's real tools."""

import json
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from work_world import PROJECT, Answers, FunctionModel, FunctionTools, Place

from cld.config import Settings, Tooling, Work
from cld.models import Model
from cld.policy import Context
from cld.principal import parse_principal
from cld.resource import Draft, Meta
from cld.runtime import Runtime
from cld.server.own_tools import OwnTools
from cld.server.resources_tools import CORE
from cld.server.work_tools import WORK
from cld.store.local import LocalStore
from cld.tools.calling import Calling
from cld.tools.python import Place as Folder
from cld.tools.python import PythonTools
from cld.uri import URI, parse_uri
from cld.work.engine import Engine
from cld.work.world import World

SHIPPED: dict[str, Any] = json.loads((PROJECT / "policies" / "data.json").read_text())


@dataclass
class Governed(Place):
    """A running engine over the shipped rules."""

    folder: Path = Path()

    async def write(self, uri: str, content: Any, by: str, meta: Meta | None = None) -> URI:
        """Write as `by`, whether or not policy would let them, as a tree that was written elsewhere."""
        await planted(self.folder, (uri, content, by, meta) if meta else (uri, content, by))
        return parse_uri(uri)

    def decisions(self) -> list[dict[str, Any]]:
        """The decision log."""
        files = sorted((self.folder / "resources" / ".cld" / "log").glob("decisions-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def planted(folder: Path, *made: tuple[str, Any, str] | tuple[str, Any, str, Meta]) -> None:
    """Resources (uri, content, who wrote it, meta) in the tree in `folder`, whether or not policy would let them."""
    store = await LocalStore.open(folder / "resources", durability="none")
    try:
        for uri, content, by, *meta in made:
            plain = msgspec.to_builtins(content)
            await store.put(Draft(parse_uri(uri), plain, meta[0] if meta else None), by=by, if_version="*")
    finally:
        await store.aclose()


def data_with(**more: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped data, with more under some of its keys."""
    return {**SHIPPED, **{key: {**SHIPPED.get(key, {}), **value} for key, value in more.items()}}


@asynccontextmanager
async def governed(
    folder: Path,
    answers: Answers | Model,
    *,
    principal: str = "user:local",
    roles: tuple[str, ...] = (),
    data: Mapping[str, Any] | None = None,
    python: Sequence[Path] = (),
    **work: Any,
) -> AsyncGenerator[Governed]:
    """An engine of `principal`, whose token brought `roles`, over the tree in `folder`.

    Its tools are cld's own and those of files in `python`.
    """
    policies = folder / "policies"
    if not policies.exists():
        shutil.copytree(PROJECT / "policies", policies)
    if data is not None:
        (policies / "data.json").write_text(json.dumps(data))
    settings = Settings(
        root=str(folder / "resources"),
        policies=str(policies),
        principal=principal,
        durability="none",
        work=msgspec.convert({"lease_seconds": 2.0, **work}, Work),
    )
    model: Any = answers if hasattr(answers, "bound") else FunctionModel(answers)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(Runtime.open(settings))
        tooling = Tooling(library=False, folders=tuple(map(str, python)))
        files = await PythonTools.open([Folder(path) for path in python], tooling)
        calling = Calling([OwnTools(runtime, [*CORE, *WORK]), files], runtime.guard, tooling)
        files.nest = calling.call
        stack.push_async_callback(calling.aclose)
        world = World(
            settings=settings.work,
            store=runtime.store,
            hear=lambda store, types: runtime.hear(store, types=types),
            model=model,
            calling=calling,
        )
        engine = await stack.enter_async_context(Engine.open(world, parse_principal(principal, roles=roles)))
        yield Governed(runtime, engine, model, FunctionTools(), folder)


def store_of(place: Place, who: str) -> Any:
    """The tree as `who` may use it."""
    return place.runtime.store(parse_principal(who), Context(tool="resource_put"))
