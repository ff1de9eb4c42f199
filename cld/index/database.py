"""A table that an index is kept in: one SQLite file, which one process writes and any number read meanwhile.

Owns opening it, telling damage from a disk that is full or busy, and making anew what is of no use; what is in it is
for those who use it. Calls block: make them in threads.
"""

import contextlib
import functools
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cld.index import BrokenIndex, IndexUnavailable

if TYPE_CHECKING:
    import sqlite3

_COMPLETE = 0x5AA5
"""Far from 0 in its bits: no single one that flips says that all of the tree is there."""

_FACTS = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO fact VALUES ('complete', 0);
"""

# SQLite's result codes, https://www.sqlite.org/rescode.html: ERROR, CORRUPT, FORMAT, NOTADB.
_ERROR = 1
_DAMAGED = frozenset({11, 24, 26})


class Database:
    """The file at `path`, made by `schema`; a file of another `format` is as good as none. Safe among threads.

    `unlike` finds the keys of rows that are not as they were written.
    Whatever is done with it raises `BrokenIndex` where it is damaged, or was removed while it was written; a writer
    then has a new and empty one. `IndexUnavailable` where it cannot be read or written now.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        format: int,
        unlike: "Callable[[sqlite3.Connection], Iterable[str]]",
        *,
        writes: bool,
    ) -> None:
        self.path = path
        self._schema = schema
        self._format = format
        self._unlike = unlike
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reading(self) -> "Generator[sqlite3.Connection | None]":
        """The connection, to the file that is there now; None for a reader where there is none of use."""
        with self._lock:
            try:
                self._open()
                yield self._connection
            except _sqlite().DatabaseError as error:
                self._close()
                if _is_damage(error):
                    if self._writes:
                        self._remove()
                    raise self._broken(error) from error
                if isinstance(error, (_sqlite().OperationalError, _sqlite().InternalError)):
                    raise IndexUnavailable(f"{self.path} cannot be used now: {error}; it is tried again") from error
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
        self._note(_COMPLETE)

    def is_complete(self) -> bool:
        """Whether it once had all of the tree; since then changes follow."""
        with self.reading() as connection:
            if connection is None:
                return False
            return fact(connection, "complete") == _COMPLETE

    def is_there(self) -> bool:
        """Whether the file that is written is still the one that others would read."""
        return self._file is None or self._there() == self._file

    def damage(self) -> str:
        """What is wrong with the file or its rows; empty for nothing, also where there is none. Reads all of it."""
        if (found := self._damage()) is None:
            return ""
        return found if isinstance(found, str) else f"{self.path}: {len(found)} rows are not as they were written"

    def mend(self, remove: Callable[[Sequence[str]], None]) -> str:
        """Have `remove` take out the rows that are not as they were written, so that they are missing and made again.

        What was wrong, if anything. Where more than rows is damaged the file is begun anew. All of it is read, over
        another connection, so that nobody waits.
        """
        with self.reading():
            pass  # what is of no use at all is made anew by opening it
        with contextlib.closing(Database(self.path, self._schema, self._format, self._unlike, writes=False)) as beside:
            found = beside._damage()
        if found is None:
            return ""
        if isinstance(found, str):
            with self._lock:
                self._close()
                self._remove()
            return found
        self._note(0)
        remove(found)
        return f"{self.path}: {len(found)} rows were not as they were written"

    def _damage(self) -> str | list[str] | None:
        """What is wrong with the file, or the rows that are not as they were written, or neither."""
        try:
            with self.reading() as connection:
                if connection is None:
                    return None if self._there() is None else f"{self.path} cannot be read"
                (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if found != "ok":
                    return f"{self.path} is damaged: {found}"
                fact(connection, "complete")
                return list(self._unlike(connection)) or None
        except BrokenIndex as error:
            return str(error)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _note(self, complete: int) -> None:
        with self.writing() as connection:
            connection.execute("UPDATE fact SET value = ? WHERE name = 'complete'", (complete,))

    def _open(self) -> None:
        if self._connection is not None and self._there() != self._file:
            self._close()
            if self._writes:
                raise BrokenIndex(f"{self.path} was removed while it was kept; it is made anew")
        if self._connection is None:
            connection = self._connect_to_write() if self._writes else self._connect_to_read()
            self._connection, self._file = connection, self._there()

    def _connect_to_write(self) -> "sqlite3.Connection":
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._there() is None:
            self._remove()  # what is left beside it is of one that was removed
        for _ in range(2):
            try:
                if (found := self._connect(str(self.path))) is not None:
                    return found
            except _sqlite().DatabaseError as error:
                if not _is_useless(error):
                    raise
            self._remove()
        raise IndexUnavailable(f"{self.path} cannot be made")

    def _connect_to_read(self) -> "sqlite3.Connection | None":
        if self._there() is None:
            return None
        try:
            return self._connect(f"{self.path.absolute().as_uri()}?mode=rw")
        except _sqlite().DatabaseError as error:
            if self._there() is None:
                return None  # removed between the two
            if _is_useless(error):
                raise self._broken(error) from error
            raise

    def _connect(self, name: str) -> "sqlite3.Connection | None":
        """A connection to a file of this format; None where it is of another."""
        connection = _sqlite().connect(name, timeout=10.0, check_same_thread=False, uri=not self._writes)
        try:
            (format,) = connection.execute("PRAGMA user_version").fetchone()
            if format == 0 and self._writes:
                connection.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {self._made()} COMMIT;")
            elif format != self._format:
                connection.close()
                return None
            # Losing the last batch to a power cut costs making it again.
            connection.execute("PRAGMA synchronous = NORMAL")
            if _tables(connection) != _wanted(self._made()):
                raise _sqlite().OperationalError("it has other tables than it was made with")
        except BaseException:
            connection.close()
            raise
        return connection

    def _made(self) -> str:
        return f"{_FACTS} {self._schema} PRAGMA user_version = {self._format};"

    def _broken(self, error: Exception) -> BrokenIndex:
        return BrokenIndex(f"{self.path} is damaged: {error}; who keeps it makes it anew, as removing it does")

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = None

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def fact(connection: "sqlite3.Connection", name: str) -> int:
    """The number that is noted under this name; where there is none, the file is damaged."""
    found = connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    if found is None or not isinstance(found[0], int) or not 0 <= found[0] < 1 << 62:
        raise _sqlite().OperationalError(f"{name} is not noted")
    return found[0]


def checksum(*values: object) -> int:
    """Of the values of a row, of whatever types a damaged one gives."""
    found = 0
    for value in values:
        found = zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), found)
    return found


def _is_damage(error: Exception) -> bool:
    """Whether the file is to blame, and not the disk, another process or the program."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Told by the module and not by the engine: a text that is none.
        return type(error) is _sqlite().OperationalError
    return code & 0xFF in _DAMAGED


def _is_useless(error: Exception) -> bool:
    """The same while it is opened: what cannot even say which tables it has (ERROR) is of no use either.

    Later that code speaks of a statement; the file is looked at anew when it is opened next.
    """
    return _is_damage(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF == _ERROR


def _tables(connection: "sqlite3.Connection") -> list[tuple[Any, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


@functools.cache
def _wanted(script: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(_sqlite().connect(":memory:")) as connection:
        connection.executescript(script)
        return _tables(connection)


@functools.cache
def _sqlite() -> Any:
    import sqlite3  # noqa: PLC0415 - 10 ms, and only once there is an index to keep or ask

    return sqlite3
