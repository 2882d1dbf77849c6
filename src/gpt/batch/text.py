"""Text files of rows, at any length of file in the same memory: what gzip did is undone, lines are found; JSONL."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from gpt.batch.rows import Row
from gpt.errors import InvalidRequestError

EVERY = 1_000
"""Rows from one whose place is kept to the next."""

LONGEST = 1 << 26
"""Bytes that a line may have."""

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_MARK = b"\xef\xbb\xbf"

_NO_LINE = b"", 0

_decode = msgspec.json.Decoder().decode


class Scan(NamedTuple):
    """What is known of a file that was read through."""

    rows: int
    digest: str
    """The SHA-256 of its bytes, of those under gzip."""
    offsets: list[int]
    """Where rows 0, 1,000, 2,000 ... begin, in bytes of what is under gzip; none of Parquet."""


class Reader(Protocol):
    """A file of rows that is open. `row` is the one that is read next."""

    row: int

    def seek(self, row: int) -> None:
        """Have `row` be the next."""
        ...

    def read(self, stop: int, first: int) -> Iterator[Row]:
        """The rows before `stop`; they are numbered from `first`, which is the file's row 0."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Kind(Protocol):
    """A kind of file of rows."""

    def scan(self, path: str) -> Scan:
        """Read a file through. Raises InvalidRequestError where it is none of this kind as a whole."""
        ...

    def open(self, path: str, offsets: list[int]) -> Reader:
        """Open a file, at its first row."""
        ...


def wrong(path: str, what: str) -> InvalidRequestError:
    """The error of a file."""
    return InvalidRequestError(f"rows: {path} {what}", param="rows")


class _Undone(io.RawIOBase):
    """A file, or what is under gzip in it; whatever it is called. `digest` sees all that is read."""

    def __init__(self, path: str, file: Any, digest: Any) -> None:
        self._path = path
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._file.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._damaged(error) from error
        if self._digest is not None:
            self._digest.update(memoryview(buffer)[:count])
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            place: int = self._file.seek(offset, whence)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._damaged(error) from error
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place

    def _damaged(self, error: Exception) -> InvalidRequestError:
        what = "was cut off" if isinstance(error, EOFError) else "is damaged"
        return wrong(self._path, f"{what}: gzip says {str(error).rstrip('.')}")

    def close(self) -> None:
        self._file.close()
        super().close()


def open_text(path: str, digest: Any = None) -> tuple[io.BufferedReader[Any], int]:
    """A text file, and the place where it begins, behind a byte-order mark. Raises InvalidRequestError for what is no text."""
    plain = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with what is made of it
    if plain.read(2) == _GZIP:
        plain.close()
        file = io.BufferedReader(_Undone(path, gzip.GzipFile(path, "rb"), digest), _BLOCK)
    else:
        plain.seek(0)
        file = io.BufferedReader(_Undone(path, plain, digest), _BLOCK)
    try:
        head = file.peek(4)[:4]
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise wrong(path, "is UTF-16; save it as UTF-8")
        if head == b"PAR1":
            raise wrong(path, 'is Parquet, whatever its name says; give format="parquet"')
        return file, len(file.read(3)) if head.startswith(_MARK) else 0
    except BaseException:
        file.close()
        raise


def lines(file: io.BufferedReader) -> Iterator[tuple[bytes, int]]:
    """Each line with its line break, and its length. In place of one longer than LONGEST comes its CRC-32, in eight digits."""
    readline = file.readline
    while line := readline(LONGEST + 1):
        length = len(line)
        if length > LONGEST:
            crc = zlib.crc32(line)
            while not line.endswith(b"\n") and (line := readline(_BLOCK)):
                length += len(line)
                crc = zlib.crc32(line, crc)
            line = b"%08x" % crc
        yield line, length


class Jsonl:
    """JSON, one row a line. Lines of white space alone are none."""

    def scan(self, path: str) -> Scan:
        digest = hashlib.sha256()
        file, place = open_text(path, digest)
        rows, offsets = 0, []
        with file:
            for line, length in lines(file):
                if not line.isspace():
                    if rows % EVERY == 0:
                        if not rows and path.endswith((".json", ".json.gz")):
                            _one_document(path, line)
                        offsets.append(place)
                    rows += 1
                place += length
        return Scan(rows, f"sha256:{digest.hexdigest()}", offsets)

    def open(self, path: str, offsets: list[int]) -> Reader:
        return _JsonlReader(path, offsets)


def _one_document(path: str, line: bytes) -> None:
    """Raise InvalidRequestError where a .json file is one document, as such files mostly are, and not one a line."""
    if line.lstrip().startswith(b"[") or line.strip() == b"{":
        raise wrong(path, "is one JSON document; a row a line is needed, as jq -c '.[]' makes them of an array: name it .jsonl")


def rows_in(lines: Iterable[tuple[bytes, int]], number: int = 0) -> Iterator[Row]:
    """The rows in lines of JSON, as `lines` gives them, the first of which has this number."""
    for line, length in lines:
        if line.isspace():
            continue
        told = line.rstrip(b"\r\n")
        value = problem = None
        if length > LONGEST:
            problem = f"a line of {length:,} bytes; {LONGEST:,} are read at most"
        else:
            try:
                value = _decode(told)
            except (ValueError, RecursionError) as error:
                problem = _problem(error)
        yield Row(number, value, zlib.crc32(told), problem)
        number += 1


class _JsonlReader:
    def __init__(self, path: str, offsets: list[int]) -> None:
        self.row = 0
        self._offsets = offsets
        self._file, _ = open_text(path)
        self._lines = lines(self._file)

    def seek(self, row: int) -> None:
        base = row // EVERY * EVERY
        if not base <= self.row <= row:
            self._file.seek(self._offsets[base // EVERY])
            self._lines = lines(self._file)
            self.row = base
        while self.row < row:
            line, _ = next(self._lines, _NO_LINE)
            if not line:
                return  # the file is shorter than it was
            self.row += not line.isspace()

    def read(self, stop: int, first: int) -> Iterator[Row]:
        if self.row >= stop:
            return
        for row in rows_in(self._lines, first + self.row):
            self.row += 1
            yield row
            if self.row >= stop:
                return

    def close(self) -> None:
        self._file.close()


def _problem(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not JSON: text that is not UTF-8"
    if isinstance(error, RecursionError):
        return "not JSON that can be read: nested too deeply"
    return f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"
