"""What is behind a server: the model here, a service elsewhere, several in order; with layers, and as a command."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import InvalidRequestError, ModelNotFoundError
from gpt.server.app import App
from gpt.server.run import ServeSettings, application, behind, first_key, layered, listening
from gpt.testing import Fault, no_waiting, serve

from serving import HELLO, events, serving

CALLERS, OURS = "callers-key-0123456789", "our-own-key-0123456789"


def test_local() -> None:
    """Without a target, or with a path, the model in this process answers, by its own name, "local" and the aliases."""
    what = behind([], aliases=["mine"], engine={"slots": 3})
    assert ("smollm2-135m-instruct", "local", "mine") == what.models
    assert (3, False) == (what.backend.slots, what.carries_key)
    assert "for trying things" in what.said
    with pytest.raises(ModelNotFoundError, match=r"nothing\.gguf"):
        behind(["/nothing.gguf"])


def test_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is a service elsewhere, which may carry a key; its models are its own to know."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert (None, False) == (behind(["http://a.example/v1"]).models, behind(["http://a.example/v1"]).carries_key)
    assert behind(["http://a.example/v1"], remote={"api_key": OURS}).carries_key
    assert behind(["http://a.example/v1", "local:"], remote={"api_key": OURS}).carries_key
    assert "http://a.example/v1, else smollm2" in behind(["http://a.example/v1", "local:"]).said
    for bad in ("ftp://a.example", "http://user:password@a.example/v1"):
        with pytest.raises(InvalidRequestError, match="server_url"):
            behind([bad])
    monkeypatch.setenv("OPENAI_API_KEY", OURS)
    assert behind(["https://api.openai.com/v1"]).carries_key


def proxied(url: str, **settings: Any) -> App:
    return application(behind([url], model="some-model", remote={"api_key": OURS}), ServeSettings(keys=(CALLERS,), **settings))


AUTHORIZED = {"authorization": f"Bearer {CALLERS}"}


def test_proxy() -> None:
    """In front of a service its answers come through, whole and streamed; it sees the operator's key and never a caller's."""
    with serve("the Nile") as upstream, serving(proxied(upstream.url)) as server:
        sent = {**HELLO, "made_up": {"a": 1}, "user": "me"}
        status, headers, body = server.chat(sent, {**AUTHORIZED, "x-secret": CALLERS})
        assert (200, "the Nile") == (status, body["choices"][0]["message"]["content"])
        assert "x-ignored-params" not in headers  # what a service does with a parameter is its own to say
        streamed = events(server.chat({**HELLO, "stream": True}, AUTHORIZED)[2])
        assert "[DONE]" == streamed[-1]
        assert 200 == server.ask("GET", "/v1/models", headers=AUTHORIZED)[0]
        seen = upstream.requests
    assert CALLERS not in str(seen)
    assert OURS in str(seen)
    first = json.loads(seen[0].body) if hasattr(seen[0], "body") else seen[0]
    assert "made_up" in str(first)
    assert "some-model" in str(first)


def test_proxy_retries() -> None:
    """What fails behind for a moment is tried again; what goes on failing is told without where it is."""
    with no_waiting():
        with serve("hi", faults=[Fault(status=503, times=1)]) as upstream, serving(proxied(upstream.url)) as server:
            assert 200 == server.chat(headers=AUTHORIZED)[0]
        with serve("hi", faults=[Fault(status=500)]) as upstream, serving(proxied(upstream.url)) as server:
            status, _, body = server.chat(headers=AUTHORIZED)
            assert (502, "model_failed") == (status, body["error"]["code"])
            assert "127.0.0.1" not in str(body)
        with serving(proxied("http://127.0.0.1:9/v1")) as server:
            status, _, body = server.chat(headers=AUTHORIZED)
            assert (502, "upstream_unreachable") == (status, body["error"]["code"])
            assert "127.0.0.1" not in str(body)


def test_key_refused_behind() -> None:
    """A key of the operator's that the service refuses is no fault of the caller's key, and is not shown."""
    said = {"error": {"message": f"Incorrect API key provided: {OURS}", "code": "invalid_api_key"}}
    with serve("hi", faults=[Fault(status=401, body=said)]) as upstream, serving(proxied(upstream.url)) as server:
        status, _, body = server.chat(headers=AUTHORIZED)
    assert (502, "upstream_refused") == (status, body["error"]["code"])
    assert OURS not in str(body)


def test_callers_mistake_behind() -> None:
    """What the service says of a caller's mistake reaches the caller, with its parameter, and without addresses."""
    said = {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature", "code": "unsupported_value"}}
    with serve("hi", faults=[Fault(status=400, body=said)]) as upstream, serving(proxied(upstream.url)) as server:
        status, _, body = server.chat(headers=AUTHORIZED)
    assert (400, "temperature", "unsupported_value") == (status, body["error"]["param"], body["error"]["code"])
    assert "Unsupported value: 'temperature'" == body["error"]["message"]


def test_limits_behind() -> None:
    """The limits that a service speaks of are passed on, because they are what callers have to keep to."""
    limits = {"x-ratelimit-limit-requests": "7", "x-ratelimit-remaining-requests": "6"}
    answered = {
        "id": "a", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    }  # fmt: skip
    with (
        serve("hi", faults=[Fault(status=200, headers=limits, body=answered)]) as upstream,
        serving(proxied(upstream.url)) as server,
    ):
        assert "7" == server.chat(headers=AUTHORIZED)[1]["x-ratelimit-limit-requests"]


def test_cut_behind() -> None:
    """A stream that breaks off behind ends with an error event here, and never as if it were whole."""
    with (
        no_waiting(),
        serve("the longest of all rivers", faults=[Fault(cut=900)]) as upstream,
        serving(proxied(upstream.url)) as server,
    ):
        status, _, body = server.chat({**HELLO, "stream": True}, AUTHORIZED)
    last = events(body)[-1] if status == 200 else body
    assert "upstream_unreachable" == last["error"]["code"]
    assert b"[DONE]" not in (body if isinstance(body, bytes) else b"")


def test_fallback() -> None:
    """Of several targets the next is asked where the one before fails."""
    with serve("from the second") as second, no_waiting():
        what = behind(["http://127.0.0.1:9/v1", second.url], model="m", remote={"max_retries": 0})
        with serving(application(what, ServeSettings())) as server:
            assert "from the second" == server.chat()[2]["choices"][0]["message"]["content"]


def test_layers(tmp_path: Path) -> None:
    """A cache, a recording and limits stand between callers and model."""
    with serve("hi") as upstream:
        what = layered(
            behind([upstream.url], model="m"),
            rpm=1000,
            tpm=1e6,
            cache=str(tmp_path / "c.sqlite"),
            record=str(tmp_path / "r.jsonl"),
        )
        with serving(application(what, ServeSettings())) as server:
            for _ in range(3):
                assert 200 == server.chat()[0]
        assert 1 == len(upstream.requests)
    assert 3 <= len((tmp_path / "r.jsonl").read_text().splitlines())
    plain = behind(["local:"])
    assert plain is layered(plain)


def test_listening() -> None:
    """A port that is taken is said so, with what to try."""
    with listening("127.0.0.1", 0) as first:
        with pytest.raises(InvalidRequestError, match="--port 0"):
            listening("127.0.0.1", first.getsockname()[1])
    with pytest.raises(InvalidRequestError, match="--port"):
        listening("127.0.0.1", 99999)


def test_first_key(tmp_path: Path) -> None:
    """The key of the service behind comes from a file of its own."""
    path = tmp_path / "key"
    path.write_text(f"{OURS}\n")
    path.chmod(0o600)
    assert OURS == first_key(str(path))


COMMANDS = [
    (["--host", "0.0.0.0"], "callers need a key"),
    (["--host", "0.0.0.0", "--no-auth", "--upstream-key-file", "KEY", "http://a.example/v1"], "spend the key"),
    (["--api-key-file", "SHORT"], "at least 16"),
    (["/nothing.gguf"], "nothing.gguf"),
    (["--port", "70000"], "--port"),
    (["--slots", "0"], "slots"),
    (["--profile", "nix", "http://a.example/v1"], "profile"),
]


@pytest.mark.parametrize(("arguments", "said"), COMMANDS, ids=[row[1] for row in COMMANDS])
def test_command_refuses(arguments: list[str], said: str, tmp_path: Path) -> None:
    """What cannot be served safely, or at all, is refused in a line that says what to do; no key is in it."""
    for name, key in (("KEY", OURS), ("SHORT", "abc")):
        (tmp_path / name).write_text(key)
        (tmp_path / name).chmod(0o600)
    run = subprocess.run(
        [sys.executable, "-m", "gpt", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert 1 == run.returncode, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert OURS not in run.stderr


def test_settings_show_no_path_or_key() -> None:
    """Settings that are printed show no key."""
    assert OURS not in repr(ServeSettings(keys=(OURS,)))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_pieces_go_at_once(host: str) -> None:
    """On asyncio's own loop too, no piece of an answer waits until the one before it was acknowledged."""

    async def accepted() -> int:
        nodelay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                peer = transport.get_extra_info("socket")
                nodelay.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        try:
            listener = listening(host, 0)
        except InvalidRequestError:
            pytest.skip("this machine has no such address")
        async with await asyncio.get_running_loop().create_server(Accepting, sock=listener):
            _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
            found = await nodelay
            writer.close()
            await writer.wait_closed()
            return found

    assert 0 != asyncio.run(accepted())
