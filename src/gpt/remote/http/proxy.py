"""Proxies: which one a server is reached through, and what is said to it. Pure but for reading the environment.

`HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` name it, `NO_PROXY` the servers that need none, in small letters or capitals, as
curl and the rest of the world read them. Servers on this machine are always reached directly, as in Go's net/http: a proxy
could not find them. An http server is asked for through the proxy by its whole URL; to an https server the proxy opens a
tunnel (CONNECT; RFC 9110, section 9.3.6) and sees nothing of what goes through.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

from gpt.errors import ConnectError, InvalidRequestError
from gpt.protocol.wire import Origin

MAX_ANSWER = 64 * 1024
"""Bytes of a proxy's answer to CONNECT."""


class Proxy(NamedTuple):
    """A proxy, and what lets us in. The latter shows nowhere."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_for(origin: Origin, named: str | None) -> Proxy | None:
    """The proxy on the way to `origin`; None where there is none.

    `named` is the caller's choice, "" for none at all, None for the environment's. Raises InvalidRequestError for one that
    cannot be spoken to.
    """
    if named is not None:
        return parse_proxy(named) if named else None
    url = _environment(origin.scheme)
    if not url or is_here(origin.host) or is_excepted(origin, _variable("no_proxy")):
        return None
    return parse_proxy(url)


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _environment(scheme: str) -> str:
    if scheme == "http" and "REQUEST_METHOD" in os.environ:
        # In a CGI program HTTP_PROXY is the client's header "Proxy" (CVE-2016-5385).
        return os.environ.get("http_proxy", "") or _variable("all_proxy")
    return _variable(f"{scheme}_proxy") or _variable("all_proxy")


@lru_cache
def parse_proxy(url: str) -> Proxy:
    """The proxy that a URL names; http:// may be left out. Raises InvalidRequestError, which shows no password."""
    from urllib.parse import unquote, urlsplit

    scheme, found, rest = url.strip().partition("://")
    if not found:
        scheme, rest = "http", url.strip()
    shown = f"{scheme}://{rest.rpartition('@')[2]}"
    if scheme.lower() != "http":
        raise InvalidRequestError(
            f"proxy: {shown!r} is none that is spoken to here: it must begin with http://; for SOCKS or https proxies pass a "
            "client of httpx that has it: client=httpx.Client(proxy=...)",
            param="proxy",
        )
    try:
        parts = urlsplit(f"http://{rest}")
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise InvalidRequestError(f"proxy: {shown!r} is no address: {error}", param="proxy") from None
    if not host:
        raise InvalidRequestError(f"proxy: {shown!r} names no host", param="proxy")
    authorization = ""
    if parts.username is not None:
        from base64 import b64encode

        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(login.encode()).decode()}"
    return Proxy(host, port, authorization)


def is_address(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    return ":" in host or host.replace(".", "").isdigit()


def is_here(host: str) -> bool:
    """Whether a host is this machine."""
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or (host.startswith("127.") and is_address(host))


def is_excepted(origin: Origin, excepted: str) -> bool:
    """Whether NO_PROXY names a server: itself or a domain that it is in, an address, a network ("10.0.0.0/8"), or "*".

    An entry may end in a port, which then must be the server's.
    """
    for entry in excepted.replace(" ", ",").split(","):
        entry = entry.strip().lower()
        if entry == "*":
            return True
        if entry.count(":") == 1 or entry.startswith("["):
            entry, _, port = entry.rpartition(":")
            if port.isdigit() and int(port) != origin.port:
                continue
            if not port.isdigit():
                entry = f"{entry}:{port}"
            entry = entry.strip("[]")
        entry = entry.removeprefix("*").removeprefix(".")
        if entry and (origin.host == entry or origin.host.endswith(f".{entry}") or _is_in_network(origin.host, entry)):
            return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    if "/" not in network or not is_address(host):
        return False
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------------------------
# The tunnel
# --------------------------------------------------------------------------------------------------------------------


def tunnel_request(origin: Origin, proxy: Proxy) -> bytes:
    """What asks a proxy for a tunnel."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    login = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    return f"CONNECT {host}:{origin.port} HTTP/1.1\r\nhost: {host}:{origin.port}\r\n{login}\r\n".encode("latin-1")


def tunnel_is_open(answer: bytes, origin: Origin, proxy: Proxy) -> bool:
    """Whether what the proxy said so far opens the tunnel; False while it has not said enough. Raises ConnectError."""
    head, found, more = answer.partition(b"\r\n\r\n")
    if not found:
        if len(answer) > MAX_ANSWER:
            raise _refused(origin, proxy, "it talks without end", permanent=True)
        return False
    line = head.split(b"\r\n", 1)[0].decode("latin-1")
    version, _, said = line.partition(" ")
    if not version.startswith("HTTP/1.") or not said[:3].isdigit():
        raise _refused(origin, proxy, f"it answered {line[:60]!r}; is it an HTTP proxy?", permanent=True)
    status = int(said[:3])
    if status == 407:
        hint = "is this user's password right?" if proxy.authorization else "name a user: http://user:password@host:port"
        raise _refused(origin, proxy, f"{said.strip()}; {hint}", permanent=True)
    if not 200 <= status < 300:
        raise _refused(origin, proxy, said.strip(), permanent=status < 500)
    if more:
        raise _refused(origin, proxy, "it sent more than its answer", permanent=True)
    return True


def tunnel_ended(origin: Origin, proxy: Proxy) -> ConnectError:
    """The error of a proxy that closes the connection instead of answering."""
    return _refused(origin, proxy, "it closed the connection without an answer", permanent=False)


def _refused(origin: Origin, proxy: Proxy, why: str, *, permanent: bool) -> ConnectError:
    error = ConnectError(f"the proxy {proxy} opened no way to {origin.host}:{origin.port}: {why}", phase="proxy")
    error.permanent = permanent
    return error
