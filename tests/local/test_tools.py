"""Calls of tools by the model in the box, really made: forced and free, on templates of every kind, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from gpt import (
    AssistantMessage,
    AsyncGpt,
    ChatCompletion,
    CustomToolCall,
    FunctionCall,
    FunctionMessage,
    Gpt,
    InvalidRequestError,
    Local,
    Message,
    SystemMessage,
    ToolCall,
    ToolCallEvent,
    ToolMessage,
    UnsupportedParameterError,
    UserMessage,
)
from gpt.backend import in_threads
from gpt.local.sampling import engine_request
from gpt.types import ChatRequest

from forms import form, tool
from templates import TEMPLATES

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "time",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC"]}}, "required": ["zone"]},
    },
}
NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.fixture
def client(box: Local) -> Gpt:
    return Gpt(backend=box)


@pytest.fixture(scope="module", params=TEMPLATES)
def dressed(request: pytest.FixtureRequest) -> Iterator[Local]:
    """The model in the box behind a template of each kind."""
    with Local(chat_template=TEMPLATES[request.param], context=2048, slots=2) as backend:
        yield backend


def check_call(completion: ChatCompletion, schema: dict[str, Any], name: str = "fill") -> None:
    """One whole call, whose arguments keep to the schema."""
    assert "tool_calls" == completion.choices[0].finish_reason
    check_arguments(completion, schema, name)


def check_arguments(completion: ChatCompletion, schema: dict[str, Any], name: str = "fill") -> None:
    """One call, whose arguments keep to the schema."""
    calls = completion.message.tool_calls or []
    assert [name] == [call.function.name for call in calls]
    jsonschema.Draft202012Validator(schema).validate(json.loads(calls[0].function.arguments))
    assert not completion.message.content
    assert calls[0].id


def streamed(client: Gpt, messages: Any, **params: Any) -> ChatCompletion:
    """The completion of a stream whose deltas are well formed: the first of a call has its id, type and name."""
    with client.chat.completions.create(messages=messages, stream=True, **params) as chunks:
        seen: set[int] = set()
        reasons = []
        for chunk in chunks:
            for choice in chunk.choices:
                reasons += [choice.finish_reason] if choice.finish_reason else []
                for piece in choice.delta.tool_calls or ():
                    assert piece.index is not None
                    body = piece.custom or piece.function
                    assert body is not None
                    first = piece.index not in seen
                    assert first == bool(piece.id) == bool(piece.type) == bool(body.name)
                    assert not first or piece.index == len(seen)
                    seen.add(piece.index)
        assert 1 == len(reasons)
    with client.chat.stream(messages, **params) as stream:
        events = [event for event in stream if isinstance(event, ToolCallEvent)]
    for place, call in enumerate(stream.completion.message.tool_calls or ()):
        assert call == [event.snapshot for event in events if event.place == place][-1]
    return stream.completion


def test_forced(client: Gpt) -> None:
    """200 forced calls, each with other arguments to keep to: all are valid, whole and streamed."""

    def ask(number: int) -> None:
        params: dict[str, Any] = {
            "tools": [tool(number)],
            "tool_choice": "required",
            "temperature": number % 3 / 2,
            "seed": number,
            "max_tokens": 400,
        }
        prompt = f"Fill in form {number}."
        if number % 2:
            with client.chat.stream(prompt, **params) as stream:
                made = stream.until_done()
        else:
            made = client.chat.complete(prompt, **params)
        try:
            # A text or list without a bound of its own, that the limit of tokens had made to end, says "length".
            assert made.choices[0].finish_reason in ("tool_calls", "length")
            check_arguments(made, form(number))
        except Exception as error:
            raise AssertionError(f"form {number}: {json.dumps(form(number))} was answered by {made}") from error

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(200)))


@pytest.mark.parametrize("number", [0, 7])
def test_forced_behind_any_template(dressed: Local, number: int) -> None:
    """A forced call is valid whatever template the model comes with, by both clients, whole and streamed."""
    params: dict[str, Any] = {"tools": [tool(number), TIME], "temperature": 1, "seed": number, "max_tokens": 300}
    client = Gpt(backend=dressed)
    said = [UserMessage(f"Fill in form {number}.")]
    named = {"type": "function", "function": {"name": "fill"}}
    check_call(client.chat.complete(said, tool_choice=named, **params), form(number))
    check_call(streamed(client, said, tool_choice=named, **params), form(number))
    anyone = AsyncGpt(backend=in_threads(dressed)).chat.complete(said, tool_choice="required", **params)
    made = asyncio.run(anyone)
    name = made.message.tool_calls[0].function.name if made.message.tool_calls else "none"
    check_call(made, form(number) if name == "fill" else TIME["function"]["parameters"], name)  # type: ignore[index]


def test_thinking_before_a_forced_call() -> None:
    """A model whose prompt opens a block of thinking thinks, closes it, and calls; that is told apart."""
    with Gpt(backend=Local(chat_template=TEMPLATES["opened"], context=1024, slots=1)) as client:
        made = client.chat.complete("What time is it?", tools=[TIME], tool_choice=NAMED, temperature=0, max_tokens=120)
        check_call(made, TIME["function"]["parameters"], "time")  # type: ignore[index]
        assert made.message.reasoning
        assert "<" not in made.message.reasoning


def shots(count: int = 3) -> list[Message]:
    """A conversation in which the weather was asked for, and the tool called."""
    made: list[Message] = []
    for place, (city, weather) in enumerate([("Oslo", "snow"), ("Rome", "sun"), ("Lima", "fog"), ("Bern", "rain")][:count]):
        call = ToolCall(FunctionCall(json.dumps({"city": city}), "weather"), f"call_{place}")
        made += [
            UserMessage(f"What is the weather in {city}?"),
            AssistantMessage(None, tool_calls=[call]),
            ToolMessage(weather, f"call_{place}"),
            AssistantMessage(f"In {city} there is {weather}."),
        ]
    return made


def test_the_model_chooses(dressed: Local) -> None:
    """With `auto` the same model calls after conversations with calls, and answers in words after words."""
    client = Gpt(backend=dressed)
    params: dict[str, Any] = {"tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    asked = [*shots(4), UserMessage("What is the weather in Cairo?")]
    if "<think>" not in dressed.load().rendered([{"role": "user", "content": "x"}]):  # else it goes on to think
        check_call(client.chat.complete(asked, **params), WEATHER["function"]["parameters"], "weather")  # type: ignore[index]
        check_call(streamed(client, asked, **params), WEATHER["function"]["parameters"], "weather")  # type: ignore[index]
    words: list[Message] = [UserMessage("Say hello."), AssistantMessage("Hello."), UserMessage("Say good morning.")]
    answer = client.chat.complete(words, **params)
    assert not answer.message.tool_calls
    assert answer.message.content or answer.message.reasoning


def test_the_model_in_the_box_chooses(client: Gpt) -> None:
    """So does the model in the box behind its own template, which knows no tools."""
    params: dict[str, Any] = {"tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    asked = [*shots(4), UserMessage("What is the weather in Cairo?")]
    check_call(client.chat.complete(asked, **params), WEATHER["function"]["parameters"], "weather")  # type: ignore[index]
    check_call(streamed(client, asked, **params), WEATHER["function"]["parameters"], "weather")  # type: ignore[index]
    assert client.chat.complete("Say hello.", **params).text
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}},
    }
    assert {"a": 1} == json.loads(client.chat.complete("Say hello.", response_format=form, **params).text)
    assert not client.chat.complete(asked, tool_choice="none", **params).message.tool_calls


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("template", [None, "tags"])
def test_one_call_at_a_time(template: str | None, choice: str) -> None:
    """With parallel_tool_calls=False one call is made, after conversations with two at once as well."""
    said: list[Message] = []
    for first, second in (("Oslo", "Rome"), ("Lima", "Bern"), ("Graz", "Nice"), ("Kiel", "Lyon")):
        calls = [ToolCall(FunctionCall(json.dumps({"city": city}), "weather"), city) for city in (first, second)]
        said += [
            UserMessage(f"Weather in {first} and {second}?"),
            AssistantMessage(None, tool_calls=calls),
            ToolMessage("rain", first),
            ToolMessage("sun", second),
            AssistantMessage("Rain and sun."),
        ]
    said.append(UserMessage("Weather in Cairo and Paris?"))
    template_text = None if template is None else TEMPLATES[template]
    with Gpt(backend=Local(chat_template=template_text, context=2048, slots=1)) as client:
        params: dict[str, Any] = {"tools": [WEATHER], "temperature": 0, "max_tokens": 100, "tool_choice": choice}
        several = client.chat.complete(said, parallel_tool_calls=True, **params).message.tool_calls or []
        assert len(several) > 1
        assert len({call.id for call in several}) == len(several)
        assert 1 == len(client.chat.complete(said, parallel_tool_calls=False, **params).message.tool_calls or [])


def test_results_reach_the_model(dressed: Local, box: Local) -> None:
    """What a tool gave stands in what the model reads, also where the template has no tool role."""
    said = [*shots(1)[:3]]
    for backend in (dressed, box):
        engine = backend.load()
        plain = json.loads(json.dumps([message.to_dict() for message in said]))  # type: ignore[union-attr]
        asked, _ = engine_request(ChatRequest(messages=plain), 0, engine.calling())
        prompt = engine.rendered(asked["messages"])
        assert "snow" in prompt
        assert "Oslo" in prompt


def test_instructions_join_the_callers(client: Gpt, box: Local) -> None:
    """A system message of the caller's stays, with what the model is told of tools behind it."""
    params: dict[str, Any] = {"tools": [TIME], "tool_choice": "required", "temperature": 0, "max_tokens": 40}
    plain = client.chat.complete([UserMessage("Now?")], **params)
    told = client.chat.complete([SystemMessage("You are a clock that is always right."), UserMessage("Now?")], **params)
    assert plain.usage is not None
    assert told.usage is not None
    assert 0 < told.usage.prompt_tokens - plain.usage.prompt_tokens < 30


def test_custom_tools(client: Gpt) -> None:
    """A custom tool is called with text, which keeps to its regex; the call goes back as history."""
    code = {
        "type": "custom",
        "custom": {"name": "run", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-c]{2,5}"}}},
    }
    for made in (
        client.chat.complete("Run it.", tools=[code], tool_choice="required", temperature=1, seed=1),
        streamed(client, [UserMessage("Run it.")], tools=[code], tool_choice="required", temperature=1, seed=1),
    ):
        calls = made.message.tool_calls or []
        assert isinstance(calls[0], CustomToolCall)
        assert "run" == calls[0].custom.name
        assert 2 <= len(calls[0].custom.input) <= 5
        assert set(calls[0].custom.input) <= set("abc")
        said = [UserMessage("Run it."), made.message, ToolMessage("done", calls[0].id), UserMessage("Well?")]
        assert client.chat.complete(said, tools=[code], max_tokens=5).usage


def test_functions(client: Gpt) -> None:
    """The deprecated `functions` are called as they were; call and result go back as history."""
    function = WEATHER["function"]
    for made in (
        client.chat.complete("Oslo?", functions=[function], function_call={"name": "weather"}, max_tokens=60),
        streamed(client, [UserMessage("Oslo?")], functions=[function], function_call={"name": "weather"}, max_tokens=60),
    ):
        call = made.message.function_call
        assert call is not None
        assert ("weather", "function_call") == (call.name, made.choices[0].finish_reason)
        assert "city" in json.loads(call.arguments)
        said = [UserMessage("Oslo?"), made.message, FunctionMessage("snow", "weather"), UserMessage("Well?")]
        assert client.chat.complete(said, max_tokens=5).usage


def test_choices_and_limits(client: Gpt) -> None:
    """Each choice has its own call; a call that the limit of tokens cuts off says so; a stop string cuts none."""
    params: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    made = client.chat.complete("Oslo?", n=3, temperature=1, max_tokens=60, logprobs=True, **params)
    assert [0, 1, 2] == [choice.index for choice in made.choices]
    for choice in made.choices:
        assert choice.message.tool_calls
        assert "city" in json.loads(choice.message.tool_calls[0].function.arguments)
        assert choice.logprobs
    assert 3 == len({choice.message.tool_calls[0].id for choice in made.choices if choice.message.tool_calls})
    check_call(client.chat.complete("Oslo?", stop=["city", "}"], temperature=0, max_tokens=60, **params), {}, "weather")
    cut = client.chat.complete("Oslo?", temperature=0, max_tokens=12, **params)
    assert "length" == cut.choices[0].finish_reason
    writer = {
        "type": "function",
        "function": {
            "name": "write",
            "parameters": {"type": "object", "properties": {"story": {"type": "string"}}, "required": ["story"]},
        },
    }
    long = client.chat.complete(
        "Write a very long story.", tools=[writer], tool_choice="required", temperature=0, max_tokens=50
    )
    assert long.message.tool_calls
    assert 19 == len(json.loads(long.message.tool_calls[0].function.arguments)["story"])
    assert "length" == long.choices[0].finish_reason


REFUSED: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 4}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}},
    {"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}},
]


@pytest.mark.parametrize("schema", REFUSED)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_schemas_without_a_grammar(client: Gpt, schema: dict[str, Any], choice: str) -> None:
    """A schema that the engine would leave out without a word is refused by its path, and nothing is broken by it."""
    bad = {"type": "function", "function": {"name": "bad", "parameters": schema}}
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="cannot hold a model to this schema") as caught:
            client.chat.complete("Hi.", tools=[TIME, bad], tool_choice=choice)
        assert "tools[1].function.parameters" == caught.value.param
    with pytest.raises(InvalidRequestError), client.chat.stream("Hi.", tools=[bad], tool_choice=choice) as stream:
        stream.until_done()
    assert client.chat.complete("Hi.", max_tokens=2).usage


def test_strict(client: Gpt) -> None:
    """A strict tool whose schema has what no grammar can say is refused; one that is not strict is asked without it."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "maxItems": 2}},
        "required": ["a"],
    }
    for strict in (True, False):
        unique = {"type": "function", "function": {"name": "pick", "strict": strict, "parameters": schema}}
        if strict:
            with pytest.raises(UnsupportedParameterError, match="uniqueItems"):
                client.chat.complete("Pick.", tools=[unique], tool_choice="required")
        else:
            made = client.chat.complete("Pick.", tools=[unique], tool_choice="required", max_tokens=60)
            assert made.message.tool_calls


def test_effort() -> None:
    """reasoning_effort reaches a template that knows it; "none" switches thinking off where a template can."""
    with Local(chat_template=TEMPLATES["thinking"], context=1024, slots=1) as backend:
        engine = backend.load()
        said = [{"role": "user", "content": "x"}]
        assert "effort: low" in engine.rendered(said, reasoning_effort="low")
        client = Gpt(backend=backend)
        plain = client.chat.complete("x", max_tokens=1).usage
        low = client.chat.complete("x", max_tokens=1, reasoning_effort="low").usage
        none = client.chat.complete("x", max_tokens=1, reasoning_effort="none").usage
        assert plain is not None
        assert low is not None
        assert none is not None
        assert low.prompt_tokens > plain.prompt_tokens
        assert none.prompt_tokens > plain.prompt_tokens  # the closed block


def test_thinking_goes_back() -> None:
    """A template that keeps thinking in the history is given it, under whichever name it came."""
    with Local(chat_template=TEMPLATES["thinking"], context=1024, slots=1) as backend:
        client = Gpt(backend=backend)
        tokens = []
        for thought in (
            {},
            {"reasoning_content": "let me think of that for long"},
            {"reasoning": "let me think of that for long"},
        ):
            said: list[Message] = [UserMessage("x"), AssistantMessage("y", **thought), UserMessage("z")]
            usage = client.chat.complete(said, max_tokens=1).usage
            assert usage is not None
            tokens.append(usage.prompt_tokens)
        assert tokens[0] < tokens[1] == tokens[2]
