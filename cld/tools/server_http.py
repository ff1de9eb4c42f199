"""HTTP: the streams of an MCP server at a URL, with its headers, and answers bounded.

Redirects stay within the URL's origin (the SDK sees to it), so headers go nowhere else.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from cld.errors import ToolFailed
from cld.tools.server_secrets import Secrets
from cld.tools.server_stdio import Noise

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_BYTES = 16 * 1024 * 1024
CONNECT_SECONDS = 10.0


def check_url(url: str) -> None:
    """Refuse what is no plain web address.

    Raises:
        ToolFailed: it is not http or https, has no host, or holds a password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        secret = "@" in parts.netloc
    except ValueError:
        usable, secret = False, False
    if not usable or any(character <= " " for character in url):
        raise ToolFailed("its url is no http or https address; correct it", kind="misconfigured")
    if secret:
        raise ToolFailed("its url holds a name or password; use headers with $NAME instead", kind="misconfigured")


@asynccontextmanager
async def http(url: str, secrets: Secrets, noise: Noise) -> AsyncGenerator[Any]:
    """The streams of the server at `url`; refusals are heard as noise, for messages to say what came before."""
    # On first use, as all of the SDK: a server without tool servers need not spend it.
    import httpx2  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    async def bound(response: "httpx2.Response") -> None:
        if response.status_code >= 400:
            noise.heard("http", f"status {response.status_code} {response.reason_phrase}".encode())
        # Events of a stream are bounded one by one, by the SDK.
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            response.stream = _Bounded(cast("httpx2.AsyncByteStream", response.stream))

    class _Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: "httpx2.AsyncByteStream") -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    # Of the kind that the SDK answers the one request with that it concerns.
                    raise httpx2.StreamError(f"the answer has more than {MAX_ANSWER_BYTES} bytes; ask for less")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    client = httpx2.AsyncClient(
        # What is not compressed cannot grow while it is unpacked.
        headers={"accept-encoding": "identity", **secrets.headers},
        # How long an answer may take is the caller's to say.
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=None),
        event_hooks={"response": [bound]},
    )
    async with (
        client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MAX_ANSWER_BYTES) as streams,
    ):
        yield streams
