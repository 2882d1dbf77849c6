"""Fallback and AsyncFallback over whatever answers: backends, clients and URLs, "local:" among them."""

from __future__ import annotations

from typing import Any

from gpt.client import AsyncGpt, Gpt
from gpt.errors import InvalidRequestError
from gpt.layers import fallback
from gpt.layers.counted import AsyncCounted, Counted
from gpt.layers.fallback import Entry, entry_of

__all__ = ["AsyncFallback", "Fallback"]


class Fallback(fallback.Fallback):
    """Asks `entries` in order, the next only where the one before failed, before its first content, by no fault of the caller.

    An entry is a URL ("local:", "https://..."), a Gpt, whose model and options hold for its calls and whose `usage` counts them
    too, a Backend, or a pair of one of these and the name of its model. An entry's model goes before the call's. One that
    failed rests for `cool_down` seconds.
    `answer.info.entries` tells what came of each. Where all fail, the last error is raised, with the others as `elsewhere`.
    Closing it closes the entries. Raises InvalidRequestError.
    """

    def _entry(self, item: Any, model: str | None) -> Entry:
        if isinstance(item, AsyncGpt):
            raise InvalidRequestError("entries: an AsyncGpt belongs in an AsyncFallback", param="entries")
        if isinstance(item, str):
            return _of_client(Gpt(server_url=item), model)
        if isinstance(item, Gpt):
            entry = _of_client(item, model)
            return entry._replace(backend=Counted(entry.backend, item._core.meter))
        return entry_of(item, model)


class AsyncFallback(fallback.AsyncFallback):
    """Fallback for asyncio. Entries may block too; these run in threads."""

    def _entry(self, item: Any, model: str | None) -> Entry:
        if isinstance(item, str):
            return _of_client(AsyncGpt(server_url=item), model)
        if isinstance(item, (Gpt, AsyncGpt)):
            entry = _of_client(item, model)
            counted: Any = Counted if isinstance(item, Gpt) else AsyncCounted
            return entry._replace(backend=counted(entry.backend, item._core.meter))
        return entry_of(item, model)


def _of_client(client: Gpt | AsyncGpt, model: str | None) -> Entry:
    """A client's part: its backend with the layers that it has put over it, its model and its options."""
    core = client._core
    if model is None and isinstance(core.model, str):
        model = core.model
    named = entry_of(client.backend, model)
    return named._replace(backend=client.chat._backend, options=core.options, layered=True)
