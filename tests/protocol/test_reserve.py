"""How many tokens a call may take, before it is made."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.protocol.reserve import ANSWER, LAST, PART, Reckoning
from gpt.protocol.tokens import count, estimate
from gpt.types import Usage

SAID: list[dict[str, Any]] = [{"role": "user", "content": "Name three rivers of Europe."}]
PROMPT = count({"messages": SAID}, estimate)[0]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]

TABLE: list[tuple[dict[str, Any], int]] = [
    ({}, PROMPT + ANSWER),
    ({"max_tokens": 50}, PROMPT + 50),
    ({"max_completion_tokens": 40, "max_tokens": 50}, PROMPT + 40),
    ({"max_tokens": 50, "n": 3}, PROMPT + 150),
    ({"max_tokens": None, "n": None}, PROMPT + ANSWER),
    ({"messages": IMAGE, "max_tokens": 50}, count({"messages": IMAGE}, estimate)[0] + PART + 50),
]


@pytest.mark.parametrize(("given", "tokens"), TABLE)
def test_reserve(given: dict[str, Any], tokens: int) -> None:
    """The prompt's estimate, and the most that the answers may have."""
    assert tokens == Reckoning().reserve({"messages": SAID, **given}).tokens


def test_counted() -> None:
    """The caller's own count is taken as it is, and no answer puts it right."""
    reckoning = Reckoning(lambda request: 100 * len(request["messages"]))
    for _ in range(20):
        reserved = reckoning.reserve({"messages": SAID, "max_tokens": 5})
        reckoning.learn(reserved, Usage(prompt_tokens=500, completion_tokens=1))
    assert 105 == reserved.tokens


def test_prompts_are_learnt() -> None:
    """Answers put the estimates of prompts right."""
    reckoning = Reckoning()
    for _ in range(200):
        reserved = reckoning.reserve({"messages": SAID})
        reckoning.learn(reserved, Usage(prompt_tokens=PROMPT + 300))
    assert pytest.approx(PROMPT + 300, rel=0.1) == reserved.prompt
    assert ANSWER == reserved.answer


def test_answers_are_learnt() -> None:
    """An answer without a limit may be as long as the largest of the last ones; those with one say nothing of it."""
    reckoning = Reckoning()
    for completion in (300, 700, 90):
        reckoning.learn(reckoning.reserve({"messages": SAID, "n": 2}), Usage(completion_tokens=2 * completion))
    reckoning.learn(reckoning.reserve({"messages": SAID, "max_tokens": 5000}), Usage(completion_tokens=4000))
    reckoning.learn(reckoning.reserve({"messages": SAID}), Usage())
    assert 700 == reckoning.reserve({"messages": SAID}).answer
    for _ in range(LAST):
        reckoning.learn(reckoning.reserve({"messages": SAID}), Usage(completion_tokens=20))
    assert 20 == reckoning.reserve({"messages": SAID}).answer


WITHIN: list[tuple[dict[str, Any], float | None, float | None, int]] = [
    # the request, the limits on all tokens and on those of answers, and what the answers may have
    ({}, None, None, ANSWER),
    ({}, PROMPT + 300, None, 300),
    ({}, PROMPT + 300.5, 200.5, 200),
    ({}, None, 200, 200),
    ({}, None, 5000, ANSWER),
    ({"n": 3}, None, 200, 198),
    ({"n": 3}, None, 2, 3 * ANSWER),  # not even a token for each
    ({}, PROMPT, None, ANSWER),
    ({"max_tokens": 500}, PROMPT + 300, 200, 500),  # which is said, not supposed
]


@pytest.mark.parametrize(("given", "tokens", "output", "most"), WITHIN)
def test_within(given: dict[str, Any], tokens: float | None, output: float | None, most: int) -> None:
    """An answer of which only is supposed how long it may be is supposed to fit into the limits; never the prompt."""
    reserved = Reckoning().reserve({"messages": SAID, **given})
    reserved.within(tokens, output)
    assert most == reserved.output
    assert PROMPT + most == reserved.tokens
