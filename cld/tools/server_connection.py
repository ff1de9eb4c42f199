"""Connection: one session with a tool server, shared by all calls, from its start to its end.

One task enters and leaves everything, as the SDK's scopes need; calls only send through it. It is not restarted:
`cld.tools.server_tools` makes another one. Whatever the server or the SDK says leaves here without secrets and bounded.
Longer than most modules, because all of it shares the one state of a session and ends with its task.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import anyio

from cld import __version__
from cld.errors import ToolFailed
from cld.escape import safe_line
from cld.tools import OnProgress, Result
from cld.tools.server_http import check_url, http
from cld.tools.server_listing import EMPTY, MAX_TOOLS, Listing, listing_of, misnamed
from cld.tools.server_results import MAX_ERROR, progress_of, result_of, shortened
from cld.tools.server_secrets import Secrets
from cld.tools.server_stdio import Noise, Program, TooLong, program_of, stdio
from cld.types import Server

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult, InputRequiredResult
    from pydantic import TypeAdapter

log = logging.getLogger("cld.tools")

CANCEL_SECONDS = 1.5
"""How long a cancelled call may take to tell the server so."""

PROBE_SECONDS = 5.0
"""How long a server may take to answer anything at all after a call was cancelled; longer, and it hangs."""

_LEAVE_SECONDS = 2.0
_PAUSE_SECONDS = 0.2
_LISTEN_AGAIN_SECONDS = 5.0
_MAX_PAGES = 100
_ROUNDS = 20
_ROUND_SECONDS = 0.25
_MODERN = "2026-"
_CLOSED = "Connection closed"
_LOST = "SSE stream "


class Connection:
    """Made by `open`, used by `call`, and over with `aclose` or when the server ends, whichever is first."""

    def __init__(
        self,
        uri: str,
        server: Server,
        environment: Mapping[str, str],
        on_listing: Callable[[Listing], None],
        on_end: "Callable[[Connection], None]",
    ) -> None:
        """Raises: ToolFailed: the server cannot be used as it is described."""
        if (fault := misnamed(server.prefix)) is not None:
            raise ToolFailed(fault, kind="misconfigured")
        if bool(server.command) == bool(server.url):
            raise ToolFailed("it needs either command or url; add or remove one", kind="misconfigured")
        self._uri = uri
        self._server = server
        self._on_listing = on_listing
        self._on_end = on_end
        self._secrets = Secrets(server, environment)
        self._noise = Noise(uri, self._secrets)
        self._program: Program | None = None
        if server.command:
            self._program = program_of(server, self._secrets, environment)
        else:
            check_url(server.url)
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope = anyio.CancelScope()
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._probes: set[asyncio.Task[None]] = set()
        self.calls = 0
        """How many are under way."""
        self._sent_nothing = False
        self.why = ""
        """Why it ended, if nobody ended it."""

    @property
    def ended(self) -> bool:
        """Whether no more calls can be sent."""
        return self._stopped.is_set() or self._task is None or self._task.done()

    async def open(self, seconds: float) -> None:
        """Start the server or find it, agree on a protocol version, and list its tools.

        Raises:
            ToolFailed: it cannot be started, speaks no MCP, or took longer than `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                try:
                    await self._attempt("auto")
                except ToolFailed:
                    # Some older servers end at the question that newer ones are asked first.
                    if self._program is None:
                        raise
                    self._stopped.clear()
                    self.why, self._scope = "", anyio.CancelScope()
                    await self._attempt("legacy")
        except BaseException as error:
            await self._abort()
            if isinstance(error, TimeoutError):
                said = f"it was not ready within {seconds:g} seconds{self._said()}"
                raise ToolFailed(said, kind="unavailable") from None
            raise

    async def call(self, name: str, arguments: Mapping[str, Any], progress: OnProgress) -> Result:
        """What the tool, by the server's own name, gives. Cancelling tells the server, and takes at most 2 seconds.

        Raises:
            ToolFailed: `crashed` when the server ended meanwhile: it may have done all, some or nothing of it.
        """
        request = asyncio.create_task(self._call(name, arguments, progress))
        self.calls += 1
        try:
            return await asyncio.shield(request)
        except asyncio.CancelledError:
            request.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({request}, timeout=CANCEL_SECONDS)
            if self.calls == 1 and not self.ended:
                probe = asyncio.create_task(self._probe())
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
            raise
        finally:
            self.calls -= 1
            # Whatever becomes of one that nobody waits for any more, somebody has to look.
            request.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def aclose(self) -> None:
        """End the session, and the process with all it started."""
        self._stop("")
        for probe in self._probes:
            probe.cancel()
        if self._task is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._task}, timeout=_LEAVE_SECONDS)
                await self._abort()

    async def _attempt(self, mode: str) -> None:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(mode, opened))
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            opened.cancel()
            raise

    async def _abort(self) -> None:
        if self._task is not None:
            self._stop("")
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._task})

    def _stop(self, why: str) -> None:
        if not self._stopped.is_set():
            self.why = why
            self._stopped.set()

    def _said(self) -> str:
        """What the server said last, for a message."""
        return f" (it said last: {' / '.join(self._noise.last)})" if self._noise.last else ""

    def _status(self, message: str) -> str:
        """What the SDK leaves out of its message about a refusal over HTTP."""
        return f" ({self._noise.last[-1]})" if "error response" in message and self._noise.last else ""

    def _reason(self, error: BaseException) -> str:
        """An error of the SDK or the system in words, without secrets."""
        # Pydantic's quotes the whole value.
        text = str(error).partition("\n")[0] if type(error).__name__ == "ValidationError" else str(error)
        return shortened(safe_line(self._secrets.hide(text)), MAX_ERROR) or type(error).__name__

    async def _run(self, mode: str, opened: "asyncio.Future[None]") -> None:
        # On first use: a server without tool servers need not spend the time that the SDK's client takes.
        import httpx2  # noqa: PLC0415
        from mcp import Client  # noqa: PLC0415
        from mcp_types import Implementation  # noqa: PLC0415

        if self._program is not None:
            streams: Any = stdio(self._program, self._noise, lambda: self._stop("it ended"))
        else:
            streams = http(self._server.url, self._secrets, self._noise)
        try:
            with self._scope:
                async with Client(
                    streams,
                    mode=mode,
                    cache=None,
                    message_handler=self._heard,
                    client_info=Implementation(name="cld", version=__version__),
                ) as client:
                    await self._list(client)
                    self._client = client
                    if not opened.done():
                        opened.set_result(None)
                    await self._stay(client)
        except Exception as raised:
            # Whatever the SDK, the server or the network did: it ends this connection and nothing else.
            error = _innermost(raised)
            self._sent_nothing = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and self.calls == 1
            self._stop(self._reason(error))
        finally:
            # All that it said has been heard by now.
            self.why += self._said() if self.why else ""
            self._stop("it ended")
            if not opened.done():
                opened.set_exception(ToolFailed(self.why or "it was ended", kind="unavailable"))
                # Looked at also where whoever waited has gone.
                opened.exception()
            self._on_end(self)

    async def _stay(self, client: "Client") -> None:
        """Until it is stopped, list its tools anew whenever they changed."""
        capabilities = client.server_capabilities.tools
        async with anyio.create_task_group() as group:
            if client.protocol_version.startswith(_MODERN) and capabilities and capabilities.list_changed:
                group.start_soon(self._follow, client)
            group.start_soon(self._list_again, client)
            await self._stopped.wait()
            group.cancel_scope.cancel()

    async def _list_again(self, client: "Client") -> None:
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - see `_run`
        from pydantic import ValidationError  # noqa: PLC0415

        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._list(client)
            except (MCPError, ValidationError) as error:
                log.warning("tool server %s does not list its tools anew: %s", self._uri, self._reason(error))
            # A server that says so without end is not listed without end.
            await anyio.sleep(_PAUSE_SECONDS)

    async def _follow(self, client: "Client") -> None:
        """Listen for changes, in the way of the protocol since 2026."""
        from mcp.client.subscriptions import SubscriptionLost  # noqa: PLC0415 - see `_run`
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415

        while True:
            with suppress(MCPError, SubscriptionLost):
                async with client.listen(tools_list_changed=True) as subscription:
                    # What changed before it listened is not told.
                    self._note_change()
                    async for _ in subscription:
                        self._note_change()
            await anyio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _heard(self, message: object) -> None:
        if isinstance(message, TooLong):
            self._stop(str(message))
        elif getattr(message, "method", "") == "notifications/tools/list_changed":
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()

    async def _list(self, client: "Client") -> None:
        from mcp_types import PaginatedRequestParams  # noqa: PLC0415 - see `_run`

        if client.server_capabilities.tools is None:
            self._on_listing(EMPTY)
            return
        offered: list[Any] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            params = PaginatedRequestParams(cursor=cursor) if cursor is not None else None
            page = await client.session.list_tools(params=params)
            offered += page.tools
            cursor = page.next_cursor
            if cursor is None or len(offered) > MAX_TOOLS:
                break
        more = cursor is not None or len(offered) > MAX_TOOLS
        listing = await anyio.to_thread.run_sync(
            listing_of, offered[:MAX_TOOLS], self._uri, self._server, self._secrets
        )
        if more:
            problem = f"it offers more than {MAX_TOOLS} tools or {_MAX_PAGES} pages of them; the rest is left out"
            listing = Listing(listing.tools, listing.theirs, (*listing.problems, problem))
        self._on_listing(listing)

    async def _call(self, name: str, arguments: Mapping[str, Any], on_progress: OnProgress) -> Result:
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - see `_run`
        from mcp_types import (  # noqa: PLC0415
            CONNECTION_CLOSED,
            HEADER_MISMATCH,
            CallToolRequest,
            CallToolRequestParams,
            CallToolResult,
        )
        from pydantic import ValidationError  # noqa: PLC0415

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            on_progress(progress_of(progress, total, message, self._secrets))

        assert self._client is not None
        # Not the SDK's `call_tool`: it would check the result, which `calling` does, and answer what is asked for.
        state: str | None = None
        try:
            for _ in range(_ROUNDS):
                params = CallToolRequestParams(name=name, arguments=dict(arguments), request_state=state)
                answer = await self._client.session.send_request(
                    CallToolRequest(params=params), _answers(), progress_callback=tell
                )
                if isinstance(answer, CallToolResult):
                    return result_of(answer, self._secrets)
                if answer.input_requests:
                    asked = ", ".join(sorted({request.method for request in answer.input_requests.values()}))
                    raise ToolFailed(f"it asks for {asked}, which cld does not give tool servers", kind="needs_input")
                state = answer.request_state
                await asyncio.sleep(_ROUND_SECONDS)
        except MCPError as error:
            # The SDK's code for it is one that servers use for anything.
            if self._stopped.is_set() or (error.code == CONNECTION_CLOSED and error.message == _CLOSED):
                raise await self._crashed() from None
            if error.code == CONNECTION_CLOSED and error.message.startswith(_LOST):
                lost = f"its answer did not come, so it may have done all, some or nothing: {self._reason(error)}"
                raise ToolFailed(lost, kind="crashed") from None
            if error.message == "Session terminated":
                self._stop("it ended the session")
                raise ToolFailed("it had ended the session before the call; call again", kind="unavailable") from None
            if error.code == HEADER_MISMATCH:
                self._note_change()
                raise ToolFailed("its tool changed; call again with what tools says now", kind="changed") from None
            raise ToolFailed(self._reason(error) + self._status(error.message)) from None
        except ValidationError as error:
            raise ToolFailed(f"its answer is not MCP: {self._reason(error)}") from None
        raise ToolFailed(f"it asked {_ROUNDS} times to be called again; try later")

    async def _crashed(self) -> ToolFailed:
        """What a call fails with whose server is gone, once all it said is heard and its processes have ended."""
        self._stop("it ended")
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_LEAVE_SECONDS)
        if self._sent_nothing:
            return ToolFailed(f"it cannot be reached: {self.why}", kind="unavailable")
        return ToolFailed(
            f"it ended during the call, which may have done all, some or nothing: {self.why}", kind="crashed"
        )

    async def _probe(self) -> None:
        """End a server that answers nothing: it did not stop what was cancelled, and will not do anything else."""
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - see `_run`
        from mcp_types import ListToolsRequest, ListToolsResult  # noqa: PLC0415
        from pydantic import ValidationError  # noqa: PLC0415

        assert self._client is not None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                with suppress(MCPError, ValidationError):
                    await self._client.session.send_request(ListToolsRequest(), ListToolsResult)
        except TimeoutError:
            log.warning("tool server %s answers nothing after a call was cancelled; it is ended", self._uri)
            self._stop("it answered nothing after a call was cancelled, and was ended")


@cache
def _answers() -> "TypeAdapter[CallToolResult | InputRequiredResult]":
    """What a call may be answered with; making it takes longer than a call."""
    from mcp_types import CallToolResult, InputRequiredResult  # noqa: PLC0415 - see `_run`
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(CallToolResult | InputRequiredResult)


def _innermost(error: BaseException) -> BaseException:
    """The first error in a task group's."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
