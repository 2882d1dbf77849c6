"""The names of the test kit."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gpt.testing


def test_names() -> None:
    """All that is public is there, and told; what is not is told of as a module tells."""
    assert sorted(gpt.testing.__all__) == gpt.testing.__all__ == sorted(dir(gpt.testing))
    assert sorted(gpt.testing.__all__) == sorted(name for names in gpt.testing._HOMES.values() for name in names)
    assert all(callable(getattr(gpt.testing, name)) for name in gpt.testing.__all__)
    with pytest.raises(AttributeError, match="module 'gpt.testing' has no attribute 'Mock'"):
        gpt.testing.Mock  # noqa: B018


def test_loads_when_asked_for() -> None:
    """A name loads what it needs when it is asked for, and not before."""
    program = """
import sys
import gpt.testing
assert "msgspec" not in sys.modules
from gpt.testing import Scripted
assert "msgspec" in sys.modules and "Scripted" in vars(gpt.testing)
"""
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False).returncode
