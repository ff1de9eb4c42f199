"""When tasks are to be looked at again though nobody has written anything: a lease ends, a time has come.

Owns the order of these times, so that a look costs what is due and not what there is. Knows nothing of tasks.
"""

import heapq

from cld.uri import URI


class Due:
    """One time for each task at most, as resources carry times: such texts sort by time."""

    def __init__(self) -> None:
        self._times: dict[URI, str] = {}
        self._heap: list[tuple[str, URI]] = []

    def set(self, uri: URI, time: str | None) -> None:
        """Look at the task at `time`, instead of when it was said before; at None not at all."""
        if time is None:
            self._times.pop(uri, None)
        elif self._times.get(uri) != time:
            self._times[uri] = time
            # What was said before stays in the heap until its time, and is passed over then.
            heapq.heappush(self._heap, (time, uri))

    def take(self, now: str) -> list[URI]:
        """Those whose time has come; they are not due any more."""
        taken: list[URI] = []
        while self._heap and self._heap[0][0] <= now:
            time, uri = heapq.heappop(self._heap)
            if self._times.get(uri) == time:
                del self._times[uri]
                taken.append(uri)
        return taken
