"""The seed's names of the wire types. Classes are aliases of canonical ones; the enumerations live only here."""

from __future__ import annotations

from enum import Enum

import msgspec

from gpt import types

__all__ = [
    "AssistantMessage",
    "ChatCompletionFunctions",
    "ChatCompletionMessageToolCall",
    "ChatCompletionMessageToolCallFunction",
    "ChatCompletionMessageToolCallType",
    "ChatCompletionNamedToolChoiceSchemas",
    "ChatCompletionRequestMessage",
    "ChatCompletionRequestMessageContentPart",
    "ChatCompletionResponseMessage",
    "ChatCompletionResponseMessageFunctionCall",
    "ChatCompletionResponseMessageRole",
    "ChatCompletionTokenLogprob",
    "ChatCompletionTool",
    "ChatCompletionToolChoiceOption",
    "ChatCompletionToolChoiceOption1",
    "ChatCompletionToolFunction",
    "ChatCompletionToolType",
    "Choices",
    "CompletionUsage",
    "Content",
    "CreateChatCompletionRequest",
    "CreateChatCompletionRequestFunctionCall",
    "CreateChatCompletionRequestModel",
    "CreateChatCompletionRequestType",
    "CreateChatCompletionResponse",
    "CreateChatCompletionResponseObject",
    "Detail",
    "FinishReason",
    "FunctionCall",
    "FunctionMessage",
    "FunctionObject",
    "ImageContentPart",
    "ImageURL",
    "Logprobs",
    "One",
    "ResponseFormat",
    "Role",
    "Schemas",
    "SchemasChatCompletionNamedToolChoiceType",
    "SchemasChatCompletionRequestMessageContentPartImageType",
    "SchemasChatCompletionRequestMessageContentPartTextType",
    "SchemasChatCompletionRequestSystemMessageRole",
    "SchemasChatCompletionRequestToolMessageRole",
    "SchemasChatCompletionRequestUserMessageRole",
    "SchemasFunction",
    "SchemasRole",
    "Security",
    "Stop",
    "SystemMessage",
    "TextContentPart",
    "ToolMessage",
    "TopLogprobs",
    "Two",
    "UserMessage",
]

AssistantMessage = types.AssistantMessage
ChatCompletionFunctions = types.FunctionDefinition
ChatCompletionMessageToolCall = types.ToolCall
ChatCompletionMessageToolCallFunction = types.FunctionCall
ChatCompletionNamedToolChoiceSchemas = types.NamedToolChoice
ChatCompletionResponseMessage = types.ResponseMessage
ChatCompletionResponseMessageFunctionCall = types.FunctionCall
ChatCompletionTokenLogprob = types.TokenLogprob
ChatCompletionTool = types.FunctionTool
ChatCompletionToolFunction = types.FunctionDefinition
Choices = types.Choice
CompletionUsage = types.Usage
CreateChatCompletionRequest = types.ChatRequest
CreateChatCompletionResponse = types.ChatCompletion
FunctionCall = types.FunctionCall
FunctionMessage = types.FunctionMessage
FunctionObject = types.FunctionDefinition
ImageContentPart = types.ImageContentPart
ImageURL = types.ImageURL
Logprobs = types.Logprobs
ResponseFormat = types.ResponseFormat
Schemas = types.FunctionChoice
SchemasFunction = types.FunctionChoice
SystemMessage = types.SystemMessage
TextContentPart = types.TextContentPart
ToolMessage = types.ToolMessage
TopLogprobs = types.TopLogprob
UserMessage = types.UserMessage


class Security(msgspec.Struct):
    """The key, as the seed's client wraps it. It does not show in repr."""

    api_key_auth: str

    def __repr__(self) -> str:
        return "Security(api_key_auth=...)"


class Two(str, Enum):
    """Models of the seed's days and a little after; any other name is a plain string."""

    GPT_4_0125_PREVIEW = "gpt-4-0125-preview"
    GPT_4_TURBO_PREVIEW = "gpt-4-turbo-preview"
    GPT_4_1106_PREVIEW = "gpt-4-1106-preview"
    GPT_4_VISION_PREVIEW = "gpt-4-vision-preview"
    GPT_4 = "gpt-4"
    GPT_4_0314 = "gpt-4-0314"
    GPT_4_0613 = "gpt-4-0613"
    GPT_4_32K = "gpt-4-32k"
    GPT_4_32K_0314 = "gpt-4-32k-0314"
    GPT_4_32K_0613 = "gpt-4-32k-0613"
    GPT_3_5_TURBO = "gpt-3.5-turbo"
    GPT_3_5_TURBO_16K = "gpt-3.5-turbo-16k"
    GPT_3_5_TURBO_0301 = "gpt-3.5-turbo-0301"
    GPT_3_5_TURBO_0613 = "gpt-3.5-turbo-0613"
    GPT_3_5_TURBO_1106 = "gpt-3.5-turbo-1106"
    GPT_3_5_TURBO_0125 = "gpt-3.5-turbo-0125"
    GPT_3_5_TURBO_16K_0613 = "gpt-3.5-turbo-16k-0613"


class One(str, Enum):
    """Words for `function_call`."""

    NONE = "none"
    AUTO = "auto"


class ChatCompletionToolChoiceOption1(str, Enum):
    """Words for `tool_choice`."""

    NONE = "none"
    AUTO = "auto"


class CreateChatCompletionRequestType(str, Enum):
    """Types of ResponseFormat."""

    TEXT = "text"
    JSON_OBJECT = "json_object"


class ChatCompletionToolType(str, Enum):
    """The type of ChatCompletionTool."""

    FUNCTION = "function"


class SchemasChatCompletionNamedToolChoiceType(str, Enum):
    """The type of ChatCompletionNamedToolChoiceSchemas."""

    FUNCTION = "function"


class ChatCompletionMessageToolCallType(str, Enum):
    """The type of ChatCompletionMessageToolCall."""

    FUNCTION = "function"


class SchemasChatCompletionRequestSystemMessageRole(str, Enum):
    """The role of SystemMessage."""

    SYSTEM = "system"


class SchemasChatCompletionRequestUserMessageRole(str, Enum):
    """The role of UserMessage."""

    USER = "user"


class Role(str, Enum):
    """The role of AssistantMessage."""

    ASSISTANT = "assistant"


class SchemasChatCompletionRequestToolMessageRole(str, Enum):
    """The role of ToolMessage."""

    TOOL = "tool"


class SchemasRole(str, Enum):
    """The role of FunctionMessage."""

    FUNCTION = "function"


class SchemasChatCompletionRequestMessageContentPartTextType(str, Enum):
    """The type of TextContentPart."""

    TEXT = "text"


class SchemasChatCompletionRequestMessageContentPartImageType(str, Enum):
    """The type of ImageContentPart."""

    IMAGE_URL = "image_url"


class Detail(str, Enum):
    """How closely to look at an image."""

    AUTO = "auto"
    LOW = "low"
    HIGH = "high"


class ChatCompletionResponseMessageRole(str, Enum):
    """The role of an answer's message."""

    ASSISTANT = "assistant"


class CreateChatCompletionResponseObject(str, Enum):
    """The object of a completion."""

    CHAT_COMPLETION = "chat.completion"


class FinishReason(str, Enum):
    """Why an answer ended, as the seed knew it; others come as plain strings."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    FUNCTION_CALL = "function_call"


# The seed's generator also made an empty class for each union. They carry no field and nothing uses them.


class CreateChatCompletionRequestFunctionCall:
    """Empty in the seed: `function_call` takes One, Schemas or their plain forms."""


class CreateChatCompletionRequestModel:
    """Empty in the seed: `model` takes Two or a string."""


class Stop:
    """Empty in the seed: `stop` takes a string or a list of strings."""


class Content:
    """Empty in the seed: `content` takes a string or a list of parts."""


class ChatCompletionRequestMessage:
    """Empty in the seed: `messages` takes any of the message classes."""


class ChatCompletionRequestMessageContentPart:
    """Empty in the seed: a content list takes TextContentPart and ImageContentPart."""


class ChatCompletionToolChoiceOption:
    """Empty in the seed: `tool_choice` takes ChatCompletionToolChoiceOption1 or ChatCompletionNamedToolChoiceSchemas."""
