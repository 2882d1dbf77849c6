"""The tool loop: ask, do the calls of the answer, ask again. A flow, which never waits and runs no tool.

It yields a `ChatRequest` and is sent its `ChatCompletion`; or `Calls`, again until each of them has its result, and is sent an
`Outcome` each time. Every call of the model gets a result, whatever becomes of it, so that the conversation can be sent again
after any end. The results stand in it in the order of the calls, whichever was there first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.codec import history
from gpt.protocol.profiles import Profile
from gpt.protocol.usage import added
from gpt.structured.dialects import Dialect
from gpt.structured.parse import DIALECTS
from gpt.tools.functions import AnyTool, PythonTool, ToolContext, tool
from gpt.types import (
    UNSET,
    ChatCompletion,
    ChatRequest,
    CustomTool,
    CustomToolCall,
    FunctionTool,
    ResponseMessage,
    ToolCall,
    ToolMessage,
    Usage,
)

AnyCall: TypeAlias = ToolCall | CustomToolCall
Ended = Literal["answered", "handed_over", "tool", "max_turns", "budget", "deadline"]

PARALLEL = 8
"""Calls of one answer that run at once. The hosted service's models seldom make more."""

MAX_TURNS = 20
"""Answers after which a run stops, where it is not told otherwise."""


class ToolResult(msgspec.Struct, frozen=True):
    """What became of a call: `content` goes to the model; `error` is what went wrong, `ends` that the run is to end here."""

    content: Any
    error: BaseException | None = None
    ends: bool = False


class Calls(msgspec.Struct, frozen=True):
    """Calls to be done. `at_once` says how many may run at a time."""

    calls: Sequence[tuple[AnyCall, PythonTool]]
    messages: Sequence[Any]
    turn: int
    at_once: int


Outcome: TypeAlias = tuple[int, ToolResult | None]
"""What has happened to one of `Calls`, by its place there: it has begun (None), or it has its result.

One that is refused, or cannot be done, has a result only."""


class AnswerStep(msgspec.Struct, frozen=True):
    """The model answered; `turn` counts from 0."""

    completion: ChatCompletion
    turn: int
    type: ClassVar[Literal["answer"]] = "answer"


class CallStep(msgspec.Struct, frozen=True):
    """A call has begun; one that is refused, or cannot be done, never does."""

    call: AnyCall
    turn: int
    type: ClassVar[Literal["call"]] = "call"


class ResultStep(msgspec.Struct, frozen=True):
    """A call got its result, while others may still go on; `error` is what went wrong, where something did."""

    call: AnyCall
    message: ToolMessage
    turn: int
    error: BaseException | None = None
    type: ClassVar[Literal["result"]] = "result"


ToolStep: TypeAlias = AnswerStep | CallStep | ResultStep


class ToolRun(msgspec.Struct, frozen=True):
    """A run that has ended. `messages` is the whole conversation, ready to be sent again; `completion` the last answer.

    `ended` tells why: the model "answered" without a call; calls were "handed_over" (`pending`, of tools that are no Python
    functions, whose results the caller adds to `messages`); a "tool" ended it; "max_turns", the "budget" of tokens or the
    "deadline" was reached. `completions` are all answers, oldest first.
    """

    messages: list[Any]
    completions: tuple[ChatCompletion, ...]
    ended: Ended
    pending: tuple[AnyCall, ...] = ()

    @property
    def completion(self) -> ChatCompletion:
        """The last answer."""
        return self.completions[-1]

    @property
    def text(self) -> str:
        """The last answer's content; "" where it has none, as when the run ended with calls."""
        return self.completion.text

    @property
    def usage(self) -> Usage | None:
        """The tokens of all answers together; None where no answer said how many."""
        return added(completion.usage for completion in self.completions)


Want: TypeAlias = "ChatRequest | Calls"
ToolFlow = Generator[Want, Any, ToolRun]


class Toolbox:
    """The tools of a run, by name."""

    def __init__(self, tools: Sequence[AnyTool], profile: Profile) -> None:
        self.dialect: Dialect = DIALECTS[profile.dialect]
        self.functions: dict[str, PythonTool] = {}
        self.definitions: list[Any] = []
        names: set[str] = set()
        for place, one in enumerate(tools):
            if isinstance(one, (FunctionTool, CustomTool, Mapping)):
                self.definitions.append(one)
                name = _name_of(one)
            elif callable(one):
                made = one if isinstance(one, PythonTool) else tool(one)
                self.definitions.append(made.definition(self.dialect))
                self.functions[made.name] = made
                name = made.name
            else:
                raise InvalidRequestError(
                    f"tools[{place}]: expected a function or a tool, got {type(one).__name__}", param=f"tools[{place}]"
                )
            if name in names:
                raise InvalidRequestError(f"tools[{place}]: there is already a tool named {name!r}", param=f"tools[{place}]")
            names.add(name)
        self.names = names


def _name_of(definition: Any) -> str:
    plain: dict[str, Any] = msgspec.to_builtins(definition)
    inside = plain.get(plain.get("type", "function"))
    return str(inside.get("name", "")) if isinstance(inside, dict) else ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def looping(
    request: ChatRequest,
    toolbox: Toolbox,
    *,
    max_turns: int = MAX_TURNS,
    max_total_tokens: int | None = None,
    parallel: int = PARALLEL,
    out_of_time: Callable[[], bool] = lambda: False,
    on_step: Callable[[ToolStep], object] | None = None,
) -> ToolFlow:
    """The flow of a run. `out_of_time` tells whether its deadline has passed.

    A forced `tool_choice` holds for the first answer only: held on to, it would never let the model answer. Warns once, by a
    RuntimeWarning, where `max_total_tokens` cannot be kept because an answer does not say what it took. Raises
    InvalidRequestError for a limit that is no count.
    """
    for name, value in (("max_turns", max_turns), ("parallel", parallel), ("max_total_tokens", max_total_tokens)):
        if not _is_count(value) and not (name == "max_total_tokens" and value is None):
            raise InvalidRequestError(f"{name}: expected an int from 1, got {value!r}", param=name)
    if request.n not in (UNSET, None, 1):
        raise InvalidRequestError("n: a run follows one answer, so n is 1", param="n")
    step: Callable[[ToolStep], object] = on_step or (lambda _: None)
    messages = history(request.messages)
    if request.functions:
        raise InvalidRequestError("functions: a run does tool calls; give the functions as tools=", param="functions")
    if toolbox.definitions:
        request = msgspec.structs.replace(request, tools=toolbox.definitions)
    completions: list[ChatCompletion] = []
    counted = max_total_tokens is not None
    at_once = 1 if request.parallel_tool_calls is False else parallel
    for turn in range(max_turns):
        try:
            completion: ChatCompletion = yield msgspec.structs.replace(request, messages=list(messages))
        except GptError as error:
            error.conversation = list(messages)
            raise
        if turn == 0 and request.tool_choice not in (UNSET, "none", "auto"):
            request = msgspec.structs.replace(request, tool_choice=UNSET)
        message = identified(completion.message, turn)
        completions.append(completion)
        if counted and completion.usage is None:
            counted = False
            warnings.warn(
                "max_total_tokens cannot be kept: an answer does not say how many tokens it took",
                RuntimeWarning,
                stacklevel=2,
            )
        messages.append(message)
        step(AnswerStep(completion, turn))
        calls: Sequence[AnyCall] = message.tool_calls or ()
        if not calls:
            return ToolRun(messages, tuple(completions), "answered")
        ended: Ended | None = None
        usage = added(one.usage for one in completions)
        if max_total_tokens is not None and usage is not None and usage.total_tokens >= max_total_tokens:
            ended = "budget"
        elif out_of_time():
            ended = "deadline"
        try:
            results, ends = yield from _done(calls, toolbox, messages, turn, at_once, ended, step)
        except GptError as error:
            error.conversation = messages[:-1]  # without the calls, which have no results
            raise
        pending = tuple(call for call in calls if call.id not in results)
        messages += [results[call.id] for call in calls if call.id in results]
        if ended is None and ends:
            ended = "tool"
        if pending:
            ended = "handed_over"
        elif ended is None and out_of_time():
            ended = "deadline"
        if ended is not None:
            return ToolRun(messages, tuple(completions), ended, pending)
    return ToolRun(messages, tuple(completions), "max_turns")


def _done(
    calls: Sequence[AnyCall],
    toolbox: Toolbox,
    messages: list[Any],
    turn: int,
    at_once: int,
    ended: Ended | None,
    step: Callable[[ToolStep], object],
) -> Generator[Want, Any, tuple[dict[str, ToolMessage], bool]]:
    """The results of calls, by id, and whether one ends the run; calls of tools that are no functions have none."""
    results: dict[str, ToolMessage] = {}
    ends = False

    def note(call: AnyCall, result: ToolResult) -> None:
        results[call.id] = ToolMessage(result.content, call.id)
        step(ResultStep(call, results[call.id], turn, result.error))

    doable: list[tuple[AnyCall, PythonTool]] = []
    for call in calls:
        name, _ = name_and_text(call)
        function = toolbox.functions.get(name)
        if ended is not None and (function is not None or name not in toolbox.names):
            why = "tokens" if ended == "budget" else "time"
            note(call, ToolResult(f"Not done: the limit of {why} had been reached."))
        elif function is not None:
            doable.append((call, function))
        elif name not in toolbox.names:
            offered = ", ".join(sorted(toolbox.names)) or "none"
            problem = LookupError(f"there is no tool {name!r}; there are {offered}")
            note(call, ToolResult(f"Error: {problem}.", problem))
    work = Calls(doable, tuple(messages), turn, at_once)
    left = len(doable)
    while left:
        place, result = yield work
        call, _ = doable[place]
        if result is None:
            step(CallStep(call, turn))
        else:
            left -= 1
            ends = ends or result.ends
            note(call, result)
    return results, ends


def identified(message: ResponseMessage, turn: int) -> ResponseMessage:
    """The message with an id of its own for each call: some servers give none, or one to all."""
    seen: set[str] = set()
    calls: list[Any] = []
    for place, call in enumerate(message.tool_calls or ()):
        if not call.id or call.id in seen:
            call = msgspec.structs.replace(call, id=f"call_{turn}_{place}")
        seen.add(call.id)
        calls.append(call)
    return msgspec.structs.replace(message, tool_calls=calls) if calls else message


def name_and_text(call: AnyCall) -> tuple[str, str]:
    """The tool that a call names, and the text that it is given."""
    if isinstance(call, CustomToolCall):
        return call.custom.name, call.custom.input
    return call.function.name, call.function.arguments


def context_of(call: AnyCall, work: Calls) -> ToolContext:
    """What the tool of a call may know."""
    return ToolContext(work.messages, call, work.turn)
