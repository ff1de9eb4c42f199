"""Errors: one tree, each also the builtin a Python caller expects, with words and facts."""

import inspect
import json
import re

import pytest

from cld import errors
from cld.errors import (
    AccessDenied,
    ApprovalRequired,
    BudgetExceeded,
    CldError,
    ConfigError,
    Conflict,
    InvalidArgument,
    InvalidResource,
    InvalidTransition,
    InvalidURI,
    LeaseLost,
    ModelFailed,
    PolicyError,
    ResourceNotFound,
    StoreError,
    ToolFailed,
    Unsupported,
)

EXAMPLES: list[tuple[CldError, str, dict[str, object], type[Exception]]] = [
    (InvalidURI("no URI"), "invalid_uri", {}, ValueError),
    (InvalidResource("broken"), "invalid_resource", {}, ValueError),
    (InvalidResource("broken", line=2, column=7), "invalid_resource", {"line": 2, "column": 7}, ValueError),
    (InvalidArgument("no", field="tasks[2].after"), "invalid_argument", {"field": "tasks[2].after"}, ValueError),
    (ResourceNotFound("cld:a.B.c"), "not_found", {"uri": "cld:a.B.c"}, FileNotFoundError),
    (ResourceNotFound("cld:a.B.c", "v1"), "not_found", {"uri": "cld:a.B.c"}, FileNotFoundError),
    (
        Conflict("changed", uri="cld:a.B.c", current="v2"),
        "conflict",
        {"uri": "cld:a.B.c", "current_version": "v2"},
        CldError,
    ),
    (
        AccessDenied("read", "cld:a.B.c", ["not yours"]),
        "access_denied",
        {"action": "read", "uri": "cld:a.B.c", "reasons": ["not yours"]},
        PermissionError,
    ),
    (
        ApprovalRequired("call", "cld:a.B.c", {"reason": "it deletes", "role": "owner"}),
        "approval_required",
        {"action": "call", "uri": "cld:a.B.c", "require_approval": {"reason": "it deletes", "role": "owner"}},
        PermissionError,
    ),
    (PolicyError("no rules"), "policy_error", {}, CldError),
    (StoreError("disk full"), "store_error", {}, OSError),
    (Unsupported("no versions"), "unsupported", {}, CldError),
    (ConfigError("no such setting"), "config_error", {}, ValueError),
    (InvalidTransition("it is over"), "invalid_transition", {}, ValueError),
    (
        BudgetExceeded("100 tokens left", what="tokens", uri="cld:plan.Task.t"),
        "budget_exceeded",
        {"what": "tokens", "uri": "cld:plan.Task.t"},
        CldError,
    ),
    (LeaseLost("another process works it"), "lease_lost", {}, CldError),
    (
        ModelFailed("none answered", reasons=["a: timed out"], tokens=7),
        "model_failed",
        {"reasons": ["a: timed out"]},
        CldError,
    ),
    (ToolFailed("it crashed", kind="crashed"), "tool_failed", {"kind": "crashed"}, CldError),
]


@pytest.mark.parametrize(("error", "code", "details", "builtin"), EXAMPLES)
def test_an_error_has_a_code_facts_for_programs_and_is_the_builtin_too(
    error: CldError, code: str, details: dict[str, object], builtin: type[Exception]
) -> None:
    assert error.code == code
    assert error.details() == details == json.loads(json.dumps(error.details()))
    with pytest.raises(builtin):
        raise error
    assert isinstance(error, CldError)


def test_every_error_is_in_the_tree_that_the_module_shows() -> None:
    shown = dict(re.findall(r"── (\w+) +(?:\((\w+)\))?", errors.__doc__ or ""))
    defined = {
        name: value
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, CldError) and value is not CldError
    }
    assert shown.keys() == defined.keys() == {type(error).__name__ for error, *_ in EXAMPLES}
    for name, value in defined.items():
        assert value.__bases__[1:] == ((getattr(__import__("builtins"), shown[name]),) if shown[name] else ())
    assert len({value.code for value in defined.values()}) == len(defined)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("put of cld:a.B.c failed: no space left"), "put of cld:a.B.c failed: no space left"),
        (AccessDenied("read", "cld:a.B.c", []), "not allowed to read cld:a.B.c: no rule allows it"),
        (AccessDenied("read", "cld:a.B.c", ["one", "two"]), "not allowed to read cld:a.B.c: one; two"),
        (ApprovalRequired("call", "cld:a.B.c", {}), "needs a person's approval: policy asks for approval"),
        (ApprovalRequired("call", "cld:a.B.c", {"reason": "it deletes"}), "needs a person's approval: it deletes"),
    ],
)
def test_errors_that_are_os_errors_speak_plainly(error: CldError, said: str) -> None:
    assert str(error).endswith(said)
    assert getattr(error, "errno", None) is None


def test_a_missing_resource_is_told_in_words_that_fit_a_denied_one() -> None:
    said = str(ResourceNotFound("cld:a.B.c"))
    assert said.startswith("no such resource: cld:a.B.c, or you may not read it; ")
    assert str(ResourceNotFound("cld:a.B.c", "v1")) == said.replace("cld:a.B.c", "version v1 of cld:a.B.c")


def test_what_an_error_tells_is_not_changed_by_what_it_was_made_of() -> None:
    reasons, obligation = ["one"], {"reason": "x"}
    denied, asked = AccessDenied("read", "cld:a.B.c", reasons), ApprovalRequired("call", "cld:a.B.c", obligation)
    reasons.append("two")
    obligation["reason"] = "y"
    assert denied.details()["reasons"] == ["one"]
    assert asked.details()["require_approval"] == {"reason": "x"}
