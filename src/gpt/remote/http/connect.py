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
    itself; False trusts everyone. `cert` is the client's own certificate. At most `max_idle` connections to one server are
    kept when they are not in use, each for `idle_seconds`.
    """

    verify: Any = True
    cert: Certificate | None = None
    max_idle: int = 1000
    idle_seconds: Seconds = 60.0

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


def connect_error(error: Exception, origin: Origin, seconds: Seconds | None) -> TransportError:
    """What went wrong on the way to `origin`, as our error."""
    where = f"{origin.host}:{origin.port}"
    if isinstance(error, TransportError):
        return error
    if isinstance(error, TimeoutError):
        return timeout_error("connect", where, seconds)
    if isinstance(error, socket.gaierror):
        return ConnectError(
            f"no address for {origin.host!r}: {error.strerror or error}; is the name right, and is there a network?",
            phase="resolve",
        )
    if tls := tls_error(error, where):
        return tls
    if isinstance(error, ConnectionRefusedError):
        return ConnectError(
            f"could not connect to {where}: connection refused; is the server running, and is this its port?", phase="connect"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ConnectError(f"could not connect to {where}: {reason[:1].lower()}{reason[1:]}", phase="connect")


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
        "deadline": "the {seconds:g} s for the whole call with {where} are over; allow a larger deadline=",
        "read": "{where} fell silent for {seconds:g} s in the middle of its answer",
    }[phase]
    return RequestTimeoutError(what.format(where=where, seconds=seconds or 0.0), phase=phase, sent=phase != "connect")


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


def connect(origin: Origin, network: Network, seconds: Seconds | None) -> socket.socket:
    """A connected socket, through TLS where the origin asks for it. Raises TransportError."""
    context = network.tls() if origin.scheme == "https" else None
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        addresses = _resolve(origin, deadline)
        sock = _race(addresses, deadline) if len(addresses) > 1 else _dial(addresses[0], deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock.settimeout(_left(deadline))
                sock = context.wrap_socket(sock, server_hostname=origin.host)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise connect_error(error, origin, seconds) from error
    return sock


def _resolve(origin: Origin, deadline: float | None) -> list[Any]:
    """The server's addresses, best first. The system's resolver cannot be stopped, so it is left behind when time is up."""
    if deadline is None or origin.host.replace(".", "").isdigit() or ":" in origin.host:
        return in_turn(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=look_up, daemon=True, name="gpt-resolve")
    thread.start()
    thread.join(_left(deadline))
    if not found:
        raise TimeoutError
    if isinstance(found[0], Exception):
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


async def aconnect(protocol: asyncio.Protocol, origin: Origin, network: Network, seconds: Seconds | None) -> asyncio.Transport:
    """The transport of a new connection that `protocol` reads. Raises TransportError."""
    import asyncio

    options: dict[str, Any] = {}
    if origin.scheme == "https":
        # The clock above covers the handshake; asyncio's own would otherwise end it after a minute.
        options = {"ssl": network.tls(), "server_hostname": origin.host, "ssl_handshake_timeout": seconds or 86400.0}
    try:
        async with asyncio.timeout(seconds):
            loop = asyncio.get_running_loop()
            addresses = in_turn(await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))
            # asyncio's own race of addresses loses a socket when it is cancelled at the wrong moment, so the race is ours.
            sock = await (_arace(addresses) if len(addresses) > 1 else _adial(addresses[0]))
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise connect_error(error, origin, seconds) from error
    return transport


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
