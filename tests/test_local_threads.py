import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cld.store.local_threads import Threads

LONG = 20  # seconds, for what should take none


def test_results_and_errors_come_back_to_their_caller() -> None:
    async def main() -> None:
        threads = Threads(2, "test")
        assert await asyncio.gather(*(threads.run(lambda n=n: n * n) for n in range(50))) == [n * n for n in range(50)]
        for error in (OSError(5, "no"), KeyboardInterrupt(), SystemExit(3)):

            def fail(error: BaseException = error) -> None:
                raise error

            answer = await asyncio.gather(_caught(threads, fail))
            assert answer == [error]
        assert await threads.run(lambda: "still there") == "still there"
        threads.close()

    asyncio.run(main())


async def _caught(threads: Threads, work: object) -> BaseException | None:
    try:
        await threads.run(work)  # type: ignore[arg-type]
    except BaseException as error:
        return error
    return None


def test_as_many_calls_run_at_once_as_there_may_be_threads_and_no_more() -> None:
    async def main() -> None:
        threads = Threads(3, "test")
        meeting = threading.Barrier(3, timeout=LONG)
        names = await asyncio.gather(
            *(threads.run(lambda: (meeting.wait(), threading.current_thread().name)[1]) for _ in range(9))
        )
        assert set(names) == {"test_0", "test_1", "test_2"}
        threads.close()

    asyncio.run(main())


def test_a_call_after_the_other_needs_one_thread() -> None:
    async def main() -> None:
        threads = Threads(8, "test")
        assert {await threads.run(threading.get_ident) for _ in range(200)} == {await threads.run(threading.get_ident)}
        threads.close()

    asyncio.run(main())


def test_a_cancelled_call_goes_on_and_its_error_is_nobodys() -> None:
    async def main() -> None:
        threads = Threads(1, "test")
        going, goes_on, done = threading.Event(), threading.Event(), threading.Event()
        reports: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

        def work() -> None:
            going.set()
            goes_on.wait(LONG)
            done.set()
            raise OSError("nobody waits")

        call = asyncio.create_task(threads.run(work))
        while not going.is_set():
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        goes_on.set()
        assert await threads.run(done.is_set)
        assert reports == []
        threads.close()

    asyncio.run(main())


def test_closing_waits_for_what_is_queued_and_refuses_what_comes_after() -> None:
    async def main() -> None:
        threads = Threads(1, "test")
        goes_on = threading.Event()
        calls = [asyncio.create_task(threads.run(lambda n=n: (goes_on.wait(LONG), n)[1])) for n in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(threads.close))
        goes_on.set()
        await closing
        assert await asyncio.gather(*calls) == [0, 1, 2]
        with pytest.raises(RuntimeError, match="closed"):
            await threads.run(lambda: None)
        threads.close()

    asyncio.run(main())


def test_a_process_that_closes_nothing_ends_when_its_calls_are_done(tmp_path: Path) -> None:
    program = """
import asyncio, sys, time
from cld.store.local_threads import Threads

def write():
    time.sleep(0.2)
    open(sys.argv[1], "w").close()

async def main():
    asyncio.create_task(Threads(2, "test").run(write))
    await asyncio.sleep(0)

asyncio.run(main())
"""
    written = tmp_path / "written"
    done = subprocess.run([sys.executable, "-c", program, str(written)], timeout=LONG, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert written.exists()
