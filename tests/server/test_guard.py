"""Who is let in: the attack list, first as a table over the pure rules, then over a real socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import InvalidRequestError
from gpt.server.app import App
from gpt.server.failures import Refused
from gpt.server.guard import Guard, checked_content, host_name, is_loopback, preflight, shared_with
from gpt.server.run import Behind, ServeSettings, check_exposure, keys_in
from gpt.testing import AsyncScripted

from serving import HELLO, PATIENCE, read_all, serving

KEY, OTHER = "first-key-0123456789", "second-key-0123456789"

HOSTS: list[tuple[str, bool]] = [
    ("localhost:8080", True),
    ("LOCALHOST", True),
    ("localhost.:8080", True),
    ("127.0.0.1:8080", True),
    ("[::1]:8080", True),
    ("10.1.2.3", True),
    ("mine.example:80", True),
    ("evil.example:8080", False),  # a name that its owner made mean this address
    ("localhost.evil.example", False),
    ("127.0.0.1.evil.example", False),
    ("evil.example@localhost", False),
    ("0x7f000001", False),
]


@pytest.mark.parametrize(("host", "let_in"), HOSTS)
def test_hosts(host: str, let_in: bool) -> None:
    """A Host is an address in digits, localhost, or a name that the operator gave."""
    guard = Guard(hosts=["Mine.example"])
    if let_in:
        guard.host({"host": host})
    else:
        with pytest.raises(Refused) as caught:
            guard.host({"host": host})
        assert 421 == caught.value.status


def test_no_host() -> None:
    """A request without a Host is refused."""
    with pytest.raises(Refused, match="no Host"):
        Guard().host({})


ORIGINS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"origin": "http://localhost:8080"}, None),  # the server's own page
    ({"origin": "https://friend.example"}, "https://friend.example"),
    ({"origin": "HTTPS://Friend.example"}, "HTTPS://Friend.example"),
    ({"origin": "https://evil.example"}, "refused"),
    ({"origin": "http://localhost:9999"}, "refused"),  # another page of this machine
    ({"origin": "http://friend.example"}, "refused"),  # by http
    ({"origin": "https://friend.example.evil.example"}, "refused"),
    ({"origin": "null"}, "refused"),  # a sandboxed frame, a file
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "refused"),  # an image, a script, a form
    ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "refused"),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, None),  # a link that somebody follows
    ({"sec-fetch-site": "same-origin"}, None),
]


@pytest.mark.parametrize(("headers", "expected"), ORIGINS)
def test_origins(headers: dict[str, str], expected: str | None) -> None:
    """A page of elsewhere is let in if its origin was named, and told so; others are refused."""
    guard = Guard(origins=["https://friend.example/"])
    headers = {"host": "localhost:8080", **headers}
    if expected == "refused":
        with pytest.raises(Refused) as caught:
            guard.origin(headers)
        assert 403 == caught.value.status
    else:
        assert expected == guard.origin(headers)


def test_cors_headers() -> None:
    """Who was named may read the answer; nobody else is told anything."""
    assert [] == shared_with(None)
    assert ("access-control-allow-origin", "https://a.example") in shared_with("https://a.example")
    asked = preflight({"access-control-request-headers": "authorization, x-stainless-os"})
    assert "authorization, x-stainless-os" == asked["access-control-allow-headers"]
    assert "authorization" in preflight({})["access-control-allow-headers"]


AUTHORIZATIONS: list[tuple[str | None, bool]] = [
    (f"Bearer {KEY}", True),
    (f"bearer {KEY}", True),
    (f"Bearer  {OTHER} ", True),
    (None, False),
    ("", False),
    ("Bearer", False),
    ("Bearer ", False),
    (f"Bearer {KEY}x", False),
    (f"Bearer {KEY[:-1]}", False),
    (f"Basic {KEY}", False),
    (KEY, False),
    ("Bearer \xff", False),
]


@pytest.mark.parametrize(("given", "let_in"), AUTHORIZATIONS)
def test_keys(given: str | None, let_in: bool) -> None:
    """Each of the keys is let in, and nothing else."""
    guard = Guard([KEY, OTHER])
    headers = {} if given is None else {"authorization": given}
    if let_in:
        assert guard.owner(headers)
    else:
        with pytest.raises(Refused) as caught:
            guard.owner(headers)
        assert 401 == caught.value.status
        assert KEY not in caught.value.message


def test_owners() -> None:
    """Each key is its own owner, by a name that does not show it; without keys all are one."""
    guard = Guard([KEY, OTHER])
    first, second = (guard.owner({"authorization": f"Bearer {key}"}) for key in (KEY, OTHER))
    assert first != second
    assert KEY not in first
    assert KEY not in repr(guard)
    assert "" == Guard().owner({})


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is found does not end the comparing, so that its place cannot be told from the time it took."""
    import hmac

    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(first: bytes, second: bytes) -> bool:
        compared.append(second)
        return real(first, second)

    monkeypatch.setattr("gpt.server.guard.hmac.compare_digest", compare)
    Guard([KEY, OTHER]).owner({"authorization": f"Bearer {KEY}"})
    assert 2 == len(compared)


@pytest.mark.parametrize("key", ["short", "", "with space 0123456789", "line\nbreak-0123456789", "\u00fc" * 20])
def test_bad_keys(key: str) -> None:
    """A key that can be guessed or cannot be sent is refused, and not shown."""
    with pytest.raises(InvalidRequestError) as caught:
        Guard([key])
    assert not key or key not in str(caught.value)


CONTENTS: list[tuple[dict[str, str], bool]] = [
    ({"content-type": "application/json"}, True),
    ({"content-type": "application/json; charset=utf-8"}, True),
    ({"content-type": "Application/JSON"}, True),
    ({}, False),
    ({"content-type": "text/plain"}, False),  # what a page may send without asking
    ({"content-type": "application/x-www-form-urlencoded"}, False),
    ({"content-type": "multipart/form-data"}, False),
    ({"content-type": "text/json"}, False),
    ({"content-type": "application/json", "content-encoding": "gzip"}, False),  # a bomb, perhaps
]


@pytest.mark.parametrize(("headers", "taken"), CONTENTS)
def test_contents(headers: dict[str, str], taken: bool) -> None:
    """A body says that it is JSON, and is not packed."""
    if taken:
        checked_content(headers)
    else:
        with pytest.raises(Refused) as caught:
            checked_content(headers)
        assert 415 == caught.value.status


ADDRESSES = [
    ("127.0.0.1", True),
    ("127.9.9.9", True),
    ("::1", True),
    ("[::1]", True),
    ("localhost", True),
    ("0.0.0.0", False),
    ("::", False),
    ("192.168.1.2", False),
    ("example.com", False),
]


@pytest.mark.parametrize(("host", "alone"), ADDRESSES)
def test_loopback(host: str, alone: bool) -> None:
    """Which addresses can be reached from this machine alone."""
    assert alone is is_loopback(host)


def test_host_name() -> None:
    """The name in a Host, whatever its port."""
    assert ["a.example", "::1", "a"] == [host_name(host) for host in ("A.example:80", "[::1]:80", "a")]


EXPOSURES: list[tuple[dict[str, Any], bool, str | None]] = [
    ({}, True, None),
    ({"host": "0.0.0.0"}, False, "callers need a key"),
    ({"host": "0.0.0.0", "keys": (KEY,)}, True, None),
    ({"host": "0.0.0.0", "no_auth": True}, False, None),
    ({"host": "0.0.0.0", "no_auth": True}, True, "spend the key"),
    ({"host": "0.0.0.0", "no_auth": True, "keys": (KEY,)}, True, None),
    ({"no_auth": True}, True, None),
]


@pytest.mark.parametrize(("settings", "carries", "why"), EXPOSURES)
def test_exposure(settings: dict[str, Any], carries: bool, why: str | None) -> None:
    """Others than this machine need a key, or an operator who says otherwise and has no key to lose."""
    if why is None:
        check_exposure(ServeSettings(**settings), carries_key=carries)
    else:
        with pytest.raises(InvalidRequestError, match=why):
            check_exposure(ServeSettings(**settings), carries_key=carries)


def test_keys_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keys come from a file, a line each, and the environment; a file that others can read is warned of."""
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}  # of the first\n\n{OTHER}\n")
    path.chmod(0o600)
    third = "third-key-0123456789"
    assert (third, KEY, OTHER) == keys_in(str(path), {"GPT_SERVE_API_KEYS": f" {third},{KEY} ,"})
    assert [] == caplog.records
    path.chmod(0o644)
    keys_in(str(path), {})
    assert "chmod 600" in caplog.text
    assert KEY not in caplog.text
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidRequestError, match="cannot be read"):
            keys_in(str(bad), {})
    path.write_text("# nothing\n")
    with pytest.raises(InvalidRequestError, match="no key in it"):
        keys_in(str(path), {})


def test_no_key_in_repr() -> None:
    """Settings and what is behind show no key."""
    shown = repr(ServeSettings(keys=(KEY,))) + repr(App(AsyncScripted("hi"), keys=[KEY])) + repr(Behind(None, None, True, "x"))
    assert KEY not in shown


# --------------------------------------------------------------------------------------------------------------------
# Over a real socket
# --------------------------------------------------------------------------------------------------------------------


def test_needs_key(caplog: pytest.LogCaptureFixture) -> None:
    """With keys everything but health, readiness and the page needs one; none is ever in the log."""
    caplog.set_level("INFO")
    with serving(App(AsyncScripted("hi"), keys=[KEY, OTHER])) as server:
        for path in ("/v1/models", "/v1/models/x", "/metrics", "/version", "/openapi.json", "/v1/chat/completions", "/nothing"):
            assert (path, 401) == (path, server.ask("GET", path)[0])
            assert (path, 401) == (path, server.ask("GET", path, headers={"authorization": "Bearer guess-0123456789"})[0])
        assert 401 == server.chat()[0]
        for path in ("/health", "/ready"):
            assert 200 == server.ask("GET", path)[0]
        for key in (KEY, OTHER):
            assert 200 == server.chat(headers={"authorization": f"Bearer {key}"})[0]
    assert KEY not in caplog.text
    assert "guess-" not in caplog.text


def test_foreign_page() -> None:
    """A page of elsewhere reaches no model: by its origin, by a name of its own, or by a form."""
    backend = AsyncScripted("hi")
    with serving(App(backend)) as server:
        assert 403 == server.chat(headers={"origin": "https://evil.example"})[0]
        assert 421 == server.chat(headers={"host": "evil.example"})[0]
        assert 415 == server.ask("POST", "/v1/chat/completions", b'{"messages":[]}', {"content-type": "text/plain"})[0]
        status, headers, _ = server.ask("OPTIONS", "/v1/chat/completions", headers={"origin": "https://evil.example"})
        assert 403 == status
        assert "access-control-allow-origin" not in headers
    assert [] == backend.script.asked


def test_named_page() -> None:
    """A page whose origin was named may ask first, call, and read the answer; without credentials of the browser's."""
    origin = {"origin": "https://friend.example"}
    with serving(App(AsyncScripted("hi"), cors_origins=["https://friend.example"], keys=[KEY])) as server:
        asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        status, headers, _ = server.ask("OPTIONS", "/v1/chat/completions", headers=asked)
        assert (204, "https://friend.example") == (status, headers["access-control-allow-origin"])
        assert "access-control-allow-credentials" not in headers
        status, headers, _ = server.chat(headers={**origin, "authorization": f"Bearer {KEY}"})
        assert (200, "https://friend.example", "origin") == (status, headers["access-control-allow-origin"], headers["vary"])
        assert (
            "https://friend.example" == server.chat(headers=origin)[1]["access-control-allow-origin"]
        )  # errors can be read too


def test_huge_body() -> None:
    """A body that is too long is refused: by what it says of itself before it is read, else as soon as it is."""
    backend = AsyncScripted("hi")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with serving(App(backend, max_body=1000)) as server:
        said = server.raw(head + b"content-length: 10000000000\r\n\r\n")
        assert b" 413 " in read_all(said)
        chunked = server.raw(head + b"transfer-encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        chunked.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert b" 413 " in read_all(chunked)
        assert 200 == server.chat()[0]
    assert 1 == len(backend.script.asked)


def test_slow_body() -> None:
    """A body that does not come is not waited for for ever."""
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
    )
    with serving(App(AsyncScripted("hi"), patience=0.05)) as server:
        peer = server.raw(head + b"{")
        assert b" 408 " in read_all(peer)
        assert 200 == server.chat()[0]


def test_slow_head() -> None:
    """A head that does not come, or not whole, closes its connection; one that came is not hurt by the clock."""
    with serving(App(AsyncScripted("hi")), head_takes=0.2) as server:
        for sent in (b"", b"G", b"GET / HTTP/1.1\r\nhost: localhost\r\nx-a: "):
            assert b" 408 " in read_all(server.raw(sent))
        peer = server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        said = b""
        while b"ok" not in said:
            said += peer.recv(1000)
        assert b" 200 " in said
        peer.sendall(b"GET /hea")  # a second one on the same connection
        assert b" 408 " in read_all(peer)


def test_idle_between_requests() -> None:
    """The clock of a head does not run between two requests on one connection."""
    with serving(App(AsyncScripted("hi")), head_takes=0.05) as server:
        connection = server.connect()
        for _ in range(3):
            connection.request("GET", "/health")
            response = connection.getresponse()
            assert (200, b'{"status":"ok"}') == (response.status, response.read())
            server.call(lambda: asyncio.sleep(0.1))  # longer than the clock; that it passes is what must not matter
        connection.close()


def test_huge_head() -> None:
    """A head that is too long is refused: one header, many, or a path without end."""
    start = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    with serving(App(AsyncScripted("hi")), max_head=4096) as server:
        for sent in (
            start + b"x-a: " + b"a" * 10_000,
            start + b"".join(b"x-%d: aaaaaaaaaa\r\n" % number for number in range(1000)),
            b"GET /" + b"a" * 10_000,
        ):
            said = read_all(server.raw(sent))
            assert b" 431 " in said or b" 400 " in said
        assert 200 == server.ask("GET", "/health", headers={"x-a": "a" * 3000})[0]


def test_smuggled() -> None:
    """Requests that two parsers could take for different ones are refused."""
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    backend = AsyncScripted("hi")
    with serving(App(backend)) as server:
        for sent in (
            start + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            start + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            start + b"host: evil.example\r\ncontent-length: 2\r\n\r\n{}",
            start + b"authorization: a\r\nauthorization: b\r\ncontent-length: 2\r\n\r\n{}",
            b"garbage\r\n\r\n",
        ):
            peer = server.raw(sent)
            assert b"HTTP/1.1 400" == peer.recv(1000)[:12], sent
            peer.close()
    assert [] == backend.script.asked


def test_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A path cannot write lines of its own into the log."""
    caplog.set_level("INFO", "gpt.server")
    with serving(App(AsyncScripted("hi"))) as server:
        server.ask("GET", "/a%0d%0a2026-01-01%20200%20POST%20/forged")
    assert all("\n" not in record.getMessage() and "\r" not in record.getMessage() for record in caplog.records)
    assert any("/a??2026" in record.getMessage() for record in caplog.records)


def test_ignored_names_are_no_headers() -> None:
    """Names of fields that a caller makes up cannot make headers of their own."""

    class Names(AsyncScripted):
        def without_effect(self, request: dict[str, Any]) -> list[str]:
            return [name for name in request if name != "messages"]

    with serving(App(Names("hi"))) as server:
        status, headers, _ = server.chat({**HELLO, "a\r\nset-cookie: x=y": 1, "b,c": 2, "\u00fc": 3})
    assert 200 == status
    assert "set-cookie" not in headers
    assert 3 == len(headers["x-ignored-params"].split(", "))


def test_reads_nothing() -> None:
    """A caller who never reads its stream holds its place no longer than `stall`."""
    from gpt.testing.scripted import chunk

    script = [chunk("x" * 100_000)] * 400
    app = App(AsyncScripted(script), slots=1, stall=0.2)
    with serving(app) as server:
        body = b'{"messages":[{"role":"user","content":"hi"}],"stream":true}'
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )
        server.until(lambda: app.line.running == 1)
        server.until(lambda: app.line.running == 0)
        peer.close()
