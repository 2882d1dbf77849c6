"""A server with faults, on loopback: it speaks the protocol over real sockets, and goes wrong as it is told to.

Each request draws its fault from a generator seeded by `seed` and the request's number, so that a failure repeats.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from gpt.backend import Backend, CallOptions
from gpt.errors import RequestTimeoutError, StreamTruncatedError, TransportError
from gpt.testing.answers import Answered, Events, answered, check
from gpt.testing.loopback import Gone, Loopback, Peer, answer, completion
from gpt.types import ChatCompletion

if TYPE_CHECKING:
    import ssl

Phase = Literal["request", "head", "body"]
"""Before the request is read; after it, before the first byte of the answer; in the middle of the answer's body."""

Reply: TypeAlias = (
    str | Mapping[str, Any] | ChatCompletion | Callable[[Any], str | Mapping[str, Any] | ChatCompletion] | Backend
)
"""The text of the answer, a whole completion, a function of the request's JSON that gives one of these; or a Backend that is
asked: a scripted model, a recording, the model in the box."""


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
    jitter: float = 0.0
    """Up to so many seconds more, drawn for each request."""
    stall: Phase | None = None
    """Go silent there, until the client leaves."""
    reset: Phase | None = None
    """Break the connection there (RST)."""
    cut: int | None = None
    """Close the connection after so many bytes of the answer."""
    slices: int | None = None
    """Send the answer in pieces of so many bytes."""
    uneven: bool = False
    """The pieces have 1 to `slices` bytes, drawn for each."""
    duplicate: int | None = None
    """Send the event of this number, counted from 0, of a streamed answer twice."""
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
        for name in ("delay", "jitter", "slow_close", "cut", "times", "pause", "pings", "duplicate"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if self.slices is not None and self.slices < 1:
            raise ValueError(f"slices: expected at least 1 byte, got {self.slices}")
        if self.uneven and self.slices is None:
            raise ValueError("uneven: needs slices=, the bytes that a piece has at most")


NO_FAULT = Fault()


def serve(reply: Reply = "hi", *, faults: Sequence[Fault] = (), seed: int = 0) -> FaultServer:
    """A server that answers each call with `reply`, but for the requests that a fault strikes. Enter it to start it."""
    return FaultServer(reply, faults=faults, seed=seed)


class FaultServer(Loopback):
    """A loopback server for `/v1/chat/completions`, whole and streamed, and `/v1/models`.

    `url` is its base URL; `requests` holds head and body of each request (the last `keep` of them), `struck` how often each
    fault struck, by its place in `faults`, `answered` how many requests there were. The first fault that strikes a
    request is played. `reply` and `faults` may be changed at any time.

    A Backend as `reply` is asked by the thread of each connection, and stays open. What it raises is answered with the status
    that it had; a TransportError resets the connection, a StreamTruncatedError closes it, a RequestTimeoutError is silence. Its
    streams are passed on as they come; those that a fault strikes, when they are whole. What it is not asked, as
    `/v1/embeddings`, is answered with 404.
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
        if isinstance(reply, Backend):
            check(reply)
        super().__init__(self._serve_connection, context, keep=keep)
        self.reply = reply
        self.faults: Sequence[Fault] = tuple(faults)
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

    def _draw(self) -> tuple[Fault, random.Random]:
        """The fault of the next request, and what its pieces are drawn from."""
        with self._lock:
            number = self.answered
            self.answered += 1
            chance = random.Random(f"{self.seed}/{number}")  # noqa: S311 - a script, not a secret
            for place, fault in enumerate(self.faults):
                # Drawn for each, so that one that is used up does not change what the others do.
                strikes = chance.random() < fault.rate
                if strikes and (fault.times is None or self.struck[place] < fault.times):
                    self.struck[place] += 1
                    return fault, random.Random(f"{self.seed}/{number}/{place}")  # noqa: S311 - a script, not a secret
        return NO_FAULT, chance

    def _serve_connection(self, peer: Peer) -> None:
        while True:
            peer.wait_for_request()
            fault, chance = self._draw()
            if _goes_wrong(fault, "request", peer):
                return
            head, body = peer.read_request()
            if fault.delay or fault.jitter:
                self._ending.wait(fault.delay + chance.uniform(0, fault.jitter))
            if _goes_wrong(fault, "head", peer):
                return
            if fault.garbage is not None:
                peer.send(fault.garbage)
                return
            if not self._answer(peer, fault, chance, head, body):
                return

    def _answer(self, peer: Peer, fault: Fault, chance: random.Random, head: str, body: bytes) -> bool:
        """Send the answer. Gives whether the connection can be used again."""
        try:
            made = self._said(fault, head, body)
            if not isinstance(made.body, bytes) and fault is NO_FAULT:
                return self._pass_on(peer, made, made.body)
            said = made.body if isinstance(made.body, bytes) else b"".join(made.body)
        except StreamTruncatedError:
            return False
        except RequestTimeoutError:
            peer.wait_for_close()
            return False
        except TransportError:
            peer.reset()
            return False
        content_type = made.content_type
        lines = [f"content-type: {fault.content_type or content_type}"]
        lines += [f"{name}: {value}" for name, value in (*made.headers, *fault.headers.items())]
        if fault.duplicate is not None and content_type == "text/event-stream":
            said = _doubled(said, fault.duplicate)
        pieces = [said]
        if fault.chunked:
            size = max(1, len(said) // 3)
            pieces = [said[place : place + size] for place in range(0, len(said), size)]
        if fault.gzip:
            lines.append("content-encoding: gzip")
            pieces = _zipped(pieces)
            said = b"".join(pieces)
        number = fault.status or made.status
        status = f"{number} {'OK' if number == 200 else 'Fault'}"
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
        while data:
            end = chance.randint(1, size) if fault.uneven else size
            peer.send(data[:end])
            data = data[end:]
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

    def _pass_on(self, peer: Peer, made: Answered, events: Events) -> bool:
        """Send the events of a stream as they come. Gives whether the connection can be used again."""
        with contextlib.closing(events):
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % made.content_type.encode())
            for event in events:
                peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        peer.send(b"0\r\n\r\n")
        return True

    def _said(self, fault: Fault, head: str, body: bytes) -> Answered:
        """The answer, less what the fault does to it."""
        if isinstance(fault.body, bytes):
            return Answered(200, "text/plain", fault.body)
        if fault.body is not None:
            return _as_json(fault.body)
        if fault.status is not None and fault.status != 200:
            return _as_json({"error": {"message": f"a fault that was asked for: {fault.status}", "type": "fault"}})
        reply = self.reply
        if isinstance(reply, Backend):
            check(reply)
            return answered(reply, head, body, CallOptions(cancel=self._ending))
        if head.startswith("GET "):
            return _as_json({"object": "list", "data": [{"id": "m", "object": "model"}]})
        request = msgspec.json.decode(body) if body else {}
        reply = reply(request) if callable(reply) else reply
        if isinstance(reply, ChatCompletion):
            reply = reply.to_dict()
        made = completion(reply) if isinstance(reply, str) else dict(reply)
        if isinstance(request, dict) and request.get("stream"):
            wants = request.get("stream_options") or {}
            return Answered(200, "text/event-stream", events(made, usage=wants.get("include_usage") is True))
        return _as_json(made)


def _as_json(made: Mapping[str, Any]) -> Answered:
    return Answered(200, "application/json", msgspec.json.encode(made))


def _doubled(said: bytes, number: int) -> bytes:
    """A stream with the event of this number twice; as it is, if it has not so many."""
    parts = said.split(b"\n\n")
    return b"\n\n".join([*parts[: number + 1], *parts[number:]]) if number < len(parts) - 1 else said


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
