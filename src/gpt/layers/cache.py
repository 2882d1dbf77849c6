"""A Backend over a Backend that keeps answers on disk, and gives them again to equal requests.

Requests are equal when their canonical forms are (`protocol/canonical.py`) and the same server is asked. Whole answers and
streams serve each other. An answer is kept when it is whole: no error, no stream that was left or broke off. Equal whole calls
that are made at the same time ask once. A stream waits for a whole call, but nobody waits for a stream: its pace is its
reader's, and a reader of two equal streams would wait for itself.

On asyncio one thread has the file. A lookup in a file that is in memory takes less than the way to that thread and back, but
one on a cold disk, or a write that waits for another process, may take seconds, for which the event loop would stand still.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec

from gpt.backend import (
    DEFAULT_OPTIONS,
    AsyncBackend,
    AsyncChunkStream,
    Backend,
    CallOptions,
    ChunkStream,
    identity_of,
)
from gpt.errors import GptError, InvalidRequestError, RequestTimeoutError
from gpt.layers.over import Below, Over
from gpt.layers.store import SMALLEST, CacheStats, Entry, Store
from gpt.protocol import codec
from gpt.protocol.canonical import canonical, key, plain, repeatable, with_list
from gpt.protocol.chunks import fold, whole
from gpt.protocol.wire import Headers, ResponseInfo, Seconds
from gpt.types import UNSET, ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Source = TypeVar("Source", ChunkStream, AsyncChunkStream)

__all__ = ["AsyncCache", "Cache", "CacheStats", "repeatable"]

LOOK = 0.1
"""Seconds between two looks at whether a call that waits for another one has been cancelled."""

Outcome: TypeAlias = Entry | Literal["failed", "left"]
"""What came of a call that others wait for: an answer; none, so that each asks for itself; or nobody asks any more."""

Flight: TypeAlias = "futures.Future[Outcome]"


class _Flights:
    """The whole calls that are being made, by key. A process that was forked has none of its parent's."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._flights: dict[bytes, Flight] = {}
        self.hits = self.misses = 0

    def _own(self) -> threading.Lock:
        if self._process != os.getpid():
            self._begin()
        return self._lock

    def enter(self, name: bytes) -> tuple[Flight, bool]:
        """The call with this key, and whether it is the first one's to make."""
        with self._own():
            flight = self._flights.get(name)
            if flight is not None:
                return flight, False
            flight = self._flights[name] = futures.Future()
            return flight, True

    def current(self, name: bytes) -> Flight | None:
        """The call with this key that is being made, if there is one."""
        with self._own():
            return self._flights.get(name)

    @contextmanager
    def led(self, name: bytes, flight: Flight) -> Iterator[None]:
        """The time in which the first one makes the call."""
        outcome: Outcome = "left"
        try:
            yield
            outcome = "failed"  # where the block has not said otherwise
        except GptError:
            outcome = "failed"
            raise
        finally:
            with self._own():
                self._flights.pop(name, None)
            if not flight.done():
                flight.set_result(outcome)

    def count(self, *, hit: bool) -> None:
        """Count a call."""
        with self._own():
            if hit:
                self.hits += 1
            else:
                self.misses += 1


class _Caching(Over[Below]):
    """What both caches share."""

    def __init__(
        self,
        backend: Below,
        path: str | os.PathLike[str],
        *,
        max_age: Seconds | None = None,
        max_bytes: int | None = None,
        when: Callable[[ChatRequest], bool] | None = None,
        clock: Callable[[], Seconds] = time.time,
    ) -> None:
        if max_age is not None and not max_age > 0:
            raise InvalidRequestError(
                f"max_age: expected seconds above 0, or None for no limit, got {max_age!r}", param="max_age"
            )
        if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < SMALLEST):
            raise InvalidRequestError(
                f"max_bytes: expected an int from {SMALLEST}, or None for no limit, got {max_bytes!r}", param="max_bytes"
            )
        self._backend: Below = backend
        self._server = identity_of(backend)
        self._when = when
        self._store = Store(os.path.abspath(os.fspath(path)), max_age, max_bytes, clock)
        self._flights = _Flights()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._backend!r}, {self._store.path!r})"

    def _key(self, request: ChatRequest) -> bytes | None:
        """The key of a request; None for one that is not to be kept, or that cannot be sent, which the backend says best."""
        if self._when is not None and not self._when(request):
            return None
        try:
            return key(canonical(plain(request, self.profile)), self._server)
        except InvalidRequestError:
            return None

    def _answer(self, entry: Entry, started: Seconds) -> ChatCompletion | None:
        """The completion in an entry; None where its bytes are damaged."""
        try:
            if entry.streamed:
                made = fold(_chunks(entry))
                codec.with_info(made, _info(entry, started))
                return made
            return codec.decode_completion(entry.body, _info(entry, started))
        except msgspec.DecodeError as error:
            self._damaged(error)
            return None

    def _pieces(self, entry: Entry, request: ChatRequest) -> list[ChatCompletionChunk] | None:
        """The chunks in an entry, as this request asks for them; None where its bytes are damaged."""
        try:
            if not entry.streamed:
                return [whole(codec.decode_completion(entry.body))]
            chunks = _chunks(entry)
        except msgspec.DecodeError as error:
            self._damaged(error)
            return None
        if entry.with_usage and not _wants_usage(request):
            # Who did not ask for it does not expect a chunk without choices.
            chunks = [chunk for chunk in chunks if chunk.choices or chunk.usage is None]
        return chunks

    def _damaged(self, error: msgspec.DecodeError) -> None:
        text = f"cache: an answer in {self._store.path} is damaged ({error}); it is asked for anew"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _info(entry: Entry, started: Seconds) -> ResponseInfo:
    """The facts of a call that was answered from an entry."""
    headers = Headers([("x-request-id", entry.request_id)] if entry.request_id else [])
    return ResponseInfo(
        200, headers, elapsed=perf_counter() - started, ended="complete" if entry.streamed else None, cached=True
    )


def _chunks(entry: Entry) -> list[ChatCompletionChunk]:
    return [codec.decode_chunk(bytes(body)) for body in msgspec.json.decode(entry.body, type=list[msgspec.Raw])]


def _entry(completion: ChatCompletion) -> Entry | None:
    """What is kept of a whole answer; None where it is not whole."""
    info = completion.info
    if not codec.is_answer(completion) or (info is not None and info.ended == "truncated"):
        return None
    return Entry(completion.to_json(), streamed=False, request_id=info.request_id if info is not None else None)


def _wants_usage(request: ChatRequest) -> bool:
    options: Any = request.stream_options
    if options is UNSET or options is None:
        return False
    return (options.get("include_usage") if isinstance(options, dict) else options.include_usage) is True


def _late() -> RequestTimeoutError:
    return RequestTimeoutError("the deadline is over; an equal call was being waited for", phase="deadline")


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class Cache(_Caching[Backend]):
    """`backend`, with its answers kept in the SQLite file at `path`.

    An answer is given again for `max_age` seconds, and kept as long as the file has at most `max_bytes` bytes; those that were
    not used for longest go first. `when` says which requests are looked up and kept: all by default, with `gpt.repeatable` only
    those with a temperature of 0 or a seed. `info.cached` tells of an answer where it came from. Errors are never kept. `clock`
    gives Unix seconds. May be shared by threads, and its file by processes.

    Raises InvalidRequestError for settings that make no sense, and at the first call for a file that is another program's.
    """

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        started = perf_counter()
        request = with_list(request)
        name = self._key(request)
        if name is None:
            return self._backend.complete(request, options)
        while True:
            flight, first = self._flights.enter(name)
            if first:
                return self._lead(flight, name, request, options, started)
            options = _landed(flight, options)
            outcome = flight.result()
            if outcome == "failed":
                return self._ask(name, request, options)
            if isinstance(outcome, Entry) and (made := self._answer(outcome, started)) is not None:
                self._flights.count(hit=True)
                return made

    def _lead(
        self, flight: Flight, name: bytes, request: ChatRequest, options: CallOptions, started: Seconds
    ) -> ChatCompletion:
        """The answer, for those too who wait for it."""
        with self._flights.led(name, flight):
            entry = self._store.get(name)
            if entry is not None and (made := self._answer(entry, started)) is not None:
                self._flights.count(hit=True)
                flight.set_result(entry)
                return made
            return self._ask(name, request, options, flight)

    def _ask(self, name: bytes, request: ChatRequest, options: CallOptions, flight: Flight | None = None) -> ChatCompletion:
        """The backend's answer, which is kept."""
        self._flights.count(hit=False)
        completion = self._backend.complete(request, options)
        entry = _entry(completion)
        if entry is not None:
            if flight is not None:
                flight.set_result(entry)
            self._store.put(name, entry)
        return completion

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        started = perf_counter()
        request = with_list(request)
        name = self._key(request)
        if name is None:
            return self._backend.stream(request, options)
        entry: Entry | None = None
        flight = self._flights.current(name)
        if flight is not None:
            options = _landed(flight, options)
            outcome = flight.result()
            entry = outcome if isinstance(outcome, Entry) else None
        entry = entry or self._store.get(name)
        if entry is not None and (chunks := self._pieces(entry, request)) is not None:
            self._flights.count(hit=True)
            return KeptStream(chunks, _info(entry, started))
        self._flights.count(hit=False)
        return KeepingStream(
            self._backend.stream(request, options), lambda kept: self._store.put(name, kept), with_usage=_wants_usage(request)
        )

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def stats(self) -> CacheStats:
        """What the cache holds, and what came of the calls."""
        return CacheStats(self._flights.hits, self._flights.misses, *self._store.size())

    def clear(self) -> None:
        """Forget all answers in the file. Raises sqlite3.Error where that cannot be done."""
        self._store.clear()

    def close(self) -> None:
        """Close the file, and the backend."""
        self._store.close()
        self._backend.close()


def _landed(flight: Flight, options: CallOptions) -> CallOptions:
    """Wait until an equal call has ended. Gives the options with what is left of the deadline.

    Raises RequestTimeoutError when nothing is, and GptError when the call is cancelled.
    """
    began = perf_counter()
    deadline, cancel = options.deadline, options.cancel
    while not flight.done():
        left = None if deadline is None else deadline - (perf_counter() - began)
        if left is not None and left <= 0:
            raise _late()
        step = left if cancel is None else min(LOOK, LOOK if left is None else left)
        futures.wait([flight], step)
        if cancel is not None and cancel.is_set():
            raise GptError("the call was cancelled")
    return _with_rest(options, perf_counter() - began)


def _with_rest(options: CallOptions, waited: Seconds) -> CallOptions:
    if options.deadline is None:
        return options
    return msgspec.structs.replace(options, deadline=max(0.0, options.deadline - waited))


class KeptStream:
    """The chunks of an answer that was kept. It is shared by nobody."""

    def __init__(self, chunks: list[ChatCompletionChunk], info: ResponseInfo) -> None:
        self._left = iter(chunks)
        self.info = info

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        return next(self._left)

    def close(self) -> None:
        self._left = iter(())


class _Keeping(Generic[Source]):
    """What both streams that are kept share: what has come, and whether it is whole."""

    _chunks: Source

    def __init__(self, chunks: Source, keep: Callable[[Entry], Any], *, with_usage: bool) -> None:
        self._chunks = chunks
        self._keep = keep
        self._with_usage = with_usage
        self._bodies: list[bytes] | None = []
        self._seen: set[int] = set()
        self._finished: set[int] = set()

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    def _note(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        if self._bodies is not None:
            self._bodies.append(chunk.to_json())
            for choice in chunk.choices:
                (self._finished if choice.finish_reason else self._seen).add(choice.index)
        return chunk

    def _whole(self) -> Entry | None:
        """What is kept of the stream at its end, once; None where it was not whole."""
        bodies, self._bodies = self._bodies, None
        info = self.info
        ended = info.ended if info is not None else None
        if ended is None and self._finished and self._seen <= self._finished:
            ended = "complete"
        if bodies is None or ended in (None, "truncated"):
            return None
        request_id = info.request_id if info is not None else None
        return Entry(b"[%b]" % b",".join(bodies), streamed=True, with_usage=self._with_usage, request_id=request_id)


class KeepingStream(_Keeping[ChunkStream]):
    """Chunks that are kept when all have come."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            entry = self._whole()
            if entry is not None:
                self._keep(entry)
            raise
        except BaseException:
            self._bodies = None
            raise
        return self._note(chunk)

    def close(self) -> None:
        self._bodies = None
        self._chunks.close()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncCache(_Caching[AsyncBackend]):
    """Cache for asyncio; `stats` and `clear` are awaited. May be used in several event loops."""

    _pool: futures.ThreadPoolExecutor | None = None
    _process = 0

    async def _run(self, work: Callable[[], T]) -> T:
        """What `work` gives, done by the thread that has the file."""
        import asyncio

        if self._pool is None or self._process != os.getpid():
            self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="gpt-cache")
            self._process = os.getpid()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        started = perf_counter()
        request = with_list(request)
        name = self._key(request)
        if name is None:
            return await self._backend.complete(request, options)
        while True:
            flight, first = self._flights.enter(name)
            if first:
                return await self._lead(flight, name, request, options, started)
            options = await _alanded(flight, options)
            outcome = flight.result()
            if outcome == "failed":
                return await self._ask(name, request, options)
            if isinstance(outcome, Entry) and (made := self._answer(outcome, started)) is not None:
                self._flights.count(hit=True)
                return made

    async def _lead(
        self, flight: Flight, name: bytes, request: ChatRequest, options: CallOptions, started: Seconds
    ) -> ChatCompletion:
        """The answer, for those too who wait for it."""
        with self._flights.led(name, flight):
            entry = await self._run(lambda: self._store.get(name))
            if entry is not None and (made := self._answer(entry, started)) is not None:
                self._flights.count(hit=True)
                flight.set_result(entry)
                return made
            return await self._ask(name, request, options, flight)

    async def _ask(
        self, name: bytes, request: ChatRequest, options: CallOptions, flight: Flight | None = None
    ) -> ChatCompletion:
        """The backend's answer, which is kept."""
        self._flights.count(hit=False)
        completion = await self._backend.complete(request, options)
        entry = _entry(completion)
        if entry is not None:
            if flight is not None:
                flight.set_result(entry)
            await self._put(name, entry)
        return completion

    async def _put(self, name: bytes, entry: Entry) -> None:
        await self._run(lambda: self._store.put(name, entry))

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        started = perf_counter()
        request = with_list(request)
        name = self._key(request)
        if name is None:
            return await self._backend.stream(request, options)
        entry: Entry | None = None
        flight = self._flights.current(name)
        if flight is not None:
            options = await _alanded(flight, options)
            outcome = flight.result()
            entry = outcome if isinstance(outcome, Entry) else None
        entry = entry or await self._run(lambda: self._store.get(name))
        if entry is not None and (chunks := self._pieces(entry, request)) is not None:
            self._flights.count(hit=True)
            return AsyncKeptStream(chunks, _info(entry, started))
        self._flights.count(hit=False)
        return AsyncKeepingStream(
            await self._backend.stream(request, options), lambda kept: self._put(name, kept), with_usage=_wants_usage(request)
        )

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def stats(self) -> CacheStats:
        """What the cache holds, and what came of the calls."""
        return CacheStats(self._flights.hits, self._flights.misses, *await self._run(self._store.size))

    async def clear(self) -> None:
        """Forget all answers in the file. Raises sqlite3.Error where that cannot be done."""
        await self._run(self._store.clear)

    async def close(self) -> None:
        """Close the file, and the backend."""
        await self._run(self._store.close)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        await self._backend.close()


async def _alanded(flight: Flight, options: CallOptions) -> CallOptions:
    """Wait until an equal call, perhaps one of another event loop, has ended; see `_landed`."""
    import asyncio

    began = perf_counter()
    loop = asyncio.get_running_loop()
    landed = asyncio.Event()
    flight.add_done_callback(lambda _: _tell(loop, landed))
    try:
        async with asyncio.timeout(options.deadline):
            await landed.wait()
    except TimeoutError:
        raise _late() from None
    return _with_rest(options, perf_counter() - began)


def _tell(loop: asyncio.AbstractEventLoop, landed: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(landed.set)


class AsyncKeptStream:
    """KeptStream for asyncio."""

    def __init__(self, chunks: list[ChatCompletionChunk], info: ResponseInfo) -> None:
        self._left = iter(chunks)
        self.info = info

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            return next(self._left)
        except StopIteration:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        self._left = iter(())


class AsyncKeepingStream(_Keeping[AsyncChunkStream]):
    """KeepingStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            entry = self._whole()
            if entry is not None:
                await self._keep(entry)
            raise
        except BaseException:
            self._bodies = None
            raise
        return self._note(chunk)

    async def close(self) -> None:
        self._bodies = None
        await self._chunks.close()
