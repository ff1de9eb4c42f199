"""The tools that come with cld, as files of tools like anybody's: run in workers, loaded as their settings say.

Each file stands for itself. What is turned off in the settings is not loaded, so it is no tool at all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cld.config import Tooling
from cld.tools.python import Place


def library(tooling: Tooling) -> tuple[Place, Mapping[str, Any]]:
    """Where the tools that `tooling` turns on lie, and the options they are given."""
    files = {
        "calculator.py": tooling.library,
        "time_now.py": tooling.library,
        "http_fetch.py": tooling.library and bool(tooling.http_hosts),
        "files.py": tooling.library and bool(tooling.granted_folder),
        "email_draft.py": tooling.library and bool(tooling.outbox),
    }
    options = {
        "http_hosts": list(tooling.http_hosts),
        "granted_folder": _whole(tooling.granted_folder),
        "outbox": _whole(tooling.outbox),
    }
    return Place(Path(__file__).parent, frozenset(name for name, on in files.items() if on)), options


def places(tooling: Tooling) -> tuple[tuple[Place, ...], Mapping[str, Any]]:
    """All folders of tools that the settings name, the library first, and the options for it."""
    place, options = library(tooling)
    return (place, *(Place(Path(_whole(folder))) for folder in tooling.folders)), options


def _whole(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""
