"""`gpt batch IN -o OUT`: each row of a file answered once.

The exit status is 0 where each row has an answer, 1 where not, 2 where the command is wrong, 130 after Ctrl-C or SIGTERM. What
is asked for goes to stdout: how a job stands (--status), and objects (--json). All else goes to stderr.
"""

from __future__ import annotations

import argparse
import os

from gpt.cli.commands import FAILED, INTERRUPTED, USAGE, WELL, box_answers, complain

TYPE_CHECKING = False  # not from `typing`, as in commands.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from gpt.batch.drive import Report
    from gpt.batch.progress import Progress
    from gpt.batch.rows import Row
    from gpt.cli.progress_line import ProgressLine
    from gpt.errors import InvalidRequestError


def arguments(made: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    made.usage = "%(prog)s IN -o OUT [options]\n       %(prog)s -o OUT --status"
    made.add_argument(
        "rows",
        nargs="?",
        metavar="IN",
        help="a .jsonl, .csv, .tsv (each also .gz) or .parquet file, a folder of such, or - for JSON lines on stdin; rows are "
        "prompts, requests, lines of the service's batch format, or any objects with --prompt",
    )
    made.add_argument("-o", "--out", required=True, metavar="OUT", help="a .jsonl or .parquet file, or a folder of parts")
    made.add_argument("--json", action="store_true", help="print JSON objects on stdout: progress, and the summary")
    made.add_argument("-q", "--quiet", action="store_true", help="say what goes wrong, and nothing else")

    asked = made.add_argument_group("what is asked")
    asked.add_argument("-m", "--model", help="the model, whatever rows say")
    asked.add_argument("-p", "--prompt", metavar="TEXT", help='a template with fields of the row, as in "Summarise: {text}"')
    asked.add_argument("--prompt-file", metavar="FILE", help="the template in a file")
    asked.add_argument("-s", "--system", metavar="TEXT", help="instructions for each row; a template too")
    asked.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of each call, as in temperature=0"
    )
    asked.add_argument("--schema", metavar="JSON", help="a JSON Schema, or a file with one: each answer is such a value")
    asked.add_argument("--reasks", type=int, default=0, metavar="N", help="times to ask again for a value (default 0)")
    asked.add_argument("--dedupe", action="store_true", help="ask equal requests once")
    asked.add_argument("--input-format", metavar="KIND", help="jsonl, csv, tsv or parquet, where the name does not tell")

    written = made.add_argument_group("what is written")
    written.add_argument(
        "--write",
        dest="output",
        default="rows",
        choices=("rows", "completions", "batch"),
        help="rows (default), rows with the whole completions, or the service's batch output and errors files",
    )
    written.add_argument("--parts", dest="form", choices=("jsonl", "parquet"), help="what a folder has (default jsonl)")
    written.add_argument(
        "--keep", metavar="NAMES", help='fields of a row that stand with its answer: a,b; "*" for all, "" for none'
    )

    who = made.add_argument_group("who answers (the key is the environment's OPENAI_API_KEY)")
    who.add_argument(
        "--base-url",
        action="append",
        default=[],
        metavar="URL",
        help='a server, "local:" or "local:/model.gguf"; given again, the next is asked where the one before fails',
    )
    who.add_argument(
        "--api-key-file", action="append", default=[], metavar="FILE", help="the key of a server; of the second, given again"
    )
    who.add_argument("--profile", metavar="NAME", help="what kind of server it is, as in vllm")
    who.add_argument("--adapt", action="store_true", help="fix the parameter that it says it does not take, and ask again")
    who.add_argument("--price", metavar="IN,OUT", help="what a million tokens cost in dollars, as in 0.25,2")

    engine = made.add_argument_group("the model in this process")
    engine.add_argument("--slots", type=int, metavar="N", help="calls at a time (default 4)")
    engine.add_argument("--context", type=int, metavar="N", help="tokens of one call, prompt and answer together")
    engine.add_argument("--threads", type=int, metavar="N", help="CPU threads (default one a core)")

    _how(made)


def _how(made: argparse.ArgumentParser) -> None:
    """Those that change no answer."""
    pace = made.add_argument_group("how fast")
    pace.add_argument("--concurrency", type=int, metavar="N", help="rows asked at a time at most (default 256, or the slots)")
    pace.add_argument("--rpm", type=float, metavar="N", help="requests a minute at most")
    pace.add_argument("--tpm", type=float, metavar="N", help="tokens a minute at most")
    pace.add_argument("--input-tpm", type=float, metavar="N", help="tokens of prompts a minute at most")
    pace.add_argument("--output-tpm", type=float, metavar="N", help="tokens of answers a minute at most")

    wrong = made.add_argument_group("what goes wrong")
    wrong.add_argument("--timeout", type=float, metavar="S", help="seconds that an attempt may take")
    wrong.add_argument("--retries", type=int, metavar="N", help="further attempts within one call (default 2)")
    wrong.add_argument("--attempts", type=int, metavar="N", help="calls for a row that the service fails (default 4)")
    wrong.add_argument("--give-up", metavar="TIME", help="stop when the service is away for so long (default 10m)")

    ends = made.add_argument_group("when it stops, to go on later")
    ends.add_argument("--max-cost", metavar="N", help="before the job costs more, all its runs together")
    ends.add_argument("--max-tokens", type=int, metavar="N", help="before it takes more tokens")
    ends.add_argument("--deadline", metavar="TIME", help="after so long: 90, 30m, 12h, 2d")
    ends.add_argument("--limit", type=int, metavar="N", help="after the first rows: to try them")

    again = made.add_argument_group("a job that is there")
    again.add_argument("--status", action="store_true", help="say how it stands, and do nothing")
    again.add_argument("--retry-failed", action="store_true", help="ask the rows again that failed")
    again.add_argument("--fork", action="store_true", help="begin a job that was changed under another name, OUT-2")

    where = made.add_argument_group("where it works")
    where.add_argument("--executor", choices=("processes", "ray"), help="other processes, or Ray (default: this process)")
    where.add_argument("--workers", type=int, metavar="N", help="how many of them")
    where.add_argument("--shard", metavar="I/N", help="work as task I, from 0, of N; slurm: as its array's variables say")
    where.add_argument("--shard-rows", type=int, metavar="N", help="rows of a shard (default 1000, more of very many)")


def batch(options: argparse.Namespace) -> int:
    """Do the job, or go on with it. Gives the exit status."""
    from gpt.errors import InvalidRequestError

    try:
        return _status(options) if options.status else _run(options)
    except InvalidRequestError as error:
        complain(_by_option(error, options))
        return USAGE
    except _LeftError:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from contextlib import closing

    from gpt.batch.run import drive
    from gpt.cli.progress_line import ProgressLine

    shown = ProgressLine(json=options.json)
    with shown, closing(_Interrupts(shown, quiet=options.quiet)) as interrupts:
        rows, settings = _rows(options, interrupts), _settings(options)
        settings["progress"] = (lambda _: None) if options.quiet else shown.show
        report = drive(rows, options.out, settings, interrupts)
        if options.json:
            shown.finish(report.tally, report.last, out=report.out)
        elif not options.quiet:
            shown.finish(report.tally, _in_words(report.last), out=report.out, resume=_resume(report))
        elif not report.done or report.failed:
            shown.say(f"gpt: {_trouble(report)}")
    if report.stopped == "interrupted":
        return INTERRUPTED
    return WELL if report.done and not report.failed else FAILED


def _status(options: argparse.Namespace) -> int:
    """Say how a job stands."""
    from gpt.batch.drive import status
    from gpt.batch.progress import summary, summary_dict

    report = status(options.out)
    if options.json:
        import msgspec

        told = summary_dict(report.tally, report.last, out=report.out)
        for name in ("elapsed", "earlier", "rows_per_second"):  # of a run, and this is none
            del told[name]
        print(msgspec.json.encode({"type": "status"} | told).decode(), flush=True)
    else:
        works = report.stopped == "at work"
        print(
            summary(
                report.tally,
                report.last,
                out=report.out,
                standing="Finished" if report.done else "At work" if works else "Not finished",
                **({"resume": "", "retry": ""} if works else {}),
            ),
            flush=True,
        )
    return WELL if report.done and not report.failed else FAILED


# --------------------------------------------------------------------------------------------------------------------
# What is said
# --------------------------------------------------------------------------------------------------------------------

_OPTIONS = {
    "rows": "IN",
    "out": "-o",
    "into": "--schema",
    "output": "--write",
    "form": "--parts",
    "format": "--input-format",
    "client": "--base-url",
    "server_url": "--base-url",
    "max_retries": "--retries",
    "requests_per_minute": "--rpm",
    "tokens_per_minute": "--tpm",
    "input_tokens_per_minute": "--input-tpm",
    "output_tokens_per_minute": "--output-tpm",
}
"""What is called otherwise here than in Python."""

_SAME = frozenset(
    {
        *(
            "model",
            "prompt",
            "system",
            "reasks",
            "dedupe",
            "keep",
            "profile",
            "adapt",
            "timeout",
            "slots",
            "context",
            "threads",
        ),
        *("concurrency", "attempts", "give_up", "max_cost", "max_tokens", "deadline", "limit", "retry_failed", "fork"),
        *("executor", "workers", "shard", "shard_rows"),
    }
)


def _by_option(error: InvalidRequestError, options: argparse.Namespace) -> str:
    """What is wrong, by the option that said so."""
    name = error.param or ""
    option = _OPTIONS.get(name) or (f"--{name.replace('_', '-')}" if name in _SAME else name)
    if name == "prompt" and options.prompt_file is not None:
        option = "--prompt-file"
    if any(name == text.partition("=")[0] for text in options.param) and not (name == "max_tokens" and options.max_tokens):
        option = f"--param {name}"
    message, head = str(error), f"{name}: "
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    return (f"{option}: {message.removeprefix(head)}" if message.startswith(head) else message) + notes


def _in_words(last: Progress) -> Progress:
    """The last moment, with why it stopped as the option that said so."""
    import msgspec

    why = {"elsewhere": "other tasks are not done"}.get(last.stopped or "", last.stopped)
    if why in ("limit", "deadline", "max_cost", "max_tokens"):
        why = f"--{why.replace('_', '-')}"
    return msgspec.structs.replace(last, stopped=why)


def _resume(report: Report) -> str:
    """How to go on."""
    match report.stopped:
        case "limit":
            return "the same command without --limit does the rest"
        case "max_cost" | "max_tokens" as name:
            return f"the same command with a higher --{name.replace('_', '-')}, or without it"
        case "elsewhere":
            return "the last task to end finishes the job"
    return "the same command again does the rest"


def _trouble(report: Report) -> str:
    """What went wrong, in a line."""
    from gpt.batch.progress import summary

    lines = summary(report.tally, _in_words(report.last)).splitlines()
    failed = [line.split(None, 1)[1] for line in lines if line.startswith("  failed ")]
    return f"{lines[0]}{f'; failed {failed[0]}' if failed else ''}"


class _Interrupts:
    """Told of each Ctrl-C and SIGTERM, in the thread that draws. `heard` can be read from when there was one."""

    def __init__(self, shown: ProgressLine, *, quiet: bool, leave: Callable[[int], object] = os._exit) -> None:
        self._shown = shown
        self._quiet = quiet
        self._leave = leave
        self._times = 0
        self.heard, self._told = os.pipe()

    def __call__(self) -> None:
        self._times += 1
        os.write(self._told, b".")
        if self._times == 1 and not self._quiet:
            self._shown.say("gpt: stopping when what is under way has ended; once more stops at once")
        if self._times > 2:  # something holds it up, as a disk that hangs; all that is kept is on the disk by now
            self._shown.close()
            self._leave(INTERRUPTED)

    def close(self) -> None:
        os.close(self.heard)
        os.close(self._told)


# --------------------------------------------------------------------------------------------------------------------
# What is asked
# --------------------------------------------------------------------------------------------------------------------


def _wrong(option: str, what: str) -> InvalidRequestError:
    from gpt.errors import InvalidRequestError

    return InvalidRequestError(f"{option}: {what}", param=option)


def _settings(options: argparse.Namespace) -> Any:
    """The options as settings of `gpt.batch.run`."""
    from gpt.batch.drive import BatchSettings

    given = vars(options)
    same = {name: given[name] for name in BatchSettings.__optional_keys__ & given.keys()}
    if options.prompt is not None and options.prompt_file is not None:
        raise _wrong("--prompt-file", "another way to say --prompt; give one")
    if options.prompt_file is not None:
        same["prompt"] = _text_of(options.prompt_file, "--prompt-file").removesuffix("\n")
    return same | {
        "client": _client(options),
        "params": dict(_param(text) for text in options.param),
        "into": None if options.schema is None else _schema(options.schema),
        "keep": None if options.keep is None else [name for name in options.keep.split(",") if name],
        "format": None if options.rows == "-" and options.input_format == "jsonl" else options.input_format,
        "requests_per_minute": options.rpm,
        "tokens_per_minute": options.tpm,
        "input_tokens_per_minute": options.input_tpm,
        "output_tokens_per_minute": options.output_tpm,
        "deadline": _seconds(options.deadline, "--deadline"),
        "give_up": _seconds(options.give_up, "--give-up"),
        "shard": _task(options.shard),
    }


def _text_of(path: str, option: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise _wrong(option, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _wrong(option, f"{path} is no text in UTF-8") from error


def _param(text: str) -> tuple[str, Any]:
    """A name and a value, which is JSON where it can be read so, else the text."""
    import msgspec

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise _wrong("--param", f"expected NAME=VALUE, as in temperature=0, got {text!r}")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _schema(given: str) -> dict[str, Any]:
    """A JSON Schema, from a file or as it is."""
    import msgspec

    text = given if given.lstrip().startswith("{") else _text_of(given, "--schema")
    try:
        made: dict[str, Any] = msgspec.json.decode(text, type=dict)
        return made
    except msgspec.DecodeError as error:
        raise _wrong("--schema", f"not a JSON Schema: {error}") from error


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: str | None, option: str) -> float | None:
    """Seconds in "90", "30m", "12h", "2d"."""
    import re

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip(), re.ASCII)
    if found is None:
        raise _wrong(option, f"expected a time such as 90, 30m, 12h or 2d, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def _task(text: str | None) -> tuple[int, int] | None:
    """A task's number and how many there are, from "3/16", or what Slurm says of an array."""
    import re

    if text is None:
        return None
    if text == "slurm":
        try:
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            number, of = int(os.environ["SLURM_ARRAY_TASK_ID"]), int(os.environ["SLURM_ARRAY_TASK_COUNT"])
            return (number - first) // step, of
        except (KeyError, ValueError, ZeroDivisionError):
            raise _wrong(
                "--shard",
                "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT are not set; is this a task of an array (sbatch --array)?",
            ) from None
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if found is None:
        raise _wrong("--shard", f"expected I/N, as in 3/16, or slurm, got {text!r}")
    return int(found[1]), int(found[2])


# --------------------------------------------------------------------------------------------------------------------
# Rows on stdin
# --------------------------------------------------------------------------------------------------------------------


class _LeftError(Exception):
    """Nobody waits any more for rows that have not come."""


def _rows(options: argparse.Namespace, interrupts: _Interrupts) -> str | Iterator[Row]:
    """What has the rows."""
    given: str | None = options.rows
    if given is None:
        raise _wrong("IN", "missing: a file of rows, a folder of such files, or - for stdin")
    if options.out == "-":
        raise _wrong("-o", "- would be stdout, which is no place for a job that goes on; name a file or a folder")
    if given == "-":
        return _on_stdin(interrupts)
    if not os.path.exists(given):
        raise _wrong("IN", f"there is no {given}")
    return given


def _on_stdin(interrupts: _Interrupts) -> Iterator[Row]:
    """The rows on stdin; those that cannot be read have a problem, as those of a file have."""
    import io
    import select

    from gpt.batch.text import lines, rows_in

    class Stdin(io.RawIOBase):
        """Waits for what comes, until a signal does."""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if any(file == interrupts.heard for file, _ in ready.poll()):
                raise _LeftError
            return os.readv(0, [buffer])

    ready = select.poll()
    for file in (0, interrupts.heard):
        ready.register(file, select.POLLIN)
    given: Any = io.BufferedReader(Stdin(), 1 << 20)
    with given:
        if given.peek(3)[:3] == b"\xef\xbb\xbf":
            given.read(3)
        yield from rows_in(lines(given))


# --------------------------------------------------------------------------------------------------------------------
# Who answers
# --------------------------------------------------------------------------------------------------------------------


def _client(options: argparse.Namespace) -> Any:
    """What makes the client, here and in each process that works."""
    from functools import partial

    urls = options.base_url
    if not urls and not options.api_key_file and not os.environ.get("OPENAI_API_KEY") and not os.environ.get("OPENAI_BASE_URL"):
        urls = ["local:"]
        box_answers()
    if not all(url.strip() for url in urls):
        raise _wrong("--base-url", "is empty")
    if options.timeout is not None and not options.timeout > 0:
        raise _wrong("--timeout", f"expected seconds above 0, got {options.timeout:g}")
    servers = [url for url in urls if not url.startswith("local:")] if urls else [""]
    remote = {
        "profile": options.profile,
        "adapt": options.adapt or None,
        "max_retries": options.retries,
        "timeout": options.timeout,
    }
    engine = {name: getattr(options, name) for name in ("slots", "context", "threads") if getattr(options, name) is not None}
    for name in ("profile", "adapt", "max_retries"):
        if remote[name] is not None and not servers:
            raise _wrong(_OPTIONS.get(name, f"--{name}"), "is for a server, and the model in this process answers")
    for name in engine:
        if len(servers) == len(urls or [""]):
            raise _wrong(f"--{name}", 'is for a model in this process (--base-url "local:"), and a server answers')
    if len(options.api_key_file) > len(servers):
        raise _wrong("--api-key-file", "more of them than servers")
    for path in options.api_key_file:
        _key(path)
    if options.price is not None:
        _prices(options.price)
    given = {name: value for name, value in remote.items() if value is not None}
    return partial(made_client, tuple(urls), given, engine, tuple(options.api_key_file), options.price)


def made_client(
    urls: Sequence[str],
    remote: dict[str, Any],
    engine: dict[str, Any],
    keys: Sequence[str] = (),
    price: str | None = None,
) -> Any:
    """The client for these URLs; of none, that of the environment. `keys` are files with those of the servers, in order."""
    from gpt.client import AsyncGpt

    prices = None if price is None else _prices(price)
    left = iter(keys)
    made = [_one(url, remote, engine, prices, left) for url in urls or (None,)]
    if len(made) == 1:
        return made[0]
    from gpt.fallback import AsyncFallback

    return AsyncGpt(backend=AsyncFallback(made), prices=prices)


def _one(url: str | None, remote: dict[str, Any], engine: dict[str, Any], prices: Any, keys: Iterator[str]) -> Any:
    from gpt.client import AsyncGpt

    if url is not None and url.startswith("local:"):
        from gpt.local.backend import Local

        return AsyncGpt(
            backend=Local(url.removeprefix("local:").removeprefix("//"), **engine), timeout=remote.get("timeout"), prices=prices
        )
    path = next(keys, None)
    return AsyncGpt(None if path is None else _key(path), server_url=url, prices=prices, **remote)


def _key(path: str) -> str:
    """The first key in a file, less what is behind #. It is read where it is needed, and goes to no other process."""
    for line in _text_of(path, "--api-key-file").splitlines():
        key = line.partition("#")[0].strip()
        if key:
            return key
    raise _wrong("--api-key-file", f"{path} has no key in it")


def _prices(text: str) -> Any:
    """Prices of whatever model, from "0.25,2"."""
    from gpt.errors import InvalidRequestError
    from gpt.prices import Price, Prices

    given, comma, answer = text.partition(",")
    try:
        return Prices({"*": Price(input=given.strip(), output=answer.strip() if comma else "")})
    except InvalidRequestError:
        raise _wrong("--price", f"expected two amounts a million tokens, as in 0.25,2, got {text!r}") from None
