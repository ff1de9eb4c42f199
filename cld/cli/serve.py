"""`cld serve`: the tree over MCP, for a host that starts it or for many over HTTP."""

from argparse import Namespace

from cld.cli.exits import OK
from cld.cli.terminal import Terminal
from cld.config import Settings
from cld.server import serve as serve_mcp


async def serve(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Serve until the host leaves, or interrupted; standard output is the protocol's."""
    if terminal.can_ask and not settings.http:
        terminal.note("waiting for an MCP host on standard input; Ctrl-C ends")
    await serve_mcp(settings)
    return OK
