"""Tokens added up."""

from __future__ import annotations

from gpt.protocol.usage import added
from gpt.types import CompletionTokensDetails, Usage


def test_added() -> None:
    """Each field is added up where somebody gave it; nothing given is None."""
    one = Usage(1, 2, 3, CompletionTokensDetails(reasoning_tokens=4), cost=0.5)
    two = Usage(10, 20, 30)
    assert Usage(11, 22, 33, CompletionTokensDetails(reasoning_tokens=4), cost=0.5) == added([one, None, two])
    assert added([]) is None
    assert added([None]) is None
