"""Each known server's dialect, played by a script over real sockets, on both clients, whole and streamed.

A script knows the fields that its server acts upon, and does with any other what that server does: refuses it in its own words,
or ignores it without one. The answer's text is what was acted upon, so that nothing can be lost unseen.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    AuthenticationError,
    BadRequestError,
    DeveloperMessage,
    Gpt,
    InvalidRequestError,
    ModelNotFoundError,
    ParseError,
    UnsupportedParameterError,
    UserMessage,
)
from gpt.protocol.servers import SERVERS, profile_named
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse
from gpt.remote.backend import RemoteBackend, endpoint
from gpt.testing.faults import events
from gpt.testing.loopback import Loopback, Peer, answer, completion

ROOT = Path(__file__).parents[1]

Said = tuple[int, dict[str, Any]]
"""Status and JSON of an answer."""

PLAIN = frozenset(
    {"messages", "model", "stream", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"}
)
TOOLS = frozenset({"tools", "tool_choice"})


class Script:
    """A server: the fields that it acts upon, and what it says to others; None where it says nothing."""

    def __init__(self, *fields: str, unknown: Callable[[str], Said] | None = None) -> None:
        self.fields = PLAIN | frozenset(fields)
        self.unknown = unknown

    def respond(self, head: str, asked: dict[str, Any]) -> Said:
        for name in asked.keys() - self.fields:
            if self.unknown is not None:
                return self.unknown(name)
        refused = self.refuses(head, asked)
        if refused is not None:
            return refused
        acted = {name: value for name, value in asked.items() if name in self.fields and name not in ("messages", "stream")}
        return 200, completion(json.dumps(acted | self.told(asked), sort_keys=True, separators=(",", ":")))

    def refuses(self, head: str, asked: dict[str, Any]) -> Said | None:
        """What it says to a value that it does not take."""
        return None

    def told(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What it made of the messages."""
        return {"roles": [message["role"] for message in asked["messages"]]}

    def play(self, peer: Peer) -> None:
        while True:
            head, body = peer.read_request()
            asked = json.loads(body)
            status, said = self.respond(head, asked)
            if status == 200 and asked.get("stream"):
                chunks = events(said)
                if "stream_options" in asked and "stream_options" in self.fields:
                    usage = {"id": "c", "choices": [], "usage": said["usage"]}
                    chunks = chunks.replace(b"data: [DONE]", b"data: %b\n\ndata: [DONE]" % json.dumps(usage).encode())
                peer.send(answer(chunks, "200 OK", "content-type: text/event-stream"))
            else:
                peer.send(answer(said, f"{status} Said"))


def error(message: str, status: int = 400, **beside: Any) -> Said:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **beside}}


class Hosted(Script):
    """Refuses what it does not know, and of a model that reasons what that does not take."""

    def __init__(self) -> None:
        beside = ("max_tokens", "max_completion_tokens", "n", "logit_bias", "parallel_tool_calls", "response_format",
                  "stream_options", "functions", "function_call", "modalities", "web_search_options", *TOOLS)  # fmt: skip
        super().__init__(*beside, unknown=lambda name: error(f"Unrecognized request argument supplied: {name}"))

    def refuses(self, head: str, asked: dict[str, Any]) -> Said | None:
        if asked["model"] != "reasoner":
            return None
        if "max_tokens" in asked:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return error(words, param="max_tokens", code="unsupported_parameter")
        if asked.get("temperature", 1) != 1:
            words = (
                "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
            )
            return error(words, param="temperature", code="unsupported_value")
        if any(message["role"] == "system" for message in asked["messages"]):
            words = "Unsupported value: 'messages[0].role' does not support 'system' with this model."
            return error(words, param="messages[0].role", code="unsupported_value")
        return None


class Azure(Hosted):
    """The same behind keys, versions and paths of its own."""

    def refuses(self, head: str, asked: dict[str, Any]) -> Said | None:
        target = head.split(" ")[1]
        if not re.search(r"\r\napi-key: key-of-azure\r\n|\r\nauthorization: Bearer token-of-entra\r\n", head):
            return error("Access denied due to invalid subscription key", 401, code="401")
        old = re.fullmatch(r"/openai/deployments/([^/]+)/chat/completions\?api-version=2024-\d\d-\d\d", target)
        if old is None and target not in (V1, "/models/chat/completions?api-version=2024-10-21"):
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        deployment = old[1] if old else asked["model"]
        if deployment not in ("m", "reasoner", "a%2Fb"):
            return error("The API deployment for this resource does not exist.", 404, code="DeploymentNotFound")
        if old and "stream_options" in asked:
            return error(
                "Unrecognized request argument supplied: stream_options. Please contact us through an Azure support request"
            )
        return super().refuses(head, asked)


class Ollama(Script):
    """Most templates leave out a role that they do not know."""

    def told(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"roles": [message["role"] for message in asked["messages"] if message["role"] != "developer"]}


class LMStudio(Script):
    def refuses(self, head: str, asked: dict[str, Any]) -> Said | None:
        if asked.get("response_format", {}).get("type", "text") not in ("text", "json_schema"):
            return 400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}
        return None


class TGI(Script):
    """Knows both names of the limit, and takes any field."""

    def respond(self, head: str, asked: dict[str, Any]) -> Said:
        if "max_completion_tokens" in asked:
            asked["max_tokens"] = asked.pop("max_completion_tokens")
        if asked.get("response_format", {}).get("type") == "json_object" and "value" not in asked["response_format"]:
            return 422, {
                "error": "Failed to deserialize the JSON body into the target type: response_format: missing field `value`"
            }
        if isinstance(asked.get("logit_bias"), dict):
            return 422, {"error": "Failed to deserialize the JSON body into the target type: logit_bias: invalid type: map"}
        return super().respond(head, asked)


def mistral(name: str) -> Said:
    detail = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
    return 422, {
        "object": "error",
        "message": {"detail": [detail]},
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def litellm(name: str) -> Said:
    return error(f"litellm.UnsupportedParamsError: x does not support parameters: ['{name}'], for model=m", type="None")


LOCAL = ("max_tokens", "stream_options", "tools", "response_format", "logprobs")

SCRIPTS: dict[str, Script] = {
    "openai": Hosted(),
    "azure": Azure(),
    "vllm": Script(*LOCAL, *TOOLS, "max_completion_tokens", "n", "logit_bias", "parallel_tool_calls"),
    "ollama": Ollama(*LOCAL),
    "lm-studio": LMStudio(*LOCAL, *TOOLS, "logit_bias", "n", "parallel_tool_calls", "functions", "function_call", "modalities",
                          "web_search_options"),
    "tgi": TGI(*LOCAL, *TOOLS, "logit_bias"),
    "mlx-lm": Script("max_tokens", "max_completion_tokens", "stream_options", "tools", "logprobs", "logit_bias"),
    "openrouter": Script(*LOCAL, *TOOLS, "max_completion_tokens", "n", "logit_bias", "parallel_tool_calls", "functions",
                         "function_call", "modalities", "web_search_options"),
    "litellm": Script(*LOCAL, *TOOLS, "max_completion_tokens", unknown=litellm),
    "deepseek": Script(*LOCAL, *TOOLS, unknown=lambda name: error(f"Unknown parameter: '{name}'.")),
    "moonshot": Script(*LOCAL, *TOOLS, unknown=lambda name: error(f"Unknown parameter: '{name}'.")),
    "minimax": Script(*LOCAL, *TOOLS, unknown=lambda name: error(f"Unknown parameter: '{name}'.")),
    "mistral": Script("max_tokens", "n", "response_format", "parallel_tool_calls", *TOOLS, unknown=mistral),
    "groq": Script("max_tokens", "max_completion_tokens", "response_format", "parallel_tool_calls", *TOOLS,
                   unknown=lambda name: error(f"property '{name}' is unsupported")),
    "cerebras": Script("max_tokens", "max_completion_tokens", "response_format", *TOOLS,
                       unknown=lambda name: error(f"property '{name}' is unsupported")),
}  # fmt: skip
"""llama.cpp is not played: its own server is asked, in test_engine_server.py."""


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def ask(asynchronous: bool, streamed: bool, calls: list[dict[str, Any]], **settings: Any) -> list[Any]:
    """The answers to calls with these parameters, one after the other on one client."""
    settings = {"model": "m", "max_retries": 0, **settings}

    def make(client: Any, call: dict[str, Any]) -> Any:
        params = dict(call)
        said = params.pop("said", "a")
        return client.chat.stream(said, **params).until_done() if streamed else client.chat.complete(said, **params)

    if not asynchronous:
        with Gpt(**settings) as client:
            return [make(client, call) for call in calls]

    async def run() -> list[Any]:
        async with AsyncGpt(**settings) as client:
            return [await _settled(make(client, call)) for call in calls]

    return asyncio.run(run())


def url_of(name: str, server: Loopback) -> dict[str, Any]:
    """How a client is pointed at a script."""
    base = f"http://127.0.0.1:{server.port}"
    if name == "azure":
        return {"server_url": base, "api_key": "key-of-azure", "profile": name}
    return {"server_url": f"{base}/v1", "profile": name}


CLIENTS = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
KINDS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

MEANT: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 5}, '"max_(completion_)?tokens":5'),
    ({"max_completion_tokens": 5}, '"max_(completion_)?tokens":5'),
    ({"n": 2}, '"n":2'),
    ({"stop": ["x"]}, '"stop":'),
    ({"seed": 5}, '"seed":5'),
    ({"logit_bias": {"5": 1}}, '"logit_bias":'),
    ({"tools": [TOOL]}, '"tools":'),
    ({"tools": [TOOL], "tool_choice": "none"}, '"tool_choice":"none"'),
    ({"tools": [TOOL], "tool_choice": "required"}, '"tool_choice":"required"'),
    ({"tools": [TOOL], "parallel_tool_calls": False}, '"parallel_tool_calls":false'),
    ({"functions": [{"name": "f"}]}, '"functions":'),
    ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, '"function_call":'),
    ({"response_format": {"type": "json_object"}}, '"response_format":'),
    ({"modalities": ["text", "audio"]}, '"modalities":'),
    ({"web_search_options": {}}, '"web_search_options":'),
    ({"said": [DeveloperMessage("Be brief."), UserMessage("a")]}, '"roles":."(developer|system)","user"'),
]
"""Parameters, and what an answer shows that acted upon them."""


@CLIENTS
@KINDS
@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_is_ignored(name: str, asynchronous: bool, streamed: bool) -> None:
    """Whatever a call asks for, the server acts upon it, or says no, or is not asked at all."""
    with Loopback(SCRIPTS[name].play) as server:
        for params, shown in MEANT:
            before = len(server.requests)
            try:
                [made] = ask(asynchronous, streamed, [params], **url_of(name, server))
            except BadRequestError as caught:
                problem, made = caught, None
            if made is not None:
                assert re.search(shown, made.text), (params, made.text)
            elif len(server.requests) > before:
                assert SCRIPTS[name].unknown is not None or name in ("lm-studio", "tgi"), params
            else:
                assert UnsupportedParameterError is type(problem)
                assert problem.param in params
                assert problem.message.startswith(f"{problem.param}: {name} ")


def test_that_it_would_be() -> None:
    """Without its profile these servers would ignore things: the test above can fail."""
    ignoring = {}
    for name, script in SCRIPTS.items():
        with Loopback(script.play) as server:
            for params, shown in MEANT:
                try:
                    own = url_of(name, server)
                    [made] = ask(False, False, [params], **own if name == "azure" else {**own, "profile": None})
                except BadRequestError:
                    continue
                if not re.search(shown, made.text):
                    ignoring.setdefault(name, []).append(list(params)[-1])
    assert ["vllm", "ollama", "tgi", "mlx-lm"] == [name for name in ignoring if name != "lm-studio"]
    assert ["max_completion_tokens"] == ignoring["lm-studio"]
    assert {"max_completion_tokens", "n", "tool_choice", "logit_bias", "said"} <= set(ignoring["ollama"])


@CLIENTS
@pytest.mark.parametrize("name", SCRIPTS)
def test_usage_of_streams(name: str, asynchronous: bool) -> None:
    """Usage is asked for of the servers that take the question, and of no other."""
    with Loopback(SCRIPTS[name].play) as server:
        [made] = ask(asynchronous, True, [{}], **url_of(name, server))
        assert (b"stream_options" in server.requests[0][1]) == profile_named(name).streams_usage == (made.usage is not None)


@CLIENTS
@pytest.mark.parametrize("name", SCRIPTS)
def test_values(name: str, asynchronous: bool) -> None:
    """The first way to ask for a value is one that the server acts upon."""
    with Loopback(SCRIPTS[name].play) as server:
        settings: dict[str, Any] = {"model": "m", **url_of(name, server)}

        async def run() -> None:
            async with AsyncGpt(**settings) as client:
                await client.chat.parse("a", into=int)

        with pytest.raises(ParseError):  # the answer tells what was acted upon, and is no number
            asyncio.run(run()) if asynchronous else Gpt(**settings).chat.parse("a", into=int)
        assert 1 == len(server.requests)
        assert profile_named(name).rungs[0] == ("json_schema" if b'"type":"json_schema"' in server.requests[0][1] else "prompt")


@CLIENTS
def test_thinking_goes_back(asynchronous: bool) -> None:
    """OpenRouter gets the thinking of the history, the hosted service does not."""
    said = [UserMessage("a"), completion_message("hm"), UserMessage("b")]
    for name, expected in (("openrouter", True), ("openai", False)):
        with Loopback(SCRIPTS[name].play) as server:
            ask(asynchronous, False, [{"said": said}], **url_of(name, server))
            assert expected == (b'"reasoning":"hm"' in server.requests[0][1])


def completion_message(thinking: str) -> Any:
    from gpt.protocol.codec import decode_completion

    made = completion("x")
    made["choices"][0]["message"]["reasoning"] = thinking
    return decode_completion(json.dumps(made).encode()).message


# --------------------------------------------------------------------------------------------------------------------
# adapt=True
# --------------------------------------------------------------------------------------------------------------------

# A server, calls on one client, and of each what was changed, and how many requests it took.
ADAPTED: list[tuple[str, list[dict[str, Any]], list[tuple[tuple[str, ...], int]]]] = [
    ("openai", [{"model": "reasoner", "max_tokens": 5}] * 2, [(("max_tokens -> max_completion_tokens",), 2)] * 1
     + [(("max_tokens -> max_completion_tokens",), 1)]),
    ("openai", [{"model": "reasoner", "max_tokens": 5, "temperature": 0}, {"model": "reasoner", "temperature": 0.5}],
     [(("max_tokens -> max_completion_tokens", "temperature dropped"), 3), (("temperature dropped",), 1)]),
    ("openai", [{"model": "reasoner", "max_tokens": 5}, {"model": "m", "max_tokens": 5}],
     [(("max_tokens -> max_completion_tokens",), 2), ((), 1)]),
    ("openai", [{"model": "reasoner", "said": [{"role": "system", "content": "Be brief."}, UserMessage("a")]}],
     [(("role system -> developer",), 2)]),
    ("openai", [{"body": {"top_k": 5}}], [(("top_k dropped",), 2)]),
    ("azure", [{"model": "reasoner", "max_tokens": 5}] * 2,
     [(("max_tokens -> max_completion_tokens",), 2), (("max_tokens -> max_completion_tokens",), 1)]),
    ("mistral", [{"user": "u"}] * 2, [(("user dropped",), 2), (("user dropped",), 1)]),
    ("groq", [{"top_p": 1, "user": "u"}], [(("user dropped",), 2)]),
    ("litellm", [{"user": "u"}], [(("user dropped",), 2)]),
    ("deepseek", [{"max_completion_tokens": 5}], [(("max_completion_tokens -> max_tokens",), 2)]),
]  # fmt: skip


@CLIENTS
@KINDS
@pytest.mark.parametrize(("name", "calls", "expected"), ADAPTED)
def test_adapt(
    name: str, calls: list[dict[str, Any]], expected: list[tuple[tuple[str, ...], int]], asynchronous: bool, streamed: bool
) -> None:
    """What a server refuses is fixed, asked for again, remembered for the model, and told on the result."""
    with Loopback(SCRIPTS[name].play) as server:
        made = ask(asynchronous, streamed, calls, adapt=True, **url_of(name, server))
        assert [changes for changes, _ in expected] == [one.info.adapted for one in made]
        assert sum(count for _, count in expected) == len(server.requests)
        assert [count for _, count in expected] == [len(one.info.attempts) for one in made]
        names = [re.search("idempotency-key: (.*)", head)[1] for head, _ in server.requests]  # type: ignore[index]
        assert len(names) == len(set(names)), "another request has another name"
        for changes, one in zip([changes for changes, _ in expected], made, strict=True):
            if "max_tokens -> max_completion_tokens" in changes:
                assert '"max_completion_tokens":5' in one.text


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("litellm", {"n": 2}),
    ("litellm", {"logit_bias": {"5": 1}}),
    ("cerebras", {"tools": [TOOL], "parallel_tool_calls": False}),
    ("deepseek", {"modalities": ["text", "audio"]}),
]


@CLIENTS
@KINDS
@pytest.mark.parametrize(("name", "params"), REFUSED)
def test_adapt_drops_nothing_that_matters(name: str, params: dict[str, Any], asynchronous: bool, streamed: bool) -> None:
    """What says what is wanted is not left out: the server's error stands, after one request."""
    with Loopback(SCRIPTS[name].play) as server:
        with pytest.raises(UnsupportedParameterError) as caught:
            ask(asynchronous, streamed, [params], adapt=True, **url_of(name, server))
        assert list(params)[-1] == caught.value.param
        assert 1 == len(server.requests)


@CLIENTS
@KINDS
def test_not_asked_to(asynchronous: bool, streamed: bool) -> None:
    """Nothing is adapted that was not asked for."""
    with Loopback(SCRIPTS["openai"].play) as server:
        with pytest.raises(UnsupportedParameterError) as caught:
            ask(asynchronous, streamed, [{"model": "reasoner", "max_tokens": 5}], **url_of("openai", server))
        assert ("max_tokens", 1) == (caught.value.param, len(server.requests))


def test_adapt_within_the_deadline() -> None:
    """The request that was changed has what is left of the call's deadline."""

    class Recording:
        """A transport that refuses the first request."""

        def __init__(self) -> None:
            self.deadlines: list[float] = []

        def send(self, request: HttpRequest) -> HttpResponse:
            assert request.deadline is not None
            self.deadlines.append(request.deadline)
            status, said = error("Unknown parameter: 'user'.") if len(self.deadlines) == 1 else (200, completion())
            return HttpResponse(status, Headers(), json.dumps(said).encode())

        def close(self) -> None: ...

    way: Any = Recording()
    backend = RemoteBackend(endpoint("http://h/v1", adapt=True), way)
    Gpt(backend=backend, deadline=1000).chat.complete("a", user="u")
    first, second = way.deadlines
    assert 0 < second < first <= 1000


def test_copies_share() -> None:
    """What one client has learned its copies know, and another client does not."""
    with Loopback(SCRIPTS["openai"].play) as server:
        settings: dict[str, Any] = {**url_of("openai", server), "adapt": True, "model": "reasoner"}
        client = Gpt(**settings)
        client.with_options(timeout=60).chat.complete("a", max_tokens=5)
        assert 2 == len(server.requests)
        client.chat.complete("a", max_tokens=5)
        assert 3 == len(server.requests)
        Gpt(**settings).chat.complete("a", max_tokens=5)
        assert 5 == len(server.requests)


# --------------------------------------------------------------------------------------------------------------------
# Azure
# --------------------------------------------------------------------------------------------------------------------

V1 = "/openai/v1/chat/completions"
DATED = {"api-version": "2024-10-21"}

# What stands after the host, settings, and what is asked.
AZURE: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, V1),
    ("/openai", {}, V1),
    ("/openai/v1", {}, V1),
    ("/openai/v1/", {}, V1),
    ("", {"query": DATED}, "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ("/openai", {"query": DATED}, "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ("?api-version=2024-10-21", {}, "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ("/openai/deployments/m", {"query": DATED}, "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ("/models", {"query": DATED}, "/models/chat/completions?api-version=2024-10-21"),
    ("", {"query": DATED, "model": "a/b"}, "/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21"),
    ("", {"api_key": "Bearer token-of-entra"}, V1),
    ("", {"api_key": lambda: "token-of-entra", "query": DATED},
     "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
]  # fmt: skip


@CLIENTS
@KINDS
@pytest.mark.parametrize(("below", "settings", "target"), AZURE)
def test_azure(below: str, settings: dict[str, Any], target: str, asynchronous: bool, streamed: bool) -> None:
    """Both generations of its addresses are found, with keys and with tokens."""
    with Loopback(SCRIPTS["azure"].play) as server:
        given = {"api_key": "key-of-azure", "profile": "azure", **settings}
        [made] = ask(asynchronous, streamed, [{}], server_url=f"http://127.0.0.1:{server.port}{below}", **given)
        head = server.requests[0][0]
    assert made.text
    assert target == head.split(" ")[1]
    assert ("key-of-azure" in head) != ("token-of-entra" in head)
    assert ("authorization:" in head) == ("token-of-entra" in head)


def test_azure_by_host() -> None:
    """Azure is known by its host; its key does not show."""
    client = Gpt(server_url="https://my-resource.openai.azure.com", api_key="key-of-azure")
    endpoint = client.backend.endpoint  # type: ignore[attr-defined]
    assert ("azure", "/openai/v1") == (endpoint.profile.name, endpoint.path)
    assert ("api-key", "key-of-azure") in endpoint.headers
    assert not any(name == "authorization" for name, _ in endpoint.headers)
    assert "key-of-azure" not in repr(client) + repr(endpoint)


@CLIENTS
def test_azure_refusals(asynchronous: bool) -> None:
    """What Azure says no to is our errors; a deployment that nobody named is refused before anything is sent."""
    with Loopback(SCRIPTS["azure"].play) as server:
        settings = url_of("azure", server)
        with pytest.raises(AuthenticationError, match="Access denied") as refused:
            ask(asynchronous, False, [{}], **settings | {"api_key": "sk-wrong-key"})
        assert "no key was sent" not in str(refused.value)
        with pytest.raises(AuthenticationError, match="no key was sent"):
            ask(asynchronous, False, [{}], **settings | {"api_key": ""})
        with pytest.raises(ModelNotFoundError):
            ask(asynchronous, False, [{"model": "none"}], **settings, query=DATED)
        asked = len(server.requests)
        with pytest.raises(InvalidRequestError, match="model: missing; it is the deployment's name"):
            ask(asynchronous, False, [{}], **settings, query=DATED, model=None)
        assert asked == len(server.requests)


# --------------------------------------------------------------------------------------------------------------------
# The setting, and the page
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, {"streams_usage": True}])
def test_no_profile(value: Any) -> None:
    """A profile is one, or the name of one."""
    with pytest.raises(InvalidRequestError, match="profile: expected a Profile or the name of one"):
        Gpt(server_url="http://h", profile=value)
    with pytest.raises(InvalidRequestError, match="profile: 'nobody' is the name of none"):
        Gpt(server_url="http://h", profile="nobody")


@pytest.mark.parametrize("name", ["profile", "adapt"])
def test_for_servers(name: str) -> None:
    """Neither has a meaning where there is no server."""
    with pytest.raises(InvalidRequestError, match=f"{name}: has no meaning"):
        Gpt(server_url="local:", **{name: "vllm"})  # type: ignore[misc]


def test_every_server_is_played() -> None:
    """No row is without its server."""
    assert {server.profile.name for server in SERVERS} == {*SCRIPTS, "llama.cpp"}


def row_of(server: Any) -> list[str]:
    """What docs/servers.md says of a server."""
    profile = server.profile

    def code(names: Any) -> str:
        return ", ".join(f"`{name}`" for name in names) or "-"

    found = [f"*{host}" if host.startswith(".") else host for host in server.hosts]
    found += [f"port {server.port}"] if server.port else []
    return [
        f"`{profile.name}`",
        ", ".join(found) or "by name only",
        "yes" if profile.streams_usage else "no",
        ", ".join(f"`{ours}` as `{theirs}`" for ours, theirs in (*profile.renames, *profile.roles)) or "-",
        code(profile.ignores),
        code(profile.rungs),
        profile.echoes,
    ]


def test_page() -> None:
    """The table of docs/servers.md is the data."""
    lines = (ROOT / "docs" / "servers.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    assert [row_of(server) for server in SERVERS] == [row for row in rows if len(row) == 7]
