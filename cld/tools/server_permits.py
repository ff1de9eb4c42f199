"""Permits: which tool servers the user of this machine lets cld start or talk to.

A `tool.Server` resource runs a program, and a tree may have come from somebody else. So policy, which lies beside
the tree, is not enough: each server has to fit a permit from the user's own settings as well.
"""

from collections.abc import Sequence

import msgspec

from cld.config import Permit
from cld.tools.server_listing import misnamed
from cld.tools.server_secrets import named
from cld.types import Server

ANY_MORE = "*"
"""As the last word of a permitted command: whatever words may follow."""


def allowed(server: Server, permits: Sequence[Permit]) -> str | None:
    """None if the server has a usable prefix and one of `permits` covers it; else why not, and what to write where."""
    faults = [fault for fault in (misnamed(server.prefix), _not_permitted(server, permits)) if fault is not None]
    return "; ".join(faults) or None


def _not_permitted(server: Server, permits: Sequence[Permit]) -> str | None:
    words = (server.command, *server.args)
    if server.command and server.url:
        return "it has both a command and a url; remove one"
    fitting = [permit for permit in permits if _fits(server, words, permit)]
    if not fitting:
        what = f"command = {_toml(words)}" if server.command else f"url = {_toml(server.url)}"
        return f"your own settings do not permit it; to use it, add {what} to tooling.servers there"
    for permit in fitting:
        if server.cwd in {"", permit.cwd} and not _surplus(server, permit):
            return None
    permit = fitting[0]
    if surplus := _surplus(server, permit):
        return f"your own settings do not permit it to be given {', '.join(surplus)}; add to its environment there"
    return f"your own settings do not permit it to be started in {server.cwd}; set its cwd there"


def _fits(server: Server, words: tuple[str, ...], permit: Permit) -> bool:
    if not server.command:
        return bool(server.url) and server.url == permit.url
    if len(permit.command) > 1 and permit.command[-1] == ANY_MORE:
        return words[: len(permit.command) - 1] == permit.command[:-1]
    return words == permit.command


def _surplus(server: Server, permit: Permit) -> list[str]:
    """The names it sets or takes beyond the permit's."""
    # Names it sets as well: LD_PRELOAD or NODE_OPTIONS make another program of a permitted one.
    wanted = [*server.env] if server.command else []
    for value in (*server.env.values(), *server.headers.values()):
        wanted += named(value)
    return sorted(set(wanted) - set(permit.environment))


def _toml(value: str | Sequence[str]) -> str:
    # A JSON text or list of texts is one in TOML, too.
    return msgspec.json.encode(value).decode()
