"""The one composition root: settings become a policy, a store, schemas and events, wired together once.

Only this module ever holds a raw store. Everybody else gets a `GuardedStore` from it, so that going
around the policy is not a matter of care but impossible.
"""

import asyncio
import contextlib
import hashlib
import importlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from cld.config import Settings
from cld.errors import ResourceNotFound, Unsupported
from cld.events import Change
from cld.events.bus import EventBus
from cld.events.choose import open_bus
from cld.guard import Guard, GuardedStore, GuardedSubscription
from cld.guard.events import hear
from cld.index import Hit
from cld.index.installed import is_installed
from cld.policy import Action, Context
from cld.policy.explain import explain
from cld.policy.folder import NO_REVISION
from cld.policy.log import DecisionLog
from cld.policy.rego import RegoPolicy
from cld.principal import Principal, parse_principal
from cld.schema import Schemas
from cld.store import Store
from cld.store.fsspec import FsspecStore
from cld.store.local import Finding, LocalStore
from cld.tools import Source
from cld.uri import ROOT, URI, make_uri

if TYPE_CHECKING:
    from cld.index.election import Candidate, Election
    from cld.knowledge import Knowledge
    from cld.work.engine import Engine
    from cld.workshop import Workshop

log = logging.getLogger(__name__)

INDEXER = parse_principal("service:index")
"""Who reads the tree for the indexes: what policy keeps from it is not found."""

_ANYTHING = make_uri(ROOT, "common.Text", "any")
"""Stands for what lies at the top of a tree; it need not be there."""

REFRESH_SECONDS = 2.0
"""How often the sources of the rules are looked at; data and compiled rules are at every decision."""


class Runtime:
    """Everything one process of cld consists of; made by `open`, closed by leaving it."""

    def __init__(self, settings: Settings, store: Store, policy: RegoPolicy, journal: DecisionLog) -> None:
        self.settings = settings
        self.principal = parse_principal(settings.principal)
        self._store = store
        self._policy = policy
        self._journal = journal
        self._schemas = Schemas(self._schema_at)
        self._bus: EventBus | None = None
        self._knowledge: Knowledge | None = None
        self._workshop: Workshop | None = None
        self._brought: list[Callable[[], Source]] = []
        self._listeners: dict[object, Callable[[], None]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncGenerator[Self]:
        """A running runtime; on leaving everything it holds is let go of.

        A policy that cannot be loaded is no failure: nothing is allowed then, and every answer says why.

        Raises:
            ConfigError: the settings cannot be used.
            StoreError: the root cannot be opened.
        """
        parse_principal(settings.principal)  # before anything is opened
        async with AsyncExitStack() as stack:
            store = await _open_store(settings)
            stack.push_async_callback(store.aclose)
            policy = RegoPolicy.open(
                settings.policies_path,
                on_error=settings.policy.on_error,
                timeout_ms=settings.policy.timeout_ms,
                opa=settings.policy.opa,
            )
            journal = DecisionLog(log_folder(settings), total_bytes=settings.policy.log_bytes)
            stack.callback(journal.close)
            runtime = cls(settings, store, policy, journal)
            for problem in runtime.problems():
                log.warning("%s", problem)
            refreshing = asyncio.create_task(runtime._refresh_on())
            stack.push_async_callback(_stop, refreshing)
            stack.push_async_callback(runtime._stop_watching)
            stack.push_async_callback(runtime._stop_knowing)
            stack.push_async_callback(runtime._stop_working)
            yield runtime

    def guard(self, principal: Principal) -> Guard:
        """What `principal` may do, each answer written to the decision log."""
        return Guard(principal, self._policy, self._journal)

    def store(self, principal: Principal, context: Context, *, approved: bool = False) -> GuardedStore:
        """The store as `principal` may use it in one call's `context`."""
        return GuardedStore(self.guard(principal), self._store, self._schemas, context, approved=approved)

    @asynccontextmanager
    async def hear(
        self,
        store: GuardedStore,
        prefix: URI = ROOT,
        types: frozenset[str] | None = None,
        changes: frozenset[Change] | None = None,
    ) -> AsyncGenerator[GuardedSubscription]:
        """Changes of `prefix` and below from now on, as far as the store's principal may hear them.

        The first subscription starts the watching.
        """
        if self._bus is None:
            root = self.settings.root_path.resolve() if self.settings.is_local else None
            self._bus = open_bus(self.settings.watch, root, self._store, self.settings.limits.body_bytes)
        async with hear(store, self._bus, prefix, types, changes) as subscription:
            yield subscription

    def knowledge(self) -> "Knowledge":
        """The indexes of this tree; they are made and kept from the first question on.

        Raises:
            Unsupported: the root is no local folder.
        """
        if self._knowledge is None:
            guard = Guard(INDEXER, self._policy, self._journal, brief=True)
            reader = GuardedStore(guard, self._store, self._schemas, Context(tool="index"))
            # Late, as the workshop is, and for the same reason.
            make: Callable[..., Knowledge] = importlib.import_module("cld.knowledge").open_knowledge

            def heard(types: frozenset[str] | None) -> AbstractAsyncContextManager[GuardedSubscription]:
                return self.hear(reader, types=types)

            self._knowledge = make(self.settings, reader, heard)
        return self._knowledge

    def bring(self, make: Callable[[], Source]) -> None:
        """Add tools that tasks may use, before the first work; they are made when that begins."""
        self._brought.append(make)

    @property
    def is_working(self) -> bool:
        """Whether somebody has asked for work."""
        return self._workshop is not None

    @property
    def workshop(self) -> "Workshop":
        """The models, tools and engines of this process; made, and loaded, when somebody first asks for work."""
        if self._workshop is None:
            # Of all modules only this one is loaded late: a host starts servers often, and most never work.
            knows = self.settings.is_local and is_installed()
            make: type[Workshop] = importlib.import_module("cld.workshop").Workshop
            self._workshop = make(
                self.settings,
                self.store,
                lambda store, types: self.hear(store, types=types),
                self.guard,
                self._find if knows else None,
                self._elect if knows else None,
            )
            for source in self._brought:
                self._workshop.bring(source())
        return self._workshop

    async def work(self, principal: Principal) -> "Engine":
        """The engine that works what `principal` asks for; the first call starts it."""
        return await self.workshop.engine(principal)

    def explain(self, principal: Principal, action: Action, uri: URI, context: Context) -> Mapping[str, Any]:
        """`allow`, `reasons`, and in `decisions` an `Explanation` for the principal and each it acts for."""
        decisions = explain(self._policy, principal, action, uri, context)
        return {
            "allow": all(one.allow for one in decisions),
            "reasons": [reason for one in decisions if not one.allow for reason in one.reasons],
            "decisions": [msgspec.to_builtins(one) for one in decisions],
        }

    def problems(self) -> list[str]:
        """What is wrong with the policy or weak about the store right now, in words."""
        found = list(self._policy.problems()) or self._unreadable()
        if isinstance(self._store, FsspecStore) and self._store.warning:
            found.append(self._store.warning)
        return found

    def _unreadable(self) -> list[str]:
        """What the indexes lack because policy keeps it from who makes them; no access, so in no log."""
        if not self.settings.is_local:
            return []
        refused = [
            action
            for action in ("read", "list", "subscribe")
            if not self._policy.decide(INDEXER, action, _ANYTHING, Context(tool="index")).allow
        ]
        if not refused:
            return []
        lack = "find nothing" if {"read", "list"} & set(refused) else "learn of changes late"
        return [
            f"policy does not let {INDEXER.id} {', '.join(refused)} in the tree, so search, graph and elections "
            f'{lack}; in data.json, grant "{INDEXER.id}": '
            '{"cld:": {"allow": ["read", "list", "subscribe"], "namespaces": true}}'
        ]

    def refusal(self) -> str:
        """Why nothing at all can be decided, so that everything is denied; empty while a policy is in force."""
        return "; ".join(self._policy.problems()) if self._policy.revision == NO_REVISION else ""

    def on_policy_change(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` soon after other rules or data came into force; the function returned ends that."""
        token = object()
        self._listeners[token] = tell

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def doctor(self, *, fix: bool = True) -> AsyncIterator[Finding]:
        """Everything in the tree that is not as it should be, repaired where that loses nothing.

        Looks at files as they are, so it is for whoever owns the machine: the command line only.

        Raises:
            Unsupported: the root is no local folder.
        """
        if not isinstance(self._store, LocalStore):
            raise Unsupported("doctor looks at a local folder; this root is none")
        return self._store.doctor(fix=fix)

    async def _schema_at(self, uri: URI) -> tuple[str, Mapping[str, Any]] | None:
        try:
            stored = await self._store.get(uri)
        except ResourceNotFound:
            return None
        return stored.version, stored.resource.content

    async def _refresh_on(self) -> None:
        known, revision = self.problems(), self._policy.revision
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self._policy.refresh()
            except Exception:  # a task boundary: the next look must come
                log.exception("looking for changed rules failed; the ones in force stay")
            if (now := self.problems()) != known:
                for problem in now:
                    log.warning("%s", problem)
                known = now
            if self._policy.revision != revision:
                revision = self._policy.revision
                for tell in list(self._listeners.values()):
                    tell()

    async def _find(self, store: GuardedStore, query: str, /, *, limit: int) -> tuple[Hit, ...]:
        return await self.knowledge().search(store, query, limit=limit)

    async def _elect(
        self, store: GuardedStore, request: str, candidates: "Sequence[Candidate]", /, top: int
    ) -> "Election":
        return await self.knowledge().elect(store, request, candidates, top)

    async def _stop_working(self) -> None:
        if self._workshop is not None:
            await self._workshop.aclose()

    async def _stop_knowing(self) -> None:
        if self._knowledge is not None:
            await self._knowledge.aclose()

    async def _stop_watching(self) -> None:
        if self._bus is not None:
            await self._bus.aclose()


async def _open_store(settings: Settings) -> Store:
    if not settings.is_local:
        return await FsspecStore.open(settings.root, max_bytes=settings.limits.body_bytes, history=settings.history)
    return await LocalStore.open(
        settings.root_path,
        durability=settings.durability,
        max_body_bytes=settings.limits.body_bytes,
        keep=settings.history.keep,
        days=settings.history.days,
    )


def log_folder(settings: Settings) -> Path:
    """Where decisions are written: in the tree's reserved folder, or for a remote tree in the user's state folder."""
    if settings.is_local:
        return settings.root_path / ".cld" / "log"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    # The URL may carry a password: only its digest may be seen.
    return state / "cld" / hashlib.sha256(settings.root.encode()).hexdigest()[:16] / "log"


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
