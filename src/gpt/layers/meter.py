"""What a client's calls took, added up: `client.usage`.

A whole answer is only put down, by one append, and added up when somebody asks, or when some have come together: a call must
not be slower for it. A stream is told of once, when it ends, by whatever: its end, an error, being left or dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import msgspec
from msgspec.structs import replace

from gpt.backend import AsyncChunkStream, ChunkStream
from gpt.errors import InvalidRequestError
from gpt.protocol.wire import ResponseInfo
from gpt.types import ChatCompletion, ChatCompletionChunk, Unset, Usage

if TYPE_CHECKING:
    from decimal import Decimal

    from gpt.prices import Cost, Prices

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)

ROOM = 64
"""Answers that are put down before they are added up."""

_BARE = ResponseInfo()


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's calls took together, those of its copies too. What is not known is counted apart, and is in no sum."""

    calls: int = 0
    """Calls that were begun. Each answer of a run of tools is one, and each time that something is asked again."""
    answers: int = 0
    """Answers that came, streams that were left or broke off among them. The other calls failed, or are still waited for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Thinking included."""
    cached_tokens: int = 0
    """Of the prompts: what the server had in its cache."""
    reasoning_tokens: int = 0
    """Of the answers: thinking, as far as servers tell."""
    costs: dict[str, Decimal] = msgspec.field(default_factory=dict[str, "Decimal"])
    """The cost as far as it is known, by currency; "" where a server reports a number alone."""
    without_usage: int = 0
    """Answers that do not say what they took."""
    without_price: int = 0
    """Answers whose cost is not known; those without usage are among them."""
    failed_attempts: int = 0
    """Attempts that failed before an answer came. A server may charge for them, but none says what they took."""
    from_cache: int = 0
    """Answers that came from a cache and took nothing."""

    @property
    def total_tokens(self) -> int:
        """Prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


class Answers(Protocol):
    """What took several answers: a run of tools, a value, an answer that was no value."""

    @property
    def completions(self) -> tuple[ChatCompletion, ...]: ...


def _completions(given: Any, place: int) -> Iterable[ChatCompletion]:
    """The answers that are meant. Raises InvalidRequestError."""
    if isinstance(given, ChatCompletion):
        return (given,)
    made = getattr(given, "completions", None)
    if not isinstance(made, tuple):
        raise InvalidRequestError(
            f"answers[{place}]: expected a ChatCompletion, or what has several as `completions` (ToolRun, Parsed, ParseError), "
            f"got {type(given).__name__}",
            param=f"answers[{place}]",
        )
    return made


class Meter:
    """The sums of a client, shared by its copies, by threads and by tasks.

    `host` is who answers, unless an answer knows it better, as one of a Fallback does; `prices` is what it takes, as
    `prices.cost` has them. `begin` is called when a call begins: it is a C function, as is the append in `counted`, so that
    what is always on costs four lines.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.host: str | None = None
        self._prices = prices
        self._begun = count()
        self._looked = 0
        """How often `_begun` was asked only to see how far it is."""
        self.begin: Callable[[], int] = self._begun.__next__
        self._noted: deque[tuple[str, Usage | None, str | None, ResponseInfo]] = deque()
        self._lock = threading.Lock()
        self._sums: dict[str, int] = {}
        self._costs: dict[str, Decimal] = {}

    def counted(self, _begun: int, made: ChatCompletion) -> ChatCompletion:
        """The answer, of which a note is taken. Its body is not kept."""
        self._noted.append((made.model, made.usage, made.service_tier, replace(made.__dict__.get("info") or _BARE, raw=None)))
        if len(self._noted) >= ROOM:
            self._add_up(wait=False)
        return made

    def stream(self, _begun: int, chunks: ChunkStream, model: str | Unset | None) -> ToldStream:
        """The chunks, of whose end a note is taken."""
        return ToldStream(chunks, self._ending(model))

    def astream(self, _begun: int, chunks: AsyncChunkStream, model: str | Unset | None) -> AsyncToldStream:
        """The same on asyncio."""
        return AsyncToldStream(chunks, self._ending(model))

    def _ending(self, asked: str | Unset | None) -> Told:
        def told(last: ChatCompletionChunk | None, info: ResponseInfo | None) -> None:
            model = (last.model if last is not None else "") or (asked if isinstance(asked, str) else "")
            usage, tier = (last.usage, last.service_tier) if last is not None else (None, None)
            self._noted.append((model, usage, tier, info or _BARE))
            if len(self._noted) >= ROOM:
                self._add_up(wait=False)

        return told

    def read(self) -> UsageTotals:
        """The sums up to now."""
        self._add_up(wait=True)
        with self._lock:
            begun = next(self._begun) - self._looked
            self._looked += 1
            return UsageTotals(calls=begun, costs=dict(self._costs), **self._sums)

    def cost_of(self, answers: Iterable[ChatCompletion | Answers]) -> Cost | None:
        """What these answers cost together; None where that is not known of one. Raises InvalidRequestError."""
        from gpt.prices import added

        return added(
            self._cost(made.model, made.usage, made.service_tier, made.info or _BARE)
            for place, one in enumerate(answers)
            for made in _completions(one, place)
        )

    def _cost(self, model: str, usage: Usage | None, tier: str | None, info: ResponseInfo) -> Cost | None:
        from gpt.prices import CACHED, cost

        host = info.entries[-1].host if info.entries else self.host
        return CACHED if info.cached else cost(usage, model, self._prices, host=host, tier=tier)

    def _add_up(self, *, wait: bool) -> None:
        """Add up what was put down. Without `wait` only where nobody is at it: it may be this very thread, which drops a stream
        in the middle of it.
        """
        if not self._lock.acquire(blocking=wait):
            return
        try:
            while self._noted:
                self._add(*self._noted.popleft())
        finally:
            self._lock.release()

    def _add(self, model: str, usage: Usage | None, tier: str | None, info: ResponseInfo) -> None:
        self._sum("answers", 1)
        self._sum("failed_attempts", sum(attempt.failed for attempt in info.attempts))
        if info.cached:
            self._sum("from_cache", 1)
            return
        if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
            self._sum("without_usage", 1)
        else:
            prompt, answer = usage.prompt_tokens_details, usage.completion_tokens_details
            cached = (prompt.cached_tokens if prompt is not None else None) or usage.prompt_cache_hit_tokens
            self._sum("prompt_tokens", usage.prompt_tokens)
            self._sum("completion_tokens", usage.completion_tokens)
            self._sum("cached_tokens", cached or 0)
            self._sum("reasoning_tokens", (answer.reasoning_tokens if answer is not None else None) or 0)
        cost = self._cost(model, usage, tier, info)
        if cost is None:
            self._sum("without_price", 1)
        elif cost.kind != "free":
            self._costs[cost.currency] = self._costs.get(cost.currency, 0) + cost.amount

    def _sum(self, name: str, value: int) -> None:
        self._sums[name] = self._sums.get(name, 0) + value


# --------------------------------------------------------------------------------------------------------------------
# Streams
# --------------------------------------------------------------------------------------------------------------------

Told = Callable[[ChatCompletionChunk | None, ResponseInfo | None], None]
"""Called once, with the last chunk of a stream that had usage, and the facts of the exchange, where either is known."""


class _Telling(Generic[Source]):
    """What both streams share."""

    _chunks: Source

    def __init__(self, chunks: Source, told: Told) -> None:
        self._chunks = chunks
        self._told: Told | None = told
        self._last: ChatCompletionChunk | None = None

    @property
    def info(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(self._last, self.info)

    def __del__(self) -> None:
        if getattr(self, "_told", None) is not None and hasattr(self, "_last"):
            self._tell()


class ToldStream(_Telling[ChunkStream]):
    """Chunks whose end is told."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            chunk = next(self._chunks)
        except BaseException:
            self._tell()
            raise
        if chunk.usage is not None:
            self._last = chunk
        return chunk

    def close(self) -> None:
        self._chunks.close()
        self._tell()


class AsyncToldStream(_Telling[AsyncChunkStream]):
    """ToldStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            chunk = await anext(self._chunks)
        except BaseException:
            self._tell()
            raise
        if chunk.usage is not None:
            self._last = chunk
        return chunk

    async def close(self) -> None:
        await self._chunks.close()
        self._tell()
