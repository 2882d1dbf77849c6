"""The directory of a job: what is where, whose it is, what is done, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt import GptError, InvalidRequestError
from gpt.batch.directory import Job, JobDirectory, Manifest, layout
from gpt.batch.journal import BusyError, Journal
from gpt.batch.shard import OpenShard

from crashes import full_at, put, seen, small_files, states
from shards import FAILED, ask, begun, done, facts, loaded, names, row, rows_in, value

KINDS = [
    pytest.param("out.jsonl", {}, id="jsonl"),
    pytest.param("out.parquet", {}, id="parquet"),
    pytest.param("out.jsonl", {"splits": True}, id="service"),
    pytest.param("out", {}, id="parts"),
    pytest.param("out", {"form": "parquet"}, id="parquet parts"),
]

# --------------------------------------------------------------------------------------------------------------------
# Where it is
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "form", "splits", "expected"),
    [
        ("a", None, False, ("a", "a", "jsonl", None, None)),
        ("a/", None, False, ("a", "a", "jsonl", None, None)),
        ("a", "parquet", False, ("a", "a", "parquet", None, None)),
        ("a", None, True, ("a", "a", "jsonl", None, None)),
        ("a.b", "jsonl", False, ("a.b", "a.b", "jsonl", None, None)),
        ("a.jsonl", None, False, ("a.jsonl", "a.jsonl.job", "jsonl", "a.jsonl", None)),
        ("a.NDJSON", "jsonl", False, ("a.NDJSON", "a.NDJSON.job", "jsonl", "a.NDJSON", None)),
        ("a.jsonl", None, True, ("a.jsonl", "a.jsonl.job", "jsonl", "a.jsonl", "a.errors.jsonl")),
        ("b/a.parquet", None, False, ("b/a.parquet", "b/a.parquet.job", "parquet", "b/a.parquet", None)),
    ],
)
def test_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, form: str, splits: bool, expected: Any) -> None:
    """A name tells where the output goes, and in which form; all paths are absolute."""
    monkeypatch.chdir(tmp_path)

    def full(name: str | None) -> str | None:
        return name and str(tmp_path / name)

    made = layout(out, form=form, splits=splits)
    told, folder, kind, file, errors = expected
    assert (full(told), full(folder), kind, full(file), full(errors), splits) == made
    assert made == layout(Path(out), form=form, splits=splits)


@pytest.mark.parametrize(
    ("out", "form", "splits", "param", "text"),
    [
        (3, None, False, "out", "expected a path, got 3"),
        (b"a", None, False, "out", "expected a path, got b'a'"),
        ("", None, False, "out", "expected a path, got ''"),
        ("a\0b", None, False, "out", "expected a path"),
        ("a.csv", None, False, "out", "a kind that is not written"),
        ("a.jsonl.gz", None, False, "out", "a kind that is not written"),
        ("a", "csv", False, "form", 'expected "jsonl" or "parquet", got \'csv\''),
        ("a.jsonl", "parquet", False, "form", "parquet does not go with the name a.jsonl"),
        ("a.parquet", None, True, "output", "has no Parquet"),
        ("a", "parquet", True, "output", "has no Parquet"),
    ],
)
def test_layout_refused(out: Any, form: str, splits: bool, param: str, text: str) -> None:
    """What cannot be written is named."""
    with pytest.raises(InvalidRequestError, match=text) as error:
        layout(out, form=form, splits=splits)
    assert param == error.value.param


# --------------------------------------------------------------------------------------------------------------------
# What it is
# --------------------------------------------------------------------------------------------------------------------


def test_kept(tmp_path: Path) -> None:
    """What a job is, is read as it was written."""
    directory = JobDirectory(layout(tmp_path / "out"))
    assert not directory.exists()
    job = begun(tmp_path / "out").job
    assert directory.exists()
    assert job == directory.load() == directory.job
    assert {"job.json", "shards"} == names(directory.inner)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "there is no job at"),
        (b"", "job.json is damaged"),
        (b'{"version": 1', "job.json is damaged"),
        (b'{"version": 1}', "job.json is damaged"),
        (b'{"version": "\xff"}', "job.json is damaged"),
        (b'{"version": 2, "anything": "else"}', r"newer release of gpt \(version 2; this one knows 1\)"),
        (b'{"version":1,"id":"","made":"","fingerprint":{},"shard_rows":0,"rows":1}', "job.json is damaged"),
        (b'{"version":1,"id":"","made":"","fingerprint":{},"shard_rows":1,"rows":-1}', "job.json is damaged"),
    ],
)
def test_job_not_read(tmp_path: Path, data: bytes | None, text: str) -> None:
    """A job.json that is no such, or of a newer release, is named."""
    directory = begun(tmp_path / "out")
    path = Path(directory.path("job.json"))
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(InvalidRequestError, match=text):
        directory.load()


def test_foreign(tmp_path: Path) -> None:
    """What no job made is left alone: nothing is made in it, and it is named."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    (tmp_path / "out.jsonl").touch()
    (tmp_path / "b.errors.jsonl").touch()
    (tmp_path / "c.jsonl.job").mkdir()
    (tmp_path / "c.jsonl.job" / "part-00000.jsonl").touch()
    (tmp_path / "d").touch()
    before = seen(tmp_path)
    for name, splits, text in [
        ("out", False, "is of no job, and has other files in it (thesis.tex, ...)"),
        ("out.jsonl", False, "out.jsonl is there already, and of no job"),
        ("b.jsonl", True, "b.errors.jsonl is there already"),
        ("c.jsonl", False, "has other files in it (part-00000.jsonl, ...)"),
        ("d", False, "is no folder, and has to be one"),
    ]:
        directory = JobDirectory(layout(tmp_path / name, splits=splits))
        for act in (directory.lock, lambda: directory.begin(Job(1, "", "", {}, 1, 1))):
            with pytest.raises(InvalidRequestError) as error:
                act()
            assert text in str(error.value)
    assert before == seen(tmp_path)


def test_begun_anew(tmp_path: Path) -> None:
    """A job that has come to nothing may be another one; of what it left nothing is there."""
    directory = begun(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").touch()
    OpenShard(directory, 0).close()
    Path(directory.of_shard(1, "journal")).write_bytes(b"torn")
    assert directory.is_empty()
    directory.begin(Job(1, "other", "", {}, 3, 9))
    assert "other" == loaded(tmp_path / "out").job.id
    assert set() == names(directory.shards)


def test_empty(tmp_path: Path) -> None:
    """A job has come to something when a row has, in a journal or in a part; also where shards are gone."""
    directory = begun(tmp_path / "out")
    shard = OpenShard(directory, 1)
    shard.record(row(5), FAILED, value(5, failed=True))
    shard.close()
    assert not directory.is_empty()
    Path(directory.of_shard(1, "journal")).unlink()
    assert directory.is_empty()
    os.rmdir(directory.shards)
    assert directory.is_empty()
    assert [] == list(directory.open_numbers())
    Path(directory.part(3)).touch()
    assert not directory.is_empty()


def test_shards_numbered(tmp_path: Path) -> None:
    """Rows are cut into shards; the last one is shorter, or as long as may be where nobody has counted."""
    directory = begun(tmp_path / "out", rows=7, shard_rows=3)
    assert [(0, 3), (3, 6), (6, 7)] == [directory.range_of(number) for number in range(3)]
    assert 3 == directory.count
    assert range(3) == directory.may_be_done()
    directory.job.rows = 0
    assert 0 == directory.count
    directory.job.rows = None
    assert (6, 9) == directory.range_of(2)
    assert directory.count is None
    assert range(0) == directory.may_be_done()
    for name in ("part-00001.jsonl", "part-00003.errors.jsonl", "part-00004.parquet", "part-x.jsonl", "part-"):
        (tmp_path / "out" / name).touch()
    assert range(2) == directory.may_be_done()
    Path(directory.of_shard(12, "journal")).touch()
    (Path(directory.shards) / "x.journal").touch()
    assert [12] == list(directory.open_numbers())


# --------------------------------------------------------------------------------------------------------------------
# Whose it is
# --------------------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from gpt.batch.directory import JobDirectory, layout
directory = JobDirectory(layout(sys.argv[1]))
directory.lock(shared=sys.argv[2] == "shared")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [("shared", True, True), ("shared", False, False), ("own", True, False), ("own", False, False)],
)
def test_locked(tmp_path: Path, theirs: str, ours: bool, expected: bool) -> None:
    """Another process keeps out those that want it for themselves, and all where it has it for itself; its death lets them in."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(out), theirs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert "locked\n" == other.stdout.readline()
        directory = JobDirectory(layout(out))
        if expected:
            directory.lock(shared=ours)
        else:
            with pytest.raises(BusyError, match=rf"another run is at work in {out} \(process {other.pid} on "):
                directory.lock(shared=ours)
        other.kill()
        other.wait()
        directory.lock(shared=ours)
        directory.lock()  # what it had itself is no hindrance
        directory.close()
        directory.close()


def test_unknown_holder(tmp_path: Path) -> None:
    """Who has it may have said nothing."""
    directory, other = JobDirectory(layout(tmp_path / "out")), JobDirectory(layout(tmp_path / "out"))
    directory.lock()
    Path(directory.path("lock")).write_bytes(b"")
    with pytest.raises(BusyError, match="nothing is known of it"):
        other.lock()
    directory.close()


def test_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks is no place for a job."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(GptError, match="has no locks.*use another disk"):
        JobDirectory(layout(tmp_path / "out")).lock()


# --------------------------------------------------------------------------------------------------------------------
# What is done
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([], True),
        (["journal"], True),
        (["journal", "alive", "part", "old"], True),
        (["reopening", "old"], False),
        (["busy"], False),
    ],
)
def test_done(tmp_path: Path, left: list[str], expected: bool) -> None:
    """A shard is done when its part is there, but for one that was reopened; what is left over goes, unless somebody is at it."""
    directory = begun(tmp_path / "out")
    assert not directory.is_done(0)
    assert not directory.is_done_now(0)
    done(directory, 0, {1})
    journal = None
    for name in left:
        if name == "reopening":
            directory.reopen(0)
        elif name == "busy":
            journal = Journal(directory.of_shard(0, "journal"), range(4))
        else:
            Path(directory.of_shard(0, name)).touch()
    assert ("journal" not in left and expected) == directory.is_done_now(0)
    for _ in range(2):
        assert expected == directory.is_done(0)
    if journal is not None:
        journal.close()
    assert expected == directory.is_done_now(0)
    if expected:
        assert {"00000.json"} == names(directory.shards)
    else:
        assert [0] == list(directory.open_numbers())


def test_tally_of(tmp_path: Path) -> None:
    """What a shard took up to now can be seen while somebody is at it: each row counts once."""
    directory = begun(tmp_path / "out")
    assert 0 == directory.tally_of(0).rows
    shard = OpenShard(directory, 0)
    shard.record(row(1), facts(1), value(1))
    shard.journal.append(1, row(1).mark, facts(1), value(1))
    assert shard.tally == directory.tally_of(0)
    ask(shard, {0})
    shard.commit()
    directory.reopen(0)
    assert (3, 0) == (directory.tally_of(0).rows, directory.tally_of(0).failed)


@pytest.mark.parametrize("data", [None, b"", b"{", b'{"rows": 1}', b'{"rows": "\xff"}'])
def test_shard_not_read(tmp_path: Path, data: bytes | None) -> None:
    """What a shard took and cannot be read is named, with what to do."""
    directory = begun(tmp_path / "out")
    done(directory, 0)
    path = Path(directory.of_shard(0, "json"))
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(InvalidRequestError, match=r"00000.json.*remove .*part-00000.jsonl to have its rows asked again"):
        directory.shard(0)


def test_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without links what a part held is copied; what is there under that name goes."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    directory = begun(tmp_path / "out")
    done(directory, 0, {1})
    Path(directory.of_shard(0, "old")).write_bytes(b"torn")
    monkeypatch.setattr(os, "link", refuse)
    assert directory.reopen(0)
    assert Path(directory.part(0)).read_bytes() == Path(directory.of_shard(0, "old")).read_bytes()


# --------------------------------------------------------------------------------------------------------------------
# The end
# --------------------------------------------------------------------------------------------------------------------

FAILING = {1, 5}


def all_done(tmp_path: Path, name: str, kind: dict[str, Any]) -> JobDirectory:
    directory = begun(tmp_path / name, **kind)
    for number in range(2):
        done(directory, number, FAILING)
    return directory


def check(directory: JobDirectory, failing: set[int] = FAILING, again: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """The job has ended: each row is there once, in order, and nothing is left over."""
    where = directory.where
    wanted = [json.loads(value(number, failed=number in failing, again=number in again)) for number in range(7)]
    apart = [one for one in wanted if where.splits and one["row"] in failing]
    good = [one for one in wanted if one not in apart]
    found = [one for path in directory.outputs() for one in rows_in(directory, path)]
    assert good + apart == found
    assert len(found) == len(list(directory.output_rows()))
    manifest = directory.manifest()
    assert manifest is not None
    assert (7, len(failing)) == (manifest.rows, manifest.failed)
    assert [4, 3] == [part["rows"] for part in manifest.parts]
    beside, inner = {"_job", "_manifest.json"}, {"job.json", "shards"}
    if where.file is None:
        beside |= {os.path.basename(path) for path in directory.outputs()}
        assert not manifest.joined
    else:
        assert (True, os.path.basename(where.file)) == (manifest.joined, manifest.file)
        assert {os.path.basename(path) for path in (where.file, where.errors, where.folder) if path} == names(
            os.path.dirname(where.folder)
        )
    assert beside == names(where.folder)
    assert inner == names(directory.inner)
    assert {"00000.json", "00001.json"} == names(directory.shards)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_finished(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    """The end is written, and may be again; what is left over goes."""
    directory = all_done(tmp_path / "one", name, kind)
    for path in (
        "shards/00000.old",
        "shards/00001.alive",
        "shards/00000.json.1234.writing",
        "job.json.12.writing",
        "../x.writing",
    ):
        (Path(directory.inner) / path).touch()
    made = directory.finish()
    assert isinstance(made, Manifest)
    check(directory)
    assert made == directory.finish()
    check(directory)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_killed_at_the_end(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    """After a death at any point of the end the next one ends it; the rows can be read all the while."""
    directory = all_done(tmp_path / "one", name, kind)
    for number, state in enumerate(states(tmp_path / "one", directory.finish)):
        put(state, tmp_path / str(number))
        next_one = loaded(tmp_path / str(number) / name, **kind)
        assert 7 == len(list(next_one.output_rows()))
        next_one.finish()
        check(next_one)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_killed_while_going_on(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    """A job that has ended goes on with its failed rows, and ends again, after a death at any point."""

    def act(job: JobDirectory) -> None:
        """What a run with `--retry-failed` does."""
        manifest = job.manifest()
        if manifest is not None and not manifest.failed:
            job.finish()
            return
        job.unjoin()
        for number in range(2):
            if not job.is_done(number) or job.reopen(number):
                shard = OpenShard(job, number)
                ask(shard, again=True)
                shard.commit()
        job.finish()

    directory = all_done(tmp_path / "one", name, kind)
    directory.finish()
    for number, state in enumerate(states(tmp_path / "one", lambda: act(directory))):
        put(state, tmp_path / str(number))
        next_one = loaded(tmp_path / str(number) / name, **kind)
        act(next_one)
        check(next_one, set(), FAILING)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_full_at_the_end(tmp_path: Path, name: str, kind: dict[str, Any]) -> None:
    """A disk that is full at any call of the end, or of going on, loses nothing: it is tried again."""
    all_done(tmp_path / "one", name, kind)
    begin = seen(tmp_path / "one")
    came, call = True, 0
    while came:
        call += 2
        put(begin, tmp_path / str(call))
        directory = loaded(tmp_path / str(call) / name, **kind)
        came = full_at(call, lambda: (directory.finish(), directory.unjoin(), directory.finish()))
        if directory.manifest() is None:
            assert 7 == len(list(directory.output_rows()))
        directory.finish()
        check(directory)
    assert call > 8


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_no_room_at_the_end(tmp_path: Path, name: str) -> None:
    """Where the one file does not fit, what was written of it goes, and the parts stay; with room it is made."""
    directory = all_done(tmp_path, name, {})
    with small_files(100), pytest.raises(OSError, match="too large"):
        directory.finish()
    assert {f"{name}.job"} == names(tmp_path)
    directory.finish()
    check(directory)


def test_looked_at(tmp_path: Path) -> None:
    """Whether somebody is at work can be seen."""
    directory, other = JobDirectory(layout(tmp_path / "out")), JobDirectory(layout(tmp_path / "out"))
    assert not other.is_locked()
    begun(tmp_path / "out")
    assert not other.is_locked()
    for shared in (True, False):
        directory.lock(shared=shared)
        assert other.is_locked()
        directory.close()
        assert not other.is_locked()


@pytest.mark.parametrize("data", [b"", b"{", b'{"version": 1}'])
def test_manifest_damaged(tmp_path: Path, data: bytes) -> None:
    """A manifest that cannot be read is named."""
    directory = all_done(tmp_path, "out", {})
    assert directory.manifest() is None
    (tmp_path / "out" / "_manifest.json").write_bytes(data)
    for act in (directory.manifest, directory.finish, directory.unjoin, lambda: list(directory.output_rows())):
        with pytest.raises(InvalidRequestError, match=r"_manifest.json is damaged"):
            act()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: file.unlink(), r"out.jsonl is gone; move .*out.jsonl.job away too"),
        (lambda file: file.write_bytes(file.read_bytes() + b"{}\n"), "has more rows than the job made"),
        (lambda file: file.write_bytes(file.read_bytes().split(b"\n", 3)[0] + b"\n"), "has fewer rows than the job made"),
    ],
)
def test_joined_and_changed(tmp_path: Path, change: Any, text: str) -> None:
    """The one file, changed since, is not taken for the job's rows; given back as it was, it is."""
    directory = all_done(tmp_path, "out.jsonl", {})
    directory.finish()
    before = (tmp_path / "out.jsonl").read_bytes()
    change(tmp_path / "out.jsonl")
    with pytest.raises(InvalidRequestError, match=text):
        directory.unjoin()
    (tmp_path / "out.jsonl").write_bytes(before)
    directory.unjoin()
    directory.finish()
    check(directory)


def test_joined_elsewhere(tmp_path: Path) -> None:
    """The folder beside the one file has no rows of its own: that is said."""
    all_done(tmp_path, "out.jsonl", {}).finish()
    folder = loaded(tmp_path / "out.jsonl.job")
    for act in (folder.unjoin, lambda: list(folder.output_rows())):
        with pytest.raises(InvalidRequestError, match=r"were joined to out.jsonl, beside it; name that file"):
            act()


def test_outputs_so_far(tmp_path: Path) -> None:
    """Of a job that is not done there are the rows of the shards that are, in order."""
    directory = begun(tmp_path / "out", rows=None, shard_rows=2, splits=True)
    for number in (0, 2):
        done(directory, number, {1})
    assert [0, 1, 4, 5] == [json.loads(one)["row"] for one in directory.output_rows()]
