"""How many tokens a prompt takes, by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt import AsyncGpt, BadRequestError, Gpt, Local, TokenCount, in_threads
from gpt.backend import identity_of
from gpt.local.counting import counted

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": {"properties": {"city": {"type": "string"}}}},
}

PROMPTS: list[tuple[Any, dict[str, Any]]] = [
    ("Name three rivers.", {}),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Und 川 🚀?"}], {}),
    (
        [
            {"role": "user", "content": "<|im_start|>a<|im_end|>"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": ""},
        ],
        {},
    ),
    ([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}], {"stop": ["x"]}),
    ("How is the weather in Rome?", {"tools": [WEATHER]}),
]


@pytest.mark.parametrize(("messages", "params"), PROMPTS)
def test_is_exact(box: Local, messages: Any, params: dict[str, Any]) -> None:
    """What is counted before a call is what its usage says after it."""
    client = Gpt(backend=box)
    found = client.chat.count_tokens(messages, max_tokens=1, **params)
    assert ("exact", "smollm2-135m-instruct", ()) == (found.kind, found.by, found.uncounted)
    assert found.tokens == client.chat.complete(messages, max_tokens=1, **params).usage.prompt_tokens


async def counted_on_asyncio(box: Local) -> TokenCount:
    return await AsyncGpt(backend=in_threads(box)).chat.count_tokens("Name three rivers.")


def test_on_asyncio(box: Local) -> None:
    """In threads the same is counted."""
    import asyncio

    assert asyncio.run(counted_on_asyncio(box)) == Gpt(backend=box).chat.count_tokens("Name three rivers.")


def test_identity(tmp_path: Path) -> None:
    """Another model, another file at the same path and another template are another identity; no file is opened for it."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"one")
    seen = [identity_of(Local(str(path))), identity_of(Local(str(path), chat_template="x")), identity_of(Local())]
    assert identity_of(Local(str(path), slots=2)) == seen[0]
    path.write_bytes(b"another")
    seen += [identity_of(Local(str(path))), identity_of(Local("other"))]
    assert len(set(seen)) == len(seen)


def test_refused() -> None:
    """What the engine refuses to make a prompt of is an error of the call."""
    with pytest.raises(BadRequestError, match="model m"):
        counted(lambda path, body: {"error": {"code": 400, "message": f"no {path}", "type": "invalid_request_error"}}, {}, "m")
