"""Both transports over real sockets: one table, one outcome, for blocking and asyncio alike."""

from __future__ import annotations

import gc
import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from gpt.errors import ConnectError, InvalidRequestError, RequestTimeoutError, StreamTruncatedError, TLSError
from gpt.protocol.wire import Timeout
from gpt.remote.http.connect import Network
from gpt.testing.loopback import Loopback, Peer, always, answer, closed_port, serving

from transports import Blocking, OnAsyncio, request

Way = Blocking | OnAsyncio
Make = Callable[..., Way]


def test_keep_alive(way: Way) -> None:
    """Calls one after another go over one connection."""
    with serving(answer(b"a", "200 OK", "x-y: z"), answer(b"b")) as server:
        responses = [way.send(request(server.port)) for _ in range(5)]
        assert [b"a", b"b", b"b", b"b", b"b"] == [response.body for response in responses]
        assert responses[0].headers["x-y"] == "z"
        assert server.connections == 1
    assert all(0 < response.first_byte <= response.elapsed for response in responses)


@pytest.mark.parametrize("last", ["connection: close", "server: x"])
def test_stale(way: Way, last: str) -> None:
    """A connection that the server has closed meanwhile is replaced, and nobody notices."""
    once = answer(b"a", "200 OK", last)

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(once)

    with Loopback(play) as server:
        for number in range(4):
            assert way.send(request(server.port)).body == b"a"
            assert server.ended.acquire(timeout=10)
            assert server.connections == number + 1


def test_stale_while_sending(way: Way) -> None:
    """A kept connection that is closed instead of answering is replaced once, for free; the request is sent again."""
    served = threading.Semaphore(2)

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            if not served.acquire(blocking=False):
                if peer.server.connections == 1:
                    return
            peer.send(answer(b"a"))

    with Loopback(play) as server:
        assert [b"a"] * 3 == [way.send(request(server.port)).body for _ in range(3)]
        assert (2, 4) == (server.connections, len(server.requests))


def test_new_connection_is_not_replaced(way: Way) -> None:
    """A new connection that gives nothing is an error: sending again could do the work twice."""
    with Loopback(lambda peer: peer.read_request() and None) as server:
        with pytest.raises(ConnectError, match="closed the connection without an answer") as caught:
            way.send(request(server.port))
        assert (1, True) == (server.connections, caught.value.sent)


def test_reset(way: Way) -> None:
    """A reset is an error that says so."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    with Loopback(play) as server, pytest.raises(ConnectError) as caught:
        way.send(request(server.port))
    assert caught.value.phase == "first_byte"
    assert caught.value.elapsed > 0


def in_slices(data: bytes) -> Callable[[Peer], None]:
    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            for place in range(len(data)):
                peer.send(data[place : place + 1])

    return play


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("data", [answer(b"hello"), CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello")])
def test_split_at_every_byte(way: Way, data: bytes) -> None:
    """An answer that comes byte by byte is the same answer, and its connection is kept."""
    with Loopback(in_slices(data)) as server:
        assert [b"hello", b"hello"] == [way.send(request(server.port)).body for _ in range(2)]
        assert server.connections == 1


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
def test_cut_at_every_byte(way: Way, cut: int) -> None:
    """An answer that breaks off at any byte is an error of the network."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(CHUNKED[:cut])

    with Loopback(play) as server, pytest.raises((ConnectError, StreamTruncatedError)):
        way.send(request(server.port))


def test_until_close(way: Way) -> None:
    """A body may end with the connection."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
        peer.send(b"lo")

    with Loopback(play) as server:
        assert way.send(request(server.port)).body == b"hello"
        assert b"".join(iter(lambda stream=way.open(request(server.port)): way.read(stream), b"")) == b"hello"


def test_large(way: Way) -> None:
    """Large bodies go both ways."""
    body = os.urandom(3_000_000)
    with serving(answer(body)) as server:
        assert body == way.send(request(server.port, body)).body
        assert body == server.requests[0][1]


def test_gzip(way: Way) -> None:
    """A compressed body is unpacked, whole and in pieces."""
    packed = gzip.compress(b"hello" * 1000)
    with serving(answer(packed, "200 OK", "content-encoding: gzip")) as server:
        assert b"hello" * 1000 == way.send(request(server.port)).body
        stream = way.open(request(server.port))
        assert b"hello" * 1000 == b"".join(iter(lambda: way.read(stream), b""))


# --------------------------------------------------------------------------------------------------------------------
# Streams
# --------------------------------------------------------------------------------------------------------------------


def test_stream(way: Way) -> None:
    """Pieces come as they are sent; at the end the connection goes back and is used again."""
    go = threading.Semaphore(0)

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in (b"one", b"two"):
                assert go.acquire(timeout=10)
                peer.send(b"3\r\n%b\r\n" % piece)
            peer.send(b"0\r\n\r\n")

    with Loopback(play) as server:
        for _ in range(2):
            stream = way.open(request(server.port))
            assert (200, "y") == (stream.status, stream.headers["x"])
            for piece in (b"one", b"two"):
                go.release()
                assert piece == way.read(stream)
            assert b"" == way.read(stream)
            assert b"" == way.read(stream)
        assert server.connections == 1


@pytest.mark.parametrize("how", ["end", "drop"])
def test_leaving_a_stream(way: Way, how: str) -> None:
    """Closing or dropping a stream closes its connection at once."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        peer.wait_for_close()

    with Loopback(play) as server:
        stream = way.open(request(server.port))
        assert b"one" == way.read(stream)
        if how == "end":
            way.end(stream)
            assert b"" == way.read(stream)
        else:
            del stream
            gc.collect()
            if isinstance(way, OnAsyncio):
                import asyncio

                way.runner.run(asyncio.sleep(0))
        assert server.ended.acquire(timeout=10)


def test_stream_cut(way: Way) -> None:
    """A stream that breaks off raises, and has closed its connection."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")

    with Loopback(play) as server:
        stream = way.open(request(server.port))
        assert b"one" == way.read(stream)
        with pytest.raises(StreamTruncatedError):
            way.read(stream)
        assert b"" == way.read(stream)


def test_slow_reader(way: Way) -> None:
    """A reader that is slower than the server gets all of it, and holds the server back rather than filling memory."""
    total = 8_000_000
    sent = [0]

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(total // 8000):
            peer.send(b"x" * 8000)
            sent[0] += 8000

    with Loopback(play) as server:
        stream = way.open(request(server.port))
        got = 0
        while piece := way.read(stream):
            got += len(piece)
        assert total == got


# --------------------------------------------------------------------------------------------------------------------
# Clocks
# --------------------------------------------------------------------------------------------------------------------


def silent(peer: Peer) -> None:
    peer.read_request()
    peer.wait_for_close()


def half(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
    peer.wait_for_close()


def half_head(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nx:")
    peer.wait_for_close()


CLOCKS: list[tuple[str, Callable[[Peer], None], Timeout, str, str]] = [
    ("first byte", silent, Timeout(first_byte=0.05), "first_byte", "no answer from 127.0.0.1:{port} within 0.05 s"),
    ("in the body", half, Timeout(idle=0.05), "read", "127.0.0.1:{port} sent nothing more of its answer for 0.05 s"),
    ("in the head", half_head, Timeout(idle=0.05), "read", "sent nothing more of its answer for 0.05 s"),
]


@pytest.mark.parametrize(("play", "timeout", "phase", "text"), [row[1:] for row in CLOCKS], ids=[row[0] for row in CLOCKS])
def test_clocks(way: Way, play: Callable[[Peer], None], timeout: Timeout, phase: str, text: str) -> None:
    """Each clock is an error of its own that names the phase; the connection is closed."""
    with Loopback(play) as server:
        with pytest.raises(RequestTimeoutError) as caught:
            way.send(request(server.port, timeout=timeout))
        assert (phase, True) == (caught.value.phase, caught.value.sent)
        assert isinstance(caught.value, TimeoutError)
        assert text.format(port=server.port) in str(caught.value)
        assert server.ended.acquire(timeout=10)


def dripping(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    pause = threading.Event()
    while True:
        peer.send(b"x")
        pause.wait(0.01)


@pytest.mark.parametrize("play", [silent, half, half_head, dripping])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_deadline(way: Way, play: Callable[[Peer], None], streamed: bool) -> None:
    """The deadline ends a call however its time is spent, also when something keeps coming."""
    with Loopback(play) as server:
        asked = msgspec.structs.replace(request(server.port), deadline=0.1)
        with pytest.raises(RequestTimeoutError, match=r"the 0.1 s for the whole call with .* are over") as caught:
            if streamed:
                stream = way.open(asked)
                while way.read(stream):
                    pass
            else:
                way.send(asked)
        assert caught.value.phase == "deadline"
        assert server.ended.acquire(timeout=10)


def test_write_clock(way: Way) -> None:
    """A server that does not take the request is a clock of its own."""

    def play(peer: Peer) -> None:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        release.wait(10)

    release = threading.Event()
    with Loopback(play) as server:
        with pytest.raises(RequestTimeoutError) as caught:
            way.send(request(server.port, b"x" * 50_000_000, timeout=Timeout(write=0.1)))
        release.set()
    assert caught.value.phase == "write"


def test_connect_clock(way: Way) -> None:
    """A server that does not finish the connection is a clock of its own."""
    with socket.socket() as sock:  # it takes the connection but never speaks TLS
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(RequestTimeoutError, match=r"no connection to 127.0.0.1:\d+ within 0.1 s") as caught:
            way.send(request(sock.getsockname()[1], scheme="https", timeout=Timeout(connect=0.1)))
    assert ("connect", False) == (caught.value.phase, caught.value.sent)


def test_clock_is_per_silence(way: Way) -> None:
    """A slow answer that keeps coming is no silence."""

    def play(peer: Peer) -> None:
        peer.read_request()
        for place in range(len(CHUNKED)):
            peer.send(CHUNKED[place : place + 1])
            pause.wait(0.01)

    pause = threading.Event()
    with Loopback(play) as server:
        assert way.send(request(server.port, timeout=Timeout(idle=0.4, first_byte=0.4))).body == b"hello"


# --------------------------------------------------------------------------------------------------------------------
# Connecting
# --------------------------------------------------------------------------------------------------------------------


def test_refused(way: Way) -> None:
    """A port with no server says so, and what to look at."""
    port = closed_port()
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: connection refused; is the server running") as caught:
        way.send(request(port))
    assert ("connect", False) == (caught.value.phase, caught.value.sent)


def test_no_such_name(way: Way) -> None:
    """A name without an address says so."""
    with pytest.raises(ConnectError, match="no address for 'nothing.invalid'") as caught:
        way.send(request(80, host="nothing.invalid"))
    assert caught.value.phase == "resolve"


def test_several_addresses(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one address does not answer, the next one does, without waiting for the first."""
    with serving(answer(b"a")) as server:
        dead = closed_port()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", dead)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
        assert make().send(request(server.port, host="two.test")).body == b"a"
        found.pop()
        found.append(found[0])
        with pytest.raises(ConnectError, match="refused"):
            make().send(request(server.port, host="two.test"))


def test_ipv6(way: Way) -> None:
    """An IPv6 address is connected to and named in brackets."""
    try:
        server = Loopback(always(answer(b"a")), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        assert way.send(request(server.port, host="::1")).body == b"a"
        assert f"host: [::1]:{server.port}" in server.requests[0][0]


# --------------------------------------------------------------------------------------------------------------------
# TLS
# --------------------------------------------------------------------------------------------------------------------


class Certificates:
    """An authority of the test's own, and what it signed."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.bundle = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.bundle)
        self.client = str(folder / "client.pem")
        self.authority.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(self.client)

    def server(self, *names: str, **details: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1",)), **details).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def test_tls(make: Make, certificates: Certificates) -> None:
    """A server whose authority is trusted is spoken to, over one connection for several calls."""
    with Loopback(always(answer(b"a")), certificates.server()) as server:
        way = make(Network(verify=certificates.bundle))
        for _ in range(3):
            assert way.send(request(server.port, scheme="https")).body == b"a"
        stream = way.open(request(server.port, scheme="https"))
        assert b"a" == way.read(stream)
        assert server.connections == 1


def test_tls_leaving(make: Make, certificates: Certificates) -> None:
    """Leaving a stream over TLS closes its connection."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\none")
        peer.wait_for_close()

    with Loopback(play, certificates.server()) as server:
        way = make(Network(verify=certificates.bundle))
        stream = way.open(request(server.port, scheme="https"))
        assert b"one" == way.read(stream)
        way.end(stream)
        assert server.ended.acquire(timeout=10)


def expired() -> dict[str, Any]:
    import datetime

    return {"not_after": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}


@pytest.mark.parametrize(
    ("names", "details", "trusting", "text"),
    [
        (("127.0.0.1",), {}, False, "is not trusted: (unable to get local issuer|self.signed)"),
        (("other.test",), {}, True, "is not trusted: IP address mismatch"),
        (("127.0.0.1",), expired(), True, "is not trusted: certificate has expired"),
    ],
)
def test_tls_refused(
    make: Make, certificates: Certificates, names: tuple[str, ...], details: dict[str, Any], trusting: bool, text: str
) -> None:
    """An unknown authority, another name and an expired certificate are refused, with the reason and what to do."""
    with Loopback(always(answer(b"a")), certificates.server(*names, **details)) as server:
        way = make(Network(verify=certificates.bundle) if trusting else None)
        with pytest.raises(TLSError, match=text) as caught:
            way.send(request(server.port, scheme="https"))
        assert "pass its CA" in str(caught.value)
        assert not server.requests


def test_tls_not_verified(make: Make, certificates: Certificates) -> None:
    """verify=False trusts everyone; a context of the caller's is taken as it is."""
    with Loopback(always(answer(b"a")), certificates.server("other.test")) as server:
        assert make(Network(verify=False)).send(request(server.port, scheme="https")).body == b"a"
        context = ssl.create_default_context(cafile=certificates.bundle)
        context.check_hostname = False
        assert make(Network(verify=context)).send(request(server.port, scheme="https")).body == b"a"


def test_client_certificate(make: Make, certificates: Certificates) -> None:
    """A server that asks for a certificate gets the client's."""
    context = certificates.server()
    context.verify_mode = ssl.CERT_REQUIRED
    certificates.authority.configure_trust(context)
    with Loopback(always(answer(b"a")), context) as server:
        way = make(Network(verify=certificates.bundle, cert=certificates.client))
        assert way.send(request(server.port, scheme="https")).body == b"a"
        with pytest.raises((TLSError, ConnectError)):
            make(Network(verify=certificates.bundle)).send(request(server.port, scheme="https"))


@pytest.mark.parametrize(
    "settings", [{"verify": "/nowhere/ca.pem"}, {"cert": "/nowhere/cert.pem"}, {"cert": ("/nowhere/c", "/n/k")}]
)
def test_tls_files(make: Make, settings: dict[str, Any]) -> None:
    """A file that cannot be used is named."""
    with pytest.raises(InvalidRequestError, match="/nowhere"):
        make(Network(**settings)).send(request(closed_port() if "cert" not in settings else 1, scheme="https"))


def test_plain_server_asked_for_tls(way: Way) -> None:
    """https to a server that speaks http says what may be meant."""
    greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with Loopback(lambda peer: peer.send(greeting)) as server, pytest.raises(TLSError, match="http:// may be meant") as caught:
        way.send(request(server.port, scheme="https"))
    assert caught.value.phase == "tls"


def test_one_context() -> None:
    """The TLS context is made once for all clients with the same settings."""
    assert Network().tls() is Network().tls()


# --------------------------------------------------------------------------------------------------------------------
# Closing, threads, forks
# --------------------------------------------------------------------------------------------------------------------


def test_close(way: Way) -> None:
    """Closing closes what is idle, and later calls are refused."""
    with serving(answer(b"a")) as server:
        way.send(request(server.port))
        way.runner.run(way.transport.close()) if isinstance(way, OnAsyncio) else way.transport.close()
        assert server.ended.acquire(timeout=10)
        with pytest.raises(InvalidRequestError, match="the client is closed"):
            way.send(request(server.port))


def test_dropped() -> None:
    """A blocking transport that is dropped closes its sockets, without a warning."""
    from gpt.remote.http.blocking import HttpTransport

    with serving(answer(b"a")) as server:
        transport = HttpTransport()
        transport.send(request(server.port))
        del transport
        gc.collect()
        assert server.ended.acquire(timeout=10)


def test_many_threads() -> None:
    """Threads share a blocking transport: each gets its own answer."""
    from gpt.remote.http.blocking import HttpTransport

    def play(peer: Peer) -> None:
        while True:
            _, body = peer.read_request()
            peer.send(answer(body))

    wrong: list[object] = []
    with Loopback(play) as server:
        transport = HttpTransport()

        def work(number: int) -> None:
            for turn in range(50):
                body = b"%d-%d" % (number, turn)
                response = transport.send(request(server.port, body))
                if response.body != body:
                    wrong.append((body, response.body))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == wrong
        assert server.connections <= 16
        transport.close()


FORK = """
import os, sys
from gpt.protocol.wire import HttpRequest, Origin
from gpt.remote.http.blocking import HttpTransport
transport = HttpTransport()
request = HttpRequest("POST", Origin("http", "127.0.0.1", int(sys.argv[1])), "/", (), b"x")
transport.send(request)
child = os.fork()
if not child:
    ok = all(transport.send(request).body == b"a" for _ in range(3))
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
assert all(transport.send(request).body == b"a" for _ in range(3))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork() -> None:
    """After a fork the child makes a connection of its own, and the parent's still works."""
    with serving(answer(b"a")) as server:
        subprocess.run([sys.executable, "-c", FORK, str(server.port)], check=True, timeout=30)
        assert server.connections == 2
