"""The way to a server: names, addresses and TLS.

Several addresses of one name are tried one after the other, each begun a quarter of a second after the last without waiting
for it to fail, address families in turn ("Happy Eyeballs", RFC 8305, sections 4 and 5). One TLS context is shared by all
clients that change nothing about it: making one reads the system's store and takes longer than a call.
"""

from __future__ import annotations

import socket
import threading
import time
from functools import cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from gpt.errors import ConnectError, InvalidRequestError, RequestTimeoutError, TLSError, TransportError
from gpt.protocol.wire import Origin, Seconds
from gpt.remote.http.proxy import Proxy, is_address, parse_proxy, tunnel_ended, tunnel_is_open, tunnel_request

if TYPE_CHECKING:
    import asyncio
    import ssl

HEAD_START: Seconds = 0.25
"""How long an address is tried alone. RFC 8305, section 5, recommends 250 milliseconds."""

Certificate: TypeAlias = str | tuple[str, str] | tuple[str, str, str]
"""A client certificate: one PEM file with certificate and key; or both files, and the key's password."""


class Network(msgspec.Struct, frozen=True):
    """How a client reaches its server.

    `verify`: True trusts the system's store, a path a CA bundle (a file or a directory) and nothing else, an `ssl.SSLContext`
    itself; False trusts everyone. `cert` is the client's own certificate. `proxy` is the URL of a proxy
    ("http://user:password@host:port"), "" for none, None for the one that the environment names (HTTPS_PROXY, HTTP_PROXY,
    ALL_PROXY, less NO_PROXY).

    At most `max_connections` are open at a time, for each event loop where there are several; further calls wait for one. At
    most `max_idle` to one server are kept when they are not in use, each for `idle_seconds`.
    """

    verify: Any = True
    cert: Certificate | None = None
    proxy: str | None = None
    max_connections: int = 1000
    max_idle: int = 1000
    idle_seconds: Seconds = 60.0

    def __post_init__(self) -> None:
        if self.max_connections < 1:
            raise InvalidRequestError(
                f"max_connections: expected at least 1, got {self.max_connections}", param="max_connections"
            )
        if self.proxy:
            parse_proxy(self.proxy)

    def __repr__(self) -> str:
        return f"Network(verify={self.verify!r}, max_connections={self.max_connections})"

    def tls(self) -> ssl.SSLContext:
        """The TLS context. Raises InvalidRequestError when a file of it cannot be used."""
        return _context(self.verify, self.cert)


@cache
def _context(verify: Any, cert: Certificate | None) -> ssl.SSLContext:
    import ssl

    if isinstance(verify, ssl.SSLContext):
        return verify
    try:
        if isinstance(verify, str):
            import os

            folder = os.path.isdir(verify)
            context = ssl.create_default_context(cafile=None if folder else verify, capath=verify if folder else None)
        else:
            context = ssl.create_default_context()
            if verify is False:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif not context.cert_store_stats()["x509_ca"] and not _capath_holds_any():
                _trust_certifi(context)
        if cert is not None:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except (OSError, ValueError) as error:
        what = (
            f"verify={verify!r}" if cert is None else f"verify={verify!r}, cert={cert if isinstance(cert, str) else cert[0]!r}"
        )
        raise InvalidRequestError(f"{what}: cannot be used for TLS: {error}", param="verify") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _capath_holds_any() -> bool:
    """Whether the system's directory of certificates has any: OpenSSL loads those one by one, when it meets them."""
    import os
    import ssl

    path = ssl.get_default_verify_paths().capath
    return bool(path and os.path.isdir(path) and any(name.endswith(".0") for name in os.listdir(path)))


def _trust_certifi(context: ssl.SSLContext) -> None:
    """Trust certifi's bundle, where it is installed. A slim container has no store of its own."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def in_turn(addresses: list[Any]) -> list[Any]:
    """Addresses with their families in turn, the first one's first. Source: RFC 8305, section 4."""
    families: dict[int, list[Any]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [address for address in chain(*zip_longest(*families.values())) if address is not None]


# --------------------------------------------------------------------------------------------------------------------
# Errors in words
# --------------------------------------------------------------------------------------------------------------------


def place_of(origin: Origin, proxy: Proxy | None) -> str:
    """A server as errors name it."""
    return f"{origin.host}:{origin.port}" + ("" if proxy is None else f" (through the proxy {proxy})")


def connect_error(error: Exception, origin: Origin, seconds: Seconds | None, proxy: Proxy | None = None) -> TransportError:
    """What went wrong on the way to `origin`, as our error."""
    if isinstance(error, TransportError):
        return error
    where = place_of(origin, proxy)
    if isinstance(error, TimeoutError):
        return timeout_error("connect", where, seconds)
    if tls := tls_error(error, where):
        return tls
    phase, host, first = "connect", origin.host, where
    hint = "is the server running, and is this its port?"
    if proxy is not None:
        phase, host, first = "proxy", proxy.host, f"the proxy {proxy}"
        hint = "is this the proxy to take? HTTPS_PROXY, HTTP_PROXY and ALL_PROXY name it, or network=Network(proxy=...)"
    if isinstance(error, socket.gaierror):
        return ConnectError(
            f"no address for {host!r}: {error.strerror or error}; is the name right, and is there a network?", phase="resolve"
        )
    if isinstance(error, ConnectionRefusedError):
        return ConnectError(f"could not connect to {first}: connection refused; {hint}", phase=phase)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ConnectError(f"could not connect to {first}: {reason[:1].lower()}{reason[1:]}", phase=phase)


def tls_error(error: Exception, where: str) -> TLSError | None:
    """The error as a TLSError, if TLS is what failed."""
    import sys

    ssl = sys.modules.get("ssl")
    if ssl is None or not isinstance(error, (ssl.SSLError, ssl.CertificateError)):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return TLSError(
            f"the certificate of {where} is not trusted: {error.verify_message or error}; if the server is yours, pass its CA: "
            "network=Network(verify='ca.pem')",
            phase="tls",
        )
    hint = "; does the server speak TLS on this port? http:// may be meant" if "WRONG_VERSION" in str(error) else ""
    return TLSError(f"TLS with {where} failed: {error.reason or error}{hint}", phase="tls")


def shorter(first: Seconds | None, second: Seconds | None) -> Seconds | None:
    """The shorter of two limits, where None is none."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def timeout_error(phase: str, where: str, seconds: Seconds | None) -> RequestTimeoutError:
    """The error of the clock that ran out in `phase`."""
    what = {
        "connect": "no connection to {where} within {seconds:g} s; is the address right and reachable?",
        "write": "{where} did not take the request within {seconds:g} s; is it overloaded?",
        "first_byte": "no answer from {where} within {seconds:g} s; a long answer may need stream or a larger timeout=",
        "first_token": "{where} began to answer but sent no content within {seconds:g} s; allow a larger timeout=",
        "deadline": "the {seconds:g} s for the whole call with {where} are over; allow a larger deadline=",
        "read": "{where} sent nothing more of its answer for {seconds:g} s; try again, or allow a larger timeout=",
        "pool": "no connection to {where} became free within {seconds:g} s: all are in use; close streams that are not read to "
        "their end, or allow more: network=Network(max_connections=...)",
    }[phase]
    sent = phase not in ("connect", "pool")
    return RequestTimeoutError(what.format(where=where, seconds=seconds or 0.0), phase=phase, sent=sent)


def broken_error(error: OSError, phase: str, where: str) -> TransportError:
    """The error of a connection that broke in `phase`, after the request began to go out."""
    reason = error.strerror or str(error) or type(error).__name__
    made = tls_error(error, where) or ConnectError(
        f"the connection to {where} broke: {reason[:1].lower()}{reason[1:]}", phase=phase, sent=True
    )
    made.sent = True
    return made


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


def connect(origin: Origin, network: Network, seconds: Seconds | None, proxy: Proxy | None = None) -> socket.socket:
    """A connected socket that never blocks, through TLS where the origin asks for it. Raises TransportError."""
    context = network.tls() if origin.scheme == "https" else None
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        addresses = _resolve(*_first_stop(origin, proxy), deadline)
        sock = _race(addresses, deadline) if len(addresses) > 1 else _dial(addresses[0], deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                if proxy is not None:
                    _tunnel(sock, origin, proxy, deadline)
                sock.settimeout(_left(deadline))
                sock = context.wrap_socket(sock, server_hostname=origin.host)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise connect_error(error, origin, seconds, proxy) from error
    return sock


def _first_stop(origin: Origin, proxy: Proxy | None) -> tuple[str, int]:
    return (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)


def _tunnel(sock: socket.socket, origin: Origin, proxy: Proxy, deadline: float | None) -> None:
    """Have the proxy open a tunnel to the server."""
    sock.settimeout(_left(deadline))
    sock.sendall(tunnel_request(origin, proxy))
    answer = b""
    while not tunnel_is_open(answer, origin, proxy):
        sock.settimeout(_left(deadline))
        data = sock.recv(4096)
        if not data:
            raise tunnel_ended(origin, proxy)
        answer += data


def _resolve(host: str, port: int, deadline: float | None) -> list[Any]:
    """The server's addresses, best first. The system's resolver cannot be stopped, so it is left behind when time is up."""
    if deadline is None or is_address(host):
        return in_turn(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except BaseException as error:  # noqa: BLE001 - raised below: also what a test that refuses the network raises
            found.append(error)

    thread = threading.Thread(target=look_up, daemon=True, name="gpt-resolve")
    thread.start()
    thread.join(_left(deadline))
    if not found:
        raise TimeoutError
    if isinstance(found[0], BaseException):
        raise found[0]
    return in_turn(found[0])


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _dial(address: Any, deadline: float | None) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(_left(deadline))
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _race(addresses: list[Any], deadline: float | None) -> socket.socket:
    """The first socket that connects; the others are closed. Raises the first address's error when none does."""
    import selectors

    first: OSError | None = None
    waiting = iter(addresses)
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                address = next(waiting, None)
                if address is not None:
                    sock = socket.socket(address[0], address[1], address[2])
                    sock.setblocking(False)
                    code = sock.connect_ex(address[4])
                    selector.register(sock, selectors.EVENT_WRITE)
                    if code not in (0, 115, 36, 10035):  # EINPROGRESS of Linux and macOS, WSAEWOULDBLOCK
                        selector.unregister(sock)
                        sock.close()
                        first = first or OSError(code, _strerror(code))
                        continue
                if not selector.get_map():
                    if address is None:
                        raise first or OSError("no address could be tried")
                    continue
                left = _left(deadline)
                wait = left if address is None else HEAD_START if left is None else min(HEAD_START, left)
                for key, _ in selector.select(wait):
                    sock = key.fileobj  # type: ignore[assignment]
                    selector.unregister(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return sock
                    sock.close()
                    first = first or _refused(code)
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]


def _strerror(code: int) -> str:
    import os

    return os.strerror(code)


def _refused(code: int) -> OSError:
    return OSError(code, _strerror(code))  # Python makes the subclass that belongs to the code


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


async def aconnect(
    protocol: asyncio.BufferedProtocol, origin: Origin, network: Network, seconds: Seconds | None, proxy: Proxy | None = None
) -> asyncio.Transport:
    """The transport of a new connection that `protocol` reads. Raises TransportError."""
    import asyncio

    options: dict[str, Any] = {}
    if origin.scheme == "https":
        # The clock above covers the handshake; asyncio's own would otherwise end it after a minute.
        options = {"ssl": network.tls(), "server_hostname": origin.host, "ssl_handshake_timeout": seconds or 86400.0}
    try:
        async with asyncio.timeout(seconds):
            loop = asyncio.get_running_loop()
            host, port = _first_stop(origin, proxy)
            addresses = in_turn(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            # asyncio's own race of addresses loses a socket when it is cancelled at the wrong moment, so the race is ours.
            sock = await (_arace(addresses) if len(addresses) > 1 else _adial(addresses[0]))
            if options and proxy is not None:
                await _atunnel(sock, origin, proxy)
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise connect_error(error, origin, seconds, proxy) from error
    return transport


async def _atunnel(sock: socket.socket, origin: Origin, proxy: Proxy) -> None:
    """Have the proxy open a tunnel to the server; else close the socket."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(sock, tunnel_request(origin, proxy))
        answer = b""
        while not tunnel_is_open(answer, origin, proxy):
            data = await loop.sock_recv(sock, 4096)
            if not data:
                raise tunnel_ended(origin, proxy)
            answer += data
    except BaseException:
        sock.close()
        raise


async def _adial(address: Any) -> socket.socket:
    import asyncio

    sock = socket.socket(*address[:3])
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address[4])
    except BaseException:
        sock.close()
        raise
    return sock


async def _arace(addresses: list[Any]) -> socket.socket:
    """The first socket that connects; the others are closed. Raises the first address's error when none does."""
    import asyncio

    first: BaseException | None = None
    waiting = iter(addresses)
    dialled: list[asyncio.Task[socket.socket]] = []
    try:
        while True:
            address = next(waiting, None)
            if address is not None:
                dialled.append(asyncio.create_task(_adial(address)))
            elif not dialled:
                raise first or OSError("no address could be tried")
            wait = None if address is None else HEAD_START
            done, _ = await asyncio.wait(dialled, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    dialled.remove(task)
                    return task.result()
                dialled.remove(task)
                first = first or task.exception()
    finally:
        for task in dialled:
            task.cancel()
            task.add_done_callback(_close_late)


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of one that connected all the same."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
