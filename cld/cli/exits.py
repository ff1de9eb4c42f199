"""Exit codes: what each means, and which error ends in which. The one place that translates errors for a shell."""

from cld.errors import (
    AccessDenied,
    ApprovalRequired,
    CldError,
    ConfigError,
    Conflict,
    InvalidArgument,
    InvalidResource,
    InvalidURI,
    ResourceNotFound,
)

OK = 0
ERROR = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
CONFLICT = 5
APPROVAL = 6
INVALID = 7
OPEN = 8
INTERRUPTED = 130  # as shells report a command ended by Ctrl-C
BROKEN_PIPE = 141  # as shells report a command whose reader went away

MEANINGS = {
    OK: "done",
    ERROR: "failed, or doctor or a policy check found something",
    USAGE: "the command line or the settings cannot be used",
    NOT_FOUND: "no such resource, or none you may read",
    DENIED: "policy says no",
    CONFLICT: "the resource is not as expected: it exists, or has another version, or others below it",
    APPROVAL: "policy asks for a person's approval, which nobody gave (yet)",
    INVALID: "a file or the content given is no valid resource",
    OPEN: "the work is not over: it goes on, or waits for its client or a time",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "whoever read the output went away",
}


class UsageError(CldError):
    """The command line does not fit the grammar."""

    code = "usage"


def exit_code(error: CldError) -> int:
    """The exit code of a command that failed with `error`."""
    match error:
        case UsageError() | InvalidURI() | InvalidArgument() | ConfigError():
            return USAGE
        case ResourceNotFound():
            return NOT_FOUND
        case AccessDenied():
            return DENIED
        case Conflict():
            return CONFLICT
        case ApprovalRequired():
            return APPROVAL
        case InvalidResource():
            return INVALID
        case _:
            return ERROR
