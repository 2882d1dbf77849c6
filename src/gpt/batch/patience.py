"""What comes of a row that was not answered: it failed, it is asked again, or the job stops. Arithmetic over a time passed in.

A row's own fault fails it: the service refused what it asks, its answer was no value. What may be the service's or the
network's puts it back in line, `attempts` times, for the client's retries have been used up by then; a refusal for being asked
too much, and a connection that did not come about, ten times as often, since they say nothing of the row.

Where eight rows in a row are not answered, the service is away. Then nothing goes out but one row at a time, after a pause that
doubles up to a minute, until one is answered; rows that have not been asked yet go first. No row fails then. A service that
stays away for `give_up` seconds stops the job, to be resumed; a tenth of that where nothing has been answered since the start,
which is rather an address that is wrong.

It may also be that only rows are left that the service breaks down over. So what stops the job is a row that had not been
asked before, or a failure that says nothing of the row. A row that was asked `attempts` times fails then, after `give_up`
seconds, and the others that are left come to their ends, one about each second. More broken rows than are asked
at a time, or come to be asked in `give_up` seconds, cannot be told from a service that is away.

A key that is not taken, and an account that is used up, stop the job at once: each row would fail in the same way. So do ten
first rows that fail in the same words, before any is kept: then what was asked was wrong, and that is changed more easily while
nothing is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from gpt.errors import (
    AuthenticationError,
    BadRequestError,
    GptError,
    MalformedResponseError,
    ModelNotFoundError,
    OverloadedError,
    ParseError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    ResponseError,
    ServerError,
    TransportError,
)
from gpt.protocol.retry import _REFUSED_FOR_NOW
from gpt.protocol.wire import Seconds

ATTEMPTS = 4
GIVE_UP: Seconds = 600.0

AWAY = 8
"""Rows in a row that are not answered, from which on the service is taken to be away."""

SAME = 10
"""First rows that fail in the same words, after which the job stops."""

_LONGEST: Seconds = 60.0
_PATIENT = 10
_BROKEN = 2

Verdict: TypeAlias = Literal["failed", "again", "stop"]


class Patience:
    """What is known of the service, by what came of the rows asked last. `chance` gives a number from 0 to 1.

    `earlier` rows were answered by earlier runs: a model that is not there, or may not be asked, is a row's own fault then.
    """

    def __init__(
        self, chance: Callable[[], float], attempts: int = ATTEMPTS, give_up: Seconds = GIVE_UP, earlier: int = 0
    ) -> None:
        self._chance = chance
        self._earlier = earlier
        self._attempts = attempts
        self._give_up = give_up
        self._tries: dict[int, int] = {}
        self._probes: dict[int, int] = {}  # while it is away; they do not count when it is back
        self._failing: set[int] = set()
        self._unsent = 0
        self._failures = 0
        self._since: Seconds | None = None
        self._pauses = 0
        self._next: Seconds = 0.0
        self.answers = 0
        """Rows that were answered."""
        self.last: GptError | None = None
        """What the last row failed with, while the service is away."""

    @property
    def away(self) -> bool:
        """Whether the service is taken to be away: one row is asked at a time."""
        return self.last is not None

    def answered(self, row: int) -> None:
        """A row was answered."""
        self.answers += 1
        self._tries.pop(row, None)
        self._there()

    def failed(self, now: Seconds, row: int, error: GptError) -> Verdict:
        """What comes of a row that failed with `error`."""
        if isinstance(error, (AuthenticationError, QuotaError)):
            return "stop"
        if isinstance(error, (PermissionDeniedError, ModelNotFoundError)):
            return "failed" if self.answers or self._earlier else "stop"
        if not _passes(error):
            self._tries.pop(row, None)
            if isinstance(error, (ResponseError, ParseError)):
                self._there()
            return "failed"
        if isinstance(error, TransportError) and error.permanent and not self.answers:
            return "stop"
        unsent = isinstance(error, TransportError) and not error.sent
        says_nothing = unsent or isinstance(error, (RateLimitError, OverloadedError))
        if self._since is None:
            self._since = now
        self._failing.add(row)
        self._unsent += says_nothing
        self._failures += 1
        if not (self.away or self._goes_away()):
            tries = self._tries[row] = self._tries.get(row, 0) + 1
            if tries >= self._attempts * (_PATIENT if says_nothing else 1):
                del self._tries[row]
                return "failed"
            return "again"
        self._probes[row] = self._probes.get(row, 0) + 1
        tries = self._tries.get(row, 0) + self._probes[row]
        over = now - self._since >= self._give_up / (1 if self.answers else 10)
        if over and (says_nothing or tries == 1):
            return "stop"
        if not self.away or now >= self._next:  # what was under way when it went away is no new try
            self._next = now + self._pause(0 if over else self._pauses)
            self._pauses += 1
        self.last = error
        if over and tries >= self._attempts:
            self._tries.pop(row, None)
            del self._probes[row]
            return "failed"
        return "again"

    def _goes_away(self) -> bool:
        """Whether so much was not answered since the last answer: eight rows, or eight times what says nothing of a row.

        Where few are asked at a time, also eight times some rows; one or two such rows are rather broken themselves.
        """
        return max(len(self._failing), self._unsent) >= AWAY or (self._failures >= AWAY and len(self._failing) > _BROKEN)

    def _there(self) -> None:
        """The service is not away."""
        self._failing.clear()
        self._probes.clear()
        self._unsent = self._failures = 0
        self._since = self.last = None
        self._pauses = 0

    def _pause(self, times: int) -> Seconds:
        """Between half of a pause that doubles and all of it."""
        return min(_LONGEST, 2.0 ** min(times, 10)) * (0.5 + self._chance() / 2)

    def later(self, row: int) -> Seconds:
        """Seconds after which a row that failed is asked again."""
        return self._pause(max(0, self._tries.get(row, 0) + self._probes.get(row, 0) - 1))

    def wait(self, now: Seconds) -> Seconds:
        """Seconds until the next row may go, while the service is away."""
        return max(0.0, self._next - now) if self.away else 0.0


def _passes(error: GptError) -> bool:
    """Whether a failure may be gone when the row is asked again."""
    if isinstance(error, BadRequestError):
        return error.status_code in _REFUSED_FOR_NOW
    return isinstance(error, (RateLimitError, ServerError, MalformedResponseError, TransportError))
