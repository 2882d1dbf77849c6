"""Text files: what gzip did is undone, lines are found, JSON is read from them; nothing in a file stops the others."""

from __future__ import annotations

import gzip
import hashlib
import json
import pathlib
import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.rows import Row
from gpt.batch.text import EVERY, LONGEST, Jsonl

KIND = Jsonl()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A name for a file that each example writes anew."""
    return str(tmp_path_factory.mktemp("text") / "rows.jsonl")


def write(path: str, data: bytes) -> None:
    pathlib.Path(path).write_bytes(data)


def rows(path: str, start: int = 0, stop: int | None = None) -> list[Row]:
    """What is read of a file, from a reader that is at its beginning."""
    found = KIND.scan(path)
    reader = KIND.open(path, found.offsets)
    try:
        reader.seek(start)
        return list(reader.read(found.rows if stop is None else stop, 0))
    finally:
        reader.close()


BLANK = st.sampled_from(["", " ", "\t", "\r", " \r"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[Any], list[str], bytes]:
    """Values, the lines that they stand in, and a file of them with any line ends, blank lines, byte-order mark, gzip."""
    values = draw(st.lists(JSON, max_size=8))
    spaces, compact = (", ", ": "), (",", ":")
    lines = [
        draw(st.sampled_from(["", "  ", "\t"]))
        + json.dumps(value, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([spaces, compact])))
        for value in values
    ]
    text = "".join(
        "".join(blank + "\n" for blank in draw(st.lists(BLANK, max_size=2))) + line + draw(st.sampled_from(["\n", "\r\n"]))
        for line in lines
    )
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    data = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
    return values, lines, gzip.compress(data, 1) if draw(st.booleans()) else data


@settings(deadline=None)
@given(documents(), st.integers(0, 9), st.integers(0, 9))
def test_round_trip(path: str, made: tuple[list[Any], list[str], bytes], start: int, stop: int) -> None:
    """A list of JSON values is read back row by row, however its file is written; a range is that slice of it."""
    values, lines, data = made
    write(path, data)
    assert len(values) == KIND.scan(path).rows
    whole = [
        Row(number, value, zlib.crc32(line.encode())) for number, (value, line) in enumerate(zip(values, lines, strict=True))
    ]
    assert whole == rows(path)
    if start <= len(values):
        assert whole[start:stop] == rows(path, start, min(stop, len(values)))


@settings(deadline=None)
@given(documents(), st.data())
def test_cut_anywhere(path: str, made: tuple[list[Any], list[str], bytes], data: st.DataObject) -> None:
    """A file that is cut off anywhere gives its first rows and problems, or the error that it is damaged."""
    values, _, whole = made
    write(path, whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = rows(path)
    except InvalidRequestError as caught:
        error = caught
    else:
        good = [row.value for row in found[:-1]]
        assert values[: len(good)] == good
        return
    assert "was cut off: gzip says" in str(error)


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


PROBLEMS: list[tuple[str, bytes]] = [
    ("not JSON: object keys must be strings (byte 1)", b"{'a': 1}"),
    ("not JSON: trailing characters (byte 10)", b'{"a": 1} 2'),
    ("not JSON: Input data was truncated", b'{"a": 1'),
    ("not JSON: invalid character (byte 0)", b"NaN"),
    ("not JSON: Number out of range", b"1e999"),
    ("not JSON: text that is not UTF-8", b'"\xff"'),
    ("not JSON that can be read: nested too deeply", b"[" * 100_000),
    (f"a line of {LONGEST + 1:,} bytes; {LONGEST:,} are read at most", b" " * (LONGEST - 1) + b"7"),
    (f"a line of {LONGEST + 2:,} bytes; {LONGEST:,} are read at most", b" " * LONGEST + b"7"),
    (f"a line of {LONGEST + 3_000_000:,} bytes; {LONGEST:,} are read at most", b" " * (LONGEST + 2_999_998) + b"7"),
]


@pytest.mark.parametrize(("problem", "line"), PROBLEMS, ids=[case[0] for case in PROBLEMS])
def test_problems(path: str, problem: str, line: bytes) -> None:
    """A line that cannot be read is the problem of its row; the others are read, in their places."""
    write(path, b'{"a": 1}\n' + line + b"\n[2]\n")
    first, broken, last = rows(path)
    assert (Row(0, {"a": 1}, zlib.crc32(b'{"a": 1}')), Row(2, [2], zlib.crc32(b"[2]"))) == (first, last)
    assert (1, None, problem) == (broken.number, broken.value, broken.problem)
    write(path, b'{"a": 1}\n' + line[:-1] + b"!\n[2]\n")
    assert broken.mark != rows(path)[1].mark


def test_long_line_at_the_end(path: str) -> None:
    """A line that is too long may be the last, without a line break."""
    write(path, b"1\n" + b" " * LONGEST + b"7")
    assert [None, f"a line of {LONGEST + 1:,} bytes; {LONGEST:,} are read at most"] == [row.problem for row in rows(path)]


def test_places_behind_a_long_line(path: str) -> None:
    """Rows behind a line that is too long are found where they are."""
    write(path, b" " * (LONGEST + 1) + b"7\n" + b"".join(b"%d\n" % number for number in range(1, EVERY + 5)))
    assert [EVERY + 1] == [row.value for row in rows(path, EVERY + 1, EVERY + 2)]


def test_longest_line(path: str) -> None:
    """A line of 64 MiB is read."""
    write(path, b'"' + b"x" * (LONGEST - 3) + b'"\n')
    (row,) = rows(path)
    assert (LONGEST - 3, None) == (len(row.value), row.problem)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_scan(path: str, gz: bool, mark: bytes) -> None:
    """A file is known by the digest of what is under gzip; the place of each thousandth row is known."""
    lines = [b"%d\r\n" % number if number % 7 else b"\n%d\n" % number for number in range(2 * EVERY + 1)]
    data = mark + b"".join(lines)
    write(path, gzip.compress(data) if gz else data)
    found = KIND.scan(path)
    assert (2 * EVERY + 1, f"sha256:{hashlib.sha256(data).hexdigest()}") == (found.rows, found.digest)
    for number, place in zip([0, 1000, 2000], found.offsets, strict=True):
        assert b"%d" % number == data[place:].split(b"\n")[0].strip()


@pytest.mark.parametrize("gz", [False, True])
def test_seek(path: str, gz: bool) -> None:
    """A reader goes to any row from any other, forwards and back."""
    data = b"".join(b"%d\n" % number for number in range(3 * EVERY))
    write(path, gzip.compress(data) if gz else data)
    reader = KIND.open(path, KIND.scan(path).offsets)
    for row in (0, 5, 5, 4, 999, 1000, 2999, 1001, 0, 2000):
        reader.seek(row)
        assert row == reader.row
        assert [row] == [found.value for found in reader.read(row + 1, 0)]
        assert [100 + row + 1] == [found.number for found in reader.read(min(row + 2, 3 * EVERY), 100)] or row == 2999
        assert [] == list(reader.read(row, 0))
    reader.close()


def test_shorter_than_it_was(path: str) -> None:
    """Of a file that lost its end there is what is left; a reader does not wait for more."""
    write(path, b"1\n2\n3\n")
    offsets = KIND.scan(path).offsets
    write(path, b"1\n")
    for start, left in ((0, [1]), (2, [])):
        reader = KIND.open(path, offsets)
        reader.seek(start)
        assert left == [row.value for row in reader.read(3, 0)]
        assert 1 == reader.row
        reader.close()


DAMAGED: list[tuple[str, bytes]] = [
    (
        "was cut off: gzip says Compressed file ended before the end-of-stream marker was reached",
        gzip.compress(b"1\n" * 99)[:-9],
    ),
    ("is damaged: gzip says CRC check failed", gzip.compress(b"1\n")[:-8] + b"\0" * 8),
    ("is damaged: gzip says Error -3 while decompressing", gzip.compress(b"1\n")[:10] + b"\xff" * 20),
    ("is damaged: gzip says Not a gzipped file", gzip.compress(b"1\n") + b"x" * 20),
    ("is UTF-16; save it as UTF-8", "1\n".encode("utf-16")),
    ("is UTF-16; save it as UTF-8", b"\xfe\xff\x001\x00\n"),
    ("is UTF-16; save it as UTF-8", gzip.compress("1\n".encode("utf-16"))),
    ('is Parquet, whatever its name says; give format="parquet"', b"PAR1...PAR1"),
]


@pytest.mark.parametrize(("told", "data"), DAMAGED, ids=[case[0] for case in DAMAGED])
def test_damaged(path: str, told: str, data: bytes) -> None:
    """What is no text as a whole is an error that names the file."""
    write(path, data)
    with pytest.raises(InvalidRequestError, match=told) as caught:
        KIND.scan(path)
    assert str(caught.value).startswith(f"rows: {path} ")
    assert "rows" == caught.value.param


def test_damaged_later(path: str) -> None:
    """What is damaged after it was read through is an error too where a reader passes over it."""
    numbers = random.Random(1)
    whole = gzip.compress(b"".join(b'"%s"\n' % numbers.randbytes(500).hex().encode() for _ in range(5 * EVERY)))
    write(path, whole)
    offsets = KIND.scan(path).offsets
    write(path, whole[: len(whole) // 2])
    reader = KIND.open(path, offsets)
    reader.seek(EVERY)
    with pytest.raises(InvalidRequestError, match="was cut off"):
        reader.seek(4 * EVERY)
    reader.close()
    reader = KIND.open(path, offsets)
    with pytest.raises(InvalidRequestError, match="was cut off"):
        list(reader.read(5 * EVERY, 0))
    reader.close()


ONE_DOCUMENT: list[tuple[bool, bytes]] = [
    (False, b'[{"a": 1}]'),
    (False, b'\n [\n{"a": 1}\n]'),
    (False, b'{\n"a": 1\n}'),
    (True, b'{"a": 1}\n{"a": 2}\n'),
    (True, b'"{"\n'),
    (True, b""),
]


@pytest.mark.parametrize("suffix", ["json", "json.gz", "jsonl"])
@pytest.mark.parametrize(("lines", "data"), ONE_DOCUMENT)
def test_one_document(tmp_path: pathlib.Path, suffix: str, lines: bool, data: bytes) -> None:
    """A .json file that is one document is told from one of lines; what is named .jsonl has rows of any form."""
    path = str(tmp_path / f"rows.{suffix}")
    write(path, data)
    if lines or suffix == "jsonl":
        KIND.scan(path)
        return
    with pytest.raises(InvalidRequestError, match="is one JSON document; a row a line is needed"):
        KIND.scan(path)
