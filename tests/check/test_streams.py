"""What is made of the pieces of a stream. The rest is seen in whole checks (`tests/check/test_run.py`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt.check.exchange import Answer, Facts
from gpt.check.streams import Streamed, folded, lines

WHOLE = Answer(200, {}, b'{"choices": [{"message": {"content": "two rivers"}, "finish_reason": "length"}]}')


def stream(*pieces: tuple[str, str | None]) -> Streamed:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]} for text, finish in pieces]
    return Streamed(Answer(200, {}, "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()))


@pytest.mark.parametrize(
    ("pieces", "steady", "verdict", "note"),
    [
        ([("two", None), (" rivers", None), ("", "length")], True, "honoured", ""),
        ([("two", None), (" rivers", None), ("", "length")], False, "honoured", ""),
        ([("two", None), (" lakes", "length")], True, "wrong", '"two lakes", not "two rivers"'),
        ([("two", None), (" lakes", "length")], False, "unclear", "the same request"),
        ([("two", None), (" rivers", "stop")], True, "wrong", 'ends with ["stop"], not "length"'),
        ([("two", None), (" rivers", None)], True, "wrong", 'ends with [], not "length"'),
    ],
)
def test_folded(pieces: Any, steady: bool, verdict: str, note: str) -> None:
    """The pieces are the whole answer with its reason for the end, or it is said what they are."""
    judged = folded(stream(*pieces), Facts(plain=WHOLE, steady=steady))
    assert verdict == judged.verdict
    assert judged.note.startswith(note)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"data: 1\n\n", "honoured"),
        (b"data: 1\r\n\r\n", "honoured"),
        (b": ping\n\nevent: x\nid: 1\nretry: 5\ndata: 1\n\n", "honoured"),
        (b"data: 1\n", "wrong"),
        (b"data: 1", "wrong"),
        (b"", "wrong"),
        (b": ping\n\n", "wrong"),
        (b"data: 1\n\nerror: no\n\n", "wrong"),
        (b'{"error": "no"}\n\n', "wrong"),
    ],
)
def test_lines(body: bytes, verdict: str) -> None:
    """Lines are fields of events, or comments; each event has its end."""
    assert verdict == lines(Answer(200, {}, body)).verdict
