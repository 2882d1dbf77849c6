"""What workers in other processes are given in tests of `gpt.batch`: clients and prompts that have their process die, or worse.

It is a module of its own because the process of a worker imports it by its name.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gpt import AsyncGpt, GptError, Timeout


class OddError(GptError):
    """One that another process cannot have."""

    def __init__(self) -> None:
        super().__init__("no such sea")
        self.lock = threading.Lock()


def happen(how: str) -> None:
    """Have something happen to this process."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how.startswith("exit "):
        os._exit(int(how.removeprefix("exit ")))
    elif how == "ValueError":
        raise ValueError("no such river")
    elif how == "SystemExit":
        sys.exit("enough")
    elif how == "OddError":
        raise OddError
    elif how == "stays":
        threading.Thread(target=time.sleep, args=(600,)).start()
    elif how == "sleeps":
        time.sleep(600)
    elif how in ("before part", "after part", "after journal"):
        _die_at_part(how)


def _die_at_part(how: str) -> None:
    """Have this process die at the very moment when a part gets its name, or when the journal goes that it was made of."""
    replace, unlink = os.replace, os.unlink

    def deadly(source: Any, target: Any) -> None:
        is_part = os.path.basename(target).startswith("part-")
        if is_part and how == "before part":
            happen("SIGKILL")
        replace(source, target)
        if is_part and how == "after part":
            happen("SIGKILL")

    def deadly_too(path: Any) -> None:
        unlink(path)
        if str(path).endswith(".journal") and how == "after journal":
            happen("SIGKILL")

    os.replace, os.unlink = deadly, deadly_too  # type: ignore[assignment]


def is_turn(folder: str, times: int) -> bool:
    """Whether this is one of the first so many calls, of all processes together; none is once there is a file "over"."""
    if (Path(folder) / "over").exists():
        return False
    for number in range(times):
        try:
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return True
    return False


def client(url: str, folder: str = "", times: int = 0, how: str = "", driver: int = 0, **settings: Any) -> AsyncGpt:
    """A client; of the first so many workers that make one something happens to."""
    if os.getpid() != driver and times and is_turn(folder, times):
        told = Path(folder) / "told"
        while how.endswith(" when told") and not told.exists():
            time.sleep(0.01)
        happen(how.removesuffix(" when told"))
    return AsyncGpt(server_url=url, model="m", timeout=Timeout.of(60.0), **settings)


def prompt(row: Any) -> str:
    """What is asked of a row; where it says so something happens to whoever asks, so many times."""
    if "how" in row and is_turn(row["folder"], row["times"]):
        happen(row["how"])
    return f"row {row['n']}"


class Unready:
    """A function that only the process can read that made it."""

    def __init__(self, function: Any, driver: int) -> None:
        self.function = function
        self.driver = driver

    def __call__(self) -> Any:
        return self.function()

    def __reduce__(self) -> Any:
        return ready, (self.function, self.driver)


def ready(function: Any, driver: int) -> Any:
    """The function. Raises RuntimeError in another process."""
    if os.getpid() != driver:
        raise RuntimeError("this machine knows no rivers")
    return Unready(function, driver)
