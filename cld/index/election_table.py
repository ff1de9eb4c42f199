"""Who completed what, as it is kept: a row for each task, in an order that is as good as drawn by lot.

Says which tasks there are and not what is in them: that is read from the tree, through the guard of whoever
asks. Each row has a checksum. Calls block; make them in threads. Knows no principals.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cld.index.database import Database, checksum
from cld.uri import URI, namespace_of

if TYPE_CHECKING:
    import sqlite3

FILE = "elections.sqlite3"
FORMAT = 2
"""Counts up whenever what is taken from a task changes; a file of another one is made anew."""

_SCHEMA = """
CREATE TABLE task (
    uri TEXT PRIMARY KEY, version TEXT NOT NULL, candidate TEXT, namespace TEXT NOT NULL, digest INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX completed ON task (candidate, digest, uri, namespace) WHERE candidate IS NOT NULL;
"""


class Row(msgspec.Struct, frozen=True):
    """A task at a version, and who has completed it well; None for nobody."""

    uri: URI
    version: str
    candidate: str | None


class Done(msgspec.Struct, frozen=True, order=True):
    """A task that was completed, and the digest of its URI, by which it is ordered."""

    digest: int
    uri: URI


class ElectionTable:
    """The file in `folder`; one process writes, any reads. What is there of no use is made anew by the writer."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._database = Database(folder / FILE, _SCHEMA, FORMAT, _unlike, writes=writes)

    def versions(self) -> Mapping[URI, str]:
        """The version that is known of each task."""
        with self._database.reading() as connection:
            return {} if connection is None else dict(connection.execute("SELECT uri, version FROM task"))

    def version_of(self, uri: URI) -> str | None:
        with self._database.reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT version FROM task WHERE uri = ?", (uri,)).fetchone()
            return None if found is None else found[0]

    def apply(self, puts: Sequence[Row], deletes: Sequence[URI]) -> None:
        """Put and delete rows, all or none."""
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM task WHERE uri = ?", [(uri,) for uri in deletes])
            connection.executemany(
                "INSERT OR REPLACE INTO task VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (*values, checksum(*values))
                    for row in puts
                    for values in [(row.uri, row.version, row.candidate, namespace_of(row.uri), digest_of(row.uri))]
                ],
            )

    def completed(
        self, candidate: str, after: Done | None, limit: int, without: frozenset[str] = frozenset()
    ) -> Sequence[Done]:
        """What `candidate` has completed outside the namespaces `without`, in order of digests, after `after`."""
        marks = ",".join("?" * len(without))
        digest, uri = (-(1 << 63), "") if after is None else (after.digest, after.uri)
        with self._database.reading() as connection:
            if connection is None:
                return ()
            rows = connection.execute(
                "SELECT digest, uri FROM task WHERE candidate = ? AND (digest, uri) > (?, ?) "  # noqa: S608 - only marks
                f"AND namespace NOT IN ({marks}) ORDER BY digest, uri LIMIT ?",
                (candidate, digest, uri, *sorted(without), limit),
            ).fetchall()
        return [Done(digest, URI(uri)) for digest, uri in rows]

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

    def close(self) -> None:
        self._database.close()


def _unlike(connection: "sqlite3.Connection") -> Iterator[str]:
    """Whose rows are not as they were written."""
    for *row, mark in connection.execute("SELECT * FROM task"):
        if checksum(*row) != mark:
            yield row[0]


def digest_of(uri: URI) -> int:
    """Where a task stands among all: as good as drawn by lot, and the same for ever."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), signed=True)
