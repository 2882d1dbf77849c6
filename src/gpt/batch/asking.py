"""Rows asked of a client: the client that a caller named, as this job uses it, and what its answers come to as output rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, Backend, CallOptions, below, in_threads, is_awaited
from gpt.batch.jobs import Task, answered, asked, failed, took
from gpt.batch.progress import Facts
from gpt.batch.rows import Row
from gpt.client import AsyncGpt, Gpt
from gpt.errors import GptError, InvalidRequestError, ParseError
from gpt.layers.limit import AsyncLimit, Pace
from gpt.layers.over import Over
from gpt.types import ChatCompletion, ChatRequest

MOST = 256
"""Rows asked at a time of a server, at most. An engine has its slots."""


def client_of(given: Any, model: str | None = None) -> AsyncGpt:
    """The client that a caller means: one of either kind, a Backend of either kind, the URL of a server or "local:", several
    of these, of which the next is asked where the one before fails, or a function that gives one. None: by the environment.

    Closing it closes what was made here, by a function too, and leaves open what the caller made. Raises InvalidRequestError.
    """
    if callable(given) and (isinstance(given, type) or not _answers(given)):
        made = given()
        if made is None or (callable(made) and not _answers(made)):
            raise _unknown(f"a function that gave {type(made).__name__}")
        return _client(made, model, ours=True)
    return _client(given, model, ours=False)


def _answers(given: Any) -> bool:
    return isinstance(given, (Gpt, AsyncGpt, Backend))  # an AsyncBackend has the same names


def _client(given: Any, model: str | None, *, ours: bool) -> AsyncGpt:
    """The client. What the caller made is closed with it only if it is `ours`."""
    if given is None or isinstance(given, str):
        return AsyncGpt(server_url=given, model=model)
    if isinstance(given, (Gpt, AsyncGpt)):
        return _over(given, _on_asyncio(given.backend, ours=ours and not given._borrows))
    if isinstance(given, Sequence):
        from gpt.fallback import AsyncFallback

        if not given:
            raise InvalidRequestError("client: the list is empty", param="client")
        return AsyncGpt(backend=AsyncFallback([_entry(item, ours=ours) for item in given]), model=model)
    if _answers(given):
        return AsyncGpt(backend=_on_asyncio(given, ours=ours), model=model)
    raise _unknown(type(given).__name__)


def _unknown(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        "client: expected an AsyncGpt, a Gpt, a Backend, a URL, a list of these, or a function that gives one, got " + what,
        param="client",
    )


def _entry(item: Any, *, ours: bool) -> Any:
    """One of several, which may be a pair of it and the name of its model."""
    if isinstance(item, tuple) and len(item) == 2:
        return _entry(item[0], ours=ours), item[1]
    return _client(item, None, ours=ours)


def _on_asyncio(backend: Any, *, ours: bool) -> AsyncBackend:
    """A backend of either kind for asyncio: over connections of its own where a server is asked, in threads elsewhere."""
    from gpt.remote.backend import AsyncRemoteBackend, RemoteBackend
    from gpt.remote.http.blocking import HttpTransport

    if is_awaited(backend):
        return backend if ours else AsyncKept(backend)
    if type(backend) is RemoteBackend and isinstance(backend._transport, (HttpTransport, type(None))):
        return AsyncRemoteBackend(backend.endpoint, None, backend._network)
    return in_threads(backend if ours else Kept(backend), MOST)


def _over(client: Gpt | AsyncGpt, backend: AsyncBackend) -> AsyncGpt:
    """The client's settings and sums over another backend, which is closed with it."""
    copy: AsyncGpt = object.__new__(AsyncGpt)
    copy._take(client._core, backend)
    return copy


class Kept(Over[Backend]):
    """A backend that stays open when this is closed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.complete, self.stream, self.models = backend.complete, backend.stream, backend.models

    def __repr__(self) -> str:
        return repr(self._backend)

    def close(self) -> None:
        """Somebody else's to close."""


class AsyncKept(Over[AsyncBackend]):
    """Kept for asyncio."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend
        self.complete, self.stream, self.models = backend.complete, backend.stream, backend.models

    def __repr__(self) -> str:
        return repr(self._backend)

    async def close(self) -> None:
        """Somebody else's to close."""


def width_of(client: AsyncGpt, wanted: int | None) -> tuple[int, bool]:
    """How many rows are asked at a time, at most, and whether all processes of a job share that.

    An engine has its slots, each process its own engine; a server is asked by all.
    """
    slots: int | None = below(client.backend, "slots")
    return wanted or slots or MOST, slots is None


class Asking:
    """Asks the rows of a job by a client of `client_of`, which is closed with it. `cache` is where equal requests are known."""

    def __init__(
        self,
        client: AsyncGpt,
        task: Task,
        job: str,
        pace: Pace,
        *,
        cache: str | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.client = client
        self.pace = pace
        self._task = task
        self._job = job
        self._clock = clock
        self._unsent: set[asyncio.Task[Any] | None] = set()
        backend: AsyncBackend = AsyncLimit(_Sending(client.backend, self._unsent), pace)
        if cache is not None:
            from gpt.layers.cache import AsyncCache

            backend = AsyncCache(backend, cache)
        self._asked = _over(client, backend)
        # Only a server of one's own protocol knows what a key is: the model in this process refuses headers.
        self._keyed = task.into is None and below(client.backend, "endpoint") is not None

    async def ask(self, row: Row) -> tuple[Facts, bytes]:
        """What a row took, and its output row. Raises GptError."""
        task = self._task
        what = asked(task, row)
        options: dict[str, Any] = {}
        if self._keyed:
            # The same for a row however often its job is started: a gateway that knows the key answers again what it answered.
            options["headers"] = {"idempotency-key": f"{self._job}-{row.number}"}
        started = self._clock()
        own = asyncio.current_task()
        self._unsent.add(own)
        try:
            if task.into is None:
                completion = await self._asked.chat.complete(what.request, **options)
                parsed = None
            else:
                parsed = await self._asked.chat.parse(what.request, into=task.into, reasks=task.reasks, **options)
                completion = parsed.completion
        finally:
            self._unsent.discard(own)
        elapsed = self._clock() - started
        source = parsed or completion
        answers = (completion,) if parsed is None else parsed.completions
        waited = sum(one.info.waited for one in answers if one.info is not None)  # for their turn: no matter of the server's
        return took(source, elapsed - waited, self.client.cost_of(source)), answered(task, row, what, completion, parsed)

    def failed(self, row: Row, error: GptError) -> tuple[Facts, bytes]:
        """The same of a row that failed."""
        what = None
        with suppress(GptError):
            what = asked(self._task, row)
        cost = self.client.cost_of(error) if isinstance(error, ParseError) else None  # an answer came, and was no value
        return took(error, 0.0, cost), failed(self._task, row, what, error)

    def leave(self) -> None:
        """Cancel the tasks that ask rows which have not been sent, but wait for their turn."""
        for task in filter(None, self._unsent):
            task.cancel()

    async def close(self) -> None:
        """Close the client, and the file of equal requests."""
        await self._asked.close()


class _Sending(Over[AsyncBackend]):
    """A backend that takes the task which asks it from those that have not sent anything yet."""

    def __init__(self, backend: AsyncBackend, unsent: set[asyncio.Task[Any] | None]) -> None:
        self._backend = backend
        self._unsent = unsent
        self.stream, self.models, self.close = backend.stream, backend.models, backend.close

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        self._unsent.discard(asyncio.current_task())
        return await self._backend.complete(request, options)
