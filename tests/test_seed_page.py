"""The seed page, as printed with the four lost keywords put back: what it sends, and what it does in each of the three places."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import gpt
from gpt import InvalidRequestError, Local
from gpt.testing.loopback import completion, serving

from places import SHARED

KEYWORDS = [
    ("components.CreateChatCompletionRequest(\n    components.Schemas(", "components.CreateChatCompletionRequest(\n    function_call=components.Schemas("),
    ("\ncomponents.Two.GPT_3_5_TURBO,", "\n    model=components.Two.GPT_3_5_TURBO,"),
    ("\n'string',", "\n    stop='string',"),
    ("\ncomponents.ChatCompletionToolChoiceOption1.NONE,", "\n    tool_choice=components.ChatCompletionToolChoiceOption1.NONE,"),
]  # fmt: skip


def page() -> str:
    """The page's example, with the four keywords put back."""
    path = SHARED / "seed" / "chat.md"
    if not path.exists():
        pytest.skip("the seed page is not here")
    found = re.search(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    assert found is not None
    example = found[1]
    for printed, meant in KEYWORDS:
        assert 1 == example.count(printed)
        example = example.replace(printed, meant)
    return example


def run(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(example, "chat.md", "exec"), names)
    return names


# surface.md, 2.3, less the defaults that the example never gave.
SENT = {
    "messages": [{"role": "user", "content": [{"text": "string", "type": "text"}]}],
    "model": "gpt-3.5-turbo",
    "function_call": {"name": "string"},
    "functions": [{"name": "string", "parameters": {"key": "string"}}],
    "logit_bias": {"key": 544683},
    "n": 1,
    "temperature": 1,
    "top_p": 1,
    "response_format": {"type": "json_object"},
    "stop": "string",
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {"name": "string", "parameters": {"key": "string"}}}],
    "user": "user-1234",
}


def test_against_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the server that OPENAI_BASE_URL names it runs line for line, and sends exactly what it says."""
    with serving(completion("hello")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        names = run(page())
        head, body = server.requests[0]
    assert SENT == json.loads(body)
    assert json.dumps(SENT["temperature"]) == "1"
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "authorization" not in head.lower()
    res = names["res"]
    assert res.create_chat_completion_response.choices[0].message.content == "hello"
    assert ("application/json", 200) == (res.content_type, res.status_code)
    assert res.raw_response.status_code == 200
    assert res.raw_response.json() == completion("hello")


def test_on_the_hosted_service() -> None:
    """On the hosted service, with the page's empty key, it fails before sending and names the two ways out."""
    with pytest.raises(InvalidRequestError) as caught:
        run(page())
    assert "OPENAI_API_KEY" in str(caught.value)
    assert 'server_url="local:"' in str(caught.value)


def test_in_the_box(monkeypatch: pytest.MonkeyPatch, box: Local) -> None:
    """On local: its logit_bias is refused by name; without that argument it answers, with a JSON object or part of one."""
    monkeypatch.setenv("OPENAI_BASE_URL", "local:")
    with pytest.raises(InvalidRequestError, match=r'logit_bias\["key"\]'):
        run(page())
    without = re.sub(r"    logit_bias=\{.*?\},\n", "", page(), flags=re.DOTALL)
    assert "logit_bias" not in without
    answer = run(without)["res"].create_chat_completion_response
    assert isinstance(answer, gpt.ChatCompletion)
    assert answer.model == "smollm2-135m-instruct"
    assert answer.text.startswith("{")
