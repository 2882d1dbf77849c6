"""No waiting: retries, paced recordings and scripts without their waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt.layers import record
from gpt.remote import drive


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within the block nothing of gpt in this process waits before it tries again; paced recordings and the pauses of scripts
    pass at once. What was meant to be waited is still told, and still ends calls whose clocks it would have ended.

    For tests: `answer.info.attempts` and the attempts of errors hold the waits that were left out. What a server does takes its
    time, that of `serve` too.
    """
    before = drive.waits, record.waits
    drive.waits = record.waits = False
    try:
        yield
    finally:
        drive.waits, record.waits = before
