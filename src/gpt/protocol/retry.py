"""When to try again, and after how long. Arithmetic only: the clock and the randomness are passed in.

The rule: full jitter, a Retry-After as lower bound, three attempts. A refusal that a second try cannot change (the
caller's mistakes, an exhausted quota, 501) is never tried again. Others chose: the official package 2 retries and 0.5 s,
botocore full jitter with 0.05 s and 1 s when throttled, google-api-core 1 s; the numbers here lie between.
"""

from __future__ import annotations

import msgspec

from gpt.errors import (
    GptError,
    RateLimitError,
    ResponseError,
    StreamTruncatedError,
    TLSError,
    TransportError,
)
from gpt.protocol.wire import Seconds

_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Worth another try. 501 is not: what is not implemented now will not be in a second."""


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
            # A certificate does not mend itself; an answer that broke off may have been acted on and paid for.
            return self.connection_errors and not isinstance(error, (TLSError, StreamTruncatedError))
        return isinstance(error, ResponseError) and error.fault == "service" and error.status_code in _STATUSES
