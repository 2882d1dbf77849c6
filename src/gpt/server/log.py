"""What the server says of itself, through `logging` under "gpt.server": a line an answer, and what went wrong behind it.

Neither what was said nor a key is ever in it.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt.server.asgi import Exchange
    from gpt.server.chat import Call

LOG = logging.getLogger("gpt.server")


def call_line(call: Call) -> str:
    """What a call of the model was, in words: "SmolLM2 stream 12+40 tokens, first 0.08 s"."""
    parts = [_plain(call.model) or "?"]
    if call.streamed:
        parts.append("stream")
    if call.usage is not None:
        parts.append(f"{call.usage.prompt_tokens}+{call.usage.completion_tokens} tokens")
    if call.first is not None:
        parts.append(f"first {call.first:.3f} s")
    return " ".join(parts)


def answer_line(exchange: Exchange, began: float, more: str = "") -> str:
    """One answer, or a caller who left before it, as one line."""
    said = f"{exchange.status or 499} {exchange.method} {_plain(exchange.path)} {perf_counter() - began:.3f} s"
    return f"{said} {more} {exchange.request_id}" if more else f"{said} {exchange.request_id}"


def _plain(text: str) -> str:
    """Text of a caller's without line breaks and other control characters, and not too long."""
    return "".join(mark if mark.isprintable() else "?" for mark in text[:200])
