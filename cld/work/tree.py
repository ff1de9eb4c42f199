"""Trees of tasks as this process knows them: what was read and written last, and how they hang together.

Owns reading tasks and writing their transitions; every write is a compare-and-swap of `apply(task, …)`, done
again on what is there where somebody else wrote first. Decides nothing about who works what.

What a person does to the files shows here as it is: a task that was deleted is gone with all below it, one that
is no valid task any more stays in its place as `broken` until it is repaired or deleted, and what lies below
something that is no task is nobody's.
"""

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import cycle
from typing import Any

import msgspec
from msgspec.structs import replace

from cld.errors import Conflict, InvalidResource, ResourceNotFound, Unsupported
from cld.guard import GuardedStore
from cld.resource import Draft, Meta
from cld.store import MAX_LIMIT, Stored
from cld.tasks.order import dependencies
from cld.tasks.states import TERMINAL, Event, apply
from cld.tools.process import to_the_end
from cld.types import Step, Task, Usage
from cld.uri import MAX_DEPTH, URI, id_of, make_uri, parent_of, parents_of, sort_key, type_of

TASK = "plan.Task"

MOST_TRIES = 50
"""How often a transition is tried again because others wrote the task in between."""


@dataclass(eq=False)
class Node:
    """A task as it was last read or written, and its place."""

    uri: URI
    version: str
    task: Task
    meta: Meta
    created_by: str
    updated_by: str
    broken: str = ""
    """Why the file is no task, when it is none; the rest is then what it was before, or nothing."""
    parent: "Node | None" = None
    children: dict[str, "Node"] = field(default_factory=dict[str, "Node"])
    open: set[str] = field(default_factory=set[str])
    """The ids of the children that are not over."""
    dependents: dict[str, list["Node"]] = field(default_factory=lambda: defaultdict[str, list["Node"]](list))
    """Which of the children wait for the child with this id."""
    size: int = 1
    """How many there are at and below it."""
    restless: int = 0
    """How many at and below it are not at rest."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def id(self) -> str:
        return id_of(self.uri)

    @cached_property
    def counted(self) -> list[str | int]:
        """Its id with its numbers as numbers, to sort by."""
        return _counted(self.id)

    @property
    def is_over(self) -> bool:
        return self.task.status in TERMINAL

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of the task itself can be running, and nothing will."""
        return bool(self.broken) or (self.is_over and self.task.lease is None)

    @property
    def root(self) -> "Node":
        return self if self.parent is None else self.parent.root

    def path(self) -> Iterator["Node"]:
        """This task, the one it is part of, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def subtree(self) -> Iterator["Node"]:
        """This task and all below it, parents before their subtasks."""
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def in_order(self) -> "list[Node]":
        """The subtasks as a person would tell them: after those they need, and `s2` before `s10`."""
        by_name = sorted(self.children.values(), key=lambda child: child.counted)
        # All of them first: what comes first here stays first among those that need nothing.
        order: TopologicalSorter[str] = TopologicalSorter({child.id: () for child in by_name})
        for child in by_name:
            order.add(child.id, *(id for id in dependencies(child.task) if id in self.children))
        try:
            return [self.children[id] for id in order.static_order()]
        except CycleError:
            return by_name  # made by hand; none of them can begin

    def in_order_below(self) -> "Iterator[Node]":
        """This task and all below it, each level as `in_order`."""
        yield self
        for child in self.in_order():
            yield from child.in_order_below()


def _counted(id: str) -> list[str | int]:
    """An id with its numbers as numbers, to sort by."""
    return [
        int(part) if number else part for number, part in zip(cycle((0, 1)), re.split("([0-9]+)", id), strict=False)
    ]


Changed = Callable[[Node], None]


class Forest:
    """The trees that were loaded.

    `changed` is told of every task that is new or other than before, `gone` of every one that was deleted, with
    all that was below it.
    """

    def __init__(self, store: GuardedStore, changed: Changed, gone: Changed) -> None:
        self._store = store
        self._changed = changed
        self._gone = gone
        self._nodes: dict[URI, Node] = {}
        self._resting: set[URI] = set()
        self._loading: dict[URI, asyncio.Lock] = {}
        self._making: dict[URI, asyncio.Event] = {}

    def find(self, uri: URI) -> Node | None:
        return self._nodes.get(uri)

    def follows(self, uri: URI) -> bool:
        """Whether the tree that the task is in was loaded, or is being loaded."""
        root = root_of(uri)
        return root in self._nodes or root in self._loading

    def forget_resting(self) -> list[Node]:
        """Let go of the trees in which everything is over; they are loaded again when they are asked for."""
        resting = [self._nodes[uri] for uri in self._resting]
        for node in resting:
            self._take_out(node)
        return resting

    async def load(self, uri: URI) -> Node:
        """The task `uri` with the whole tree that it is in.

        Raises:
            ResourceNotFound: there is none, or it may not be read.
            InvalidResource: it is no valid task.
        """
        root = root_of(uri)
        async with self._loading.setdefault(root, asyncio.Lock()):
            try:
                if root not in self._nodes:
                    await self._load(root)
            finally:
                self._loading.pop(root, None)
        if (node := self._nodes.get(uri) or await self.refresh(uri)) is None:
            raise ResourceNotFound(uri)
        return node

    async def look_below(self, node: Node, depth: int = 1) -> None:
        """Make sure of all below a task, also of what others have made and nobody has told of yet."""
        async for uri in self._tasks_below(node.uri, depth):
            if uri not in self._nodes:
                await self._look(uri)

    async def refresh(self, uri: URI) -> Node | None:
        """The task as it is in the tree now; None when it is gone, or nobody's, and then it is forgotten."""
        if lock := self._loading.get(root_of(uri)):
            async with lock:  # what was read for it may be older than what there was to hear of
                pass
        known = uri in self._nodes
        node = await self._look(uri)
        if node is not None and not known:
            await self.look_below(node, MAX_DEPTH)  # it was moved here or repaired, and what is below it was not
        return node

    async def knows(self, uri: URI, version: str | None) -> bool:
        """Whether this version of a task is what was last read or written here, once what is being written is."""
        if (making := self._making.get(uri)) is not None:
            await making.wait()
        if (node := self._nodes.get(uri)) is None:
            return False
        if node.version != version:
            async with node.lock:
                pass  # it may be what is being written right now, and heard of before that has returned
        return node.version == version

    async def create(self, parent: URI, id: str, task: Task, meta: Meta) -> Node:
        """The new task; the one that is there where it has been made before."""
        uri = make_uri(parent, TASK, id)
        self._making[uri] = asyncio.Event()
        try:
            return await self._created(uri, task, meta)
        finally:
            self._making.pop(uri).set()

    async def _created(self, uri: URI, task: Task, meta: Meta) -> Node:
        try:
            # To the end, so that who stops what is below a task misses nothing that was just being made.
            stored = await to_the_end(self._store.put(Draft(uri, contents(task), meta)))
        except Conflict:
            found = await self._look(uri)
            if found is None:
                raise
            return found
        if (node := self._nodes.get(uri) or self._add(_node(stored))) is None:
            raise ResourceNotFound(parent_of(uri))
        return node

    async def change(self, node: Node, *events: Event) -> Task:
        """Take the task through `events` in one write, from the state it is in by then.

        Raises:
            InvalidTransition, LeaseLost: by the events, and then nothing was written.
            ResourceNotFound: it is gone.
        """
        async with node.lock:
            if node.broken:
                self._become(node, await self._read(node.uri))
            for _ in range(MOST_TRIES):
                task, before = node.task, node.version
                for event in events:
                    task = apply(task, event)
                if task == node.task:
                    return task
                # Who wrote it last is not to be seen any more after this write.
                task = replace(task, hands=await self.hands(node))
                try:
                    stored = await self._store.put(Draft(node.uri, contents(task)), if_version=before)
                except Conflict:
                    self._become(node, await self._read(node.uri))
                    continue
                if node.version == before:
                    self._become(node, _node(stored, task))
                elif node.version != stored.version:
                    # Others have been heard of meanwhile, which may be newer than this.
                    await self._look(node.uri)
                return task
        raise Conflict(f"{node.uri} changes all the time; try again later", uri=node.uri, current=None)

    async def hands(self, node: Node) -> tuple[str, ...]:
        """Those who changed a task besides whose store this is, as far as its history goes back.

        Raises:
            ResourceNotFound: it may not be read (any more), so that this is not known.
        """
        hands, by = node.task.hands, node.updated_by
        if self._is_own(by):
            return hands
        found = dict.fromkeys(hands)
        # What they wrote need not name those before them.
        with contextlib.suppress(Unsupported):
            found |= dict.fromkeys(
                one.by for one in await self._store.history(node.uri) if one.by and not self._is_own(one.by)
            )
        return tuple(sorted({*found, by}))

    async def writers(self, node: Node) -> tuple[str, ...]:
        """Those besides whose store this is who wrote a task or one above it."""
        found: dict[str, None] = {}
        for one in reversed(list(node.path())):
            found |= dict.fromkeys((one.created_by, *await self.hands(one)))
        return tuple(name for name in found if not self._is_own(name))

    def _is_own(self, by: str) -> bool:
        return by in ("", self._store.guard.principal.id)

    async def _load(self, root: URI) -> None:
        read = [await self._read(root)]
        async for below in self._tasks_below(root, MAX_DEPTH):
            with contextlib.suppress(ResourceNotFound):
                read.append(await self._read_any(below))
        # Told of when all are there: half a tree looks like one whose other half is done.
        for node in [self._placed(one) for one in read]:
            if node is not None:
                self._changed(node)

    async def _look(self, uri: URI) -> Node | None:
        """What `refresh` gives, of this task alone."""
        while True:
            node = self._nodes.get(uri)
            before = None if node is None else node.version
            try:
                read = await self._read_any(uri)
            except ResourceNotFound:
                if node is not None and self._nodes.get(uri) is node:
                    self._take_out(node)
                    self._gone(node)
                return None
            if node is not self._nodes.get(uri) or (node is not None and node.version != before):
                continue  # it was written while it was read
            if node is None:
                return self._add(read)
            if node.version != read.version:
                if read.broken:
                    read.task, read.meta = node.task, node.meta
                self._become(node, read)
            return node

    def _add(self, node: Node) -> Node | None:
        placed = self._placed(node)
        if placed is node:
            self._changed(node)
        return placed

    def _placed(self, node: Node) -> Node | None:
        """The node in its place, the one that is there already where there is one; None below what is no task."""
        if (there := self._nodes.get(node.uri)) is not None:
            return there
        above = parent_of(node.uri)
        parent = self._nodes.get(above)
        if parent is None and type_of(above) == TASK:
            return None
        self._nodes[node.uri] = node
        if parent is not None:
            node.parent = parent
            parent.children[node.id] = node
            for id in dependencies(node.task):
                parent.dependents[id].append(node)
            if not node.is_over:
                parent.open.add(node.id)
            for one in parent.path():
                one.size += 1
        self._count(node, int(not node.is_at_rest))
        return node

    def _take_out(self, node: Node) -> None:
        """Let go of a task and all below it."""
        self._count(node, -node.restless)
        for one in list(node.subtree()):
            self._nodes.pop(one.uri, None)
            self._resting.discard(one.uri)
        if node.parent is not None:
            node.parent.children.pop(node.id, None)
            node.parent.open.discard(node.id)
            for one in node.parent.path():
                one.size -= node.size

    def _become(self, node: Node, read: Node) -> None:
        rested = node.is_at_rest
        node.version, node.task, node.meta, node.broken = read.version, read.task, read.meta, read.broken
        node.created_by, node.updated_by = read.created_by, read.updated_by
        if self._nodes.get(node.uri) is not node:
            return  # it was deleted while it was being written
        if node.parent is not None:
            (node.parent.open.discard if node.is_over else node.parent.open.add)(node.id)
        self._count(node, int(rested) - int(node.is_at_rest))
        self._changed(node)

    def _count(self, node: Node, more: int) -> None:
        for one in node.path():
            one.restless += more
            if one.parent is None:
                (self._resting.discard if one.restless else self._resting.add)(one.uri)

    async def _read(self, uri: URI) -> Node:
        return _node(await self._store.get(uri))

    async def _read_any(self, uri: URI) -> Node:
        """The task, or what is in its place and is none."""
        try:
            return await self._read(uri)
        except InvalidResource as error:
            # Without a version: whatever valid one comes next is another.
            return Node(uri, "", Task(), Meta(), "", "", broken=str(error))

    async def _tasks_below(self, uri: URI, depth: int) -> AsyncIterator[URI]:
        cursor: str | None = None
        while True:
            page = await self._store.list(uri, type=TASK, depth=depth, cursor=cursor, limit=MAX_LIMIT)
            for one in sorted(page.uris, key=sort_key):
                yield one
            if (cursor := page.cursor) is None:
                return


def root_of(uri: URI) -> URI:
    """The outermost task that `uri` is, or is in: its own URI where no task is above it."""
    return next((one for one in (*parents_of(uri), uri) if one != "cld:" and type_of(one) == TASK), uri)


def contents(task: Task) -> dict[str, Any]:
    """A task as the content of its resource; without a usage that says nothing."""
    content = msgspec.to_builtins(task)
    if task.usage == Usage():
        content.pop("usage", None)
    return content


def meta_of(step: Step) -> Meta:
    """The meta texts of the task that a step becomes."""
    return Meta(step.purpose, step.instructions, step.applicability, step.evaluation)


def task_of(step: Step) -> Task:
    """The task that a step becomes."""
    return Task(
        status="assigned" if step.assistant else "pending",
        assistant=step.assistant,
        plan=step.steps or None,
        after=step.after,
        when=step.when,
        for_each=step.for_each,
        inputs=step.inputs,
        tools=step.tools,
        response_format=step.response_format,
        budget=step.budget,
        time_limit=step.time_limit,
        priority=step.priority,
        direct=not step.steps,
    )


def _node(stored: Stored, task: Task | None = None) -> Node:
    resource = stored.resource
    if task is None:
        try:
            task = msgspec.convert(resource.content, Task)
        except msgspec.ValidationError as error:
            raise InvalidResource(f"{resource.uri} is no valid task: {error}; restore an earlier version") from error
    return Node(URI(resource.uri), stored.version, task, resource.meta, resource.created_by, resource.updated_by)
