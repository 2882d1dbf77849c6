"""Exchanges as lines and back, and what a recording answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import (
    AudioDelta,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CustomCallDelta,
    Delta,
    FunctionCallDelta,
    InvalidRequestError,
    ModelList,
    ReplayError,
    ResponseMessage,
    StreamTruncatedError,
    ToolCallDelta,
    Usage,
    errors,
)
from gpt.protocol import codec
from gpt.protocol.chunks import fold
from gpt.protocol.limits import Limit
from gpt.protocol.profiles import Profile
from gpt.protocol.recording import (
    HEADER,
    Exchange,
    Tape,
    check_head,
    facts,
    failure,
    is_line,
    raw,
    read,
    recut,
    scrubbed,
    told,
    without_secrets,
)
from gpt.protocol.sse import Decoder
from gpt.protocol.wire import AttemptInfo, Headers, HttpResponse, ResponseInfo

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ANSWER = b'{"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}], "x": 1.50}'
CHUNKS = [
    b'{"id":"c","choices":[{"index":0,"delta":{"content":"y"}}],"x":1}',
    b'{"id":"c","choices":[{"index":0,"delta":{"content":"es"},"finish_reason":"stop"}]}',
]
SECRET = "sk-0123456789"


def exchange(**fields: Any) -> Exchange:
    return Exchange(**{"call": "complete", "server": "https://h/v1", "request": ASKED, **fields})


def again(made: Exchange, *secrets: str) -> Exchange:
    """The exchange, written and read."""
    ((number, found),) = read(HEADER + made.line(secrets), "x.jsonl")
    assert 2 == number
    return found


# --------------------------------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------------------------------


def test_line() -> None:
    """A line is plain JSON: what was asked and what came, as it came, with times to the microsecond."""
    info = ResponseInfo(200, Headers([("x-request-id", "r"), ("set-cookie", SECRET)]), elapsed=0.12345678, adapted=("a",))
    line = exchange(answer=raw(ANSWER), elapsed=0.98765432, info=facts(info), profile=told(Profile(echoes="always"))).line()
    assert line.endswith(b"\n")
    assert {
        "call": "complete",
        "server": "https://h/v1",
        "profile": {"echoes": "always"},
        "request": ASKED,
        "answer": json.loads(ANSWER),
        "elapsed": 0.987654,
        "info": {"elapsed": 0.123457, "adapted": ["a"], "headers": {"x-request-id": "r"}},
    } == json.loads(line)
    assert ANSWER in line
    assert (
        b'{"call":"models","server":"","answer":{"data":[]},"elapsed":0.0}\n'
        == Exchange(call="models", answer=raw(b'{"data":[]}')).line()
    )


def test_whole_answer() -> None:
    """A whole answer comes back with its bytes and its facts, whole and as a chunk."""
    info = ResponseInfo(
        200,
        Headers([("X-Request-Id", "r")]),
        elapsed=0.5,
        first_byte=0.25,
        attempts=(AttemptInfo(500, "e", 0.125), AttemptInfo(200, "ok", 0.25, 1.0)),
    )
    found = again(exchange(answer=raw(ANSWER), elapsed=0.5, info=facts(info)))
    made = found.completion()
    assert (ANSWER, info, "r") == (made.to_json(), made.info, made.info and made.info.request_id)
    ((at, chunk),) = found.timed()
    assert (0.5, "yes", "stop") == (at, chunk.text, chunk.choices[0].finish_reason)


def test_streamed_answer() -> None:
    """A streamed one comes back in its chunks, with their bytes and times, and whole."""
    found = again(
        exchange(
            call="stream", chunks=[(0.25, raw(CHUNKS[0])), (0.5, raw(CHUNKS[1]))], info=facts(ResponseInfo(ended="complete"))
        )
    )
    assert [(0.25, CHUNKS[0]), (0.5, CHUNKS[1])] == [(at, chunk.to_json()) for at, chunk in found.timed()]
    made = found.completion()
    assert ("yes", 1, "complete") == (made.text, made.to_dict()["x"], made.info and made.info.ended)


def test_without_facts() -> None:
    """Where no facts are known none are made up; those of the usual kind are an empty object."""
    found = again(exchange(call="stream", chunks=[(0.0, raw(CHUNKS[1]))], info=facts(None)))
    assert (None, None) == (found.completion().info, again(exchange(answer=raw(ANSWER))).completion().info)
    assert {} == facts(ResponseInfo())


def test_models() -> None:
    """A list of models comes back."""
    found = again(Exchange(call="models", answer=raw(b'{"object":"list","data":[{"id":"m"}]}'), info={})).models()
    assert isinstance(found, ModelList)
    assert (["m"], 200) == ([model.id for model in found], found.info and found.info.status)


def test_one_line() -> None:
    """What came over several lines is written on one, with its values to the letter; what came on one stays as it is."""
    assert [b'{"a":1.50,"b":"x y"}', b'{"a": 1}', b'{"a":1}'] == [
        bytes(raw(body)) for body in (b'{\n "a": 1.50,\n "b": "x y"\n}', b'{"a": 1}', b'{"a":\r1}')
    ]


def of(kind: str, **beside: Any) -> errors.GptError:
    cls = getattr(errors, kind)
    if issubclass(cls, errors.ResponseError):
        error = cls(
            "m",
            429,
            "body",
            HttpResponse(
                429,
                Headers(
                    [("x-ratelimit-limit-requests", "5"), ("anthropic-ratelimit-tokens-limit", "6"), ("set-cookie", SECRET)]
                ),
            ),
            code="c",
            type="t",
            param="p",
            request_id="r",
            retry_after=1.5,
            should_retry=True,
            rate_limits=None,
            **beside,
        )
    elif issubclass(cls, errors.TransportError):
        error = cls("m", phase="read", sent=True)
        error.elapsed = 0.5
    else:
        error = cls("m", **beside)
    error.attempts = (AttemptInfo(429, "e", 0.25),)
    return error


ERRORS = [
    *(of(name) for name in errors.__all__ if name not in ("ParseError", "LengthFinishError", "ContentFilterFinishError", "RefusalError", "ContextLengthError", "ToolError", "ReplayError")),
    of("ContextLengthError", requested=5, limit=3),
    of("InvalidRequestError", param="a.b"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors(error: errors.GptError) -> None:
    """An error comes back as the same class with all that it carries, but for the whole answer."""
    made = exchange(error=failure(error))
    assert SECRET.encode() not in made.line()
    found = again(made).error
    assert found is not None
    twin = found.error()
    assert type(error) is type(twin)
    left_out = {"raw_response", "rate_limits"}
    assert {name: value for name, value in vars(error).items() if name not in left_out} == {
        name: value for name, value in vars(twin).items() if name not in left_out
    }
    assert str(error) == str(twin)
    if isinstance(twin, errors.ResponseError):
        assert twin.rate_limits is not None
        assert Limit(5) == twin.rate_limits.requests


class OwnError(errors.RateLimitError):
    """An error of somebody's own."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OwnError("m", 429), "RateLimitError"), (errors.ToolError("m"), "GptError"), (ReplayError("m"), "GptError")],
)
def test_other_errors(error: errors.GptError, expected: str) -> None:
    """One of a class that is not the library's own, or that no backend raises, goes by the nearest that is."""
    assert (expected, "m") == (failure(error).type, failure(error).message)


def test_profile() -> None:
    """A profile is written down as that in which it is special, and comes back."""
    special = Profile(echoes="tools", think_tags=("<a>", "</a>"), rungs=("tool",))
    assert {} == told(None) == told(Profile())
    assert {"echoes", "think_tags", "rungs"} == set(told(special))
    found = again(exchange(answer=raw(ANSWER), profile=told(special)))
    assert special == Tape([(2, found)], "x", strict=True).profile
    assert Profile() == Tape([], "x", strict=True).profile


# --------------------------------------------------------------------------------------------------------------------
# Secrets
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"api_key": SECRET}, {"api_key": "..."}),
        ({"auth": {"token": SECRET, "kind": "x"}}, {"auth": {"token": "...", "kind": "x"}}),
        ({"api_keys": [SECRET, 5]}, {"api_keys": ["...", 5]}),
        ({"metadata": {"password": SECRET}}, {"metadata": {"password": "..."}}),
        ({"extra": {"api_key": SECRET}}, {"extra": {"api_key": "..."}}),
        (
            {"tools": [{"type": "mcp", "authorization": SECRET, "headers": {"X-Api-Key": SECRET}}]},
            {"tools": [{"type": "mcp", "authorization": "...", "headers": {"X-Api-Key": "..."}}]},
        ),
        (
            {"messages": [{"content": [{"image_url": {"url": f"https://h/a.png?size=5&sig={SECRET}"}}]}]},
            {"messages": [{"content": [{"image_url": {"url": "https://h/a.png?size=5&sig=..."}}]}]},
        ),
        *[
            (same, same)
            for same in (
                {"max_tokens": 5, "prompt_cache_key": "k", "stop_token_ids": [1]},
                {"tools": [{"function": {"parameters": {"properties": {"token": {"type": "string"}}}}}]},
                {"messages": [{"content": "token", "reasoning_details": [{"signature": "s"}]}]},
                {"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,a?b"}}]}]},
                {"messages": [{"content": [{"image_url": {"url": "https://h/a.png"}}]}]},
            )
        ],
    ],
)
def test_without_secrets(request_: dict[str, Any], expected: dict[str, Any]) -> None:
    """Texts whose names speak of a secret are left out wherever they may be, and nothing else is."""
    assert expected == without_secrets(request_)
    assert json.dumps(expected, separators=(",", ":")) in exchange(request=request_, answer=raw(ANSWER)).line().decode()


def test_found_secrets() -> None:
    """What stood under such a name is left out of the rest of the line too, unless it stood in the metadata."""
    found: list[str] = []
    without_secrets({"api_key": f"Bearer {SECRET}", "metadata": {"key": "continent"}, "messages": [{"key": "x"}]}, found)
    assert [SECRET] == found
    line = exchange(
        request={"api_key": SECRET, "metadata": {"key": "continent"}},
        error=failure(errors.ServerError(f"no {SECRET} on this continent", 500)),
    ).line()
    assert "no ... on this continent" == json.loads(line)["error"]["message"]


def test_known_secrets() -> None:
    """Secrets that are known are left out of all that a line has; short ones would be found anywhere."""
    odd = 'sk-"quoted"\\0'
    asked = {"messages": [{"role": "user", "content": f"my key is {SECRET}, or {odd}"}]}
    line = exchange(request=asked, error=failure(errors.ServerError(f"no {SECRET}", 500, SECRET))).line([SECRET, odd, "my"])
    assert SECRET.encode() not in line
    assert "my key is ..., or ..." == json.loads(line)["request"]["messages"][0]["content"]
    assert b"abc" == scrubbed(b"abc", ["abc"])


# --------------------------------------------------------------------------------------------------------------------
# A file
# --------------------------------------------------------------------------------------------------------------------

LINE = exchange(answer=raw(ANSWER)).line()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HEADER, []),
        (HEADER.strip(), []),
        (b'{"version": 1, "format": "gpt-record", "by": "hand"}\n' + LINE, [2]),
        (HEADER + LINE + b"\n  \n" + LINE, [2, 5]),
        (HEADER + LINE + LINE.strip(), [2, 3]),
        (HEADER + LINE + LINE[:40], [2]),
        (HEADER + LINE + '{"call":"complete","server":"é'.encode()[:-1], [2]),
    ],
)
def test_read(data: bytes, expected: list[int]) -> None:
    """A file gives its exchanges by line; what is left of a last line that was not written whole is passed over."""
    assert expected == [number for number, _ in read(data, "x.jsonl")]


@given(st.integers(0, len(LINE) * 3))
def test_torn(size: int) -> None:
    """However long the file had become when its writer was stopped, all whole lines are read."""
    data = (LINE * 3)[:size]
    assert size // len(LINE) <= len(read(HEADER + data, "x")) <= size // len(LINE) + 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"x.jsonl: is no recording: its first line is not {\"format\":\"gpt-record\",\"version\":1}"),
        (b"hello\n" + LINE, "is no recording"),
        (b"\xff\n", "is no recording"),
        (b'{"format":"har","version":1}\n', "is no recording"),
        (b'{"format":"gpt-record","version":2}\n', "recording of version 2, and this release of gpt knows version 1"),
        (HEADER + LINE[:40] + b"\n" + LINE, "x.jsonl, line 2: .*mend it or take it out"),
        (HEADER + b'{"call":"complete"}\n', "line 2: it has neither answer nor chunks nor error"),
        (HEADER + LINE + b'{"call":"dance"}', "line 3: Invalid enum value 'dance'"),
        (HEADER + b'{"call":"complete","error":{"type":"OSError","message":""}}\n', "there is no error 'OSError'"),
        (HEADER + b'{"call":"complete","error":{"type":"ParseError","message":""}}\n', "there is no error 'ParseError'"),
        (HEADER + b'{"call":"complete","error":{"type":"Any","message":""}}\n', "there is no error 'Any'"),
        (HEADER + b'{"call":"complete","profile":{"echoes":5},"answer":{}}\n', "line 2: .*echoes"),
        (HEADER + b'{"call":"complete","info":{"status":"x"},"answer":{}}\n', "line 2: .*status"),
    ],
)
def test_not_read(data: bytes, message: str) -> None:
    """What is no recording, or has a line that is none, is refused, with its place."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        read(data, "x.jsonl")
    assert "path" == caught.value.param


def test_whole_lines() -> None:
    """A line is told from what is left of one, and a first line from others."""
    assert [True, False, False] == [is_line(one) for one in (LINE.strip(), LINE[:40], b"\xc3")]
    check_head(HEADER, "x")


# --------------------------------------------------------------------------------------------------------------------
# Answering
# --------------------------------------------------------------------------------------------------------------------


def asked(text: str, **beside: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **beside}


def tape(*requests: dict[str, Any], strict: bool = True) -> Tape:
    made = []
    for number, request in enumerate(requests, 2):
        answer = codec._encoder.encode(ChatCompletion(id=str(number), choices=[Choice("stop", 0, ResponseMessage("a"))]))
        made.append((number, exchange(request=request, answer=raw(answer))))
    return Tape(made, "x.jsonl", strict=strict)


def test_take() -> None:
    """Each answer is used once; equal requests get theirs in the order in which they were recorded."""
    played = tape(asked("a"), asked("b"), asked("a", user="u"), asked("c", api_key=SECRET))
    assert 4 == played.left
    wanted = [asked("b", stream=True), asked("a"), asked("a"), asked("c", api_key="another")]
    assert ["3", "2", "4", "5"] == [played.take(request).completion().id for request in wanted]
    assert 0 == played.left


@pytest.mark.parametrize(("count", "message"), [(1, r"recorded 1 times \(line 2\)"), (2, r"recorded 2 times \(lines 2, 3\)")])
def test_used_up(count: int, message: str) -> None:
    """Strictly, each answer is there once; else the last one repeats."""
    played = tape(*[asked("a")] * count)
    for _ in range(count):
        played.take(asked("a"))
    with pytest.raises(ReplayError, match=message + " and is asked for once more.*strict=False") as caught:
        played.take(asked("a"))
    assert (count + 1, None) == (caught.value.line, caught.value.param)
    loose = tape(*[asked("a")] * count, strict=False)
    assert [str(min(place, count) + 1) for place in range(1, 5)] == [loose.take(asked("a")).completion().id for _ in range(4)]
    assert 0 == loose.left


NEAREST: list[tuple[list[dict[str, Any]], dict[str, Any], int, str, str]] = [
    ([asked("a")], asked("b"), 2, "messages[0].content", "recorded 'a', asked 'b'; record it"),
    ([asked("What?"), asked("Name two."), asked("Name three.")], asked("Name ten."), 3, "messages[0].content", "recorded 'Name two.', asked 'Name ten.'"),
    ([asked("x", temperature=1), asked("y")], asked("x"), 2, "temperature", "recorded 1, asked nothing"),
    ([asked("x", temperature=1, seed=1), asked("y")], asked("x"), 3, "messages[0].content", "recorded 'y', asked 'x'"),
    ([asked("x", seed=1, top_p=1)], asked("x"), 2, "seed", "recorded 1, asked nothing, and 1 more"),
    ([asked("x", seed=1), asked("x", seed=2)], asked("x", seed=3), 2, "seed", "recorded 1, asked 3"),
]  # fmt: skip


@pytest.mark.parametrize(("recorded", "request_", "line", "param", "message"), NEAREST)
def test_nearest(recorded: list[dict[str, Any]], request_: dict[str, Any], line: int, param: str, message: str) -> None:
    """What was not recorded is refused with the nearest request that was, and the first place at which the two differ."""
    played = tape(*recorded)
    with pytest.raises(ReplayError) as caught:
        played.take(request_)
    assert (line, param) == (caught.value.line, caught.value.param)
    assert f"x.jsonl: this request was not recorded; the nearest is line {line}, which differs at {param}: {message}" in str(
        caught.value
    )
    assert len(recorded) == played.left


def test_nothing_recorded() -> None:
    """An empty recording says so, of requests and of models."""
    with pytest.raises(ReplayError, match="nothing was"):
        tape().take(asked("a"))
    with pytest.raises(ReplayError, match="no list of models was recorded"):
        tape(asked("a")).take_models()


def test_models_in_order() -> None:
    """Lists of models are used as answers are."""
    lists = [(number, Exchange(call="models", answer=raw(b'{"data":[{"id":"%d"}]}' % number))) for number in (2, 3)]
    played = Tape(lists, "x", strict=True)
    assert [["2"], ["3"]] == [[model.id for model in played.take_models().models()] for _ in range(2)]
    with pytest.raises(ReplayError, match="the list of models was recorded 2 times"):
        played.take_models()


# --------------------------------------------------------------------------------------------------------------------
# Cut anew
# --------------------------------------------------------------------------------------------------------------------


def cut(*chunks: ChatCompletionChunk, size: int) -> list[ChatCompletionChunk]:
    return [piece for chunk in chunks for piece in recut(chunk, size)]


def said(*choices: ChunkChoice, **beside: Any) -> ChatCompletionChunk:
    return ChatCompletionChunk(id="c", choices=list(choices), **beside)


CALL = ToolCallDelta(0, "a", "function", FunctionCallDelta('{"a": "', "f"))

RECUT: list[tuple[ChatCompletionChunk, int, int]] = [
    (said(ChunkChoice(Delta("hello"), "stop"), usage=Usage(1, 2, 3)), 2, 3),
    (said(ChunkChoice(Delta("hello"), "stop")), 5, 1),
    (said(), 1, 1),
    (said(ChunkChoice(Delta(role="assistant"))), 1, 1),
    (said(ChunkChoice(Delta("abc", role="assistant", reasoning_content="abcde", refusal="x"))), 2, 3),
    (said(ChunkChoice(Delta(raw_reasoning="abc")), ChunkChoice(Delta("x"), index=1)), 1, 3),
    (said(ChunkChoice(Delta(tool_calls=[CALL, ToolCallDelta(1, "b", function=FunctionCallDelta("[1", "g"))]))), 2, 4),
    (said(ChunkChoice(Delta(tool_calls=[ToolCallDelta(None, "b", function=FunctionCallDelta("[1", "g"))]))), 1, 2),
    (said(ChunkChoice(Delta(tool_calls=[ToolCallDelta(0, function=FunctionCallDelta('{"whole": 1}'))]))), 2, 1),
    (said(ChunkChoice(Delta("ab", tool_calls=[ToolCallDelta(0, "a", custom=CustomCallDelta("whole", "f"))]))), 1, 2),
    (said(ChunkChoice(Delta(tool_calls=[ToolCallDelta(function=FunctionCallDelta("[1", "f")), ToolCallDelta(function=FunctionCallDelta("[2", "g"))]))), 1, 1),
    (said(ChunkChoice(Delta(tool_calls=[CALL, ToolCallDelta(0, function=FunctionCallDelta("more"))]))), 1, 1),
    (said(ChunkChoice(Delta("ab")), ChunkChoice(Delta("cd"))), 1, 1),
    (said(ChunkChoice(Delta("ab", audio=AudioDelta(data="AAAA")))), 1, 2),
    (codec.decode_chunk(b'{"id":"c","choices":[{"index":0,"delta":null},{"delta":{"content":"ab","own":"x"},"mine":1}],"y":2}'), 1, 2),
    (codec.decode_chunk(b'{"choices":[{"index":0,"delta":{"content":"ab","tool_calls":null}}]}'), 1, 2),
]  # fmt: skip


@pytest.mark.parametrize(("chunk", "size", "count"), RECUT)
def test_recut(chunk: ChatCompletionChunk, size: int, count: int) -> None:
    """A chunk comes in as many pieces as its longest text needs, which add up to the same; no text of them is longer."""
    pieces = recut(chunk, size)
    assert count == len(pieces)
    assert fold([chunk]) == fold(pieces)
    assert fold([chunk]).to_dict() == fold(pieces).to_dict()
    assert 1 == count or all(len(choice.delta.content or "") <= size for piece in pieces for choice in piece.choices)


def test_recut_as_drawn() -> None:
    """Each piece is as long as is drawn, and all texts of a chunk are cut at the same places."""
    drawn = iter([1, 3, 2, 3])
    pieces = recut(said(ChunkChoice(Delta("abcdefgh", reasoning_content="ABC"))), 3, lambda most: min(most, next(drawn)))
    assert [("a", "A"), ("bcd", "BC"), ("ef", None), ("gh", None)] == [
        (piece.text, piece.choices[0].delta.reasoning) for piece in pieces
    ]


def test_last_piece() -> None:
    """What is no text comes with the last piece, the role with the first."""
    first, last = recut(said(ChunkChoice(Delta("ab", role="assistant"), "stop"), usage=Usage(1, 2, 3)), 1)
    assert ("a", "assistant", None, None) == (
        first.text,
        first.choices[0].delta.role,
        first.choices[0].finish_reason,
        first.usage,
    )
    assert ("b", "stop", Usage(1, 2, 3)) == (last.text, last.choices[0].finish_reason, last.usage)


DIALECTS = sorted((Path(__file__).parents[1] / "dialects").glob("*.sse"))


def streamed(path: Path) -> list[ChatCompletionChunk]:
    chunks = []
    for event in Decoder().feed(path.read_bytes()):
        if event.data.startswith(b"{") and b'"choices"' in event.data:
            chunks.append(codec.decode_chunk(event.data))
    return chunks


@pytest.mark.parametrize("path", DIALECTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [1, 3])
def test_recut_dialects(path: Path, size: int) -> None:
    """What any server of the corpus sends adds up to the same, however it is cut."""
    chunks = streamed(path)
    assert chunks
    assert fold(chunks) == fold(cut(*chunks, size=size))


def test_truncated() -> None:
    """A stream that broke off keeps the chunks before its error."""
    found = again(exchange(call="stream", chunks=[(0.0, raw(CHUNKS[0]))], error=failure(StreamTruncatedError("cut"))))
    assert found.error is not None
    assert isinstance(found.error.error(), StreamTruncatedError)
    assert ["y"] == [chunk.text for _, chunk in found.timed()]


def test_left() -> None:
    """That a caller left is written down, even where nothing had come."""
    found = again(exchange(call="stream", chunks=[], left=True))
    assert (True, []) == (found.left, found.timed())
    assert msgspec.json.decode(found.line())["left"]
