"""Who may ask a tier, and when: so many at once, so many a minute, and in turn.

Knows nothing of models. Belongs to one event loop.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

MINUTE = 60.0


class Queue:
    """Places for those who ask, given round robin among the keys they come under, in order under each.

    At most `places` are taken at once, and, unless `per_minute` is 0, at most that many are given in any `minute`
    seconds. Whoever is cancelled, waiting or not, gives its place back.
    """

    def __init__(self, places: int, per_minute: int = 0, minute: float = MINUTE) -> None:
        self._free = places
        self._given: deque[float] | None = deque(maxlen=per_minute) if per_minute else None
        self._minute = minute
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._rests_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    @property
    def resting(self) -> float:
        """For how many seconds more nobody is given a place, by `rest`."""
        return max(0.0, self._rests_until - asyncio.get_running_loop().time())

    def rest(self, seconds: float) -> None:
        """Give no place for so long, because the other side asked for that."""
        self._rests_until = max(self._rests_until, asyncio.get_running_loop().time() + seconds)

    @asynccontextmanager
    async def place(self, key: str = "") -> AsyncGenerator[None]:
        """A place, held for the time of the context."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        self._give()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
            else:
                self._leave(key, turn)
            self._give()

    def close(self) -> None:
        """No timer is left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self, key: str, turn: asyncio.Future[None]) -> None:
        # One who was cancelled may have been passed over already.
        if (line := self._waiting.get(key)) and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[key]

    def _give(self) -> None:
        """Give what places there are to those whose turn it is."""
        self.close()
        while self._waiting and self._free:
            if (seconds := self._closed_for()) > 0:
                self._timer = asyncio.get_running_loop().call_later(seconds, self._give)
                return
            key, line = self._waiting.popitem(last=False)
            turn = line.popleft()
            if line:
                self._waiting[key] = line  # behind all others
            if turn.cancelled():
                continue
            self._free -= 1
            if self._given is not None:
                self._given.append(asyncio.get_running_loop().time())
            turn.set_result(None)

    def _closed_for(self) -> float:
        now = asyncio.get_running_loop().time()
        rate = 0.0
        if self._given is not None and len(self._given) == self._given.maxlen:
            rate = self._given[0] + self._minute - now
        return max(rate, self._rests_until - now)
