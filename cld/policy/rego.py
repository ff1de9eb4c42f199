"""The policy of a folder, answering: implements `cld.policy.Policy` with compiled rules.

Owns the way from a question to a decision, and failing closed on it. There is one engine and no
way around it: whatever goes wrong, the answer is no.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import anyio.to_thread

from cld.errors import CldError, InvalidArgument, PolicyError
from cld.policy import Action, Context, Decision
from cld.policy.cache import private_folder
from cld.policy.evaluator import MEMORY_BYTES, Evaluator, Grounds
from cld.policy.folder import NO_REVISION, OnError, PolicyFolder
from cld.policy.input import build_input
from cld.principal import Principal
from cld.uri import URI

logger = logging.getLogger(__name__)


class RegoPolicy:
    """The rules and data of a folder, always as they are now; make one with `open`."""

    def __init__(self, folder: PolicyFolder) -> None:
        self._folder = folder

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        on_error: OnError = "last_good",
        timeout_ms: int = 100,
        opa: str = "",
        memory_bytes: int = MEMORY_BYTES,
    ) -> Self:
        """The policy of `folder`, loaded; compiled first, where its sources are not those of its lock.

        Never fails: without a good policy it denies everything and says why, in every decision and in
        `problems`. Blocks for as long as `opa` takes, where it has to compile.
        """
        found = PolicyFolder(
            folder.absolute(),
            on_error=on_error,
            timeout_ms=timeout_ms,
            opa=opa,
            cache=private_folder("wasm"),
            memory_bytes=memory_bytes,
        )
        found.load()
        found.look_at_sources()
        return cls(found)

    @property
    def folder(self) -> Path:
        return self._folder.path

    @property
    def revision(self) -> str:
        return self._folder.in_force.revision

    @property
    def needs_meta(self) -> bool:
        self._folder.current()
        return self._folder.in_force.needs_meta

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the folder now, in words; nothing when all of it is in force."""
        return self._folder.problems()

    def decide(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Decision:
        """The decision; also when the rules fail, time out or answer nonsense, which is a no."""
        question = b""
        revision = NO_REVISION
        try:
            now = self._folder.current()
            revision = now.revision
            question = build_input(principal, action, uri, context, meta)
            if now.evaluator is None:
                return Decision(allow=False, reasons=(now.refusal,), revision=revision, input=question)
            answer = now.evaluator.decide(question)
            if answer.obligations and (wrong := _wrong(answer.obligations)):
                raise PolicyError(wrong)
        except CldError as error:
            return Decision(allow=False, reasons=(f"policy error: {error}",), revision=revision, input=question)
        except Exception as error:  # whatever it was, the answer is no
            logger.exception("a policy decision failed")
            return Decision(allow=False, reasons=(f"policy error: {error!r}",), revision=revision, input=question)
        reasons = tuple(answer.reasons)
        if not answer.allow:
            return Decision(allow=False, reasons=reasons or ("no rule allows it",), revision=revision, input=question)
        return Decision(allow=True, reasons=reasons, obligations=answer.obligations, revision=revision, input=question)

    def filter(
        self,
        principal: Principal,
        action: Action,
        uris: Sequence[URI],
        context: Context,
        metas: Sequence[Mapping[str, str]] | None = None,
    ) -> list[bool]:
        """As `Policy.filter`; nothing is allowed when the rules fail."""
        try:
            now = self._folder.current()
            if now.evaluator is None or not uris or (metas is not None and len(metas) != len(uris)):
                return [False] * len(uris)
            return now.evaluator.allowed(build_input(principal, action, uris, context, metas), len(uris))
        except InvalidArgument:
            # One that cannot be asked about must not take the others with it.
            return self._each(principal, action, uris, context, metas)
        except Exception:  # whatever it was, the answer is no
            logger.exception("policy could not filter %d resources; none is allowed", len(uris))
            return [False] * len(uris)

    def grounds(
        self, principal: Principal, action: Action, uri: URI, context: Context, meta: Mapping[str, str] | None = None
    ) -> Grounds:
        """The rules' own account of a decision, by the same rules.

        Raises:
            PolicyError: there is no policy in force, or it cannot explain.
            InvalidArgument: the question cannot be asked.
        """
        return self._evaluator().explain(build_input(principal, action, uri, context, meta))

    def answer(self, question: bytes) -> Decision:
        """The decision for an input as logged, to compare policies with.

        Raises:
            PolicyError: there is no policy in force, or the rules fail.
        """
        answer = self._evaluator().decide(question)
        return Decision(
            allow=answer.allow,
            reasons=tuple(answer.reasons),
            obligations=answer.obligations,
            revision=self._folder.in_force.revision,
            input=question,
        )

    async def refresh(self) -> bool:
        """Look at everything in the folder, compile what needs it, load it; whether something else is in force now.

        Compiling takes a second or so in a thread; decisions go on meanwhile with what is in force.
        """
        before = self._folder.in_force
        await anyio.to_thread.run_sync(self._look_again)
        return self._folder.in_force is not before

    def _look_again(self) -> None:
        self._folder.current()
        self._folder.look_at_sources()

    def _evaluator(self) -> Evaluator:
        now = self._folder.current()
        if now.evaluator is None:
            raise PolicyError(now.refusal)
        return now.evaluator

    def _each(
        self, principal: Principal, action: Action, uris: Sequence[URI], context: Context, metas: Any
    ) -> list[bool]:
        return [
            self.decide(principal, action, uri, context, None if metas is None else metas[index]).allow
            for index, uri in enumerate(uris)
        ]


def _wrong(obligations: Mapping[str, Any]) -> str:
    """What is wrong with the obligations that everyone knows; the rules may make others."""
    approval, tokens = obligations.get("require_approval", {}), obligations.get("max_tokens", 0)
    if not isinstance(approval, Mapping):
        return "the rules gave a require_approval that is no object"
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        return "the rules gave a max_tokens that is no whole number"
    return ""
