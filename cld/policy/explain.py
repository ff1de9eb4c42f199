"""Why a decision is what it is, and what another policy would have made of decisions already taken."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cld.errors import CldError, PolicyError
from cld.policy import Action, Context
from cld.policy.evaluator import Answer, Grounds
from cld.policy.input import Metas, resource_input
from cld.policy.log import log_files
from cld.policy.rego import RegoPolicy
from cld.principal import Principal
from cld.uri import URI


class Explanation(msgspec.Struct, frozen=True):
    """The decision on one principal, and the entries of data.json that had a part in it.

    `subjects` are the names under which data.json knows the principal; an entry of `grants` and `denies` is
    `{subject, place, rule}`.
    """

    principal: str
    allow: bool
    reasons: tuple[str, ...]
    obligations: Mapping[str, Any]
    subjects: tuple[str, ...]
    grants: tuple[Mapping[str, Any], ...]
    denies: tuple[Mapping[str, Any], ...]
    revision: str


class Changed(msgspec.Struct, frozen=True):
    """A logged decision that the other policy makes differently: by its answer or what it is tied to."""

    time: str
    principal: str
    action: str
    uri: str
    before: bool
    after: bool
    reasons: tuple[str, ...]
    obligations_before: Mapping[str, Any]
    obligations_after: Mapping[str, Any]


class _Answered(msgspec.Struct):
    allow: bool
    obligations: dict[str, Any] = {}


class _Question(msgspec.Struct):
    principal: dict[str, Any]
    action: str
    context: dict[str, Any]
    uris: list[str] = []
    metas: list[dict[str, str] | None] | None = None


class _Group(msgspec.Struct):
    allow: bool
    examples: list[str]
    metas: list[dict[str, str] | None] | None = None


class _Line(msgspec.Struct):
    """A line of the log: `input` and `decision`, `filter` and `allowed`, or `count` and `groups`."""

    time: str
    input: msgspec.Raw = msgspec.Raw()
    decision: _Answered | None = None
    filter: _Question | None = None
    allowed: list[bool] = []
    count: _Question | None = None
    groups: list[_Group] = []


class _Named(msgspec.Struct):
    id: str


class _Placed(msgspec.Struct):
    uri: str


class _Asked(msgspec.Struct):
    principal: _Named
    action: str
    resource: _Placed


_lines = msgspec.json.Decoder(_Line)
_asked = msgspec.json.Decoder(_Asked)


def explain(
    policy: RegoPolicy,
    principal: Principal,
    action: Action,
    uri: URI,
    context: Context | None = None,
    meta: Metas = None,
) -> tuple[Explanation, ...]:
    """Why, for the principal and everyone it acts for; the access is allowed when each of them is.

    Where there is no policy in force, that is the reason given.
    """
    return tuple(_explained(policy, one, action, uri, context or Context(), meta) for one in principal.chain())


def replay(log: Path, policy: RegoPolicy) -> Iterator[Changed]:
    """The decisions in a log (a file, or a folder of them) that `policy` would make differently.

    Of a line that counts many resources those it names are decided on. Lines that cannot be read, such as one cut
    off by a full disk, are passed over.

    Raises:
        PolicyError: there is no such log, or the policy has none in force.
    """
    if problems := policy.problems():
        raise PolicyError("; ".join(problems))
    files = log_files(log) if log.is_dir() else [log]
    for file in files:
        try:
            with file.open("rb") as lines:
                for line in lines:
                    yield from _replayed(line, policy)
        except OSError as error:
            raise PolicyError(f"the log {file} cannot be read: {error.strerror}") from error


def _explained(
    policy: RegoPolicy, principal: Principal, action: Action, uri: URI, context: Context, meta: Metas
) -> Explanation:
    decision = policy.decide(principal, action, uri, context, meta)
    try:
        grounds = policy.grounds(principal, action, uri, context, meta)
    except CldError:
        grounds = Grounds(decision=Answer(allow=False, reasons=[], obligations={}), subjects=[], grants=[], denies=[])
    return Explanation(
        principal=principal.id,
        allow=decision.allow,
        reasons=decision.reasons,
        obligations=decision.obligations,
        subjects=tuple(sorted(grounds.subjects)),
        grants=tuple(grounds.grants),
        denies=tuple(grounds.denies),
        revision=decision.revision,
    )


def _replayed(line: bytes, policy: RegoPolicy) -> Iterator[Changed]:
    try:
        found = _lines.decode(line)
        questions = list(_questions(found))
    except (CldError, msgspec.MsgspecError, UnicodeDecodeError):
        return
    for question, before in questions:
        asked = _asked.decode(question)
        allow, reasons, obligations = _answer(policy, question)
        # The log of a filter says nothing of obligations.
        obliged = before.obligations if found.decision is not None else obligations
        if allow != before.allow or obligations != obliged:
            yield Changed(
                time=found.time,
                principal=asked.principal.id,
                action=asked.action,
                uri=asked.resource.uri,
                before=before.allow,
                after=allow,
                reasons=reasons,
                obligations_before=obliged,
                obligations_after=obligations,
            )


def _answer(policy: RegoPolicy, question: bytes) -> tuple[bool, tuple[str, ...], Mapping[str, Any]]:
    try:
        decision = policy.answer(question)
    except PolicyError as error:
        return False, (f"policy error: {error}",), {}
    return decision.allow, decision.reasons, decision.obligations if decision.allow else {}


def _questions(line: _Line) -> Iterator[tuple[bytes, _Answered]]:
    """The questions of a line as rules saw them, each with the answer of then."""
    if line.decision is not None:
        yield bytes(line.input), line.decision
    if line.filter is not None:
        yield from _each(line.filter, line.filter.uris, line.filter.metas, line.allowed)
    if line.count is not None:
        for group in line.groups:
            yield from _each(line.count, group.examples, group.metas, [group.allow] * len(group.examples))


def _each(
    asked: _Question, uris: list[str], metas: list[dict[str, str] | None] | None, allowed: list[bool]
) -> Iterator[tuple[bytes, _Answered]]:
    for uri, meta, allow in zip(uris, metas or [None] * len(uris), allowed, strict=False):
        question = {
            "principal": asked.principal,
            "action": asked.action,
            "resource": resource_input(URI(uri), meta),
            "context": asked.context,
        }
        yield msgspec.json.encode(question), _Answered(allow)
