"""Jobs on disk, and rows for them, as tests of `gpt.batch` use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt.batch.directory import VERSION, Job, JobDirectory, layout
from gpt.batch.progress import Facts
from gpt.batch.rows import Row
from gpt.batch.shard import OpenShard

FAILED = Facts(kind="ServerError")


def facts(number: int) -> Facts:
    """What a row took that was answered."""
    return Facts(10, number, 0.25, cost="0.5", currency="USD")


def row(number: int, *, changed: bool = False) -> Row:
    """A row of the input."""
    return Row(number, {"n": number}, 1_000_000 + number + changed * 7)


def value(number: int, *, failed: bool = False, again: bool = False) -> bytes:
    """An output row. `again`: of a row that was asked again."""
    made: dict[str, Any] = {"row": number, "text": f"{'again ' * again}answer\n{number}", "error": None}
    if failed:
        made = {"row": number, "error": {"type": "ServerError", "message": f"row {number}{' again' * again}"}}
    return json.dumps(made).encode()


def begun(
    out: Path, *, rows: int | None = 7, shard_rows: int = 4, form: str | None = None, splits: bool = False
) -> JobDirectory:
    """A job that has been begun."""
    directory = JobDirectory(layout(out, form=form, splits=splits))
    where = directory.where
    directory.begin(Job(VERSION, "id", "2026-11-25", {"a": 1}, shard_rows, rows, where.form, splits))
    return directory


def loaded(out: Path, *, form: str | None = None, splits: bool = False) -> JobDirectory:
    """A job that is there, as the next process has it."""
    directory = JobDirectory(layout(out, form=form, splits=splits))
    directory.load()
    return directory


def ask(shard: OpenShard, failing: set[int] = frozenset(), *, again: bool = False) -> list[int]:  # type: ignore[assignment]
    """Have all rows of a shard come to something. Gives those that were asked."""
    asked = [number for number in range(shard.start, shard.stop) if shard.wants(row(number))]
    for number in asked:
        failed = number in failing
        shard.record(row(number), FAILED if failed else facts(number), value(number, failed=failed, again=again))
    return asked


def done(directory: JobDirectory, number: int, failing: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Have a shard done."""
    shard = OpenShard(directory, number)
    ask(shard, failing)
    shard.commit()


def rows_in(directory: JobDirectory, path: str) -> list[Any]:
    """The output rows in a file, without what is not there."""
    rows = [json.loads(one) for one in directory.rows_of(path)]
    return [{name: told for name, told in one.items() if told is not None or name == "error"} for one in rows]


def names(folder: str | Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in Path(folder).iterdir()}
