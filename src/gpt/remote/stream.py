"""A streamed answer over HTTP: two short loops round one pure decoder, and how one is opened.

An answer is opened up to its first content: until then whatever goes wrong is a failed attempt, which the flow may make again.
After it nothing is tried again, because a caller has seen a part.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Generic, Self, TypeVar

import msgspec

from gpt.errors import ResponseError, TransportError
from gpt.protocol.profiles import Profile
from gpt.protocol.stream import ChunkDecoder
from gpt.protocol.wire import (
    AsyncHttpStream,
    AsyncTransport,
    HttpRequest,
    HttpResponse,
    HttpStream,
    ResponseInfo,
    Seconds,
    Transport,
)
from gpt.types import ChatCompletionChunk

Body = TypeVar("Body", HttpStream, AsyncHttpStream)


class _Chunks(Generic[Body]):
    """What both streams share: the body, its decoder, and the chunks that nobody has taken yet."""

    _body: Body

    def __init__(self, body: Body, request: HttpRequest, profile: Profile) -> None:
        self._body = body
        self._decoder = ChunkDecoder(body.headers, request, may_break_off=profile.may_break_off)
        self._ready: deque[ChatCompletionChunk] = deque()
        self._opened = ResponseInfo()

    @property
    def info(self) -> ResponseInfo:
        """The facts of the exchange so far."""
        return msgspec.structs.replace(self._opened, ended=self._decoder.ended)

    def opened(self, info: ResponseInfo, first_token: Seconds) -> None:
        """Take in the facts of the opening."""
        self._opened = info if self._decoder.is_whole else msgspec.structs.replace(info, first_token=first_token)

    def _take_in(self, piece: bytes) -> None:
        decoder = self._decoder
        self._ready.extend(decoder.feed(piece) if piece else decoder.end())
        if decoder.news:
            self._body.news()


class Stream(_Chunks[HttpStream]):
    """Chunks as a server sends them."""

    def begin(self) -> None:
        """Read until content has come or the answer is over. Raises what went wrong before that."""
        decoder = self._decoder
        while not (decoder.begun or decoder.done):
            self._read()
        if decoder.problem is not None and not decoder.begun:
            self._body.close()
            raise decoder.problem

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        while not self._ready:
            decoder = self._decoder
            if decoder.done:
                self.close()
                if decoder.problem is not None:
                    problem, decoder.problem = decoder.problem, None
                    raise problem
                raise StopIteration
            self._read()
        return self._ready.popleft()

    def _read(self) -> None:
        try:
            piece = self._body.read()
        except TransportError as error:
            self._ready.extend(self._decoder.broke(error))
        else:
            self._take_in(piece)

    def close(self) -> None:
        """Stop the answer, if it is not over, and free the connection."""
        if self._decoder.ended == "complete":
            self._body.finish()
        else:
            self._decoder.done = True
            self._ready.clear()
            self._body.close()


class AsyncStream(_Chunks[AsyncHttpStream]):
    """Chunks as a server sends them, on asyncio."""

    async def begin(self) -> None:
        """Read until content has come or the answer is over. Raises what went wrong before that."""
        decoder = self._decoder
        while not (decoder.begun or decoder.done):
            await self._read()
        if decoder.problem is not None and not decoder.begun:
            await self._body.close()
            raise decoder.problem

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        while not self._ready:
            decoder = self._decoder
            if decoder.done:
                await self.close()
                if decoder.problem is not None:
                    problem, decoder.problem = decoder.problem, None
                    raise problem
                raise StopAsyncIteration
            await self._read()
        return self._ready.popleft()

    async def _read(self) -> None:
        try:
            piece = await self._body.read()
        except TransportError as error:
            self._ready.extend(self._decoder.broke(error))
        else:
            self._take_in(piece)

    async def close(self) -> None:
        """Stop the answer, if it is not over, and free the connection."""
        if self._decoder.ended == "complete":
            await self._body.finish()
        else:
            self._decoder.done = True
            self._ready.clear()
            await self._body.close()


# --------------------------------------------------------------------------------------------------------------------
# Opening: what a driver sends through
# --------------------------------------------------------------------------------------------------------------------


class Opening:
    """Sends for a stream: an answer of 200 is read up to its first content, any other whole."""

    def __init__(self, transport: Transport, profile: Profile) -> None:
        self._transport = transport
        self._profile = profile
        self._stream: Stream
        self._problem: ResponseError | None = None

    def send(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        body = b""
        self._problem = None
        try:
            stream = self._transport.open(request)
            first_byte = time.perf_counter() - started
            if stream.status == 200:
                self._stream = Stream(stream, request, self._profile)
                self._stream.begin()
            else:
                body = b"".join(iter(stream.read, b""))
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        except ResponseError as error:
            self._problem = error
        return HttpResponse(stream.status, stream.headers, body, time.perf_counter() - started, first_byte)

    def read(self, response: HttpResponse, _: HttpRequest, info: ResponseInfo) -> Stream:
        """The stream that was opened. Raises ResponseError where it said so before its first content."""
        if self._problem is not None:
            raise self._problem
        self._stream.opened(info, response.elapsed)
        return self._stream


class AsyncOpening:
    """Opening for asyncio."""

    def __init__(self, transport: AsyncTransport, profile: Profile) -> None:
        self._transport = transport
        self._profile = profile
        self._stream: AsyncStream
        self._problem: ResponseError | None = None

    async def send(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        pieces = []
        self._problem = None
        try:
            stream = await self._transport.open(request)
            first_byte = time.perf_counter() - started
            if stream.status == 200:
                self._stream = AsyncStream(stream, request, self._profile)
                await self._stream.begin()
            else:
                while piece := await stream.read():
                    pieces.append(piece)
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        except ResponseError as error:
            self._problem = error
        elapsed = time.perf_counter() - started
        return HttpResponse(stream.status, stream.headers, b"".join(pieces), elapsed, first_byte)

    def read(self, response: HttpResponse, _: HttpRequest, info: ResponseInfo) -> AsyncStream:
        """The stream that was opened. Raises ResponseError where it said so before its first content."""
        if self._problem is not None:
            raise self._problem
        self._stream.opened(info, response.elapsed)
        return self._stream
