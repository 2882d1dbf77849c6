"""Retries without their waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt.remote import drive


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within the block no call of this process waits before it tries again. What was meant to be waited is still told.

    For tests: `answer.info.attempts` and the attempts of errors hold the waits that were left out.
    """
    before = drive.waits
    drive.waits = False
    try:
        yield
    finally:
        drive.waits = before
