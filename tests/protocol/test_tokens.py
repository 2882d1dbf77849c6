"""How many tokens a prompt takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.protocol.tokens import Correction, count, estimate


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0, ""),
        (0, " "),
        (4, "Name three rivers."),
        (2, "internationalisation"[:11]),  # ten letters a piece
        (2, "1234"),
        (3, "a 12"),  # the space before a number is one of its own
        (4, "河流缓缓"),
        (2, "реки"),
        (1, "🚀"),
        (2, "(){}"),
        (3, "a\n    b"),  # a line's indentation belongs to its beginning
    ],
)
def test_estimate(tokens: int, text: str) -> None:
    """A text is estimated by its characters: words, digits, scripts, marks, line ends."""
    assert tokens == estimate(text)


@given(st.text(), st.text())
def test_estimate_adds_up(one: str, other: str) -> None:
    """Two texts set apart take what each takes: no piece reaches over a letter's neighbour that is none."""
    assert estimate(one) + 1 + estimate(other) >= estimate(f"{one}\n{other}") >= max(estimate(one), estimate(other))


def said(content: object, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **fields}]}


HELLO = 3 + 3 + 4 + 2
"""The reply's beginning, a message, its role, and "hi"; a letter is a token here."""

CITY = {"type": "object", "properties": {"n": {"type": "s", "description": "d."}}}


@pytest.mark.parametrize(
    ("tokens", "request_"),
    [
        (HELLO, said("hi")),
        (HELLO + 2, said([{"type": "text", "text": "hi"}, {"type": "refusal", "refusal": "no"}])),
        (HELLO - 2, said(None)),
        (HELLO + 1 + 3, said("hi", name="bob")),
        (HELLO + 2, said("hi", refusal="no")),
        (HELLO + 4, said("hi", reasoning_content="deep")),
        (HELLO + 4, said("hi", reasoning_content="deep", reasoning="deep", reasoning_details=[{"text": "deep"}])),
        (HELLO + 4, said("hi", reasoning_details=[{"text": "de"}, {"summary": "ep"}, {"data": "x"}])),
        (HELLO + 3, said("hi", tool_calls=[{"id": "c1", "function": {"name": "f", "arguments": "{}"}}])),
        (HELLO + 3, said("hi", tool_calls=[{"id": "c1", "custom": {"name": "f", "input": "{}"}}])),
        (HELLO + 3, said("hi", function_call={"name": "f", "arguments": "{}"})),
        (HELLO + 7 + 2 + 12, {**said("hi"), "tools": [{"type": "function", "function": {"name": "f"}}]}),
        (HELLO + 7 + 2 + 12, {**said("hi"), "functions": [{"name": "f"}]}),
        (HELLO + 7 + 6 + 12, {**said("hi"), "tools": [{"function": {"name": "f", "description": "does."}}]}),
        (HELLO + 7 + 12 + 12, {**said("hi"), "tools": [{"type": "s"}]}),
        (HELLO - 3, said(5, tool_calls=7, function_call="f", reasoning_details="x", role="odd", name=None) | {"tools": {}}),
        (HELLO, said("hi", tool_calls=[{"function": 3}, 4])),
        (HELLO + 7 + 2 + 12 + 12, {**said("hi"), "tools": [{"custom": {"name": "f", "format": {"type": "t"}}}]}),
        (HELLO, {**said("hi"), "tools": None, "response_format": {"type": "json_object"}}),
        (HELLO, {**said("hi"), "response_format": None}),
        (HELLO + 12, {**said("hi"), "response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
    ],
)
def test_count(tokens: int, request_: dict[str, Any]) -> None:
    """What a request takes is its texts, and the cookbook's numbers for what surrounds them."""
    assert (tokens, ()) == count(request_, len)


@pytest.mark.parametrize(
    ("tokens", "parameters"),
    [
        (0, {"type": "object", "properties": {}}),
        (0, True),
        (3 + 3 + 5, CITY),
        (3 + 3 + 3, {"properties": {"n": True}} | {"items": None}),
        (3 + 3 + 3 + (-3 + 3 + 1 + 3 + 2), {"properties": {"n": {"enum": ["a", 12]}}}),
        (3 + 3 + 8 + (3 + 3 + 5), {"properties": {"n": {"type": "array", "items": CITY}}}),
        (3 + 3 + 3 + (3 + 3 + 5), {"properties": {"n": {"anyOf": [CITY, {"type": "null"}]}}}),
        (3 + 3 + 5, {"$ref": "#/$defs/City", "$defs": {"City": CITY}}),
    ],
)
def test_schemas(tokens: int, parameters: object) -> None:
    """The parameters of a tool are counted by property, wherever in the schema it stands."""
    request = {**said("hi"), "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}
    assert (HELLO + 7 + 2 + 12 + tokens, ()) == count(request, len)


def test_uncounted() -> None:
    """What nobody documents is named, and not guessed."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:..."}}, {"type": "file"}]
    found = ("messages[0].content[1] (image_url)", "messages[0].content[2] (file)", "messages[0].audio")
    assert (HELLO, found) == count(said(parts, audio={"id": "a"}), len)


def test_correction_does_nothing_unasked() -> None:
    """What nothing has been learnt of stays as it is, and is at least one token."""
    assert [1, 1, 50] == [Correction().apply(tokens) for tokens in (0, 1, 50)]


def test_correction_of_one_answer() -> None:
    """One short answer says little of long prompts: it is taken for a constant, half of which is believed."""
    learnt = Correction().learn(8, 40)
    assert (1, 24, 10_144) == (learnt.answers, learnt.apply(8), learnt.apply(10_000))


@given(
    st.integers(0, 100),
    st.floats(0.5, 3),
    st.lists(st.integers(1, 5000), min_size=2, max_size=2).filter(lambda sizes: abs(sizes[0] - sizes[1]) >= 400),
)
def test_correction_converges(constant: int, share: float, sizes: list[int]) -> None:
    """Where the truth is a constant and a share, estimates of prompts between those seen come near it."""
    learnt = Correction()
    for size in sizes * 60:
        learnt = learnt.learn(size, round(constant + share * size))
    truths = {size: constant + share * size for size in (min(sizes), sum(sizes) // 2, max(sizes))}
    wrong = max(abs(size - truth) for size, truth in truths.items())
    left = max(abs(learnt.apply(size) - truth) for size, truth in truths.items())
    assert left <= wrong * 0.2 + 2  # a little of no correction is left standing


def test_correction_forgets() -> None:
    """A model that changes behind its name is learnt anew."""
    learnt = Correction()
    for share in (1, 2):
        for size in range(100, 10_000, 30):
            learnt = learnt.learn(size, share * size)
    assert learnt.apply(5000) == pytest.approx(10_000, rel=0.02)
