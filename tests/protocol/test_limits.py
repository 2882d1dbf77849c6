"""What a server says of its limits."""

from __future__ import annotations

import pytest

from gpt.protocol.limits import Limit, RateLimits, rate_limits
from gpt.protocol.wire import Headers, ResponseInfo

HOSTED = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}
DATE = "Tue, 24 Nov 2026 00:00:00 GMT"  # 1795478400 seconds since 1970

TABLE: list[tuple[dict[str, str], RateLimits | None]] = [
    ({}, None),
    ({"x-request-id": "1"}, None),
    (HOSTED, RateLimits(Limit(60, 59, 1.0), Limit(150000, 149984, 360.0))),
    ({"x-ratelimit-remaining-tokens": "5"}, RateLimits(tokens=Limit(remaining=5))),
    ({"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0"}, RateLimits(Limit(20, 0))),
    ({"x-ratelimit-reset": "1795478460000", "date": DATE}, RateLimits(Limit(reset=60.0))),
    ({"x-ratelimit-reset": "1795478460", "date": DATE}, RateLimits(Limit(reset=60.0))),
    ({"x-ratelimit-reset": "1795478300", "date": DATE}, RateLimits(Limit(reset=0.0))),
    ({"x-ratelimit-reset": "1795478460"}, None),
    ({"x-ratelimit-limit": "many", "x-ratelimit-reset": "soon"}, None),
    ({"x-ratelimit-limit": "inf"}, None),
    ({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1"}, None),
    ({"x-ratelimit-limit": "1e3"}, RateLimits(Limit(1000))),
]


@pytest.mark.parametrize(("headers", "expected"), TABLE)
def test_rate_limits(headers: dict[str, str], expected: RateLimits | None) -> None:
    """The figures in the spellings that servers use; what cannot be read is not there."""
    assert expected == rate_limits(Headers(headers.items()))
    assert expected == ResponseInfo(headers=Headers(headers.items())).rate_limits


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20ms", 0.02), ("1s", 1.0), ("1.5s", 1.5), ("6m0s", 360.0), ("1h2m3s", 3723.0), ("1d", 86400.0), ("7", 7.0), ("-1", 0.0)],
)
def test_reset(text: str, expected: float) -> None:
    """Durations as servers write them, in seconds."""
    found = rate_limits(Headers([("x-ratelimit-reset-tokens", text)]))
    assert found is not None
    assert expected == pytest.approx(found.tokens.reset)
