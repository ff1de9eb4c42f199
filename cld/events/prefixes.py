"""Prefixes: which subtrees are watched, counted. Answers in steps of the depth, not of their number."""

from collections import Counter
from collections.abc import Iterable, Iterator

from cld.uri import URI, parents_of


class Prefixes:
    """A counted set of prefixes; iterating gives each once."""

    def __init__(self) -> None:
        self._counts: Counter[URI] = Counter()
        self._above: Counter[URI] = Counter()

    def __iter__(self) -> Iterator[URI]:
        return iter(self._counts)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, prefix: URI) -> None:
        self._counts[prefix] += 1
        if self._counts[prefix] == 1:
            self._above.update(parents_of(prefix))

    def remove(self, prefix: URI) -> None:
        self._counts[prefix] -= 1
        if self._counts[prefix] == 0:
            del self._counts[prefix]
            self._above.subtract(parents_of(prefix))
            self._above = +self._above

    def cover(self, uri: URI) -> bool:
        """Whether `uri` is one of the prefixes or lies below one."""
        return uri in self._counts or any(parent in self._counts for parent in parents_of(uri))

    def concern(self, uri: URI) -> bool:
        """Whether what happens to the folder `uri` can matter: it is covered, or leads to a prefix."""
        return uri in self._above or self.cover(uri)

    def parts_of(self, uri: URI) -> list[URI]:
        """The outermost watched subtrees at or below `uri`: itself where it is covered."""
        if self.cover(uri):
            return [uri]
        return outermost(prefix for prefix in self._counts if uri in parents_of(prefix))


def outermost(uris: Iterable[URI]) -> list[URI]:
    """Those of `uris` that lie below none of the others."""
    every = set(uris)
    return [uri for uri in every if every.isdisjoint(parents_of(uri))]
