"""The window: the context for working on a resource, within a budget of tokens.

What lies above it, from the top down; the resource itself; what was done beside it (earlier siblings
first, a task's outputs in place of the task); and what is like it elsewhere. Nothing twice, in an order
that depends on the tree alone, each part exact slices of fields, and a note of what was left out and why.
Everything is read through the caller's guarded store: what it may not read is neither in the window nor
among what was left out.

Tokens are counted by the tokenizer of the default embedding (Llama 2's), for each part with its URI and
a line break after every line; where that is not installed, by bytes, which is never too few.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec

from cld.errors import InvalidArgument, InvalidResource, ResourceNotFound
from cld.events.pace import Pace
from cld.guard import GuardedStore
from cld.index import Hit
from cld.index.window_texts import MAX_CHARACTERS, Said, Slice, Text, fitting, text_of, tokens_of_name
from cld.store import MAX_LIMIT, Stored
from cld.uri import ROOT, URI, is_within, parent_of, parents_of, sort_key, type_of

DEFAULT_BUDGET = 4000
MIN_BUDGET, MAX_BUDGET = 100, 1_000_000
MAX_SIBLINGS = 50
MAX_SIMILAR = 20
MAX_LEFT_OUT = 100
LEAST_SCORE = 0.15
"""What is like the resource only by its meaning has to reach this score. Without a word in common a score is at most a
third with the default model and a half with others: about half of the way from texts that have nothing to do with
each other to the same text."""

_LISTED = 20_000  # siblings that are looked through for the nearest earlier ones
_DOCUMENT = "common.Document"
_OUTPUT_TYPE = "common.Message"
_OUTPUT_FIELDS = ("content.output",)
_QUESTION = 2000

Role = Literal["ancestor", "self", "sibling", "similar"]

# How much of the budget may be used when each kind is done; what one leaves is there for the next.
_SHARES: dict[Role, float] = {"self": 0.5, "ancestor": 0.7, "sibling": 0.85, "similar": 1.0}
_ORDER: tuple[Role, ...] = ("ancestor", "self", "sibling", "similar")


class Part(msgspec.Struct, frozen=True):
    """What one resource says: `text` is its slices' texts, a line each; `tokens` what it takes with its URI."""

    uri: URI
    role: Role
    version: str
    text: str
    slices: tuple[Slice, ...]
    tokens: int


class LeftOut(msgspec.Struct, frozen=True):
    """A resource that is not in the window, or not all of it, and why; only such as may be read."""

    uri: URI
    role: Role
    why: str


class Window(msgspec.Struct, frozen=True):
    """`more_left_out` counts those beyond the first `MAX_LEFT_OUT`."""

    uri: URI
    budget: int
    tokens: int
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]
    more_left_out: int = 0

    @property
    def text(self) -> str:
        """All of it for a model: each part under its URI."""
        return "\n\n".join(f"{part.uri}\n{part.text}" for part in self.parts)


class Find(Protocol):
    """What finds similar resources: `Search.query` of `cld.index.search`."""

    async def __call__(self, store: GuardedStore, query: str, /, *, limit: int) -> tuple[Hit, ...]: ...


async def window(
    store: GuardedStore,
    find: Find | None,
    uri: URI,
    budget: int = DEFAULT_BUDGET,
    *,
    beside: Sequence[URI] | None = None,
) -> Window:
    """The context for working on `uri`, of at most `budget` tokens.

    Without `find` nothing similar is looked for. `beside` are the siblings that have to do with it, the nearest
    first, where that is known. The same tree, index, caller and budget give the same bytes.

    Raises:
        InvalidArgument: `budget` is not `MIN_BUDGET` to `MAX_BUDGET`.
        ResourceNotFound: there is no such resource, or it may not be read.
        InvalidResource: its file is no valid resource.
    """
    if not MIN_BUDGET <= budget <= MAX_BUDGET:
        raise InvalidArgument(f"budget is {budget}; give {MIN_BUDGET} to {MAX_BUDGET} tokens", field="budget")
    # The nearest says most about the work; shown they are from the top down.
    above = parents_of(uri)[:0:-1]
    own, *ancestors = await store.get_each((uri, *above))
    if own is None:
        raise ResourceNotFound(uri)
    if isinstance(own, InvalidResource):
        raise own
    filling = _Filling(budget)
    if filling.has_room("self", uri):
        filling.take("self", uri, own.version, text_of(own.resource))
    for ancestor, found in zip(above, ancestors, strict=True):
        _put_in(filling, "ancestor", ancestor, found)
    near, beyond = await _siblings(store, uri) if beside is None else (beside, ())
    pace = Pace()
    for sibling in near:
        await _take_outputs(store, filling, sibling)
        await pace.rest()
    for sibling in beyond:
        filling.leave("sibling", sibling, f"it and those beyond it: {MAX_SIBLINGS} are nearer")
    if find is not None and (question := text_of(own.resource).joined[:_QUESTION]):
        for hit in await find(store, question, limit=MAX_SIMILAR):
            is_like = bool(hit.why.words) or hit.score >= LEAST_SCORE
            if is_like and not is_within(hit.uri, uri):
                await _take(store, filling, "similar", hit.uri)
    return filling.window(uri)


class _Filling:
    """A window being filled, the most needed first."""

    def __init__(self, budget: int) -> None:
        self._met: set[URI] = set()
        self._budget = budget
        self._left = budget
        self._parts: list[Part] = []
        self._left_out: list[LeftOut] = []
        self._said = Said()

    def has_room(self, role: Role, uri: URI) -> bool:
        """Whether to look at what `uri` says; not twice, and not where there is no room for anything of it."""
        if uri in self._met:
            return False
        self._met.add(uri)
        if (self._left if role == "self" else self._room(role)) <= tokens_of_name(uri):
            self.leave(role, uri, "budget")
            return False
        return True

    def take(self, role: Role, uri: URI, version: str, text: Text) -> None:
        """Of a resource that there was room for, as much as fits."""
        if not text.lines:
            return  # nothing to say
        if (other := self._said.before(text.joined)) is not None:
            self.leave(role, uri, f"duplicate of {other}")
            return
        text, other = self._said.fresh(text)
        if other is not None and not text.lines:
            self.leave(role, uri, f"duplicate of {other}")
            return
        kept, tokens = fitting(uri, text, self._room(role))
        if not kept.lines and role == "self":
            kept, tokens = fitting(uri, text, self._left)  # the rest says nothing without what it is about
        if len(kept.lines) < len(text.lines):
            why = f"budget: {len(kept.lines)} of {len(text.lines)} passages" if kept.lines else "budget"
            self.leave(role, uri, why)
        elif text.cut:
            self.leave(role, uri, f"too long: its first {MAX_CHARACTERS} characters at most")
        if kept.lines:
            self._said.add(uri, kept)
            self._left -= tokens
            self._parts.append(Part(uri, role, version, kept.joined, kept.slices, tokens))

    def _room(self, role: Role) -> int:
        return self._left - int(self._budget * (1 - _SHARES[role]))

    def leave(self, role: Role, uri: URI, why: str) -> None:
        self._left_out.append(LeftOut(uri, role, why))

    def window(self, uri: URI) -> Window:
        """Ancestors from the top down, the resource itself, siblings in tree order, the similar as they were found."""
        parts: list[Part] = []
        for role in _ORDER:
            mine = [part for part in self._parts if part.role == role]
            parts += mine if role == "similar" else sorted(mine, key=lambda part: sort_key(part.uri))
        left_out = self._left_out
        return Window(
            uri=uri,
            budget=self._budget,
            tokens=self._budget - self._left,
            parts=tuple(parts),
            left_out=tuple(left_out[:MAX_LEFT_OUT]),
            more_left_out=max(0, len(left_out) - MAX_LEFT_OUT),
        )


async def _take(store: GuardedStore, filling: _Filling, role: Role, uri: URI) -> None:
    _put_in(filling, role, uri, (await store.get_each((uri,)))[0])


def _put_in(filling: _Filling, role: Role, uri: URI, found: Stored | InvalidResource | None) -> None:
    if found is None:
        return  # not there, or not to be known of
    if isinstance(found, InvalidResource):
        filling.leave(role, uri, "its file is no valid resource")
    elif role == "similar" and type_of(uri) == _DOCUMENT and found.resource.content.get("error"):
        return  # a file that could not be converted says nothing but that
    elif filling.has_room(role, uri):
        filling.take(role, uri, found.version, text_of(found.resource))


async def _take_outputs(store: GuardedStore, filling: _Filling, uri: URI) -> None:
    """What came of a sibling: its output, and the messages right below it; where there is neither, itself."""
    try:
        stored = await store.get(uri)
    except (ResourceNotFound, InvalidResource):
        await _take(store, filling, "sibling", uri)
        return
    below = await store.list(uri, type=_OUTPUT_TYPE, limit=MAX_SIBLINGS)
    output = text_of(stored.resource, _OUTPUT_FIELDS)
    if (output.lines or not below.uris) and filling.has_room("sibling", uri):
        filling.take("sibling", uri, stored.version, output if output.lines else text_of(stored.resource))
    pace = Pace()
    for message in below.uris:
        await _take(store, filling, "sibling", message)
        await pace.rest()
    if below.cursor is not None:
        filling.leave("sibling", uri, f"messages below it beyond the first {MAX_SIBLINGS}")


async def _siblings(store: GuardedStore, uri: URI) -> tuple[Sequence[URI], Sequence[URI]]:
    """Those of the same type under the same parent: earlier ones from the nearest back, then later ones.

    And the nearest of those that are too far away, on either side. What lies at the top of a tree side by side has
    nothing to do with one another.
    """
    parent = parent_of(uri)
    if parent == ROOT:
        return (), ()
    earlier: deque[URI] = deque(maxlen=MAX_SIBLINGS + 1)
    later: list[URI] = []
    async for sibling in _listed(store, parent, type_of(uri)):
        if sibling == uri:
            continue
        if sibling < uri:
            earlier.append(sibling)
        elif len(later) <= MAX_SIBLINGS:
            later.append(sibling)
        else:
            break
    back = list(reversed(earlier))
    return (*back[:MAX_SIBLINGS], *later[:MAX_SIBLINGS]), (*back[MAX_SIBLINGS:], *later[MAX_SIBLINGS:])


async def _listed(store: GuardedStore, parent: URI, type: str) -> AsyncIterator[URI]:
    cursor: str | None = None
    for _ in range(_LISTED // MAX_LIMIT):
        page = await store.list(parent, type=type, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            yield uri
        if page.cursor is None:
            return
        cursor = page.cursor
