"""For tests of programs that use gpt: a model with a script, a server with faults, and no waiting.

    from gpt import Gpt
    from gpt.testing import Fault, Scripted, no_waiting, serve

    client = Gpt(backend=Scripted("Nile", "Rhine"))          # answers in turn; Scripted.asked tells what it was asked
    assert client.chat.complete("A river?").text == "Nile"

    with serve("Nile", faults=[Fault(status=503, times=2)]) as server, no_waiting():
        assert Gpt(server_url=server.url).chat.complete("A river?").text == "Nile"

Nothing here is loaded by `import gpt`.
"""

from __future__ import annotations

from gpt.testing.faults import Fault, FaultServer, serve
from gpt.testing.scripted import AsyncScripted, Scripted
from gpt.testing.waiting import no_waiting

__all__ = ["AsyncScripted", "Fault", "FaultServer", "Scripted", "no_waiting", "serve"]
