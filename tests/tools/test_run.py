"""The tool loop, by both clients: what goes to the model, what comes back, and how a run ends."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    ChatCompletion,
    Choice,
    CustomCall,
    CustomToolCall,
    EndRun,
    FunctionCall,
    Gpt,
    InvalidRequestError,
    RequestTimeoutError,
    ResponseMessage,
    ServerError,
    TextContentPart,
    ToolCall,
    ToolContext,
    ToolError,
    ToolMessage,
    ToolRun,
    Usage,
    UserMessage,
    tool,
)
from gpt.testing import Scripted

Runner = Callable[..., ToolRun]


def run_blocking(backend: Scripted, **params: Any) -> ToolRun:
    return Gpt(backend=backend).chat.run_tools("go", **params)


def run_async(backend: Scripted, **params: Any) -> ToolRun:
    return asyncio.run(AsyncGpt(backend=backend).chat.run_tools("go", **params))


def stream_blocking(backend: Scripted, **params: Any) -> ToolRun:
    with Gpt(backend=backend).chat.stream_tools("go", **params) as stream:
        return stream.until_done()


def stream_async(backend: Scripted, **params: Any) -> ToolRun:
    async def main() -> ToolRun:
        async with AsyncGpt(backend=backend).chat.stream_tools("go", **params) as stream:
            return await stream.until_done()

    return asyncio.run(main())


@pytest.fixture(
    params=[run_blocking, run_async, stream_blocking, stream_async],
    ids=["blocking", "asyncio", "streamed", "streamed-asyncio"],
)
def run(request: pytest.FixtureRequest) -> Runner:
    """A run by either client, whole or streamed."""
    runner: Runner = request.param
    return runner


def calling(*calls: tuple[str, str, str]) -> ChatCompletion:
    """An answer that calls tools, each by name, arguments and id."""
    made = [ToolCall(FunctionCall(arguments, name), call_id) for name, arguments, call_id in calls]
    message = ResponseMessage(None, tool_calls=made)
    return ChatCompletion(choices=[Choice("tool_calls", 0, message)], usage=Usage(3, 7, 10))


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


async def later(x: int) -> int:
    """One more than x."""
    await asyncio.sleep(0)
    return x + 1


def results(run: ToolRun) -> dict[str, Any]:
    """The results that the model was told, by the call's id."""
    return {message.tool_call_id: message.content for message in run.messages if isinstance(message, ToolMessage)}


def test_a_run(run: Runner) -> None:
    """Calls are done, their results sent, and the whole conversation comes back with the usage of all answers."""
    backend = Scripted(
        calling(("double", '{"x": 2}', "a"), ("later", '{"x": 2}', "b")), calling(("double", '{"x": 5}', "c")), "9"
    )
    steps: list[str] = []
    done = run(backend, tools=[double, later], tool_choice="required", on_step=lambda step: steps.append(step.type))
    assert ("answered", "9") == (done.ended, done.text)
    assert {"a": "4", "b": "3", "c": "10"} == results(done)
    assert Usage(6, 14, 20) == done.usage
    first = ["answer", "call", "call", "result", "result"]
    assert [*first, "answer", "call", "result", "answer"] == steps
    assert ["required", None, None] == [asked.tool_choice or None for asked in backend.asked]
    assert done.messages[:-1] == list(backend.asked[-1].messages)
    assert UserMessage("go") == done.messages[0]
    assert done.messages == pickle.loads(pickle.dumps(done)).messages


def test_a_result_is_told_of_when_it_is_there(run: Runner) -> None:
    """A result is told of while other calls go on; in the conversation results stand in the order of the calls."""
    told = threading.Event()
    order: list[str] = []

    def waits() -> bool:
        """Waits until the other result has been told of."""
        return told.wait(60)

    def note(step: Any) -> None:
        if step.type == "result":
            order.append(step.call.id)
            told.set()

    answer = calling(("waits", "{}", "a"), ("double", '{"x": 2}', "b"))
    done = run(Scripted(answer, "on"), tools=[waits, double], on_step=note)
    assert ["b", "a"] == order
    assert [("a", "true"), ("b", "4")] == list(results(done).items())


def test_one_by_one(run: Runner) -> None:
    """Where calls are done one by one, each has its result before the next begins; a call that is refused never begins."""
    steps: list[tuple[str, str]] = []

    def note(step: Any) -> None:
        if step.type != "answer":
            steps.append((step.type, step.call.id))

    answer = calling(("double", '{"x": 2}', "a"), ("double", '{"x": "two"}', "b"), ("later", '{"x": 2}', "c"))
    run(Scripted(answer, "on"), tools=[double, later], parallel=1, on_step=note)
    assert [("result", "b"), ("call", "a"), ("result", "a"), ("call", "c"), ("result", "c")] == steps


def test_the_conversation_goes_on(run: Runner) -> None:
    """What a run gives can be sent again."""
    done = run(Scripted(calling(("double", '{"x": 2}', "")), "4"), tools=[double])
    backend = Scripted("yes")
    assert "yes" == Gpt(backend=backend).chat.complete([*done.messages, UserMessage("sure?")]).text
    roles = [message["role"] for message in backend.asked[0].to_dict()["messages"]]
    assert ["user", "assistant", "tool", "assistant", "user"] == roles


def fails(x: int) -> int:
    """Fails."""
    raise RuntimeError(f"no {x}")


def garbage() -> object:
    """Gives what cannot be sent."""
    return object()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("fails", '{"x": 1}', "a"), "Error: RuntimeError: no 1"),
        (("double", '{"x": "one"}', "a"), "Error: ValidationError: Expected `int`, got `str` - at `$.x`"),
        (("double", '{"x": ', "a"), "Error: DecodeError: Input data was truncated"),
        (("garbage", "{}", "a"), "Error: TypeError: Encoding objects of type object is unsupported"),
        (("nothing", "{}", "a"), "Error: there is no tool 'nothing'; there are double, fails, garbage."),
    ],
)
def test_what_goes_wrong_is_told(run: Runner, call: tuple[str, str, str], told: str) -> None:
    """An exception, arguments that do not fit, a result without a form and an unknown tool are told to the model."""
    errors: list[Any] = []

    def note(step: Any) -> None:
        if step.type == "result":
            errors.append(step.error)

    done = run(Scripted(calling(call), "sorry"), tools=[double, fails, garbage], on_step=note)
    assert ({"a": told}, "answered") == (results(done), done.ended)
    assert isinstance(errors[0], Exception)


def test_raising_by_choice(run: Runner) -> None:
    """With on_error="raise" a failure ends the run; the error has the call and the cause."""
    with pytest.raises(ToolError, match="the tool fails failed: RuntimeError: no 1") as caught:
        run(Scripted(calling(("fails", '{"x": 1}', "a"))), tools=[fails], on_error="raise")
    assert "a" == caught.value.call.id
    assert [UserMessage("go")] == caught.value.conversation
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_model_keeps_the_conversation(run: Runner) -> None:
    """What had been said before a call failed is in the error."""
    with pytest.raises(ServerError) as caught:
        run(Scripted(calling(("double", '{"x": 2}', "a")), ServerError("down", 500)), tools=[double])
    assert ["user", "assistant", "tool"] == [message.role for message in caught.value.conversation or ()]


def test_a_tool_that_hangs(run: Runner) -> None:
    """A tool that takes too long is told to have failed, and nobody waits for it."""
    let_go = threading.Event()

    def hangs() -> str:
        """Hangs."""
        let_go.wait(60)
        return "late"

    done = run(Scripted(calling(("hangs", "{}", "a")), "on"), tools=[hangs], tool_timeout=0.05)
    let_go.set()
    assert {"a": "Error: TimeoutError: no result within 0.05 s"} == results(done)


def test_a_timeout_of_the_tools_own(run: Runner) -> None:
    """A TimeoutError that a tool raises is the tool's, whatever its text."""

    async def late() -> None:
        """Late."""
        raise TimeoutError

    done = run(Scripted(calling(("late", "{}", "a")), "on"), tools=[late], tool_timeout=60)
    assert {"a": "Error: TimeoutError: "} == results(done)


def test_the_deadline(run: Runner) -> None:
    """A run whose time is over ends with every call answered."""
    let_go = threading.Event()

    def hangs() -> None:
        """Hangs."""
        let_go.wait(60)

    done = run(Scripted(calling(("hangs", "{}", "a"))), tools=[hangs], deadline=0.2)
    let_go.set()
    assert "deadline" == done.ended
    assert ["a"] == list(results(done))
    with pytest.raises(RequestTimeoutError):
        run(Scripted(RequestTimeoutError("late", phase="deadline")), tools=[hangs], deadline=1)


@pytest.mark.parametrize(
    ("limit", "ended", "turns", "told"),
    [
        ({"max_turns": 2}, "max_turns", 2, "4"),
        ({"max_total_tokens": 25}, "budget", 3, "Not done: the limit of tokens had been reached."),
    ],
)
def test_limits(run: Runner, limit: dict[str, int], ended: str, turns: int, told: str) -> None:
    """A run stops at its limit of answers or of tokens, with a result for every call."""
    backend = Scripted(lambda asked: calling(("double", '{"x": 2}', f"call{len(asked.messages)}")))  # type: ignore[arg-type]
    done = run(backend, tools=[double], **limit)
    assert (ended, turns) == (done.ended, len(done.completions))
    assert told == done.messages[-1].content
    assert turns == len(results(done))


def test_a_budget_that_cannot_be_kept(run: Runner) -> None:
    """Where answers do not say what they took, a run with a budget warns, once."""
    unknown = ChatCompletion(choices=calling(("double", '{"x": 2}', "a")).choices)
    with pytest.warns(RuntimeWarning, match="max_total_tokens cannot be kept") as caught:
        done = run(Scripted(unknown, unknown, "on"), tools=[double], max_total_tokens=1)
    assert ("answered", 1) == (done.ended, len(caught))


@pytest.mark.parametrize(
    ("verdict", "told"),
    [(True, "4"), (False, "Not done: the call was not approved."), ("ask first", "Not done: ask first")],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_approval(run: Runner, verdict: bool | str, told: str, awaited: bool) -> None:  # noqa: FBT001
    """Each call is approved, or the model is told why not; the hook may be async."""
    asked: list[tuple[str, int]] = []

    def approve(call: ToolCall, context: ToolContext) -> Any:
        asked.append((call.function.name, len(context.messages)))
        if not awaited:
            return verdict

        async def soon() -> bool | str:
            await asyncio.sleep(0)
            return verdict

        return soon()

    answer = calling(("double", '{"x": 2}', "a"), ("double", '{"x": "two"}', "b"))
    done = run(Scripted(answer, "on"), tools=[double], approve=approve)
    assert told == results(done)["a"]
    assert [("double", 2)] == asked, "what cannot be done is not asked about"


def test_in_parallel_and_not(run: Runner) -> None:
    """Calls run at once up to a limit; one by one where the request says so."""
    gate = threading.Barrier(2)
    begun: list[int] = []
    next_begun = threading.Event()
    patience = 0.1

    def meet() -> str:
        """Waits for another."""
        gate.wait(60)
        return "met"

    def alone() -> bool:
        """Tells whether another began before this one ended."""
        begun.append(1)
        if len(begun) > 1:
            next_begun.set()
            return True
        return not next_begun.wait(patience)

    both = calling(("meet", "{}", "a"), ("meet", "{}", "b"))
    assert {"a": "met", "b": "met"} == results(run(Scripted(both, "on"), tools=[meet], parallel=2))
    two = calling(("alone", "{}", "a"), ("alone", "{}", "b"))
    assert {"a": "true", "b": "true"} == results(run(Scripted(two, "on"), tools=[alone], parallel_tool_calls=False))
    begun.clear()
    next_begun.clear()
    patience = 60
    assert {"a": "false", "b": "true"} == results(run(Scripted(two, "on"), tools=[alone]))


def test_what_tools_give(run: Runner) -> None:
    """A text as it is, parts as parts, nothing as no text, anything else as JSON; EndRun ends the run."""

    def parts() -> list[TextContentPart]:
        """Parts."""
        return [TextContentPart("a"), TextContentPart("b")]

    def part() -> TextContentPart:
        """A part."""
        return TextContentPart("a")

    def nothing() -> None:
        """Nothing."""

    def ends() -> EndRun:
        """Ends."""
        return EndRun({"ok": True})

    answer = calling(*((name, "{}", name) for name in ("parts", "part", "nothing", "ends")))
    done = run(Scripted(answer), tools=[parts, part, nothing, ends])
    assert "tool" == done.ended
    expected = {"parts": parts(), "part": [part()], "nothing": "", "ends": '{"ok":true}'}
    assert expected == results(done)


def test_tools_that_are_no_functions(run: Runner) -> None:
    """Calls of a tool that goes out as it is are handed over, beside the results of those that were done."""
    custom = CustomToolCall(CustomCall("print(1)", "code"), "c")
    own = calling(("double", '{"x": 2}', "a"), ("raw", "{}", "b")).message.tool_calls
    message = ResponseMessage(None, tool_calls=[*(own or ()), custom])
    given = [double, {"type": "function", "function": {"name": "raw"}}, {"type": "custom", "custom": {"name": "code"}}]
    done = run(Scripted(ChatCompletion(choices=[Choice("tool_calls", 0, message)])), tools=given)
    assert "handed_over" == done.ended
    assert ["b", "c"] == [call.id for call in done.pending]
    assert {"a": "4"} == results(done)

    ran = run(
        Scripted(ChatCompletion(choices=[Choice("tool_calls", 0, ResponseMessage(None, tool_calls=[custom]))]), "on"),
        tools=[tool(name="code", custom=True)(lambda code: code.upper())],
    )
    assert {"c": "PRINT(1)"} == results(ran)


def test_tools_of_a_request() -> None:
    """A request that has tools of its own keeps them."""
    raw = {"type": "function", "function": {"name": "raw"}}
    backend = Scripted(calling(("raw", "{}", "a")))
    done = Gpt(backend=backend).chat.run_tools({"messages": [UserMessage("go")], "tools": [raw]}, tools=[double])
    assert ("handed_over", ["a"]) == (done.ended, [call.id for call in done.pending])
    assert ["raw", "double"] == [one["function"]["name"] for one in backend.asked[0].to_dict()["tools"]]


def test_ids(run: Runner) -> None:
    """Calls without an id, or with one id for all, get one each, so that each result finds its call."""
    answer = calling(("double", '{"x": 1}', ""), ("double", '{"x": 2}', "same"), ("double", '{"x": 3}', "same"))
    done = run(Scripted(answer, "on"), tools=[double])
    assert {"call_0_0": "2", "same": "4", "call_0_2": "6"} == results(done)
    assert ["call_0_0", "same", "call_0_2"] == [call.id for call in done.messages[1].tool_calls]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"tools": [double], "max_turns": 0}, "max_turns: expected an int from 1"),
        ({"tools": [double], "parallel": True}, "parallel: expected an int from 1"),
        ({"tools": [double], "max_total_tokens": -1}, "max_total_tokens"),
        ({"tools": [double], "on_error": "ignore"}, "on_error"),
        ({"tools": [double], "tool_timeout": 0}, "tool_timeout"),
        ({"tools": [double, double]}, r"tools\[1\]: there is already a tool named 'double'"),
        ({"tools": ["double"]}, r"tools\[0\]: expected a function or a tool, got str"),
        ({"tools": 5}, "tools: expected a list of functions, got int"),
        ({"tools": [double], "functions": [{"name": "f"}]}, "functions: a run does tool calls"),
        ({"tools": [double], "n": 2}, "n: a run follows one answer"),
        ({"tools": [double], "approve": lambda call, context: None}, "approve: expected True, False or a text"),
    ],
)
def test_refused(run: Runner, params: dict[str, Any], why: str) -> None:
    """Settings that mean nothing are refused by name."""
    with pytest.raises(InvalidRequestError, match=why):
        run(Scripted(calling(("double", '{"x": 2}', "a")), "on"), **params)


def test_without_tools(run: Runner) -> None:
    """A run without tools= is a mistake of the program."""
    with pytest.raises(TypeError, match="missing tools="):
        run(Scripted("on"))


def test_leaving_the_program() -> None:
    """What is no failure, such as SystemExit, is not told to the model but goes on its way."""

    def leaves() -> None:
        """Leaves."""
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_blocking(Scripted(calling(("leaves", "{}", "a")), "on"), tools=[leaves])


@pytest.mark.parametrize(
    "start",
    [
        lambda chat, **params: chat.run_tools("go", **params),
        lambda chat, **params: chat.stream_tools("go", **params).until_done(),
    ],
    ids=["asyncio", "streamed-asyncio"],
)
def test_what_a_hook_raises(start: Callable[..., Any]) -> None:
    """An error of on_step goes on its way, once the async tools that are under way have been cancelled."""
    stopped: list[str] = []

    async def waits() -> None:
        """Waits."""
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("waits")

    def fail(step: Any) -> None:
        if step.type == "result":
            raise ZeroDivisionError

    async def main() -> None:
        answer = calling(("waits", "{}", "a"), ("later", '{"x": 2}', "b"))
        with pytest.raises(ZeroDivisionError):
            await start(AsyncGpt(backend=Scripted(answer)).chat, tools=[waits, later], on_step=fail)
        assert ["waits"] == stopped

    asyncio.run(main())


def test_cancelling_stops_async_tools() -> None:
    """Cancelling a run cancels its async tools."""
    stopped: list[str] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def waits() -> None:
            """Waits."""
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append("waits")

        task = asyncio.ensure_future(
            AsyncGpt(backend=Scripted(calling(("waits", "{}", "a")))).chat.run_tools("go", tools=[waits])
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ["waits"] == stopped
