"""A Backend over several: asks them in order, the next only where the one before failed by no fault of the caller.

`protocol/fallback.py` decides; here the entries are asked. A stream is read up to its first content before it is handed out, so
that until then the next entry may answer in its place.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Generic, NamedTuple, Self, TypeVar

import msgspec

from gpt.backend import (
    DEFAULT_OPTIONS,
    AsyncBackend,
    AsyncChunkStream,
    Backend,
    CallOptions,
    ChunkStream,
    host_of,
    identity_of,
    in_threads,
    is_awaited,
)
from gpt.errors import GptError, InvalidRequestError
from gpt.flows import adrive, drive
from gpt.protocol.chunks import has_content
from gpt.protocol.codec import with_info
from gpt.protocol.fallback import Ask, FallbackFlow, Fell, Rests, Rule, Told, falling
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import AttemptInfo, ResponseInfo, Seconds, is_secret
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)
Below = TypeVar("Below", Backend, AsyncBackend)

COOL_DOWN: Seconds = 30.0
"""Envoy puts a host out for as long after its first failures (outlier_detection, base_ejection_time)."""


class Entry(NamedTuple):
    """One of the list: what is asked, what it is called, the model that it is asked for, and how its calls are made."""

    backend: Any
    name: str
    profile: Profile
    model: str | None = None
    options: CallOptions = DEFAULT_OPTIONS
    layered: bool = False
    """Whether `backend` has its layers already, as that of a client does."""
    host: str | None = None
    """Who it is to prices, as `host_of` has it."""


def entry_of(backend: Any, model: str | None = None) -> Entry:
    """An Entry for a backend, by a name without secrets."""
    if not isinstance(backend, AsyncBackend):
        raise InvalidRequestError(
            f"entries: {type(backend).__name__} has not the methods complete, stream, models, close", param="entries"
        )
    name = identity_of(backend)
    profile: Profile | None = getattr(backend, "profile", None)
    return Entry(backend, f"{name} ({model})" if model else name, profile or Profile(), model, host=host_of(backend))


class _Falls(Generic[Below]):
    """What both layers share."""

    def __init__(self, entries: Iterable[Any], cool_down: Seconds) -> None:
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise InvalidRequestError(f"entries: expected a list, got {type(entries).__name__}", param="entries")
        self._entries = [self._settled(item) for item in entries]
        if not self._entries:
            raise InvalidRequestError("entries: the list is empty; a Fallback needs at least one", param="entries")
        if isinstance(cool_down, bool) or not isinstance(cool_down, (int, float)) or not cool_down >= 0:
            raise InvalidRequestError(f"cool_down: expected seconds from 0, got {cool_down!r}", param="cool_down")
        self._names = [entry.name for entry in self._entries]
        self._hosts = [entry.host for entry in self._entries]
        self._rests = Rests(len(self._entries), cool_down)
        self.profile = common([entry.profile for entry in self._entries])
        self.identity = " | ".join(self._names)
        """What answers, for the keys of a cache."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._names})"

    def _settled(self, item: Any) -> Entry:
        """An item of the list as an Entry, with thinking told apart where its profile says so. Raises InvalidRequestError."""
        backend, model = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if model is not None and not isinstance(model, str):
            raise InvalidRequestError(f"entries: expected the name of a model, got {type(model).__name__}", param="entries")
        entry = self._entry(backend, model)
        entry = entry._replace(backend=self._fitting(entry.backend))
        if entry.profile.think_tags is not None and not entry.layered:
            entry = entry._replace(backend=self._split(entry.backend))
        return entry

    def _entry(self, item: Any, model: str | None) -> Entry:
        """What is asked where the list says `item`."""
        if isinstance(item, str):
            raise InvalidRequestError(
                f"entries: {type(self).__name__} of gpt.layers takes backends; gpt.Fallback takes URLs and clients too",
                param="entries",
            )
        return entry_of(item, model)

    def _fitting(self, backend: Any) -> Below:
        raise NotImplementedError

    def _split(self, backend: Below) -> Below:
        raise NotImplementedError

    def _flow(self, options: CallOptions) -> FallbackFlow[Any]:
        """The flow of a call."""
        return falling(self._names, self._rests, monotonic, options.deadline, self._told(options), self._hosts)

    def _told(self, options: CallOptions) -> Told:
        """What is told of each failure that another entry follows."""

        def told(index: int, error: GptError, rule: Rule, attempt: AttemptInfo) -> None:
            if options.retrying is not None:
                line = f"{self._names[index]}: {attempt.reason}; the next entry is asked"
                options.retrying(msgspec.structs.replace(attempt, reason=line), 0.0)
            if rule.warns:
                warnings.warn(
                    f"{self._names[index]} was passed over in a Fallback: {rule.why} ({type(error).__name__}: {error.message})",
                    RuntimeWarning,
                    stacklevel=4,
                )

        return told

    def _asked(self, ask: Ask, request: ChatRequest) -> ChatRequest:
        """The request as this entry is asked it."""
        model = self._entries[ask.entry].model
        return request if model is None else msgspec.structs.replace(request, model=model)

    def _how(self, ask: Ask, options: CallOptions) -> CallOptions:
        """How this entry is asked: as its client was set up, and over that as the call says."""
        own = self._entries[ask.entry].options
        deadlines = [seconds for seconds in (ask.deadline, own.deadline) if seconds is not None]
        return CallOptions(
            timeout=options.timeout or own.timeout,
            deadline=min(deadlines, default=None),
            retry=options.retry or own.retry,
            headers={**(own.headers or {}), **(options.headers or {})} or None,
            query={**(own.query or {}), **(options.query or {})} or None,
            cancel=options.cancel,
            retrying=options.retrying,
        )


def checked(request: ChatRequest, options: CallOptions) -> tuple[ChatRequest, CallOptions]:
    """A call as several servers may be asked it. Raises InvalidRequestError for a key, which is one server's.

    Messages that can be read only once are read.
    """
    for given in (options.headers, options.query):
        for name in given or ():
            if is_secret(name):
                raise InvalidRequestError(
                    f"{name}: it may hold a secret, and a Fallback would send it to every server; give it to an entry's client",
                    param=name,
                )
    if type(request.messages) is not list:
        from gpt.protocol.codec import history

        request = msgspec.structs.replace(request, messages=history(request.messages))
    return request, options


def common(profiles: list[Profile]) -> Profile:
    """What holds of all of these servers, for what is decided before it is known which one answers."""
    first = profiles[0]
    rungs = tuple(rung for rung in first.rungs if all(rung in other.rungs for other in profiles))
    return Profile(
        streams_usage=all(profile.streams_usage for profile in profiles),
        dialect=first.dialect if all(profile.dialect == first.dialect for profile in profiles) else "strict",
        rungs=rungs or ("prompt",),
    )


def _noted(fell: Fell[Any]) -> Any:
    """The answer with the facts of the whole call. What a backend gave is left as it is: it may be somebody else's too."""
    made = msgspec.structs.replace(fell.answer)
    made.__dict__.update(fell.answer.__dict__)
    with_info(made, fell.info(made.info))
    return made


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class Fallback(_Falls[Backend]):
    """Asks `entries` in order, the next only where the one before failed, before its first content, by no fault of the caller.

    An entry is a Backend, or a pair of one and the name of its model, which goes before the call's. One that failed rests for
    `cool_down` seconds. `answer.info.entries` tells what came of each. Where all fail, the last error is raised, with the
    others as `elsewhere`. Closing it closes the entries. Raises InvalidRequestError.
    """

    def __init__(self, entries: Iterable[Any], *, cool_down: Seconds = COOL_DOWN) -> None:
        super().__init__(entries, cool_down)

    def _fitting(self, backend: Any) -> Backend:
        if is_awaited(backend):
            raise InvalidRequestError(
                f"entries: {type(backend).__name__} is for asyncio; it belongs in an AsyncFallback", param="entries"
            )
        fitting: Backend = backend
        return fitting

    def _split(self, backend: Backend) -> Backend:
        from gpt.layers.thinking import Split

        return Split(backend)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request, options = checked(request, options)

        def reply(ask: Ask) -> ChatCompletion:
            backend: Backend = self._entries[ask.entry].backend
            return backend.complete(self._asked(ask, request), self._how(ask, options))

        made: ChatCompletion = _noted(drive(self._flow(options), reply))
        return made

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        """Those of the first entry that answers."""

        def reply(ask: Ask) -> ModelList:
            backend: Backend = self._entries[ask.entry].backend
            return backend.models(self._how(ask, options))

        made: ModelList = _noted(drive(self._flow(options), reply))
        return made

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> FallbackStream:
        request, options = checked(request, options)

        def reply(ask: Ask) -> FallbackStream:
            backend: Backend = self._entries[ask.entry].backend
            stream = FallbackStream(backend.stream(self._asked(ask, request), self._how(ask, options)))
            stream.begin()
            return stream

        fell: Fell[FallbackStream] = drive(self._flow(options), reply)
        fell.answer.fell = fell
        return fell.answer

    def close(self) -> None:
        for entry in self._entries:
            entry.backend.close()


class _Falling(Generic[Source]):
    """What both streams share: the chunks that came up to the first content, and those that follow."""

    _chunks: Source

    def __init__(self, chunks: Source) -> None:
        self._chunks = chunks
        self._ready: deque[ChatCompletionChunk] = deque()
        self._started = monotonic()
        self._first_token: Seconds | None = None
        self.fell: Fell[Any] | None = None

    @property
    def info(self) -> ResponseInfo | None:
        """The facts of the exchange, with what came of the entries."""
        known: ResponseInfo | None = getattr(self._chunks, "info", None)
        if self.fell is None:
            return known
        return self.fell.info(known or ResponseInfo(elapsed=self.fell.elapsed, first_token=self._first_token))

    def _keep(self, chunk: ChatCompletionChunk) -> bool:
        """Keep a chunk for the reader. Gives whether it is the first with content."""
        self._ready.append(chunk)
        if not has_content(chunk):
            return False
        self._first_token = monotonic() - self._started
        return True


class FallbackStream(_Falling[ChunkStream]):
    """The chunks of the entry that answered."""

    def begin(self) -> None:
        """Read up to the first content, or to the end. Raises what goes wrong before it."""
        try:
            for chunk in self._chunks:
                if self._keep(chunk):
                    break
        except BaseException:
            self._chunks.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        return self._ready.popleft() if self._ready else next(self._chunks)

    def close(self) -> None:
        self._ready.clear()
        self._chunks.close()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncFallback(_Falls[AsyncBackend]):
    """Fallback for asyncio. Entries that block run in threads."""

    def __init__(self, entries: Iterable[Any], *, cool_down: Seconds = COOL_DOWN) -> None:
        super().__init__(entries, cool_down)

    def _fitting(self, backend: Any) -> AsyncBackend:
        return backend if is_awaited(backend) else in_threads(backend)

    def _split(self, backend: AsyncBackend) -> AsyncBackend:
        from gpt.layers.thinking import AsyncSplit

        return AsyncSplit(backend)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request, options = checked(request, options)

        async def reply(ask: Ask) -> ChatCompletion:
            backend: AsyncBackend = self._entries[ask.entry].backend
            return await backend.complete(self._asked(ask, request), self._how(ask, options))

        made: ChatCompletion = _noted(await adrive(self._flow(options), reply))
        return made

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        """Those of the first entry that answers."""

        async def reply(ask: Ask) -> ModelList:
            backend: AsyncBackend = self._entries[ask.entry].backend
            return await backend.models(self._how(ask, options))

        made: ModelList = _noted(await adrive(self._flow(options), reply))
        return made

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncFallbackStream:
        request, options = checked(request, options)

        async def reply(ask: Ask) -> AsyncFallbackStream:
            backend: AsyncBackend = self._entries[ask.entry].backend
            stream = AsyncFallbackStream(await backend.stream(self._asked(ask, request), self._how(ask, options)))
            await stream.begin()
            return stream

        fell: Fell[AsyncFallbackStream] = await adrive(self._flow(options), reply)
        fell.answer.fell = fell
        return fell.answer

    async def close(self) -> None:
        for entry in self._entries:
            await entry.backend.close()


class AsyncFallbackStream(_Falling[AsyncChunkStream]):
    """FallbackStream for asyncio."""

    async def begin(self) -> None:
        """Read up to the first content, or to the end. Raises what goes wrong before it."""
        try:
            async for chunk in self._chunks:
                if self._keep(chunk):
                    break
        except BaseException:
            await self._chunks.close()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        return self._ready.popleft() if self._ready else await anext(self._chunks)

    async def close(self) -> None:
        self._ready.clear()
        await self._chunks.close()
