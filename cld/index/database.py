"""A table that an index is kept in: one SQLite file, which one process writes and any number read meanwhile.

Owns opening it, and making anew what is of no use; what is in it is for those who use it. Calls block:
make them in threads.
"""

import contextlib
import functools
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

_FACTS = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO fact VALUES ('complete', 0);
"""


class Database:
    """The file at `path`, made by `schema`; a file of another `format` is as good as none. Safe among threads."""

    def __init__(self, path: Path, schema: str, format: int, *, writes: bool) -> None:
        self._path = path
        self._schema = schema
        self._format = format
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reading(self) -> "Generator[sqlite3.Connection | None]":
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

    @contextlib.contextmanager
    def writing(self) -> "Generator[sqlite3.Connection]":
        """The connection in a transaction: all that is done is there in the end, or nothing."""
        with self.reading() as connection:
            assert connection is not None and self._writes, "only a writer writes"
            with connection:
                yield connection

    def finish(self) -> None:
        """Say that all of the tree is in it."""
        with self.writing() as connection:
            connection.execute("UPDATE fact SET value = 1 WHERE name = 'complete'")

    def is_complete(self) -> bool:
        """Whether it once had all of the tree; since then changes follow."""
        with self.reading() as connection:
            if connection is None:
                return False
            return bool(connection.execute("SELECT value FROM fact WHERE name = 'complete'").fetchone()[0])

    def damage(self) -> str:
        """What is wrong with the file, as far as the engine can tell; empty for nothing, also where there is none."""
        try:
            with self.reading() as connection:
                if connection is None:
                    return "" if self._there() is None else "it cannot be read"
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except _sqlite().DatabaseError as error:
            return str(error)
        return "" if found == "ok" else str(found)

    def close(self) -> None:
        with self._lock:
            self._close()

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
                    "PRAGMA journal_mode = WAL; BEGIN; "
                    f"{_FACTS} {self._schema} PRAGMA user_version = {self._format}; COMMIT;"
                )
            elif format != self._format:
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
        self._connection = self._file = None

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def database_errors() -> tuple[type[Exception], ...]:
    """What reading and writing raise when the file is damaged or busy."""
    return (_sqlite().Error,)


@functools.cache
def _sqlite() -> Any:
    import sqlite3  # noqa: PLC0415 - 10 ms, and only once there is an index to keep or ask

    return sqlite3
