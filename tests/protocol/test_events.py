"""What happens in a streamed answer, as values."""

from __future__ import annotations

import pytest

from gpt.protocol.events import (
    AudioEvent,
    ContentEvent,
    DoneEvent,
    FilterEvent,
    LogprobsEvent,
    ReasoningEvent,
    RefusalEvent,
    Text,
    ToolCallEvent,
    UsageEvent,
    ValueEvent,
    made_call,
)
from gpt.types import ChatCompletion, CustomCall, CustomToolCall, FunctionCall, TokenLogprob, ToolCall, Usage


def grown(*pieces: str) -> Text:
    text = Text()
    for piece in pieces:
        text.add(piece)
    return text


def test_text() -> None:
    """Text that grows is whole at any time, and nothing where nothing was added."""
    text = grown("ab", "", "c")
    assert ("abc", 3, "a", "abc") == (text.get(), text.length, text.until(1), text.until(9))
    assert (None, 0, "") == (Text().get(), Text().length, Text().until(3))
    assert grown("").get() == ""
    assert grown("ab", "cd").last() == "d"


@pytest.mark.parametrize(
    ("kind", "name"), [(ContentEvent, "content"), (RefusalEvent, "refusal"), (ReasoningEvent, "reasoning")]
)
def test_pieces(kind: type[ContentEvent | RefusalEvent | ReasoningEvent], name: str) -> None:
    """A piece of text keeps the snapshot of its moment, however the text goes on."""
    text = grown("a")
    first = kind("a", 0, text, 1)
    text.add("b")
    second = kind("b", 0, text, 2)
    assert (name, "a", "ab") == (first.type, first.snapshot, second.snapshot)
    assert f"{kind.__name__}(delta='b', index=0)" == repr(second)


def test_call() -> None:
    """A piece of a call keeps the call of its moment."""
    text = grown("{")
    event = ToolCallEvent("{", 0, 1, ("id", "", "f"), text, 1)
    text.add("}")
    assert ToolCall(FunctionCall("{", "f"), "id") == event.snapshot
    assert "ToolCallEvent(delta='{', place=0, index=1)" == repr(event)
    assert CustomToolCall(CustomCall("x", "c"), "id") == made_call(("id", "custom", "c"), "x")


def test_sound() -> None:
    """A piece of sound keeps the base64 text of its moment; its repr does not show it."""
    data = grown("QQ", "==")
    event = AudioEvent("==", "ah", 0, data, 4)
    data.add("QQ==")
    assert ("audio", "QQ==") == (event.type, event.snapshot)
    assert "AudioEvent(2 characters, transcript='ah', index=0)" == repr(event)


def test_sound_as_bytes() -> None:
    """A piece gives the bytes that it makes whole; what is no base64 is a ValueError."""
    data = grown("aGVs", "bG8", "=")
    assert b"hel" == AudioEvent("aGVs", "", 0, data, 4).bytes
    assert b"" == AudioEvent("bG8", "", 0, data, 7).bytes
    assert b"lo" == AudioEvent("=", "", 0, data, 8, "bG8").bytes
    with pytest.raises(ValueError, match="base64"):
        _ = AudioEvent("a!bc", "", 0, data, 4).bytes


def test_logprobs() -> None:
    """Log probabilities keep those of their moment."""
    every = [TokenLogprob("a", -1.0)]
    event = LogprobsEvent(every[:], [], 0, every, 1)
    every.append(TokenLogprob("b", -2.0))
    assert [TokenLogprob("a", -1.0)] == event.snapshot
    assert repr(event).startswith("LogprobsEvent(delta=[TokenLogprob(token='a'")


def test_facts() -> None:
    """Usage, a filter's finding and the end are events too; their snapshot is what they carry."""
    usage, made = Usage(1, 2, 3), ChatCompletion(id="c")
    assert ("usage", usage) == (UsageEvent(usage).type, UsageEvent(usage).snapshot)
    assert ("value", 5, "ValueEvent()") == ((value := ValueEvent(lambda: 5)).type, value.snapshot, repr(value))
    assert ("done", made) == (DoneEvent(made).type, DoneEvent(made).snapshot)
    assert ("filter", [1], None, None) == ((found := FilterEvent([1])).type, found.delta, found.index, found.offsets)
