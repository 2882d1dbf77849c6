"""The fuzz targets hold: on their seeds, cut and changed at random, and on nonsense."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "fuzz" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = [load("answers"), load("streams")]
SEEDS = [(target, seed) for target in TARGETS for seed in target.SEEDS]


@pytest.mark.parametrize(("target", "seed"), SEEDS)
def test_seeds(target: Any, seed: bytes) -> None:
    """Each seed, and each beginning of it (of a long one, some), is read alike however it is cut."""
    for length in range(0, len(seed) + 1, 1 + len(seed) // 100):
        target.check(seed[:length])
    target.check(seed)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.binary(max_size=6)), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_changed(case: tuple[Any, bytes], changes: list[tuple[int, int, bytes]]) -> None:
    """A seed with bytes put in, taken out or replaced is read alike however it is cut."""
    target, seed = case
    for place, kind, data in changes:
        place = min(place, len(seed))
        seed = seed[:place] + data + seed[place + (0, len(data), len(data) + 1)[kind] :]
    target.check(seed)


@given(st.sampled_from(TARGETS), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_nonsense(target: Any, data: bytes) -> None:
    """Any bytes at all are read alike, and nothing unexpected is raised."""
    target.check(data)
