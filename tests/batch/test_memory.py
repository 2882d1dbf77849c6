"""Rows in memory: in any order where they can be had so, else each once, and forwards."""

from __future__ import annotations

import gc
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.memory import of_memory, row_of
from gpt.batch.rows import Row, canonical, open_rows


def values(rows: Iterator[Row]) -> list[tuple[int, Any]]:
    return [(row.number, row.value) for row in rows]


@pytest.mark.parametrize("make", [list, tuple, iter, lambda rows: dict.fromkeys(rows).keys()])
@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 25), st.none() | st.integers(0, 25))
def test_range(make: Any, count: int, start: int, stop: int | None) -> None:
    """A range of rows is that slice of them, whatever they come from."""
    source = of_memory(make(range(count)))
    assert [*enumerate(range(count))][start:stop] == values(source.read(start, stop))


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 8), max_size=8))
def test_forwards(count: int, steps: list[int]) -> None:
    """A generator is read range after range, with rows passed over between them or not."""
    source = of_memory(iter(range(count)))
    start = 0
    for step, length in zip(steps[::2], steps[1::2], strict=False):
        start += step
        assert [*enumerate(range(count))][start : start + length] == values(source.read(start, start + length))
        start += length


def test_row_as_read_from_a_file(tmp_path: pathlib.Path) -> None:
    """A row in memory is the row that is read from a file of its canonical JSON, mark and all; later changes are not seen."""
    value = {"b": (1, 2), "a": {3: None}}
    row = row_of(0, value)
    value["c"] = 1  # type: ignore[assignment]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(canonical(row.value) + b"\n")
    source = open_rows(path)
    assert [Row(0, {"b": [1, 2], "a": {"3": None}}, zlib.crc32(b'{"b":[1,2],"a":{"3":null}}'))] == [row] == list(source.read(0))
    source.close()


def within_itself() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


def deep() -> Any:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


def test_rows_that_are_rows_already() -> None:
    """What was read elsewhere, problems among it, stays as it is, under the number of its place."""
    there = [Row(7, {"a": 1}, 123), Row(9, None, 5, "not JSON: invalid character (byte 0)")]
    assert [Row(0, {"a": 1}, 123), Row(1, None, 5, "not JSON: invalid character (byte 0)")] == list(of_memory(there).read(0))


PROBLEMS: list[tuple[str, Any]] = [
    ("not JSON: image: object", {"id": 1, "image": object()}),
    ("not JSON: object", object()),
    ("not JSON: object", [1, object()]),
    ("not JSON: text with half a surrogate pair", "\ud800"),
    ("not JSON: a: text with half a surrogate pair", {"a": "\ud800"}),
    ("not JSON: ?: text with half a surrogate pair", {"\ud800": 1}),
    ("not JSON: nested too deeply, or within itself", within_itself()),
    ("not JSON: a: nested too deeply, or within itself", {"a": deep()}),
    ("not JSON: (1, 2): tuple", {(1, 2): 3}),
]


@pytest.mark.parametrize(("problem", "value"), PROBLEMS, ids=[case[0] for case in PROBLEMS])
def test_problems(problem: str, value: Any) -> None:
    """A value that JSON does not know is the problem of its row, which tells the field; other rows are read."""
    source = of_memory([value, 1])
    assert [Row(0, None, zlib.crc32(problem.encode()), problem), Row(1, 1, zlib.crc32(b"1"))] == list(source.read(0))


class Twice(dict):  # type: ignore[type-arg]
    """A mapping that is refused as a whole, and whose fields are all well."""

    def items(self) -> Any:
        return [("a", 1)]


def test_problem_of_no_field() -> None:
    """Where no field is to blame none is named."""
    assert "not JSON: object" == row_of(0, Twice(a=object())).problem


def test_grown() -> None:
    """A list that grows while it is read has the rows that it was said to have; one that shrinks has those that are left."""
    rows = [1, 2, 3]
    source = of_memory(rows)
    rows.append(4)
    assert [(1, 2), (2, 3)] == values(source.read(1))
    del rows[2:]
    assert [(1, 2)] == values(source.read(1, 3))


def test_empty() -> None:
    """A list without rows is refused; whether a generator has any is seen when it is read."""
    with pytest.raises(InvalidRequestError, match="rows: a list without rows"):
        of_memory([])
    assert [] == list(of_memory(iter([])).read(0))


def test_nothing_is_read_before_it_is_asked_for() -> None:
    """Neither opening nor closing takes a row: one source after another may be opened over the same generator."""
    rows = iter([1, 2])
    of_memory(rows).close()
    source = of_memory(rows)
    source.read(0)
    assert [(0, 1), (1, 2)] == values(source.read(0))


def test_no_way_back() -> None:
    """A row that has been read, or passed over, cannot be had again, and that is told at once."""
    source = of_memory(iter("abcd"))
    assert [(1, "b")] == values(source.read(1, 2))
    for start in (0, 1):
        with pytest.raises(
            InvalidRequestError, match=rf"str\w*_iterator gives each row once, and row {start} has been read \(the next is 2\)"
        ):
            source.read(start)
    assert [(2, "c"), (3, "d")] == values(source.read(2))
    assert [] == values(source.read(4))


def test_reading_that_was_left() -> None:
    """A reader that is left in the middle loses no row: the next one goes on behind the last that it gave."""
    source = of_memory(iter("abcd"))
    left = source.read(0)
    assert "a" == next(left).value
    del left
    gc.collect()
    assert [(1, "b"), (2, "c"), (3, "d")] == values(source.read(1))


def test_overtaken() -> None:
    """A reader that was overtaken by another one says so, and gives no row under another's number."""
    source = of_memory(iter("abcd"))
    first, second = source.read(0), source.read(1)
    assert ["a", "b"] == [next(first).value, next(second).value]
    with pytest.raises(InvalidRequestError, match="row 1 has been read"):
        next(first)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_failing_generator(error: BaseException) -> None:
    """What a generator raises comes out as it is; after that it is not taken for one that is at its end."""

    def rows() -> Iterator[int]:
        yield 1
        raise error

    source = of_memory(rows())
    reading = source.read(0)
    assert 1 == next(reading).value
    with pytest.raises(type(error)) as caught:
        next(reading)
    assert error is caught.value
    with pytest.raises(InvalidRequestError, match="a generator failed before; make it anew"):
        source.read(1)


# --------------------------------------------------------------------------------------------------------------------
# Hugging Face datasets
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package itself, without the network, and without a trace."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            patch.setenv(name, "1")
        for name in ("HF_HOME", "HF_DATASETS_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp("hub")))
        import datasets

        yield datasets


ROWS = [{"id": number, "text": f"row {number}", "nested": {"a": [number, None]}} for number in range(700)]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 700), (255, 513), (699, 700), (3, 3), (650, 900)])
def test_dataset(datasets: Any, start: int, stop: int | None) -> None:
    """A dataset is read in any order, row by row as objects."""
    source = open_rows(datasets.Dataset.from_list(ROWS))
    assert ("a Hugging Face dataset", 700, {}) == (source.name, source.total, source.identity)
    assert [*enumerate(ROWS)][start:stop] == values(source.read(start, stop))


def test_dataset_mark(datasets: Any) -> None:
    """The rows of a dataset are those of the list that it is made of."""
    assert list(of_memory(ROWS).read(0)) == list(of_memory(datasets.Dataset.from_list(ROWS)).read(0))


@pytest.mark.parametrize("form", ["numpy", "pandas"])
def test_dataset_with_a_format(datasets: Any, form: str) -> None:
    """A dataset that gives arrays is read as one that gives plain values."""
    plain = [{"id": row["id"], "text": row["text"]} for row in ROWS]
    dataset = datasets.Dataset.from_list(plain).with_format(form)
    assert [*enumerate(plain)] == values(open_rows(dataset).read(0))


def test_iterable_dataset(datasets: Any) -> None:
    """One that is streamed is read forwards; how many rows it has is not known."""
    source = open_rows(datasets.Dataset.from_list(ROWS).to_iterable_dataset())
    assert ("a Hugging Face dataset", None) == (source.name, source.total)
    assert [*enumerate(ROWS)][:10] == values(source.read(0, 10))
    assert [*enumerate(ROWS)][500:] == values(source.read(500))


def test_dataset_of_splits(datasets: Any) -> None:
    """Of several splits one is to be chosen."""
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(InvalidRequestError, match="got a DatasetDict; choose one of its splits, as in dataset.'train'."):
        open_rows(splits)


def test_dataset_of_images(datasets: Any) -> None:
    """An image is the problem of its row, which names the column."""
    from PIL import Image

    features = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"id": [1], "image": [Image.new("RGB", (1, 1))]}, features=features)
    assert ["not JSON: image: PngImageFile"] == [row.problem for row in open_rows(dataset).read(0)]
