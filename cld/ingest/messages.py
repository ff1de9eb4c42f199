"""What goes over the pipe between the server and a converting process: a length, then MessagePack."""

import msgspec

from cld.ingest.kinds import Form
from cld.ingest.linked import Linked


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
    """`head` is the file's front matter, `linked` its linked data, `notes` what of it is left out."""

    title: str
    abstract: str
    head: str
    converter: str
    encoding: str
    passages: tuple[Passage, ...]
    linked: tuple[Linked, ...] = ()
    notes: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why the file cannot be converted."""

    reason: str


Answer = Converted | Refused

LENGTH_BYTES = 8
