"""The check of a real third party's server: the one in the engine's wheel. What is known of it is told."""

from __future__ import annotations

from gpt.check import check

from places import EngineServer

KNOWN = {
    "a plain request": "honoured",
    "max_tokens": "honoured",
    "max_completion_tokens": "honoured",
    "stop": "honoured",
    "n": "honoured",
    "temperature": "honoured",
    "logprobs": "honoured",
    "logit_bias": "honoured",
    "store": "ignored",
    "metadata": "ignored",
    "user": "ignored",
    "service_tier": "ignored",
    "modalities and audio": "ignored",
    "web_search_options": "ignored",
    "an unknown field": "ignored",
    "json_schema": "honoured",
    "json_schema without its name": "ignored",
    "shape of whole answers": "wrong",
}
"""Its errors have a number as `code` and no `param`, its messages no `refusal`: no error and no answer has the declared shape."""


def test_engine(engine_server: EngineServer) -> None:
    """It ignores in silence what it does not know, and does what it does."""
    report = check(engine_server.url, api_key=engine_server.key, only=["parameters", "structured"], timeout=120)
    verdicts = {one.what: one.verdict for one in report.findings}
    assert KNOWN == {what: verdicts[what] for what in KNOWN}, report.text()
    assert not report.passed
    assert engine_server.key not in report.to_json()


def test_engine_errors(engine_server: EngineServer) -> None:
    """Its refusals are told as malformed, each with its status; too long a prompt is not cut."""
    report = check(engine_server.url, api_key=engine_server.key, only="errors", timeout=120)
    notes = {one.what: (one.verdict, one.note) for one in report.findings}
    for what, status in (
        ("no JSON", 400),
        ("no messages", 400),
        ("too long a prompt", 400),
        ("no key", 401),
        ("a wrong key", 401),
    ):
        verdict, note = notes[what]
        assert ("wrong", f"{status}, malformed (error.code") == (verdict, note[: len(f"{status}, malformed (error.code")])
    assert "exceeds" in notes["too long a prompt"][1]
    for what in ("an unknown role", "a model that is not there", "another content type", "empty messages"):
        assert "ignored" == notes[what][0]
