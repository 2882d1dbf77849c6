"""The wire types against the published description of the protocol."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import pytest

import gpt
from gpt import types
from gpt.types import ChatParams, ChatRequest

from places import published_schemas


def properties(schema: Any, everything: dict[str, Any]) -> dict[str, Any]:
    """The properties of a schema, those that it inherits included."""
    if "$ref" in schema:
        return properties(everything[schema["$ref"].rpartition("/")[2]], everything)
    found = dict(schema.get("properties", {}))
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
        found |= properties(part, everything)
    return found


DESCRIBED: list[tuple[str, Any]] = [
    ("CreateChatCompletionRequest", types.ChatRequest),
    ("ChatCompletionRequestDeveloperMessage", types.DeveloperMessage),
    ("ChatCompletionRequestSystemMessage", types.SystemMessage),
    ("ChatCompletionRequestUserMessage", types.UserMessage),
    ("ChatCompletionRequestAssistantMessage", types.AssistantMessage),
    ("ChatCompletionRequestToolMessage", types.ToolMessage),
    ("ChatCompletionRequestFunctionMessage", types.FunctionMessage),
    ("ChatCompletionRequestMessageContentPartText", types.TextContentPart),
    ("ChatCompletionRequestMessageContentPartImage", types.ImageContentPart),
    ("ChatCompletionRequestMessageContentPartAudio", types.AudioContentPart),
    ("ChatCompletionRequestMessageContentPartFile", types.FileContentPart),
    ("ChatCompletionRequestMessageContentPartRefusal", types.RefusalContentPart),
    ("PromptCacheBreakpointParam", types.CacheBreakpoint),
    ("ChatCompletionTool", types.FunctionTool),
    ("FunctionObject", types.FunctionDefinition),
    ("ChatCompletionFunctions", types.FunctionDefinition),
    ("CustomToolChatCompletions", types.CustomTool),
    ("ChatCompletionNamedToolChoice", types.NamedToolChoice),
    ("ChatCompletionNamedToolChoiceCustom", types.NamedCustomToolChoice),
    ("ChatCompletionAllowedToolsChoice", types.AllowedToolsChoice),
    ("ChatCompletionAllowedTools", types.AllowedTools),
    ("ChatCompletionFunctionCallOption", types.FunctionChoice),
    ("ChatCompletionMessageToolCall", types.ToolCall),
    ("ChatCompletionMessageCustomToolCall", types.CustomToolCall),
    ("ResponseFormatJsonSchema", types.ResponseFormat),
    ("ChatCompletionStreamOptions", types.StreamOptions),
    ("PredictionContent", types.PredictionContent),
    ("WebSearchLocation", types.WebSearchLocation),
    ("ModerationParam", types.ModerationParams),
    ("ModerationPolicyParam", types.ModerationPolicy),
    ("ModerationConfigParam", types.ModerationMode),
    ("PromptCacheOptionsParam", types.PromptCacheOptions),
    ("CreateChatCompletionResponse", types.ChatCompletion),
    ("ChatCompletionResponseMessage", types.ResponseMessage),
    ("ChatCompletionTokenLogprob", types.TokenLogprob),
    ("CompletionUsage", types.Usage),
    ("ChatCompletionModeration", types.Moderation),
    ("ChatCompletionModerationResults", types.ModerationResults),
    ("ChatCompletionModerationError", types.ModerationFailure),
    ("ModerationResultBody", types.ModerationResult),
    ("CreateChatCompletionStreamResponse", types.ChatCompletionChunk),
    ("ChatCompletionStreamResponseDelta", types.Delta),
    ("ChatCompletionMessageToolCallChunk", types.ToolCallDelta),
    ("ChatCompletionList", types.ChatCompletionList),
    ("ChatCompletionMessageList", types.ChatCompletionMessageList),
    ("ChatCompletionDeleted", types.ChatCompletionDeleted),
]


@pytest.mark.parametrize(("name", "declared"), DESCRIBED, ids=[row[0] for row in DESCRIBED])
def test_described(name: str, declared: Any) -> None:
    """Every property that the description has, the type has."""
    everything = published_schemas()
    wanted = properties(everything[name], everything)
    assert wanted
    assert set() == set(wanted) - set(declared.__struct_fields__)


NESTED: list[tuple[str, tuple[str, ...], Any]] = [
    ("ChatCompletionRequestMessageContentPartImage", ("image_url",), types.ImageURL),
    ("ChatCompletionRequestMessageContentPartAudio", ("input_audio",), types.InputAudio),
    ("ChatCompletionRequestMessageContentPartFile", ("file",), types.FileData),
    ("CustomToolChatCompletions", ("custom",), types.CustomToolDefinition),
    ("ResponseFormatJsonSchema", ("json_schema",), types.JSONSchema),
    ("CreateChatCompletionRequest", ("audio",), types.AudioParams),
    ("CreateChatCompletionRequest", ("web_search_options",), types.WebSearchOptions),
    ("CreateChatCompletionResponse", ("choices", "items"), types.Choice),
    ("CreateChatCompletionStreamResponse", ("choices", "items"), types.ChunkChoice),
    ("CompletionUsage", ("completion_tokens_details",), types.CompletionTokensDetails),
    ("CompletionUsage", ("prompt_tokens_details",), types.PromptTokensDetails),
    ("ChatCompletionTokenLogprob", ("top_logprobs", "items"), types.TopLogprob),
    ("ChatCompletionResponseMessage", ("annotations", "items"), types.Annotation),
    ("ChatCompletionResponseMessage", ("audio",), types.ResponseAudio),
    ("ChatCompletionMessageList", ("data", "items"), types.StoredMessage),
]


@pytest.mark.parametrize(("name", "path", "declared"), NESTED, ids=[".".join((row[0], *row[1])) for row in NESTED])
def test_nested(name: str, path: tuple[str, ...], declared: Any) -> None:
    """The same for objects that the description writes in place."""
    everything = published_schemas()
    found = properties(everything[name], everything)[path[0]]
    for step in path[1:]:
        found = found[step]
    wanted = properties(found, everything)
    assert wanted
    assert set() == set(wanted) - set(declared.__struct_fields__)


# Section 9 of the research on the official package: the 37 parameters of its `create`.
PARAMETERS = (
    "messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens metadata "
    "modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options "
    "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options "
    "temperature tool_choice tools top_logprobs top_p user verbosity web_search_options"
).split()


def test_parameters() -> None:
    """The request has the 37 parameters and our `extra`, and the calls take the same."""
    assert len(PARAMETERS) == 37
    assert {*PARAMETERS, "extra"} == set(ChatRequest.__struct_fields__)
    assert set(PARAMETERS) - {"messages", "model", "stream"} == set(ChatParams.__optional_keys__)


NULLABLE = (
    "audio frequency_penalty presence_penalty logit_bias logprobs max_completion_tokens max_tokens metadata modalities moderation n "
    "prediction prompt_cache_key prompt_cache_retention reasoning_effort safety_identifier seed service_tier stop store stream "
    "stream_options temperature top_logprobs top_p verbosity"
).split()


def test_nullable() -> None:
    """`None` is taken where the protocol takes null, and nowhere else."""
    hints = get_type_hints(ChatRequest)
    taking = {name for name in PARAMETERS if type(None) in getattr(hints[name], "__args__", ())}
    assert set(NULLABLE) == taking


def test_public_names() -> None:
    """What the modules call public is public, and in `gpt`."""
    for name in types.__all__:
        assert getattr(gpt, name) is getattr(types, name)
    declared = {name for name, value in vars(types).items() if isinstance(value, type) and issubclass(value, msgspec.Struct)}
    assert declared - {"Struct", "Value", "Received", "Answered"} <= set(types.__all__)


def test_values() -> None:
    """Values compare by their fields, show what was given, and answers do not change."""
    assert types.UserMessage("a") == types.UserMessage("a")
    assert repr(types.UserMessage("a")) == "UserMessage(content='a')"
    assert types.UserMessage("a").to_json() == b'{"content":"a","role":"user"}'
    with pytest.raises(AttributeError):
        types.Usage().total_tokens = 5  # type: ignore[misc]


def test_text_and_message() -> None:
    """`text` is always safe to read; `message` is the first choice's."""
    made = types.ChatCompletion(choices=[types.Choice("stop", 0, types.ResponseMessage("hi"))])
    assert ("hi", "hi") == (made.text, made.message.content)
    assert types.ChatCompletion().text == ""
    assert types.ChatCompletionChunk().text == ""
    chunk = types.ChatCompletionChunk(
        choices=[types.ChunkChoice(types.Delta("b"), index=1), types.ChunkChoice(types.Delta("a"))]
    )
    assert chunk.text == "a"


def test_unions() -> None:
    """A union is told apart by its field; isinstance asks its members, and a dict passes."""
    assert isinstance(types.UserMessage("a"), types.Message)  # type: ignore[misc, arg-type]
    assert isinstance({}, types.Message)  # type: ignore[misc, arg-type]
    assert not isinstance(5, types.Message)  # type: ignore[misc, arg-type]
    assert isinstance("auto", types.ToolChoice)  # type: ignore[misc, arg-type]
    assert not isinstance("auto", types.Tool)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("kind", [types.ResponseMessage, types.Delta])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "", "reasoning": "a"}, "a"),
        ({"reasoning_content": "a", "reasoning": "a", "reasoning_details": [{"text": "a"}]}, "a"),
        ({"reasoning": "", "reasoning_details": [{"text": "a"}, {"data": "x"}, {"summary": "b"}, {"text": None}]}, "ab"),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "summary": [1]}]}, None),
        ({"reasoning_content": "", "reasoning_details": []}, None),
    ],
)
def test_reasoning(kind: Any, fields: dict[str, Any], expected: str | None) -> None:
    """The thinking is one text under whichever name it came, and what came stays readable and goes out as it came."""
    made = msgspec.convert(fields, kind)
    assert expected == made.reasoning
    assert fields.get("reasoning") == made.raw_reasoning
    assert {name: value for name, value in fields.items() if value} == {
        name: value for name, value in made.to_dict().items() if name.startswith("reasoning") and value
    }
