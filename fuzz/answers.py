"""Invariant: whatever bytes come, the reader gives an answer or a TransportError, the same in whatever pieces they come.

What surrounds the parser: heads, bodies that end at close, informational answers, encodings, limits, a second answer. Also a
proxy's answer to CONNECT. `make fuzz` runs it guided by coverage (Atheris); `tests/test_fuzz.py` runs it on seeds and on random
changes of them.
"""

from __future__ import annotations

import gzip
import sys

from gpt.errors import ConnectError, TransportError
from gpt.protocol.wire import Origin
from gpt.remote.http.parse import ResponseReader
from gpt.remote.http.proxy import Proxy, tunnel_is_open

SEEDS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nafter: wards\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
    % (len(gzip.compress(b"hi")), gzip.compress(b"hi")),
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx:\r\n y\r\ncontent-length: 1\r\n\r\na",
    b"SSH-2.0-OpenSSH\r\n",
    b"",
]


def outcome(data: bytes, size: int) -> tuple[object, ...]:
    """What the reader makes of the bytes in pieces of `size`: the answer, or the class of its error."""
    reader = ResponseReader("h:1")
    body = b""
    try:
        for place in range(0, len(data), size):
            reader.feed(data[place : place + size])
            body += reader.take()
            if reader.done:
                break
        else:
            reader.end()
        body += reader.take()
    except TransportError as error:
        return ("error", isinstance(error, ConnectError))
    return (reader.status, tuple(sorted(reader.headers.items())), body)


def check(data: bytes) -> None:
    """Hold the invariant for these bytes. Raises AssertionError, or whatever escaped."""
    answers = {outcome(data, size) for size in (1, 2, 7, max(1, len(data)))}
    # An error may be seen earlier or later, and named otherwise; an answer is an answer however it was cut.
    kinds = {answer[0] == "error" for answer in answers}
    assert len(kinds) == 1, answers
    assert kinds == {True} or len(answers) == 1, answers
    for length in (len(data), len(data) // 2):
        try:
            tunnel_is_open(data[:length], Origin("https", "h", 443), Proxy("p", 1))
        except ConnectError:
            pass


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
        for name in ("gpt.remote.http.parse", "gpt.remote.http.proxy"):
            importlib.reload(sys.modules[name])
    from gpt.remote.http.parse import ResponseReader
    from gpt.remote.http.proxy import tunnel_is_open

    main()
