"""How much a job may still take."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import GptError, InvalidRequestError
from gpt.batch.progress import Facts, Tally
from gpt.batch.spending import Spending


def tally(*rows: Facts) -> Tally:
    made = Tally()
    for one in rows:
        made.add(one)
    return made


def paid(cost: str | None, tokens: int = 5, currency: str = "USD", **more: Any) -> Facts:
    return Facts(tokens, tokens, 1.0, cost=cost, currency=currency, **more)


REFUSED = Facts(kind="BadRequestError")
COST, TOKENS = Spending(max_cost=Decimal(10)), Spending(max_tokens=100)


@pytest.mark.parametrize(
    ("spending", "rows", "under_way", "expected"),
    [
        (Spending(), [], 10**6, True),
        (Spending(), [paid(None)], 10**6, True),
        (COST, [], 0, True),
        (COST, [], 1, False),  # what a row takes is not known
        (COST, [REFUSED] * 5, 1, False),
        (COST, [REFUSED] * 5, 0, True),
        (COST, [paid("2"), paid("0", cached=True)], 3, True),
        (COST, [paid("2")], 3, True),  # 2 + 2 * 4 is 10
        (COST, [paid("2")], 4, False),
        (COST, [paid("2"), *[REFUSED] * 9], 4, False),  # what was refused does not make answers cheaper
        (COST, [paid("1"), paid("3")], 2, True),
        (COST, [paid("1"), paid("3")], 3, False),
        (COST, [paid("5.1")], 0, "max_cost"),
        (COST, [paid("5.1")], 1, False),
        (COST, [paid("10")], 0, "max_cost"),
        (COST, [paid("11")], 0, "max_cost"),
        (COST, [paid("12", kind="ParseError")], 0, "max_cost"),
        (COST, [paid("0", currency="")] * 3, 10**6, True),  # free
        (COST, [paid("1"), paid("0", currency="EUR")], 0, True),
        (TOKENS, [], 0, True),
        (TOKENS, [], 1, False),
        (TOKENS, [paid(None, 10)], 3, True),
        (TOKENS, [paid(None, 10)], 4, False),
        (TOKENS, [paid(None, 30)], 0, "max_tokens"),
        (TOKENS, [paid(None, 50)], 0, "max_tokens"),
        (TOKENS, [paid(None, 500, cached=True)], 0, True),
        (Spending(max_cost=Decimal(1), max_tokens=100), [paid("0.9", 1)], 0, "max_cost"),
        (Spending(max_cost=Decimal(9), max_tokens=100), [paid("0.9", 40)], 0, "max_tokens"),
    ],
)
def test_allowed(spending: Spending, rows: list[Facts], under_way: int, expected: object) -> None:
    """One more row may be asked while it, and what is under way, fit in as rows were on average."""
    assert expected == spending.allows(tally(*rows), under_way)


def test_reached() -> None:
    """For those who ask beforehand: the limit that what is under way and one more row would pass."""
    assert [None, None, "max_cost"] == [COST.reached(tally(paid("2")), under_way) for under_way in (0, 3, 4)]
    assert COST.reached(tally(), 1000) is None
    assert "max_tokens" == TOKENS.reached(tally(paid(None, 30)), 1)


@pytest.mark.parametrize(
    ("spending", "rows", "text"),
    [
        (COST, [paid("1"), paid(None)], "what an answer costs is not known here.*--price"),
        (COST, [paid("1"), paid("2", currency="EUR")], r"several currencies \(EUR, USD\)"),
        (TOKENS, [paid(None, 0, counted=False)], "does not tell how many tokens"),
    ],
)
def test_not_kept(spending: Spending, rows: list[Facts], text: str) -> None:
    """A limit that could not be kept to is an error."""
    with pytest.raises(GptError, match=text):
        spending.allows(tally(*rows), 0)


@pytest.mark.parametrize(
    ("cost", "tokens", "expected"),
    [
        (None, None, Spending()),
        ("0.25", 1, Spending(max_cost=Decimal("0.25"), max_tokens=1)),
        (0.1, None, Spending(max_cost=Decimal("0.1"))),
        (3, None, Spending(max_cost=Decimal(3))),
        (Decimal("1e-9"), None, Spending(max_cost=Decimal("1e-9"))),
    ],
)
def test_named(cost: Any, tokens: int | None, expected: Spending) -> None:
    """An amount is what was written, of any kind of number."""
    assert expected == Spending.of(cost, tokens)


@pytest.mark.parametrize(
    ("cost", "tokens", "param"),
    [
        *[(cost, None, "max_cost") for cost in ("0", "-1", "NaN", "Infinity", "ten", "", 0.0, float("nan"), True is None)],
        *[(None, tokens, "max_tokens") for tokens in (0, -1, True, 1.5, "5")],
    ],
)
def test_refused(cost: Any, tokens: Any, param: str) -> None:
    """What is no limit is named."""
    with pytest.raises(InvalidRequestError, match=f"{param}: expected an") as error:
        Spending.of(cost, tokens)
    assert param == error.value.param


@pytest.mark.parametrize(
    ("spending", "part", "expected"),
    [
        (Spending(), 0.5, Spending()),
        (Spending(max_cost=Decimal(1), max_tokens=100), 0.25, Spending(max_cost=Decimal("0.25"), max_tokens=25)),
        (TOKENS, 0.001, Spending(max_tokens=1)),
    ],
)
def test_shared(spending: Spending, part: float, expected: Spending) -> None:
    """A task has its part of the limits, and no less than a token."""
    assert expected == spending.share(part)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=60, max_size=60), st.integers(1, 20), st.randoms(use_true_random=False))
def test_kept_to(costs: list[int], width: int, chance: Any) -> None:
    """A job that asks while it is allowed passes its limit by no more than the rows under way differ from the average, and ends."""
    spending, taken, under_way, left = Spending(max_cost=Decimal(300)), Tally(), list[int](), list(costs)
    reason: object = True
    while left or under_way:
        reason = spending.allows(taken, len(under_way)) if left and len(under_way) < width else False
        if isinstance(reason, str):
            break
        if reason:
            under_way.append(left.pop())
            spent = sum(taken.costs.values(), Decimal(0))
            mean = spent / taken.rows if taken.rows else Decimal(0)
            assert spent + sum(under_way) <= 300 + sum(one - mean for one in under_way)
            assert taken.rows or 1 == len(under_way)
        else:
            taken.add(paid(str(under_way.pop(chance.randrange(len(under_way))))))
    assert sum(taken.costs.values()) <= 300 + width * 40
    assert (reason == "max_cost") or not left
