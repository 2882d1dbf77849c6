"""A streamed answer: typed events as they come and the completion that they add up to, or raw chunks.

Entering the block sends; leaving it, closing or dropping the stream stops the work at the other end. `completion` is there
once the stream has ended and raises before; `snapshot` is there at any time. An error in the middle carries what had arrived as
`partial`. What went wrong before the first content has been tried again as any call is; after it nothing is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from gpt.backend import AsyncChunkStream, ChunkStream
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.chunks import Fold, has_content
from gpt.protocol.codec import with_info
from gpt.protocol.events import (
    AudioEvent,
    ContentEvent,
    DoneEvent,
    FilterEvent,
    LogprobsEvent,
    ReasoningEvent,
    RefusalEvent,
    StreamEvent,
    ToolCallEvent,
    UsageEvent,
    ValueEvent,
)
from gpt.protocol.wire import ResponseInfo, Seconds
from gpt.types import ChatCompletion, ChatCompletionChunk

__all__ = [
    "AsyncChatStream",
    "AsyncChunkIterator",
    "AudioEvent",
    "ChatStream",
    "ChunkIterator",
    "ContentEvent",
    "DoneEvent",
    "FilterEvent",
    "LogprobsEvent",
    "ReasoningEvent",
    "RefusalEvent",
    "StreamEvent",
    "ToolCallEvent",
    "UsageEvent",
    "ValueEvent",
]


class _Reading:
    """What all four streams share: the fold of what has come, and the times. Never waits."""

    def __init__(self, started: Seconds, *, keep_unknown: bool) -> None:
        self._fold = Fold(keep_unknown=keep_unknown)
        self._chunks: Any = None
        self._known: ResponseInfo | None = None
        self._started = started
        self._first_token: Seconds | None = None
        self._elapsed: Seconds | None = None

    @property
    def info(self) -> ResponseInfo:
        """The facts of the exchange so far: status, headers, attempts; at the end also how it ended, and how fast it was."""
        # A backend that knows more than the times says so.
        known: ResponseInfo | None = getattr(self._chunks, "info", None) or self._known
        elapsed = perf_counter() - self._started if self._elapsed is None else self._elapsed
        return self._fold.info(known, elapsed, self._first_token)

    def _note(self, chunk: ChatCompletionChunk) -> None:
        """Take in that content may have come for the first time."""
        if has_content(chunk):
            self._first_token = perf_counter() - self._started

    def _broke(self, error: GptError) -> None:
        """Take in that the stream ended by an error."""
        self._elapsed = perf_counter() - self._started
        error.partial = self._fold.completion()


class _Events(_Reading):
    """What both streams of events share."""

    def __init__(self) -> None:
        super().__init__(perf_counter(), keep_unknown=True)
        self._events: deque[StreamEvent] = deque()
        self._completion: ChatCompletion | None = None
        self._problem: GptError | None = None

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has come."""
        return self._completion or self._fold.completion()

    @property
    def completion(self) -> ChatCompletion:
        """The whole completion. Raises InvalidRequestError before the end of the stream."""
        if self._completion is None:
            if self._problem is not None:
                raise InvalidRequestError(
                    f"the stream broke off, so there is no completion ({self._problem.message}); .snapshot is what had come"
                ) from self._problem
            raise InvalidRequestError(
                "the stream has not ended, so there is no completion yet; read it to its end or call until_done(), "
                "or take .snapshot for what has come so far"
            )
        return self._completion

    def _take(self, chunk: ChatCompletionChunk) -> None:
        """Fold a chunk in and queue its events."""
        self._fold.add(chunk, self._events)
        if self._first_token is None:
            self._note(chunk)

    def _end(self) -> None:
        self._elapsed = perf_counter() - self._started
        completion = self._fold.completion()
        with_info(completion, self.info)
        self._completion = completion
        self._events.append(DoneEvent(completion))

    def _broke(self, error: GptError) -> None:
        super()._broke(error)
        self._problem = error


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class ChatStream(_Events):
    """A streamed answer: a context manager and an iterator of events. `text_stream` iterates over the text alone."""

    def __init__(self, send: Callable[[], ChunkStream]) -> None:
        super().__init__()
        self._send: Callable[[], ChunkStream] | None = send
        self._chunks: ChunkStream | None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamEvent:
        events = self._events
        while not events:
            chunks = self._chunks or self._open()
            if chunks is None:
                raise StopIteration
            try:
                self._take(next(chunks))
            except StopIteration:
                self.close()
                self._end()
            except GptError as error:
                self._broke(error)
                self.close()
                raise
        return events.popleft()

    def _open(self) -> ChunkStream | None:
        """The chunks, sending first where that has not been done; None once the stream is closed."""
        if self._send is not None:
            send, self._send = self._send, None
            self._started = perf_counter()
            self._chunks = send()
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
            self._known = getattr(chunks, "info", None)


class ChunkIterator(_Reading):
    """Raw chunks: an iterator and a context manager. Leaving the block, or `close`, stops the answer."""

    def __init__(self, chunks: ChunkStream, started: Seconds) -> None:
        super().__init__(started, keep_unknown=False)
        self._chunks: ChunkStream = chunks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._elapsed = self._elapsed or perf_counter() - self._started
            raise
        except GptError as error:
            self._broke(error)
            self.close()
            raise
        self._fold.add(chunk)
        if self._first_token is None:
            self._note(chunk)
        return chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the answer and free what it held."""
        self._chunks.close()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncChatStream(_Events):
    """A streamed answer on asyncio: `async with` and `async for`. `text_stream` iterates over the text alone."""

    def __init__(self, send: Callable[[], Awaitable[AsyncChunkStream]]) -> None:
        super().__init__()
        self._send: Callable[[], Awaitable[AsyncChunkStream]] | None = send
        self._chunks: AsyncChunkStream | None

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
        events = self._events
        while not events:
            chunks = self._chunks or await self._open()
            if chunks is None:
                raise StopAsyncIteration
            try:
                self._take(await anext(chunks))
            except StopAsyncIteration:
                await self.close()
                self._end()
            except GptError as error:
                self._broke(error)
                await self.close()
                raise
            except BaseException:  # the task is cancelled
                await self.close()
                raise
        return events.popleft()

    async def _open(self) -> AsyncChunkStream | None:
        """The chunks, sending first where that has not been done; None once the stream is closed."""
        if self._send is not None:
            send, self._send = self._send, None
            self._started = perf_counter()
            self._chunks = await send()
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
            self._known = getattr(chunks, "info", None)


class AsyncChunkIterator(_Reading):
    """Raw chunks: an async iterator and an async context manager. Leaving the block, or `close`, stops the answer."""

    def __init__(self, chunks: AsyncChunkStream, started: Seconds) -> None:
        super().__init__(started, keep_unknown=False)
        self._chunks: AsyncChunkStream = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._elapsed = self._elapsed or perf_counter() - self._started
            raise
        except GptError as error:
            self._broke(error)
            await self.close()
            raise
        except BaseException:  # the task is cancelled
            await self.close()
            raise
        self._fold.add(chunk)
        if self._first_token is None:
            self._note(chunk)
        return chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the answer and free what it held."""
        await self._chunks.close()
