"""Shards worked on by processes of this machine. Blocks: the driver waits here.

A worker asks for a shard when it has room for one, over its pipe, and ends when there are none. One that dies is replaced, and
what it had not finished is given out again; a shard that three workers died of stops the job. When the driver dies, the pipe
ends, and the workers let end what is under way, for ten seconds.

A process that imports a program's main module again finds out by itself what is wrong with it, and says so on stderr; one that
ends by itself before it has asked for anything is not tried again.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gpt.batch import control
from gpt.batch.control import Orders
from gpt.batch.directory import JobDirectory
from gpt.batch.work import Running, Work
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.wire import Seconds

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

DEATHS = 3
"""Workers that may die of one shard, and of none, as they start."""

GRACE: Seconds = 10.0
"""For what is under way when the driver is gone, and for a worker that is to stop at once, or has nothing more to do."""

LOOK: Seconds = 0.5
"""Between two looks at how things stand."""

_FOR_THE_DRIVER = {signal.SIGINT, signal.SIGTERM}
"""A terminal, or a scheduler, sends these to all processes; the driver says what is to be done."""


class Doing(NamedTuple):
    """What an executor's workers do."""

    shards: list[int]
    """That are worked on."""
    ended: list[int]
    """That were worked on since the last look, and are no more: they are done, or are given out again."""
    workers: int
    """That share the limits."""
    failed: bool = False
    """Whether something stops the job, which `run` raises when what is under way has ended."""


Look = Callable[[Doing], Orders]


class Executor(Protocol):
    """Has shards worked on somewhere else."""

    @property
    def workers(self) -> int:
        """How many work at a time, at most."""
        ...

    def run(self, work: Work, shards: Iterable[int], look: Look) -> None:
        """Have these shards worked on, until all are done or the orders are to stop.

        `look` is called before anything starts, about twice a second, and at the end; it gives the orders, which workers find
        in the directory. Raises what stopped a worker, when all have ended. Blocks.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds. It may be used again."""
        ...


class Processes:
    """So many processes. Raises InvalidRequestError."""

    def __init__(self, workers: int) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidRequestError(f"workers: expected an int from 1, got {workers!r}", param="workers")
        if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing.spawn itself looks at it
            raise InvalidRequestError(
                "executor: a worker imports the main module too, and would begin the job again: put it under "
                'if __name__ == "__main__":',
                param="executor",
            )
        self.workers = workers

    def __repr__(self) -> str:
        return f"Processes({self.workers})"

    def run(self, work: Work, shards: Iterable[int], look: Look) -> None:
        """Have these shards worked on; see `Executor`."""
        see_portable(work, pickle.dumps)
        directory = JobDirectory(work.where)
        directory.load()
        _Run(work, Shards(shards, directory, look)).run(self.workers)

    def close(self) -> None:
        """Nothing is held between two runs."""


# --------------------------------------------------------------------------------------------------------------------
# What each executor needs
# --------------------------------------------------------------------------------------------------------------------


class Shards:
    """The shards of a run: which are left, which are worked on, and of which workers died. Holds what stops the job."""

    def __init__(self, numbers: Iterable[int], directory: JobDirectory, look: Look) -> None:
        self._left = deque(numbers)
        self._directory = directory
        self._give_orders = look
        self._deaths: Counter[int] = Counter()
        self._ended: list[int] = []
        self._next = 0.0
        self.error: BaseException | None = None
        self.orders = Orders()

    def __len__(self) -> int:
        """How many are left to be given out."""
        return len(self._left)

    @property
    def stopping(self) -> bool:
        """Whether no more are given out."""
        return self.error is not None or self.orders.stop is not None

    def give(self) -> int | None:
        """One that is left; None where there is none, or the job is to stop."""
        return self._left.popleft() if self._left and not self.stopping else None

    def undone(self, held: Iterable[int]) -> list[int]:
        """Those of a worker's that are not done; the others have ended."""
        left: list[int] = []
        for number in held:
            (self._ended if self._directory.is_done_now(number) else left).append(number)
        return left

    def lost(self, held: Iterable[int], how: str) -> None:
        """A worker is no more, that had these, `how` tells why: what it had not finished is given out again.

        A shard that as many died of as may stops the job.
        """
        left = self.undone(held)
        self._ended += left
        if self.stopping:
            return
        self._left.extendleft(reversed(left))
        self._deaths.update(left)
        worst = [number for number in left if self._deaths[number] >= DEATHS]
        if worst:  # several where each of the workers had all of them, and one row of one killed it
            named = f"shard{'s' * (len(worst) > 1)} {', '.join(map(str, worst))}"
            self.fail(GptError(f"{DEATHS} workers died at {named}, the last {how}; what was answered is kept"))

    def fail(self, error: BaseException) -> None:
        """Something stops the job. The first is raised."""
        if self.error is None:
            self.error = error
            self._next = 0.0  # so that the other workers hear of it

    def wait(self) -> Seconds:
        """Seconds until it is time for another look."""
        return max(0.0, self._next - monotonic())

    def look(self, running: Iterable[int], workers: int, *, last: bool = False) -> None:
        """Tell how things stand, and hear the orders, if it is time. Raises nothing: what is raised stops the job."""
        if self.wait() and not last:
            return
        self._next = monotonic() + LOOK
        ended, self._ended = self._ended, []
        try:
            self.orders = self._give_orders(Doing(list(running), ended, workers, self.error is not None))
        except Exception as error:  # noqa: BLE001 - what a caller's own function raises comes out of `run`
            self.fail(error)
            # Whoever gives the orders is not asked any more; the workers let end what is under way.
            self.orders = Orders(stop="finish", reason="error")
            self._give_orders = lambda _: self.orders
            with suppress(OSError):  # where the disk is full the workers stop by themselves
                control.order(self._directory, self.orders)


def see_portable(work: Work, dumps: Callable[[Any], bytes]) -> None:
    """Raise InvalidRequestError where the work cannot be given to another process."""
    for name, value in (("client", work.client), ("prompt", work.task.prompt), ("into", work.task.into), ("job", work)):
        try:
            dumps(value)
        except Exception as error:
            raise InvalidRequestError(
                f"{name}: another process cannot be given it ({in_a_line(error)}); name a "
                "function of a module, such as functools.partial(AsyncGpt, server_url=...), or a client's URL",
                param=name,
            ) from error


def in_a_line(error: BaseException) -> str:
    """What an error is, and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def portable(error: BaseException) -> GptError:
    """An error as it is told to another process: itself, or what it says and where it was."""
    if isinstance(error, GptError):
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))  # noqa: S301 - of this process
            return error
    made = GptError(f"a worker failed: {type(error).__name__}: {error}")
    made.add_note("".join(traceback.format_exception(error)).rstrip())
    return made


# --------------------------------------------------------------------------------------------------------------------
# In the driver
# --------------------------------------------------------------------------------------------------------------------


class _Worker:
    """A process, as the driver knows it."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would take the event loop, locks and connections along
        resource_tracker.ensure_running()  # when it is started it lets signals through again
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(work, theirs), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_DRIVER)  # until the process itself ignores them
        try:
            self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.shards: list[int] = []
        self.began = False
        """Whether it ever asked for a shard."""
        self.heard_of = True
        """Whether it may still say something."""
        self.until: Seconds | None = None
        """When it is killed."""


class _Run:
    def __init__(self, work: Work, shards: Shards) -> None:
        self._work = work
        self._shards = shards
        self._workers: list[_Worker] = []
        self._stillborn = 0
        self._is_to_end = False

    def run(self, workers: int) -> None:
        shards = self._shards
        wanted = min(workers, len(shards))
        shards.look((), wanted)  # the share of each is known before it starts
        try:
            for _ in range(wanted):
                self._start()
            while self._workers:
                self._turn()
        finally:
            for worker in self._workers:  # only where something broke here
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
        shards.look((), 0, last=True)
        if shards.error is not None:
            raise shards.error

    def _start(self) -> None:
        if self._shards.stopping:
            return
        try:
            self._workers.append(_Worker(self._work))
        except OSError as error:
            made = GptError(f"another process could not be started ({error}); name fewer workers")
            made.__cause__ = error
            self._shards.fail(made)

    def _turn(self) -> None:
        """Hear what workers say, for a moment."""
        ends: list[Any] = [worker.pipe for worker in self._workers if worker.heard_of]
        ends += [worker.process.sentinel for worker in self._workers]
        ready = set(wait(ends, self._shards.wait()))
        for worker in list(self._workers):
            if worker.process.sentinel in ready:
                while worker.heard_of and worker.pipe.poll():  # what it said last, to the end of the pipe
                    self._hear(worker)
                self._gone(worker)
            elif worker.pipe in ready:
                self._hear(worker)
        self._shards.look((shard for worker in self._workers for shard in worker.shards), len(self._workers))
        self._kill_late()

    def _hear(self, worker: _Worker) -> None:
        try:
            said = worker.pipe.recv()
            if said == "next":
                worker.began, self._stillborn = True, 0
                worker.shards = self._shards.undone(worker.shards)
                number = self._shards.give()
                if number is not None:
                    worker.shards.append(number)
                worker.pipe.send(number)
                return
            if said is not None:
                self._shards.fail(said)
        except (EOFError, OSError):
            pass  # its process is ending; `_gone` comes next
        worker.heard_of = False
        worker.until = monotonic() + GRACE

    def _kill_late(self) -> None:
        """Kill those that do not end by themselves."""
        now = monotonic()
        if self._shards.orders.stop == "now" and not self._is_to_end:
            self._is_to_end = True
            for worker in self._workers:
                worker.until = worker.until or now + GRACE
        for worker in self._workers:
            if worker.until is not None and now >= worker.until:
                worker.process.kill()

    def _gone(self, worker: _Worker) -> None:
        """A process has ended: well, or it died."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        shards = self._shards
        code = worker.process.exitcode or 0
        shards.lost(worker.shards, _told(code))
        if shards.stopping:
            return
        if not worker.began:
            self._stillborn += 1
            if code >= 0 or self._stillborn >= DEATHS:
                shards.fail(
                    GptError(
                        f"workers do not start; the last {_told(code)}. What it said is on stderr; in a program, the job is to "
                        'be under if __name__ == "__main__":'
                    )
                )
        if len(self._shards):
            self._start()


def _told(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"by itself, with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"by {name}{', as when memory runs out' if code == -signal.SIGKILL else ''}"
    return f"by signal {-code}"


# --------------------------------------------------------------------------------------------------------------------
# In the worker
# --------------------------------------------------------------------------------------------------------------------


def _work(work: Work, pipe: Connection) -> None:
    """A worker's whole life."""
    for number in _FOR_THE_DRIVER:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_DRIVER)
    error: GptError | None = None
    try:
        asyncio.run(_worked(work, pipe))
    except BaseException as raised:  # noqa: BLE001 - a caller's own function may raise anything, also SystemExit
        error = portable(raised)
    with suppress(OSError):  # the driver may be gone
        pipe.send(error)


async def _worked(work: Work, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[int | None] = asyncio.Queue()
    running = Running(work)

    def gone() -> None:
        answers.put_nowait(None)
        if hasattr(running, "worker"):
            running.worker.stop("interrupted")
            loop.call_later(GRACE, running.worker.stop, "interrupted", "now")

    def listen() -> None:
        try:
            while True:
                number = pipe.recv()
                loop.call_soon_threadsafe(answers.put_nowait, number)
        except (EOFError, OSError, RuntimeError):
            with suppress(RuntimeError):  # all may be over here
                loop.call_soon_threadsafe(gone)

    async def next_shard() -> int | None:
        try:
            pipe.send("next")
        except OSError:
            return None
        return await answers.get()

    threading.Thread(target=listen, daemon=True).start()
    await running.run(next_shard, follows=True)
