"""Where things are that tests share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SHARED = Path(__file__).parents[2] / "shared"
"""Material that is here and in CI, but not with a user."""


class EngineServer(NamedTuple):
    """The engine's own HTTP server: a third party's server that speaks the protocol."""

    url: str
    key: str
