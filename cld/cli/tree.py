"""`cld tree`: resources drawn as the tree they are."""

from argparse import Namespace
from typing import Any

from cld.cli.exits import OK
from cld.cli.reading import entries
from cld.cli.session import existing, store
from cld.cli.terminal import Terminal, safe_line
from cld.config import Settings
from cld.guard import Entry
from cld.uri import ROOT, URI, elements_of

_MOST = 1000  # what a person can still look at; --limit says otherwise


class Branch:
    """An element of the tree, with the resource there if there is one, and what is below."""

    def __init__(self, element: str) -> None:
        self.element = element
        self.entry: Entry | None = None
        self.below: dict[str, Branch] = {}


async def tree(arguments: Namespace, settings: Settings, terminal: Terminal) -> int:
    """Draw what is below a prefix; as JSON, nested objects with `uri`, facts and `below`."""
    prefix: URI = arguments.prefix
    limit: int = arguments.limit or _MOST
    root = Branch(prefix)
    count = 0
    async with existing(settings) as runtime:
        reader = store(runtime, "resource_list", prefix=prefix, type=arguments.type, depth=arguments.depth)
        skip = len(elements_of(prefix))
        more = False
        # One more than is drawn tells whether there is more.
        async for entry in entries(reader, prefix, arguments.type, arguments.depth, limit + 1):
            if count == limit:
                more = True
                break
            place(root, entry, skip)
            count += 1
    if not terminal.human:
        terminal.document({"prefix": prefix, "below": _documents(root, prefix), "more": more})
        return OK
    terminal.line(terminal.style(prefix, "bold"))
    draw(root, "", terminal)
    shown = f"{count} resource{'' if count == 1 else 's'}"
    terminal.line(terminal.style(f"{shown}, and more; --limit shows more of them" if more else shown, "dim"))
    return OK


def place(root: Branch, entry: Entry, skip: int) -> None:
    """Put the entry where it belongs below `root`, which has `skip` elements."""
    at = root
    for element in elements_of(entry.uri)[skip:]:
        at = at.below.setdefault(element, Branch(element))
    at.entry = entry


def draw(branch: Branch, indent: str, terminal: Terminal) -> None:
    """Write what is below `branch`, a line each."""
    for index, child in enumerate(branch.below.values()):
        last = index == len(branch.below) - 1
        terminal.line(terminal.style(indent + ("└── " if last else "├── "), "dim") + _label(child, terminal))
        draw(child, indent + ("    " if last else "│   "), terminal)


def _label(branch: Branch, terminal: Terminal) -> str:
    type, _, id = branch.element.rpartition(".")
    entry = branch.entry
    if entry is None:
        # Something is below it, but there is no such resource, or none that was asked for or may be read.
        return terminal.style(branch.element, "dim")
    if entry.invalid:
        return terminal.style(branch.element, "red") + "  " + terminal.style(safe_line(entry.invalid), "dim")
    return terminal.style(f"{type}.", "blue") + terminal.style(id)


def _documents(branch: Branch, prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for child in branch.below.values():
        uri = f"{prefix}{'' if prefix == ROOT else '/'}{child.element}"
        one: dict[str, Any] = {"uri": uri}
        if child.entry is not None:
            one |= {"type": child.entry.type, "version": child.entry.version, "updated_at": child.entry.updated_at}
            if child.entry.invalid:
                one["invalid"] = child.entry.invalid
        found.append({**one, "below": _documents(child, uri)})
    return found
