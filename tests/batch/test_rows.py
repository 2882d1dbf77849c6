"""What rows may be: a path, or anything that can be gone through; what would give other rows than were meant is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import math
import pathlib
import types
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy
import pandas
import pyarrow
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import ChatRequest, InvalidRequestError, UserMessage
from gpt.batch.rows import Row, canonical, open_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(JSON)
def test_canonical_is_json(value: Any) -> None:
    """What is plain JSON is read back as it was, by any reader, from one line."""
    data = canonical(value)
    assert value == json.loads(data)
    assert b"\n" not in data


def test_canonical_keeps_order() -> None:
    """Keys stand in their own order: a prompt may show the whole row."""
    assert b'{"b":1,"a":[{"z":1,"y":2}]}' == canonical({"b": 1, "a": [{"z": 1, "y": 2}]})


class Colour(enum.Enum):
    red = "RED"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Count(int):
    pass


@dataclasses.dataclass
class River:
    name: str
    length: int


class City(pydantic.BaseModel):
    name: str
    founded: dt.date


class Point(msgspec.Struct):
    x: int


FORMS: list[tuple[str, Any]] = [
    ("null", math.nan),
    ("null", math.inf),
    ("[1,2]", (1, 2)),
    ('{"1":2}', {1: 2}),
    ('"RED"', Colour.red),
    ('"a"', Text("a")),
    ("7", Count(7)),
    ('{"name":"Nile","length":6650}', River("Nile", 6650)),
    ('{"name":"Bonn","founded":"0101-01-01"}', City(name="Bonn", founded=dt.date(101, 1, 1))),
    ('{"x":1}', Point(1)),
    ('{"a":1}', types.MappingProxyType({"a": 1})),
    ('"2024-01-02T03:04:05"', dt.datetime(2024, 1, 2, 3, 4, 5)),
    ('"2024-01-02T03:04:05Z"', dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
    ('"2024-01-02"', dt.date(2024, 1, 2)),
    ('"PT1.5S"', dt.timedelta(seconds=1.5)),
    ('"0.10"', decimal.Decimal("0.10")),
    ('"00000000-0000-0000-0000-000000000007"', uuid.UUID(int=7)),
    ('"AP8="', b"\x00\xff"),
    ("3", numpy.int64(3)),
    ("1.5", numpy.float64(1.5)),
    ("1.5", numpy.float32(1.5)),
    ("true", numpy.bool_(True)),
    ('"a"', numpy.str_("a")),
    ("[[1,2],[3,4]]", numpy.array([[1, 2], [3, 4]])),
    ('"2024-01-02T03:04:05.000000007"', numpy.datetime64("2024-01-02T03:04:05.000000007")),
    ('["2024-01-02"]', numpy.array(["2024-01-02"], dtype="datetime64[D]")),
    ('"2024-01-02T03:04:05"', pandas.Timestamp("2024-01-02 03:04:05")),
    ("null", pandas.NaT),
]


@pytest.mark.parametrize(("form", "value"), FORMS)
def test_forms(form: str, value: Any) -> None:
    """What JSON does not know has a form in it."""
    assert form == canonical(value).decode()
    assert f'{{"a":[{form}]}}' == canonical({"a": [value]}).decode()


def test_no_form() -> None:
    """What has no form in JSON is an error that names its type."""
    with pytest.raises(TypeError, match="^object is not JSON$"):
        canonical({"a": object()})


# --------------------------------------------------------------------------------------------------------------------
# What is opened
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_paths(tmp_path: pathlib.Path, kind: Any) -> None:
    """A path is read, whether a str or a path."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n"b"\n')
    source = open_rows(kind(path))
    assert [Row(0, {"a": 1}, zlib.crc32(b'{"a": 1}')), Row(1, "b", zlib.crc32(b'"b"'))] == list(source.read(0))
    assert (str(path), str(path), 2) == (source.name, source.path, source.total)
    source.close()


def test_relative_path(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source's path can be opened from anywhere; its name is what the caller gave."""
    (tmp_path / "rows.txt").write_text("1\n")
    monkeypatch.chdir(tmp_path)
    source = open_rows("rows.txt", format="jsonl")
    assert ("rows.txt", str(tmp_path / "rows.txt")) == (source.name, source.path)


def numbers() -> Iterator[int]:
    yield 1
    yield 2


class Indexed:
    """As a map-style dataset of torch is: no __iter__."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> int:
        return [1, 2][number]


class CalledToo:
    def __call__(self) -> None: ...

    def __iter__(self) -> Iterator[int]:
        return numbers()


TAKEN: list[tuple[str, int | None, Any]] = [
    ("a list", 2, lambda: [1, 2]),
    ("a tuple", 2, lambda: (1, 2)),
    ("a generator", None, numbers),
    ("an object of type range", 2, lambda: range(1, 3)),
    ("an object of type dict_values", 2, lambda: {"a": 1, "b": 2}.values()),
    ("an object of type map", None, lambda: map(int, "12")),
    ("an object of type ndarray", 2, lambda: numpy.array([1, 2])),
    ("an object of type Indexed", 2, Indexed),
    ("an object of type CalledToo", None, CalledToo),
]


@pytest.mark.parametrize(("name", "total", "make"), TAKEN, ids=[case[0] for case in TAKEN])
def test_iterables(name: str, total: int | None, make: Any) -> None:
    """Anything that can be gone through is read in its order; it has no path and no identity."""
    source = open_rows(make())
    assert (name, total, None, {}) == (source.name, source.total, source.path, source.identity)
    assert [(0, 1, None), (1, 2, None)] == [(row.number, row.value, row.problem) for row in source.read(0)]
    source.close()


async def asynchronous() -> Any:
    yield 1


class Frame:
    """As polars has it, whose iteration gives columns."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[1, 2]])


Frame.__module__ = "polars.dataframe.frame"


class Splits(dict):  # type: ignore[type-arg]
    """As datasets has it."""


Splits.__module__ = "datasets.dataset_dict"
Splits.__name__ = "DatasetDict"

REFUSED: list[tuple[str, Any]] = [
    ("a list without rows", []),
    ("a tuple without rows", ()),
    ("got one dict; rows are many: put it in a list", {"prompt": "hi"}),
    ("got one ChatRequest; rows are many: put it in a list", ChatRequest(messages=[UserMessage("hi")])),
    ("got one City; rows are many: put it in a list", City(name="Bonn", founded=dt.date(101, 1, 1))),
    ("got bytes; give a path as a str, or a list of rows", b"rows.jsonl"),
    ("got bytearray; give a path", bytearray(b"rows.jsonl")),
    ("got memoryview; give a path", memoryview(b"rows.jsonl")),
    ("got an open file; give its path", io.StringIO("a\n")),
    ("got an open file; give its path", io.BytesIO(b"a\n")),
    ("a set has no order", {"a", "b"}),
    ("a set has no order", frozenset({"a"})),
    (r"got a DataFrame of pandas; give df.to_dict\(.records.\)", pandas.DataFrame({"a": [1]})),
    (r"got a Frame of polars; give df.iter_rows\(named=True\)", Frame()),
    (r"got a Table of pyarrow; give table.to_pylist\(\)", pyarrow.table({"a": [1]})),
    ("got a DatasetDict; choose one of its splits, as in dataset.'test'.", Splits(test=[1])),
    ("got a DatasetDict; choose one of its splits, as in dataset.'train'.", Splits()),
    ("got async_generator, which is asynchronous", asynchronous()),
    ("got numbers, which is to be called first", numbers),
    ("got Indexed, which is to be called first", Indexed),
    ("expected a path or an iterable, got int", 7),
    ("expected a path or an iterable, got NoneType", None),
    (
        "cannot be read: No such file or directory; a str is the path of a file: put a single row in a list",
        "Name a river.jsonl",
    ),
    ("has a name that does not tell what is in it", __file__),
]


@pytest.mark.parametrize(("told", "rows"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(told: str, rows: Any) -> None:
    """What gives no rows, or others than were meant, is refused, and it is said what to give."""
    with pytest.raises(InvalidRequestError, match=told) as caught:
        open_rows(rows)
    assert "rows" == caught.value.param


def test_open_text_file(tmp_path: pathlib.Path) -> None:
    """An open text file would be taken for a list of texts: its path is asked for, by its name."""
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n")
    with open(path) as file, pytest.raises(InvalidRequestError, match=r"give its path: .*rows\.jsonl"):
        open_rows(file)


FORMATS: list[tuple[str, Any, str]] = [
    ("expected one of jsonl, csv, tsv, parquet, got 'xlsx'", "rows.xlsx", "xlsx"),
    ("rows in memory are objects already", [1], "csv"),
]


@pytest.mark.parametrize(("told", "rows", "format"), FORMATS)
def test_formats(told: str, rows: Any, format: str) -> None:
    """A format is one that there is, and of a file."""
    with pytest.raises(InvalidRequestError, match=told) as caught:
        open_rows(rows, format=format)
    assert "format" == caught.value.param
