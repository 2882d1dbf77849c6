"""A Backend over a Backend that keeps to limits: so many requests and tokens a minute, so many calls at once.

`Pace` is what is shared: by layers, threads, tasks and event loops. Calls wait in one line, first come, first served, so that a
large one is not overtaken for ever. Its lock is held for arithmetic only. Whoever is first in line knows when to look again and
waits for that time, or until told that something changed; all others wait to become first. What decides is `protocol/pace.py`.

What a call has to report when it ends is put down and dealt with by whoever has the lock: a stream may be dropped by the
garbage collector in the middle of this very code.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeGuard, TypeVar

import msgspec

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, AsyncChunkStream, Backend, CallOptions, ChunkStream
from gpt.errors import GptError, InvalidRequestError, OverloadedError, RateLimitError, ResponseError, TransportError
from gpt.layers.over import Below, Over
from gpt.protocol.chunks import has_content
from gpt.protocol.codec import encode_request, history, with_info
from gpt.protocol.limits import RateLimits
from gpt.protocol.pace import SOON, AdaptivePlaces, Allowance, Grant, Places, Rate, Tokens
from gpt.protocol.profiles import Profile
from gpt.protocol.reserve import Count, Reckoning, Reserved
from gpt.protocol.wire import AttemptInfo, ResponseInfo, Seconds
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ModelList, Usage

if TYPE_CHECKING:
    from typing import Unpack

Source = TypeVar("Source", ChunkStream, AsyncChunkStream)

BURST: Seconds = 1.0
"""What may go at once after a pause, in seconds' worth: Azure looks at 1 or 10 seconds."""

PATIENCE: Seconds = 120.0
"""As in Retry: what a server asks for beyond it is not waited for."""

LOOK: Seconds = 0.05
"""How often a blocking call that waits looks at `CallOptions.cancel`, where there is one: two events cannot be waited for."""

OURS = "limit"
"""The `code` of errors raised here, by which another limit knows that no server refused."""


class _Ticket:
    """A call in line. `wake` is called when it is worth looking again; it gives False when nobody is there any more."""

    __slots__ = ("grant", "since", "tokens", "wake")

    def __init__(self, tokens: Tokens, wake: Callable[[], object]) -> None:
        self.tokens = tokens
        self.wake = wake
        self.since = math.nan
        """When it came; until then it is in no line."""
        self.grant: Grant | None = None


class Pace:
    """Limits that calls share, whichever way they go: pass one to each `Limit` and `AsyncLimit` that they hold for together.

    `requests_per_minute`, `tokens_per_minute` (prompt and answer together), `input_tokens_per_minute` and
    `output_tokens_per_minute` hold for any 60 seconds, any of them together; one that is not given is learnt from the server's
    headers. Half a request a minute is one in two. `max_concurrent` calls are under way at most; None: as many as come, until
    the server refuses one. With `adapt_concurrency` they begin with few and find out how many of those the server can use.
    After a pause `burst` seconds' worth go at once. A pause that the server asks for beyond `patience` seconds is not waited
    for. `count` gives the tokens of a prompt, from the request as plain values, where the estimate will not do. `clock` gives
    seconds from any start. May be shared by threads and event loops; a forked process begins with its own, as if nothing had
    gone out. Raises InvalidRequestError.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        max_concurrent: int | None = None,
        adapt_concurrency: bool = False,
        burst: Seconds = BURST,
        patience: Seconds | None = PATIENCE,
        count: Count | None = None,
        clock: Callable[[], Seconds] = monotonic,
    ) -> None:
        for name, seconds in (("burst", burst), ("patience", patience)):
            if not (_is_number(seconds) and seconds >= 0) and (seconds is not None or name == "burst"):
                raise InvalidRequestError(f"{name}: expected seconds from 0, got {seconds!r}", param=name)
        for name, function in (("count", count), ("clock", clock)):
            if not callable(function) and (function is not None or name == "clock"):
                raise InvalidRequestError(f"{name}: expected a function, got {function!r}", param=name)
        if not isinstance(adapt_concurrency, bool):
            raise InvalidRequestError(
                f"adapt_concurrency: expected True or False, got {adapt_concurrency!r}", param="adapt_concurrency"
            )
        self._rates = _checked(requests_per_minute, tokens_per_minute, input_tokens_per_minute, output_tokens_per_minute)
        self._most = _places(max_concurrent)
        self._share: float | None = None
        self._burst = burst
        self._patience = math.inf if patience is None else patience
        self._count = count
        self._clock = clock
        self._kind = AdaptivePlaces if adapt_concurrency else Places
        self._begin()

    def _begin(self) -> None:
        """Set up as if nothing had gone out yet."""
        requests, tokens, prompts, answers = (Rate(limit, self._burst) for limit in self._rates)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._allowance = Allowance(requests, tokens, prompts, answers, self._kind(self._most))
        if self._share is not None:
            self._allowance.part(self._share)
        self._reckoning = Reckoning(self._count)
        self._line: deque[_Ticket] = deque()
        self._first: _Ticket | None = None
        self._news: deque[Callable[[Seconds], None]] = deque()

    def __repr__(self) -> str:
        known = "".join(
            f"{name}={limit!r}, "
            for name, limit in zip(_RATES, self._limits, strict=True)
            if limit is not None or name in _RATES[:2]
        )
        adapting = ", adapt_concurrency=True" if self._kind is AdaptivePlaces else ""
        return f"Pace({known}max_concurrent={self.max_concurrent!r}{adapting})"

    @property
    def _limits(self) -> tuple[float | None, ...]:
        one = self._allowance
        return one.requests.limit, one.tokens.limit, one.input_tokens.limit, one.output_tokens.limit

    @property
    def requests_per_minute(self) -> float | None:
        """The limit on requests that is kept to: the caller's, else the server's; None while there is none."""
        return self._allowance.requests.limit

    @property
    def tokens_per_minute(self) -> float | None:
        """The limit on tokens that is kept to: the caller's, else the server's; None while there is none."""
        return self._allowance.tokens.limit

    @property
    def input_tokens_per_minute(self) -> float | None:
        """The limit on tokens of prompts that is kept to: the caller's, else the server's; None while there is none."""
        return self._allowance.input_tokens.limit

    @property
    def output_tokens_per_minute(self) -> float | None:
        """The limit on tokens of answers that is kept to: the caller's, else the server's; None while there is none."""
        return self._allowance.output_tokens.limit

    @property
    def max_concurrent(self) -> int | None:
        """How many calls may be under way now: falls when the server refuses, and climbs back. None: as many as come.

        With `adapt_concurrency` it is what was found out by now.
        """
        return self._allowance.places.limit

    @property
    def under_way(self) -> int:
        """Calls that have begun and not ended."""
        return self._allowance.places.taken

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return len(self._line)

    def change(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        max_concurrent: int | None = None,
        share: float | None = None,
    ) -> None:
        """Set limits anew. None leaves one as it is. What has gone out counts against them.

        `share` is the part of all limits a minute that this process may use, from above 0 to 1, where others use the rest: of
        those given here and before, and of those learnt. A call may be as large as the whole limit; it waits the longer for
        that. `max_concurrent` is not shared by it. Raises InvalidRequestError.
        """
        rates = _checked(requests_per_minute, tokens_per_minute, input_tokens_per_minute, output_tokens_per_minute)
        places = _places(max_concurrent)
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            raise InvalidRequestError(f"share: expected a number above 0, up to 1, got {share!r}", param="share")
        self._rates = tuple(new or old for new, old in zip(rates, self._rates, strict=True))
        self._most = places or self._most
        self._share = share or self._share

        def change(_: Seconds) -> None:
            one = self._allowance
            for rate, limit in zip((one.requests, one.tokens, one.input_tokens, one.output_tokens), rates, strict=True):
                if limit is not None:
                    rate.change(limit)
            if places is not None:
                one.places.change(places)
            if share is not None:
                one.part(share)

        self._report(change)

    @property
    def held(self) -> Seconds:
        """How long nobody goes yet, because a server asked for that or `hold` was told to; 0.0: calls may go."""
        return self._allowance.held(self._clock())

    def hold(self, seconds: Seconds) -> None:
        """Let nobody go for so long, as when a server asks for a pause: of one that another process asked."""
        self._report(lambda now: self._allowance.pause(now, seconds))

    def look(self) -> None:
        """Have all in line look at the clock. By themselves they do so in time, unless the clock is set by hand."""

        def look(_: Seconds) -> None:
            for ticket in self._line:
                ticket.wake()

        self._report(look)

    # ----------------------------------------------------------------------------------------------------------------
    # The line
    # ----------------------------------------------------------------------------------------------------------------

    def _reserve(self, request: ChatRequest, profile: Profile) -> Reserved | None:
        """What the call may take; None while nobody asks for it. Raises InvalidRequestError, as the call would."""
        if self._process != os.getpid():
            self._begin()
        allowance = self._allowance
        if not allowance.counts_tokens:
            return None
        body = encode_request(request, echoes=profile.echoes, tags=profile.think_tags)
        reserved = self._reckoning.reserve(msgspec.json.decode(body))
        reserved.within(allowance.tokens.most, allowance.output_tokens.most)
        return reserved

    def _step(self, ticket: _Ticket, deadline: Seconds | None) -> Seconds | None:
        """None when the call may go; else the seconds after which to ask again, endless for one that will be woken.

        Raises RateLimitError for a wait that would be too long, InvalidRequestError for a call that can never go.
        """
        with self._lock:
            now = self._clock()
            self._hear(now)
            if math.isnan(ticket.since):
                ticket.since = now
                self._line.append(ticket)
            self._admit(now, ticket)
            wait = None if ticket.grant is not None else self._wait(ticket, now, deadline)
        self._settle()
        return wait

    def _admit(self, now: Seconds, current: _Ticket | None = None) -> None:
        """Let those go that may; the first of the others is to look again when it is its time. Call with the lock."""
        line = self._line
        while line:
            first = line[0]
            if self._allowance.wait(now, first.tokens):  # endless also for one that is too large
                if first is not self._first:
                    self._first = first
                    if first is not current and first.wake() is False:
                        line.popleft()
                        continue
                return
            line.popleft()
            first.grant = self._allowance.take(now, first.tokens)
            if first is not current and first.wake() is False:
                self._allowance.end(now, first.grant, None, sent=False, succeeded=False)

    def _wait(self, ticket: _Ticket, now: Seconds, deadline: Seconds | None) -> Seconds:
        """How long one that is in line waits before it asks again. Raises as `_step` does."""
        allowance, tokens = self._allowance, ticket.tokens
        if not allowance.fits(tokens):
            raise _too_large(allowance, tokens)
        asked = allowance.asked(now, tokens)
        if asked > self._patience:
            raise _too_long(f"the server asks to wait {asked:.0f} s, longer than the {self._patience:g} s of patience=", asked)
        first = self._line[0] is ticket
        if deadline is None and not first:
            return math.inf
        ahead = 0 if first else self._line.index(ticket)
        least = allowance.wait(now, tokens, ahead)
        if deadline is not None:
            left = deadline - (now - ticket.since)
            if left <= SOON:
                raise _too_long(f"the deadline of {deadline:g} s passed while the call waited for its turn", _known(asked))
            if left <= least != math.inf:
                raise _too_long(
                    f"the call would wait {least:.1f} s at least for its turn, and its deadline leaves {left:.1f} s", least
                )
            return min(least, left) if first else left
        return least

    def _again(self, turn: _Turn, status: int | None, after: Seconds, left: Seconds) -> Seconds:
        """Seconds until a call may be tried again, `after` at least; endless where it has less than that `left`."""
        allowance, grant = turn._allowance, turn._grant
        with self._lock:
            now = self._clock()
            self._hear(now)
            if allowance.asked(now, grant.charged) > max(after, self._patience):
                left = 0.0
            wait = allowance.again(now, grant, status, after, left)
            self._admit(now)  # those that may go by what was heard
        self._settle()
        return wait

    def _leave(self, ticket: _Ticket) -> None:
        """Give up: out of line, or give back the leave to go."""

        def leave(now: Seconds) -> None:
            if ticket.grant is not None:
                self._allowance.end(now, ticket.grant, None, sent=False, succeeded=False)
            elif ticket in self._line:
                self._line.remove(ticket)

        self._report(leave)

    def _report(self, news: Callable[[Seconds], None]) -> None:
        """Put down what happened. It is dealt with now, or by who has the lock, before it is let go of."""
        self._news.append(news)
        self._settle()

    def _hear(self, now: Seconds) -> None:
        """Deal with what was put down. Call with the lock."""
        while self._news:
            self._news.popleft()(now)
            self._first = None  # whoever is first may have to wait longer or shorter than it thinks

    def _settle(self) -> None:
        while self._news and self._lock.acquire(blocking=False):
            try:
                now = self._clock()
                self._hear(now)
                self._admit(now)
            finally:
                self._lock.release()

    # ----------------------------------------------------------------------------------------------------------------
    # Waiting
    # ----------------------------------------------------------------------------------------------------------------

    def _enter(self, request: ChatRequest, options: CallOptions, profile: Profile) -> _Turn:
        """Wait for the turn of a call, blocking."""
        reserved = self._reserve(request, profile)
        event = threading.Event()
        ticket = _Ticket(_tokens(reserved), event.set)
        try:
            while True:
                event.clear()
                wait = self._step(ticket, options.deadline)
                if wait is None:
                    return _Turn(self, ticket, reserved)
                _sleep(event, wait, options.cancel)
        except BaseException:
            self._leave(ticket)
            raise

    async def _aenter(self, request: ChatRequest, options: CallOptions, profile: Profile) -> _Turn:
        """Wait for the turn of a call, on asyncio."""
        import asyncio

        reserved = self._reserve(request, profile)
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def wake() -> bool:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the loop is closed, and the task in it is no more
                return False
            return True

        ticket = _Ticket(_tokens(reserved), wake)
        try:
            while True:
                event.clear()
                wait = self._step(ticket, options.deadline)
                if wait is None:
                    return _Turn(self, ticket, reserved)
                timer = None if wait == math.inf else loop.call_later(wait, event.set)
                try:
                    await event.wait()
                finally:
                    if timer is not None:
                        timer.cancel()
        except BaseException:
            self._leave(ticket)
            raise


def _sleep(event: threading.Event, seconds: Seconds, cancel: threading.Event | None) -> None:
    """Wait for the event, so long at most. Raises GptError when `cancel` is set."""
    if cancel is None:
        event.wait(min(seconds, threading.TIMEOUT_MAX))
        return
    while seconds > 0 and not event.wait(min(seconds, LOOK)):
        if cancel.is_set():
            raise GptError("the call was cancelled")
        seconds -= LOOK


def _tokens(reserved: Reserved | None) -> Tokens:
    return _NO_TOKENS if reserved is None else Tokens(reserved.tokens, reserved.prompt, reserved.output)


def _too_large(allowance: Allowance, tokens: Tokens) -> InvalidRequestError:
    """The error of a call that no wait helps, by the limit that it is too large for."""
    ask = "ask for a shorter answer (max_completion_tokens)"
    if not allowance.tokens.fits(tokens.total):
        param, what, of, rate, then = (
            "messages",
            f"the call may take {tokens.total:,.0f} tokens, prompt and answer together",
            "",
            allowance.tokens,
            f"{ask}, or send less",
        )
    elif not allowance.input_tokens.fits(tokens.input):
        what, of, rate = f"the prompt may have {tokens.input:,.0f} tokens", " on input tokens", allowance.input_tokens
        param, then = "messages", "send less"
    else:
        what, of, rate = f"the answer may have {tokens.output:,.0f} tokens", " on output tokens", allowance.output_tokens
        param, then = "max_completion_tokens", ask
    return InvalidRequestError(
        f"{param}: {what}, and the limit{of} is {rate.most:,.0f} a minute, so that no wait helps; {then}", param=param
    )


def _too_long(message: str, wait: Seconds | None) -> RateLimitError:
    return RateLimitError(f"{message}; nothing was sent", 429, code=OURS, retry_after=wait)


def _known(wait: Seconds) -> Seconds | None:
    return wait or None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RATES = ("requests_per_minute", "tokens_per_minute", "input_tokens_per_minute", "output_tokens_per_minute")

_NO_TOKENS = Tokens()


def _checked(*limits: Any) -> tuple[float | None, ...]:
    """The limits a minute, in the order of `_RATES`, checked."""
    for name, value in zip(_RATES, limits, strict=True):
        if value is not None and not (_is_number(value) and value > 0):
            raise InvalidRequestError(f"{name}: expected a number above 0, or None, got {value!r}", param=name)
    return limits


def _places(most: Any) -> int | None:
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise InvalidRequestError(f"max_concurrent: expected an int from 1, or None, got {most!r}", param="max_concurrent")
    made: int | None = most
    return made


# --------------------------------------------------------------------------------------------------------------------
# A call that may go
# --------------------------------------------------------------------------------------------------------------------


class _Turn:
    """A call from its turn to its end, of which it reports once."""

    __slots__ = ("_allowance", "_began", "_chars", "_ended", "_grant", "_pace", "_pieces", "_reserved", "_usage", "waited")

    def __init__(self, pace: Pace, ticket: _Ticket, reserved: Reserved | None) -> None:
        assert ticket.grant is not None
        self._pace = pace
        self._allowance = pace._allowance  # in a forked process the pace has another, of which this call took nothing
        self._grant = ticket.grant
        self._reserved = reserved
        self._began = ticket.grant.request.at
        self.waited = self._began - ticket.since
        self._usage: Usage | None = None
        self._pieces = 0
        self._chars = 0
        self._ended = False

    def __del__(self) -> None:
        if hasattr(self, "_ended"):
            self.left()

    @property
    def elapsed(self) -> Seconds:
        """Seconds since its turn."""
        return self._pace._clock() - self._began

    def options(self, options: CallOptions) -> CallOptions:
        """The call's options: less time, and word of its retries."""
        told = options.retrying
        deadline = None if options.deadline is None else options.deadline - self.waited

        def retrying(attempt: AttemptInfo, wait: Seconds) -> Seconds | None:
            left = math.inf if deadline is None else deadline - self.elapsed
            wait = self._pace._again(self, attempt.status, wait, left)
            if told is None or wait == math.inf:
                return wait
            return max(wait, told(attempt, wait) or 0.0)  # another limit above may have it wait longer

        return msgspec.structs.replace(options, retrying=retrying, deadline=deadline)

    def told(self, limits: RateLimits | None) -> None:
        """Take in what the server said of its limits."""
        if limits is not None:
            self._pace._report(lambda now: self._allowance.told(now, self._grant, limits))

    def answered(self, made: ChatCompletion) -> ChatCompletion:
        """The whole answer, which tells how long the call waited."""
        info: ResponseInfo | None = made.__dict__.get("info")
        if info is not None:
            self.told(info.rate_limits)
        if info is not None and info.cached:
            self.end(sent=False, succeeded=False)
        else:
            self._usage = made.usage
            self.end()
        if not self.waited:
            return made
        # A copy: a backend may give one answer twice.
        copy = msgspec.structs.replace(made)
        copy.__dict__.update(made.__dict__)
        info = info or ResponseInfo()
        with_info(copy, msgspec.structs.replace(info, waited=self.waited, elapsed=info.elapsed + self.waited))
        return copy

    def piece(self, chunk: ChatCompletionChunk) -> None:
        """Take in a piece of a streamed answer."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        self._pieces += len(chunk.choices)
        for choice in chunk.choices:
            self._chars += len(choice.delta.content or "")

    def _taken(self) -> Tokens | None:
        """The tokens that it took, as far as is known: by usage, else by the pieces that came."""
        usage = self._usage
        if usage is not None:
            prompt, answer = usage.prompt_tokens, usage.completion_tokens
            return Tokens(usage.total_tokens or prompt + answer, prompt, answer)
        if self._reserved is not None and self._pieces:
            prompt, made = self._reserved.prompt, max(self._pieces, self._chars / 4)
            return Tokens(prompt + made, prompt, made)
        return None

    def end(self, *, tokens: Tokens | None = None, sent: bool = True, succeeded: bool = True, refused: bool = False) -> None:
        """Report that the call is over."""
        if self._ended:
            return
        self._ended = True
        pace, allowance, reserved, usage = self._pace, self._allowance, self._reserved, self._usage
        taken = self._taken() if tokens is None else tokens

        def end(now: Seconds) -> None:
            grant = self._grant
            if refused:
                allowance.places.refused(now, grant.began)
            allowance.end(now, grant, taken, sent=sent, succeeded=succeeded)
            if usage is not None and reserved is not None and succeeded:
                pace._reckoning.learn(reserved, usage)

        pace._report(end)

    def failed(self, error: BaseException) -> None:
        """Report that the call ended by `error`."""
        if isinstance(error, ResponseError) and error.code != OURS:
            refused = isinstance(error, (RateLimitError, OverloadedError))
            self.told(error.rate_limits)
            asked = error.retry_after
            if refused and asked is not None:
                self._pace._report(lambda now: self._allowance.pause(now, asked))
            free = refused or 400 <= error.status_code < 500
            self.end(tokens=_NO_TOKENS if free and not self._pieces else None, succeeded=False, refused=refused)
        else:
            unsent = isinstance(error, (InvalidRequestError, ResponseError))
            unsent = unsent or (isinstance(error, TransportError) and not error.sent)
            self.end(sent=not unsent, succeeded=False)

    def left(self) -> None:
        """Report that the caller left before the end."""
        self.end(succeeded=False)


# --------------------------------------------------------------------------------------------------------------------
# The layers
# --------------------------------------------------------------------------------------------------------------------


class LimitSettings(TypedDict, total=False):
    """The limits, as keywords: those of a `Pace` of one's own."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    input_tokens_per_minute: float | None
    output_tokens_per_minute: float | None
    max_concurrent: int | None
    adapt_concurrency: bool
    burst: Seconds
    patience: Seconds | None
    count: Count | None


class _Limiting(Over[Below]):
    """What both layers share."""

    def __init__(self, backend: Below, pace: Pace | None, settings: Any) -> None:
        if pace is not None and settings:
            given = ", ".join(settings)
            raise InvalidRequestError(f"pace: has its own limits; give it or {given}, not both", param="pace")
        if pace is not None and not isinstance(pace, Pace):
            raise InvalidRequestError(f"pace: expected a Pace, got {type(pace).__name__}", param="pace")
        self._backend: Below = backend
        self.pace = Pace(**settings) if pace is None else pace

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._backend!r}, {self.pace!r})"


class Limit(_Limiting[Backend]):
    """`backend`, kept to limits: those of `pace`, which others may share, or those given here (see `Pace`).

    `answer.info.waited` tells how long a call waited for its turn. Where that would pass the call's deadline, it raises
    RateLimitError at once, whose `retry_after` says how long it would have been.
    """

    def __init__(self, backend: Backend, pace: Pace | None = None, **settings: Unpack[LimitSettings]) -> None:
        super().__init__(backend, pace, settings)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request = _listed(request)
        turn = self.pace._enter(request, options, self.profile or Profile())
        try:
            made = self._backend.complete(request, turn.options(options))
        except BaseException as error:
            turn.failed(error)
            raise
        return turn.answered(made)

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        request = _listed(request)
        turn = self.pace._enter(request, options, self.profile or Profile())
        try:
            chunks = self._backend.stream(request, turn.options(options))
        except BaseException as error:
            turn.failed(error)
            raise
        return LimitedStream(chunks, turn)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def close(self) -> None:
        self._backend.close()


class AsyncLimit(_Limiting[AsyncBackend]):
    """Limit for asyncio."""

    def __init__(self, backend: AsyncBackend, pace: Pace | None = None, **settings: Unpack[LimitSettings]) -> None:
        super().__init__(backend, pace, settings)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        request = _listed(request)
        turn = await self.pace._aenter(request, options, self.profile or Profile())
        try:
            made = await self._backend.complete(request, turn.options(options))
        except BaseException as error:
            turn.failed(error)
            raise
        return turn.answered(made)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        request = _listed(request)
        turn = await self.pace._aenter(request, options, self.profile or Profile())
        try:
            chunks = await self._backend.stream(request, turn.options(options))
        except BaseException as error:
            turn.failed(error)
            raise
        return AsyncLimitedStream(chunks, turn)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def close(self) -> None:
        await self._backend.close()


def _listed(request: ChatRequest) -> ChatRequest:
    """The request with messages that may be read twice."""
    if type(request.messages) is list:
        return request
    return msgspec.structs.replace(request, messages=history(request.messages))


class _Limited(Generic[Source]):
    """What both streams share. One holds its place until it ends, is left or dropped."""

    _chunks: Source

    def __init__(self, chunks: Source, turn: _Turn) -> None:
        self._chunks = chunks
        self._turn = turn
        self._first_token: Seconds | None = None
        info = self._known
        if info is not None:
            turn.told(info.rate_limits)

    @property
    def _known(self) -> ResponseInfo | None:
        return getattr(self._chunks, "info", None)

    @property
    def info(self) -> ResponseInfo | None:
        info, waited = self._known, self._turn.waited
        if not waited:
            return info
        return msgspec.structs.replace(info or ResponseInfo(first_token=self._first_token), waited=waited)

    def _take(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        self._turn.piece(chunk)
        if self._first_token is None and has_content(chunk):
            self._first_token = self._turn.elapsed
        return chunk

    def __del__(self) -> None:
        if hasattr(self, "_turn"):
            self._turn.left()


class LimitedStream(_Limited[ChunkStream]):
    """Chunks of a call that holds its place."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._turn.end()
            raise
        except BaseException as error:
            self._turn.failed(error)
            raise
        return self._take(chunk)

    def close(self) -> None:
        try:
            self._chunks.close()
        finally:
            self._turn.left()


class AsyncLimitedStream(_Limited[AsyncChunkStream]):
    """LimitedStream for asyncio."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._turn.end()
            raise
        except BaseException as error:
            self._turn.failed(error)
            raise
        return self._take(chunk)

    async def close(self) -> None:
        try:
            await self._chunks.close()
        finally:
            self._turn.left()
