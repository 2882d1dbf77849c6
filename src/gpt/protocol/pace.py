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
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from operator import attrgetter

from gpt.protocol.limits import Limit, RateLimits
from gpt.protocol.wire import Seconds

MINUTE = 60.0

WINDOW = 61.0
"""Seconds that the log goes back: a minute, and a second in which calls may overtake each other on their way."""

SOON: Seconds = 1e-6
"""Waits shorter than this are over: sums of floating-point times do not meet to the last digit."""

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
    """What one attempt takes from a rate. `amount` is what was reserved, later what was taken; `at` is when it goes out."""

    __slots__ = ("amount", "at", "logged", "place")

    def __init__(self, at: Seconds, amount: float, place: float) -> None:
        self.at = at
        self.amount = amount
        self.place = place
        """All that had been reserved up to here, this included: tells what a server cannot know of yet."""
        self.logged = True


class Rate:
    """One limit: `limit` in any minute, None where none is known. `given` tells that the caller named it.

    One that nobody gave is learnt from the server. After a pause `burst` seconds' worth may go at once; 60 and more means that
    nothing is spread.
    """

    __slots__ = (
        "_burst",
        "_left",
        "_level",
        "_log",
        "_refill",
        "_reserved",
        "_seen",
        "_stamp",
        "_sum",
        "_until",
        "given",
        "limit",
    )

    def __init__(self, limit: float | None, burst: Seconds = MINUTE) -> None:
        self.limit = limit
        self.given = limit is not None
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

    def fits(self, amount: float) -> bool:
        """Whether `amount` could ever go. Waiting does not help one that is larger than the limit."""
        return self.limit is None or amount <= self.limit

    def change(self, limit: float | None) -> None:
        """Set the limit, as the caller's. What has gone out counts against it."""
        self._set(limit)
        self.given = limit is not None

    def _set(self, limit: float | None) -> None:
        """Set the limit. What was taken from the bucket stays taken; a smaller one is not overdrawn by being smaller."""
        if limit is not None and self.limit is not None:
            more = (limit - self.limit) * self._burst / WINDOW
            self._level = max(min(self._level, 0.0), self._level + more)
        self.limit = limit

    def _advance(self, now: Seconds) -> None:
        """Let time pass."""
        passed = max(0.0, now - self._stamp)
        self._stamp = max(self._stamp, now)
        log = self._log
        while log and log[0].at + WINDOW - now <= SOON:
            old = log.popleft()
            old.logged = False
            self._sum -= old.amount
        if not log:
            self._sum = 0.0  # and with it what rounding left
        if self.limit is not None:
            flow = self.limit / WINDOW
            self._level = min(self._burst * flow, self._level + passed * flow)
        if self._refill:
            self._left += passed * self._refill

    def wait(self, now: Seconds, amount: float, ahead: float = 0.0) -> Seconds:
        """Seconds until `amount` may go, when at least `ahead` goes before it; 0.0 for now.

        At least so long: what goes meanwhile is not known. Endless for an amount that does not fit.
        """
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

    def settle(self, charge: Charge, amount: float) -> None:
        """Replace what was reserved by what was taken. The server's word stands: it knows its own count."""
        more = amount - charge.amount
        charge.amount = amount
        self._level -= more
        if charge.logged:
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
        self._left = said.remaining - (self._reserved - charge.place)
        self._refill = said.limit / window if window and said.limit else 0.0
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

    def refused(self, began: int) -> int:
        """The server refused a call of the round `began`. Gives the round that is now."""
        if began == self._round:
            under_way = self.taken if self.limit is None else min(self.taken, self.limit)
            self.limit = max(1, int(under_way * FALL))
            self._round += 1
            self._successes = 0
        return self._round

    def leave(self, began: int, *, succeeded: bool) -> None:
        """A call of the round `began` is over."""
        limit = self.limit
        if succeeded and limit is not None and began == self._round and self.taken >= limit and limit != self.maximum:
            self._successes += 1
            if self._successes >= limit:
                self.limit = limit + 1
                self._successes = 0
        self.taken -= 1


# --------------------------------------------------------------------------------------------------------------------
# All of it
# --------------------------------------------------------------------------------------------------------------------


class Grant:
    """Leave to go, and what it was charged: of a call that is tried again, the last attempt."""

    __slots__ = ("began", "request", "tokens")

    def __init__(self, request: Charge, tokens: Charge, began: int) -> None:
        self.request = request
        self.tokens = tokens
        self.began = began


class Allowance:
    """Requests, tokens, places, and pauses that the server asked for. Times are seconds from any start, and never go back."""

    __slots__ = ("_paused", "places", "requests", "tokens")

    def __init__(self, requests: Rate, tokens: Rate, places: Places) -> None:
        self.requests = requests
        self.tokens = tokens
        self.places = places
        self._paused = -math.inf

    def wait(self, now: Seconds, tokens: float, ahead: int = 0) -> Seconds:
        """Seconds until a call that may take `tokens` may go, at least, when `ahead` calls go before it; 0.0 for now.

        Endless while no place is free: then a call that ends opens one.
        """
        wait = max(self._paused - now, self.requests.wait(now, 1, ahead), self.tokens.wait(now, tokens))
        return wait if wait > SOON else 0.0 if self.places.free else math.inf

    def asked(self, now: Seconds, tokens: float) -> Seconds:
        """The part of that which the server itself asks for: a pause, or that nothing is left until then."""
        return max(0.0, self._paused - now, self.requests.word(now, 1), self.tokens.word(now, tokens))

    def take(self, now: Seconds, tokens: float) -> Grant:
        """Leave to go now."""
        return Grant(self.requests.take(now, 1), self.tokens.take(now, tokens), self.places.take())

    def again(self, now: Seconds, grant: Grant, status: int | None, after: Seconds, most: Seconds = math.inf) -> Seconds:
        """Charge an attempt that goes out in `after` seconds, or when the limits let it, since one with `status` failed.

        Gives the seconds until then; endless, and nothing is charged, where they would be `most` or more. One that goes at once
        (0.0) is charged, whatever the limits say. It keeps its place, and goes before those in line. A refusal pauses everybody
        for as long as it asks. The failed request counts, as it does with the servers; its tokens do, unless the server refused
        it.
        """
        reserved = grant.tokens.amount
        if (status is not None and status < 500) or status in REFUSALS:
            self.tokens.settle(grant.tokens, 0)
        wait = after and max(after, self._paused - now, self.requests.wait(now, 1), self.tokens.wait(now, reserved))
        if wait >= most:
            return math.inf
        if status in REFUSALS:
            grant.began = self.places.refused(grant.began)
            self.pause(now, after)
        grant.request = self.requests.take(now, 1, wait)
        grant.tokens = self.tokens.take(now, reserved, wait)
        return wait

    def pause(self, now: Seconds, seconds: Seconds) -> None:
        """Let nobody go for so long."""
        self._paused = max(self._paused, now + seconds)

    def told(self, now: Seconds, grant: Grant, limits: RateLimits) -> None:
        """Take in what the server said of its limits in its answer."""
        self.requests.told(now, limits.requests, grant.request)
        self.tokens.told(now, limits.tokens, grant.tokens)

    def end(self, now: Seconds, grant: Grant, tokens: float | None, *, sent: bool = True, succeeded: bool = True) -> None:
        """The call is over. It took `tokens`; None where nobody knows, and what was reserved stands.

        Nothing counts of one that was not `sent`. One that did not succeed and whose last attempt lies ahead was left before
        that. Only one that `succeeded` shows that the server can bear so many at once.
        """
        self.places.leave(grant.began, succeeded=succeeded)
        if not sent or (grant.request.at > now and not succeeded):
            self.requests.settle(grant.request, 0)
            tokens = 0
        if tokens is not None:
            self.tokens.settle(grant.tokens, tokens)
