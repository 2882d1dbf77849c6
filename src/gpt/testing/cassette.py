"""A recording for each test: where it lies, and how it is made."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gpt.backend import Backend
from gpt.client import Gpt
from gpt.errors import InvalidRequestError
from gpt.layers.record import Record, Replay
from gpt.protocol.recording import HEADER

FOLDER = "cassettes"
LONGEST = 120
"""Characters of a file's name; systems take 255 bytes."""


def place(test_file: str, test: str) -> str:
    """Where the recording of a test lies: in a folder `cassettes` beside its file, in one named after the file.

    `test` is its name in the file, with its class and its parameters. Two tests have two recordings.
    """
    name, bracket, parameters = test.partition("[")
    test = name.replace("::", ".") + bracket + parameters
    name = re.sub(r"[^A-Za-z0-9_.\-]+", "-", test).strip("-")[:LONGEST]
    if name != test:
        name = f"{name}-{zlib.crc32(test.encode()):08x}"
    folder, file = os.path.split(test_file)
    return os.path.join(folder, FOLDER, os.path.splitext(file)[0], f"{name}.jsonl")


@contextmanager
def replayed(path: str) -> Iterator[Backend]:
    """What answers from the recording. Raises InvalidRequestError where there is none, which says how to make it."""
    if not os.path.exists(path):
        raise InvalidRequestError(
            f"there is no recording {path}; make it with `pytest --gpt-record`, and OPENAI_BASE_URL and OPENAI_API_KEY for the "
            "server that is to answer",
            param="path",
        )
    yield Replay(path)


@contextmanager
def recorded(path: str, passed: Callable[[], bool]) -> Iterator[Backend]:
    """What asks the server that the environment names, and records it. The recording takes the place of the one before it at
    the end of the block, if the test `passed` by then; else the one before it stays.
    """
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.remove(new)  # of a run that was ended
    with Gpt() as client:
        recorder = Record(client.backend, new)
        yield recorder
    if passed():
        if not os.path.exists(new):
            os.makedirs(os.path.dirname(new), exist_ok=True)
            with open(new, "wb") as file:
                file.write(HEADER)
        os.replace(new, path)
    with suppress(FileNotFoundError):
        os.remove(new)
