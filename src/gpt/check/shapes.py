"""The shapes of whole answers, chunks, errors and models as the protocol declares them: what is required, and of what type.

Stricter than `gpt/types.py`, which reads what servers really send. A test holds these against the published description.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

Finish: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
Tier: TypeAlias = Literal["auto", "default", "flex", "scale", "priority", "fast"]


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Struct):
    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None


class CompletionDetails(Struct):
    accepted_prediction_tokens: int | UnsetType = UNSET
    audio_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    text_tokens: int | UnsetType = UNSET
    rejected_prediction_tokens: int | UnsetType = UNSET


class PromptDetails(Struct):
    audio_tokens: int | UnsetType = UNSET
    cached_tokens: int | UnsetType = UNSET
    text_tokens: int | UnsetType = UNSET
    image_tokens: int | UnsetType = UNSET
    cache_write_tokens: int | UnsetType = UNSET


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionDetails | UnsetType = UNSET
    prompt_tokens_details: PromptDetails | UnsetType = UNSET


class CalledFunction(Struct):
    name: str
    arguments: str


class FunctionCall(Struct, tag_field="type", tag="function"):
    id: str
    function: CalledFunction


class CustomInput(Struct):
    name: str
    input: str


class CustomCall(Struct, tag_field="type", tag="custom"):
    id: str
    custom: CustomInput


class UrlCitation(Struct):
    end_index: int
    start_index: int
    url: str
    title: Any


class Annotation(Struct):
    type: Literal["url_citation"]
    url_citation: UrlCitation


class Audio(Struct):
    id: str
    expires_at: int
    data: str
    transcript: str


class Message(Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[FunctionCall | CustomCall] | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET
    audio: Audio | UnsetType | None = UNSET


class Choice(Struct):
    finish_reason: Finish
    index: int
    message: Message
    logprobs: Logprobs | None


class Completion(Struct):
    """A whole answer: CreateChatCompletionResponse."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    metadata: dict[str, str] | UnsetType | None = UNSET
    service_tier: Tier | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET


class FunctionPiece(Struct):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CallPiece(Struct):
    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionPiece | UnsetType = UNSET


class Delta(Struct):
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    role: Literal["developer", "system", "user", "assistant", "tool"] | UnsetType = UNSET
    tool_calls: list[CallPiece] | UnsetType = UNSET
    function_call: FunctionPiece | UnsetType = UNSET


class ChunkChoice(Struct):
    delta: Delta
    finish_reason: Finish | None
    index: int
    logprobs: Logprobs | UnsetType | None = UNSET


class Chunk(Struct):
    """A piece of a streamed answer: CreateChatCompletionStreamResponse."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    obfuscation: str | UnsetType = UNSET
    service_tier: Tier | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType = UNSET
    usage: Usage | UnsetType | None = UNSET


class ErrorObject(Struct):
    type: str
    message: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """An error: ErrorResponse."""

    error: ErrorObject


class Model(Struct):
    """A model. Its reference page has these four fields; the description that is held against has no models."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Struct):
    """The list of models."""

    object: Literal["list"]
    data: list[Model]


def problem(value: Any, shape: type[Struct]) -> str:
    """The first thing about a plain value that is not as `shape` has it, with its path; "" where there is none."""
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        text, mark, path = str(error).partition(" - at `$")
        return f"{path.rstrip('`').lstrip('.')}: {text}" if mark else text
    return ""
