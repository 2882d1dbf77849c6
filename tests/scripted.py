"""Backends of the tests' own: they answer from a list and remember what they were asked."""

from __future__ import annotations

from collections.abc import Iterator

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import GptError
from gpt.protocol.chunks import whole
from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    Model,
    ModelList,
    ResponseMessage,
)

Answer = str | ChatCompletion | GptError | list[ChatCompletionChunk | GptError]


def completion(text: str) -> ChatCompletion:
    """A completion with this text."""
    return ChatCompletion(id="c", model="scripted", choices=[Choice("stop", 0, ResponseMessage(text))])


def chunk(text: str | None = None, finish: str | None = None) -> ChatCompletionChunk:
    """A chunk with this text."""
    return ChatCompletionChunk(id="c", model="scripted", choices=[ChunkChoice(Delta(content=text), finish)])


class Chunks:
    """The stream of a script; knows whether it was closed."""

    def __init__(self, chunks: list[ChatCompletionChunk | GptError]) -> None:
        self.left: Iterator[ChatCompletionChunk | GptError] = iter(chunks)
        self.closed = False

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> ChatCompletionChunk:
        item = next(self.left)
        if isinstance(item, GptError):
            raise item
        return item

    def close(self) -> None:
        self.closed = True
        self.left = iter(())


class Scripted:
    """Gives its answers in turn, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[ChatRequest] = []
        self.options: list[CallOptions] = []
        self.streams: list[Chunks] = []
        self.closed = False

    def _next(self, request: ChatRequest, options: CallOptions) -> Answer:
        self.asked.append(request)
        self.options.append(options)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GptError):
            raise answer
        return completion(answer) if isinstance(answer, str) else answer

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        answer = self._next(request, options)
        assert isinstance(answer, ChatCompletion)
        return answer

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> Chunks:
        answer = self._next(request, options)
        stream = Chunks([whole(answer)] if isinstance(answer, ChatCompletion) else list(answer))  # type: ignore[arg-type]
        self.streams.append(stream)
        return stream

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        self.options.append(options)
        return ModelList([Model("scripted")])

    def close(self) -> None:
        self.closed = True


class AsyncChunks:
    """Chunks for asyncio."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def __aiter__(self) -> AsyncChunks:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            return next(self.chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        self.chunks.close()


class AsyncScripted:
    """Scripted for asyncio, over a Scripted that it shares."""

    def __init__(self, *answers: Answer) -> None:
        self.script = Scripted(*answers)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return self.script.complete(request, options)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunks:
        return AsyncChunks(self.script.stream(request, options))

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self.script.models(options)

    async def close(self) -> None:
        self.script.close()
