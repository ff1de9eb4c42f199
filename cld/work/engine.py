"""The engine: which tasks this process works, and when.

Any number of processes may run one over the same tree. A task is claimed by compare-and-swap, so one of them has
it; whoever has it renews its lease, and what a dead process had is taken up when the lease ends. The engine
works what its principal asked for, and no one else's; but it follows every tree it was asked about.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from cld.errors import CldError, InvalidResource, ResourceNotFound
from cld.events import Event as Heard
from cld.guard import GuardedSubscription
from cld.journal import APPROVAL, Journal
from cld.models import OnText
from cld.policy import Context
from cld.principal import Principal
from cld.purse import Ledgers
from cld.resource import timestamp
from cld.store import MAX_LIMIT
from cld.tasks.instants import later
from cld.tasks.order import Blocked
from cld.tasks.states import (
    TERMINAL,
    Assign,
    Claim,
    Event,
    Fail,
    Release,
    Renew,
    Wait,
    is_held,
)
from cld.tools.process import to_the_end
from cld.types import Elected, Failure
from cld.uri import URI, is_within, make_uri, parent_of, type_of
from cld.work.claims import blocked, client_until, time_of, too_late
from cld.work.due import Due
from cld.work.electing import ASSISTANT, CLIENT, Assistants
from cld.work.stopping import Stops
from cld.work.tree import TASK, Forest, Node, root_of
from cld.work.turns import Turns
from cld.work.unfinished import outermost
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
        self.forest = Forest(self.keeper, self._changed, self._gone)
        self.ledgers = Ledgers(world.settings.lease_seconds)
        self.assistants = Assistants(world, self.keeper)
        self._stops = Stops(self.forest, self.holder, world.settings.lease_seconds, lambda uri: uri in self._running)
        self._working = Working(
            world,
            principal,
            self.keeper,
            self.forest,
            self.assistants,
            self.ledgers,
            self.holder,
            self._tell,
            self._stops.stop_below,
            self._on_text,
        )
        self._running: dict[URI, asyncio.Task[None]] = {}
        self._claims: dict[URI, int] = {}
        """The fences under which tasks are worked here."""
        self._due = Due()
        self._put_off: set[URI] = set()
        """What could not be claimed though nobody had it, and is not tried again before it is due."""
        self._asking: set[URI] = set()
        """What waits for a person's answer, as far as is known here."""
        self._turns = Turns()
        self._is_pumping = False
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
        return sum([await self._take_up(uri) async for uri in outermost(self.keeper)])

    def is_running(self, uri: URI) -> bool:
        """Whether this process is working the task right now, or will as soon as it can."""
        if uri in self._running:
            return True
        return uri in self._turns and (node := self.forest.find(uri)) is not None and not node.is_over

    def is_running_below(self, uri: URI) -> bool:
        """`is_running` of the task or of any below it."""
        return any(is_within(one, uri) and self.is_running(one) for one in itertools.chain(self._running, self._turns))

    def leaves(self, node: Node) -> str:
        """Why this process works nothing of the tree of tasks that `node` is in; empty when it does."""
        if not self.world.settings.tasks_at_once:
            return "it was opened to look and to stop"
        if node.root.task.with_models and not self.world.model.generates:
            return "it was begun where models can be asked; none can be asked here, so it is left to who can ask one"
        return ""

    async def stop(self, node: Node, reason: str) -> None:
        """Cancel a task and all below it that is not over, whoever works it."""
        await self._stops.stop(node, reason)

    def _is_mine(self, node: Node) -> bool:
        return node.root.created_by in ("", self.principal.id)

    def _changed(self, node: Node) -> None:
        """What follows from a task being new or other than before."""
        task = node.task
        self._due.set(node.uri, self._due_of(node))
        self._put_off.discard(node.uri)
        self._interrupt_lost(node)
        asked, asks = node.uri in self._asking, task.status == "waiting" and task.waiting == "approval"
        (self._asking.add if asks else self._asking.discard)(node.uri)
        if node.is_over:
            if asked and self._is_mine(node):
                self._aside(Journal(self.keeper, node.uri).close(f"its task was {task.status}"))
            if node.parent is not None:
                for dependent in node.parent.dependents.get(node.id, ()):
                    self._consider(dependent)
                self._consider(node.parent)
                self._settle_above(node)
            if node.open:
                self._aside(self._stops.stop_below(node))
        elif any(one.is_over for one in node.path()) and self._is_mine(node):
            self._aside(self._stops.cancel_late(node))
        elif task.status == "supervising":
            for child in node.children.values():
                self._consider(child)
        elif asks:
            # The answer may have come before it was known that the task waits.
            self._aside(self._look_at_approvals(node))
        self._consider(node)
        self._told(node, "")

    def _gone(self, node: Node) -> None:
        """What follows from a task having been deleted, with all that was below it."""
        for one in node.subtree():
            self._due.set(one.uri, None)
            self._asking.discard(one.uri)
            if (running := self._running.get(one.uri)) is not None:
                _interrupt(running)
        if (parent := node.parent) is not None:
            for dependent in parent.dependents.get(node.id, ()):
                self._consider(dependent)
            self._consider(parent)
            self._settle_above(node)
        self._told(node, "it was deleted")

    def _interrupt_lost(self, node: Node) -> None:
        """Stop what this process does about a task that was cancelled, or that is another's by now."""
        fence = self._claims.get(node.uri)
        if fence is not None and (node.task.fence != fence or node.task.status == "cancelled"):
            _interrupt(self._running[node.uri])

    def _settle_above(self, node: Node) -> None:
        for one in node.path():
            if one is not node and one.task.status == "cancelled" and one.task.lease is not None:
                self._aside(self._stops.settle(one))

    def _due_of(self, node: Node) -> str | None:
        """When the task is to be looked at again though nobody has written anything."""
        task, times = node.task, list[str]()
        if task.lease is not None:
            times.append(task.lease.expires_at)
        if task.status == "waiting" and task.until:
            times.append(task.until)
        if task.status == "supervising" and task.budget is not None and task.budget.seconds is not None:
            with contextlib.suppress(ValueError):  # of a time that a person has edited
                times.append(later(task.started_at or timestamp(), task.budget.seconds))
        return min(times, default=None)

    def _consider(self, node: Node) -> None:
        """Queue the task if it can be claimed now; fail it if it never can."""
        if self._closing or node.broken or node.is_over or not self._is_mine(node):
            return
        if node.uri in self._turns or node.uri in self._running or node.uri in self._put_off:
            return
        now = timestamp()
        if node.task.status == "supervising" and not is_held(node.task, now) and _time_left(node, now) == 0:
            self._aside(self._stops.give_up(node))
            return
        if (failure := too_late(node, now)) is not None:
            self._aside(self._stop_waiting(node, failure))
            return
        match blocked(node, now):
            case None:
                self._queue(node)
            case Blocked(kind="never", reason=reason):
                self._aside(self._fail(node, reason))
            case Blocked(kind="gone", reason=reason, by=(id,)) if node.parent is not None:
                self._aside(self._miss(node, make_uri(node.parent.uri, TASK, id), reason))
            case _:
                pass

    async def _stop_waiting(self, node: Node, failure: Failure) -> None:
        """End a task whose client has not come in time."""
        with contextlib.suppress(CldError):
            journal, purse = Journal(self.keeper, node.uri), self._working.purse(node)
            await journal.close(failure.message)
            calls = {id: kept.call for id, kept in (await journal.calls()).items()}
            await purse.take_over(node.task.fence + 1, await journal.turns(), calls)
            await purse.flush()
        await self._stops.quietly(node, Fail(failure, timestamp()))

    async def _miss(self, node: Node, needed: URI, reason: str) -> None:
        """A task needs one that is not known: it was deleted, or made by another process and not heard of yet."""
        if await self.forest.refresh(needed) is not None:
            self._consider(node)
        else:
            await self._fail(node, reason)

    async def _fail(self, node: Node, reason: str) -> None:
        await self._stops.quietly(node, Fail(Failure("dependency_failed", reason), timestamp()))

    def _queue(self, node: Node) -> None:
        if self.leaves(node):
            return
        self._turns.add(node)
        self._pump_soon()

    def _pump_soon(self) -> None:
        """Begin what is queued once all that can be claimed together is: only then is the first of it known."""
        if not self._is_pumping:
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Begin as many of the queued tasks as may run at once."""
        self._is_pumping = False
        while self._turns and len(self._running) < self.world.settings.tasks_at_once and not self._closing:
            uri = self._turns.take()
            if (node := self.forest.find(uri)) is None or node.is_over:
                continue
            running = self._running[uri] = asyncio.create_task(self._work(node))
            running.add_done_callback(lambda ended, node=node: self._ran(node, ended))

    def _ran(self, node: Node, ended: "asyncio.Task[None]") -> None:
        self._running.pop(node.uri, None)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.error("%s: working it failed", node.uri, exc_info=error)
            self._put_off_for_now(node)
        self._pump_soon()
        if node.is_over:
            self._aside(self._stops.settle(node))
        elif node.task.waiting == "approval":
            # An answer that came while it was still running was heard and could not be acted upon.
            self._aside(self._look_at_approvals(node))
        else:
            self._consider(node)
        # Who waits for it to be at rest hears of it now: its last change came while it was still running.
        self._told(node, "")

    async def _work(self, node: Node) -> None:
        before = node.version
        try:
            # To the end, for a claim that is being written could not be given back.
            if not await to_the_end(self._claimed(node)):
                return
        except CldError as lost:
            log.debug("%s was not claimed: %s", node.uri, lost)
            await self.forest.refresh(node.uri)
            if node.version == before and not (node.is_over or is_held(node.task, timestamp())):
                log.warning("%s could not be claimed: %s", node.uri, lost)
                self._put_off_for_now(node)
            return
        except asyncio.CancelledError:
            if (lease := node.task.lease) is not None and lease.holder == self.holder:
                await to_the_end(self._working.let_go(node, lease.fence))
            raise
        fence = self._claims[node.uri] = node.task.fence
        try:
            if node.task.status == "cancelled":
                await self._working.let_go(node, fence)
            else:
                await self._working.run(node)
        finally:
            del self._claims[node.uri]

    def _put_off_for_now(self, node: Node) -> None:
        self._put_off.add(node.uri)
        self._due.set(node.uri, later(timestamp(), self.world.settings.lease_seconds))

    async def _claimed(self, node: Node) -> bool:
        """Make the task this process's own, electing who works it first; False when there is nothing to work."""
        events: list[Event] = []
        task = node.task
        if task.status in ("pending", "assigned") and not task.assistant and not task.plan and not task.for_each:
            member, elected = await self.assistants.elect(self.keeper, node)
            events.append(Assign(str(member.uri), elected))
        elif task.status in ("pending", "assigned") and task.assistant and task.election is None:
            events.append(Assign(task.assistant, Elected(by="plan", reason="the plan names it")))
        seconds, now = self.world.settings.lease_seconds, timestamp()
        events.append(Claim(self.holder, seconds, now, over=task.status == "waiting"))
        is_asked = bool(task.plan or task.for_each or (task.when and task.decided is None))
        if task.assistant == CLIENT and task.status != "supervising" and not is_asked:
            events.append(Wait(self.holder, task.fence + 1, "client", client_until(node, now)))
            await self.forest.change(node, *events)
            return False
        await self.forest.change(node, *events)
        if (lease := node.task.lease) is None or lease.holder != self.holder:
            return False
        if node.task.status == "supervising":
            # Whoever holds it makes all there is below it, so what is not there now never was.
            await self.forest.look_below(node)
            if node.open and not node.task.plan:
                await self.forest.change(node, Release(self.holder, lease.fence))
                return False
        return True

    async def _listen(self, subscription: GuardedSubscription) -> None:
        while events := await subscription.batch(MAX_LIMIT, self._knows):
            for event in events:
                try:
                    await self._heard(event.uri, event.version)
                except CldError as error:
                    log.warning("%s: %s", event.uri, error)
                except Exception:  # a task boundary: the next event has to be heard
                    log.exception("%s: what it means could not be told", event.uri)

    async def _knows(self, event: Heard) -> bool:
        # Most of what is heard is what this process has just written itself.
        return type_of(event.uri) == TASK and await self.forest.knows(event.uri, event.version)

    async def _heard(self, uri: URI, version: str | None) -> None:
        match type_of(uri):
            case "common.Assistant":
                self.assistants.changed()
            case "plan.Approval":
                if (node := self.forest.find(parent_of(uri))) is not None:
                    self._put_off.discard(node.uri)
                    await self._look_at_approvals(node)
            case _:
                node = self.forest.find(uri)
                if node is not None and node.version == version:
                    return
                if node is not None or self.forest.follows(uri):
                    await self.forest.refresh(uri)
                elif root_of(uri) == uri:
                    await self._take_up(uri)

    async def _take_up(self, uri: URI) -> bool:
        """Follow the tree of tasks at `uri` if it is to be worked here."""
        if self.forest.find(uri) is not None:
            return False
        try:
            resource = (await self.keeper.get(uri)).resource
            # A cancelled one with a lease is still being stopped, by whoever holds it or by who comes after.
            over = resource.content.get("status") in TERMINAL and not resource.content.get("lease")
            if over or resource.created_by not in ("", self.principal.id):
                return False
            await self.forest.load(uri)
        except (ResourceNotFound, InvalidResource) as error:
            log.warning("%s: %s", uri, error)
            return False
        return True

    async def _look_at_approvals(self, node: Node) -> None:
        """Go on with a task whose question was answered, or will not be."""
        if node.task.waiting != "approval" or not self._is_mine(node):
            return
        try:
            answered = await Journal(self.keeper, node.uri).is_answered()
        except CldError as error:
            log.warning("%s: whether it was answered cannot be told: %s", node.uri, error)
            self._put_off_for_now(node)
            return
        busy = self._closing or any(node.uri in those for those in (self._turns, self._running, self._put_off))
        if answered and not busy and node.task.waiting == "approval":
            self._queue(node)

    async def _tick(self) -> None:
        """Renew what this process works, and look at what is due: what others left, and what has had its time."""
        lease = self.world.settings.lease_seconds
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            try:
                await asyncio.gather(*(self._renew(uri, fence) for uri, fence in self._claims.items()))
                for uri in self._due.take(timestamp()):
                    self._put_off.discard(uri)
                    if (node := self.forest.find(uri)) is not None:
                        await self._attend(node)
                self._forget_what_is_over()
            except Exception:  # a task boundary: the leases have to be renewed whatever happens
                log.exception("a look at what is due failed")

    async def _renew(self, uri: URI, fence: int) -> None:
        if (node := self.forest.find(uri)) is None:
            return
        try:
            await self.forest.change(node, Renew(self.holder, fence, self.world.settings.lease_seconds, timestamp()))
        except CldError as lost:
            log.info("%s: %s", uri, lost)
            if (running := self._running.get(uri)) is not None:
                _interrupt(running)

    async def _attend(self, node: Node) -> None:
        try:
            await self._look_again(node)
        except Exception as error:  # a task boundary: what else is due has to be looked at
            log.warning("%s: %s", node.uri, error, exc_info=not isinstance(error, CldError))
            self._put_off_for_now(node)

    async def _look_again(self, node: Node) -> None:
        task = node.task
        if node.uri in self._running:
            return
        if task.status == "cancelled" and task.lease is not None:
            await self._stops.stop_below(node)
            if node.task.lease is not None:  # something below it has not stopped yet
                self._due.set(node.uri, later(timestamp(), self.world.settings.lease_seconds))
        else:
            await self._look_at_approvals(node)
            self._consider(node)
            if task.status == "supervising" and task.lease is None and (left := _time_left(node, timestamp())):
                self._due.set(node.uri, later(timestamp(), left))  # it paused

    def _forget_what_is_over(self) -> None:
        for root in self.forest.forget_resting():
            for node in root.subtree():
                self.ledgers.forget(node.uri)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closing:
            work.close()  # it is left to others, as everything is
            return
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._aside_ended)

    def _aside_ended(self, task: "asyncio.Task[None]") -> None:
        self._asides.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("what was to be done beside the work failed: %s", error)

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


def _interrupt(running: "asyncio.Task[None]") -> None:
    # Once only: a second time would interrupt what it writes down about having been stopped.
    if not running.cancelling():
        running.cancel()


def _time_left(node: Node, now: str) -> float | None:
    try:
        return time_of(node, now)
    except ValueError:  # a person has edited the time
        return None


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel all and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
