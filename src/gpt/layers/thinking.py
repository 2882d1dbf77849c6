"""A Backend over a Backend that tells thinking from the answer where a server leaves it in the content.

There is none where the backend's profile has no `think_tags`. It stands right above the backend, so that all else sees the two
apart.
"""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from gpt.backend import (
    DEFAULT_OPTIONS,
    AsyncBackend,
    AsyncChunkStream,
    Backend,
    CallOptions,
    ChunkStream,
    keeper_of,
)
from gpt.errors import GptError
from gpt.protocol.profiles import Profile
from gpt.protocol.thinking import ChunkSplitter, split, split_stored
from gpt.protocol.wire import ResponseInfo
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)


def _profile(backend: Any) -> Profile:
    profile: Profile = backend.profile
    return profile


class Split:
    """`backend`, which has a profile with `think_tags`, with thinking apart from the answer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.profile = _profile(backend)

    def __repr__(self) -> str:
        return f"Split({self._backend!r})"

    @property
    def stored(self) -> Any:
        """None where the backend has no such method."""
        method, profile = keeper_of(self._backend), self.profile
        if method is None:
            return None
        return lambda call, options=DEFAULT_OPTIONS: split_stored(method(call, options), profile)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return split(self._backend.complete(request, options), self.profile)

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        return SplitStream(self._backend.stream(request, options), self.profile)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def close(self) -> None:
        self._backend.close()


class AsyncSplit:
    """Split for asyncio."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend
        self.profile = _profile(backend)

    def __repr__(self) -> str:
        return f"AsyncSplit({self._backend!r})"

    @property
    def stored(self) -> Any:
        """None where the backend has no such method."""
        method, profile = keeper_of(self._backend), self.profile
        if method is None:
            return None

        async def stored(call: Any, options: CallOptions = DEFAULT_OPTIONS) -> Any:
            return split_stored(await method(call, options), profile)

        return stored

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return split(await self._backend.complete(request, options), self.profile)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        return AsyncSplitStream(await self._backend.stream(request, options), self.profile)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def close(self) -> None:
        await self._backend.close()


class _Splitting(Generic[Source]):
    """What both streams share."""

    _chunks: Source

    def __init__(self, chunks: Source, profile: Profile) -> None:
        self._chunks = chunks
        self._splitter = ChunkSplitter(profile)
        self._end: Exception | None = None

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    def _rest(self, end: Exception) -> ChatCompletionChunk:
        """What is still held back when the stream ends, by whatever; the next time, and where there is nothing, its end."""
        rest = self._splitter.end()
        if rest is None:
            raise end
        self._end = end
        return rest

    def _ended(self) -> None:
        """Raise the end that had to wait."""
        if self._end is not None:
            end, self._end = self._end, None
            raise end

    def _left(self) -> None:
        """Give nothing any more."""
        self._splitter.end()
        self._end = None


class SplitStream(_Splitting[ChunkStream]):
    """Chunks with thinking apart from the answer."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        self._ended()
        try:
            return self._splitter.feed(next(self._chunks))
        except (StopIteration, GptError) as end:
            return self._rest(end)

    def close(self) -> None:
        self._left()
        self._chunks.close()


class AsyncSplitStream(_Splitting[AsyncChunkStream]):
    """SplitStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        self._ended()
        try:
            return self._splitter.feed(await anext(self._chunks))
        except (StopAsyncIteration, GptError) as end:
            return self._rest(end)

    async def close(self) -> None:
        self._left()
        await self._chunks.close()
