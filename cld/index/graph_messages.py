"""What the graph's process and its worker say to each other: one frame of MessagePack after another.

A frame is its length in four bytes, then so many bytes. Each order has one answer, `Dump` a row of them.
"""

from typing import Literal

import msgspec

from cld.index.linked_facts import Extracted

LENGTH_BYTES = 4

Format = Literal["turtle", "trig", "nquads"]
Value = str | int | float | bool | None
"""A plain value: the text of an IRI, a number, a text; None where a variable has none."""


class Extract(msgspec.Struct, frozen=True, tag=True):
    """Read the linked data of resources, each the JSON of one."""

    resources: tuple[bytes, ...]


class Load(msgspec.Struct, frozen=True, tag=True):
    """Add these N-Quads to the dataset."""

    quads: bytes


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Take these graphs out of the dataset."""

    graphs: tuple[str, ...]


class Query(msgspec.Struct, frozen=True, tag=True):
    """Answer a query with at most so many rows, of so many bytes; `seconds` ends a worker nobody waits for."""

    sparql: str
    rows: int
    bytes: int
    seconds: float


class Dump(msgspec.Struct, frozen=True, tag=True):
    """Write out the whole dataset, in pieces; an empty one is the last."""

    format: Format


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class Extracts(msgspec.Struct, frozen=True, tag=True):
    """One graph for each resource of an `Extract`, in its order."""

    graphs: tuple[Extracted, ...]


class Rows(msgspec.Struct, frozen=True, tag=True):
    """The answer of a query; `cut` says why there would have been more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    cut: Literal["", "rows", "bytes"] = ""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The query cannot be answered; line and column where a place in it is to blame."""

    reason: str
    line: int | None = None
    column: int | None = None


class Piece(msgspec.Struct, frozen=True, tag=True):
    data: bytes


Order = Extract | Load | Drop | Query | Dump
Answer = Done | Extracts | Rows | Refused | Piece
