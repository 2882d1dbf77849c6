"""SQLite files of ours, opened with care: the only file that imports sqlite3. Blocks; threads share one, processes the file.

A file is opened in WAL mode, so that readers wait for nobody, and made with the mode 0600, for what is in it is its owner's. It
is told from others by its application id, and from those of other releases by its version; what is no file of ours is left as
it is. After a fork it is opened anew. What goes wrong on the disk is raised as it comes (`DISK`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from sqlite3 import Connection, Error, OperationalError
from typing import Any

from gpt.errors import InvalidRequestError

__all__ = ["BUSY", "DISK", "LOG", "PAGE", "Connection", "Database", "Error", "OperationalError", "one", "transaction"]

PAGE = 4096
LOG = 1 << 20
"""Bytes to which the log is cut back; a checkpoint is tried each time it has grown by as much."""

BUSY = 5.0
"""Seconds that a writer waits for another one. sqlite3's own default."""

DISK = (Error, OSError)
"""What goes wrong on a disk."""


class Database:
    """The file at `path`; subclasses say what is in it. It is made at the first use, with its folders, and opened there.

    `busy` is how many seconds a writer waits for another one.
    """

    application: int
    """The application id: four letters."""
    version: int
    schema: str
    """What a new file gets. All IF NOT EXISTS: of several processes that begin together each may be the first."""
    settings: str = "PRAGMA synchronous = NORMAL;"
    """What each connection gets."""
    purpose: str
    """What the file is for, in the error about one that is not ours: "the cache"."""

    def __init__(self, path: str, busy: float = BUSY) -> None:
        self.path = path
        self._busy = busy
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._database: Connection | None = None

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        """The connection, for this thread alone. Raises sqlite3.Error, OSError, and InvalidRequestError: it is not ours."""
        if self._process != os.getpid():
            # The parent's connection is kept and never used: closing it here would take the parent's locks away.
            self._inherited = self._database
            self._begin()
        with self._lock:
            if self._database is None:
                self._database = self._connect()
            yield self._database

    def _connect(self) -> Connection:
        folder = os.path.dirname(self.path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with suppress(FileExistsError):  # the log beside it takes the same mode
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(self.path, timeout=self._busy, isolation_level=None, check_same_thread=False)
        try:
            self._check(database)
            self._opened(database)
        except BaseException:
            database.close()
            raise
        return database

    def _opened(self, database: Connection) -> None:
        """What else is to be done with a file that has just been opened."""

    def _check(self, database: Connection) -> None:
        """Make the file ours if it is empty. Raises InvalidRequestError if it is somebody else's."""
        try:
            database.execute("BEGIN")  # so that all three are of one moment: another process may just be making the file
            application, version = one(database, "PRAGMA application_id"), one(database, "PRAGMA user_version")
            empty = not one(database, "SELECT count(*) FROM sqlite_master")
            database.execute("COMMIT")
        except OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._not_ours(f"is no SQLite database, or a damaged one ({error})") from error
        if application == self.application and version > self.version:
            raise self._not_ours(f"was made by a newer release of gpt (version {version}; this one writes {self.version})")
        if application != self.application and not (empty and application == 0):
            raise self._not_ours("is another program's database")
        with suppress(OperationalError):  # a file that can only be read is as good as it is
            if empty:
                database.executescript(f"PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL;")
            if one(database, "PRAGMA journal_mode") != "wal":
                one(database, "PRAGMA journal_mode = WAL")
        database.executescript(f"{self.settings} PRAGMA journal_size_limit = {LOG}; PRAGMA wal_autocheckpoint = {LOG // PAGE};")
        if empty:
            # In one transaction: nobody sees a file that is half ours.
            database.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {self.application}; PRAGMA user_version = {self.version};"
                f" {self.schema} COMMIT;"
            )

    def _not_ours(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"path: {self.path} {why}; it is left as it is: name another path for {self.purpose}, or move the file away",
            param="path",
        )

    def _closing(self, database: Connection) -> None:
        """What is to be done before the file is closed."""

    def close(self) -> None:
        """Close the file. It is opened anew when it is used again."""
        if self._process != os.getpid():
            return
        with self._lock:
            database, self._database = self._database, None
            if database is None:
                return
            self._closing(database)
            database.close()

    def __del__(self) -> None:
        database = getattr(self, "_database", None)
        if database is not None and self._process == os.getpid():
            database.close()


@contextmanager
def transaction(database: Connection) -> Iterator[None]:
    """Writing that happens as a whole or not at all."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite itself rolls back when the disk is full
            database.execute("ROLLBACK")
        raise


def one(database: Connection, query: str) -> Any:
    """The first value of the first row."""
    return database.execute(query).fetchone()[0]
