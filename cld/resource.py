"""Resources: what one JSON file holds, and its bytes.

Owns the file format: field order, indentation, version digest, the compiled description,
the limits on size and nesting. Pure: reads and writes bytes, never files. All JSON that cld
keeps goes through msgspec, which keeps integers exact and refuses NaN, infinities and lone
surrogates (Python's own parser accepts them, orjson turns 2^64 into a float).
"""

import hashlib
import math
import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import msgspec

from cld.errors import InvalidResource
from cld.uri import URI, id_of, type_of

MAX_BYTES = 4 * 1024 * 1024
"""Default bound on the size of a resource's file, in bytes."""

MAX_NESTING = 64
"""Bound on how deep objects and arrays lie within one another in a resource's file."""


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The four texts by which a resource says what it is for; together they are its description."""

    purpose: str = ""
    instructions: str = ""
    applicability: str = ""
    evaluation: str = ""


NO_META = Meta()


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One resource; the order of the fields is their order in the file.

    Only `content` must be written by hand: what the file's place already says (`uri`, `type`,
    `id`) may be left out but not contradicted, and the rest has defaults.
    """

    uri: str = ""
    type: str = ""
    id: str = ""
    revision: Annotated[int, msgspec.Meta(ge=0)] = 0
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

    Of a key that is written twice the last one counts, for policy and every reader alike, as there
    is one parser only; looking for them would make each read half as dear again.

    Raises:
        InvalidResource: when it is too large, too deep, no JSON, of the wrong shape or of another URI;
            with line and column where a place in the file is to blame.
    """
    if len(data) > max_bytes:
        raise InvalidResource(f"{uri} has {len(data)} bytes; at most {max_bytes} are allowed (limits.body_bytes)")
    try:
        resource = _decoder.decode(data)
    except RecursionError:
        raise InvalidResource(f"{uri} nests deeper than {MAX_NESTING}; flatten its content") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(data, uri, error) from None
    dot = uri.rfind(".")  # what `type_of` and `id_of` do, without the calls
    if resource.uri != uri or resource.id != uri[dot + 1 :] or resource.type != uri[uri.rfind("/") + 1 or 4 : dot]:
        resource = _placed(resource, uri)
    # As many opening brackets as that? Removing and comparing lengths takes a quarter of the time of counting.
    if len(data) - len(data.replace(b"{", b"").replace(b"[", b"")) > MAX_NESTING:
        _check_nesting(resource.content, uri)
    return resource


def encode(resource: Resource, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of the resource's file: UTF-8, indented by two, one newline at the end.

    What is written is read back the same: `decode` with the same `max_bytes` takes it.

    Raises:
        InvalidResource: when the content holds what JSON or cld's limits cannot carry, naming where.
    """
    _check_json(resource.content, "content", 2, resource.uri)
    try:
        data = msgspec.json.format(_encoder.encode(resource), indent=2) + b"\n"
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidResource(f"{resource.uri} cannot be written as JSON: {error}") from None
    if len(data) > max_bytes:
        raise InvalidResource(
            f"{resource.uri} would have {len(data)} bytes; at most {max_bytes} are allowed (limits.body_bytes)"
        )
    return data


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


_second = (0, "1970-01-01T00:00:00")
"""The last second that was written, and how."""


def timestamp() -> str:
    """Now, in UTC with microseconds, as resources carry it: `2026-11-21T07:34:55.123456Z`."""
    global _second
    second, rest = divmod(time.time_ns(), 1_000_000_000)
    # Kept for as long as it lasts, for every decision, event and write has one.
    if (known := _second)[0] != second:
        known = _second = second, datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
    return f"{known[1]}.{rest // 1000:06}Z"


def nonce() -> str:
    """96 random bits in hex."""
    return os.urandom(12).hex()


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID_STEP = (1 << 48) - 1
_ulid_lock = threading.Lock()
_ulid_last = 0


def new_id() -> str:
    """A ULID in lower case: 26 characters that sort by time, strictly growing within this process.

    Layout as in https://github.com/ulid/spec: 48 bits of milliseconds, 80 random bits.
    """
    global _ulid_last
    fresh = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    with _ulid_lock:
        # Within one millisecond, or after the clock went back, count on from the last; by a random
        # step, because a forked process counts on from the same one.
        _ulid_last = fresh if fresh >> 80 > _ulid_last >> 80 else _ulid_last + 1 + (fresh & _ULID_STEP)
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
        level = [child for value in level for child in _children(value) if isinstance(child, (dict, list))]


def _children(value: object) -> list[Any]:
    match value:
        case dict():
            return list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case list():
            return value  # pyright: ignore[reportUnknownVariableType]
        case _:
            return []


_PLAIN = frozenset({str, int, bool, type(None)})


def _check_json(value: object, where: str, depth: int, uri: str) -> None:
    """Raises InvalidResource when `value` at `where` is not what JSON holds or nests too deep.

    msgspec would write a NaN as null, a date as text and a number as a key: what is read back
    would be something else than what was put.
    """
    match value:
        case dict() | list() | tuple() if depth > MAX_NESTING:
            raise InvalidResource(f"{uri} nests deeper than {MAX_NESTING}; flatten its content")
        case dict():
            for key, child in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    raise InvalidResource(f"{uri} cannot be written as JSON: {where} has the key {key!r}, no text")
                if type(child) not in _PLAIN:
                    _check_json(child, f"{where}.{key}", depth + 1, uri)
        case list() | tuple():
            for index, child in enumerate(cast("list[object]", value)):
                if type(child) not in _PLAIN:
                    _check_json(child, f"{where}[{index}]", depth + 1, uri)
        case float() if not math.isfinite(value):
            raise InvalidResource(f"{uri} cannot be written as JSON: {where} is {value}; write null or a text")
        case str() | int() | float() | None:
            pass
        case _:
            raise InvalidResource(f"{uri} cannot be written as JSON: {where} is of Python type {type(value).__name__}")


_BYTE = re.compile(r" ?\(byte (\d+)\)")
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]')
# msgspec calls a file truncated when fewer than six bytes follow half of a pair.
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u)")
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def _invalid(data: bytes, uri: URI, error: Exception) -> InvalidResource:
    """msgspec's error in words for a person with an editor, with the line and column to go to."""
    reason = _BYTE.sub("", str(error))
    if data.startswith(_BYTE_ORDER_MARKS):
        at, reason = 0, "it starts with a byte order mark; save it as UTF-8 without one"
    elif isinstance(error, UnicodeDecodeError):
        at, reason = _undecodable(data), "it is not UTF-8 here; save it as UTF-8"
    elif found := _BYTE.search(str(error)):
        # msgspec has read one byte too far when it meets what should not follow.
        at = int(found[1]) - ("trailing characters" in reason)
    elif isinstance(error, msgspec.ValidationError):
        at, reason = _place_of(data, reason), _PATH.sub(r" at \1", reason)
    elif found := _HALF_PAIR.search(data):
        at, reason = found.start(1), f"{found[1].decode()} is half of a surrogate pair, which is no character"
    else:
        at, reason = len(data.rstrip()), "it ends in the middle" if data.strip() else "it is empty"
    line = data.count(b"\n", 0, at) + 1
    column = len(data[data.rfind(b"\n", 0, at) + 1 : at].decode(errors="replace")) + 1
    return InvalidResource(
        f"{uri} is no valid resource: line {line}, column {column}: {reason}", line=line, column=column
    )


def _undecodable(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError("msgspec refused it as UTF-8")


def _place_of(data: bytes, reason: str) -> int:
    """Where the last key that the reason's path names stands in well-formed JSON, as far as it has names."""
    path = _PATH.search(reason)
    wanted = path[1].partition("[")[0].split(".") if path else []
    if found := _UNKNOWN.search(reason):
        wanted.append(found[1])
    at = depth = reached = 0
    for token in _TOKEN.finditer(data):
        if reached == len(wanted):
            break
        if token[0] in b"{[":
            depth += 1
        elif token[0] in b"}]":
            depth -= 1
        elif token[1] and depth == reached + 1 and msgspec.json.decode(token[0][: -len(token[1])]) == wanted[reached]:
            at, reached = token.start(), reached + 1
    return at
