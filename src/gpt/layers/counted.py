"""A Backend over a Backend whose calls a client's meter counts: those that a Fallback makes of a client that is its entry.

A client counts its own calls without it, for less.
"""

from __future__ import annotations

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, AsyncChunkStream, Backend, CallOptions, ChunkStream
from gpt.layers.meter import Meter
from gpt.layers.over import Over
from gpt.types import ChatCompletion, ChatRequest, ModelList


class Counted(Over[Backend]):
    """`backend`, whose calls are in the sums of `meter`."""

    def __init__(self, backend: Backend, meter: Meter) -> None:
        self._backend = backend
        self._meter = meter

    def __repr__(self) -> str:
        return f"Counted({self._backend!r})"

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return self._meter.counted(self._meter.begin(), self._backend.complete(request, options))

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        return self._meter.stream(self._meter.begin(), self._backend.stream(request, options), request.model)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def close(self) -> None:
        self._backend.close()


class AsyncCounted(Over[AsyncBackend]):
    """Counted for asyncio."""

    def __init__(self, backend: AsyncBackend, meter: Meter) -> None:
        self._backend = backend
        self._meter = meter

    def __repr__(self) -> str:
        return f"AsyncCounted({self._backend!r})"

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return self._meter.counted(self._meter.begin(), await self._backend.complete(request, options))

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        return self._meter.astream(self._meter.begin(), await self._backend.stream(request, options), request.model)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def close(self) -> None:
        await self._backend.close()
