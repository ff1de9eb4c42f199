"""Eras: a host that looks before it shakes hands is served, which the SDK alone refuses.

On one pipe the SDK lets the first request decide whether the connection speaks the handshake protocols or
2026-07-28. `server/discover` belongs to the latter, but hosts send it to find out what there is and then
`initialize` all the same. So discover is answered here, without deciding anything, until another request comes.
"""

from types import TracebackType
from typing import Any, Self

import anyio
from mcp.server.lowlevel import Server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.message import SessionMessage
from mcp_types import SERVER_INFO_META_KEY, DiscoverResult, ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse
from mcp_types.methods import serialize_server_result
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

DISCOVER = "server/discover"


class Undecided:
    """The read stream of a connection whose era is not decided; passes on all but the discovers that lead."""

    def __init__(
        self, server: Server[Any], read: ReadStream[SessionMessage | Exception], write: WriteStream[SessionMessage]
    ) -> None:
        self._server = server
        self._read = read
        self._write = write
        self._decided = False

    async def receive(self) -> SessionMessage | Exception:
        while True:
            item = await self._read.receive()
            if self._decided or not isinstance(item, SessionMessage) or not isinstance(item.message, JSONRPCRequest):
                return item
            if item.message.method != DISCOVER:
                self._decided = True
                return item
            await self._write.send(SessionMessage(self._answer(item.message)))

    def _answer(self, request: JSONRPCRequest) -> JSONRPCResponse | JSONRPCError:
        """What the SDK would answer, were this a connection of its era."""
        verdict = classify_inbound_request({"method": request.method, "params": request.params})
        if isinstance(verdict, InboundLadderRejection):
            error = ErrorData(code=verdict.code, message=verdict.message, data=verdict.data)
            return JSONRPCError(jsonrpc="2.0", id=request.id, error=error)
        version = verdict.protocol_version
        result = DiscoverResult(
            supported_versions=list(MODERN_PROTOCOL_VERSIONS),
            capabilities=self._server.get_capabilities(protocol_version=version),
            instructions=self._server.instructions,
        )
        dumped = serialize_server_result(
            DISCOVER, version, result.model_dump(by_alias=True, mode="json", exclude_none=True)
        )
        dumped["_meta"] = {**dumped.get("_meta", {}), SERVER_INFO_META_KEY: self._server.server_info_stamp}
        return JSONRPCResponse(jsonrpc="2.0", id=request.id, result=dumped)

    async def aclose(self) -> None:
        await self._read.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()
