"""Who is answered now, who waits, and who is told to come back: as many at a time as the model has slots, a bounded queue
behind.

First come, first served: a call that needs several slots (`n` choices) is not overtaken by smaller ones, or it might wait for
ever. One that leaves the queue leaves no gap. How long calls hold a slot is learnt from those that ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

from gpt.server.failures import Refused, retry_after

LEARNS = 0.2
"""How much the newest call counts in the mean time of a call: about the last ten matter."""


class Line:
    """`slots` calls at a time, `room` more that wait. Belongs to one event loop."""

    def __init__(self, slots: int, room: int, clock: Callable[[], float] = perf_counter) -> None:
        self.slots = slots
        self.room = room
        self._clock = clock
        self.running = 0
        """Slots that are taken."""
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.mean: float | None = None
        """Seconds that a call holds a slot; None before the first has ended."""

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, size: int = 1) -> AsyncIterator[None]:
        """A place for the block, of `size` slots; waits for it. Raises Refused (429) where the queue is full."""
        size = min(size, self.slots)
        await self._enter(size)
        began = self._clock()
        whole = False
        try:
            yield
            whole = True
        finally:
            if whole:  # one that was left or failed says nothing of how long calls take
                self._learn(self._clock() - began)
            self._leave(size)

    def check(self) -> None:
        """Raise Refused (429) where a call would find the queue full: before its body is read, so that it costs nothing."""
        full = len(self._waiting) >= self.room and (bool(self._waiting) or self.running >= self.slots)
        if full:
            raise Refused(
                429,
                f"{self.running} of {self.slots} slots are taken and {len(self._waiting)} calls wait already; try again later",
                type="rate_limit_error",
                code="queue_full",
                headers={**retry_after(self.relief()), **self.limits()},
            )

    async def _enter(self, size: int) -> None:
        if not self._waiting and self.running + size <= self.slots:
            self.running += size
            return
        self.check()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(size)  # it was this one's turn at the moment it left
            else:
                self._waiting = deque(other for other in self._waiting if other[1] is not turn)
                self._admit()  # a large one at the head may have held the others back
            raise

    def _leave(self, size: int) -> None:
        self.running -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.running + self._waiting[0][0] <= self.slots:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.running += size
                turn.set_result(None)

    def _learn(self, seconds: float) -> None:
        self.mean = seconds if self.mean is None else self.mean + LEARNS * (seconds - self.mean)

    def relief(self) -> float:
        """Seconds until half of the queue will have been worked off, at the recent speed; 1 where that is not known."""
        return 1.0 if self.mean is None else (len(self._waiting) / 2 + 1) * self.mean / self.slots

    def limits(self) -> dict[str, str]:
        """The headers that let callers pace themselves, as the hosted service has them; none before a call has ended.

        `limit` are calls that can be answered in a minute at the recent speed, `remaining` places that are free, `reset` when
        all will be.
        """
        if self.mean is None:
            return {}
        a_minute = int(60 * self.slots / self.mean) if self.mean > 0 else 0
        free = max(0, self.slots - self.running) + self.room - len(self._waiting)
        busy = (self.running + len(self._waiting)) * self.mean / self.slots
        return {
            "x-ratelimit-limit-requests": str(max(1, a_minute)),
            "x-ratelimit-remaining-requests": str(free),
            "x-ratelimit-reset-requests": f"{busy:.3f}s",
        }
