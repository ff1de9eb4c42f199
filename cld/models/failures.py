"""Why a try gave nothing, by kind, and whether it may have cost something all the same.

Reads what litellm and its providers' libraries raise, by name, so that none of them is imported. Lets no key out.
"""

import contextlib
import os
import re
from collections.abc import Generator
from typing import Any, Literal

from cld.hiding import forms_of

Kind = Literal[
    "settings", "price", "budget", "context", "resting", "rate_limited", "unreachable", "error",
    "timed_out", "dropped", "refused", "empty", "cut_off", "schema",
]  # fmt: skip
"""Why a try gave nothing."""

NOT_USABLE: frozenset[str] = frozenset({"settings", "price", "unreachable"})
"""Why a tier cannot be asked here and now, whatever the question: nothing was asked, and nothing spent."""

_LEAST_SECRET = 6
"""Characters; what is shorter is found in any text."""

_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)\d*(?:_|$)", re.IGNORECASE)
_IN_URL = re.compile(
    r"(?<=://)[^/?#\s]*(?=@)|(?<=[?&])([\w.-]{0,40}(?:key|token|secret|sig|passw)[\w.-]{0,40}=)[^&#\s]+", re.IGNORECASE
)
# A gateway that gave up does not say what the model behind it went on to do.
_PERHAPS_WORKED = frozenset({408, 499, 502, 504, 520, 522, 524})
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionRefusedError"})
_ANSWERED_NO = frozenset({"HTTPStatusError"})
_WHERE: dict[str, Kind] = {
    "RateLimitError": "rate_limited",
    "ContextWindowExceededError": "context",
    "ContentPolicyViolationError": "refused",
    "Timeout": "timed_out",
    "AuthenticationError": "settings",
    "PermissionDeniedError": "settings",
    "NotFoundError": "settings",
}


class Failed(Exception):
    """A try that gave nothing; `spent` says whether it may have cost something, which is not known then."""

    def __init__(self, kind: Kind, reason: str, *, spent: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = reason
        self.spent = spent
        self.after = after


@contextlib.contextmanager
def told_by_kind(key: str = "") -> Generator[None]:
    """What litellm and its providers' libraries raise, as `Failed`; `key` is the one they were given."""
    try:
        yield
    except Exception as error:  # a boundary: litellm raises what its providers' libraries raise
        raise _failed(error, key) from None


def _failed(error: BaseException, key: str) -> Failed:
    names: set[str] = set()
    kind: Kind = "error"
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names.update(parent.__name__ for parent in type(cause).__mro__)
        cause = cause.__cause__ or cause.__context__
    status = getattr(error, "status_code", None)
    for name, of_name in _WHERE.items():
        if any(parent.__name__ == name for parent in type(error).__mro__):
            kind = of_name
            break
    else:
        if names & _NEVER_SENT:
            kind = "unreachable"
        elif status in (401, 403) and names & _ANSWERED_NO:
            kind = "settings"
        elif not names & _ANSWERED_NO and names & {"RemoteProtocolError", "ReadError", "APIConnectionError"}:
            kind = "dropped"
    said_no = bool(names & _ANSWERED_NO) and status not in _PERHAPS_WORKED
    wrong = bool(names & {"UnsupportedParamsError"})
    headers: Any = getattr(error, "litellm_response_headers", None) or {}
    try:
        after = max(0.0, float(headers.get("retry-after") or 0))
    except ValueError:
        after = 0.0
    return Failed(kind, clean(str(error), key), spent=not (said_no or wrong or names & _NEVER_SENT), after=after)


def clean(text: str, key: str = "") -> str:
    """A message without `key`, without what the environment or a URL calls a secret, and without end."""
    secrets = {value for name, value in os.environ.items() if _SECRET.search(name)} | {key}
    forms = {form for secret in secrets if len(secret) >= _LEAST_SECRET for form in forms_of(secret)}
    # Longest first: one may begin with another.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "…")
    text = _IN_URL.sub(r"\1…", text)
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"
