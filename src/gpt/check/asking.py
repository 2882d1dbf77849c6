"""The way to the server: a request goes out as it is, and what comes is kept as it came. No retries, no redirects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpt.check.exchange import Answer, Ask
from gpt.check.judge import excerpt, plain
from gpt.errors import TransportError
from gpt.protocol.wire import HttpRequest, Seconds, Timeout

if TYPE_CHECKING:
    from gpt.protocol.wire import AsyncHttpStream, AsyncTransport
    from gpt.remote.backend import Endpoint

MOST = 32 * 1024 * 1024
"""Bytes of an answer. None that is asked for here has a thousandth of it."""

SHOWN = 500
"""Characters of a body in the evidence."""

WRONG_KEY = "no-key-of-this-server"

_CARRY = ("authorization", "api-key")


class Server:
    """The server that is checked. `timeout` is for each exchange, in seconds; `clock` gives seconds.

    `exchanges` are those since it was last emptied, `completions` and `chunked` the whole and streamed answers of all.
    """

    def __init__(self, endpoint: Endpoint, transport: AsyncTransport, timeout: Seconds, clock: Callable[[], Seconds]) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self.timeout = timeout
        self.clock = clock
        self.exchanges: list[tuple[Ask, Answer]] = []
        self.completions: list[Answer] = []
        self.chunked: list[Answer] = []
        self._secrets = [
            secret for name, value in endpoint.headers if name in _CARRY and len(secret := value.removeprefix("Bearer ")) >= 4
        ]

    def __repr__(self) -> str:
        return f"Server({self._endpoint!r})"

    @property
    def keyed(self) -> bool:
        """Whether requests carry a key."""
        return any(name in _CARRY for name, _ in self._endpoint.headers)

    def request(self, ask: Ask) -> HttpRequest:
        """The request as it goes out."""
        endpoint = self._endpoint
        headers = [(name, value) for name, value in endpoint.headers if name not in (*_CARRY, "content-type")]
        if ask.key == "own":
            headers += [(name, value) for name, value in endpoint.headers if name in _CARRY]
        elif ask.key == "wrong":
            headers += [
                (name, f"Bearer {WRONG_KEY}" if name == "authorization" else WRONG_KEY)
                for name, _ in endpoint.headers
                if name in _CARRY
            ]
        if ask.body:
            headers.append(("content-type", ask.content_type))
        path = endpoint.path.removesuffix("/v1") if ask.at_root else endpoint.path
        target = f"{path}{ask.path}"
        if endpoint.query:
            target = f"{target}?{endpoint.query}"
        limits = Timeout(connect=min(5.0, self.timeout), write=self.timeout, first_byte=self.timeout, idle=self.timeout)
        return HttpRequest(ask.method, endpoint.origin, target, tuple(headers), ask.body, limits, self.timeout)

    async def open(self, ask: Ask) -> AsyncHttpStream:
        """The answer, when its head has come. Raises TransportError."""
        return await self._transport.open(self.request(ask))

    async def ask(self, ask: Ask, *, quietly: bool = False) -> Answer:
        """The whole answer, or what there is of it. Raises nothing of the network. `quietly` keeps no record."""
        status, headers, pieces, failure = 0, {}, [], ""
        try:
            stream = await self.open(ask)
            try:
                status, headers = stream.status, dict(stream.headers)
                size = 0
                while piece := await stream.read():
                    stream.news()
                    pieces.append(piece)
                    size += len(piece)
                    if size > MOST:
                        failure = f"the answer has more than {MOST} bytes"
                        break
                    if ask.leave and b"\n\n" in piece.replace(b"\r", b"") and status == 200:
                        break
            finally:
                await stream.close()
        except TransportError as error:
            failure = str(error)
        answer = Answer(status, headers, b"".join(pieces), failure)
        if not quietly:
            self.keep(ask, answer)
        return answer

    def keep(self, ask: Ask, answer: Answer) -> None:
        """Keep an exchange as evidence."""
        self.exchanges.append((ask, answer))
        if ask.method == "POST" and answer.status == 200 and not answer.failure and not ask.leave:
            if answer.is_completion:
                self.completions.append(answer)
            elif "event-stream" in answer.headers.get("content-type", ""):
                self.chunked.append(answer)

    def evidence(self) -> tuple[dict[str, Any], ...]:
        """The exchanges in excerpt, without keys; they are then forgotten."""
        made = tuple(self._shown(ask, answer) for ask, answer in self.exchanges)
        self.exchanges.clear()
        return made

    def _shown(self, ask: Ask, answer: Answer) -> dict[str, Any]:
        shown: dict[str, Any] = {"method": ask.method, "path": ask.path}
        if ask.body:
            shown["sent"] = plain(ask.body[: 4 * SHOWN].decode("utf-8", "replace"), SHOWN)
        if ask.key != "own":
            shown["key"] = ask.key
        shown["status"] = answer.status or None
        shown["content_type"] = answer.headers.get("content-type")
        if answer.ignored:
            shown["x_ignored_params"] = list(answer.ignored)
        if "retry-after" in answer.headers:
            shown["retry_after"] = answer.headers["retry-after"]
        shown["answer"] = excerpt(answer, SHOWN)
        if answer.failure:
            shown["failure"] = plain(answer.failure, SHOWN)
        return {name: self.hide(value) if isinstance(value, str) else value for name, value in shown.items()}

    def hide(self, text: str) -> str:
        """`text` without the key: servers say back what they were sent."""
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return text
