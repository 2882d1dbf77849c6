"""Server-sent events: the rules of WHATWG, any cut of any document, both directions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import MalformedResponseError
from gpt.protocol.sse import STRAY, Decoder, Event, encode
from whatwg import reference

# One table for the decoder, the byte-at-a-time decoder and the plain reference below.
DOCUMENTS: list[tuple[str, bytes, list[Event]]] = [
    ("one event", b"data: a\n\n", [Event(b"a")]),
    ("no space", b"data:a\n\n", [Event(b"a")]),
    ("two spaces", b"data:  a\n\n", [Event(b" a")]),
    ("CRLF", b"data: a\r\n\r\n", [Event(b"a")]),
    ("CR", b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
    ("mixed line ends", b"data: a\r\ndata: b\rdata: c\n\r\n", [Event(b"a\nb\nc")]),
    ("several lines", b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
    ("an empty line of data", b"data: a\ndata\ndata:\n\n", [Event(b"a\n\n")]),
    ("empty data is delivered, empty", b"data:\n\n", [Event(b"")]),
    ("an event without data is not delivered", b"event: x\n\ndata: a\n\n", [Event(b"a")]),
    ("retry alone is not delivered", b"retry: 5\n\n", []),
    ("blank lines are not delivered", b"\n\n\n", []),
    ("a comment", b": ping\n\ndata: a\n: ping\n\n", [Event(b"a")]),
    ("a kind", b"event: error\ndata: a\n\ndata: b\n\n", [Event(b"a", "error"), Event(b"b")]),
    ("an id stays", b"id: 1\ndata: a\n\ndata: b\n\n", [Event(b"a", "", "1"), Event(b"b", "", "1")]),
    ("an id is unset by an empty one", b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event(b"a", "", "1"), Event(b"b")]),
    ("an id with NUL is ignored", b"id: 1\nid: 2\0\ndata: a\n\n", [Event(b"a", "", "1")]),
    ("an unknown field is ignored", b"zap: 1\ndata: a\n\n", [Event(b"a")]),
    ("a field name in capitals is unknown", b"Data: a\n\n", []),
    ("a byte-order mark is dropped", b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
    ("only the first one", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Event(b"b")]),
    ("cut off at the end", b"data: a\n\ndata: b\n", [Event(b"a")]),
    ("cut off in a line", b"data: a\n\ndata: b", [Event(b"a")]),
    ("other line separators are text", "data: a\u2028b\u0085c\vd\fe\n\n".encode(), [Event("a\u2028b\u0085c\vd\fe".encode())]),
    ("UTF-8", "data: ä€😀\n\n".encode(), [Event("ä€😀".encode())]),
    ("no UTF-8", b"data: a\xffb\nevent: \xff\nid: \xff\n\n", [Event("a\ufffdb".encode(), "\ufffd", "\ufffd")]),
    ("nothing", b"", []),
]  # fmt: skip


def decoded(*pieces: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize(("document", "events"), [row[1:] for row in DOCUMENTS], ids=[row[0] for row in DOCUMENTS])
def test_documents(document: bytes, events: list[Event]) -> None:
    """Each rule: whole, byte by byte, with empty pieces between, and by the reference."""
    assert events == decoded(document)
    assert events == decoded(*(document[i : i + 1] for i in range(len(document))))
    assert events == decoded(*(piece for i in range(len(document)) for piece in (b"", document[i : i + 1])))
    assert events == reference(document)
    if not document.startswith(b"\xef"):
        assert events == decoded(b"data: 0\n\n", document)[1:]


pieces_of_documents = st.sampled_from(
    [b"data: ", b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"event: x", b"id: 1", b"id: \0", b"retry: 1", b"a",
     b"[DONE]", b"\xef\xbb\xbf", "ä".encode(), b"\xff", b"\xe2\x82", "\u2028".encode(), b'{"a":1}']
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(pieces_of_documents | st.binary(max_size=4), max_size=30), st.data())
def test_any_cut(parts: list[bytes], data: st.DataObject) -> None:
    """Any cut of any document gives the events that the reference gives."""
    document = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(document)), max_size=8)))
    pieces = [document[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(document)], strict=True)]
    assert reference(document) == decoded(*pieces)


@given(st.text().map(lambda text: text.encode("utf-8", "replace")), st.text("abc"))
def test_round_trip(data: bytes, kind: str) -> None:
    """What `encode` writes, the decoder reads; CR and CRLF in data become LF, as the format has it."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert [Event(lines, kind)] == decoded(encode(lines, kind))


@pytest.mark.parametrize("pieces", [[b"data: " + b"x" * 200], [b"data: xxxxx\n"] * 40, [b"data: "] + [b"x"] * 200])
def test_limit(pieces: list[bytes]) -> None:
    """An event that passes the limit is an error, however it is cut."""
    decoder = Decoder(limit=100)
    with pytest.raises(MalformedResponseError, match="more than 100 bytes"):
        for piece in pieces:
            decoder.feed(piece)
    decoder = Decoder(limit=100)
    decoder.feed(b": \n\n")
    with pytest.raises(MalformedResponseError, match="more than 100 bytes"):
        decoder.feed(b"data: " + b"x" * 200 + b"\n\n")


@pytest.mark.parametrize(
    ("line", "expected"), [(b"error: x", True), (b'{"a": 1}', True), (b"errors: x", False), (b":{", False)]
)
def test_strays(line: bytes, expected: bool) -> None:
    """Lines that may say what went wrong are delivered only where they are asked for, in their place."""
    document = b"data: a\n\n" + line + b"\ndata: b\n\n"
    assert [Event(b"a"), Event(b"b")] == decoded(document)
    stray = [Event(line, STRAY)] if expected else []
    assert [Event(b"a"), *stray, Event(b"b")] == Decoder(strays=True).feed(document)


def test_limit_is_for_one_event() -> None:
    """Many events may pass the limit together."""
    decoder = Decoder(limit=100)
    assert 50 == sum(len(decoder.feed(b"data: " + b"x" * 90 + b"\n\n")) for _ in range(50))
