"""Which error an answer is, in the words of the servers met in the wild."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest

from gpt import errors
from gpt.protocol.failures import WORDINGS, engine_failure, failure, is_error, malformed, redirected, retry_after, said
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin

REQUEST = HttpRequest("POST", Origin("http", "h", 8000), "/v1/chat/completions", (("authorization", "Bearer sk-secret"),))


def answer(status: int, body: Any, **headers: str) -> HttpResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return HttpResponse(status, Headers(named), content, elapsed=0.5)


def openai(message: str, code: str | None = None, kind: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


KINDS: list[tuple[str, int, Any, type[errors.ResponseError]]] = [
    ("hosted, wrong key", 401, openai("Incorrect API key provided", "invalid_api_key"), errors.AuthenticationError),
    ("hosted, forbidden", 403, openai("not allowed"), errors.PermissionDeniedError),
    ("hosted, quota", 429, openai("You exceeded your current quota", "insufficient_quota"), errors.QuotaError),
    ("hosted, rate", 429, openai("Rate limit reached", "rate_limit_exceeded"), errors.RateLimitError),
    ("hosted, model", 404, openai("The model `x` does not exist", "model_not_found"), errors.ModelNotFoundError),
    ("hosted, context", 400, openai("too long", "context_length_exceeded", None, "messages"), errors.ContextLengthError),
    ("hosted, policy", 400, openai("refused", "content_policy_violation"), errors.ContentPolicyError),
    ("hosted, parameter", 400, openai("Unsupported parameter: 'max_tokens'", "unsupported_parameter", None, "max_tokens"),
     errors.UnsupportedParameterError),
    ("hosted, other 400", 400, openai("bad"), errors.BadRequestError),
    ("hosted, 500", 500, openai("oops", None, "server_error"), errors.ServerError),
    ("hosted, overloaded", 503, openai("The engine is currently overloaded"), errors.OverloadedError),
    ("Azure, filter", 400, openai("filtered", "content_filter"), errors.ContentPolicyError),
    ("Azure, deployment", 404, openai("The API deployment does not exist", "DeploymentNotFound"), errors.ModelNotFoundError),
    ("vLLM, model", 404, {"object": "error", "message": "The model `x` does not exist.", "code": 404},
     errors.ModelNotFoundError),
    ("vLLM, context", 400, {"object": "error", "message": "This model's maximum context length is 10 tokens"},
     errors.ContextLengthError),
    ("llama.cpp, context", 400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "x",
                                           "n_prompt_tokens": 12, "n_ctx": 8}}, errors.ContextLengthError),
    ("llama.cpp, loading", 503, openai("Loading model", None, "unavailable_error"), errors.OverloadedError),
    ("Ollama, model", 404, {"error": "model 'x' not found"}, errors.ModelNotFoundError),
    ("LiteLLM, parameter", 400, {"error": {"message": "litellm.UnsupportedParamsError: x"}},
     errors.UnsupportedParameterError),
    ("OpenRouter, credits", 402, openai("Insufficient credits"), errors.QuotaError),
    ("OpenRouter, model", 400, openai("x is not a valid model ID"), errors.ModelNotFoundError),
    ("OpenRouter, more credits", 402, {"error": {"message": "This request requires more credits, or fewer max_tokens.",
                                                 "code": 402}}, errors.QuotaError),
    ("OpenRouter, no such endpoint", 404, {"error": {"message": "No endpoints found for stepfun/step:free.", "code": 404}},
     errors.ModelNotFoundError),
    ("OpenRouter, no tools there", 404, {"error": {"message": "No endpoints found that support tool use.", "code": 404}},
     errors.UnsupportedParameterError),
    ("OpenRouter, in a 200", 200, {"error": {"message": "Provider returned error", "code": 502}}, errors.ServerError),
    ("OpenRouter, in a choice", 200, {"choices": [{}, {"finish_reason": "error", "error": {"message": "gone", "code": 502}}]},
     errors.ServerError),
    ("OpenRouter, throttled in a 200", 200, {"error": {"message": "Provider returned error", "code": 429}},
     errors.RateLimitError),
    ("Azure, throttled", 429, {"error": {"code": "429", "message": "Rate limit is exceeded. Try again in 50 seconds."}},
     errors.RateLimitError),
    ("LiteLLM, budget", 429, {"error": {"message": "LiteLLM User: x, exceeded budget", "type": "budget_exceeded",
                                        "code": "429"}}, errors.QuotaError),
    ("LiteLLM, budget of a team", 400, {"error": {"message": "Budget has been exceeded! Team=x"}}, errors.QuotaError),
    ("LiteLLM, none available", 429, {"error": {"message": "No deployments available for selected model.", "code": "429"}},
     errors.RateLimitError),
    ("LiteLLM, context", 400, {"error": {"message": "litellm.ContextWindowExceededError: x"}}, errors.ContextLengthError),
    ("vLLM, no room for an answer", 400, {"object": "error", "message": "max_tokens must be at least 1, got -186.",
                                          "type": "BadRequestError", "param": None, "code": 400}, errors.ContextLengthError),
    ("llama.cpp, context, older", 500, {"error": {"code": 500, "message": "Context size has been exceeded.",
                                                  "type": "server_error"}}, errors.ContextLengthError),
    ("llama-cpp-python, context", 500, {"error": {"message": "Requested tokens (2285) exceed context window of 2048"}},
     errors.ContextLengthError),
    ("Ollama, overloaded", 503, {"error": "Server overloaded, please retry shortly (ref: x)"}, errors.OverloadedError),
    ("Ollama, pull it first", 404, {"error": "model 'llama3' not found, try pulling it first"}, errors.ModelNotFoundError),
    ("a 404 that names the model", 404, openai("nope", None, None, "model"), errors.ModelNotFoundError),
    ("FastAPI, validation", 422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, errors.BadRequestError),
    ("a gateway's message", 400, {"message": "no"}, errors.BadRequestError),
    ("a list of one error", 400, [openai("Invalid API key")], errors.AuthenticationError),
    ("HTML", 502, b"<html>bad gateway</html>", errors.ServerError),
    ("an empty 404", 404, b"", errors.BadRequestError),
    ("an empty list", 400, [], errors.BadRequestError),
    ("a redirect", 302, b"", errors.ResponseError),
    ("an empty 204", 204, b"", errors.MalformedResponseError),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_kind(status: int, body: Any, kind: type[errors.ResponseError]) -> None:
    """Each server's wording is the right class, which pickles with all it carries."""
    error = failure(answer(status, body), REQUEST)
    assert type(error) is kind
    assert status == error.status_code
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.body) == (type(error), str(error), error.body)
    assert "sk-secret" not in repr(error) + str(error)


def test_carries() -> None:
    """The error carries the server's words, the body, the answer and the request id."""
    response = answer(400, openai("bad", "c", "t", "p"), x_request_id="r", retry_after="3")
    error = failure(response, REQUEST)
    assert ("c", "t", "p", "r", 3.0) == (error.code, error.type, error.param, error.request_id, error.retry_after)
    assert response is error.raw_response
    assert response.text == error.body
    assert "bad (POST http://h:8000/v1/chat/completions, 0.50 s): Status 400" == str(error).splitlines()[0]


def mistral(*place: str) -> dict[str, Any]:
    detail = {"type": "extra_forbidden", "loc": ["body", *place], "msg": "Extra inputs are not permitted", "input": 1}
    return {"object": "error", "message": {"detail": [detail]}, "type": "invalid_request_error", "param": None, "code": None}


TOLD = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
VLLM = "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted'}]"

# Words of servers, and the parameter that they refuse.
PARAMS: list[tuple[str, int, Any, str | None]] = [
    ("hosted, parameter", 400, openai(TOLD, "unsupported_parameter", "invalid_request_error", "max_tokens"), "max_tokens"),
    ("hosted, without a param", 400, openai(TOLD), "max_tokens"),
    ("hosted, value", 400, openai(TEMPERATURE, "unsupported_value", None, "temperature"), "temperature"),
    ("hosted, value, without a code", 400, openai(TEMPERATURE), "temperature"),
    ("hosted, unknown", 400, openai("Unknown parameter: 'zap'.", "unknown_parameter", None, "zap"), "zap"),
    ("hosted, unrecognized", 400, openai("Unrecognized request argument supplied: logprobs"), "logprobs"),
    ("hosted, role", 400, openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                                 "unsupported_value"), "messages[0].role"),
    ("Azure, unrecognized", 400, openai("Unrecognized request argument supplied: stream_options. Please contact us"),
     "stream_options"),
    ("Groq", 400, openai("property 'store' is unsupported, did you mean 'stop'?"), "store"),
    ("Mistral", 422, mistral("max_completion_tokens"), "max_completion_tokens"),
    ("Mistral, within one", 422, mistral("stream_options", "include_usage"), "stream_options"),
    ("vLLM, older", 400, {"object": "error", "message": VLLM, "type": "BadRequestError", "param": None, "code": 400},
     "max_completion_tokens"),
    ("LiteLLM", 400, openai("litellm.UnsupportedParamsError: x does not support parameters: ['temperature'], for model=x"),
     "temperature"),
    ("LiteLLM, a value", 400, openai("litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.7."),
     "temperature"),
    ("LiteLLM, without one", 400, openai("litellm.UnsupportedParamsError: x"), None),
    ("DeepSeek, role", 400, openai("Failed to deserialize the JSON body into the target type: messages[0].role: unknown "
                                   "variant `developer`, expected one of `system`, `user`"), "messages[0].role"),
    ("a gateway, role", 400, openai("developer is not one of ['system', 'assistant'] - 'messages.[0].role'"),
     "messages.[0].role"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "param"), [row[1:] for row in PARAMS], ids=[row[0] for row in PARAMS])
def test_unsupported(status: int, body: Any, param: str | None) -> None:
    """A parameter that a server does not take is its own class, and named, whether the server does so in a field or in words."""
    error = failure(answer(status, body), REQUEST)
    assert errors.UnsupportedParameterError is type(error)
    assert param == error.param


def test_other_param() -> None:
    """What a server says of another refusal names no parameter that it did not name."""
    assert failure(answer(400, openai("temperature: 'messages[0].role' is odd")), REQUEST).param is None


CONTEXT = [
    ({"error": {"type": "exceed_context_size_error", "message": "x", "n_prompt_tokens": 12, "n_ctx": 8}}, 12, 8),
    ({"error": {"message": "the request (12 tokens) exceeds the available context size (8 tokens), try increasing it"}}, 12, 8),
    (openai("This model's maximum context length is 8 tokens. However, you requested 12 tokens (9 in the messages)"), 12, 8),
    (openai("This model's maximum context length is 8 tokens. However, your messages resulted in 12 tokens."), 12, 8),
    (openai("prompt is too long"), None, None),
]


@pytest.mark.parametrize(("body", "requested", "limit"), CONTEXT)
def test_context_numbers(body: Any, requested: int | None, limit: int | None) -> None:
    """Too long a prompt gives both numbers, where the server says them."""
    error = failure(answer(400, body), REQUEST)
    assert isinstance(error, errors.ContextLengthError)
    assert (requested, limit) == (error.requested, error.limit)


BARE = HttpRequest("POST", Origin("http", "h", 80), "/chat/completions")
LISTED = HttpRequest("GET", Origin("http", "h", 80), "/v1/chat/completions?limit=5")
STORED = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions/c1")
WHERE_STORED = "; completions are stored where `store=True` was sent, and not every server stores any"

HINTS = [
    (BARE, answer(404, b""), "the base URL probably needs /v1: http://h/v1"),
    (BARE, answer(200, b"<!doctype html>"), "the base URL probably needs /v1: http://h/v1"),
    (REQUEST, answer(404, b"not found"), "is this the address of a chat-completions server?"),
    (LISTED, answer(404, b"not found"), WHERE_STORED),
    (LISTED, answer(405, b"x"), WHERE_STORED),
    (STORED, answer(404, openai("No chat completion found with id 'c1'.")), WHERE_STORED),
    (STORED, answer(405, b"x"), WHERE_STORED),
    (msgspec.structs.replace(STORED, target="/chat/completions/c1"), answer(404, b""), "the base URL probably needs /v1"),
    (REQUEST, answer(502, b"x", content_type="text/html; charset=utf-8"), "is this the address"),
    (BARE, answer(401, b""), "no key was sent: set OPENAI_API_KEY or pass api_key="),
    (
        REQUEST,
        answer(307, b"", location="http://other/"),
        "its redirect to 'http://other/' was not followed; if that is right, name it",
    ),
    (REQUEST, answer(407, b""), "it is the proxy that answered; name a user of it"),
    (REQUEST, answer(308, b""), "its redirect to 'nowhere' was not followed"),
]


@pytest.mark.parametrize(("request_", "response", "hint"), HINTS)
def test_hint(request_: HttpRequest, response: HttpResponse, hint: str) -> None:
    """The text says what to try."""
    made = malformed(response, request_, "x") if response.status == 200 else failure(response, request_)
    assert hint in str(made)


def test_no_hint() -> None:
    """A status that says enough, and a model that is not there, say nothing of what is stored."""
    for response in (answer(400, b"x"), answer(404, openai("x", param="model"))):
        assert "store=True" not in str(failure(response, STORED))
    assert "store=True" not in str(failure(answer(405, b"x"), REQUEST))
    assert "store=True" not in str(failure(answer(404, b"x"), msgspec.structs.replace(LISTED, target="/v1/models")))


def test_malformed() -> None:
    """A page of HTML with status 200 is named, with its start and a hint."""
    error = malformed(answer(200, b"<html>" + b"x" * 300, content_type="text/html"), REQUEST, "it is not JSON")
    assert type(error) is errors.MalformedResponseError
    assert "h:8000 sent no chat completion: it is not JSON" in error.message
    assert "begins '<html>" + "x" * 194 + "'" in error.message
    assert "h:8000 sent no list: x (" in malformed(answer(200, b"5"), REQUEST, "x", "list").message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 -0000"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Retry-After in its three spellings; nonsense is as if it were not there."""
    assert expected == retry_after(Headers(headers.items()))


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"error": "x"}', True), (b'{"error": {}}', True), (b'{"object": "error"}', True), (b'{"error": null}', False),
     (b'{"detail": "x"}', False), (b"5", False), (b"<", False), (b"", False), (b'{"error": ""}', False)],
)  # fmt: skip
def test_is_error(body: bytes, expected: bool) -> None:
    """An error is known by its body, whatever the status."""
    assert expected is is_error(body)


def test_engine_failure() -> None:
    """What the engine in this process says is the same class as what its server says."""
    body = json.dumps(CONTEXT[0][0]).encode()
    error = engine_failure(400, body, "model m")
    assert isinstance(error, errors.ContextLengthError)
    assert (12, 8, 400) == (error.requested, error.limit, error.status_code)
    assert error.message == "x (model m)"


def test_error_in_a_200() -> None:
    """A 200 that is an error in disguise is that error."""
    made = malformed(answer(200, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}), REQUEST, "it has no choices")
    assert type(made) is errors.RateLimitError
    for code, kind in (("stopping", errors.OverloadedError), ("model_failed", errors.ServerError)):
        said = {"error": {"message": "no", "type": "server_error", "code": code}}
        assert kind is type(malformed(answer(200, said), REQUEST, "it has no choices"))


def test_said() -> None:
    """The words in a body, in whatever spelling; "" where there are none."""
    for body in ('{"error": {"message": "no"}}', '{"error": "no"}', '{"detail": "no"}'):
        assert "no" == said(body)
    assert "" == said("<html>") == said("")


def test_long_body() -> None:
    """The text shows the start of a long body; `body` keeps all of it."""
    error = failure(answer(500, b"x" * 5000), REQUEST)
    assert len(error.body) == 5000
    assert str(error).endswith("x... (4000 more characters)")


def test_server_words_of_other_types() -> None:
    """A code that is a number, or a message that is an object, is taken as text."""
    error = failure(answer(500, {"error": {"message": {"a": 1}, "code": 500}}), REQUEST)
    assert "500" == error.code
    assert '{"a":1}' in error.message


def test_sources() -> None:
    """Every wording has its source, and every server that is promised has a row and a body above."""
    servers = ("hosted", "Azure", "vLLM", "llama.cpp", "Ollama", "LiteLLM", "OpenRouter")
    for server in servers:
        assert any(server in row.source for row in WORDINGS), server
        assert any(name.startswith(server) for name, *_ in KINDS), server
    assert all(": " in row.source for row in WORDINGS)


def test_repeated_key() -> None:
    """A key that the server repeats is taken out of its words; a short one, which is in any text, is not."""
    said = openai("Incorrect API key provided: sk-secret")
    error = failure(answer(401, said), REQUEST)
    assert "Incorrect API key provided: ..." in error.message
    assert "sk-secret" not in str(error) + error.body
    assert "sk-secret" not in str(malformed(answer(200, b"<p>sk-secret"), REQUEST, "x"))
    short = HttpRequest("POST", REQUEST.origin, REQUEST.target, (("authorization", "Bearer key"),))
    assert "Incorrect API key provided" in failure(answer(401, said), short).message


GET = HttpRequest("GET", Origin("https", "h", 443), "/v1/models", (("authorization", "k"), ("accept", "a/b")))
POST = HttpRequest("POST", GET.origin, "/v1/x", GET.headers, b"{}")

REDIRECTS: list[tuple[HttpRequest, int, str | None, str | None]] = [
    (POST, 307, "/v2/x?a=b", "https://h/v2/x?a=b"),
    (POST, 308, "y", "https://h/v1/y"),
    (POST, 307, "https://h", "https://h/"),
    (POST, 307, "https://other.test:8443/v1", "https://other.test:8443/v1"),
    (POST, 307, "//other.test/v1", "https://other.test/v1"),
    (GET, 301, "/v2", "https://h/v2"),
    (GET, 302, "/v2", "https://h/v2"),
    (GET, 303, "/v2", "https://h/v2"),
    (POST, 301, "/v2", None),
    (POST, 302, "/v2", None),
    (POST, 303, "/v2", None),
    (POST, 307, None, None),
    (POST, 307, "http://h/v1", None),
    (POST, 307, "https://u:p@h/v1", None),
    (POST, 307, "ftp://h/v1", None),
    (POST, 307, "https://h:port/", None),
    (POST, 307, "https://[::1/", None),
    (POST, 307, "/a b", None),
    (POST, 307, "/\xe9", None),
]


@pytest.mark.parametrize(("asked", "status", "location", "expected"), REDIRECTS)
def test_redirected(asked: HttpRequest, status: int, location: str | None, expected: str | None) -> None:
    """A redirect that keeps the method and is safe gives the next request; the key goes along at the same origin only."""
    further = redirected(answer(status, b"", **({} if location is None else {"location": location})), asked)
    assert expected == (None if further is None else further.url)
    if further is not None:
        assert (further.origin == asked.origin) is (("authorization", "k") in further.headers)
        assert ("accept", "a/b") in further.headers
        assert (asked.method, asked.body) == (further.method, further.body)
