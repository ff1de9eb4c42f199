"""The threads that the local store's blocking calls run in, one hop a call.

What `concurrent.futures` does, in a third of the time for the one use there is here: a call is a queue
entry, a result is one callback on the event loop it came from. It must not know what is called.
"""

import asyncio
import atexit
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Call:
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Any]"
    work: Callable[[], Any]


class Threads:
    """At most `limit` threads, started as they are needed; more calls than that wait in the queue."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._threads: list[threading.Thread] = []
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = 0  # calls that no thread is done with, those in the queue included
        # The threads end with the process even where nobody closes, but what they do is finished first.
        atexit.register(self.close)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, from a thread; cancelling leaves it to finish there."""
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), work)
        with self._lock:
            if self._limit == 0:
                raise RuntimeError("these threads are closed")
            self._open += 1
            if len(self._threads) < min(self._open, self._limit):
                thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._calls.put(call)
        return await call.answer

    def close(self) -> None:
        """Wait until every call is done and the threads have ended; again does nothing."""
        with self._lock:
            self._limit = 0
            for _ in self._threads:
                self._calls.put(None)
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.close)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                tell, what = _answer, call.work()
            except BaseException as error:  # whatever it is belongs to the caller, and the thread goes on
                tell, what = _fail, error
            with self._lock:
                self._open -= 1
            # The loop may be closed by now: then nobody waits any more.
            with suppress(RuntimeError):
                call.loop.call_soon_threadsafe(tell, call.answer, what)
            del call, what  # nor what they hold while waiting for the next


def _answer(answer: "asyncio.Future[Any]", result: object) -> None:
    if not answer.done():  # cancelled
        answer.set_result(result)


def _fail(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
