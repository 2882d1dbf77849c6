"""A model with a script: a Backend that gives the answers it was told to give, and remembers what it was asked.

What a script waits for is waited for by the clocks of the call, as a server would be: `timeout` and `deadline` end it with the
errors that they end a call of a server with. Within `gpt.testing.no_waiting` no time passes, and the same comes of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeAlias

import msgspec

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import GptError, RequestTimeoutError
from gpt.protocol.chunks import Fold
from gpt.protocol.chunks import whole as _whole
from gpt.protocol.wire import Seconds, Timeout
from gpt.remote import drive
from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionCallDelta,
    Model,
    ModelList,
    ResponseMessage,
    ToolCall,
    ToolCallDelta,
)


class Pause(msgspec.Struct, frozen=True):
    """So many seconds in which nothing comes."""

    seconds: Seconds

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"seconds: expected 0 or more, got {self.seconds}")


class Stall(msgspec.Struct, frozen=True):
    """Nothing comes any more: the call ends by its own clocks, or when it is left."""


Part: TypeAlias = str | ToolCall | ChatCompletionChunk | Pause | Stall | GptError
"""What an answer is made of: a text, which is one chunk; a call, whose arguments come in pieces; a chunk as it is; an error."""

Said: TypeAlias = str | ToolCall | ChatCompletion | GptError | Sequence[Part]
Answer: TypeAlias = Said | Callable[[ChatRequest], Said]
"""A text, a call, a completion, an error to raise, or the parts of an answer; or a function that gives one of these."""


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


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    """A call of a function, for a script. Its id is given when it is answered with."""
    return ToolCall(FunctionCall(msgspec.json.encode(arguments).decode(), name))


def _of_call(call: ToolCall, place: int, name: str) -> list[ChatCompletionChunk]:
    """The chunks of a call: who it is for, then its arguments in two pieces."""
    text = call.function.arguments
    middle = len(text) // 2
    deltas = [
        ToolCallDelta(place, call.id or name, call.type, FunctionCallDelta("", call.function.name)),
        *(ToolCallDelta(place, function=FunctionCallDelta(piece)) for piece in (text[:middle], text[middle:]) if piece),
    ]
    return [ChatCompletionChunk(id="c", model="scripted", choices=[ChunkChoice(Delta(tool_calls=[delta]))]) for delta in deltas]


def _laid_out(parts: Sequence[Part], number: int) -> Iterator[ChatCompletionChunk | Pause | Stall | GptError]:
    """The parts as chunks. An end comes after them, unless there are none, one of them is a chunk, or the last is a break."""
    calls = 0
    for part in parts:
        if isinstance(part, str):
            yield chunk(part)
        elif isinstance(part, ToolCall):
            yield from _of_call(part, calls, f"call_{number}_{calls}")
            calls += 1
        else:
            yield part
    broken = not parts or isinstance(parts[-1], (GptError, Stall))
    if not broken and not any(isinstance(part, ChatCompletionChunk) for part in parts):
        yield chunk(finish="tool_calls" if calls else "stop")


_FOR_EVER = float("inf")


def _played(
    parts: Iterator[ChatCompletionChunk | Pause | Stall | GptError], options: CallOptions, *, whole: bool
) -> Iterator[ChatCompletionChunk | Seconds]:
    """The chunks, and between them the seconds that must be waited. Raises what the script or the clocks of the call end it by.

    It waits for nothing itself. Of a `whole` answer the first byte comes with its end.
    """
    clocks = options.timeout or Timeout()
    now = quiet = 0.0
    limit, phase = clocks.first_byte, "first_byte"
    for part in parts:
        if isinstance(part, GptError):
            raise part
        if isinstance(part, ChatCompletionChunk):
            if not whole:
                quiet, limit, phase = 0.0, clocks.idle, "idle"
            yield part
            continue
        seconds = part.seconds if isinstance(part, Pause) else _FOR_EVER
        left = _FOR_EVER if limit is None else limit - quiet
        until = _FOR_EVER if options.deadline is None else options.deadline - now
        if seconds <= min(left, until):
            yield seconds
            now += seconds
            quiet += seconds
            continue
        yield max(0.0, min(left, until))
        which, most = ("deadline", options.deadline) if until < left else (phase, limit)
        raise RequestTimeoutError(f"the script says nothing for longer than {which} allows, {most:g} s", phase=which, sent=True)


class ScriptedStream:
    """The chunks of one streamed answer; `closed` tells whether it was left."""

    def __init__(
        self,
        parts: Iterator[ChatCompletionChunk | Pause | Stall | GptError],
        options: CallOptions = DEFAULT_OPTIONS,
        *,
        whole: bool = False,
    ) -> None:
        self._left = _played(parts, options, whole=whole)
        self._cancel: threading.Event | None = options.cancel
        self._ending = threading.Event()
        self.closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        for item in self._left:
            if isinstance(item, ChatCompletionChunk):
                return item
            self._wait(item)
        raise StopIteration

    def _wait(self, seconds: Seconds) -> None:
        """Wait, unless no test waits; what nothing ends but the caller is waited for all the same."""
        if not drive.waits and seconds != _FOR_EVER:
            return
        if self._cancel is not None and self._cancel.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise GptError("the call was cancelled")
        if self._cancel is None and self._ending.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise StopIteration

    def close(self) -> None:
        self.closed = True
        self._left = iter(())
        self._ending.set()


class Scripted:
    """Gives its answers in turn, the last one for ever. May be shared by threads.

    `answers` holds those that are left and may be changed; `asked` the requests, `options` how each was made, `streams` the
    streams that were given; `closed` tells whether `close` was called. A text that is streamed comes word by word; parts that
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
        if isinstance(answer, ChatCompletion):
            return answer
        if isinstance(answer, str):
            return completion(answer)
        fold = Fold()
        for part in self._opened(answer, options, whole=True):
            fold.add(part)
        return fold.completion()

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ScriptedStream:
        stream = self._opened(self._next(request, options), options)
        self.streams.append(stream)
        return stream

    def _opened(self, answer: Said, options: CallOptions, *, whole: bool = False) -> ScriptedStream:
        parts: Sequence[Part]
        if isinstance(answer, str):
            parts = words(answer)
        elif isinstance(answer, ChatCompletion):
            parts = [_whole(answer)]
        elif isinstance(answer, ToolCall):
            parts = [answer]
        else:
            assert not isinstance(answer, GptError)
            parts = answer
        return ScriptedStream(_laid_out(parts, len(self.asked)), options, whole=whole)

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
        for item in self._stream._left:
            if isinstance(item, ChatCompletionChunk):
                return item
            if drive.waits or item == _FOR_EVER:
                await asyncio.sleep(item)
        raise StopAsyncIteration

    async def close(self) -> None:
        self._stream.close()


class AsyncScripted:
    """Scripted for asyncio; `script` is the Scripted that it is made of, and remembers."""

    def __init__(self, *answers: Answer) -> None:
        self.script = Scripted(*answers)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        answer = self.script._next(request, options)
        if isinstance(answer, ChatCompletion):
            return answer
        if isinstance(answer, str):
            return completion(answer)
        fold = Fold()
        async for part in AsyncScriptedStream(self.script._opened(answer, options, whole=True)):
            fold.add(part)
        return fold.completion()

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncScriptedStream:
        return AsyncScriptedStream(self.script.stream(request, options))

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self.script.models(options)

    async def close(self) -> None:
        self.script.close()
