"""What a task is told of the tree besides its own words: what was said before, what it is part of, what is like it."""

from collections.abc import Sequence

from cld.guard import GuardedStore
from cld.index.window import MIN_BUDGET, window
from cld.journal import children
from cld.store import Stored
from cld.tasks.order import dependencies
from cld.uri import ROOT, URI, make_uri, parent_of, type_of
from cld.work.tree import TASK, Node
from cld.work.world import World

MESSAGE = "common.Message"

MOST_MESSAGES = 10
"""How many earlier messages of a conversation are told, with their answers."""

_MOST_CHARACTERS = 4  # of a token, about: for the share of earlier messages in the budget


async def context_of(world: World, store: GuardedStore, node: Node) -> str:
    """What is known, within the tokens of the settings, as far as `store` may read it.

    A task that names its inputs gets those, and needs no more. Of the tasks beside it in its plan it is told of
    those that it comes after, and of no others: which of them are done already is chance.
    """
    if node.task.inputs and node.parent is not None:
        return ""
    budget = world.settings.window_tokens
    said = await _said_before(store, parent_of(node.root.uri), budget * _MOST_CHARACTERS // 3)
    beside = [make_uri(parent_of(node.uri), TASK, id) for id in dependencies(node.task)]
    left = max(MIN_BUDGET, budget - len(said) // _MOST_CHARACTERS)
    found = await window(store, world.find, node.uri, left, beside=beside)
    return "\n\n".join(part for part in (said, found.text) if part)


async def _said_before(store: GuardedStore, message: URI, characters: int) -> str:
    """The messages before `message` in its conversation and their answers, the newest that fit, in order."""
    conversation = ROOT if message == ROOT else parent_of(message)
    if conversation == ROOT or type_of(message) != MESSAGE:
        return ""
    before = [uri for uri in await children(store, conversation, MESSAGE) if uri < message][-MOST_MESSAGES:]
    told: list[str] = []
    for uri in reversed(before):
        part = await _exchange(store, uri)
        if sum(map(len, told)) + len(part) > characters:
            break
        told.append(part)
    return "\n\n".join(reversed(told))


async def _exchange(store: GuardedStore, message: URI) -> str:
    """A message and the answers to it; nothing of what may not be read, or is not there any more."""
    lines: list[str] = []
    for uri, found in await _each(store, (message, *await children(store, message, TASK))):
        text = found.resource.content.get("text" if uri == message else "output")
        if isinstance(text, str) and text:
            lines.append(f"{uri}\n{text}")
    return "\n".join(lines)


async def _each(store: GuardedStore, uris: Sequence[URI]) -> list[tuple[URI, Stored]]:
    found = await store.get_each(uris)
    return [(uri, one) for uri, one in zip(uris, found, strict=True) if isinstance(one, Stored)]
