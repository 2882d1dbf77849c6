"""`GET /v1/models` and `GET /v1/models/{id}`: what can be asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gpt.backend import AsyncBackend
from gpt.server.asgi import Exchange
from gpt.server.failures import Refused


class Models:
    """The models of a backend. `names` are those that are answered to beside the backend's own, None any."""

    def __init__(self, backend: AsyncBackend, names: Sequence[str] | None) -> None:
        self._backend = backend
        self._names = names or ()
        self._since = int(time.time())

    async def _all(self) -> list[dict[str, Any]]:
        """Each model as the protocol has it; one without a date has that of the server's start."""
        found = [
            {
                "id": model.id,
                "object": "model",
                "created": model.created or self._since,
                "owned_by": model.owned_by or "unknown",
            }
            for model in await self._backend.models()
        ]
        known = {model["id"] for model in found}
        owner = found[0]["owned_by"] if found else "unknown"
        more = [name for name in self._names if name not in known]
        return [*found, *({"id": name, "object": "model", "created": self._since, "owned_by": owner} for name in more)]

    async def list(self, exchange: Exchange, _: str) -> None:
        """All of them."""
        await exchange.give({"object": "list", "data": await self._all()})

    async def retrieve(self, exchange: Exchange, _: str) -> None:
        """The one that the path names. Its id may have slashes."""
        name = exchange.path.removeprefix("/v1/models/")
        for model in await self._all():
            if model["id"] == name:
                await exchange.give(model)
                return
        raise Refused(404, "there is no such model here", param="model", code="model_not_found")
