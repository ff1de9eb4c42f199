"""The model that goes on: a chain of models, and the one that is always there while none of them can be asked.

Owns when that is so: every tier that a question is for is out of reach, or its settings or price do not let it be
asked. A model that answered badly, refused, failed, took too long, or was not to be paid for is not replaced.
"""

import logging

from msgspec.structs import replace

from cld.errors import ModelFailed
from cld.models import Ask, Completion, More, NoModel, OnText
from cld.models.failures import NOT_USABLE
from cld.models.offline import NAME, Offline
from cld.models.router import Router
from cld.types import Usage

log = logging.getLogger("cld.models")


class Fallback:
    """A `Model` that is a `router`, else `Offline`; it says when it changes from one to the other."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._offline = Offline()
        self._without: set[tuple[str, bool]] = set()
        self.answers = 0
        """How many answers were given without the router."""

    @property
    def generates(self) -> bool:
        """As `Model.generates`; not where no tier can be asked as the settings are."""
        return self._router.generates

    @property
    def is_offline(self) -> bool:
        """Whether some questions are answered without the router now."""
        return bool(self._without)

    async def bound(self, ask: Ask) -> Usage:
        """As `Model.bound`, of the router: answering without it costs nothing."""
        return await self._router.bound(ask)

    async def complete(
        self, ask: Ask, on_text: OnText | None = None, *, left: Usage | None = None, more: More | None = None
    ) -> Completion:
        """As `Model.complete`, by a model that is called `offline` where no tier can be asked.

        Raises:
            ModelFailed, BudgetExceeded: as `Model.complete`.
            NoModel: no tier can be asked, and without one the question cannot be answered.
        """
        try:
            completion = await self._router.complete(ask, on_text, left=left, more=more)
        except ModelFailed as failed:
            if not failed.kinds or not NOT_USABLE.issuperset(failed.kinds):
                self._found(ask)
                raise
            self._lost(ask, failed)
            return await self._without_router(ask, on_text, failed)
        if completion.usage.requests:  # and not out of the cache
            self._found(ask)
        return completion

    async def _without_router(self, ask: Ask, on_text: OnText | None, failed: ModelFailed) -> Completion:
        try:
            completion = await self._offline.complete(ask, on_text)
        except NoModel as cannot:
            reasons = (*failed.reasons, *cannot.reasons)
            message = f"{cannot}; {failed}"
            raise NoModel(message, reasons=reasons, tokens=failed.tokens, money=failed.money) from failed
        self.answers += 1
        return replace(completion, usage=Usage(tokens=failed.tokens, money=failed.money))

    def _lost(self, ask: Ask, failed: ModelFailed) -> None:
        if (which := (ask.tier, ask.reasoning)) not in self._without:
            self._without.add(which)
            kinds = ", ".join(dict.fromkeys(failed.kinds))
            log.warning("no model can be asked%s (%s); the model is %s until one can", _for(ask), kinds, NAME)

    def _found(self, ask: Ask) -> None:
        if (which := (ask.tier, ask.reasoning)) in self._without:
            self._without.remove(which)
            log.warning("models can be asked again%s", _for(ask))


def _for(ask: Ask) -> str:
    """Which questions are meant."""
    return " for planning and judging" if ask.reasoning else f" from tier {ask.tier} on" if ask.tier else ""
