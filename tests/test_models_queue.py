"""Who may ask when: in turn, so many at once, so many a minute; and nobody's place is lost."""

import asyncio

import anyio
import pytest

from cld.models.queue import Queue

pytestmark = pytest.mark.anyio
DEADLINE = 10


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_keys_take_turns_however_many_wait_under_one() -> None:
    queue, order = Queue(1), list[str]()
    first = asyncio.Event()

    async def work(key: str) -> None:
        async with queue.place(key):
            await first.wait()
            order.append(key)

    with anyio.fail_after(DEADLINE):
        async with asyncio.TaskGroup() as tasks:
            for key in ("greedy", *["greedy"] * 4, "small", "other", "small"):
                tasks.create_task(work(key))
            await settle()
            assert queue.waiting == 7
            first.set()
    assert order == ["greedy", "greedy", "small", "other", "greedy", "small", "greedy", "greedy"]


async def test_no_more_than_the_places_are_taken_at_once() -> None:
    queue, inside, most = Queue(3), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with queue.place():
            inside += 1
            most = max(most, inside)
            await settle()
            inside -= 1

    with anyio.fail_after(DEADLINE):
        await asyncio.gather(*(work() for _ in range(20)))
    assert most == 3


async def test_who_is_cancelled_gives_the_place_back_whenever_that_is() -> None:
    queue = Queue(2)

    async def work() -> None:
        async with queue.place():
            await settle()

    with anyio.fail_after(DEADLINE):
        for wait in range(12):
            tasks = [asyncio.create_task(work()) for _ in range(6)]
            for _ in range(wait):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert queue.waiting == 0
        async with queue.place(), queue.place():
            pass


async def test_in_any_window_no_more_begin_than_the_rate_allows() -> None:
    queue, window, begun = Queue(100, per_minute=3, minute=0.2), 0.2, list[float]()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        async with queue.place():
            begun.append(loop.time())

    with anyio.fail_after(DEADLINE):
        await asyncio.gather(*(work() for _ in range(8)))
    # What is noted is noted a little after the place was given, so never too early.
    assert all(later - earlier > window * 0.9 for earlier, later in zip(begun, begun[3:], strict=False))
    assert begun[3] - begun[0] > window * 0.9


async def test_one_who_asks_to_be_left_alone_is() -> None:
    queue = Queue(1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    queue.rest(0.1)
    assert 0 < queue.resting <= 0.1
    with anyio.fail_after(DEADLINE):
        async with queue.place():
            assert loop.time() - begun >= 0.09
    assert queue.resting == 0
