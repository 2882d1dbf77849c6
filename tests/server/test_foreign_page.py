"""A page of elsewhere, in a real browser, tries to use the server of the machine that it is read on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt.server.app import App
from gpt.testing import AsyncScripted

from browser import Browser, program
from serving import Served, serving

CHROMIUM = program()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

REBOUND = "rebound.example"
"""A name whose owner made it mean this machine."""


class Blank(http.server.BaseHTTPRequestHandler):
    """A server of somebody else's, with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of a page that has another origin than the server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    made = Browser(CHROMIUM, tmp_path_factory.mktemp("browser"), (REBOUND,))
    yield made
    made.close()


BODY = """JSON.stringify({messages: [{role: "user", content: "hi"}]})"""

ATTACKS = {
    "asks": f"""fetch(URL, {{method: "POST", headers: {{"content-type": "application/json"}}, body: {BODY}}}).then(one => one.text())""",
    "asks as text": f"""fetch(URL, {{method: "POST", headers: {{"content-type": "text/plain"}}, body: {BODY}}}).then(one => one.text())""",
    "does not look": f"""fetch(URL, {{method: "POST", mode: "no-cors", headers: {{"content-type": "text/plain"}}, body: {BODY}}}).then(one => one.type)""",
    "a beacon": f"""Promise.resolve(navigator.sendBeacon(URL, new Blob([{BODY}], {{type: "text/plain"}})))""",
    "a form": """new Promise(done => { const frame = document.createElement("iframe"); frame.name = "there"; frame.onload = () => done("loaded");
        document.body.append(frame); const form = document.createElement("form"); form.action = URL; form.method = "post"; form.enctype = "text/plain";
        form.target = "there"; const field = document.createElement("input"); field.name = '{"messages":[{"role":"user","content":"hi'; field.value = '"}]}';
        form.append(field); document.body.append(form); form.submit(); })""",
    "reads": """fetch(URL.replace("chat/completions", "models")).then(one => one.text())""",
    "an image": """new Promise(done => { const one = new Image(); one.onerror = () => done("no image"); one.src = URL.replace("chat/completions", "models"); })""",
    "a frame": """new Promise(done => { const one = document.createElement("iframe"); one.onload = () => { let text; try { text = one.contentDocument.body.innerText }
        catch { text = null } done(text) }; one.src = URL.replace("v1/chat/completions", ""); document.body.append(one); })""",
}
"""What the page tries, with URL as where it tries it."""


def tried(browser: Browser, page: str, target: str, attack: str) -> str:
    """What came of an attack of a page, as the page sees it."""
    tab = browser.tab()
    try:
        tab.open(page)
        script = ATTACKS[attack].replace("URL", f'"{target}"')
        return str(tab.value(f"({script}).catch(error => 'failed: ' + error.message)"))
    finally:
        tab.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_foreign_page(browser: Browser, elsewhere: int, attack: str) -> None:
    """A page of another origin has the model say nothing, and reads nothing, however it asks."""
    backend = AsyncScripted("the secret")
    with serving(App(backend)) as server:
        seen = tried(browser, f"http://127.0.0.1:{elsewhere}/", f"{server.url}/chat/completions", attack)
        server.until(lambda: True)
    assert [] == backend.script.asked
    assert "secret" not in seen
    assert "scripted" not in seen


def test_named_page(browser: Browser, elsewhere: int) -> None:
    """One whose origin was named is answered, which shows that the attacks above fail for the right reason."""
    origin = f"http://127.0.0.1:{elsewhere}"
    with serving(App(AsyncScripted("the Nile"), cors_origins=[origin])) as server:
        target = f"{server.url}/chat/completions"
        assert "the Nile" in tried(browser, origin, target, "asks")
        assert "unsupported_media_type" in tried(browser, origin, target, "asks as text")
        assert "scripted" in tried(browser, origin, target, "reads")


@pytest.mark.parametrize("attack", ["asks", "reads", "a frame"])
def test_rebinding(browser: Browser, attack: str) -> None:
    """A page by a name that was made to mean this machine is of the server's own origin, and is refused by that name."""
    backend = AsyncScripted("the secret")

    def there(server: Served) -> str:
        return f"http://{REBOUND}:{server.port}"

    with serving(App(backend)) as server:
        seen = tried(browser, f"{there(server)}/health", f"{there(server)}/v1/chat/completions", attack)
    assert "unknown_host" in seen
    assert [] == backend.script.asked
    with serving(App(backend, allow_hosts=[REBOUND])) as server:  # that a name that is known is let in
        assert "secret" in tried(browser, f"{there(server)}/health", f"{there(server)}/v1/chat/completions", "asks")


def test_frames(browser: Browser, elsewhere: int, tmp_path: Path) -> None:
    """The server's own page is shown in nobody's frame."""
    with serving(App(AsyncScripted("hi"))) as server:
        policy = server.ask("GET", "/")[1]["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
