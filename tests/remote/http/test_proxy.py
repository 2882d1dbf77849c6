"""Proxies: which one, what is said to it, and real ones on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme

from gpt.errors import ConnectError, InvalidRequestError
from gpt.protocol.wire import Origin
from gpt.remote.http.aio import AsyncHttpTransport
from gpt.remote.http.connect import Network
from gpt.remote.http.proxy import MAX_ANSWER, Proxy, parse_proxy, proxy_for, tunnel_is_open
from gpt.testing.loopback import Gone, Loopback, Peer, always, answer, closed_port, serving

from transports import Blocking, OnAsyncio, request

Way = Blocking | OnAsyncio
Make = Callable[..., Way]
HTTPS = Origin("https", "api.test", 443)


# --------------------------------------------------------------------------------------------------------------------
# Which one
# --------------------------------------------------------------------------------------------------------------------

CHOICES: list[tuple[dict[str, str], str, str | None]] = [
    ({}, "https://api.test:443", None),
    ({"HTTPS_PROXY": "http://p:1"}, "https://api.test:443", "p:1"),
    ({"https_proxy": "http://p:1"}, "https://api.test:443", "p:1"),
    ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "https://api.test:443", "p:1"),
    ({"HTTPS_PROXY": "http://p:1"}, "http://api.test:80", None),
    ({"HTTP_PROXY": "http://p:1"}, "http://api.test:80", "p:1"),
    ({"ALL_PROXY": "http://p:1"}, "http://api.test:80", "p:1"),
    ({"ALL_PROXY": "p:1"}, "https://api.test:443", "p:1"),
    ({"ALL_PROXY": "http://p"}, "https://api.test:443", "p:80"),
    ({"ALL_PROXY": "http://[::1]:3128"}, "https://api.test:443", "[::1]:3128"),
    ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://api.test:80", None),
    ({"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"}, "http://api.test:80", "p:1"),
    ({"ALL_PROXY": "http://p:1"}, "http://localhost:80", None),
    ({"ALL_PROXY": "http://p:1"}, "http://127.0.0.9:80", None),
    ({"ALL_PROXY": "http://p:1"}, "http://::1:80", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "api.test"}, "https://api.test:443", None),
    ({"ALL_PROXY": "http://p:1", "no_proxy": "other.test, .test"}, "https://api.test:443", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*.test"}, "https://api.test:443", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://api.test:443", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "pi.test"}, "https://api.test:443", "p:1"),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "api.test:443"}, "https://api.test:443", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "api.test:80"}, "https://api.test:443", "p:1"),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:80", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3:80", "p:1"),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/nonsense,,"}, "http://10.1.2.3:80", "p:1"),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "[fd00::1]:80"}, "http://fd00::1:80", None),
    ({"ALL_PROXY": "http://p:1", "NO_PROXY": "fd00::1"}, "http://fd00::1:80", None),
]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(("environment", "server", "expected"), CHOICES)
def test_choice(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], server: str, expected: str | None) -> None:
    """The environment's proxy, less what NO_PROXY excepts and what is on this machine."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    scheme, _, rest = server.partition("://")
    host, _, port = rest.rpartition(":")
    found = proxy_for(Origin(scheme, host, int(port)), None)
    assert expected == (None if found is None else str(found))


def test_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the caller names holds for every server; "" is none."""
    monkeypatch.setenv("HTTPS_PROXY", "http://env:1")
    assert "own:2" == str(proxy_for(HTTPS, "http://own:2"))
    assert "own:2" == str(proxy_for(Origin("http", "127.0.0.1", 80), "http://own:2"))
    assert proxy_for(HTTPS, "") is None


def test_login_shows_nowhere() -> None:
    """A password is sent, percent-decoded, and shows in no repr."""
    proxy = parse_proxy("http://us%65r:p%40ss@p:1")
    assert "Basic " + base64.b64encode(b"user:p@ss").decode() == proxy.authorization
    assert "Proxy('p:1')" == repr(proxy)
    assert "p%40ss" not in repr(Network(proxy="http://us%65r:p%40ss@p:1"))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("socks5://u:secret@p:1", "must begin with http://; for SOCKS"),
        ("https://u:secret@p:1", "'https://p:1' is none"),
        ("http://u:secret@p:port", "is no address"),
        ("http://u:secret@", "names no host"),
    ],
)
def test_refused(url: str, text: str) -> None:
    """A proxy that cannot be spoken to is refused when the client is made, without its password."""
    with pytest.raises(InvalidRequestError, match=text) as caught:
        Network(proxy=url)
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------------
# What it answers
# --------------------------------------------------------------------------------------------------------------------

ANSWERS: list[tuple[bytes, str, bool]] = [
    (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 .*name a user: http://user:password@host:port", True),
    (b"HTTP/1.1 403 Forbidden\r\n\r\n", "opened no way to api.test:443: 403 Forbidden", True),
    (b"HTTP/1.1 502 Bad Gateway\r\nx: y\r\n\r\n", "502 Bad Gateway", False),
    (b"SSH-2.0\r\n\r\n", "is it an HTTP proxy", True),
    (b"HTTP/1.1 abc\r\n\r\n", "is it an HTTP proxy", True),
    (b"HTTP/1.1 200 OK\r\n\r\nmore", "sent more than its answer", True),
    (b"x" * (MAX_ANSWER + 1), "talks without end", True),
]


@pytest.mark.parametrize(("data", "text", "permanent"), ANSWERS)
def test_tunnel_refused(data: bytes, text: str, permanent: bool) -> None:
    """A proxy's refusal says which proxy, which server, and why; only what may pass is worth another try."""
    with pytest.raises(ConnectError, match=text) as caught:
        tunnel_is_open(data, HTTPS, Proxy("p", 1))
    assert "the proxy p:1" in str(caught.value)
    assert (permanent, "proxy", False) == (caught.value.permanent, caught.value.phase, caught.value.sent)


def test_tunnel_answer_in_pieces() -> None:
    """However the answer is cut, the tunnel opens when it is whole."""
    whole = b"HTTP/1.0 200 Connection established\r\nvia: p\r\n\r\n"
    for length in range(len(whole)):
        assert not tunnel_is_open(whole[:length], HTTPS, Proxy("p", 1))
    assert tunnel_is_open(whole, HTTPS, Proxy("p", 1))


def test_wrong_password_hint() -> None:
    """When a user was named, the refusal asks about the password."""
    with pytest.raises(ConnectError, match="is this user's password right"):
        tunnel_is_open(b"HTTP/1.1 407 No\r\n\r\n", HTTPS, Proxy("p", 1, "Basic x"))


# --------------------------------------------------------------------------------------------------------------------
# Real ones
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def proxying(port: int, *, login: str = "") -> Iterator[Loopback]:
    """A proxy whose every way leads to a port on this machine."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def play(peer: Peer) -> None:
        head, body = peer.read_request()
        if login and f"proxy-authorization: {login}" not in head:
            peer.send(answer(b"", "407 Proxy Authentication Required", "proxy-authenticate: Basic"))
            return
        with socket.create_connection(("127.0.0.1", port)) as onward:
            if head.startswith("CONNECT "):
                peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                onward.sendall(f"{head}\r\n\r\n".encode() + body)
            back = threading.Thread(target=pump, args=(onward, peer.socket), daemon=True)
            back.start()
            pump(peer.socket, onward)
            back.join(10)
            if not head.startswith("CONNECT "):
                raise Gone

    with Loopback(play) as proxy:
        yield proxy


def test_http(make: Make) -> None:
    """An http server is asked for through the proxy by its whole URL, on a connection that is kept."""
    with serving(answer(b"a")) as server, proxying(server.port) as proxy:
        way = make(Network(proxy=f"http://127.0.0.1:{proxy.port}"))
        for _ in range(2):
            assert b"a" == way.send(request(80, host="model.test")).body
        assert 1 == proxy.connections
        assert proxy.requests[0][0].startswith("POST http://model.test/v1/x HTTP/1.1\r\nhost: model.test\r\n")


def test_http_login(make: Make) -> None:
    """The proxy gets its login with each request, and a refusal is an answer like any other."""
    login = "Basic " + base64.b64encode(b"u:p").decode()
    with serving(answer(b"a")) as server, proxying(server.port, login=login) as proxy:
        assert b"a" == make(Network(proxy=f"http://u:p@127.0.0.1:{proxy.port}")).send(request(80, host="model.test")).body
        assert 407 == make(Network(proxy=f"http://127.0.0.1:{proxy.port}")).send(request(80, host="model.test")).status


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_connect(make: Make, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https server is reached through a tunnel: its own certificate counts, and the proxy sees no header of ours."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("model.test").configure_cert(own)
    login = "Basic " + base64.b64encode(b"u:p").decode()
    with Loopback(always(answer(b"a")), own) as server, proxying(server.port, login=login) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://u:p@127.0.0.1:{proxy.port}")
        way = make(Network(verify=trusting(authority)))
        for _ in range(2):
            assert b"a" == way.send(request(443, scheme="https", host="model.test", headers=(("authorization", "k"),))).body
        assert 1 == proxy.connections
        assert (
            f"CONNECT model.test:443 HTTP/1.1\r\nhost: model.test:443\r\nproxy-authorization: {login}" == proxy.requests[0][0]
        )
        assert "proxy-authorization" not in server.requests[0][0]
        with pytest.raises(ConnectError, match="407") as caught:
            make(Network(verify=trusting(authority), proxy=f"http://127.0.0.1:{proxy.port}")).send(
                request(443, scheme="https", host="model.test")
            )
        assert caught.value.permanent


def test_no_proxy_there(make: Make) -> None:
    """A proxy that is not there, or hangs up, is named."""
    port = closed_port()
    with pytest.raises(
        ConnectError, match=f"the proxy 127.0.0.1:{port}: connection refused; is this the proxy to take"
    ) as caught:
        make(Network(proxy=f"http://127.0.0.1:{port}")).send(request(80, host="model.test"))
    assert "proxy" == caught.value.phase
    with Loopback(lambda peer: peer.read_request() and None) as proxy:  # type: ignore[func-returns-value]
        with pytest.raises(ConnectError, match="it closed the connection without an answer"):
            make(Network(proxy=f"http://127.0.0.1:{proxy.port}")).send(request(443, scheme="https", host="model.test"))


def test_cancelled_anywhere(authority: trustme.CA) -> None:
    """Cancelling at whatever turn of the loop, in the tunnel and its TLS too, leaves no connection and no place behind."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("model.test").configure_cert(own)

    async def run(proxy: Loopback) -> None:
        network = Network(verify=trusting(authority), proxy=f"http://127.0.0.1:{proxy.port}")
        for turns in range(120):
            transport = AsyncHttpTransport(network)
            task = asyncio.ensure_future(transport.send(request(443, scheme="https", host="model.test")))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():  # as fast as that
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not any(pool.idle.places for pool in transport._pools.values())
        transport = AsyncHttpTransport(network)
        assert b"a" == (await transport.send(request(443, scheme="https", host="model.test"))).body
        await transport.close()

    with Loopback(always(answer(b"a")), own) as server, proxying(server.port) as proxy:
        asyncio.run(run(proxy))
        for _ in range(proxy.connections):
            assert proxy.ended.acquire(timeout=10)
