"""Invariant: whatever bytes come, in whatever pieces, the events are the plain reference's; chunks, sum and end are the same.

Nothing is raised but what the stream's `problem` says. The decoder of events, the decoder of chunks and the fold. `make fuzz`
runs it guided by coverage (Atheris); `tests/test_fuzz.py` runs it on seeds and on random changes of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from gpt.errors import GptError
from gpt.protocol.chunks import fold
from gpt.protocol.sse import Decoder
from gpt.protocol.stream import ChunkDecoder
from gpt.protocol.wire import Headers, HttpRequest, Origin
from whatwg import reference

REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions")
SEEDS = [
    path.read_bytes() for path in sorted((Path(__file__).parents[1] / "tests" / "dialects").glob("*.sse"))
] + [
    b"",
    b"data: a\n\ndata: [DONE]\n\n",
    b"\xef\xbb\xbfdata: {}\r\n\r\n",
    b"event: error\rdata: busy\r\r",
    b'{"error": {"message": "no"}}',
    b"id: \0\n: x\ndata\n\n",
]  # fmt: skip


def outcome(data: bytes, size: int, content_type: str) -> tuple[object, ...]:
    """What comes of the bytes in pieces of `size`: the chunks, their sum, the end."""
    decoder = ChunkDecoder(Headers([("content-type", content_type)]), REQUEST)
    chunks = []
    for place in range(0, len(data), size):
        chunks += decoder.feed(data[place : place + size])
        if decoder.done:
            break
    else:
        chunks += decoder.end()
    assert decoder.problem is None or isinstance(decoder.problem, GptError)
    return (
        [chunk.to_json() for chunk in chunks],
        fold(chunks).to_json(),
        decoder.ended,
        type(decoder.problem),
        decoder.begun,
    )


def check(data: bytes) -> None:
    """Hold the invariant for these bytes. Raises AssertionError, or whatever escaped."""
    expected = reference(data)
    for size in (1, 2, 7, max(1, len(data))):
        decoder = Decoder()
        found = [event for place in range(0, len(data), size) for event in decoder.feed(data[place : place + size])]
        assert found == expected, (size, found, expected)
    for content_type in ("text/event-stream", "application/json"):
        outcomes = [outcome(data, size, content_type) for size in (1, 3, max(1, len(data)))]
        assert all(one == outcomes[0] for one in outcomes), outcomes


def main() -> None:
    """Run under Atheris until stopped, or as its arguments say (`-max_total_time=60`)."""
    import atheris

    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    import importlib

    # Instrumented again, so that coverage guides.
    import atheris

    with atheris.instrument_imports():
        for name in ("gpt.protocol.sse", "gpt.protocol.chunks", "gpt.protocol.stream", "whatwg"):
            importlib.reload(sys.modules[name])
    from gpt.protocol.chunks import fold
    from gpt.protocol.sse import Decoder
    from gpt.protocol.stream import ChunkDecoder
    from whatwg import reference

    main()
