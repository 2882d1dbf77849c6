"""CSV and TSV: records of cells under a header, as RFC 4180 has them; a row is an object of texts by the names of the header.

A record may span lines, within quotes. One that has other cells than the header has names, or whose quotes are wrong, is a
problem: it is not guessed what was meant. Blank lines are no records.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections.abc import Iterator

from gpt.batch.rows import Row, canonical
from gpt.batch.text import EVERY, LONGEST, Reader, Scan, lines, open_text, wrong

CELL = 1 << 24
"""Characters that a cell may have; so many are read where a quote is not closed. The module's own limit, 131,072, is too few
for what models read."""

_ENDS = {
    "field larger than": f"a cell of more than {CELL:,} characters; is there a quote that is not closed?",
    "unexpected end of data": "a quote that is not closed",
    "new-line character": "a carriage return outside quotes; lines end in \\n or \\r\\n",
}


class _Lines:
    """Lines for the reader of records, which takes no more than it needs. `start` and `end` are the record's places."""

    def __init__(self, file: io.BufferedReader, place: int) -> None:
        self._lines = lines(file)
        self.start = self.end = place
        self.crc = 0
        """Of the bytes of the record."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, length = next(self._lines)
        self.end += length
        self.crc = zlib.crc32(line, self.crc)
        if length > LONGEST:
            raise csv.Error(f"a line of {length:,} bytes; {LONGEST:,} are read at most")
        # What is not UTF-8 is seen when the whole record is there; to stop within one would be to take its rest for others.
        return line.decode("utf-8", "surrogateescape")


class _Records:
    """The records of a file from a place on. Goes through (cells, None) or (nothing, what is wrong)."""

    def __init__(self, file: io.BufferedReader, place: int, delimiter: str) -> None:
        # The limit is that of the whole process, and can be set nowhere else; it is only ever raised.
        csv.field_size_limit(max(CELL, csv.field_size_limit()))
        self.lines = _Lines(file, place)
        self._reader = csv.reader(self.lines, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[list[str], str | None]]:
        return self

    def __next__(self) -> tuple[list[str], str | None]:
        place = self.lines
        while True:
            place.start, place.crc = place.end, 0
            try:
                cells = next(self._reader)
            except csv.Error as error:
                what = next((told for begins, told in _ENDS.items() if str(error).startswith(begins)), str(error))
                return [], f"not CSV: {what} (the record begins at byte {place.start:,})"
            if cells:
                return cells, None


class Delimited:
    """Records whose cells are parted by a character."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def scan(self, path: str) -> Scan:
        digest = hashlib.sha256()
        file, place = open_text(path, digest)
        rows, offsets = 0, []
        with file:
            records = _Records(file, place, self._delimiter)
            self._header(path, records)
            for _ in records:
                if rows % EVERY == 0:
                    offsets.append(records.lines.start)
                rows += 1
        return Scan(rows, f"sha256:{digest.hexdigest()}", offsets)

    def open(self, path: str, offsets: list[int]) -> Reader:
        file, place = open_text(path)
        try:
            records = _Records(file, place, self._delimiter)
            names = self._header(path, records)
        except BaseException:
            file.close()
            raise
        return _DelimitedReader(file, records, names, self._delimiter, offsets)

    def _header(self, path: str, records: _Records) -> list[str]:
        """The names in the first record; none in an empty file. Raises InvalidRequestError where they name no cells."""
        names, problem = next(records, ([], None))
        what = problem
        if not what and any(not name.strip() for name in names):
            what = "it has a name that is empty"
        if not what and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            what = f"it has the name {twice!r} twice"
        if not what and not _is_text(names):
            what = "it is not UTF-8"
        if not what and len(names) == 1 and self._delimiter == "," and (";" in names[0] or "\t" in names[0]):
            what = f'it is one name, {names[0]!r}; cells are parted by commas, by tabs with format="tsv"'
        if what:
            raise wrong(path, f"has no header that can be read: {what}")
        return names


def _is_text(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


class _DelimitedReader:
    def __init__(
        self, file: io.BufferedReader, records: _Records, names: list[str], delimiter: str, offsets: list[int]
    ) -> None:
        self.row = 0
        self._file = file
        self._records = records
        self._names = names
        self._delimiter = delimiter
        self._offsets = offsets

    def seek(self, row: int) -> None:
        base = row // EVERY * EVERY
        if not base <= self.row <= row:
            place = self._offsets[base // EVERY]
            self._file.seek(place)
            self._records = _Records(self._file, place, self._delimiter)
            self.row = base
        while self.row < row and next(self._records, None) is not None:
            self.row += 1

    def read(self, stop: int, first: int) -> Iterator[Row]:
        names = self._names
        if self.row >= stop:
            return
        for cells, problem in self._records:
            number = first + self.row
            self.row += 1
            crc = self._records.lines.crc
            if problem is None and len(cells) != len(names):
                problem = f"not CSV: {len(cells)} cells under {len(names)} names"
            value = None
            if problem is None:
                value = dict(zip(names, cells, strict=True))
                try:
                    crc = zlib.crc32(canonical(value))
                except UnicodeEncodeError:
                    value, problem = None, "not CSV: text that is not UTF-8"
            yield Row(number, value, crc, problem)
            if self.row >= stop:
                return

    def close(self) -> None:
        self._file.close()
