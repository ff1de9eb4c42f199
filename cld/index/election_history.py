"""What each candidate has completed well: a sample of its requests that never grows beyond a bound.

Of each candidate's requests those `KEPT` are kept whose keys (task URIs) have the smallest digests: a uniform
sample of all there ever were (bottom-k sketch, Cohen & Kaplan 2007), whatever the order they came in
and however often. So the file can be deleted and comes back the same from the tree, adding costs the
same after a million requests as after a hundred, and few of them are written at all.

Each namespace has its own sample: what is done in one that a caller may not read moves nothing it is told.

The file is derived. One process writes it, the one that maintains the index; a reader must ask the
guard about every key before it uses a request (`with_history`).
"""

import hashlib
import os
from bisect import insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from cld.errors import InvalidResource, ResourceNotFound
from cld.guard import GuardedStore
from cld.index.election import Candidate
from cld.index.election_learning import MAX_REQUESTS
from cld.resource import Resource
from cld.store import MAX_LIMIT
from cld.uri import MAX_DEPTH, ROOT, URI, namespace_of

KEPT = MAX_REQUESTS
MAX_REQUEST = 500
"""Of a request so many characters are kept."""

TASK = "plan.Task"

FILE = "elections/history.jsonl"
"""Its name in the folder of the index."""

_VERSION = 1
_WASTE = 1000  # lines that no longer count, before the file is written anew


class Kept(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A request that is in the sample; ordered by digest."""

    digest: int
    key: str
    text: str


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    candidate: str
    key: str
    text: str = ""
    gone: bool = False


class _Head(msgspec.Struct, frozen=True):
    version: int


class History:
    """The samples of all candidates, in memory and, once `save`d, in a file to which changes are appended."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, list[Kept]]] = {}
        self._owners: dict[str, str] = {}
        self._file: Path | None = None
        self._lines = 0

    def __len__(self) -> int:
        """Requests kept, of all candidates."""
        return sum(len(kept) for samples in self._kept.values() for kept in samples.values())

    def add(self, candidate: str, key: str, text: str) -> bool:
        """Take in that `candidate` completed the request `text` of `key`; whether that changed the sample."""
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
        kept = self._kept.setdefault(candidate, {}).setdefault(namespace_of(URI(key)), [])
        if len(kept) == KEPT and digest > kept[-1].digest:
            return False
        one = Kept(digest, key, text[:MAX_REQUEST])
        if one in kept:
            return False
        kept[:] = [other for other in kept if other.key != key]
        insort(kept, one)
        for other in kept[KEPT:]:
            self._owners.pop(other.key, None)
        del kept[KEPT:]
        self._owners[key] = candidate
        self._append(_Line(candidate, key, one.text))
        return True

    def remove(self, key: str) -> bool:
        """Forget a request; whether it was in the sample. Its place is taken by the next that comes."""
        candidate = self._owners.pop(key, None)
        if candidate is None:
            return False
        kept = self._kept[candidate][namespace_of(URI(key))]
        kept[:] = [one for one in kept if one.key != key]
        self._append(_Line(candidate, key, gone=True))
        return True

    def learn(self, resource: Resource) -> bool:
        """Take in a resource as it now is; whether that changed the sample.

        A task that was completed adds to its assistant's requests, one that is so no longer goes.
        """
        done = completed(resource)
        if done is None:
            return self.remove(resource.uri)
        if self._owners.get(resource.uri, done[0]) != done[0]:
            self.remove(resource.uri)
        return self.add(done[0], resource.uri, done[1])

    def of(self, candidate: str) -> Sequence[Kept]:
        """All that is kept of a candidate's requests, of every namespace, by digest."""
        return sorted(one for kept in self._kept.get(candidate, {}).values() for one in kept)

    @classmethod
    def open(cls, file: Path) -> Self:
        """The history in `file`; an empty one where there is none, or none of this version."""
        history = cls()
        try:
            head, *lines = file.read_bytes().split(b"\n")
            if msgspec.json.decode(head, type=_Head).version == _VERSION:
                for line in lines:
                    history._replay(line)
        except (OSError, msgspec.MsgspecError):
            pass  # nothing there yet, or not ours to read: it is made anew from the tree
        history._lines = len(history)
        return history

    def save(self, file: Path) -> None:
        """Write everything to `file`, at once or not at all; from now on changes are appended to it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}.tmp")
        lines = [_Line(name, one.key, one.text) for name in sorted(self._kept) for one in self.of(name)]
        new.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (_Head(_VERSION), *lines)))
        new.replace(file)
        self._file, self._lines = file, len(lines)

    def _append(self, line: _Line) -> None:
        if self._file is None:
            return
        self._lines += 1
        if self._lines > 2 * len(self) + _WASTE:
            self.save(self._file)
            return
        # Not synced: what a power cut takes is found again in the tree.
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def _replay(self, line: bytes) -> None:
        try:
            read = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            return  # half of a line, written when its process ended
        if read.gone:
            self.remove(read.key)
        else:
            self.add(read.candidate, read.key, read.text)


def completed(resource: Resource) -> tuple[str, str] | None:
    """The assistant that completed a task, and the request it was; None for all else, and for what failed."""
    content = resource.content
    if resource.type != TASK or content.get("status") != "completed" or content.get("error"):
        return None
    assistant = content.get("assistant")
    meta = resource.meta
    texts = [
        f"{meta.purpose}\n{meta.instructions}".strip(),
        *(content.get(key) for key in ("title", "text", "message")),
    ]
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    return (assistant, text) if isinstance(assistant, str) and text else None


async def history_of_tree(store: GuardedStore, prefix: URI = ROOT) -> History:
    """The history made anew from all tasks below `prefix` that the store's principal may read."""
    history = History()
    cursor: str | None = None
    while True:
        page = await store.list(prefix, type=TASK, depth=MAX_DEPTH, cursor=cursor, limit=MAX_LIMIT)
        for uri in page.uris:
            try:
                history.learn((await store.get(uri)).resource)
            except (ResourceNotFound, InvalidResource):
                continue  # gone since it was listed, or nothing to learn from
        if page.cursor is None:
            return history
        cursor = page.cursor


async def with_history(store: GuardedStore, candidates: Sequence[Candidate], history: History) -> list[Candidate]:
    """The candidates with those of their earlier requests that the store's principal may read."""
    keys = [one.key for candidate in candidates for one in history.of(candidate.name)]
    readable: set[str] = set()
    for batch in _batches(keys):
        readable.update(await store.readable([URI(key) for key in batch]))
    return [
        msgspec.structs.replace(
            candidate,
            requests=(
                *candidate.requests,
                *[one.text for one in history.of(candidate.name) if one.key in readable][:KEPT],
            ),
        )
        for candidate in candidates
    ]


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[at : at + MAX_LIMIT] for at in range(0, len(keys), MAX_LIMIT))
