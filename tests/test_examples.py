"""Each program under examples/ runs, against a model with a script."""

from __future__ import annotations

import base64
import re
import runpy
import wave
from pathlib import Path

import pytest

from gpt import (
    AudioDelta,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    Gpt,
    Local,
    ResponseMessage,
    ToolCall,
    Usage,
)
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


def test_streamed_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """The text as it comes, and a line for each call and each result."""
    script = Scripted(
        calling("depth_of", '{"lake": "Baikal"}'),
        calling("depth_of", '{"lake": "Como"}'),
        "Baikal is deeper.",
    )
    runpy.run_path(str(EXAMPLES / "streamed_tools.py"))["main"](Gpt(backend=script))
    assert [
        '  depth_of({"lake": "Baikal"}) ...',
        "  -> 1642",
        '  depth_of({"lake": "Como"}) ...',
        "  -> Error: KeyError: 'Como'",
        "Baikal is deeper.",
        "answered after 3 answers",
    ] == capsys.readouterr().out.splitlines()


def test_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A picture goes out beside the question."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n...")
    script = Scripted("A cat.")
    runpy.run_path(str(EXAMPLES / "pictures.py"))["main"](Gpt(backend=script), str(path))
    assert "A cat.\n" == capsys.readouterr().out
    assert "image_url" == script.asked[0].to_dict()["messages"][0]["content"][1]["type"]


def test_reasoning(capsys: pytest.CaptureFixture[str]) -> None:
    """Thinking and answer under their names, twice; the first answer goes along with the second question."""
    deltas = [Delta(reasoning_content="st-raw-"), Delta(reasoning_content="berry"), Delta("Thr"), Delta("ee.")]
    answer = ResponseMessage("Three too.", reasoning_content="rasp-berry")
    script = Scripted(
        [ChatCompletionChunk(choices=[ChunkChoice(delta)]) for delta in deltas],
        ChatCompletion(choices=[Choice("stop", 0, answer)]),
    )
    runpy.run_path(str(EXAMPLES / "reasoning.py"))["main"](Gpt(backend=script))
    assert [
        "",
        "[reasoning] st-raw-berry",
        "[content] Three.",
        "[reasoning] rasp-berry",
        "[content] Three too.",
    ] == capsys.readouterr().out.splitlines()
    assert "Three." == script.asked[1].to_dict()["messages"][1]["content"]


def test_speech(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The sound is in the file, whole, however its text was cut; its words are printed."""
    frames = bytes(range(20))
    text = base64.b64encode(frames).decode()
    pieces = [
        AudioDelta("a", transcript="Hei"),
        AudioDelta(data=text[:7]),
        AudioDelta(data=text[7:9]),
        AudioDelta(data=text[9:]),
    ]
    script = Scripted([ChatCompletionChunk(choices=[ChunkChoice(Delta(audio=piece))]) for piece in pieces])
    path = tmp_path / "hello.wav"
    runpy.run_path(str(EXAMPLES / "speech.py"))["main"](Gpt(backend=script), str(path))
    assert "Hei\n" == capsys.readouterr().out
    with wave.open(str(path)) as file:
        assert (1, 2, 24_000, frames) == (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.readframes(99))
    assert {"voice": "alloy", "format": "pcm16"} == script.asked[0].to_dict()["audio"]


def test_local_tools(capsys: pytest.CaptureFixture[str], box: Local) -> None:
    """The model in the box fills in the form."""
    runpy.run_path(str(EXAMPLES / "local_tools.py"))["main"](Gpt(backend=box), "Two tickets to Bergen on the ferry, please.")
    assert re.fullmatch(r"[1-9] to .{0,30} by (bus|ferry|train)\n", capsys.readouterr().out)


def test_every_example_is_run() -> None:
    """No example without its test."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set() == {path.stem for path in EXAMPLES.glob("*.py")} - tests
