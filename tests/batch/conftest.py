from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Clusters of the tests have a token of their own. Ray reads this once, when it is imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a real Ray cluster of this machine with two processors, started once, which is gone at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.kills", "--cluster"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Where workers find functions of tests.
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "no Ray cluster could be started"
        yield address
        process.stdin.close()
        assert 0 == process.wait(60)
