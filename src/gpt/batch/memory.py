"""Rows in memory: lists and what is like them, Hugging Face datasets, generators and other iterables."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

import msgspec

from gpt.batch.rows import Row, Source, canonical
from gpt.errors import InvalidRequestError

_AT_ONCE = 256
"""Rows that a dataset is asked for at a time; one by one they take seven times as long."""

_decode = msgspec.json.Decoder().decode


def of_memory(rows: Any) -> Source:
    """The source of rows in memory. Nothing is read. Raises InvalidRequestError where there are none."""
    if hasattr(rows, "__len__") and not len(rows):
        raise InvalidRequestError(f"rows: {_name_of(rows)} without rows", param="rows")
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
        return Listed(rows)
    return Passing(rows)


def _name_of(rows: Any) -> str:
    if type(rows).__module__.partition(".")[0] == "datasets":
        return "a Hugging Face dataset"
    named: dict[type, str] = {list: "a list", tuple: "a tuple", GeneratorType: "a generator"}
    kind: type = type(rows)
    return named.get(kind, f"an object of type {kind.__qualname__}")


def row_of(number: int, value: Any) -> Row:
    """A row of a value that may be more than plain JSON, as it would be read back from a file. A Row is one already."""
    if isinstance(value, Row):
        return value._replace(number=number)
    try:
        data = canonical(value)
        # Decoded again, so that a row is the same in this process and in one that reads it from a file, and so that nobody
        # changes it later.
        return Row(number, _decode(data), zlib.crc32(data))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        problem = f"not JSON: {_where(value)}{_why(error)}"
        return Row(number, None, zlib.crc32(problem.encode()), problem)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "text with half a surrogate pair"
    if isinstance(error, RecursionError):
        return "nested too deeply, or within itself"
    text = str(error)
    return text.removesuffix(" is not JSON")


def _where(value: Any) -> str:
    """Which field of an object it is that cannot be written, where it is one: "image: "."""
    if isinstance(value, dict):
        for name, field in value.items():
            try:
                canonical({name: field})
            except (TypeError, ValueError, OverflowError, RecursionError):
                return f"{name!s}: ".encode(errors="replace").decode()
    return ""


class Listed:
    """Rows that can be had in any order."""

    path: str | None = None

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.name = _name_of(rows)
        self.total: int | None = len(rows)
        self.identity: dict[str, Any] = {}
        # A slice of a dataset is an object of columns.
        self._values = self._columns if hasattr(rows, "column_names") else self._one_by_one

    def read(self, start: int, stop: int | None = None) -> Iterator[Row]:
        # No more than were told of, should it have grown; should it have shrunk, no more than there are.
        ends = [end for end in (stop, self.total, len(self._rows)) if end is not None]
        return self._read(start, min(ends))

    def _read(self, start: int, stop: int) -> Iterator[Row]:
        for number, value in enumerate(self._values(start, stop), start):
            yield row_of(number, value)

    def _one_by_one(self, start: int, stop: int) -> Iterator[Any]:
        for number in range(start, stop):
            yield self._rows[number]

    def _columns(self, start: int, stop: int) -> Iterator[Any]:
        for first in range(start, stop, _AT_ONCE):
            columns = self._rows[first : min(first + _AT_ONCE, stop)]
            names = list(getattr(columns, "column_names", columns))  # of a table of Arrow, else as a dict and pandas have them
            for cells in zip(*(columns[name] for name in names), strict=True):
                yield dict(zip(names, cells, strict=True))

    def close(self) -> None:
        """Nothing is open."""


class Passing:
    """Rows that come one after another, each once. Those before a start are passed over; there is no way back."""

    path: str | None = None

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.name = _name_of(rows)
        self.total: int | None = len(rows) if hasattr(rows, "__len__") else None
        self.identity: dict[str, Any] = {}
        self._passing: Iterator[Any] | None = None
        self._next = 0
        self._broken = False

    def read(self, start: int, stop: int | None = None) -> Iterator[Row]:
        self._check(start)
        return self._read(start, stop)

    def _check(self, number: int) -> None:
        """Raise InvalidRequestError where a row cannot be had any more."""
        if number < self._next:
            raise InvalidRequestError(
                f"rows: {self.name} gives each row once, and row {number} has been read (the next is {self._next}); give a "
                "list or a file, or make it anew",
                param="rows",
            )
        if self._broken:
            raise InvalidRequestError(f"rows: {self.name} failed before; make it anew", param="rows")

    def _read(self, start: int, stop: int | None) -> Iterator[Row]:
        number = start
        while stop is None or number < stop:
            self._check(number)  # somebody else may have read on
            try:
                if self._passing is None:
                    self._passing = iter(self._rows)
                value = next(self._passing)
            except StopIteration:
                return
            except BaseException:
                self._broken = True  # a generator that failed looks as if it had ended
                raise
            self._next += 1
            if self._next > number:
                yield row_of(number, value)
                number += 1

    def close(self) -> None:
        """What gives the rows is its caller's, and is left as it is."""
