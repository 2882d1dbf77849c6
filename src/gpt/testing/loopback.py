"""A server on loopback whose connections are played by a function, each in a thread, over plain or TLS sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl

Play = Callable[["Peer"], None]


class Gone(Exception):  # noqa: N818 - an end, not an error
    """The client has closed the connection."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: Loopback) -> None:
        self.socket = sock
        self.server = server
        self._data = b""

    def read_request(self) -> tuple[str, bytes]:
        """Head and body of the next request. Raises Gone at the end of the connection."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        length = next(
            (int(line.partition(":")[2]) for line in text.split("\r\n") if line.lower().startswith("content-length")), 0
        )
        while len(self._data) < length:
            self._more()
        body, self._data = self._data[:length], self._data[length:]
        self.server.requests.append((text, body))
        return text, body

    def wait_for_request(self) -> None:
        """Block until something of the next request has come. Raises Gone at the end of the connection."""
        if not self._data:
            self._more()

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._data += data

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def wait_for_close(self) -> None:
        """Block until the client closes the connection."""
        with contextlib.suppress(Gone):
            while True:
                self._more()

    def reset(self) -> None:
        """Close so that the client gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Loopback:
    """The server. Enter it to start it; leaving it ends every connection, and raises what `play` raised.

    `connections` counts them; `requests` holds head and body of each request, the last `keep` where that is given; `ended` is
    released once for each connection that is over. One that is played on for `patience` seconds after the server was left is an
    error too.
    """

    def __init__(
        self,
        play: Play,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        keep: int | None = None,
        patience: float = 10.0,
    ) -> None:
        self.play = play
        self.context = context
        self.patience = patience
        self.connections = 0
        self.requests: deque[tuple[str, bytes]] = deque(maxlen=keep)
        self.errors: list[BaseException] = []
        self.ended = threading.Semaphore(0)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, 0))
        self.socket.listen(512)
        self.port: int = self.socket.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """The base URL of a chat-completions server here."""
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._accepting.join(self.patience)
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(self.patience)
            if thread.is_alive():
                late = f"a connection is still being played {self.patience:g} s after the server was left"
                self.errors.append(RuntimeError(late))
        if self.errors:
            raise self.errors[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        raw = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is not None:
                try:
                    sock = self.context.wrap_socket(sock, server_side=True)
                except OSError:  # the client did not like the certificate
                    return
                self._open.add(sock)
            with contextlib.suppress(Gone):
                self.play(Peer(sock, self))
        except BaseException as error:  # noqa: BLE001 - raised where the server is left
            self.errors.append(error)
        finally:
            for one in (sock, raw):
                self._open.discard(one)
                one.close()
            self._threads.discard(threading.current_thread())
            self.ended.release()


def answer(body: bytes | dict[str, Any] = b"", status: str = "200 OK", *lines: str) -> bytes:
    """A whole HTTP answer."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
        lines = ("content-type: application/json", *lines)
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}"))
    return head.encode() + b"\r\n" + body


def completion(text: str = "hi", **beside: Any) -> dict[str, Any]:
    """A completion as a server sends it."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
        **beside,
    }


def always(*answers: bytes) -> Play:
    """Give these answers in turn over the life of the server, the last one for ever, on connections that are kept."""
    left = list(answers)
    lock = threading.Lock()

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            with lock:
                data = left.pop(0) if len(left) > 1 else left[0]
            peer.send(data)

    return play


@contextlib.contextmanager
def serving(*answers: bytes | dict[str, Any]) -> Iterator[Loopback]:
    """A server that gives these answers in turn, the last one for ever."""
    with Loopback(always(*(answer(one) if isinstance(one, dict) else one for one in answers))) as server:
        yield server


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
