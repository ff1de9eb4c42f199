"""Resources: what one JSON file holds, and its bytes.

Owns the file format: field order, indentation, version digest, the compiled description,
the limits on size and nesting. Pure: reads and writes bytes, never files. All JSON that cld
keeps goes through msgspec, which keeps integers exact and refuses NaN, infinities and lone
surrogates (Python's own parser accepts them, orjson turns 2^64 into a float).
"""

import hashlib
import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from cld.errors import InvalidResource
from cld.uri import URI, id_of, type_of

MAX_BYTES = 4 * 1024 * 1024
"""Default bound on the size of a resource's file, in bytes."""

MAX_NESTING = 64
"""Bound on how deep objects and arrays lie within one another in a resource's file."""


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The four texts by which a resource says what it is for; together they are its description."""

    purpose: str = ""
    instructions: str = ""
    applicability: str = ""
    evaluation: str = ""


NO_META = Meta()


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One resource; the order of the fields is their order in the file.

    Only `content` must be written by hand: what the file's place already says (`uri`, `type`,
    `id`) may be left out but not contradicted, and the rest has defaults.
    """

    uri: str = ""
    type: str = ""
    id: str = ""
    revision: int = 0
    meta: Meta = NO_META
    created_at: str = ""
    created_by: str = ""
    updated_at: str = ""
    updated_by: str = ""
    nonce: str = ""
    content: dict[str, Any]


class Draft(msgspec.Struct, frozen=True):
    """What a writer gives; `meta` None keeps what is there. The store adds the rest."""

    uri: URI
    content: dict[str, Any]
    meta: Meta | None = None


_decoder = msgspec.json.Decoder(Resource)
_encoder = msgspec.json.Encoder()


def decode(data: bytes, uri: URI, *, max_bytes: int = MAX_BYTES) -> Resource:
    """The resource that the file of `uri` with these bytes holds.

    Raises:
        InvalidResource: when it is too large, too deep, no JSON, of the wrong shape or of another URI.
    """
    if len(data) > max_bytes:
        raise InvalidResource(f"{uri} has {len(data)} bytes; at most {max_bytes} are allowed (limits.body_bytes)")
    try:
        resource = _decoder.decode(data)
    except RecursionError:
        raise InvalidResource(f"{uri} nests deeper than {MAX_NESTING}; flatten its content") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(data, uri, error) from None
    if resource.uri != uri or resource.type != type_of(uri) or resource.id != id_of(uri):
        resource = _placed(resource, uri)
    if data.count(b"{") + data.count(b"[") > MAX_NESTING:
        _check_nesting(resource.content, uri)
    return resource


def encode(resource: Resource) -> bytes:
    """The bytes of the resource's file: UTF-8, indented by two, one newline at the end.

    Raises:
        InvalidResource: when the content holds what JSON or cld's limits cannot carry.
    """
    uri = URI(resource.uri)
    try:
        _check_nesting(resource.content, uri)
        return msgspec.json.format(_encoder.encode(resource), indent=2) + b"\n"
    except (RecursionError, OverflowError, TypeError, ValueError, msgspec.MsgspecError) as error:
        if isinstance(error, InvalidResource):
            raise
        raise InvalidResource(f"{uri} cannot be written as JSON: {error}") from None


def version_of(data: bytes) -> str:
    """The version of a file with these bytes: the first 128 bits of their SHA-256, in hex.

    Every write carries a fresh nonce, so equal versions mean the same write.
    """
    return hashlib.sha256(data).hexdigest()[:32]


def describe(meta: Meta) -> str:
    """The description that is embedded and matched: the four texts that are there, a line each."""
    parts = (
        ("Purpose", meta.purpose),
        ("Instructions", meta.instructions),
        ("Applies to", meta.applicability),
        ("Done when", meta.evaluation),
    )
    return "\n".join(f"{name}: {text.strip()}" for name, text in parts if text.strip())


def timestamp() -> str:
    """Now, in UTC with microseconds, as resources carry it: `2026-11-21T07:34:55.123456Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def nonce() -> str:
    """96 random bits in hex."""
    return os.urandom(12).hex()


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ulid_lock = threading.Lock()
_ulid_last = 0


def new_id() -> str:
    """A ULID in lower case: 26 characters that sort by time, strictly growing within this process.

    Layout as in https://github.com/ulid/spec: 48 bits of milliseconds, 80 random bits.
    """
    global _ulid_last
    fresh = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    with _ulid_lock:
        # Within one millisecond, or after the clock went back, count on from the last.
        _ulid_last = fresh if fresh >> 80 > _ulid_last >> 80 else _ulid_last + 1
        number = _ulid_last
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def _placed(resource: Resource, uri: URI) -> Resource:
    """The resource with what its place says filled in, refusing what contradicts it."""
    for field, expected in (("uri", str(uri)), ("type", type_of(uri)), ("id", id_of(uri))):
        written = getattr(resource, field)
        if written not in ("", expected):
            raise InvalidResource(
                f"the file of {uri} says {field} {written!r}; write {expected!r}, or leave {field} out"
            )
    return msgspec.structs.replace(resource, uri=uri, type=type_of(uri), id=id_of(uri))


def _check_nesting(content: object, uri: URI) -> None:
    """Raises InvalidResource when `content`, itself at depth 2 of its file, nests too deep."""
    level: list[object] = [content]
    depth = 1
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise InvalidResource(f"{uri} nests deeper than {MAX_NESTING}; flatten its content")
        level = [child for value in level for child in _children(value) if isinstance(child, (dict, list, tuple))]


def _children(value: object) -> list[Any]:
    match value:
        case dict():
            return list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case list() | tuple():
            return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case _:
            return []


_BYTE = re.compile(r"\(byte (\d+)\)")


def _invalid(data: bytes, uri: URI, error: Exception) -> InvalidResource:
    """msgspec's error with the line and column that its byte offset is at, where it gives one."""
    found = _BYTE.search(str(error))
    reason = _BYTE.sub("", str(error)).strip()
    if found is None:
        return InvalidResource(f"{uri} is no valid resource: {reason}")
    before = data[: int(found[1])]
    line = before.count(b"\n") + 1
    column = len(before) - (before.rfind(b"\n") + 1) + 1
    return InvalidResource(
        f"{uri} is no valid resource: line {line}, column {column}: {reason}", line=line, column=column
    )
