"""HTTP as values."""

from __future__ import annotations

import pickle

import pytest

from gpt.protocol.wire import AttemptInfo, Headers, HttpRequest, HttpResponse, Origin, ResponseInfo, Timeout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Timeout(None, None, None, None)),
        (3, Timeout(5.0, 3.0, 3.0, 3.0)),
        (Timeout(connect=1), Timeout(1, 30.0, 600.0, 120.0)),
    ],
)
def test_timeout(given: Timeout | float | None, expected: Timeout) -> None:
    """A number sets all clocks but connect; None lifts them."""
    assert expected == Timeout.of(given)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("http", "h", 80), "http://h"),
        (Origin("https", "h", 443), "https://h"),
        (Origin("https", "h", 80), "https://h:80"),
        (Origin("http", "::1", 8080), "http://[::1]:8080"),
    ],
)
def test_origin(origin: Origin, expected: str) -> None:
    """An origin reads as a URL does."""
    assert expected == str(origin)


def test_headers_mention() -> None:
    """A part of a name is found in any case, whether the lines have been read yet or not."""
    for headers in (Headers([("X-RateLimit-Limit", "1")]), Headers(lines=b"X-RateLimit-Limit: 1\r\nb: 2")):
        for _ in range(2):
            assert headers.mentions("-ratelimit-")
            assert not headers.mentions("-other-")
            assert "1" == headers["x-ratelimit-limit"]
    assert not Headers().mentions("x")


def test_headers() -> None:
    """Names match in any case; repeated fields are joined."""
    headers = Headers([("X-A", "1"), ("b", "2"), ("x-a", "3")])
    assert headers["X-a"] == "1, 3"
    assert headers.get("c") is None
    assert ["x-a", "b"] == list(headers)
    assert len(headers) == 2
    assert repr(headers) == "Headers({'x-a': '1, 3', 'b': '2'})"
    assert dict(headers) == dict(Headers(lines=b"X-A: 1\r\nb:2\r\nx-a: 3 "))
    assert dict(pickle.loads(pickle.dumps(headers))) == dict(headers)
    with pytest.raises(KeyError):
        headers["c"]


def test_secrets() -> None:
    """Neither headers nor bodies show in repr."""
    request = HttpRequest("POST", Origin("http", "h", 80), "/x", (("authorization", "secret"),), b"private")
    assert repr(request) == "HttpRequest('POST', 'http://h/x', 7 bytes)"
    assert repr(HttpResponse(200, Headers(), b"private")) == "HttpResponse(200, 7 bytes)"


def whole(body: bytes) -> HttpResponse:
    return HttpResponse(200, Headers(), body)


TWICE = (AttemptInfo(503, "no", 4.0), AttemptInfo(200, "ok", 1.5, 1.0))


@pytest.mark.parametrize(
    ("reason", "expected"), [("ok", False), ("redirected to http://h/v1", False), ("ServerError: redirected to nowhere", True)]
)
def test_failed_attempt(reason: str, expected: bool) -> None:
    """An attempt failed that ended with an error, whatever it says; one that led elsewhere did not."""
    assert expected == AttemptInfo(None, reason, 1.0).failed


def test_response() -> None:
    """An answer has the names that `requests` gave it."""
    response = HttpResponse(200, Headers(), b'{"a": "\xc3\xa4"}')
    assert (200, b'{"a": "\xc3\xa4"}', '{"a": "ä"}') == (response.status_code, response.content, response.text)
    assert {"a": "ä"} == response.json()
    assert HttpResponse(200, Headers(), b"\xff").text == "\ufffd"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (ResponseInfo(), None),
        (ResponseInfo(elapsed=3.0, first_token=1.0, completion_tokens=1), None),
        (ResponseInfo(elapsed=3.0, first_token=1.0, completion_tokens=11), 5.0),
        (ResponseInfo(elapsed=1.0, first_token=1.0, completion_tokens=11), None),
        (ResponseInfo(elapsed=8.0, first_token=1.0, completion_tokens=11, attempts=TWICE), 5.0),
        (ResponseInfo(elapsed=8.0, raw=whole(b'{"usage": {"completion_tokens": 12}}'), attempts=TWICE), 4.0),
        (ResponseInfo(elapsed=3.0, raw=whole(b'{"usage": {"completion_tokens": 12}}')), 4.0),
        (ResponseInfo(elapsed=3.0, raw=whole(b'{"usage": null}')), None),
        (ResponseInfo(elapsed=3.0, raw=whole(b"{")), None),
        (ResponseInfo(elapsed=3.0, completion_tokens=11, cached=True), None),
        (ResponseInfo(elapsed=3.0, completion_tokens=11, stored=True), None),
    ],
)
def test_tokens_per_second(info: ResponseInfo, expected: float | None) -> None:
    """Of a stream they are counted from the first to the last, of a whole answer over its attempt; not over earlier ones."""
    assert expected == info.tokens_per_second


@pytest.mark.parametrize(("name", "expected"), [("x-request-id", "r"), ("apim-request-id", "r"), ("other", None)])
def test_request_id(name: str, expected: str | None) -> None:
    """The request id has two names."""
    assert expected == ResponseInfo(headers=Headers([(name, "r")])).request_id


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1", "http://h/v1"),
        ("/v1?api-version=1", "http://h/v1?api-version=1"),
        ("/v1?api-key=s&a=b&SIG=s&Access_Token=s&flag", "http://h/v1?api-key=...&a=b&SIG=...&Access_Token=...&flag"),
    ],
)
def test_shown_url(target: str, expected: str) -> None:
    """A URL is shown without the values that may be secrets."""
    assert expected == HttpRequest("GET", Origin("http", "h", 80), target).url


def test_rate_limits() -> None:
    """The limits that an answer speaks of are read when asked for."""
    assert ResponseInfo().rate_limits is None
    limits = ResponseInfo(headers=Headers([("x-ratelimit-limit-requests", "3")])).rate_limits
    assert limits is not None
    assert 3 == limits.requests.limit


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("http", "h", 80), "h"),
        (Origin("https", "h", 443), "h"),
        (Origin("https", "h", 80), "h:80"),
        (Origin("http", "::1", 8080), "[::1]:8080"),
        (Origin("http", "::1", 80), "[::1]"),
    ],
)
def test_authority(origin: Origin, expected: str) -> None:
    """An authority leaves out the scheme's own port and puts an IPv6 address in brackets."""
    assert expected == origin.authority
    assert f"{origin.scheme}://{expected}" == str(origin)
