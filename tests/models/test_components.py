"""The seed's classes, by the seed's keywords and positions."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

import pytest

import gpt
from gpt.errors import ResponseError
from gpt.models import components as c
from gpt.models import errors, operations
from gpt.testing.loopback import completion, serving

USER = c.SchemasChatCompletionRequestUserMessageRole.USER
FUNCTION = c.ChatCompletionMessageToolCallType.FUNCTION

# (class, its keywords in the seed's order, what goes out)
KEYWORDS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (c.SystemMessage, {"content": "a", "role": c.SchemasChatCompletionRequestSystemMessageRole.SYSTEM}, {"content": "a", "role": "system"}),
    (c.SystemMessage, {"content": None, "role": "system"}, {"content": None, "role": "system"}),
    (c.UserMessage, {"content": "a", "role": USER}, {"content": "a", "role": "user"}),
    (c.AssistantMessage, {"content": "a", "role": c.Role.ASSISTANT, "function_call": c.FunctionCall(arguments="{}", name="f"),
                          "tool_calls": [c.ChatCompletionMessageToolCall(
                              function=c.ChatCompletionMessageToolCallFunction(arguments="{}", name="f"), id="1", type=FUNCTION)]},
     {"content": "a", "role": "assistant", "function_call": {"arguments": "{}", "name": "f"},
      "tool_calls": [{"function": {"arguments": "{}", "name": "f"}, "id": "1", "type": "function"}]}),
    (c.ToolMessage, {"content": "a", "role": c.SchemasChatCompletionRequestToolMessageRole.TOOL, "tool_call_id": "1"},
     {"content": "a", "role": "tool", "tool_call_id": "1"}),
    (c.FunctionMessage, {"content": None, "name": "f", "role": c.SchemasRole.FUNCTION}, {"content": None, "name": "f", "role": "function"}),
    (c.TextContentPart, {"text": "a", "type": c.SchemasChatCompletionRequestMessageContentPartTextType.TEXT}, {"text": "a", "type": "text"}),
    (c.ImageContentPart, {"image_url": c.ImageURL(detail=c.Detail.HIGH, url="u"),
                          "type": c.SchemasChatCompletionRequestMessageContentPartImageType.IMAGE_URL},
     {"image_url": {"url": "u", "detail": "high"}, "type": "image_url"}),
    (c.Schemas, {"name": "f"}, {"name": "f"}),
    (c.ChatCompletionFunctions, {"name": "f", "parameters": {}, "description": "d"}, {"name": "f", "parameters": {}, "description": "d"}),
    (c.ChatCompletionTool, {"function": c.ChatCompletionToolFunction(name="f", parameters={}), "type": c.ChatCompletionToolType.FUNCTION},
     {"function": {"name": "f", "parameters": {}}, "type": "function"}),
    (c.ChatCompletionNamedToolChoiceSchemas,
     {"function": c.SchemasFunction(name="f"), "type": c.SchemasChatCompletionNamedToolChoiceType.FUNCTION},
     {"function": {"name": "f"}, "type": "function"}),
    (c.ResponseFormat, {"type": c.CreateChatCompletionRequestType.JSON_OBJECT}, {"type": "json_object"}),
    (c.ResponseFormat, {}, {"type": "text"}),
    (c.CompletionUsage, {"completion_tokens": 1, "prompt_tokens": 2, "total_tokens": 3},
     {"completion_tokens": 1, "prompt_tokens": 2, "total_tokens": 3}),
    (c.ChatCompletionResponseMessage, {"content": "a", "role": c.ChatCompletionResponseMessageRole.ASSISTANT,
                                       "function_call": None, "tool_calls": None},
     {"content": "a", "role": "assistant", "refusal": None}),
    (c.Choices, {"finish_reason": c.FinishReason.STOP, "index": 0, "message": c.ChatCompletionResponseMessage(content="a", role="assistant")},
     {"finish_reason": "stop", "index": 0, "message": {"content": "a", "role": "assistant", "refusal": None}, "logprobs": None}),
    (c.CreateChatCompletionResponse, {"choices": [], "created": 1, "id": "i", "model": "m",
                                      "object": c.CreateChatCompletionResponseObject.CHAT_COMPLETION,
                                      "system_fingerprint": "f", "usage": None},
     {"choices": [], "created": 1, "id": "i", "model": "m", "object": "chat.completion", "system_fingerprint": "f"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "keywords", "expected"), KEYWORDS, ids=[f"{row[0].__name__}-{n}" for n, row in enumerate(KEYWORDS)]
)
def test_keywords(cls: Any, keywords: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each class takes the seed's keywords and goes out as the seed sent it."""
    made = cls(**keywords)
    assert expected == made.to_dict()
    assert all(getattr(made, name) == value for name, value in keywords.items())


def test_positions() -> None:
    """Positions hold where the page uses them, and for the two that are promised."""
    assert c.UserMessage("a") == c.UserMessage(content="a", role="user")
    assert c.ToolMessage("a", "1") == c.ToolMessage(content="a", tool_call_id="1")
    assert c.ImageURL("u", "low") == c.ImageURL(url="u", detail="low")


def test_every_parameter() -> None:
    """The request takes each of the seed's eighteen fields."""
    fields = (
        "messages model frequency_penalty function_call functions logit_bias max_tokens n presence_penalty response_format seed stop "
        "stream temperature tool_choice tools top_p user"
    ).split()
    assert len(fields) == 18
    made = c.CreateChatCompletionRequest(**dict.fromkeys(fields))
    assert dict.fromkeys(fields) == made.to_dict()


def test_none_is_dropped_where_the_seed_dropped_it() -> None:
    """The six fields that the seed left out when they were None are left out of its call; the others go out as null."""
    fields = dict.fromkeys(
        "function_call functions response_format tool_choice tools user seed stop max_tokens logit_bias".split()
    )
    request = c.CreateChatCompletionRequest(messages=[c.UserMessage("a")], model="m", **fields)
    with serving(completion()) as server:
        gpt.Gpt(server_url=server.url).chat.create_chat_completion(request)
        sent = json.loads(server.requests[0][1])
    nulls = {"seed": None, "stop": None, "max_tokens": None, "logit_bias": None}
    assert {"messages": [{"content": "a", "role": "user"}], "model": "m", **nulls} == sent


ENUMS = [kind for kind in vars(c).values() if isinstance(kind, type) and issubclass(kind, Enum) and kind is not Enum]


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_members_are_named_for_their_values(kind: type[Enum]) -> None:
    """A member is its value in capitals, with _ for what is no letter or digit: code written for the seed finds it."""
    assert [re.sub(r"\W", "_", member.value).upper() for member in kind] == [member.name for member in kind]


def test_envelope() -> None:
    """The envelope has its four attributes, the last two optional; bodies do not show in repr."""
    envelope = operations.CreateChatCompletionResponse(content_type="application/json", status_code=200)
    assert ("application/json", 200, None, None) == (
        envelope.content_type,
        envelope.status_code,
        envelope.create_chat_completion_response,
        envelope.raw_response,
    )
    assert repr(envelope) == "CreateChatCompletionResponse(content_type='application/json', status_code=200)"


@pytest.mark.parametrize(
    ("body", "text"), [("", "API error occurred: Status 500"), ("oops", "API error occurred: Status 500\noops")]
)
def test_sdk_error(body: str, text: str) -> None:
    """SDKError has its four attributes and its text."""
    raw = object()
    error = errors.SDKError("API error occurred", 500, body, raw)
    assert ("API error occurred", 500, body, raw) == (error.message, error.status_code, error.body, error.raw_response)
    assert text == str(error)
    assert errors.SDKError is ResponseError


def test_security() -> None:
    """The key does not show."""
    assert c.Security(api_key_auth="secret").api_key_auth == "secret"
    assert "secret" not in repr(c.Security(api_key_auth="secret"))
