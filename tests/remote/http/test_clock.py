"""How long a stream may be waited for."""

from __future__ import annotations

from gpt.protocol.wire import Timeout
from gpt.remote.http.clock import TAIL, StreamClock


def test_clock() -> None:
    """The first content has its clock, each further its own, and the end of the body a short one."""
    clock = StreamClock(Timeout(first_byte=5.0, idle=2.0), waited=1.0)
    assert ("first_token", 4.0) == (clock.phase, clock.left)
    clock.news()
    clock.waited += 1.5
    assert ("read", 0.5) == (clock.phase, clock.left)
    clock.news()
    assert 2.0 == clock.left
    clock.hurry()
    assert TAIL == clock.left
    assert StreamClock(Timeout(first_byte=None)).left is None
