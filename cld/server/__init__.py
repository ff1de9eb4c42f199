"""The server: cld as an MCP server, on stdio for the host that started it, or over HTTP for many.

Owns the protocol: tools, resources, prompts, subscriptions, and who a request is from. Must not decide
what is allowed, which the guarded store it is given does, and holds no raw store.
"""

from cld.config import Settings
from cld.errors import ConfigError
from cld.runtime import Runtime
from cld.server.http import serve_http
from cld.server.stdio import serve_stdio

__all__ = ["serve", "serve_http", "serve_stdio"]


async def serve(settings: Settings) -> None:
    """Serve as the settings say: over HTTP when `http` is set, else on stdio.

    Raises:
        ConfigError: the settings cannot be used.
    """
    async with Runtime.open(settings) as runtime:
        if settings.http:
            await serve_http(runtime, *address(settings.http))
        else:
            await serve_stdio(runtime)


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, as in `127.0.0.1:8000` or `[::1]:8000`.

    Raises:
        ConfigError: when it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"http: {text!r} is no HOST:PORT; write 127.0.0.1:8000 or [::1]:8000")
    return host.removeprefix("[").removesuffix("]"), int(port)
