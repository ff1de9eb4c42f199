"""A declared function as a `Tool`: its schemas from its type hints, its words from its docstring.

Runs where the function is, in a worker. Whatever cannot be said in JSON Schema is refused with its name, because
a tool whose schema is wrong is called wrongly.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

import msgspec

from cld.tools.declare import Declaration, ToolContext
from cld.types import Tool

NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
"""What hosts take, with room for the prefixes that they add."""

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Notes?|Attributes):")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_MAPS = frozenset({"properties", "$defs"})
_VALUES = frozenset({"default", "enum", "const", "examples"})
_PLAIN_RETURNS = (None, type(None), str, Any)


class NoTool(ValueError):
    """A function that cannot be a tool, and why."""


@dataclass(frozen=True)
class Function:
    """A function that is a tool: `arguments` is the struct its arguments are read as."""

    tool: Tool
    run: Callable[..., Any]
    arguments: type[msgspec.Struct]
    context: str
    """The parameter that takes a `ToolContext`, empty for none."""


def function_of(run: Callable[..., Any], declaration: Declaration, *, origin: str, digest: str) -> Function:
    """The tool that `run` is declared to be.

    Raises:
        NoTool: saying what of it is missing or cannot be described.
    """
    name = declaration.name or run.__name__
    if not NAME.fullmatch(name):
        raise NoTool(f"{name!r} is no name for a tool; use 1 to 48 of A-Z, a-z, 0-9, _ and -")
    if declaration.seconds is not None and not 0 < declaration.seconds <= 86_400:
        raise NoTool(f"{name}: seconds is {declaration.seconds:g}; it is more than 0 and at most 86400")
    description, about = read_docstring(inspect.getdoc(run) or "")
    if not description:
        raise NoTool(f"{name} has no docstring; its first words tell callers what it does")
    try:
        hints = get_type_hints(run, include_extras=True)
    except Exception as error:  # whatever evaluating somebody's hints raises
        raise NoTool(f"{name}: its type hints cannot be read: {type(error).__name__}: {error}") from error
    context, fields = _fields(run, hints, about, name)
    try:
        arguments = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
        input_schema = _schema(arguments)
    except TypeError as error:
        raise NoTool(f"{name}: its parameters cannot be described in JSON Schema: {error}") from error
    returns = hints.get("return", None)
    try:
        output_schema = None if returns in _PLAIN_RETURNS else _schema(returns)
    except TypeError as error:
        raise NoTool(f"{name}: what it returns cannot be described in JSON Schema: {error}") from error
    tool = Tool(
        name=name,
        description=description,
        input_schema=input_schema,
        title=declaration.title or name.replace("_", " ").replace("-", " ").capitalize(),
        output_schema=output_schema,
        annotations=declaration.annotations,
        time_limit=declaration.seconds,
        origin=origin,
        digest=digest,
    )
    return Function(tool, run, arguments, context)


def read_docstring(text: str) -> tuple[str, Mapping[str, str]]:
    """What comes before the first section, and what `Args:` says of each parameter (Google's style)."""
    head: list[str] = []
    about: dict[str, list[str]] = {}
    section, entry, margin = "", "", 0
    for line in text.splitlines():
        stripped = line.strip()
        if not line[:1].isspace() and (found := _SECTION.fullmatch(stripped)):
            section, entry, margin = found[1], "", 0
        elif not section:
            head.append(stripped)
        elif section in {"Args", "Arguments", "Parameters"} and stripped:
            indent = len(line) - len(line.lstrip())
            margin = margin or indent
            found = _ENTRY.fullmatch(stripped) if indent <= margin else None
            if found:
                entry = found[1]
                about[entry] = [found[2]]
            elif entry:
                about[entry].append(stripped)
    return "\n".join(head).strip(), {name: " ".join(filter(None, words)) for name, words in about.items()}


def _fields(
    run: Callable[..., Any], hints: Mapping[str, Any], about: Mapping[str, str], name: str
) -> tuple[str, list[tuple[str, Any, Any]]]:
    context, fields = "", list[tuple[str, Any, Any]]()
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise NoTool(f"{name}: its parameter {parameter} cannot be given by name; callers know names only")
        if parameter.name not in hints:
            raise NoTool(f"{name}: its parameter {parameter.name} has no type hint")
        hint = hints[parameter.name]
        if hint is ToolContext:
            if context:
                raise NoTool(f"{name}: both {context} and {parameter.name} are a ToolContext; one is enough")
            context = parameter.name
            continue
        if words := about.get(parameter.name):
            hint = Annotated[hint, msgspec.Meta(description=words)]
        fields.append((parameter.name, hint, _default(parameter.default)))
    return context, fields


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return msgspec.NODEFAULT
    if isinstance(value, (list, dict, set, bytearray)) and value:
        # A struct shares its defaults, so it takes only those that cannot change.
        shared = cast("Any", value)
        return msgspec.field(default_factory=lambda: copy.deepcopy(shared))
    return cast("Any", value)


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of one type, in one piece as far as it does not refer to itself, and without titles."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    root = schema.get("$ref", "").removeprefix("#/$defs/")
    if root and not _mentions(definitions, root):
        schema = definitions.pop(root)
    if definitions:
        schema = {**schema, "$defs": definitions}
    return cast("dict[str, Any]", _without_titles(schema))


def _mentions(part: Any, name: str) -> bool:
    match part:
        case dict():
            inner = cast("dict[str, Any]", part)
            return inner.get("$ref") == f"#/$defs/{name}" or any(_mentions(value, name) for value in inner.values())
        case list():
            return any(_mentions(value, name) for value in cast("list[Any]", part))
        case _:
            return False


def _without_titles(part: Any, *, names: bool = False) -> Any:
    """Titles that msgspec makes of class names say nothing; `names` tells a map of names from a schema."""
    match part:
        case dict():
            return {
                key: value if key in _VALUES and not names else _without_titles(value, names=key in _MAPS and not names)
                for key, value in cast("dict[str, Any]", part).items()
                if names or key != "title" or not isinstance(value, str)
            }
        case list():
            return [_without_titles(value) for value in cast("list[Any]", part)]
        case _:
            return part
