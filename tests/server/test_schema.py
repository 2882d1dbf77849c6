"""What is answered, held against the protocol's published description, and against the one that the server gives of itself."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gpt import Local
from gpt.errors import ServerError
from gpt.server.app import App
from gpt.server.store import StoredCompletions
from gpt.testing import AsyncScripted
from gpt.testing.scripted import chunk
from gpt.types import ChatCompletion, Choice, FunctionCall, ResponseMessage, ToolCall, Usage

from openapi import errors_of
from serving import HELLO, Served, events, serving

WHOLE, CHUNK, ERROR = "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "ErrorResponse"


class OwnErrors:
    """What is wrong with values by the server's own description."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._components = document["components"]
        self._validators: dict[str, Any] = {}

    def of(self, value: Any, name: str) -> list[str]:
        """What is wrong with a value by the schema of this name."""
        if name not in self._validators:  # one that is made anew reads the whole description again
            schema = {"$ref": f"#/components/schemas/{name}", "components": self._components}
            self._validators[name] = jsonschema.Draft202012Validator(schema)
        return [f"{error.json_path}: {error.message}"[:300] for error in self._validators[name].iter_errors(value)]


class Described(NamedTuple):
    """A server, and what it says of itself."""

    served: Served
    document: dict[str, Any]
    own: OwnErrors

    def check(self, value: Any, name: str) -> None:
        """Pass if a value is right by both descriptions."""
        assert [] == errors_of(value, name), value
        assert [] == self.own.of(value, name), value

    def check_all(self, body: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """The whole answer to a request and the chunks of the streamed one, each of which is right."""
        status, _, whole = self.served.chat(body)
        assert 200 == status, whole
        self.check(whole, WHOLE)
        options = {"include_usage": True}
        *chunks, end = events(self.served.chat({**body, "stream": True, "stream_options": options})[2])
        assert "[DONE]" == end
        for item in chunks:
            self.check(item, CHUNK)
        return whole, chunks


def described(served: Served) -> Described:
    document = served.ask("GET", "/openapi.json")[2]
    return Described(served, document, OwnErrors(document))


@pytest.fixture(scope="module")
def boxed(box: Local, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    """The model in the box, with a store. Equal settings share one engine, so closing this one leaves `box`."""
    assert box
    path = tmp_path_factory.mktemp("kept") / "kept.sqlite"
    with serving(App(Local(), store=StoredCompletions(path))) as served:
        yield described(served)


# --------------------------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------------------------

TURN = {
    "type": "function",
    "function": {
        "name": "turn",
        "parameters": {"type": "object", "properties": {"way": {"enum": ["left", "right"]}}, "required": ["way"]},
    },
}
WAY = {"name": "way", "schema": {"type": "object", "properties": {"way": {"enum": ["left", "right"]}}, "required": ["way"]}}

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("two choices", {"n": 2}),
    ("logprobs", {"logprobs": True, "top_logprobs": 2}),
    ("bare logprobs", {"logprobs": True}),
    ("tools", {"tools": [TURN], "tool_choice": "required", "max_completion_tokens": 40}),
    ("tools and two choices", {"tools": [TURN], "tool_choice": "required", "n": 2, "max_completion_tokens": 40}),
    ("no tool after all", {"tools": [TURN], "tool_choice": "none"}),
    ("a function call", {"functions": [TURN["function"]], "function_call": {"name": "turn"}, "max_completion_tokens": 40}),
    ("json_schema", {"response_format": {"type": "json_schema", "json_schema": WAY}, "max_completion_tokens": 40}),
    ("json_object", {"response_format": {"type": "json_object"}}),
    ("stop", {"stop": ["a", "e", "i"]}),
    ("stored", {"store": True, "metadata": {"kind": "x"}}),
]


@pytest.mark.parametrize("params", [row[1] for row in ASKED], ids=[row[0] for row in ASKED])
def test_model(boxed: Described, params: dict[str, Any]) -> None:
    """Each answer and each chunk of the model in the box is as both descriptions say, and usage comes last, once."""
    body = {"model": "any", **HELLO, "temperature": 0, "max_completion_tokens": 4, **params}
    whole, chunks = boxed.check_all(body)
    assert params.get("n", 1) == len(whole["choices"])
    assert [chunks[-1]] == [item for item in chunks if item.get("usage")]
    assert [] == chunks[-1]["choices"]
    assert 1 == len({item["id"] for item in chunks})
    if "tools" in params and params["tool_choice"] == "required":
        assert {"tool_calls"} == {choice["finish_reason"] for choice in whole["choices"]}


SCRIPTS: list[tuple[str, Any]] = [
    ("text", "the Nile is long"),
    ("nothing", ""),
    ("usage", ChatCompletion("c", [Choice("length", 0, ResponseMessage("hi"))], usage=Usage(1, 2, 3))),
    ("calls", ChatCompletion(
        "c", [Choice("tool_calls", 0, ResponseMessage(tool_calls=[ToolCall(FunctionCall("{}", "f"), "1")]))])),
    ("refusal", ChatCompletion("c", [Choice("stop", 0, ResponseMessage(refusal="no"))])),
    ("two choices", ChatCompletion("c", [Choice("stop", 0, ResponseMessage("a")), Choice("stop", 1, ResponseMessage("b"))])),
]  # fmt: skip


def test_made_here() -> None:
    """Answers and chunks that are made of our own types, and came from no server, are as both descriptions say."""
    for name, script in SCRIPTS:
        with serving(App(AsyncScripted(script))) as served:
            whole, _ = described(served).check_all({"model": "any", **HELLO})
        assert whole["choices"], name


REFUSALS: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", {"messages": []}, 400),
    ("POST", "/v1/chat/completions", {**HELLO, "temperature": "hot"}, 400),
    ("POST", "/v1/chat/completions", HELLO, 500),
    ("POST", "/v1/chat/completions", {**HELLO, "stream": True}, 500),
    ("GET", "/v1/models/other", None, 404),
    ("GET", "/v1/chat/completions/other", None, 404),
    ("GET", "/v1/chat/completions?limit=0", None, 400),
    ("GET", "/nowhere", None, 404),
    ("PUT", "/v1/models", None, 405),
]


def test_errors(tmp_path: Path) -> None:
    """Each error is the protocol's error object, as an answer and as an event."""
    backend = AsyncScripted(ServerError("m", 500))
    with serving(App(backend, store=StoredCompletions(tmp_path / "kept.sqlite"))) as served:
        here = described(served)
        for method, path, body, status in REFUSALS:
            got, _, said = served.ask(method, path, body)
            assert (method, path, status) == (method, path, got)
            here.check(said, ERROR)
        backend.script.answers = [[chunk("the"), ServerError("m", 500)]]
        first, last = events(served.chat({**HELLO, "stream": True})[2])
    here.check(first, CHUNK)
    here.check(last, ERROR)


def test_stored(boxed: Described) -> None:
    """What is said of stored completions is as both descriptions say, page by page; and what is kept is what was answered."""
    served = boxed.served
    body = {"model": "any", **HELLO, "max_completion_tokens": 3, "store": True}
    whole, chunks = boxed.check_all({**body, "metadata": {"kind": "kept"}})
    for path in ("", "?limit=1", "?metadata[kind]=kept", "?metadata[kind]=nothing"):
        status, _, page = served.ask("GET", f"/v1/chat/completions{path}")
        assert 200 == status
        boxed.check(page, "ChatCompletionList")
    for kept in (whole["id"], chunks[0]["id"]):
        place = f"/v1/chat/completions/{kept}"
        boxed.check(served.ask("GET", place)[2], WHOLE)
        boxed.check(served.ask("GET", f"{place}/messages")[2], "ChatCompletionMessageList")
        boxed.check(served.ask("POST", place, {"metadata": {"kind": "other"}})[2], WHOLE)
        boxed.check(served.ask("DELETE", place)[2], "ChatCompletionDeleted")
        boxed.check(served.ask("GET", place)[2], ERROR)


# --------------------------------------------------------------------------------------------------------------------
# The server's own description
# --------------------------------------------------------------------------------------------------------------------

KEY = "k" * 20


def app(path: Path, *, stores: bool, needs_key: bool) -> App:
    store = StoredCompletions(path / "kept.sqlite") if stores else None
    return App(AsyncScripted("hi"), store=store, keys=[KEY] if needs_key else ())


@pytest.mark.parametrize("needs_key", [False, True], ids=["open", "with a key"])
@pytest.mark.parametrize("stores", [False, True], ids=["no store", "a store"])
def test_document(tmp_path: Path, stores: bool, needs_key: bool) -> None:
    """It is a valid OpenAPI 3.1 document, of which each schema is a JSON Schema, whatever the server was made with."""
    with serving(app(tmp_path, stores=stores, needs_key=needs_key)) as served:
        status, headers, document = served.ask("GET", "/openapi.json", headers={"authorization": f"Bearer {KEY}"})
    assert (200, "application/json", "3.1.0") == (status, headers["content-type"], document["openapi"])
    assert [] == [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()]
    for name, schema in document["components"]["schemas"].items():
        assert schema, name
        jsonschema.Draft202012Validator.check_schema(schema)
    assert stores == ("get" in document["paths"]["/v1/chat/completions"])
    assert needs_key == ("security" in document)


def routes() -> set[str]:
    """The paths that the application tells apart, read from its source; "{}" where anything may stand."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(App._route)))
    (match,) = [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    found = set()
    for case in match.cases:
        if isinstance(case.pattern, ast.MatchSequence):
            parts = [part.value.value if isinstance(part, ast.MatchValue) else "{}" for part in case.pattern.patterns]  # type: ignore[attr-defined]
            found.add("/" + "/".join(parts))
    return found


def test_routes(tmp_path: Path) -> None:
    """Each route that is there is described and each one described answers, by the methods that it has and no others."""
    with serving(app(tmp_path, stores=True, needs_key=False)) as served:
        document = described(served).document
        kept = served.chat({**HELLO, "store": True})[2]["id"]
        templates = {path.replace("{completion_id}", "{}").replace("{id}", "{}") for path in document["paths"]}
        assert routes() == templates
        operations = []
        for path, methods in document["paths"].items():
            place = path.replace("{completion_id}", kept).replace("{id}", "scripted")
            allowed = served.ask("PUT", place)[1]["allow"].split(", ")
            assert {method.upper() for method in methods} == set(allowed), path
            operations += [(method, path, place, said) for method, said in methods.items()]
        for method, path, place, said in sorted(operations, key=lambda row: row[0] == "delete"):  # what is deleted is gone
            body = {"/v1/chat/completions": HELLO}.get(path, {"metadata": {}}) if method == "post" else None
            status, headers, _ = served.ask(method.upper(), place, body)
            assert (method, path, 200) == (method, path, status)
            assert headers["content-type"].partition(";")[0] in said["responses"]["200"]["content"], path


def test_what_is_not_there(tmp_path: Path) -> None:
    """What is not described does not answer: a server without a store has no stored completions."""
    with serving(app(tmp_path, stores=False, needs_key=False)) as served:
        paths = described(served).document["paths"]
        assert ["post"] == list(paths["/v1/chat/completions"])
        assert not any("completion_id" in path for path in paths)
        assert 404 == served.ask("GET", "/v1/chat/completions")[0]
        assert 404 == served.ask("GET", "/v1/chat/completions/x/messages")[0]


def test_keys(tmp_path: Path) -> None:
    """What is described as open answers without a key; the rest does not."""
    with serving(app(tmp_path, stores=True, needs_key=True)) as served:
        document = served.ask("GET", "/openapi.json", headers={"authorization": f"Bearer {KEY}"})[2]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                status = served.ask(method.upper(), path, HELLO if method == "post" else None)[0]
                assert (operation.get("security") == []) == (status == 200), (method, path)
                assert (operation.get("security") is None) == (status == 401), (method, path)


# --------------------------------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------------------------------

SAMPLES: dict[str, Any] = {
    "model": "any",
    "stream": False,
    "service_tier": "auto",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "content": "u", "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "turn", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "t"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
    ],
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "none",
    "functions": [{"name": "f", "description": "d", "parameters": {"type": "object"}}],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "max_completion_tokens": 1,
    "max_tokens": 1,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "moderation": {"model": "m"},
    "n": 1,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "hi"},
    "presence_penalty": -0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": WAY},
    "safety_identifier": "s",
    "seed": 3,
    "stop": ["x"],
    "store": False,
    "stream_options": {"include_usage": True},
    "temperature": 0,
    "tool_choice": {"type": "function", "function": {"name": "turn"}},
    "tools": [TURN],
    "top_logprobs": 1,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "medium",
    "web_search_options": {"search_context_size": "low"},
}  # fmt: skip
"""A right value of each parameter of the protocol."""

TOGETHER: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TURN]},
    "parallel_tool_calls": {"tools": [TURN]},
    "function_call": {"functions": SAMPLES["functions"]},
}
"""What a parameter needs beside it."""

ANYTHING: list[Any] = [None, True, 3, -1.5, "x", [], ["x"], [3], [{}], {}, {"x": "y"}, {"type": "x"}, {"role": "x"}, [{"role": "x"}],
                       [{"type": "x"}], {"x": 3}, {"role": "user"}, [{"role": "user"}], [{"role": "user", "content": []}],
                       [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
                       [{"role": "user", "content": [{"type": "text"}]}], [{"role": "assistant"}], [{"role": "tool"}]]  # fmt: skip
"""Values that are right for some parameters and wrong for most."""

NOT_IN_SCHEMAS = "stream_options: only with stream"
"""How the refusal begins that a schema of one value cannot say."""


def test_requests_of_any_form() -> None:
    """Whatever a parameter is given, the server takes it exactly where its own schema does."""
    name = "CreateChatCompletionRequest"
    taken = 0
    with serving(App(AsyncScripted("hi"))) as served, contextlib.closing(served.connect()) as connection:
        own = described(served).own
        for param, sample in SAMPLES.items():
            for value in (sample, *ANYTHING):
                body = {**HELLO, **TOGETHER.get(param, {}), param: value}
                connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
                response = connection.getresponse()
                said = response.read()
                wrong = own.of(body, name)
                if response.status == 200:
                    taken += 1
                    assert [] == wrong, body
                else:
                    assert 400 == response.status
                    message = json.loads(said)["error"]["message"]
                    assert wrong or message.startswith(NOT_IN_SCHEMAS), (body, message)
                if value is sample:
                    assert 200 == response.status, (param, said)
    assert len(SAMPLES) < taken < len(SAMPLES) * len(ANYTHING)


def test_every_parameter() -> None:
    """Each parameter of the published description is described, and has a row here."""
    with serving(App(AsyncScripted("hi"))) as served:
        document = described(served).document
    assert set(SAMPLES) == set(document["components"]["schemas"]["CreateChatCompletionRequest"]["properties"])


def test_what_the_model_refuses(boxed: Described) -> None:
    """Parameters that the model in the box refuses are not described; those that are described it takes."""
    properties = boxed.document["components"]["schemas"]["CreateChatCompletionRequest"]["properties"]
    for param, value in SAMPLES.items():
        body = {**HELLO, "max_completion_tokens": 1, **TOGETHER.get(param, {}), param: value}
        status, _, said = boxed.served.chat(body)
        assert (param, 200 if param in properties else 400) == (param, status), said
    assert {"audio", "moderation", "web_search_options"} == set(SAMPLES) - set(properties)
