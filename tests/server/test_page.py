"""The chat page, in a real browser against the real server. Skipped where there is no Chromium, except for what needs none."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import GptError, RateLimitError, ServerError
from gpt.server.app import App
from gpt.server.asgi import Receive, Scope, Send
from gpt.server.page import page
from gpt.testing import AsyncScripted
from gpt.testing.scripted import chunk, completion
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest, ChunkChoice, Delta, Model, ModelList, Usage
from whatwg import reference

from browser import PATIENCE, SHIFT, Browser, Tab, program
from serving import Served, serving

KEY = "a-key-that-nobody-guesses"
PICTURES = os.environ.get("GPT_PAGE_PICTURES")
"""A folder to which screenshots of the states go, for people to look at."""


# A model whose words the test gives one at a time


class HeldStream:
    """A stream that gives what `give` put in, when it does. `closed` is set when it is left."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.closed = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[ChatCompletionChunk | GptError | None] = asyncio.Queue()

    def give(self, *items: ChatCompletionChunk | GptError | None) -> None:
        """Chunks, an error, and None as the end."""
        for item in items:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def end(self, prompt: int = 7, made: int = 3) -> None:
        """Finish reason, usage and end."""
        self.give(chunk(finish="stop"), usage(prompt, made), None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        item = await self._queue.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, GptError):
            raise item
        return item

    async def close(self) -> None:
        self.closed.set()


class Held:
    """A Backend of such streams."""

    def __init__(self, *names: str) -> None:
        self._names = names or ("held",)
        self._changed = threading.Condition()
        self._streams: list[HeldStream] = []

    def nth(self, place: int) -> HeldStream:
        """The stream of the call at this place, once it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._streams) > place, PATIENCE)
            return self._streams[place]

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return completion("whole")

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> HeldStream:
        made = HeldStream(request)
        with self._changed:
            self._streams.append(made)
            self._changed.notify_all()
        return made

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return ModelList([Model(name) for name in self._names])

    async def close(self) -> None:
        pass


def usage(prompt: int, made: int) -> ChatCompletionChunk:
    return ChatCompletionChunk(id="c", model="held", choices=[], usage=Usage(made, prompt, prompt + made))


def thought(text: str, name: str) -> ChatCompletionChunk:
    """A chunk of thinking, under one of its names."""
    said: Any = [{"type": "reasoning.text", "text": text}] if name == "reasoning_details" else text
    delta = Delta(**{"raw_reasoning" if name == "reasoning" else name: said})
    return ChatCompletionChunk(id="c", model="held", choices=[ChunkChoice(delta)])


# A server that answers calls as the test says

Play = Callable[[Scope, Receive, Send], Awaitable[None]]


class Faulty(App):
    """An App whose first calls are answered by `plays`."""

    def __init__(self, backend: Any, *plays: Play) -> None:
        super().__init__(backend)
        self.plays = list(plays)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/chat/completions" and self.plays:
            await self.plays.pop(0)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Broken(Exception):
    """Raised in the middle of an answer, upon which the server cuts the connection."""


def raw(
    *pieces: bytes, status: int = 200, kind: str = "text/event-stream", breaks: threading.Event | None = None, **headers: str
) -> Play:
    """An answer as bytes; the connection is cut after them when `breaks` is set."""

    async def play(scope: Scope, receive: Receive, send: Send) -> None:
        named = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent = [(name.encode(), value.encode()) for name, value in named.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if breaks is not None:
            await asyncio.to_thread(breaks.wait, PATIENCE)
            raise Broken
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return play


def event(text: str = "", **more: Any) -> bytes:
    """An event with a piece of an answer."""
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}, **more}]}).encode() + b"\n\n"


# The browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = program()
    if path is None:
        pytest.skip("there is no chromium here")
    made = Browser(path, tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


class Chat:
    """The page in a tab, and what people do with it."""

    def __init__(self, tab: Tab, server: Served) -> None:
        self.tab = tab
        self.server = server
        self.expected: list[str] = []
        """What the browser's own console may complain of: answers that are errors."""

    def open(self) -> Self:
        self.tab.open(f"{self.server.origin}/")
        self.tab.until("models.length && document.activeElement === $('box')")
        return self

    def say(self, text: str) -> None:
        """Write it and press Enter."""
        self.tab.until("document.activeElement === $('box')")
        self.tab.write(text)
        self.tab.press("Enter")

    def ask(self, text: str, answer: str) -> None:
        """Say it, and wait for the whole answer."""
        self.say(text)
        self.answered(answer)

    def answered(self, text: str) -> None:
        self.tab.until(f"!running.size && {LAST}.querySelector('.text').textContent === {json.dumps(text)}")

    def press(self, name: str) -> None:
        """Click the last button that is called so."""
        self.tab.value("document.querySelectorAll('[data-test]').forEach((one) => delete one.dataset.test), 0")
        label = json.dumps(name)
        self.tab.until(
            "(() => { const found = [...document.querySelectorAll('button')].filter((one) => one.checkVisibility() &&"
            f" (one.getAttribute('aria-label') ?? one.textContent.trim()) === {label}).at(-1);"
            " if (found) found.dataset.test = '1'; return Boolean(found) })()"
        )
        self.tab.click("[data-test]")

    def figures(self) -> list[str]:
        found: list[str] = self.tab.value(f"[...{LAST}.querySelectorAll('.figures li')].map((one) => one.textContent)")
        return found

    def picture(self, name: str) -> None:
        if PICTURES:
            self.tab.picture(Path(PICTURES) / f"{name}.png")


LAST = "[...document.querySelectorAll('article')].at(-1)"
TEXT = f"{LAST}.querySelector('.text').textContent"


@pytest.fixture
def chats(browser: Browser) -> Iterator[Callable[..., Chat]]:
    """Opens the page of a server. Afterwards: nothing was asked of anybody else, and the browser had nothing to complain of."""
    made: list[Chat] = []

    def start(server: Served) -> Chat:
        tab = browser.tab()
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=(
            "addEventListener('securitypolicyviolation', (event) => console.error('policy: ' + event.violatedDirective))"
        ))  # fmt: skip
        made.append(Chat(tab, server))
        return made[-1]

    yield start
    for one in made:
        one.tab.close()
        outside = [
            url
            for url in one.tab.requests
            if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(f"{one.server.origin}/")
        ]
        assert [] == outside
        assert [] == [text for text in one.tab.complaints if not any(expected in text for expected in one.expected)]


def test_streams(chats: Callable[..., Chat]) -> None:
    """An answer is shown while it comes, with its figures at the end; it is read aloud once, whole."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.say("Name a river.")
        stream = held.nth(0)
        assert [("user", "Name a river.")] == [(message["role"], message["content"]) for message in _plain(stream)]
        assert "held" == stream.request.model
        tab.until(f"{LAST}.getAttribute('aria-busy') === 'true' && document.title === 'Answering: Name a river. – gpt'")
        stream.give(chunk("the "))
        tab.until(f"{TEXT} === 'the'")
        stream.give(chunk("**Ni"))
        tab.until(f"{TEXT} === 'the Ni' && {LAST}.querySelector('strong')")
        assert "" == tab.value("$('announce').textContent")
        assert ["Stop"] == tab.value(
            "[...$('compose').querySelectorAll('button')].filter((one) => one.checkVisibility()).map((one) => one.textContent)"
        )
        tab.until("[...running.values()].every((run) => run.since() - run.message.first > .15)")  # a rate needs some time
        stream.give(chunk("le**"))
        stream.end()
        chat.answered("the Nile")
        assert ["7 tokens in, 3 out", "held"] == [figure for figure in chat.figures() if not re.search(r" s$|/s$", figure)]
        assert re.search(r"first token after \d+\.\d\d s", chat.figures()[1])
        assert re.fullmatch(r"\d+(\.\d)? tokens/s", chat.figures()[2])
        assert "Answer: the Nile\n" == tab.value("$('announce').textContent")
        assert ["false", "Name a river. – gpt", "box"] == tab.value(
            f"[{LAST}.getAttribute('aria-busy'), document.title, document.activeElement.id]"
        )
        chat.say("And another?")
        said = [(message["role"], message["content"]) for message in _plain(held.nth(1))]
        assert [("user", "Name a river."), ("assistant", "the **Nile**"), ("user", "And another?")] == said
        held.nth(1).end()


def _plain(stream: HeldStream) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(json.dumps([_dict(message) for message in stream.request.messages]))
    return messages


def _dict(message: Any) -> Any:
    return message if isinstance(message, dict) else {"role": message.role, "content": message.content}


@pytest.mark.parametrize("how", ["Esc", "Stop", "Delete"])
def test_stop(chats: Callable[..., Chat], how: str) -> None:
    """Stopping ends the work at the other end; what had come stays, and more can be said. So does deleting the conversation."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        chat.say("Name a river.")
        stream = held.nth(0)
        stream.give(chunk("the "))
        chat.tab.until(f"{TEXT} === 'the'")
        assert not stream.closed.is_set()
        if how == "Esc":
            chat.tab.press("Escape")
        else:
            chat.press("Stop" if how == "Stop" else "Delete Name a river.")
        assert stream.closed.wait(PATIENCE)
        chat.tab.until("!running.size")
        if how == "Delete":
            assert ["New conversation", 0] == chat.tab.value("[$('heading').textContent, talks.size]")
            return
        assert "the" == chat.tab.value(TEXT)
        assert "Stopped" == chat.figures()[0]
        assert "Stopped. Answer: the\n" == chat.tab.value("$('announce').textContent")
        assert "box" == chat.tab.value("document.activeElement.id")
        chat.press("Regenerate the answer")
        held.nth(1).give(chunk("a river"))
        held.nth(1).end()
        chat.answered("a river")
        assert 1 == len(_plain(held.nth(1)))


def test_kept(chats: Callable[..., Chat], tmp_path: Path) -> None:
    """Conversations outlive a reload, also in the middle of an answer; they can be named, deleted, brought back and exported."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.say("One?")
        held.nth(0).give(chunk("eins"))
        held.nth(0).end()
        chat.answered("eins")
        chat.press("New conversation")
        chat.say("Two?")
        held.nth(1).give(chunk("zw"))
        tab.until(f"{TEXT} === 'zw'")
        tab.reload()
        assert held.nth(1).closed.wait(PATIENCE)
        tab.until("models.length")
        assert ["Two?", "One?"] == _titles(tab)
        assert "zw" == tab.value(TEXT)
        assert "Cut off when the page was left" == chat.figures()[0]
        tab.click("#talks li:not(.current) .open")
        tab.until(f"{TEXT} === 'eins'")
        assert "7 tokens in, 3 out" == chat.figures()[0]
        tab.click("[data-control='Rename']")
        tab.write("Uno")
        tab.press("Enter")
        tab.until("$('heading').textContent === 'Uno' && document.activeElement.dataset.control === 'Rename'")
        tab.reload()
        tab.until("models.length && $('heading').textContent === 'Uno'")
        tab.click("[data-control='Delete']")
        tab.until("$('heading').textContent === 'Two?'")
        assert ["Two?"] == _titles(tab)
        chat.press("Undo")
        tab.until("$('heading').textContent === 'Uno'")
        tab.reload()
        tab.until("models.length && $('heading').textContent === 'Uno'")
        assert {"Two?", "Uno"} == set(_titles(tab))
        tab.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(tmp_path),
            eventsEnabled=False,
            browserContextId=tab.context,
        )
        tab.click("[data-control='Export']")
        tab.until("true")
        exported = json.loads(_file(tab, tmp_path / "Uno.json"))
        assert [("user", "One?"), ("assistant", "eins")] == [
            (message["role"], message["content"]) for message in exported["messages"]
        ]
        assert "Uno" == exported["title"]


def _titles(tab: Tab) -> list[str]:
    found: list[str] = tab.value("[...document.querySelectorAll('#talks .open')].map((one) => one.textContent)")
    return found


def _file(tab: Tab, path: Path) -> str:
    """What a file says once it is there and whole; the page is asked meanwhile, which takes its time."""
    for _ in range(3000):
        if path.exists() and path.read_text().endswith("}\n"):
            return path.read_text()
        tab.value("new Promise((done) => setTimeout(done, 10))")
    raise AssertionError(f"{path} never came")


def test_storage_full(chats: Callable[..., Chat]) -> None:
    """Where the browser keeps nothing more, the page says so and goes on."""
    with serving(App(AsyncScripted("hi"))) as server:
        chat = chats(server).open()
        chat.tab.value("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }, 0")
        chat.ask("Hello", "hi")
        assert "The browser keeps no more of this conversation" in chat.tab.value("$('notice').textContent")


@pytest.mark.parametrize("ticked", [False, True])
def test_key(chats: Callable[..., Chat], ticked: bool) -> None:
    """A server that needs a key has the page ask for it, until it is right; it is kept for the session, or longer if wished."""
    with serving(App(AsyncScripted("hi"), keys=[KEY])) as server:
        chat = chats(server)
        chat.expected = ["401"]
        tab = chat.tab
        tab.open(f"{server.origin}/")
        tab.until("$('key-dialog').open && document.activeElement === $('key')")
        assert ("dialog", "This server needs a key") in tab.named()
        chat.picture(f"key-{ticked}")
        tab.write("a key with spaces")
        tab.press("Enter")
        tab.until("$('key').validity.customError")
        tab.value("$('key').select(), 0")
        tab.write("a-wrong-key-is-no-key")
        tab.press("Enter")
        tab.until("$('key-why').textContent === 'The server did not take the key.'")
        tab.press("Escape")
        tab.until("!$('key-dialog').open && $('notice').textContent.includes('Incorrect API key')")
        tab.until("document.activeElement === $('box')")
        chat.say("Hello")
        tab.until("$('key-dialog').open")
        tab.write(KEY)
        if ticked:
            tab.click("#key-keep")
            tab.value("$('key').focus(), 0")
        tab.press("Enter")
        chat.answered("hi")
        stored = tab.value("[Object.values(sessionStorage), Object.values(localStorage)]")
        assert [True, ticked] == [KEY in kept for kept in stored]
        assert "" == tab.value("$('key').value")
        assert not [url for url in tab.requests if KEY in url]
        tab.value("sessionStorage.clear(), 0")  # what the end of the session does
        asked = len(tab.requests)
        tab.reload()
        tab.until("models.length" if ticked else "$('key-dialog').open")
        assert len(tab.requests) > asked
        if ticked:
            tab.click("#show-settings")
            chat.press("Forget the key")
            tab.until("$('key-row').hidden")
            assert KEY not in json.dumps(tab.value("[{ ...sessionStorage }, { ...localStorage }]"))


TOO_MANY = RateLimitError("slow", 429, retry_after=7.0)
FAILURES: list[tuple[str, list[Any], str, str]] = [
    # what is answered first, what of the answer is kept, what is said
    ("an error event", [[chunk("the "), ServerError("down", 500)]], "the", "the model failed; try again. What had come is kept."),
    ("429", [TOO_MANY], "", "The server asks to wait 7\u00a0s."),
    ("an end without a marker", [raw(event("the "))], "the", "The answer ended before it was whole."),
    ("no JSON in an event", [raw(event("the "), b"data: {nope\n\n")], "the", "an event that cannot be read: {nope"),
    ("no object in an event", [raw(b"data: null\n\n")], "", "an event that cannot be read: null"),
    ("no stream", [raw(b"{}", kind="application/json")], "", "answered with application/json and not with a stream"),
    ("something between", [raw(b"<h1>Bad gateway</h1>", status=502, kind="text/html")], "", "The server answered with status 502."),
    ("a text as error", [raw(b'{"error": "no"}', status=400, kind="application/json")], "", "no"),
    ("a date to wait for", [raw(b"{}", status=503, retry_after="Fri, 01 Jan 2100 00:00:00 GMT")], "", "The server asks to wait "),
]  # fmt: skip


def test_failures(chats: Callable[..., Chat]) -> None:
    """What goes wrong is said in its place, what had come is kept, and trying again gives the answer."""
    backend = AsyncScripted("the Nile")
    app = Faulty(backend)
    with serving(app) as server:
        chat = chats(server).open()
        chat.expected = ["Failed to load resource"]
        for name, answers, kept, said in FAILURES:
            app.plays = [answer for answer in answers if callable(answer)]
            backend.script.answers = [*(answer for answer in answers if not callable(answer)), "the Nile"]
            chat.press("New conversation")
            chat.say(f"Name a river, {name}.")
            chat.tab.until(f"!running.size && {LAST}?.querySelector('.problem:not([hidden])')")
            assert (name, said) == (
                name,
                chat.tab.value(f"{LAST}.querySelector('.problem').textContent.match({json.dumps(re.escape(said))})?.[0]"),
            )
            assert (name, kept) == (name, chat.tab.value(TEXT))
            assert chat.tab.value("$('announce').textContent").startswith("Error: ")
            chat.picture(f"error-{name}")
            chat.press("Try again")
            chat.answered("the Nile")
            assert (name, True, 2) == (
                name,
                *chat.tab.value(f"[{LAST}.querySelector('.problem').hidden, document.querySelectorAll('article').length]"),
            )


def test_cut(chats: Callable[..., Chat]) -> None:
    """Where the connection breaks, what had come is kept, and the answer can be asked for again."""
    cut = threading.Event()
    with serving(Faulty(AsyncScripted("the Nile"), raw(event("the "), event("Ni"), breaks=cut))) as server:
        chat = chats(server)
        chat.expected = ["Failed to load resource"]
        chat.open().say("Name a river.")
        chat.tab.until(f"{TEXT} === 'the Ni'")
        cut.set()
        chat.tab.until(
            f"!running.size && {LAST}.textContent.includes('The connection broke before the answer was whole. What had come is kept.')"
        )
        assert "the Ni" == chat.tab.value(TEXT)
        chat.picture("cut")
        chat.press("Try again")
        chat.answered("the Nile")


def test_failed_again(chats: Callable[..., Chat]) -> None:
    """An answer that was to be replaced comes back where nothing else comes, with the error below it."""
    with serving(App(AsyncScripted("the Nile", TOO_MANY, "the Rhine"))) as server:
        chat = chats(server)
        chat.expected = ["429"]
        chat.open().ask("Name a river.", "the Nile")
        chat.press("Regenerate the answer")
        chat.tab.until(f"!running.size && {LAST}.querySelector('.problem:not([hidden])')")
        assert "the Nile" == chat.tab.value(TEXT)
        chat.press("Try again")
        chat.answered("the Rhine")


def test_unreachable(chats: Callable[..., Chat]) -> None:
    """A server that is gone is said to be; once it is back it answers."""
    with serving(App(AsyncScripted("hi"))) as server:
        chat = chats(server)
        chat.expected = ["ERR_INTERNET_DISCONNECTED"]
        chat.open()
        away = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        chat.tab.call("Network.emulateNetworkConditions", **away)
        chat.say("Hello")
        chat.tab.until(f"!running.size && {LAST}.textContent.includes('The server could not be reached.')")
        chat.tab.call("Network.emulateNetworkConditions", **{**away, "offline": False})
        chat.press("Try again")
        chat.answered("hi")


def test_loading(chats: Callable[..., Chat]) -> None:
    """While the model is being loaded the page waits and says so, and then answers."""
    body = b'{"error": {"message": "the model is being loaded", "code": "loading"}}'
    go = threading.Event()

    class Loading(Faulty):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and not go.is_set():
                self.plays = [raw(body, status=503, kind="application/json", retry_after="0")]
            await super().__call__(scope, receive, send)

    with serving(Loading(AsyncScripted("hi"))) as server:
        chat = chats(server)
        chat.expected = ["503"]
        chat.open().say("Hello")
        chat.tab.until(
            f"getComputedStyle({LAST}.querySelector('.waiting'), '::after').content.includes('The model is being loaded')"
        )
        go.set()
        chat.answered("hi")


HOSTILE = [
    "<script>hacked()</script>",
    "<img src=x onerror=hacked()>",
    "<svg onload=hacked()>",
    "[click](javascript:hacked())",
    "[click](  javascript:hacked())",
    "[click](data:text/html,hacked())",
    '[click](https://a.example/"onclick="hacked())',
    "[click](https://bank.example@evil.example/)",
    "![x](https://a.example/x.png)",
    "`<b onclick=hacked()>`",
    "```<style>*{display:none}</style>\n<iframe src=javascript:hacked()>\n```",
    "# <h1 style=position:fixed>",
    "- <a href=javascript:hacked()>x</a>",
    "&lt;script&gt;hacked()&lt;/script&gt;",
    "<javascript:hacked()>",
    "**<u>**",
    "\u202e<i>\u0000\ufffd",
]  # fmt: skip
TAGS = set("P STRONG EM CODE PRE DIV SPAN BUTTON A UL OL LI H3 H4 H5 H6 BLOCKQUOTE HR".split())
ATTRIBUTES = set("href target rel title class type data-copy aria-label tabindex role".split())


def test_hostile(chats: Callable[..., Chat]) -> None:
    """Nothing that a model, a reader, a name or an error says becomes markup; links go to the web by their own name only."""
    everything = "\n\n".join(HOSTILE)
    refused = raw(json.dumps({"error": {"message": everything}}).encode(), status=400, kind="application/json")
    app = Faulty(AsyncScripted([thought(everything, "reasoning"), chunk(everything), chunk(finish="stop")]))
    with serving(app) as server:
        chat = chats(server).open()
        chat.expected = ["status of 400"]
        tab = chat.tab
        tab.value("window.hacked = () => console.error('hacked'), 0")
        chat.say("<img src=x onerror=hacked()>")
        tab.until("!running.size && document.querySelectorAll('article').length === 2")
        tags = set(tab.value(f"[...{LAST}.querySelectorAll('.text *')].map((one) => one.tagName)"))
        assert set() == tags - TAGS
        attributes = set(tab.value(f"[...{LAST}.querySelectorAll('.text *')].flatMap((one) => one.getAttributeNames())"))
        assert set() == attributes - ATTRIBUTES
        links = tab.value(f"[...{LAST}.querySelectorAll('a')].map((one) => [one.href, one.rel, one.target])")
        assert ["https://a.example/x.png"] == [href for href, _, _ in links if "hacked" not in href]
        assert {("noopener noreferrer", "_blank")} == {(rel, target) for _, rel, target in links}
        assert not [href for href, _, _ in links if not href.startswith("https://a.example/")]
        shown = tab.value(TEXT)
        for text in (
            "<script>hacked()</script>",
            "<img src=x onerror=hacked()>",
            "javascript:hacked()",
            "&lt;script&gt;",
            "<u>",
            "https://bank.example@evil.example/",
        ):
            assert text in shown
        assert "<img src=x onerror=hacked()>" == tab.value("document.querySelector('article .text').textContent")
        app.plays = [refused]
        chat.say(everything)
        tab.until("!running.size && document.querySelectorAll('article').length === 4")
        assert "<img src=x onerror=hacked()>" in tab.value(f"{LAST}.querySelector('.problem').textContent")
        made = "document.querySelectorAll('img, svg, iframe, b, u, h1 *, body style, .thought *, .problem :not(p, button), nav :not(button, ul, li, div)').length"
        assert 0 == tab.value(made)
        tab.reload()
        tab.until("models.length")
        assert 0 == tab.value(made)


def test_headers() -> None:
    """The page has one style and one script, whose hashes are the policy's; nothing in it would need more than the policy lets."""
    body, headers = page()
    text = body.decode()
    policy = dict(part.partition(" ")[::2] for part in headers["content-security-policy"].split("; "))
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (found,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()}'" == policy[directive]
        assert 1 == text.count(f"<{tag}")
    for directive in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert "'none'" == policy[directive]
    assert ("'self'", "data:") == (policy["connect-src"], policy["img-src"])
    assert ("nosniff", "no-referrer") == (headers["x-content-type-options"], headers["referrer-policy"])
    markup = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    assert [] == re.findall(r"\s(?:on\w+|style|src|srcset|action)=", markup)
    assert ["data:image/svg+xml,"] == re.findall(r'<link[^>]* href="([^%"]*)', markup)
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in text


MARKDOWN = [
    ("plain text", "<p>plain text</p>"),
    ("two\nlines\n\nand more", "<p>two\nlines</p><p>and more</p>"),
    ("**bold** and *thin* and ***both*** and __b__ and _i_", "<p><strong>bold</strong> and <em>thin</em> and <strong><em>both</em></strong> and <strong>b</strong> and <em>i</em></p>"),
    ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    ("*a **b***", "<p><em>a <strong>b</strong></em></p>"),
    ("2 * 3 * 4 and snake_case_name and 2*3*4", "<p>2 * 3 * 4 and snake_case_name and 2*3*4</p>"),
    ("`a*b` and ``x`y`` and `` ` ``", "<p><code>a*b</code> and <code>x`y</code> and <code>`</code></p>"),
    (r"\*not thin\* \\", r"<p>*not thin* \</p>"),
    ("# One\n## Two\n####### seven", "<h3>One</h3><h4>Two</h4><p>####### seven</p>"),
    ("- a\n- b\n  - c\n\n- d", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li><li><p>d</p></li></ul>"),
    ("3. c\n4. d", '<ol start="3"><li><p>c</p></li><li><p>d</p></li></ol>'),
    ("1. a\n   more\n2. b\n\nend", "<ol><li><p>a\nmore</p></li><li><p>b</p></li></ol><p>end</p>"),
    ("1. a\n  - b", "<ol><li><p>a</p><ul><li><p>b</p></li></ul></li></ol>"),
    ("born in\n1986. A year", "<p>born in\n1986. A year</p>"),
    ("> quoted\n> more\n\nafter", "<blockquote><p>quoted\nmore</p></blockquote><p>after</p>"),
    ("above\n\n---\n\nbelow", "<p>above</p><hr><p>below</p>"),
    ("[a](https://b.example/c_(d)) and https://e.example/f_g.", "<p>{a} and {e}.</p>"),
    ("```python\nx = 1  # *not thin*\n\ny\n```\nafter", "{code python|x = 1  # *not thin*\n\ny}<p>after</p>"),
    ("~~~\n```\n~~~", "{code |```}"),
    ("- a\n  ```\n  x\n  ```", "<ul><li><p>a</p>{code |x}</li></ul>"),
]  # fmt: skip


def _expected(html: str) -> str:
    """The shorthands of the table above written out."""
    for name, url, text in (("{a}", "https://b.example/c_(d)", "a"), ("{e}", "https://e.example/f_g", "https://e.example/f_g")):
        html = html.replace(name, f'<a href="{url}" target="_blank" rel="noopener noreferrer" title="{url}">{text}</a>')

    def block(found: re.Match[str]) -> str:
        language, inner = found[1], found[2]
        return (
            f'<div class="code"><div class="code-head"><span>{language or "text"}</span>'
            '<button class="small" type="button" data-copy="code" aria-label="Copy code">Copy</button></div>'
            f'<pre tabindex="0" role="group" aria-label="Code{", " + language if language else ""}"><code>{inner}</code></pre></div>'
        )

    return re.sub(r"\{code (\w*)\|([^}]*)\}", block, html)


# What was drawn while a text came, piece by piece: where it is not what a fresh drawing is, and where text that was shown went away.
PIECEWISE = """((whole) => {
  const bare = (at) => { const copy = at.cloneNode(true); copy.querySelectorAll(".code-head").forEach((one) => one.remove()); return copy.textContent.replace(/\\s/g, "") };
  const fresh = (text, open) => { const at = document.createElement("div"); patch(at, blocks(text, open)); return at };
  const there = document.createElement("div"), wrong = [], end = bare(fresh(whole, false));
  for (let length = 1; length <= whole.length; length += 1) {
    patch(there, blocks(whole.slice(0, length), true));
    if (there.innerHTML !== fresh(whole.slice(0, length), true).innerHTML) wrong.push(["drawn otherwise", length, there.innerHTML]);
    if (!end.startsWith(bare(there))) wrong.push(["shown and taken away", length, bare(there)]);
  }
  patch(there, blocks(whole));
  return [wrong, there.innerHTML];
})"""


def test_markdown(chats: Callable[..., Chat]) -> None:
    """Each text is drawn as the table says; while it comes nothing is shown that is taken away again."""
    with serving(App(AsyncScripted("hi"))) as server:
        tab = chats(server).open().tab
        for text, html in MARKDOWN:
            wrong, drawn = tab.value(f"{PIECEWISE}({json.dumps(text)})")
            assert (text, []) == (text, wrong)
            assert (text, _expected(html)) == (text, drawn)
        wrong, _ = tab.value(
            f"{PIECEWISE}({json.dumps(chr(10).join(text + chr(10) for text, _ in MARKDOWN if '**b***' not in text))})"
        )
        assert [] == wrong


HARD = [
    "*a ", "**a", "`a ``", "[", "[a](http://", "[a](http://x(", "> ", "- ", "_", "***a_b", "https://", "#", "\\", "    ", "1. ", "http://x))", "~~~\n",
    "a\n\n", "`*[_",
]  # fmt: skip


def test_markdown_in_bounds(chats: Callable[..., Chat]) -> None:
    """What is made to be hard to read is read: marks by the ten thousand, opened and never closed, nested without end."""
    with serving(App(AsyncScripted("hi"))) as server:
        tab = chats(server).open().tab
        for piece in HARD:
            for text in (piece * (60_000 // len(piece)), " " * 60_000 + piece, f"{piece * 20_000}\n" * 2):
                assert tab.value(f"typeof spoken(blocks({json.dumps(text)}, true)) === 'string'")


EVENTS = [
    b"data: one\n\ndata: two\r\n\r\ndata: three\r\rdata: four\n\n",
    b": ping\n\n: \r\n\r\ndata: after pings\n\n",
    b"event: error\r\ndata: a\r\ndata: b\r\n\r\n",
    b"event: error\ndata: a\ndata:b\ndata:  c\nid: 1\nretry: 5\n\n",
    b"\xef\xbb\xbfdata: \xe2\x82\xac \xf0\x9f\x98\x80 and a broken \xf0\x9f\n\n",
    b"data\n\ndata:\n\nnothing: here\n\nevent: unused\n\ndata: x\n\n",
    b"data: never ended",
    b"data: a\r\n\r\ndata: b\r\r\ndata: c\r\n\n\r\r\n",
]


def test_event_reader(chats: Callable[..., Chat]) -> None:
    """The page reads events as the standard says, wherever the bytes are cut."""
    read = """((bytes, cuts) => { const reader = new EventReader(), found = []; let from = 0;
        for (const cut of [...cuts, bytes.length]) { found.push(...reader.push(new Uint8Array(bytes.slice(from, cut)))); from = cut }
        return found.map((one) => [one.data, one.name]) })"""
    with serving(App(AsyncScripted("hi"))) as server:
        tab = chats(server).open().tab
        for document in EVENTS:
            expected = [[one.data.decode(), one.event] for one in reference(document)]
            listed = list(document)
            assert expected == tab.value(f"{read}({listed}, [])")
            assert expected == tab.value(f"{read}({listed}, {list(range(1, len(listed)))})")
            wrong = tab.value(
                f"((bytes, wanted) => bytes.flatMap((_, cut) => JSON.stringify({read}(bytes, [cut])) === wanted ? [] : [cut]))"
                f"({listed}, JSON.stringify({json.dumps(expected)}))"
            )
            assert [] == wrong


def test_thinking(chats: Callable[..., Chat]) -> None:
    """What the model thinks, under whichever name, is folded away, and is not sent back."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        for place, name in enumerate(["reasoning", "reasoning_content", "reasoning_details"]):
            chat.say(f"Name a river, {name}.")
            assert "Let me see" not in json.dumps(_plain(held.nth(place)))
            held.nth(place).give(thought("Let me ", name), thought("see.", name))
            chat.tab.until(f"{LAST}.querySelector('details:not([open], [hidden]) summary')?.textContent === 'Thinking…'")
            held.nth(place).give(chunk("the Nile"))
            held.nth(place).end()
            chat.answered("the Nile")
            assert "Let me see." == chat.tab.value(
                f"{LAST}.querySelector('details:not([open], [hidden]) .thought').textContent"
            )
            assert re.fullmatch(r"Thinking, \d+\.\d s", chat.tab.value(f"{LAST}.querySelector('summary').textContent"))
            assert "Let me see" not in chat.tab.value("$('announce').textContent")


def test_settings(chats: Callable[..., Chat]) -> None:
    """Model, system prompt, temperature and limit go along with what is asked; a wrong one is said, and nothing is asked."""
    held = Held("small", "large")
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        tab.value("$('model').value = 'large', $('model').dispatchEvent(new Event('change')), 0")
        tab.click("#show-settings")
        tab.until("document.activeElement === $('system')")
        tab.write("Be brief.")
        tab.click("#temperature")
        tab.write("0.5")
        tab.click("#limit")
        tab.write("0")
        tab.value("$('box').focus(), 0")
        chat.say("Hello")
        tab.until("document.activeElement === $('limit') && !$('settings').hidden")
        assert 0 == tab.value("document.querySelectorAll('article').length")
        assert "Hello" == tab.value("$('box').value")
        tab.value("$('limit').select(), 0")
        tab.write("20")
        tab.press("Escape")
        tab.until("$('settings').hidden && document.activeElement === $('show-settings')")
        tab.value("$('box').focus(), 0")
        tab.press("Enter")
        request = held.nth(0).request
        assert ("large", 0.5, 20) == (request.model, request.temperature, request.max_completion_tokens)
        assert ["system", "user"] == [message["role"] for message in _plain(held.nth(0))]
        held.nth(0).end()
        tab.until("!running.size")
        tab.reload()
        tab.until("models.length")
        assert ["large", "Be brief.", "0.5", "20"] == tab.value(
            "['model', 'system', 'temperature', 'limit'].map((name) => $(name).value)"
        )


def test_edit(chats: Callable[..., Chat]) -> None:
    """A message can be changed and asked again, which replaces what came after it; left alone, nothing changes."""
    with serving(App(AsyncScripted("one", "two", "three"))) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.ask("First?", "one")
        chat.ask("Second?", "two")
        tab.click("article [aria-label='Edit your message']")
        tab.until("document.activeElement.value === 'First?'")
        tab.write(" Really")
        tab.press("Escape")
        tab.until("document.activeElement.getAttribute('aria-label') === 'Edit your message'")
        assert ["First?", "one", "Second?", "two"] == _texts(tab)
        tab.press("Enter")
        tab.until("document.activeElement.value === 'First?'")
        tab.write(" Really?")
        tab.press("Enter")
        chat.answered("three")
        assert ["First? Really?", "three"] == _texts(tab)
        assert "First? Really?" == tab.value("$('heading').textContent")


def _texts(tab: Tab) -> list[str]:
    found: list[str] = tab.value("[...document.querySelectorAll('article .text')].map((one) => one.textContent)")
    return found


def test_copy(chats: Callable[..., Chat]) -> None:
    """An answer is copied as it was written, a code block as its code; and where there is no clipboard, the old way."""
    with serving(App(AsyncScripted("Do *this*:\n\n```sh\nmake\n```"))) as server:
        chat = chats(server).open()
        tab = chat.tab
        tab.call(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
            browserContextId=tab.context,
        )
        chat.say("How?")
        tab.until("!running.size && document.querySelector('[data-copy]')")
        chat.press("Copy answer")
        tab.until("$('announce').textContent === 'Copied.'")
        assert "Do *this*:\n\n```sh\nmake\n```" == tab.value("navigator.clipboard.readText()")
        tab.click("[data-copy]")
        tab.until("navigator.clipboard.readText().then((text) => text === 'make')")
        tab.value("Object.defineProperty(navigator, 'clipboard', { value: undefined }), announce(''), 0")
        tab.value(
            "window.copied = new Promise((done) => addEventListener('copy', () => done(getSelection().toString() || document.activeElement.value))), 0"
        )
        chat.press("Copy answer")
        assert "Do *this*" in tab.value("copied")
        assert "Copy answer" == tab.value("document.activeElement.getAttribute('aria-label')")


def test_keyboard(chats: Callable[..., Chat]) -> None:
    """Everything is reached by the keyboard alone, in the order in which it is read, and is seen to be."""
    held = Held("small", "large")
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        tab.write("one")
        tab.press("Enter", SHIFT)
        tab.write("two")
        assert "one\ntwo" == tab.value("$('box').value")
        tab.value(
            "$('box').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true })), 0"
        )
        assert "one\ntwo" == tab.value("$('box').value")
        tab.press("Enter")
        held.nth(0).give(chunk("```sh\nmake\n```"))
        held.nth(0).end()
        tab.until("!running.size && document.querySelector('[data-copy]')")
        tab.press("Enter")  # an empty box says nothing
        assert "one\ntwo" == _plain(held.nth(0))[0]["content"]
        tab.press("Tab")
        tab.until("document.activeElement === $('send')")
        tab.press("Tab")
        tab.until("document.activeElement === document.body")
        reached = []
        for _ in range(40):
            tab.press("Tab")
            name, outline, seen = tab.value(
                "(() => { const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();"
                " return [one === document.body ? '' : one.getAttribute('aria-label') ?? (one.labels?.[0]?.textContent || one.textContent).trim(),"
                " parseFloat(style.outlineWidth), box.width > 0 && box.top >= 0 && box.bottom <= innerHeight] })()"
            )
            if not name:
                break
            assert (name, 3, True) == (name, outline, seen)
            reached.append(name)
        assert [
            "Skip to the message", "Modelsmalllarge", "Settings", "Dark", "New conversation", "one two", "Rename one two", "Export one two as JSON",
            "Delete one two", "Messages", "Copy your message", "Edit your message", "Copy code", "Code, sh", "Copy answer", "Regenerate the answer",
            "Message", "Send",
        ] == reached  # fmt: skip
        tab.press("Tab")
        tab.until("document.activeElement.classList.contains('skip')")
        tab.press("Enter")
        tab.until("document.activeElement === $('box')")
        tab.value("$('dark').focus(), 0")
        tab.press(" ")
        tab.until("$('dark').ariaChecked === 'true'")


def test_accessibility_tree(chats: Callable[..., Chat]) -> None:
    """What a screen reader is told has landmarks, roles and names."""
    with serving(App(Held("small", "large"))) as server:
        chat = chats(server).open()
        chat.tab.click("#show-settings")
        chat.tab.value("$('box').focus(), 0")
        chat.say("Hello")
        chat.tab.until("running.size && document.querySelector('article')")
        tree = chat.tab.named()
        expected = [
            ("RootWebArea", "Answering: Hello – gpt"), ("heading", "Hello"), ("navigation", "Conversations"), ("region", "Settings of this conversation"),
            ("log", "Messages"), ("article", "You"), ("article", "Answer"), ("heading", "Answer"), ("form", "Message"), ("textbox", "Message"),
            ("textbox", "System prompt"), ("spinbutton", "Temperature, 0 to 2"), ("combobox", "Model"), ("switch", "Dark"), ("button", "Settings"),
            ("button", "Stop"), ("button", "New conversation"), ("button", "Delete Hello"),
        ]  # fmt: skip
        assert [] == [pair for pair in expected if pair not in tree]
        nameless = chat.tab.call("Accessibility.getFullAXTree")["nodes"]
        roles = {node["role"]["value"] for node in nameless if not node["ignored"]}
        assert {"banner", "main", "status"} <= roles
        assert [] == [
            node
            for node in nameless
            if not node["ignored"]
            and node["role"]["value"] in ("button", "textbox", "combobox", "switch")
            and not node["name"]["value"]
        ]
        assert ["en", "off", "polite"] == chat.tab.value(
            "[document.documentElement.lang, $('log').ariaLive, $('announce').ariaLive]"
        )


# Text that cannot be read well: [what it says, its contrast, what is needed], by the Web Content Accessibility Guidelines 2.2, 1.4.3
# and 1.4.11 (edges of what can be used).
CONTRAST = """(() => {
  const ratio = (one, other) => { const [high, low] = [shine(one), shine(other)].sort((a, b) => b - a); return (high + .05) / (low + .05) };
  const part = (value) => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const shine = ([red, green, blue]) => .2126 * part(red) + .7152 * part(green) + .0722 * part(blue);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (one) => { for (; one; one = one.parentElement) { const found = numbers(getComputedStyle(one).backgroundColor); if (found.length === 3 || found[3] === 1) return found } return [255, 255, 255] };
  const poor = [];
  let looked = 0;
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility() || one.closest(".unseen, .skip")) continue;
    const style = getComputedStyle(one), behind = ground(one);
    const says = [...one.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()).map((node) => node.data.trim()).join(" ");
    if (says || /TEXTAREA|INPUT/.test(one.tagName)) {
      looked += 1;
      const found = ratio(numbers(style.color), behind);
      if (found < 4.5) poor.push([one.tagName, says, found]);
      if (one.placeholder) { const other = ratio(numbers(getComputedStyle(one, "::placeholder").color), behind); if (other < 4.5) poor.push([one.tagName, one.placeholder, other]) }
    }
    if (/BUTTON|INPUT|TEXTAREA|SELECT/.test(one.tagName) && parseFloat(style.borderTopWidth)) {
      const edge = numbers(style.borderTopColor);
      if (edge.length === 3 && Math.max(ratio(edge, ground(one.parentElement)), ratio(behind, ground(one.parentElement))) < 3) poor.push([one.tagName, "its edge", ratio(edge, behind)]);
    }
  }
  return [looked, poor];
})()"""
TALK = "# Rivers\n\nThe **longest** is the *Nile*, see https://en.example/Nile:\n\n- `6650 km`\n- then:\n  1. the Amazon\n\n> it is said\n\n```python\nprint('a long line of code that goes on and on and on and on and on and on and on and on and on and on')\n```"


def _conversation(chat: Chat, held: Held) -> None:
    """An answer with everything in it, and an error below."""
    tab = chat.tab
    chat.say("Which is the longest river?")
    held.nth(0).give(thought("Let me see.", "reasoning"), chunk(TALK))
    held.nth(0).end(21, 78)
    tab.until("!running.size && document.querySelector('[data-copy]')")
    chat.say("And the shortest?")
    held.nth(1).give(chunk("It is"), ServerError("down", 500))
    tab.until(f"!running.size && {LAST}.querySelector('.problem:not([hidden])')")


def _read_well(tab: Tab) -> None:
    looked, poor = tab.value(CONTRAST)
    assert [] == poor
    assert looked > 40


def test_colours(chats: Callable[..., Chat]) -> None:
    """In light and dark, as the system has it or as chosen, all that is there can be read."""
    held = Held("small", "large")
    with serving(App(held)) as server:
        chat = chats(server)
        tab = chat.tab
        tab.prefers(color_scheme="light")
        chat.open()
        _conversation(chat, held)
        tab.click("#show-settings")
        tab.value(
            "document.querySelector('details').open = true, notify('A notice.'), $('key-row').hidden = false, showKey = () => {}, 0"
        )
        for name, system, chosen in [
            ("light", "light", False),
            ("dark", "dark", False),
            ("switched", "light", True),
            ("back", "dark", True),
        ]:
            tab.prefers(color_scheme=system)
            if chosen:
                tab.click("#dark")
            dark = (system == "dark") != chosen
            tab.until(f"$('dark').ariaChecked === '{str(dark).lower()}'")
            ground = [
                int(number) for number in re.findall(r"\d+", tab.value("getComputedStyle(document.body).backgroundColor"))
            ]
            assert (name, dark) == (name, sum(ground) < 150)
            _read_well(tab)
            chat.picture(f"{name}-settings")
            tab.value("askKey('Why.'), 0")
            _read_well(tab)
            tab.press("Escape")
            tab.until("!$('key-dialog').open")
            if chosen:
                tab.click("#dark")  # back to what the system has
            else:
                tab.value("$('settings').hidden = true, $('log').scrollTop = 0, 0")
                chat.picture(f"{name}-top")
                tab.value("$('log').scrollTop = 1e6, 0")
                chat.picture(f"{name}-end")
                tab.value("$('settings').hidden = false, 0")
        # The measure sees what is poor: grey on white at 3.5, and an edge that is hardly there.
        tab.value(
            "document.documentElement.dataset.colours = 'light', $('heading').style.color = '#888', $('new').style.borderColor = '#eee', 0"
        )
        poor = tab.value(CONTRAST)[1]
        assert ["H1", "BUTTON"] == [tag for tag, _, _ in poor]
        assert 3.5 == pytest.approx(poor[0][2], abs=0.06)


def test_chosen_colours_stay(chats: Callable[..., Chat]) -> None:
    """What was chosen is there after a reload; what the system has needs no choice."""
    with serving(App(AsyncScripted("hi"))) as server:
        chat = chats(server)
        tab = chat.tab
        tab.prefers(color_scheme="light")
        chat.open()
        for kept in (["dark"], []):
            tab.click("#dark")
            tab.reload()
            tab.until("models.length")
            assert [kept, str(bool(kept)).lower()] == tab.value("[Object.values(localStorage), $('dark').ariaChecked]")


SIZES = [("narrow", 320, 568), ("zoomed", 640, 360), ("tiny", 320, 256), ("tablet", 768, 1024)]


WIDER = "[document.documentElement, document.body, $('log'), $('settings'), $('list')].filter((one) => one.scrollWidth > Math.max(one.clientWidth, 1)).map((one) => one.id || one.tagName)"
OUTSIDE = (
    "[...document.querySelectorAll('header *, main button, #box, nav button')].filter((one) => one.checkVisibility() && !one.closest('.unseen, #log, #settings, #list'))"
    ".filter((one) => { const box = one.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth + .5 || box.top < 0 || box.bottom > innerHeight + .5 }).map((one) => one.outerHTML)"
)
SMALL = "[...document.querySelectorAll('button, select, input')].filter((one) => one.checkVisibility() && one.type !== 'checkbox').filter((one) => { const box = one.getBoundingClientRect(); return box.width < 24 || box.height < 24 }).map((one) => one.outerHTML)"
BOX = "(({ x, y, width, height }) => [x, y, width, height])"


def test_sizes(chats: Callable[..., Chat]) -> None:
    """In a small window, which a large one is at 200 % or 400 %, nothing is cut off and the page scrolls in one direction only."""
    held = Held("small", "a-model-with-a-very-long-name-that-goes-on-and-on")
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        _conversation(chat, held)
        tab.value("$('model').value = models[1], notify('A notice of some length that needs two lines or more.'), 0")
        for name, width, height in SIZES:
            tab.size(width, height)
            tab.until(f"innerWidth === {width} && innerHeight === {height}")
            tab.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)")
            chat.picture(f"{name}-conversation")
            assert (name, [], [], []) == (name, tab.value(WIDER), tab.value(OUTSIDE), tab.value(SMALL))
            assert tab.value("$('log').clientHeight") > 50
            assert tab.value("atEnd()"), name
            tab.click("#show-settings")
            tab.until("!$('settings').hidden")
            chat.picture(f"{name}-settings")
            assert (name, []) == (name, tab.value(WIDER))
            assert tab.value("$('settings').clientHeight") > 80
            tab.press("Escape")
            tab.until("$('settings').hidden")
            if width < 768:
                tab.click("#show-list")
                tab.until("document.activeElement === $('new')")
                chat.picture(f"{name}-list")
                assert (name, []) == (name, tab.value(WIDER))
                assert tab.value(f"{BOX}($('list').getBoundingClientRect())") == tab.value(
                    f"{BOX}(document.querySelector('main').getBoundingClientRect())"
                )
                for _ in range(6):
                    tab.press("Tab")
                    assert not tab.value("document.querySelector('main').contains(document.activeElement)")
                tab.press("Escape")
                tab.until(
                    "document.activeElement === $('show-list') && !$('new').checkVisibility() && !document.querySelector('main').inert"
                )


def test_scroll(chats: Callable[..., Chat]) -> None:
    """The end stays in sight while an answer comes; who has scrolled up is left there, and can go to the end."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.say("Tell a story.")
        held.nth(0).give(chunk("line\n\n" * 60))
        tab.until("$('log').scrollHeight > 1500 && atEnd()")
        tab.value("$('log').scrollTop = 100, 0")
        tab.until("!$('newest').hidden")
        held.nth(0).give(chunk("more\n\n" * 60))
        tab.until(f"{LAST}.querySelectorAll('p').length === 120")
        assert 100 == tab.value("$('log').scrollTop")
        held.nth(0).end()
        tab.until("!running.size")
        assert 100 == tab.value("$('log').scrollTop")
        chat.press("Go to the newest")
        tab.until("atEnd() && $('newest').hidden")


def test_selection(chats: Callable[..., Chat]) -> None:
    """What a reader has selected stays so while more comes, and the thinking that was unfolded stays open."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.say("Tell a story.")
        held.nth(0).give(thought("Hm.", "reasoning"), chunk("once upon a "))
        tab.until(f"{TEXT} === 'once upon a'")
        tab.value(
            "document.querySelector('details').open = true, getSelection().setBaseAndExtent(document.querySelector('article:last-child p').firstChild, 5, document.querySelector('article:last-child p').firstChild, 9), 0"
        )
        held.nth(0).give(chunk("time"))
        held.nth(0).end()
        chat.answered("once upon a time")
        assert ["upon", True] == [tab.value("getSelection().toString()"), tab.value("document.querySelector('details').open")]


def test_motion(chats: Callable[..., Chat]) -> None:
    """Nothing moves for who does not want it."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        chat.say("Hello")
        chat.tab.until("document.querySelector('.waiting')")
        for wish, moving in (("reduce", 0), ("no-preference", 1)):
            chat.tab.prefers(reduced_motion=wish)
            assert (wish, moving) == (wish, chat.tab.value("document.getAnimations().length"))
        held.nth(0).end()


def test_two_at_once(chats: Callable[..., Chat]) -> None:
    """An answer goes on while another conversation is looked at."""
    held = Held()
    with serving(App(held)) as server:
        chat = chats(server).open()
        tab = chat.tab
        chat.say("First?")
        held.nth(0).give(chunk("one"))
        tab.until(f"{TEXT} === 'one'")
        chat.press("New conversation")
        chat.say("Second?")
        held.nth(1).give(chunk("two"))
        tab.until(f"{TEXT} === 'two' && running.size === 2")
        held.nth(0).give(chunk(" and a half"))
        held.nth(0).end()
        tab.until("running.size === 1 && $('announce').textContent === 'In First?: Answer: one and a half\\n'")
        assert "two" == tab.value(TEXT)
        held.nth(1).end()
        chat.answered("two")
        tab.click("#talks li:not(.current) .open")
        tab.until(f"{TEXT} === 'one and a half'")


class Mounted(App):
    """An App below a path of another application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith("/llm/"), scope["path"]
            scope = {**scope, "root_path": "/llm"}
        await super().__call__(scope, receive, send)


def test_mounted(chats: Callable[..., Chat]) -> None:
    """Below a path of another application the page asks there."""
    with serving(Mounted(AsyncScripted("hi"))) as server:
        chat = chats(server)
        chat.tab.open(f"{server.origin}/llm/")
        chat.tab.until("models.length")
        chat.ask("Hello", "hi")
        assert {"/llm/", "/llm/v1/models", "/llm/v1/chat/completions"} == {
            urlsplit(url).path for url in chat.tab.requests if url.startswith("http")
        }


def test_ignored(chats: Callable[..., Chat]) -> None:
    """What the server says had no effect is said below the answer."""
    with serving(
        Faulty(
            AsyncScripted("hi"),
            raw(event("hi", finish_reason="stop"), b"data: [DONE]\n\n", x_ignored_params="temperature, seed"),
        )
    ) as server:
        chat = chats(server).open()
        chat.ask("Hello", "hi")
        assert "without effect: temperature, seed" in chat.figures()
