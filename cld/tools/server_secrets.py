"""Secrets of a tool server: taken from cld's environment when it starts, and hidden in whatever comes back.

A resource says `$NAME`, never the value. What a server, a library or the system says may hold the value all the
same, so nothing of it is logged, raised or returned before `Secrets.hide`.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from cld.errors import ToolFailed
from cld.hiding import forms_of
from cld.types import Server

HIDDEN = "[hidden]"
LEAST = 4
"""Shorter values are no secrets, and would be found in any text."""

_NAME = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*))")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


def named(value: str) -> list[str]:
    """The environment variables that `value` names; `$$` is a dollar sign."""
    return [found[1] for found in _NAME.finditer(value) if found[1]]


class Secrets:
    """The values one server is given; made anew for each start, so that a changed environment counts."""

    def __init__(self, server: Server, environment: Mapping[str, str]) -> None:
        """Look up what `server` names.

        Raises:
            ToolFailed: a variable is not set, or its value cannot be sent; names it, without the value.
        """
        self._values: set[str] = set()
        self.env = {key: self._resolved(f"env {key}", value, environment) for key, value in server.env.items()}
        self.headers = {
            key: self._resolved(f"header {key}", value, environment) for key, value in server.headers.items()
        }
        for key, value in self.env.items():
            if not key or "=" in key or "\0" in key + value:
                raise ToolFailed(f"env {key!r} is no environment variable; correct it", kind="misconfigured")
        for key, value in self.headers.items():
            # Checked here because a library's error would quote the value.
            if not _HEADER_NAME.fullmatch(key) or not _HEADER_VALUE.fullmatch(value) or value != value.strip():
                raise ToolFailed(
                    f"header {key!r} cannot be sent: names and values are printable ASCII without surrounding "
                    "spaces or line ends; correct it, or the variable it names",
                    kind="misconfigured",
                )
        forms = {form for value in self._values if len(value) >= LEAST for form in forms_of(value)}
        # Longest first: one secret may begin with another.
        self._forms = sorted((form for form in forms if len(form) >= LEAST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._forms))) if self._forms else None

    def hide(self, text: str) -> str:
        """`text` with every secret in it replaced."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def hide_cut(self, text: str) -> str:
        """As `hide`, for a text that was cut off before it came here: perhaps within a secret."""
        text = self.hide(text)
        for form in self._forms:
            for most in range(min(len(form) - 1, len(text)), LEAST - 1, -1):
                if text.endswith(form[:most]):
                    return text[:-most] + HIDDEN
        return text

    def hide_in(self, value: Any) -> Any:
        """A JSON value with every secret in its texts and keys replaced."""
        if self._pattern is None:
            return value
        match value:
            case str():
                return self.hide(value)
            case dict():
                pairs = cast("dict[str, Any]", value).items()
                return {self.hide(key): self.hide_in(inner) for key, inner in pairs}
            case list():
                return [self.hide_in(inner) for inner in cast("list[Any]", value)]
            case _:
                return value

    def _resolved(self, where: str, value: str, environment: Mapping[str, str]) -> str:
        def put_in(found: re.Match[str]) -> str:
            name = found[1]
            if not name:
                return "$"
            if name not in environment:
                raise ToolFailed(
                    f"{where} names ${name}, which is not set where cld runs; set it there and start cld again",
                    kind="misconfigured",
                )
            self._values.add(environment[name])
            return environment[name]

        return _NAME.sub(put_in, value)
