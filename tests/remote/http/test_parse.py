"""Writing requests and reading answers, as bytes."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import ConnectError, InvalidRequestError, StreamTruncatedError, TransportError
from gpt.remote.http import parse
from gpt.remote.http.parse import HeadWriter, ResponseReader

from transports import request


def test_request() -> None:
    """A request goes out with Host, the given fields and Content-Length, and nothing else."""
    asked = request(8080, b'{"a":1}', headers=(("authorization", "Bearer k"), ("accept", "*/*")))
    expected = (
        b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nauthorization: Bearer k\r\naccept: */*\r\n"
        b'content-length: 7\r\n\r\n{"a":1}'
    )
    writer = HeadWriter()
    assert expected == writer.write(asked)
    assert expected == writer.write(asked)


@pytest.mark.parametrize(
    ("asked", "head"),
    [
        (request(80), b"host: 127.0.0.1\r\n"),
        (request(443, scheme="https"), b"host: 127.0.0.1\r\n"),
        (request(80, scheme="https"), b"host: 127.0.0.1:80\r\n"),
        (request(80, host="::1"), b"host: [::1]\r\n"),
        (request(9, b"", method="GET"), b"GET /v1/x HTTP/1.1\r\n"),
        (request(9, b""), b"content-length: 0\r\n\r\n"),
        (request(9, headers=(("x", "ä"),)), "x: ä\r\n".encode("latin-1")),
    ],
)
def test_head(asked: object, head: bytes) -> None:
    """The host is named as a URL names it; a body is always announced."""
    assert head in HeadWriter().write(asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked",
    [
        request(headers=(("x", "a\r\nevil: 1"),)),
        request(headers=(("x", "a\nb"),)),
        request(headers=(("x", "a\rb"),)),
        request(headers=(("x", "a\0b"),)),
        request(headers=(("x\r\n", "a"),)),
        request(headers=(("x", "secret \u20ac"),)),
        request(target="/a b"),
        request(target="/a\r\nx: y"),
        request(target="/\u20ac"),
    ],
)
def test_injection(asked: object) -> None:
    """What would break out of its line is refused, and no value is shown: it may be a secret."""
    with pytest.raises(InvalidRequestError) as caught:
        HeadWriter().write(asked)  # type: ignore[arg-type]
    assert "evil" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_writer_follows() -> None:
    """Other headers or another target make another head."""
    writer = HeadWriter()
    first, second = request(headers=(("a", "1"),)), request(headers=(("a", "2"),), target="/other")
    assert b"a: 1" in writer.write(first)
    assert b"POST /other" in writer.write(second)
    assert b"a: 1" in writer.write(first)


GZIPPED = gzip.compress(b"hello")

# (answer, its status, its body, whether the connection can be used again); the end of input ends those that need it.
ANSWERS: list[tuple[str, bytes, int, bytes, bool]] = [
    ("length", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    ("no body", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ("304", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
    ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", 200, b"hello", True),
    ("trailers", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n", 200, b"hello", True),
    ("until close", b"HTTP/1.1 200 OK\r\n\r\nhello", 200, b"hello", False),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    ("close", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    ("100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
    ("103 with fields", b"HTTP/1.1 103 Early Hints\r\ncontent-length: 99\r\nlink: x\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nhello",
     500, b"hello", True),
    ("gzip", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(GZIPPED), GZIPPED), 200, b"hello", True),
    ("deflate", b"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\n\r\n" + zlib.compress(b"hello"), 200, b"hello", False),
    ("identity", b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
    ("404", b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", 404, b"hello", True),
]  # fmt: skip


def read(*pieces: bytes) -> ResponseReader:
    reader = ResponseReader("h:1")
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return reader


@pytest.mark.parametrize(("data", "status", "body", "keep"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_answers(data: bytes, status: int, body: bytes, keep: bool) -> None:
    """Each kind of framing, whole and byte by byte."""
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        reader = read(*pieces)
        assert (status, body, keep, True) == (reader.status, reader.take(), reader.keep, reader.done)


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.data())
def test_any_cut(row: tuple[str, bytes, int, bytes, bool], data: st.DataObject) -> None:
    """Any cut of an answer gives the same answer."""
    _, answer, status, body, keep = row
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    reader = read(*(answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)))
    assert (status, body, keep) == (reader.status, reader.take(), reader.keep)


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.data())
def test_cut_short(row: tuple[str, bytes, int, bytes, bool], data: st.DataObject) -> None:
    """An answer that is cut short is an error, unless the end of the connection is its end."""
    answer = row[1]
    reader = ResponseReader("h:1")
    reader.feed(answer[: data.draw(st.integers(0, len(answer) - 1))])
    if reader.done:
        return
    try:
        reader.end()
    except TransportError:
        assert not reader.done
    else:
        assert row[0] in ("until close", "deflate")


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"content-length: 3\r\n", b"\r\n", b"abc", b"transfer-encoding: chunked\r\n",
                                 b"content-encoding: gzip\r\n", b"3\r\n", b"0\r\n\r\n", b"\xff", b": ", b"HTTP/1.1 100 X\r\n\r\n"])
                | st.binary(max_size=5), max_size=12))  # fmt: skip
def test_any_bytes(pieces: list[bytes]) -> None:
    """Whatever bytes come, the reader returns or raises TransportError."""
    reader = ResponseReader("h:1")
    try:
        for piece in pieces:
            reader.feed(piece)
            reader.take()
        reader.end()
    except TransportError:
        return
    assert isinstance(dict(reader.headers), dict)


BROKEN: list[tuple[str, bytes, str]] = [
    ("no HTTP", b"SSH-2.0-x\r\n\r\n", "h:1 sent no HTTP"),
    ("another protocol", b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "wants another protocol"),
    ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", "sent no HTTP"),
    ("length and chunks", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "sent no HTTP"),
    (
        "no gzip",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        "not what its content-encoding says",
    ),
    ("brotli", b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\n\r\n", "encoded as 'br', which was not asked for"),
    ("a huge head", b"HTTP/1.1 200 OK\r\nx: " + b"y" * parse.MAX_HEAD, "sent a head of more than"),
]


@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken(data: bytes, text: str) -> None:
    """What is no answer is an error that says so."""
    with pytest.raises(ConnectError, match=text) as caught:
        read(data)
    assert caught.value.sent


def test_huge_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body beyond the limit is an error, compressed ones by what they unpack to."""
    monkeypatch.setattr(parse, "MAX_BODY", 1000)
    bomb = gzip.compress(b"x" * 5000)
    for data in (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + bomb):
        with pytest.raises(ConnectError, match="sent a body of more than 1000 bytes"):
            read(data)


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"junk"])
def test_more_than_one_answer(extra: bytes) -> None:
    """A second answer to one request leaves the first as it is, and the connection is not used again."""
    reader = ResponseReader("h:1")
    reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" + extra)
    assert (200, b"hello", True, False) == (reader.status, reader.take(), reader.done, reader.keep)


def test_one_after_another() -> None:
    """A reader reads many answers of one connection."""
    reader = ResponseReader("h:1")
    for number in range(3):
        reader.start()
        reader.feed(b"HTTP/1.1 200 OK\r\nx: %d\r\ncontent-length: 1\r\n\r\n%d" % (number, number))
        assert (str(number), b"%d" % number, True) == (reader.headers["x"], reader.take(), reader.keep)


def test_truncated_is_told_apart() -> None:
    """A connection that ends in the middle, and one that gives nothing, are different errors."""
    with pytest.raises(StreamTruncatedError, match="in the middle"):
        read(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    with pytest.raises(ConnectError, match="without an answer"):
        read(b"")
