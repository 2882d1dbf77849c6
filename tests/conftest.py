from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gpt import Local

from places import EngineServer

# The engine's threads spin while they wait for each other, and then take turns with whatever else runs on the machine: tests
# that took a minute took nine beside another test run. A short spin is a seventh slower on an idle machine. It is set before the
# library is loaded, which reads it once; the programs that tests start inherit it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has them ignore Ctrl-C, and so would the programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the keys and servers of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name == "GPT_OFFLINE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def box() -> Iterator[Local]:
    """The model in the box, loaded once for all tests. Fetched at the first run ever."""
    backend = Local()
    backend.load()
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def engine_server(box: Local) -> EngineServer:
    """The server that the engine in the wheel opens; it runs the same model with the same settings."""
    engine = box.load()
    return EngineServer(f"{engine.address}/v1", engine._key)
