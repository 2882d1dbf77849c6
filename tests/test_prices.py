"""What tokens cost."""

from __future__ import annotations

import pickle
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from gpt import Cost, InvalidRequestError, Price, Prices
from gpt.prices import LOCAL, PRICES, added, cost
from gpt.types import CompletionTokensDetails, PromptTokensDetails, Usage

DAY = date(2026, 1, 2)
PRICE = Price(
    input=2,
    cached_input=0.5,
    cache_write="2.5",
    output=Decimal(8),
    up_to=1000,
    beyond=Price(input=4, output=12),
    as_of=DAY,
    source="a page",
)
OWN = Prices({"m": PRICE, "plain*": Price(input=1, output=3, currency="EUR")})


def used(prompt: int, answer: int = 0, *, cached: int = 0, written: int = 0, **more: Any) -> Usage:
    details = PromptTokensDetails(cached_tokens=cached, cache_write_tokens=written)
    return Usage(answer, prompt, prompt + answer, prompt_tokens_details=details, **more)


@pytest.mark.parametrize(
    ("amount", "usage", "model"),
    [
        ("0.001", used(500), "m"),
        ("0.0026", used(500, 200), "m"),
        ("0.00085", used(500, cached=100), "m"),
        ("0.00105", used(500, written=100), "m"),
        ("0.0009", used(500, cached=100, written=100), "m"),
        ("0.00085", Usage(0, 500, 500, prompt_cache_hit_tokens=100), "m"),  # DeepSeek
        ("0.0026", used(500, 200, completion_tokens_details=CompletionTokensDetails(reasoning_tokens=150)), "m"),
        ("0.002", used(1000), "m"),
        ("0.004004", used(1001), "m"),
        (None, used(1001, cached=1), "m"),  # no price is known for it there
        ("0.0011", used(500, 200), "plain-1"),
        (None, used(500, cached=1), "plain-1"),
        (None, used(500, written=1), "plain-1"),
        (None, used(5, cached=6), "m"),  # it contradicts itself
        (None, used(0, 7), "m"),  # no prompt is without tokens: nobody counted
        (None, used(500), "other"),
        (None, None, "m"),
        (None, Usage(0, 5, 5, prompt_tokens_details=PromptTokensDetails(audio_tokens=1)), "m"),
        (None, Usage(0, 5, 5, completion_tokens_details=CompletionTokensDetails(audio_tokens=1)), "m"),
    ],
)
def test_cost(amount: str | None, usage: Usage | None, model: str) -> None:
    """Each kind of token costs its own price; what has none is not known, and never nothing."""
    found = cost(usage, model, OWN)
    assert (None if amount is None else Decimal(amount)) == (None if found is None else found.amount)


def test_says_whose_price_it_is() -> None:
    """A cost has the currency, the date and the source of its price."""
    assert Cost(Decimal("0.001"), "USD", "table", DAY, "a page") == cost(used(500), "m", OWN)
    beyond = cost(used(500), "plain", OWN)
    assert beyond is not None
    assert ("EUR", None, "") == (beyond.currency, beyond.as_of, beyond.source)


@pytest.mark.parametrize("tier", ["flex", "priority", "batch", "fast"])
def test_other_tiers(tier: str) -> None:
    """What another service tier costs is not known."""
    assert cost(used(500), "m", OWN, tier=tier) is None
    for standard in (None, "default", "auto"):
        assert cost(used(500), "m", OWN, tier=standard) is not None


def test_reported() -> None:
    """What the server says it took counts for more than the table, in what that server counts."""
    usage = used(500, cost=0.1)
    assert Cost(Decimal("0.1"), "credits", "reported", None, "openrouter.ai") == cost(usage, "m", OWN, host="openrouter.ai")
    assert Cost(Decimal("0.1"), "", "reported", None, "") == cost(usage, "x", OWN, host=None)
    assert Cost(Decimal(0), "", "reported", None, "h") == cost(used(500, cost=0.0), "m", OWN, host="h")


def test_local_is_free() -> None:
    """The model in the box costs nothing, whether it counts or not, and says why."""
    assert Cost(Decimal(0), "", "free") == cost(None, "m", OWN, host=LOCAL)


def test_find() -> None:
    """The first name that matches counts; one with a host is for answers from there alone."""
    one, two, three, four = (Price(input=n, output=n) for n in (1, 2, 3, 4))
    prices = Prices({"a.test/m": one, "m": two, "b.test/*": three, "[odd]": four})
    assert [one, two, two, three, None, four] == [
        prices.find(*asked)
        for asked in (("m", "a.test"), ("m", None), ("m", "c.test"), ("n", "b.test"), ("n", None), ("[odd]", None))
    ]


def test_find_keeps_little() -> None:
    """Names are looked up once, and not kept for ever."""
    prices = Prices({"m*": PRICE})
    for number in range(1000):
        assert PRICE is prices.find(f"m{number}")
    assert len(prices._found) <= 256


def test_joined() -> None:
    """The prices of the left come first; a mapping of prices is one of names."""
    other = Price(input=9, output=9)
    joined = OWN | Prices({"m": other, "plain-1": other, "new": other})
    assert [PRICE, OWN["plain*"], other] == [joined.find(name) for name in ("m", "plain-1", "new")]
    assert ["m", "plain*"] == list(OWN)
    assert (2, "Prices(2 of them)") == (len(OWN), repr(OWN))
    assert joined["new"] == pickle.loads(pickle.dumps(joined))["new"]


@pytest.mark.parametrize("wrong", [-1, "x", "nan", "Infinity", True, [], float("nan")])
@pytest.mark.parametrize("name", ["input", "output", "cached_input", "cache_write"])
def test_no_price(name: str, wrong: Any) -> None:
    """What is no amount is refused by name."""
    with pytest.raises(InvalidRequestError, match=f"{name}: expected the price of a million tokens"):
        Price(**{"input": 1, "output": 1, name: wrong})


def test_no_prices() -> None:
    """Prices are of Price."""
    with pytest.raises(InvalidRequestError, match=r"prices\['m'\]: expected a Price, got float"):
        Prices({"m": 0.5})  # type: ignore[dict-item]


def of(amount: str, currency: str = "USD", kind: Any = "table", day: date | None = None, source: str = "") -> Cost:
    return Cost(Decimal(amount), currency, kind, day, source)


@pytest.mark.parametrize(
    ("total", "costs"),
    [
        (of("0.3"), [of("0.1"), of("0.2")]),
        (of("3", day=DAY, source="a, b"), [of("1", day=DAY, source="a"), of("1", day=date(2026, 5, 1), source="b"), of("1")]),
        (of("2", "", "reported"), [of("1", "", "reported"), of("1", "", "reported")]),
        (of("2", "", "table"), [of("1", "", "reported"), of("1", "", "table")]),
        (of("1"), [of("0", "", "free"), of("1")]),
        (of("0", "", "free"), [of("0", "", "free"), of("0", "", "free")]),
        (None, [of("1"), None]),
        (None, [of("1"), of("1", "EUR")]),
        (None, []),
    ],
)
def test_added(total: Cost | None, costs: list[Cost | None]) -> None:
    """A sum is known where each part is, in one currency; it is as old as its oldest price."""
    assert total == added(costs)


def test_sums_do_not_drift() -> None:
    """A thousand times a tenth of a cent is a dollar."""
    assert Decimal(1) == added([of("0.001")] * 1000).amount  # type: ignore[union-attr]


def test_the_table() -> None:
    """Each row is of the hosted service, dated, has a source, and costs less from the cache and more for the answer."""
    assert PRICES
    for name, price in PRICES.items():
        assert name.startswith("api.openai.com/")
        assert price.as_of is not None
        assert price.as_of <= date(2026, 11, 25)
        assert price.source
        assert price.currency == "USD"
        assert (price.cached_input or 0) < price.input < price.output
        assert (price.up_to is None) == (price.beyond is None)
        if price.beyond is not None:
            assert price.beyond.input == 2 * price.input
            assert price.beyond.output == price.output * Decimal("1.5")
    assert Decimal("0.0000475") == cost(used(30, 20), "gpt-5-mini").amount  # type: ignore[union-attr]
    assert cost(used(30, 20), "gpt-5-mini", host="azure.test") is None
