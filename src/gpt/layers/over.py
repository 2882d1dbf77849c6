"""What a layer that users put over a backend tells of that backend: what it knows of its server, and whether it counts."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from gpt.backend import AsyncBackend, Backend
from gpt.protocol.profiles import Profile

Below = TypeVar("Below", Backend, AsyncBackend)


class Over(Generic[Below]):
    """A layer over a backend."""

    _backend: Below

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    @property
    def endpoint(self) -> Any:
        """Where the server is, for a backend that has one."""
        return getattr(self._backend, "endpoint", None)

    @property
    def count_tokens(self) -> Any:
        """What counts exactly; None where the backend has no such method."""
        return getattr(self._backend, "count_tokens", None)
