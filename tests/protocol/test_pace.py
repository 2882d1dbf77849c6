"""How fast calls may go: what is let through in any minute, what a server's word changes, how many at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.protocol.limits import Limit, RateLimits
from gpt.protocol.pace import (
    AGAIN_FEWER,
    AGAIN_MORE,
    ENOUGH_CALLS,
    FIRST,
    HOLD,
    HOLD_LONGEST,
    MINUTE,
    WINDOW,
    AdaptivePlaces,
    Allowance,
    Charge,
    Places,
    Rate,
    Tokens,
)


def allowance(
    requests: float | None = None,
    tokens: float | None = None,
    places: int | None = None,
    burst: float = MINUTE,
    *,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
) -> Allowance:
    rates = (Rate(limit, burst) for limit in (requests, tokens, input_tokens, output_tokens))
    return Allowance(*rates, Places(places))


def heaviest(charges: list[Charge], seconds: float) -> float:
    """The most that went out in any window of so many seconds."""
    ends = [charge.at for charge in charges]
    return max(sum(one.amount for one in charges if end - seconds < one.at <= end) for end in ends)


def go(rate: Rate, now: float, amount: float) -> tuple[float, Charge]:
    """Wait as long as the rate says, and go. Gives the time then."""
    while wait := rate.wait(now, amount):
        now += wait
    return now, rate.take(now, amount)


# --------------------------------------------------------------------------------------------------------------------
# So much a minute
# --------------------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.floats(0, 40), st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=60)


@settings(deadline=None)
@given(steps=STEPS, limit=st.floats(1, 1000), burst=st.floats(0, 100))
def test_never_above(steps: list[tuple[float, float, float]], limit: float, burst: float) -> None:
    """In no window is there more than the limit, whatever comes when, and however much of it is given back when."""
    rate = Rate(limit, burst)
    now, out = 0.0, []
    for pause, share, taken in steps:
        now, charge = go(rate, now + pause, share * limit)
        out.append(charge)
        if taken < 0.7:  # the others are still under way
            rate.settle(charge, charge.amount * taken)
    assert heaviest(out, MINUTE) <= limit * (1 + 1e-9)


@settings(deadline=None)
@given(steps=STEPS, late=st.lists(st.floats(0, 0.99), min_size=60, max_size=60))
def test_never_above_at_the_server(steps: list[tuple[float, float, float]], late: list[float]) -> None:
    """Nor at the server, where calls arrive up to a second late, each as it comes."""
    rate = Rate(100)
    now, out = 0.0, []
    for (_, share, _), delay in zip(steps, late, strict=False):
        now, charge = go(rate, now, share * 100)
        out.append(Charge(charge.at + delay, charge.amount, 0))
    assert heaviest(out, MINUTE) <= 100 * (1 + 1e-9)


@settings(deadline=None)
@given(limits=st.lists(st.tuples(st.floats(10, 200), st.integers(1, 20)), min_size=1, max_size=8), burst=st.floats(0, 60))
def test_never_above_a_limit_that_changes(limits: list[tuple[float, int]], burst: float) -> None:
    """Each that goes finds the minute before it within the limit that holds then: a share of a limit may be made smaller."""
    rate = Rate(limits[0][0], burst)
    now, out = 0.0, []
    for limit, calls in limits:
        rate.change(limit)
        for _ in range(calls):
            now, charge = go(rate, now, 10)
            out.append(charge)
            before = sum(one.amount for one in out if now - MINUTE < one.at)
            assert before <= limit * (1 + 1e-9)


@pytest.mark.parametrize("burst", [0.0, 1.0, 10.0, MINUTE])
@pytest.mark.parametrize(("limit", "amount"), [(1, 1), (3, 1), (20, 1), (500, 1), (1000, 40), (90_000, 700)])
def test_never_below(limit: float, amount: float, burst: float) -> None:
    """With enough demand 95 % of the limit goes out in an hour, where one call is at most 4 % of it, or all are alike."""
    rate, now, out = Rate(limit, burst), 0.0, 0.0
    while now < 3600:
        now, charge = go(rate, now, amount)
        out += charge.amount if now < 3600 else 0
    assert 0.95 * limit <= out / 60 <= limit * 61 / 60


def test_spread() -> None:
    """A burst is what its seconds are worth and the call that overdraws it; the others come evenly."""
    rate = Rate(610, burst=1.0)
    times = [0.0]
    for _ in range(30):
        times.append(go(rate, times[-1], 1)[0])
    assert 11 == times[1:].count(0.0)
    assert [pytest.approx(0.1)] * 15 == [later - earlier for earlier, later in zip(times[13:28], times[14:29], strict=True)]


def test_spread_by_a_limit_that_changes() -> None:
    """What a larger limit's bucket holds more goes at once; a smaller limit's is not overdrawn by becoming smaller."""
    rate = Rate(5, burst=MINUTE)
    for limit in (5, 10, 12):
        rate.change(limit)
        while not rate.wait(0.0, 1):
            rate.take(0.0, 1)
        assert WINDOW == rate.wait(0.0, 1)
        assert limit == len(rate._log)
    for taken, wait in ((0, 0.0), (99, 0.0), (101, 0.1)):  # of the hundred in the bucket
        rate = Rate(6100, burst=1.0)
        rate.wait(0.0, 1)
        rate.take(0.0, taken)
        rate.change(610)
        assert pytest.approx(wait) == rate.wait(0.0, 1)


def test_not_spread() -> None:
    """With a minute's worth as burst a whole limit goes at once, and the next when that is a window old."""
    rate = Rate(5, burst=MINUTE)
    assert [0.0] * 5 == [go(rate, 0.0, 1)[0] for _ in range(5)]
    assert WINDOW == rate.wait(0.0, 1)
    assert 0.0 == rate.wait(WINDOW, 1)


def test_given_back() -> None:
    """What was reserved and not taken is there again at once; what was taken beyond is missing."""
    rate = Rate(100)
    charge = rate.take(0.0, 80)
    assert WINDOW == rate.wait(0.0, 40)
    rate.settle(charge, 30)
    assert 0.0 == rate.wait(0.0, 70)
    rate.settle(charge, 95)
    assert WINDOW - 10 == rate.wait(10.0, 6)


def test_settled_late() -> None:
    """A call longer than the window gives nothing back to a log that it has left."""
    rate = Rate(100)
    old = rate.take(0.0, 80)
    rate.take(WINDOW, 100)
    rate.settle(old, 0)
    assert WINDOW == rate.wait(WINDOW, 1)


def test_waits_for_enough() -> None:
    """As many old ones as are needed have to be a window old, of those behind others too."""
    rate = Rate(10)
    for at in (0.0, 5.0, 10.0):
        rate.take(at, 3)
    assert 0.0 == rate.wait(10.0, 1)
    assert WINDOW - 10 == rate.wait(10.0, 4)
    assert WINDOW - 5 == rate.wait(10.0, 5)
    assert WINDOW - 5 == rate.wait(10.0, 1, ahead=4)
    assert WINDOW == rate.wait(10.0, 10)
    assert 90 * WINDOW < rate.wait(10.0, 5, ahead=1000) < 100 * WINDOW
    rate.take(10.0, 1)
    assert WINDOW - 20 == rate.wait(20.0, 1)


def test_ahead() -> None:
    """Who stands behind others waits for them, at least."""
    rate = Rate(61, burst=0.0)
    assert pytest.approx(10.0) == rate.wait(0.0, 1, ahead=10)


def test_ahead_of_time() -> None:
    """What goes out later stands later in the log, and counts at once."""
    rate = Rate(2)
    rate.take(0.0, 1, after=20.0)
    rate.take(0.0, 1)
    assert WINDOW == rate.wait(0.0, 1)
    assert 20.0 == rate.wait(WINDOW, 2)
    assert 0.0 == rate.wait(WINDOW + 20, 2)


def test_larger_than_the_limit() -> None:
    """What is larger than the limit never goes; what is as large does."""
    rate = Rate(100)
    assert not rate.fits(101)
    assert math.inf == rate.wait(0.0, 101)
    assert rate.fits(100)
    assert 0.0 == rate.wait(0.0, 100)


def test_no_limit() -> None:
    """Without a limit everything goes, and counts once one is known."""
    rate = Rate(None)
    assert not rate.counts
    assert rate.fits(math.inf)
    for _ in range(3):
        assert 0.0 == rate.wait(0.0, 1000)
        rate.take(0.0, 1000)
    rate.change(3500)
    assert rate.counts
    assert WINDOW == rate.wait(0.0, 1000)


@pytest.mark.parametrize("burst", [0.0, 1.0, MINUTE, 600.0])
@pytest.mark.parametrize("limit", [0.99, 0.5, 0.05])
def test_less_than_one(limit: float, burst: float) -> None:
    """Of a limit below 1 one goes in each 60 / limit seconds, never sooner, and hardly later; a pause saves nothing up."""
    rate = Rate(limit, burst)
    assert rate.fits(1)
    now = 0.0
    for pause in (0.0, 0.0, 10.0, 5000.0, 0.0, 0.0):
        before, (now, _) = now, go(rate, now + pause, 1)
        assert now == 0.0 or MINUTE / limit <= now - before <= max(WINDOW / limit, pause) + 1e-6
    assert pytest.approx(WINDOW / limit) == rate.wait(now, 1)
    assert pytest.approx(3 * WINDOW / limit) == rate.wait(now, 1, ahead=2)


def test_above_and_below_one() -> None:
    """A share that becomes less than one holds for what went out before, and one that becomes more lets it go."""
    rate = Rate(10, MINUTE)
    for _ in range(9):
        rate.take(0.0, 1)
    rate.change(0.5)
    assert 0.0 < rate.wait(0.0, 1) <= 2 * WINDOW
    rate = Rate(0.5, MINUTE)
    rate.take(0.0, 1)
    assert pytest.approx(2 * WINDOW) == rate.wait(0.0, 1)
    rate.change(10)
    assert 0.0 == rate.wait(0.0, 1)


@settings(deadline=None)
@given(
    steps=STEPS,
    share=st.floats(0.01, 1),
    parts=st.lists(st.floats(0.01, 1), min_size=60, max_size=60),
    burst=st.floats(0, 60),
)
def test_share(steps: list[tuple[float, float, float]], share: float, parts: list[float], burst: float) -> None:
    """A share holds in the long run also for calls that are larger than it; those that are not never take more in a minute."""
    rate = Rate(100, burst)
    rate.part(share)
    now, out = 0.0, []
    for (pause, _, _), part in zip(steps, parts, strict=False):
        amount = part * 100
        assert rate.fits(amount)
        now, charge = go(rate, now + pause, amount)
        out.append(charge)
    largest = max(charge.amount for charge in out)
    limit = 100 * share
    if largest <= limit:
        assert heaviest(out, MINUTE) <= limit * (1 + 1e-9)
    taken = sum(charge.amount for charge in out[:-1])  # the last may overdraw
    assert taken <= limit * (now / WINDOW + max(burst / WINDOW, 1) + 1e-6) + largest


def test_share_of_what_is_left() -> None:
    """Of what the server says is left a share is taken too: others hear the same of it."""
    rate = Rate(None)
    rate.part(0.1)
    rate.told(0.0, Limit(1000, 500, 30.0), rate.take(0.0, 1))
    assert 100 == rate.limit
    assert 0.0 == rate.wait(0.0, 50)
    assert pytest.approx(0.6) == rate.word(0.0, 51)  # a tenth of what flows back
    assert not rate.fits(1001)
    rate.part(1.0)
    assert 1000 == rate.limit


# --------------------------------------------------------------------------------------------------------------------
# A server's word
# --------------------------------------------------------------------------------------------------------------------

LEARNT: list[tuple[Limit, float | None]] = [
    (Limit(60, 59, 1.0), 60),  # the hosted service: a second for one of sixty
    (Limit(150_000, 149_984, 0.006), 150_000),  # it says milliseconds
    (Limit(10_000, 9_999, 8.64), None),  # a day, by what one takes to come back
    (Limit(14_400, 14_370, 179.56), None),  # Groq's page: requests of a day
    (Limit(1000, 990, 36.0), None),  # an hour
    (Limit(20, 19, 45.0), 20),  # begins anew at a fixed time, within a minute
    (Limit(50, 49, 40_000.0), None),  # and within a day
    (Limit(60, 60, 0.0), 60),
    (Limit(60, None, None), 60),
    (Limit(60, 70, 5.0), 60),
    (Limit(0, 0, 0.0), None),
    (Limit(None, 5, 10.0), None),
    (Limit(), None),
]


@pytest.mark.parametrize(("said", "limit"), LEARNT)
def test_learnt(said: Limit, limit: float | None) -> None:
    """A limit that nobody gave is what the server says of a minute; one that the caller gave stays."""
    rate, own = Rate(None), Rate(7)
    rate.told(0.0, said, rate.take(0.0, 1))
    own.told(0.0, said, own.take(0.0, 1))
    assert limit == rate.limit
    assert 7 == own.limit


def test_learnt_anew() -> None:
    """The server's limit is followed up and down, and forgotten when it turns out to be no minute's."""
    rate = Rate(None)
    for said, limit in (
        (Limit(60, 59, 1.0), 60),
        (Limit(30, 29, 2.0), 30),
        (Limit(90, 89, 0.66), 90),
        (Limit(50, 1, 9e4), None),
    ):
        rate.told(0.0, said, rate.take(0.0, 1))
        assert limit == rate.limit


WORDS: list[tuple[Limit, float, float]] = [
    # said at 0, the wait for 10 then, and after 10 seconds
    (Limit(100, 10, 54.0), 0.0, 0.0),
    (Limit(100, 4, 57.6), 3.6, 0.0),  # flows back, 100 a minute
    (Limit(100, 0, 60.0), 6.0, 0.0),
    (Limit(100, 0, 20.0), 20.0, 10.0),  # all at once
    (Limit(None, 3, 5.0), 5.0, 0.0),
    (Limit(None, 3, None), 60.0, 50.0),  # no time said: a minute
    (Limit(100, 0, 0.0), 0.0, 0.0),
    (Limit(8_640_000, 0, 86_400.0), 0.1, 0.0),  # a day's, flowing back
    (Limit(100, None, 30.0), 0.0, 0.0),
]


@pytest.mark.parametrize(("said", "now", "later"), WORDS)
@pytest.mark.parametrize("limit", [None, 1000])
def test_word(said: Limit, now: float, later: float, limit: float | None) -> None:
    """What the server says is left wins over what we think, until it says that all is there again."""
    rate = Rate(limit)
    rate.told(0.0, said, rate.take(0.0, 1))
    assert pytest.approx(now) == rate.wait(0.0, 10)
    assert pytest.approx(later) == rate.wait(10.0, 10)
    assert pytest.approx(later) == rate.word(10.0, 10)


def test_word_of_what_it_cannot_know() -> None:
    """What left after the call that the server speaks of comes off what it says is left."""
    rate = Rate(1000)
    first = rate.take(0.0, 1)
    rate.take(0.0, 5)
    rate.told(0.0, Limit(remaining=9, reset=30.0), first)
    assert 0.0 == rate.wait(0.0, 4)
    assert 30.0 == rate.wait(0.0, 5)
    rate.take(0.0, 4)
    assert 30.0 == rate.wait(0.0, 1)


def test_old_word() -> None:
    """A word on an earlier call does not replace one on a later: answers overtake each other."""
    rate = Rate(1000)
    first, second = rate.take(0.0, 1), rate.take(0.0, 1)
    rate.told(1.0, Limit(remaining=0, reset=30.0), second)
    rate.told(2.0, Limit(remaining=500, reset=30.0), first)
    assert 29.0 == rate.wait(2.0, 1)
    rate.told(3.0, Limit(remaining=5, reset=30.0), rate.take(3.0, 1))
    assert 0.0 == rate.wait(3.0, 5)


def test_word_is_worth_counting() -> None:
    """What a call takes matters while the server speaks of what is left, though it names no limit."""
    rate = Rate(None)
    rate.told(0.0, Limit(remaining=9, reset=30.0), rate.take(0.0, 1))
    assert rate.counts
    rate.wait(30.0, 1)
    assert not rate.counts


def test_time_that_goes_back() -> None:
    """A time before the last one adds nothing."""
    rate = Rate(61, burst=0.0)
    rate.take(10.0, 2)
    assert pytest.approx(2.0) == rate.wait(5.0, 1)


# --------------------------------------------------------------------------------------------------------------------
# So many at once
# --------------------------------------------------------------------------------------------------------------------


def test_falls() -> None:
    """A refusal takes it to seven tenths of what is under way, once for all that are; it never falls below one."""
    places = Places(10)
    rounds = [places.take() for _ in range(10)]
    assert not places.free
    places.refused(0.0, rounds[0])
    assert 7 == places.limit
    for began in rounds[1:]:
        places.refused(0.0, began)
    assert 7 == places.limit
    for began in rounds:
        places.leave(0.0, began, 1.0, 0, succeeded=False)
    for limit in (2, 1, 1):
        rounds = [places.take() for _ in range(3)]
        places.refused(0.0, rounds[0])
        assert limit == places.limit
        for began in rounds:
            places.leave(0.0, began, 1.0, 0, succeeded=False)
    assert 0 == places.taken
    assert places.free


def test_falls_again() -> None:
    """A call that begins after the fall, or is tried again after it, may bring the next."""
    places = Places(10)
    rounds = [places.take() for _ in range(10)]
    now = places.refused(0.0, rounds[0])
    places.refused(0.0, now)
    assert 4 == places.limit  # of the seven that may be under way


def climbing(places: Places, calls: int) -> int:
    """Successes, with all places in use, until there are more."""
    before = places.limit
    for done in range(1, calls):
        rounds = [places.take() for _ in range(before or 0)]
        places.leave(0.0, rounds[0], 1.0, 0, succeeded=True)
        for began in rounds[1:]:
            places.leave(0.0, began, 1.0, 0, succeeded=False)
        if places.limit != before:
            return done
    return 0


def test_climbs() -> None:
    """As many successes as there are places make one more, up to the most there may be."""
    places = Places(3)
    began = places.take()
    places.refused(0.0, began)
    places.leave(0.0, began, 1.0, 0, succeeded=False)
    assert 1 == places.limit
    assert 1 == climbing(places, 10)
    assert 2 == climbing(places, 10)
    assert 0 == climbing(places, 10)
    assert 3 == places.limit


def test_climbs_where_used() -> None:
    """Successes show nothing while places are free, nor those of calls that began before the fall."""
    places = Places(None)
    old = [places.take() for _ in range(6)]
    places.refused(0.0, old[0])
    assert 4 == places.limit
    for began in old:
        places.leave(0.0, began, 1.0, 0, succeeded=True)
    for _ in range(20):
        places.leave(0.0, places.take(), 1.0, 0, succeeded=True)
    assert 4 == places.limit
    assert 4 == climbing(places, 10)


def test_no_most() -> None:
    """Without a most as many go as come, until the server refuses."""
    places = Places(None)
    for _ in range(1000):
        assert places.free
        places.take()
    places.refused(0.0, 0)
    assert 700 == places.limit


def test_unlimited() -> None:
    """What goes out while nothing limits it is put down as one a second, and counts as it is where a limit is told of later."""
    rate = Rate(None)
    charges = [rate.take(number / 100, 3) for number in range(1000)]
    assert len(rate._log) <= 11
    assert 3000 == rate._sum
    rate.settle(charges[500], 1)
    rate.settle(charges[-1], 5)
    rate.change(3000)
    assert 0.0 == rate.wait(10.0, 0)
    assert 51.0 <= rate.wait(10.0, 1) <= 52.0  # until what went out in the first second is older than a minute
    assert 0.0 == rate.wait(71.5, 3000)
    rate.settle(charges[0], 100)  # gone from the log
    assert 0.0 == rate.wait(71.5, 3000)


def test_unlimited_after_a_retry() -> None:
    """What goes out later than now is put down by itself, and what goes out before it beside it."""
    rate = Rate(None)
    rate.take(0.0, 1)
    rate.take(0.0, 1, 5.0)
    for now in (0.5, 1.0, 4.0, 6.0):
        rate.take(now, 1)
    assert 6 == rate._sum
    assert sorted(charge.at for charge in rate._log) == [charge.at for charge in rate._log]
    rate.change(6)
    assert rate.wait(7.0, 1) <= WINDOW
    assert 0.0 == rate.wait(6.0 + WINDOW, 6)


def test_most_changed() -> None:
    """The most may be set anew: a share of it."""
    places = Places(8)
    places.take()
    places.change(1)
    assert not places.free
    places.change(None)
    assert places.free


class Calls:
    """Calls that take all places there are, of a server that lets so many through a second at so many at once."""

    def __init__(self, maximum: int | None, rate: Callable[[int], float], *, refuses: float = math.inf) -> None:
        self.places = AdaptivePlaces(maximum)
        self.rate = rate
        self.refuses = refuses
        self.now = 0.0
        self.under_way: deque[int] = deque()
        self.refusals = 0
        self.tokens = 100.0

    def over(self, calls: int) -> list[int]:
        """How many there were while so many calls ended."""
        return [self.go(1) for _ in range(calls)]

    def go(self, calls: int) -> int:
        """Have so many end, one by one. Gives how many there may be then."""
        for _ in range(calls):
            while self.places.free:
                self.under_way.append(self.places.take())
                if len(self.under_way) > self.refuses:
                    self.refusals += 1
                    began = self.under_way.pop()
                    self.places.refused(self.now, began)
                    self.places.leave(self.now, began, 0.1, 0, succeeded=False)
            at_once = len(self.under_way)
            self.now += 1 / self.rate(at_once)
            self.places.leave(self.now, self.under_way.popleft(), at_once / self.rate(at_once), self.tokens, succeeded=True)
        return self.places.limit

    def until(self, limit: int, calls: int = 20_000) -> bool:
        """Whether there come to be so many."""
        return any(self.go(1) == limit for _ in range(calls))


def alone(places: int) -> float:
    """Each call has a place to itself, as many as there are."""
    return float(places)


def queues(beyond: int) -> Callable[[int], float]:
    """The others wait in a queue."""
    return lambda places: float(min(places, beyond))


def together(most: int) -> Callable[[int], float]:
    """All are computed together, slower each and faster in all, up to so many."""
    return lambda places: min(places, most) / (1 + min(places, most) / most)


def test_begins_small() -> None:
    """It begins with few, a place more for each success, and measures with twice as many, up to the most."""
    calls = Calls(100, alone)
    assert [FIRST] * (FIRST - 1) == calls.over(FIRST - 1)
    assert [8, 9, 10, 11, 12, 13, 14, 15, 16] == calls.over(9)
    assert [16] * 30 == calls.over(30)  # those that began on the way, and a round
    rises = calls.over(500)
    assert sorted(rises) == rises
    assert 100 == rises[-1]
    assert [100] * 1000 == calls.over(1000)
    assert (3, 1) == (AdaptivePlaces(3).limit, AdaptivePlaces(1).limit)
    assert 8000 < Calls(None, alone).go(100_000)


@pytest.mark.parametrize(("a_second", "least", "most"), [(3000.0, 100, 256), (30.0, 1, 8)])
def test_quick_calls(a_second: float, least: int, most: int) -> None:
    """Calls that are over at once are as many as they like, though more at once bring no more; slow ones are not."""
    calls = Calls(256, lambda _: a_second)
    calls.go(3000)
    seen = calls.over(30_000)
    assert least <= sorted(seen)[len(seen) // 10]
    assert sorted(seen)[9 * len(seen) // 10] <= most


@pytest.mark.parametrize("tokens", [100.0, 0.0])
def test_no_more_through(tokens: float) -> None:
    """Where the others wait in a queue it goes back, and holds about as many as the server has; by calls too."""
    calls = Calls(256, queues(20))
    calls.tokens = tokens
    calls.go(5000)
    then = calls.now
    over = calls.over(20_000)
    assert 14 <= min(over) < 20 < max(over) <= 40
    assert 20_000 / (calls.now - then) > 19


def test_slower_is_no_reason() -> None:
    """Where more are slower each and faster in all they are kept; with twice as slow a call as at the start."""
    calls = Calls(256, together(200))
    calls.go(5000)
    over = sorted(calls.over(20_000))
    assert 150 <= over[2000]  # but for trials of fewer, in nine of ten
    assert 125 <= over[0]


def test_tries_fewer() -> None:
    """When less comes through by itself fewer are tried, as long as no less comes through; and more when it is back."""
    calls = Calls(64, alone)
    assert calls.until(64)
    calls.rate = queues(6)
    calls.go(3000)
    assert 4 <= calls.go(1) <= 9
    calls.rate = lambda places: 4.0 * places
    assert calls.until(64, 600)


def test_tries_more_and_fewer_less_often() -> None:
    """Trials in vain become rare, and never end."""
    calls = Calls(64, queues(20))
    calls.go(20_000)
    trials = {"more": 0, "fewer": 0}
    places, doing = calls.places, ""
    for _ in range(AGAIN_FEWER * 23 * 8):
        calls.go(1)
        if places._doing != doing:
            doing = places._doing
            trials[doing] = trials.get(doing, 0) + 1
    assert 2 <= trials["fewer"] <= 8
    assert 8 <= trials["more"] <= 8 * AGAIN_FEWER / AGAIN_MORE


def test_another_server_is_noticed() -> None:
    """When more comes through by itself more are tried at once, whatever was in vain before."""
    calls = Calls(64, queues(20))
    calls.go(20_000)
    places = calls.places
    while not (places._doing == "holding" and places._until_more > 5 and places._until_fewer > 5):
        calls.go(1)
    calls.rate = lambda at_once: 4.0 * at_once
    calls.go(3 * places.limit)
    assert "more" == places._doing


def test_another_server_in_the_middle_of_a_trial() -> None:
    """Less than fewer places account for was the server, and is no reason to go back to more."""
    calls = Calls(64, queues(20))
    calls.go(2000)
    while calls.places._doing != "fewer":
        calls.go(1)
    calls.rate = queues(3)
    over = calls.over(1000)
    assert max(over) <= 20
    assert 2 <= over[-1] <= 5


def test_one_place() -> None:
    """A server that does one at a time is found, and one that does more then."""
    calls = Calls(4, queues(1))
    over = calls.over(5000)
    assert 1 in over
    assert over[-1] <= 2
    calls.rate = alone
    assert calls.until(4)
    assert 4 == calls.go(20)
    stays = Calls(1, alone)
    assert 1 == stays.go(2000)


def test_refused() -> None:
    """A refusal counts once for all that were under way; those that follow tell how many the server bore."""
    calls = Calls(256, alone)
    assert calls.until(40)
    places = calls.places
    began = [*calls.under_way, places.take(), places.take()]
    now = places.refused(0.0, began[-1])
    assert 28 == places.limit
    assert 40 == places._ceiling
    assert {now} == {places.refused(0.0, one) for one in began[-3:]}
    assert (28, 37) == (places.limit, places._ceiling)
    places.refused(0.0, now)
    assert 19 == places.limit
    for _ in range(20):
        places.refused(0.0, now)
    assert 20 == places._ceiling


def test_climbs_back() -> None:
    """It climbs half of the way to what was refused each time, holds one below, and tries one beyond it from time to time."""
    calls = Calls(256, alone, refuses=50)
    while not calls.refusals:
        calls.go(1)
    over = calls.over(500)
    assert sorted(over) == over
    assert (35, 50) == (over[0], over[-1])
    assert 43 in [places for places in set(over) if over.count(places) > 40]  # half of the way, for a round
    times = []
    for _ in range(40_000):
        before = calls.refusals
        calls.go(1)
        if calls.refusals != before:
            times.append(calls.now)
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert HOLD <= min(pauses)
    assert 2 * pauses[0] < pauses[-1]
    assert HOLD_LONGEST <= pauses[-1] <= HOLD_LONGEST + 20
    assert 40_000 / calls.now > 0.95 * 50


def test_bears_more_again() -> None:
    """Where the server takes one more it is tried with two, four and so on, until it refuses again, and then with more soon."""
    calls = Calls(256, alone, refuses=20)
    calls.go(5000)
    calls.refuses = 200
    refusals = calls.refusals
    assert calls.until(21, 10_000)
    assert calls.until(200, 4000)
    assert refusals == calls.refusals
    calls.go(20_000)
    assert 1 <= calls.refusals - refusals <= 6
    assert 130 <= calls.go(1) <= 200


def test_refused_and_queued() -> None:
    """Below what is refused, too, more are kept only where they bring something."""
    calls = Calls(256, queues(20), refuses=40)
    calls.go(10_000)
    assert 14 <= calls.go(1) <= 40
    assert 10_000 / calls.now > 19


def test_most_of_adaptive_changed() -> None:
    """A share of the most becomes as much smaller or larger, and what was found with it."""
    calls = Calls(100, alone)
    calls.places.change(50)
    assert 4 == calls.places.limit
    assert calls.until(50)
    assert 50 == calls.go(500)
    calls.places.change(10)
    assert 10 == calls.places.limit
    calls.under_way = deque(list(calls.under_way)[:10])
    calls.places.taken = 10
    calls.places.change(100)
    assert 10 == calls.places.limit
    assert calls.until(100, 300)
    calls.places.change(None)
    assert 100 == calls.places.limit
    assert calls.until(400)
    calls.places.change(3)
    assert 3 == calls.places.limit
    tiny = AdaptivePlaces(256)
    tiny.change(5)
    assert 1 == tiny.limit


def test_most_of_adaptive_changed_in_a_trial() -> None:
    """A trial that is on its way when the most is changed is given up; what was refused becomes as much smaller."""
    calls = Calls(64, queues(20))
    calls.go(2000)
    while calls.places._doing != "fewer":
        calls.go(1)
    before = calls.places.limit
    calls.places.change(128)
    assert before == calls.places.limit
    assert 2 * before == calls.until(2 * before) * 2 * before
    calls.go(3000)
    assert 14 <= calls.go(1) <= 40
    calls = Calls(256, alone, refuses=50)
    calls.go(1000)
    calls.places.change(128)
    assert 25 <= calls.places._ceiling <= 26


def test_what_began_before_a_refusal() -> None:
    """A call that began before a refusal, and ends while places are added again, adds none."""
    calls = Calls(256, alone, refuses=50)
    old = calls.places.take()
    while not calls.refusals or calls.places.limit == calls.places._target:
        calls.go(1)
    calls.go(1)
    before = calls.places.limit
    calls.places.leave(calls.now, old, 100.0, 5, succeeded=True)
    assert before == calls.places.limit < calls.places._target


def test_what_shows_nothing() -> None:
    """Calls that failed, took no time, began before a refusal, or left places free, tell nothing of more."""
    places = AdaptivePlaces(64)
    for _ in range(200):  # places are free
        places.leave(0.0, places.take(), 1.0, 5, succeeded=True)
    began = [places.take() for _ in range(8)]
    for _ in range(200):
        for succeeded, elapsed in ((False, 1.0), (True, 0.0)):
            places.leave(0.0, places.take(), elapsed, 5, succeeded=succeeded)
    assert 8 == places.limit
    places.refused(0.0, began[0])
    for one in began:
        places.leave(0.0, one, 1.0, 5, succeeded=True)
    assert (5, 0) == (places.limit, places.taken)


def test_long_rounds() -> None:
    """A round lasts until its rate is known well enough, at most so many calls."""
    for elapsed, rounds in (((1.0, 1.0), FIRST), ((0.01, 9.0), ENOUGH_CALLS)):
        places = AdaptivePlaces(64)
        began = deque(places.take() for _ in range(FIRST))
        done = 0
        while places._target == FIRST:
            places.leave(0.0, began.popleft(), elapsed[done % 2], 0, succeeded=True)
            began.append(places.take())
            done += 1
        assert rounds == done


# --------------------------------------------------------------------------------------------------------------------
# All of it
# --------------------------------------------------------------------------------------------------------------------


def used(made: Allowance, calls: int, tokens: float) -> Allowance:
    for _ in range(calls):
        made.take(0.0, Tokens(tokens, tokens, tokens))
    return made


WAITS: list[tuple[Callable[[], Allowance], float]] = [
    (allowance, 0.0),
    (lambda: used(allowance(2), 1, 5), 0.0),
    (lambda: used(allowance(2), 2, 5), WINDOW),
    (lambda: used(allowance(None, 20), 1, 5), 0.0),
    (lambda: used(allowance(None, 20), 2, 10), WINDOW),
    (lambda: used(allowance(2, 20), 1, 11), WINDOW),
    (lambda: used(allowance(None, None, 1), 1, 5), math.inf),
    (lambda: used(allowance(1, None, 1), 1, 5), WINDOW),  # then look again
    (lambda: used(allowance(input_tokens=20), 1, 13), WINDOW),
    (lambda: used(allowance(input_tokens=20), 1, 12), 0.0),
    (lambda: used(allowance(output_tokens=20), 1, 19), WINDOW),
    (lambda: used(allowance(output_tokens=20), 1, 18), 0.0),
    (lambda: used(allowance(None, 40, input_tokens=20, output_tokens=20), 1, 12), 0.0),
]


@pytest.mark.parametrize(("made", "wait"), WAITS)
def test_wait(made: Callable[[], Allowance], wait: float) -> None:
    """A call waits for whichever is short: requests, tokens, those of prompts, of answers, a place."""
    assert wait == made().wait(0.0, Tokens(10, 8, 2))


def test_held() -> None:
    """A pause is told while it lasts."""
    one = allowance()
    assert 0.0 == one.held(0.0)
    one.pause(10.0, 5.0)
    assert [5.0, 2.0, 0.0, 0.0] == [one.held(now) for now in (10.0, 13.0, 15.0, 20.0)]


def test_pause() -> None:
    """A pause that the server asks for holds for everybody; a shorter one does not end it."""
    made = allowance()
    made.pause(0.0, 30.0)
    made.pause(1.0, 5.0)
    assert 29.0 == made.wait(1.0, Tokens(1)) == made.asked(1.0, Tokens(1))
    assert 0.0 == made.wait(30.0, Tokens(1)) == made.asked(30.0, Tokens(1))


def test_asked() -> None:
    """What the server asks for is told apart from what the limits do."""
    made = used(allowance(1), 1, 5)
    assert WINDOW == made.wait(0.0, Tokens(5))
    assert 0.0 == made.asked(0.0, Tokens(5))
    grant = made.take(0.0, Tokens(5))
    made.told(0.0, grant, RateLimits(Limit(remaining=0, reset=400.0), Limit(remaining=4, reset=500.0)))
    assert 400.0 == made.asked(0.0, Tokens(4))
    assert 500.0 == made.asked(0.0, Tokens(5))
    made.told(
        0.0, grant, RateLimits(input_tokens=Limit(remaining=2, reset=600.0), output_tokens=Limit(remaining=2, reset=700.0))
    )
    assert 500.0 == made.asked(0.0, Tokens(5, 2, 2))
    assert 600.0 == made.asked(0.0, Tokens(5, 3, 2)) == made.wait(0.0, Tokens(5, 3, 2))
    assert 700.0 == made.asked(0.0, Tokens(5, 3, 3)) == made.wait(0.0, Tokens(5, 3, 3))


@pytest.mark.parametrize("name", ["tokens", "input_tokens", "output_tokens"])
def test_counts_tokens(name: str) -> None:
    """What tokens a call takes matters when there is a limit on any of them, or a word; it has to fit into each."""
    made = allowance(5)
    assert not made.counts_tokens
    grant = made.take(0.0, Tokens())
    made.told(0.0, grant, RateLimits(**{name: Limit(limit=50)}))
    assert made.counts_tokens
    assert 50 == getattr(made, name).limit
    assert made.fits(Tokens(50, 50, 50))
    over = Tokens()._replace(**{name.removesuffix("_tokens").replace("tokens", "total"): 51})
    assert not made.fits(over)
    assert math.inf == made.wait(1.0, over)


def test_part() -> None:
    """A share is one of all rates, and of what is learnt later; places are not shared by it."""
    made = allowance(100, 1000, 10, input_tokens=700)
    made.part(0.1)
    grant = made.take(0.0, Tokens(1, 1, 0))
    made.told(0.0, grant, RateLimits(output_tokens=Limit(400, 300, 1.0)))
    rates = (made.requests, made.tokens, made.input_tokens, made.output_tokens)
    assert [10, 100, pytest.approx(70), 40] == [rate.limit for rate in rates]
    assert [100, 1000, 700, 400] == [rate.most for rate in rates]
    assert 10 == made.places.limit


@pytest.mark.parametrize(
    ("status", "requests", "tokens", "pause", "places"),
    [
        (429, 2, 10, 20.0, 1),
        (503, 2, 10, 20.0, 1),
        (529, 2, 10, 20.0, 1),
        (409, 2, 10, 0.0, 2),
        (500, 2, 20, 0.0, 2),
        (None, 2, 20, 0.0, 2),
    ],
)
def test_again(status: int | None, requests: int, tokens: int, pause: float, places: int) -> None:
    """An attempt that follows a failed one is charged when it goes; the failed one keeps its request and, unless it was
    refused, its tokens. A refusal pauses everybody and costs places.
    """
    made = allowance(1000, 1000, 2, input_tokens=1000, output_tokens=1000)
    grant = made.take(0.0, Tokens(10, 7, 3))
    made.again(0.0, grant, status, 20.0)
    assert {20.0} == {one.at for one in (grant.request, grant.tokens, grant.input_tokens, grant.output_tokens)}
    assert Tokens(10, 7, 3) == grant.charged
    assert pause == made.asked(0.0, Tokens(1))
    assert places == made.places.limit
    parts = (made.input_tokens, tokens * 0.7), (made.output_tokens, tokens * 0.3)
    for rate, amount in ((made.requests, requests), (made.tokens, tokens), *parts):
        assert 0.0 == rate.wait(30.0, 1000 - amount)
        assert 0.0 < rate.wait(30.0, 1000 - amount + 1) <= WINDOW - 10


# The limits, what the failed attempt ended with, the wait that it has by itself, and the one that it is given.
AGAIN: list[tuple[Allowance, int | None, float, float]] = [
    (allowance(3), 500, 2.0, 2.0),
    (allowance(2), 500, 2.0, WINDOW - 5.0),
    (allowance(2), 429, 2.0, WINDOW - 5.0),
    (allowance(2), None, 90.0, 90.0),
    (allowance(2), 500, 0.0, 0.0),  # it goes at once
    (allowance(None, 29), 500, 2.0, WINDOW - 5.0),
    (allowance(None, 29), 429, 2.0, 2.0),  # what was refused took no tokens
    (allowance(None, 9), 429, 2.0, math.inf),  # the limit has become smaller than the call
    (allowance(input_tokens=19), 500, 2.0, WINDOW - 5.0),
    (allowance(output_tokens=3), 500, 2.0, WINDOW - 5.0),
    (allowance(input_tokens=24, output_tokens=6), 500, 2.0, 2.0),
]


@pytest.mark.parametrize(("made", "status", "after", "wait"), AGAIN)
def test_again_within_limits(made: Allowance, status: int | None, after: float, wait: float) -> None:
    """An attempt that follows a failed one waits until the limits let it, at least as long as it would by itself."""
    made.take(0.0, Tokens(10, 8, 2))
    grant = made.take(0.0, Tokens(10, 8, 2))
    first = grant.request
    assert pytest.approx(wait) == made.again(5.0, grant, status, after)
    assert (first is grant.request) == (wait == math.inf)
    assert wait == math.inf or pytest.approx(5.0 + wait) == grant.request.at == grant.tokens.at


def test_again_while_paused() -> None:
    """It waits as long as the server asked others to."""
    made = allowance(100)
    grant = made.take(0.0, Tokens(1))
    made.pause(0.0, 30.0)
    assert 30.0 == made.again(0.0, grant, 500, 2.0)


def test_too_late_again() -> None:
    """One that would have to wait too long is charged nothing, and refused calls stay refused once."""
    made = allowance(2, None, 4)
    grant = used(made, 1, 10).take(0.0, Tokens(10))
    assert math.inf == made.again(1.0, grant, 429, 2.0, WINDOW - 1.0)
    assert (4, 0.0) == (made.places.limit, made.asked(1.0, Tokens(1)))
    made.end(1.0, grant, Tokens(), succeeded=False)
    assert 0.0 == made.requests.wait(WINDOW, 2)
    grant = made.take(WINDOW, Tokens(10))
    assert 2.0 == made.again(WINDOW, grant, 429, 2.0, 2.1)
    assert (1, 2.0) == (made.places.limit, made.asked(WINDOW, Tokens(1)))


@pytest.mark.parametrize(
    ("ended", "requests", "tokens"),
    [
        (lambda made, grant: made.end(1.0, grant, Tokens(4, 4, 4)), 1, 4),
        (lambda made, grant: made.end(1.0, grant, None), 1, 10),
        (lambda made, grant: made.end(1.0, grant, Tokens(0, 0, 0), succeeded=False), 1, 0),
        (lambda made, grant: made.end(1.0, grant, Tokens(4, 4, 4), sent=False), 0, 0),
        (lambda made, grant: made.end(1.0, grant, None, sent=False), 0, 0),
        (lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(1.0, grant, None, succeeded=False)), 1, 0),
        (
            lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(1.0, grant, Tokens(7, 7, 7))),
            2,
            7,
        ),  # sent before its time
        (lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(20.0, grant, Tokens(7, 7, 7))), 2, 7),
    ],
)
def test_end(ended: Callable[[Allowance, object], object], requests: int, tokens: int) -> None:
    """A call that is over counts for what it took; one that was not sent, or left before it was sent again, for nothing."""
    made = allowance(100, 100, 5, input_tokens=100, output_tokens=100)
    ended(made, made.take(0.0, Tokens(10, 10, 10)))
    assert 0 == made.places.taken
    for rate, amount in (
        (made.requests, requests),
        *((one, tokens) for one in (made.tokens, made.input_tokens, made.output_tokens)),
    ):
        assert 0.0 == rate.wait(30.0, 100 - amount)
        assert bool(amount) == bool(rate.wait(30.0, 100 - amount + 0.5) not in (0.0, math.inf))
