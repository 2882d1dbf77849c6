"""`run` and `arun`: a job from its rows to its output, begun or gone on with."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpt.batch.drive import BatchSettings, Drive, Report
from gpt.errors import InvalidRequestError

if TYPE_CHECKING:
    from typing import Unpack


def run(rows: Any, out: str | os.PathLike[str], **settings: Unpack[BatchSettings]) -> Report:
    """Have each of `rows` answered once, and write an output row for each to `out`; go on with a job that is there already.

    `rows` are a path (JSONL, CSV, TSV, Parquet, or a folder of such files), or any iterable, a Hugging Face dataset among them:
    each a text, a request, a line of the service's batch file format, or any object where there is a `prompt`, which is a
    template such as "Summarise: {text}", or a function of the row. `out` is a file (.jsonl, .parquet) or a folder of parts.

    What is asked: `client` (an AsyncGpt, a Gpt, a Backend, a URL, several of these, or a function that gives one, which is
    needed where other processes work; None: by the environment), `model`, `system` (a template), `params` (parameters of the
    protocol, over what rows say), `into` (a type or a JSON Schema, whose values the answers become) and `reasks`.

    What is written: `output` ("rows", "completions" with all of each answer, "batch" as the service does), `keep` (fields of a
    row that stand with its answer; "*" all), `form` ("jsonl", "parquet"). `format` is that of the input, where its name does
    not tell.

    How fast: `concurrency` (rows asked at a time at most; what the server bears is found out below that), and what all may ask
    for in a minute. How long: `max_cost` and `max_tokens` of the whole job, `deadline` (seconds of this run) and `limit` (only
    the first rows) stop it cleanly. A row that the service or the network failed is asked `attempts` times, each with the
    client's own retries; a service that is away for `give_up` seconds stops the job.

    A job that was stopped, or whose process died, goes on when it is run again: nothing is asked twice but what was under way.
    One whose answers would be others than those that are there is refused; with `fork` it begins under another name (`out-2`).
    `retry_failed` asks failed rows again; `dedupe` asks equal requests once.

    Where: `executor` is None (this process), "processes", "ray", or an Executor, with so many `workers`; `shard=(3, 16)` works
    on what the fourth of sixteen tasks has to do, such as those of a Slurm array.

    `progress` is called about twice a second, and at the end. Ctrl-C stops when what is under way has ended, a second one at
    once; KeyboardInterrupt is raised then. Raises InvalidRequestError, GptError for what stops a job, OSError.
    """
    report = drive(rows, out, settings)
    if report.stopped == "interrupted":
        raise KeyboardInterrupt
    return report


async def arun(rows: Any, out: str | os.PathLike[str], **settings: Unpack[BatchSettings]) -> Report:
    """`run` on asyncio. Cancelling it stops at once."""
    return await Drive(rows, out, settings).run()


def drive(
    rows: Any, out: str | os.PathLike[str], settings: BatchSettings, interrupted: Callable[[], object] | None = None
) -> Report:
    """`run`, but that Ctrl-C and SIGTERM are told in the report; `interrupted` is called at each of them."""
    made = Drive(rows, out, settings)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise InvalidRequestError("run: an event loop is running in this thread, as in a notebook: await gpt.batch.arun(...)")

    def interrupt() -> None:
        made.interrupt()
        if interrupted is not None:
            interrupted()

    async def main() -> Report:
        loop = asyncio.get_running_loop()
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.getsignal(number)
                loop.add_signal_handler(number, interrupt)
        try:
            return await made.run()
        finally:
            for one, handler in before.items():
                loop.remove_signal_handler(one)
                if handler is not None:  # None: it was not set by Python, which cannot set it again
                    signal.signal(one, handler)

    with asyncio.Runner(loop_factory=quick_loop()) as runner:
        return runner.run(main())


def quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop, where it is installed, which takes less for each row; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
