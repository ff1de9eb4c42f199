"""The question put to policy: one principal, everyone it acts for, and a journal of every answer.

An assistant acts on behalf of a principal: each of the chain is asked, and all must be allowed.
That intersection is made here and not in the rules, so that no policy can forget it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from cld.errors import AccessDenied, ApprovalRequired
from cld.policy import Action, Context, Decision, Policy
from cld.principal import Principal
from cld.uri import URI

Metas = Mapping[str, str] | None


class Journal(Protocol):
    """Where decisions are written down; raises PolicyError when it cannot, and then nothing happens."""

    def decided(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Metas, decision: Decision
    ) -> None: ...

    def filtered(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Metas] | None,
        allowed: Sequence[bool],
        revision: str,
    ) -> None: ...

    def counted(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Metas] | None,
        allowed: Sequence[bool],
        revision: str,
    ) -> None:
        """As `filtered`, in room that does not grow with the number of `uris`."""
        ...


class Guard:
    """What one principal may do under one policy, each answer written to the journal.

    With `brief`, filters of many resources are counted there instead of named one by one: for what reads
    everything again and again.
    """

    def __init__(self, principal: Principal, policy: Policy, journal: Journal, *, brief: bool = False) -> None:
        self.principal = principal
        self._policy = policy
        self._journal = journal
        self._brief = brief
        self._chain = principal.chain()

    @property
    def needs_meta(self) -> bool:
        """Whether a decision needs the resource's meta, and so the file read first."""
        return self._policy.needs_meta

    def decide(self, action: Action, uri: URI, context: Context, meta: Metas = None) -> Decision:
        """The policy's decision for the principal and everyone it acts for: allowed only if all are.

        Obligations of all are joined; of two numbers for one obligation the smaller counts.
        """
        decision = None
        for principal in self._chain:
            one = self._policy.decide(principal, action, uri, context, meta)
            self._journal.decided(principal, action, uri, context, meta, one)
            if not one.allow:
                return one
            decision = one if decision is None else _join(decision, one)
        assert decision is not None  # a chain has at least its first principal
        return decision

    def allows(self, action: Action, uri: URI, context: Context, meta: Metas = None) -> bool:
        return self.decide(action, uri, context, meta).allow

    def require(
        self, action: Action, uri: URI, context: Context, meta: Metas = None, *, approved: bool = False
    ) -> Decision:
        """The decision, when it is yes.

        Raises:
            AccessDenied: the policy says no.
            ApprovalRequired: it says yes once a person agrees, and none has (`approved`).
        """
        decision = self.decide(action, uri, context, meta)
        if not decision.allow:
            raise AccessDenied(action, uri, decision.reasons)
        if (obligation := decision.obligations.get("require_approval")) and not approved:
            raise ApprovalRequired(action, uri, _mapping(obligation))
        return decision

    def filter(
        self,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Metas] | None = None,
        *,
        brief: bool = False,
    ) -> list[bool]:
        """For each of `uris` what `allows` would say, in one evaluation a principal of the chain."""
        write = self._journal.counted if brief or self._brief else self._journal.filtered
        allowed = [True] * len(uris)
        for principal in self._chain:
            if not uris:
                break
            known = None if metas is None else [meta or {} for meta in metas]
            one = self._policy.filter(principal, action, uris, context, known)
            write(principal, action, uris, context, metas, one, self._policy.revision)
            allowed = [a and b for a, b in zip(allowed, one, strict=True)]
        return allowed


def _join(one: Decision, other: Decision) -> Decision:
    joined = dict(one.obligations)
    for name, value in other.obligations.items():
        mine = joined.get(name)
        both_numbers = isinstance(mine, (int, float)) and isinstance(value, (int, float))
        joined[name] = min(mine, value) if both_numbers else mine or value
    return Decision(allow=True, reasons=(*one.reasons, *other.reasons), obligations=joined, revision=other.revision)


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
