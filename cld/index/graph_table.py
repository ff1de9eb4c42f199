"""The graphs as they are kept: one row a resource in a SQLite file, its triples packed, with what they were made of.

Why not Oxigraph's own files: they belong to one process, and reading them while another writes is
undefined; here any process reads while one writes, and a caller's dataset is made of the rows they may read.
Calls block; `cld.index.graph` makes them in threads. Knows no principals.
"""

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cld.index.database import Database
from cld.uri import ROOT, URI

if TYPE_CHECKING:
    import sqlite3

FILE = "graph.sqlite3"
FORMAT = 1
"""Counts up whenever what is extracted from a resource changes; a file of another one is made anew."""

_SCHEMA = """
CREATE TABLE entry (uri TEXT PRIMARY KEY, state INTEGER NOT NULL, version TEXT NOT NULL, meta BLOB) WITHOUT ROWID;
CREATE TABLE triples (uri TEXT PRIMARY KEY, data BLOB NOT NULL);
INSERT INTO fact VALUES ('state', 0);
"""
_FETCH = 500


class Row(msgspec.Struct, frozen=True):
    """A graph to be kept: whose, made of which version, with which meta (the JSON of one; empty for none)."""

    uri: URI
    version: str
    meta: bytes
    triples: bytes


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A graph that is kept; `state` differs whenever its triples may, also after the file was made anew."""

    uri: URI
    state: int
    meta: bytes


class GraphTable:
    """The file in `folder`; one process writes, any reads. What is there of no use is made anew by the writer."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._database = Database(folder / FILE, _SCHEMA, FORMAT, writes=writes)
        self._listing: tuple[int, Sequence[Entry]] | None = None

    def versions(self) -> Mapping[URI, str]:
        """The version each graph was made of."""
        with self._database.reading() as connection:
            return {} if connection is None else dict(connection.execute("SELECT uri, version FROM entry"))

    def version_of(self, uri: URI) -> str | None:
        with self._database.reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT version FROM entry WHERE uri = ?", (uri,)).fetchone()
            return None if found is None else found[0]

    def apply(self, puts: Sequence[Row], deletes: Sequence[URI]) -> None:
        """Put and delete rows, all or none."""
        with self._database.writing() as connection:
            (state,) = connection.execute("SELECT value FROM fact WHERE name = 'state'").fetchone()
            # By the clock, so that a file made anew begins beyond all that the old one gave.
            state = max(state + 1, time.time_ns())
            connection.executemany("DELETE FROM entry WHERE uri = ?", [(uri,) for uri in deletes])
            connection.executemany("DELETE FROM triples WHERE uri = ?", [(uri,) for uri in deletes])
            connection.executemany(
                "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)",
                [(row.uri, state + number, row.version, row.meta) for number, row in enumerate(puts)],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO triples VALUES (?, ?)",
                [(row.uri, zlib.compress(row.triples, 1)) for row in puts],
            )
            connection.execute("UPDATE fact SET value = ? WHERE name = 'state'", (state + len(puts),))

    def finish(self) -> None:
        """Say that all of the tree is in it."""
        self._database.finish()

    def is_complete(self) -> bool:
        """Whether it once had all of the tree; since then changes follow."""
        return self._database.is_complete()

    def damage(self) -> str:
        """What is wrong with the file; empty for nothing. Reads all of it."""
        if found := self._database.damage():
            return found
        try:
            for _ in self.triples(list(self.versions())):
                pass
        except zlib.error as error:
            return f"a graph cannot be read: {error}"
        return ""

    def entries(self, prefix: URI = ROOT) -> Sequence[Entry]:
        """The graphs of `prefix` and all below it, in order of their URIs."""
        with self._database.reading() as connection:
            if connection is None:
                return ()
            if prefix != ROOT:
                below = (prefix, prefix + "/", prefix + "0")  # "0" comes after "/"
                where = "WHERE uri = ? OR (uri > ? AND uri < ?)"
                return _listed(connection, where, below)
            (state,) = connection.execute("SELECT value FROM fact WHERE name = 'state'").fetchone()
            if self._listing is None or self._listing[0] != state:
                self._listing = (state, _listed(connection, "", ()))
            return self._listing[1]

    def triples(self, uris: Sequence[URI]) -> Iterator[tuple[URI, int, bytes]]:
        """State and triples of each of `uris` that is there, read a few at a time."""
        for first in range(0, len(uris), _FETCH):
            some = uris[first : first + _FETCH]
            with self._database.reading() as connection:
                if connection is None:
                    return
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    "SELECT entry.uri, state, data FROM entry JOIN triples USING (uri) "  # noqa: S608 - only marks
                    f"WHERE entry.uri IN ({marks}) ORDER BY entry.uri",
                    some,
                ).fetchall()
            for uri, state, data in rows:
                yield URI(uri), state, zlib.decompress(data)

    def close(self) -> None:
        self._database.close()


def _listed(connection: "sqlite3.Connection", where: str, values: Sequence[str]) -> Sequence[Entry]:
    rows = connection.execute(f"SELECT uri, state, meta FROM entry {where} ORDER BY uri", values)  # noqa: S608 - ours
    return [Entry(URI(uri), state, meta) for uri, state, meta in rows]
