"""What a job took, how fast it goes, and what people and programs are told of it.

Pure: times are passed in, nothing is waited for. A row is one of input and one of output. It is done when it has been answered
or has failed. What an earlier run of the same job did counts in what a job took, and not in how fast it goes.

What adds up is exact, so that rows may be added in any order and tallies merged in any split: counts, money as decimal numbers
that are never rounded, and latencies as counts in buckets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple, Self

import msgspec

from gpt.errors import InvalidRequestError
from gpt.protocol.wire import Seconds

# --------------------------------------------------------------------------------------------------------------------
# What rows took
# --------------------------------------------------------------------------------------------------------------------


class Facts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a row took; stands in the journal with its row."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    elapsed: Seconds = 0.0
    """Of the call that answered."""
    kind: str = ""
    """Empty where it was answered; else the name of the error's class, as in "RateLimitError"."""
    cost: str | None = None
    """A decimal number; "0" for free, None where it is not known."""
    currency: str = ""
    cached: bool = False
    """The answer was there already and took nothing: its tokens are not added up."""
    counted: bool = True
    """Whether the server told its usage."""


LOWEST: Seconds = 1e-3
HIGHEST: Seconds = 1e5
GROWTH = 1.04
"""How much wider a bucket is than the one before it. A value of a bucket is told as the one that is off by the same share from
either bound, (GROWTH - 1) / (GROWTH + 1), which is less than 2 %. Source: Masson, Rim and Lee, "DDSketch" (VLDB 2019).
Tallies on disk have these bounds: another number here needs another name there."""

_TOP = math.ceil(math.log(HIGHEST / LOWEST) / math.log(GROWTH))
_SCALE = 1 / math.log(GROWTH)

_EXACT = Context(prec=2000)
"""Adds amounts up without rounding."""
_FURTHEST = 400
"""Digits before the point that an amount may have; after it twice as many. No floating-point number has more."""
_ABOUT = Context(prec=6)
"""For what is projected."""


class Histogram(msgspec.Struct, kw_only=True):
    """How often which time was taken, from a millisecond to 10^5 seconds; what lies beyond counts as these."""

    counts: dict[int, int] = {}
    """By bucket: 0 up to LOWEST, and each further one up to GROWTH times as much. At most 471 of them."""
    highest: Seconds = 0.0
    """The highest value itself."""

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts.values())

    def add(self, seconds: Seconds) -> None:
        """Count a value."""
        seconds = min(max(0.0, seconds), HIGHEST)  # in this order what is no number becomes 0.0
        bucket = min(math.ceil(math.log(seconds / LOWEST) * _SCALE), _TOP) if seconds > LOWEST else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.highest = max(self.highest, seconds)

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.highest = max(self.highest, other.highest)

    def percentile(self, q: float) -> Seconds | None:
        """The value that `q` percent of all reach at most (nearest rank), within 2 % of itself; None of nothing.

        Of 100 percent it is exact. Below a millisecond it is told as one. Raises InvalidRequestError for `q` beyond 0 to 100.
        """
        if not 0 <= q <= 100:
            raise InvalidRequestError(f"q: expected a percentage from 0 to 100, got {q!r}", param="q")
        count = self.count
        rank = max(1, math.ceil(q * count / 100))
        if rank >= count:
            return self.highest if count else None
        bucket, buckets = 0, iter(sorted(self.counts.items()))
        while rank > 0:
            bucket, held = next(buckets)
            rank -= held
        return min(self.highest, LOWEST * (GROWTH ** (bucket - 1) * 2 * GROWTH / (GROWTH + 1) if bucket else 1.0))


class Tally(msgspec.Struct, kw_only=True):
    """What rows took together. What is not known is counted apart, and is in no sum."""

    rows: int = 0
    """Answered and failed ones."""
    errors: dict[str, int] = {}
    """The failed ones, by the name of the error's class."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    costs: dict[str, Decimal] = {}
    """The cost as far as it is known, by currency; "" where a server reports a number alone."""
    without_price: int = 0
    """Answers whose cost is not known."""
    without_usage: int = 0
    """Answers that do not say what they took."""
    from_cache: int = 0
    """Answers that took nothing."""
    latencies: Histogram = msgspec.field(default_factory=Histogram)
    """Of calls that answered."""

    @property
    def failed(self) -> int:
        """Rows that have an error in place of an answer."""
        return sum(self.errors.values())

    @property
    def answered(self) -> int:
        """Rows that have an answer."""
        return self.rows - self.failed

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, facts: Facts) -> None:
        """Count a row."""
        self.rows += 1
        if facts.kind:
            self.errors[facts.kind] = self.errors.get(facts.kind, 0) + 1
        if facts.cached:
            self.from_cache += 1
            return
        tokens = facts.prompt_tokens + facts.completion_tokens
        self.prompt_tokens += facts.prompt_tokens
        self.completion_tokens += facts.completion_tokens
        if not facts.kind:
            self.latencies.add(facts.elapsed)
        if not facts.counted:
            self.without_usage += 1
        amount = _amount(facts.cost)
        if amount is not None:
            if amount or facts.currency:
                self.costs[facts.currency] = _EXACT.add(self.costs.get(facts.currency, Decimal(0)), amount)
        elif not facts.kind or tokens or not facts.counted:  # an answer came, though it may be no good
            self.without_price += 1

    def merge(self, other: Tally) -> None:
        """Count the rows that `other` has counted."""
        self.rows += other.rows
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.without_price += other.without_price
        self.without_usage += other.without_usage
        self.from_cache += other.from_cache
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        for currency, amount in other.costs.items():
            self.costs[currency] = _EXACT.add(self.costs.get(currency, Decimal(0)), amount)
        self.latencies.merge(other.latencies)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; money is text. Equal tallies give equal JSON."""
        made: dict[str, Any] = msgspec.to_builtins(self, str_keys=True, order="deterministic")
        return made

    @classmethod
    def from_dict(cls, plain: Any) -> Self:
        """The tally that `to_dict` made plain. What it does not know is passed over, what is missing is 0.

        Raises InvalidRequestError for what is no tally.
        """
        try:
            return msgspec.convert(plain, cls, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"tally: {error}; a tally is what Tally.to_dict() gives", param="tally") from error


def _amount(text: str | None) -> Decimal | None:
    """Money; None for what is not known, or no amount that could be added up exactly."""
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    exact = len(text) <= _FURTHEST and -_FURTHEST <= amount.adjusted() <= _FURTHEST
    return amount if amount.is_finite() and amount >= 0 and exact else None


# --------------------------------------------------------------------------------------------------------------------
# How fast it goes
# --------------------------------------------------------------------------------------------------------------------


class Rates(NamedTuple):
    """How fast rows are done; None where nothing can be said yet."""

    rows: float | None = None
    """A second."""
    tokens: float | None = None
    """A second, of prompts and answers together."""


class _Sample(NamedTuple):
    at: Seconds
    done: int
    tokens: int


class Window:
    """How fast a job goes: over the last `seconds`, or longer where fewer than `rows` rows were done in them.

    So a model that takes a minute for a row has a rate too, and that of a job that stands still falls without a jump.
    """

    FINE = 100
    """Samples that come sooner after each other than this part of the time that all span are not kept: there are to be few."""

    def __init__(self, seconds: Seconds = 30.0, rows: int = 10) -> None:
        self._seconds = seconds
        self._rows = rows
        self._kept: deque[_Sample] = deque()
        self._latest = _Sample(0.0, 0, 0)
        self._found_rows = 0
        self._found_tokens = 0

    def found(self, rows: int, tokens: int) -> None:
        """Rows that an earlier run did are in the next samples, and are no work of this one."""
        self._found_rows += rows
        self._found_tokens += tokens

    def sample(self, now: Seconds, done: int, tokens: int) -> None:
        """At `now` so many rows are done, with so many tokens. The first sample is what all others are compared with."""
        latest = self._latest = _Sample(now, done - self._found_rows, tokens - self._found_tokens)
        kept = self._kept
        if not kept or now - kept[-1].at >= (now - kept[0].at) / self.FINE:
            kept.append(latest)
        while len(kept) > 1 and now - kept[1].at >= self._seconds and latest.done - kept[1].done >= self._rows:
            kept.popleft()

    def rates(self) -> Rates:
        """The rates at the latest sample; unknown in the first second and before the first row."""
        if not self._kept:
            return Rates()
        first, latest = self._kept[0], self._latest
        passed, rows = latest.at - first.at, latest.done - first.done
        if passed < 1.0 or rows <= 0:
            return Rates()
        return Rates(rows / passed, max(0, latest.tokens - first.tokens) / passed)


# --------------------------------------------------------------------------------------------------------------------
# A moment of a job
# --------------------------------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a job."""

    total: int | None = None
    """Rows of the job; None where that is not known before its end."""
    done: int = 0
    """Rows that were answered or failed."""
    failed: int = 0
    earlier: int = 0
    """Of those done: by an earlier run."""
    in_flight: int = 0
    """Rows that are being asked now."""
    waiting: int = 0
    """Rows that were asked and put back, to be asked again."""
    rows_per_second: float | None = None
    """Of the last half minute or so."""
    tokens_per_second: float | None = None
    """The same, of prompts and answers together."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    costs: dict[str, Decimal] = {}
    """So far, as far as they are known, by currency."""
    without_price: int = 0
    """Answers whose cost is not known."""
    projected: dict[str, Decimal] | None = None
    """Costs of the whole job if its other rows cost as much; None where the number of rows or a price is not known."""
    time_left: Seconds | None = None
    elapsed: Seconds = 0.0
    """Of this run."""
    shards_done: int = 0
    shards: int = 0
    pause: str | None = None
    """Why nothing goes out now, as in "refused: 429; next try in 8 s"."""
    stopping: str | None = None
    """Why nothing new is begun, while what is in flight comes to its end."""
    stopped: str | None = None
    """Why it ended before its last row."""

    @classmethod
    def of(cls, tally: Tally, rates: Rates = Rates(), *, total: int | None = None, **more: Any) -> Self:  # noqa: B008 - a value
        """The moment at which rows have taken this, with these rates. `more` are the other fields as they are."""
        projected = None
        if total is not None and tally.rows and not tally.without_price:
            share = Decimal(max(total, tally.rows)) / tally.rows
            projected = {currency: _ABOUT.multiply(amount, share) for currency, amount in tally.costs.items()}
        return cls(
            total=total,
            done=tally.rows,
            failed=tally.failed,
            rows_per_second=rates.rows,
            tokens_per_second=rates.tokens,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            costs=dict(tally.costs),
            without_price=tally.without_price,
            projected=projected,
            time_left=max(0, total - tally.rows) / rates.rows if total is not None and rates.rows else None,
            **more,
        )

    @property
    def percent(self) -> float | None:
        """How much is done, from 0 to 100; None where the number of rows is not known."""
        if self.total is None:
            return None
        return min(100.0, 100 * self.done / self.total) if self.total else 100.0

    @property
    def complete(self) -> bool:
        """Whether every row is done."""
        return self.stopped is None if self.total is None else self.done >= self.total

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; money is text."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made | {"percent": self.percent}


# --------------------------------------------------------------------------------------------------------------------
# In words
# --------------------------------------------------------------------------------------------------------------------


def duration(seconds: Seconds) -> str:
    """A time in words, to the second or the minute: "12 s", "3 min 20 s", "1 h 02 min", "2 d 03 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86_400:,} d {whole // 3600 % 24:02} h"


def latency(seconds: Seconds) -> str:
    """The time of one call: "0.084 s", "1.25 s", "12.5 s", "1 min 15 s"."""
    if seconds >= 60:
        return duration(seconds)
    digits = 3 if seconds < 0.1 else 2 if seconds < 10 else 1
    return f"{seconds:.{digits}f} s"


def money(amount: Decimal, currency: str) -> str:
    """An amount: "$1,234.56", "1.23 EUR", below a cent two digits as in "$0.0012"; without a currency the number alone."""
    if not amount:
        number = "0"
    elif amount < Decimal("0.000001"):
        number = "0.000001"
    elif amount < Decimal("0.01"):
        number = f"{Decimal(f'{amount:.1e}'):f}".rstrip("0")
    else:
        number = f"{amount:,.2f}"
    less = "under " if 0 < amount < Decimal("0.000001") else ""
    return f"{less}${number}" if currency == "USD" else f"{less}{number} {currency}".rstrip()


def moneys(costs: dict[str, Decimal]) -> str:
    """Amounts in several currencies: "$1.23 + 0.40 EUR"."""
    return " + ".join(money(amount, currency) for currency, amount in sorted(costs.items(), reverse=True))


def speed(rows_per_second: float) -> str:
    """How fast rows are done: "1,234 rows/s", "12.3 rows/s", "1.5 rows/min", "2.0 rows/h"."""
    rate, unit = rows_per_second, "s"
    if rate < 1:
        rate, unit = rate * 60, "min"
    if rate < 1:
        rate, unit = rate * 60, "h"
    return f"{rate:,.{0 if rate >= 100 else 1}f} rows/{unit}"


# --------------------------------------------------------------------------------------------------------------------
# A line
# --------------------------------------------------------------------------------------------------------------------

_BAR = 16
_LONGEST = 48
"""Columns that a reason may take."""


class _Part(NamedTuple):
    rank: int
    """How soon it goes where there is no room: the highest first."""
    text: str
    gap: str = "  "
    """What stands before it."""


def columns(text: str) -> int:
    """How many columns of a terminal the text takes at most: two for what is not ASCII, since some of that is wide."""
    return sum(1 if mark.isascii() else 2 for mark in text)


def line(progress: Progress, width: int) -> str:
    """The moment in one line of at most `width` columns, what matters least left out where it does not fit.

    More room only ever adds to it. Where not even the percentage fits it is empty.
    """
    shown: list[_Part] = []
    for part in sorted(_parts(progress)):
        if columns(_joined(progress, [*shown, part])) > width:
            break
        shown.append(part)
    return _joined(progress, shown)


def _joined(progress: Progress, shown: Iterable[_Part]) -> str:
    """These parts, in the order in which they are read."""
    ranks = {part.rank for part in shown}
    return "".join(part.gap + part.text for part in _parts(progress) if part.rank in ranks).lstrip(" ")


def _parts(progress: Progress) -> list[_Part]:
    """What can be told, in the order in which it is read."""
    now = progress
    parts = [_Part(12, _bar(now.percent)), _Part(0, f"{int(now.percent)} %")] if now.percent is not None else []
    parts.append(_Part(1, _rows(now.done) if now.total is None else f"{now.done:,}/{now.total:,}"))
    if now.failed:
        parts.append(_Part(4, f"{now.failed:,} failed"))
    if now.in_flight:
        parts.append(_Part(8, f"{now.in_flight:,} in flight"))
    if now.waiting:
        parts.append(_Part(11, f"{now.waiting:,} put back"))
    if now.shards > 1:
        parts.append(_Part(13, f"{now.shards_done:,}/{now.shards:,} shards"))
    if now.rows_per_second is not None:
        parts.append(_Part(7, speed(now.rows_per_second)))
    if now.tokens_per_second:
        parts.append(_Part(10, f"{now.tokens_per_second:,.0f} tokens/s"))
    if now.costs:
        parts.append(_Part(6, f"{'at least ' if now.without_price else ''}{_plain(moneys(now.costs))}"))
        if now.projected is not None and not now.complete:
            parts.append(_Part(9, f"of about {_plain(moneys(now.projected))}", " "))
    if now.stopping is not None:
        parts.append(_Part(2, f"stopping: {_cut(now.stopping)}"))
    elif now.time_left is not None and not now.complete:
        parts.append(_Part(5, f"{duration(now.time_left)} left"))
    if now.pause is not None:
        parts.append(_Part(3, _cut(now.pause)))
    return parts


def _bar(percent: float) -> str:
    full = int(percent * _BAR / 100)
    return f"[{'#' * full}{'-' * (_BAR - full)}]"


def _plain(text: str) -> str:
    """The text without what would break a line."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _cut(text: str) -> str:
    """A reason, not too long for a line; what it says of the next try stays."""
    text = _plain(text)
    if columns(text) <= _LONGEST:
        return text
    said, mark, then = text.rpartition("; next try")
    end = f"...{mark}{then}" if mark and columns(then) <= _LONGEST // 3 else "..."
    said = said if end != "..." else text
    while columns(said + end) > _LONGEST:
        said = said[:-1]
    return f"{said.rstrip()}{end}"


# --------------------------------------------------------------------------------------------------------------------
# The end
# --------------------------------------------------------------------------------------------------------------------

PERCENTILES = (50, 90, 99)


def summary(
    tally: Tally,
    progress: Progress,
    *,
    out: str | None = None,
    resume: str = "the same command again does the rest",
    retry: str = "the same command with --retry-failed asks the failed rows again",
    standing: str | None = None,
) -> str:
    """What came of a job, in lines without a last line break: what the whole job took, and how fast this run was.

    `progress` is its last moment, `out` where the output is; `resume` and `retry` say how to go on, where that can be; an empty
    one says nothing. Of a job that is only looked at `standing` says how it stands, and no time is told.
    """
    now, pace = progress, _pace(progress)
    said = _rows(now.done) if now.total in {None, now.done} else f"{now.done:,} of {_rows(now.total or 0)}"
    why = f" ({now.stopped})" if now.stopped is not None and not now.complete else ""
    facts: list[tuple[str, str]] = []
    answered = f"{tally.answered:,}"
    facts.append(("answered", f"{answered}, of them {tally.from_cache:,} from the cache" if tally.from_cache else answered))
    if tally.failed:
        kinds = sorted(tally.errors.items(), key=lambda one: (-one[1], one[0]))
        facts.append(("failed", f"{tally.failed:,}: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds)))
    if tally.rows:
        facts += [("tokens", _tokens(tally)), ("cost", _cost(tally))]
    times = [(f"p{q}", tally.latencies.percentile(q)) for q in PERCENTILES] + [("max", tally.latencies.percentile(100))]
    shown = [f"{name} {latency(value)}" for name, value in times if value is not None]
    if shown:
        facts.append(("latency", ", ".join(shown)))
    took = f"{duration(now.elapsed)}, {speed(pace)}" if pace else duration(now.elapsed)
    if standing is None:
        facts.append(("time", f"{took}; {_rows(now.earlier)} by an earlier run" if now.earlier else took))
    if out is not None:
        facts.append(("output", out))
    ways = [resume if not now.complete else "", retry if tally.failed else ""]
    facts += zip(("go on", ""), filter(None, ways), strict=False)
    head = f"{standing or ('Finished' if now.complete else 'Stopped') + why}: {said}"
    return "\n".join([head, *(f"  {name:<9} {text}" for name, text in facts)])


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _tokens(tally: Tally) -> str:
    told = f"{tally.prompt_tokens:,} in, {tally.completion_tokens:,} out"
    return f"{told}; not told for {_rows(tally.without_usage)}" if tally.without_usage else told


def _cost(tally: Tally) -> str:
    if tally.without_price and tally.without_price >= tally.answered and not tally.costs:
        return "not known"
    if tally.without_price:
        unknown = f"unknown for {_rows(tally.without_price)}"
        return f"{moneys(tally.costs)}; {unknown}" if tally.costs else unknown
    return moneys(tally.costs) if tally.costs else "nothing"


def _pace(progress: Progress) -> float:
    """Rows a second of the whole run."""
    return max(0, progress.done - progress.earlier) / progress.elapsed if progress.elapsed > 0 else 0.0


def summary_dict(tally: Tally, progress: Progress, *, out: str | None = None) -> dict[str, Any]:
    """The same as plain values for JSON; money is text, times are seconds, None is what is not known."""
    told = tally.to_dict()
    del told["latencies"]
    latencies = {f"p{q}": tally.latencies.percentile(q) for q in PERCENTILES} | {"max": tally.latencies.percentile(100)}
    return told | {
        "answered": tally.answered,
        "failed": tally.failed,
        "latency": latencies,
        "total": progress.total,
        "earlier": progress.earlier,
        "elapsed": progress.elapsed,
        "rows_per_second": _pace(progress) or None,
        "complete": progress.complete,
        "stopped": progress.stopped,
        "out": out,
    }
