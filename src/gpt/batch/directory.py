"""The directory of a job: what is where, whose it is, what is done. Blocks.

    OUT/                        the output, or OUT.jsonl.job/ beside an output that is one file
      part-00000.jsonl          the rows of shard 0, in order; .parquet where that was asked for
      part-00000.errors.jsonl   of the service's format: the rows that failed
      _manifest.json            at the end: the parts, and what the job took
      _job/
        job.json                what the job is: its fingerprint, its shards
        lock                    held by who works here
        input.index             where the rows of the input are; input.jsonl the rows, where they came from no file
        control.json            what the driver says to workers
        shards/00000.journal    what rows came to, of a shard that is not done
        shards/00000.json       what a shard took that is done
        shards/00000.alive      what a worker in another process is doing

A shard is done when its part is there, which is written elsewhere, synced and renamed; its tally is there before. A journal
that reopens a shard (`--retry-failed`) says that it is not done after all; what its part held is kept as 00000.old until then.

One file is made of all parts at the end: when `_manifest.json` says that they are joined, they go. What is left over of a
process that was killed goes when the shard is looked at again, or at the end.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from gpt.batch.files import LEFT, commit, read, remove, sync_folder, write
from gpt.batch.journal import BusyError, Entry, Journal, Reopening, first_line, lock
from gpt.batch.journal import read as read_journal
from gpt.batch.progress import Tally
from gpt.errors import GptError, InvalidRequestError

VERSION = 1
"""Of the layout and of what is in the files."""

Form: TypeAlias = Literal["jsonl", "parquet"]

_T = TypeVar("_T")

_BLOCK = 1 << 20


class Layout(NamedTuple):
    """Where a job's output goes. `file` is the one file that the parts are joined to, `errors` that of failed rows."""

    out: str
    folder: str
    form: Form
    file: str | None
    errors: str | None
    splits: bool
    """Whether rows that failed go to files of their own, as the service has it."""


def layout(out: str | os.PathLike[str], *, form: str | None = None, splits: bool = False) -> Layout:
    """Where the output goes: to one file, where the name ends in .jsonl or .parquet, else to a folder of parts.

    `form` is "jsonl" or "parquet"; None: as the name says, else "jsonl". Raises InvalidRequestError.
    """
    named = os.fspath(out) if isinstance(out, (str, os.PathLike)) else out
    if not isinstance(named, str) or not named or "\0" in named:
        raise InvalidRequestError(f"out: expected a path, got {out!r}", param="out")
    path = os.path.abspath(named)
    stem, suffix = os.path.splitext(path)
    said = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffix.lower())
    if said is None and suffix.lower() in (".json", ".csv", ".tsv", ".txt", ".gz", ".arrow"):
        raise InvalidRequestError(
            f"out: {out!s} would be a file of a kind that is not written; there are .jsonl, .parquet, and a folder of either",
            param="out",
        )
    if form not in (None, "jsonl", "parquet"):
        raise InvalidRequestError(f'form: expected "jsonl" or "parquet", got {form!r}', param="form")
    if said is not None and form not in (None, said):
        raise InvalidRequestError(f"form: {form} does not go with the name {out!s}", param="form")
    chosen: Form = "parquet" if (form or said) == "parquet" else "jsonl"
    if splits and chosen == "parquet":
        raise InvalidRequestError("output: the service's batch format is JSONL, and has no Parquet", param="output")
    if said is None:
        return Layout(path, path, chosen, None, None, splits)
    return Layout(path, f"{path}.job", chosen, path, f"{stem}.errors{suffix}" if splits else None, splits)


class Job(msgspec.Struct):
    """What job.json holds."""

    version: int
    id: str
    """By which the requests of its rows are known to servers that look at Idempotency-Key."""
    made: str
    fingerprint: dict[str, Any]
    """What changes answers, or the form in which they are written."""
    shard_rows: Annotated[int, msgspec.Meta(ge=1)]
    rows: Annotated[int, msgspec.Meta(ge=0)] | None
    """None until a source that does not tell has been read to its end."""
    form: Form = "jsonl"
    splits: bool = False
    source: str = ""
    """Where the rows came from, for people."""


class Shard(msgspec.Struct):
    """What is kept of a shard that is done, beside its part."""

    rows: int
    mark: int
    """The CRC-32 of the marks of its rows."""
    answered: Tally
    failed: Tally
    failures: list[int]
    """The rows that failed."""
    bytes: int = 0

    @property
    def tally(self) -> Tally:
        """All of it."""
        both = Tally()
        both.merge(self.answered)
        both.merge(self.failed)
        return both


class Manifest(msgspec.Struct):
    """What _manifest.json holds."""

    version: int
    id: str
    rows: int
    failed: int
    parts: list[dict[str, Any]]
    joined: bool
    tally: dict[str, Any]
    file: str | None = None
    """The name of the one file that the parts were joined to."""


class _Version(msgspec.Struct):
    version: int


def _decoded(path: str, kind: type[_T]) -> _T:
    """What a file of the job's says. Raises InvalidRequestError where it is damaged, or of a newer release; OSError."""
    data = read(path)
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version > VERSION:
            raise InvalidRequestError(
                f"out: {path} was made by a newer release of gpt (version {version}; this one knows {VERSION})", param="out"
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"out: {path} is damaged ({error})", param="out") from error


def mark_of(marks: Iterable[int]) -> int:
    """The mark of a shard, from those of its rows in their order."""
    made = 0
    for mark in marks:
        made = zlib.crc32(b"%08x" % mark, made)
    return made


class JobDirectory:
    """The directory of a job. Nothing is read or made before `open`."""

    def __init__(self, where: Layout) -> None:
        self.where = where
        self.folder = where.folder
        self.inner = os.path.join(where.folder, "_job")
        self.shards = os.path.join(self.inner, "shards")
        self.job: Job
        self._lock = -1

    # ----------------------------------------------------------------------------------------------------------------
    # Names
    # ----------------------------------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        """A file of the job's own."""
        return os.path.join(self.inner, name)

    def part(self, number: int, *, errors: bool = False) -> str:
        """The part of a shard."""
        return os.path.join(self.folder, f"part-{number:05d}{'.errors' if errors else ''}.{self.where.form}")

    def of_shard(self, number: int, suffix: str) -> str:
        """A file that is kept of a shard while it is not done, or beside its part."""
        return os.path.join(self.shards, f"{number:05d}.{suffix}")

    # ----------------------------------------------------------------------------------------------------------------
    # The job
    # ----------------------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a job here."""
        return os.path.exists(self.path("job.json"))

    def load(self) -> Job:
        """Read what the job is. Raises InvalidRequestError where that is not to be read."""
        try:
            self.job = _decoded(self.path("job.json"), Job)
        except FileNotFoundError:
            raise InvalidRequestError(f"out: there is no job at {self.where.out}", param="out") from None
        return self.job

    def begin(self, job: Job) -> None:
        """Make the job, in place of one that has come to nothing. Raises InvalidRequestError where something else is there."""
        self._refuse_other()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.shards)
        os.makedirs(self.shards)
        for folder in (self.inner, self.folder, os.path.dirname(self.folder)):
            sync_folder(folder)
        self.job = job
        self.save()

    def _refuse_other(self) -> None:
        """Raise InvalidRequestError where the output is something that no job made."""
        where = self.where
        for path in (where.file, where.errors):
            if path is not None and os.path.exists(path):
                raise InvalidRequestError(
                    f"out: {path} is there already, and of no job; name another file, or move it away", param="out"
                )
        if os.path.lexists(where.folder) and not os.path.isdir(where.folder):
            raise InvalidRequestError(f"out: {where.folder} is no folder, and has to be one; name another", param="out")
        others = [] if self.exists() or not os.path.isdir(where.folder) else sorted(set(os.listdir(where.folder)) - {"_job"})
        if others:
            raise InvalidRequestError(
                f"out: the folder {where.folder} is of no job, and has other files in it ({others[0]}, ...); name another",
                param="out",
            )

    def is_empty(self) -> bool:
        """Whether no row of the job has come to anything yet."""
        if any(name.startswith(("part-", "_manifest")) for name in os.listdir(self.folder)):
            return False
        for number in self.open_numbers():
            with open(self.of_shard(number, "journal"), "rb") as file:
                if any(True for _ in read_journal(_blocks(file))):
                    return False
        return True

    def save(self) -> None:
        """Keep what the job is."""
        write(self.path("job.json"), msgspec.json.format(msgspec.json.encode(self.job)) + b"\n")

    def lock(self, *, shared: bool = False) -> None:
        """Keep other runs out, until `close`; with `shared`, only those that want it for themselves. Raises BusyError."""
        self.close()  # a lock of its own keeps out as others do
        if not self.exists():
            self._refuse_other()  # before anything is made there
        os.makedirs(self.inner, exist_ok=True)
        file = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(file, self.path("lock"), shared=shared)
        except BusyError:
            who = os.pread(file, 200, 0).decode(errors="replace").strip()
            os.close(file)
            raise BusyError(
                f"another run is at work in {self.folder} ({who or 'nothing is known of it'}); wait for it, or stop it"
            ) from None
        except OSError as error:
            os.close(file)
            raise GptError(
                f"the file system of {self.folder} has no locks ({error.strerror}), which keep two runs apart; use another disk"
            ) from error
        self._lock = file
        with suppress(OSError):  # for people to read: a full disk does not matter
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def is_locked(self) -> bool:
        """Whether somebody is at work here, where that can be told. To look, it is locked for a moment."""
        with suppress(OSError), open(self.path("lock"), "rb") as file:
            try:
                lock(file.fileno(), file.name)
            except BusyError:
                return True
        return False

    def vanish(self) -> None:
        """Leave no trace of a job that was not begun, but for files of others."""
        for name in ("lock", "input.index", "input.jsonl"):
            remove(self.path(name))
        for folder in (self.shards, self.inner, self.folder):
            with suppress(OSError):  # others have something there, or it was not made
                os.rmdir(folder)

    def close(self) -> None:
        """Let others in."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # ----------------------------------------------------------------------------------------------------------------
    # Shards
    # ----------------------------------------------------------------------------------------------------------------

    def range_of(self, number: int) -> tuple[int, int]:
        """The rows of a shard: the first, and the one after the last.

        Where it is not known where the input ends, there may be fewer.
        """
        size, rows = self.job.shard_rows, self.job.rows
        start = number * size
        return start, start + size if rows is None else min(start + size, rows)

    @property
    def count(self) -> int | None:
        """How many shards there are; None where it is not known where the input ends."""
        return None if self.job.rows is None else -(-self.job.rows // self.job.shard_rows)

    def may_be_done(self) -> range:
        """The shards that may be done: all, or up to the last one that has a part, where the end of the input is not known."""
        if self.count is not None:
            return range(self.count)
        parts = (name.split(".", 1) for name in os.listdir(self.folder) if name.startswith("part-") and "." in name)
        numbers = [int(stem[5:]) for stem, form in parts if form == self.where.form and stem[5:].isdecimal()]
        return range(max(numbers, default=-1) + 1)

    def is_done(self, number: int) -> bool:
        """Whether a shard is done. What is left over of it goes, unless somebody is at it."""
        if not os.path.exists(self.part(number)):
            return False
        path = self.of_shard(number, "journal")
        if not os.path.exists(path):
            return True
        try:
            with closing(Journal(path, range(0))) as journal:
                if journal.reopening is not None:
                    return False
                sync_folder(self.folder)  # whoever renamed the part may have died before that
                self.clear(number)
        except BusyError:
            return False
        return True

    def clear(self, number: int) -> None:
        """Remove what is kept of a shard only while it is not done. Raises OSError."""
        old = self.of_shard(number, "old")
        with suppress(FileNotFoundError):
            os.unlink(self.of_shard(number, "journal"))
        if os.path.exists(old):
            sync_folder(self.shards)  # a journal that reopens the shard must not come back without it
            os.unlink(old)
        for suffix in ("alive", f"alive{LEFT}", "part", "errors"):
            remove(self.of_shard(number, suffix))

    def is_done_now(self, number: int) -> bool:
        """The same, of a shard that somebody may be working on."""
        return os.path.exists(self.part(number)) and not os.path.exists(self.of_shard(number, "journal"))

    def open_numbers(self) -> Iterator[int]:
        """The shards that have a journal."""
        for name in os.listdir(self.shards) if os.path.isdir(self.shards) else ():
            stem, _, suffix = name.partition(".")
            if suffix == "journal" and stem.isdecimal():
                yield int(stem)

    def tally_of(self, number: int) -> Tally:
        """What the rows of a shard took up to now, which somebody may be working on."""
        tally, seen = Tally(), set[int]()
        with suppress(FileNotFoundError), open(self.of_shard(number, "journal"), "rb") as file:
            for entry in read_journal(_blocks(file)):
                if not isinstance(entry, Entry):
                    tally.merge(Tally.from_dict(entry.answered))
                elif entry.row not in seen:
                    seen.add(entry.row)
                    tally.add(entry.facts)
        return tally

    def shard(self, number: int) -> Shard:
        """What is kept of a shard that is done. Raises InvalidRequestError where it is damaged."""
        path = self.of_shard(number, "json")
        try:
            return msgspec.json.decode(read(path), type=Shard)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequestError(
                f"out: {path}, which tells what shard {number} took, cannot be read ({error}); "
                f"remove {self.part(number)} to have its rows asked again",
                param="out",
            ) from error

    def reopen(self, number: int) -> bool:
        """Have the failed rows of a shard that is done asked again; gives whether there are any."""
        shard = self.shard(number)
        if not shard.failures:
            return False
        # What the part holds is kept under another name: the new part can be made again and again until the journal is gone.
        old = self.of_shard(number, "old")
        with suppress(FileNotFoundError):
            os.unlink(old)
        try:
            os.link(self.part(number), old)
        except OSError:  # not every file system has links
            with open(self.part(number), "rb") as part, open(old, "wb") as copy:
                shutil.copyfileobj(part, copy, _BLOCK)
                copy.flush()
                os.fsync(copy.fileno())
        told = Reopening(tuple(shard.failures), shard.rows, shard.mark, shard.answered.to_dict())
        write(self.of_shard(number, "journal"), first_line(told))
        return True

    # ----------------------------------------------------------------------------------------------------------------
    # The end
    # ----------------------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """What _manifest.json says; None while there is none."""
        try:
            return _decoded(os.path.join(self.folder, "_manifest.json"), Manifest)
        except FileNotFoundError:
            return None

    def finish(self) -> Manifest:
        """End the job, all of whose shards are done: write the manifest, and make one file of the parts where that was asked.

        May be called again, after it was broken off anywhere; also of a job that has ended, whose left-over files go then.
        """
        count = self.count
        assert count is not None
        made = self.manifest()
        if made is None or (self.where.file is not None and not made.joined):
            made = self._ended(count)
        if made.joined:
            for number in range(count):
                for errors in (False, True):
                    remove(self.part(number, errors=errors))
        for name in os.listdir(self.shards):
            if not name.endswith(".json"):  # all shards are done
                remove(os.path.join(self.shards, name))
        for folder in (self.folder, self.inner):
            for name in os.listdir(folder):
                if name.endswith(LEFT):
                    remove(os.path.join(folder, name))
        return made

    def _ended(self, count: int) -> Manifest:
        total, parts, where = Tally(), [], self.where
        for number in range(count):
            shard = self.shard(number)
            total.merge(shard.tally)
            name = os.path.basename(self.part(number))
            parts.append({"name": name, "rows": shard.rows, "failed": len(shard.failures), "bytes": shard.bytes})
        for file, errors in ((where.file, False), (where.errors, True)):
            if file is not None:
                self._join([self.part(number, errors=errors) for number in range(count)], file)
        file = None if where.file is None else os.path.basename(where.file)
        made = Manifest(VERSION, self.job.id, total.rows, total.failed, parts, file is not None, total.to_dict(), file)
        write(os.path.join(self.folder, "_manifest.json"), msgspec.json.format(msgspec.json.encode(made)) + b"\n")
        return made

    def _join(self, parts: list[str], file: str) -> None:
        beside = f"{file}.joining"
        try:
            if self.where.form == "parquet":
                from gpt.batch.parquet import join

                join(parts, beside)
            else:
                with open(beside, "wb") as out:
                    for part in parts:
                        with open(part, "rb") as one:
                            shutil.copyfileobj(one, out, _BLOCK)
            _sync(beside)
            commit(beside, file)
        except BaseException:
            remove(beside)  # where the disk is full it is not to be fuller
            raise

    def unjoin(self) -> None:
        """Make parts again of the one file, of a job that is to go on. May be called again, after it was broken off.

        Raises InvalidRequestError where the file is not what was made.
        """
        known = self.manifest()
        where = self.where
        if known is not None and known.joined:
            self._see_joined(known)
            count = self.count
            assert count is not None
            shards = [self.shard(number) for number in range(count)]
            for errors, file in ((False, where.file), (True, where.errors)):
                if file is None:
                    continue
                rows = self.rows_of(file)
                for number, shard in enumerate(shards):
                    failed = len(shard.failures) if where.splits else 0
                    beside = self.of_shard(number, "errors" if errors else "part")
                    self.write_rows(beside, _first(rows, failed if errors else shard.rows - failed, file))
                    commit(beside, self.part(number, errors=errors))
                if next(rows, None) is not None:
                    raise InvalidRequestError(
                        f"out: {file} has more rows than the job made; give it back as it was", param="out"
                    )
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, "_manifest.json"))
            sync_folder(self.folder)

    def _see_joined(self, known: Manifest) -> None:
        """Raise InvalidRequestError where the one file is not there that the parts were joined to."""
        where = self.where
        if where.file is None:
            raise InvalidRequestError(
                f"out: the parts in {where.folder} were joined to {known.file}, beside it; name that file", param="out"
            )
        for path in (where.file, where.errors):
            if path is not None and not os.path.exists(path):
                raise InvalidRequestError(f"out: {path} is gone; move {where.folder} away too, to begin anew", param="out")

    def rows_of(self, path: str) -> Iterator[bytes]:
        """The output rows in a file, each without its line break."""
        if self.where.form == "parquet":
            from gpt.batch.parquet import read_rows

            yield from (msgspec.json.encode(row) for row in read_rows(path))
            return
        with open(path, "rb") as file:
            for one in file:
                yield one.removesuffix(b"\n")

    def write_rows(self, path: str, rows: Iterable[bytes]) -> int:
        """Write output rows to a file, which the disk then keeps. Gives its bytes."""
        if self.where.form == "parquet":
            from gpt.batch.parquet import write_rows

            write_rows(path, rows)
        else:
            with open(path, "wb", buffering=_BLOCK) as out:
                for row in rows:
                    out.write(row)
                    out.write(b"\n")
        return _sync(path)

    def outputs(self) -> Iterator[str]:
        """The files that the output rows are in, of the shards that are done, in order."""
        known = self.manifest()
        if known is not None and known.joined:
            self._see_joined(known)
            yield from (path for path in (self.where.file, self.where.errors) if path is not None)
            return
        for number in self.may_be_done():
            if os.path.exists(self.part(number)):
                yield self.part(number)
                if self.where.splits:
                    yield self.part(number, errors=True)

    def output_rows(self) -> Iterator[bytes]:
        """The output rows of the shards that are done, in order; those in files for failed ones come after."""
        for path in self.outputs():
            yield from self.rows_of(path)


def _first(rows: Iterator[bytes], count: int, file: str) -> Iterator[bytes]:
    for _ in range(count):
        row = next(rows, None)
        if row is None:
            raise InvalidRequestError(f"out: {file} has fewer rows than the job made; give it back as it was", param="out")
        yield row


def _sync(path: str) -> int:
    """Have the disk keep a file. Gives its bytes."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
        return os.fstat(file).st_size
    finally:
        os.close(file)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK), b"")
