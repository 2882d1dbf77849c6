"""Stored completions, on both clients: what is sent, what comes back, pages, and who has none."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

import gpt
from gpt import (
    AsyncGpt,
    AsyncLimit,
    BadRequestError,
    Cache,
    CallOptions,
    ConnectError,
    Fallback,
    Gpt,
    InvalidRequestError,
    Limit,
    MalformedResponseError,
    Profile,
    Record,
    Retry,
    ServerError,
    UserMessage,
)
from gpt.backend import in_threads, keeper_of
from gpt.pages import AsyncPage, Page
from gpt.server.app import App
from gpt.server.store import StoredCompletions
from gpt.testing import AsyncScripted, Scripted, no_waiting
from gpt.testing.loopback import Loopback, Peer, answer, completion, serving
from gpt.types import ChatCompletion, ChatCompletionDeleted, StoredMessage

import serving as served

CREATED = 1_738_960_610


class Shelf:
    """A server of stored completions, played on loopback. `play` answers; `failing` are answers that come first."""

    def __init__(self, count: int = 5, *failing: bytes, **beside: Any) -> None:
        self.kept = {f"c{place}": {**completion(str(place)), "id": f"c{place}", "seed": place} for place in range(count)}
        self.said = [{"id": f"m{place}", "role": "user", "content": str(place)} for place in range(count)]
        self.failing = list(failing)
        self.beside = beside
        self.asked: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        """Method, path, parameters and body of each request."""
        self.heads: list[str] = []

    def play(self, peer: Peer) -> None:
        while True:
            head, body = peer.read_request()
            method, target, _ = head.split(" ", 2)
            path, _, query = target.partition("?")
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
            self.asked.append((method, path, given, body))
            self.heads.append(head)
            if self.failing:
                data = self.failing.pop(0)
                if not data:
                    peer.reset()
                    return
                peer.send(data)
                continue
            peer.send(self.answer(method, path.removeprefix("/v1/chat/completions"), dict(given), body))

    def answer(self, method: str, path: str, given: dict[str, str], body: bytes) -> bytes:
        _, _, rest = path.partition("/")
        name, _, below = rest.partition("/")
        name = unquote(name)
        if not rest:
            return answer(self.page(list(self.kept.values()), given))
        if name not in self.kept:
            return answer({"error": {"message": f"No chat completion found with id '{name}'."}}, "404 Not Found")
        if below:
            return answer(self.page(self.said, given))
        if method == "DELETE":
            del self.kept[name]
            return answer({"object": "chat.completion.deleted", "id": name, "deleted": True})
        if method == "POST":
            self.kept[name] |= json.loads(body)
        return answer(self.kept[name])

    def page(self, items: list[dict[str, Any]], given: dict[str, str]) -> dict[str, Any]:
        after = given.get("after")
        begin = 1 + [item["id"] for item in items].index(after) if after else 0
        found = items[begin : begin + int(given.get("limit", 2))]
        more = begin + len(found) < len(items)
        ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {}
        made = {"object": "list", "data": found, "has_more": more, **ends, **self.beside}
        return {name: value for name, value in made.items() if value != "absent"}


class Both:
    """One way to use either client; what `use` gives is awaited, and an iterator of an async client made a list."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def ask(self, use: Callable[[Any], Any], **settings: Any) -> Any:
        if self.kind == "blocking":
            with Gpt(**settings) as client:
                made = use(client)
                return list(made) if inspect.isgenerator(made) else made

        async def run() -> Any:
            async with AsyncGpt(**settings) as client:
                made = use(client)
                return [item async for item in made] if hasattr(made, "asend") else await made

        return asyncio.run(run())

    def all(self, use: Callable[[Any], Any], **settings: Any) -> list[Any]:
        """The items of all pages of a list."""
        if self.kind == "blocking":
            with Gpt(**settings) as client:
                return list(use(client))

        async def run() -> list[Any]:
            async with AsyncGpt(**settings) as client:
                return [item async for item in use(client)]

        return asyncio.run(run())

    def pages(self, use: Callable[[Any], Any], **settings: Any) -> list[Any]:
        """The pages of a list, from the first on."""
        if self.kind == "blocking":
            with Gpt(**settings) as client:
                return list(use(client).iter_pages())

        async def run() -> list[Any]:
            async with AsyncGpt(**settings) as client:
                return [page async for page in (await use(client)).iter_pages()]

        return asyncio.run(run())

    def backend(self, **settings: Any) -> Any:
        """The backend of a client."""
        return (Gpt if self.kind == "blocking" else AsyncGpt)(**settings).backend


@pytest.fixture(params=["blocking", "async"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


# --------------------------------------------------------------------------------------------------------------------
# What is sent, and what comes back
# --------------------------------------------------------------------------------------------------------------------

Call = Callable[[Any], Any]

SENT: list[tuple[Call, str, str, list[tuple[str, str]], bytes]] = [
    (lambda c: c.list(), "GET", "", [], b""),
    (lambda c: c.list(after="c1", limit=3, model="m", order="desc", metadata={"a b": "ä&=", "c": ""}), "GET", "",
     [("after", "c1"), ("limit", "3"), ("order", "desc"), ("model", "m"), ("metadata[a b]", "ä&="), ("metadata[c]", "")], b""),
    (lambda c: c.list(limit=2, extra_query={"limit": "4", "zap": "1"}), "GET", "", [("limit", "4"), ("zap", "1")], b""),
    (lambda c: c.list(query={"zap": "1"}), "GET", "", [("zap", "1")], b""),
    (lambda c: c.retrieve("c1"), "GET", "/c1", [], b""),
    (lambda c: c.retrieve(completion_id="c1", query={"zap": "1"}), "GET", "/c1", [("zap", "1")], b""),
    (lambda c: c.update("c1", metadata={"a": "b"}), "POST", "/c1", [], b'{"metadata":{"a":"b"}}'),
    (lambda c: c.update("c1", metadata=None), "POST", "/c1", [], b'{"metadata":null}'),
    (lambda c: c.update("c1", metadata={}, extra_body={"zap": 1}), "POST", "/c1", [], b'{"metadata":{},"zap":1}'),
    (lambda c: c.update("c1", metadata={}, body={"zap": 1}), "POST", "/c1", [], b'{"metadata":{},"zap":1}'),
    (lambda c: c.delete("c1"), "DELETE", "/c1", [], b""),
    (lambda c: c.delete("c1", extra_body={"zap": 1}), "DELETE", "/c1", [], b'{"zap":1}'),
    (lambda c: c.messages.list("c1"), "GET", "/c1/messages", [], b""),
    (lambda c: c.messages.list("c1", after="m1", limit=3, order="asc", extra_query={"zap": "1"}), "GET", "/c1/messages",
     [("after", "m1"), ("limit", "3"), ("order", "asc"), ("zap", "1")], b""),
]  # fmt: skip


@pytest.mark.parametrize(("use", "method", "path", "query", "body"), SENT)
def test_sent(both: Both, use: Call, method: str, path: str, query: list[tuple[str, str]], body: bytes) -> None:
    """Each call is one request; what was not given is not sent."""
    shelf = Shelf()
    with Loopback(shelf.play) as server:
        both.ask(lambda client: use(client.chat.completions), server_url=server.url, model="own")
    assert [(method, f"/v1/chat/completions{path}", query, body)] == shelf.asked
    assert (method == "POST") == ("\r\nidempotency-key:" in shelf.heads[0])


def test_options(both: Both) -> None:
    """The options of a call are those of any other call; its query goes over its parameters, and these over the client's."""
    shelf = Shelf()
    with Loopback(shelf.play) as server:
        settings: dict[str, Any] = {"server_url": server.url, "api_key": "k", "query": {"setting": "1"}}

        def use(client: Any) -> Any:
            client = client.with_options(query={"limit": "1", "copy": "1"}, headers={"x-a": "1", "x-b": "1"})
            return client.chat.completions.list(limit=3, query={"call": "1"}, headers={"x-b": "2"}, timeout=5, deadline=9)

        page = both.ask(use, **settings)
    assert [("setting", "1"), ("limit", "3"), ("copy", "1"), ("call", "1")] == shelf.asked[0][2]
    for line in ("authorization: Bearer k", "x-a: 1", "x-b: 2"):
        assert f"\r\n{line}\r\n" in shelf.heads[0]
    assert ["c0", "c1", "c2"] == [item.id for item in page.data]


def test_no_time(both: Both) -> None:
    """A deadline holds for the call."""
    with Loopback(Shelf(5, answer(b"", "503 Busy", "retry-after: 5")).play) as server:
        use: Call = lambda client: client.chat.completions.list(deadline=1.0)  # noqa: E731
        with pytest.raises(gpt.OverloadedError) as caught:
            both.ask(use, server_url=server.url)
    assert 1 == len(caught.value.attempts)


def test_list(both: Both) -> None:
    """A page has its items, what the server says of it, and the bytes that came; an item is a completion that keeps its own."""
    shelf = Shelf()
    with Loopback(shelf.play) as server:
        page = both.ask(lambda client: client.chat.completions.list(), server_url=server.url)
    assert isinstance(page, Page if both.kind == "blocking" else AsyncPage)
    assert ("c0", "c1", True, True) == (page.first_id, page.last_id, page.has_more, page.has_next_page())
    assert ["0", "1"] == [item.text for item in page.data]
    assert [ChatCompletion, ChatCompletion] == [type(item) for item in page.data]
    assert shelf.kept["c1"] == page.data[1].to_dict()
    assert (200, 200, True) == (page.info.status, page.data[0].info.status, page.data[0].info.stored)
    assert page.to_dict() == page.answer.to_dict() == shelf.page(list(shelf.kept.values()), {})
    assert repr(page) == f"{type(page).__name__}(2 items, has_more=True)"


def test_one(both: Both) -> None:
    """One that is retrieved or updated is a completion with all that came; a deletion says what was deleted."""
    shelf = Shelf()
    with Loopback(shelf.play) as server:
        found = both.ask(lambda client: client.chat.completions.retrieve("c1"), server_url=server.url)
        changed = both.ask(lambda client: client.chat.completions.update("c1", metadata={"a": "b"}), server_url=server.url)
        deleted = both.ask(lambda client: client.chat.completions.delete("c1"), server_url=server.url)
    assert ("1", 1, None) == (found.text, found.to_dict()["seed"], found.metadata)
    assert (True, None, 3) == (found.info.stored, found.info.tokens_per_second, found.usage.total_tokens)
    assert {"a": "b"} == changed.metadata
    assert ChatCompletionDeleted("c1", True) == deleted  # noqa: FBT003
    assert deleted.info.status == 200


def test_messages(both: Both) -> None:
    """The messages of a stored completion are listed in pages too, and can be said again."""
    shelf = Shelf(3)
    shelf.said[1] |= {"content": None, "name": None, "content_parts": [{"type": "text", "text": "look"}]}
    with Loopback(shelf.play) as server:
        said = both.all(lambda client: client.chat.completions.messages.list("c0"), server_url=server.url)
        assert [StoredMessage] * 3 == [type(message) for message in said]
        assert [("m0", "0"), ("m1", None), ("m2", "2")] == [(message.id, message.content) for message in said]
        assert shelf.said[1] == said[1].to_dict()
        assert said[1].content_parts == [gpt.TextContentPart("look")]
        with serving(completion()) as other:
            both.ask(lambda client: client.chat.complete([*said, UserMessage("why?")], model="m"), server_url=other.url)
            sent = json.loads(other.requests[0][1])["messages"]
    parts = [{"type": "text", "text": "look"}]
    assert [{"role": "user", "content": content} for content in ("0", parts, "2", "why?")] == sent


# --------------------------------------------------------------------------------------------------------------------
# Pages
# --------------------------------------------------------------------------------------------------------------------

WHOLE: list[tuple[int, dict[str, Any], list[str | None]]] = [
    (5, {}, [None, "c1", "c3"]),
    (4, {}, [None, "c1"]),
    (1, {}, [None]),
    (0, {}, [None]),
    (0, {"first_id": "", "last_id": ""}, [None]),
    (5, {"first_id": None, "last_id": None}, [None, "c1", "c3"]),
    (5, {"first_id": "absent", "last_id": "absent"}, [None, "c1", "c3"]),
    (4, {"has_more": "absent"}, [None, "c1", "c3"]),
    (5, {"has_more": None}, [None, "c1", "c3", "c4"]),
]


@pytest.mark.parametrize(("count", "beside", "afters"), WHOLE)
def test_all_pages(both: Both, count: int, beside: dict[str, Any], afters: list[str | None]) -> None:
    """Iterating gives the items of all pages once, in order; each page is asked for after the last id of the one before.

    Where the server says neither whether there is more nor after what, the items tell.
    """
    shelf = Shelf(count, **beside)
    with Loopback(shelf.play) as server:
        use: Call = lambda client: client.chat.completions.list(metadata={"a": "b"}, extra_query={"zap": "1"})  # noqa: E731
        found = both.all(use, server_url=server.url)
    assert [f"c{place}" for place in range(count)] == [item.id for item in found]
    fixed = [("metadata[a]", "b"), ("zap", "1")]
    assert [fixed + ([("after", after)] if after else []) for after in afters] == [query for _, _, query, _ in shelf.asked]


def test_from_anywhere(both: Both) -> None:
    """A list may begin after an id, also one that the query names."""
    for use in (
        lambda client: client.chat.completions.list(after="c2", limit=1),
        lambda client: client.chat.completions.list(limit=1, extra_query={"after": "c2"}),
    ):
        shelf = Shelf(5)
        with Loopback(shelf.play) as server:
            assert ["c3", "c4"] == [item.id for item in both.all(use, server_url=server.url)]
        assert [{"limit": "1", "after": after} for after in ("c2", "c3")] == [dict(query) for _, _, query, _ in shelf.asked]


def test_page_by_page(both: Both) -> None:
    """Pages can be gone through one by one, and a page is fetched when it is come to, not before."""
    shelf = Shelf(5)
    with Loopback(shelf.play) as server:
        pages = both.pages(lambda client: client.chat.completions.list(), server_url=server.url)
        assert [["c0", "c1"], ["c2", "c3"], ["c4"]] == [[item.id for item in page.data] for page in pages]
        assert [True, True, False] == [page.has_next_page() for page in pages]
        assert 3 == len(shelf.asked)

        if both.kind == "blocking":
            with Gpt(server_url=server.url) as client:
                first = client.chat.completions.list()
                assert (4, ["c2", "c3"]) == (len(shelf.asked), [item.id for item in first.get_next_page().data])
                items = iter(first)
                assert ("c0", "c1", 5) == (next(items).id, next(items).id, len(shelf.asked))
                assert ("c2", 6) == (next(items).id, len(shelf.asked))
            return

        async def run() -> None:
            async with AsyncGpt(server_url=server.url) as client:
                listing = client.chat.completions.list()
                assert (3, "AsyncListing(StoredCall('GET', ''))") == (len(shelf.asked), repr(listing))
                first = await listing
                assert (4, ["c2", "c3"]) == (len(shelf.asked), [item.id for item in (await first.get_next_page()).data])
                items = aiter(first)
                assert ("c0", "c1", 5) == ((await anext(items)).id, (await anext(items)).id, len(shelf.asked))
                assert ("c2", 6) == ((await anext(items)).id, len(shelf.asked))
                assert ["c0", "c1", "c2", "c3", "c4"] == [item.id async for item in first]

        asyncio.run(run())


def test_no_next_page(both: Both) -> None:
    """There is no page after the last, and asking for it sends nothing."""
    shelf = Shelf(2)
    with Loopback(shelf.play) as server:

        async def follow(client: AsyncGpt) -> None:
            await (await client.chat.completions.list()).get_next_page()

        def go(client: Any) -> Any:
            return follow(client) if both.kind == "async" else client.chat.completions.list().get_next_page()

        with pytest.raises(InvalidRequestError, match="this page is the last; has_next_page"):
            both.ask(go, server_url=server.url)
    assert 1 == len(shelf.asked)


def test_same_page_again(both: Both) -> None:
    """A server that gives the same page for ever is found out before an item comes twice."""
    page = {"object": "list", "data": [{**completion(), "id": "c0"}], "has_more": True}
    got: list[str] = []

    def take(item: ChatCompletion) -> None:
        got.append(item.id)
        assert 1 == len(got)  # not for ever

    def play(client: Any) -> None:
        for item in client.chat.completions.list():
            take(item)

    async def aplay(client: Any) -> None:
        async for item in client.chat.completions.list():
            take(item)

    with serving(page) as server, pytest.raises(MalformedResponseError, match="ends with 'c0', after which it was to begin"):
        both.ask(play if both.kind == "blocking" else aplay, server_url=server.url)
    assert ["c0"] == got
    assert 2 == len(server.requests)


# --------------------------------------------------------------------------------------------------------------------
# What goes wrong
# --------------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Call, type[Exception], str]] = [
    (lambda c: c.retrieve(""), InvalidRequestError, "completion_id: '' is no id"),
    (lambda c: c.update("..", metadata={}), InvalidRequestError, "completion_id: '..' is no id"),
    (lambda c: c.delete(""), InvalidRequestError, "would lead elsewhere"),
    (lambda c: c.messages.list(""), InvalidRequestError, "completion_id: '' is no id"),
    (lambda c: c.retrieve(None), InvalidRequestError, "completion_id: expected str, got NoneType"),
    (lambda c: c.list(limit="5"), InvalidRequestError, "limit: expected an int, got str"),
    (lambda c: c.list(limti=5), TypeError, "unknown parameter 'limti'; there are after, limit, metadata, model, order, deadline"),
    (lambda c: c.list(zap=5), TypeError, "to send it all the same, pass query={'zap': ...}"),
    (lambda c: c.retrieve("c", model="m"), TypeError, "unknown parameter 'model'; there are deadline, headers, query, retry"),
    (lambda c: c.messages.list("c", model="m"), TypeError, "unknown parameter 'model'; there are after, limit, order,"),
    (lambda c: c.update("c"), TypeError, "metadata"),
    (lambda c: c.list(query={"a": "1"}, extra_query={"a": "1"}), InvalidRequestError, "query and extra_query are two names"),
    (lambda c: c.list(extra_body={"a": 1}), InvalidRequestError, "body: a call that only reads sends none"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "kind", "text"), REFUSED)
def test_refused(both: Both, use: Call, kind: type[Exception], text: str) -> None:
    """What cannot be sent is refused where it is said, and nothing is sent."""
    shelf = Shelf()
    with Loopback(shelf.play) as server, pytest.raises(kind) as caught:
        both.ask(lambda client: use(client.chat.completions), server_url=server.url)
    assert text in str(caught.value)
    assert [] == shelf.asked


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.list(),
        lambda c: c.retrieve("c1"),
        lambda c: c.update("c1", metadata={"a": "b"}),
        lambda c: c.delete("c1"),
        lambda c: c.messages.list("c1"),
    ],
)
@pytest.mark.parametrize("fault", [answer(b"", "503 Busy"), b""], ids=["busy", "reset"])
def test_tried_again(both: Both, use: Call, fault: bytes) -> None:
    """Each call is tried again as others are; all attempts at an update have one Idempotency-Key."""
    shelf = Shelf(5, fault, fault)
    with Loopback(shelf.play) as server, no_waiting():
        made = both.ask(lambda client: use(client.chat.completions), server_url=server.url)
    assert 3 == len(made.info.attempts) == len(shelf.asked)
    keys = [line for head in shelf.heads for line in head.split("\r\n") if line.startswith("idempotency-key:")]
    assert (3, 1) == (len(keys), len(set(keys))) if shelf.asked[0][0] == "POST" else [] == keys


def test_not_tried_again(both: Both) -> None:
    """A call's own policy holds."""
    shelf = Shelf(5, answer(b"", "500 Broken"))
    with Loopback(shelf.play) as server, pytest.raises(ServerError):
        both.ask(lambda client: client.chat.completions.list(retry=Retry(attempts=1)), server_url=server.url)
    assert 1 == len(shelf.asked)


def test_deleted_before(both: Both) -> None:
    """A deletion whose first attempt may have worked says so; one that found nothing at once does not."""
    for failing, notes in (([b""], 1), ([answer(b"", "500 Broken")], 1), ([], 0)):
        shelf = Shelf(0, *failing)
        with Loopback(shelf.play) as server, no_waiting(), pytest.raises(BadRequestError) as caught:
            both.ask(lambda client: client.chat.completions.delete("c1"), server_url=server.url)
        assert 404 == caught.value.status_code
        assert notes == len(getattr(caught.value, "__notes__", []))


def test_not_there(both: Both) -> None:
    """What is not there is an error that says what may be missing."""
    for fault in (None, answer(b'{"detail":"Method Not Allowed"}', "405 Method Not Allowed")):
        with Loopback(Shelf(5, *([fault] if fault else [])).play) as server, pytest.raises(BadRequestError) as caught:
            both.ask(lambda client: client.chat.completions.retrieve("nothing"), server_url=server.url)
        assert "completions are stored where `store=True` was sent, and not every server stores any" in str(caught.value)


MALFORMED: list[tuple[bytes, Call, str]] = [
    (b"<html>", lambda c: c.list(), "sent no list of chat completions: it is not JSON"),
    (b"{}", lambda c: c.list(), "data"),
    (b'{"data": [{"id": "a"}, {"id": 5.5}]}', lambda c: c.list(), "$.data[1].id"),
    (b'{"data": [{"id": "a", "choices": 5}]}', lambda c: c.list(), "$.data[0].choices"),
    (b'{"data": [], "has_more": true}', lambda c: c.list(), "there is more, but not after which id"),
    (b'{"data": [{}]}', lambda c: c.messages.list("c"), "sent no list of messages"),
    (b'{"id": "c"}', lambda c: c.delete("c"), "sent no word of what was deleted"),
    (b'{"id": "c"}', lambda c: c.retrieve("c"), "sent no chat completion"),
    (b'{"id": "c"}', lambda c: c.update("c", metadata={}), "sent no chat completion"),
]


@pytest.mark.parametrize(("body", "use", "text"), MALFORMED)
def test_malformed(both: Both, body: bytes, use: Call, text: str) -> None:
    """An answer with status 200 that is none is an error that says what was wanted, and where it is wrong."""
    with serving(answer(body)) as server, pytest.raises(MalformedResponseError) as caught:
        both.ask(lambda client: use(client.chat.completions), server_url=server.url)
    assert text in str(caught.value)


def test_error_in_disguise(both: Both) -> None:
    """An error with status 200 is that error."""
    with serving({"error": {"message": "no", "code": "server_error"}}) as server, pytest.raises(ServerError):
        both.ask(lambda client: client.chat.completions.list(retry=Retry(attempts=1)), server_url=server.url)


def test_nobody_there(both: Both) -> None:
    """No answer is the error that it is elsewhere."""
    with Loopback(Shelf().play) as server:
        url = server.url
    with pytest.raises(ConnectError):
        both.ask(lambda client: client.chat.completions.list(), server_url=url, max_retries=0)


# --------------------------------------------------------------------------------------------------------------------
# Where keys go, and who is asked
# --------------------------------------------------------------------------------------------------------------------


def test_key(both: Both) -> None:
    """A key that a function gives is asked for at each page."""
    keys = iter("abc")

    async def later() -> str:
        return next(keys)

    shelf = Shelf(5)
    with Loopback(shelf.play) as server:
        given = (lambda: next(keys)) if both.kind == "blocking" else later
        both.all(lambda client: client.chat.completions.list(), server_url=server.url, api_key=given)
    assert [True] * 3 == [f"authorization: Bearer {key}\r\n" in head for key, head in zip("abc", shelf.heads, strict=True)]


AZURE: list[tuple[dict[str, str], str, str]] = [
    ({}, "/openai/v1/chat/completions", ""),
    ({"api-version": "2025-02-01-preview"}, "/openai/chat/completions", "?api-version=2025-02-01-preview"),
]


@pytest.mark.parametrize(("query", "path", "after"), AZURE)
def test_azure(both: Both, query: dict[str, str], path: str, after: str) -> None:
    """Azure's are below no model: they are asked for where the official package asks for them."""
    shelf = Shelf()
    with Loopback(shelf.play) as server:
        settings = {"server_url": f"http://127.0.0.1:{server.port}", "profile": "azure", "api_key": "k", "query": query}
        for use in (lambda c: c.retrieve("c1"), lambda c: c.list()):
            with pytest.raises(BadRequestError):  # there is nothing at these addresses of this server
                both.ask(lambda client, use=use: use(client.chat.completions), model="m", **settings)
        targets = [head.split(" ")[1] for head in shelf.heads]
    assert [f"{path}/c1{after}", f"{path}{after}"] == targets


class Keeping(Scripted):
    """A model with a script, which has stored things, and remembers how it was asked for them."""

    def __init__(self) -> None:
        super().__init__("hi")
        self.calls: list[tuple[str, str, CallOptions]] = []

    def stored(self, call: Any, options: Any = None) -> Any:
        self.calls.append((call.method, call.path, options))
        return ChatCompletion(id="c1")


def test_layers(both: Both, tmp_path: Path) -> None:
    """Layers pass it on to the backend below them, which is asked as the call says."""
    keeping = Keeping()

    def over(backend: Any) -> Any:
        if both.kind == "blocking":
            return Limit(Cache(Record(backend, tmp_path / "talk.jsonl"), tmp_path / "cache.sqlite"), requests_per_minute=1)
        return AsyncLimit(
            gpt.AsyncCache(gpt.AsyncRecord(in_threads(backend), tmp_path / "talk.jsonl"), tmp_path / "cache.sqlite"),
            requests_per_minute=1,
        )

    told: list[Any] = []
    use: Call = lambda client: client.chat.completions.retrieve("c1", deadline=5)  # noqa: E731
    for _ in range(3):  # more than the limit on requests, which holds for answers
        assert "c1" == both.ask(use, backend=over(keeping), on_event=told.append).id
    assert [] == told
    assert [("GET", "/c1")] * 3 == [(method, path) for method, path, _ in keeping.calls]
    assert 5 == keeping.calls[0][2].deadline


def test_after_an_estimate(both: Both) -> None:
    """A client that learns from its answers still finds what is stored."""
    keeping = Keeping()

    async def count(client: Any) -> Any:
        await client.chat.count_tokens("a")
        return await client.chat.completions.retrieve("c1")

    def use(client: Any) -> Any:
        if both.kind == "async":
            return count(client)
        client.chat.count_tokens("a")
        return client.chat.completions.retrieve("c1")

    assert "c1" == both.ask(use, backend=keeping).id


def test_cancelled_in_threads() -> None:
    """A task that is cancelled tells the blocking backend so."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        began: asyncio.Future[None] = loop.create_future()
        told: asyncio.Future[bool] = loop.create_future()

        class Waiting(Keeping):
            def stored(self, call: Any, options: Any = None) -> Any:
                loop.call_soon_threadsafe(began.set_result, None)
                loop.call_soon_threadsafe(told.set_result, options.cancel.wait(30))

        client = AsyncGpt(backend=Waiting())
        task = asyncio.ensure_future(client.chat.completions.retrieve("c1"))
        await began
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await told

    asyncio.run(run())


class Tagged(Scripted):
    """A model with a script, over which a client puts a layer."""

    profile = Profile(think_tags=("<think>", "</think>"))


NONE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Tagged("hi"), "Tagged stores no completions"),
    (lambda: Scripted("hi"), "Scripted stores no completions: ask the server that does"),
    (lambda: Limit(Scripted("hi"), requests_per_minute=5), "Scripted stores no completions"),
    (lambda: Fallback([Gpt(server_url="http://127.0.0.1:9/v1")]), "Fallback stores no completions"),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "text"), NONE)
@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.list(),
        lambda c: c.retrieve("c1"),
        lambda c: c.update("c1", metadata={"a": "b"}),
        lambda c: c.delete("c1"),
        lambda c: c.messages.list("c1"),
    ],
)
def test_stores_none(both: Both, backend: Callable[[], Any], text: str, use: Call) -> None:
    """A backend that stores nothing says so, and who does."""
    with pytest.raises(InvalidRequestError, match=text) as caught:
        both.ask(lambda client: use(client.chat.completions), backend=backend())
    assert "gpt serve --store FILE" in str(caught.value)


def test_keeper_of() -> None:
    """Who is asked is the first below the layers; above the bridge it is awaited, and where there is none there is none."""
    keeping = Keeping()
    assert keeper_of(keeping) == keeping.stored
    assert inspect.isawaitable(made := keeper_of(in_threads(keeping))("call", CallOptions()))
    made.close()  # type: ignore[attr-defined]
    assert None is keeper_of(in_threads(Scripted("hi"))) is keeper_of(Scripted("hi"))


# --------------------------------------------------------------------------------------------------------------------
# gpt serve
# --------------------------------------------------------------------------------------------------------------------


def test_our_own_server(both: Both, tmp_path: Path) -> None:
    """What our own server stores is found, changed, read and deleted."""
    with served.serving(
        App(AsyncScripted("one", "two", "three"), store=StoredCompletions(tmp_path / "stored.sqlite"))
    ) as server:
        settings = {"server_url": server.url}
        for word in ("a", "b", "c"):
            both.ask(lambda client, word=word: client.chat.complete(word, store=True, metadata={"w": word}), **settings)
        listed = both.all(lambda client: client.chat.completions.list(limit=2), **settings)
        assert ["one", "two", "three"] == [item.text for item in listed]
        found = both.all(lambda client: client.chat.completions.list(metadata={"w": "b"}), **settings)
        assert ["two"] == [item.text for item in found]
        backwards = both.all(lambda client: client.chat.completions.list(order="desc", limit=1), **settings)
        assert ["three", "two", "one"] == [item.text for item in backwards]
        first = listed[0].id
        assert listed[0].to_dict() == both.ask(lambda client: client.chat.completions.retrieve(first), **settings).to_dict()
        changed = both.ask(lambda client: client.chat.completions.update(first, metadata={"x": "y"}), **settings)
        assert {"x": "y"} == changed.metadata
        said = both.all(lambda client: client.chat.completions.messages.list(first), **settings)
        assert [("user", "a")] == [(message.role, message.content) for message in said]
        assert both.ask(lambda client: client.chat.completions.delete(first), **settings).deleted
        with pytest.raises(BadRequestError, match=f"No chat completion found with id '{first}'"):
            both.ask(lambda client: client.chat.completions.delete(first), **settings)
        assert 2 == len(both.all(lambda client: client.chat.completions.list(), **settings))


def test_thinking_apart(both: Both) -> None:
    """Thinking is told apart in what was stored too, where the server's profile says so."""
    shelf = Shelf(1)
    shelf.kept["c0"]["choices"][0]["message"]["content"] = "<think>hm</think>Oslo"  # type: ignore[index]
    with Loopback(shelf.play) as server:
        settings = {"server_url": server.url, "profile": Profile(think_tags=("<think>", "</think>"))}
        [listed] = both.all(lambda client: client.chat.completions.list(), **settings)
        found = both.ask(lambda client: client.chat.completions.retrieve("c0"), **settings)
        deleted = both.ask(lambda client: client.chat.completions.delete("c0"), **settings)
    assert [("hm", "Oslo")] * 2 == [(made.message.reasoning, made.message.content) for made in (listed, found)]
    assert deleted.deleted
