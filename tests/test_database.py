"""What all SQLite files of ours have in common. How they are shared, and what a bad disk does, is in the tests of those that use them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gpt.database import Database, one, transaction
from gpt.errors import InvalidRequestError


class Notes(Database):
    application = 0x6E6F7465
    version = 3
    schema = "CREATE TABLE notes (text TEXT);"
    purpose = "the notes"

    def write(self, text: str) -> None:
        with self._open() as database, transaction(database):
            database.execute("INSERT INTO notes VALUES (?)", (text,))

    def read(self) -> list[str]:
        with self._open() as database:
            return [text for (text,) in database.execute("SELECT text FROM notes")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "down" / "notes.sqlite"


def test_made(path: Path) -> None:
    """The file is made at the first use, with its folders, marked as ours, and for its owner's eyes: the log too."""
    notes = Notes(str(path))
    assert not path.parent.exists()
    notes.write("a")
    assert [0o600, 0o600] == [os.stat(f"{path}{end}").st_mode & 0o777 for end in ("", "-wal")]
    notes.close()
    with closing(sqlite3.connect(path)) as database:
        pragmas = ("application_id", "user_version", "journal_mode", "page_size")
        assert (0x6E6F7465, 3, "wal", 4096) == tuple(one(database, f"PRAGMA {name}") for name in pragmas)
    assert ["a"] == Notes(str(path)).read()
    assert ["a"] == notes.read()  # opened anew after it was closed


def test_mode_stays(tmp_path: Path) -> None:
    """The mode of a file that is there is its owner's business."""
    path = tmp_path / "x"
    path.touch()
    path.chmod(0o640)
    Notes(str(path)).write("a")
    assert 0o640 == path.stat().st_mode & 0o777


def plain(path: Path) -> None:
    path.write_bytes(b"dear diary, " * 200)


def another(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 5")


def unmarked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE diary (text)")


def newer(path: Path) -> None:
    Notes(str(path)).write("a")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 4")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (plain, "is no SQLite database, or a damaged one (file is not a database)"),
        (another, "is another program's database"),
        (unmarked, "is another program's database"),
        (newer, "was made by a newer release of gpt (version 4; this one writes 3)"),
    ],
)
def test_not_ours(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    """A file that is not ours is refused, with what it was to be, and left as it is, to the byte."""
    path = tmp_path / "x"
    make(path)
    before = path.read_bytes()
    with pytest.raises(InvalidRequestError) as caught:
        Notes(str(path)).read()
    assert f"path: {path} {message}; it is left as it is: name another path for the notes, or move the file away" == str(
        caught.value
    )
    assert "path" == caught.value.param
    assert before == path.read_bytes()
    assert ["x"] == os.listdir(tmp_path)


def test_transaction(path: Path) -> None:
    """What fails half way has not happened, and the next goes on."""
    notes = Notes(str(path))
    notes.write("a")

    def half() -> None:
        with notes._open() as database, transaction(database):
            database.execute("INSERT INTO notes VALUES ('b')")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert ["a"] == notes.read()
    notes.write("c")
    assert ["a", "c"] == notes.read()
    notes.close()
