"""What a server says of its limits, read from the header fields of an answer."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from gpt.protocol.wire import Headers, Seconds

PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
"""How the names of header fields begin that tell of limits."""


class Limit(msgspec.Struct, frozen=True):
    """One limit: so many in its window, so many of them left, and the seconds until all are there again. None: not said."""

    limit: int | None = None
    remaining: int | None = None
    reset: Seconds | None = None


class RateLimits(msgspec.Struct, frozen=True):
    """The limits on requests and on tokens: of prompts and answers together, and of each where the server tells them apart."""

    requests: Limit = Limit()
    tokens: Limit = Limit()
    input_tokens: Limit = Limit()
    output_tokens: Limit = Limit()


_FIGURES = ("limit", "remaining", "reset")
_KINDS = (("requests", "req-minute", ""), ("tokens", "tokens-minute"), ("input-tokens",), ("output-tokens",))
"""For each limit what its fields are told apart by; of several the first that is there is taken."""

_Names = tuple[tuple[tuple[str, ...], ...], ...]
_NAMES: _Names = tuple(
    tuple(tuple(f"x-ratelimit-{figure}-{kind}".removesuffix("-") for figure in _FIGURES) for kind in kinds) for kinds in _KINDS
)
_ANTHROPIC: _Names = tuple(
    tuple(tuple(f"anthropic-ratelimit-{kind}-{figure}" for figure in _FIGURES) for kind in kinds[:1]) for kinds in _KINDS
)


def rate_limits(headers: Headers) -> RateLimits | None:
    """The limits that an answer speaks of; None when it speaks of none.

    `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`: hosted service, Azure, Groq.
    `-input-tokens` and `-output-tokens` for those apart: LiteLLM (BerriAI/litellm#31952) and Baidu's Qianfan ("Chat" in its
    reference), neither with a reset.
    `-req-minute` and `-tokens-minute`: Mistral (mistralai/client-ts#169); tokens of Cerebras ("Rate limits").
    `x-ratelimit-{limit,remaining,reset}` of requests alone: OpenRouter, whose reset is a time in milliseconds.
    `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`: Anthropic ("Rate limits"), whose
    reset is a time as RFC 3339 has it; only where there are none of the others.
    """
    if not headers.mentions("-ratelimit-"):
        return None
    fields = {name: headers[name] for name in headers if "-ratelimit-" in name}
    date = headers.get("date", "")
    for names in (_NAMES, _ANTHROPIC):
        found = RateLimits(*(_limit(fields, kinds, date) for kinds in names))
        if found != RateLimits():
            return found
    return None


def _limit(fields: dict[str, str], kinds: tuple[tuple[str, ...], ...], date: str) -> Limit:
    for limit, remaining, reset in kinds:
        found = Limit(_count(fields.get(limit)), _count(fields.get(remaining)), _reset(fields.get(reset), date))
        if found != Limit():
            return found
    return Limit()


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


def _reset(text: str | None, date: str) -> Seconds | None:
    """Seconds in "6m0s", "20ms", "1.5" or until a time, held against the answer's `date`.

    A time is in seconds or milliseconds since 1970, or as in "2026-11-24T00:01:00Z".
    """
    if text is None:
        return None
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        number = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            return None
        number = at.timestamp()
    if number < _EPOCH:
        return max(0.0, number)
    try:
        now = datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return max(0.0, (number / 1000 if number > _EPOCH * 100 else number) - now)
