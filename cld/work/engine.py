"""The engine: which tasks this process works, and when.

Any number of processes may run one over the same tree. A task is claimed by compare-and-swap, so one of them has
it; whoever has it renews its lease, and what a dead process had is taken up when the lease ends. The engine
works what its principal asked for, and no one else's; but it follows every tree it was asked about.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from cld.errors import CldError, Conflict, InvalidResource, InvalidTransition, LeaseLost, ResourceNotFound
from cld.guard import GuardedSubscription
from cld.journal import APPROVAL, Journal
from cld.models import OnText
from cld.policy import Context
from cld.principal import Principal
from cld.purse import Ledgers
from cld.resource import timestamp
from cld.store import MAX_LIMIT
from cld.tasks.budget import time_left
from cld.tasks.instants import is_over
from cld.tasks.order import dependencies
from cld.tasks.states import Assign, Cancel, Claim, Event, Fail, Renew, Stopped, Wait, is_held
from cld.types import Elected, Failure
from cld.uri import MAX_DEPTH, ROOT, URI, is_within, parent_of, type_of
from cld.work.electing import ASSISTANT, CLIENT, Assistants
from cld.work.tree import TASK, Forest, Node, root_of
from cld.work.working import Working
from cld.work.world import World

log = logging.getLogger(__name__)

Listener = Callable[[Node, str], None]
"""Told of a task that changed, with nothing or with what is being done about it."""

_RENEWALS = 3
"""How often a lease is renewed in its time."""


class Engine:
    """Works the tasks of `principal`; made by `open`."""

    def __init__(self, world: World, principal: Principal) -> None:
        self.world = world
        self.principal = principal
        self.keeper = world.store(principal, Context(tool="plan"), approved=True)
        """The tree as the engine writes it: for whoever asked for the work, and not again asked about."""
        self.holder = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.forest = Forest(self.keeper, self._changed)
        self.ledgers = Ledgers()
        self.assistants = Assistants(world, self.keeper)
        self._working = Working(
            world,
            principal,
            self.keeper,
            self.forest,
            self.assistants,
            self.ledgers,
            self.holder,
            self._tell,
            self._on_text,
        )
        self._running: dict[URI, asyncio.Task[None]] = {}
        self._ready: list[tuple[int, int, URI]] = []
        self._queued: set[URI] = set()
        self._order = itertools.count()
        self._listeners: dict[object, Listener] = {}
        self._readers: dict[object, Listener] = {}
        self._asides: set[asyncio.Task[None]] = set()
        self._closing = False

    @classmethod
    @asynccontextmanager
    async def open(cls, world: World, principal: Principal) -> AsyncGenerator["Engine"]:
        """A running engine; on leaving, what it works is left to others, with nothing of it still running."""
        engine = cls(world, principal)
        async with world.hear(engine.keeper, frozenset({TASK, APPROVAL, ASSISTANT})) as subscription:
            loops = [asyncio.create_task(engine._listen(subscription)), asyncio.create_task(engine._tick())]
            try:
                yield engine
            finally:
                engine._closing = True
                await _ended([*loops, *engine._asides, *engine._running.values()])

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every change of a task; the function returned ends that."""
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def on_text(self, reader: Listener) -> Callable[[], None]:
        """Call `reader` with each piece of text that a model writes from the next turn on; an empty one voids them.

        The function returned ends that.
        """
        token = object()
        self._readers[token] = reader

        def end() -> None:
            self._readers.pop(token, None)

        return end

    async def resume(self) -> int:
        """Take up all that was left undone in the tree; how many trees of tasks that is."""
        resumed = 0
        cursor: str | None = None
        while True:
            page = await self.keeper.list(ROOT, type=TASK, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
            for uri in page.uris:
                if type_of(parent_of(uri)) != TASK and await self._take_up(uri):
                    resumed += 1
            if (cursor := page.cursor) is None:
                return resumed

    def is_running(self, uri: URI) -> bool:
        """Whether this process is working the task right now, or will as soon as it can."""
        return uri in self._running or uri in self._queued

    def is_running_below(self, uri: URI) -> bool:
        """`is_running` of the task or of any below it."""
        return any(is_within(one, uri) for one in itertools.chain(self._running, self._queued))

    async def stop(self, node: Node, reason: str) -> None:
        """Cancel a task and all below it that is not over, whoever works it."""
        # From the top, so that nobody claims what is below a task that is being cancelled.
        for one in list(node.subtree()):
            if not one.is_over:
                with contextlib.suppress(InvalidTransition, ResourceNotFound):
                    await self.forest.change(one, Cancel(reason, timestamp()))

    def _is_mine(self, node: Node) -> bool:
        return node.root.created_by in ("", self.principal.id)

    def _changed(self, node: Node) -> None:
        """What follows from a task being new or other than before."""
        self._consider(node)
        if node.is_over:
            running = self._running.get(node.uri)
            # Once only: a second time would interrupt what it writes down about having been stopped.
            if running is not None and node.task.status == "cancelled" and not running.cancelling():
                running.cancel()
            if node.parent is not None:
                for dependent in node.parent.dependents.get(node.id, ()):
                    self._consider(dependent)
                self._consider(node.parent)
            if node.open:
                self._aside(self._stop_below(node))
        elif node.task.status == "supervising":
            for child in node.children.values():
                self._consider(child)
        self._told(node, "")

    def _consider(self, node: Node) -> None:
        """Queue the task if it can be claimed now; fail it if it never can."""
        if self._closing or node.uri in self._queued or node.uri in self._running or not self._is_mine(node):
            return
        if node.is_over or (node.task.lease is not None and is_held(node.task, timestamp())):
            return
        match node.task.status:
            case "pending" | "assigned":
                if node.parent is not None and not self._may_begin(node, node.parent):
                    return
            case "supervising":
                # With a plan still to make, who made it has died in the middle.
                if node.open and not node.task.plan:
                    return
            case "waiting":
                if node.task.waiting == "client" or not is_over(node.task.until or "9999", timestamp()):
                    return
            case _:
                pass  # running, by somebody whose lease has expired
        self._queue(node)

    def _may_begin(self, node: Node, parent: Node) -> bool:
        if any(one.is_over for one in parent.path()) or parent.task.status != "supervising":
            return False
        for id in dependencies(node.task):
            other = parent.children.get(id)
            if other is None or other.task.status in ("failed", "cancelled"):
                why = "is not there" if other is None else f"was {other.task.status}"
                error = Failure("dependency_failed", f"{id}, which it needs, {why}")
                self._aside(self._quietly(node, Fail(error, timestamp())))
                return False
            if not other.is_over:
                return False
        return True

    def _queue(self, node: Node) -> None:
        if not self.world.settings.tasks_at_once:
            return  # it was opened to look and to stop
        self._queued.add(node.uri)
        heapq.heappush(self._ready, (-node.task.priority, next(self._order), node.uri))
        self._pump()

    def _pump(self) -> None:
        """Begin as many of the queued tasks as may run at once."""
        while self._ready and len(self._running) < self.world.settings.tasks_at_once and not self._closing:
            _, _, uri = heapq.heappop(self._ready)
            self._queued.discard(uri)
            if (node := self.forest.find(uri)) is None or node.is_over:
                continue
            running = self._running[uri] = asyncio.create_task(self._work(node))
            running.add_done_callback(lambda ended, node=node: self._ran(node, ended))

    def _ran(self, node: Node, ended: "asyncio.Task[None]") -> None:
        self._running.pop(node.uri, None)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.error("%s: working it failed", node.uri, exc_info=error)
        self._pump()
        if not node.is_over and not is_held(node.task, timestamp()):
            self._consider(node)
        # Who waits for it to be at rest hears of it now: its last change came while it was still running.
        self._told(node, "")

    async def _work(self, node: Node) -> None:
        try:
            if not await self._claimed(node):
                return
        except (Conflict, LeaseLost, InvalidTransition, ResourceNotFound, InvalidResource) as lost:
            log.debug("%s was not claimed: %s", node.uri, lost)
            await self.forest.refresh(node.uri)
            return
        await self._working.run(node)

    async def _claimed(self, node: Node) -> bool:
        """Make the task this process's own, electing who works it first; False when there is nothing to work."""
        events: list[Event] = []
        task = node.task
        if task.status == "supervising":
            await self.forest.look_below(node)
            if node.open and not task.plan:
                return False
        if task.status in ("pending", "assigned") and not task.assistant and not task.plan and not task.for_each:
            member, elected = await self.assistants.elect(self.keeper, node)
            events.append(Assign(str(member.uri), elected))
        elif task.status in ("pending", "assigned") and task.assistant and task.election is None:
            events.append(Assign(task.assistant, Elected(by="plan", reason="the plan names it")))
        seconds, now = self.world.settings.lease_seconds, timestamp()
        events.append(Claim(self.holder, seconds, now, over=task.status == "waiting"))
        if task.assistant == CLIENT and task.status != "supervising" and not task.plan:
            events.append(Wait(self.holder, task.fence + 1, "client"))
            await self.forest.change(node, *events)
            return False
        await self.forest.change(node, *events)
        return node.task.lease is not None and node.task.lease.holder == self.holder

    async def _listen(self, subscription: GuardedSubscription) -> None:
        while events := await subscription.batch(MAX_LIMIT):
            for event in events:
                try:
                    await self._heard(event.uri, event.version)
                except CldError as error:
                    log.warning("%s: %s", event.uri, error)

    async def _heard(self, uri: URI, version: str | None) -> None:
        match type_of(uri):
            case "common.Assistant":
                self.assistants.changed()
            case "plan.Approval":
                if (node := self.forest.find(parent_of(uri))) is not None:
                    await self._look_at_approvals(node)
            case _:
                node = self.forest.find(uri)
                if node is not None and node.version == version:
                    return
                if node is not None or self.forest.find(root_of(uri)) is not None:
                    await self.forest.refresh(uri)
                elif root_of(uri) == uri:
                    await self._take_up(uri)

    async def _take_up(self, uri: URI) -> bool:
        """Follow the tree of tasks at `uri` if it is to be worked here."""
        if self.forest.find(uri) is not None:
            return False
        try:
            resource = (await self.keeper.get(uri)).resource
            over = resource.content.get("status") in ("completed", "failed", "cancelled")
            if over or resource.created_by not in ("", self.principal.id):
                return False
            await self.forest.load(uri)
        except (ResourceNotFound, InvalidResource) as error:
            log.warning("%s: %s", uri, error)
            return False
        return True

    async def _look_at_approvals(self, node: Node) -> None:
        """Go on with a task whose question was answered, or will not be."""
        if node.task.status != "waiting" or node.task.waiting != "approval":
            return
        journal = Journal(self.keeper, node.uri)
        for id, kept in (await journal.calls()).items():
            if kept.call.state != "waiting" or kept.call.client:
                continue
            found = await journal.approval(id)
            if found is None or found.approval.decision is not None or is_over(found.approval.deadline, timestamp()):
                if node.uri not in self._queued and node.uri not in self._running and self._is_mine(node):
                    self._queue(node)
                return

    async def _tick(self) -> None:
        """Renew what this process works, take up what others left, and end what has had its time."""
        lease = self.world.settings.lease_seconds
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            now = timestamp()
            for root in self.forest.roots():
                for node in list(root.subtree()):
                    await self._attend(node, now)
            self._forget_what_is_over()

    async def _attend(self, node: Node, now: str) -> None:
        task = node.task
        if node.uri in self._running:
            if task.lease is not None and task.lease.holder == self.holder:
                event = Renew(self.holder, task.lease.fence, self.world.settings.lease_seconds, now)
                try:
                    await self.forest.change(node, event)
                except CldError as lost:
                    log.info("%s: %s", node.uri, lost)
                    if (running := self._running.get(node.uri)) is not None:
                        running.cancel()
            return
        if task.status == "cancelled" and task.lease is not None and not is_held(task, now):
            await self._quietly(node, Stopped(now))
        elif task.status == "waiting" and task.waiting == "approval":
            await self._look_at_approvals(node)
        elif task.status == "supervising" and time_left(task.budget, task.started_at, now) == 0:
            error = Failure("budget_exceeded", "its time is up")
            await self._quietly(node, Fail(error, now))
        else:
            self._consider(node)

    def _forget_what_is_over(self) -> None:
        for root in self.forest.roots():
            if all(node.is_over and node.task.lease is None for node in root.subtree()):
                for node in root.subtree():
                    self.ledgers.forget(node.uri)
                self.forest.forget(root)

    async def _stop_below(self, node: Node) -> None:
        for child in list(node.children.values()):
            if not child.is_over:
                await self.stop(child, f"{node.id}, which it is part of, was {node.task.status}")

    async def _quietly(self, node: Node, event: Event) -> None:
        """A change that somebody else may have made first."""
        try:
            await self.forest.change(node, event)
        except CldError as error:
            log.debug("%s: %s", node.uri, error)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _tell(self, node: Node, said: str) -> None:
        log.debug("%s: %s", node.uri, said)
        self._told(node, said)

    def _told(self, node: Node, said: str) -> None:
        for listener in list(self._listeners.values()):
            listener(node, said)

    def _on_text(self, node: Node) -> OnText | None:
        """Who is told of texts as models write them; None where nobody listens, for streaming costs time."""
        if not self._readers:
            return None

        def tell(piece: str) -> None:
            for reader in list(self._readers.values()):
                reader(node, piece)

        return tell


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel all and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
