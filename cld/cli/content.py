"""Content given on the command line: bytes that must be one JSON object."""

import re
from typing import Any

import msgspec

from cld.errors import InvalidArgument

_decoder = msgspec.json.Decoder(dict[str, Any])
_BYTE = re.compile(r" ?\(byte (\d+)\)")


def parse_content(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        InvalidArgument: it is none; says where in `name`, with line and column.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = _BYTE.sub("", str(error))
        place = ""
        if found := _BYTE.search(str(error)):
            before = data[: int(found[1])]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            place = f" line {line}, column {column}:"
        hint = "" if data.lstrip()[:1] == b"{" else "; for plain text add --text"
        raise InvalidArgument(f"{name} is no JSON object:{place} {reason}{hint}", field="content") from None
