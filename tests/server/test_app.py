"""The routes, over a real socket."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import (
    AuthenticationError,
    ContextLengthError,
    GptError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    UnsupportedParameterError,
)
from gpt.protocol.profiles import Profile
from gpt.server.app import App
from gpt.server.store import StoredCompletions
from gpt.testing import AsyncScripted, Scripted
from gpt.testing.scripted import AsyncScriptedStream, chunk
from gpt.types import UNSET, ChatCompletionChunk, ChatRequest, ChunkChoice, Delta, Usage

from serving import HELLO, events, serving


def test_whole() -> None:
    """A whole answer is the backend's."""
    with serving(App(AsyncScripted("the Nile"))) as server:
        status, headers, body = server.chat()
    assert 200 == status
    assert "the Nile" == body["choices"][0]["message"]["content"]
    assert headers["x-request-id"].startswith("req_")


def test_streamed() -> None:
    """A streamed answer has the backend's chunks, and then the end marker."""
    with serving(App(AsyncScripted("the Nile"))) as server:
        status, headers, body = server.chat({**HELLO, "stream": True})
    assert 200 == status
    assert "text/event-stream; charset=utf-8" == headers["content-type"]
    *chunks, end = events(body)
    assert "[DONE]" == end
    assert "the Nile" == "".join(part["choices"][0]["delta"].get("content") or "" for part in chunks)


def test_roles() -> None:
    """Each choice of a stream begins with a role, also where the backend's does not."""
    script = [ChatCompletionChunk(id="c", choices=[ChunkChoice(Delta(content="a"), None, index)]) for index in (0, 1, 0, 1)]
    with serving(App(AsyncScripted(script))) as server:
        *chunks, _ = events(server.chat({**HELLO, "stream": True, "n": 2})[2])
    found = [part["choices"][0]["delta"].get("role") for part in chunks]
    assert ["assistant", "assistant", None, None] == found


def test_blocking_backend() -> None:
    """A backend that blocks is asked in threads."""
    with serving(App(Scripted("the Nile"))) as server:
        assert 200 == server.chat()[0]
        assert b"[DONE]" in server.chat({**HELLO, "stream": True})[2]


PATHS = [
    ("GET", "/health", 200, {"status": "ok"}),
    ("GET", "/ready", 200, {"status": "ready"}),
    ("HEAD", "/health", 200, b""),
    ("GET", "/v1/models/scripted", 200, None),
    ("GET", "/v1/models/other", 404, "model_not_found"),
    ("GET", "/v1/models/../../etc/passwd", 404, "model_not_found"),
    ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, "model_not_found"),
    ("GET", "/nothing", 404, "unknown_url"),
    ("GET", "/chat/completions", 404, "unknown_url"),
    ("PUT", "/v1/chat/completions", 405, "method_not_allowed"),
    ("DELETE", "/health", 405, "method_not_allowed"),
    ("OPTIONS", "/v1/models", 405, "method_not_allowed"),
    ("GET", "/v1/chat/completions", 404, "not_stored"),
    ("GET", "/v1/chat/completions/x", 404, "not_stored"),
]


def test_paths() -> None:
    """Each path answers as it should, and an error has the protocol's shape and no path in it."""
    with serving(App(AsyncScripted("hi"))) as server:
        for method, path, status, expected in PATHS:
            got, _, body = server.ask(method, path)
            assert (method, path, status) == (method, path, got)
            if isinstance(expected, str):
                assert {"message", "type", "param", "code"} == set(body["error"])
                assert expected == body["error"]["code"]
                assert "passwd" not in body["error"]["message"]
            elif expected is not None:
                assert expected == body


def test_models() -> None:
    """The models are the backend's, each with what the protocol requires."""
    with serving(App(AsyncScripted("hi"), models=("scripted", "other"))) as server:
        listed = server.ask("GET", "/v1/models")[2]
    assert ["scripted", "other"] == [model["id"] for model in listed["data"]]
    assert all({"id", "object", "created", "owned_by"} == set(model) for model in listed["data"])


BODIES = [
    (b"{", None, "invalid_json"),
    (b'"text"', None, "invalid_type"),
    (b"[1]", None, "invalid_type"),
    (b"[" * 100_000, None, "invalid_json"),
    (b'{"messages": ' + b"[" * 100_000, None, "invalid_json"),
    (b'{"messages": "\xff"}', None, "invalid_json"),
    ({}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
    ({**HELLO, "temperature": "hot"}, "temperature", "invalid_type"),
    ({**HELLO, "stream": "yes"}, "stream", "invalid_type"),
    ({**HELLO, "stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({**HELLO, "model": "other"}, "model", "model_not_found"),
    ({"messages": HELLO["messages"] * 4}, "messages", "array_above_max_length"),
]


def test_bodies() -> None:
    """What is no request is refused, with the path of what is wrong and a code; the backend is never asked."""
    backend = AsyncScripted("hi")
    with serving(App(backend, models=("scripted",), max_messages=3)) as server:
        for sent, param, code in BODIES:
            status, _, body = server.chat(sent)  # type: ignore[arg-type]
            assert (400 if code != "model_not_found" else 404) == status, (sent, body)
            assert (param, code, "invalid_request_error") == tuple(body["error"][name] for name in ("param", "code", "type"))
    assert [] == backend.script.asked


FAILURES: list[tuple[Exception, int, str | None]] = [
    (GptError("x"), 500, "internal_error"),
    (ServerError("in /home/secret", 500), 500, "model_failed"),
    (RateLimitError("m", 429, retry_after=7), 429, "rate_limit_exceeded"),
    (AuthenticationError("key sk-123", 401), 502, "upstream_refused"),
    (RequestTimeoutError("http://inside:1/", phase="first_byte"), 504, "upstream_timeout"),
    (ContextLengthError("m", 400, requested=9, limit=5), 400, "context_length_exceeded"),
    (UnsupportedParameterError("logit_bias: no", 400, param="logit_bias"), 400, "unsupported_parameter"),
    (ZeroDivisionError("/home/secret"), 500, "internal_error"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("error", "status", "code"), FAILURES, ids=[type(row[0]).__name__ for row in FAILURES])
def test_failures(error: Exception, status: int, code: str, streamed: bool) -> None:
    """What fails behind is told by status and code, without paths, addresses and keys, whole and before a stream begins."""

    def fail(_: object) -> str:
        raise error

    with serving(App(AsyncScripted(fail))) as server:
        got, headers, body = server.chat({**HELLO, "stream": streamed})
    assert (status, code) == (got, body["error"]["code"])
    for secret in ("secret", "sk-", "inside"):
        assert secret not in str(body)
    if isinstance(error, RateLimitError):
        assert "7" == headers["retry-after"]


def test_error_in_stream() -> None:
    """An error after the first chunk is an event of its own, the last one, and no end marker follows."""
    with serving(App(AsyncScripted([chunk("the"), ServerError("at /home/secret", 500)]))) as server:
        status, _, body = server.chat({**HELLO, "stream": True})
    first, last = events(body)
    assert 200 == status
    assert "the" == first["choices"][0]["delta"]["content"]
    assert "model_failed" == last["error"]["code"]
    assert b"secret" not in body


def test_lenient() -> None:
    """With `lenient` a parameter that is refused is left out, and named."""

    def strict(request: object) -> str:
        for name in ("logit_bias", "seed"):
            if getattr(request, name):
                raise UnsupportedParameterError(f"{name}: no", 400, param=name)
        return "hi"

    sent = {**HELLO, "logit_bias": {"1": 1}, "seed": 3, "temperature": 0}
    for streamed in (False, True):
        backend = AsyncScripted(strict)
        with serving(App(backend, lenient=True)) as server:
            status, headers, _ = server.chat({**sent, "stream": streamed})
        assert (200, "logit_bias, seed") == (status, headers["x-ignored-params"])
        assert 0 == backend.script.asked[-1].temperature


def test_nothing_else_goes_behind() -> None:
    """Of what a caller sends nothing but the request reaches the backend: no header, so no key."""
    backend = AsyncScripted("hi")
    with serving(App(backend, keys=["k" * 20])) as server:
        assert 200 == server.chat(headers={"authorization": "Bearer " + "k" * 20, "x-mine": "y"})[0]
    assert [None] == [options.headers for options in backend.script.options]


class Counting(AsyncScripted):
    """A backend that tells usage in a stream where it is asked for it."""

    profile = Profile(streams_usage=True)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncScriptedStream:
        wanted = request.stream_options is not UNSET
        self.script.answers = [[chunk("hi"), *([ChatCompletionChunk(choices=[], usage=Usage(3, 2, 5))] if wanted else [])]]
        return await super().stream(request, options)


def test_usage_is_given_to_who_asked() -> None:
    """The backend is asked for usage, for the counts; it is passed on to who asked for it, and to nobody else."""
    with serving(App(Counting("hi"))) as server:
        asked = events(server.chat({**HELLO, "stream": True, "stream_options": {"include_usage": True}})[2])
        silent = events(server.chat({**HELLO, "stream": True})[2])
        declined = events(server.chat({**HELLO, "stream": True, "stream_options": {"include_usage": False}})[2])
        text = server.ask("GET", "/metrics")[2].decode()
    assert 5 == asked[-2]["usage"]["total_tokens"]
    assert [1, 1] == [len(silent[:-1]), len(declined[:-1])]
    assert re.search(r'gen_ai_client_token_usage_sum\{.*gen_ai_token_type="output"\} 9\.0', text)


def test_mounted() -> None:
    """Below a prefix of another application the paths are below it too."""
    from gpt.server.asgi import Exchange

    async def never() -> dict[str, object]:
        raise AssertionError

    async def send(_: object) -> None:
        raise AssertionError

    scope = {"method": "GET", "root_path": "/llm", "path": "/llm/v1/models", "headers": []}
    assert "/v1/models" == Exchange(scope, never, send, "").path


def test_stored_by_owner(tmp_path: Path) -> None:
    """What is stored belongs to the key that made it; to another it is as if it were not there."""
    keys = ["first-key-0123456789", "second-key-0123456789"]
    first, second = ({"authorization": f"Bearer {key}"} for key in keys)
    app = App(AsyncScripted("the Nile"), keys=keys, store=StoredCompletions(str(tmp_path / "stored.sqlite")))
    with serving(app) as server:
        made = server.chat({**HELLO, "store": True, "metadata": {"a": "b"}}, first)
        streamed = events(server.chat({**HELLO, "store": True, "stream": True}, first)[2])
        assert 200 == made[0]
        assert {chunk["id"] for chunk in streamed[:-1]} == {streamed[0]["id"]}
        ids = [made[2]["id"], streamed[0]["id"]]
        assert ids == [item["id"] for item in server.ask("GET", "/v1/chat/completions", headers=first)[2]["data"]]
        assert [] == server.ask("GET", "/v1/chat/completions", headers=second)[2]["data"]
        for path in (f"/v1/chat/completions/{ids[0]}", f"/v1/chat/completions/{ids[0]}/messages"):
            assert (200, 404) == tuple(server.ask("GET", path, headers=headers)[0] for headers in (first, second))
        assert 404 == server.ask("DELETE", f"/v1/chat/completions/{ids[0]}", headers=second)[0]
        kept = server.ask("GET", f"/v1/chat/completions/{ids[0]}", headers=first)[2]
        assert (made[1]["x-request-id"], {"a": "b"}) == (kept["request_id"], kept["metadata"])
        assert kept["choices"] == made[2]["choices"]


def test_stored_metadata(tmp_path: Path) -> None:
    """Metadata that cannot be kept is refused before the model is asked."""
    backend = AsyncScripted("the Nile")
    with serving(App(backend, store=StoredCompletions(str(tmp_path / "stored.sqlite")))) as server:
        status, _, body = server.chat({**HELLO, "store": True, "metadata": {"a": "x" * 513}})
    assert (400, "metadata.a") == (status, body["error"]["param"])
    assert [] == backend.script.asked


def test_not_stored(tmp_path: Path) -> None:
    """An answer that cannot be stored is given all the same, and says so."""
    store = StoredCompletions(str(tmp_path / "stored.sqlite"))
    with serving(App(AsyncScripted("the Nile"), store=store)) as server:
        server.chat({**HELLO, "store": True})
        server.call(lambda: store.close())
        (tmp_path / "stored.sqlite").unlink()
        (tmp_path / "stored.sqlite").mkdir()
        status, headers, body = server.chat({**HELLO, "store": True})
    assert (200, "false", "the Nile") == (status, headers["x-stored"], body["choices"][0]["message"]["content"])
