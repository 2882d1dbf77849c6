"""The model in the box as a Backend: no server, no key, no network.

One queue a call: its thread puts what the engine makes into it, the caller takes it out. A whole answer is a stream folded
here, so that every call can be stopped at any token, and while its prompt is still being read; its caller is woken once.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import GptError, InvalidRequestError, RequestTimeoutError, ServerError
from gpt.local.calls.ask import Plan
from gpt.local.calls.offer import Offer, offer_of
from gpt.local.calls.read import Reader
from gpt.local.sampling import REFUSED, engine_request, needs_calling, needs_vocabulary, without_effect
from gpt.protocol import codec
from gpt.protocol.chunks import Fold
from gpt.protocol.failures import engine_failure
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import Ended, ResponseInfo, Seconds
from gpt.types import UNSET, ChatCompletion, ChatCompletionChunk, ChatRequest, Model, ModelList

if TYPE_CHECKING:
    from gpt.backend import Put
    from gpt.local.llama import Engine, Item, Run, Settings
    from gpt.protocol.tokens import TokenCount

__all__ = ["Local", "LocalStream"]


class Local:
    """Answers by a model in this process.

    `model` is a path to a GGUF file, a name of the catalogue, or a Hugging Face file; "" is the default model, SmolLM2 with 135
    million parameters, which is for trying things, for tests and for work without a network. `context` are the tokens that one
    call may take, prompt and answer together; `slots` the calls that run at once, further ones wait. `threads` are the engine's
    CPU threads, by default one a core; they spin while they wait for each other, so where other work keeps the cores busy fewer
    are much faster. `gpu_layers` are the layers that go to a GPU where the wheel can use one, `batch` the tokens of a prompt
    that are read between two chances to stop. `chat_template` replaces the model's own. `verbose` lets the engine write to
    stderr.

    Nothing is loaded or fetched before the first call, or `load()`. Equal settings share one engine in the process; it is freed
    when the last Local that uses it is closed or dropped. May be shared by threads; refuses to work after a fork.
    """

    profile = Profile(streams_usage=True, dialect="grammar", rungs=("json_schema",), echoes="always")

    def __init__(
        self,
        model: str = "",
        *,
        context: int | None = None,
        slots: int = 4,
        threads: int | None = None,
        gpu_layers: int | None = None,
        batch: int | None = None,
        chat_template: str | None = None,
        verbose: bool = False,
    ) -> None:
        for name, value in (("context", context), ("slots", slots), ("threads", threads), ("batch", batch)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidRequestError(f"{name}: expected an int from 1, got {value!r}", param=name)
        self.model = str(model)
        self._context, self._slots, self._threads = context, slots, threads
        self._gpu_layers, self._batch, self._chat_template, self._verbose = gpu_layers, batch, chat_template, verbose
        self._engine: Engine | None = None
        self._name = ""
        self._closed = False
        self._lock = threading.RLock()
        """Held while the model is found and loaded, so that concurrent first uses load it once."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The backend that a URL names: "local:", "local:NAME", "local:/path/to.gguf" or "local:owner/repository/file.gguf"."""
        return cls(url.removeprefix("local:").removeprefix("//"))

    def __repr__(self) -> str:
        return f"Local({self.model!r})"

    def load(self) -> Engine:
        """Load the model now, fetching it where it must be. Raises as a first call does."""
        from gpt.local import llama, weights

        engine = self._engine
        if engine is not None:
            llama.refuse_after_fork()
            return engine
        with llama.first_use(), self._lock:
            if self._engine is None and not self._closed:
                found = weights.find(self.model)
                self._name = found.name
                self._engine = llama.acquire(found.path, self._settings())
            engine = self._engine
            if self._closed:  # perhaps meanwhile, by another thread
                self._engine = None
                if engine is not None:
                    llama.release(engine)
                engine = None
        if engine is None:
            raise InvalidRequestError("the client is closed; make a new one")
        return engine

    def _settings(self) -> Settings:
        from gpt.local.llama import Settings

        given: dict[str, Any] = {
            "context": self._context,
            "slots": self._slots,
            "threads": self._threads,
            "gpu_layers": self._gpu_layers,
            "batch": self._batch,
            "chat_template": self._chat_template,
            "verbose": self._verbose,
        }
        return Settings(**{name: value for name, value in given.items() if value is not None})

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        """The whole answer. Raises GptError."""
        folded = Fold()
        with self._start(request, options, whole=True) as stream:
            for chunk in stream:
                folded.add(chunk)
            completion = folded.completion()
            usage = completion.usage
            info = msgspec.structs.replace(stream.info, completion_tokens=usage.completion_tokens if usage else None)
            codec.with_info(completion, info)
        return completion

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> LocalStream:
        """The answer as it is made. Leaving the block, or dropping the stream, stops the engine within one token."""
        return self._start(request, options, usage=_wants_usage(request))

    def stream_into(self, request: ChatRequest, options: CallOptions, put: Put) -> LocalStream:
        """The same, but that the engine's own thread calls `put` with each chunk, then with an error or None.

        What comes back is not read; dropping it stops the engine. Clocks are not looked at, because nobody waits here who
        could. Raises as a call does; `put` raises nothing.
        """
        return self._start(request, options, usage=_wants_usage(request), put=put)

    def count_tokens(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> TokenCount:  # noqa: ARG002 - as calls
        """How many tokens the prompt takes: exactly, with the chat template applied. Loads the model; raises as a call does."""
        from gpt.local.counting import counted

        made = self._made(request)
        return counted(made.engine._ask, made.asked, self._name)

    @property
    def slots(self) -> int:
        """Calls that run at once; further ones wait."""
        return self._slots

    @property
    def refuses(self) -> frozenset[str]:
        """Parameters that no call can have here."""
        return REFUSED

    def without_effect(self, request: Mapping[str, Any]) -> list[str]:
        """The paths of what a request, as plain JSON values, has and what changes nothing here. Loads the model."""
        return without_effect(request, self.load().facts().template)

    def metrics(self) -> str:
        """What the engine counts, as Prometheus text; "" before the model is loaded."""
        engine = self._engine
        return "" if engine is None else engine.metrics()

    @property
    def identity(self) -> str:
        """What answers, for the keys of a cache: the model's name or file, and the template where it was replaced."""
        parts = [self.model or "default"]
        if os.path.exists(self.model):
            found = os.stat(self.model)
            parts = [os.path.realpath(self.model), str(found.st_size), str(found.st_mtime_ns)]
        if self._chat_template is not None:
            parts.append(hashlib.sha256(self._chat_template.encode()).hexdigest())
        return f"local:{' '.join(parts)}"

    def _made(self, request: ChatRequest) -> _Made:
        """The request as the engine is asked. Raises GptError."""
        # Encoding checks every field, and gives plain values whatever the caller mixed.
        given = msgspec.json.decode(codec.encode_request(msgspec.structs.replace(request, extra=UNSET), echoes="always"))
        known = {name: value for name, value in given.items() if name in request.__struct_fields__}
        plain = ChatRequest(**known, extra=request.extra)
        offer = offer_of(plain)
        engine = self.load()
        # Asking the engine takes it a moment, so it is asked only where the answer matters.
        vocabulary = engine.facts().vocabulary if needs_vocabulary(plain) else 0
        calling = engine.calling() if needs_calling(plain) else None
        asked, plan = engine_request(plain, vocabulary, calling, offer)
        return _Made(engine, plain, asked, offer, plan)

    def _start(
        self,
        request: ChatRequest,
        options: CallOptions,
        *,
        usage: bool = True,
        whole: bool = False,
        put: Put | None = None,
    ) -> LocalStream:
        started = time.perf_counter()
        if options.headers or options.query:
            raise InvalidRequestError("headers, query: there is no server here to send them to", param="headers")
        engine, plain, asked, offer, plan = self._made(request)
        if (plain.n or 1) > self._slots:
            raise InvalidRequestError(
                f"n: the engine has {self._slots} slots, so at most {self._slots} choices; Local(..., slots={plain.n})",
                param="n",
            )
        asked |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        bare = bool(plain.logprobs) and not plain.top_logprobs
        readers = [Reader(offer, plan) if offer and plan else None for _ in range(plain.n or 1)]
        answer = _Answer(self._name, readers, options.cancel, usage=usage, bare_logprobs=bare)
        listener = None if put is None else partial(answer.give, put)
        run = engine.start(asked, options.cancel, plan.trials if plan else (), whole=whole, listener=listener)
        return LocalStream(self, run, options, started, answer)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:  # noqa: ARG002 - as every Backend
        """The model that answers here. Nothing is fetched or loaded; raises as a first call where there is no such file."""
        from gpt.local import weights

        made = ModelList([Model(self._name or weights.name(self.model), owned_by="local")])
        codec.with_info(made, ResponseInfo())
        return made

    def close(self) -> None:
        """Let go of the engine. What still runs here stops, if nobody else uses the engine."""
        self._closed = True
        engine, self._engine = self._engine, None
        if engine is not None:
            from gpt.local import llama

            llama.release(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and getattr(self, "_engine", None) is not None:
            self.close()


def _wants_usage(request: ChatRequest) -> bool:
    usage = request.stream_options
    return bool(usage is not UNSET and usage is not None and _get(usage, "include_usage"))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name)


def _cancelled() -> GptError:
    return GptError("the call was cancelled")


class _Made(NamedTuple):
    """A request as the engine is asked."""

    engine: Engine
    request: ChatRequest
    """As plain values, checked."""
    asked: dict[str, Any]
    offer: Offer | None
    plan: Plan | None


class _Answer:
    """What the engine's items come to: the protocol's chunks, and then an error or the end. Waits for nothing.

    The engine's thread may hold it, so it does not hold the model.
    """

    def __init__(
        self,
        model: str,
        readers: list[Reader | None],
        cancel: threading.Event | None,
        *,
        usage: bool,
        bare_logprobs: bool,
    ) -> None:
        self._model = model
        self._readers = readers  # of the choices
        self._unfinished = len(readers)
        self._cancel = cancel
        self._usage_wanted = usage
        self._bare_logprobs = bare_logprobs
        self._counts = [0, 0]  # tokens of the prompt, and of all choices' answers
        self._cached = 0
        self._last: dict[str, Any] = {}
        self._timings: Any = None
        self.ended = False

    @property
    def complete(self) -> bool:
        """Whether it has ended, and each choice with a reason."""
        return self.ended and self._unfinished <= 0

    def taken(self, run: Run, item: Item) -> ChatCompletionChunk | None:
        """The chunk that an item of a run's comes to; None where it is none. Raises GptError; StopIteration at the end."""
        if item is None:
            return self._end(run)
        if isinstance(item, Exception):
            from gpt.local.llama import engine_error

            raise engine_error(item)
        if "error" in item:
            error = item["error"]
            hint = "; Local(..., context=N) gives it more" if error.get("type") == "exceed_context_size_error" else ""
            raise engine_failure(int(error.get("code") or 500), msgspec.json.encode(item), f"model {self._model}{hint}")
        return self._chunk(item)

    def give(self, put: Put, run: Run, item: Item) -> bool:
        """Give what an item comes to, to a reader who waits elsewhere. With `put` bound it is a Listener of the engine's."""
        if self.ended:
            return True
        try:
            chunk = self.taken(run, item)
        except StopIteration:
            put(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the reader
            self.ended = True
            put(error)
        else:
            if chunk is not None:
                put(chunk)
            if item is None:
                put(None)
        return self.ended

    def _chunk(self, item: dict[str, Any]) -> ChatCompletionChunk | None:
        """The engine's chunk as the protocol has it; None for progress, counts, which are gathered, and what is held back."""
        if "prompt_progress" in item:
            return None
        usage = item.pop("usage", None)
        if usage is not None:
            # One for each choice, each with the prompt.
            self._counts = [usage["prompt_tokens"], self._counts[1] + usage["completion_tokens"]]
            self._cached = max(self._cached, (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))
            self._timings = item.get("timings")
            return None
        item["model"] = self._model
        item["created"] = self._last.get("created", item["created"])  # the engine says when each chunk was made
        self._last = item
        said = False
        for choice in item["choices"]:
            if choice["finish_reason"]:
                self._unfinished -= 1
            delta, reader = choice["delta"], self._readers[choice["index"]]
            if reader is None and delta.get("content", "") is None:
                delta["content"] = ""
            if choice.get("logprobs"):
                # The published description requires it, and the engine leaves it out.
                choice["logprobs"].setdefault("refusal", None)
                for token in choice["logprobs"]["content"] if self._bare_logprobs else ():
                    token["top_logprobs"] = []
            said = reader is None or reader.read(choice) or said
        return codec.decode_chunk(msgspec.json.encode(item)) if said else None

    def _end(self, run: Run) -> ChatCompletionChunk:
        self.ended = True
        if self._unfinished > 0:  # never to be taken for a whole answer
            if self._cancel is not None and self._cancel.is_set():
                raise _cancelled()
            if run.stopped:
                raise InvalidRequestError("the answer was stopped, because the client was closed")
            raise ServerError(f"the model {self._model} broke off in the middle of its answer; try again", 500)
        if not self._usage_wanted:
            raise StopIteration
        prompt, answer = self._counts
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }
        last = {**self._last, "choices": [], "usage": usage, "timings": self._timings}
        return codec.decode_chunk(msgspec.json.encode(last))


class LocalStream:
    """Chunks as the engine makes them."""

    def __init__(self, backend: Local, run: Run, options: CallOptions, started: float, answer: _Answer) -> None:
        self._backend = backend  # which frees the engine when it is dropped, so a stream keeps it
        self._run = run
        self._model = backend._name
        self._options = options
        self._started = started
        self._answer = answer

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatCompletionChunk:
        while not self._answer.ended:
            item = self._get()
            try:
                chunk = self._answer.taken(self._run, item)
            except BaseException:  # the end too, after which there is nothing to stop
                self.close()
                raise
            if chunk is not None:
                return chunk
        raise StopIteration

    def _get(self) -> Item:
        """The next of the queue. Raises RequestTimeoutError when a clock runs out."""
        timeout, deadline, cancel = self._options.timeout, self._options.deadline, self._options.cancel
        chunks = self._run.chunks
        if timeout is None and deadline is None and cancel is None and not self._run.whole:
            return chunks.get()
        from gpt.local.llama import LOOK

        begun = time.perf_counter()
        while True:
            limits: list[tuple[float, str, Seconds]] = []
            if timeout is not None and self._run.first_token is None:
                if timeout.first_byte is not None:
                    limits.append((self._started + timeout.first_byte, "first_byte", timeout.first_byte))
            elif timeout is not None and timeout.idle is not None:
                # From the engine's last word, of which the caller of a whole answer knows nothing; but a caller who came late
                # has not waited yet.
                limits.append((max(begun, self._run.heard) + timeout.idle, "read", timeout.idle))
            if deadline is not None:
                limits.append((self._started + deadline, "deadline", deadline))
            due, phase, seconds = min(limits, default=(None, "", 0.0), key=lambda limit: limit[0] or 0.0)
            left = None if due is None else due - time.perf_counter()
            if left is not None and left <= 0:
                self.close()
                raise RequestTimeoutError(
                    f"the model {self._model} had not answered within {seconds:g} s ({phase}); allow more time, ask for fewer "
                    "tokens, or take a smaller prompt",
                    phase=phase,
                    sent=True,
                )
            try:
                return chunks.get(timeout=LOOK if left is None else min(LOOK, left))
            except queue.Empty:
                if cancel is not None and cancel.is_set():
                    self.close()
                    raise _cancelled() from None

    @property
    def info(self) -> ResponseInfo:
        """The facts of the answer so far."""
        began = self._run.first_token
        first = None if began is None else began - self._started
        ended: Ended | None = "complete" if self._answer.complete else None
        return ResponseInfo(elapsed=time.perf_counter() - self._started, first_byte=first, first_token=first, ended=ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine's work on this answer, within one token."""
        self._answer.ended = True
        self._run.stopped = True

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None:
            run.stopped = True
