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
ANTHROPIC = {  # as recorded (rdrr.io/cran/tidyllm, tests of its messages)
    "date": "Thu, 21 Aug 2025 12:41:00 GMT",
    "anthropic-ratelimit-input-tokens-limit": "80000",
    "anthropic-ratelimit-input-tokens-remaining": "80000",
    "anthropic-ratelimit-input-tokens-reset": "2025-08-21T12:40:59Z",
    "anthropic-ratelimit-output-tokens-limit": "16000",
    "anthropic-ratelimit-output-tokens-remaining": "15000",
    "anthropic-ratelimit-output-tokens-reset": "2025-08-21T12:41:03Z",
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2025-08-21T12:41:00Z",
    "anthropic-ratelimit-tokens-limit": "96000",
    "anthropic-ratelimit-tokens-remaining": "95000",
    "anthropic-ratelimit-tokens-reset": "2025-08-21T14:41:01+02:00",
}
APART = {  # LiteLLM, Qianfan
    "x-ratelimit-limit-input-tokens": "200",
    "x-ratelimit-remaining-input-tokens": "185",
    "x-ratelimit-limit-output-tokens": "40",
    "x-ratelimit-remaining-output-tokens": "36",
}
MISTRAL = {
    "x-ratelimit-limit-tokens-minute": "5000000",
    "x-ratelimit-remaining-tokens-minute": "4999911",
    "x-ratelimit-tokens-query-cost": "52",
    "x-ratelimit-limit-req-minute": "720",
    "x-ratelimit-remaining-req-minute": "717",
}
CEREBRAS = {
    "x-ratelimit-limit-requests-day": "1000",
    "x-ratelimit-limit-tokens-minute": "60000",
    "x-ratelimit-reset-tokens-minute": "26.5",
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
    (APART, RateLimits(input_tokens=Limit(200, 185), output_tokens=Limit(40, 36))),
    (
        HOSTED | APART,
        RateLimits(Limit(60, 59, 1.0), Limit(150000, 149984, 360.0), Limit(200, 185), Limit(40, 36)),
    ),
    (MISTRAL, RateLimits(Limit(720, 717), Limit(5000000, 4999911))),
    (CEREBRAS, RateLimits(tokens=Limit(60000, None, 26.5))),
    ({"x-ratelimit-limit": "9", "x-ratelimit-limit-requests": "8"}, RateLimits(Limit(8))),
    (
        ANTHROPIC,
        RateLimits(Limit(1000, 999, 0.0), Limit(96000, 95000, 1.0), Limit(80000, 80000, 0.0), Limit(16000, 15000, 3.0)),
    ),
    (ANTHROPIC | APART, RateLimits(input_tokens=Limit(200, 185), output_tokens=Limit(40, 36))),
    ({"anthropic-ratelimit-requests-reset": "2026-11-24T00:01:00Z"}, None),  # without a date it is no duration
    ({"anthropic-ratelimit-requests-reset": "2026-11-24T00:01:00Z", "date": DATE}, RateLimits(Limit(reset=60.0))),
    ({"anthropic-ratelimit-requests-reset": "2026-11-24T00:01:00", "date": DATE}, None),  # of what place?
    ({"anthropic-ratelimit-unified-status": "allowed"}, None),
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


def test_without_those_apart() -> None:
    """Limits on all tokens are equal to what they were before there were those on prompts and answers."""
    assert RateLimits(Limit(5), Limit(6)) == RateLimits(Limit(5), Limit(6), Limit(), Limit())
