"""The values on the wire: messages, parts, tools, request, completion, chunk, usage.

One class statement declares one wire type, and the declaration is the documentation: a field is spelled as on the wire.

Rules that hold for every class here:

- `UNSET` means "not given" and is absent from the wire; `None` is JSON `null`. What is sent has `UNSET` defaults, so nothing
  goes out that was not given. What is received has `None` defaults: absent and null read alike, and `ChatCompletion.to_dict`
  still gives back exactly what arrived.
- `role` and `type` are ordinary fields with defaults, placed after the content: `UserMessage("hi")`.
- Enumerations are open: a known value is offered by the editor, any other string passes.
- One field has another name than on the wire: `raw_reasoning`, since `reasoning` is the thinking under whichever name it came.
- Field and value names come from the published OpenAPI description of `POST /chat/completions` (document version 2.3.0),
  plus the fields that real servers add; those are marked with the servers that send them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypedDict

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

if TYPE_CHECKING:
    from gpt.protocol.wire import ResponseInfo

__all__ = [
    "UNSET",
    "AllowedTools",
    "AllowedToolsChoice",
    "Annotation",
    "AssistantMessage",
    "AudioContentPart",
    "AudioDelta",
    "AudioParams",
    "AudioReference",
    "CacheBreakpoint",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionDeleted",
    "ChatCompletionList",
    "ChatCompletionMessageList",
    "ChatParams",
    "ChatRequest",
    "Choice",
    "ChunkChoice",
    "CompletionTokensDetails",
    "CustomCall",
    "CustomCallDelta",
    "CustomChoice",
    "CustomTool",
    "CustomToolCall",
    "CustomToolDefinition",
    "Delta",
    "DeveloperMessage",
    "FileContentPart",
    "FileData",
    "FunctionCall",
    "FunctionCallDelta",
    "FunctionChoice",
    "FunctionDefinition",
    "FunctionMessage",
    "FunctionTool",
    "GrammarDefinition",
    "GrammarFormat",
    "ImageContentPart",
    "ImageURL",
    "InputAudio",
    "JSONSchema",
    "Logprobs",
    "Message",
    "Model",
    "ModelList",
    "Moderation",
    "ModerationFailure",
    "ModerationMode",
    "ModerationParams",
    "ModerationPolicy",
    "ModerationResult",
    "ModerationResults",
    "NamedCustomToolChoice",
    "NamedToolChoice",
    "PredictionContent",
    "PromptCacheOptions",
    "PromptTokensDetails",
    "RefusalContentPart",
    "ResponseAudio",
    "ResponseFormat",
    "ResponseMessage",
    "StoredMessage",
    "StreamOptions",
    "SystemMessage",
    "TextContentPart",
    "TextFormat",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "ToolMessage",
    "TopLogprob",
    "URLCitation",
    "Unset",
    "Usage",
    "UserLocation",
    "UserMessage",
    "VoiceId",
    "WebSearchLocation",
    "WebSearchOptions",
]

Unset: TypeAlias = UnsetType


# --------------------------------------------------------------------------------------------------------------------
# What every value can do
# --------------------------------------------------------------------------------------------------------------------


class _Value:
    """What every value can do."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The value as plain dicts and lists, as it would be sent: unset fields are absent, `None` stays."""
        result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return result

    def to_json(self) -> bytes:
        """The value as UTF-8 JSON, as it would be sent."""
        return msgspec.json.encode(self)


class Value(_Value, Struct, repr_omit_defaults=True):
    """A value on the wire. Equal when its fields are equal."""


class Received(_Value, Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True, gc=False):
    """A value that a server made. Frozen, because the bytes that it came from do not change with it; so it is in no cycle, and
    the garbage collector need not look at it.
    """


def written(default: object) -> Any:
    """A default that is written out all the same, for fields whose key the protocol requires; `None` goes out as `null`."""
    return field(default_factory=lambda: default)


# --------------------------------------------------------------------------------------------------------------------
# Unions told apart by one field
#
# msgspec refuses a union of untagged classes and a tag that is also a field. So a union here is a class that holds its
# table; `protocol/codec.py` reads the table. To a type checker it is an ordinary union.
# --------------------------------------------------------------------------------------------------------------------


class UnionMeta(type):
    """The type of a union: `isinstance` asks the members; a plain dict passes, since dicts are accepted for objects."""

    tag: str
    members: dict[str, type[Struct]]
    texts: bool

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, (dict, *cls.members.values())) or (cls.texts and isinstance(value, str))


def union(name: str, tag: str, *members: type[Struct], texts: bool = False) -> UnionMeta:
    """A union of `members`, told apart by the default of their field `tag`; `texts` admits a plain string too."""
    table = {}
    for member in members:
        place = member.__struct_fields__.index(tag) - len(member.__struct_fields__)
        default = member.__struct_defaults__[place]
        table[default if isinstance(default, str) else default.factory()] = member
    made = UnionMeta(name, (), {"__module__": __name__})
    made.tag, made.members, made.texts = tag, table, texts
    return made


if TYPE_CHECKING:
    FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "function_call"] | str
    ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | str
    ServiceTier: TypeAlias = Literal["auto", "default", "flex", "scale", "priority", "fast"] | str
    Verbosity: TypeAlias = Literal["low", "medium", "high"] | str
    ImageDetail: TypeAlias = Literal["auto", "low", "high", "original"] | str
    AudioFormat: TypeAlias = Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"] | str
    Modality: TypeAlias = Literal["text", "audio"] | str
else:
    FinishReason = ReasoningEffort = ServiceTier = Verbosity = ImageDetail = AudioFormat = Modality = str


# --------------------------------------------------------------------------------------------------------------------
# Content parts
# --------------------------------------------------------------------------------------------------------------------


class CacheBreakpoint(Value):
    """Marks the end of a prompt prefix that the service should keep. `ttl` is "30m" or "12h"."""

    mode: str = "explicit"
    ttl: str | Unset = UNSET


class TextContentPart(Value):
    """A piece of text in a message."""

    text: str
    type: str = "text"
    prompt_cache_breakpoint: CacheBreakpoint | Unset = UNSET


class ImageURL(Value):
    """Where an image is: an http(s) URL or a `data:` URL. `detail` is "auto", "low", "high" or "original"."""

    url: str
    detail: ImageDetail | Unset = UNSET


class ImageContentPart(Value):
    """An image in a user message."""

    image_url: ImageURL
    type: str = "image_url"
    prompt_cache_breakpoint: CacheBreakpoint | Unset = UNSET


class InputAudio(Value):
    """Sound: `data` is base64 text, `format` is "wav" or "mp3"."""

    data: str
    format: str


class AudioContentPart(Value):
    """A sound in a user message."""

    input_audio: InputAudio
    type: str = "input_audio"
    prompt_cache_breakpoint: CacheBreakpoint | Unset = UNSET


class FileData(Value):
    """A file: either `file_id` of an uploaded one, or `file_data` (base64 text) with its `filename`."""

    file_data: str | Unset = UNSET
    file_id: str | Unset = UNSET
    filename: str | Unset = UNSET


class FileContentPart(Value):
    """A file in a user message."""

    file: FileData
    type: str = "file"
    prompt_cache_breakpoint: CacheBreakpoint | Unset = UNSET


class RefusalContentPart(Value):
    """The model's refusal, in an assistant message."""

    refusal: str
    type: str = "refusal"


if TYPE_CHECKING:
    ContentPart: TypeAlias = (
        TextContentPart | ImageContentPart | AudioContentPart | FileContentPart | RefusalContentPart | Mapping[str, Any]
    )
else:
    ContentPart = union(
        "ContentPart",
        "type",
        TextContentPart,
        ImageContentPart,
        AudioContentPart,
        FileContentPart,
        RefusalContentPart,
    )


# --------------------------------------------------------------------------------------------------------------------
# Calls of tools, in requests and in answers
# --------------------------------------------------------------------------------------------------------------------


class FunctionCall(Value):
    """Which function the model calls, and with what: `arguments` is JSON text, which may be invalid."""

    arguments: str = ""
    name: str = ""


class ToolCall(Value):
    """A call of a function tool. `id` is what the answering `ToolMessage` names."""

    function: FunctionCall
    id: str = ""
    type: str = "function"


class CustomCall(Value):
    """Which custom tool the model calls, and its free-form `input`."""

    input: str = ""
    name: str = ""


class CustomToolCall(Value):
    """A call of a custom tool."""

    custom: CustomCall
    id: str = ""
    type: str = "custom"


if TYPE_CHECKING:
    AnyToolCall: TypeAlias = ToolCall | CustomToolCall
else:
    AnyToolCall = union("AnyToolCall", "type", ToolCall, CustomToolCall)


# --------------------------------------------------------------------------------------------------------------------
# Messages of a request
# --------------------------------------------------------------------------------------------------------------------


class DeveloperMessage(Value):
    """Instructions from the developer, for models that take them in place of a system message."""

    content: str | Sequence[ContentPart]
    role: str = "developer"
    name: str | Unset = UNSET


class SystemMessage(Value):
    """Instructions that hold for the whole conversation."""

    content: str | Sequence[ContentPart] | None
    role: str = "system"
    name: str | Unset = UNSET


class UserMessage(Value):
    """What the user says: text, or a list of parts."""

    content: str | Sequence[ContentPart] | None
    role: str = "user"
    name: str | Unset = UNSET


class AudioReference(Value):
    """A sound that the model made earlier in the conversation, by its id."""

    id: str


class AssistantMessage(Value):
    """What the model said earlier. `content` may be left out when there are tool calls."""

    content: str | Sequence[ContentPart] | Unset | None = UNSET
    role: str = "assistant"
    function_call: FunctionCall | Unset | None = UNSET
    tool_calls: Sequence[AnyToolCall] | Unset | None = UNSET
    name: str | Unset = UNSET
    refusal: str | Unset | None = UNSET
    audio: AudioReference | Unset | None = UNSET
    reasoning_content: str | Unset | None = UNSET
    """The thinking, for servers that take it back: DeepSeek, Moonshot, vLLM, llama.cpp."""
    reasoning: str | Unset | None = UNSET
    """The thinking, for OpenRouter and newer vLLM."""
    reasoning_details: Sequence[Mapping[str, Any]] | Unset | None = UNSET
    """The thinking in parts, for OpenRouter and MiniMax."""


class ToolMessage(Value):
    """The result of a tool call; `tool_call_id` is the id of that call."""

    content: str | Sequence[ContentPart] | None
    tool_call_id: str
    role: str = "tool"


class FunctionMessage(Value):
    """The result of a function call. Deprecated by the protocol in favour of `ToolMessage`."""

    content: str | None
    name: str
    role: str = "function"


# --------------------------------------------------------------------------------------------------------------------
# Tools, and the choice among them
# --------------------------------------------------------------------------------------------------------------------


class FunctionDefinition(Value):
    """A function that the model may call. `parameters` is a JSON Schema; `name` is at most 64 of letters, digits, _ and -."""

    name: str
    parameters: Mapping[str, Any] | Unset = UNSET
    description: str | Unset = UNSET
    strict: bool | Unset | None = UNSET


class FunctionTool(Value):
    """A function tool."""

    function: FunctionDefinition
    type: str = "function"


class TextFormat(Value):
    """Input of a custom tool that is free text."""

    type: str = "text"


class GrammarDefinition(Value):
    """A grammar: `syntax` is "lark" or "regex"."""

    definition: str
    syntax: str


class GrammarFormat(Value):
    """Input of a custom tool that follows a grammar."""

    grammar: GrammarDefinition
    type: str = "grammar"


if TYPE_CHECKING:
    CustomFormat: TypeAlias = TextFormat | GrammarFormat | Mapping[str, Any]
else:
    CustomFormat = union("CustomFormat", "type", TextFormat, GrammarFormat)


class CustomToolDefinition(Value):
    """A tool whose input is text of the model's own making."""

    name: str
    description: str | Unset = UNSET
    format: CustomFormat | Unset = UNSET


class CustomTool(Value):
    """A custom tool."""

    custom: CustomToolDefinition
    type: str = "custom"


class FunctionChoice(Value):
    """A function, by name."""

    name: str


class NamedToolChoice(Value):
    """Makes the model call this function tool."""

    function: FunctionChoice | Unset = UNSET
    type: str = "function"


class CustomChoice(Value):
    """A custom tool, by name."""

    name: str


class NamedCustomToolChoice(Value):
    """Makes the model call this custom tool."""

    custom: CustomChoice
    type: str = "custom"


class AllowedTools(Value):
    """The tools among which the model may choose: `mode` is "auto" or "required", `tools` are references as dicts."""

    mode: str
    tools: Sequence[Mapping[str, Any]]


class AllowedToolsChoice(Value):
    """Narrows the choice to some of the request's tools."""

    allowed_tools: AllowedTools
    type: str = "allowed_tools"


if TYPE_CHECKING:
    Tool: TypeAlias = FunctionTool | CustomTool | Mapping[str, Any]
    ToolChoice: TypeAlias = (
        Literal["none", "auto", "required"]
        | str
        | NamedToolChoice
        | NamedCustomToolChoice
        | AllowedToolsChoice
        | Mapping[str, Any]
    )
else:
    Tool = union("Tool", "type", FunctionTool, CustomTool)
    ToolChoice = union("ToolChoice", "type", NamedToolChoice, NamedCustomToolChoice, AllowedToolsChoice, texts=True)


# --------------------------------------------------------------------------------------------------------------------
# Other parameters of a request
# --------------------------------------------------------------------------------------------------------------------


class JSONSchema(Value):
    """A schema that the answer must satisfy. `name` is at most 64 of letters, digits, _ and -."""

    name: str
    schema: Mapping[str, Any] | Unset = UNSET
    description: str | Unset = UNSET
    strict: bool | Unset | None = UNSET


class ResponseFormat(Value):
    """The form of the answer: `type` is "text", "json_object" or "json_schema"; the last takes `json_schema`."""

    type: str = "text"
    json_schema: JSONSchema | Unset = UNSET


class StreamOptions(Value):
    """What a stream carries besides content."""

    include_usage: bool | Unset = UNSET
    include_obfuscation: bool | Unset = UNSET


class VoiceId(Value):
    """A voice of one's own, by id."""

    id: str


class AudioParams(Value):
    """How the model speaks: a voice's name or id, and the sound format."""

    voice: str | VoiceId
    format: AudioFormat


class PredictionContent(Value):
    """Text of which much is expected to come back unchanged; speeds up the answer."""

    content: str | Sequence[ContentPart]
    type: str = "content"


class WebSearchLocation(Value):
    """Where the user is, roughly. `country` is a two-letter code, `timezone` an IANA name."""

    city: str | Unset = UNSET
    country: str | Unset = UNSET
    region: str | Unset = UNSET
    timezone: str | Unset = UNSET


class UserLocation(Value):
    """The user's location for a web search."""

    approximate: WebSearchLocation
    type: str = "approximate"


class WebSearchOptions(Value):
    """How to search the web for the answer. `search_context_size` is "low", "medium" or "high"."""

    search_context_size: str | Unset = UNSET
    user_location: UserLocation | Unset | None = UNSET


class ModerationMode(Value):
    """What moderation does: `mode` is "score" or "block"."""

    mode: str


class ModerationPolicy(Value):
    """What moderation does with the prompt and with the answer."""

    input: ModerationMode | Unset | None = UNSET
    output: ModerationMode | Unset | None = UNSET


class ModerationParams(Value):
    """Which model moderates, and what follows."""

    model: str
    policy: ModerationPolicy | Unset | None = UNSET


class PromptCacheOptions(Value):
    """How the service caches the prompt: `mode` is "implicit" or "explicit", `ttl` is "30m"."""

    mode: str | Unset = UNSET
    ttl: str | Unset = UNSET


# --------------------------------------------------------------------------------------------------------------------
# The answer
# --------------------------------------------------------------------------------------------------------------------


class TopLogprob(Received, frozen=True):
    """One of the likeliest tokens at a place. `logprob` is a natural logarithm; `bytes` are the token's UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = written(None)


class TokenLogprob(Received, frozen=True):
    """The token at a place, with the likeliest ones there."""

    token: str
    logprob: float
    bytes: list[int] | None = written(None)
    top_logprobs: list[TopLogprob] = field(default_factory=list[TopLogprob])


class Logprobs(Received, frozen=True):
    """Log probabilities: one item a token of the content, or of the refusal."""

    content: list[TokenLogprob] | None = written(None)
    refusal: list[TokenLogprob] | None = written(None)


class ResponseAudio(Received, frozen=True):
    """Sound that the model made: `data` is base64 text, `expires_at` is in Unix seconds."""

    id: str
    expires_at: int | None = None
    data: str = ""
    transcript: str = ""

    @property
    def bytes(self) -> bytes:
        """The sound itself, in the format that was asked for. Raises ValueError where `data` is no base64."""
        return sound(self.data)


def sound(data: str) -> bytes:
    """The sound in base64 text, which may be made of pieces with padding of their own. Raises ValueError where it is none."""
    import base64
    import binascii
    import re

    try:
        return b"".join(base64.b64decode(piece, validate=True) for piece in re.findall("[^=]*=*", data))
    except binascii.Error as error:
        raise ValueError(f"audio.data: is no base64: {error}") from error


class URLCitation(Received, frozen=True):
    """A web page that the text between two character offsets leans on."""

    end_index: int
    start_index: int
    url: str
    title: str = ""


class Annotation(Received, frozen=True):
    """A note on the content; `type` is "url_citation" today."""

    url_citation: URLCitation | None = None
    type: str = written("url_citation")


def details_text(details: Iterable[Mapping[str, Any]] | None) -> str:
    """What the parts of the thinking say, joined: their texts and summaries. Encrypted ones say nothing."""
    said = [detail.get("text") or detail.get("summary") for detail in details or ()]
    return "".join(text for text in said if isinstance(text, str))


class ResponseMessage(Received, frozen=True):
    """What the model said. Accepted back as history: what is output only is then left out."""

    content: str | None = written(None)
    role: str = written("assistant")
    refusal: str | None = written(None)
    function_call: FunctionCall | None = None
    tool_calls: list[AnyToolCall] | None = None
    annotations: list[Annotation] | None = None
    audio: ResponseAudio | None = None
    reasoning_content: str | None = None
    """The model's thinking, as DeepSeek, vLLM and llama.cpp name it."""
    raw_reasoning: str | None = field(default=None, name="reasoning")
    """The model's thinking, as OpenRouter and newer vLLM name it: `reasoning`."""
    reasoning_details: list[dict[str, Any]] | None = None
    """OpenRouter, MiniMax: the thinking in parts."""

    @property
    def reasoning(self) -> str | None:
        """The model's thinking as one text, under whichever name it came; None where there is none."""
        return self.reasoning_content or self.raw_reasoning or details_text(self.reasoning_details) or None

    def to_input(self, *, thinking: bool = False, tags: tuple[str, str] | None = None) -> AssistantMessage:
        """The message as history: content, refusal, calls and the sound's id; no annotation, no null call.

        With `thinking` also the model's thinking, under the names that it came under; or, where there are `tags`, between them
        before the content.
        """
        content = self.content
        beside: dict[str, Any] = {}
        if thinking and tags is None:
            spelled = {
                "reasoning_content": self.reasoning_content,
                "reasoning": self.raw_reasoning,
                "reasoning_details": self.reasoning_details,
            }
            beside = {name: value for name, value in spelled.items() if value is not None}
        elif thinking and tags is not None and self.reasoning:
            content = f"{tags[0]}{self.reasoning}{tags[1]}\n\n{content or ''}"
        return AssistantMessage(
            content=content,
            role=self.role,
            function_call=self.function_call or UNSET,
            tool_calls=self.tool_calls or UNSET,
            refusal=self.refusal if self.refusal is not None else UNSET,
            audio=AudioReference(self.audio.id) if self.audio is not None else UNSET,
            **beside,
        )


class Choice(Received, frozen=True):
    """One answer. `finish_reason` tells why it ended; `index` is its place among the `n` asked for."""

    finish_reason: FinishReason | None
    index: int
    message: ResponseMessage
    logprobs: Logprobs | None = written(None)
    native_finish_reason: str | None = None
    """OpenRouter: the reason in the upstream's own words."""
    stop_reason: Any = None
    """vLLM: the stop string or token id that ended the answer."""
    content_filter_results: dict[str, Any] | None = None
    """Azure: what its filters found."""
    content_filter_offsets: dict[str, Any] | None = None
    """Azure: where in the text they found it; in streams only."""
    error: Any = None
    """OpenRouter: what went wrong. Calls raise it, so an answer that one of them gives has none."""


class CompletionTokensDetails(Received, frozen=True):
    """Kinds of completion tokens."""

    accepted_prediction_tokens: int | None = None
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    text_tokens: int | None = None


class PromptTokensDetails(Received, frozen=True):
    """Kinds of prompt tokens."""

    audio_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None


class Usage(Received, frozen=True):
    """Tokens used; `completion_tokens` counts all choices."""

    completion_tokens: int = written(0)
    prompt_tokens: int = written(0)
    total_tokens: int = written(0)
    completion_tokens_details: CompletionTokensDetails | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    cost: float | None = None
    """OpenRouter: what the call cost, in its credits."""
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek: prompt tokens found in its cache."""
    prompt_cache_miss_tokens: int | None = None
    """DeepSeek: prompt tokens not found in its cache."""


class ModerationResult(Received, frozen=True):
    """What moderation found in one text or image."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    model: str = ""
    type: str = written("moderation_result")


class ModerationResults(Received, frozen=True):
    """What moderation found."""

    model: str
    results: list[ModerationResult]
    type: str = written("moderation_results")


class ModerationFailure(Received, frozen=True):
    """Why moderation found nothing."""

    code: str
    message: str
    type: str = written("error")


if TYPE_CHECKING:
    ModerationOutcome: TypeAlias = ModerationResults | ModerationFailure
else:
    ModerationOutcome = union("ModerationOutcome", "type", ModerationResults, ModerationFailure)


class Moderation(Received, frozen=True):
    """Moderation of the prompt and of the answer."""

    input: ModerationOutcome | None = None
    output: ModerationOutcome | None = None


class Answered(Received, frozen=True, dict=True, gc=True):
    """A top-level value of a server's answer. It keeps the bytes that it came from and the facts of the exchange.

    Both live beside the fields: outside equality, the wire and repr. They pickle and copy with the value.
    """

    @property
    def info(self) -> ResponseInfo | None:
        """The HTTP facts of the call (status, headers, request id, elapsed ...); None when no call made this value."""
        info: ResponseInfo | None = self.__dict__.get("info")
        return info

    def to_dict(self) -> dict[str, Any]:
        """Exactly what arrived, unknown fields included; for a value made here, what would be sent."""
        result: dict[str, Any] = msgspec.json.decode(self.to_json())
        return result

    def to_json(self) -> bytes:
        """The very bytes that arrived; for a value made here, the bytes that would be sent."""
        body: bytes | None = self.__dict__.get("body")
        return body if body is not None else msgspec.json.encode(self)

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, name) for name in self.__struct_fields__)
        return (_restore, (type(self), values, self.__dict__))

    def __copy__(self) -> Self:
        return self


def _restore(cls: type[Answered], values: tuple[Any, ...], beside: dict[str, Any]) -> Answered:
    made = cls(**dict(zip(cls.__struct_fields__, values, strict=True)))
    made.__dict__.update(beside)
    return made


class ChatCompletion(Answered, frozen=True, dict=True, gc=True):
    """The model's answer: `choices` has `n` items.

    `text` and `message` are those of the first choice. `info` holds the HTTP facts.
    """

    id: str = written("")
    choices: list[Choice] = field(default_factory=list[Choice])
    created: int = written(0)
    """When the answer was made, in Unix seconds."""
    model: str = written("")
    object: str = written("chat.completion")
    system_fingerprint: str | None = None
    usage: Usage | None = None
    service_tier: ServiceTier | None = None
    metadata: dict[str, str] | None = None
    moderation: Moderation | None = None
    timings: dict[str, Any] | None = None
    """llama.cpp: how long the prompt and the answer took, in milliseconds and tokens per second."""
    prompt_filter_results: list[dict[str, Any]] | None = None
    """Azure: what its filters found in the prompt."""
    provider: str | None = None
    """OpenRouter: who answered."""
    error: Any = None
    """What went wrong, in an answer with status 200. Calls raise it, so an answer that one of them gives has none."""

    @property
    def message(self) -> ResponseMessage:
        """The first choice's message. Raises IndexError when there is no choice."""
        return self.choices[0].message

    @property
    def text(self) -> str:
        """The first choice's content; "" when it has none, as with tool calls."""
        return (self.choices[0].message.content or "") if self.choices else ""


# --------------------------------------------------------------------------------------------------------------------
# The answer in chunks
# --------------------------------------------------------------------------------------------------------------------


class FunctionCallDelta(Received, frozen=True):
    """A piece of a function call: `arguments` is to be appended."""

    arguments: str | None = None
    name: str | None = None


class CustomCallDelta(Received, frozen=True):
    """A piece of a custom tool call: `input` is to be appended. The protocol has no type for it; servers send it."""

    input: str | None = None
    name: str | None = None


class ToolCallDelta(Received, frozen=True):
    """A piece of a tool call; `index` tells which call it belongs to, where the server says so."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionCallDelta | None = None
    custom: CustomCallDelta | None = None


class AudioDelta(Received, frozen=True):
    """A piece of sound: `data` (base64 text) and `transcript` are to be appended."""

    id: str | None = None
    data: str | None = None
    transcript: str | None = None
    expires_at: int | None = None


class Delta(Received, frozen=True):
    """What a chunk adds to a message."""

    content: str | None = None
    role: str | None = None
    refusal: str | None = None
    function_call: FunctionCallDelta | None = None
    tool_calls: list[ToolCallDelta] | None = None
    audio: AudioDelta | None = None
    annotations: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    """A piece of the model's thinking, as DeepSeek, vLLM and llama.cpp name it."""
    raw_reasoning: str | None = field(default=None, name="reasoning")
    """A piece of the model's thinking, as OpenRouter and newer vLLM name it: `reasoning`."""
    reasoning_details: list[dict[str, Any]] | None = None
    """OpenRouter, MiniMax: the thinking in parts."""

    @property
    def reasoning(self) -> str | None:
        """The piece of thinking as one text, under whichever name it came; None where there is none."""
        return self.reasoning_content or self.raw_reasoning or details_text(self.reasoning_details) or None


class ChunkChoice(Received, frozen=True):
    """What a chunk adds to one choice."""

    delta: Delta = field(default_factory=Delta)
    finish_reason: FinishReason | None = written(None)
    index: int = written(0)
    logprobs: Logprobs | None = None
    native_finish_reason: str | None = None
    """OpenRouter: the reason in the upstream's own words."""
    stop_reason: Any = None
    """vLLM: the stop string or token id that ended the answer."""
    content_filter_results: dict[str, Any] | None = None
    """Azure: what its filters found."""
    content_filter_offsets: dict[str, Any] | None = None
    """Azure: where in the text they found it."""
    error: Any = None
    """OpenRouter: what went wrong. Streams raise it, so a chunk that one of them gives has none."""


class ChatCompletionChunk(Answered, frozen=True, dict=True, gc=True):
    """A piece of a streamed answer. `choices` may be empty, as in a chunk that carries only usage."""

    id: str = written("")
    choices: list[ChunkChoice] = field(default_factory=list[ChunkChoice])
    created: int = written(0)
    model: str = written("")
    object: str = written("chat.completion.chunk")
    system_fingerprint: str | None = None
    usage: Usage | None = None
    service_tier: ServiceTier | None = None
    obfuscation: str | None = None
    """Random padding against traffic analysis."""
    moderation: Moderation | None = None
    timings: dict[str, Any] | None = None
    """llama.cpp: how long the prompt and the answer took so far."""
    prompt_filter_results: list[dict[str, Any]] | None = None
    """Azure: what its filters found in the prompt."""
    provider: str | None = None
    """OpenRouter: who answered."""
    error: Any = None
    """What went wrong, where a server says so in its stream. Streams raise it, so a chunk that one of them gives has none."""

    @property
    def text(self) -> str:
        """The content that this chunk adds to the choice with index 0; "" when there is none."""
        return "".join(choice.delta.content or "" for choice in self.choices if choice.index == 0)


# --------------------------------------------------------------------------------------------------------------------
# Stored completions
# --------------------------------------------------------------------------------------------------------------------


class ChatCompletionList(Answered, frozen=True, dict=True, gc=True):
    """A page of stored completions. What one tells of its request besides, as `seed` and `tools`, is in its `to_dict()`."""

    data: list[ChatCompletion]
    object: str = written("list")
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool | None = None


class StoredMessage(Answered, frozen=True, dict=True, gc=True):
    """A message of a stored completion's request. Accepted back in a conversation, as it was before it was stored."""

    id: str
    content: str | None = written(None)
    role: str = written("assistant")
    name: str | None = None
    content_parts: list[ContentPart] | None = None
    """The content, where it was a list of parts; `content` then has their texts, or nothing."""
    refusal: str | None = None
    function_call: FunctionCall | None = None
    tool_calls: list[AnyToolCall] | None = None
    tool_call_id: str | None = None
    """Of a tool's result: the id of the call. The protocol has no such field here; `gpt serve` sends it."""
    annotations: list[Annotation] | None = None
    audio: ResponseAudio | None = None

    def to_input(self) -> dict[str, Any]:
        """The message as a request has it, with what arrived beside the declared fields: no id, no null, no annotation, the
        parts as the content, and of a sound its id.
        """
        said = {name: value for name, value in self.to_dict().items() if value is not None}
        parts = said.pop("content_parts", None)
        said |= {"role": self.role, "content": parts or said.get("content")}
        if said["content"] is None and (self.tool_calls or self.function_call):
            del said["content"]
        if isinstance(said.get("audio"), dict):
            said["audio"] = {"id": said["audio"].get("id")}
        return {name: value for name, value in said.items() if name not in ("annotations", "id")}


class ChatCompletionMessageList(Answered, frozen=True, dict=True, gc=True):
    """A page of the messages of a stored completion's request."""

    data: list[StoredMessage]
    object: str = written("list")
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool | None = None


class ChatCompletionDeleted(Answered, frozen=True, dict=True, gc=True):
    """What the server says of a stored completion that was to be deleted."""

    id: str
    deleted: bool
    object: str = written("chat.completion.deleted")


# --------------------------------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------------------------------


class Model(Received, frozen=True):
    """A model that the server offers."""

    id: str
    created: int | None = None
    object: str = written("model")
    owned_by: str | None = None


class ModelList(Answered, frozen=True, dict=True, gc=True):
    """The models that the server offers. Iterates over them."""

    data: list[Model]
    object: str = written("list")

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


# --------------------------------------------------------------------------------------------------------------------
# The request
# --------------------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    Message: TypeAlias = (
        DeveloperMessage
        | SystemMessage
        | UserMessage
        | AssistantMessage
        | ToolMessage
        | FunctionMessage
        | ResponseMessage
        | StoredMessage
        | Mapping[str, Any]
    )
else:
    Message = union(
        "Message", "role", DeveloperMessage, SystemMessage, UserMessage, AssistantMessage, ToolMessage, FunctionMessage
    )


class ChatRequest(Value, kw_only=True):
    """Everything that can be asked of a model. All keyword-only; only `messages` is required here, servers ask for `model`.

    `model`, `stream` and `service_tier` go out first, so that a gateway can route without reading the whole body.
    `extra` holds what the protocol does not know: its items go out beside the fields and win over them.
    Ranges are the server's to judge and are not checked here. Source: the OpenAPI description of
    `POST /chat/completions`; 37 parameters, the deprecated ones included.
    """

    model: str | Unset = UNSET
    stream: bool | Unset | None = UNSET
    service_tier: ServiceTier | Unset | None = UNSET
    messages: Iterable[Message]
    audio: AudioParams | Unset | None = UNSET
    frequency_penalty: float | Unset | None = UNSET
    """-2 to 2."""
    function_call: str | FunctionChoice | Unset = UNSET
    """Deprecated: `tool_choice`."""
    functions: Sequence[FunctionDefinition] | Unset = UNSET
    """Deprecated: `tools`."""
    logit_bias: Mapping[str, float] | Unset | None = UNSET
    """Token id -> -100 to 100."""
    logprobs: bool | Unset | None = UNSET
    max_completion_tokens: int | Unset | None = UNSET
    """The most tokens that the answer may take, reasoning included."""
    max_tokens: int | Unset | None = UNSET
    """Deprecated: `max_completion_tokens`; the name that older servers know."""
    metadata: Mapping[str, str] | Unset | None = UNSET
    """At most 16 pairs; keys of at most 64 and values of at most 512 characters."""
    modalities: Sequence[Modality] | Unset | None = UNSET
    moderation: ModerationParams | Unset | None = UNSET
    n: int | Unset | None = UNSET
    """How many choices, 1 to 128."""
    parallel_tool_calls: bool | Unset = UNSET
    prediction: PredictionContent | Unset | None = UNSET
    presence_penalty: float | Unset | None = UNSET
    """-2 to 2."""
    prompt_cache_key: str | Unset | None = UNSET
    prompt_cache_options: PromptCacheOptions | Unset = UNSET
    prompt_cache_retention: str | Unset | None = UNSET
    """Deprecated: `prompt_cache_options`. "in_memory" or "24h"."""
    reasoning_effort: ReasoningEffort | Unset | None = UNSET
    response_format: ResponseFormat | Unset = UNSET
    safety_identifier: str | Unset | None = UNSET
    seed: int | Unset | None = UNSET
    stop: str | Sequence[str] | Unset | None = UNSET
    """At most 4 strings; the answer ends before the first of them."""
    store: bool | Unset | None = UNSET
    stream_options: StreamOptions | Unset | None = UNSET
    temperature: float | Unset | None = UNSET
    """0 to 2."""
    tool_choice: ToolChoice | Unset = UNSET
    tools: Sequence[Tool] | Unset = UNSET
    top_logprobs: int | Unset | None = UNSET
    """0 to 20; needs `logprobs`."""
    top_p: float | Unset | None = UNSET
    """0 to 1."""
    user: str | Unset = UNSET
    """Deprecated: `safety_identifier` and `prompt_cache_key`."""
    verbosity: Verbosity | Unset | None = UNSET
    web_search_options: WebSearchOptions | Unset = UNSET
    extra: Mapping[str, Any] | Unset = UNSET


class ToollessParams(TypedDict, total=False):
    """ChatParams without `tools`, for calls that take Python functions there."""

    service_tier: ServiceTier | Unset | None
    audio: AudioParams | Mapping[str, Any] | Unset | None
    frequency_penalty: float | Unset | None
    function_call: str | FunctionChoice | Mapping[str, Any] | Unset
    functions: Iterable[FunctionDefinition | Mapping[str, Any]] | Unset
    logit_bias: Mapping[str, float] | Mapping[int, float] | Unset | None
    logprobs: bool | Unset | None
    max_completion_tokens: int | Unset | None
    max_tokens: int | Unset | None
    metadata: Mapping[str, str] | Unset | None
    modalities: Iterable[Modality] | Unset | None
    moderation: ModerationParams | Mapping[str, Any] | Unset | None
    n: int | Unset | None
    parallel_tool_calls: bool | Unset
    prediction: PredictionContent | Mapping[str, Any] | Unset | None
    presence_penalty: float | Unset | None
    prompt_cache_key: str | Unset | None
    prompt_cache_options: PromptCacheOptions | Mapping[str, Any] | Unset
    prompt_cache_retention: str | Unset | None
    reasoning_effort: ReasoningEffort | Unset | None
    response_format: ResponseFormat | Mapping[str, Any] | Unset
    safety_identifier: str | Unset | None
    seed: int | Unset | None
    stop: str | Iterable[str] | Unset | None
    store: bool | Unset | None
    stream_options: StreamOptions | Mapping[str, Any] | Unset | None
    temperature: float | Unset | None
    tool_choice: ToolChoice | Unset
    top_logprobs: int | Unset | None
    top_p: float | Unset | None
    user: str | Unset
    verbosity: Verbosity | Unset | None
    web_search_options: WebSearchOptions | Mapping[str, Any] | Unset


class ChatParams(ToollessParams, total=False):
    """The protocol's parameters as keywords of a call, less `messages`, `model` and `stream`. `ChatRequest` tells each."""

    tools: Iterable[Tool] | Unset
