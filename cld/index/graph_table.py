"""The graphs as they are kept: one row a resource in a SQLite file, its triples packed, with what they were made of.

Why not Oxigraph's own files: they belong to one process, and reading them while another writes is
undefined; here any process reads while one writes, and a caller's dataset is made of the rows they may read.
Each row has a checksum: one that is not as it was written is an error to readers and made again by who writes.
Calls block; `cld.index.graph` makes them in threads. Knows no principals.
"""

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cld.index import BrokenIndex
from cld.index.database import Database, checksum, fact
from cld.uri import ROOT, URI

if TYPE_CHECKING:
    import sqlite3

FILE = "graph.sqlite3"
FORMAT = 3
"""Counts up whenever what is extracted from a resource changes; a file of another one is made anew."""

_SCHEMA = """
CREATE TABLE entry (
    uri TEXT PRIMARY KEY, state INTEGER NOT NULL, version TEXT NOT NULL, meta BLOB, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE triples (uri TEXT PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
INSERT INTO fact VALUES ('state', 0);
"""
_EVERYTHING = """
SELECT entry.uri, state, version, meta, entry.checksum, data, triples.checksum FROM entry LEFT JOIN triples USING (uri)
UNION ALL
SELECT uri, NULL, NULL, NULL, NULL, data, checksum FROM triples WHERE uri NOT IN (SELECT uri FROM entry)
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
        self._file = folder / FILE
        self._database = Database(folder / FILE, _SCHEMA, FORMAT, _unlike, writes=writes)
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
            state = fact(connection, "state")
            # By the clock, so that a file made anew begins beyond all that the old one gave.
            state = max(state + 1, time.time_ns())
            connection.executemany("DELETE FROM entry WHERE uri = ?", [(uri,) for uri in deletes])
            connection.executemany("DELETE FROM triples WHERE uri = ?", [(uri,) for uri in deletes])
            connection.executemany(
                "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)",
                [_sealed(row.uri, state + number, row.version, row.meta) for number, row in enumerate(puts)],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO triples VALUES (?, ?, ?)",
                [_sealed(row.uri, zlib.compress(row.triples, 1)) for row in puts],
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
        return self._database.damage()

    def mend(self) -> str:
        """As `Database.mend`."""
        return self._database.mend(lambda unlike: self.apply((), [URI(uri) for uri in unlike]))

    def is_there(self) -> bool:
        """Whether what is written is still what others would read."""
        return self._database.is_there()

    def entries(self, prefix: URI = ROOT) -> Sequence[Entry]:
        """The graphs of `prefix` and all below it, in order of their URIs.

        Raises:
            BrokenIndex: one of them is not as it was written.
        """
        with self._database.reading() as connection:
            if connection is None:
                return ()
            if prefix != ROOT:
                below = (prefix, prefix + "/", prefix + "0")  # "0" comes after "/"
                where = "WHERE uri = ? OR (uri > ? AND uri < ?)"
                return self._listed(connection, where, below)
            state = fact(connection, "state")
            if self._listing is None or self._listing[0] != state:
                self._listing = (state, self._listed(connection, "", ()))
            return self._listing[1]

    def triples(self, uris: Sequence[URI]) -> Iterator[tuple[URI, int, bytes]]:
        """State and triples of each of `uris` that is there, read a few at a time.

        Raises:
            BrokenIndex: one of them is not as it was written.
        """
        for first in range(0, len(uris), _FETCH):
            some = uris[first : first + _FETCH]
            with self._database.reading() as connection:
                if connection is None:
                    return
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    "SELECT entry.uri, state, data, triples.checksum FROM entry "  # noqa: S608 - only marks
                    "LEFT JOIN triples USING (uri) "
                    f"WHERE entry.uri IN ({marks}) ORDER BY entry.uri",
                    some,
                ).fetchall()
            for uri, state, data, mark in rows:
                if checksum(uri, data) != mark:
                    raise self._broken(uri)
                yield URI(uri), state, zlib.decompress(data)

    def close(self) -> None:
        self._database.close()

    def _listed(self, connection: "sqlite3.Connection", where: str, values: Sequence[str]) -> Sequence[Entry]:
        found: list[Entry] = []
        for *row, mark in connection.execute(f"SELECT * FROM entry {where} ORDER BY uri", values):  # noqa: S608 - ours
            if checksum(*row) != mark:
                raise self._broken(row[0])
            uri, state, _, meta = row
            found.append(Entry(URI(uri), state, meta))
        return found

    def _broken(self, uri: object) -> BrokenIndex:
        return BrokenIndex(
            f"the graph of {uri} in {self._file} is not as it was written; the server that keeps it makes it "
            "again when it finds that out, and removing the file has all of it made anew"
        )


def _unlike(connection: "sqlite3.Connection") -> Iterator[str]:
    """Whose rows are not as they were written, or are half there."""
    for uri, state, version, meta, mark, data, data_mark in connection.execute(_EVERYTHING):
        if checksum(uri, state, version, meta) != mark or checksum(uri, data) != data_mark:
            yield uri


def _sealed(*values: object) -> tuple[object, ...]:
    """A row with its checksum."""
    return *values, checksum(*values)
