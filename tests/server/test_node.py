"""A client in another language: the official one for JavaScript, under Node. Skips where neither can be had."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import ServerError
from gpt.server.app import App
from gpt.server.store import StoredCompletions
from gpt.testing import AsyncScripted
from gpt.testing.scripted import chunk, words
from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCallDelta,
    ResponseMessage,
    ToolCallDelta,
    Usage,
)

from serving import Held, Served, serving

VERSION = "6.49.0"
"""The newest that runs on Node 20; 7 wants 22. It depends on nothing else."""

KEY = "k" * 20
PATIENCE = 120.0


@pytest.fixture(scope="session")
def package() -> Path:
    """The folder where the client is installed; once, and for later runs too."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("GPT_TEST_CACHE") or Path(cache) / "gpt-tests")
    place = root / f"openai-node-{VERSION}"
    if not place.exists():
        root.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own, which then takes its name: two runs at once do not meet.
        fresh = tempfile.mkdtemp(dir=root)
        (Path(fresh) / "package.json").write_text("{}")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"openai@{VERSION}"]
        try:
            done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=PATIENCE, check=False)
            if done.returncode:
                pytest.skip(f"npm cannot get the client: {done.stderr.strip()[-300:]}")
            with contextlib.suppress(OSError):  # another run was first
                Path(fresh).rename(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return place


def run(package: Path, server: Served, task: str) -> Any:
    """What the script prints."""
    script = Path(__file__).with_name("node_client.mjs")
    command = ["node", str(script), str(package), server.url, KEY, task]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


FIRST = ChatCompletionChunk(id="c", model="scripted", choices=[ChunkChoice(Delta(role="assistant"), None)])
"""This client's stream helper takes no stream that does not name the role first, as each server of the protocol does."""


def pieces(*calls: ToolCallDelta, finish: str | None = None) -> ChatCompletionChunk:
    return ChatCompletionChunk(id="c", model="scripted", choices=[ChunkChoice(Delta(tool_calls=list(calls) or None), finish)])


def say(request: Any) -> Any:
    """What the script of the client asks for."""
    said = request.messages[-1]["content"]
    match said:
        case "streamed":
            return [FIRST, *words("the Nile \u2028 ä")]
        case "tools":
            return [
                FIRST,
                pieces(ToolCallDelta(0, "call_1", "function", FunctionCallDelta("", "turn"))),
                pieces(ToolCallDelta(0, function=FunctionCallDelta('{"way": '))),
                pieces(ToolCallDelta(0, function=FunctionCallDelta('"left"}'))),
                pieces(finish="tool_calls"),
            ]
        case "fail":
            return ServerError("m", 500)
        case "break":
            return [chunk("the"), ServerError("m", 500)]
        case _:
            return ChatCompletion("c", [Choice("stop", 0, ResponseMessage(said))], model="scripted", usage=Usage(2, 3, 5))


def error(kind: str, status: int | None, code: str, param: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "status": status, "code": code, "param": param}


EXPECTED: dict[str, Any] = {
    "whole": {"text": "whole", "usage": {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5}, "named": True},
    "streamed": [None, "the ", "Nile ", "\u2028 ", "ä", None],
    "helped": {"pieces": ["the ", "Nile ", "\u2028 ", "ä"], "text": "the Nile \u2028 ä"},
    "tools": {
        "pieces": ["", '{"way": ', '"left"}'],
        "finish": "tool_calls",
        "calls": [{"id": "call_1", "type": "function", "function": {"name": "turn", "arguments": '{"way": "left"}'}}],
    },
    "models": {"listed": ["scripted", "a/b c"], "one": {"id": "a/b c", "object": "model", "owned": True}},
    "stored": {
        "listed": [2, 1, 0],
        "filtered": [0, 2],
        "read": {"kind": "y"},
        "updated": {"kind": "z"},
        "messages": [{"role": "user", "content": "stored x"}],
        "deleted": True,
        "gone": "NotFoundError",
    },
    "errors": {
        "wrong": error("BadRequestError", 400, "invalid_type", "temperature"),
        "unknown": error("NotFoundError", 404, "model_not_found", "model"),
        "stranger": error("AuthenticationError", 401, "invalid_api_key"),
        "failed": error("InternalServerError", 500, "model_failed"),
        "broken": {"came": ["the"], **error("APIError", None, "model_failed")},
    },
}


def test_everything(package: Path, tmp_path: Path) -> None:
    """Whole, streamed, tools in pieces, models, stored completions and errors: each is what the server was to say."""
    app = App(
        AsyncScripted(say),
        keys=[KEY],
        models=["scripted", "a/b c"],
        store=StoredCompletions(tmp_path / "kept.sqlite"),
    )
    with serving(app) as server:
        found = run(package, server, "all")
    for name, failure in found["errors"].items():
        assert failure["message"], name
        assert failure["named"], name
        found["errors"][name] = {field: failure.get(field) for field in EXPECTED["errors"][name]}
    assert EXPECTED == found


def test_abort(package: Path) -> None:
    """A stream that is aborted after its first chunk is stopped behind the server."""
    backend = Held()
    with serving(App(backend, keys=[KEY])) as server:

        def say_one() -> None:
            server.until(lambda: backend.gates)
            server.call(lambda: backend.gates[0].put_nowait(chunk("the")))

        behind = threading.Thread(target=say_one)
        behind.start()
        assert {"abort": "the"} == run(package, server, "abort")
        behind.join()
        server.until(lambda: backend.ended)
    assert ["stopped"] == backend.ended
