"""Listings: what each file of tools held when it was last loaded, kept so that a start needs no process.

Only a shortcut: a call loads the file, and is not made when the tool there is another. Losing it costs loading
the files again, and that tools whose files went meanwhile are not noticed to be gone.
"""

import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from cld import __version__
from cld.config import Tooling
from cld.tools.messages import Loaded
from cld.types import Tool


class Listing(msgspec.Struct, frozen=True):
    """A file's tools; `stamp` is the state of the file, and of all that decides what loading it gives."""

    path: str
    stamp: str
    loaded: Loaded


class _Kept(msgspec.Struct, frozen=True):
    files: tuple[Listing, ...] = ()
    gone: tuple[Tool, ...] = ()


class Listings:
    """The listings in `file`; with None there are none, and none are kept."""

    def __init__(self, file: Path | None, tooling: Tooling) -> None:
        self._file = file
        around = {name: os.environ.get(name) for name in tooling.environment}
        self._around = repr((__version__, sys.version, sorted(around.items())))
        kept = _Kept()
        if file is not None:
            # Whatever is wrong with it, the files themselves are there to be loaded.
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        self._files = {listing.path: listing for listing in kept.files}
        self._gone = kept.gone

    def once(self) -> dict[str, Tool]:
        """The tools there were, by name, those whose files went since included."""
        tools = [*self._gone, *(tool for listing in self._files.values() for tool in listing.loaded.tools)]
        return {tool.name: tool for tool in tools}

    def find(self, path: Path, stamp: object) -> Loaded | None:
        """What is known to be in a file in this state."""
        listing = self._files.get(str(path))
        return listing.loaded if listing is not None and listing.stamp == self._digest(stamp) else None

    def save(self, files: Mapping[Path, tuple[object, Loaded]], gone: Iterable[Tool]) -> None:
        """Keep these, each with its file's stamp, instead of what there was; blocks for a moment."""
        listings = (Listing(str(path), self._digest(stamp), loaded) for path, (stamp, loaded) in files.items())
        kept = _Kept(tuple(listings), tuple(gone))
        self._files, self._gone = {listing.path: listing for listing in kept.files}, kept.gone
        if self._file is None:
            return
        new = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}.new")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(kept))
            new.replace(self._file)

    def _digest(self, stamp: object) -> str:
        return hashlib.sha256(repr((stamp, self._around)).encode()).hexdigest()
