"""Where things are that tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

SHARED = Path(__file__).parents[2] / "shared"
"""Material that is here and in CI, but not with a user."""


def published_schemas() -> dict[str, Any]:
    """The schemas of the protocol's published description; skips the test where that is not here."""
    path = SHARED / "openapi" / "chat-completions.yaml"
    if not path.exists():
        pytest.skip("the description is not here")
    found: dict[str, Any] = yaml.load(path.read_text(), yaml.CSafeLoader)["components"]["schemas"]
    return found


class EngineServer(NamedTuple):
    """The engine's own HTTP server: a third party's server that speaks the protocol."""

    url: str
    key: str
