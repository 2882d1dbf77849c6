"""The engine's edge: loading, exits, signals and forks, each in a process of its own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import Gpt, InvalidRequestError, Local
from gpt.local import llama, weights
from gpt.local.llama import engine_error

BEGIN = """
import os, sys, threading, time
from gpt import Gpt, Local
client = Gpt(backend=Local(context=512))
"""


def run(program: str, *, inputs: signal.Signals | None = None) -> subprocess.CompletedProcess[str]:
    """The program in a fresh interpreter. With a signal, it gets that once it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BEGIN + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first = ""
        if inputs is not None:
            assert process.stdout is not None
            first = process.stdout.readline()
            process.send_signal(inputs)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return subprocess.CompletedProcess([], process.returncode, first + out, err)


PUSHED = """
import asyncio
from gpt import UserMessage, in_threads
from gpt.types import ChatRequest
async def use(chunks):
    stream = await in_threads(client.backend).stream(ChatRequest(messages=[UserMessage('Tell a story.')], max_tokens=20))
    while chunks and await anext(stream, None): chunks -= 1
    print('x', flush=True)
    return stream
"""

EXITS: list[tuple[str, str]] = [
    ("after a call", "print(client.chat.complete('hi', max_tokens=3).text)"),
    ("with a stream open", "s = client.chat.stream('Tell a story.'); next(s); print(s.snapshot.text)"),
    ("with a call in a daemon thread", """
begun = threading.Event()
def work():
    try:
        for _ in client.chat.stream('Tell a very long story.'): begun.set()
    except ValueError: pass  # it is told that the engine was closed
threading.Thread(target=work, daemon=True).start()
begun.wait(); print('x')"""),
    ("by sys.exit in a stream", "s = client.chat.stream('Tell a story.'); next(s); print('x'); sys.exit(0)"),
    ("with the client closed", "client.chat.complete('hi', max_tokens=3); client.close(); print('x')"),
    ("without any call", "print('x')"),
    ("loaded only", "client.backend.load(); print('x')"),
    ("after a stream on asyncio", PUSHED + "asyncio.run(use(10**9))"),
    ("in a stream on asyncio", PUSHED + "asyncio.run(use(2))"),
    ("with a stream on asyncio kept", PUSHED + "kept = asyncio.run(use(2))"),
    ("closed in a stream", "s = client.chat.stream('Tell a story.'); next(s); client.close(); print('x')"),
]  # fmt: skip


@pytest.mark.parametrize("program", [row[1] for row in EXITS], ids=[row[0] for row in EXITS])
def test_exit(program: str) -> None:
    """The interpreter ends cleanly and silently, whatever the engine is doing."""
    done = run(program)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.strip()


INTERRUPTED = """
try:
    print('ready', flush=True)
    {call}
except KeyboardInterrupt:
    print('stopped')
    print(client.chat.complete('hi', max_tokens=2, temperature=0).text != '')
"""


@pytest.mark.parametrize(
    "call",
    [
        "client.chat.complete('Tell a very long story. ' * 3, max_tokens=400)",
        "client.chat.stream('Tell a story.').until_done()",
    ],
)
def test_ctrl_c(call: str) -> None:
    """Ctrl-C stops an answer at once, and the next call works."""
    done = run("client.backend.load()" + INTERRUPTED.format(call=call), inputs=signal.SIGINT)
    assert (0, "ready\nstopped\nTrue\n", "") == (done.returncode, done.stdout, done.stderr)


INTERRUPTED_LOAD = """
from gpt.local import llama
go_on, original = threading.Event(), llama._load
def watched(*arguments):
    {before}
    made = original(*arguments)
    {after}
    return made
llama._load = watched
try:
    client.backend.load()
except KeyboardInterrupt:
    print('stopped')
llama._load = original
go_on.set()
{end}
"""


@pytest.mark.parametrize("end", ["print(client.chat.complete('hi', max_tokens=2, temperature=0).text != '')", "print(True)"])
@pytest.mark.parametrize(
    "moment", [("print('ready', flush=True); go_on.wait()", "pass"), ("pass", "print('ready', flush=True); go_on.wait()")]
)
def test_ctrl_c_while_loading(moment: tuple[str, str], end: str) -> None:
    """Ctrl-C while the model is loaded ends the wait, wherever it strikes; the next call works, and so does leaving."""
    done = run(INTERRUPTED_LOAD.format(before=moment[0], after=moment[1], end=end), inputs=signal.SIGINT)
    assert (0, "ready\nstopped\nTrue\n", "") == (done.returncode, done.stdout, done.stderr)


INTERRUPTED_CLOSE = """
stream = client.chat.stream('Tell a very long story.', max_tokens=400)
next(stream)
run = next(iter(client.backend.load()._running))
go_on, original = threading.Event(), run.thread.join
def join(seconds):
    print('ready', flush=True)
    go_on.wait()
    original(seconds)
run.thread.join = join
try:
    client.close()
except KeyboardInterrupt:
    print('stopped')
go_on.set()
"""


def test_ctrl_c_while_closing() -> None:
    """Ctrl-C while the last client closes ends the wait; the engine is freed all the same, before the interpreter ends."""
    done = run(INTERRUPTED_CLOSE, inputs=signal.SIGINT)
    assert (0, "ready\nstopped\n", "") == (done.returncode, done.stdout, done.stderr)


FORK = """
client.chat.complete('hi', max_tokens=2)
child = os.fork()
if not child:
    try:
        client.chat.complete('hi', max_tokens=2)
    except ValueError as error:
        print(type(error).__name__, 'does not live through a fork' in str(error), flush=True)
    {end}
_, status = os.waitpid(child, 0)
assert client.chat.complete('hi', max_tokens=2).text
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "client.close(); sys.exit(0)", "del client; sys.exit(0)"])
def test_fork(end: str) -> None:
    """A forked child is refused with a clear error and ends cleanly, however it ends; the parent works on."""
    done = run(FORK.format(end=end))
    assert (0, "InvalidRequestError True\n0\n", "") == (done.returncode, done.stdout, done.stderr)


FORK_ON_ASYNCIO = """
import asyncio, signal
from gpt import AsyncGpt
other = AsyncGpt(backend=client.backend)
async def use():
    await other.chat.stream('hi', max_tokens=2).until_done()
asyncio.run(use())
child = os.fork()
if not child:
    signal.alarm(20)
    try:
        asyncio.run(use())
    except ValueError as error:
        print(type(error).__name__, 'does not live through a fork' in str(error), flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
asyncio.run(use())
print(os.waitstatus_to_exitcode(status))
asyncio.run(other.close())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_on_asyncio() -> None:
    """The same on asyncio, where the child's threads are not there either; the parent streams on."""
    done = run(FORK_ON_ASYNCIO)
    assert (0, "InvalidRequestError True\n0\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_before_loading() -> None:
    """A child that was forked before anything was loaded may load for itself."""
    program = "child = os.fork()\nok = len(client.chat.complete('hi', max_tokens=2).text) > 0\nos.write(1, b'%d\\n' % ok)\nif child: os.waitpid(child, 0)"
    done = run(program)
    # Each line in one write: what two processes print may be mixed within a line.
    assert (0, "1\n1\n", "") == (done.returncode, done.stdout, done.stderr)


LOADING = """
from gpt.local import llama
inside, go_on, original = threading.Event(), threading.Event(), llama._load
def watched(*arguments):
    inside.set()
    go_on.wait()
    return original(*arguments)
llama._load = watched
client = None
box = Local(context=512)
def load():
    try:
        box.load()
    except ValueError as error:
        print(error, flush=True)
loader = threading.Thread(target=load, daemon={daemon})
loader.start()
inside.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("box", ["box", "Local(context=512)"])
def test_fork_while_loading(box: str) -> None:
    """A child that was forked while another thread was loading is refused too; it does not wait for that thread."""
    program = """
child = os.fork()
if not child:
    try:
        {box}.load()
    except ValueError as error:
        print('does not live through a fork' in str(error), flush=True)
    os._exit(0)
os.waitpid(child, 0)
go_on.set()
loader.join()
box.close()
"""
    done = run(LOADING.format(daemon=False) + program.format(box=box))
    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("before", ["", "client.close()"])
def test_fork_and_another(before: str) -> None:
    """The child of a process that had used the engine may not begin with a new one either: the library does not live on."""
    program = """
client.chat.complete('hi', max_tokens=2)
{before}
child = os.fork()
if not child:
    try:
        Local(context=600).load()
    except ValueError as error:
        print('does not live through a fork' in str(error), flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""
    done = run(program.format(before=before))
    assert (0, "True\n0\n", "") == (done.returncode, done.stdout, done.stderr)


def test_closed_while_loading() -> None:
    """Closing while another thread loads frees the engine; whoever waited for it is told."""
    program = "box.close(); go_on.set(); loader.join(); print(len(llama._engines), box._engine)"
    done = run(LOADING.format(daemon=False) + program)
    assert (0, "the client is closed; make a new one\n0 None\n", "") == (done.returncode, done.stdout, done.stderr)


def test_exit_while_loading() -> None:
    """The interpreter ends while a daemon thread loads."""
    done = run(LOADING.format(daemon=True) + "go_on.set(); print('x')")
    assert (0, "x\n", "") == (done.returncode, done.stdout, done.stderr)


def test_dropped_while_another_loads() -> None:
    """Letting go of one model does not wait for another that is being loaded."""
    program = """
import gc
from gpt.local.llama import acquire, release, Settings
llama._load = original
other = Local(context=600)
engine = other.load()
del other
gc.collect()
print(engine._server is None, loader.is_alive(), flush=True)
go_on.set()
loader.join()
"""
    done = run(LOADING.format(daemon=False) + program)
    assert (0, "True True\n", "") == (done.returncode, done.stdout, done.stderr)


def test_loaded_once() -> None:
    """Threads that ask at the same time for the first time load one engine."""
    program = """
from gpt.local import llama
made = []
original = llama._load
def counted(*arguments):
    made.append(1)
    return original(*arguments)
llama._load = counted
threads = [threading.Thread(target=lambda: Gpt(backend=Local(context=512)).backend.load()) for _ in range(8)]
keep = [Local(context=512) for _ in range(8)]
threads = [threading.Thread(target=one.load) for one in keep]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(made), len({id(one.load()) for one in keep}))
"""
    done = run(program)
    assert (0, "1 1\n", "") == (done.returncode, done.stdout, done.stderr)


def test_verbose() -> None:
    """The engine is silent unless asked."""
    done = run("loud = Gpt(backend=Local(context=512, verbose=True)); loud.chat.complete('hi', max_tokens=2); print('x')")
    assert done.returncode == 0
    assert "llama" in done.stderr + done.stdout


@pytest.mark.parametrize("length", [4, 24, 5000, 50_000_000, 98_362_431])
def test_truncated_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], length: int) -> None:
    """A model file that is cut short anywhere is a typed error that says what may be wrong, and pickles; nothing is left of it."""
    short = tmp_path / "short.gguf"
    with weights.find("").path.open("rb") as whole:
        short.write_bytes(whole.read(length))
    with pytest.raises(InvalidRequestError, match="could not load .*cut short or damaged") as caught:
        Gpt(server_url=f"local:{short}").chat.complete("hi")
    assert all(engine.path != short for engine in llama._engines.values())
    assert ("", "") == tuple(capfd.readouterr())
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_any_file() -> None:
    """Any GGUF file answers by its path, under its own name."""
    path = weights.find("").path
    with Gpt(server_url=f"local:{path}") as client:
        assert client.chat.complete("hi", max_tokens=2).model == path.stem


def test_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the engine's wheel, the error says what to install."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(Exception, match=r'pip install "gpt-in-the-box\[local\]"'):
        Local(context=300).load()


@pytest.mark.parametrize(
    ("raised", "kind", "param"),
    [
        (ValueError("JSON schema error"), "BadRequestError", "response_format"),
        (ValueError("other"), "BadRequestError", None),
        (RuntimeError("out of memory"), "ServerError", None),
    ],
)
def test_engine_errors(raised: Exception, kind: str, param: str | None) -> None:
    """What the engine raises becomes our error, with its cause."""
    error = engine_error(raised)
    assert (kind, param) == (type(error).__name__, getattr(error, "param", None))
    assert raised is error.__cause__
    assert error is engine_error(error)


def test_facts(box: Local) -> None:
    """The engine tells what the model is."""
    facts = box.load().facts()
    assert (49152, 8192, False, False, False) == (facts.vocabulary, facts.trained, facts.tools, facts.vision, facts.audio)
    assert facts.system
    assert "<|im_start|>" in facts.template
    assert llama.BATCH == box.load().settings.batch


def test_rendered(box: Local) -> None:
    """What the template makes of messages, up to where the answer begins; nothing of messages that it refuses."""
    assert box.load().rendered([{"role": "user", "content": "hi"}]).endswith("hi<|im_end|>\n<|im_start|>assistant\n")
    assert "" == box.load().rendered([{"role": "user", "content": [{"type": "zap"}]}])
