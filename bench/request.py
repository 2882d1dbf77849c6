"""Building a request of 1,000 messages, against `json.dumps` of it."""

from __future__ import annotations

import json

from bench.measure import cpu_each, rounds, verdict


def run() -> list[str]:
    """Lines of figures."""
    from gpt.protocol.codec import encode_request
    from gpt.types import ChatRequest, UserMessage

    dicts = [{"role": "user", "content": f"hello there, how are you doing today {number}"} for number in range(1000)]
    objects = [UserMessage(str(message["content"])) for message in dicts]
    found = rounds(
        {
            "json.dumps": lambda: cpu_each(lambda: json.dumps({"model": "m", "messages": dicts}), 100),
            "ours, dicts": lambda: cpu_each(lambda: encode_request(ChatRequest(model="m", messages=dicts)), 100),
            "ours, objects": lambda: cpu_each(lambda: encode_request(ChatRequest(model="m", messages=objects)), 100),
        },
        9,
        "µs",
    )
    lines = [str(figure) for figure in found.values()]
    for name in ("ours, dicts", "ours, objects"):
        ratio = found[name].median / found["json.dumps"].median
        lines.append(verdict(f"request of 1,000 messages, {name}, times json.dumps", ratio, 2))
    return lines
