"""Calls of a client that a Fallback makes, counted as the client's own."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gpt import AsyncFallback, AsyncGpt, Fallback, Gpt, Price, Prices, ServerError, UsageTotals
from gpt.testing import AsyncScripted, Scripted
from gpt.testing.scripted import completion
from gpt.types import Usage

DOWN = ServerError("down", 500)
SAID = msgspec.structs.replace(completion("hi"), usage=Usage(10, 100, 110))
CHEAP = Prices({"*": Price(input=1, output=1)})
DEAR = Prices({"*": Price(input=5, output=5)})


def counts(usage: UsageTotals) -> tuple[int, int, int, float]:
    """Calls, answers, tokens and dollars."""
    return usage.calls, usage.answers, usage.total_tokens, float(usage.costs.get("USD", 0))


def used(first: Any, second: Any, kind: str, streamed: bool) -> Any:
    """What a client over a Fallback of these two used, after two calls and a list of models, and what shows of its entries."""
    entries = [first, second]
    if kind == "blocking":
        made = Fallback(entries, cool_down=0)
        client = Gpt(backend=made, prices=DEAR)
        for _ in range(2):
            assert "hi" == (client.chat.stream("a").until_done() if streamed else client.chat.complete("a")).text
        client.models.list()
        client.close()
        return client.usage, repr(made._entries[0].backend)

    async def run() -> Any:
        made = AsyncFallback(entries, cool_down=0)
        async with AsyncGpt(backend=made, prices=DEAR) as client:
            for _ in range(2):
                answer = await (client.chat.stream("a").until_done() if streamed else client.chat.complete("a"))
                assert "hi" == answer.text
            await client.models.list()
        return client.usage, repr(made._entries[0].backend)

    return asyncio.run(run())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["blocking", "asyncio", "blocking entries"])
def test_a_clients_part(kind: str, streamed: bool) -> None:
    """Each client counts the calls that were made of it, at its own prices; the one over the Fallback counts all at its own."""
    scripts: list[Any] = [AsyncScripted(*script) if kind == "asyncio" else Scripted(*script) for script in ([DOWN], [SAID])]
    make: Any = AsyncGpt if kind == "asyncio" else Gpt
    first, second = (make(backend=script, prices=CHEAP) for script in scripts)
    usage, shown = used(first, second.with_options(model="m"), kind, streamed)
    assert (2, 0, 0, 0) == counts(first.usage)
    assert (2, 2, 220, 0.00022) == counts(second.usage)
    assert (2, 2, 220, 0.0011) == counts(usage)
    assert ("AsyncCounted(" if kind == "asyncio" else "Counted(Scripted(") in shown
    assert [True, True] == [getattr(script, "script", script).closed for script in scripts]
