"""The graphs as they are kept: one row a resource in a SQLite file, its triples packed, with what they were made of.

Why not Oxigraph's own files: they belong to one process, and reading them while another writes is
undefined; here any process reads while one writes, and a caller's dataset is made of the rows they may read.
Calls block; `cld.index.graph` makes them in threads. Knows no principals.
"""

import contextlib
import functools
import threading
import time
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cld.uri import ROOT, URI

if TYPE_CHECKING:
    import sqlite3

FILE = "graph.sqlite3"
FORMAT = 1
"""Counts up whenever what is extracted from a resource changes; a file of another one is made anew."""

_SCHEMA = """
CREATE TABLE entry (uri TEXT PRIMARY KEY, state INTEGER NOT NULL, version TEXT NOT NULL, meta BLOB) WITHOUT ROWID;
CREATE TABLE triples (uri TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO fact VALUES ('state', 0), ('complete', 0);
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
        self._path = folder / FILE
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._listing: tuple[int, Sequence[Entry]] | None = None

    def versions(self) -> Mapping[URI, str]:
        """The version each graph was made of."""
        with self._open() as connection:
            return {} if connection is None else dict(connection.execute("SELECT uri, version FROM entry"))

    def version_of(self, uri: URI) -> str | None:
        with self._open() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT version FROM entry WHERE uri = ?", (uri,)).fetchone()
            return None if found is None else found[0]

    def apply(self, puts: Sequence[Row], deletes: Sequence[URI]) -> None:
        """Put and delete rows, all or none."""
        with self._open() as connection:
            assert connection is not None, "only a writer applies"
            with connection:
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
        with self._open() as connection:
            assert connection is not None, "only a writer finishes"
            with connection:
                connection.execute("UPDATE fact SET value = 1 WHERE name = 'complete'")

    def is_complete(self) -> bool:
        """Whether it once had all of the tree; since then changes follow."""
        with self._open() as connection:
            if connection is None:
                return False
            return bool(connection.execute("SELECT value FROM fact WHERE name = 'complete'").fetchone()[0])

    def entries(self, prefix: URI = ROOT) -> Sequence[Entry]:
        """The graphs of `prefix` and all below it, in order of their URIs."""
        with self._open() as connection:
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
            with self._open() as connection:
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
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def _open(self) -> "Generator[sqlite3.Connection | None]":
        """The connection, to the file that is there now; None for a reader where there is none of use."""
        with self._lock:
            if self._connection is not None and self._there() != self._file:
                self._close()
            if self._connection is None:
                self._connection = self._connect()
                self._file = self._there()
            try:
                yield self._connection
            except _sqlite().DatabaseError:
                self._close()
                if self._writes:
                    self._remove()
                raise

    def _connect(self) -> "sqlite3.Connection | None":
        if self._writes:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif self._there() is None:
            return None
        for fresh in (False, True):
            if fresh and self._writes:
                self._remove()
            try:
                if (found := self._try_to_connect()) is not None or not self._writes:
                    return found
            except _sqlite().DatabaseError:
                if not self._writes:
                    return None
                if fresh:
                    raise
        raise _sqlite().DatabaseError(f"{self._path} cannot be made")

    def _try_to_connect(self) -> "sqlite3.Connection | None":
        """A connection to a file of this format; None where it is of another."""
        connection = _sqlite().connect(self._path, timeout=10.0, check_same_thread=False)
        try:
            (format,) = connection.execute("PRAGMA user_version").fetchone()
            if format == 0 and self._writes:
                connection.executescript(
                    f"PRAGMA journal_mode = WAL; BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
                )
            elif format != FORMAT:
                connection.close()
                return None
            # Losing the last batch to a power cut costs making it again.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("SELECT count(*) FROM fact").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = self._listing = None

    def _remove(self) -> None:
        for name in (FILE, FILE + "-wal", FILE + "-shm"):
            self._path.with_name(name).unlink(missing_ok=True)


def _listed(connection: "sqlite3.Connection", where: str, values: Sequence[str]) -> Sequence[Entry]:
    rows = connection.execute(f"SELECT uri, state, meta FROM entry {where} ORDER BY uri", values)  # noqa: S608 - ours
    return [Entry(URI(uri), state, meta) for uri, state, meta in rows]


def table_errors() -> tuple[type[Exception], ...]:
    """What reading and writing raise when the file is damaged or busy."""
    return (_sqlite().Error,)


@functools.cache
def _sqlite() -> Any:
    import sqlite3  # noqa: PLC0415 - 10 ms, and only once there is a graph to keep or ask

    return sqlite3
