"""The errors cld raises, one tree, each also the builtin a Python caller would expect.

    CldError
    ├── InvalidURI          (ValueError)         a text that is no canonical cld: URI
    ├── InvalidResource     (ValueError)         bytes on disk, or a draft, that are no valid resource
    ├── InvalidArgument     (ValueError)         an argument of a call that does not fit
    ├── ResourceNotFound    (FileNotFoundError)  nothing there, or nothing the caller may know of
    ├── Conflict                                 the version asked for is not the version there
    ├── AccessDenied        (PermissionError)    policy said no, with its reasons
    ├── ApprovalRequired    (PermissionError)    policy said yes, once a person agrees
    ├── PolicyError                              rules or data that cannot be compiled or loaded
    ├── StoreError          (OSError)            the storage failed: the write is not acknowledged
    ├── Unsupported                              a store that does not promise what was asked of it
    ├── ConfigError         (ValueError)         settings that cannot be used
    ├── InvalidTransition   (ValueError)         a step a task cannot take from the state it is in
    ├── BudgetExceeded                           what is left of a budget is not enough
    ├── LeaseLost                                somebody else works the task now, or it was stopped
    ├── ModelFailed                              no model gave an answer that can be used
    └── ToolFailed                               a tool could not do what it was called for

Every message says what was wrong, where, and what to do. They are translated to
MCP in one place, `cld.server`, and to exit codes in one place, `cld.cli`.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class CldError(Exception):
    """Any failure cld reports on purpose; `code` is stable and meant for programs."""

    code = "error"

    def details(self) -> dict[str, Any]:
        """Facts for a program that wants to act on the error, safe to show to the caller."""
        return {}


class InvalidURI(CldError, ValueError):
    code = "invalid_uri"


class InvalidResource(CldError, ValueError):
    """Bytes or a draft that are no valid resource; `line` and `column` are 1-based where known."""

    code = "invalid_resource"

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column

    def details(self) -> dict[str, Any]:
        return {} if self.line is None else {"line": self.line, "column": self.column}


class InvalidArgument(CldError, ValueError):
    """An argument that does not fit; `field` is its path, as in `tasks[2].after`."""

    code = "invalid_argument"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field

    def details(self) -> dict[str, Any]:
        return {"field": self.field}


class ResourceNotFound(CldError, FileNotFoundError):
    """The same words for a missing and for a denied resource: the text must not tell them apart."""

    code = "not_found"

    def __init__(self, uri: str, version: str | None = None) -> None:
        what = uri if version is None else f"version {version} of {uri}"
        super().__init__(f"no such resource: {what}, or you may not read it; resource_list shows what you can read")
        self.uri = uri

    def __str__(self) -> str:
        # OSError.__str__ would print errno forms for two-argument tuples.
        return str(self.args[0])

    def details(self) -> dict[str, Any]:
        return {"uri": self.uri}


class Conflict(CldError):
    """The version given is not the version there; `current` is the one there, None for nothing."""

    code = "conflict"

    def __init__(self, message: str, *, uri: str, current: str | None) -> None:
        super().__init__(message)
        self.uri = uri
        self.current = current

    def details(self) -> dict[str, Any]:
        return {"uri": self.uri, "current_version": self.current}


class AccessDenied(CldError, PermissionError):
    """Policy said no; `reasons` are the rules' own words."""

    code = "access_denied"

    def __init__(self, action: str, uri: str, reasons: Sequence[str]) -> None:
        why = "; ".join(reasons) or "no rule allows it"
        super().__init__(f"not allowed to {action} {uri}: {why}")
        self.action = action
        self.uri = uri
        self.reasons = tuple(reasons)

    def __str__(self) -> str:
        return str(self.args[0])

    def details(self) -> dict[str, Any]:
        return {"action": self.action, "uri": self.uri, "reasons": list(self.reasons)}


class ApprovalRequired(CldError, PermissionError):
    """Policy allows the action once a person has agreed to it; `obligation` is what policy asked for."""

    code = "approval_required"

    def __init__(self, action: str, uri: str, obligation: Mapping[str, Any]) -> None:
        why = obligation.get("reason") or "policy asks for approval"
        super().__init__(f"{action} of {uri} needs a person's approval: {why}")
        self.action = action
        self.uri = uri
        self.obligation = dict(obligation)

    def __str__(self) -> str:
        return str(self.args[0])

    def details(self) -> dict[str, Any]:
        return {"action": self.action, "uri": self.uri, "require_approval": self.obligation}


class PolicyError(CldError):
    code = "policy_error"


class StoreError(CldError, OSError):
    """The storage failed: not acknowledged, which is not the same as undone."""

    code = "store_error"

    def __str__(self) -> str:
        return str(self.args[0])


class Unsupported(CldError):
    code = "unsupported"


class ConfigError(CldError, ValueError):
    code = "config_error"


class InvalidTransition(CldError, ValueError):
    code = "invalid_transition"


class BudgetExceeded(CldError):
    """What is left of a budget is not enough; `what` is tokens, money, calls or seconds, `uri` whose budget it is."""

    code = "budget_exceeded"

    def __init__(self, message: str, *, what: str, uri: str = "") -> None:
        super().__init__(message)
        self.what = what
        self.uri = uri

    def details(self) -> dict[str, Any]:
        return {"what": self.what, "uri": self.uri}


class LeaseLost(CldError):
    code = "lease_lost"


class ModelFailed(CldError):
    """No model gave an answer that can be used; `reasons` says why of each that was tried.

    `kinds` are those of docs/models.md, of each of the last tries, where models were asked. `tokens` and `money` are
    what the tries cost all the same.
    """

    code = "model_failed"

    def __init__(
        self,
        message: str,
        *,
        reasons: Sequence[str] = (),
        kinds: Sequence[str] = (),
        tokens: int = 0,
        money: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        self.kinds = tuple(kinds)
        self.tokens = tokens
        self.money = money

    def details(self) -> dict[str, Any]:
        return {"reasons": list(self.reasons)}


class ToolFailed(CldError):
    """A tool could not do what it was called for; `kind` is stable: crashed, timed_out, rate_limited, failed, …"""

    code = "tool_failed"

    def __init__(self, message: str, *, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind

    def details(self) -> dict[str, Any]:
        return {"kind": self.kind}
