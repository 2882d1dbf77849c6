"""When to try again, and after how long."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import errors
from gpt.errors import GptError
from gpt.protocol.retry import Budget, Retry


def answered(kind: type[errors.ResponseError], status: int, retry_after: float | None = None, **said: Any) -> GptError:
    return kind("x", status, retry_after=retry_after, **said)


WORTH: list[tuple[GptError, bool]] = [
    (errors.ConnectError("x"), True),
    (errors.RequestTimeoutError("x"), True),
    (errors.TLSError("x"), False),
    (errors.StreamTruncatedError("x"), True),
    (errors.InvalidRequestError("x"), False),
    (answered(errors.ServerError, 500), True),
    (answered(errors.ServerError, 501), False),
    (answered(errors.ServerError, 502), True),
    (answered(errors.OverloadedError, 503), True),
    (answered(errors.OverloadedError, 529), True),
    (answered(errors.RateLimitError, 429), True),
    (answered(errors.QuotaError, 429), False),
    (answered(errors.BadRequestError, 400), False),
    (answered(errors.AuthenticationError, 401), False),
    (answered(errors.BadRequestError, 408), True),
    (answered(errors.BadRequestError, 409), True),
    (answered(errors.ContextLengthError, 500), False),
    (answered(errors.ServerError, 520), True),
    (answered(errors.RateLimitError, 200), True),
    (answered(errors.MalformedResponseError, 200), False),
    (answered(errors.BadRequestError, 400, should_retry=True), True),
    (answered(errors.ServerError, 500, should_retry=False), False),
    (answered(errors.QuotaError, 429, should_retry=True), False),
    (answered(errors.ServerError, 501, should_retry=True), False),
]


@pytest.mark.parametrize(("error", "worth"), WORTH, ids=[f"{place}-{type(row[0]).__name__}" for place, row in enumerate(WORTH)])
def test_worth_trying(error: GptError, worth: bool) -> None:
    """What a second try may change is tried again; the caller's mistakes, a quota and 501 are not."""
    assert worth is (Retry().delay(0, error, 0.5) is not None)


@pytest.mark.parametrize(
    ("retry", "attempt", "error", "draw", "expected"),
    [
        (Retry(), 0, answered(errors.ServerError, 500), 0.0, 0.0),
        (Retry(), 0, answered(errors.ServerError, 500), 1.0, 0.25),
        (Retry(), 1, answered(errors.ServerError, 500), 1.0, 0.5),
        (Retry(), 2, answered(errors.ServerError, 500), 1.0, None),
        (Retry(), 0, answered(errors.RateLimitError, 429), 1.0, 1.0),
        (Retry(attempts=99), 50, answered(errors.ServerError, 500), 1.0, 20.0),
        (Retry(attempts=5000), 4000, answered(errors.ServerError, 500), 1.0, 20.0),
        (Retry(attempts=1), 0, answered(errors.ServerError, 500), 1.0, None),
        (Retry(), 0, answered(errors.RateLimitError, 429, 7.0), 0.0, 7.0),
        (Retry(), 0, answered(errors.RateLimitError, 429, 7.0), 0.5, 7.5),
        (Retry(), 0, answered(errors.RateLimitError, 429, 120.0), 0.0, 120.0),
        (Retry(), 0, answered(errors.RateLimitError, 429, 121.0), 0.0, None),
        (Retry(connection_errors=False), 0, errors.ConnectError("x"), 0.5, None),
        (Retry(exponent=3.0), 2 - 1, answered(errors.ServerError, 500), 1.0, 0.75),
    ],
)
def test_delay(retry: Retry, attempt: int, error: GptError, draw: float, expected: float | None) -> None:
    """The wait is a random part of a growing and bounded time, and never less than the server asks."""
    assert expected == retry.delay(attempt, error, draw)


@given(st.integers(0, 10), st.floats(0, 1, exclude_max=True), st.floats(0, 120))
def test_bounds(attempt: int, draw: float, asked: float) -> None:
    """A wait is never negative, never below what the server asks and never above that plus the cap."""
    wait = Retry(attempts=20).delay(attempt, answered(errors.RateLimitError, 429, asked), draw)
    assert wait is not None
    assert asked <= wait <= asked + 20.0


STEPS = st.lists(st.tuples(st.sampled_from(["fail", "throttle", "succeed"]), st.sampled_from([0, 5, 14])), max_size=200)


@given(st.integers(0, 600), STEPS)
def test_budget_bounds(capacity: int, steps: list[tuple[str, int]]) -> None:
    """Whatever happens, the budget is never below zero and never above its capacity."""
    budget = Budget(capacity)
    for step, paid in steps:
        before = budget.tokens
        if step == "succeed":
            budget.succeed(paid)
        else:
            error = answered(errors.RateLimitError, 429) if step == "throttle" else errors.ConnectError("x")
            cost = budget.spend(error)
            assert before - cost == budget.tokens
            assert cost in (0, 5 if step == "throttle" else 14)
        assert 0 <= budget.tokens <= capacity


def test_budget_shared_by_threads() -> None:
    """With a lock, threads together never spend more than there is."""
    budget = Budget(lock=threading.Lock())
    paid: list[int] = []

    def work() -> None:
        for _ in range(200):
            paid.append(budget.spend(errors.ConnectError("x")))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 500 // 14 * 14 == sum(paid)
    assert 500 % 14 == budget.tokens
