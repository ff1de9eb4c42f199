"""The world of work: everything the engine needs from outside, handed to it by the composition root."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from cld.assistants import CallsTools
from cld.config import Work
from cld.guard import GuardedStore, GuardedSubscription
from cld.index.election import Candidate, Election
from cld.index.window import Find
from cld.models import Model
from cld.policy import Context
from cld.principal import Principal


class Elects(Protocol):
    """Which of the candidates a request is for: `cld.knowledge.Knowledge.elect`."""

    async def __call__(
        self, store: GuardedStore, request: str, candidates: Sequence[Candidate], /, top: int
    ) -> Election: ...


class OpensStores(Protocol):
    """A store as a principal may use it: `cld.runtime.Runtime.store`."""

    def __call__(self, principal: Principal, context: Context, *, approved: bool = False) -> GuardedStore: ...


@dataclass(frozen=True)
class World:
    """What the engine works with. `find` and `elect` are None where nothing is installed that could."""

    settings: Work
    store: OpensStores
    hear: Callable[[GuardedStore, frozenset[str]], AbstractAsyncContextManager[GuardedSubscription]]
    model: Model
    calling: CallsTools
    find: Find | None = None
    elect: Elects | None = None
