"""JSON with comments, edited in place: one member is set, and every other character stays.

Hosts' settings are written by people, with comments, trailing commas and an order of their own;
reading and writing them anew would lose that. This module finds where values stand in the text and
changes only there. Pure: text in, text out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cld.errors import CldError


class CannotEdit(CldError):
    """The text is not what can be edited safely; the message says where and why."""

    code = "cannot_edit"


@dataclass(frozen=True)
class Member:
    """A member of an object: its name, where the name begins, and its value."""

    name: str
    start: int
    value: "Node"


@dataclass(frozen=True)
class Node:
    """A value and where it stands; `members` for an object, else None. `comma`: a trailing comma is there."""

    start: int
    end: int
    data: Any
    members: tuple[Member, ...] | None = None
    comma: bool = False


def parse(text: str, *, comments: bool) -> Node | None:
    """The value in `text` with its places, None when there is only white space and comments.

    Without `comments`, comments and trailing commas are refused.

    Raises:
        CannotEdit: with line and column, for text that is no JSON.
    """
    reader = _Reader(text, comments)
    try:
        at = reader.skip(0)
        if at == len(text):
            return None
        node = reader.value(at)
        at = reader.skip(node.end)
    except RecursionError:
        raise CannotEdit("it nests too deep to be a settings file") from None
    if at != len(text):
        raise reader.wrong(at, "there is something after the end")
    return node


def merge(text: str, path: tuple[str, ...], entry: Mapping[str, Any], *, comments: bool) -> str:
    """`text` with the object at `path` holding the members of `entry`; what else is there stays as it is.

    Objects on the way are made where they are missing. Merging the same entry again changes nothing.

    Raises:
        CannotEdit: when the text is no JSON, something on the way is no object, a name on the way is
            there twice, or a comment would be lost.
    """
    before = parse(text, comments=comments)
    expected = _merged(before.data if before else {}, path, entry)
    edited = text
    for name, value in entry.items():
        edited = _set(edited, (*path, name), value, comments=comments)
    if not entry:
        edited = _set(edited, path, {}, comments=comments)
    # The edit is proven, not trusted: the values must be the expected ones, and no comment gone.
    after = parse(edited, comments=comments)
    if after is None or after.data != expected or _comments(edited) != _comments(text):
        raise CannotEdit("its layout is one that cannot be edited without losing something")
    return edited


def _set(text: str, path: tuple[str, ...], value: Any, *, comments: bool) -> str:
    eol = "\r\n" if "\r\n" in text else "\n"
    unit = _unit(text)
    root = parse(text, comments=comments)
    if root is None:
        nested: Any = value
        for name in reversed(path):
            nested = {name: nested}
        lead = text if not text.strip() or text.endswith("\n") else text + eol
        return (lead if lead.strip() else "") + _format(nested, "", unit, eol) + eol
    node = root
    for index, name in enumerate(path):
        if node.members is None:
            where = ".".join(path[:index]) or "the whole"
            raise CannotEdit(f"{where} is {_kind(node.data)}, where an object is needed")
        found = [member for member in node.members if member.name == name]
        if len(found) > 1:
            raise CannotEdit(f"{name!r} is there {len(found)} times; keep one of them")
        if not found:
            nested = value
            for inner in reversed(path[index + 1 :]):
                nested = {inner: nested}
            return _insert(text, node, name, nested, unit, eol)
        node = found[0].value
    if node.data == value and type(node.data) is type(value):
        return text
    if _comments(text[node.start : node.end]):
        raise CannotEdit(f"{'.'.join(path)} has a comment inside that would be lost")
    indent = _indent_of_line(text, node.start)
    return text[: node.start] + _format(value, indent, unit, eol) + text[node.end :]


def _insert(text: str, node: Node, name: str, value: Any, unit: str, eol: str) -> str:
    """`text` with a last member added to the object `node`."""
    assert node.members is not None  # the caller looked
    outer = _indent_of_line(text, node.start)
    inner = outer + unit
    close = node.end - 1
    if node.members:
        first = node.members[0].start
        line = text.rfind("\n", 0, first) + 1
        if not text[line:first].strip():
            inner = text[line:first]
    member = f"{json.dumps(name, ensure_ascii=False)}: {_format(value, inner, unit, eol)}"
    # After everything that is there, comments included, and before the white space of the closing brace.
    body = text[:close].rstrip()
    tail = text[len(body) : close]
    if "\n" not in tail:
        tail = eol + outer
    if node.members and not node.comma:
        end = node.members[-1].value.end
        body = body[:end] + "," + body[end:]
    return body + eol + inner + member + ("," if node.comma else "") + tail + text[close:]


def _merged(data: Any, path: tuple[str, ...], entry: Mapping[str, Any]) -> Any:
    if not isinstance(data, dict):
        return data  # _set refuses it, with its place
    known: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
    if not path:
        return {**known, **entry}
    return {**known, path[0]: _merged(known.get(path[0], {}), path[1:], entry)}


def _format(value: Any, indent: str, unit: str, eol: str) -> str:
    text = json.dumps(value, indent=unit, ensure_ascii=False)
    return text.replace("\n", eol + indent)


def _indent_of_line(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str) -> str:
    """One step of indentation as the text has it: that of its first indented line, else two spaces."""
    found = re.search(r"^([ \t]+)[^\s/*]", text, re.MULTILINE)
    return "  " if found is None else "\t" if found[1].startswith("\t") else found[1][:8]


def _kind(data: Any) -> str:
    match data:
        case None:
            return "null"
        case list():
            return "an array"
        case str():
            return "a string"
        case _:
            return "a plain value"


# A string, or a comment; strings are matched first so that a "//" inside one is no comment.
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|(//[^\r\n]*|/\*.*?\*/)', re.DOTALL)


def _comments(text: str) -> list[str]:
    return [found[1] for found in _STRING_OR_COMMENT.finditer(text) if found[1]]


_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|[^"\\\x00-\x1f])*"')
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


class _Reader:
    """A recursive reader that keeps where everything stands."""

    def __init__(self, text: str, comments: bool) -> None:
        self._text = text
        self._comments = comments

    def wrong(self, at: int, what: str) -> CannotEdit:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return CannotEdit(f"line {line}, column {column}: {what}")

    def skip(self, at: int) -> int:
        """The place after white space and comments."""
        while True:
            found = _SPACE.match(self._text, at)
            at = found.end() if found else at
            if not self._text.startswith("/", at):
                return at
            found = _COMMENT.match(self._text, at)
            if found is None:
                raise self.wrong(at, "a '/' that begins no comment, or a comment without its end")
            if not self._comments:
                raise self.wrong(at, "a comment, which this host does not read")
            at = found.end()

    def value(self, at: int) -> Node:
        match self._text[at : at + 1]:
            case "{":
                return self._object(at)
            case "[":
                return self._array(at)
            case '"':
                text, end = self._string(at)
                return Node(at, end, text)
            case "":
                raise self.wrong(at, "the text ends where a value is needed")
            case _:
                found = _SCALAR.match(self._text, at)
                if found is None:
                    raise self.wrong(at, "no JSON value begins here")
                return Node(at, found.end(), json.loads(found[0]))

    def _string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        if found is None:
            raise self.wrong(at, "a name or string in double quotes is needed, with its end on the same line")
        return json.loads(found[0]), found.end()

    def _object(self, start: int) -> Node:
        members: list[Member] = []
        comma = False
        at = self.skip(start + 1)
        while not self._text.startswith("}", at):
            if members and not comma:
                raise self.wrong(at, "a ',' or '}' is missing")
            name, end = self._string(at)
            colon = self.skip(end)
            if not self._text.startswith(":", colon):
                raise self.wrong(colon, "a ':' is missing")
            value = self.value(self.skip(colon + 1))
            members.append(Member(name, at, value))
            at, comma = self._after(value.end)
        self._no_trailing(at, comma)
        data = {member.name: member.value.data for member in members}
        return Node(start, at + 1, data, tuple(members), comma)

    def _array(self, start: int) -> Node:
        items: list[Any] = []
        comma = False
        at = self.skip(start + 1)
        while not self._text.startswith("]", at):
            if items and not comma:
                raise self.wrong(at, "a ',' or ']' is missing")
            item = self.value(at)
            items.append(item.data)
            at, comma = self._after(item.end)
        self._no_trailing(at, comma)
        return Node(start, at + 1, items)

    def _after(self, end: int) -> tuple[int, bool]:
        at = self.skip(end)
        if self._text.startswith(",", at):
            return self.skip(at + 1), True
        return at, False

    def _no_trailing(self, at: int, comma: bool) -> None:
        if comma and not self._comments:
            raise self.wrong(at, "a ',' before the closing bracket, which this host does not read")
