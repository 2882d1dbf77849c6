"""An hour of calls, in a loop whose time is jumped over: eight workers, one limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import pytest

from gpt import AsyncLimit, ChatCompletion, ChatRequest, Pace, RateLimitError, Retry, ServerError, Usage, UserMessage
from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.protocol.codec import with_info
from gpt.protocol.limits import rate_limits
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, ResponseInfo
from gpt.remote.backend import AsyncRemoteBackend, endpoint
from gpt.testing.scripted import completion

import virtual

HOUR = 3600.0
WORKERS = 8
PROMPT = "A question of some length, about rivers. " * 20


class Sent(NamedTuple):
    """A request as it left: when, what it took in the end, and the limits that were known."""

    at: float
    tokens: int
    requests_limit: float | None
    tokens_limit: float | None
    prompt: int = 0
    answer: int = 0


class Bucket:
    """A limit at the server: a bucket that flows full in a minute, as the hosted service's. `others` use so much of it a minute."""

    others = 0

    def __init__(self) -> None:
        self.left = self.at = 0.0

    def take(self, now: float, limit: float, amount: float) -> tuple[bool, int, float]:
        """Whether it goes, what is left, and the seconds until all is there again."""
        self.left = min(limit, self.left + (now - self.at) * (limit - self.others) / 60) if self.at else limit
        self.at = now
        goes = self.left >= amount
        self.left -= amount if goes else 0
        return goes, int(self.left), (limit - self.left) * 60 / limit


class Server:
    """Answers after a while. `usage` draws what a call takes; `limit` is its own on requests, at a time, and told in headers."""

    def __init__(self, usage: Callable[[Random], tuple[int, int]], limit: Callable[[float], int] | None = None) -> None:
        self.draw = Random(7)
        self.usage = usage
        self.limit = limit
        self.bucket = Bucket()
        self.pace: Pace
        self.sent: list[Sent] = []
        self.refused = 0

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        prompt, answer = self.usage(self.draw)
        time = asyncio.get_running_loop().time
        pace = self.pace
        self.sent.append(Sent(time(), prompt + answer, pace.requests_per_minute, pace.tokens_per_minute, prompt, answer))
        await asyncio.sleep(self.draw.uniform(0, 0.5))  # to the server
        headers = Headers()
        if self.limit is not None:
            limit = self.limit(time())
            goes, left, reset = self.bucket.take(time(), limit, 1)
            told = {"limit": limit, "remaining": left, "reset": f"{reset:.3f}s"}
            headers = Headers([(f"x-ratelimit-{name}-requests", str(value)) for name, value in told.items()])
            if not goes:
                self.refused += 1
                raise RateLimitError("slow down", 429, rate_limits=rate_limits(headers))
        await asyncio.sleep(self.draw.uniform(0.5, 2.0))
        usage = Usage(completion_tokens=answer, prompt_tokens=prompt, total_tokens=prompt + answer)
        made = ChatCompletion(id="c", model="m", choices=completion("hi").choices, usage=usage)
        with_info(made, ResponseInfo(headers=headers))
        return made


def hour(server: Server, pace: dict[str, Any], **params: Any) -> list[Sent]:
    """What left within the hour."""

    async def run() -> None:
        time = asyncio.get_running_loop().time
        server.pace = Pace(clock=time, **pace)
        limit = AsyncLimit(server, server.pace)  # type: ignore[arg-type]

        async def work() -> None:
            while time() < HOUR:
                try:
                    await limit.complete(ChatRequest(messages=[UserMessage(PROMPT)], **params))
                except RateLimitError:
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(work() for _ in range(WORKERS)))

    virtual.run(run())
    return [one for one in server.sent if one.at <= HOUR]


def heaviest(sent: list[Sent], weigh: Callable[[Sent], float], limit: Callable[[Sent], float | None]) -> float:
    """The most that left in any 60 seconds, as a part of the limit that was known at the end of them.

    The heaviest windows end with a call that leaves.
    """
    worst = total = 0.0
    first = 0
    for one in sent:
        total += weigh(one)
        while sent[first].at <= one.at - 60:
            total -= weigh(sent[first])
            first += 1
        worst = max(worst, total / (limit(one) or float("inf")))
    return worst


def minutes(sent: list[Sent], weigh: Callable[[Sent], float]) -> list[float]:
    """What left in each minute of the hour."""
    sums = [0.0] * 60
    for one in sent:
        sums[min(59, int(one.at // 60))] += weigh(one)
    return sums


def request(_: Sent) -> float:
    return 1


def tokens(sent: Sent) -> float:
    return sent.tokens


def prompts(sent: Sent) -> float:
    return sent.prompt


def answers(sent: Sent) -> float:
    return sent.answer


def less(draw: Random) -> tuple[int, int]:
    """Less than is reserved: half of what an answer may have, on the average."""
    return 170, draw.randrange(50, 500)


def more(draw: Random) -> tuple[int, int]:
    """A prompt of more than it is estimated at, until answers have taught it, and answers of all lengths."""
    return 300, draw.randrange(50, 500)


HOURS: list[tuple[str, dict[str, Any], Callable[[Random], tuple[int, int]], dict[str, Any], float]] = [
    # at last: how much of the limit leaves in the emptiest minute
    ("requests", {"requests_per_minute": 200}, less, {}, 0.95),
    ("few requests", {"requests_per_minute": 3}, less, {}, 0.6),  # at times the third comes a second after the minute
    ("requests at once", {"requests_per_minute": 100, "burst": 60.0}, less, {}, 0.9),
    ("tokens", {"tokens_per_minute": 100_000}, less, {"max_tokens": 500}, 0.95),
    ("tokens without a limit of answers", {"tokens_per_minute": 100_000}, less, {}, 0.9),
    ("tokens that are estimated too low", {"tokens_per_minute": 100_000}, more, {}, 0.9),
    ("both, requests are fewer", {"requests_per_minute": 150, "tokens_per_minute": 100_000}, less, {"max_tokens": 500}, 0.95),
    ("less than one request", {"requests_per_minute": 0.5, "burst": 60.0}, less, {}, 0.0),
    ("prompts apart", {"input_tokens_per_minute": 30_000, "output_tokens_per_minute": 100_000}, less, {"max_tokens": 500}, 0.9),
    ("answers apart", {"input_tokens_per_minute": 100_000, "output_tokens_per_minute": 50_000}, less, {"max_tokens": 500}, 0.9),
    (
        "all of them, answers are fewer",
        {
            "requests_per_minute": 300,
            "tokens_per_minute": 120_000,
            "input_tokens_per_minute": 100_000,
            "output_tokens_per_minute": 50_000,
        },
        less,
        {},
        0.85,
    ),
    ("both, tokens are fewer", {"requests_per_minute": 300, "tokens_per_minute": 100_000}, less, {"max_tokens": 500}, 0.95),
]


@pytest.mark.parametrize(("limits", "usage", "params", "emptiest"), [row[1:] for row in HOURS], ids=[row[0] for row in HOURS])
def test_hour(
    limits: dict[str, Any], usage: Callable[[Random], tuple[int, int]], params: dict[str, Any], emptiest: float
) -> None:
    """In no minute more than a limit, and in the hour no less than 95 % of the one that is short; where one call is a small
    part of the limit, in each minute.
    """
    sent = hour(Server(usage), limits, **params)
    limit = {
        name: limits.get(f"{name}_per_minute", float("inf")) for name in ("requests", "tokens", "input_tokens", "output_tokens")
    }
    weighed = list(zip((request, tokens, prompts, answers), limit.values(), strict=True))
    for weigh, most in weighed:
        assert heaviest(sent, weigh, lambda _, most=most: most) <= max(1, 1 / most)  # one goes, also of half a one
    assert {limits.get("requests_per_minute")} == {one.requests_limit for one in sent}
    assert {limits.get("tokens_per_minute")} == {one.tokens_limit for one in sent}
    assert max(sum(map(weigh, sent)) / (60 * most) for weigh, most in weighed) >= 0.95
    assert max(min(minutes(sent, weigh)) / most for weigh, most in weighed) >= emptiest


class Failing:
    """The way to a server that fails in one of four attempts, and says nothing of why."""

    def __init__(self, pace: Pace) -> None:
        self.draw = Random(7)
        self.pace = pace
        self.sent: list[Sent] = []

    async def send(self, _: HttpRequest) -> HttpResponse:
        limit = self.pace.requests_per_minute
        self.sent.append(Sent(asyncio.get_running_loop().time(), 0, limit, None))
        await asyncio.sleep(self.draw.uniform(0.5, 2.0))
        fails = self.draw.random() < 0.25
        return HttpResponse(500 if fails else 200, Headers(), b"{}" if fails else completion("hi").to_json())


@pytest.mark.parametrize(("requests", "burst"), [(20, 1.0), (20, 60.0), (150, 1.0)])
def test_an_hour_of_retries(requests: int, burst: float) -> None:
    """What the backend tries again by itself keeps to the limit too."""

    async def run() -> list[Sent]:
        time = asyncio.get_running_loop().time
        pace = Pace(requests_per_minute=requests, burst=burst, clock=time)
        way = Failing(pace)
        server = endpoint("http://a.test/v1", "", retry=Retry(attempts=6, budgeted=False))
        limit = AsyncLimit(AsyncRemoteBackend(server, way), pace)  # type: ignore[arg-type]

        async def work() -> None:
            while time() < HOUR:
                with suppress(ServerError):
                    await limit.complete(ChatRequest(messages=[UserMessage("hi")], model="m"))

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        return [one for one in way.sent if one.at <= HOUR]

    sent = virtual.run(run())
    assert heaviest(sent, request, lambda one: one.requests_limit) <= 1
    assert len(sent) >= 0.95 * 60 * requests


def steps(at: float) -> int:
    """A limit of the server that is made smaller, and larger again."""
    return 200 if at < 1200 else 90 if at < 2400 else 220


def test_limits_of_the_server() -> None:
    """A limit that nobody gave is learnt from headers and followed as it changes; the server refuses next to nothing."""
    server = Server(less, steps)
    sent = hour(server, {})
    assert heaviest(sent[WORKERS:], request, lambda one: one.requests_limit) <= 1
    assert 95 <= 100 * len(sent) / (20 * (200 + 90 + 220)) <= 100
    assert {None, 200, 90, 220} == {one.requests_limit for one in sent}
    assert server.refused <= WORKERS


def test_others_with_the_same_limit() -> None:
    """What the server says is left wins over our own count: of a limit that others use half of, the half that is left goes. By
    our own count half of all calls would be refused.
    """
    server = Server(less, lambda _: 200)
    server.bucket.others = 100
    sent = hour(server, {"requests_per_minute": 200})
    assert 0.95 <= (len(sent) - server.refused) / 6000 <= 1.05
    assert server.refused <= 0.05 * len(sent)
