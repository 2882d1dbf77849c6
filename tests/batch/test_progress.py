"""What a job took, how fast it goes, and what is told of it."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.progress import (
    HIGHEST,
    LOWEST,
    PERCENTILES,
    Facts,
    Histogram,
    Progress,
    Rates,
    Tally,
    Window,
    columns,
    duration,
    latency,
    line,
    money,
    moneys,
    speed,
    summary,
    summary_dict,
)

# --------------------------------------------------------------------------------------------------------------------
# What rows took
# --------------------------------------------------------------------------------------------------------------------

FACTS = st.builds(
    Facts,
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**6),
    elapsed=st.floats(0, 1e6),
    kind=st.sampled_from(["", "", "RateLimitError", "ParseError"]),
    cost=st.none()
    | st.floats(0, allow_nan=False, allow_infinity=False).map(lambda number: str(Decimal(str(number))))
    | st.decimals(0, 1000, places=20).map(str),
    currency=st.sampled_from(["", "USD", "EUR"]),
    cached=st.booleans(),
    counted=st.booleans(),
)


def tally(*rows: Facts) -> Tally:
    made = Tally()
    for facts in rows:
        made.add(facts)
    return made


def test_facts_on_disk() -> None:
    """Facts are a short list, and older ones with fewer fields are read with what is left out."""
    assert b'[1,2,0.5,"","0.1","USD",false,true]' == msgspec.json.encode(Facts(1, 2, 0.5, cost="0.1", currency="USD"))
    assert Facts(1, 2) == msgspec.json.decode(b"[1,2]", type=Facts)


TAKEN: list[tuple[Facts, Tally]] = [
    (
        Facts(100, 20, 0.0, cost="0.01", currency="USD"),
        Tally(rows=1, prompt_tokens=100, completion_tokens=20, costs={"USD": Decimal("0.01")}),
    ),
    (Facts(100, 20), Tally(rows=1, prompt_tokens=100, completion_tokens=20, without_price=1)),
    (Facts(cost="0"), Tally(rows=1)),  # free: no currency, nothing to add up
    (Facts(cost="0", currency="EUR"), Tally(rows=1, costs={"EUR": Decimal(0)})),
    (Facts(cost="0.5"), Tally(rows=1, costs={"": Decimal("0.5")})),  # a server that reports a number alone
    (Facts(counted=False), Tally(rows=1, without_usage=1, without_price=1)),
    (Facts(100, 20, 3.0, cost="5", currency="USD", cached=True), Tally(rows=1, from_cache=1)),
    # Failed rows: nothing came, so nothing is unknown; or an answer came that was no good.
    (Facts(kind="RateLimitError"), Tally(rows=1, errors={"RateLimitError": 1})),
    (Facts(100, kind="ParseError"), Tally(rows=1, errors={"ParseError": 1}, prompt_tokens=100, without_price=1)),
    (
        Facts(0, 20, kind="ParseError", cost="0.5", currency="USD"),
        Tally(rows=1, errors={"ParseError": 1}, completion_tokens=20, costs={"USD": Decimal("0.5")}),
    ),
    (
        Facts(20, 20, kind="ParseError"),
        Tally(rows=1, errors={"ParseError": 1}, prompt_tokens=20, completion_tokens=20, without_price=1),
    ),
    (Facts(kind="ParseError", counted=False), Tally(rows=1, errors={"ParseError": 1}, without_usage=1, without_price=1)),
    (Facts(kind="ParseError", cached=True), Tally(rows=1, errors={"ParseError": 1}, from_cache=1)),
    # What is no amount is not known.
    *((Facts(cost=cost), Tally(rows=1, without_price=1)) for cost in ("x", "", "NaN", "Infinity", "-1", "1E+401", "1E-401")),
    (Facts(cost="0." + "1" * 399), Tally(rows=1, without_price=1)),
]


@pytest.mark.parametrize(("facts", "expected"), TAKEN)
def test_add(facts: Facts, expected: Tally) -> None:
    """A row counts once, in each sum that it belongs to; what is not known is counted apart."""
    if not facts.cached and not facts.kind:
        expected = msgspec.structs.replace(expected, latencies=Histogram(counts={0: 1}))
    assert expected == tally(facts)


def test_add_twice() -> None:
    """Rows add up."""
    made = tally(*[Facts(100, 20, 2.0, cost="0.1", currency="USD"), Facts(kind="ServerError")] * 3)
    assert (6, 3, 3, 360) == (made.rows, made.failed, made.answered, made.tokens)
    assert ({"ServerError": 3}, {"USD": Decimal("0.3")}) == (made.errors, made.costs)
    assert (3, 2.0) == (made.latencies.count, made.latencies.highest)


@given(st.lists(FACTS, max_size=20), st.randoms(), st.integers(1, 5))
def test_any_order_any_split(rows: list[Facts], random: Any, parts: int) -> None:
    """However rows are ordered and shared out, the tally is the same, on disk too, and no cost is rounded."""
    whole = tally(*rows)
    shuffled = random.sample(rows, len(rows))
    merged = Tally()
    for part in range(parts):
        merged.merge(tally(*shuffled[part::parts]))
    assert whole == merged
    assert json.dumps(whole.to_dict()) == json.dumps(merged.to_dict())


@given(st.lists(FACTS, max_size=20))
def test_to_disk_and_back(rows: list[Facts]) -> None:
    """A tally comes back from JSON as it was."""
    whole = tally(*rows)
    assert whole == Tally.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert whole == Tally.from_dict(msgspec.json.decode(msgspec.json.encode(whole.to_dict())))


def test_merge_leaves_the_other() -> None:
    """What is merged stays as it was, and shares nothing."""
    one, other = Tally(), tally(Facts(cost="1", currency="USD"), Facts(kind="ServerError"))
    one.merge(other)
    one.add(Facts(1, cost="1", currency="USD"))
    one.add(Facts(kind="ServerError"))
    assert tally(Facts(cost="1", currency="USD"), Facts(kind="ServerError")) == other
    assert Tally() == Tally(), "no default is shared"


def test_other_releases() -> None:
    """What a newer release adds is passed over, what an older one did not know is 0."""
    assert Tally(rows=3, errors={"X": 1}) == Tally.from_dict({"rows": 3, "errors": {"X": 1}, "smiles": 5})
    assert Tally() == Tally.from_dict({})


@pytest.mark.parametrize(
    "plain", [None, [], "x", {"rows": "many"}, {"latencies": {"counts": {"x": 1}}}, {"costs": {"USD": "much"}}]
)
def test_no_tally(plain: Any) -> None:
    """What is no tally is refused, and named."""
    with pytest.raises(InvalidRequestError, match="^tally: ") as raised:
        Tally.from_dict(plain)
    assert "tally" == raised.value.param


# --------------------------------------------------------------------------------------------------------------------
# Latencies
# --------------------------------------------------------------------------------------------------------------------


def histogram(*values: float) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(st.lists(st.floats(LOWEST, HIGHEST), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile(values: list[float], q: float) -> None:
    """A percentile is within 2 % of the value at its rank; the highest is exact."""
    exact = sorted(values)[max(1, math.ceil(q * len(values) / 100)) - 1]
    made = histogram(*values)
    told = made.percentile(q)
    assert told is not None
    assert told == pytest.approx(exact, rel=0.02)
    assert max(values) == made.percentile(100)


@pytest.mark.parametrize("value", [LOWEST, LOWEST * 1.0000001, LOWEST * 1.04, 0.00104001, 1.0, 99_999.9, HIGHEST])
def test_bounds_of_buckets(value: float) -> None:
    """At the bounds too, where the highest value does not tell."""
    assert histogram(value, HIGHEST).percentile(50) == pytest.approx(value, rel=0.02)


PERCENTILE: list[tuple[float | None, list[float], float]] = [
    (None, [], 50),
    (None, [], 100),
    (0.0, [0.0], 50),
    (0.0005, [0.0005], 0),  # the only one is the highest one
    (LOWEST, [0.0, 5.0], 50),  # below a millisecond it is one
    (0.0005, [0.0, 0.0005], 50),  # unless none is as long
    (0.0, [-1.0], 100),
    (0.0, [math.nan], 100),
    (1e5, [1e9], 100),
    (1e5, [math.inf], 100),
    (1.0, [1.0] * 99 + [50.0], 99),
    (50.0, [1.0] * 98 + [50.0] * 2, 99),
    (50.0, [1.0] * 197 + [50.0] * 3, 99),
    (1.0, [1.0, 50.0], 0),
]


@pytest.mark.parametrize(("expected", "values", "q"), PERCENTILE)
def test_percentile_of_few(expected: float | None, values: list[float], q: float) -> None:
    """The rank is the nearest; what lies beyond the bounds counts as these."""
    told = histogram(*values).percentile(q)
    assert (told is None) if expected is None else (told == pytest.approx(expected, rel=0.02, abs=1e-12))


@pytest.mark.parametrize("q", [-1, 100.5, math.nan])
def test_no_percentage(q: float) -> None:
    """What is no percentage is refused."""
    with pytest.raises(InvalidRequestError, match="from 0 to 100"):
        Histogram().percentile(q)


def test_size() -> None:
    """A histogram does not grow with what it counts."""
    made = histogram(*(LOWEST * 1.003**step for step in range(10_000)), 0.0, math.inf)
    assert 471 == len(made.counts)
    assert 10_002 == made.count
    assert set(range(471)) == set(made.counts)


# --------------------------------------------------------------------------------------------------------------------
# Rates
# --------------------------------------------------------------------------------------------------------------------

Samples = list[tuple[float, int, int]]

RATES: list[tuple[Rates, Samples]] = [
    (Rates(), []),
    (Rates(), [(5.0, 100, 1000)]),
    (Rates(), [(5.0, 100, 1000), (5.9, 110, 1100)]),  # too early to tell
    (Rates(), [(5.0, 100, 1000), (65.0, 100, 1000)]),  # nothing has come yet
    (Rates(10.0, 100.0), [(5.0, 100, 1000), (6.0, 110, 1100)]),  # what was there at the beginning is no work
    (Rates(5.0, 0.0), [(0.0, 0, 0), (2.0, 10, 0)]),
    (Rates(5.0, 0.0), [(0.0, 0, 50), (2.0, 10, 0)]),  # tokens never run backwards
    (Rates(), [(0.0, 10, 0), (2.0, 5, 0)]),  # nor do rows
    # Over the last 30 seconds, when it has become faster.
    (Rates(10.0, 20.0), [(0.0, 0, 0), (100.0, 100, 0), *((100.0 + s, 100 + 10 * s, 20 * s) for s in range(1, 51))]),
    # A slow one: the last ten rows or so, however long they take.
    (Rates(0.05, 1.0), [(20.0 * s, s, 20 * s) for s in range(100)]),
    # It stands still: the rate falls bit by bit.
    (
        Rates(0.1, 0.0),
        [(0.0, 0, 0), *((float(s), 10 * s, 0) for s in range(1, 11)), *((float(s), 100, 0) for s in range(11, 110))],
    ),
]


@pytest.mark.parametrize(("expected", "samples"), RATES)
def test_rates(expected: Rates, samples: Samples) -> None:
    """How fast it goes now, not since the beginning."""
    window = Window()
    for sample in samples:
        window.sample(*sample)
    told = window.rates()
    if expected.rows is None:
        assert expected == told
    else:
        assert (told.rows, told.tokens) == pytest.approx(expected, rel=0.03)


def test_rates_without_what_was_found() -> None:
    """Rows of an earlier run that are found in the middle are no work of this one."""
    window = Window()
    window.sample(0.0, 0, 0)
    window.sample(1.0, 5, 50)
    window.found(1000, 10_000)
    assert Rates(5.0, 50.0) == window.rates()
    window.sample(2.0, 1010, 10_100)
    assert Rates(5.0, 50.0) == window.rates()


@pytest.mark.parametrize("every", [0.001, 0.2, 1.0])
def test_window_stays_small(every: float) -> None:
    """However often and however long it is told, little is kept, and the rate is that of now."""
    window = Window()
    for step in range(40_000):
        window.sample(1000 + step * every, 0, 0)
    for step in range(40_000, 80_000):
        window.sample(1000 + step * every, int(20 * (step - 39_999) * every), 0)
    assert len(window._kept) <= 1500
    assert 20.0 == pytest.approx(window.rates().rows, rel=0.02)


def test_slow_window_moves() -> None:
    """A slow job that has become slower is told by its last rows, not by all of them."""
    window = Window()
    for second in range(0, 50_000, 5):
        window.sample(float(second), min(second, 10_000) // 60 + max(0, second - 10_000) // 600, 0)
    assert 1 / 600 == pytest.approx(window.rates().rows, rel=0.15)


# --------------------------------------------------------------------------------------------------------------------
# A moment
# --------------------------------------------------------------------------------------------------------------------

DOLLAR = Facts(100, 20, 1.0, cost="0.01", currency="USD")


def test_moment() -> None:
    """A moment has what the rows took, and what the rest will take."""
    made = Progress.of(
        tally(*[DOLLAR] * 9, Facts(kind="ServerError")), Rates(2.0, 50.0), total=100, in_flight=4, elapsed=5.0, shards=3
    )
    expected = Progress(
        total=100,
        done=10,
        failed=1,
        in_flight=4,
        rows_per_second=2.0,
        tokens_per_second=50.0,
        prompt_tokens=900,
        completion_tokens=180,
        costs={"USD": Decimal("0.09")},
        projected={"USD": Decimal("0.9")},
        time_left=45.0,
        elapsed=5.0,
        shards=3,
    )
    assert expected == made
    assert (10.0, False) == (made.percent, made.complete)


PROJECTED: list[tuple[dict[str, Decimal] | None, list[Facts], int | None]] = [
    (None, [DOLLAR], None),
    (None, [], 10),
    (None, [DOLLAR, Facts(1)], 10),  # a price is missing
    ({}, [Facts(cost="0")], 10),
    ({"USD": Decimal("0.1")}, [DOLLAR], 10),
    ({"USD": Decimal("0.05")}, [DOLLAR, Facts(cached=True)], 10),
    ({"USD": Decimal("0.0333333")}, [DOLLAR, *[Facts(kind="X")] * 2], 10),
    ({"USD": Decimal("0.02")}, [DOLLAR] * 2, 1),  # more rows than there were thought to be
]


@pytest.mark.parametrize(("expected", "rows", "total"), PROJECTED)
def test_projected(expected: dict[str, Decimal] | None, rows: list[Facts], total: int | None) -> None:
    """The other rows will cost as much; nothing is said where a price or the number of rows is not known."""
    assert expected == Progress.of(tally(*rows), total=total).projected


LEFT: list[tuple[float | None, int, int | None, float | None]] = [
    (None, 1, None, 2.0),
    (None, 1, 10, None),
    (4.5, 1, 10, 2.0),
    (0.0, 3, 2, 2.0),
]


@pytest.mark.parametrize(("expected", "done", "total", "rate"), LEFT)
def test_time_left(expected: float | None, done: int, total: int | None, rate: float | None) -> None:
    """What is left at the present rate, where that and the number of rows are known."""
    assert expected == Progress.of(tally(*[DOLLAR] * done), Rates(rate), total=total).time_left


PERCENT: list[tuple[float | None, bool, Progress]] = [
    (None, True, Progress(done=5)),
    (None, False, Progress(done=5, stopped="Ctrl-C")),
    (100.0, True, Progress(total=0)),
    (50.0, False, Progress(total=2, done=1)),
    (100.0, True, Progress(total=2, done=2, stopped="Ctrl-C")),
    (100.0, True, Progress(total=2, done=3)),
]


@pytest.mark.parametrize(("percent", "complete", "progress"), PERCENT)
def test_percent(percent: float | None, complete: bool, progress: Progress) -> None:
    """Whether all is done is known by the rows, and without their number by how it ended."""
    assert (percent, complete) == (progress.percent, progress.complete)


def test_moment_is_its_own() -> None:
    """A moment does not change with the tally that it was made of."""
    taken = tally(DOLLAR)
    made = Progress.of(taken)
    taken.add(DOLLAR)
    assert {"USD": Decimal("0.01")} == made.costs


def test_moment_of_nothing() -> None:
    """Before anything is known, counts are 0 and all else is null."""
    counts = {"done", "failed", "earlier", "in_flight", "waiting", "prompt_tokens", "completion_tokens", "without_price"}
    expected = dict.fromkeys((*Progress.__struct_fields__, "percent")) | dict.fromkeys(
        (*counts, "elapsed", "shards", "shards_done"), 0
    )
    assert expected | {"costs": {}} == Progress().to_dict()


def test_moment_for_programs() -> None:
    """A moment as plain values has all of its fields, money as text, and the percentage."""
    plain = json.loads(json.dumps(Progress.of(tally(DOLLAR), Rates(2.0, 3.0), total=4, pause="refused").to_dict()))
    assert {*Progress.__struct_fields__, "percent"} == set(plain)
    assert ({"USD": "0.01"}, {"USD": "0.04"}, 25.0, "refused") == (
        plain["costs"],
        plain["projected"],
        plain["percent"],
        plain["pause"],
    )
    assert (None, 1.5) == (plain["stopped"], plain["time_left"])


# --------------------------------------------------------------------------------------------------------------------
# In words
# --------------------------------------------------------------------------------------------------------------------

WORDS: list[tuple[str, str]] = [
    ("0 s", duration(0.0)),
    ("12 s", duration(12.4)),
    ("1 min 00 s", duration(59.6)),
    ("3 min 20 s", duration(200)),
    ("1 h 00 min", duration(3599.9)),
    ("1 h 02 min", duration(3720)),
    ("23 h 59 min", duration(86_399)),
    ("1 d 00 h", duration(86_400)),
    ("1,157 d 09 h", duration(1e8)),
    ("0.000 s", latency(0.0)),
    ("0.084 s", latency(0.0841)),
    ("1.25 s", latency(1.25)),
    ("12.5 s", latency(12.5)),
    ("1 min 00 s", latency(60)),
    ("1 min 15 s", latency(75)),
    ("$0", money(Decimal(0), "USD")),
    ("under $0.000001", money(Decimal("5e-324"), "USD")),
    ("$0.000001", money(Decimal("0.000001"), "USD")),
    ("$0.0012", money(Decimal("0.00123"), "USD")),
    ("$0.001", money(Decimal("0.001"), "USD")),
    ("$0.01", money(Decimal("0.00999"), "USD")),
    ("$0.01", money(Decimal("0.01"), "USD")),
    ("$1.23", money(Decimal("1.2345"), "USD")),
    ("$1,234.50", money(Decimal("1234.5"), "USD")),
    ("1.23 EUR", money(Decimal("1.23"), "EUR")),
    ("under 0.000001 EUR", money(Decimal("1e-9"), "EUR")),
    ("1.23", money(Decimal("1.23"), "")),
    ("$1.23 + 0.40 EUR", moneys({"EUR": Decimal("0.4"), "USD": Decimal("1.23")})),
    ("", moneys({})),
    ("1,234 rows/s", speed(1234.4)),
    ("100 rows/s", speed(100)),
    ("12.3 rows/s", speed(12.34)),
    ("1.0 rows/s", speed(1.0)),
    ("30.0 rows/min", speed(0.5)),
    ("30.0 rows/h", speed(0.5 / 60)),
    ("0.0 rows/h", speed(0.0)),
]


@pytest.mark.parametrize(("expected", "told"), WORDS)
def test_words(expected: str, told: str) -> None:
    """Times, amounts and rates, as people write them."""
    assert expected == told


MOMENT = Progress.of(
    tally(*[Facts(100, 20, 1.0, cost="0.00296", currency="USD")] * 417, *[Facts(kind="RateLimitError")] * 3),
    Rates(12.34, 4567.0),
    total=1000,
    in_flight=64,
    waiting=2,
    shards=4,
    shards_done=1,
    elapsed=34.0,
)


def at(**changes: Any) -> Progress:
    return msgspec.structs.replace(MOMENT, **changes)


PARTS = [
    "[######----------]",
    "42 %",
    "420/1,000",
    "3 failed",
    "64 in flight",
    "2 put back",
    "1/4 shards",
    "12.3 rows/s",
    "4,567 tokens/s",
    "$1.23",
    "of about $2.94",
    "47 s left",
    "refused: 429",
]
SOONEST = [
    "/4 shards",
    "[",
    "2 put",
    "4,567",
    "of about",
    "64 in",
    "12.3",
    "$1.23",
    "47 s",
    "3 failed",
    "refused",
    "420",
    "42 %",
]
"""How the parts go, by what is in them."""
STOPPING = [mark for mark in SOONEST if mark != "47 s"]
STOPPING.insert(STOPPING.index("420"), "Ctrl-C")

LINES: list[tuple[str, Progress, int]] = [
    ("  ".join(PARTS).replace("  of", " of"), at(pause="refused: 429"), 200),
    ("42 %  420/1,000  3 failed  64 in flight  12.3 rows/s  $1.23 of about $2.94  47 s left", MOMENT, 99),
    ("42 %  420/1,000  3 failed  64 in flight  12.3 rows/s  $1.23  47 s left", MOMENT, 79),
    ("42 %  420/1,000  3 failed  $1.23  47 s left", MOMENT, 50),
    ("42 %  420/1,000", MOMENT, 20),
    ("42 %", MOMENT, 4),
    ("", MOMENT, 3),
    ("", MOMENT, 0),
    ("", MOMENT, -1),
    ("[----------------]  0 %  0/1,000", Progress(total=1000), 99),
    ("[###############-]  99 %  1,999/2,000", Progress(total=2000, done=1999), 99),  # not 100 before the end
    ("[################]  100 %  2/2", Progress(total=2, done=2, time_left=0.0, projected={"USD": Decimal(1)}), 99),
    ("5 rows", Progress(done=5), 99),
    ("1 row", Progress(done=1, shards=1), 99),
    ("5 rows  0/3 shards", Progress(done=5, shards=3), 99),
    ("5 rows  at least $1.00", Progress(done=5, costs={"USD": Decimal(1)}, without_price=2), 99),
    ("5 rows  30.0 rows/min", Progress(done=5, rows_per_second=0.5, tokens_per_second=0.0), 99),
    (
        "42 %  420/1,000  3 failed  $1.23  47 s left  refused: 429; next try in 8 s",
        at(pause="refused: 429; next try in 8 s"),
        79,
    ),
    ("42 %  420/1,000  3 failed  64 in flight  12.3 rows/s  $1.23  stopping: Ctrl-C", at(stopping="Ctrl-C"), 79),
    ("5 rows  stopping: " + "x" * 45 + "...", Progress(done=5, stopping="x" * 100), 99),
    ("5 rows  " + "é" * 22 + "...", Progress(done=5, pause="é" * 100), 99),
    ("5 rows  " + "x" * 48, Progress(done=5, pause="x" * 48), 99),
    ("5 rows  " + "x" * 28 + "...; next try in 8 s", Progress(done=5, pause="x" * 100 + "; next try in 8 s"), 99),
    ("5 rows  " + "x" * 45 + "...", Progress(done=5, pause="x" * 60 + "; next try" + "y" * 60), 99),
    ("5 rows  a?b", Progress(done=5, pause="a\nb"), 99),
    ("5 rows  1.00 ?[2J", Progress(done=5, costs={"\x1b[2J": Decimal(1)}), 99),
]


@pytest.mark.parametrize(("expected", "progress", "width"), LINES)
def test_line(expected: str, progress: Progress, width: int) -> None:
    """What matters most, in as much room as there is."""
    assert expected == line(progress, width)


@pytest.mark.parametrize(("expected", "stopping"), [(SOONEST, None), (STOPPING, "Ctrl-C")])
def test_what_goes_first(expected: list[str], stopping: str | None) -> None:
    """Where there is less and less room, what matters least goes first, one thing after the other."""
    lines = [line(at(pause="refused: 429", stopping=stopping), width) for width in range(200, -1, -1)]
    assert expected == [
        next(mark for mark in expected if mark in before and mark not in after)
        for before, after in zip(lines, lines[1:])
        if before != after
    ]


REASONS = st.none() | st.text(max_size=80)
MOMENTS = st.builds(
    Progress,
    total=st.none() | st.integers(0, 10**9),
    done=st.integers(0, 10**9),
    failed=st.integers(0, 10**9),
    in_flight=st.integers(0, 10**5),
    waiting=st.integers(0, 10**5),
    rows_per_second=st.none() | st.floats(0, 1e6),
    tokens_per_second=st.none() | st.floats(0, 1e9),
    costs=st.dictionaries(st.text(max_size=4), st.decimals(0, 10**9), max_size=2),
    projected=st.none() | st.dictionaries(st.text(max_size=4), st.decimals(0, 10**9), max_size=2),
    without_price=st.integers(0, 5),
    time_left=st.none() | st.floats(0, 1e12),
    shards=st.integers(0, 1000),
    pause=REASONS,
    stopping=REASONS,
)


@given(MOMENTS, st.integers(0, 250))
def test_any_line(progress: Progress, width: int) -> None:
    """A line never takes more columns than there are and never breaks, and more room only adds to it."""
    narrow, wide = line(progress, width), line(progress, width + 1)
    assert columns(narrow) <= width
    assert narrow == "" or narrow.isprintable()
    rest = iter(wide)
    assert all(mark in rest for mark in narrow), "what a narrow line has, a wide one has too, in the same order"


# --------------------------------------------------------------------------------------------------------------------
# The end
# --------------------------------------------------------------------------------------------------------------------

GOOD = Facts(100, 20, 1.0, cost="0.01", currency="USD")
SLOW = Facts(100, 20, 10.0, cost="0.01", currency="USD")

SUMMARIES: list[tuple[str, list[Facts], dict[str, Any], str | None]] = [
    (
        """\
Finished: 10 rows
  answered  10
  tokens    1,000 in, 200 out
  cost      $0.10
  latency   p50 1.01 s, p90 1.01 s, p99 10.0 s, max 10.0 s
  time      5 s, 2.0 rows/s
  output    answers.jsonl""",
        [*[GOOD] * 9, SLOW],
        {"total": 10, "elapsed": 5.0},
        "answers.jsonl",
    ),
    (
        """\
Stopped (Ctrl-C): 5 of 1,000 rows
  answered  2, of them 1 from the cache
  failed    3: 2 RateLimitError, 1 ParseError
  tokens    100 in, 20 out
  cost      $0.01
  latency   p50 1.00 s, p90 1.00 s, p99 1.00 s, max 1.00 s
  time      8 s, 30.0 rows/min; 1 row by an earlier run
  go on     the same command again does the rest
            the same command with --retry-failed asks the failed rows again""",
        [GOOD, Facts(cached=True), Facts(kind="ParseError"), *[Facts(kind="RateLimitError")] * 2],
        {"total": 1000, "elapsed": 8.0, "earlier": 1, "stopped": "Ctrl-C"},
        None,
    ),
    (
        """\
Finished: 2 rows
  answered  0
  failed    2: 1 ConnectError, 1 ServerError
  tokens    0 in, 0 out
  cost      nothing
  time      0 s
  go on     the same command with --retry-failed asks the failed rows again""",
        [Facts(kind="ServerError"), Facts(kind="ConnectError")],
        {"stopped": None},
        None,
    ),
    (
        """\
Stopped: 3 of 4 rows
  answered  3
  tokens    101 in, 20 out; not told for 1 row
  cost      $0.01; unknown for 2 rows
  latency   p50 0.001 s, p90 1.00 s, p99 1.00 s, max 1.00 s
  time      1 s; 3 rows by an earlier run
  go on     the same command again does the rest""",
        [GOOD, Facts(counted=False), Facts(1)],
        {"total": 4, "earlier": 3, "elapsed": 1.0},
        None,
    ),
    (
        """\
Finished: 1 row
  answered  1
  tokens    1 in, 0 out
  cost      not known
  latency   p50 0.50 s, p90 0.50 s, p99 0.50 s, max 0.50 s
  time      1 s, 1.0 rows/s""",
        [Facts(1, 0, 0.5)],
        {"total": 1, "elapsed": 1.0, "stopped": "Ctrl-C"},
        None,
    ),
    ("Finished: 0 rows\n  answered  0\n  time      0 s", [], {"total": 0}, None),
]


@pytest.mark.parametrize(("expected", "rows", "fields", "out"), SUMMARIES)
def test_summary(expected: str, rows: list[Facts], fields: dict[str, Any], out: str | None) -> None:
    """What came of it, what it took, where it is, and how to go on where something is left to do."""
    taken = tally(*rows)
    assert expected == summary(taken, Progress.of(taken, **fields), out=out)


def test_standing() -> None:
    """Of a job that is looked at it is said how it stands, and no time; what is said in no words is left out."""
    taken = tally(GOOD, Facts(kind="ServerError"))
    told = summary(taken, Progress.of(taken, total=4, stopped="at work"), standing="At work", resume="", retry="again")
    assert ("At work: 2 of 4 rows", "  go on     again") == (told.splitlines()[0], told.splitlines()[-1])
    assert "time" not in told
    assert "go on" not in summary(taken, Progress.of(taken, total=4, stopped="at work"), resume="", retry="")


def test_ways_to_go_on() -> None:
    """Who is no command says in other words how to go on."""
    taken = tally(Facts(kind="ServerError"))
    told = summary(taken, Progress.of(taken, total=2, stopped="deadline"), resume="run() again", retry="retry_failed=True")
    assert ["  go on     run() again", "            retry_failed=True"] == told.splitlines()[-2:]


def test_summary_for_programs() -> None:
    """A summary as plain values: sums, errors by kind, percentiles."""
    taken = tally(GOOD, SLOW, Facts(kind="ServerError"), Facts(cached=True))
    made = json.loads(
        json.dumps(summary_dict(taken, Progress.of(taken, total=5, elapsed=2.0, earlier=2, stopped="x"), out="o"))
    )
    latencies = made.pop("latency")
    assert {
        "rows": 4,
        "answered": 3,
        "failed": 1,
        "errors": {"ServerError": 1},
        "from_cache": 1,
        "prompt_tokens": 200,
        "completion_tokens": 40,
        "costs": {"USD": "0.02"},
        "without_price": 0,
        "without_usage": 0,
        "total": 5,
        "earlier": 2,
        "elapsed": 2.0,
        "rows_per_second": 1.0,
        "complete": False,
        "stopped": "x",
        "out": "o",
    } == made
    assert [*(f"p{q}" for q in PERCENTILES), "max"] == list(latencies)
    assert (10.0, 10.0) == (latencies["p90"], latencies["max"])
    assert 1.0 == pytest.approx(latencies["p50"], rel=0.02)


def test_summary_of_nothing_for_programs() -> None:
    """What is not known is null."""
    made = summary_dict(Tally(), Progress())
    assert {"p50": None, "p90": None, "p99": None, "max": None} == made["latency"]
    assert (None, None, None, True) == (made["total"], made["rows_per_second"], made["out"], made["complete"])
