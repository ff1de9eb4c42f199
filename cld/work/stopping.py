"""Stopping: what is cancelled or given up, with all that is below it, until nothing of it runs.

The order is what makes it safe to die in the middle of. A task that fails is written down as failed when all below
it is over; one that is cancelled keeps a lease until all below it is at rest. So what is over and has no lease
needs no look at what lies below it, and what was left half stopped is found like everything else that is left: by
its lease. Decides nothing about what is worked; who works a task stops by itself when it hears of the cancel.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cld.errors import CldError, InvalidResource, InvalidTransition, ResourceNotFound
from cld.resource import timestamp
from cld.tasks.states import Cancel, Claim, Event, Fail, Stopped, is_held
from cld.types import Failure
from cld.uri import URI
from cld.work.tree import Forest, Node

log = logging.getLogger(__name__)

_AT_ONCE = 16


@dataclass(frozen=True)
class Stops:
    """Stops tasks in the name of `holder`; `runs` says whether this process is still about one."""

    forest: Forest
    holder: str
    lease_seconds: float
    runs: Callable[[URI], bool]

    async def stop(self, node: Node, reason: str) -> None:
        """Cancel a task and all below it that is not over, whoever works it.

        Until everything below it is at rest a lease stays on it: should this process die in the middle, whoever
        finds the lease expired goes on with it.
        """
        now = timestamp()
        if not node.is_over:
            events: list[Event] = [Cancel(reason, now)]
            if node.children and not is_held(node.task, now):
                events.insert(0, Claim(self.holder, self.lease_seconds, now, over=True))
            try:
                with contextlib.suppress(ResourceNotFound, InvalidResource):
                    await self.forest.change(node, *events)
            except InvalidTransition:  # somebody has claimed it meanwhile
                await self.quietly(node, Cancel(reason, now))
        await self.stop_below(node)

    async def stop_below(self, node: Node) -> None:
        """Cancel what is below a task that is over, or will be."""
        how = node.task.status if node.is_over else "given up"
        cancel = Cancel(f"{node.id}, which it is part of, was {how}", timestamp())
        limits = asyncio.Semaphore(_AT_ONCE)

        async def one(below: Node) -> None:
            async with limits:
                await self.quietly(below, cancel)

        if node.restless > 1:
            await asyncio.gather(*(one(below) for below in node.subtree() if below is not node and not below.is_over))
        await self.settle(node)

    async def settle(self, node: Node) -> None:
        """Say of a cancelled task that nothing of it runs any more, as soon as that is so."""
        lease = node.task.lease
        if node.task.status != "cancelled" or lease is None or self.runs(node.uri) or node.restless > 1:
            return
        if lease.holder == self.holder or not is_held(node.task, timestamp()):
            await self.quietly(node, Stopped(timestamp(), lease.holder, lease.fence))

    async def cancel_late(self, node: Node) -> None:
        """Cancel a task that was made, or found, when what it is part of was over."""
        above = next(one for one in node.path() if one.is_over)
        reason = f"{above.id}, which it is part of, was {above.task.status}"
        await self.quietly(node, Cancel(reason, timestamp()))

    async def give_up(self, node: Node) -> None:
        """End a task whose time is up, with what is below it first: once it is over nobody looks there any more."""
        await self.stop_below(node)
        await self.quietly(node, Fail(Failure("budget_exceeded", "its time is up"), timestamp()))

    async def quietly(self, node: Node, event: Event) -> None:
        """A change that somebody else may have made first."""
        try:
            await self.forest.change(node, event)
        except CldError as error:
            log.debug("%s: %s", node.uri, error)
