"""A Backend behind the server with faults, asked by the official client and by sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from gpt import (
    AuthenticationError,
    ConnectError,
    Gpt,
    GptError,
    InvalidRequestError,
    RateLimitError,
    Record,
    Replay,
    RequestTimeoutError,
    ServerError,
    StreamTruncatedError,
)
from gpt.backend import DEFAULT_OPTIONS
from gpt.protocol.recording import HEADER
from gpt.testing import AsyncScripted, Fault, Scripted, Stall, serve, tool_call
from gpt.testing.answers import Answered, answered, failed
from gpt.testing.scripted import completion
from gpt.types import UNSET

ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: x"


def official(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=30)


def test_scripted() -> None:
    """The official client is answered by a script: texts, calls, streams in its chunks, models, in turn."""
    script = Scripted("the Nile", tool_call("f", x=1), ["the ", "Rhine"], tool_call("g"))
    with serve(script) as server, official(server.url) as client:
        create = client.chat.completions.create
        assert "the Nile" == create(**ASKED).choices[0].message.content
        (call,) = create(**ASKED).choices[0].message.tool_calls or []
        assert ("call_2_0", "f", '{"x":1}') == (call.id, call.function.name, call.function.arguments)  # type: ignore[union-attr]
        assert ["the ", "Rhine", None] == [part.choices[0].delta.content for part in create(**ASKED, stream=True)]
        with client.chat.completions.stream(**ASKED) as stream:
            made = stream.get_final_completion().choices[0]
        assert ("tool_calls", "g") == (made.finish_reason, made.message.tool_calls[0].function.name)  # type: ignore[index]
        assert ["scripted"] == [model.id for model in client.models.list()]
    assert [["m"], ["a"]] == [[script.asked[0].model], [message["content"] for message in script.asked[0].messages]]  # type: ignore[index]
    assert not script.closed
    assert all(stream.closed for stream in script.streams)


def test_recorded(tmp_path: Path) -> None:
    """The official client is recorded, and answered from the recording, streams chunk by chunk."""

    def use(url: str) -> list[Any]:
        with official(url) as client:
            whole = client.chat.completions.create(**ASKED, extra_body={"own": 1}).choices[0].message.content
            streamed = client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
            return [whole, [part.choices[0].delta.content for part in streamed if part.choices]]

    with serve("the Nile") as asked, serve(Record(Gpt(server_url=asked.url).backend, tmp_path / "x")) as server:
        said = use(server.url)
    assert ["the Nile", ["", "the ", "Nile", None]] == said
    replay = Replay(tmp_path / "x")
    with serve(replay) as server:
        assert said == use(server.url)
        with official(server.url) as client, pytest.raises(openai.NotFoundError, match="is asked for once more"):
            client.chat.completions.create(**ASKED, stream=True)
    assert 0 == replay.left


FAILURES: list[tuple[GptError, int, Any, dict[str, str]]] = [
    (RateLimitError("slow", 429, type="t", code="c", param="p", retry_after=1.5, should_retry=False, request_id="r"), 429,
     {"message": "slow", "type": "t", "code": "c", "param": "p"}, {"retry-after": "1.5", "x-should-retry": "false", "x-request-id": "r"}),
    (AuthenticationError("no", 401, '{"error":{"message":"own"}}', should_retry=True), 401, {"message": "own"}, {"x-should-retry": "true"}),
    (ServerError("ill"), 500, {"message": "ill", "type": None, "code": None, "param": None}, {}),
    (InvalidRequestError("wrong", param="p"), 400, {"message": "wrong", "type": "invalid_request_error", "code": None, "param": "p"}, {}),
    (GptError("odd"), 500, {"message": "odd", "type": "server_error", "code": None, "param": None}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status", "said", "headers"), FAILURES)
def test_failed(error: GptError, status: int, said: Any, headers: dict[str, str]) -> None:
    """An error is the answer that it was: its status, its words, what it says of trying again."""
    made = failed(error)
    assert (status, "application/json", {"error": said}, headers) == (
        made.status,
        made.content_type,
        json.loads(made.body),  # type: ignore[arg-type]
        dict(made.headers),
    )


def test_failures_reach_the_client() -> None:
    """Errors of a script reach the official client as its own, whole and streamed; after the first chunk too."""
    slow = RateLimitError("slow", 429, retry_after=7)
    with serve(Scripted(slow, [slow], ["a", slow])) as server, official(server.url) as client:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError, match="slow") as caught:
                client.chat.completions.create(**ASKED, stream=stream)
            assert "7" == caught.value.response.headers["retry-after"]
        parts = client.chat.completions.create(**ASKED, stream=True)
        assert "a" == next(parts).choices[0].delta.content
        with pytest.raises(openai.APIError, match="slow"):
            next(parts)


@pytest.mark.parametrize("said", [ConnectError("broke"), [StreamTruncatedError("cut")]], ids=["whole", "streamed"])
def test_connection_breaks(said: Any) -> None:
    """Where a server would not answer, the connection breaks."""
    with serve(Scripted(said)) as server, official(server.url) as client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**ASKED, stream=isinstance(said, list))


def test_stream_breaks() -> None:
    """A stream that breaks off in a script breaks off at the client, after what had come."""
    with serve(Scripted(["a", StreamTruncatedError("cut")])) as server:
        with (
            Gpt(server_url=server.url, max_retries=0).chat.stream("x") as stream,
            pytest.raises(StreamTruncatedError) as caught,
        ):
            stream.until_done()
    assert caught.value.partial is not None
    assert "a" == caught.value.partial.text


@pytest.mark.parametrize("said", [[Stall()], RequestTimeoutError("late")], ids=["stalls", "was late"])
def test_silence(said: Any) -> None:
    """Where a script says nothing, the server says nothing, until its client has had enough; leaving it ends that."""
    with serve(Scripted(said)) as server:
        with pytest.raises(RequestTimeoutError):
            Gpt(server_url=server.url, max_retries=0, timeout=0.05).chat.complete("a")


def test_live() -> None:
    """A stream is passed on while it is made: its first part is there before the rest is."""
    with serve(Scripted(["a", Stall()])) as server:
        with Gpt(server_url=server.url).chat.stream("x") as stream:
            assert "a" == next(stream.text_stream)


def test_left() -> None:
    """A stream that its client has left is closed."""
    script = Scripted([*("a" * 1000 for _ in range(10_000))])
    with serve(script) as server:
        with Gpt(server_url=server.url).chat.stream("x") as stream:
            next(stream)
    assert script.streams[0].closed


def test_faults_of_backends() -> None:
    """Faults strike the answers of a backend as others: these are made whole first."""
    faults = [Fault(status=503, times=1), Fault(slices=3, times=1)]
    with serve(Scripted("a", completion("b")), faults=faults) as server, official(server.url) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**ASKED)
        assert ["a", None] == [part.choices[0].delta.content for part in client.chat.completions.create(**ASKED, stream=True)]
        assert "b" == client.chat.completions.create(**ASKED).choices[0].message.content


ROUTES = [
    ("POST /v1/embeddings HTTP/1.1", b"{}", 404, "there is no POST /v1/embeddings here"),
    ("GET /v1/chat/completions?x=1 HTTP/1.1", b"", 404, "there is no GET"),
    ("POST /v1/chat/completions HTTP/1.1", b"{}", 400, "messages: missing"),
    ("POST /v1/chat/completions HTTP/1.1", b'{"messages":[{"role":"user","content":5}]}', 400, "messages"),
]


@pytest.mark.parametrize(("head", "body", "status", "text"), ROUTES)
def test_routes(head: str, body: bytes, status: int, text: str) -> None:
    """What is not there, or is no request, is refused by name."""
    made = answered(Scripted("a"), head, body, DEFAULT_OPTIONS)
    assert status == made.status
    assert text in json.loads(made.body)["error"]["message"]  # type: ignore[arg-type]


def test_asked() -> None:
    """A query in the path is passed over; the request is whole, what the protocol does not know included."""
    script = Scripted("a")
    made = answered(
        script,
        "POST /v1/chat/completions?v=1 HTTP/1.1",
        json.dumps({**ASKED, "own": 1, "stream": False}).encode(),
        DEFAULT_OPTIONS,
    )
    assert isinstance(made, Answered)
    assert (200, {"own": 1}) == (made.status, script.asked[0].extra)
    answered(script, HEAD, json.dumps({**ASKED, "stream": True}).encode(), DEFAULT_OPTIONS)
    assert [UNSET, UNSET] == [asked.stream for asked in script.asked]  # how it is given is told by the method that is called


def test_no_chunks(tmp_path: Path) -> None:
    """A stream without a chunk is an end marker."""
    line = {"call": "stream", "request": ASKED, "chunks": []}
    (tmp_path / "x").write_bytes(HEADER + json.dumps(line).encode())
    made = answered(Replay(tmp_path / "x"), HEAD, json.dumps({**ASKED, "stream": True}).encode(), DEFAULT_OPTIONS)
    assert [b"data: [DONE]\n\n"] == list(made.body)


def test_wrong_kind() -> None:
    """A Backend of asyncio is refused where it would be asked, with the one to give instead."""
    with pytest.raises(ValueError, match="AsyncScripted is for asyncio.*give it Scripted"):
        serve(AsyncScripted("a"))  # type: ignore[arg-type]
