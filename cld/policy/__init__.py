"""Policy: the question that is asked for every access, and the answer. Rules are Rego, run by OPA's wasm.

This module holds the words: `Query` (what is asked), `Decision` (what came back) and `Policy` (who
answers). `cld.policy.rego` answers with the compiled rules. Whatever goes wrong between question and
answer, the answer is no.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from cld.principal import Principal
from cld.uri import URI

Action = Literal["read", "write", "delete", "list", "call", "subscribe"]
ACTIONS: tuple[Action, ...] = ("read", "write", "delete", "list", "call", "subscribe")


class Context(msgspec.Struct, frozen=True):
    """The circumstances of an access: by which tool, with what, for which task, from which host.

    `destructive` is what the tool that is called says of itself (its annotation of that name).
    """

    tool: str = ""
    arguments: Mapping[str, Any] = {}
    task: str = ""
    host: str = ""
    destructive: bool = False


class Decision(msgspec.Struct, frozen=True):
    """Yes or no, why, and what a yes is tied to. `revision` names the policy that decided.

    `input` is the question as the rules saw it, JSON, for the log; empty where none was put to them.
    """

    allow: bool
    reasons: tuple[str, ...] = ()
    obligations: Mapping[str, Any] = {}
    revision: str = ""
    input: bytes = b""


class Policy(Protocol):
    """Answers questions; never raises for a question it cannot answer, but denies and says why."""

    @property
    def revision(self) -> str:
        """Names the rules and data in force, changes when either does."""
        ...

    @property
    def needs_meta(self) -> bool:
        """Whether the rules look at `input.resource.meta`, so that a decision needs the file read first."""
        ...

    def decide(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Decision: ...

    def filter(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Mapping[str, str]] | None = None,
    ) -> list[bool]:
        """`decide(…).allow` for each of `uris`, in one evaluation; the same answers, always."""
        ...
