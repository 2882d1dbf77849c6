"""A server with faults, on loopback: it speaks the protocol over real sockets, and goes wrong as it is told to.

Each request draws its fault from a generator seeded by `seed` and the request's number, so that a failure repeats.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from gpt.testing.loopback import Gone, Loopback, Peer, answer, completion
from gpt.types import ChatCompletion

if TYPE_CHECKING:
    import ssl

Phase = Literal["request", "head", "body"]
"""Before the request is read; after it, before the first byte of the answer; in the middle of the answer's body."""

Reply: TypeAlias = str | Mapping[str, Any] | ChatCompletion | Callable[[Any], str | Mapping[str, Any] | ChatCompletion]
"""The text of the answer, a whole completion, or a function of the request's JSON that gives one of these."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that goes wrong. `rate` is the chance that it strikes a request; it strikes at most `times` times."""

    rate: float = 1.0
    times: int | None = None
    status: int | None = None
    """Answer with this status, with `headers` and `body`."""
    headers: Mapping[str, str] = {}
    body: bytes | Mapping[str, Any] | None = None
    """What to answer instead of the completion: bytes, or JSON."""
    content_type: str | None = None
    delay: float = 0.0
    """Seconds before the answer."""
    stall: Phase | None = None
    """Go silent there, until the client leaves."""
    reset: Phase | None = None
    """Break the connection there (RST)."""
    cut: int | None = None
    """Close the connection after so many bytes of the answer."""
    slices: int | None = None
    """Send the answer in pieces of so many bytes."""
    pause: float = 0.0
    """Seconds between two pieces."""
    pings: float | None = None
    """Of a streamed answer send the events in its first half, or with `cut` in its first so many bytes, then comments for ever,
    so many seconds apart."""
    gzip: bool = False
    """Send the body compressed; in chunked encoding, what a chunk has can be read when it has come."""
    garbage: bytes | None = None
    """Send this instead of an HTTP answer, and close."""
    chunked: bool = False
    """Send the body in chunked encoding."""
    slow_close: float | None = None
    """Send the body without its length, and close the connection so many seconds later."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: expected a chance from 0 to 1, got {self.rate}")
        for name in ("delay", "slow_close", "cut", "times", "pause", "pings"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if self.slices is not None and self.slices < 1:
            raise ValueError(f"slices: expected at least 1 byte, got {self.slices}")


NO_FAULT = Fault()


def serve(reply: Reply = "hi", *, faults: Sequence[Fault] = (), seed: int = 0) -> FaultServer:
    """A server that answers each call with `reply`, but for the requests that a fault strikes. Enter it to start it."""
    return FaultServer(reply, faults=faults, seed=seed)


class FaultServer(Loopback):
    """A loopback server for `/v1/chat/completions`, whole and streamed, and `/v1/models`.

    `url` is its base URL; `requests` holds head and body of each request (the last `keep` of them), `struck` how often each
    fault struck, by its place in `faults`, `answered` how many requests there were. The first fault that strikes a
    request is played.
    """

    def __init__(
        self,
        reply: Reply = "hi",
        *,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        context: ssl.SSLContext | None = None,
        keep: int | None = None,
    ) -> None:
        super().__init__(self._serve_connection, context, keep=keep)
        self.reply = reply
        self.faults = tuple(faults)
        self.seed = seed
        self.struck: Counter[int] = Counter()
        self.answered = 0
        """Requests that a fault was drawn for, answered or not."""
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._ending.set()
        super().__exit__(*details)

    def _draw(self) -> Fault:
        """The fault of the next request."""
        with self._lock:
            number = self.answered
            self.answered += 1
            chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - a script, not a secret
            for place, fault in enumerate(self.faults):
                # Drawn for each, so that one that is used up does not change what the others do.
                strikes = chance.random() < fault.rate
                if strikes and (fault.times is None or self.struck[place] < fault.times):
                    self.struck[place] += 1
                    return fault
        return NO_FAULT

    def _serve_connection(self, peer: Peer) -> None:
        while True:
            peer.wait_for_request()
            fault = self._draw()
            if _goes_wrong(fault, "request", peer):
                return
            head, body = peer.read_request()
            if fault.delay:
                self._ending.wait(fault.delay)
            if _goes_wrong(fault, "head", peer):
                return
            if fault.garbage is not None:
                peer.send(fault.garbage)
                return
            if not self._answer(peer, fault, head, body):
                return

    def _answer(self, peer: Peer, fault: Fault, head: str, body: bytes) -> bool:
        """Send the answer. Gives whether the connection can be used again."""
        content_type, said = self._said(fault, head, body)
        lines = [f"content-type: {fault.content_type or content_type}", *(f"{n}: {v}" for n, v in fault.headers.items())]
        pieces = [said]
        if fault.chunked:
            size = max(1, len(said) // 3)
            pieces = [said[place : place + size] for place in range(0, len(said), size)]
        if fault.gzip:
            lines.append("content-encoding: gzip")
            pieces = _zipped(pieces)
            said = b"".join(pieces)
        status = f"{fault.status or 200} {'OK' if fault.status in (None, 200) else 'Fault'}"
        if fault.slow_close is not None:
            data = "\r\n".join([f"HTTP/1.1 {status}", *lines, "connection: close", "", ""]).encode() + said
        elif fault.chunked:
            head_bytes = "\r\n".join([f"HTTP/1.1 {status}", *lines, "transfer-encoding: chunked", "", ""]).encode()
            data = head_bytes + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            data = answer(said, status, *lines)
        if fault.pings is not None and content_type == "text/event-stream":
            self._ping(peer, fault, [*lines, "connection: close"], said)
            return False
        if "body" in (fault.stall, fault.reset):
            peer.send(data[: len(data) - max(1, len(said) // 2)])
            _goes_wrong(fault, "body", peer)
            return False
        if fault.cut is not None and fault.pings is None:
            peer.send(data[: fault.cut])
            return False
        size = fault.slices or len(data)
        for place in range(0, len(data), size):
            peer.send(data[place : place + size])
            if fault.pause:
                self._ending.wait(fault.pause)
        if fault.slow_close is not None:
            self._ending.wait(fault.slow_close)
        return fault.slow_close is None

    def _ping(self, peer: Peer, fault: Fault, lines: list[str], said: bytes) -> None:
        head = "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()
        sent, end, _ = said[: len(said) // 2 if fault.cut is None else fault.cut].rpartition(b"\n\n")
        peer.send(head + sent + end)
        while not self._ending.wait(fault.pings):
            peer.send(b": ping\n\n")

    def _said(self, fault: Fault, head: str, body: bytes) -> tuple[str, bytes]:
        """Content type and body of the answer."""
        if isinstance(fault.body, bytes):
            return "text/plain", fault.body
        if fault.body is not None:
            return "application/json", msgspec.json.encode(fault.body)
        if fault.status is not None and fault.status != 200:
            said = {"error": {"message": f"a fault that was asked for: {fault.status}", "type": "fault"}}
            return "application/json", msgspec.json.encode(said)
        if head.startswith("GET "):
            return "application/json", msgspec.json.encode({"object": "list", "data": [{"id": "m", "object": "model"}]})
        request = msgspec.json.decode(body) if body else {}
        reply = self.reply(request) if callable(self.reply) else self.reply
        if isinstance(reply, ChatCompletion):
            reply = reply.to_dict()
        made = completion(reply) if isinstance(reply, str) else dict(reply)
        if isinstance(request, dict) and request.get("stream"):
            wants = request.get("stream_options") or {}
            return "text/event-stream", events(made, usage=wants.get("include_usage") is True)
        return "application/json", msgspec.json.encode(made)


def _goes_wrong(fault: Fault, phase: Phase, peer: Peer) -> bool:
    """Play what the fault does in this phase. Gives whether the connection is over."""
    if fault.reset == phase:
        peer.reset()
        return True
    if fault.stall == phase:
        peer.wait_for_close()
        raise Gone
    return False


def _zipped(pieces: list[bytes]) -> list[bytes]:
    import zlib

    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces] + [packer.flush()]


def events(made: Mapping[str, Any], *, usage: bool = False) -> bytes:
    """A completion as the event stream that it would have come in: a word a chunk, then its calls, and the end marker.

    With `usage` a last chunk has the tokens used, where the completion says them.
    """
    message = made["choices"][0]["message"]
    text = message.get("content") or ""
    pieces = [piece for piece in text.replace(" ", " \0").split("\0") if piece]
    beside = {name: made[name] for name in ("id", "created", "model") if name in made} | {"object": "chat.completion.chunk"}
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in pieces]
    if calls := message.get("tool_calls"):
        deltas.append(({"tool_calls": [{"index": place, **call} for place, call in enumerate(calls)]}, None))
    deltas.append(({}, made["choices"][0]["finish_reason"]))
    chunks = [{**beside, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
    if usage and made.get("usage"):
        chunks.append({**beside, "choices": [], "usage": made["usage"]})
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(one) for one in chunks) + b"data: [DONE]\n\n"
