"""What goes over the pipe between the server and a converting process: a length, then MessagePack."""

import msgspec

from cld.ingest.kinds import Form


class Order(msgspec.Struct, frozen=True):
    """A file to convert, and what may come of it."""

    name: str
    form: Form
    data: bytes
    text_characters: int
    passages: int
    seconds: float


class Passage(msgspec.Struct, frozen=True):
    """A passage: characters `start` to `end` of the converted text, under the headings `titles`.

    `page` where the file has pages, else `line` of the converted text; both count from 1.
    """

    titles: tuple[str, ...]
    start: int
    end: int
    text: str
    line: int | None = None
    page: int | None = None


class Converted(msgspec.Struct, frozen=True, tag="converted"):
    """`head` is what the file says about itself for machines (front matter, JSON-LD), in its own format."""

    title: str
    abstract: str
    head: str
    converter: str
    encoding: str
    passages: tuple[Passage, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why the file cannot be converted."""

    reason: str


Answer = Converted | Refused

LENGTH_BYTES = 8
