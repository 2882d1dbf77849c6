"""Record: a Backend over a Backend that writes each call down. Replay: a Backend that answers from what was written.

The file is lines of JSON, for people to read; `docs/record.md` has its format, `protocol/recording.py` makes and reads it. A
line is written when its call has ended, whole and in one piece, also where several processes write: each locks the file.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from io import FileIO
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, AsyncChunkStream, Backend, CallOptions, ChunkStream, identity_of
from gpt.errors import GptError, InvalidRequestError, ReplayError, RequestTimeoutError
from gpt.layers.over import Below, Over
from gpt.protocol import recording
from gpt.protocol.canonical import plain, with_list
from gpt.protocol.profiles import Profile
from gpt.protocol.recording import Exchange, Tape
from gpt.protocol.wire import ResponseInfo, Seconds, is_secret
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList

if TYPE_CHECKING:
    from typing import Unpack

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)

__all__ = ["AsyncRecord", "AsyncReplay", "Record", "Replay"]


# --------------------------------------------------------------------------------------------------------------------
# Record
# --------------------------------------------------------------------------------------------------------------------


class _Recording(Over[Below]):
    """What both recorders share."""

    def __init__(self, backend: Below, path: str | os.PathLike[str], *, clock: Callable[[], Seconds] = perf_counter) -> None:
        self._backend: Below = backend
        self._path = os.path.abspath(os.fspath(path))
        self._clock = clock
        self._server = identity_of(backend)
        _check(self._path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._backend!r}, {self._path!r})"

    def _begin(self, request: ChatRequest | None, options: CallOptions, call: recording.Call) -> _Take:
        sent: dict[str, Any] | None = {}
        if request is not None:
            try:
                sent = plain(request, self.profile)
            except InvalidRequestError:  # the backend says it best, and there is nothing that was sent
                sent = None
        return _Take(self, call, sent, options)


class _Take:
    """One call that is being written down."""

    def __init__(
        self, recorder: _Recording[Any], call: recording.Call, sent: dict[str, Any] | None, options: CallOptions
    ) -> None:
        self._path = recorder._path
        self._clock = recorder._clock
        self._secrets = _secrets(recorder._backend, options)
        self._started = self._clock()
        self._exchange: Exchange | None = None
        if sent is not None:
            told = recording.told(recorder.profile)
            self._exchange = Exchange(call=call, server=recorder._server, profile=told, request=sent)

    def answered(self, made: ChatCompletion | ModelList) -> Exchange | None:
        """What is to be written of an answer."""
        if self._exchange is not None:
            self._exchange.answer = recording.raw(made.to_json())
        return self._ended(made.info)

    def failed(self, error: GptError, info: ResponseInfo | None = None) -> Exchange | None:
        """What is to be written of an error."""
        if self._exchange is not None:
            self._exchange.error = recording.failure(error)
        return self._ended(info)

    def opened(self) -> None:
        """Take in that a stream has begun."""
        if self._exchange is not None:
            self._exchange.chunks = []

    def note(self, chunk: ChatCompletionChunk) -> None:
        """Take in a chunk."""
        if self._exchange is not None and self._exchange.chunks is not None:
            self._exchange.chunks.append((self._clock() - self._started, recording.raw(chunk.to_json())))

    def streamed(self, info: ResponseInfo | None, *, left: bool) -> Exchange | None:
        """What is to be written of a stream that has come to its end, or was left."""
        if self._exchange is not None:
            self._exchange.left = left
        return self._ended(info)

    def _ended(self, info: ResponseInfo | None) -> Exchange | None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.elapsed = self._clock() - self._started
            exchange.info = recording.facts(info)
        return exchange

    def write(self, exchange: Exchange | None) -> None:
        """Write the line, once. What goes wrong there is a warning: the answer must not be lost to its record."""
        if exchange is None:
            return
        try:
            _append(self._path, exchange.line(self._secrets))
        except (OSError, InvalidRequestError) as error:
            text = f"record: cannot write {self._path}: {error}; the call goes on, and is not in the recording"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    async def awrite(self, exchange: Exchange | None) -> None:
        """The same by a thread: a disk may be slow."""
        if exchange is not None:
            await asyncio.to_thread(self.write, exchange)


def _secrets(backend: Any, options: CallOptions) -> list[str]:
    """The secrets that are known to go along with a call. None is written; but a server may repeat one, or a text have it."""
    endpoint = None
    while backend is not None and endpoint is None:  # some layers pass it on, others have it below
        endpoint = getattr(backend, "endpoint", None)
        backend = getattr(backend, "_backend", None)
    pairs: list[tuple[str, str]] = [*(options.headers or {}).items(), *(options.query or {}).items()]
    if endpoint is not None:
        from urllib.parse import parse_qsl

        pairs += [*endpoint.headers, *parse_qsl(endpoint.query)]
    known = []
    for name, value in pairs:
        if name.lower() == "cookie":
            known += value.replace(";", " ").replace("=", " ").split()
        elif is_secret(name):
            known.append(value.rpartition(" ")[2])
    return known


def _check(path: str) -> None:
    """Raise InvalidRequestError if the file at `path` is something else than a recording."""
    try:
        with open(path, "rb", buffering=0) as file:
            _check_head(file, path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidRequestError(f"path: cannot read {path}: {error}", param="path") from error


def _check_head(file: FileIO, path: str) -> bool:
    """Whether the file begins as a recording; False where nothing of it has been written, or not the whole first line.

    Raises InvalidRequestError for something else.
    """
    file.seek(0)
    first, end, _ = file.read(_STEP).partition(b"\n")
    if recording.HEADER.startswith(first + end) and not end:
        return False
    recording.check_head(first, path)
    return True


_STEP = 1 << 16
"""Bytes that are read at a time."""


def _append(path: str, line: bytes) -> None:
    """Write a line at the end of the file, in one piece. What is left there of one that was not written whole goes.

    Raises OSError, and InvalidRequestError for what has become something else than a recording.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        _lock(file.fileno())
        if _check_head(file, path):
            line = _mend(file) + line
        else:
            file.truncate(0)
            line = recording.HEADER + line
        while line:
            line = line[file.write(line) :]


def _lock(file: int) -> None:
    """Wait until nobody else writes. Where the system has no such locks, each write is one piece all the same."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _mend(file: FileIO) -> bytes:
    """Take away what is left of a last line that was not written whole.

    Gives what must come before the next line: a line end, where only that is missing.
    """
    end = place = file.seek(0, os.SEEK_END)
    tail = b""
    while b"\n" not in tail:
        place = max(0, place - (_STEP if tail else 1))
        file.seek(place)
        tail = file.read(end - place)
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return b""
    if recording.is_line(rest):
        return b"\n"
    file.truncate(end - len(rest))
    return b""


class Record(_Recording[Backend]):
    """`backend`, with each call written to the file at `path`: what was asked, what came, and when.

    No key is written, nor any header of a request, nor what a server repeats of the keys that are known. What cannot be written
    is a warning. `clock` gives seconds. May be shared by threads, and its file by processes. Raises InvalidRequestError for a
    file that is something else.
    """

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request = with_list(request)
        take = self._begin(request, options, "complete")
        try:
            completion = self._backend.complete(request, options)
        except GptError as error:
            take.write(take.failed(error))
            raise
        take.write(take.answered(completion))
        return completion

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        request = with_list(request)
        take = self._begin(request, options, "stream")
        try:
            chunks = self._backend.stream(request, options)
        except GptError as error:
            take.write(take.failed(error))
            raise
        return RecordingStream(chunks, take)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        take = self._begin(None, options, "models")
        try:
            found = self._backend.models(options)
        except GptError as error:
            take.write(take.failed(error))
            raise
        take.write(take.answered(found))
        return found

    def close(self) -> None:
        """Close the backend. The file is closed after each line."""
        self._backend.close()


class AsyncRecord(_Recording[AsyncBackend]):
    """Record for asyncio."""

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request = with_list(request)
        take = self._begin(request, options, "complete")
        try:
            completion = await self._backend.complete(request, options)
        except GptError as error:
            await take.awrite(take.failed(error))
            raise
        await take.awrite(take.answered(completion))
        return completion

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        request = with_list(request)
        take = self._begin(request, options, "stream")
        try:
            chunks = await self._backend.stream(request, options)
        except GptError as error:
            await take.awrite(take.failed(error))
            raise
        return AsyncRecordingStream(chunks, take)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        take = self._begin(None, options, "models")
        try:
            found = await self._backend.models(options)
        except GptError as error:
            await take.awrite(take.failed(error))
            raise
        await take.awrite(take.answered(found))
        return found

    async def close(self) -> None:
        """Close the backend. The file is closed after each line."""
        await self._backend.close()


class _RecordingStream(Generic[Source]):
    """What both streams that are written down share."""

    _chunks: Source

    def __init__(self, chunks: Source, take: _Take) -> None:
        self._chunks = chunks
        self._take = take
        take.opened()

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    def __del__(self) -> None:
        take = getattr(self, "_take", None)
        if take is not None:
            take.write(take.streamed(self.info, left=True))


class RecordingStream(_RecordingStream[ChunkStream]):
    """Chunks that are written down when all have come."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        take = self._take
        try:
            chunk = next(self._chunks)
        except StopIteration:
            take.write(take.streamed(self.info, left=False))
            raise
        except GptError as error:
            take.write(take.failed(error, self.info))
            raise
        take.note(chunk)
        return chunk

    def close(self) -> None:
        self._chunks.close()
        self._take.write(self._take.streamed(self.info, left=True))


class AsyncRecordingStream(_RecordingStream[AsyncChunkStream]):
    """RecordingStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        take = self._take
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            await take.awrite(take.streamed(self.info, left=False))
            raise
        except GptError as error:
            await take.awrite(take.failed(error, self.info))
            raise
        take.note(chunk)
        return chunk

    async def close(self) -> None:
        await self._chunks.close()
        await self._take.awrite(self._take.streamed(self.info, left=True))


# --------------------------------------------------------------------------------------------------------------------
# Replay
# --------------------------------------------------------------------------------------------------------------------


class ReplaySettings(TypedDict, total=False):
    """The settings of a replay, as keywords; `Replay` tells each."""

    strict: bool
    paced: bool
    recut: int | None
    seed: int | None
    profile: Profile | None
    clock: Callable[[], Seconds]


waits = True
"""False in tests that have no time to wait: `gpt.testing.no_waiting`. A paced replay then gives all at once."""


class _Replaying:
    """What both replays share."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        strict: bool = True,
        paced: bool = False,
        recut: int | None = None,
        seed: int | None = None,
        profile: Profile | None = None,
        clock: Callable[[], Seconds] = perf_counter,
    ) -> None:
        if recut is not None and (isinstance(recut, bool) or not isinstance(recut, int) or recut < 1):
            raise InvalidRequestError(f"recut: expected characters a piece, an int from 1, got {recut!r}", param="recut")
        if seed is not None and recut is None:
            raise InvalidRequestError(
                "seed: says where streams are cut, which needs recut=, the characters that a piece has at most", param="seed"
            )
        self._path = os.fspath(path)
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise InvalidRequestError(f"path: cannot read the recording {self._path}: {error}", param="path") from error
        self._tape = Tape(recording.read(data, self._path), self._path, strict=strict)
        self._lock = threading.Lock()
        self._paced = paced
        self._recut = recut
        self._seed = seed
        self._clock = clock
        self.profile = profile or self._tape.profile

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The replay that a URL names: "replay:talk.jsonl", with settings as "replay:talk.jsonl?recut=8&seed=7".

        They are `recut`, `seed`, `paced` and `strict`, the last two true or false. Raises InvalidRequestError.
        """
        from urllib.parse import parse_qsl

        path, _, query = url.removeprefix("replay:").removeprefix("//").partition("?")
        if not path:
            raise InvalidRequestError('server_url: "replay:" needs a recording, as in "replay:talk.jsonl"', param="server_url")
        settings: Any = {}
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name in ("recut", "seed") and text.isascii() and text.isdigit():
                settings[name] = int(text)
            elif name in ("paced", "strict") and text in ("true", "false"):
                settings[name] = text == "true"
            else:
                raise InvalidRequestError(
                    f"server_url: {url!r} has {name}={text}; there are recut and seed with a number, and paced and strict with "
                    "true or false; a file with a question mark in its name is given as backend=Replay(path)",
                    param="server_url",
                )
        return cls(path, **settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    @property
    def left(self) -> int:
        """How many of the recorded calls have not been used."""
        return self._tape.left

    def _next(self, request: ChatRequest) -> Exchange:
        """The exchange that answers a request. Raises ReplayError, and InvalidRequestError for what cannot be sent."""
        sent = plain(request, self.profile)
        with self._lock:
            return self._tape.take(sent)

    def _next_models(self) -> Exchange:
        with self._lock:
            return self._tape.take_models()

    def _pieces(self, exchange: Exchange) -> list[tuple[Seconds, ChatCompletionChunk]]:
        timed = exchange.timed() if exchange.error is None or exchange.chunks is not None else []
        if self._recut is None:
            return timed
        draw = None
        if self._seed is not None:
            from random import Random

            # One for each stream: where it is cut does not hang on the streams before it.
            draw = partial(Random(self._seed).randint, 1)  # noqa: S311 - a script, not a secret
        return [(at, piece) for at, chunk in timed for piece in recording.recut(chunk, self._recut, draw)]

    def _end(self, exchange: Exchange) -> GptError | None:
        """What ends the chunks of an exchange instead of their end."""
        if exchange.error is not None:
            return exchange.error.error()
        if exchange.left:
            return ReplayError(f"{self._path}: whoever was recorded left this stream here; there is no more of it")
        return None


class _Pace:
    """When the parts of one answer come: as they were recorded, or at once."""

    def __init__(self, replay: _Replaying, options: CallOptions) -> None:
        self._paced = replay._paced
        self._clock = replay._clock
        self._deadline = options.deadline
        self._started = self._clock() if self._paced else 0.0

    def wait(self, at: Seconds) -> tuple[Seconds, bool]:
        """Seconds to wait for what came after `at` seconds, and whether the deadline comes before it."""
        if not self._paced:
            return 0.0, False
        late = self._deadline is not None and at > self._deadline
        until = self._deadline if late and self._deadline is not None else at
        return max(0.0, self._started + until - self._clock()) if waits else 0.0, late


def _late() -> RequestTimeoutError:
    return RequestTimeoutError("the deadline is over; the recorded answer took longer", phase="deadline", sent=True)


class Replay(_Replaying):
    """A Backend that answers from the recording at `path`.

    A request is answered as an equal one was (`protocol/canonical.py`; whoever was asked), each recorded answer once and in
    order; when they are used up that is an error, or with `strict=False` the last one repeats. Errors are raised as they were.
    Streams come in the recorded chunks, or with `recut` in pieces of so many characters, with `seed` of 1 to so many, at places
    drawn from it; whole answers and streams serve each other. With `paced` all comes when it came, by `clock` and `sleep`.
    `profile` is the recorded one by default. `left` counts the calls that have not been used. May be shared by threads.

    Raises InvalidRequestError for a file that is no recording, and in calls ReplayError for what was not recorded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sleep: Callable[[Seconds], object] = time.sleep,
        **settings: Unpack[ReplaySettings],
    ) -> None:
        super().__init__(path, **settings)
        self._sleep = sleep

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        exchange = self._next(request)
        self._wait(_Pace(self, options), exchange.elapsed, options)
        problem = self._end(exchange)
        if problem is not None:
            raise problem
        return exchange.completion()

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        exchange = self._next(request)
        return ReplayStream(self, exchange, options)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        exchange = self._next_models()
        self._wait(_Pace(self, options), exchange.elapsed, options)
        problem = self._end(exchange)
        if problem is not None:
            raise problem
        return exchange.models()

    def close(self) -> None:
        """Nothing is open."""

    def _wait(self, pace: _Pace, at: Seconds, options: CallOptions) -> None:
        seconds, late = pace.wait(at)
        if seconds:
            if options.cancel is None:
                self._sleep(seconds)
            elif options.cancel.wait(seconds):
                raise GptError("the call was cancelled")
        if late:
            raise _late()


class _ReplayStream:
    """What both replayed streams share."""

    def __init__(self, replay: _Replaying, exchange: Exchange, options: CallOptions) -> None:
        self._left = iter(replay._pieces(exchange))
        self._problem = replay._end(exchange)
        self._elapsed = exchange.elapsed
        self._pace = _Pace(replay, options)
        self._options = options
        self.info = exchange.facts()

    def _stop(self) -> None:
        self._left = iter(())
        self._problem = None
        self._elapsed = 0.0

    def _over(self) -> GptError | None:
        """What ends the stream instead of its end, once."""
        problem, self._problem = self._problem, None
        return problem


class ReplayStream(_ReplayStream):
    """The recorded chunks."""

    def __init__(self, replay: Replay, exchange: Exchange, options: CallOptions) -> None:
        super().__init__(replay, exchange, options)
        self._replay = replay

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        at, chunk = next(self._left, (self._elapsed, None))
        self._replay._wait(self._pace, at, self._options)
        if chunk is not None:
            return chunk
        problem = self._over()
        if problem is not None:
            raise problem
        raise StopIteration

    def close(self) -> None:
        self._stop()


class AsyncReplay(_Replaying):
    """Replay for asyncio; `sleep` is awaited. May be used in several event loops."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sleep: Callable[[Seconds], Awaitable[object]] = asyncio.sleep,
        **settings: Unpack[ReplaySettings],
    ) -> None:
        super().__init__(path, **settings)
        self._sleep = sleep

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        exchange = self._next(request)
        await self._wait(_Pace(self, options), exchange.elapsed)
        problem = self._end(exchange)
        if problem is not None:
            raise problem
        return exchange.completion()

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        exchange = self._next(request)
        return AsyncReplayStream(self, exchange, options)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        exchange = self._next_models()
        await self._wait(_Pace(self, options), exchange.elapsed)
        problem = self._end(exchange)
        if problem is not None:
            raise problem
        return exchange.models()

    async def close(self) -> None:
        """Nothing is open."""

    async def _wait(self, pace: _Pace, at: Seconds) -> None:
        seconds, late = pace.wait(at)
        if seconds:
            await self._sleep(seconds)
        if late:
            raise _late()


class AsyncReplayStream(_ReplayStream):
    """ReplayStream for asyncio."""

    def __init__(self, replay: AsyncReplay, exchange: Exchange, options: CallOptions) -> None:
        super().__init__(replay, exchange, options)
        self._replay = replay

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        at, chunk = next(self._left, (self._elapsed, None))
        await self._replay._wait(self._pace, at)
        if chunk is not None:
            return chunk
        problem = self._over()
        if problem is not None:
            raise problem
        raise StopAsyncIteration

    async def close(self) -> None:
        self._stop()
