"""What each candidate has completed well, as far as whoever asks may read it: a sample of a bounded size.

Of each candidate's requests those `KEPT` count whose tasks' URIs have the smallest digests: a uniform sample
(bottom-k, Cohen & Kaplan 2007) of those that *the caller* may read, so that it is the one of a tree that
never held the others, and an election learns from a million requests what it costs to learn from a
hundred. For this the tasks are walked in the order of their digests and put to the caller's guard until there
are enough; what may not be read costs a decision and moves nothing. What was requested is read from the tree.

A namespace counts for who may read a task at its top, so that others' namespaces need not be walked.
"""

from collections.abc import Sequence

import msgspec

from cld.events.pace import to_thread
from cld.guard import GuardedStore
from cld.index.election import Candidate
from cld.index.election_learning import MAX_REQUESTS
from cld.index.election_table import Done, ElectionTable
from cld.resource import Resource
from cld.store import Stored
from cld.uri import ROOT, URI, make_uri, namespace_of

KEPT = MAX_REQUESTS
MAX_REQUEST = 500
"""Of a request so many characters are kept."""

TASK = "plan.Task"

_DECISIONS = 1000
_NAMESPACE = "cld.Namespace"


class _Walk:
    """One candidate's tasks, walked in the order of their digests."""

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate
        self.size = KEPT
        self.last: Done | None = None
        self.readable: list[URI] = []
        self.is_over = False

    def take(self, some: Sequence[Done], readable: set[URI]) -> None:
        self.readable += [one.uri for one in some if one.uri in readable]
        self.is_over = len(some) < self.size or len(self.readable) >= KEPT
        self.last = some[-1] if some else None
        self.size = min(4 * self.size, _DECISIONS)


def completed(resource: Resource) -> tuple[str, str] | None:
    """The assistant that completed a task, and the request it was; None for all else, what failed or was skipped."""
    content = resource.content
    if resource.type != TASK or content.get("status") != "completed" or content.get("error") or content.get("skipped"):
        return None
    assistant = content.get("assistant")
    meta = resource.meta
    texts = [
        f"{meta.purpose}\n{meta.instructions}".strip(),
        *(content.get(key) for key in ("title", "text", "message")),
    ]
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    return (assistant, text[:MAX_REQUEST]) if isinstance(assistant, str) and assistant and text else None


async def with_history(
    store: GuardedStore, candidates: Sequence[Candidate], table: ElectionTable
) -> Sequence[Candidate]:
    """The candidates with those of their earlier requests that the store's principal may read."""
    walks = [_Walk(candidate.name) for candidate in candidates]
    await _walk(store, walks, table)
    found = await store.get_each([uri for walk in walks for uri in walk.readable[:KEPT]], brief=True)
    stored = {URI(one.resource.uri): one.resource for one in found if isinstance(one, Stored)}
    return [
        msgspec.structs.replace(candidate, requests=(*candidate.requests, *_requests(walk, stored)))
        for candidate, walk in zip(candidates, walks, strict=True)
    ]


async def _walk(store: GuardedStore, walks: Sequence[_Walk], table: ElectionTable) -> None:
    """Have each walk find the first `KEPT` tasks that may be read."""
    open_to: dict[str, bool] = {"": True}
    while left := [walk for walk in walks if not walk.is_over]:
        closed = frozenset(name for name, is_open in open_to.items() if not is_open)
        steps = await to_thread(
            lambda left=left, closed=closed: [
                table.completed(walk.candidate, walk.last, walk.size, closed) for walk in left
            ]
        )
        tasks = [one.uri for some in steps for one in some]
        new = sorted({namespace_of(uri) for uri in tasks} - open_to.keys())
        tops = [make_uri(make_uri(ROOT, _NAMESPACE, name), TASK, "any") for name in new]
        readable = await _readable(store, tops)
        open_to |= {name: top in readable for name, top in zip(new, tops, strict=True)}
        readable = await _readable(store, [uri for uri in tasks if open_to[namespace_of(uri)]])
        for walk, some in zip(left, steps, strict=True):
            walk.take(some, readable)


async def _readable(store: GuardedStore, uris: Sequence[URI]) -> set[URI]:
    found: set[URI] = set()
    for first in range(0, len(uris), _DECISIONS):
        found.update(await store.readable(uris[first : first + _DECISIONS], brief=True))
    return found


def _requests(walk: _Walk, stored: dict[URI, Resource]) -> Sequence[str]:
    """What the walk's tasks requested, as the tree has it now: the table may be a moment behind."""
    done = [completed(stored[uri]) for uri in walk.readable[:KEPT] if uri in stored]
    return [request for one in done if one is not None for name, request in [one] if name == walk.candidate]
