"""Tools run: the calls of an answer done at once, in threads or as tasks, each ending as a result.

What a tool raises, or what it cannot be given, is told to the model; with `on_error="raise"` it ends the run instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, Required, TypedDict

import msgspec

from gpt.backend import CallOptions
from gpt.errors import InvalidRequestError, ToolError
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import Seconds
from gpt.structured.dialects import Dialect
from gpt.tools.functions import AnyTool, EndRun, PythonTool, ToolContext
from gpt.tools.loop import AnyCall, Calls, Toolbox, ToolFlow, ToolResult, ToolStep, context_of, looping
from gpt.types import ChatRequest, ContentPart, CustomToolCall

Approve = Callable[[AnyCall, ToolContext], "bool | str | Awaitable[bool | str]"]
"""Asked before a call is done: True does it; False, or a text that tells the model why not, does not."""


class Running(msgspec.Struct, frozen=True):
    """How the calls of a run are done. `tool_timeout` is in seconds, a call; `ends_at` is by `time.perf_counter`."""

    dialect: Dialect
    on_error: Literal["tell", "raise"] = "tell"
    approve: Approve | None = None
    tool_timeout: Seconds | None = None
    ends_at: Seconds | None = None

    def check(self) -> None:
        """Raise InvalidRequestError for what is none of the choices."""
        if self.on_error not in ("tell", "raise"):
            raise InvalidRequestError(f'on_error: expected "tell" or "raise", got {self.on_error!r}', param="on_error")
        if self.tool_timeout is not None and not self.tool_timeout > 0:
            raise InvalidRequestError(
                f"tool_timeout: expected seconds above 0, got {self.tool_timeout!r}", param="tool_timeout"
            )

    def left(self) -> Seconds | None:
        """Seconds that a call may take that begins now; None for any."""
        limits = [] if self.tool_timeout is None else [self.tool_timeout]
        if self.ends_at is not None:
            limits.append(max(0.0, self.ends_at - time.perf_counter()))
        return min(limits, default=None)

    def failed(self, call: AnyCall, error: BaseException) -> ToolResult:
        """The result of a call that failed. Raises ToolError where that is asked for."""
        if self.on_error == "raise":
            raise ToolError(f"the tool {_name(call)} failed: {type(error).__name__}: {error}", call) from error
        return ToolResult(f"Error: {type(error).__name__}: {error}", error)


class RunSettings(TypedDict, total=False):
    """The keywords of a run; `Chat.run_tools` tells each."""

    tools: Required[Iterable[AnyTool]]
    max_turns: int
    max_total_tokens: int | None
    parallel: int
    tool_timeout: Seconds | None
    on_error: Literal["tell", "raise"]
    approve: Approve | None
    on_step: Callable[[ToolStep], object] | None


_OF_TOOLS = ("tool_timeout", "on_error", "approve")


class Run:
    """One run under way: its flow, how its calls are done, and how long it has left."""

    def __init__(self, request: ChatRequest, options: CallOptions, profile: Profile, settings: dict[str, Any]) -> None:
        toolbox = Toolbox(list(settings.pop("tools", ())), profile)
        ends_at = None if options.deadline is None else time.perf_counter() + options.deadline
        given = {name: settings.pop(name) for name in _OF_TOOLS if name in settings}
        self.running = Running(toolbox.dialect, ends_at=ends_at, **given)
        self.running.check()
        self._options = options
        self.flow: ToolFlow = looping(request, toolbox, out_of_time=self._out_of_time, **settings)

    def _out_of_time(self) -> bool:
        ends_at = self.running.ends_at
        return ends_at is not None and time.perf_counter() >= ends_at

    def options(self) -> CallOptions:
        """The options of the next request: what is left of the deadline holds for it."""
        ends_at = self.running.ends_at
        if ends_at is None:
            return self._options
        # Never 0: a turn that begins has seen that there is time left.
        return msgspec.structs.replace(self._options, deadline=max(ends_at - time.perf_counter(), 0.001))


def _name(call: AnyCall) -> str:
    return call.custom.name if isinstance(call, CustomToolCall) else call.function.name


def _text(call: AnyCall) -> str:
    return call.custom.input if isinstance(call, CustomToolCall) else call.function.arguments


def _refused(verdict: object) -> ToolResult | None:
    """The result of a call that was not approved; None for one that was."""
    if verdict is True:
        return None
    if isinstance(verdict, str):
        return ToolResult(f"Not done: {verdict}")
    if verdict is False:
        return ToolResult("Not done: the call was not approved.")
    raise InvalidRequestError(f"approve: expected True, False or a text, got {type(verdict).__name__}", param="approve")


def content_of(value: object) -> Any:
    """What a tool gave, as the content of its message: a text as it is, content parts as a list, anything else as JSON.

    Raises TypeError or ValueError for what has no JSON.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if _is_part(value):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(_is_part(one) for one in value):
        return list(value)
    if hasattr(value, "model_dump_json"):
        return value.model_dump_json()
    return msgspec.json.encode(value).decode()


def _is_part(value: object) -> bool:
    return isinstance(value, msgspec.Struct) and isinstance(value, ContentPart)


def _result(value: object) -> ToolResult:
    ends = isinstance(value, EndRun)
    return ToolResult(content_of(value.content if isinstance(value, EndRun) else value), ends=ends)


def _timed_out(seconds: Seconds) -> TimeoutError:
    return TimeoutError(f"no result within {seconds:g} s")


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


def do_calls(work: Calls, running: Running) -> list[ToolResult]:
    """The results of calls, in their order. A tool that takes too long goes on in its thread, and nobody waits for it."""
    results: dict[int, ToolResult] = {}
    waiting: list[int] = []
    for place, (call, _) in enumerate(work.calls):
        verdict: Any = running.approve(call, context_of(call, work)) if running.approve else True
        if inspect.isawaitable(verdict):
            verdict = asyncio.run(_awaited(verdict))
        refused = _refused(verdict)
        if refused is None:
            waiting.append(place)
        else:
            results[place] = refused
    outcomes: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    due: dict[int, tuple[Seconds, Seconds]] = {}
    under_way: set[int] = set()
    while waiting or under_way:
        while waiting and len(under_way) < work.at_once:
            place = waiting.pop(0)
            left = running.left()
            if left is not None:
                due[place] = (time.perf_counter() + left, left)
            under_way.add(place)
            _begin(place, work, running, outcomes)
        ends = min((due[place][0] for place in under_way if place in due), default=None)
        try:
            place, value, error = outcomes.get(timeout=None if ends is None else max(0.0, ends - time.perf_counter()))
        except queue.Empty:
            for late in [place for place in under_way if place in due and due[place][0] <= time.perf_counter()]:
                under_way.discard(late)
                results[late] = running.failed(work.calls[late][0], _timed_out(due[late][1]))
            continue
        if place in under_way:
            under_way.discard(place)
            results[place] = value if error is None else running.failed(work.calls[place][0], error)
    return [results[place] for place in range(len(work.calls))]


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _begin(place: int, work: Calls, running: Running, outcomes: queue.SimpleQueue[Any]) -> None:
    """Do one call in a thread of its own, under the caller's context variables."""
    call, tool = work.calls[place]

    def do() -> None:
        try:
            value = tool.function(**tool.bound(_text(call), context_of(call, work), running.dialect))
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
            outcomes.put((place, _result(value), None))
        except BaseException as error:  # noqa: BLE001 - told to the model, or raised where the results are waited for
            outcomes.put((place, None, error))

    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(do), daemon=True, name=f"gpt-tool-{tool.name}").start()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


async def ado_calls(work: Calls, running: Running) -> list[ToolResult]:
    """`do_calls` on asyncio: async tools are tasks, which cancelling the run cancels; others run in threads."""
    results: list[ToolResult | None] = []
    for call, _ in work.calls:
        verdict: Any = running.approve(call, context_of(call, work)) if running.approve else True
        results.append(_refused(await verdict if inspect.isawaitable(verdict) else verdict))
    places = asyncio.Semaphore(work.at_once)

    async def one(call: AnyCall, tool: PythonTool) -> ToolResult:
        async with places:
            left = running.left()
            try:
                async with asyncio.timeout(left):
                    return _result(await _acall(call, tool, work, running))
            except TimeoutError as error:
                return running.failed(call, error if left is None or str(error) else _timed_out(left))
            except Exception as error:  # noqa: BLE001 - told to the model
                return running.failed(call, error)

    tasks = [asyncio.ensure_future(one(*work.calls[place])) if result is None else None for place, result in enumerate(results)]
    started = [task for task in tasks if task is not None]
    try:
        await asyncio.gather(*started)
    except BaseException:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)
        raise
    return [task.result() if task is not None else result for task, result in zip(tasks, results, strict=True)]  # type: ignore[misc]


async def _acall(call: AnyCall, tool: PythonTool, work: Calls, running: Running) -> Any:
    given = tool.bound(_text(call), context_of(call, work), running.dialect)
    if inspect.iscoroutinefunction(tool.function) or inspect.iscoroutinefunction(getattr(tool.function, "__call__", None)):  # noqa: B004
        return await tool.function(**given)
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result((value, error))

    def do() -> None:
        value, problem = None, None
        try:
            value = tool.function(**given)
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is awaited
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, problem)

    # A thread of its own, and no executor's: one that hangs must not keep the process from ending.
    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(do), daemon=True, name=f"gpt-tool-{tool.name}").start()
    value, problem = await outcome
    if problem is not None:
        raise problem
    return await value if inspect.isawaitable(value) else value
