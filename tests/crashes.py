"""A process that dies, and a disk that fails, at every point of something that works on files.

What a process that is killed leaves is what is on the disk. So every state of the disk that it goes through is kept while it runs,
line by line, and each is given to what has to go on from there. Writes are seen between two lines alone; for what a longer one
grew a file by, half of it is a state of its own.
"""

from __future__ import annotations

import errno
import linecache
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gpt

FILES = frozenset(
    str(Path(gpt.__file__).parent / "batch" / name) for name in ("journal.py", "files.py", "directory.py", "shard.py")
)
"""Whose lines are looked at."""


class File(NamedTuple):
    data: bytes
    node: int


State = dict[str, File | None]
"""What is in a folder, by path; None is a folder."""


def seen(folder: Path) -> State:
    """What is in a folder."""
    found: State = {}
    for path, folders, names in os.walk(folder):
        within = os.path.relpath(path, folder)
        found |= {os.path.normpath(os.path.join(within, name)): None for name in folders}
        for name in names:
            full = os.path.join(path, name)
            with open(full, "rb") as file:
                found[os.path.normpath(os.path.join(within, name))] = File(file.read(), os.fstat(file.fileno()).st_ino)
    return found


def put(state: State, folder: Path) -> None:
    """Make a folder of what was in one, links and all."""
    nodes: dict[int, Path] = {}
    for name, file in sorted(state.items()):
        path = folder / name
        if file is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.node in nodes:
            os.link(nodes[file.node], path)
        else:
            path.write_bytes(file.data)
            nodes[file.node] = path


@contextmanager
def _traced(at_line: Callable[[Any], None]) -> Iterator[None]:
    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            at_line(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def states(folder: Path, act: Callable[[], object]) -> list[State]:
    """Each state of a folder that `act` goes through, the first and the last too."""
    found = [seen(folder)]

    def look(_: Any = None) -> None:
        now, last = seen(folder), found[-1]
        if now == last:
            return
        sizes = {file.node: len(file.data) for file in last.values() if file is not None}  # a rename makes no file longer
        for name, file in now.items():
            if file is not None and len(file.data) - sizes.get(file.node, 0) > 1:
                half = (len(file.data) + sizes.get(file.node, 0)) // 2
                found.append(now | {name: File(file.data[:half], -file.node)})
        found.append(now)

    with _traced(look):
        act()
    look()
    return found


_CALLS = re.compile(r"\b(os\.(open|write|pread|fsync|fstat|stat|link|unlink|replace|makedirs|listdir|lseek)|read|write\w*|_sync|"
                    r"sync_folder|commit|copyfileobj|flush|rmtree)\(")  # fmt: skip


def full_at(call: int, act: Callable[[], object]) -> bool:
    """Have the disk be full at the so manieth line that works on it; gives whether it came to that. `act` may raise OSError."""
    left = call

    def fail(frame: Any) -> None:
        nonlocal left
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if text.startswith(("with ", "def ")) or not _CALLS.search(text):
            return  # what ends a block runs its first line once more, and must not fail there
        left -= 1
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        with _traced(fail):
            act()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return left <= 0


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Files end at so many bytes: the kernel writes what fits, and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
