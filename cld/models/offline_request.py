"""What a request says, as far as it can be read without a model: the task, its inputs, what calls brought.

Reads the form in which `cld.assistants` tells a task. Nothing but the task's own words is taken for what is wanted;
the context, inputs and results, which stand in fences, are only ever looked through for passages. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from cld.models import Message
from cld.types import Wish

_MOST_TEXT = 8000
_TASK = "Task: "
_SECTIONS = re.compile(
    r"(?:\A|\n\n)(?P<name>It is done well when: |Inputs:\n|Form of the answer: |Context \(material[^\n]*\):\n)"
)


class Called(NamedTuple):
    """A call that was made and what it gave: `value` where that is JSON, `failed` when it is an error."""

    wish: Wish
    text: str
    value: Any
    failed: bool


class Request(NamedTuple):
    """A request in its parts. `misfit` is what was said of an answer given before."""

    task: str
    inputs: Any
    form: str
    context: str
    calls: tuple[Called, ...]
    misfit: str


def read_request(messages: Sequence[Message]) -> Request:
    """The parts of a request."""
    mark = _mark(messages)
    told, fenced = _unfenced(next((message.text for message in messages if message.role == "user"), ""), mark)
    task, sections = _sections(told)
    wishes = {wish.key: wish for message in messages for wish in message.wishes}
    calls = [
        _called(wishes.get(message.answers, Wish(message.answers, "")), _inside(message.text, mark))
        for message in messages
        if message.role == "tool"
    ]
    last = messages[-1] if messages else Message("user", "")
    again = last.role == "user" and any(message.role == "assistant" for message in messages)
    return Request(
        task=task.removeprefix(_TASK).strip()[:_MOST_TEXT],
        inputs=_json(fenced.get("inputs", sections.get("Inputs", ""))),
        form=sections.get("Form of the answer", ""),
        context=fenced.get("what is known", sections.get("Context", "")),
        calls=tuple(calls),
        misfit=last.text if again else "",
    )


def _mark(messages: Sequence[Message]) -> str:
    """The mark of the fences in a dialogue, by its rules; empty where there are none."""
    rules = messages[0].text if messages and messages[0].role == "system" else ""
    found = re.search(r"<material ([0-9a-f]{20}) ", rules)
    return "" if found is None else found[1]


def _unfenced(told: str, mark: str) -> tuple[str, dict[str, str]]:
    """What stands outside of fences, and what in each, by its name."""
    if not mark:
        return told, {}
    block = re.compile(rf"(?:\A|\n\n)<material {mark} ([^\n]*)>\n(.*?)\n</material {mark}>", re.DOTALL)
    return block.sub("", told), dict(block.findall(told))


def _inside(told: str, mark: str) -> str:
    _, fenced = _unfenced(told, mark)
    return next(iter(fenced.values()), told)


def _sections(told: str) -> tuple[str, dict[str, str]]:
    """The task's own words and the sections behind them; each name counts once, and nothing follows the context."""
    found: dict[str, str] = {}
    task, name, start = None, "", 0
    for mark in _SECTIONS.finditer(told):
        key = mark["name"].partition(":")[0].partition(" (")[0]
        if key in found or name == "Context":
            continue
        if task is None:
            task = told[: mark.start()]
        else:
            found[name] = told[start : mark.start()].strip()
        name, start = key, mark.end()
        found[name] = ""
    if task is None:
        return told, {}
    found[name] = told[start:].strip()
    return task, found


def _called(wish: Wish, text: str) -> Called:
    failed = re.match(r"error [a-z_]+: |the call was not made$", text) is not None
    return Called(wish, text, None if failed else _json(text), failed)


def _json(text: str) -> Any:
    """The JSON in a text, of one that was cut off as much as there is; None when it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    if text[:1] not in ("{", "["):
        return None
    try:
        return msgspec.json.decode(_closed(text))
    except (msgspec.DecodeError, RecursionError):
        return None


_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def _closed(text: str) -> str:
    """A text whose end was cut off, up to the last object or list that is whole, with the brackets closed."""
    open_at: list[str] = []
    whole, rest = 0, list[str]()
    for piece in _PIECE.finditer(text):
        mark = piece[0]
        if mark in "{[":
            open_at.append("}" if mark == "{" else "]")
        elif mark in "}]" and open_at:
            open_at.pop()
            whole, rest = piece.end(), list(open_at)
    return text[:whole] + "".join(reversed(rest))


def texts_in(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value that has words, with the URI of the innermost object around it that names one."""
    todo: list[tuple[Any, str]] = [(value, "")]
    while todo:
        part, uri = todo.pop()
        match part:
            case str() if len(part) > 2 and not part.startswith("cld:"):
                yield uri, part
            case dict():
                entry = cast("dict[str, Any]", part)
                named = entry.get("uri")
                uri = named if isinstance(named, str) and named.startswith("cld:") else uri
                todo += [(child, uri) for key, child in reversed(entry.items()) if key not in _NO_TEXT]
            case list():
                todo += [(child, uri) for child in reversed(cast("list[Any]", part))]
            case _:
                pass


_NO_TEXT = frozenset(
    {"uri", "type", "id", "version", "nonce", "created_at", "updated_at", "created_by", "updated_by", "why", "role"}
    | {"cursor", "next_cursor", "slices", "left_out", "field", "revision", "meta", "status", "origin", "digest"}
)
"""Keys whose values say something of a resource, and are none of its words."""
