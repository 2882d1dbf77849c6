"""Parquet, in and out: the only file that imports pyarrow.

In: a row is an object by the names of the columns. Numbers, booleans, text, lists and structs are what JSON has for them; the
others have a form in it:

- date, time, timestamp: text by ISO 8601, with as many digits after the point as the column has, and "Z" at the end where the
  column has a time zone, for what is stored then is UTC. A duration is "PT1.500S".
- decimal and UUID: text. binary: base64. NaN and infinities: null.
- map: an object where its keys are text, the last of equal ones, as the format's own document has it (apache/parquet-format,
  LogicalTypes.md, "Maps"); else a list of [key, value].

Out: output rows as `jobs.py` makes them, under a schema that is the same for each part of each job. What is text or a number
has a column of its own, the rest is JSON in one.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from itertools import accumulate, islice
from typing import Any

import msgspec

from gpt.batch.rows import Row, canonical
from gpt.batch.text import Reader, Scan, wrong
from gpt.errors import InvalidRequestError

AT_ONCE = 1_000
"""Rows that are made of columns at a time, if they are not large."""

BYTES = 1 << 24
"""Of rows that are read or written at a time, about; of one row, if that has more."""

GROUP = 4_096
"""Rows of a row group that is written, at most."""

JOINED = 1 << 25
"""Bytes, in memory, of the row groups of a file that is joined of others, at least."""

_BUFFER = 1 << 20

_decode = msgspec.json.Decoder().decode


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow, and what of it is for Parquet. Raises InvalidRequestError where it is not installed."""
    try:
        import pyarrow  # noqa: ICN001 - no abbreviations here
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidRequestError(
            'Parquet is read and written by pyarrow, which is not installed: pip install "gpt-in-the-box[parquet]"',
            param="format",
        ) from error
    return pyarrow, parquet


# --------------------------------------------------------------------------------------------------------------------
# In
# --------------------------------------------------------------------------------------------------------------------


class Parquet:
    """Parquet files of rows."""

    def scan(self, path: str) -> Scan:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        reader = _ParquetReader(path)
        reader.close()
        return Scan(reader.rows, f"sha256:{digest}", [])

    def open(self, path: str, offsets: list[int]) -> Reader:  # noqa: ARG002 - the file's own footer tells where rows are
        return _ParquetReader(path)


class _ParquetReader:
    """A row group is read at a time, and of that so many rows as go into BYTES; these are in memory, and a page a column."""

    def __init__(self, path: str) -> None:
        pyarrow, parquet = _pyarrow()
        self._path = path
        self._failures = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
        self._file: Any = None
        try:
            self._file = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
            about = self._file.metadata
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            self._names: list[str] = self._file.schema_arrow.names
        except self._failures as error:
            self.close()
            raise self._damaged(error) from error
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._sizes = [group.total_byte_size for group in groups]
        self.rows: int = self._starts[-1]
        self.row = 0
        self._group = -1
        self._batches: Iterator[Any]
        self._batch: Any
        self._first = self._last = 0
        """The rows of the batch."""
        if not self._names or len(set(self._names)) < len(self._names):
            self.close()
            raise wrong(path, "has two columns of one name" if self._names else "has no columns")

    def _damaged(self, error: BaseException) -> InvalidRequestError:
        return wrong(self._path, f"cannot be read as Parquet: {(str(error) or 'it ends too early').splitlines()[0][:200]}")

    def seek(self, row: int) -> None:
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._first:
            self._begin(group)
        while row >= self._last:
            self._next()
        self.row = row

    def _begin(self, group: int) -> None:
        """Have a row group be the next."""
        each = self._sizes[group] // max(1, self._starts[group + 1] - self._starts[group])
        size = min(AT_ONCE, max(1, BYTES // max(1, each)))
        self._batches = self._file.iter_batches(batch_size=size, row_groups=[group])
        self._group = group
        self._first = self._last = self._starts[group]

    def _next(self) -> None:
        """Have the next batch, of the next row group where that one is at its end."""
        try:
            if self._last == self._starts[self._group + 1]:
                self._begin(bisect_right(self._starts, self._last) - 1)
            self._batch = next(self._batches)
        except (*self._failures, StopIteration) as error:
            raise self._damaged(error) from error
        self._first, self._last = self._last, self._last + self._batch.num_rows

    def read(self, stop: int, first: int) -> Iterator[Row]:
        for value in self.objects(stop):
            yield _row(first + self.row - 1, value)

    def objects(self, stop: int) -> Iterator[Any]:
        """The rows before `stop` as objects; in place of one that cannot be read, the error that says so."""
        while self.row < stop:
            if self.row >= self._last:
                self._next()
            start = self.row - self._first
            count = min(stop, self._last) - self.row
            for value in self._objects(self._batch.slice(start, count)):
                self.row += 1
                yield value

    def groups(self) -> Iterator[Any]:
        """The row groups, as tables."""
        for number in range(len(self._sizes)):
            try:
                yield self._file.read_row_group(number)
            except self._failures as error:
                raise self._damaged(error) from error

    def check(self) -> None:
        """Raise InvalidRequestError where this is no output of a job."""
        if not self._file.schema_arrow.equals(_schema()):
            raise wrong(self._path, "has other columns than the output of a batch")

    def _objects(self, batch: Any) -> Iterator[Any]:
        try:
            columns = [_values(column) for column in batch.columns]
        except self._failures as error:
            if batch.num_rows == 1:
                yield error
                return
            for number in range(batch.num_rows):
                yield from self._objects(batch.slice(number, 1))
            return
        for cells in zip(*columns, strict=True):
            yield dict(zip(self._names, cells, strict=True))

    def close(self) -> None:
        if self._file is not None:
            self._file.close(force=True)


def _row(number: int, value: Any) -> Row:
    problem = "not JSON: text that is not UTF-8" if isinstance(value, UnicodeDecodeError) else None
    if isinstance(value, Exception):
        problem = problem or f"not JSON: {value}"
        return Row(number, None, zlib.crc32(problem.encode()), problem)
    data = canonical(value)
    return Row(number, _decode(data), zlib.crc32(data))


def _values(column: Any) -> list[Any]:
    """The values of an array, as what JSON knows or `canonical` does. Raises ValueError, OverflowError."""
    pyarrow, _ = _pyarrow()
    kind, types = column.type, pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType) and kind.extension_name != "arrow.uuid":
        return _values(column.storage)
    if types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if types.is_timestamp(kind):
        # As an int first: pyarrow would have the database of time zones for the text of one, which is not on every machine.
        texts = _texts(column.cast(pyarrow.int64()).cast(pyarrow.timestamp(kind.unit)))
        end = "Z" if kind.tz is not None else ""
        return [text and text.replace(" ", "T") + end for text in texts]
    if types.is_date(kind) or types.is_time(kind):
        return _texts(column)
    if types.is_duration(kind):
        return [_duration(count, kind.unit) for count in column.cast(pyarrow.int64()).to_pylist()]
    if types.is_map(kind):
        entries = _lists(column.cast(pyarrow.list_(pyarrow.struct([("key", kind.key_type), ("value", kind.item_type)]))))
        objects = types.is_string(kind.key_type) or types.is_large_string(kind.key_type)
        return [
            one
            if one is None
            else {entry["key"]: entry["value"] for entry in one}
            if objects
            else [[*entry.values()] for entry in one]
            for one in entries
        ]
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            raise ValueError(f"a struct with two fields of one name: {', '.join(names)}")
        objects = [dict(zip(names, cells, strict=True)) for cells in zip(*map(_values, column.flatten()), strict=True)]
        return [one if there else None for one, there in zip(objects, column.is_valid().to_pylist(), strict=True)]
    if hasattr(kind, "value_type"):
        return _lists(column)
    return column.to_pylist()  # type: ignore[no-any-return]


def _texts(column: Any) -> list[str | None]:
    """Dates or times as text. Raises ValueError for one of a year of more than five digits."""
    pyarrow, _ = _pyarrow()
    texts: list[str | None] = column.cast(pyarrow.string()).to_pylist()
    for text in texts:
        if text is not None and text.startswith("<"):
            raise ValueError(f"a time that is none: {text.strip('<>')}")
    return texts


_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def _duration(count: int | None, unit: str) -> str | None:
    """A duration by ISO 8601, in seconds."""
    if count is None:
        return None
    return f"{'-' if count < 0 else ''}PT{Decimal(abs(count)).scaleb(-_DIGITS[unit]):f}S"


def _lists(column: Any) -> list[Any]:
    """The values of an array of lists."""
    from pyarrow import compute

    values = iter(_values(column.flatten()))
    lengths = compute.list_value_length(column).to_pylist()
    return [None if length is None else list(islice(values, length)) for length in lengths]


# --------------------------------------------------------------------------------------------------------------------
# Out
# --------------------------------------------------------------------------------------------------------------------

_JSON = ("input", "texts", "value", "tool_calls", "completion", "error")
"""Columns of JSON text."""

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_COLUMNS = (
    "row",
    "id",
    "input",
    "text",
    "texts",
    "value",
    "refusal",
    "reasoning",
    "tool_calls",
    "finish_reason",
    "model",
    *_USAGE,
    "completion",
    "error",
)
_ALWAYS = ("text", "error")
"""What an output row has even where it is null."""


class _Usage(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    """An output row, as far as columns are concerned: what is JSON stays as it is, empty where there is none."""

    row: int
    id: str | int | None = None
    input: msgspec.Raw = msgspec.Raw()
    text: str | None = None
    texts: msgspec.Raw = msgspec.Raw()
    value: msgspec.Raw = msgspec.Raw()
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    completion: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_output = msgspec.json.Decoder(_Output).decode
_NO_USAGE = _Usage()


def _schema() -> Any:
    pyarrow, _ = _pyarrow()
    fields = [
        (name, pyarrow.int64() if name == "row" or name in _USAGE else pyarrow.string(), name != "row") for name in _COLUMNS
    ]
    return pyarrow.schema([pyarrow.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


def write_rows(path: str, rows: Iterable[bytes]) -> None:
    """Write output rows, each an object of JSON, to a Parquet file, which is whole then; whoever calls has the disk keep it.

    An id that is a number becomes text. Raises InvalidRequestError for what is no output row, or has fields without a column;
    OSError. Nothing is left then.
    """
    pyarrow, _ = _pyarrow()
    schema = _schema()
    with _writer(path, schema) as write:
        taken: list[tuple[Any, ...]] = []
        size = 0

        def flush() -> None:
            columns = zip(*taken, strict=True)
            arrays = [pyarrow.array(cells, field.type) for cells, field in zip(columns, schema, strict=True)]
            write(pyarrow.Table.from_arrays(arrays, schema=schema))
            taken.clear()

        for row in rows:
            taken.append(_cells(row))
            size += len(row)
            if len(taken) >= GROUP or size >= BYTES:
                flush()
                size = 0
        if taken:
            flush()


@contextmanager
def _writer(path: str, schema: Any) -> Iterator[Callable[[Any], None]]:
    """What writes a table as a row group of a file that is made here, and goes where that fails."""
    _, parquet = _pyarrow()
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            yield writer.write_table
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _cells(line: bytes) -> tuple[Any, ...]:
    """The cells of an output row, in the order of the columns."""
    try:
        row = _output(line)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(
            f"form: an output row does not go into the columns of Parquet: {error}", param="form"
        ) from error
    usage = row.usage or _NO_USAGE
    made = []
    for name in _COLUMNS:
        cell = getattr(usage if name in _USAGE else row, name)
        if name in _JSON:
            text = bytes(cell).decode()
            # A value may be null, and then it is there. Of the others null says that there is none, as the row does without an
            # error, so that a query can ask for it.
            cell = None if not text or (text == "null" and name != "value") else text
        made.append(cell)
    made[1] = None if row.id is None else str(row.id)
    return tuple(made)


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """The output rows in a file that `write_rows` or `join` made, as `jobs.py` has them. Raises InvalidRequestError."""
    reader = _ParquetReader(path)
    try:
        reader.check()
        for cells in reader.objects(reader.rows):
            if isinstance(cells, Exception):
                raise wrong(path, f"cannot be read: {cells}")
            row = {}
            for name in _COLUMNS:
                cell = cells[name]
                if name == _USAGE[0]:
                    usage = {count: cells[count] for count in _USAGE if cells[count] is not None}
                    if usage:
                        row["usage"] = usage
                elif name in _ALWAYS or (cell is not None and name not in _USAGE):
                    row[name] = _decode(cell) if name in _JSON and cell is not None else cell
            yield row
    finally:
        reader.close()


def join(paths: Sequence[str], out: str) -> None:
    """Write one file of many that `write_rows` made, one after another; small row groups become larger ones.

    Raises InvalidRequestError, where one is another file than that; OSError. Nothing is left then.
    """
    pyarrow, _ = _pyarrow()
    with _writer(out, _schema()) as write:
        taken: list[Any] = []
        for path in paths:
            reader = _ParquetReader(path)
            try:
                reader.check()
                for table in reader.groups():
                    taken.append(table)
                    if sum(one.nbytes for one in taken) >= JOINED:
                        write(pyarrow.concat_tables(taken))
                        taken.clear()
            finally:
                reader.close()
        if taken:
            write(pyarrow.concat_tables(taken))
