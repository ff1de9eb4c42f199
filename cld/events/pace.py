"""Pace: how long work is done in small pieces, so that the event loop never waits for a big tree."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

SLICE_SECONDS = 0.002
"""How long work on the event loop goes on before it lets others in."""

THREAD_SECONDS = 0.02
"""How long work in a thread goes on before its results are taken over."""


class Pace:
    """Lets the event loop in whenever a slice is used up: `await pace.rest()` between small steps."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def rest(self) -> None:
        if time.perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_SECONDS


async def to_thread(work: Callable[[], T]) -> T:
    """What `work` gives, run in a thread; never returns, not even when cancelled, before the thread is done."""
    running = asyncio.ensure_future(anyio.to_thread.run_sync(work))
    try:
        return await asyncio.shield(running)
    finally:
        # Else the caller would close descriptors and generators that the thread is using.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([running])


async def in_thread(steps: Iterator[T]) -> AsyncGenerator[list[T], None]:
    """What `steps` gives, run in a thread, in lists of as much as one slice brought."""
    more = True
    while more:
        batch, more = await to_thread(lambda: _take(steps))
        if batch:
            yield batch


def _take(steps: Iterator[T]) -> tuple[list[T], bool]:
    until = time.perf_counter() + THREAD_SECONDS
    batch: list[T] = []
    for step in steps:
        batch.append(step)
        if time.perf_counter() > until:
            return batch, True
    return batch, False
