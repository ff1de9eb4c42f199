"""The tools over what the tree knows, where the libraries they need are installed (the extra `knowledge`)."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cld.guard import GuardedStore
from cld.index.installed import is_installed
from cld.runtime import Runtime
from cld.server.context_tools import context_tools
from cld.server.graph_tools import graph_tools
from cld.server.ingest_tools import ingest_tools
from cld.server.registry import Tool
from cld.server.search_tools import SEARCH
from cld.uri import URI

if TYPE_CHECKING:
    from cld.index.graph import Answer
    from cld.index.window import Window


def knowledge_tools(runtime: Runtime) -> tuple[Sequence[Tool], Sequence[Tool]]:
    """Those offered by default, and those offered with `--tools all`; of a remote root only what needs no index."""
    settings = runtime.settings
    if not is_installed():
        return (), ()
    tree = settings.root_path if settings.is_local else None
    ingest = ingest_tools(settings.ingest.roots, tree, settings.ingest)
    if tree is None:
        return (), ingest

    async def ask(store: GuardedStore, sparql: str, prefix: URI) -> "Answer":
        return await runtime.knowledge().graph(store, sparql, prefix)

    async def look(store: GuardedStore, uri: URI, budget: int) -> "Window":
        window = importlib.import_module("cld.index.window").window
        return await window(store, runtime.knowledge().search, uri, budget)

    return (SEARCH, *graph_tools(ask)), (*context_tools(look), *ingest)
