"""A request with the parameter fixed that a server does not take: tested with next, send and throw."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import errors
from gpt.protocol import flow
from gpt.protocol.adapt import AT_MOST, DROPPED, RENAMES, Adaptations, Change, adapting, applied, change_for
from gpt.protocol.retry import Budget, Retry
from gpt.protocol.wire import AttemptInfo, Headers, HttpRequest, HttpResponse, Origin
from gpt.types import ChatRequest

GOOD = b'{"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}'
SAID: list[dict[str, Any]] = [{"role": "developer", "content": "ä  "}, {"role": "user", "content": "b"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"messages": SAID, "model": "m", **fields}).encode()


def refusal(param: str | None, message: str = "no", status: int = 400) -> errors.UnsupportedParameterError:
    return errors.UnsupportedParameterError(message, status, param=param)


FIXED: list[tuple[str, str, dict[str, Any], str]] = [
    ("max_tokens", "", {"max_tokens": 5}, "max_tokens -> max_completion_tokens"),
    ("max_completion_tokens", "", {"max_completion_tokens": 5}, "max_completion_tokens -> max_tokens"),
    ("temperature", "", {"temperature": 0}, "temperature dropped"),
    ("presencePenalty", "", {"presence_penalty": 1}, "presence_penalty dropped"),
    ("stream_options", "", {"stream_options": {"include_usage": True}}, "stream_options dropped"),
    ("stream_options.include_usage", "", {"stream_options": {"include_usage": True}}, "stream_options dropped"),
    ("body.top_p", "", {"top_p": 1}, "top_p dropped"),
    ("$.seed", "", {"seed": 1}, "seed dropped"),
    ("top_k", "", {"top_k": 4}, "top_k dropped"),
    ("parallel_tool_calls", "", {"parallel_tool_calls": True}, "parallel_tool_calls dropped"),
    ("store", "", {"store": False}, "store dropped"),
    ("logprobs", "", {"logprobs": None}, "logprobs dropped"),
    ("messages[0].role", "'messages[0].role' does not support 'developer' with this model", {}, "role developer -> system"),
    ("messages[0].role", "unknown variant `developer`, expected one of `system`", {}, "role developer -> system"),
    ("messages.[0].role", "developer is not one of ['system']", {}, "role developer -> system"),
    ("messages[0].role", "does not support 'system'", {"messages": [{"role": "system", "content": "a"}]},
     "role system -> developer"),
]  # fmt: skip


@pytest.mark.parametrize(("param", "message", "fields", "expected"), FIXED)
def test_change(param: str, message: str, fields: dict[str, Any], expected: str) -> None:
    """The parameter that was refused is fixed, and no other; the change says what it is."""
    sent = body(**fields)
    change = change_for(refusal(param, message), sent)
    assert change is not None
    assert expected == str(change)
    after, made = applied(sent, (change,))
    assert (change,) == made
    was, now = json.loads(sent), json.loads(after)
    touched = {change.param, change.into, "messages" if change.old else ""}
    assert {name: value for name, value in was.items() if name not in touched} == {
        name: value for name, value in now.items() if name not in touched
    }
    assert [message["content"] for message in was["messages"]] == [message["content"] for message in now["messages"]]


LEFT: list[tuple[Any, dict[str, Any]]] = [
    (refusal("tools"), {"tools": []}),
    (refusal("tool_choice"), {"tool_choice": "auto"}),
    (refusal("response_format"), {"response_format": {"type": "text"}}),
    (refusal("messages"), {}),
    (refusal("messages[0].content"), {}),
    (refusal("n"), {"n": 2}),
    (refusal("stop"), {"stop": ["a"]}),
    (refusal("logit_bias"), {"logit_bias": {"5": 1}}),
    (refusal("logprobs"), {"logprobs": True}),
    (refusal("parallel_tool_calls"), {"parallel_tool_calls": False}),
    (refusal("store"), {"store": True}),
    (refusal("zap"), {"zap": 1}),
    (refusal("temperature"), {}),
    (refusal("max_tokens"), {}),
    (refusal("max_tokens"), {"max_tokens": 5, "max_completion_tokens": 5}),
    (refusal("messages[0].role", "does not support 'system'"), {}),
    (refusal("messages[0].role", "what is this?"), {}),
    (refusal(None), {"temperature": 0}),
    (errors.BadRequestError("no", 400, param="temperature"), {"temperature": 0}),
    (errors.ConnectError("no"), {"temperature": 0}),
]


@pytest.mark.parametrize(("error", "fields"), LEFT)
def test_no_change(error: Any, fields: dict[str, Any]) -> None:
    """What says what is wanted stays, and so does what nobody refused."""
    assert change_for(error, body(**fields)) is None


NOT_NEEDED: list[tuple[Change, dict[str, Any]]] = [
    (Change("temperature"), {}),
    (Change("max_tokens", "max_completion_tokens"), {}),
    (Change("max_tokens", "max_completion_tokens"), {"max_tokens": 5, "max_completion_tokens": 5}),
    (Change("store"), {"store": True}),
    (Change("role", "developer", "system"), {}),
]


@pytest.mark.parametrize(("change", "fields"), NOT_NEEDED)
def test_not_needed(change: Change, fields: dict[str, Any]) -> None:
    """What is known of a model leaves a request alone that it does not concern."""
    sent = body(**fields)
    after, made = applied(sent, (change,))
    assert ((), True) == (made, after is sent)


@given(st.dictionaries(st.sampled_from(sorted({*ChatRequest.__struct_fields__} - {"messages", "extra"})), st.integers()))
def test_nothing_else(fields: dict[str, int]) -> None:
    """Whatever is refused, only that is changed, and only if it may be."""
    sent = body(**fields)
    for name in fields:
        change = change_for(refusal(name), sent)
        after, _ = applied(sent, () if change is None else (change,))
        was, now = json.loads(sent), json.loads(after)
        assert (name in DROPPED or (name in RENAMES and RENAMES[name] not in fields)) == (was != now)
        assert {key: value for key, value in was.items() if key != name}.items() <= now.items()


class Asking:
    """An adapting flow over the flow of calls, with a clock that goes on by a second an attempt."""

    def __init__(
        self, sent: bytes, known: Adaptations | None = None, deadline: float | None = None, model: str = "m", **hooks: Any
    ) -> None:
        self.now = 0.0
        self.known = known or Adaptations()
        self.deadlines: list[float | None] = []
        chances = flow.Chances(Retry(), Budget(), lambda: self.now, lambda: 0.0)

        def ask(asked: HttpRequest, left: float | None, note: Any) -> flow.Flow[Any]:
            self.deadlines.append(left)
            return flow.call(asked, lambda one, sent, info: flow.completion(one, sent, note(info)), chances, left)

        request = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions", body=sent, deadline=deadline)
        self.flow = adapting(request, model, self.known, ask, lambda: self.now, **hooks)

    def sent(self, attempt: flow.Attempt) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(attempt.request.body)
        return {name: value for name, value in made.items() if name not in ("messages", "model")}

    def start(self) -> dict[str, Any]:
        return self.sent(next(self.flow))

    def answer(self, status: int = 200, param: str | None = None, message: str = "") -> Any:
        """The parameters that are sent next, or the completion."""
        self.now += 1.0
        error = {"error": {"message": message, "param": param, "code": "unsupported_parameter" if param else None}}
        said = GOOD if status == 200 else json.dumps(error).encode()
        try:
            return self.sent(self.flow.send(HttpResponse(status, Headers(), said, elapsed=1.0)))
        except StopIteration as done:
            return done.value


def test_fixed_and_remembered() -> None:
    """A refused parameter is fixed, asked for once more, told, and remembered for that model alone."""
    call = Asking(body(max_tokens=5))
    assert {"max_tokens": 5} == call.start()
    assert {"max_completion_tokens": 5} == call.answer(400, "max_tokens")
    made = call.answer()
    assert ("hi", ("max_tokens -> max_completion_tokens",), 2.0) == (made.text, made.info.adapted, made.info.elapsed)
    assert [400, 200] == [attempt.status for attempt in made.info.attempts]

    again = Asking(body(max_tokens=6), call.known)
    assert {"max_completion_tokens": 6} == again.start()
    made = again.answer()
    assert (("max_tokens -> max_completion_tokens",), [200]) == (made.info.adapted, [one.status for one in made.info.attempts])

    unconcerned = Asking(body(max_completion_tokens=6), call.known)
    unconcerned.start()
    assert () == unconcerned.answer().info.adapted
    assert {"max_tokens": 5} == Asking(body(max_tokens=5), call.known, model="other").start()


def test_several() -> None:
    """A server that then refuses another parameter is asked once more for each, up to a bound."""
    names = sorted(DROPPED)[: AT_MOST + 1]
    call = Asking(body(**dict.fromkeys(names, 1)))
    call.start()
    for place, name in enumerate(names[:-1]):
        assert names[place + 1 :] == list(call.answer(400, name))
    with pytest.raises(errors.UnsupportedParameterError) as caught:
        call.answer(400, names[-1])
    assert len(names) == len(caught.value.attempts)
    assert () == call.known.of("m")


def test_neither_name() -> None:
    """A server that takes a parameter under neither name is not asked a third time."""
    call = Asking(body(max_tokens=5))
    call.start()
    call.answer(400, "max_tokens")
    with pytest.raises(errors.UnsupportedParameterError) as caught:
        call.answer(400, "max_completion_tokens")
    assert [400, 400] == [attempt.status for attempt in caught.value.attempts]
    assert () == call.known.of("m")


def test_neither_role() -> None:
    """So with roles."""
    call = Asking(body())
    call.start()
    call.answer(400, "messages[0].role", "does not support 'developer'")
    with pytest.raises(errors.UnsupportedParameterError):
        call.answer(400, "messages[0].role", "does not support 'system'")


def test_other_failures() -> None:
    """What is wrong otherwise is raised as it is, with the attempts before it; what was fixed on the way is not learned."""
    call = Asking(body(seed=1))
    call.start()
    assert {} == call.answer(400, "seed")
    with pytest.raises(errors.AuthenticationError) as caught:
        call.answer(401)
    assert [401] == [attempt.status for attempt in caught.value.attempts]
    call = Asking(body(tools=[]))
    call.start()
    with pytest.raises(errors.UnsupportedParameterError):
        call.answer(400, "tools")


def test_deadline() -> None:
    """Attempts before and after share the deadline; when it is over, the server's error stands."""
    call = Asking(body(seed=1, user="a"), deadline=2.0)
    call.start()
    assert {"user": "a"} == call.answer(400, "seed")
    assert [2.0, 1.0] == call.deadlines
    with pytest.raises(errors.UnsupportedParameterError):
        call.answer(400, "user")


def test_told() -> None:
    """Word is given of the attempt that failed."""
    told: list[AttemptInfo] = []
    call = Asking(body(seed=1), retrying=lambda attempt, wait: told.append(attempt))
    call.start()
    call.answer(400, "seed", "no seeds")
    assert [400] == [attempt.status for attempt in told]


def test_learned_once() -> None:
    """What is known of a model grows, and holds nothing twice."""
    known = Adaptations()
    known.learn("m", (Change("seed"),))
    known.learn("m", (Change("seed"), Change("user")))
    known.learn("m", ())
    assert ((Change("seed"), Change("user")), ()) == (known.of("m"), known.of("n"))
    assert msgspec.json.encode(known.of("m"))
