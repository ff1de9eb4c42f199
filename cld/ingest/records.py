"""Records: what a document says of its file, and the URI it has. Pure."""

import hashlib
import re
from typing import Any

import msgspec

from cld.ingest.files import Seen
from cld.ingest.linked import Linked
from cld.ingest.messages import Converted
from cld.store import Stored
from cld.uri import URI, make_uri

DOCUMENT = "common.Document"
TEXT = "common.Text"
FOLDER = "inode/directory"
"""The media type of a folder, in the names of freedesktop.org's shared MIME database."""

FORMAT = 2
"""Of the records below; another number has all documents made again."""

_SLUG = re.compile(r"[^a-z0-9]+")


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a passage stands: characters `start` to `end` of the converted text, its line or its page."""

    start: int
    end: int
    line: int | None = None
    page: int | None = None


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a file's document. `source` is its path within the folder that is the parent's `source`.

    `path` is where the file lies now, if elsewhere. `text` is what the file says of itself, `linked_data` what it
    says for the graph alone, `notes` what of that is left out; `parts` are its passages by id. The converted
    text of a text file is the file as Python's text mode reads it, so there `start` and `end` are offsets into it.
    """

    title: str = ""
    text: str = ""
    source: str = ""
    path: str = ""
    media_type: str = ""
    abstract: str = ""
    digest: str = ""
    format: int = 0
    converter: str = ""
    encoding: str = ""
    error: str = ""
    seen: Seen | None = None
    linked_data: tuple[Linked, ...] = ()
    notes: tuple[str, ...] = ()
    parts: dict[str, Part] = {}


def folder_uri(below: URI, path: str) -> URI:
    """The document of the folder at this absolute path."""
    return make_uri(below, DOCUMENT, _id(path.rpartition("/")[2], path))


def document_uri(folder: URI, source: str) -> URI:
    """The document of the file at `source` in a folder: readable, and never that of another path."""
    return make_uri(folder, DOCUMENT, _id(source, source))


def record_of(stored: Stored) -> Record | None:
    """What a document says, None where it is not one that ingest made."""
    try:
        record = msgspec.convert(stored.resource.content, Record)
    except msgspec.ValidationError:
        return None
    return record if record.format else None


def made_from(converted: Converted, record: Record) -> Record:
    return msgspec.structs.replace(
        record,
        title=converted.title,
        text=converted.head,
        linked_data=converted.linked,
        notes=converted.notes,
        abstract=converted.abstract,
        converter=converted.converter,
        encoding=converted.encoding,
    )


def description(record: Record) -> str:
    """What a document is about: its title, and its first words."""
    if record.error:
        return ""
    title, abstract = record.title, record.abstract
    if not abstract or abstract.startswith(title):
        return abstract or title
    return f"{title}{'' if title.endswith(('.', '!', '?')) else '.'} {abstract}"


def content_of(record: Record) -> dict[str, Any]:
    return msgspec.to_builtins(record)


def _id(readable: str, path: str) -> str:
    slug = _SLUG.sub("-", readable.lower()).strip("-")[-60:].strip("-")
    digest = hashlib.sha256(path.encode()).hexdigest()[:10]
    return f"{slug}-{digest}" if slug else digest
