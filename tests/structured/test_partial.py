"""JSON text that is still coming."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.structured.partial import PartialJSON, Trust

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES, st.sampled_from(["trusted", "growing"]), st.booleans(), st.sampled_from([None, 1]), st.integers(1, 9))
def test_any_cut(value: Any, trust: Trust, ascii_: bool, indent: int | None, step: int) -> None:
    """Any JSON in any cut is its value at the end, and nothing on the way breaks it."""
    text = json.dumps(value, ensure_ascii=ascii_, indent=indent)
    reader = PartialJSON(trust)
    for place in range(0, len(text), step):
        reader.feed(text[place : place + step])
        _ = reader.value
    reader.end()
    assert not reader.broken
    assert value == reader.value


@given(VALUES, st.integers(1, 9))
def test_trusted(value: Any, step: int) -> None:
    """What is trusted never changes again: each scalar that is there is the one of the whole."""
    text = json.dumps(value)
    reader = PartialJSON()
    for place in range(0, len(text), step):
        reader.feed(text[place : place + step])
        assert begins(value, reader.value)


def begins(whole: Any, part: Any) -> bool:
    """Whether a part has nothing but what the whole has."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and begins(whole[name], inner) for name, inner in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and all(begins(a, b) for a, b in zip(whole, part, strict=False))
    return part is None or part == whole


STEPS: list[tuple[Trust, str, Any]] = [
    ("trusted", '{"a": "x', {}),
    ("growing", '{"a": "x', {"a": "x"}),
    ("growing", '{"a": "x\\', {"a": "x"}),
    ("growing", '{"a": "x\\u00', {"a": "x"}),
    ("growing", '{"a": "x\\ud83d\\ude0', {"a": "x"}),
    ("growing", '["a", "b', ["a", "b"]),
    ("trusted", '["a", "b', ["a"]),
    ("growing", '{"ab', {}),
    ("trusted", "[12", []),
    ("trusted", "[12,", [12]),
    ("growing", '"ab', "ab"),
]


@pytest.mark.parametrize(("trust", "text", "expected"), STEPS)
@pytest.mark.parametrize("step", [1, 100])
def test_steps(trust: Trust, text: str, expected: Any, step: int) -> None:
    """What is there of a value that is still coming."""
    reader = PartialJSON(trust)
    for place in range(0, len(text), step):
        reader.feed(text[place : place + step])
        _ = reader.value
    assert expected == reader.value


@pytest.mark.parametrize("text", ['{"a" 1}', "[1,,2]", "{]", "x", '{"a":tru}', "[1}", "}", '"\\x"', "[1 2]"])
def test_broken(text: str) -> None:
    """What is no JSON leaves the value as it was, and changes nothing more."""
    reader = PartialJSON()
    for mark in text:
        reader.feed(mark)
    reader.end()
    assert reader.broken
    assert not reader.feed("1")


def test_broken_text() -> None:
    """A text that is no JSON breaks the value where it is read."""
    reader = PartialJSON("growing")
    reader.feed('["a\n')
    assert [] == reader.value
    assert reader.broken


def test_after_the_end() -> None:
    """What comes after the value is not looked at."""
    reader = PartialJSON()
    assert reader.feed("[1] and more")
    assert [1] == reader.value
    assert not reader.feed("[2]")
    assert not reader.broken


def test_linear() -> None:
    """Containers grow in place: the value is one object all along."""
    reader = PartialJSON()
    reader.feed("[")
    first = reader.value
    for number in range(1000):
        reader.feed(f"{number},")
    assert first is reader.value
    assert 1000 == len(first)
