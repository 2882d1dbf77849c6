"""Runs of tools against real models: the one in the box, the engine's own HTTP server, and a script; both clients, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from gpt import (
    AssistantMessage,
    AsyncGpt,
    ChatCompletion,
    Choice,
    FunctionCall,
    Gpt,
    Local,
    Message,
    ResponseMessage,
    ToolCall,
    ToolMessage,
    ToolRun,
    UserMessage,
)
from gpt.backend import in_threads
from gpt.testing import Scripted

from templates import TEMPLATES


class Place(NamedTuple):
    """Where the answers come from, as the settings of a client."""

    settings: dict[str, Any]
    answers: bool
    """Whether it is a real model, which says what it likes."""


@pytest.fixture(scope="module")
def dressed() -> Iterator[Local]:
    """The model in the box behind a template that knows tools."""
    with Local(chat_template=TEMPLATES["tags"], context=2048, slots=2) as backend:
        yield backend


@pytest.fixture(params=["box", "dressed", "server", "script"])
def place(request: pytest.FixtureRequest, box: Local, dressed: Local) -> Place:
    """Each of the places in turn."""
    if request.param == "script":
        call = ToolCall(FunctionCall('{"city": "Cairo"}', "weather"), "c1")
        calling = ChatCompletion(choices=[Choice("tool_calls", 0, ResponseMessage(None, tool_calls=[call]))])
        return Place({"backend": Scripted(calling, "In Cairo there is wind.")}, False)
    if request.param == "server":
        engine = dressed.load()
        return Place({"server_url": f"{engine.address}/v1", "api_key": engine._key}, True)
    return Place({"backend": box if request.param == "box" else dressed}, True)


def whole(settings: dict[str, Any], messages: list[Message], **params: Any) -> ToolRun:
    return Gpt(**settings).chat.run_tools(messages, **params)


def streamed(settings: dict[str, Any], messages: list[Message], **params: Any) -> ToolRun:
    with Gpt(**settings).chat.stream_tools(messages, **params) as stream:
        return stream.until_done()


def _asynchronous(settings: dict[str, Any]) -> AsyncGpt:
    return AsyncGpt(**{**settings, "backend": in_threads(settings["backend"])} if "backend" in settings else settings)


def awaited(settings: dict[str, Any], messages: list[Message], **params: Any) -> ToolRun:
    return asyncio.run(_asynchronous(settings).chat.run_tools(messages, **params))


def awaited_stream(settings: dict[str, Any], messages: list[Message], **params: Any) -> ToolRun:
    async def run() -> ToolRun:
        async with _asynchronous(settings).chat.stream_tools(messages, **params) as stream:
            return await stream.until_done()

    return asyncio.run(run())


RUNNERS = [whole, streamed, awaited, awaited_stream]
Runner = Callable[..., ToolRun]


def shots() -> list[Message]:
    """A conversation in which the weather was asked for, and the tool called."""
    made: list[Message] = []
    for place, (city, weather) in enumerate([("Oslo", "snow"), ("Rome", "sun"), ("Lima", "fog"), ("Bern", "rain")]):
        call = ToolCall(FunctionCall(json.dumps({"city": city}), "weather"), f"call_{place}")
        made += [
            UserMessage(f"What is the weather in {city}?"),
            AssistantMessage(None, tool_calls=[call]),
            ToolMessage(weather, f"call_{place}"),
            AssistantMessage(f"In {city} there is {weather}."),
        ]
    return [*made, UserMessage("What is the weather in Cairo?")]


def weather(city: str) -> str:
    """The weather in a city."""
    return "wind"


async def weather_later(city: str) -> str:
    """The weather in a city."""
    await asyncio.sleep(0)
    return "wind"


@pytest.mark.parametrize("run", RUNNERS)
def test_a_loop(place: Place, run: Runner) -> None:
    """The model calls, is told the result, and answers; what comes back can be sent again, and goes on."""
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 50}
    done = run(place.settings, shots(), tools=[weather], max_turns=4, **params)
    results = [message for message in done.messages if isinstance(message, ToolMessage)][4:]
    assert ["wind"] * len(results) == [message.content for message in results]
    assert results
    assert len(done.completions) > 1
    if done.ended == "answered":
        assert done.text
    again = run(
        place.settings, [*done.messages, UserMessage("What is the weather in Kiev?")], tools=[weather], max_turns=2, **params
    )
    assert len(again.messages) > len(done.messages) + 1


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("raises", {}, "Error: RuntimeError: no wind today"),
    ("garbage", {}, "Error: TypeError"),
    ("hangs", {"tool_timeout": 0.01}, "Error: TimeoutError: no result within 0.01 s"),
    ("denied", {"approve": lambda call, context: "not on a Sunday"}, "Not done: not on a Sunday"),
    ("budget", {"max_total_tokens": 1}, "Not done: the limit of tokens had been reached."),
]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize(("name", "settings", "told"), BAD, ids=[row[0] for row in BAD])
def test_bad_tools(box: Local, run: Runner, name: str, settings: dict[str, Any], told: str) -> None:
    """A tool that raises, gives garbage, hangs or is not approved, and a budget that is reached: the model in the box is told."""
    done = threading.Event()

    def tool(city: str) -> Any:
        """The weather in a city."""
        if name == "raises":
            raise RuntimeError("no wind today")
        if name == "hangs":
            done.wait()
        return object() if name == "garbage" else "wind"

    tool.__name__ = "weather"
    try:
        run = run({"backend": box}, shots(), tools=[tool], max_turns=1, temperature=0, max_tokens=50, **settings)
    finally:
        done.set()
    last = run.messages[-1]
    assert isinstance(last, ToolMessage)
    assert told in str(last.content)
    assert ("budget" if name == "budget" else "max_turns") == run.ended


def test_a_forced_first_call(box: Local) -> None:
    """A call that is forced on the model in the box is done, and the model then answers as it likes."""
    done = Gpt(backend=box).chat.run_tools(
        "What is the weather in Cairo?",
        tools=[weather_later],
        tool_choice="required",
        max_turns=2,
        temperature=0,
        max_tokens=40,
    )
    assert "wind" in [message.content for message in done.messages if isinstance(message, ToolMessage)]
    assert len(done.completions) == 2
