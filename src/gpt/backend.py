"""The one noun: a Backend turns a `ChatRequest` into a `ChatCompletion` or a stream of chunks.

The remote service is one, the model in this process is another, a scripted double a third. Anything with these four
methods will do; nothing has to be inherited. `in_threads` is the one bridge from blocking code to asyncio.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from gpt.protocol.wire import Seconds, Timeout
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

T = TypeVar("T")


class CallOptions(msgspec.Struct, frozen=True):
    """How one call is made, beside what it asks. None means: as the backend was set up."""

    timeout: Timeout | None = None
    """Per attempt."""
    deadline: Seconds | None = None
    """For the whole call, attempts and waits together."""
    retry: Any = None
    headers: Mapping[str, str] | None = None
    query: Mapping[str, str] | None = None
    cancel: threading.Event | None = None
    """Set by another thread when nobody waits for the answer any more; a backend that blocks looks at it."""

    def __repr__(self) -> str:
        return f"CallOptions(timeout={self.timeout!r}, deadline={self.deadline!r})"


DEFAULT_OPTIONS = CallOptions()


class ChunkStream(Protocol):
    """Chunks as they come. Leaving the block, or `close`, stops the work at the other end and frees what it held."""

    def __iter__(self) -> Iterator[ChatCompletionChunk]: ...

    def __next__(self) -> ChatCompletionChunk: ...

    def close(self) -> None: ...


class AsyncChunkStream(Protocol):
    """ChunkStream for asyncio."""

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]: ...

    async def __anext__(self) -> ChatCompletionChunk: ...

    async def close(self) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """Answers requests, blocking. Raises GptError and nothing else. May be shared by threads."""

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion: ...

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        """Sends at once and returns when the answer begins. A backend may leave errors to the first `next`."""
        ...

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList: ...

    def close(self) -> None: ...


@runtime_checkable
class AsyncBackend(Protocol):
    """Answers requests on asyncio. Cancelling the task stops the work at the other end."""

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion: ...

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream: ...

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList: ...

    async def close(self) -> None: ...
