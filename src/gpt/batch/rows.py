"""Where the rows of a job come from: a file, a folder of files, or anything in memory that can be gone through.

A row is plain JSON: None, bool, int, float, str, list, dict. What JSON does not know has a form in it: dates and times as ISO
8601, decimals and UUIDs as text, bytes as base64, NaN and infinities as null.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec

from gpt.errors import InvalidRequestError

__all__ = ["FORMATS", "Row", "Source", "canonical", "open_rows"]

FORMATS = ("jsonl", "csv", "tsv", "parquet")
"""What a file of rows can be."""


class Row(NamedTuple):
    """A row of the input. `number` counts from 0, `value` is plain JSON, None where there is a problem."""

    number: int
    value: Any
    mark: int
    """By which it is noticed that a row has changed: the CRC-32 of a line of JSONL without its line break, of other rows that
    of their `canonical` JSON; of what cannot be read, that of what there is of it."""
    problem: str | None = None
    """Why it could not be read."""


class Source(Protocol):
    """Rows in their order. Blocks; read by one thread at a time."""

    @property
    def name(self) -> str:
        """For messages: the path, "a list", "a generator"."""
        ...

    @property
    def total(self) -> int | None:
        """How many rows there are; None where only reading to the end tells."""
        ...

    @property
    def path(self) -> str | None:
        """The absolute path of a file or folder that another process can open; None for rows in memory."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """By what a file is known to hold the same rows, wherever it lies; {} for rows in memory, which their marks tell."""
        ...

    def read(self, start: int, stop: int | None = None) -> Iterator[Row]:
        """The rows from `start` to before `stop`. Raises InvalidRequestError, OSError, and what a caller's own rows raise."""
        ...

    def close(self) -> None:
        """Close what is open. It is opened again where rows are read again."""
        ...


def _known(value: Any) -> Any:
    """A form that JSON knows of a value that it does not."""
    # msgspec takes strings, numbers and times of exactly Python's own types; numpy and pandas derive theirs from them.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and its like, whose times would be numbers
        return value.astype(str).tolist() if getattr(value.dtype, "kind", "") == "M" else value.tolist()
    if hasattr(value, "isoformat"):  # times of pandas; the one that is none differs from itself
        return value.isoformat() if value == value else None  # noqa: PLR0124
    if hasattr(value, "model_dump"):  # of pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} is not JSON")


_encode = msgspec.json.Encoder(enc_hook=_known).encode


def canonical(value: Any) -> bytes:
    """A value as JSON in one line: compact, its keys in their own order. Raises TypeError, ValueError, RecursionError."""
    return _encode(value)


def open_rows(rows: Any, *, format: str | None = None, index: str | None = None) -> Source:
    """The rows in `rows`: a path, or any iterable that goes through them.

    A str is always a path: of JSONL (.jsonl, .ndjson, .jsonlines, .json with an object a line), CSV and TSV with a header, each
    also under gzip, of Parquet, or of a folder of files of one of these kinds. Those are taken in the order of their names;
    what begins with "." or "_" is left out. `format` says which kind it is, where the name does not.

    A file is read through once. What is learnt of it is kept at `index`, and found there for as long as its size and time
    are the same. Raises InvalidRequestError for what is wrong as a whole; a row that cannot be read has a `problem`.
    """
    if format is not None and format not in FORMATS:
        raise InvalidRequestError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}", param="format")
    if isinstance(rows, (str, os.PathLike)):
        from gpt.batch.inputs import FileRows

        return FileRows(rows, format, index)
    _refuse(rows)
    if format is not None:
        raise InvalidRequestError("format: is of files; rows in memory are objects already", param="format")
    from gpt.batch.memory import of_memory

    return of_memory(rows)


_TABLES = {
    "pandas": 'df.to_dict("records")',
    "polars": "df.iter_rows(named=True)",
    "pyarrow": "table.to_pylist()",
}
"""Tables whose iteration gives columns, or their names, and what gives rows."""


def _refuse(rows: Any) -> None:
    """Raise InvalidRequestError for what can be gone through, and would give no rows or others than were meant."""

    def refuse(what: str) -> NoReturn:
        raise InvalidRequestError(f"rows: {what}", param="rows")

    home, kind = type(rows).__module__.partition(".")[0], type(rows).__name__
    if hasattr(rows, "read"):
        refuse(f"got an open file; give its path{_named(rows)}")
    if isinstance(rows, (bytes, bytearray, memoryview)):
        refuse(f"got {kind}; give a path as a str, or a list of rows")
    if home == "datasets" and isinstance(rows, Mapping):
        refuse(f"got a {kind}; choose one of its splits, as in dataset[{next(iter(rows), 'train')!r}]")
    if isinstance(rows, (Mapping, msgspec.Struct)) or hasattr(rows, "model_dump"):
        refuse(f"got one {kind}; rows are many: put it in a list")
    if isinstance(rows, (set, frozenset)):
        refuse("a set has no order, by which rows are told apart; give a list, such as sorted(rows)")
    if home in _TABLES:
        refuse(f"got a {kind} of {home}; give {_TABLES[home]}")
    if hasattr(rows, "__aiter__"):
        refuse(f"got {kind}, which is asynchronous; rows are read in a thread: give a plain generator or a list")
    has = {name for name in ("__iter__", "__getitem__", "__len__") if hasattr(type(rows), name)}
    if "__iter__" not in has and not has >= {"__getitem__", "__len__"}:
        if callable(rows):
            refuse(f"got {getattr(rows, '__qualname__', kind)}, which is to be called first")
        refuse(f"expected a path or an iterable, got {kind}")


def _named(file: Any) -> str:
    name = getattr(file, "name", None)
    return f": {name!r}" if isinstance(name, str) else ""
