"""The queue, without sockets: turns in order, a full queue, leaving it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gpt.server.failures import Refused
from gpt.server.line import Line


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """One that takes a turn, and keeps it until it is let go."""

    def __init__(self, line: Line, size: int = 1) -> None:
        self.inside = False
        self.gone = asyncio.Event()
        self.task = asyncio.create_task(self._call(line, size))

    async def _call(self, line: Line, size: int) -> None:
        async with line.turn(size):
            self.inside = True
            await self.gone.wait()
        self.inside = False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def on_loop(test: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_loop
async def test_in_order() -> None:
    """As many as there are slots go at once, the others in the order in which they came."""
    line = Line(2, 10)
    callers = [Caller(line) for _ in range(5)]
    await settle()
    for gone in range(5):
        assert [index for index in range(5) if callers[index].inside] == list(range(gone, min(gone + 2, 5)))
        callers[gone].gone.set()
        await settle()
    assert (0, 0) == (line.running, line.waiting)


@on_loop
async def test_full() -> None:
    """Where slots and queue are full, the next is refused at once, with a time to come back."""
    line = Line(1, 2)
    callers = [Caller(line) for _ in range(3)]
    await settle()
    with pytest.raises(Refused) as caught:
        async with line.turn():
            raise AssertionError
    assert (429, "queue_full", "1") == (caught.value.status, caught.value.code, caught.value.headers["retry-after"])
    with pytest.raises(Refused):
        line.check()
    callers[0].gone.set()
    await settle()
    line.check()
    for caller in callers:
        caller.gone.set()
    await settle()
    assert 0 == line.running


@on_loop
async def test_no_queue() -> None:
    """With no room to wait a call still takes a slot that is free."""
    line = Line(1, 0)
    line.check()
    caller = Caller(line)
    await settle()
    assert caller.inside
    with pytest.raises(Refused):
        line.check()
    caller.gone.set()
    await settle()
    line.check()


@on_loop
async def test_large_ones() -> None:
    """A call that needs several slots waits for all of them, and is not overtaken."""
    line = Line(2, 10)
    one, two, small = Caller(line), Caller(line, 2), Caller(line)
    await settle()
    assert [True, False, False] == [one.inside, two.inside, small.inside]
    one.gone.set()
    await settle()
    assert [True, False] == [two.inside, small.inside]
    two.gone.set()
    await settle()
    assert small.inside
    small.gone.set()
    await settle()
    assert 0 == line.running


@on_loop
async def test_more_than_there_are() -> None:
    """A call for more slots than there are takes all of them; that it cannot be answered is the backend's to say."""
    line = Line(2, 1)
    caller = Caller(line, 9)
    await settle()
    assert (True, 2) == (caller.inside, line.running)
    caller.gone.set()
    await settle()
    assert 0 == line.running


@on_loop
async def test_leaving() -> None:
    """Who leaves the queue leaves no gap, also at the head of it, where a large one held others back, and at its very turn."""
    line = Line(2, 10)
    first, large, small = Caller(line), Caller(line, 2), Caller(line)
    await settle()
    large.task.cancel()
    await settle()
    assert (True, 0) == (small.inside, line.waiting)
    last = Caller(line)
    await settle()
    first.gone.set()
    last.task.cancel()  # in the same step in which its turn comes, or before it
    await settle()
    small.gone.set()
    await settle()
    assert (0, 0) == (line.running, line.waiting)


@on_loop
async def test_cancelled_at_its_turn() -> None:
    """A turn that is given to one that has just been cancelled is given on."""
    line = Line(1, 10)
    first, second, third = Caller(line), Caller(line), Caller(line)
    await settle()
    line._leave(1)  # the turn is second's now, which does not know it yet
    second.task.cancel()
    await settle()
    assert third.inside
    assert not second.inside
    third.gone.set()
    first.gone.set()
    await settle()


@on_loop
async def test_speed() -> None:
    """The time to come back and the limits follow from the queue and the recent speed; what failed teaches nothing."""
    clock = Clock()
    line = Line(2, 8, clock)
    assert {} == line.limits()
    async with line.turn():
        clock.now += 6
    assert 6 == line.mean
    with pytest.raises(ZeroDivisionError):
        async with line.turn():
            clock.now += 100
            raise ZeroDivisionError
    assert 6 == line.mean
    callers = [Caller(line) for _ in range(10)]
    await settle()
    assert (8 / 2 + 1) * 6 / 2 == line.relief()
    assert {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "30.000s",
    } == line.limits()
    with pytest.raises(Refused) as caught:
        line.check()
    assert "15" == caught.value.headers["retry-after"]
    for caller in callers:
        caller.gone.set()
    await settle()
    assert "10" == line.limits()["x-ratelimit-remaining-requests"]


def test_our_client_reads_the_limits() -> None:
    """What the headers say is what our own client reads."""
    from gpt.protocol.limits import Limit, rate_limits
    from gpt.protocol.wire import Headers

    line = Line(4, 16)
    line.mean = 2.0
    limits = rate_limits(Headers(line.limits().items()))
    assert limits is not None
    assert Limit(120, 20, 0.0) == limits.requests
