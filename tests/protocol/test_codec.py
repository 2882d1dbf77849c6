"""Types <-> JSON bytes: what is sent, what is refused and where, what an answer keeps."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt.errors import InvalidRequestError
from gpt.protocol import codec
from gpt.protocol.wire import ResponseInfo
from gpt.types import (
    UNSET,
    AssistantMessage,
    AudioReference,
    ChatCompletion,
    ChatCompletionDeleted,
    ChatCompletionList,
    ChatCompletionMessageList,
    ChatRequest,
    Choice,
    CustomCall,
    CustomToolCall,
    FunctionCall,
    FunctionTool,
    ResponseAudio,
    ResponseMessage,
    StoredMessage,
    TextContentPart,
    ToolCall,
    UserMessage,
)


def sent(**fields: Any) -> dict[str, Any]:
    """What goes out for a request with these fields."""
    result: dict[str, Any] = json.loads(codec.encode_request(ChatRequest(**{"messages": [UserMessage("hi")], **fields})))
    return result


HI = [{"content": "hi", "role": "user"}]

SENT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("unset is absent", {}, {"messages": HI}),
    ("None is null", {"temperature": None}, {"messages": HI, "temperature": None}),
    ("0 and False are sent", {"n": 0, "logprobs": False}, {"messages": HI, "n": 0, "logprobs": False}),
    ("an integer stays one", {"temperature": 1}, {"messages": HI, "temperature": 1}),
    ("integer keys become text", {"logit_bias": {5: -100}}, {"messages": HI, "logit_bias": {"5": -100}}),
    ("extra goes beside", {"extra": {"top_k": 4}}, {"messages": HI, "top_k": 4}),
    ("extra wins", {"n": 1, "extra": {"n": 2}}, {"messages": HI, "n": 2}),
    ("a tuple is a list", {"stop": ("a", "b")}, {"messages": HI, "stop": ["a", "b"]}),
    ("a dict passes with what we do not know", {"messages": [{"role": "user", "content": "a", "zap": 1}]},
     {"messages": [{"role": "user", "content": "a", "zap": 1}]}),
    ("an unknown role passes as a dict", {"messages": [{"role": "critic", "words": 3}]},
     {"messages": [{"role": "critic", "words": 3}]}),
    ("an unknown part passes as a dict", {"messages": [{"role": "user", "content": [{"type": "video", "v": 1}]}]},
     {"messages": [{"role": "user", "content": [{"type": "video", "v": 1}]}]}),
    ("an unknown tool passes as a dict", {"tools": [{"type": "web_search"}]},
     {"messages": HI, "tools": [{"type": "web_search"}]}),
    ("a choice may be a word", {"tool_choice": "auto"}, {"messages": HI, "tool_choice": "auto"}),
    ("text alone is a user's message", {"messages": "hi"}, {"messages": HI}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in SENT], ids=[row[0] for row in SENT])
def test_sent(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """A request goes out as written, and nothing goes out that was not given."""
    assert expected == sent(**fields)


def test_model_first() -> None:
    """The model and the stream flag come before the messages, so that a gateway can route early."""
    body = codec.encode_request(ChatRequest(messages=[UserMessage("hi")], model="m", stream=True))
    assert body.startswith(b'{"model":"m","stream":true,"messages":')


def test_generators() -> None:
    """Messages may be a generator; it is read once."""

    def messages() -> Iterator[UserMessage]:
        yield UserMessage("a")
        yield UserMessage("b")

    assert [{"content": "a", "role": "user"}, {"content": "b", "role": "user"}] == sent(messages=messages())["messages"]


loop: dict[str, Any] = {}
loop["self"] = loop

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "messages: the list is empty; a request needs at least one message"),
    ({"messages": 5}, "messages", "messages: expected a list of messages, got int"),
    ({"messages": b"x"}, "messages", "messages: expected a list of messages, got bytes"),
    ({"messages": UserMessage("x")}, "messages", "messages: expected a list of messages, got UserMessage"),
    ({"messages": {"role": "user"}}, "messages", "messages: expected a list of messages, got dict"),
    ({"messages": ["x"]}, "messages[0]", "messages[0]: expected object, got str"),
    ({"messages": [UserMessage(5)]}, "messages[0].content", "messages[0].content: expected str | array | null, got int"),
    (
        {"messages": [UserMessage("a"), UserMessage("b"), UserMessage([TextContentPart(5)])]},
        "messages[2].content[0].text",
        "messages[2].content[0].text: expected str, got int",
    ),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content: missing"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role: missing"),
    ({"messages": [{"role": 5}]}, "messages[0].role", "messages[0].role: expected str"),
    (
        {"messages": [{"role": "critic"}, {"role": "tool", "content": "x"}]},
        "messages[1].tool_call_id",
        "messages[1].tool_call_id: missing",
    ),
    ({"temperature": "warm"}, "temperature", "temperature: expected float | null, got str"),
    ({"n": 1.5}, "n", "n: expected int | null, got float"),
    ({"stop": ["a", 3]}, "stop[1]", "stop[1]: expected str, got int"),
    ({"tool_choice": 5}, "tool_choice", "tool_choice: expected str | object, got int"),
    ({"tools": [FunctionTool({"name": 3})]}, "tools[0].function.name", "tools[0].function.name: expected str, got int"),
    ({"messages": [UserMessage(object())]}, "messages[0].content", "messages[0].content: cannot be sent as JSON: got object"),
    (
        {"messages": [{"role": "user", "content": {1, object()}}]},
        "messages[0].content",
        "messages[0].content: cannot be sent as JSON: got set",
    ),
    (
        {"messages": [UserMessage("\ud800")]},
        "messages[0].content",
        "messages[0].content: cannot be sent as JSON: the text has a lone surrogate at 0",
    ),
    ({"extra": {"x": [1, object()]}}, "x[1]", "x[1]: cannot be sent as JSON: got object"),
    ({"extra": {"x": loop}}, "x", "x: cannot be sent as JSON: it contains itself"),
    ({"extra": {(1, 2): 3}}, "", ": cannot be sent as JSON: Only dicts with str-like or number-like keys are supported"),
    ({"extra": 5}, "body", "body: expected a dict, got int"),
    ({"temperature": float("nan")}, "temperature", "temperature: cannot be sent as JSON: nan is no number"),
    (
        {"logit_bias": {5: float("inf")}},
        'logit_bias["5"]',
        'logit_bias["5"]: cannot be sent as JSON: inf is no number',
    ),
]


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED, ids=[f"{row[1]}-{n}" for n, row in enumerate(REFUSED)])
def test_refused(fields: dict[str, Any], param: str, message: str) -> None:
    """A wrong type anywhere is refused before sending, with the path of the field."""
    with pytest.raises(InvalidRequestError) as caught:
        sent(**fields)
    assert message == str(caught.value)
    assert param == caught.value.param
    assert isinstance(caught.value, ValueError)


def test_history() -> None:
    """A message of an answer goes back as history, less what is output only."""
    message = ResponseMessage(
        content=None,
        refusal="no",
        tool_calls=[ToolCall(FunctionCall("{}", "f"), "1")],
        audio=ResponseAudio("a1", 5, "data", "words"),
        reasoning_content="hm",
    )
    expected = AssistantMessage(
        None, refusal="no", tool_calls=[ToolCall(FunctionCall("{}", "f"), "1")], audio=AudioReference("a1")
    )
    assert [expected.to_dict()] == sent(messages=[message])["messages"]
    assert [{"content": "x", "role": "assistant"}] == sent(messages=(ResponseMessage("x"),))["messages"]


CALLS = [ToolCall(FunctionCall("{}", "f"), "1")]
DETAILS = [{"type": "reasoning.text", "text": "hm"}]
SPELLED = ResponseMessage("x", reasoning_content="", raw_reasoning="hm", reasoning_details=DETAILS)
CALLING = ResponseMessage(None, tool_calls=CALLS, reasoning_content="hm")
CALLED = ResponseMessage(None, function_call=CALLS[0].function, reasoning_content="hm")

ECHOED: list[tuple[ResponseMessage, dict[str, Any], dict[str, Any]]] = [
    # the message, how it is sent, its thinking and content then
    (SPELLED, {}, {"content": "x"}),
    (SPELLED, {"echoes": "tools"}, {"content": "x"}),
    (SPELLED, {"echoes": "always"},
     {"content": "x", "reasoning_content": "", "reasoning": "hm", "reasoning_details": DETAILS}),
    (CALLING, {"echoes": "never"}, {"content": None}),
    (CALLING, {"echoes": "tools"}, {"content": None, "reasoning_content": "hm"}),
    (CALLED, {"echoes": "tools"}, {"content": None, "reasoning_content": "hm"}),
    (CALLING, {"echoes": "tools", "tags": ("<a>", "</a>")}, {"content": "<a>hm</a>\n\n"}),
    (SPELLED, {"echoes": "always", "tags": ("<a>", "</a>")}, {"content": "<a>hm</a>\n\nx"}),
    (SPELLED, {"echoes": "tools", "tags": ("<a>", "</a>")}, {"content": "x"}),
    (ResponseMessage("x"), {"echoes": "always"}, {"content": "x"}),
    (ResponseMessage("x"), {"echoes": "always", "tags": ("<a>", "</a>")}, {"content": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "how", "expected"), ECHOED)
def test_echoes(message: ResponseMessage, how: dict[str, Any], expected: dict[str, Any]) -> None:
    """Thinking goes back as the server's rule says: under the names that it came under, or between the server's tags."""
    for messages in ([message], (message,), iter([message])):
        (sent_message,) = json.loads(codec.encode_request(ChatRequest(messages=messages), **how))["messages"]
        assert expected == {name: value for name, value in sent_message.items() if name.startswith(("content", "reason"))}


def test_thinking_by_hand() -> None:
    """Thinking that the caller writes into the history goes out, whatever the rule."""
    by_hand = AssistantMessage("x", reasoning_content="a", reasoning="b", reasoning_details=DETAILS)
    plain = {"role": "assistant", "content": "x", "reasoning_content": "a"}
    assert [by_hand.to_dict(), plain] == sent(messages=[by_hand, plain])["messages"]
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.reasoning: expected str"):
        sent(messages=[AssistantMessage("x", reasoning=5)])  # type: ignore[arg-type]


def test_history_stays() -> None:
    """Messages of an answer stay what they are until they are encoded for a server."""
    assert [SPELLED] == codec.history(iter([SPELLED]))


def test_history_leaves_the_request() -> None:
    """Encoding changes nothing in the caller's request."""
    message = ResponseMessage("x")
    request = ChatRequest(messages=[message])
    codec.encode_request(request)
    assert request.messages == [message]


BODY = {
    "id": "c1",
    "object": "chat.completion",
    "created": 5,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", "zap": [1]}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "unknown": {"a": None},
}


def completion(**changes: Any) -> ChatCompletion:
    return codec.decode_completion(json.dumps({**BODY, **changes}).encode())


def message(**fields: Any) -> ResponseMessage:
    made = completion(choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}])
    return made.message


def test_keeps_what_arrived() -> None:
    """`to_dict` gives back exactly what arrived, unknown fields included."""
    body = json.dumps(BODY).encode()
    info = ResponseInfo(elapsed=1.5)
    made = codec.decode_completion(body, info)
    assert made.to_dict() == BODY
    assert made.to_json() is body
    assert made.info is info
    assert made.text == "hi"
    assert made.usage is not None
    assert made.usage.total_tokens == 3


def test_beside_the_fields() -> None:
    """Bytes and facts are outside equality and repr, and pickle and copy with the value."""
    made = codec.decode_completion(json.dumps(BODY).encode(), ResponseInfo(elapsed=1.5))
    assert made == codec.decode_completion(json.dumps({**BODY, "unknown": 7}).encode())
    assert "info" not in repr(made)
    assert "zap" not in repr(made)
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert twin == made
        assert twin.to_dict() == BODY
        assert twin.info == made.info


def test_made_here() -> None:
    """A completion that was made here is written with the keys that the protocol requires."""
    made = ChatCompletion(id="x", choices=[Choice("stop", 0, ResponseMessage("hi"))], model="m")
    expected = {
        "id": "x",
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"content": "hi", "role": "assistant", "refusal": None},
                "logprobs": None,
            }
        ],
        "created": 0,
        "model": "m",
        "object": "chat.completion",
    }
    assert expected == made.to_dict()
    assert made.info is None


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM = {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}}


def test_calls() -> None:
    """Calls are told apart by `type`, or by what they hold; of an unknown type they stay dicts."""
    called = message(tool_calls=[CALL, CUSTOM, {"id": "3", "function": {"name": "g"}}, {"type": "new", "id": "4"}, {}])
    function, custom = ToolCall(FunctionCall("{}", "f"), "1"), CustomToolCall(CustomCall("x", "c"), "2")
    untyped = ToolCall(FunctionCall("", "g"), "3")
    assert [function, custom, untyped, {"type": "new", "id": "4"}, {}] == called.tool_calls


MENDED: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("created with a fraction", {"created": 5.9}, "created", 5),
    ("an id that is a number", {"id": 7}, "id", "7"),
    ("a null id", {"id": None, "object": None, "model": None, "created": None}, "id", ""),
]


@pytest.mark.parametrize(("changes", "name", "expected"), [row[1:] for row in MENDED], ids=[row[0] for row in MENDED])
def test_mended(changes: dict[str, Any], name: str, expected: Any) -> None:
    """What servers are known to get wrong is read all the same."""
    made = completion(**changes)
    assert expected == getattr(made, name)
    assert changes.items() <= made.to_dict().items()


def test_mended_choices() -> None:
    """A choice may lack its index and finish reason, and its parts may have the other servers' forms."""
    wrong = {"id": 1, "function": {"name": "f", "arguments": {"a": [1]}}}
    null = {"id": "2", "function": {"name": "g", "arguments": None}}
    given = {
        "role": None,
        "content": [{"type": "text", "text": "a"}, {"type": "ref"}, {"text": "b"}],
        "tool_calls": [wrong, null, CALL],
        "function_call": {"name": "h", "arguments": 5},
    }
    made = completion(choices=[{"message": given}, {"message": {"content": "c"}, "index": 1}])
    assert [0, 1] == [choice.index for choice in made.choices]
    assert made.choices[0].finish_reason is None
    expected = ResponseMessage(
        "ab",
        function_call=FunctionCall("5", "h"),
        tool_calls=[
            ToolCall(FunctionCall('{"a":[1]}', "f"), "1"),
            ToolCall(FunctionCall("", "g"), "2"),
            ToolCall(FunctionCall("{}", "f"), "1"),
        ],
    )
    assert expected == made.message
    assert completion(choices=None).choices == []


THOUGHT: list[tuple[dict[str, Any], str | None, str | None]] = [
    # a message, its content and its thinking
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
                  {"type": "text", "text": "Oslo"}]}, "Oslo", "hm"),
    ({"content": [{"type": "thinking", "thinking": "hm"}]}, None, "hm"),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}], "reasoning_content": "hm"}, None, "hm"),
    ({"content": [{"type": "thinking", "thinking": [5, {"type": "ref"}]}, {"type": "text", "text": "a"}]}, "a", None),
    ({"content": [{"type": "ref"}]}, "", None),
    ({"content": "a", "reasoning_content": [{"type": "text", "text": "h"}, "m"]}, "a", "hm"),
    ({"content": "a", "reasoning": {"text": "hm"}}, "a", "hm"),
    ({"content": "a", "reasoning": {"tokens": 5}}, "a", None),
    ({"content": "a", "reasoning": "hm", "reasoning_details": [5]}, "a", "hm"),
    ({"content": "a", "reasoning": "hm", "reasoning_details": {}}, "a", "hm"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "content", "thinking"), THOUGHT)
def test_mended_thinking(fields: dict[str, Any], content: str | None, thinking: str | None) -> None:
    """Thinking in parts of the content, or in another form than text, is read; what arrived stays what it was."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}
    made = completion(choices=[choice])
    assert (content, thinking) == (made.message.content, made.message.reasoning)
    assert [choice] == made.to_dict()["choices"]
    delta = codec.decode_chunk(json.dumps({"choices": [{"index": 0, "delta": fields}]}).encode()).choices[0].delta
    assert (content, thinking) == (delta.content, delta.reasoning)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b'"x"', b"5", b'{"choices": 5}', b'{"choices": [5]}', b'{"choices": [{"message": 5}]}',
        b'{"choices": [{"index": 0, "finish_reason": "stop"}]}', b'{"choices": [{"message": {"tool_calls": [5]}}]}',
        b'{"choices": [{"message": {"tool_calls": [{"type": "function"}], "function_call": 3}}]}',
        b'{"choices": [{"message": {"content": [5]}}]}', b'{"usage": 5}', b"\xff",
    ],
)  # fmt: skip
def test_malformed(body: bytes) -> None:
    """What is no completion raises msgspec's error and nothing else."""
    with pytest.raises(msgspec.DecodeError):
        codec.decode_completion(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*BODY, "timings", "x"]), json_values, max_size=6))
def test_any_document(document: dict[str, Any]) -> None:
    """Any JSON object is a completion that gives it back, or raises msgspec's error."""
    body = json.dumps(document).encode()
    try:
        made = codec.decode_completion(body)
    except msgspec.DecodeError:
        return
    assert document == made.to_dict()


def test_chunk() -> None:
    """A chunk keeps its bytes; odd ones are mended like completions."""
    body = b'{"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"created":1,"model":"m"}'
    chunk = codec.decode_chunk(body)
    assert chunk.text == "hi"
    assert body == chunk.to_json()
    odd = b'{"choices":[{"delta":null},{"index":0,"delta":{"tool_calls":[{"function":{"arguments":{"a":1}}}]}}]}'
    function = (codec.decode_chunk(odd).choices[1].delta.tool_calls or [])[0].function
    assert function is not None
    assert function.arguments == '{"a":1}'
    with pytest.raises(msgspec.DecodeError):
        codec.decode_chunk(b"[5]")


def test_models() -> None:
    """A list of models is read, iterated and kept."""
    body = b'{"object":"list","data":[{"id":"a","object":"model","x":1},{"id":"b"}]}'
    made = codec.decode_models(body, ResponseInfo())
    assert ["a", "b"] == [model.id for model in made]
    assert len(made) == 2
    assert body == made.to_json()


STORED_FORMS: list[tuple[type[Any], bytes]] = [
    (ChatCompletion, b'{"id":"c","choices":[{"message":{"content":"a"}, "finish_reason":"stop"}],"seed":1}'),
    (ChatCompletionDeleted, b'{"id":"c","object":"chat.completion.deleted","deleted":true,"x":1}'),
    (ChatCompletionList, b'{"object":"list","data":[ {"id":"c","x":1} ,{"id":5}],"first_id":"c","has_more":true}'),
    (ChatCompletionMessageList, b'{"data":[{"id":"m" ,"x":1}],"last_id":"m","has_more":null}'),
]


@pytest.mark.parametrize(("kind", "body"), STORED_FORMS)
def test_stored(kind: type[Any], body: bytes) -> None:
    """An answer about stored completions keeps its bytes and the facts; so does each item of a list, which is mended alone."""
    info = ResponseInfo(elapsed=2.0)
    made = codec.decode_stored(kind, body, info)
    assert type(made) is kind
    assert (body, info) == (made.to_json(), made.info)
    items = getattr(made, "data", [])
    assert json.loads(body).get("data", []) == [item.to_dict() for item in items]
    assert [info] * len(items) == [item.info for item in items]
    if kind is ChatCompletionList:
        assert (["c", "5"], "c", None, True) == ([item.id for item in items], made.first_id, made.last_id, made.has_more)
    assert (made, body, info.elapsed) == ((again := pickle.loads(pickle.dumps(made))), again.to_json(), again.info.elapsed)


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (ChatCompletionList, b"[]", "Expected `object`"),
        (ChatCompletionList, b'{"data":[{},{"choices":[{"message":5}]}]}', r"\$\.data\[1\]\.choices\[0\]\.message"),
        (ChatCompletionList, b'{"data":[{},5]}', r"\$\.data\[1\]`$"),
        (ChatCompletionMessageList, b'{"data":[{"id":null}]}', r"\$\.data\[0\]\.id"),
        (ChatCompletionDeleted, b'{"id":"c"}', "deleted"),
        (ChatCompletionList, b"{", "truncated"),
    ],
)
def test_stored_malformed(kind: type[Any], body: bytes, text: str) -> None:
    """What is none is refused, with the path from the top of the answer."""
    with pytest.raises(msgspec.DecodeError, match=text):
        codec.decode_stored(kind, body, ResponseInfo())


PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
CALLED_TOOLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]

SAID_AGAIN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # a message as it is listed, and as it is sent again
    ({"role": "user", "content": "a", "name": None, "content_parts": None}, {"role": "user", "content": "a"}),
    ({"role": "user", "content": "a", "name": "n", "content_parts": PARTS}, {"role": "user", "content": PARTS, "name": "n"}),
    ({"role": "user", "content": None, "content_parts": PARTS}, {"role": "user", "content": PARTS}),
    ({"role": "user", "content": None, "content_parts": []}, {"role": "user", "content": None}),
    ({"content": "a", "refusal": None, "annotations": []}, {"role": "assistant", "content": "a"}),
    ({"role": "assistant", "content": None, "refusal": "no"}, {"role": "assistant", "content": None, "refusal": "no"}),
    ({"role": "assistant", "content": None, "tool_calls": CALLED_TOOLS}, {"role": "assistant", "tool_calls": CALLED_TOOLS}),
    ({"role": "assistant", "content": "a", "tool_calls": CALLED_TOOLS},
     {"role": "assistant", "content": "a", "tool_calls": CALLED_TOOLS}),
    ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
     {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
    ({"role": "assistant", "content": None, "audio": {"id": "a", "data": "QQ==", "transcript": "t", "expires_at": 5}},
     {"role": "assistant", "content": None, "audio": {"id": "a"}}),
    ({"role": "tool", "content": "5", "tool_call_id": "1"}, {"role": "tool", "content": "5", "tool_call_id": "1"}),
    ({"role": "critic", "content": "a", "words": 3}, {"role": "critic", "content": "a", "words": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("listed", "expected"), SAID_AGAIN)
def test_said_again(listed: dict[str, Any], expected: dict[str, Any]) -> None:
    """A message that was stored goes into a conversation as it was before: without its id, with its parts."""
    made = codec.decode_stored(
        ChatCompletionMessageList, msgspec.json.encode({"data": [{"id": "m", **listed}]}), ResponseInfo()
    )
    for messages in (made.data, tuple(made.data), iter(made.data)):
        assert [expected] == sent(messages=messages)["messages"]
    assert {"id": "m", **listed} == made.data[0].to_dict()


def test_said_by_hand() -> None:
    """The same goes for one that was made here."""
    assert HI == sent(messages=[StoredMessage("m", "hi", "user")])["messages"]


def test_facts() -> None:
    """Facts can be put beside a value that was made here."""
    made = ChatCompletion(id="x")
    codec.with_info(made, ResponseInfo(elapsed=2.0))
    assert made.info is not None
    assert made.info.elapsed == 2.0
    assert made.to_dict()["id"] == "x"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"choices": [{"index": 0, "message": {}, "finish_reason": "stop"}]}', True),
        (b'{"choices": []}', False),
        (b'{"choices": [{"index": 0, "message": {}, "finish_reason": "stop"}], "error": "x"}', False),
        (b'{"choices": [{"index": 0, "message": {}, "finish_reason": "error", "error": {"code": 502}}]}', False),
    ],
)
def test_is_answer(body: bytes, expected: bool) -> None:
    """An answer has choices, and no error beside them or in one."""
    assert expected == codec.is_answer(codec.decode_completion(body))


def test_unset_is_not_given() -> None:
    """UNSET given by hand is the same as not given."""
    assert {"messages": HI} == sent(temperature=UNSET, tools=UNSET)
