"""Tools that a client brings with what it asks for: it runs them itself, and they are bounded like all others.

Owns what may be said of one, in the protocol's words. Who may call it is decided by `cld.tools.calling`.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from anyio.to_thread import run_sync

from cld.errors import InvalidArgument, InvalidResource
from cld.json_schema import compile_schema
from cld.tools.server_listing import as_2020
from cld.types import Annotations, Tool

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Hints(msgspec.Struct, frozen=True, rename="camel"):
    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None


class _Said(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    title: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    annotations: _Hints | None = None


def brought(said: Iterable[Mapping[str, Any]]) -> dict[str, Tool]:
    """The tools that a task's client brought, by name; what is none, for somebody edited the task, is left out."""
    tools: dict[str, Tool] = {}
    for one in said:
        try:
            tool = _tool(one, "client_tools")
        except InvalidArgument:
            continue
        tools.setdefault(tool.name, tool)
    return tools


async def check_brought(given: Sequence[str | Mapping[str, Any]], taken: Collection[str]) -> None:
    """Look at the tools that a client describes among `given`; what is a text there names one that there is.

    Raises:
        InvalidArgument: naming what is no tool, or has a name that is `taken` or given twice.
    """
    seen: set[str] = set()
    for at, said in enumerate(given):
        if isinstance(said, str):
            continue
        where = f"tools[{at}]"
        tool = _tool(said, where)
        if tool.name in taken or tool.name in seen:
            whose = "a tool of yours before it" if tool.name in seen else "one of cld's tools"
            raise InvalidArgument(
                f"{where}.name: {tool.name} is the name of {whose}; take another", field=f"{where}.name"
            )
        seen.add(tool.name)
        where = f"{where}.inputSchema"
        try:
            await run_sync(lambda schema=tool.input_schema, where=where: compile_schema(schema, where=where))
        except InvalidResource as error:
            raise InvalidArgument(str(error), field=where) from error


def _tool(said: Mapping[str, Any], where: str) -> Tool:
    """Raises: InvalidArgument: it is none."""
    try:
        read = msgspec.convert({"inputSchema": said.get("input_schema"), **said}, _Said)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        place = f"{where}{path.rstrip('`')}"
        raise InvalidArgument(f"{place}: {reason}", field=place) from None
    if not _NAME.fullmatch(read.name):
        raise InvalidArgument(f"{where} has to have a name of letters, digits, _ and -, at most 64", field=where)
    place = f"{where}.inputSchema"
    try:
        schema = {"type": "object", **as_2020(read.input_schema or {})}
    except RecursionError:
        raise InvalidArgument(f"{place} nests too deep", field=place) from None
    if schema["type"] != "object":
        raise InvalidArgument(f'{place}.type has to be "object", which arguments always are', field=place)
    hints = read.annotations or _Hints()
    return Tool(
        name=read.name,
        title=read.title or "",
        description=read.description or "",
        input_schema=schema,
        annotations=Annotations(
            read_only=hints.read_only_hint is True,
            # Who says nothing asks its own user: it is the client that runs it.
            destructive=hints.destructive_hint is True,
            idempotent=hints.idempotent_hint is True,
            open_world=hints.open_world_hint is not False,
        ),
        origin="client",
    )
