"""Rows in files: each is read through once, to know how many rows it has, what it holds, and where they are."""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import msgspec

from gpt.batch import files
from gpt.batch.delimited import Delimited
from gpt.batch.parquet import Parquet
from gpt.batch.rows import Row
from gpt.batch.text import Jsonl, Kind, Reader, wrong

VERSION = 1
"""Of what is kept of files."""

_KINDS: dict[str, Kind] = {"jsonl": Jsonl(), "csv": Delimited(","), "tsv": Delimited("\t"), "parquet": Parquet()}
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class _File(msgspec.Struct):
    """What is kept of a file, for as long as its size and time are the same."""

    path: str
    size: int
    changed: int
    """When, in nanoseconds."""
    rows: int
    digest: str
    offsets: list[int]


class _Index(msgspec.Struct):
    version: int
    kind: str
    files: list[_File]


class FileRows:
    """The rows of a file, or of the files of a folder."""

    def __init__(self, path: str | os.PathLike[str], format: str | None, index: str | None) -> None:
        self.name = os.fsdecode(path)
        self.path: str | None = os.path.abspath(self.name)
        self._folder = os.path.isdir(self.path)
        paths = _paths_of(self.path) if self._folder else [self.path]
        kind = self._kind_name = _kind_of(self.name, paths, format)
        self._kind = _KINDS[kind]
        self._files = self._scanned(paths, index)
        self._starts = [0, *accumulate(file.rows for file in self._files)]
        self.total: int | None = self._starts[-1]
        if not self.total:
            raise wrong(self.name, "has no rows")
        self._idle: tuple[int, Reader] | None = None
        self._closed = False

    def _scanned(self, paths: list[str], index: str | None) -> list[_File]:
        """What is known of the files, those read through that have changed since it was kept."""
        kept = {file.path: file for file in _kept(index, self._kind_name)}
        found = []
        for path in paths:
            known, now = kept.get(path), _stat(path)
            if known is None or (known.size, known.changed) != (now.st_size, now.st_mtime_ns):
                known = self._scan(path, now)
            found.append(known)
        if index is not None and found != list(kept.values()):
            files.write(index, msgspec.json.encode(_Index(VERSION, self._kind_name, found)))
        return found

    def _scan(self, path: str, before: os.stat_result) -> _File:
        rows, digest, offsets = self._kind.scan(path)
        if (before.st_size, before.st_mtime_ns) != ((now := _stat(path)).st_size, now.st_mtime_ns):
            raise wrong(path, "is being written; wait until it is whole")
        return _File(path, now.st_size, now.st_mtime_ns, rows, digest, offsets)

    @property
    def identity(self) -> dict[str, Any]:
        """The kind, the rows, and the digest of what the files hold, not where they lie, or under which names."""
        digests = [file.digest for file in self._files if file.rows]
        digest = digests[0] if len(digests) == 1 else _digest_of(digests)
        return {"format": self._kind_name, "rows": self.total, "digest": digest}

    def read(self, start: int, stop: int | None = None) -> Iterator[Row]:
        assert self.total is not None
        self._closed = False
        return self._read(start, self.total if stop is None else min(stop, self.total))

    def _read(self, start: int, stop: int) -> Iterator[Row]:
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            first, end = self._starts[number], min(stop, self._starts[number + 1])
            reader = self._take(number)
            try:
                reader.seek(start - first)
                for row in reader.read(end - first, first):
                    # Of the files of a folder it is said which one.
                    yield self._in_file(number, row) if row.problem is not None and self._folder else row
                if first + reader.row < end:
                    raise wrong(self._files[number].path, "has become shorter while it was read")
            except GeneratorExit:
                self._put(number, reader)
                raise
            except BaseException:
                reader.close()
                raise
            self._put(number, reader)
            start = end

    def _in_file(self, number: int, row: Row) -> Row:
        return row._replace(problem=f"{row.problem} (in {os.path.basename(self._files[number].path)})")

    def _take(self, number: int) -> Reader:
        """A file, open. Where it was read last it is still open: of one under gzip, all before must be read to get there."""
        file = self._files[number]
        now = _stat(file.path)
        if (file.size, file.changed) != (now.st_size, now.st_mtime_ns):
            again = self._scan(file.path, now)
            if (again.rows, again.digest) != (file.rows, file.digest):
                raise wrong(file.path, "has changed while its rows were being read; a job goes on with the same rows")
            self._files[number] = again
        idle, self._idle = self._idle, None
        if idle is not None:
            if idle[0] == number:
                return idle[1]
            idle[1].close()
        return self._kind.open(file.path, file.offsets)

    def _put(self, number: int, reader: Reader) -> None:
        """Keep a file open, in place of the one that was."""
        if self._idle is not None:
            self._idle[1].close()
        self._idle = (number, reader)
        if self._closed:  # what is read of it after that was left in the middle
            self.close()

    def close(self) -> None:
        """Close the file that is open. It is opened again where rows are read again."""
        self._closed = True
        if self._idle is not None:
            self._idle[1].close()
            self._idle = None


def _digest_of(digests: list[str]) -> str:
    return f"sha256:{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def _stat(path: str) -> os.stat_result:
    """The size and time of a file. Raises InvalidRequestError where it cannot be read, or but once."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe too, without waiting for who writes
        found = os.fstat(file)
        os.close(file)
    except OSError as error:
        hint = "; a str is the path of a file: put a single row in a list" if isinstance(error, FileNotFoundError) else ""
        raise wrong(path, f"cannot be read: {error.strerror}{hint}") from error
    if not stat.S_ISREG(found.st_mode):
        raise wrong(
            path,
            "is a pipe or a device, which can be read once; rows are read again: write them to a file, or give a generator",
        )
    return found


def _paths_of(folder: str) -> list[str]:
    """The files of a folder, in the order of their names."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir():
                raise wrong(
                    folder, f"has a folder in it, {entry.name}, and only files are read; name it .{entry.name} to leave it out"
                )
            found.append(entry.path)
    if not found:
        raise wrong(folder, "has no files in it")
    return sorted(found)


def _kind_of(name: str, paths: list[str], format: str | None) -> str:
    """Which kind of file they are, all of them. Raises InvalidRequestError."""
    if format is not None:
        return format
    kinds: dict[str, str] = {}
    for path in paths:
        stem, suffix = os.path.splitext(path.lower())
        kind = _SUFFIXES.get(os.path.splitext(stem)[1] if suffix == ".gz" else suffix)
        if kind is None or (kind == "parquet" and suffix == ".gz"):
            if not os.path.exists(path):
                _stat(path)  # tells that
            raise wrong(
                path,
                "has a name that does not tell what is in it; there are "
                f'{", ".join(_SUFFIXES)}, and these under .gz but for Parquet; or say it: format="jsonl"',
            )
        kinds.setdefault(kind, path)
    if len(kinds) > 1:
        one, other, *_ = (os.path.basename(path) for path in kinds.values())
        raise wrong(name, f"has files of several kinds in it ({one}, {other}); a folder is read whose files are of one")
    return next(iter(kinds))


def _kept(index: str | None, kind: str) -> list[_File]:
    """What was kept of files; nothing where it cannot be read, for then they are read through again."""
    if index is None:
        return []
    try:
        found = msgspec.json.decode(files.read(index), type=_Index)
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    return found.files if (found.version, found.kind) == (VERSION, kind) else []
