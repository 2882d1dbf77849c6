"""A value asked of a model: what is sent for it, what is made of the answer, and the asking again. Flows, which never wait.

A flow yields a `ChatRequest` and is sent its `ChatCompletion`; a refusal by the server is thrown in. Where a server refuses one
way to ask for a form, the next rung of the ladder is tried: a json_schema, a forced tool, a json_object, the prompt alone.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, Generic, TypeVar

import msgspec

from gpt.errors import (
    BadRequestError,
    ContentFilterFinishError,
    ContentPolicyError,
    ContextLengthError,
    GptError,
    InvalidRequestError,
    LengthFinishError,
    ParseError,
    RefusalError,
)
from gpt.protocol.codec import history
from gpt.protocol.profiles import Profile, Rung, Tags
from gpt.protocol.thinking import Splitter
from gpt.protocol.usage import added
from gpt.structured.dialects import AZURE, GRAMMAR, PLAIN, STRICT, Dialect
from gpt.structured.partial import PartialJSON
from gpt.structured.shapes import Shape, shape
from gpt.types import (
    UNSET,
    AssistantMessage,
    ChatCompletion,
    ChatRequest,
    FunctionDefinition,
    FunctionTool,
    JSONSchema,
    ResponseFormat,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
)

T = TypeVar("T")

DIALECTS: dict[str, Dialect] = {one.name: one for one in (STRICT, AZURE, GRAMMAR, PLAIN)}

_REFUSED = re.compile(r"response_format|json_schema|json_object|structured|tool|function|schema", re.IGNORECASE)


class Parsed(msgspec.Struct, Generic[T], frozen=True):
    """A value that a model gave. `attempts` are all its answers, oldest first; `completion` is the one with the value."""

    value: T
    completion: ChatCompletion
    attempts: tuple[ChatCompletion, ...]
    rung: Rung
    """The way in which the form was asked for."""

    @property
    def completions(self) -> tuple[ChatCompletion, ...]:
        """The same as `attempts`, as a ToolRun and a ParseError call it."""
        return self.attempts

    @property
    def usage(self) -> Usage | None:
        """The tokens of all attempts together; None where no answer said how many."""
        return added(attempt.usage for attempt in self.attempts)


ParseFlow = Generator[ChatRequest, ChatCompletion, Parsed[Any]]


class Asking:
    """A request for a value: the type in the server's dialect, and the rung that it is asked on."""

    def __init__(self, request: ChatRequest, into: Any, profile: Profile) -> None:
        if request.response_format is not UNSET:
            raise InvalidRequestError("response_format: into= says already what form the answer has", param="response_format")
        self.request = request
        self.shape: Shape = shape(into, DIALECTS[profile.dialect])
        has_tools = request.tools is not UNSET and bool(request.tools)
        # A forced tool would take the place of the caller's own.
        self._rungs = [rung for rung in profile.rungs if not (rung == "tool" and has_tools)]
        if not self._rungs:
            raise InvalidRequestError("into: the server's profile has no way to ask for a form", param="into")

    @property
    def rung(self) -> Rung:
        """The rung that is tried now."""
        return self._rungs[0]

    def next_rung(self, error: GptError) -> bool:
        """Go to the next rung, where `error` says that the server does not take this one and there is another."""
        refused = isinstance(error, BadRequestError) and not isinstance(error, (ContentPolicyError, ContextLengthError))
        if not refused or len(self._rungs) < 2 or not _REFUSED.search(f"{error.message} {error.param or ''}"):  # type: ignore[attr-defined]
            return False
        self._rungs.pop(0)
        return True

    def asked(self) -> ChatRequest:
        """The request on this rung."""
        schema, name = self.shape.schema, self.shape.name
        strict: Any = True if self.shape.compiled.strict else UNSET
        replace = msgspec.structs.replace
        match self.rung:
            case "json_schema":
                form = ResponseFormat("json_schema", JSONSchema(name, schema, strict=strict))
                return replace(self.request, response_format=form)
            case "tool":
                tool = FunctionTool(FunctionDefinition(name, schema, "Give the answer.", strict=strict))
                choice: Any = {"type": "function", "function": {"name": name}}
                return replace(self.request, tools=[tool], tool_choice=choice)
            case "json_object":
                return replace(self._prompted(), response_format=ResponseFormat("json_object"))
            case _:
                return self._prompted()

    def _prompted(self) -> ChatRequest:
        """The request with the schema in its prompt."""
        text = "Answer with JSON alone, without any other text, that keeps to this JSON Schema:\n"
        said = SystemMessage(text + msgspec.json.encode(self.shape.schema).decode())
        return msgspec.structs.replace(self.request, messages=[said, *history(self.request.messages)])

    def text_of(self, completion: ChatCompletion) -> str:
        """The text in which the value is."""
        if self.rung == "tool" and completion.choices:
            for call in completion.message.tool_calls or ():
                if isinstance(call, ToolCall):
                    return call.function.arguments
        return completion.text

    def read(self, completion: ChatCompletion, attempts: tuple[ChatCompletion, ...]) -> Parsed[Any]:
        """The value in an answer. Raises ParseError, which has all that came."""
        text = self.text_of(completion)
        problem: Exception
        try:
            value = self.shape.read(msgspec.json.decode(bare_json(text)))
        except (ValueError, TypeError) as error:
            problem = error
        else:
            return Parsed(value, completion, attempts, self.rung)
        reader = PartialJSON("growing")
        reader.feed(bare_json(text))
        reader.end()
        kind, why = _ending(completion)
        raise kind(
            f"the answer is no {self.shape.name}: {why or problem}; completion, text and partial_value have what came",
            completion=completion,
            attempts_made=attempts,
            text=text,
            partial_value=self.shape.part(reader.value) if reader.value is not None else None,
            usage=added(attempt.usage for attempt in attempts),
        ) from problem


def _ending(completion: ChatCompletion) -> tuple[type[ParseError], str]:
    """The error that an answer without a value is by the way it ended, and why in words."""
    if completion.choices:
        choice = completion.choices[0]
        if choice.message.refusal:
            return RefusalError, f"the model refused: {choice.message.refusal}"
        if choice.finish_reason == "length":
            return LengthFinishError, "it reached its limit of tokens before it was whole; allow more max_completion_tokens"
        if choice.finish_reason == "content_filter":
            return ContentFilterFinishError, "a filter cut it off"
    return ParseError, ""


THINKING: tuple[Tags, ...] = tuple((f"<{tag}>", f"</{tag}>") for tag in ("think", "thinking", "reasoning"))
"""Tags in which models think before they answer. They are passed over, because not every server has a profile that tells."""

_FENCE = re.compile(r"\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def bare_json(text: str) -> str:
    """The text without a leading block of thinking, and without a fence round it."""
    splitter = Splitter(*THINKING)
    _, answer = splitter.feed(text)
    if splitter.closed:
        text = answer
    fenced = _FENCE.fullmatch(text)
    return fenced.group(1) if fenced else text.strip()


def parsing(asking: Asking, reasks: int) -> ParseFlow:
    """The flow of a value: down the ladder while the server refuses, and `reasks` times again when the answer is no value."""
    if isinstance(reasks, bool) or not isinstance(reasks, int) or reasks < 0:
        raise InvalidRequestError(f"reasks: expected an int from 0, got {reasks!r}", param="reasks")
    attempts: tuple[ChatCompletion, ...] = ()
    while True:
        try:
            completion = yield asking.asked()
        except GptError as error:
            if not asking.next_rung(error):
                raise
            continue
        attempts = (*attempts, completion)
        try:
            return asking.read(completion, attempts)
        except (RefusalError, ContentFilterFinishError, LengthFinishError):
            raise  # asking again in the same words would end the same way
        except ParseError as error:
            if len(attempts) > reasks:
                raise
            told = f"That could not be used: {error.__cause__}. Answer again, with the whole JSON."
            messages = [*history(asking.request.messages), AssistantMessage(error.text), UserMessage(told)]
            asking.request = msgspec.structs.replace(asking.request, messages=messages)
