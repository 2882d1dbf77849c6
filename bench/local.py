"""Tokens per second of `local:` against the engine called bare: the same engine, the same request, turn by turn."""

from __future__ import annotations

import time
from typing import Any

from bench.measure import rounds, verdict

TOKENS = 128
MESSAGES: list[Any] = [{"role": "user", "content": "Tell a very long story about a river."}]


def run() -> list[str]:
    """Lines of figures."""
    from gpt import Gpt, Local

    backend = Local()
    server = backend.load()._server
    client = Gpt(backend=backend)

    def bare() -> float:
        """Tokens a second of the engine, streamed into a callback that does nothing, from the first to the last."""
        times: list[float] = []
        asked = {"messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0, "stream": True, "ignore_eos": True}
        server.handle_chat_completions(asked, lambda _: times.append(time.perf_counter()))
        return (TOKENS - 1) / (times[-1] - times[1])

    def ours() -> float:
        """Tokens a second of our stream, from the first to the last."""
        times = []
        with client.chat.stream(MESSAGES, max_tokens=TOKENS, temperature=0, logit_bias={"2": -100}) as stream:
            for _ in stream.text_stream:
                times.append(time.perf_counter())
        tokens = stream.completion.usage.completion_tokens if stream.completion.usage else 0
        return (tokens - 1) / (times[-1] - times[0])

    def whole() -> float:
        """Tokens a second of a whole answer, prompt included."""
        started = time.perf_counter()
        answer = client.chat.complete(MESSAGES, max_tokens=TOKENS, temperature=0, logit_bias={"2": -100})
        tokens = answer.usage.completion_tokens if answer.usage else 0
        return tokens / (time.perf_counter() - started)

    def whole_bare() -> float:
        """The same of the engine."""
        started = time.perf_counter()
        asked = {"messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0, "logit_bias": [[2, -100]]}
        made = server.handle_chat_completions(asked)
        return float(made["usage"]["completion_tokens"]) / (time.perf_counter() - started)

    bare()
    found = rounds(
        {"engine, streamed": bare, "ours, streamed": ours, "engine, whole": whole_bare, "ours, whole": whole}, 7, "tok/s"
    )
    client.close()
    return [
        *(str(figure) for figure in found.values()),
        verdict(
            "streamed, ours / engine",
            found["ours, streamed"].median / found["engine, streamed"].median,
            0.97,
            at_least=True,
        ),
        verdict("whole, ours / engine", found["ours, whole"].median / found["engine, whole"].median, 0.97, at_least=True),
    ]
