"""Structured answers. Pure.

The model is told to answer without JSON, so that JSON that comes is the server's doing.
"""

from __future__ import annotations

from typing import Any

from gpt.check.exchange import SHORT, Answer, Facts, Steps, read, said
from gpt.check.judge import Judged, Probe, must_refuse, shown, turned_down, without_effect
from gpt.check.parameters import FORCED

GROUP = "structured"
ROOM = 96
AGAINST = said("Greet me in plain words. Do not use JSON.")
"""The word JSON is in it because the hosted service refuses json_object without (its reference, "response_format")."""


def _format(schema: Any, **over: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema, **over}}


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "bright": {"type": "boolean"}},
    "required": ["colour", "bright"],
    "additionalProperties": False,
}


def _satisfies(value: Any) -> bool:
    """Whether a value keeps to SCHEMA."""
    return (
        isinstance(value, dict)
        and set(value) == {"colour", "bright"}
        and value["colour"] in ("red", "green")
        and isinstance(value["bright"], bool)
    )


def _cut(answer: Answer) -> bool:
    """Whether JSON may have been on its way when the limit of tokens came."""
    return answer.finish == "length" and (not answer.text.strip() or answer.text.lstrip().startswith("{"))


def json_object(facts: Facts) -> Steps[Judged]:
    """json_object: an object comes."""
    answer = yield facts.chat(messages=AGAINST, response_format={"type": "json_object"}, max_tokens=ROOM)
    if (bad := turned_down(answer, "response_format")) is not None:
        return bad
    if not isinstance(read(answer.text.encode()), dict) and not _cut(answer):
        return without_effect(answer, "response_format", f"no JSON object: {shown(answer.text)}")
    # A small model may write JSON all the same. One that is held to it does even where another token is forced.
    forced = yield facts.chat(
        messages=AGAINST, response_format={"type": "json_object"}, logit_bias={FORCED: 100}, max_tokens=SHORT
    )
    if forced.is_completion and forced.text.strip() and not forced.text.lstrip().startswith("{"):
        note = f"the model is not held to it: {shown(forced.text)} with a token forced"
        return without_effect(forced, "response_format", note)
    if _cut(answer):
        return Judged("unclear", f"cut off before its end: {shown(answer.text)}")
    if forced.is_completion and not answer.text.startswith(forced.text):
        return Judged("honoured", "an object begins even where another token is forced")
    free = yield facts.chat(messages=AGAINST, max_tokens=ROOM)
    if free.is_completion and not free.text.lstrip().startswith("{"):
        return Judged("honoured", f"{shown(answer.text)}, and {shown(free.text)} without it")
    return Judged("unclear", "the model writes JSON without it too")


def json_schema(facts: Facts) -> Steps[Judged]:
    """json_schema: what comes keeps to the schema."""
    answer = yield facts.chat(messages=AGAINST, response_format=_format(SCHEMA), max_tokens=ROOM)
    if (bad := turned_down(answer, "response_format")) is not None:
        return bad
    value = read(answer.text.encode())
    if _satisfies(value):
        return Judged("honoured", shown(answer.text))
    if value is None and _cut(answer):
        return Judged("unclear", f"cut off before its end: {shown(answer.text)}")
    refusal = answer.at("choices", 0, "message", "refusal")
    if isinstance(refusal, str) and refusal:
        return Judged("unclear", f"the model refused: {shown(refusal)}")
    return without_effect(answer, "response_format", f"does not keep to the schema: {shown(answer.text)}")


REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("json_schema: of no type", _format({"type": "nonsense"})),
    (
        "json_schema: nothing keeps to it",
        _format({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}),
    ),
    ("json_schema without its name", {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
    ("json_schema without anything", {"type": "json_schema"}),
)  # fmt: skip


def _refuses(form: dict[str, Any]) -> Any:
    def steps(facts: Facts) -> Steps[Judged]:
        answer = yield facts.chat(messages=AGAINST, response_format=form)
        return must_refuse(answer, "response_format", "json_schema", "schema")

    return steps


PROBES: tuple[Probe, ...] = (
    Probe(GROUP, ("json_object",), json_object),
    Probe(GROUP, ("json_schema",), json_schema),
    *(Probe(GROUP, (name,), _refuses(form)) for name, form in REFUSED),
)
