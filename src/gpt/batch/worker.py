"""Shards worked on in this process, on asyncio: rows asked many at a time, and put down as they are answered.

One task reads rows ahead, in a thread, as many as are asked at a time; one hands them out, each to a task of its own; one has
the journals synced. A shard begins when there is room, not when the one before is done: a row that takes long holds up its
shard's part, and nothing else. What is decided is in `patience.py` and `spending.py`.

Asked to stop, it lets what is under way end. Where an answer cannot be kept, because the disk is full, it stops too, holds what
came, and tries once more at the end.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Literal, NamedTuple, Protocol

from gpt.batch.directory import JobDirectory
from gpt.batch.journal import EVERY, BusyError
from gpt.batch.patience import SAME, Patience
from gpt.batch.progress import Facts, Tally
from gpt.batch.rows import Row, Source
from gpt.batch.shard import OpenShard
from gpt.batch.spending import Spending
from gpt.errors import GptError, InvalidRequestError, ResponseError
from gpt.protocol.wire import Seconds
from gpt.remote import drive

AHEAD = 256
"""Rows that are read at a time."""

MOMENT: Seconds = 0.05

OPEN = 8
"""Shards that are worked on at a time, at most."""

SYNC: Seconds = 1.0
"""Between two times that journals are synced, at most."""

WAIT: Seconds = 60.0
"""For a shard that somebody else is just leaving."""

LOOK: Seconds = 0.5

Stop = Literal["finish", "now"]


class Asker(Protocol):
    """Who answers rows."""

    async def ask(self, row: Row) -> tuple[Facts, bytes]:
        """What a row took, and its output row. Raises GptError."""
        ...

    def failed(self, row: Row, error: GptError) -> tuple[Facts, bytes]:
        """The same of a row that failed."""
        ...

    def leave(self) -> None:
        """Cancel the tasks that ask rows which have not been sent, but wait for their turn."""
        ...


class _Item(NamedTuple):
    shard: _Working
    row: Row


class _Working:
    """A shard that is open here."""

    def __init__(self, shard: OpenShard) -> None:
        self.shard = shard
        self.left = 0
        """Rows that have been read and have not come to anything yet."""
        self.fed = False
        """Whether all its rows have been read."""


class Worker:
    """Works on the shards that it is given, until there are none, or it is to stop.

    `width` rows are asked at a time; rows from `limit` on are left out. `before` is what the job took before, which counts with
    `spending`. `reason` tells why it stopped: "interrupted", "deadline", "limit", "max_cost", "max_tokens"; None: it did not.
    """

    def __init__(
        self,
        directory: JobDirectory,
        source: Source,
        asker: Asker,
        *,
        width: int,
        patience: Patience,
        spending: Spending | None = None,
        before: Tally | None = None,
        deadline: Seconds | None = None,
        limit: int | None = None,
        clock: Callable[[], Seconds] = monotonic,
    ) -> None:
        self._directory = directory
        self._source = source
        self._asker = asker
        self._width = width
        self._patience = patience
        self._spending = spending or Spending()
        self._deadline = deadline
        self._limit = limit
        self._clock = clock
        self.tally = Tally()
        """What the job took, by all that was done before and here."""
        if before is not None:
            self.tally.merge(before)
        self.rows_here = 0
        """Rows that came to something in this run."""
        self.shards_done = 0
        self.reason: str | None = None
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        self._ready: deque[_Item] = deque()
        self._later: list[tuple[Seconds, int, _Item]] = []
        self._order = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._commits: set[asyncio.Task[None]] = set()
        self._open: dict[int, _Working] = {}
        self._held: list[tuple[_Item, GptError]] = []
        self._unsaved: list[tuple[_Item, Facts, bytes]] = []
        self._fed = False
        self._reading: asyncio.Future[tuple[int, bool]] | None = None

    # ----------------------------------------------------------------------------------------------------------------
    # What can be seen
    # ----------------------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Rows that are being asked."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """Rows that were not answered, and will be asked again."""
        return len(self._later)

    @property
    def open_shards(self) -> dict[int, Tally]:
        """What the rows of each shard that is worked on took up to now, by its number."""
        return {number: working.shard.tally for number, working in self._open.items()}

    def pause(self) -> str | None:
        """Why nothing goes out, if nothing does."""
        error = self._patience.last
        if error is None:
            return None
        wait = self._patience.wait(self._clock())
        return f"{error.message.splitlines()[0][:100]}; next try in {wait:.0f} s"

    def stop(self, reason: str, how: Stop = "finish") -> None:
        """Have it stop: when what is under way has ended, or "now". May be called from its own thread alone."""
        if self.reason is None:
            self.reason = reason
        if self._stop != "now":
            self._stop = how
        if how == "now":
            for task in self._tasks:
                task.cancel()
        else:
            self._asker.leave()  # under a limit of few requests a minute they would hold up the end for long
        self._tell()

    def _fail(self, error: BaseException) -> None:
        """Stop because of an error, which `run` raises when what is under way has ended."""
        if self._error is None:
            self._error = error
        self.stop("error")

    def _tell(self) -> None:
        if hasattr(self, "_news"):
            self._news.set()
            self._room.set()

    # ----------------------------------------------------------------------------------------------------------------
    # The run
    # ----------------------------------------------------------------------------------------------------------------

    async def run(self, next_shard: Callable[[], Awaitable[int | None]]) -> None:
        """Work on the shards that `next_shard` gives, until it gives None. Raises what stopped it, GptError mostly."""
        self._news, self._room, self._many = asyncio.Event(), asyncio.Event(), asyncio.Event()
        if self._limit is not None and self.reason is None and self._limit <= 0:
            self.stop("limit")
        feeding = asyncio.create_task(self._feed(next_shard))
        syncing = asyncio.create_task(self._sync())
        try:
            await self._hand_out()
        except asyncio.CancelledError:
            self.stop("interrupted", "now")
            raise
        finally:
            await self._end(feeding, syncing)
        if self._error is not None:
            raise self._error

    async def _end(self, feeding: asyncio.Task[None], syncing: asyncio.Task[None]) -> None:
        """Put everything away, whatever happened."""
        for task in (feeding, syncing):
            task.cancel()
        await asyncio.gather(feeding, syncing, *self._tasks, return_exceptions=True)
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._error is None:
            self._let_go()
        await asyncio.gather(*self._commits, return_exceptions=True)
        unsaved, self._unsaved = self._unsaved, []
        lost = 0
        for item, facts, value in unsaved:
            try:
                item.shard.shard.record(item.row, facts, value)
            except OSError:
                lost += 1
        if lost and self._error is not None:
            self._error.add_note(f"{lost} answers that had come could not be kept, and are asked again")
        for working in self._open.values():
            with suppress(OSError):
                await asyncio.to_thread(working.shard.journal.sync)
            working.shard.close()
        self._source.close()

    # ----------------------------------------------------------------------------------------------------------------
    # Reading
    # ----------------------------------------------------------------------------------------------------------------

    async def _feed(self, next_shard: Callable[[], Awaitable[int | None]]) -> None:
        """Read rows ahead, shard by shard."""
        try:
            while self._stop is None:
                await self._until(lambda: len(self._open) < OPEN and len(self._ready) < self._width)
                number = await next_shard()
                if number is None or not await self._feed_shard(number):
                    break
        except Exception as error:  # noqa: BLE001 - also what a caller's own rows raise; it comes out of `run`
            if self._stop is None:  # else nobody wants the rows any more
                self._fail(error)
        finally:
            self._fed = True
            self._tell()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while self._stop is None and not holds():
            self._room.clear()
            await self._room.wait()

    async def _feed_shard(self, number: int) -> bool:
        """Read the rows of a shard. Gives whether others may come after it."""
        start, stop = self._directory.range_of(number)
        if self._limit is not None and start >= self._limit:
            self._stopped_by_limit()
            return False
        working = _Working(await self._opened(number))
        self._open[number] = working
        wanted = stop if self._limit is None or stop is None else min(stop, self._limit)
        rows = self._source.read(start, wanted)
        seen = 0
        while self._stop is None:
            taken: deque[Row] = deque()
            # A thread cannot be broken off, and `_end` waits for it.
            self._reading = reading = asyncio.ensure_future(asyncio.to_thread(_read, rows, working.shard, taken))
            while not reading.done():
                # The first rows of a source that takes its time are asked while the next are waited for.
                await asyncio.wait({reading}, timeout=MOMENT)
                self._take(working, taken)
            self._take(working, taken)
            read, ended = reading.result()
            seen += read
            if ended:
                break
            await self._until(lambda: len(self._ready) < self._width)
        if self._stop is not None:
            return False
        last = self._counted(number, start, wanted, seen)
        if wanted != stop and wanted is not None and seen == wanted - start:
            # The rows after them are left for another time, and the shard with them.
            self._stopped_by_limit()
            return False
        working.fed = True
        if not seen:
            self._forget(number, working)
        elif not working.left:
            self._commit(working)
        return not last

    def _take(self, working: _Working, taken: deque[Row]) -> None:
        """Have rows asked that have been read."""
        while taken:
            working.left += 1
            self._ready.append(_Item(working, taken.popleft()))
        self._news.set()

    def _stopped_by_limit(self) -> None:
        if self.reason is None:
            self.reason = "limit"  # not a stop: all that was read is still asked

    def _counted(self, number: int, start: int, stop: int | None, seen: int) -> bool:
        """See how many rows a shard had; gives whether it is the last. Raises InvalidRequestError where they are too few."""
        job = self._directory.job
        if job.rows is None:
            assert stop is not None
            if start + seen == stop:
                return False
            job.rows = start + seen
            self._directory.save()
            return True
        if stop is not None and start + seen < stop:
            raise InvalidRequestError(
                f"rows: {self._source.name} has {start + seen:,} rows now, and had {job.rows:,} when the job began",
                param="rows",
            )
        return number + 1 == self._directory.count

    async def _opened(self, number: int) -> OpenShard:
        """The shard, when nobody else has it. Raises BusyError where somebody keeps it."""
        end = self._clock() + WAIT
        while True:
            try:
                return await asyncio.to_thread(OpenShard, self._directory, number)
            except BusyError:
                if self._clock() >= end:
                    raise
                await asyncio.sleep(LOOK)

    def _forget(self, number: int, working: _Working) -> None:
        """Leave no trace of a shard that has no rows."""
        del self._open[number]
        working.shard.discard()

    # ----------------------------------------------------------------------------------------------------------------
    # Asking
    # ----------------------------------------------------------------------------------------------------------------

    async def _hand_out(self) -> None:
        """Start what may start, until all is done."""
        loop = asyncio.get_running_loop()
        while not self._over():
            self._news.clear()
            wait = self._start()
            if wait == 0.0:
                continue
            timer = None if wait is None else loop.call_later(wait, self._news.set)
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _over(self) -> bool:
        if self._stop is not None:
            return not self._tasks
        if not self._fed or self._ready or self._later or self._tasks:
            return False
        self._let_go()  # no others come that would tell more
        return not self._commits

    def _start(self) -> Seconds | None:
        """Start the rows that may start. Gives the seconds after which others may, None where that is not a matter of time."""
        waits: list[Seconds] = []
        while self._stop is None and len(self._tasks) < (1 if self._patience.away else self._width):
            now = self._clock()
            if self._deadline is not None:
                if now >= self._deadline:
                    self.stop("deadline")
                    return None
                waits = [self._deadline - now]
            away = self._patience.wait(now) if drive.waits else 0.0
            if away:
                return min([away, *waits])
            if self._later:
                waits.append(max(0.0, self._later[0][0] - now))
            due = bool(self._later) and self._later[0][0] <= now
            if not due and not self._ready:
                break
            try:
                allowed = self._spending.allows(self.tally, len(self._tasks))
            except GptError as error:
                self._fail(error)
                return None
            if isinstance(allowed, str):
                self.stop(allowed)
                return None
            if not allowed:
                return None
            # While the service is away, rows go first that had not been asked: what is tried then is the service.
            again = due and not (self._patience.away and self._ready)
            item = heapq.heappop(self._later)[2] if again else self._ready.popleft()
            task = asyncio.create_task(self._ask(item))
            self._tasks.add(task)
            task.add_done_callback(self._asked)
            if len(self._ready) < self._width:
                self._room.set()
        return min(waits, default=None)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())  # type: ignore[arg-type]
        self._news.set()

    async def _ask(self, item: _Item) -> None:
        """Ask one row, and deal with what comes of it."""
        row = item.row
        try:
            facts, value = await self._asker.ask(row)
        except GptError as error:
            self._failed(item, error)
            return
        self._patience.answered(row.number)
        self._record(item, facts, value)
        self._let_go()

    def _failed(self, item: _Item, error: GptError) -> None:
        now = self._clock()
        match self._patience.failed(now, item.row.number, error):
            case "stop":
                self._fail(error)
            case "again":
                again = now + (self._patience.later(item.row.number) if drive.waits else 0.0)
                heapq.heappush(self._later, (again, next(self._order), item))
            case _:
                if self.tally.rows or self._patience.answers:
                    self._record(item, *self._asker.failed(item.row, error))
                    return
                self._held.append((item, error))
                same = {_words(other) for _, other in self._held}
                if len(self._held) >= SAME:
                    if len(same) == 1:
                        error.add_note(f"the first {SAME} rows all failed so; none of them was kept")
                        self._held.clear()
                        self._fail(error)
                    else:
                        self._let_go()

    def _let_go(self) -> None:
        """Put down the first rows that failed."""
        held, self._held = self._held, []
        for item, error in held:
            self._record(item, *self._asker.failed(item.row, error))

    def _record(self, item: _Item, facts: Facts, value: bytes) -> None:
        """Put down what a row came to."""
        working = item.shard
        try:
            working.shard.record(item.row, facts, value)
        except OSError as error:
            self._unsaved.append((item, facts, value))
            self._fail(_disk(error, "what came could not be kept"))
            return
        self.tally.add(facts)
        self.rows_here += 1
        working.left -= 1
        if working.fed and not working.left:
            self._commit(working)
        elif working.shard.journal.unsynced >= EVERY:
            self._many.set()

    # ----------------------------------------------------------------------------------------------------------------
    # The disk
    # ----------------------------------------------------------------------------------------------------------------

    def _commit(self, working: _Working) -> None:
        task = asyncio.create_task(self._committed(working))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        task.add_done_callback(lambda _: self._tell())

    async def _committed(self, working: _Working) -> None:
        """Make the part of a shard, all of whose rows came to something."""
        shard = working.shard
        try:
            await asyncio.to_thread(shard.commit)
        except OSError as error:
            self._fail(_disk(error, f"the part of shard {shard.number} could not be written; its rows are in its journal"))
        except GptError as error:
            self._fail(error)
        else:
            del self._open[shard.number]
            self.shards_done += 1

    async def _sync(self) -> None:
        """Have the disk keep what was put down, a second after it was, or when there is much of it."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC):
                    await self._many.wait()
            self._many.clear()
            for working in list(self._open.values()):
                if working.shard.journal.unsynced:
                    try:
                        await asyncio.to_thread(working.shard.journal.sync)
                    except OSError as error:
                        self._fail(_disk(error, "what came may not survive the machine"))


def _read(rows: Iterator[Row], shard: OpenShard, wanted: deque[Row]) -> tuple[int, bool]:
    """Read the next rows, and put those that are to be asked where they are taken from. How many, and whether they are all."""
    read = 0
    for row in rows:
        read += 1
        if shard.wants(row):
            wanted.append(row)
        if read == AHEAD:
            return read, False
    return read, True


def _words(error: GptError) -> str:
    """What an error says; of an answered one what the service said, for the message has times in it."""
    return (isinstance(error, ResponseError) and error.body) or error.message


def _disk(error: OSError, what: str) -> GptError:
    made = GptError(f"{error.filename or 'the disk'}: {error.strerror or error}: {what}. Run the job again when there is room")
    made.__cause__ = error
    return made
