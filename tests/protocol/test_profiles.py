"""What a server is known to do."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import Profile, profile_of
from gpt.protocol.wire import Origin


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("https", "api.openai.com", 443), Profile(streams_usage=True)),
        (Origin("http", "api.openai.com", 80), Profile()),
        (Origin("http", "127.0.0.1", 8080), Profile()),
        (Origin("https", "api.deepseek.com", 443), Profile(echoes="always")),
        (Origin("https", "openrouter.ai", 443), Profile(echoes="always")),
        (Origin("https", "api.moonshot.cn", 443), Profile(echoes="always")),
        (Origin("https", "api.minimax.io", 443), Profile(echoes="always", think_tags=("<think>", "</think>"))),
        (Origin("https", "api.mistral.ai", 443), Profile()),
    ],
)
def test_profile(origin: Origin, expected: Profile) -> None:
    """A known server has its profile, any other what is safe with every server."""
    assert expected == profile_of(origin)


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
