"""The SQLite files of indexes: damage is told and made good, and what is no damage costs no index its file."""

import contextlib
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cld.index import BrokenIndex, IndexUnavailable
from cld.index.database import Database

SCHEMA = "CREATE TABLE word (word TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID;"
FORMAT = 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index" / "words.sqlite3"


@contextlib.contextmanager
def opened(path: Path, *, writes: bool = True, schema: str = SCHEMA, format: int = FORMAT) -> Iterator[Database]:
    with contextlib.closing(Database(path, schema, format, lambda _: (), writes=writes)) as database:
        yield database


def add(database: Database, word: str, data: bytes = b"") -> None:
    with database.writing() as connection:
        connection.execute("INSERT OR REPLACE INTO word VALUES (?, ?)", (word, data))


def words(database: Database) -> list[str] | None:
    with database.reading() as connection:
        if connection is None:
            return None
        return [word for (word,) in connection.execute("SELECT word FROM word ORDER BY word")]


def a_full_disk(database: Database) -> None:
    with database.writing() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        connection.execute("INSERT INTO word VALUES ('b', zeroblob(1000000))")


def a_disk_that_fails(database: Database) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with database.reading() as connection:
        assert connection is not None
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        add(database, "b", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def another_that_writes(database: Database) -> None:
    with (
        contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other,
        database.writing() as connection,
    ):
        other.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA busy_timeout = 50")
        connection.execute("INSERT INTO word VALUES ('b', NULL)")


@pytest.mark.parametrize("cause", [a_full_disk, a_disk_that_fails, another_that_writes])
def test_a_failure_that_is_no_damage_leaves_the_file(path: Path, cause: Callable[[Database], None]) -> None:
    with opened(path) as database:
        add(database, "a")
        before = path.stat().st_ino
        with pytest.raises(IndexUnavailable, match=path.name):
            cause(database)
        assert words(database) == ["a"], "what was there before"
        add(database, "c")
        assert words(database) == ["a", "c"], "and it goes on once the cause is gone"
    assert path.stat().st_ino == before


def test_a_disk_that_is_full_while_the_file_is_opened_leaves_it(path: Path) -> None:
    with opened(path) as database:
        add(database, "a")
    path.chmod(0)
    if path.stat().st_uid == 0:
        # A superuser opens it all the same: a folder in the way of its log cannot be opened by anybody.
        path.with_name(path.name + "-wal").mkdir()
    with opened(path) as database, pytest.raises(IndexUnavailable):
        words(database)
    with contextlib.suppress(FileNotFoundError):
        path.with_name(path.name + "-wal").rmdir()
    path.chmod(0o600)
    with opened(path) as database:
        assert words(database) == ["a"]


def damaged_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)


def nonsense(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)


def another_schema(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE word")


@pytest.mark.parametrize("damage", [damaged_pages, nonsense, another_schema])
def test_a_damaged_file_is_an_error_to_readers_and_made_anew_by_who_writes(
    path: Path, damage: Callable[[Path], None]
) -> None:
    with opened(path) as database:
        for number in range(1000):
            add(database, f"word{number:04}", bytes(100))
        with database.reading() as connection:
            assert connection is not None
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(path)
    with opened(path, writes=False) as database:
        with pytest.raises(BrokenIndex, match=path.name):
            words(database)
        assert path.name in database.damage()
    with opened(path) as database:
        with contextlib.suppress(BrokenIndex):
            words(database)
        assert words(database) == [] and database.damage() == ""
        add(database, "a")
        assert words(database) == ["a"]


def test_a_file_of_another_format_is_as_good_as_none(path: Path) -> None:
    with opened(path) as database:
        add(database, "a")
    with opened(path, writes=False, format=8) as database:
        assert words(database) is None
    with opened(path, format=8) as database:
        assert words(database) == []


def test_a_file_that_is_removed_under_its_writer_ends_its_work_at_once(path: Path) -> None:
    with opened(path) as database, opened(path, writes=False) as reader:
        add(database, "a")
        assert words(reader) == ["a"] and database.is_there()
        path.unlink()
        assert not database.is_there()
        assert words(reader) is None
        with pytest.raises(BrokenIndex, match="removed"):
            add(database, "b")
        assert words(database) == [], "made anew, to be filled from the beginning"
        assert not database.is_complete()
        assert words(reader) == []


def test_a_reader_makes_no_file(path: Path) -> None:
    with opened(path, writes=False) as database:
        assert words(database) is None and not database.is_complete() and database.damage() == ""
    assert not path.parent.exists()


def test_no_single_bit_makes_an_index_complete(path: Path) -> None:
    with opened(path) as database:
        assert not database.is_complete()
        database.finish()
        assert database.is_complete()
        with database.reading() as connection:
            assert connection is not None
            ((value,),) = connection.execute("SELECT value FROM fact WHERE name = 'complete'").fetchall()
    assert value.bit_count() > 1
