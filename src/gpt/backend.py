"""The one noun: a Backend turns a `ChatRequest` into a `ChatCompletion` or a stream of chunks.

The remote service is one, the model in this process is another, a scripted double a third. Anything with these four methods
will do; nothing has to be inherited. Things it may have besides: a `profile`, a Profile, which says what it does otherwise than
others; a method `count_tokens(request, options)`, awaited on an AsyncBackend, which gives an exact TokenCount of the prompt;
and, for a service that stores completions, `stored(call, options)`, awaited likewise, which gives what a StoredCall asks.
For a server over it there are five more, all optional: `load()` makes it ready, `slots` are the calls that it makes at once,
`refuses` the parameters that no call can have, `without_effect(request)` names what of a request, as plain JSON values, changes
nothing in its answer, and `metrics()` is Prometheus text. They are as blocking as the backend. `in_threads` is the one bridge
from blocking code to asyncio; a blocking backend that makes its answers in threads of its own may have one more for it, which
spares each chunk a change of threads: `stream_into(request, options, put)`. It begins a stream and returns an object that is
not read, may have an `info`, and is dropped with the stream; its own threads call `put` with each chunk, and at last, once,
with None or with what ended the stream. It looks at `options.cancel`, and at no clock: a call with a timeout or a deadline goes
by `stream`. So does every call of a layer over such a backend, and of a class that inherits it with a `stream` of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import msgspec

from gpt.protocol.profiles import Profile
from gpt.protocol.wire import AttemptInfo, ResponseInfo, Seconds, Timeout
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

if TYPE_CHECKING:
    import asyncio
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from gpt.protocol.tokens import TokenCount

T = TypeVar("T")
Asked = TypeVar("Asked")


class CallOptions(msgspec.Struct, frozen=True, gc=False):
    """How one call is made, beside what it asks. None means: as the backend was set up."""

    timeout: Timeout | None = None
    """Per attempt."""
    deadline: Seconds | None = None
    """For the whole call, attempts and waits together."""
    retry: Any = None
    headers: Mapping[str, str] | None = None
    query: Mapping[str, str] | None = None
    cancel: Any = None
    """A threading.Event, set by another thread when nobody waits for the answer any more; a backend that blocks looks at it."""
    retrying: Callable[[AttemptInfo, Seconds], Seconds | None] | None = None
    """Called with an attempt that failed, and the seconds until the next, by a backend that tries again; 0.0 where the next
    goes at once, whatever is said. May give more seconds: the next attempt is then made after these, or not at all where the
    call may not take so long.
    """

    def __repr__(self) -> str:
        return f"CallOptions(timeout={self.timeout!r}, deadline={self.deadline!r})"


DEFAULT_OPTIONS = CallOptions()


class ChunkStream(Protocol):
    """Chunks as they come. `close` or dropping it stops the work at the other end and frees what it held.

    One that has an `info`, a ResponseInfo, tells with it what is known of the exchange.
    """

    def __iter__(self) -> Iterator[ChatCompletionChunk]: ...

    def __next__(self) -> ChatCompletionChunk: ...

    def close(self) -> None:
        """Stop. One whose last chunk has been given may also take leave of the other end in peace."""
        ...


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
        """Sends at once. Returns when the first content has come, until which a backend may try again; or leaves that, and
        errors, to the first `next`.
        """
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


def is_awaited(backend: Any) -> bool:
    """Whether a backend is for asyncio. The two protocols have the same names; what tells them apart is `complete`."""
    import inspect

    return inspect.iscoroutinefunction(backend.complete)


def identity_of(backend: Any) -> str:
    """What answers, by a name without secrets, for the keys of a cache: backends with the same one answer alike.

    Its own `identity`, a text, where it has one; else the origin and path of its `endpoint`; of a layer, that of the backend
    below it; else its class, with its `model`.
    """
    while True:
        own = getattr(backend, "identity", None)
        if isinstance(own, str):
            return own
        endpoint = getattr(backend, "endpoint", None)
        if endpoint is not None:
            return f"{endpoint.origin}{endpoint.path}"
        below = getattr(backend, "_backend", None)
        if below is None:
            model = getattr(backend, "model", None)
            name = f"{type(backend).__module__}.{type(backend).__qualname__}"
            return f"{name}({model!r})" if isinstance(model, str) else name
        backend = below


def host_of(backend: Any) -> str | None:
    """Who answers, as `prices.cost` has it: a server's host, or "local:" for the model in this process; None where that is not
    known beforehand, as of a Fallback, whose answers tell.
    """
    local = sys.modules.get("gpt.local.backend")
    while backend is not None:
        endpoint = getattr(backend, "endpoint", None)
        if endpoint is not None:
            host: str = endpoint.origin.host
            return host
        if local is not None and isinstance(backend, local.Local):
            return "local:"
        backend = getattr(backend, "_backend", None)  # below a layer, or in_threads
    return None


def below(backend: Any, name: str) -> Any:
    """The attribute `name` of the first backend that has it, going down from layer to layer; None where none has."""
    while backend is not None:
        found = getattr(backend, name, None)
        if found is not None:
            return found
        backend = getattr(backend, "_backend", None)
    return None


def counter_of(backend: Any) -> Any:
    """The method `count_tokens` of a backend, or of the one below its layers; None where there is none."""
    return _method_of(backend, "count_tokens")


def keeper_of(backend: Any) -> Any:
    """The method `stored` of a backend, or of the one below its layers; None where there is none."""
    return _method_of(backend, "stored")


def _method_of(backend: Any, name: str) -> Any:
    """A method that a backend may have, as it is called by who holds this one: awaited above `in_threads`."""
    while backend is not None:
        method = getattr(backend, name, None)
        if method is not None or isinstance(backend, _InThreads):
            return method
        backend = getattr(backend, "_backend", None)
    return None


# --------------------------------------------------------------------------------------------------------------------
# The bridge
# --------------------------------------------------------------------------------------------------------------------

MAX_THREADS = 64
"""Calls that `in_threads` makes at a time; more wait their turn. An engine has far fewer slots."""


def in_threads(backend: Backend, threads: int = MAX_THREADS) -> AsyncBackend:
    """An AsyncBackend that makes each call of `backend` in a thread, so many at a time.

    Cancelling the task sets `CallOptions.cancel`, at which a blocking backend stops the work; the task does not wait for it.
    """
    return _InThreads(backend, threads)


class _InThreads:
    def __init__(self, backend: Backend, threads: int = MAX_THREADS) -> None:
        self._backend = backend
        self._most = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def __repr__(self) -> str:
        return f"in_threads({self._backend!r})"

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    @property
    def count_tokens(self) -> Callable[[ChatRequest, CallOptions], Awaitable[TokenCount]] | None:
        """None where the backend has no such method."""
        method = counter_of(self._backend)
        return None if method is None else partial(self._call, method)

    @property
    def stored(self) -> Callable[[Any, CallOptions], Awaitable[Any]] | None:
        """None where the backend has no such method."""
        method = keeper_of(self._backend)
        return None if method is None else partial(self._call, method)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return await self._call(self._backend.complete, request, options)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._run(lambda: self._backend.models(options))

    async def close(self) -> None:
        await self._run(self._backend.close)
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        options = _cancellable(options)
        made = _ThreadStream(options.cancel)
        into = _into(self._backend)
        if into is not None and options.timeout is None and options.deadline is None:
            made.below = await self._call(partial(into, put=made.put), request, options)
        else:
            stream = made.below = await self._call(self._backend.stream, request, options)
            self._threads().submit(_pump, stream, options.cancel, made.put)
        return made

    async def _call(self, method: Callable[[Asked, CallOptions], T], request: Asked, options: CallOptions) -> T:
        options = _cancellable(options)
        done = False
        try:
            result = await self._run(lambda: method(request, options))
            done = True
        finally:
            if not done:
                options.cancel.set()
        return result

    async def _run(self, work: Callable[[], T]) -> T:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._threads(), work)

    def _threads(self) -> ThreadPoolExecutor:
        # In a forked child its parent's pool would wait for threads that are not there.
        if self._pool is None or self._process != os.getpid():
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="gpt")
            self._process = os.getpid()
        return self._pool


_Item: TypeAlias = ChatCompletionChunk | BaseException | None
"""A chunk, what ended a stream in its middle, or None after the last."""

Put: TypeAlias = Callable[[_Item], object]
"""What takes the items of a stream, from any thread. It raises nothing and waits for nothing."""


def _into(backend: Any) -> Any:
    """The method `stream_into` of a backend; None where it has none, or a `stream` that it would pass by: that of a class which
    inherits the other, or one that was set on the object.
    """
    for owner in (backend, *type(backend).__mro__):
        own = getattr(owner, "__dict__", {})
        if "stream_into" in own:
            return backend.stream_into
        if "stream" in own:
            return None
    return None


def _cancellable(options: CallOptions) -> CallOptions:
    import threading

    return options if options.cancel is not None else msgspec.structs.replace(options, cancel=threading.Event())


class _ThreadStream:
    """A queue of the event loop, into which a thread puts the chunks of a blocking stream, by `put`."""

    def __init__(self, cancel: threading.Event) -> None:
        import asyncio

        self.below: Any = None
        """What the backend gave. It is kept for as long as this, because dropping it stops the work."""
        self._cancel = cancel
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._ended = False
        # Who puts holds no reference to this object, so that dropping it ends the work.
        self.put = partial(_put, asyncio.get_running_loop(), self._queue, cancel)

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self.below, "info", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        if self._ended:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, ChatCompletionChunk):
            return item
        self._ended = True
        if item is None:
            raise StopAsyncIteration
        try:
            raise item
        finally:
            del item  # an error holds this frame, which must not hold it in turn

    async def close(self) -> None:
        self._ended = True
        self._cancel.set()

    def __del__(self) -> None:
        self._cancel.set()


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[_Item], cancel: threading.Event, item: _Item) -> None:
    """Put an item into a queue of a loop, from another thread; where the loop is closed nobody reads it, and the work ends."""
    try:
        loop.call_soon_threadsafe(queue.put_nowait, item)
    except RuntimeError:
        cancel.set()


def _pump(stream: ChunkStream, cancel: threading.Event, put: Put) -> None:
    end: BaseException | None = None
    try:
        try:
            for chunk in stream:
                if cancel.is_set():
                    break
                put(chunk)
        finally:
            stream.close()
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the task that reads the stream
        end = error
    put(end)
    del end  # as in `__anext__`
