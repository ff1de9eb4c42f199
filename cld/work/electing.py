"""Who works a task: the assistants there are, and the election among them."""

from collections.abc import Sequence

import msgspec

from cld.errors import InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.index.election import Candidate
from cld.index.election_candidates import candidate_of_resource
from cld.journal import children
from cld.planner import Roster
from cld.resource import Meta, describe
from cld.types import Assistant, Choice, Elected
from cld.uri import ROOT, URI, elements_of, id_of, make_uri, parse_prefix
from cld.work.tree import Node
from cld.work.world import World

ASSISTANT = "common.Assistant"

CLIENT = "client"
"""In the place of an assistant: whoever asked works the task."""

_TOP = 3


class Member(msgspec.Struct, frozen=True):
    """An assistant that can be elected."""

    uri: URI
    assistant: Assistant
    meta: Meta
    candidate: Candidate


GENERAL = Member(
    make_uri(ROOT, ASSISTANT, "general"),
    Assistant(title="General", tools=("*",), general=True),
    Meta(purpose="Do what no other assistant is for."),
    Candidate("cld:common.Assistant.general"),
)
"""Who works where the tree has no assistants at all."""


class Assistants:
    """The assistants of a tree, read once and again after `changed`."""

    def __init__(self, world: World, store: GuardedStore) -> None:
        self._world = world
        self._store = store
        self._members: dict[URI, tuple[Member, ...]] = {}

    def changed(self) -> None:
        self._members.clear()

    async def of(self, task: URI) -> tuple[Member, ...]:
        """Those a task can be given to: of the tree, and of the namespace it is in."""
        return (*await self._at(ROOT), *(await self._at(space) if (space := _namespace(task)) else ()))

    async def member(self, task: URI, assistant: str) -> Member | None:
        """The assistant by its URI or id; None when there is none that the task can be given to."""
        for member in await self.of(task):
            if assistant in (member.uri, id_of(member.uri)):
                return member
        return GENERAL if assistant in (GENERAL.uri, "general") else None

    async def roster(self, task: URI) -> list[Roster]:
        """What the planner is told of them."""
        return [
            Roster(
                member.uri, member.assistant.title or id_of(member.uri), describe(member.meta), member.assistant.tools
            )
            for member in await self.of(task)
        ]

    async def elect(self, store: GuardedStore, node: Node) -> tuple[Member, Elected]:
        """The assistant for a task, and the record of the election.

        Without similarity, and where nobody fits, it is the general one.
        """
        members = await self.of(node.uri)
        general = next((member for member in members if member.assistant.general), None) or GENERAL
        if len(members) <= 1:
            only = members[0] if members else general
            return only, Elected(by="default", reason="there is no other assistant")
        if self._world.elect is None:
            return general, Elected(by="default", abstained=True, reason="nothing to elect with is installed")
        request = "\n".join(part for part in (node.meta.purpose, node.meta.instructions) if part)
        election = await self._world.elect(store, request, [member.candidate for member in members], top=_TOP)
        ranked = tuple(Choice(one.name, round(one.score, 4)) for one in election.ranked)
        if election.abstained or not ranked:
            return general, Elected(ranked, by="default", abstained=True, reason=election.reason)
        first = next(member for member in members if member.uri == ranked[0].assistant)
        return first, Elected(ranked, reason=election.reason)

    async def _at(self, place: URI) -> tuple[Member, ...]:
        if place not in self._members:
            self._members[place] = await _members(self._store, place)
        return self._members[place]


async def everyone(store: GuardedStore) -> list[Member]:
    """All assistants that a task can be given to, of the tree and of each namespace."""
    places = (ROOT, *await children(store, ROOT, "cld.Namespace"))
    return [member for place in places for member in await _members(store, place)]


async def _members(store: GuardedStore, place: URI) -> tuple[Member, ...]:
    found = [await _read(store, uri) for uri in await children(store, place, ASSISTANT)]
    return tuple(one for one in found if one is not None and not one.assistant.disabled)


async def _read(store: GuardedStore, uri: URI) -> Member | None:
    try:
        resource = (await store.get(uri)).resource
        assistant = msgspec.convert(resource.content, Assistant)
    except (ResourceNotFound, InvalidResource, msgspec.ValidationError):
        return None  # shown as invalid by whoever lists it; nobody can be elected by half a description
    return Member(uri, assistant, resource.meta, candidate_of_resource(resource))


def _namespace(uri: URI) -> URI | None:
    first = elements_of(uri)[0]
    return parse_prefix(f"cld:{first}") if first.startswith("cld.Namespace.") else None


def names(members: Sequence[Member]) -> str:
    """The assistants by name, for messages."""
    return ", ".join(id_of(member.uri) for member in members) or "none"
