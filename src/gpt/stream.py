"""A streamed answer: typed events as they come, and the completion that they add up to.

Entering the block sends; leaving it, closing or dropping the stream stops the work at the other end. `completion` is there
once the stream has ended and raises before; `snapshot` is there at any time. A stream that breaks off raises, and the error
carries what had arrived as `partial`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from gpt.backend import AsyncChunkStream, ChunkStream
from gpt.errors import InvalidRequestError, StreamTruncatedError
from gpt.protocol.chunks import Fold, Text
from gpt.protocol.codec import with_facts
from gpt.protocol.wire import AttemptInfo, Headers, ResponseInfo, Seconds
from gpt.types import ChatCompletion, ChatCompletionChunk, CustomToolCall, TokenLogprob, ToolCall, Usage

__all__ = [
    "AsyncChatStream",
    "ChatStream",
    "ContentEvent",
    "DoneEvent",
    "LogprobsEvent",
    "ReasoningEvent",
    "RefusalEvent",
    "StreamEvent",
    "ToolCallEvent",
    "UsageEvent",
]


class _TextEvent:
    """A piece of text: `delta` is what came, `index` the choice it belongs to."""

    __slots__ = ("_length", "_text", "delta", "index")
    type: str

    def __init__(self, delta: str, index: int, text: Text) -> None:
        self.delta = delta
        self.index = index
        self._text = text
        self._length = text.length

    @property
    def snapshot(self) -> str:
        """The text up to and with this piece. Made when asked for, so that an unread one costs nothing."""
        return (self._text.get() or "")[: self._length]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(delta={self.delta!r}, index={self.index})"


class ContentEvent(_TextEvent):
    """A piece of the answer."""

    __slots__ = ()
    type = "content"


class RefusalEvent(_TextEvent):
    """A piece of the model's refusal."""

    __slots__ = ()
    type = "refusal"


class ReasoningEvent(_TextEvent):
    """A piece of the model's thinking, under either of its names on the wire."""

    __slots__ = ()
    type = "reasoning"


class ToolCallEvent(msgspec.Struct, frozen=True):
    """A piece of a tool call: `delta` is what its arguments (or input) grew by, `snapshot` the call so far.

    `place` is the call's place among the choice's calls, from 0.
    """

    delta: str
    snapshot: ToolCall | CustomToolCall
    place: int
    index: int = 0
    type: str = "tool_call"


class LogprobsEvent(msgspec.Struct, frozen=True):
    """Log probabilities of the tokens that came: `delta` new ones of the content, `refusal` new ones of a refusal."""

    delta: list[TokenLogprob]
    refusal: list[TokenLogprob]
    index: int = 0
    type: str = "logprobs"


class UsageEvent(msgspec.Struct, frozen=True):
    """The tokens used so far."""

    usage: Usage
    type: str = "usage"


class DoneEvent(msgspec.Struct, frozen=True):
    """The end: the whole completion."""

    completion: ChatCompletion
    type: str = "done"


StreamEvent: TypeAlias = ContentEvent | RefusalEvent | ReasoningEvent | ToolCallEvent | LogprobsEvent | UsageEvent | DoneEvent


class _Reading:
    """What both streams share: chunks in, events out, the clocks. Never waits."""

    def __init__(self) -> None:
        self._fold = Fold()
        self._events: list[StreamEvent] = []  # in reverse, so that taking one is cheap
        self._started = time.perf_counter()
        self._first_token: Seconds | None = None
        self._headers = Headers()
        self._attempts: tuple[AttemptInfo, ...] = ()
        self._completion: ChatCompletion | None = None

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has come."""
        return self._completion or self._fold.completion()

    @property
    def completion(self) -> ChatCompletion:
        """The whole completion. Raises InvalidRequestError before the end of the stream."""
        if self._completion is None:
            raise InvalidRequestError(
                "the stream has not ended, so there is no completion yet; read it to its end or call until_done(), "
                "or take .snapshot for what has come so far"
            )
        return self._completion

    def _take(self, chunk: ChatCompletionChunk) -> None:
        """Fold a chunk in and queue its events."""
        events: list[StreamEvent] = []
        for event in self._fold.add(chunk):
            match event:
                case ("content", text, delta, index):
                    events.append(ContentEvent(delta, index, text))
                case ("refusal", text, delta, index):
                    events.append(RefusalEvent(delta, index, text))
                case ("reasoning", text, delta, index):
                    events.append(ReasoningEvent(delta, index, text))
                case ("tool_call", call, delta, index):
                    events.append(ToolCallEvent(delta, call.call(), call.place, index))
        events += [
            LogprobsEvent(choice.logprobs.content or [], choice.logprobs.refusal or [], choice.index)
            for choice in chunk.choices
            if choice.logprobs is not None
        ]
        if chunk.usage is not None:
            events.append(UsageEvent(chunk.usage))
        if events and self._first_token is None and not isinstance(events[0], UsageEvent):
            self._first_token = time.perf_counter() - self._started
        self._events = events[::-1]

    def _end(self) -> None:
        elapsed = time.perf_counter() - self._started
        completion = self._fold.completion()
        info = ResponseInfo(
            headers=self._headers,
            elapsed=elapsed,
            first_token=self._first_token,
            attempts=self._attempts,
            completion_tokens=completion.usage.completion_tokens if completion.usage else None,
        )
        with_facts(completion, None, info)
        self._completion = completion
        self._events = [DoneEvent(completion)]


class ChatStream(_Reading):
    """A streamed answer: a context manager and an iterator of events. `text_stream` iterates over the text alone."""

    def __init__(self, send: Callable[[], ChunkStream]) -> None:
        super().__init__()
        self._send: Callable[[], ChunkStream] | None = send
        self._chunks: ChunkStream | None = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamEvent:
        while not self._events:
            chunks = self._open()
            if chunks is None:
                raise StopIteration
            try:
                self._take(next(chunks))
            except StopIteration:
                self.close()
                self._end()
            except StreamTruncatedError as error:
                error.partial = self.snapshot
                raise
        return self._events.pop()

    def _open(self) -> ChunkStream | None:
        """The chunks, sending first where that has not been done; None once the stream is closed."""
        if self._send is not None:
            send, self._send = self._send, None
            self._started = time.perf_counter()
            self._chunks = send()
            self._headers = getattr(self._chunks, "headers", self._headers)
            self._attempts = getattr(self._chunks, "attempts", self._attempts)
        return self._chunks

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of the first choice's content as they come."""
        return (event.delta for event in self if isinstance(event, ContentEvent) and event.index == 0)

    def until_done(self) -> ChatCompletion:
        """Read the stream to its end. Gives the completion."""
        for _ in self:
            pass
        return self.completion

    def close(self) -> None:
        """Stop the answer and free what it held. What has come stays in `snapshot`."""
        self._send = None
        if self._chunks is not None:
            chunks, self._chunks = self._chunks, None
            chunks.close()


class AsyncChatStream(_Reading):
    """A streamed answer on asyncio: `async with` and `async for`. `text_stream` iterates over the text alone."""

    def __init__(self, send: Callable[[], Awaitable[AsyncChunkStream]]) -> None:
        super().__init__()
        self._send: Callable[[], Awaitable[AsyncChunkStream]] | None = send
        self._chunks: AsyncChunkStream | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        while not self._events:
            chunks = await self._open()
            if chunks is None:
                raise StopAsyncIteration
            try:
                self._take(await anext(chunks))
            except StopAsyncIteration:
                await self.close()
                self._end()
            except StreamTruncatedError as error:
                error.partial = self.snapshot
                raise
        return self._events.pop()

    async def _open(self) -> AsyncChunkStream | None:
        if self._send is not None:
            send, self._send = self._send, None
            self._started = time.perf_counter()
            self._chunks = await send()
            self._headers = getattr(self._chunks, "headers", self._headers)
            self._attempts = getattr(self._chunks, "attempts", self._attempts)
        return self._chunks

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of the first choice's content as they come."""
        return (event.delta async for event in self if isinstance(event, ContentEvent) and event.index == 0)

    async def until_done(self) -> ChatCompletion:
        """Read the stream to its end. Gives the completion."""
        async for _ in self:
            pass
        return self.completion

    async def close(self) -> None:
        """Stop the answer and free what it held. What has come stays in `snapshot`."""
        self._send = None
        if self._chunks is not None:
            chunks, self._chunks = self._chunks, None
            await chunks.close()
