"""The body of a streamed answer -> chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import errors
from gpt.protocol.chunks import fold
from gpt.protocol.stream import ChunkDecoder
from gpt.protocol.wire import Headers, HttpRequest, Origin
from gpt.types import ChatCompletionChunk

REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions")
EVENTS = "text/event-stream; charset=utf-8"


def event(document: Any, kind: str = "") -> bytes:
    return (f"event: {kind}\n" if kind else "").encode() + b"data: " + json.dumps(document).encode() + b"\n\n"


def piece(content: str | None = None, finish: str | None = None, index: int = 0, **beside: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": {"content": content}, "finish_reason": finish}], **beside}


DONE = b"data: [DONE]\n\n"
GOOD = event(piece("a"), "message") + b": ping\n\ndata:\n\n" + event({"type": "ping"}, "ping") + event(piece("b", "stop"))


def made(content_type: str = EVENTS, **settings: Any) -> ChunkDecoder:
    return ChunkDecoder(Headers([("content-type", content_type)]), REQUEST, **settings)


def decoded(decoder: ChunkDecoder, body: bytes, step: int = 10_000) -> list[ChatCompletionChunk]:
    """The chunks of a body that comes `step` bytes at a time."""
    chunks: list[ChatCompletionChunk] = []
    for start in range(0, len(body), step):
        chunks += decoder.feed(body[start : start + step])
        if decoder.done:
            return chunks
    return chunks + decoder.end()


def read(body: bytes, step: int = 10_000, content_type: str = EVENTS) -> list[ChatCompletionChunk]:
    """The same, less what went wrong, which is raised."""
    decoder = made(content_type)
    chunks = decoded(decoder, body, step)
    if decoder.problem is not None:
        raise decoder.problem
    return chunks


ENDS: list[tuple[bytes, str]] = [
    (GOOD + DONE, "complete"),
    (GOOD, "unmarked"),
    (GOOD + b"data:[DONE] \n\n" + event({"x": 1}), "complete"),
    (GOOD + DONE + DONE, "complete"),
    (event(piece("a")) + event(piece("b")) + DONE, "complete"),
    (b": ping\n\n" * 3 + GOOD + b": ping\n\n" + DONE, "complete"),
    (b"\xef\xbb\xbf" + GOOD + DONE, "complete"),
    ((GOOD + DONE).replace(b"\n", b"\r\n"), "complete"),
    (GOOD + event({"choices": [], "usage": None}) + DONE, "complete"),
]


@pytest.mark.parametrize(("body", "ended"), ENDS)
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("content_type", [EVENTS, "text/plain", "application/json", ""])
def test_chunks(body: bytes, ended: str, step: int, content_type: str) -> None:
    """Chunks come in any cut and under any content type; pings and empty frames are no chunks; how it ended is told."""
    decoder = made(content_type)
    assert ["a", "b"] == [chunk.text for chunk in decoded(decoder, body, step) if chunk.choices]
    assert (ended, None, True, True) == (decoder.ended, decoder.problem, decoder.is_stream, decoder.begun)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        event(piece("a")),
        event(piece("a")) + b"data: {",
        b": ping\n\n",
        event(piece("a", "stop")) + event(piece("b", None, 1)),
        event({"choices": [], "usage": {"total_tokens": 1}}),
    ],
)
def test_truncated(body: bytes) -> None:
    """A body that ends with neither marker nor each choice's finish reason is truncated."""
    with pytest.raises(errors.StreamTruncatedError, match="http://h ended the stream before the answer was whole"):
        read(body, 5)


def test_may_break_off() -> None:
    """A server that is known to end so is believed, once it has begun; the end still says what it was."""
    decoder = made(may_break_off=True)
    assert ["a"] == [chunk.text for chunk in decoded(decoder, event(piece("a")))]
    assert ("truncated", None) == (decoder.ended, decoder.problem)
    decoder = made(may_break_off=True)
    assert [] == decoded(decoder, b": ping\n\n")
    assert isinstance(decoder.problem, errors.StreamTruncatedError)


RESET = errors.ConnectError("reset")
CUT = errors.StreamTruncatedError("cut")


@pytest.mark.parametrize(
    ("body", "error", "may_break_off", "ended", "problem"),
    [
        (GOOD, RESET, False, "unmarked", None),
        (GOOD, CUT, False, "unmarked", None),
        (event(piece("a")), RESET, False, "truncated", RESET),
        (event(piece("a")), CUT, False, "truncated", CUT),
        (event(piece("a")), CUT, True, "truncated", None),
        (event(piece("a")), RESET, True, "truncated", RESET),
        (b'{"choices": [', CUT, False, "truncated", CUT),
        (b"", RESET, False, "truncated", RESET),
    ],
)
def test_broken(
    body: bytes, error: errors.TransportError, may_break_off: bool, ended: str, problem: errors.TransportError | None
) -> None:
    """A connection that breaks after the finish reason cut nothing off; before it, its error is the stream's."""
    decoder = made(may_break_off=may_break_off)
    decoder.feed(body)
    assert [] == decoder.broke(error)
    assert (ended, problem) == (decoder.ended, decoder.problem)


LLAMA = b'error: {"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":5}\n\n'
ERRORS: list[tuple[bytes, type[errors.ResponseError], str]] = [
    (event({"error": {"message": "busy", "code": "rate_limit_exceeded"}}), errors.RateLimitError, "busy"),
    (event({"error": "model 'x' not found"}), errors.ModelNotFoundError, "not found"),
    (event({"message": "server is busy"}, "error"), errors.OverloadedError, "busy"),
    (event({"error": {"message": "server is busy"}}, "error"), errors.OverloadedError, "busy"),
    (b"event: error\ndata: server is busy\n\n", errors.OverloadedError, "server is busy"),
    (event(5, "error"), errors.MalformedResponseError, "5"),
    (event({"object": "error", "message": "maximum context length"}), errors.ContextLengthError, "maximum"),
    (event({"object": "error", "message": "server is busy", "choices": []}), errors.OverloadedError, "busy"),
    (event(piece("", "error", error={"code": 502, "message": "upstream gone"})), errors.ServerError, "upstream gone"),
    (event({"choices": [{"index": 0, "delta": {}, "error": {"code": 429, "message": "slow"}}]}), errors.RateLimitError, "slow"),
    (event({"error": {"code": 500, "message": "x"}, "choices": 5}), errors.ServerError, "x"),
    (LLAMA, errors.ContextLengthError, "too long"),
    (b"error: it broke\n\n", errors.MalformedResponseError, "it broke"),
    (b"error:\n\n", errors.MalformedResponseError, "an error without a word"),
    (b'{"error": {"message": "server is busy"}}\n', errors.OverloadedError, "busy"),
    (b"data: {oops\n\n", errors.MalformedResponseError, "is no chunk"),
    (event([5]), errors.MalformedResponseError, "is no chunk"),
]


@pytest.mark.parametrize(("body", "kind", "text"), ERRORS)
@pytest.mark.parametrize("step", [1, 10_000])
def test_errors(body: bytes, kind: type[errors.ResponseError], text: str, step: int) -> None:
    """An error in the stream, in any spelling, is its class, and comes after the chunks before it; nothing comes after it."""
    decoder = made()
    assert ["a"] == [chunk.text for chunk in decoded(decoder, event(piece("a")) + body + event(piece("b")) + DONE, step)]
    assert kind is type(decoder.problem)
    assert text in str(decoder.problem)
    assert (True, None) == (decoder.done, decoder.ended)


@pytest.mark.parametrize("line", [b'{"x": 1}\n', b"{oops\n", b"errors: 1\n"])
def test_strays(line: bytes) -> None:
    """A line that no event stream has, and that is no error, is ignored, as the rules say."""
    assert ["a", "b"] == [chunk.text for chunk in read(event(piece("a")) + line + event(piece("b", "stop")))]


def test_blank_lines() -> None:
    """Blank lines before anything else may come for ever, and nothing is held of them."""
    decoder = made("")
    for _ in range(1000):
        assert [] == decoder.feed(b"\r\n")
    assert len(decoder._before) <= 1
    assert ["a", "b"] == [chunk.text for chunk in decoded(decoder, GOOD + DONE) if chunk.choices]


def test_too_large() -> None:
    """An event without end is an error that names the server."""
    decoder = made()
    decoder.feed(b"data: ")
    decoder._events._limit = 100  # type: ignore[union-attr]
    decoder.feed(b"x" * 200)
    assert isinstance(decoder.problem, errors.MalformedResponseError)
    assert "http://h sent an event of more than 100 bytes" in decoder.problem.message


@pytest.mark.parametrize("body", [DONE, event({"choices": [], "usage": {"total_tokens": 1}}) + DONE])
def test_no_choices(body: bytes) -> None:
    """A stream without a choice is no answer, whatever its marker says."""
    with pytest.raises(errors.MalformedResponseError, match="no choices"):
        read(body)


def test_usage_chunk() -> None:
    """A chunk without choices is a chunk."""
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    chunks = read(GOOD + event(usage) + DONE, 10_000)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 3


NEWS: list[tuple[bytes, bool]] = [
    (b": ping\n\n", False),
    (event(piece("")), False),
    (event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}), False),
    (event({"choices": None}), False),
    (event({"choices": [], "usage": {"total_tokens": 1}}), False),
    (event({"choices": [], "prompt_filter_results": [{}]}), False),
    (event(piece("a")), True),
    (event(piece("", "stop")), True),
    (event({"choices": [{"index": 1, "delta": {"reasoning": "a"}}]}), True),
    (event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}), True),
]


@pytest.mark.parametrize(("body", "expected"), NEWS)
def test_news(body: bytes, expected: bool) -> None:
    """Content is news, and an end; comments, roles, usage and filters are none."""
    decoder = made()
    decoder.feed(body)
    assert (expected, expected) == (decoder.news, decoder.begun)
    decoder.feed(b": ping\n\n")
    assert (False, expected) == (decoder.news, decoder.begun)


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WHOLE: dict[str, Any] = {
    "id": "c",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "hi", "tool_calls": [CALL]},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


@pytest.mark.parametrize("content_type", ["application/json", EVENTS])
@pytest.mark.parametrize("indent", [None, 2])
def test_plain_answer(content_type: str, indent: int | None) -> None:
    """A server that ignores `stream` and sends a completion gives one chunk with all of it."""
    decoder = made(content_type)
    chunks = decoded(decoder, b"\n " + json.dumps(WHOLE, indent=indent).encode(), 9)
    assert (True, False, "complete", True) == (decoder.is_whole, decoder.is_stream, decoder.ended, decoder.begun)
    assert len(chunks) == 1
    folded = fold(chunks).to_dict()
    for choice in folded["choices"]:
        del choice["logprobs"], choice["message"]["refusal"]
    del folded["created"], folded["object"]
    assert WHOLE == folded


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"<html>", errors.MalformedResponseError, "neither a stream nor a completion"),
        (b"oops", errors.MalformedResponseError, "begins 'oops'"),
        (b"da", errors.MalformedResponseError, "begins 'da'"),
        (b"", errors.MalformedResponseError, "neither a stream nor a completion"),
        (b"{}", errors.MalformedResponseError, "it has no choices"),
        (b'{"error": {"code": "insufficient_quota", "message": "x"}}', errors.QuotaError, "x"),
        (b'[{"error": {"code": 429, "message": "x"}}]', errors.RateLimitError, "x"),
        (json.dumps({**WHOLE, "error": {"code": 502, "message": "x"}}).encode(), errors.ServerError, "x"),
    ],
)
@pytest.mark.parametrize("step", [1, 10_000])
def test_plain_failure(body: bytes, kind: type[errors.ResponseError], text: str, step: int) -> None:
    """What is neither a stream nor a completion is an error, and the one that it disguises where it does."""
    with pytest.raises(kind, match=text):
        read(body, step, "text/html")


bodies = st.lists(
    st.sampled_from([GOOD, DONE, b": ping\n\n", LLAMA, b"\n", b"data: ", event(piece("ä€", None, 1)), b"\r\n"])
    | st.sampled_from([row[0] for row in ERRORS]),
    max_size=6,
).map(b"".join)


@given(bodies, st.data())
def test_any_cut(body: bytes, data: st.DataObject) -> None:
    """Any cut of any body gives the same chunks and the same end."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    whole, cut = made(), made()
    expected = decoded(whole, body, len(body) or 1)
    found: list[ChatCompletionChunk] = []
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        if not cut.done and start < stop:
            found += cut.feed(body[start:stop])
    if not cut.done:
        found += cut.end()
    assert [chunk.to_dict() for chunk in expected] == [chunk.to_dict() for chunk in found]
    assert (whole.ended, str(whole.problem)) == (cut.ended, str(cut.problem))
