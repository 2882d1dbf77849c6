"""How many calls at once it comes to against servers of several kinds, by the minute: each plays in a time of its own."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from random import Random
from statistics import mean

import pytest

from gpt.protocol.pace import AdaptivePlaces, Allowance, Grant, Rate, Tokens

FOREVER = 10**9
SPEED = 100.0
"""Tokens a second of a call that has the server to itself: one of 100 takes a second, and a tenth for its prompt."""

OVERHEAD = 10.0


class Served:
    """A server of `places`, the others in a queue, each at the `speed` that it has when so many are at work.

    More than `refuses` under way are refused.
    """

    def __init__(
        self,
        places: Callable[[float], int] = lambda _: FOREVER,
        speed: Callable[[int], float] = lambda _: SPEED,
        refuses: int = FOREVER,
    ) -> None:
        self.places = places
        self.speed = speed
        self.refuses = refuses


class Call:
    """A call of so many tokens."""

    def __init__(self, number: int, grant: Grant, tokens: float) -> None:
        self.number = number
        self.grant = grant
        self.tokens = tokens


class Played:
    """What came of a time with a server, with more calls to make than it lets through.

    What is at work is computed in turns, so that the work of each is over at a mark that all of them move towards; the time
    to that mark is known until the next event.
    """

    def __init__(self, server: Served, seconds: float, draw: Callable[[], float], *, told: bool = True) -> None:
        self.ended: list[tuple[float, float]] = []
        """When a call ended, and its tokens."""
        self.limits: list[tuple[float, int]] = []
        """How many there might be, each second."""
        self.refusals: list[float] = []
        self._server = server
        self._draw = draw
        self._told = told
        self._now = 0.0
        self._mark = 0.0
        self._working: list[tuple[float, int, Call]] = []
        self._queue: deque[Call] = deque()
        self._later: list[tuple[float, int, bool, Call]] = []
        self._number = 0
        places = AdaptivePlaces(256)
        self._allowance = Allowance(*(Rate(None) for _ in range(4)), places)
        while self._now < seconds:
            self._begin()
            speed = server.speed(len(self._working)) if self._working else 0.0
            done = self._now + (self._working[0][0] - self._mark) / speed if self._working else math.inf
            next_second = float(len(self.limits))
            then = min(done, self._later[0][0] if self._later else math.inf, next_second)
            self._mark += (then - self._now) * speed
            self._now = then
            if then == next_second:
                self.limits.append((then, places.limit))
            elif then == done:
                self._end(heapq.heappop(self._working)[2])
            else:
                self._answered(*heapq.heappop(self._later)[2:])

    def _begin(self) -> None:
        while not self._allowance.wait(self._now, Tokens()):
            self._number += 1
            self._arrive(Call(self._number, self._allowance.take(self._now, Tokens()), self._draw()))
        while self._queue and len(self._working) < self._server.places(self._now):
            call = self._queue.popleft()
            heapq.heappush(self._working, (self._mark + OVERHEAD + call.tokens, call.number, call))

    def _arrive(self, call: Call) -> None:
        if len(self._working) + len(self._queue) < self._server.refuses:
            self._queue.append(call)
            return
        self.refusals.append(self._now)
        heapq.heappush(self._later, (self._now + 0.05, call.number, True, call))

    def _answered(self, refused: bool, call: Call) -> None:
        """A refusal has come back, after which the call waits a second with its place; or that is over."""
        if refused:
            wait = self._allowance.again(self._now, call.grant, 429, 1.0)
            heapq.heappush(self._later, (self._now + wait, call.number, False, call))
        else:
            self._arrive(call)

    def _end(self, call: Call) -> None:
        self.ended.append((self._now, call.tokens))
        answer = call.tokens if self._told else 0
        self._allowance.end(self._now, call.grant, Tokens(answer, 0, answer))

    def rate(self, start: float, stop: float) -> float:
        """Tokens a second in that time."""
        return sum(tokens for at, tokens in self.ended if start <= at < stop) / (stop - start)

    def places(self, start: float, stop: float) -> list[int]:
        """How many there might be in that time, each second."""
        return [limit for at, limit in self.limits if start <= at < stop]

    def refused(self) -> list[int]:
        """How many were refused in each minute."""
        return [sum(minute <= at / 60 < minute + 1 for at in self.refusals) for minute in range(len(self.limits) // 60)]


def share(places: list[int], least: int, most: int = FOREVER) -> float:
    """The part of the time in which there were so many."""
    return mean(least <= one <= most for one in places)


def alike(draw: Random) -> float:
    """Answers of about 100 tokens."""
    return draw.uniform(80, 120)


def of_all_lengths(draw: Random) -> float:
    """Answers of 100 tokens on the average, a hundredth of them a hundred times as long as another hundredth."""
    return draw.lognormvariate(4.1, 1.0)


ALIKE, OF_ALL_LENGTHS = (alike, True), (of_all_lengths, True)
KINDS = [ALIKE, OF_ALL_LENGTHS, (alike, False), (of_all_lengths, False)]
"""Answers, and whether the server tells their tokens."""

NAMES = ["alike", "of all lengths", "alike, untold", "of all lengths, untold"]
FULL = SPEED * 100 / 110
"""What one place brings with the overhead, in tokens a second."""

Kind = Callable[[Random], float]


def play(server: Served, seconds: float, kind: Kind, told: bool, seed: int = 1) -> Played:
    draw = Random(seed)
    return Played(server, seconds, lambda: kind(draw), told=told)


@pytest.mark.parametrize(("kind", "told"), KINDS, ids=NAMES)
def test_a_server_that_queues(kind: Kind, told: bool) -> None:
    """Twenty places are found, and used: nine tenths of what they can do comes through, by far the most of the time with few in
    the queue.
    """
    played = play(Served(lambda _: 20), 600, kind, told)
    assert 0.9 <= played.rate(60, 600) / (20 * FULL) <= 1.05
    assert share(played.places(60, 600), 15, 40) >= 0.75
    assert 15 <= mean(played.places(60, 600)) <= 40


@pytest.mark.parametrize(("kind", "told"), KINDS, ids=NAMES)
def test_a_server_that_computes_all_together(kind: Kind, told: bool) -> None:
    """Calls that get twice as slow with 200 at once are no reason to stay with fewer, since in all more comes through."""

    def speed(working: int) -> float:
        at_once = min(working, 200)
        return SPEED / (1 + at_once / 200) * at_once / working

    played = play(Served(speed=speed), 600, kind, told)
    assert share(played.places(100, 600), 150) >= 0.9
    assert played.rate(100, 600) / (200 * FULL / 2) >= 0.93


@pytest.mark.parametrize(("kind", "told"), KINDS, ids=NAMES)
def test_a_server_that_refuses(kind: Kind, told: bool) -> None:
    """More than fifty are refused: a few find that out in the first minute, and a few later; the places are used."""
    played = play(Served(refuses=50), 600, kind, told)
    assert max(played.refused()[:1]) <= 8
    assert max(played.refused()[1:]) <= 3
    assert sum(played.refused()) <= 14
    assert played.rate(30, 600) / (50 * FULL) >= 0.9


@pytest.mark.parametrize(("kind", "told"), KINDS, ids=NAMES)
def test_a_server_that_becomes_less_and_comes_back(kind: Kind, told: bool) -> None:
    """A tenth of its places is found after a while, and all of them when they are back."""
    played = play(Served(lambda now: 10 if 200 <= now < 500 else 100), 900, kind, told)
    assert played.rate(60, 200) / (100 * FULL) >= 0.85
    assert played.rate(200, 500) / (10 * FULL) >= 0.95
    assert played.rate(600, 900) / (100 * FULL) >= 0.85
    assert max(played.places(400, 500)) < max(played.places(60, 200))


def test_a_server_that_refuses_more_for_a_while() -> None:
    """Where it refuses above ten for five minutes, it is found, and that it takes a hundred again."""
    server = Served(refuses=100)
    kinds = Random(3)

    def draw() -> float:
        server.refuses = 10 if 200 <= played_now() < 500 else 100
        return alike(kinds)

    holder: list[Played] = []

    def played_now() -> float:
        return holder[0]._now if holder else 0.0

    class Known(Played):
        def _begin(self) -> None:
            if not holder:
                holder.append(self)
            super()._begin()

    played = Known(server, 900, draw)
    assert played.rate(60, 200) / (100 * FULL) >= 0.85
    assert played.rate(260, 500) / (10 * FULL) >= 0.85
    assert played.rate(650, 900) / (100 * FULL) >= 0.85


def test_slow_calls() -> None:
    """Where a call takes twenty seconds all is found the same, only later."""
    slow = Random(1)
    played = Played(Served(lambda _: 20), 3 * 3600, lambda: 20 * alike(slow))
    assert played.rate(1800, 3 * 3600) / (20 * SPEED) >= 0.9
    assert share(played.places(1800, 3 * 3600), 15, 40) >= 0.9


@pytest.mark.parametrize("seed", range(2, 6))
def test_by_chance(seed: int) -> None:
    """None of it hangs on one course of answers of all lengths."""
    queued = play(Served(lambda _: 20), 600, *OF_ALL_LENGTHS, seed)
    assert 0.9 <= queued.rate(60, 600) / (20 * FULL) <= 1.05
    assert share(queued.places(60, 600), 15, 40) >= 0.75
    refused = play(Served(refuses=50), 600, *OF_ALL_LENGTHS, seed)
    assert max(refused.refused()) <= 8
    assert refused.rate(30, 600) / (50 * FULL) >= 0.9
