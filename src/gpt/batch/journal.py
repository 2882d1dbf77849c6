"""The journal of a shard: what each row came to, a line each, appended as soon as it is known.

A line is eight hexadecimal digits, the CRC-32 of what follows them, then a space, JSON and a line break. The JSON is an array:
the row's number, its mark (`rows.Row`), its `Facts`, and its output row. What was appended survives the death of the process at
once, and that of the machine once it is synced, which is done for many lines together: a file is synced some 2,000 times a
second, and takes 48,000 lines in groups of 256 (`docs/decisions/0016-batch.md`).

A process may die at any byte and leave a torn line; a machine may leave zeros, or later lines without earlier ones. A line that
is not whole is no line: it is passed over, and its row is asked again. What is appended behind a torn line begins a new one.
Where a row has several lines, the last one counts.

A journal of a shard whose part is there is left over, unless its first line says that it reopens the shard: then the rows named
there are asked again, and replace those of the part.
"""

from __future__ import annotations

import fcntl
import os
import threading
import zlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from gpt.batch.files import sync_folder
from gpt.batch.progress import Facts
from gpt.errors import GptError

EVERY = 256
"""Lines after which a journal is synced, if that was not done by then."""

_BLOCK = 1 << 20
_DIGITS = 8

_decode = msgspec.json.Decoder(tuple[int, int, Facts, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class BusyError(GptError):
    """Somebody else is at work here."""


class Entry(NamedTuple):
    """What a line says of a row. Its output row is at `start`, so many bytes from the file's start, and `length` long."""

    row: int
    mark: int
    facts: Facts
    start: int
    length: int


class Reopening(msgspec.Struct, frozen=True):
    """The first line of a journal that reopens a shard: what the shard's part held."""

    reopens: tuple[int, ...]
    """The rows that are asked again; they failed."""
    rows: int
    mark: int
    answered: dict[str, Any]
    """What the rows took that did not fail, as `Tally` has it."""


_reopening = msgspec.json.Decoder(Reopening).decode


def line(row: int, mark: int, facts: Facts, value: bytes) -> bytes:
    """What stands in a journal for a row; `value` is its output row, JSON in one line."""
    return _whole(b"[%d,%d,%b,%b]" % (row, mark, _encode(facts), value))


def first_line(reopening: Reopening) -> bytes:
    """What a journal begins with that reopens a shard."""
    return _whole(_encode(reopening))


def _whole(told: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(told), told)


def read(pieces: Iterable[bytes]) -> Iterator[Entry | Reopening]:
    """What the whole lines of a journal say, which comes in pieces of any size. What is no whole line is passed over."""
    start, rest = 0, b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for one in lines:
            entry = _read(one, start)
            if entry is not None:
                yield entry
            start += len(one) + 1


def _read(one: bytes, start: int) -> Entry | Reopening | None:
    told = one[_DIGITS + 1 :]
    if one[: _DIGITS + 1] != b"%08x " % zlib.crc32(told):
        return None
    try:
        if told.startswith(b"{"):
            return _reopening(told)
        row, mark, facts, value = _decode(told)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    length = len(memoryview(value))
    return Entry(row, mark, facts, start + len(one) - 1 - length, length)


class Journal:
    """The journal at `path` of a shard of `rows`, made where there is none, which nobody else has open.

    It is read to its end; of each row is known then where its output row is, in 18 bytes. `reopening` is the line that says
    that it reopens the shard, where there is one. Raises BusyError where somebody has it open, OSError. Blocks.
    """

    def __init__(self, path: str, rows: range) -> None:
        self.path = path
        self.rows = rows
        self.reopening: Reopening | None = None
        self._starts, self._lengths, self._marks = array("q"), array("I"), array("I")  # by row; a start of 0 is none
        self._failed = bytearray()
        self._count = 0
        self._appended = self._synced = 0
        self._closing = threading.Lock()
        self._lost: OSError | None = None
        self._file, self._is_new = _opened(path)
        try:
            for entry in read(self._pieces()):
                if isinstance(entry, Reopening):
                    self.reopening = entry
                elif entry.row in rows:
                    self._know(entry)
            end = os.fstat(self._file).st_size
            self._torn = bool(end) and os.pread(self._file, 1, end - 1) != b"\n"
        except BaseException:
            self.close()
            raise

    def _pieces(self) -> Iterator[bytes]:
        start = 0
        while piece := os.pread(self._file, _BLOCK, start):
            start += len(piece)
            yield piece

    def _know(self, entry: Entry) -> None:
        slot = entry.row - self.rows.start
        missing = slot + 1 - len(self._starts)
        if missing > 0:
            for known in (self._starts, self._lengths, self._marks):
                known.frombytes(bytes(known.itemsize * missing))
            self._failed += bytes(missing)
        self._count += not self._starts[slot]
        self._starts[slot], self._lengths[slot], self._marks[slot] = entry.start, entry.length, entry.mark
        self._failed[slot] = bool(entry.facts.kind)

    def append(self, row: int, mark: int, facts: Facts, value: bytes) -> None:
        """Put down what a row came to; `value` is its output row, JSON in one line.

        Raises OSError; then nothing of it counts, and it may be tried again. Raises ValueError for what is not of this shard,
        and for what could not be read again.
        """
        told = line(row, mark, facts, value)
        again = _read(told[:-1], 0)
        if not isinstance(again, Entry) or again.length != len(value) or b"\n" in value or row not in self.rows:
            raise ValueError(f"row {row}: not an output row of {self.rows}, as JSON in one line: {value[:100]!r}")
        left = memoryview(b"\n" + told if self._torn else told)
        self._torn = True  # until all of it is there: what a failed write leaves is a torn line
        while left:
            left = left[os.write(self._file, left) :]
        self._torn = False
        end = os.lseek(self._file, 0, os.SEEK_CUR)  # asked of the file, which may hold torn lines
        self._know(Entry(row, mark, facts, end - 2 - len(value), len(value)))
        self._appended += 1

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: int) -> bool:
        slot = row - self.rows.start
        return 0 <= slot < len(self._starts) and self._starts[slot] != 0

    def __iter__(self) -> Iterator[int]:
        """The rows that are in it, in their order."""
        return (row for row, start in enumerate(self._starts, self.rows.start) if start)

    def mark(self, row: int) -> int:
        """The mark of a row that is in it."""
        return self._marks[row - self.rows.start]

    def failed(self, row: int) -> bool:
        """Whether a row that is in it failed."""
        return bool(self._failed[row - self.rows.start])

    def value(self, row: int) -> bytes:
        """The output row of a row that is in it."""
        slot = row - self.rows.start
        return os.pread(self._file, self._lengths[slot], self._starts[slot])

    def entries(self) -> Iterator[Entry]:
        """What it says of each row that is in it, in the order of the lines, read from the file again."""
        for entry in read(self._pieces()):
            if isinstance(entry, Entry) and entry.row in self and self._starts[entry.row - self.rows.start] == entry.start:
                yield entry

    @property
    def unsynced(self) -> int:
        """Lines that a machine's death may take."""
        return self._appended - self._synced

    def sync(self) -> None:
        """Have the disk keep what was appended; nothing where it is closed. Another thread may append or close it meanwhile.

        Raises OSError, and from then on always: what could not be written may be forgotten by then, so that the next one would
        seem to succeed (what PostgreSQL's data_sync_retry is about). The journal is to be opened again.
        """
        with self._closing:
            if self._file < 0:
                return
            if self._lost is not None:
                raise self._lost
            appended = self._appended
            try:
                _sync(self._file)
            except OSError as error:
                self._lost = error
                raise
            if self._is_new:
                sync_folder(os.path.dirname(self.path))  # else the machine's death may take its name
                self._is_new = False
            self._synced = appended

    def close(self) -> None:
        """Close it, and let others have it."""
        with self._closing:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def _opened(path: str) -> tuple[int, bool]:
    """The file, locked, and whether there was none. Raises BusyError, OSError."""
    while True:
        is_new = not os.path.exists(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            lock(file, path)
            # Who had it may have ended the shard, and with it the file, after it was opened here.
            if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
                return file, is_new
        except BaseException:
            os.close(file)
            raise
        os.close(file)


_sync = getattr(os, "fdatasync", os.fsync)  # macOS has only the second


def lock(file: int, path: str, *, shared: bool = False) -> None:
    """Keep others out of an open file, until it is closed or the process is no more. Raises BusyError, OSError."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"{path} is in use by another run") from None
