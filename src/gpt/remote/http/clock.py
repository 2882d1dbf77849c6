"""How long a stream may be waited for: the arithmetic, the same for all transports. Only time spent waiting counts."""

from __future__ import annotations

from gpt.protocol.wire import Seconds, Timeout

TAIL = 0.05
"""Seconds that a stream waits for the end of its body after the answer's end, so that its connection can be used again."""


class StreamClock:
    """`limit` seconds in `phase`, of which `waited` are over; a limit of None is none.

    The phase is "first_token" until there is `news`, then "read".
    """

    __slots__ = ("_idle", "limit", "phase", "waited")

    def __init__(self, timeout: Timeout, waited: Seconds = 0.0) -> None:
        self._idle = timeout.idle
        self.phase = "first_token"
        self.limit = timeout.first_byte
        self.waited = waited

    @property
    def left(self) -> Seconds | None:
        """Seconds that are left; None where there is no limit."""
        return None if self.limit is None else self.limit - self.waited

    def news(self) -> None:
        """Content has come: from now on the idle clock, from its start."""
        self.phase = "read"
        self.limit = self._idle
        self.waited = 0.0

    def hurry(self) -> None:
        """All that was wanted has come; only the end of the body is waited for."""
        self.limit = TAIL
        self.waited = 0.0
