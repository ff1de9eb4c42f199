"""What a task is told of the tree besides its own words: what was said before, what it is part of, what is like it."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from cld.guard import GuardedStore
from cld.index.window import MIN_BUDGET, Part, window
from cld.journal import children
from cld.store import Stored
from cld.tasks.order import dependencies
from cld.uri import ROOT, URI, make_uri, parent_of, type_of
from cld.work.tree import TASK, Node
from cld.work.world import World

MESSAGE = "common.Message"
_OF_WORK = (TASK, MESSAGE, "common.Conversation")
_ABOVE = "It is part of this:"

MOST_MESSAGES = 10
"""How many earlier messages of a conversation are told, with their answers."""

_MOST_CHARACTERS = 4  # of a token, about: for the share of earlier messages in the budget


class Contexts:
    """What tasks are told, within the tokens of the settings; `keeper` is the store of who asked for the work."""

    def __init__(self, world: World, keeper: GuardedStore) -> None:
        self._world = world
        self._keeper = keeper
        self._before: WeakKeyDictionary[Node, tuple[tuple[URI, ...], ...]] = WeakKeyDictionary()

    async def of(self, store: GuardedStore, node: Node) -> str:
        """What is known, as far as `store` may read it; the same where the tree says the same, wherever the task lies.

        Its own words are not among it, which are told as such; nor where the tasks and messages lie that it is part of.

        A task that names its inputs gets those, and needs no more. Of the tasks beside it in its plan it is told
        of those that it comes after, and of no others: which of them are done already is chance.
        """
        if node.task.inputs and node.parent is not None:
            return ""
        budget = self._world.settings.window_tokens
        said = await self._said_before(store, node, budget * _MOST_CHARACTERS // 3)
        beside = [make_uri(parent_of(node.uri), TASK, id) for id in dependencies(node.task)]
        left = max(MIN_BUDGET, budget - len(said) // _MOST_CHARACTERS)
        found = await window(store, self._world.find, node.uri, left, beside=beside)
        return "\n\n".join([*([said] if said else []), *(_told(part) for part in found.parts if part.role != "self")])

    async def _said_before(self, store: GuardedStore, node: Node, characters: int) -> str:
        """The messages before the one that is worked, and their answers: the newest that fit, in order."""
        told: list[str] = []
        for message in reversed(await self._exchanges_before(node.root)):
            part = await _exchange(store, message)
            if sum(map(len, told)) + len(part) > characters:
                break
            if part:
                told.append(part)
        return "\n\n".join(reversed(told))

    async def _exchanges_before(self, root: Node) -> tuple[tuple[URI, ...], ...]:
        """The last messages before the one of this tree, each with the tasks it became; looked for once a tree.

        By who asked for the work: which of them a task may be told of is decided when it is.
        """
        if (known := self._before.get(root)) is None:
            known = self._before[root] = await self._look_before(parent_of(root.uri))
        return known

    async def _look_before(self, message: URI) -> tuple[tuple[URI, ...], ...]:
        conversation = ROOT if message == ROOT else parent_of(message)
        if conversation == ROOT or type_of(message) != MESSAGE:
            return ()
        before = [uri for uri in await children(self._keeper, conversation, MESSAGE) if uri < message]
        return tuple([(uri, *await children(self._keeper, uri, TASK)) for uri in before[-MOST_MESSAGES:]])


def _told(part: Part) -> str:
    place = _ABOVE if part.role == "ancestor" and type_of(part.uri) in _OF_WORK else part.uri
    return f"{place}\n{part.text}"


async def _exchange(store: GuardedStore, uris: tuple[URI, ...]) -> str:
    """A message and the answers to it; nothing of what may not be read, or is not there any more."""
    lines: list[str] = []
    for uri, found in await _each(store, uris):
        text = found.resource.content.get("output" if type_of(uri) == TASK else "text")
        if isinstance(text, str) and text:
            lines.append(f"{uri}\n{text}")
    return "\n".join(lines)


async def _each(store: GuardedStore, uris: Sequence[URI]) -> list[tuple[URI, Stored]]:
    found = await store.get_each(uris)
    return [(uri, one) for uri, one in zip(uris, found, strict=True) if isinstance(one, Stored)]
