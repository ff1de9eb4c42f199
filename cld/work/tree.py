"""Trees of tasks as this process knows them: what was read and written last, and how they hang together.

Owns reading tasks and writing their transitions; every write is a compare-and-swap of `apply(task, …)`, done
again on what is there where somebody else wrote first. Decides nothing about who works what.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from cld.errors import Conflict, InvalidResource, ResourceNotFound, Unsupported
from cld.guard import GuardedStore
from cld.journal import children
from cld.resource import Draft, Meta
from cld.store import MAX_LIMIT, Stored
from cld.tasks.order import dependencies
from cld.tasks.states import TERMINAL, Event, apply
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
    parent: "Node | None" = None
    children: dict[str, "Node"] = field(default_factory=dict[str, "Node"])
    open: set[str] = field(default_factory=set[str])
    """The ids of the children that are not over."""
    dependents: dict[str, list["Node"]] = field(default_factory=lambda: defaultdict[str, list["Node"]](list))
    """Which of the children wait for the child with this id."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def id(self) -> str:
        return id_of(self.uri)

    @property
    def is_over(self) -> bool:
        return self.task.status in TERMINAL

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


Changed = Callable[[Node], None]


class Forest:
    """The trees that were loaded; `changed` is told of every task that is new or other than before."""

    def __init__(self, store: GuardedStore, changed: Changed) -> None:
        self._store = store
        self._changed = changed
        self._nodes: dict[URI, Node] = {}
        self._loading: dict[URI, asyncio.Lock] = defaultdict(asyncio.Lock)

    def find(self, uri: URI) -> Node | None:
        return self._nodes.get(uri)

    def roots(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.parent is None]

    async def load(self, uri: URI) -> Node:
        """The task `uri` with the whole tree that it is in.

        Raises:
            ResourceNotFound: there is none, or it may not be read.
            InvalidResource: it is no valid task.
        """
        root = root_of(uri)
        async with self._loading[root]:
            if root not in self._nodes:
                read = [await self._read(root)]
                async for below in self._tasks_below(root):
                    with contextlib.suppress(ResourceNotFound, InvalidResource):
                        read.append(await self._read(below))
                # Told of when all are there: half a tree looks like one whose other half is done.
                for node in [self._placed(one) for one in read]:
                    self._changed(node)
        return self._nodes.get(uri) or self._add(await self._read(uri))

    async def look_below(self, node: Node) -> None:
        """Make sure of all subtasks of a task, also those that others have made and nobody has told of yet."""
        for uri in await children(self._store, node.uri, TASK):
            if uri not in self._nodes:
                await self.refresh(uri)

    async def refresh(self, uri: URI) -> Node | None:
        """The task as it is in the tree now; None when it is gone or cannot be read, and then it is forgotten."""
        try:
            read = await self._read(uri)
        except (ResourceNotFound, InvalidResource):
            if (gone := self._nodes.get(uri)) is not None:
                self.forget(gone)
            return None
        node = self._nodes.get(uri)
        if node is None:
            return self._add(read)
        if node.version != read.version:
            self._become(node, read)
        return node

    async def create(self, parent: URI, id: str, task: Task, meta: Meta) -> Node:
        """The new task; the one that is there where it has been made before."""
        uri = make_uri(parent, TASK, id)
        try:
            stored = await self._store.put(Draft(uri, contents(task), meta))
        except Conflict:
            found = await self.refresh(uri)
            if found is None:
                raise
            return found
        return self._nodes.get(uri) or self._add(_node(stored))

    async def change(self, node: Node, *events: Event) -> Task:
        """Take the task through `events` in one write, from the state it is in by then.

        Raises:
            InvalidTransition, LeaseLost: by the events, and then nothing was written.
            ResourceNotFound: it is gone.
        """
        async with node.lock:
            for _ in range(MOST_TRIES):
                task = node.task
                for event in events:
                    task = apply(task, event)
                if task == node.task:
                    return task
                # Who wrote it last is not to be seen any more after this write.
                task = replace(task, hands=await self.hands(node))
                try:
                    stored = await self._store.put(Draft(node.uri, contents(task)), if_version=node.version)
                except Conflict:
                    self._become(node, await self._read(node.uri))
                    continue
                self._become(node, _node(stored, task))
                return task
        raise Conflict(f"{node.uri} changes all the time; try again later", uri=node.uri, current=None)

    async def hands(self, node: Node) -> tuple[str, ...]:
        """Those who changed a task besides whose store this is, as far as its history goes back."""
        hands, by = node.task.hands, node.updated_by
        if self._is_own(by):
            return hands
        found = dict.fromkeys(hands)
        # What they wrote need not name those before them.
        with contextlib.suppress(ResourceNotFound, Unsupported):
            found |= dict.fromkeys(
                one.by for one in await self._store.history(node.uri) if one.by and not self._is_own(one.by)
            )
        return tuple(sorted({*found, by}))

    def _is_own(self, by: str) -> bool:
        return by in ("", self._store.guard.principal.id)

    def forget(self, node: Node) -> None:
        """Let go of a task and all below it."""
        for one in list(node.subtree()):
            self._nodes.pop(one.uri, None)
        if node.parent is not None:
            node.parent.children.pop(node.id, None)
            node.parent.open.discard(node.id)
        else:
            self._loading.pop(node.uri, None)

    def _add(self, node: Node) -> Node:
        placed = self._placed(node)
        if placed is node:
            self._changed(node)
        return placed

    def _placed(self, node: Node) -> Node:
        """The node in its place in the tree; the one that is there already where there is one."""
        if (there := self._nodes.get(node.uri)) is not None:
            return there
        self._nodes[node.uri] = node
        parent = self._nodes.get(parent_of(node.uri))
        if parent is not None:
            node.parent = parent
            parent.children[node.id] = node
            for id in dependencies(node.task):
                parent.dependents[id].append(node)
            if not node.is_over:
                parent.open.add(node.id)
        return node

    def _become(self, node: Node, read: Node) -> None:
        node.version, node.task, node.meta = read.version, read.task, read.meta
        node.created_by, node.updated_by = read.created_by, read.updated_by
        if node.parent is not None:
            (node.parent.open.discard if node.is_over else node.parent.open.add)(node.id)
        self._changed(node)

    async def _read(self, uri: URI) -> Node:
        return _node(await self._store.get(uri))

    async def _tasks_below(self, uri: URI) -> AsyncIterator[URI]:
        cursor: str | None = None
        while True:
            page = await self._store.list(uri, type=TASK, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
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
