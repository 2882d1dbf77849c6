"""Server-sent events as bytes: an incremental decoder, exact to the WHATWG rules, and the encoder for the way back.

The rules that are easily missed: a line ends with LF, CRLF or a CR alone; a byte-order mark at the start is dropped; an event
without a `data` field is not delivered; an event that the end of input cuts off is dropped; an `id` with a NUL is ignored;
bytes that are not UTF-8 become U+FFFD. Any cut of a document into pieces gives the same events, in linear time.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import msgspec

from gpt.errors import MalformedResponseError

MAX_EVENT = 64 * 1024 * 1024
"""Bytes that one event may have. Generous: an event may carry a sound or an image in base64."""


STRAY = "\n"
"""The kind of an event that is none by the rules. No event's name has a line break in it."""

_LF, _CR = b"\n\r"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: `data` are its data lines joined by LF, as UTF-8 bytes; `event` is "" for a plain message."""

    data: bytes
    event: str = ""
    id: str = ""


class Decoder:
    """Pieces of an event stream in, events out. Holds what has come of the unfinished line and event.

    The rules say to ignore a line without a known field. Some servers say in such a line what went wrong: bare JSON, or a field
    "error". With `strays` these are delivered too, as events of kind STRAY.
    """

    def __init__(self, limit: int = MAX_EVENT, where: str = "the server", *, strays: bool = False) -> None:
        self._limit = limit
        self._strays = strays
        self._where = where
        self._pieces: list[bytes] = []  # the unfinished line; joined once, so that many small pieces stay linear
        self._unfinished = 0  # bytes of it
        self._data: list[bytes] = []
        self._held = 0  # bytes of the unfinished event's data
        self._event = ""
        self._id = ""
        self._start = True
        self._after_cr = False
        self._between = False  # between two events, with nothing held

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes, in order. Raises MalformedResponseError when one passes the size limit."""
        if self._between and piece[-2:] == b"\n\n":
            events = self._plain(piece)
            if events is not None:
                return events
        if self._after_cr and piece:
            # CR ended a line with the last piece; an LF at the start of this one belongs to it.
            self._after_cr = False
            if piece.startswith(b"\n"):
                piece = piece[1:]
        if b"\n" not in piece and b"\r" not in piece:
            if piece:
                self._between = False
                self._keep(piece)
            return []
        if self._pieces:
            self._pieces.append(piece)
            piece = b"".join(self._pieces)
            self._pieces.clear()
            self._unfinished = 0
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = piece.split(b"\n")
        events = []
        for line in lines:
            if self._start:
                self._start = False
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line:
                self._field(line, events)
            else:
                self._dispatch(events)
        if rest:
            self._keep(rest)
        self._between = not (rest or self._data or self._event or self._after_cr or self._start)
        return events

    def _plain(self, piece: bytes) -> list[Event] | None:
        """The events of a piece that has nothing but whole events of one data line each; None where it has anything else."""
        # An int is looked for, because bytes look for one byte ten times faster so.
        if len(piece) - 8 > self._limit or _CR in piece:
            return None
        blocks = (piece[:-2],) if piece.find(_LF) == len(piece) - 2 else piece[:-2].split(b"\n\n")
        events: list[Event] = []
        for block in blocks:
            if block[:6] != b"data: " or _LF in block:
                return None
            data = block[6:]
            events.append(Event(data if data.isascii() else _as_utf8(data), "", self._id))
        return events

    def _keep(self, rest: bytes) -> None:
        self._pieces.append(rest)
        self._unfinished += len(rest)
        self._check()

    def _check(self) -> None:
        if self._held + self._unfinished > self._limit:
            raise MalformedResponseError(
                f"{self._where} sent an event of more than {self._limit} bytes; such a stream is none of chat chunks", 200
            )

    def _field(self, line: bytes, events: list[Event]) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._held += len(value)
            self._check()
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif self._strays and (name == b"error" or line[:1] == b"{"):
            events.append(Event(line, STRAY))
        # "" is a comment; "retry" is for reconnecting, which a chat stream cannot; any other name is to be ignored.

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            if not data.isascii():
                data = _as_utf8(data)
            events.append(Event(data, self._event, self._id))
            self._data.clear()
        self._event = ""
        self._held = 0


def _as_utf8(data: bytes) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def encode(data: bytes, event: str = "") -> bytes:
    """The event as bytes for the wire; `data` may have several lines."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"
