"""The model that is always there: writes no text of its own, and is honest about it.

Picks tools by rule and similarity, and answers with the best passages of what they brought, each with its URI; when
there is nothing it says so. The same request always gets the same answer, at no cost. What it cannot do it refuses,
saying how to configure a model that can.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from anyio.to_thread import run_sync

from cld.json_schema import compile_schema
from cld.models import Ask, Completion, More, NoModel, OnText
from cld.models.offline_picks import EXPRESSIONS, picks, reader
from cld.models.offline_quotes import NOTHING, NOWHERE, SHORT_QUOTE, Passage, Quoted, best_quotes, passages_in, written
from cld.models.offline_request import Called, Request, read_request, texts_in
from cld.models.offline_rules import misfit
from cld.types import Usage, Wish

NAME = "offline"

NO_MODEL = (
    "no model is configured or can be reached, so nothing can be written, only found and quoted; "
    "docs/models.md says how to add one"
)

_LONG_RESULT = 2000
_MOST_ROWS = 50


class Offline:
    """A `Model` that generates nothing."""

    @property
    def generates(self) -> bool:
        return False

    async def bound(self, ask: Ask) -> Usage:
        return Usage()

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        """Wishes to call tools, or an answer made of quotes.

        Raises:
            NoModel: what is asked for cannot be answered with quotes.
        """
        if ask.reasoning:
            raise NoModel(f"planning and judging need a model: {NO_MODEL}", reasons=[f"{NAME}: {NO_MODEL}"])
        # The first use reads the embedding, which takes a while.
        completion = await run_sync(_answer, ask, abandon_on_cancel=True)
        if on_text is not None and completion.text:
            on_text(completion.text)
        return completion


def _answer(ask: Ask) -> Completion:
    request = read_request(ask.messages)
    if request.misfit:
        # The same question would get the same answer.
        raise _refusal(f"its answer was refused ({request.misfit[:300]}), and it has no other")
    if not request.calls and (wishes := picks(request.task, ask.tools)):
        return Completion("", wishes, model=NAME, finish="calls")
    results = [result for call in request.calls if (result := _plain(call)) is not None]
    passages = _passages(request)
    quotes = [*results, *best_quotes(request.task, passages)]
    # A title that repeats the question says where the answer may be.
    near = quotes or best_quotes(request.task, passages, also_repeating=True)
    if not results and (more := _follow_up(request, near, ask)) is not None:
        return Completion("", (more,), model=NAME, finish="calls")
    text = written(quotes) if quotes else _nothing(request)
    if request.form and (why := misfit(request.form, text)):
        raise _refusal(why)
    if ask.schema is None:
        return Completion(text, model=NAME)
    return Completion(text, value=_value(ask.schema, quotes, text), model=NAME)


def _plain(call: Called) -> Quoted | None:
    """What a call gave where that is no passage of a resource but the answer itself: a number, a time, a short text."""
    if call.failed or call.wish.tool in ("search", "resource_get"):
        return None
    value: Any = call.text if call.value is None else call.value
    if table := _table(value):
        return Quoted(call.wish.tool, table, 1.0)
    if isinstance(value, dict) and len(entries := cast("dict[str, Any]", value)) == 1:
        value = next(iter(entries.values()))
    if next(texts_in(value), ("", ""))[0] or isinstance(value, list) or value in (None, "", {}):
        return None
    told = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(told) > SHORT_QUOTE * 3 or "cld:" in told:
        return None
    said = ", ".join(one for one in call.wish.arguments.values() if isinstance(one, str))[:200]
    return Quoted(call.wish.tool, f"{said} = {told}" if call.wish.arguments.keys() & EXPRESSIONS else told, 1.0)


def _table(value: Any) -> str:
    """The rows of a table, or the URIs of a list, a line each; empty where it is neither or has none."""
    if not isinstance(value, dict):
        return ""
    entries = cast("dict[str, Any]", value)
    rows = cast("list[Any]", entries.get("rows") or entries.get("resources") or [])
    lines = [line for row in rows[:_MOST_ROWS] if (line := _row(row))]
    heads = "\t".join(str(one) for one in cast("list[Any]", entries.get("columns") or []))
    more = [f"… {len(rows) - _MOST_ROWS} more"] if len(rows) > _MOST_ROWS else []
    return "\n".join([*([heads] if heads else []), *lines, *more]) if lines else ""


def _row(row: Any) -> str:
    if isinstance(row, dict):
        return str(cast("dict[str, Any]", row).get("uri", ""))
    return "\t".join(str(one) for one in cast("list[Any]", row)) if isinstance(row, list) else ""


def _passages(request: Request) -> list[Passage]:
    """Everything there is to quote from: what calls brought, what earlier tasks gave, what is known; in that order."""
    found: list[Passage] = []
    for call in request.calls:
        if call.failed or _plain(call) is not None:
            continue
        if call.value is None:
            found += passages_in(call.text[:_LONG_RESULT], call.wish.tool)
        else:
            for uri, text in texts_in(call.value):
                found += passages_in(text, uri or _named_in(call.wish) or call.wish.tool)
    for uri, text in texts_in(request.inputs):
        found += passages_in(text, uri)
    for block in request.context.split("\n\n") if not found else ():
        uri, _, text = block.partition("\n")
        if uri.startswith("cld:") and text:
            # A message of before is told together with the answers to it.
            said, *answers = re.split(rf"(?m)^({re.escape(uri)}/plan\.Task\.[A-Za-z0-9_-]+)\n", text)
            found.append(Passage(uri, said))
            for task, answer in zip(answers[::2], answers[1::2], strict=True):
                found += passages_in(answer, f"{task}/common.Message.answer")
    return found


def _named_in(wish: Wish) -> str:
    uri = wish.arguments.get("uri")
    return uri if isinstance(uri, str) else ""


def _follow_up(request: Request, quotes: list[Quoted], ask: Ask) -> Wish | None:
    """Reading the resource of the best quote, where that says little and it was not read yet; done once."""
    get = reader(ask.tools)
    if get is None or not quotes or any(call.wish.tool == get.name for call in request.calls):
        return None
    best = quotes[0]
    if len(best.text) >= SHORT_QUOTE or not best.uri.startswith("cld:"):
        return None
    return Wish(f"offline_read_{len(request.calls)}", get.name, {"uri": best.uri})


def _nothing(request: Request) -> str:
    failed = [call for call in request.calls if call.failed]
    why = f" {failed[0].wish.tool} failed: {failed[0].text[:300]}" if failed else ""
    looked = NOTHING if request.calls else NOWHERE
    return f"{looked}: {' '.join(request.task.split())[:300]}{why}\n({NO_MODEL[0].upper()}{NO_MODEL[1:]}.)"


def _value(schema: Mapping[str, Any], quotes: list[Quoted], text: str) -> Any:
    """The answer in a form that quotes can honestly fill.

    Raises:
        NoModel: the form asks for more.
    """
    filled = _filled(schema, quotes, text)
    if filled is None or ((found := compile_schema(schema)(filled)) is not None and found):
        raise _refusal("the answer has to fit a JSON schema that quotes alone cannot fill")
    return filled


def _filled(schema: Mapping[str, Any], quotes: list[Quoted], text: str) -> Any:
    kind = schema.get("type")
    if schema.keys() & {"enum", "const", "format", "pattern", "$ref", "anyOf", "oneOf", "allOf", "not"}:
        return None
    if kind == "string":
        return text
    if kind == "array" and cast("Mapping[str, Any]", schema.get("items") or {}).get("type") == "string":
        return [written([quote]) for quote in quotes]
    if kind != "object":
        return None
    properties = cast("Mapping[str, Mapping[str, Any]]", schema.get("properties") or {})
    value: dict[str, Any] = {}
    texts = 0
    for name, one in properties.items():
        if name in ("sources", "uris", "citations", "evidence"):
            value[name] = [quote.uri for quote in quotes]
            continue
        texts += 1
        value[name] = _filled(one, quotes, text) if one.get("type") in ("string", "array") else None
    # With two texts asked for, which of them the quotes are would be made up.
    return value if texts == 1 and None not in value.values() else None


def _refusal(why: str) -> NoModel:
    return NoModel(f"{why}: {NO_MODEL}", reasons=[f"{NAME}: {why}"])
