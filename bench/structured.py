"""Structured output: compiling a type, reading an answer, reading one as it streams; against `openai`'s `.parse()` and `.stream()`.

The models answer from memory: ours by a scripted backend, which has no HTTP in it, theirs by an in-memory transport, which has. So
the ratios are no like for like; over HTTP the two are side by side in `bench/stream.py`.
"""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any

import msgspec

from bench.measure import Figure, cpu_each, rounds, verdict
from gpt import Gpt
from gpt.structured.dialects import STRICT
from gpt.structured.shapes import shape
from gpt.testing import Scripted
from gpt.testing.scripted import chunk

WORDS = 5000
PIECES = ['{"name": "', *["word"] * WORDS, '", "people": 7}']
TEXT = "".join(PIECES)
SHORT = '{"name": "Oslo", "people": 7}'


class City(msgspec.Struct):
    name: str
    people: int


def _body(document: Any) -> bytes:
    return json.dumps(document).encode()


def _whole(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _theirs() -> tuple[Any, Any]:
    """The official client over an in-memory transport, and its type."""
    import httpx2
    import openai
    import pydantic

    class City(pydantic.BaseModel):
        name: str
        people: int

    def piece(text: str | None, end: str | None = None) -> bytes:
        choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": end}
        said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return b"data: " + _body(said) + b"\n\n"

    stream = b"".join(piece(one) for one in PIECES) + piece(None, "stop") + b"data: [DONE]\n\n"

    def answer(request: Any) -> Any:
        if b'"stream":true' in request.content:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
        return httpx2.Response(200, json=_whole(SHORT))

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(base_url="http://h/v1", api_key="k", http_client=http), City


def run() -> list[str]:
    """Lines of figures."""
    asked: Any = [{"role": "user", "content": "a"}]
    chunks = [*(chunk(piece) for piece in PIECES), chunk(None, "stop")]
    ours = Gpt(backend=Scripted(SHORT))
    streaming = Gpt(backend=Scripted(chunks))

    def compile_new() -> None:
        shape(msgspec.defstruct("City", [("name", str), ("people", int), ("tags", list[str])]), STRICT)

    def stream() -> None:
        with streaming.chat.stream("a", into=City) as values:
            assert sum(event.type == "value" for event in values)

    def half() -> float:
        """CPU of the second half of the pieces over that of the first: 1 where the cost of a piece does not grow."""
        with streaming.chat.stream("a", into=City, partial="growing") as values:
            times = [time.process_time()]
            for event in values:
                if event.type == "value":
                    times.append(time.process_time())
        middle = len(times) // 2
        return (times[-1] - times[middle]) / (times[middle] - times[0])

    contenders = {
        "compile a new type": lambda: cpu_each(compile_new, 200),
        "the same type again": lambda: cpu_each(lambda: shape(City, STRICT), 2000),
        "ours, parse": lambda: cpu_each(lambda: ours.chat.parse("a", into=City), 2000),
        "ours, a streamed piece": lambda: cpu_each(stream, 1) / len(PIECES),
    }
    if importlib.util.find_spec("openai") is not None:
        theirs, kind = _theirs()

        def their_stream() -> None:
            with theirs.chat.completions.stream(model="m", messages=asked, response_format=kind) as events:
                assert sum(event.type == "content.delta" for event in events)

        contenders |= {
            "openai, parse": lambda: cpu_each(
                lambda: theirs.chat.completions.parse(model="m", messages=asked, response_format=kind), 100
            ),
            "openai, a streamed piece": lambda: cpu_each(their_stream, 1) / len(PIECES),
        }
    found: dict[str, Figure] = rounds(contenders, 5, "µs")
    growth = rounds({"growth": half}, 5, "")["growth"]
    lines = [str(figure) for figure in found.values()]
    if "openai, parse" in found:
        for what in ("parse", "a streamed piece"):
            ratio = found[f"openai, {what}"].median / found[f"ours, {what}"].median
            lines.append(f"{what}: openai, times ours: {ratio:.3g}")
    return [*lines, verdict("a growing text, second half of the pieces over the first", growth.median, 1.5)]
