"""langchain-openai as a user of our server: a client that many programs reach chat completions through."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from gpt import Local
from gpt.errors import RateLimitError
from gpt.protocol import codec
from gpt.server.app import App
from gpt.testing import AsyncScripted, Scripted
from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionCallDelta,
    ResponseMessage,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from serving import Served, serving

langchain = pytest.importorskip("langchain_openai")

KEY = "k" * 20


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to the tracing service of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("LANGSMITH_", "LANGCHAIN_")):
            monkeypatch.delenv(name)


class Chain:
    """Both ways to ask, over one server whose backend says what it is told to."""

    def __init__(self, served: Served, backend: AsyncScripted, *, awaited: bool) -> None:
        self._served = served
        self._backend = backend
        self._awaited = awaited

    def says(self, *answers: Any) -> Scripted:
        """Give these answers from now on; the script remembers what it is asked."""
        self._backend.script = Scripted(*answers)
        return self._backend.script

    def _run(self, use: Callable[[Any], Any], settings: dict[str, Any]) -> Any:
        # Connections of our own, because those that it keeps for the process belong to the event loop that made them.
        given = {"model": "scripted", "base_url": self._served.url, "api_key": KEY, "max_retries": 0, **settings}
        if not self._awaited:
            with openai.DefaultHttpxClient() as http:
                return use(langchain.ChatOpenAI(**given, http_client=http))

        async def run() -> Any:
            async with openai.DefaultAsyncHttpxClient() as http:
                return await use(langchain.ChatOpenAI(**given, http_async_client=http))

        return asyncio.run(run())

    def ask(self, prompt: Any, bound: Callable[[Any], Any] = lambda model: model, **settings: Any) -> Any:
        """What `invoke` gives; `bound` makes of the model what is asked."""
        name = "ainvoke" if self._awaited else "invoke"
        return self._run(lambda model: getattr(bound(model), name)(prompt), settings)

    def pieces(self, prompt: Any, bound: Callable[[Any], Any] = lambda model: model, **settings: Any) -> list[Any]:
        """What `stream` gives."""
        if not self._awaited:
            return self._run(lambda model: list(bound(model).stream(prompt)), settings)

        async def read(model: Any) -> list[Any]:
            return [piece async for piece in bound(model).astream(prompt)]

        return self._run(read, settings)


@pytest.fixture(scope="module")
def talking() -> Iterator[tuple[Served, AsyncScripted]]:
    """One server for all tests here."""
    backend = AsyncScripted("hi")
    with serving(App(backend, keys=[KEY])) as served:
        yield served, backend


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def chain(request: pytest.FixtureRequest, talking: tuple[Served, AsyncScripted]) -> Chain:
    return Chain(*talking, awaited=request.param)


def test_invoke(chain: Chain) -> None:
    """An answer has its text, its tokens and who gave it; the conversation goes out as messages of the protocol."""
    script = chain.says(
        ChatCompletion("c", [Choice("stop", 0, ResponseMessage("the Nile"))], model="scripted", usage=Usage(2, 3, 5))
    )
    got = chain.ask([("system", "Be brief."), ("human", "Name a river.")], temperature=0.5, seed=3)
    assert "the Nile" == got.content
    assert {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}.items() <= dict(got.usage_metadata).items()
    assert ("scripted", "stop") == (got.response_metadata["model_name"], got.response_metadata["finish_reason"])
    asked = json.loads(codec.encode_request(script.asked[0]))
    assert [("system", "Be brief."), ("user", "Name a river.")] == [(m["role"], m["content"]) for m in asked["messages"]]
    assert (0.5, 3) == (asked["temperature"], asked["seed"])


def chunk(delta: Delta | None = None, finish: str | None = None, usage: Usage | None = None) -> ChatCompletionChunk:
    choices = [] if delta is None else [ChunkChoice(delta, finish)]
    return ChatCompletionChunk(id="c", model="scripted", choices=choices, usage=usage)


FIRST = chunk(Delta(role="assistant", content=""))


def test_stream(chain: Chain) -> None:
    """A stream comes in pieces, the tokens last; added up they are the answer."""
    script = chain.says(
        [FIRST, chunk(Delta(content="the ")), chunk(Delta(content="Nile")), chunk(Delta(), "stop"), chunk(usage=Usage(2, 3, 5))]
    )
    pieces = chain.pieces("Name a river.", stream_usage=True)
    assert ["the ", "Nile"] == [piece.content for piece in pieces if piece.content]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert ("the Nile", 5) == (whole.content, whole.usage_metadata["total_tokens"])
    assert "stop" == whole.response_metadata["finish_reason"]
    assert {"include_usage": True} == json.loads(codec.encode_request(script.asked[0]))["stream_options"]


class Turn(pydantic.BaseModel):
    """Turn to a side."""

    way: Literal["left", "right"]


def test_tools(chain: Chain) -> None:
    """A bound tool is asked for, and the call that comes is read, whole and in pieces; its result goes back as a message."""
    call = ToolCall(FunctionCall('{"way": "left"}', "Turn"), "call_1")
    expected = {"name": "Turn", "args": {"way": "left"}, "id": "call_1", "type": "tool_call"}
    script = chain.says(ChatCompletion("c", [Choice("tool_calls", 0, ResponseMessage(tool_calls=[call]))], model="scripted"))
    got = chain.ask("Which way?", lambda model: model.bind_tools([Turn], tool_choice="any"))
    assert [expected] == got.tool_calls
    asked = json.loads(codec.encode_request(script.asked[0]))
    assert ("required", "Turn") == (asked["tool_choice"], asked["tools"][0]["function"]["name"])

    chain.says(
        [
            FIRST,
            chunk(Delta(tool_calls=[ToolCallDelta(0, "call_1", "function", FunctionCallDelta("", "Turn"))])),
            chunk(Delta(tool_calls=[ToolCallDelta(0, function=FunctionCallDelta('{"way": '))])),
            chunk(Delta(tool_calls=[ToolCallDelta(0, function=FunctionCallDelta('"left"}'))])),
            chunk(Delta(), "tool_calls"),
        ]
    )
    first, *rest = chain.pieces("Which way?", lambda model: model.bind_tools([Turn]))
    for piece in rest:
        first += piece
    assert [expected] == first.tool_calls

    script = chain.says("done")
    chain.ask([("human", "Which way?"), got, {"role": "tool", "tool_call_id": "call_1", "content": "turned"}])
    sent = json.loads(codec.encode_request(script.asked[0]))["messages"]
    assert ["user", "assistant", "tool"] == [message["role"] for message in sent]
    assert "call_1" == sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured(chain: Chain, method: str) -> None:
    """A pydantic model comes back, by each of the three ways to ask for one."""
    call = ToolCall(FunctionCall('{"way": "left"}', "Turn"), "call_1")
    said = ResponseMessage(tool_calls=[call]) if method == "function_calling" else ResponseMessage('{"way": "left"}')
    script = chain.says(ChatCompletion("c", [Choice("stop", 0, said)], model="scripted"))
    got = chain.ask("Which way? Answer in JSON.", lambda model: model.with_structured_output(Turn, method=method))
    assert Turn(way="left") == got
    asked = json.loads(codec.encode_request(script.asked[0]))
    wanted = {"json_schema": "json_schema", "json_mode": "json_object", "function_calling": None}[method]
    assert wanted == asked.get("response_format", {}).get("type")
    assert (method == "function_calling") == ("tools" in asked)


def test_error(chain: Chain) -> None:
    """What is refused is raised as the official client's error."""
    chain.says(RateLimitError("m", 429, retry_after=7))
    with pytest.raises(openai.RateLimitError) as caught:
        chain.ask("Name a river.")
    assert ("rate_limit_exceeded", "7") == (caught.value.code, caught.value.response.headers["retry-after"])


def test_model_in_the_box(box: Local) -> None:
    """The model in the box answers, keeps to a pydantic model, calls a bound tool and counts its tokens."""
    assert box
    # Equal settings share one engine; the application closes the backend that it was given, and `box` is for other tests too.
    with serving(App(Local())) as served:
        for awaited in (False, True):
            chain = Chain(served, AsyncScripted("unused"), awaited=awaited)
            settings: dict[str, Any] = {"temperature": 0, "max_completion_tokens": 60}
            whole = chain.ask("Name a river.", **{**settings, "max_completion_tokens": 6})
            pieces = chain.pieces("Name a river.", **{**settings, "max_completion_tokens": 6}, stream_usage=True)
            assert whole.content == "".join(piece.content for piece in pieces)
            assert 6 == whole.usage_metadata["output_tokens"]
            assert [6] == [piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata]
            made = chain.ask("Which way?", lambda model: model.with_structured_output(Turn, method="json_schema"), **settings)
            assert made.way in ("left", "right")
            called = chain.ask("Which way?", lambda model: model.bind_tools([Turn], tool_choice="any"), **settings)
            assert ["Turn"] == [call["name"] for call in called.tool_calls]
            assert called.tool_calls[0]["args"]["way"] in ("left", "right")
