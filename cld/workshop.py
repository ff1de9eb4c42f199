"""The workshop: the models, tools and engines of one process, made of the settings on first use.

Until somebody asks for work nothing of it runs or is imported. One engine works what one principal asked for with
the same roles; all of them share the models and the tools.
"""

import asyncio
import fnmatch
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from cld.config import Settings
from cld.errors import AccessDenied, ApprovalRequired, CldError, Conflict
from cld.escape import safe_line
from cld.guard import Guard, GuardedStore
from cld.index.window import Find
from cld.journal import children
from cld.models import Model
from cld.models.counters import Status
from cld.models.fallback import Fallback
from cld.models.offline import Offline
from cld.models.router import Router
from cld.policy import Context
from cld.principal import Principal, parse_principal
from cld.resource import Draft
from cld.seeds import seeds
from cld.tools import Source
from cld.tools.calling import Calling
from cld.tools.toolbox import Hear, Toolbox
from cld.uri import ROOT
from cld.work.electing import ASSISTANT, everyone
from cld.work.engine import Engine
from cld.work.world import Elects, OpensStores, World

log = logging.getLogger(__name__)


class Workshop:
    """Makes engines; `aclose` ends everything, and leaves what is being worked to others."""

    def __init__(
        self,
        settings: Settings,
        store: OpensStores,
        hear: Hear,
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
        self._engines: dict[Principal, Engine] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._toolbox: Toolbox | None = None
        self._router = Router(settings.models)
        self._preparing: asyncio.Task[None] | None = None
        self._model: Model | None = None

    def bring(self, source: Source) -> None:
        """Add tools, before the first use; those brought first win where two have one name."""
        self._brought.append(source)

    @property
    def model(self) -> Model:
        """The chain of models of the settings; the one that needs no network where none can be asked."""
        if self._model is None:
            if not self._router.available:
                self._model = Offline()
            else:
                self._model = Fallback(self._router) if self._settings.models.fallback else self._router
            self._stack.push_async_callback(self._router.aclose)
        return self._model

    @property
    def status(self) -> Status:
        """How the models stand; those of the chain in its order, that for planning and judging first."""
        model = self.model
        return Status(
            models=self._router.standings,
            offline=model.is_offline if isinstance(model, Fallback) else isinstance(model, Offline),
            offline_answers=model.answers if isinstance(model, Fallback) else 0,
            cache_hits=self._router.remembered,
        )

    async def calling(self, name: str = "") -> Calling:
        """The way to call every tool there is, and that of this name as the tree has it now; the first opens them."""
        async with self._opening:
            toolbox = await self._toolbox_open()
        if name:
            await toolbox.look_at(name)
        return toolbox.calling

    @property
    def opened(self) -> Calling | None:
        """As `calling`, where that was asked for before."""
        return None if self._toolbox is None else self._toolbox.calling

    async def engine(self, principal: Principal) -> Engine:
        """The engine that works what `principal` asks for, with the roles of its token and no others."""
        async with self._opening:
            if (engine := self._engines.get(principal)) is None:
                self._prepare()
                toolbox = await self._toolbox_open()
                world = World(
                    settings=self._settings.work,
                    store=self._store,
                    hear=self._hear,
                    model=self.model,
                    calling=toolbox.calling,
                    find=self._find,
                    elect=self._elect,
                )
                engine = await self._stack.enter_async_context(Engine.open(world, principal))
                await self.seed(engine)
                is_first = all(other.id != principal.id for other in self._engines)
                self._engines[principal] = engine
                if self._settings.work.resume and is_first:
                    await engine.resume()
            return engine

    async def seed(self, engine: Engine) -> None:
        """Put the assistants that cld brings into a tree that has none, where the engine's principal may."""
        if await children(engine.keeper, ROOT, ASSISTANT):
            return
        for uri, seed in seeds(self._settings.seeds_path, ASSISTANT):
            try:
                await engine.keeper.put(Draft(uri, seed.content, seed.meta))
            except (AccessDenied, ApprovalRequired):
                return  # for owners to do; until then the general assistant works
            except Conflict:
                continue
            except CldError as error:
                log.warning("%s was not put into the tree: %s", uri, error)
                return
            engine.assistants.changed()  # at once, before it hears of it

    async def inspect(self) -> Sequence[str]:
        """What is wrong with tools, models and assistants, all loaded for that; nothing is written into the tree."""
        async with self._opening:
            toolbox = await self._toolbox_open(publish=False)
        await toolbox.load()
        store = self._store(parse_principal(self._settings.principal), Context(tool="tools"))
        return [*self.problems(), *await self._amiss(store, toolbox.calling)]

    def problems(self) -> Sequence[str]:
        """What is wrong with tools and models right now, as far as they were loaded."""
        found = self._router.problems
        return found if self._toolbox is None else [*found, *self._toolbox.problems()]

    async def _amiss(self, store: GuardedStore, calling: Calling) -> list[str]:
        """What assistants name that is not there, so that their tasks fail or have nothing to work with."""
        models = self._settings.models
        tiers = [tier.name for tier in (*models.chain, *([models.reasoning] if models.reasoning else []))]
        names = [tool.name for tool in calling.tools() if not tool.disabled]
        found: list[str] = []
        for member in await everyone(store):
            one = member.assistant
            if tiers and one.model and one.model not in tiers:
                found.append(
                    f"{member.uri}: its model {safe_line(one.model)!r} is no tier of models, so that its tasks fail; "
                    f"those in the settings are: {', '.join(tiers)}"
                )
            if one.tools and not any(fnmatch.filter(names, pattern) for pattern in one.tools):
                told = safe_line(", ".join(one.tools))
                found.append(f"{member.uri}: there is no tool that its tools ({told}) name, so that it has none")
        return found

    async def aclose(self) -> None:
        await self._stack.aclose()

    def _prepare(self) -> None:
        """Have the models loaded meanwhile, where this process is going to ask them."""
        if self._preparing is None and self._settings.work.tasks_at_once:
            self._preparing = asyncio.create_task(self._router.prepare())
            self._stack.callback(self._preparing.cancel)

    async def _toolbox_open(self, *, publish: bool = True) -> Toolbox:
        if self._toolbox is None:
            principal = parse_principal(self._settings.principal)
            toolbox = await Toolbox.open(
                self._settings,
                self._brought,
                self._store(principal, Context(tool="tools")),
                self._hear,
                self._guard_of,
                publish=publish,
            )
            self._stack.push_async_callback(toolbox.aclose)
            self._toolbox = toolbox
        return self._toolbox
