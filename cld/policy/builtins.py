"""The built-in functions of Rego that compiled rules ask their host for. Pure; deliberately few.

Most of Rego's built-ins are inside the compiled rules. What is not has to be done here, in the same way as
OPA does it, so only what can be said exactly is offered, and nothing that gives another answer at
another time: the time of a decision is `input.context.time`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec


def sprintf(form: str, values: list[Any]) -> str:
    """Go's Sprintf for the verbs %s, %v, %d and %%, without flags or widths.

    Raises:
        ValueError: another verb, or not as many values as verbs.
    """
    parts: list[str] = []
    left = list(values)
    position = 0
    while (found := form.find("%", position)) >= 0:
        parts.append(form[position:found])
        verb = form[found + 1 : found + 2]
        if verb == "%":
            parts.append("%")
        elif not left:
            raise ValueError(f"{form!r} has more verbs than values")
        else:
            parts.append(_formatted(verb, left.pop(0)))
        position = found + 2
    if left:
        raise ValueError(f"{form!r} has fewer verbs than values")
    return "".join(parts) + form[position:]


def _formatted(verb: str, value: Any) -> str:
    match verb, value:
        case "s" | "v", str():
            return value
        case "d" | "v", int() if not isinstance(value, bool):
            return str(value)
        case "v", _:
            return msgspec.json.encode(value).decode()
        case _:
            raise ValueError(
                f"%{verb} does not fit {type(value).__name__}; use %v, or %s for texts and %d for integers"
            )


def parse_rfc3339_ns(text: str) -> int:
    """Nanoseconds since 1970 of a time such as `2026-11-21T07:34:55.123456Z`.

    Raises:
        ValueError: it is no such time, or has no offset.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no offset such as Z")
    return int(at.replace(microsecond=0).timestamp()) * 1_000_000_000 + at.microsecond * 1000


BUILTINS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"sprintf": sprintf, "time.parse_rfc3339_ns": parse_rfc3339_ns}
)
