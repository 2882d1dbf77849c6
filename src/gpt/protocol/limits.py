"""What a server says of its limits, read from the header fields of an answer."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from gpt.protocol.wire import Headers, Seconds


class Limit(msgspec.Struct, frozen=True):
    """One limit: so many in its window, so many of them left, and the seconds until all are there again. None: not said."""

    limit: int | None = None
    remaining: int | None = None
    reset: Seconds | None = None


class RateLimits(msgspec.Struct, frozen=True):
    """The limits on requests and on tokens."""

    requests: Limit = Limit()
    tokens: Limit = Limit()


def rate_limits(headers: Headers) -> RateLimits | None:
    """The limits that an answer speaks of; None when it speaks of none.

    Two spellings: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (hosted service, Azure, Groq) and
    `x-ratelimit-{limit,remaining,reset}` of requests alone (OpenRouter, whose reset is a time in milliseconds).
    """
    requests = _limit(headers, "-requests")
    found = RateLimits(_limit(headers, "") if requests == Limit() else requests, _limit(headers, "-tokens"))
    return None if found == RateLimits() else found


def _limit(headers: Headers, kind: str) -> Limit:
    return Limit(
        _count(headers.get(f"x-ratelimit-limit{kind}")),
        _count(headers.get(f"x-ratelimit-remaining{kind}")),
        _reset(headers.get(f"x-ratelimit-reset{kind}"), headers),
    )


def _count(text: str | None) -> int | None:
    """A number from 0. Azure has been seen to send -1 for what it does not know (openai/openai-dotnet#838)."""
    try:
        number = -1 if text is None else int(float(text))
    except (ValueError, OverflowError):
        return None
    return None if number < 0 else number


_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9
"""Larger numbers are times, not durations: 32 years in seconds."""


def _reset(text: str | None, headers: Headers) -> Seconds | None:
    """Seconds in "6m0s", "20ms", "1.5" or a time since 1970 in seconds or milliseconds, held against the answer's `date`."""
    if text is None:
        return None
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        number = float(text)
    except ValueError:
        return None
    if number < _EPOCH:
        return max(0.0, number)
    try:
        now = datetime.strptime(headers.get("date", ""), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return max(0.0, (number / 1000 if number > _EPOCH * 100 else number) - now)
