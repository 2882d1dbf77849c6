"""Each program under examples/ runs, against a model with a script."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from gpt import ChatCompletion, Choice, FunctionCall, Gpt, ResponseMessage, ToolCall, Usage
from gpt.testing import Scripted

EXAMPLES = Path(__file__).parents[1] / "examples"


def calling(name: str, arguments: str) -> ChatCompletion:
    """An answer that calls a tool."""
    message = ResponseMessage(None, tool_calls=[ToolCall(FunctionCall(arguments, name), "a")])
    return ChatCompletion(choices=[Choice("tool_calls", 0, message)], usage=Usage(1, 2, 3))


def test_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """A look, an order that is not approved, one that is, and the answer."""
    script = Scripted(
        calling("in_stock", '{"fruit": "pear"}'),
        calling("order", '{"fruit": "pear", "count": 9}'),
        calling("order", '{"fruit": "pear", "count": 2}'),
        "Two pears are on their way.",
    )
    runpy.run_path(str(EXAMPLES / "tools.py"))["main"](Gpt(backend=script))
    assert [
        '  in_stock({"fruit": "pear"}) -> 0',
        '  order({"fruit": "pear", "count": 9}) -> Not done: that is too many; order fewer',
        '  order({"fruit": "pear", "count": 2}) -> 2 ordered',
        "Two pears are on their way.",
        "4 answers, 9 tokens",
    ] == capsys.readouterr().out.splitlines()


def test_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A picture goes out beside the question."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n...")
    script = Scripted("A cat.")
    runpy.run_path(str(EXAMPLES / "pictures.py"))["main"](Gpt(backend=script), str(path))
    assert "A cat.\n" == capsys.readouterr().out
    assert "image_url" == script.asked[0].to_dict()["messages"][0]["content"][1]["type"]


def test_every_example_is_run() -> None:
    """No example without its test."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set() == {path.stem for path in EXAMPLES.glob("*.py")} - tests
