"""Jobs that are killed by SIGKILL at random moments, a few times. `make soak` has a hundred of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kills import killed


@pytest.mark.parametrize(
    ("executor", "out"),
    [("here", "out.jsonl"), ("here", "out.batch.jsonl"), ("processes", "out"), ("processes", "parts.parquet")],
)
def test_kills(tmp_path: Path, executor: str, out: str) -> None:
    """As many rows come out as went in, none twice, none torn; asked twice were at most those under way at the kills."""
    assert killed(tmp_path, executor, 3, out=out, seed=1).kills


def test_kills_on_ray(tmp_path: Path, ray_address: str) -> None:
    """The same on a Ray cluster."""
    assert killed(tmp_path, "ray", 2, out="out.parquet", seed=3, address=ray_address).kills
