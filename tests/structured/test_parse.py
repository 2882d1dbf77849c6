"""Values asked of a model, on both clients: what is sent, what is made of the answer, the ladder, the asking again, streams."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from gpt import (
    AsyncGpt,
    BadRequestError,
    ChatCompletion,
    ContentFilterFinishError,
    ContextLengthError,
    Gpt,
    GptError,
    InvalidRequestError,
    LengthFinishError,
    Local,
    ParseError,
    Profile,
    RefusalError,
    ServerError,
    UnsupportedParameterError,
)
from gpt.structured.parse import Asking, bare_json
from gpt.structured.stream import _Value
from gpt.testing import AsyncScripted, Scripted
from gpt.testing.scripted import chunk
from gpt.types import ChatRequest, Choice, CustomCall, CustomToolCall, FunctionCall, ResponseMessage, ToolCall, Usage

from places import EngineServer


@dataclasses.dataclass
class City:
    name: str
    people: int = 0


OSLO = '{"name": "Oslo", "people": 700000}'
THINK = "<think>is it {Oslo}?</think>"
FENCE = "```json\n" + OSLO + "\n```"


class Blocking:
    """`Gpt` over a script, through one set of names."""

    def __init__(self, *answers: Any, profile: Profile | None = None) -> None:
        self.script = Scripted(*answers)
        if profile is not None:
            self.script.profile = profile  # type: ignore[attr-defined]
        self.client: Any = Gpt(backend=self.script)

    def parse(self, **settings: Any) -> Any:
        return self.client.chat.parse("Where?", **settings)

    def stream(self, **settings: Any) -> tuple[list[Any], Any]:
        stream = self.client.chat.stream("Where?", **settings)
        return [self._seen(stream, event) for event in stream], stream

    @staticmethod
    def _seen(stream: Any, event: Any) -> Any:
        return json.loads(json.dumps(event.snapshot)) if event.type == "value" else event.type


class OnAsyncio(Blocking):
    """`AsyncGpt` over a script."""

    def __init__(self, *answers: Any, profile: Profile | None = None) -> None:
        backend = AsyncScripted(*answers)
        self.script = backend.script
        if profile is not None:
            backend.profile = profile  # type: ignore[attr-defined]
        self.client = AsyncGpt(backend=backend)

    def parse(self, **settings: Any) -> Any:
        return asyncio.run(self.client.chat.parse("Where?", **settings))

    def stream(self, **settings: Any) -> tuple[list[Any], Any]:
        stream = self.client.chat.stream("Where?", **settings)

        async def read() -> list[Any]:
            return [self._seen(stream, event) async for event in stream]

        return asyncio.run(read()), stream


@pytest.fixture(params=[Blocking, OnAsyncio])
def asking(request: pytest.FixtureRequest) -> Any:
    return request.param


def ended(text: str | None, reason: str, refusal: str | None = None, tokens: int | None = None) -> ChatCompletion:
    usage = None if tokens is None else Usage(tokens, 1, tokens + 1)
    return ChatCompletion(id="c", choices=[Choice(reason, 0, ResponseMessage(text, refusal=refusal))], usage=usage)


@pytest.mark.parametrize("text", [OSLO, f"\n{OSLO} ", FENCE, f"{THINK}\n{OSLO}", f"{THINK}{FENCE}", f"```\n{OSLO}```"])
def test_value(asking: Any, text: str) -> None:
    """The value is there, whether bare, in a fence or after thinking; beside it the completion, the attempts and the rung."""
    ask = asking(text)
    made = ask.parse(into=City, model="m")
    assert City("Oslo", 700_000) == made.value
    assert (text, 1, "json_schema", None) == (made.completion.text, len(made.attempts), made.rung, made.usage)
    (asked,) = ask.script.asked
    form = asked.response_format
    assert ("json_schema", "City", True) == (form.type, form.json_schema.name, form.json_schema.strict)
    assert ["name", "people"] == form.json_schema.schema["required"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{}", "{}"), ("```json\n{}\n```", "{}"), ("a ```{}``` b", "a ```{}``` b"), ("<think>x {}", "<think>x {}")],
)
def test_bare(text: str, expected: str) -> None:
    """Only a whole fence, and whole thinking at the start, are taken off."""
    assert expected == bare_json(text)


ENDINGS: list[tuple[ChatCompletion, type[ParseError], str, Any]] = [
    (ended('{"name": "Os', "length"), LengthFinishError, "limit of tokens", {"name": "Os"}),
    (ended('{"name": "Os', "content_filter"), ContentFilterFinishError, "a filter", {"name": "Os"}),
    (ended(None, "stop", "I must not"), RefusalError, "refused: I must not", None),
    (ended("Oslo!", "stop"), ParseError, "is no City", None),
    (ended('{"name": 5, "people": 1}', "stop"), ParseError, "name", {"name": 5, "people": 1}),
]


@pytest.mark.parametrize(("answer", "kind", "text", "partial"), ENDINGS)
def test_no_value(asking: Any, answer: ChatCompletion, kind: type[ParseError], text: str, partial: Any) -> None:
    """An answer that is no value is an error by how it ended, which loses nothing of what came."""
    with pytest.raises(ParseError, match=text) as caught:
        asking(answer).parse(into=City)
    assert kind is type(caught.value)
    assert (answer, answer.text, partial) == (caught.value.completion, caught.value.text, caught.value.partial_value)
    assert caught.value.__cause__ is not None
    with pytest.raises(kind):
        asking(answer).stream(into=City)


def test_a_whole_value_counts(asking: Any) -> None:
    """A value that is whole is one, whatever the finish reason says."""
    assert "Oslo" == asking(ended(OSLO, "length")).parse(into=City).value.name


def test_asking_again(asking: Any) -> None:
    """The model is told what was wrong and asked again, as often as was said; the tokens are added up."""
    ask = asking(ended("Oslo!", "stop", tokens=3), ended('{"name": 5}', "stop", tokens=4), ended(OSLO, "stop", tokens=5))
    made = ask.parse(into=City, reasks=2)
    assert ("Oslo", 3, 12) == (made.value.name, len(made.attempts), made.usage.completion_tokens)
    last = ask.script.asked[-1].messages
    assert ["user", "assistant", "user", "assistant", "user"] == [message.role for message in last]
    assert "could not be used" in last[-1].content
    with pytest.raises(ParseError) as caught:
        asking(*(ended("x", "stop", tokens=1) for _ in range(3))).parse(into=City, reasks=1)
    assert (2, 2) == (len(caught.value.completions), caught.value.usage.completion_tokens)


def test_no_asking_again(asking: Any) -> None:
    """Not after a refusal, a filter or a limit, nor unless it was asked for."""
    for answer in (row[0] for row in ENDINGS[:3]):
        ask = asking(answer)
        with pytest.raises(ParseError):
            ask.parse(into=City, reasks=5)
        assert 1 == len(ask.script.asked)
    ask = asking("x")
    with pytest.raises(ParseError):
        ask.parse(into=City)
    assert 1 == len(ask.script.asked)


NO_SCHEMA = UnsupportedParameterError("json_schema is not supported", 400, param="response_format")
NO_TOOLS = BadRequestError("this model has no tools", 400)
NO_OBJECT = BadRequestError("response_format: unknown type", 400)
TOOL = ChatCompletion(
    choices=[Choice("tool_calls", 0, ResponseMessage(None, tool_calls=[ToolCall(FunctionCall(OSLO, "City"), "1")]))]
)


@pytest.mark.parametrize(
    ("answers", "rung"),
    [
        ((OSLO,), "json_schema"),
        ((NO_SCHEMA, TOOL), "tool"),
        ((NO_SCHEMA, NO_TOOLS, OSLO), "json_object"),
        ((NO_SCHEMA, NO_TOOLS, NO_OBJECT, FENCE), "prompt"),
    ],
)
def test_ladder(asking: Any, answers: tuple[Any, ...], rung: str) -> None:
    """Where a server refuses one way to ask for a form the next is tried; which it was is told. Streams climb down too."""
    ask = asking(*answers)
    made = ask.parse(into=City)
    assert (City("Oslo", 700_000), rung, len(answers)) == (made.value, made.rung, len(ask.script.asked))
    last = ask.script.asked[-1]
    assert (
        ("City" == last.tool_choice["function"]["name"]) if rung == "tool" else isinstance(last.tool_choice, msgspec.UnsetType)
    )
    assert (rung in ("json_object", "prompt")) == ("JSON Schema" in str(last.messages[0].content))
    _, stream = asking(*answers).stream(into=City)
    assert (City("Oslo", 700_000), rung) == (stream.parsed.value, stream.parsed.rung)


def test_no_call(asking: Any) -> None:
    """A model that answers a forced tool with text has answered; one that answers with nothing has not."""
    custom = ToolCall(FunctionCall(OSLO, "City"), "1")
    profile = Profile(rungs=("tool",))
    assert "Oslo" == asking(OSLO, profile=profile).parse(into=City).value.name
    both = ResponseMessage(None, tool_calls=[CustomToolCall(CustomCall("x", "c"), "0"), custom])
    answer = ChatCompletion(choices=[Choice("tool_calls", 0, both)])
    assert "Oslo" == asking(answer, profile=profile).parse(into=City).value.name
    with pytest.raises(ParseError):
        asking(ChatCompletion(id="c"), profile=profile).parse(into=City)


@pytest.mark.parametrize("error", [ServerError("schema", 500), ContextLengthError("schema", 400), BadRequestError("no", 400)])
def test_no_ladder(asking: Any, error: GptError) -> None:
    """What has nothing to do with the form is raised; so is the last refusal."""
    with pytest.raises(type(error)):
        asking(error).parse(into=City)
    with pytest.raises(type(error)):
        asking(error).stream(into=City)
    ask = asking(NO_SCHEMA, profile=Profile(rungs=("json_schema",)))
    with pytest.raises(UnsupportedParameterError):
        ask.parse(into=City)
    assert 1 == len(ask.script.asked)


def test_profile(asking: Any) -> None:
    """A profile says on which rung to begin and in what dialect; a caller's own tools are never replaced by a forced one."""
    ask = asking(OSLO, profile=Profile(rungs=("tool", "prompt"), dialect="plain"))
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert "prompt" == ask.parse(into=City, tools=tools).rung
    assert tools == ask.script.asked[0].tools
    with pytest.raises(InvalidRequestError, match="no way to ask"):
        asking(OSLO, profile=Profile(rungs=("tool",))).parse(into=City, tools=tools)
    ask = asking(OSLO, profile=Profile(dialect="plain"))
    ask.parse(into=City)
    assert isinstance(ask.script.asked[0].response_format.json_schema.strict, msgspec.UnsetType)


def test_two_forms(asking: Any) -> None:
    """A form beside `into` is refused, and so is a type that has none."""
    with pytest.raises(InvalidRequestError, match="response_format: into"):
        asking(OSLO).parse(into=City, response_format={"type": "json_object"})
    with pytest.raises(InvalidRequestError, match="has no JSON Schema"):
        asking(OSLO).stream(into=Callable)
    for wrong in (-1, True, "2"):
        with pytest.raises(InvalidRequestError, match="reasks: expected an int"):
            asking(OSLO).parse(into=City, reasks=wrong)
    with pytest.raises(InvalidRequestError, match="partial: expected"):
        asking(OSLO).stream(into=City, partial="all")
    with pytest.raises(InvalidRequestError, match="partial: says how"):
        asking(OSLO).stream(partial="growing")


def pieces(text: str, size: int) -> list[Any]:
    return [*(chunk(text[place : place + size]) for place in range(0, len(text), size)), chunk(None, "stop")]


@pytest.mark.parametrize(
    "before",
    ["", " ", THINK, "```json\n", f"{THINK}```\n", "<thinking>{x}</thinking>", "<reasoning>{x}</reasoning>"],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_partial(asking: Any, before: str, size: int) -> None:
    """Values come as they can be trusted: each part when it is whole."""
    events, stream = asking(pieces(before + '{"name": "Oslo", "people": 7}' + ("```" if "`" in before else ""), size)).stream(
        into=City
    )
    values = [event for event in events if isinstance(event, dict)]
    assert {"name": "Oslo", "people": 7} == values[-1]
    assert all(value in ({}, {"name": "Oslo"}, {"name": "Oslo", "people": 7}) for value in values)
    assert "done" == events[-1]
    assert (City("Oslo", 7), 1) == (stream.parsed.value, len(stream.parsed.attempts))
    assert {"name": "Oslo", "people": 7} == stream.partial


def test_long_thinking() -> None:
    """However long the thinking is, no more of it is held than a tag."""
    made = Asking(ChatRequest(messages=[]), City, Profile())
    value = _Value(made, "trusted")
    for piece in ("<think>", *("so {that} " for _ in range(1000)), "</thi", "nk>", OSLO):
        value.feed(piece)
        assert len(value._before) <= len("</think>")
    assert {"name": "Oslo", "people": 700_000} == value.read()


def test_growing(asking: Any) -> None:
    """Or texts as they grow, by choice."""
    events, _ = asking(pieces('{"name": "Oslo", "people": 7}', 1)).stream(into=City, partial="growing")
    names = [event["name"] for event in events if isinstance(event, dict) and "name" in event]
    assert ["O", "Os", "Osl", "Oslo"] == sorted(set(names), key=len)


def test_partial_of_rewritten(asking: Any) -> None:
    """What the dialect rewrites is turned back in parts too."""
    events, stream = asking(pieces('{"value": [{"key": "a", "value": 1}, {"key": "b", "value": 2}]}', 1)).stream(
        into=dict[str, int]
    )
    values = [event for event in events if isinstance(event, dict)]
    assert {"a": 1} in values
    assert {"a": 1, "b": 2} == values[-1] == stream.parsed.value


def test_before_the_end(asking: Any) -> None:
    """Before the end there is no value, but what has come of it."""
    ask = asking(OSLO)
    stream = ask.client.chat.stream("Where?", into=City)
    assert stream.partial is None
    with pytest.raises(InvalidRequestError, match="no value yet"):
        _ = stream.parsed


# --------------------------------------------------------------------------------------------------------------------
# With a real model
# --------------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    GREEN = "green"
    RED = "red"


class Town(pydantic.BaseModel):
    size: int
    capital: bool


@attrs.define
class Rung:
    height: float
    loose: bool


class Leaf(msgspec.Struct):
    colour: Literal["green", "red"]
    age: int = 3


class Point(NamedTuple):
    x: int
    y: int


class Room(TypedDict):
    number: int
    free: bool


@dataclasses.dataclass
class Cat:
    lives: int


@dataclasses.dataclass
class Dog:
    kind: Literal["big", "small"]


REAL: list[Any] = [
    Town, Rung, Leaf, Colour, Point, Room, Cat, Cat | Dog, Literal["yes", "no"], int, bool, float,
    Annotated[str, msgspec.Meta(max_length=12)],
    Annotated[list[int], msgspec.Meta(min_length=2, max_length=3)],
    Annotated[dict[str, int], msgspec.Meta(max_length=2)],
    tuple[int, bool],
    Annotated[set[Literal["a", "b"]], msgspec.Meta(max_length=2)],
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"], "additionalProperties": False},
]  # fmt: skip


@pytest.mark.parametrize("into", REAL, ids=str)
def test_the_model_in_the_box(box: Local, engine_server: EngineServer, into: Any) -> None:
    """The model in the box fills each kind of type, streamed and not; so does the engine's own server, over HTTP."""
    server = Gpt(server_url=engine_server.url, api_key=engine_server.key, profile=Local.profile)
    for client in (Gpt(backend=box), server):
        settings: Any = {"into": into, "max_tokens": 200, "temperature": 0}
        made = client.chat.parse("Give an example.", **settings)
        with client.chat.stream("Give an example.", **settings) as stream:
            values = [event for event in stream if event.type == "value"]
        assert values
        assert "json_schema" == made.rung == stream.parsed.rung
        assert type(made.value) is type(stream.parsed.value)
        if isinstance(into, type) and not hasattr(into, "__required_keys__"):
            assert isinstance(made.value, into)
        if isinstance(into, dict):
            assert made.value["a"] >= 3


def test_parity() -> None:
    """Both clients take the same."""
    for name in ("parse", "stream"):
        ours, theirs = (
            inspect.signature(getattr(type(client.chat), name)) for client in (Blocking("a").client, OnAsyncio("a").client)
        )
        assert list(ours.parameters) == list(theirs.parameters)
