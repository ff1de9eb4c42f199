"""URIs: the one canonical string by which a resource is decided on, stored, logged and announced.

`cld:<element>/<element>/…`, where an element is `<package>.<Name>.<id>`. The text of a
URI plus `.json` *is* the resource's path below the root, so the grammar is also the guard
against everything a path could do: only ASCII letters, digits, `_`, `-` and `.` in fixed
places survive it. This module is pure: it knows strings, not files.
"""

import re
import unicodedata
from typing import NewType

from cld.errors import InvalidURI

URI = NewType("URI", str)
"""A canonical URI. Only `parse_uri` and the functions below make one."""

ROOT = URI("cld:")
"""The prefix of everything. It is a prefix only, never a resource."""

MAX_DEPTH = 64
MAX_ELEMENT_BYTES = 255
MAX_PATH_BYTES = 4096
SUFFIX = ".json"

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_ELEMENT = re.compile(rf"({_NAME}\.{_NAME})\.([A-Za-z0-9_-]{{1,128}})")
_TYPE = re.compile(rf"{_NAME}\.{_NAME}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_URI = re.compile(rf"cld:{_NAME}\.{_NAME}\.[A-Za-z0-9_-]{{1,128}}(?:/{_NAME}\.{_NAME}\.[A-Za-z0-9_-]{{1,128}}){{0,63}}")

# What hosts make of the start of a rootless URI. VS Code writes its fixed authority marker, with the
# first element (or the slash another host put before it) directly behind; only after exactly two
# slashes, for `dylo78gypA.B.c` is an element too.
_MANGLED = re.compile(r"cld:(?:/|///|//(?:dylo78gyp/?)?)(?!/)")

# A first element is written "cld:" + element + ".json", on Windows with "%3A" for the colon;
# a tree must be portable, so the longer form counts everywhere.
_SCHEME_BYTES = len("cld%3A")


def parse_uri(text: str) -> URI:
    """The URI that `text` is, unchanged.

    Parsing never repairs: a text is canonical or refused, so no two texts name one file.

    Raises:
        InvalidURI: naming the first thing that is wrong and where.
    """
    # Fast path: one match, at a length with which no limit can be reached.
    if len(text) <= MAX_ELEMENT_BYTES - _SCHEME_BYTES - len(SUFFIX) and _URI.fullmatch(text):
        return URI(text)
    if (reason := why_not(text)) is not None:
        raise InvalidURI(f"{text[:200]!r} is no cld: URI: {reason}")
    return URI(text)


def parse_prefix(text: str) -> URI:
    """A URI, or `cld:` for everything.

    Raises:
        InvalidURI: as `parse_uri`.
    """
    return ROOT if text == ROOT else parse_uri(text)


def from_host(text: str) -> URI:
    """The URI meant by a host that cannot write rootless URIs (`cld:/x`, `cld:///x`, VS Code's form).

    For the MCP edge only; everything below works with canonical strings.

    Raises:
        InvalidURI: when even the unmangled text is no URI.
    """
    return parse_prefix(_MANGLED.sub("cld:", text, count=1) if text.startswith("cld:/") else text)


def make_uri(parent: URI, type: str, id: str) -> URI:
    """The URI of the resource of `type` with `id` directly below `parent` (which may be `ROOT`).

    Raises:
        InvalidURI: when type or id do not fit the grammar, or the result is too long or deep.
    """
    if not _TYPE.fullmatch(type):
        raise InvalidURI(f"{type[:200]!r} is no type; write <package>.<Name>")
    if not _ID.fullmatch(id):
        raise InvalidURI(f"{id[:200]!r} is no id; write 1 to 128 of A-Z a-z 0-9 _ -")
    separator = "" if parent == ROOT else "/"
    return parse_uri(f"{parent}{separator}{type}.{id}")


def elements_of(uri: URI) -> tuple[str, ...]:
    """The elements from the first to the last; none for `ROOT`."""
    return () if uri == ROOT else tuple(uri[4:].split("/"))


def type_of(uri: URI) -> str:
    """`package.Name` of the last element."""
    return uri[max(uri.rfind("/"), 3) + 1 : uri.rfind(".")]


def id_of(uri: URI) -> str:
    """The id of the last element."""
    return uri[uri.rfind(".") + 1 :]


def parent_of(uri: URI) -> URI:
    """The URI one element shorter; `ROOT` for a first element."""
    cut = uri.rfind("/")
    return ROOT if cut < 0 else URI(uri[:cut])


def parents_of(uri: URI) -> list[URI]:
    """`ROOT`, then every ancestor from the first element down, without `uri` itself."""
    if uri == ROOT:
        return []
    found = [ROOT]
    cut = uri.find("/")
    while cut >= 0:
        found.append(URI(uri[:cut]))
        cut = uri.find("/", cut + 1)
    return found


def depth_below(uri: URI, prefix: URI) -> int:
    """How many elements `uri` has after `prefix`; 0 when they are the same.

    `uri` must lie within `prefix`.
    """
    return (0 if uri == ROOT else uri.count("/") + 1) - (0 if prefix == ROOT else prefix.count("/") + 1)


def is_within(uri: URI, prefix: URI) -> bool:
    """Whether `uri` is `prefix` or below it, by elements: `…alice` is no prefix of `…alice2`."""
    return prefix == ROOT or uri == prefix or (uri.startswith(prefix) and uri[len(prefix)] == "/")


def namespace_of(uri: URI) -> str:
    """The namespace's name when the first element is `cld.Namespace.<name>`, else the empty string."""
    if not uri.startswith("cld:cld.Namespace."):
        return ""
    end = uri.find("/")
    return uri[len("cld:cld.Namespace.") : end if end >= 0 else None]


def is_type(text: str) -> bool:
    """Whether `text` is a type, `package.Name`."""
    return _TYPE.fullmatch(text) is not None


def sort_key(uri: URI) -> tuple[str, ...]:
    """Tree order: a resource comes before what is below it, siblings in order of their elements."""
    return elements_of(uri)


def why_not(text: str) -> str | None:
    """The first thing that keeps `text` from being a canonical URI, None when it is one."""
    if not text.startswith("cld:"):
        return "it does not start with 'cld:'; write cld:<package>.<Name>.<id>/…"
    if text == ROOT:
        return "it is the prefix of everything, not a resource; add an element such as common.Message.m1"
    if len(text) + len(SUFFIX) > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes as a path"
    for position, char in enumerate(text):
        if (reason := _char_refused(char)) is not None:
            return f"{reason} at position {position}"
    elements = text[4:].split("/")
    if len(elements) > MAX_DEPTH:
        return f"it has {len(elements)} elements; at most {MAX_DEPTH} are allowed"
    for index, element in enumerate(elements):
        room = MAX_ELEMENT_BYTES - len(SUFFIX) - (_SCHEME_BYTES if index == 0 else 0)
        if (reason := _element_refused(element, room)) is not None:
            return f"element {index + 1} ({element[:80]!r}) {reason}"
    return None


def _char_refused(char: str) -> str | None:
    match char:
        case "%":
            return "'%' escapes are not decoded; write the character itself"
        case "?" | "#":
            return f"{char!r} starts a query or fragment, which resources do not have"
        case "\\":
            return "a backslash is no separator; write '/'"
        case _ if char.isascii() and char.isprintable():
            return None
        case _:
            name = unicodedata.name(char, "a control character")
            return f"only ASCII letters, digits, '_', '-', '.', '/' are allowed, not U+{ord(char):04X} ({name})"


def _element_refused(element: str, room: int) -> str | None:
    if element == "":
        return "is empty; there is one '/' between elements and none at the end"
    if element in {".", ".."}:
        return "is a relative path step; URIs have none"
    if len(element) > room:
        return f"is longer than {room} bytes, which with its '.json' is what a file name may have"
    if _ELEMENT.fullmatch(element):
        return None
    type, dot, id = element.rpartition(".")
    if not dot or not _TYPE.fullmatch(type):
        return "is not <package>.<Name>.<id>, as in common.Message.m1"
    if not _ID.fullmatch(id):
        return "has an id that is not 1 to 128 of A-Z a-z 0-9 _ -"
    return "is no element"  # pragma: no cover - every way to fail the pattern is named above
