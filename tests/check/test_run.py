"""Whole checks of scripted servers over loopback: what each honours, refuses, ignores or breaks is told."""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import Any

import pytest

from gpt import InvalidRequestError
from gpt.check import GROUPS, Finding, Report, acheck, check
from gpt.testing.loopback import Loopback, Peer, answer, closed_port, completion

from checked import Behaving


def found(group: str, server: Behaving, **options: Any) -> dict[str, str]:
    """The verdicts of one group and of what is always looked at, by name."""
    report = check(server.url, only=[group] if group in GROUPS else ["models"], timeout=20, **options)
    return {one.what: one.verdict for one in report.findings if one.group == group}


def test_all_well() -> None:
    """Of a server that does all that the protocol has, nothing is wrong, and nothing ignored but what cannot be seen."""
    unseen = dict.fromkeys(
        ("user", "safety_identifier", "prompt_cache_key", "prediction", "reasoning_effort", "verbosity", "web_search_options"),
        "say",
    )
    with Behaving(**unseen) as server:
        report = check(server.url, only=[group for group in GROUPS if group not in ("values", "cancellation")], timeout=20)
        assert [] == [(one.what, one.verdict, one.note) for one in report.findings if one.verdict in ("wrong", "ignored")]
        assert report.passed
        assert {"no key", "a wrong key"} == {one.what for one in report.findings if one.verdict == "unclear"}
        assert "words" == report.model


ROWS: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("answers", {}, {"a plain request": "honoured", "usage adds up": "honoured", "an id of its own": "honoured"}),
    ("answers", {"usage": "break"}, {"usage adds up": "wrong"}),
    ("answers", {"ids": "break"}, {"an id of its own": "wrong"}),
    ("answers", {"shape": "break"}, {"shape of whole answers": "wrong"}),
    ("models", {"models": "break"}, {"the list": "wrong", "one by its name": "wrong", "one that is not there": "refused"}),
    ("models", {"errors": "break"}, {"one that is not there": "wrong"}),
    ("parameters", {"model": "one word"}, {"max_tokens": "unclear", "stop": "unclear", "temperature": "unclear", "seed": "unclear", "top_p": "unclear", "user": "ignored"}),
    ("parameters", {"model": "restless"}, {"stop": "unclear", "temperature": "unclear", "seed": "ignored", "top_p": "ignored", "presence_penalty": "unclear", "n": "honoured"}),
    ("parameters", {"model": "steady"}, {"temperature": "ignored", "seed": "unclear", "top_p": "unclear"}),
    ("parameters", {"stop": "ignore", "n": "ignore", "seed": "ignore", "top_p": "ignore", "logprobs": "ignore", "logit_bias": "ignore", "presence_penalty": "ignore", "store": "ignore", "service_tier": "ignore", "modalities": "ignore", "unknown": "ignore", "max_completion_tokens": "ignore"},
     {"stop": "ignored", "n": "ignored", "seed": "ignored", "top_p": "ignored", "logprobs": "ignored", "top_logprobs": "ignored", "logit_bias": "ignored", "presence_penalty": "unclear", "frequency_penalty": "honoured", "store": "ignored", "metadata": "ignored", "service_tier": "ignored", "modalities and audio": "ignored", "an unknown field": "ignored", "max_tokens": "honoured", "max_completion_tokens": "ignored", "user": "ignored"}),
    ("parameters", {"stop": "say", "n": "say", "seed": "say", "top_p": "say", "logprobs": "say", "logit_bias": "say", "store": "say", "service_tier": "say", "modalities": "say", "frequency_penalty": "say", "metadata": "say", "max_completion_tokens": "say", "user": "say", "no_such_parameter": "say"},
     {name: "ignored, said so" for name in ("stop", "n", "top_p", "logprobs", "logit_bias", "store", "service_tier", "modalities and audio", "frequency_penalty", "metadata", "max_completion_tokens", "user", "an unknown field")}),
    ("parameters", {"stop": "refuse", "n": "refuse", "top_p": "refuse", "logprobs": "refuse", "logit_bias": "refuse", "presence_penalty": "refuse", "store": "refuse", "service_tier": "refuse", "audio": "refuse", "verbosity": "refuse"},
     {name: "refused" for name in ("stop", "n", "top_p", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "store", "metadata", "service_tier", "modalities and audio", "verbosity")} | {"temperature": "honoured"}),
    ("parameters", {"stop": "refuse badly", "n": "fail", "logprobs": "break", "top_p": "refuse badly", "verbosity": "fail"},
     {"stop": "wrong", "n": "wrong", "logprobs": "wrong", "top_logprobs": "wrong", "top_p": "wrong", "verbosity": "wrong"}),
    ("parameters", {"metadata": "ignore"}, {"store": "honoured", "metadata": "ignored"}),
    ("parameters", {"stop": "break", "logprobs": "others"}, {"stop": "wrong", "logprobs": "wrong", "top_logprobs": "honoured"}),
    ("tools", {"tools": "ignore", "functions": "ignore", "function_call": "ignore"}, {"tool_choice: required": "ignored", "tool_choice: a tool": "ignored", "tool_choice: none": "unclear", "tool_choice: auto": "unclear", "custom tools": "ignored", "functions (old names)": "ignored", "parallel_tool_calls: false": "unclear", "tool_choice of no tool": "refused"}),
    ("tools", {"tool_choice": "ignore", "parallel_tool_calls": "ignore"}, {"tool_choice: required": "honoured", "tool_choice: a tool": "ignored", "tool_choice: none": "ignored", "parallel_tool_calls: false": "ignored", "custom tools": "wrong", "tool_choice of no tool": "ignored"}),
    ("tools", {"tools": "break"}, {"tool_choice: required": "wrong", "tool_choice: a tool": "wrong", "tool_choice: auto": "wrong", "custom tools": "honoured"}),
    ("tools", {"tools": "refuse"}, {"tool_choice: required": "refused", "tool_choice: none": "refused", "custom tools": "refused", "a call and its result": "wrong"}),
    ("structured", {"response_format": "ignore"}, {"json_object": "ignored", "json_schema": "ignored", "json_schema: of no type": "ignored", "json_schema without anything": "ignored"}),
    ("structured", {"response_format": "unheld"}, {"json_object": "ignored", "json_schema": "honoured"}),
    ("structured", {"response_format": "unheld", "logit_bias": "ignore"}, {"json_object": "honoured"}),
    ("structured", {"response_format": "loose"}, {"json_schema": "ignored", "json_schema without its name": "refused"}),
    ("structured", {"response_format": "refuse"}, {"json_object": "refused", "json_schema": "refused"}),
    ("errors", {"checks": "ignore", "content type": "ignore", "methods": "break"}, {"no JSON": "refused", "empty messages": "ignored", "an unknown role": "ignored", "a model that is not there": "ignored", "another content type": "ignored", "another method": "wrong", "an error before a stream": "wrong", "no key": "unclear"}),
    ("errors", {"errors": "break"}, {"no JSON": "wrong", "no messages": "wrong", "a model that is not there": "wrong", "too long a prompt": "wrong", "a path that there is not": "wrong"}),
    ("errors", {"context": "cut"}, {"too long a prompt": "wrong"}),
    ("errors", {"context": "mumble"}, {"too long a prompt": "wrong"}),
    ("streams", {"stream": "ignore"}, {"content type": "ignored", "chunks": "ignored"}),
    ("streams", {"stream": "plain type"}, {"content type": "wrong", "lines": "honoured"}),
    ("streams", {"stream": "no marker"}, {"[DONE] once, last": "wrong", "chunks": "honoured"}),
    ("streams", {"stream": "stray line"}, {"lines": "wrong", "chunks": "honoured"}),
    ("streams", {"stream": "no JSON"}, {"chunks": "wrong", "pieces are the whole": "honoured"}),
    ("streams", {"stream": "cut line"}, {"lines": "wrong", "[DONE] once, last": "wrong"}),
    ("streams", {"stream": "new ids"}, {"id, object, created, model": "wrong", "chunks": "honoured"}),
    ("streams", {"stream": "no object"}, {"chunks": "wrong"}),
    ("streams", {"stream": "no role"}, {"role first": "wrong", "finish_reason once, last": "honoured"}),
    ("streams", {"stream": "no finish"}, {"finish_reason once, last": "wrong", "n=2": "wrong"}),
    ("streams", {"stream": "late piece"}, {"finish_reason once, last": "wrong"}),
    ("streams", {"stream": "another text"}, {"pieces are the whole": "wrong", "logprobs": "wrong"}),
    ("streams", {"stream": "usage unasked"}, {"no usage unasked": "wrong", "stream_options.include_usage": "wrong"}),
    ("streams", {"stream": "no usage"}, {"no usage unasked": "honoured", "stream_options.include_usage": "ignored"}),
    ("streams", {"stream": "usage with choices"}, {"stream_options.include_usage": "wrong"}),
    ("streams", {"stream": "half a call"}, {"a call of a tool": "wrong"}),
    ("streams", {"n": "ignore", "tools": "ignore", "logprobs": "ignore", "stream_options": "say"}, {"n=2": "ignored", "a call of a tool": "ignored", "logprobs": "ignored", "stream_options.include_usage": "ignored, said so"}),
    ("streams", {"n": "refuse", "tools": "refuse", "logprobs": "refuse", "stream_options": "refuse"}, {"n=2": "refused", "a call of a tool": "refused", "logprobs": "refused", "stream_options.include_usage": "refused"}),
    ("streams", {"model": "restless"}, {"pieces are the whole": "unclear"}),
    ("overload", {}, {"4 calls at once": "honoured"}),
]  # fmt: skip


@pytest.mark.parametrize(("group", "doing", "expected"), ROWS)
def test_verdicts(group: str, doing: dict[str, str], expected: dict[str, str]) -> None:
    """What a server does with each thing is what is said of it."""
    with Behaving(**doing) as server:
        verdicts = found(group, server, burst=4)
        assert expected == {what: verdicts[what] for what in expected}


def test_keys() -> None:
    """A key that is needed is missed, one that is not looked at is told of, and no key is in the report."""
    key = "secret-key-of-the-test"
    for doing, expected in (("honour", "refused"), ("ignore", "ignored")):
        with Behaving(key, key=doing) as server:
            report = check(server.url, api_key=key, only=["errors"], timeout=20)
            verdicts = {one.what: one.verdict for one in report.findings}
            assert (expected, expected) == (verdicts["no key"], verdicts["a wrong key"])
            assert key not in report.to_json() + report.text()
    with Behaving(key) as server:
        report = check(server.url, api_key="another-key-that-is-wrong", only=["models"], timeout=20)
        assert "another-key-that-is-wrong" not in report.to_json() + report.text()
        assert ("a plain request", "wrong") == (report.findings[0].what, report.findings[0].verdict)
        assert "Incorrect key Bearer ..." in report.findings[0].note


def ticking(seconds: float) -> Any:
    """A clock that goes on by so much each time it is looked at: what is measured is how often, not how fast."""
    return (seconds * count for count in itertools.count()).__next__


@pytest.mark.parametrize(
    ("tick", "doing", "expected"),
    [
        (0.01, {}, ("honoured", "honoured")),
        (0.01, {"leaving": "never"}, ("wrong", "unclear")),
        (1.0, {"gauge": "none"}, ("unclear", "unclear")),
        (0.01, {"gauge": "none", "slots": "one"}, ("honoured", "honoured")),
        (0.0, {"gauge": "none", "slots": "one"}, ("unclear", "unclear")),
        (0.01, {"model": "one word", "logit_bias": "ignore"}, ("unclear", "unclear")),
        (0.01, {"model": "one word", "end": "forced"}, ("honoured", "honoured")),
        (0.01, {"stream": "refuse"}, ("unclear", "unclear")),
    ],
)
def test_leaving(tick: float, doing: dict[str, str], expected: tuple[str, str]) -> None:
    """Whether work stops is told by the server's gauge; without one, and with others answered meanwhile, it is not."""
    with Behaving(**doing) as server:
        report = asyncio.run(acheck(server.url, only="cancellation", timeout=20, clock=ticking(tick)))
        assert expected == tuple(one.verdict for one in report.findings if one.group == "cancellation"), report.text()


@pytest.mark.parametrize("doing", ["everything", None])
def test_nobody(doing: str | None) -> None:
    """A server that hangs, or is not there, gives a report with all its lines."""
    if doing is None:
        report = check(f"http://127.0.0.1:{closed_port()}/v1", timeout=5)
    else:
        with Behaving(everything="hang") as server:
            report = check(server.url, timeout=0.2)
    assert "wrong" == report.findings[0].verdict
    assert "no answer" in report.findings[0].note
    assert {"unclear"} == {one.verdict for one in report.findings[1:]}
    assert 100 < len(report.findings)
    assert not report.passed


def test_silence_later() -> None:
    """A server that stops answering in the middle is asked three times more, and then no longer."""

    def play(peer: Peer) -> None:
        while True:
            _, body = peer.read_request()
            if b"rivers" in body and b'"n"' not in body and len(peer.server.requests) < 5:
                peer.send(
                    answer(
                        completion(
                            "a river and another river in the land",
                            usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
                        )
                    )
                )
            elif len(peer.server.requests) < 2:
                peer.send(answer({"object": "list", "data": []}))
            else:
                peer.wait_for_close()
                return

    with Loopback(play) as server:
        report = check(server.url, only="values", timeout=0.3)
        verdicts = [one.verdict for one in report.findings if one.group == "values"]
        assert ["wrong"] * 3 == [verdict for verdict in verdicts if verdict == "wrong"]
        assert "not asked: the server left 3 in a row unanswered" == report.findings[-2].note


def test_silence_now_and_then() -> None:
    """Three unanswered in a row are too many, not three in all."""
    dropped = (b'"temperature":2.5', b'"temperature":-1', b'"top_p":1.5', b'"top_p":-0.5')

    def play(peer: Peer) -> None:
        while True:
            _, body = peer.read_request()
            if any(one in body for one in dropped):
                return
            peer.send(answer(completion()))

    with Loopback(play) as server:
        report = check(server.url, only="values", timeout=10)
        assert 4 == sum(one.note.startswith("no answer: ") for one in report.findings)
        assert 0 == sum(one.note.startswith("not asked") for one in report.findings)


JUNK: list[bytes] = [
    b"", b"hi", b"[]", b"5", b"null", b'"x"', b'{"choices": 5}', b'{"choices": [5]}', b'{"choices": [{"message": 5}]}',
    b'{"choices": [{"message": {"content": 5, "tool_calls": [5]}, "logprobs": {"content": [5]}}], "usage": 5}',
    b'{"choices": [{"message": {"content": "a", "tool_calls": {"a": 1}}, "logprobs": 5}], "usage": {"completion_tokens": "x"}}',
    b'{"error": 5}', b'{"error": {"message": 5}}', b"\xff\xfe", b'data: 5\n\ndata: {"choices": 5}\n\n', b"<html>", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", JUNK, ids=range(len(JUNK)))
def test_junk(body: bytes, status: int) -> None:
    """Whatever a server answers, a report comes of it, in which nothing could not be judged."""

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(answer(body, f"{status} X", "content-type: text/event-stream"))

    with Loopback(play) as server:
        report = check(server.url, timeout=10, burst=2)
        assert [] == [one.note for one in report.findings if "could not be judged" in one.note]
        assert not report.passed
        assert all(line.isprintable() for line in report.text().split("\n"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "everything"}, "only: 'everything' is no group; there are models"),
        ({"timeout": 0}, "timeout: expected seconds above 0"),
        ({"timeout": float("inf")}, "timeout: expected seconds above 0"),
        ({"burst": 0}, "burst: expected 1 to 1000 calls"),
        ({"url": "local:"}, "does not begin with http"),
        ({"url": "https://x.openai.azure.com/openai?api-version=2024-10-21"}, "paths by deployment are not checked"),
        ({"api_key": "a\nb"}, "no key has"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    """What cannot be done is said before anything is sent."""
    with pytest.raises(InvalidRequestError, match=message):
        check(**{"url": "http://127.0.0.1:9/v1", **options})


def test_interrupted() -> None:
    """A report that is passed in has what there is when the check is interrupted."""

    def interrupt(finding: Finding) -> None:
        if finding.what == "one by its name":
            signal.raise_signal(signal.SIGINT)

    report = Report(found=interrupt)
    with Behaving() as server:
        with pytest.raises(KeyboardInterrupt):
            check(server.url, timeout=20, report=report)
        assert "one by its name" in {one.what for one in report.findings}
        assert len(report.findings) < 20


def test_given_model() -> None:
    """The model that is named is asked, else the first that is listed; others than max_tokens are found out."""
    with Behaving() as server:
        report = check(server.url, model="elsewhere", only="models", timeout=20)
        assert ("elsewhere", "wrong") == (report.model, report.findings[0].verdict)
    with Behaving(max_tokens="refuse", temperature="refuse") as server:
        report = check(server.url, only=["parameters"], timeout=20)
        verdicts = {one.what: one.verdict for one in report.findings}
        assert ("honoured", "refused", "honoured", "refused") == tuple(
            verdicts[name] for name in ("a plain request", "max_tokens", "max_completion_tokens", "temperature")
        )
