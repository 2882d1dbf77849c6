"""CSV and TSV: any cells under a header, wherever their lines break; what cannot be meant is a problem of its row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import pathlib
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.delimited import CELL, Delimited
from gpt.batch.rows import Row
from gpt.batch.text import EVERY, LONGEST

COMMAS, TABS = Delimited(","), Delimited("\t")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A name for a file that each example writes anew."""
    return str(tmp_path_factory.mktemp("cells") / "rows.csv")


def write(path: str, data: bytes) -> None:
    pathlib.Path(path).write_bytes(data)


def rows(path: str, start: int = 0, stop: int | None = None, kind: Delimited = COMMAS) -> list[Row]:
    """What is read of a file, from a reader that is at its beginning."""
    found = kind.scan(path)
    reader = kind.open(path, found.offsets)
    try:
        reader.seek(start)
        return list(reader.read(found.rows if stop is None else stop, 0))
    finally:
        reader.close()


CELLS = st.text(st.sampled_from('ab ,;\t"\r\n\0é\u2028\x85😀') | st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda name: name.strip().strip("\ufeff")
)


@st.composite
def documents(draw: st.DrawFn, delimiter: str = ",") -> tuple[list[dict[str, str]], bytes]:
    """Rows, and a file of them in any of the ways that the standard library writes one."""
    width = draw(st.integers(2, 4))
    names = draw(st.lists(NAMES, min_size=width, max_size=width, unique=True))
    cells = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=8))
    written = io.StringIO(newline="")
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    if ends == "\n" and any("\r" in cell for record in [names, *cells] for cell in record):
        quoting = csv.QUOTE_ALL  # the writer of Python 3.11 leaves a carriage return bare there
    writer = csv.writer(written, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerow(names)
    for record in cells:
        written.write(draw(st.sampled_from(["", "\n", "\r\n\n"])))
        writer.writerow(record)
    text = written.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(ends)
    data = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
    return [dict(zip(names, record, strict=True)) for record in cells], gzip.compress(data, 1) if draw(st.booleans()) else data


@settings(deadline=None)
@given(documents(), st.integers(0, 9), st.integers(0, 9))
def test_round_trip(path: str, made: tuple[list[dict[str, str]], bytes], start: int, stop: int) -> None:
    """Any cells, with line breaks, quotes and delimiters in them, are read back; a range is that slice of them."""
    values, data = made
    write(path, data)
    assert len(values) == COMMAS.scan(path).rows
    assert [(number, value, None) for number, value in enumerate(values)] == [
        (row.number, row.value, row.problem) for row in rows(path)
    ]
    if start <= len(values):
        assert values[start:stop] == [row.value for row in rows(path, start, min(stop, len(values)))]


@settings(deadline=None)
@given(documents("\t"))
def test_tabs(path: str, made: tuple[list[dict[str, str]], bytes]) -> None:
    """TSV is the same with tabs between the cells."""
    values, data = made
    write(path, data)
    assert values == [row.value for row in rows(path, kind=TABS)]


@settings(deadline=None)
@given(documents(), st.data())
def test_cut_anywhere(path: str, made: tuple[list[dict[str, str]], bytes], data: st.DataObject) -> None:
    """A file that is cut off anywhere gives its first rows and perhaps a problem, or the error that it is damaged."""
    values, whole = made
    write(path, whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = rows(path)
    except InvalidRequestError:
        return
    if found and set(found[0].value or ()) == set(values[0]):  # the header is whole
        assert values[: len(found) - 1] == [row.value for row in found[:-1]]


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_anything(path: str, data: bytes, gz: bool) -> None:
    """Any bytes give rows, or problems, or the one error."""
    write(path, gzip.compress(data) if gz else data)
    try:
        found = rows(path)
    except InvalidRequestError:
        return
    assert [*range(len(found))] == [row.number for row in found]


def test_marks(path: str) -> None:
    """A row is marked by its canonical JSON; one that cannot be read by its bytes."""
    write(path, b'a,b\n1,"2"\nx\n')
    assert [
        Row(0, {"a": "1", "b": "2"}, zlib.crc32(b'{"a":"1","b":"2"}')),
        Row(1, None, zlib.crc32(b"x\n"), "not CSV: 1 cells under 2 names"),
    ] == rows(path)


def test_one_column(path: str) -> None:
    """Of a single column an empty cell, in quotes, is a row; a blank line is none."""
    write(path, b'question\nWhy?\n\n""\n \n')
    assert ["Why?", "", " "] == [row.value["question"] for row in rows(path)]


PROBLEMS: list[tuple[str, bytes]] = [
    ("not CSV: 3 cells under 2 names", b"1,2,3\n"),
    ("not CSV: 1 cells under 2 names", b"1\n"),
    ("not CSV: ',' expected after '\"' (the record begins at byte 8)", b'"a"b,c\n'),
    ("not CSV: text that is not UTF-8", b"\xff,2\n"),
    ("not CSV: text that is not UTF-8", b'"a\xff\nb",2\n'),
    ("not CSV: a carriage return outside quotes; lines end in \\n or \\r\\n (the record begins at byte 8)", b"1,2\r3,4\n"),
    (
        f"not CSV: a cell of more than {CELL:,} characters; is there a quote that is not closed? (the record begins at byte 8)",
        b'1,"' + b"x" * CELL + b'y"\n',
    ),
    (
        f"not CSV: a line of {LONGEST + 1:,} bytes; {LONGEST:,} are read at most (the record begins at byte 8)",
        b"," * LONGEST + b"\n",
    ),
]


@pytest.mark.parametrize(("problem", "record"), PROBLEMS, ids=[case[0] for case in PROBLEMS])
def test_problems(path: str, problem: str, record: bytes) -> None:
    """A record that cannot be read is the problem of its row; the others are read, in their places."""
    write(path, b"a,b\n1,2\n" + record + b"3,4\n")
    first, broken, last = rows(path)
    assert ((0, {"a": "1", "b": "2"}), (2, {"a": "3", "b": "4"})) == (first[:2], last[:2])
    assert (1, None, problem) == (broken.number, broken.value, broken.problem)
    write(path, b"a,b\n1,2\n" + record.replace(b"1", b"9").replace(b"a", b"z") + b"3,4\n")
    assert (broken.mark == rows(path)[1].mark) is (b"1" not in record and b"a" not in record)


def test_open_quote(path: str) -> None:
    """A quote that is not closed takes all that follows, which is told, and where it begins."""
    write(path, b'a,b\n1,2\n3,"4\n5,6\n')
    assert [None, "not CSV: a quote that is not closed (the record begins at byte 8)"] == [row.problem for row in rows(path)]


def test_large_cell(path: str) -> None:
    """A cell may be larger than the 131,072 characters that the module reads of itself; the limit of the process is kept."""
    before = csv.field_size_limit(2 * CELL)
    try:
        write(path, b"a,b\n1," + b"x" * CELL + b"\n")
        (row,) = rows(path)
        assert CELL == len(row.value["b"])
        assert 2 * CELL == csv.field_size_limit()
        csv.field_size_limit(131_072)
        assert [row] == rows(path)
    finally:
        csv.field_size_limit(before)


HEADERS: list[tuple[str, bytes]] = [
    ("it has a name that is empty", b"a,,b\n1,2,3\n"),
    ("it has a name that is empty", b"a, \n1,2\n"),
    ("it has the name 'a' twice", b"a,b,a\n1,2,3\n"),
    ("it is not UTF-8", b"a\xff,b\n1,2\n"),
    ("it is one name, 'a;b;c'; cells are parted by commas, by tabs with format=\"tsv\"", b"a;b;c\n1;2;3\n"),
    ("it is one name, 'a\\tb'; cells are parted by commas", b"a\tb\n1\t2\n"),
    ("not CSV: a carriage return outside quotes", b"a,b\r1,2\r"),
    ("not CSV: a quote that is not closed", b'"a,b\n1,2\n'),
    ("is UTF-16", "a,b\n1,2\n".encode("utf-16")),
]


@pytest.mark.parametrize(("told", "data"), HEADERS, ids=[case[0] for case in HEADERS])
def test_headers(path: str, told: str, data: bytes) -> None:
    """A header that names no cells, or cells of one name, is an error that names the file."""
    write(path, data)
    with pytest.raises(InvalidRequestError) as caught:
        COMMAS.scan(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"rows: {path} ")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"a,b\n", b"\n\n", b"a;b\n"])
def test_no_rows(path: str, data: bytes) -> None:
    """A file may be empty, or have a header alone."""
    write(path, data)
    kind = Delimited(";") if b";" in data else COMMAS
    assert (0, f"sha256:{hashlib.sha256(data).hexdigest()}", []) == kind.scan(path)
    assert [] == rows(path, kind=kind)


def test_changed_header(path: str) -> None:
    """A header that was changed since the file was read through is seen when it is opened, and the file is closed."""
    write(path, b"a,b\n1,2\n")
    offsets = COMMAS.scan(path).offsets
    write(path, b"a,a\n1,2\n")
    with pytest.raises(InvalidRequestError, match="the name 'a' twice"):
        COMMAS.open(path, offsets)


def numbered(number: int) -> list[Any]:
    return [number, f"line\n{number}" if number % 3 else "plain"]


@pytest.mark.parametrize("gz", [False, True])
def test_seek(path: str, gz: bool) -> None:
    """A reader goes to any row from any other, forwards and back."""
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["id", "text"], *map(numbered, range(3 * EVERY))])
    data = b"\xef\xbb\xbf" + written.getvalue().encode()
    write(path, gzip.compress(data) if gz else data)
    found = COMMAS.scan(path)
    assert (3 * EVERY, f"sha256:{hashlib.sha256(data).hexdigest()}") == (found.rows, found.digest)
    assert [b"0", b"1000", b"2000"] == [data[place:].split(b",")[0] for place in found.offsets]
    reader = COMMAS.open(path, found.offsets)
    for row in (0, 5, 5, 4, 999, 1000, 2999, 1001, 0, 2000):
        reader.seek(row)
        assert row == reader.row
        expected = dict(zip(["id", "text"], map(str, numbered(row)), strict=True))
        assert [(100 + row, expected)] == [found[:2] for found in reader.read(row + 1, 100)]
        assert [] == list(reader.read(row, 0))
    reader.close()


def test_shorter_than_it_was(path: str) -> None:
    """Of a file that lost its end there is what is left; a reader does not wait for more."""
    write(path, b"a\n1\n2\n3\n")
    offsets = COMMAS.scan(path).offsets
    write(path, b"a\n1\n")
    for start, left in ((0, ["1"]), (2, [])):
        reader = COMMAS.open(path, offsets)
        reader.seek(start)
        assert left == [row.value["a"] for row in reader.read(3, 0)]
        assert 1 == reader.row
        reader.close()
