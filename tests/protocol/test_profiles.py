"""What can be known of a server."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import Profile, azure_path


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"think_tags": ("<think>",)}, "think_tags"),
        ({"think_tags": ("", "</think>")}, "think_tags"),
        ({"think_tags": ("<think> ", "</think>")}, "think_tags"),
        ({"think_tags": ("<think>", None)}, "think_tags"),
        ({"think_opened": True}, "think_opened"),
    ],
)
def test_no_tags(fields: dict[str, Any], param: str) -> None:
    """Tags are two texts that can be found; a block that is open from the start needs them."""
    with pytest.raises(InvalidRequestError, match=f"^{param}: ") as caught:
        Profile(**fields)
    assert param == caught.value.param


def test_tags() -> None:
    """Two texts are tags."""
    assert ("<think>", "</think>") == Profile(think_tags=("<think>", "</think>"), think_opened=True).think_tags


DATED = "api-version=2024-10-21"

PATHS: list[tuple[str, str, str, bool]] = [
    ("", "", "/openai/v1", False),
    ("/openai", "", "/openai/v1", False),
    ("/openai/v1", "", "/openai/v1", False),
    ("/openai/v1", DATED, "/openai/v1", False),
    ("", "api-version=preview", "/openai/v1", False),
    ("", DATED, "/openai", True),
    ("/openai", f"a=1&{DATED}", "/openai", True),
    ("/openai/deployments/d", DATED, "/openai/deployments/d", False),
    ("/models", DATED, "/models", False),
    ("/api/projects/p/openai/v1", "", "/api/projects/p/openai/v1", False),
    ("/gateway", DATED, "/gateway/openai", True),
    ("/gateway/openai", "", "/gateway/openai/v1", False),
]


@pytest.mark.parametrize(("path", "query", "expected", "by_model"), PATHS)
def test_azure_path(path: str, query: str, expected: str, by_model: bool) -> None:
    """A dated version belongs to the deployments, none to v1; a path that names either is left alone."""
    assert (expected, by_model) == azure_path(path, query)
