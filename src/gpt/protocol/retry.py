"""When to try again, and after how long. Arithmetic only: the clock and the randomness are passed in.

The rule: full jitter, a Retry-After as lower bound, three attempts. A refusal that a second try cannot change (the
caller's mistakes, an exhausted quota, 501) is never tried again. Others chose: the official package 2 retries and 0.5 s,
botocore full jitter with 0.05 s and 1 s when throttled, google-api-core 1 s; the numbers here lie between.

A budget keeps many calls from making an outage worse: a bucket of tokens per client and server, paid for each retry and filled
by successes. While a server fails every call, retries stop after 35 of them; while it fails half, they add about 8 %.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import msgspec

from gpt.errors import (
    BadRequestError,
    GptError,
    QuotaError,
    RateLimitError,
    ResponseError,
    ServerError,
    TransportError,
)
from gpt.protocol.wire import Seconds

_REFUSED_FOR_NOW = frozenset({408, 409, 425})
"""4xx that pass: the server was tired of waiting, the request met another one, or it came too early (RFC 8470)."""


class Retry(msgspec.Struct, frozen=True):
    """A policy. `Retry(attempts=1)` never tries again.

    The wait before attempt k (from 1) is a random part of min(maximum, initial * 2**(k-1)); `initial` is `throttled` after a
    429. A Retry-After beyond `patience` seconds is not waited for: the error is raised at once.
    """

    attempts: int = 3
    initial: Seconds = 0.25
    throttled: Seconds = 1.0
    maximum: Seconds = 20.0
    exponent: float = 2.0
    patience: Seconds = 120.0
    connection_errors: bool = True
    total: Seconds | None = None
    """No attempt begins later than this after the start of the call; None means no such limit."""
    budgeted: bool = True
    """Whether retries are paid for from the client's budget."""

    def delay(self, attempt: int, error: GptError, draw: float) -> Seconds | None:
        """Seconds to wait before the next attempt, or None to give up.

        `attempt` counts from 0; `draw` is a random number in [0, 1). The wait is a random part of
        min(maximum, initial * exponent**attempt) ("full jitter"), never less than a Retry-After in `error`. Raises nothing.
        Source: RFC 9110, section 10.2.3; AWS Architecture Blog, "Exponential Backoff And Jitter".
        """
        if attempt + 1 >= self.attempts or not self._worth(error):
            return None
        asked = error.retry_after if isinstance(error, ResponseError) else None
        if asked is not None and asked > self.patience:
            return None
        first = self.throttled if isinstance(error, RateLimitError) else self.initial
        # Past 2**64 the cap has long won; the bound keeps a huge attempt from overflowing.
        wait = draw * min(self.maximum, first * self.exponent ** min(attempt, 64))
        return wait if asked is None else asked + wait

    def _worth(self, error: GptError) -> bool:
        if isinstance(error, TransportError):
            return self.connection_errors and not error.permanent
        if not isinstance(error, ResponseError) or isinstance(error, QuotaError) or error.status_code == 501:
            return False
        if error.should_retry is not None:
            return error.should_retry
        if type(error) is BadRequestError:
            return error.status_code in _REFUSED_FOR_NOW
        return isinstance(error, (RateLimitError, ServerError))


class Budget:
    """Tokens that pay for retries, `capacity` of them at the start. One for each client and server.

    A retry costs 14, after a 429 only 5; one that succeeds brings back what it cost, and each other success brings 1.
    The tokens are never below 0 and never above `capacity`. `lock` is held while they change: the owner knows whether threads
    share it. Source of the numbers: botocore's "standard" mode.
    """

    CAPACITY = 500
    COST = 14
    THROTTLED_COST = 5

    __slots__ = ("_lock", "capacity", "tokens")

    def __init__(self, capacity: int = CAPACITY, lock: AbstractContextManager[object] | None = None) -> None:
        self.capacity = self.tokens = capacity
        self._lock = lock or nullcontext()

    def spend(self, error: GptError) -> int:
        """Pay for a retry after `error`. Gives what was paid; 0 when there is not enough, and nothing was."""
        cost = self.THROTTLED_COST if isinstance(error, RateLimitError) else self.COST
        with self._lock:
            if self.tokens < cost:
                return 0
            self.tokens -= cost
        return cost

    def succeed(self, paid: int) -> None:
        """Take in that a call succeeded; `paid` is what its last retry cost, 0 where there was none."""
        with self._lock:
            self.tokens = min(self.capacity, self.tokens + (paid or 1))
