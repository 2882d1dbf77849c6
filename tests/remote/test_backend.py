"""The remote backend: where keys go, what each call sends, what each failure is; both clients."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import gpt
from gpt import AsyncGpt, Gpt, InvalidRequestError, Profile, Retry, UserMessage
from gpt.remote.backend import endpoint, parse_url
from gpt.testing import Fault, no_waiting, serve
from gpt.testing.loopback import Loopback, Peer, answer, closed_port, completion, serving

from remote_stream import STREAM


class Both:
    """One way to make a call on either client."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def ask(self, call: Callable[[Any], Any], **settings: Any) -> Any:
        if self.kind == "blocking":
            with Gpt(**settings) as client:
                return call(client)

        async def run() -> Any:
            async with AsyncGpt(**settings) as client:
                made = call(client)
                return await made if inspect.isawaitable(made) else made

        return asyncio.run(run())

    def text(self, **settings: Any) -> str:
        made: str = self.ask(lambda client: client.chat.complete("a", model="m"), **settings).text
        return made


@pytest.fixture(params=["blocking", "async"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def headers(server: Loopback, place: int = -1) -> dict[str, str]:
    """The header fields of a request."""
    lines = server.requests[place][0].split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_sent(both: Both) -> None:
    """A call sends the request's JSON and few, honest headers."""
    with serving(completion("hi")) as server:
        assert both.text(server_url=server.url + "/", api_key="k") == "hi"
        head, body = server.requests[0]
        assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
        assert {"model": "m", "messages": [{"role": "user", "content": "a"}]} == json.loads(body)
        sent = headers(server)
    assert {
        "host",
        "accept",
        "content-type",
        "user-agent",
        "authorization",
        "idempotency-key",
        "content-length",
    } == set(sent)
    assert f"gpt-in-the-box/{gpt.__version__}" == sent["user-agent"]
    assert "Bearer k" == sent["authorization"]


KEYS: list[tuple[dict[str, str], dict[str, Any], str | None]] = [
    # environment, settings, the Authorization that goes out; {url} is the server's own address
    ({"OPENAI_API_KEY": "env"}, {"server_url": "{url}"}, None),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "{url}"}, {}, "Bearer env"),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "{url}"}, {"server_url": "{url}/other"}, "Bearer env"),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "http://other.test"}, {"server_url": "{url}"}, None),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "local:"}, {"server_url": "{url}"}, None),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "replay:x"}, {"server_url": "{url}"}, None),
    ({"OPENAI_API_KEY": "env", "OPENAI_BASE_URL": "{url}"}, {"api_key": ""}, None),
    ({"OPENAI_API_KEY": " env\n", "OPENAI_BASE_URL": "{url}"}, {}, "Bearer env"),
    ({}, {"server_url": "{url}", "api_key": "own"}, "Bearer own"),
    ({}, {"server_url": "{url}", "api_key_auth": "own"}, "Bearer own"),
    ({}, {"server_url": "{url}", "api_key": "bearer own"}, "bearer own"),
    ({}, {"server_url": "{url}", "api_key": lambda: "made"}, "Bearer made"),
    ({}, {"server_url": "{url}", "api_key": "own", "headers": {"Authorization": "Basic x"}}, "Basic x"),
]


@pytest.mark.parametrize(("environment", "settings", "expected"), KEYS)
def test_keys(
    both: Both, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], settings: dict[str, Any], expected: str | None
) -> None:
    """The environment's key goes only to the server that the environment names; a given key goes where it is given."""
    with serving(completion()) as server:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.replace("{url}", server.url))
        both.text(
            **{
                name: value.replace("{url}", server.url) if isinstance(value, str) else value
                for name, value in settings.items()
            }
        )
        assert expected == headers(server).get("authorization")


def test_organization_follows_the_key(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Organization and project go where the environment's key goes, or where they are given."""
    monkeypatch.setenv("OPENAI_ORG_ID", "o")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "p")
    with serving(completion()) as server:
        both.text(server_url=server.url)
        assert "openai-organization" not in headers(server)
        both.text(server_url=server.url, organization="own")
        assert ("own", None) == (headers(server).get("openai-organization"), headers(server).get("openai-project"))
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        both.text()
        assert ("o", "p") == (headers(server)["openai-organization"], headers(server)["openai-project"])


def test_async_key() -> None:
    """On AsyncGpt a key may come from an async function, asked for each request."""
    asked = []

    async def key() -> str:
        asked.append(1)
        return f"k{len(asked)}"

    async def run(url: str) -> None:
        async with AsyncGpt(server_url=url, api_key=key) as client:
            await client.chat.complete("a")
            await client.chat.complete("a")

    with serving(completion()) as server:
        asyncio.run(run(server.url))
        assert ["Bearer k1", "Bearer k2"] == [headers(server, place)["authorization"] for place in (0, 1)]


@pytest.mark.parametrize("key", ["secret\n", "sec\rret", "s\u00e4cret", lambda: "secret\n", lambda: 5])
def test_bad_keys(both: Both, key: Any) -> None:
    """A key that no header can carry is refused, and does not show."""
    with serving(completion()) as server, pytest.raises(InvalidRequestError, match="api_key") as caught:
        both.text(server_url=server.url, api_key=key)
    assert "cret" not in str(caught.value)


def test_no_secret_shows(both: Both) -> None:
    """Keys are in no repr."""
    client = Gpt(server_url="http://h/v1", api_key="secret", headers={"x": "secret"})
    assert repr(client) == "Gpt(backend=RemoteBackend(Endpoint('http://h/v1')))"
    assert "secret" not in repr(AsyncGpt(server_url="http://h", api_key="secret").backend)


def test_hosted_needs_a_model(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no default model for the hosted service; a call without one says so before sending."""
    with pytest.raises(InvalidRequestError, match="model: missing; the hosted service has no default"):
        both.ask(lambda client: client.chat.complete("a"), api_key="k")
    with pytest.raises(InvalidRequestError, match="no API key for the hosted service"):
        both.ask(lambda client: client.models.list())


def test_call_headers_and_query(both: Both) -> None:
    """Headers and query of the client and of the call go out, the call's over the client's."""

    def call(client: Any) -> Any:
        return client.chat.complete("a", headers={"X-A": "call", "accept": "x/y"}, query={"b": "2 3"})

    with serving(completion()) as server:
        both.ask(call, server_url=f"{server.url}?api-version=1", headers={"x-a": "client", "x-c": "c"}, query={"a": "1"})
        assert server.requests[0][0].startswith("POST /v1/chat/completions?api-version=1&a=1&b=2+3 HTTP/1.1")
        sent = headers(server)
    assert ("call", "c", "x/y") == (sent["x-a"], sent["x-c"], sent["accept"])


def test_models(both: Both) -> None:
    """models.list asks for the models."""
    with serving({"object": "list", "data": [{"id": "a", "object": "model"}]}) as server:
        assert ["a"] == [model.id for model in both.ask(lambda client: client.models.list(), server_url=server.url)]
        assert server.requests[0][0].startswith("GET /v1/models HTTP/1.1")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", ("http", "h", 80, "", "")),
        ("https://h:8443/v1/?a=b", ("https", "h", 8443, "/v1", "a=b")),
        ("http://[::1]:8080/v1", ("http", "::1", 8080, "/v1", "")),
        ("http://b\u00fccher.test/", ("http", "xn--bcher-kva.test", 80, "", "")),
        (" http://h/v1 ", ("http", "h", 80, "/v1", "")),
    ],
)
def test_urls(url: str, expected: tuple[Any, ...]) -> None:
    """A base URL is an origin, a path and a query."""
    origin, path, query = parse_url(url)
    assert expected == (*origin, path, query)


def test_template(both: Both) -> None:
    """The seed's url_params fill the places of server_url."""
    with serving(completion()) as server:
        assert both.text(server_url="http://127.0.0.1:{port}/v1", url_params={"port": str(server.port)}) == "hi"


def test_seed_configuration() -> None:
    """The seed's view of the settings is there."""
    assert Gpt(server_idx=0, api_key="k").sdk_configuration.get_server_details() == ("https://api.openai.com/v1", {})
    assert Gpt(server_url="http://h/v1").sdk_configuration.server_url == "http://h/v1"


HTML = answer(b"<html><body>hello</body></html>", "200 OK", "content-type: text/html")

FAILURES: list[tuple[str, bytes, type[Exception], str]] = [
    (
        "401",
        answer({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, "401 Unauthorized"),
        gpt.AuthenticationError,
        "Incorrect",
    ),
    ("404", answer({"error": {"message": "no", "code": "model_not_found"}}, "404 Not Found"), gpt.ModelNotFoundError, "no"),
    ("429", answer({"error": {"message": "slow"}}, "429 Too Many", "retry-after: 3"), gpt.RateLimitError, "slow"),
    ("500", answer(b"oops", "500 Error"), gpt.ServerError, "oops"),
    ("HTML with 200", HTML, gpt.MalformedResponseError, "hello"),
    ("an error with 200", answer({"error": {"message": "busy", "code": "rate_limit_exceeded"}}), gpt.RateLimitError, "busy"),
    ("an empty body", answer(b""), gpt.MalformedResponseError, "sent no chat completion"),
    (
        "a redirect",
        answer(b"", "302 Found", "location: http://evil.test/"),
        gpt.ResponseError,
        "its redirect to 'http://evil.test/' was not followed",
    ),
    ("no HTTP", b"SSH-2.0\r\n\r\n", gpt.ConnectError, "sent no HTTP"),
]


@pytest.mark.parametrize(("data", "kind", "text"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_failures(both: Both, data: bytes, kind: type[Exception], text: str, streamed: bool) -> None:
    """Each failure is its class, whole or streamed, pickles, and shows no key."""

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(data)
            if not data.startswith(b"HTTP"):
                return

    def call(client: Any) -> Any:
        return client.chat.stream("a").until_done() if streamed else client.chat.complete("a")

    with Loopback(play) as server, pytest.raises(kind) as caught:
        both.ask(call, server_url=server.url, api_key="sk-secret", max_retries=0)
    assert text in str(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
    assert "sk-secret" not in str(caught.value)
    if isinstance(caught.value, gpt.ResponseError):
        assert caught.value.raw_response is not None
    assert len(server.requests) == 1


def test_no_server(both: Both) -> None:
    """A port with no server says so."""
    with pytest.raises(gpt.ConnectError, match="connection refused; is the server running"):
        both.text(server_url=f"http://127.0.0.1:{closed_port()}/v1", max_retries=0)


def test_tries_again(both: Both) -> None:
    """A failure worth another try is tried again, the caller's mistakes are not; attempts are told."""
    again = Retry(initial=0.001, throttled=0.001)
    with serving(answer(b"", "500 Error"), answer(b"", "503 Error"), completion("hi")) as server:
        made = both.ask(lambda client: client.chat.complete("a"), server_url=server.url, retry=again)
        assert [500, 503, 200] == [attempt.status for attempt in made.info.attempts]
        assert 3 == len(server.requests)
    with serving(answer(b"", "400 Bad")) as server:
        with pytest.raises(gpt.BadRequestError):
            both.text(server_url=server.url, retry=again)
        assert 1 == len(server.requests)


def test_stream(both: Both) -> None:
    """A stream's text, events and completion; its request says stream."""
    with serving(answer(STREAM, "200 OK", "content-type: text/event-stream")) as server:
        made = both.ask(lambda client: client.chat.stream("a").until_done(), server_url=server.url)
        assert ("hello", "stop") == (made.text, made.choices[0].finish_reason)
        assert json.loads(server.requests[0][1])["stream"] is True
        assert made.info.headers["content-type"] == "text/event-stream"


def test_stream_cut(both: Both) -> None:
    """A stream that is cut raises, with what had come."""
    with serving(answer(STREAM[:-60], "200 OK", "content-type: text/event-stream")) as server:
        with pytest.raises(gpt.StreamTruncatedError) as caught:
            both.ask(lambda client: client.chat.stream("a").until_done(), server_url=server.url)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "hel"


def test_endpoint_of_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the endpoint is the hosted service's, or the one that the environment names."""
    assert str(endpoint().origin) + endpoint().path == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h:1/x")
    assert str(endpoint().origin) + endpoint().path == "http://h:1/x"


def test_retry_config(both: Both) -> None:
    """The seed's RetryConfig is a policy of ours: milliseconds, until the time is over."""
    from gpt.utils import BackoffStrategy, RetryConfig, policy

    config = RetryConfig("backoff", BackoffStrategy(1, 5, 1.5, 10_000), True)
    with serving(answer(b"", "500 Error"), completion("hi")) as server:
        assert both.text(server_url=server.url, retry_config=config) == "hi"
    assert (0.001, 0.005, 1.5, 10.0) == (
        policy(config).initial,
        policy(config).maximum,
        policy(config).exponent,
        policy(config).total,
    )
    assert 1 == policy(RetryConfig("none")).attempts
    assert not policy(RetryConfig("backoff")).connection_errors
    with pytest.raises(InvalidRequestError, match="retry_config.strategy"):
        policy(RetryConfig("zap"))


def test_history_goes_back(both: Both) -> None:
    """An answer's message is history for the next call."""
    with serving(completion("one"), completion("two")) as server:

        def call(client: Any) -> Any:
            if isinstance(client, Gpt):
                first = client.chat.complete("a")
                return client.chat.complete([UserMessage("a"), first.message, UserMessage("b")])

            async def talk() -> Any:
                first = await client.chat.complete("a")
                return await client.chat.complete([UserMessage("a"), first.message, UserMessage("b")])

            return talk()

        both.ask(call, server_url=server.url)
        sent = json.loads(server.requests[1][1])["messages"]
    assert {"role": "assistant", "content": "one"} == sent[1]


# --------------------------------------------------------------------------------------------------------------------
# Attempts, seen by the server
# --------------------------------------------------------------------------------------------------------------------


def test_one_name_a_call(both: Both) -> None:
    """Each call has an Idempotency-Key of its own, the same on every attempt; attempts after the first are counted."""
    with serve(faults=[Fault(status=500, times=2)]) as server, no_waiting():
        for _ in range(2):
            both.text(server_url=server.url)
        sent = [headers(server, place) for place in range(4)]
    names = [one["idempotency-key"] for one in sent]
    assert names[0] == names[1] == names[2] != names[3]
    assert [None, "1", "2", None] == [one.get("x-retry-count") for one in sent]


@pytest.mark.parametrize("own", [{"headers": {"Idempotency-Key": "mine"}}, {}])
def test_own_name(both: Both, own: dict[str, Any]) -> None:
    """The caller's own Idempotency-Key is sent instead, whether the client's or the call's."""
    per_call = {} if own else {"headers": {"idempotency-key": "mine"}}
    with serving(completion()) as server:
        both.ask(lambda client: client.chat.complete("a", **per_call), server_url=server.url, **own)
        assert 1 == server.requests[0][0].lower().count("idempotency-key")
        assert "mine" == headers(server)["idempotency-key"]


FORKED = """
import os, sys
from gpt import Gpt
client = Gpt(server_url=sys.argv[1])
client.chat.complete("a")
child = os.fork()
client.chat.complete("a")
if not child:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_names_after_a_fork() -> None:
    """Parent and child name their calls differently."""
    with serving(completion()) as server:
        subprocess.run([sys.executable, "-c", FORKED, server.url], check=True, timeout=60)
        assert 3 == len({headers(server, place)["idempotency-key"] for place in range(3)})


def test_budget_is_shared(both: Both) -> None:
    """A client whose calls all fail stops trying again; its copies share that, another client does not."""

    def call(client: Any) -> Any:
        copy = client.with_options(headers={"x": "y"})
        client.backend._chances.budget.tokens = 14

        async def both_calls() -> list[int]:
            counts = []
            for one in (client, copy):
                try:
                    await one.chat.complete("a")
                except gpt.ServerError as error:
                    counts.append(len(error.attempts))
            return counts

        if isinstance(client, AsyncGpt):
            return both_calls()
        counts = []
        for one in (client, copy):
            with pytest.raises(gpt.ServerError) as caught:
                one.chat.complete("a")
            counts.append(len(caught.value.attempts))
        return counts

    with serve(faults=[Fault(status=500)]) as server, no_waiting():
        assert [2, 1] == both.ask(call, server_url=server.url)
        with pytest.raises(gpt.ServerError) as caught:
            both.text(server_url=server.url)
    assert 3 == len(caught.value.attempts)
    assert "3 attempts in" in str(caught.value)


def test_redirect_keeps_the_key(both: Both) -> None:
    """No key, cookie or header of the caller's follows a redirect to another origin; the request does."""
    with serve("there") as there:
        away = Fault(status=307, headers={"location": f"{there.url}/chat/completions"})
        with serve(faults=[away]) as here:
            own = {"api_key": "secret", "organization": "o", "headers": {"cookie": "c", "x-own": "1"}}
            assert "there" == both.text(server_url=here.url, **own)
        assert here.requests[0][1] == there.requests[0][1]
        got = headers(there)
    assert not {"authorization", "openai-organization", "cookie", "x-own"} & set(got)
    assert "secret" not in there.requests[0][0]


def test_deadline(both: Both) -> None:
    """One deadline holds for attempts and waits together."""
    with serve(faults=[Fault(status=503, headers={"retry-after": "30"})]) as server:
        with pytest.raises(gpt.OverloadedError) as caught:
            both.text(server_url=server.url, deadline=5.0)
        assert 1 == len(caught.value.attempts)
    with serve(faults=[Fault(stall="head")]) as server, pytest.raises(gpt.RequestTimeoutError) as late:
        both.text(server_url=server.url, deadline=0.1)
    assert ("deadline", 1) == (late.value.phase, len(late.value.attempts))


def test_rate_limits(both: Both) -> None:
    """What the server says of its limits is on answers and on errors."""
    said = {"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m0s"}
    with serve(faults=[Fault(headers=said, times=1), Fault(status=429, headers=said)]) as server:
        made = both.ask(lambda client: client.chat.complete("a"), server_url=server.url)
        assert (7, 360.0) == (made.info.rate_limits.tokens.remaining, made.info.rate_limits.tokens.reset)
        with pytest.raises(gpt.RateLimitError) as caught:
            both.text(server_url=server.url, max_retries=0)
    assert made.info.rate_limits == caught.value.rate_limits


# --------------------------------------------------------------------------------------------------------------------
# The log, and secrets
# --------------------------------------------------------------------------------------------------------------------


def test_log(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt is told to the logger `gpt` at debug level: what, how it ended, how long; nothing secret."""
    with serve("private answer", faults=[Fault(status=500, times=1, headers={"x-request-id": "r1"})]) as server, no_waiting():
        settings = {"server_url": server.url, "api_key": "secret", "query": {"api-key": "secret", "v": "1"}}
        both.text(**settings)
        assert [] == caplog.records
        with caplog.at_level("DEBUG", "gpt"):
            server.struck.clear()
            both.text(**settings, headers={"x-own": "secret"})
        first, second = caplog.messages
        assert first.startswith(f"POST {server.url}/chat/completions?api-key=...&v=1 -> 500 in 0.")
        assert first.endswith("request id r1")
        assert " -> 200 in 0." in second
        caplog.clear()
        with caplog.at_level("DEBUG", "gpt"), pytest.raises(gpt.ConnectError):
            both.text(server_url=f"http://127.0.0.1:{closed_port()}", max_retries=0)
        assert "ConnectError in phase connect" in caplog.messages[0]
    assert "secret" not in caplog.text
    assert "private" not in caplog.text


def test_query_secrets(both: Both) -> None:
    """A secret in the query shows in no error."""
    with serve(faults=[Fault(status=400)]) as server, pytest.raises(gpt.BadRequestError) as caught:
        both.text(server_url=f"{server.url}?api-key=secret&api-version=1")
    assert "api-key=...&api-version=1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_echoed_key(both: Both) -> None:
    """A server that repeats the key in its error does not make it show."""
    body = {"error": {"message": "Incorrect API key provided: sk-secret. Bearer sk-secret", "code": "invalid_api_key"}}
    with serve(faults=[Fault(status=401, body=body)]) as server, pytest.raises(gpt.AuthenticationError) as caught:
        both.text(server_url=server.url, api_key="sk-secret")
    assert "Incorrect API key provided: ..." in str(caught.value)
    assert "sk-secret" not in str(caught.value) + repr(caught.value) + caught.value.body


def test_async_key_on_gpt() -> None:
    """An async function as key of the blocking client is refused, without a warning about it."""

    async def key() -> str:
        return "k"

    with pytest.raises(InvalidRequestError, match="api_key: an async function belongs to AsyncGpt"):
        Gpt(server_url="http://h", api_key=key).chat.complete("a")  # type: ignore[arg-type]


def test_with_options(both: Both) -> None:
    """Headers and query of a copy are joined to the client's, over the same connection."""

    def call(client: Any) -> Any:
        copy = client.with_options(headers={"X-A": "copy"}, query={"b": "2"})
        if isinstance(client, Gpt):
            return [client.chat.complete("a"), copy.chat.complete("a")]

        async def run() -> list[Any]:
            return [await client.chat.complete("a"), await copy.chat.complete("a")]

        return run()

    with serving(completion()) as server:
        both.ask(call, server_url=f"{server.url}?a=1", api_key="k", headers={"x-a": "own", "x-b": "b"})
        first, second = headers(server, 0), headers(server, 1)
        assert ("own", "b", "copy", "b", "Bearer k") == (
            first["x-a"],
            first["x-b"],
            second["x-a"],
            second["x-b"],
            second["authorization"],
        )
        assert server.requests[1][0].startswith("POST /v1/chat/completions?a=1&b=2 HTTP/1.1")
        assert 1 == server.connections


def test_stream_attempts(both: Both) -> None:
    """A stream that was tried again tells so."""
    with serve(faults=[Fault(status=500, times=1)]) as server, no_waiting():
        made = both.ask(lambda client: client.chat.stream("a").until_done(), server_url=server.url)
    assert [500, 200] == [attempt.status for attempt in made.info.attempts]


def test_cancelled_between_attempts() -> None:
    """A call in a thread that nobody waits for any more ends its wait for the next attempt."""
    cancel = threading.Event()
    cancel.set()
    client = Gpt(server_url=f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(gpt.GptError, match="the call was cancelled"):
        client.backend.complete(gpt.ChatRequest(messages=[UserMessage("a")]), gpt.CallOptions(cancel=cancel))


def test_other_keys_do_not_show(both: Both) -> None:
    """A key in a header of another name, repeated by the server, does not show either."""
    body = {"error": {"message": "no such key: azure-secret"}}
    with serve(faults=[Fault(status=401, body=body)]) as server, pytest.raises(gpt.AuthenticationError) as caught:
        both.text(server_url=server.url, headers={"api-key": "azure-secret"})
    assert "azure-secret" not in str(caught.value)


def test_authorization_of_a_call() -> None:
    """On the hosted service an Authorization header of the client's or the call's own is a key like any other."""
    hosted = endpoint()
    given = gpt.CallOptions(headers={"Authorization": "Bearer own"})
    assert ("authorization", "Bearer own") in hosted.request("POST", "/chat/completions", b"", given, "").headers
    with pytest.raises(InvalidRequestError, match="no API key"):
        hosted.request("POST", "/chat/completions", b"", gpt.CallOptions(headers={"x": "y"}), "")


def spoken(text: str | None = "Oslo", **beside: Any) -> dict[str, Any]:
    """An answer with these fields beside the content of its message."""
    made = completion(text or "")
    made["choices"][0]["message"] |= {"content": text, **beside}
    return made


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
TAGS = ("<think>", "</think>")

ECHOES: list[tuple[Profile, dict[str, Any], dict[str, Any]]] = [
    # what is known of the server, its answer, the message as it goes back
    (Profile(), spoken(reasoning_content="hm"), {"content": "Oslo"}),
    (Profile(echoes="tools"), spoken(reasoning_content="hm"), {"content": "Oslo"}),
    (Profile(echoes="tools"), spoken(None, reasoning_content="hm", tool_calls=CALLS),
     {"content": None, "reasoning_content": "hm", "tool_calls": CALLS}),
    (Profile(echoes="always"), spoken(reasoning="hm", reasoning_details=[{"type": "reasoning.text", "text": "hm"}]),
     {"content": "Oslo", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
    (Profile(think_tags=TAGS), spoken("<think>hm</think>Oslo"), {"content": "Oslo"}),
    (Profile(echoes="always", think_tags=TAGS), spoken("<think>hm</think>\n\nOslo"), {"content": "<think>hm</think>\n\nOslo"}),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "said", "expected"), ECHOES)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_echoes(
    both: Both, profile: Profile, said: dict[str, Any], expected: dict[str, Any], streamed: bool, kind: Callable[[Any], Any]
) -> None:
    """An answer goes back to its server with its thinking as the server's profile says, in whatever kind of list."""

    async def asked(client: Any, messages: Any) -> Any:
        made = client.chat.stream(messages).until_done() if streamed else client.chat.complete(messages)
        return await made if inspect.isawaitable(made) else made

    async def talk(client: Any) -> None:
        answer = await asked(client, "a")
        await asked(client, kind([UserMessage("a"), answer.message, UserMessage("b")]))

    def blocking(client: Any) -> None:
        with pytest.raises(StopIteration):
            talk(client).send(None)

    with serving(said) as server:
        both.ask(talk if both.kind == "async" else blocking, server_url=server.url, profile=profile)
        sent = json.loads(server.requests[-1][1])["messages"][1]
    assert {"role": "assistant", **expected} == {name: value for name, value in sent.items() if name != "refusal"}


def test_echoes_in_a_run(both: Both) -> None:
    """A run of tools sends thinking back with the calls that it led to, where the server wants it."""

    def f() -> str:
        """Nothing."""
        return "done"

    called: Any = spoken(None, reasoning_content="hm", tool_calls=CALLS)
    with serve(lambda asked: called if len(asked["messages"]) == 1 else "Oslo") as server:
        made = both.ask(
            lambda client: client.chat.run_tools("a", tools=[f]), server_url=server.url, profile=Profile(echoes="tools")
        )
        sent = json.loads(server.requests[-1][1])["messages"]
    assert ("Oslo", "hm", 3) == (made.text, sent[1]["reasoning_content"], len(sent))
