"""Which of the tasks that can be worked is next: by priority, then each tree of tasks in turn, and in a tree by id.

Owns this order, so that a large tree keeps no small one waiting. Knows nothing of who works them.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from cld.uri import URI
from cld.work.tree import Node


class Turns:
    """Tasks that wait to be begun, each at most once."""

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[URI, list[tuple[list[str | int], URI]]]] = {}
        """By priority, the trees in the order of their turns, and of each what waits, as a heap."""
        self._waiting: set[URI] = set()

    def __contains__(self, uri: URI) -> bool:
        return uri in self._waiting

    def __iter__(self) -> Iterator[URI]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, node: Node) -> None:
        """Let a task wait with the priority that it has now, unless it waits already."""
        if node.uri not in self._waiting:
            self._waiting.add(node.uri)
            trees = self._lines.setdefault(node.task.priority, OrderedDict())
            heapq.heappush(trees.setdefault(node.root.uri, []), (node.counted, node.uri))

    def take(self) -> URI:
        """The next task, which does not wait any more.

        Raises:
            KeyError: none waits.
        """
        if not self._lines:
            raise KeyError("no task waits")
        priority = max(self._lines)
        trees = self._lines[priority]
        root, line = trees.popitem(last=False)
        _, uri = heapq.heappop(line)
        if line:
            trees[root] = line  # behind all others
        elif not trees:
            del self._lines[priority]
        self._waiting.discard(uri)
        return uri
