"""What a Fallback does, as a flow over the entries of its list: which is asked next, and when an error stands.

A flow is a generator. It yields an `Ask`; it is sent what came of it, or the error is thrown in at the yield. An answer counts
once it has begun: of a stream that is its first content, so nothing is asked for again of which a caller has seen a part.

What an error says of the next entry is one table, `RULES`. An entry that failed rests for a while: it is asked again only where
all others fail, so that a dead one does not cost its timeouts each time. Of several calls that come when the rest is over, one
tries it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from gpt.errors import (
    AuthenticationError,
    BadRequestError,
    ContentPolicyError,
    ContextLengthError,
    GptError,
    ModelNotFoundError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    ResponseError,
    TransportError,
)
from gpt.protocol.wire import AttemptInfo, EntryInfo, ResponseInfo, Seconds

Answer = TypeVar("Answer")


class Rule(NamedTuple):
    """What follows from an error of this class, with one of these statuses (any, where there is none named)."""

    error: type[GptError]
    statuses: tuple[int, ...]
    moves_on: bool
    """Whether the next entry is asked."""
    rests: bool
    """Whether the entry that failed rests."""
    warns: bool
    """Whether the program is warned: it is set up wrongly, and would else not be noticed while others answer."""
    why: str


LEFT_OUT = "left out: it failed shortly before"

RULES = (
    Rule(ContextLengthError, (), True, False, False, "a later model may have a larger context"),
    Rule(ContentPolicyError, (), False, False, False, "the caller's: what one filter refuses is not carried to the next"),
    Rule(BadRequestError, (404, 405), True, True, True, "the entry's address is wrong"),
    Rule(BadRequestError, (408, 409, 425), True, True, False, "refused for now, whatever was asked"),
    Rule(BadRequestError, (), False, False, False, "the caller's: the request is wrong"),
    Rule(AuthenticationError, (), True, True, True, "the entry's key; others have their own"),
    Rule(PermissionDeniedError, (), True, True, True, "the entry's key; others have their own"),
    Rule(ModelNotFoundError, (), True, True, True, "the entry's model; others have their own"),
    Rule(QuotaError, (), True, True, True, "the entry's account; others have their own"),
    Rule(RateLimitError, (), True, True, False, "the service: too much for now"),
    Rule(ResponseError, (), True, True, False, "the service failed, or what it sent is no answer"),
    Rule(TransportError, (), True, True, False, "the network: no answer came"),
    Rule(GptError, (), False, False, False, "the caller's: wrong before anything was sent, or the call was cancelled"),
)
"""The first that fits holds."""


def rule_for(error: GptError) -> Rule:
    """The rule for an error."""
    status = error.status_code if isinstance(error, ResponseError) else None
    return next(rule for rule in RULES if isinstance(error, rule.error) and (not rule.statuses or status in rule.statuses))


class Rests:
    """Until when each entry rests. `cool_down` seconds after a failure, or as long as the server asked for, if that is longer.

    May be shared by threads; two that write at once differ by an instant.
    """

    def __init__(self, entries: int, cool_down: Seconds) -> None:
        self._until: list[Seconds | None] = [None] * entries
        self._cool_down = cool_down

    def order(self, now: Seconds) -> tuple[list[int], list[int]]:
        """The entries that are asked, in order, and those that rest and are asked only after all of them."""
        resting = [index for index, until in enumerate(self._until) if until is not None and now < until]
        return [index for index in range(len(self._until)) if index not in resting], resting

    def asked(self, index: int, now: Seconds) -> None:
        """One whose rest is over is tried by one call; for the others it goes on."""
        if self._until[index] is not None:
            self._until[index] = now + self._cool_down

    def failed(self, index: int, now: Seconds, error: GptError) -> None:
        asked = error.retry_after if isinstance(error, ResponseError) else None
        self._until[index] = now + max(self._cool_down, asked or 0.0)

    def answered(self, index: int) -> None:
        self._until[index] = None


class Ask(NamedTuple):
    """Ask this entry, within so many seconds."""

    entry: int
    deadline: Seconds | None


class Fell(msgspec.Struct, Generic[Answer], frozen=True):
    """The answer, and what came before it."""

    answer: Answer
    entries: tuple[EntryInfo, ...]
    attempts: tuple[AttemptInfo, ...]
    """Those of the entries that failed; at least one for each."""
    before: Seconds
    """From the start of the call to the start of the entry that answered."""
    elapsed: Seconds
    """What the entry that answered took."""

    def info(self, own: ResponseInfo | None) -> ResponseInfo:
        """The facts of the whole call, given those that the entry knows."""
        known = own or ResponseInfo(elapsed=self.elapsed)
        attempts = known.attempts or (AttemptInfo(None, "ok", known.elapsed),) if self.attempts else known.attempts
        entries = self.entries
        if known.entries:  # the one that answered is a Fallback, and knows which of its own did
            entries = (*entries[:-1], msgspec.structs.replace(entries[-1], host=known.entries[-1].host))
        return msgspec.structs.replace(
            known, entries=entries, attempts=self.attempts + attempts, elapsed=self.before + known.elapsed
        )


FallbackFlow = Generator[Ask, Answer, Fell[Answer]]
Told = Callable[[int, GptError, Rule, AttemptInfo], None]


def falling(
    names: Sequence[str],
    rests: Rests,
    clock: Callable[[], Seconds],
    deadline: Seconds | None = None,
    told: Told | None = None,
    hosts: Sequence[str | None] = (),
) -> FallbackFlow[Answer]:
    """The flow of a call over the entries with these names.

    `deadline`, in seconds, holds for all of them together; `told` is called with each failure that another entry follows;
    `hosts` says who each entry is to prices. Where all fail the last error is raised, of several about the context the one with
    the largest; its `elsewhere` has the others.
    """
    hosts = hosts or [None] * len(names)
    began = clock()
    ready, resting = rests.order(began)
    failures: list[tuple[str, GptError]] = []
    entries: list[EntryInfo] = []
    attempts: tuple[AttemptInfo, ...] = ()
    left = [*ready, *resting]
    while True:
        index = left.pop(0)
        started = clock()
        rests.asked(index, started)
        try:
            answer = yield Ask(index, None if deadline is None else deadline - (started - began))
        except GptError as error:
            last: GptError = error
        else:
            rests.answered(index)
            took = clock() - started
            left_out = [EntryInfo(names[other], LEFT_OUT, host=hosts[other]) for other in resting if other in left]
            entries.append(EntryInfo(names[index], "ok", took, hosts[index]))
            return Fell(answer, (*left_out, *entries), attempts, started - began, took)
        now = clock()
        rule = rule_for(last)
        if rule.rests:
            rests.failed(index, now, last)
        failures.append((names[index], last))
        if not rule.moves_on:
            raise _with_others(last, failures)
        if not left or (deadline is not None and now - began >= deadline):
            break
        line = f"{type(last).__name__}: {last.message}"
        entries.append(EntryInfo(names[index], line, now - started, hosts[index]))
        own = last.attempts or (AttemptInfo(getattr(last, "status_code", None), line, now - started),)
        attempts += own
        if told is not None:
            told(index, last, rule, own[-1])
    raise _with_others(_telling(failures), failures)


def _telling(failures: Sequence[tuple[str, GptError]]) -> GptError:
    """The error that says most where all entries failed: the last, of several about the context the one with the largest."""
    last = failures[-1][1]
    contexts = [error for _, error in failures if isinstance(error, ContextLengthError)]
    return max(contexts, key=lambda error: error.limit or 0) if isinstance(last, ContextLengthError) else last


def _with_others(error: GptError, failures: Sequence[tuple[str, GptError]]) -> GptError:
    """The error with those of the other entries attached, and told in its traceback."""
    error.elsewhere = tuple((name, one) for name, one in failures if one is not error)
    if error.elsewhere:
        note = "Asked too: " + "; ".join(f"{name}: {type(one).__name__}: {one.message}" for name, one in error.elsewhere)
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return error
