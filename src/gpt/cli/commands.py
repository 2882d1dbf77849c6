"""The command line: parse, call the library, print. No logic of its own.

Answers go to stdout, everything else to stderr. Exit codes: 0 well, 1 the call failed, 2 wrong usage, 3 the model refused,
130 Ctrl-C, 141 the reader of the pipe went away.
"""

from __future__ import annotations

import argparse
import os
import sys

TYPE_CHECKING = False  # not from `typing`, whose import is a good part of what `gpt --help` takes
if TYPE_CHECKING:
    from typing import Any

    from gpt.client import Gpt

WELL, FAILED, USAGE, REFUSED, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141

_TOP = """\
usage: gpt [options] PROMPT        answer a prompt; what comes on stdin is joined to it
       gpt chat [options]          hold a conversation
       gpt serve [options] TARGET  answer the same protocol over HTTP
       gpt batch IN -o OUT         answer each row of a file once, and go on after anything
       gpt check [options] URL     say what a server honours, refuses, ignores and gets wrong
"""

COMMANDS = ("chat", "serve", "batch", "check")
"""Those that have a word of their own; anything else is a prompt."""


_ABOUT = {
    "serve": "Answer chat completions over HTTP, by the model in the box, a GGUF file, or a server behind this one.",
    "batch": "Answer each row of a file once. The same command again goes on with a job that was stopped, or died.",
    "check": "Say of any chat-completions server what it honours, refuses, ignores silently and gets wrong.",
}


def parser(command: str) -> argparse.ArgumentParser:
    """The parser of `command`: "ask" (the default) or one of COMMANDS."""
    made = argparse.ArgumentParser(
        prog="gpt" if command == "ask" else f"gpt {command}",
        description=_ABOUT.get(command, "Answer a prompt, or hold a conversation (gpt chat)."),
        usage=None if command != "ask" else _TOP.removeprefix("usage: ").rstrip(),
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=_width()),
    )
    if command in ("serve", "batch", "check"):
        _module(command).arguments(made)
        return made
    if command == "ask":
        made.add_argument("prompt", nargs="*", metavar="PROMPT", help="the question; words are joined by spaces")
    made.add_argument("-m", "--model", help="the model; with local:, any name will do")
    made.add_argument("-s", "--system", metavar="TEXT", help="instructions that hold for the whole conversation")
    made.add_argument(
        "--base-url", metavar="URL", help='a server such as http://127.0.0.1:8080/v1, or "local:" for the model in the box'
    )
    made.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    if command == "ask":
        made.add_argument("--json", action="store_true", help="print the completion as one JSON object")
    made.add_argument("--version", action="store_true", help="print the version")
    return made


def _module(command: str) -> Any:
    """The file of a command, which has a function of its name."""
    from importlib import import_module

    return import_module(f"gpt.cli.{command}")


def _width() -> int:
    """Columns for the help. argparse would import `shutil`, and three compressors with it, to ask the same."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size().columns) - 2
    except (ValueError, OSError):
        return 78


def run(arguments: list[str]) -> int:
    """Run one command. Gives the exit code."""
    command = arguments[0] if arguments[:1] and arguments[0] in COMMANDS else "ask"
    options = parser(command).parse_args(arguments if command == "ask" else arguments[1:])
    if getattr(options, "version", False):
        from gpt.version import __version__

        print(f"gpt {__version__}")
        return WELL
    from gpt.errors import ContentPolicyError, GptError

    try:
        status: int = getattr(_module(command), command)(options)
        return status
    except ContentPolicyError as error:
        complain(error)
        return REFUSED
    except GptError as error:
        complain(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone. Python would flush stdout once more at exit and complain; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return FAILED


def complain(error: Exception | str) -> None:
    """Say on stderr what went wrong, and what is noted of it."""
    for text in (error, *getattr(error, "__notes__", ())):
        print(f"gpt: {text}", file=sys.stderr)


def box_answers() -> None:
    """Say on stderr that the model in the box answers."""
    print(
        "gpt: no OPENAI_API_KEY and no --base-url, so the model in the box answers (135 million parameters: "
        "for trying things, not for facts)",
        file=sys.stderr,
    )


def client(options: argparse.Namespace) -> Gpt:
    """The client that the options and the environment ask for.

    With no key and no server in either, the model in the box answers, and a line on stderr says so.
    """
    from gpt.client import Gpt

    url = options.base_url
    if url is None and not os.environ.get("OPENAI_API_KEY") and not os.environ.get("OPENAI_BASE_URL"):
        url = "local:"
        box_answers()
    return Gpt(server_url=url, model=options.model)
