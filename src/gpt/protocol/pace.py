"""How fast calls may go: so many requests and tokens a minute, so many at once. Arithmetic over a time that is passed in.

The invariant: what goes out in any minute is at most the limit. A token bucket as large as the limit does not keep it (a full
one and what flows in meanwhile are twice the limit in one minute), so what went out is kept in a log, and a call waits until
enough of it is older than a minute. The log is kept a second longer than that, because calls take their time to the server, not
all the same: what left in 61 seconds is what may arrive in 60. That costs 1.6 % of the rate.

Tokens count when the call begins, as many as it may take (`reserve.py`); what it took in the end replaces that, at the same
place in the log, so that giving back never lets a window run over. Only a call that takes more than was reserved can.

A bucket beside the log spreads the calls over the minute: servers are known to watch a second or ten (Azure: "How to: manage
quota"; the hosted service's help page on 429). It holds `burst` seconds' worth, may be overdrawn by the call that finds
something in it, and never is what bounds a minute.

A server's word (`limits.py`) that less is left wins over all of it, until the time at which it says that all is there again.

One of several processes may be given a `share` of each limit, of what is learnt too. What is larger than the share, but not
than the whole limit, goes when nothing of the last minute is left, and overdraws the bucket, so that the share holds in the
long run.

How many at once is found out (`AdaptivePlaces`), where the caller does not know, from refusals and from what comes through.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from operator import attrgetter
from typing import NamedTuple

from gpt.protocol.limits import Limit, RateLimits
from gpt.protocol.wire import Seconds

MINUTE = 60.0

WINDOW = 61.0
"""Seconds that the log goes back: a minute, and a second in which calls may overtake each other on their way."""

SOON: Seconds = 1e-6
"""Waits shorter than this are over: sums of floating-point times do not meet to the last digit."""

TOGETHER: Seconds = 1.0
"""What goes out in such a time is put down as one while nothing limits it."""

_WINDOWS = (60.0, 3600.0, 86400.0)
_NEAR = 0.1

FALL = 0.7
"""What concurrency is multiplied by when a server refuses. Source: RFC 9438 (CUBIC), section 4.6; TCP before it took a half."""

REFUSALS = frozenset({429, 503, 529})
"""Statuses by which a server says that it is asked too much."""


# --------------------------------------------------------------------------------------------------------------------
# So much a minute
# --------------------------------------------------------------------------------------------------------------------


class Charge:
    """What one attempt takes from a rate. `amount` is what was reserved, later what was taken; `at` is when it goes out.

    While nothing limits a rate those of a second are put together in one, which they are `within`: a batch makes hundreds of
    thousands of calls in a minute.
    """

    __slots__ = ("amount", "at", "logged", "place", "since", "within")

    def __init__(self, at: Seconds, amount: float, place: float, within: Charge | None = None) -> None:
        self.at = at
        self.amount = amount
        self.place = place
        """All that had been reserved up to here, this included: tells what a server cannot know of yet."""
        self.logged = within is None
        self.within = within
        self.since = -math.inf
        """Of one that is several: when the first went out."""


class Rate:
    """One limit: `limit` in any minute, None where none is known. `given` tells that the caller named it.

    One that nobody gave is learnt from the server. After a pause `burst` seconds' worth may go at once; 60 and more means that
    nothing is spread. Of a limit below 1, one goes each 60 / limit seconds (and a second in 60), whatever the burst.
    """

    __slots__ = (
        "_burst",
        "_left",
        "_level",
        "_log",
        "_refill",
        "_reserved",
        "_seen",
        "_share",
        "_stamp",
        "_sum",
        "_until",
        "_whole",
        "given",
        "limit",
    )

    def __init__(self, limit: float | None, burst: Seconds = MINUTE) -> None:
        self.limit = self._whole = limit
        self.given = limit is not None
        self._share = 1.0
        self._burst = burst
        self._log: deque[Charge] = deque()
        self._sum = 0.0
        self._level = math.inf
        """Of the bucket, at `_stamp`; below 0 it is overdrawn."""
        self._stamp = -math.inf
        self._reserved = 0.0
        # The server's word: so much left at `_stamp`, so much more a second, void from `_until` on.
        self._left = 0.0
        self._refill = 0.0
        self._until = -math.inf
        self._seen = -math.inf

    @property
    def counts(self) -> bool:
        """Whether it matters what a call takes: a limit is known, or the server says what is left."""
        return self.limit is not None or self._until > self._stamp

    @property
    def most(self) -> float | None:
        """The largest amount that could ever go: the whole limit, of which `limit` may be a share. None: any."""
        return self._whole

    def fits(self, amount: float) -> bool:
        """Whether `amount` could ever go. No wait helps one that is larger than the limit; it may be than a share of it.

        1 always goes: of a limit of half a request a minute, one in two.
        """
        return self._whole is None or amount <= self._whole or amount <= 1

    def change(self, limit: float | None) -> None:
        """Set the limit, as the caller's. What has gone out counts against it."""
        self._set(limit)
        self.given = limit is not None

    def part(self, share: float) -> None:
        """Keep to this part of the limit, and of what the server says is left: others use the rest."""
        self._share = share
        self._set(self._whole)

    def _set(self, whole: float | None) -> None:
        """Set the limit. What was taken from the bucket stays taken; a smaller one is not overdrawn by being smaller."""
        self._whole = whole
        limit = whole if whole is None or self._share == 1.0 else whole * self._share
        if limit is not None and self.limit is not None:
            more = self._full(limit) - self._full(self.limit)
            self._level = max(min(self._level, 0.0), self._level + more)
        self.limit = limit

    def _full(self, limit: float) -> float:
        """What the bucket of a limit holds. Of less than one a minute nothing may be saved up: two would go at once."""
        return limit * self._burst / WINDOW if limit >= 1 else 0.0

    def _advance(self, now: Seconds) -> None:
        """Let time pass."""
        passed = now - self._stamp
        if passed > 0.0:
            self._stamp = now
        else:
            passed = 0.0
        log = self._log
        while log and log[0].at + WINDOW - now <= SOON:
            old = log.popleft()
            old.logged = False
            self._sum -= old.amount
            if not log:
                self._sum = 0.0  # and with it what rounding left
        if self.limit is not None:
            flow = self.limit / WINDOW
            self._level = min(self._full(self.limit), self._level + passed * flow)
        if self._refill:
            self._left += passed * self._refill

    def wait(self, now: Seconds, amount: float, ahead: float = 0.0) -> Seconds:
        """Seconds until `amount` may go, when at least `ahead` goes before it; 0.0 for now.

        At least so long: what goes meanwhile is not known. Endless for an amount that does not fit.
        """
        if self.limit is None and self._until <= self._stamp:
            return 0.0  # most have no limit on input tokens or output tokens, and need not pay for it
        self._advance(now)
        waits = self.word(now, amount)
        if self.limit is None:
            return waits
        if not self.fits(amount):
            return math.inf
        flow = self.limit / WINDOW
        if self._level - ahead < -SOON * flow:
            waits = max(waits, (ahead - self._level) / flow)
        missing = self._sum + min(ahead + amount, self.limit) - self.limit
        if missing > 0:
            last = now - WINDOW
            for charge in self._log:
                last = charge.at
                missing -= charge.amount
                if missing <= 0:
                    break  # or not at all, where sums do not meet to the last digit: then all of them have to go
            waits = max(waits, last + WINDOW - now)
        return waits

    def word(self, now: Seconds, amount: float) -> Seconds:
        """Seconds for which the server's word holds `amount` back."""
        if now >= self._until or self._left >= amount:
            return 0.0
        left = self._until - now
        return min(left, (amount - self._left) / self._refill) if self._refill else left

    def take(self, now: Seconds, amount: float, after: Seconds = 0.0) -> Charge:
        """The charge of an attempt that goes out in `after` seconds, whatever the limit says."""
        if not after and self.limit is None and self._until <= self._stamp:
            return self._put_together(now, amount)
        self._advance(now)
        self._reserved += amount
        charge = Charge(now + after, amount, self._reserved)
        if self._log and self._log[-1].at > charge.at:
            insort(self._log, charge, key=attrgetter("at"))
        else:
            self._log.append(charge)
        self._sum += amount
        self._level -= amount
        self._left -= amount
        return charge

    def _put_together(self, now: Seconds, amount: float) -> Charge:
        """The charge of an attempt that goes out now, which nothing limits: it counts where a limit is told of later."""
        self._reserved += amount
        log = self._log
        if not log or now - log[-1].since >= TOGETHER or log[-1].at > now:
            self._advance(now)
            one = Charge(max(now, log[-1].at) if log else now, 0.0, self._reserved)
            one.since = now
            log.append(one)
        one = log[-1]
        one.at = max(one.at, now)
        one.amount += amount
        self._sum += amount
        return Charge(now, amount, self._reserved, one)

    def settle(self, charge: Charge, amount: float) -> None:
        """Replace what was reserved by what was taken. The server's word stands: it knows its own count."""
        more = amount - charge.amount
        charge.amount = amount
        self._level -= more
        counted = charge
        if charge.within is not None:
            counted = charge.within
            counted.amount += more
        if counted.logged:
            self._sum += more

    def told(self, now: Seconds, said: Limit, charge: Charge) -> None:
        """Take in what the server said in its answer to the attempt of `charge`.

        What was reserved after that attempt it may not have known of. A word on an earlier attempt than the last one's is old.
        """
        if charge.place < self._seen:
            return
        self._seen = charge.place
        self._advance(now)
        window = _window(said)
        if not self.given and said.limit:
            per_minute = window == MINUTE or (window is None and (said.reset or 0.0) <= WINDOW)
            self._set(said.limit if per_minute else None)
        if said.remaining is None:
            return
        self._left = said.remaining * self._share - (self._reserved - charge.place)
        self._refill = said.limit * self._share / window if window and said.limit else 0.0
        self._until = now + (MINUTE if said.reset is None else said.reset)


def _window(said: Limit) -> Seconds | None:
    """The seconds in which a limit flows back, where the figures tell: a minute, an hour or a day. None where they do not.

    On the hosted service and Groq each part taken comes back by itself, so the time until all is there again is the part that
    is taken of the window: "8.64s" after one of 10,000 requests is a day. Azure and OpenRouter begin anew at a fixed time, by
    which nothing is told. Requests of a day are what Groq means by `-requests` (its page on rate limits).
    """
    if not said.limit or said.remaining is None or not said.reset or said.remaining >= said.limit:
        return None
    whole = said.reset * said.limit / (said.limit - said.remaining)
    return next((window for window in _WINDOWS if abs(whole - window) <= _NEAR * window), None)


# --------------------------------------------------------------------------------------------------------------------
# So many at once
# --------------------------------------------------------------------------------------------------------------------


class Places:
    """How many calls are under way, and may be: falls by `FALL` when the server refuses, and climbs back by one at a time.

    The rule is TCP's: a refusal counts once for all calls that were under way, because they met the same server; as many
    successes as there are places make one more, and only where all places are in use, since else they show nothing. At least 1,
    at most `maximum`; None: as many as come, until a server refuses. Source: RFC 5681, section 3.1.
    """

    __slots__ = ("_round", "_successes", "limit", "maximum", "taken")

    def __init__(self, maximum: int | None = None) -> None:
        self.maximum = maximum
        self.limit = maximum
        self.taken = 0
        self._round = 0
        self._successes = 0

    @property
    def free(self) -> bool:
        """Whether one more call may begin."""
        return self.limit is None or self.taken < self.limit

    def change(self, maximum: int | None) -> None:
        """Set the most. It is what there is at once: the server will say if that is too much."""
        self.maximum = self.limit = maximum

    def take(self) -> int:
        """Begin a call. Gives the round in which it began, for `refused` and `leave`."""
        self.taken += 1
        return self._round

    def refused(self, now: Seconds, began: int) -> int:  # noqa: ARG002 - it matters to AdaptivePlaces
        """The server refused a call of the round `began`. Gives the round that is now."""
        if began == self._round:
            under_way = self.taken if self.limit is None else min(self.taken, self.limit)
            self.limit = max(1, int(under_way * FALL))
            self._round += 1
            self._successes = 0
        return self._round

    def leave(self, now: Seconds, began: int, elapsed: Seconds, tokens: float, *, succeeded: bool) -> None:  # noqa: ARG002
        """A call of the round `began` is over. It took `elapsed` seconds, and its answer `tokens`; 0 where nobody knows."""
        limit = self.limit
        if succeeded and limit is not None and began == self._round and self.taken >= limit and limit != self.maximum:
            self._successes += 1
            if self._successes >= limit:
                self.limit = limit + 1
                self._successes = 0
        self.taken -= 1


class Measured(NamedTuple):
    """What came through a second while so many calls were under way."""

    places: int
    calls: float
    tokens: float
    """Of the answers; 0.0 where not all calls told theirs."""
    error: float
    """The standard error of that, as a part of it."""

    def gain(self, other: Measured) -> float:
        """How much more than at the other came through, as a logarithm: 0.1 is a tenth more. By tokens where both know them."""
        known = self.tokens and other.tokens
        return math.log(self.tokens / other.tokens if known else self.calls / other.calls)

    def changed(self, other: Measured, places: float = 1.0) -> int:
        """1 where more came through, -1 where less, than the other and so many times the places tell; 0 where the two agree."""
        gain = self.gain(other) - math.log(places)
        return 0 if abs(gain) <= CHANGED + 2 * math.hypot(self.error, other.error) else 1 if gain > 0 else -1

    def worth(self, fewer: Measured) -> float:
        """What the places beyond `fewer` are worth: 1.0 where each brings as much as those before, 0.0 where none does.

        Where calls are over within `QUICK` it is 1.0: a queue that short troubles nobody, and what the caller itself takes
        between its calls, which a rate by places leaves out, would be a good part of it.
        """
        if self.places < QUICK * self.calls:
            return 1.0
        return self.gain(fewer) / math.log(self.places / fewer.places)


FIRST = 8
"""Places at the start."""

WORTH = 0.2
"""What more places must be worth to be kept."""

QUICK: Seconds = 0.1
"""Calls that take less on average may be as many as they like."""

FULL_WORTH = 0.6
"""More places that are worth as much are not given up again soon: fewer would bring less."""

APART = 1.2
"""Numbers of places are compared where one is so many times the other: rates of closer ones differ by less than they vary."""

ACCURACY = 0.05
"""The standard error of a measured rate, as a part of it, at which a round has seen enough."""

LONGEST_ROUND = 4
ENOUGH_CALLS = 128
"""A round ends after so many calls a place, and so many in all, however little they agree."""

CHANGED = 0.2
"""The server is another when as many places bring so much more or less, in logarithms, beyond what measuring errs by."""

AGAIN = 4
AGAIN_MORE = 8
AGAIN_FEWER = 32
"""Rounds after which more or fewer are tried again, and more, and fewer, at the latest."""

HOLD: Seconds = 20.0
HOLD_LONGEST: Seconds = 160.0
"""How long the number of places that a server refused is kept clear of; doubled each time that it refuses it again."""


class AdaptivePlaces(Places):
    """Places that find out by themselves how many the server can use: from refusals, and from how much comes through.

    A *round* is as many calls as there are places, all begun with as many under way. From it the *rate* is *measured*: tokens
    of answers (calls, where some do not tell) a second. By Little's law that is the places times all tokens over all times,
    which hardly varies with how long the answers happen to be, as a count in a stretch of time does: the long ones take longer.
    A round lasts until its rate is known to `ACCURACY`, or `LONGEST_ROUND` times as long.

    What more places are *worth* is by what power of their number the rate grew: 1 on a server that has as many places to
    itself, 0 on one that lets the rest wait in a queue, 0.5 or so on one that computes them together, slower each and faster in
    all. They are kept for `WORTH`. So a latency that grows is no reason to fall, unless nothing more comes through for it (TCP
    Vegas, and `VegasLimit` and `Gradient2Limit` of Netflix's concurrency-limits fall by latency alone, which on such a server
    is wrong).

    It begins with `FIRST` and *doubles* each round, a place for each success, as slow start does (RFC 5681, section 3.1), until
    a doubling is not worth it or the server refuses. Then it *holds*, and from time to time tries *more*, or *fewer*, by the
    factor `FALL`, and stays with what is better: one by one the rates would differ by less than they vary. A trial in vain
    doubles the rounds until the next; a rate that changed by itself ends the wait, because it is another server then.

    A refusal takes it to `FALL` of what was under way, once for all that were (RFC 9438, section 4.6), and the number is
    remembered as the *ceiling*: it climbs half of the way to it each round, as CUBIC's forerunner BIC does, holds one below it
    for `HOLD` seconds, and then tries one beyond it, two, four, as long as the server takes them. As with CUBIC (section 4.2)
    most of the time passes just below what was refused, and not between that and a half, as with TCP before.
    """

    __slots__ = (
        "_again_fewer",
        "_again_more",
        "_beyond",
        "_ceiling",
        "_doing",
        "_fell",
        "_here",
        "_hold",
        "_lower",
        "_refused",
        "_sums",
        "_target",
        "_until_fewer",
        "_until_more",
    )

    limit: int

    def __init__(self, maximum: int | None = None) -> None:
        super().__init__(maximum)
        self._target = self.limit = FIRST if maximum is None else min(FIRST, maximum)
        """Places are added one by one until there are so many."""
        self._doing = "doubling"
        self._here: Measured | None = None
        """What was measured with the places that are held."""
        self._lower: Measured | None = None
        """With fewer, by which more are judged."""
        self._fell = 0
        """The round that began with the last refusal."""
        self._ceiling = math.inf
        self._refused = -math.inf
        self._hold = HOLD
        self._beyond = 0
        """How many more than were refused are being tried."""
        self._again_more = self._until_more = 1
        self._again_fewer = self._until_fewer = AGAIN_FEWER
        self._begin()

    def _begin(self) -> None:
        """Begin a round: calls that begin from now on count."""
        self._round += 1
        self._sums = _Sums()

    def change(self, maximum: int | None) -> None:
        """Set the most, such as a process's share of it: what was found out becomes as much more or less."""
        part = 1.0 if maximum is None or self.maximum is None else maximum / self.maximum
        self.maximum = maximum
        self._ceiling *= part
        self._here = self._lower = None
        self._beyond = 0
        if self._doing != "doubling":
            self._doing = "holding"
        self._to(self.limit * part)

    def refused(self, now: Seconds, began: int) -> int:
        if began < self._fell:
            # One of many at once: the server bore one less than it seemed.
            self._ceiling = max(self.limit + 1, self._ceiling - 1)
            return self._round
        self._hold = min(HOLD_LONGEST, self._hold * 2) if self._beyond else HOLD
        self._beyond = 0
        self._refused = now
        self._ceiling = min(self.taken, self.limit)
        self._here = self._lower = None
        self._doing = "more"
        self.limit = int(self._ceiling)
        self._to(self._ceiling * FALL)
        self._fell = self._round
        return self._round

    def leave(self, now: Seconds, began: int, elapsed: Seconds, tokens: float, *, succeeded: bool) -> None:
        # Three quarters: callers come back for a place a little later than they left it.
        used = 4 * self.taken >= 3 * self.limit
        self.taken -= 1
        if not succeeded or not used or began < self._fell or elapsed <= 0:
            return
        if self.limit < self._target:
            self.limit += 1
            if self.limit == self._target:
                self._begin()
        elif began == self._round:
            sums = self._sums
            sums.add(elapsed, tokens)
            least = max(self.limit, FIRST)
            if sums.calls >= least and (sums.calls >= max(LONGEST_ROUND * least, ENOUGH_CALLS) or sums.error() <= ACCURACY):
                self._decide(now, sums.measured(self.limit))

    def _to(self, places: float) -> None:
        """Go to so many places: fewer at once, more one by one."""
        self._target = max(1, int(places if self.maximum is None else min(places, self.maximum)))
        self.limit = min(self.limit, self._target)
        self._begin()

    def _decide(self, now: Seconds, found: Measured) -> None:
        """Go on from what a round found."""
        if self._doing == "doubling":
            self._doubled(found)
        elif self._doing == "fewer":
            self._had_fewer(found)
        elif self._doing == "more":
            self._had_more(now, found)
        else:
            self._held(now, found)

    def _keep(self, here: Measured) -> None:
        """Hold as many places as `here`."""
        self._doing = "holding"
        self._beyond = 0
        self._here = here
        self._to(here.places)

    def _doubled(self, found: Measured) -> None:
        before = self._lower
        if before is None or found.worth(before) >= WORTH:
            self._here = self._lower = found
            if found.places == self.maximum:
                self._keep(found)
            else:
                self._to(2 * found.places)
            return
        self._until_more = self._again_more = AGAIN
        self._until_fewer = 1
        self._keep(before)

    def _had_fewer(self, found: Measured) -> None:
        here = self._here
        assert here is not None
        if found.changed(here, found.places / here.places) < 0:
            # More was lost than fewer places can account for: that was the server. Look again from here.
            self._until_fewer = 0
            self._keep(found)
        elif here.worth(found) >= WORTH:
            self._again_fewer = self._until_fewer = min(AGAIN_FEWER, self._again_fewer * 2)
            self._keep(here)
        else:
            self._again_fewer = AGAIN
            self._try_fewer(found)

    def _had_more(self, now: Seconds, found: Measured) -> None:
        lower = self._lower
        if lower is None:
            self._lower = found
        elif found.places >= APART * lower.places:
            worth = found.worth(lower)
            if worth < WORTH + math.hypot(found.error, lower.error) / math.log(found.places / lower.places):
                self._until_more = self._again_more = min(AGAIN_MORE, self._again_more * 2)
                self._keep(lower)
                return
            self._lower = found
            self._again_more = 2
            self._again_fewer = self._until_fewer = AGAIN if worth < FULL_WORTH else AGAIN_FEWER
        self._here = found
        if self._beyond:
            self._hold = HOLD
            self._beyond *= 2
        self._try_more(now, found)

    def _held(self, now: Seconds, found: Measured) -> None:
        changed = 0 if self._here is None else found.changed(self._here)
        self._until_more -= 1
        self._until_fewer -= 1
        if self._here is None:
            self._here = found
        elif changed > 0:
            self._here = found
            self._until_more, self._again_more = 0, 1
        elif changed < 0:
            self._here = found
            self._until_fewer, self._again_fewer = 0, 1
        if self._until_fewer <= 0 and found.places > 1:
            self._until_fewer = self._again_fewer
            self._try_fewer(found)
        elif self._until_more <= 0 and found.places != self.maximum:
            self._lower = found
            self._try_more(now, found)
        else:
            self._begin()

    def _try_fewer(self, here: Measured) -> None:
        if here.places == 1:
            self._keep(here)
            return
        self._doing = "fewer"
        self._here = here
        self._to(here.places * FALL)

    def _try_more(self, now: Seconds, here: Measured) -> None:
        places = here.places
        most = max(places + 1, int(places / FALL))
        if places == self.maximum:
            self._keep(here)
        elif places + 1 < self._ceiling:
            halfway = math.inf if self._ceiling == math.inf else max(places + 1, (places + int(self._ceiling)) // 2)
            self._doing = "more"
            self._to(min(most, halfway))
        elif now - self._refused >= self._hold:
            self._doing = "more"
            self._beyond = self._beyond or 1
            self._to(min(most, places + self._beyond))
        else:
            self._until_more = 1
            self._keep(here)


class _Sums:
    """What the calls of a round add up to."""

    __slots__ = ("both", "calls", "elapsed", "elapsed_squares", "tokens", "tokens_squares", "untold")

    def __init__(self) -> None:
        self.calls = 0
        self.untold = 0
        """Calls of whose tokens nobody told."""
        self.elapsed = self.elapsed_squares = 0.0
        self.tokens = self.tokens_squares = self.both = 0.0

    def add(self, elapsed: Seconds, tokens: float) -> None:
        self.calls += 1
        self.untold += not tokens
        self.elapsed += elapsed
        self.elapsed_squares += elapsed * elapsed
        self.tokens += tokens
        self.tokens_squares += tokens * tokens
        self.both += tokens * elapsed

    def error(self) -> float:
        """The standard error of the rate, as a part of it: a ratio of two sums (Cochran, Sampling Techniques, chapter 6)."""
        made, squares, both = (
            (self.calls, self.calls, self.elapsed) if self.untold else (self.tokens, self.tokens_squares, self.both)
        )
        ratio = made / self.elapsed
        return math.sqrt(max(0.0, squares - 2 * ratio * both + ratio * ratio * self.elapsed_squares)) / made

    def measured(self, places: int) -> Measured:
        a_second = places / self.elapsed
        return Measured(places, self.calls * a_second, 0.0 if self.untold else self.tokens * a_second, self.error())


# --------------------------------------------------------------------------------------------------------------------
# All of it
# --------------------------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """Tokens that a call may take, or took: all of them, of the prompt, of the answer."""

    total: float = 0
    input: float = 0
    output: float = 0


class Grant:
    """Leave to go, and what it was charged: of a call that is tried again, the last attempt."""

    __slots__ = ("began", "input_tokens", "output_tokens", "request", "tokens")

    def __init__(self, request: Charge, tokens: Charge, input_tokens: Charge, output_tokens: Charge, began: int) -> None:
        self.request = request
        self.tokens = tokens
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.began = began

    @property
    def charged(self) -> Tokens:
        """The tokens that it was charged."""
        return Tokens(self.tokens.amount, self.input_tokens.amount, self.output_tokens.amount)


class Allowance:
    """Requests, tokens, places, and pauses that the server asked for. Times are seconds from any start, and never go back.

    Tokens are limited together, and those of prompts and of answers apart; a call keeps to each of these that is known.
    """

    __slots__ = ("_paused", "input_tokens", "output_tokens", "places", "requests", "tokens")

    def __init__(self, requests: Rate, tokens: Rate, input_tokens: Rate, output_tokens: Rate, places: Places) -> None:
        self.requests = requests
        self.tokens = tokens
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.places = places
        self._paused = -math.inf

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters what tokens a call takes."""
        return self.tokens.counts or self.input_tokens.counts or self.output_tokens.counts

    def fits(self, tokens: Tokens) -> bool:
        """Whether a call that may take `tokens` could ever go."""
        return (
            self.tokens.fits(tokens.total) and self.input_tokens.fits(tokens.input) and self.output_tokens.fits(tokens.output)
        )

    def part(self, share: float) -> None:
        """Keep to this part of all rates."""
        for rate in (self.requests, self.tokens, self.input_tokens, self.output_tokens):
            rate.part(share)

    def wait(self, now: Seconds, tokens: Tokens, ahead: int = 0) -> Seconds:
        """Seconds until a call that may take `tokens` may go, at least, when `ahead` calls go before it; 0.0 for now.

        Endless while no place is free: then a call that ends opens one.
        """
        total, prompt, answer = tokens
        wait = max(
            self._paused - now,
            self.requests.wait(now, 1, ahead),
            self.tokens.wait(now, total),
            self.input_tokens.wait(now, prompt),
            self.output_tokens.wait(now, answer),
        )
        return wait if wait > SOON else 0.0 if self.places.free else math.inf

    def asked(self, now: Seconds, tokens: Tokens) -> Seconds:
        """The part of that which the server itself asks for: a pause, or that nothing is left until then."""
        return max(
            0.0,
            self._paused - now,
            self.requests.word(now, 1),
            self.tokens.word(now, tokens.total),
            self.input_tokens.word(now, tokens.input),
            self.output_tokens.word(now, tokens.output),
        )

    def take(self, now: Seconds, tokens: Tokens) -> Grant:
        """Leave to go now."""
        total, prompt, answer = tokens
        return Grant(
            self.requests.take(now, 1),
            self.tokens.take(now, total),
            self.input_tokens.take(now, prompt),
            self.output_tokens.take(now, answer),
            self.places.take(),
        )

    def again(self, now: Seconds, grant: Grant, status: int | None, after: Seconds, most: Seconds = math.inf) -> Seconds:
        """Charge an attempt that goes out in `after` seconds, or when the limits let it, since one with `status` failed.

        Gives the seconds until then; endless, and nothing is charged, where they would be `most` or more. One that goes at once
        (0.0) is charged, whatever the limits say. It keeps its place, and goes before those in line. A refusal pauses everybody
        for as long as it asks. The failed request counts, as it does with the servers; its tokens do, unless the server refused
        it.
        """
        reserved = grant.charged
        if (status is not None and status < 500) or status in REFUSALS:
            self._settle(grant, Tokens())
        wait = after and max(
            after,
            self._paused - now,
            self.requests.wait(now, 1),
            self.tokens.wait(now, reserved.total),
            self.input_tokens.wait(now, reserved.input),
            self.output_tokens.wait(now, reserved.output),
        )
        if wait >= most:
            return math.inf
        if status in REFUSALS:
            grant.began = self.places.refused(now, grant.began)
            self.pause(now, after)
        grant.request = self.requests.take(now, 1, wait)
        grant.tokens = self.tokens.take(now, reserved.total, wait)
        grant.input_tokens = self.input_tokens.take(now, reserved.input, wait)
        grant.output_tokens = self.output_tokens.take(now, reserved.output, wait)
        return wait

    def held(self, now: Seconds) -> Seconds:
        """Seconds for which nobody goes yet; 0.0 where there is no pause."""
        return max(0.0, self._paused - now)

    def pause(self, now: Seconds, seconds: Seconds) -> None:
        """Let nobody go for so long."""
        self._paused = max(self._paused, now + seconds)

    def told(self, now: Seconds, grant: Grant, limits: RateLimits) -> None:
        """Take in what the server said of its limits in its answer."""
        self.requests.told(now, limits.requests, grant.request)
        self.tokens.told(now, limits.tokens, grant.tokens)
        self.input_tokens.told(now, limits.input_tokens, grant.input_tokens)
        self.output_tokens.told(now, limits.output_tokens, grant.output_tokens)

    def end(self, now: Seconds, grant: Grant, tokens: Tokens | None, *, sent: bool = True, succeeded: bool = True) -> None:
        """The call is over. It took `tokens`; None where nobody knows, and what was reserved stands.

        Nothing counts of one that was not `sent`. One that did not succeed and whose last attempt lies ahead was left before
        that. Only one that `succeeded` shows that the server can bear so many at once.
        """
        answer = tokens.output if tokens is not None else 0
        self.places.leave(now, grant.began, now - grant.request.at, answer, succeeded=succeeded)
        if not sent or (grant.request.at > now and not succeeded):
            self.requests.settle(grant.request, 0)
            tokens = Tokens()
        if tokens is not None:
            self._settle(grant, tokens)

    def _settle(self, grant: Grant, tokens: Tokens) -> None:
        self.tokens.settle(grant.tokens, tokens.total)
        self.input_tokens.settle(grant.input_tokens, tokens.input)
        self.output_tokens.settle(grant.output_tokens, tokens.output)
