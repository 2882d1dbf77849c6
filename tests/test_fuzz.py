"""The fuzz target holds: on its seeds, cut and changed at random, and on nonsense."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load() -> Any:
    spec = importlib.util.spec_from_file_location("answers", Path(__file__).parents[1] / "fuzz" / "answers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGET = load()


@pytest.mark.parametrize("seed", TARGET.SEEDS)
def test_seeds(seed: bytes) -> None:
    """Each seed, and each beginning of it, is read alike however it is cut."""
    for length in range(len(seed) + 1):
        TARGET.check(seed[:length])


@given(
    st.sampled_from(TARGET.SEEDS),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.binary(max_size=6)), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_changed(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    """A seed with bytes put in, taken out or replaced is read alike however it is cut."""
    for place, kind, data in changes:
        place = min(place, len(seed))
        seed = seed[:place] + data + seed[place + (0, len(data), len(data) + 1)[kind] :]
    TARGET.check(seed)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_nonsense(data: bytes) -> None:
    """Any bytes at all are an answer or a TransportError."""
    TARGET.check(data)
