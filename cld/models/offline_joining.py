"""Joining: what came of several tasks made one answer without a model, by putting it side by side.

Owns nothing but the form: no word is added but headings, none is left out. Where a form is asked for into which the
parts do not fit as they are, there is no answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from cld.json_schema import compile_schema

_MOST_HEADING = 100


class Piece(NamedTuple):
    """What came of one task; `heading` says what it was for."""

    id: str
    heading: str
    output: Any


def joined_text(pieces: Sequence[Piece]) -> str:
    """The outputs one after another, each under a heading where there are several."""
    if len(pieces) == 1:
        return written(pieces[0].output)
    return "\n\n".join(f"## {_heading(piece.heading)}\n\n{written(piece.output)}" for piece in pieces)


def joined_value(pieces: Sequence[Piece], schema: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether the outputs fit the schema in some plain arrangement, and that arrangement.

    The check of a schema can take any amount of time: call it in a thread.
    """
    check = compile_schema(schema)
    for value in _arrangements(pieces, schema):
        if check(value) is None:
            return True, value
    return False, None


def written(output: Any) -> str:
    """An output as text."""
    if isinstance(output, str):
        return output.strip()
    return f"```json\n{msgspec.json.format(msgspec.json.encode(output)).decode()}\n```"


def _arrangements(pieces: Sequence[Piece], schema: Mapping[str, Any]) -> Iterator[Any]:
    outputs = [piece.output for piece in pieces]
    if len(outputs) == 1:
        yield outputs[0]
    yield outputs
    if all(isinstance(output, list) for output in outputs):
        yield [value for output in outputs for value in cast("list[Any]", output)]
    yield {piece.id: piece.output for piece in pieces}
    if outputs and all(isinstance(output, dict) for output in outputs):
        merged: dict[str, Any] = {}
        for output in cast("list[dict[str, Any]]", outputs):
            merged.update(output)
        # Two that say something else of the same are not one answer.
        if all(merged[key] == value for output in outputs for key, value in output.items()):
            yield merged
    properties = schema.get("properties")
    names = list(cast("Mapping[str, Any]", properties)) if isinstance(properties, Mapping) else []
    text = joined_text(pieces)
    for name in names if len(names) == 1 else []:
        yield {name: outputs}
        if len(outputs) == 1:
            yield {name: outputs[0]}
        yield {name: text}
    yield text


def _heading(purpose: str) -> str:
    line = " ".join(purpose.split())
    return line if len(line) <= _MOST_HEADING else f"{line[: _MOST_HEADING - 1].rsplit(' ', 1)[0]}…"
