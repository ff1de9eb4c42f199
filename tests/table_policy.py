"""A policy as a Python function, for tests of what is done with decisions rather than how they are made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cld.errors import PolicyError
from cld.policy import Action, Context, Decision
from cld.principal import Principal
from cld.uri import URI

Rule = Callable[[Principal, Action, URI, Mapping[str, str] | None], bool]


class TablePolicy:
    """Implements `cld.policy.Policy`; `questions` counts what was asked."""

    revision = "table"

    def __init__(
        self, rule: Rule, *, needs_meta: bool = False, obligations: Mapping[Action, Mapping[str, Any]] | None = None
    ) -> None:
        self.rule = rule
        self.needs_meta = needs_meta
        self.obligations = obligations or {}
        self.questions: list[tuple[str, Action, URI, Mapping[str, str] | None]] = []

    def decide(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Decision:
        self.questions.append((principal.id, action, uri, meta))
        allow = self.rule(principal, action, uri, meta)
        return Decision(
            allow=allow,
            reasons=() if allow else (f"the table denies {action}",),
            obligations=self.obligations.get(action, {}) if allow else {},
            revision=self.revision,
        )

    def filter(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Mapping[str, str]] | None = None,
    ) -> list[bool]:
        return [
            self.decide(principal, action, uri, context, None if metas is None else metas[index]).allow
            for index, uri in enumerate(uris)
        ]


class ListJournal:
    """Implements `cld.guard.Journal` in memory; `broken` makes it fail as a full disk would."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.broken = False

    def decided(self, *line: Any) -> None:
        self._write(line)

    def filtered(self, *line: Any) -> None:
        self._write(line)

    def counted(self, *line: Any) -> None:
        self._write(("counted", *line))

    def _write(self, line: tuple[Any, ...]) -> None:
        if self.broken:
            raise PolicyError("the decision log cannot be written; free some space")
        self.lines.append(line)
