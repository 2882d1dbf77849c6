"""Many conversations, each answered exactly once: `gpt.batch.run(rows, out)`, over any client, to be resumed after anything.

    import gpt.batch
    report = gpt.batch.run("rows.jsonl", "answers.jsonl", client="local:", prompt="Summarise: {text}")

A job is cut into shards of rows. Each has a journal, to which a line is appended as soon as a row is answered, and becomes a
part of the output by a rename. So one output row comes of each row of the input, and a request is paid twice only if it was
under way when the process died. `docs/batch.md` has all of it.
"""

from gpt.batch.drive import BatchSettings as BatchSettings
from gpt.batch.drive import DifferentError as DifferentError
from gpt.batch.drive import Report as Report
from gpt.batch.drive import read as read
from gpt.batch.drive import status as status
from gpt.batch.jobs import Output as Output
from gpt.batch.journal import BusyError as BusyError
from gpt.batch.processes import Doing as Doing
from gpt.batch.processes import Executor as Executor
from gpt.batch.processes import Processes as Processes
from gpt.batch.progress import Progress as Progress
from gpt.batch.progress import Tally as Tally
from gpt.batch.run import arun as arun
from gpt.batch.run import run as run

__all__ = [
    "BatchSettings",
    "BusyError",
    "DifferentError",
    "Doing",
    "Executor",
    "Output",
    "Processes",
    "Progress",
    "Report",
    "Tally",
    "arun",
    "read",
    "run",
    "status",
]
