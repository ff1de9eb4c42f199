"""`cld search`: resources by meaning and by words, as hosts find them."""

from argparse import Namespace

import msgspec

from cld.cli.exits import OK
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings


async def search(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print the hits, best first; the index is made true to the tree before, if no server does that."""
    async with existing(settings) as runtime:
        knowledge = runtime.knowledge()
        await knowledge.catch_up("search")
        reader = store(runtime, "search", query=arguments.query, prefix=arguments.below)
        hits = await knowledge.search(reader, arguments.query, arguments.below, arguments.type, limit=arguments.limit)
        complete = await knowledge.finds_all()
        shortfall = await knowledge.shortfall()
    for hit in hits:
        if terminal.human:
            terminal.line(f"{terminal.style(f'{hit.score:.2f}', 'dim')}  {terminal.style(safe_line(hit.uri), 'bold')}")
            terminal.line("      " + safe_line(" ".join(hit.quote.split())))
        else:
            terminal.record(msgspec.to_builtins(hit))
    if terminal.human and not hits:
        terminal.line("nothing found")
    if not complete:
        terminal.note("the index is being made; ask again later for more")
    if shortfall:
        terminal.note(shortfall)
    return OK
