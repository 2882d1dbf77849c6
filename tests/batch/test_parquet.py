"""Parquet, in and out: what each type of column is as JSON; output rows written, read back and joined."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import json
import os
import pathlib
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch import parquet
from gpt.batch.parquet import AT_ONCE, BYTES, GROUP, JOINED, Parquet, join, read_rows, write_rows
from gpt.batch.rows import Row, canonical

KIND = Parquet()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A name for a file that each example writes anew."""
    return str(tmp_path_factory.mktemp("columns") / "rows.parquet")


def write(path: str, table: Any, *, group: int | None = None) -> None:
    pyarrow.parquet.write_table(table, path, row_group_size=group)


def rows(path: str, start: int = 0, stop: int | None = None) -> list[Row]:
    """What is read of a file, from a reader that is at its beginning."""
    found = KIND.scan(path)
    reader = KIND.open(path, found.offsets)
    try:
        reader.seek(start)
        return list(reader.read(found.rows if stop is None else stop, 0))
    finally:
        reader.close()


# --------------------------------------------------------------------------------------------------------------------
# In: types
# --------------------------------------------------------------------------------------------------------------------

MOMENT = dt.datetime(2024, 1, 2, 3, 4, 5, 678_000)
STAMPS = [1704164645, None, -1]


def stamps(unit: str, zone: str | None = None) -> Any:
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    counts = [None if stamp is None else stamp * scale + (scale > 1) for stamp in STAMPS]
    return pyarrow.array(counts, pyarrow.int64()).cast(pyarrow.timestamp(unit, zone))


def counted(kind: Any, *counts: int | None) -> Any:
    return pyarrow.array(counts, pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()).cast(kind)


STRUCT = pyarrow.struct([("at", pyarrow.timestamp("ns")), ("n", pyarrow.int8())])
PAIRS = pyarrow.map_(pyarrow.string(), pyarrow.timestamp("ms", "UTC"))
COUNTS = pyarrow.map_(pyarrow.int32(), pyarrow.string())

TYPES: list[tuple[str, list[Any], Any]] = [
    ("null", [None, None], pyarrow.nulls(2)),
    ("bool", [True, None], pyarrow.array([True, None])),
    ("int8", [-128, None], pyarrow.array([-128, None], pyarrow.int8())),
    ("uint64", [2**64 - 1], pyarrow.array([2**64 - 1], pyarrow.uint64())),
    ("float16", [1.5, None], pyarrow.array([1.5, None], pyarrow.float16())),
    ("float64", [0.1, None, None, None], pyarrow.array([0.1, float("nan"), float("inf"), None])),
    ("string", ["é\n", "", None], pyarrow.array(["é\n", "", None])),
    ("large string", ["a"], pyarrow.array(["a"], pyarrow.large_string())),
    ("string view", ["a", None], pyarrow.array(["a", None], pyarrow.string_view())),
    ("dictionary", ["a", None, "a"], pyarrow.array(["a", None, "a"]).dictionary_encode()),
    ("binary", ["AP8=", "", None], pyarrow.array([b"\0\xff", b"", None])),
    ("fixed binary", ["AP8="], pyarrow.array([b"\0\xff"], pyarrow.binary(2))),
    ("decimal", ["0.10", "-12345678901234567890.12", None], pyarrow.array([decimal.Decimal("0.10"), decimal.Decimal("-12345678901234567890.12"), None], pyarrow.decimal128(38, 2))),
    ("uuid", ["00000000-0000-0000-0000-000000000007", None], pyarrow.array([bytes(15) + b"\7", None], pyarrow.uuid())),
    ("json", ['{"a":1}'], pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(['{"a":1}']))),
    ("timestamp s", ["2024-01-02T03:04:05.000", None, "1969-12-31T23:59:59.000"], stamps("s")),  # Parquet has no seconds
    ("timestamp ms", ["2024-01-02T03:04:05.001", None, "1969-12-31T23:59:59.001"], stamps("ms")),
    ("timestamp us", ["2024-01-02T03:04:05.000001", None, "1969-12-31T23:59:59.000001"], stamps("us")),
    ("timestamp ns", ["2024-01-02T03:04:05.000000001", None, "1969-12-31T23:59:59.000000001"], stamps("ns")),
    ("timestamp in UTC", ["2024-01-02T03:04:05.000001Z", None, "1969-12-31T23:59:59.000001Z"], stamps("us", "UTC")),
    ("timestamp in a zone", ["2024-01-02T03:04:05.000001Z", None, "1969-12-31T23:59:59.000001Z"], stamps("us", "Europe/Berlin")),
    ("date", ["2024-01-02", None], pyarrow.array([dt.date(2024, 1, 2), None])),
    ("date of another age", ["-0001-12-31", "12345-01-01"], counted(pyarrow.date32(), -719529, 3789391)),
    ("date64", ["2024-01-02"], pyarrow.array([dt.date(2024, 1, 2)], pyarrow.date64())),
    ("time ms", ["01:02:03.004", None], counted(pyarrow.time32("ms"), 3723004, None)),
    ("time us", ["01:02:03.000004"], counted(pyarrow.time64("us"), 3723000004)),
    ("time ns", ["01:02:03.000000004"], counted(pyarrow.time64("ns"), 3723000000004)),
    ("duration s", ["PT90S", "-PT1S", "PT0S", None], counted(pyarrow.duration("s"), 90, -1, 0, None)),
    ("duration ms", ["PT1.500S"], counted(pyarrow.duration("ms"), 1500)),
    ("duration ns", ["PT0.000000001S", "-PT100.000000000S"], counted(pyarrow.duration("ns"), 1, -100 * 10**9)),
    ("list", [[1, None], [], None], pyarrow.array([[1, None], [], None])),
    ("large list", [[1], None], pyarrow.array([[1], None], pyarrow.large_list(pyarrow.int64()))),
    ("fixed list", [[1, 2], None, [3, 4]], pyarrow.array([[1, 2], None, [3, 4]], pyarrow.list_(pyarrow.int64(), 2))),
    ("list of dates", [["2024-01-02", None], None, []], pyarrow.array([[dt.date(2024, 1, 2), None], None, []])),
    ("list of lists", [[["AA=="], None, []], []], pyarrow.array([[[b"\0"], None, []], []])),
    ("struct", [{"at": "2024-01-02T03:04:05.678000000", "n": None}, None], pyarrow.array([{"at": MOMENT, "n": None}, None], STRUCT)),
    ("list of structs", [[{"at": None, "n": 1}, None], None], pyarrow.array([[{"at": None, "n": 1}, None], None], pyarrow.list_(STRUCT))),
    ("struct of lists", [{"a": [1], "b": None}], pyarrow.array([{"a": [1], "b": None}])),
    ("map", [{"b": "2024-01-02T03:04:05.678Z", "a": None}, {}, None], pyarrow.array([[("b", MOMENT), ("a", None)], [], None], PAIRS)),
    ("map with equal keys", [{"a": "1970-01-01T00:00:00.001Z"}], pyarrow.array([[("a", 0), ("a", 1)]], PAIRS)),
    ("map by large strings", [{"a": 1}], pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.large_string(), pyarrow.int64()))),
    ("map by numbers", [[[2, "b"], [1, None]], [], None], pyarrow.array([[(2, "b"), (1, None)], [], None], COUNTS)),
    ("list of maps", [[{"a": None}, None]], pyarrow.array([[[("a", None)], None]], pyarrow.list_(PAIRS))),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "column"), [case[1:] for case in TYPES], ids=[case[0] for case in TYPES])
def test_types(path: str, expected: list[Any], column: Any) -> None:
    """Each type of column has a form in JSON, with all its digits, whatever else is installed."""
    write(path, pyarrow.table({"a": column}))
    assert [Row(number, {"a": value}, zlib.crc32(canonical({"a": value}))) for number, value in enumerate(expected)] == rows(
        path
    )
    # The same from the middle of a batch, where arrays begin at an offset.
    if len(expected) > 1:
        assert expected[1:] == [row.value["a"] for row in rows(path, 1)]


def test_without_time_zones(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column in a time zone needs no database of them, nor a zone that there is."""
    write(path, pyarrow.table({"a": stamps("us", "Europe/Nowhere")}))
    assert "2024-01-02T03:04:05.000001Z" == rows(path)[0].value["a"]


def test_columns(path: str) -> None:
    """A row is an object by the names of the columns, in their order."""
    write(path, pyarrow.table({"b": [1, 2], "a": ["x", None], "": [None, "y"]}))
    assert ['{"b": 1, "a": "x", "": null}', '{"b": 2, "a": null, "": "y"}'] == [json.dumps(row.value) for row in rows(path)]


# --------------------------------------------------------------------------------------------------------------------
# In: rows
# --------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.fixed_dictionaries({"a": st.none() | st.text(), "b": st.none() | st.lists(st.integers(-9, 9), max_size=3)}), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(0, 13),
)  # fmt: skip
def test_round_trip(path: str, values: list[Any], group: int, start: int, stop: int) -> None:
    """Rows are read back across row groups of any size; a range is that slice of them."""
    kinds = pyarrow.schema([("a", pyarrow.string()), ("b", pyarrow.list_(pyarrow.int64()))])
    write(path, pyarrow.Table.from_pylist(values, kinds), group=group)
    assert [*enumerate(values)] == [row[:2] for row in rows(path)]
    if start < len(values):
        assert values[start:stop] == [row.value for row in rows(path, start, min(stop, len(values)))]


def test_scan(path: str) -> None:
    """How many rows there are is in the footer; a file is known by the digest of its bytes."""
    write(path, pyarrow.table({"a": [1, 2, 3]}), group=2)
    assert (3, f"sha256:{hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()}", []) == KIND.scan(path)


def test_seek(path: str) -> None:
    """A reader goes to any row from any other, forwards and back, within a row group and beyond."""
    write(path, pyarrow.table({"a": range(5 * AT_ONCE)}), group=2 * AT_ONCE + 10)
    reader = KIND.open(path, [])
    for row in (0, 5, 5, 4, 999, 1000, 2009, 2010, 2011, 4999, 1, 3500, 3499, 1500, 5):
        reader.seek(row)
        assert row == reader.row
        assert [(100 + row, {"a": row})] == [found[:2] for found in reader.read(row + 1, 100)]
        assert [] == list(reader.read(row, 0))
    reader.close()


def test_empty_row_groups(path: str) -> None:
    """A row group may be empty, at the beginning, between others, and at the end."""
    kinds = pyarrow.schema([("a", pyarrow.int64())])
    with pyarrow.parquet.ParquetWriter(path, kinds) as writer:
        for values in ([], [0, 1], [], [], [2], []):
            writer.write_table(pyarrow.table({"a": values}, kinds))
    assert [0, 1, 2] == [row.value["a"] for row in rows(path)]
    assert [2] == [row.value["a"] for row in rows(path, 2)]


def test_large_rows_are_read_few_at_a_time(path: str) -> None:
    """Of a row group, however large, a page and so many rows are in memory as go into 16 MiB."""
    text = "x" * (BYTES // 8)
    table = pyarrow.table({"a": [f"{number}{text}" for number in range(40)]})
    pyarrow.parquet.write_table(
        table, path, write_batch_size=1, data_page_size=BYTES // 8, compression="none", use_dictionary=False
    )
    assert 1 == pyarrow.parquet.read_metadata(path).num_row_groups
    assert pyarrow.total_allocated_bytes() > 4 * BYTES
    del table
    reader = KIND.open(path, [])
    reading = reader.read(40, 0)
    assert "0" == next(reading).value["a"][0]
    tracemalloc.start()
    for number in range(1, 40):
        assert str(number) == next(reading).value["a"].removesuffix(text)
        assert pyarrow.total_allocated_bytes() < 4 * BYTES
    assert tracemalloc.get_traced_memory()[1] < 4 * BYTES
    tracemalloc.stop()
    reader.close()


def test_problems(path: str) -> None:
    """A row that cannot be read is a problem; those about it are read, whatever column it is in."""
    texts = pyarrow.array([b"a", b"\xff", b"c", b"d"]).view(pyarrow.string())
    write(path, pyarrow.table({"a": texts, "b": counted(pyarrow.timestamp("ms"), 0, 0, 2**60, 1)}))
    problems = [
        "not JSON: text that is not UTF-8",
        f"not JSON: a time that is none: value out of range: {2**60}",
    ]
    assert [
        (0, {"a": "a", "b": "1970-01-01T00:00:00.000"}, None),
        (1, None, problems[0]),
        (2, None, problems[1]),
        (3, {"a": "d", "b": "1970-01-01T00:00:00.001"}, None),
    ] == [(row.number, row.value, row.problem) for row in rows(path)]
    assert [zlib.crc32(problem.encode()) for problem in problems] == [row.mark for row in rows(path, 1, 3)]


def test_struct_with_equal_names(path: str) -> None:
    """A struct that has two fields of one name is no object: that is the problem of each row."""
    column = pyarrow.StructArray.from_arrays([pyarrow.array([1, 2]), pyarrow.array([3, 4])], ["x", "x"])
    write(path, pyarrow.table({"a": column}))
    assert ["not JSON: a struct with two fields of one name: x, x"] * 2 == [row.problem for row in rows(path)]


DAMAGED: list[tuple[str, Callable[[str], Any]]] = [
    ("cannot be read as Parquet", lambda path: pathlib.Path(path).write_bytes(b"")),
    ("cannot be read as Parquet", lambda path: pathlib.Path(path).write_bytes(b"id,text\n1,a\n")),
    ("has no columns", lambda path: write(path, pyarrow.table({}))),
    ("has two columns of one name", lambda path: write(path, pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, ["a", "a"]))),
]


@pytest.mark.parametrize(("told", "make"), DAMAGED)
def test_damaged(path: str, told: str, make: Callable[[str], Any]) -> None:
    """What is no table of rows is an error that names the file."""
    make(path)
    with pytest.raises(InvalidRequestError, match=told) as caught:
        KIND.scan(path)
    assert str(caught.value).startswith(f"rows: {path} ")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of a few row groups."""
    path = tmp_path_factory.mktemp("whole") / "rows.parquet"
    table = pyarrow.table(
        {"a": range(300), "b": [f"text {number}" for number in range(300)], "c": [[number] for number in range(300)]}
    )
    pyarrow.parquet.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    return path.read_bytes()


@settings(deadline=None)
@given(st.data())
def test_cut_anywhere(path: str, whole: bytes, data: st.DataObject) -> None:
    """A file that is cut off anywhere is an error: what tells of its rows is at its end."""
    pathlib.Path(path).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InvalidRequestError, match="cannot be read as Parquet"):
        KIND.scan(path)


def test_damaged_pages(path: str, whole: bytes) -> None:
    """Where the rows are damaged, and the footer is not, the rows before are read, and then it is an error."""
    size = whole.index(b"text 150") if b"text 150" in whole else len(whole) // 3
    pathlib.Path(path).write_bytes(whole[:size] + b"\xff" * 200 + whole[size + 200 :])
    reader = KIND.open(path, [])
    found = []
    with pytest.raises(InvalidRequestError, match=f"rows: {path} cannot be read as Parquet"):
        found.extend(reader.read(300, 0))
    reader.close()


def test_straight_to_a_row_group(path: str, whole: bytes) -> None:
    """Row groups before a start are not read: what is damaged in one of them does not matter."""
    pathlib.Path(path).write_bytes(whole[:10] + b"\xff" * 100 + whole[110:])
    reader = KIND.open(path, [])
    reader.seek(200)
    assert [*range(200, 300)] == [row.value["a"] for row in reader.read(300, 0)]
    with pytest.raises(InvalidRequestError, match="cannot be read as Parquet"):
        reader.seek(0)
    reader.close()


def test_no_pyarrow(path: str, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow it is said what to install."""
    pathlib.Path(path).write_bytes(whole)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRequestError, match=r'pip install "gpt-in-the-box\[parquet\]"'):
        KIND.scan(path)


# --------------------------------------------------------------------------------------------------------------------
# Out
# --------------------------------------------------------------------------------------------------------------------

VALUES = st.none() | st.integers(-(2**70), 2**70) | st.text() | st.lists(st.booleans()) | st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False))  # fmt: skip
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=3)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 2**40), "completion_tokens": st.integers(0, 9), "total_tokens": st.integers(0, 9)}
)
OUTPUT = st.fixed_dictionaries(
    {"row": st.integers(0, 2**60), "text": st.none() | st.text(), "error": st.none() | OBJECTS},
    optional={
        "id": st.text(),
        "input": OBJECTS,
        "texts": st.lists(st.text()),
        "value": VALUES,
        "refusal": st.text(),
        "reasoning": st.text(),
        "tool_calls": st.lists(OBJECTS, max_size=2),
        "finish_reason": st.sampled_from(["stop", "length"]),
        "model": st.text(),
        "usage": USAGE,
        "completion": OBJECTS,
    },
)


def lines(outputs: list[dict[str, Any]]) -> list[bytes]:
    return [canonical(output) for output in outputs]


@settings(deadline=None, max_examples=60)
@given(st.lists(OUTPUT, max_size=6), st.lists(OUTPUT, max_size=3))
def test_output_round_trip(path: str, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """Output rows are read back as they were: what was left out is left out, and a value of null is one."""
    write_rows(path, lines(first))
    assert first == list(read_rows(path))
    other, joined = f"{path}.other", f"{path}.joined"
    write_rows(other, iter(lines(second)))
    join([path, other], joined)
    assert first + second == list(read_rows(joined))


def test_columns_of_output(path: str) -> None:
    """What a query sees: text and numbers as they are, the rest as JSON, null where there is nothing."""
    write_rows(
        path,
        [
            b'{"row":0,"id":7,"input":{"q":1.0},"text":"a","value":null,"usage":%b,"completion":{"x": 1e3},"error":null}'
            % b'{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}',
            b'{"row":1,"id":"7","text":null,"tool_calls":[{"id":"c"}],"error":{"type":"RateLimitError"}}',
        ],
    )
    table = pyarrow.parquet.read_table(path)
    nothing = dict.fromkeys(table.column_names)
    assert [
        nothing
        | {"row": 0, "id": "7", "input": '{"q":1.0}', "text": "a", "value": "null", "completion": '{"x": 1e3}'}
        | {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        nothing | {"row": 1, "id": "7", "tool_calls": '[{"id":"c"}]', "error": '{"type":"RateLimitError"}'},
    ] == table.to_pylist()
    assert [("row", "int64", False), ("id", "string", True)] == [
        (field.name, str(field.type), field.nullable) for field in table.schema
    ][:2]
    assert "ZSTD" == pyarrow.parquet.read_metadata(path).row_group(0).column(0).compression


def test_schema_is_the_same(path: str) -> None:
    """A part whose rows all lack a field has its column, of the same type, as one without any rows has."""
    schemas = []
    for made in (
        [],
        [b'{"row":0,"text":null,"error":null}'],
        lines([{"row": 1, "text": "a", "value": {"a": 1}, "error": None}]),
    ):
        write_rows(path, made)
        schemas.append(pyarrow.parquet.read_schema(path))
    assert [schemas[0]] * 3 == schemas


WRONG: list[tuple[str, bytes]] = [
    ("unknown field `cost`", b'{"row":0,"text":null,"error":null,"cost":1}'),
    ("unknown field `cached`", b'{"row":0,"usage":{"cached":1}}'),
    ("missing required field `row`", b'{"text":null}'),
    ("Expected `str | null`, got `int`", b'{"row":0,"text":7}'),
    ("Input data was truncated", b'{"row":0'),
]


@pytest.mark.parametrize(("told", "line"), WRONG)
def test_no_output_row(path: str, told: str, line: bytes) -> None:
    """What is no output row, or has a field without a column, is an error, and no file is left."""
    with pytest.raises(
        InvalidRequestError, match="an output row does not go into the columns of Parquet: .*" + told.replace("|", r"\|")
    ):
        write_rows(path, [b'{"row":0,"text":"a","error":null}', line])
    assert not os.path.exists(path)


def test_rows_that_fail(path: str) -> None:
    """What the rows raise comes out as it is, and no file is left."""

    def made() -> Iterator[bytes]:
        yield b'{"row":0,"text":"a","error":null}'
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_rows(path, made())
    assert not os.path.exists(path)


def test_nowhere_to_write(tmp_path: pathlib.Path) -> None:
    """What goes wrong on the disk is an OSError."""
    with pytest.raises(OSError, match="No such file or directory"):
        write_rows(str(tmp_path / "none" / "rows.parquet"), [])


def test_row_groups(path: str) -> None:
    """Rows are written a few thousand at a time, or 16 MiB."""
    write_rows(path, (b'{"row":%d,"text":"a","error":null}' % number for number in range(GROUP + 1)))
    assert [GROUP, 1] == sizes(path)
    line = b'{"row":0,"text":"%s","error":null}' % (b"x" * (BYTES // 3))
    write_rows(path, [line] * 7)
    assert [3, 3, 1] == sizes(path)


def sizes(path: str) -> list[int]:
    about = pyarrow.parquet.read_metadata(path)
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


def test_joined_row_groups(path: str) -> None:
    """Small row groups become larger ones, of 32 MiB and no more than one of them above that."""
    line = b'{"row":0,"text":"%s","error":null}' % (b"x" * (JOINED // 10))
    write_rows(path, [line] * 4)
    joined = f"{path}.joined"
    join([path] * 6, joined)
    assert [12, 12] == sizes(joined)
    write_rows(path, lines([{"row": 1, "text": None, "error": None}]))
    join([path] * 3, joined)
    assert [3] == sizes(joined)
    join([], joined)
    assert [] == list(read_rows(joined))


@pytest.mark.parametrize("use", [lambda path: list(read_rows(path)), lambda path: join([path], f"{path}.none")])
def test_other_files(path: str, use: Callable[[str], Any]) -> None:
    """A file that is no output of a job is not read as one, nor joined."""
    write(path, pyarrow.table({"row": [1], "text": ["a"]}))
    with pytest.raises(InvalidRequestError, match=f"rows: {path} has other columns than the output of a batch"):
        use(path)
    assert not os.path.exists(f"{path}.none")


def test_damaged_output(path: str) -> None:
    """An output that was damaged anywhere is an error, for who reads it and who joins it, and nothing is left of the join."""
    write_rows(path, (b'{"row":%d,"text":"%d","error":null}' % (number, number**9) for number in range(GROUP)))
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data[:1000] + b"\xff" * 1000 + data[2000:])
    with pytest.raises(InvalidRequestError, match=f"rows: {path} cannot be read as Parquet"):
        list(read_rows(path))
    with pytest.raises(InvalidRequestError, match=f"rows: {path} cannot be read as Parquet"):
        join([path], f"{path}.damaged")
    assert not os.path.exists(f"{path}.damaged")


def test_output_that_is_no_text(path: str) -> None:
    """An output whose text is none is an error."""
    write_rows(path, [b'{"row":0,"text":"a","error":null}'])
    table = pyarrow.parquet.read_table(path)
    place = table.schema.get_field_index("text")
    write(path, table.set_column(place, table.schema.field(place), pyarrow.array([b"\xff"]).view(pyarrow.string())))
    with pytest.raises(InvalidRequestError, match=f"rows: {path} cannot be read: 'utf-8' codec"):
        list(read_rows(path))


def test_reading_that_was_left(path: str) -> None:
    """A reader of output that is left in the middle leaves nothing open."""
    write_rows(path, lines([{"row": number, "text": None, "error": None} for number in range(3)]))
    reading = read_rows(path)
    assert 0 == next(reading)["row"]
    reading.close()  # type: ignore[attr-defined]


def test_import_is_light() -> None:
    """pyarrow is loaded at the first use."""
    assert "pyarrow" not in vars(parquet)
