"""A call as the attempts it asks for: tested with next, send and throw; no socket, no clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt import errors
from gpt.protocol import flow
from gpt.protocol.retry import Retry
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin
from gpt.types import ChatCompletion

REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions", body=b"{}")
GOOD = json.dumps(
    {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}
).encode()


def response(status: int = 200, body: bytes = GOOD, **headers: str) -> HttpResponse:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return HttpResponse(status, Headers(named), body, elapsed=2.0, first_byte=1.0)


def started(retry: Retry = Retry(), draw: float = 0.5) -> flow.Flow[ChatCompletion]:  # noqa: B008 - frozen
    return flow.call(REQUEST, flow.completion, retry, lambda: draw)


def sent(call: flow.Flow[ChatCompletion], answer: HttpResponse | errors.TransportError) -> flow.Attempt | ChatCompletion:
    """What the flow does with an answer: its next attempt, or its result."""
    try:
        return call.throw(answer) if isinstance(answer, errors.TransportError) else call.send(answer)
    except StopIteration as done:
        result: ChatCompletion = done.value
        return result


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
    assert flow.Attempt(REQUEST, 0.125) == sent(call, response(500, b""))
    refused = errors.ConnectError("refused", phase="connect")
    refused.elapsed = 0.5
    assert flow.Attempt(REQUEST, 0.25) == sent(call, refused)
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
        call.throw(refused)
    assert caught.value is refused
    assert [None] == [attempt.status for attempt in caught.value.attempts]


def test_deadline() -> None:
    """Attempts and waits share the deadline: each attempt gets what is left, and a wait that would pass it is not begun."""
    call = flow.call(REQUEST, flow.completion, Retry(attempts=9), lambda: 0.5, 4.2)
    first = next(call)
    assert 4.2 == first.request.deadline
    second = sent(call, response(500))
    assert isinstance(second, flow.Attempt)
    assert second.after == 0.125
    assert second.request.deadline == pytest.approx(4.2 - 2.0 - 0.125)
    with pytest.raises(errors.ServerError) as caught:
        sent(call, response(500))
    assert len(caught.value.attempts) == 2
    call = flow.call(REQUEST, flow.completion, Retry(), lambda: 0.5, 10.0)
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
    call: flow.Flow[Any] = flow.call(REQUEST, flow.models, Retry(), lambda: 0.0)
    next(call)
    with pytest.raises(StopIteration) as done:
        call.send(response(200, b'{"data": [{"id": "m"}]}'))
    assert ["m"] == [model.id for model in done.value.value]
    call = flow.call(REQUEST, flow.models, Retry(), lambda: 0.0)
    next(call)
    with pytest.raises(errors.MalformedResponseError):
        call.send(response(200, b"[]"))
