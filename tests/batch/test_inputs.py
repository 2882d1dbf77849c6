"""Rows in files: read through once, known by what they hold, read from anywhere; what changes is noticed."""

from __future__ import annotations

import csv
import gc
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.inputs import FileRows
from gpt.batch.rows import Row, open_rows
from gpt.batch.text import EVERY


@pytest.fixture
def opened() -> Iterator[Any]:
    """Opens rows, and closes them at the end."""
    sources: list[FileRows] = []

    def make(path: Any, format: str | None = None, index: Any = None) -> FileRows:
        sources.append(FileRows(path, format, None if index is None else str(index)))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def values(rows: Iterator[Row]) -> list[tuple[int, Any]]:
    return [(row.number, row.value) for row in rows]


def as_jsonl(rows: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_cells(delimiter: str) -> Any:
    def write(rows: list[dict[str, str]]) -> bytes:
        written = io.StringIO(newline="")
        writer = csv.DictWriter(written, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return written.getvalue().encode()

    return write


def as_parquet(rows: list[dict[str, str]]) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), written, row_group_size=700)
    return written.getvalue()


KINDS: list[tuple[str, str, Any]] = [
    ("rows.jsonl", "jsonl", as_jsonl),
    ("rows.ndjson", "jsonl", as_jsonl),
    ("rows.jsonlines", "jsonl", as_jsonl),
    ("rows.json", "jsonl", as_jsonl),
    ("ROWS.JSONL", "jsonl", as_jsonl),
    ("rows.jsonl.gz", "jsonl", lambda rows: gzip.compress(as_jsonl(rows))),
    ("rows.jsonl.gz", "jsonl", as_jsonl),  # named so, and unpacked on its way here
    ("rows.jsonl", "jsonl", lambda rows: gzip.compress(as_jsonl(rows))),
    ("rows.csv", "csv", as_cells(",")),
    ("rows.csv.gz", "csv", lambda rows: gzip.compress(as_cells(",")(rows))),
    ("rows.tsv", "tsv", as_cells("\t")),
    ("rows.parquet", "parquet", as_parquet),
    ("rows.pq", "parquet", as_parquet),
]


@pytest.mark.parametrize(("name", "kind", "write"), KINDS, ids=[f"{number} {case[0]}" for number, case in enumerate(KINDS)])
def test_kinds(tmp_path: pathlib.Path, opened: Any, name: str, kind: str, write: Any) -> None:
    """A file is read as what its name says, or as what is said; any range of it, in any order."""
    rows = [{"id": str(number), "text": f"line\n{number}"} for number in range(2 * EVERY + 500)]
    (tmp_path / name).write_bytes(write(rows))
    shutil.copy(tmp_path / name, tmp_path / "rows")
    for source in (opened(tmp_path / name), opened(str(tmp_path / "rows"), kind)):
        assert (2500, {"format", "rows", "digest"}) == (source.total, source.identity.keys())
        assert [*enumerate(rows)] == values(source.read(0))
        for start, stop in ((0, 1), (999, 1001), (2499, 2600), (10, 10), (2500, None), (3000, 4000), (700, 701), (1, None)):
            assert [*enumerate(rows)][start:stop] == values(source.read(start, stop))
    assert source.identity == opened(tmp_path / name).identity


def test_identity(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file is known by what it holds: not by its path or time, nor by whether it is under gzip or in a folder."""
    data = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "part-0.jsonl").write_bytes(data)
    expected = {"format": "jsonl", "rows": 2, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
    for name in ("a.jsonl", "b.jsonl.gz", "c"):
        assert expected == opened(tmp_path / name).identity
    (tmp_path / "a.jsonl").write_bytes(data.replace(b"2", b"3"))
    assert expected != opened(tmp_path / "a.jsonl").identity
    (tmp_path / "c.txt").write_bytes(b"a\nb\n")
    assert opened(tmp_path / "c.txt", "csv").identity != opened(tmp_path / "c.txt", "tsv").identity


# --------------------------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------------------------


def test_folder(tmp_path: pathlib.Path, opened: Any) -> None:
    """The files of a folder are read one after another, by their names; those of others' bookkeeping are left out."""
    files = {"b.jsonl": [2, 3], "a.jsonl": [0, 1], "c.jsonl": [], "d.ndjson": [4], "_SUCCESS": [7], ".hidden.jsonl": [8]}
    for name, numbers in files.items():
        (tmp_path / name).write_text("".join(f"{number}\n" for number in numbers))
    (tmp_path / "_job").mkdir()
    source = opened(tmp_path)
    assert (str(tmp_path), 5) == (source.path, source.total)
    for start in range(6):
        for stop in (*range(7), None):
            assert [(number, number) for number in range(5)][start:stop] == values(source.read(start, stop))


def test_order_counts(tmp_path: pathlib.Path, opened: Any) -> None:
    """The files of a folder in another order are other rows; a file without rows changes nothing."""
    (tmp_path / "1.jsonl").write_text("1\n")
    (tmp_path / "2.jsonl").write_text("2\n")
    before = opened(tmp_path).identity
    (tmp_path / "0.jsonl").write_text("")
    assert before == opened(tmp_path).identity
    os.rename(tmp_path / "1.jsonl", tmp_path / "3.jsonl")
    assert before != opened(tmp_path).identity


def test_problem_in_a_folder(tmp_path: pathlib.Path, opened: Any) -> None:
    """A row of a folder that cannot be read tells which file it is in."""
    (tmp_path / "a.jsonl").write_text("1\n")
    (tmp_path / "b.jsonl").write_text("x\n2\n")
    source = opened(tmp_path)
    assert [None, "not JSON: invalid character (byte 0) (in b.jsonl)", None] == [row.problem for row in source.read(0)]


def make(folder: pathlib.Path, *names: str) -> None:
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_text("1\n")


FOLDERS: list[tuple[str, list[str]]] = [
    ("has no files in it", ["_job/", ".x"]),
    ("has a folder in it, sub, and only files are read; name it .sub", ["a.jsonl", "sub/"]),
    (r"has files of several kinds in it \((a.jsonl, b.csv|b.csv, a.jsonl)\)", ["a.jsonl", "b.csv", "c.jsonl"]),
    ("README.md has a name that does not tell what is in it", ["a.jsonl", "README.md"]),
    ("a.parquet.gz has a name that does not tell", ["a.parquet.gz"]),
    ("a.gz has a name that does not tell", ["a.gz"]),
]


@pytest.mark.parametrize(("told", "names"), FOLDERS)
def test_folders_that_are_refused(tmp_path: pathlib.Path, opened: Any, told: str, names: list[str]) -> None:
    """A folder holds files of one kind, and nothing in it is passed over that may be meant."""
    make(tmp_path, *names)
    with pytest.raises(InvalidRequestError, match=told) as caught:
        opened(tmp_path)
    assert "rows" == caught.value.param


# --------------------------------------------------------------------------------------------------------------------
# What cannot be read
# --------------------------------------------------------------------------------------------------------------------


def test_no_rows(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file without rows is no job."""
    (tmp_path / "a.csv").write_text("id,text\n")
    with pytest.raises(InvalidRequestError, match=r"a.csv has no rows"):
        opened(tmp_path / "a.csv")


def test_not_there(tmp_path: pathlib.Path, opened: Any) -> None:
    """A path that is not there is told, also where its name would not do."""
    for name in ("rows.jsonl", "Name three rivers."):
        with pytest.raises(InvalidRequestError, match=f"{name} cannot be read: No such file or directory"):
            opened(tmp_path / name)


def test_pipe(tmp_path: pathlib.Path, opened: Any) -> None:
    """What can be read once is refused before it is read: opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(InvalidRequestError, match="is a pipe or a device, which can be read once"):
        opened(tmp_path / "rows.jsonl")


def test_forbidden(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file that may not be read is an error that says so."""
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n")
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root may
        pytest.skip("this user may read everything")
    with pytest.raises(InvalidRequestError, match="rows.jsonl cannot be read: Permission denied"):
        opened(path)


# --------------------------------------------------------------------------------------------------------------------
# The index
# --------------------------------------------------------------------------------------------------------------------


def test_index(tmp_path: pathlib.Path, opened: Any) -> None:
    """What is learnt of a file is kept, and found again: then the file is not read through."""
    path, index = tmp_path / "rows.jsonl", tmp_path / "index"
    path.write_text("1\n2\n")
    before = opened(path, index=index)
    kept = index.read_bytes()
    # Other bytes, of the same size and time, show whether they were looked at.
    times = path.stat()
    path.write_text("1\n3\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert before.identity == opened(path, index=index).identity
    assert kept == index.read_bytes()


def test_touched(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file whose time has changed is read through again; with the same bytes it is the same, and the new time is kept."""
    path, index = tmp_path / "rows.jsonl", tmp_path / "index"
    path.write_text("1\n2\n")
    before, kept = opened(path, index=index), index.read_bytes()
    os.utime(path, ns=(0, 7))
    assert before.identity == opened(path, index=index).identity
    assert kept != index.read_bytes()
    assert b'"changed":7,' in index.read_bytes()
    path.write_text("1\n3\n")
    os.utime(path, ns=(0, 8))
    assert before.identity != opened(path, index=index).identity


def test_index_of_a_folder(tmp_path: pathlib.Path, opened: Any) -> None:
    """Of a folder the files are read through that are new."""
    folder, index = tmp_path / "rows", tmp_path / "index"
    folder.mkdir()
    (folder / "a.jsonl").write_text("1\n")
    opened(folder, index=index)
    times = (folder / "a.jsonl").stat()
    (folder / "a.jsonl").write_text("x\n")
    os.utime(folder / "a.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "b.jsonl").write_text("2\n")
    digests = [hashlib.sha256(data).hexdigest() for data in (b"1\n", b"2\n")]
    whole = hashlib.sha256("\n".join(f"sha256:{digest}" for digest in digests).encode()).hexdigest()
    assert {"format": "jsonl", "rows": 2, "digest": f"sha256:{whole}"} == opened(folder, index=index).identity


OF_NO_USE: list[tuple[bytes, bytes]] = [
    (b"", b"{"),
    (b'"files"', b'"others"'),
    (b'"version":1,', b'"version":2,'),
    (b'"kind":"jsonl"', b'"kind":"csv"'),
]


@pytest.mark.parametrize(("old", "new"), OF_NO_USE)
def test_index_that_is_of_no_use(tmp_path: pathlib.Path, opened: Any, old: bytes, new: bytes) -> None:
    """An index that is damaged, or of another release or kind, is made anew."""
    path, index = tmp_path / "rows.jsonl", tmp_path / "index"
    path.write_text("1\n2\n")
    opened(path, index=index)
    kept = index.read_bytes()
    index.write_bytes(kept.replace(b'"rows":2', b'"rows":7').replace(old, new, 1))
    assert 2 == opened(path, index=index).total
    assert kept == index.read_bytes()
    assert ["index", "rows.jsonl"] == sorted(os.listdir(tmp_path))


def test_index_of_another_file(tmp_path: pathlib.Path, opened: Any) -> None:
    """An index of another file is not taken for that of this one, though size and time are the same."""
    index = tmp_path / "index"
    for name, data in (("a.jsonl", "1\n"), ("b.jsonl", "2\n")):
        (tmp_path / name).write_text(data)
        os.utime(tmp_path / name, ns=(7, 7))
        assert f"sha256:{hashlib.sha256(data.encode()).hexdigest()}" == opened(tmp_path / name, index=index).identity["digest"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2500), st.sampled_from(["rows.jsonl", "rows.csv"]), st.lists(st.integers(0, 2500), max_size=6))
def test_index_makes_no_difference(count: int, name: str, starts: list[int]) -> None:
    """The same rows are read whether the file was just read through or was known; from any start, in any order."""
    rows = [{"a": str(number)} for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path, index = os.path.join(folder, name), os.path.join(folder, "index")
        pathlib.Path(path).write_bytes(as_jsonl(rows) if name.endswith("jsonl") else as_cells(",")(rows))
        for _ in range(2):
            source = open_rows(path, index=index)
            for start in starts:
                assert [*enumerate(rows)][start : start + 3] == values(source.read(start, start + 3))
            source.close()


# --------------------------------------------------------------------------------------------------------------------
# Changes
# --------------------------------------------------------------------------------------------------------------------


class Growing(FileRows):
    """A file to which somebody writes while it is read through."""

    def _scan(self, path: str, before: os.stat_result) -> Any:
        with open(path, "a") as file:
            file.write("3\n")
        return super()._scan(path, before)


def test_being_written(tmp_path: pathlib.Path) -> None:
    """A file that changes while it is read through is not whole."""
    (tmp_path / "rows.jsonl").write_text("1\n2\n")
    with pytest.raises(InvalidRequestError, match=r"rows.jsonl is being written; wait until it is whole"):
        Growing(tmp_path / "rows.jsonl", None, None)


def test_changed_while_read(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file that is touched between two ranges is read on; one that is changed or gone is an error."""
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n2\n")
    source = opened(path)
    assert [(0, 1)] == values(source.read(0, 1))
    os.utime(path, ns=(0, 7))
    assert [(1, 2)] == values(source.read(1))
    path.write_text("1\n3\n")
    with pytest.raises(InvalidRequestError, match=r"rows.jsonl has changed while its rows were being read"):
        values(source.read(1))
    path.unlink()
    with pytest.raises(InvalidRequestError, match=r"rows.jsonl cannot be read: No such file"):
        values(source.read(1))


def test_shorter_while_read(tmp_path: pathlib.Path, opened: Any) -> None:
    """A file that loses its end within a range is an error, not a range that is shorter."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'"%s"\n' % (b"x" * 1000) * 3000)
    source = opened(path)
    reading = source.read(0)
    next(reading)
    os.truncate(path, 2_000_000)
    with pytest.raises(InvalidRequestError, match=r"rows.jsonl has become shorter while it was read"):
        values(reading)


# --------------------------------------------------------------------------------------------------------------------
# Several readers, and what is open
# --------------------------------------------------------------------------------------------------------------------


def handles() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))


@pytest.fixture
def numbered(tmp_path: pathlib.Path, opened: Any) -> FileRows:
    """Two files of 1,500 rows, under gzip."""
    for name, first in (("a", 0), ("b", 1500)):
        data = b"".join(b"%d\n" % number for number in range(first, first + 1500))
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(data))
    made: FileRows = opened(tmp_path)
    return made


def test_readers_side_by_side(numbered: FileRows) -> None:
    """Each of several readers gives its own rows, however they take turns."""
    readers = [(start, numbered.read(start)) for start in (0, 1, 1498, 700, 2000)]
    for step in range(200):
        for start, reader in readers:
            assert start + step == next(reader).value


def test_one_file_stays_open(numbered: FileRows) -> None:
    """One file stays open between ranges, where the next one goes on; none after closing, also of readers left behind."""
    before = handles()
    for start in range(0, 3000, 100):
        assert [*range(start, start + 100)] == [row.value for row in numbered.read(start, start + 100)]
        assert before + 1 == handles()
    left = [numbered.read(start) for start in (0, 10, 1600)]
    assert [0, 10, 1600] == [next(reader).value for reader in left]
    assert before + 4 >= handles() > before + 1
    numbered.close()
    left.clear()
    gc.collect()
    assert before == handles()
    assert 5 == next(numbered.read(5)).value
    numbered.close()
    numbered.close()
    gc.collect()
    assert before == handles()


def test_gzip_is_not_read_from_its_beginning_for_each_range(
    tmp_path: pathlib.Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file under gzip all before a row must be read to get there: range after range it is read once."""
    data = b"".join(b'"%d%s"\n' % (number, b"x" * 1000) for number in range(20 * EVERY))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(data, 1))
    source = opened(tmp_path / "rows.jsonl.gz")
    read = 0
    readinto = gzip.GzipFile.readinto

    def counting(self: gzip.GzipFile, buffer: Any) -> int:
        nonlocal read
        count = readinto(self, buffer)
        read += count
        return count

    monkeypatch.setattr(gzip.GzipFile, "readinto", counting)
    for start in range(0, 20 * EVERY, EVERY):
        assert EVERY == len(list(source.read(start, start + EVERY)))
    assert len(data) == read


@pytest.mark.parametrize(("name", "write"), [("rows.jsonl", as_jsonl), ("rows.csv", as_cells(","))])
def test_memory(tmp_path: pathlib.Path, opened: Any, name: str, write: Any) -> None:
    """A file of 50 MB is read through, and read, in a few MB."""
    row = write([{"text": "x" * 1000}] * 1000)
    header = row[: row.index(b"\n") + 1] if name.endswith("csv") else b""
    with open(tmp_path / name, "wb") as file:
        file.write(header)
        for _ in range(50):
            file.write(row[len(header) :])
    tracemalloc.start()
    source = opened(tmp_path / name, index=tmp_path / "index")
    assert 50_000 == source.total
    assert 50_000 == sum(1 for _ in source.read(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
