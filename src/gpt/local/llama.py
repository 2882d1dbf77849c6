"""The engine: llama.cpp through the wheel `xllamacpp`. The only file that imports it.

Facts of the wheel that this file lives with:

- making its Server opens an HTTP listener on loopback. It is closed to everyone by a random key that only this process knows,
  no CORS origin, no slots endpoint and no page;
- an exception that leaves the callback is swallowed, so none does; returning True from it stops the work;
- it blocks, also for Ctrl-C. So each call runs in a thread of its own, and the caller waits on a queue, which can be left;
- with `return_progress` the callback is called between batches of the prompt, which is when a call can be stopped before its
  first token. The batch size is a compromise: half a second of reading here, for 5 % of the reading speed;
- its destructor joins threads. In a forked child there are none to join, so a child never lets go of it;
- while it loads a model, and while it is freed, no other Python thread runs: it keeps the interpreter's lock;
- freed before its loop has begun, it waits for ever. So the first thing asked of it is something that the loop answers, and
  it is loaded and freed in threads of their own: Ctrl-C strikes the main thread alone, between any two lines.

One engine a model file and settings, shared by everyone in the process who asks for the same; freed when the last lets go.
A process that was forked from one that had used the wheel, or was about to, is refused: the library's threads are not there,
and its locks may be held by threads that are not either.
"""

from __future__ import annotations

import atexit
import os
import queue
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from gpt.errors import GptError, InvalidRequestError, ServerError
from gpt.local.calls.form import GENERAL, Calling, read_form, thinks
from gpt.local.calls.grammar import TOLD
from gpt.protocol.failures import engine_failure

T = TypeVar("T")

Item: TypeAlias = "dict[str, Any] | Exception | None"
"""A chunk, an exception in place of one, or None at the end."""

Listener: TypeAlias = "Callable[[Run, Item], bool]"
"""What a Run's thread calls with the Run and each item. Gives whether to stop; raises nothing."""

Trials = Sequence[tuple[str, str]]
"""Grammars to be tried, each with the path of what it is of in the request."""

BATCH = 128
"""Tokens of a prompt that are read between two chances to stop."""

LOOK = 0.1
"""Seconds between two looks, in a wait that nothing else ends. A signal that comes just before a wait does not end the wait."""

_BATCH_TAKES = 30
"""Seconds within which a batch of a prompt has surely been read, on a slow machine that others use too."""


class Settings(msgspec.Struct, frozen=True):
    """How the engine runs. `context` are the tokens that one call may take, `slots` the calls that run at once."""

    context: int = 4096
    slots: int = 4
    threads: int | None = None
    gpu_layers: int | None = None
    batch: int = BATCH
    chat_template: str | None = None
    verbose: bool = False


class Facts(msgspec.Struct, frozen=True):
    """What the engine says of the model: token ids are 0 to vocabulary - 1; `trained` is the context it was trained with."""

    vocabulary: int
    trained: int
    tools: bool
    """Whether the chat template knows tools, and the calls of them in the history."""
    system: bool
    """Whether the chat template knows a system message."""
    template: str
    vision: bool
    audio: bool


class Engine:
    """A model, loaded by `load`. Use `acquire` and `release`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.process = os.getpid()
        self.users = 0
        self._running: weakref.WeakSet[Run] = weakref.WeakSet()
        self._key = secrets.token_urlsafe(32)
        self._facts: Facts | None = None
        self._calling: Calling | None = None
        self._tried: set[str] = set()
        """Grammars that could be made."""
        self._server: Any = None
        self._lock = threading.RLock()
        """Held while the model is loaded, and while a call begins or all are stopped."""

    def load(self) -> None:
        """Load the model where that has not been done. Others who ask meanwhile wait, and find it loaded."""
        with self._lock:
            if self._server is None:
                self._server = _aside(lambda: _load(self.path, self.settings, self._key))

    @property
    def address(self) -> str:
        """The URL of the engine's own HTTP server; it answers nobody without the key."""
        return str(self._server.listening_address)

    def start(
        self,
        request: dict[str, Any],
        cancel: threading.Event | None,
        trials: Trials = (),
        *,
        whole: bool = False,
        listener: Listener | None = None,
    ) -> Run:
        """Begin an answer. Its chunks come out of the Run's queue or go to the `listener`, with `whole` all of them at the end.

        The grammars in `trials`, each with the path of what it is of, are tried before, once each.
        """
        with self._lock:
            server = self._server
            if server is None:
                raise InvalidRequestError("the client is closed; make a new one")
            untried = [(path, grammar) for path, grammar in trials if grammar not in self._tried]
            run = Run(server, request, cancel, untried, self._tried, whole=whole, listener=listener)
            self._running.add(run)
            run.thread.start()
        return run

    def facts(self) -> Facts:
        """What the engine says of the model; asked once, over its own HTTP server."""
        if self._facts is None:
            meta = self._ask("/v1/models")["data"][0]["meta"]
            properties = self._ask("/props")
            knows = properties["chat_template_caps"]
            self._facts = Facts(
                meta["n_vocab"],
                meta["n_ctx_train"],
                bool(knows.get("supports_tools") and knows.get("supports_tool_calls")),
                bool(knows.get("supports_system_role", True)),
                properties["chat_template"],
                bool(properties["modalities"].get("vision")),
                bool(properties["modalities"].get("audio")),
            )
        return self._facts

    def metrics(self) -> str:
        """What the engine counts, as Prometheus text; "" once it has been let go of."""
        server = self._server  # its loop answers between two steps, for which no lock is held
        return "" if server is None else str(server.handle_metrics())

    def calling(self) -> Calling:
        """How the model makes calls; found out once, by what its template makes of a few conversations."""
        if self._calling is None:
            facts = self.facts()
            form = read_form(self.rendered) if facts.tools else None
            hello = [{"role": "user", "content": "Hello."}]
            silent = self.rendered(hello, reasoning_effort="none")
            self._calling = Calling(
                facts.tools,
                facts.system,
                form or GENERAL,
                thinks(self.rendered(hello), facts.template),
                "always" if thinks(silent, "") == "always" else "never",
            )
        return self._calling

    def rendered(self, messages: list[dict[str, Any]], **params: Any) -> str:
        """What the chat template makes of messages, up to where the answer begins; "" where it refuses them."""
        prompt = self._ask("/apply-template", {"messages": messages, **params}).get("prompt")
        return prompt if isinstance(prompt, str) else ""

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        import http.client

        host, _, port = self.address.removeprefix("http://").rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            given = None if body is None else msgspec.json.encode(body)
            connection.request("GET" if body is None else "POST", path, given, headers)
            return msgspec.json.decode(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self, *, exiting: bool = False) -> None:
        """Stop whatever runs, and free the model when it has stopped. `exiting` starts no thread for it."""
        with self._lock:
            running = [run for run in self._running if run.thread is not threading.current_thread()]
            for run in self._running:
                run.stopped = True
            held, self._server = [self._server], None

        def free() -> None:
            for run in running:
                if run.thread.ident is not None:
                    run.thread.join(_BATCH_TAKES)
            server = held.pop()
            if server is not None:
                # Freed while its loop still has a stopped call to clear away, the engine waits for ever. The loop answers this
                # after that.
                server.handle_metrics()

        if exiting:
            free()
        elif held[0] is not None:
            _aside(free)


class Run:
    """One answer being made. Its thread puts the engine's chunks into `chunks`, then None; an exception in place of a chunk.

    Where there is a `listener` it is called with them instead. It must not hold the model, which would then be freed by this
    thread, for which the interpreter does not wait at its end.

    With `whole` they are put there together at the end, which spares the caller a wake-up for each token. What that saves is
    too little to be told from noise: 0.98 of the bare engine's tokens a second with it and 0.98 without, each within 0.013.
    """

    def __init__(
        self,
        server: Any,
        request: dict[str, Any],
        cancel: threading.Event | None,
        untried: Trials = (),
        tried: set[str] | None = None,
        *,
        whole: bool = False,
        listener: Listener | None = None,
    ) -> None:
        self.chunks: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._listener = listener
        self.stopped = False
        self.first_token: float | None = None
        """When the first of the answer came, by `time.perf_counter`."""
        self.heard = 0.0
        """When the last chunk came."""
        self.whole = whole
        self._kept: list[dict[str, Any]] = []
        self._cancel = cancel
        self._untried = untried
        self._tried: set[str] = set() if tried is None else tried
        self.thread = threading.Thread(target=self._make, args=(server, request), daemon=True, name="gpt-engine")

    def _make(self, server: Any, request: dict[str, Any]) -> None:
        try:
            for path, grammar in self._untried:
                _refuse_unmade(path, server.handle_completions({**_TRIAL, "grammar": grammar}))
                self._tried.add(grammar)
            server.handle_chat_completions(request, self._take)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            self._put(error)
        finally:
            for chunk in self._kept:
                self._put(chunk)
            self._put(None)
            self._listener = None
            del server  # an error that was made here holds this frame for as long as somebody holds the error

    def _put(self, item: Item) -> None:
        if self._listener is None:
            self.chunks.put(item)
        elif self._listener(self, item):
            self.stopped = True

    def _take(self, chunk: dict[str, Any]) -> bool:
        """What the engine calls with each chunk. Gives whether to stop."""
        self.heard = time.perf_counter()
        if self.first_token is None and _is_content(chunk):
            self.first_token = self.heard
        if self.whole:
            self._kept.append(chunk)
        else:
            self._put(chunk)
        return self.stopped or (self._cancel is not None and self._cancel.is_set())


_TRIAL: dict[str, Any] = {"prompt": "x", "n_predict": 1, "temperature": 0, "cache_prompt": False}
"""One token, to be made under a grammar. The engine leaves a grammar that it cannot make out, without a word."""


def _refuse_unmade(path: str, made: dict[str, Any]) -> None:
    """Raise InvalidRequestError that names `path` where a trial shows that its grammar could not be made."""
    if "error" in made:
        raise engine_failure(int(made["error"].get("code") or 500), msgspec.json.encode(made), "the engine")
    if made["choices"][0]["text"] != TOLD:
        raise InvalidRequestError(
            f"{path}: the engine cannot hold a model to this schema: nothing can satisfy it, or it has a pattern or a "
            "reference that the engine does not know (patterns are without look-around, references within the schema)",
            param=path,
        )


_aside_now: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _aside(work: Callable[[], T]) -> T:
    """What `work` gives, done in a thread of its own. Ctrl-C ends the wait for it, and never the work in its middle."""
    outcome: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()

    def do() -> None:
        try:
            outcome.put((work(),))
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is waited for
            outcome.put(error)

    thread = threading.Thread(target=do, daemon=True, name="gpt-aside")
    _aside_now.add(thread)
    thread.start()
    while True:
        try:
            came = outcome.get(timeout=LOOK)
        except queue.Empty:
            continue
        if isinstance(came, BaseException):
            raise came
        return came[0]


def _is_content(chunk: dict[str, Any]) -> bool:
    """Whether a chunk adds to an answer: not progress, not the role that comes first, not the reason that comes last."""
    choices = chunk.get("choices")
    delta: dict[str, Any] = choices[0].get("delta") or {} if choices else {}
    return bool(delta) and "role" not in delta


def _load(path: Path, settings: Settings, key: str) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise GptError(
            'the model in the box needs its engine: pip install "gpt-in-the-box[local]"; or name a server with server_url='
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = settings.slots
    params.n_ctx = settings.context * settings.slots  # each slot has its own share, so that no call can starve another
    params.n_batch = params.n_ubatch = settings.batch
    if settings.threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    if settings.gpu_layers is not None:
        params.n_gpu_layers = settings.gpu_layers
    if settings.chat_template is not None:
        params.chat_template = settings.chat_template
    params.api_keys = [key]
    params.cors_origins = ""
    params.endpoint_slots = False
    params.ui = False
    params.n_threads_http = 1
    params.cache_ram_mib = 0  # the engine would keep up to 8 GB of old prompts; the slots' own memory is enough
    params.warmup = False
    params.verbosity = 3 if settings.verbose else -1
    params.endpoint_metrics = True
    try:
        server = xllamacpp.Server(params)
        # Freed before its loop has begun, the engine waits for ever for the loop to end. This is answered by the loop.
        server.handle_metrics()
    except RuntimeError as error:
        raise InvalidRequestError(
            f"the engine could not load {str(path)!r}; the file is cut short or damaged, of a kind that this engine does not "
            "know, or too large for the memory; Local(..., verbose=True) shows what the engine says",
            param="model",
        ) from error
    return server


# --------------------------------------------------------------------------------------------------------------------
# One engine for all
# --------------------------------------------------------------------------------------------------------------------

_engines: dict[tuple[Path, Settings], Engine] = {}
_lock = threading.RLock()
"""Over `_engines`, their users and `_beginning`. Never held while a model is loaded, so that letting go of one never waits."""
_beginning = 0
"""First uses under way, from looking for the file to the loaded model."""
_forked = False
"""Whether this process was forked from one that had used the wheel, or was about to."""


@contextmanager
def first_use() -> Iterator[None]:
    """While the block runs, a model is being found and loaded. A process that is forked meanwhile is refused."""
    global _beginning  # noqa: PLW0603 - how many there are is a fact of the process
    refuse_after_fork()
    with _lock:
        _beginning += 1
    try:
        yield
    finally:
        with _lock:
            _beginning -= 1


def refuse_after_fork() -> None:
    """Raise InvalidRequestError where the engine cannot work, because its process forked."""
    if _forked:
        raise InvalidRequestError(
            "this process was forked from one that had loaded the model, and the engine does not live through a fork; "
            "make the client after the fork, or start processes by spawn"
        )


def acquire(path: Path, settings: Settings) -> Engine:
    """The engine for this file and these settings, loaded if it is the first use. Give it back with `release`."""
    key = (path.resolve(), settings)
    with _lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = Engine(path, settings)
        engine.users += 1
    try:
        engine.load()
    except BaseException:
        release(engine)
        raise
    return engine


def release(engine: Engine) -> None:
    """Give an engine back; the last one to do so frees it, and what still runs on it stops."""
    if engine.process != os.getpid():
        return
    with _lock:
        engine.users -= 1
        if engine.users:
            return
        for key, other in list(_engines.items()):
            if other is engine:
                del _engines[key]
    engine.stop()


def _at_exit() -> None:
    """Stop and free what is left, while threads can still be joined."""
    for engine in list(_engines.values()):
        if engine.process == os.getpid():
            engine.stop(exiting=True)
    _engines.clear()
    for thread in list(_aside_now):
        if thread.ident is not None:
            thread.join(_BATCH_TAKES)


def _in_child() -> None:
    """After a fork: the lock may be held by a thread that is not here, and the engines' threads are not either."""
    global _lock, _forked, _beginning  # noqa: PLW0603 - a lock cannot be reset in place
    _lock = threading.RLock()
    _forked = _forked or _beginning > 0 or "xllamacpp" in sys.modules
    _beginning = 0
    _aside_now.clear()
    if _forked:
        import ctypes

        for engine in _engines.values():
            if engine._server is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine._server))
        # The library's own destructors, which C runs at the end of a process, wait for threads too. What is registered last
        # runs first, so the child ends there, with the status that it has; Python has by then flushed what it had.
        libc = ctypes.CDLL(None)
        if hasattr(libc, "on_exit"):
            libc.on_exit(libc._exit, None)
    _engines.clear()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def engine_error(error: Exception) -> GptError:
    """What the engine raised, as our error. It raises ValueError for what it cannot make of a request."""
    from gpt.errors import BadRequestError

    if isinstance(error, GptError):
        return error
    text = str(error)
    if isinstance(error, (ValueError, TypeError)):
        param = "response_format" if "schema" in text.lower() or "grammar" in text.lower() else None
        made: GptError = BadRequestError(f"the engine refused the request: {text}", 400, code="invalid_value", param=param)
    else:
        made = ServerError(f"the engine failed: {text}", 500)
    made.__cause__ = error
    return made
