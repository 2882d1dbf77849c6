"""The network refused: within a test only this machine is reached.

It is refused where Python opens it, in `socket`: so the official client, httpx, requests, asyncio and our own client are all
refused. Code that brings sockets of its own (uvloop, gRPC, libcurl) and other processes are not. What is allowed: loopback
addresses, the unspecified ones (which servers listen at), "localhost" and the names under it (RFC 6761, section 6.3), the
machine's own name (which the standard library's servers look up), and sockets that are not of the internet, as unix sockets.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


def is_here(host: Any) -> bool:
    """Whether a host, a name or an address, is this machine. None and "" stand for it."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if not host:
        return True
    name = str(host).rstrip(".").lower()
    if name in ("localhost", socket.gethostname().lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any(one.is_loopback or one.is_unspecified for one in (address, *([mapped] if mapped else [])))


class Refusal:
    """What refuses. `refuse` is called with each host that is refused, and raises; `seen` holds them, "host:port" or "host"."""

    def __init__(self, refuse: Callable[[str], NoReturn]) -> None:
        self.seen: list[str] = []
        self._refuse = refuse
        self._lock = threading.Lock()

    def check(self, host: Any, port: Any = None) -> None:
        """Pass if the host is this machine."""
        if is_here(host):
            return
        text = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
        where = text if port is None else f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
        with self._lock:
            self.seen.append(where)
        self._refuse(where)

    def address(self, sock: socket.socket, address: Any) -> None:
        """Pass if what this socket is to reach is here."""
        if sock.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and address:
            self.check(*address[:2])

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Refuse within the block, in all threads."""
        patched: list[tuple[Any, str, Any]] = []
        own = vars(socket.socket)
        for owner, name, made in (
            *((socket.socket, name, self._method) for name in ("connect", "connect_ex", "sendto", "sendmsg")),
            *((socket, name, self._lookup) for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")),
        ):
            # What the class only inherits is not put back but taken away again.
            patched.append((owner, name, getattr(owner, name) if owner is socket or name in own else None))
            setattr(owner, name, made(name, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, before in reversed(patched):
                delattr(owner, name) if before is None else setattr(owner, name, before)

    def _method(self, name: str, real: Any) -> Any:
        def guarded(sock: socket.socket, *given: Any) -> Any:
            # Of a datagram the address comes last, where there is one.
            place = {"sendto": 1, "sendmsg": 3}.get(name, 0)
            if len(given) > place:
                self.address(sock, given[-1])
            return real(sock, *given)

        guarded.__name__ = name
        return guarded

    def _lookup(self, name: str, real: Any) -> Any:
        def guarded(host: Any, *more: Any, **named: Any) -> Any:
            self.check(host, (more[0] if more else named.get("port")) if name == "getaddrinfo" else None)
            return real(host, *more, **named)

        guarded.__name__ = name
        return guarded
