"""For tests of programs that use a chat model: a model with a script, a server with faults, recordings, and no waiting.

    from gpt import Gpt
    from gpt.testing import Fault, Scripted, no_waiting, serve

    client = Gpt(backend=Scripted("Nile", "Rhine"))          # answers in turn; Scripted.asked tells what it was asked
    assert client.chat.complete("A river?").text == "Nile"

    with serve("Nile", faults=[Fault(status=503, times=2)]) as server, no_waiting():
        assert Gpt(server_url=server.url).chat.complete("A river?").text == "Nile"

Nothing here is loaded by `import gpt`. `gpt.testing.plugin` is a plugin of pytest, loaded whenever that starts: hence names
load when they are asked for. `docs/testing.md` tells how to write tests.
"""

from __future__ import annotations

# Not from `typing`, as in `gpt`: it is loaded at the start of every pytest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt.testing.faults import Fault as Fault
    from gpt.testing.faults import FaultServer as FaultServer
    from gpt.testing.faults import serve as serve
    from gpt.testing.scripted import AsyncScripted as AsyncScripted
    from gpt.testing.scripted import Pause as Pause
    from gpt.testing.scripted import Scripted as Scripted
    from gpt.testing.scripted import Stall as Stall
    from gpt.testing.scripted import chunk as chunk
    from gpt.testing.scripted import tool_call as tool_call
    from gpt.testing.waiting import no_waiting as no_waiting

_HOMES = {
    "faults": ("Fault", "FaultServer", "serve"),
    "scripted": ("AsyncScripted", "Pause", "Scripted", "Stall", "chunk", "tool_call"),
    "waiting": ("no_waiting",),
}

__all__ = ["AsyncScripted", "Fault", "FaultServer", "Pause", "Scripted", "Stall", "chunk", "no_waiting", "serve", "tool_call"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"gpt.testing.{home}"), name)
            return value
    raise AttributeError(f"module 'gpt.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]
