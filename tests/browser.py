"""Headless Chromium, driven over the pipe that it speaks the DevTools protocol on, with `--remote-debugging-pipe`.

A pipe and not a port, because nobody else can come in by it and nothing has to be waited for until it listens: what is written
before the browser is there is read when it is. Messages are JSON, each ended by a zero byte. Waiting is done by looking until a
deadline that only a defect reaches.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30.0
"""Seconds for what takes milliseconds on an idle machine."""

# The browser reads descriptor 3 and writes 4. Put there by a program between, because the child of a process with threads must
# not run code of ours before it is another program.
BETWEEN = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(ours[0], 3)
os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

KEYS = {
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"key": "Escape", "code": "Escape", "windowsVirtualKeyCode": 27},
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    " ": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
}
SHIFT = 8


def program() -> str | None:
    """The browser, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser of its own, with its profile in `folder`. Nothing but loopback has a name for it, and `names`, which mean it."""

    def __init__(self, path: str, folder: Path, names: tuple[str, ...] = ()) -> None:
        rules = [*(f"MAP {name} 127.0.0.1" for name in names), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"]
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",  # which root, in a container, has not got
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--disable-sync",
            "--password-store=basic",
            f"--host-resolver-rules={', '.join(rules)}",
            "about:blank",
        ]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BETWEEN, str(theirs), str(answers), path, *flags],
                pass_fds=(theirs, answers), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self._rest = b""
        self._last = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._tabs: dict[str, Tab] = {}

    def close(self) -> None:
        """End it."""
        try:
            self.call("Browser.close")
            self._process.wait(PATIENCE)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """The result of a call. Raises Failed for an error, TimeoutError."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        written = memoryview(json.dumps(message).encode() + b"\0")
        while written:
            written = written[os.write(self._out, written) :]
        wanted = self._last
        self.read_until(lambda: wanted in self._replies, f"an answer to {method}")
        reply = self._replies.pop(wanted)
        if "error" in reply:
            raise Failed(f"{method}: {reply['error']['message']}")
        result: dict[str, Any] = reply["result"]
        return result

    def read_until(self, done: Callable[[], bool], what: str) -> None:
        """Take in what the browser says until `done`. Raises TimeoutError, EOFError."""
        end = monotonic() + PATIENCE
        while not done():
            if not select.select([self._in], [], [], max(0.0, end - monotonic()))[0]:
                raise TimeoutError(f"the browser did not give {what}")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            *messages, self._rest = (self._rest + piece).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._replies[message["id"]] = message
                elif message.get("sessionId") in self._tabs:
                    self._tabs[message["sessionId"]].take(message["method"], message["params"])

    def tab(self) -> Tab:
        """A new tab that shares nothing with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, context)
        self._tabs[session] = tab
        tab.set_up()
        return tab

    def forget(self, tab: Tab) -> None:
        """Close a tab, and what it kept."""
        del self._tabs[tab.session]
        self.call("Target.disposeBrowserContext", browserContextId=tab.context)


class Failed(Exception):
    """The browser could not do it, or a script threw."""


class Tab:
    """One tab. `requests` are the URLs that it asked for, `complaints` errors of its console and violations of policies."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self.session = session
        self.context = context
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.complaints: list[str] = []
        self._loads = 0

    def set_up(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.size(1280, 800)

    def take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['source']}: {params['entry']['text']}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self.session, **params)

    def close(self) -> None:
        self._browser.forget(self)

    def _loaded(self, how: Callable[[], object]) -> None:
        before = self._loads
        how()
        self._browser.read_until(lambda: self._loads > before, "a loaded page")

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self._loaded(lambda: self.call("Page.navigate", url=url))

    def reload(self) -> None:
        self._loaded(lambda: self.call("Page.reload"))

    def size(self, width: int, height: int) -> None:
        """Make it so many CSS pixels large."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefers(self, **features: str) -> None:
        """What the reader's system prefers: `color_scheme`, `reduced_motion`."""
        named = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON; a promise is awaited. Raises Failed where it throws."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in made:
            raise Failed(made["exceptionDetails"].get("exception", {}).get("description", expression))
        return made["result"].get("value")

    def until(self, expression: str) -> Any:
        """The value of an expression once it is true. Raises TimeoutError."""
        look = (
            "new Promise((done, fail) => { const end = performance.now() + 1000; const look = () => { try {"
            f" const value = ({expression}); if (value || performance.now() > end) return done(value instanceof Node || value);"
            " } catch (error) { return fail(error) } setTimeout(look, 10) }; look() })"
        )
        end = monotonic() + PATIENCE
        while monotonic() < end:
            try:
                if value := self.value(look):
                    return value
            except Failed as error:
                if "navigated" not in str(error) and "context" not in str(error):
                    raise
        raise TimeoutError(f"never true: {expression}; the page says {self.value('document.body.innerText')!r}")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key, by name, and let go of it."""
        known = dict(KEYS[key])
        said = known.pop("text", None)
        down = {**known, "text": said} if said is not None else known
        self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **known)

    def write(self, text: str) -> None:
        """Put text where the keyboard is."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the first element of a selector in its middle, where it must be what is seen."""
        found = json.dumps(selector)
        x, y = self.until(
            f"(() => {{ const one = document.querySelector({found}); if (!one) return null;"
            " one.scrollIntoView({ block: 'nearest' }); const box = one.getBoundingClientRect();"
            " const x = box.x + box.width / 2, y = box.y + box.height / 2;"
            " return box.width && one.contains(document.elementFromPoint(x, y)) ? [x, y] : null; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        """A screenshot, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def named(self) -> list[tuple[str, str]]:
        """Role and name of each node of the accessibility tree that has both."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        pairs = [
            (node.get("role", {}).get("value", ""), node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        return [(role, name) for role, name in pairs if role and name]
