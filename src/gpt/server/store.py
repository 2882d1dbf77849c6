"""Stored completions in a SQLite file. Blocks; may be shared by threads, and the file by processes.

Each row belongs to an owner, an opaque text: what is another's is as if it were not there. How the file is opened is said in
`gpt/database.py`. It is written through to the disk at each commit (`synchronous = FULL`), so that what was answered as stored
outlives the process and the machine's power; what is deleted is overwritten with zeros (`secure_delete`).

Lists are ordered by `created`, and within a second by when they were stored. A cursor is the id of a completion. It holds while
others come and go, and for a day after its own row has gone (`REMEMBERED`): who deletes each page as it is read goes on from
there, and the official client's iteration asks so. Of what was deleted no more than id and place is kept for that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from gpt.database import BUSY, DISK, Connection, Database, transaction
from gpt.errors import InvalidRequestError

__all__ = ["APPLICATION", "REMEMBERED", "VERSION", "CursorError", "Order", "StoreError", "StoredCompletions"]

APPLICATION = 0x67707473
"""The application id of the file: "gpts"."""

VERSION = 1

REMEMBERED = 86_400.0
"""Seconds for which the place of a row that has gone is known. Ours: long enough for any walk through a list."""

Order = Literal["asc", "desc"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    created INTEGER NOT NULL,
    model TEXT NOT NULL,
    kept REAL NOT NULL,
    metadata BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (owner, id)
);
CREATE INDEX IF NOT EXISTS by_time ON completions (owner, created, place);
CREATE INDEX IF NOT EXISTS by_age ON completions (kept);
CREATE TABLE IF NOT EXISTS pairs (
    place INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (place, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    place INTEGER NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (place, number)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS deleted AFTER DELETE ON completions BEGIN
    DELETE FROM pairs WHERE place = old.place;
    DELETE FROM messages WHERE place = old.place;
END;
CREATE TABLE IF NOT EXISTS gone (
    owner TEXT NOT NULL, id TEXT NOT NULL, created INTEGER NOT NULL, place INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_going ON gone (at);
"""
# AUTOINCREMENT: a place is never given twice, or a row could take the place that the cursor of a deleted one still names.
# Metadata is there twice: as JSON, which keeps its order, and as rows to look for, since not every SQLite can look into JSON.

_INSERT = "INSERT INTO completions (owner, id, created, model, kept, metadata, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_NEXT: dict[Order, str] = {
    "asc": "(created, place) > (?, ?) {where} ORDER BY created, place",
    "desc": "(created, place) < (?, ?) {where} ORDER BY created DESC, place DESC",
}
_BEFORE_ALL: dict[Order, tuple[float, float]] = {"asc": (-(2**63), -(2**63)), "desc": (2**63 - 1, 2**63 - 1)}


class StoreError(Exception):
    """The file could not be read or written; the cause is chained. The text has its path: it is for the log, not callers."""


class CursorError(LookupError):
    """`after` names nothing of this owner's: it never did, or it has been gone for longer than `REMEMBERED`."""


class StoredCompletions(Database):
    """The file at `path`, made where there is none. A completion is kept for `max_age` seconds; `clock` gives Unix seconds.

    Raises InvalidRequestError (the file is not ours) and StoreError when it is made; after that each method raises StoreError.
    A write that fails leaves the file as it was.
    """

    application = APPLICATION
    version = VERSION
    schema = _SCHEMA
    settings = "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
    purpose = "the stored completions"

    def __init__(
        self, path: str | os.PathLike[str], max_age: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(os.fspath(path), BUSY)
        self._max_age = max_age
        self._clock = clock
        try:
            with self._open():
                pass
        except DISK as error:
            raise self._failed("open", error) from error

    def add(self, owner: str, completion: Mapping[str, Any], messages: Iterable[Mapping[str, Any]]) -> None:
        """Keep a completion, as it is to be shown, and the messages that it answers. On the disk when this returns.

        An id that this owner has already is a StoreError, and the first one stays.
        """
        body = dict(completion)
        metadata = dict(body.pop("metadata", None) or {})
        now = self._clock()
        with self._writing() as database:
            self._tidy(database, now)
            if self._row(database, owner, body["id"]) is not None:
                raise StoreError(f"stored completions: there is one with the id {body['id']} in {self.path}; it stays as it is")
            row = (owner, body["id"], body["created"], body["model"], now, _encode(metadata), _encode(body))
            place = database.execute(_INSERT, row).lastrowid
            _write_pairs(database, place, metadata)
            database.executemany(
                "INSERT INTO messages (place, number, body) VALUES (?, ?, ?)",
                [(place, number, _encode(message)) for number, message in enumerate(messages)],
            )
            database.execute("DELETE FROM gone WHERE owner = ? AND id = ?", (owner, body["id"]))

    def get(self, owner: str, id: str) -> dict[str, Any] | None:
        """The completion; None where this owner has none with this id."""
        with self._reading() as database:
            row = self._row(database, owner, id)
        return None if row is None else _completion(row[1], row[2])

    def page(
        self,
        owner: str,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = 20,
        order: Order = "asc",
    ) -> tuple[list[dict[str, Any]], bool]:
        """At most `limit` completions that come after the one with the id `after`, and whether there are more.

        With `model` and `metadata` only those of that model that have all these pairs. Raises CursorError.
        """
        with self._reading() as database:
            start = _BEFORE_ALL[order] if after is None else _cursor(database, owner, after)
            wanted: list[Any] = [self._oldest()]
            where = "AND kept > ?"
            if model is not None:
                where += " AND model = ?"
                wanted.append(model)
            for pair in (metadata or {}).items():
                where += " AND EXISTS (SELECT 1 FROM pairs WHERE pairs.place = completions.place AND name = ? AND value = ?)"
                wanted.extend(pair)
            rows = database.execute(  # put together of our own words alone
                f"SELECT body, metadata FROM completions WHERE owner = ? AND {_NEXT[order].format(where=where)} LIMIT ?",  # noqa: S608
                (owner, *start, *wanted, limit + 1),
            ).fetchall()
        return [_completion(*row) for row in rows[:limit]], len(rows) > limit

    def update(self, owner: str, id: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
        """The completion with this metadata in place of what it had; None where this owner has none with this id."""
        with self._writing() as database:
            row = self._row(database, owner, id)
            if row is None:
                return None
            written = _encode(metadata)
            database.execute("UPDATE completions SET metadata = ? WHERE place = ?", (written, row[0]))
            database.execute("DELETE FROM pairs WHERE place = ?", (row[0],))
            _write_pairs(database, row[0], metadata)
        return _completion(row[1], written)

    def delete(self, owner: str, id: str) -> bool:
        """Delete the completion and its messages. False where this owner has none with this id."""
        now = self._clock()
        with self._writing() as database:
            self._tidy(database, now)
            row = self._row(database, owner, id)
            if row is not None:
                _remove(database, [row[0]], now)
        return row is not None

    def messages(
        self, owner: str, id: str, *, after: str | None = None, limit: int = 20, order: Order = "asc"
    ) -> tuple[list[dict[str, Any]], bool] | None:
        """At most `limit` messages of a completion that come after the one with the id `after`, and whether there are more.

        The id of a message is the completion's and its number from 0: "chatcmpl-1-0". None where this owner has no such
        completion. Raises CursorError.
        """
        with self._reading() as database:
            row = self._row(database, owner, id)
            if row is None:
                return None
            count = database.execute("SELECT count(*) FROM messages WHERE place = ?", (row[0],)).fetchone()[0]
            numbers = range(count) if order == "asc" else range(count - 1, -1, -1)
            if after is not None:
                try:
                    numbers = numbers[numbers.index(_number(id, after)) + 1 :]
                except ValueError as error:
                    raise CursorError(after) from error
            shown = numbers[:limit]
            rows = database.execute(
                "SELECT number, body FROM messages WHERE place = ? AND number BETWEEN ? AND ? ORDER BY number",
                (row[0], min(shown, default=0), max(shown, default=-1)),
            ).fetchall()
        listed = [{"id": f"{id}-{number}", **msgspec.json.decode(body)} for number, body in rows]
        return listed if order == "asc" else listed[::-1], len(numbers) > limit

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._open() as database:
                yield database
        except (*DISK, InvalidRequestError) as error:
            raise self._failed("read", error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._open() as database, transaction(database):
                yield database
        except (*DISK, InvalidRequestError) as error:
            raise self._failed("write", error) from error

    def _failed(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"stored completions: cannot {what} {self.path}: {error}; see whether the disk is full or may only be read, "
            "and whether another program has the file"
        )

    def _oldest(self) -> float:
        """What was kept at this time or before is too old."""
        return float("-inf") if self._max_age is None else self._clock() - self._max_age

    def _row(self, database: Connection, owner: str, id: str) -> tuple[int, bytes, bytes] | None:
        """Place, body and metadata."""
        found: tuple[int, bytes, bytes] | None = database.execute(
            "SELECT place, body, metadata FROM completions WHERE owner = ? AND id = ? AND kept > ?", (owner, id, self._oldest())
        ).fetchone()
        return found

    def _tidy(self, database: Connection, now: float) -> None:
        """Let go what is too old."""
        if self._max_age is not None:
            old = database.execute("SELECT place FROM completions WHERE kept <= ?", (now - self._max_age,)).fetchall()
            _remove(database, [place for (place,) in old], now)
        database.execute("DELETE FROM gone WHERE at <= ?", (now - REMEMBERED,))


_encode = msgspec.json.encode


def _completion(body: bytes, metadata: bytes) -> dict[str, Any]:
    return {**msgspec.json.decode(body), "metadata": msgspec.json.decode(metadata)}


def _write_pairs(database: Connection, place: int | None, metadata: Mapping[str, str]) -> None:
    rows = [(place, name, value) for name, value in metadata.items()]
    database.executemany("INSERT INTO pairs (place, name, value) VALUES (?, ?, ?)", rows)


def _cursor(database: Connection, owner: str, id: str) -> tuple[int, int]:
    """Where a completion is in the order, or was before it went. Raises CursorError."""
    found: tuple[int, int] | None = database.execute(
        "SELECT created, place FROM completions WHERE owner = ? AND id = ?"
        " UNION ALL SELECT created, place FROM gone WHERE owner = ? AND id = ?",
        (owner, id, owner, id),
    ).fetchone()
    if found is None:
        raise CursorError(id)
    return found


def _number(id: str, message: str) -> int:
    """The number in the id of a message. Raises ValueError where it is none of this completion's."""
    prefix, _, digits = message.rpartition("-")
    if prefix != id or digits != str(int(digits[:9])):
        raise ValueError(message)
    return int(digits)


def _remove(database: Connection, places: list[int], now: float) -> None:
    """Delete rows, and note where they were."""
    database.executemany(
        "INSERT INTO gone (owner, id, created, place, at) SELECT owner, id, created, place, ? FROM completions WHERE place = ?",
        [(now, place) for place in places],
    )
    database.executemany("DELETE FROM completions WHERE place = ?", [(place,) for place in places])
