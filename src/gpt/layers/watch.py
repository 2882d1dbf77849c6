"""A Backend over a Backend that tells a hook what happens in each call. There is none where nobody asked for it.

The hook is called where the call is made, in its thread or task; of retries below `in_threads`, in the thread there. It must
not block. What it raises becomes a warning, because a call that is paid for must not be lost to its observer.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any, Generic, Literal, Self, TypeVar

import msgspec

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, AsyncChunkStream, Backend, CallOptions, ChunkStream
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.chunks import Fold, has_content
from gpt.protocol.codec import with_info
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import AttemptInfo, ResponseInfo, Seconds
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

Kind = Literal["request", "retry", "first_token", "chunk", "done", "error", "closed"]

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)


class CallEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a call.

    Each call has one "request" and at last one of "done", "error" and "closed" (the caller left before the end), with "retry"
    before each further attempt; a streamed one also has "first_token" and a "chunk" for each chunk.
    """

    kind: Kind
    call: int
    """The call's number in this process."""
    request: ChatRequest
    streamed: bool
    backend: Any
    """What was asked."""
    elapsed: Seconds
    """Since the start of the call."""
    attempt: AttemptInfo | None = None
    """Of "retry": the attempt that failed."""
    wait: Seconds = 0.0
    """Of "retry": seconds until the next one."""
    chunk: ChatCompletionChunk | None = None
    """Of "chunk"."""
    completion: ChatCompletion | None = None
    """Of "done", with its `info`; of "closed" what had come."""
    error: GptError | None = None
    """Of "error"."""

    def __repr__(self) -> str:
        return f"CallEvent({self.kind!r}, call={self.call}, elapsed={self.elapsed:.3f})"


Hook = Callable[[CallEvent], object]


def checked_hook(hook: Any) -> Hook:
    """The hook, if it can be called with an event. Raises InvalidRequestError."""
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise InvalidRequestError(
            f"on_event: expected a plain function of one CallEvent, got {hook!r}; it is not awaited, and must not block",
            param="on_event",
        )
    made: Hook = hook
    return made


_numbers = itertools.count(1)


class _Call:
    """One call that is told of."""

    __slots__ = ("_backend", "_hook", "_number", "_request", "_started", "_streamed", "ended")

    def __init__(self, hook: Hook, backend: Any, request: ChatRequest, *, streamed: bool) -> None:
        self._hook = hook
        self._backend = backend
        self._request = request
        self._streamed = streamed
        self._number = next(_numbers)
        self._started = perf_counter()
        self.ended = False
        self.tell("request")

    @property
    def elapsed(self) -> Seconds:
        """Seconds since the start of the call."""
        return perf_counter() - self._started

    def tell(self, kind: Kind, **details: Any) -> None:
        """Tell the hook."""
        self.ended = kind in ("done", "error", "closed")
        event = CallEvent(
            kind=kind,
            call=self._number,
            request=self._request,
            streamed=self._streamed,
            backend=self._backend,
            elapsed=self.elapsed,
            **details,
        )
        try:
            self._hook(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the call's
            warnings.warn(f"on_event raised {error!r} at {event!r}; the call goes on", RuntimeWarning, stacklevel=2)

    def options(self, options: CallOptions) -> CallOptions:
        """The call's options, with word of its retries. Whoever else is told may put one off, or keep it from being made."""
        told = options.retrying

        def retrying(attempt: AttemptInfo, wait: Seconds) -> Seconds:
            if told is not None:
                wait = max(wait, told(attempt, wait) or 0.0)
            if wait < math.inf:
                self.tell("retry", attempt=attempt, wait=wait)
            return wait

        return msgspec.structs.replace(options, retrying=retrying)

    def failed(self, error: BaseException) -> None:
        """Tell that the call ended by `error`."""
        if isinstance(error, GptError):
            self.tell("error", error=error)
        else:  # Ctrl-C, a task that is cancelled
            self.tell("closed")


class Watched:
    """`backend`, with a hook, which is told that `asked` was asked where that is another: the one below all layers."""

    def __init__(self, backend: Backend, hook: Hook, asked: Any = None) -> None:
        self._backend = backend
        self._hook = checked_hook(hook)
        self._asked = backend if asked is None else asked

    def __repr__(self) -> str:
        return f"Watched({self._backend!r})"

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        call = _Call(self._hook, self._asked, request, streamed=False)
        try:
            completion = self._backend.complete(request, call.options(options))
        except BaseException as error:
            call.failed(error)
            raise
        call.tell("done", completion=completion)
        return completion

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        call = _Call(self._hook, self._asked, request, streamed=True)
        try:
            chunks = self._backend.stream(request, call.options(options))
        except BaseException as error:
            call.failed(error)
            raise
        return WatchedStream(chunks, call)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def close(self) -> None:
        self._backend.close()


class AsyncWatched:
    """Watched for asyncio."""

    def __init__(self, backend: AsyncBackend, hook: Hook, asked: Any = None) -> None:
        self._backend = backend
        self._hook = checked_hook(hook)
        self._asked = backend if asked is None else asked

    def __repr__(self) -> str:
        return f"AsyncWatched({self._backend!r})"

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        call = _Call(self._hook, self._asked, request, streamed=False)
        try:
            completion = await self._backend.complete(request, call.options(options))
        except BaseException as error:
            call.failed(error)
            raise
        call.tell("done", completion=completion)
        return completion

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        call = _Call(self._hook, self._asked, request, streamed=True)
        try:
            chunks = await self._backend.stream(request, call.options(options))
        except BaseException as error:
            call.failed(error)
            raise
        return AsyncWatchedStream(chunks, call)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def close(self) -> None:
        await self._backend.close()


class _Watching(Generic[Source]):
    """What both streams share."""

    _chunks: Source

    def __init__(self, chunks: Source, call: _Call) -> None:
        self._chunks = chunks
        self._call = call
        self._fold = Fold(keep_unknown=False)
        self._first_token: Seconds | None = None

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    def _take(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        self._fold.add(chunk)
        if self._first_token is None and has_content(chunk):
            self._first_token = self._call.elapsed
            self._call.tell("first_token")
        self._call.tell("chunk", chunk=chunk)
        return chunk

    def _end(self, kind: Literal["done", "closed"]) -> None:
        if not self._call.ended:
            completion = self._fold.completion()
            with_info(completion, self._fold.info(self.info, self._call.elapsed, self._first_token))
            self._call.tell(kind, completion=completion)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, GptError):
            self._call.failed(error)
        else:
            self._end("closed")

    def __del__(self) -> None:
        if hasattr(self, "_first_token"):
            self._end("closed")


class WatchedStream(_Watching[ChunkStream]):
    """Chunks that are told of."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._end("done")
            raise
        except BaseException as error:
            self._fail(error)
            raise
        return self._take(chunk)

    def close(self) -> None:
        self._chunks.close()
        self._end("closed")


class AsyncWatchedStream(_Watching[AsyncChunkStream]):
    """WatchedStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._end("done")
            raise
        except BaseException as error:
            self._fail(error)
            raise
        return self._take(chunk)

    async def close(self) -> None:
        await self._chunks.close()
        self._end("closed")
