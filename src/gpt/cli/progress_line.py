"""How a job is going, on a terminal, in a pipe or as JSON.

On a terminal one line on stderr is drawn again and again, and taken away at the end. Elsewhere only what is said is written, a
line each. For programs there are objects on stdout, one a line. None of it is worth a job: a line that cannot be written is
dropped, one of progress also where it would have to be waited for, as behind Ctrl-S or a reader that is slow.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from json import dumps
from time import monotonic
from typing import Any, Self, TextIO

from gpt.batch.progress import Progress, Tally, line, summary, summary_dict

EACH_LINE = 0.2
"""Seconds between two drawings of the line."""
EACH_OBJECT = 1.0
"""Seconds between two objects."""

_CLEAR = "\r\x1b[K"  # ECMA-48: to the first column, and erase from there to the end of the line


class ProgressLine:
    """What is told of one job while it runs. Used by one thread.

    `json` gives objects on `stdout`. Otherwise the line is drawn on `stderr`, where that is a terminal and this process in its
    foreground. `now` is the clock.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        stderr: TextIO | None = None,
        stdout: TextIO | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._json = json
        # Python's own streams are None where they were closed before it began.
        self._stderr: TextIO | None = sys.stderr if stderr is None else stderr
        self._stdout: TextIO | None = sys.stdout if stdout is None else stdout
        self._now = now
        self._next = float("-inf")
        self._drawn: Progress | None = None
        self._draws = not json and os.environ.get("TERM") != "dumb" and _is_terminal(self._stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def show(self, progress: Progress) -> None:
        """Tell of a moment, unless the one before it is too near."""
        now = self._now()
        if now < self._next or not (self._json or self._draws):
            return
        stream = self._stdout if self._json else self._stderr
        if stream is None or not _takes(stream):
            return
        if self._json:
            self._next = now + EACH_OBJECT
            self._object("progress", progress.to_dict())
        elif _in_foreground(stream):
            self._next = now + EACH_LINE
            self._drawn = progress
            self._write(stream, f"{_CLEAR}{_fitting(progress, stream)}")

    def say(self, text: str) -> None:
        """A line on stderr, above that of progress."""
        if self._drawn is None or self._stderr is None:
            self._write(self._stderr, f"{text}\n")
        else:
            self._write(self._stderr, f"{_CLEAR}{text}\n{_fitting(self._drawn, self._stderr)}")

    def finish(self, tally: Tally, progress: Progress, *, out: str | None = None, **words: str) -> None:
        """Take the line away and say the summary, which `gpt.batch.progress.summary` makes of these; as JSON an object."""
        self.close()
        if self._json:
            self._object("summary", summary_dict(tally, progress, out=out))
        else:
            self.say(summary(tally, progress, out=out, **words))

    def close(self) -> None:
        """Take the line away."""
        if self._drawn is not None:
            self._drawn = None
            self._write(self._stderr, _CLEAR)

    def _object(self, type: str, fields: dict[str, Any]) -> None:
        self._write(self._stdout, f"{dumps({'type': type} | fields)}\n")

    def _write(self, stream: TextIO | None, text: str) -> None:
        """Write it now, or never."""
        if stream is None:
            return
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:  # the reader has gone
            # What is still in the buffer would be written at the exit of Python, which would complain then.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):  # the disk is full, the terminal is gone, the stream is closed
            return


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _takes(stream: TextIO) -> bool:
    """Whether a line can be written without waiting for whoever reads."""
    try:
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # no file behind it; to write tells what is wrong
        return True


def _in_foreground(terminal: TextIO) -> bool:
    """Whether the terminal is this process's to draw on: not after `gpt batch ... &`."""
    try:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # a terminal that controls nobody, or a stream that is closed
        return True


def _fitting(progress: Progress, terminal: TextIO) -> str:
    """The line, as long as the window of the terminal allows now."""
    try:
        room = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        room = 0
    # Not into the last column, from which some terminals go on to the next line. 0 is a terminal that does not say.
    return line(progress, (room or 80) - 1)
