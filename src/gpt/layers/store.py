"""Answers in a SQLite file. Blocks; may be shared by threads, and the file by processes.

How the file is opened is said in `gpt/database.py`. It is opened at the first use.
What goes wrong on the disk is told of as a warning, and an answer is then not kept: it must not be lost to its cache.

`max_bytes` bounds the database file, pages and index included: before an answer is put down, those least recently used go until
it fits, and SQLite itself refuses to let the file grow further (`max_page_count`). The write-ahead log beside it is cut back to
`LOG` bytes after each checkpoint. When an answer was last used is noted in memory and written with the next one that is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from gpt.database import BUSY, DISK, LOG, PAGE, Connection, Database, Error, OperationalError, one, transaction
from gpt.errors import InvalidRequestError

__all__ = ["APPLICATION", "BUSY", "LOG", "NOTED", "PAGE", "SMALLEST", "VERSION", "CacheStats", "Entry", "Store"]

APPLICATION = 0x67707463
"""The application id of the file: "gptc"."""

VERSION = 1

NOTED = 256
"""Uses that are noted in memory before they are written without waiting for an answer to keep."""

SMALLEST = 32 * PAGE
"""The least that `max_bytes` may be."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    made REAL NOT NULL,
    used INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    with_usage INTEGER NOT NULL,
    request_id TEXT
);
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
CREATE INDEX IF NOT EXISTS by_age ON answers (made);
CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON answers BEGIN DELETE FROM bodies WHERE id = old.id; END;
"""
# Bodies are apart, because a row is written anew when one of its fields changes, and `used` changes often.

_SELECT = "SELECT body, streamed, with_usage, request_id, made FROM answers JOIN bodies USING (id) WHERE key = ?"
_INSERT = "INSERT INTO answers (key, made, used, streamed, with_usage, request_id) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_BODY = "INSERT INTO bodies (id, body) VALUES (?, ?)"


class Entry(NamedTuple):
    """An answer: the bytes of a completion, or those of the chunks of a stream as a JSON array."""

    body: bytes
    streamed: bool
    with_usage: bool = False
    """Of a stream: it was asked to tell its usage."""
    request_id: str | None = None


class CacheStats(msgspec.Struct, frozen=True):
    """What a cache holds, and what came of the calls that were made through it."""

    hits: int
    """Calls that were answered from the file, or by an equal call at the same time."""
    misses: int
    """Calls that were asked of the backend."""
    answers: int
    """Answers in the file, those that are too old and not yet gone among them."""
    bytes: int
    """What they take of the file."""


class Store(Database):
    """The file at `path`. `max_age` is in seconds, `max_bytes` in bytes; `clock` gives Unix seconds."""

    application = APPLICATION
    version = VERSION
    schema = _SCHEMA
    purpose = "the cache"

    def __init__(self, path: str, max_age: float | None, max_bytes: int | None, clock: Callable[[], float]) -> None:
        super().__init__(path, BUSY)
        self._max_age = max_age
        self._max_pages = None if max_bytes is None else max_bytes // PAGE
        self._clock = clock

    def _begin(self) -> None:
        super()._begin()
        self._noted: dict[bytes, None] = {}

    def _opened(self, database: Connection) -> None:
        if self._max_pages is not None:
            self._shrink(database, self._max_pages)
            one(database, f"PRAGMA max_page_count = {self._max_pages}")

    def _closing(self, database: Connection) -> None:
        if self._noted:
            self._write_notes(database)

    def get(self, key: bytes) -> Entry | None:
        """The answer with this key; None where there is none that is young enough, or the file cannot be read."""
        try:
            with self._open() as database:
                return self._look_up(database, key)
        except DISK as error:
            self._warn("read", error)
            return None

    def _look_up(self, database: Connection, key: bytes) -> Entry | None:
        row = database.execute(_SELECT, (key,)).fetchone()
        if row is None or (self._max_age is not None and row[4] + self._max_age <= self._clock()):
            return None
        self._noted.pop(key, None)
        self._noted[key] = None  # at the end, as the last used
        if len(self._noted) >= NOTED:
            self._write_notes(database)
        return Entry(row[0], bool(row[1]), bool(row[2]), row[3])

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an answer. Where it cannot be kept that is a warning."""
        try:
            with self._open() as database:
                self._write(database, key, entry)
        except (*DISK, InvalidRequestError) as error:  # the file may have become another's meanwhile
            self._warn("write", error)

    def _write(self, database: Connection, key: bytes, entry: Entry) -> None:
        pages = _pages(entry)
        if self._max_pages is not None and pages + FIXED > self._max_pages:
            self._warn("write", f"an answer of {len(entry.body)} bytes does not fit into max_bytes")
            return
        now = self._clock()
        with transaction(database):
            self._write_uses(database)
            if self._max_age is not None:
                database.execute("DELETE FROM answers WHERE made <= ?", (now - self._max_age,))
            database.execute("DELETE FROM answers WHERE key = ?", (key,))
            if self._max_pages is not None:
                _make_room(database, self._max_pages - pages - SPARE)
            use = _next_use(database)
            row = (key, now, use, entry.streamed, entry.with_usage, entry.request_id)
            database.execute(_INSERT_BODY, (database.execute(_INSERT, row).lastrowid, entry.body))

    def clear(self) -> None:
        """Forget all answers, and give their room back. Raises sqlite3.Error: what was to go would still be there."""
        with self._open() as database:
            self._noted.clear()
            database.execute("DELETE FROM answers")
            database.executescript("PRAGMA incremental_vacuum")

    def size(self) -> tuple[int, int]:
        """The answers in the file, and the bytes that they take of it. (0, 0) where it cannot be read."""
        try:
            with self._open() as database:
                live = one(database, "PRAGMA page_count") - one(database, "PRAGMA freelist_count")
                return one(database, "SELECT count(*) FROM answers"), live * one(database, "PRAGMA page_size")
        except DISK as error:
            self._warn("read", error)
            return 0, 0

    def _write_notes(self, database: Connection) -> None:
        """Write what is noted, if nobody else writes, for who reads waits for nobody. Else it is lost, which harms little."""
        database.execute("PRAGMA busy_timeout = 0")
        with suppress(Error), transaction(database):
            self._write_uses(database)
        self._noted.clear()
        database.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")

    def _write_uses(self, database: Connection) -> None:
        use = _next_use(database) if self._noted else 0
        database.executemany(
            "UPDATE answers SET used = ? WHERE key = ?", [(use + place, key) for place, key in enumerate(self._noted)]
        )
        self._noted.clear()

    def _shrink(self, database: Connection, pages: int) -> None:
        """Bring a file that has grown under another limit below this one."""
        if one(database, "PRAGMA page_count") > pages:
            with suppress(OperationalError):  # one that can only be read does not grow either
                with transaction(database):
                    _make_room(database, pages)
                database.executescript("PRAGMA incremental_vacuum")

    def _warn(self, what: str, error: object) -> None:
        text = f"cache: cannot {what} {self.path}: {error}; calls go on without it"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


SPARE = 4
"""Pages that are left free, into which the index may grow when uses are written."""

FIXED = 8 + SPARE
"""Pages that no answer can have: schema, map of pointers, the roots of two tables and three indexes, and the spare ones."""


def _pages(entry: Entry) -> int:
    """Pages that an answer may take: those of its bytes, and what its rows in table and indexes may split."""
    return len(entry.body) // (PAGE - 4) + 5


def _make_room(database: Connection, pages: int) -> None:
    """Let the least recently used answers go until those that stay take at most so many pages, or none is left."""
    while one(database, "PRAGMA page_count") - one(database, "PRAGMA freelist_count") > pages:
        gone = database.execute("DELETE FROM answers WHERE id = (SELECT id FROM answers ORDER BY used, id LIMIT 1)").rowcount
        if not gone:
            return


def _next_use(database: Connection) -> int:
    """A number later than each use so far. Counted, not timed: two uses in one tick of a clock have an order too."""
    return int(one(database, "SELECT coalesce(max(used), 0) + 1 FROM answers"))
