"""Jobs that are killed by SIGKILL at random moments, a few times. `make soak` has a hundred of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.kills import FAULTS, killed
from gpt.testing import Fault


@pytest.mark.parametrize(
    ("executor", "out", "faults"),
    [
        ("here", "out.jsonl", ()),
        ("here", "out.batch.jsonl", [fault for fault in FAULTS if fault.stall is None]),
        ("processes", "out", ()),
        ("processes", "parts.parquet", ()),
    ],
)
def test_kills(tmp_path: Path, executor: str, out: str, faults: Sequence[Fault]) -> None:
    """As many rows come out as went in, none twice, none torn; asked twice were at most those under way at the kills."""
    assert killed(tmp_path, executor, 3, out=out, seed=1, faults=faults).kills


def test_kills_on_ray(tmp_path: Path, ray_address: str) -> None:
    """The same on a Ray cluster."""
    assert killed(tmp_path, "ray", 2, out="out.parquet", seed=3, address=ray_address).kills
