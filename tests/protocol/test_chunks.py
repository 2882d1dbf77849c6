"""Fold chunks into a completion; make one chunk of a whole completion."""

from __future__ import annotations

import base64
import itertools
import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.protocol.chunks import Fold, fold, has_content, whole
from gpt.protocol.codec import decode_chunk
from gpt.protocol.wire import ResponseInfo
from gpt.types import (
    Annotation,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CustomCall,
    CustomToolCall,
    Delta,
    FunctionCall,
    FunctionCallDelta,
    Logprobs,
    Moderation,
    ResponseAudio,
    ResponseMessage,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    URLCitation,
    Usage,
)


def chunk(delta: dict[str, Any] | None = None, index: int = 0, finish: str | None = None, **beside: Any) -> ChatCompletionChunk:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return decode_chunk(json.dumps({"id": "c", "model": "m", "choices": [choice], **beside}).encode())


def message(*deltas: dict[str, Any]) -> ResponseMessage:
    """The message that these deltas add up to."""
    return fold(chunk(delta) for delta in deltas).message


def piece(arguments: Any = None, name: str | None = None, id: str | None = None, index: int | None = None) -> dict[str, Any]:  # noqa: A002
    """A piece of a function call, without what is None."""
    function = {key: value for key, value in (("arguments", arguments), ("name", name)) if value is not None}
    call = {"index": index, "id": id, "type": None, "function": function or None}
    return {key: value for key, value in call.items() if value is not None}


def call(arguments: str, name: str, id: str = "") -> ToolCall:  # noqa: A002
    return ToolCall(FunctionCall(arguments, name), id)


def test_text() -> None:
    """Text is appended, the role is set once, the finish reason comes at the end."""
    made = fold([chunk({"role": "assistant", "content": None}), chunk({"content": "a"}), chunk({"content": "b"}, 0, "stop")])
    assert ResponseMessage("ab") == made.message
    assert made.choices[0].finish_reason == "stop"
    assert ("c", "m") == (made.id, made.model)


def test_null_deltas() -> None:
    """A delta of nulls, of nothing and of an empty text adds nothing but says that there is content."""
    assert message({"content": None}, {}).content is None
    assert message({"content": None}, {"content": ""}).content == ""


def test_choices_in_any_order() -> None:
    """Choices come in any order and go out by index."""
    made = fold([chunk({"content": "B"}, 1), chunk({"content": "A"}, 0), chunk({"content": "b"}, 1, "length")])
    assert [(0, "A", None), (1, "Bb", "length")] == [(c.index, c.message.content, c.finish_reason) for c in made.choices]


def test_facts() -> None:
    """Top-level facts are kept from whichever chunk has them, and never lost."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    made = fold(
        [
            decode_chunk(b'{"choices":[],"prompt_filter_results":[{"a":1}]}'),
            chunk({"content": "a"}, service_tier="auto", provider="p", timings={"predicted_ms": 1}),
            chunk({}, moderation={"input": None}),
            chunk({}, usage=usage, system_fingerprint="f"),
            chunk({}, service_tier="flex", usage=None),
        ]
    )
    assert (Usage(2, 1, 3), "flex", "f") == (made.usage, made.service_tier, made.system_fingerprint)
    assert [{"a": 1}] == made.prompt_filter_results
    assert ("p", {"predicted_ms": 1}, Moderation()) == (made.provider, made.timings, made.moderation)


TOOL_DIALECTS: list[tuple[str, list[list[dict[str, Any]]], list[ToolCall]]] = [
    ("the standard",
     [[piece("", "f", "1", 0)], [piece('{"a"', index=0)], [piece(":1}", index=0)], [piece("{}", "g", "2", 1)]],
     [call('{"a":1}', "f", "1"), call("{}", "g", "2")]),
    ("interleaved",
     [[piece("", "f", "1", 0), piece("", "g", "2", 1)], [piece("[1", index=1)], [piece("{", index=0)],
      [piece("]", index=1)], [piece("}", index=0)]],
     [call("{}", "f", "1"), call("[1]", "g", "2")]),
    ("several pieces of one call in a chunk",
     [[piece("{", "f", "1", 0), piece("}", index=0)]], [call("{}", "f", "1")]),
    ("no index", [[piece("", "f", "1")], [piece("{")], [piece("}")], [piece("{}", "g", "2")]],
     [call("{}", "f", "1"), call("{}", "g", "2")]),
    ("no index, id on each piece", [[piece("{", "f", "1")], [piece("}", id="1")], [piece("[]", "g", "2")]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("no index, no id, whole calls", [[piece("{}", "f")], [piece("{}", "f")], [piece("{}", "g")]],
     [call("{}", "f"), call("{}", "f"), call("{}", "g")]),
    ("no index, no id, the name on each piece", [[piece("{", "f")], [piece('"}"', "f")], [piece("}", "f")]],
     [call('{"}"}', "f")]),
    ("index from 1", [[piece("{}", "f", "1", 1)], [piece("[]", "g", "2", 2)]], [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("index out of order", [[piece("[]", "g", "2", 1)], [piece("{}", "f", "1", 0)]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("id and name repeated", [[piece("{", "f", "1", 0)], [piece("}", "f", "1", 0)]], [call("{}", "f", "1")]),
    ("every call has index 0", [[piece("{}", "f", "1", 0)], [piece("[", "g", "2", 0)], [piece("]", index=0)]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("every call has index 0, pieces by id",
     [[piece("{", "f", "1", 0)], [piece("[", "g", "2", 0)], [piece("}", "f", "1", 0)], [piece("]", "g", "2", 0)]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("the identity comes late", [[piece("{", index=0)], [piece("}", "f", "1", 0)]], [call("{}", "f", "1")]),
    ("the arguments are an object", [[piece({"a": 1}, "f", "1", 0)]], [call('{"a":1}', "f", "1")]),
    ("the whole is repeated at the end", [[piece("{", "f", "1", 0)], [piece("}", index=0)], [piece("{}", index=0)]],
     [call("{}", "f", "1")]),
    ("a repeated piece that is no whole is kept", [[piece("11", "f", "1", 0)], [piece("11 ", index=0)]],
     [call("1111 ", "f", "1")]),
    ("the same text twice, no JSON", [[piece('"a', "f", "1", 0)], [piece('"a', index=0)]], [call('"a"a', "f", "1")]),
    ("the whole is repeated, written otherwise", [[piece('{"a": 1', "f", "1", 0)], [piece("}", index=0)], [piece('{"a":1}', index=0)]],
     [call('{"a": 1}', "f", "1")]),
    ("a piece that is an object, in the middle", [[piece("[{}", "f", "1", 0)], [piece("{}", index=0)]], [call("[{}{}", "f", "1")]),
    ("a new id on each piece", [[piece("{", "f", "1", 0)], [piece("1", "f", "2", 0)], [piece("}", "f", "3", 0)]],
     [call("{1}", "f", "1")]),
    ("a new id on each piece, the name on the first", [[piece("", "f", "1", 0)], [piece("{}", None, "2", 0)]],
     [call("{}", "f", "1")]),
    ("two calls of one function, index 0", [[piece("{}", "f", "1", 0)], [piece("{}", "f", "2", 0)]],
     [call("{}", "f", "1"), call("{}", "f", "2")]),
    ("the index comes late", [[piece("{", "f", "1")], [piece("}", index=0)], [piece("[]", "g", "2", 1)]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("an index after calls without", [[piece("{}", "f", "1")], [piece("[", "g", "2", 1)], [piece("]", index=1)]],
     [call("{}", "f", "1"), call("[]", "g", "2")]),
    ("a bare call with nothing before", [[piece("{")], [piece("}", "f")]], [call("{}", "f")]),
    ("a piece without a function", [[piece("{}", "f", "1", 0)], [{"index": 0}]], [call("{}", "f", "1")]),
]  # fmt: skip


@pytest.mark.parametrize(("deltas", "expected"), [row[1:] for row in TOOL_DIALECTS], ids=[row[0] for row in TOOL_DIALECTS])
def test_tool_calls(deltas: list[list[dict[str, Any]]], expected: list[ToolCall]) -> None:
    """Calls come together in each dialect: identity set once, arguments appended, no two calls merged."""
    assert expected == message(*({"tool_calls": calls} for calls in deltas)).tool_calls


def test_custom_calls() -> None:
    """Custom calls come together too; some servers send their type, some only their body."""
    made = message(
        {"tool_calls": [{"index": 0, "id": "1", "type": "custom", "custom": {"name": "c", "input": "a"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "b"}}]},
    )
    assert [CustomToolCall(CustomCall("ab", "c"), "1")] == made.tool_calls


def test_function_call() -> None:
    """The deprecated function call comes together like a tool call."""
    made = message({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert FunctionCall("{}", "f") == made.function_call


def test_reasoning_and_refusal() -> None:
    """Thinking under either name, details, and a refusal come together."""
    made = message({"reasoning_content": "a"}, {"reasoning_content": "b"}, {"refusal": "n"}, {"refusal": "o"})
    assert ("ab", "no", None) == (made.reasoning_content, made.refusal, made.content)
    made = message({"reasoning": "a", "reasoning_details": [{"x": 1}]}, {"reasoning": "b", "reasoning_details": [{"x": 2}]})
    assert ("ab", "ab", [{"x": 1}, {"x": 2}]) == (made.reasoning, made.raw_reasoning, made.reasoning_details)


PIECE: dict[str, Any] = {"type": "reasoning.text", "format": "f", "index": 0}

DETAILS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([{"text": "a"}, {"text": "b"}], [{"text": "a"}, {"text": "b"}]),
    ([{**PIECE, "text": "a"}, {**PIECE, "text": "b", "signature": None}, {**PIECE, "signature": "s"}],
     [{**PIECE, "text": "ab", "signature": "s"}]),
    ([{**PIECE, "text": "a"}, {**PIECE, "index": 1, "text": "b"}, {**PIECE, "text": "c"}],
     [{**PIECE, "text": "ac"}, {**PIECE, "index": 1, "text": "b"}]),
    ([{"index": 0, "summary": "a"}, {"index": 0, "type": "reasoning.encrypted", "data": "x"}, {"index": 0, "summary": "b"}],
     [{"index": 0, "summary": "ab"}, {"index": 0, "type": "reasoning.encrypted", "data": "x"}]),
    ([{"index": 0, "type": "e", "data": "x"}, {"index": 0, "type": "e", "data": "y"}], [{"index": 0, "type": "e", "data": "y"}]),
    ([{"index": 0, "text": 5}, {"index": 0, "text": "b"}, {"index": 0, "type": []}], [{"index": 0, "text": "b"}, {"index": 0, "type": []}]),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "expected"), DETAILS)
def test_details(pieces: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Pieces of a part of the thinking become that part, so that it can be sent back; parts stay apart."""
    assert expected == message(*({"reasoning_details": [piece]} for piece in pieces)).reasoning_details
    assert expected == message({"reasoning_details": pieces}).reasoning_details


@given(st.binary(max_size=20), st.sets(st.integers(1, 27)), st.booleans())
def test_sound_in_any_cut(data: bytes, cuts: set[int], silent: bool) -> None:
    """The bytes of the pieces of a sound, joined, are the sound, however its text was cut."""
    text = base64.b64encode(data).decode()
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    told: deque[Any] = deque()
    folded = Fold()
    for start, end in itertools.pairwise(places):
        folded.add(chunk({"audio": {"id": "a", "data": text[start:end]}}), told)
        if silent:
            folded.add(chunk({"audio": {"transcript": "x"}}), told)
    assert data == b"".join(event.bytes for event in told)
    assert data == folded.completion().message.audio.bytes  # type: ignore[union-attr]


def test_audio() -> None:
    """Sound comes together; the last piece may carry only its end of life."""
    made = message({"audio": {"id": "a", "transcript": "x"}}, {"audio": {"data": "QQ=="}}, {"audio": {"expires_at": 5}})
    assert ResponseAudio("a", 5, "QQ==", "x") == made.audio


def test_annotations() -> None:
    """Annotations are collected."""
    note = {"type": "url_citation", "url_citation": {"start_index": 1, "end_index": 2, "url": "u", "title": "t"}}
    assert [Annotation(URLCitation(2, 1, "u", "t"))] * 2 == message(
        {"annotations": [note]}, {"annotations": [note]}
    ).annotations


def test_logprobs() -> None:
    """Log probabilities are collected, one item a token."""

    def with_logprobs(**logprobs: Any) -> ChatCompletionChunk:
        body = {"choices": [{"index": 0, "delta": {}, "logprobs": logprobs}]}
        return decode_chunk(json.dumps(body).encode())

    a, b = ({"token": t, "logprob": -1.0, "bytes": None, "top_logprobs": []} for t in "ab")
    made = fold([with_logprobs(content=[a]), with_logprobs(content=[b], refusal=None), with_logprobs(refusal=[a])])
    expected = Logprobs([TokenLogprob("a", -1.0), TokenLogprob("b", -1.0)], [TokenLogprob("a", -1.0)])
    assert expected == made.choices[0].logprobs


def test_what_servers_add() -> None:
    """What a server adds to a choice is kept."""
    body = {
        "choices": [
            {"index": 0, "delta": {}, "stop_reason": 5, "native_finish_reason": "end", "content_filter_offsets": {"start": 1}}
        ]
    }
    made = fold([decode_chunk(json.dumps(body).encode())])
    assert (5, "end") == (made.choices[0].stop_reason, made.choices[0].native_finish_reason)


def events(*deltas: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Kind, piece and choice of what these deltas of choice 1 tell."""
    told: deque[Any] = deque()
    folded = Fold()
    for delta in deltas:
        folded.add(chunk(delta, 1), told)
    return [(event.type, event.delta, event.index) for event in told]


EVENTS: list[tuple[list[dict[str, Any]], list[tuple[str, str]]]] = [
    ([{"role": "assistant", "content": ""}], []),
    ([{"content": "a"}, {"content": "b"}], [("content", "a"), ("content", "b")]),
    ([{"reasoning": "x", "reasoning_content": "x", "refusal": "r"}], [("reasoning", "x"), ("refusal", "r")]),
    ([{"reasoning": "x", "reasoning_content": ""}], [("reasoning", "x")]),
    ([{"content": "a", "reasoning_content": "x"}], [("reasoning", "x"), ("content", "a")]),
    ([{"reasoning_details": [{"text": "x"}, {"summary": "y"}]}, {"reasoning_details": [{"data": "z"}]}], [("reasoning", "xy")]),
    ([{"reasoning": "x", "reasoning_details": [{"text": "x"}]}], [("reasoning", "x")]),
    ([{"refusal": "", "reasoning": "", "audio": {"id": "a"}}], []),
    ([{"tool_calls": [piece("{}", "f", "1", 0)]}, {"tool_calls": [piece("{}", index=0)]}],
     [("tool_call", "{}"), ("tool_call", "")]),
    ([{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}],
     [("tool_call", "{"), ("tool_call", "}")]),
    ([{"audio": {"data": "QQ", "transcript": "a"}}, {"audio": {"transcript": "h"}}], [("audio", "QQ"), ("audio", "")]),
]  # fmt: skip


@pytest.mark.parametrize(("deltas", "expected"), EVENTS)
def test_events(deltas: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    """The fold tells what each chunk added, and of what has nothing in it, nothing."""
    assert [(*one, 1) for one in expected] == events(*deltas)


def test_facts_as_events() -> None:
    """Log probabilities, filters and usage are told of too, each with what has come so far."""
    told: deque[Any] = deque()
    folded = Fold()
    token = {"token": "a", "logprob": -1.0}
    for _ in range(2):
        body = {"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [token]}}]}
        folded.add(decode_chunk(json.dumps(body).encode()), told)
    folded.add(chunk({}, usage={"total_tokens": 3}), told)
    folded.add(decode_chunk(b'{"choices":[],"prompt_filter_results":[{"a":1}]}'), told)
    folded.add(decode_chunk(b'{"choices":[{"index":0,"content_filter_offsets":{"start":1}}]}'), told)
    folded.add(decode_chunk(b'{"choices":[{"index":0,"logprobs":{"content":[]}}]}'), told)
    assert ["logprobs", "logprobs", "usage", "filter", "filter"] == [event.type for event in told]
    assert [1, 2] == [len(event.snapshot) for event in list(told)[:2]]
    assert [([{"a": 1}], None), (None, {"start": 1})] == [(event.delta, event.offsets) for event in list(told)[3:]]
    assert (3, {"start": 1}) == (folded.usage.total_tokens, folded.completion().choices[0].content_filter_offsets)  # type: ignore[union-attr]


def test_unknown_fields() -> None:
    """Fields that nobody declared are kept: what is in a delta adds up, of the rest the last stands."""

    def odd(top: Any, choice: Any, delta: Any, call: Any, usage: Any = None) -> ChatCompletionChunk:
        calls = [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}, **call}]
        one = {"index": 0, "delta": {"tool_calls": calls, **delta}, **choice}
        return decode_chunk(json.dumps({"id": "c", "choices": [one], **top, **(usage or {})}).encode())

    made = fold(
        [
            odd({"cites": [1]}, {"ids": [5]}, {"mood": "a", "parts": [1], "deep": {"x": "p"}, "n": 1}, {"sign": "s"}),
            odd({"cites": [2]}, {"ids": [6]}, {"mood": "b", "parts": [2], "deep": {"x": "q"}, "n": 2}, {"sign": "t"}),
            odd({"cites": None}, {}, {"mood": None}, {}, {"usage": {"total_tokens": 3, "joules": 7}}),
            decode_chunk(b'{"id":"c","choices":null,"x":1}'),
            decode_chunk(
                b'{"id":"c","choices":[{"index":0,"delta":null,"y":2},{"index":0,"delta":{"tool_calls":null},"y":3}]}'
            ),
        ]
    ).to_dict()
    assert ([2], 1, {"total_tokens": 3, "joules": 7}) == (made["cites"], made["x"], made["usage"])
    (choice,) = made["choices"]
    assert ([6], 3) == (choice["ids"], choice["y"])
    told = choice["message"]
    assert ("ab", [1, 2], {"x": "pq"}, 2) == (told["mood"], told["parts"], told["deep"], told["n"])
    assert [("st", "f", "{}")] == [(c["sign"], c["function"]["name"], c["function"]["arguments"]) for c in told["tool_calls"]]


def test_unknown_fields_of_calls() -> None:
    """Each call keeps its own, also where only its place tells which it is."""
    calls = [
        {"id": "1", "function": {"name": "f"}, "sign": "a"},
        {"function": {"name": "g"}, "sign": "b"},
        {"index": 9, "sign": "c"},
    ]
    made = fold([chunk({"tool_calls": calls[:2]}), chunk({"tool_calls": calls[2:]})])
    assert ["a", "bc"] == [call["sign"] for call in made.to_dict()["choices"][0]["message"]["tool_calls"]]


def test_info() -> None:
    """The facts of an exchange are those that are known, with the reader's times and the tokens that were counted."""
    folded = Fold()
    assert ResponseInfo(elapsed=2.0, first_token=1.0) == folded.info(None, 2.0, 1.0)
    folded.add(chunk({}, usage={"completion_tokens": 7}))
    assert ResponseInfo(201, elapsed=2.0, completion_tokens=7) == folded.info(ResponseInfo(201), 2.0, 1.0)


def test_without_unknown_fields() -> None:
    """Nobody looks for them where nobody wants them."""
    folded = Fold(keep_unknown=False)
    folded.add(chunk({"content": "a"}, zap=1))
    assert "zap" not in folded.completion().to_dict()


def test_odd_annotations() -> None:
    """A note of a form that nobody declared is kept as it came."""
    note = {"type": "file", "file": {"hash": "x"}}
    wrong = {"type": "url_citation", "url_citation": 5}
    made = fold([chunk({"annotations": [note, wrong]})])
    assert [Annotation(None, "file"), Annotation(None, "url_citation")] == made.message.annotations
    assert [note, wrong] == made.to_dict()["choices"][0]["message"]["annotations"]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [({}, False), ({"content": ""}, False), ({"role": "assistant"}, False), ({"content": "a"}, True), ({"refusal": "a"}, True)],
)
def test_has_content(delta: dict[str, Any], expected: bool) -> None:
    """A role is no content."""
    assert expected == has_content(chunk(delta))
    assert has_content(chunk({}, finish="stop"))
    assert not has_content(decode_chunk(b'{"choices":[]}'))


def test_linear() -> None:
    """Twenty thousand pieces of a call, each looked at, are joined once: no piece joins those before it."""
    folded = Fold()
    told: deque[Any] = deque()
    for place in range(20_000):
        folded.add(ChatCompletionChunk(choices=[ChunkChoice(Delta(tool_calls=[CALL_PIECE]))]), told)
        if place == 0:
            text = told[0]._text
    assert 20_000 == len(text._pieces)
    assert 40_000 == len(folded.completion().message.tool_calls[0].function.arguments)  # type: ignore[index, union-attr]


CALL_PIECE = ToolCallDelta(index=0, id="1", function=FunctionCallDelta('"}', "f"))


texts = st.text(max_size=12)
calls = st.builds(
    lambda text, name, place: call(text, name, f"id{place}"), texts, st.text("fg", min_size=1), st.integers(0, 99)
)


@given(
    st.lists(st.tuples(texts, st.lists(calls, max_size=3, unique_by=lambda made: made.id)), min_size=1, max_size=3), st.data()
)
def test_any_cut(messages: list[tuple[str, list[ToolCall]]], data: st.DataObject) -> None:
    """A completion cut into standard chunks at any place, its choices in any order, folds to itself."""
    streams = []
    for index, (text, made) in enumerate(messages):
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": text[a:b]} for a, b in itertools.pairwise(cuts(text, data))]
        for place, one in enumerate(made):
            deltas.append({"tool_calls": [piece("", one.function.name, one.id, place)]})
            pieces = itertools.pairwise(cuts(one.function.arguments, data))
            deltas += [{"tool_calls": [piece(one.function.arguments[a:b], index=place)]} for a, b in pieces]
        streams.append([chunk(delta, index) for delta in deltas])
    order = data.draw(st.permutations([index for index, stream in enumerate(streams) for _ in stream]))
    taken = [iter(stream) for stream in streams]
    folded = fold(next(taken[index]) for index in order)
    expected = [
        Choice(None, index, ResponseMessage(text, tool_calls=list(made) or None)) for index, (text, made) in enumerate(messages)
    ]
    assert expected == folded.choices


def cuts(text: str, data: st.DataObject) -> list[int]:
    """Places to cut `text`, its ends among them; no piece repeats the whole before it."""
    places = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=3))})
    halves = [place for place in places if 0 < place < len(text) and text[:place] == text[place : 2 * place]]
    return [place for place in places if place not in halves] if text else [0]


def test_whole() -> None:
    """One chunk of a whole completion folds to that completion."""
    made = ChatCompletion(
        id="c",
        model="m",
        created=5,
        usage=Usage(1, 2, 3),
        choices=[
            Choice("stop", 0, ResponseMessage("hi"), Logprobs([TokenLogprob("a", -1.0)])),
            Choice(
                "tool_calls",
                1,
                ResponseMessage(None, tool_calls=[call("{}", "f", "1"), CustomToolCall(CustomCall("x", "c"), "2")]),
            ),
        ],
    )
    assert made == fold([whole(made)])
