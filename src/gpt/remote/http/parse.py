"""HTTP/1.1 as bytes: writing a request, reading an answer. Pure: no socket, no clock.

llhttp (through `httptools`) does the grammar. What it leaves to its caller is here: bodies that end when the connection does,
informational answers, content encodings, limits, and whether the connection can be used again.
Invariant: whatever bytes come, `feed` returns or raises TransportError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools

from gpt.errors import ConnectError, InvalidRequestError, StreamTruncatedError, TransportError
from gpt.protocol.wire import Headers, HttpRequest, Origin

if TYPE_CHECKING:
    import zlib

    from gpt.remote.http.proxy import Proxy

MAX_HEAD = 256 * 1024
"""Bytes of status line and header fields. curl allows 300 KB, nginx and most servers far less."""

MAX_BODY = 1024 * 1024 * 1024
"""Bytes of a body that is read whole, after decoding: more than any answer, less than a machine's memory."""


class HeadWriter:
    """Writes requests. A head that goes out again and again, as a client's does, is put together once."""

    def __init__(self) -> None:
        self._last: tuple[tuple[tuple[str, str], ...], str, Origin | None, Proxy | None, bytes] = ((), "", None, None, b"")

    def write(self, request: HttpRequest, proxy: Proxy | None = None) -> bytes:
        """Head and body, as they go out; an http server behind a proxy is named by its whole URL.

        Raises InvalidRequestError for a field that would break out of its line.
        """
        headers, target, origin, through, head = self._last
        if (
            headers is not request.headers
            or target is not request.target
            or origin is not request.origin
            or through is not proxy
        ):
            head = head_bytes(request, proxy)
            self._last = (request.headers, request.target, request.origin, proxy, head)
        body = request.body
        if request.own_headers:
            head += field_lines(request.own_headers)
        if body or request.method == "POST":
            return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        return head + b"content-length: 0\r\n\r\n"


def head_bytes(request: HttpRequest, proxy: Proxy | None = None) -> bytes:
    """Request line and fields, each with its line end. Raises InvalidRequestError for what would break out of its line."""
    origin, target = request.origin, request.target
    login = b""
    if proxy is not None and origin.scheme == "http":
        # RFC 9112, section 3.2.2. Behind a tunnel the proxy is not there.
        target = f"{origin}{target}"
        if proxy.authorization:
            login = f"proxy-authorization: {proxy.authorization}\r\n".encode()
    line = f"{request.method} {target} HTTP/1.1"
    if line.count(" ") != 2 or not line.isprintable() or not line.isascii():
        raise InvalidRequestError(
            f"the URL {request.url!r} has a space or another character that a URL may not have; percent-encode it"
        )
    return f"{line}\r\nhost: {origin.authority}\r\n".encode() + login + field_lines(request.headers)


def field_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Header fields, each on its line. Raises InvalidRequestError for one that would break out of it.

    The error names the field and shows no value: it may be a secret. Source: RFC 9110, section 5.5.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    try:
        if lines.count("\n") == lines.count("\r") == len(headers) and "\0" not in lines:
            return lines.encode("latin-1")
    except UnicodeEncodeError:
        pass
    raise _unsafe(headers)


def _unsafe(headers: tuple[tuple[str, str], ...]) -> InvalidRequestError:
    """The error that names the field at fault."""
    name = next(name for name, value in headers if any(mark in "\r\n\0" or ord(mark) > 255 for mark in name + value))
    return InvalidRequestError(f"header {name!r}: it has a line break or another character that no header may have", param=name)


class ResponseReader:
    """Reads one answer after another of one connection. `start` before each.

    `status` and `headers` hold once `head` is true; `take` gives what came of the body since; `done` ends the answer, and
    `keep` then tells whether the connection can carry another.
    """

    __slots__ = ("_before", "_decoder", "_lines", "_parser", "_pieces", "_size", "_where", "done", "head", "keep", "status")

    def __init__(self, where: str) -> None:
        self._where = where
        self._parser = httptools.HttpResponseParser(self)
        self.start()

    def start(self) -> None:
        """Make ready for an answer."""
        self._before = self._lines = b""  # of the head: what has come, and then its fields
        self._pieces: list[bytes] = []
        self._size = self.status = 0
        self._decoder: zlib._Decompress | None = None
        self.head = self.done = self.keep = False

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return Headers(lines=self._lines) if self._lines else Headers()

    def feed(self, data: bytes) -> None:
        """Take in what the connection gave. Raises TransportError for what is no HTTP answer."""
        if not self.head:
            self._before = self._before + data if self._before else data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise self._broken("wants another protocol", data) from None
        except httptools.HttpParserError as error:
            if self.done:
                # More than one answer to one request: the answer stands, the connection is not to be trusted.
                self.keep = False
                return
            cause = error.__context__
            if isinstance(cause, TransportError):
                raise cause from None
            raise self._broken(f"sent no HTTP ({error})", data) from None
        if not self.head and len(self._before) > MAX_HEAD:
            raise self._broken(f"sent a head of more than {MAX_HEAD} bytes", data)

    def end(self) -> None:
        """Take in that the connection has ended. Raises TransportError when the answer was not whole.

        An answer without Content-Length and chunks ends here (RFC 9112, section 6.3).
        """
        if self.done:
            return
        if not self.head:
            raise ConnectError(
                f"{self._where} closed the connection without an answer; try again, or look at the server's log",
                phase="first_byte",
                sent=True,
            )
        headers = self.headers
        if "content-length" in headers or headers.get("transfer-encoding", "").lower().endswith("chunked"):
            raise StreamTruncatedError(f"{self._where} closed the connection in the middle of the answer; try again")
        self.keep = False
        self.done = True
        self._flush()

    def take(self) -> bytes:
        """What came of the body since the last call, decoded."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _broken(self, what: str, data: bytes) -> TransportError:
        return ConnectError(
            f"{self._where} {what}; it begins {bytes(data[:60])!r}; is this the right port and scheme?",
            phase="read",
            sent=True,
        )

    def _flush(self) -> None:
        if self._decoder is not None and (rest := self._decoder.flush()):
            self._pieces.append(rest)

    # What llhttp calls. There is no callback for a header field: the fields are read from the head's own lines, when asked for.

    def on_message_begin(self) -> None:
        if self.done:
            raise ValueError("an answer to nothing")

    def on_headers_complete(self) -> None:
        self.status = status = self._parser.get_status_code()
        head, _, rest = self._before.partition(b"\r\n\r\n")
        if status < 200:
            # Informational (RFC 9110, section 15.2): the answer is still to come, on the same parser.
            self._before = rest
            return
        self.head = True
        self._lines = head.partition(b"\r\n")[2]
        if b"-encoding:" in head or b"-Encoding:" in head or b"-ENCODING:" in head:
            encoding = self.headers.get("content-encoding", "").lower()
            if encoding not in ("", "identity"):
                self._decoder = self._inflater(encoding)

    def on_body(self, data: bytes) -> None:
        if self._decoder is not None:
            data = self._decoded(data)
        self._size += len(data)
        if self._size > MAX_BODY:
            raise self._broken(f"sent a body of more than {MAX_BODY} bytes", data)
        if data:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.done = True
            self.keep = self._parser.should_keep_alive()
            if self._decoder is not None:
                self._flush()

    def _decoded(self, data: bytes) -> bytes:
        import zlib

        assert self._decoder is not None
        try:
            return self._decoder.decompress(data)
        except zlib.error as error:
            raise self._broken(f"sent a body that is not what its content-encoding says ({error})", data) from None

    def _inflater(self, encoding: str) -> Any:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise self._broken(f"sent a body encoded as {encoding!r}, which was not asked for", b"")
        import zlib

        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever the body begins with
