"""A model with a script: a Backend that gives the answers it was told to give, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeAlias

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import GptError
from gpt.protocol.chunks import Fold, whole
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

Said: TypeAlias = str | ChatCompletion | GptError | Sequence[ChatCompletionChunk | GptError]
Answer: TypeAlias = Said | Callable[[ChatRequest], Said]
"""A text, a completion, an error to raise, or the chunks of a stream, errors among them; or a function that gives one."""


def completion(text: str) -> ChatCompletion:
    """A completion with this text."""
    return ChatCompletion(id="c", model="scripted", choices=[Choice("stop", 0, ResponseMessage(text))])


def chunk(text: str | None = None, finish: str | None = None) -> ChatCompletionChunk:
    """A chunk with this text."""
    return ChatCompletionChunk(id="c", model="scripted", choices=[ChunkChoice(Delta(content=text), finish)])


def words(text: str) -> list[ChatCompletionChunk]:
    """The chunks of a text, a word each; joined they are the text."""
    pieces = [piece for piece in text.replace(" ", " \0").split("\0") if piece]
    return [*(chunk(piece) for piece in pieces), chunk(finish="stop")]


class ScriptedStream:
    """The chunks of one streamed answer; `closed` tells whether it was left."""

    def __init__(self, chunks: Sequence[ChatCompletionChunk | GptError]) -> None:
        self._left: Iterator[ChatCompletionChunk | GptError] = iter(chunks)
        self.closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        item = next(self._left)
        if isinstance(item, GptError):
            raise item
        return item

    def close(self) -> None:
        self.closed = True
        self._left = iter(())


class Scripted:
    """Gives its answers in turn, the last one for ever. May be shared by threads.

    `answers` holds those that are left and may be changed; `asked` the requests, `options` how each was made, `streams` the
    streams that were given; `closed` tells whether `close` was called. A text that is streamed comes word by word; chunks that
    are asked for whole are folded.
    """

    def __init__(self, *answers: Answer) -> None:
        if not answers:
            raise ValueError("a script needs at least one answer")
        self.answers: list[Answer] = list(answers)
        self._lock = threading.Lock()
        self.asked: list[ChatRequest] = []
        self.options: list[CallOptions] = []
        self.streams: list[ScriptedStream] = []
        self.closed = False

    def __repr__(self) -> str:
        return f"Scripted({len(self.answers)} answers left)"

    def _next(self, request: ChatRequest, options: CallOptions) -> Said:
        with self._lock:
            self.asked.append(request)
            self.options.append(options)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, GptError):
            raise answer
        return answer

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        answer = self._next(request, options)
        if isinstance(answer, str):
            return completion(answer)
        if isinstance(answer, ChatCompletion):
            return answer
        assert not isinstance(answer, GptError)
        fold = Fold()
        for part in ScriptedStream(answer):
            fold.add(part)
        return fold.completion()

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ScriptedStream:
        answer = self._next(request, options)
        if isinstance(answer, str):
            answer = words(answer)
        elif isinstance(answer, ChatCompletion):
            answer = [whole(answer)]
        assert not isinstance(answer, GptError)
        stream = ScriptedStream(answer)
        self.streams.append(stream)
        return stream

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        self.options.append(options)
        return ModelList([Model("scripted")])

    def close(self) -> None:
        self.closed = True


class AsyncScriptedStream:
    """ScriptedStream for asyncio."""

    def __init__(self, stream: ScriptedStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            return next(self._stream)
        except StopIteration:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        self._stream.close()


class AsyncScripted:
    """Scripted for asyncio; `script` is the Scripted that it is made of, and remembers."""

    def __init__(self, *answers: Answer) -> None:
        self.script = Scripted(*answers)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return self.script.complete(request, options)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncScriptedStream:
        return AsyncScriptedStream(self.script.stream(request, options))

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self.script.models(options)

    async def close(self) -> None:
        self.script.close()
