"""A call as the attempts it asks for: tested with next, send and throw; no socket, no clock."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import errors
from gpt.protocol import flow
from gpt.protocol.retry import Budget, Retry
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, ResponseInfo
from gpt.types import ChatCompletion

REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions", body=b"{}")
GOOD = json.dumps(
    {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}
).encode()


def response(status: int = 200, body: bytes = GOOD, **headers: str) -> HttpResponse:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return HttpResponse(status, Headers(named), body, elapsed=2.0, first_byte=1.0)


class Call:
    """A flow, with a clock that goes on by what each attempt takes and each wait lasts."""

    def __init__(
        self,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        draw: float = 0.5,
        deadline: float | None = None,
        budget: Budget | None = None,
        read: Any = flow.completion,
        request: HttpRequest = REQUEST,
    ) -> None:
        self.now = 0.0
        self.budget = budget or Budget()
        chances = flow.Chances(retry, self.budget, lambda: self.now, lambda: draw)
        self.flow: flow.Flow[Any] = flow.call(request, read, chances, deadline)

    def __next__(self) -> flow.Attempt:
        return next(self.flow)

    def send(self, answer: HttpResponse | errors.TransportError) -> Any:
        """What the flow does with an answer: its next attempt, or its result."""
        self.now += answer.elapsed
        try:
            attempt = self.flow.throw(answer) if isinstance(answer, errors.TransportError) else self.flow.send(answer)
        except StopIteration as done:
            return done.value
        self.now += attempt.after
        return attempt


started = Call


def sent(call: Call, answer: HttpResponse | errors.TransportError) -> Any:
    return call.send(answer)


def retried(count: int) -> HttpRequest:
    """The request as it goes out for the count-th time again."""
    return msgspec.structs.replace(REQUEST, own_headers=(("x-retry-count", str(count)),))


def test_first_answer() -> None:
    """One request, one answer, one completion, with the facts of the exchange."""
    call = started()
    assert flow.Attempt(REQUEST, 0.0) == next(call)
    made = sent(call, response(x_request_id="r1"))
    assert isinstance(made, ChatCompletion)
    assert made.text == "hi"
    assert made.info is not None
    assert ("r1", 200, 2.0, 1.0) == (made.info.request_id, made.info.status, made.info.elapsed, made.info.first_byte)
    assert [(200, "ok", 2.0, 0.0)] == [(a.status, a.reason, a.elapsed, a.waited) for a in made.info.attempts]


def test_tries_again() -> None:
    """A failure worth another try waits and sends the same request; the result tells of every attempt."""
    call = started()
    next(call)
    assert flow.Attempt(retried(1), 0.125) == sent(call, response(500, b""))
    refused = errors.ConnectError("refused", phase="connect")
    refused.elapsed = 0.5
    assert flow.Attempt(retried(2), 0.25) == sent(call, refused)
    made = sent(call, response())
    assert isinstance(made, ChatCompletion)
    assert made.info is not None
    assert [500, None, 200] == [attempt.status for attempt in made.info.attempts]
    assert [0.0, 0.125, 0.25] == [attempt.waited for attempt in made.info.attempts]
    assert 2.0 + 0.125 + 0.5 + 0.25 + 2.0 == made.info.elapsed


def test_gives_up() -> None:
    """After the last attempt the error is raised, and tells of every attempt."""
    call = started(Retry(attempts=2))
    next(call)
    sent(call, response(503, b""))
    with pytest.raises(errors.OverloadedError) as caught:
        sent(call, response(503, b'{"error": {"message": "busy"}}'))
    assert [503, 503] == [attempt.status for attempt in caught.value.attempts]
    assert "busy" in str(caught.value)


def test_no_answer() -> None:
    """When no answer comes, the transport's own error is raised."""
    call = started(Retry(attempts=1))
    next(call)
    refused = errors.ConnectError("refused")
    with pytest.raises(errors.ConnectError) as caught:
        sent(call, refused)
    assert caught.value is refused
    assert [None] == [attempt.status for attempt in caught.value.attempts]


def test_deadline() -> None:
    """Attempts and waits share the deadline: each attempt gets what is left, and a wait that would pass it is not begun."""
    call = started(Retry(attempts=9), deadline=4.2)
    first = next(call)
    assert 4.2 == first.request.deadline
    second = sent(call, response(500))
    assert isinstance(second, flow.Attempt)
    assert second.after == 0.125
    assert second.request.deadline == pytest.approx(4.2 - 2.0 - 0.125)
    with pytest.raises(errors.ServerError) as caught:
        sent(call, response(500))
    assert len(caught.value.attempts) == 2
    call = started(deadline=10.0)
    next(call)
    with pytest.raises(errors.RateLimitError):
        sent(call, response(429, retry_after="60"))


def test_total() -> None:
    """No attempt begins later than `total` after the start."""
    call = started(Retry(attempts=9, total=5.0))
    next(call)
    assert isinstance(sent(call, response(500)), flow.Attempt)
    assert isinstance(sent(call, response(500)), flow.Attempt)
    with pytest.raises(errors.ServerError) as caught:
        sent(call, response(500))
    assert len(caught.value.attempts) == 3


MALFORMED: list[tuple[bytes, dict[str, str], type[errors.GptError], str]] = [
    (b"<html>hello", {"content_type": "text/html"}, errors.MalformedResponseError, "it is not JSON"),
    (b"", {}, errors.MalformedResponseError, "it is not JSON"),
    (b'{"choices": []}', {}, errors.MalformedResponseError, "it has no choices"),
    (b'{"x": 1}', {}, errors.MalformedResponseError, "it has no choices"),
    (b'{"choices": [{"message": 5}]}', {}, errors.MalformedResponseError, "Expected object, got int - at $.choices[0].message"),
    (b'{"error": {"message": "no", "code": "rate_limit_exceeded"}}', {}, errors.RateLimitError, "no (POST http://h"),
    (b'{"error": {"message": "broken"}, "choices": 5}', {}, errors.MalformedResponseError, "broken"),
]


@pytest.mark.parametrize(("body", "headers", "kind", "text"), MALFORMED)
def test_malformed(body: bytes, headers: dict[str, str], kind: type[errors.GptError], text: str) -> None:
    """A 200 that is no completion is an error, the one that it disguises where it does."""
    call = started(Retry(attempts=1))
    next(call)
    with pytest.raises(kind) as caught:
        sent(call, response(200, body, **headers))
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert [200] == [attempt.status for attempt in caught.value.attempts]


def test_models() -> None:
    """A list of models is read, or its failure named."""
    call = started(read=flow.models)
    next(call)
    assert ["m"] == [model.id for model in sent(call, response(200, b'{"data": [{"id": "m"}]}'))]
    call = started(read=flow.models)
    next(call)
    with pytest.raises(errors.MalformedResponseError):
        sent(call, response(200, b"[]"))


def test_retrying() -> None:
    """Who wants to know is told of each attempt that is made again, and of the wait; not of the last one."""
    told: list[Any] = []
    chances = flow.Chances(Retry(), Budget(), lambda: 0.0, lambda: 0.5)
    call = flow.call(REQUEST, flow.completion, chances, None, lambda attempt, wait: told.append((attempt.status, wait)))
    next(call)
    waits = [call.send(response(503)).after for _ in range(2)]
    with pytest.raises(errors.ServerError):
        call.send(response(503))
    assert [(503, wait) for wait in waits] == told


@pytest.mark.parametrize(
    ("asked", "retry", "deadline", "after"),
    [
        (None, Retry(), None, 0.125),
        (0.1, Retry(), None, 0.125),
        (50.0, Retry(), None, 50.0),
        (50.0, Retry(), 60.0, 50.0),
        (50.0, Retry(), 50.0, None),
        (50.0, Retry(total=40.0), None, None),
        (float("inf"), Retry(), None, None),
    ],
)
def test_put_off(asked: float | None, retry: Retry, deadline: float | None, after: float | None) -> None:
    """Who is told of a retry may put it off; where the call has not so much time it is not made, and its error says so."""
    chances = flow.Chances(retry, Budget(), lambda: 0.0, lambda: 0.5)
    call = flow.call(REQUEST, flow.completion, chances, deadline, lambda attempt, wait: asked)
    next(call)
    if after is not None:
        assert after == call.send(response(500)).after
        return
    with pytest.raises(errors.ServerError) as caught:
        call.send(response(500))
    assert (1, True) == (len(caught.value.attempts), "Not tried again" in caught.value.__notes__[-1])


def test_read() -> None:
    """What `read` makes of a 200 is the call's result; a failure that it finds there is tried again like any other."""
    bad = errors.ServerError("not yet", 200)

    def read(response: HttpResponse, _: HttpRequest, info: ResponseInfo) -> ResponseInfo:
        if response.body == b"bad":
            raise bad
        return info

    call = started(read=read)
    next(call)
    sent(call, response(503))
    sent(call, response(200, b"bad"))
    attempts = sent(call, response(200, b"")).attempts
    assert [503, 200, 200] == [attempt.status for attempt in attempts]
    assert "ServerError: not yet" == attempts[1].reason


EVENTS = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_event_stream(content_type: str) -> None:
    """An event stream that nobody asked for is a completion, with how it ended."""
    call = started()
    next(call)
    made = sent(call, response(200, EVENTS + b"data: [DONE]\n\n", content_type=content_type))
    assert ("hi", "stop", "complete", 200) == (made.text, made.choices[0].finish_reason, made.info.ended, made.info.status)


def test_event_stream_that_fails() -> None:
    """What such a stream says went wrong is raised."""
    call = started(Retry(attempts=1))
    next(call)
    with pytest.raises(errors.OverloadedError):
        sent(call, response(200, b'data: {"error": "server is busy"}\n\n'))


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"index": 0, "message": {}, "finish_reason": "error", "error": {"code": 502, "message": "gone"}}]}',
        b'{"choices": [{"index": 0, "message": {}, "finish_reason": "error"}], "error": {"code": 502, "message": "gone"}}',
    ],
)
def test_error_beside_choices(body: bytes) -> None:
    """An error beside choices, or in one, is raised."""
    call = started(Retry(attempts=1))
    next(call)
    with pytest.raises(errors.ServerError, match="gone"):
        sent(call, response(200, body))


# --------------------------------------------------------------------------------------------------------------------
# The budget
# --------------------------------------------------------------------------------------------------------------------


def test_budget() -> None:
    """A retry is paid for; when there is not enough, the error is raised at once and says so."""
    call = started(budget=Budget(14))
    next(call)
    assert isinstance(sent(call, response(500)), flow.Attempt)
    assert 0 == call.budget.tokens
    with pytest.raises(errors.ServerError) as caught:
        sent(call, response(500))
    assert ["Not tried again: too many calls of this client have failed, and its retry budget is used up."] == getattr(
        caught.value, "__notes__"
    )
    assert 2 == len(caught.value.attempts)
    free = started(Retry(budgeted=False), budget=Budget(0))
    next(free)
    assert isinstance(sent(free, response(500)), flow.Attempt)


def test_budget_comes_back() -> None:
    """A retry that succeeds gives back what it cost, any other success 1, never above the capacity."""
    call = started(budget=Budget(20))
    next(call)
    sent(call, response(500))
    assert 6 == call.budget.tokens
    sent(call, response())
    assert 20 == call.budget.tokens
    call.budget.tokens = 10
    again = started(budget=call.budget)
    next(again)
    sent(again, response())
    assert 11 == call.budget.tokens


@settings(deadline=None)  # under coverage, on a busy machine, an example takes long
@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True), st.integers(400, 800))
def test_outage(seed: int, draw: float, calls: int) -> None:
    """A full outage gets less than 1.1 times the traffic that there were calls, however many attempts a policy allows."""
    budget = Budget()
    sent_out = 0
    for _ in range(calls):
        call = started(Retry(attempts=3 + seed % 5), draw, budget=budget)
        attempt = next(call)
        while attempt is not None:
            sent_out += 1
            try:
                attempt = sent(call, response(503))
            except errors.ServerError:
                attempt = None
    assert sent_out < 1.1 * calls


@pytest.mark.parametrize("failing", [0.5, 0.7, 0.9])
def test_overload(failing: float) -> None:
    """While a server fails half of its calls or more, retries add less than a tenth to the traffic."""
    chance = random.Random(7)
    budget = Budget()
    calls, sent_out = 5000, 0
    for _ in range(calls):
        call = started(draw=chance.random(), budget=budget)
        going: Any = next(call)
        while isinstance(going, flow.Attempt):
            sent_out += 1
            try:
                going = sent(call, response(503) if chance.random() < failing else response())
            except errors.ServerError:
                break
    assert calls <= sent_out < 1.1 * calls


ANSWERS = st.one_of(
    st.tuples(st.sampled_from([200, 400, 429, 500, 503]), st.floats(0, 30), st.none() | st.integers(0, 200)),
    st.tuples(st.none(), st.floats(0, 30), st.none()),
)


@given(st.lists(ANSWERS, min_size=8, max_size=8), st.floats(0, 1, exclude_max=True), st.floats(0.1, 60), st.integers(1, 8))
def test_waits_and_deadline(answers: list[Any], draw: float, deadline: float, attempts: int) -> None:
    """Attempts are never more than allowed, no wait ends after the deadline, and no attempt may last beyond it."""
    call = started(Retry(attempts=attempts), draw, deadline)
    attempt: Any = next(call)
    made = told = 0
    for status, elapsed, asked in answers:
        made += 1
        assert attempt.after >= 0
        assert call.now < deadline
        assert call.now + attempt.request.deadline <= deadline + 1e-9
        elapsed = min(elapsed, attempt.request.deadline)
        answer: HttpResponse | errors.TransportError
        if status is None:
            answer = errors.ConnectError("x")
            answer.elapsed = elapsed
        else:
            headers = [] if asked is None else [("retry-after", str(asked))]
            answer = HttpResponse(status, Headers(headers), GOOD if status == 200 else b"", elapsed)
        try:
            attempt = sent(call, answer)
        except errors.GptError as error:
            told = len(error.attempts)
            break
        if isinstance(attempt, ChatCompletion):
            assert attempt.info is not None
            told = len(attempt.info.attempts)
            break
    assert made == told
    assert made <= attempts


# --------------------------------------------------------------------------------------------------------------------
# Redirects
# --------------------------------------------------------------------------------------------------------------------

KEYED = HttpRequest(
    "POST",
    Origin("https", "h", 443),
    "/v1/chat/completions",
    (("authorization", "Bearer k"), ("accept", "a/b"), ("x-own", "1")),
    b"{}",
    own_headers=(("idempotency-key", "1"),),
)


def test_redirect() -> None:
    """A redirect is followed at once and with everything at the same origin, and counts as no retry."""
    call = started(request=KEYED, budget=Budget(0))
    next(call)
    further = sent(call, response(308, b"", location="/v2/chat/completions?a=b"))
    assert (0.0, "/v2/chat/completions?a=b", KEYED.headers) == (
        further.after,
        further.request.target,
        further.request.headers,
    )
    made = sent(call, response())
    assert [308, 200] == [attempt.status for attempt in made.info.attempts]
    assert "redirected to https://h/v2/chat/completions?a=b" == made.info.attempts[0].reason


def test_redirect_to_another_origin() -> None:
    """The key, and what else the caller added, does not follow to another origin; a refusal there says so."""
    call = started(request=KEYED)
    next(call)
    further = sent(call, response(307, b"", location="https://other.test/v1/chat/completions"))
    assert Origin("https", "other.test", 443) == further.request.origin
    assert (("accept", "a/b"),) == further.request.headers
    assert b"{}" == further.request.body
    with pytest.raises(errors.AuthenticationError, match="keys do not follow one to another server"):
        sent(call, response(401))


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://h/v1"),  # from https to http
        (302, "https://h/v2"),  # would turn the POST into a GET
        (307, None),
        (307, "https://user:pw@h/v1"),
        (307, "ftp://h/v1"),
        (307, "https://h:99999/"),
        (307, "https://h/a b"),
        (307, "https://h/\xe9"),
    ],
)
def test_redirect_refused(status: int, location: str | None) -> None:
    """A redirect that is unsafe, or none, is an error that shows it."""
    call = started(request=KEYED)
    next(call)
    headers = {} if location is None else {"location": location}
    with pytest.raises(errors.ResponseError, match="was not followed"):
        sent(call, response(status, b"", **headers))


def test_redirect_for_ever() -> None:
    """A circle of redirects ends."""
    call = started(request=KEYED)
    next(call)
    for _ in range(flow.MAX_REDIRECTS):
        assert isinstance(sent(call, response(307, b"", location="/x")), flow.Attempt)
    with pytest.raises(errors.ResponseError, match="was not followed"):
        sent(call, response(307, b"", location="/x"))
