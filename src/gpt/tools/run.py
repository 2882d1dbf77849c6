"""Tools run: the calls of an answer done at once, in threads or as tasks; each result is given when it is there.

What a tool raises, or what it cannot be given, is told to the model; with `on_error="raise"` it ends the run instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Required, TypedDict

import msgspec

from gpt.backend import CallOptions
from gpt.errors import InvalidRequestError, ToolError
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import Seconds
from gpt.structured.dialects import Dialect
from gpt.tools.functions import AnyTool, EndRun, PythonTool, ToolContext
from gpt.tools.loop import AnyCall, Calls, Outcome, Toolbox, ToolFlow, ToolResult, ToolStep, context_of, looping, name_and_text
from gpt.types import ChatRequest, ContentPart

Approve = Callable[[AnyCall, ToolContext], "bool | str | Awaitable[bool | str]"]
"""Asked before a call is done: True does it; False, or a text that tells the model why not, does not."""


class Running(msgspec.Struct):
    """How the calls of a run are done. `tool_timeout` is in seconds, a call.

    `ends_at` is by `time.perf_counter`, and known once the first request goes out.
    """

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

    def out_of_time(self) -> bool:
        """Whether the run's deadline has passed."""
        return self.ends_at is not None and time.perf_counter() >= self.ends_at

    def left(self) -> Seconds | None:
        """Seconds that a call may take that begins now; None for any."""
        limits = [] if self.tool_timeout is None else [self.tool_timeout]
        if self.ends_at is not None:
            limits.append(max(0.0, self.ends_at - time.perf_counter()))
        return min(limits, default=None)

    def bound(self, place: int, work: Calls) -> dict[str, Any] | ToolResult:
        """The arguments of a call's function; the call's result where they cannot be made."""
        call, tool = work.calls[place]
        try:
            return tool.bound(name_and_text(call)[1], context_of(call, work), self.dialect)
        except Exception as error:  # noqa: BLE001 - told to the model
            return self.failed(call, error)

    def verdict(self, place: int, work: Calls) -> Any:
        """What the hook says of a call, which may have to be awaited; asked only of a call that can be done."""
        call, _ = work.calls[place]
        return True if self.approve is None else self.approve(call, context_of(call, work))

    def failed(self, call: AnyCall, error: BaseException) -> ToolResult:
        """The result of a call that failed. Raises ToolError where that is asked for, and what is no Exception as it is."""
        if not isinstance(error, Exception):
            raise error
        if self.on_error == "raise":
            raise ToolError(f"the tool {name_and_text(call)[0]} failed: {type(error).__name__}: {error}", call) from error
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
_OF_FLOW = ("max_turns", "max_total_tokens", "parallel", "on_step")


def taken(params: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call that are the run's; takes them out of `params`. Raises TypeError without `tools`."""
    if "tools" not in params:
        raise TypeError("missing tools=, the functions that the model may call")
    return {name: params.pop(name) for name in ("tools", *_OF_TOOLS, *_OF_FLOW) if name in params}


class Run:
    """One run under way: its flow, how its calls are done, and how long it has left. It sends nothing.

    Raises InvalidRequestError for settings that mean nothing.
    """

    def __init__(self, request: ChatRequest, options: CallOptions, profile: Profile, settings: dict[str, Any]) -> None:
        tools = settings.pop("tools")
        if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable):
            raise InvalidRequestError(f"tools: expected a list of functions, got {type(tools).__name__}", param="tools")
        # A request that came as an object may have tools of its own.
        toolbox = Toolbox([*(request.tools or ()), *tools], profile)
        given = {name: settings.pop(name) for name in _OF_TOOLS if name in settings}
        self.running = Running(toolbox.dialect, **given)
        self.running.check()
        self._options = options
        self._work: Calls | None = None
        self._outcomes: Any = None
        self._stopping = asyncio.Lock()
        self.flow: ToolFlow = looping(request, toolbox, out_of_time=self.running.out_of_time, **settings)

    def options(self) -> CallOptions:
        """The options of the next request: what is left of the deadline, which counts from the first, holds for it."""
        if self._options.deadline is None:
            return self._options
        now = time.perf_counter()
        if self.running.ends_at is None:
            self.running.ends_at = now + self._options.deadline
        # Never 0: a turn that begins has seen that there is time left.
        return msgspec.structs.replace(self._options, deadline=max(self.running.ends_at - now, 0.001))

    def outcome(self, work: Calls) -> Outcome:
        """What happens next to calls; the first time begins them. Raises ToolError by `on_error`."""
        if work is not self._work:
            self._work, self._outcomes = work, do_calls(work, self.running)
        made: Outcome = next(self._outcomes)
        return made

    async def aoutcome(self, work: Calls) -> Outcome:
        """`outcome`, on asyncio."""
        if work is not self._work:
            await self.astop()  # those before have their results, but have not been read to their end
            self._work, self._outcomes = work, ado_calls(work, self.running)
        made: Outcome = await anext(self._outcomes)
        return made

    async def astop(self) -> None:
        """Cancel the async tools that are under way, and wait until they have ended."""
        async with self._stopping:  # two at once would be an error
            if self._outcomes is not None:
                await self._outcomes.aclose()


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


def _in_thread(tool: PythonTool, work: Callable[[], None]) -> None:
    """Begin the work of a tool in a thread, under the caller's context variables.

    A thread of its own, and no executor's: one that hangs must not keep the process from ending.
    """
    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(work), daemon=True, name=f"gpt-tool-{tool.name}").start()


def _timed_out(seconds: Seconds) -> TimeoutError:
    return TimeoutError(f"no result within {seconds:g} s")


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


def do_calls(work: Calls, running: Running) -> Iterator[Outcome]:
    """What happens to calls, as it does. A tool that takes too long goes on in its thread, and nobody waits for it."""
    waiting: dict[int, dict[str, Any]] = {}
    for place in range(len(work.calls)):
        given = running.bound(place, work)
        if not isinstance(given, ToolResult):
            verdict = running.verdict(place, work)
            refused = _refused(asyncio.run(_awaited(verdict)) if inspect.isawaitable(verdict) else verdict)
            if refused is None:
                waiting[place] = given
                continue
            given = refused
        yield place, given
    outcomes: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    due: dict[int, tuple[Seconds, Seconds]] = {}
    under_way: set[int] = set()
    while waiting or under_way:
        while waiting and len(under_way) < work.at_once:
            place = next(iter(waiting))
            given = waiting.pop(place)
            left = running.left()
            if left is not None:
                due[place] = (time.perf_counter() + left, left)
            under_way.add(place)
            _begin(place, work.calls[place][1], given, outcomes)
            yield place, None
        ends = min((due[place][0] for place in under_way if place in due), default=None)
        try:
            place, value, error = outcomes.get(timeout=None if ends is None else max(0.0, ends - time.perf_counter()))
        except queue.Empty:
            for late in [place for place in under_way if place in due and due[place][0] <= time.perf_counter()]:
                under_way.discard(late)
                yield late, running.failed(work.calls[late][0], _timed_out(due[late][1]))
            continue
        if place in under_way:
            under_way.discard(place)
            yield place, value if error is None else running.failed(work.calls[place][0], error)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _begin(place: int, tool: PythonTool, given: dict[str, Any], outcomes: queue.SimpleQueue[Any]) -> None:
    """Do one call in a thread of its own."""

    def do() -> None:
        try:
            value = tool.function(**given)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
            outcomes.put((place, _result(value), None))
        except BaseException as error:  # noqa: BLE001 - told to the model, or raised where the results are waited for
            outcomes.put((place, None, error))

    _in_thread(tool, do)


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


async def ado_calls(work: Calls, running: Running) -> AsyncGenerator[Outcome, None]:
    """`do_calls` on asyncio: async tools are tasks, which cancelling or closing this cancels; others run in threads."""
    approved: dict[int, dict[str, Any]] = {}
    for place in range(len(work.calls)):
        given = running.bound(place, work)
        if not isinstance(given, ToolResult):
            verdict = running.verdict(place, work)
            refused = _refused(await verdict if inspect.isawaitable(verdict) else verdict)
            if refused is None:
                approved[place] = given
                continue
            given = refused
        yield place, given
    places = asyncio.Semaphore(work.at_once)
    news: asyncio.Queue[Outcome | asyncio.Task[None]] = asyncio.Queue()

    async def one(place: int, given: dict[str, Any]) -> None:
        call, tool = work.calls[place]
        async with places:
            news.put_nowait((place, None))
            left = running.left()
            clock = asyncio.timeout(left)
            try:
                async with clock:
                    result = _result(await _acall(tool, given))
            except Exception as error:  # noqa: BLE001 - told to the model
                late = left is not None and clock.expired()
                result = running.failed(call, _timed_out(left or 0.0) if late else error)
            news.put_nowait((place, result))

    tasks = [asyncio.ensure_future(one(place, given)) for place, given in approved.items()]
    for task in tasks:
        task.add_done_callback(news.put_nowait)
    left = len(tasks)
    try:
        while left:
            new = await news.get()
            if isinstance(new, asyncio.Task):
                left -= 1
                new.result()  # raises what ended it, if something did
            else:
                yield new
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _acall(tool: PythonTool, given: dict[str, Any]) -> Any:
    """What an async tool gives, as a part of this task; a blocking one in a thread."""
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

    _in_thread(tool, do)
    value, problem = await outcome
    if problem is not None:
        raise problem
    return await value if inspect.isawaitable(value) else value
