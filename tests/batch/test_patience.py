"""What comes of a row that was not answered: tables of errors, and whole runs with a clock of their own."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import (
    AuthenticationError,
    BadRequestError,
    ConnectError,
    ContextLengthError,
    GptError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ParseError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TLSError,
)
from gpt.batch.patience import AWAY, GIVE_UP, Patience
from gpt.errors import MalformedResponseError


def answered(kind: Any, status: int = 500) -> GptError:
    made: GptError = kind("said", status, "")
    return made


BROKEN = answered(ServerError)
BUSY = answered(RateLimitError, 429)
GONE = ConnectError("refused", phase="connect", sent=False)
NO_VALUE = ParseError("no value", completion=None)  # type: ignore[arg-type]
SLOW = RequestTimeoutError("no answer", phase="first_byte", sent=True)


def patience(**settings: Any) -> Patience:
    return Patience(lambda: 1.0, **settings)


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (answered(AuthenticationError, 401), "stop", "stop"),
        (answered(QuotaError, 429), "stop", "stop"),
        (answered(PermissionDeniedError, 403), "stop", "failed"),
        (answered(ModelNotFoundError, 404), "stop", "failed"),
        (TLSError("no trust", phase="tls"), "stop", "again"),
        (answered(BadRequestError, 400), "failed", "failed"),
        (answered(ContextLengthError, 400), "failed", "failed"),
        (answered(BadRequestError, 408), "again", "again"),
        (answered(BadRequestError, 409), "again", "again"),
        (NO_VALUE, "failed", "failed"),
        (InvalidRequestError("no request"), "failed", "failed"),
        (GptError("else"), "failed", "failed"),
        (BROKEN, "again", "again"),
        (answered(MalformedResponseError, 200), "again", "again"),
        (answered(OverloadedError, 503), "again", "again"),
        (BUSY, "again", "again"),
        (GONE, "again", "again"),
        (SLOW, "again", "again"),
    ],
)
def test_once(error: GptError, before: str, after: str) -> None:
    """What comes of a first failure, before any row was answered and after."""
    one = patience()
    assert before == one.failed(0.0, 5, error)
    two = patience()
    two.answered(1)
    assert (after, 1) == (two.failed(0.0, 5, error), two.answers)


@pytest.mark.parametrize(
    ("error", "times"), [(BROKEN, 4), (SLOW, 4), (answered(BadRequestError, 408), 4), (BUSY, 40), (GONE, 40)]
)
def test_attempts(error: GptError, times: int) -> None:
    """A row is asked so often, among others that are answered: what says nothing of it counts a tenth; then it begins anew."""
    one = patience()
    for _ in range(2):
        for number in range(times):
            assert ("failed" if number == times - 1 else "again") == one.failed(0.0, 5, error)
            one.answered(100 + number)
    assert "failed" == patience(attempts=1).failed(0.0, 5, BROKEN)


def test_forgiven() -> None:
    """What a row was asked while the service was away does not count when it is back."""
    one = patience()
    for row in range(AWAY):
        one.failed(0.0, row, BROKEN)
    for _ in range(5):
        assert "again" == one.failed(0.0, 0, BROKEN)
    assert 32.0 == one.later(0)
    one.answered(50)
    assert 1.0 == one.later(0)
    assert ["again", "again", "failed"] == [one.failed(0.0, 0, BROKEN) for _ in range(3)]


def test_earlier() -> None:
    """Where earlier runs had answers, a model that is not there is a row's own fault; a key that is not taken still stops it."""
    one = patience(earlier=3)
    assert "failed" == one.failed(0.0, 5, answered(ModelNotFoundError, 404))
    assert "failed" == one.failed(0.0, 6, answered(PermissionDeniedError, 403))
    assert "stop" == one.failed(0.0, 7, answered(AuthenticationError, 401))


def test_later() -> None:
    """A row comes again after a pause that doubles up to a minute, between half of it and all."""
    one = patience(attempts=20)
    waits = []
    for _ in range(9):
        one.failed(0.0, 5, BROKEN)
        waits.append(one.later(5))
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] == waits
    assert 1.0 == one.later(6)
    assert 0.5 == Patience(lambda: 0.0).later(6)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(row, BROKEN) for row in range(AWAY - 1)], False),
        ([(row, BROKEN) for row in range(AWAY)], True),
        ([(0, BROKEN)] * 3 + [(1, BROKEN)] * 3 + [(2, BROKEN)] * 1, False),
        ([(0, BROKEN)] * 3 + [(1, BROKEN)] * 3 + [(2, BROKEN)] * 2, True),  # eight times
        ([(0, BROKEN)] * 4 + [(1, BROKEN)] * 5, False),  # two rows
        ([(0, GONE)] * (AWAY - 1), False),
        ([(0, GONE)] * AWAY, True),  # says nothing of the row
        ([(row, BROKEN) for row in range(AWAY - 1)] + [(9, answered(BadRequestError, 400)), (10, BROKEN)], False),
        ([(row, BROKEN) for row in range(AWAY - 1)] + [(9, NO_VALUE), (10, BROKEN)], False),
        ([(row, BROKEN) for row in range(AWAY - 1)] + [(9, InvalidRequestError("no")), (10, BROKEN)], True),  # was not sent
    ],
)
def test_away(failures: list[tuple[int, GptError]], expected: bool) -> None:
    """Eight rows in a row that come to nothing say that the service is away; an answer of any kind says that it is there."""
    one = patience()
    for row, error in failures:
        one.failed(0.0, row, error)
    assert expected == one.away
    assert (failures[-1][1] if expected else None) is one.last
    assert (1.0 if expected else 0.0) == one.wait(0.0)
    one.answered(50)
    assert (False, 0.0, None) == (one.away, one.wait(0.0), one.last)


def test_pauses() -> None:
    """While it is away pauses double with each try, and not with what had been under way; any number of them is fine."""
    one = patience(give_up=1e9)
    for row in range(300):
        one.failed(0.0, row, BROKEN)
    now, waits = 0.0, []
    for row in range(1100):
        waits.append(one.wait(now))
        now += waits[-1]
        assert 0.0 == one.wait(now)
        assert "again" == one.failed(now, row % 300, BROKEN)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == waits[:8]
    assert 60.0 == max(waits) == waits[-1]


@pytest.mark.parametrize(("answers", "seconds"), [(1, GIVE_UP), (0, GIVE_UP / 10)])
@pytest.mark.parametrize("error", [BROKEN, GONE, BUSY])
def test_given_up(answers: int, seconds: float, error: GptError) -> None:
    """A service that stays away stops the job, sooner where it never answered."""
    one = patience()
    for row in range(answers):
        one.answered(row)
    for row in range(10, 10 + AWAY):
        assert "again" == one.failed(100.0, row, error)
    assert "again" == one.failed(100.0 + seconds - 0.001, 30, error)
    assert "stop" == one.failed(100.0 + seconds, 31, error)


# --------------------------------------------------------------------------------------------------------------------
# Whole runs
# --------------------------------------------------------------------------------------------------------------------


class Run:
    """Rows asked as `worker.py` does, with a clock that jumps. `error_of` gives what a row that is asked at a time fails with."""

    def __init__(
        self, rows: int, width: int, error_of: Callable[[float, int], GptError | None], chance: Any = None, **settings: Any
    ) -> None:
        self.patience = Patience(chance.random if chance is not None else lambda: 1.0, **settings)
        self.asked: Counter[int] = Counter()
        self.probes: Counter[int] = Counter()
        self.failed: set[int] = set()
        self.answered: set[int] = set()
        self.stopped = False
        self.now = 0.0
        ready, later, under = deque(range(rows)), list[tuple[float, int]](), list[tuple[float, int]]()
        while (ready or later or under) and not self.stopped:
            away = self.patience.away
            room = len(under) < (1 if away else width) and not self.patience.wait(self.now)
            due = bool(later) and later[0][0] <= self.now
            if room and (ready or due):
                row = heapq.heappop(later)[1] if due and not (away and ready) else ready.popleft()
                self.asked[row] += 1
                heapq.heappush(under, (self.now + (1.0 if chance is None else chance.uniform(0.1, 3.0)), row))
                continue
            times = [under[0][0]] if under else []
            if len(under) < (1 if away else width):
                wait = self.now + self.patience.wait(self.now)
                times += [max(wait, later[0][0])] if later else []
                times += [wait] if ready and wait > self.now else []
            self.now = max(self.now, min(times))
            if under and under[0][0] <= self.now:
                row = heapq.heappop(under)[1]
                error = error_of(self.now, row)
                if error is None:
                    self.patience.answered(row)
                    self.answered.add(row)
                    continue
                verdict = self.patience.failed(self.now, row, error)
                self.probes[row] += self.patience.away
                match verdict:
                    case "stop":
                        self.stopped = True
                    case "failed":
                        self.failed.add(row)
                    case "again":
                        heapq.heappush(later, (self.now + self.patience.later(row), row))


@settings(deadline=None)
@given(
    st.sampled_from([1, 2, 8, 40]),
    st.floats(0, 300),
    st.floats(0, 500),
    st.sampled_from([BROKEN, GONE, BUSY, SLOW]),
    st.integers(1, 4),
    st.integers(0, 10**6).map(random.Random),
)
def test_outage(width: int, start: float, length: float, error: GptError, attempts: int, chance: Any) -> None:
    """A service that is away for less than `give_up` costs no row but such as were asked before that could be known."""
    run = Run(400, width, lambda now, _: error if start <= now < start + length else None, chance, attempts=attempts)
    allowed = 0 if error in (GONE, BUSY) else AWAY // attempts  # it takes so many tries to fail a row, and eight to know
    if run.answered:
        assert not run.stopped or length >= GIVE_UP / 10
        assert len(run.failed) <= (allowed if run.patience.answers else 400)
    if not run.stopped:
        assert set(range(400)) == run.answered | run.failed


@pytest.mark.parametrize("width", [1, 4, 64])
@pytest.mark.parametrize("error", [BROKEN, GONE, BUSY])
def test_outage_and_stop(width: int, error: GptError) -> None:
    """A service that does not come back stops the job in time, and no row has failed for it."""
    run = Run(2000, width, lambda now, _: error if now > 20 else None)
    assert run.stopped
    assert set() == run.failed
    assert GIVE_UP + 20 <= run.now < GIVE_UP + 100


@pytest.mark.parametrize(
    ("width", "count", "give_up"),
    [
        (1, 1, 600),
        (1, 7, 600),
        (1, 8, 600),
        (4, 8, 600),
        (4, 12, 600),
        (64, 30, 600),
        (64, 64, 600),
        (4, 30, 3600),
        (64, 100, 3600),
    ],
)
def test_broken_rows_last(width: int, count: int, give_up: float) -> None:
    """Rows over which the service breaks down fail, also where they are the last ones, and it is over in some time: as many as are
    asked at a time, or come to be asked in `give_up`."""
    run = Run(200, width, lambda _, row: BROKEN if row >= 200 - count else None, give_up=give_up)
    assert (False, set(range(200 - count, 200))) == (run.stopped, run.failed)
    assert run.now < give_up + 200 + 6 * 2 * count


def test_too_many_broken_rows() -> None:
    """More than that are not told from a service that is away: the job stops, and none of them has failed."""
    run = Run(200, 64, lambda _, row: BROKEN if row >= 100 else None)
    assert (True, set(range(100)), set()) == (run.stopped, run.answered, run.failed)


@pytest.mark.parametrize("count", [1, AWAY, 30])
def test_broken_rows_alone(count: int) -> None:
    """The same where there are no others, such as when failed rows are asked again: the job ends, and does not stop for ever."""
    run = Run(count, 64, lambda _, row: BROKEN)
    assert (False, set(range(count))) == (run.stopped, run.failed)


@settings(deadline=None)
@given(
    st.integers(1, 120),
    st.sampled_from([1, 3, 16, 64]),
    st.integers(1, 5),
    st.dictionaries(st.integers(0, 119), st.sampled_from([BROKEN, SLOW, BUSY, answered(BadRequestError, 400)]), max_size=60),
    st.integers(0, 10**6).map(random.Random),
)
def test_any_rows(rows: int, width: int, attempts: int, bad: dict[int, GptError], chance: Any) -> None:
    """Whatever rows are bad: the good ones are answered, each is asked as often as is said and no more, unless the service is away."""
    run = Run(rows, width, lambda _, row: bad.get(row), chance, attempts=attempts)
    mine = {row for row in bad if row < rows}
    if not run.stopped:
        assert (set(range(rows)) - mine, mine) == (run.answered, run.failed)
    else:
        assert len(mine) >= AWAY or any(bad[row] is BUSY for row in mine)
    for row, asked in run.asked.items():
        assert asked - run.probes[row] <= attempts * (10 if bad.get(row) is BUSY else 1)
        assert 1 == asked or row in mine
