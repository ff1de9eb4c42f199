"""stdio: one host on this process's stdin and stdout, served until it leaves, dies or says stop."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from cld.runtime import Runtime
from cld.server.access import Identity
from cld.server.application import Application
from cld.server.eras import Undecided
from cld.server.parents import Ancestor, ancestors, gone
from cld.server.pipes import own_pipes

log = logging.getLogger("cld.server")

Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]


async def serve_stdio(runtime: Runtime) -> None:
    """Serve the host that started this process as the configured principal.

    Returns when stdin ends, the host is gone, or SIGTERM or SIGINT comes.
    """
    # Before anything that takes time: a host that dies meanwhile would not be missed any more.
    watched = [] if sys.platform == "win32" else ancestors()
    identity = Identity(runtime.principal)
    log.info("serving %s on standard input", runtime.principal.id)
    server = Application(runtime, lambda _: identity).server()
    async with _streams() as (read, write), anyio.create_task_group() as tasks:
        tasks.start_soon(_end_with_host, watched, tasks.cancel_scope)
        with _ended_by_signals(tasks.cancel_scope):
            await server.run(Undecided(server, read, write), write, server.create_initialization_options())
            tasks.cancel_scope.cancel()


async def _end_with_host(watched: list[Ancestor], scope: anyio.CancelScope) -> None:
    await gone(watched)
    log.info("the host is gone")
    scope.cancel()


@asynccontextmanager
async def _streams() -> AsyncGenerator[Streams]:
    if sys.platform == "win32":
        # No selector takes pipes there; the SDK's threads do.
        async with stdio_server() as streams:
            yield streams
    else:
        async with own_pipes() as pipes:
            yield pipes, pipes


@contextlib.contextmanager
def _ended_by_signals(scope: anyio.CancelScope) -> Any:
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        # Handlers of the loop are not to be had there; Ctrl-C ends the process as it does any Python.
        yield
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, scope.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
