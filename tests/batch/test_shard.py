"""A shard that is worked on: one output row for each row, whatever happens in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt import GptError, InvalidRequestError
from gpt.batch.directory import JobDirectory
from gpt.batch.journal import BusyError
from gpt.batch.progress import Tally
from gpt.batch.shard import OpenShard

from crashes import State, full_at, put, seen, small_files, states
from shards import FAILED, ask, begun, done, facts, loaded, names, row, rows_in, value

KINDS = [
    pytest.param({"form": None, "splits": False}, id="jsonl"),
    pytest.param({"form": "parquet", "splits": False}, id="parquet"),
    pytest.param({"form": None, "splits": True}, id="service"),
]


def tally(answered: set[int], failed: int) -> dict[str, Any]:
    made = Tally()
    for number in sorted(answered):
        made.add(facts(number))
    for _ in range(failed):
        made.add(FAILED)
    return made.to_dict()


def check(directory: JobDirectory, number: int, failing: set[int], again: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """The shard is done, its part has each row once, in order, and nothing else of it is there."""
    start, stop = directory.range_of(number)
    assert directory.is_done(number)
    wanted = [json.loads(value(one, failed=one in failing, again=one in again)) for one in range(start, stop)]
    good = [one for one in wanted if not (directory.where.splits and one["row"] in failing)]
    assert good == rows_in(directory, directory.part(number))
    if directory.where.splits:
        assert [one for one in wanted if one not in good] == rows_in(directory, directory.part(number, errors=True))
    kept = directory.shard(number)
    failed = sorted(failing & set(range(start, stop)))
    assert failed == kept.failures
    assert stop - start == kept.rows
    assert tally(set(range(start, stop)) - failing, len(failed)) == kept.tally.to_dict()
    # What else may be left goes at the end of the job: test_directory.py.
    assert {"00000.json"} == {name for name in names(directory.shards) if not name.endswith((".writing", ".old"))}


# --------------------------------------------------------------------------------------------------------------------
# What it says
# --------------------------------------------------------------------------------------------------------------------


def test_rows_asked(tmp_path: Path) -> None:
    """A row is wanted until it has come to something, also by another process."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 1)
    assert [True, True, True] == [shard.wants(row(number)) for number in (4, 5, 6)]
    shard.record(row(5), facts(5), value(5))
    assert [True, False, True] == [shard.wants(row(number)) for number in (4, 5, 6)]
    shard.close()
    shard = OpenShard(directory, 1)
    assert [True, False, True] == [shard.wants(row(number)) for number in (4, 5, 6)]
    assert tally({5}, 0) == shard.tally.to_dict()
    shard.close()


def test_row_changed(tmp_path: Path) -> None:
    """A row that is another than when it was answered is named."""
    shard = OpenShard(begun(tmp_path / "out"), 0)
    shard.record(row(2), facts(2), value(2))
    with pytest.raises(InvalidRequestError, match="row 2 is not what it was") as error:
        shard.wants(row(2, changed=True))
    assert "rows" == error.value.param
    shard.close()


def test_recorded_once(tmp_path: Path) -> None:
    """What a row came to is put down once."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 0)
    shard.record(row(2), facts(2), value(2))
    with pytest.raises(ValueError, match="row 2 has come to something already"):
        shard.record(row(2), facts(2), value(2))
    assert tally({2}, 0) == shard.tally.to_dict()
    ask(shard, {1})
    shard.commit()
    assert directory.reopen(0)
    shard = OpenShard(directory, 0)
    with pytest.raises(ValueError, match="row 3 has come to something already"):
        shard.record(row(3), facts(3), value(3))
    shard.close()


def test_rows_missing(tmp_path: Path) -> None:
    """A part is of all rows: one that is missing is named, and the part is not made."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 0)
    for number in (0, 1, 3):
        shard.record(row(number), facts(number), value(number))
    with pytest.raises(GptError, match="shard 0: row 2 has come to nothing yet"):
        shard.commit()
    assert not directory.is_done(0)
    shard.record(row(2), facts(2), value(2))
    shard.commit()
    check(directory, 0, set())


def test_end_found(tmp_path: Path) -> None:
    """The last shard of rows that nobody had counted is as long as they are; one without rows leaves nothing."""
    directory = begun(tmp_path / "out", rows=None)
    shard = OpenShard(directory, 1)
    for number in (4, 5):
        shard.record(row(number), facts(number), value(number))
    with pytest.raises(GptError, match="row 6 has come to nothing"):
        shard.commit()
    directory.job.rows = 6
    assert 2 == shard.commit().rows
    assert {"00001.json"} == names(directory.shards)
    directory.job.rows = None
    shard = OpenShard(directory, 2)
    Path(directory.of_shard(2, "alive")).touch()
    shard.discard()
    assert {"00001.json"} == names(directory.shards)


def test_one_at_a_time(tmp_path: Path) -> None:
    """A shard is open once; it may be opened when it was closed."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 0)
    with pytest.raises(BusyError):
        OpenShard(directory, 0)
    shard.close()
    OpenShard(directory, 0).close()


def test_ended_elsewhere(tmp_path: Path) -> None:
    """A shard that somebody else has just ended is not asked again: no row is wanted, and its part stays."""
    directory = begun(tmp_path / "out")
    done(directory, 0, {1})
    before = os.stat(directory.part(0))
    shard = OpenShard(directory, 0)
    assert shard.is_done
    assert tally({0, 2, 3}, 1) == shard.tally.to_dict()
    assert not any(shard.wants(row(number)) for number in range(4))
    with pytest.raises(ValueError, match="already"):
        shard.record(row(0), facts(0), value(0))
    assert [1] == shard.commit().failures
    assert os.path.samestat(before, os.stat(directory.part(0)))
    check(directory, 0, {1})


def test_damaged(tmp_path: Path) -> None:
    """A shard that is done and whose tally cannot be read is named, and is not kept from others."""
    directory = begun(tmp_path / "out")
    done(directory, 0)
    Path(directory.of_shard(0, "json")).unlink()
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="00000.json"):
            OpenShard(directory, 0)


def test_not_read_back(tmp_path: Path) -> None:
    """A part is made only of what can be read back: a journal that the disk changed is not taken."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 0)
    ask(shard)
    with open(shard.journal.path, "r+b") as file:
        file.seek(20)
        file.write(b"\0\0\0")
    with pytest.raises(OSError, match="cannot be read back"):
        shard.commit()
    shard.close()
    shard = OpenShard(directory, 0)
    assert [0] == ask(shard)
    shard.commit()
    check(directory, 0, set())


# --------------------------------------------------------------------------------------------------------------------
# Asked again
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_reopened(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Failed rows that are asked again stand in their places, and nothing else is asked; also twice."""
    directory = begun(tmp_path / "out", **kind)
    done(directory, 0, {0, 2})
    assert directory.reopen(0)
    assert not directory.is_done(0)
    shard = OpenShard(directory, 0)
    assert tally({1, 3}, 0) == shard.tally.to_dict()
    assert [0, 2] == ask(shard, {2}, again=True)
    shard.commit()
    check(directory, 0, {2}, {0, 2})
    assert directory.reopen(0)
    shard = OpenShard(directory, 0)
    assert [2] == ask(shard)
    shard.commit()
    check(directory, 0, set(), {0})
    assert not directory.reopen(0)


def test_reopened_and_changed(tmp_path: Path) -> None:
    """Rows that are not asked again are looked at too."""
    directory = begun(tmp_path / "out")
    done(directory, 0, {0})
    directory.reopen(0)
    shard = OpenShard(directory, 0)
    assert [True, False, False] == [shard.wants(row(0)), shard.wants(row(1, changed=True)), shard.wants(row(2))]
    with pytest.raises(InvalidRequestError, match="rows 0 to 3 are not what"):
        shard.wants(row(3))
    shard.close()


def test_reopened_and_cut(tmp_path: Path) -> None:
    """Where what the part held is not all there, that is said, and the part stays as it was."""
    directory = begun(tmp_path / "out")
    done(directory, 0, {0})
    directory.reopen(0)
    part = Path(directory.part(0)).read_bytes()
    old = Path(directory.of_shard(0, "old"))
    old.unlink()
    old.write_bytes(part[: part.index(b"\n") + 1])
    shard = OpenShard(directory, 0)
    ask(shard)
    with pytest.raises(InvalidRequestError, match="has no row 1"):
        shard.commit()
    shard.close()
    assert part == Path(directory.part(0)).read_bytes()


# --------------------------------------------------------------------------------------------------------------------
# Killed, and on a full disk
# --------------------------------------------------------------------------------------------------------------------


def one_run(directory: JobDirectory, failing: set[int], *, again: bool) -> list[int]:
    """What a run does with shard 0."""
    if directory.is_done(0):
        return []
    shard = OpenShard(directory, 0)
    try:
        asked = ask(shard, failing, again=again)
        shard.commit()
    finally:
        shard.close()
    return asked


def each(tmp_path: Path, found: list[State]) -> Iterator[Path]:
    for number, state in enumerate(found):
        put(state, tmp_path / f"after{number}")
        yield tmp_path / f"after{number}" / "out"


@pytest.mark.parametrize("kind", KINDS)
def test_killed(tmp_path: Path, kind: dict[str, Any]) -> None:
    """After a death at any point the next run asks only rows that had not come to anything, and the part is right."""
    directory = begun(tmp_path / "one" / "out", **kind)
    total = 0
    for out in each(tmp_path, states(tmp_path / "one", lambda: one_run(directory, {1}, again=False))):
        next_one = loaded(out, **kind)
        asked = one_run(next_one, {1}, again=False)
        assert list(range(4 - len(asked), 4)) == asked
        check(next_one, 0, {1})
        total += 1
    assert total > 15


@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_asked_again(tmp_path: Path, kind: dict[str, Any]) -> None:
    """The same while failed rows are asked again: the others stay, and none is asked twice that was answered."""

    def act() -> None:
        if directory.reopen(0):
            one_run(directory, {2}, again=True)

    directory = begun(tmp_path / "one" / "out", **kind)
    done(directory, 0, {0, 2})
    total = 0
    for out in each(tmp_path, states(tmp_path / "one", act)):
        next_one = loaded(out, **kind)
        if next_one.is_done(0) and [0, 2] == next_one.shard(0).failures:  # it had not been reopened yet
            check(next_one, 0, {0, 2})
            next_one.reopen(0)
        assert one_run(next_one, {2}, again=True) in ([0, 2], [2], [])
        check(next_one, 0, {2}, {0, 2})
        total += 1
    assert total > 15


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk(tmp_path: Path, kind: dict[str, Any]) -> None:
    """A disk that is full at any call of the commit loses nothing: it is tried again, in this process or the next one."""
    call = 0
    came = True
    while came:
        call += 1
        directory = begun(tmp_path / str(call) / "out", **kind)
        shard = OpenShard(directory, 0)
        ask(shard, {1})
        came = full_at(call, shard.commit)
        if call % 2 and shard.journal._file >= 0 and shard.journal._lost is None:
            shard.commit()
        else:
            shard.close()
            assert [] == one_run(directory, set(), again=False)
        check(directory, 0, {1})
    assert call > 20


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_while_asked_again(tmp_path: Path, kind: dict[str, Any]) -> None:
    """The same while failed rows are asked again."""
    done(begun(tmp_path / "out", **kind), 0, {0, 2})
    begin = seen(tmp_path / "out")
    call = 0
    came = True
    while came:
        call += 2
        put(begin, tmp_path / str(call) / "out")
        directory = loaded(tmp_path / str(call) / "out", **kind)
        came = full_at(call, lambda: directory.reopen(0) and one_run(directory, {2}, again=True))
        if directory.is_done(0) and [0, 2] == directory.shard(0).failures:
            directory.reopen(0)
        assert one_run(directory, {2}, again=True) in ([0, 2], [2], [])
        check(directory, 0, {2}, {0, 2})
    assert call > 20


@pytest.mark.parametrize("most", [0, 1, 60, 75, 150, 230, 260, 290])
def test_no_room(tmp_path: Path, most: int) -> None:
    """Where a write fits in part only, nothing is lost, what was written for nothing is removed, and it goes on with room."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 0)
    ask(shard, {1})
    size = os.path.getsize(shard.journal.path)
    with small_files(most), pytest.raises(OSError, match="too large"):
        shard.commit()
    assert {"00000.journal"} == names(directory.shards)
    assert size == os.path.getsize(shard.journal.path)
    assert not directory.is_done(0)
    shard.commit()
    check(directory, 0, {1})
