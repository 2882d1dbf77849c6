"""The canonical form of a request, its key, and where two differ."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import (
    UNSET,
    AssistantMessage,
    ChatRequest,
    FunctionCall,
    FunctionDefinition,
    FunctionTool,
    ImageContentPart,
    ImageURL,
    InvalidRequestError,
    ResponseMessage,
    StreamOptions,
    SystemMessage,
    TextContentPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from gpt.protocol.canonical import (
    FIELDS,
    MISSING,
    canonical,
    common,
    differences,
    key,
    plain,
    repeatable,
    with_list,
)
from gpt.protocol.profiles import Profile

SERVER = "https://h/v1"

SAMPLES: dict[str, tuple[Any, Any]] = {
    "model": ("a", "b"),
    "messages": ([UserMessage("a")], [UserMessage("b")]),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_usage": False}),
    "service_tier": ("flex", "priority"),
    "audio": ({"voice": "alloy", "format": "wav"}, {"voice": "ash", "format": "wav"}),
    "frequency_penalty": (0.5, 1),
    "function_call": ("none", {"name": "f"}),
    "functions": ([{"name": "f"}], [{"name": "g"}]),
    "logit_bias": ({"1": 2}, {"1": 3}),
    "logprobs": (True, False),
    "max_completion_tokens": (1, 2),
    "max_tokens": (1, 2),
    "metadata": ({"a": "b"}, {"a": "c"}),
    "modalities": (["text"], ["text", "audio"]),
    "moderation": ({"model": "m"}, {"model": "n"}),
    "n": (1, 2),
    "parallel_tool_calls": (True, False),
    "prediction": ({"content": "a", "type": "content"}, {"content": "b", "type": "content"}),
    "presence_penalty": (0.5, 1),
    "prompt_cache_key": ("a", "b"),
    "prompt_cache_options": ({"mode": "explicit"}, {"mode": "implicit"}),
    "prompt_cache_retention": ("24h", "in_memory"),
    "reasoning_effort": ("low", "high"),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "safety_identifier": ("a", "b"),
    "seed": (1, 2),
    "stop": ("a", ["a", "b"]),
    "store": (True, False),
    "temperature": (0.5, 0),
    "tool_choice": ("auto", "none"),
    "tools": ([FunctionTool(FunctionDefinition("f"))], [FunctionTool(FunctionDefinition("g"))]),
    "top_logprobs": (1, 2),
    "top_p": (0.5, 1),
    "user": ("a", "b"),
    "verbosity": ("low", "high"),
    "web_search_options": ({}, {"search_context_size": "low"}),
    "extra": ({"top_k": 1}, {"top_k": 2}),
}


def made(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"messages": [UserMessage("hi")], "model": "m", **fields})


def of(request: ChatRequest, profile: Profile | None = None) -> bytes:
    return key(canonical(plain(request, profile)), SERVER)


def test_every_field_is_decided() -> None:
    """Each field of a request has its row, with a reason, and nothing else has one."""
    assert set(ChatRequest.__struct_fields__) == set(FIELDS) == set(SAMPLES)
    assert all(field.why for field in FIELDS.values())


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    """A field that changes the answer changes the key, from unset and from another value; one that does not leaves it."""
    first, second = (of(made(**{name: value})) for value in SAMPLES[name])
    assert FIELDS[name].counts == (first != second)
    if name not in ("model", "messages"):
        assert FIELDS[name].counts == (first != of(made()))


EQUAL: list[tuple[str, ChatRequest, ChatRequest]] = [
    ("a message by dict", made(), made(messages=[{"role": "user", "content": "hi"}])),
    ("the order of its keys", made(messages=[{"content": "hi", "role": "user"}]), made()),
    ("a message as a text", made(messages="hi"), made()),
    ("messages as a generator", made(messages=(UserMessage(text) for text in ["hi"])), made()),
    ("null and unset", made(temperature=None, seed=None), made()),
    ("null in a message", made(messages=[AssistantMessage("a", refusal=None)]), made(messages=[AssistantMessage("a")])),
    ("whole floats", made(temperature=1.0, logit_bias={"5": 2.0}), made(temperature=1, logit_bias={5: 2})),
    ("minus zero", made(temperature=-0.0), made(temperature=0)),
    ("one stop text", made(stop="x"), made(stop=["x"])),
    ("body items with fields' names", made(extra={"temperature": 1, "user": "u"}), made(temperature=1)),
    ("who asks, and how it comes", made(user="u", stream=True, stream_options=StreamOptions(include_usage=True)), made()),
    (
        "an answer's message",
        made(messages=[ResponseMessage("a", reasoning_content="hm"), UserMessage("b")]),
        made(messages=[AssistantMessage("a"), {"role": "user", "content": "b"}]),
    ),
    (
        "marks for the prompt's cache",
        made(messages=[UserMessage([{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}])]),
        made(messages=[UserMessage([TextContentPart("a")])]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in EQUAL], ids=[row[0] for row in EQUAL])
def test_equal(first: ChatRequest, second: ChatRequest) -> None:
    """What asks the same has the same key."""
    assert of(first) == of(second)


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, None]}}}

UNEQUAL: list[tuple[str, ChatRequest, ChatRequest]] = [
    ("a default that is written out", made(n=1), made()),
    ("a text and a part", made(messages=[UserMessage([TextContentPart("hi")])]), made()),
    ("parts that are texts", made(messages=[{"role": "other", "content": ["hi"]}]), made(messages=[{"role": "other"}])),
    ("the order of messages", made(messages=[UserMessage("a"), UserMessage("b")]), made(messages=[UserMessage("b"), UserMessage("a")])),
    ("true and one", made(extra={"x": True}), made(extra={"x": 1})),
    ("a fraction", made(temperature=0.1), made(temperature=0.2)),
    ("large floats", made(extra={"x": 1e300}), made(extra={"x": 1e301})),
    (
        "null in a schema",
        made(tools=[FunctionTool(FunctionDefinition("f", {**SCHEMA, "default": None}))]),
        made(tools=[FunctionTool(FunctionDefinition("f", SCHEMA))]),
    ),
    ("messages of the caller's own making", made(extra={"messages": 5}), made(extra={"messages": [5]})),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in UNEQUAL], ids=[row[0] for row in UNEQUAL])
def test_unequal(first: ChatRequest, second: ChatRequest) -> None:
    """What may be answered otherwise has another key."""
    forms = []
    for request in (first, second):
        try:
            forms.append(of(request))
        except InvalidRequestError:  # no server would be asked
            forms.append(key(canonical(request.extra), SERVER))  # type: ignore[arg-type]
    assert forms[0] != forms[1]


def test_server_and_thinking() -> None:
    """Another server has another key, and so has thinking that goes back to a server that takes it."""
    form = canonical(plain(made(), None))
    assert key(form, "https://h/v1") != key(form, "https://h/v2")
    assert 32 == len(key(form, ""))
    thought = made(messages=[ResponseMessage("a", reasoning_content="hm"), UserMessage("b")])
    assert of(thought) != of(thought, Profile(echoes="always"))
    with pytest.raises(InvalidRequestError, match="temperature: expected"):
        plain(made(temperature="hot"), None)


# --------------------------------------------------------------------------------------------------------------------
# However it is spelled
# --------------------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
parts = st.one_of(
    st.builds(TextContentPart, texts),
    st.builds(ImageContentPart, st.builds(ImageURL, texts, st.sampled_from(["low", "high", UNSET]))),
)
messages = st.one_of(
    st.builds(SystemMessage, texts),
    st.builds(UserMessage, st.one_of(texts, st.lists(parts, min_size=1, max_size=3))),
    st.builds(AssistantMessage, texts, tool_calls=st.just(UNSET) | st.lists(st.builds(ToolCall, st.builds(FunctionCall, texts, texts), texts), min_size=1, max_size=2)),
    st.builds(ToolMessage, texts, texts),
)  # fmt: skip
schemas = st.recursive(
    st.none() | st.integers(-5, 5) | texts, lambda inner: st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
requests = st.builds(
    ChatRequest,
    messages=st.lists(messages, min_size=1, max_size=4),
    temperature=st.sampled_from([UNSET, 0, 0.5, 1]),
    tools=st.just(UNSET) | st.lists(st.builds(FunctionTool, st.builds(FunctionDefinition, texts, st.dictionaries(texts, schemas, max_size=3))), min_size=1, max_size=2),
    max_tokens=st.sampled_from([UNSET, 5]),
)  # fmt: skip


def respelled(data: st.DataObject, value: Any) -> Any:
    """The value with objects as dicts here and there, keys in any order, and whole numbers as floats here and there."""
    if isinstance(value, msgspec.Struct):
        if data.draw(st.booleans()):
            return msgspec.structs.replace(
                value, **{name: respelled(data, getattr(value, name)) for name in value.__struct_fields__}
            )
        value = {name: item for name in value.__struct_fields__ if (item := getattr(value, name)) is not UNSET}
    if isinstance(value, dict):
        names = data.draw(st.permutations(sorted(value)))
        return {name: respelled(data, value[name]) for name in names}
    if isinstance(value, list):
        return [respelled(data, item) for item in value]
    return float(value) if type(value) is int and value != 5 and data.draw(st.booleans()) else value


@given(requests, st.data())
def test_spelling(request: ChatRequest, data: st.DataObject) -> None:
    """The same request in dicts, objects or any mixture has the same key."""
    other = msgspec.structs.replace(
        request,
        messages=respelled(data, request.messages),
        tools=respelled(data, request.tools),
        temperature=respelled(data, request.temperature),
        extra=data.draw(st.sampled_from([UNSET, {"user": "somebody"}])),
    )
    assert of(request) == of(other)


@given(requests, requests)
def test_no_other(first: ChatRequest, second: ChatRequest) -> None:
    """Requests of which something else is sent have other keys, and the differences say where."""
    forms = [canonical(plain(one, None)) for one in (first, second)]
    assert (forms[0] == forms[1]) == (of(first) == of(second)) == ([] == list(differences(*forms)))


def test_list_of_messages() -> None:
    """A generator of messages is read once and kept; a list is left alone."""
    request = made()
    assert request is with_list(request)
    kept = with_list(made(messages=(UserMessage(text) for text in "ab")))
    assert [UserMessage("a"), UserMessage("b")] == kept.messages


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"temperature": 1}, False),
        ({"temperature": None}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"seed": 0, "temperature": 1}, True),
        ({"seed": None}, False),
        ({"extra": {"seed": 5}}, True),
        ({"extra": {"temperature": 0}}, True),
        ({"temperature": 0, "extra": {"temperature": 1}}, False),
    ],
)
def test_repeatable(fields: dict[str, Any], expected: bool) -> None:
    """A request with a temperature of 0 or a seed asks for the same answer each time; one without does not."""
    assert expected == repeatable(made(**fields))


# --------------------------------------------------------------------------------------------------------------------
# Where two differ
# --------------------------------------------------------------------------------------------------------------------

LONG = "x" * 100

DIFFERENCES: list[tuple[Any, Any, list[str]]] = [
    ({"a": 1}, {"a": 1}, []),
    ({"a": 1}, {"a": 2}, ["a: recorded 1, asked 2"]),
    ({"a": "it is"}, {"a": "it was"}, ["a: recorded 'it is', asked 'it was'"]),
    ({"a": {"b": [1, {"c": None}]}}, {"a": {"b": [1, {"c": "d"}]}}, ["a.b[1].c: recorded null, asked 'd'"]),
    ({"a": [1]}, {"a": [1, 2]}, ["a[1]: recorded nothing, asked 2"]),
    ({"a": [1, "x"]}, {"a": [1]}, ["a[1]: recorded 'x', asked nothing"]),
    ({"b": 1}, {"a": 1}, ["a: recorded nothing, asked 1", "b: recorded 1, asked nothing"]),
    ({"a": True}, {"a": 1}, ["a: recorded true, asked 1"]),
    ({"a": [1]}, {"a": {"b": 1}}, ['a: recorded [1], asked {"b":1}']),
    ({"a": f"{LONG} is"}, {"a": f"{LONG} was"}, [f"a: recorded '...{'x' * 19} is', asked '...{'x' * 19} was'"]),
    ({"a": f"is {LONG}"}, {"a": "was"}, [f"a: recorded 'is {'x' * 57}...', asked 'was'"]),
    ({"a": [LONG]}, {"a": 1}, [f'a: recorded ["{"x" * 58}..., asked 1']),
]


@pytest.mark.parametrize(("recorded", "asked", "expected"), DIFFERENCES)
def test_differences(recorded: Any, asked: Any, expected: list[str]) -> None:
    """Each place at which two differ, with what is there in both, long texts from where they part."""
    assert expected == [str(one) for one in differences(recorded, asked)]


def test_missing() -> None:
    """What is not there is told from null."""
    (one,) = differences({"a": None}, {})
    assert ("a", None, MISSING) == one


@pytest.mark.parametrize(("first", "second", "expected"), [("", "", 0), ("ab", "ac", 1), ("ab", "ab", 2), ("ab", "abc", 2)])
def test_common(first: str, second: str, expected: int) -> None:
    """How long two texts are alike."""
    assert expected == common(first, second)
