"""The registry of tools: tools are data, and where they come from is nobody's business here.

A group is replaced as a whole by whoever owns it (the built-in tools once, later the tools and
assistants of the tree whenever they change); everybody else reads. Knows nothing of MCP's wire but the
shape of one tool in `tools/list`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from cld.errors import ConfigError
from cld.guard import Guard
from cld.policy import Action, Context
from cld.server.arguments import Parse, parser, schema_of
from cld.server.call import Call, Reply
from cld.uri import ROOT, URI, make_uri

log = logging.getLogger("cld.server")

Handle = Callable[[Call, Any], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Annotations:
    """MCP's four hints on what calling a tool does; all are always said."""

    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool = False

    def wire(self) -> dict[str, bool]:
        return {
            "readOnlyHint": self.read_only,
            "destructiveHint": self.destructive,
            "idempotentHint": self.idempotent,
            "openWorldHint": self.open_world,
        }


READS = Annotations(read_only=True, destructive=False, idempotent=True)


@dataclass(frozen=True)
class Tool:
    """One tool: how it is called, what it answers, and the function that does it.

    `parse` makes of a call's arguments what `handle` gets, raising InvalidArgument where they do not
    fit `input_schema`. `uri` is what policy is asked about ("call"). An `output_schema` must let
    `{"error": …}` pass too, because clients check failed results as well; `result_schema` makes such a one.
    One that `needs` a resource is there only for whom `access` to it is allowed. One that is not `listed` can be
    called, but is left out of the list. One that `decides` asks policy "call" itself, with arguments that it has
    checked.
    """

    name: str
    title: str
    description: str
    input_schema: Mapping[str, Any]
    parse: Parse = field(compare=False)
    handle: Handle = field(compare=False)
    annotations: Annotations
    output_schema: Mapping[str, Any] | None = None
    uri: URI = ROOT
    needs: URI = ROOT
    access: Action = "read"
    listed: bool = True
    decides: bool = False

    def __post_init__(self) -> None:
        if self.uri == ROOT:
            object.__setattr__(self, "uri", make_uri(ROOT, "tool.Tool", self.name))

    @cached_property
    def wire(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        shown: dict[str, Any] = {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": dict(self.input_schema),
            "annotations": self.annotations.wire(),
        }
        if self.output_schema is not None:
            shown["outputSchema"] = dict(self.output_schema)
        return shown


def tool_of(
    arguments: type[msgspec.Struct],
    handle: Handle,
    *,
    name: str,
    title: str,
    description: str,
    annotations: Annotations,
    returns: Mapping[str, Any],
    required: Sequence[str],
) -> Tool:
    """A tool whose arguments are a struct; `returns` are the properties of its result."""
    return Tool(
        name=name,
        title=title,
        description=description,
        input_schema=schema_of(arguments),
        parse=parser(arguments),
        handle=handle,
        annotations=annotations,
        output_schema=result_schema(returns, required),
    )


def result_schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """The schema of a result with `properties`, or of a failed one with `error`."""
    return {
        "type": "object",
        "properties": dict(properties),
        "anyOf": [{"required": list(required)}, {"required": ["error"]}],
    }


@dataclass
class Registry:
    """Tools by group and name; names are unique, the first group to take one keeps it."""

    _groups: dict[str, tuple[Tool, ...]] = field(default_factory=dict[str, tuple[Tool, ...]])
    _by_name: dict[str, Tool] = field(default_factory=dict[str, Tool])
    _listeners: dict[object, Callable[[], None]] = field(default_factory=dict[object, Callable[[], None]])

    def replace(self, group: str, tools: Iterable[Tool]) -> None:
        """Make `tools` all the tools of `group`, and tell who listens if that changed anything.

        A group keeps the place it had when it first came, so that the order of all tools is stable.
        """
        before = list(self._by_name.values())
        self._groups[group] = tuple(tools)
        by_name: dict[str, Tool] = {}
        for owner, members in self._groups.items():
            for tool in members:
                if by_name.setdefault(tool.name, tool) is not tool:
                    log.warning("tool %s of %s is left out: there is one of that name", tool.name, owner)
        self._by_name = by_name
        if before and before != list(by_name.values()):
            for tell in list(self._listeners.values()):
                tell()

    def find(self, name: str) -> Tool | None:
        return self._by_name.get(name)

    def tools(self) -> Sequence[Tool]:
        """All tools, in a stable order."""
        return tuple(self._by_name.values())

    def shown(self, guard: Guard, context: Context) -> Sequence[Tool]:
        """Those that are listed for whom `guard` is of, in the same order."""
        return [tool for tool in self.callable(guard, context) if tool.listed]

    def callable(self, guard: Guard, context: Context) -> Sequence[Tool]:
        """Those that may be called, by one question to policy for each kind of access."""
        tools = self.tools()
        allowed = guard.filter("call", [tool.uri for tool in tools], context)
        found = [tool for tool, may_call in zip(tools, allowed, strict=True) if may_call]
        kinds: set[Action] = {tool.access for tool in found if tool.needs != ROOT}
        for access in kinds:
            needed = [tool.needs for tool in found if tool.needs != ROOT and tool.access == access]
            allowed = guard.filter(access, needed, context)
            refused = {uri for uri, is_allowed in zip(needed, allowed, strict=True) if not is_allowed}
            found = [tool for tool in found if tool.access != access or tool.needs not in refused]
        return found

    def on_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` after each change; the function returned ends that."""
        token = object()
        self._listeners[token] = tell

        def end() -> None:
            self._listeners.pop(token, None)

        return end


ASSISTANTS, REGISTERED = "assistants", "registered"
"""Words for the tools that the tree brings, where a setting names some; `core` and `all` have both."""


def words_of(setting: str) -> frozenset[str]:
    """The words of `--tools`."""
    return frozenset(word.strip() for word in setting.split(",") if word.strip())


def select(setting: str, core: Sequence[Tool], more: Sequence[Tool]) -> list[Tool]:
    """The tools that `--tools` names: `core`, `all`, or names, with commas between; in table order.

    What it says of the tools of the tree is for who brings those.

    Raises:
        ConfigError: naming what is no tool, and what there is.
    """
    every = [*core, *more]
    words = words_of(setting)
    groups: dict[str, Sequence[Tool]] = {"core": core, "all": every, ASSISTANTS: (), REGISTERED: ()}
    groups |= {tool.name: [tool] for tool in every}
    unknown = sorted(words - groups.keys()) if words else ["nothing"]
    if unknown:
        names = ", ".join(tool.name for tool in every)
        raise ConfigError(
            f"tools: {', '.join(unknown)} is no tool; write core, all, assistants, registered, or some of: {names}"
        )
    chosen = {tool.name for word in words for tool in groups[word]}
    return [tool for tool in every if tool.name in chosen]
