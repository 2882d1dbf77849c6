"""What it costs to begin: `from gpt import Gpt; Gpt(...)` over a bare interpreter, a further client, `gpt --help`."""

from __future__ import annotations

import time

from bench.measure import of_process, verdict

# msgspec takes `typing_extensions`, and with it `inspect`, where it finds it. The development tools bring it; a user of this
# package alone has none. So the first figure is taken without, and the second with what this environment has.
ALONE = "import sys; sys.modules['typing_extensions'] = None\n"
READY = "from gpt import Gpt; Gpt(server_url='http://127.0.0.1:1/v1', api_key='k')"
HELP = "from gpt.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"


def run() -> list[str]:
    """Lines of figures."""
    bare, bare_memory = of_process("pass")
    ready, memory = of_process(ALONE + READY)
    crowded, _ = of_process(READY)
    helped, _ = of_process(HELP)
    from gpt import Gpt

    clients = []
    started = time.perf_counter()
    for _ in range(1000):
        clients.append(Gpt(server_url="http://127.0.0.1:1/v1", api_key="k"))
    each = (time.perf_counter() - started) / len(clients) * 1000
    return [
        f"bare interpreter {bare:.1f} ms, {bare_memory:.1f} MB; with a client {ready:.1f} ms, {memory:.1f} MB",
        verdict("import and first client, ms over bare", ready - bare, 60),
        f"       the same beside the development tools: {crowded - bare:.1f} ms",
        verdict("the same, MB over bare", memory - bare_memory, 15),
        verdict("each further client, ms", each, 0.1),
        verdict("gpt --help over `python -c pass`, times", helped / bare, 2),
    ]
