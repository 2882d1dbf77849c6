"""The network refused. No name is looked up here, and no other machine is reached: what is refused never gets there."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import openai
import pytest
import requests

from gpt import AsyncGpt, Gpt
from gpt.testing import serve
from gpt.testing.network import Refusal, is_here

FAR = "192.0.2.1"
"""An address that is nobody's (RFC 5737)."""


class Refused(BaseException):
    """As pytest's own failure no Exception, which clients would take for trouble with the network, and try again."""


def refuse(where: str) -> NoReturn:
    raise Refused(where)


HOSTS: list[tuple[Any, bool]] = [
    (None, True),
    ("", True),
    (b"", True),
    ("localhost", True),
    ("LOCALHOST.", True),
    (b"localhost", True),
    ("a.localhost", True),
    (socket.gethostname(), True),
    ("127.0.0.1", True),
    ("127.9.9.9", True),
    ("0.0.0.0", True),
    ("::1", True),
    ("::", True),
    ("::ffff:127.0.0.1", True),
    (FAR, False),
    ("::ffff:192.0.2.1", False),
    ("fe80::1%eth0", False),
    ("api.openai.com", False),
    (b"api.openai.com", False),
    ("localhost.example.com", False),
    ("notlocalhost", False),
    ("10.0.0.1", False),
]


@pytest.mark.parametrize(("host", "here"), HOSTS)
def test_is_here(host: Any, here: bool) -> None:
    """This machine is told from the others by its names and addresses."""
    assert here == is_here(host)


def sock(kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family, kind)


def used(made: socket.socket, use: Callable[[socket.socket], Any]) -> Any:
    with made:
        return use(made)


def on_asyncio(client: Any, ask: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        async with client:
            return await ask(client)

    return asyncio.run(run())


ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
URL = "http://api.example.com/v1"

WAYS: list[tuple[str, str, Callable[[], Any]]] = [
    ("connect", f"{FAR}:80", lambda: used(sock(), lambda it: it.connect((FAR, 80)))),
    ("connect_ex", f"{FAR}:80", lambda: used(sock(), lambda it: it.connect_ex((FAR, 80)))),
    ("connect, IPv6", "[2001:db8::1]:80", lambda: used(sock(family=socket.AF_INET6), lambda it: it.connect(("2001:db8::1", 80, 0, 0)))),
    ("sendto", f"{FAR}:53", lambda: used(sock(socket.SOCK_DGRAM), lambda it: it.sendto(b"a", (FAR, 53)))),
    ("sendto, with flags", f"{FAR}:53", lambda: used(sock(socket.SOCK_DGRAM), lambda it: it.sendto(b"a", 0, (FAR, 53)))),
    ("sendmsg", f"{FAR}:53", lambda: used(sock(socket.SOCK_DGRAM), lambda it: it.sendmsg([b"a"], [], 0, (FAR, 53)))),
    ("getaddrinfo", "api.example.com:443", lambda: socket.getaddrinfo("api.example.com", 443)),
    ("getaddrinfo, named", "api.example.com:443", lambda: socket.getaddrinfo("api.example.com", port=443)),
    ("gethostbyname", "api.example.com", lambda: socket.gethostbyname("api.example.com")),
    ("gethostbyname_ex", "api.example.com", lambda: socket.gethostbyname_ex("api.example.com")),
    ("gethostbyaddr", FAR, lambda: socket.gethostbyaddr(FAR)),
    ("create_connection", "api.example.com:80", lambda: socket.create_connection(("api.example.com", 80))),
    ("asyncio", f"{FAR}:80", lambda: asyncio.run(asyncio.wait_for(asyncio.open_connection(FAR, 80), 10))),
    ("asyncio, by name", "api.example.com:80", lambda: asyncio.run(asyncio.wait_for(asyncio.open_connection("api.example.com", 80), 10))),
    ("requests", "api.example.com:80", lambda: requests.get(URL, timeout=10, proxies={"http": ""})),
    ("httpx", "api.example.com:80", lambda: httpx.get(URL, trust_env=False)),
    ("ours", "api.example.com:80", lambda: Gpt(server_url=URL).chat.complete("a", model="m")),
    ("ours, asyncio", "api.example.com:80", lambda: on_asyncio(AsyncGpt(server_url=URL), lambda it: it.chat.complete("a", model="m"))),
    ("the official client", "api.example.com:80", lambda: openai.OpenAI(base_url=URL, api_key="k").chat.completions.create(**ASKED)),
    ("the official client, asyncio", "api.example.com:80",
     lambda: on_asyncio(openai.AsyncOpenAI(base_url=URL, api_key="k"), lambda it: it.chat.completions.create(**ASKED))),
]  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # the clients of others leave sockets behind when they are refused
@pytest.mark.parametrize(("where", "use"), [row[1:] for row in WAYS], ids=[row[0] for row in WAYS])
def test_refused(where: str, use: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for another machine is refused once, by its name and port: no client takes it for a reason to try again."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    refusal = Refusal(refuse)
    with refusal.in_force(), pytest.raises(Refused) as caught:
        use()
    assert (where, [where]) == (str(caught.value), refusal.seen)


def test_this_machine(tmp_path: Path) -> None:
    """This machine is reached, by any client; so are unix sockets, and sockets that are connected already."""
    refusal = Refusal(refuse)
    with refusal.in_force(), serve("hi") as server:
        assert "hi" == Gpt(server_url=server.url).chat.complete("a").text
        assert "hi" == on_asyncio(AsyncGpt(server_url=server.url), lambda it: it.chat.complete("a")).text
        with openai.OpenAI(base_url=server.url, api_key="k") as client:
            assert "hi" == client.chat.completions.create(**ASKED).choices[0].message.content
        assert socket.getaddrinfo("localhost", server.port)
        assert socket.getaddrinfo(None, 0)
        with sock(family=socket.AF_UNIX) as listening, sock(family=socket.AF_UNIX) as speaking:
            listening.bind(str(tmp_path / "s"))
            listening.listen()
            speaking.connect(str(tmp_path / "s"))
        with sock(socket.SOCK_DGRAM) as one, sock(socket.SOCK_DGRAM) as other:
            one.bind(("127.0.0.1", 0))
            other.connect(one.getsockname())
            assert 1 == other.sendmsg([b"a"])
            assert 1 == other.sendto(b"b", one.getsockname())
    assert [] == refusal.seen


def test_wrong_addresses() -> None:
    """What is no address is refused by Python itself, in its own words."""
    with Refusal(refuse).in_force(), sock() as it:
        with pytest.raises(TypeError, match="AF_INET address must be tuple"):
            it.connect("nowhere")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="exactly one argument"):
            it.connect()  # type: ignore[call-arg]


def test_put_back() -> None:
    """Afterwards all is as it was, also where one refusal was within another."""
    before = dict(vars(socket.socket)), socket.getaddrinfo, socket.gethostbyname
    outer, inner = Refusal(refuse), Refusal(refuse)
    with outer.in_force():
        with inner.in_force(), pytest.raises(Refused):
            socket.getaddrinfo("api.example.com", 1)
        with pytest.raises(Refused):
            socket.getaddrinfo("api.example.com", 2)
    assert (["api.example.com:1"], ["api.example.com:2"]) == (inner.seen, outer.seen)
    assert before == (dict(vars(socket.socket)), socket.getaddrinfo, socket.gethostbyname)


def test_other_threads() -> None:
    """Other threads are refused too."""
    refusal = Refusal(refuse)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            socket.create_connection((FAR, 80))
        except BaseException as error:
            caught.append(error)

    with refusal.in_force():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert ([f"{FAR}:80"], [Refused]) == (refusal.seen, [type(error) for error in caught])
