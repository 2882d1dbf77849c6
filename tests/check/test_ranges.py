"""Values that no server should take."""

from __future__ import annotations

import json

import jsonschema
import pytest

from gpt.check.exchange import Answer, Facts
from gpt.check.ranges import PROBES, ROWS, Row, refuses

from places import published_schemas

IDS = [f"{row.name}-{json.dumps(row.value)[:30]}" for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_row(row: Row) -> None:
    """Each is sent as it is, and refused, ignored or answered wrongly."""
    for limit in ("max_tokens", "max_completion_tokens"):
        sent = json.loads(next(refuses(row)(Facts(model="m", limit=limit))).body)
        assert row.value == sent[row.name]
        assert dict(row.beside).items() <= sent.items()
    error = {"error": {"message": "no", "type": "t", "param": row.name, "code": None}}
    for expected, answer in (
        ("refused", Answer(400, {}, json.dumps(error).encode())),
        ("ignored", Answer(200, {}, b"{}")),
        ("ignored, said so", Answer(200, {"x-ignored-params": row.name}, b"{}")),
        ("wrong", Answer(400, {}, json.dumps(error).replace(row.name, "other").encode())),
        ("wrong", Answer(500, {}, json.dumps(error).encode())),
        ("unclear", Answer(429)),
    ):
        steps = refuses(row)(Facts(model="m"))
        next(steps)
        with pytest.raises(StopIteration) as stopped:
            steps.send(answer)
        assert expected == stopped.value.value.verdict


BEYOND = ("logit_bias", "max_tokens", "max_completion_tokens", "metadata", "stream_options", "tool_choice", "top_logprobs")
"""Of which some rows break rules that are in the description's words and not in its schemas."""


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_published(row: Row) -> None:
    """The published description does not take them either."""
    schemas = published_schemas()
    asked = Facts(model="m").fields(**{**row.beside, row.name: row.value})
    schema = {"$ref": "#/components/schemas/CreateChatCompletionRequest", "components": {"schemas": schemas}}
    valid = jsonschema.Draft202012Validator(schema).is_valid(asked)
    assert not valid or row.name in BEYOND


def test_names() -> None:
    """Each row has a name of its own, which a line has room for."""
    names = [name for probe in PROBES for name in probe.names]
    assert len(names) == len(set(names))
    assert [] == [name for name in names if len(name) > 40]
