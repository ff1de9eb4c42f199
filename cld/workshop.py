"""The workshop: the models, tools and engines of one process, made of the settings on first use.

Until somebody asks for work nothing of it runs or is imported. One engine works what one principal asked for;
all of them share the models and the tools.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from cld.config import Settings
from cld.errors import AccessDenied, ApprovalRequired, CldError, Conflict
from cld.guard import Guard, GuardedStore, GuardedSubscription
from cld.index.window import Find
from cld.journal import children
from cld.models import Model
from cld.models.offline import Offline
from cld.models.router import Router
from cld.principal import Principal
from cld.resource import Draft, decode
from cld.tools import Source
from cld.tools.calling import Calling
from cld.tools.library import places
from cld.tools.python import PythonTools
from cld.uri import ROOT, parse_uri
from cld.work.electing import ASSISTANT
from cld.work.engine import Engine
from cld.work.world import Elects, OpensStores, World

log = logging.getLogger(__name__)


class Workshop:
    """Makes engines; `aclose` ends everything, and leaves what is being worked to others."""

    def __init__(
        self,
        settings: Settings,
        store: OpensStores,
        hear: Callable[[GuardedStore, frozenset[str]], AbstractAsyncContextManager[GuardedSubscription]],
        guard_of: Callable[[Principal], Guard],
        find: Find | None,
        elect: Elects | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._hear = hear
        self._guard_of = guard_of
        self._find = find
        self._elect = elect
        self._brought: list[Source] = []
        self._engines: dict[str, Engine] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._calling: Calling | None = None
        self._model: Model | None = None

    def bring(self, source: Source) -> None:
        """Add tools, before the first use; those brought first win where two have one name."""
        self._brought.append(source)

    @property
    def model(self) -> Model:
        """The chain of models of the settings; the one that needs no network where there is none."""
        if self._model is None:
            router = Router(self._settings.models)
            self._model = router if router.available else Offline()
            self._stack.push_async_callback(router.aclose)
        return self._model

    async def calling(self) -> Calling:
        """The way to call every tool there is."""
        async with self._opening:
            return await self._calling_open()

    async def engine(self, principal: Principal) -> Engine:
        """The engine that works what `principal` asks for."""
        async with self._opening:
            if (engine := self._engines.get(principal.id)) is None:
                world = World(
                    settings=self._settings.work,
                    store=self._store,
                    hear=self._hear,
                    model=self.model,
                    calling=await self._calling_open(),
                    find=self._find,
                    elect=self._elect,
                )
                engine = await self._stack.enter_async_context(Engine.open(world, principal))
                await self._seed(engine.keeper)
                self._engines[principal.id] = engine
                if self._settings.work.resume:
                    await engine.resume()
            return engine

    def problems(self) -> Sequence[str]:
        """What is wrong with tools and models right now."""
        return [] if self._calling is None else self._calling.problems()

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def _calling_open(self) -> Calling:
        if self._calling is None:
            tooling = self._settings.tooling
            folders, options = places(tooling)
            python = await PythonTools.open(folders, tooling, options)
            sources = [*self._brought, python]
            calling = Calling(sources, self._guard_of, tooling)
            python.nest = calling.call
            self._stack.push_async_callback(calling.aclose)
            self._calling = calling
        return self._calling

    async def _seed(self, store: GuardedStore) -> None:
        """Put the assistants that cld brings into a tree that has none, where its principal may."""
        if await children(store, ROOT, ASSISTANT):
            return
        for file in sorted(self._settings.seeds_path.glob(f"cld:{ASSISTANT}.*.json")):
            uri = parse_uri(file.name.removesuffix(".json"))
            seed = decode(file.read_bytes(), uri)
            try:
                await store.put(Draft(uri, seed.content, seed.meta))
            except (AccessDenied, ApprovalRequired):
                return  # for owners to do; until then the general assistant works
            except Conflict:
                continue
            except CldError as error:
                log.warning("%s was not put into the tree: %s", uri, error)
                return

