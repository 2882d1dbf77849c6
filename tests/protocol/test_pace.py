"""How fast calls may go: what is let through in any minute, what a server's word changes, how many at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.protocol.limits import Limit, RateLimits
from gpt.protocol.pace import MINUTE, WINDOW, Allowance, Charge, Places, Rate


def allowance(
    requests: float | None = None, tokens: float | None = None, places: int | None = None, burst: float = MINUTE
) -> Allowance:
    return Allowance(Rate(requests, burst), Rate(tokens, burst), Places(places))


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
    places.refused(rounds[0])
    assert 7 == places.limit
    for began in rounds[1:]:
        places.refused(began)
    assert 7 == places.limit
    for began in rounds:
        places.leave(began, succeeded=False)
    for limit in (2, 1, 1):
        rounds = [places.take() for _ in range(3)]
        places.refused(rounds[0])
        assert limit == places.limit
        for began in rounds:
            places.leave(began, succeeded=False)
    assert 0 == places.taken
    assert places.free


def test_falls_again() -> None:
    """A call that begins after the fall, or is tried again after it, may bring the next."""
    places = Places(10)
    rounds = [places.take() for _ in range(10)]
    now = places.refused(rounds[0])
    places.refused(now)
    assert 4 == places.limit  # of the seven that may be under way


def climbing(places: Places, calls: int) -> int:
    """Successes, with all places in use, until there are more."""
    before = places.limit
    for done in range(1, calls):
        rounds = [places.take() for _ in range(before or 0)]
        places.leave(rounds[0], succeeded=True)
        for began in rounds[1:]:
            places.leave(began, succeeded=False)
        if places.limit != before:
            return done
    return 0


def test_climbs() -> None:
    """As many successes as there are places make one more, up to the most there may be."""
    places = Places(3)
    began = places.take()
    places.refused(began)
    places.leave(began, succeeded=False)
    assert 1 == places.limit
    assert 1 == climbing(places, 10)
    assert 2 == climbing(places, 10)
    assert 0 == climbing(places, 10)
    assert 3 == places.limit


def test_climbs_where_used() -> None:
    """Successes show nothing while places are free, nor those of calls that began before the fall."""
    places = Places(None)
    old = [places.take() for _ in range(6)]
    places.refused(old[0])
    assert 4 == places.limit
    for began in old:
        places.leave(began, succeeded=True)
    for _ in range(20):
        places.leave(places.take(), succeeded=True)
    assert 4 == places.limit
    assert 4 == climbing(places, 10)


def test_no_most() -> None:
    """Without a most as many go as come, until the server refuses."""
    places = Places(None)
    for _ in range(1000):
        assert places.free
        places.take()
    places.refused(0)
    assert 700 == places.limit


def test_most_changed() -> None:
    """The most may be set anew: a share of it."""
    places = Places(8)
    places.take()
    places.change(1)
    assert not places.free
    places.change(None)
    assert places.free


# --------------------------------------------------------------------------------------------------------------------
# All of it
# --------------------------------------------------------------------------------------------------------------------


def used(made: Allowance, calls: int, tokens: float) -> Allowance:
    for _ in range(calls):
        made.take(0.0, tokens)
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
]


@pytest.mark.parametrize(("made", "wait"), WAITS)
def test_wait(made: Callable[[], Allowance], wait: float) -> None:
    """A call waits for whichever is short: requests, tokens, a place."""
    assert wait == made().wait(0.0, 10)


def test_pause() -> None:
    """A pause that the server asks for holds for everybody; a shorter one does not end it."""
    made = allowance()
    made.pause(0.0, 30.0)
    made.pause(1.0, 5.0)
    assert 29.0 == made.wait(1.0, 1) == made.asked(1.0, 1)
    assert 0.0 == made.wait(30.0, 1) == made.asked(30.0, 1)


def test_asked() -> None:
    """What the server asks for is told apart from what the limits do."""
    made = used(allowance(1), 1, 5)
    assert WINDOW == made.wait(0.0, 5)
    assert 0.0 == made.asked(0.0, 5)
    grant = made.take(0.0, 5)
    made.told(0.0, grant, RateLimits(Limit(remaining=0, reset=400.0), Limit(remaining=4, reset=500.0)))
    assert 400.0 == made.asked(0.0, 4)
    assert 500.0 == made.asked(0.0, 5)


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
    made = allowance(1000, 1000, 2)
    grant = made.take(0.0, 10)
    made.again(0.0, grant, status, 20.0)
    assert 20.0 == grant.request.at == grant.tokens.at
    assert pause == made.asked(0.0, 1)
    assert places == made.places.limit
    for rate, amount in ((made.requests, requests), (made.tokens, tokens)):
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
]


@pytest.mark.parametrize(("made", "status", "after", "wait"), AGAIN)
def test_again_within_limits(made: Allowance, status: int | None, after: float, wait: float) -> None:
    """An attempt that follows a failed one waits until the limits let it, at least as long as it would by itself."""
    made.take(0.0, 10)
    grant = made.take(0.0, 10)
    first = grant.request
    assert pytest.approx(wait) == made.again(5.0, grant, status, after)
    assert (first is grant.request) == (wait == math.inf)
    assert wait == math.inf or pytest.approx(5.0 + wait) == grant.request.at == grant.tokens.at


def test_again_while_paused() -> None:
    """It waits as long as the server asked others to."""
    made = allowance(100)
    grant = made.take(0.0, 1)
    made.pause(0.0, 30.0)
    assert 30.0 == made.again(0.0, grant, 500, 2.0)


def test_too_late_again() -> None:
    """One that would have to wait too long is charged nothing, and refused calls stay refused once."""
    made = allowance(2, None, 4)
    grant = used(made, 1, 10).take(0.0, 10)
    assert math.inf == made.again(1.0, grant, 429, 2.0, WINDOW - 1.0)
    assert (4, 0.0) == (made.places.limit, made.asked(1.0, 1))
    made.end(1.0, grant, 0, succeeded=False)
    assert 0.0 == made.requests.wait(WINDOW, 2)
    grant = made.take(WINDOW, 10)
    assert 2.0 == made.again(WINDOW, grant, 429, 2.0, 2.1)
    assert (1, 2.0) == (made.places.limit, made.asked(WINDOW, 1))


@pytest.mark.parametrize(
    ("ended", "requests", "tokens"),
    [
        (lambda made, grant: made.end(1.0, grant, 4), 1, 4),
        (lambda made, grant: made.end(1.0, grant, None), 1, 10),
        (lambda made, grant: made.end(1.0, grant, 0, succeeded=False), 1, 0),
        (lambda made, grant: made.end(1.0, grant, 4, sent=False), 0, 0),
        (lambda made, grant: made.end(1.0, grant, None, sent=False), 0, 0),
        (lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(1.0, grant, None, succeeded=False)), 1, 0),
        (lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(1.0, grant, 7)), 2, 7),  # sent before its time
        (lambda made, grant: (made.again(0.0, grant, 429, 20.0), made.end(20.0, grant, 7)), 2, 7),
    ],
)
def test_end(ended: Callable[[Allowance, object], object], requests: int, tokens: int) -> None:
    """A call that is over counts for what it took; one that was not sent, or left before it was sent again, for nothing."""
    made = allowance(100, 100, 5)
    ended(made, made.take(0.0, 10))
    assert 0 == made.places.taken
    for rate, amount in ((made.requests, requests), (made.tokens, tokens)):
        assert 0.0 == rate.wait(30.0, 100 - amount)
        assert bool(amount) == bool(rate.wait(30.0, 100 - amount + 0.5) not in (0.0, math.inf))
