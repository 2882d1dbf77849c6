"""A job's shards worked on in one process: what it takes for that, as a value that goes to another one, and the run of it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import msgspec

from gpt.batch import control
from gpt.batch.asking import Asking, client_of, width_of
from gpt.batch.directory import JobDirectory, Layout
from gpt.batch.jobs import Task
from gpt.batch.patience import ATTEMPTS, GIVE_UP, Patience
from gpt.batch.progress import Tally
from gpt.batch.rows import Source, open_rows
from gpt.batch.spending import Spending
from gpt.batch.worker import Worker
from gpt.layers.limit import BURST, Pace
from gpt.protocol.wire import Seconds

SHORTEST: Seconds = 60.0
"""What a service may ask all to wait, at least, before the rows that wait fail."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers of a job together may ask for in a minute. None: as much as the server lets them."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None

    def given(self) -> dict[str, Any]:
        """The limits that there are."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in given.items() if value is not None}


class Work(msgspec.Struct, kw_only=True):
    """A job as each process needs it that works on its shards. It pickles where `client` and `task` do."""

    where: Layout
    task: Task
    client: Any
    """As `asking.client_of` takes it."""
    rows: str | None
    """The path that the rows are read from; None: rows that are in memory."""
    format: str | None = None
    limits: Limits = Limits()
    concurrency: int | None = None
    attempts: int = ATTEMPTS
    give_up: Seconds = GIVE_UP
    dedupe: bool = False

    def __repr__(self) -> str:
        return f"Work({self.where.folder!r})"


class Running:
    """The work while it is done, as who started it sees it."""

    def __init__(self, work: Work, *, name: str = "") -> None:
        self.work = work
        self.name = name or f"process {os.getpid()} on {os.uname().nodename}"
        self.directory = JobDirectory(work.where)
        self.worker: Worker
        self._share = 1.0
        self._holds = 0
        self._last: set[int] = set()

    async def run(
        self,
        next_shard: Callable[[], Awaitable[int | None]],
        *,
        source: Source | None = None,
        spending: Spending | None = None,
        before: Tally | None = None,
        seconds: Seconds | None = None,
        limit: int | None = None,
        share: float = 1.0,
        follows: bool = False,
        started: Callable[[], None] | None = None,
    ) -> Worker:
        """Work on the shards that `next_shard` gives. Gives the worker, which tells what was done. Raises GptError.

        With `follows` the orders in the job's directory are followed, and what is done is told there. `started` is called when
        `worker` is there.
        """
        work, directory = self.work, self.directory
        directory.load()
        if source is None:
            source = await asyncio.to_thread(open_rows, work.rows, format=work.format, index=directory.path("input.index"))
        if follows:
            share = control.orders(directory).share
        client = client_of(work.client, work.task.model)
        width, shared = width_of(client, work.concurrency)
        self._width = width if shared else None
        pace = Pace(
            **work.limits.given(),
            max_concurrent=width,
            adapt_concurrency=shared,
            burst=0.0 if follows else BURST,  # workers come and go, and what one may send at once would come again with each
            patience=max(SHORTEST, work.give_up),
        )
        self._pace = pace
        self._take(share)
        cache = directory.path("answers.sqlite") if work.dedupe else None
        asking = Asking(client, work.task, directory.job.id, pace, cache=cache)
        self.worker = Worker(
            directory,
            source,
            asking,
            width=width,
            patience=Patience(random.random, work.attempts, work.give_up, before.answered if before is not None else 0),
            spending=spending,
            before=before,
            deadline=None if seconds is None else monotonic() + seconds,
            limit=limit,
        )
        following = asyncio.create_task(self._follow()) if follows else None
        if started is not None:
            started()
        try:
            await self.worker.run(next_shard)
        finally:
            if following is not None:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
                self._tell()
            await asking.close()
        return self.worker

    async def _follow(self) -> None:
        """Do as the driver says, and tell what is done, every second."""
        orders = control.Orders(share=self._share)
        while True:
            orders = await asyncio.to_thread(control.orders, self.directory, orders)
            self.follow(orders)
            self._tell()
            await asyncio.sleep(control.LOOK)

    def follow(self, orders: control.Orders) -> None:
        """Do as the driver says."""
        if orders.stop is not None:
            self.worker.stop(orders.reason or "interrupted", "now" if orders.stop == "now" else "finish")
        if orders.share != self._share:
            self._take(orders.share)
        if orders.holds > self._holds:
            self._holds = orders.holds
            self._pace.hold(orders.hold)

    def _take(self, share: float) -> None:
        """Use this part of all limits."""
        self._share = share
        most = None if self._width is None else max(1, int(self._width * share))
        self._pace.change(share=share, max_concurrent=most)

    @property
    def under_way(self) -> int:
        """Rows that are being asked; those that wait for their turn are not among them."""
        return self._pace.under_way

    def _tell(self) -> None:
        worker, first = self.worker, True
        open_shards = worker.open_shards
        for number, tally in open_shards.items():
            doing = control.Alive(number, self.name, tally.to_dict())
            if first:
                doing.under_way, doing.waiting, doing.pause = self.under_way, worker.waiting, worker.pause()
                doing.held = self._pace.held
            control.tell(self.directory, doing)
            first = False
        for number in self._last - open_shards.keys():
            with suppress(OSError):
                os.unlink(self.directory.of_shard(number, "alive"))
        self._last = set(open_shards)
