"""The tools over what the tree knows, where the libraries they need are installed (the extra `knowledge`)."""

from collections.abc import Sequence
from importlib.util import find_spec

from cld.guard import GuardedStore
from cld.index.graph import Answer
from cld.index.window import Window, window
from cld.runtime import Runtime
from cld.server.context_tools import context_tools
from cld.server.graph_tools import graph_tools
from cld.server.ingest_tools import ingest_tools
from cld.server.registry import Tool
from cld.server.search_tools import SEARCH
from cld.uri import URI

_NEEDED = ("numpy", "wordllama", "pyoxigraph", "selectolax", "yaml", "kreuzberg")


def knowledge_tools(runtime: Runtime) -> tuple[Sequence[Tool], Sequence[Tool]]:
    """Those offered by default, and those offered with `--tools all`; none where the root is remote."""
    settings = runtime.settings
    if not settings.is_local or not all(find_spec(name) for name in _NEEDED):
        return (), ()

    async def ask(store: GuardedStore, sparql: str, prefix: URI) -> Answer:
        return await runtime.knowledge().graph(store, sparql, prefix)

    async def look(store: GuardedStore, uri: URI, budget: int) -> Window:
        return await window(store, runtime.knowledge().search, uri, budget)

    more = (*context_tools(look), *ingest_tools(settings.ingest.roots, settings.root_path, settings.ingest))
    return (SEARCH, *graph_tools(ask)), more
