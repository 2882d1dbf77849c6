"""What a server is known to do."""

from __future__ import annotations

import pytest

from gpt.protocol.profiles import Profile, profile_of
from gpt.protocol.wire import Origin


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("https", "api.openai.com", 443), Profile(streams_usage=True)),
        (Origin("http", "api.openai.com", 80), Profile()),
        (Origin("http", "127.0.0.1", 8080), Profile()),
    ],
)
def test_profile(origin: Origin, expected: Profile) -> None:
    """A known server has its profile, any other what is safe with every server."""
    assert expected == profile_of(origin)
