"""The line on a real terminal, and what stands for it in pipes and for programs."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

import msgspec
import pytest

from gpt.batch.progress import Facts, Progress, Tally
from gpt.cli.progress_line import ProgressLine

TALLY = Tally(rows=5)
HALF = Progress(total=10, done=5, rows_per_second=2.0, time_left=2.5)
DONE = Progress(total=10, done=10)
LINE = "[########--------]  50 %  5/10  2.0 rows/s  2 s left"


class Clock:
    """A time that is set."""

    at = 100.0

    def __call__(self) -> float:
        return self.at


class Terminal:
    """A terminal of so many columns, and what is to be seen on it."""

    def __init__(self, columns: int = 80) -> None:
        self.ours, self.theirs = pty.openpty()
        self.stream = os.fdopen(self.theirs, "w")
        self.written = b""
        self.looks = 0
        self.resize(columns)

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self.ours, (24, columns))

    def until(self, mark: bytes, times: int = 1) -> None:
        """Read until this has been written so often."""
        while self.written.count(mark) < times:
            assert select.select([self.ours], [], [], 20)[0], f"{mark!r} did not come, but {self.written!r}"
            self.written += os.read(self.ours, 4096)

    def screen(self) -> list[str]:
        """The lines as they stand there, when all that was written has come. Knows what is written here, and nothing else."""
        self.stream.write("\x05")
        self.stream.flush()
        self.looks += 1
        self.until(b"\x05", self.looks)
        text = self.written.replace(b"\x05", b"").decode()
        lines, row, column = [""], 0, 0
        while text:
            if text.startswith("\x1b[K"):
                lines[row], text = lines[row][:column], text[3:]
                continue
            mark, text = text[0], text[1:]
            if mark == "\r":
                column = 0
            elif mark == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                assert mark.isprintable(), f"{mark!r} is not known here"
                lines[row] = lines[row][:column].ljust(column) + mark + lines[row][column + 1 :]
                column += 1
        return lines

    def leave(self) -> None:
        """Close the window."""
        os.close(self.ours)
        self.ours = -1

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is still there
            self.stream.close()
        if self.ours >= 0:
            self.leave()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """Where is read, and where is written."""
    ours, theirs = os.pipe()
    stream = os.fdopen(theirs, "w")
    yield ours, stream
    stream.close()
    with suppress(OSError):  # closed by the test
        os.close(ours)


def test_line(terminal: Terminal) -> None:
    """One line is drawn over the one before, and at the end it is gone."""
    clock = Clock()
    with ProgressLine(stderr=terminal.stream, now=clock) as progress:
        progress.show(HALF)
        assert [LINE] == terminal.screen()
        clock.at += 1
        progress.show(DONE)
        assert ["[################]  100 %  10/10"] == terminal.screen()
    assert [""] == terminal.screen()
    progress.close()
    assert [""] == terminal.screen()


def test_seldom(terminal: Terminal) -> None:
    """It is drawn five times a second at most."""
    clock = Clock()
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    for step in range(100):
        clock.at = 100 + step / 100
        progress.show(Progress(done=step))
    terminal.screen()
    assert 5 == terminal.written.count(b"rows") + terminal.written.count(b"row ")


def test_saying(terminal: Terminal) -> None:
    """What is said stands above the line, and before and after it just the same."""
    progress = ProgressLine(stderr=terminal.stream)
    progress.say("before")
    progress.show(HALF)
    progress.say("one, which is longer than the line, as what is said may be, up to the last column")
    progress.say("two\nlines")
    assert [
        "before",
        "one, which is longer than the line, as what is said may be, up to the last column",
        "two",
        "lines",
        LINE,
    ] == (terminal.screen())
    progress.close()
    progress.say("after")
    assert ["two", "lines", "after", ""] == terminal.screen()[2:]


def test_finish(terminal: Terminal) -> None:
    """The summary takes the place of the line."""
    progress = ProgressLine(stderr=terminal.stream)
    progress.show(HALF)
    progress.finish(TALLY, HALF, out="answers.jsonl", resume="again")
    seen = terminal.screen()
    assert ("Stopped: 5 of 10 rows", "  output    answers.jsonl", "  go on     again", "") == (seen[0], *seen[-3:])
    assert LINE not in seen


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (len(LINE) + 1, LINE),
        (len(LINE), "50 %  5/10  2.0 rows/s  2 s left"),  # the last column stays free
        (12, "50 %  5/10"),
        (1, ""),
        (0, LINE),  # nobody has said: 80
    ],
)
def test_width(terminal: Terminal, columns: int, expected: str) -> None:
    """The line is as long as the window allows when it is drawn, also again below what is said."""
    clock = Clock()
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    progress.show(HALF)
    terminal.resize(columns)
    progress.say("x")
    assert ["x", expected] == terminal.screen()
    clock.at += 1
    progress.show(HALF)
    assert ["x", expected] == terminal.screen()


def test_width_that_is_not_told(terminal: Terminal) -> None:
    """Where a terminal does not tell its width it has 80 columns, of which the last stays free."""
    clock = Clock()
    terminal.resize(0)
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    for reason, expected in (("x" * 25, f"{LINE}  {'x' * 25}"), ("x" * 26, f"50 %  5/10  2.0 rows/s  2 s left  {'x' * 26}")):
        progress.show(msgspec.structs.replace(HALF, pause=reason))
        assert [expected] == terminal.screen()
        clock.at += 1


def test_dumb_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that can erase nothing gets what is said, and no line."""
    monkeypatch.setenv("TERM", "dumb")
    progress = ProgressLine(stderr=terminal.stream)
    progress.show(HALF)
    progress.say("x")
    assert ["x", ""] == terminal.screen()


def test_held_terminal(terminal: Terminal) -> None:
    """A terminal that is held, as by Ctrl-S, holds nobody up; when it goes on, so does the line."""
    progress = ProgressLine(stderr=terminal.stream, now=Clock())
    termios.tcflow(terminal.theirs, termios.TCOOFF)
    showing = threading.Thread(target=progress.show, args=(HALF,))
    showing.start()
    showing.join(20)
    held_up = showing.is_alive()
    termios.tcflow(terminal.theirs, termios.TCOON)
    showing.join(20)
    assert not held_up
    assert [""] == terminal.screen()
    progress.show(DONE)
    assert ["[################]  100 %  10/10"] == terminal.screen()


def test_terminal_goes_away(terminal: Terminal) -> None:
    """A window that is closed, or a connection that is lost, ends nothing."""
    clock = Clock()
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    progress.show(HALF)
    terminal.leave()
    clock.at += 1
    progress.show(HALF)
    progress.say("x")
    progress.finish(TALLY, DONE)


def test_stream_is_closed(terminal: Terminal) -> None:
    """A stream that is closed meanwhile ends nothing."""
    clock = Clock()
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    progress.show(HALF)
    terminal.stream.close()
    clock.at += 1
    progress.show(HALF)
    progress.say("x")
    progress.finish(TALLY, DONE)


SHOWS = """
import subprocess, sys
from gpt.batch.progress import Progress
from gpt.cli.progress_line import ProgressLine
with ProgressLine() as line:
    line.show(Progress(done=int(sys.argv[1])))
    line.say(f"said {sys.argv[1]}")
if sys.argv[2:]:
    subprocess.run([sys.executable, "-c", sys.argv[2], "8"], process_group=0, check=True)
"""


def test_background(terminal: Terminal) -> None:
    """Behind another program that has the terminal no line is drawn; what is said is."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHOWS, "7", SHOWS],
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
    )
    terminal.until(b"said 8")
    assert 0 == process.wait(20)
    assert b"7 rows" in terminal.written
    assert b"8 rows" not in terminal.written


def test_foreground_is_looked_at_each_time(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is sent to the background draws no more, and goes on when it comes back."""
    clock = Clock()
    progress = ProgressLine(stderr=terminal.stream, now=clock)
    monkeypatch.setattr("os.tcgetpgrp", lambda _: os.getpgrp() + 1)
    progress.show(HALF)
    assert [""] == terminal.screen()
    monkeypatch.setattr("os.tcgetpgrp", lambda _: os.getpgrp())
    progress.show(HALF)
    assert [LINE] == terminal.screen()


def test_pipe(pipe: tuple[int, TextIO]) -> None:
    """In a pipe there is only what is said, and the summary."""
    with ProgressLine(stderr=pipe[1]) as progress:
        progress.show(HALF)
        progress.say("said")
        progress.show(HALF)
        progress.finish(TALLY, DONE)
    assert ["said", "Finished: 10 rows"] == os.read(pipe[0], 4096).decode().splitlines()[:2]


def test_objects(pipe: tuple[int, TextIO], terminal: Terminal) -> None:
    """For programs there is an object a line on stdout, one a second at most; what is said goes to stderr, and no line."""
    clock = Clock()
    with ProgressLine(json=True, stdout=pipe[1], stderr=terminal.stream, now=clock) as progress:
        for step in range(25):
            clock.at = 100 + step / 10
            progress.show(HALF)
        progress.say("said")
        progress.finish(Tally(), DONE, out="nowhere\udcff", resume="x")
    made = [json.loads(text) for text in os.read(pipe[0], 65_536).decode().splitlines()]
    assert ["progress", "progress", "progress", "summary"] == [one["type"] for one in made]
    assert {"type": "progress"} | HALF.to_dict() == made[0]
    assert ("nowhere\udcff", True) == (made[3]["out"], made[3]["complete"])
    assert ["said", ""] == terminal.screen()


def test_each_object_at_once(pipe: tuple[int, TextIO]) -> None:
    """An object is there as soon as it is told."""
    progress = ProgressLine(json=True, stdout=pipe[1], stderr=io.StringIO())
    progress.show(HALF)
    assert select.select([pipe[0]], [], [], 0)[0]


def test_no_file_behind() -> None:
    """A stream of another kind is written to as any is."""
    stream = io.StringIO()
    ProgressLine(json=True, stdout=stream).show(HALF)
    assert 5 == json.loads(stream.getvalue())["done"]


def test_slow_reader(pipe: tuple[int, TextIO]) -> None:
    """A reader that does not read holds nobody up: what it could not take is dropped, and never in half."""
    os.set_blocking(pipe[1].fileno(), False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(pipe[1].fileno(), b"\n" * 4096)
    os.set_blocking(pipe[1].fileno(), True)
    progress = ProgressLine(json=True, stdout=pipe[1], stderr=io.StringIO(), now=Clock())
    showing = threading.Thread(target=progress.show, args=(HALF,))
    showing.start()
    showing.join(20)
    held_up = showing.is_alive()
    while filled:
        filled -= len(os.read(pipe[0], filled))
    showing.join(20)
    assert not held_up
    progress.show(DONE)
    assert 10 == json.loads(os.read(pipe[0], 4096))["done"]


LEFT = """
import sys
from gpt.batch.progress import Progress, Tally
from gpt.cli.progress_line import ProgressLine
line = ProgressLine(json=True)
sys.stdin.read()
for done in range(3):
    line._next = 0
    line.show(Progress(done=done))
line.finish(Tally(), Progress())
print("not seen by anybody")
print("to the end", file=sys.stderr)
"""


def test_reader_goes_away() -> None:
    """A reader that goes away ends nothing: the program goes on, and ends well and without a complaint."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    with process.stderr:
        assert "to the end\n" == process.stderr.read()
    assert 0 == process.wait(20)


def next_file() -> int:
    """The number that the next file gets."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def test_closed_pipe(pipe: tuple[int, TextIO]) -> None:
    """Where nobody reads any more all goes nowhere."""
    os.close(pipe[0])
    free = next_file()
    progress = ProgressLine(json=True, stdout=pipe[1], stderr=pipe[1])
    progress.show(HALF)
    progress.show(HALF)
    progress.say("x")
    assert os.stat(os.devnull).st_rdev == os.fstat(pipe[1].fileno()).st_rdev
    assert free == next_file(), "a file was left open"


class Full(io.StringIO):
    """A stream on a disk that is full at first."""

    full = True

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")


def test_full_disk() -> None:
    """What does not fit is dropped; later lines are written again."""
    stream = Full()
    progress = ProgressLine(json=True, stdout=stream, stderr=stream, now=Clock())
    progress.show(HALF)
    stream.truncate(stream.seek(0))
    stream.full = False
    progress.say("there is room again")
    assert "there is room again\n" == stream.getvalue()


def closed() -> TextIO:
    made = io.StringIO()
    made.close()
    return made


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("make", [lambda: None, closed])
def test_no_streams(make: Any, json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no streams, as after `2>&-`, or they are closed, nothing is told, and nothing is wrong."""
    monkeypatch.setattr(sys, "stderr", make())
    monkeypatch.setattr(sys, "stdout", make())
    with ProgressLine(json=json) as progress:
        progress.show(HALF)
        progress.say("x")
        progress.show(HALF)
        progress.finish(Tally(errors={"X": 1}), DONE)


def test_python_streams(capfd: pytest.CaptureFixture[str]) -> None:
    """What it writes to is Python's own, unless told otherwise."""
    tally = Tally()
    tally.add(Facts(1))
    with ProgressLine(json=True) as progress:
        progress.show(HALF)
        progress.say("said")
    with ProgressLine() as progress:
        progress.finish(tally, DONE)
    told = capfd.readouterr()
    assert "progress" == json.loads(told.out)["type"]
    assert ["said", "Finished: 10 rows", "  answered  1"] == told.err.splitlines()[:3]
