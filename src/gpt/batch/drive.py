"""A run of a job: which job it is, what is left of it, who works on that, and how it stands then."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from time import monotonic
from typing import Any, TypedDict
from uuid import uuid4

import msgspec

from gpt.backend import host_of, identity_of
from gpt.batch import control, files
from gpt.batch.asking import client_of
from gpt.batch.directory import VERSION, Job, JobDirectory, Layout, layout, mark_of
from gpt.batch.jobs import Output, Task, read_output
from gpt.batch.journal import BusyError
from gpt.batch.processes import Doing, Executor, Processes
from gpt.batch.progress import Progress, Tally, Window
from gpt.batch.rows import Source, canonical, open_rows
from gpt.batch.spending import Spending
from gpt.batch.work import Limits, Running, Work
from gpt.errors import InvalidRequestError
from gpt.layers.limit import Pace
from gpt.protocol.wire import Seconds

SHARD_ROWS = 1_000
"""Rows of a shard, of a job of up to a million rows."""

_MOST_SHARDS = 1_000
_LARGEST = 50_000

PATIENCE: Seconds = 600.0
"""For another task that is just beginning the job: it may have a large file to read through."""

LOOK: Seconds = 0.5

_SHOWN = 100
"""Characters of a value that the text of an error shows."""


class BatchSettings(TypedDict, total=False):
    """What may be said of a job, as keywords; see `run.run`."""

    client: Any
    model: str | None
    prompt: str | Callable[[Any], Any] | None
    system: str | None
    params: Mapping[str, Any] | None
    into: Any
    reasks: int
    keep: Iterable[str] | None
    output: str
    form: str | None
    format: str | None
    concurrency: int | None
    requests_per_minute: float | None
    tokens_per_minute: float | None
    input_tokens_per_minute: float | None
    output_tokens_per_minute: float | None
    max_cost: Decimal | float | str | None
    max_tokens: int | None
    deadline: Seconds | None
    limit: int | None
    attempts: int
    give_up: Seconds
    retry_failed: bool
    fork: bool
    dedupe: bool
    executor: Executor | str | None
    workers: int | None
    shard: tuple[int, int] | None
    shard_rows: int | None
    progress: Callable[[Progress], None] | None


class Report(msgspec.Struct, frozen=True):
    """How a job stands, at the end of a run of it."""

    out: str
    """The file that was made, or the folder."""
    rows: int | None
    """Of the input; None where it was not read to its end."""
    tally: Tally
    """What all its rows took, in this run and before."""
    elapsed: Seconds
    """Of this run."""
    rows_here: int
    """Rows that were asked in this run, and answered or failed."""
    stopped: str | None
    """Why it stopped before its end: "interrupted", "deadline", "limit", "max_cost", "max_tokens"; "elsewhere" where shards of
    other tasks are not done; None: all rows are done."""
    last: Progress
    """The last moment."""

    @property
    def done(self) -> bool:
        """Whether each row has been answered, or failed."""
        return self.stopped is None

    @property
    def failed(self) -> int:
        """Rows that failed; `retry_failed` asks them again."""
        return self.tally.failed

    def answers(self) -> Iterator[Output]:
        """The output rows, in the order of the input: all of them, or those of the shards that are done."""
        return read(self.out)


def read(out: str | os.PathLike[str]) -> Iterator[Output]:
    """The output rows at `out`, a job's output, in the order of its input: of a job that is not done, those of the shards that
    are. Of the service's format the failed rows come from their own file. Raises InvalidRequestError where there is none.
    """
    path = os.fspath(out)
    where = layout(path)
    if os.path.isdir(where.folder) and JobDirectory(where).exists():
        return map(read_output, _directory(where).output_rows())
    if where.file is not None and os.path.isfile(where.file):
        return map(read_output, JobDirectory(where).rows_of(where.file))
    raise InvalidRequestError(f"out: there is no output of a job at {path}", param="out")


def _directory(where: Layout) -> JobDirectory:
    """The directory of a job that is there, by what it says of itself."""
    job = JobDirectory(where).load()
    directory = JobDirectory(layout(where.out, form=job.form, splits=job.splits))
    directory.load()
    return directory


def status(out: str | os.PathLike[str]) -> Report:
    """How the job at `out` stands: what is done of it, and what workers that are at it tell. Raises InvalidRequestError."""
    directory = _directory(layout(out))
    tally, shards = Tally(), 0
    doing: list[control.Alive] = []
    under = set(directory.open_numbers())
    manifest = directory.manifest()
    for number in sorted(under | set(directory.may_be_done())):
        if directory.is_done_now(number) or manifest is not None:
            shards += 1
            tally.merge(directory.shard(number).tally)
        elif number in under:
            found = control.told(directory, [number])
            doing += [alive for alive, _ in found]
            tally.merge(directory.tally_of(number))
    moment = Progress.of(
        tally,
        total=directory.job.rows,
        earlier=tally.rows,
        in_flight=sum(alive.under_way for alive in doing),
        waiting=sum(alive.waiting for alive in doing),
        shards_done=shards,
        shards=directory.count or 0,
        pause=next((alive.pause for alive in doing if alive.pause), None),
        stopped=None if manifest is not None else "at work" if directory.is_locked() else "not done",
    )
    return Report(directory.where.out, directory.job.rows, tally, 0.0, 0, moment.stopped, moment)


class Drive:
    """A run of a job."""

    def __init__(self, rows: Any, out: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name not in BatchSettings.__optional_keys__:
                raise _unknown(name)
        _check(settings)
        of = settings.get
        self._rows = rows
        self._given = settings
        keep = of("keep")
        self._task = Task(
            model=of("model"),
            prompt=of("prompt"),
            system=of("system"),
            params=of("params") or {},
            into=of("into"),
            reasks=of("reasks", 0),
            keep=None if keep is None else (keep,) if isinstance(keep, str) else tuple(keep),
            output=of("output", "rows"),
        )
        self._where = layout(out, form=of("form"), splits=self._task.output == "batch")
        self._limits = Limits(**{name: of(name) for name in Limits.__struct_fields__})
        Pace(**self._limits.given())  # which says what is wrong in them
        self._spending = Spending.of(of("max_cost"), of("max_tokens"))
        self._executor = _executor(of("executor"), of("workers"))
        self._shard = _part(of("shard"))
        if self._shard is not None and self._executor is not None:
            raise InvalidRequestError("shard: a task that works on its own part needs no executor", param="shard")
        if self._shard is not None and of("dedupe"):
            raise InvalidRequestError("dedupe: tasks on several machines have no index in common", param="dedupe")
        self._tell: Callable[[Progress], None] = of("progress") or (lambda _: None)
        self._directory = JobDirectory(self._where)
        self._running: Running | None = None
        self._orders = control.Orders()
        self._window = Window()
        self._before = Tally()
        self._finished: set[int] = set()
        self._begun: dict[int, Tally] = {}
        """What the rows took that are in journals, by shard."""
        self._began = monotonic()
        self._tally = Tally()
        self._stopped: str | None = None
        self._last = Progress()
        self._mistake: Exception | None = None

    # ----------------------------------------------------------------------------------------------------------------
    # Stopping
    # ----------------------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Stop when what is under way has ended; the second time at once."""
        self.stop("interrupted", "finish" if self._orders.stop is None else "now")

    def stop(self, reason: str, how: str = "finish") -> None:
        """Stop, for a reason. May be called from a signal handler of the event loop."""
        if self._orders.stop != "now":
            self._orders = msgspec.structs.replace(self._orders, stop=how, reason=self._orders.reason or reason)
        if self._running is not None and hasattr(self._running, "worker"):
            self._running.follow(self._orders)

    # ----------------------------------------------------------------------------------------------------------------
    # The run
    # ----------------------------------------------------------------------------------------------------------------

    async def run(self) -> Report:
        try:
            source = await asyncio.to_thread(self._prepare)
            try:
                await asyncio.to_thread(self._begin)
                if self._directory.manifest() is None and self._orders.stop is None:
                    await (self._here(source) if self._executor is None else self._elsewhere(source))
            finally:
                source.close()
            if self._mistake is not None:
                raise self._mistake
            return await asyncio.to_thread(self._end)
        finally:
            self._directory.close()
            if self._executor is not None:
                await asyncio.to_thread(self._executor.close)

    def _prepare(self) -> Source:
        """Settle which job it is, and have it: begun, or gone on with. Gives its rows. Blocks."""
        if self._given.get("fork"):
            return self._forked()
        self._lock()
        return self._opened()

    def _lock(self) -> None:
        """Keep others out; tasks with a part of their own share the directory, once the job is there."""
        directory = self._directory
        # A run of its own tries twice, because who looks whether the directory is locked has the lock for an instant.
        end = monotonic() + (LOOK / 2 if self._shard is None else PATIENCE)
        while True:
            try:
                directory.lock(shared=self._shard is not None and directory.exists())
                return
            except BusyError:
                if monotonic() >= end or self._orders.stop is not None:
                    raise
                time.sleep(LOOK)  # another task may just be beginning the job

    def _forked(self) -> Source:
        """The job under the first name that is free, or that is of this very job."""
        stem, suffix = os.path.splitext(self._where.out)
        if self._where.file is None:
            stem, suffix = self._where.out, ""
        for number in count(1):
            name = self._where.out if number == 1 else f"{stem}-{number}{suffix}"
            self._where = layout(name, form=self._given.get("form"), splits=self._where.splits)
            self._directory.close()
            self._directory = JobDirectory(self._where)
            self._lock()
            try:
                return self._opened()
            except DifferentError:
                continue
        raise AssertionError

    def _opened(self) -> Source:
        """The rows of the job, which is begun where there is none. Raises InvalidRequestError: it is another one."""
        directory = self._directory
        os.makedirs(directory.inner, exist_ok=True)
        source = None
        try:
            source = open_rows(self._rows, format=self._given.get("format"), index=directory.path("input.index"))
            if self._executor is not None and source.path is None:
                source = self._spooled(source)
            self._settle(source)
        except BaseException:
            if source is not None:
                source.close()
            if self._shard is None and not directory.exists():
                directory.vanish()
            raise
        return source

    def _spooled(self, source: Source) -> Source:
        """Rows that are in memory, written to a file of the job's, from which other processes read them."""
        path = self._directory.path("input.jsonl")
        beside = f"{path}.writing"
        with open(beside, "wb") as file:
            for row in source.read(0):
                if row.problem is not None:
                    raise InvalidRequestError(f"rows: row {row.number}: {row.problem}", param="rows")
                file.write(canonical(row.value) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        files.commit(beside, path)
        source.close()
        self._rows = path
        return open_rows(path, index=self._directory.path("input.index"))

    def _settle(self, source: Source) -> None:
        """See that the job that is there is this one, or begin it."""
        directory, where = self._directory, self._where
        fingerprint = self._fingerprint(source)
        if directory.exists():
            job = directory.load()
            differences = list(_differences(job.fingerprint, fingerprint))
            wanted = self._given.get("shard_rows")
            if wanted is not None and wanted != job.shard_rows:
                differences.append(f"shard_rows: was {job.shard_rows}, is now {wanted}")
            if not differences:
                if self._shard is not None:
                    self._lock()  # another task may have begun it while this one waited for it: from now on it is shared
                return
            if self._shard is not None or not directory.is_empty():
                raise DifferentError(where.out, differences)
        directory.begin(
            Job(
                VERSION,
                uuid4().hex,
                datetime.now(UTC).isoformat(timespec="seconds"),
                fingerprint,
                self._shard_rows(source.total),
                source.total,
                where.form,
                where.splits,
                source.name,
            )
        )
        if self._shard is not None:
            self._lock()  # another task may have it for itself for a moment

    def _shard_rows(self, rows: int | None) -> int:
        """How many rows a shard has: a thousand, more of very many, fewer where workers would have too few shards."""
        wanted = self._given.get("shard_rows")
        if wanted is not None:
            if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
                raise InvalidRequestError(f"shard_rows: expected an int from 1, got {wanted!r}", param="shard_rows")
            return wanted
        if rows is None:
            return SHARD_ROWS
        size = min(max(SHARD_ROWS, rows // _MOST_SHARDS), _LARGEST)
        workers = self._executor.workers if self._executor is not None else self._shard[1] if self._shard is not None else 0
        return min(size, -(-rows // (4 * workers)) or 1) if workers else size

    def _fingerprint(self, source: Source) -> dict[str, Any]:
        """What changes answers, or the form in which they are written. Who answers is not in it but for the model."""
        client = client_of(self._given.get("client"), self._task.model)
        model = client._core.model
        made = {
            "task": self._task.facts(),
            "model": model if isinstance(model, str) else None,
            "form": self._where.form,
            "rows": source.identity or {"rows": source.total},
        }
        if host_of(client.backend) == "local:":
            made["weights"] = identity_of(client.backend)
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
        return plain

    # ----------------------------------------------------------------------------------------------------------------
    # Work
    # ----------------------------------------------------------------------------------------------------------------

    def _work(self, source: Source) -> Work:
        of = self._given.get
        given: dict[str, Any] = {
            name: of(name) for name in ("concurrency", "attempts", "give_up", "dedupe") if of(name) is not None
        }
        return Work(
            where=self._where,
            task=self._task,
            client=of("client"),
            rows=source.path,
            format=of("format"),
            limits=self._limits,
            **given,
        )

    def _begin(self) -> None:
        """Make ready what an earlier run left. Blocks."""
        directory = self._directory
        manifest = directory.manifest()
        retry = bool(self._given.get("retry_failed"))
        if manifest is not None and not (retry and manifest.failed):
            return
        if manifest is not None:
            directory.unjoin()
        reopened = False
        for number in directory.may_be_done():
            if directory.is_done(number) and self._mine(number):
                if retry and directory.reopen(number):
                    reopened = True
                    continue
                self._finished.add(number)
                self._before.merge(directory.shard(number).tally)
        if reopened and self._shard is None:
            # A gateway that knows the keys of the requests that failed could answer as it did then.
            directory.job.id = uuid4().hex
            directory.save()
        for number in directory.open_numbers():
            if self._mine(number):
                self._begun[number] = directory.tally_of(number)
                self._before.merge(self._begun[number])
        self._tally.merge(self._before)

    def _mine(self, number: int) -> bool:
        return self._shard is None or number % self._shard[1] == self._shard[0]

    async def _here(self, source: Source) -> None:
        """Work in this process."""
        directory, spending, of = self._directory, self._spending, self._given.get
        share = 1.0
        if self._shard is not None:
            share = 1 / self._shard[1]
            spending = spending.share(share)
        running = self._running = Running(self._work(source))
        numbers = count()

        async def next_shard() -> int | None:
            for number in numbers:
                if directory.count is not None and number >= directory.count:
                    return None
                if number not in self._finished:
                    if self._mine(number):
                        return number
                elif source.path is None:
                    await asyncio.to_thread(self._verify, source, number)
            return None

        watching = asyncio.create_task(self._watch())
        try:
            worker = await running.run(
                next_shard,
                source=source,
                spending=spending,
                before=self._before,
                seconds=of("deadline"),
                limit=of("limit"),
                share=share,
                started=lambda: self.stop("") if self._orders.stop else None,
            )
            directory.job = running.directory.job
            self._stopped = worker.reason
        finally:
            watching.cancel()
            self._look_here()

    def _verify(self, source: Source, number: int) -> None:
        """See that the rows of a shard that is done are those that were answered. Blocks."""
        shard = self._directory.shard(number)
        start = number * self._directory.job.shard_rows
        marks = [row.mark for row in source.read(start, start + shard.rows)]
        if len(marks) != shard.rows or mark_of(marks) != shard.mark:
            raise InvalidRequestError(
                f"rows: rows {start} to {start + shard.rows - 1} are not what they were when they were answered; a job goes on "
                "with the same rows, in the same order. Name another output, or fork the job",
                param="rows",
            )

    async def _watch(self) -> None:
        while True:
            self._look_here()
            await asyncio.sleep(LOOK)

    def _look_here(self) -> None:
        """Tell how the work in this process stands."""
        running = self._running
        if running is not None and hasattr(running, "worker"):
            worker = running.worker
            self._told(
                worker.tally, running.under_way, worker.waiting, worker.pause(), len(self._finished) + worker.shards_done
            )

    def _told(self, tally: Tally, under_way: int, waiting: int, pause: str | None, shards: int) -> None:
        """Tell the caller how it stands."""
        now = monotonic()
        self._window.sample(now, tally.rows, tally.tokens)
        job = self._directory.job
        self._tally = tally
        self._last = Progress.of(
            tally,
            self._window.rates(),
            total=job.rows,
            earlier=self._before.rows,
            in_flight=under_way,
            waiting=waiting,
            elapsed=now - self._began,
            shards_done=shards,
            shards=self._directory.count or 0,
            pause=pause,
            stopping=self._orders.reason or None,
        )
        try:
            self._tell(self._last)
        except Exception as error:  # noqa: BLE001 - the caller's own function; it comes out of `run` when the job is at rest
            self._mistake = self._mistake or error
            self.stop("error")

    async def _elsewhere(self, source: Source) -> None:
        """Have other processes work."""
        executor, directory = self._executor, self._directory
        assert executor is not None
        assert directory.count is not None
        shards = [number for number in range(directory.count) if number not in self._finished]
        if self._given.get("limit") is not None:
            raise InvalidRequestError("limit: the first rows are tried in this process; leave the executor out", param="limit")
        seconds = self._given.get("deadline")
        deadline = None if seconds is None else monotonic() + seconds
        control.order(directory, self._orders)
        ordered = self._orders
        finished, shards_done, holds = Tally(), len(self._finished), control.Holds()
        for number in self._finished:
            finished.merge(directory.shard(number).tally)

        def look(at: Doing) -> control.Orders:
            nonlocal ordered, shards_done
            if at.failed:
                self.stop("error")
            for number in at.ended:
                if directory.is_done_now(number):
                    shards_done += 1
                    self._begun.pop(number, None)
                    finished.merge(directory.shard(number).tally)
            doing = control.told(directory, at.shards)
            self._begun.update((alive.shard, tally) for alive, tally in doing)
            tally = Tally()
            for one in (finished, *self._begun.values()):
                tally.merge(one)
            if deadline is not None and monotonic() >= deadline:
                self.stop("deadline")
            under_way = sum(alive.under_way for alive, _ in doing)
            reached = self._spending.reached(tally, under_way)
            if reached is not None:
                self.stop(reached)
            pauses = [alive.pause for alive, _ in doing if alive.pause]
            held = max((alive.held for alive, _ in doing), default=0.0)
            if holds.told(monotonic(), held):
                self._orders = msgspec.structs.replace(self._orders, hold=held, holds=self._orders.holds + 1)
            orders = msgspec.structs.replace(self._orders, share=1 / max(1, at.workers))
            if orders != ordered:
                with suppress(OSError):  # a full disk: it is tried again
                    control.order(directory, orders)
                    ordered = orders
            self._told(tally, under_way, sum(alive.waiting for alive, _ in doing), next(iter(pauses), None), shards_done)
            return orders

        working = asyncio.create_task(asyncio.to_thread(executor.run, self._work(source), shards, look))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self.stop("interrupted", "now")
            await asyncio.gather(working, return_exceptions=True)  # workers are not left behind
            raise
        self._stopped = self._orders.reason or None

    # ----------------------------------------------------------------------------------------------------------------
    # The end
    # ----------------------------------------------------------------------------------------------------------------

    def _end(self) -> Report:
        """Finish the job where all is done, and tell how it stands. Blocks."""
        directory = self._directory
        if self._shard is not None:
            # The last task that leaves finishes the job: whoever gets the directory for itself.
            directory.close()
            try:
                directory.lock()
            except BusyError:
                return self._report("elsewhere")
        whole = directory.count is not None and all(directory.is_done(number) for number in range(directory.count))
        manifest = directory.manifest()
        if manifest is not None or whole:
            manifest = directory.finish()  # also where it has ended, and was broken off before all was put away
        if manifest is not None:
            return self._report(None, Tally.from_dict(manifest.tally))
        return self._report(self._stopped or ("elsewhere" if self._shard is not None else "interrupted"))

    def _report(self, stopped: str | None, tally: Tally | None = None) -> Report:
        tally = tally or self._tally
        elapsed, rows = monotonic() - self._began, self._directory.job.rows
        last = Progress.of(
            tally,
            self._window.rates(),
            total=rows,
            earlier=self._before.rows if self._running is not None or self._executor is not None else tally.rows,
            elapsed=elapsed,
            shards_done=self._last.shards_done if stopped is not None else self._directory.count or 0,
            shards=self._directory.count or 0,
            stopped=stopped,
        )
        self._tell(last)
        return Report(self._where.out, rows, tally, elapsed, max(0, last.done - last.earlier), stopped, last)


class DifferentError(InvalidRequestError):
    """The job that is there is another one. `differences` are in what, a line each."""

    def __init__(self, out: str, differences: list[str]) -> None:
        told = "; ".join(differences)
        super().__init__(
            f"out: the job at {out} is another one: {told}. Its answers would not go together with those of this one: undo the "
            "change, name another output, or fork the job (fork=True, --fork)",
            param="out",
        )
        self.differences = differences


def _differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two fingerprints differ, in words."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*was, *now]):
            yield from _differences(was.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif was != now and not (path.startswith("rows") and (was is None or now is None)):
        # Rows from a file, which are known by a digest, may go on as rows in memory, which are looked at one by one.
        yield f"{path.removeprefix('task.')} was {_short(was)}, is now {_short(now)}"


def _short(value: Any) -> str:
    told = msgspec.json.encode(value).decode()
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


def _unknown(name: str) -> TypeError:
    import difflib

    known = sorted(BatchSettings.__optional_keys__)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}; parameters of calls go in params={{...}}"
    return TypeError(f"unknown setting {name!r}; {hint}")


_FROM = {"concurrency": 1, "attempts": 1, "limit": 0}


def _check(settings: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError for a number that cannot be meant."""
    for name, least in _FROM.items():
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InvalidRequestError(f"{name}: expected an int from {least}, got {value!r}", param=name)
    for name in ("give_up", "deadline"):
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf):
            raise InvalidRequestError(f"{name}: expected seconds from 0, got {value!r}", param=name)


def _executor(given: Any, workers: int | None) -> Executor | None:
    if given is None:
        if workers is not None:
            raise InvalidRequestError('workers: needs an executor, as in executor="processes"', param="workers")
        return None
    if given == "processes":
        return Processes((os.cpu_count() or 1) if workers is None else workers)
    if given == "ray":
        from gpt.batch.cluster import Ray

        return Ray(workers)
    if all(callable(getattr(given, name, None)) for name in ("run", "close")):
        if workers is not None:
            raise InvalidRequestError("workers: the executor has its own", param="workers")
        made: Executor = given
        return made
    raise InvalidRequestError(f'executor: expected None, "processes", "ray", or an Executor, got {given!r}', param="executor")


def _part(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    try:
        number, of = given
    except (TypeError, ValueError):
        number = of = None
    if not (isinstance(number, int) and isinstance(of, int) and 0 <= number < of):
        raise InvalidRequestError(
            f"shard: expected a task's number from 0 and how many there are, as in (3, 16), got {given!r}", param="shard"
        )
    return number, of
