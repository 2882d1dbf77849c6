"""Calls kept to limits: waiting in line, giving back, what the server says, threads and tasks together."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from gpt import (
    AsyncGpt,
    AsyncLimit,
    AuthenticationError,
    CallOptions,
    ChatCompletion,
    ChatRequest,
    ConnectError,
    Gpt,
    GptError,
    InvalidRequestError,
    Limit,
    MalformedResponseError,
    OverloadedError,
    Pace,
    Profile,
    QuotaError,
    RateLimitError,
    Retry,
    ServerError,
    StreamTruncatedError,
    Usage,
    UserMessage,
    in_threads,
)
from gpt.layers.limit import _Ticket
from gpt.protocol.codec import decode_completion, with_info
from gpt.protocol.limits import Limit as Said
from gpt.protocol.limits import RateLimits
from gpt.protocol.pace import WINDOW, Tokens
from gpt.protocol.wire import AttemptInfo, ResponseInfo
from gpt.testing import AsyncScripted, Fault, Scripted, no_waiting, serve
from gpt.testing.loopback import answer, completion, serving
from gpt.testing.scripted import chunk
from gpt.testing.scripted import completion as scripted

import virtual


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(**params: Any) -> ChatRequest:
    return ChatRequest(messages=[UserMessage("Name a river.")], **params)


def until(true: Callable[[], bool]) -> None:
    """Wait for another thread to get there."""
    tick = threading.Event()
    for _ in range(20_000):
        if true():
            return
        tick.wait(0.001)
    raise AssertionError("the other thread did not get there")


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[list[Any]]:
    """Work in a thread. What it gives, or raises, is in the list afterwards."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(work())
        except BaseException as error:
            came.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    yield came
    worker.join(20)
    assert not worker.is_alive()


# --------------------------------------------------------------------------------------------------------------------
# Waiting, on both sides
# --------------------------------------------------------------------------------------------------------------------


def blocking(use: Callable[[Any, Callable[[float], Any]], Any], script: list[Any], **limits: Any) -> Any:
    """`use` a client in a thread, with a clock that moves on whenever it waits for its turn."""
    clock = Clock()
    pace = Pace(clock=clock, **limits)
    done = threading.Event()

    def step() -> bool:
        if not done.is_set() and pace.waiting:
            clock.now += 0.5
            pace.look()
        return done.is_set()

    def work() -> Any:
        try:
            return use(Gpt(backend=Limit(Scripted(*script), pace)), clock)
        finally:
            done.set()

    with thread(work) as came:
        until(step)
    return result(came[0])


def result(came: Any) -> Any:
    if isinstance(came, BaseException):
        raise came
    return came


def on_asyncio(use: Callable[[Any, Callable[[float], Any]], Any], script: list[Any], **limits: Any) -> Any:
    """`use` a client in a loop whose time is jumped over."""

    async def run() -> Any:
        time = asyncio.get_running_loop().time
        made = use(AsyncGpt(backend=AsyncLimit(AsyncScripted(*script), Pace(clock=time, **limits))), time)
        return await made if hasattr(made, "__await__") else made

    return virtual.run(run())


Way = Callable[..., Any]


@pytest.fixture(params=[blocking, on_asyncio])
def ask(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


def twice(client: Any, clock: Any) -> Any:
    """Two answers, and the time after them."""
    if isinstance(client, Gpt):
        return [client.chat.complete("a"), client.chat.complete("b"), clock()]

    async def run() -> Any:
        return [await client.chat.complete("a"), await client.chat.complete("b"), clock()]

    return run()


def test_waits(ask: Way) -> None:
    """The second of two calls waits until the first is a window old, and tells how long it was; the first did not wait."""
    first, second, time = ask(twice, ["one", "two"], requests_per_minute=1, burst=60)
    assert ("one", "two") == (first.text, second.text)
    assert WINDOW <= time <= WINDOW + 0.5
    assert first.info is None
    assert time == second.info.waited == second.info.elapsed


def test_told(ask: Way) -> None:
    """The wait is outside of equality, repr and wire; it pickles."""
    _, second, _ = ask(twice, ["hi"], requests_per_minute=1)
    assert scripted("hi") == second
    assert repr(scripted("hi")) == repr(second)
    assert scripted("hi").to_dict() == second.to_dict()
    assert second.info.waited == pickle.loads(pickle.dumps(second)).info.waited


def test_what_arrived_is_kept(ask: Way) -> None:
    """An answer that waited keeps the bytes that it came from, undeclared fields included."""
    arrived = completion(strange=1)
    _, second, _ = ask(twice, [decode_completion(json.dumps(arrived).encode())], requests_per_minute=1)
    assert arrived == second.to_dict()
    assert second.info.waited > 0


def test_one_answer_twice(ask: Way) -> None:
    """An answer that its backend keeps is left as it is."""
    kept = scripted("hi")
    with_info(kept, ResponseInfo(elapsed=2.0))
    _, second, time = ask(twice, [kept], requests_per_minute=1)
    assert kept.info is not None
    assert (0.0, 2.0) == (kept.info.waited, kept.info.elapsed)
    assert (time, time + 2) == (second.info.waited, second.info.elapsed)


def test_held(ask: Way) -> None:
    """Nobody goes while a pause holds that another process was asked for."""

    def held(client: Any, clock: Any) -> Any:
        pace = client.backend.pace
        before = pace.held
        pace.hold(7.0)
        pace.hold(2.0)  # a shorter one changes nothing
        told = pace.held
        if isinstance(client, Gpt):
            return before, told, client.chat.complete("a").info.waited, pace.held

        async def run() -> Any:
            return before, told, (await client.chat.complete("a")).info.waited, pace.held

        return run()

    assert (0.0, 7.0, 7.0, 0.0) == ask(held, ["hi"], max_concurrent=3)


def streamed(client: Any, clock: Any) -> Any:
    """Two streams, read whole."""
    if isinstance(client, Gpt):
        return [client.chat.stream("a").until_done() for _ in range(2)]

    async def run() -> Any:
        return [await client.chat.stream("a").until_done() for _ in range(2)]

    return run()


def test_streams_wait(ask: Way) -> None:
    """A stream waits before it is opened, and tells so."""
    first, second = ask(streamed, ["the Nile"], requests_per_minute=1)
    assert "the Nile" == first.text == second.text
    assert 0.0 == first.info.waited
    assert WINDOW <= second.info.waited <= WINDOW + 0.5
    assert second.info.first_token is not None


def test_deadline(ask: Way) -> None:
    """A wait that its deadline has no time for is refused at once, with how long it would have been."""

    def use(client: Any, clock: Any) -> Any:
        if isinstance(client, Gpt):
            client.chat.complete("a")
            return client.chat.complete("b", deadline=60)

        async def run() -> Any:
            await client.chat.complete("a")
            return await client.chat.complete("b", deadline=60)

        return run()

    with pytest.raises(
        RateLimitError, match=r"would wait 61\.0 s at least for its turn, and its deadline leaves 60\.0 s"
    ) as caught:
        ask(use, ["hi"], requests_per_minute=1)
    assert (WINDOW, 429) == (caught.value.retry_after, caught.value.status_code)
    assert "nothing was sent" in str(caught.value)
    assert WINDOW == pickle.loads(pickle.dumps(caught.value)).retry_after


def test_deadline_that_passes_in_line(ask: Way) -> None:
    """A wait for a place has no known end: it lasts until the deadline."""

    def use(client: Any, clock: Any) -> Any:
        if isinstance(client, Gpt):
            stream = client.chat.completions.create(messages=[UserMessage("a")], stream=True)
            with pytest.raises(RateLimitError, match="passed while the call waited") as caught:
                client.chat.complete("b", deadline=5)
            stream.close()
            return client.chat.complete("c").text, caught.value.retry_after

        async def run() -> Any:
            stream = await client.chat.completions.create(messages=[UserMessage("a")], stream=True)
            with pytest.raises(RateLimitError, match="passed while the call waited") as caught:
                await client.chat.complete("b", deadline=5)
            await stream.close()
            return (await client.chat.complete("c")).text, caught.value.retry_after

        return run()

    assert ("hi", None) == ask(use, ["hi"], max_concurrent=1)


def test_larger_than_the_limit(ask: Way) -> None:
    """What may take more than a minute's tokens is refused at once: no wait helps it."""

    def use(client: Any, _: Any) -> Any:
        return client.chat.complete("hi", max_tokens=1000)

    with pytest.raises(InvalidRequestError, match=r"may take 1,\d\d\d tokens.*the limit is 1,000 a minute") as caught:
        ask(use, ["hi"], tokens_per_minute=1000)
    assert "messages" == caught.value.param


def test_wrong_requests_do_not_wait(ask: Way) -> None:
    """A request that is wrong is refused before it stands in line."""
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]"):
        ask(lambda client, _: client.chat.complete([{"role": "user", "content": 5}]), ["hi"], tokens_per_minute=1000)


def test_passed_on(ask: Way) -> None:
    """Models are asked without a wait; the backend is closed with its layer."""

    def use(client: Any, _: Any) -> Any:
        if isinstance(client, Gpt):
            names = [client.models.list().data[0].id for _ in range(3)]
            client.close()
            return names, client.backend._backend.closed

        async def run() -> Any:
            names = [(await client.models.list()).data[0].id for _ in range(3)]
            await client.close()
            return names, client.backend._backend.script.closed

        return run()

    assert (["scripted"] * 3, True) == ask(use, ["hi"], requests_per_minute=1)


# --------------------------------------------------------------------------------------------------------------------
# What comes back
# --------------------------------------------------------------------------------------------------------------------


def fresh(*script: Any, **limits: Any) -> tuple[Limit, Pace, Scripted, Clock]:
    clock = Clock()
    backend = Scripted(*script)
    pace = Pace(clock=clock, **{"burst": 60} | limits)
    return Limit(backend, pace), pace, backend, clock


def left(pace: Pace) -> tuple[float, float]:
    """Requests and tokens that may go at once, of limits that are there."""
    return tuple(rate.limit - rate._sum for rate in (pace._allowance.requests, pace._allowance.tokens))  # type: ignore[return-value]


def says(tokens: int) -> ChatCompletion:
    return ChatCompletion(
        id="c",
        model="m",
        choices=scripted("hi").choices,
        usage=Usage(prompt_tokens=10, completion_tokens=tokens - 10, total_tokens=tokens),
    )


LIMITS = RateLimits(Said(100, 60, 60.0))

OUTCOMES: list[tuple[Any, tuple[float, float | None]]] = [
    # what comes of a call that may take about 520 tokens: requests and tokens that it took; None: all that was reserved
    (says(40), (1, 40)),
    (says(700), (1, 700)),
    ("hi", (1, None)),
    (InvalidRequestError("no such role"), (0, 0)),
    (ConnectError("refused", phase="connect"), (0, 0)),
    (ConnectError("reset", phase="read", sent=True), (1, None)),
    (RateLimitError("slow down", 429), (1, 0)),
    (OverloadedError("busy", 503), (1, 0)),
    (QuotaError("used up", 429), (1, 0)),
    (AuthenticationError("who?", 401), (1, 0)),
    (ServerError("oh", 500), (1, None)),
    (MalformedResponseError("what?", 200), (1, None)),
]


@pytest.mark.parametrize(("said", "taken"), OUTCOMES, ids=[repr(row[0])[:40] for row in OUTCOMES])
@pytest.mark.parametrize("way", ["complete", "stream"])
def test_outcomes(said: Any, taken: tuple[float, float | None], way: str) -> None:
    """What a call did not take is given back, whatever became of it; what nobody knows counts as taken."""
    limit, pace, _, _ = fresh(said, requests_per_minute=100, tokens_per_minute=2000)
    try:
        made = getattr(limit, way)(asked(max_tokens=500))
        if way == "stream":
            assert 1 == pace.under_way
            list(made)
    except GptError as error:
        assert said is error  # noqa: PT017 - it is raised for some of the rows only
    requests, tokens = left(pace)
    assert 0 == pace.under_way
    assert 100 - taken[0] == requests
    if taken[1] is not None:
        assert 2000 - taken[1] == tokens
    elif way == "stream" and not isinstance(said, GptError):
        assert 1970 <= tokens <= 1990  # the prompt, and a token for each piece that came
    else:
        assert 1470 <= tokens <= 1490


def test_asynchronous_outcomes() -> None:
    """The same on asyncio."""

    async def run() -> None:
        for said, taken in OUTCOMES:
            pace = Pace(requests_per_minute=100, tokens_per_minute=2000, clock=asyncio.get_running_loop().time)
            limit = AsyncLimit(AsyncScripted(said), pace)
            for way in ("complete", "stream"):
                try:
                    made = await getattr(limit, way)(asked(max_tokens=500))
                    if way == "stream":
                        assert [] != [one async for one in made]
                except GptError as error:
                    assert said is error  # noqa: PT017 - it is raised for some of the rows only
            assert 0 == pace.under_way
            assert 100 - 2 * taken[0] == left(pace)[0]

    virtual.run(run())


TALK = [chunk("Os"), chunk("lo"), chunk(" it is"), chunk(None, "stop")]


@pytest.mark.parametrize("leave", ["end", "close", "drop", "error"])
def test_streams_hold_their_place(leave: str) -> None:
    """A stream holds its place until it ends, is left, dropped or breaks; what it did not take is given back."""
    script = [*TALK[:2], StreamTruncatedError("cut")] if leave == "error" else TALK
    limit, pace, _, _ = fresh(script, max_concurrent=1, tokens_per_minute=2000)
    stream = limit.stream(asked(max_tokens=500))
    next(stream)
    assert 1 == pace.under_way
    with pytest.raises(RateLimitError):
        limit.complete(asked(), CallOptions(deadline=0.0))
    if leave == "close":
        stream.close()
        stream.close()
    elif leave == "drop":
        del stream
        gc.collect()
    elif leave == "error":
        with pytest.raises(StreamTruncatedError):
            list(stream)
    else:
        list(stream)
    assert 0 == pace.under_way
    assert 1970 <= pace._allowance.tokens.limit - pace._allowance.tokens._sum <= 1990  # type: ignore[operator]


def test_asynchronous_streams_hold_their_place() -> None:
    """The same on asyncio, where a task may be cancelled while it reads."""

    class Endless:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            await asyncio.Event().wait()

        async def close(self) -> None: ...

    class Backend(AsyncScripted):
        async def stream(self, request: Any, options: Any = None) -> Any:
            return Endless()

    async def run() -> None:
        pace = Pace(max_concurrent=1)
        limit = AsyncLimit(Backend("hi"), pace)
        stream: Any = await limit.stream(asked())
        assert 1 == pace.under_way
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert 0 == pace.under_way
        stream = await limit.stream(asked())
        await stream.close()
        assert 0 == pace.under_way
        stream = await limit.stream(asked())
        del stream
        gc.collect()
        assert 0 == pace.under_way

    virtual.run(run())


def test_dropped_in_the_middle() -> None:
    """A stream that is dropped while the lock is held, by the garbage collector or another thread, is dealt with after it."""
    limit, pace, _, _ = fresh(TALK, max_concurrent=1)
    stream = limit.stream(asked())
    with pace._lock:
        del stream
        gc.collect()
        assert 1 == pace.under_way
    assert "Oslo it is" == limit.complete(asked()).text
    assert 0 == pace.under_way


def test_dropped_by_who_has_the_lock() -> None:
    """A stream that is dropped while a call looks whether it is its turn frees its place when that call has looked."""
    limit, pace, _, _ = fresh(TALK, max_concurrent=1)
    held = [limit.stream(asked())]
    first = _Ticket(Tokens(), held.clear)  # the one in line, woken under the lock, drops the stream that holds the place
    pace._line.append(first)
    cancel = threading.Event()
    with thread(lambda: limit.complete(asked(), CallOptions(cancel=cancel))):
        until(lambda: first.grant is not None)
        cancel.set()
    assert (0, 1) == (pace.waiting, pace.under_way)


def test_usage_of_a_stream() -> None:
    """The usage that a stream tells of is what it took."""
    last = chunk()
    last = type(last)(id="c", choices=[], usage=Usage(prompt_tokens=3, completion_tokens=4))
    limit, pace, _, _ = fresh([*TALK, last], requests_per_minute=10, tokens_per_minute=2000)
    list(limit.stream(asked()))
    assert 1993 == left(pace)[1]


def test_from_a_cache() -> None:
    """An answer that a cache below gives takes nothing."""
    kept = says(400)
    with_info(kept, ResponseInfo(cached=True))
    limit, pace, _, _ = fresh(kept, requests_per_minute=10, tokens_per_minute=2000)
    limit.complete(asked())
    assert (10, 2000) == left(pace)


def test_answers_teach() -> None:
    """Without max_tokens an answer may be as long as the last ones were."""
    limit, pace, _, clock = fresh(says(60), tokens_per_minute=1200)
    limit.complete(asked())
    clock.now += WINDOW
    with pace._lock:
        pass
    streams = [limit.stream(asked()) for _ in range(10)]
    with pytest.raises(RateLimitError):
        [streams.append(limit.stream(asked(), CallOptions(deadline=1))) for _ in range(20)]  # type: ignore[func-returns-value]
    assert 15 <= len(streams) <= 24  # of about 60 tokens each, and not of a thousand


# --------------------------------------------------------------------------------------------------------------------
# What the server says
# --------------------------------------------------------------------------------------------------------------------


def test_a_pause_is_everybodys() -> None:
    """A Retry-After holds back all calls of the limit, on whichever layer; one beyond patience is not waited for."""
    limit, pace, _, clock = fresh(RateLimitError("slow down", 429, retry_after=30), "hi")
    other = Limit(Scripted("other"), pace)
    with pytest.raises(RateLimitError, match="slow down"):
        limit.complete(asked())
    with pytest.raises(RateLimitError, match="would wait") as caught:
        other.complete(asked(), CallOptions(deadline=20))
    assert 30 == caught.value.retry_after
    with thread(lambda: other.complete(asked())) as came:
        until(lambda: 1 == pace.waiting)
        clock.now = 29.0
        pace.look()
        assert 1 == pace.waiting
        clock.now = 30.0
        pace.look()
    assert 30 == came[0].info.waited
    pace._allowance.pause(30.0, 500)
    with pytest.raises(RateLimitError, match=r"asks to wait 500 s, longer than the 120 s of patience="):
        other.complete(asked(), CallOptions(deadline=400))  # and not for its deadline
    assert 0 == pace.waiting


def test_refusals_cost_places() -> None:
    """Refusals take the concurrency down, successes that use all of it bring it back; other failures do not touch it."""
    fails = [RateLimitError("no", 429), OverloadedError("no", 503), ServerError("oh", 500), "hi"]
    limit, pace, _, _ = fresh(TALK, TALK, TALK, TALK, *fails, max_concurrent=10)
    streams = [limit.stream(asked()) for _ in range(4)]
    seen = []
    for left in (2, 1, 1, 1, 1, 1, 1, 1):
        with suppress(GptError):
            limit.complete(asked())
        seen.append(pace.max_concurrent)
        while len(streams) > left:
            streams.pop().close()
    # Of 5 under way 3 are left, of 3 then 2. Two successes beside the stream use both; after that a place stays free.
    assert [3, 2, 2, 2, 3, 3, 3, 3] == seen


def test_words_in_errors() -> None:
    """What the server says of its limits in an error counts too."""
    limit, pace, _, _ = fresh(RateLimitError("no", 429, rate_limits=RateLimits(Said(100, 0, 60.0))), "hi")
    with pytest.raises(RateLimitError):
        limit.complete(asked())
    assert 100 == pace.requests_per_minute
    with pytest.raises(RateLimitError, match="would wait"):
        limit.complete(asked(), CallOptions(deadline=0.5))


HEADERS = (
    "x-ratelimit-limit-requests: 60",
    "x-ratelimit-remaining-requests: 59",
    "x-ratelimit-reset-requests: 1s",
    "x-ratelimit-limit-tokens: 9000",
    "x-ratelimit-remaining-tokens: 8900",
    "x-ratelimit-reset-tokens: 667ms",
)


@pytest.mark.parametrize("streams", [False, True])
def test_learnt_from_headers(streams: bool) -> None:
    """Over HTTP the limits are learnt from the answer, of a stream when it begins."""
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    body = event if streams else completion()
    with serving(answer(body, "200 OK", *HEADERS)) as server:  # type: ignore[arg-type]
        pace = Pace()
        limit = Limit(Gpt(server_url=server.url).backend, pace)
        if streams:
            stream = limit.stream(asked())
            assert 60 == pace.requests_per_minute
            stream.close()
        else:
            limit.complete(asked())
        assert (60, 9000) == (pace.requests_per_minute, pace.tokens_per_minute)
        limit.close()


@pytest.mark.parametrize("client", [Gpt, AsyncGpt])
def test_retries_are_charged(client: Any) -> None:
    """Attempts that the backend makes again count too, and a refused one holds back everybody."""
    told: list[AttemptInfo] = []
    options = CallOptions(retrying=lambda attempt, _: told.append(attempt))
    refused = Fault(status=429, headers={"retry-after": "1"}, times=2)
    with serve("hi", faults=[refused]) as server, no_waiting():
        pace = Pace(requests_per_minute=100, max_concurrent=8, clock=Clock())
        backend = client(server_url=server.url).backend
        if client is Gpt:
            Limit(backend, pace).complete(asked(), options)
        else:
            asyncio.run(AsyncLimit(backend, pace).complete(asked(), options))  # type: ignore[arg-type]
    assert [429, 429] == [attempt.status for attempt in told]
    assert 3 == pace._allowance.requests._sum
    assert 2 == pace.max_concurrent  # each refusal left one place, and the success that used it made one more
    assert pace._allowance.asked(0.0, Tokens()) >= 1


def tried_again(client: Any, pace: Pace, fault: Fault, options: CallOptions, *, streams: bool) -> Any:
    """What comes of a call by a server that fails first, kept to limits."""
    with serve("hi", faults=[fault]) as server, no_waiting():
        backend: Any = client(server_url=server.url).backend
        if client is Gpt:
            limit = Limit(backend, pace)
            return list(limit.stream(asked(), options)) if streams else limit.complete(asked(), options)

        async def run() -> Any:
            limit = AsyncLimit(backend, pace)
            if streams:
                return [one async for one in await limit.stream(asked(), options)]
            return await limit.complete(asked(), options)

        return asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("client", [Gpt, AsyncGpt])
def test_retries_wait_for_their_turn(client: Any, streams: bool) -> None:
    """An attempt that the backend makes again waits until the limits let it; whoever else is told hears of that wait."""
    told: list[float] = []
    options = CallOptions(retrying=lambda _, wait: told.append(wait))
    pace = Pace(requests_per_minute=1, burst=60, clock=Clock())
    assert tried_again(client, pace, Fault(status=500, times=1), options, streams=streams)
    assert [WINDOW] == told
    assert 2 == pace._allowance.requests._sum


@pytest.mark.parametrize("client", [Gpt, AsyncGpt])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (CallOptions(deadline=WINDOW), []),
        (CallOptions(retry=Retry(total=WINDOW)), [WINDOW]),  # which is not the limit's to know
    ],
)
def test_retries_that_would_wait_too_long(client: Any, options: CallOptions, told: list[float]) -> None:
    """Where the call has not the time for that wait it ends with its error, and counts for one request."""
    heard: list[float] = []
    options = msgspec.structs.replace(options, retrying=lambda _, wait: heard.append(wait))
    pace = Pace(requests_per_minute=1, burst=60, clock=Clock())
    with pytest.raises(ServerError) as caught:
        tried_again(client, pace, Fault(status=500, times=1), options, streams=False)
    assert "Not tried again" in caught.value.__notes__[-1]
    assert told == heard
    assert (1, 0, 1) == (len(caught.value.attempts), pace.under_way, pace._allowance.requests._sum)


@pytest.mark.parametrize(("patience", "wait"), [(20.0, math.inf), (30.0, 30.0), (None, 30.0)])
def test_a_pause_longer_than_patience(patience: float | None, wait: float) -> None:
    """A retry waits for a pause that the server asked others for, unless it is longer than patience=."""
    pace = Pace(patience=patience, clock=Clock())
    waits: list[float | None] = []

    def answer(_: ChatRequest) -> str:
        with pytest.raises(RateLimitError):
            Limit(Scripted(RateLimitError("slow down", 429, retry_after=30.0)), pace).complete(asked())
        retrying = script.options[-1].retrying
        assert retrying is not None
        waits.append(retrying(AttemptInfo(500, "ServerError: x", 1.0), 2.0))
        return "hi"

    script = Scripted(answer)
    Limit(script, pace).complete(asked())
    assert [wait] == waits


def test_news_before_a_retry() -> None:
    """What was put down while somebody else had the lock is dealt with by a retry too: who may go by it goes."""
    pace = Pace(max_concurrent=1, clock=Clock())
    second = Scripted("hi")

    def answer(_: ChatRequest) -> str:
        with thread(lambda: Limit(second, pace).complete(asked())):
            until(lambda: pace.waiting == 1)
            pace._news.append(lambda _: pace._allowance.places.change(2))
            retrying = script.options[-1].retrying
            assert retrying is not None
            assert 2.0 == retrying(AttemptInfo(500, "ServerError: x", 1.0), 2.0)
            until(lambda: len(second.asked) == 1)
        return "hi"

    script = Scripted(answer)
    Limit(script, pace).complete(asked())


@pytest.mark.parametrize("slow", [0, 1])
def test_two_limits_put_off(slow: int) -> None:
    """Of two limits, one over the other, the one that lets a retry go later decides."""
    paces = [Pace(requests_per_minute=1 if place == slow else 100, burst=60, clock=Clock()) for place in range(2)]
    script = Scripted("hi")
    Limit(Limit(script, paces[0]), paces[1]).complete(asked())
    retrying = script.options[-1].retrying
    assert retrying is not None
    assert WINDOW == retrying(AttemptInfo(500, "ServerError: x", 1.0), 2.0)


# --------------------------------------------------------------------------------------------------------------------
# Threads and tasks
# --------------------------------------------------------------------------------------------------------------------


def test_threads_and_tasks() -> None:
    """Threads, and tasks in two event loops, share one limit: as many go as it lets, in the order in which they came."""
    clock = Clock()
    pace = Pace(requests_per_minute=5, burst=60, clock=clock)
    sent: list[tuple[float, str]] = []

    def note(request: ChatRequest) -> str:
        sent.append((clock.now, request.messages[0].content))  # type: ignore[index, union-attr]
        return "hi"

    def named(name: str) -> ChatRequest:
        return ChatRequest(messages=[UserMessage(name)])

    limit = Limit(Scripted(note), pace)

    def work(name: str) -> None:
        limit.complete(named(name))

    def loop(names: list[str]) -> None:
        async def run() -> None:
            shared = AsyncLimit(AsyncScripted(note), pace)
            tasks = []
            for name in names:
                tasks.append(asyncio.ensure_future(shared.complete(named(name))))
            await asyncio.gather(*tasks)

        asyncio.run(run())

    for _ in range(5):
        limit.complete(named("first"))
    workers = []
    for count, target, argument in (
        (1, work, "a"),
        (4, loop, ["b", "c", "d"]),
        (5, work, "e"),
        (7, loop, ["f", "g"]),
        (8, work, "h"),
    ):
        workers.append(threading.Thread(target=target, args=(argument,), daemon=True))
        workers[-1].start()
        until(lambda: count == pace.waiting)
    clock.now = WINDOW - 1
    pace.look()
    assert 8 == pace.waiting
    clock.now = WINDOW
    pace.look()
    until(lambda: 10 == len(sent))
    assert 3 == pace.waiting
    clock.now = 2 * WINDOW
    pace.look()
    for worker in workers:
        worker.join(20)
    assert [(0.0, 5), (WINDOW, 5), (2 * WINDOW, 3)] == [
        (at, sum(one[0] == at for one in sent)) for at in (0, WINDOW, 2 * WINDOW)
    ]
    assert set("abcde") == {name for at, name in sent if at == WINDOW}
    assert set("fgh") == {name for at, name in sent if at == 2 * WINDOW}
    assert (0, 0) == (pace.waiting, pace.under_way)


def test_places_pass_from_call_to_call() -> None:
    """A place that becomes free goes to the first in line, across threads and tasks, without a look at the clock."""
    pace = Pace(max_concurrent=1, clock=Clock())
    limit = Limit(Scripted(TALK), pace)
    holding = limit.stream(asked())
    order: list[str] = []

    def work(name: str) -> None:
        limit.complete(asked())
        order.append(name)

    def loop() -> None:
        async def run() -> None:
            await AsyncLimit(AsyncScripted("hi"), pace).complete(asked())
            order.append("task")

        asyncio.run(run())

    with thread(lambda: work("thread")):
        until(lambda: 1 == pace.waiting)
        with thread(loop):
            until(lambda: 2 == pace.waiting)
            holding.close()
            until(lambda: 2 == len(order))
    assert {"thread", "task"} == set(order)
    assert (0, 0) == (pace.waiting, pace.under_way)


def test_real_time() -> None:
    """By the real clock a thread wakes by itself when it is its turn."""
    pace = Pace(requests_per_minute=6000, burst=0.0)
    limit = Limit(Scripted("hi"), pace)
    waited = [(made.info or ResponseInfo()).waited for made in (limit.complete(asked()) for _ in range(5))]
    assert sum(waited) > 0.0

    async def run() -> float:
        shared = AsyncLimit(AsyncScripted("hi"), pace)
        return sum(
            [
                (made.info or ResponseInfo()).waited
                for made in await asyncio.gather(*(shared.complete(asked()) for _ in range(5)))
            ]
        )

    assert asyncio.run(run()) > 0.0


def test_cancelled_in_line() -> None:
    """A task that is cancelled while it waits leaves the line, first or not; the others move up."""

    async def run() -> list[str]:
        loop = asyncio.get_running_loop()
        script = AsyncScripted(lambda request: request.messages[0].content)
        limit = AsyncLimit(script, requests_per_minute=1, burst=60)
        limit.pace._clock = loop.time
        await limit.complete(asked())
        tasks = [
            asyncio.ensure_future(limit.complete(ChatRequest(messages=[UserMessage(name)]))) for name in ("a", "b", "c", "d")
        ]
        await asyncio.sleep(1)
        for place in (0, 2):
            tasks[place].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert 2 * WINDOW == loop.time()
        assert [True, False, True, False] == [isinstance(one, asyncio.CancelledError) for one in done]
        assert (0, 0) == (limit.pace.waiting, limit.pace.under_way)
        return [request.messages[0].content for request in script.script.asked][1:]  # type: ignore[index, union-attr, misc]

    assert ["b", "d"] == virtual.run(run())


def test_cancelled_at_its_turn() -> None:
    """A task that is cancelled after it was let go, and before it went, gives all of it back."""

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        pace = Pace(requests_per_minute=10, max_concurrent=1, burst=60, clock=clock)
        limit = AsyncLimit(AsyncScripted(TALK), pace)
        stream = await limit.stream(asked())
        waiting = asyncio.ensure_future(limit.complete(asked()))
        await asyncio.sleep(0)
        await stream.close()
        assert 1 == pace.under_way
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert 0 == pace.under_way
        assert 1 == pace._allowance.requests._sum

    virtual.run(run())


def test_cancel() -> None:
    """`CallOptions.cancel` ends the wait of a blocking call, as it does below in_threads."""
    limit, pace, script, _ = fresh("hi", requests_per_minute=1)
    limit.complete(asked())
    cancel = threading.Event()
    with thread(lambda: limit.complete(asked(), CallOptions(cancel=cancel))) as came:
        until(lambda: 1 == pace.waiting)
        cancel.set()
    assert "the call was cancelled" == str(came[0])

    async def run() -> None:
        task = asyncio.ensure_future(in_threads(limit).complete(asked()))
        while not pace.waiting:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    until(lambda: 0 == pace.waiting)
    assert 1 == len(script.asked)


def test_goes_on_with_cancel() -> None:
    """A call with a `cancel` that is never set goes when it is its turn."""
    limit, pace, _, clock = fresh("hi", requests_per_minute=1)
    limit.complete(asked())
    with thread(lambda: limit.complete(asked(), CallOptions(cancel=threading.Event()))) as came:
        until(lambda: 1 == pace.waiting)
        clock.now = WINDOW
        pace.look()
    assert "hi" == came[0].text


@pytest.mark.parametrize("first", [True, False])
def test_a_loop_that_is_closed(first: bool) -> None:
    """A task whose event loop was closed while it waited holds up nobody."""
    limit, pace, _, clock = fresh("hi", requests_per_minute=1)
    limit.complete(asked())
    loop = asyncio.new_event_loop()
    shared = AsyncLimit(AsyncScripted("hi"), pace)
    lost = loop.create_task(shared.complete(asked()))
    loop.run_until_complete(asyncio.sleep(0))
    assert 1 == pace.waiting
    loop.close()
    if first:
        clock.now = WINDOW
    else:
        pace._allowance.requests.change(1)
        pace.look()
        assert 0 == pace.waiting
        clock.now = WINDOW
    assert "hi" == limit.complete(asked()).text
    assert (0, 0) == (pace.waiting, pace.under_way)
    lost._log_destroy_pending = False  # type: ignore[attr-defined]
    lost.get_coro().close()  # type: ignore[union-attr]


FORKED = """
import os
from gpt import ChatRequest, Limit, Pace, UserMessage
from gpt.testing import Scripted

asked = ChatRequest(messages=[UserMessage("hi")])
pace = Pace(requests_per_minute=2, max_concurrent=1)
limit = Limit(Scripted("a b"), pace)
stream = limit.stream(asked)
pace._lock.acquire()
child = os.fork()
if child == 0:
    assert "a b" == limit.complete(asked).text
    del stream
    assert 0 == pace.under_way
    os._exit(0)
pace._lock.release()
assert 0 == os.waitpid(child, 0)[1]
assert 1 == pace.under_way
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork() -> None:
    """A forked process begins anew: it holds no place of its parent, and waits for no lock that was held."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


# --------------------------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"requests_per_minute": 0}, "requests_per_minute: expected a number above 0, or None, got 0"),
    ({"requests_per_minute": True}, "requests_per_minute"),
    ({"tokens_per_minute": "many"}, "tokens_per_minute"),
    ({"tokens_per_minute": float("inf")}, "tokens_per_minute"),
    ({"input_tokens_per_minute": -1}, "input_tokens_per_minute: expected a number above 0, or None, got -1"),
    ({"output_tokens_per_minute": float("nan")}, "output_tokens_per_minute"),
    ({"adapt_concurrency": 1}, "adapt_concurrency: expected True or False, got 1"),
    ({"max_concurrent": 0}, "max_concurrent: expected an int from 1, or None, got 0"),
    ({"max_concurrent": 2.5}, "max_concurrent"),
    ({"max_concurrent": True}, "max_concurrent"),
    ({"burst": -1}, "burst: expected seconds from 0, got -1"),
    ({"burst": None}, "burst"),
    ({"patience": -1}, "patience"),
    ({"count": 5}, "count: expected a function, got 5"),
    ({"clock": None}, "clock"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    """What cannot be a limit is refused by name."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Pace(**settings)
    assert next(iter(settings)) == caught.value.param


@pytest.mark.parametrize("layer", [Limit, AsyncLimit])
def test_wrong_layers(layer: Any) -> None:
    """A layer takes a pace or limits, not both, and nothing else as a pace."""
    with pytest.raises(InvalidRequestError, match="pace: has its own limits; give it or requests_per_minute, not both"):
        layer(Scripted("hi"), Pace(), requests_per_minute=5)
    with pytest.raises(InvalidRequestError, match="pace: expected a Pace, got int"):
        layer(Scripted("hi"), 5)


def test_changed() -> None:
    """Limits may be set anew, as shares of one are; what has gone out counts, and what waits looks again."""
    limit, pace, _, _ = fresh("hi", requests_per_minute=1, tokens_per_minute=5000, max_concurrent=3, burst=60)
    limit.complete(asked())
    with thread(lambda: limit.complete(asked())) as came:
        until(lambda: 1 == pace.waiting)
        pace.change(requests_per_minute=2)
    assert "hi" == came[0].text
    assert "Pace(requests_per_minute=2, tokens_per_minute=5000, max_concurrent=3)" == repr(pace)
    pace.change(tokens_per_minute=7000, max_concurrent=1)
    assert (2, 7000, 1) == (pace.requests_per_minute, pace.tokens_per_minute, pace.max_concurrent)
    for wrong in ({"tokens_per_minute": 0}, {"output_tokens_per_minute": 0}, {"share": 0}, {"share": 1.5}, {"share": True}):
        with pytest.raises(InvalidRequestError, match=f"^{next(iter(wrong))}: ") as caught:
            pace.change(**wrong)
        assert next(iter(wrong)) == caught.value.param
    assert (2, 7000, 1) == (pace.requests_per_minute, pace.tokens_per_minute, pace.max_concurrent)
    with thread(lambda: limit.complete(asked())) as came:
        until(lambda: 1 == pace.waiting)
        pace.change(tokens_per_minute=10)
    assert "no wait helps" in str(came[0])


def test_apart() -> None:
    """Limits on prompts and on answers hold beside that on all tokens, each by its own usage."""
    limit, pace, _, clock = fresh(says(40), tokens_per_minute=5000, input_tokens_per_minute=1000, output_tokens_per_minute=700)
    limit.complete(asked(max_tokens=500))
    one = pace._allowance
    assert [4960, 990, 670] == [rate.limit - rate._sum for rate in (one.tokens, one.input_tokens, one.output_tokens)]  # type: ignore[operator]
    assert (5000, 1000, 700) == (pace.tokens_per_minute, pace.input_tokens_per_minute, pace.output_tokens_per_minute)
    assert (
        "Pace(requests_per_minute=None, tokens_per_minute=5000, input_tokens_per_minute=1000, output_tokens_per_minute=700, "
        "max_concurrent=None)"
    ) == repr(pace)
    with pytest.raises(RateLimitError, match=r"would wait 61\.0 s"):
        limit.complete(asked(max_tokens=680), CallOptions(deadline=10))
    pace.change(input_tokens_per_minute=12, output_tokens_per_minute=10_000)
    with pytest.raises(RateLimitError, match=r"would wait 61\.0 s"):
        limit.complete(asked(max_tokens=5), CallOptions(deadline=10))
    clock.now = WINDOW
    limit.complete(asked(max_tokens=5), CallOptions(deadline=10))


TOO_LARGE: list[tuple[dict[str, Any], str, str]] = [
    (
        {"tokens_per_minute": 1000},
        "messages",
        r"may take 1,5\d\d tokens, prompt and answer together, and the limit is 1,000 a minute",
    ),
    (
        {"input_tokens_per_minute": 3},
        "messages",
        r"the prompt may have \d+ tokens, and the limit on input tokens is 3 a minute.*send less",
    ),
    (
        {"output_tokens_per_minute": 1499},
        "max_completion_tokens",
        r"the answer may have 1,500 tokens, and the limit on output tokens is 1,499 a minute.*shorter answer",
    ),
]


@pytest.mark.parametrize(("limits", "param", "message"), TOO_LARGE)
def test_too_large_for_one_of_them(limits: dict[str, float], param: str, message: str) -> None:
    """What no wait helps is refused with the limit that it is too large for."""
    limit, _, _, _ = fresh("hi", **limits)
    with pytest.raises(InvalidRequestError, match=f"^{param}: .*{message}") as caught:
        limit.complete(asked(max_tokens=1500))
    assert param == caught.value.param


def test_unknown_length_fits() -> None:
    """An answer of which nothing says that it will be long is not refused for a small limit: that much is reserved."""
    limit, pace, _, _ = fresh("hi", tokens_per_minute=600, output_tokens_per_minute=300)
    stream = limit.stream(asked())
    assert 300 == pace._allowance.output_tokens._sum
    assert 600 >= pace._allowance.tokens._sum
    stream.close()


def test_apart_learnt_from_headers() -> None:
    """Limits on prompts and on answers are learnt from the server where nobody gave them."""
    headers = ("x-ratelimit-limit-input-tokens: 900", "x-ratelimit-limit-output-tokens: 300")
    with serving(answer(completion(), "200 OK", *headers)) as server:  # type: ignore[arg-type]
        pace = Pace()
        limit = Limit(Gpt(server_url=server.url).backend, pace)
        limit.complete(asked())
        limit.close()
    assert (None, 900, 300) == (pace.tokens_per_minute, pace.input_tokens_per_minute, pace.output_tokens_per_minute)


def test_pieces_tell_apart() -> None:
    """Of a stream without usage the prompt's estimate is charged to prompts, and its pieces to answers."""
    limit, pace, _, _ = fresh(TALK, input_tokens_per_minute=1000, output_tokens_per_minute=1000)
    list(limit.stream(asked(max_tokens=500)))
    assert 4 == pace._allowance.output_tokens._sum
    assert 5 <= pace._allowance.input_tokens._sum <= 30


def test_share() -> None:
    """A process's share holds for all rates, is less than one a minute or than a call too, and passes to a forked process."""
    limit, pace, _, clock = fresh(says(400), requests_per_minute=10, tokens_per_minute=5000, output_tokens_per_minute=2000)
    pace.change(share=0.05, max_concurrent=5)
    assert (0.5, 250, 100, 5) == (
        pace.requests_per_minute,
        pace.tokens_per_minute,
        pace.output_tokens_per_minute,
        pace.max_concurrent,
    )
    limit.complete(asked(max_tokens=500))  # more than the share of a minute
    with pytest.raises(RateLimitError, match=r"would wait 177\.9 s"):  # 390 tokens at 100 a minute, less what was saved up
        limit.complete(asked(max_tokens=500), CallOptions(deadline=100))
    clock.now = 178.0
    assert "hi" == limit.complete(asked(max_tokens=500), CallOptions(deadline=1)).text
    with pytest.raises(InvalidRequestError, match="the limit on output tokens is 2,000 a minute"):
        limit.complete(asked(max_tokens=2001))
    pace.change(requests_per_minute=20)
    assert 1 == pace.requests_per_minute
    pace._begin()  # as in a forked process
    assert (1, 250, 5) == (pace.requests_per_minute, pace.tokens_per_minute, pace.max_concurrent)
    pace.change(share=1)
    assert (20, 5000, 2000) == (pace.requests_per_minute, pace.tokens_per_minute, pace.output_tokens_per_minute)


class Crowded(AsyncScripted):
    """A server with ten places; the other calls wait in a queue."""

    def __init__(self) -> None:
        super().__init__(says(110))
        self.places = asyncio.Semaphore(10)
        self.most = self.under_way = 0

    async def complete(self, request: ChatRequest, options: CallOptions = CallOptions()) -> ChatCompletion:  # noqa: B008
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        async with self.places:
            await asyncio.sleep(1)
        self.under_way -= 1
        return await super().complete(request, options)


def test_adapts() -> None:
    """With so many at once that the server can use, of a hundred that may be, its places are used and few calls queue."""

    async def run() -> tuple[float, Crowded, Pace, list[int]]:
        loop = asyncio.get_running_loop()
        server, seen = Crowded(), []
        pace = Pace(max_concurrent=100, adapt_concurrency=True, clock=loop.time)
        assert (8, "Pace(requests_per_minute=None, tokens_per_minute=None, max_concurrent=8, adapt_concurrency=True)") == (
            pace.max_concurrent,
            repr(pace),
        )
        limit = AsyncLimit(server, pace)

        async def work() -> None:
            for _ in range(60):
                await limit.complete(asked())
                seen.append(pace.max_concurrent or 0)

        await asyncio.gather(*(work() for _ in range(100)))
        return loop.time(), server, pace, seen

    time, server, pace, seen = virtual.run(run())
    assert 6000 / time >= 9
    assert server.most <= 40
    assert 7 <= sorted(seen)[len(seen) // 2] <= 20
    assert 0 == pace.under_way


def test_shows() -> None:
    """The layer shows what it is over, and has of it what is asked for: profile, endpoint, exact counts."""

    class Known(Scripted):
        profile = Profile(may_break_off=True)
        endpoint = "there"

        def count_tokens(self, request: ChatRequest, options: CallOptions) -> int:
            return 7

    for layer, backend in ((Limit, Known("hi")), (AsyncLimit, Known("hi"))):
        limit: Any = layer(backend, requests_per_minute=5)  # type: ignore[operator]
        assert limit.profile.may_break_off
        assert ("there", 7) == (limit.endpoint, limit.count_tokens(asked(), CallOptions()))
        assert f"{layer.__name__}(Scripted(1 answers left), Pace(requests_per_minute=5" in repr(limit)
    bare = Limit(Scripted("hi"))
    assert (None, None, None) == (bare.profile, bare.endpoint, bare.count_tokens)


def test_own_count() -> None:
    """The caller's own count of a prompt's tokens is taken; it sees the request as it is sent."""
    limit, _, _, _ = fresh("hi", tokens_per_minute=1000, count=lambda request: 600 * len(request["messages"]))
    limit.complete(asked(max_tokens=100))
    with pytest.raises(RateLimitError):
        limit.complete(asked(max_tokens=100), CallOptions(deadline=1))


def test_messages_are_read_once() -> None:
    """Messages that can be read only once are counted and sent all the same."""
    limit, _, script, _ = fresh("hi", tokens_per_minute=5000)
    limit.complete(ChatRequest(messages=(one for one in [UserMessage("a"), UserMessage("b")])))
    assert ["a", "b"] == [one.content for one in script.asked[0].messages]  # type: ignore[union-attr]


def test_time_left() -> None:
    """The backend is told of the time that is left, and of no deadline where there is none."""
    limit, pace, script, clock = fresh("hi", requests_per_minute=1)
    limit.complete(asked())
    with thread(lambda: limit.complete(asked(), CallOptions(deadline=100))):
        until(lambda: 1 == pace.waiting)
        clock.now = WINDOW
        pace.look()
    assert [None, 39.0] == [options.deadline for options in script.options]


def test_limit_over_limit() -> None:
    """A wait that the limit below refuses is no refusal of the server: nothing was sent, and nothing falls."""
    inner = Limit(Scripted("hi"), requests_per_minute=1, burst=60)
    outer = Limit(inner, requests_per_minute=10, burst=60, max_concurrent=4)  # which itself would let it go at once
    outer.complete(asked())
    with pytest.raises(RateLimitError, match="its deadline leaves"):
        outer.complete(asked(), CallOptions(deadline=5))
    assert 4 == outer.pace.max_concurrent
    assert 1 == outer.pace._allowance.requests._sum
