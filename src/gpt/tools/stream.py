"""A streamed run of tools: the events of its answers as they come, and with them what becomes of the calls.

It is the flow of `run_tools`, taken one event further at a time. An answer that the flow wants is a stream of its own, whose
events are handed out until it is whole; in place of its own "done" stands the AnswerStep.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeAlias

import msgspec

from gpt.backend import CallOptions
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.events import (
    AudioEvent,
    ContentEvent,
    DoneEvent,
    FilterEvent,
    LogprobsEvent,
    ReasoningEvent,
    RefusalEvent,
    ToolCallEvent,
    UsageEvent,
)
from gpt.protocol.profiles import Profile
from gpt.stream import AsyncChatStream, ChatStream
from gpt.tools.loop import AnswerStep, Calls, CallStep, ResultStep, ToolRun, ToolStep, Want
from gpt.tools.run import Run
from gpt.types import ChatCompletion, ChatRequest


class RunDoneEvent(msgspec.Struct, frozen=True):
    """The end: the whole run."""

    run: ToolRun
    type: ClassVar[Literal["done"]] = "done"

    @property
    def snapshot(self) -> ToolRun:
        """The same."""
        return self.run


ToolStreamEvent: TypeAlias = (
    ContentEvent
    | RefusalEvent
    | ReasoningEvent
    | ToolCallEvent
    | AudioEvent
    | LogprobsEvent
    | FilterEvent
    | UsageEvent
    | AnswerStep
    | CallStep
    | ResultStep
    | RunDoneEvent
)


class _Following:
    """What both streams of a run share: where its flow stands, and the events that are to be handed out. Never waits."""

    _streamed: ClassVar[type[Any]]
    """The class of an answer's stream."""

    def __init__(
        self,
        send: Callable[[ChatRequest, CallOptions], Any],
        request: ChatRequest,
        options: CallOptions,
        profile: Profile,
        settings: dict[str, Any],
    ) -> None:
        events: deque[ToolStreamEvent] = deque()
        told: Callable[[ToolStep], object] | None = settings.pop("on_step", None)

        # Neither this nor what opens an answer knows the stream, so that dropping it frees at once what it holds.
        def note(step: ToolStep) -> None:
            events.append(step)
            if told is not None:
                told(step)

        self._following = Run(request, options, profile, {**settings, "on_step": note})
        self._send = send
        self._events = events
        self._answer: Any = None
        self._messages: list[Any] = []
        self._run: ToolRun | None = None
        self._problem: GptError | None = None
        self._wanted: Want | None = None
        self._closed = False
        self._go_on(next, self._following.flow)

    @property
    def run(self) -> ToolRun:
        """The whole run. Raises InvalidRequestError before its end."""
        if self._run is None:
            if self._problem is not None:
                raise InvalidRequestError(
                    f"the run broke off, so there is no ToolRun ({self._problem.message}); .messages is what had been said"
                ) from self._problem
            raise InvalidRequestError(
                "the run has not ended, so there is no ToolRun yet; read the stream to its end or call until_done(), "
                "or take .messages for what has been said so far"
            )
        return self._run

    @property
    def messages(self) -> list[Any]:
        """The conversation so far, ready to be sent again: an answer is in it once each of its calls has its result."""
        return list(self._messages)

    @property
    def snapshot(self) -> ChatCompletion:
        """The answer under way as far as it has come; between two answers the last."""
        answer: ChatCompletion = self._answer.snapshot
        return answer

    def _go_on(self, move: Callable[..., Want], *given: Any) -> None:
        """Take the flow to what it wants next, or to its end."""
        self._wanted = None
        try:
            wanted = move(*given)
        except StopIteration as done:
            self._run = done.value
            self._messages = done.value.messages
            self._events.append(RunDoneEvent(done.value))
            return
        except GptError as error:
            self._problem = error
            raise
        if isinstance(wanted, ChatRequest):
            send, following = self._send, self._following
            self._messages = list(wanted.messages)
            self._answer = self._streamed(lambda: send(wanted, following.options()))
        self._wanted = wanted

    def _take(self, news: Any) -> None:
        """Send the flow a whole answer, or what happened to a call; other events of an answer are only handed out."""
        if isinstance(news, DoneEvent):
            self._go_on(self._following.flow.send, news.completion)
        elif isinstance(news, tuple):
            self._go_on(self._following.flow.send, news)
        else:
            self._events.append(news)

    def _failed(self, error: GptError) -> None:
        """Tell the flow of an error, which it raises with the conversation."""
        self._go_on(self._following.flow.throw, error)


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class ToolStream(_Following):
    """A streamed run: a context manager and an iterator of events. `text_stream` iterates over the answers' text alone."""

    _streamed = ChatStream

    def __enter__(self) -> Self:
        try:
            self._answer.__enter__()
        except GptError as error:
            self._failed(error)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ToolStreamEvent:
        while not self._events:
            self._read()
        return self._events.popleft()

    def _read(self) -> None:
        """Wait for what the flow wants, and take it in."""
        wanted = self._wanted
        if wanted is None or self._closed:
            raise StopIteration
        problem: GptError | None = None
        try:
            news = self._following.outcome(wanted) if isinstance(wanted, Calls) else next(self._answer)
        except GptError as error:
            problem = error
        if self._closed:  # meanwhile, by another thread
            raise StopIteration
        if problem is not None:
            self._failed(problem)
        else:
            self._take(news)

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of the content of all answers as they come."""
        return (event.delta for event in self if isinstance(event, ContentEvent))

    def until_done(self) -> ToolRun:
        """Read the stream to its end. Gives the run."""
        for _ in self:
            pass
        return self.run

    def close(self) -> None:
        """Stop the answer under way and free what it held. A tool under way goes on in its thread, and nobody waits for it."""
        self._closed = True
        self._answer.close()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncToolStream(_Following):
    """ToolStream for asyncio: `async with` and `async for`."""

    _streamed = AsyncChatStream
    _waiting: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._answer.__aenter__()
        except GptError as error:
            self._failed(error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToolStreamEvent:
        try:
            while not self._events:
                await self._read()
        except BaseException:  # the task is cancelled, or a hook failed: tools may be under way
            await self.close()
            raise
        return self._events.popleft()

    async def _read(self) -> None:
        """Wait for what the flow wants, and take it in."""
        wanted = self._wanted
        if wanted is None or self._closed:
            raise StopAsyncIteration
        problem: GptError | None = None
        try:
            news = await (self._outcome(wanted) if isinstance(wanted, Calls) else anext(self._answer))
        except GptError as error:
            problem = error
        if self._closed:  # meanwhile, by another task
            raise StopAsyncIteration
        if problem is not None:
            self._failed(problem)
        else:
            self._take(news)

    async def _outcome(self, work: Calls) -> Any:
        """What happens next to calls; None where the stream was closed meanwhile."""
        # Waited for in a task of its own, so that another task can stop it: of what this task waits for, only this one could.
        self._waiting = waiting = asyncio.ensure_future(self._following.aoutcome(work))
        await asyncio.wait([waiting])
        return None if self._closed else waiting.result()

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of the content of all answers as they come."""
        return (event.delta async for event in self if isinstance(event, ContentEvent))

    async def until_done(self) -> ToolRun:
        """Read the stream to its end. Gives the run."""
        async for _ in self:
            pass
        return self.run

    async def close(self) -> None:
        """Stop the answer under way, cancel async tools, and free what they held. A task that reads meets the stream's end."""
        self._closed = True
        await self._answer.close()
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])  # `approve`, which is asked in that task, may close too: here it is cancelled
        await self._following.astop()
