"""Python files and lines that one warm call runs: ours with our transport, and everything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from bench.loopback import running
from bench.measure import verdict

OURS = str(Path(__file__).parents[1] / "src" / "gpt")


def traced(work: Callable[[], object]) -> set[tuple[str, int]]:
    """The distinct lines that `work` runs, as (file, line)."""
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event in ("call", "line"):
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return {(file, line) for file, line in lines if not file.startswith("<") and file != __file__}


def run() -> list[str]:
    """Lines of figures."""
    from gpt import Gpt

    with running() as port, Gpt(server_url=f"http://127.0.0.1:{port}/v1", api_key="k", model="m") as client:
        for _ in range(3):
            client.chat.complete("Name three rivers.")
        everything = traced(lambda: client.chat.complete("Name three rivers."))
    ours = {(file, line) for file, line in everything if file.startswith(OURS)}
    names = sorted({file.removeprefix(OURS + "/") for file, _ in ours})
    return [
        f"our files in one warm call: {', '.join(names)}",
        verdict("our files", len(names), 12),
        verdict("our lines", len(ours), 250),
        verdict("all files", len({file for file, _ in everything}), 20),
        verdict("all lines", len(everything), 400),
    ]
