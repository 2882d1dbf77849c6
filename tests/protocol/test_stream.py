"""The body of a streamed answer -> chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt import errors
from gpt.protocol.chunks import fold
from gpt.protocol.stream import ChunkDecoder
from gpt.protocol.wire import Headers, HttpRequest, Origin
from gpt.types import ChatCompletionChunk

REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions")


def event(document: Any, kind: str = "") -> bytes:
    return (f"event: {kind}\n" if kind else "").encode() + b"data: " + json.dumps(document).encode() + b"\n\n"


def piece(content: str | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


DONE = b"data: [DONE]\n\n"
GOOD = event(piece("a")) + b": ping\n\ndata:\n\n" + event(piece("b", "stop"))


def read(body: bytes, step: int, content_type: str = "text/event-stream; charset=utf-8") -> list[ChatCompletionChunk]:
    """The chunks of a body that comes `step` bytes at a time."""
    decoder = ChunkDecoder(Headers([("content-type", content_type)]), REQUEST)
    chunks: list[ChatCompletionChunk] = []
    for start in range(0, len(body), step):
        chunks += decoder.feed(body[start : start + step])
        if decoder.done:
            return chunks
    return chunks + decoder.end()


@pytest.mark.parametrize("body", [GOOD + DONE, GOOD, GOOD + b"data: [DONE] \n\n" + event({"x": 1}), GOOD + DONE + DONE])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_chunks(body: bytes, step: int) -> None:
    """Chunks come in any cut; pings and empty frames are no chunks; the end is the marker or a finish reason."""
    assert ["a", "b"] == [chunk.text for chunk in read(body, step)]


@pytest.mark.parametrize("body", [b"", event(piece("a")), event(piece("a")) + b"data: {", b": ping\n\n"])
def test_truncated(body: bytes) -> None:
    """A body that ends with neither marker nor finish reason is truncated."""
    with pytest.raises(errors.StreamTruncatedError, match="before the answer was whole"):
        read(body, 5)


ERRORS: list[tuple[bytes, type[errors.ResponseError], str]] = [
    (event({"error": {"message": "busy", "code": "rate_limit_exceeded"}}), errors.RateLimitError, "busy"),
    (event({"error": "model 'x' not found"}), errors.ModelNotFoundError, "not found"),
    (event({"message": "server is busy"}, "error"), errors.OverloadedError, "busy"),
    (event({"object": "error", "message": "maximum context length"}), errors.ContextLengthError, "maximum"),
    (b"data: {oops\n\n", errors.MalformedResponseError, "is no chunk"),
    (event([5]), errors.MalformedResponseError, "is no chunk"),
]


@pytest.mark.parametrize(("body", "kind", "text"), ERRORS)
def test_errors(body: bytes, kind: type[errors.ResponseError], text: str) -> None:
    """An error in the stream, in any spelling, is its class."""
    with pytest.raises(kind, match=text):
        read(event(piece("a")) + body, 10_000)


def test_usage_chunk() -> None:
    """A chunk without choices is a chunk."""
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    chunks = read(GOOD + event(usage) + DONE, 10_000)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 3


def test_plain_answer() -> None:
    """A server that ignores `stream` and sends a completion gives one chunk with all of it."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "id": "c",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hi", "tool_calls": [call]},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    chunks = read(json.dumps(body).encode(), 9, "application/json")
    assert len(chunks) == 1
    folded = fold(chunks).to_dict()
    for choice in folded["choices"]:
        del choice["logprobs"], choice["message"]["refusal"]
    del folded["created"], folded["object"]
    assert body == folded


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", errors.MalformedResponseError),
        (b"", errors.MalformedResponseError),
        (b"{}", errors.MalformedResponseError),
        (b'{"error": {"code": "insufficient_quota", "message": "x"}}', errors.QuotaError),
    ],
)
def test_plain_failure(body: bytes, kind: type[errors.ResponseError]) -> None:
    """What is neither a stream nor a completion is an error."""
    with pytest.raises(kind):
        read(body, 10_000, "text/html")
